"""Distances between two samples: separations of histograms, Wasserstein distances, KPD, FPD and correlations, with errors.

KPD and FPD are those of Kansal et al. (arXiv 2211.10295). Their published implementation, jetnet, resamples with replacement,
which needs 50,000 showers in each sample; here every shower counts once, so that KPD is unbiased at any size and FPD, which is
not, can be compared at equal size. `published_kpd` and `published_fpd` are jetnet's own procedures.

Axes: N and M showers of two samples, F feature, B bin, R replica.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.metrics import bootstrap

DEGREE = 4
ROWS_PER_BLOCK = 1000
GROUPS = 5
"""Groups of showers that are left out in turn for the error of FPD."""
PUBLISHED_SHOWERS = 50_000
"""Showers in each sample below which FPD is not what published tables list, by its authors' own warning."""


@dataclass(frozen=True)
class Estimated:
    """A figure with half of its 68 % interval."""

    value: float
    uncertainty: float


def separation(counts_B: NDArray[Any], other_B: NDArray[Any]) -> NDArray[Any]:
    """Return ½ Σ (h − g)² / (h + g) of two histograms, each normalised to 1: 0 where they agree, 1 where they do not overlap.

    Leading axes are kept. What lies outside of the bins is lost, as in the CaloChallenge.

    >>> float(separation(np.array([1, 1]), np.array([2, 2]))), float(separation(np.array([1, 0]), np.array([0, 3])))
    (0.0, 1.0)
    """
    shares, other = (h / np.maximum(h.sum(axis=-1, keepdims=True), 1e-16) for h in (counts_B, other_B))
    return np.asarray(0.5 * ((shares - other) ** 2 / (shares + other + 1e-16)).sum(axis=-1))


def one_in_bin(values_N: NDArray[Any], edges: NDArray[Any]) -> NDArray[Any]:
    """Return (N, B) 1 in the bin of each value, as counted by `numpy.histogram`; a row of 0 outside."""
    bin_N = np.where(values_N == edges[-1], len(edges) - 2, np.searchsorted(edges, values_N, side="right") - 1)
    return np.asarray((bin_N[:, None] == np.arange(len(edges) - 1)).astype(np.float32))


def wasserstein(
    values_N: NDArray[Any], other_M: NDArray[Any], weights_RN: NDArray[Any], weights_RM: NDArray[Any]
) -> NDArray[Any]:
    """Return (R,) first Wasserstein distances ∫ |F − G| of two weighted samples.

    >>> one = np.ones((1, 2))
    >>> wasserstein(np.array([0.0, 1.0]), np.array([2.0, 5.0]), one, one)
    array([3.])
    """
    both = np.concatenate([values_N, other_M])
    order = np.argsort(both, kind="stable")
    shares = [weights / weights.sum(axis=1, keepdims=True) for weights in (weights_RN, weights_RM)]
    difference = np.concatenate([shares[0], -shares[1]], axis=1)[:, order].cumsum(axis=1)[:, :-1]
    return np.asarray(np.abs(difference) @ np.diff(both[order]))


def scaled(reference_NF: NDArray[Any], *others: NDArray[Any]) -> tuple[NDArray[Any], ...]:
    """Return all samples divided by the largest |value| of each feature in the reference, one that is 0 throughout by 1."""
    largest_F = np.abs(reference_NF).max(axis=0)
    largest_F[largest_F == 0] = 1
    return tuple(sample / largest_F for sample in (reference_NF, *others))


def kernel(x_NF: NDArray[Any], y_MF: NDArray[Any]) -> NDArray[Any]:
    """Return the kernel (x · y / F + 1)⁴ of all pairs."""
    return np.asarray((x_NF @ y_MF.T / x_NF.shape[1] + 1) ** DEGREE)


