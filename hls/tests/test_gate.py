import random

from hls.tests.bench import Bench, Case, check
from hls.tests.words import pack

NAMES = ["PIXELS", "CHANNELS", "DEPTH", "BITS", "SIGNED", "SUM_BITS", "FACTOR_BITS", "FACTOR_SIGNED", "OUT_BITS"]

# What makes factors of sums: their low bits. It takes sums `busy` cycles after they come and gives factors `latency` + 1
# cycles later, or within the cycle.
EXCITATION = """\
    wire NAME_sum_valid, NAME_sum_ready, NAME_factor_valid, NAME_factor_ready;
    wire [{sums}:0] NAME_sum_data;
    wire [{factors}:0] NAME_factor_data;
    wire [{factors}:0] NAME_low = {{{low}}};
    wire NAME_unused_high = ^NAME_sum_data;
"""
AT_ONCE = """\
    assign NAME_factor_valid = NAME_sum_valid, NAME_sum_ready = NAME_factor_ready, NAME_factor_data = NAME_low;
"""
LATER = """\
    reg [7:0] NAME_waited;
    wire NAME_taken = NAME_sum_valid && NAME_waited == 8'd{busy}, NAME_free;
    assign NAME_sum_ready = NAME_free && NAME_taken;
    always @(posedge clk)
        if (NAME_rst || !NAME_sum_valid || NAME_sum_ready) NAME_waited <= 8'd0;
        else if (!NAME_taken) NAME_waited <= NAME_waited + 8'd1;
    reg [{factors}:0] NAME_line [0:{latency}-1];
    integer NAME_i;
    always @(posedge clk) begin
        NAME_line[0] <= NAME_low;
        for (NAME_i = 1; NAME_i < {latency}; NAME_i = NAME_i + 1) NAME_line[NAME_i] <= NAME_line[NAME_i-1];
    end
    caloedge_credit #(.LATENCY({latency}), .WIDTH({factors} + 1)) NAME_credit (
        .clk(clk), .rst(NAME_rst), .in_valid(NAME_taken), .in_ready(NAME_free), .core_result(NAME_line[{latency}-1]),
        .out_valid(NAME_factor_valid), .out_ready(NAME_factor_ready), .out_data(NAME_factor_data));
"""
PORTS = tuple(f".{side}_{what}(NAME_{side}_{what})" for side in ("sum", "factor") for what in ("valid", "ready", "data"))


def number(code: int, bits: int, signed: int) -> int:
    """Return what a code of so many bits stands for."""
    code %= 2**bits
    return code - 2**bits if signed and code >> (bits - 1) else code


def words(beat: int, channels: int, bits: int) -> list[int]:
    return [(beat >> (c * bits)) % 2**bits for c in range(channels)]


def gated(p: dict[str, int], pixels: list[int]) -> list[int]:
    """Return the products of one event; factors are the low bits of the sums."""
    image = [[number(word, p["BITS"], p["SIGNED"]) for word in words(beat, p["CHANNELS"], p["BITS"])] for beat in pixels]
    sums = [sum(channel) % 2 ** p["SUM_BITS"] for channel in zip(*image, strict=True)]
    factors = [number(total, p["FACTOR_BITS"], p["FACTOR_SIGNED"]) for total in sums]
    products = [[word * factor % 2 ** p["OUT_BITS"] for word, factor in zip(pixel, factors, strict=True)] for pixel in image]
    return [pack(pixel, p["OUT_BITS"]) for pixel in products]


def case(busy: int, latency: int, *values: int) -> Case:
    """Return a gate with an excitation of so many cycles; 0 is one without registers."""
    rng = random.Random(str(values))
    p = dict(zip(NAMES, values, strict=True))
    width, factors = p["CHANNELS"] * p["BITS"], p["CHANNELS"] * p["FACTOR_BITS"]
    events = [[rng.getrandbits(width) for _ in range(p["PIXELS"])] for _ in range(12)]
    low = [f"NAME_sum_data[{c * p['SUM_BITS'] + p['FACTOR_BITS'] - 1}:{c * p['SUM_BITS']}]" for c in range(p["CHANNELS"])]
    wiring = (EXCITATION + (LATER if latency else AT_ONCE)).format(
        sums=p["CHANNELS"] * p["SUM_BITS"] - 1,
        factors=factors - 1,
        low=", ".join(reversed(low)),
        busy=busy,
        latency=latency,
    )
    waited = busy + latency + 1 if latency else 0
    missing = max(p["PIXELS"] + waited + 1 - p["DEPTH"], 0)  # pixels that wait until the first ones have left
    return Case(
        "caloedge_gate",
        p,
        width,
        p["CHANNELS"] * p["OUT_BITS"],
        events,
        [gated(p, event) for event in events],
        cycles=max(p["PIXELS"] + missing, busy + 1),
        latency=p["PIXELS"] + waited + 2,
        capacity=(p["DEPTH"], p["DEPTH"] + 2),
        more_ports=PORTS,
        wiring=wiring,
    )


CASES = [
    case(0, 3, 30, 3, 35, 6, 0, 11, 8, 0, 14),  # the next events enter without a gap
    case(0, 3, 30, 3, 34, 6, 0, 11, 8, 0, 14),  # one pixel less
    case(5, 2, 8, 2, 17, 5, 1, 8, 5, 0, 11),  # sums wait while the next event enters
    case(7, 2, 6, 2, 30, 5, 1, 8, 5, 1, 10),  # and the next event's sums wait for them
    case(0, 9, 6, 2, 20, 5, 1, 8, 5, 1, 10),  # several events wait for their factors
    case(2, 4, 6, 2, 6, 5, 1, 8, 5, 0, 12),  # the smallest buffer
    case(0, 1, 1, 2, 5, 4, 0, 4, 3, 1, 9),  # one pixel
    case(0, 1, 5, 1, 9, 1, 0, 3, 1, 0, 1),  # words of one bit
    case(0, 4, 8, 2, 14, 6, 1, 5, 5, 1, 8),  # sums and products that wrap
    case(0, 0, 7, 2, 9, 4, 0, 7, 7, 0, 11),  # the sums themselves are the factors
]


def test_the_model_itself() -> None:
    p = dict(zip(NAMES, (2, 2, 4, 4, 0, 5, 5, 0, 9), strict=True))
    assert gated(p, [0x12, 0x34]) == [(2 * 6) | (1 * 4) << 9, (4 * 6) | (3 * 4) << 9]


def test_lint(bench: Bench) -> None:
    bench.lint(CASES)


def test_gate(bench: Bench) -> None:
    check(bench.simulate(CASES))


ERRORS = [
    ("first_in ? {SUM_BITS{1'b0}} : total", "total"),  # events are summed together
    ("!(last_in && sum_valid && !sum_ready)", "1'b1"),  # sums that wait are lost
    ("count != FULL[COUNT_BITS-1:0]", "1'b1"),  # the buffer overflows
    ("factors <= factor_data", "factors <= ~factor_data"),
    ("wire read = factor_valid && advance", "wire read = factor_valid"),  # a waiting product is lost
    ("assign factor_ready = advance && last_out", "assign factor_ready = advance"),  # every pixel takes factors
    ("SIGNED != 0 && entering[BITS-1]", "entering[0] && entering[BITS-1]"),
]


def test_an_error_in_the_part_is_caught(bench: Bench) -> None:
    assert bench.simulate_errors(ERRORS, case(7, 2, 6, 2, 16, 5, 1, 8, 7, 1, 12)) == [True] * len(ERRORS)
