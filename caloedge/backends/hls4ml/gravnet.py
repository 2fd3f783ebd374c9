"""Finds GravNet layers (arXiv 1902.07987) in a graph: what nodes collect from their nearest ones.

Such a layer is, per node: distances to and indices of the k nearest nodes, a weight for each distance, the weighted features of
these nodes (messages), and over the k messages a sum, the largest, or both.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from caloedge.backends.hls4ml.layers import NAME
from caloedge.backends.hls4ml.layout import Order
from caloedge.compiler.fixed import Codes, Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.kernels import kernel
from caloedge.compiler.ops import (
    Affine,
    Dense,
    MaxPool,
    Multiply,
    Nearest,
    Op,
    Rearrange,
    Requantise,
    Reshape,
    Table,
    Take,
    Threshold,
)
from caloedge.compiler.unsupported import refusal
from caloedge.errors import Unsupported


@dataclass(frozen=True, eq=False)
class GravNet:
    """One GravNet layer of a graph."""

    nearest: Nearest
    """The search for indices."""
    features: str
    """What nodes send (N, F)."""
    weights: Codes
    """Weight of each distance (reach + 1,)."""
    weight_format: Format
    message: Requantise | None
    """How messages are rounded, if they are."""
    message_format: Format
    sums: str | None
    """Sum of the k messages: its result holds (N, F), row by row."""
    largest: str | None
    """Largest of the k messages: the same."""
    inside: frozenset[str]
    """Names of the operations that it is made of."""


def gravnets(graph: Graph) -> tuple[GravNet, ...]:
    """Return the GravNet layers in order; refuse a search for neighbours that is no part of one."""
    found = tuple(_Matcher(graph, op).layer() for op in graph.ops if isinstance(op, Nearest) and op.part == "indices")
    inside = {name for layer in found for name in layer.inside}
    for op in graph.ops:
        if isinstance(op, Nearest) and op.name not in inside:
            raise _unlike(op)
    return found


def _unlike(op: Op) -> Unsupported:
    return refusal(op, "a search of neighbours that is no GravNet layer (weighted messages, summed or the largest)", NAME)


class _Matcher:
    """Follows one search of neighbours to the sums and the largest of messages."""

    def __init__(self, graph: Graph, nearest: Nearest) -> None:
        self._graph, self._nearest, self._inside = graph, nearest, {nearest.name}

    def layer(self) -> GravNet:
        """Return the layer; refuse what is none."""
        graph, nearest = self._graph, self._nearest
        take = self._only_reader(nearest.name)
        product = self._only_reader(take.name)
        if not isinstance(take, Take) or take.inputs[0] == nearest.name or not isinstance(product, Multiply):
            raise _unlike(nearest)
        if take.name not in product.inputs or product.inputs[0] == product.inputs[1]:
            raise _unlike(nearest)
        (weight,) = (name for name in product.inputs if name != take.name)
        weights = self._weights(weight)
        messages, message = product.name, None
        reader = graph[graph.readers[messages][0]] if len(graph.readers[messages]) == 1 else None
        if isinstance(reader, Requantise):
            messages, message = reader.name, reader
            self._inside.add(reader.name)
        shape = graph.tensors[messages].shape
        if shape != graph.tensors[take.name].shape:
            raise _unlike(nearest)
        collected = dict(self._collected(messages, np.arange(math.prod(shape))))
        sums = [name for name, op in collected.items() if isinstance(op, Dense)]
        largest = [name for name, op in collected.items() if isinstance(op, MaxPool)]
        if len(sums) > 1 or len(largest) > 1 or not collected:
            raise _unlike(nearest)
        return GravNet(
            nearest=nearest,
            features=take.inputs[0],
            weights=weights,
            weight_format=graph.tensors[weight].format,
            message=message,
            message_format=graph.tensors[messages].format,
            sums=sums[0] if sums else None,
            largest=largest[0] if largest else None,
            inside=frozenset(self._inside),
        )

    def _only_reader(self, name: str) -> Op:
        readers = self._graph.readers[name]
        if len(readers) != 1:
            raise _unlike(self._nearest)
        self._inside.add(readers[0])
        return self._graph[readers[0]]

    def _weights(self, name: str) -> Codes:
        """Return the weight of each distance, calculated step by step from the distances to what messages are multiplied by."""
        graph, nearest = self._graph, self._nearest
        chain: list[Op] = []
        if graph.tensors[name].shape != (*graph.tensors[nearest.name].shape, 1):
            raise _unlike(nearest)
        while not isinstance(op := graph[name], Nearest):
            if not isinstance(op, Affine | Requantise | Reshape | Table | Threshold) or len(graph.readers[name]) != 1:
                raise _unlike(nearest)
            chain.insert(0, op)
            self._inside.add(name)
            (name,) = op.inputs
        same = (op.part, op.inputs, op.k, op.reach) == ("distances", nearest.inputs, nearest.k, nearest.reach)
        if not same or len(graph.readers[name]) != 1:
            raise _unlike(nearest)
        self._inside.add(name)
        # Each of the k places of each node gets every distance that can come: they must agree on its weight.
        low, high = graph.tensors[name].range
        codes = np.broadcast_to(np.arange(low, high + 1), (*graph.tensors[name].shape, high + 1 - low))
        for step in chain:
            codes = kernel(step, graph.tensors)(codes).astype(np.int64)
        made = codes.reshape(-1, high + 1 - low)
        if np.any(made != made[0]):
            raise _unlike(nearest)
        weights = np.zeros(nearest.reach + 1, dtype=np.int64)
        weights[low : high + 1] = made[0]
        return weights

    def _collected(self, name: str, order: Order) -> Iterator[tuple[str, Dense | MaxPool]]:
        """Yield what sums messages or finds the largest; `order` says which message each element of `name` is."""
        graph = self._graph
        for reader in dict.fromkeys(graph.readers[name]):
            op = graph[reader]
            self._inside.add(reader)
            if isinstance(op, Reshape):
                yield from self._collected(reader, order)
            elif isinstance(op, Rearrange) and len(op.inputs) == 1 and op.index.min() >= 0:
                yield from self._collected(reader, order[op.index.reshape(-1)])
            elif isinstance(op, Dense | MaxPool) and self._collects(op, order):
                yield reader, op
            else:
                raise _unlike(self._nearest)

    def _collects(self, op: Dense | MaxPool, order: Order) -> bool:
        """Tell whether an operation makes one number of the k messages of each node and feature, in that order."""
        k, (name,) = self._nearest.k, op.inputs
        nodes, _, features = self._graph.tensors[self._take()].shape
        wanted = np.arange(nodes * k * features).reshape(nodes, k, features).swapaxes(1, 2).reshape(-1, k)
        rows = order.reshape(-1, k) if order.size == wanted.size else order
        if self._graph.tensors[name].shape[-1] != k or not np.array_equal(np.sort(rows, axis=-1), wanted):
            return False
        if isinstance(op, Dense):
            return op.weights.shape == (1, k) and bool((op.weights == 1).all()) and not op.bias.any()
        return op.kernel == (*(1,) * (len(op.kernel) - 1), k) and set(op.stride[:-1]) <= {1}

    def _take(self) -> str:
        """Return the name of what takes the neighbours' features (N, k, F)."""
        return self._graph.readers[self._nearest.name][0]
