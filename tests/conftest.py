"""What several tests share: a small shower library, and a tiny artifact that was really trained and exported."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.production import Production, simulate

N_SHOWERS = 400


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that have slow tests: a process that gets one last leaves the others without work."""
    slow_files = {item.path for item in items if item.get_closest_marker("slow") or item.get_closest_marker("exhaustive")}
    items.sort(key=lambda item: item.path not in slow_files)


@dataclass(frozen=True)
class Ended:
    """How one call of the command line ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def caloedge(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Run the command line in this process."""
    from caloedge.cli import main

    def call(*words: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["caloedge", *map(str, words)])
        capsys.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        said = capsys.readouterr()
        return Ended(code, said.out, said.err)

    return call


@pytest.fixture(scope="session")
def showers_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a library of parametrised showers; tests that change it make a copy."""
    path = tmp_path_factory.mktemp("showers") / "showers.h5"
    simulate(Production(generator="parametrised", showers=N_SHOWERS, seed=7), path, workers=1)
    return path


@pytest.fixture(scope="session")
def library(showers_file: Path) -> ShowerLibrary:
    return open_library(showers_file)


RECIPE = """\
name: tiny
task: seed_finder
network: seed_finder
library: ../{library}
seed: 3
training:
  published: {{epochs: 1, events_per_epoch: 60, batch_size: 128, learning_rate: 1.0e-3}}
  edge: {{epochs: 1, events_per_epoch: 1000, batch_size: 128, learning_rate: 5.0e-3}}
  quantised: {{epochs: 1, events_per_epoch: 300, batch_size: 128, learning_rate: 1.0e-3}}
quantisation: {{weight_bits: 8, activation_bits: 8, input_bits: 12, input_fraction: 5}}
golden_vectors: 1000
evaluation: {{events: 250, valid_events: 250}}
"""


@pytest.fixture(scope="session")
def tiny_recipe(showers_file: Path) -> Path:
    folder = showers_file.parent / "recipe"
    folder.mkdir()
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(library=showers_file.name))
    return path


@pytest.fixture(scope="session")
def tiny(tiny_recipe: Path) -> Path:
    """Train all three networks for a moment and export; return the artifact's folder, which no test may change."""
    pytest.importorskip("brevitas")
    from caloedge.pipeline import Run, export
    from caloedge.training.fit import Hardware

    output = tiny_recipe.parent.parent / "made"
    return export(Run.open(str(tiny_recipe), output), Hardware(accelerator="cpu")).folder
