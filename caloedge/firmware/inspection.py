"""Inspection of a network before anything is built: its constants, wasted bits, and a preview of every backend."""

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
    """One place in a network where precision or hardware is wasted."""

    layer: str
    description: str


@dataclass(frozen=True)
class Preview:
    """Answer of one backend and variant to a network on a device."""

    backend: str
    variant: str
    target: str
    supported: bool
    description: str
    """What the backend would build, as an estimate, or why it refuses the network."""


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
    """Return the places where bits are never used, weights are zero or channels never change."""
    result = []
    for op in graph.ops:
        tensor = graph.tensors[op.name]
        if isinstance(op, Requantise | Threshold | Table):
            result += _tensor_wastes(op, tensor)
        if isinstance(op, Conv | Dense | Affine):
            result += _weight_wastes(op)
    return tuple(result)


def _tensor_wastes(op: Requantise | Threshold | Table, tensor: Tensor) -> list[Waste]:
    result = []
    needed_bits = Format.holding(*tensor.range, tensor.format.fraction).width
    if needed_bits < tensor.format.width:
        low, high = tensor.range
        result.append(Waste(op.name, f"codes {low} … {high} need {needed_bits} of {tensor.format.width} bits"))
    channels = tensor.low.reshape(tensor.shape[0], -1), tensor.high.reshape(tensor.shape[0], -1)
    constant = int((channels[0] == channels[1]).all(axis=1).sum())
    if constant:
        result.append(Waste(op.name, f"{constant} of {tensor.shape[0]} channels never change"))
    return result


def _weight_wastes(op: Conv | Dense | Affine) -> list[Waste]:
    result = []
    low, high = int(op.weights.min()), int(op.weights.max())
    needed_bits = Format.holding(low, high, 0).width
    if needed_bits < op.weight_format.width:
        result.append(Waste(op.name, f"weights {low} … {high} need {needed_bits} of {op.weight_format.width} bits"))
    zero = float((op.weights == 0).mean())
    if zero >= 0.25:
        result.append(Waste(op.name, f"{zero:.0%} of the weights are zero"))
    common = int(np.gcd.reduce(op.weights.reshape(-1)))
    if common > 1 and not isinstance(op, Affine):
        result.append(Waste(op.name, f"all weights are multiples of {common}: {common.bit_length() - 1} bits are never used"))
    return result


def previews(
    graph: Graph, targets: Mapping[str, Target] | None = None, choices: Mapping[str, LayerChoice] | None = None
) -> tuple[Preview, ...]:
    """Return what every backend and variant would build on each device, with a recipe's choices by layer."""
    devices = targets or {name: find(Target, name) for name in names("target")}
    result = []
    for backend_name in names("backend"):
        backend = find(Backend, backend_name)
        for variant in backend.variants:
            answers: dict[str, Preview] = {}
            for target_name, target in devices.items():
                answers[target_name] = _preview(backend_name, variant, graph, target_name, target, choices or {})
            if len({(answer.supported, answer.description) for answer in answers.values()}) == 1:
                preview = next(iter(answers.values()))
                result.append(Preview(backend_name, variant, "any", preview.supported, preview.description))
            else:
                result += answers.values()
    return tuple(result)


def _preview(
    name: str, variant: str, graph: Graph, target_name: str, target: Target, choices: Mapping[str, LayerChoice]
) -> Preview:
    try:
        description = find(Backend, name).preview(graph, target, variant, choices)
        return Preview(name, variant, target_name, supported=True, description=description)
    except UserError as error:
        return Preview(name, variant, target_name, supported=False, description=str(error))
