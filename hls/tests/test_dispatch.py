import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hls.tests.bench import Bench, check

TESTS = [
    "random_lanes",
    "patient_lanes",
    "full_speed",
    "a_busy_lane_is_left_out",
    "nothing_is_taken_that_does_not_fit",
    "reset_in_the_middle",
]


@dataclass(frozen=True)
class Pair:
    """Both parts, and events of payloads to send through them."""

    lanes: int
    width: int
    count_bits: int
    events: list[list[int]]
    dispatch: str = "caloedge_dispatch"
    gather: str = "caloedge_gather"


def pair(lanes: int, width: int, count_bits: int) -> Pair:
    rng = random.Random(f"{lanes} {width} {count_bits}")
    lengths = [1, 0, 0, 2 * lanes, 30, *(rng.randint(0, 9) for _ in range(5))]
    return Pair(lanes, width, count_bits, [[rng.getrandbits(width) for _ in range(length)] for length in lengths])


PAIRS = [pair(3, 8, 8), pair(1, 5, 1), pair(2, 33, 2), pair(6, 12, 6)]


def bench_of(pairs: Sequence[Pair]) -> str:
    """Generate a bench in which every lane is open at both its ends."""
    ports, body = ["input wire clk"], []
    for number, settings in enumerate(pairs):
        name, lanes, width = f"p{number}", range(settings.lanes), settings.width
        sizes = f".LANES({settings.lanes}), .WIDTH({width})"
        ports += [f"input wire {name}_{port}" for port in ("rst", "in_valid", "out_ready", "end_out_ready")]
        ports += [f"output wire {name}_{port}" for port in ("in_ready", "out_valid", "end_out_valid", "end_out_data")]
        ports += [f"input wire [{width}:0] {name}_in_data", f"output wire [{width - 1}:0] {name}_out_data"]
        body.append(f"    wire [{width - 1}:0] {name}_payload;\n    assign {name}_end_out_data = 1'b0;")
        for lane in lanes:
            ports += [f"input wire {name}_lane{lane}_{port}" for port in ("in_valid", "out_ready")]
            ports += [f"output wire {name}_lane{lane}_{port}" for port in ("in_ready", "out_valid")]
            ports += [f"input wire [{width - 1}:0] {name}_lane{lane}_in_data"]
            ports += [f"output wire [{width - 1}:0] {name}_lane{lane}_out_data"]
            body.append(f"    assign {name}_lane{lane}_out_data = {name}_payload;")
        of = {
            port: "{" + ", ".join(f"{name}_lane{lane}_{port}" for lane in reversed(lanes)) + "}"
            for port in ("out_valid", "out_ready", "in_valid", "in_ready", "in_data")
        }
        body.append(
            f"    {settings.dispatch} #({sizes}, .COUNT_BITS({settings.count_bits})) {name}_dispatch ("
            f".clk(clk), .rst({name}_rst), .in_valid({name}_in_valid), .in_ready({name}_in_ready), .in_data({name}_in_data), "
            f".out_valid({of['out_valid']}), .out_ready({of['out_ready']}), .out_data({name}_payload), "
            f".returned({name}_out_valid && {name}_out_ready), "
            f".end_valid({name}_end_out_valid), .end_ready({name}_end_out_ready));\n"
            f"    {settings.gather} #({sizes}) {name}_gather ("
            f".clk(clk), .rst({name}_rst), .in_valid({of['in_valid']}), .in_ready({of['in_ready']}), .in_data({of['in_data']}), "
            f".out_valid({name}_out_valid), .out_ready({name}_out_ready), .out_data({name}_out_data));"
        )
    ports = [f"{port} /* verilator public_flat_rw */" for port in ports]
    return "module bench (\n    " + ",\n    ".join(ports) + "\n);\n" + "\n".join(body) + "\nendmodule\n"


def test_lint(bench: Bench) -> None:
    bench.lint_text(bench_of(PAIRS))


def test_dispatch_and_gather(bench: Bench) -> None:
    check(bench.run(bench_of(PAIRS), PAIRS, "cocotb_lanes"), TESTS)


def test_an_error_is_caught(bench: Bench) -> None:
    of_dispatch = [
        ("head_last && under_way == {COUNT_BITS{1'b0}};", "head_last;"),  # the end overtakes
        ("= (out_valid & ~out_ready) == {LANES{1'b0}};", "= 1'b1;"),  # a lane is not waited for
        ("if (load) turn <=", "if (load && rst) turn <="),  # not in turn
        ("? able & (~able + 1'b1) : turn;", "? turn : turn;"),  # a busy lane holds up the others
        ("? able & (~able + 1'b1) : turn;", "? able & (~able + 1'b1) : {LANES{1'b0}};"),  # a patient lane gets nothing
    ]
    of_gather = [
        ("= others & ~(lane - 1'b1);", "= {LANES{1'b0}};"),  # the last lane starves
        ("(room || !offered) && able", "able"),
        ("in_ready = lane & {LANES{room}};", "in_ready = lane;"),
    ]
    right = pair(3, 8, 8)
    rtl, dispatches = bench.copies_with_errors("caloedge_dispatch", of_dispatch)
    _, gathers = bench.copies_with_errors("caloedge_gather", of_gather)
    wrong = [replace(right, dispatch=name) for name in dispatches] + [replace(right, gather=name) for name in gathers]
    ended = bench.run(bench_of([right, *wrong]), [right, *wrong], "cocotb_lanes", rtl)
    said = "\n".join(ended.failed.values())
    assert "caloedge_dispatch and caloedge_gather with" not in said, said
    assert [name for name in dispatches + gathers if f"{name} " not in said] == []
