"""Readers of quantisers: Quant, BipolarQuant, Trunc and MultiThreshold of QONNX, QuantizeLinear and DequantizeLinear of ONNX."""

import math
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.compiler.onnx.node import SOFTMAX, Constant, Node, RawInput, Scores, checked, fitted, quantise_input
from caloedge.compiler.onnx.selection import quantised_softmax
from caloedge.compiler.ops import Threshold
from caloedge.compiler.ranges import MAX_ELEMENTS
from caloedge.compiler.rationals import Rationals, exponent_of, nearest_exponent, rationals
from caloedge.compiler.requantise import Quantiser
from caloedge.compiler.symbolic import (
    SymbolicValue,
    constant_of,
    plain,
    plain_value,
    positive,
    quantised,
    scaled,
    single,
    uniform,
)
from caloedge.errors import BadData, Unsupported

ROUNDINGS = {
    "ROUND": Rounding.HALF_EVEN,
    "HALF_EVEN": Rounding.HALF_EVEN,
    "FLOOR": Rounding.TRUNCATE,
    "CEIL": Rounding.CEILING,
    "UP": Rounding.FROM_ZERO,
    "DOWN": Rounding.TO_ZERO,
    "HALF_UP": Rounding.HALF_FROM_ZERO,
    "HALF_DOWN": Rounding.HALF_TO_ZERO,
}
LINEAR_TYPES: dict[int, np.dtype[Any]] = {
    onnx.TensorProto.INT8: np.dtype(np.int8),
    onnx.TensorProto.UINT8: np.dtype(np.uint8),
    onnx.TensorProto.INT16: np.dtype(np.int16),
    onnx.TensorProto.UINT16: np.dtype(np.uint16),
}
"""Types that QuantizeLinear names where it has no zero point."""
MAX_BITS = 32
"""Widest quantiser of weights, biases and activations that is believed; more is a mistake in the file."""


def read_quant(node: Node) -> None:
    """Read Quant or IntQuant: (clip(round(x / scale + zero point)) - zero point) * scale."""
    quantiser = _quantiser(node)
    source = node.operand(0)
    scale, zero_point = (node.numbers(index, label) for index, label in ((1, "scale"), (2, "zero point")))
    if quantiser is None:
        zero = checked(zero_point, "zero point")
        if np.any(zero):
            raise Unsupported("a signed quantiser of one bit with a zero point is not supported; use zero point 0")
        _bipolar(node, source, scale)
    elif isinstance(source, Constant):
        node.set_output(_quantised_constant(source.values, scale, zero_point, quantiser))
    else:
        _give_quantised(node, source, scale, zero_point, quantiser)


def _give_quantised(
    node: Node, source: RawInput | Scores | SymbolicValue, scale: NDArray[Any], zero_point: NDArray[Any], quantiser: Quantiser
) -> None:
    shape = _shape(source)
    scales, zeros = fitted(_positive(scale), shape, "scale"), fitted(zero_point, shape, "zero point")
    quantiser = _nominal(quantiser, scales)
    if isinstance(source, Scores):
        if any(zeros.flat):
            raise Unsupported("a softmax with a zero point is not supported; use zero point 0")
        node.set_output(quantised_softmax(node, source, scales, quantiser))
    elif isinstance(source, RawInput):
        node.set_output(quantise_input(node.reading, source, scales, zeros, quantiser))
    else:
        node.set_output(quantised(node.builder, source, scales, zeros, quantiser))


def _shape(source: RawInput | Scores | SymbolicValue) -> tuple[int, ...]:
    if isinstance(source, RawInput):
        return source.index.shape
    return source.value.shape if isinstance(source, Scores) else source.shape


def _nominal(quantiser: Quantiser, scales: Rationals) -> Quantiser:
    """Give the quantiser's format the fraction of its scale, or the nearest one."""
    exponents = {exponent_of(scale) for scale in scales.flat}
    only = exponents.pop() if len(exponents) == 1 else None
    fraction = nearest_exponent(scales.reshape(-1)[0]) if only is None else only
    return replace(quantiser, format=replace(quantiser.format, fraction=fraction), free_fraction=only is None)


def _filled(values: NDArray[Any], label: str) -> NDArray[np.float64]:
    floats = checked(values, label)
    if not floats.size:
        raise BadData(f"{label} is empty")
    return floats


