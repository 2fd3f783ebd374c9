"""From a design to Verilog text: one module per layer, adder cores, weight ROMs, and the top that joins them.

Everything here is a pure function of the design. The parameterised parts `caloedge_*` are hand-written and lie in `hls/rtl/`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby, product
from typing import assert_never

import numpy as np

from caloedge.backends.rtl.adders import Core, Step, core_modules, trace_core
from caloedge.backends.rtl.design import Design, Layer, Stage, Stream, window_size
from caloedge.backends.rtl.steps import Rounded, Scaled
from caloedge.backends.rtl.tables import literal, row_verilog
from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.compiler.ops import Conv, Dense, MaxPool, Table, Threshold

ROUNDING_CODES = {Rounding.TRUNCATE: 0, Rounding.HALF_UP: 1, Rounding.HALF_EVEN: 2}
Port = tuple[str, str, int]
"""Name, `input` or `output`, bits."""


@dataclass
class Text:
    """A written design."""

    modules: dict[str, str] = field(default_factory=dict)
    """Text by module name."""
    parts: set[str] = field(default_factory=set)
    """Hand-written modules that it uses."""
    blocks: dict[str, int] = field(default_factory=dict)
    """Modules that are synthesised by themselves, and how often each occurs."""
    ports: list[Port] = field(default_factory=list)
    adders: int = 0
    pipeline_cycles: int | None = None
    """From input to output, where that is the same for every event."""


def write_design(design: Design, cutoff: int) -> Text:
    """Write all modules; adder graphs are cut into stages of at most `cutoff` adder delays."""
    text = Text()
    groups = [_unrolled(list(stages), design, cutoff, text) if unrolled else list(stages) for unrolled, stages in _runs(design)]
    if design.streaming:
        _streaming_top(design, groups, cutoff, text)
    else:
        _pipeline_top(design, groups, text)
    return text


@dataclass(frozen=True)
class Pipeline:
    """Consecutive unrolled stages: instances in a row, with a fixed latency."""

    name: str
    instances: tuple[tuple[str, int, int], ...]
    """Module, bits in, bits out."""
    latency: int
    source: Stream
    result: Stream


def _runs(design: Design) -> Iterator[tuple[bool, Iterator[Stage]]]:
    return groupby(design.stages, key=lambda stage: stage.strategy == "unrolled")


def _name(stage: Stage, design: Design) -> str:
    return design.identifiers[stage.layer.name]


# Unrolled stages


def _unrolled(stages: list[Stage], design: Design, cutoff: int, text: Text) -> list[Stage] | Pipeline:
    """Write the cores of consecutive unrolled stages: one per convolution, one for each run of the others.

    A max pool or a table is one register stage, and the steps that follow it a core behind it.
    """
    instances, latency = [], 0
    for is_alone, group in groupby(stages, key=lambda stage: not isinstance(stage.layer.op, Dense | None)):
        for members in [[stage] for stage in group] if is_alone else [list(group)]:
            first, last = members[0], members[-1]
            is_convolution, layers = isinstance(first.layer.op, Conv), [stage.layer for stage in members]
            name = f"core_{_name(first, design)}"
            if isinstance(first.layer.op, MaxPool | Table | Threshold):
                module = f"layer_{_name(first, design)}"
                write = _all_maxima if isinstance(first.layer.op, MaxPool) else _all_tables
                text.modules[module], bits = write(module, first, text)
                text.blocks[module] = 1
                instances.append((module, first.source.bits, bits))
                latency += 1
                if not first.layer.after:
                    continue
                layers = [replace(first.layer, op=None, source=first.layer.sums)]
            core = _core(layers, cutoff)
            remark = f"Unrolled: {', '.join(stage.layer.name for stage in members)}"
            modules = core_modules(name, core, remark)
            text.modules |= modules
            text.blocks |= dict.fromkeys(list(modules)[:-1] or modules, layers[0].positions)
            text.adders += core.adders * layers[0].positions
            module = name
            if is_convolution:
                module = f"layer_{_name(first, design)}"
                text.modules[module] = _all_positions(module, name, first)
            instances.append((module, first.source.bits, last.result.bits))
            latency += core.stages
    name = f"pipeline_{_name(stages[0], design)}"
    return Pipeline(name, tuple(instances), latency, stages[0].source, stages[-1].result)


def _core(layers: Sequence[Layer], cutoff: int) -> Core:
    first = layers[0]
    words = first.source.size if first.op is None else first.weights.shape[1]
    return trace_core(tuple(_step(layer) for layer in layers), words, first.source, layers[-1].result, cutoff)


def _step(layer: Layer) -> Step:
    if isinstance(layer.op, Conv | Dense):
        return Step(layer.name, layer.weights, layer.op.bias, layer.after)
    return Step(layer.name, None, None, layer.after)


def _all_positions(module: str, core: str, stage: Stage) -> str:
    """Return a module with one core per output position, all reading their pixels from the whole event."""
    op = stage.layer.op
    assert isinstance(op, Conv)
    out = len(op.weights) * stage.result.format.width
    lines = [
        f"  {core} {unit} (.clk(clk), .in_data({pixels}), .out_data({_slice('out_data', position, out)}));"
        for position, (unit, pixels) in enumerate(_windows(stage, op, op.padding[:2]))
    ]
    return _side_by_side(module, stage, stage.result.bits, lines)


def _all_maxima(module: str, stage: Stage, text: Text) -> tuple[str, int]:
    """Return a module with one maximum per output position, registered, and its output bits."""
    op, fmt = stage.layer.op, stage.source.format
    assert isinstance(op, MaxPool)
    out = stage.layer.sums.shape[0] * fmt.width
    lines = [
        _maximum(stage, unit, pixels, _slice("largest", position, out), text)
        for position, (unit, pixels) in enumerate(_windows(stage, op, (0, 0)))
    ]
    bits = out * len(lines)
    return _side_by_side(module, stage, bits, _registered("largest", bits, lines)), bits


def _registered(name: str, bits: int, lines: list[str]) -> list[str]:
    """Return what drives a wire, and a register of it that drives the output."""
    return [f"  wire [{bits - 1}:0] {name};", *lines, f"  reg [{bits - 1}:0] result;",
            f"  always @(posedge clk) result <= {name};", "  assign out_data = result;"]  # fmt: skip


def _all_tables(module: str, stage: Stage, text: Text) -> tuple[str, int]:
    """Return a module with one table per word, registered, and its output bits."""
    words, out = stage.layer.sums.size, stage.layer.sums.format.width
    lines = _tables(stage, words, "in_data", "found", text)
    body = "\n".join(_registered("found", words * out, lines))
    ports = f"  input clk,\n  input [{stage.source.bits - 1}:0] in_data,\n  output [{words * out - 1}:0] out_data"
    remark = f"// {stage.layer.name}, unrolled: one table per word."
    return f"{remark}\nmodule {module} (\n{ports}\n);\n{body}\nendmodule\n", words * out


def _tables(stage: Stage, words: int, given: str, made: str, text: Text) -> list[str]:
    """Return an instance for each of the first words of an event, and write one module for each different row."""
    layer, op, wires = stage.layer, stage.layer.op, []
    assert isinstance(op, Table | Threshold)
    known: dict[bytes, str] = {}
    base = f"table_{stage.source.format.width}_{layer.name}"
    for word, row in enumerate(layer.rows[:words]):
        if row.tobytes() not in known:
            name = re.sub(r"\W", "_", f"{base}_{len(known)}", flags=re.ASCII)
            known[row.tobytes()] = name
            text.modules[name] = row_verilog(name, op, row, layer.source.format, layer.source.range)
        ports = f".in_data({_slice(given, word, layer.source.format.width)}), "
        ports += f".out_data({_slice(made, word, layer.sums.format.width)})"
        wires.append(f"  {known[row.tobytes()]} {made}_{word} ({ports});")
    return wires


def _maximum(stage: Stage, unit: str, given: str, made: str, text: Text) -> str:
    """Return the instance that takes the largest of one window, channel by channel."""
    op, fmt = stage.layer.op, stage.source.format
    assert isinstance(op, MaxPool)
    parameters: dict[str, int | str] = {
        "COUNT": op.kernel[0] * op.kernel[1], "CHANNELS": stage.layer.source.shape[0],
        "BITS": fmt.width, "SIGNED": int(fmt.signed),
    }  # fmt: skip
    return _instance("caloedge_max", unit, text, parameters, {"clk": "", "rst": "", "in_data": given, "out_data": made})


def _windows(stage: Stage, op: Conv | MaxPool, first: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Yield a name and the pixels of each position, read from the whole event; `first` rows and columns of zeros come before."""
    channels, height, width = stage.layer.source.shape
    pixel = channels * stage.source.format.width
    for row, column in product(*map(range, stage.layer.sums.shape[1:])):
        pieces = []
        for r, c in product(*map(range, op.kernel)):
            y = row * op.stride[0] + r * op.dilation[0] - first[0]
            x = column * op.stride[1] + c * op.dilation[1] - first[1]
            inside = 0 <= y < height and 0 <= x < width
            pieces.append(_slice("in_data", y * width + x, pixel) if inside else f"{pixel}'d0")
        yield f"at_{row}_{column}", "{" + ", ".join(reversed(pieces)) + "}"


