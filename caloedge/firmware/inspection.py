"""What a network is made of and what each backend would do with it, before anything is built."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from caloedge.catalog import Backend, Target, find, names
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Affine, Conv, Dense, InputQuantiser, Op, Output, Requantise, Softmax, Table, Threshold
from caloedge.compiler.ranges import Tensor
from caloedge.errors import UserError
from caloedge.recipe import LayerChoice


@dataclass(frozen=True)
class Waste:
    """Where precision or hardware is wasted."""

    layer: str
    what: str


@dataclass(frozen=True)
class Preview:
    """What a backend would do with a network on a device."""

    backend: str
    variant: str
    target: str
    takes: bool
    what: str
    """An estimate, or why it refuses."""


def describe_constants(op: Op) -> str:
    """Describe the constants of an operation beside weights."""
    match op:
        case Table():
            return f"table of {op.values.shape[-1]:,} × {op.values[..., 0].size:,} entries"
        case Threshold():
            return f"{op.thresholds.shape[-1]:,} thresholds × {op.thresholds[..., 0].size:,} channels"
        case Softmax():
            return f"table of {op.exponentials.size:,} exponentials"
        case Requantise():
            return f"{op.rounding.value}, {op.low} … {op.high}"
        case InputQuantiser():
            zero = f", zero point {op.zero_point}" if op.zero_point else ""
            return f"scale {op.format.lsb * op.scale:.6g}{zero}"
        case Output():
            return _output_scale(op)
        case _:
            return ""


def _output_scale(op: Output) -> str:
    if op.scale is None:
        return ""
    ends = sorted({float(op.scale.min()), float(op.scale.max())})
    return "scale " + " … ".join(f"{end:.6g}" for end in ends) + ("" if op.offset is None else ", with an offset")


def wastes(graph: Graph) -> tuple[Waste, ...]:
    """List where bits are never used, weights are zero and channels never change."""
    found = []
    for op in graph.ops:
        tensor = graph.tensors[op.name]
        if isinstance(op, Requantise | Threshold | Table):
            found += _tensor_wastes(op, tensor)
        if isinstance(op, Conv | Dense | Affine):
            found += _weight_wastes(op)
    return tuple(found)


def _tensor_wastes(op: Requantise | Threshold | Table, tensor: Tensor) -> list[Waste]:
    found = []
    needed = Format.holding(*tensor.range, tensor.format.fraction).width
    if needed < tensor.format.width:
        low, high = tensor.range
        found.append(Waste(op.name, f"codes {low} … {high} need {needed} of {tensor.format.width} bits"))
    channels = tensor.low.reshape(tensor.shape[0], -1), tensor.high.reshape(tensor.shape[0], -1)
    constant = int((channels[0] == channels[1]).all(axis=1).sum())
    if constant:
        found.append(Waste(op.name, f"{constant} of {tensor.shape[0]} channels never change"))
    return found


def _weight_wastes(op: Conv | Dense | Affine) -> list[Waste]:
    found = []
    low, high = int(op.weights.min()), int(op.weights.max())
    needed = Format.holding(low, high, 0).width
    if needed < op.weight_format.width:
        found.append(Waste(op.name, f"weights {low} … {high} need {needed} of {op.weight_format.width} bits"))
    zero = float((op.weights == 0).mean())
    if zero >= 0.25:
        found.append(Waste(op.name, f"{zero:.0%} of the weights are zero"))
    common = int(np.gcd.reduce(op.weights.reshape(-1)))
    if common > 1 and not isinstance(op, Affine):
        found.append(Waste(op.name, f"all weights are multiples of {common}: {common.bit_length() - 1} bits are never used"))
    return found


def previews(
    graph: Graph, targets: Mapping[str, Target] | None = None, choices: Mapping[str, LayerChoice] | None = None
) -> tuple[Preview, ...]:
    """Ask every backend, variant and device what it would do, with a recipe's choices by layer."""
    devices = targets or {name: find(Target, name) for name in names("target")}
    found = []
    for backend_name in names("backend"):
        backend = find(Backend, backend_name)
        for variant in backend.variants:
            answers: dict[str, Preview] = {}
            for target_name, target in devices.items():
                answers[target_name] = _preview(backend_name, variant, graph, target_name, target, choices or {})
            if len({(answer.takes, answer.what) for answer in answers.values()}) == 1:
                first = next(iter(answers.values()))
                found.append(Preview(backend_name, variant, "any", first.takes, first.what))
            else:
                found += answers.values()
    return tuple(found)


def _preview(
    name: str, variant: str, graph: Graph, target_name: str, target: Target, choices: Mapping[str, LayerChoice]
) -> Preview:
    try:
        what = find(Backend, name).preview(graph, target, variant, choices)
        return Preview(name, variant, target_name, takes=True, what=what)
    except UserError as refused:
        return Preview(name, variant, target_name, takes=False, what=str(refused))
