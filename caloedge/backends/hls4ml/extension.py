"""The layers that hls4ml is taught: those of channel gates and of networks of nodes, with their templates and their C++."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from caloedge.backends.hls4ml.gates import HEADER, SCALE, SUM
from caloedge.backends.hls4ml.nodes import COLUMNS, CONDENSE, GRAVNET, GRAVNET_HEADER, NODES_HEADER, ROWS

SUM_CONFIG = """\
    static const unsigned n_chan = {n_chan};
    static const unsigned n_pixels = {n_pixels};
    typedef {accum_t.name} accum_t;
"""
SCALE_CONFIG = """\
    static const unsigned n_chan = {n_chan};
    static const unsigned n_pixels = {n_pixels};
"""
GRAVNET_CONFIG = """\
    static const unsigned n_nodes = {n_nodes};
    static const unsigned n_axes = {n_axes};
    static const unsigned n_features = {n_features};
    static const unsigned n_neighbours = {n_neighbours};
    static const unsigned n_index_bits = {n_index_bits};
    static const unsigned n_distance_bits = {n_distance_bits};
    static const unsigned n_weights = {weight.data_length};
    typedef {distance_t.name} distance_t;
    typedef {message_t.name} message_t;
    typedef {accum_t.name} accum_t;
    typedef ap_uint<n_distance_bits + n_index_bits> key_t;
    static distance_t reach() {{ return {reach!r}; }}
"""
CONDENSE_CONFIG = """\
    static const unsigned n_nodes = {n_nodes};
    static const unsigned n_axes = {n_axes};
    static const unsigned n_most = {n_most};
    typedef {distance_t.name} distance_t;
    typedef {threshold_t.name} threshold_t;
    static threshold_t threshold() {{ return {threshold!r}; }}
    static distance_t apart() {{ return {apart!r}; }}
"""
ROWS_CONFIG = """\
    static const unsigned n_nodes = {n_nodes};
    static const unsigned n_features = {n_features};
    static const unsigned n_rows = {n_rows};
"""
COLUMNS_CONFIG = """\
    static const unsigned n_nodes = {n_nodes};
    static const unsigned n_in = {n_in};
    static const unsigned n_out = {n_out};
    static unsigned column(unsigned c) {{
        static const unsigned columns[n_out] = {{{columns}}};
        return columns[c];
    }}
"""


@dataclass(frozen=True)
class Extension:
    """A layer that hls4ml lacks."""

    function: str
    """Its C++: a template of the types of inputs, results, weights, and the configuration."""
    header: str
    config: str
    """Members of the configuration's struct; `reuse_factor` is one of all."""
    initialize: Callable[[Any], None]
    """Give a new layer of hls4ml its results and weights."""
    types: tuple[str, ...] = ()
    """Types beside those of results and weights that the plan gives."""


def _sum_results(layer: Any) -> None:
    layer.add_output_variable([layer.get_attr("n_chan")])


def _scale_results(layer: Any) -> None:
    layer.add_output_variable(list(layer.get_input_variable(layer.inputs[0]).shape))


def _two_results(layer: Any, shapes: dict[str, list[int]]) -> None:
    """Give a layer two results, each with a type of its own."""
    for output, (name, shape) in zip(layer.outputs, shapes.items(), strict=True):
        precision, _ = layer.model.config.get_precision(layer, var=name)
        names = {"var_name": f"layer{layer.index}_{name}", "type_name": f"layer{layer.index}_{name}_t"}
        layer.add_output_variable(shape, out_name=output, precision=precision, **names)
        layer.set_attr(f"{name}_t", layer.get_output_variable(output).type)


def _gravnet_results(layer: Any) -> None:
    shape = [layer.get_attr("n_nodes"), layer.get_attr("n_features")]
    _two_results(layer, {"largest": shape, "sums": shape})
    layer.add_weights()


def _condense_results(layer: Any) -> None:
    _two_results(layer, {"indices": [layer.get_attr("n_most")], "status": [2]})


def _rows_results(layer: Any) -> None:
    layer.add_output_variable([layer.get_attr("n_rows"), layer.get_attr("n_features")])


def _columns_results(layer: Any) -> None:
    layer.add_output_variable(layer.get_attr("shape"))