def _side_by_side(module: str, stage: Stage, bits: int, lines: list[str]) -> str:
    body = "\n".join(lines)
    return f"""\
// {stage.layer.name}, unrolled: {stage.layer.positions} positions side by side.
module {module} (
  input clk,
  input [{stage.source.bits - 1}:0] in_data,
  output [{bits - 1}:0] out_data
);
{body}
endmodule
"""


def _slice(name: str, index: int, width: int) -> str:
    return f"{name}[{(index + 1) * width - 1}:{index * width}]"


def _chain(pipeline: Pipeline, given: str, made: str) -> list[str]:
    """Return the instances of a pipeline between two wires."""
    lines, at = [], given
    for number, (module, _, bits) in enumerate(pipeline.instances):
        last = number == len(pipeline.instances) - 1
        to = made if last else f"between_{module}"
        if not last:
            lines.append(f"  wire [{bits - 1}:0] {to};")
        lines.append(f"  {module} {module}_unit (.clk(clk), .in_data({at}), .out_data({to}));")
        at = to
    return lines


def _pipeline_top(design: Design, groups: list[list[Stage] | Pipeline], text: Text) -> None:
    (pipeline,) = groups
    assert isinstance(pipeline, Pipeline)
    text.pipeline_cycles = pipeline.latency
    text.ports = [("clk", "input", 1), ("rst", "input", 1), ("in_valid", "input", 1), ("in_data", "input", design.source.bits),
                  ("out_valid", "output", 1), ("out_data", "output", design.result.bits)]  # fmt: skip
    if pipeline.latency > 1:
        shift = f"rst ? {pipeline.latency}'d0 : {{valid[{pipeline.latency - 2}:0], in_valid}}"
    else:
        shift = "in_valid & ~rst"
    body = "\n".join(_chain(pipeline, "in_data", "out_data"))
    text.modules[design.name] = f"""\
// An event may enter every cycle; its result leaves {pipeline.latency} cycles later. Nothing waits: there is no ready.
module {design.name} (
{_port_list(text.ports)}
);
  reg [{pipeline.latency - 1}:0] valid;
  always @(posedge clk) valid <= {shift};
  assign out_valid = valid[{pipeline.latency - 1}];
{body}
endmodule
"""


