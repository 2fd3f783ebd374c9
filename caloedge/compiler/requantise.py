"""Exact requantisation: a quantiser after an affine map of integer codes, for any scale, as cheap integer operations.

The exact result is a monotone step function of the code. In order of cost it becomes: a shift; a multiplication by small
integers and a shift; thresholds; a table. A multiply-shift form is taken only after a proof that it equals the exact function
for every code that can occur: both are sums of floors of lines, and two such functions whose difference does not change
sign are equal if their sums are (`floor_sum`), however many codes there are.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from caloedge.compiler.builder import Builder
from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.compiler.functions import Function, pick
from caloedge.compiler.ops import Affine, Requantise, Table, Threshold
from caloedge.compiler.ranges import INT_LIMIT, Tensor
from caloedge.compiler.rationals import Rationals, compressed, exponent_of, floor_sum, to_floats
from caloedge.errors import Unsupported

SMALL_FACTOR_BITS = 8
"""An exact factor of so few bits is taken without looking for a smaller one."""
MAX_LEVELS = 2**12
"""Most thresholds per channel, and most entries of a table that takes their place."""
MAX_STEPS = 2**21
"""Most thresholds or table entries of one operation."""
DOUBTFUL = 1e-9
"""Values closer to a rounding boundary than this, in units of the result's code, are decided by exact arithmetic."""


@dataclass(frozen=True, eq=False)
class Quantiser:
    """Rounding and limits that a quantiser applies to y = value / scale + zero point."""

    low: int
    high: int
    rounding: Rounding
    format: Format
    """Format of the result; its fraction says what the nominal value of the result is."""
    narrow: bool = False
    """Whether `low` is one above the format's lowest code."""
    free_fraction: bool = False
    """Whether the scale is no power of two, so that any fraction serves as the nominal one."""

    @property
    def limits(self) -> tuple[int, int] | None:
        """Limits that `Requantise` needs beside format and `narrow`; None where these say all."""
        full_range = self.format.min_code + int(self.narrow and self.format.signed), self.format.max_code
        return None if (self.low, self.high) == full_range else (self.low, self.high)


@dataclass(frozen=True)
class Row:
    """y = factor * code + summand for the codes low..high of the elements that share a factor and a summand."""

    position: tuple[int, ...]
    factor: Fraction
    summand: Fraction
    low: int
    high: int


def quantise_affine(builder: Builder, source: str, factor: Rationals, summand: Rationals, quantiser: Quantiser, kind: str) -> str:
    """Add operations that round and limit y = factor * code + summand; return the name of the last.

    `factor` and `summand` have the rank of the source; axes of size 1 are repeated.
    """
    if quantiser.low == quantiser.high:
        return _constant(builder, source, quantiser, kind)
    factor, summand = compressed(factor), compressed(summand)
    simple = _by_shift(builder, source, factor, summand, quantiser, kind, SMALL_FACTOR_BITS)
    if simple is not None:
        return simple
    rows = list(_rows(builder, source, factor, summand))
    grid = np.broadcast_shapes(factor.shape, summand.shape)
    form = _multiply_shift(rows, quantiser)
    if form is not None:
        multipliers, summands, shift = form
        weights, bias = np.reshape(multipliers, grid), np.reshape(summands, grid)
        return _add_scaled(builder, source, weights, bias, shift, replace(quantiser, rounding=Rounding.TRUNCATE), kind)
    simple = _by_shift(builder, source, factor, summand, quantiser, kind, 62)
    if simple is not None:
        return simple
    return _by_thresholds(builder, source, rows, grid, quantiser, kind)


def _constant(builder: Builder, source: str, quantiser: Quantiser, kind: str) -> str:
    """Add what a quantiser of a single code makes of anything."""
    nothing = np.zeros((1,) * len(builder.tensors[source].shape), dtype=np.int64)
    return _add_scaled(builder, source, nothing, nothing + quantiser.low, 0, quantiser, kind)


