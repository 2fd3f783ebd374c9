"""From a design to Verilog text: one module per layer, adder cores, weight ROMs, and the top that joins them.

Everything here is a pure function of the design. The parameterised parts `caloedge_*` are hand-written and lie in `hls/rtl/`.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, product
from typing import assert_never

import numpy as np

from caloedge.backends.rtl.adders import Core, CoreLayer, core_modules, trace_core
from caloedge.backends.rtl.design import Design, RtlStage, Stream
from caloedge.backends.rtl.layers import RtlLayer, window_size
from caloedge.backends.rtl.mac_arrays import MULTIPLY_CYCLES, epilogue, multiply
from caloedge.backends.rtl.tables import row_verilog
from caloedge.backends.rtl.text import (
    VerilogPort,
    VerilogText,
    instance,
    link,
    part_of,
    port_list,
    stream_module,
    stream_ports,
    stream_wires,
)
from caloedge.compiler.ops import Conv, Dense, MaxPool, Table, Threshold
from caloedge.compiler.squeeze_excite import Gate

__all__ = ["Pipeline", "VerilogText", "write_design"]


def write_design(design: Design, cutoff: int) -> VerilogText:
    """Write all modules; adder graphs are cut into stages of at most `cutoff` adder delays."""
    text = VerilogText(design.name)
    if design.streaming:
        _streaming_top(design, cutoff, text)
    else:
        _pipeline_top(design, cutoff, text)
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


def _name(stage: RtlStage, design: Design) -> str:
    return design.identifiers[stage.layer.name]


# Unrolled stages


def _unrolled(stages: Sequence[RtlStage], design: Design, cutoff: int, text: VerilogText) -> Pipeline:
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


def _core(layers: Sequence[RtlLayer], cutoff: int) -> Core:
    first = layers[0]
    words = first.source.size if first.op is None else first.weights.shape[1]
    return trace_core(tuple(_step(layer) for layer in layers), words, first.source, layers[-1].result, cutoff)


def _step(layer: RtlLayer) -> CoreLayer:
    if isinstance(layer.op, Conv | Dense):
        return CoreLayer(layer.name, layer.weights, layer.op.bias, layer.after)
    return CoreLayer(layer.name, None, None, layer.after)


def _all_positions(module: str, core: str, stage: RtlStage) -> str:
    """Return a module with one core per output position, all reading their pixels from the whole event."""
    op = stage.layer.op
    assert isinstance(op, Conv)
    out = len(op.weights) * stage.result.format.width
    lines = [
        f"  {core} {unit} (.clk(clk), .in_data({pixels}), .out_data({part_of('out_data', position, out)}));"
        for position, (unit, pixels) in enumerate(_windows(stage, op, op.padding[:2]))
    ]
    return _side_by_side(module, stage, stage.result.bits, lines)


def _all_maxima(module: str, stage: RtlStage, text: VerilogText) -> tuple[str, int]:
    """Return a module with one maximum per output position, registered, and its output bits."""
    op, fmt = stage.layer.op, stage.source.format
    assert isinstance(op, MaxPool)
    out = stage.layer.sums.shape[0] * fmt.width
    lines = [
        _maximum(stage, unit, pixels, part_of("largest", position, out), text)
        for position, (unit, pixels) in enumerate(_windows(stage, op, (0, 0)))
    ]
    bits = out * len(lines)
    return _side_by_side(module, stage, bits, _registered("largest", bits, lines)), bits


def _registered(name: str, bits: int, lines: list[str]) -> list[str]:
    """Return what drives a wire, and a register of it that drives the output."""
    return [f"  wire [{bits - 1}:0] {name};", *lines, f"  reg [{bits - 1}:0] result;",
            f"  always @(posedge clk) result <= {name};", "  assign out_data = result;"]  # fmt: skip


def _all_tables(module: str, stage: RtlStage, text: VerilogText) -> tuple[str, int]:
    """Return a module with one table per word, registered, and its output bits."""
    words, out = stage.layer.sums.size, stage.layer.sums.format.width
    lines = _tables(stage, words, "in_data", "found", text)
    body = "\n".join(_registered("found", words * out, lines))
    ports = f"  input clk,\n  input [{stage.source.bits - 1}:0] in_data,\n  output [{words * out - 1}:0] out_data"
    remark = f"// {stage.layer.name}, unrolled: one table per word."
    return f"{remark}\nmodule {module} (\n{ports}\n);\n{body}\nendmodule\n", words * out


def _tables(stage: RtlStage, words: int, source: str, result: str, text: VerilogText) -> list[str]:
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
        ports = f".in_data({part_of(source, word, layer.source.format.width)}), "
        ports += f".out_data({part_of(result, word, layer.sums.format.width)})"
        wires.append(f"  {known[row.tobytes()]} {result}_{word} ({ports});")
    return wires


def _maximum(stage: RtlStage, unit: str, source: str, result: str, text: VerilogText) -> str:
    """Return the instance that takes the largest of one window, channel by channel."""
    op, fmt = stage.layer.op, stage.source.format
    assert isinstance(op, MaxPool)
    parameters: dict[str, int | str] = {
        "COUNT": op.kernel[0] * op.kernel[1], "CHANNELS": stage.layer.source.shape[0],
        "BITS": fmt.width, "SIGNED": int(fmt.signed),
    }  # fmt: skip
    return instance("caloedge_max", unit, text, parameters, {"clk": "", "rst": "", "in_data": source, "out_data": result})


def _windows(stage: RtlStage, op: Conv | MaxPool, first: Sequence[int]) -> Iterator[tuple[str, str]]:
    """Yield a name and the pixels of each position, read from the whole event; `first` rows and columns of zeros come before."""
    channels, height, width = stage.layer.source.shape
    pixel = channels * stage.source.format.width
    for row, column in product(*map(range, stage.layer.sums.shape[1:])):
        pieces = []
        for r, c in product(*map(range, op.kernel)):
            y = row * op.stride[0] + r * op.dilation[0] - first[0]
            x = column * op.stride[1] + c * op.dilation[1] - first[1]
            inside = 0 <= y < height and 0 <= x < width
            pieces.append(part_of("in_data", y * width + x, pixel) if inside else f"{pixel}'d0")
        yield f"at_{row}_{column}", "{" + ", ".join(reversed(pieces)) + "}"


def _side_by_side(module: str, stage: RtlStage, bits: int, lines: list[str]) -> str:
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


def _between(pipeline: Pipeline, source: str, result: str) -> list[str]:
    """Return the instances of a pipeline between two wires."""
    lines, at = [], source
    for number, (module, _, bits) in enumerate(pipeline.instances):
        last = number == len(pipeline.instances) - 1
        to = result if last else f"between_{module}"
        if not last:
            lines.append(f"  wire [{bits - 1}:0] {to};")
        lines.append(f"  {module} {module}_unit (.clk(clk), .in_data({at}), .out_data({to}));")
        at = to
    return lines


def _pipeline_top(design: Design, cutoff: int, text: VerilogText) -> None:
    pipeline = _unrolled(design.stages, design, cutoff, text)
    text.pipeline_cycles = pipeline.latency
    text.ports = [("clk", "input", 1), ("rst", "input", 1), ("in_valid", "input", 1), ("in_data", "input", design.source.bits),
                  ("out_valid", "output", 1), ("out_data", "output", design.result.bits)]  # fmt: skip
    if pipeline.latency > 1:
        shift = f"rst ? {pipeline.latency}'d0 : {{valid[{pipeline.latency - 2}:0], in_valid}}"
    else:
        shift = "in_valid & ~rst"
    body = "\n".join(_between(pipeline, "in_data", "out_data"))
    text.modules[design.name] = f"""\
