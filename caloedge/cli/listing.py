"""Command that lists everything a recipe or the command line can name: list."""

from typing import Any

from caloedge.catalog import Backend, Generator, Loss, Network, Target, Task, find, names
from caloedge.cli.answer import Json, answering
from caloedge.extras import cure, extra_of, lacking
from caloedge.results import Table

NETWORKS_EXTRA = "train"


def list_(as_json: Json = False) -> None:
    """List generators, tasks, losses, networks, targets, backends, geometries, shipped shower libraries and QONNX operators."""
    from caloedge.compiler.onnx.reader import READERS
    from caloedge.detector.crystals.geometry import GEOMETRIES
    from caloedge.detector.crystals.library import open_library, shipped_names

    rows = []
    for plugin_type in (Generator, Task, Loss, Network, Target, Backend):
        kind = plugin_type.__name__.lower()
        rows += [(kind, name, _described(plugin_type, name)) for name in names(kind)]
    for name, value in GEOMETRIES.items():
        rows.append(("geometry", name, f"{type(value).__name__}, cells {'×'.join(map(str, value.cell_shape))}"))
    for name in shipped_names():
        library = open_library(name)
        provenance = ", ".join(library.provenance.get(key, "") for key in ("particle", "version", "physics_list"))
        rows.append(("library", name, f"{len(library):,} showers, {provenance}"))
    with answering(as_json) as answer:
        answer.show(Table(title="What can be named", columns=("kind", "name", "what it is"), rows=tuple(rows)))
        answer.say(f"operators that `caloedge compile` takes: {', '.join(sorted(READERS))}")


def _described(plugin_type: Any, name: str) -> str:
    """Return what a plug-in is, and the extra that it needs."""
    try:
        plugin = find(plugin_type, name)
    except ModuleNotFoundError as missing:
        if not (extra := extra_of(missing.name or "")):
            return f"needs the package {missing.name}, which no extra brings: install it"
        return f"needs extra {extra}, of which {missing.name} is not installed: {cure(extra)}"
    extra = NETWORKS_EXTRA if plugin_type in (Network, Loss) else getattr(plugin, "extra", "")
    if not extra:
        return str(plugin.description)
    missing_packages = ", ".join(lacking(extra))
    return f"{plugin.description} (extra {extra}{f', lacks {missing_packages}: {cure(extra)}' if missing_packages else ''})"
