"""A real tensor inside a network, as an exact function of integer codes; it becomes codes again at the next quantiser.

Between two quantisers nothing is rounded: scales, biases, batch normalisations and ReLUs only change what is known of a tensor,
in exact rational numbers. Where integer codes are needed, `quantised` rounds as the file says, and `plain` refuses to.
"""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from caloedge.compiler import functions as real_functions
from caloedge.compiler.builder import Builder
from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.compiler.functions import Function
from caloedge.compiler.ops import Add, Affine, Multiply, Rearrange, Requantise, Reshape, Table
from caloedge.compiler.ranges import INT_LIMIT, TooWide
from caloedge.compiler.rationals import (
    Rationals,
    common_unit,
    compressed,
    magnitude_of,
    nearest_exponent,
    rationals,
)
from caloedge.compiler.requantise import Quantiser, exactly_rounded, quantise_affine, quantise_function, rounded_quotients
from caloedge.errors import Unsupported

NO_UNIT = "its scales have no common unit in 62 bits; use the same scale, or scales that are powers of two"
MIN_MAGNITUDE, MAX_MAGNITUDE = -1021, 1023
"""Powers of two between which float64, in which a network is trained and executed, holds scales and values."""
MAX_FRACTION_BITS = 2**14
"""Most bits of a scale: a batch normalisation adds some 300, and calculating takes time that grows with their square."""
MAX_REFINEMENT = 2**12
"""Most steps into which a step is divided so that a limit is a code: that costs as many bits."""
MAX_TABLE_ENTRIES = 2**16
"""Most codes of which magnitudes are looked up."""
MAX_COMBINATIONS = 2**20
"""Most combinations of codes for which small multipliers of a sum are tried out."""


@dataclass(frozen=True, eq=False)
class SymbolicValue:
    """functions(limit(sum of scale * codes + offset)); every array has the tensor's rank, axes of size 1 are repeated."""

    shape: tuple[int, ...]
    """Shape without the event axis."""
    terms: tuple[tuple[str, Rationals], ...]
    """Operation and scale of each summand."""
    offset: Rationals
    low: Rationals | None = None
    high: Rationals | None = None
    functions: tuple[Function, ...] = ()
    node: str = ""
    """The node that left the tensor unquantised, for messages."""

    @property
    def is_plain(self) -> bool:
        """Whether it is an affine function of one operation's codes."""
        return len(self.terms) == 1 and self.low is None and self.high is None and not self.functions

    @property
    def op(self) -> str:
        """The operation of a plain value."""
        ((name, _),) = self.terms
        return name

    @property
    def scale(self) -> Rationals:
        """The scale of a plain value."""
        ((_, scale),) = self.terms
        return scale


def constant_of(number: Fraction | int, rank: int) -> Rationals:
    """Return one number as an array of a tensor's rank."""
    constant = np.empty((1,) * rank, dtype=object)
    constant.reshape(-1)[0] = Fraction(number)
    return constant


def uniform(array: Rationals) -> Fraction | None:
    """Return the number that all elements equal, or None."""
    first: Fraction = array.reshape(-1)[0]
    return first if all(value == first for value in array.flat) else None


def plain_value(builder: Builder, op: str, scale: Rationals, offset: Rationals | None = None) -> SymbolicValue:
    """Return the value scale * codes + offset of an operation."""
    shape = builder.tensors[op].shape
    return SymbolicValue(shape, ((op, compressed(scale)),), constant_of(0, len(shape)) if offset is None else compressed(offset))


def refuse_beyond_float64(builder: Builder, value: SymbolicValue) -> None:
    """Refuse a value that float64 cannot hold, and scales of which exact fractions are too long to be calculated with."""
    constants = [number for function in value.functions[-1:] for array in function.constants for number in array.flat]
    reach = max(map(magnitude_of, (*value.offset.flat, *constants)))
    least = 0
    for name, scale in value.terms:
        powers = [magnitude_of(number) for number in scale.flat if number]
        codes = max(map(abs, builder.tensors[name].range)).bit_length()
        reach = max(reach, max(powers, default=0) + codes)
        least = min(least, *powers) if powers else least
        constants += scale.flat
    if reach > MAX_MAGNITUDE:
        raise Unsupported(f"its result may reach 2**{reach}, beyond what float64 holds; use scales nearer to 1")
    if least < MIN_MAGNITUDE:
        raise Unsupported(f"its scale is about 2**{least}, below what float64 holds; use scales nearer to 1")
    bits = max(number.denominator.bit_length() for number in (*constants, *value.offset.flat))
    if bits > MAX_FRACTION_BITS:
        raise Unsupported(f"its scales need {bits:,} bits to be exact, at most {MAX_FRACTION_BITS:,}; put a quantiser before it")


