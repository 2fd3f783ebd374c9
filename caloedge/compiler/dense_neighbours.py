"""A pass for messages that all N × N pairs of nodes send, of which a flag lets those of the k nearest through.

Without a gather, a GravNet layer is written like this: keys d * N + j are all different, the k-th smallest of a row comes from
TopK, and flag = limit(k-th - key + 1, 0, 1) is 1 for the k nearest. Weights are multiplied by it, sums run over all N messages,
and the maximum runs over messages that are moved below all others where the flag is 0. The same k messages taken by their
indices are a `Nearest` and a `Take`. Everything is proven on constants and ranges; what is not stays as it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from caloedge.compiler import fixed
from caloedge.compiler.fixed import Codes
from caloedge.compiler.graph import Graph
from caloedge.compiler.linear_forms import LinearForm, Places, Term, linear_form, origin
from caloedge.compiler.neighbours import Distances, Draft, coordinates_and_valid, distances_of
from caloedge.compiler.ops import Dense, MaxPool, Multiply, Nearest, Op, Rearrange, Requantise, Reshape, Table, Take, TopK


@dataclass(frozen=True, eq=False)
class Flags:
    """A tensor (N, N) that is 1 for the k nearest nodes of each node, and 0 for others."""

    name: str
    distances: str
    """The tensor (N, N) of their distances."""
    proof: Distances
    k: int


@dataclass(frozen=True, eq=False)
class Messages:
    """Messages (N, N, F): rounded products of features and weights, which are a table of distances times the flag."""

    flags: Flags
    table: Table
    scale: int
    """The table is that of scale * distance + shift."""
    shift: int
    features: tuple[str, Places]
    """The operation that holds the features, and their places in it (N, F)."""
    rounding: Requantise


def take_neighbours(graph: Graph) -> Graph:
    """Let sums and maxima over flagged messages of all pairs of nodes be those over the nearest nodes' messages."""
    for messages in _messages(graph):
        readers = [op for op in graph.ops if _sums(graph, op, messages) or _largest(graph, op, messages)]
        if readers:
            return take_neighbours(_taken(graph, messages, readers))
    return graph


def _taken(graph: Graph, messages: Messages, readers: list[Op]) -> Graph:
    """Replace sums and maxima over N messages by those over k."""
    flags, draft = messages.flags, Draft(graph, readers[0].name)
    nodes, features = messages.features[1].shape
    ends, reach = coordinates_and_valid(draft, flags.proof), flags.proof.reach
    near = [draft.add(part, Nearest("", ends, flags.k, reach, part)) for part in ("distances", "indices")]
    codes = np.arange(reach + 1) * messages.scale + messages.shift - messages.table.first
    values = messages.table.values.reshape(-1)[np.clip(codes, 0, messages.table.values.size - 1)]
    table = draft.add("weights", replace(messages.table, inputs=(near[0],), values=values.reshape(1, 1, -1), first=0))
    taken = draft.add("take", Take("", (draft.show(*messages.features), near[1])))
    weights = draft.add("reshape", Reshape("", (table,), (nodes, flags.k, 1)))
    product = draft.add("multiply", Multiply("", (weights, taken)))
    rounded = draft.add("message", replace(messages.rounding, inputs=(product,)))
    index = np.arange(nodes * flags.k * features).reshape(nodes, flags.k, features).swapaxes(1, 2).reshape(-1, flags.k)
    turned = draft.add("transpose", Rearrange("", (rounded,), index, kind="transpose"))
    renamed = {}
    for op in readers:
        if isinstance(op, Dense):
            renamed[op.name] = draft.add("sum", replace(op, inputs=(turned,), weights=op.weights[:, : flags.k]))
        elif isinstance(op, MaxPool):
            renamed[op.name] = draft.add("pool", replace(op, inputs=(turned,), kernel=(flags.k,)))
    return draft.done(renamed)


# Proofs. Indices: i the receiving node, j the sending one, f the feature.


def _pairs(nodes: int, features: int = 1) -> Places:
    """Return the place of each pair (i, j, f) in a tensor (N, N)."""
    return np.broadcast_to(np.arange(nodes * nodes).reshape(nodes, nodes, 1), (nodes, nodes, features))


def _same(array: Places) -> int | None:
    """Return the number that all elements are, or None."""
    first = array.flat[0]
    return int(first) if (array == first).all() else None


def _terms(form: LinearForm, *wanted: tuple[str, Places]) -> tuple[Term, ...] | None:
    """Return the terms of a form in the order of the operations and places that they must have, or None if they have not."""
    if len(form.terms) != len(wanted):
        return None
    found = []
    for name, places in wanted:
        term = next((term for term in form.terms if term.op == name and np.array_equal(term.places, places)), None)
        if term is None:
            return None
        found.append(term)
    return tuple(found)


def _all_flags(graph: Graph) -> Iterator[Flags]:
    for op in graph.ops:
        if not isinstance(op, TopK) or op.largest or op.part != "values" or graph.tensors[op.name].shape[:-1] == ():
            continue
        form = linear_form(graph, op.inputs[0])
        proof = distances_of(graph, form.terms[0].op) if len(form.terms) == 1 else None
        if proof is None:
            continue
        (term,), nodes = form.terms, form.constant.shape[0]
        step, order = _same(term.weights), form.constant[0]
        # Keys step * d + order[j]: all of a row differ, and they are in the order of (d, j).
        ordered = step is not None and (np.diff(order) > 0).all() and order[-1] - order[0] < step
        if not ordered or (form.constant != order).any() or not np.array_equal(term.places, _pairs(nodes)[..., 0]):
            continue
        for other in graph.ops:
            if isinstance(other, Requantise) and _is_flag(graph, other, op, term, order):
                yield Flags(other.name, term.op, proof, op.k)


