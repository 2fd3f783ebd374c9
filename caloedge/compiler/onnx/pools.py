"""Readers of pools: maxima, and averages as convolutions with ones."""

import math

import numpy as np

from caloedge.compiler.fixed import Format
from caloedge.compiler.onnx.convolutions import channels_first, channels_last, convolution, window
from caloedge.compiler.onnx.node import Constant, Node
from caloedge.compiler.ops import MaxPool, Rearrange
from caloedge.compiler.ranges import MAX_ELEMENTS, Tensor
from caloedge.compiler.rationals import Rationals, compressed, rationals
from caloedge.compiler.symbolic import SymbolicValue, aligned, constant_of, plain_value, positive, single
from caloedge.errors import BadData, Unsupported


def read_max_pool(node: Node) -> None:
    """Read MaxPool; what waits for a quantiser goes on waiting, because maxima commute with it."""
    value = node.value(0)
    if any(not function.increasing for function in value.functions):
        value = node.plain(0)
    if value.is_plain and any(size != 1 for array in (value.scale, value.offset) for size in array.shape[1:]):
        value = aligned(node.builder, value)
    if node.channels_last:
        node.set_output(channels_last(node, _max_pool(node, channels_first(node, value))))
    else:
        node.set_output(_max_pool(node, value))
    if any(node.proto.output[1:]):
        raise Unsupported("the positions of maxima are not supported")


def _max_pool(node: Node, value: SymbolicValue) -> SymbolicValue:
    value = positive(node.builder, single(node.builder, value))
    name, scale = value.terms[0]
    arrays = [scale, value.offset, value.low, value.high, *(constant for f in value.functions for constant in f.constants)]
    if any(size != 1 for array in arrays if array is not None for size in array.shape[1:]):
        raise Unsupported("its input has scales that differ between positions; quantise it with one scale")
    kernel = node.ints_attribute("kernel_shape")
    axes = len(kernel)
    if len(value.shape) != axes + 1:
        raise BadData(f"kernel_shape {kernel} does not fit an input ({', '.join(map(str, value.shape))})")
    stride, padding, dilation = window(node, value.shape[1:], kernel)
    padding = _ceiled(node, value.shape[1:], kernel, stride, padding, dilation)
    builder = node.builder
    tensor = builder.tensors[name]
    if any(padding):
        name = _lowest_padded(node, name, tensor, padding)
    op = builder.add(MaxPool(builder.new_name("pool"), (name,), kernel, stride, dilation))
    return SymbolicValue(
        builder.tensors[op].shape, ((op, scale),), value.offset, value.low, value.high, value.functions, value.node
    )


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
    if not node.int_attribute("ceil_mode", 0):
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
    kernel = node.ints_attribute("kernel_shape")
    if len(x.shape) != len(kernel) + 1 or len(kernel) > 3:
        raise BadData(f"kernel_shape {kernel} does not fit an input ({', '.join(map(str, x.shape))})")
    stride, padding, dilation = window(node, x.shape[1:], kernel)
    ceiled_padding = _ceiled(node, x.shape[1:], kernel, stride, padding, dilation)
    counts = _window_counts(node, x.shape[1:], kernel, stride, padding, ceiled_padding, dilation)
    node.set_output(_average(node, x, kernel, stride, ceiled_padding, dilation, counts))


def _window_counts(
    node: Node,
    sizes: tuple[int, ...],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    ceiled_padding: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Rationals:
    """Return the number that each window is divided by, (1, *positions)."""
    axes = len(kernel)
    include = node.int_attribute("count_include_pad", 0)
    counts = np.ones((), dtype=np.int64)
    for i in range(axes):
        line = np.zeros(sizes[i] + ceiled_padding[i] + ceiled_padding[axes + i], dtype=np.int64)
        line[ceiled_padding[i] : ceiled_padding[i] + sizes[i]] = 1
        if include:
            line[: padding[i] + sizes[i] + padding[axes + i]] = 1
        positions = (len(line) - (kernel[i] - 1) * dilation[i] - 1) // stride[i] + 1
        if positions < 1:
            raise BadData(f"kernel {kernel} is larger than its input")
        line_counts = sum(line[k * dilation[i] :][: (positions - 1) * stride[i] + 1 : stride[i]] for k in range(kernel[i]))
        counts = np.multiply.outer(counts, line_counts)
    if counts.size > MAX_ELEMENTS // 16 or not counts.all():
        raise Unsupported("its windows are too many, or some hold nothing but padding")
    return compressed(rationals(counts[None]))


def _average(
    node: Node,
    x: SymbolicValue,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    counts: Rationals,
) -> SymbolicValue:
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
    node.set_output(_average(node, x, kernel, ones, (0,) * 2 * len(kernel), ones, counts))


def read_global_max_pool(node: Node) -> None:
    """Read GlobalMaxPool: one window over everything."""
    value = positive(node.builder, node.plain(0))
    if len(value.shape) < 2:
        raise Unsupported("its input has no axes but channels")
    if any(size != 1 for array in (value.scale, value.offset) for size in array.shape[1:]):
        value = aligned(node.builder, value)
    op = MaxPool(node.builder.new_name("pool"), (value.op,), value.shape[1:], (1,) * (len(value.shape) - 1))
    node.set_plain_output(node.builder.add(op), value.scale, value.offset)


READERS = {
    "MaxPool": read_max_pool,
    "AveragePool": read_average_pool,
    "GlobalAveragePool": read_global_average_pool,
    "GlobalMaxPool": read_global_max_pool,
}
