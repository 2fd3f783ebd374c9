import random
from collections.abc import Sequence
from dataclasses import dataclass

from hls.tests.bench import Bench, Case, check
from hls.tests.words import pack

PART = "caloedge_group"
DEFAULTS = {"W1": 171, "W2": 135, "W4": 85, "W5": 65, "W8": 15}


@dataclass(frozen=True)
class Entry:
    """A window and the cell that it lies around."""

    row: int
    column: int
    window: tuple[int, ...]
    """Codes, row by row."""


def bits_of(count: int) -> int:
    return (count - 1).bit_length()


def features(p: dict[str, int], entry: Entry, group: Sequence[Entry | None]) -> list[int]:
    """Return the features of one entry, as the definition says."""
    centre = max(1, entry.window[p["KERNEL"] ** 2 // 2])
    exponent = centre.bit_length() - 1
    top = (1 << p["FEATURE_BITS"]) - 1
    cells = [min(code * 2 ** (p["FEATURE_BITS"] - 1 - p["HEADROOM"]) // 2**exponent, top) for code in entry.window]
    there = {(other.row - entry.row, other.column - entry.column) for other in group if other}
    steps = [(i, j) for i in range(-2, 3) for j in range(-2, 3) if (i, j) != (0, 0)]
    neighbours = [p[f"W{i * i + j * j}"] if (i, j) in there else 0 for i, j in steps]
    scale = [(1 << (p["FEATURE_BITS"] - p["HEADROOM"])) * (min(max(exponent, 4), 11) == here) for here in range(4, 12)]
    return [*cells, *neighbours, *scale]


def feature_beat(p: dict[str, int], entry: Entry, group: Sequence[Entry | None]) -> int:
    kernel, half = p["KERNEL"], p["KERNEL"] // 2
    near = [entry.window[i * kernel + j] for i in range(half - 1, half + 2) for j in range(half - 1, half + 2)]
    exponent = max(1, entry.window[half * kernel + half]).bit_length() - 1
    words = features(p, entry, group)
    beat = (entry.row << bits_of(p["COLUMNS"])) + entry.column
    beat = (beat << 4) + exponent
    beat = (beat << (p["BITS"] + 4)) + sum(near)
    return (beat << len(words) * p["FEATURE_BITS"]) + pack(words, p["FEATURE_BITS"])


def end_beat(p: dict[str, int]) -> int:
    bits = bits_of(p["ROWS"]) + bits_of(p["COLUMNS"]) + 4 + p["BITS"] + 4 + (p["KERNEL"] ** 2 + 32) * p["FEATURE_BITS"]
    return 1 << bits


def group_beat(p: dict[str, int], group: Sequence[Entry | None]) -> int:
    column_bits, window_bits = bits_of(p["COLUMNS"]), p["KERNEL"] ** 2 * p["BITS"]
    key_bits = bits_of(p["ROWS"]) + column_bits
    words = [
        (((1 << key_bits) + (entry.row << column_bits) + entry.column) << window_bits) + pack(entry.window, p["BITS"])
        if entry
        else 0
        for entry in group
    ]
    return pack(words, 1 + key_bits + window_bits)


def some(p: dict[str, int], rng: random.Random, count: int) -> list[Entry | None]:
    """Return a group of `count` entries, most of them near each other, with codes of all sizes."""
    far = rng.random() < 0.3
    row0, column0 = (
        rng.choice([0, rng.randrange(p["ROWS"]), p["ROWS"] - 5]),
        rng.choice([0, rng.randrange(p["COLUMNS"]), p["COLUMNS"] - 5]),
    )
    near = [
        (row, column)
        for row in range(p["ROWS"])
        for column in range(p["COLUMNS"])
        if far or (abs(row - row0 - 1) <= 2 and abs(column - column0 - 1) <= 2)
    ]
    found: list[Entry | None] = []
    for row, column in rng.sample(near, count):
        window = [rng.getrandbits(rng.randint(0, p["BITS"])) for _ in range(p["KERNEL"] ** 2)]
        if rng.random() < 0.3:
            window = [(1 << p["BITS"]) - 1] * len(window)
        scale = rng.randrange(p["BITS"])
        centre = rng.choice([1 << scale, (2 << scale) - 1, (1 << scale) + rng.randrange(1 << scale)])
        window[len(window) // 2] = centre
        found.append(Entry(row, column, tuple(window)))
    return found + [None] * (p["KEEP"] - count)


def case(keep: int, rows: int, columns: int, kernel: int, bits: int, feature: tuple[int, int], groups: int = 40) -> Case:
    """Return a case; `feature` are the bits of a feature and those above the centre's leading bit."""
    feature_bits, headroom = feature
    p = {"KEEP": keep, "ROWS": rows, "COLUMNS": columns, "KERNEL": kernel, "BITS": bits}
    p |= {"FEATURE_BITS": feature_bits, "HEADROOM": headroom}
    rng = random.Random(str(p))
    weights = {name: weight % (1 << feature_bits) for name, weight in DEFAULTS.items()}
    all_of_it = p | weights
    counts = [keep, 0, *(rng.randint(0, keep) for _ in range(groups - 2))]
    given = [some(p, rng, count) for count in counts]
    rng.shuffle(given[-1])  # a gap in the middle costs a cycle, nothing else
    if (first := given[0][0]) is not None:  # a centre of 0 counts as 1
        given[0][0] = Entry(first.row, first.column, (0,) * kernel**2)
    results, leaves, start = [], [], 0
    for group in given:
        present = [number for number, entry in enumerate(group) if entry]
        steps = [*present, max(present, default=-1) + 1]
        leaves += [start + 4 + step for step in steps]
        start += steps[-1] + 2
        results.append([*(feature_beat(all_of_it, entry, group) for entry in group if entry), end_beat(p)])
    in_bits = keep * (1 + bits_of(rows) + bits_of(columns) + kernel**2 * bits)
    return Case(
        PART,
        p | weights if feature_bits != 12 else p,
        in_bits,
        end_beat(p).bit_length(),
        [[group_beat(p, group)] for group in given],
        results,
        leaves=leaves,
        capacity=(1, 1) if keep > 2 else (1, 2),
    )


CASES = [
    case(4, 51, 51, 7, 12, (12, 4), groups=16),
    case(2, 9, 8, 3, 12, (10, 1)),
    case(5, 6, 17, 3, 16, (9, 3)),
]
MORE_CASES = [case(1, 5, 5, 3, 5, (12, 4)), case(9, 7, 7, 5, 8, (10, 2))]
"""Only for the lint."""


def test_the_model_itself() -> None:
    p = {"KEEP": 2, "ROWS": 9, "COLUMNS": 8, "KERNEL": 3, "BITS": 12, "FEATURE_BITS": 10, "HEADROOM": 1} | DEFAULTS
    one = Entry(3, 4, (0, 1, 70, 4095, 35, 36, 130, 127, 128))  # 35 / 32 * 256 = 280
    two = Entry(1, 5, (0, 0, 0, 0, 4095, 0, 0, 0, 5))
    words = features(p, one, [one, two])
    assert words[:9] == [0, 8, 560, 1023, 280, 288, 1023, 1016, 1023]
    assert words[9:33] == [0, 0, 0, 65, *[0] * 20]
    assert words[33:] == [0, 512, *[0] * 6]
    assert features(p, two, [two, one])[:9] == [0, 0, 0, 0, 511, 0, 0, 0, 0]
    assert features(p, two, [two, one])[9:33] == [*[0] * 20, 65, 0, 0, 0]
    assert feature_beat(p, one, [one, two]) >> 41 * 10 == 0b0_0011_100_0101_0001001000001110


def test_lint(bench: Bench) -> None:
    bench.lint(CASES + MORE_CASES)


def test_group(bench: Bench) -> None:
    check(bench.simulate(CASES))


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        ("{first_exponent[3:2], 2'b00}", "{first_exponent[3:2], 2'b01}"),
        ("above || (|shifted_on", "(|shifted_on"),
        ("SQUARE == 4 ? W4 : SQUARE == 5 ? W5 : W8", "SQUARE == 5 ? W4 : SQUARE == 4 ? W5 : W8"),
        ("CELLS_AWAY = d - 2;", "CELLS_AWAY = 2 - d;"),
        ("row_distance[k*5+d] = position[KEY_BITS] && row", "row_distance[k*5+d] = row"),  # missing ones lie at row 0
        ("EXPONENT = w + 4;", "EXPONENT = w + 3;"),
        ("out_data <= {1'b1, {(OUT_BITS-1){1'b0}}};", "out_data <= {1'b1, second_key, second_exponent, second_sum, features};"),
    ]
    assert bench.simulate_errors(case(2, 9, 8, 3, 12, (10, 1)), errors) == [True] * len(errors)