def _is_flag(graph: Graph, op: Requantise, best: TopK, key: Term, order: Places) -> bool:
    """Tell whether an operation is 1 where a key is not larger than the k-th smallest of its row, and 0 elsewhere."""
    nodes = len(order)
    if graph.tensors[op.name].shape != (nodes, nodes):
        return False
    form = linear_form(graph, op.inputs[0])
    last = np.broadcast_to(np.arange(nodes)[:, None] * best.k + best.k - 1, (nodes, nodes))
    terms = _terms(form, (best.name, last), (key.op, key.places))
    factor = None if terms is None else _same(terms[0].weights)
    if terms is None or factor is None or factor < 1 or not (terms[1].weights == -factor * key.weights).all():
        return False
    constant = _same(form.constant + factor * order)  # what is rounded for the k-th key itself; for the next one, `factor` less
    if constant is None or (op.low, op.high) != (0, 1):
        return False
    return bool((_rounded(graph, op, np.array([constant, constant - factor])) == (1, 0)).all())


def _rounded(graph: Graph, op: Requantise, codes: Codes) -> Codes:
    shift = graph.tensors[op.inputs[0]].format.fraction - op.format.fraction
    return fixed.requantise(codes, shift, op.low, op.high, op.rounding)


def _messages(graph: Graph) -> Iterator[Messages]:
    for flags in _all_flags(graph):
        for product in graph.ops:
            if not isinstance(product, Multiply) or len(graph.tensors[product.name].shape) != 3:
                continue
            for weights, features in (product.inputs, product.inputs[::-1]):
                table = _weights(graph, weights, flags)
                places = origin(graph.__getitem__, graph.tensors, features)
                if table is None or places[1].shape != (1, *graph.tensors[product.name].shape[1:]):
                    continue
                for name in graph.readers[product.name]:
                    reader = graph[name]
                    if isinstance(reader, Requantise) and reader.low <= 0 <= reader.high:  # a message of weight 0 is 0
                        yield Messages(flags, *table, (places[0], places[1][0]), reader)


def _weights(graph: Graph, name: str, flags: Flags) -> tuple[Table, int, int] | None:
    """Return the table, scale and shift if a tensor (N, N, 1) is a table of scale * distance + shift, times the flag."""
    source, places = origin(graph.__getitem__, graph.tensors, name)
    nodes = graph.tensors[flags.name].shape[0]
    op = graph[source]
    if not isinstance(op, Multiply) or flags.name not in op.inputs or not np.array_equal(places, _pairs(nodes)):
        return None
    (other,) = [name for name in op.inputs if name != flags.name] or [flags.name]
    table = graph[other]
    if not isinstance(table, Table) or table.values.size != table.values.shape[-1]:
        return None
    form = linear_form(graph, table.inputs[0])
    terms = _terms(form, (flags.distances, _pairs(nodes)[..., 0]))
    scale, shift = (None, None) if terms is None else (_same(terms[0].weights), _same(form.constant))
    return None if scale is None or shift is None else (table, scale, shift)


def _rows_of_messages(graph: Graph, name: str, messages: Messages) -> str | None:
    """Return the operation (N, N, F) of which a tensor holds the elements as (N * F, N): senders along the last axis."""
    nodes, features = messages.features[1].shape
    source, places = origin(graph.__getitem__, graph.tensors, name)
    wanted = np.arange(nodes * nodes * features).reshape(nodes, nodes, features).swapaxes(1, 2).reshape(-1, nodes)
    return source if np.array_equal(places, wanted) else None


def _sums(graph: Graph, op: Op, messages: Messages) -> bool:
    """Tell whether a dense layer weighs all messages alike: those of flag 0 are 0, and their order is of no account."""
    if not isinstance(op, Dense) or _rows_of_messages(graph, op.inputs[0], messages) != messages.rounding.name:
        return False
    return bool((op.weights == op.weights[:, :1]).all())


def _largest(graph: Graph, op: Op, messages: Messages) -> bool:
    """Tell whether a max pool takes the largest message of flag 1: others are moved to the lowest that can come, or below it."""
    if not isinstance(op, MaxPool) or op.kernel != graph.tensors[op.inputs[0]].shape[1:]:
        return False
    source = _rows_of_messages(graph, op.inputs[0], messages)
    moved = None if source is None else graph[source]
    message = graph.tensors[messages.rounding.name]
    if not isinstance(moved, Requantise) or moved.format.fraction != message.format.fraction:
        return False
    form = linear_form(graph, moved.inputs[0])
    every = np.arange(message.size).reshape(message.shape)
    terms = _terms(form, (messages.rounding.name, every), (messages.flags.name, _pairs(*message.shape[1:])))
    numbers = [_same(array) for array in (*(term.weights for term in terms or ()), form.constant)]
    factor, step, constant = numbers if terms else (None, None, None)
    if factor is None or step is None or constant is None:
        return False
    low, high = message.range
    codes = np.append(np.arange(low, high + 1) * factor + step + constant, constant)  # of flag 1, then of flag 0
    found = _rounded(graph, moved, codes)
    return bool((found[:-1] == np.arange(low, high + 1)).all() and found[-1] <= low)
