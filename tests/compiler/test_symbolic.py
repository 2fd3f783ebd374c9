"""What is known of real tensors between quantisers: limits, scales of either sign, and the codes that they become."""

import re
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from brute_force import exact_round
from hypothesis import given, settings
from hypothesis import strategies as st

from caloedge.compiler import functions, symbolic
from caloedge.compiler.builder import Builder
from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Add, Affine, InputQuantiser, Multiply, Output, Rearrange, Requantise, Reshape
from caloedge.compiler.ranges import TooWide
from caloedge.compiler.rationals import Rationals, rationals
from caloedge.compiler.requantise import Quantiser
from caloedge.compiler.symbolic import (
    SymbolicValue,
    added,
    aligned,
    applied,
    centred,
    constant_of,
    expanded,
    limited,
    moved,
    plain,
    plain_value,
    positive,
    powered,
    quantised,
    reason_of,
    refuse_beyond_float64,
    scaled,
    single,
    unaligned,
    uniform,
    without_offset,
)
from caloedge.errors import Unsupported

CODES = np.array(np.meshgrid(range(-8, 8), range(-8, 8))).reshape(2, -1).T
"""Every pair of codes of four bits."""


def start(scale: Fraction | float = Fraction(1, 4), offset: Fraction | int = 0) -> tuple[Builder, SymbolicValue]:
    """Return a builder whose input `x` has two elements of four bits, and the value scale * x + offset."""
    builder = Builder(frozenset())
    builder.add(InputQuantiser("x", (2,), Format(True, 4, 2)))
    return builder, plain_value(builder, "x", constant_of(Fraction(scale), 1), constant_of(offset, 1))


def number(*values: float | Fraction) -> Rationals:
    return rationals(np.array([Fraction(value) for value in values], dtype=object))


def codes_of(builder: Builder, value: SymbolicValue) -> Codes:
    """Return the codes that a plain value has on every pair of input codes."""
    return Graph((*builder.ops.values(), Output("y", (value.op,)))).run(CODES)["y"]


def reals_of(builder: Builder, value: SymbolicValue) -> list[list[Fraction]]:
    """Return the exact real numbers of a plain value on every pair of input codes."""
    codes = codes_of(builder, value)
    scale, offset = (np.broadcast_to(array, codes.shape[1:]) for array in (value.scale, value.offset))
    return [[code * s + o for code, s, o in zip(event, scale, offset, strict=True)] for event in codes.tolist()]


def check(
    builder: Builder, value: SymbolicValue, wanted: Callable[[Fraction], Fraction], scale: Fraction = Fraction(1, 4)
) -> None:
    assert reals_of(builder, plain(builder, value)) == [[wanted(code * scale) for code in event] for event in CODES.tolist()]


def test_limits_change_places_under_a_negative_factor() -> None:
    """-2 * (x limited to [0, 1.5]) lies in [-3, 0]: with the limits left where they were, everything would be clipped away."""
    builder, value = start()
    turned = scaled(limited(value, number(0), number(1.5), "n"), number(-2), number(0.5), "n")
    assert (uniform(turned.low), uniform(turned.high)) == (Fraction(-5, 2), Fraction(1, 2))  # type: ignore[arg-type]
    check(builder, turned, lambda x: min(max(x, Fraction(0)), Fraction(3, 2)) * -2 + Fraction(1, 2))
    kept = scaled(limited(value, number(0), number(1.5), "n"), number(2), number(0.5), "n")
    assert (uniform(kept.low), uniform(kept.high)) == (Fraction(1, 2), Fraction(7, 2))  # type: ignore[arg-type]
    check(builder, kept, lambda x: min(max(x, Fraction(0)), Fraction(3, 2)) * 2 + Fraction(1, 2))


def test_one_limit_changes_sides_under_a_negative_factor() -> None:
    builder, value = start()
    turned = scaled(limited(value, number(0), None, "n"), number(-1), number(0), "n")
    assert turned.low is None
    assert uniform(turned.high) == 0  # type: ignore[arg-type]
    check(builder, turned, lambda x: -max(x, Fraction(0)))


@pytest.mark.parametrize("limits", [(0, None), (None, 0.5), (-1, 1)])
@pytest.mark.parametrize("factors", [(-2, 3), (0, 1), (0, -1)])
def test_a_limit_before_factors_of_both_signs_goes_into_a_table(
    limits: tuple[float | None, float | None], factors: tuple[int, int]
) -> None:
    """As a limit behind them it would be a lower one for some elements and an upper one for others."""
    builder, value = start()
    low, high = (None if limit is None else number(limit) for limit in limits)
    turned = scaled(limited(value, low, high, "n"), number(*factors), number(0.5, 0.25), "n")
    result = quantised(builder, turned, number(0.25), number(0), Quantiser(-32, 31, Rounding.HALF_EVEN, Format(True, 6, 2)))

    def wanted(code: int, element: int) -> Fraction:
        x = Fraction(code, 4)
        x = x if low is None else max(x, low[0])
        x = x if high is None else min(x, high[0])
        return x * factors[element] + Fraction(2 - element, 4)

    assert reals_of(builder, result) == [[wanted(code, i) for i, code in enumerate(event)] for event in CODES.tolist()]
    assert refused(lambda: plain(builder, turned)) == "the result of n is not quantised; add a quantiser after it"