def _port_list(ports: list[Port]) -> str:
    return ",\n".join(f"  {kind} {name}" if bits == 1 else f"  {kind} [{bits - 1}:0] {name}" for name, kind, bits in ports)


# Streaming stages


def _stream_ports(source_bits: int, result_bits: int) -> list[Port]:
    return [("clk", "input", 1), ("rst", "input", 1),
            ("in_valid", "input", 1), ("in_ready", "output", 1), ("in_data", "input", source_bits),
            ("out_valid", "output", 1), ("out_ready", "input", 1), ("out_data", "output", result_bits)]  # fmt: skip


def _stream_module(name: str, remark: str, source_bits: int, result_bits: int, lines: list[str]) -> str:
    body = "\n".join(lines)
    return f"// {remark}\nmodule {name} (\n{_port_list(_stream_ports(source_bits, result_bits))}\n);\n{body}\nendmodule\n"


def _instance(module: str, unit: str, text: Text, parameters: dict[str, int | str], ports: dict[str, str]) -> str:
    """Return an instance of a hand-written part, and note that it is used."""
    text.parts.add(module)
    given = ", ".join(f".{name}({value})" for name, value in parameters.items())
    wired = ", ".join(f".{name}({value})" for name, value in {"clk": "clk", "rst": "rst", **ports}.items() if value)
    return f"  {module} #({given}) {unit} ({wired});"


