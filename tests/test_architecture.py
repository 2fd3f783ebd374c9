"""ARCHITECTURE.md says what is there, and names just the files that a new operation needs."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from test_layers import ROOMS

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
NEW_OPERATION = '''
@dataclass(frozen=True, eq=False)
class Invented:
    """An operation that nothing knows."""

    name: str
    inputs: tuple[str, ...]


Op = (
    Invented
    | '''


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= 80


def test_every_room_is_named() -> None:
    named = [word for cell in re.findall(r"^\| `([^`]+)` \|", TEXT, re.MULTILINE) for word in cell.split()]
    places = {room.strip(): i for i, line in enumerate(ROOMS.split("\n")) for room in line.split(",") if room.strip()}
    assert sorted(named) == sorted(places.keys() - {"__main__"})


def test_every_path_is_there() -> None:
    paths = set(re.findall(r"`((?:[\w]+/)+[\w.]*)`", TEXT))
    assert len(paths) > 15
    for path in paths:
        assert (ROOT / path).exists() or (ROOT / "caloedge" / path).exists(), path


@pytest.mark.slow
def test_a_new_operation_touches_the_files_that_are_named(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "caloedge", tmp_path / "caloedge", ignore=shutil.ignore_patterns("__pycache__", "libraries"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    path = tmp_path / "caloedge" / "compiler" / "ops.py"
    text = path.read_text(encoding="utf-8")
    assert "\nOp = (\n    " in text
    path.write_text(text.replace("\nOp = (\n    ", NEW_OPERATION), encoding="utf-8")
    done = subprocess.run([sys.executable, "-m", "mypy"], cwd=tmp_path, capture_output=True, text=True, check=False)
    touched = {line.partition(":")[0] for line in done.stdout.splitlines() if "assert_never" in line}
    (entry,) = re.findall(r"\*\*A graph operation:\*\*(.*?)One reader", TEXT, re.DOTALL)
    assert touched == {f"caloedge/{name}" for name in re.findall(r"`([\w/]+\.py)`", entry)} - {"caloedge/compiler/ops.py"}
