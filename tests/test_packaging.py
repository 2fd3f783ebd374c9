"""What a wheel carries: every package, its data, the hardware parts of `hls/`; and what it does on a machine without torch."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

from caloedge.artifact import read_artifact, write_golden, write_manifest
from caloedge.cli import VERBS

ROOT = Path(__file__).parents[1]
SOURCES = ("caloedge", "hls", "pyproject.toml", "README.md", "LICENSE")


def settings() -> dict[str, list[str]]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]


def test_the_list_of_packages_equals_the_folders() -> None:
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "caloedge").rglob("*.py")}
    found = {".".join(folder.parts) for folder in folders} | {"caloedge.hls"}
    assert sorted(settings()["packages"]) == sorted(found)


def test_the_parts_are_found_from_the_package() -> None:
    parts = {path.name for path in (files("caloedge.hls") / "rtl").iterdir()}
    assert parts == {path.name for path in (ROOT / "hls" / "rtl").glob("*.v")}
    assert "caloedge_fifo.v" in parts
    emulator = {path.name for path in (files("caloedge.hls") / "emulator").iterdir()}
    assert emulator == {path.name for path in (ROOT / "hls" / "emulator").iterdir()} >= {"caloedge_emulator.h"}


@pytest.fixture(scope="session")
def wheel_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy, without network."""
    required = "77"
    try:
        installed = importlib.metadata.version("setuptools")
    except importlib.metadata.PackageNotFoundError:
        installed = "0"
    if int(installed.split(".")[0]) < int(required):
        message = f"setuptools {required} or newer is not installed; pip install 'setuptools>={required}'"
        if os.environ.get("CI"):
            pytest.fail(f"{message} (continuous integration must have it)")
        pytest.skip(message)
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, folder)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w", "made", "."]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (path,) = (folder / "made").glob("*.whl")
    return path


@pytest.fixture(scope="session")
def wheel(wheel_file: Path) -> list[str]:
    """Return the names in the wheel."""
    with zipfile.ZipFile(wheel_file) as archive:
        return archive.namelist()


def test_the_wheel_carries_every_part_and_the_shower_library(wheel: list[str]) -> None:
    parts = {f"caloedge/hls/{kind}/{path.name}" for kind in ("rtl", "emulator") for path in (ROOT / "hls" / kind).glob("*.*")}
    assert parts <= set(wheel)
    data = [path for path in (ROOT / "caloedge").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    missing = [str(path.relative_to(ROOT)) for path in data if path.relative_to(ROOT).as_posix() not in wheel]
    assert not missing
    assert "caloedge/detector/libraries/pbwo4_gamma.h5" in wheel
    assert "caloedge/hls/__init__.py" in wheel


def test_the_wheel_carries_no_tests(wheel: list[str]) -> None:
    tops = {name.split("/")[0] for name in wheel}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"caloedge"}
    assert not [name for name in wheel if "test" in name.rsplit("/", 1)[-1] or "/tests/" in name or "conftest" in name]


# A firmware machine: the wheel with the core and the extra `rtl` in an environment of its own, and nothing else.


