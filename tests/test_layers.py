"""The architecture, as a test: imports go one way, plug-ins never import each other, firmware work needs no torch."""

import ast
import functools
import graphlib
import importlib.util
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "caloedge"

# Rooms in the order of the flow: a module may import from earlier lines only, and from its own room if that makes no cycle.
ROOMS = """
    errors, results, progress, computer
    files, extras, tools
    formats
    detector
    catalog
    reconstruction
    metrics
    fidelity
    generation
    generators
    production
    tasks, targets
    graph_layers
    arithmetic
    losses, networks, generative
    recipe
    recipe_check, compiler
    artifact, project
    backends, synthesis
    training
    evaluation
    export
    verification
    firmware
    reports
    pipeline
    deepcluster, studies, fast_simulation
    cli
    __main__
"""
PLUGINS = ("generators", "tasks", "losses", "networks", "targets", "backends")
EXPORTING = ("cli", *PLUGINS)
"""Rooms with folders whose `__init__` has more than a docstring, as the package's own: the program, plug-ins of several files."""


@functools.cache
def modules() -> dict[str, Path]:
    """Return the package's files by module name without `caloedge.`; folders go by their name."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        if name:
            found[name] = path
    return found


def room_of(module: str) -> str:
    """Return the room of a module: its topmost folder, or itself."""
    return module.partition(".")[0]


def place_of(module: str) -> int | None:
    """Return the line of a module's room."""
    lines = [[room.strip() for room in line.split(",")] for line in ROOMS.split("\n")]
    return next((number for number, rooms in enumerate(lines) if room_of(module) in rooms), None)


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and module of every import of this package, wherever it stands, except for type checkers only."""
    waiting: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            waiting += node.orelse
            continue
        waiting += ast.iter_child_nodes(node)
        if isinstance(node, ast.Import):
            for name in node.names:
                if name.name.split(".")[0] == "caloedge":
                    yield node.lineno, name.name.removeprefix("caloedge").lstrip(".")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import; name the module in full"
            if node.module and node.module.split(".")[0] == "caloedge":
                base = node.module.removeprefix("caloedge").lstrip(".")
                for name in node.names:
                    whole = f"{base}.{name.name}".lstrip(".")
                    yield node.lineno, whole if whole in modules() else base


def complaints(module: str, path: Path) -> list[str]:
    """Return what a file imports that is not upstream of it; cycles inside of a room are found by `cycles`."""
    mine, room = place_of(module), room_of(module)
    where = path.relative_to(PACKAGE.parent) if path.is_relative_to(PACKAGE.parent) else path
    found = []
    for line, imported in sorted(set(imports(path))):
        theirs = place_of(imported)
        if room_of(imported) == room and room:
            wrong = room in PLUGINS and imported.split(".")[1:2] != module.split(".")[1:2]
        else:
            wrong = mine is None or theirs is None or theirs >= mine
        if wrong:
            found.append(f"{where}:{line}: {module} imports {imported or 'caloedge'}, which is not upstream of it")
    return found


def cycles(imported: Mapping[str, Iterable[str]]) -> list[str]:
    """Return a cycle among modules and what they import, if there is one."""
    try:
        graphlib.TopologicalSorter(imported).prepare()
    except graphlib.CycleError as error:
        return list(error.args[1])
    return []


def test_every_room_has_one_place() -> None:
    named = [room.strip() for line in ROOMS.split("\n") for room in line.split(",") if room.strip()]
    assert sorted(named) == sorted({room_of(module) for module in modules()})


def test_no_room_has_a_cycle() -> None:
    assert cycles({module: {name for _, name in imports(path)} - {module} for module, path in modules().items()}) == []
    assert cycles({"a.x": ["a.y", "b"], "a.y": ["a.z"], "a.z": ["a.x"]})


def test_imports_go_one_way() -> None:
    found = [line for module, path in modules().items() for line in complaints(module, path)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("module", "text", "line"),
    [
        ("tasks.x", "from caloedge.networks.seed_finder import NETWORK, SIZES", ":1: tasks.x imports networks.seed_finder"),
        ("compiler.fixed", "def f():\n    import caloedge.backends.rtl.text", ":2: compiler.fixed imports backends.rtl.text"),
        ("tasks.x", "from caloedge.tasks.seed_finder import TASK", ":1: tasks.x imports tasks.seed_finder"),
        ("artifact", "from caloedge import pipeline", ":1: artifact imports pipeline"),
        (
            "catalog",
            "if 1:\n    from caloedge.results import Claim\nfrom caloedge.recipe import Recipe",
            ":3: catalog imports recipe",
        ),
        ("somewhere", "import caloedge.errors", ":1: somewhere imports errors"),
    ],
)
def test_a_wrong_import_is_found_by_file_and_line(tmp_path: Path, module: str, text: str, line: str) -> None:
    path = tmp_path / "wrong.py"
    path.write_text(text)
    (found,) = complaints(module, path)
    assert found.startswith(f"{path}:")
    assert line in found


def test_imports_for_type_checkers_do_not_count(tmp_path: Path) -> None:
    path = tmp_path / "right.py"
    path.write_text(
        "if TYPE_CHECKING:\n    from caloedge.pipeline import run\nelse:\n    from caloedge.errors import UserError\n"
    )
    assert list(imports(path)) == [(4, "errors")]


def test_plugins_never_import_each_other() -> None:
    found = []
    for module, path in modules().items():
        if module.split(".")[0] not in PLUGINS:
            continue
        own = ".".join(module.split(".")[:2])
        for line, imported in imports(path):
            if imported.split(".")[0] in PLUGINS and not imported.startswith(own):
                found.append(f"{path.relative_to(PACKAGE.parent)}:{line}: {module} imports the plug-in {imported}")
    assert not found, "\n" + "\n".join(found)


def test_an_init_file_is_one_docstring_or_a_plugin() -> None:
    for path in PACKAGE.rglob("__init__.py"):
        parts = path.parent.relative_to(PACKAGE).parts
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        exports = not parts or (parts[0] in EXPORTING and (len(parts) == 2 or parts == ("cli",)))
        assert len(tree.body) == 1 or exports, path


def test_no_file_is_called_after_nothing() -> None:
    assert {path.name for path in PACKAGE.rglob("*.py")}.isdisjoint({"utils.py", "util.py", "helpers.py", "common.py", "misc.py"})


@pytest.mark.parametrize(
    "module",
    [
        "compiler.onnx.reader",
        "artifact",
        "backends.hls4ml",
        "tools",
        "production",
        "synthesis.route",
        "firmware.section",
        "verification.executors",
        "evaluation.accuracy",
        "verification.codes",
        "fidelity.assessment",
        "firmware.measure",
        "pipeline",
        "cli",
    ],
)
def test_torch_is_not_loaded(module: str) -> None:
    """Firmware engineers and simulation need none of the training packages."""
    code = f"import sys, caloedge.{module}; print(sorted({{'torch', 'brevitas', 'lightning', 'hls4ml'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def environment_reads(path: Path) -> Iterator[tuple[int, str]]:
    """Yield line and name of every environment variable that a file reads."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        text = ast.unparse(node) if isinstance(node, ast.Call | ast.Subscript | ast.Compare) else ""
        if text.startswith(("os.environ.get(", "os.getenv(", "os.environ[", "getenv(", "environ.get(", "environ[")):
            argument = node.args[0] if isinstance(node, ast.Call) else node.slice if isinstance(node, ast.Subscript) else node
            yield node.lineno, argument.value if isinstance(argument, ast.Constant) else ast.unparse(argument)
        elif " in os.environ" in text and isinstance(node, ast.Compare):
            yield node.lineno, ast.unparse(node.left).strip("'")


def test_no_environment_variable_is_read_but_geant4s_own() -> None:
    found = {(name, variable) for name, path in modules().items() for _, variable in environment_reads(path)}
    assert found == {("detector.crystals.geant4_tables", "G4LEDATA")}


def test_a_read_of_the_environment_is_found(tmp_path: Path) -> None:
    path = tmp_path / "bad.py"
    path.write_text("import os\na = os.environ['A']\nb = os.getenv('B')\nc = 'C' in os.environ\nd = os.environ.get('D', 1)\n")
    assert sorted(environment_reads(path)) == [(2, "A"), (3, "B"), (4, "C"), (5, "D")]


def test_programs_are_started_in_one_place() -> None:
    """Only `tools.py` starts programs, so that each has a time-out, a log and a clear error."""
    starters = {"subprocess", "pty", "popen2"}
    for name, path in modules().items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        used = {alias.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names} | {
            str(node.module).split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
        }
        assert not used & starters or name == "tools", f"{path} starts programs itself"
        assert "os.system(" not in path.read_text(encoding="utf-8")


def test_the_package_under_test_is_this_one() -> None:
    spec = importlib.util.find_spec("caloedge")
    assert spec is not None
    assert spec.origin is not None
    assert Path(spec.origin).parent == PACKAGE
