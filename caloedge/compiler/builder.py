"""A graph in the making: operations with fresh names, each proven as soon as it is added."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from caloedge.compiler.ops import Op
from caloedge.compiler.ranges import Tensor, infer
from caloedge.errors import Unsupported

MAX_TOTAL_ELEMENTS = 2**26
"""Most elements of all results together: each keeps its exact range, 16 bytes an element, in three copies of the network."""


@dataclass
class Builder:
    """Operations so far, in order."""

    reserved: frozenset[str]
    """Names that no operation may take: those of the network's inputs and outputs."""
    ops: dict[str, Op] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)
    elements: int = 0
    """Number of elements of all results together."""
    _numbers: dict[str, int] = field(default_factory=dict)
    """The last number that a kind of operation got."""

    def new_name(self, kind: str) -> str:
        """Return the next free operation name, e.g. `conv_2`."""
        number = self._numbers.get(kind, 1)
        while (name := f"{kind}_{number}") in self.ops or name in self.reserved:
            number += 1
        self._numbers[kind] = number
        return name

    def add(self, op: Op) -> str:
        """Append an operation and return its name; raise `Unsupported` when its result cannot be proven to fit."""
        tensor = infer(op, [self.tensors[name] for name in op.inputs])
        if self.elements + tensor.size > MAX_TOTAL_ELEMENTS:
            raise Unsupported(
                f"layer {op.name}: with it, the network has more than {MAX_TOTAL_ELEMENTS:,} elements in all layers together; "
                "use a smaller network"
            )
        self.elements += tensor.size
        self.tensors[op.name], self.ops[op.name] = tensor, op
        return op.name

    def needed(self, outputs: Iterable[str]) -> tuple[Op, ...]:
        """Return the operations that these results depend on, in order."""
        names = set(outputs)
        for op in reversed(self.ops.values()):
            if op.name in names:
                names.update(op.inputs)
        return tuple(op for op in self.ops.values() if op.name in names)