@pytest.mark.parametrize("limits", [(0, None), (None, 1), (0.5, 1.25)])
def test_a_limit_behind_a_function_goes_into_its_table(limits: tuple[float | None, float | None]) -> None:
    builder, value = start()
    low, high = (None if limit is None else number(limit) for limit in limits)
    curved = limited(applied(value, functions.power(3), "n"), low, high, "n")
    result = quantised(builder, curved, number(0.25), number(0), Quantiser(-64, 63, Rounding.HALF_EVEN, Format(True, 7, 2)))

    def wanted(code: int) -> Fraction:
        x = Fraction(code, 4) ** 3
        x = x if low is None else max(x, low[0])
        x = x if high is None else min(x, high[0])
        return Fraction(min(max(round(x * 4), -64), 63), 4)

    assert reals_of(builder, result) == [[wanted(code) for code in event] for event in CODES.tolist()]


@pytest.mark.parametrize(("low", "high"), [(Fraction(1, 3), None), (None, Fraction(4, 3)), (Fraction(-1, 6), Fraction(7, 12))])
def test_a_limit_lies_on_a_code_where_an_offset_brings_it_there(low: Fraction | None, high: Fraction | None) -> None:
    builder, value = start(offset=Fraction(1, 3))
    whole = limited(value, None if low is None else number(low), None if high is None else number(high), "n")

    def wanted(x: Fraction) -> Fraction:
        x += Fraction(1, 3)
        x = x if low is None else max(x, low)
        return x if high is None else min(x, high)

    check(builder, whole, wanted)


def test_operations_are_called_what_they_do() -> None:
    builder, value = start()
    turned = moved(builder, value, np.array([1, 0]), "turn")
    both = single(builder, added(scaled(value, number(3), number(0), "n"), turned, "n"))
    signs = positive(builder, scaled(value, number(-1), number(0), "n"))
    for made, name in (
        (both, "add_1"), (signs, "sign_1"), (centred(builder, plain_value(builder, "x", number(1), number(2))), "shift_1"),
        (plain(builder, scaled(value, number(0, 1), number(0), "n")), "mask_1"), (powered(builder, value, 2), "multiply_1"),
        (aligned(builder, plain_value(builder, "x", number(1, 2))), "scale_2"),
        (expanded(builder, replace(value, shape=(2,))), "x"),
        (moved(builder, value, np.array([0]), "cut"), "cut_1"), (moved(builder, value, np.array([[0, 1]]), "cut"), "reshape_1"),
        (moved(builder, moved(builder, value, np.array([[0, 1]]), "cut"), np.array([0, 1]), "cut"), "flatten_1"),
        (expanded(builder, replace(moved(builder, value, np.array([[0, 1]]), "cut"), shape=(3, 2))), "repeat_1"),
    ):  # fmt: skip
        assert made.terms[0][0] == name
    assert {builder.tensors[name].format.fraction for name in ("sign_1", "shift_1", "mask_1")} == {2}
    assert [op.name for op in builder.ops.values() if isinstance(op, Affine)] == [
        "scale_1",
        "sign_1",
        "shift_1",
        "mask_1",
        "scale_2",
    ]


def test_a_limit_on_a_limit_is_the_narrower_one() -> None:
    builder, value = start()
    for first, second, wanted in (
        ((0, None), (None, 1), (0, 1)), ((-1, 1), (0, 2), (0, 1)), ((0, 1), (-1, 2), (0, 1)), ((None, 1), (2, None), (2, 2)),
        ((0, 1), (1.25, 1.5), (1.25, 1.25)), ((1, 1.5), (0, 0.5), (0.5, 0.5)),
    ):  # fmt: skip
        both = value
        for low, high in (first, second):
            both = limited(both, None if low is None else number(low), None if high is None else number(high), "n")
        low, high = Fraction(wanted[0]), Fraction(wanted[1])
        check(builder, both, lambda x, low=low, high=high: min(max(x, low), high))  # type: ignore[misc]


@pytest.mark.parametrize(
    ("low", "high", "relu", "name"), [(0, None, True, "relu_1"), (0, 1, False, "clip_1"), (-1, None, False, "clip_1")]
)
def test_only_a_limit_at_zero_alone_is_a_rectifier(low: float, high: float | None, relu: bool, name: str) -> None:
    """An upper limit seen as a rectifier's would be lost where a backend knows no other."""
    builder, value = start()
    op = builder.ops[plain(builder, limited(value, number(low), None if high is None else number(high), "n")).op]
    assert isinstance(op, Requantise)
    assert (op.name, op.relu) == (name, relu)
    assert (op.low, op.high) == (4 * low, 7 if high is None else 4 * high)
    assert (op.limits is None) == (high is None and low == 0)
    check(
        *start_limited(low, high), lambda x: max(x, Fraction(low)) if high is None else min(max(x, Fraction(low)), Fraction(high))
    )


def start_limited(low: float, high: float | None) -> tuple[Builder, SymbolicValue]:
    builder, value = start()
    return builder, limited(value, number(low), None if high is None else number(high), "n")


def test_limits_outside_what_comes_do_nothing_and_between_codes_are_refused() -> None:
    builder, value = start()
    check(builder, limited(value, number(-50), number(50), "n"), lambda x: x)
    builder, value = start()
    check(builder, limited(value, number(5), number(9), "n"), lambda x: Fraction(5))
    builder, value = start()
    with pytest.raises(
        Unsupported, match=r"^the result of n is not quantised, and its limit lies between two codes; quantise it$"
    ):
        plain(builder, limited(value, number(0.1), None, "n"))


