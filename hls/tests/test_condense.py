import random

from hls.tests import flows
from hls.tests.bench import Bench
from hls.tests.flows import Flow
from hls.tests.graphs import Node, codes, condense, hits, node_word
from hls.tests.words import pack

PART = "caloedge_condense"
NAMES = ("NODES", "PAR", "DIMENSIONS", "BITS", "SCORE_BITS", "APART", "MOST")


def events(p: dict[str, int], threshold: int, rng: random.Random, count: int) -> list[list[Node]]:
    """Return events of all kinds; padding has good scores and lies near to hits."""
    nodes, apart, score_bits = p["NODES"], p["APART"], p["SCORE_BITS"]
    ways = codes(p["BITS"], (1, apart // p["DIMENSIONS"], apart // p["DIMENSIONS"] + 1, apart - 1, apart))
    top = 1 << (score_bits - 1)
    few = [min(max(threshold + step, -top), top - 1) for step in (-1, 0, 0, 1, 2, 3)]
    special = [0, 1, min(p["MOST"], nodes), min(p["MOST"] + 1, nodes), nodes, nodes, nodes]
    found = []
    for number in range(count):
        way = ways[number % len(ways)]
        scores = rng.choice((few, [few[-1]], range(-top, top), range(max(threshold, -top), top)))
        hit = hits(nodes, special[number] if number < len(special) else rng.randint(1, nodes), rng)
        found.append([Node(here, [way(rng) for _ in range(p["DIMENSIONS"])], rng.choice(scores)) for here in hit])
    return found


def flow(*numbers: int, threshold: int = 0, count: int = 40) -> Flow:
    """Return events; a result is {overflow, count, present, indices}."""
    p = dict(zip(NAMES, numbers, strict=True))
    rng = random.Random(f"{p} {threshold}")
    index_bits, count_bits, most = (p["NODES"] - 1).bit_length(), p["MOST"].bit_length(), p["MOST"]
    beats: list[int] = []
    results = []
    for event in events(p, threshold, rng, count):
        words = []
        for node in event:
            point_bits = p["DIMENSIONS"] * p["BITS"]
            score = node.score % (1 << p["SCORE_BITS"])
            point = node_word(node, p["BITS"]) % (1 << point_bits)
            words.append((((int(node.hit) << p["SCORE_BITS"]) + score) << point_bits) + point)
        word_bits = 1 + p["SCORE_BITS"] + p["DIMENSIONS"] * p["BITS"]
        beats += [pack(words[at : at + p["PAR"]], word_bits) for at in range(0, p["NODES"], p["PAR"])]
        picked, overflow = condense(event, threshold, p["APART"], most)
        status = (int(overflow) << count_bits) + len(picked)
        result = (((status << most) + (1 << len(picked)) - 1) << (most * index_bits)) + pack(picked, index_bits)
        results.append((len(beats) - 1, most * 2 + 3, result))
    body = f"""\
    PART #({flows.values(p, {"THRESHOLD": f"64'sh{threshold % 2**64:x}"})}) NAME (
        .clk(clk), .rst(NAME_rst), .in_valid(NAME_in_valid), .in_data(NAME_in_data), .out_valid(NAME_out_valid),
        .out_indices(NAME_out_data[0 +: {most * index_bits}]), .out_present(NAME_out_data[{most * index_bits} +: {most}]),
        .out_count(NAME_out_data[{most * (index_bits + 1)} +: {count_bits}]),
        .out_overflow(NAME_out_data[{most * (index_bits + 1) + count_bits}]));
"""
    in_bits = p["PAR"] * (1 + p["SCORE_BITS"] + p["DIMENSIONS"] * p["BITS"])
    return Flow(PART, p, body, in_bits, most * (index_bits + 1) + count_bits + 1, beats, results)


def any_flow(seed: int) -> Flow:
    rng = random.Random(f"condense {seed}")
    par, score_bits, dimensions = rng.randint(1, 5), rng.randint(1, 12), rng.randint(1, 5)
    nodes, top = par * rng.randint(2 if par == 1 else 1, 4), 1 << (score_bits - 1)
    numbers = (nodes, par, dimensions, rng.randint(2, 9), score_bits, rng.randint(1, 90), rng.randint(1, 5))
    return flow(*numbers, threshold=rng.randint(-top, top - 1))


FLOWS = [
    flow(32, 2, 3, 16, 16, 1024, 16, count=20),
    flow(32, 1, 2, 8, 8, 32, 16, threshold=-5, count=12),
    flow(32, 4, 1, 8, 8, 32, 9, threshold=5),  # 3 units
    flow(16, 8, 3, 6, 6, 9, 4),  # 4 units
    flow(128, 4, 2, 16, 16, 1024, 8, count=10),
    flow(24, 3, 2, 8, 8, 40, 3),  # no power of two
    flow(12, 3, 5, 8, 8, 40, 7),
    flow(4, 4, 1, 4, 4, 3, 1),  # one beat, one pick
    flow(8, 2, 2, 5, 5, 4, 8, threshold=-16),  # every score counts
    flow(8, 2, 2, 5, 5, 1, 8, threshold=15),  # only the largest, and all that lie apart at all
    *[any_flow(seed) for seed in range(5)],
]


def test_the_model_itself() -> None:
    event = [
        Node(True, [0], 5),
        Node(True, [3], 5),
        Node(False, [8], 9),
        Node(True, [9], 7),
        Node(True, [13], 6),
        Node(True, [40], 1),
    ]
    assert condense(event, 2, 3, 4) == ([3, 4, 0, 1], False)
    assert condense(event, 1, 4, 2) == ([3, 4], True)
    assert condense(event, 1, 5, 9) == ([3, 0, 5], False)


def test_lint(bench: Bench) -> None:
    flows.lint(bench, [case for case in FLOWS if case.parameters["NODES"] < 128])


def test_condense(bench: Bench) -> None:
    flows.simulate(bench, FLOWS)


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        (".REACH(APART), .PIPELINED(0)", ".REACH(APART + 1), .PIPELINED(0)"),  # a node that is as far as that dies
        (
            "assign unused_beside[n] = scores_in[n*SCORE_BITS +: SCORE_BITS] >=",
            "assign unused_beside[n] = scores_in[n*SCORE_BITS +: SCORE_BITS] >",
        ),  # ties within a beat
        (
            "assign unused_earlier[n] = scores[n*SCORE_BITS +: SCORE_BITS] >=",
            "assign unused_earlier[n] = scores[n*SCORE_BITS +: SCORE_BITS] >",
        ),  # ties between beats
        ("word[NODE_BITS-1] && score_wide", "score_wide"),  # padding takes others with it
        ("score_wide >= THRESHOLD;", "score_wide > THRESHOLD;"),
        ("= score ^ SIGN;", "= score;"),
        ("left <= alive & stays;", "left <= alive;"),  # the last one picked is left
        ("UNITS = (BUSY + BEATS - 1) / BEATS;", "UNITS = (BUSY - 1) / BEATS;"),  # a unit too few
        ("alive <= alive & stays;", "alive <= alive & (stays | (alive & ~(alive - 1'b1)));"),  # the lowest never dies
        ("if (load) begin\n                    own_points", "if (complete) begin\n                    own_points"),
        ("first = alive & ~after_former", "first = ~after_former"),
        ("(ONE_NODE << (n - PLACE)) - ONE_NODE", "((ONE_NODE << (n - PLACE)) - ONE_NODE) & ~ONE_NODE"),  # one is missing
    ]
    assert flows.survivors(bench, PART, errors, flow(9, 3, 2, 6, 5, 9, 4, threshold=-9)) == []
