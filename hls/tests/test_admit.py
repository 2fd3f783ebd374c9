import random

from hls.tests.bench import Bench, Case, check

# A core without ready: a barrier, of which either each beat leaves again or the whole event at once.
WIRING = """\
    wire NAME_admitted, NAME_unused_valid, NAME_unused_first, NAME_unused_last;
    wire [<beat_bits>-1:0] NAME_unused_beat;
    wire [<width>-1:0] NAME_unused_own;
    wire [<beats>*<width>-1:0] NAME_unused_event;
    caloedge_barrier #(.NODES(<beats>), .PAR(1), .WIDTH(<width>)) NAME_core (
        .clk(clk), .rst(NAME_rst), .in_valid(NAME_admitted), .in_data(NAME_in_data),
        .out_valid(NAME_unused_valid), .out_first(NAME_unused_first), .out_last(NAME_unused_last),
        .out_beat(NAME_unused_beat), .out_own(NAME_unused_own), .out_event(NAME_unused_event));
"""


def case(beats: int, events: int, width: int, *, whole: bool) -> Case:
    """Return events of random beats; `whole` ones come out as one beat."""
    rng = random.Random(f"{beats} {events} {width} {whole}")
    words = [[rng.getrandbits(width) for _ in range(beats)] for _ in range(60)]
    together = [[sum(word << (at * width) for at, word in enumerate(event))] for event in words]
    out_width = beats * width if whole else width
    parameters = {"IN_BEATS": beats, "OUT_BEATS": 1 if whole else beats, "EVENTS": events, "WIDTH": out_width}
    wiring = WIRING.replace("<beat_bits>", str(max((beats - 1).bit_length(), 1)))
    core = ("NAME_unused_last", "NAME_unused_event") if whole else ("NAME_unused_valid", "NAME_unused_own")
    return Case(
        "caloedge_admit",
        parameters,
        width,
        out_width,
        words,
        together if whole else words,
        cycles=beats,
        latency=2 * beats if whole else beats + 1,
        capacity=(events * beats, events * beats),
        data_elsewhere=True,
        more_ports=(".admitted(NAME_admitted)", f".core_valid({core[0]})", f".core_data({core[1]})"),
        wiring=wiring.replace("<beats>", str(beats)).replace("<width>", str(width)),
    )


CASES = [
    case(8, 3, 5, whole=False),
    case(4, 4, 3, whole=True),
    case(3, 5, 2, whole=False),
    case(1, 4, 6, whole=False),
    case(2, 3, 1, whole=True),
]


def test_lint(bench: Bench) -> None:
    bench.lint(CASES)


def test_admit(bench: Bench) -> None:
    check(bench.simulate(CASES))


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        ("!first || under_way !=", "under_way !="),  # an event is stopped in its middle
        ("ALL_EVENTS = EVENTS;", "ALL_EVENTS = EVENTS - 1;"),
        ("ALL_EVENTS = EVENTS;", "ALL_EVENTS = EVENTS + 1;"),  # there is no place for its results
        ("assign admitted = in_valid && in_ready;", "assign admitted = in_valid;"),
        ("wire begins = admitted && first;", "wire begins = admitted;"),
        ("wire leave = out_valid && out_ready;", "wire leave = out_ready;"),
        ("wire ends = leave && beat_out == LAST_OUT[OUT_BITS-1:0];", "wire ends = leave;"),
        ("if (begins && !ends)", "if (begins)"),
        ("if (ends && !begins)", "if (ends)"),
        ("LAST_IN = IN_BEATS - 1;", "LAST_IN = IN_BEATS - 2;"),
        ("under_way <= {COUNT_BITS{1'b0}};", "under_way <= under_way;"),
        ("beat_in <= {IN_BITS{1'b0}};\n            beat_out", "beat_out"),
    ]
    assert bench.simulate_errors(errors, case(6, 3, 4, whole=False)) == [True] * len(errors)