def test_signs_and_offsets_go_into_the_codes() -> None:
    builder, value = start()
    signs = scaled(value, number(-1, 1), number(0.5, 0), "n")
    turned = positive(builder, signs)
    assert all(factor > 0 for factor in turned.scale.flat)
    middle = centred(builder, turned)
    assert not any(middle.offset.flat)
    wanted = [[-Fraction(a, 4) + Fraction(1, 2), Fraction(b, 4)] for a, b in CODES.tolist()]
    assert reals_of(builder, signs) == reals_of(builder, turned) == reals_of(builder, middle) == wanted
    builder, value = start(offset=Fraction(1, 3))
    assert centred(builder, value) is value  # a third of a code is no code


def test_a_scale_of_zero_hides_its_codes() -> None:
    builder, value = start()
    hidden = plain(builder, scaled(value, number(0, 2), number(3, 0), "n"))
    assert reals_of(builder, hidden) == [[Fraction(3), Fraction(b, 2)] for _, b in CODES.tolist()]


GRIDS = {
    "signs": ([[1, -1], [Fraction(1, 2), -3]], [[0, 0], [0, 0]]),
    "zeros": ([[0, 1], [Fraction(1, 2), 0]], [[3, 0], [Fraction(1, 3), 1]]),
    "steps": ([[1, 2], [Fraction(1, 2), 3]], [[5, -4], [Fraction(3, 2), 0]]),
    "between steps": ([[1, 2], [Fraction(1, 2), 3]], [[5, 1], [Fraction(1, 3), 0]]),
    "rows": ([[2], [-3]], [[1], [Fraction(1, 3)]]),
    "columns": ([[2, -3]], [[1, Fraction(1, 3)]]),
}


@pytest.mark.parametrize("case", GRIDS)
def test_rows_and_columns_have_scales_and_offsets_of_their_own(case: str) -> None:
    """Each form of a value of two axes means the same numbers."""
    scale, offset = (rationals(np.array(part, dtype=object) + Fraction(0)) for part in GRIDS[case])
    builder = Builder(frozenset())
    builder.add(InputQuantiser("x", (2, 2), Format(True, 3, 0)))
    value = plain_value(builder, "x", scale, offset)
    codes = np.random.default_rng(1).integers(-4, 4, (50, 2, 2))
    wanted = (codes.astype(object) * scale + offset).tolist()

    def found(made: SymbolicValue) -> list:
        result = Graph((*builder.ops.values(), Output("y", (made.op,)))).run(codes)["y"].astype(object)
        return (result * made.scale + made.offset).tolist()

    turned, visible, middle = positive(builder, value), plain(builder, value), centred(builder, value)
    assert all(number >= 0 for number in turned.scale.flat)
    assert all(visible.scale.flat)
    for made in (value, turned, visible, middle, single(builder, value)):
        assert found(made) == wanted
    if case != "zeros":
        assert not any(without_offset(builder, value).offset.flat)
        assert found(without_offset(builder, value)) == wanted
        assert found(aligned(builder, value)) == wanted
    twice = added(value, plain_value(builder, "x", constant_of(Fraction(1, 5), 2)), "n")
    assert found(single(builder, twice)) == (codes.astype(object) * (scale + Fraction(1, 5)) + offset).tolist()
    other = moved(builder, plain_value(builder, "x", constant_of(1, 2)), np.array([[3, 2], [1, 0]]), "turn")
    both = added(value, other, "n")
    sums = codes.astype(object) * scale + offset + codes.reshape(50, 4)[:, ::-1].reshape(50, 2, 2)
    assert found(single(builder, both)) == sums.tolist()
    quantiser = Quantiser(-32, 31, Rounding.HALF_UP, Format(True, 6, 1))
    rounded = quantised(builder, both, constant_of(Fraction(1, 2), 2), constant_of(0, 2), quantiser)
    halves = [
        [[Fraction(min(max(exact_round(2 * y, Rounding.HALF_UP), -32), 31), 2) for y in r] for r in e] for e in sums.tolist()
    ]
    assert found(rounded) == halves


@pytest.mark.parametrize("rows", [2, 3])
@pytest.mark.parametrize("columns", [1, 2])
def test_a_row_is_repeated_where_the_scales_of_what_it_is_added_to_differ(rows: int, columns: int) -> None:
    builder, value = start(1)
    row = moved(builder, value, np.array([[0, 1][:columns]]), "row")
    scales = rationals(np.array([[Fraction(1, number)] for number in range(2, 2 + rows)], dtype=object))
    many = moved(builder, value, np.array([[0, 1][:columns]] * rows), "rows")
    both = single(builder, added(row, scaled(many, scales, constant_of(0, 2), "n"), "n"))
    wanted = [[[Fraction(c) + c * scale for c in event[:columns]] for (scale,) in scales.tolist()] for event in CODES.tolist()]
    found = codes_of(builder, both).astype(object) * both.scale + both.offset
    assert found.tolist() == wanted
    assert [name for name in builder.ops if name.startswith("repeat")] == ["repeat_1"]


