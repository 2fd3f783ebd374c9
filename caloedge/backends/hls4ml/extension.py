"""The layers that hls4ml is taught: those of channel gates, with their templates and their C++."""

from importlib import resources
from pathlib import Path
from typing import Any

from caloedge.backends.hls4ml.gates import HEADER, SCALE, SUM

SUM_CONFIG = """\
struct config{index} {{
    static const unsigned n_chan = {n_chan};
    static const unsigned n_pixels = {n_pixels};
    static const unsigned reuse_factor = {reuse};
    typedef {accum_t.name} accum_t;
}};
"""
SCALE_CONFIG = """\
struct config{index} {{
    static const unsigned n_chan = {n_chan};
    static const unsigned n_pixels = {n_pixels};
    static const unsigned reuse_factor = {reuse};
}};
"""


def register() -> None:
    """Make hls4ml's backend Vitis know the layers; once per process is enough."""
    from hls4ml.backends import get_backend
    from hls4ml.backends.template import FunctionCallTemplate, LayerConfigTemplate
    from hls4ml.model.attributes import TypeAttribute
    from hls4ml.model.layers import Layer, layer_map, register_layer

    if SUM in layer_map:
        return

    def initialize_sum(self: Any) -> None:
        self.add_output_variable([self.get_attr("n_chan")])

    def initialize_scale(self: Any) -> None:
        self.add_output_variable(list(self.get_input_variable(self.inputs[0]).shape))

    # Classes are made here because their bases come from a package that is not loaded before it is needed.
    kinds = {
        SUM: type(SUM, (Layer,), {"initialize": initialize_sum, "_expected_attributes": [TypeAttribute("accum")]}),
        SCALE: type(SCALE, (Layer,), {"initialize": initialize_scale}),
    }
    backend = get_backend("vitis")
    for name, config, function in ((SUM, SUM_CONFIG, "channel_sum"), (SCALE, SCALE_CONFIG, "channel_scale")):
        register_layer(name, kinds[name])
        backend.register_template(_config_template(LayerConfigTemplate, kinds[name], config))
        backend.register_template(_call_template(FunctionCallTemplate, kinds[name], function))


def _config_template(base: Any, kind: Any, text: str) -> Any:
    def filled(template: Any, node: Any) -> str:
        return text.format(**template._default_config_params(node))

    return type(f"{kind.__name__}Config", (base,), {"__init__": lambda self: base.__init__(self, kind), "format": filled})


def _call_template(base: Any, kind: Any, function: str) -> Any:
    def call(_: Any, node: Any) -> str:
        variables = [*(node.get_input_variable(name) for name in node.inputs), node.get_output_variable()]
        types = ", ".join(variable.type.name for variable in variables)
        return f"nnet::{function}<{types}, config{node.index}>({', '.join(variable.name for variable in variables)});"

    headers = [f"nnet_utils/{HEADER}"]
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


def copy_header(folder: Path) -> None:
    """Put the C++ of the layers into a written project."""
    text = (resources.files("caloedge.hls") / "hls4ml" / HEADER).read_text(encoding="utf-8")
    (folder / "firmware" / "nnet_utils" / HEADER).write_text(text, encoding="utf-8")
