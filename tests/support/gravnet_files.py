"""QONNX files of one GravNet layer in every form that exporters write, and its codes by hand.

The input (N, 5) has codes of 6 bits at steps of 1/4: energy, two coordinates, two features. The result (N, 4): mean and largest
message of the k nearest nodes, for each feature.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from nodes import clustered, nearest
from small_qonnx import File

from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph

CODES = Format(True, 6, 2)
NODES, K, FEATURES = 8, 3, 2
STEP, ALPHA = 0.25, 2.25
FIRST_ZERO = 10
"""The first distance, in steps, whose weight exp(-ALPHA * d) has the code 0 at steps of 1/128."""
FORMS = ("gather", "flat", "nd", "sort", "key")


@dataclass(frozen=True)
class Layer:
    """How a file is written, right or wrong."""

    form: str = "gather"
    reach: float = FIRST_ZERO * STEP
    quantised_distances: bool = True
    """Whether quantisers that change nothing stand behind |c_i - c_j| and the limit."""
    valid_first: bool = False
    """Whether padding is written as reach - reach * clip(e), with a quantiser before it is multiplied; else all at once."""
    self_mask: float = 2.0
    """In units of the reach."""
    padding_mask: float = 1.0
    elsewhere: float = 0.0
    """Added to the distance of node 2 from node 1 only."""
    energy_factor: float = 4.0
    coordinates: tuple[int, int] = (1, 2)
    seen: tuple[int, int] = (1, 2)
    """Columns of the sending node that are taken as its coordinates."""
    shown: bool = False
    """Whether the distances leave as well."""
    weighted: bool = True
    moved_below: float = 16.0
    """How far the key form moves messages of other nodes below the rest."""


def gravnet(layer: Layer) -> tuple[File, str]:
    """Return the file of one layer and the name of its output."""
    file = File((NODES, 5), opset=14)
    columns = {name: _columns(file, axes) for name, axes in (("c", layer.coordinates), ("seen", layer.seen), ("f", (3, 4)))}
    distances = _distances(file, layer, columns["c"], columns["seen"])
    messages = _all_messages if layer.form == "key" else _near_messages
    summed, compared, shown = messages(file, layer, distances, columns["f"])
    eighth = file.constant(1 / 8)
    mean = file.quant(
        file.node("Mul", file.node("ReduceSum", summed, file.constant([2], np.int64), keepdims=0), eighth), STEP / 8
    )
    largest = file.node("ReduceMax", compared, axes=[2], keepdims=0)
    parts = [mean, largest, shown] if layer.shown else [mean, largest]
    return file, file.node("Concat", *parts, out="y", axis=2)


def _columns(file: File, columns: tuple[int, ...]) -> str:
    return file.node("Gather", "q", file.constant(columns, np.int64), axis=2)


def _number(file: File, value: float) -> str:
    return file.constant(value)


def _axes(file: File, *axes: int) -> str:
    return file.constant(axes, np.int64)


def _distances(file: File, layer: Layer, own: str, seen: str) -> str:
    apart = file.node(
        "Abs", file.node("Sub", file.node("Unsqueeze", own, _axes(file, 2)), file.node("Unsqueeze", seen, _axes(file, 1)))
    )
    if layer.quantised_distances:
        apart = file.quant(apart, STEP, 8, 0)
    total = file.node("ReduceSum", apart, _axes(file, 3), keepdims=0)
    masks = np.eye(NODES) * layer.self_mask * layer.reach
    masks[1, 2] += layer.elsewhere
    total = file.node("Add", total, file.constant(masks[None]))
    energy = file.node("Gather", "q", file.constant(0, np.int64), axis=2)
    valid = file.node("Clip", file.node("Mul", energy, _number(file, layer.energy_factor)), _number(file, 0), _number(file, 1))
    if layer.valid_first:
        valid = file.quant(valid, 1.0, 2, 0)
    mask = layer.reach * layer.padding_mask
    far = file.node("Sub", _number(file, mask), file.node("Mul", valid, _number(file, mask)))
    total = file.node("Add", total, file.node("Unsqueeze", far, _axes(file, 1)))
    limited = file.node("Clip", total, "", _number(file, layer.reach))
    return file.quant(limited, STEP, 5, 0) if layer.quantised_distances else limited


def _weights(file: File, distances: str) -> str:
    return file.quant(file.node("Exp", file.node("Mul", distances, _number(file, -ALPHA))), 1 / 128, 8, 0)


def _near_messages(file: File, layer: Layer, distances: str, features: str) -> tuple[str, str, str]:
    k = NODES if layer.form == "sort" else K
    values = file.node("TopK", distances, file.constant([k], np.int64), out=f"near{k} which{k}", axis=2, largest=0, sorted=1)
    indices = f"which{k}"
    if layer.form == "sort":
        slice_ends = [file.constant([number], np.int64) for number in (0, K, 2)]
        values, indices = (file.node("Slice", name, *slice_ends) for name in (values, indices))
    taken = _taken(file, layer.form, features, indices)
    weights = file.node("Unsqueeze", _weights(file, values), _axes(file, 3))
    message = file.quant(file.node("Mul", weights, taken)) if layer.weighted else taken
    return message, message, values


def _taken(file: File, form: str, features: str, indices: str) -> str:
    if form == "nd":
        return file.node("GatherND", features, file.node("Unsqueeze", indices, _axes(file, 3)), batch_dims=1)
    if form == "flat":
        flat = file.node("Reshape", indices, file.constant([1, NODES * K, 1], np.int64))
        wide = file.node("Expand", flat, file.constant([1, 1, FEATURES], np.int64))
        rows = file.node("GatherElements", features, wide, axis=1)
        return file.node("Reshape", rows, file.constant([1, NODES, K, FEATURES], np.int64))
    wide = file.node("Expand", file.node("Unsqueeze", indices, _axes(file, 3)), file.constant([1, 1, 1, FEATURES], np.int64))
    repeated = file.node("Expand", file.node("Unsqueeze", features, _axes(file, 1)), file.constant([1, NODES, 1, 1], np.int64))
    return file.node("GatherElements", repeated, wide, axis=2)


def _all_messages(file: File, layer: Layer, distances: str, features: str) -> tuple[str, str, str]:
    key = file.node("Add", distances, file.constant((np.arange(NODES) * STEP / NODES).reshape(1, 1, NODES)))
    key = file.quant(key, STEP / NODES, 9, 0)
    best = file.node("TopK", key, file.constant([K], np.int64), out="best best_which", axis=2, largest=0, sorted=1)
    last = file.node("Slice", best, *(file.constant([number], np.int64) for number in (K - 1, K, 2)))
    near = file.node("Mul", file.node("Sub", last, key), _number(file, NODES / STEP))
    near = file.quant(file.node("Clip", file.node("Add", near, _number(file, 1)), _number(file, 0), _number(file, 1)), 1.0, 2, 0)
    weights = file.quant(file.node("Mul", _weights(file, distances), near), 1 / 128, 8, 0)
    weights = file.node("Unsqueeze", weights, _axes(file, 3))
    message = file.quant(file.node("Mul", weights, file.node("Unsqueeze", features, _axes(file, 1))))
    below = _number(file, layer.moved_below)
    moved = file.node("Sub", file.node("Mul", file.node("Unsqueeze", near, _axes(file, 3)), below), below)
    return message, file.quant(file.node("Add", message, moved), STEP, 8), distances


def events(number: int = 60, seed: int = 0) -> np.ndarray:
    """Return input codes (number, N, 5) with ties, few hits, hits in one place, and padding also of negative energy."""
    rng = np.random.default_rng(seed)
    made = clustered(rng, number, Format(True, 4, 0), NODES, 2)
    energy = np.where(made["valid"] > 0, rng.integers(1, 32, (number, NODES)), 0)
    energy[number // 2 :] -= (energy[number // 2 :] == 0) * rng.integers(0, 3, (number - number // 2, NODES))
    features = rng.integers(-32, 32, (number, NODES, FEATURES))
    return np.concatenate([energy[..., None], made["coordinates"], features], axis=2)


def by_hand(codes: np.ndarray, broken: str = "") -> list:
    """Return the output codes of the right layer at steps of 1/32, node by node; see `nodes.nearest` for `broken`."""
    weights = [round(Fraction(float(128 * np.exp(-ALPHA * STEP * d)))) for d in range(FIRST_ZERO + 1)]
    assert (weights[-2], weights[-1]) == (1, 0)
    found = []
    for event in codes:
        rows = []
        for near in nearest(event[:, 1:3], event[:, 0], K, FIRST_ZERO, broken):
            messages = [
                [min(max(round(Fraction(weights[d] * int(event[j, 3 + f]), 128)), -32), 31) for d, j in near]
                for f in range(FEATURES)
            ]
            rows.append([*(max(-32, min(31, sum(each))) for each in messages), *(8 * max(each) for each in messages)])
        found.append(rows)
    return found


def shapes(graph: Graph) -> set[tuple[int, ...]]:
    return {tensor.shape for tensor in graph.tensors.values()}
