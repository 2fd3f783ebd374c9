"""Multiplication by constant weights as a pipelined graph of adders: traced through alkaid, written as plain Verilog.

A core takes a bus of input words and gives a bus of output words, one event per clock cycle. It is cut into stages of at
most `cutoff` adder delays, and every stage ends in registers: what enters at one clock edge can be captured `stages` edges
later. Nothing else of alkaid is used, and none of its text goes into the project.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, assert_never

import numpy as np

from caloedge.backends.rtl.steps import After, Rounded, Scaled
from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.compiler.ranges import Tensor
from caloedge.errors import MissingTool, Unsupported

SOLVER = {
    "hard_dc": 2,  # adder delays that the search may spend beyond the shortest tree, to save adders
    "binary_lut": False,  # tables for one-bit inputs fail for signed ones in alkaid 0.8.2
}

ROUNDINGS = {Rounding.HALF_EVEN: "RND_CONV", Rounding.HALF_UP: "RND", Rounding.TRUNCATE: "TRN"}
EXACT_BITS = 50
"""alkaid holds values as float64: wider sums are refused."""
CONSTANT_BITS = 24
"""alkaid takes weights as float32, and biases as 32-bit integers: what has more significant bits is refused."""

CURE = "use strategy: streaming, for a convolution with a reuse above 1"


@dataclass(frozen=True)
class Step:
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
    values: tuple["Value", ...]
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
class Value:
    """One intermediate result: alkaid's operation with integer code n for the value n · 2**−fraction."""

    opcode: int
    sources: tuple[int, ...]
    data: tuple[int, ...]
    signed: bool
    width: int
    fraction: int
    stage: int


def trace_core(steps: tuple[Step, ...], words_in: int, source: Tensor, result: Tensor, cutoff: int) -> Core:
    """Trace layers on input words of one format into an adder graph, in stages of at most `cutoff` adder delays."""
    try:
        from alkaid.trace import FVArrayInput, HWConfig, trace
        from alkaid.trace import ops as symbolic
    except ImportError:
        raise MissingTool("the Python package alkaid is not installed; pip install 'caloedge[rtl]'") from None
    fmt = source.format
    given = FVArrayInput(words_in, HWConfig(1, -1, -1), SOLVER)
    x = given = symbolic.quantize(given, int(fmt.signed), fmt.width - int(fmt.signed), 0)
    for step in steps:
        if step.weights is not None:
            assert step.bias is not None
            _check_constants(step.name, step.weights, step.bias)
            x = x @ step.weights.T.astype(np.float64) + step.bias.astype(np.float64)
        for after in step.after:
            match after:
                case Scaled():
                    weights, bias = after.weights[: len(x)], after.bias[: len(x)]
                    _check_constants(after.op.name, weights, bias)
                    x = x * weights.astype(np.float64) + bias.astype(np.float64)
                case Rounded():
                    x = _requantised(symbolic, x, after)
                case _:
                    assert_never(after)
    return _core(trace(given, x), words_in, fmt, result.format, cutoff, steps[-1].name)