def _rows(builder: Builder, source: str, factor: Rationals, summand: Rationals) -> Iterator[Row]:
    tensor = builder.tensors[source]
    grid = np.broadcast_shapes(factor.shape, summand.shape)
    repeated = tuple(axis for axis, size in enumerate(grid) if size == 1)
    low, high = tensor.low.min(axis=repeated, keepdims=True), tensor.high.max(axis=repeated, keepdims=True)
    for position in np.ndindex(grid):
        yield Row(position, pick(factor, position), pick(summand, position), int(low[position]), int(high[position]))


# A shift, after a multiplication by exact integers where it is needed


def _by_shift(
    builder: Builder, source: str, factor: Rationals, summand: Rationals, quantiser: Quantiser, kind: str, max_bits: int
) -> str | None:
    """Take the factors as they are when they are small integers over a power of two."""
    if any(value.denominator & (value.denominator - 1) for value in (*factor.flat, *summand.flat)):
        return None
    if not any(factor.flat):
        return None
    exponents = {exponent_of(value) for value in factor.flat}
    shift = max(value.denominator.bit_length() - 1 for value in (*factor.flat, *summand.flat))
    if len(exponents) == 1 and None not in exponents and not any(summand.flat):
        (only,) = exponents
        assert only is not None
        shift = only
    weights = [value * Fraction(2) ** shift for value in factor.flat]
    bias = [value * Fraction(2) ** shift for value in summand.flat]
    largest = builder.tensors[source].range
    reach = max(map(abs, weights)) * max(map(abs, largest)) + max(map(abs, bias))
    if max(abs(value.numerator).bit_length() for value in weights) > max_bits or reach >= INT_LIMIT:
        return None
    integers = [np.array([int(v) for v in values], dtype=np.int64) for values in (weights, bias)]
    return _add_scaled(
        builder, source, integers[0].reshape(factor.shape), integers[1].reshape(summand.shape), shift, quantiser, kind
    )


def _add_scaled(builder: Builder, source: str, weights: Codes, bias: Codes, shift: int, quantiser: Quantiser, kind: str) -> str:
    """Add (weights * code + bias) >> shift with rounding and limits; the multiplication is left out where it does nothing."""
    fmt, x = quantiser.format, builder.tensors[source].format
    multiplies = bool(np.any(bias) or np.any(weights != 1))
    if quantiser.free_fraction and not multiplies:
        fmt = replace(fmt, fraction=x.fraction - shift)
    fraction = shift + fmt.fraction - x.fraction
    if multiplies or fraction:
        weight_format = Format.holding(int(weights.min()), int(weights.max()), fraction)
        source = builder.add(Affine(builder.new_name("scale"), (source,), weights, bias, weight_format))
    relu = kind == "relu" and quantiser.low == 0
    limits = quantiser.limits if not relu or quantiser.high != quantiser.format.max_code else None
    return builder.add(Requantise(builder.new_name(kind), (source,), fmt, relu, quantiser.narrow, quantiser.rounding, limits))


# Multiply and shift, proven


def _multiply_shift(rows: list[Row], quantiser: Quantiser) -> tuple[list[int], list[int], int] | None:
    """Return the smallest multipliers, summands and shift that give floor((m * code + n) / 2**shift) == the exact result."""
    lines = []
    for row in rows:
        line = _floor_line(row, quantiser)
        if line is None:
            return None
        lines.append(line)
    largest = max(max(abs(row.low), abs(row.high)) for row in rows)
    hardest = list(range(len(lines)))
    for shift in range(62):
        forms: dict[int, tuple[int, int]] = {}
        for number in hardest:
            factor, start, divisor, low, high = lines[number]
            middle = (low + high) // 2
            m = (2 * (factor << shift) + divisor) // (2 * divisor)
            # Half a step above the exact line at the middle: errors of either sign are then equally far from a floor's edge.
            n = _round(Fraction(2 * start + 1, 2 * divisor) * 2**shift - (m - Fraction(factor << shift, divisor)) * middle)
            if abs(m) * largest + abs(n) >= INT_LIMIT:
                return None
            if not _same_floors(m, n, shift, lines[number]):
                hardest.remove(number)
                hardest.insert(0, number)  # it will fail first at the next shift, too
                break
            forms[number] = m, n
        else:
            return [forms[i][0] for i in range(len(rows))], [forms[i][1] for i in range(len(rows))], shift
    return None


