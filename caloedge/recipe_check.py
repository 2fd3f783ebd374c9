"""Check the names in a recipe before anything starts: task, network, sizes, devices, backends, their variants and layers.

Nothing is imported but the plug-in files themselves; where a network's file needs a package that is not installed, only its name
is checked. What needs a built network is checked by `training.preflight`.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from caloedge.catalog import Backend, Network, Target, Task, find
from caloedge.errors import UnknownName, meant
from caloedge.recipe import Recipe

SYNTHESISED = "rtl"
"""The backend whose variants are synthesised."""
LAYER = re.compile(r"(?:conv|dense|sum)_[1-9][0-9]*")
"""What the layers of an exported network are called that a recipe chooses for: by kind, in their order."""


def check_names(path: Path, recipe: Recipe) -> None:
    """Raise `UnknownName`, naming file, field and cure, where a recipe names what is not there."""
    _find(path, "task", Task, recipe.task)
    network = _find(path, "network", Network, recipe.network)
    if network:
        sizes = {"edge_size": recipe.edge_size} | {
            f"alternatives.{name}.size": alternative.size for name, alternative in recipe.alternatives.items()
        }
        for field, size in ({"network": "published"} | sizes).items():
            _require(path, field, f"network {recipe.network!r}", "size", size, network.sizes)
    for field, name in (("target", recipe.target), *(("synthesis", name) for name in recipe.synthesis)):
        _find(path, field, Target, name)
    wanted = [("builds", name, variants) for name, variants in recipe.builds.items()]
    wanted += [(f"synthesis.{target}", SYNTHESISED, variants) for target, variants in recipe.synthesis.items()]
    for field, name, variants in wanted:
        backend = _find(path, field, Backend, name)
        for variant in variants if backend else ():
            _require(path, field, f"backend {name!r}", "variant", variant, backend.variants)
    for name in recipe.layers:
        if not LAYER.fullmatch(name):
            raise UnknownName(
                f"{path}: layers: {name!r} is no layer; they are called as `caloedge compile` prints them, e.g. conv_1"
            )


def _find(path: Path, field: str, kind: type[Any], name: str) -> Any:
    """Return a plug-in; None where its file is there but a package that it needs is not."""
    try:
        return find(kind, name)
    except UnknownName as problem:
        raise UnknownName(f"{path}: {field}: {problem}") from None
    except ModuleNotFoundError:
        return None


def _require(path: Path, field: str, owner: str, what: str, name: str, known: Iterable[str]) -> None:
    if name not in known:
        raise UnknownName(f"{path}: {field}: {owner} has no {what} {name!r}{meant(name, known)}; there are: {', '.join(known)}")
