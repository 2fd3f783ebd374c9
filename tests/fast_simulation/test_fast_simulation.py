"""The whole story with small networks and parametrised showers: report, files, and what a second call does not do again."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optional_packages import need
from tiny_generators import RECIPE, write_recipe

from caloedge.detector.crystals.library import open_library
from caloedge.errors import BadData, UserError
from caloedge.production import Production
from caloedge.results import Report, Table

Call = Callable[..., Any]


@pytest.fixture(scope="module")
def showers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for package in ("torch", "lightning", "zuko", "onnxruntime", "sklearn"):
        need(package)
    folder = tmp_path_factory.mktemp("showers")
    write_recipe(folder)
    return folder


@pytest.fixture
def recipe(showers: Path, tmp_path: Path) -> Path:
    for name in ("training.h5", "test.h5"):
        (tmp_path / name).symlink_to(showers / name)
    return write_recipe(tmp_path)


@pytest.fixture
def quick_timing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Time for a moment, and the parametrisation instead of Geant4."""
    from caloedge.fast_simulation import page, speed
    from caloedge.fidelity import classifiers

    shooter = speed.shooter

    def parametrised(name: str, *rest: Any) -> speed.Shoot:
        return shooter("parametrised" if name == speed.GEANT4 else name, *rest)

    monkeypatch.setattr(speed, "shooter", parametrised)
    monkeypatch.setattr(speed, "BATCHES", (1, 10))
    monkeypatch.setattr(page, "LEAST_CPU_S", 0.01)
    monkeypatch.setattr(classifiers, "TREES", 5)


def rows_of(report: Report, title: str) -> dict[str, tuple[Any, ...]]:
    (table,) = (b for s in report.sections for b in s.blocks if isinstance(b, Table) and b.title == title)
    return {str(row[0]): row for row in table.rows}


@pytest.mark.usefixtures("quick_timing")
def test_everything_is_made_and_made_once(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from caloedge.fast_simulation import pipeline, trainings
    from caloedge.training.fit import Hardware

    opened, hardware = pipeline.Run.open(recipe, tmp_path / "out"), Hardware(accelerator="cpu")
    pipeline.run(opened, hardware)
    report = Report.model_validate_json((tmp_path / "out" / "report" / "report.json").read_text())
    figures = rows_of(report, "Figures of the generated showers")
    assert {"KPD × 10³", "AUC, trees", "width of response − 1"} <= set(figures)
    times = rows_of(report, "CPU time per shower by batch")
    assert {"geant4", "frozen", "parametrised", "flow_matching, onnxruntime", "flow_matching, torch float32"} <= set(times)
    assert set(rows_of(report, "Steps of the sampler")) == {"Geant4 itself", "1 × Euler", "2 × Euler", "2 × Heun"}
    assert set(rows_of(report, "Trainings")) == {"layers", "cells"}
    assert "CaloDREAM" in rows_of(report, "Published: the CaloChallenge's dataset 2")
    page = (tmp_path / "out" / "report" / "report.html").read_text()
    assert "Does not hold" in page or "Undecided" in page, "two epochs are not enough"
    artifact = tmp_path / "out" / "artifact"
    files = {path.name for path in artifact.iterdir()}
    assert files == {"README.md", "cells.onnx", "generator.yaml", "layers.onnx", "sampler.json", "trainings.json"}
    sampler = json.loads((artifact / "sampler.json").read_text())
    assert sampler["sampler"]["cell_cut"] in (0.0, 0.2)
    assert sampler["training"]["sha256"] == open_library(recipe.parent / "training.h5").digest
    (generated,) = (tmp_path / "out" / "work").glob("generated-*.h5")
    assert open_library(generated).provenance["generator"] == "flow_matching"

    def no_training(*_: object, **__: object) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(trainings, "fit", no_training)
    training = tmp_path / "out" / "work" / "training"
    assert {path.name.split("-")[0] for path in training.iterdir() if path.is_dir()} == {"layers", "cells"}
    before = {path.name: path.read_bytes() for path in artifact.iterdir()}
    written = {path: path.stat().st_mtime_ns for path in training.rglob("*") if path.is_file()}
    _, modules = pipeline.export(opened, hardware)
    assert set(modules) == {"layers", "cells"}
    assert {path.name: path.read_bytes() for path in artifact.iterdir()} == before
    assert {path: path.stat().st_mtime_ns for path in training.rglob("*") if path.is_file()} == written
    shutil.rmtree(training)
    _, modules = pipeline.export(opened, hardware)
    assert modules == {}, "a folder that is there stands for trainings that are not"
    for damage in ("{", "[]", '{"layers": 1, "cells": 2}'):
        (artifact / "trainings.json").write_text(damage)
        with pytest.raises(AssertionError, match="trained again"):
            pipeline.export(opened, hardware)
        shutil.rmtree(training)


def test_an_interrupted_training_ends_as_one_that_was_not(recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    from caloedge.fast_simulation import pipeline
    from caloedge.generative.layer_flow import LayerFlow
    from caloedge.generative.unet import UNet
    from caloedge.training import fit
    from caloedge.training.fit import Hardware

    hardware = Hardware(accelerator="cpu")
    _, whole = pipeline.train(pipeline.Run.open(recipe, tmp_path / "whole"), hardware)
    opened = pipeline.Run.open(recipe, tmp_path / "parts")
    kept = fit._Keeper.on_train_epoch_end
    for stopped, epoch in ((LayerFlow, 0), (UNet, 0), (UNet, 1)):  # at last, when only the average is still to be taken

        def stop(self: Any, trainer: Any, module: Any, stopped: type = stopped, epoch: int = epoch) -> None:
            kept(self, trainer, module)
            if isinstance(module.network, stopped) and trainer.current_epoch == epoch:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(fit._Keeper, "on_train_epoch_end", stop)
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                pipeline.train(opened, hardware)
    _, resumed = pipeline.train(opened, hardware)
    for role, one in whole.items():
        assert one.record.key == resumed[role].record.key
        for (name, weights), again in zip(
            one.network.state_dict().items(), resumed[role].network.state_dict().values(), strict=True
        ):
            assert torch.equal(weights, again), (role, name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            ("  cells:\n    network: unet", "  voxels:\n    network: unet"),
            "networks: generator 'flow_matching' has layers, cells",
        ),
        (("network: unet", "network: unett"), "no generative network 'unett' (did you mean 'unet'?)"),
        (("widths: [8, 16]", "widths: [8, 16], depth: 3"), "network unet: "),
        (("widths: [8, 16]", "widths: [8, 16, 16, 16, 16, 16]"), "network unet: 6 widths halve 16 azimuths 5 times; give fewer"),
        (("predicts: v", "predicts: z"), "network unet: predicts: 'z'; give x, the shower, or v, its velocity"),
        (("generator: flow_matching", "generator: frozen"), "generator 'frozen' has no networks to train"),
        (("geometry: wsi", "geometry: pbwo4"), "geometry pbwo4: its cells are no cylinder of layers, azimuths and radii"),
        (("generator: flow_matching", "generator: flow_matching\nparticle: e-"), "training.h5: holds showers of gamma; recipe "),
        (("max_energy_gev: 100.0", "max_energy_gev: 50.0"), "training.h5: holds 1.0"),
        (("batch_size: 32", "batch_size: 65"), "unet: batch_size is above events_per_epoch; give more events"),
    ],
)
def test_what_cannot_be_trained_is_refused_before(change: tuple[str, str], message: str, recipe: Path, tmp_path: Path) -> None:
    from caloedge.fast_simulation import pipeline
    from caloedge.training.fit import Hardware

    text = RECIPE.replace(*change)
    assert text != RECIPE
    recipe.write_text(text)
    with pytest.raises((UserError, BadData)) as caught:
        pipeline.train(pipeline.Run.open(recipe, tmp_path / "out"), Hardware(accelerator="cpu"))
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "work" / "training").exists()


