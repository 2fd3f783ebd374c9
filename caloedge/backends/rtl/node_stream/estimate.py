"""Estimates of a planned design, made without tracing or writing anything: latency and LUTs."""

import math
from typing import Any

import numpy as np

from caloedge.backends.rtl.layers import span
from caloedge.backends.rtl.node_stream.clusters import condense_cycles
from caloedge.backends.rtl.node_stream.gravnet import gravnet_cycles
from caloedge.backends.rtl.node_stream.layout import Layout, index_bits
from caloedge.backends.rtl.node_stream.patterns import GravNet
from caloedge.backends.rtl.node_stream.plan import Phase, Plan, Step
from caloedge.backends.rtl.node_stream.words import NodeNetwork, NodeOperation
from caloedge.compiler.ops import Add, Affine, Dense, Multiply, Requantise, Table, Threshold

LUT_PER_BIT_OPERATION = 0.5
"""LUTs per effective bit operation of adder graphs: yosys netlists of lanes of random 8-bit weights gave 0.46."""
LUT_PER_DISTANCE_BIT, LUT_PER_COMPARED_BIT, LUT_PER_FEATURE_BIT = 3.25, 2.5, 3.0
"""LUTs per bit of a distance's coordinates, of a compared key and of a neighbour's features: yosys netlists of 6 coordinates
and 8 features of 8 bit, and keys of 11."""
LUT_PER_PAIR = 0.45
"""LUTs per pair of nodes of which one comes first: yosys netlists of the choice among 128 nodes gave 0.48, among 32 less."""


def latency_cycles(plan: Plan, layout: Layout, cutoff: int) -> int:
    """Estimate the cycles from an event's first beat at the input to its last at the output."""
    cycles = plan.beats + sum(plan.beats - 1 + gravnet_cycles(layer, plan.network.nodes) for layer in plan.gravnets)
    cycles += sum(_phase_cycles(phase, cutoff) for phase in plan.phases)
    if layout.slots:
        assert plan.clusters
        cycles += condense_cycles(plan.clusters.condense) + 1 + layout.beats
    return cycles


def _phase_cycles(phase: Phase, cutoff: int) -> int:
    return sum(-(-_depth(step) // cutoff) if step.adder_graph else 1 for step in phase.steps)


def _depth(step: Step) -> int:
    """Estimate the adders that follow each other in a step."""
    depths: dict[str, int] = {}
    for operation in step.operations:
        before = max((depths.get(word.maker, 0) for words in operation.operands for word in words), default=0)
        depths[operation.name] = before + _adders_in_a_row(operation)
    return max(depths.values(), default=0)


def _adders_in_a_row(operation: NodeOperation) -> int:
    match operation.op:
        case Dense():  # a tree over all signed digits of an output's weights, and what the search may add to it
            digits = max(int(np.sum(np.frexp(np.abs(row).astype(float))[1])) // 2 for row in operation.op.weights)
            return math.ceil(math.log2(max(digits, 1))) + 2
        case Requantise():
            return 2
        case _:
            return 1


def luts(plan: Plan, layout: Layout) -> int:
    """Estimate the LUTs of the whole design."""
    lane = sum(_operation_luts(x, plan.network) for phase in plan.phases for step in phase.steps for x in step.operations)
    layers = sum(_gravnet_luts(layer, plan.network) for layer in plan.gravnets)
    return plan.par * round(lane + layers) + (_choice_luts(plan) if layout.slots else 0)


def _operation_luts(operation: NodeOperation, network: NodeNetwork) -> float:
    op, tensors = operation.op, network.graph.tensors
    fmt = tensors[op.inputs[0]].format
    bits, width = fmt.width - int(fmt.signed), tensors[op.name].format.width
    match op:
        case Dense():
            rows = len(operation.operands[0]) // int(op.weights.shape[1])
            return rows * LUT_PER_BIT_OPERATION * span(op.weights) * bits
        case Affine():
            return LUT_PER_BIT_OPERATION * span(operation.rows(op.weights, tensors[op.inputs[0]].shape)) * bits
        case Add():
            return operation.words * width
        case Multiply():  # by multipliers
            return 0
        case Table() | Threshold():
            entries: int = (op.values if isinstance(op, Table) else op.thresholds).shape[-1]
            return operation.words * width * max(entries // 64, 1)
        case _:
            return operation.words * width


def _gravnet_luts(layer: GravNet, network: NodeNetwork) -> float:
    """Estimate one lane: distances, choice of the k nearest, their features and sums; multipliers make the products."""
    nodes, k, features = network.nodes, layer.nearest.k, len(layer.features)
    coordinate, feature = network.format(layer.coordinates[0]).width, network.format(layer.features[0]).width
    key = index_bits(nodes) + layer.nearest.reach.bit_length()
    distances = nodes * LUT_PER_DISTANCE_BIT * len(layer.coordinates) * coordinate
    comparators = nodes * math.log2(max(k, 2)) ** 2 / 2.2
    return distances + comparators * key * LUT_PER_COMPARED_BIT + k * features * feature * LUT_PER_FEATURE_BIT


def _choice_luts(plan: Plan) -> int:
    """Estimate the choice of clusters, of which each unit has the distances of one node to all, and the order of all pairs."""
    clusters, network = plan.clusters, plan.network
    assert clusters
    coordinate = network.format(clusters.coordinates[0]).width
    near = network.nodes * LUT_PER_DISTANCE_BIT * len(clusters.coordinates) * coordinate
    units = -(-2 * clusters.condense.most // plan.beats)
    return round(units * (near + LUT_PER_PAIR * network.nodes**2))


def stages(plan: Plan, layout: Layout) -> list[dict[str, Any]]:
    """Return what the record says of each layer."""
    lane = [x for phase in plan.phases for step in phase.steps for x in step.operations]
    rows = [
        (x.name, plan.par * _operation_luts(x, plan.network), plan.par * x.words if isinstance(x.op, Multiply) else 0)
        for x in lane if isinstance(x.op, Dense | Multiply | Table | Threshold)
    ]  # fmt: skip
    rows += [
        (layer.name, plan.par * _gravnet_luts(layer, plan.network), plan.par * layer.nearest.k * len(layer.features))
        for layer in plan.gravnets
    ]
    if layout.slots:
        assert plan.clusters
        rows.append((plan.clusters.condense.name, _choice_luts(plan), 0))
    common = {"strategy": "node stream", "interval_cycles": plan.beats, "why": f"{plan.par} nodes per cycle"}
    return [{"layer": name, "estimated_lut_unrolled": round(cost), "multipliers": n, **common} for name, cost, n in rows]
