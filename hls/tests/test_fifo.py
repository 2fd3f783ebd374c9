import random
from dataclasses import replace

from hls.tests.bench import STREAM_TESTS, Bench, Case, check

PART = "caloedge_fifo"


def case(width: int, depth: int, words: int = 150) -> Case:
    rng = random.Random(f"{width} {depth}")
    events = [[rng.getrandbits(width)] for _ in range(words)]
    parameters = {"WIDTH": width, "DEPTH": depth}
    return Case(PART, parameters, width, width, events, events, cycles=1, latency=1, capacity=(depth, depth))


CASES = [case(1, 2), case(8, 3), case(33, 4), case(5, 7)]


def test_lint(bench: Bench) -> None:
    bench.lint(CASES)


def test_fifo(bench: Bench) -> None:
    check(bench.simulate(CASES))


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        ("FULL = DEPTH;", "FULL = DEPTH + 1;"),  # the oldest word is overwritten
        ("FULL = DEPTH;", "FULL = DEPTH - 1;"),  # one place is never used
        ("LAST = DEPTH - 1;", "LAST = DEPTH - 2;"),
        ("wire write = in_valid && in_ready;", "wire write = in_valid;"),
        ("wire read = out_valid && out_ready;", "wire read = out_ready;"),
        ("if (write && !read) count", "if (write) count"),
        ("if (read && !write) count", "if (read) count"),
        ("memory[read_address]", "memory[write_address]"),
        ("read_address <= {ADDRESS_BITS{1'b0}};\n            count", "count"),  # words of before the reset
        ("            count <= {COUNT_BITS{1'b0}};\n", ""),
    ]
    assert bench.simulate_errors(errors, case(8, 5)) == [True] * len(errors)


def test_a_word_that_is_overwritten_is_named(bench: Bench) -> None:
    """The bench tells a word that changed while it waited from one that is missing, and names the tests that see it."""
    rtl, (one_more,) = bench.copies_with_errors(PART, [("FULL = DEPTH;", "FULL = DEPTH + 1;")])
    ended = bench.simulate([replace(case(8, 5), part=one_more)], rtl)
    assert list(ended.failed) == [name for name in STREAM_TESTS if name != "full_speed"]
    assert "a beat that was not taken has changed" in ended.failed["random_stalls"]
