"""Exact rational numbers: scales as fractions, one by one or as object arrays that numpy repeats over axes of size 1."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caloedge.errors import Unsupported

Rationals = NDArray[Any]
"""Object array of `Fraction`."""


def rationals(values: ArrayLike) -> Rationals:
    """Return finite floats or integers as exact fractions, in the same shape.

    >>> rationals([0.75, 2])
    array([Fraction(3, 4), Fraction(2, 1)], dtype=object)
    """
    array = np.asarray(values)
    fractions = np.empty(array.shape, dtype=object)
    known: dict[Any, Fraction] = {}
    for position, value in np.ndenumerate(array):
        if value not in known:
            known[value] = value if isinstance(value, Fraction) else Fraction(value.item() if hasattr(value, "item") else value)
        fractions[position] = known[value]
    return fractions


def compressed(values: Rationals) -> Rationals:
    """Return the same numbers with every axis along which they do not change at size 1."""
    for axis in range(values.ndim):
        first = values.take([0], axis=axis)
        if values.shape[axis] > 1 and bool((values == first).all()):
            values = first
    return values


def to_floats(values: Rationals) -> NDArray[np.float64]:
    """Return the nearest float64 of each fraction; raise `Unsupported` for one beyond float64."""
    try:
        return np.array([float(value) for value in values.flat], dtype=np.float64).reshape(values.shape)
    except OverflowError:
        raise Unsupported("one of its scales lies beyond float64; use scales nearer to 1") from None


def magnitude_of(value: Fraction) -> int:
    """Return an e with 2**(e - 1) < |value| < 2**(e + 1), quickly.

    >>> magnitude_of(Fraction(5)), magnitude_of(Fraction(1, 3))
    (2, -1)
    """
    return value.numerator.bit_length() - value.denominator.bit_length()


def exponent_of(value: Fraction) -> int | None:
    """Return f with value == 2**-f, or None.

    >>> exponent_of(Fraction(1, 8)), exponent_of(Fraction(4)), exponent_of(Fraction(3, 4))
    (3, -2, None)
    """
    if value <= 0 or value.numerator & (value.numerator - 1) or value.denominator & (value.denominator - 1):
        return None
    return value.denominator.bit_length() - value.numerator.bit_length()


def nearest_exponent(value: Fraction) -> int:
    """Return the f for which 2**-f is nearest to |value| in ratio; 0 for 0."""
    try:
        return -round(math.log2(abs(value))) if value else 0
    except (OverflowError, ValueError):  # beyond float64 on either side
        return -magnitude_of(value)


def common_unit(values: Rationals) -> Fraction:
    """Return the largest number of which every value is a whole multiple; 1 if all are 0.

    >>> common_unit(rationals([0.75, 0.5]))
    Fraction(1, 4)
    """
    unit = Fraction(0)
    for value in {value for value in values.flat if value}:
        unit = Fraction(
            math.gcd(unit.numerator * value.denominator, value.numerator * unit.denominator), unit.denominator * value.denominator
        )
    return unit or Fraction(1)


def floor_sum(count: int, divisor: int, factor: int, start: int) -> int:
    """Return the sum of floor((factor * i + start) / divisor) for i below `count`, in O(log) steps for numbers of any size.

    >>> floor_sum(4, 10, 6, 3) == sum((6 * i + 3) // 10 for i in range(4))
    True
    """
    total = 0
    sign = 1
    while count > 0:
        quotient, factor = divmod(factor, divisor)
        total += sign * quotient * (count * (count - 1) // 2)
        quotient, start = divmod(start, divisor)
        total += sign * quotient * count
        last = factor * (count - 1) + start
        if last < divisor:
            break
        # Count the lattice points under the line from the other side.
        rows = last // divisor
        total += sign * rows * count
        count, start, factor, divisor = rows, divisor - start + factor - 1, divisor, factor
        sign = -sign
    return total
