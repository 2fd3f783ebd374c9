"""Expected energies of a cluster in crystals, and the functions that correct its fitted values.

The expectation is an amplitude times the mean lateral profile of showers, integrated over the crystal: a sum of terms that fall
off like sech² along x and y, so with exponential tails. Noise and zero suppression are those of `events.digitise`.
Lengths are in crystals, energies in GeV. Axes: S cluster, I and J crystal along x and y, M term of the profile.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals.events import CONSTANT, ELECTRONIC_GEV, READOUT_GEV, STOCHASTIC

BIAS_STEPS_PER_GEV = 1024


def profile(
    offset_2S: NDArray[Any], terms: tuple[tuple[float, float], ...], reach: int = 1
) -> tuple[tuple[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]:
    """Return for x and y the share (M, I, S) of each row of crystals and its derivative by the offset.

    Offsets are those of impact points from the centre of the crystal in the middle; `reach` rows follow on either side of
    it. `terms` are shares of the energy and widths; the shares are with x.
    """
    share_M, width_M = np.array(terms).T[:, :, None, None]
    edge_I = np.arange(2 * reach + 2)[:, None] - reach - 0.5
    along = []
    for offset_S, scale_M in zip(offset_2S, (share_M, 1.0), strict=True):
        # ½ tanh is the integral of sech², and its derivative is ¼ − (½ tanh)²
        below_MIS = 0.5 * np.tanh((edge_I - offset_S) / (2 * width_M))
        density_MIS = (0.25 - below_MIS**2) / width_M
        along.append((scale_M * (below_MIS[:, 1:] - below_MIS[:, :-1]), scale_M * (density_MIS[:, :-1] - density_MIS[:, 1:])))
    return along[0], along[1]


def product(x_MIS: NDArray[Any], y_MJS: NDArray[Any]) -> NDArray[Any]:
    """Return Σ over terms of x × y, (I, J, S)."""
    total = x_MIS[0, :, None] * y_MJS[0]
    for term in range(1, len(x_MIS)):
        total += x_MIS[term, :, None] * y_MJS[term]
    return np.asarray(total)


def noise_variance(expected: NDArray[Any]) -> NDArray[Any]:
    """Return the variance in GeV² of crystals of these energies, as `events.digitise` makes it."""
    return np.asarray(ELECTRONIC_GEV**2 + expected * (STOCHASTIC**2 + CONSTANT**2 * expected))


def _bias_table() -> NDArray[Any]:
    """Return by how much zero suppression raises the mean of crystals of 0, 1/1024, … 2 GeV."""
    expected = (np.arange(2 * BIAS_STEPS_PER_GEV + 1) + 0.5) / BIAS_STEPS_PER_GEV
    expected[-1] = np.inf
    node, weight = np.polynomial.legendre.leggauss(64)
    deviation = np.sqrt(noise_variance(expected[:-1]))
    # The mean of what is suppressed, −∫ y p(y) from −∞ to the threshold, with 8σ for ∞.
    low = expected[:-1] - 8 * deviation
    half = np.maximum(READOUT_GEV - low, 0) / 2
    value = low[:, None] + half[:, None] * (node + 1)
    density = np.exp(-0.5 * ((value - expected[:-1, None]) / deviation[:, None]) ** 2) / (np.sqrt(2 * np.pi) * deviation[:, None])
    return np.asarray(np.append(-(weight * value * density).sum(axis=1) * half, 0.0))


BIAS_GEV = _bias_table()


def bias(expected: NDArray[Any]) -> NDArray[Any]:
    """Return by how much zero suppression raises the mean of crystals of these energies, in GeV."""
    return np.asarray(BIAS_GEV[np.minimum(expected * BIAS_STEPS_PER_GEV, len(BIAS_GEV) - 1).astype(np.int32)])


def powers(energy_S: NDArray[Any]) -> NDArray[Any]:
    """Return powers 0 to 3 (S, 4) of ln(energy / 10 GeV), constant outside 0.5 to 150 GeV so that no polynomial runs away."""
    return np.vander(np.log(np.clip(energy_S, 0.5, 150) / 10), 4, increasing=True)


def offset_terms(offset_S: NDArray[Any]) -> NDArray[Any]:
    """Return u, sin 2πu, sin 4πu and sin 6πu (S, 4)."""
    sine_S, cosine_S = np.sin(2 * np.pi * offset_S), np.cos(2 * np.pi * offset_S)
    return np.stack([offset_S, sine_S, 2 * sine_S * cosine_S, sine_S * (3 - 4 * sine_S**2)], axis=1)


def response_terms(offset_2S: NDArray[Any]) -> NDArray[Any]:
    """Return 1, cos 2πu + cos 2πv and cos 2πu cos 2πv (S, 3)."""
    x_S, y_S = np.cos(2 * np.pi * offset_2S)
    return np.stack([np.ones_like(x_S), x_S + y_S, x_S * y_S], axis=1)