// An event may enter every cycle; its result leaves {pipeline.latency} cycles later. Nothing waits: there is no ready.
module {design.name} (
{port_list(text.ports)}
);
  reg [{pipeline.latency - 1}:0] valid;
  always @(posedge clk) valid <= {shift};
  assign out_valid = valid[{pipeline.latency - 1}];
{body}
endmodule
"""


# Streaming stages


def _streaming_top(design: Design, cutoff: int, text: VerilogText) -> None:
    text.ports = stream_ports(design.source.bits, design.result.bits)
    lines, _ = _linked(design.stages, design.source, "in", "out", design, cutoff, text)
    remark = f"An event takes {design.source.beats} input beats; valid and ready at both ends."
    text.modules[design.name] = stream_module(design.name, remark, design.source.bits, design.result.bits, lines)


@dataclass(frozen=True)
class _Linked:
    """A written module with a stream at both ends."""

    name: str
    source: Stream
    result: Stream
    cycles: int
    """Most cycles from an input beat that completes an event to its result, where an event is one beat."""
    more_ports: tuple[str, ...] = ()
    lines: tuple[str, ...] = ()
    """Lines that stand beside it: a gate's excitation."""


def _linked(
    stages: Sequence[RtlStage], source: Stream, before: str, after: str, design: Design, cutoff: int, text: VerilogText
) -> tuple[list[str], int]:
    """Return instances of stages between two streams, and the sum of their cycles; no stage is a connection alone."""
    if not stages:
        return [f"  assign {after}_valid = {before}_valid, {before}_ready = {after}_ready, {after}_data = {before}_data;"], 0
    modules = list(_modules(stages, design, cutoff, text))
    lines, at, stream = [], before, source
    for number, module in enumerate(modules):
        if stream.beats != module.source.beats:
            adapted = f"to_{module.name}"
            lines += [stream_wires(adapted, module.source.bits), _adapter(stream, module.source, at, adapted, text)]
            at = adapted
        to = after if number == len(modules) - 1 else f"from_{module.name}"
        if to != after:
            lines.append(stream_wires(to, module.result.bits))
        ports = [f".{port}({wire})" for port, wire in {"clk": "clk", "rst": "rst", **link(at, to)}.items()]
        lines += [*module.lines, f"  {module.name} {module.name}_unit ({', '.join([*ports, *module.more_ports])});"]
        at, stream = to, module.result
    return lines, sum(module.cycles for module in modules)