# What changes nothing but knowledge


def scaled(value: SymbolicValue, factor: Rationals, summand: Rationals, node: str) -> SymbolicValue:
    """Return factor * value + summand; both have the tensor's rank and do not enlarge it."""
    if value.functions:
        return replace(value, functions=(*value.functions, real_functions.affine(factor, summand)), node=node)
    low, high = value.low, value.high
    if (low is not None or high is not None) and not all(number > 0 for number in factor.flat):
        if not all(number < 0 for number in factor.flat):
            return replace(value, functions=(real_functions.affine(factor, summand),), node=node)
        low, high = high, low
    return replace(
        value,
        terms=tuple((name, compressed(scale * factor)) for name, scale in value.terms),
        offset=compressed(value.offset * factor + summand),
        low=None if low is None else compressed(low * factor + summand),
        high=None if high is None else compressed(high * factor + summand),
        node=node,
    )


def limited(value: SymbolicValue, low: Rationals | None, high: Rationals | None, node: str) -> SymbolicValue:
    """Return the value limited to [low, high]."""
    if value.functions:
        return replace(value, functions=(*value.functions, real_functions.clip(low, high)), node=node)

    def within(old: Rationals | None, new: Rationals | None) -> Rationals | None:
        if old is None:
            return new if new is None or high is None else np.minimum(new, high)
        limit = old if low is None else np.maximum(old, low)
        return limit if high is None else np.minimum(limit, high)

    return replace(value, low=within(value.low, low), high=within(value.high, high), node=node)


def applied(value: SymbolicValue, function: Function, node: str) -> SymbolicValue:
    """Return the function of the value."""
    return replace(value, functions=(*value.functions, replace(function, node=node)), node=node)


def added(a: SymbolicValue, b: SymbolicValue, node: str) -> SymbolicValue:
    """Return the sum of two values without limits and functions."""
    shape = np.broadcast_shapes(a.shape, b.shape)
    merged: dict[str, Rationals] = {}
    for name, scale in (*a.terms, *b.terms):
        merged[name] = compressed(merged[name] + scale) if name in merged else scale
    return SymbolicValue(shape, tuple(merged.items()), compressed(a.offset + b.offset), node=node)


# Moves of elements


def moved(builder: Builder, value: SymbolicValue, index: NDArray[np.int64], kind: str) -> SymbolicValue:
    """Return the value with elements taken from flat positions `index` (of the new shape); -1 is zero, of a plain value only."""
    value = expanded(builder, single(builder, value))
    fill = 0
    if np.any(index == -1):
        value = plain(builder, value)
        code = uniform(-value.offset / value.scale)
        if code is None or code.denominator != 1:
            value, code = without_offset(builder, value), Fraction(0)
        fill = int(code)
    source = value.op if value.is_plain else value.terms[0][0]
    if index.size == math.prod(value.shape) and np.array_equal(index.reshape(-1), np.arange(index.size)):
        op = builder.add(Reshape(builder.new_name("reshape" if index.ndim > 1 else "flatten"), (source,), index.shape))
    else:
        op = builder.add(Rearrange(builder.new_name(kind), (source,), index, fill, kind))

    def take(array: Rationals) -> Rationals:
        number = uniform(array)
        if number is not None:
            return constant_of(number, index.ndim)
        return _compressed_where(np.broadcast_to(array, value.shape).reshape(-1)[index], index >= 0)

    def optional(array: Rationals | None) -> Rationals | None:
        return None if array is None else take(array)

    functions = tuple(replace(f, constants=tuple(take(constant) for constant in f.constants)) for f in value.functions)
    terms = ((op, take(value.terms[0][1])),)
    return SymbolicValue(index.shape, terms, take(value.offset), optional(value.low), optional(value.high), functions, value.node)


def _compressed_where(values: Rationals, matters: NDArray[np.bool_]) -> Rationals:
    """Return `compressed` values, of which only some matter: what is zero has any scale."""
    for axis in range(values.ndim):
        first = np.take_along_axis(values, np.expand_dims(matters.argmax(axis), axis), axis)
        if ((values == first) | ~matters).all():
            values, matters = first, np.asarray(matters.any(axis, keepdims=True))
    return values


