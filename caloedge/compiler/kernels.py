"""Calculation of each operation: functions on arrays whose last axis is the event axis.

With events last, every slice of an image is one contiguous copy and a dense layer one matrix product. Arrays hold integers in
the fastest number type that is exact for them: float32 and float64 count exactly up to 2**24 and 2**53.
"""

from collections.abc import Callable, Mapping
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from caloedge.compiler import fixed
from caloedge.compiler.fixed import Codes, Rounding
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
from caloedge.compiler.ranges import FLOAT64_EXACT, Tensor, conv_columns, max_pool, threshold

Array = NDArray[Any]
Kernel = Callable[..., Array]

FLOAT32_EXACT = 2**24
TABLE_ENTRIES = 2**16
"""Thresholds over a smaller range of codes are calculated as a table."""


def exact_type(bound: int) -> type[np.float32 | np.float64 | np.int64]:
    """Return the fastest number type that holds every integer up to `bound` exactly."""
    return np.float32 if bound < FLOAT32_EXACT else np.float64 if bound < FLOAT64_EXACT else np.int64


def kernel(op: Op, tensors: Mapping[str, Tensor]) -> Kernel:
    """Return the function of one operation, from arrays (*input_shape, E) to (*shape, E)."""
    match op:
        case InputQuantiser():
            raise AssertionError("the input has no kernel")
        case Conv():
            return _conv_kernel(op, tensors[op.name])
        case Dense():
            return _dense_kernel(op, tensors[op.name])
        case Affine():
            dtype = exact_type(tensors[op.name].bound)
            weights, bias = op.weights.astype(dtype)[..., None], op.bias.astype(dtype)[..., None]
            return lambda x: _affine(weights, x.astype(dtype, copy=False), bias)
        case Add():
            return _add_kernel(op, tensors)
        case Multiply():
            dtype = exact_type(tensors[op.name].bound)
            return lambda a, b: a.astype(dtype, copy=False) * b.astype(dtype, copy=False)
        case MatMul():
            return _matmul_kernel(tensors[op.name])
        case Requantise():
            return _requantise_kernel(op, tensors[op.inputs[0]])
        case Threshold():
            return _threshold_kernel(op, tensors)
        case Table():
            return _table_kernel(op.values, op.first, exact_type(tensors[op.name].bound))
        case MaxPool():
            return lambda x: max_pool(x, op)
        case Reshape():
            shape = tensors[op.name].shape
            return lambda x: x.reshape(*shape, x.shape[-1])
        case Rearrange():
            return _rearrange_kernel(op, tensors[op.name])
        case Softmax():
            return _softmax_kernel(op, exact_type(tensors[op.name].bound))
        case TopK():
            return _top_k_kernel(op, exact_type(tensors[op.name].bound))
        case Nearest() | Condense():
            halves = halves_kernel(op, tensors)
            return lambda *inputs: halves(*inputs)[op.part]
        case Take():
            return _take_kernel(tensors[op.name], tensors[op.inputs[1]])
        case Output():
            return lambda x: x
        case _:
            assert_never(op)


