"""One Geant4 run manager per process: build a geometry once, then shoot showers one by one.

Geant4 cannot be started twice in a process and prompts for data folders at import, so everything happens inside
`open_geant4`, which runs in worker processes only.
"""

import os
import re
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals import geant4_tables
from caloedge.detector.crystals.geometry import Calorimeter, CrystalMatrix, SamplingStack
from caloedge.detector.crystals.shooting import Shoot
from caloedge.errors import UserError

PHYSICS_LIST = "G4EmStandardPhysics"  # option 3 and 4 need the official low-energy data


def open_geant4(geometry: Calorimeter, particle: str) -> tuple[Shoot, dict[str, str]]:
    """Start Geant4 in this process; return the function that shoots one shower, and the provenance.

    Each shower depends on its own arguments only, not on those before it: the seed is set per shower.
    """
    environment, tables = geant4_tables.prepare()
    for variable, path in environment.items():
        os.environ.setdefault(variable, path)
    import geant4_pybind as g4

    shot: dict[str, Any] = {}  # what the actions read and write during one event
    keep: list[Any] = []  # Geant4 does not own its Python-side objects

    class Detector(g4.G4VUserDetectorConstruction):  # type: ignore[misc]
        def Construct(self) -> Any:  # noqa: N802
            if isinstance(geometry, CrystalMatrix):
                world, keep[:] = _place_crystals(g4, geometry)
            else:
                world, keep[:] = _place_stack(g4, geometry)
            return world

        def ConstructSDandField(self) -> None:  # noqa: N802
            scorer = g4.G4MultiFunctionalDetector("calorimeter")
            g4.G4SDManager.GetSDMpointer().AddNewDetector(scorer)
            deposit = g4.G4PSEnergyDeposit3D("energy", *_scorer_axes(geometry))
            scorer.RegisterPrimitive(deposit)
            self.SetSensitiveDetector("cell", scorer)
            keep.extend((scorer, deposit))

    class Gun(g4.G4VUserPrimaryGeneratorAction):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.gun = g4.G4ParticleGun(1)
            definition = g4.G4ParticleTable.GetParticleTable().FindParticle(particle)
            if definition is None:
                raise UserError(f"Geant4 has no particle {particle!r}; try gamma, e- or e+")
            self.gun.SetParticleDefinition(definition)
            self.gun.SetParticleMomentumDirection(g4.G4ThreeVector(0, 0, 1))

        def GeneratePrimaries(self, event: Any) -> None:  # noqa: N802
            x_mm, y_mm = shot["impact_mm"]
            self.gun.SetParticleEnergy(shot["energy_mev"] * g4.MeV)
            self.gun.SetParticlePosition(g4.G4ThreeVector(x_mm * g4.mm, y_mm * g4.mm, -1 * g4.mm))
            self.gun.GeneratePrimaryVertex(event)

    class ReadOut(g4.G4UserEventAction):  # type: ignore[misc]
        def EndOfEventAction(self, event: Any) -> None:  # noqa: N802
            collection = g4.G4SDManager.GetSDMpointer().GetCollectionID("calorimeter/energy")
            hits = np.array(list(event.GetHCofThisEvent().GetHC(collection)), dtype=np.float64).reshape(-1, 2)
            shot["cells"] = _read_out(geometry, hits[:, 0].astype(np.int64), hits[:, 1] / g4.MeV)

    class Actions(g4.G4VUserActionInitialization):  # type: ignore[misc]
        def Build(self) -> None:  # noqa: N802
            self.SetUserAction(Gun())
            self.SetUserAction(ReadOut())

    class Physics(g4.G4VModularPhysicsList):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.SetVerboseLevel(0)
            self.RegisterPhysics(getattr(g4, PHYSICS_LIST)())

    manager = g4.G4RunManagerFactory.CreateRunManager(g4.G4RunManagerType.Serial)
    for part in (Detector(), Physics(), Actions()):
        manager.SetUserInitialization(part)
    commands = g4.G4UImanager.GetUIpointer()
    # No fluorescence: the photo-electric tables hold one effective shell per element.
    for command in ("/process/em/fluo false", "/process/em/verbose 0", "/run/verbose 0"):
        commands.ApplyCommand(command)
    manager.Initialize()

    def shoot(energy_mev: float, impact_mm: tuple[float, float], seed: int) -> NDArray[Any]:
        shot.update(energy_mev=energy_mev, impact_mm=impact_mm)
        g4.G4Random.setTheSeed(seed)
        manager.BeamOn(1)
        return np.asarray(shot.pop("cells"))

    keep_alive = (manager, keep)
    shoot.keep_alive = keep_alive  # type: ignore[attr-defined]
    return shoot, {"version": _release(manager), "physics_list": PHYSICS_LIST, "data_tables": tables}


def _release(manager: Any) -> str:
    """Return e.g. "Geant4 11.4.1" from Geant4's own "Geant4 version Name: geant4-11-04-patch-01 [MT] ..."."""
    numbers = re.search(r"geant4-(\d+)-(\d+)(?:-patch-(\d+))?", str(manager.GetVersionString()))
    return "Geant4 " + ".".join(str(int(n)) for n in numbers.groups() if n) if numbers else "Geant4, version unknown"


def _scorer_axes(geometry: Calorimeter) -> tuple[int, ...]:
    """Return (ni, nj, nk, depth i, j, k): copy numbers per axis and the replica depth each is read at."""
    if isinstance(geometry, CrystalMatrix):
        return (1, geometry.cells_per_side, geometry.cells_per_side, 2, 1, 0)
    return (geometry.physical_layers, geometry.n_phi, len(geometry.r_edges_mm) - 1 + geometry.outer_rings, 3, 1, 0)


