"""Plots and images as SVG text, drawn the way the field draws them."""

from collections.abc import Mapping

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from caloedge.reports.looks import PAPER, Look, looks
from caloedge.reports.plots import canvas
from caloedge.reports.plots.canvas import drawable
from caloedge.reports.plots.legend import outside, place_legend
from caloedge.reports.plots.ratios import Points, points, ratio
from caloedge.results import Image, Plot

_WIDTH_IN = 6.0
_HEIGHT_IN = 4.4
_RATIO_HEIGHT_IN = 1.2
_EXTRA_HEIGHT_IN = 0.8  # the upper panel gives up the rest
_WIDEST_RATIO = (0.0, 3.0)
_LOG_IMAGE_FROM = 100.0  # ratio of largest to smallest positive value above which a linear scale shows only the largest
_DEEPEST_LOG = 1e4


def plot_svg(plot: Plot, prefix: str = "plot", series_looks: Mapping[str, Look] | None = None, data_label: str = "") -> str:
    """Draw a plot as an `<svg>` element; the same plot gives the same text.

    `prefix` starts every id in it, and must differ between figures of one page. `series_looks` (from `looks`) keeps the
    look of a series name across figures. `data_label` says above the axes what the data are, e.g. "Geant4 simulation".
    Points that are not finite, or not positive on a logarithmic axis, are left out.
    """
    styles = {**looks(series.name for series in plot.series), **(series_looks or {})}
    curves = [points(series, plot.x_scale, plot.y_scale) for series in plot.series]
    reference = next((curve for curve in curves if curve.name == plot.ratio_to), None)
    with canvas.house_style():
        height = _HEIGHT_IN + (_EXTRA_HEIGHT_IN if reference else 0)
        figure = Figure(figsize=(_WIDTH_IN, height), layout=ConstrainedLayoutEngine(h_pad=0.03, hspace=0.02))
        if reference:
            main, lower = figure.subplots(2, 1, sharex=True, height_ratios=(height - _RATIO_HEIGHT_IN - 0.8, _RATIO_HEIGHT_IN))
        else:
            main = lower = figure.subplots()
        main.set_xscale(plot.x_scale)
        main.set_yscale(plot.y_scale)
        for curve in curves:
            _draw(main, curve, styles[curve.name])
        _set_limits(main, plot, curves)
        if reference:
            _draw_ratios(lower, curves, reference, styles)
        lower.set_xlabel(drawable(plot.x_label))
        main.set_ylabel(drawable(plot.y_label))
        for axis in {id(a): a for a in (main.xaxis, lower.xaxis, main.yaxis)}.values():
            _set_ticks(axis)
        _finish(figure, main, data_label)
        place_legend(figure, main, [line for curve in curves for line in curve.outlines()], may_extend=plot.y_range is None)
        return canvas.inline_svg(figure, prefix, plot.title)


def image_svg(image: Image, prefix: str = "image", series_looks: Mapping[str, Look] | None = None, data_label: str = "") -> str:
    """Draw an image as an `<svg>` element, with its marks in a legend below; arguments as for `plot_svg`.

    Cells that are zero stay white, on a dark page too. The colours are logarithmic when the positive cells span more than
    two decades and none is negative, and symmetric about zero when some are negative, unless the image says from where to
    where they go.
    """
    styles = {**looks(label for _, _, label in image.marks), **(series_looks or {})}
    cells_XY = np.atleast_2d(np.array(image.values, dtype=np.float64))
    if not cells_XY.size:
        cells_XY = np.zeros((1, 1))
    n_x, n_y = cells_XY.shape
    with canvas.house_style():
        height = float(np.clip(_WIDTH_IN * 0.78 * n_y / n_x + 0.7, 2.4, 6.6))
        figure = Figure(figsize=(_WIDTH_IN, height), layout="constrained")
        axes = figure.subplots()
        norm, colours = _colour_scale(cells_XY, image.colour_range)
        shown_YX = np.ma.masked_where(~np.isfinite(cells_XY) | (cells_XY == 0), cells_XY).T
        mesh = axes.imshow(
            shown_YX, origin="lower", extent=(0, n_x, 0, n_y), cmap=colours, norm=norm, interpolation="none", aspect="equal"
        )
        bar = figure.colorbar(mesh, ax=axes, pad=0.02, fraction=0.05, aspect=28)
        bar.set_label(drawable(f"value per cell [{image.unit}]" if image.unit else "value per cell"))
        bar.ax.tick_params(which="both", direction="in", left=False)
        _draw_marks(axes, image, styles)
        axes.set(xlim=(0, n_x), ylim=(0, n_y), xlabel=drawable(image.labels[0]), ylabel=drawable(image.labels[1]))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(ticker.MaxNLocator(integer=True, nbins=8, steps=(1, 2, 5, 10)))
        _finish(figure, axes, data_label)
        outside(figure, axes)
        return canvas.inline_svg(figure, prefix, image.title, adapts=False)


