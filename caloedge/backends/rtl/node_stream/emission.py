"""From a plan to Verilog: the lanes of each phase, GravNet layers between them, and the ports that events enter and leave by.

Valid travels beside the lanes. What passes by a GravNet layer waits in a FIFO that is read when the layer's results come, so
that only the order of nodes matters, never the gaps between them.
"""

from dataclasses import dataclass

from caloedge.backends.rtl.node_stream.buses import Bus, bus, extended, joined
from caloedge.backends.rtl.node_stream.clusters import write_clusters
from caloedge.backends.rtl.node_stream.gravnet import gravnet_cycles, write_gravnet
from caloedge.backends.rtl.node_stream.lanes import write_lane
from caloedge.backends.rtl.node_stream.layout import Layout
from caloedge.backends.rtl.node_stream.patterns import GravNet
from caloedge.backends.rtl.node_stream.plan import Phase, Plan
from caloedge.backends.rtl.node_stream.words import NodeNetwork, Word
from caloedge.backends.rtl.text import VerilogText, instance, stream_module, stream_ports
from caloedge.project import identifiers

TOP = "caloedge_nodes"
"""The top module, until a project gives all modules the network's name."""


@dataclass(frozen=True)
class Written:
    """A written design and what is known of its cycles."""

    text: VerilogText
    latency_cycles: int
    """Cycles from an event's first beat at the input to its last at the output, in an empty design."""


