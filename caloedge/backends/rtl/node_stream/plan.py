"""From a network of nodes to a plan: phases of lanes, GravNet layers between them, and the choice of clusters behind.

`par` nodes enter per clock cycle, each in a lane of its own; all lanes are alike. A phase is what a lane does between two
GravNet layers, with a fixed latency: adder graphs, and between these tables and products of two signals. A GravNet layer waits
for its whole event, so words that pass by one wait in a FIFO. Nothing inside can stall: the input port admits an event when
there is room for its results at the output port.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from caloedge.backends.rtl.design import NODE_VARIANTS
from caloedge.backends.rtl.layers import NAME
from caloedge.backends.rtl.node_stream.patterns import (
    Condensation,
    GravNet,
    condensation,
    gravnets,
)
from caloedge.backends.rtl.node_stream.words import NodeNetwork, NodeOperation, Word, Words, node_network
from caloedge.backends.rtl.tables import TABLE_ENTRIES, THRESHOLDS
from caloedge.compiler.fixed import Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Condense, Multiply, Output, Table, Take, Threshold
from caloedge.compiler.unsupported import refusal


@dataclass(frozen=True, eq=False)
class Step:
    """Part of a phase: operations of one adder graph, or tables and products side by side, which take one cycle."""

    adder_graph: bool
    operations: tuple[NodeOperation, ...]


@dataclass(frozen=True, eq=False)
class Phase:
    """What each lane does between two GravNet layers."""

    number: int
    starts: Words
    """Words that come at its begin, in the order in which they lie side by side."""
    steps: tuple[Step, ...]
    ends: Words
    """Words that are read behind it."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A whole node-stream design."""

    network: NodeNetwork
    par: int
    """Nodes per clock cycle."""
    phases: tuple[Phase, ...]
    gravnets: tuple[GravNet, ...]
    """Layer i stands between phases i and i + 1."""
    clusters: Condensation | None
    node_outputs: tuple[Output, ...]
    cluster_outputs: tuple[Output, ...]

    @property
    def beats(self) -> int:
        """Clock cycles in which an event enters, and the interval between two events."""
        return self.network.nodes // self.par


def plan(graph: Graph, variant: str) -> Plan:
    """Plan a design; raise `Unsupported` for what cannot be built so, with layer, reason and cure."""
    par = NODE_VARIANTS[variant]
    network = node_network(graph)
    if network.nodes % par:
        raise refusal(graph.input, f"{network.nodes} nodes, {par} per cycle,", NAME, f"use {_fitting(network.nodes)}")
    layers, clusters = gravnets(network), condensation(network)
    for layer in layers:
        _refuse_layer(layer, network)
    if clusters:
        _refuse_clusters(clusters)
    inside = {name for layer in layers for name in layer.inside}
    lanes = [x for x in network.operations.values() if x.name not in inside and not isinstance(x.op, Condense | Take)]
    node_outputs = tuple(op for op in graph.outputs if op.name not in network.cluster_tensors)
    wanted = {word for op in node_outputs for word in network.words[op.name]} | set(clusters.reads if clusters else ())
    places = _places(network, layers, lanes)
    phases = _phases(network, layers, _read(lanes, wanted, layers), places, wanted)
    cluster_outputs = tuple(op for op in graph.outputs if op.name in network.cluster_tensors)
    return Plan(network, par, phases, layers, clusters, node_outputs, cluster_outputs)


def _fitting(nodes: int) -> str:
    return f"one of {', '.join(variant for variant, par in NODE_VARIANTS.items() if nodes % par == 0)}"


def _places(network: NodeNetwork, layers: Iterable[GravNet], lanes: Iterable[NodeOperation]) -> Mapping[str, tuple[int, int]]:
    """Return phase and step of what each operation makes: even steps are adder graphs, odd ones tables and products.

    Step −1 is the begin of a phase. Refuses layers beside each other, which would wait for each other's events.
    """
    made_by = {op.name: layer for layer in layers for op in (layer.sums, layer.largest) if op}
    order = {name: i for i, name in enumerate(network.operations)}
    order |= {layer.name: min(order[name] for name, other in made_by.items() if other is layer) for layer in layers}
    places: dict[str, tuple[int, int]] = {network.graph.input.name: (0, -1)}
    number = 0
    items: list[NodeOperation | GravNet] = [*lanes, *layers]
    for item in sorted(items, key=lambda x: order[x.name]):
        words = item.reads if isinstance(item, GravNet) else [word for words in item.operands for word in words]
        phase, step = max((places[word.maker] for word in words if word.maker), default=(0, -1))
        if isinstance(item, GravNet):
            if phase != number:
                raise refusal(item.nearest, "a GravNet layer beside another, not behind it", NAME)
            number += 1
            places |= {name: (number, -1) for name, layer in made_by.items() if layer is item}
        elif _is_single(item):
            _refuse_single(item, network)
            places[item.name] = phase, step + 1 if step % 2 == 0 else step + 2
        else:
            places[item.name] = phase, step + step % 2
    return places


