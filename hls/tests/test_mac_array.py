import random

from hls.tests.bench import Bench, Case, check
from hls.tests.words import pack, unpack

NAMES = ["BEATS", "WORDS", "FOLD", "OUTPUTS", "IN_BITS", "IN_SIGNED", "WEIGHT_BITS", "SUM_BITS"]

# The ROM, as the header of the part describes it.
WIRING = """\
    wire NAME_rom_enable;
    wire [ADDRESS_BITS-1:0] NAME_rom_address;
    reg [ROM_BITS-1:0] NAME_rom [0:(1<<ADDRESS_BITS)-1];
    reg [ROM_BITS-1:0] NAME_rom_word;
    initial begin
CONTENT
    end
    always @(posedge clk) if (NAME_rom_enable) NAME_rom_word <= NAME_rom[NAME_rom_address];
"""


def sums(p: dict[str, int], weights: list[list[int]], bias: list[int], event: list[int]) -> list[int]:
    """Return the exact sums; `weights` has one row per word of the whole event."""
    words = [word for beat in event for word in unpack(beat, p["WORDS"], p["IN_BITS"], bool(p["IN_SIGNED"]))]
    return [bias[o] + sum(word * row[o] for word, row in zip(words, weights, strict=True)) for o in range(p["OUTPUTS"])]


