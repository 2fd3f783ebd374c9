"""Fixed-point numbers: the only code that rounds or saturates. A value is `code * 2**-fraction` with an integer code."""

import enum
import math
import re
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caloedge.errors import BadData, UserError

Codes = NDArray[np.int64]

MAX_WIDTH = 62
"""Widest format: every code, and the sum of two, fits an int64."""


class Rounding(enum.Enum):
    """What becomes of the bits below the new least significant bit."""

    HALF_EVEN = "half_even"
    """To nearest, ties to the even code: torch, QONNX `ROUND`, `RND_CONV` of the HLS types."""
    HALF_UP = "half_up"
    """To nearest, ties towards plus infinity: `RND`."""
    TRUNCATE = "truncate"
    """Towards minus infinity: QONNX `FLOOR`, `TRN`, plain loss of the bits."""
    CEILING = "ceiling"
    """Towards plus infinity: QONNX `CEIL`."""
    TO_ZERO = "to_zero"
    """Towards zero: QONNX `DOWN`, `TRN_ZERO`."""
    FROM_ZERO = "from_zero"
    """Away from zero: QONNX `UP`."""
    HALF_TO_ZERO = "half_to_zero"
    """To nearest, ties towards zero: QONNX `HALF_DOWN`, `RND_ZERO`."""
    HALF_FROM_ZERO = "half_from_zero"
    """To nearest, ties away from zero: QONNX `HALF_UP`, `RND_INF`."""

    @property
    def to_nearest(self) -> bool:
        """Whether only ties are decided by the mode."""
        return self in (Rounding.HALF_EVEN, Rounding.HALF_UP, Rounding.HALF_TO_ZERO, Rounding.HALF_FROM_ZERO)


