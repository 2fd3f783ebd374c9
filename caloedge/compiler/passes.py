"""Passes: small functions that make an integer network smaller without changing a single output code.

Each takes a graph and returns one with the same inputs and outputs; what it may do is proven from ranges, not tried out.
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.compiler import fixed
from caloedge.compiler.dense_neighbours import take_neighbours
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.neighbours import find_nearest, look_up_distances, lower_reach, share_moves, shorten_top_k
from caloedge.compiler.ops import (
    Affine,
    Conv,
    Dense,
    InputQuantiser,
    MaxPool,
    Op,
    Output,
    Rearrange,
    Requantise,
    Reshape,
    Table,
    Threshold,
)
from caloedge.compiler.ranges import INT_LIMIT

Pass = Callable[[Graph], Graph]
ELEMENTWISE = Requantise | Affine | Threshold | Table
MAX_ROUNDS = 8


def optimise(graph: Graph) -> Graph:
    """Apply every pass until nothing changes."""
    for _ in range(MAX_ROUNDS):
        before = graph
        for run_pass in PASSES:
            graph = run_pass(graph)
        if graph is before:
            break
    return graph


def fold_constants(graph: Graph) -> Graph:
    """Put what is added to or negated of a convolution's or dense layer's result into its bias and weights."""
    changed: dict[str, Op] = {}
    dropped: dict[str, str] = {}
    for op in graph.ops:
        source = graph[op.inputs[0]] if isinstance(op, Affine) else None
        if not isinstance(op, Affine) or not isinstance(source, Conv | Dense) or len(graph.readers[source.name]) != 1:
            continue
        if source.name in changed or op.weight_format.fraction or not np.all(np.abs(op.weights) == 1):
            continue
        axis = 0 if isinstance(source, Conv) else -1
        filters = len(source.bias)
        weights, bias = (_per_filter(values, axis, filters) for values in (op.weights, op.bias))
        if weights is None or bias is None:
            continue
        turned = source.weights * weights.reshape(-1, *(1,) * (source.weights.ndim - 1))
        fmt = source.weight_format
        if turned.min() < fmt.min_code or turned.max() > fmt.max_code:
            fmt = Format.holding(int(turned.min()), int(turned.max()), fmt.fraction)
        changed[source.name] = replace(source, weights=turned, bias=source.bias * weights + bias, weight_format=fmt)
        dropped[op.name] = source.name
    return _rewired(graph, changed, dropped)


def _per_filter(values: NDArray[np.int64], axis: int, filters: int) -> NDArray[np.int64] | None:
    """Return one number per filter, or None if they differ along another axis."""
    moved = np.moveaxis(values, axis, 0)
    if moved[0].size != 1:
        return None
    return np.broadcast_to(moved.reshape(-1), (filters,))


def merge_requantisations(graph: Graph) -> Graph:
    """Leave out requantisations that change nothing, and let a limit before a requantisation be part of it."""
    changed: dict[str, Op] = {}
    dropped: dict[str, str] = {}
    for op in graph.ops:
        if not isinstance(op, Requantise):
            continue
        x = graph.tensors[op.inputs[0]]
        shift = x.format.fraction - op.format.fraction
        low, high = x.range
        if shift == 0 and op.low <= low and high <= op.high and not isinstance(graph[op.inputs[0]], InputQuantiser):
            dropped[op.name] = op.inputs[0]
            continue
        first = graph[op.inputs[0]]
        if not isinstance(first, Requantise) or len(graph.readers[first.name]) != 1 or first.name in changed:
            continue
        before = graph.tensors[first.inputs[0]]
        if before.format.fraction != first.format.fraction or first.name in dropped or first.inputs[0] in dropped:
            continue
        if shift < 0 and max(map(abs, (*before.range, first.low, first.high))) << -shift >= INT_LIMIT:
            continue  # only what is limited before fits
        ends = [
            int(fixed.requantise(np.array([code]), shift, op.low, op.high, op.rounding)[0]) for code in (first.low, first.high)
        ]
        limits = (max(op.low, ends[0]), min(op.high, ends[1]))
        full_range = op.format.min_code + int(op.narrow and op.format.signed), op.format.max_code
        relu = op.relu or (limits[0] == 0 and first.relu)
        is_default = limits == (0 if relu else full_range[0], full_range[1])
        changed[op.name] = replace(op, inputs=first.inputs, relu=relu, limits=None if is_default else limits)
        dropped[first.name] = first.inputs[0]
    return _rewired(graph, changed, dropped)


def merge_moves(graph: Graph) -> Graph:
    """Make one move of two, and none of those that change nothing."""
    changed: dict[str, Op] = {}
    dropped: dict[str, str] = {}
    for op in graph.ops:
        if not isinstance(op, Rearrange | Reshape):
            continue
        x, result = graph.tensors[op.inputs[0]], graph.tensors[op.name]
        index = _places(graph, op)
        if len(op.inputs) == 1 and result.size == x.size and np.array_equal(index.reshape(-1), np.arange(x.size)):
            if result.shape == x.shape and op.inputs[0] not in dropped:
                dropped[op.name] = op.inputs[0]
                continue
            if isinstance(op, Rearrange):
                changed[op.name] = Reshape(op.name, (op.inputs[0],), result.shape)
        first = graph[op.inputs[0]]
        if len(op.inputs) != 1 or not isinstance(first, Rearrange | Reshape) or first.name in dropped or first.name in changed:
            continue
        filled = isinstance(op, Rearrange) and np.any(op.index == -1)
        inner = _places(graph, first)
        if filled and (isinstance(first, Rearrange) and np.any(first.index == -1) and first.fill != getattr(op, "fill", 0)):
            continue
        composed = np.where(index == -1, -1, inner.reshape(-1)[index])
        if isinstance(first, Reshape) and isinstance(op, Reshape):
            changed[op.name] = Reshape(op.name, first.inputs, result.shape)
            continue
        fill = op.fill if isinstance(op, Rearrange) and filled else getattr(first, "fill", 0)
        kind = op.kind if isinstance(first, Reshape) and isinstance(op, Rearrange) else getattr(first, "kind", "rearrange")
        changed[op.name] = Rearrange(op.name, first.inputs, composed, fill, kind)
    return _rewired(graph, changed, dropped)


def _places(graph: Graph, op: Rearrange | Reshape) -> NDArray[np.int64]:
    if isinstance(op, Rearrange):
        return op.index
    shape = graph.tensors[op.name].shape
    return np.arange(graph.tensors[op.name].size).reshape(shape)


def pad_in_convolutions(graph: Graph) -> Graph:
    """Let a convolution do the zero padding before it itself: the code that both put there is 0."""
    changed: dict[str, Op] = {}
    for op in graph.ops:
        pad = graph[op.inputs[0]] if isinstance(op, Conv) else None
        if not isinstance(op, Conv) or not isinstance(pad, Rearrange) or len(pad.inputs) != 1 or pad.fill:
            continue
        widths = _widths(pad, graph.tensors[pad.inputs[0]].shape)
        if widths is None or any(widths[0]):
            continue
        around = tuple(pair[end] for end in (0, 1) for pair in widths[1:])
        changed[op.name] = replace(op, inputs=pad.inputs, padding=tuple(a + b for a, b in zip(op.padding, around, strict=True)))
    return _rewired(graph, changed, {})


def _widths(pad: Rearrange, shape: tuple[int, ...]) -> list[tuple[int, int]] | None:
    """Return how far each axis of a tensor of `shape` is padded before and after it, if that is all that a move does."""
    places = np.argwhere(pad.index >= 0)
    if pad.index.ndim != len(shape) or not len(places):
        return None
    first, last = places.min(axis=0), places.max(axis=0)
    widths = [(int(a), int(size - 1 - b)) for a, b, size in zip(first, last, pad.index.shape, strict=True)]
    inner = np.arange(int(np.prod(shape))).reshape(shape)
    if any(size - sum(pair) != length for size, pair, length in zip(pad.index.shape, widths, shape, strict=True)):
        return None
    return widths if np.array_equal(np.pad(inner, widths, constant_values=-1), pad.index) else None


def sink_transposes(graph: Graph) -> Graph:
    """Transpose after elementwise operations instead of before them where that brings two transposes together."""
    while (sunk := _one_sunk(graph)) is not graph:
        graph = sunk
    return graph


def _meets_a_move(graph: Graph, op: Op) -> bool:
    """Tell whether nothing but elementwise operations, each read once, lies between here and the next move."""
    while isinstance(op, ELEMENTWISE):
        readers = graph.readers[op.name]
        if len(readers) != 1:
            return False
        op = graph[readers[0]]
    return isinstance(op, Rearrange)


def _one_sunk(graph: Graph) -> Graph:
    for op in graph.ops:
        if not isinstance(op, ELEMENTWISE):
            continue
        first = graph[op.inputs[0]]
        if not isinstance(first, Rearrange) or len(graph.readers[first.name]) != 1 or len(first.inputs) != 1:
            continue
        order = transpose_of(first, graph.tensors[first.inputs[0]].shape)
        if order is None or not _meets_a_move(graph, op):
            continue
        back = np.argsort(order)
        earlier = _transposed(replace(op, inputs=first.inputs), back)
        later = Rearrange(first.name, (op.name,), first.index, kind=first.kind)
        ops: list[Op] = []
        for reader in graph.ops:
            if reader.name == first.name:
                ops.append(earlier)
            elif reader.name == op.name:
                ops.append(later)
            else:
                names = tuple(first.name if name == op.name else name for name in reader.inputs)
                ops.append(replace(reader, inputs=names) if names != reader.inputs else reader)  # type: ignore[arg-type]
        return replace(graph, ops=tuple(ops))
    return graph


def _transposed(op: Requantise | Affine | Threshold | Table, order: NDArray[np.int64]) -> Op:
    """Return the operation for an input whose axes are in another order."""
    match op:
        case Requantise():
            return op
        case Affine():
            return replace(op, weights=op.weights.transpose(order), bias=op.bias.transpose(order))
        case Threshold():
            return replace(op, thresholds=op.thresholds.transpose(*order, len(order)))
        case Table():
            return replace(op, values=op.values.transpose(*order, len(order)))


def transpose_of(op: Rearrange, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """Return the order of axes if a move of a tensor of `shape` is a transpose; of several that fit, the first."""
    places = np.arange(int(np.prod(shape))).reshape(shape)
    if len(shape) > 4 or op.index.size != places.size or op.index.ndim != len(shape):
        return None
    for order in permutations(range(len(shape))):
        if tuple(shape[axis] for axis in order) == op.index.shape and np.array_equal(places.transpose(order), op.index):
            return order
    return None


def remove_dead_channels(graph: Graph) -> Graph:
    """Leave out filters whose result never changes, and put what they contribute into the next layer's bias."""
    for op in graph.ops:
        if isinstance(op, Conv | Dense):
            chain = _chain(graph, op)
            if chain is not None:
                smaller = _without_dead(graph, op, *chain)
                if smaller is not None:
                    return smaller
    return graph


