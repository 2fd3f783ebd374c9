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
        case Nearest():
            return _nearest_kernel(op, tensors)
        case Take():
            return _take_kernel(tensors[op.name], tensors[op.inputs[1]])
        case Condense():
            return _condense_kernel(op, tensors)
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
    """Return the Manhattan distances (N, E) of nodes at `x` (D, N, E) from a center (D, E)."""
    total: Array = np.abs(x[0] - center[0])
    difference = np.empty_like(total)
    for coordinate, middle in zip(x[1:], center[1:], strict=True):
        np.subtract(coordinate, middle, out=difference)
        np.abs(difference, out=difference)
        total += difference
    return total


def _nearest_kernel(op: Nearest, tensors: Mapping[str, Tensor]) -> Kernel:
    x, dtype = tensors[op.inputs[0]], exact_type(tensors[op.name].bound)
    keys = smallest_keys(op, x)
    nodes = x.shape[0]

    def nearest(coordinates: Array, valid: Array) -> Array:
        found = keys(coordinates, valid)
        return (found % nodes if op.part == "indices" else found // nodes).astype(dtype)

    return nearest


def smallest_keys(op: Nearest, x: Tensor) -> Kernel:
    """Return the function from coordinates and valid to the k smallest distance * N + index of each node: (N, k, E).

    All keys of a node differ, so their order is that of (distance, index). Memory is linear in N: candidates j come one after the
    other, and each is sorted into the best so far of all nodes i at once.
    """
    nodes, dtype = x.shape[0], _distance_type(x, op.reach)
    key_type = _whole_type((op.reach + 1) * nodes)

    def keys(coordinates: Array, valid: Array) -> Array:
        x_DNE: Array = np.ascontiguousarray(coordinates.astype(dtype).swapaxes(0, 1))
        hidden = np.where(valid > 0, 0, op.reach).astype(dtype)
        best = [np.full(x_DNE.shape[1:], np.iinfo(key_type).max, dtype=key_type) for _ in range(op.k)]
        for j in range(nodes):
            distance = np.maximum(_distances(x_DNE, x_DNE[:, j]), hidden[j])
            distance[j] = op.reach
            key = np.minimum(distance, op.reach).astype(key_type)
            key *= key_type(nodes)
            key += key_type(j)
            for place in best[: j + 1]:
                smaller = np.minimum(place, key)
                np.maximum(place, key, out=key)
                place[:] = smaller
        return np.stack(best, axis=1)

    return keys


def _take_kernel(result: Tensor, indices: Tensor) -> Kernel:
    dtype, holes = exact_type(result.bound), indices.range[0] < 0

    def take(values: Array, index: Array) -> Array:
        rows, features, events = values.shape
        if holes:
            values = np.concatenate([values, np.zeros_like(values[:1])])
            index = np.where(index < 0, rows, index)
        first = index.astype(np.int64) * (features * events) + np.arange(events)
        places = first[..., None, :] + np.arange(features)[:, None] * events
        taken: Array = np.take(values.reshape(-1), places)
        return taken.astype(dtype, copy=False)

    return take


def _condense_kernel(op: Condense, tensors: Mapping[str, Tensor]) -> Kernel:
    score_low, x = tensors[op.inputs[0]].range[0], tensors[op.inputs[1]]
    dtype, distance_type = exact_type(tensors[op.name].bound), _distance_type(x, op.apart)

    def condense(score: Array, coordinates: Array, valid: Array) -> Array:
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
        if op.part == "indices":
            return accepted.astype(dtype)
        return np.stack([(accepted >= 0).sum(axis=0), alive.any(axis=0)]).astype(dtype)

    return condense
