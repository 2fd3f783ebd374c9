"""The study of bit widths: the front and the recommendation by hand-made points, and the whole of it for a small network."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml

from caloedge.errors import UserError
from caloedge.metrics.claims import ComparedFigure
from caloedge.reports.summary import ONCE
from caloedge.results import Claim, Number, Plot, Table
from caloedge.studies.widths import Point, axis_of, claim, front, inverted_widths, recommended


def number(value: float) -> Number:
    return Number(value=value, unit="%", origin="computed", uncertainty=0.1)


def point(bits: int, lut: int, width: float, other: float = 1.0) -> Point:
    return Point(bits, {"width": number(width), "other": number(other)}, 10 * lut, {"LUT": lut}, 5)


def against(points: list[Point], width: float, other: float, error: float = 0.001) -> list[Point]:
    """Return points with the ratios of their figures to those of a method `m`, all of one relative error."""
    z = np.random.default_rng(1).standard_normal((200, 2))
    result = []
    for p in points:
        value = np.array([p.figures["width"].value / width, p.figures["other"].value / other])
        result.append(replace(p, ratios={"m": ComparedFigure(value, value * (1 + error * z))}))
    return result


POINTS = [point(8, 800, 2.0), point(6, 500, 2.02), point(5, 400, 1.99), point(4, 300, 2.3), point(3, 200, 2.4, 3.0)]


def test_the_front_keeps_what_no_cheaper_one_equals() -> None:
    assert [p.bits for p in front(POINTS, "width", "LUT")] == [3, 4, 5]
    assert [p.bits for p in front(POINTS[::-1], "width", "LUT")] == [3, 4, 5]
    assert [p.bits for p in front(POINTS, "other", "LUT")] == [3, 4]  # equal ones that cost more are not worth having
    assert front([], "width", "LUT") == []


def test_the_cheapest_good_one_is_recommended() -> None:
    best = recommended(against(POINTS, 2.0, 1.0), "m")
    assert best is not None
    assert best.bits == 5
    assert recommended(against(POINTS, 1.8, 1.0), "m") is None
    assert recommended(against(POINTS, 9.0, 0.5), "m") is None  # every figure counts
    loose = recommended(against(POINTS, 9.0, 9.0), "m")
    assert loose is not None
    assert loose.bits == 3


def test_a_width_is_recommended_by_its_limit() -> None:
    """6 bits are 1 % above, 8 equal; with errors of 5 % neither is shown to be within 5 %."""
    points = against(POINTS[:2], 2.0, 0.5, 0.0)
    assert claim(points, "m", "m's").verdict == "fails"
    assert recommended(against(POINTS[:2], 2.0, 2.0, 0.05), "m") is None
    assert claim(against(POINTS[:2], 2.0, 2.0, 0.05), "m", "m's").verdict == "undecided"
    sure = claim(against(POINTS[:2], 2.0, 2.0, 0.001), "m", "m's")
    assert sure.verdict == "holds"
    assert sure.found.startswith("recommended: 6 bit, 500 LUT (synthesised); largest ratio of any figure, 8 bit: 1.000")
    assert "(limits at 95% confidence, paired bootstrap)" in sure.found


def test_one_width_that_is_open_leaves_the_claim_open() -> None:
    assert claim([*against(POINTS[3:], 2.0, 1.0), *against(POINTS[:1], 2.0, 1.0, 0.05)], "m", "m's").verdict == "undecided"
    assert claim(against(POINTS[3:], 2.0, 1.0), "m", "m's").verdict == "fails"


def test_more_bits_that_are_worse_are_named() -> None:
    assert inverted_widths(POINTS) == ()  # 6 bits are worse than 5 by less than the errors
    (caveat,) = inverted_widths([point(5, 400, 7.18), point(3, 200, 6.61)])
    assert caveat == "5 bit are worse than 3 in width (7.18 against 6.61 %): trainings scatter by at least as much."


def test_without_synthesis_the_bit_operations_are_the_cost() -> None:
    assert axis_of(POINTS) == "LUT"
    unknown = replace(POINTS[0], resources={}, ebops=1)  # LUTs and bit operations are not compared with each other
    points = [unknown, *POINTS[1:]]
    assert axis_of(points) == "EBOPs"
    cheapest = recommended(against(points, 9.0, 9.0), "m")
    assert cheapest is not None
    assert cheapest.bits == unknown.bits
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
    from caloedge.studies import widths as module
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
    assert ONCE in report.caveats
    assert set(report.best) < {label for label, _ in report.headline}


@pytest.mark.parametrize("bits", [[], [9], [8, 1]])
def test_impossible_widths_are_refused(tmp_path: Path, bits: list[int]) -> None:
    pytest.importorskip("brevitas")
    from caloedge.studies.widths import study
    from caloedge.training.fit import Hardware

    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(RECIPE)
    with pytest.raises(UserError, match=r"^--bits .*: give numbers from 2 to 8, e\.g\. --bits 8 --bits 6$"):
        study(str(recipe), bits, tmp_path / "out", Hardware())
    assert not (tmp_path / "out").exists()
