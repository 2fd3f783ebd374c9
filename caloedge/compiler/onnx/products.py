"""Readers of matrix products and of sums and maxima over axes."""

import math
from fractions import Fraction

import numpy as np

from caloedge.compiler.fixed import Format
from caloedge.compiler.functions import SQRT
from caloedge.compiler.onnx.convolutions import bias_of, constant_part, narrow_weights, product_of_several_scales, whole_bias
from caloedge.compiler.onnx.node import Constant, Node, transposed
from caloedge.compiler.ops import Dense, MatMul, MaxPool
from caloedge.compiler.ranges import TooWide
from caloedge.compiler.rationals import Rationals
from caloedge.compiler.symbolic import (
    SymbolicValue,
    aligned,
    applied,
    centred,
    constant_of,
    moved,
    plain_value,
    positive,
    powered,
    reason_of,
    scaled,
)
from caloedge.errors import BadData, Unsupported


def read_gemm(node: Node) -> None:
    """Read Gemm: alpha * x @ weights + beta * bias."""
    alpha, beta = Fraction(node.float_attribute("alpha", 1.0)), Fraction(node.float_attribute("beta", 1.0))
    weights = node.operand(1, "weights")
    if node.int_attribute("transA", 0) or not isinstance(weights, Constant) or weights.values.ndim != 2 or not alpha:
        raise Unsupported("Gemm with transA, alpha 0 or weights that are no constant matrix is not supported; use QuantLinear")
    if not node.int_attribute("transB", 0):
        weights = transposed(weights, (1, 0))
    bias = bias_of(node, 2, len(weights.values))
    added = node.operand(2) if node.has(2) else None
    if isinstance(added, Constant) and added.values.ndim > 1 and added.values.shape[:-1] != (1,):
        raise Unsupported(f"its bias {added.values.shape} differs between events; use one of shape ({len(weights.values)},)")
    node.set_output(_dense(node, node.plain(0), weights, None if bias is None else bias * beta / alpha, alpha))


def read_matmul(node: Node) -> None:
    """Read MatMul: with constant weights along the last axis, or of two tensors."""
    operands = [node.operand(0), node.operand(1)]
    if isinstance(operands[1], Constant):
        weights = operands[1]
        if weights.values.ndim != 2:
            raise Unsupported(f"weights of shape {weights.values.shape} are not supported; use a matrix")
        node.set_output(_dense(node, node.plain(0), transposed(weights, (1, 0)), None, Fraction(1)))
        return
    if isinstance(operands[0], Constant):
        weights = operands[0]
        if weights.values.ndim != 2:
            raise Unsupported(f"weights of shape {weights.values.shape} are not supported; use a matrix")
        value = node.plain(1)
        if len(value.shape) < 2:
            raise Unsupported("a constant matrix times the event axis would mix events")
        turned = swapped(node, value)
        node.set_output(swapped(node, _dense(node, turned, weights, None, Fraction(1))))
        return
    operand_values = node.plain(0), node.plain(1)
    a, b = (aligned(node.builder, centred(node.builder, value)) for value in operand_values)
    rank = max(len(a.shape), len(b.shape))
    if min(len(a.shape), len(b.shape)) < 2:
        raise Unsupported("a product of two tensors needs two axes beside the events")
    a, b = (_with_rank(node, x, rank) for x in (a, b))
    try:
        op = node.builder.add(MatMul(node.builder.new_name("matmul"), (a.op, b.op)))
    except TooWide as problem:
        raise reason_of(problem, *operand_values) from None
    node.set_plain_output(op, a.scale * b.scale)


def _with_rank(node: Node, value: SymbolicValue, rank: int) -> SymbolicValue:
    missing = rank - len(value.shape)
    if not missing:
        return value
    index = np.arange(math.prod(value.shape)).reshape((1,) * missing + value.shape)
    return moved(node.builder, value, index, "reshape")


def swapped(node: Node, value: SymbolicValue) -> SymbolicValue:
    """Return the value with its last two axes exchanged."""
    index = np.arange(math.prod(value.shape)).reshape(value.shape).swapaxes(-1, -2)
    return moved(node.builder, value, index, "transpose")


def _dense(node: Node, x: SymbolicValue, weights: Constant, bias: Rationals | None, factor: Fraction) -> SymbolicValue:
    """Add factor * (x @ weights.T + bias) along the last axis; weights (F, K)."""
    if weights.values.shape[1] != x.shape[-1]:
        raise BadData(f"weights for {weights.values.shape[1]} inputs do not fit a tensor ({', '.join(map(str, x.shape))})")
    if any(size != 1 for array in (x.scale, x.offset) for size in array.shape[:-1]):
        x = aligned(node.builder, x)  # they differ along another axis than the last
    scale, offset = x.scale.reshape(1, -1), x.offset.reshape(1, -1)
    narrow = narrow_weights(node, weights, scale)
    if narrow is None:
        product = product_of_several_scales(
            node, x, weights, scale, bias, lambda x, weights, bias: _dense(node, x, weights, bias, Fraction(1))
        )
        nothing = constant_of(0, len(x.shape))
        return scaled(product, nothing + factor, nothing, node.name)
    codes, units, fmt = narrow
    bias_codes, offset_left = whole_bias(constant_part(codes, units, scale, offset, bias), units)
    op = node.builder.add(Dense(node.builder.new_name("dense"), (x.op,), codes, bias_codes, fmt))
    ones = (1,) * (len(x.shape) - 1)
    return plain_value(node.builder, op, (units * factor).reshape(*ones, -1), (offset_left * factor).reshape(*ones, -1))


def read_reduce(node: Node) -> None:
    """Read sums, means and maxima, sums of squares and their roots, over any axes but that of the events."""
    x = node.plain(0)
    if node.kind in ("ReduceSumSquare", "ReduceL2"):
        x = powered(node.builder, x, 2)
    rank = len(x.shape)
    numbers = node.integers(1, "axes") if node.has(1) else list(node.ints_attribute("axes", ()))
    if not numbers and (node.int_attribute("noop_with_empty_axes", 0) or not rank):
        node.set_output(x)
        return
    axes = sorted({node.axis(axis, rank) for axis in numbers}) if numbers else None
    if axes is None:
        raise Unsupported("a sum over all axes would mix events; name the axes")
    remaining = [axis for axis in range(rank) if axis not in axes]
    if any(array.shape[axis] != 1 for array in (x.scale, x.offset) for axis in axes):
        x = aligned(node.builder, x)
    count = math.prod(x.shape[axis] for axis in axes)
    order = np.arange(math.prod(x.shape)).reshape(x.shape).transpose(*remaining, *axes)
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
    keep = bool(node.int_attribute("keepdims", 1))
    shape = tuple(1 if axis in axes else size for axis, size in enumerate(x.shape) if keep or axis not in axes)
    total = plain_value(builder, op, rows.scale * factor, offset)
    places = np.arange(math.prod(shape)).reshape(shape or (1,))
    result = moved(builder, total, places, "reshape")
    node.set_output(applied(result, SQRT, node.name) if node.kind == "ReduceL2" else result, scalar=not shape)


READERS = {
    "Gemm": read_gemm,
    "MatMul": read_matmul,
    "ReduceSum": read_reduce,
    "ReduceMean": read_reduce,
    "ReduceMax": read_reduce,
    "ReduceSumSquare": read_reduce,
    "ReduceL2": read_reduce,
}