def _chain(graph: Graph, op: Conv | Dense) -> tuple[list[Op], Conv | Dense] | None:
    """Return the operations between a layer and the next one, if each is read once and keeps channels apart."""
    between: list[Op] = []
    current: Op = op
    while True:
        readers = graph.readers[current.name]
        if len(readers) != 1:
            return None
        current = graph[readers[0]]
        if isinstance(current, Conv | Dense):
            plain = current.groups == 1 if isinstance(current, Conv) else len(graph.tensors[current.name].shape) == 1
            return (between, current) if plain else None
        if isinstance(current, Reshape) and len(graph.tensors[current.name].shape) != 1:
            return None
        if not isinstance(current, Requantise | Affine | Threshold | Table | MaxPool | Reshape):
            return None
        between.append(current)


def _without_dead(graph: Graph, op: Conv | Dense, between: list[Op], after: Conv | Dense) -> Graph | None:
    if (isinstance(op, Conv) and op.groups != 1) or not between or len(graph.tensors[op.name].shape) not in (1, 2, 3, 4):
        return None
    if isinstance(op, Dense) and len(graph.tensors[op.name].shape) != 1:
        return None
    filters, last = len(op.bias), graph.tensors[between[-1].name]
    low, high = (bounds.reshape(filters, -1) for bounds in (last.low, last.high))
    value = low[:, 0]
    dead = (low == high).all(axis=1) & (low == value[:, None]).all(axis=1)
    if isinstance(after, Conv) and any(after.padding):
        dead &= value == 0
    if not dead.any() or dead.all():
        return None
    alive = np.flatnonzero(~dead)
    changed: dict[str, Op] = {op.name: replace(op, weights=op.weights[alive], bias=op.bias[alive])}
    for member in between:
        changed[member.name] = _keep_channels(member, alive, filters)
    weights = after.weights.reshape(len(after.bias), filters, -1)
    added = (weights[:, dead].sum(axis=2) * value[dead]).sum(axis=1)
    alive_weights = weights[:, alive].reshape(len(after.bias), -1, *(after.kernel if isinstance(after, Conv) else ()))
    changed[after.name] = replace(after, weights=alive_weights, bias=after.bias + added)
    return _rewired(graph, changed, {})


