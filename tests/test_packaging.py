"""What a wheel carries: every package and its data, the hardware parts from the folder `hls/` next to it, and no tests."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.resources import files
from pathlib import Path

import pytest

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


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Build the wheel from a copy, without network, and return the names in it."""
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
    with zipfile.ZipFile(path) as archive:
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
