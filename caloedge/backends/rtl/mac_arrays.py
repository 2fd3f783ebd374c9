"""Multiply–accumulate arrays with their ROMs, and the steps that follow a layer word by word."""

import numpy as np

from caloedge.backends.rtl.design import RtlStage
from caloedge.backends.rtl.epilogue import Rounded, Scaled
from caloedge.backends.rtl.tables import literal
from caloedge.backends.rtl.text import VerilogText, instance, link, part_of, stream_wires
from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.compiler.ops import Conv, Dense

MULTIPLY_CYCLES = 6
"""Cycles from the edge that takes an event's last beat to the edge at which the result can leave the FIFO behind the steps."""
ROUNDING_CODES = {Rounding.TRUNCATE: 0, Rounding.HALF_UP: 1, Rounding.HALF_EVEN: 2}


def multiply(stage: RtlStage, name: str, before: str, beats: int, words: int, text: VerilogText) -> list[str]:
    """Return a multiply–accumulate array with its ROM, requantisation and output FIFO."""
    layer, op = stage.layer, stage.layer.op
    assert isinstance(op, Conv | Dense)
    outputs, sum_format = len(op.weights), signed(layer.sums.format)
    weight_bits = signed(Format.holding(int(op.weights.min()), int(op.weights.max()), 0)).width
    rom = _rom_words(layer.weights, beats, words, stage.reuse, weight_bits)
    rom_name = f"rom_{name.removeprefix('layer_')}"
    rom_bits = stage.lanes * outputs * weight_bits
    address_bits = max((len(rom) - 1).bit_length(), 1)
    text.modules[rom_name] = _rom(rom_name, rom, address_bits, rom_bits, layer.name)
    bias = sum((int(code) % 2**sum_format.width) << (i * sum_format.width) for i, code in enumerate(op.bias))
    bits = outputs * sum_format.width
    parameters: dict[str, int | str] = {
        "BEATS": beats, "WORDS": words, "FOLD": stage.reuse, "OUTPUTS": outputs, "IN_BITS": layer.source.format.width,
        "IN_SIGNED": int(layer.source.format.signed), "WEIGHT_BITS": weight_bits, "SUM_BITS": sum_format.width,
    }  # fmt: skip
    ports = link(before, "sum")
    ports |= {"rom_address": "address", "rom_word": "word", "rom_enable": "enable", "bias": f"{bits}'h{bias:x}"}
    return [
        stream_wires("sum", bits),
        f"  wire [{address_bits - 1}:0] address;\n  wire [{rom_bits - 1}:0] word;\n  wire enable;",
        instance("caloedge_mac_array", "array", text, parameters, ports),
        f"  {rom_name} rom (.clk(clk), .enable(enable), .address(address), .word(word));",
        f"  wire [{bits - 1}:0] sums = sum_data;",
        *epilogue(stage, outputs, sum_format, "sum", text),
    ]


def signed(fmt: Format) -> Format:
    """Return the signed format that holds all codes of `fmt`."""
    return fmt if fmt.signed else Format(True, fmt.width + 1, fmt.fraction)


