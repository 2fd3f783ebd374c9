import random
from collections.abc import Sequence
from dataclasses import dataclass

from hls.tests.bench import Bench, Case, check
from hls.tests.words import pack

PART = "caloedge_group"
LATENCY = 6
DEFAULTS = {"W1": 171, "W2": 135, "W4": 85, "W5": 65, "W8": 15}


@dataclass(frozen=True)
class Entry:
    """A window and the cell that it lies around."""

    row: int
    column: int
    window: tuple[int, ...]
    """Codes, row by row."""


@dataclass(frozen=True)
class Turn:
    """How a square is turned: the flips first."""

    flip_rows: bool
    flip_columns: bool
    swap: bool

    @property
    def bits(self) -> int:
        return self.swap * 4 + self.flip_columns * 2 + self.flip_rows


def bits_of(count: int) -> int:
    return (count - 1).bit_length()


def core(p: dict[str, int], window: Sequence[int]) -> dict[tuple[int, int], int]:
    """Return the nine central cells by their steps from the centre."""
    kernel, half = p["KERNEL"], p["KERNEL"] // 2
    return {(i, j): window[(half + i) * kernel + half + j] for i in (-1, 0, 1) for j in (-1, 0, 1)}


def core_steps(p: dict[str, int], window: Sequence[int]) -> tuple[int, int]:
    """Return how much more the core holds in its last row than in its first, and the same for columns."""
    near = core(p, window)
    return sum(i * code for (i, _), code in near.items()), sum(j * code for (_, j), code in near.items())


def sign(value: int) -> int:
    return (value > 0) - (value < 0)


def turn_of(p: dict[str, int], window: Sequence[int]) -> Turn:
    step_row, step_column = core_steps(p, window)
    return Turn(step_row < 0, step_column < 0, abs(step_column) > abs(step_row))


def turned_window(kernel: int, window: Sequence[int], turn: Turn) -> list[int]:
    rows = [list(window[start : start + kernel]) for start in range(0, kernel**2, kernel)]
    if turn.flip_rows:
        rows.reverse()
    if turn.flip_columns:
        for row in rows:
            row.reverse()
    if turn.swap:
        rows = [list(column) for column in zip(*rows, strict=True)]
    return [code for row in rows for code in row]


def turned_step(row: int, column: int, turn: Turn) -> tuple[int, int]:
    row = -row if turn.flip_rows else row
    column = -column if turn.flip_columns else column
    return (column, row) if turn.swap else (row, column)