def _link(before: str, after: str) -> dict[str, str]:
    """Return the ports of a part between two streams."""
    return {f"{side}_{what}": f"{stream}_{what}" for side, stream in (("in", before), ("out", after))
            for what in ("valid", "ready", "data")}  # fmt: skip


def _wires(name: str, bits: int) -> str:
    return f"  wire {name}_valid, {name}_ready;\n  wire [{bits - 1}:0] {name}_data;"


def _streaming_top(design: Design, groups: list[list[Stage] | Pipeline], cutoff: int, text: Text) -> None:
    text.ports = _stream_ports(design.source.bits, design.result.bits)
    modules: list[tuple[str, Stream, Stream]] = []
    for group in groups:
        if isinstance(group, Pipeline):
            modules.append(_stallable(group, text))
            continue
        for stage in group:
            name = f"layer_{_name(stage, design)}"
            lines = _streaming(stage, name, cutoff, text)
            text.modules[name] = _stream_module(name, _remark(stage), stage.source.bits, stage.result.bits, lines)
            text.blocks[name] = 1
            modules.append((name, stage.source, stage.result))
    lines, at, stream = [], "in", design.source
    for number, (name, source, result) in enumerate(modules):
        if stream.beats != source.beats:
            lines += [_wires(f"to_{name}", source.bits), _adapter(stream, source, at, f"to_{name}", text)]
            at = f"to_{name}"
        to = "out" if number == len(modules) - 1 else f"from_{name}"
        if to != "out":
            lines.append(_wires(to, result.bits))
        wired = ", ".join(f".{port}({wire})" for port, wire in {"clk": "clk", "rst": "rst", **_link(at, to)}.items())
        lines.append(f"  {name} {name}_unit ({wired});")
        at, stream = to, result
    remark = f"An event takes {design.source.beats} input beats; valid and ready at both ends."
    text.modules[design.name] = _stream_module(design.name, remark, design.source.bits, design.result.bits, lines)


def _remark(stage: Stage) -> str:
    lanes = f", {stage.multipliers} multipliers" if stage.multipliers else ""
    return f"{stage.layer.name}, streaming: {stage.cycles} cycles per event{lanes}."


def _adapter(given: Stream, wanted: Stream, before: str, after: str, text: Text) -> str:
    if wanted.beats == 1:
        return _instance(
            "caloedge_join", f"{after}_unit", text, {"WIDTH": given.bits, "BEATS": given.beats}, _link(before, after)
        )
    assert given.beats == 1
    return _instance("caloedge_split", f"{after}_unit", text, {"WIDTH": wanted.bits, "BEATS": wanted.beats}, _link(before, after))


def _stallable(pipeline: Pipeline, text: Text) -> tuple[str, Stream, Stream]:
    """Write a module that makes unrolled stages wait when their result is not taken."""
    lines = [f"  wire [{pipeline.result.bits - 1}:0] result;", *_chain(pipeline, "in_data", "result")]
    lines.append(_credit(pipeline.latency, pipeline.result.bits, "in", text))
    remark = f"Unrolled stages, {pipeline.latency} cycles, behind a result FIFO."
    text.modules[pipeline.name] = _stream_module(pipeline.name, remark, pipeline.source.bits, pipeline.result.bits, lines)
    return pipeline.name, pipeline.source, pipeline.result


def _credit(latency: int, bits: int, before: str, text: Text) -> str:
    ports = {name: wire for name, wire in _link(before, "out").items() if name != "in_data"} | {"core_result": "result"}
    return _instance("caloedge_credit", "credit", text, {"LATENCY": latency, "WIDTH": bits}, ports)


def _streaming(stage: Stage, name: str, cutoff: int, text: Text) -> list[str]:
    match stage.layer.op:
        case Conv():
            return _convolution(stage, name, cutoff, text)
        case MaxPool():
            return _max_pool(stage, text)
        case Dense() | None:
            return _dense(stage, name, text)
        case Table() | Threshold():
            words, bits = stage.source.words, stage.layer.sums.format.width
            lines = [f"  wire [{words * bits - 1}:0] sums;", *_tables(stage, words, "in_data", "sums", text)]
            return lines + _finished(stage, words, stage.layer.sums.format, "in", text)
        case _:
            assert_never(stage.layer.op)


