import math
from fractions import Fraction

import numpy as np
import pytest
from brute_force import exact_round
from hypothesis import given
from hypothesis import strategies as st

from caloedge.compiler import fixed
from caloedge.compiler.fixed import Format, Rounding
from caloedge.errors import BadData, UserError


@given(st.integers(-(2**62), 2**62), st.integers(0, 70), st.sampled_from(Rounding))
def test_a_right_shift_rounds_as_a_fraction_does(code: int, shift: int, rounding: Rounding) -> None:
    found = fixed.shift_right(np.array([code]), shift, rounding)
    assert found.tolist() == [exact_round(Fraction(code, 2**shift), rounding)]


@given(st.integers(-(2**20), 2**20), st.integers(1, 12), st.sampled_from(Rounding))
def test_ties_are_rounded_by_the_mode(whole: int, shift: int, rounding: Rounding) -> None:
    code = (2 * whole + 1) << (shift - 1)
    assert fixed.shift_right(np.array([code]), shift, rounding).tolist() == [exact_round(Fraction(code, 2**shift), rounding)]


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("shift", [1, 61, 62, 63, 64, 65, 100])
def test_a_shift_beyond_the_word_rounds_as_a_fraction_does(shift: int, rounding: Rounding) -> None:
    """numpy shifts by at most 63 bits: what lies beyond is decided by sign and mode alone."""
    codes = [-(2**62), -(2**61) - 1, -(2**61), -3, -1, 0, 1, 3, 2**61, 2**61 + 1, 2**62 - 1, 2**62]
    found = fixed.shift_right(np.array(codes), shift, rounding)
    assert found.tolist() == [exact_round(Fraction(code, 2**shift), rounding) for code in codes]
    limited = fixed.requantise(np.array(codes), shift, -1, 1, rounding)
    assert limited.tolist() == np.clip(found, -1, 1).tolist()


def test_a_shift_of_nothing_copies() -> None:
    codes = np.array([1, -2])
    found = fixed.shift_right(codes, 0)
    found[0] = 5
    assert codes.tolist() == [1, -2]


def test_the_modes_differ_on_a_tie() -> None:
    ties = np.array([-6, -2, 2, 6])
    assert fixed.shift_right(ties, 2, Rounding.HALF_EVEN).tolist() == [-2, 0, 0, 2]
    assert fixed.shift_right(ties, 2, Rounding.HALF_UP).tolist() == [-1, 0, 1, 2]
    assert fixed.shift_right(ties, 2, Rounding.TRUNCATE).tolist() == [-2, -1, 0, 1]


def test_a_negative_shift_multiplies_and_refuses_to_overflow() -> None:
    assert fixed.shift_right(np.array([-3, 5]), -4).tolist() == [-48, 80]
    with pytest.raises(UserError, match=r"^a left shift by 62 does not fit 64 bits$"):
        fixed.shift_right(np.array([5]), -62)
    assert fixed.shift_right(np.array([2**61 + 2**60, -(2**61)]), -1).tolist() == [2**62 + 2**61, -(2**62)]
    for code in (2**62, -(2**62)):
        with pytest.raises(UserError, match=r"^a left shift by 1 does not fit 64 bits$"):
            fixed.shift_right(np.array([code]), -1)
    assert fixed.shift_right(np.array([0]), -100).tolist() == [0]
    assert fixed.shift_right(np.array([], dtype=np.int64), -100).tolist() == []


@given(
    st.lists(st.integers(-(2**24) + 1, 2**24 - 1), min_size=1),
    st.integers(-8, 30),
    st.integers(1, 16),
    st.booleans(),
    st.sampled_from([np.float32, np.float64]),
)
def test_the_float_form_equals_the_integer_form(codes: list[int], shift: int, width: int, signed: bool, dtype: type) -> None:
    fmt = Format(signed, width, 0)
    expected = fixed.requantise(np.array(codes), shift, fmt.min_code, fmt.max_code)
    found = fixed.requantise_float(np.array(codes, dtype=dtype), shift, fmt.min_code, fmt.max_code)
    assert found.dtype == dtype
    np.testing.assert_array_equal(found.astype(np.int64), expected)


formats = st.builds(Format, st.booleans(), st.integers(1, 24), st.integers(-6, 30))


@given(st.floats(-1e6, 1e6), formats, st.sampled_from(Rounding), st.booleans())
def test_quantising_a_real_value_is_exact(value: float, fmt: Format, rounding: Rounding, narrow: bool) -> None:
    low = fmt.min_code + int(narrow and fmt.signed)
    expected = min(max(exact_round(Fraction(value) * Fraction(2) ** fmt.fraction, rounding), low), fmt.max_code)
    assert fixed.quantise(value, fmt, rounding, narrow=narrow).tolist() == expected


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("fraction", [-3, 0, 12])
@pytest.mark.parametrize(("zero_point", "after"), [(0, False), (3, False), (-4, False), (3, True), (-4, True), (60, False)])
def test_real_values_between_codes_are_rounded_by_the_mode(
    rounding: Rounding, fraction: int, zero_point: int, after: bool
) -> None:
    """Ties, quarters, and what lies a little beside: there the modes differ; beyond either end all saturate."""
    fmt = Format(True, 7, fraction)
    ys = [Fraction(n, 4) + Fraction(beside, 2**20) for n in range(-300, 301) for beside in (-1, 0, 1)]
    whole = [exact_round(y, rounding) + zero_point if after else exact_round(y + zero_point, rounding) for y in ys]
    values = [float(y * Fraction(2) ** -fraction) for y in ys]
    found = fixed.quantise(values, fmt, rounding, zero_point=zero_point, zero_after=after)
    assert found.tolist() == np.clip(whole, fmt.min_code, fmt.max_code).tolist()
    narrow = fixed.quantise(values, fmt, rounding, narrow=True, zero_point=zero_point, zero_after=after)
    assert narrow.tolist() == np.clip(whole, fmt.min_code + 1, fmt.max_code).tolist()


