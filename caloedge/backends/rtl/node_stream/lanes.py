"""A lane: what one node goes through within a phase, a pipeline that takes a node per cycle and never waits.

Words that are made earlier than they are read wait in shift registers. Times are clock cycles since the words at the phase's
begin.
"""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from caloedge.backends.rtl.adders import core_modules
from caloedge.backends.rtl.node_stream.adder_graph import slot_format, trace_step
from caloedge.backends.rtl.node_stream.buses import bus, extended, joined
from caloedge.backends.rtl.node_stream.plan import Phase, Step
from caloedge.backends.rtl.node_stream.words import NodeNetwork, NodeOperation, Word, Words
from caloedge.backends.rtl.tables import row_verilog
from caloedge.backends.rtl.text import SIMULATED_ONCE, VerilogText, part_of
from caloedge.compiler.fixed import Format
from caloedge.compiler.ops import Multiply, Table, Threshold

Reading = tuple[Word, int]
"""A word and the cycle in which it is read."""


@dataclass
class Lane:
    """A lane's module while it is written."""

    module: str
    network: NodeNetwork
    identifiers: dict[str, str]
    lines: list[str] = field(default_factory=list)
    made: dict[Word, tuple[str, int]] = field(default_factory=dict)
    """Part of a bus that a word is, and the cycle in which it is made."""
    readings: list[Reading] = field(default_factory=list)
    """In lines, `<n>` stands for reading n until it is known where each word waits."""
    latency: int = 0
    """Cycles from the begin to the end of the phase."""

    def at(self, word: Word, time: int) -> str:
        """Return what stands for a word in a cycle, and note that it is read then."""
        assert word.maker, "constants are written where they are read"
        self.readings.append((word, time))
        return f"<{len(self.readings) - 1}>"

    def ready(self, words: Iterable[Word]) -> int:
        """Return the first cycle in which all these words are made."""
        return max((self.made[word][1] for word in words if word.maker), default=0)


def write_lane(
    phase: Phase, module: str, network: NodeNetwork, identifiers: dict[str, str], cutoff: int, text: VerilogText
) -> int:
    """Write the module of a phase's lane, with the ports clk, in_data and out_data, and return its latency in cycles."""
    lane = Lane(module, network, identifiers)
    begin, end = bus("in_data", phase.starts, network), bus("out_data", phase.ends, network)
    lane.made = {word: (begin.word(word), 0) for word in phase.starts}
    for number, step in enumerate(phase.steps):
        needed = _needed(step, phase.steps[number + 1 :], phase.ends)
        if step.adder_graph:
            _write_core(step, needed, f"core_{phase.number}_{number}", lane, cutoff, text)
        else:
            for operation in step.operations:
                _write_single(operation, lane, text)
    lane.latency = lane.ready(phase.ends)
    lane.lines.append(f"  assign out_data = {joined(lane.at(word, lane.latency) for word in phase.ends)};")
    registers, shifts, names = _waiting(lane)
    lines = [re.sub(r"<(\d+)>", lambda match: names[lane.readings[int(match[1])]], line) for line in lane.lines]
    body = "\n".join([*registers, *lines, *shifts])
    text.modules[module] = f"""\
// Phase {phase.number} of a lane: a node per cycle, {lane.latency} cycles.
module {module} (
  input clk,
  input [{begin.bits - 1}:0] in_data,
  output [{end.bits - 1}:0] out_data
);
{SIMULATED_ONCE}
{body}
endmodule
"""
    return lane.latency


def _needed(step: Step, later: Iterable[Step], ends: Words) -> Words:
    """Return what a step makes that is read behind it."""
    read = {word for other in later for x in other.operations for words in x.operands for word in words} | set(ends)
    return tuple(word for x in step.operations for word in x.result if word in read)


def _write_core(step: Step, outputs: Words, name: str, lane: Lane, cutoff: int, text: VerilogText) -> None:
    """Write an adder graph and its instance."""
    network, own = lane.network, {x.name for x in step.operations}
    reads = dict.fromkeys(w for x in step.operations for words in x.operands for w in words if w.maker and w.maker not in own)
    inputs = tuple(sorted(reads, key=lambda word: (repr(network.format(word)), word.maker, word.index)))
    core = trace_step(step.operations, network, inputs, outputs, cutoff)
    modules = core_modules(name, core, f"Phase of a lane: {', '.join(x.name for x in step.operations)}")
    text.modules |= modules
    text.blocks |= dict.fromkeys(list(modules)[:-1] or modules, 1)
    text.adders += core.adders
    time = lane.ready(inputs)
    slots, made = slot_format(network, inputs).width, slot_format(network, outputs).width
    parts = [extended(lane.at(word, time), Format(False, network.format(word).width, 0), slots) for word in inputs]
    lane.lines += [
        f"  wire [{core.bits_out - 1}:0] {name}_data;",
        f"  {name} {name}_unit (.clk(clk), .in_data({joined(parts)}), .out_data({name}_data));",
    ]
    for place, word in enumerate(outputs):
        low = place * made
        lane.made[word] = f"{name}_data[{low + network.format(word).width - 1}:{low}]", time + core.stages


