"""Figures: the same text every time, ids of their own, and nothing that a result may contain stops them."""

import math
import re
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure

from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE
from caloedge.deepcluster.chain import PARTICLE_FLOW
from caloedge.reports.looks import METHODS, looks
from caloedge.reports.plots.canvas import drawable, house_style
from caloedge.reports.plots.figures import _colour_scale, image_svg, plot_svg
from caloedge.reports.plots.legend import place_legend
from caloedge.reports.plots.ratios import points, ratio
from caloedge.results import Image, Plot, Series
from caloedge.tasks.pf_energy.task import CALORIMETER_SUM

X = (1.0, 2.0, 4.0)


def series(name="float", y=(0.5, 0.8, 0.9), style="points", **fields):
    return Series(name=name, x=X[: len(y)], y=y, style=style, **fields)


def plot(*curves, **fields):
    return Plot(title="efficiency", x_label="E [GeV]", y_label="efficiency", series=curves, **fields)


def image(values, **fields):
    return Image(title="event", values=values, unit="GeV", **fields)


BINS = {"x_error": (0.5, 0.5, 1.0), "y_error_low": (0.1, 0.1, 0.1), "y_error_high": (0.2, 0.1, 0.05)}


def test_the_same_plot_gives_the_same_text_and_leaves_matplotlib_alone():
    before = dict(mpl.rcParams)
    curves = plot(series(**BINS), series("integer", style="line"), ratio_to="float")
    first = plot_svg(curves, data_label="Geant4 simulation")
    assert first == plot_svg(curves, data_label="Geant4 simulation")
    assert dict(mpl.rcParams) == before


def test_every_id_has_the_prefix_and_every_reference_an_id():
    svg = plot_svg(plot(series(**BINS)), prefix="figure7")
    ids = re.findall(r'id="([^"]*)"', svg)
    assert ids
    assert len(ids) == len(set(ids))
    assert all(name.startswith("figure7-") for name in ids)
    assert set(re.findall(r'(?:href="#|url\(#)([^")]*)', svg)) == set(ids)


def test_an_svg_needs_nothing_from_elsewhere():
    for svg in (plot_svg(plot(series())), image_svg(image(((0.0, 1.0), (2.0, 3.0))))):
        assert svg.startswith("<svg viewBox=")
        assert "<metadata" not in svg
        assert re.findall(r'https?://[^"]*', svg) == ["http://www.w3.org/2000/svg"]
        assert "<text" not in svg  # text is paths: no font is needed


def test_the_title_is_read_out_and_escaped():
    svg = plot_svg(Plot(title='<b>"a" & b', x_label="x", y_label="y", series=()))
    assert 'aria-label="&lt;b&gt;&quot;a&quot; &amp; b"' in svg


NOTHING = (math.nan, math.inf, -math.inf)
ODD_PLOTS = {
    "no series": plot(),
    "empty series": plot(series(y=())),
    "nothing finite": plot(series(y=NOTHING), series("line", NOTHING, "line"), series("steps", NOTHING, "steps")),
    "ratio to nothing": plot(series(y=NOTHING), series("integer"), ratio_to="float"),
    "ratio to zero": plot(series(y=(0.0, 0.0, 0.0)), series("integer"), ratio_to="float"),
    "one point": plot(series(y=(1.0,))),
    "all equal": plot(series(y=(2.0, 2.0, 2.0)), y_scale="log"),
    "not positive on log axes": plot(series(y=(-1.0, 0.0, -3.0), **BINS), x_scale="log", y_scale="log", y_range=(0.0, 1.0)),
    "nan errors": plot(series(y_error_low=(math.nan,) * 3, y_error_high=NOTHING)),
    "steps on a log axis": plot(series(y=(0.0, 10.0, 1000.0), style="steps", **BINS), y_scale="log"),
    "empty range": plot(series(), x_range=(1.0, 1.0), y_range=(math.nan, 1.0)),
    "broken mathematics": plot(series(r"$\nonsense{$"), series("_hidden"), series("costs $5"), series(r"$E^2$")),
    "large and small": plot(Series(name="a", x=(1e9, 3e9), y=(1e-9, 2e-9))),
    "ratio far away": plot(series(), series("integer", y=(50.0, -50.0, 0.9)), ratio_to="float"),
    "long label": Plot(title="t", x_label="word " * 40, y_label="word " * 40, series=(series(),)),
}


@pytest.mark.parametrize("name", ODD_PLOTS)
def test_odd_plots_are_drawn(name):
    assert plot_svg(ODD_PLOTS[name], data_label="test").endswith("</svg>")


