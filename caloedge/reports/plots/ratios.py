"""Series as arrays: their drawable points, outlines and ratios."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caloedge.results import Series

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """The drawable part of a series: arrays (N,), in ascending x unless it is a curve."""

    name: str
    style: str
    x: Array
    y: Array
    x_error: Array | None
    """Half bin widths (N,)."""
    y_errors: Array | None
    """Lengths (2, N), downwards and upwards."""

    def steps(self) -> Array:
        """Return the outline of a step histogram (M, 2), which goes down to zero at its ends and in its gaps."""
        left, right = self._edges()
        outline = []
        for i in range(self.x.size):
            if i == 0 or not np.isclose(left[i], right[i - 1]):
                outline += [(left[i], 0.0)]
            outline += [(left[i], self.y[i]), (right[i], self.y[i])]
            if i + 1 == self.x.size or not np.isclose(right[i], left[i + 1]):
                outline += [(right[i], 0.0)]
        return np.array(outline).reshape(-1, 2)

    def steps_of(self, bounds: Array) -> tuple[Array, Array, Array]:
        """Return x (2N,) and lower and upper bound (2N,) of a band given per point (2, N)."""
        if self.x_error is None:
            return self.x, bounds[0], bounds[1]
        left, right = self._edges()
        return np.column_stack((left, right)).ravel(), np.repeat(bounds[0], 2), np.repeat(bounds[1], 2)

    def outlines(self) -> list[Array]:
        """Return everything that is drawn, as polylines (M, 2)."""
        if not self.x.size:
            return []
        if self.style == "steps":
            lines = [self.steps()]
        elif self.style == "line":
            lines = [np.column_stack((self.x, self.y))]
        else:
            lines = [np.array([[x, y]]) for x, y in zip(self.x, self.y, strict=True)]
        if self.x_error is not None and self.style == "points":
            left, right = self._edges()
            lines += [np.array([[a, y], [b, y]]) for a, b, y in zip(left, right, self.y, strict=True)]
        if self.y_errors is not None:
            low, high = self.y - self.y_errors[0], self.y + self.y_errors[1]
            lines += [np.array([[x, a], [x, y], [x, b]]) for x, a, y, b in zip(self.x, low, self.y, high, strict=True)]
        return lines

    def extent_x(self) -> Array:
        """Return all x that the axes should show."""
        return self.x if self.x_error is None else np.concatenate(self._edges())

    def extent_y(self) -> Array:
        """Return all y that the axes should show."""
        reach = self.y if self.y_errors is None else np.concatenate((self.y - self.y_errors[0], self.y + self.y_errors[1]))
        return np.concatenate((reach, self.y, np.zeros(1) if self.style == "steps" and self.y.size else np.empty(0)))

    def _edges(self) -> tuple[Array, Array]:
        if self.x_error is not None:
            return self.x - self.x_error, self.x + self.x_error
        if self.x.size < 2:
            return self.x - 0.5, self.x + 0.5
        middles = (self.x[1:] + self.x[:-1]) / 2
        return (
            np.concatenate((2 * self.x[:1] - middles[:1], middles)),
            np.concatenate((middles, 2 * self.x[-1:] - middles[-1:])),
        )


def points(series: Series, x_scale: str = "linear", y_scale: str = "linear") -> Points:
    """Return the part of a series that the scales can show; errors that are not finite count as none."""
    x, y = np.array(series.x, dtype=np.float64), np.array(series.y, dtype=np.float64)
    keep = np.isfinite(x) & np.isfinite(y)
    keep &= (x > 0) | (x_scale == "linear")
    keep &= (y > 0) | (y_scale == "linear") | (series.style == "steps")
    order = np.flatnonzero(keep)
    if series.style != "line":
        order = order[np.argsort(x[order], kind="stable")]
    lengths = [_lengths(errors, order) for errors in (series.x_error, series.y_error_low, series.y_error_high)]
    y_errors = None
    if lengths[1] is not None or lengths[2] is not None:
        y_errors = np.stack([np.zeros(order.size) if errors is None else errors for errors in lengths[1:]])
    return Points(series.name, series.style, x[order], y[order], lengths[0], y_errors)


def ratio(curve: Points, reference: Points) -> Points:
    """Divide a curve by a reference where the reference is known and not zero.

    A reference curve is interpolated; points and steps are matched at the same x. The errors are the curve's own, divided
    by the reference: on the same events the two are correlated, and the reference's error is drawn as a band instead.
    """
    denominator = np.full(curve.x.size, np.nan)
    if reference.x.size and reference.style == "line":
        order = np.argsort(reference.x, kind="stable")
        denominator = np.interp(curve.x, reference.x[order], reference.y[order], left=np.nan, right=np.nan)
    elif reference.x.size:
        nearest = np.abs(curve.x[:, None] - reference.x).argmin(axis=1)
        same = np.isclose(curve.x, reference.x[nearest], rtol=1e-6, atol=0)
        denominator = np.where(same, reference.y[nearest], np.nan)
    keep = np.isfinite(denominator) & (denominator != 0)
    x, scale = curve.x[keep], denominator[keep]
    return Points(
        curve.name,
        "points" if curve.style == "steps" else curve.style,
        x,
        curve.y[keep] / scale,
        None if curve.x_error is None else curve.x_error[keep],
        None if curve.y_errors is None else curve.y_errors[:, keep] / np.abs(scale),
    )


def _lengths(errors: tuple[float, ...], order: NDArray[np.intp]) -> Array | None:
    if not errors:
        return None
    lengths = np.array(errors, dtype=np.float64)[order]
    return np.where(np.isfinite(lengths), np.abs(lengths), 0.0)
