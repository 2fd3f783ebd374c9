"""Proofs about every operation's result: shape, format, the exact range of each element, a bound of all partial sums."""
# Axes: C channel, K kernel element (channel, kernel position), P output position, F filter or feature.

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from caloedge.compiler import fixed
from caloedge.compiler.fixed import Codes, Format
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
from caloedge.errors import Unsupported

FLOAT64_EXACT = 2**53
INT_LIMIT = 2 ** (fixed.MAX_WIDTH - 1)
"""Bound of every partial sum and code: a signed format holds it, and no int64 operation can overflow."""
MAX_ELEMENTS = 2**24
"""Largest tensor that is compiled: its ranges are kept element by element."""


class TooWide(Unsupported):
    """Report a layer whose sums may not fit 62 bits."""


@dataclass(frozen=True, eq=False)
class Tensor:
    """Proven facts about the result of one operation, for every input that its format admits."""

    shape: tuple[int, ...]
    """Shape without the event axis."""
    format: Format
    low: Codes
    """Lowest code of each element, of `shape`; exact when the inputs are independent, else a safe bound."""
    high: Codes
    """Highest code of each element, of `shape`."""
    bound: int
    """No partial sum on the way to this tensor is larger in magnitude, in any order of summation."""

    @property
    def range(self) -> tuple[int, int]:
        """Lowest and highest code over all elements."""
        return int(self.low.min()), int(self.high.max())

    @property
    def size(self) -> int:
        """Number of elements per event."""
        return math.prod(self.shape)


def infer(op: Op, inputs: list[Tensor]) -> Tensor:
    """Return the shape, format and exact range of an operation's result from those of its inputs."""
    match op:
        case InputQuantiser():
            return _infer_input(op)
        case Conv():
            return _infer_conv(op, inputs[0])
        case Dense():
            return _infer_dense(op, inputs[0])
        case Affine():
            return _infer_affine(op, inputs[0])
        case Add():
            return _infer_add(op, *inputs)
        case Multiply():
            return _infer_multiply(op, *inputs)
        case MatMul():
            return _infer_matmul(op, *inputs)
        case Requantise():
            return _infer_requantise(op, inputs[0])
        case Threshold():
            return _infer_threshold(op, inputs[0])
        case Table():
            return _infer_table(op, inputs[0])
        case MaxPool():
            return _infer_max_pool(op, inputs[0])
        case Reshape():
            return _infer_reshape(op, inputs[0])
        case Rearrange():
            return _infer_rearrange(op, inputs)
        case Softmax():
            return _infer_softmax(op, inputs[0])
        case TopK():
            return _infer_top_k(op, inputs[0])
        case Nearest():
            return _infer_nearest(op, *inputs)
        case Take():
            return _infer_take(op, *inputs)
        case Condense():
            return _infer_condense(op, *inputs)
        case Output():
            return inputs[0]
        case _:
            assert_never(op)


def words(shape: tuple[int, ...]) -> str:
    """Write a shape without brackets."""
    return ", ".join(map(str, shape))


def _infer_input(op: InputQuantiser) -> Tensor:
    _refuse_huge(op.name, op.shape)
    low = np.full(op.shape, op.format.min_code + int(op.narrow and op.format.signed), dtype=np.int64)
    high = np.full(op.shape, op.format.max_code, dtype=np.int64)
    return _tensor(op.format, low, high)


def _tensor(fmt: Format, low: Codes, high: Codes, bound: int = 0) -> Tensor:
    return Tensor(low.shape, fmt, low, high, max(bound, _magnitude(low, high)))


def _exact(name: str, low: Codes, high: Codes, fraction: int, bound: int) -> Tensor:
    """Return the tensor of an operation that does not round; its format holds the whole range."""
    _refuse_wide(name, bound)
    return _tensor(Format.holding(int(low.min()), int(high.max()), fraction), low, high, bound)


def _refuse_wide(name: str, bound: float) -> None:
    if bound >= INT_LIMIT * (1 - 1e-9):  # the margin covers the rounding of a bound that was summed in float64
        raise TooWide(f"layer {name}: its sums may reach {bound:.3g} and do not fit 62 bits; use fewer bits per weight or input")