def _rom_words(weights: Codes, beats: int, words: int, reuse: int, bits: int) -> list[int]:
    """Return one ROM word per cycle: the weights of each lane and output, lane-major, lowest first."""
    lanes = -(-words // reuse)
    outputs = len(weights)
    padded = np.zeros((outputs, beats, lanes * reuse), dtype=np.int64)
    padded[:, :, :words] = weights.reshape(outputs, beats, words)
    per_cycle = padded.reshape(outputs, beats * reuse, lanes).transpose(1, 2, 0).reshape(beats * reuse, -1)
    return [sum((int(code) % 2**bits) << (i * bits) for i, code in enumerate(row)) for row in per_cycle]


def _rom(name: str, words: list[int], address_bits: int, bits: int, layer: str) -> str:
    cases = "\n".join(f"        {address_bits}'d{i}: word <= {bits}'h{word:x};" for i, word in enumerate(words))
    return f"""\
// Weights of {layer}: {len(words)} words of {bits} bit.
module {name} (
  input clk,
  input enable,
  input [{address_bits - 1}:0] address,
  output reg [{bits - 1}:0] word
);
  always @(posedge clk)
    if (enable)
      case (address)
{cases}
        default: word <= {bits}'h0;
      endcase
endmodule
"""


def epilogue(stage: RtlStage, words: int, fmt: Format, before: str, text: VerilogText) -> list[str]:
    """Return the steps behind a bus `sums` and the FIFO behind them."""
    lines: list[str] = []
    at, result = "sums", stage.result.format
    for number, step in enumerate(stage.layer.after):
        to = f"rounded_{number}"
        write = _rounded if isinstance(step, Rounded) else _scaled
        added, fmt = write(step, at, to, words, fmt, text)  # type: ignore[arg-type]
        lines += added
        at = to
    if fmt.width != result.width:  # sums that leave unrounded: the sign bit that multiplication added is dropped
        narrow = ", ".join(f"{at}[{word * fmt.width + result.width - 1}:{word * fmt.width}]" for word in reversed(range(words)))
        lines.append(f"  wire [{words * result.width - 1}:0] kept = {{{narrow}}};")
        at = "kept"
    ports = {f"in_{signal}": f"{before}_{signal}" for signal in ("valid", "ready")} | {"in_data": at}
    ports |= {f"out_{signal}": f"out_{signal}" for signal in ("valid", "ready", "data")}
    return [*lines, instance("caloedge_fifo", "results", text, {"WIDTH": stage.result.bits if stage.layer.op is None
            else words * result.width, "DEPTH": 2}, ports)]  # fmt: skip


def _rounded(step: Rounded, at: str, to: str, words: int, fmt: Format, text: VerilogText) -> tuple[list[str], Format]:
    """Return a requantisation of each word of a bus, and the format of what it makes."""
    op, lines = step.op, []
    wide = signed(fmt)
    if offsets := step.offsets:
        room = max(wide.width, max(offsets).bit_length() + 1) + 1
        lines.append(f"  wire [{words * room - 1}:0] {to}_offset;")
        values: dict[str, int | str] = {
            "IN_WIDTH": wide.width, "OUT_WIDTH": room,
            "OF_NEGATIVE": literal(offsets[0], 64), "OF_OTHERS": literal(offsets[1], 64),
        }  # fmt: skip
        lines += [
            _combinational("caloedge_offset", f"{to}_offset", word, text, values, _signed_slice(at, word, fmt), room)
            for word in range(words)
        ]
        at, fmt = f"{to}_offset", Format(True, room, fmt.fraction)
        wide = fmt
    lines.append(f"  wire [{words * op.format.width - 1}:0] {to};")
    parameters: dict[str, int | str] = {
        "IN_WIDTH": wide.width, "SHIFT": step.shift, "ROUNDING": ROUNDING_CODES.get(step.rounding, 0),
        "OUT_WIDTH": op.format.width,
        "LOW": f"{'-' if op.low < 0 else ''}64'sd{abs(op.low)}", "HIGH": f"64'sd{op.high}",
    }  # fmt: skip
    lines += [
        _combinational("caloedge_requantise", to, word, text, parameters, _signed_slice(at, word, fmt), op.format.width)
        for word in range(words)
    ]
    return lines, op.format


def _scaled(step: Scaled, at: str, to: str, words: int, fmt: Format, text: VerilogText) -> tuple[list[str], Format]:
    """Return a multiplication of each word of a bus, and the format of what it makes."""
    result = signed(step.format)
    lines = [f"  wire [{words * result.width - 1}:0] {to};"]
    for word in range(words):
        parameters: dict[str, int | str] = {"IN_WIDTH": signed(fmt).width, "OUT_WIDTH": result.width,
            "WEIGHT": literal(int(step.weights[word]), 64), "BIAS": literal(int(step.bias[word]), 64)}  # fmt: skip
        operand = _signed_slice(at, word, fmt)
        lines.append(_combinational("caloedge_affine", to, word, text, parameters, operand, result.width))
    return lines, result


def _combinational(
    module: str, to: str, word: int, text: VerilogText, parameters: dict[str, int | str], operand: str, width: int
) -> str:
    """Return the instance of a hand-written part that makes one word of the bus `to`."""
    ports = {"clk": "", "rst": "", "in_data": operand, "out_data": part_of(to, word, width)}
    return instance(module, f"{to}_{word}", text, parameters, ports)


def _signed_slice(bus: str, word: int, fmt: Format) -> str:
    part = part_of(bus, word, fmt.width)
    return part if fmt.signed else f"{{1'b0, {part}}}"