def largest_array(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """Return how many numbers per event the largest array of this operation holds."""
    size = tensors[op.name].size
    if isinstance(op, Conv):
        return max(size, int(op.weights[0].size) * op.groups * size // len(op.bias))
    return size


def _affine(weights: Array, x: Array, bias: Array) -> Array:
    result: Array = weights * x
    result += bias
    return result


def _product(weights: Array, x: Array, bias: Array) -> Array:
    result: Array = weights @ x
    result += bias
    return result


def _conv_kernel(op: Conv, result: Tensor) -> Kernel:
    dtype = exact_type(result.bound)
    weights = op.weights.reshape(op.groups, len(op.bias) // op.groups, -1).astype(dtype)
    bias = op.bias.reshape(op.groups, -1, 1).astype(dtype)

    def convolve(x: Array) -> Array:
        columns = conv_columns(x.astype(dtype, copy=False), op)
        if op.groups == 1:
            return _product(weights[0], columns[0], bias[0]).reshape(*result.shape, x.shape[-1])
        return _product(weights, columns, bias).reshape(*result.shape, x.shape[-1])

    return convolve


def _dense_kernel(op: Dense, result: Tensor) -> Kernel:
    dtype = exact_type(result.bound)
    weights, bias = op.weights.astype(dtype), op.bias.astype(dtype)[:, None]
    return lambda x: _product(weights, x.astype(dtype, copy=False), bias)  # leading axes are those of a stack of matrices


def _add_kernel(op: Add, tensors: Mapping[str, Tensor]) -> Kernel:
    result = tensors[op.name]
    dtype = exact_type(result.bound)
    factors = [dtype(2) ** dtype(result.format.fraction - tensors[name].format.fraction) for name in op.inputs]
    return lambda a, b: a.astype(dtype, copy=False) * factors[0] + b.astype(dtype, copy=False) * factors[1]


def _matmul_kernel(result: Tensor) -> Kernel:
    dtype = exact_type(result.bound)

    def multiply(a: Array, b: Array) -> Array:
        a, b = (np.moveaxis(x.astype(dtype, copy=False), -1, 0) for x in (a, b))
        return np.moveaxis(np.matmul(a, b), 0, -1)

    return multiply


def _requantise_kernel(op: Requantise, x: Tensor) -> Kernel:
    shift = x.format.fraction - op.format.fraction
    low, high = op.low, op.high
    largest = max(abs(high), abs(low))
    # Bits beyond the float's own are never made: the input is exact in its type, and the limits must be as well.
    in_float = op.rounding is Rounding.HALF_EVEN and x.bound < FLOAT64_EXACT
    if in_float and largest < (FLOAT32_EXACT if x.bound < FLOAT32_EXACT else FLOAT64_EXACT):
        return lambda codes: fixed.requantise_float(codes, shift, low, high)
    dtype = exact_type(largest)
    return lambda codes: fixed.requantise(codes.astype(np.int64), shift, low, high, op.rounding).astype(dtype)


def _threshold_kernel(op: Threshold, tensors: Mapping[str, Tensor]) -> Kernel:
    x, dtype = tensors[op.inputs[0]], exact_type(tensors[op.name].bound)
    low, high = x.range
    if high - low < TABLE_ENTRIES and (high - low + 1) * op.thresholds[..., 0].size < FLOAT32_EXACT:
        all_codes = np.arange(low, high + 1)
        rows = [np.searchsorted(row, all_codes, side="right") for row in op.thresholds.reshape(-1, op.thresholds.shape[-1])]
        counts = np.reshape(rows, (*op.thresholds.shape[:-1], len(all_codes)))
        return _table_kernel(op.base + op.step * counts, low, dtype)
    return lambda codes: threshold(codes.astype(np.int64), op).astype(dtype)


def _table_kernel(values: Codes, first: int, dtype: type[Any]) -> Kernel:
    entries = values.shape[-1]
    flat = values.reshape(-1).astype(dtype)
    rows = (np.arange(flat.size // entries) * entries).reshape(*values.shape[:-1], 1) - first
    return lambda codes: flat[codes.astype(np.int64) + rows]


def _rearrange_kernel(op: Rearrange, result: Tensor) -> Kernel:
    dtype = exact_type(result.bound)
    flat = op.index.reshape(-1)
    outside = np.flatnonzero(flat == -1)

    def rearrange(*inputs: Array) -> Array:
        rows = [x.reshape(-1, x.shape[-1]).astype(dtype, copy=False) for x in inputs]
        together = rows[0] if len(rows) == 1 else np.concatenate(rows)
        moved: Array = together[flat]
        moved[outside] = op.fill
        return moved.reshape(*op.index.shape, moved.shape[-1])

    return rearrange


def _softmax_kernel(op: Softmax, dtype: type[Any]) -> Kernel:
    exponentials = np.append(op.exponentials, 0)
    numerator, denominator = op.ratio

    def softmax(x: Array) -> Array:
        codes = x.astype(np.int64)
        below = codes.max(axis=-2, keepdims=True) - codes
        powers = exponentials[np.minimum(below, len(op.exponentials))]
        dividend, divisor = powers * numerator, powers.sum(axis=-2, keepdims=True) * denominator
        quotient, twice_rest = dividend // divisor, 2 * (dividend % divisor)
        quotient += (twice_rest > divisor) | ((twice_rest == divisor) & (quotient & 1 == 1))
        return fixed.saturate(quotient, 0, op.format.max_code).astype(dtype)

    return softmax


def _top_k_kernel(op: TopK, dtype: type[Any]) -> Kernel:
    def best(x: Array) -> Array:
        order = np.argsort(-x if op.largest else x, axis=-2, kind="stable")[..., : op.k, :]
        return (order if op.part == "indices" else np.take_along_axis(x, order, axis=-2)).astype(dtype, copy=False)

    return best


# Nodes


def _whole_type(bound: int) -> type[np.int16 | np.int32 | np.int64]:
    """Return the narrowest, and so the fastest, number type that counts up to `bound`."""
    return np.int16 if bound < 2**15 else np.int32 if bound < 2**31 else np.int64


def _distance_type(x: Tensor, limit: int) -> type[np.int16 | np.int32 | np.int64]:
    """Return the number type of differences and Manhattan distances of coordinates, and of a limit of these."""
    spans = x.high.max(axis=0) - x.low.min(axis=0)
    return _whole_type(max(int(spans.sum()), limit, x.bound))


def _distances(x: Array, center: Array) -> Array:
    """Return the Manhattan distances of nodes at `x` (D, N, E) from centers (D, ...): (N, E), or what both repeat to."""
    total: Array = np.abs(x[0] - center[0])
    difference = np.empty_like(total)
    for coordinate, middle in zip(x[1:], center[1:], strict=True):
        np.subtract(coordinate, middle, out=difference)
        np.abs(difference, out=difference)
        total += difference
    return total


def halves_kernel(op: Nearest | Condense, tensors: Mapping[str, Tensor]) -> Callable[..., dict[str, Array]]:
    """Return the function of all parts of a search or choice: {part: array}; the second one costs next to nothing."""
    return _nearest_kernel(op, tensors) if isinstance(op, Nearest) else _condense_kernel(op, tensors)


def _nearest_kernel(op: Nearest, tensors: Mapping[str, Tensor]) -> Callable[..., dict[str, Array]]:
    """Return the function from coordinates and valid to distances and indices.

    Keys distance << bits | index of one node all differ, and are in the order of (distance, index). Candidates come in blocks,
    whose smallest keys are merged with those of earlier ones: memory is linear in the number of nodes.
    """
    x = tensors[op.inputs[0]]
    nodes, dtype = x.shape[0], _distance_type(x, op.reach)
    bits = (nodes - 1).bit_length()
    key_type = _whole_type((op.reach + 1) << bits)
    width = 1 << (op.k - 1).bit_length()

    def nearest(coordinates: Array, valid: Array) -> dict[str, Array]:
        x_DNE: Array = np.ascontiguousarray(coordinates.astype(dtype).swapaxes(0, 1))
        hidden_NE = np.where(valid > 0, 0, op.reach).astype(dtype)
        best = None
        for first in range(0, nodes, 4 * width):
            j = np.arange(first, min(first + 4 * width, nodes))
            distances_JNE = np.maximum(_distances(x_DNE[:, None], x_DNE[:, j, None]), hidden_NE[j, None])
            distances_JNE[j - first, j] = op.reach
            groups = 1 << (-(-len(j) // width) - 1).bit_length()
            keys_JNE = np.full((groups * width, *hidden_NE.shape), np.iinfo(key_type).max, dtype=key_type)
            np.minimum(distances_JNE, op.reach, out=keys_JNE[: len(j)], casting="unsafe")
            keys_JNE[: len(j)] *= key_type(1 << bits)
            keys_JNE[: len(j)] += j.astype(key_type)[:, None, None]
            found = _smallest(keys_JNE, width)
            best = found if best is None else _merged(np.stack([best, found]))[0]
        assert best is not None
        keys_NKE = best[: op.k].swapaxes(0, 1)
        distance_type = exact_type(op.reach)
        return {
            "distances": (keys_NKE >> bits).astype(distance_type),
            "indices": (keys_NKE & key_type((1 << bits) - 1)).astype(exact_type(nodes)),
        }

    return nearest


def _smallest(keys: Array, width: int) -> Array:
    """Return the `width` smallest of keys (J, ...) in order along the first axis; `width` and J / `width` are powers of two.

    A bitonic network (Batcher, 1968), each of whose levels is a few operations on whole arrays: it sorts groups of `width`,
    then it merges two groups into the smaller half of them until one is left.
    """
    size = 2
    while size <= width:
        groups = keys.reshape(-1, size, *keys.shape[1:])
        _exchange(groups[:, : size // 2], groups[:, : size // 2 - 1 : -1])
        _sort_bitonic(groups, size // 4)
        size *= 2
    groups = keys.reshape(-1, width, *keys.shape[1:])
    while len(groups) > 1:
        groups = _merged(groups)
    first: Array = groups[0]
    return first


def _merged(groups: Array) -> Array:
    """Merge sorted groups (2 G, width, ...) by twos into their smaller halves, in order: (G, width, ...)."""
    smaller: Array = np.minimum(groups[::2], groups[1::2, ::-1])
    _sort_bitonic(smaller, smaller.shape[1] // 2)
    return smaller


def _sort_bitonic(groups: Array, step: int) -> None:
    """Sort bitonic groups (G, width, ...) in place: exchange what lies `step` apart, then half of that, down to neighbours."""
    while step:
        pairs = groups.reshape(-1, 2, step, *groups.shape[2:])
        _exchange(pairs[:, 0], pairs[:, 1])
        step //= 2


def _exchange(a: Array, b: Array) -> None:
    """Put the smaller of each pair into a and the larger into b."""
    smaller = np.minimum(a, b)
    np.maximum(a, b, out=b)
    a[...] = smaller


def _take_kernel(result: Tensor, indices: Tensor) -> Kernel:
    dtype, holes = exact_type(result.bound), indices.range[0] < 0

    def take(values: Array, index: Array) -> Array:
        rows, features, events = values.shape
        # Event by event, so that the features of a node lie side by side and are copied at once.
        values_ENF: Array = np.zeros((events, rows + holes, features), dtype=dtype)
        values_ENF[:, :rows] = values.transpose(2, 0, 1)
        places = (index.astype(np.int64) if not holes else np.where(index < 0, rows, index).astype(np.int64)).reshape(-1, events)
        places += np.arange(events) * (rows + holes)
        taken: Array = np.take(values_ENF.reshape(-1, features), places, axis=0)
        return np.ascontiguousarray(taken.swapaxes(1, 2)).reshape(*index.shape[:-1], features, events)

    return take


def _condense_kernel(op: Condense, tensors: Mapping[str, Tensor]) -> Callable[..., dict[str, Array]]:
    """Return the function from score, coordinates and valid to indices and status."""
    score_low, x = tensors[op.inputs[0]].range[0], tensors[op.inputs[1]]
    dtype, distance_type = exact_type(x.shape[0]), _distance_type(x, op.apart)

    def condense(score: Array, coordinates: Array, valid: Array) -> dict[str, Array]:
        codes = score.astype(np.int64)
        x_DNE = coordinates.astype(distance_type).swapaxes(0, 1)
        alive = (valid > 0) & (codes >= op.threshold)
        events, accepted = np.arange(score.shape[-1]), np.full((op.most, score.shape[-1]), -1, dtype=np.int64)
        for place in accepted:
            found = alive.any(axis=0)
            if not found.any():
                break
            best = np.argmax(np.where(alive, codes, score_low - 1), axis=0)  # the first of equal ones
            place[found] = best[found]
            near = _distances(x_DNE, x_DNE[:, best, events]) < op.apart
            alive &= ~near | ~found
        status = np.stack([(accepted >= 0).sum(axis=0), alive.any(axis=0)])
        return {"indices": accepted.astype(dtype), "status": status.astype(dtype)}

    return condense
