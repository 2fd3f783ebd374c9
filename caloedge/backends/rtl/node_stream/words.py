"""A network of nodes as words of one node: which words each operation reads, with every move resolved.

Tensors of such a network hold N · w codes, node after node: element n · w + i is word i of node n. A move within the nodes
(reshape, slice, concatenate, transpose of axes behind the nodes) is only another name for words, so none is left here. What
mixes nodes is `Nearest` with `Take`, and `Condense`; everything else that does is refused.
"""

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NoReturn, assert_never

import numpy as np
from numpy.typing import NDArray

from caloedge.backends.rtl.layers import NAME
from caloedge.compiler.fixed import Codes, Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import (
    Add,
    Affine,
    Condense,
    Conv,
    Dense,
    InputQuantiser,
    MatMul,
    MaxPool,
    Multiply,
    Nearest,
    Op,
    Output,
    Rearrange,
    Requantise,
    Reshape,
    Softmax,
    Table,
    Take,
    Threshold,
    TopK,
)
from caloedge.compiler.unsupported import CURE, kind, one_input, refusal

NodeIndex = NDArray[np.int64]
"""(words of the result,): word of the same node that each one is, counted over all inputs end to end; -1 for none."""


@dataclass(frozen=True)
class Word:
    """One code of every node: a word of what an operation makes, or a constant."""

    maker: str
    """Name of the operation; empty for a constant."""
    index: int
    """Number of the word, or the constant's code."""


Words = tuple[Word, ...]


@dataclass(frozen=True, eq=False)
class NodeOperation:
    """An operation that calculates, and the words of one node that each of its inputs is."""

    op: Op
    operands: tuple[Words, ...]
    """Operands of `Add` and `Multiply` are repeated to the words of the result."""
    words: int
    """Words of the result, of one node."""

    @property
    def name(self) -> str:
        """Name of the operation."""
        return self.op.name

    @property
    def result(self) -> Words:
        """Words that it makes."""
        return tuple(Word(self.name, i) for i in range(self.words))

    def rows(self, constants: Codes, shape: tuple[int, ...], ends: int = 0) -> Codes:
        """Return the constants of each word (words, *last `ends` axes), which are the same for all nodes."""
        tail = constants.shape[constants.ndim - ends :]
        return np.broadcast_to(constants, (*shape, *tail)).reshape(-1, *tail)[: self.words]


@dataclass(frozen=True, eq=False)
class NodeNetwork:
    """A network of nodes: its calculations in order."""

    graph: Graph
    nodes: int
    """Nodes per event, padding included."""
    operations: Mapping[str, NodeOperation]
    """By name, without the input."""
    words: Mapping[str, Words]
    """Words of each tensor of the graph that belongs to the nodes, moves and outputs included."""
    cluster_tensors: frozenset[str]
    """Tensors that belong to the clusters of an event: `Condense`, what is taken at its indices, and outputs of these."""

    def format(self, word: Word) -> Format:
        """Return the format of a word that is no constant."""
        return self.graph.tensors[word.maker].format


def node_network(graph: Graph) -> NodeNetwork:
    """Resolve the words of every operation; refuse what is no network of nodes."""
    entry = one_input(graph, NAME)
    if len(entry.shape) != 2:
        raise refusal(entry, f"an input of shape {entry.shape}, which is not (nodes, features),", NAME, _cure(graph))
    return _Reader(graph, entry).network()


def _cure(graph: Graph) -> str:
    """Return what builds a network that is none of nodes."""
    nodal = any(isinstance(op, Nearest | Take | Condense) for op in graph.ops)
    return CURE if nodal else "use another variant, e.g. auto"


