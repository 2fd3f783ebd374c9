import random

from hls.tests.bench import Bench, Case, check

# A core that cannot stop: it keeps sampling, and shows a result for one cycle only.
WIRING = """\
    reg [WIDTH*LATENCY-1:0] NAME_core;
    wire [WIDTH-1:0] NAME_core_result = NAME_core[WIDTH*LATENCY-1:WIDTH*(LATENCY-1)];
    always @(posedge clk) NAME_core <= SHIFTED;
"""


def case(latency: int, width: int) -> Case:
    rng = random.Random(f"{latency} {width}")
    events = [[rng.getrandbits(width)] for _ in range(150)]
    results = [[word ^ ((1 << width) - 1) for word in event] for event in events]
    shifted = f"{{NAME_core[{width * (latency - 1) - 1}:0], ~NAME_in_data}}" if latency > 1 else "~NAME_in_data"
    wiring = WIRING.replace("SHIFTED", shifted).replace("WIDTH", str(width)).replace("LATENCY", str(latency))
    parameters = {"LATENCY": latency, "WIDTH": width}
    places = latency + 2
    return Case(
        "caloedge_credit",
        parameters,
        width,
        width,
        events,
        results,
        cycles=1,
        latency=latency + 1,
        capacity=(places, places),
        data_elsewhere=True,
        more_ports=(".core_result(NAME_core_result)",),
        wiring=wiring,
    )


CASES = [case(1, 1), case(1, 9), case(2, 8), case(11, 40)]


def test_lint(bench: Bench) -> None:
    bench.lint(CASES)


def test_credit(bench: Bench) -> None:
    check(bench.simulate(CASES))


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        ("DEPTH = LATENCY + 2;", "DEPTH = LATENCY + 1;"),  # slower: the round trip of a credit takes longer
        ("DEPTH = LATENCY + 2;", "DEPTH = LATENCY + 3;"),  # more is taken than claimed
        ("ALL_CREDITS = DEPTH;", "ALL_CREDITS = DEPTH + 1;"),  # one result too many is under way
        ("credits != {CREDIT_BITS{1'b0}}", "credits != ALL_CREDITS[CREDIT_BITS-1:0]"),
        ("wire admit = in_valid && in_ready;", "wire admit = in_valid;"),
        ("wire leave = out_valid && out_ready;", "wire leave = out_ready;"),
        ("wire leave = out_valid && out_ready;", "wire leave = out_valid;"),
        ("if (admit && !leave)", "if (admit)"),
        ("if (leave && !admit)", "if (leave)"),
        ("in_flight <= {LATENCY{1'b0}};", "in_flight <= in_flight_next[LATENCY-1:0];"),  # events of before the reset
        ("credits <= ALL_CREDITS[CREDIT_BITS-1:0];", "credits <= credits;"),
        (".in_valid(in_flight_next[LATENCY])", ".in_valid(in_flight_next[LATENCY-1])"),  # the result comes one edge later
    ]
    assert bench.simulate_errors(errors, case(5, 9)) == [True] * len(errors)
