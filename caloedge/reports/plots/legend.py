"""Placement of the legend: a corner without data, else room made above the data, else outside the axes."""

from itertools import pairwise
from typing import Literal, TypeAlias, get_args

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

Corner: TypeAlias = Literal[
    "upper right", "upper left", "lower right", "lower left", "center right", "center left", "upper center", "lower center"
]
_CORNERS: tuple[Corner, ...] = get_args(Corner)  # in order of preference
_CLEARANCE_PX = 7.0
_STEP_PX = 3.0
_MOST_HEADROOM = 0.45  # of the height of the axes; beyond that the data would be squeezed


def place_legend(figure: Figure, axes: Axes, obstacles: list[NDArray[np.float64]], *, may_extend: bool) -> None:
    """Add a legend that covers no data.

    `obstacles` are polylines (N, 2) in data coordinates, lone points being polylines of one point. With `may_extend` the
    upper limit of y may be raised to make room. The figure must have been laid out.
    """
    labels = axes.get_legend_handles_labels()[1]
    if not labels:
        return
    columns = (1, 2) if len(labels) > 2 else (1,)
    if _in_a_corner(axes, obstacles, columns):
        return
    if may_extend:
        limits = axes.get_ylim()
        for n_columns in reversed(columns):
            _raise_top(axes, _height_share(axes, n_columns))
            figure.draw_without_rendering()
            if _in_a_corner(axes, obstacles, (n_columns,)):
                return
            axes.set_ylim(limits)
    outside(figure, axes)


def outside(figure: Figure, axes: Axes) -> None:
    """Put the legend below the axes, in as many columns as fit, and grow the figure by its height."""
    handles, labels = axes.get_legend_handles_labels()
    if not labels:
        return
    for n_columns in range(min(4, len(labels)), 0, -1):
        legend = figure.legend(handles, labels, loc="outside lower center", ncols=n_columns, borderaxespad=0.2)
        extent = legend.get_window_extent()
        if extent.width <= 0.98 * figure.bbox.width or n_columns == 1:
            break
        legend.remove()
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + extent.height / figure.dpi)
    figure.draw_without_rendering()


def _in_a_corner(axes: Axes, obstacles: list[NDArray[np.float64]], columns: tuple[int, ...]) -> bool:
    points = _on_screen(axes, obstacles)
    for n_columns in columns:
        for corner in _CORNERS:
            legend = axes.legend(loc=corner, ncols=n_columns, borderaxespad=0.7)
            if _is_free(legend, axes, points):
                return True
            legend.remove()
    return False


def _is_free(legend: Legend, axes: Axes, points: NDArray[np.float64]) -> bool:
    box = legend.get_window_extent().padded(_CLEARANCE_PX)
    inside_axes = axes.bbox.padded(_CLEARANCE_PX)
    if box.width > inside_axes.width or box.height > inside_axes.height:
        return False
    return not _within(points, box).any()


def _within(points: NDArray[np.float64], box: Bbox) -> NDArray[np.bool_]:
    return np.asarray(((points > box.p0) & (points < box.p1)).all(axis=1))


def _on_screen(axes: Axes, obstacles: list[NDArray[np.float64]]) -> NDArray[np.float64]:
    """Return points (N, 2) in display pixels, close enough together along each polyline."""
    pieces = [np.empty((0, 2))]
    for obstacle in obstacles:
        with np.errstate(all="ignore"):
            line = axes.transData.transform(obstacle)
        line = line[np.isfinite(line).all(axis=1)]
        margin = axes.bbox.padded(50)
        line = np.clip(line, (margin.x0, margin.y0), (margin.x1, margin.y1))
        pieces.append(line)
        for start, end in pairwise(line):
            n_steps = int(np.hypot(*(end - start)) / _STEP_PX)
            if n_steps > 1:
                pieces.append(start + np.linspace(0, 1, n_steps + 1)[:, None] * (end - start))
    return np.concatenate(pieces)


def _height_share(axes: Axes, n_columns: int) -> float:
    legend = axes.legend(loc="upper right", ncols=n_columns, borderaxespad=0.7)
    share = (legend.get_window_extent().height + 3 * _CLEARANCE_PX) / axes.bbox.height
    legend.remove()
    return min(share, _MOST_HEADROOM)


def _raise_top(axes: Axes, share: float) -> None:
    bottom, top = axes.get_ylim()
    if axes.get_yscale() == "log":
        axes.set_ylim(bottom, bottom * (top / bottom) ** (1 / (1 - share)))
    else:
        axes.set_ylim(bottom, bottom + (top - bottom) / (1 - share))