def expanded(builder: Builder, value: SymbolicValue) -> SymbolicValue:
    """Return a value of one term whose operation has the value's whole shape."""
    ((name, scale),) = value.terms
    shape = builder.tensors[name].shape
    if shape == value.shape:
        return value
    index = np.broadcast_to(np.arange(math.prod(shape)).reshape(shape), value.shape)
    op = builder.add(Rearrange(builder.new_name("repeat"), (name,), index, kind="repeat"))
    return replace(value, terms=((op, scale),))


# Codes again


def quantised(
    builder: Builder, value: SymbolicValue, scale: Rationals, zero_point: Rationals, quantiser: Quantiser, kind: str = "quant"
) -> SymbolicValue:
    """Return the value rounded to whole multiples of `scale` beside `zero_point`, as codes of a new operation.

    Raises `Unsupported` where no exact integer form is found.
    """
    inverse = 1 / scale
    low, high = (
        None if limit is None else _limit_code(limit * inverse + zero_point, quantiser) for limit in (value.low, value.high)
    )
    if value.functions or low is _VARIES or high is _VARIES:
        inner = positive(builder, single(builder, replace(value, low=None, high=None, functions=())))
        limits = () if value.low is None and value.high is None else (real_functions.clip(value.low, value.high),)
        functions = (*limits, *value.functions)
        source, factor = inner.terms[0]
        kind = functions[-1].kind.lower() if kind == "quant" else kind
        op = quantise_function(builder, source, (factor, inner.offset), functions, (inverse, zero_point), quantiser, kind)
    else:
        if low is not None or high is not None:
            quantiser = replace(
                quantiser,
                low=min(quantiser.high, max(quantiser.low, quantiser.low if low is None else low)),
                high=max(quantiser.low, min(quantiser.high, quantiser.high if high is None else high)),
            )
        if value.low is not None and uniform(value.low) == 0 and kind == "quant":
            kind = "relu"
        op = _quantised_sum(builder, value, inverse, zero_point, quantiser, kind)
    result = plain_value(builder, op, scale, -scale * zero_point)
    return expanded(builder, replace(result, shape=value.shape)) if result.shape != value.shape else result


_VARIES = -(2**63)


def _limit_code(limits: Rationals, quantiser: Quantiser) -> int:
    """Return the code that a limit is rounded to, or `_VARIES` if that differs between elements."""
    codes = {exactly_rounded(limit, quantiser.rounding) for limit in limits.flat}
    return codes.pop() if len(codes) == 1 else _VARIES


def _quantised_sum(
    builder: Builder, value: SymbolicValue, inverse: Rationals, zero_point: Rationals, quantiser: Quantiser, kind: str
) -> str:
    if len(value.terms) > 1:
        form = _small_multipliers(builder, value, inverse, zero_point, quantiser)
        if form is not None:
            return _added_and_shifted(builder, value, *form, quantiser, kind)
    term = single(builder, value)
    name, scale = term.terms[0]
    return quantise_affine(builder, name, scale * inverse, term.offset * inverse + zero_point, quantiser, kind)


