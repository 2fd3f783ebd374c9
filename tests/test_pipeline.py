"""The story of a recipe: rehearsals stay apart, an export that changes nothing writes nothing, work is announced."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caloedge.artifact import read_artifact
from caloedge.firmware.section import BLOCKS, PROJECTS
from caloedge.pipeline import QUICK, REHEARSAL, Run, export, firmware_plan, train
from caloedge.recipe import read_recipe, rehearsal, write_recipe
from caloedge.reports import store
from caloedge.results import Number, Report, Section, Table
from caloedge.training.fit import Hardware

CPU = Hardware(accelerator="cpu")
Call = Callable[..., Any]


def contents(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_exporting_the_same_again_changes_no_byte(tiny: Path, tiny_recipe: Path) -> None:
    before = contents(tiny)
    export(Run.open(str(tiny_recipe), tiny.parent), CPU)
    assert contents(tiny) == before


def test_exporting_another_network_changes_the_manifest(tiny: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    (tmp_path / "showers.h5").symlink_to(tiny_recipe.parent.parent / "showers.h5")
    path = tmp_path / "recipe" / "recipe.yaml"
    path.parent.mkdir()
    path.write_text(tiny_recipe.read_text())
    first = export(Run.open(str(path), tmp_path / "out"), CPU).manifest
    path.write_text(tiny_recipe.read_text().replace("learning_rate: 5.0e-3", "learning_rate: 4.0e-3"))
    second = export(Run.open(str(path), tmp_path / "out"), CPU).manifest
    assert first.files["model.qonnx"] != second.files["model.qonnx"]
    assert first.stages["edge"] != second.stages["edge"]


def test_a_rehearsal_is_short_and_named_so() -> None:
    whole = read_recipe(Path(__file__).parents[1] / "models" / "seed_finder" / "recipe.yaml")
    short = rehearsal(whole)
    assert (short.name, short.rehearsal_of) == (f"{whole.name}_rehearsal", whole.name)
    for stage in ("published", "edge", "quantised"):
        before, after = getattr(whole.training, stage), getattr(short.training, stage)
        assert after.all_epochs <= 2
        assert after.events_per_epoch <= before.events_per_epoch / 10
        assert after.batch_size == before.batch_size
    assert short.synthesis == {}
    assert short.builds.keys() == whole.builds.keys()
    assert short.quantisation == whole.quantisation


def test_a_recipe_written_elsewhere_finds_its_library_and_its_reference(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = read_recipe(tiny_recipe).model_copy(update={"reference_from": "../other"})
    write_recipe(recipe, tmp_path / "deep" / "recipe.yaml", tiny_recipe.parent, tmp_path / "deep")
    moved = read_recipe(tmp_path / "deep" / "recipe.yaml")
    assert (tmp_path / "deep" / moved.library).resolve() == (tiny_recipe.parent / recipe.library).resolve()
    assert moved.reference_from is not None
    assert (tmp_path / "deep" / moved.reference_from).resolve() == (tiny_recipe.parent / "../other").resolve()
    assert moved.training == recipe.training


def test_a_rehearsal_lies_in_a_folder_of_its_own(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    opened = Run.open(str(tiny_recipe), None).rehearsal(None)
    folder = opened.path.parent
    assert folder == Path("runs/tiny/rehearsal")
    assert opened.places.work == folder / "work"
    assert Run.open(str(tiny_recipe), None).rehearsal(tmp_path / "out").path.parent == tmp_path / "out" / "rehearsal"


@pytest.mark.slow
def test_run_quick_goes_the_whole_way_and_says_that_it_is_a_rehearsal(
    tiny_recipe: Path, caloedge: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = caloedge("run", tiny_recipe, "--quick", "--accelerator", "cpu")
    assert ended.code == 0, ended
    assert sorted(path.name for path in tmp_path.iterdir()) == ["runs"]
    report = store.load(tmp_path / "runs" / "tiny" / "rehearsal" / "report")
    assert report.title == "Rehearsal of tiny: float against fixed point"
    assert report.caveats[0] == REHEARSAL
    assert "training published: about " in ended.err
    assert QUICK not in ended.err
    assert read_artifact(tmp_path / "runs" / "tiny" / "rehearsal" / "artifact").recipe.rehearsal_of == "tiny"


def test_what_will_be_trained_is_said_first_and_nothing_twice(
    tiny_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(Run.open(str(tiny_recipe), tmp_path), CPU)
    said = [line for line in capsys.readouterr().err.splitlines() if "about" in line and "left" not in line]
    assert [line.split(":")[0] for line in said] == [
        "training published", "training edge", "training quantised", "all trainings together",
    ]  # fmt: skip
    train(Run.open(str(tiny_recipe), tmp_path), CPU)
    assert capsys.readouterr().err.splitlines() == [f"published, edge, quantised: taken from {tmp_path / 'work' / 'training'}"]


def test_firmware_is_announced_with_the_time_of_an_earlier_report(tiny: Path, tmp_path: Path) -> None:
    artifact = read_artifact(tiny)
    assert firmware_plan(artifact, tmp_path) == ""
    recipe = artifact.recipe.model_copy(update={"builds": {"rtl": ("streaming",)}, "synthesis": {"xcvu13p": ("streaming",)}})
    several = replace(artifact, recipe=recipe)
    work = "building rtl streaming, xcvu13p; synthesising rtl streaming, xcvu13p"
    assert firmware_plan(several, tmp_path, tmp_path / "reports") == f"{work}: some minutes, more for larger networks"

    def seconds(value: float) -> Number:
        return Number(value=value, unit="s", origin="measured")

    rows = (("rtl streaming, xcvu13p", seconds(60.0)), ("rtl unrolled, xcvu13p", seconds(999.0)))
    tables = (
        Table(title=PROJECTS, columns=("project", "time"), rows=rows),
        Table(title=BLOCKS, columns=("design", "time"), rows=rows),
    )
    report = Report(title="x", summary="", created="", data_label="", headline=(), sections=(Section(title="y", blocks=tables),))
    store.save(report, tmp_path / "reports" / "tiny")
    assert firmware_plan(several, tmp_path, tmp_path / "reports") == (
        f"{work}: took about 2 min where {tmp_path / 'reports' / 'tiny'} was made"
    )
    unsynthesised = replace(several, recipe=recipe.model_copy(update={"synthesis": {}}))
    assert firmware_plan(unsynthesised, tmp_path, tmp_path / "reports").endswith(
        f": took about 60 s where {tmp_path / 'reports' / 'tiny'} was made"
    )
