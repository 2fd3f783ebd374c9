"""What a training says before it begins: what is taken from where, what is trained and about how long that takes here."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("brevitas")

from caloedge.artifact import Manifest, read_artifact, write_manifest
from caloedge.pipeline import Run, export, train
from caloedge.training import forecast as forecasts
from caloedge.training import stages
from caloedge.training.fit import Hardware
from caloedge.training.forecast import Forecast, duration_s, forecast, together
from caloedge.training.stages import STAGES, Trained, finished, plan_stage, weights_of

CPU = Hardware(accelerator="cpu")
MODELS = Path(__file__).parents[2] / "models"
SHIPPED = sorted(path.parent.name for path in MODELS.glob("*/manifest.json"))


def test_lines_name_places_times_and_the_sum() -> None:
    one = Forecast({"published": Path("a"), "edge": Path("b"), "student": Path("a")}, {"quantised": 2700.0, "other": 5.0})
    assert one.lines("--quick") == [
        "published, student: taken from a",
        "edge: taken from b",
        "training quantised: about 45 min on this computer",
        "training other: about 5 s on this computer",
        "all trainings together: about 45 min; --quick",
    ]
    assert Forecast({}, {"edge": 50.0}).lines("--quick") == ["training edge: about 50 s on this computer"]
    assert Forecast({}, {"edge": 70.0}).lines("--quick") == ["training edge: about 70 s on this computer; --quick"]


def test_forecasts_of_several_widths_are_one() -> None:
    whole = together(
        {"8 bit": Forecast({"edge": Path("a")}, {"quantised": 3.0}), "6 bit": Forecast({"edge": Path("a")}, {"quantised": 4.0})}
    )
    assert whole == Forecast({"edge": Path("a")}, {"quantised at 8 bit": 3.0, "quantised at 6 bit": 4.0})


def test_a_forecast_trains_nothing_and_changes_nothing(tiny_recipe: Path, tmp_path: Path) -> None:
    opened = Run.open(str(tiny_recipe), None)
    path, recipe, library = opened.path, opened.recipe, opened.library
    found = forecast(recipe, library, tmp_path / "a", CPU, path.parent)
    assert found.taken == {}
    assert list(found.seconds) == list(STAGES)
    assert all(0 < seconds < 600 for seconds in found.seconds.values())
    assert not (tmp_path / "a").exists()
    alone = stages.train(recipe, library, tmp_path / "a", CPU, path.parent)
    announced = train(Run.open(str(tiny_recipe), tmp_path / "b"), CPU)
    for stage in STAGES:
        mine, other = weights_of(alone[stage].network), weights_of(announced[stage].network)
        assert all((mine[name] == other[name]).all() for name in mine)
    again = forecast(recipe, library, tmp_path / "a", CPU, path.parent)
    assert again == Forecast(dict.fromkeys(STAGES, tmp_path / "a"), {})


def test_ten_times_the_epochs_take_ten_times_as_long(tiny_recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forecasts, "_step_s", lambda *_: 1.0)
    opened = Run.open(str(tiny_recipe), None)
    recipe, library = opened.recipe, opened.library
    plan = plan_stage(recipe, "edge", library, {})
    once = duration_s(recipe, plan, library, tmp_path, CPU)
    schedule = plan.schedule.model_copy(update={"epochs": 10})
    assert duration_s(recipe, replace(plan, schedule=schedule), library, tmp_path, CPU) == pytest.approx(10 * once, rel=0.3)


# Models that were exported before trainings had keys


def without_keys(tiny: Path, tiny_recipe: Path, tmp_path: Path) -> Path:
    """Return a copy of an artifact as it was written before trainings had keys."""
    clone = tmp_path / "recipe"
    shutil.copytree(tiny, clone)
    (tmp_path / "showers.h5").symlink_to(tiny_recipe.parent.parent / "showers.h5")
    manifest = Manifest.model_validate_json((clone / "manifest.json").read_text())
    stages = {name: record.model_copy(update={"key": ""}) for name, record in manifest.stages.items()}
    write_manifest(clone, manifest.model_copy(update={"stages": stages}))
    return clone


def taken(clone: Path) -> Forecast:
    opened = Run.open(str(clone), None)
    path, recipe = opened.path, opened.recipe
    return forecast(recipe, opened.library, clone.parent / "trainings", CPU, path.parent)


def test_proven_weights_get_their_key(tiny: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    clone = without_keys(tiny, tiny_recipe, tmp_path)
    assert taken(clone) == Forecast(dict.fromkeys(STAGES, clone), {})
    made = export(Run.open(str(clone), tmp_path / "out"), CPU)
    stored = read_artifact(tiny).manifest.stages
    assert {name: record.key for name, record in made.manifest.stages.items()} == {name: stored[name].key for name in stored}
    assert not (tmp_path / "out" / "work").exists()  # nothing was trained


@pytest.mark.parametrize("kind", ["loss", "epochs", "library", "recipe"])
def test_what_is_not_proven_is_not_taken(kind: str, tiny: Path, tiny_recipe: Path, tmp_path: Path) -> None:
    clone = without_keys(tiny, tiny_recipe, tmp_path)
    manifest = read_artifact(clone).manifest
    stages = dict(manifest.stages)
    if kind == "loss":
        stages["edge"] = stages["edge"].model_copy(update={"valid_loss": stages["edge"].valid_loss * 1.001})
    if kind == "epochs":
        stages["edge"] = stages["edge"].model_copy(update={"epochs": 2})
    library = manifest.library | ({"sha256": "0" * 64} if kind == "library" else {})
    write_manifest(clone, manifest.model_copy(update={"stages": stages, "library": library}))
    if kind == "recipe":
        text = (clone / "recipe.yaml").read_text()
        (clone / "recipe.yaml").write_text(text.replace("learning_rate: 5.0e-3", "learning_rate: 4.0e-3"))
    found = taken(clone)
    everything = kind in ("library", "recipe")
    assert list(found.taken) == ([] if everything else ["published"])
    assert list(found.seconds) == (list(STAGES) if everything else ["edge", "quantised"])


# What is shipped


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_the_keys_of_shipped_trainings_are_those_of_their_recipes(name: str) -> None:
    """Of every stage and alternative: a change of code or recipe that would train a shipped network anew shows here."""
    opened = Run.open(str(MODELS / name), None)
    path, recipe, library, artifact = opened.path, opened.recipe, opened.library, read_artifact(opened.path.parent)
    networks: dict[str, Any] = {}
    for stage, record in artifact.manifest.stages.items():
        if stage == "published" and recipe.reference_from:
            assert record == read_artifact(path.parent / recipe.reference_from).manifest.stages[stage]
            networks[stage] = forecasts.published_of(recipe, path.parent).network
            continue
        plan = plan_stage(recipe, stage, library, networks)
        assert plan.key == record.key, stage
        if found := finished(recipe, plan, library, path.parent / "no trainings", [path.parent]):
            assert isinstance(found[0], Trained)
            networks[stage] = found[0].network
        else:
            assert record.parameters > 1_000_000, f"{stage}: its weights are not in the artifact"
    assert set(artifact.manifest.stages) == {*STAGES, *recipe.alternatives}


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_nothing_that_is_shipped_is_trained_again(name: str, tmp_path: Path) -> None:
    opened = Run.open(str(MODELS / name), None)
    found = forecast(opened.recipe, opened.library, tmp_path, CPU, opened.path.parent)
    assert found.seconds == {}
    assert set(found.taken) == set(STAGES)