@dataclass(frozen=True)
class Format:
    """A fixed-point type without its rounding mode.

    >>> Format(signed=False, width=12, fraction=5)
    ufixed<12,7>
    >>> Format.parse("fixed<8,1>").max_code
    127
    """

    signed: bool
    width: int
    """Bits stored, sign included."""
    fraction: int
    """Bits after the binary point; negative or larger than `width` is allowed."""

    def __post_init__(self) -> None:
        if not 1 <= self.width <= MAX_WIDTH:
            raise UserError(f"fixed-point width {self.width} is not between 1 and {MAX_WIDTH}")

    @property
    def integer(self) -> int:
        """Bits before the binary point, sign included: the second parameter of the HLS types."""
        return self.width - self.fraction

    @property
    def min_code(self) -> int:
        """Lowest code."""
        return -(1 << (self.width - 1)) if self.signed else 0

    @property
    def max_code(self) -> int:
        """Highest code."""
        return (1 << (self.width - int(self.signed))) - 1

    @property
    def lsb(self) -> float:
        """Value of code 1."""
        return math.ldexp(1.0, -self.fraction)

    def __str__(self) -> str:
        """Write it as HLS does, e.g. `ufixed<12,7>`: width, then integer bits."""
        return f"{'' if self.signed else 'u'}fixed<{self.width},{self.integer}>"

    __repr__ = __str__

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `fixed<w,i>`, `ufixed<w,i>` or the same with the prefix `ap_`."""
        match = re.fullmatch(r"\s*(?:ap_)?(u?)fixed\s*<\s*(\d+)\s*,\s*(-?\d+)\s*>\s*", text)
        if match is None:
            raise UserError(f"{text!r} is not a fixed-point type; write it like ufixed<12,7> (width, integer bits)")
        width, integer = int(match[2]), int(match[3])
        return cls(signed=not match[1], width=width, fraction=width - integer)

    @classmethod
    def holding(cls, low: int, high: int, fraction: int) -> Self:
        """Return the narrowest format with this fraction that holds every code in [low, high].

        >>> Format.holding(-3, 100, fraction=0)
        fixed<8,8>
        """
        signed = low < 0
        bits = max(max(high, 0).bit_length(), (-low - 1).bit_length() if signed else 0)
        return cls(signed, max(bits + int(signed), 1), fraction)


def shift_right(codes: Codes, shift: int, rounding: Rounding = Rounding.HALF_EVEN) -> Codes:
    """Divide codes by 2**shift, rounding the lost bits; a negative shift multiplies, and overflow is an error.

    >>> shift_right(np.array([1, 2, 3, 5, 6, 7, -2, -6]), 2)
    array([ 0,  0,  1,  1,  2,  2,  0, -2])
    """
    codes = np.asarray(codes, dtype=np.int64)
    if shift == 0:
        return codes.copy()
    if shift < 0:
        limit = (2**63 - 1) >> -shift
        if codes.size and (int(codes.max()) > limit or int(codes.min()) < -limit):
            raise UserError(f"a left shift by {-shift} does not fit 64 bits")
        return codes << min(-shift, 63)
    if shift > 63:  # every |code| is at most a quarter of 2**shift: only the directed modes still see it
        if rounding.to_nearest:
            return np.zeros_like(codes)
        shift = 63
    quotient, remainder = codes >> shift, codes & ((1 << shift) - 1)
    half = 1 << (shift - 1)
    match rounding:
        case Rounding.TRUNCATE:
            return quotient
        case Rounding.CEILING:
            up = remainder > 0
        case Rounding.TO_ZERO:
            up = (remainder > 0) & (codes < 0)
        case Rounding.FROM_ZERO:
            up = (remainder > 0) & (codes > 0)
        case Rounding.HALF_EVEN:
            up = (remainder > half) | ((remainder == half) & (quotient & 1 == 1))
        case Rounding.HALF_UP:
            up = remainder >= half
        case Rounding.HALF_TO_ZERO:
            up = (remainder > half) | ((remainder == half) & (codes < 0))
        case Rounding.HALF_FROM_ZERO:
            up = (remainder > half) | ((remainder == half) & (codes > 0))
    return quotient + up


def saturate(codes: Codes, low: int, high: int) -> Codes:
    """Clip codes to [low, high]."""
    return np.clip(codes, low, high)


def requantise(codes: Codes, shift: int, low: int, high: int, rounding: Rounding = Rounding.HALF_EVEN) -> Codes:
    """Round codes to a least significant bit 2**shift times larger, then clip to [low, high]."""
    return saturate(shift_right(codes, shift, rounding), low, high)


def requantise_float(codes: NDArray[Any], shift: int, low: int, high: int) -> NDArray[Any]:
    """Do `requantise` (half even) on integers that a float array holds exactly, without leaving floating point.

    Exact because scaling by a power of two changes only the exponent, `rint` rounds ties to even, and [low, high] are
    representable: the caller guarantees |low|, |high| < 2**24 (float32) or 2**53 (float64).
    """
    scaled: NDArray[Any] = np.multiply(codes, codes.dtype.type(math.ldexp(1.0, -shift)))
    np.rint(scaled, out=scaled)
    np.maximum(scaled, codes.dtype.type(low), out=scaled)
    np.minimum(scaled, codes.dtype.type(high), out=scaled)
    return scaled


def quantise(
    values: ArrayLike,
    fmt: Format,
    rounding: Rounding = Rounding.HALF_EVEN,
    *,
    narrow: bool = False,
    zero_point: int = 0,
    zero_after: bool = False,
) -> Codes:
    """Return the codes nearest to real values (any shape), saturated to the format.

    `narrow` leaves out the lowest code of a signed format; `zero_point` is the code of 0,
    added before rounding, or after it with `zero_after`.
    NaN and infinity are a `BadData` error: no sensor code means them.

    >>> quantise([0.25, 0.75, 99.0], Format(signed=False, width=4, fraction=1))
    array([ 0,  2, 15])
    """
    reals = np.asarray(values, dtype=np.float64)
    if not (finite := np.isfinite(reals)).all():
        raise BadData(f"{int((~finite).sum())} of {reals.size} values are NaN or infinite; clean them before quantising")
    low, high = fmt.min_code + int(narrow and fmt.signed), fmt.max_code
    # Clipping first keeps the product finite; one code beyond either end cannot round back inside.
    least, most = (math.ldexp(code - zero_point, -fmt.fraction) for code in (low - 1, high + 1))
    scaled = np.ldexp(np.clip(reals, least, most), fmt.fraction)
    if not zero_after:
        scaled = scaled + zero_point
    floor, remainder = np.floor(scaled), scaled - np.floor(scaled)
    match rounding:
        case Rounding.HALF_EVEN:
            rounded = np.rint(scaled)
        case Rounding.HALF_UP:
            rounded = floor + (remainder >= 0.5)
        case Rounding.HALF_TO_ZERO:
            rounded = floor + ((remainder > 0.5) | ((remainder == 0.5) & (scaled < 0)))
        case Rounding.HALF_FROM_ZERO:
            rounded = floor + ((remainder > 0.5) | ((remainder == 0.5) & (scaled > 0)))
        case Rounding.TRUNCATE:
            rounded = floor
        case Rounding.CEILING:
            rounded = np.ceil(scaled)
        case Rounding.TO_ZERO:
            rounded = np.trunc(scaled)
        case Rounding.FROM_ZERO:
            rounded = np.where(scaled > 0, np.ceil(scaled), floor)
    return saturate(rounded.astype(np.int64) + (zero_point if zero_after else 0), low, high)


def exact_codes(values: ArrayLike, fraction: int) -> Codes | None:
    """Return values * 2**fraction as integers, or None if any is not a whole number below 2**62."""
    scaled = np.ldexp(np.asarray(values, dtype=np.float64), fraction)
    if not (np.isfinite(scaled).all() and (np.abs(scaled) < 2.0**62).all() and (np.rint(scaled) == scaled).all()):
        return None
    return scaled.astype(np.int64)


def to_float(codes: Codes, fraction: int) -> NDArray[np.float64]:
    """Return the real values of codes; exact for codes below 2**53."""
    return np.ldexp(codes.astype(np.float64), -fraction)
