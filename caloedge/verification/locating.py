"""Where in a network an executor first differs from the integer graph, on one event."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import Backend, Target, find
from caloedge.compiler.graph import Graph, Inputs
from caloedge.compiler.onnx.reader import Compiled
from caloedge.compiler.ops import InputQuantiser, Output
from caloedge.errors import MissingTool, Unsupported
from caloedge.recipe import LayerChoice
from caloedge.verification.qonnx_executor import execute

ANY_TARGET = "xcvu13p"
"""Of simulations only: no device is needed."""


def first_differing_node(path: Path, compiled: Compiled, inputs: Inputs) -> str:
    """Return the file's first node output that differs from the integer network's on these inputs; empty if none differs."""
    graph = compiled.unoptimised
    traced = graph.trace(inputs)
    compared = {name: place for name, place in compiled.located.items() if not isinstance(graph[place.op], InputQuantiser)}
    tensors = execute(path, graph.input_values(inputs), keep=list(compared))
    for name, place in compared.items():
        if name not in tensors:
            continue
        codes = (tensors[name] - place.offset) / place.scale
        if not np.array_equal(np.rint(codes), traced[place.op]):
            return f"tensor {name} (layer {place.op})"
    return ""


def first_differing_layer(
    backend: str, variant: str, graph: Graph, inputs: Inputs, choices: Mapping[str, LayerChoice] | None = None
) -> str:
    """Return the first layer whose codes a backend gets wrong, from a build in which every layer is an output.

    Empty if none is wrong, or where the backend does not build that.
    """
    inner = [op for op in graph.ops if not isinstance(op, Output | InputQuantiser)]
    traced = Graph(
        (*(op for op in graph.ops if not isinstance(op, Output)), *(Output(f"at_{op.name}", (op.name,)) for op in inner))
    )
    plugin = find(Backend, backend)
    try:
        with tempfile.TemporaryDirectory() as folder:
            plugin.build(traced, find(Target, ANY_TARGET), variant, Path(folder) / "traced", choices or {})
            codes = plugin.emulate(Path(folder) / "traced", inputs)
    except (Unsupported, MissingTool):
        return ""
    expected: Mapping[str, NDArray[Any]] = traced.run(inputs)
    return next((f"layer {op.name}" for op in inner if not np.array_equal(expected[f"at_{op.name}"], codes[f"at_{op.name}"])), "")
