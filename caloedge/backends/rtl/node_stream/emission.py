"""From a plan to Verilog: the lanes of each phase, GravNet layers between them, and the ports that events enter and leave by.

Valid travels beside the lanes. What passes by a GravNet layer waits in a FIFO that is read when the layer's results come, so
that only the order of nodes matters, never the gaps between them.
"""

from dataclasses import dataclass

from caloedge.backends.rtl.node_stream.clusters import positive, write_clusters
from caloedge.backends.rtl.node_stream.lanes import Bus, bus, extended, joined, write_lane
from caloedge.backends.rtl.node_stream.layout import Layout, index_bits
from caloedge.backends.rtl.node_stream.patterns import GravNet
from caloedge.backends.rtl.node_stream.plan import Phase, Plan
from caloedge.backends.rtl.node_stream.words import NodeNetwork, Word
from caloedge.backends.rtl.text import (
    VerilogText,
    instance,
    stream_module,
    stream_ports,
    written_instance,
)
from caloedge.project import identifiers

TOP = "caloedge_nodes"
"""The top module, until a project gives all modules the network's name."""
LEVELS_PER_STAGE = 2
"""Levels of comparisons between two registers of a search."""


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
    results, lines = _gravnet(layer, plan, phase.number, ends, valid, text)
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


# GravNet layers


