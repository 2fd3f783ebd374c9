"""Memory of a generated emulator: the number type of each tensor's rows, and the places of one block's buffers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from caloedge.compiler.fixed import Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.kernels import FLOAT32_EXACT
from caloedge.compiler.ops import (
    Condense,
    Conv,
    Dense,
    InputQuantiser,
    Nearest,
    Op,
    Output,
    Requantise,
    Reshape,
    Take,
    first_halves,
)
from caloedge.compiler.ranges import FLOAT64_EXACT, Tensor

EVENTS = 32
"""Events of a block; the same number stands in caloedge_emulator.h."""
ALIGNMENT = 64
SIZES = {"float": 4, "double": 8, "int16_t": 2, "int32_t": 4, "int64_t": 8}
ROUNDED_EXACT = {"float": 2**22, "double": 2**51}
"""Largest results that floating point can round by an addition."""


@dataclass(frozen=True)
class Buffer:
    """Rows of one tensor in the memory of a block."""

    type: str
    elements: int
    offset: int
    """First byte."""

    @property
    def size(self) -> int:
        """Bytes, with what alignment adds."""
        return buffer_bytes(self.type, self.elements)

    @property
    def pointer(self) -> str:
        """The rows in C++, in a block's memory."""
        return f"reinterpret_cast<{self.type} *>(memory + {self.offset})"


@dataclass(frozen=True)
class MemoryLayout:
    """The memory of one block."""

    buffers: Mapping[str, Buffer]
    """Buffer of each operation; those that only rename share the buffer of what they read, and fused sums have none."""
    scratch: Mapping[str, Buffer]
    """What one operation alone uses: copies with zero borders of convolutions, nodes as integers of searches among them."""
    fused: Mapping[str, Requantise]
    """The rounding that is applied to sums before they are stored, by the operation that makes the sums."""
    order: tuple[Op, ...]
    """The order in which the operations run: that of the graph, with both halves of a search among nodes one after the other."""
    first_half: Mapping[str, str]
    """Operations that are calculated together with the second half, by its name."""
    size: int
    """Bytes."""


def number_type(bound: int) -> str:
    """Return the fastest C++ number type that holds every integer up to `bound` exactly."""
    return "float" if bound < FLOAT32_EXACT else "double" if bound < FLOAT64_EXACT else "int64_t"


def code_type(low: int, high: int) -> str:
    """Return the narrowest C type that holds every code in [low, high].

    >>> code_type(0, 4095), code_type(-128, 127), code_type(-1, 255)
    ('uint16_t', 'int8_t', 'int16_t')
    """
    for width in (8, 16, 32):
        if low >= 0 and high < 1 << width:
            return f"uint{width}_t"
        if -(1 << (width - 1)) <= low and high < 1 << (width - 1):
            return f"int{width}_t"
    return "int64_t"


def rounding_type(op: Requantise, x: Tensor) -> str | None:
    """Return the floating-point type that rounds exactly as `op` does, or None where only integers do."""
    shift, largest = x.format.fraction - op.format.fraction, max(abs(op.low), abs(op.high))
    if op.rounding is not Rounding.HALF_EVEN or abs(shift) >= 64:
        return None
    exact = {"float": x.bound < FLOAT32_EXACT, "double": x.bound < FLOAT64_EXACT}
    return next((name for name, limit in ROUNDED_EXACT.items() if exact[name] and largest <= limit), None)


