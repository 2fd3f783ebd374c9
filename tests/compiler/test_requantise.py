"""Exact requantisation: whatever form is chosen, it equals rational arithmetic on every code."""

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from brute_force import exact_round
from hypothesis import given, settings
from hypothesis import strategies as st

from caloedge.compiler import functions, requantise
from caloedge.compiler.builder import Builder
from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.functions import Function
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Affine, InputQuantiser, Op, Output, Requantise, Table, Threshold
from caloedge.compiler.rationals import common_unit, floor_sum, rationals
from caloedge.compiler.requantise import (
    Quantiser,
    Row,
    _multiply_shift,
    exactly_rounded,
    quantise_affine,
    quantise_function,
    rounded_quotients,
)
from caloedge.compiler.symbolic import constant_of
from caloedge.errors import Unsupported


def float32(low: float, high: float) -> Any:
    return st.floats(low, high, width=32).map(Fraction)


powers = st.integers(-8, 2).map(lambda e: Fraction(2) ** e)
scales = st.one_of(powers, float32(0.0009765625, 2), st.fractions(-20, 20, max_denominator=12), float32(-1, 1))


def compiled(fmt: Format, factors: list[Fraction], summands: list[Fraction], quantiser: Quantiser) -> tuple[Graph, np.ndarray]:
    """Return the network of one step on every code of the format, channel by channel."""
    builder = Builder(frozenset())
    channels = len(factors)
    builder.add(InputQuantiser("x", (channels, 1), fmt))
    columns = [np.array(values, dtype=object).reshape(-1, 1) for values in (factors, summands)]
    name = quantise_affine(builder, "x", *columns, quantiser, "quant")
    codes = np.arange(fmt.min_code, fmt.max_code + 1)
    every = np.broadcast_to(codes[:, None, None], (len(codes), channels, 1))
    return Graph((*builder.ops.values(), Output("y", (name,)))), every