def mmd2(reference_NF: NDArray[Any], other_MF: NDArray[Any]) -> Estimated:
    """Return the unbiased squared maximum mean discrepancy of two scaled samples, which may be negative, with a jackknife error.

    The error is that of leaving out one shower at a time; where the samples agree it is too large, by √2 at most.
    """
    n, m = len(reference_NF), len(other_MF)
    within_N, across_N = _row_sums(reference_NF, other_MF)
    within_M, across_M = _row_sums(other_MF, reference_NF)
    sum_n, sum_m, sum_across = within_N.sum(), within_M.sum(), across_N.sum()
    value = sum_n / (n * (n - 1)) + sum_m / (m * (m - 1)) - 2 * sum_across / (n * m)
    without_N = (sum_n - 2 * within_N) / ((n - 1) * (n - 2)) + sum_m / (m * (m - 1))
    without_N = without_N - 2 * (sum_across - across_N) / ((n - 1) * m)
    without_M = (sum_m - 2 * within_M) / ((m - 1) * (m - 2)) + sum_n / (n * (n - 1))
    without_M = without_M - 2 * (sum_across - across_M) / (n * (m - 1))
    variance = sum((len(w) - 1) / len(w) * ((w - w.mean()) ** 2).sum() for w in (without_N, without_M))
    return Estimated(float(value), float(np.sqrt(variance)))