def _refuse_huge(name: str, shape: tuple[int, ...]) -> None:
    if not shape or min(shape) < 1:
        raise Unsupported(f"layer {name}: a result of shape ({words(shape)}) is not possible")
    if math.prod(shape) > MAX_ELEMENTS:
        raise Unsupported(f"layer {name}: a tensor of {math.prod(shape):,} elements is larger than the limit of {MAX_ELEMENTS:,}")


# Sums of products


def _infer_conv(op: Conv, x: Tensor) -> Tensor:
    channels = op.weights.shape[1] * op.groups
    if len(x.shape) != len(op.kernel) + 1 or x.shape[0] != channels:
        axes = ", ".join("DHW"[-len(op.kernel) :])
        raise Unsupported(f"layer {op.name}: ({channels}, {axes}) expected, but ({words(x.shape)}) given")
    sizes = conv_sizes(op, x.shape)
    if min(sizes) < 1:
        raise Unsupported(f"layer {op.name}: the kernel is larger than its padded input ({words(x.shape)})")
    _refuse_huge(op.name, (math.prod(op.weights.shape[1:]) * op.groups, *sizes))
    low, high = (conv_columns(bounds[..., None], op) for bounds in (x.low, x.high))
    return _infer_product(op, x, low, high, (len(op.bias), *sizes))


