"""The stages of a recipe: what is finished is taken, what is damaged is named, what is foreign is not replaced."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caloedge.artifact import refuse_foreign_files
from caloedge.catalog import Sample, Task, find
from caloedge.errors import BadData, UserError
from caloedge.pipeline import train_recipe
from caloedge.recipe import read_recipe
from caloedge.training import stages
from caloedge.training.fit import Hardware

CPU = Hardware(accelerator="cpu")


def test_finished_stages_are_taken_and_damaged_ones_named(tiny_recipe: Path, tmp_path: Path) -> None:
    first = train_recipe(str(tiny_recipe), tmp_path, CPU)
    again = train_recipe(str(tiny_recipe), tmp_path, CPU)
    assert {name: one.record for name, one in first.items()} == {name: one.record for name, one in again.items()}
    (folder,) = tmp_path.glob("work/training/edge-*")
    (folder / "weights.pt").write_bytes(b"no weights")
    with pytest.raises(BadData) as caught:
        train_recipe(str(tiny_recipe), tmp_path, CPU)
    assert str(caught.value).startswith(f"{folder}: the finished training cannot be read (")
    assert str(caught.value).endswith("); remove the folder to train again")


def test_a_task_that_makes_other_data_is_trained_anew(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_recipe(str(tiny_recipe), tmp_path, CPU)
    before = set(tmp_path.glob("work/training/*"))
    task = find(Task, read_recipe(tiny_recipe).task)

    def brighter(*given: Any) -> Sample[Any]:
        made = task.sample(*given)
        return replace(made, inputs=made.inputs * np.float32(1.01))

    other = replace(task, sample=brighter)
    monkeypatch.setattr(stages, "find", lambda kind, name: other if kind is Task else find(kind, name))
    train_recipe(str(tiny_recipe), tmp_path, CPU)
    new = set(tmp_path.glob("work/training/*")) - before
    assert sorted(folder.name.split("-")[0] for folder in new) == ["edge", "published", "quantised"]


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