def _modules(stages: Iterable[RtlStage], design: Design, cutoff: int, text: VerilogText) -> Iterator[_Linked]:
    """Write one module for each run of unrolled stages and one for each streaming stage."""
    for unrolled, run in groupby(stages, key=lambda stage: stage.strategy == "unrolled"):
        if unrolled:
            yield _stallable(_unrolled(list(run), design, cutoff, text), text)
            continue
        for stage in run:
            name = f"layer_{_name(stage, design)}"
            if isinstance(stage.layer.op, Gate):
                yield _gate(stage, name, design, cutoff, text)
                continue
            lines = _streaming(stage, name, cutoff, text)
            text.modules[name] = stream_module(name, _remark(stage), stage.source.bits, stage.result.bits, lines)
            text.blocks[name] = 1
            cycles = stage.cycles + MULTIPLY_CYCLES if isinstance(stage.layer.op, Dense) else 1
            yield _Linked(name, stage.source, stage.result, cycles)


def _gate(stage: RtlStage, name: str, design: Design, cutoff: int, text: VerilogText) -> _Linked:
    """Write the module of a gate; its excitation stands beside it, between its sums and its factors."""
    excitation = stage.layer.excitation
    assert excitation
    pixels, channels = stage.source.beats, stage.source.words
    sums, factors, products = excitation.sums, excitation.factors, stage.layer.sums.format
    short = name.removeprefix("layer_")
    sums_stream = Stream(1, channels, sums, np.arange(channels))
    lines, cycles = _linked(stage.inner, sums_stream, f"sums_{short}", f"factors_{short}", design, cutoff, text)
    parameters: dict[str, int | str] = {
        # The next event's pixels enter while the factors are made.
        "PIXELS": pixels, "CHANNELS": channels, "DEPTH": pixels + cycles + 1,
        "BITS": stage.source.format.width, "SIGNED": int(stage.source.format.signed), "SUM_BITS": sums.width,
        "FACTOR_BITS": factors.width, "FACTOR_SIGNED": int(factors.signed), "OUT_BITS": products.width,
    }  # fmt: skip
    outer = {f"{side}_{signal}": f"{side}_{signal}" for side in ("sum", "factor") for signal in ("valid", "ready", "data")}
    body = [
        stream_wires("product", channels * products.width),
        instance("caloedge_gate", "gate", text, parameters, link("in", "product") | outer),
        f"  wire [{channels * products.width - 1}:0] sums = product_data;",
        *epilogue(stage, channels, products, "product", text),
    ]
    more: list[VerilogPort] = [
        ("sum_valid", "output", 1), ("sum_ready", "input", 1), ("sum_data", "output", channels * sums.width),
        ("factor_valid", "input", 1), ("factor_ready", "output", 1), ("factor_data", "input", channels * factors.width),
    ]  # fmt: skip
    text.modules[name] = stream_module(name, _remark(stage), stage.source.bits, stage.result.bits, body, more)
    text.blocks[name] = 1
    wired = tuple(
        f".{side}_{signal}({side}s_{short}_{signal})" for side in ("sum", "factor") for signal in ("valid", "ready", "data")
    )
    wires = [stream_wires(f"sums_{short}", channels * sums.width), stream_wires(f"factors_{short}", channels * factors.width)]
    return _Linked(name, stage.source, stage.result, 0, wired, (*wires, *lines))


def _remark(stage: RtlStage) -> str:
    lanes = f", {stage.multipliers} multipliers" if stage.multipliers else ""
    return f"{stage.layer.name}, streaming: {stage.cycles} cycles per event{lanes}."


def _adapter(source: Stream, target: Stream, before: str, after: str, text: VerilogText) -> str:
    if target.beats == 1:
        return instance(
            "caloedge_join", f"{after}_unit", text, {"WIDTH": source.bits, "BEATS": source.beats}, link(before, after)
        )
    assert source.beats == 1
    return instance("caloedge_split", f"{after}_unit", text, {"WIDTH": target.bits, "BEATS": target.beats}, link(before, after))


