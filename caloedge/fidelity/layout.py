"""Where the cells of a geometry lie, in the terms of the CaloChallenge: layers of cells at (x, y) with a radius r.

A stack has its layers. A matrix of crystals has one layer only: there, square rings of crystals around the central one take the
place of layers, so that their energies are the lateral profile as those of layers are the longitudinal one.

Axes: C cell, L layer (or ring).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals.geometry import CrystalMatrix, Geometry, SamplingStack

CHALLENGE_SAMPLING_FRACTION = 0.033
"""By which the energies in CaloChallenge files are divided (evaluate.py): the share of a shower's energy that its sensors see."""
CHALLENGE_LIMITS_MM = (30.0, 30.0, 40.0, 20.0)
"""Ends of the CaloChallenge's histograms of dataset 2: |centre|, width in η and φ; those in r have no published ones."""


@dataclass(frozen=True)
class Layout:
    """The cells of a geometry as layers of points."""

    geometry: Geometry
    layer_C: NDArray[Any]
    """(C,) layer or ring of each cell."""
    x_mm_C: NDArray[Any]
    """(C,) position that a stack's cells have as η = r cos α in the CaloChallenge."""
    y_mm_C: NDArray[Any]
    """(C,) position, φ = r sin α."""
    r_mm_C: NDArray[Any]
    orbit_C: NDArray[Any]
    """(C,) number of the set of cells that rotations and mirrors of the detector turn into each other."""
    limits_mm_L4: NDArray[Any]
    """(L, 4) ends of the histograms of |centre|, width, centre in r and width in r."""
    word: str
    """`layer` or `ring`."""
    sampling_fraction: float
    """By which deposited energies are divided unless another number is asked for."""

    @property
    def n_layers(self) -> int:
        """Number of layers or rings."""
        return len(self.limits_mm_L4)

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.layer_C)

    @property
    def by_impact(self) -> bool:
        """Whether showers start at points that differ, which then belong to their features as the incident energy does."""
        return self.geometry.impact_half_width_mm > 0


def layout(geometry: Geometry) -> Layout:
    """Return the cells of a geometry as layers of points."""
    return _of_matrix(geometry) if isinstance(geometry, CrystalMatrix) else _of_stack(geometry)


def _of_stack(stack: SamplingStack) -> Layout:
    """Count azimuths from −π as in the CaloChallenge; ours start at 0, and no figure changes when all showers are turned."""
    n_layers, n_phi, n_r = stack.cell_shape
    layer, phi, ring = (index.ravel() for index in np.indices(stack.cell_shape))
    edges = np.asarray(stack.r_edges_mm)
    r_mm = ((edges[1:] + edges[:-1]) / 2)[ring]
    alpha = -np.pi + (phi + 0.5) * 2 * np.pi / n_phi
    return Layout(
        stack, layer, r_mm * np.cos(alpha), r_mm * np.sin(alpha), r_mm, layer * n_r + ring,
        np.tile(CHALLENGE_LIMITS_MM, (n_layers, 1)), "layer", CHALLENGE_SAMPLING_FRACTION,
    )  # fmt: skip


def _of_matrix(matrix: CrystalMatrix) -> Layout:
    column, row = (index.ravel() - matrix.cells_per_side // 2 for index in np.indices(matrix.cell_shape))
    ring = np.maximum(abs(column), abs(row))
    orbit = np.unique(np.sort(np.abs(np.stack([column, row], 1)), axis=1), axis=0, return_inverse=True)[1].ravel()
    reach_mm = (np.arange(ring.max() + 1) + 0.5) * matrix.cell_mm
    limits = np.stack([reach_mm, reach_mm, np.sqrt(2) * reach_mm, reach_mm / 2], axis=1)
    x_mm, y_mm = column * matrix.cell_mm, row * matrix.cell_mm
    return Layout(matrix, ring, x_mm, y_mm, np.hypot(x_mm, y_mm), orbit, limits, "ring", 1.0)
