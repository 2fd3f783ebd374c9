"""The architecture, as a test: imports go one way, plug-ins never import each other, firmware work needs no torch."""

import ast
import functools
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "caloedge"

# A module may import from earlier lines only. `folder.*` are its files; files on one line may not import each other.
LAYERS = """
    errors
    files, results, progress, computer, plain_yaml, extras
    npz, hdf5
    detector.geometry, detector.library, detector.geant4_tables, detector.full_events, detector.layered
    detector.geant4, detector.events, detector.jets, detector.layered_showers
    detector.photons, detector.cluster_model, detector.layered_events
    detector.parametrised, detector.shapes, detector.clusters, detector.groups, detector.layered_files
    detector.production, detector.cluster_tuning
    catalog
    recipe, statistics, similarity
    claims
    recipe_check
    artifact, compiler.fixed, compiler.onnx_file
    compiler.ops, compiler.rationals
    compiler.ranges, compiler.functions
    compiler.kernels, compiler.builder
    compiler.graph, compiler.steps
    compiler.passes, compiler.gates
    compiler.values
    compiler.reading
    compiler.read_convolutions, compiler.read_choices, compiler.read_elementwise, compiler.read_moves
    compiler.read_products, compiler.read_pools, compiler.folding
    compiler.read_quantisers
    compiler.reader
    arithmetic, published
    reconstruction.matching, reconstruction.resolution, reconstruction.energy_flow, reconstruction.energy_jets
    reconstruction.displays, reconstruction.pions, reconstruction.neutral_energy
    reconstruction.energy_images
    reconstruction.physics, reconstruction.energy_comparison, reconstruction.energy_displays
    reconstruction.energy_report
    tasks.*, networks.*, targets.*
    tools, project, budgets, qonnx_executor, refusals
    backends.rtl.steps, backends.rtl.tables, backends.rtl.text, scoring
    backends.rtl.layers
    backends.rtl.adders, backends.hls4ml.layout, backends.hls4ml.reuse
    backends.rtl.design
    backends.rtl.arrays
    backends.rtl.verilog, backends.rtl.harness, backends.hls4ml.layers
    backends.hls4ml.gates
    backends.rtl.simulation, backends.hls4ml.plan, backends.hls4ml.extension
    backends.rtl.project, backends.hls4ml.project
    backends.emulator.layout
    backends.emulator.steps
    backends.emulator.source
    backends.emulator.project, backends.emulator.binding
    backends.*
    synthesis.rtl, synthesis.cells, synthesis.deep_yosys
    synthesis.netlist
    synthesis.route, synthesis.vendor
    training.teaching, training.chains, training.rehearsal, training.rounding
    training.fit
    training.preflight
    training.equalise, training.split
    training.twin
    training.stages
    training.export, training.forecast
    synthesis.cost
    training.timing
    verification, comparison, reconstruction.chain
    reconstruction.firmware
    crosscheck, inspection
    firmware
    reports.looks, reports.ratios, reports.rounding, reports.wording
    reports.canvas
    reports.legend
    reports.plots, reports.tables, reports.sections, reports.summary, reports.latency
    reports.headline, reports.downloads
    reports.readme
    reports.page
    reports.store
    pipeline
    foldings
    study, reconstruction.report
    tradeoff
    cli.answer, cli.completion
    cli.terminal
    cli.training, cli.compiling, cli.building, cli.judging, cli.stories, cli.listing, cli.beginning
    cli
    __main__
"""
PLUGINS = ("tasks", "networks", "targets", "backends")
INNER = ("detector", "tasks", "networks", "training", "compiler", "targets", "backends", "synthesis", "reports", "reconstruction")


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


def layer_of(module: str) -> int | None:
    """Return the line of a module; the folder plug-ins belong to their plug-in."""
    for number, line in enumerate(LAYERS.split("\n")):
        for pattern in (entry.strip() for entry in line.split(",")):
            if pattern and (module == pattern or (pattern.endswith(".*") and module.startswith(pattern[:-1]))):
                return number
    return None


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
    mine = layer_of(module)
    where = path.relative_to(PACKAGE.parent) if path.is_relative_to(PACKAGE.parent) else path
    found = []
    for line, imported in sorted(set(imports(path))):
        theirs = layer_of(imported)
        folder = module.split(".")[0]
        if folder in PLUGINS and imported.startswith(f"{module}."):
            continue  # the files of one plug-in's own folder
        other = imported.split(".")[0] == folder and imported.split(".")[1:2] != module.split(".")[1:2]
        if mine is None or theirs is None or theirs >= mine or (folder in PLUGINS and other):
            found.append(f"{where}:{line}: {module} imports {imported or 'caloedge'}, which is not upstream of it")
    return found


def test_every_module_has_one_place() -> None:
    inner = {name for name, path in modules().items() if path.name == "__init__.py" and name in INNER}
    homeless = [name for name in modules() if name not in inner and layer_of(name) is None]
    assert not homeless, f"not in LAYERS: {', '.join(homeless)}"
    named = [entry.strip() for line in LAYERS.split("\n") for entry in line.split(",") if entry.strip()]
    assert len(named) == len(set(named))
    gone = [entry for entry in named if not entry.endswith(".*") and entry not in modules()]
    assert not gone, f"in LAYERS, but no such file: {', '.join(gone)}"


def test_imports_go_one_way() -> None:
    checked = {module: path for module, path in modules().items() if path.name != "__init__.py" or module == "cli"}
    found = [line for module, path in checked.items() for line in complaints(module, path)]
    assert not found, "\n" + "\n".join(found)


@pytest.mark.parametrize(
    ("module", "text", "line"),
    [
        ("tasks.x", "from caloedge.networks.seed_finder import NETWORK, SIZES", ":1: tasks.x imports networks.seed_finder"),
        ("compiler.fixed", "def f():\n    import caloedge.compiler.graph", ":2: compiler.fixed imports compiler.graph"),
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


@pytest.mark.parametrize("folder", [*INNER, ""])
def test_an_init_file_is_one_docstring(folder: str) -> None:
    tree = ast.parse((PACKAGE / folder / "__init__.py").read_text(encoding="utf-8"))
    assert len(tree.body) == 1
    assert ast.get_docstring(tree)


def test_every_folder_of_code_is_listed_here() -> None:
    folders = {path.parent.relative_to(PACKAGE).parts[0] for path in PACKAGE.glob("*/*.py")}
    assert folders == {*INNER, "cli"}  # the program itself: its `__init__` assembles the verbs
    assert {path.name for path in PACKAGE.rglob("*.py")}.isdisjoint({"utils.py", "util.py", "helpers.py", "common.py", "misc.py"})


@pytest.mark.parametrize(
    "module",
    [
        "compiler.reader",
        "artifact",
        "backends.hls4ml",
        "tools",
        "detector.production",
        "synthesis.route",
        "reports.latency",
        "verification",
        "comparison",
        "crosscheck",
        "firmware",
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
    assert found == {("detector.geant4_tables", "G4LEDATA")}


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
