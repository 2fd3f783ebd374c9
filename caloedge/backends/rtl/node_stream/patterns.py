"""Finds what nodes do together: GravNet layers and the condensation of an event into clusters.

A GravNet layer (arXiv 1902.07987) is, per node: distances to and indices of the k nearest nodes, a weight for each distance,
the weighted features of these nodes (messages), and over the k messages a sum, a maximum or both. None of them depends on the
order of the k nodes, so hardware makes them without one.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from caloedge.backends.rtl.layers import NAME
from caloedge.backends.rtl.node_stream.words import NodeNetwork, NodeOperation, Word, Words
from caloedge.compiler.fixed import Codes, Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.kernels import kernel
from caloedge.compiler.ops import (
    Affine,
    Condense,
    Dense,
    MaxPool,
    Multiply,
    Nearest,
    Op,
    Output,
    Requantise,
    Table,
    Take,
    Threshold,
)
from caloedge.compiler.unsupported import refusal
from caloedge.errors import Unsupported


@dataclass(frozen=True, eq=False)
class GravNet:
    """One GravNet layer."""

    nearest: Nearest
    coordinates: Words
    valid: Word
    features: Words
    weights: Codes
    """Weight of each distance (reach + 1,)."""
    weight_format: Format
    product_fraction: int
    """Fraction of weight times feature."""
    message: Requantise | None
    """How a message is rounded, if it is."""
    message_format: Format
    sums: Dense | None
    """Sum over the k messages, one word per feature."""
    largest: MaxPool | None
    """Largest of the k messages, one word per feature."""
    inside: frozenset[str]
    """Names of the operations that it is made of."""

    @property
    def name(self) -> str:
        """Name of the layer: that of its search."""
        return self.nearest.name

    @property
    def reads(self) -> Words:
        """Words that it reads, of each node."""
        return (*self.coordinates, self.valid, *self.features)


@dataclass(frozen=True, eq=False)
class Condensation:
    """Choice of an event's clusters, and the words that are taken of each."""

    condense: Condense
    score: Word
    coordinates: Words
    valid: Word
    taken: Mapping[str, Words]
    """Words that a cluster takes from its node, by the operation that takes them."""
    chosen: Mapping[str, str]
    """`indices` or `status`, by the operation that gives it."""

    @property
    def reads(self) -> Words:
        """Words that it reads, of each node."""
        return (self.score, *self.coordinates, self.valid, *(word for words in self.taken.values() for word in words))


def gravnets(network: NodeNetwork) -> tuple[GravNet, ...]:
    """Find the GravNet layers, in order; refuse a search that is no part of one."""
    searches = [x for x in network.operations.values() if isinstance(x.op, Nearest) and x.op.part == "indices"]
    found = [_Matcher(network, search).layer() for search in searches]
    inside = {name for layer in found for name in layer.inside}
    for operation in network.operations.values():
        of_layer = isinstance(operation.op, Nearest | MaxPool | Take) and not _is_of_clusters(operation)
        if of_layer and operation.name not in inside:
            raise _unlike(operation.op)
    return tuple(found)


def _is_of_clusters(operation: NodeOperation) -> bool:
    return isinstance(operation.op, Take) and len(operation.operands) == 1


def _unlike(op: Op) -> Unsupported:
    return refusal(op, "a search of neighbours that is no GravNet layer (weights of messages, summed or the largest)", NAME)


