import random

from hls.tests.bench import RTL, STREAM_TESTS, Bench, Case, check

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


def test_a_wrong_full_flag_is_caught(bench: Bench) -> None:
    text = (RTL / f"{PART}.v").read_text()
    wrong = text.replace("FULL = DEPTH;", "FULL = DEPTH + 1;")
    assert wrong != text
    rtl = bench.folder / "rtl"
    rtl.mkdir()
    (rtl / f"{PART}.v").write_text(wrong)
    ended = bench.simulate([case(8, 5)], rtl=rtl)
    assert list(ended.failed) == [name for name in STREAM_TESTS if name != "full_speed"]
    assert "a beat that was not taken has changed" in ended.failed["random_stalls"]