def _positive(scale: NDArray[Any]) -> NDArray[np.float64]:
    floats = _filled(scale, "scale")
    if not (floats > 0).all():
        raise BadData(f"scale {floats[~(floats > 0)][0]:g} is not positive; export the network again")
    return floats


def _quantiser(node: Node) -> Quantiser | None:
    """Return what Quant does apart from its scale; None for one signed bit, which is -1 or 1."""
    signed, narrow = bool(node.int_attribute("signed", 1)), bool(node.int_attribute("narrow", 0))
    width = np.unique(node.numbers(3, "bit width").astype(np.float64))
    if width.size != 1 or not np.isfinite(width[0]) or width[0] != int(width[0]) or not 1 <= width[0] <= MAX_BITS:
        words = ", ".join(f"{value:g}" for value in width[:3])
        raise Unsupported(f"bit width {words} is not supported; use one whole number up to {MAX_BITS}")
    if signed and width[0] == 1:
        return None
    fmt = Format(signed, int(width[0]), 0)
    high = fmt.max_code - int(narrow and not signed)
    return Quantiser(fmt.min_code + int(narrow and signed), high, _rounding(node), fmt, narrow and signed)


def _rounding(node: Node, default: str = "ROUND") -> Rounding:
    mode = node.text_attribute("rounding_mode", default).upper()
    if mode not in ROUNDINGS:
        raise Unsupported(f"rounding mode {mode} is not supported; use {', '.join(ROUNDINGS)}")
    return ROUNDINGS[mode]


def _quantised_constant(values: NDArray[Any], scale: NDArray[Any], zero_point: NDArray[Any], quantiser: Quantiser) -> Constant:
    """Quantise weights or biases in the file's own precision: that is what training saw."""
    _filled(values, "the constant")
    _positive(scale)
    scale, zero = _in_rank_of(scale, values), _in_rank_of(checked(zero_point, "zero point"), values, "zero point")
    if np.any(zero != np.rint(zero)):
        raise Unsupported("a zero point of weights that is not a whole number is not supported")
    with np.errstate(over="ignore"):
        y = np.clip(values / scale + zero.astype(values.dtype), quantiser.low, quantiser.high)
    codes = _round_floats(y.astype(np.float64), quantiser.rounding) - zero.astype(np.int64)
    fmt = quantiser.format if not np.any(zero) else Format.holding(int(codes.min()), int(codes.max()), 0)
    return Constant(codes * scale.astype(np.float64), codes, rationals(scale), fmt)


def _in_rank_of(numbers: NDArray[Any], values: NDArray[Any], label: str = "scale") -> NDArray[Any]:
    """Return scales or zero points of a constant in its rank."""
    shape = (1,) * values.ndim if numbers.size == 1 else (1,) * (values.ndim - numbers.ndim) + numbers.shape
    if len(shape) != values.ndim or any(n not in (1, size) for n, size in zip(shape, values.shape, strict=True)):
        raise BadData(f"{label} {numbers.shape} does not fit the constant {values.shape}")
    return numbers.reshape(shape)


def _round_floats(y: NDArray[np.float64], rounding: Rounding) -> Codes:
    magnitude = np.abs(y)
    match rounding:
        case Rounding.HALF_EVEN:
            rounded = np.rint(y)
        case Rounding.HALF_UP:
            rounded = np.floor(y + 0.5)
        case Rounding.HALF_FROM_ZERO:
            rounded = np.sign(y) * np.floor(magnitude + 0.5)
        case Rounding.HALF_TO_ZERO:
            rounded = np.sign(y) * np.ceil(magnitude - 0.5)
        case Rounding.TRUNCATE:
            rounded = np.floor(y)
        case Rounding.CEILING:
            rounded = np.ceil(y)
        case Rounding.TO_ZERO:
            rounded = np.trunc(y)
        case Rounding.FROM_ZERO:
            rounded = np.sign(y) * np.ceil(magnitude)
    return np.asarray(rounded).astype(np.int64)


# One bit


def read_bipolar_quant(node: Node) -> None:
    """Read BipolarQuant: +scale from zero on, -scale below."""
    _bipolar(node, node.operand(0), node.numbers(1, "scale"))


