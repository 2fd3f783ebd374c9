import random

from hls.tests.bench import Bench, Case, check
from hls.tests.words import pack


def cases(width: int, beats: int) -> list[Case]:
    """Return both parts with the same words, one way and the other."""
    rng = random.Random(f"{width} {beats}")
    narrow = [[rng.getrandbits(width) for _ in range(beats)] for _ in range(60)]
    wide = [[pack(words, width)] for words in narrow]
    parameters = {"WIDTH": width, "BEATS": beats}
    total = width * beats
    return [
        Case("caloedge_split", parameters, width * beats, width, wide, narrow, cycles=beats, latency=1, capacity=(1, 1)),
        Case("caloedge_join", parameters, width, total, narrow, wide, cycles=beats, latency=beats, capacity=(beats, beats)),
    ]


CASES = [*cases(1, 1), *cases(9, 1), *cases(1, 2), *cases(8, 3), *cases(13, 8)]


def test_lint(bench: Bench) -> None:
    bench.lint(CASES)


def test_split_and_join(bench: Bench) -> None:
    check(bench.simulate(CASES))


def test_an_error_of_split_is_caught(bench: Bench) -> None:
    errors = [
        ("words[WIDTH-1:0];", "words[BEATS*WIDTH-1:(BEATS-1)*WIDTH];"),  # the highest word first
        ("!out_valid || (out_ready && last)", "out_ready && last"),
        ("!out_valid || (out_ready && last)", "!out_valid"),  # a gap between events
        ("!out_valid || (out_ready && last)", "!out_valid || last"),
        ("if (rst) out_valid <= 1'b0;\n        else if", "if"),
        ("out_valid <= in_valid;", "out_valid <= 1'b1;"),
        ("AFTER_FIRST = BEATS - 1;", "AFTER_FIRST = BEATS;"),
        ("else if (out_ready) begin", "else begin"),
        ("remaining <= remaining - 1'b1;", "remaining <= remaining - {{(COUNT_BITS-1){1'b0}}, out_data[0]};"),
    ]
    assert bench.simulate_errors(errors, cases(8, 3)[0]) == [True] * len(errors)


def test_an_error_of_join_is_caught(bench: Bench) -> None:
    errors = [
        ("{in_data, words[BEATS*WIDTH-1:WIDTH]}", "{words[(BEATS-1)*WIDTH-1:0], in_data}"),  # the first word highest
        ("!out_valid || out_ready;", "!out_valid;"),  # a gap between events
        ("!out_valid || out_ready;", "1'b1;"),
        ("if (rst) out_valid <= 1'b0;\n        else if", "if"),
        ("out_valid <= in_valid && last;", "out_valid <= last;"),
        ("out_valid <= in_valid && last;", "out_valid <= in_valid;"),
        ("LAST = BEATS - 1;", "LAST = BEATS - 2;"),
        ("if (rst) collected <= {COUNT_BITS{1'b0}};\n                else if", "if"),  # words of before the reset
        ("last ? {COUNT_BITS{1'b0}} : collected + 1'b1", "collected + 1'b1"),
        ("wire take = in_valid && in_ready;", "wire take = in_valid;"),
    ]
    assert bench.simulate_errors(errors, cases(8, 3)[1]) == [True] * len(errors)
