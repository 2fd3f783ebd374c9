"""Numbers as text: as many digits as the uncertainty allows, thousands separated, unit and all."""

import math
from decimal import ROUND_HALF_EVEN, Decimal

from caloedge.results import Number

_MINUS = "−"
NO_BREAK = "\N{NO-BREAK SPACE}"
_SUPERSCRIPTS = str.maketrans("0123456789-", "⁰¹²³⁴⁵⁶⁷⁸⁹⁻")
_SMALLEST = 1e-4
_LARGEST = 1e9
_DIGITS_WITHOUT_UNCERTAINTY = 4


def quantity(number: Number) -> str:
    """Write a number with its uncertainty and unit.

    >>> quantity(Number(value=91.2345, uncertainty=0.4449, unit="%", origin="computed")).replace(NO_BREAK, " ")
    '91.23 ± 0.44 %'
    """
    unit = f"{NO_BREAK}{number.unit}" if number.unit else ""
    return f"{value(number)}{unit}"


def value(number: Number) -> str:
    """Write a number with its uncertainty, without unit.

    An uncertainty is rounded to two significant digits and the value to the same place. Whole numbers keep every digit,
    other values without uncertainty four significant ones. What is not finite is written `n/a` or `∞`.
    """
    if number.uncertainty is None or not math.isfinite(number.value):
        return _alone(number.value)
    sign = f"{NO_BREAK}±{NO_BREAK}"
    if number.uncertainty == 0 or not math.isfinite(number.uncertainty):
        return f"{_alone(number.value)}{sign}{_alone(number.uncertainty)}"
    exact, error = Decimal(str(number.value)), abs(Decimal(str(number.uncertainty)))
    exponent = _common_exponent(max(abs(exact), error))
    exact, error = exact.scaleb(-exponent), error.scaleb(-exponent)
    place = _last_place(error, digits=2)
    text = f"{_at(exact, place)}{sign}{_at(error, place)}"
    return f"({text}){_power(exponent)}" if exponent else text


def _alone(number: float) -> str:
    if math.isnan(number):
        return "n/a"
    if math.isinf(number):
        return "∞" if number > 0 else f"{_MINUS}∞"
    exact = Decimal(str(number))
    if isinstance(number, int) or exact == 0:
        return _at(exact, 0)
    exponent = _common_exponent(abs(exact))
    exact = exact.scaleb(-exponent)
    place = min(0, _last_place(exact, _DIGITS_WITHOUT_UNCERTAINTY))  # 12,345.6 loses its fraction, not its last digits
    text = _at(exact, place)
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return f"{text}{_power(exponent)}"


def _common_exponent(largest: Decimal) -> int:
    """Return the power of ten to take out, 0 where plain digits read well."""
    return 0 if Decimal(str(_SMALLEST)) <= largest < Decimal(str(_LARGEST)) else largest.adjusted()


def _last_place(number: Decimal, digits: int) -> int:
    """Return the power of ten of the last of `digits` significant digits, after rounding: 0.0996 has -2, not -3."""
    place = number.adjusted() - digits + 1
    return _round(number, place).adjusted() - digits + 1


def _round(number: Decimal, place: int) -> Decimal:
    """Round to a multiple of 10^place, halves to even."""
    return number.quantize(Decimal(1).scaleb(place), rounding=ROUND_HALF_EVEN)


def _at(number: Decimal, place: int) -> str:
    rounded = _round(number, place)
    text = f"{abs(rounded):,.{max(0, -place)}f}"
    return f"{_MINUS}{text}" if rounded < 0 else text


def _power(exponent: int) -> str:
    return f"×10{str(exponent).translate(_SUPERSCRIPTS)}" if exponent else ""
