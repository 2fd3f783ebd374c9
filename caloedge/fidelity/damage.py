"""Showers of the reference distorted by known amounts, and copies of training showers: rungs that tell what a figure means.

Axes: N shower, C cell.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.fidelity.layout import Layout
from caloedge.fidelity.showers import Showers

FROZEN_CHOICE = 10
"""A frozen shower is drawn from so many training showers of nearest energy."""

MEDIAN_OF = 41
"""Showers of neighbouring energy whose median response is the middle of the spread that is halved."""

Damage = Callable[[Showers, Layout, float, np.random.Generator], Showers]
"""Function of showers, layout, threshold in MeV and random numbers."""


def energies_by(factor: float) -> Damage:
    """Return the damage that multiplies every energy."""
    return lambda showers, _, lowest_mev, __: showers.with_cells(showers.cells_mev * factor, lowest_mev)


def smeared(showers: Showers, _cells: Layout, lowest_mev: float, generator: np.random.Generator) -> Showers:
    """Multiply each cell's energy by its own Gaussian number of 1 ± 0.1."""
    factors_NC = 1 + 0.1 * generator.standard_normal(showers.cells_mev.shape, np.float32)
    return showers.with_cells(showers.cells_mev * factors_NC, lowest_mev)


def dropped(showers: Showers, _cells: Layout, lowest_mev: float, generator: np.random.Generator) -> Showers:
    """Empty 2 % of the cells with energy, drawn at random."""
    kept_NC = generator.random(showers.cells_mev.shape, np.float32) >= 0.02
    return showers.with_cells(showers.cells_mev * kept_NC, lowest_mev)


def swapped(showers: Showers, cells: Layout, lowest_mev: float, _generator: np.random.Generator) -> Showers:
    """Exchange every second layer between showers of neighbouring energy: each layer stays right, the shower does not."""
    order = np.argsort(showers.energies_mev)
    pairs = order[: len(order) // 2 * 2].reshape(-1, 2)
    other = np.arange(len(order))
    other[pairs[:, 0]], other[pairs[:, 1]] = pairs[:, 1], pairs[:, 0]
    # Energies of neighbours differ a little: a layer is scaled to its new shower's.
    scale_N1 = (showers.energies_mev / showers.energies_mev[other])[:, None]
    moved_NC = showers.cells_mev[other] * scale_N1
    return showers.with_cells(np.where(cells.layer_C % 2 == 1, moved_NC, showers.cells_mev), lowest_mev)


def narrowed(showers: Showers, _cells: Layout, lowest_mev: float, _generator: np.random.Generator) -> Showers:
    """Halve the distance of each shower's response from the median of its neighbours in incident energy."""
    response_N = showers.cells_mev.sum(axis=1, dtype=np.float64) / showers.energies_mev
    order = np.argsort(showers.energies_mev)
    # A fitted mean would follow the tails of leaking showers instead of the many that do not leak.
    around = np.pad(response_N[order], MEDIAN_OF // 2, mode="reflect")
    middle_N = np.empty(len(order))
    middle_N[order] = np.median(np.lib.stride_tricks.sliding_window_view(around, MEDIAN_OF), axis=1)
    factor_N = (middle_N + (response_N - middle_N) / 2) / np.maximum(response_N, 1e-16)
    return showers.with_cells(showers.cells_mev * factor_N[:, None], lowest_mev)


LADDER: dict[str, Damage] = {
    "energies +1 %": energies_by(1.01),
    "energies +3 %": energies_by(1.03),
    "cells smeared 10 %": smeared,
    "2 % of hits dropped": dropped,
    "layers swapped": swapped,
    "spread of total halved": narrowed,
}
"""Damages by name, as the page lists them."""


def frozen(
    training: Showers, energies_mev: NDArray[Any], cells: Layout, lowest_mev: float, generator: np.random.Generator
) -> Showers:
    """Return a shower library as experiments use it: training showers of nearby energy, turned, mirrored and scaled at random."""
    order = np.argsort(training.energies_mev)
    place_N = np.searchsorted(training.energies_mev[order], energies_mev)
    first_N = np.clip(place_N - FROZEN_CHOICE // 2, 0, max(0, len(order) - FROZEN_CHOICE))
    row_N = order[first_N + generator.integers(min(FROZEN_CHOICE, len(order)), size=len(energies_mev))]
    chosen = training.take(row_N)
    turned, impact_mm = turned_at_random(chosen.cells_mev, chosen.impact_mm, cells, generator)
    scale_N1 = (energies_mev / chosen.energies_mev)[:, None]
    copies = Showers(energies_mev, impact_mm, turned)
    return copies.with_cells(copies.cells_mev * scale_N1, lowest_mev)


def turned_at_random(
    cells_mev: NDArray[Any], impact_mm: NDArray[Any], cells: Layout, generator: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return showers (N, C) each in one of the detector's orientations, with their impact points (N, 2)."""
    which_N = generator.integers(len(cells.orientations_OC), size=len(cells_mev))
    turned = np.empty_like(cells_mev)
    for number, from_C in enumerate(cells.orientations_OC):
        turned[which_N == number] = cells_mev[which_N == number][:, from_C]
    return turned, np.einsum("nij,nj->ni", cells.impact_O22[which_N], impact_mm)