@pytest.mark.parametrize("rounding", Rounding)
def test_rational_numbers_are_rounded_by_definition(rounding: Rounding) -> None:
    """The reference of the tests below: halves are ties, thirds lie on either side, zero and the signs differ between modes."""
    for value in [Fraction(n, d) for d in (1, 2, 3, 7) for n in range(-5 * d, 5 * d + 1)]:
        assert exactly_rounded(value, rounding) == exact_round(value, rounding), value


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("size", [1, 2**70])
def test_quotients_are_rounded_by_definition(rounding: Rounding, size: int) -> None:
    """Small numbers are divided as int64, large ones as Python's: both round alike, ties of either sign included."""
    for divisor in (1, 2, 3, 4, 7, 10):
        numerators = np.array([n * size for n in range(-45, 46)], dtype=object)
        found = rounded_quotients(numerators, divisor * size, rounding)
        assert found.dtype == np.int64
        assert found.tolist() == [exact_round(Fraction(n, divisor), rounding) for n in range(-45, 46)], divisor


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("exponent", [59, 60, 61, 62, 63, 64, 70])
def test_quotients_are_rounded_by_definition_at_the_edge_of_int64(rounding: Rounding, exponent: int) -> None:
    """Numerators and divisor pass 2**60 and 2**63 one without the other: twice a rest must not wrap."""
    for divisor in (2**exponent - 1, 2**exponent, 2**exponent + 1):
        numbers = [
            n for size in (1, 2**59, 2**60, 2**61, divisor // 2, divisor) for n in (size - 1, size, size + 1, -size, 1 - size)
        ]
        for part in (numbers, numbers[:5]):
            found = rounded_quotients(np.array(part, dtype=object), divisor, rounding)
            assert found.tolist() == [exact_round(Fraction(n, divisor), rounding) for n in part], divisor


def test_quotients_beyond_62_bits_stay_at_the_limit() -> None:
    numerators = np.array([2**62 - 1, 2**62, 2**70, -(2**70)], dtype=object)
    assert rounded_quotients(numerators, 1, Rounding.HALF_EVEN).tolist() == [2**62 - 1, 2**62, 2**62, -(2**62)]


@settings(deadline=None, max_examples=150, derandomize=True)
@given(
    st.builds(Format, st.booleans(), st.integers(1, 9), st.just(0)),
    st.lists(st.tuples(scales, st.one_of(st.just(Fraction(0)), st.fractions(-9, 9, max_denominator=4))), min_size=1, max_size=3),
    st.builds(Format, st.booleans(), st.integers(1, 7), st.just(0)),
    st.sampled_from(Rounding),
    st.booleans(),
)
def test_every_code_is_rounded_as_a_fraction_is(
    fmt: Format, lines: list[tuple[Fraction, Fraction]], out: Format, rounding: Rounding, cut: bool
) -> None:
    low, high = (out.min_code + (1 if cut and out.width > 2 else 0), out.max_code - (1 if cut and out.width > 2 else 0))
    quantiser = Quantiser(low, high, rounding, out, free_fraction=True)
    graph, codes = compiled(fmt, [factor for factor, _ in lines], [summand for _, summand in lines], quantiser)
    found = graph.run(codes)["y"]
    for channel, (factor, summand) in enumerate(lines):
        for number, code in enumerate(codes[:, channel, 0].tolist()):
            wanted = min(max(exactly_rounded(factor * code + summand, rounding), low), high)
            assert found[number, channel, 0] == wanted, (code, [type(op).__name__ for op in graph.ops])


@settings(deadline=None, max_examples=80, derandomize=True)
@given(
    st.lists(
        st.tuples(scales, st.fractions(-9, 9, max_denominator=4), st.integers(-3, 3), st.integers(-9, 9)), min_size=2, max_size=3
    ),
    st.sampled_from(Rounding),
    st.sampled_from([60, 2**12]),
)
def test_channels_of_other_ranges_are_rounded_as_fractions_are(
    lines: list[tuple[Fraction, Fraction, int, int]], rounding: Rounding, most: int
) -> None:
    """Each channel has its own lowest and highest code; thresholds or, where they are said to be too many, tables."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(requantise, "MAX_LEVELS", most)
        builder = Builder(frozenset())
        builder.add(InputQuantiser("x", (len(lines), 1), Format(True, 3, 0)))
        gains, shifts = (np.array([line[i] for line in lines]).reshape(-1, 1) for i in (2, 3))
        builder.add(Affine("spread", ("x",), gains, shifts, Format(True, 3, 0)))
        columns = [np.array([line[i] for line in lines], dtype=object).reshape(-1, 1) for i in (0, 1)]
        quantiser = Quantiser(-40, 50, rounding, Format(True, 7, 0), free_fraction=True)
        name = quantise_affine(builder, "spread", *columns, quantiser, "quant")
    codes = np.broadcast_to(np.arange(-4, 4)[:, None, None], (8, len(lines), 1))
    graph = Graph((*builder.ops.values(), Output("y", (name,))))
    found = graph.run(codes)["y"]
    for channel, (factor, summand, gain, shift) in enumerate(lines):
        wanted = [min(max(exactly_rounded(factor * (gain * c + shift) + summand, rounding), -40), 50) for c in range(-4, 4)]
        assert found[:, channel, 0].tolist() == wanted, [type(op).__name__ for op in graph.ops]


@pytest.mark.parametrize(
    ("factor", "rounding", "kinds"),
    [
        (Fraction(1, 8), Rounding.HALF_EVEN, [Requantise]),
        (Fraction(3, 8), Rounding.HALF_EVEN, [Affine, Requantise]),
        (Fraction(float(np.float32(0.1))), Rounding.HALF_EVEN, [Affine, Requantise]),
        (Fraction(1, 6), Rounding.HALF_EVEN, [Threshold]),  # ties of alternating direction at an odd divisor
        (Fraction(1, 6), Rounding.HALF_UP, [Affine, Requantise]),
        (Fraction(1, 10), Rounding.FROM_ZERO, [Threshold]),
    ],
)
def test_the_cheapest_form_is_taken(factor: Fraction, rounding: Rounding, kinds: list[type]) -> None:
    out = Format(True, 5, 0)
    graph, _ = compiled(
        Format(True, 8, 0), [factor], [Fraction(0)], Quantiser(out.min_code, out.max_code, rounding, out, free_fraction=True)
    )
    assert [type(op) for op in graph.ops[1:-1]] == kinds


@pytest.mark.parametrize(
    ("factors", "names"),
    [
        ([Fraction(1, 8)], ["quant_1"]),
        ([Fraction(3, 8)], ["scale_1", "quant_1"]),
        ([Fraction(-1, 8)], ["scale_1", "quant_1"]),
        ([Fraction(1, 6)], ["quant_1"]),
        ([Fraction(1, 6), Fraction(-1, 10)], ["sign_1", "quant_1"]),
        ([Fraction(0), Fraction(-1, 10)], ["sign_1", "quant_1"]),
    ],
)
def test_operations_are_called_what_they_do(factors: list[Fraction], names: list[str]) -> None:
    out = Format(True, 5, 0)
    quantiser = Quantiser(out.min_code, out.max_code, Rounding.HALF_EVEN, out, free_fraction=True)
    graph, codes = compiled(Format(True, 8, 0), factors, [Fraction(0)] * len(factors), quantiser)
    assert [op.name for op in graph.ops[1:-1]] == names
    if names[0] == "sign_1":
        sign = graph["sign_1"]
        assert isinstance(sign, Affine)
        assert sign.weights.reshape(-1).tolist() == [-1 if factor < 0 else 1 for factor in factors]
        assert str(sign.weight_format) == "fixed<2,2>"
        assert graph.tensors["sign_1"].format.fraction == 0
    assert graph.run(codes)["y"].shape == codes.shape


def test_a_multiplier_is_small_and_one_less_would_be_wrong() -> None:
    """The proof is needed: the next smaller multiplier gives a wrong code somewhere."""
    out = Format(False, 8, 0)
    factor = Fraction(float(np.float32(0.0123)))
    graph, codes = compiled(Format(False, 12, 0), [factor], [Fraction(0)], Quantiser(0, 255, Rounding.HALF_EVEN, out))
    scale = graph["scale_1"]
    assert isinstance(scale, Affine)
    assert int(np.abs(scale.weights).max()).bit_length() <= 15
    wanted = graph.run(codes)["y"]
    assert (graph.replacing("scale_1", weights=scale.weights - 1).run(codes)["y"] != wanted).any()


def smallest_shift(row: Row, quantiser: Quantiser) -> int:
    """Return the first shift at which the nearest multiplier has a summand that is right for every code."""
    codes = np.arange(row.low, row.high + 1)
    rounded = [exact_round(row.factor * code + row.summand, quantiser.rounding) for code in codes.tolist()]
    wanted = np.clip(rounded, quantiser.low, quantiser.high)
    for shift in range(40):
        sums = round(row.factor * 2**shift) * codes
        least = np.where(wanted > quantiser.low, (wanted << shift) - sums, -(2**62)).max()
        most = np.where(wanted < quantiser.high, ((wanted + 1) << shift) - 1 - sums, 2**62).min()
        if least <= most:
            return shift
    raise AssertionError("no shift")


def test_shifts_are_hardly_larger_than_the_smallest() -> None:
    """The summand is not searched for but placed at the middle of the codes, wherever those lie: one or two bits are lost."""
    lost = []
    quantiser = Quantiser(-16, 15, Rounding.HALF_UP, Format(True, 5, 0))
    for number in range(45):
        factor = Fraction(float(np.float32(0.01 + 0.0331 * number)))
        low = (0, -128, 100)[number % 3]
        row = Row((), factor, Fraction(number - 20, 16) - factor * low, low, low + 255)
        found = _multiply_shift([row], quantiser)
        assert found is not None
        lost.append(found[2] - smallest_shift(row, quantiser))
    assert min(lost) >= 0
    assert sum(lost) <= 2 * len(lost)


def test_wide_codes_are_proven_without_listing_them() -> None:
    """2**40 codes: the ends, and both sides of every step, are as rational arithmetic says."""
    fmt, out = Format(True, 40, 0), Format(True, 8, 0)
    factor, summand = Fraction(float(np.float32(3.7e-10))), Fraction(1, 3)
    builder = Builder(frozenset())
    builder.add(InputQuantiser("x", (1,), fmt))
    quantiser = Quantiser(-128, 127, Rounding.HALF_EVEN, out)
    name = quantise_affine(builder, "x", constant_of(factor, 1), constant_of(summand, 1), quantiser, "quant")
    graph = Graph((*builder.ops.values(), Output("y", (name,))))
    edges = [int((Fraction(2 * k - 1, 2) - summand) / factor) + d for k in range(-127, 128) for d in (-1, 0, 1, 2)]
    codes = np.array([fmt.min_code, fmt.max_code, *edges]).reshape(-1, 1)
    wanted = [min(max(exactly_rounded(factor * int(code) + summand, Rounding.HALF_EVEN), -128), 127) for code in codes[:, 0]]
    assert graph.run(codes)["y"][:, 0].tolist() == wanted


SIX = Format(True, 6, 0)
TO_A_SIDE = (Rounding.TRUNCATE, Rounding.CEILING, Rounding.HALF_UP)


@pytest.mark.parametrize("rounding", [mode for mode in Rounding if mode not in TO_A_SIDE])
def test_a_few_codes_become_a_table_however_many_levels_there_are(rounding: Rounding) -> None:
    """Sixteen codes of a scale that no multiplier fits exactly, to sixteen bits: 65,535 thresholds, but sixteen entries."""
    fmt, quantiser = Format(True, 4, 0), Quantiser(-(2**15), 2**15 - 1, rounding, Format(True, 16, 0))
    factors, summands = [Fraction(2**20, 3), Fraction(2**40 + 1, 2**30)], [Fraction(1, 3), Fraction(1, 2)]
    graph, codes = compiled(fmt, factors, summands, quantiser)
    assert [type(op) for op in graph.ops][1:-1] == [Table]
    found = graph.run(codes)["y"]
    for channel, (factor, summand) in enumerate(zip(factors, summands, strict=True)):
        wanted = [exactly_rounded(factor * int(code) + summand, rounding) for code in codes[:, channel, 0]]
        assert found[:, channel, 0].tolist() == np.clip(wanted, -(2**15), 2**15 - 1).tolist()


def test_a_table_holds_codes_that_float64_does_not() -> None:
    top = 2**58 - 1
    quantiser = Quantiser(-top, top, Rounding.HALF_EVEN, Format(True, 59, 0))
    factors, summands = [Fraction(2**57 + 1, 3), Fraction(2**60, 7)], [Fraction(1, 5), Fraction(1, 2)]
    graph, codes = compiled(Format(True, 4, 0), factors, summands, quantiser)
    assert [type(op) for op in graph.ops][1:-1] == [Table]
    for channel, (factor, summand) in enumerate(zip(factors, summands, strict=True)):
        wanted = [min(max(round(factor * code + summand), -top), top) for code in range(-8, 8)]
        assert graph.run(codes)["y"][:, channel, 0].tolist() == wanted


def test_a_table_is_as_long_as_the_codes_that_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two channels, 1 to 8 and -7 to 0: from the lowest to the highest code of both, a row for each."""
    monkeypatch.setattr(requantise, "MAX_LEVELS", 20)
    builder = Builder(frozenset())
    builder.add(InputQuantiser("x", (2, 1), Format(False, 3, 0)))
    name = quantise_affine(
        builder,
        builder.add(Affine("spread", ("x",), np.array([[1], [-1]]), np.array([[1], [0]]), Format(True, 2, 0))),
        *(np.array(values, dtype=object).reshape(2, 1) for values in ([Fraction(1, 6), Fraction(1, 10)], [Fraction(0)] * 2)),
        Quantiser(-16, 15, Rounding.HALF_EVEN, Format(True, 5, 0)),
        "look",
    )
    table = builder.ops[name]
    assert isinstance(table, Table)
    assert (table.name, table.first, table.values.shape) == ("look_1", -7, (2, 1, 16))
    assert table.values[:, 0].tolist() == [[round(Fraction(code, divisor)) for code in range(-7, 9)] for divisor in (6, 10)]


@pytest.mark.parametrize(
    ("most_levels", "most_steps", "kind"),
    [(32, 64, Threshold), (31, 64, Table), (32, 63, Table), (31, 2**10, Table), (16, 32, Table), (16, 31, None), (15, 32, None)],
)
def test_thresholds_and_tables_are_taken_up_to_their_limits(
    most_levels: int, most_steps: int, kind: type | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two channels of 16 codes, to 33 levels: 32 thresholds or 16 entries each."""
    monkeypatch.setattr(requantise, "MAX_LEVELS", most_levels)
    monkeypatch.setattr(requantise, "MAX_STEPS", most_steps)
    quantiser = Quantiser(-16, 16, Rounding.HALF_EVEN, Format(True, 6, 0))
    factors, summands = [Fraction(7, 6), Fraction(11, 6)], [Fraction(0)] * 2
    if kind is None:
        message = (
            r"^its rescaling needs 32 thresholds for each of 2 channels over 16 codes; use fewer bits or scales that are pow"
        )
        with pytest.raises(Unsupported, match=message):
            compiled(Format(True, 4, 0), factors, summands, quantiser)
    else:
        graph, _ = compiled(Format(True, 4, 0), factors, summands, quantiser)
        assert [type(op) for op in graph.ops][1:-1] == [kind]


@pytest.mark.parametrize("most", [2**12, 20])
@pytest.mark.parametrize("rounding", Rounding)
def test_thresholds_and_tables_round_by_definition_in_every_mode(
    rounding: Rounding, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some modes come to them only where no multiplier fits, which is said here of all."""
    monkeypatch.setattr(requantise, "_multiply_shift", lambda *_: None)
    monkeypatch.setattr(requantise, "MAX_LEVELS", most)
    factors = [Fraction(7, 6), Fraction(-1, 2), Fraction(0), Fraction(5, 3)]
    summands = [Fraction(1, 3), Fraction(1, 2), Fraction(-7, 2), Fraction(2)]
    graph, codes = compiled(Format(True, 4, 0), factors, summands, Quantiser(-16, 15, rounding, Format(True, 5, 0)))
    assert type(graph.ops[-2]) is (Threshold if most > 20 else Table)
    for channel, (factor, summand) in enumerate(zip(factors, summands, strict=True)):
        wanted = [min(max(exact_round(factor * code + summand, rounding), -16), 15) for code in range(-8, 8)]
        assert graph.run(codes)["y"][:, channel, 0].tolist() == wanted


def test_too_many_thresholds_are_refused() -> None:
    out = Format(True, 16, 0)
    quantiser = Quantiser(out.min_code, out.max_code, Rounding.HALF_EVEN, out)
    with pytest.raises(Unsupported, match=r"needs 65,535 thresholds for each of 1 channels .* use fewer bits"):
        compiled(Format(True, 20, 0), [Fraction(1, 6)], [Fraction(0)], quantiser)


@pytest.mark.parametrize(
    "function",
    [
        functions.SIGMOID,
        functions.TANH,
        functions.EXP,
        functions.SQRT,
        functions.SOFTPLUS,
        functions.ABS,
        functions.power(2),
        functions.leaky_relu(rationals([0.1015625])),
        functions.selu(Fraction(5, 3), Fraction(21, 20)),
        functions.clip(rationals([-0.7]), rationals([0.4])),
    ],
    ids=lambda function: function.kind,
)
@pytest.mark.parametrize("rounding", [Rounding.HALF_EVEN, Rounding.TRUNCATE, Rounding.FROM_ZERO])
def test_tables_of_functions_are_exact(function: Function, rounding: Rounding) -> None:
    # A root takes what it is defined for, everything else both signs.
    fmt, out = Format(function.lowest is None, 8, 0), Format(True, 8, 5)
    step, scale = Fraction(float(np.float32(0.05))), Fraction(1, 32)
    builder = Builder(frozenset())
    builder.add(InputQuantiser("x", (2,), fmt))
    zero = constant_of(0, 1)
    quantiser = Quantiser(out.min_code, out.max_code, rounding, out)
    name = quantise_function(
        builder, "x", (constant_of(step, 1), zero), (function,), (constant_of(1 / scale, 1), zero), quantiser, "f"
    )
    graph = Graph((*builder.ops.values(), Output("y", (name,))))
    assert isinstance(graph[name], Table)
    codes = np.arange(fmt.min_code, fmt.max_code + 1)
    found = graph.run(np.repeat(codes[:, None], 2, axis=1))["y"]
    for code, result in zip(codes.tolist(), found[:, 1].tolist(), strict=True):
        wanted = exactly_rounded(function.at(step * code, (0,)) / scale, rounding)
        assert result == min(max(wanted, out.min_code), out.max_code), code


@pytest.mark.parametrize("rounding", Rounding)
def test_what_float64_leaves_in_doubt_is_decided_exactly(rounding: Rounding) -> None:
    """7 * 0.1 * 5 is 3.5000000000000004 in float64, and 3 * 0.1 * 10 is above 3: every code here is a tie or a whole number."""
    fmt, out = Format(True, 8, 0), Format(True, 12, 0)
    for outer in (5, 10, Fraction(10, 3)):
        builder = Builder(frozenset())
        builder.add(InputQuantiser("x", (1,), fmt))
        zero, quantiser = constant_of(0, 1), Quantiser(out.min_code, out.max_code, rounding, out)
        inner = (constant_of(Fraction(1, 10), 1), constant_of(Fraction(3, 10), 1))
        leaky = functions.leaky_relu(rationals([0.5]))
        name = quantise_function(builder, "x", inner, (leaky,), (constant_of(outer, 1), zero), quantiser, "f")
        graph = Graph((*builder.ops.values(), Output("y", (name,))))
        codes = np.arange(-128, 128)
        for code, found in zip(codes.tolist(), graph.run(codes[:, None])["y"][:, 0].tolist(), strict=True):
            value = Fraction(code + 3, 10) * outer
            assert found == exact_round(value / 2 if code < -3 else value, rounding), (outer, code)


def test_a_function_of_many_codes_becomes_thresholds() -> None:
    out = Format(False, 5, 5)
    step = Fraction(float(np.float32(1e-5)))
    builder = Builder(frozenset())
    builder.add(InputQuantiser("x", (1,), Format(True, 24, 0)))
    zero, quantiser = constant_of(0, 1), Quantiser(0, 31, Rounding.HALF_EVEN, out)
    inner, outer = (constant_of(step, 1), zero), (constant_of(32, 1), zero)
    name = quantise_function(builder, "x", inner, (functions.SIGMOID,), outer, quantiser, "f")
    op = builder.ops[name]
    assert isinstance(op, Threshold)
    graph = Graph((*builder.ops.values(), Output("y", (name,))))
    codes = (op.thresholds.reshape(-1, 1) + np.array([[-1, 0]])).reshape(-1, 1)
    codes = codes[(codes >= -(2**23)) & (codes < 2**23)].reshape(-1, 1)
    for code, result in zip(codes[:, 0].tolist(), graph.run(codes)["y"][:, 0].tolist(), strict=True):
        assert result == exactly_rounded(functions.SIGMOID.at(step * code, (0,)) * 32, Rounding.HALF_EVEN)


def of_function(
    fmt: Format, inner: list[Fraction], maps: tuple[Function, ...], outer: Fraction, quantiser: Quantiser
) -> tuple[Graph, np.ndarray, Op]:
    """Return the network of a quantised function on every code, a channel for each inner factor, and its last operation."""
    builder = Builder(frozenset())
    builder.add(InputQuantiser("x", (len(inner), 1), fmt))
    zero, half = constant_of(0, 2), constant_of(Fraction(1, 2), 2)
    factors = np.array(inner, dtype=object).reshape(-1, 1)
    name = quantise_function(builder, "x", (factors, zero), maps, (constant_of(outer, 2), half), quantiser, "curve")
    codes = np.arange(fmt.min_code, fmt.max_code + 1)
    every = np.broadcast_to(codes[:, None, None], (len(codes), len(inner), 1))
    return Graph((*builder.ops.values(), Output("y", (name,)))), every, builder.ops[name]


RISING = {
    "sigmoid": (functions.SIGMOID,),
    "exp": (functions.EXP,),
    "softplus": (functions.SOFTPLUS,),
    "selu": (functions.selu(Fraction(5, 3), Fraction(21, 20)),),
    "cube": (functions.power(3),),
    "leaky": (functions.leaky_relu(rationals([[0.25]])),),
    "clip": (functions.clip(rationals([[-0.7]]), rationals([[0.4]])),),
    "two": (functions.TANH, functions.affine(rationals([[0.5]]), rationals([[0.125]]))),
    "channels": (functions.TANH, functions.affine(rationals([[0.5], [2.0]]), rationals([[0.125], [-0.5]]))),
}


@pytest.mark.parametrize("name", RISING)
@pytest.mark.parametrize("rounding", Rounding)
def test_thresholds_of_a_function_are_those_of_its_table(name: str, rounding: Rounding, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found by bisection where a table would be too long: every code of two channels gives what the table says."""
    how = (
        Format(True, 6, 0),
        [Fraction(1, 7), Fraction(0)],
        RISING[name],
        Fraction(5),
        Quantiser(-3, 8, rounding, Format(True, 5, 0)),
    )
    graph, codes, op = of_function(*how)
    monkeypatch.setattr(requantise, "MAX_STEPS", 127)
    counted, _, other = of_function(*how)
    assert (type(op), type(other), op.name, other.name) == (Table, Threshold, "curve_1", "curve_1")
    assert counted.run(codes)["y"].tolist() == graph.run(codes)["y"].tolist()
    assert isinstance(op, Table)
    assert isinstance(other, Threshold)
    # The lowest code that reaches a level, and one above the highest for what none reaches.
    wanted = [[[-32 + int((row < level).sum()) for level in range(-2, 9)] for row in rows] for rows in op.values]
    assert np.broadcast_to(other.thresholds, (*op.values.shape[:-1], 11)).tolist() == wanted


@pytest.mark.parametrize(
    ("most_levels", "most_steps", "factor", "outer", "function", "kind"),
    [
        (11, 128, 1, 5, functions.TANH, Table),
        (11, 127, 1, 5, functions.TANH, Threshold),
        (10, 127, 1, 5, functions.TANH, None),
        (11, 22, 1, 5, functions.TANH, Threshold),
        (11, 21, 1, 5, functions.TANH, None),
        (11, 127, -1, 5, functions.TANH, None),
        (11, 127, 1, -5, functions.TANH, None),
        (11, 127, 0, 5, functions.TANH, Threshold),
        (11, 127, 1, 0, functions.TANH, Threshold),
        (11, 127, 1, 5, functions.ABS, None),
    ],
)  # fmt: skip
def test_a_function_is_a_table_or_thresholds_up_to_their_limits(
    most_levels: int, most_steps: int, factor: int, outer: int, function: Function, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two channels of 64 codes to 12 levels: 128 entries, or 22 thresholds where the whole only rises."""
    monkeypatch.setattr(requantise, "MAX_LEVELS", most_levels)
    monkeypatch.setattr(requantise, "MAX_STEPS", most_steps)
    inner = [Fraction(factor, 7), Fraction(1, 3)]
    how = (SIX, inner, (function,), Fraction(outer), Quantiser(-3, 8, Rounding.HALF_EVEN, Format(True, 5, 0)))
    if kind is None:
        with pytest.raises(Unsupported) as caught:
            of_function(*how)
        cure = f"quantise what enters {function.kind} to fewer bits"
        assert str(caught.value) == f"a table of 128 entries would be needed; {cure}"
    else:
        assert isinstance(of_function(*how)[2], kind)


def test_a_function_of_one_level_is_a_constant() -> None:
    graph, codes, op = of_function(SIX, [Fraction(1)], (functions.TANH,), Fraction(1), Quantiser(3, 3, Rounding.HALF_EVEN, SIX))
    assert isinstance(op, Requantise)
    assert set(graph.run(codes)["y"].flat) == {3}


@pytest.mark.parametrize("most", [2**21, 100])
@pytest.mark.parametrize(
    ("maps", "message"),
    [
        ((functions.SQRT,),
         "would take the Sqrt of numbers from -32 to 31, which is not defined below 0; put a Relu or Clip before it"),
        ((functions.affine(rationals([[1.0]]), rationals([[4.0]])), functions.SQRT),
         "would take the Sqrt of numbers from -28 to 35, which is not defined below 0; put a Relu or Clip before it"),
        ((functions.power(3), functions.SQRT),
         "would take the Sqrt of numbers from -32768 to 29791, which is not defined below 0; put a Relu or Clip before it"),
    ],
)  # fmt: skip
def test_what_a_root_would_take_is_named(
    maps: tuple[Function, ...], message: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second channel is half of the first: its numbers do not come into the message."""
    monkeypatch.setattr(requantise, "MAX_STEPS", most)
    maps = (*maps[:-1], replace(maps[-1], node="root of x"))
    quantiser = Quantiser(0, 7, Rounding.HALF_EVEN, Format(False, 3, 0))
    with pytest.raises(Unsupported, match=rf"^root of x {message}"):
        of_function(SIX, [Fraction(1), Fraction(1, 2)], maps, Fraction(1), quantiser)
    lifted = (functions.affine(rationals([[1.0]]), rationals([[32.0]])), *maps[-1:])
    of_function(SIX, [Fraction(1), Fraction(1, 2)], lifted, Fraction(1), quantiser)


def test_a_root_is_taken_of_the_codes_of_its_own_channel() -> None:
    """Codes below zero come in another channel, where they do not matter; so do larger ones."""
    quantiser = Quantiser(0, 7, Rounding.HALF_EVEN, Format(False, 3, 0))
    zero = constant_of(0, 2)

    def root(starts: list[int], factors: list[int]) -> str:
        builder = Builder(frozenset())
        builder.add(InputQuantiser("x", (2, 1), Format(False, 3, 0)))
        builder.add(Affine("spread", ("x",), np.ones((2, 1), np.int64), np.array(starts).reshape(2, 1), Format(True, 2, 0)))
        inner = rationals(np.array(factors).reshape(2, 1)), zero
        return quantise_function(builder, "spread", inner, (functions.SQRT,), (constant_of(1, 2), zero), quantiser, "root")

    assert root([0, -4], [1, 0]) == root([-4, 0], [0, 1]) == root([0, -7], [1, -1]) == "root_1"
    for starts, factors, reach in (([-4, 0], [1, 0], "-4 to 3"), ([0, -4], [0, 1], "-4 to 3"), ([-4, -3], [1, 1], "-4 to 4")):
        with pytest.raises(Unsupported, match=rf"numbers from {reach}, which is not defined below 0"):
            root(starts, factors)


def test_a_root_is_taken_of_the_codes_that_come_alone() -> None:
    """The channel that reaches below zero is lifted by its own constant: an order of the channels mixed up would refuse it."""
    lifted = functions.affine(rationals([[1.0], [1.0]]), rationals([[32.0], [0.0]]))
    quantiser = Quantiser(0, 7, Rounding.HALF_EVEN, Format(False, 3, 0))
    of_function(SIX, [Fraction(1), Fraction(0)], (lifted, functions.SQRT), Fraction(1), quantiser)
    with pytest.raises(Unsupported, match=r"numbers from -32 to 63, which"):
        of_function(SIX, [Fraction(1), Fraction(1)], (lifted, functions.SQRT), Fraction(1), quantiser)


@given(st.integers(0, 40), st.integers(1, 50), st.integers(-90, 90), st.integers(-90, 90))
def test_the_sum_of_floors_is_that_of_a_loop(count: int, divisor: int, factor: int, start: int) -> None:
    assert floor_sum(count, divisor, factor, start) == sum((factor * i + start) // divisor for i in range(count))


def test_a_common_unit_divides_everything() -> None:
    values = rationals([0.75, -1.25, 0.0])
    assert common_unit(values) == Fraction(1, 4)
    assert common_unit(rationals([0.0])) == 1


@pytest.mark.parametrize("factor", [Fraction(1, 8), Fraction(1, 3), Fraction(0)])
def test_a_quantiser_of_one_code_is_a_constant(factor: Fraction) -> None:
    quantiser = Quantiser(3, 3, Rounding.HALF_EVEN, Format(False, 4, 0))
    graph, codes = compiled(Format(True, 5, 0), [factor, -factor], [Fraction(0), Fraction(1, 7)], quantiser)
    assert set(graph.run(codes)["y"].flat) == {3}
