import random

from hls.tests import flows
from hls.tests.bench import Bench
from hls.tests.flows import Flow
from hls.tests.words import pack

PART = "caloedge_look_up"
NAMES = ("NODES", "PAR", "WIDTH", "MOST", "SLOTS", "OUT_BEATS", "EVENTS", "NOTE_BITS")


def flow(*numbers: int, delay: int, events: int = 30) -> Flow:
    """Return events of random words; their indices and a note come with their last beat, and reach the part `delay` later."""
    p = dict(zip(NAMES, numbers, strict=True))
    rng = random.Random(f"{p} {delay}")
    nodes, par, width, most = p["NODES"], p["PAR"], p["WIDTH"], p["MOST"]
    index_bits, note_bits = (nodes - 1).bit_length(), p["NOTE_BITS"]
    chosen_bits = note_bits + most * (1 + index_bits)
    entry_bits = 1 + index_bits + width
    beats: list[int] = []
    results = []
    for _ in range(events):
        words = [rng.getrandbits(width) for _ in range(nodes)]
        indices = [rng.randrange(nodes) for _ in range(most)]
        present, note = rng.choice((0, rng.getrandbits(most), (1 << most) - 1)), rng.getrandbits(note_bits)
        chosen = (((note << most) + present) << (most * index_bits)) + pack(indices, index_bits)
        beats += [pack(words[at : at + par], width) for at in range(0, nodes, par)]
        beats[-1] += ((chosen << 1) + 1) << (par * width)
        entries = [(((words[i] << index_bits) + i) << 1) + 1 if present >> at & 1 else 0 for at, i in enumerate(indices)]
        entries += [0] * (p["SLOTS"] * p["OUT_BEATS"] - most)
        for number in range(p["OUT_BEATS"]):
            mine = pack(entries[number * p["SLOTS"] : (number + 1) * p["SLOTS"]], entry_bits)
            results.append((len(beats) - 1, delay + 2 + number, (note << (p["SLOTS"] * entry_bits)) + mine))
    late = f"NAME_late[{delay - 1}]"
    body = f"""\
    reg [{chosen_bits}:0] NAME_late [0:{delay - 1}];
    integer NAME_i;
    always @(posedge clk) begin
        NAME_late[0] <= NAME_rst || !NAME_in_valid ? {chosen_bits + 1}'d0 : NAME_in_data[{par * width} +: {chosen_bits + 1}];
        for (NAME_i = 1; NAME_i < {delay}; NAME_i = NAME_i + 1) NAME_late[NAME_i] <= NAME_rst ? 0 : NAME_late[NAME_i-1];
    end
    wire [{chosen_bits}:0] NAME_chosen = {late};
    PART #({flows.values(p)}) NAME (
        .clk(clk), .rst(NAME_rst), .in_valid(NAME_in_valid), .in_data(NAME_in_data[{par * width - 1}:0]),
        .chosen_valid(NAME_chosen[0]), .chosen_indices(NAME_chosen[1 +: {most * index_bits}]),
        .chosen_present(NAME_chosen[{1 + most * index_bits} +: {most}]),
        .chosen_note(NAME_chosen[{1 + most * (index_bits + 1)} +: {note_bits}]),
        .out_valid(NAME_out_valid), .out_data(NAME_out_data[{p["SLOTS"] * entry_bits - 1}:0]),
        .out_note(NAME_out_data[{p["SLOTS"] * entry_bits} +: {note_bits}]));
"""
    in_bits = par * width + chosen_bits + 1
    return Flow(PART, p, body, in_bits, p["SLOTS"] * entry_bits + note_bits, beats, results)


FLOWS = [
    flow(32, 2, 20, 16, 4, 4, 4, 6, delay=35),
    flow(32, 4, 3, 16, 2, 8, 8, 5, delay=35),
    flow(8, 8, 4, 3, 3, 1, 8, 1, delay=5),  # one beat per event
    flow(8, 1, 4, 3, 1, 3, 2, 2, delay=6),  # as late as two events allow
    flow(12, 4, 2, 7, 3, 3, 4, 1, delay=7),  # no power of two; entries behind the last
    flow(2, 1, 1, 1, 1, 1, 2, 1, delay=2),
]


def test_lint(bench: Bench) -> None:
    flows.lint(bench, FLOWS)


def test_look_up(bench: Bench) -> None:
    flows.simulate(bench, FLOWS)


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        ("LAST = BEATS - 1;", "LAST = BEATS - 2;"),
        ("memory[{event_out, from}]", "memory[{event_in, from}]"),
        ("if (in_valid && last) event_in", "if (in_valid) event_in"),
        ("if (chosen_valid) left <=", "if (chosen_valid && !reading) left <="),  # events back to back
        ("waiting >> (SLOTS * ENTRY_BITS)", "waiting >> ENTRY_BITS"),
        ("& {ENTRY_BITS+WIDTH{present}}", ""),
        ("out_note <= note;", "out_note <= chosen_note;"),
        ("left == {{(LEFT_BITS-1){1'b0}}, 1'b1}", "chosen_valid"),
        ("event_out <= {EVENT_BITS{1'b0}};", ""),
        ("beat <= {BEAT_BITS{1'b0}};\n            event_in", "event_in"),
    ]
    assert flows.survivors(bench, PART, errors, FLOWS[1], FLOWS[4]) == []
