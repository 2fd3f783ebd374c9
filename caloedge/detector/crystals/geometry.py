"""Calorimeters as values: what is built, and how its cells are numbered."""

from dataclasses import asdict, dataclass
from typing import Any

from caloedge.errors import UnknownName, meant


@dataclass(frozen=True)
class CrystalMatrix:
    """A square matrix of identical crystals, front face at z = 0, beam along +z onto the central crystal."""

    name: str
    material: str
    """Name in the Geant4 NIST material list."""
    cells_per_side: int
    cell_mm: float
    depth_mm: float

    @property
    def cell_shape(self) -> tuple[int, ...]:
        """Number of cells along x and y, row-major in the shower library."""
        return (self.cells_per_side, self.cells_per_side)

    @property
    def label(self) -> str:
        """What the crystals are called in messages."""
        return {"G4_PbWO4": "PbWO4", "G4_CESIUM_IODIDE": "CsI"}.get(self.material, self.material)

    @property
    def impact_half_width_mm(self) -> float:
        """Half width in mm of the square of impact points: the face of the central crystal."""
        return self.cell_mm / 2


@dataclass(frozen=True)
class SamplingStack:
    """A cylinder of absorber-sensor layers read out in (layer, azimuth, radius), beam along its axis."""

    name: str
    absorber: str
    absorber_mm: float
    sensor: str
    sensor_mm: float
    physical_layers: int
    merged_layers: int
    """Number of neighbouring physical layers added into one read-out layer."""
    n_phi: int
    r_edges_mm: tuple[float, ...]
    outer_rings: int
    """Number of rings of the same width outside the read-out, kept so that the shower is contained and scatters back."""

    @property
    def cell_shape(self) -> tuple[int, ...]:
        """Number of cells along layer, azimuth and radius, row-major in the shower library."""
        return (self.physical_layers // self.merged_layers, self.n_phi, len(self.r_edges_mm) - 1)

    @property
    def ring_mm(self) -> float:
        """Width of one radial bin in mm."""
        return self.r_edges_mm[1] - self.r_edges_mm[0]

    @property
    def impact_half_width_mm(self) -> float:
        """Half width in mm of the square of impact points: 0, since showers start on the axis."""
        return 0.0


Geometry = CrystalMatrix | SamplingStack

# Crystals of the CMS barrel's size; the matrix is wide enough to contain 99 % of a shower around its centre.
PBWO4 = CrystalMatrix("pbwo4", "G4_PbWO4", cells_per_side=25, cell_mm=22.0, depth_mm=230.0)

# Front faces of the Belle barrel's CsI(Tl) crystals and their length (Nucl. Instrum. Meth. A 479 (2002) 117).
CSI = CrystalMatrix("csi", "G4_CESIUM_IODIDE", cells_per_side=13, cell_mm=55.0, depth_mm=300.0)

GEOMETRIES: dict[str, Geometry] = {
    "pbwo4": PBWO4,
    "csi": CSI,
    # CaloChallenge dataset 2: 90 physical layers of 1.4 mm W + 0.3 mm Si, read out as 45 × 16 × 9 (arXiv 2410.21611).
    "wsi": SamplingStack(
        "wsi",
        absorber="G4_W",
        absorber_mm=1.4,
        sensor="G4_Si",
        sensor_mm=0.3,
        physical_layers=90,
        merged_layers=2,
        n_phi=16,
        r_edges_mm=(0.0, 4.65, 9.30, 13.95, 18.60, 23.25, 27.90, 32.55, 37.20, 41.85),
        outer_rings=31,
    ),
}


def geometry(name: str) -> Geometry:
    """Return the geometry of that name.

    >>> geometry("wsi").cell_shape
    (45, 16, 9)
    """
    if name not in GEOMETRIES:
        raise UnknownName(f"no geometry {name!r}{meant(name, GEOMETRIES)}; there are: {', '.join(GEOMETRIES)}")
    return GEOMETRIES[name]


def describe(value: Geometry) -> dict[str, Any]:
    """Return a geometry as plain data for a file's provenance."""
    return {"type": type(value).__name__, **asdict(value)}
