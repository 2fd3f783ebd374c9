"""Showers of a trained generator: made by `simulate` as any others, the same for any number of workers, refused where unknown."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optional_packages import need
from tiny_generators import write_generator

from caloedge import production
from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.errors import BadData, UserError
from caloedge.evaluation.accuracy import refuse_generated
from caloedge.generation.trained import MANIFEST, open_trained
from caloedge.generators.flow_matching import LAST_TIME
from caloedge.production import Production, simulate


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("torch", "lightning", "zuko", "onnxruntime"):
        need(package)
    return write_generator(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def asked(folder: Path) -> Production:
    return Production("wsi", "flow_matching", showers=70, seed=6, zero_below_mev=0.0005, source=str(folder))


@pytest.fixture(scope="module")
def made(asked: Production, tmp_path_factory: pytest.TempPathFactory) -> ShowerLibrary:
    path = tmp_path_factory.mktemp("made") / "generated.h5"
    simulate(asked, path, workers=1)
    return open_library(path)


def test_showers_have_cells_above_the_threshold_only(made: ShowerLibrary) -> None:
    cells = made.cells_mev
    assert cells.shape == (70, 6480)
    assert (cells.sum(axis=1) > 0).all()
    assert cells[cells > 0].min() >= 0.0005 * (1 - 2**-11)
    assert (made.impact_mm == 0).all()
    assert len({row.tobytes() for row in cells}) == 70


def test_where_they_come_from_is_said(made: ShowerLibrary, folder: Path) -> None:
    said, trained = made.provenance, open_trained(folder)
    assert said["generator"] == "flow_matching"
    assert said["version"] == "flow_matching trained on Grindhammer-Peters, hep-ex/0001020"
    assert said["source"] == trained.digest
    assert json.loads(said["sampler"]) == {"solver": "heun", "steps": 2, "layer_cut_mev": 0.05, "cell_cut": 0.2}
    assert said["descends_from"] == open_library(folder.parent / "recipe" / "training.h5").digest
    assert str(folder.parent) not in " ".join(said.values())
    with pytest.raises(UserError, match="flow_matching"):
        refuse_generated(made)


def test_the_same_seed_gives_the_same_showers(made: ShowerLibrary, asked: Production, tmp_path: Path) -> None:
    simulate(asked, tmp_path / "two.h5", workers=2)
    np.testing.assert_array_equal(open_library(tmp_path / "two.h5").cells_mev, made.cells_mev)
    simulate(replace(asked, seed=7), tmp_path / "other.h5", workers=1)
    assert (open_library(tmp_path / "other.h5").cells_mev != made.cells_mev).any()


def test_an_interruption_changes_no_shower(
    made: ShowerLibrary, asked: Production, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are made whole: in another batch, sums of a network would be rounded otherwise."""

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    path = tmp_path / "again.h5"
    with monkeypatch.context() as patch:
        patch.setattr(production, "_merge", interrupted)
        with pytest.raises(KeyboardInterrupt):
            simulate(asked, path, workers=1)
    first, last = sorted((tmp_path / "again.h5.parts").glob("*.npz"))
    assert (first.stem, last.stem) == ("0000000-0000064", "0000064-0000070")
    last.unlink()
    simulate(asked, path, workers=2)
    np.testing.assert_array_equal(open_library(path).cells_mev, made.cells_mev)


def test_a_shower_is_drawn_from_its_own_noise(folder: Path) -> None:
    """Alone or with others: equal but for the order in which a network sums."""
    from caloedge.generators.flow_matching import draw

    trained, energies_mev = open_trained(folder), np.array([2e3, 9e3, 5e4])
    together = draw(trained, energies_mev, np.zeros((3, 2)), [np.random.default_rng(seed) for seed in range(3)])
    for place, energy in enumerate(energies_mev):
        alone = draw(trained, np.array([energy]), np.zeros((1, 2)), [np.random.default_rng(place)])
        assert abs(alone[0] - together[place]).sum() < 1e-2 * together[place].sum()


def test_training_pairs_lead_from_noise_to_a_turned_shower(folder: Path) -> None:
    from caloedge.generators.flow_matching import cells_pairs

    trained, library = open_trained(folder), open_library(folder.parent / "recipe" / "training.h5")
    energies_mev, cells_mev, cells = library.energies_mev[:50], library.cells_mev[:50], trained.cells
    points, velocities = cells_pairs(
        trained.energies, cells, energies_mev, library.impact_mm[:50], cells_mev, np.random.default_rng(1)
    )
    assert points.dtype == velocities.dtype == np.float32
    n, times = cells.layout.n_cells, points[:, -1:]
    assert points.shape == (50, n + 45 + 1 + 1)
    assert 0 < times.min() < 0.3 < 0.7 < times.max() < LAST_TIME
    at_end = points[:, :n] + (1 - times) * velocities
    layers_mev = cells.layers(cells_mev)
    np.testing.assert_allclose(points[:, n : n + 45], cells.code.channels(energies_mev, layers_mev), rtol=1e-5, atol=1e-5)
    found = cells.decode(energies_mev, layers_mev, at_end)
    np.testing.assert_allclose(np.sort(found), np.sort(cells_mev), rtol=1e-3, atol=0)
    assert sum(np.allclose(one, other, rtol=1e-3) for one, other in zip(found, cells_mev, strict=True)) < 10, "none is turned"