def _draw(axes: Axes, curve: Points, look: Look) -> None:
    label = drawable(curve.name) if not curve.name.startswith("_") else f"\u200b{curve.name}"  # _ would hide it
    if label in axes.get_legend_handles_labels()[1]:
        label = "_nolegend_"  # a curve and its working point share one entry
    if curve.style == "points":
        face = look.colour if look.filled else PAPER
        axes.errorbar(
            curve.x, curve.y, xerr=curve.x_error, yerr=curve.y_errors, fmt=look.marker, color=look.colour,
            markerfacecolor=face, markeredgewidth=1.3, elinewidth=1.2, label=label,
        )  # fmt: skip
        return
    outline = curve.steps() if curve.style == "steps" else np.column_stack((curve.x, curve.y))
    axes.plot(*outline.T, color=look.colour, linestyle=look.dashes, label=label)
    if curve.y_errors is None:
        return
    low, high = curve.y - curve.y_errors[0], curve.y + curve.y_errors[1]
    if curve.style == "steps":
        axes.errorbar(curve.x, curve.y, yerr=curve.y_errors, fmt="none", ecolor=look.colour, elinewidth=1.2)
    else:
        axes.fill_between(curve.x, low, high, color=look.colour, alpha=0.18, linewidth=0)


def _draw_ratios(axes: Axes, curves: list[Points], reference: Points, styles: Mapping[str, Look]) -> None:
    """Draw each curve divided by the reference, and the reference's own uncertainty as a band about one."""
    band = ratio(reference, reference)
    axes.axhline(1, color=styles[reference.name].colour, linewidth=1)
    if band.y_errors is not None and band.x.size:
        edges = band.steps_of(np.stack((1 - band.y_errors[0], 1 + band.y_errors[1])))
        axes.fill_between(edges[0], edges[1], edges[2], color="0.6", alpha=0.35, linewidth=0)
    others = [ratio(curve, reference) for curve in curves if curve is not reference]
    low, high = _ratio_limits(np.concatenate([np.ones(1), *(curve.y for curve in others)]))
    for curve in others:
        _draw(axes, curve, styles[curve.name])
        for beyond, marker, edge in ((curve.y > high, "^", 0.94), (curve.y < low, "v", 0.06)):
            axes.plot(
                curve.x[beyond], np.full(beyond.sum(), edge), marker, color=styles[curve.name].colour, markersize=5,
                transform=axes.get_xaxis_transform(),
            )  # fmt: skip
    axes.set_ylim(low, high)
    axes.set_ylabel(f"ratio to\n{drawable(reference.name)}", loc="center", fontsize=10)
    axes.yaxis.set_major_locator(ticker.MaxNLocator(nbins=4, steps=(1, 2, 2.5, 5, 10)))
    axes.yaxis.set_minor_locator(ticker.AutoMinorLocator())


def _ratio_limits(centres: NDArray[np.float64]) -> tuple[float, float]:
    within = np.clip(centres, *_WIDEST_RATIO)
    low, high = float(within.min()), float(within.max())
    margin = max(0.15 * (high - low), 0.01)
    return max(low - margin, _WIDEST_RATIO[0]), min(high + margin, _WIDEST_RATIO[1])


def _draw_marks(axes: Axes, image: Image, styles: Mapping[str, Look]) -> None:
    # Open outlines of growing size: a seed on a true impact point must not hide it.
    for rank, label in enumerate(dict.fromkeys(label for _, _, label in image.marks)):
        positions = np.array([(x, y) for x, y, mark in image.marks if mark == label])
        look = styles[label]
        axes.plot(
            positions[:, 0], positions[:, 1], look.marker, color=look.colour, markerfacecolor="none", markeredgewidth=1.6,
            markersize=7 + 3.5 * rank, label=drawable(label), clip_on=False,
            path_effects=[withStroke(linewidth=3.2, foreground="white")],
        )  # fmt: skip