def _keep_channels(op: Op, alive: NDArray[np.int64], filters: int) -> Op:
    def pick(values: NDArray[np.int64]) -> NDArray[np.int64]:
        return values[alive] if values.shape[0] == filters else values

    match op:
        case Affine():
            return replace(op, weights=pick(op.weights), bias=pick(op.bias))
        case Threshold():
            return replace(op, thresholds=pick(op.thresholds))
        case Table():
            return replace(op, values=pick(op.values))
        case Reshape():
            return replace(op, shape=(-1,))
        case _:
            return op


def narrow_formats(graph: Graph) -> Graph:
    """Give every rounded tensor the narrowest format that holds the codes that can come."""
    changed: dict[str, Op] = {}
    for op in graph.ops:
        if not isinstance(op, Requantise | Threshold | Table):
            continue
        low, high = graph.tensors[op.name].range
        fmt = Format.holding(low, high, op.format.fraction)
        if fmt.width >= op.format.width:
            continue
        if isinstance(op, Requantise):
            relu, full_range = op.relu or low >= 0, (fmt.min_code, fmt.max_code)
            limits = max(op.low, full_range[0]), min(op.high, full_range[1])
            is_default = limits == (0 if relu else full_range[0], full_range[1])
            changed[op.name] = replace(op, format=fmt, relu=relu, narrow=False, limits=None if is_default else limits)
        elif isinstance(op, Table):
            used = np.clip(op.values, fmt.min_code, fmt.max_code)
            changed[op.name] = replace(op, values=used, format=fmt)
        elif {op.base, op.base + op.step * op.thresholds.shape[-1]} <= set(range(fmt.min_code, fmt.max_code + 1)):
            changed[op.name] = replace(op, format=fmt)
    return _rewired(graph, changed, {})


