import random
from collections.abc import Sequence

from hls.tests.bench import Bench, Case, check
from hls.tests.words import pack

PART = "caloedge_collect"


def collected(p: dict[str, int], items: Sequence[int]) -> int:
    """Return the beat of an event, as the definition says."""
    return pack([(1 << p["WIDTH"]) + item for item in items[: p["KEEP"]]], 1 + p["WIDTH"])


def case(keep: int, width: int, more: int = 12) -> Case:
    """Return events with no item, as many as fit, more than fit, and at random."""
    p = {"KEEP": keep, "WIDTH": width}
    rng = random.Random(str(p))
    counts = [*range(keep + 3), 0, 0, 3 * keep + 1, *(rng.randrange(keep + 3) for _ in range(more))]
    items = [[rng.choice([0, (1 << width) - 1, rng.getrandbits(width)]) for _ in range(count)] for count in counts]
    # What stands beside `last` is anything.
    events = [[*event, (1 << width) + rng.getrandbits(width)] for event in items]
    results = [[collected(p, event)] for event in items]
    leaves, start = [], 0
    for event in events:
        leaves.append(start + len(event))  # one cycle after the last beat
        start = leaves[-1] + 1
    taken = len(events[0])
    return Case(PART, p, width + 1, keep * (width + 1), events, results, leaves=leaves, capacity=(taken, taken))


CASES = [case(4, 86), case(1, 1), case(2, 5), case(32, 3, more=0)]


def test_the_model_itself() -> None:
    p = {"KEEP": 3, "WIDTH": 4}
    assert collected(p, [0x5, 0x0]) == 0b00000_10000_10101
    assert collected(p, [1, 2, 3, 4]) == 0b10011_10010_10001
    assert collected(p, []) == 0


def test_lint(bench: Bench) -> None:
    bench.lint(CASES)


def test_collect(bench: Bench) -> None:
    check(bench.simulate(CASES))


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        ("in_ready = !out_valid;", "in_ready = !out_valid || out_ready;"),  # a beat of the next event is lost
        ("take && !last", "take"),  # what stands beside `last` is an item
        ("free <= free << 1;", "free <= free << 1 | free >> (KEEP - 1);"),  # the first entry again instead of none
        ("if (rst || (out_valid && out_ready))", "if (rst)"),  # entries of the event before
        ("if (rst || (out_valid && out_ready))", "if (out_valid && out_ready)"),  # entries of before the reset
        ("{1'b1, in_data[WIDTH-1:0]}", "{1'b0, in_data[WIDTH-1:0]}"),
        ("out_valid <= last;", "out_valid <= last && !free[0];"),  # nothing for an empty event
    ]
    assert bench.simulate_errors(errors, case(2, 5)) == [True] * len(errors)
