"""Multiplication by constant weights as a pipelined graph of adders: traced through alkaid, written as plain Verilog.

A core takes a bus of input words and gives a bus of output words, one event per clock cycle. It is cut into stages of at
most `cutoff` adder delays, and every stage ends in registers: what enters at one clock edge can be captured `stages` edges
later. Nothing else of alkaid is used, and none of its text goes into the project.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any, assert_never

import numpy as np

from caloedge.backends.rtl.epilogue import After, Rounded, Scaled
from caloedge.backends.rtl.layers import RtlLayer
from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.compiler.ops import Conv, Dense
from caloedge.compiler.ranges import Tensor
from caloedge.errors import MissingTool

SOLVER = {
    "hard_dc": 2,  # adder delays that the search may spend beyond the shortest tree, to save adders
    "binary_lut": False,  # tables for one-bit inputs fail for signed ones in alkaid 0.8.2
}

ROUNDINGS = {Rounding.HALF_EVEN: "RND_CONV", Rounding.HALF_UP: "RND", Rounding.TRUNCATE: "TRN"}
EXACT_BITS = 50
"""alkaid holds values as float64, which leaves its partial sums 3 bits more than proven results of this width."""
MANTISSA_BITS = 53
"""Bits of a float64 that count."""
CONSTANT_BITS, BIASED_BITS = 24, 19
"""alkaid takes weights as float32, and biases as 32-bit integers: what has more significant bits cannot be traced exactly.
Behind weights of 20 bits and more, biases make alkaid 0.8.2 lose low bits (measured: 22 of 120 networks; with 19 bits none)."""


@dataclass(frozen=True)
class CoreLayer:
    """One layer of a core: a matrix product (None for none) with bias, then steps word by word."""

    name: str
    weights: Codes | None
    """(outputs, inputs)."""
    bias: Codes | None
    after: tuple[After, ...]


@dataclass(frozen=True, eq=False)
class Core:
    """A traced adder graph: values in the order of evaluation, each with its pipeline stage."""

    words_in: int
    format_in: Format
    words_out: int
    format_out: Format
    values: tuple["AdderValue", ...]
    outputs: tuple[tuple[int, int], ...]
    """Each output word is value · 2**shift: (index of the value, −1 for zero; shift)."""
    stages: int
    depth: float
    """Adder delays from input to output."""
    adders: int = field(default=0)

    @property
    def bits_in(self) -> int:
        """Width of the input bus."""
        return self.words_in * self.format_in.width

    @property
    def bits_out(self) -> int:
        """Width of the output bus."""
        return self.words_out * self.format_out.width


@dataclass(frozen=True)
class AdderValue:
    """One intermediate result: alkaid's operation with integer code n for the value n · 2**−fraction."""

    opcode: int
    sources: tuple[int, ...]
    data: tuple[int, ...]
    signed: bool
    width: int
    fraction: int
    stage: int


def trace_core(steps: tuple[CoreLayer, ...], words_in: int, source: Tensor, result: Tensor, cutoff: int) -> Core:
    """Trace layers on input words of one format into an adder graph, in stages of at most `cutoff` adder delays."""
    try:
        from alkaid.trace import FVArrayInput, HWConfig, trace
        from alkaid.trace import ops as symbolic
    except ImportError:
        raise MissingTool("the Python package alkaid is not installed; pip install 'caloedge[rtl]'") from None
    fmt = source.format
    inputs = FVArrayInput(words_in, HWConfig(1, -1, -1), SOLVER)
    x = inputs = symbolic.quantize(inputs, int(fmt.signed), fmt.width - int(fmt.signed), 0)
    for step in steps:
        if step.weights is not None:
            assert step.bias is not None
            x = x @ step.weights.T.astype(np.float64) + step.bias.astype(np.float64)
        for after in step.after:
            match after:
                case Scaled():
                    weights, bias = after.weights[: len(x)], after.bias[: len(x)]
                    x = x * weights.astype(np.float64) + bias.astype(np.float64)
                case Rounded():
                    x = requantised(symbolic, x, after)
                case _:
                    assert_never(after)
    return traced_core(trace(inputs, x), words_in, fmt, result.format, cutoff)