def _bipolar(node: Node, source: Constant | RawInput | Scores | SymbolicValue, scale: NDArray[Any]) -> None:
    if isinstance(source, Constant):
        _filled(source.values, "the constant")
        scales = _in_rank_of(_positive(scale), source.values)
        codes = np.where(source.values >= 0, 1, -1)
        node.set_output(Constant(codes * scales, codes, rationals(scales), Format(True, 2, 0)))
        return
    if isinstance(source, Scores):
        raise Unsupported(SOFTMAX)
    if isinstance(source, RawInput):
        raise Unsupported("a network's input of one bit is not supported; quantise it to two bits or more")
    rank = len(source.shape)
    thresholds = constant_of(0, rank)[..., None]
    op = _count_thresholds(node, source, thresholds, Format(True, 2, 0), -1, 2)
    node.set_output(plain_value(node.builder, op, fitted(_positive(scale), source.shape, "scale")))


def _count_thresholds(node: Node, source: SymbolicValue, thresholds: Rationals, fmt: Format, base: int, step: int) -> str:
    """Add base + step * #(value >= threshold) for real thresholds (*shape, levels), whose shape has the value's rank."""
    builder = node.builder
    if source.functions:
        try:
            source = plain(builder, source)
        except Unsupported:
            raise Unsupported(
                f"thresholds on the result of {source.node} are not supported; use a Quant of two bits or more"
            ) from None
    # A limit of the value only moves thresholds that lie beyond it out of reach.
    value = positive(builder, single(builder, source))
    name, scale = value.terms[0]
    tensor = builder.tensors[name]
    low, high = tensor.range
    grid = np.broadcast_shapes(thresholds.shape[:-1], scale.shape, value.offset.shape)
    count = math.prod(grid) * thresholds.shape[-1]
    if count > MAX_ELEMENTS // 16:
        raise Unsupported(f"{count:,} thresholds are too many")
    levels = np.broadcast_to(thresholds, (*grid, thresholds.shape[-1]))
    limits = [None if limit is None else np.broadcast_to(limit, grid) for limit in (value.low, value.high)]
    scales, offsets = np.broadcast_to(scale, grid), np.broadcast_to(value.offset, grid)
    codes = np.empty(levels.shape, dtype=np.int64)
    for position in np.ndindex(levels.shape):
        channel, threshold = position[:-1], levels[position]
        if limits[0] is not None and threshold <= limits[0][channel]:
            codes[position] = low
        elif limits[1] is not None and threshold > limits[1][channel]:
            codes[position] = high + 1
        elif not scales[channel]:
            codes[position] = low if offsets[channel] >= threshold else high + 1
        else:
            exact = (threshold - offsets[channel]) / scales[channel]
            codes[position] = min(max(-(-exact.numerator // exact.denominator), low), high + 1)
    return builder.add(Threshold(builder.new_name("threshold"), (name,), np.sort(codes, axis=-1), base, step, fmt))


def read_multi_threshold(node: Node) -> None:
    """Read MultiThreshold: out_bias + out_scale * #(x >= threshold), thresholds (C or 1, levels)."""
    source, thresholds = node.value(0), checked(node.numbers(1, "thresholds"), "thresholds")
    rank = len(source.shape)
    if thresholds.ndim != 2 or not thresholds.size:
        raise BadData(f"thresholds of shape {thresholds.shape} are not (channels, levels)")
    layout = node.text_attribute("data_layout", "") or "NWC"  # of two axes; else, as in the qonnx package, channels come first
    axis = max(layout.index("C") - 1, 0) if "C" in layout and len(layout) == rank + 1 else 0
    if len(thresholds) not in (1, source.shape[axis]):
        raise BadData(f"thresholds for {len(thresholds)} channels of a tensor with {source.shape[axis]}")
    shape = [1] * rank
    shape[axis] = len(thresholds)
    out_scale, out_bias = Fraction(node.float_attribute("out_scale", 1.0)), Fraction(node.float_attribute("out_bias", 0.0))
    levels = thresholds.shape[1]
    # A bias that is a whole number of steps belongs to the codes.
    base = out_bias / out_scale if out_scale else Fraction(0)
    first = int(base) if base.denominator == 1 else 0
    fraction = exponent_of(out_scale)
    fmt = Format.holding(first, first + levels, nearest_exponent(out_scale) if fraction is None else fraction)
    op = _count_thresholds(node, source, rationals(thresholds).reshape(*shape, levels), fmt, first, 1)
    node.set_plain_output(op, constant_of(out_scale, rank), constant_of(out_bias - first * out_scale, rank))


# Trunc, and the two halves of a quantiser


def read_trunc(node: Node) -> None:
    """Read Trunc: whole codes of a scale, divided by a power of two and rounded, by default down."""
    value = node.value(0)
    scale, zero = (fitted(node.numbers(i, label), value.shape, label) for i, label in ((1, "scale"), (2, "zero point")))
    rounding = _rounding(node, "FLOOR")
    (bits_in,) = node.integers(3, "input bit width")[:1] or [0]
    codes = plain(node.builder, value)
    # Rounding to whole codes of the input's scale changes nothing when the codes are whole already.
    factor, summand = codes.scale / scale, codes.offset / scale + zero
    if any(number.denominator != 1 for number in (*factor.flat, *summand.flat)):
        codes = _rounded_to_codes(node, codes, scale, zero)
        factor, summand = codes.scale / scale, codes.offset / scale + zero
    second = len(node.proto.input) > 5
    if second:  # opset 2: the output has a scale of its own and is limited
        out_scale = fitted(_positive(node.numbers(4, "output scale")), value.shape, "output scale")
        ratio = uniform(out_scale / scale)
        shift = None if ratio is None else -nearest_exponent(ratio)  # as the qonnx package does
        (bits_out,) = node.integers(5, "output bit width")[:1] or [0]
    else:
        out_scale = scale
        (bits_out,) = node.integers(4, "output bit width")[:1] or [0]
        shift = bits_in - bits_out
    if shift is None or not 0 <= shift <= MAX_BITS or not 1 <= bits_out <= MAX_BITS:
        raise Unsupported(
            f"truncation from {bits_in} to {bits_out} bits is not supported; use scales that differ by a power of two"
        )
    if second:
        signed, narrow = bool(node.int_attribute("signed", 1)), bool(node.int_attribute("narrow", 0))
        fmt = Format(signed, bits_out, 0)
        high = fmt.max_code - int(narrow and not signed)
        quantiser = Quantiser(fmt.min_code + int(narrow and signed), high, rounding, fmt, narrow and signed)
    else:  # opset 1 limits nothing: the format holds what can come
        ends = [f * code for code in node.builder.tensors[codes.op].range for f in factor.flat]
        added = [min(summand.flat), max(summand.flat)]
        low, high = ((extreme(ends) + extreme(added)) // 2**shift + step for extreme, step in ((min, 0), (max, 1)))
        fmt = Format.holding(min(low, 0), high, 0)
        quantiser = Quantiser(fmt.min_code, fmt.max_code, rounding, fmt)
    unit = codes.scale / factor  # the input's scale, of the tensor's rank
    step = unit * 2**shift
    quantiser = _nominal(quantiser, step if second else unit)
    truncated = quantised(node.builder, codes, step, zero / 2**shift, quantiser, "trunc")
    zero_left = zero / 2**shift if second else zero
    node.set_plain_output(truncated.op, out_scale, -out_scale * zero_left)


def _rounded_to_codes(node: Node, value: SymbolicValue, scale: Rationals, zero: Rationals) -> SymbolicValue:
    """Return a plain value rounded to whole codes of a scale, none of which is limited.

    A mean that is truncated has whole codes but for float32's rounding of its scale: then this changes nothing.
    """
    low, high = node.builder.tensors[value.op].range
    ends = [abs(number) for number in (value.scale / scale).flat]
    reach = math.ceil(max(ends) * max(abs(low), abs(high)) + max(map(abs, (value.offset / scale + zero).flat))) + 1
    fmt = Format.holding(-reach, reach, 0)
    quantiser = _nominal(Quantiser(fmt.min_code, fmt.max_code, Rounding.HALF_EVEN, fmt), scale)
    return quantised(node.builder, value, scale, zero, quantiser)


def read_quantize_linear(node: Node) -> None:
    """Read QuantizeLinear: saturate(round(x / scale) + zero point), whole numbers."""
    source = node.operand(0)
    zero, kind = _linear_zero(node)
    width = kind.itemsize * 8
    if width > MAX_BITS:
        raise Unsupported(f"QuantizeLinear to {kind} is not supported; use int8 or uint8")
    fmt = Format(kind.kind == "i", width, 0)
    if isinstance(source, Constant):
        scale = _along_axis(node, _positive(node.numbers(1, "scale")), source.values.ndim)
        with np.errstate(over="ignore"):
            y = np.rint(_filled(source.values, "the constant") / scale) + _along_axis(node, zero, source.values.ndim)
        node.set_output(Constant(np.clip(y, fmt.min_code, fmt.max_code).astype(np.int64)))
        return
    shape = _shape(source)
    scale, zero = (_along_axis(node, values, len(shape) + 1) for values in (_positive(node.numbers(1, "scale")), zero))
    scales, zeros = fitted(scale, shape, "scale"), fitted(zero, shape, "zero point")
    offset = uniform(zeros)
    if offset is None:
        raise Unsupported("a zero point that differs between channels is not supported; use one")
    # The zero point is added after rounding: the codes without it are what is rounded and limited.
    no_zero = constant_of(0, len(shape))
    inner = Quantiser(fmt.min_code - int(offset), fmt.max_code - int(offset), Rounding.HALF_EVEN, fmt)
    if isinstance(source, RawInput):
        input_quantiser = replace(inner, low=fmt.min_code, high=fmt.max_code)
        value = quantise_input(node.reading, source, scales, zeros, _nominal(input_quantiser, scales), zero_after=True)
    elif isinstance(source, Scores):
        if offset:
            raise Unsupported("a softmax with a zero point is not supported; use zero point 0")
        value = quantised_softmax(node, source, scales, _nominal(inner, scales))
    else:
        shifted = Format.holding(min(inner.low, 0), inner.high, 0)
        value = quantised(node.builder, source, scales, no_zero, _nominal(replace(inner, format=shifted), scales))
    inverse = 1 / scales
    node.set_output(scaled(value, inverse, zeros, node.name))


def _linear_zero(node: Node) -> tuple[NDArray[Any], np.dtype[Any]]:
    if node.has(2):
        zero = node.numbers(2, "zero point")
        if zero.dtype.kind not in "iu":
            raise Unsupported(f"a zero point of type {zero.dtype} is not supported; use int8 or uint8")
        return zero, zero.dtype
    data_type = node.int_attribute("output_dtype", 0) or onnx.TensorProto.UINT8
    if data_type not in LINEAR_TYPES:
        raise Unsupported(f"QuantizeLinear to data type {data_type} is not supported; use int8 or uint8")
    kind = LINEAR_TYPES[data_type]
    return np.zeros((), dtype=kind), kind


def _along_axis(node: Node, values: NDArray[Any], rank: int) -> NDArray[Any]:
    """Return scales or zero points of one axis in a shape that numpy repeats over the others (event axis included)."""
    if values.size == 1:
        return values.reshape(())
    axis = node.int_attribute("axis", 1)
    axis += rank if axis < 0 else 0
    if values.ndim != 1 or not 0 <= axis < rank or node.int_attribute("block_size", 0):
        raise Unsupported(f"scales of shape {values.shape} are not supported; use one, or one per channel")
    return values.reshape([values.size if i == axis else 1 for i in range(rank)])


def read_dequantize_linear(node: Node) -> None:
    """Read DequantizeLinear: (x - zero point) * scale."""
    source = node.operand(0)
    zero = node.numbers(2, "zero point") if node.has(2) else np.zeros((), dtype=np.int64)
    if isinstance(source, RawInput | Scores):
        raise Unsupported("its input is not quantised; put QuantizeLinear before it")
    rank = source.values.ndim if isinstance(source, Constant) else len(source.shape) + 1
    scale, zero = (_along_axis(node, values, rank) for values in (_positive(node.numbers(1, "scale")), zero.astype(np.int64)))
    if isinstance(source, Constant):
        if source.values.dtype.kind not in "iu":
            raise BadData("its input is not of whole numbers")
        _filled(source.values, "the constant")
        codes = source.values.astype(np.int64) - zero
        scales = rationals(np.broadcast_to(scale, scale.shape or (1,) * rank))
        scales = scales.reshape(scale.shape if scale.shape else (1,) * rank)
        fmt = Format.holding(int(codes.min()), int(codes.max()), 0)
        node.set_output(Constant(codes * scale, codes, scales, fmt))
        return
    scales, zeros = fitted(scale, source.shape, "scale"), fitted(zero, source.shape, "zero point")
    node.set_output(scaled(source, scales, -scales * zeros, node.name))


READERS = {
    "Quant": read_quant,
    "IntQuant": read_quant,
    "BipolarQuant": read_bipolar_quant,
    "MultiThreshold": read_multi_threshold,
    "Trunc": read_trunc,
    "QuantizeLinear": read_quantize_linear,
    "DequantizeLinear": read_dequantize_linear,
}
CUSTOM = {"Quant", "IntQuant", "BipolarQuant", "MultiThreshold", "Trunc"}
"""Operators that are not ONNX's own but come from the domains of QONNX, Brevitas and FINN."""