def _check_constants(name: str, weights: Codes, bias: Codes) -> None:
    for what, codes in (("weights", weights), ("biases", bias)):
        magnitude = np.abs(codes)
        bits = int(np.max(magnitude // np.maximum(magnitude & -magnitude, 1))).bit_length()
        if bits > CONSTANT_BITS:
            raise Unsupported(
                f"layer {name}: {what} of {bits} bits are too wide for an adder graph ({CONSTANT_BITS} at most); {CURE}"
            )


def _requantised(symbolic: Any, x: Any, step: Rounded) -> Any:
    op = step.op
    if op.relu:
        x = symbolic.relu(x)
    if offsets := step.offsets:
        _check_constants(op.name, np.array(offsets), np.zeros(1, np.int64))
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


def _core(comb: Any, words_in: int, format_in: Format, format_out: Format, cutoff: int, name: str) -> Core:
    depth = max((op.latency for op in comb.ops), default=0.0)
    stages = max(math.ceil(depth / cutoff), 1)
    ends = np.linspace(0, depth, stages + 1)[1:]
    values = []
    for op in comb.ops:
        signed, integer, fraction = op.qint.kif
        width = max(int(signed) + int(integer) + int(fraction), 0)
        if width > EXACT_BITS:
            raise Unsupported(
                f"layer {name}: sums of {width} bits are too wide for an adder graph ({EXACT_BITS} at most); {CURE}"
            )
        stage = min(int(np.searchsorted(ends, op.latency - 1e-9)), stages - 1)
        data = tuple(int(item) for item in op.data)
        values.append(Value(int(op.opcode), tuple(op.addr), data, bool(signed), width, int(fraction), stage))
    assert not any(comb.out_negs), "an output is negated by an operation of its own"
    assert not any(comb.inp_shifts), "inputs are integers"
    outputs = tuple(zip(map(int, comb.out_idxs), map(int, comb.out_shifts), strict=True))
    adders = sum(value.opcode in (0, 1, 4) for value in values)
    return Core(words_in, format_in, len(outputs), format_out, tuple(values), outputs, stages, depth, adders)


# Verilog


def core_verilog(name: str, core: Core, remark: str) -> str:
    """Return the module `name`: ports clk, in_data, out_data; word 0 in the lowest bits."""
    last_use = _last_uses(core)
    body: list[str] = []
    for index, value in enumerate(core.values):
        if index in last_use and value.width:
            body.append(f"  wire [{value.width - 1}:0] v{index} = {_expression(core, index)};")
    registers: dict[int, list[str]] = defaultdict(list)
    for index, last in last_use.items():
        value = core.values[index]
        if value.width and value.opcode != 5:
            for stage in range(value.stage, last):
                body.append(f"  reg [{value.width - 1}:0] {_register(index, stage + 1)};")
                source = f"v{index}" if stage == value.stage else _register(index, stage)
                registers[stage].append(f"    {_register(index, stage + 1)} <= {source};")
    for stage in sorted(registers):
        body += [f"  always @(posedge clk) begin  // end of stage {stage}", *registers[stage], "  end"]
    width = core.format_out.width
    for word, (index, shift) in enumerate(core.outputs):
        text = _aligned(core, index, core.stages, 0, shift, width) if index >= 0 else f"{width}'d0"
        body.append(f"  assign out_data[{word * width + width - 1}:{word * width}] = {text};")
    lines = "\n".join(body)
    return f"""\
// {remark}
// {core.words_in} words of {core.format_in.width} bit in, {core.words_out} of {width} bit out; \
{core.adders} adders, {core.stages} pipeline stages, one event per cycle.
module {name} (
  input clk,
  input [{core.bits_in - 1}:0] in_data,
  output [{core.bits_out - 1}:0] out_data
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
            kept = _aligned(core, sources[0], stage, value.fraction, 0, value.width)
            if not source.signed:
                return kept
            name = _reference(core, sources[0], stage)
            return f"{kept} & {{{value.width}{{~{name}[{source.width - 1}]}}}}"
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


def _input_slice(core: Core, value: Value) -> str:
    width = core.format_in.width
    low = value.data[0] * width - min(value.fraction, 0)
    return f"in_data[{low + value.width - 1}:{low}]"


def _sum(core: Core, value: Value, sign: str, second_shift: int) -> str:
    """Add or subtract; operands are filled to one width, of which synthesis drops the constant low bits."""
    first, second = value.sources
    operands = [(index, shift) for index, shift in ((first, 0), (second, second_shift)) if core.values[index].width]
    assert all(core.values[index].fraction - shift <= value.fraction for index, shift in operands), "a sum keeps all its bits"
    texts = [_aligned(core, i, value.stage, value.fraction, n, value.width) for i, n in ((first, 0), (second, second_shift))]
    return f"{texts[0]} {sign} {texts[1]}"


def _plus_constant(core: Core, value: Value) -> str:
    constant, fraction = value.data
    assert fraction <= value.fraction, "a sum keeps all its bits"
    code = (constant << (value.fraction - fraction)) % 2**value.width
    return f"{_aligned(core, value.sources[0], value.stage, value.fraction, 0, value.width)} + {value.width}'d{code}"