@pytest.mark.parametrize("factors", [(1, 1), (1, 4), (3, 2), (Fraction(1, 3), Fraction(1, 2)), (-1, Fraction(1, 4))])
def test_sums_of_any_scales_are_exact(factors: tuple[Fraction | int, Fraction | int]) -> None:
    """x + x turned round, each times its own factor: on the common unit, and rounded by the next quantiser."""
    out = Quantiser(-128, 127, Rounding.HALF_EVEN, Format(True, 8, 3))
    for quantise in (False, True):
        builder, value = start()
        turned = moved(builder, value, np.array([1, 0]), "turn")
        parts = [scaled(part, number(factor), number(0), "n") for part, factor in zip((value, turned), factors, strict=True)]
        both = added(*parts, "n")
        f, g = map(Fraction, factors)
        wanted = [[(f * a + g * b) / 4, (f * b + g * a) / 4] for a, b in CODES.tolist()]
        if quantise:
            result = quantised(builder, both, number(0.125), number(0), out)
            wanted = [
                [Fraction(min(max(exact_round(y * 8, Rounding.HALF_EVEN), -128), 127), 8) for y in event] for event in wanted
            ]
        else:
            result = single(builder, both)
        assert reals_of(builder, result) == wanted


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("zero", [0, 3])
@pytest.mark.parametrize("limits", [(None, None), (0, None), (0, 1), (-0.7, 0.9)])
def test_a_limited_value_is_quantised_by_definition(
    rounding: Rounding, zero: int, limits: tuple[float | None, float | None]
) -> None:
    scale, fmt = Fraction(3, 16), Format(True, 5, 2)
    builder, value = start()
    low, high = (None if limit is None else Fraction(limit) for limit in limits)
    whole = limited(value, None if low is None else number(low), None if high is None else number(high), "n")
    result = quantised(builder, whole, number(scale), number(zero), Quantiser(fmt.min_code, fmt.max_code, rounding, fmt))

    def wanted(code: int) -> Fraction:
        x = Fraction(code, 4)
        x = x if low is None else max(x, low)
        x = x if high is None else min(x, high)
        return (min(max(exact_round(x / scale + zero, rounding), fmt.min_code), fmt.max_code) - zero) * scale

    assert reals_of(builder, result) == [[wanted(code) for code in event] for event in CODES.tolist()]


@pytest.mark.parametrize("offset", [0, Fraction(1, 2), Fraction(1, 3)])
def test_padding_is_zero_also_where_no_code_is(offset: Fraction) -> None:
    builder, value = start(offset=offset)
    padded = moved(builder, value, np.array([-1, 1, 0, -1]), "pad")
    wanted = [[Fraction(0), *(Fraction(c, 4) + offset for c in (b, a)), Fraction(0)] for a, b in CODES.tolist()]
    assert reals_of(builder, padded) == wanted


def test_a_sum_is_added_up_before_it_is_moved_and_a_limit_moves_along() -> None:
    builder, value = start()
    both = added(value, scaled(moved(builder, value, np.array([1, 0]), "turn"), number(3), number(0), "n"), "n")
    found = moved(builder, both, np.array([1, -1, 0]), "pad")
    wanted = [[Fraction(b + 3 * a, 4), Fraction(0), Fraction(a + 3 * b, 4)] for a, b in CODES.tolist()]
    assert reals_of(builder, found) == wanted
    kept = moved(builder, limited(value, number(-1), number(0.5), "n"), np.array([1, -1, 0]), "pad")
    wanted = [[min(max(Fraction(c, 4), Fraction(-1)), Fraction(1, 2)) for c in (b, 0, a)] for a, b in CODES.tolist()]
    assert reals_of(builder, plain(builder, kept)) == wanted
    between = moved(builder, limited(value, number(0.1), None, "limit"), np.array([1, 0]), "turn")
    said = "the result of limit is not quantised, and its limit lies between two codes; quantise it"
    assert refused(lambda: plain(builder, between)) == said
    assert refused(lambda: moved(builder, between, np.array([1, -1]), "pad")) == said


def test_scales_of_moved_channels_stay_as_few_as_they_were() -> None:
    """What is padded has any scale: the two channels keep one each, and a repeated channel its own."""
    builder, value = start()
    channels = scaled(value, number(1, 3), number(0, Fraction(1, 2)), "n")
    padded = moved(builder, scaled(value, number(1, 3), number(0), "n"), np.array([[-1, 0, 0], [-1, 1, 1]]), "pad")
    assert (padded.scale.shape, padded.scale.reshape(-1).tolist()) == ((2, 1), [Fraction(1, 4), Fraction(3, 4)])
    assert padded.offset.tolist() == [[0]]
    alone = moved(builder, channels, np.array([1, 1, 1]), "repeat")
    assert (alone.scale.tolist(), alone.offset.tolist()) == ([Fraction(3, 4)], [Fraction(1, 2)])
    limits = moved(builder, limited(channels, number(0, 1), number(2, 2), "n"), np.array([[1], [0]]), "turn")
    assert (limits.low.tolist(), limits.high.tolist()) == ([[1], [0]], [[2]])  # type: ignore[union-attr]
    curved = applied(channels, functions.leaky_relu(number(0.5, 0.25)), "n")
    (function,) = moved(builder, curved, np.array([[1, 1], [0, 0]]), "turn").functions
    assert [constant.tolist() for constant in function.constants] == [[[Fraction(1, 4)], [Fraction(1, 2)]]]


def test_elements_in_their_order_are_reshaped_and_others_rearranged() -> None:
    builder, value = start()
    column = moved(builder, value, np.array([[0], [1]]), "turn")
    assert isinstance(builder.ops[column.op], Reshape)
    turned = moved(builder, column, np.array([1, 0]), "turn")
    assert isinstance(builder.ops[turned.op], Rearrange)
    assert (column.shape, column.op, turned.op) == ((2, 1), "reshape_1", "turn_1")
    assert reals_of(builder, turned) == [[Fraction(b, 4), Fraction(a, 4)] for a, b in CODES.tolist()]


