"""The clusters of an event: chosen by a hand-written part, then read node by node from a memory that holds what each gives.

Indices come out together, `slots` of them are looked up per cycle: as many as it takes for an event to be done before the next.
"""

from caloedge.backends.rtl.node_stream.lanes import Bus, bus, extended, joined
from caloedge.backends.rtl.node_stream.layout import Layout, index_bits
from caloedge.backends.rtl.node_stream.patterns import Condensation
from caloedge.backends.rtl.node_stream.plan import Plan
from caloedge.backends.rtl.node_stream.words import NodeNetwork, Word
from caloedge.backends.rtl.tables import literal
from caloedge.backends.rtl.text import VerilogText, instance, port_list, written_instance
from caloedge.compiler.fixed import Format
from caloedge.compiler.ops import Condense

MATRIX_NODES = 64
"""Larger events are searched by a tree: the matrix of all pairs grows with their square."""
LEVELS_PER_STAGE = 3


def condense_cycles(condense: Condense, nodes: int) -> int:
    """Return the cycles from an event's last beat to its indices."""
    each = 2 if nodes <= MATRIX_NODES else 2 + -(-index_bits(nodes) // LEVELS_PER_STAGE)
    return condense.most * each + 3


def write_clusters(
    plan: Plan, layout: Layout, ends: Bus, nodes: list[str], valid: str, text: VerilogText
) -> tuple[tuple[str, str], list[str], int]:
    """Write the choice of clusters and the memory behind it.

    `nodes` are the words that leave for each node of a beat: they wait for the clusters. Returns valid and data of the beats of
    results, what makes them, and the cycles from an event's first beat here to its last beat of results.
    """
    clusters = plan.clusters
    assert clusters
    most, bits = clusters.condense.most, index_bits(plan.network.nodes)
    held = bus("held", tuple(dict.fromkeys(word for word in layout.taken_words if word.maker)), plan.network)
    slot_bits = 1 + bits + held.bits
    count_bits = most.bit_length()
    _write_memory(plan, layout, held, condense_cycles(clusters.condense, plan.network.nodes), text)
    payload = [ends.word(word, lane) for lane in range(plan.par) for word in held.words] or ["1'b0"]
    lines = [
        f"  wire chosen_valid, chosen_overflow, taken_valid, taken_overflow;\n  wire [{most * bits - 1}:0] chosen_indices;",
        f"  wire [{most - 1}:0] chosen_present;\n  wire [{count_bits - 1}:0] chosen_count, taken_count;",
        f"  wire [{layout.slots * slot_bits - 1}:0] taken_data;",
        *_choice(plan, clusters, ends, valid, text),
        written_instance("clusters", "clusters_unit", {
            "in_valid": valid, "in_data": joined(payload), "chosen_valid": "chosen_valid", "chosen_indices": "chosen_indices",
            "chosen_present": "chosen_present", "chosen_count": "chosen_count", "chosen_overflow": "chosen_overflow",
            "out_valid": "taken_valid", "out_data": "taken_data", "out_count": "taken_count",
            "out_overflow": "taken_overflow",
        }),
    ]  # fmt: skip
    width = layout.format.width
    words: list[str] = []
    cycles = plan.beats - 1 + condense_cycles(clusters.condense, plan.network.nodes) + layout.beats + 1
    if nodes:
        depth = cycles + plan.beats + 2
        ports = {"in_valid": valid, "in_data": joined(nodes), "out_ready": "taken_valid", "out_data": "nodes_data"}
        parameters: dict[str, int | str] = {"WIDTH": len(nodes) * width, "DEPTH": depth}
        lines.append(f"  wire [{len(nodes) * width - 1}:0] nodes_data;")
        lines.append(instance("caloedge_fifo", "waiting", text, parameters, ports))
        words.append("nodes_data")
    for slot in range(layout.slots):
        words += _cluster_words(layout, held, slot * slot_bits, bits, plan.network)
    if layout.status:
        words += [f"{{{width - count_bits}'d0, taken_count}}", f"{{{width - 1}'d0, taken_overflow}}"]
    return ("taken_valid", joined(words)), lines, cycles


def _choice(plan: Plan, clusters: Condensation, ends: Bus, valid: str, text: VerilogText) -> list[str]:
    """Return the part that chooses clusters."""
    network, condense = plan.network, clusters.condense
    score = network.format(clusters.score)
    score_bits = score.width + int(not score.signed)
    bits = max(network.format(word).width + int(not network.format(word).signed) for word in clusters.coordinates)
    inside = []
    for lane in range(plan.par):
        inside += [extended(ends.word(word, lane), network.format(word), bits) for word in clusters.coordinates]
        inside += [extended(ends.word(clusters.score, lane), score, score_bits), positive(clusters.valid, ends, lane, network)]
    parameters: dict[str, int | str] = {
        "NODES": network.nodes, "PAR": plan.par, "DIMENSIONS": len(clusters.coordinates), "BITS": bits, "SCORE_BITS": score_bits,
        "THRESHOLD": literal(condense.threshold, 64), "APART": condense.apart, "MOST": condense.most,
        "MATRIX": int(network.nodes <= MATRIX_NODES), "LEVELS_PER_STAGE": LEVELS_PER_STAGE,
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
    return [written_instance("choice", "choice_unit", {"in_valid": valid, "in_data": joined(inside)} | wires)]


def positive(word: Word, ends: Bus, lane: int, network: NodeNetwork) -> str:
    """Return a bit that tells whether a word of a lane is above zero."""
    if not word.maker:
        return f"1'b{int(word.index > 0)}"
    part = ends.word(word, lane)
    return f"($signed({part}) > 0)" if network.format(word).signed else f"(|{part})"


def _cluster_words(layout: Layout, held: Bus, low: int, bits: int, network: NodeNetwork) -> list[str]:
    """Return the words of one cluster of a beat: an absent one has index −1 and zeros."""
    width = layout.format.width
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
        part = extended(f"taken_data[{first + held.widths[at] - 1}:{first}]", network.format(word), width)
        words.append(f"({part} & {{{width}{{{present}}}}})")
    return words


def _address(event: str, beat: str, beat_bits: int) -> str:
    return f"{{{event}, {beat}}}" if beat_bits else event


def _write_memory(plan: Plan, layout: Layout, held: Bus, choice_cycles: int, text: VerilogText) -> None:
    """Write the module that holds what nodes give to clusters, and reads it at the indices of an event, `slots` per cycle.

    A word per node is written once for each slot, as each slot reads at an address of its own.
    """
    clusters, par = plan.clusters, plan.par
    assert clusters
    most, bits, width = clusters.condense.most, index_bits(plan.network.nodes), max(held.bits, 1)
    lane_bits, beat_bits = (par - 1).bit_length(), (plan.beats - 1).bit_length()
    # An event is read some time after its last beat, while others come in.
    events = 1 << ((choice_cycles + layout.beats + 2) // plan.beats + 2 - 1).bit_length()
    event_bits = max((events - 1).bit_length(), 1)
    all_slots, slot_bits = layout.slots * layout.beats, 1 + bits
    padding = (all_slots - most) * slot_bits
    entries = joined(
        part
        for slot in range(most)
        for part in (f"chosen_present[{slot}]", f"chosen_indices[{(slot + 1) * bits - 1}:{slot * bits}]")
    )
    first = f"{{{padding}'d0, {entries}}}" if padding else entries
    left_bits = layout.beats.bit_length()
    lines = [
        f"  reg [{event_bits - 1}:0] event_in, event_out;",
        f"  reg [{max(beat_bits, 1) - 1}:0] beat_in;",
        f"  reg [{left_bits - 1}:0] left;",
        f"  reg [{all_slots * slot_bits - 1}:0] waiting;",
        f"  wire reading = left != {left_bits}'d0;",
        f"  wire last = beat_in == {max(beat_bits, 1)}'d{plan.beats - 1};",
        f"""\
  reg [{most.bit_length() - 1}:0] count;
  reg overflow;
  always @(posedge clk)
    if (rst) begin
      event_in <= {event_bits}'d0;
      event_out <= {event_bits}'d0;
      beat_in <= {max(beat_bits, 1)}'d0;
      left <= {left_bits}'d0;
      out_valid <= 1'b0;
    end else begin
      if (in_valid) beat_in <= last ? {max(beat_bits, 1)}'d0 : beat_in + 1'b1;
      if (in_valid && last) event_in <= event_in + 1'b1;
      if (chosen_valid) left <= {left_bits}'d{layout.beats};
      else if (reading) left <= left - 1'b1;
      if (left == {left_bits}'d1) event_out <= event_out + 1'b1;
      out_valid <= reading;
    end
  always @(posedge clk) begin
    if (chosen_valid) begin
      waiting <= {first};
      count <= chosen_count;
      overflow <= chosen_overflow;
    end else waiting <= waiting >> {layout.slots * slot_bits};
    out_count <= count;
    out_overflow <= overflow;
  end""",
    ]
    out_bits = slot_bits + held.bits
    for slot in range(layout.slots):
        low = slot * slot_bits
        index_low = low + 1
        place = f"waiting[{index_low + lane_bits - 1}:{index_low}]"
        beat = f"waiting[{index_low + bits - 1}:{index_low + lane_bits}]"
        for lane in range(par if held.bits else 0):
            memory = f"memory_{slot}_{lane}"
            lines += [
                f"  reg [{width - 1}:0] {memory} [0:{(1 << (event_bits + beat_bits)) - 1}];",
                f"  wire [{width - 1}:0] {memory}_word = {memory}[{_address('event_out', beat, beat_bits)}];",
                f"  always @(posedge clk) if (in_valid) {memory}[{_address('event_in', 'beat_in', beat_bits)}] <= "
                f"in_data[{(lane + 1) * width - 1}:{lane * width}];",
            ]
        if held.bits:
            choice = f"memory_{slot}_{par - 1}_word"
            for lane in reversed(range(par - 1)):
                choice = f"{place} == {lane_bits}'d{lane} ? memory_{slot}_{lane}_word : {choice}"
            high = slot * out_bits
            lines.append(f"  always @(posedge clk) out_data[{high + out_bits - 1}:{high + slot_bits}] <= {choice};")
        taken = f"out_data[{slot * out_bits + slot_bits - 1}:{slot * out_bits}]"
        lines.append(f"  always @(posedge clk) {taken} <= waiting[{low + slot_bits - 1}:{low}];")
    body = "\n".join(lines)
    text.modules["clusters"] = f"""\
// What the chosen nodes of an event give: {layout.slots} clusters per cycle, {layout.beats} cycles per event.
module clusters (
  input clk,
  input rst,
  input in_valid,
  input [{par * width - 1}:0] in_data,
  input chosen_valid,
  input [{most * bits - 1}:0] chosen_indices,
  input [{most - 1}:0] chosen_present,
  input [{most.bit_length() - 1}:0] chosen_count,
  input chosen_overflow,
  output reg out_valid,
  output reg [{layout.slots * out_bits - 1}:0] out_data,
  output reg [{most.bit_length() - 1}:0] out_count,
  output reg out_overflow
);
{body}
endmodule
"""
    text.blocks["clusters"] = 1
