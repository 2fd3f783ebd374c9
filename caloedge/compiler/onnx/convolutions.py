"""Readers of convolutions, and what other layers share with them: biases, sliding windows, the order of axes."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.compiler.fixed import Codes, Format
from caloedge.compiler.onnx.node import Constant, Node, checked, integer_weights, real_weights, transposed
from caloedge.compiler.ops import Conv
from caloedge.compiler.ranges import MAX_ELEMENTS, TooWide
from caloedge.compiler.rationals import Rationals, compressed, rationals
from caloedge.compiler.symbolic import SymbolicValue, added, aligned, constant_of, moved, plain_value, reason_of, uniform
from caloedge.errors import BadData, Unsupported

MAX_SCALES = 8
"""Most different scales of the input channels of one convolution."""
CHANNELS_LAST = {"Conv", "MaxPool", "BatchNormalization"}
"""Operators that QONNX's domain for channels-last networks has as well."""


def read_conv(node: Node) -> None:
    """Read Conv over one to three axes; `channels_last` in its own domain."""
    if node.channels_last:
        value = node.plain(0)
        node.set_output(channels_last(node, _conv(node, channels_first(node, value), *_filters(node))))
    else:
        node.set_output(_conv(node, node.plain(0), *_filters(node)))


def _filters(node: Node) -> tuple[Constant, Rationals | None]:
    weights = node.operand(1, "weights")
    if not isinstance(weights, Constant):
        raise Unsupported("weights that depend on the input are not supported")
    rank = weights.values.ndim
    if node.channels_last and rank > 2:  # (F, *kernel, C): their channels are last, too
        weights = transposed(weights, (0, rank - 1, *range(1, rank - 1)))
    return weights, bias_of(node, 2, len(weights.values)) if rank else None


def bias_of(node: Node, index: int, filters: int) -> Rationals | None:
    """Return a constant bias, one number per filter."""
    if not node.has(index):
        return None
    bias = node.operand(index, "its bias")
    if not isinstance(bias, Constant):
        raise Unsupported("its bias is not a constant")
    values = real_weights(bias).reshape(-1)
    if values.size not in (1, filters):
        raise BadData(f"bias of {values.size} values for {filters} filters")
    return np.broadcast_to(rationals(checked(values, "its bias")), (filters,))


def _conv(node: Node, x: SymbolicValue, weights: Constant, bias: Rationals | None) -> SymbolicValue:
    shape = weights.values.shape
    axes = len(shape) - 2
    if axes not in (1, 2, 3) or len(x.shape) != axes + 1:
        raise BadData(f"weights {shape} do not fit an input ({', '.join(map(str, x.shape))})")
    groups = node.int_attribute("group", 1)
    if groups < 1 or shape[0] % groups or shape[1] * groups != x.shape[0]:
        raise BadData(f"weights {shape} in {groups} groups do not fit an input of {x.shape[0]} channels")
    if node.ints_attribute("kernel_shape", shape[2:]) != shape[2:]:
        raise BadData(f"kernel_shape {node.ints_attribute('kernel_shape')} contradicts the weights {shape}")
    stride, padding, dilation = window(node, x.shape[1:], shape[2:])
    return convolution(node, x, weights, bias, stride, padding, dilation, groups)