@pytest.mark.parametrize("quantise", [False, True])
def test_a_value_that_repeats_its_codes_is_written_out(quantise: bool) -> None:
    builder, value = start()
    row = moved(builder, value, np.array([[0, 1]]), "turn")
    repeated = replace(row, shape=(3, 2))
    fmt = Format(True, 8, 3)
    result = (
        quantised(
            builder, repeated, constant_of(Fraction(1, 8), 2), constant_of(0, 2), Quantiser(-128, 127, Rounding.HALF_EVEN, fmt)
        )
        if quantise
        else expanded(builder, repeated)
    )
    assert result.shape == builder.tensors[result.op].shape == (3, 2)
    step = uniform(result.scale)
    assert step is not None
    found = Graph((*builder.ops.values(), Output("y", (result.op,)))).run(CODES)["y"]
    assert [[code * step for code in row] for row in found[:, 2].tolist()] == [
        [Fraction(code, 4) for code in event] for event in CODES.tolist()
    ]
    assert (found == found[:, :1]).all()


@pytest.mark.parametrize(
    "limits", [(None, None), ((-1, -1), (1, 1)), ((-1, Fraction(-1, 3)), (Fraction(1, 2), 1)), ((-1, 0), None)]
)
@pytest.mark.parametrize("curved", [False, True])
def test_functions_and_limits_that_differ_become_tables(limits: tuple, curved: bool) -> None:
    """Limits before a function, and those that differ between elements, go into the table with it."""
    builder, value = start()
    low, high = (None if limit is None else number(*limit) for limit in limits)
    whole = limited(value, low, high, "n") if limits != (None, None) else value
    whole = applied(whole, functions.ABS, "n") if curved else whole
    scale, fmt = Fraction(3, 16), Format(True, 5, 2)
    result = quantised(builder, whole, number(scale), number(0), Quantiser(-16, 15, Rounding.HALF_EVEN, fmt))
    different = limits not in ((None, None), ((-1, -1), (1, 1)))
    assert result.op == ("abs_1" if curved else "clip_1" if different else "quant_1")

    def wanted(code: int, element: int) -> Fraction:
        x = Fraction(code, 4)
        x = x if low is None else max(x, low[element])
        x = x if high is None else min(x, high[element])
        return min(max(exact_round((abs(x) if curved else x) / scale, Rounding.HALF_EVEN), -16), 15) * scale

    assert reals_of(builder, result) == [[wanted(code, i) for i, code in enumerate(event)] for event in CODES.tolist()]


def test_a_function_of_a_value_with_signs_is_a_table_of_positive_codes() -> None:
    builder, value = start()
    turned = applied(scaled(value, number(-2, 1), number(0.5), "n"), functions.ABS, "n")
    result = quantised(builder, turned, number(0.25), number(0), Quantiser(0, 31, Rounding.HALF_EVEN, Format(False, 5, 2)))
    assert list(builder.ops)[1:] == ["sign_1", "abs_1"]
    half = Fraction(1, 2)
    wanted = [[abs(half - Fraction(a, 2)), abs(half + Fraction(b, 4))] for a, b in CODES.tolist()]
    assert reals_of(builder, result) == wanted


def test_a_rectified_sum_is_called_so() -> None:
    fmt = Format(True, 5, 2)
    for low, name in ((0, "relu"), (-1, "quant")):
        builder, value = start()
        whole = limited(value, number(low), None, "n")
        result = quantised(builder, whole, number(0.25), number(0), Quantiser(-16, 15, Rounding.HALF_EVEN, fmt))
        assert result.op.startswith(name)


def test_scales_too_far_apart_are_refused_and_positive_ones_cost_nothing() -> None:
    builder, value = start()
    assert positive(builder, value) is value
    turned = moved(builder, value, np.array([1, 0]), "turn")
    far = added(scaled(value, number(2**70), number(0), "n"), turned, "n")
    with pytest.raises(Unsupported, match=r"^its scales have no common unit in 62 bits; use the same scale, or scales that "):
        single(builder, scaled(far, number(Fraction(1, 3)), number(0), "n"))


# Sums of small multipliers


def sum_of(factors: list[Fraction], formats: list[Format], offset: Fraction) -> tuple[Builder, SymbolicValue]:
    """Return factor * x + … + offset of inputs of one element that do not depend on each other."""
    builder = Builder(frozenset())
    whole = None
    for number_of, (factor, fmt) in enumerate(zip(factors, formats, strict=True)):
        builder.add(InputQuantiser(f"x{number_of}", (1,), fmt))
        part = plain_value(builder, f"x{number_of}", number(factor), number(0 if whole else offset))
        whole = part if whole is None else added(whole, part, "n")
    assert whole is not None
    return builder, whole


def every_code(builder: Builder) -> dict[str, Codes]:
    """Return every combination of the codes of all inputs."""
    ranges = {name: builder.tensors[name].range for name, op in builder.ops.items() if isinstance(op, InputQuantiser)}
    grids = np.meshgrid(*(np.arange(low, high + 1) for low, high in ranges.values()), indexing="ij")
    return {name: grid.reshape(-1, 1) for name, grid in zip(ranges, grids, strict=True)}


def summands_at(shift: int, factors: list[Fraction], codes: list[Codes], wanted: Codes, quantiser: Quantiser) -> bool:
    """Tell by trying them all whether a summand makes the nearest multipliers at this shift exact."""
    multipliers = [round(factor * 2**shift) for factor in factors]
    sums = sum(m * each for m, each in zip(multipliers, codes, strict=True))
    reach = int(np.abs(sums).max()) + (max(abs(quantiser.low), abs(quantiser.high)) + 2 << shift)
    return any(
        (np.clip(sums + summand >> shift, quantiser.low, quantiser.high) == wanted).all() for summand in range(-reach, reach + 1)
    )


