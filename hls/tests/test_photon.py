import random

from hls.tests.bench import Bench, Case, check
from hls.tests.words import pack, unpack

PART = "caloedge_photon"
NAMES = ["ROWS", "COLUMNS", "BITS", "OUT_BITS", "FRACTION", "POSITION_BITS", "ENERGY_BITS", "THRESHOLD"]


def key_bits(p: dict[str, int]) -> tuple[int, int]:
    return (p["ROWS"] - 1).bit_length(), (p["COLUMNS"] - 1).bit_length()


def photon(p: dict[str, int], row: int, column: int, exponent: int, sum9: int, outputs: list[int]) -> int | None:
    """Return the beat of a photon, None if it is too faint, as the definition says."""
    dx, dy, e, seed = outputs
    if seed < p["THRESHOLD"]:
        return None
    unit = 2 ** p["FRACTION"]
    energy = sum9 * 2 ** (p["FRACTION"] - 5) + e * 2 ** (max(4, exponent) - 4)
    words = [
        (seed, p["OUT_BITS"]),
        (energy, p["ENERGY_BITS"]),
        (column * unit + unit // 2 + dy, p["POSITION_BITS"]),
        (row * unit + unit // 2 + dx, p["POSITION_BITS"]),
    ]
    beat, at = 0, 0
    for word, bits in words:
        beat += (word % 2**bits) << at
        at += bits
    return beat


def beat(p: dict[str, int], row: int, column: int, exponent: int, sum9: int, outputs: list[int], last: int = 0) -> int:
    row_bits, column_bits = key_bits(p)
    head = (((last << row_bits) + row << column_bits) + column << 4) + exponent
    return ((head << (p["BITS"] + 4)) + sum9 << 4 * p["OUT_BITS"]) + pack(outputs, p["OUT_BITS"])


def case(*values: int, beats: int = 400) -> Case:
    p = dict(zip(NAMES, values, strict=True))
    rng = random.Random(str(values))
    top = 1 << (p["OUT_BITS"] - 1)
    events, results, leaves = [], [], []
    for number in range(beats):
        outputs = [rng.choice([-top, top - 1, 0, rng.randrange(-top, top)]) for _ in range(4)]
        outputs[3] = rng.choice([outputs[3], p["THRESHOLD"] - 1, p["THRESHOLD"], p["THRESHOLD"] + 1])
        row, column = (rng.choice([0, count - 1, rng.randrange(count)]) for count in (p["ROWS"], p["COLUMNS"]))
        sum9 = rng.choice([0, 9 * ((1 << p["BITS"]) - 1), rng.getrandbits(p["BITS"] + 4)])
        end = number == 0 or rng.random() < 0.2
        sent = beat(p, row, column, rng.randrange(16), sum9, outputs, last=end)
        if end:
            found: int | None = 1 << (2 * p["POSITION_BITS"] + p["ENERGY_BITS"] + p["OUT_BITS"])
        else:
            exponent = sent >> (p["BITS"] + 4 + 4 * p["OUT_BITS"]) & 15
            found = photon(p, row, column, exponent, sum9, unpack(pack(outputs, p["OUT_BITS"]), 4, p["OUT_BITS"], signed=True))
        events.append([sent])
        results.append([] if found is None else [found])
        leaves += [] if found is None else [number + 3]
    out_bits = 1 + 2 * p["POSITION_BITS"] + p["ENERGY_BITS"] + p["OUT_BITS"]
    return Case(PART, p, 1 + sum(key_bits(p)) + 8 + p["BITS"] + 4 * p["OUT_BITS"], out_bits, events, results, leaves=leaves)


CASES = [
    case(51, 51, 12, 16, 10, 18, 28, 100),
    case(9, 8, 6, 9, 5, 10, 22, -3),
    case(5, 3, 8, 12, 7, 9, 8, 0),  # results are cut to few bits
    case(2, 17, 4, 20, 12, 30, 40, -(1 << 18)),
]


def test_the_model_itself() -> None:
    p = dict(zip(NAMES, (51, 51, 12, 16, 8, 18, 24, 5), strict=True))
    words = [5, 300 * 8 + -3 * 4, 50 * 256 + 128 + 7, 128 - 200]
    assert photon(p, 0, 50, 6, 300, [-200, 7, -3, 5]) == sum(
        (word % 2**bits) << at for word, bits, at in zip(words, (16, 24, 18, 18), (0, 16, 40, 58), strict=True)
    )
    assert photon(p, 0, 50, 6, 300, [-200, 7, -3, 4]) is None


def test_lint(bench: Bench) -> None:
    bench.lint(CASES)


def test_photon(bench: Bench) -> None:
    check(bench.simulate(CASES))


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        ("seed_wide >= THRESHOLD", "seed_wide > THRESHOLD"),
        ("last || seed_wide", "seed_wide"),
        ("exponent - 4'd4;", "exponent - 4'd3;"),
        ("exponent < 4'd4 ? 4'd0 :", ""),
        ("{{ENERGY_BITS{e[OUT_BITS-1]}}, e}", "{{ENERGY_BITS{1'b0}}, e}"),
        ("unused_row[POSITION_BITS-1:0] + unused_dx", "unused_row[POSITION_BITS-1:0] + unused_dy"),
        ("row, MIDDLE}", "row, ONES}"),
        ("unused_sum[ENERGY_BITS-1:0] << (FRACTION - 5)", "unused_sum[ENERGY_BITS-1:0] << (FRACTION - 4)"),
    ]
    assert bench.simulate_errors(case(9, 8, 6, 9, 5, 10, 22, -3), errors) == [True] * len(errors)
