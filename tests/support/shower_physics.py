"""What photons do in a stack of tungsten and silicon, whoever simulated them; checks raise AssertionError with what they found.

Axes: N shower, L layer, P azimuth, R radius.
"""

from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHAPE = (45, 16, 9)
THRESHOLD_MEV = 5e-4
LAYER_X0 = 2 * (1.4 / 3.504 + 0.3 / 93.7)
"""Radiation lengths of a read-out layer: two of 1.4 mm tungsten and 0.3 mm silicon (Particle Data Group)."""


def check(energies_mev: NDArray[Any], cells_mev: NDArray[Any]) -> None:
    """Check showers (N, 6480) of photons of 1 to 100 GeV, at least 1,000 of them."""
    showers = cells_mev.reshape(-1, *SHAPE).astype(float)
    assert len(showers) >= 1000
    for one in (
        energies_are_deposits,
        response_is_linear,
        resolution_is_stochastic,
        depth_grows,
        azimuth_is_alike,
        core_is_dense,
    ):
        one(energies_mev, showers)


def energies_are_deposits(energies_mev: NDArray[Any], showers: NDArray[Any]) -> None:
    """No cell is negative or below the threshold; silicon sees a few percent of the energy."""
    filled = showers[showers != 0]
    assert filled.min() >= THRESHOLD_MEV * (1 - 2**-11), filled.min()
    share = showers.sum(axis=(1, 2, 3)) / energies_mev
    assert share.min() > 0.005, share.min()
    assert share.max() < 0.08, share.max()


def bins(energies_mev: NDArray[Any]) -> list[NDArray[Any]]:
    """Return rows of showers in four bins of log energy."""
    edges = np.geomspace(1e3, 1e5, 5)
    return [np.flatnonzero((energies_mev >= low) & (energies_mev <= high)) for low, high in pairwise(edges)]


def response_is_linear(energies_mev: NDArray[Any], showers: NDArray[Any]) -> None:
    """The visible share, 2.9 to 3.5 %, is the same within 5 % at all energies."""
    share = showers.sum(axis=(1, 2, 3)) / energies_mev
    medians = np.array([np.median(share[rows]) for rows in bins(energies_mev)])
    assert (np.abs(medians - 0.032) < 0.003).all(), medians
    assert medians.max() / medians.min() < 1.05, medians


def resolution_is_stochastic(energies_mev: NDArray[Any], showers: NDArray[Any]) -> None:
    """The relative width falls like 1/√E from bin to bin: by a factor of √√10 = 1.78, here 1.4 to 2.3."""
    share = showers.sum(axis=(1, 2, 3)) / energies_mev
    widths = np.array(
        [np.diff(np.quantile(share[rows], (0.16, 0.84)))[0] / 2 / np.median(share[rows]) for rows in bins(energies_mev)]
    )
    ratios = widths[:-1] / widths[1:]
    assert (ratios > 1.4).all(), widths
    assert (ratios < 2.3).all(), widths
    at_10_gev = np.sqrt(widths[1] * widths[2])
    assert 0.03 < at_10_gev < 0.10, widths


def depth_grows(energies_mev: NDArray[Any], showers: NDArray[Any]) -> None:
    """The mean depth grows by about one radiation length per factor e in energy."""
    layers = showers.sum(axis=(2, 3))
    depth = layers @ np.arange(SHAPE[0]) / layers.sum(axis=1)
    slope_x0 = np.polyfit(np.log(energies_mev), depth, 1)[0] * LAYER_X0
    assert 0.75 < slope_x0 < 1.15, slope_x0


def azimuth_is_alike(energies_mev: NDArray[Any], showers: NDArray[Any]) -> None:
    """No azimuth is preferred: χ² of the mean shares of energy is that of chance at 99.9 % confidence."""
    share = showers.sum(axis=(1, 3)) / showers.sum(axis=(1, 2, 3))[:, None]
    mean, error = share.mean(axis=0), share.std(axis=0) / np.sqrt(len(share))
    chi2 = float((((mean - 1 / SHAPE[1]) / error) ** 2).sum())
    assert chi2 < 40, chi2  # 37.7 at 15 degrees of freedom; shares are anticorrelated a little


def core_is_dense(energies_mev: NDArray[Any], showers: NDArray[Any]) -> None:
    """Energy per area falls with the radius, and most energy lies within 9.3 mm, one Molière radius of tungsten."""
    rings = showers.sum(axis=(0, 1, 2))
    density = rings / (2 * np.arange(SHAPE[2]) + 1)
    assert (np.diff(density) < 0).all(), density
    inside = rings[:2].sum() / rings.sum()
    assert 0.6 < inside < 0.95, inside