small_factors = st.fractions(-3, 3, max_denominator=7).filter(bool)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    st.lists(st.tuples(small_factors, st.builds(Format, st.booleans(), st.integers(1, 3), st.just(0))), min_size=2, max_size=3),
    st.fractions(-4, 4, max_denominator=6),
    st.fractions(Fraction(1, 3), 3, max_denominator=5),
    st.integers(-2, 2),
    st.sampled_from([(-8, 7), (0, 7), (-3, 2), (0, 1)]),
    st.sampled_from(Rounding),
)
def test_a_sum_of_other_scales_is_rounded_once_with_the_smallest_multipliers(
    terms: list[tuple[Fraction, Format]],
    offset: Fraction,
    scale: Fraction,
    zero: int,
    limits: tuple[int, int],
    rounding: Rounding,
) -> None:
    """Every combination of codes is what rational arithmetic rounds it to, and no smaller shift could say so."""
    factors, formats = [factor for factor, _ in terms], [fmt for _, fmt in terms]
    builder, whole = sum_of(factors, formats, offset)
    codes = every_code(builder)
    quantiser = Quantiser(*limits, rounding, Format(True, 4, 0))
    result = quantised(builder, whole, number(scale), number(zero), quantiser)
    found = Graph((*builder.ops.values(), Output("y", (result.op,)))).run(codes)["y"].reshape(-1)
    events = zip(*(each[:, 0].tolist() for each in codes.values()), strict=True)
    sums = [sum(f * code for f, code in zip(factors, event, strict=True)) + offset for event in events]
    wanted = np.clip([exact_round(total / scale + zero, rounding) for total in sums], *limits)
    assert found.tolist() == wanted.tolist()
    step = builder.ops[result.op]
    adds = any(isinstance(op, Add) for op in builder.ops.values())
    if len(set(factors)) > 1 and adds and isinstance(step, Requantise) and step.rounding is Rounding.TRUNCATE:
        shift = builder.tensors[step.inputs[0]].format.fraction - step.format.fraction
        inner = [factor / scale for factor in factors]
        below = [each[:, 0] for each in codes.values()]
        assert not any(summands_at(less, inner, below, wanted, quantiser) for less in range(2, min(shift, 6)))


def test_a_sum_of_float_scales_needs_no_common_unit() -> None:
    """Three scales of float32 would need multipliers of 24 bits; rounded once, after offset and zero point, they need 12."""
    factors = [Fraction(float(np.float32(scale))) for scale in (0.6, 0.21, 0.33)]
    builder, whole = sum_of(factors, [Format(True, 3, 0)] * 3, Fraction(2, 3))
    quantiser = Quantiser(-4, 3, Rounding.HALF_EVEN, Format(True, 3, 0))
    result = quantised(builder, whole, number(Fraction(1, 2)), number(1), quantiser)
    weights = [int(op.weights.flat[0]) for op in builder.ops.values() if isinstance(op, Affine)]
    assert len(weights) == 3
    assert max(weights) < 2**12
    codes = every_code(builder)
    found = Graph((*builder.ops.values(), Output("y", (result.op,)))).run(codes)["y"].reshape(-1).tolist()
    events = zip(*(each[:, 0].tolist() for each in codes.values()), strict=True)
    totals = [sum(f * code for f, code in zip(factors, event, strict=True)) + Fraction(2, 3) for event in events]
    assert found == [min(max(exact_round(2 * total + 1, Rounding.HALF_EVEN), -4), 3) for total in totals]