class _Matcher:
    """Follows one search of neighbours to the sums and maxima of its messages."""

    def __init__(self, network: NodeNetwork, indices: NodeOperation) -> None:
        self._network, self._indices, self._graph = network, indices, network.graph
        assert isinstance(indices.op, Nearest)
        self._nearest = indices.op
        self._inside = {indices.name}

    def layer(self) -> GravNet:
        """Return the layer; refuse what is none."""
        coordinates, (valid,) = self._indices.operands
        (take,) = self._readers(self._indices.result, 1)
        (product,) = self._readers(take.result, 1)
        if not isinstance(take.op, Take) or not isinstance(product.op, Multiply):
            raise _unlike(self._nearest)
        features = take.operands[0]
        weight = self._weight(product, take.result, len(features))
        table, weight_format = self._table(weight)
        messages, message = product.result, None
        readers = self._readers(messages)
        if len(readers) == 1 and isinstance(readers[0].op, Requantise):
            self._inside.add(readers[0].name)
            message, messages = readers[0].op, readers[0].result
            readers = self._readers(messages)
        by_feature = tuple(messages[j * len(features) + f] for f in range(len(features)) for j in range(self._nearest.k))
        sums = [x.op for x in readers if isinstance(x.op, Dense) and _is_sum(x.op, self._nearest.k)]
        largest = [x.op for x in readers if isinstance(x.op, MaxPool)]
        if len(sums) > 1 or len(largest) > 1 or len(sums) + len(largest) != len(readers) or not readers:
            raise _unlike(self._nearest)
        if any(x.operands[0] != by_feature for x in readers):
            raise _unlike(self._nearest)
        self._inside.update(x.name for x in (take, product, *readers))
        return GravNet(
            self._nearest, coordinates, valid, features, table, weight_format,
            self._graph.tensors[product.name].format.fraction, message, self._network.format(messages[0]),
            sums[0] if sums else None, largest[0] if largest else None, frozenset(self._inside),
        )  # fmt: skip

    def _readers(self, words: Words, expected: int | None = None) -> list[NodeOperation]:
        """Return the operations that read some of these words; a search that leaves the network is no GravNet layer."""
        read = set(words)
        found = [x for x in self._network.operations.values() if any(read.intersection(operand) for operand in x.operands)]
        outputs = [op for op in self._graph.outputs if read.intersection(self._network.words.get(op.name, ()))]
        if outputs or (expected is not None and len(found) != expected):
            raise _unlike(self._nearest)
        return found

    def _weight(self, product: NodeOperation, taken: Words, features: int) -> Words:
        """Return the k weights that the taken words are multiplied by."""
        if taken not in product.operands:
            raise _unlike(self._nearest)
        other = product.operands[1 - product.operands.index(taken)]
        weights = other[::features]
        if other != tuple(word for word in weights for _ in range(features)):
            raise _unlike(self._nearest)
        return weights

    def _table(self, weights: Words) -> tuple[Codes, Format]:
        """Return the weight of each distance, calculated step by step, and the weights' format."""
        chain: list[Op] = []
        fmt, words = self._network.format(weights[0]), weights
        while not isinstance((maker := self._network.operations.get(words[0].maker, self._indices)).op, Nearest):
            steps = isinstance(maker.op, Affine | Requantise | Table | Threshold)
            if not steps or maker.result != words or len(self._readers(words)) != 1:
                raise _unlike(self._nearest)
            chain.insert(0, maker.op)
            words = maker.operands[0]
            self._inside.add(maker.name)
        distances = self._network.operations[words[0].maker]
        same = distances.operands == self._indices.operands and _equal_searches(distances.op, self._nearest)
        if not same or distances.result != words or len(self._readers(words)) != 1:
            raise _unlike(self._nearest)
        self._inside.add(distances.name)
        return _evaluated(chain, self._graph, distances.name, self._nearest), fmt


def _equal_searches(distances: Op, indices: Nearest) -> bool:
    return isinstance(distances, Nearest) and (distances.part, distances.k, distances.reach) == (
        "distances", indices.k, indices.reach,
    )  # fmt: skip


def _is_sum(op: Dense, k: int) -> bool:
    return op.weights.shape == (1, k) and bool(np.all(op.weights == 1)) and not np.any(op.bias)


def _evaluated(chain: Iterable[Op], graph: Graph, distances: str, nearest: Nearest) -> Codes:
    """Return what elementwise operations make of each distance from 0 to the reach; refuse different weights by place."""
    codes = np.broadcast_to(np.arange(nearest.reach + 1), (graph.tensors[distances].size, nearest.reach + 1))
    for op in chain:
        shape = graph.tensors[op.inputs[0]].shape
        made = kernel(op, graph.tensors)(codes.reshape(*shape, -1))
        codes = made.reshape(graph.tensors[op.name].size, -1).astype(np.int64)
    if np.any(codes != codes[0]):
        raise _unlike(nearest)
    weights: Codes = codes[0].astype(np.int64)
    return weights


def condensation(network: NodeNetwork) -> Condensation | None:
    """Find how clusters are chosen, if they are; refuse a second choice."""
    choices = [x for x in network.operations.values() if isinstance(x.op, Condense)]
    if not choices:
        return None
    first = choices[0]
    assert isinstance(first.op, Condense)
    for other in choices[1:]:
        assert isinstance(other.op, Condense)
        settings = [(op.threshold, op.apart, op.most) for op in (first.op, other.op)]
        if other.operands != first.operands or settings[0] != settings[1]:
            raise refusal(other.op, "a second choice of clusters", NAME)
    score, coordinates, valid = first.operands
    chosen = {x.name: x.op.part for x in choices if isinstance(x.op, Condense)}
    taken = {x.name: x.operands[0] for x in network.operations.values() if isinstance(x.op, Take) and _is_of_clusters(x)}
    return Condensation(first.op, score[0], coordinates, valid[0], taken, chosen)


def cluster_source(output: Output, graph: Graph) -> str:
    """Return the name of the choice, or of what is taken, that an output of clusters gives."""
    name = output.name
    while not isinstance(op := graph[name], Condense | Take):
        (name,) = op.inputs
    return name