def _round(value: Fraction) -> int:
    return math.floor(value + Fraction(1, 2))


def _floor_line(row: Row, quantiser: Quantiser) -> tuple[int, int, int, int, int] | None:
    """Write the exact result as floor((factor * code + start) / divisor) for codes low..high; None if rounding is no floor.

    Codes whose result is limited anyway are left out, but for one at each end.
    """
    low, high = _unlimited(row, quantiser)
    added, strict = _added(row, quantiser.rounding, low, high)
    if added is None:
        return None
    summand = row.summand + added
    divisor = math.lcm(row.factor.denominator, summand.denominator)
    factor, start = int(row.factor * divisor), int(summand * divisor)
    if strict is not False and _touches(factor, start, divisor, low, high):
        if strict is None:
            return None  # a tie whose direction changes from code to code
        start -= 1
    return factor, start, divisor, low, high


def _unlimited(row: Row, quantiser: Quantiser) -> tuple[int, int]:
    if not row.factor:
        return row.low, row.low
    ends = sorted((Fraction(limit) - row.summand) / row.factor for limit in (quantiser.low - 2, quantiser.high + 2))
    return min(max(math.floor(ends[0]), row.low), row.high), max(min(math.ceil(ends[1]), row.high), row.low)


def _added(row: Row, rounding: Rounding, low: int, high: int) -> tuple[Fraction | None, bool | None]:
    """Return h of result = floor(y + h) and whether a whole y + h belongs to the step below.

    No h means that no such floor exists, neither yes nor no that it depends on the code.
    """
    ends = [row.factor * code + row.summand for code in (low, high)]
    match rounding:
        case Rounding.HALF_UP:
            return Fraction(1, 2), False
        case Rounding.HALF_EVEN | Rounding.HALF_TO_ZERO | Rounding.HALF_FROM_ZERO:
            return Fraction(1, 2), None
        case Rounding.TRUNCATE:
            return Fraction(0), False
        case Rounding.CEILING:
            return Fraction(1), True
        case Rounding.TO_ZERO | Rounding.FROM_ZERO:
            if min(ends) >= 0:
                return (Fraction(0), False) if rounding is Rounding.TO_ZERO else (Fraction(1), True)
            if max(ends) <= 0:
                return (Fraction(1), True) if rounding is Rounding.TO_ZERO else (Fraction(0), False)
            return None, None


def _touches(factor: int, start: int, divisor: int, low: int, high: int) -> bool:
    """Tell whether factor * code + start is a whole multiple of divisor for any code low..high."""
    count, first = high - low + 1, factor * low + start
    return floor_sum(count, divisor, factor, first) != floor_sum(count, divisor, factor, first - 1)


def _same_floors(m: int, n: int, shift: int, line: tuple[int, int, int, int, int]) -> bool:
    """Prove floor((m * code + n) / 2**shift) == floor((factor * code + start) / divisor) for every code low..high."""
    factor, start, divisor, low, high = line
    # Where the difference of the two lines changes sign, the range is cut: on either side one floor is never above the other.
    slope, level = m * divisor - (factor << shift), n * divisor - (start << shift)
    cut = math.floor(Fraction(-level, slope)) if slope else high
    for first, last in ((low, min(max(cut, low - 1), high)), (min(max(cut + 1, low), high + 1), high)):
        count = last - first + 1
        if count > 0 and floor_sum(count, 1 << shift, m, m * first + n) != floor_sum(
            count, divisor, factor, factor * first + start
        ):
            return False
    return True


# Thresholds and tables


