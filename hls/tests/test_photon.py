import random
from dataclasses import dataclass

from hls.tests.bench import Bench, Case, check
from hls.tests.test_group import Turn, turned_step
from hls.tests.words import pack, unpack

PART = "caloedge_photon"
NAMES = ["ROWS", "COLUMNS", "BITS", "OUT_BITS", "FRACTION", "POSITION_BITS", "ENERGY_BITS", "THRESHOLD"]


def key_bits(p: dict[str, int]) -> tuple[int, int]:
    return (p["ROWS"] - 1).bit_length(), (p["COLUMNS"] - 1).bit_length()


@dataclass(frozen=True)
class Member:
    """What comes besides the outputs."""

    row: int
    column: int
    turn: int
    """1 for rows in reverse, 2 for columns in reverse, 4 for both exchanged after that."""
    exponent: int
    sum9: int


def turned_back(dx: int, dy: int, turn: int) -> tuple[int, int]:
    """Return offsets as they lie in the event."""
    if turn & 4:
        dx, dy = dy, dx
    return -dx if turn & 1 else dx, -dy if turn & 2 else dy


def photon(p: dict[str, int], member: Member, outputs: list[int]) -> int | None:
    """Return the beat of a photon, None if it is too faint, as the definition says."""
    dx, dy, e, seed = outputs
    if seed < p["THRESHOLD"]:
        return None
    dx, dy = turned_back(dx, dy, member.turn)
    unit = 2 ** p["FRACTION"]
    energy = member.sum9 * 2 ** (p["FRACTION"] - 5) + e * 2 ** (max(4, member.exponent) - 4)
    words = [
        (seed, p["OUT_BITS"]),
        (energy, p["ENERGY_BITS"]),
        (member.column * unit + unit // 2 + dy, p["POSITION_BITS"]),
        (member.row * unit + unit // 2 + dx, p["POSITION_BITS"]),
    ]
    beat, at = 0, 0
    for word, bits in words:
        beat += (word % 2**bits) << at
        at += bits
    return beat


def beat(p: dict[str, int], member: Member, outputs: list[int], last: int = 0) -> int:
    row_bits, column_bits = key_bits(p)
    key = ((last << row_bits) + member.row << column_bits) + member.column
    head = ((key << 3) + member.turn << 4) + member.exponent
    return ((head << (p["BITS"] + 4)) + member.sum9 << 4 * p["OUT_BITS"]) + pack(outputs, p["OUT_BITS"])


def given_beats(values: tuple[int, ...], beats: int = 800) -> list[tuple[Member, list[int], bool]]:
    """Return members, their outputs, and which of them only end an event."""
    p = dict(zip(NAMES, values, strict=True))
    rng = random.Random(str(values))
    top = 1 << (p["OUT_BITS"] - 1)
    given = []
    for number in range(beats):
        outputs = [rng.choice([-top, top - 1, 0, rng.randrange(-top, top)]) for _ in range(4)]
        outputs[3] = rng.choice([outputs[3], p["THRESHOLD"] - 1, p["THRESHOLD"], p["THRESHOLD"] + 1])
        row, column = (rng.choice([0, count - 1, rng.randrange(count)]) for count in (p["ROWS"], p["COLUMNS"]))
        sum9 = rng.choice([0, 9 * ((1 << p["BITS"]) - 1), rng.getrandbits(p["BITS"] + 4)])
        member = Member(row, column, rng.randrange(8), rng.randrange(16), sum9)
        given.append((member, outputs, number == 0 or rng.random() < 0.2))
    return given


def case(values: tuple[int, ...]) -> Case:
    p = dict(zip(NAMES, values, strict=True))
    events, results, leaves = [], [], []
    for number, (member, outputs, end) in enumerate(given_beats(values)):
        if end:
            found: int | None = 1 << (2 * p["POSITION_BITS"] + p["ENERGY_BITS"] + p["OUT_BITS"])
        else:
            found = photon(p, member, unpack(pack(outputs, p["OUT_BITS"]), 4, p["OUT_BITS"], signed=True))
        events.append([beat(p, member, outputs, last=end)])
        results.append([] if found is None else [found])
        leaves += [] if found is None else [number + 3]
    out_bits = 1 + 2 * p["POSITION_BITS"] + p["ENERGY_BITS"] + p["OUT_BITS"]
    in_bits = 1 + sum(key_bits(p)) + 3 + 4 + p["BITS"] + 4 + 4 * p["OUT_BITS"]
    return Case(PART, p, in_bits, out_bits, events, results, leaves=leaves)


PLANS = [
    (51, 51, 12, 16, 10, 18, 28, 100),
    (9, 8, 6, 9, 5, 10, 22, -3),
    (5, 3, 8, 12, 7, 9, 8, 0),  # results are cut to few bits
    (2, 17, 4, 20, 12, 30, 40, -(1 << 18)),
]


def test_the_model_itself() -> None:
    p = dict(zip(NAMES, (51, 51, 12, 16, 8, 18, 24, 5), strict=True))
    words = [5, 300 * 8 + -3 * 4, 50 * 256 + 128 + 7, 128 - 200]
    packed = sum((word % 2**bits) << at for word, bits, at in zip(words, (16, 24, 18, 18), (0, 16, 40, 58), strict=True))
    assert photon(p, Member(0, 50, 0, 6, 300), [-200, 7, -3, 5]) == packed
    assert photon(p, Member(0, 50, 0b101, 6, 300), [7, 200, -3, 5]) == packed  # in the event (200, 7), rows in reverse
    assert photon(p, Member(0, 50, 0b110, 6, 300), [-7, -200, -3, 5]) == packed
    assert photon(p, Member(0, 50, 0, 6, 300), [-200, 7, -3, 4]) is None


def test_turning_back_undoes_the_turn() -> None:
    """The steps of a member's neighbour, as `caloedge_group` turns them, come back."""
    for turn in range(8):
        forth = turned_step(2, -1, Turn(turn & 1 > 0, turn & 2 > 0, turn & 4 > 0))
        assert turned_back(*forth, turn) == (2, -1)


def test_the_cases_hold_all_turns() -> None:
    for values in PLANS:
        threshold, lowest = values[NAMES.index("THRESHOLD")], -(1 << values[NAMES.index("OUT_BITS")] - 1)
        photons = [(member, outputs) for member, outputs, end in given_beats(values) if not end and outputs[3] >= threshold]
        for axis in (0, 1):
            assert {member.turn for member, outputs in photons if outputs[axis] == lowest} == set(range(8))


def test_lint(bench: Bench) -> None:
    bench.lint([case(values) for values in PLANS])


def test_photon(bench: Bench) -> None:
    check(bench.simulate([case(values) for values in PLANS]))


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        ("seed_wide >= THRESHOLD", "seed_wide > THRESHOLD"),
        ("last || seed_wide", "seed_wide"),
        ("exponent - 4'd4;", "exponent - 4'd3;"),
        ("exponent < 4'd4 ? 4'd0 :", ""),
        ("{{ENERGY_BITS{e[OUT_BITS-1]}}, e}", "{{ENERGY_BITS{1'b0}}, e}"),
        ("along_rows = swap ? dy : dx;", "along_rows = dx;"),
        ("along_columns = swap ? dx : dy;", "along_columns = dy;"),
        ("along_rows = swap ? dy : dx;", "along_rows = swap ? dx : dy;"),
        ("^ {POSITION_BITS{flip_rows}};", ";"),
        ("^ {POSITION_BITS{flip_columns}};", "^ {POSITION_BITS{swap ? flip_rows : flip_columns}};"),  # the flip before the swap
        ("row_offset + {{(POSITION_BITS-1){1'b0}}, flip_rows};", "row_offset;"),
        ("column_offset + {{(POSITION_BITS-1){1'b0}}, flip_columns};", "column_offset;"),
        # The most negative output negated in as many bits as it has: it stays what it is.
        (
            "{{POSITION_BITS{along_rows[OUT_BITS-1]}}, along_rows}",
            "{{POSITION_BITS{along_rows[OUT_BITS-1] && !(flip_rows && along_rows == {1'b1, {(OUT_BITS-1){1'b0}}})}}, along_rows}",
        ),
        ("{{POSITION_BITS{along_columns[OUT_BITS-1]}}, along_columns}", "{{POSITION_BITS{1'b0}}, along_columns}"),
        ("row, MIDDLE}", "row, ONES}"),
        ("unused_sum[ENERGY_BITS-1:0] << (FRACTION - 5)", "unused_sum[ENERGY_BITS-1:0] << (FRACTION - 4)"),
    ]
    assert bench.simulate_errors(errors, case(PLANS[1])) == [True] * len(errors)