EXTENSIONS = {
    SUM: Extension("channel_sum", HEADER, SUM_CONFIG, _sum_results, ("accum",)),
    SCALE: Extension("channel_scale", HEADER, SCALE_CONFIG, _scale_results),
    GRAVNET: Extension("gravnet", GRAVNET_HEADER, GRAVNET_CONFIG, _gravnet_results, ("distance", "message", "accum")),
    CONDENSE: Extension("condense", NODES_HEADER, CONDENSE_CONFIG, _condense_results, ("distance", "threshold")),
    ROWS: Extension("take_rows", NODES_HEADER, ROWS_CONFIG, _rows_results),
    COLUMNS: Extension("node_columns", NODES_HEADER, COLUMNS_CONFIG, _columns_results),
}
INCLUDED = {GRAVNET_HEADER: NODES_HEADER}
"""Header that a header includes."""


def register() -> None:
    """Make hls4ml's backend Vitis know the layers; once per process is enough."""
    from hls4ml.backends import get_backend
    from hls4ml.backends.template import FunctionCallTemplate, LayerConfigTemplate
    from hls4ml.model.attributes import TypeAttribute
    from hls4ml.model.layers import Layer, layer_map, register_layer

    if SUM in layer_map:
        return
    backend = get_backend("vitis")
    for name, extension in EXTENSIONS.items():
        # Classes are made here because their bases come from a package that is not loaded before it is needed.
        types = [TypeAttribute(kind) for kind in extension.types]
        kind = type(name, (Layer,), {"initialize": _initialize(extension), "_expected_attributes": types})
        register_layer(name, kind)
        backend.register_template(_config_template(LayerConfigTemplate, kind, extension.config))
        backend.register_template(_call_template(FunctionCallTemplate, kind, extension))


def _initialize(extension: Extension) -> Callable[[Any], None]:
    def initialize(layer: Any) -> None:
        for name in extension.types:
            layer._set_type_t(name)
        extension.initialize(layer)

    return initialize


def _config_template(base: Any, kind: Any, members: str) -> Any:
    text = f"struct config{{index}} {{{{\n{members}    static const unsigned reuse_factor = {{reuse}};\n}}}};\n"

    def filled(template: Any, node: Any) -> str:
        values = template._default_config_params(node)
        values["columns"] = ", ".join(str(column) for column in node.get_attr("columns", []))
        return text.format(**values)

    return type(f"{kind.__name__}Config", (base,), {"__init__": lambda self: base.__init__(self, kind), "format": filled})


def _call_template(base: Any, kind: Any, extension: Extension) -> Any:
    def call(_: Any, node: Any) -> str:
        variables = [
            *map(node.get_input_variable, node.inputs),
            *map(node.get_output_variable, node.outputs),
            *node.get_weights(),
        ]
        types = ", ".join(variable.type.name for variable in variables)
        arguments = ", ".join(variable.name for variable in variables)
        return f"nnet::{extension.function}<{types}, config{node.index}>({arguments});"

    headers = [f"nnet_utils/{extension.header}"]
    members = {"__init__": lambda self: base.__init__(self, kind, include_header=headers), "format": call}
    return type(f"{kind.__name__}Call", (base,), members)


def hold_events(model: Any) -> list[dict[str, Any]]:
    """Give the stream of pixels before each scaling room for a whole event, and return what the project's record says of it.

    Without room for an event the clone before the gate waits for the scaling, which waits for the sum, which waits for the clone.
    """
    entries = []
    for node in model.get_layers():
        if node.class_name == SCALE:
            pixels, variable = node.get_attr("n_pixels"), node.get_input_variable(node.inputs[0])
            mode, depth = variable.pragma
            assert mode == "stream", variable.pragma
            variable.pragma = (mode, max(int(depth), pixels))
            entries.append({"layer": node.name, "stream": variable.name, "words": pixels, "depth": variable.pragma[1]})
    return entries


def headers(kinds: Iterable[str]) -> list[str]:
    """Return the C++ headers that layers of these kinds need, each once."""
    named = {EXTENSIONS[kind].header for kind in kinds if kind in EXTENSIONS}
    return sorted(named | {INCLUDED[name] for name in named if name in INCLUDED})


def copy_headers(names: Iterable[str], folder: Path) -> None:
    """Put the C++ of layers into a written project."""
    for name in names:
        text = (resources.files("caloedge.hls") / "hls4ml" / name).read_text(encoding="utf-8")
        (folder / "firmware" / "nnet_utils" / name).write_text(text, encoding="utf-8")