def convolution(
    node: Node,
    x: SymbolicValue,
    weights: Constant,
    bias: Rationals | None,
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
) -> SymbolicValue:
    """Add a convolution of a plain value; weights (F, C/groups, *kernel), bias (F,)."""
    if any(size != 1 for array in (x.scale, x.offset) for size in array.shape[1:]):
        x = aligned(node.builder, x)  # they differ between positions
    if any(x.offset.flat) and any(padding):
        x, padding = _padded(node, x, padding), (0,) * len(padding)
    channels = weights.values.shape[1]
    scale, offset = (_per_channel(array, x.shape, groups, len(weights.values), channels) for array in (x.scale, x.offset))
    narrow = narrow_weights(node, weights, scale)
    if narrow is None:
        geometry = (stride, padding, dilation, groups)
        return product_of_several_scales(
            node,
            x,
            weights,
            scale if groups == 1 else None,
            bias,
            lambda x, weights, bias: convolution(node, x, weights, bias, *geometry),
        )
    codes, units, fmt = narrow
    constant = constant_part(codes, units, scale, offset, bias)
    bias_codes, offset_left = whole_bias(constant, units)
    op = Conv(node.builder.new_name("conv"), (x.op,), codes, bias_codes, fmt, stride, padding, dilation, groups)
    node.builder.add(op)
    ones = (1,) * len(op.kernel)
    return plain_value(node.builder, op.name, units.reshape(-1, *ones), offset_left.reshape(-1, *ones))


def narrow_weights(node: Node, weights: Constant, scale: Rationals) -> tuple[Codes, Rationals, Format] | None:
    """Return integer weights, units and format; None if the input has several scales with which they are too many bits wide."""
    try:
        return integer_weights(weights, 0, scale, node, "weights")
    except Unsupported:
        if uniform(scale) is not None:
            raise
        return None


Product = Callable[[SymbolicValue, Constant, Rationals | None], SymbolicValue]
"""A convolution or dense layer of an input, weights and a bias."""


def product_of_several_scales(
    node: Node, x: SymbolicValue, weights: Constant, scale: Rationals | None, bias: Rationals | None, product: Product
) -> SymbolicValue:
    """Return a product whose input has several scales; `scale` is that of each weight's input where the product may be split.

    For a few scales: one product for each, on the same codes, and their sum. Else the codes are brought to one scale before.
    """
    if scale is None or len(set(scale.flat)) > MAX_SCALES or any(x.offset.flat):
        try:
            return product(aligned(node.builder, x), weights, bias)
        except TooWide as problem:
            raise reason_of(problem, x) from None
    total: SymbolicValue | None = None
    for number in dict.fromkeys(scale.flat):
        mask = np.array(scale == number, dtype=np.int64)
        codes = None if weights.codes is None else weights.codes * mask
        rescaled = replace(x, terms=((x.op, constant_of(number, len(x.shape))),))
        masked = Constant(weights.values * mask, codes, weights.scale, weights.format)
        part = product(rescaled, masked, bias if total is None else None)
        total = part if total is None else added(total, part, node.name)
    assert total is not None
    return total