@pytest.mark.parametrize(("most", "high", "small"), [(64, 3, True), (63, 3, False), (64, 2**50, True), (64, 2**58, False)])
def test_small_multipliers_are_looked_for_among_so_many_combinations_and_bits(
    most: int, high: int, small: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(symbolic, "MAX_COMBINATIONS", most)
    factors = [Fraction(float(np.float32(scale))) for scale in (0.6, 0.21)]
    builder, whole = sum_of(factors, [Format(True, 3, 0)] * 2, Fraction(0))
    quantised(builder, whole, number(1), number(0), Quantiser(-4, high, Rounding.HALF_EVEN, Format.holding(-4, high, 0)))
    weights = [abs(int(op.weights.flat[0])) for op in builder.ops.values() if isinstance(op, Affine)]
    assert (max(weights) < 2**10) is small


def test_equal_scales_and_those_that_differ_between_elements_need_no_small_multipliers() -> None:
    for scales, names in (((1, 1), ["add_1", "quant_1"]), ((1, 2), ["scale_1", "add_1", "quant_1"])):
        builder, value = start()
        turned = moved(builder, value, np.array([1, 0]), "turn")
        both = added(scaled(value, number(*scales), number(0), "n"), turned, "n")
        fmt = Format(True, 4, 1)
        result = quantised(builder, both, number(0.5), number(0), Quantiser(-8, 7, Rounding.HALF_EVEN, fmt))
        assert [name for name in builder.ops if name not in ("x", "turn_1")] == names
        wanted = [[round(Fraction(s * a + b, 2)) for s, a, b in zip(scales, e, e[::-1], strict=True)] for e in CODES.tolist()]
        assert codes_of(builder, result).tolist() == np.clip(wanted, -8, 7).tolist()


# What has no quantiser behind it


@pytest.mark.parametrize("exponent", [1, 2, 3])
@pytest.mark.parametrize("last", [None, functions.TANH])
def test_a_power_is_multiplied_out_with_the_affine_maps_behind_it(exponent: int, last: functions.Function | None) -> None:
    """(x + x turned round)**n * 3 - 1/2 + 2, without any rounding; a function that is not affine stays and is refused."""
    builder, value = start()
    both = added(value, moved(builder, value, np.array([1, 0]), "turn"), "n")
    raised = applied(both, functions.power(exponent), "power")
    for factor, summand in ((3, Fraction(-1, 2)), (1, 2)):
        raised = scaled(raised, number(factor), number(summand), "scale")
    if last is not None:
        curved = applied(raised, last, "curve")
        for value, name in (
            (curved, "curve"),
            (scaled(curved, number(2), number(0), "factor"), "factor"),
            (limited(curved, number(0), None, "limit"), "limit"),
        ):
            assert refused(lambda v=value: plain(builder, v)) == (  # type: ignore[misc]
                f"the result of {name} is not quantised; add a quantiser after it"
            )
        return
    found = plain(builder, raised)
    assert [type(op) for op in builder.ops.values()].count(Multiply) == exponent - 1
    wanted = [3 * Fraction(a + b, 4) ** exponent + Fraction(3, 2) for a, b in CODES.tolist()]
    assert reals_of(builder, found) == [[each, each] for each in wanted]


def test_a_power_of_a_power_is_one_of_products() -> None:
    builder, value = start()
    twice = applied(scaled(applied(value, functions.power(2), "n"), number(2), number(1), "n"), functions.power(2), "n")
    assert reals_of(builder, plain(builder, twice)) == [[(2 * Fraction(c, 4) ** 2 + 1) ** 2 for c in e] for e in CODES.tolist()]


@pytest.mark.parametrize("exponent", [1, 2])
def test_a_magnitude_and_what_is_limited_behind_it_are_codes(exponent: int) -> None:
    """|x - 1/4|**n * 2 - 3/4, limited from above, from below and both, without a quantiser: the steps are those of x."""
    limits = ((None, None), (None, Fraction(3, 4)), (Fraction(1, 4), None), (Fraction(0), Fraction(5, 4)))
    for low, high in limits:
        builder, value = start()
        inner = applied(scaled(value, number(1), number(Fraction(-1, 4)), "n"), functions.ABS, "n")
        inner = applied(inner, functions.power(2), "n") if exponent == 2 else inner
        inner = scaled(inner, number(2), number(Fraction(-3, 4)), "n")
        if (low, high) != (None, None):
            ends = (None if limit is None else number(limit) for limit in (low, high))
            inner = limited(inner, *ends, "n")
        wanted = [[2 * abs(Fraction(c - 1, 4)) ** exponent - Fraction(3, 4) for c in e] for e in CODES.tolist()]
        wanted = [[x if low is None else max(x, low) for x in e] for e in wanted]
        wanted = [[x if high is None else min(x, high) for x in e] for e in wanted]
        assert reals_of(builder, plain(builder, inner)) == wanted


def test_a_magnitude_of_too_many_codes_is_refused() -> None:
    builder = Builder(frozenset())
    name = builder.add(InputQuantiser("x", (2,), Format(True, 17, 0)))
    value = applied(plain_value(builder, name, number(1)), functions.ABS, "curve")
    assert refused(lambda: plain(builder, value)) == "the result of curve is not quantised; add a quantiser after it"


def test_a_function_where_it_is_not_defined_is_named_by_its_node() -> None:
    builder, value = start()
    root = applied(value, functions.SQRT, "root of x")
    with pytest.raises(Unsupported, match=r"^root of x would take the Sqrt of numbers from -2 to 1.75, which is not defined "):
        quantised(builder, root, number(0.25), number(0), Quantiser(0, 15, Rounding.HALF_EVEN, Format(False, 4, 2)))


# What is refused


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(Unsupported) as caught:
        call()
    return str(caught.value)


@pytest.mark.parametrize(
    ("scale", "offset", "message"),
    [
        (Fraction(2) ** 1019, Fraction(2) ** 1023, None),
        (Fraction(2) ** 1020, 0, "its result may reach 2**1024, beyond what float64 holds; use scales nearer to 1"),
        (1, -(Fraction(2) ** 1025), "its result may reach 2**1025, beyond what float64 holds; use scales nearer to 1"),
        (-(Fraction(2) ** -1021), 0, None),
        (Fraction(2) ** -1022, 1, "its scale is about 2**-1022, below what float64 holds; use scales nearer to 1"),
        (0, 0, None),
        (Fraction(2**16383 + 1, 2**16383), 0, None),
        (Fraction(2**16384 + 1, 2**16384), 0,
         "its scales need 16,385 bits to be exact, at most 16,384; put a quantiser before it"),
        (1, Fraction(2**16384 + 1, 2**16384),
         "its scales need 16,385 bits to be exact, at most 16,384; put a quantiser before it"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("curved", [False, True])
def test_what_float64_does_not_hold_is_refused(
    scale: Fraction | int, offset: Fraction | int, message: str | None, curved: bool
) -> None:
    """Codes of four bits times the scale, or the constants of the last function that is applied."""
    builder, plain_one = start()
    factor, summand = number(scale), number(offset)
    value = scaled(applied(plain_one, functions.ABS, "n"), factor, summand, "n") if curved else None
    value = plain_value(builder, "x", factor, summand) if value is None else value
    if message is None or (curved and "scale is" in message) or (curved and scale == Fraction(2) ** 1020):
        refuse_beyond_float64(builder, value)
    else:
        assert refused(lambda: refuse_beyond_float64(builder, value)) == message


def test_one_of_several_terms_that_float64_does_not_hold_is_refused() -> None:
    builder, value = start()
    for exponent, words in ((1020, r"may reach 2\*\*1024"), (-1022, r"is about 2\*\*-1022")):
        far = plain_value(builder, "x", number(Fraction(2) ** exponent, 1))
        turned = moved(builder, value, np.array([1, 0]), "turn")
        for pair in ((turned, far), (far, turned)):
            with pytest.raises(Unsupported, match=words):
                refuse_beyond_float64(builder, added(*pair, "n"))
    many = replace(applied(value, functions.clip(number(Fraction(2) ** 1024), None), "n"), node="n")
    with pytest.raises(Unsupported, match=r"may reach 2\*\*1024"):
        refuse_beyond_float64(builder, many)
    refuse_beyond_float64(builder, applied(many, functions.ABS, "n"))  # what came before was looked at when it was made


SEVERAL = (
    "its input has 2 different scales without a common unit in 62 bits; quantise it with one scale per tensor "
    "(one QuantIdentity behind all branches)"
)
BIASED = (
    "the bias of its input is no multiple of the input's scale, and both together do not fit 62 bits; use "
    "bias_quant=Int16Bias in the layer before, or a QuantIdentity between them"
)


@pytest.mark.parametrize(
    ("scales", "offset", "message"),
    [
        ((1, 2), 0, None),
        ((1, 1), Fraction(1, 3), None),
        # 8 * 2**57 is 2**60; the offset's steps fill up what is left to 2**61
        ((1, 2**57), 2**60 - 2**40, None),
        ((1, 2**57), 2**60, SEVERAL),
        ((1, 2**58), 0, SEVERAL),
        ((1, 2**57), -(2**60), SEVERAL),
        ((1, 1), Fraction(2**60 + 1, 2**57), BIASED),
        ((1, 1), Fraction(1, 2**57), None),
        ((1, 1), Fraction(1, 2**58), BIASED),
    ],
)
def test_scales_are_aligned_as_far_as_62_bits_reach(scales: tuple[int, int], offset: Fraction | int, message: str | None) -> None:
    builder, _ = start()
    value = plain_value(builder, "x", number(*scales), number(offset))
    if message is not None:
        assert refused(lambda: aligned(builder, value)) == unaligned(value) == message
        return
    found = aligned(builder, value)
    assert uniform(found.scale) is not None
    assert not any(found.offset.flat)
    assert reals_of(builder, found) == [[code * s + offset for code, s in zip(e, scales, strict=True)] for e in CODES.tolist()]


def test_what_is_aligned_already_stays() -> None:
    builder, value = start()
    assert aligned(builder, value) is value
    assert without_offset(builder, value) is value


def test_the_first_value_that_had_to_be_aligned_is_the_reason() -> None:
    builder, value = start()
    several, biased = plain_value(builder, "x", number(1, 3)), plain_value(builder, "x", number(1), number(Fraction(1, 3)))
    whole = plain_value(builder, "x", number(1), number(5))
    problem = TooWide("layer n: its sums do not fit")
    assert str(reason_of(problem, whole, several, biased)) == SEVERAL
    assert str(reason_of(problem, biased, several)) == BIASED
    assert reason_of(problem, value, whole) is problem
    assert reason_of(problem) is problem


@pytest.mark.parametrize(
    ("scales", "offset", "exponent", "reason"),
    [
        ((1, 3), 0, 21, None),
        ((1, 1), 5, 21, None),
        ((1, 1), Fraction(1, 1000), 6, BIASED),
        ((1, 3), Fraction(1, 1000), 6, SEVERAL),
    ],
)
def test_a_power_that_does_not_fit_is_refused_by_its_true_reason(
    scales: tuple[int, int], offset: Fraction | int, exponent: int, reason: str | None
) -> None:
    """Scales and offsets are it only where codes had to be brought to one scale before."""
    builder, _ = start()
    value = plain_value(builder, "x", number(*scales), number(offset))
    assert powered(builder, value, exponent // 4).is_plain
    said = refused(lambda: powered(builder, value, exponent))
    if reason is None:
        assert re.fullmatch(r"layer multiply_\d+: its sums may reach .* and do not fit 62 bits; .*", said)
    else:
        assert said == reason


@pytest.mark.parametrize(("steps", "goes"), [(2**60 - 1, True), (-(2**60) + 1, True), (2**60, False), (-(2**60), False)])
def test_an_offset_of_as_many_steps_as_fit_goes_into_the_codes(steps: int, goes: bool) -> None:
    builder, _ = start()
    value = plain_value(builder, "x", number(Fraction(1, 4)), number(Fraction(steps, 4)))
    assert (centred(builder, value) is not value) is goes


@pytest.mark.parametrize(("factor", "fits"), [(2**56, True), (2**58, False), (2**61, False), (2**70, False)])
def test_scales_of_a_sum_have_a_common_unit_in_62_bits_or_are_refused(factor: int, fits: bool) -> None:
    """A third keeps the factor from being a shift, which a sum does by itself."""
    builder, value = start(1)
    turned = moved(builder, value, np.array([1, 0]), "turn")
    parts = [scaled(part, number(scale), number(0), "n") for part, scale in ((value, factor), (turned, Fraction(1, 3)))]
    if fits:
        wanted = [[factor * a + Fraction(b, 3), factor * b + Fraction(a, 3)] for a, b in CODES.tolist()]
        assert reals_of(builder, single(builder, added(*parts, "n"))) == wanted
    else:
        said = refused(lambda: single(builder, added(*parts, "n")))
        assert said == "its scales have no common unit in 62 bits; use the same scale, or scales that are powers of two"
