"""Networks of nodes in hls4ml: GravNet layers, condensation points, rows and columns of our own, between hls4ml's dense layers.

Tensors are (N, F): nodes, features. A dense layer of each node is hls4ml's pointwise convolution over the nodes.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

from caloedge.backends.hls4ml.gravnet import GravNet, gravnets
from caloedge.backends.hls4ml.layers import NAME, Draft, Wire, build_layers, concatenated_axis, moved, rounding_type
from caloedge.backends.hls4ml.layout import natural
from caloedge.compiler import fixed
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import (
    Condense,
    Conv,
    InputQuantiser,
    MaxPool,
    Nearest,
    Op,
    Output,
    Rearrange,
    Reshape,
    Take,
    first_halves,
)
from caloedge.compiler.ranges import Tensor
from caloedge.compiler.unsupported import kind, refusal, refusal_of_kind

GRAVNET = "CaloedgeGravNet"
CONDENSE = "CaloedgeCondense"
ROWS = "CaloedgeTakeRows"
COLUMNS = "CaloedgeNodeColumns"
NODE_LAYERS = (GRAVNET, CONDENSE, ROWS, COLUMNS)
GRAVNET_HEADER = "nnet_caloedge_gravnet.h"
NODES_HEADER = "nnet_caloedge_nodes.h"
"""Their C++: in `hls/hls4ml`, and in firmware/nnet_utils of a project."""


def nodes_of(graph: Graph) -> int:
    """Return how many nodes an event has in a network of nodes, and 0 for any other network."""
    first = next((op for op in graph.ops if isinstance(op, Nearest | Take | Condense)), None)
    return graph.tensors[first.inputs[0]].shape[0] if first else 0


@dataclass
class NodeBuilder:
    """Builds a network of nodes, operation by operation."""

    graph: Graph
    gravnets: Mapping[str, GravNet]
    """GravNet layer that an operation belongs to."""
    ready: dict[str, Wire] = field(default_factory=dict)
    """Results of layers that have two, by operation."""

    @classmethod
    def of(cls, graph: Graph, *, streaming: bool) -> Self:
        """Return the builder of a network; refuse what cannot be built whatever stands around it."""
        if streaming:
            first = next(op for op in graph.ops if isinstance(op, Nearest | Take | Condense))
            raise refusal(first, f"{kind(first)} in io_stream", NAME, "use io_parallel")
        return cls(graph, {name: layer for layer in gravnets(graph) for name in layer.inside})

    def build(self, op: Op, draft: Draft) -> Wire | None:
        """Append the layers of one operation and return where its result is; None for what is inside of a GravNet layer."""
        if (layer := self.gravnets.get(op.name)) and op.name not in self.ready:
            if op.name not in (layer.sums, layer.largest):
                return None
            self.ready |= _gravnet(layer, draft)
        if op.name in self.ready:
            return self.ready[op.name]
        match op:
            case Condense():
                self.ready |= _condense(op, draft)
                return self.ready[op.name]
            case Take():
                return _rows(op, draft)
            case Rearrange() if concatenated_axis(op, self.graph) is None:
                return _columns(op, draft)
            case Output() if not self._has_own_array(op.inputs[0]):
                wire, features = build_layers(op, draft), math.prod(self.graph.tensors[op.name].shape[1:])
                return _columns_layer(op, draft, list(range(features)), features, wire)
            case Conv() | MaxPool():
                raise refusal(op, f"{kind(op)} in a network of nodes", NAME)
            case _:
                return build_layers(op, draft)

    def _has_own_array(self, name: str) -> bool:
        """Tell whether a result leaves as it is: if nothing else reads it, and its layer has no other result or name."""
        shared = name in self.ready or isinstance(self.graph[name], InputQuantiser | Reshape)
        return not shared and len(self.graph.readers[name]) == 1


# Layers of our own


def _inputs(names: tuple[str, ...], op: Op, draft: Draft) -> list[str]:
    """Return the layers that give these tensors, node after node."""
    tensors = draft.graph.tensors
    return [moved(draft.wires[name], natural(tensors[name].shape), op, draft).layer for name in names]


def _distances(x: Tensor, limit: int) -> Format:
    """Return the type of Manhattan distances of coordinates (N, D), and of a limit of these."""
    spans = x.high.max(axis=0) - x.low.min(axis=0)
    return Format.holding(0, max(int(spans.sum()), limit), x.format.fraction)


def _gravnet(layer: GravNet, draft: Draft) -> dict[str, Wire]:
    graph, op = draft.graph, layer.nearest
    if layer.message and layer.message.relu and layer.message.format.signed:
        raise refusal(layer.message, "a rectified message in a signed format", NAME)
    coordinates, valid = op.inputs
    x, messages = graph.tensors[coordinates], layer.message_format
    nodes, features = graph.tensors[layer.features].shape
    if layer.sums:
        sums = graph.tensors[layer.sums].format
    else:  # made all the same, but nobody reads them
        sums = Format.holding(op.k * messages.min_code, op.k * messages.max_code, messages.fraction)
    name = draft.names[op.name]
    results = {"largest": draft.new_name(f"{name}_largest"), "sums": draft.new_name(f"{name}_sums")}
    types = {
        "distance": str(_distances(x, op.reach)),
        "message": rounding_type(layer.message) if layer.message else str(messages),
        "accum": str(Format(sums.signed, sums.width, messages.fraction)),
        "weight": str(layer.weight_format),
        "largest": str(messages),
        "sums": str(sums),
    }
    settings = {
        "class_name": GRAVNET,
        "outputs": list(results.values()),
        "n_nodes": nodes,
        "n_axes": x.shape[1],
        "n_features": features,
        "n_neighbours": op.k,
        "n_index_bits": max((nodes - 1).bit_length(), 1),
        "n_distance_bits": op.reach.bit_length(),
        "reach": op.reach * x.format.lsb,
        "weight_data": fixed.to_float(layer.weights, layer.weight_format.fraction),
    }
    draft.add(name, _inputs((coordinates, valid, layer.features), op, draft), settings, types)
    made = (("largest", layer.largest), ("sums", layer.sums))
    return {result: Wire(results[key], natural((nodes, features)), types[key]) for key, result in made if result}


def _condense(op: Condense, draft: Draft) -> dict[str, Wire]:
    graph = draft.graph
    score, x = (graph.tensors[name] for name in op.inputs[:2])
    second = first_halves(graph.ops)
    choices = (choice for choice in graph.ops if isinstance(choice, Condense))
    made = {choice.part: choice.name for choice in choices if op.name in (choice.name, second.get(choice.name))}
    shapes = {"indices": (op.most,), "status": (2,)}
    formats = {"indices": Format.holding(-1, x.shape[0] - 1, 0), "status": Format.holding(0, op.most, 0)}
    formats |= {part: graph.tensors[half].format for part, half in made.items()}
    name = draft.names[op.name]
    results = {part: draft.new_name(f"{name}_{part}") for part in shapes}
    candidates = Format.holding(min(op.threshold, score.format.min_code), max(op.threshold, score.format.max_code), 0)
    types = {
        "distance": str(_distances(x, op.apart)),
        "threshold": str(Format(candidates.signed, candidates.width, score.format.fraction)),
        **{part: str(fmt) for part, fmt in formats.items()},
    }
    settings = {
        "class_name": CONDENSE,
        "outputs": list(results.values()),
        "n_nodes": x.shape[0],
        "n_axes": x.shape[1],
        "n_most": op.most,
        "threshold": op.threshold * score.format.lsb,
        "apart": op.apart * x.format.lsb,
    }
    draft.add(name, _inputs(op.inputs, op, draft), settings, types)
    return {half: Wire(results[part], natural(shapes[part]), types[part]) for part, half in made.items()}


def _rows(op: Take, draft: Draft) -> Wire:
    tensors, (values, indices) = draft.graph.tensors, op.inputs
    if len(tensors[indices].shape) != 1:
        raise refusal_of_kind(op, NAME)
    (rows,), (nodes, features) = tensors[indices].shape, tensors[values].shape
    layer = {"class_name": ROWS, "n_nodes": nodes, "n_features": features, "n_rows": rows}
    name, result = draft.names[op.name], str(tensors[op.name].format)
    draft.add(name, _inputs((values, indices), op, draft), layer, {"result": result})
    return Wire(name, natural((rows, features)), result)


def _columns(op: Rearrange, draft: Draft) -> Wire:
    """Append the choice of some columns of each node; refuse what moves codes from node to node."""
    shape = draft.graph.tensors[op.inputs[0]].shape
    features = math.prod(shape[1:])
    columns = op.index.reshape(op.index.shape[0], -1) - np.arange(op.index.shape[0])[:, None] * features
    inside = columns.min() >= 0 and columns.max() < features and bool((columns == columns[0]).all())
    if len(op.inputs) != 1 or op.index.shape[0] != shape[0] or not inside:
        raise refusal(op, f"{kind(op)} from node to node", NAME)
    return _columns_layer(op, draft, columns[0].tolist(), features, draft.wires[op.inputs[0]])


def _columns_layer(op: Rearrange | Output, draft: Draft, columns: list[int], features: int, source: Wire) -> Wire:
    tensor, name = draft.graph.tensors[op.name], draft.names[op.name]
    settings: dict[str, Any] = {
        "class_name": COLUMNS,
        "n_nodes": tensor.shape[0],
        "n_in": features,
        "n_out": len(columns),
        "columns": columns,
        "shape": list(tensor.shape),
    }
    draft.add(name, [source.layer], settings, {"result": str(tensor.format)})
    return Wire(name, natural(tensor.shape), str(tensor.format))
