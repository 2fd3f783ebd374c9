"""A GravNet layer in Verilog: a barrier that shows all lanes the whole event, and a hand-written part for each lane."""

from caloedge.backends.rtl.node_stream.buses import Bus, joined, positive, signed_bits, signed_words
from caloedge.backends.rtl.node_stream.layout import index_bits
from caloedge.backends.rtl.node_stream.patterns import GravNet
from caloedge.backends.rtl.node_stream.plan import Plan
from caloedge.backends.rtl.node_stream.words import Word
from caloedge.backends.rtl.text import SIMULATED_ONCE, VerilogText, instance, written_instance

LEVELS_PER_STAGE = 2
"""Levels of comparisons between two registers of a search."""


def gravnet_cycles(layer: GravNet, nodes: int) -> int:
    """Return the cycles from an event's last beat at a GravNet layer to its first results."""
    chosen = max(layer.nearest.k - 1, 0).bit_length()
    merges = max(0, max(nodes - 1, 0).bit_length() - chosen)
    levels = chosen * (chosen + 1) // 2 + ((merges - 1) * (chosen + 1) + 1 if merges else 0)
    return 1 + 3 + -(-levels // LEVELS_PER_STAGE) + 5


def write_gravnet(
    layer: GravNet, plan: Plan, number: int, ends: Bus, valid: str, text: VerilogText
) -> tuple[list[dict[Word, str]], list[str]]:
    """Return the parts of buses that a layer's results are, by lane and word, and barrier and lanes of the layer."""
    network, par, nodes = plan.network, plan.par, plan.network.nodes
    coordinate, feature = signed_bits(layer.coordinates, network), signed_bits(layer.features, network)
    node_bits = 1 + len(layer.coordinates) * coordinate
    module, sum_bits, message_bits = _write_lane(layer, plan, number, coordinate, feature, text)
    beat_bits = max((plan.beats - 1).bit_length(), 1)
    n = f"{number}"
    inside = [part for lane in range(par) for part in (*signed_words(layer.coordinates, coordinate, ends, lane, network),
                                                       positive(layer.valid, ends, lane, network))]  # fmt: skip
    features = [part for lane in range(par) for part in signed_words(layer.features, feature, ends, lane, network)]
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
    return [_results(layer, plan, lane, n, sum_bits, message_bits) for lane in range(par)], lines


def _results(layer: GravNet, plan: Plan, lane: int, n: str, sum_bits: int, message_bits: int) -> dict[Word, str]:
    """Return the parts of buses that the results of a lane are, by word."""
    results = {}
    for op, name, bits in ((layer.sums, "sums", sum_bits), (layer.largest, "largest", message_bits)):
        for feature in range(len(layer.features) if op else 0):
            assert op
            width, low = plan.network.graph.tensors[op.name].format.width, (lane * len(layer.features) + feature) * bits
            results[Word(op.name, feature)] = f"{name}_{n}[{low + width - 1}:{low}]"
    return results


def _write_lane(
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
    text.modules[module] = (
        f"{remark}\nmodule {module} (\n  input clk,\n  input rst,\n{declared}\n);\n{SIMULATED_ONCE}\n{unit}\nendmodule\n"
    )
    text.blocks[module] = plan.par
    return module, sum_bits, message_bits


def _index(lane: int, beat: str, plan: Plan) -> str:
    """Return the number of the node that a lane has in a beat."""
    lane_bits = (plan.par - 1).bit_length()
    if plan.beats == 1:
        return f"{index_bits(plan.network.nodes)}'d{lane}"
    return f"{{{beat}, {lane_bits}'d{lane}}}" if lane_bits else beat