def conv_sizes(op: Conv, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of a convolution's result along each axis, for an input (C, *sizes)."""
    axes = len(op.kernel)
    return tuple(
        (shape[1 + i] + op.padding[i] + op.padding[axes + i] - (op.kernel[i] - 1) * op.dilation[i] - 1) // op.stride[i] + 1
        for i in range(axes)
    )


def conv_columns(x: NDArray[Any], op: Conv) -> NDArray[Any]:
    """Lay out the inputs (C, *sizes, E) of every kernel position: (groups, K, P*E)."""
    axes = len(op.kernel)
    channels, n_events = x.shape[0], x.shape[-1]
    sizes = conv_sizes(op, x.shape[:-1])
    if any(op.padding):
        x = np.pad(x, ((0, 0), *((op.padding[i], op.padding[axes + i]) for i in range(axes)), (0, 0)))
    columns = np.empty((channels, *op.kernel, *sizes, n_events), dtype=x.dtype)
    for position in product(*map(range, op.kernel)):
        into: tuple[slice | int, ...] = (slice(None), *position)
        columns[into] = x[(slice(None), *window(position, sizes, op.stride, op.dilation))]
    return columns.reshape(op.groups, -1, math.prod(sizes) * n_events)


def window(
    position: tuple[int, ...], sizes: tuple[int, ...], stride: tuple[int, ...], dilation: tuple[int, ...]
) -> Iterator[slice]:
    """Yield for each axis the slice that one kernel position reads, over all output positions."""
    for first, count, step, gap in zip(position, sizes, stride, dilation, strict=True):
        yield slice(first * gap, first * gap + (count - 1) * step + 1, step)


def _infer_dense(op: Dense, x: Tensor) -> Tensor:
    if x.shape[-1] != op.weights.shape[1]:
        raise Unsupported(f"layer {op.name}: ({op.weights.shape[1]}) expected, but ({words(x.shape)}) given")
    shape = (*x.shape[:-1], len(op.bias))
    _refuse_huge(op.name, shape)
    low, high = (bounds.reshape(1, -1, x.shape[-1]).swapaxes(1, 2) for bounds in (x.low, x.high))
    flat = _infer_product(op, x, low, high, (len(op.bias), math.prod(x.shape[:-1])))
    return replace(flat, shape=shape, low=flat.low.T.reshape(shape), high=flat.high.T.reshape(shape))


def _infer_product(op: Conv | Dense, x: Tensor, low: Codes, high: Codes, shape: tuple[int, ...]) -> Tensor:
    """Bound weights @ x + bias for x (groups, K, P) between `low` and `high`, element by element."""
    groups = len(low)
    weights, bias = op.weights.reshape(groups, len(op.weights) // groups, -1), op.bias.reshape(groups, -1, 1)
    largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    bound = float((np.abs(weights).astype(np.float64) @ largest + np.abs(bias)).max())
    _refuse_wide(op.name, bound)
    # Below 2**53 the float64 product is exact and far quicker than the integer one.
    dtype: type[np.float64 | np.int64] = np.float64 if bound < FLOAT64_EXACT else np.int64
    positive, negative = np.maximum(weights, 0).astype(dtype), np.minimum(weights, 0).astype(dtype)
    low, high = low.astype(dtype), high.astype(dtype)
    lowest = (positive @ low + negative @ high).astype(np.int64) + bias
    highest = (positive @ high + negative @ low).astype(np.int64) + bias
    fraction = x.format.fraction + op.weight_format.fraction
    return _exact(op.name, lowest.reshape(shape), highest.reshape(shape), fraction, math.ceil(bound))


def _infer_affine(op: Affine, x: Tensor) -> Tensor:
    _refuse_other_rank(op.name, x.shape, op.weights.shape)
    bound = float((np.abs(op.weights).astype(np.float64) * np.maximum(np.abs(x.low), np.abs(x.high)) + np.abs(op.bias)).max())
    _refuse_wide(op.name, bound)
    ends = op.weights * x.low + op.bias, op.weights * x.high + op.bias
    fraction = x.format.fraction + op.weight_format.fraction
    return _exact(op.name, np.minimum(*ends), np.maximum(*ends), fraction, math.ceil(bound))


def _refuse_other_rank(name: str, shape: tuple[int, ...], constants: tuple[int, ...]) -> None:
    if len(shape) != len(constants) or any(n not in (1, size) for n, size in zip(constants, shape, strict=True)):
        raise Unsupported(f"layer {name}: constants ({words(constants)}) do not fit its input ({words(shape)})")


def _infer_add(op: Add, a: Tensor, b: Tensor) -> Tensor:
    _common_shape(op.name, a.shape, b.shape)
    fraction = max(a.format.fraction, b.format.fraction)
    shifts = fraction - a.format.fraction, fraction - b.format.fraction
    if max(shifts) > fixed.MAX_WIDTH:
        raise Unsupported(f"layer {op.name}: the scales of {a.format} and {b.format} lie too far apart to be added in 62 bits")
    bound = (a.bound << shifts[0]) + (b.bound << shifts[1])
    _refuse_wide(op.name, bound)
    low, high = ((x << shifts[0]) + (y << shifts[1]) for x, y in ((a.low, b.low), (a.high, b.high)))
    return _exact(op.name, low, high, fraction, bound)


def _common_shape(name: str, a: tuple[int, ...], b: tuple[int, ...]) -> tuple[int, ...]:
    if len(a) != len(b) or any(x != y and 1 not in (x, y) for x, y in zip(a, b, strict=True)):
        raise Unsupported(f"layer {name}: shapes ({words(a)}) and ({words(b)}) do not fit together")
    shape = np.broadcast_shapes(a, b)
    _refuse_huge(name, shape)
    return shape


def _infer_multiply(op: Multiply, a: Tensor, b: Tensor) -> Tensor:
    _common_shape(op.name, a.shape, b.shape)
    bound = _magnitude(a.low, a.high) * _magnitude(b.low, b.high)
    _refuse_wide(op.name, bound)
    ends = [x * y for x in (a.low, a.high) for y in (b.low, b.high)]
    low, high = np.minimum.reduce(ends), np.maximum.reduce(ends)
    if op.inputs[0] == op.inputs[1]:  # a square is never negative
        low = np.where((a.low <= 0) & (a.high >= 0), 0, np.minimum(a.low**2, a.high**2))
    return _exact(op.name, low, high, a.format.fraction + b.format.fraction, bound)


def _infer_matmul(op: MatMul, a: Tensor, b: Tensor) -> Tensor:
    if min(len(a.shape), len(b.shape)) < 2 or a.shape[-1] != b.shape[-2]:
        raise Unsupported(f"layer {op.name}: shapes ({words(a.shape)}) and ({words(b.shape)}) cannot be multiplied")
    shape = (*_common_shape(op.name, (*a.shape[:-2], 1, 1), (*b.shape[:-2], 1, 1))[:-2], a.shape[-2], b.shape[-1])
    _refuse_huge(op.name, (*shape, a.shape[-1]))
    bound = _magnitude(a.low, a.high) * _magnitude(b.low, b.high) * a.shape[-1]
    _refuse_wide(op.name, bound)
    low, high = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)
    for k in range(a.shape[-1]):
        ends = [x[..., :, k, None] * y[..., None, k, :] for x in (a.low, a.high) for y in (b.low, b.high)]
        low += np.minimum.reduce(ends)
        high += np.maximum.reduce(ends)
    return _exact(op.name, low, high, a.format.fraction + b.format.fraction, bound)


# Steps


def _infer_requantise(op: Requantise, x: Tensor) -> Tensor:
    shift = x.format.fraction - op.format.fraction
    if op.low > op.high:
        raise Unsupported(f"layer {op.name}: no code is left between {op.low} and {op.high}")
    if shift < 0 and (-shift >= 61 or _magnitude(x.low, x.high) << -shift >= INT_LIMIT):
        raise Unsupported(f"layer {op.name}: a left shift of {x.format} by {-shift} does not fit 62 bits; use a coarser scale")
    # Rounding and clipping never swap the order of two codes, so the ends of a range go to the ends of the new range.
    low, high = (fixed.requantise(bounds, shift, op.low, op.high, op.rounding) for bounds in (x.low, x.high))
    return _tensor(op.format, low, high, max(abs(op.high), abs(op.low)))


def _infer_threshold(op: Threshold, x: Tensor) -> Tensor:
    _refuse_other_rank(op.name, x.shape, op.thresholds.shape[:-1])
    ends = threshold(x.low, op), threshold(x.high, op)
    return _tensor(op.format, np.minimum(*ends), np.maximum(*ends))


def threshold(codes: Codes, op: Threshold) -> Codes:
    """Return base + step * #(code >= threshold) for codes (*shape) or (*shape, E)."""
    shape = op.thresholds.shape[:-1]
    result = np.empty(codes.shape, dtype=np.int64)
    for position in np.ndindex(shape):
        elements = tuple(slice(None) if size == 1 else slice(i, i + 1) for i, size in zip(position, shape, strict=True))
        result[elements] = np.searchsorted(op.thresholds[position], codes[elements], side="right")
    result *= op.step
    result += op.base
    return result


def _infer_table(op: Table, x: Tensor) -> Tensor:
    _refuse_other_rank(op.name, x.shape, op.values.shape[:-1])
    low, high = x.range
    if low < op.first or high >= op.first + op.values.shape[-1]:
        raise Unsupported(f"layer {op.name}: its table starts at {op.first} and is too short for codes {low} to {high}")
    lowest, highest = np.empty(x.shape, dtype=np.int64), np.empty(x.shape, dtype=np.int64)
    extremes: dict[tuple[Any, ...], tuple[int, int]] = {}  # most elements share their row and range
    for position in np.ndindex(x.shape):
        row = tuple(0 if size == 1 else i for i, size in zip(position, op.values.shape[:-1], strict=True))
        first, last = int(x.low[position]) - op.first, int(x.high[position]) - op.first
        if (row, first, last) not in extremes:
            part = op.values[row][first : last + 1]
            extremes[row, first, last] = int(part.min()), int(part.max())
        lowest[position], highest[position] = extremes[row, first, last]
    return _tensor(op.format, lowest, highest)


# Choices and moves


def _infer_max_pool(op: MaxPool, x: Tensor) -> Tensor:
    if len(x.shape) != len(op.kernel) + 1:
        axes = ", ".join("DHW"[-len(op.kernel) :])
        raise Unsupported(f"layer {op.name}: (C, {axes}) expected, but ({words(x.shape)}) given")
    if min(pool_sizes(op, x.shape)) < 1:
        raise Unsupported(f"layer {op.name}: the kernel {op.kernel} is larger than its input ({words(x.shape)})")
    # A window is lowest when all its codes are. The bound stays that of the input, because the number type does as well.
    low, high = (max_pool(bounds[..., None], op)[..., 0] for bounds in (x.low, x.high))
    return replace(x, shape=low.shape, low=low, high=high)


def pool_sizes(op: MaxPool, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the size of a pool's result along each axis, for an input (C, *sizes)."""
    return tuple(
        (size - (kernel - 1) * gap - 1) // step + 1
        for size, kernel, step, gap in zip(shape[1:], op.kernel, op.stride, op.dilation, strict=True)
    )


def max_pool(x: NDArray[Any], op: MaxPool) -> NDArray[Any]:
    """Return the largest of each window of x (C, *sizes, E)."""
    sizes = pool_sizes(op, x.shape[:-1])
    positions = list(product(*map(range, op.kernel)))
    parts = [x[(slice(None), *window(position, sizes, op.stride, op.dilation))] for position in positions]
    result = parts[0].copy()
    for part in parts[1:]:
        np.maximum(result, part, out=result)
    return result


def _infer_reshape(op: Reshape, x: Tensor) -> Tensor:
    shape = op.shape
    known = math.prod(size for size in shape if size != -1)
    if shape.count(-1) == 1 and known > 0 and x.size % known == 0:
        shape = tuple(x.size // known if size == -1 else size for size in shape)
    if not shape or min(shape) < 1 or math.prod(shape) != x.size:
        raise Unsupported(f"layer {op.name}: ({words(x.shape)}) cannot be reshaped to ({words(op.shape)})")
    return replace(x, shape=shape, low=x.low.reshape(shape), high=x.high.reshape(shape))


def _infer_rearrange(op: Rearrange, inputs: list[Tensor]) -> Tensor:
    _refuse_huge(op.name, op.index.shape)
    fractions = {x.format.fraction for x in inputs}
    if len(fractions) != 1:
        raise Unsupported(f"layer {op.name}: its inputs have different fractions {sorted(fractions)}")
    if op.index.max() >= sum(x.size for x in inputs):
        raise Unsupported(f"layer {op.name}: takes element {op.index.max()} of {sum(x.size for x in inputs)}")
    low, high = (
        np.concatenate([bounds.reshape(-1) for bounds in parts] + [np.array([op.fill])])[op.index]
        for parts in ([x.low for x in inputs], [x.high for x in inputs])
    )
    formats = {x.format for x in inputs}
    fmt = inputs[0].format
    if len(formats) != 1 or not fmt.min_code <= op.fill <= fmt.max_code:
        fmt = Format.holding(int(low.min()), int(high.max()), fmt.fraction)
    return _tensor(fmt, low, high, max(x.bound for x in inputs))


def _infer_softmax(op: Softmax, x: Tensor) -> Tensor:
    largest = int(op.exponentials.max())
    total = largest * x.shape[-1]
    if max(2 * largest * op.ratio[0], 2 * total * op.ratio[1]) >= INT_LIMIT:
        raise Unsupported(f"layer {op.name}: {x.shape[-1]} exponentials do not fit 62 bits; use fewer bits")
    low, high = np.zeros(x.shape, dtype=np.int64), np.full(x.shape, op.format.max_code, dtype=np.int64)
    return _tensor(op.format, low, high)


def _infer_top_k(op: TopK, x: Tensor) -> Tensor:
    if not 1 <= op.k <= x.shape[-1]:
        raise Unsupported(f"layer {op.name}: the best {op.k} of {x.shape[-1]} cannot be taken")
    shape = (*x.shape[:-1], op.k)
    if op.part == "indices":
        last = x.shape[-1] - 1
        return _tensor(Format.holding(0, last, 0), np.zeros(shape, dtype=np.int64), np.full(shape, last, dtype=np.int64))
    sign = -1 if op.largest else 1  # the k-th best lies between the k-th best of all lowest and of all highest codes
    low, high = (sign * np.sort(sign * bounds, axis=-1)[..., : op.k] for bounds in (x.low, x.high))
    return _tensor(x.format, low, high, x.bound)


# Nodes: I and J are nodes, D coordinates.


def _infer_nearest(op: Nearest, x: Tensor, valid: Tensor) -> Tensor:
    _refuse_other_nodes(op.name, x, valid)
    nodes = x.shape[0]
    if op.k > nodes:
        raise Unsupported(f"layer {op.name}: the nearest {op.k} of {nodes} nodes cannot be taken")
    _refuse_huge(op.name, (nodes, nodes))
    refuse_far(op.name, x, op.reach)
    if op.part == "indices":
        shape = nodes, op.k
        return _tensor(Format.holding(0, nodes - 1, 0), np.zeros(shape, dtype=np.int64), np.full(shape, nodes - 1))
    low_IJ, high_IJ = distance_range(x)
    low_IJ[:, valid.high <= 0] = high_IJ[:, valid.low <= 0] = op.reach
    for bounds in (low_IJ, high_IJ):
        np.minimum(bounds, op.reach, out=bounds)
        np.fill_diagonal(bounds, op.reach)
    # The k-th smallest lies between the k-th smallest of all lowest and of all highest distances.
    low, high = (np.sort(bounds, axis=1)[:, : op.k] for bounds in (low_IJ, high_IJ))
    return _tensor(Format.holding(0, int(high.max()), x.format.fraction), low, high)


def distance_range(x: Tensor) -> tuple[Codes, Codes]:
    """Return the lowest and the highest Manhattan distance (I, J) of two nodes with coordinates `x` (N, D)."""
    nodes, axes = x.shape
    low_IJ, high_IJ = np.zeros((nodes, nodes), dtype=np.int64), np.zeros((nodes, nodes), dtype=np.int64)
    for axis in range(axes):
        least, most = x.low[:, axis], x.high[:, axis]
        above = least[:, None] - most  # by how much I lies above J at least
        low_IJ += np.maximum(np.maximum(above, above.T), 0)
        further = most[:, None] - least
        high_IJ += np.maximum(further, further.T)
    return low_IJ, high_IJ


def refuse_far(name: str, x: Tensor, limit: int) -> None:
    """Refuse distances, or a limit of them, that do not fit together with a node's index."""
    spans = x.high.max(axis=0).astype(np.float64) - x.low.min(axis=0)
    _refuse_wide(name, max(float(spans.sum()), limit) * x.shape[0])


def _refuse_other_nodes(name: str, x: Tensor, *each: Tensor) -> None:
    """Refuse coordinates that are not (N, D), and what has not one element for each node."""
    if len(x.shape) != 2:
        raise Unsupported(f"layer {name}: coordinates (N, D) expected, but ({words(x.shape)}) given")
    for other in each:
        if other.shape != x.shape[:1]:
            raise Unsupported(f"layer {name}: ({x.shape[0]}) expected, one for each node, but ({words(other.shape)}) given")


def _infer_take(op: Take, values: Tensor, indices: Tensor) -> Tensor:
    if len(values.shape) != 2:
        raise Unsupported(f"layer {op.name}: values (N, F) expected, but ({words(values.shape)}) given")
    first, last = indices.range
    if indices.format.fraction or first < -1 or last >= values.shape[0]:
        raise Unsupported(
            f"layer {op.name}: indices {first} to {last} of {indices.format} do not lie within {values.shape[0]} rows"
        )
    shape = (*indices.shape, values.shape[1])
    _refuse_huge(op.name, shape)
    low, high = (np.concatenate([bounds, np.zeros_like(bounds[:1])]) for bounds in (values.low, values.high))  # -1: the last row
    lowest, highest = np.empty(shape, dtype=np.int64), np.empty(shape, dtype=np.int64)
    extremes: dict[tuple[int, int], tuple[Codes, Codes]] = {}  # most indices share their range
    for position in np.ndindex(indices.shape):
        rows = int(indices.low[position]), int(indices.high[position])
        if rows not in extremes:
            taken = np.arange(rows[0], rows[1] + 1)
            extremes[rows] = low[taken].min(axis=0), high[taken].max(axis=0)
        lowest[position], highest[position] = extremes[rows]
    return _tensor(values.format, lowest, highest, values.bound)


def _infer_condense(op: Condense, score: Tensor, x: Tensor, valid: Tensor) -> Tensor:
    _refuse_other_nodes(op.name, x, score, valid)
    nodes = x.shape[0]
    if op.most > nodes:
        raise Unsupported(f"layer {op.name}: {op.most} of {nodes} nodes cannot be accepted")
    refuse_far(op.name, x, op.apart)
    candidates = int(np.sum((valid.high > 0) & (score.high >= op.threshold)))  # at most
    if op.part == "status":
        high = np.array([min(op.most, candidates), int(candidates > op.most)])
        return _tensor(Format.holding(0, int(high.max()), 0), np.zeros(2, dtype=np.int64), high)
    high = np.where(np.arange(op.most) < candidates, nodes - 1, -1)
    return _tensor(Format.holding(-1, nodes - 1, 0), np.full(op.most, -1, dtype=np.int64), high)


def _magnitude(low: Codes, high: Codes) -> int:
    return max(abs(int(low.min())), abs(int(high.max())))