def gravnet_cycles(layer: GravNet, nodes: int) -> int:
    """Return the cycles from an event's last beat at a GravNet layer to its first results."""
    chosen = max(layer.nearest.k - 1, 0).bit_length()
    merges = max(0, max(nodes - 1, 0).bit_length() - chosen)
    levels = chosen * (chosen + 1) // 2 + ((merges - 1) * (chosen + 1) + 1 if merges else 0)
    return 1 + 3 + -(-levels // LEVELS_PER_STAGE) + 5


def _gravnet(
    layer: GravNet, plan: Plan, number: int, ends: Bus, valid: str, text: VerilogText
) -> tuple[list[dict[Word, str]], list[str]]:
    """Return the parts of buses that a layer's results are, by lane and word, and barrier and lanes of the layer."""
    network, par, nodes = plan.network, plan.par, plan.network.nodes
    coordinate, feature = _signed_bits(layer.coordinates, network), _signed_bits(layer.features, network)
    node_bits = 1 + len(layer.coordinates) * coordinate
    module, sum_bits, message_bits = _write_gravnet(layer, plan, number, coordinate, feature, text)
    beat_bits = max((plan.beats - 1).bit_length(), 1)
    n = f"{number}"
    inside = [part for lane in range(par) for part in (*_signed(layer.coordinates, coordinate, ends, lane, network),
                                                       positive(layer.valid, ends, lane, network))]  # fmt: skip
    features = [part for lane in range(par) for part in _signed(layer.features, feature, ends, lane, network)]
    lines = [
        f"  wire event_{n}_valid;\n  wire [{beat_bits - 1}:0] beat_{n};",
        f"  wire [{par * node_bits - 1}:0] own_{n};\n  wire [{nodes * node_bits - 1}:0] event_{n};",
        f"  wire [{par - 1}:0] found_{n}_valids;\n  wire found_{n}_valid = found_{n}_valids[0];",
        f"  wire [{par * len(layer.features) * sum_bits - 1}:0] sums_{n};",
        f"  wire [{par * len(layer.features) * message_bits - 1}:0] largest_{n};",
        instance("caloedge_barrier", f"barrier_{n}", text, {"NODES": nodes, "PAR": par, "WIDTH": node_bits},
                 {"in_valid": valid, "in_data": joined(inside), "out_valid": f"event_{n}_valid", "out_beat": f"beat_{n}",
                  "out_own": f"own_{n}", "out_event": f"event_{n}"}),
    ]  # fmt: skip
    for lane in range(par):
        low, words = lane * node_bits, len(layer.features)
        ports = {
            "feature_valid": valid, "feature_data": joined(features), "in_valid": f"event_{n}_valid", "in_event": f"event_{n}",
            "in_query": f"own_{n}[{low + node_bits - 2}:{low}]", "in_index": _index(lane, f"beat_{n}", plan),
            "out_valid": f"found_{n}_valids[{lane}]",
            "out_mean": f"sums_{n}[{(lane + 1) * words * sum_bits - 1}:{lane * words * sum_bits}]",
            "out_max": f"largest_{n}[{(lane + 1) * words * message_bits - 1}:{lane * words * message_bits}]",
        }  # fmt: skip
        lines.append(written_instance(module, f"{module}_{lane}", ports))
    results: list[dict[Word, str]] = [{} for _ in range(par)]
    for op, name, bits in ((layer.sums, "sums", sum_bits), (layer.largest, "largest", message_bits)):
        for lane, f in ((lane, f) for lane in range(par) for f in range(len(layer.features)) if op):
            assert op
            width = network.graph.tensors[op.name].format.width
            low = (lane * len(layer.features) + f) * bits
            results[lane][Word(op.name, f)] = f"{name}_{n}[{low + width - 1}:{low}]"
    return results, lines


def _write_gravnet(
    layer: GravNet, plan: Plan, number: int, coordinate: int, feature: int, text: VerilogText
) -> tuple[str, int, int]:
    """Write the module of one lane of a layer, a hand-written part with its settings; return name and bits of its results."""
    network, nodes, words = plan.network, plan.network.nodes, len(layer.features)
    message_bits = layer.message_format.width + int(not layer.message_format.signed)
    sums = [network.graph.tensors[op.name].format for op in (layer.sums,) if op]
    sum_bits = max((fmt.width + int(not fmt.signed) for fmt in sums), default=message_bits)
    shift = layer.product_fraction - layer.message.format.fraction if layer.message else 0
    weight_bits = max(int(layer.weights.max()).bit_length(), 1)
    table = sum(int(code) << (weight_bits * distance) for distance, code in enumerate(layer.weights))
    parameters: dict[str, int | str] = {
        "NODES": nodes, "PAR": plan.par, "DIMENSIONS": len(layer.coordinates), "BITS": coordinate,
        "REACH": layer.nearest.reach, "K": layer.nearest.k, "LEVELS_PER_STAGE": LEVELS_PER_STAGE,
        "FEATURES": words, "FEATURE_BITS": feature, "WEIGHT_BITS": weight_bits,
        "WEIGHTS": f"{len(layer.weights) * weight_bits}'h{table:x}",
        "MESSAGE_SHIFT": shift, "MESSAGE_BITS": message_bits,
        # The sum leaves as it is: what divides and rounds it is a part of the adder graph behind.
        "MEAN_SHIFT": 0, "MEAN_BITS": sum_bits,
    }  # fmt: skip
    node_bits, module = 1 + len(layer.coordinates) * coordinate, f"gravnet_{number}"
    ports = [
        ("feature_valid", "input", 1), ("feature_data", "input", plan.par * words * feature), ("in_valid", "input", 1),
        ("in_event", "input", nodes * node_bits), ("in_query", "input", node_bits - 1), ("in_index", "input", index_bits(nodes)),
        ("out_valid", "output", 1), ("out_mean", "output", words * sum_bits), ("out_max", "output", words * message_bits),
    ]  # fmt: skip
    declared = ",\n".join(f"  {kind} [{bits - 1}:0] {name}" if bits > 1 else f"  {kind} {name}" for name, kind, bits in ports)
    unit = instance("caloedge_gravnet", "lane", text, parameters, {name: name for name, _, _ in ports})
    remark = f"// A lane of GravNet layer {layer.name}."
    text.modules[module] = f"{remark}\nmodule {module} (\n  input clk,\n  input rst,\n{declared}\n);\n{unit}\nendmodule\n"
    text.blocks[module] = plan.par
    return module, sum_bits, message_bits


def _signed_bits(words: tuple[Word, ...], network: NodeNetwork) -> int:
    """Return the bits of a signed word that holds each of some words."""
    return max(network.format(word).width + int(not network.format(word).signed) for word in words)


def _signed(words: tuple[Word, ...], bits: int, ends: Bus, lane: int, network: NodeNetwork) -> list[str]:
    """Return words of a lane as signed ones."""
    return [extended(ends.word(word, lane), network.format(word), bits) for word in words]


def _index(lane: int, beat: str, plan: Plan) -> str:
    """Return the number of the node that a lane has in a beat."""
    lane_bits = (plan.par - 1).bit_length()
    if plan.beats == 1:
        return f"{index_bits(plan.network.nodes)}'d{lane}"
    return f"{{{beat}, {lane_bits}'d{lane}}}" if lane_bits else beat


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
