"""Channel gates in hls4ml: a sum of all pixels and a scaling by channel of our own, with hls4ml's layers between them."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from caloedge.backends.hls4ml.layers import Draft, Wire, build_layers, moved, vector_product
from caloedge.backends.hls4ml.layout import ArrayLayout, channels_last
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Dense, Multiply, Op, Reshape
from caloedge.compiler.squeeze_excite import Gate, gates

SUM = "CaloedgeChannelSum"
SCALE = "CaloedgeChannelScale"
HEADER = "nnet_caloedge_gate.h"
"""Their C++: in `hls/hls4ml`, and in firmware/nnet_utils of a project."""


def gate_parts(graph: Graph) -> dict[str, Gate]:
    """Return the gate of each operation that belongs to one, by name."""
    return {name: gate for gate in gates(graph) for name in gate.names}


def build_op(op: Op, parts: Mapping[str, Gate], draft: Draft) -> Wire:
    """Append the layers of one operation, which may be part of a gate, and return where its result is."""
    gate = parts.get(op.name)
    if gate is None:
        return build_layers(op, draft)
    if op is gate.squeeze[-1]:
        return _sum(gate, draft)
    if isinstance(op, Multiply):
        return _scale(gate, draft)
    source = draft.wires[op.inputs[0]]
    if isinstance(op, Reshape):
        return source  # before the sum it is left out; after it, a vector is a vector
    if isinstance(op, Dense) and math.prod(draft.graph.tensors[op.name].shape[:-1]) == 1:
        return vector_product(op, source, draft)
    return build_layers(op, draft)


def _sizes(gate: Gate, graph: Graph) -> dict[str, Any]:
    channels, *pixels = graph.tensors[gate.source].shape
    return {"n_chan": channels, "n_pixels": math.prod(pixels)}


def _sum(gate: Gate, draft: Draft) -> Wire:
    op, graph = gate.squeeze[-1], draft.graph
    tensor, source = graph.tensors[op.name], graph.tensors[gate.source]
    image = moved(draft.wires[gate.source], channels_last(source.shape), op, draft)
    sums = Format(tensor.format.signed, tensor.format.width, source.format.fraction)
    layer = {"class_name": SUM, **_sizes(gate, graph)}
    draft.add(draft.names[op.name], [image.layer], layer, {"accum": str(sums), "result": str(tensor.format)})
    return Wire(draft.names[op.name], _vector(tensor.size), str(tensor.format))


def _scale(gate: Gate, draft: Draft) -> Wire:
    op, graph = gate.multiply, draft.graph
    (factors,) = (name for name in op.inputs if name != gate.source)
    layout = channels_last(graph.tensors[gate.source].shape)
    image = moved(draft.wires[gate.source], layout, op, draft)
    vector = moved(draft.wires[factors], _vector(layout.shape[-1]), op, draft)
    layer = {"class_name": SCALE, **_sizes(gate, graph)}
    result = str(graph.tensors[op.name].format)
    draft.add(draft.names[op.name], [image.layer, vector.layer], layer, {"result": result})
    return Wire(draft.names[op.name], layout, result)


def _vector(size: int) -> ArrayLayout:
    return ArrayLayout((size,), np.arange(size))
