import random
from collections.abc import Sequence

from hls.tests.bench import Bench, Case, check
from hls.tests.words import pack

PART = "caloedge_extract"
Event = Sequence[Sequence[int]]
"""Codes by row and column."""


def beat(p: dict[str, int], row: int, column: int, window: int, last: int = 0) -> int:
    column_bits = (p["COLUMNS"] - 1).bit_length()
    key = ((last << (p["ROWS"] - 1).bit_length()) + row << column_bits) + column
    return (key << p["KERNEL"] ** 2 * p["BITS"]) + window


def windows(p: dict[str, int], event: Event) -> list[list[int]]:
    """Return the beats of an event by row of the cell, cell by cell as the definition says; the end's in one more row."""
    half = p["KERNEL"] // 2
    rows: list[list[int]] = []
    for row in range(p["ROWS"]):
        rows.append([])
        for column in range(p["COLUMNS"]):
            inside = half <= row < p["ROWS"] - half and half <= column < p["COLUMNS"] - half
            if inside and event[row][column] > p["THRESHOLD"]:
                around = [event[row + i][column + j] for i in range(-half, half + 1) for j in range(-half, half + 1)]
                rows[-1].append(beat(p, row, column, pack(around, p["BITS"])))
    return [*rows, [beat(p, 0, 0, 0, last=1)]]


def leaves(p: dict[str, int], events: Sequence[Event]) -> list[int]:
    """Return the cycle in which each beat leaves: a row takes as long as it has windows, but at least 1 cycle."""
    half, taken, found = p["KERNEL"] // 2, 0, []
    for event in events:
        counts = [len(beats) for beats in windows(p, event)]
        for bottom in range(p["ROWS"]):
            count = counts[bottom - half] if bottom >= half else 0
            end = bottom == p["ROWS"] - 1
            found += [taken + 4 + i for i in range(count + end)]
            taken += count + 1 if end else max(1, count)
    return found


def events_of(p: dict[str, int], rng: random.Random, random_events: int) -> list[Event]:
    """Return an event whose upper rows are full, an empty one, two with cells at the borders, and random ones."""
    rows, columns, half, top = range(p["ROWS"]), range(p["COLUMNS"]), p["KERNEL"] // 2, (1 << p["BITS"]) - 1
    full = [[top if row < p["KERNEL"] + 1 else 0 for _ in columns] for row in rows]
    empty = [[rng.randint(0, p["THRESHOLD"]) for _ in columns] for _ in rows]
    border = [
        [0 if half <= row < len(rows) - half and half <= column < len(columns) - half else top for column in columns]
        for row in rows
    ]
    corners = [[column % (len(columns) - 1 - 2 * half or 1) == half for column in columns] for _ in rows]
    edges = [[top - at % 3 if corners[row][at] and row in (half, len(rows) - 1 - half) else 0 for at in columns] for row in rows]
    found: list[Event] = [empty, border, edges]
    for number in range(random_events):
        density = (0.02, 0.1, 0.5, 1.0)[number % 4]
        codes = [p["THRESHOLD"] + 1, top]
        low = [0, p["THRESHOLD"]]
        found.append(
            [
                [rng.choice([*codes, rng.randint(*codes)]) if rng.random() < density else rng.choice(low) for _ in columns]
                for _ in rows
            ]
        )
    rng.shuffle(found)
    return [full, *found]


def case(rows: int, columns: int, kernel: int, bits: int, threshold: int, random_events: int = 4) -> Case:
    p = {"ROWS": rows, "COLUMNS": columns, "KERNEL": kernel, "BITS": bits, "THRESHOLD": threshold}
    events = events_of(p, random.Random(str(p)), random_events)
    beats = [[pack(row, bits) for row in event] for event in events]
    results = [[beat for row in windows(p, event) for beat in row] for event in events]
    out_bits = 1 + (rows - 1).bit_length() + (columns - 1).bit_length() + kernel**2 * bits
    return Case(
        PART,
        p,
        columns * bits,
        out_bits,
        beats,
        results,
        leaves=leaves(p, events),
        capacity=(kernel, kernel) if columns - kernel > 4 else (0, 1 << 30),  # the first event is full
    )


CASES = [
    case(51, 51, 7, 12, 16, random_events=1),
    case(9, 8, 3, 12, 16),
    case(3, 3, 3, 2, 0),  # one window
    case(4, 11, 3, 6, 40),  # 9 columns of windows: the ninth is chosen in another way; an even number of rows
]
MORE_CASES = [case(5, 20, 5, 4, 7), case(5, 5, 5, 1, 0)]
"""Only for the lint."""


def test_the_model_itself() -> None:
    p = {"ROWS": 4, "COLUMNS": 4, "KERNEL": 3, "BITS": 4, "THRESHOLD": 7}
    event = [[9, 0, 1, 2], [3, 4, 8, 5], [6, 9, 7, 1], [2, 3, 4, 9]]
    assert windows(p, event) == [[], [0x0_6_179584210], [0x0_9_432796843], [], [0x1_0_000000000]]
    assert leaves(p, [event, event]) == [6, 7, 8, 11, 12, 13]


def test_lint(bench: Bench) -> None:
    bench.lint(CASES + MORE_CASES)


def test_extract(bench: Bench) -> None:
    check(bench.simulate(CASES))


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        ("code > THRESHOLD;", "code >= THRESHOLD;"),
        ("bottom >= FIRST_COMPLETE[ROW_BITS-1:0];", "bottom > FIRST_COMPLETE[ROW_BITS-1:0];"),
        (" & {POSITIONS{complete}} : waiting;", " : waiting;"),  # rows of the event before are seen
        ("<= {STRETCH*BITS{1'b0}};", "<= chosen;"),  # the beat with last is not empty
        ("fine <= place[2:0];", "fine <= place[2:0] | 3'd4;"),
        ("waiting <= others;", "waiting <= others & (others - 1'b1);"),  # every other window is forgotten
    ]
    assert bench.simulate_errors(errors, case(5, 11, 3, 6, 9, random_events=2)) == [True] * len(errors)
