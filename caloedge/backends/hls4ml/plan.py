"""Configuration and layers for hls4ml, as a pure function of graph, target and variant.

hls4ml's own ONNX front end guesses widths; given explicit layers and types it is bit-exact.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from caloedge.backends.hls4ml.gates import build_op, gate_parts
from caloedge.backends.hls4ml.layers import NAME, Draft
from caloedge.backends.hls4ml.layout import Order
from caloedge.backends.hls4ml.nodes import NodeBuilder, nodes_of
from caloedge.backends.hls4ml.reuse import Reuse
from caloedge.catalog import Target
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Conv, Dense, InputQuantiser, Output
from caloedge.compiler.unsupported import kind, layer_names, refusal, refuse_unknown_layers
from caloedge.errors import Unsupported, UserError
from caloedge.project import AUTO, generator_digest, identifiers, stem
from caloedge.recipe import LayerChoice

PARALLEL, STREAM = "io_parallel", "io_stream"
VARIANTS = (PARALLEL, STREAM, AUTO)
"""`auto` is `io_stream` with the reuse factors of the recipe."""
MOST_AXES = 3
MOST_PARALLEL_PRODUCTS = 2**18
"""Products of an event that io_parallel may unroll; 21 times what the largest target has multipliers for.

More cannot be compiled in reasonable time: for 3×3 convolutions g++ needs 0.34 GB for the C simulation of 18 thousand products,
0.47 GB of 74 thousand, and 0.70 GB and over two minutes of CPU time of 295 thousand (hls4ml 1.3, g++ 12). Vitis HLS schedules
each unrolled product by itself (UG1399, "Improving Synthesis Runtime and Capacity").
"""
# fmt: off
RESERVED = frozenset((
    "auto", "bool", "break", "case", "catch", "char", "class", "const", "continue", "default", "delete", "do", "double",
    "else", "enum", "explicit", "export", "extern", "false", "float", "for", "friend", "goto", "if", "inline", "input",
    "int", "long", "namespace", "new", "operator", "private", "protected", "public", "register", "return", "short",
    "signed", "sizeof", "static", "struct", "switch", "template", "this", "throw", "true", "try", "typedef", "union",
    "unsigned", "using", "virtual", "void", "volatile", "while",
))
# fmt: on
"""Names that no layer can have: hls4ml's own and those of C++."""


@dataclass(frozen=True)
class HlsPlan:
    """Input of hls4ml: its configuration (without the output folder) and its layers in order."""

    config: dict[str, Any]
    layers: list[dict[str, Any]]
    inputs: list[str]
    outputs: list[str]
    """Layers whose results leave the network, each once."""
    orders: Mapping[str, Order]
    """Element of the flattened tensor in each place of the array, by input and output of the graph."""
    sources: Mapping[str, str]
    """Layer by output of the graph."""
    reuse: Mapping[str, Reuse]
    """Reuse in each convolution and dense layer."""

    @property
    def project(self) -> str:
        """Name of the project and of its top function."""
        return str(self.config["ProjectName"])


def plan(graph: Graph, target: Target, variant: str, choices: Mapping[str, LayerChoice] | None = None) -> HlsPlan:
    """Return hls4ml's configuration and layers, with every width taken from the graph's proven ranges.

    Only variant `auto` heeds the choices by layer.
    """
    if variant not in VARIANTS:
        raise UserError(f"backend 'hls4ml' has no variant {variant!r}; there are: {', '.join(VARIANTS)}")
    refuse_unknown_layers(choices or {}, layer_names(graph))
    heeded = (choices or {}) if variant == AUTO else {}
    draft = _draft(graph, variant, heeded)
    if variant == PARALLEL:
        _refuse_too_many_products(graph, draft.nodes)
    ways = [variant, *(f"{name} {choice}" for name, choice in sorted(heeded.items())), generator_digest()]
    wires = draft.wires
    outputs = list(dict.fromkeys(wires[op.name].layer for op in graph.outputs))
    ends: list[InputQuantiser | Output] = [*graph.inputs, *graph.outputs]
    return HlsPlan(
        _config(stem(graph.name, graph.digest, ways), target, variant, draft.settings),
        draft.layers,
        [wires[op.name].layer for op in graph.inputs],
        outputs,
        {op.name: wires[op.name].layout.order for op in ends},
        {op.name: wires[op.name].layer for op in graph.outputs},
        draft.reuse,
    )


def _config(project: str, target: Target, variant: str, settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "ProjectName": project,
        "Backend": "Vitis",
        "Writer": "vitis",
        "Version": "1.0.0",
        "Part": target.part,
        "ClockPeriod": target.period_ns,
        "ClockUncertainty": "27%",
        "IOType": PARALLEL if variant == PARALLEL else STREAM,
        "HLSConfig": {
            # The default width is never used; a layer that fell back to it would fail the comparison.
            "Model": {"Precision": {"default": "fixed<2,1>"}, "ReuseFactor": 1, "Strategy": "latency", "TraceOutput": False},
            "LayerName": settings,
        },
        # Weights, types and layers of another network have the same names, such as w2 and config2: each has its namespace.
        # Weights as text: compiled in, ten thousand of them keep g++ busy for minutes.
        "WriterConfig": {"Namespace": f"{project}_net", "WriteWeightsTxt": True, "WriteTar": False, "TBOutputStream": "both"},
    }


