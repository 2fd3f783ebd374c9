"""Optional packages: which extra brings them, and the line that says that they are not installed."""

import importlib
from importlib.util import find_spec
from types import ModuleType

from caloedge.errors import MissingTool

EXTRAS = {
    "train": ("torch", "brevitas", "lightning", "zuko"),
    "hls4ml": ("hls4ml", "qonnx", "onnxruntime"),
    "rtl": ("alkaid",),
    "jets": ("pythia8mc", "fastjet"),
    "geant4": ("geant4_pybind", "xpecgen", "xraydb"),
    "belle2": ("pyarrow",),
    "fidelity": ("sklearn",),
    "fastsim": ("onnxruntime",),
}
"""Packages that an extra brings, as they are imported; programs of extra `rtl` may also come from elsewhere."""


def lacking(extra: str) -> list[str]:
    """Return the packages of an extra that are not installed."""
    return [name for name in EXTRAS[extra] if find_spec(name) is None]


def cure(extra: str) -> str:
    """Return the command that installs an extra.

    >>> cure("rtl")
    "pip install 'caloedge[rtl]'"
    """
    return f"pip install 'caloedge[{extra}]'"


def extra_of(package: str) -> str:
    """Return the extra that brings a package, by the name under which it or a part of it is imported; empty if none does.

    >>> extra_of("torch.nn"), extra_of("alkaid"), extra_of("nonsense")
    ('train', 'rtl', '')
    """
    top = package.split(".")[0]
    return next((extra for extra, packages in EXTRAS.items() if top in packages), "")


def need(extra: str, what: str) -> None:
    """Raise `MissingTool`, saying what needs an extra that is not installed."""
    if missing := lacking(extra):
        raise MissingTool(f"{what} needs {', '.join(missing)}; {cure(extra)}")


def package(name: str, purpose: str, extra: str) -> ModuleType:
    """Import an optional package, or raise `MissingTool` that says what needs it."""
    try:
        return importlib.import_module(name)
    except ImportError as problem:
        raise MissingTool(f"{purpose} need the package {problem.name or name}; {cure(extra)}") from None
