import random

from hls.tests import flows
from hls.tests.bench import Bench
from hls.tests.flows import Flow

PART = "caloedge_barrier"


def flow(nodes: int, par: int, width: int, events: int = 12) -> Flow:
    """Return events of random nodes; a result is {event, own nodes, beat, last, first}."""
    p = {"NODES": nodes, "PAR": par, "WIDTH": width}
    rng = random.Random(str(p))
    per_event, beat_width = nodes // par, par * width
    beat_bits = max(1, (per_event - 1).bit_length())
    beats = [rng.getrandbits(beat_width) for _ in range(events * per_event)]
    results = []
    for start in range(0, len(beats), per_event):
        own = beats[start : start + per_event]
        event = sum(beat << (at * beat_width) for at, beat in enumerate(own))
        for at, beat in enumerate(own):
            result = (((event << beat_width) + beat) << beat_bits) + at
            result = (result << 2) + 2 * int(at == per_event - 1) + int(at == 0)
            results.append((start + per_event - 1, 1 + at, result))
    body = f"""\
    PART #({flows.values(p)}) NAME (
        .clk(clk), .rst(NAME_rst), .in_valid(NAME_in_valid), .in_data(NAME_in_data), .out_valid(NAME_out_valid),
        .out_first(NAME_out_data[0]), .out_last(NAME_out_data[1]), .out_beat(NAME_out_data[2 +: {beat_bits}]),
        .out_own(NAME_out_data[{2 + beat_bits} +: {beat_width}]),
        .out_event(NAME_out_data[{2 + beat_bits + beat_width} +: {nodes * width}]));
"""
    return Flow(PART, p, body, beat_width, 2 + beat_bits + beat_width + nodes * width, beats, results)


FLOWS = [
    flow(32, 1, 5),
    flow(32, 2, 49),
    flow(32, 4, 7),
    flow(32, 8, 3),
    flow(128, 4, 9, events=5),
    flow(8, 8, 6),  # one beat per event
    flow(2, 1, 1),
    flow(24, 2, 4),  # no power of two
    flow(15, 3, 4),
]


def test_the_model_itself() -> None:
    two = flow(2, 1, 4, events=1)
    first, second = two.beats
    event = second * 16 + first
    assert two.results == [(1, 1, (event * 16 + first) * 8 + 1), (1, 2, (event * 16 + second) * 8 + 4 + 2)]


def test_lint(bench: Bench) -> None:
    flows.lint(bench, FLOWS)


def test_barrier(bench: Bench) -> None:
    flows.simulate(bench, FLOWS)


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        ("LAST = BEATS - 1;", "LAST = BEATS - 2;"),  # the event is taken too early
        ("assign out_own = own[out_beat];", "assign out_own = in_valid ? in_data : own[out_beat];"),  # of the next event
        (
            "always @(posedge clk)\n        if (complete) begin\n            out_event <= whole;",
            "always @(posedge clk) if (in_valid) out_event <= whole;\n    always @(posedge clk)\n        if (complete) begin",
        ),  # it changes while it is read
        ("else if (out_last) out_valid <= 1'b0;", "else if (out_last && in_valid) out_valid <= 1'b0;"),
        ("whole = {in_data, former};", "whole = {former, in_data};"),
        ("if (complete) out_valid <= 1'b1;\n            else if (out_last)", "if (out_last)"),  # a bubble, and no event
        ("if (in_valid) former <=", "former <="),
    ]
    assert flows.survivors(bench, PART, errors, FLOWS[2], FLOWS[7]) == []
