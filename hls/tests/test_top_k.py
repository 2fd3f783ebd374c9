import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass

from hls.tests.bench import Bench, Case, check
from hls.tests.words import pack

PART = "caloedge_top_k"
# One stream of {end, result, data} stands for both: an end may come together with the last result.
WIRING = """\
    wire NAME_result_ready;
    wire NAME_end_ready;
    assign NAME_in_ready = (!NAME_in_data[BITS] || NAME_result_ready) && (!NAME_in_data[BITS+1] || NAME_end_ready);
"""


@dataclass(frozen=True)
class Result:
    """What is known of one window."""

    score: int
    key: int
    payload: int


def group(p: dict[str, int], results: Sequence[Result]) -> int:
    """Return the beat of the best results, as the definition says."""
    good = [result for result in results if result.score >= p["THRESHOLD"]]
    best = sorted(good, key=lambda result: (-result.score, result.key))[: p["KEEP"]]
    entries = [((1 << p["KEY_BITS"]) + result.key << p["WIDTH"]) + result.payload for result in best]
    return pack(entries, 1 + p["KEY_BITS"] + p["WIDTH"])


def stream(p: dict[str, int], results: Sequence[Result], together: bool) -> list[int]:
    """Return the input beats of an event."""
    bits = p["SCORE_BITS"] + p["KEY_BITS"] + p["WIDTH"]
    beats = [
        (1 << bits) + (((result.score % (1 << p["SCORE_BITS"])) << p["KEY_BITS"]) + result.key << p["WIDTH"]) + result.payload
        for result in results
    ]
    if together and beats:
        beats[-1] += 2 << bits
        return beats
    return [*beats, 2 << bits]


def some(p: dict[str, int], rng: random.Random, count: int) -> list[Result]:
    """Return results with different keys, most of them with the same few scores."""
    top = 1 << (p["SCORE_BITS"] - 1)
    scores = [-top, top - 1, max(-top, p["THRESHOLD"] - 1), p["THRESHOLD"], p["THRESHOLD"], rng.randrange(-top, top)]
    keys = {0, (1 << p["KEY_BITS"]) - 1, *(rng.getrandbits(p["KEY_BITS"]) for _ in range(count))}
    return [
        Result(rng.choice(scores), key, rng.getrandbits(p["WIDTH"])) for key in rng.sample(sorted(keys), min(count, len(keys)))
    ]


def case(keep: int, score_bits: int, key_bits: int, width: int, threshold: int, ordered: int = 4) -> Case:
    """Return events of all sizes, then `ordered` results in every order in which they can arrive."""
    p = {"KEEP": keep, "SCORE_BITS": score_bits, "KEY_BITS": key_bits, "WIDTH": width, "THRESHOLD": threshold}
    rng = random.Random(str(p))
    sets = [some(p, rng, count) for count in (*range(keep + 3), 0, 12, 1, 12)]
    same = [
        Result(result.score if number < 2 else threshold, result.key, result.payload)
        for number, result in enumerate(sets[keep + 1])
    ]
    sets += [list(order) for order in itertools.permutations(same[:ordered])]
    events = [stream(p, results, together=rng.random() < 0.5) for results in sets]
    leaves, start = [], 0
    for event in events:
        leaves.append(start + len(event) + 1)
        start = leaves[-1] + 1
    bits = score_bits + key_bits + width
    return Case(
        PART,
        p,
        bits + 2,
        keep * (1 + key_bits + width),
        events,
        [[group(p, results)] for results in sets],
        leaves=leaves,
        capacity=(len(events[0]), len(events[0])),
        connections={
            "in_valid": f"NAME_in_valid && NAME_in_data[{bits}]",
            "in_ready": "NAME_result_ready",
            "in_data": f"NAME_in_data[{bits - 1}:0]",
        },
        more_ports=(f".end_valid(NAME_in_valid && NAME_in_data[{bits + 1}])", ".end_ready(NAME_end_ready)"),
        wiring=WIRING.replace("BITS+1", str(bits + 1)).replace("BITS", str(bits)),
    )


CASES = [
    case(4, 16, 12, 588, 100, ordered=5),
    case(2, 5, 3, 4, -3),
    case(1, 3, 4, 1, -4),  # every score counts
    case(3, 8, 6, 9, 127),  # only the largest
]


def test_the_model_itself() -> None:
    p = {"KEEP": 3, "SCORE_BITS": 4, "KEY_BITS": 4, "WIDTH": 3, "THRESHOLD": -2}
    results = [Result(-2, 5, 1), Result(-3, 0, 2), Result(7, 9, 3), Result(-2, 4, 4), Result(0, 15, 5)]
    assert group(p, results) == pack([0b1_1001_011, 0b1_1111_101, 0b1_0100_100], 8)
    assert group(p, results[:2]) == 0b1_0101_001


def test_lint(bench: Bench) -> None:
    bench.lint(CASES)


def test_top_k(bench: Bench) -> None:
    check(bench.simulate(CASES))


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        ("score_wide >= THRESHOLD;", "score_wide > THRESHOLD;"),
        ("candidate_rank > rank;", "candidate_rank[RANK_BITS-1:KEY_BITS] > rank[RANK_BITS-1:KEY_BITS];"),  # ties as they come
        ("candidate_score, ~candidate[", "candidate_score, candidate["),
        ("<= score ^ SIGN;", "<= score;"),
        ("if (rst || leave)", "if (rst)"),
        ("!ending && !out_valid;\n    assign end_ready", "!out_valid;\n    assign end_ready"),  # a result of the next event
    ]
    assert bench.simulate_errors(errors, case(2, 5, 3, 4, -3)) == [True] * len(errors)
