"""The clusters of an event: chosen by a hand-written part, then read node by node from a memory that holds what each gives.

Indices come out together, `slots` of them are looked up per cycle: as many as it takes for an event to be done before the next.
"""

from caloedge.backends.rtl.node_stream.buses import Bus, bus, extended, joined, positive, signed_bits, signed_words
from caloedge.backends.rtl.node_stream.layout import Layout, index_bits
from caloedge.backends.rtl.node_stream.patterns import Condensation
from caloedge.backends.rtl.node_stream.plan import Plan
from caloedge.backends.rtl.node_stream.words import NodeNetwork
from caloedge.backends.rtl.tables import literal
from caloedge.backends.rtl.text import VerilogText, instance, port_list, written_instance
from caloedge.compiler.fixed import Format
from caloedge.compiler.ops import Condense


def condense_cycles(condense: Condense) -> int:
    """Return the cycles from an event's last beat to its indices."""
    return condense.most * 2 + 3


def write_clusters(
    plan: Plan, layout: Layout, ends: Bus, nodes: list[str], valid: str, text: VerilogText
) -> tuple[tuple[str, str], list[str], int]:
    """Write the choice of clusters, and look up what each gives.

    `nodes` are the words that leave for each node of a beat: they wait for the clusters. Returns valid and data of the beats of
    results, what makes them, and the cycles from an event's last beat here to its last beat of results.
    """
    clusters = plan.clusters
    assert clusters
    count_bits = clusters.condense.most.bit_length()
    held = bus("held", tuple(dict.fromkeys(word for word in layout.taken_words if word.maker)), plan.network)
    lines = [*_choice(plan, clusters, ends, valid, text), *_look_up(plan, layout, held, ends, valid, text)]
    width, cycles = layout.format.width, condense_cycles(clusters.condense) + 1 + layout.beats
    words: list[str] = []
    if nodes:
        ports = {"in_valid": valid, "in_data": joined(nodes), "out_ready": "taken_valid", "out_data": "nodes_data"}
        parameters: dict[str, int | str] = {"WIDTH": len(nodes) * width, "DEPTH": cycles + 2 * plan.beats}
        lines.append(f"  wire [{len(nodes) * width - 1}:0] nodes_data;")
        lines.append(instance("caloedge_fifo", "waiting", text, parameters, ports))
        words.append("nodes_data")
    for slot in range(layout.slots):
        words += _cluster_words(layout, held, slot, index_bits(plan.network.nodes), plan.network)
    if layout.status:
        words += [f"{{{width - count_bits}'d0, taken_note[{count_bits - 1}:0]}}",
                  f"{{{width - 1}'d0, taken_note[{count_bits}]}}"]  # fmt: skip
    return ("taken_valid", joined(words)), lines, cycles


def _choice(plan: Plan, clusters: Condensation, ends: Bus, valid: str, text: VerilogText) -> list[str]:
    """Return the part that chooses clusters, in a module of its own: it is synthesised by itself."""
    network, condense = plan.network, clusters.condense
    score_bits = signed_bits((clusters.score,), network)
    bits = signed_bits(clusters.coordinates, network)
    inside = []
    for lane in range(plan.par):
        inside += signed_words(clusters.coordinates, bits, ends, lane, network)
        inside += signed_words((clusters.score,), score_bits, ends, lane, network)
        inside.append(positive(clusters.valid, ends, lane, network))
    parameters: dict[str, int | str] = {
        "NODES": network.nodes, "PAR": plan.par, "DIMENSIONS": len(clusters.coordinates), "BITS": bits, "SCORE_BITS": score_bits,
        "THRESHOLD": literal(condense.threshold, 64), "APART": condense.apart, "MOST": condense.most,
    }  # fmt: skip
    in_bits, index = plan.par * (1 + score_bits + len(clusters.coordinates) * bits), index_bits(network.nodes)
    ports = [
        ("clk", "input", 1), ("rst", "input", 1), ("in_valid", "input", 1), ("in_data", "input", in_bits),
        ("out_valid", "output", 1), ("out_indices", "output", condense.most * index), ("out_present", "output", condense.most),
        ("out_count", "output", condense.most.bit_length()), ("out_overflow", "output", 1),
    ]  # fmt: skip
    unit = instance("caloedge_condense", "part", text, parameters, {name: name for name, _, _ in ports[2:]})
    remark = f"// Choice of clusters {condense.name}."
    text.modules["choice"] = f"{remark}\nmodule choice (\n{port_list(ports)}\n);\n{unit}\nendmodule\n"
    text.blocks["choice"] = 1
    wires = {f"out_{name}": f"chosen_{name}" for name in ("valid", "indices", "present", "count", "overflow")}
    return [
        f"  wire chosen_valid, chosen_overflow;\n  wire [{condense.most * index - 1}:0] chosen_indices;",
        f"  wire [{condense.most - 1}:0] chosen_present;\n  wire [{condense.most.bit_length() - 1}:0] chosen_count;",
        written_instance("choice", "choice_unit", {"in_valid": valid, "in_data": joined(inside)} | wires),
    ]


def _look_up(plan: Plan, layout: Layout, held: Bus, ends: Bus, valid: str, text: VerilogText) -> list[str]:
    """Return the part that keeps what nodes give, and looks it up at the chosen indices."""
    clusters, width, nodes = plan.clusters, max(held.bits, 1), plan.network.nodes
    assert clusters
    note_bits = clusters.condense.most.bit_length() + 1
    late = condense_cycles(clusters.condense) + layout.beats
    events = 1 << (-(-late // plan.beats)).bit_length()
    out_bits = layout.slots * (1 + index_bits(nodes) + width)
    payload = [ends.word(word, lane) for lane in range(plan.par) for word in held.words] or [f"{plan.par}'d0"]
    parameters: dict[str, int | str] = {
        "NODES": nodes, "PAR": plan.par, "WIDTH": width, "MOST": clusters.condense.most, "SLOTS": layout.slots,
        "OUT_BEATS": layout.beats, "EVENTS": max(events, 2), "NOTE_BITS": note_bits,
    }  # fmt: skip
    ports = {
        "in_valid": valid, "in_data": joined(payload), "chosen_valid": "chosen_valid", "chosen_indices": "chosen_indices",
        "chosen_present": "chosen_present", "chosen_note": "{chosen_overflow, chosen_count}", "out_valid": "taken_valid",
        "out_data": "taken_data", "out_note": "taken_note",
    }  # fmt: skip
    wires = f"  wire taken_valid;\n  wire [{out_bits - 1}:0] taken_data;\n  wire [{note_bits - 1}:0] taken_note;"
    return [wires, instance("caloedge_look_up", "look_up", text, parameters, ports)]


def _cluster_words(layout: Layout, held: Bus, slot: int, bits: int, network: NodeNetwork) -> list[str]:
    """Return the words of one cluster of a beat; an absent one has zeros, and the index −1."""
    width, low = layout.format.width, slot * (1 + bits + max(held.bits, 1))
    present = f"taken_data[{low}]"
    words = []
    if layout.indices:
        number = extended(f"taken_data[{low + bits}:{low + 1}]", Format(False, bits, 0), width)
        words.append(f"({number} | {{{width}{{~{present}}}}})")
    for word in layout.taken_words:
        if not word.maker:
            words.append(f"({width}'d{word.index % 2**width} & {{{width}{{{present}}}}})")
            continue
        at = held.words.index(word)
        first = low + 1 + bits + sum(held.widths[:at])
        words.append(extended(f"taken_data[{first + held.widths[at] - 1}:{first}]", network.format(word), width))
    return words
