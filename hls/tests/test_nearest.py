import random

from hls.tests import flows
from hls.tests.bench import Bench
from hls.tests.flows import Flow
from hls.tests.graphs import Node, codes, hits, nearest, node_word
from hls.tests.words import pack

PART = "caloedge_nearest"
NAMES = ("NODES", "DIMENSIONS", "BITS", "REACH", "K", "LEVELS_PER_STAGE")


def latency(p: dict[str, int]) -> int:
    """Return the cycles from a node that asks to its keys."""
    sort_bits, index_bits = (p["K"] - 1).bit_length(), (p["NODES"] - 1).bit_length()
    merges = index_bits - sort_bits
    levels = sort_bits * (sort_bits + 1) // 2 + ((merges - 1) * (sort_bits + 1) + 1 if merges else 0)
    return 3 + -(-levels // p["LEVELS_PER_STAGE"])


def events(p: dict[str, int], rng: random.Random, count: int) -> list[list[Node]]:
    """Return events with all numbers of hits that are special; padding has coordinates, too."""
    nodes, k, reach = p["NODES"], p["K"], p["REACH"]
    ways = codes(p["BITS"], (1, reach // p["DIMENSIONS"], reach - 1, reach))
    special = [0, 1, min(k, nodes), min(k + 1, nodes), nodes]
    found = []
    for number in range(count):
        way = ways[number % len(ways)]
        hit = hits(nodes, special[number] if number < len(special) else rng.randint(1, nodes), rng)
        found.append([Node(here, [way(rng) for _ in range(p["DIMENSIONS"])]) for here in hit])
    return found


def flow(*numbers: int, count: int = 24, part: str = PART) -> Flow:
    """Return events, each asked by all or a few of its nodes in a row."""
    p = dict(zip(NAMES, numbers, strict=True))
    rng = random.Random(str(p))
    point_bits, index_bits, distance_bits = p["DIMENSIONS"] * p["BITS"], (p["NODES"] - 1).bit_length(), p["REACH"].bit_length()
    event_bits, key_bits = p["NODES"] * (1 + point_bits), distance_bits + index_bits
    beats, results = [], []
    for event in events(p, rng, count):
        word = pack([node_word(node, p["BITS"]) for node in event], 1 + point_bits)
        for index in rng.sample(range(p["NODES"]), min(p["NODES"], 12)):
            query = pack(event[index].coordinates, p["BITS"])
            keys = [(how_far << index_bits) + other for how_far, other in nearest(event, index, p["K"], p["REACH"])]
            results.append((len(beats), latency(p), pack(keys, key_bits)))
            beats.append((((index << point_bits) + query) << event_bits) + word)
    body = f"""\
    PART #({flows.values(p)}) NAME (
        .clk(clk), .rst(NAME_rst), .in_valid(NAME_in_valid), .in_event(NAME_in_data[0 +: {event_bits}]),
        .in_query(NAME_in_data[{event_bits} +: {point_bits}]), .in_index(NAME_in_data[{event_bits + point_bits} +: {index_bits}]),
        .out_valid(NAME_out_valid), .out_keys(NAME_out_data));
"""
    return Flow(part, p, body, event_bits + point_bits + index_bits, p["K"] * key_bits, beats, results, word_bits=key_bits)


def any_parameters(seed: int) -> tuple[int, ...]:
    rng = random.Random(f"nearest {seed}")
    nodes = rng.randint(2, 40)
    return nodes, rng.randint(1, 7), rng.randint(1, 9), rng.randint(1, 200), rng.randint(1, min(nodes, 17)), rng.randint(1, 5)


FLOWS = [
    flow(32, 6, 8, 36, 7, 2),
    flow(32, 3, 8, 36, 7, 1),
    flow(32, 5, 8, 64, 8, 4),
    flow(128, 6, 8, 36, 7, 2, count=8),
    flow(24, 4, 6, 20, 7, 2),  # no power of two
    flow(16, 1, 4, 5, 3, 3),
    flow(8, 2, 5, 63, 7, 2),  # sorted only
    flow(2, 1, 3, 1, 1, 1),
    flow(9, 2, 8, 1000, 5, 3),  # never so far
    flow(5, 3, 4, 7, 5, 2),  # all
    flow(16, 2, 16, 300, 1, 2),  # the nearest one
    *[flow(*any_parameters(seed)) for seed in range(6)],
]


def test_the_model_itself() -> None:
    event = [Node(True, [0, 0]), Node(True, [1, -1]), Node(False, [0, 0]), Node(True, [-2, 0]), Node(True, [9, 9])]
    assert nearest(event, 0, 3, 5) == [(2, 1), (2, 3), (5, 0)]
    assert nearest(event, 2, 4, 5) == [(0, 0), (2, 1), (2, 3), (5, 2)]


def test_lint(bench: Bench) -> None:
    flows.lint(bench, [case for case in FLOWS if case.parameters["NODES"] < 128])


def test_nearest(bench: Bench) -> None:
    flows.simulate(bench, FLOWS)


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        ("other < one;", "other[KEY_BITS-1:INDEX_BITS] < one[KEY_BITS-1:INDEX_BITS];"),  # ties as they come
        (
            "other < one;",
            "{other[KEY_BITS-1:INDEX_BITS], ~other[INDEX_BITS-1:0]} < {one[KEY_BITS-1:INDEX_BITS], ~one[INDEX_BITS-1:0]};",
        ),
        (" || in_index == INDEX[INDEX_BITS-1:0];", ";"),  # a node is its own neighbour
        ("!word[NODE_BITS-1] || ", ""),  # padding counts
        ("== (WHICH == SMALLER) ?", "== (WHICH == SMALLER && !(l == 4 && n == 0)) ?"),  # one comparison is the wrong way round
        ("== (WHICH == SMALLER) ?", "== (WHICH == SMALLER && !(l == LEVELS - 1 && n == K - 1)) ?"),
        ("begins + size / 2 + sorted + K - 1 - place)", "begins + size / 2 + sorted + place)"),  # not from the end
        ("size == 2 * P ? 0 : P - K;", "0;"),
        ("{KEY_BITS{1'b1}};", "{KEY_BITS{1'b0}};"),  # what fills up comes first
        ("if (rst) under_way <= {LATENCY{1'b0}};\n        else ", ""),
        ("here <= compared;", "here <= unused_from;"),
    ]
    assert flows.survivors(bench, PART, errors, flow(11, 3, 4, 9, 3, 2, count=18)) == []