@pytest.fixture(scope="module")
def firmware_machine(wheel_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the programs' folder of a new environment into which the wheel was installed; pip takes what it has in its cache."""
    folder = tmp_path_factory.mktemp("machine") / "core"
    venv.create(folder, with_pip=True)
    command = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", f"{wheel_file}[rtl]"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        message = f"pip could not install the wheel with its extra rtl: {done.stderr[-500:]}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return folder / "bin"


@dataclass(frozen=True)
class Machine:
    """The command line of the firmware machine, in a folder where nothing of the repository lies."""

    programs: Path
    work: Path

    def run(self, *words: object) -> subprocess.CompletedProcess[str]:
        command = [self.programs / "caloedge", *map(str, words)]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        done = subprocess.run(command, cwd=self.work, env=environment, capture_output=True, text=True, timeout=600, check=False)
        assert "Traceback" not in done.stdout + done.stderr, done
        done.stderr = "".join(line for line in done.stderr.splitlines(keepends=True) if not line.endswith(" left\n"))  # progress
        return done

    def said(self, *words: object) -> str:
        """Run what must succeed; return what it says, without line breaks in cells of grids."""
        done = self.run(*words)
        assert done.returncode == 0, done
        return done.stdout

    def complaint(self, *words: object) -> str:
        """Run what must be refused in one line."""
        done = self.run(*words)
        assert done.returncode == 2, done
        (line,) = done.stderr.splitlines()
        return line.removeprefix("caloedge: ")


@pytest.fixture
def machine(firmware_machine: Path, tmp_path: Path) -> Machine:
    return Machine(firmware_machine, tmp_path)


TRAINS = "needs torch, brevitas, lightning, zuko; pip install 'caloedge[train]'"
TRAINING = {"train": ("x",), "export": ("x",), "run": ("x",), "tradeoff": ("x",), "reconstruct": ("x", "y")}
"""Verbs that train or evaluate float networks, with their arguments."""
OTHER_VERBS = {
    "simulate", "convert", "compile", "inspect", "build", "emulate", "verify", "compare", "report", "fidelity", "list", "new",
}  # fmt: skip


@pytest.mark.slow
def test_the_firmware_machine_is_what_it_should_be(machine: Machine) -> None:
    code = (
        "import caloedge, importlib.util as u\n"
        "print(caloedge.__file__)\n"
        "print([n for n in ('torch', 'brevitas', 'lightning', 'zuko', 'hls4ml', 'qonnx', 'onnxruntime') if u.find_spec(n)])"
    )
    done = subprocess.run([machine.programs / "python", "-I", "-c", code], capture_output=True, text=True, check=True)
    place, found = done.stdout.splitlines()
    assert Path(place).is_relative_to(machine.programs.parent)
    assert found == "[]"
    assert set(VERBS) == OTHER_VERBS | set(TRAINING)


@pytest.mark.slow
@pytest.mark.parametrize("verb", TRAINING)
def test_without_torch_a_verb_that_trains_says_so(verb: str, machine: Machine) -> None:
    assert machine.complaint(verb, *TRAINING[verb]) == f"this command {TRAINS}"
    assert list(machine.work.iterdir()) == []


@pytest.mark.slow
def test_without_torch_networks_are_compiled_and_listed(machine: Machine, tiny: Path) -> None:
    said = machine.said("compile", tiny / "model.qonnx")
    assert "not verified: the QONNX executor needs" in said
    assert "pip install 'caloedge[hls4ml]'" in said
    assert "rtl" in machine.said("inspect", tiny)
    listed = " ".join(machine.said("list").replace("│", " ").split())
    assert "needs extra train, of which torch is not installed: pip install 'caloedge[train]'" in listed
    assert "(extra hls4ml, lacks hls4ml, qonnx, onnxruntime: pip install 'caloedge[hls4ml]')" in listed
    assert "(extra rtl)" in listed


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["task", "network", "target"])
def test_without_torch_plugins_are_begun(kind: str, machine: Machine) -> None:
    machine.said("new", kind, f"my_{kind}")
    assert (machine.work / f"my_{kind}.py").is_file()


@pytest.mark.slow
def test_without_torch_firmware_is_built_and_emulated(machine: Machine, tiny: Path) -> None:
    with np.load(tiny / "golden.npz") as golden:
        wanted = golden["output_logit"]
    for model, backend, variant in ((tiny / "model.qonnx", "emulator", "native"), (tiny, "rtl", "streaming")):
        project, outputs = machine.work / f"{backend}_project", machine.work / f"{backend}.npz"
        options = ("--backend", backend, "--variant", variant, "--no-synthesise")
        assert machine.said("build", model, project, *options).startswith(f"{project} (requested)\n")
        machine.said("emulate", project, tiny / "golden.npz", outputs)
        with np.load(outputs) as found:
            assert (found["logit"] == wanted).all()
    said = machine.complaint("build", tiny, machine.work / "hls", "--backend", "hls4ml")
    assert said == "the Python package hls4ml is not installed; pip install 'caloedge[hls4ml]'"
    assert not (machine.work / "hls").exists()