ODD_IMAGES = {
    "empty": image(()),
    "zeros": image(((0.0, 0.0), (0.0, 0.0))),
    "not finite": image(((math.nan, math.inf), (-math.inf, math.nan))),
    "negative": image(((-1.0, 2.0), (0.0, 1.0))),
    "four decades": image(((1e-3, 10.0), (0.0, 1.0))),
    "one row": image(((1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0),)),
    "marks": image(((1.0, 2.0), (3.0, 4.0)), marks=((0.5, 0.5, "true"), (1.5, 0.5, "found"), (0.5, 1.5, "true"))),
}


@pytest.mark.parametrize("name", ODD_IMAGES)
def test_odd_images_are_drawn(name):
    assert image_svg(ODD_IMAGES[name], data_label="test").endswith("</svg>")


def test_the_same_image_gives_the_same_text():
    assert image_svg(ODD_IMAGES["marks"]) == image_svg(ODD_IMAGES["marks"])


def test_a_large_event_display_stays_small():
    rng = np.random.default_rng(1)
    assert len(image_svg(image(tuple(map(tuple, rng.exponential(size=(51, 51))))))) < 150_000


def test_many_points_with_errors_and_ratios_stay_small():
    x = tuple(range(1, 101))
    curves = [Series(name=name, x=x, y=x, x_error=(0.5,) * 100, y_error_low=x, y_error_high=x) for name in "abcd"]
    assert len(plot_svg(plot(*curves, ratio_to="a"))) < 150_000


def shape(look):
    return look.colour, look.marker, look.filled


def test_a_method_looks_the_same_in_every_report_whatever_stands_beside_it():
    of_one = looks(["something else", "classical baseline", "quantised, validation", "float edge"])
    of_other = looks(["float edge, 92.5 k parameters", "integer edge", "classical baseline", "edge, validation"])
    assert of_one["classical baseline"] == of_other["classical baseline"]
    assert of_one["quantised, validation"] == of_other["integer edge"]
    edge = {of_one["float edge"], of_other["float edge, 92.5 k parameters"], of_other["edge, validation"]}
    assert len(edge) == 1
    assert looks(["student, validation", "8 bit"]) == {
        "student, validation": METHODS["float student"],
        "8 bit": METHODS["integer 8 bit"],
    }
    assert looks(["mine", "yours"])["yours"] == looks(["yours"])["yours"]


def test_methods_are_named_as_the_package_names_them():
    names = {REFERENCE, FLOAT, INTEGER, BASELINE, PARTICLE_FLOW, CALORIMETER_SUM}
    assert names <= set(METHODS)


def test_looks_differ_also_in_grey():
    assert len({shape(look) for look in METHODS.values()}) == len(METHODS)
    assert len({METHODS[name].marker for name in (REFERENCE, FLOAT, INTEGER, BASELINE, PARTICLE_FLOW, CALORIMETER_SUM)}) == 6
    greys = sorted(lightness(METHODS[name].colour) for name in (REFERENCE, FLOAT, INTEGER, BASELINE, PARTICLE_FLOW))
    assert min(b - a for a, b in pairwise(greys)) > 8  # of 100, CIE L*


