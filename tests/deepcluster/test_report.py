"""The report of the whole reconstruction, from tiny trained networks to the page, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest

from caloedge.artifact import Artifact, read_artifact
from caloedge.detector.crystals.events import CrystalEvents
from caloedge.detector.crystals.library import open_library
from caloedge.detector.crystals.photon_events import PhotonEvents, Photons
from caloedge.errors import BadData
from caloedge.production import Production, simulate
from caloedge.results import Claim, Table

pytest.importorskip("brevitas")

from caloedge.deepcluster import report as module
from caloedge.deepcluster.chain import Chain
from caloedge.deepcluster.verilog import Choice
from caloedge.pipeline import Run, export
from caloedge.training.fit import Hardware

RECIPE = """\
name: tiny_centres
task: center_finder
network: center_finder
library: {library}
seed: 3
training:
  published: {{epochs: 1, events_per_epoch: 300, batch_size: 64, learning_rate: 1.0e-3}}
  edge: {{epochs: 2, events_per_epoch: 3000, batch_size: 128, learning_rate: 4.0e-3}}
  quantised: {{epochs: 1, events_per_epoch: 500, batch_size: 128, learning_rate: 1.0e-3}}
quantisation: {{weight_bits: 6, activation_bits: 6, input_bits: 12, input_fraction: 8}}
golden_vectors: 1000
evaluation: {{events: 500, valid_events: 500}}
"""


def centres_on(library: Path, folder: Path) -> Artifact:
    folder.mkdir()
    recipe = folder / "recipe.yaml"
    recipe.write_text(RECIPE.format(library=library))
    return export(Run.open(str(recipe), folder / "made"), Hardware(accelerator="cpu"))


@pytest.fixture(scope="module")
def models(tiny: Path, showers_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    return Chain(read_artifact(tiny), centres_on(showers_file, tmp_path_factory.mktemp("centres") / "recipe"))


def test_from_networks_to_the_page(models: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHOICES", (Choice("streaming", 2),))
    monkeypatch.setattr(module, "SIMULATED_EVENTS", 40)
    monkeypatch.setattr(module, "implement", lambda *_: None)  # synthesis has its own tests
    written = module.report(models, None, 1000, 500, tmp_path / "work", tmp_path / "report")
    assert (tmp_path / "report" / "report.html").is_file()
    *physics, exact = (block for block in written.sections[0].blocks if isinstance(block, Claim))
    assert len(physics) >= 4
    assert exact.verdict == "holds", exact.found
    assert exact.found == "2 simulations of 54 whole events: 0 LSB everywhere"
    table = written.sections[1].blocks[0]
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == [
        "float published",
        "float edge",
        "integer edge",
        "classical baseline",
        "classical particle flow",
    ]


def test_artifacts_in_the_wrong_place_are_refused(models: Chain, tmp_path: Path) -> None:
    swapped = Chain(models.centres, models.seeds)
    with pytest.raises(BadData, match=r"made/artifact: is of task 'center_finder'; 'seed_finder' is needed in this place$"):
        module.report(swapped, None, 500, 500, tmp_path / "work", tmp_path / "report")
    assert not (tmp_path / "report").exists()


def test_artifacts_of_two_libraries_are_refused(models: Chain, tmp_path: Path) -> None:
    other = tmp_path / "other.h5"
    simulate(Production(generator="parametrised", showers=200, seed=8), other, workers=1)
    pair = Chain(models.seeds, centres_on(other, tmp_path / "recipe"))
    with pytest.raises(BadData, match=r"was trained on another library than .*; train both on one library$"):
        module.report(pair, None, 500, 500, tmp_path / "work", tmp_path / "report")


def test_showers_seen_in_training_are_refused(models: Chain, showers_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.h5"
    copy.write_bytes(showers_file.read_bytes() + b"\0")  # another file, the same showers
    with pytest.raises(BadData, match=r"evaluate on showers of another seed$"):
        module.report(models, open_library(copy), 500, 500, tmp_path / "work", tmp_path / "report")


def test_a_working_point_counts_fakes_after_its_own_cut() -> None:
    """A true photon's weaker duplicate lies nearer to it: matched before the cut, the stronger one would count as a fake."""
    impact = np.array([[[10.5, 10.5], [np.nan, np.nan]]] * 40)
    crystals = CrystalEvents(np.zeros((0, 51, 51)), impact, np.array([[10.0, np.nan]] * 40), np.array([[0, -1]] * 40))
    truth = PhotonEvents(crystals, np.zeros(40, np.int64))
    strong, weak = np.full(40, 5.0), np.full(40, 1.0)
    position = np.tile([[10.9, 10.5], [10.5, 10.5]], (40, 1))
    photons = Photons(np.repeat(np.arange(40), 2), position, np.full(80, 10.0), np.column_stack([strong, weak]).ravel())
    assert module.working_point(truth, photons, most_fakes=0) == 5
    assert module.working_point(truth, photons, most_fakes=40) == 1
    assert module.working_point(truth, Photons(photons.event_N, position + 20, photons.energy_N, photons.score_N), 0) == np.inf