@pytest.mark.parametrize(
    ("change", "what"),
    [({"seed": 12}, "seed"), ({"zero_below_mev": 0.001}, "zero_below_mev"), ({"max_energy_gev": 50}, "max_energy")],
)
def test_showers_of_other_settings_are_not_taken(change: dict[str, Any], what: str, showers: Path) -> None:
    from caloedge.fast_simulation import pipeline

    asked, path = Production("wsi", "parametrised", showers=400, seed=11, zero_below_mev=0.0005), showers / "training.h5"
    assert pipeline.made(asked, path).path == path
    with pytest.raises(BadData) as caught:
        pipeline.made(replace(asked, **change), path)
    assert str(caught.value).startswith(f"{path}: has another {what}")
    assert str(caught.value).endswith(" than is asked for now; remove it to make it again")


def test_options_that_mean_nothing_are_refused(recipe: Path, caloedge: Call) -> None:
    for words in (("run", recipe, "--independent", "x.h5"), ("train", recipe, "--alternative", "x")):
        ended = caloedge(*words)
        assert ended.code == 2
        assert ended.err == f"caloedge: {words[2]}: recipes of generators know no such thing; leave it out\n"


def test_files_of_others_are_not_deleted(recipe: Path, tmp_path: Path) -> None:
    from caloedge.fast_simulation import pipeline
    from caloedge.training.fit import Hardware

    opened = pipeline.Run.open(recipe, tmp_path / "out")
    opened.artifact.mkdir(parents=True)
    (opened.artifact / "showers.h5").write_text("of years")
    with pytest.raises(UserError) as caught:
        pipeline.train(opened, Hardware(accelerator="cpu"))
    assert str(caught.value) == (
        f"{opened.artifact}: holds 'showers.h5', which is not part of a generator and would be lost; move it elsewhere"
    )
    assert not opened.work.exists()


def test_showers_that_are_trained_on_are_no_test(recipe: Path, tmp_path: Path) -> None:
    from caloedge.fast_simulation import pipeline
    from caloedge.training.fit import Hardware

    recipe.write_text(RECIPE.replace("library: test.h5", "library: training.h5"))
    with pytest.raises(
        BadData, match=r"training\.h5: holds the showers that are trained on; name others, made with another seed$"
    ):
        pipeline.run(pipeline.Run.open(recipe, tmp_path / "out"), Hardware(accelerator="cpu"))
    assert not (tmp_path / "out").exists()


def test_few_showers_are_refused(recipe: Path, tmp_path: Path) -> None:
    from caloedge.fast_simulation import pipeline
    from caloedge.production import Production, simulate
    from caloedge.training.fit import Hardware

    simulate(Production("wsi", "parametrised", showers=20, seed=3, zero_below_mev=0.0005), tmp_path / "few.h5", workers=1)
    recipe.write_text(RECIPE.replace("library: training.h5", "library: few.h5"))
    with pytest.raises(BadData, match=r"few\.h5: holds 20 showers; give at least 200$"):
        pipeline.train(pipeline.Run.open(recipe, tmp_path / "out"), Hardware(accelerator="cpu"))


def test_showers_of_other_cells_are_refused(recipe: Path) -> None:
    from caloedge.fast_simulation.recipe import read_generator
    from caloedge.fast_simulation.trainings import check_showers

    library = open_library(recipe.parent / "training.h5")
    with pytest.raises(BadData, match=r"training\.h5: holds showers of wsi; recipe 'tiny' names pbwo4: "):
        check_showers(read_generator(recipe).model_copy(update={"geometry": "pbwo4"}), library)
