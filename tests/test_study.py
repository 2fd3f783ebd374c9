"""The study of bit widths: the front and the recommendation by hand-made points, and the whole of it for a small network."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from caloedge.errors import UserError
from caloedge.results import Claim, Number, Plot, Table
from caloedge.study import Point, axis_of, front, recommended


def number(value: float) -> Number:
    return Number(value=value, unit="%", origin="computed", uncertainty=0.1)


def point(bits: int, lut: int, width: float, other: float = 1.0) -> Point:
    return Point(bits, {"width": number(width), "other": number(other)}, 10 * lut, {"LUT": lut}, 5)


POINTS = [point(8, 800, 2.0), point(6, 500, 2.02), point(5, 400, 1.99), point(4, 300, 2.3), point(3, 200, 2.4, 3.0)]


def test_the_front_keeps_what_no_cheaper_one_equals() -> None:
    assert [p.bits for p in front(POINTS, "width", "LUT")] == [3, 4, 5]
    assert [p.bits for p in front(POINTS[::-1], "width", "LUT")] == [3, 4, 5]
    assert [p.bits for p in front(POINTS, "other", "LUT")] == [3, 4]  # equal ones that cost more are not worth having
    assert front([], "width", "LUT") == []


def test_the_cheapest_good_one_is_recommended() -> None:
    levels = {"width": number(2.0), "other": number(1.0)}
    best = recommended(POINTS, levels)
    assert best is not None
    assert best.bits == 5
    assert recommended(POINTS, {"width": number(1.8), "other": number(1.0)}) is None
    assert recommended(POINTS, {"width": number(9.0), "other": number(0.5)}) is None  # every figure counts
    loose = recommended(POINTS, {"width": number(9.0), "other": number(9.0)})
    assert loose is not None
    assert loose.bits == 3


def test_without_synthesis_the_bit_operations_are_the_cost() -> None:
    assert axis_of(POINTS) == "LUT"
    unknown = replace(POINTS[0], resources={}, ebops=1)  # LUTs and bit operations are not compared with each other
    points = [unknown, *POINTS[1:]]
    assert axis_of(points) == "EBOPs"
    assert recommended(points, {"width": number(9.0), "other": number(9.0)}) == unknown
    assert front(points, "width", "EBOPs")[0] == unknown


RECIPE = """\
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
evaluation: {events: 1500, valid_events: 1000}
"""


def test_a_study_from_training_to_the_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("brevitas")
    from caloedge import study as module
    from caloedge.training.fit import Hardware

    monkeypatch.setattr(module, "implement", lambda *_: None)  # as where no synthesiser is there
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    report = module.study(str(recipe), [3, 2], tmp_path / "out", Hardware(accelerator="cpu"))
    assert (tmp_path / "out" / "report_bits" / "report.html").is_file()
    (table,) = (block for block in report.sections[1].blocks if isinstance(block, Table))
    assert [row[0] for row in table.rows] == ["float published", "float edge", "classical baseline", "3 bit", "2 bit"]
    ebops = [row[1].value for row in table.rows[3:] if isinstance(row[1], Number)]
    assert len(ebops) == 2
    assert ebops[0] > ebops[1] > 0
    assert {row[2] for row in table.rows} == {"–"}  # nothing was synthesised
    figures = [row[5] for row in table.rows]
    assert all(isinstance(f, Number) and 0 < f.value < 100 and f.uncertainty is not None for f in figures)
    exact = [block for block in report.sections[0].blocks if isinstance(block, Claim)][-1]
    assert exact.verdict == "holds", exact.found
    assert "6 comparisons" in exact.found
    plots = [block for block in report.sections[1].blocks if isinstance(block, Plot)]
    assert any(series.name == "Pareto front" and series.x for plot in plots for series in plot.series)
    for bits in (2, 3):
        values = yaml.safe_load((tmp_path / "out" / "work" / "study" / f"{bits}_bit" / "recipe.yaml").read_text())
        assert values["quantisation"]["weight_bits"] == values["quantisation"]["activation_bits"] == bits
        assert values["quantisation"]["input_bits"] == 10
    stages = [path.name.split("-")[0] for path in (tmp_path / "out" / "work" / "training").iterdir()]
    assert sorted(stages) == ["edge", "published", "quantised", "quantised"]  # float networks are trained once
    assert math.isfinite(report.headline[0][1].value)


@pytest.mark.parametrize("bits", [[], [9], [8, 1]])
def test_impossible_widths_are_refused(tmp_path: Path, bits: list[int]) -> None:
    pytest.importorskip("brevitas")
    from caloedge.study import study
    from caloedge.training.fit import Hardware

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    with pytest.raises(UserError, match=r"^--bits .*: give numbers from 2 to 8, e\.g\. --bits 8 --bits 6$"):
        study(str(recipe), bits, tmp_path / "out", Hardware())
    assert not (tmp_path / "out").exists()