def write_plan(plan: Plan, layout: Layout, cutoff: int) -> Written:
    """Write all modules; adder graphs are cut into stages of at most `cutoff` adder delays."""
    text, network = VerilogText(TOP), plan.network
    names = identifiers(network.graph)
    entry = network.format(plan.phases[0].starts[0])
    source_bits = plan.par * len(plan.phases[0].starts) * entry.width
    result_bits = layout.words * layout.format.width
    body = ["  wire admitted;"]
    cycles, valid = plan.beats - 1, "admitted"  # until the event's last beat
    for phase in plan.phases:
        starts, lines = _starts(plan, phase, valid, text)
        body += lines
        if phase.number:
            layer = plan.gravnets[phase.number - 1]
            valid = f"found_{phase.number}_valid"
            cycles += gravnet_cycles(layer, network.nodes) + plan.beats - 1
        ends, lines, latency = _lanes(plan, phase, starts, cutoff, names, text)
        body += [*lines, *_delayed(valid, f"end_{phase.number}_valid", latency)]
        valid = f"end_{phase.number}_valid"
        cycles += latency
    result, more_lines, more_cycles = _results(plan, layout, ends, valid, text)
    cycles += more_cycles + 1
    events = -(-cycles // plan.beats) + 2
    body += [*more_lines, _ports(plan, layout, result, events, text)]
    remark = (
        f"{plan.par} nodes of {network.nodes} in a beat, {layout.beats} beats of results per event; valid and ready at both ends."
    )
    text.modules[TOP] = stream_module(TOP, remark, source_bits, result_bits, body)
    text.ports = stream_ports(source_bits, result_bits)
    return Written(text, cycles)


def _lanes(
    plan: Plan, phase: Phase, starts: Bus, cutoff: int, names: dict[str, str], text: VerilogText
) -> tuple[Bus, list[str], int]:
    """Return the words behind the lanes of a phase, their instances, and their latency."""
    module = f"phase_{phase.number}"
    before = set(text.blocks)
    latency = write_lane(phase, module, plan.network, names, cutoff, text)
    text.blocks |= {block: plan.par for block in text.blocks if block not in before}
    ends = bus(f"end_{phase.number}", phase.ends, plan.network)
    lines = [f"  wire [{plan.par * ends.bits - 1}:0] {ends.name};"]
    for lane in range(plan.par):
        ports = f".clk(clk), .in_data({_lane(starts, lane)}), .out_data({_lane(ends, lane)})"
        lines.append(f"  {module} {module}_{lane} ({ports});")
    return ends, lines, latency


def _lane(words: Bus, lane: int) -> str:
    """Return all words of a lane."""
    return f"{words.name}[{(lane + 1) * words.bits - 1}:{lane * words.bits}]"


def _delayed(source: str, name: str, cycles: int) -> list[str]:
    """Return a valid bit some cycles later."""
    if not cycles:
        return [f"  wire {name} = {source};"]
    shifted = source if cycles == 1 else f"{{{name}_delay[{cycles - 2}:0], {source}}}"
    return [f"  reg [{cycles - 1}:0] {name}_delay;",
            f"  always @(posedge clk) {name}_delay <= rst ? {cycles}'d0 : {shifted};",
            f"  wire {name} = {name}_delay[{cycles - 1}];"]  # fmt: skip


def _starts(plan: Plan, phase: Phase, valid: str, text: VerilogText) -> tuple[Bus, list[str]]:
    """Return the words at a phase's begin and what brings them: the port, or a GravNet layer and the FIFO beside it."""
    starts = bus("in_data" if not phase.number else f"start_{phase.number}", phase.starts, plan.network)
    if not phase.number:
        return starts, []
    layer = plan.gravnets[phase.number - 1]
    ends = bus(f"end_{phase.number - 1}", plan.phases[phase.number - 1].ends, plan.network)
    results, lines = write_gravnet(layer, plan, phase.number, ends, valid, text)
    skipped = bus(f"skip_{phase.number}", tuple(word for word in phase.starts if word not in results[0]), plan.network)
    if skipped.words:
        lines += _skip(plan, layer, phase.number, ends, skipped, valid, text)
    parts = [results[lane].get(word) or skipped.word(word, lane) for lane in range(plan.par) for word in phase.starts]
    return starts, [*lines, f"  wire [{plan.par * starts.bits - 1}:0] {starts.name} = {joined(parts)};"]


def _skip(plan: Plan, layer: GravNet, number: int, ends: Bus, skipped: Bus, valid: str, text: VerilogText) -> list[str]:
    """Return the FIFO of the words that pass by a GravNet layer."""
    bits = plan.par * skipped.bits
    parts = joined(ends.word(word, lane) for lane in range(plan.par) for word in skipped.words)
    # From an event's first beat on, its own beats come in and those of the event before are still to be read.
    depth = 2 * plan.beats + gravnet_cycles(layer, plan.network.nodes) + 2
    ports = {"in_valid": valid, "in_data": parts, "out_ready": f"found_{number}_valid", "out_data": skipped.name}
    return [f"  wire [{bits - 1}:0] {skipped.name};",
            instance("caloedge_fifo", f"{skipped.name}_unit", text, {"WIDTH": bits, "DEPTH": depth}, ports)]  # fmt: skip


# Results and ports


def _results(plan: Plan, layout: Layout, ends: Bus, valid: str, text: VerilogText) -> tuple[tuple[str, str], list[str], int]:
    """Return valid and data of the beats of results, what makes them, and the cycles from the lanes' end to an event's last."""
    network, fmt = plan.network, layout.format
    nodes = [_result_word(word, ends, lane, network, fmt.width) for lane in range(plan.par) for word in layout.node_words]
    if not layout.slots:
        return (valid, joined(nodes)), [], 0
    return write_clusters(plan, layout, ends, nodes, valid, text)


def _result_word(word: Word, ends: Bus, lane: int, network: NodeNetwork, width: int) -> str:
    if not word.maker:
        return f"{width}'d{word.index % 2**width}"
    return extended(ends.word(word, lane), network.format(word), width)


def _ports(plan: Plan, layout: Layout, result: tuple[str, str], events: int, text: VerilogText) -> str:
    """Return the part that lets an event in only if its results will have a place at the output, and holds these."""
    ports = {name: name for name in ("in_valid", "in_ready", "admitted", "out_valid", "out_ready", "out_data")}
    parameters: dict[str, int | str] = {
        "IN_BEATS": plan.beats, "OUT_BEATS": layout.beats, "EVENTS": events, "WIDTH": layout.words * layout.format.width,
    }  # fmt: skip
    return instance("caloedge_admit", "ports", text, parameters, ports | {"core_valid": result[0], "core_data": result[1]})
