"""Arithmetic and maximum: no clock, so one build for all."""

import random
from fractions import Fraction
from math import floor

import numpy as np
import pytest

from caloedge.compiler import fixed
from hls.tests.bench import COMBINATIONAL_TESTS, Bench, Case, check
from hls.tests.words import pack, unpack

FLOOR, HALF_UP, HALF_EVEN = 0, 1, 2
ROUNDING = {FLOOR: fixed.Rounding.TRUNCATE, HALF_UP: fixed.Rounding.HALF_UP, HALF_EVEN: fixed.Rounding.HALF_EVEN}


def requantised(word: int, shift: int, rounding: int, low: int, high: int) -> int:
    """Divide, round and clip with rational numbers."""
    exact = Fraction(word) / Fraction(2) ** shift
    rounded = {FLOOR: floor(exact), HALF_UP: floor(exact + Fraction(1, 2)), HALF_EVEN: round(exact)}[rounding]
    return min(max(rounded, low), high)


def words_of(bits: int, shift: int) -> list[int]:
    """Return all words of a narrow input, or ends, ties and random ones of a wide input."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if bits <= 9:
        return list(range(low, high + 1))
    rng = random.Random(f"{bits} {shift}")
    found = {low, low + 1, -1, 0, 1, high - 1, high} | {rng.randint(low, high) for _ in range(300)}
    if 0 < shift < bits - 1:
        ties = [((rng.randint(low, high) >> shift) << shift) + (1 << (shift - 1)) for _ in range(100)]
        found |= {word for tie in ties for word in (tie - 1, tie, tie + 1)}
    found |= {rng.randint(-300, 300) for _ in range(100)}
    return sorted(word for word in found if low <= word <= high)


REQUANTISATIONS = [
    # IN_WIDTH, SHIFT, ROUNDING, OUT_WIDTH, LOW, HIGH
    *[(9, 3, rounding, 5, 0, 31) for rounding in ROUNDING],
    *[(9, 3, rounding, 7, -20, 19) for rounding in ROUNDING],
    *[(8, 1, rounding, 8, -128, 127) for rounding in ROUNDING],  # never clips
    *[(6, 6, rounding, 3, -2, 2) for rounding in ROUNDING],  # as many bits as there are
    *[(5, 9, rounding, 2, -1, 1) for rounding in ROUNDING],
    *[(7, 63, rounding, 4, -3, 3) for rounding in ROUNDING],
    *[(7, 80, rounding, 4, -3, 3) for rounding in ROUNDING],
    *[(8, 0, rounding, 9, -100, 100) for rounding in ROUNDING],
    *[(7, -3, rounding, 12, -500, 400) for rounding in ROUNDING],
    *[(1, 1, rounding, 1, 0, 1) for rounding in ROUNDING],
    *[(24, 11, rounding, 8, 0, 255) for rounding in ROUNDING],
    *[(40, 17, rounding, 30, -(2**22), 2**22 - 1) for rounding in ROUNDING],
    *[(62, 1, rounding, 62, -(2**61), 2**61 - 1) for rounding in ROUNDING],
    (8, 2, HALF_EVEN, 9, 200, 300),  # everything lies below the lowest
    (8, 2, HALF_EVEN, 10, -300, -200),  # or above the highest
    (64, 40, HALF_EVEN, 64, -(2**63), 2**63 - 1),
    (6, -40, FLOOR, 48, -(2**46), 2**46 - 1),
]


def requantise(in_width: int, shift: int, rounding: int, out_width: int, low: int, high: int) -> Case:
    words = words_of(in_width, shift)
    results = [requantised(word, shift, rounding, low, high) for word in words]
    return Case(
        "caloedge_requantise",
        {"IN_WIDTH": in_width, "SHIFT": shift, "ROUNDING": rounding, "OUT_WIDTH": out_width, "LOW": low, "HIGH": high},
        in_width,
        out_width,
        [[word % (1 << in_width)] for word in words],
        [[result % (1 << out_width)] for result in results],
        clocked=False,
    )


def maximum(count: int, channels: int, bits: int, signed: int) -> Case:
    rng = random.Random(f"{count} {channels} {bits} {signed}")
    beats = [rng.getrandbits(count * channels * bits) for _ in range(300)]
    results = []
    for beat in beats:
        words = unpack(beat, count * channels, bits, bool(signed))
        results.append([pack([max(words[channel::channels]) for channel in range(channels)], bits)])
    parameters = {"COUNT": count, "CHANNELS": channels, "BITS": bits, "SIGNED": signed}
    events = [[beat] for beat in beats]
    return Case("caloedge_max", parameters, count * channels * bits, channels * bits, events, results, clocked=False)


def arithmetic(part: str, in_width: int, out_width: int, first: int, second: int) -> Case:
    """Return a case of an affine part (weight, bias) or of an offset part (of negative words, of others)."""
    words = words_of(in_width, in_width // 2)
    if part == "caloedge_affine":
        names, results = ("WEIGHT", "BIAS"), [word * first + second for word in words]
    else:
        names, results = ("OF_NEGATIVE", "OF_OTHERS"), [word + (first if word < 0 else second) for word in words]
    assert all(-(1 << (out_width - 1)) <= result < 1 << (out_width - 1) for result in results)
    return Case(
        part,
        {"IN_WIDTH": in_width, "OUT_WIDTH": out_width, names[0]: first, names[1]: second},
        in_width,
        out_width,
        [[word % (1 << in_width)] for word in words],
        [[result % (1 << out_width)] for result in results],
        clocked=False,
    )


ARITHMETIC = [
    arithmetic("caloedge_affine", 8, 16, 93, -1200),
    arithmetic("caloedge_affine", 8, 16, -93, 1200),
    arithmetic("caloedge_affine", 9, 9, 0, -7),
    arithmetic("caloedge_affine", 9, 6, 0, 31),  # narrower than the word
    arithmetic("caloedge_affine", 1, 4, 5, 2),
    arithmetic("caloedge_affine", 30, 62, 2**30 - 1, -(2**60)),
    arithmetic("caloedge_offset", 9, 11, 63, 0),
    arithmetic("caloedge_offset", 9, 11, 31, 32),
    arithmetic("caloedge_offset", 9, 10, 0, 255),
    arithmetic("caloedge_offset", 1, 12, 1023, 7),
    arithmetic("caloedge_offset", 40, 62, 2**60 - 1, 2**59),
]


CASES = (
    [requantise(*values) for values in REQUANTISATIONS]
    + ARITHMETIC
    + [
        maximum(1, 1, 1, 0),
        maximum(1, 3, 4, 1),
        maximum(2, 1, 1, 1),
        maximum(4, 3, 8, 0),
        maximum(4, 2, 8, 1),
        maximum(9, 2, 5, 1),
        maximum(7, 1, 12, 0),
    ]
)


@pytest.mark.parametrize("values", REQUANTISATIONS, ids=str)
def test_the_compiler_rounds_alike(values: tuple[int, ...]) -> None:
    in_width, shift, rounding, _, low, high = values
    words = words_of(in_width, shift)
    expected = [requantised(word, shift, rounding, low, high) for word in words]
    assert fixed.requantise(np.array(words), shift, low, high, ROUNDING[rounding]).tolist() == expected


def test_lint(bench: Bench) -> None:
    bench.lint(CASES)


def test_arithmetic_and_max(bench: Bench) -> None:
    check(bench.simulate(CASES), tests=COMBINATIONAL_TESTS)


ERRORS = {
    "caloedge_affine": [
        ("+ BIAS_WIDE", "- BIAS_WIDE"),
        ("{OUT_WIDTH{in_data[IN_WIDTH-1]}}", "{OUT_WIDTH{1'b0}}"),
    ],
    "caloedge_offset": [
        ("in_data[IN_WIDTH-1] ?", "!in_data[IN_WIDTH-1] ?"),
        ("{OUT_WIDTH{in_data[IN_WIDTH-1]}}", "{OUT_WIDTH{1'b0}}"),
    ],
    "caloedge_max": [
        ("OFFSET = SIGNED != 0 ?", "OFFSET = SIGNED == 0 ?"),
        ("left > right ? left : right", "left > right ? right : left"),
        ("k = COUNT - 1; k > 0;", "k = COUNT - 1; k > 1;"),
        ("k = 0; k < COUNT;", "k = 1; k < COUNT;"),
        ("(k*CHANNELS+c)*BITS", "(c*COUNT+k)*BITS"),
        ("nodes[BITS +: BITS] ^ OFFSET", "nodes[BITS +: BITS]"),
    ],
    "caloedge_requantise": [
        ("{(2*WIDE-IN_WIDTH){in_data[IN_WIDTH-1]}}", "{(2*WIDE-IN_WIDTH){1'b0}}"),
        ("quotient[0] || (|rest[SHIFT-2:0])", "quotient[0]"),
        ("quotient[0] || (|rest[SHIFT-2:0])", "(|rest[SHIFT-2:0])"),
        ("assign odd_or_more = quotient[0];", "assign odd_or_more = 1'b1;"),
        ("ROUNDING == 0 ? 1'b0 :", "ROUNDING == 0 ? half :"),
        ("ROUNDING == 1 ? half :", "ROUNDING == 1 ? half && odd_or_more :"),
        ("{quotient[WIDE-SHIFT-1], quotient}", "{1'b0, quotient}"),
        ("{in_data, {(-SHIFT){1'b0}}}", "{in_data, {(-SHIFT){1'b1}}}"),
        ("{CLIP_BITS{rounded[ROUNDED-1]}}", "{CLIP_BITS{1'b0}}"),
        ("value < LOWEST ? LOWEST :", ""),
        ("value > HIGHEST ? HIGHEST :", ""),
        ("value > HIGHEST ? HIGHEST :", "value > HIGHEST ? LOWEST :"),
    ],
}


@pytest.mark.parametrize("part", ERRORS)
def test_an_error_is_caught(bench: Bench, part: str) -> None:
    errors, cases = ERRORS[part], [case for case in CASES if case.part == part]
    assert bench.simulate_errors(errors, *cases) == [True] * len(errors)
