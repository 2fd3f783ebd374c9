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


@dataclass(frozen=True)
class VoxelLayer:
    """One layer of voxels in azimuth and radius."""

    number: int
    """Its id where the geometry was read; layers without voxels are left out, so that ids may have gaps."""
    n_phi: int
    r_edges_mm: tuple[float, ...]

    @property
    def n_cells(self) -> int:
        """Number of voxels."""
        return self.n_phi * (len(self.r_edges_mm) - 1)


@dataclass(frozen=True)
class VoxelStack:
    """Layers of voxels that need not be alike, around the axis on which particles come: showers of it are read, not made."""

    name: str
    layers: tuple[VoxelLayer, ...]
    particle: str = ""
    """Whose showers are read out so, where the geometry was read; empty if that is not said."""

    @property
    def cell_shape(self) -> tuple[int, ...]:
        """Number of voxels: radius runs fastest, then azimuth, then layer."""
        return (sum(layer.n_cells for layer in self.layers),)

    @property
    def impact_half_width_mm(self) -> float:
        """Half width in mm of the square of impact points: 0, since showers start on the axis."""
        return 0.0


Calorimeter = CrystalMatrix | SamplingStack
"""What showers can be made in."""
Geometry = Calorimeter | VoxelStack

# Crystals of the CMS barrel's size; the matrix is wide enough to contain 99 % of a shower around its centre.
PBWO4 = CrystalMatrix("pbwo4", "G4_PbWO4", cells_per_side=25, cell_mm=22.0, depth_mm=230.0)

# Front faces of the Belle barrel's CsI(Tl) crystals and their length (Nucl. Instrum. Meth. A 479 (2002) 117).
CSI = CrystalMatrix("csi", "G4_CESIUM_IODIDE", cells_per_side=13, cell_mm=55.0, depth_mm=300.0)

GEOMETRIES: dict[str, Calorimeter] = {
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


def geometry(name: str) -> Calorimeter:
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


def described(description: dict[str, Any]) -> Geometry:
    """Return the geometry that a file's provenance describes: by its name, or layer by layer where no name stands for it.

    >>> described(describe(geometry("wsi"))) == geometry("wsi")
    True
    """
    if description.get("type") != VoxelStack.__name__:
        return geometry(str(description.get("name", "")))
    layers = (VoxelLayer(int(x["number"]), int(x["n_phi"]), tuple(map(float, x["r_edges_mm"]))) for x in description["layers"])
    return VoxelStack(str(description["name"]), tuple(layers), str(description.get("particle", "")))


def difference(one: Geometry, other: Geometry) -> str:
    """Say in what the cells of two geometries differ; empty if in nothing, whatever the geometries are called.

    >>> difference(geometry("wsi"), VoxelStack("read", voxels(geometry("wsi"))))
    ''
    """
    if isinstance(one, CrystalMatrix) or isinstance(other, CrystalMatrix):
        shapes = ["×".join(map(str, value.cell_shape)) for value in (one, other)]
        return "" if one == other else f"{shapes[0]} and {shapes[1]} cells"
    pairs = list(zip(voxels(one), voxels(other), strict=False))
    for number, (mine, theirs) in enumerate(pairs):
        if (mine.n_phi, mine.r_edges_mm) != (theirs.n_phi, theirs.r_edges_mm):
            shapes = [f"{layer.n_phi} × {len(layer.r_edges_mm) - 1}" for layer in (mine, theirs)]
            return f"layer {number}: {shapes[0]} and {shapes[1]} voxels in azimuth and radius, or other edges"
    return "" if len(voxels(one)) == len(voxels(other)) else f"{len(voxels(one))} and {len(voxels(other))} layers"


def voxels(stack: SamplingStack | VoxelStack) -> tuple[VoxelLayer, ...]:
    """Return the layers that a stack is read out in."""
    if isinstance(stack, VoxelStack):
        return stack.layers
    n_layers, n_phi, _ = stack.cell_shape
    return tuple(VoxelLayer(number, n_phi, stack.r_edges_mm) for number in range(n_layers))