def padded_shape(op: Conv, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape (C, *sizes) of a convolution's input with its zero borders."""
    axes = len(op.kernel)
    return (shape[0], *(size + op.padding[i] + op.padding[axes + i] for i, size in enumerate(shape[1:])))


def buffer_bytes(number: str, elements: int) -> int:
    """Return the bytes of a buffer: a multiple of the alignment."""
    return -(-elements * EVENTS * SIZES[number] // ALIGNMENT) * ALIGNMENT


def key_type(op: Nearest, x: Tensor) -> str:
    """Return the narrowest integer type that holds coordinates, their distances and the keys of a search: 16 bits are fastest."""
    spans = x.high.max(axis=0) - x.low.min(axis=0)
    largest = max(int(spans.sum()), x.bound, (op.reach + 1) << index_bits(x))
    return next((name for name, bits in (("int16_t", 15), ("int32_t", 31)) if largest < 1 << bits), "int64_t")


def index_bits(x: Tensor) -> int:
    """Return how many bits number the nodes with coordinates `x` (N, D)."""
    return (x.shape[0] - 1).bit_length()


def condense_type(op: Condense, tensors: Mapping[str, Tensor]) -> str:
    """Return the fastest number type that holds scores and distances of condensation points, and one code below them."""
    score, x = (tensors[name] for name in op.inputs[:2])
    spans = x.high.max(axis=0) - x.low.min(axis=0)
    return number_type(max(score.bound + 1, abs(op.threshold), int(spans.sum()), x.bound, op.apart))


def scratch_of(op: Op, tensors: Mapping[str, Tensor]) -> tuple[str, int] | None:
    """Return number type and elements of the memory that one operation alone uses, if it needs any."""
    match op:
        case Conv() if any(op.padding):
            x = tensors[op.inputs[0]]
            return number_type(x.bound), math.prod(padded_shape(op, x.shape))
        case Nearest():
            x = tensors[op.inputs[0]]
            return key_type(op, x), x.shape[0] * (x.shape[1] + 1)
        case Take():  # with a row of zeros, and room for vectors of up to 64 bytes in which features lie side by side
            x = tensors[op.inputs[0]]
            lanes = ALIGNMENT // SIZES[number_type(x.bound)]
            return number_type(x.bound), (x.shape[0] + 1) * -(-x.shape[1] // lanes) * lanes
        case Condense():
            return condense_type(op, tensors), tensors[op.inputs[0]].size
        case _:
            return None


def plan(graph: Graph) -> MemoryLayout:
    """Lay the buffers of all tensors out in memory, reusing the place of those that nothing reads any more."""
    fused = _fused(graph)
    skipped = {op.name: sums for sums, op in fused.items()}
    owner: dict[str, str] = {}  # the operation whose buffer holds each result
    last_use: dict[str, int] = {}
    first_half = first_halves(graph.ops)
    ops = _in_order(graph, first_half)

    def read_by(op: Op) -> tuple[str, ...]:
        """Return what an operation reads; the first half of what it is the second one must not be overwritten either."""
        source = graph[skipped[op.name]] if op.name in skipped else op
        return (*source.inputs, *((first_half[op.name],) if op.name in first_half else ()))

    for number, op in enumerate(ops):
        renames = isinstance(op, Reshape | Output)
        owner[op.name] = owner[op.inputs[0]] if renames else op.name
        for name in (owner[op.name], *(owner[read] for read in read_by(op))):
            last_use[name] = max(last_use.get(name, 0), len(ops) if isinstance(op, Output) else number)
    memory = _Memory()
    buffers: dict[str, Buffer] = {}
    scratch: dict[str, Buffer] = {}
    for number, op in enumerate(ops):
        tensor = graph.tensors[op.name]
        if owner[op.name] == op.name and op.name not in fused:
            buffers[op.name] = memory.take(number_type(tensor.bound), tensor.size)
        source = graph[skipped[op.name]] if op.name in skipped else op
        together = op.name in fused or op.name in first_half.values()
        needed = None if together else scratch_of(source, graph.tensors)
        if needed is not None:
            scratch[source.name] = memory.take(*needed)
            memory.give_back(scratch[source.name])
        for name in {owner[read] for read in (*read_by(op), op.name)} & set(buffers):
            if last_use[name] == number:
                memory.give_back(buffers[name])
    placed = {name: buffers[owner[name]] for name in owner if owner[name] in buffers}
    return MemoryLayout(placed, scratch, fused, ops, first_half, memory.size)


def _in_order(graph: Graph, first_half: Mapping[str, str]) -> tuple[Op, ...]:
    """Return all inputs, which are there before the first operation runs, then the operations, second halves behind the first."""
    second = {first: graph[name] for name, first in first_half.items()}
    ops: list[Op] = list(graph.inputs)
    for op in graph.ops:
        if not isinstance(op, InputQuantiser) and op.name not in first_half:
            ops += [op, second[op.name]] if op.name in second else [op]
    return tuple(ops)


def _fused(graph: Graph) -> dict[str, Requantise]:
    """Find sums that one rounding alone reads, which can round them in the same number type."""
    readers: dict[str, list[Op]] = {}
    for op in graph.ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    fused = {}
    for op in graph.ops:
        tensor = graph.tensors[op.name]
        match op, readers.get(op.name):
            case Conv() | Dense(), [Requantise() as rounding] if rounding_type(rounding, tensor) == number_type(tensor.bound):
                fused[op.name] = rounding
            case _:
                pass
    return fused


class _Memory:
    """Free places, first fit."""

    def __init__(self) -> None:
        self.size = 0
        self._free: list[tuple[int, int]] = []  # (first byte, byte after the last), ascending, never touching

    def take(self, number: str, elements: int) -> Buffer:
        needed = buffer_bytes(number, elements)
        for place, (start, end) in enumerate(self._free):
            if end - start >= needed:
                self._free[place : place + 1] = [(start + needed, end)] if end - start > needed else []
                return Buffer(number, elements, start)
        start = self._free.pop()[0] if self._free and self._free[-1][1] == self.size else self.size
        self.size = start + needed
        return Buffer(number, elements, start)

    def give_back(self, buffer: Buffer) -> None:
        merged: list[tuple[int, int]] = []
        for start, end in sorted([*self._free, (buffer.offset, buffer.offset + buffer.size)]):
            if merged and merged[-1][1] == start:
                merged[-1] = merged[-1][0], end
            else:
                merged.append((start, end))
        self._free = merged