def _per_channel(array: Rationals, shape: tuple[int, ...], groups: int, filters: int, channels: int) -> Rationals:
    """Return a scale or offset of the input as one of the weights' rank: (1 or F, 1 or C/groups, 1, ...)."""
    array = compressed(array)
    ones = (1,) * (len(shape) - 1)
    if array.size == 1 or groups == 1:
        return array.reshape(1, -1, *ones)
    per_group = np.broadcast_to(array.reshape(-1), shape[:1]).reshape(groups, channels)
    return np.repeat(per_group, filters // groups, axis=0).reshape(filters, channels, *ones)


def constant_part(codes: Codes, units: Rationals, scale: Rationals, offset: Rationals, bias: Rationals | None) -> Rationals:
    """Return what each filter adds whatever the input is: its bias, and weights times the offsets of the input."""
    filters = len(codes)
    total = np.full(filters, Fraction(0), dtype=object) if bias is None else bias
    if any(offset.flat):
        # units * codes are weights times the input's scale
        ratio = np.broadcast_to(offset / scale, codes.shape[:2] + (1,) * (codes.ndim - 2))
        sums = codes.reshape(filters, codes.shape[1], -1).sum(axis=2).astype(object)
        total = total + units * (sums * ratio.reshape(filters, codes.shape[1])).sum(axis=1)
    return total


def whole_bias(constant_sum: Rationals, units: Rationals) -> tuple[Codes, Rationals]:
    """Return the constant part as codes in units of each filter's sums where that is exact, and what is left as an offset."""
    steps = constant_sum / units
    if all(step.denominator == 1 and abs(step) < 2**60 for step in steps.tolist()):
        return np.array([int(step) for step in steps.flat], dtype=np.int64), np.full(len(steps), Fraction(0), dtype=object)
    return np.zeros(len(steps), dtype=np.int64), constant_sum


def _padded(node: Node, x: SymbolicValue, padding: tuple[int, ...]) -> SymbolicValue:
    """Pad a value with real zeros, whatever code that is."""
    axes = len(padding) // 2
    index = np.arange(math.prod(x.shape)).reshape(x.shape)
    widths = [(0, 0), *((padding[i], padding[axes + i]) for i in range(axes))]
    return moved(node.builder, x, np.pad(index, widths, constant_values=-1), "pad")


def window(
    node: Node, sizes: tuple[int, ...], kernel: tuple[int, ...]
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """Return stride, padding (begins, then ends) and dilation of a sliding window after checking them."""
    axes = len(kernel)
    stride = node.ints_attribute("strides", (1,) * axes)
    dilation = node.ints_attribute("dilations", (1,) * axes)
    if len(stride) != axes or len(dilation) != axes or min((*stride, *dilation, *kernel)) < 1:
        raise BadData(f"kernel {kernel}, strides {stride} or dilations {dilation} are not those of {axes} axes")
    mode = node.text_attribute("auto_pad", "NOTSET") or "NOTSET"
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [
            max((-(-size // s) - 1) * s + (k - 1) * d + 1 - size, 0)
            for size, s, k, d in zip(sizes, stride, kernel, dilation, strict=True)
        ]
        less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
        padding = (*less, *more) if mode == "SAME_UPPER" else (*more, *less)
    elif mode in ("NOTSET", "VALID"):
        padding = node.ints_attribute("pads", (0,) * 2 * axes) if mode == "NOTSET" else (0,) * 2 * axes
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
    groups = node.int_attribute("group", 1)
    if groups < 1 or shape[0] % groups:
        raise BadData(f"{shape[0]} channels do not divide into {groups} groups")
    if "output_shape" in node.attributes or node.text_attribute("auto_pad", "NOTSET") not in ("NOTSET", ""):
        raise Unsupported("output_shape and auto_pad are not supported; give the padding in numbers")
    kernel = shape[2:]
    stride, padding, dilation = window(node, x.shape[1:], kernel)
    extra = node.ints_attribute("output_padding", (0,) * axes)
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
        """Return an array (C, F/groups, *kernel) as (F, C/groups, *mirrored kernel)."""
        split = array.reshape(groups, array.shape[0] // groups, *array.shape[1:])
        joined = np.moveaxis(split, 1, 2).reshape(groups * array.shape[1], array.shape[0] // groups, *array.shape[2:])
        return joined[(slice(None), slice(None), *(slice(None, None, -1),) * axes)]

    filters = Constant(
        turned(weights.values),
        None if weights.codes is None else turned(weights.codes),
        None if weights.scale is None else turned(np.broadcast_to(weights.scale, shape)),
        weights.format,
    )
    bias = bias_of(node, 2, shape[1] * groups)
    stuffed = moved(node.builder, x, index, "spread")
    node.set_output(convolution(node, stuffed, filters, bias, (1,) * axes, (0,) * 2 * axes, dilation, groups))


def channels_first(node: Node, value: SymbolicValue) -> SymbolicValue:
    """Return a channels-last value with its channels first."""
    index = np.arange(math.prod(value.shape)).reshape(value.shape)
    return moved(node.builder, value, np.moveaxis(index, -1, 0), "transpose")


def channels_last(node: Node, value: SymbolicValue) -> SymbolicValue:
    """Return a channels-first value with its channels last."""
    index = np.arange(math.prod(value.shape)).reshape(value.shape)
    return moved(node.builder, value, np.moveaxis(index, 0, -1), "transpose")


READERS = {
    "Conv": read_conv,
    "ConvTranspose": read_conv_transpose,
}