def features(p: dict[str, int], entry: Entry, group: Sequence[Entry | None]) -> list[int]:
    """Return the features of one entry, as the definition says."""
    centre = max(1, entry.window[p["KERNEL"] ** 2 // 2])
    exponent = centre.bit_length() - 1
    top = (1 << p["FEATURE_BITS"]) - 1
    turn = turn_of(p, entry.window)
    window = turned_window(p["KERNEL"], entry.window, turn)
    cells = [min(code * 2 ** (p["FEATURE_BITS"] - 1 - p["HEADROOM"]) // 2**exponent, top) for code in window]
    there = {turned_step(other.row - entry.row, other.column - entry.column, turn) for other in group if other}
    steps = [(i, j) for i in range(-2, 3) for j in range(-2, 3) if (i, j) != (0, 0)]
    neighbours = [p[f"W{i * i + j * j}"] if (i, j) in there else 0 for i, j in steps]
    scale = [(1 << (p["FEATURE_BITS"] - p["HEADROOM"])) * (min(max(exponent, 4), 11) == here) for here in range(4, 12)]
    return [*cells, *neighbours, *scale]


def feature_beat(p: dict[str, int], entry: Entry, group: Sequence[Entry | None]) -> int:
    near = core(p, entry.window)
    exponent = max(1, near[0, 0]).bit_length() - 1
    words = features(p, entry, group)
    beat = (entry.row << bits_of(p["COLUMNS"])) + entry.column
    beat = (beat << 3) + turn_of(p, entry.window).bits
    beat = (beat << 4) + exponent
    beat = (beat << (p["BITS"] + 4)) + sum(near.values())
    return (beat << len(words) * p["FEATURE_BITS"]) + pack(words, p["FEATURE_BITS"])


def end_beat(p: dict[str, int]) -> int:
    bits = bits_of(p["ROWS"]) + bits_of(p["COLUMNS"]) + 3 + 4 + p["BITS"] + 4 + (p["KERNEL"] ** 2 + 32) * p["FEATURE_BITS"]
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


def even(p: dict[str, int], rng: random.Random, window: Sequence[int]) -> list[int]:
    """Return a window whose steps are 0 or of one size, or differ by 1 from that."""
    kernel, last = p["KERNEL"], p["KERNEL"] - 1
    rows_same, columns_same, diagonal = rng.choice([(1, 0, 0), (0, 1, 0), *[(0, 0, 1)] * 4, (1, 1, 1)])
    found = []
    for i in range(kernel):
        for j in range(kernel):
            row, column = min(i, last - i) if rows_same else i, min(j, last - j) if columns_same else j
            row, column = (min(row, column), max(row, column)) if diagonal else (row, column)
            found.append(window[row * kernel + column])
    found = turned_window(kernel, found, Turn(rng.random() < 0.5, rng.random() < 0.5, False))
    if rng.random() < 0.3:
        i, j = rng.choice([(-1, 0), (1, 0), (0, -1), (0, 1)])
        at = (kernel // 2 + i) * kernel + kernel // 2 + j
        found[at] += 1 if found[at] == 0 else -1
    return found


def some(p: dict[str, int], rng: random.Random, count: int) -> list[Entry | None]:
    """Return a group of `count` entries, most of them near each other, with codes of all sizes."""
    far = rng.random() < 0.3
    row0, column0 = (
        rng.choice([0, rng.randrange(p["ROWS"] - 3), p["ROWS"] - 5]),
        rng.choice([0, rng.randrange(p["COLUMNS"] - 3), p["COLUMNS"] - 5]),
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
        if rng.random() < 0.1:
            window = [(1 << p["BITS"]) - 1] * len(window)
        elif rng.random() < 0.7:
            window = even(p, rng, window)
        scale = rng.randrange(p["BITS"])
        centre = rng.choice([1 << scale, (2 << scale) - 1, (1 << scale) + rng.randrange(1 << scale)])
        window[len(window) // 2] = centre
        found.append(Entry(row, column, tuple(window)))
    return found + [None] * (p["KEEP"] - count)


@dataclass(frozen=True)
class Plan:
    """What a case is made of."""

    keep: int
    rows: int
    columns: int
    kernel: int
    bits: int
    feature: tuple[int, int]
    """Bits of a feature and those above the centre's leading bit."""
    groups: int = 40

    @property
    def parameters(self) -> dict[str, int]:
        feature_bits, headroom = self.feature
        p = {"KEEP": self.keep, "ROWS": self.rows, "COLUMNS": self.columns, "KERNEL": self.kernel, "BITS": self.bits}
        return p | {"FEATURE_BITS": feature_bits, "HEADROOM": headroom}


def given_groups(plan: Plan) -> list[list[Entry | None]]:
    p = plan.parameters
    rng = random.Random(str(p))
    counts = [plan.keep, 0, *(rng.randint(0, plan.keep) for _ in range(plan.groups - 2))]
    given = [some(p, rng, count) for count in counts]
    rng.shuffle(given[-1])  # a gap in the middle costs a cycle, nothing else
    if (first := given[0][0]) is not None:  # a centre of 0 counts as 1
        given[0][0] = Entry(first.row, first.column, (0,) * plan.kernel**2)
    return given


def case(plan: Plan) -> Case:
    p = plan.parameters
    weights = {name: weight % (1 << p["FEATURE_BITS"]) for name, weight in DEFAULTS.items()}
    given = given_groups(plan)
    results, leaves, starts = [], [], [0]
    for group in given:
        present = [number for number, entry in enumerate(group) if entry]
        steps = [*present, max(present, default=-1) + 1]
        leaves += [starts[-1] + LATENCY + step for step in steps]
        starts.append(starts[-1] + steps[-1] + 2)
        results.append([*(feature_beat(p | weights, entry, group) for entry in group if entry), end_beat(p)])
    taken = sum(start <= LATENCY for start in starts)  # while the registers fill
    return Case(
        PART,
        p | weights if p["FEATURE_BITS"] != 12 else p,
        plan.keep * (1 + bits_of(plan.rows) + bits_of(plan.columns) + plan.kernel**2 * plan.bits),
        end_beat(p).bit_length(),
        [[group_beat(p, group)] for group in given],
        results,
        leaves=leaves,
        capacity=(taken, taken),
    )


PLANS = [
    Plan(4, 51, 51, 7, 12, (12, 4), groups=40),
    Plan(9, 9, 8, 3, 12, (10, 1), groups=60),
    Plan(2, 6, 17, 3, 16, (9, 3), groups=110),
]
MORE_PLANS = [Plan(1, 5, 5, 3, 5, (12, 4)), Plan(3, 7, 7, 5, 8, (10, 2))]
"""Only for the lint."""


def test_the_model_itself() -> None:
    p = {"KEEP": 2, "ROWS": 9, "COLUMNS": 8, "KERNEL": 3, "BITS": 12, "FEATURE_BITS": 10, "HEADROOM": 1} | DEFAULTS
    one = Entry(3, 4, (0, 1, 70, 4095, 35, 36, 130, 127, 128))  # 35 / 32 * 256 = 280
    two = Entry(1, 5, (0, 0, 0, 0, 4095, 0, 0, 0, 5))
    assert core_steps(p, one.window) == (130 + 127 + 128 - 71, 70 + 36 + 128 - 4225)  # so columns are reversed, then rows
    words = features(p, one, [one, two])
    assert words[:9] == [560, 288, 1023, 8, 280, 1016, 0, 1023, 1023]
    assert words[9:33] == [0, 0, 0, 0, 0, 65, *[0] * 18]  # (-2, 1), (-2, -1), (-1, -2)
    assert words[33:] == [0, 512, *[0] * 6]
    assert features(p, two, [two, one])[:9] == [0, 0, 0, 0, 511, 0, 0, 0, 0]
    assert features(p, two, [two, one])[9:33] == [*[0] * 20, 65, 0, 0, 0]
    assert feature_beat(p, one, [one, two]) >> 41 * 10 == 0b0_0011_100_110_0101_0001001000001110
    letters = [*range(9)]
    assert turned_window(3, letters, Turn(True, False, False)) == [6, 7, 8, 3, 4, 5, 0, 1, 2]
    assert turned_window(3, letters, Turn(True, False, True)) == [6, 3, 0, 7, 4, 1, 8, 5, 2]
    assert turned_step(-1, 2, Turn(True, False, True)) == (2, 1)


def test_the_cases_hold_all_turns_and_ties() -> None:
    for plan in PLANS:
        p, seen = plan.parameters, set()
        for entry in (entry for group in given_groups(plan) for entry in group if entry):
            step_row, step_column = core_steps(p, entry.window)
            seen.add((sign(step_row), sign(step_column), sign(abs(step_column) - abs(step_row))))
        # Three orders of the steps' sizes for each pair of signs, and what has a step of 0.
        assert len(seen) == 4 * 3 + 2 + 2 + 1, (plan, seen)


def test_a_case_holds_each_place_of_a_neighbour_in_each_flip_and_swap() -> None:
    p, flips, swaps = PLANS[1].parameters, set(), set()
    for group in given_groups(PLANS[1]):
        for entry in filter(None, group):
            turn = turn_of(p, entry.window)
            for other in filter(None, group):
                step = other.row - entry.row, other.column - entry.column
                if max(map(abs, step)) <= 2:
                    flips.add((turn.flip_rows, turn.flip_columns, step))
                    swaps.add((turn.swap, step))
    assert (len(flips), len(swaps)) == (4 * 25, 2 * 25)


def test_what_is_turned_has_no_turn_left() -> None:
    """The network sees one of the eight: steps that are not negative, that of the rows at least as large."""
    for plan in PLANS:
        p = plan.parameters
        for entry in (entry for group in given_groups(plan) for entry in group if entry):
            assert turn_of(p, turned_window(plan.kernel, entry.window, turn_of(p, entry.window))).bits == 0


def test_lint(bench: Bench) -> None:
    bench.lint([case(plan) for plan in PLANS + MORE_PLANS])


def test_group(bench: Bench) -> None:
    check(bench.simulate([case(plan) for plan in PLANS]))


def test_an_error_is_caught(bench: Bench) -> None:
    context = "fourth_key, fourth_turn, fourth_exponent, fourth_sum"
    errors = [
        ("{third_exponent[3:2], 2'b00}", "{third_exponent[3:2], 2'b01}"),
        ("above || (|shifted_on", "(|shifted_on"),
        ("SQUARE == 4 ? W4 : SQUARE == 5 ? W5 : W8", "SQUARE == 5 ? W4 : SQUARE == 4 ? W5 : W8"),
        ("CELLS_AWAY = d - 2;", "CELLS_AWAY = 2 - d;"),
        ("row_distance[k*5+d] = position[KEY_BITS] && row", "row_distance[k*5+d] = row"),  # missing ones lie at row 0
        ("EXPONENT = w + 4;", "EXPONENT = w + 3;"),
        ("out_data <= {1'b1, {(OUT_BITS-1){1'b0}}};", f"out_data <= {{1'b1, {context}, features}};"),
        ("UPPER = (CENTRE - KERNEL + 2 * r - 1)", "UPPER = (CENTRE - KERNEL + r - 1)"),
        ("flip_rows = step_row[SUM_BITS];", "flip_rows = !step_row[SUM_BITS];"),
        ("flip_rows = step_row[SUM_BITS];", "flip_rows = step_row[SUM_BITS] || step_row == {(SUM_BITS+1){1'b0}};"),
        ("flip_columns = step_column[SUM_BITS];", "flip_columns = step_column[SUM_BITS] || !(|step_column);"),
        ("column_size > row_size", "column_size < row_size"),
        ("column_size > row_size", "column_size >= row_size"),
        ("column_size > row_size", "step_column[SUM_BITS-1:0] > step_row[SUM_BITS-1:0]"),
        ("{{(SUM_BITS-1){1'b0}}, flip_rows};", "{SUM_BITS{1'b0}};"),  # one's complement
        ("{column_size > row_size, flip_columns, flip_rows}", "{column_size > row_size, flip_rows, flip_columns}"),
        # The flips after the swap: where both are the same, that makes no difference.
        (
            "wire [BITS-1:0] row_there = second_window[(MIRROR_ROW*KERNEL+COLUMN)*BITS +: BITS];",
            "wire [BITS-1:0] row_there = second_window[(column_size > row_size ? ROW*KERNEL+MIRROR_COLUMN"
            " : MIRROR_ROW*KERNEL+COLUMN)*BITS +: BITS];",
        ),
        ("flip_rows ? second_found[ROW_THERE]", "flip_rows ? second_found[column_size > row_size ? COLUMN_THERE : ROW_THERE]"),
        ("second_window[(ROW*KERNEL+MIRROR_COLUMN)*BITS", "second_window[(ROW*KERNEL+COLUMN)*BITS"),
        ("second_window[(MIRROR_ROW*KERNEL+MIRROR_COLUMN)*BITS", "second_window[(MIRROR_ROW*KERNEL+COLUMN)*BITS"),
        ("third_window[(COLUMN*KERNEL+ROW)*BITS", "third_window[(ROW*KERNEL+COLUMN)*BITS"),
        ("MIRROR_ROW = (4 - ROW) * 5 + COLUMN;", "MIRROR_ROW = (w == 8 ? ROW : 4 - ROW) * 5 + COLUMN;"),
        ("MIRROR_COLUMN = ROW * 5 + 4 - COLUMN;", "MIRROR_COLUMN = ROW * 5 + (w == 3 ? COLUMN : 4 - COLUMN);"),
        ("BOTH_THERE = 23 - HERE;", "BOTH_THERE = w == 9 ? HERE : 23 - HERE;"),
        ("MIRROR = COLUMN * 5 + ROW;", "MIRROR = w == 1 ? w : COLUMN * 5 + ROW;"),
    ]
    assert bench.simulate_errors(errors, case(PLANS[1])) == [True] * len(errors)
