"""High-level features of showers, as the CaloChallenge has them (HighLevelFeatures.py): 362 for 45 layers of 16 × 9 cells.

Axes: N shower, C cell, L layer (or ring), A those divided in azimuth, F feature.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.fidelity.layout import Layout
from caloedge.fidelity.showers import Showers

SHOWERS_PER_BLOCK = 500
SMALLEST_ENERGY, SMALLEST_LOGARITHM = 1e-16, 1e-8
"""In MeV: added to sums that are divided by, and to energies whose logarithm is taken."""


@dataclass(frozen=True)
class Features:
    """Features by kind, in MeV and mm."""

    incident_mev_N: NDArray[Any]
    impact_mm_NX: NDArray[Any]
    """(N, 2) impact points; (N, 0) in geometries without."""
    energy_mev_NL: NDArray[Any]
    x_mm_NA: NDArray[Any]
    """(N, A) centre of energy in x, η of a stack."""
    y_mm_NA: NDArray[Any]
    x_width_mm_NA: NDArray[Any]
    """(N, A) width √(Σ x² E / Σ E − centre²)."""
    y_width_mm_NA: NDArray[Any]
    sparsity_NL: NDArray[Any]
    """(N, L) share of empty cells."""
    r_mm_NL: NDArray[Any]
    r_width_mm_NL: NDArray[Any]

    @property
    def total_mev(self) -> NDArray[Any]:
        """(N,) energy in all cells."""
        return np.asarray(self.energy_mev_NL.sum(axis=1))

    @property
    def response(self) -> NDArray[Any]:
        """(N,) total over incident energy."""
        return np.asarray(self.total_mev / self.incident_mev_N)


def features(showers: Showers, cells: Layout) -> Features:
    """Return the features of all showers."""
    blocks = [showers.take(slice(i, i + SHOWERS_PER_BLOCK)) for i in range(0, len(showers), SHOWERS_PER_BLOCK)]
    columns = [np.concatenate(parts) for parts in zip(*(_moments(block, cells) for block in blocks), strict=True)]
    impact_mm = showers.impact_mm if cells.by_impact else np.empty((len(showers), 0))
    return Features(showers.energies_mev, impact_mm, *columns)


def _moments(showers: Showers, cells: Layout) -> tuple[NDArray[Any], ...]:
    order = np.argsort(cells.layer_C, kind="stable")
    starts = np.searchsorted(cells.layer_C[order], np.arange(cells.n_layers))
    energy_NC = showers.cells_mev[:, order].astype(np.float64)
    sizes_L = np.bincount(cells.layer_C)

    def summed(weight_C: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(np.add.reduceat(energy_NC * weight_C[order], starts, axis=1))

    energy_NL = np.add.reduceat(energy_NC, starts, axis=1)
    divisor_NL = energy_NL + SMALLEST_ENERGY

    def centre_and_width(place_C: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        centre_NL = summed(place_C) / divisor_NL
        return centre_NL, np.sqrt(np.clip(summed(place_C**2) / divisor_NL - centre_NL**2, 0, None))

    (x, x_width), (y, y_width), (r, r_width) = map(centre_and_width, (cells.x_mm_C, cells.y_mm_C, cells.r_mm_C))
    sparsity_NL = 1 - np.add.reduceat((energy_NC > 0).astype(np.int64), starts, axis=1) / sizes_L
    x, y, x_width, y_width = (values_NL[:, cells.azimuthal_L] for values_NL in (x, y, x_width, y_width))
    return energy_NL, x, y, x_width, y_width, sparsity_NL, r, r_width


def table(found: Features) -> NDArray[Any]:
    """Return (N, F) features in the order and the units in which the CaloChallenge gives them to classifiers, FPD and KPD."""
    return np.concatenate(
        [
            np.log10(found.incident_mev_N)[:, None],
            found.impact_mm_NX / 100,
            np.log10(found.energy_mev_NL + SMALLEST_LOGARITHM),
            found.x_mm_NA / 100,
            found.y_mm_NA / 100,
            found.x_width_mm_NA / 100,
            found.y_width_mm_NA / 100,
            np.log10(found.total_mev + SMALLEST_LOGARITHM)[:, None],
            found.sparsity_NL,
            found.r_mm_NL / 100,
            found.r_width_mm_NL / 100,
        ],
        axis=1,
    )


def n_features(cells: Layout) -> int:
    """Return the number of columns of `table`: 362 for the CaloChallenge's dataset 2."""
    return 2 + 4 * cells.n_layers + 4 * int(cells.azimuthal_L.sum()) + (2 if cells.by_impact else 0)
