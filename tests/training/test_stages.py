"""The stages of a recipe: what is finished is taken, what is damaged is named, what is foreign is not replaced."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caloedge.artifact import read_artifact, refuse_foreign_files
from caloedge.catalog import Sample, Task, find
from caloedge.errors import BadData, UserError
from caloedge.pipeline import Run, train
from caloedge.recipe import read_recipe
from caloedge.training import stages
from caloedge.training.fit import Hardware
from caloedge.training.stages import weights_of

CPU = Hardware(accelerator="cpu")


def test_finished_stages_are_taken_and_damaged_ones_named(tiny_recipe: Path, tmp_path: Path) -> None:
    first = train(Run.open(str(tiny_recipe), tmp_path), CPU)
    again = train(Run.open(str(tiny_recipe), tmp_path), CPU)
    assert {name: one.record for name, one in first.items()} == {name: one.record for name, one in again.items()}
    (folder,) = tmp_path.glob("work/training/edge-*")
    (folder / "weights.pt").write_bytes(b"no weights")
    with pytest.raises(BadData) as caught:
        train(Run.open(str(tiny_recipe), tmp_path), CPU)
    assert str(caught.value).startswith(f"{folder}: the finished training cannot be read (")
    assert str(caught.value).endswith("); remove the folder to train again")


def test_a_fresh_clone_takes_the_trainings_of_its_artifact(tiny_recipe: Path, tiny: Path, tmp_path: Path) -> None:
    clone = tmp_path / "recipe"
    shutil.copytree(tiny, clone)
    (clone / "recipe.yaml").write_text(tiny_recipe.read_text())  # altered: other settings than the artifact's may stand there
    (tmp_path / "showers.h5").symlink_to(tiny_recipe.parent.parent / "showers.h5")
    taken = train(Run.open(str(clone), tmp_path / "out"), CPU)
    assert not (tmp_path / "out").exists()  # nothing was trained
    stored = read_artifact(tiny)
    for stage, one in taken.items():
        assert one.record == stored.manifest.stages[stage]
        assert one.record.key
        for name, values in weights_of(one.network).items():
            assert (values == stored.weights(stage)[name]).all()
    weights = clone / "edge.0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"?")
    with pytest.raises(BadData) as caught:
        train(Run.open(str(clone), tmp_path / "out"), CPU)
    assert str(caught.value) == f"{weights}: missing or altered; restore it, or remove manifest.json there to train again"
    (clone / "manifest.json").write_text("{}")
    with pytest.raises(
        BadData, match=r"manifest.json: not a manifest \(name: Field required\); restore it, or remove it to train again$"
    ):
        train(Run.open(str(clone), tmp_path / "out"), CPU)


def test_another_schedule_does_not_take_the_artifacts_trainings(tiny_recipe: Path, tiny: Path, tmp_path: Path) -> None:
    clone = tmp_path / "recipe"
    shutil.copytree(tiny, clone)
    (clone / "recipe.yaml").write_text(tiny_recipe.read_text().replace("learning_rate: 5.0e-3", "learning_rate: 4.0e-3"))
    (tmp_path / "showers.h5").symlink_to(tiny_recipe.parent.parent / "showers.h5")
    train(Run.open(str(clone), tmp_path / "out"), CPU)
    assert sorted(p.name.split("-")[0] for p in tmp_path.glob("out/work/training/*")) == ["edge", "quantised"]


def test_a_task_that_makes_other_data_is_trained_anew(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(Run.open(str(tiny_recipe), tmp_path), CPU)
    before = set(tmp_path.glob("work/training/*"))
    task = find(Task, read_recipe(tiny_recipe).task)

    def brighter(*given: Any) -> Sample[Any]:
        made = task.sample(*given)
        return replace(made, inputs=made.inputs * np.float32(1.01))

    other = replace(task, sample=brighter)
    monkeypatch.setattr(stages, "find", lambda kind, name: other if kind is Task else find(kind, name))
    train(Run.open(str(tiny_recipe), tmp_path), CPU)
    new = set(tmp_path.glob("work/training/*")) - before
    assert sorted(folder.name.split("-")[0] for folder in new) == ["edge", "published", "quantised"]


@pytest.mark.parametrize("settled", [False, True])
def test_an_interrupted_fake_quantised_training_ends_at_the_same_twin(
    settled: bool, tiny_recipe: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where layers are rounded before the last epochs, which are interrupted after one of them."""
    path = tmp_path / "recipe" / "recipe.yaml"
    shutil.copytree(tiny, path.parent)  # whose float networks are taken
    (tmp_path / "showers.h5").symlink_to(tiny_recipe.parent.parent / "showers.h5")
    schedule = "epochs: 1, fine_tuning_epochs: 2" if settled else "epochs: 2"
    text = tiny_recipe.read_text().replace("quantised: {epochs: 1,", f"quantised: {{{schedule},")
    path.write_text(
        text.replace("input_bits: 12,", "input_bits: 12, fixed_scales: true, filter_scales: true, split_channels: true,")
    )
    at_once = train(Run.open(str(path), tmp_path / "at_once"), CPU)["quantised"]

    task = find(Task, read_recipe(path).task)
    n_epochs = 3 if settled else 2
    last = int(np.random.default_rng(np.random.SeedSequence(3, spawn_key=(n_epochs - 1, 0))).integers(2**62))

    def interrupted(library: Any, split: str, events: int, seed: int) -> Sample[Any]:
        if (split, seed) == ("train", last):  # other stages have one epoch
            raise KeyboardInterrupt
        return task.sample(library, split, events, seed)

    with monkeypatch.context() as patched:
        other = replace(task, sample=interrupted)
        patched.setattr(stages, "find", lambda kind, name: other if kind is Task else find(kind, name))
        with pytest.raises(KeyboardInterrupt):
            train(Run.open(str(path), tmp_path / "twice"), CPU)
    assert len(list(tmp_path.glob("twice/work/training/quantised-*/last.ckpt"))) == 1
    assert len(list(tmp_path.glob("twice/work/training/quantised-*/settling/last.ckpt"))) == settled
    resumed = train(Run.open(str(path), tmp_path / "twice"), CPU)["quantised"]
    losses = [[(point["epoch"], point["train_loss"]) for point in one.record.curve] for one in (at_once, resumed)]
    assert losses[0] == losses[1]
    assert [epoch for epoch, _ in losses[0]] == list(range(1, n_epochs + 1))
    wanted, found = weights_of(at_once.network), weights_of(resumed.network)
    assert wanted.keys() == found.keys()
    assert all((wanted[name] == found[name]).all() for name in wanted)


def test_a_teacher_whose_outputs_are_no_targets_is_refused(tiny_recipe: Path, tmp_path: Path) -> None:
    path = tmp_path / "recipe" / "recipe.yaml"
    path.parent.mkdir()
    (tmp_path / "showers.h5").symlink_to(tiny_recipe.parent.parent / "showers.h5")
    path.write_text(tiny_recipe.read_text().replace("quantisation: {", "  quantised_teacher: edge\nquantisation: {"))
    with pytest.raises(UserError) as caught:
        train(Run.open(str(path), tmp_path / "out"), CPU)
    said = "recipe 'tiny': quantised has a teacher, but outputs are no targets of its loss, 'binary_cross_entropy'; leave it out"
    assert str(caught.value) == said


def test_an_export_does_not_replace_a_folder_with_other_files(tmp_path: Path) -> None:
    refuse_foreign_files(tmp_path / "new")
    refuse_foreign_files(tmp_path)
    (tmp_path / "recipe.yaml").touch()
    refuse_foreign_files(tmp_path)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError) as caught:
        refuse_foreign_files(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path}: holds 'thesis.tex', which is not part of an artifact and would be lost; move it elsewhere"
    )