@pytest.mark.slow
def test_without_torch_what_can_be_verified_is_and_the_rest_is_no_proof(machine: Machine, tiny: Path) -> None:
    done = machine.run("verify", tiny)
    assert done.returncode == 2, done
    for executor in ("integer graph", "emulator native"):
        assert any(executor in line and "exact" in line for line in done.stdout.splitlines()), done.stdout
    assert done.stderr == (
        f"caloedge: not run: torch twin, float64 (the torch twin {TRAINS}); QONNX executor (the QONNX executor needs the packages"
        " qonnx and onnxruntime; pip install 'caloedge[hls4ml]'); what ran is exact, the rest is not proven\n"
    )
    done = machine.run("verify", tiny / "model.qonnx", "--backend", "emulator")
    assert done.returncode == 2, done
    assert "QONNX executor, float64 (the QONNX executor needs" in done.stderr
    wrong = machine.work / "wrong"
    shutil.copytree(tiny, wrong)
    artifact = read_artifact(wrong)
    golden = artifact.golden()
    golden.outputs["logit"][5, 0] += 1
    write_golden(wrong, golden)
    write_manifest(wrong, artifact.manifest)
    done = machine.run("verify", wrong)
    assert done.returncode == 1, done
    assert "emulator native differs: 1 of 1000 output codes, first in event 5" in done.stdout.splitlines()


@pytest.mark.slow
def test_without_torch_what_is_there_is_compared(machine: Machine, tiny: Path, showers_file: Path) -> None:
    said = machine.said("compare", tiny, "--library", showers_file, "--events", 300, "--output", machine.work / "report")
    assert "integer edge" in said
    assert "classical baseline" in said
    assert "float edge" not in said
    left_out = said.splitlines()[-2]
    assert left_out == f"float networks and claims on them are left out: they need{TRAINS.removeprefix('needs')}"
    (machine.work / "report" / "report.html").unlink()
    machine.said("report", machine.work / "report")
    assert (machine.work / "report" / "report.html").is_file()


@pytest.mark.slow
def test_without_torch_shipped_models_are_compared(machine: Machine) -> None:
    """Every task tells what it can of the integer network and its classical alternative alone."""
    for name in ("center_finder", "shower_shape"):
        said = machine.said("compare", ROOT / "models" / name, "--events", 600)
        assert "integer edge" in said
        assert "float published" not in said


@pytest.mark.slow
def test_without_torch_showers_are_simulated(machine: Machine) -> None:
    made = machine.work / "showers.h5"
    said = machine.said("simulate", made, "--generator", "parametrised", "--showers", 20, "--workers", 1)
    assert said.startswith(f"{made}: 20 showers")
    theirs = machine.work / "theirs.hdf5"
    stack = machine.work / "stack.h5"
    machine.said(
        "simulate", stack, "--generator", "parametrised", "--geometry", "wsi", "--showers", 5, "--workers", 1,
        "--zero-below-mev", 0.0005,
    )  # fmt: skip
    assert machine.said("convert", stack, theirs).splitlines()[1].startswith(f"{theirs.with_suffix('.xml')}: ")
    said = machine.complaint("simulate", machine.work / "more.h5", "--showers", 20)
    assert said.endswith("pip install 'caloedge[geant4]'")


def test_the_command_line_is_there_within_a_second() -> None:
    """Of processor time; the best of three, as other work may hold up each of them."""
    code = "import time; start = time.process_time(); import caloedge.cli; print(time.process_time() - start)"
    calls = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    assert min(float(done.stdout) for done in calls) < 1.0