def test_reals_of_32_bits_are_quantised_in_64() -> None:
    wide = Format(True, 30, 0)
    assert fixed.quantise(np.float32(2**24), wide, zero_point=1).tolist() == 2**24 + 1
    assert fixed.exact_codes(np.float32(2.0**-100), -50) is None  # float32 would underflow to a whole 0
    assert fixed.exact_codes(np.float32(2.0**-100), 100).tolist() == 1  # type: ignore[union-attr]


def test_whole_numbers_of_62_bits_are_codes_and_larger_ones_are_not() -> None:
    for sign in (1, -1):
        found = fixed.exact_codes([sign * (2.0**62 - 512)], 0)
        assert found is not None
        assert found.dtype == np.int64
        assert found.tolist() == [sign * (2**62 - 512)]
        assert fixed.exact_codes([sign * 2.0**62], 0) is None


@given(formats)
def test_every_code_survives_the_way_through_a_float(fmt: Format) -> None:
    codes = np.unique(np.linspace(fmt.min_code, fmt.max_code, 50).astype(np.int64))
    np.testing.assert_array_equal(fixed.quantise(fixed.to_float(codes, fmt.fraction), fmt), codes)
    found = fixed.exact_codes(fixed.to_float(codes, fmt.fraction), fmt.fraction)
    assert found is not None
    np.testing.assert_array_equal(found, codes)


def test_values_between_codes_are_not_exact_codes() -> None:
    assert fixed.exact_codes([0.25, 0.3], 4) is None
    assert fixed.exact_codes([math.inf], 4) is None


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_values_that_no_sensor_code_means_are_refused(bad: float) -> None:
    with pytest.raises(BadData, match=r"^1 of 3 values are NaN or infinite; clean them before quantising$"):
        fixed.quantise([0.0, bad, 1.0], Format(True, 8, 4))


def test_huge_values_saturate() -> None:
    assert fixed.quantise([1e308, -1e308], Format(True, 8, 30)).tolist() == [127, -128]
    assert fixed.quantise([1e308, -1e308], Format(True, 62, 0)).tolist() == [2**61 - 1, -(2**61)]


@given(st.builds(Format, st.booleans(), st.integers(1, 62), st.integers(-70, 70)))
def test_a_format_is_read_as_it_is_written(fmt: Format) -> None:
    assert Format.parse(str(fmt)) == fmt
    assert Format.parse(f"ap_{fmt}") == fmt


@pytest.mark.parametrize("text", ["fixed<8>", "float", "ufixed<8,4,RND,SAT>", ""])
def test_other_types_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=r"is not a fixed-point type; write it like ufixed<12,7>"):
        Format.parse(text)


@given(st.integers(-(2**60), 2**60), st.integers(0, 2**60))
def test_the_holding_format_is_the_narrowest(low: int, extent: int) -> None:
    high = low + extent
    fmt = Format.holding(low, high, 3)
    assert fmt.min_code <= low
    assert high <= fmt.max_code
    assert fmt.signed == (low < 0)
    assert fmt.fraction == 3
    if fmt.width > 1:
        narrower = Format(fmt.signed, fmt.width - 1, 3)
        assert low < narrower.min_code or high > narrower.max_code


@pytest.mark.parametrize(
    ("low", "high", "text"),
    [
        (0, 0, "ufixed<1,1>"), (0, 1, "ufixed<1,1>"), (-1, 0, "fixed<1,1>"), (-1, -1, "fixed<1,1>"), (-1, 1, "fixed<2,2>"),
        (-2, 0, "fixed<2,2>"), (-2, 1, "fixed<2,2>"), (-3, 1, "fixed<3,3>"), (-128, 127, "fixed<8,8>"), (0, 255, "ufixed<8,8>"),
        (5, 9, "ufixed<4,4>"), (-9, -5, "fixed<5,5>"),
    ],
)  # fmt: skip
def test_narrow_ranges_get_the_narrowest_format(low: int, high: int, text: str) -> None:
    """One bit more would cost a bit of every register behind it."""
    assert str(Format.holding(low, high, 0)) == text


@pytest.mark.parametrize("width", [0, 63])
def test_an_impossible_width_is_refused(width: int) -> None:
    with pytest.raises(UserError, match=rf"^fixed-point width {width} is not between 1 and 62$"):
        Format(True, width, 0)
