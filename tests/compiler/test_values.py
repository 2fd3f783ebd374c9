"""What is known of real tensors between quantisers: limits, scales of either sign, and the codes that they become."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from brute_force import exact_round

from caloedge.compiler import functions
from caloedge.compiler.builder import Builder
from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import InputQuantiser, Output, Rearrange, Requantise, Reshape
from caloedge.compiler.rationals import Rationals, rationals
from caloedge.compiler.steps import Quantiser
from caloedge.compiler.values import (
    Value,
    added,
    applied,
    centred,
    constant_of,
    expanded,
    limited,
    moved,
    plain,
    plain_value,
    positive,
    quantised,
    scaled,
    single,
    uniform,
)
from caloedge.errors import Unsupported

CODES = np.array(np.meshgrid(range(-8, 8), range(-8, 8))).reshape(2, -1).T
"""Every pair of codes of four bits."""


def start(scale: Fraction | float = Fraction(1, 4), offset: Fraction | int = 0) -> tuple[Builder, Value]:
    """Return a builder whose input `x` has two elements of four bits, and the value scale * x + offset."""
    builder = Builder(frozenset())
    builder.add(InputQuantiser("x", (2,), Format(True, 4, 2)))
    return builder, plain_value(builder, "x", constant_of(Fraction(scale), 1), constant_of(offset, 1))


def number(*values: float | Fraction) -> Rationals:
    return rationals(np.array([Fraction(value) for value in values], dtype=object))


def codes_of(builder: Builder, value: Value) -> Codes:
    """Return the codes that a plain value has on every pair of input codes."""
    return Graph((*builder.ops.values(), Output("y", (value.op,)))).run(CODES)["y"]


def reals_of(builder: Builder, value: Value) -> list[list[Fraction]]:
    """Return the exact real numbers of a plain value on every pair of input codes."""
    codes = codes_of(builder, value)
    scale, offset = (np.broadcast_to(array, codes.shape[1:]) for array in (value.scale, value.offset))
    return [[code * s + o for code, s, o in zip(event, scale, offset, strict=True)] for event in codes.tolist()]


def check(builder: Builder, value: Value, wanted: Callable[[Fraction], Fraction], scale: Fraction = Fraction(1, 4)) -> None:
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


def start_limited(low: float, high: float | None) -> tuple[Builder, Value]:
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

    def wanted(code: int, element: int) -> Fraction:
        x = Fraction(code, 4)
        x = x if low is None else max(x, low[element])
        x = x if high is None else min(x, high[element])
        return min(max(exact_round((abs(x) if curved else x) / scale, Rounding.HALF_EVEN), -16), 15) * scale

    assert reals_of(builder, result) == [[wanted(code, i) for i, code in enumerate(event)] for event in CODES.tolist()]


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