def _by_thresholds(builder: Builder, source: str, rows: list[Row], grid: tuple[int, ...], quantiser: Quantiser, kind: str) -> str:
    """Compare with thresholds that are calculated one by one."""
    levels = quantiser.high - quantiser.low
    entries = max(row.high for row in rows) - min(row.low for row in rows) + 1
    if levels > MAX_LEVELS or levels * len(rows) > MAX_STEPS:
        if entries <= MAX_LEVELS and entries * len(rows) <= MAX_STEPS:
            return _by_table(builder, source, rows, grid, quantiser, kind)
        raise Unsupported(
            f"its rescaling needs {levels:,} thresholds for each of {len(rows)} channels over {entries:,} codes; use fewer bits "
            "or scales that are powers of two"
        )
    if any(row.factor < 0 for row in rows):
        signs = np.array([-1 if row.factor < 0 else 1 for row in rows]).reshape(grid)
        source = builder.add(Affine(builder.new_name("sign"), (source,), signs, np.zeros_like(signs), Format(True, 2, 0)))
        rows = [row if row.factor >= 0 else Row(row.position, -row.factor, row.summand, -row.high, -row.low) for row in rows]
    thresholds = [
        [_threshold(row, level, quantiser.rounding) for level in range(quantiser.low + 1, quantiser.high + 1)] for row in rows
    ]
    codes = np.array(thresholds, dtype=np.int64).reshape(*grid, levels)
    return builder.add(Threshold(builder.new_name(kind), (source,), codes, quantiser.low, 1, quantiser.format))


def _by_table(builder: Builder, source: str, rows: list[Row], grid: tuple[int, ...], quantiser: Quantiser, kind: str) -> str:
    """Look up what each of a few codes is rounded to."""
    first = min(row.low for row in rows)
    codes = np.arange(first, max(row.high for row in rows) + 1).astype(object)
    values = np.empty((len(rows), len(codes)), dtype=np.int64)
    for number, row in enumerate(rows):
        divisor = math.lcm(row.factor.denominator, row.summand.denominator)
        numerators = int(row.factor * divisor) * codes + int(row.summand * divisor)
        values[number] = np.clip(rounded_quotients(numerators, divisor, quantiser.rounding), quantiser.low, quantiser.high)
    return builder.add(Table(builder.new_name(kind), (source,), values.reshape(*grid, -1), first, quantiser.format))


def _threshold(row: Row, level: int, rounding: Rounding) -> int:
    """Return the lowest code of the row whose rounded value reaches `level`; one above the highest if none does."""
    if not row.factor:
        return row.low if _reaches(row.summand, level, rounding) else row.high + 1
    edge, inclusive = _edge(level, rounding)
    exact = (edge - row.summand) / row.factor
    code = math.ceil(exact) if inclusive else math.floor(exact) + 1
    return min(max(code, row.low), row.high + 1)


def _reaches(value: Fraction, level: int, rounding: Rounding) -> bool:
    edge, inclusive = _edge(level, rounding)
    return value >= edge if inclusive else value > edge


def _edge(level: int, rounding: Rounding) -> tuple[Fraction, bool]:
    """Return the value from which on rounding gives at least `level`, and whether the value itself does."""
    half = Fraction(2 * level - 1, 2)
    match rounding:
        case Rounding.HALF_EVEN:
            return half, level % 2 == 0
        case Rounding.HALF_UP:
            return half, True
        case Rounding.HALF_TO_ZERO:
            return half, level <= 0
        case Rounding.HALF_FROM_ZERO:
            return half, level > 0
        case Rounding.TRUNCATE:
            return Fraction(level), True
        case Rounding.CEILING:
            return Fraction(level - 1), False
        case Rounding.TO_ZERO:
            return (Fraction(level), True) if level > 0 else (Fraction(level - 1), False)
        case Rounding.FROM_ZERO:
            return (Fraction(level - 1), False) if level > 0 else (Fraction(level), True)