def _colour_scale(cells_XY: NDArray[np.float64], colour_range: tuple[float, float] | None) -> tuple[Normalize, str]:
    if colour_range:
        return LogNorm(*colour_range, clip=True), "YlGnBu"
    finite = cells_XY[np.isfinite(cells_XY)]
    positive = finite[finite > 0]
    if (finite < 0).any():
        largest = float(np.abs(finite).max())
        return Normalize(-largest, largest), "PuOr"
    if not positive.size:
        return Normalize(0, 1), "Blues"
    top, bottom = float(positive.max()), float(positive.min())
    if top / bottom > _LOG_IMAGE_FROM:
        return LogNorm(max(bottom, top / _DEEPEST_LOG), top), "YlGnBu"
    return Normalize(0, top), "YlGnBu"


def _set_limits(axes: Axes, plot: Plot, curves: list[Points]) -> None:
    all_x = np.concatenate([np.empty(0), *(curve.extent_x() for curve in curves)])
    all_y = np.concatenate([np.empty(0), *(curve.extent_y() for curve in curves)])
    if not all_x.size:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", va="center", color="0.45")
    only_bars = bool(curves) and all(curve.x_error is not None or curve.style == "line" for curve in curves)
    axes.set_xlim(_limits(all_x, plot.x_scale, plot.x_range, padding=0.0 if only_bars else 0.04))
    axes.set_ylim(_limits(all_y, plot.y_scale, plot.y_range, padding=0.06, from_zero=True))


def _limits(
    values: NDArray[np.float64], scale: str, fixed: tuple[float, float] | None, padding: float, *, from_zero: bool = False
) -> tuple[float, float]:
    """Return axis limits: the wished ones where the scale can show them, else the data's with `padding` of their span."""
    log = scale == "log"
    if fixed and np.isfinite(fixed).all() and fixed[0] != fixed[1] and not (log and min(fixed) <= 0):
        return fixed
    if log:
        values = values[values > 0]
    if not values.size:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(values.min()), float(values.max())
    if log:
        factor = (high / low) ** padding if high > low else 2.0
        return low / factor, high * factor
    if from_zero and 0 <= low < 0.6 * high:
        return 0.0, high * (1 + padding)
    margin = (high - low) * padding if high > low else max(abs(high), 1.0) * 0.5
    return low - margin, high + margin


def _set_ticks(axis: Axis) -> None:
    low, high = sorted(axis.get_view_interval())
    if axis.get_scale() != "log":
        axis.set_minor_locator(ticker.AutoMinorLocator())
        plain = ticker.ScalarFormatter(useOffset=False)
        plain.set_powerlimits((-3, 5))
        axis.set_major_formatter(plain)
        return
    if high / low < 30:  # one or two powers of ten alone would leave the axis without readable ticks
        axis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
    else:
        axis.set_major_locator(ticker.LogLocator(numticks=9))
    axis.set_minor_formatter(ticker.NullFormatter())
    if low >= 1e-3 and high <= 1e5:
        axis.set_major_formatter(ticker.FuncFormatter(lambda value, _: f"{value:,.6g}"))


def _finish(figure: Figure, axes: Axes, data_label: str) -> None:
    """Write the experiment label and fit the texts that are too long."""
    name = axes.set_title("caloedge", loc="left", fontweight="bold", fontsize=13)
    label = axes.set_title(drawable(data_label), loc="right", fontsize=11.5)
    width_px, height_px = figure.dpi * (figure.get_size_inches() - 1)  # about the length of the axes, not yet laid out
    canvas.fit(axes.yaxis.label, height_px, vertical=True)
    for panel in figure.axes:
        canvas.fit(panel.xaxis.label, width_px)
    figure.align_ylabels()
    figure.draw_without_rendering()
    for panel in figure.axes:
        for axis in (panel.xaxis, panel.yaxis):
            power = axis.get_offset_text().get_text()
            if power:  # a common power of ten stands with the label: above the axes it would run into the experiment's name
                axis.get_offset_text().set_visible(False)
                exponent = power.partition("e")[2].replace("\N{MINUS SIGN}", "-")
                axis.label.set_text(f"{axis.label.get_text()} $/\\,10^{{{exponent}}}$")
        canvas.fit(panel.xaxis.label, panel.bbox.width)
        canvas.fit(panel.yaxis.label, panel.bbox.height * (1 if panel is axes else 1.1), vertical=True)
    canvas.fit(label, axes.bbox.width - name.get_window_extent().width - 12)