def _draft(graph: Graph, variant: str, choices: Mapping[str, LayerChoice]) -> Draft:
    """Return all layers; raise `Unsupported`, naming the first operation that cannot be built exactly."""
    _refuse_useless_reuse(graph, choices)
    draft, parts = Draft(graph, variant != PARALLEL, _layer_names(graph), choices, nodes_of(graph)), gate_parts(graph)
    of_nodes = NodeBuilder.of(graph, streaming=draft.streaming) if draft.nodes else None
    for op in graph.ops:
        if len(graph.tensors[op.name].shape) > MOST_AXES:
            raise refusal(op, f"a tensor of {len(graph.tensors[op.name].shape)} axes", NAME)
        wire = of_nodes.build(op, draft) if of_nodes else build_op(op, parts, draft)
        if wire is not None:
            draft.wires[op.name] = wire
    _refuse_read_outputs(draft)
    return draft


def _refuse_too_many_products(graph: Graph, nodes: int) -> None:
    """Refuse to lay out side by side what neither a compiler nor a device has room for; of several nodes, one is laid out."""
    products = {layer.name: layer.multiply_adds // max(nodes, 1) for layer in graph.layers()}
    total = sum(products.values())
    if total > MOST_PARALLEL_PRODUCTS:
        largest = max(products, key=lambda name: products[name])
        cure = "" if nodes else f"--variant {STREAM}, or "
        raise Unsupported(
            f"layer {largest}: {products[largest]:,} of the {total:,} products of {'a node' if nodes else 'an event'}, which "
            f"io_parallel unrolls (limit {MOST_PARALLEL_PRODUCTS:,}); use {cure}backend 'rtl' or 'emulator'"
        )


def _refuse_useless_reuse(graph: Graph, choices: Mapping[str, LayerChoice]) -> None:
    """Refuse reuse where nothing is multiplied by a matrix."""
    for name, choice in choices.items():
        if choice.reuse is not None and not isinstance(graph[name], Conv | Dense):
            raise UserError(
                f"layers: {name}: reuse {choice.reuse}; {kind(graph[name])} has no multipliers for hls4ml to reuse, leave it out"
            )


def _layer_names(graph: Graph) -> dict[str, str]:
    """Return a name for each operation that hls4ml and C++ accept, all different."""
    names = identifiers(graph)
    for op, name in names.items():
        if name in RESERVED:
            used = set(names.values())
            names[op] = next(free for i in range(1, len(used) + 2) if (free := f"{name}_{i}") not in used)
    return names


def _refuse_read_outputs(draft: Draft) -> None:
    """Refuse outputs whose layer feeds others as well, which hls4ml builds wrong or not at all."""
    kinds = {layer["name"]: layer["class_name"] for layer in draft.layers}
    sources = {layer["name"]: layer["inputs"] for layer in draft.layers}
    titles = {identifier: name for name, identifier in draft.names.items()}
    for op in draft.graph.outputs:
        layer = draft.wires[op.name].layer
        origin = layer
        while kinds[origin] == "Reshape":  # only another name for the same array
            origin = sources[origin][0]
        if kinds[origin] == "InputLayer":
            raise Unsupported(f"output {op.name}: is the input itself; backend 'hls4ml' needs a layer between")
        if readers := [reading["name"] for reading in draft.layers if layer in reading["inputs"]]:
            read, reader = (titles.get(name, name) for name in (layer, readers[0]))
            raise Unsupported(
                f"output {op.name}: layer {read} is also read by {reader}, which is not supported by backend 'hls4ml'; give the "
                "output a layer of its own"
            )


def preview(graph: Graph, target: Target, variant: str, choices: Mapping[str, LayerChoice]) -> str:
    """Say what would be built: layers, reuse factors, multiplications and the widest sum."""
    hls_plan = plan(graph, target, variant, choices)
    multiplications = sum(layer.multiply_adds for layer in graph.layers())
    widest = max(tensor.format.width for tensor in graph.tensors.values())
    text = f"{len(hls_plan.layers)} hls4ml layers with reuse factor 1"
    if nodes_of(graph):
        text += ", dense layers one node per clock cycle"
    if reused := [f"{reuse.factor} in {name} ({reuse.why})" for name, reuse in hls_plan.reuse.items() if reuse.factor > 1]:
        text += f", but {', '.join(reused)}"
    return f"{text}; {multiplications:,} multiplications, sums of up to {widest} bits"
