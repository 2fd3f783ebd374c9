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


def test_an_error_is_caught(bench: Bench) -> None:
    split, join = cases(8, 3)
    errors = [
        ("(out_ready && last)", "out_ready"),  # words are overwritten
        ("AFTER_FIRST = BEATS - 1", "AFTER_FIRST = BEATS - 2"),  # the last word is lost
        ("remaining - 1'b1", "remaining"),
        ("if (in_ready) out_valid <= in_valid", "if (in_ready) out_valid <= 1'b1"),  # words that nobody gave
    ]
    assert bench.simulate_errors(split, errors) == [True] * len(errors)
    errors = [
        ("!out_valid || out_ready", "1'b1"),  # a wide beat is overwritten
        ("LAST = BEATS - 1", "LAST = BEATS - 2"),  # too few words
        ("in_valid && last", "last"),  # a beat before its last word
        ("{in_data, words[BEATS*WIDTH-1:WIDTH]}", "{words[(BEATS-1)*WIDTH-1:0], in_data}"),  # the first word on top
    ]
    assert bench.simulate_errors(join, errors) == [True] * len(errors)