def _window(stage: Stage, op: Conv | MaxPool, padding: Sequence[int], text: Text) -> list[str]:
    """Return the line buffer between the stream `in` and the stream `window`, one position per beat."""
    _, height, width = stage.layer.source.shape
    top, left, bottom, right = padding
    rows, columns = window_size(op)
    parameters: dict[str, int | str] = {
        "HEIGHT": height, "WIDTH": width, "KERNEL_H": rows, "KERNEL_W": columns,
        "STRIDE_H": op.stride[0], "STRIDE_W": op.stride[1],
        "PAD_TOP": top, "PAD_LEFT": left, "PAD_BOTTOM": bottom, "PAD_RIGHT": right, "BITS": stage.source.bits,
    }  # fmt: skip
    if (rows, columns) == op.kernel:
        window = _instance("caloedge_window", "windows", text, parameters, _link("in", "window"))
        return [_wires("window", rows * columns * stage.source.bits), window]
    # A dilated kernel reads some pixels of a larger window.
    ports = _link("in", "window") | {"out_data": "pixels"}
    taps = [_slice("pixels", r * op.dilation[0] * columns + c * op.dilation[1], stage.source.bits)
            for r, c in product(*map(range, op.kernel))]  # fmt: skip
    return [
        _wires("window", len(taps) * stage.source.bits),
        f"  wire [{rows * columns * stage.source.bits - 1}:0] pixels;",
        _instance("caloedge_window", "windows", text, parameters, ports),
        f"  assign window_data = {{{', '.join(reversed(taps))}}};",
    ]


def _max_pool(stage: Stage, text: Text) -> list[str]:
    op = stage.layer.op
    assert isinstance(op, MaxPool)
    lines = _window(stage, op, (0, 0, 0, 0), text)
    lines += [f"  wire [{stage.source.bits - 1}:0] sums;", _maximum(stage, "largest", "window_data", "sums", text)]
    return lines + _finished(stage, stage.source.words, stage.source.format, "window", text)


def _convolution(stage: Stage, name: str, cutoff: int, text: Text) -> list[str]:
    layer, op = stage.layer, stage.layer.op
    assert isinstance(op, Conv)
    lines = _window(stage, op, op.padding, text)
    if stage.fold > 1:
        return lines + _multiply(stage, name, "window", 1, layer.weights.shape[1], text)
    core = _core([layer], cutoff)
    module = f"core_{name.removeprefix('layer_')}"
    text.modules |= core_modules(module, core, f"Kernel of {layer.name}, one position per cycle")
    text.adders += core.adders
    lines += [f"  wire [{core.bits_out - 1}:0] result;",
              f"  {module} core (.clk(clk), .in_data(window_data), .out_data(result));"]  # fmt: skip
    return [*lines, _credit(core.stages, core.bits_out, "window", text)]


def _dense(stage: Stage, name: str, text: Text) -> list[str]:
    if stage.layer.op is None:
        lines = [f"  wire [{stage.source.bits - 1}:0] sums = in_data;"]
        return lines + _finished(stage, stage.source.words, stage.layer.source.format, "in", text)
    return _multiply(stage, name, "in", stage.source.beats, stage.source.words, text)


def _multiply(stage: Stage, name: str, before: str, beats: int, words: int, text: Text) -> list[str]:
    """Return a multiply–accumulate array with its ROM, requantisation and output FIFO."""
    layer, op = stage.layer, stage.layer.op
    assert isinstance(op, Conv | Dense)
    outputs, sum_format = len(op.weights), signed(layer.sums.format)
    weight_bits = signed(Format.holding(int(op.weights.min()), int(op.weights.max()), 0)).width
    rom = _rom_words(layer.weights, beats, words, stage.fold, weight_bits)
    rom_name = f"rom_{name.removeprefix('layer_')}"
    rom_bits = stage.lanes * outputs * weight_bits
    address_bits = max((len(rom) - 1).bit_length(), 1)
    text.modules[rom_name] = _rom(rom_name, rom, address_bits, rom_bits, layer.name)
    bias = sum((int(code) % 2**sum_format.width) << (i * sum_format.width) for i, code in enumerate(op.bias))
    bits = outputs * sum_format.width
    parameters: dict[str, int | str] = {
        "BEATS": beats, "WORDS": words, "FOLD": stage.fold, "OUTPUTS": outputs, "IN_BITS": layer.source.format.width,
        "IN_SIGNED": int(layer.source.format.signed), "WEIGHT_BITS": weight_bits, "SUM_BITS": sum_format.width,
    }  # fmt: skip
    ports = _link(before, "sum")
    ports |= {"rom_address": "address", "rom_word": "word", "rom_enable": "enable", "bias": f"{bits}'h{bias:x}"}
    return [
        _wires("sum", bits),
        f"  wire [{address_bits - 1}:0] address;\n  wire [{rom_bits - 1}:0] word;\n  wire enable;",
        _instance("caloedge_mac_array", "array", text, parameters, ports),
        f"  {rom_name} rom (.clk(clk), .enable(enable), .address(address), .word(word));",
        f"  wire [{bits - 1}:0] sums = sum_data;",
        *_finished(stage, outputs, sum_format, "sum", text),
    ]