class _Reader:
    """Reads a graph, operation by operation."""

    def __init__(self, graph: Graph, entry: InputQuantiser) -> None:
        self._graph, self._nodes = graph, entry.shape[0]
        self._words: dict[str, Words] = {entry.name: tuple(Word(entry.name, i) for i in range(entry.shape[1]))}
        self._operations: dict[str, NodeOperation] = {}
        self._clusters: set[str] = set()

    def network(self) -> NodeNetwork:
        """Read all operations."""
        for op in self._graph.ops:
            if not isinstance(op, InputQuantiser):
                self._read(op)
        return NodeNetwork(self._graph, self._nodes, self._operations, self._words, frozenset(self._clusters))

    def _read(self, op: Op) -> None:
        if isinstance(op, Condense) or self._clusters.intersection(op.inputs):
            self._read_cluster(op)
            return
        match op:
            case Reshape() | Output():
                self._words[op.name] = self._words[op.inputs[0]]
            case Rearrange():
                sizes = [self._graph.tensors[name].size for name in op.inputs]
                together = [word for name in op.inputs for word in self._words[name]]
                index = self._local(op, op.index, sizes)
                self._words[op.name] = tuple(together[i] if i >= 0 else Word("", op.fill) for i in index)
            case Add() | Multiply():
                self._calculate(op, *(self._repeated(op, name) for name in op.inputs))
            case Affine() | Table() | Threshold():
                self._refuse_different_nodes(op)
                self._calculate(op, self._words[op.inputs[0]])
            case Requantise():
                self._calculate(op, self._words[op.inputs[0]])
            case Dense():
                self._refuse_rows_across_nodes(op, op.weights.shape[1])
                self._calculate(op, self._words[op.inputs[0]])
            case MaxPool():
                shape = self._graph.tensors[op.inputs[0]].shape
                if shape[1:] != op.kernel or set(op.dilation) != {1}:
                    raise refusal(op, "a max pool over another window than all of its axes", NAME)
                self._refuse_rows_across_nodes(op, math.prod(op.kernel))
                self._calculate(op, self._words[op.inputs[0]])
            case Nearest() | Take():
                self._calculate(op, *(self._words[name] for name in op.inputs))
            case Conv() | MatMul() | Softmax() | TopK() | InputQuantiser():
                self._refuse_kind(op)
            case Condense():
                raise AssertionError("clusters are read elsewhere")
            case _:
                assert_never(op)

    def _read_cluster(self, op: Op) -> None:
        """Read what chooses clusters, takes words of theirs, or gives these another name."""
        if isinstance(op, Condense):
            self._calculate(op, *(self._words[name] for name in op.inputs))
        elif isinstance(op, Take) and op.inputs[0] in self._words:
            self._calculate(op, self._words[op.inputs[0]])
        elif not isinstance(op, Reshape | Output):
            raise refusal(op, "a calculation with clusters", NAME)
        self._clusters.add(op.name)

    def _calculate(self, op: Op, *operands: Words) -> None:
        words = max(self._graph.tensors[op.name].size // self._nodes, 1)
        self._operations[op.name] = operation = NodeOperation(op, operands, words)
        self._words[op.name] = operation.result

    def _local(self, op: Op, index: NodeIndex, sizes: Iterable[int]) -> list[int]:
        """Return the word that each word of the result is, for an index into inputs of these sizes end to end."""
        if index.size % self._nodes:
            self._refuse_mixing(op)
        flat = index.reshape(self._nodes, -1)
        local, first, first_word = np.full(flat.shape, -1), 0, 0
        for size in sizes:
            words = size // self._nodes
            mine = (flat >= first) & (flat < first + size)
            node, word = np.divmod(flat - first, max(words, 1))
            if size % self._nodes or np.any(mine & (node != np.arange(self._nodes)[:, None])):
                self._refuse_mixing(op)
            local[mine] = word[mine] + first_word
            first, first_word = first + size, first_word + words
        if np.any(local != local[0]):
            self._refuse_mixing(op)
        return [int(i) for i in local[0]]

    def _repeated(self, op: Op, name: str) -> Words:
        """Return the words of an input of `Add` or `Multiply`, repeated to the result's shape."""
        tensor, shape = self._graph.tensors[name], self._graph.tensors[op.name].shape
        index = np.broadcast_to(np.arange(tensor.size).reshape(tensor.shape), shape)
        return tuple(self._words[name][i] for i in self._local(op, index, [tensor.size]))

    def _refuse_rows_across_nodes(self, op: Op, row: int) -> None:
        if len(self._words[op.inputs[0]]) % row:
            self._refuse_mixing(op)

    def _refuse_different_nodes(self, op: Affine | Table | Threshold) -> None:
        shape = self._graph.tensors[op.inputs[0]].shape
        for constants in _constants(op):
            tail = constants.shape[len(shape) :]
            rows = np.broadcast_to(constants, (*shape, *tail)).reshape(self._nodes, -1, *tail)
            if np.any(rows != rows[0]):
                raise refusal(op, "constants that differ from node to node", NAME)

    def _refuse_mixing(self, op: Op) -> NoReturn:
        raise refusal(op, "mixing of nodes outside of GravNet layers", NAME, _cure(self._graph))

    def _refuse_kind(self, op: Op) -> NoReturn:
        raise refusal(op, f"{kind(op)} in a network of nodes", NAME, _cure(self._graph))


def _constants(op: Affine | Table | Threshold) -> Iterator[Codes]:
    match op:
        case Affine():
            yield op.weights
            yield op.bias
        case Table():
            yield op.values
        case Threshold():
            yield op.thresholds
        case _:
            assert_never(op)