def _is_single(operation: NodeOperation) -> bool:
    """Tell whether an operation is built by itself, not as a part of an adder graph."""
    return isinstance(operation.op, Multiply | Table | Threshold)


def _read(lanes: list[NodeOperation], wanted: set[Word], layers: Iterable[GravNet]) -> list[NodeOperation]:
    """Return the operations whose words are read at all."""
    makers = {word.maker for word in wanted} | {word.maker for layer in layers for word in layer.reads}
    kept: list[NodeOperation] = []
    for operation in reversed(lanes):
        if operation.name in makers:
            makers.update(word.maker for words in operation.operands for word in words)
            kept.insert(0, operation)
    return kept


def _phases(
    network: NodeNetwork,
    layers: tuple[GravNet, ...],
    lanes: list[NodeOperation],
    places: Mapping[str, tuple[int, int]],
    wanted: set[Word],
) -> tuple[Phase, ...]:
    """Cut the lanes' operations into phases, from the last, whose results are known to be wanted, to the first."""
    phases: list[Phase] = []
    number, ends = len(layers), wanted
    while number >= 0:
        mine = [x for x in lanes if places[x.name][0] == number]
        steps = [Step(step % 2 == 0, tuple(x for x in mine if places[x.name][1] == step))
                 for step in sorted({places[x.name][1] for x in mine})]  # fmt: skip
        made = {x.name for x in mine}
        reads = ends | {word for x in mine for words in x.operands for word in words}
        starts = {word for word in reads if word.maker and word.maker not in made}
        if not number:
            starts |= set(network.words[network.graph.input.name])
        phases.insert(0, Phase(number, _sorted(starts, network), tuple(steps), _sorted(ends, network)))
        if number:
            layer = layers[number - 1]
            fresh = {op.name for op in (layer.sums, layer.largest) if op}
            ends = {word for word in starts if word.maker not in fresh} | set(layer.reads)
        number -= 1
    return tuple(phases)


def _sorted(words: Iterable[Word], network: NodeNetwork) -> Words:
    """Return words in the order of the graph, without constants."""
    order = {network.graph.input.name: -1} | {name: i for i, name in enumerate(network.operations)}
    return tuple(sorted((word for word in words if word.maker), key=lambda word: (order[word.maker], word.index)))


# Refusals


def _refuse_single(operation: NodeOperation, network: NodeNetwork) -> None:
    op = operation.op
    source = network.graph.tensors[op.inputs[0]]
    low, high = source.range
    if isinstance(op, Table) and high - low >= TABLE_ENTRIES:
        raise refusal(op, f"a table of {high - low + 1:,} entries (limit {TABLE_ENTRIES:,})", NAME)
    if isinstance(op, Threshold) and op.thresholds.shape[-1] > THRESHOLDS and high - low >= TABLE_ENTRIES:
        raise refusal(op, f"a count of {op.thresholds.shape[-1]} thresholds on {source.format} (limit {THRESHOLDS})", NAME)


def _refuse_layer(layer: GravNet, network: NodeNetwork) -> None:
    """Refuse what the hand-written lane does not do."""
    nearest, message = layer.nearest, layer.message
    if nearest.k > network.nodes:
        raise refusal(nearest, f"a search of {nearest.k} among {network.nodes} nodes", NAME)
    if any(not word.maker for word in (*layer.coordinates, *layer.features)):
        raise refusal(nearest, "a constant coordinate or feature", NAME)
    if layer.weights.min() < 0:
        raise refusal(nearest, "a negative weight of messages", NAME)
    if message is None:
        return
    whole = message.format.signed and (message.low, message.high) == (message.format.min_code, message.format.max_code)
    shift = layer.product_fraction - message.format.fraction
    if message.rounding is not Rounding.HALF_EVEN or not whole or shift < 0:
        subject = f"a message of {message.format} rounded {message.rounding.value} within {message.low} … {message.high}"
        raise refusal(message, subject, NAME, "round half even to a signed format, not narrow")


def _refuse_clusters(clusters: Condensation) -> None:
    if any(not word.maker for word in (clusters.score, *clusters.coordinates)):
        raise refusal(clusters.condense, "a constant score or coordinate", NAME)