def signed(fmt: Format) -> Format:
    """Return the signed format that holds all codes of `fmt`."""
    return fmt if fmt.signed else Format(True, fmt.width + 1, fmt.fraction)


def _rom_words(weights: Codes, beats: int, words: int, fold: int, bits: int) -> list[int]:
    """Return one ROM word per cycle: the weights of each lane and output, lane-major, lowest first."""
    lanes = -(-words // fold)
    outputs = len(weights)
    padded = np.zeros((outputs, beats, lanes * fold), dtype=np.int64)
    padded[:, :, :words] = weights.reshape(outputs, beats, words)
    per_cycle = padded.reshape(outputs, beats * fold, lanes).transpose(1, 2, 0).reshape(beats * fold, -1)
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


def _finished(stage: Stage, words: int, fmt: Format, before: str, text: Text) -> list[str]:
    """Return the steps behind a bus `sums` and the FIFO behind them."""
    lines: list[str] = []
    at, result = "sums", stage.result.format
    for number, step in enumerate(stage.layer.after):
        to = f"rounded_{number}"
        write = _rounded if isinstance(step, Rounded) else _scaled
        made, fmt = write(step, at, to, words, fmt, text)  # type: ignore[arg-type]
        lines += made
        at = to
    if fmt.width != result.width:  # sums that leave unrounded: the sign bit that multiplication added is dropped
        narrow = ", ".join(f"{at}[{word * fmt.width + result.width - 1}:{word * fmt.width}]" for word in reversed(range(words)))
        lines.append(f"  wire [{words * result.width - 1}:0] kept = {{{narrow}}};")
        at = "kept"
    ports = {f"in_{what}": f"{before}_{what}" for what in ("valid", "ready")} | {"in_data": at}
    ports |= {f"out_{what}": f"out_{what}" for what in ("valid", "ready", "data")}
    return [*lines, _instance("caloedge_fifo", "results", text, {"WIDTH": stage.result.bits if stage.layer.op is None
            else words * result.width, "DEPTH": 2}, ports)]  # fmt: skip


def _rounded(step: Rounded, at: str, to: str, words: int, fmt: Format, text: Text) -> tuple[list[str], Format]:
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


def _scaled(step: Scaled, at: str, to: str, words: int, fmt: Format, text: Text) -> tuple[list[str], Format]:
    """Return a multiplication of each word of a bus, and the format of what it makes."""
    made = signed(step.format)
    lines = [f"  wire [{words * made.width - 1}:0] {to};"]
    for word in range(words):
        parameters: dict[str, int | str] = {"IN_WIDTH": signed(fmt).width, "OUT_WIDTH": made.width,
            "WEIGHT": literal(int(step.weights[word]), 64), "BIAS": literal(int(step.bias[word]), 64)}  # fmt: skip
        given = _signed_slice(at, word, fmt)
        lines.append(_combinational("caloedge_affine", to, word, text, parameters, given, made.width))
    return lines, made


def _combinational(module: str, to: str, word: int, text: Text, parameters: dict[str, int | str], given: str, width: int) -> str:
    """Return the instance of a hand-written part that makes one word of the bus `to`."""
    ports = {"clk": "", "rst": "", "in_data": given, "out_data": _slice(to, word, width)}
    return _instance(module, f"{to}_{word}", text, parameters, ports)


def _signed_slice(bus: str, word: int, fmt: Format) -> str:
    part = _slice(bus, word, fmt.width)
    return part if fmt.signed else f"{{1'b0, {part}}}"
