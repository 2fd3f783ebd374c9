"""What there is to name in a recipe or on the command line: list."""

from caloedge.catalog import Backend, Network, Target, Task, find, names
from caloedge.cli.answer import Json, answering
from caloedge.results import Table


def list_(as_json: Json = False) -> None:
    """List tasks, networks, targets, backends, geometries, shipped shower libraries and QONNX operators."""
    from caloedge.compiler.reader import READERS
    from caloedge.detector.geometry import GEOMETRIES
    from caloedge.detector.library import open_library, shipped_names

    rows = []
    for plugin_type in (Task, Network, Target, Backend):
        kind = plugin_type.__name__.lower()
        for name in names(kind):
            try:
                described = find(plugin_type, name).description  # type: ignore[attr-defined]
            except ModuleNotFoundError as missing:
                described = f"needs the package {missing.name}: pip install 'caloedge[train]'"
            rows.append((kind, name, described))
    for name, value in GEOMETRIES.items():
        rows.append(("geometry", name, f"{type(value).__name__}, cells {'×'.join(map(str, value.cell_shape))}"))
    for name in shipped_names():
        library = open_library(name)
        made = ", ".join(library.provenance.get(key, "") for key in ("particle", "version", "physics_list"))
        rows.append(("library", name, f"{len(library):,} showers, {made}"))
    with answering(as_json) as answer:
        answer.show(Table(title="What can be named", columns=("kind", "name", "what it is"), rows=tuple(rows)))
        answer.say(f"operators that `caloedge compile` takes: {', '.join(sorted(READERS))}")
