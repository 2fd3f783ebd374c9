"""The trade-off from training to the report for small schedules, and reuse factors of a small gated network."""

import math
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from caloedge.artifact import Golden, read_artifact
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Conv, Dense, InputQuantiser, Output, Requantise
from caloedge.errors import UnknownName, UserError
from caloedge.firmware.reuse import choices, reuse_choices
from caloedge.reports.summary import ONCE
from caloedge.results import Claim, Number, Plot, Table
from caloedge.tasks import pf_energy

RECIPE = """\
name: small_flow
task: pf_energy
network: pf_energy
library: qcd_jets
seed: 3
training:
  published: {epochs: 1, events_per_epoch: 16, batch_size: 4, learning_rate: 1.0e-3}
  edge: {epochs: 1, events_per_epoch: 8, batch_size: 4, learning_rate: 1.0e-4}
  quantised: {epochs: 1, events_per_epoch: 8, batch_size: 4, learning_rate: 1.0e-4}
  edge_from_published: true
alternatives:
  pupil: {size: student, schedule: {epochs: 1, events_per_epoch: 8, batch_size: 4, learning_rate: 1.0e-3}, teacher: edge}
tradeoff: {bits: [4], schedule: {epochs: 2, events_per_epoch: 8, batch_size: 4, learning_rate: 1.0e-4}}
quantisation: {weight_bits: 6, activation_bits: 6, input_bits: 10, input_fraction: 9}
golden_vectors: 10
evaluation: {events: 24, valid_events: 10}
"""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flow") / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def test_a_tradeoff_from_training_to_the_report(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("brevitas")
    pytest.importorskip("fastjet")
    from caloedge.evaluation import latency
    from caloedge.pipeline import Run, train
    from caloedge.studies.tradeoff import tradeoff
    from caloedge.training.fit import Hardware

    monkeypatch.setattr(latency, "SECONDS", 0.01)
    monkeypatch.setattr(pf_energy, "TASK", replace(pf_energy.TASK, valid_events=8))
    output = recipe.parent / "out"
    report = tradeoff(Run.open(str(recipe), output), Hardware(accelerator="cpu", channels_last=True))
    assert (output / "report_tradeoff" / "report.html").is_file()
    (table,) = (block for block in report.sections[1].blocks if isinstance(block, Table))
    methods = [row[0] for row in table.rows]
    assert methods[:5] == ["float published", "float edge", "float pupil", "integer edge", "integer 4 bit"]
    assert "classical baseline" in methods
    parameters = {row[0]: row[1].value for row in table.rows if isinstance(row[1], Number)}
    assert parameters["float published"] == parameters["float edge"] == 92_465
    assert parameters["float pupil"] == 20_665
    times = {row[0]: [cell.value for cell in row[-4:] if isinstance(cell, Number)] for row in table.rows}
    assert all(len(times[method]) == 4 and min(times[method]) > 0 for method in methods[:3])
    assert not times["integer edge"]
    assert any(isinstance(block, Plot) and "against latency" in block.title for block in report.sections[1].blocks)
    (exact,) = (
        block for block in report.sections[0].blocks if isinstance(block, Claim) and "same output codes" in block.statement
    )
    assert exact.verdict == "holds", exact.found
    assert "6 comparisons of at least 10 vectors" in exact.found
    trained = sorted(path.name.split("-")[0] for path in (output / "work" / "training").iterdir())
    assert trained == ["edge", "published", "pupil", "quantised", "quantised"]
    artifact = read_artifact(output / "artifact")
    assert artifact.manifest.stages["pupil"].parameters == 20_665
    assert artifact.weights("pupil")
    narrow = read_artifact(output / "artifact_4_bit")
    assert narrow.recipe.quantisation.weight_bits == 4
    assert narrow.manifest.stages["quantised"].epochs == narrow.recipe.training.quantised.epochs == 2
    (trainings,) = (section.blocks[0] for section in report.sections if section.title == "Training")
    assert isinstance(trainings, Table)
    epochs = {row[0]: row[2].value for row in trainings.rows if isinstance(row[2], Number)}
    assert list(epochs) == methods[:5]
    assert (epochs["integer edge"], epochs["integer 4 bit"]) == (1, 2)
    before = {path: path.stat().st_mtime_ns for path in (output / "work" / "training").rglob("*")}
    train(Run.open(str(recipe), output), Hardware(accelerator="cpu"), ["pupil"])
    assert before == {path: path.stat().st_mtime_ns for path in (output / "work" / "training").rglob("*")}  # nothing was trained
    _records_of_large_alternatives_stay(recipe, output, monkeypatch)


