"""Efficiencies, rates and ROC curves with bootstrap uncertainties; what is resampled are the showers behind the events.

Windows of one event share noise and showers, and composed events share showers, so resampling windows or events alone
would make errors too small.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.results import Number, Series

REPLICAS = 200
FEWEST = 30
"""Fewest values or trials of a bin with an estimate: the bootstrap of fewer is too sure."""
NONE_SEEN = 1.139
"""Upper limit on counts at 68 % confidence where none was seen: −ln(1 − 0.68)."""


@dataclass(frozen=True)
class Ratio:
    """Passed over total in bins, with the central 68 % interval of its bootstrap distribution as lengths."""

    value: NDArray[Any]
    low: NDArray[Any]
    high: NDArray[Any]
    total: NDArray[Any]
    """(bins,) unweighted denominators."""
    replicas: NDArray[Any]
    """(R, bins): the bootstrap replicas, for paired differences."""

    @property
    def uncertainty(self) -> NDArray[Any]:
        """Half the 68 % interval."""
        return np.asarray((self.low + self.high) / 2)


def bootstrap_weights(n_events: int, seed: int) -> NDArray[Any]:
    """Return (R, E) Poisson(1) weights; use one set for all methods so that their differences are paired."""
    return np.random.default_rng(seed).poisson(1.0, (REPLICAS, n_events)).astype(np.float32)


def shared_bootstrap_weights(unit_EP: NDArray[Any], seed: int) -> NDArray[Any]:
    """Return (R, E) weights of events composed of units that other events contain too: each unit gets a Poisson(1) weight.

    `unit_EP` numbers the units of each event, −1 for none; an event weighs the product of its units. This is the
    pigeonhole bootstrap (Owen, Ann. Appl. Stat. 1 (2007) 386), which errs on the large side for events of two units.
    """
    units, number_EP = np.unique(unit_EP, return_inverse=True)
    weights_RU = np.random.default_rng(seed).poisson(1.0, (REPLICAS, len(units))).astype(np.float32)
    weights_RU[:, units < 0] = 1
    columns = number_EP.reshape(unit_EP.shape).T
    return np.asarray(np.prod([weights_RU[:, column_E] for column_E in columns], axis=0))


def ratio(passed_EB: NDArray[Any], total_EB: NDArray[Any], weights_RE: NDArray[Any], *, binomial: bool = True) -> Ratio:
    """Return sum(passed) / sum(total) per bin B; `binomial` says that passed counts a subset of total.

    Where every or no trial passed the bootstrap has no spread; the 68 % Wilson interval stands in for it, and where nothing was
    counted the 68 % upper limit of a Poisson rate.
    """
    passed, total = passed_EB.sum(axis=0, dtype=float), total_EB.sum(axis=0, dtype=float)
    with np.errstate(invalid="ignore", divide="ignore"):
        value = passed / total
        replicas = (weights_RE @ passed_EB.astype(np.float32)) / (weights_RE @ total_EB.astype(np.float32))
    replicas = np.where(np.isfinite(replicas), replicas, value)
    low, high = (np.abs(np.quantile(replicas, q, axis=0) - value) for q in (0.16, 0.84))
    if binomial:
        certain = (passed == 0) | (passed == total)
        centre, half = wilson(passed, total)
        low = np.where(certain, np.maximum(value - centre + half, 0), low)
        high = np.where(certain, np.maximum(centre + half - value, 0), high)
    elif np.issubdtype(passed_EB.dtype, np.integer):
        high = np.where((passed == 0) & (total > 0), NONE_SEEN / np.maximum(total, 1), high)
    return Ratio(value, low, high, total, replicas)


def percent(ratio: Ratio, bin_: int, counted: str) -> Number:
    """Return one bin of a ratio in percent with its uncertainty; `counted` names the denominator, e.g. "photons"."""
    return Number(
        value=100 * float(ratio.value[bin_]),
        unit="%",
        origin="computed",
        uncertainty=100 * float(ratio.uncertainty[bin_]),
        sample=f"{int(ratio.total[bin_]):,} {counted}",
    )


def points(name: str, edges: NDArray[Any], ratio: Ratio, scale: float = 1.0) -> Series:
    """Turn a ratio into points at bin centres; empty bins are left out."""
    full = ratio.total > 0
    centre, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    return Series(
        name=name,
        x=tuple(centre[full].tolist()),
        x_error=tuple(half[full].tolist()),
        y=tuple((scale * ratio.value[full]).tolist()),
        y_error_low=tuple((scale * ratio.low[full]).tolist()),
        y_error_high=tuple((scale * ratio.high[full]).tolist()),
    )


def none_of(trials: NDArray[Any], confidence: float) -> NDArray[Any]:
    """Return the upper limit on a share of which nothing was seen in so many trials (Clopper and Pearson; about 3 / n at 95 %).

    >>> none_of(np.array([1, 100]), 0.95).round(4)
    array([0.95  , 0.0295])
    """
    return np.asarray(1 - (1 - confidence) ** (1 / np.maximum(trials, 1)))


def spread(replicas_RB: NDArray[Any]) -> NDArray[Any]:
    """Return half the central 68 % interval of the finite replicas in each bin, NaN where there is none."""
    result_B = np.full(replicas_RB.shape[1], np.nan)
    for b, replicas_R in enumerate(replicas_RB.T):
        finite_R = replicas_R[np.isfinite(replicas_R)]
        if len(finite_R):
            low, high = np.quantile(finite_R, [0.16, 0.84])
            result_B[b] = (high - low) / 2
    return result_B


def wilson(passed: NDArray[Any], total: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return centre and half width of the 68 % Wilson interval (Wilson, JASA 22 (1927) 209).

    >>> centre, half = wilson(np.array([0.0]), np.array([100.0]))
    >>> float((centre + half).round(4)[0])
    0.0099
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        p = passed / total
        scale = 1 / (1 + 1 / total)
        half = scale * np.sqrt(p * (1 - p) / total + 1 / (4 * total**2))
        return scale * (p + 1 / (2 * total)), half


def threshold_at_rate(scores_of_false: NDArray[Any], n_events: int, rate: float) -> float:
    """Return the lowest threshold t such that at most `rate` false windows per event have score >= t.

    >>> threshold_at_rate(np.array([1.0, 5.0, 3.0, 3.0]), n_events=2, rate=0.5)
    5.0
    """
    allowed = int(np.floor(rate * n_events + 1e-9))
    ordered = np.sort(scores_of_false)[::-1]
    if allowed >= len(ordered):
        return float(ordered[-1]) if len(ordered) else -np.inf
    first_refused = ordered[allowed]
    accepted = ordered[ordered > first_refused]
    return float(accepted[-1]) if len(accepted) else float(np.nextafter(first_refused, np.inf))


def threshold_at_efficiency(scores_of_true: NDArray[Any], efficiency: float) -> float:
    """Return the highest threshold t such that at least the share `efficiency` of the true ones has score >= t.

    >>> threshold_at_efficiency(np.array([1.0, 5.0, 3.0, 4.0]), efficiency=0.75)
    3.0
    """
    if not len(scores_of_true):
        return -np.inf
    n_required = int(np.ceil(efficiency * len(scores_of_true) - 1e-9))
    return float(np.sort(scores_of_true)[::-1][max(n_required, 1) - 1])


def auc(scores: NDArray[Any], labels: NDArray[Any]) -> float:
    """Return the probability that a true window scores higher than a false one, ties counted half; NaN without both kinds.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1]))
    0.75
    """
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[inverse]
    true = labels.astype(bool)
    n_true, n_false = int(true.sum()), int((~true).sum())
    if not n_true or not n_false:
        return float("nan")
    return float((ranks[true].sum() - n_true * (n_true + 1) / 2) / (n_true * n_false))


def auc_uncertainty(
    scores: NDArray[Any], labels: NDArray[Any], event: NDArray[Any], weights_RE: NDArray[Any], replicas: int = 50
) -> float:
    """Return the bootstrap standard deviation of `auc` for the first `replicas` of the event weights."""
    order = np.argsort(scores, kind="stable")
    ties = np.concatenate([[True], np.diff(scores[order]) != 0])
    group = np.cumsum(ties) - 1
    values = []
    for weights_E in weights_RE[:replicas]:
        weight = weights_E[event][order]
        true = np.bincount(group, weight * labels[order])
        false = np.bincount(group, weight * (1 - labels[order]))
        below = np.cumsum(false) - false
        if true.any() and false.any():
            values.append((true * (below + false / 2)).sum() / (true.sum() * false.sum()))
    return float(np.std(values)) if values else float("nan")