def _small_multipliers(
    builder: Builder, value: SymbolicValue, inverse: Rationals, zero_point: Rationals, quantiser: Quantiser
) -> tuple[list[int], int, int] | None:
    """Return multipliers, summand and shift with which a sum of two or more tensors is exact for every combination of codes.

    Only for scales that are the same for all elements; None when there are too many combinations or nothing fits 62 bits.
    """
    factors = [uniform(scale * inverse) for _, scale in value.terms]
    summand = uniform(value.offset * inverse + zero_point)
    ranges = [builder.tensors[name].range for name, _ in value.terms]
    count = math.prod(high - low + 1 for low, high in ranges)
    if summand is None or count > MAX_COMBINATIONS:
        return None
    known = [factor for factor in factors if factor is not None]
    if len(known) != len(factors) or all(a == b for a, b in pairwise(known)):
        return None  # equal scales need no multipliers
    divisor = math.lcm(*(number.denominator for number in (*known, summand)))
    grids = np.meshgrid(*(np.arange(low, high + 1) for low, high in ranges), indexing="ij", sparse=True)
    numerators = sum(int(factor * divisor) * grid.astype(object) for factor, grid in zip(known, grids, strict=True)) + int(
        summand * divisor
    )
    codes = rounded_quotients(np.asarray(numerators, dtype=object), divisor, quantiser.rounding)
    free = (codes > quantiser.low) & (codes < quantiser.high)
    for shift in range(2, 40):
        multipliers = [int(exactly_rounded(factor * 2**shift, Rounding.HALF_EVEN)) for factor in known]
        reach = sum(abs(m) * max(map(abs, ends)) for m, ends in zip(multipliers, ranges, strict=True))
        if reach + (max(abs(quantiser.low), abs(quantiser.high)) + 1 << shift) >= INT_LIMIT:
            return None
        sums = sum(m * grid.astype(np.int64) for m, grid in zip(multipliers, grids, strict=True))
        limit = np.clip(codes, quantiser.low, quantiser.high)
        least = np.where(free | (limit == quantiser.high), (limit << shift) - sums, -(2**62)).max()
        most = np.where(free | (limit == quantiser.low), ((limit + 1) << shift) - 1 - sums, 2**62).min()
        if least <= most:
            return multipliers, int((least + most) // 2), shift
    return None


def _added_and_shifted(
    builder: Builder, value: SymbolicValue, multipliers: list[int], summand: int, shift: int, quantiser: Quantiser, kind: str
) -> str:
    fraction = quantiser.format.fraction + shift
    names: list[str] = []
    for (name, _), multiplier in zip(value.terms, multipliers, strict=True):
        rank = len(builder.tensors[name].shape)
        bias = 0 if names else summand
        names.append(_affine(builder, name, np.full((1,) * rank, multiplier), np.full((1,) * rank, bias), fraction))
    return quantise_affine(
        builder,
        _sum(builder, names),
        constant_of(Fraction(1, 2**shift), len(value.shape)),
        constant_of(0, len(value.shape)),
        replace(quantiser, rounding=Rounding.TRUNCATE),
        kind,
    )


def _affine(builder: Builder, source: str, weights: Codes, bias: Codes, fraction: int) -> str:
    """Add weights * code + bias whose nominal fraction is `fraction`; nothing where the code already is that."""
    source_fraction = builder.tensors[source].format.fraction
    if not np.any(bias) and np.all(weights == 1) and source_fraction == fraction:
        return source
    fmt = Format.holding(int(weights.min()), int(weights.max()), fraction - source_fraction)
    return builder.add(Affine(builder.new_name("scale"), (source,), weights, bias, fmt))


def _sum(builder: Builder, names: list[str]) -> str:
    total = names[0]
    for name in names[1:]:
        total = builder.add(Add(builder.new_name("add"), (total, name)))
    return total


def single(builder: Builder, value: SymbolicValue) -> SymbolicValue:
    """Return the value with one term: the codes of several are added on their common scale."""
    if len(value.terms) == 1:
        return value
    rank = len(value.shape)
    grid = np.broadcast_shapes(*(scale.shape for _, scale in value.terms))
    scales = [np.broadcast_to(scale, grid) for _, scale in value.terms]
    units = np.empty(grid, dtype=object)
    for position in np.ndindex(grid):
        units[position] = common_unit(np.array([scale[position] for scale in scales], dtype=object))
    unit = compressed(units)
    fraction = max(nearest_exponent(number) for number in unit.flat)
    names: list[str] = []
    for (name, _), scale in zip(value.terms, scales, strict=True):
        multipliers = scale / unit
        shift = fraction - builder.tensors[name].format.fraction
        if shift >= 0 and uniform(multipliers) == 2**shift:
            names.append(name)  # the sum aligns fractions itself
            continue
        weights = _whole(compressed(multipliers))
        if any(size not in (1, length) for size, length in zip(weights.shape, builder.tensors[name].shape, strict=True)):
            name = expanded(builder, replace(value, terms=((name, scale),))).op
        try:
            names.append(_affine(builder, name, weights, np.zeros_like(weights), fraction))
        except TooWide:
            raise Unsupported(NO_UNIT) from None
    assert unit.ndim == rank
    return replace(value, terms=((_sum(builder, names), unit),))


def _whole(values: Rationals) -> Codes:
    numbers = [int(value) for value in values.flat]
    if max(map(abs, numbers)) >= 2**61:
        raise Unsupported(NO_UNIT)
    return np.array(numbers, dtype=np.int64).reshape(values.shape)


def plain(builder: Builder, value: SymbolicValue) -> SymbolicValue:
    """Return the value as an affine function of one operation's codes; raise `Unsupported` when only rounding could do that."""
    if value.functions:
        return plain(builder, _multiplied_out(builder, value))
    value = _visible(builder, single(builder, value))
    if value.is_plain:
        return value
    value = centred(builder, positive(builder, value))
    name, scale = value.terms[0]
    tensor = builder.tensors[name]
    limits = []
    for limit, end in ((value.low, tensor.range[0]), (value.high, tensor.range[1])):
        code = Fraction(end) if limit is None else uniform((limit - value.offset) / scale)
        if code is not None and 1 < code.denominator <= MAX_REFINEMENT and uniform(scale) is not None:
            return plain(builder, _refined(builder, value, code.denominator))
        if code is None or code.denominator != 1:
            raise Unsupported(f"the result of {value.node} is not quantised, and its limit lies between two codes; quantise it")
        limits.append(int(code))
    low, high = limits
    low, high = max(low, min(tensor.range[0], high)), min(high, max(tensor.range[1], low))
    fmt = Format.holding(low, high, tensor.format.fraction)
    relu = value.high is None and low == 0
    bounds = None if (low, high) == (0 if relu else fmt.min_code, fmt.max_code) else (low, high)
    op = builder.add(Requantise(builder.new_name("relu" if relu else "clip"), (name,), fmt, relu, limits=bounds))
    return SymbolicValue(value.shape, ((op, scale),), value.offset)


def _refined(builder: Builder, value: SymbolicValue, steps: int) -> SymbolicValue:
    """Return a value of one term with so many times smaller steps: a limit that lay between two codes is one of them then."""
    ((name, scale),) = value.terms
    weights = np.full((1,) * len(value.shape), steps, dtype=np.int64)
    fraction = nearest_exponent(scale.flat[0] / steps)
    return replace(value, terms=((_affine(builder, name, weights, np.zeros_like(weights), fraction), compressed(scale / steps)),))


def _multiplied_out(builder: Builder, value: SymbolicValue) -> SymbolicValue:
    """Return a value with its first function as codes, where it is a power or a magnitude, and the next ones where they can be.

    These are the affine ones and limits.
    """
    first, *later = value.functions
    if first.exponent is None and first.kind != "Abs":
        raise Unsupported(f"the result of {value.node} is not quantised; add a quantiser after it")
    argument = plain(builder, replace(value, functions=()))
    result = magnitude(builder, argument) if first.exponent is None else powered(builder, argument, first.exponent)
    while later and (later[0].kind == "affine" or any(later[0].limits)):
        function = later.pop(0)
        if function.kind == "affine":
            factor, summand = function.constants
            result = scaled(result, factor, summand, value.node)
        else:
            limits = iter(function.constants)
            low, high = (next(limits) if given else None for given in function.limits)
            result = limited(result, low, high, value.node)
    return replace(result, functions=tuple(later), node=value.node)


def magnitude(builder: Builder, value: SymbolicValue) -> SymbolicValue:
    """Return the magnitude of a plain value: its steps are those of its argument."""
    value = positive(builder, without_offset(builder, value))
    tensor, rank = builder.tensors[value.op], len(value.shape)
    low, high = tensor.range
    if high - low >= MAX_TABLE_ENTRIES:
        raise Unsupported(f"the result of {value.node} is not quantised; add a quantiser after it")
    fmt = Format.holding(0, max(abs(low), abs(high)), tensor.format.fraction)
    values = np.abs(np.arange(low, high + 1)).reshape((1,) * rank + (-1,))
    return plain_value(builder, builder.add(Table(builder.new_name("abs"), (value.op,), values, low, fmt)), value.scale)


def powered(builder: Builder, value: SymbolicValue, exponent: int) -> SymbolicValue:
    """Return a plain value to the power of a whole positive exponent, as products of codes."""
    base = without_offset(builder, value)
    op, scale = base.op, base.scale
    for _ in range(exponent - 1):
        try:
            op = builder.add(Multiply(builder.new_name("multiply"), (op, base.op)))
        except TooWide as problem:
            raise (problem if base.scale is value.scale else reason_of(problem, value)) from None
        scale = scale * base.scale
    return plain_value(builder, op, scale)


def centred(builder: Builder, value: SymbolicValue) -> SymbolicValue:
    """Return a value of one term without its offset where that is a whole number of steps, which goes into the codes."""
    name, scale = value.terms[0]
    if not any(value.offset.flat) or not all(scale.flat):
        return value
    steps = compressed(value.offset / scale)
    if any(step.denominator != 1 or abs(step) >= 2**60 for step in steps.flat):
        return value
    bias = np.array([int(step) for step in steps.flat], dtype=np.int64).reshape(steps.shape)
    op = builder.add(Affine(builder.new_name("shift"), (name,), np.ones_like(bias), bias, Format(False, 1, 0)))
    return replace(value, terms=((op, scale),), offset=constant_of(0, len(value.shape)))


def without_offset(builder: Builder, value: SymbolicValue) -> SymbolicValue:
    """Return a plain value without an offset, with its own scales where they allow that and with one scale otherwise."""
    value = centred(builder, value)
    return aligned(builder, value) if any(value.offset.flat) else value


def aligned(builder: Builder, value: SymbolicValue) -> SymbolicValue:
    """Return a plain value without offset as codes of one scale: the largest unit of which all scales and offsets are multiples.

    Any finite numbers have one; raises `Unsupported` where it is too small for codes of 62 bits.
    """
    if uniform(value.scale) is not None and not any(value.offset.flat):
        return value
    unit = common_unit(np.concatenate([value.scale.reshape(-1), value.offset.reshape(-1)]))
    weights, bias = compressed(value.scale / unit), compressed(value.offset / unit)
    tensor = builder.tensors[value.op]
    largest = max(map(abs, tensor.range))
    if max(map(abs, weights.flat)) * largest + max(map(abs, bias.flat)) >= INT_LIMIT:
        raise Unsupported(unaligned(value))
    integers = [
        np.array([int(number) for number in array.flat], dtype=np.int64).reshape(array.shape) for array in (weights, bias)
    ]
    op = _affine(builder, value.op, integers[0], integers[1], nearest_exponent(unit))
    return SymbolicValue(value.shape, ((op, constant_of(unit, len(value.shape))),), constant_of(0, len(value.shape)))


def unaligned(value: SymbolicValue) -> str:
    """Say why a plain value does not fit 62 bits as codes of one scale."""
    count = len(set(value.scale.flat))
    if count > 1:
        return (
            f"its input has {count} different scales without a common unit in 62 bits; quantise it with one scale per tensor "
            "(one QuantIdentity behind all branches)"
        )
    return (
        "the bias of its input is no multiple of the input's scale, and both together do not fit 62 bits; use "
        "bias_quant=Int16Bias in the layer before, or a QuantIdentity between them"
    )


def reason_of(problem: TooWide, *values: SymbolicValue) -> Unsupported:
    """Return why sums do not fit 62 bits: the first of what they are made of that had to be aligned, or themselves."""
    for value in values:
        steps: Rationals = value.offset / value.scale
        if uniform(value.scale) is None or any(step.denominator != 1 for step in steps.flat):
            return Unsupported(unaligned(value))
    return problem


def _visible(builder: Builder, value: SymbolicValue) -> SymbolicValue:
    """Return a value of one term whose scale is nowhere zero: codes that do not matter are zero instead."""
    name, scale = value.terms[0]
    if all(scale.flat):
        return value
    matters = np.array([int(number != 0) for number in scale.flat], dtype=np.int64).reshape(scale.shape)
    nonzero = next((number for number in scale.flat if number), Fraction(1))
    op = builder.add(Affine(builder.new_name("mask"), (name,), matters, np.zeros_like(matters), Format(False, 1, 0)))
    return replace(value, terms=((op, compressed(np.where(matters, scale, constant_of(nonzero, scale.ndim)))),))


def positive(builder: Builder, value: SymbolicValue) -> SymbolicValue:
    """Return a value of one term whose scale is nowhere negative."""
    name, scale = value.terms[0]
    if all(number >= 0 for number in scale.flat):
        return value
    signs = np.array([-1 if number < 0 else 1 for number in scale.flat], dtype=np.int64).reshape(scale.shape)
    op = builder.add(Affine(builder.new_name("sign"), (name,), signs, np.zeros_like(signs), Format(True, 2, 0)))
    return replace(value, terms=((op, compressed(scale * rationals(signs))),))