def case(*values: int) -> Case:
    rng = random.Random(str(values))
    p = dict(zip(NAMES, values, strict=True))
    low, high = -(1 << (p["WEIGHT_BITS"] - 1)), (1 << (p["WEIGHT_BITS"] - 1)) - 1
    reuse, lanes = p["BEATS"] * p["FOLD"], -(-p["WORDS"] // p["FOLD"])
    weights = [
        [rng.choice((low, high, rng.randint(low, high))) for _ in range(p["OUTPUTS"])] for _ in range(p["BEATS"] * p["WORDS"])
    ]
    bias = [rng.getrandbits(p["SUM_BITS"]) for _ in range(p["OUTPUTS"])]
    rom = []
    for beat in range(p["BEATS"]):
        for phase in range(p["FOLD"]):
            row = []
            for lane in range(lanes):
                word = phase * lanes + lane
                # Beyond the last word anything may stand in the ROM.
                unused = [rng.randint(low, high) for _ in range(p["OUTPUTS"])]
                row += weights[beat * p["WORDS"] + word] if word < p["WORDS"] else unused
            rom.append(pack(row, p["WEIGHT_BITS"]))
    events = [[rng.getrandbits(p["WORDS"] * p["IN_BITS"]) for _ in range(p["BEATS"])] for _ in range(30)]
    events[7] = [(1 << (p["WORDS"] * p["IN_BITS"])) - 1] * p["BEATS"]
    rom_bits = lanes * p["OUTPUTS"] * p["WEIGHT_BITS"]
    content = "\n".join(f"        NAME_rom[{at}] = {rom_bits}'h{word:x};" for at, word in enumerate(rom))
    wiring = (
        WIRING.replace("ADDRESS_BITS", str(max(1, (reuse - 1).bit_length())))
        .replace("ROM_BITS", str(rom_bits))
        .replace("CONTENT", content)
    )
    sum_bits = p["OUTPUTS"] * p["SUM_BITS"]
    constant = f".bias({sum_bits}'h{pack(bias, p['SUM_BITS']):x})"
    ports = ", ".join(f".{port}(NAME_{port})" for port in ("rom_enable", "rom_address", "rom_word"))
    return Case(
        "caloedge_mac_array",
        p,
        p["WORDS"] * p["IN_BITS"],
        sum_bits,
        events,
        [[pack(sums(p, weights, bias, event), p["SUM_BITS"])] for event in events],
        cycles=reuse,
        latency=reuse + 4,
        # One result waits at the output, one in the accumulator, and the third event may be under way.
        capacity=(2 * p["BEATS"], 2 * p["BEATS"] + 4),
        more_ports=(ports, constant),
        wiring=wiring,
    )


CASES = [
    case(1, 4, 1, 2, 8, 0, 6, 20),  # one event per cycle
    case(1, 1, 1, 1, 1, 0, 1, 1),
    case(1, 3, 1, 2, 1, 1, 1, 5),
    case(1, 6, 2, 3, 4, 0, 5, 14),
    case(3, 5, 2, 2, 5, 1, 4, 13),  # two does not divide five
    case(2, 5, 4, 1, 3, 0, 4, 7),  # the last phase has no words; the product is as wide as the sum or wider
    case(4, 2, 1, 2, 3, 1, 3, 5),  # sums modulo 2**5
    case(6, 3, 3, 2, 6, 0, 6, 18),
]


def test_the_model_itself() -> None:
    p = dict(zip(NAMES, (2, 2, 1, 1, 4, 1, 4, 8), strict=True))
    assert sums(p, [[1], [2], [3], [-4]], [5], [0x21, 0xF3]) == [1 + 4 + 9 + 4 + 5]


def test_lint(bench: Bench) -> None:
    bench.lint(CASES)


def test_mac_array(bench: Bench) -> None:
    check(bench.simulate(CASES))


def test_an_error_is_caught(bench: Bench) -> None:
    errors = [
        ("{1'b0, operands[l*IN_BITS +: IN_BITS]}", "{operands[l*IN_BITS+IN_BITS-1], operands[l*IN_BITS +: IN_BITS]}"),  # signed
        ("LAST_ADDRESS = REUSE - 1;", "LAST_ADDRESS = REUSE - 2;"),
        ("LAST_PHASE = FOLD - 1;", "LAST_PHASE = FOLD - 2;"),
        ("!(out_pending && blocked)", "!blocked"),  # the next event is not begun while a result waits
        ("!(out_pending && blocked)", "1'b1"),  # a result that waits is overwritten
        ("in_ready = advance && last_phase;", "in_ready = last_phase;"),
        ("else if (advance && in_valid) begin", "else if (in_valid) begin"),
        ("else if (advance && in_valid) begin", "else if (advance) begin"),
        ("last_phase ? {PHASE_BITS{1'b0}} : phase + 1'b1;", "phase + 1'b1;"),
        ("            address <= {ADDRESS_BITS{1'b0}};\n", ""),  # weights of before the reset
        ("            valid <= 3'b000;\n", ""),
        ("valid <= {valid[1:0], in_valid};", "valid <= {valid[1:0], 1'b1};"),
        ("out_pending <= valid[2] && last[2];", "out_pending <= last[2];"),
        ("out_pending <= valid[2] && last[2];", "out_pending <= valid[2];"),
        ("address == {ADDRESS_BITS{1'b0}}}", "last_address}"),
        ("assign rom_enable = advance;", "assign rom_enable = 1'b1;"),
        ("if (advance) operands <= selected;", "operands <= selected;"),
        ("if (phase == p[PHASE_BITS-1:0])", "if (phase >= p[PHASE_BITS-1:0] && p < FOLD - 1)"),
        ("if (advance) product <= operand * weight;", "product <= operand * weight;"),
        ("{{(SUM_BITS-PRODUCT_BITS){product[PRODUCT_BITS-1]}}, product}", "{{(SUM_BITS-PRODUCT_BITS){1'b0}}, product}"),
        ("if (valid[2]) accumulator", "accumulator"),
        ("(first[2] ? bias[o*SUM_BITS +: SUM_BITS] : accumulator)", "accumulator"),
        ("bias[o*SUM_BITS +: SUM_BITS] : accumulator", "{SUM_BITS{1'b0}} : accumulator"),
        ("for (i = 1; i < LANES; i = i + 1)", "for (i = 2; i < LANES; i = i + 1)"),
        ("if (rst) out_valid <= 1'b0;\n        else if", "if"),
        ("else if (out_ready) out_valid <= 1'b0;", "else out_valid <= 1'b0;"),
    ]
    cases = case(3, 5, 3, 2, 5, 0, 4, 13), case(3, 5, 2, 1, 5, 0, 4, 13)  # a result waits in the last phase only of the second
    assert bench.simulate_errors(errors, *cases) == [True] * len(errors)