def _write_single(operation: NodeOperation, lane: Lane, text: VerilogText) -> None:
    """Write a table or a product, which takes one cycle."""
    op, width = operation.op, lane.network.graph.tensors[operation.name].format.width
    name, bits = f"made_{lane.identifiers[operation.name]}", operation.words * width
    time = lane.ready(word for words in operation.operands for word in words)
    assert isinstance(op, Multiply | Table | Threshold)
    write = _products if isinstance(op, Multiply) else _tables
    lane.lines += [f"  wire [{bits - 1}:0] {name}_next;", *write(operation, f"{name}_next", time, lane, text),
                   f"  reg [{bits - 1}:0] {name};", f"  always @(posedge clk) {name} <= {name}_next;"]  # fmt: skip
    lane.made |= {word: (part_of(name, word.index, width), time + 1) for word in operation.result}


def _products(operation: NodeOperation, to: str, time: int, lane: Lane, _: VerilogText) -> list[str]:
    """Return a product of two signals for each word; the result holds it, so that its upper bits never matter."""
    width = lane.network.graph.tensors[operation.name].format.width
    lines = []
    for place, pair in enumerate(zip(*operation.operands, strict=True)):
        factors = " * ".join(_signed(word, time, width, lane) for word in pair)
        lines.append(f"  assign {part_of(to, place, width)} = {factors};")
    return lines


def _signed(word: Word, time: int, width: int, lane: Lane) -> str:
    """Return a word as a signed factor."""
    if not word.maker:
        return f"$signed({width}'d{word.index % 2**width})"
    return f"$signed({lane.at(word, time)})" if lane.network.format(word).signed else f"$signed({{1'b0, {lane.at(word, time)}}})"


def _tables(operation: NodeOperation, to: str, time: int, lane: Lane, text: VerilogText) -> list[str]:
    """Return an instance for each word, and write one module for each different row."""
    op = operation.op
    assert isinstance(op, Table | Threshold)
    source, fmt = lane.network.graph.tensors[op.inputs[0]], lane.network.graph.tensors[op.name].format
    rows = operation.rows(op.values if isinstance(op, Table) else op.thresholds, source.shape, ends=1)
    known: dict[bytes, str] = {}
    lines = []
    for place, (row, word) in enumerate(zip(rows, operation.operands[0], strict=True)):
        if row.tobytes() not in known:
            known[row.tobytes()] = name = f"table_{lane.identifiers[op.name]}_{len(known)}"
            text.modules[name] = row_verilog(name, op, row, source.format, source.range)
        code = lane.at(word, time) if word.maker else f"{source.format.width}'d{word.index % 2**source.format.width}"
        ports = f".in_data({code}), .out_data({part_of(to, place, fmt.width)})"
        lines.append(f"  {known[row.tobytes()]} {to}_{place} ({ports});")
    return lines


def _waiting(lane: Lane) -> tuple[list[str], list[str], dict[Reading, str]]:
    """Return shift registers for words that wait, what shifts them, and the part that each reading finds."""
    names: dict[Reading, str] = {}
    spans: dict[tuple[int, int], list[Word]] = defaultdict(list)
    times: dict[Word, list[int]] = defaultdict(list)
    for word, time in sorted(set(lane.readings), key=lambda reading: (reading[1], reading[0].maker, reading[0].index)):
        part, before = lane.made[word]
        if time == before:
            names[word, time] = part
            continue
        spans[times[word][-1] if times[word] else before, time].append(word)
        times[word].append(time)
    registers, shifts = [], []
    for (before, time), words in sorted(spans.items()):
        held = bus(f"held_{before}_{time}", tuple(words), lane.network)
        last = (time - before - 1) * held.bits
        for word in words:
            low, high = re.findall(r"\d+", held.word(word).removeprefix(held.name))[::-1]
            names[word, time] = f"{held.name}[{int(high) + last}:{int(low) + last}]"
        fresh = joined(names.get((word, before), lane.made[word][0]) for word in words)
        shifted = f"{{{held.name}[{last - 1}:0], {fresh}}}" if last else fresh
        registers.append(f"  reg [{last + held.bits - 1}:0] {held.name};")
        shifts.append(f"  always @(posedge clk) {held.name} <= {shifted};")
    return registers, shifts, names