def width_problem(layer: RtlLayer) -> str:
    """Say what of a layer an adder graph cannot hold exactly, so that it needs multipliers; empty for nothing.

    It is known before anything is traced, so that whoever asks what would be built hears what `trace_core` can do.
    """
    product = [(layer.name, layer.op.weights, layer.op.bias)] if isinstance(layer.op, Conv | Dense) else []
    scalings = [(step.op.name, step.weights, step.bias) for step in layer.after if isinstance(step, Scaled)]
    for name, weights, bias in (*product, *scalings):
        most = BIASED_BITS if np.any(bias) else CONSTANT_BITS
        for kind, codes, limit in (("weights", weights, most), ("biases", bias, CONSTANT_BITS)):
            if (bits := significant_bits(codes)) > limit:
                return f"{kind} of {bits} bits in {name} are too wide for an adder graph ({limit} at most)"
    fmt = layer.sums.format
    widths = {layer.name: max(layer.source.format.width, fmt.width)}
    for step in layer.after:
        if isinstance(step, Rounded):
            if step.offsets and (bits := significant_bits(np.array(step.offsets))) > CONSTANT_BITS:
                return f"rounding off {bits} bits in {step.op.name} is too much for an adder graph ({CONSTANT_BITS} at most)"
            # A value that gets zeros behind it is compared with its limits at that width.
            widths[step.op.name] = max(fmt.width - min(step.shift, 0), step.op.format.width)
        else:
            widths[step.op.name] = step.format.width
        fmt = step.op.format if isinstance(step, Rounded) else step.format
    wide = next((name for name, width in widths.items() if width > EXACT_BITS), None)
    return f"sums of {widths[wide]} bits in {wide} are too wide for an adder graph ({EXACT_BITS} at most)" if wide else ""