def _records_of_large_alternatives_stay(path: Path, output: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exporting anew keeps what is known of trainings whose weights are too large to store, while they are the recipe's."""
    from caloedge import export
    from caloedge.pipeline import Run
    from caloedge.training.fit import Hardware
    from caloedge.training.stages import train

    monkeypatch.setattr(export, "MAX_STORED_PARAMETERS", 10_000)
    opened, folder = Run.open(str(path), output), output / "large"
    recipe, library = opened.recipe, opened.library
    trained = train(recipe, library, output / "work" / "training", Hardware(accelerator="cpu"), path.parent)
    record = trained["pupil"].record
    artifact = export.export(recipe, path, library, trained, folder)
    assert artifact.manifest.stages["pupil"] == record
    assert not list(folder.glob("pupil.*"))
    del trained["pupil"]
    again = export.export(recipe, path, library, trained, folder)
    assert list(again.manifest.stages) == ["published", "edge", "quantised", "pupil"]
    assert again.manifest.stages["pupil"] == record
    elsewhere = export.export(recipe, folder / "recipe.yaml", library, trained, output / "elsewhere")
    assert elsewhere.manifest.stages["pupil"] == record  # known beside the recipe
    alternative = recipe.alternatives["pupil"]
    longer = alternative.model_copy(update={"schedule": alternative.schedule.model_copy(update={"epochs": 2})})
    other = recipe.model_copy(update={"alternatives": {"pupil": longer}})
    assert "pupil" not in export.export(other, path, library, trained, folder).manifest.stages


def test_a_task_with_working_points_has_a_tradeoff_too(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method gets its working point on the same validation events, the further widths as well."""
    from caloedge.evaluation import latency
    from caloedge.pipeline import Run
    from caloedge.studies.tradeoff import tradeoff
    from caloedge.training.fit import Hardware

    monkeypatch.setattr(latency, "SECONDS", 0.01)
    path = tmp_path / "recipe" / "recipe.yaml"
    shutil.copytree(tiny, path.parent)  # whose networks are taken
    (tmp_path / "showers.h5").symlink_to(tiny.parents[1] / "showers.h5")
    text = path.read_text()
    path.write_text(f"{text}tradeoff: {{bits: [6]}}\n")
    report = tradeoff(Run.open(str(path), tmp_path / "out"), Hardware(accelerator="cpu"))
    (table,) = (block for block in report.sections[1].blocks if isinstance(block, Table))
    assert [row[0] for row in table.rows] == [
        "float published", "float edge", "integer edge", "integer 6 bit", "classical baseline",
    ]  # fmt: skip
    assert all(isinstance(row[3], Number) and 0 < row[3].value <= 100 for row in table.rows)
    assert [label for label, _ in report.headline] == [f"Seed efficiency, {row[0]}" for row in table.rows]


SHAPES = """\
name: small_shapes
task: shower_shape
network: shower_shape
library: pbwo4_gamma
seed: 3
training:
  published: {epochs: 1, events_per_epoch: 2000, batch_size: 256, learning_rate: 4.0e-3}
  edge: {epochs: 1, events_per_epoch: 2000, batch_size: 256, learning_rate: 4.0e-3}
  quantised: {epochs: 1, events_per_epoch: 1000, batch_size: 256, learning_rate: 1.0e-3}
quantisation: {weight_bits: 6, activation_bits: 6, input_bits: 10, input_fraction: 7, input_signed: true}
golden_vectors: 1000
builds: {rtl: [unrolled]}
evaluation: {events: 1500, valid_events: 1000}
"""


@pytest.mark.exhaustive
def test_every_width_of_an_unrolled_network_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given widths replace the recipe's, float networks are trained once, and each width is built, simulated and costed."""
    pytest.importorskip("brevitas")
    from caloedge.evaluation import latency
    from caloedge.pipeline import Run
    from caloedge.studies import widths
    from caloedge.studies.tradeoff import tradeoff
    from caloedge.training.fit import Hardware

    monkeypatch.setattr(latency, "SECONDS", 0.01)
    monkeypatch.setattr(widths, "implement", lambda *_: None)  # as where no synthesiser is there
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(SHAPES)
    report = tradeoff(Run.open(str(recipe), tmp_path / "out"), Hardware(accelerator="cpu"), [3, 6, 2])
    assert (tmp_path / "out" / "report_tradeoff" / "report.html").is_file()
    (section,) = (section for section in report.sections if section.title == "Accuracy against hardware cost")
    (table,) = (block for block in section.blocks if isinstance(block, Table))
    assert [row[0] for row in table.rows] == [
        "float published", "float edge", "classical baseline", "6 bit", "3 bit", "2 bit",
    ]  # fmt: skip
    ebops = [row[1].value for row in table.rows[3:] if isinstance(row[1], Number)]
    assert len(ebops) == 3
    assert ebops == sorted(ebops, reverse=True)
    assert ebops[-1] > 0
    assert {row[2] for row in table.rows} == {"–"}  # nothing was synthesised
    cycles = [row[4].value for row in table.rows[3:] if isinstance(row[4], Number)]
    assert len(cycles) == 3
    assert table.columns[5] == "100 % − accuracy"
    figures = [row[5] for row in table.rows]
    assert all(isinstance(f, Number) and 0 < f.value < 100 and f.uncertainty is not None for f in figures)
    exact = [block for block in report.sections[0].blocks if isinstance(block, Claim)][-1]
    assert exact.verdict == "holds", exact.found
    assert "12 comparisons" in exact.found
    plots = [block for block in section.blocks if isinstance(block, Plot)]
    assert [plot.title for plot in plots] == ["100 % − accuracy against EBOPs"]  # no LUTs are known
    assert any(series.name == "Pareto front" and series.x for plot in plots for series in plot.series)
    for bits in (2, 3):
        values = yaml.safe_load((tmp_path / "out" / "work" / "tradeoff" / f"{bits}_bit" / "artifact" / "recipe.yaml").read_text())
        assert values["quantisation"]["weight_bits"] == values["quantisation"]["activation_bits"] == bits
        assert values["quantisation"]["input_bits"] == 10
    stages = [path.name.split("-")[0] for path in (tmp_path / "out" / "work" / "training").iterdir()]
    assert sorted(stages) == ["edge", "published", "quantised", "quantised", "quantised"]  # float networks are trained once
    assert math.isfinite(report.headline[0][1].value)
    assert ONCE in report.caveats
    assert set(report.best) < {label for label, _ in report.headline}


@pytest.mark.parametrize("bits", [[], [9], [8, 1]])
def test_impossible_widths_are_refused(tmp_path: Path, bits: list[int]) -> None:
    pytest.importorskip("brevitas")
    from caloedge.pipeline import Run
    from caloedge.studies.tradeoff import tradeoff
    from caloedge.training.fit import Hardware

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(SHAPES)
    with pytest.raises(UserError, match=r"^--bits .*: give numbers from 2 to 8, e\.g\. --bits 8 --bits 6$"):
        tradeoff(Run.open(str(recipe), tmp_path / "out"), Hardware(), bits)
    assert not (tmp_path / "out").exists()


def test_scores_are_made_once_for_each_network_and_sample(tmp_path: Path) -> None:
    pytest.importorskip("brevitas")
    from caloedge.studies.tradeoff import _cached

    calls: list[str] = []

    def make(name: str) -> np.ndarray:
        calls.append(name)
        return np.full(3, len(calls))

    first = _cached(tmp_path / "scores", "a", lambda: make("a"))
    assert (_cached(tmp_path / "scores", "a", lambda: make("again")) == first).all()
    assert (_cached(tmp_path / "scores", "b", lambda: make("b")) != first).all()
    assert calls == ["a", "b"]
    assert len(list((tmp_path / "scores").iterdir())) == 2  # nothing temporary is left


def test_unknown_rivals_and_sizes_are_named(recipe: Path, tmp_path: Path) -> None:
    pytest.importorskip("brevitas")
    from caloedge.pipeline import Run, train
    from caloedge.training.fit import Hardware

    cpu = Hardware(accelerator="cpu")
    with pytest.raises(UnknownName, match=r"^recipe 'small_flow' has no alternative 'giant'; there are: pupil$"):
        train(Run.open(str(recipe), recipe.parent / "out"), cpu, ["giant"])
    other = tmp_path / "recipe.yaml"
    other.write_text(RECIPE.replace("size: student", "size: giant"))
    with pytest.raises(
        UnknownName, match=r"alternatives.pupil.size: network 'pf_energy' has no size 'giant'; there are: published, edge, "
    ):
        train(Run.open(str(other), recipe.parent / "out"), cpu, ["pupil"])


def small_images() -> Graph:
    rng = np.random.default_rng(3)
    fmt, image = Format(True, 4, 1), Format(False, 4, 2)
    return Graph(
        (
            InputQuantiser("x", (2, 5, 6), image),
            Conv("first", ("x",), rng.integers(-7, 8, (3, 2, 3, 3)), rng.integers(-9, 9, 3), fmt, padding=(1, 1, 1, 1)),
            Requantise("act", ("first",), image, relu=True),
            Conv("second", ("act",), rng.integers(-7, 8, (1, 3, 3, 3)), np.zeros(1, np.int64), fmt, padding=(1, 1, 1, 1)),
            Output("energy", ("second",)),
        )
    )


def test_a_larger_reuse_factor_takes_fewer_multipliers_and_more_cycles(tmp_path: Path) -> None:
    graph = small_images()
    codes = np.random.default_rng(1).integers(0, 16, (4, 2, 5, 6))
    designs = reuse_choices(graph, Golden(codes, graph.run(codes)), (2, 6, 100), "xcvu13p", tmp_path)
    assert [design.reuse for design in designs] == [2, 6, 100]
    assert all(design.check.exact and design.check.vectors == 4 for design in designs)
    assert designs[0].multipliers > designs[1].multipliers > designs[2].multipliers == 3 + 1  # 18 and 27 numbers: one lane each
    intervals = [design.cycles.interval_cycles for design in designs]
    assert intervals == sorted(set(intervals))
    wrong = Golden(codes, {"energy": graph.run(codes)["energy"] + 1})
    (other,) = reuse_choices(graph, wrong, (2,), "xcvu13p", tmp_path)
    assert not other.check.exact


def test_the_reuse_factor_is_capped_at_the_size_of_the_kernel() -> None:
    assert {name: choice.reuse for name, choice in choices(small_images(), 20).items()} == {"first": 18, "second": 20}


def test_a_network_without_convolution_has_no_reuse_factors() -> None:
    fmt = Format(True, 4, 1)
    graph = Graph(
        (
            InputQuantiser("x", (2,), fmt),
            Dense("dense", ("x",), np.ones((1, 2), np.int64), np.zeros(1, np.int64), fmt),
            Output("y", ("dense",)),
        ),
        name="flat",
    )
    with pytest.raises(UserError, match=r"^network 'flat' has no convolution; reuse factors are those of images$"):
        choices(graph, 2)
