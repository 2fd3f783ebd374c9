"""Passes that find searches for the nearest nodes in what standard ONNX operators write as N × N distances.

A GravNet layer (arXiv 1902.07987) of N nodes calculates all distances d(i, j), moves the node itself and padding out of reach,
and takes the k smallest of each row. `Nearest` is the same in memory linear in N, and what hardware builds. Everything is proven
from constants and ranges; where a proof fails the dense form stays, which is exact as well.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np

from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.linear_forms import LinearForm, Places, Term, clipped, linear_form, origin
from caloedge.compiler.ops import (
    Affine,
    Multiply,
    Nearest,
    Op,
    Rearrange,
    Requantise,
    Reshape,
    Table,
    Take,
    TopK,
    first_halves,
)
from caloedge.compiler.ranges import Tensor, infer


@dataclass(frozen=True, eq=False)
class Distances:
    """A tensor (N, N) that holds min(reach, Manhattan distance), and `reach` for the node itself and for padding."""

    coordinates: tuple[str, Places]
    """The operation that holds the coordinates, and their places in it (N, D)."""
    valid: tuple[str, Places] | None
    """The operation that is > 0 where a node is none of padding, and its places (N,); None where there is no padding."""
    valid_is: Term | None
    """The mask where no such operation exists: 0 for valid nodes, 1 for padding."""
    reach: int


@dataclass
class Draft:
    """New operations that go in front of one operation of a graph."""

    graph: Graph
    before: str
    ops: dict[str, Op] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        names = [op.name for op in self.graph.ops]
        self._earlier = self.graph.ops[: names.index(self.before)]

    def add(self, kind: str, op: Op) -> str:
        """Add an operation under a new name of this kind, unless there is one like it; return its name."""
        for other in (*self._earlier, *self.ops.values()):
            if type(other) is type(op) and _same(other, op):
                return other.name
        number = 1
        while (name := f"{kind}_{number}") in self.graph.tensors or name in self.ops:
            number += 1
        named: Op = replace(op, name=name)
        self.ops[name] = named
        self.tensors[name] = infer(named, [self.tensor(source) for source in named.inputs])
        return name

    def tensor(self, name: str) -> Tensor:
        """Return the tensor of an old or new operation."""
        return self.tensors[name] if name in self.tensors else self.graph.tensors[name]

    def show(self, name: str, places: Places, kind: str = "rows") -> str:
        """Return an operation that holds elements of another one: that one itself where they are all of it in order."""
        size, shape = self.tensor(name).size, self.tensor(name).shape
        if places.size == size and np.array_equal(places.reshape(-1), np.arange(size)):
            return name if shape == places.shape else self.add("reshape", Reshape("", (name,), places.shape))
        return self.add(kind, Rearrange("", (name,), places, kind=kind))

    def done(self, renamed: dict[str, str]) -> Graph:
        """Return the graph with the new operations, which are read in place of those of `renamed`; these are left out."""
        ops: list[Op] = []
        for op in self.graph.ops:
            if op.name == self.before:
                ops += self.ops.values()
            if op.name in renamed:
                continue
            names = tuple(renamed.get(name, name) for name in op.inputs)
            ops.append(replace(op, inputs=names) if names != op.inputs else op)  # type: ignore[arg-type]
        return replace(self.graph, ops=tuple(ops))


def _same(a: Op, b: Op) -> bool:
    """Tell whether two operations of one type differ at most in their names."""

    def alike(x: Any, y: Any) -> bool:
        return np.array_equal(x, y) if isinstance(x, np.ndarray) else bool(x == y)

    return all(alike(getattr(a, item.name), getattr(b, item.name)) for item in fields(a) if item.name != "name")


# The search


def find_nearest(graph: Graph) -> Graph:
    """Let the k smallest distances of N × N be a search for the nearest nodes."""
    for op in graph.ops:
        if isinstance(op, TopK) and not op.largest:
            distances = distances_of(graph, op.inputs[0])
            if distances is not None:
                return find_nearest(_searching(graph, op, distances))
    return graph


def _searching(graph: Graph, first: TopK, distances: Distances) -> Graph:
    """Replace every choice of the smallest of these distances."""
    draft = Draft(graph, first.name)
    ends = coordinates_and_valid(draft, distances)
    renamed = {}
    for op in graph.ops:
        if isinstance(op, TopK) and op.inputs == first.inputs and not op.largest:
            part = "distances" if op.part == "values" else "indices"
            renamed[op.name] = draft.add(part, Nearest("", ends, op.k, distances.reach, part))  # type: ignore[arg-type]
    return draft.done(renamed)


def coordinates_and_valid(draft: Draft, distances: Distances) -> tuple[str, str]:
    """Add what a search reads."""
    nodes = len(distances.coordinates[1])
    coordinates = draft.show(*distances.coordinates)
    if distances.valid is not None:
        name = draft.show(*distances.valid)
        fraction = draft.tensor(name).format.fraction
        return coordinates, draft.add("valid", Requantise("", (name,), Format(False, 1, fraction), relu=True))
    if distances.valid_is is not None:
        mask = draft.show(distances.valid_is.op, distances.valid_is.places[0])
        return coordinates, draft.add("valid", _affine(mask, np.full(nodes, -1), np.ones(nodes)))
    some = draft.show(distances.coordinates[0], distances.coordinates[1][:, 0])
    return coordinates, draft.add("valid", _affine(some, np.zeros(nodes), np.ones(nodes)))


def _affine(source: str, weights: Any, bias: Any) -> Affine:
    return Affine("", (source,), weights.astype(np.int64), bias.astype(np.int64), Format(True, 2, 0))


def distances_of(graph: Graph, name: str) -> Distances | None:
    """Prove that a tensor holds the distances of nodes, or return None."""
    shape = graph.tensors[name].shape
    if len(shape) != 2 or shape[0] != shape[1] or shape[0] < 2:
        return None
    source, low, reach = clipped(graph, name)
    if low > max(0, graph.tensors[source].range[0]) or reach < 1 or source == name:
        return None
    form = linear_form(graph, source)
    magnitudes = [term for term in form.terms if _is_magnitude(graph, term.op)]
    coordinates = _coordinates(graph, magnitudes, graph.tensors[source].format.fraction)
    if coordinates is None:
        return None
    return _masked(graph, form, [term for term in form.terms if term not in magnitudes], coordinates, reach)


def _is_magnitude(graph: Graph, name: str) -> bool:
    """Tell whether a table gives the magnitude of every code that can come."""
    op = graph[name]
    if not isinstance(op, Table) or op.values.size != op.values.shape[-1]:
        return False
    x = graph.tensors[op.inputs[0]]
    low, high = x.range
    codes = np.arange(low, high + 1)
    return x.format.fraction == op.format.fraction and bool(
        (op.values.reshape(-1)[low - op.first : high - op.first + 1] == abs(codes)).all()
    )


def _coordinates(graph: Graph, magnitudes: list[Term], fraction: int) -> tuple[str, Places] | None:
    """Return where the coordinates lie if terms are |c_i - c_j| for nodes i and j, each coordinate once."""
    forms: dict[str, LinearForm] = {}
    columns, sources = [], set()
    for term in magnitudes:
        form = forms.setdefault(term.op, linear_form(graph, graph[term.op].inputs[0]))
        if len(form.terms) != 2 or not (term.weights == 1).all() or form.constant.reshape(-1)[term.places].any():
            return None
        weights = [part.weights.reshape(-1)[term.places] for part in form.terms]
        places = [part.places.reshape(-1)[term.places] for part in form.terms]
        if not ((abs(weights[0]) == 1).all() and (weights[0] == -weights[1]).all()):
            return None
        own, other = places if (places[0] == places[0][:, :1]).all() else places[::-1]
        if not ((own == own[:, :1]).all() and (other == other[:1]).all() and (own[:, 0] == other[0]).all()):
            return None
        columns.append(own[:, 0])
        sources |= {part.op for part in form.terms}
    if len(sources) != 1 or graph.tensors[source := sources.pop()].format.fraction != fraction:
        return None
    return source, np.stack(columns, axis=1)


def _masked(graph: Graph, form: LinearForm, masks: list[Term], coordinates: tuple[str, Places], reach: int) -> Distances | None:
    """Prove that what is added to distances is 0 or at least `reach`: the latter for the node itself and for padding."""
    nodes = len(form.constant)
    others = ~np.eye(nodes, dtype=bool)
    # Off the diagonal everything depends on j alone: row 1 shows node 0, row 0 all others.
    constant = np.where(np.arange(nodes) == 0, form.constant[1], form.constant[0])
    if not (form.constant == constant)[others].all() or len(masks) > 1:
        return None
    if not masks:
        free = (constant == 0).all() and (np.diagonal(form.constant) >= reach).all()
        return Distances(coordinates, None, None, reach) if free else None
    (mask,) = masks
    low, high = (bounds.reshape(-1)[mask.places] for bounds in (graph.tensors[mask.op].low, graph.tensors[mask.op].high))
    if (
        low.min() < 0
        or high.max() > 1
        or not ((mask.places == mask.places[:1]).all() and (mask.weights == mask.weights[:1]).all())
    ):
        return None
    ends = constant, constant + mask.weights[0]
    if not (np.diagonal(form.constant) + np.minimum(mask.weights[0], 0) >= reach).all():
        return None
    for masking in (1, 0):
        if (ends[masking] >= reach).all() and (ends[1 - masking] == 0).all():
            valid = _valid(graph, mask, masking)
            if valid is None and masking == 0:
                return Distances(coordinates, (mask.op, mask.places[0]), None, reach)
            return Distances(coordinates, valid, mask if valid is None else None, reach)
    return None


def _valid(graph: Graph, mask: Term, masking: int) -> tuple[str, Places] | None:
    """Return the codes e that a mask clip(1 - e, 0, 1) or clip(e, 0, 1) is made of: nodes with e > 0 are valid."""
    source, low, high = clipped(graph, mask.op)
    form = linear_form(graph, source)
    if source == mask.op or (low, high) != (0, 1) or len(form.terms) != 1:
        return None
    places = mask.places[0]
    (term,) = form.terms
    weights, constant = term.weights.reshape(-1)[places], form.constant.reshape(-1)[places]
    sign = -1 if masking else 1
    if not ((weights == sign).all() and (constant == masking).all()):
        return None
    return term.op, term.places.reshape(-1)[places]


# Around a search


def shorten_top_k(graph: Graph) -> Graph:
    """Let a choice of the best make no more than what is read of it: a sort is one of all, of which a slice takes the first."""
    for op in graph.ops:
        if not isinstance(op, TopK) or not graph.readers[op.name]:
            continue
        readers = [graph[name] for name in graph.readers[op.name]]
        if not all(isinstance(reader, Rearrange) and len(reader.inputs) == 1 for reader in readers):
            continue
        moves = [reader for reader in readers if isinstance(reader, Rearrange)]
        needed = max(int((move.index[move.index >= 0] % op.k).max(initial=0)) for move in moves) + 1
        if needed == op.k:
            continue
        changed: dict[str, Op] = {op.name: replace(op, k=needed)}
        for move in moves:
            index = np.where(move.index < 0, -1, move.index // op.k * needed + move.index % op.k)
            changed[move.name] = replace(move, index=index)
        return shorten_top_k(replace(graph, ops=tuple(changed.get(other.name, other) for other in graph.ops)))
    return graph


def look_up_distances(graph: Graph) -> Graph:
    """Let a table of scaled distances be a table of distances."""
    for op in graph.ops:
        scaled = graph[op.inputs[0]] if isinstance(op, Table) else None
        if not isinstance(op, Table) or not isinstance(scaled, Affine) or op.values.size != op.values.shape[-1]:
            continue
        search = graph[scaled.inputs[0]]
        if not isinstance(search, Nearest) or search.part != "distances":
            continue
        if np.ptp(scaled.weights) or np.ptp(scaled.bias):
            continue
        codes = np.arange(search.reach + 1) * scaled.weights.flat[0] + scaled.bias.flat[0] - op.first
        least, most = graph.tensors[search.name].range
        codes = codes[np.clip(np.arange(search.reach + 1), least, most)]  # others never come, and may lie outside of the table
        values = op.values.reshape(-1)[codes].reshape(*op.values.shape[:-1], -1)
        table = replace(op, inputs=(search.name,), values=values, first=0)
        ops = tuple(table if other.name == op.name else other for other in graph.ops)
        return look_up_distances(replace(graph, ops=ops))
    return graph


def lower_reach(graph: Graph) -> Graph:
    """Let distances saturate at the first one from which on every weight is 0: fewer bits, and the same messages.

    Which nodes are taken beyond that distance changes, but what they send is multiplied by 0.
    """
    halves = first_halves(graph.ops)
    for second, first in halves.items():
        pair = [graph[name] for name in (first, second)]
        searches = {op.part: op for op in pair if isinstance(op, Nearest)}
        if len(searches) != 2:
            continue
        reach = _least_reach(graph, searches["distances"], searches["indices"])
        if reach < searches["distances"].reach:
            changed: dict[str, Op] = {op.name: replace(op, reach=reach) for op in searches.values()}
            for op in (graph[name] for name in graph.readers[searches["distances"].name]):
                assert isinstance(op, Table)
                changed[op.name] = replace(op, values=op.values[..., : reach + 1])
            return lower_reach(replace(graph, ops=tuple(changed.get(op.name, op) for op in graph.ops)))
    return graph


def _least_reach(graph: Graph, distances: Nearest, indices: Nearest) -> int:
    """Return the first distance from which on the messages of all nodes are proven to be 0, at most the present reach."""
    same = [op for op in graph.ops if isinstance(op, Nearest) and op.inputs == distances.inputs and op.k == distances.k]
    if len(same) != 2:
        return distances.reach  # another search may see more
    tables = [graph[name] for name in graph.readers[distances.name]]
    reach = 1
    for table in tables:
        if not isinstance(table, Table) or table.first != 0 or table.values.size != table.values.shape[-1]:
            return distances.reach
        reach = max(reach, int(np.flatnonzero(np.append(1, table.values.reshape(-1)[: distances.reach + 1]))[-1]))
    weights = {table.name for table in tables}
    for name in graph.readers[indices.name]:
        taken = graph[name]
        if not isinstance(taken, Take) or taken.inputs[1] != indices.name or taken.inputs[0] == indices.name:
            return distances.reach
        for reader in graph.readers[taken.name]:
            if not _is_weighted(graph, graph[reader], taken.name, weights):
                return distances.reach
    return reach if tables else distances.reach


def _is_weighted(graph: Graph, op: Op, taken: str, weights: set[str]) -> bool:
    """Tell whether an operation multiplies each row that was taken by the weight of its own distance."""
    if not isinstance(op, Multiply) or op.inputs.count(taken) != 1:
        return False
    (other,) = (name for name in op.inputs if name != taken)
    name, places = origin(graph.__getitem__, graph.tensors, other)
    shape = graph.tensors[taken].shape
    wanted = np.arange(shape[0] * shape[1]).reshape(shape[0], shape[1], 1)
    return name in weights and len(places.shape) == 3 and bool((np.broadcast_to(places, shape) == wanted).all())


def share_moves(graph: Graph) -> Graph:
    """Move the messages of neighbours once where their sum and their maximum each move them alike.

    Only in networks that take rows: elsewhere a move that is read once may still become part of another operation.
    """
    if not any(isinstance(op, Take) for op in graph.ops):
        return graph
    moves: list[Rearrange] = []
    renamed: dict[str, str] = {}
    for op in graph.ops:
        if isinstance(op, Rearrange):
            twin = next((move for move in moves if _same(replace(move, kind=op.kind), op)), None)
            if twin is None:
                moves.append(op)
            else:
                renamed[op.name] = twin.name
    return Draft(graph, graph.ops[0].name).done(renamed) if renamed else graph