def _read_out(geometry: Calorimeter, index: NDArray[Any], energy_mev: NDArray[Any]) -> NDArray[Any]:
    """Add scored energies into read-out cells: merge layers, drop the outer rings."""
    if isinstance(geometry, CrystalMatrix):
        return np.bincount(index, energy_mev, minlength=geometry.cells_per_side**2)
    layers, n_phi, n_r = geometry.cell_shape
    rings = n_r + geometry.outer_rings
    scored = np.bincount(index, energy_mev, minlength=geometry.physical_layers * n_phi * rings)
    merged = scored.reshape(layers, geometry.merged_layers, n_phi, rings).sum(axis=1)
    return np.asarray(merged[:, :, :n_r].ravel())


def _place_crystals(g4: Any, matrix: CrystalMatrix) -> tuple[Any, list[Any]]:
    """Place the matrix as replicas of columns (x) of crystals (y); return the world and every object to keep alive."""
    side, half = matrix.cells_per_side * matrix.cell_mm / 2 * g4.mm, matrix.cell_mm / 2 * g4.mm
    depth = matrix.depth_mm / 2 * g4.mm
    material = g4.G4NistManager.Instance().FindOrBuildMaterial(matrix.material)
    world, world_volume, keep = _world(g4)
    block, keep_block = _volume(g4, g4.G4Box("block", side, side, depth), material, "block")
    column, keep_column = _volume(g4, g4.G4Box("column", half, side, depth), material, "column")
    cell, keep_cell = _volume(g4, g4.G4Box("cell", half, half, depth), material, "cell")
    keep += keep_block + keep_column + keep_cell
    keep.append(g4.G4PVPlacement(None, g4.G4ThreeVector(0, 0, depth), block, "block", world_volume, False, 0))
    keep.append(g4.G4PVReplica("column", column, block, g4.kXAxis, matrix.cells_per_side, 2 * half))
    keep.append(g4.G4PVReplica("cell", cell, column, g4.kYAxis, matrix.cells_per_side, 2 * half))
    return world, keep


def _place_stack(g4: Any, stack: SamplingStack) -> tuple[Any, list[Any]]:
    """Place the cylinder as replicas of layers, each an absorber disc before a sensor disc segmented in azimuth and radius."""
    nist = g4.G4NistManager.Instance()
    absorber, sensor = (nist.FindOrBuildMaterial(name) for name in (stack.absorber, stack.sensor))
    vacuum = nist.FindOrBuildMaterial("G4_Galactic")
    thick, thin = stack.absorber_mm * g4.mm, stack.sensor_mm * g4.mm
    period, ring = thick + thin, stack.ring_mm * g4.mm
    rings = len(stack.r_edges_mm) - 1 + stack.outer_rings
    radius, wedge = rings * ring, g4.twopi / stack.n_phi
    world, world_volume, keep = _world(g4)
    length = stack.physical_layers * period / 2
    shapes = {
        "block": (g4.G4Tubs("block", 0, radius, length, 0, g4.twopi), vacuum),
        "layer": (g4.G4Tubs("layer", 0, radius, period / 2, 0, g4.twopi), vacuum),
        "absorber": (g4.G4Tubs("absorber", 0, radius, thick / 2, 0, g4.twopi), absorber),
        "sensor": (g4.G4Tubs("sensor", 0, radius, thin / 2, 0, g4.twopi), sensor),
        "wedge": (g4.G4Tubs("wedge", 0, radius, thin / 2, 0, wedge), sensor),
        "cell": (g4.G4Tubs("cell", 0, ring, thin / 2, 0, wedge), sensor),
    }
    volumes = {}
    for name, (shape, material) in shapes.items():
        volumes[name], solids = _volume(g4, shape, material, name)
        keep += solids
    vector = g4.G4ThreeVector
    keep += [
        g4.G4PVPlacement(None, vector(0, 0, length), volumes["block"], "block", world_volume, False, 0),
        g4.G4PVReplica("layer", volumes["layer"], volumes["block"], g4.kZAxis, stack.physical_layers, period),
        g4.G4PVPlacement(None, vector(0, 0, -thin / 2), volumes["absorber"], "absorber", volumes["layer"], False, 0),
        g4.G4PVPlacement(None, vector(0, 0, thick / 2), volumes["sensor"], "sensor", volumes["layer"], False, 0),
        g4.G4PVReplica("wedge", volumes["wedge"], volumes["sensor"], g4.kPhi, stack.n_phi, wedge),
        g4.G4PVReplica("cell", volumes["cell"], volumes["wedge"], g4.kRho, rings, ring),
    ]
    return world, keep


def _world(g4: Any) -> tuple[Any, Any, list[Any]]:
    vacuum = g4.G4NistManager.Instance().FindOrBuildMaterial("G4_Galactic")
    volume, keep = _volume(g4, g4.G4Box("world", 2 * g4.m, 2 * g4.m, 3 * g4.m), vacuum, "world")
    placed = g4.G4PVPlacement(None, g4.G4ThreeVector(), volume, "world", None, False, 0)
    return placed, volume, [*keep, placed]


def _volume(g4: Any, shape: Any, material: Any, name: str) -> tuple[Any, list[Any]]:
    volume = g4.G4LogicalVolume(shape, material, name)
    return volume, [shape, volume]
