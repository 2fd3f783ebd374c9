"""The front of accuracy against cost and the recommended width, by hand-made points."""

from dataclasses import replace

import numpy as np

from caloedge.metrics.claims import ComparedFigure
from caloedge.results import Number
from caloedge.studies.pareto import Point, axis_of, claim, front, inverted_widths, recommended


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
