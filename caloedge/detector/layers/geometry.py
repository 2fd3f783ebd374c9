"""A calorimeter of three ECAL and three HCAL layers: what it is made of, its depths and its cells.

The geometry is that of arXiv 2003.08863 (EPJ C 81 (2021) 107), read from its authors' public Geant4 model; cells are those of
their images. `layers.showers` says what particles leave in it, `layers.events` which particles there are.

Lengths are in mm from the centre of the face; x is along η, y along φ, z along the depth. Energies are in GeV at the scale of
electrons. Axes: E event, L layer, H row in φ, W column in η.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

SIDE_MM = 16 * 144.0
"""Side of the square face in mm: 16 × 16 units of 0.1 in η and φ, at 144 mm each."""
GUN_DISTANCE_MM = 1500.0
"""Distance from the start of the pions to the face in mm."""
PIXELS = 64
"""Pixels per side of the finest layer."""


@dataclass(frozen=True)
class SamplingMedium:
    """The average of absorber and sensor."""

    name: str
    radiation_length_mm: float
    interaction_length_mm: float
    moliere_mm: float
    critical_gev: float
    effective_z: float
    """Mean atomic number, weighted by mass."""
    mip_gev_per_mm: float
    sampling: float
    """Sampling term in GeV^½: σ/E of electrons is this over √E."""
    hadron_response: float
    """h/e, the share of energy that is seen where it is not electromagnetic."""


# Lengths of the materials are those of the published model, mixed by thickness: 1.5 mm Pb and 4.5 mm LAr, 5 mm Fe and 1 mm
# scintillator; Molière radii, critical energies and ionisation are PDG's for the same mixtures. e/h: hep-ex/0005029.
ECAL = SamplingMedium("Pb/LAr", 20.0, 446.0, 42.0, 0.0102, 64.8, 0.476e-3, 0.069, 1 / 1.74)
HCAL = SamplingMedium("Fe/scintillator", 20.9, 194.0, 19.9, 0.0223, 25.5, 0.986e-3, 0.40, 1 / 1.36)


@dataclass(frozen=True)
class CalorimeterLayer:
    """One layer of cells that are read out together in depth."""

    name: str
    medium: SamplingMedium
    depth_mm: float
    phi_cells: int
    eta_cells: int

    @property
    def shape(self) -> tuple[int, int]:
        """Number of cells in φ and η."""
        return self.phi_cells, self.eta_cells

    @property
    def pixels(self) -> tuple[int, int]:
        """Number of pixels of the common grid that one cell covers in φ and η."""
        return PIXELS // self.phi_cells, PIXELS // self.eta_cells


# Depths 6, 16, 3 radiation lengths and 1.5, 4.1, 1.8 interaction lengths. Cells are those of the published images, and sources
# differ on two layers: the model has ECAL 1 in strips of 0.025/8 × 0.1 and ECAL 3 in 0.1 × 0.1 (η × φ).
LAYERS = (
    CalorimeterLayer("ECAL 1", ECAL, 6 * ECAL.radiation_length_mm, 32, 64),
    CalorimeterLayer("ECAL 2", ECAL, 16 * ECAL.radiation_length_mm, 64, 64),
    CalorimeterLayer("ECAL 3", ECAL, 3 * ECAL.radiation_length_mm, 32, 32),
    CalorimeterLayer("HCAL 1", HCAL, 1.5 * HCAL.interaction_length_mm, 16, 16),
    CalorimeterLayer("HCAL 2", HCAL, 4.1 * HCAL.interaction_length_mm, 16, 16),
    CalorimeterLayer("HCAL 3", HCAL, 1.8 * HCAL.interaction_length_mm, 8, 8),
)
EDGES_MM = np.cumsum([0.0, *(layer.depth_mm for layer in LAYERS)])
"""Depths of the layers' borders in mm."""
ECAL_MM = float(EDGES_MM[3])
BEHIND_MM = 2 * float(EDGES_MM[-1])
"""Depth in mm that is given to all that comes out at the back."""
RADIATION_LENGTHS = np.cumsum([0.0, *(layer.depth_mm / layer.medium.radiation_length_mm for layer in LAYERS)])
"""Depths of the layers' borders in radiation lengths."""
INTERACTION_LENGTHS = np.cumsum([0.0, *(layer.depth_mm / layer.medium.interaction_length_mm for layer in LAYERS)])
"""Depths of the layers' borders in interaction lengths."""
TRACK_DEPTH_MM = float(EDGES_MM[1] + EDGES_MM[2]) / 2
"""Depth in mm at which the track's position is given: the middle of ECAL 2."""


def spread(cells: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return all layers (E, 6, 64, 64) float32 on the finest grid: a coarse cell's energy is shared evenly by its pixels."""
    image_ELHW = np.empty((len(cells[0]), len(LAYERS), PIXELS, PIXELS), np.float32)
    for number, (layer, cells_EHW) in enumerate(zip(LAYERS, cells, strict=True)):
        rows, columns = layer.pixels
        shared = cells_EHW / np.float32(rows * columns)
        image_ELHW[:, number] = shared.repeat(rows, axis=1).repeat(columns, axis=2)
    return image_ELHW