def test_a_damage_that_a_worker_finds_is_one_line(folder: Path, asked: Production, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "cells.onnx").write_bytes(b"")
    with pytest.raises(UserError) as caught:
        simulate(replace(asked, source=str(copy)), tmp_path / "none.h5", workers=1)
    assert str(caught.value) == (
        f"{copy}/cells.onnx: is not the network that {copy}/{MANIFEST} names; export the generator again"
    )
    assert not (tmp_path / "none.h5").exists()


REFUSED: list[tuple[Callable[[Production], Production], str]] = [
    (lambda p: replace(p, geometry="pbwo4"), "{folder}: geometry is wsi, not pbwo4; give --geometry wsi"),
    (lambda p: replace(p, particle="e-"), "{folder}: particle is gamma, not e-; give --particle gamma"),
    (
        lambda p: replace(p, max_energy_gev=200.0),
        "energy range 1 to 200 GeV: {folder} was trained on 1 to 100 GeV and knows no other energies",
    ),
    (
        lambda p: replace(p, zero_below_mev=0.0),
        "--zero-below-mev 0: {folder} makes no cells below 0.0005 MeV; give --zero-below-mev 0.0005",
    ),
    (lambda p: replace(p, source=""), "generator flow_matching needs a trained generator: its folder, or its name in ./models: "),
    (
        lambda p: replace(p, source="nothing"),
        "no trained generator 'nothing'; give a folder with sampler.json, or one in ./models: ",
    ),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_what_it_does_not_know_is_refused(
    change: Callable[[Production], Production], message: str, asked: Production, folder: Path
) -> None:
    with pytest.raises(UserError) as caught:
        change(asked)
    assert str(caught.value).startswith(message.format(folder=folder))
    assert "\n" not in str(caught.value)


def _edit(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], object]:
    def damage(folder: Path) -> None:
        manifest = json.loads((folder / MANIFEST).read_text())
        change(manifest)
        (folder / MANIFEST).write_text(json.dumps(manifest))

    return damage


DAMAGES: list[tuple[str, Callable[[Path], object], str]] = [
    ("no network", lambda f: (f / "cells.onnx").unlink(), "cells.onnx: is not the network that "),
    (
        "another network",
        lambda f: (f / "layers.onnx").write_bytes((f / "layers.onnx").read_bytes() + b"\0"),
        "layers.onnx: is not the network that ",
    ),
    ("no JSON", lambda f: (f / MANIFEST).write_text("{"), f"{MANIFEST}: not JSON ("),
    ("an unknown field", _edit(lambda m: m.update(more=1)), f"{MANIFEST}: more: Extra inputs are not permitted"),
    ("a field missing", _edit(lambda m: m.pop("energies")), f"{MANIFEST}: energies: Field required"),
    ("another format", _edit(lambda m: m.update(format=2)), f"{MANIFEST}: format: Input should be less than or equal to 1"),
    ("an unknown solver", _edit(lambda m: m["sampler"].update(solver="rk4")), f"{MANIFEST}: sampler.solver: "),
    ("a code with a field missing", _edit(lambda m: m["cells"].pop("mean_KO")), f"{MANIFEST}: CellCode has the fields "),
    ("a code of words", _edit(lambda m: m["cells"].update(mean_KO=["a"])), f"{MANIFEST}: could not convert "),
    ("a list too short", _edit(lambda m: m["energies"]["spread_L"].pop()), f"{MANIFEST}: spread_L: has another shape, (44,), "),
    ("a number for a list", _edit(lambda m: m["cells"].update(spread_O=1.0)), f"{MANIFEST}: spread_O: has another shape, (), "),
    ("terms too few", _edit(lambda m: m["cells"]["mean_KO"].pop()), f"{MANIFEST}: mean_KO: has another shape, (5, "),
    ("a list of lists", _edit(lambda m: m["cells"]["mean_KO"][0].pop()), f"{MANIFEST}: setting an array element"),
    ("no number", _edit(lambda m: m["cells"].update(scale_mev=float("nan"))), f"{MANIFEST}: scale_mev: has numbers that are "),
    ("a network too few", _edit(lambda m: m["networks"].pop("cells")), f"{MANIFEST}: networks: generator 'flow_matching' has "),
    ("another generator", _edit(lambda m: m.update(generator="nothing")), f"{MANIFEST}: no generator 'nothing'"),
    ("showers without a file", _edit(lambda m: m["training"].pop("sha256")), f"{MANIFEST}: training: Value error, has no sha256"),
    ("another geometry", _edit(lambda m: m["geometry"].update(name="no such")), f"{MANIFEST}: no geometry 'no such'"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGES, ids=[name for name, *_ in DAMAGES])
def test_a_damaged_folder_is_one_line(
    name: str, damage: Callable[[Path], object], message: str, folder: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    open_trained(copy)
    damage(copy)
    with pytest.raises(BadData) as caught:
        open_trained(copy)
    assert str(caught.value).startswith(f"{copy}/{message}"), str(caught.value)
    assert "\n" not in str(caught.value)