def lightness(colour):
    """Return CIE L* of a colour, from 0 for black to 100 for white."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in mpl.colors.to_rgb(colour)]
    return 116 * (0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]) ** (1 / 3) - 16


def test_names_without_a_method_differ_from_each_other_and_from_methods():
    many = looks([*map(str, range(30)), *METHODS])
    assert len({shape(look) for look in many.values()}) == 30 + len(METHODS)
    few = looks(["one photon", "two photons, < 1 crystal", "two photons, 1–2 crystals", "π⁰"])
    assert len({look.colour for look in few.values()}) == 4


def test_one_name_has_one_look_in_every_figure_of_a_page():
    """Colours are taken from the drawn figures: the legend's order and neighbours change, the method's colour does not."""
    first = plot_svg(plot(series("float edge")), series_looks=looks(["float edge", "a"]))
    second = plot_svg(plot(series("float edge, validation", style="line")), series_looks=looks(["a", "float edge, validation"]))
    for svg in (first, second):
        assert set(re.findall(r"var\(--(\w+), ", svg)) - {"paper"} == {"blue"}
    assert "var(--red, #e42536)" in plot_svg(plot(series("integer edge")))


def test_a_saved_figure_needs_no_page():
    svg = plot_svg(plot(series("float edge")))
    assert {colour for _, colour in re.findall(r"var\(--(\w+), (#\w+)\)", svg)} == {"#5790fc", "#ffffff"}
    assert svg.count("var(") == len(re.findall(r"var\(--\w+, #\w{6}\)", svg))  # each with its own colour to fall back on


def test_drawable_keeps_mathematics_and_shows_the_rest_as_it_is():
    assert drawable("$E$ [GeV]") == "$E$ [GeV]"
    assert drawable("5 $") == r"5 \$"
    assert drawable(r"$\nonsense{$") == r"\$\nonsense{\$"


def test_points_leave_out_what_the_scales_cannot_show():
    series = Series(name="a", x=(0.0, 2.0, 1.0, 3.0), y=(1.0, 2.0, 3.0, math.nan), y_error_low=(0.1, 0.2, math.nan, 0.4))
    drawable = points(series, x_scale="log")
    assert drawable.x.tolist() == [1.0, 2.0]
    assert drawable.y.tolist() == [3.0, 2.0]
    assert drawable.y_errors.tolist() == [[0.0, 0.2], [0.0, 0.0]]
    assert points(series).x.tolist() == [0.0, 1.0, 2.0]


def test_steps_go_down_at_the_ends_and_in_gaps():
    histogram = points(Series(name="a", x=(0.5, 1.5, 4.5), y=(2.0, 3.0, 1.0), x_error=(0.5, 0.5, 0.5), style="steps"))
    expected = [[0, 0], [0, 2], [1, 2], [1, 3], [2, 3], [2, 0], [4, 0], [4, 1], [5, 1], [5, 0]]
    assert histogram.steps().tolist() == expected


def test_ratio_matches_points_by_x_and_keeps_only_the_own_error():
    reference = points(Series(name="ref", x=(1.0, 2.0, 3.0), y=(2.0, 0.0, 4.0), y_error_low=(1.0, 1.0, 1.0)))
    curve = points(Series(name="a", x=(1.0, 2.0, 2.5, 3.0), y=(1.0, 1.0, 1.0, 2.0), y_error_low=(0.2, 0.2, 0.2, 0.4)))
    divided = ratio(curve, reference)
    assert divided.x.tolist() == [1.0, 3.0]  # the reference is zero at 2 and unknown at 2.5
    assert divided.y.tolist() == [0.5, 0.5]
    assert divided.y_errors.tolist() == [[0.1, 0.1], [0.0, 0.0]]


def test_ratio_to_a_curve_is_interpolated_but_never_extrapolated():
    reference = points(Series(name="ref", x=(3.0, 1.0), y=(6.0, 2.0), style="line"))
    divided = ratio(points(Series(name="a", x=(0.5, 2.0), y=(1.0, 2.0))), reference)
    assert divided.x.tolist() == [2.0]
    assert divided.y.tolist() == [0.5]


ZIGZAG = [(x / 40, x % 2) for x in range(41)]


@pytest.mark.parametrize(
    ("curve", "extends", "outside"),
    [
        ([(0, 0), (1, 0.2)], False, False),  # a corner is free
        (ZIGZAG, True, False),  # room is made above
        (ZIGZAG, False, True),  # no room inside, and none can be made
    ],
)
def test_the_legend_covers_no_data(curve, extends, outside):
    line = np.array(curve, dtype=float)
    with house_style():
        figure = Figure(figsize=(6, 4.4), layout="constrained")
        axes = figure.subplots()
        axes.plot(*line.T, label="a series with a long name")
        axes.set(xlim=(0, 1), ylim=(0, 1))
        figure.draw_without_rendering()
        place_legend(figure, axes, [line], may_extend=extends)
        legend = figure.legends[0] if outside else axes.get_legend()
        box = legend.get_window_extent()
        dense = np.concatenate([np.linspace(a, b, 200) for a, b in pairwise(line)])
        x, y = axes.transData.transform(dense).T
        covered = (x > box.x0) & (x < box.x1) & (y > box.y0) & (y < box.y1)
        assert not covered.any()
        assert (axes.get_ylim()[1] > 1) == extends


def test_images_with_the_same_range_have_the_same_colours() -> None:
    """The same value gets the same colour whatever else an image holds; without a range it does not."""

    def corner(colour_range: tuple[float, float] | None, hottest: float) -> tuple[float, ...]:
        norm, name = _colour_scale(np.array([[3.0, hottest]]), colour_range)
        return tuple(mpl.colormaps[name](norm(3.0)))

    assert corner((0.1, 100.0), 4.0) == corner((0.1, 100.0), 90.0)
    assert corner(None, 4.0) != corner(None, 90.0)


@pytest.mark.parametrize("wrong", [(0.0, 1.0), (2.0, 1.0), (-1.0, 1.0)])
def test_an_impossible_range_of_colours_is_refused(wrong: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"image 'event': colours from "):
        Image(title="event", values=((1.0,),), unit="GeV", colour_range=wrong)
