"""QCD events of Pythia 8 as particles for the detector of `images.response`, and the shipped sample of them.

A sample is an HDF5 file: `multiplicity` (E,) particles of each event; then, event by event, `species` and `charge` (N,) int8 and
`energy_gev`, `eta` and `phi` (N,) float16: rounded by about a hundredth of the best resolution and of a pixel.
Axes: E event, N particle.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals.library import SUFFIXES
from caloedge.detector.images.response import (
    CHARGED_HADRON,
    MAX_ETA,
    NEUTRAL_HADRON,
    PION,
    SPECIES,
    Particles,
)
from caloedge.errors import BadData, UnknownName, UserError, meant
from caloedge.extras import package
from caloedge.files import replacing, sha256
from caloedge.formats.hdf5 import dataset, open_hdf5
from caloedge.progress import progress

SETTINGS = (
    "Print:quiet = on",
    "Beams:idA = 2212",
    "Beams:idB = 2212",
    "Beams:eCM = 7000.",
    "HardQCD:all = on",
    "PhaseSpace:pTHatMin = 120.",
    "Tune:pp = 14",
    "Random:setSeed = on",
)
"""Settings of Pythia for the jets of arXiv 2410.07250, with underlying event, initial- and final-state radiation."""
MAX_SEED = 900_000_000
"""Largest seed of Pythia, whose seed 0 means the clock."""
MAX_FAILURES = 100
"""Largest number of failures in a row: Pythia gives up an event now and then, and is asked for another."""
ELECTRON, PHOTON = 11, 22
LAST_ETA = float(np.nextafter(np.float16(MAX_ETA), np.float16(0)))
"""Pseudorapidity stored for those that float16 would round to the edge of the detector."""

SAMPLE_SUFFIX = ".hdf5"
"""Suffix of shipped samples; shower libraries beside them end in .h5."""
MAX_GEV = float(np.finfo(np.float16).max)
COLUMNS = {"species": "i1", "charge": "i1", "energy_gev": "f2", "eta": "f2", "phi": "f2"}


@dataclass(frozen=True)
class ParticleSample:
    """Particles of a known number of events; events may be empty."""

    particles: Particles
    n_events: int
    provenance: Mapping[str, str]
    """How the sample was made; empty for files from elsewhere."""
    path: Path = Path()
    """File that the sample was read from."""

    def __len__(self) -> int:
        return self.n_events

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.path)


def qcd_events(n_events: int, seed: int) -> ParticleSample:
    """Generate QCD events with Pythia 8: proton–proton at 7 TeV, momentum transfer above 120 GeV; needs the extra `jets`.

    The particles are those that reach a detector (Pythia's final state without neutrinos) within |η| = 2.5, in the direction
    in which they are produced. Photons and electrons shower like a π⁰, electrons with their track; muons, one in six events,
    count as charged hadrons. The first events of a larger sample with the same seed are the same. Values are those that
    `write_particles` stores. Raises `MissingTool` without Pythia, `UserError` for a number or a seed that cannot be.
    """
    if n_events < 0:
        raise UserError(f"n_events = {n_events}: give 0 or more")
    if not 1 <= seed <= MAX_SEED:
        raise UserError(f"seed = {seed}: Pythia takes 1 to {MAX_SEED}")
    pythia8 = package("pythia8mc", "QCD events", "jets")
    generator = pythia8.Pythia("", False)
    for setting in (*SETTINGS, f"Random:seed = {seed}"):
        known = generator.readString(setting)
        assert known, setting
    if not generator.init():
        raise UserError("Pythia 8 does not start; what it printed says why, most often that its data files do not match it")
    rows: list[NDArray[Any]] = [np.empty((0, 5))]
    multiplicity_E = np.zeros(n_events, np.int64)
    with progress("generating QCD events", n_events) as advance:
        for event in range(n_events):
            _generate_next(generator)
            rows.append(_visible(generator.event))
            multiplicity_E[event] = len(rows[-1])
            advance(1)
    code_N, charge_N, energy_N, eta_N, phi_N = np.concatenate(rows).T
    showers_early = np.isin(np.abs(code_N), (ELECTRON, PHOTON))
    species_N = np.where(showers_early, PION, np.where(charge_N == 0, NEUTRAL_HADRON, CHARGED_HADRON))
    columns = {
        "species": species_N,
        "charge": charge_N,
        "energy_gev": energy_N,
        "eta": np.clip(eta_N, -LAST_ETA, LAST_ETA),
        "phi": phi_N,
    }
    stored = {name: columns[name].astype(kind) for name, kind in COLUMNS.items()}
    provenance = {
        "generator": "pythia8",
        "version": f"pythia8mc {version('pythia8mc')}",
        "settings": json.dumps(SETTINGS),
        "seed": str(seed),
        "events": str(n_events),
        "made_by": f"caloedge {version('caloedge')}: qcd_events({n_events}, seed={seed})",
    }
    return ParticleSample(_particles(multiplicity_E, stored), n_events, provenance)


def _generate_next(generator: Any) -> None:
    for _ in range(MAX_FAILURES):
        if generator.next():
            return
    raise UserError(f"Pythia 8 gave up {MAX_FAILURES} events in a row; what it printed says why")


def _visible(event: Any) -> NDArray[Any]:
    """Return code, charge, energy in GeV, η and φ (N, 5) of the particles that reach the detector."""
    rows = [
        (particle.id(), particle.charge(), particle.e(), particle.eta(), particle.phi())
        for particle in event
        if particle.isFinal() and particle.isVisible() and abs(particle.eta()) < MAX_ETA
    ]
    return np.array(rows, np.float64).reshape(-1, 5)


def _particles(multiplicity_E: NDArray[Any], columns: Mapping[str, NDArray[Any]]) -> Particles:
    event_N = np.repeat(np.arange(len(multiplicity_E)), multiplicity_E)
    numbers = (columns[name].astype(np.float64) for name in ("energy_gev", "eta", "phi"))
    return Particles(event_N, columns["species"], columns["charge"], *numbers)


def write_particles(path: Path, sample: ParticleSample) -> None:
    """Write a sample whole, its particles ordered by event; equal samples give equal bytes.

    Raises `UserError` for another suffix than HDF5's, for energies that float16 cannot hold and for unknown events.
    """
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: a sample of particles ends in {SAMPLE_SUFFIX}; give such a name")
    particles = sample.particles
    wrong_N = ~((particles.energy_N >= 0) & (particles.energy_N <= MAX_GEV))
    if wrong_N.any():
        raise UserError(f"{path}: a particle has {particles.energy_N[wrong_N][0]:g} GeV; a sample holds 0 to {MAX_GEV:g} GeV")
    wrong_N = (particles.event_N < 0) | (particles.event_N >= sample.n_events)
    if wrong_N.any():
        raise UserError(
            f"{path}: a particle is of event {particles.event_N[wrong_N][0]}, the sample has {sample.n_events} events"
        )
    order_N = np.argsort(particles.event_N, kind="stable")
    columns = (particles.species_N, particles.charge_N, particles.energy_N, particles.eta_N, particles.phi_N)
    packing: dict[str, Any] = {"compression": "gzip", "compression_opts": 9, "shuffle": True, "chunks": True}
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        stored = {"multiplicity": np.bincount(particles.event_N, minlength=sample.n_events).astype("i4")}
        for (name, kind), values in zip(COLUMNS.items(), columns, strict=True):
            stored[name] = values[order_N].astype(kind)
        for name, values in stored.items():  # HDF5 cannot divide empty data sets into chunks
            file.create_dataset(name, data=values, **(packing if len(values) else {}))
        for key, value in sample.provenance.items():
            file.attrs[key] = value


def read_particles(source: str | Path) -> ParticleSample:
    """Read a sample by path, or a shipped one by name; bad files raise `BadData` naming file, data set and cure."""
    path = Path(source)
    if path.suffix not in SUFFIXES:
        path = shipped_sample(str(source))
    if not path.is_file():
        raise BadData(f"{path}: no such file; make one with write_particles(path, qcd_events(2000, seed=1))")
    with open_hdf5(path) as file:
        multiplicity_E = _column(path, file, "multiplicity", "iu")
        columns = {name: _column(path, file, name, "i" if kind == "i1" else "f") for name, kind in COLUMNS.items()}
        provenance = {str(key): str(value) for key, value in file.attrs.items()}
    _require(path, "multiplicity", multiplicity_E >= 0, multiplicity_E, "is negative")
    for name, values in columns.items():
        if len(values) != multiplicity_E.sum():
            raise BadData(f"{path}: {name!r} has {len(values)} particles, the events have {multiplicity_E.sum()}; make it again")
        _require(path, name, np.isfinite(values), values, "is not finite")
    species_N, charge_N, energy_N = columns["species"], columns["charge"], columns["energy_gev"]
    _require(path, "energy_gev", energy_N >= 0, energy_N, "is negative")
    _require(path, "species", (species_N >= 0) & (species_N < len(SPECIES)), species_N, f"is not one of 0 to {len(SPECIES) - 1}")
    _require(path, "charge", np.abs(charge_N.astype(int)) <= 1, charge_N, "is not −1, 0 or 1")
    fits = (species_N == PION) | ((species_N == CHARGED_HADRON) == (charge_N != 0))
    _require(path, "charge", fits, charge_N, "contradicts 'species'")
    return ParticleSample(_particles(multiplicity_E, columns), len(multiplicity_E), provenance, path)


def shipped_sample(name: str) -> Path:
    """Return the path of a sample that comes with the package.

    >>> shipped_sample("qcd_jets").name
    'qcd_jets.hdf5'
    """
    folder = Path(str(package_files("caloedge"))) / "detector" / "libraries"
    path = folder / f"{name}{SAMPLE_SUFFIX}"
    if not path.is_file():
        names = sorted(file.stem for file in folder.glob(f"*{SAMPLE_SUFFIX}"))
        raise UnknownName(
            f"no shipped sample {name!r}{meant(name, names)}; there are: {', '.join(names)}"
            f" (or give a path ending in {SAMPLE_SUFFIX})"
        )
    return path


def _column(path: Path, file: h5py.File, key: str, kinds: str) -> NDArray[Any]:
    if (data := dataset(path, file, key)) is None:
        available = ", ".join(sorted(file)) or "nothing"
        raise BadData(f"{path}: no dataset {key!r} (found: {available}); a sample has multiplicity, {', '.join(COLUMNS)}")
    if data.ndim != 1 or data.dtype.kind not in kinds:
        expected = "(N,) numbers" if kinds == "f" else "(N,) integers"
        raise BadData(f"{path}: {key!r} holds {data.shape} {data.dtype}; expected {expected}")
    return np.asarray(data[:])


def _require(path: Path, key: str, valid: NDArray[Any], values: NDArray[Any], complaint: str) -> None:
    if not valid.all():
        index = int(np.argmin(valid))
        raise BadData(f"{path}: {key}[{index}] = {values[index]} {complaint}; make the file again")