def _row_sums(x_NF: NDArray[Any], y_MF: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return for each x the sums of its kernels with all other x, and with all y."""
    within, across = [], []
    for first in range(0, len(x_NF), ROWS_PER_BLOCK):
        block = x_NF[first : first + ROWS_PER_BLOCK]
        itself = ((block**2).sum(axis=1) / x_NF.shape[1] + 1) ** DEGREE
        within.append(kernel(block, x_NF).sum(axis=1) - itself)
        across.append(kernel(block, y_MF).sum(axis=1))
    return np.concatenate(within), np.concatenate(across)


def kpd(reference_NF: NDArray[Any], other_MF: NDArray[Any]) -> Estimated:
    """Return the kernel physics distance of all showers: `mmd2` of the scaled features."""
    return mmd2(*scaled(reference_NF, other_MF))


def frechet(x_NF: NDArray[Any], y_MF: NDArray[Any]) -> float:
    """Return |μ − ν|² + Tr(A + B − 2 √(A B)) of the means and covariances of two samples.

    The trace of √(A B) is the sum of the singular values of √A √B, which needs no root of a matrix that is not symmetric.
    """
    mean = x_NF.mean(axis=0) - y_MF.mean(axis=0)
    a_FF, b_FF = (np.cov(sample, rowvar=False) for sample in (x_NF, y_MF))
    singular_F = np.linalg.svd(_root(a_FF) @ _root(b_FF), compute_uv=False)
    return float(mean @ mean + np.trace(a_FF) + np.trace(b_FF) - 2 * singular_F.sum())


def _root(symmetric_FF: NDArray[Any]) -> NDArray[Any]:
    values_F, vectors_FF = np.linalg.eigh(symmetric_FF)
    return np.asarray((vectors_FF * np.sqrt(np.clip(values_F, 0, None))) @ vectors_FF.T)


def fpd(reference_NF: NDArray[Any], other_NF: NDArray[Any]) -> Estimated:
    """Return the Fréchet physics distance of two samples of equal size, each shower once, with a jackknife error over groups.

    It is biased upwards, the more the fewer the showers: only figures at the same size can be compared.
    """
    assert len(reference_NF) == len(other_NF), "FPD of samples of different size compares nothing"
    x, y = scaled(reference_NF, other_NF)
    group_N = np.arange(len(x)) % GROUPS
    without = np.array([frechet(x[group_N != group], y[group_N != group]) for group in range(GROUPS)])
    return Estimated(frechet(x, y), float(np.sqrt((GROUPS - 1) / GROUPS * ((without - without.mean()) ** 2).sum())))


def published_kpd(
    reference_NF: NDArray[Any], other_MF: NDArray[Any], batches: int = 10, batch_size: int = 5000, seed: int = 42
) -> Estimated:
    """Return KPD as jetnet does: the median of batches drawn with replacement, half of their central 67.45 % as the error."""
    x, y = scaled(reference_NF, other_MF)
    values = []
    for batch in range(batches):
        generator = np.random.default_rng(seed + batch * 1000)
        rows, other_rows = generator.choice(len(x), size=batch_size), generator.choice(len(y), size=batch_size)
        values.append(mmd2(x[rows], y[other_rows]).value)
    low, high = np.percentile(values, (16.275, 83.725))
    return Estimated(float(np.median(values)), float((high - low) / 2))


def published_fpd(
    reference_NF: NDArray[Any],
    other_MF: NDArray[Any],
    fewest: int = 20_000,
    most: int = PUBLISHED_SHOWERS,
    batches: int = 20,
    sizes: int = 10,
    seed: int = 42,
) -> Estimated:
    """Return FPD as jetnet does: a straight line in 1 / size through means of batches drawn with replacement, at 1 / size = 0.

    Neither intercept nor slope may be negative. The error is that of the fit.
    """
    x, y = scaled(reference_NF, other_MF)
    batch_sizes = (1 / np.linspace(1 / fewest, 1 / most, sizes)).astype(np.int32)
    generator = np.random.default_rng(seed)
    means = []
    for size in batch_sizes:
        values = [frechet(x[generator.choice(len(x), size=size)], y[generator.choice(len(y), size=size)]) for _ in range(batches)]
        means.append(np.mean(values))
    return _line_at_zero(1 / batch_sizes, np.array(means))


def _line_at_zero(x: NDArray[Any], y: NDArray[Any]) -> Estimated:
    """Return the intercept ≥ 0 of a straight line with slope ≥ 0 of least squares, and its error without regard to the bounds."""
    design = np.stack([np.ones_like(x), x], axis=1)
    candidates = [np.linalg.lstsq(design, y)[0], np.array([y.mean(), 0.0]), np.array([0.0, (x @ y) / (x @ x)])]
    allowed = [np.maximum(terms, 0) for terms in candidates]
    best = min(allowed, key=lambda terms: float(((y - design @ terms) ** 2).sum()))
    residual = ((y - design @ best) ** 2).sum() / (len(x) - 2)
    return Estimated(float(best[0]), float(np.sqrt(residual * np.linalg.inv(design.T @ design)[0, 0])))


def correlations(values_NF: NDArray[Any], incident_mev_N: NDArray[Any], weights_N: NDArray[Any] | None = None) -> NDArray[Any]:
    """Return (F, F) correlation coefficients beyond those that follow from the incident energy: a parabola in its logarithm.

    A feature without spread correlates with nothing: 0.
    """
    weights_N = np.ones(len(values_NF)) if weights_N is None else weights_N
    root_N1 = np.sqrt(weights_N)[:, None]
    design = np.stack([np.log(incident_mev_N) ** power for power in range(3)], axis=1)
    residual = root_N1 * (values_NF - design @ np.linalg.lstsq(root_N1 * design, root_N1 * values_NF)[0])
    covariance = residual.T @ residual
    width_F = np.sqrt(np.diag(covariance))
    # What is left of a constant after the fit is rounding: no spread.
    flat_F = width_F <= 1e-6 * np.sqrt((root_N1**2 * values_NF**2).sum(axis=0)) + 1e-12
    width_F = np.where(flat_F, np.inf, width_F)
    return np.asarray(covariance / width_F[:, None] / width_F)


def correlation_difference(
    reference: tuple[NDArray[Any], NDArray[Any]], other: tuple[NDArray[Any], NDArray[Any]], replicas: int = 25
) -> Estimated:
    """Return the root mean square difference of all correlation coefficients of (features, incident energies) of two samples."""
    pairs = np.triu_indices(reference[0].shape[1], 1)

    def difference(weights: tuple[NDArray[Any], NDArray[Any]] | tuple[None, None]) -> float:
        first, second = (correlations(*sample, w)[pairs] for sample, w in zip((reference, other), weights, strict=True))
        return float(np.sqrt(((first - second) ** 2).mean()))

    weights = [bootstrap.bootstrap_weights(len(sample[0]), seed)[:replicas] for seed, sample in enumerate((reference, other), 1)]
    spread = bootstrap.spread(np.array([[difference(pair)] for pair in zip(*weights, strict=True)]))
    return Estimated(difference((None, None)), float(spread[0]))
