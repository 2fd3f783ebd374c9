"""Widths and medians of photons' residuals in bins with bootstrap errors, and the fit of the energy resolution.

A width is half of the smallest interval that holds 68.27 % of the values: σ for a Gaussian, but blind to far tails.
Axes: E event, B bin, R replica, N value in ascending order, T term of the fit.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.metrics import bootstrap, claims
from caloedge.metrics.claims import ComparedFigure
from caloedge.results import Number, Series

CONTENT = 0.6827
"""Share of a Gaussian within ±σ."""

Statistic = Callable[[NDArray[Any]], float]
"""Function of values (N,) in ascending order."""


@dataclass(frozen=True)
class Estimate:
    """A statistic in bins; NaN where a bin has too few values."""

    value_B: NDArray[Any]
    """(B,) value of the statistic."""
    uncertainty_B: NDArray[Any]
    """(B,) half the central 68 % interval of the replicas."""
    count_B: NDArray[Any]
    """(B,) number of values in each bin."""
    replicas_RB: NDArray[Any]
    """(R, B) replicas with the same bootstrap weights for all methods, so that differences are paired."""


def median(ordered_N: NDArray[Any]) -> float:
    """Return the median of values in ascending order."""
    n = len(ordered_N)
    return float((ordered_N[(n - 1) // 2] + ordered_N[n // 2]) / 2)


def half_width(ordered_N: NDArray[Any]) -> float:
    """Return half of the smallest interval that holds 68.27 % of values in ascending order.

    >>> half_width(np.array([0.0, 10.0, 11.0, 12.0, 30.0]))  # four of five, since three would be 60 %
    6.0
    """
    inside = math.ceil(CONTENT * len(ordered_N))
    return float((ordered_N[inside - 1 :] - ordered_N[: len(ordered_N) - inside + 1]).min() / 2)


def relative_width(ordered_N: NDArray[Any]) -> float:
    """Return the half width divided by the median, NaN where that is not positive."""
    middle = median(ordered_N)
    return half_width(ordered_N) / middle if middle > 0 else float("nan")


def bin_of(values: NDArray[Any], edges: NDArray[Any]) -> NDArray[Any]:
    """Return the bin of each value, the last edge included; −1 or the number of bins outside, the latter for NaN, too."""
    return np.asarray(np.where(values == edges[-1], len(edges) - 2, np.digitize(values, edges) - 1))


def in_bins(values: NDArray[Any], bins: NDArray[Any], n_bins: int, weights_RE: NDArray[Any], statistic: Statistic) -> Estimate:
    """Return a statistic of the finite values (E, ...) in each bin; `bins` (E, ...) may lack trailing axes.

    A weight is how often an event is in a replica. Values are sorted once per bin; a replica repeats or drops them in place.
    """
    bins = np.broadcast_to(bins.reshape(bins.shape + (1,) * (values.ndim - bins.ndim)), values.shape)
    event = np.broadcast_to(np.arange(len(values)).reshape((-1,) + (1,) * (values.ndim - 1)), values.shape)
    value_B, count_B = np.full(n_bins, np.nan), np.zeros(n_bins, np.int64)
    replicas_RB = np.full((len(weights_RE), n_bins), np.nan)
    for b in range(n_bins):
        chosen = np.isfinite(values) & (bins == b)
        count_B[b] = chosen.sum()
        if count_B[b] < bootstrap.FEWEST:
            continue
        order_N = np.argsort(values[chosen], kind="stable")
        ordered_N = values[chosen][order_N]
        value_B[b] = statistic(ordered_N)
        weights_RN = weights_RE[:, event[chosen][order_N]].astype(np.int64)
        for replica in np.flatnonzero(weights_RN.sum(axis=1) >= bootstrap.FEWEST):
            replicas_RB[replica, b] = statistic(ordered_N.repeat(weights_RN[replica]))
    return Estimate(value_B, bootstrap.spread(replicas_RB), count_B, replicas_RB)


def tally(event_N: NDArray[Any], bin_N: NDArray[Any], n_events: int, n_bins: int) -> NDArray[Any]:
    """Count objects per event and bin, (E, B); bins outside 0 … B − 1 are dropped."""
    inside_N = (bin_N >= 0) & (bin_N < n_bins)
    return np.bincount(event_N[inside_N] * n_bins + bin_N[inside_N], minlength=n_events * n_bins).reshape(n_events, n_bins)


def share(
    passed: NDArray[Any], total: NDArray[Any], bins: NDArray[Any], n_bins: int, weights_RE: NDArray[Any]
) -> bootstrap.Ratio:
    """Return the share of what passed in each bin; `passed`, `total` and `bins` are (E,) or (E, 2)."""
    event = np.broadcast_to(np.arange(len(total)).reshape((-1,) + (1,) * (total.ndim - 1)), total.shape)
    total_EB, passed_EB = (tally(event[use], bins[use], len(total), n_bins) for use in (total, total & passed))
    return bootstrap.ratio(passed_EB, total_EB, weights_RE)


def compared(estimate: Estimate, reference: Estimate) -> ComparedFigure:
    """Return the ratio of two methods' estimates for claims."""
    return claims.ratio(estimate.value_B, estimate.replicas_RB, reference.value_B, reference.replicas_RB)


def ratio(estimate: Estimate, reference: Estimate) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the ratio (B,) of two methods' estimates and its paired bootstrap error (B,)."""
    return estimate.value_B / reference.value_B, bootstrap.spread(estimate.replicas_RB / reference.replicas_RB)