def _stallable(pipeline: Pipeline, text: VerilogText) -> _Linked:
    """Write a module that makes unrolled stages wait when their result is not taken."""
    lines = [f"  wire [{pipeline.result.bits - 1}:0] result;", *_between(pipeline, "in_data", "result")]
    lines.append(_credit(pipeline.latency, pipeline.result.bits, "in", text))
    remark = f"Unrolled stages, {pipeline.latency} cycles, behind a result FIFO."
    text.modules[pipeline.name] = stream_module(pipeline.name, remark, pipeline.source.bits, pipeline.result.bits, lines)
    return _Linked(pipeline.name, pipeline.source, pipeline.result, pipeline.latency + 1)


def _credit(latency: int, bits: int, before: str, text: VerilogText) -> str:
    ports = {name: wire for name, wire in link(before, "out").items() if name != "in_data"} | {"core_result": "result"}
    return instance("caloedge_credit", "credit", text, {"LATENCY": latency, "WIDTH": bits}, ports)


def _streaming(stage: RtlStage, name: str, cutoff: int, text: VerilogText) -> list[str]:
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
            return lines + epilogue(stage, words, stage.layer.sums.format, "in", text)
        case Gate():
            raise AssertionError("a gate has more than two streams")
        case _:
            assert_never(stage.layer.op)


def _window(stage: RtlStage, op: Conv | MaxPool, padding: Sequence[int], text: VerilogText) -> list[str]:
    """Return the line buffer between the stream `in` and the stream `window`, one position per beat."""
    _, height, width = stage.layer.source.shape
    top, left, bottom, right = padding
    rows, columns = window_size(op)
    parameters: dict[str, int | str] = {
        "HEIGHT": height, "WIDTH": width, "KERNEL_H": rows, "KERNEL_W": columns,
        "STRIDE_H": op.stride[0], "STRIDE_W": op.stride[1],
        "PAD_TOP": top, "PAD_LEFT": left, "PAD_BOTTOM": bottom, "PAD_RIGHT": right, "BITS": stage.source.bits,
    }  # fmt: skip
    lines, before = [], "in"
    if stage.reuse > 1 and bottom:
        # What the stage before makes while this one works on its last rows: with it the next event's first window is filled
        # at once, and not at that stage's slower pace.
        depth = max((rows - 1 - top) * width + columns - left, 2)
        queue = instance("caloedge_fifo", "queue", text, {"WIDTH": stage.source.bits, "DEPTH": depth}, link("in", "queued"))
        lines, before = [stream_wires("queued", stage.source.bits), queue], "queued"
    if (rows, columns) == op.kernel:
        window = instance("caloedge_window", "windows", text, parameters, link(before, "window"))
        return [*lines, stream_wires("window", rows * columns * stage.source.bits), window]
    # A dilated kernel reads some pixels of a larger window.
    ports = link(before, "window") | {"out_data": "pixels"}
    taps = [part_of("pixels", r * op.dilation[0] * columns + c * op.dilation[1], stage.source.bits)
            for r, c in product(*map(range, op.kernel))]  # fmt: skip
    return [
        *lines,
        stream_wires("window", len(taps) * stage.source.bits),
        f"  wire [{rows * columns * stage.source.bits - 1}:0] pixels;",
        instance("caloedge_window", "windows", text, parameters, ports),
        f"  assign window_data = {{{', '.join(reversed(taps))}}};",
    ]


def _max_pool(stage: RtlStage, text: VerilogText) -> list[str]:
    op = stage.layer.op
    assert isinstance(op, MaxPool)
    lines = _window(stage, op, (0, 0, 0, 0), text)
    lines += [f"  wire [{stage.source.bits - 1}:0] sums;", _maximum(stage, "largest", "window_data", "sums", text)]
    return lines + epilogue(stage, stage.source.words, stage.source.format, "window", text)


def _convolution(stage: RtlStage, name: str, cutoff: int, text: VerilogText) -> list[str]:
    layer, op = stage.layer, stage.layer.op
    assert isinstance(op, Conv)
    lines = _window(stage, op, op.padding, text)
    if not stage.adder_graph:
        return lines + multiply(stage, name, "window", 1, layer.weights.shape[1], text)
    core = _core([layer], cutoff)
    module = f"core_{name.removeprefix('layer_')}"
    text.modules |= core_modules(module, core, f"Kernel of {layer.name}, one position per cycle")
    text.adders += core.adders
    lines += [f"  wire [{core.bits_out - 1}:0] result;",
              f"  {module} core (.clk(clk), .in_data(window_data), .out_data(result));"]  # fmt: skip
    return [*lines, _credit(core.stages, core.bits_out, "window", text)]


def _dense(stage: RtlStage, name: str, text: VerilogText) -> list[str]:
    if stage.layer.op is None:
        lines = [f"  wire [{stage.source.bits - 1}:0] sums = in_data;"]
        return lines + epilogue(stage, stage.source.words, stage.layer.source.format, "in", text)
    return multiply(stage, name, "in", stage.source.beats, stage.source.words, text)