def significant_bits(codes: Codes) -> int:
    """Return the most bits from the highest to the lowest set bit of any code."""
    magnitude = np.abs(codes)
    return int(np.max(magnitude // np.maximum(magnitude & -magnitude, 1))).bit_length()


def requantised(symbolic: Any, x: Any, step: Rounded) -> Any:
    """Trace a requantisation of an array `x`; `symbolic` is alkaid's module of operations."""
    op = step.op
    if op.relu:
        x = symbolic.relu(x)
    if offsets := step.offsets:
        x = _offset(x, *offsets)
    x = x * 2.0**-step.shift
    rounding = ROUNDINGS.get(step.rounding, "TRN")
    if step.limited:
        wide = EXACT_BITS + max(-step.shift, 0)  # of a word that no rounding overflows
        x = symbolic.quantize(x, 1, wide, 0, "WRAP", rounding)
        return np.minimum(np.maximum(x, float(op.low)), float(op.high))
    signed = op.format.signed and not op.relu
    saturation = "SAT_SYM" if op.narrow and signed else "SAT"
    bits = op.format.width - int(op.format.signed)
    return symbolic.quantize(x, int(signed), bits, 0, saturation, rounding)


def _offset(x: Any, of_negative: int, of_others: int) -> Any:
    """Add one of two constants, as the sign says."""
    raw = np.asarray(x)
    added = np.empty(raw.shape, dtype=object)
    for index, value in np.ndenumerate(raw):
        mixed = value.low < 0 and of_negative != of_others
        added[index] = value + (value.msb_mux(float(of_negative), float(of_others)) if mixed else float(of_others))
    return type(x)(added, x.solver_options, hwconf=x.hwconf)


def traced_core(comb: Any, words_in: int, format_in: Format, format_out: Format, cutoff: int) -> Core:
    """Return what alkaid traced, cut into stages of at most `cutoff` adder delays."""
    depth = max((op.latency for op in comb.ops), default=0.0)
    stages = max(math.ceil(depth / cutoff), 1)
    ends = np.linspace(0, depth, stages + 1)[1:]
    values = []
    for op in comb.ops:
        signed, integer, fraction = op.qint.kif
        width = max(int(signed) + int(integer) + int(fraction), 0)
        assert width <= MANTISSA_BITS, "layers of wider sums are not traced: see `width_problem`"
        stage = min(int(np.searchsorted(ends, op.latency - 1e-9)), stages - 1)
        data = tuple(int(item) for item in op.data)
        values.append(AdderValue(int(op.opcode), tuple(op.addr), data, bool(signed), width, int(fraction), stage))
    assert not any(comb.out_negs), "an output is negated by an operation of its own"
    assert not any(comb.inp_shifts), "inputs are integers"
    outputs = tuple(zip(map(int, comb.out_idxs), map(int, comb.out_shifts), strict=True))
    adders = sum(value.opcode in (0, 1, 4) for value in values)
    return Core(words_in, format_in, len(outputs), format_out, tuple(values), outputs, stages, depth, adders)


# Verilog

PIECE_BITS = 14_000
"""A core whose values have more bits is written in pieces of about so many, as synthesis takes ever longer per bit.

Smaller pieces do not pay: of some 40 s for each, yosys 0.70 spends 10 s on reading its own libraries.
"""
INPUT, CONSTANT = -1, 5
"""alkaid's operations that are only wiring."""


def core_modules(name: str, core: Core, remark: str, piece_bits: int = PIECE_BITS) -> dict[str, str]:
    """Return the pieces of a core, if it is a large one, and last the module `name`, which joins them.

    Ports of `name`: clk, in_data, out_data; word 0 in the lowest bits.
    """
    last_use = _last_uses(core)
    used = [index for index in sorted(last_use) if core.values[index].width]
    waits = {
        index: range(core.values[index].stage, last)
        for index, last in last_use.items()
        if core.values[index].width and core.values[index].opcode != CONSTANT
    }
    inner = sorted(
        (index for index in used if core.values[index].opcode not in (INPUT, CONSTANT)),
        key=lambda index: core.values[index].stage,
    )
    pieces = _pieces(core, inner, piece_bits)
    if len(pieces) < 2:
        return {name: _core_module(name, core, remark, [*_wires(core, used), *_registers(core, waits)])}
    # A piece holds values that follow each other and the first register of each; what waits for more than one clock edge does
    # so outside. Values of one stage go from piece to piece unregistered: a netlist stays right, as each piece works for any
    # input, and hardly grows, as the carry chain that ends an adder cannot share its LUTs with the next adder anyway.
    later = waits | {index: waits[index][1:] for index in inner}
    reads = [_reads(core, piece) for piece in pieces]
    joined = {_reference(core, index, core.stages) for index, _ in core.outputs if index >= 0}
    joined |= {_register(index, later[index].start) for index in inner if later[index]}
    body, modules = _wires(core, sorted(set(used).difference(inner))), {}
    for n, piece in enumerate(pieces):
        first = {index: waits[index][:1] for index in piece}
        made_wires = _makes(core, first)
        in_wires = {wire: width for wire, width in reads[n].items() if wire not in made_wires}
        read_wires = joined.union(*reads[:n], *reads[n + 1 :])
        out_wires = {wire: width for wire, width in made_wires.items() if wire in read_wires}
        lines = [*_wires(core, [*_constants(core, piece), *piece]), *_registers(core, first)]
        module = f"{name}_piece_{n}"
        modules[module] = _piece_module(module, f"{remark}: piece {n + 1} of {len(pieces)}", in_wires, out_wires, lines)
        body += [f"  wire [{width - 1}:0] {wire};" for wire, width in out_wires.items()]
        body.append(f"  {module} {module}_unit (.clk(clk), .in_data({_joined(in_wires)}), .out_data({_joined(out_wires)}));")
    return modules | {name: _core_module(name, core, remark, [*body, *_registers(core, later)])}


def _pieces(core: Core, inner: list[int], piece_bits: int) -> list[list[int]]:
    """Cut values into runs of about the same bits, `piece_bits` at most but for the last value of a run."""
    before = list(accumulate((core.values[index].width for index in inner), initial=0))
    number = max(-(-before[-1] // piece_bits), 1)
    runs = groupby(zip(before, inner, strict=False), key=lambda pair: pair[0] * number // max(before[-1], 1))
    return [[index for _, index in run] for _, run in runs]


def _constants(core: Core, piece: list[int]) -> list[int]:
    """Return the constants that the values of a piece refer to."""
    sources = {source for index in piece for source in core.values[index].sources}
    return sorted(index for index in sources if core.values[index].opcode == CONSTANT and core.values[index].width)


def _makes(core: Core, first: Mapping[int, range]) -> dict[str, int]:
    """Return the names of values and of their first registers, and their widths."""
    values = {f"v{index}": core.values[index].width for index in first}
    return values | {_register(index, stages.stop): core.values[index].width for index, stages in first.items() if stages}


def _reads(core: Core, piece: list[int]) -> dict[str, int]:
    """Return the names that the values of a piece refer to, constants left out, and their widths."""
    names = {}
    for index in piece:
        for source in core.values[index].sources:
            value = core.values[source]
            if value.width and value.opcode != CONSTANT:
                names[_reference(core, source, core.values[index].stage)] = value.width
    return names


def _joined(wires: Iterable[str]) -> str:
    """Return wires side by side, the first in the lowest bits; a bit of zero for none."""
    inside = ", ".join(reversed(list(wires))) or "1'b0"
    return f"{{{inside}}}"


def _wires(core: Core, indices: Iterable[int]) -> list[str]:
    return [f"  wire [{core.values[index].width - 1}:0] v{index} = {_expression(core, index)};" for index in indices]


def _registers(core: Core, waits: Mapping[int, range]) -> list[str]:
    """Return a register for each stage at whose end a value waits."""
    body: list[str] = []
    registers: dict[int, list[str]] = defaultdict(list)
    for index, stages in waits.items():
        for stage in stages:
            body.append(f"  reg [{core.values[index].width - 1}:0] {_register(index, stage + 1)};")
            registers[stage].append(f"    {_register(index, stage + 1)} <= {_reference(core, index, stage)};")
    for stage in sorted(registers):
        body += [f"  always @(posedge clk) begin  // end of stage {stage}", *registers[stage], "  end"]
    return body


def _core_module(name: str, core: Core, remark: str, body: list[str]) -> str:
    width = core.format_out.width
    lines = list(body)
    for word, (index, shift) in enumerate(core.outputs):
        text = _aligned(core, index, core.stages, 0, shift, width) if index >= 0 else f"{width}'d0"
        lines.append(f"  assign out_data[{word * width + width - 1}:{word * width}] = {text};")
    about = f"""\
// {remark}
// {core.words_in} words of {core.format_in.width} bit in, {core.words_out} of {width} bit out; \
{core.adders} adders, {core.stages} pipeline stages, one event per cycle."""
    return _module(name, about, core.bits_in, core.bits_out, lines)


def _piece_module(name: str, remark: str, in_wires: Mapping[str, int], out_wires: Mapping[str, int], body: list[str]) -> str:
    lines, low = [], 0
    for wire, width in in_wires.items():
        lines.append(f"  wire [{width - 1}:0] {wire} = in_data[{low + width - 1}:{low}];")
        low += width
    lines += [*body, f"  assign out_data = {_joined(out_wires)};"]
    return _module(name, f"// {remark}", max(low, 1), sum(out_wires.values()), lines)


def _module(name: str, about: str, bits_in: int, bits_out: int, body: list[str]) -> str:
    lines = "\n".join(sorted(body, key=lambda line: not line.startswith("  reg ")))  # nothing is used before it is declared
    return f"""\
{about}
module {name} (
  input clk,
  input [{bits_in - 1}:0] in_data,
  output [{bits_out - 1}:0] out_data
);
{lines}
endmodule
"""


def _last_uses(core: Core) -> dict[int, int]:
    """Return the last stage in which each value is needed; `stages` for outputs. Values that nobody needs are left out."""
    last: dict[int, int] = {index: core.stages for index, _ in core.outputs if index >= 0}
    for index in reversed(range(len(core.values))):
        if index in last:
            for source in core.values[index].sources:
                last[source] = max(last.get(source, 0), core.values[index].stage)
    return last


def _register(index: int, stage: int) -> str:
    return f"v{index}_s{stage}"


def _reference(core: Core, index: int, stage: int) -> str:
    """Return the name that holds a value in a later stage."""
    value = core.values[index]
    return f"v{index}" if stage == value.stage or value.opcode == 5 else _register(index, stage)


def _aligned(core: Core, index: int, stage: int, fraction: int, shift: int, width: int) -> str:
    """Return exactly `width` bits of value · 2**shift with `fraction` fraction bits: sign-extended, low bits cut or filled."""
    value = core.values[index]
    if value.width == 0:
        return f"{width}'d0"
    name = _reference(core, index, stage)
    zeros = fraction - value.fraction + shift
    low = max(-zeros, 0)
    zeros = max(zeros, 0)
    if zeros >= width:
        return f"{width}'d0"
    keep = min(value.width - low, width - zeros)
    sign = f"{name}[{value.width - 1}]" if value.width > 1 else name
    if keep <= 0:  # nothing but sign is left
        return f"{{{width}{{{sign}}}}}" if value.signed else f"{width}'d0"
    part = name if (low, keep) == (0, value.width) else f"{name}[{low + keep - 1}:{low}]"
    extend = width - zeros - keep
    pieces = [f"{{{extend}{{{sign if value.signed else chr(49) + chr(39) + 'b0'}}}}}"] if extend else []
    pieces += [part] + ([f"{zeros}'d0"] if zeros else [])
    return pieces[0] if len(pieces) == 1 else f"{{{', '.join(pieces)}}}"


def _expression(core: Core, index: int) -> str:
    value = core.values[index]
    stage, sources, data = value.stage, value.sources, value.data
    match value.opcode:
        case -2:
            return f"{value.width}'d0 - {_aligned(core, sources[0], stage, value.fraction, 0, value.width)}"
        case -1:
            return _input_slice(core, value)
        case 0 | 1:
            return _sum(core, value, "-" if value.opcode else "+", data[0])
        case 2:
            source = core.values[sources[0]]
            operand = _aligned(core, sources[0], stage, value.fraction, 0, value.width)
            if not source.signed:
                return operand
            name = _reference(core, sources[0], stage)
            return f"{operand} & {{{value.width}{{~{name}[{source.width - 1}]}}}}"
        case 3:
            return _aligned(core, sources[0], stage, value.fraction, data[0], value.width)
        case 4:
            return _plus_constant(core, value)
        case 5:
            return f"{value.width}'d{data[0] % 2**value.width}"
        case 6:
            key = core.values[sources[2]]
            chosen = [_aligned(core, sources[0], stage, value.fraction, 0, value.width)]
            chosen += [_aligned(core, sources[1], stage, value.fraction, data[0], value.width)]
            return f"{_reference(core, sources[2], stage)}[{key.width - 1}] ? {chosen[0]} : {chosen[1]}"
        case 9:
            name = _reference(core, sources[0], stage)
            return f"{'~|&'[data[0]]}{name}"
        case 10:
            first = _aligned(core, sources[0], stage, value.fraction, 0, value.width)
            second = _aligned(core, sources[1], stage, value.fraction, data[0], value.width)
            return f"{first} {'&|^'[data[1]]} {second}"
        case _:
            raise AssertionError(f"operation {value.opcode} is not made by matrix products and requantisations")


def _input_slice(core: Core, value: AdderValue) -> str:
    width = core.format_in.width
    low = value.data[0] * width - min(value.fraction, 0)
    return f"in_data[{low + value.width - 1}:{low}]"


def _sum(core: Core, value: AdderValue, sign: str, second_shift: int) -> str:
    """Add or subtract; operands are filled to one width, of which synthesis drops the constant low bits."""
    first, second = value.sources
    operands = [(index, shift) for index, shift in ((first, 0), (second, second_shift)) if core.values[index].width]
    assert all(core.values[index].fraction - shift <= value.fraction for index, shift in operands), "a sum keeps all its bits"
    texts = [_aligned(core, i, value.stage, value.fraction, n, value.width) for i, n in ((first, 0), (second, second_shift))]
    return f"{texts[0]} {sign} {texts[1]}"


def _plus_constant(core: Core, value: AdderValue) -> str:
    constant, fraction = value.data
    assert fraction <= value.fraction, "a sum keeps all its bits"
    code = (constant << (value.fraction - fraction)) % 2**value.width
    return f"{_aligned(core, value.sources[0], value.stage, value.fraction, 0, value.width)} + {value.width}'d{code}"