def number(estimate: Estimate, bin_: int, unit: str, scale: float, sample: str) -> Number:
    """Return one bin with its uncertainty, in a unit reached by `scale`; `sample` is what all methods were given."""
    return Number(
        value=scale * float(estimate.value_B[bin_]),
        unit=unit,
        origin="computed",
        uncertainty=scale * float(estimate.uncertainty_B[bin_]),
        sample=sample,
    )


def points(name: str, edges: NDArray[Any], estimate: Estimate, scale: float = 1.0) -> Series:
    """Turn an estimate into points at bin centres; bins without an estimate are left out."""
    bars = tuple(((edges[1:] - edges[:-1]) / 2)[np.isfinite(estimate.value_B)].tolist())
    return points_at(name, (edges[1:] + edges[:-1]) / 2, estimate, scale).model_copy(update={"x_error": bars})


def points_at(name: str, x_B: NDArray[Any], estimate: Estimate, scale: float = 1.0) -> Series:
    """Turn an estimate into points at given x (B,), without bars of the bins' width."""
    full = np.isfinite(estimate.value_B)
    error = tuple((scale * estimate.uncertainty_B[full]).tolist())
    y = tuple((scale * estimate.value_B[full]).tolist())
    return Series(name=name, x=tuple(x_B[full].tolist()), y=y, y_error_low=error, y_error_high=error)


@dataclass(frozen=True)
class Fit:
    """σ(E)/E = a/√E ⊕ b/E ⊕ c, E in GeV, added in quadrature; NaN where there were too few bins."""

    terms_T: NDArray[Any]
    """(3,) a in √GeV, b in GeV and c, none of them negative."""
    uncertainty_T: NDArray[Any]
    """(3,) standard deviations of the replicas' fits."""
    chi2: float
    ndf: int
    """Number of bins minus the three terms."""


def inverse_powers(energy_gev: NDArray[Any], bins: NDArray[Any], n_bins: int) -> NDArray[Any]:
    """Return the means (B, T) of 1/E, 1/E² and 1 in each bin: with them the fit knows how wide its bins are."""
    means_BT = np.full((n_bins, 3), np.nan)
    for b in range(n_bins):
        energy_N = energy_gev[bins == b]
        if len(energy_N):
            means_BT[b] = (1 / energy_N).mean(), (1 / energy_N**2).mean(), 1
    return means_BT


def fit(width: Estimate, inverse_BT: NDArray[Any]) -> Fit:
    """Fit relative widths in bins by weighted least squares of their squares, which are linear in a², b² and c².

    `inverse_BT` are the bins' `inverse_powers`. Bins without width or error are left out; three are needed.
    """
    variance_B, error_B = width.value_B**2, 2 * width.value_B * width.uncertainty_B
    use_B = np.isfinite(variance_B) & (error_B > 0) & np.isfinite(inverse_BT).all(axis=1)
    if use_B.sum() < 3:
        return Fit(np.full(3, np.nan), np.full(3, np.nan), float("nan"), 0)
    design_BT = inverse_BT[use_B] / error_B[use_B, None]
    target_B = variance_B[use_B] / error_B[use_B]
    replicas_RB = width.replicas_RB[:, use_B] ** 2 / error_B[use_B]
    replicas_RB = replicas_RB[np.isfinite(replicas_RB).all(axis=1)]
    squares_TR = non_negative_least_squares(design_BT, np.column_stack([target_B, replicas_RB.T]))
    chi2 = float(((target_B - design_BT @ squares_TR[:, 0]) ** 2).sum())
    terms_TR = np.sqrt(squares_TR)
    return Fit(terms_TR[:, 0], terms_TR[:, 1:].std(axis=1), chi2, int(use_B.sum()) - 3)


def non_negative_least_squares(design_BT: NDArray[Any], target_BR: NDArray[Any]) -> NDArray[Any]:
    """Return the terms (T, R), none negative, that leave the smallest sum of squares in each column of the target.

    With few terms every choice of those that are not zero can be tried, which is exact and does all columns at once.

    >>> non_negative_least_squares(np.array([[1.0, 1.0], [1.0, 2.0]]), np.array([[2.0], [1.0]])).ravel().round(6)
    array([1.5, 0. ])
    """
    n_terms = design_BT.shape[1]
    best_TR, smallest_R = np.zeros((n_terms, target_BR.shape[1])), (target_BR**2).sum(axis=0)
    for chosen in (list(subset) for n in range(1, n_terms + 1) for subset in combinations(range(n_terms), n)):
        terms = np.linalg.lstsq(design_BT[:, chosen], target_BR)[0]
        residual_R = ((target_BR - design_BT[:, chosen] @ terms) ** 2).sum(axis=0)
        better_R = (terms >= 0).all(axis=0) & (residual_R < smallest_R)
        smallest_R[better_R] = residual_R[better_R]
        best_TR[:, better_R] = 0
        best_TR[np.ix_(chosen, better_R)] = terms[:, better_R]
    return best_TR


def fit_line(name: str, fitted: Fit, low_gev: float, high_gev: float) -> Series:
    """Return the fitted resolution in percent as a line from one energy to another."""
    energy = np.geomspace(low_gev, high_gev, 60)
    a, b, c = fitted.terms_T
    y = 100 * np.sqrt(a**2 / energy + b**2 / energy**2 + c**2)
    return Series(name=name, x=tuple(energy.tolist()), y=tuple(y.tolist()), style="line")
