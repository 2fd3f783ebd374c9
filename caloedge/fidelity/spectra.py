"""The CaloChallenge's histograms of high-level features and of cells, and the separations of two samples in them.

Axes: N shower, K histogram (of a layer and direction), B bin, R replica.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals.geometry import CrystalMatrix
from caloedge.fidelity.distances import one_in_bin, separation
from caloedge.fidelity.features import Features
from caloedge.fidelity.layout import Layout
from caloedge.fidelity.showers import Showers
from caloedge.metrics import bootstrap

REPLICAS = 50
TOTAL, LAYERS, CENTRES, WIDTHS, RADII, SPARSITY, CELLS = (
    "total energy", "layer energies", "centres", "widths", "radii", "sparsity", "cell energies",
)  # fmt: skip
FAMILIES = (TOTAL, LAYERS, CENTRES, WIDTHS, RADII, SPARSITY, CELLS)


@dataclass(frozen=True)
class Separations:
    """Separations of all histograms of one family."""

    value_K: NDArray[Any]
    replicas_RK: NDArray[Any]

    @property
    def mean(self) -> float:
        """Mean of all histograms."""
        return float(self.value_K.mean())

    @property
    def uncertainty(self) -> float:
        """Error of the mean."""
        return float(bootstrap.spread(self.replicas_RK.mean(axis=1, keepdims=True))[0])


@dataclass(frozen=True)
class Binning:
    """Edges of all histograms, which the reference alone decides."""

    edges: dict[str, list[NDArray[Any]]]
    """By family, (K,) arrays of edges."""

    @classmethod
    def of(cls, measure: Features, showers: Showers, cells: Layout, lowest_mev: float) -> "Binning":
        """Return the CaloChallenge's bins: those of energies begin at the threshold and end at the reference's maximum."""

        def energies(largest_mev: float, n_bins: int) -> NDArray[Any]:
            # A layer that is empty in the reference still needs a bin.
            return np.geomspace(lowest_mev, max(largest_mev, 2 * lowest_mev), n_bins + 1)

        response = measure.response
        # The response of crystals is so narrow that it would lie in three of the published bins.
        ends = (float(response.min()), float(response.max())) if isinstance(cells.geometry, CrystalMatrix) else (0.5, 1.5)
        centre, width, r, r_width = cells.limits_mm_L4.T
        return cls(
            {
                TOTAL: [np.linspace(*ends, 101)],
                LAYERS: [energies(largest, 39) for largest in measure.energy_mev_NL.max(axis=0)],
                CENTRES: 2 * [np.linspace(-end, end, 101) for end in centre[cells.azimuthal_L]],
                WIDTHS: 2 * [np.linspace(0, end, 101) for end in width[cells.azimuthal_L]],
                RADII: [np.linspace(0, end, 101) for end in (*r, *r_width)],
                SPARSITY: cells.n_layers * [np.linspace(0, 1, 21)],
                CELLS: [energies(float(showers.cells_mev.max()), 49)],
            }
        )


@dataclass(frozen=True)
class Histograms:
    """Replicas of all histograms of one sample, by family; the first replica is the sample itself."""

    counts: dict[str, list[NDArray[Any]]]
    """By family, (K,) arrays (1 + R, B)."""


def columns(found: Features) -> dict[str, NDArray[Any]]:
    """Return the values (N, K) of each family, cells excepted; centres and widths need layers divided in azimuth."""
    families = {
        TOTAL: found.response[:, None],
        LAYERS: found.energy_mev_NL,
        CENTRES: np.concatenate([found.x_mm_NA, found.y_mm_NA], axis=1),
        WIDTHS: np.concatenate([found.x_width_mm_NA, found.y_width_mm_NA], axis=1),
        RADII: np.concatenate([found.r_mm_NL, found.r_width_mm_NL], axis=1),
        SPARSITY: found.sparsity_NL,
    }
    return {family: values for family, values in families.items() if values.shape[1]}


def histograms(found: Features, showers: Showers, binning: Binning, seed: int) -> Histograms:
    """Count all values; what is resampled are showers."""
    resampled = bootstrap.bootstrap_weights(len(showers), seed)[:REPLICAS]
    weights_RN = np.concatenate([np.ones((1, len(showers)), np.float32), resampled])
    counts = {
        family: [weights_RN @ one_in_bin(value_N, edges) for value_N, edges in zip(values.T, binning.edges[family], strict=True)]
        for family, values in columns(found).items()
    }
    (edges,) = binning.edges[CELLS]
    return Histograms(counts | {CELLS: [weights_RN @ cells_in_bins(showers, edges)]})


def cells_in_bins(showers: Showers, edges: NDArray[Any]) -> NDArray[Any]:
    """Return (N, B) how many cells of each shower lie in each bin."""
    row, column = np.nonzero(showers.cells_mev)
    energy = showers.cells_mev[row, column].astype(np.float64)
    n_bins = len(edges) - 1
    number = np.where(energy == edges[-1], n_bins - 1, np.searchsorted(edges, energy, side="right") - 1)
    inside = (number >= 0) & (number < n_bins)
    counts = np.bincount(row[inside] * n_bins + number[inside], minlength=len(showers) * n_bins)
    return counts.reshape(len(showers), n_bins).astype(np.float32)


def separations(measure: Histograms, other: Histograms) -> dict[str, Separations]:
    """Return the separations of all histograms by family, with bootstrap replicas."""
    result = {}
    for family, measured in measure.counts.items():
        values_RK = np.stack([separation(a, b) for a, b in zip(measured, other.counts[family], strict=True)], axis=1)
        result[family] = Separations(values_RK[0], values_RK[1:])
    return result
