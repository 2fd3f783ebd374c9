import random

from hls.tests import flows
from hls.tests.bench import Bench
from hls.tests.flows import Flow
from hls.tests.graphs import codes, distance
from hls.tests.words import pack

PART = "caloedge_distance"
BODY = """\
    wire NAME_unused_rst = NAME_rst;
    PART #(VALUES) NAME (
        .clk(clk), .in_far(NAME_in_data[FAR]), .in_first(NAME_in_data[0 +: POINT]), .in_second(NAME_in_data[POINT +: POINT]),
        .out_far(NAME_out_data[SUM]), .out_distance(NAME_out_data[0 +: SUM]));
"""
AT_ONCE = "    assign NAME_out_valid = NAME_in_valid;\n"
LATER = """\
    reg [2:0] NAME_under_way;
    assign NAME_out_valid = NAME_under_way[2];
    always @(posedge clk) NAME_under_way <= NAME_rst ? 3'b000 : {NAME_under_way[1:0], NAME_in_valid};
"""


def flow(dimensions: int, bits: int, reach: int, pipelined: int) -> Flow:
    """Return all pairs of short points, or many of long ones."""
    p = {"DIMENSIONS": dimensions, "BITS": bits, "REACH": reach, "PIPELINED": pipelined}
    rng = random.Random(str(p))
    point_bits, sum_bits = dimensions * bits, reach.bit_length()
    ways = codes(bits, (reach // dimensions, reach - 1, reach, reach + 1))
    beats, results = [], []
    for number in range(1 << (2 * point_bits) if point_bits <= 4 else 800):
        if point_bits <= 4:
            both = number
        else:
            way = rng.choice(ways)
            both = pack([way(rng) for _ in range(2 * dimensions)], bits)
        one, other = both % (1 << point_bits), both >> point_bits
        far = int(rng.random() < 0.05)
        total = reach if far else min(reach, distance(signed(one, dimensions, bits), signed(other, dimensions, bits)))
        beats.append(both + (far << (2 * point_bits)))
        results.append((number, 3 * pipelined, total + (int(total == reach) << sum_bits)))
    body = BODY + (LATER if pipelined else AT_ONCE)
    names = {"VALUES": flows.values(p), "FAR": str(2 * point_bits), "POINT": str(point_bits), "SUM": str(sum_bits)}
    for name, value in names.items():
        body = body.replace(name, value)
    return Flow(PART, p, body, 2 * point_bits + 1, sum_bits + 1, beats, results)


def signed(point: int, dimensions: int, bits: int) -> list[int]:
    found = []
    for at in range(dimensions):
        code = point >> (at * bits) & ((1 << bits) - 1)
        found.append(code - (1 << bits) if code >> (bits - 1) else code)
    return found


FLOWS = [
    flow(6, 8, 36, 1),
    flow(3, 16, 1024, 0),
    flow(1, 4, 5, 1),
    flow(2, 2, 3, 1),
    flow(2, 2, 2, 0),
    flow(5, 8, 64, 1),
    flow(7, 3, 63, 0),
    flow(1, 1, 1, 0),
    flow(4, 3, 100, 1),  # never so far
    flow(3, 8, 1, 1),
    flow(8, 6, 31, 1),
]


def test_the_model_itself() -> None:
    assert distance([1, -2, 3], [-1, 2, 3]) == 6
    assert distance([-128], [127]) == 255


def test_lint(bench: Bench) -> None:
    flows.lint(bench, FLOWS)


def test_distance(bench: Bench) -> None:
    flows.simulate(bench, FLOWS)


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        ("{first[BITS-1], first} -", "{1'b0, first} -"),
        ("^ {BITS{difference[BITS]}}", ""),
        ("assign over[d] = |absolute[2*WIDE-1:SUM_BITS];", "assign over[d] = 1'b0;"),
        ("wire far_next = in_far || (|over);", "wire far_next = |over;"),
        ("wire pair_far_next = far || (|pair_over);", "wire pair_far_next = far;"),
        ("+ {{SUM_BITS{1'b0}}, negative[2*d]};", ";"),
        ("= negative[2*d+1];", "= negative[2*d];"),
        ("+ {{SUM_BITS{1'b0}}, missing[p]};", ";"),
        ("sum_over = sum_over || carry;", ""),
        ("{LAST_NEAR[SUM_BITS-1:0], 1'b0};", "{LAST_NEAR[SUM_BITS-1:0], 1'b1};"),  # one step too far is near
        ("sum + {{(SUM_BITS-1){1'b0}}, missing[0]};", "sum;"),
        ("{far_here, distance_here};", "{far_result, distance_here};"),
    ]
    assert flows.survivors(bench, PART, errors, FLOWS[0], FLOWS[2], FLOWS[10]) == []