def quantise_function(
    builder: Builder,
    source: str,
    inner: tuple[Rationals, Rationals],
    functions: tuple[Function, ...],
    outer: tuple[Rationals, Rationals],
    quantiser: Quantiser,
    kind: str,
) -> str:
    """Add a table (or, for many codes, thresholds) of outer(functions(inner(code))), rounded and limited.

    `inner` and `outer` are factor and summand of affine maps, of the source's rank; axes of size 1 are repeated.
    """
    if quantiser.low == quantiser.high:
        return _constant(builder, source, quantiser, kind)
    tensor = builder.tensors[source]
    constants = [*inner, *outer, *(constant for function in functions for constant in function.constants)]
    grid = np.broadcast_shapes(*(constant.shape for constant in constants))
    low, high = tensor.range
    rows = math.prod(grid)
    if (high - low + 1) * rows <= MAX_STEPS:
        codes = np.arange(low, high + 1)
        _refuse_undefined(tensor, grid, codes, inner, functions)
        values = _evaluated(np.broadcast_to(codes, (*grid, len(codes))), inner, functions, outer, quantiser)
        return builder.add(Table(builder.new_name(kind), (source,), values, low, quantiser.format))
    levels = quantiser.high - quantiser.low
    increasing = all(function.increasing for function in functions) and all(
        value >= 0 for value in (*inner[0].flat, *outer[0].flat)
    )
    if not increasing or levels > MAX_LEVELS or levels * rows > MAX_STEPS:
        entries = (high - low + 1) * rows
        raise Unsupported(
            f"a table of {entries:,} entries would be needed; quantise what enters {functions[0].kind} to fewer bits"
        )
    _refuse_undefined(tensor, grid, np.array([low, high]), inner, functions)
    # Every level's threshold at once, by bisection: the result at `above` reaches the level, the one at `below` does not.
    level_codes = np.arange(quantiser.low + 1, quantiser.high + 1)
    below, above = np.full((*grid, levels), low - 1), np.full((*grid, levels), high + 1)
    while (open_ := above - below > 1).any():
        middle = np.maximum((below + above) // 2, low)
        reached = _evaluated(middle, inner, functions, outer, quantiser) >= level_codes
        above, below = np.where(open_ & reached, middle, above), np.where(open_ & ~reached, middle, below)
    return builder.add(Threshold(builder.new_name(kind), (source,), above, quantiser.low, 1, quantiser.format))


def _refuse_undefined(
    tensor: Tensor, grid: tuple[int, ...], codes: Codes, inner: tuple[Rationals, Rationals], functions: tuple[Function, ...]
) -> None:
    """Refuse a function that is not defined for what some of these codes, as far as they can come, give as its argument."""
    if all(function.lowest is None for function in functions):
        return
    repeated = tuple(axis for axis, size in enumerate(grid) if size == 1)
    low, high = tensor.low.min(axis=repeated, keepdims=True), tensor.high.max(axis=repeated, keepdims=True)
    possible = np.clip(codes, low[..., None], high[..., None])
    x = possible * to_floats(inner[0])[..., None] + to_floats(inner[1])[..., None]
    for number, function in enumerate(functions):
        if function.lowest is not None:
            *place, code = (int(i) for i in np.unravel_index(x.argmin(), x.shape))
            position = tuple(place)
            argument = pick(inner[0], position) * int(possible[(*position, code)]) + pick(inner[1], position)
            for before in functions[:number]:
                argument = before.at(argument, position)
            if argument < function.lowest:
                raise Unsupported(
                    f"{function.node} would take the {function.kind} of numbers from {float(argument):g} to {float(x.max()):g}, "
                    f"which is not defined below {function.lowest}; put a Relu or Clip before it"
                )
        x = function(x)


def _evaluated(
    codes: Codes,
    inner: tuple[Rationals, Rationals],
    functions: tuple[Function, ...],
    outer: tuple[Rationals, Rationals],
    quantiser: Quantiser,
) -> Codes:
    """Return the quantised results for codes (*grid, N); what float64 leaves in doubt is decided exactly."""
    x = codes * to_floats(inner[0])[..., None] + to_floats(inner[1])[..., None]
    for function in functions:
        x = function(x)
    y = x * to_floats(outer[0])[..., None] + to_floats(outer[1])[..., None]
    y = np.clip(y, quantiser.low - 2.0, quantiser.high + 2.0)
    edges = y - 0.5 if quantiser.rounding.to_nearest else y  # whole at the boundaries of the rounding mode
    doubtful = np.abs(edges - np.rint(edges)) < DOUBTFUL * np.maximum(1.0, np.abs(y))
    doubtful &= (y > quantiser.low - 1.75) & (y < quantiser.high + 1.75)  # beyond, they are limited whatever they are
    result = np.asarray(np.clip(_rounded(y, quantiser.rounding), quantiser.low, quantiser.high), dtype=np.int64)
    for position in np.ndindex(doubtful.shape[:-1]):
        places = np.flatnonzero(doubtful[position])
        if not places.size:
            continue
        factor, summand, *ends = (pick(array, position) for array in (*inner, *outer))
        steps = [(function.exact, [pick(constant, position) for constant in function.constants]) for function in functions]
        unique, back = np.unique(codes[position][places], return_inverse=True)
        decided = np.empty(len(unique), dtype=np.int64)
        for number, code in enumerate(unique.tolist()):
            value = factor * code + summand
            for exact, constants in steps:
                value = exact(value, *constants)
            rounded = exactly_rounded(value * ends[0] + ends[1], quantiser.rounding)
            decided[number] = min(max(rounded, quantiser.low), quantiser.high)
        result[position][places] = decided[back]
    return result


def _rounded(y: NDArray[np.float64], rounding: Rounding) -> NDArray[np.float64]:
    """Round values that are not on a boundary."""
    match rounding:
        case Rounding.TRUNCATE:
            return np.asarray(np.floor(y))
        case Rounding.CEILING:
            return np.asarray(np.ceil(y))
        case Rounding.TO_ZERO:
            return np.asarray(np.trunc(y))
        case Rounding.FROM_ZERO:
            return np.where(y > 0, np.ceil(y), np.floor(y))
        case Rounding.HALF_EVEN | Rounding.HALF_UP | Rounding.HALF_TO_ZERO | Rounding.HALF_FROM_ZERO:
            return np.asarray(np.rint(y))


def exactly_rounded(value: Fraction, rounding: Rounding) -> int:
    """Round a rational number.

    >>> exactly_rounded(Fraction(5, 2), Rounding.HALF_EVEN), exactly_rounded(Fraction(-5, 2), Rounding.HALF_FROM_ZERO)
    (2, -3)
    """
    level = math.floor(value)
    return level + 1 if _reaches(value, level + 1, rounding) else level


def rounded_quotients(numerators: Rationals, divisor: int, rounding: Rounding) -> Codes:
    """Round numerators / divisor for whole numbers of any size; what lies beyond 62 bits stays at its limit.

    >>> rounded_quotients(np.array([5, -5, 3], dtype=object), 2, Rounding.HALF_EVEN)
    array([ 2, -2,  2])
    """
    if divisor < 2**60 and max(abs(number) for number in (numerators.max(), numerators.min())) < 2**60:
        numerators = numerators.astype(np.int64)
    floors = numerators // divisor
    rests = 2 * (numerators - floors * divisor)
    match rounding:
        case Rounding.TRUNCATE:
            up = rests < 0
        case Rounding.CEILING:
            up = rests > 0
        case Rounding.TO_ZERO:
            up = (rests > 0) & (numerators < 0)
        case Rounding.FROM_ZERO:
            up = (rests > 0) & (numerators > 0)
        case Rounding.HALF_EVEN:
            up = (rests > divisor) | ((rests == divisor) & (floors % 2 == 1))
        case Rounding.HALF_UP:
            up = rests >= divisor
        case Rounding.HALF_TO_ZERO:
            up = (rests > divisor) | ((rests == divisor) & (numerators < 0))
        case Rounding.HALF_FROM_ZERO:
            up = (rests > divisor) | ((rests == divisor) & (numerators > 0))
    return np.asarray(np.clip(floors + up.astype(np.int64), -(2**62), 2**62), dtype=np.int64)
