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
