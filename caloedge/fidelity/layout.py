"""Where the cells of a geometry lie, in the terms of the CaloChallenge: layers of cells at (x, y) with a radius r.

A stack has its layers. A matrix of crystals has one layer only: there, square rings of crystals around the central one take the
place of layers, so that their energies are the lateral profile as those of layers are the longitudinal one.

Axes: C cell, L layer (or ring), A layer (or ring) that is divided in azimuth, O orientation.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals.challenge import SAMPLING_FRACTION
from caloedge.detector.crystals.geometry import CrystalMatrix, Geometry, SamplingStack, VoxelStack, voxels

CHALLENGE_LIMITS_MM = (30.0, 30.0, 40.0, 20.0)
"""Ends of the CaloChallenge's histograms of dataset 2: |centre|, width in η and φ; those in r have no published ones."""
CHALLENGE_RADIUS_MM = 41.85
"""Outer radius of dataset 2: other layers have ends in proportion to theirs."""


BLOCKS = 9
"""In which layers are merged for figures that need few features: 74 for 45 layers."""


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
    azimuthal_L: NDArray[Any]
    """(L,) whether a layer is divided in azimuth; without, it has no centre and width in x and y."""
    orientations_OC: NDArray[Any]
    """(O, C) rotations and mirrors of the detector: where the cells of a turned shower are taken from."""
    impact_O22: NDArray[Any]
    """(O, 2, 2) what the same rotations and mirrors do to impact points."""
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

    @cached_property
    def orbits(self) -> NDArray[Any]:
        """(C,) number, by cell, of the set of cells that the orientations turn into each other."""
        return np.unique(self.orientations_OC.min(axis=0), return_inverse=True)[1].ravel()

    @cached_property
    def merged(self) -> "Layout":
        """The same cells in `BLOCKS` blocks of neighbouring layers, where there are more layers."""
        if self.n_layers <= BLOCKS:
            return self
        block_L = np.arange(self.n_layers) * BLOCKS // self.n_layers
        first = np.searchsorted(block_L, np.arange(BLOCKS))
        limits = np.maximum.reduceat(self.limits_mm_L4, first, axis=0)
        azimuthal = np.logical_and.reduceat(self.azimuthal_L, first)
        return replace(self, layer_C=block_L[self.layer_C], limits_mm_L4=limits, azimuthal_L=azimuthal, word="block")

    @property
    def by_impact(self) -> bool:
        """Whether showers start at points that differ, which then belong to their features as the incident energy does."""
        return self.geometry.impact_half_width_mm > 0


def layout(geometry: Geometry) -> Layout:
    """Return the cells of a geometry as layers of points."""
    return _of_matrix(geometry) if isinstance(geometry, CrystalMatrix) else _of_stack(geometry)


def _of_stack(stack: SamplingStack | VoxelStack) -> Layout:
    """Count azimuths from −π as in the CaloChallenge; ours start at 0, and no figure changes when all showers are turned."""
    layers = voxels(stack)
    turns = math.gcd(*(layer.n_phi for layer in layers if layer.n_phi > 1)) or 1
    columns: list[tuple[NDArray[Any], ...]] = []
    orientations: list[NDArray[Any]] = []
    first = 0
    for number, layer in enumerate(layers):
        edges = np.asarray(layer.r_edges_mm)
        index = first + np.arange(layer.n_cells).reshape(layer.n_phi, -1)
        phi, ring = (place.ravel() for place in np.indices(index.shape))
        r_mm, alpha = ((edges[1:] + edges[:-1]) / 2)[ring], -np.pi + (phi + 0.5) * 2 * np.pi / layer.n_phi
        columns.append((np.full(layer.n_cells, number), r_mm * np.cos(alpha), r_mm * np.sin(alpha), r_mm))
        shifts = [turn * layer.n_phi // turns if layer.n_phi > 1 else 0 for turn in range(turns)]
        turned = [np.roll(kept, shift, axis=0).ravel() for kept in (index, index[::-1]) for shift in shifts]
        orientations.append(np.stack(turned))
        first += layer.n_cells
    layer_C, x_mm, y_mm, r_mm = (np.concatenate(parts) for parts in zip(*columns, strict=True))
    outer_mm = np.array([layer.r_edges_mm[-1] for layer in layers])
    azimuthal_L = np.array([layer.n_phi > 1 for layer in layers])
    return Layout(
        stack, layer_C, x_mm, y_mm, r_mm, azimuthal_L, np.concatenate(orientations, axis=1),
        np.tile(np.eye(2), (2 * turns, 1, 1)), np.multiply.outer(outer_mm / CHALLENGE_RADIUS_MM, CHALLENGE_LIMITS_MM),
        "layer", SAMPLING_FRACTION,
    )  # fmt: skip


def _of_matrix(matrix: CrystalMatrix) -> Layout:
    column, row = (index.ravel() - matrix.cells_per_side // 2 for index in np.indices(matrix.cell_shape))
    ring = np.maximum(abs(column), abs(row))
    index = np.arange(len(ring)).reshape(matrix.cell_shape)
    orientations = np.stack([np.rot90(kept, turns).ravel() for kept in (index, index[:, ::-1]) for turns in range(4)])
    quarter = np.array([[0, -1], [1, 0]])  # rot90 takes (x, y) to (−y, x), and the mirror (x, y) to (x, −y)
    impact = [np.linalg.matrix_power(quarter, turns) @ mirror for mirror in (np.eye(2), np.diag([1, -1])) for turns in range(4)]
    reach_mm = (np.arange(ring.max() + 1) + 0.5) * matrix.cell_mm
    limits = np.stack([reach_mm, reach_mm, np.sqrt(2) * reach_mm, reach_mm / 2], axis=1)
    x_mm, y_mm = column * matrix.cell_mm, row * matrix.cell_mm
    return Layout(
        matrix, ring, x_mm, y_mm, np.hypot(x_mm, y_mm), np.ones(len(limits), bool), orientations, np.stack(impact), limits,
        "ring", 1.0,
    )  # fmt: skip
