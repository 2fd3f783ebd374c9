"""Readers of layers: convolutions, matrix products, pools, sums over axes, softmax and sorting."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.compiler.ops import Conv, Dense, MatMul, MaxPool, Rearrange, Softmax, TopK
from caloedge.compiler.ranges import MAX_ELEMENTS, Tensor
from caloedge.compiler.rationals import Rationals, compressed, rationals
from caloedge.compiler.reading import Constant, Node, Scores, checked, integer_weights, real_weights
from caloedge.compiler.steps import Quantiser
from caloedge.compiler.values import Value, added, centred, constant_of, moved, plain_value, positive, single, uniform
from caloedge.errors import BadData, Unsupported

EXPONENTIAL_BITS = 30
"""Most bits of an exponential in a softmax."""
MAX_EXPONENTIALS = 2**16
MAX_SCALES = 8
"""Most different scales of the input channels of one convolution."""


# Convolutions


def read_conv(node: Node) -> None:
    """Read Conv over one to three axes; `channels_last` in its own domain."""
    if node.last:
        value = node.plain(0)
        node.give(_channels_last(node, _conv(node, _channels_first(node, value), *_filters(node))))
    else:
        node.give(_conv(node, node.plain(0), *_filters(node)))


def _filters(node: Node) -> tuple[Constant, Rationals | None]:
    weights = node.operand(1, "weights")
    if not isinstance(weights, Constant):
        raise Unsupported("weights that depend on the input are not supported")
    rank = weights.values.ndim
    if node.last and rank > 2:  # (F, *kernel, C): their channels are last, too
        weights = transposed(weights, (0, rank - 1, *range(1, rank - 1)))
    return weights, _bias(node, 2, len(weights.values)) if rank else None


def _bias(node: Node, index: int, filters: int) -> Rationals | None:
    if not node.has(index):
        return None
    bias = node.operand(index, "its bias")
    if not isinstance(bias, Constant):
        raise Unsupported("its bias is not a constant")
    values = real_weights(bias).reshape(-1)
    if values.size not in (1, filters):
        raise BadData(f"bias of {values.size} values for {filters} filters")
    return np.broadcast_to(rationals(checked(values, "its bias")), (filters,))


def _conv(node: Node, x: Value, weights: Constant, bias: Rationals | None) -> Value:
    shape = weights.values.shape
    axes = len(shape) - 2
    if axes not in (1, 2, 3) or len(x.shape) != axes + 1:
        raise BadData(f"weights {shape} do not fit an input ({', '.join(map(str, x.shape))})")
    groups = node.whole("group", 1)
    if groups < 1 or shape[0] % groups or shape[1] * groups != x.shape[0]:
        raise BadData(f"weights {shape} in {groups} groups do not fit an input of {x.shape[0]} channels")
    if node.wholes("kernel_shape", shape[2:]) != shape[2:]:
        raise BadData(f"kernel_shape {node.wholes('kernel_shape')} contradicts the weights {shape}")
    stride, padding, dilation = _window(node, x.shape[1:], shape[2:])
    return convolution(node, x, weights, bias, stride, padding, dilation, groups)


def convolution(
    node: Node,
    x: Value,
    weights: Constant,
    bias: Rationals | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> Value:
    """Add a convolution of a plain value; weights (F, C/groups, *kernel), bias (F,)."""
    if any(x.offset.flat) and any(padding):
        x, padding = _padded(node, x, padding), (0,) * len(padding)
    channels = weights.values.shape[1]
    scale, offset = (_per_channel(array, x.shape, groups, len(weights.values), channels) for array in (x.scale, x.offset))
    if groups == 1 and 1 < len(set(scale.flat)) <= MAX_SCALES and not any(offset.flat):
        parts = _by_scale(node, weights, scale)
        if parts is not None:
            return _sum_of_convolutions(node, x, parts, bias, stride, padding, dilation)
    codes, units, fmt = integer_weights(weights, 0, scale, node, "weights")
    constant = _constant_part(codes, units, scale, offset, bias)
    whole, rest = _whole_bias(constant, units)
    op = Conv(node.builder.new_name("conv"), (x.op,), codes, whole, fmt, stride, padding, dilation, groups)
    node.builder.add(op)
    ones = (1,) * len(op.kernel)
    return plain_value(node.builder, op.name, units.reshape(-1, *ones), rest.reshape(-1, *ones))


def _by_scale(node: Node, weights: Constant, scale: Rationals) -> list[tuple[Constant, Fraction]] | None:
    """Split weights by the scale of the channels they act on; None if integers for all channels at once are narrow enough."""
    try:
        integer_weights(weights, 0, scale, node, "weights")
    except Unsupported:
        parts = []
        for number in dict.fromkeys(scale.flat):
            mask = np.array(scale == number, dtype=np.int64)
            codes = None if weights.codes is None else weights.codes * mask
            parts.append((Constant(weights.values * mask, codes, weights.scale, weights.format), number))
        return parts
    return None


def _sum_of_convolutions(
    node: Node,
    x: Value,
    parts: list[tuple[Constant, Fraction]],
    bias: Rationals | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Value:
    """Add one convolution for each scale of the input, on the same codes, and their sum."""
    total: Value | None = None
    for weights, number in parts:
        same = replace(x, terms=((x.op, constant_of(number, len(x.shape))),))
        part = convolution(node, same, weights, bias if total is None else None, stride, padding, dilation, 1)
        total = part if total is None else added(total, part, node.name)
    assert total is not None
    return total


def _per_channel(array: Rationals, shape: tuple[int, ...], groups: int, filters: int, channels: int) -> Rationals:
    """Return a scale or offset of the input as one of the weights' rank: (1 or F, 1 or C/groups, 1, ...)."""
    array = compressed(array)
    if any(size != 1 for size in array.shape[1:]):
        raise Unsupported("its input has scales that differ between positions; quantise it with one scale")
    ones = (1,) * (len(shape) - 1)
    if array.size == 1 or groups == 1:
        return array.reshape(1, -1, *ones)
    per_group = np.broadcast_to(array.reshape(-1), shape[:1]).reshape(groups, channels)
    return np.repeat(per_group, filters // groups, axis=0).reshape(filters, channels, *ones)


def _constant_part(codes: Codes, units: Rationals, scale: Rationals, offset: Rationals, bias: Rationals | None) -> Rationals:
    """Return what each filter adds whatever the input is: its bias, and weights times the offsets of the input."""
    filters = len(codes)
    found = np.full(filters, Fraction(0), dtype=object) if bias is None else bias
    if any(offset.flat):
        # units * codes are weights times the input's scale
        ratio = np.broadcast_to(offset / scale, codes.shape[:2] + (1,) * (codes.ndim - 2))
        sums = codes.reshape(filters, codes.shape[1], -1).sum(axis=2).astype(object)
        found = found + units * (sums * ratio.reshape(filters, codes.shape[1])).sum(axis=1)
    return found


def _whole_bias(constant: Rationals, units: Rationals) -> tuple[Codes, Rationals]:
    """Return the constant part as codes in units of each filter's sums where that is exact, and what is left as an offset."""
    steps = constant / units
    if all(step.denominator == 1 and abs(step) < 2**60 for step in steps.tolist()):
        return np.array([int(step) for step in steps.flat], dtype=np.int64), np.full(len(steps), Fraction(0), dtype=object)
    return np.zeros(len(steps), dtype=np.int64), constant


def _padded(node: Node, x: Value, padding: tuple[int, ...]) -> Value:
    """Pad a value with real zeros, whatever code that is."""
    axes = len(padding) // 2
    index = np.arange(math.prod(x.shape)).reshape(x.shape)
    widths = [(0, 0), *((padding[i], padding[axes + i]) for i in range(axes))]
    return moved(node.builder, x, np.pad(index, widths, constant_values=-1), "pad")


def _window(
    node: Node, sizes: tuple[int, ...], kernel: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return stride, padding (begins, then ends) and dilation of a sliding window after checking them."""
    axes = len(kernel)
    stride = node.wholes("strides", (1,) * axes)
    dilation = node.wholes("dilations", (1,) * axes)
    if len(stride) != axes or len(dilation) != axes or min((*stride, *dilation, *kernel)) < 1:
        raise BadData(f"kernel {kernel}, strides {stride} or dilations {dilation} are not those of {axes} axes")
    mode = node.text("auto_pad", "NOTSET") or "NOTSET"
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            for size, s, k, d in zip(sizes, stride, kernel, dilation, strict=True)
        ]
        less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
        padding = (*less, *more) if mode == "SAME_UPPER" else (*more, *less)
    elif mode in ("NOTSET", "VALID"):
        padding = node.wholes("pads", (0,) * 2 * axes) if mode == "NOTSET" else (0,) * 2 * axes
    else:
        raise BadData(f"auto_pad {mode} is not known")
    if len(padding) != 2 * axes or min(padding) < 0:
        raise BadData(f"pads {padding} are not those of {axes} axes")
    if any(size + padding[i] + padding[axes + i] > MAX_ELEMENTS for i, size in enumerate(sizes)):
        raise Unsupported(f"pads {padding} make its input too large")
    return stride, padding, dilation


def read_conv_transpose(node: Node) -> None:
    """Read ConvTranspose: zeros between the input's elements, then a convolution with the mirrored kernel."""
    x = node.plain(0)
    weights = node.operand(1, "weights")
    if not isinstance(weights, Constant):
        raise Unsupported("weights that depend on the input are not supported")
    shape = weights.values.shape
    axes = len(shape) - 2
    if axes not in (1, 2, 3) or len(x.shape) != axes + 1 or shape[0] != x.shape[0]:
        raise BadData(f"weights {shape} do not fit an input ({', '.join(map(str, x.shape))})")
    groups = node.whole("group", 1)
    if groups < 1 or shape[0] % groups:
        raise BadData(f"{shape[0]} channels do not divide into {groups} groups")
    if "output_shape" in node.attributes or node.text("auto_pad", "NOTSET") not in ("NOTSET", ""):
        raise Unsupported("output_shape and auto_pad are not supported; give the padding in numbers")
    kernel = shape[2:]
    stride, padding, dilation = _window(node, x.shape[1:], kernel)
    extra = node.wholes("output_padding", (0,) * axes)
    reach = [(k - 1) * d for k, d in zip(kernel, dilation, strict=True)]
    if len(extra) != axes or min(extra) < 0 or any(max(padding[i], padding[axes + i]) > reach[i] for i in range(axes)):
        raise Unsupported(f"pads {padding} beyond the kernel or output_padding {extra} are not supported")
    sizes = [(size - 1) * s + 1 for size, s in zip(x.shape[1:], stride, strict=True)]
    wide = [
        size + 2 * r + e - padding[i] - padding[axes + i] for i, (size, r, e) in enumerate(zip(sizes, reach, extra, strict=True))
    ]
    if math.prod(wide) * x.shape[0] > MAX_ELEMENTS:
        raise Unsupported(f"strides {stride} make its input too large")
    index = np.full((x.shape[0], *wide), -1, dtype=np.int64)
    places = tuple(slice(reach[i] - padding[i], reach[i] - padding[i] + sizes[i], stride[i]) for i in range(axes))
    index[(slice(None), *places)] = np.arange(math.prod(x.shape)).reshape(x.shape)

    def turned(array: NDArray[Any]) -> NDArray[Any]:
        """From (C, F/groups, *kernel) to (F, C/groups, *mirrored kernel)."""
        split = array.reshape(groups, array.shape[0] // groups, *array.shape[1:])
        joined = np.moveaxis(split, 1, 2).reshape(groups * array.shape[1], array.shape[0] // groups, *array.shape[2:])
        return joined[(slice(None), slice(None), *(slice(None, None, -1),) * axes)]

    filters = Constant(
        turned(weights.values),
        None if weights.codes is None else turned(weights.codes),
        None if weights.scale is None else turned(np.broadcast_to(weights.scale, shape)),
        weights.format,
    )
    bias = _bias(node, 2, shape[1] * groups)
    stuffed = moved(node.builder, x, index, "spread")
    node.give(convolution(node, stuffed, filters, bias, (1,) * axes, (0,) * 2 * axes, dilation, groups))


# Matrix products


def read_gemm(node: Node) -> None:
    """Read Gemm: alpha * x @ weights + beta * bias."""
    alpha, beta = Fraction(node.real("alpha", 1.0)), Fraction(node.real("beta", 1.0))
    weights = node.operand(1, "weights")
    if node.whole("transA", 0) or not isinstance(weights, Constant) or weights.values.ndim != 2 or not alpha:
        raise Unsupported("Gemm with transA, alpha 0 or weights that are no constant matrix is not supported; use QuantLinear")
    if not node.whole("transB", 0):
        weights = transposed(weights, (1, 0))
    bias = _bias(node, 2, len(weights.values))
    added = node.operand(2) if node.has(2) else None
    if isinstance(added, Constant) and added.values.ndim > 1 and added.values.shape[:-1] != (1,):
        raise Unsupported(f"its bias {added.values.shape} differs between events; use one of shape ({len(weights.values)},)")
    node.give(_dense(node, node.plain(0), weights, None if bias is None else bias * beta / alpha, alpha))


def transposed(constant: Constant, order: tuple[int, ...]) -> Constant:
    """Return a constant with its axes in another order."""
    return Constant(
        constant.values.transpose(order),
        None if constant.codes is None else constant.codes.transpose(order),
        None if constant.scale is None else constant.scale.transpose(order),
        constant.format,
    )


def read_matmul(node: Node) -> None:
    """Read MatMul: with constant weights along the last axis, or of two tensors."""
    operands = [node.operand(0), node.operand(1)]
    if isinstance(operands[1], Constant):
        weights = operands[1]
        if weights.values.ndim != 2:
            raise Unsupported(f"weights of shape {weights.values.shape} are not supported; use a matrix")
        node.give(_dense(node, node.plain(0), transposed(weights, (1, 0)), None, Fraction(1)))
        return
    if isinstance(operands[0], Constant):
        weights = operands[0]
        if weights.values.ndim != 2:
            raise Unsupported(f"weights of shape {weights.values.shape} are not supported; use a matrix")
        value = node.plain(1)
        if len(value.shape) < 2:
            raise Unsupported("a constant matrix times the event axis would mix events")
        turned = swapped(node, value)
        node.give(swapped(node, _dense(node, turned, weights, None, Fraction(1))))
        return
    a, b = (_without_offset(node, node.plain(index)) for index in (0, 1))
    rank = max(len(a.shape), len(b.shape))
    if min(len(a.shape), len(b.shape)) < 2:
        raise Unsupported("a product of two tensors needs two axes beside the events")
    scales = [uniform(x.scale) for x in (a, b)]
    if None in scales:
        raise Unsupported("a product of two tensors with scales per channel is not supported; use one scale each")
    a, b = (_with_rank(node, x, rank) for x in (a, b))
    op = node.builder.add(MatMul(node.builder.new_name("matmul"), (a.op, b.op)))
    node.give_plain(op, constant_of(scales[0] * scales[1], rank))  # type: ignore[operator]


def _without_offset(node: Node, value: Value) -> Value:
    value = centred(node.builder, value)
    if any(value.offset.flat):
        raise Unsupported(
            "a product of tensors with biases that are no whole number of steps is not supported; quantise them first"
        )
    return value


def _with_rank(node: Node, value: Value, rank: int) -> Value:
    missing = rank - len(value.shape)
    if not missing:
        return value
    index = np.arange(math.prod(value.shape)).reshape((1,) * missing + value.shape)
    return moved(node.builder, value, index, "reshape")


def swapped(node: Node, value: Value) -> Value:
    """Return the value with its last two axes exchanged."""
    index = np.arange(math.prod(value.shape)).reshape(value.shape).swapaxes(-1, -2)
    return moved(node.builder, value, index, "transpose")


def _dense(node: Node, x: Value, weights: Constant, bias: Rationals | None, factor: Fraction) -> Value:
    """Add factor * (x @ weights.T + bias) along the last axis; weights (F, K)."""
    if weights.values.shape[1] != x.shape[-1]:
        raise BadData(f"weights for {weights.values.shape[1]} inputs do not fit a tensor ({', '.join(map(str, x.shape))})")
    for array in (x.scale, x.offset):
        if any(size != 1 for size in array.shape[:-1]):
            raise Unsupported("its input has scales that differ along another axis than the last; quantise it with one scale")
    scale, offset = x.scale.reshape(1, -1), x.offset.reshape(1, -1)
    codes, units, fmt = integer_weights(weights, 0, scale, node, "weights")
    whole, rest = _whole_bias(_constant_part(codes, units, scale, offset, bias), units)
    op = node.builder.add(Dense(node.builder.new_name("dense"), (x.op,), codes, whole, fmt))
    ones = (1,) * (len(x.shape) - 1)
    return plain_value(node.builder, op, (units * factor).reshape(*ones, -1), (rest * factor).reshape(*ones, -1))


# Pools and sums


def read_max_pool(node: Node) -> None:
    """Read MaxPool; what waits for a quantiser goes on waiting, because maxima commute with it."""
    value = node.value(0)
    if any(not function.increasing for function in value.functions):
        value = node.plain(0)
    if node.last:
        node.give(_channels_last(node, _max_pool(node, _channels_first(node, value))))
    else:
        node.give(_max_pool(node, value))
    if any(node.proto.output[1:]):
        raise Unsupported("the positions of maxima are not supported")


def _max_pool(node: Node, value: Value) -> Value:
    value = positive(node.builder, single(node.builder, value))
    name, scale = value.terms[0]
    arrays = [scale, value.offset, value.low, value.high, *(constant for f in value.functions for constant in f.constants)]
    if any(size != 1 for array in arrays if array is not None for size in array.shape[1:]):
        raise Unsupported("its input has scales that differ between positions; quantise it with one scale")
    kernel = node.wholes("kernel_shape")
    axes = len(kernel)
    if len(value.shape) != axes + 1:
        raise BadData(f"kernel_shape {kernel} does not fit an input ({', '.join(map(str, value.shape))})")
    stride, padding, dilation = _window(node, value.shape[1:], kernel)
    padding = _ceiled(node, value.shape[1:], kernel, stride, padding, dilation)
    builder = node.builder
    tensor = builder.tensors[name]
    if any(padding):
        name = _lowest_padded(node, name, tensor, padding)
    op = builder.add(MaxPool(builder.new_name("pool"), (name,), kernel, stride, dilation))
    return Value(builder.tensors[op].shape, ((op, scale),), value.offset, value.low, value.high, value.functions, value.node)


def _lowest_padded(node: Node, name: str, tensor: Tensor, padding: tuple[int, ...]) -> str:
    """Pad with the lowest code that can come: it never wins against a real one."""
    axes = len(padding) // 2
    index = np.arange(tensor.size).reshape(tensor.shape)
    widths = [(0, 0), *((padding[i], padding[axes + i]) for i in range(axes))]
    padded = np.pad(index, widths, constant_values=-1)
    return node.builder.add(Rearrange(node.builder.new_name("pad"), (name,), padded, tensor.range[0], "pad"))


def _ceiled(
    node: Node,
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> tuple[int, ...]:
    """Return the padding that gives the results of ceil_mode without it."""
    if not node.whole("ceil_mode", 0):
        return padding
    axes = len(kernel)
    ends = list(padding[axes:])
    for i in range(axes):
        room = sizes[i] + padding[i] + padding[axes + i] - ((kernel[i] - 1) * dilation[i] + 1)
        count = -(-room // stride[i]) + 1
        if (count - 1) * stride[i] >= sizes[i] + padding[i]:
            count -= 1  # a window that begins in the padding at the end does not count
        ends[i] += max((count - 1) * stride[i] - room, 0)
    return (*padding[:axes], *ends)


def read_average_pool(node: Node) -> None:
    """Read AveragePool as a depthwise convolution with ones; the division goes into the scale."""
    x = node.plain(0)
    kernel = node.wholes("kernel_shape")
    if len(x.shape) != len(kernel) + 1 or len(kernel) > 3:
        raise BadData(f"kernel_shape {kernel} does not fit an input ({', '.join(map(str, x.shape))})")
    stride, padding, dilation = _window(node, x.shape[1:], kernel)
    whole = _ceiled(node, x.shape[1:], kernel, stride, padding, dilation)
    counts = _window_counts(node, x.shape[1:], kernel, stride, padding, whole, dilation)
    node.give(_average(node, x, kernel, stride, whole, dilation, counts))


def _window_counts(
    node: Node,
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    whole: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Rationals:
    """Return the number that each window is divided by, (1, *positions)."""
    axes = len(kernel)
    include = node.whole("count_include_pad", 0)
    counts = np.ones((), dtype=np.int64)
    for i in range(axes):
        line = np.zeros(sizes[i] + whole[i] + whole[axes + i], dtype=np.int64)
        line[whole[i] : whole[i] + sizes[i]] = 1
        if include:
            line[: padding[i] + sizes[i] + padding[axes + i]] = 1
        positions = (len(line) - (kernel[i] - 1) * dilation[i] - 1) // stride[i] + 1
        if positions < 1:
            raise BadData(f"kernel {kernel} is larger than its input")
        each = sum(line[k * dilation[i] :][: (positions - 1) * stride[i] + 1 : stride[i]] for k in range(kernel[i]))
        counts = np.multiply.outer(counts, each)
    if counts.size > MAX_ELEMENTS // 16 or not counts.all():
        raise Unsupported("its windows are too many, or some hold nothing but padding")
    return compressed(rationals(counts[None]))


def _average(
    node: Node,
    x: Value,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    counts: Rationals,
) -> Value:
    channels = x.shape[0]
    ones = np.ones((channels, 1, *kernel), dtype=np.int64)
    filters = Constant(ones, ones, constant_of(1, ones.ndim), Format(False, 1, 0))
    total = convolution(node, x, filters, None, stride, padding, dilation, channels)
    return plain_value(node.builder, total.op, total.scale / counts, total.offset / counts)


def read_global_average_pool(node: Node) -> None:
    """Read GlobalAveragePool: one window over everything."""
    x = node.plain(0)
    kernel = x.shape[1:]
    if not 1 <= len(kernel) <= 3:
        raise Unsupported(f"an input ({', '.join(map(str, x.shape))}) is not one of channels and one to three axes")
    ones = (1,) * len(kernel)
    counts = constant_of(math.prod(kernel), len(kernel) + 1)
    node.give(_average(node, x, kernel, ones, (0,) * 2 * len(kernel), ones, counts))


def read_global_max_pool(node: Node) -> None:
    """Read GlobalMaxPool: one window over everything."""
    value = positive(node.builder, node.plain(0))
    if len(value.shape) < 2:
        raise Unsupported("its input has no axes but channels")
    if any(size != 1 for array in (value.scale, value.offset) for size in array.shape[1:]):
        raise Unsupported("its input has scales that differ between positions; quantise it with one scale")
    op = MaxPool(node.builder.new_name("pool"), (value.op,), value.shape[1:], (1,) * (len(value.shape) - 1))
    node.give_plain(node.builder.add(op), value.scale, value.offset)


def read_reduce(node: Node) -> None:
    """Read ReduceSum, ReduceMean and ReduceMax over any axes but that of the events."""
    x = node.plain(0)
    rank = len(x.shape)
    given = node.integers(1, "axes") if node.has(1) else list(node.wholes("axes", ()))
    if not given and (node.whole("noop_with_empty_axes", 0) or not rank):
        node.give(x)
        return
    axes = sorted({node.axis(axis, rank) for axis in given}) if given else None
    if axes is None:
        raise Unsupported("a sum over all axes would mix events; name the axes")
    kept = [axis for axis in range(rank) if axis not in axes]
    for array in (x.scale, x.offset):
        if any(array.shape[axis] != 1 for axis in axes):
            raise Unsupported("its input has scales that differ along the axes; quantise it with one scale")
    count = math.prod(x.shape[axis] for axis in axes)
    order = np.arange(math.prod(x.shape)).reshape(x.shape).transpose(*kept, *axes)
    rows = moved(node.builder, x, order.reshape(-1, count), "transpose")
    builder = node.builder
    factor = Fraction(1)
    if node.kind == "ReduceMax":
        rows = positive(builder, rows)
        op = builder.add(MaxPool(builder.new_name("pool"), (rows.op,), (count,), (1,)))
        offset = rows.offset
    else:
        ones, fmt = np.ones((1, count), dtype=np.int64), Format(False, 1, 0)
        op = builder.add(Dense(builder.new_name("sum"), (rows.op,), ones, np.zeros(1, dtype=np.int64), fmt))
        factor = Fraction(1, count) if node.kind == "ReduceMean" else Fraction(1)
        offset = rows.offset * count * factor
    keep = bool(node.whole("keepdims", 1))
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape) if keep or axis not in axes)
    total = plain_value(builder, op, rows.scale * factor, offset)
    places = np.arange(math.prod(shape)).reshape(shape or (1,))
    node.give(moved(builder, total, places, "reshape"), scalar=not shape)


# Choices


def read_softmax(node: Node) -> None:
    """Read Softmax: it waits for a quantiser, which turns it into integers."""
    x = node.plain(0)
    old = node.reading.opset < 13
    axis = node.axis(node.whole("axis", 1 if old else -1), len(x.shape))
    if old and math.prod(x.shape[axis:]) != x.shape[axis]:
        raise Unsupported(
            f"before opset 13 Softmax adds over all axes from its axis on, here ({', '.join(map(str, x.shape[axis:]))}); "
            "export with opset 13"
        )
    node.give(Scores(x, axis, node.name))


def quantised_softmax(node: Node, scores: Scores, scale: Rationals, quantiser: Quantiser) -> Value:
    """Add a softmax whose result is rounded to multiples of one scale."""
    builder, x, step, unit = node.builder, scores.value, uniform(scores.value.scale), uniform(scale)
    if step is None or unit is None or x.offset.shape[scores.axis] != 1:
        raise Unsupported("a softmax of scores with different scales is not supported; quantise them with one scale")
    if quantiser.rounding is not Rounding.HALF_EVEN or quantiser.high != quantiser.format.max_code:
        raise Unsupported(
            "a softmax is rounded half to even and to a whole format; use rounding_mode ROUND and narrow_range=False"
        )
    last = len(x.shape) - 1
    exchanged = np.arange(math.prod(x.shape)).reshape(x.shape).swapaxes(scores.axis, last)
    turned = positive(builder, x if scores.axis == last else moved(builder, x, exchanged, "transpose"))
    low, high = builder.tensors[turned.op].range
    ratio = (1 / unit).numerator, (1 / unit).denominator
    count = turned.shape[-1]
    bits = min(EXPONENTIAL_BITS, 59 - ratio[0].bit_length(), 59 - ratio[1].bit_length() - count.bit_length())
    if bits < quantiser.format.width + 8:
        raise Unsupported(
            f"a softmax of {count} scores to {quantiser.format.width} bits does not fit 62 bits; use a power-of-two scale"
        )
    entries = np.arange(min(high - low, MAX_EXPONENTIALS) + 1)
    exponentials = np.rint(np.exp(-abs(float(step)) * entries) * 2.0**bits).astype(np.int64)
    if high - low > MAX_EXPONENTIALS and exponentials[-1]:
        raise Unsupported(
            f"a softmax of scores with {high - low + 1:,} codes is not supported; quantise them to fewer bits, or a larger scale"
        )
    exponentials = exponentials[: int(np.flatnonzero(exponentials)[-1]) + 1]
    op = builder.add(Softmax(builder.new_name("softmax"), (turned.op,), exponentials, ratio, quantiser.format))
    found = plain_value(builder, op, constant_of(unit, len(x.shape)))
    if scores.axis == last:
        return found
    back = np.arange(math.prod(turned.shape)).reshape(turned.shape).swapaxes(scores.axis, last)
    return moved(builder, found, back, "transpose")


def read_top_k(node: Node) -> None:
    """Read TopK: values and positions of the best along one axis."""
    if not node.whole("sorted", 1):
        raise Unsupported("an unsorted TopK has no defined order; use sorted=1")
    (k,) = node.integers(1, "k")[:1] or [0]
    _best(node, node.whole("axis", -1), k, bool(node.whole("largest", 1)), ("values", "indices"))


def read_arg_max(node: Node) -> None:
    """Read ArgMax or ArgMin: the first best position along one axis."""
    if node.whole("select_last_index", 0):
        raise Unsupported("select_last_index is not supported; use the first index")
    found = _best(node, node.whole("axis", 0), 1, node.kind == "ArgMax", ("indices",))
    if not node.whole("keepdims", 1):
        shape = tuple(size for i, size in enumerate(found.shape) if i != node.axis(node.whole("axis", 0), len(found.shape)))
        places = np.arange(math.prod(shape)).reshape(shape or (1,))
        node.give(moved(node.builder, found, places, "reshape"), scalar=not shape)


def _best(node: Node, axis: int, k: int, largest: bool, parts: tuple[str, ...]) -> Value:
    builder = node.builder
    scores = node.operand(0)
    if isinstance(scores, Scores) and parts == ("indices",) and node.axis(axis, len(scores.value.shape)) == scores.axis:
        x = positive(builder, scores.value)  # a softmax keeps the order
    else:
        x = positive(builder, node.plain(0))
    axis, last = node.axis(axis, len(x.shape)), len(x.shape) - 1
    if not 1 <= k <= x.shape[axis]:
        raise BadData(f"the best {k} of {x.shape[axis]} cannot be taken")
    name, scale = x.terms[0]
    if any(array.shape[axis] != 1 for array in (scale, x.offset)):
        raise Unsupported("scores with different scales cannot be compared exactly; quantise them with one scale")
    codes = plain_value(builder, name, scale, x.offset)
    turned = [size for i, size in enumerate(x.shape) if i != axis] + [x.shape[axis]]
    if axis != last:
        codes = moved(builder, codes, np.moveaxis(np.arange(math.prod(x.shape)).reshape(x.shape), axis, -1), "transpose")
    found = codes
    for number, part in enumerate(parts):
        op = builder.add(TopK(builder.new_name("top"), (codes.op,), k, largest, part))  # type: ignore[arg-type]
        found = (
            plain_value(builder, op, codes.scale, codes.offset)
            if part == "values"
            else plain_value(builder, op, constant_of(1, last + 1))
        )
        if axis != last:
            shape = (*turned[:-1], k)
            found = moved(builder, found, np.moveaxis(np.arange(math.prod(shape)).reshape(shape), -1, axis), "transpose")
        node.give(found, number)
    return found


# Layout


def _channels_first(node: Node, value: Value) -> Value:
    index = np.arange(math.prod(value.shape)).reshape(value.shape)
    return moved(node.builder, value, np.moveaxis(index, -1, 0), "transpose")


def _channels_last(node: Node, value: Value) -> Value:
    index = np.arange(math.prod(value.shape)).reshape(value.shape)
    return moved(node.builder, value, np.moveaxis(index, 0, -1), "transpose")


READERS = {
    "Conv": read_conv,
    "ConvTranspose": read_conv_transpose,
    "Gemm": read_gemm,
    "MatMul": read_matmul,
    "MaxPool": read_max_pool,
    "AveragePool": read_average_pool,
    "GlobalAveragePool": read_global_average_pool,
    "GlobalMaxPool": read_global_max_pool,
    "ReduceSum": read_reduce,
    "ReduceMean": read_reduce,
    "ReduceMax": read_reduce,
    "Softmax": read_softmax,
    "TopK": read_top_k,
    "ArgMax": read_arg_max,
    "ArgMin": read_arg_max,
}
CHANNELS_LAST = {"Conv", "MaxPool", "BatchNormalization"}
"""Operators that QONNX's domain for channels-last networks has as well."""
