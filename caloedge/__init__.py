"""Calorimeter deep learning from particle showers to trigger firmware, bit by bit.

The names that most scripts need are here. Each is imported when it is first used; none of them needs torch.

>>> import caloedge
>>> graph = caloedge.compile_qonnx("models/shower_shape/model.qonnx")
>>> [(output.name, graph.tensors[output.name].shape) for output in graph.outputs]
[('logits', (5,))]
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caloedge.artifact import read_artifact
    from caloedge.catalog import find
    from caloedge.compiler.graph import Graph
    from caloedge.compiler.onnx.reader import read as compile_qonnx
    from caloedge.production import simulate
    from caloedge.verification.executors import verify_artifact as verify

    __version__: str

__all__ = ["Graph", "__version__", "compile_qonnx", "find", "read_artifact", "simulate", "verify"]
_HOMES = {
    "Graph": ("compiler.graph", "Graph"),
    "compile_qonnx": ("compiler.onnx.reader", "read"),
    "find": ("catalog", "find"),
    "read_artifact": ("artifact", "read_artifact"),
    "simulate": ("production", "simulate"),
    "verify": ("verification.executors", "verify_artifact"),
}
"""Module and name of each public name."""


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    if name == "__version__":
        metadata = import_module("importlib.metadata")
        try:
            return metadata.version("caloedge")
        except metadata.PackageNotFoundError:
            raise AttributeError("caloedge is not installed, so that it has no version; install it with pip") from None
    if name not in _HOMES:
        raise AttributeError(f"module 'caloedge' has no attribute {name!r}; it offers {', '.join(__all__)}")
    module, original = _HOMES[name]
    return getattr(import_module(f"caloedge.{module}"), original)


def __dir__() -> list[str]:
    """List the public names, too."""
    return sorted([*globals(), *__all__])