def remove_unread(graph: Graph) -> Graph:
    """Leave out operations that no output depends on."""
    needed = {op.name for op in graph.ops if isinstance(op, Output | InputQuantiser)}
    for op in reversed(graph.ops):
        if op.name in needed:
            needed.update(op.inputs)
    ops = tuple(op for op in graph.ops if op.name in needed)
    return graph if len(ops) == len(graph.ops) else replace(graph, ops=ops)


def _rewired(graph: Graph, changed: dict[str, Any], dropped: dict[str, str]) -> Graph:
    """Return the graph with operations replaced, and with those left out whose readers read another one instead."""
    if not changed and not dropped:
        return graph

    def source(name: str) -> str:
        while name in dropped:
            name = dropped[name]
        return name

    ops = []
    for op in graph.ops:
        if op.name in dropped:
            continue
        new = changed.get(op.name, op)
        names = tuple(source(name) for name in new.inputs)
        ops.append(replace(new, inputs=names) if names != new.inputs else new)
    return remove_unread(replace(graph, ops=tuple(ops)))


PASSES: tuple[Pass, ...] = (
    shorten_top_k,
    find_nearest,
    take_neighbours,
    remove_unread,
    look_up_distances,
    lower_reach,
    fold_constants,
    sink_transposes,
    merge_moves,
    pad_in_convolutions,
    merge_requantisations,
    remove_dead_channels,
    narrow_formats,
    share_moves,
    remove_unread,
)
