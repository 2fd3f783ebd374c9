"""QCD events: the shipped sample, its file format, and Pythia itself where it is installed."""

import json
import platform
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from importlib.metadata import version
from pathlib import Path

import h5py
import numpy as np
import pytest
from optional_packages import need

from caloedge.detector.crystals.library import shipped_names
from caloedge.detector.images import particle_samples as module
from caloedge.detector.images.particle_samples import ParticleSample, qcd_events, read_particles, shipped_sample, write_particles
from caloedge.detector.images.response import (
    CHARGED_HADRON,
    FIELD_ON,
    MAX_ETA,
    NEUTRAL_HADRON,
    PION,
    Particles,
    images,
    toy_particles,
)
from caloedge.errors import BadData, MissingTool, UnknownName, UserError

THIS = sys.platform, platform.machine()


@pytest.fixture
def pythia() -> None:
    need("pythia8mc")


@pytest.fixture(scope="module")
def shipped() -> ParticleSample:
    return read_particles("qcd_jets")


@pytest.fixture
def toy() -> ParticleSample:
    """Particles that float16 holds exactly, with empty events."""
    particles = toy_particles(6, np.array([0, 20, 3, 0, 50, 0]), np.random.default_rng(1))
    rounded = {name: getattr(particles, name).astype("f2").astype("f8") for name in ("energy_N", "eta_N", "phi_N")}
    return ParticleSample(replace(particles, **rounded), 6, {"generator": "toy", "settings": "[1]"})


@pytest.fixture
def file(toy: ParticleSample, tmp_path: Path) -> Path:
    path = tmp_path / "toy.hdf5"
    write_particles(path, toy)
    return path


def same(sample: ParticleSample, other_sample: ParticleSample) -> None:
    for field in fields(Particles):
        np.testing.assert_array_equal(
            getattr(sample.particles, field.name), getattr(other_sample.particles, field.name), field.name
        )
    assert sample.n_events == other_sample.n_events


def transverse_gev(particles: Particles) -> np.ndarray:
    return particles.energy_N / np.cosh(particles.eta_N)


# The shipped sample


def test_it_is_large_enough_and_small_enough(shipped: ParticleSample) -> None:
    assert shipped.n_events >= 2000
    assert shipped_sample("qcd_jets").stat().st_size <= 4_000_000


def test_it_says_how_it_was_made(shipped: ParticleSample) -> None:
    provenance = shipped.provenance
    assert provenance["version"] == "pythia8mc 8.317.2"
    settings = json.loads(provenance["settings"])
    assert settings == list(module.SETTINGS)
    for setting in ("Beams:eCM = 7000.", "HardQCD:all = on", "PhaseSpace:pTHatMin = 120.", "Tune:pp = 14"):
        assert setting in settings
    assert int(provenance["events"]) == shipped.n_events
    assert provenance["made_by"].startswith("caloedge ")
    assert provenance["made_by"].endswith(f"qcd_events({shipped.n_events}, seed={provenance['seed']})")


def test_it_is_no_shower_library() -> None:
    assert "qcd_jets" not in shipped_names()


def test_every_particle_is_in_the_detector(shipped: ParticleSample) -> None:
    particles = shipped.particles
    assert np.abs(particles.eta_N).max() < MAX_ETA
    assert np.abs(particles.phi_N).max() < 3.15  # π, and what float16 adds
    assert particles.energy_N.min() > 0
    assert particles.energy_N.max() < 3500  # a beam's
    seen = images(particles, shipped.n_events, FIELD_ON, np.random.default_rng(1))
    np.testing.assert_allclose(
        seen.truth_EHW.sum(axis=(1, 2)),
        np.bincount(particles.event_N, particles.energy_N, shipped.n_events),
        rtol=1e-5,  # float32
    )


def test_energy_is_shared_as_in_jets(shipped: ParticleSample) -> None:
    """About 65 % of a jet are charged, 25 % photons and 10 % neutral hadrons (CMS, JINST 12 (2017) P10003)."""
    particles = shipped.particles
    total = particles.energy_N.sum()
    shares = [particles.energy_N[particles.species_N == species].sum() / total for species in range(3)]
    for share, (low, high) in zip(shares, ((0.24, 0.31), (0.08, 0.14), (0.57, 0.66)), strict=True):
        assert low < share < high
    charged = particles.charge_N != 0
    np.testing.assert_array_equal(charged[particles.species_N == NEUTRAL_HADRON], False)
    np.testing.assert_array_equal(charged[particles.species_N == CHARGED_HADRON], True)
    electrons = (particles.species_N == PION) & charged
    assert 0.5 < electrons.sum() / shipped.n_events < 3  # mostly from π⁰ → e⁺e⁻γ


def test_events_are_hard_balanced_and_alike_all_around(shipped: ParticleSample) -> None:
    particles, n = shipped.particles, shipped.n_events
    pt = transverse_gev(particles)
    sums = np.bincount(particles.event_N, pt, n)
    assert 300 < np.median(sums) < 500  # two jets of more than 120 GeV and the underlying event, mostly inside |η| = 2.5
    assert (sums > 200).mean() > 0.95
    px, py = (np.bincount(particles.event_N, pt * projection(particles.phi_N), n) for projection in (np.cos, np.sin))
    assert np.median(np.hypot(px, py) / sums) < 0.25
    charge = np.bincount(particles.event_N, particles.charge_N, n)
    assert abs(charge.mean() - 2 / 3) < 1.5  # two protons' charge at most
    for angles in (particles.phi_N, particles.phi_N * 2):
        # Jets are 2n correlated numbers in φ: 5σ.
        assert abs(np.average(np.cos(angles), weights=pt)) < 5 / np.sqrt(2 * n)
        assert abs(np.average(np.sin(angles), weights=pt)) < 5 / np.sqrt(2 * n)
    assert abs(np.average(np.sign(particles.eta_N), weights=pt)) < 5 / np.sqrt(2 * n)


def test_every_event_is_another(shipped: ParticleSample) -> None:
    particles = shipped.particles
    energies = np.bincount(particles.event_N, particles.energy_N, shipped.n_events)
    assert len(np.unique(energies)) > 0.99 * shipped.n_events


# Pythia


@pytest.mark.usefixtures("pythia")
def test_the_shipped_sample_is_made_again() -> None:
    shipped = read_particles("qcd_jets")
    if shipped.provenance["version"] != f"pythia8mc {version('pythia8mc')}" or THIS != ("linux", "x86_64"):
        pytest.skip("another release or machine rounds differently, and so makes other events")
    few = qcd_events(4, int(shipped.provenance["seed"]))
    n = len(few.particles)
    first = Particles(*(getattr(shipped.particles, field.name)[:n] for field in fields(Particles)))
    same(few, ParticleSample(first, 4, {}))
    assert shipped.particles.event_N[n] == 4
    assert few.provenance["settings"] == shipped.provenance["settings"]


@pytest.mark.usefixtures("pythia")
def test_another_seed_makes_other_events_and_all_survive_a_file(tmp_path: Path) -> None:
    sample, other_sample = qcd_events(2, 5), qcd_events(2, 6)
    assert not np.array_equal(sample.particles.energy_N, other_sample.particles.energy_N)
    write_particles(tmp_path / "one.hdf5", sample)
    again = read_particles(tmp_path / "one.hdf5")
    same(sample, again)
    assert again.provenance == sample.provenance
    assert qcd_events(0, 1).n_events == len(qcd_events(0, 1).particles) == 0


@pytest.mark.usefixtures("pythia")
def test_particles_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        (22, 0, 1, 0, 0),
        (-11, 1, 2, 0, 0),
        (13, -1, 3, 0, 0),
        (130, 0, 4, 0, 0),
        (-2112, 0, 5, 2.4999, 0),
        (211, 1, 6, -1, 3),
    ]
    monkeypatch.setattr(module, "_visible", lambda event: np.array(rows, float))
    particles = qcd_events(1, 1).particles
    np.testing.assert_array_equal(
        particles.species_N, [PION, PION, CHARGED_HADRON, NEUTRAL_HADRON, NEUTRAL_HADRON, CHARGED_HADRON]
    )
    np.testing.assert_array_equal(particles.charge_N, [0, 1, -1, 0, 0, 1])
    np.testing.assert_array_equal(particles.energy_N, [1, 2, 3, 4, 5, 6])
    assert particles.eta_N.max() == 2.498046875  # float16 would make it 2.5, outside of the images
    np.testing.assert_array_equal(particles.phi_N, [0, 0, 0, 0, 0, 3])


class Particle:
    """Stands for one of Pythia's."""

    def __init__(self, code: int, eta: float = 0.0, final: bool = True, visible: bool = True) -> None:
        self.numbers = {"id": code, "charge": 0.0, "e": 1.5, "eta": eta, "phi": 0.5, "isFinal": final, "isVisible": visible}

    def __getattr__(self, name: str) -> Callable[[], float]:
        return lambda: self.numbers[name]


def test_only_what_reaches_the_detector_is_taken() -> None:
    event = [Particle(22), Particle(111, final=False), Particle(12, visible=False), Particle(22, eta=2.6), Particle(22, eta=-2.4)]
    np.testing.assert_array_equal(module._visible(event), [[22, 0, 1.5, 0, 0.5], [22, 0, 1.5, -2.4, 0.5]])
    assert module._visible([]).shape == (0, 5)


def test_events_that_fail_are_tried_again_but_not_for_ever() -> None:
    class Generator:
        def __init__(self, *answers: bool) -> None:
            self.answers = list(answers)

        def next(self) -> bool:
            return self.answers.pop(0) if self.answers else False

    generator = Generator(False, False, True, True)
    module._generate_next(generator)
    assert generator.answers == [True]
    with pytest.raises(UserError) as caught:
        module._generate_next(Generator())
    assert str(caught.value) == "Pythia 8 gave up 100 events in a row; what it printed says why"


# Files


def test_a_file_gives_back_what_was_written(toy: ParticleSample, file: Path) -> None:
    again = read_particles(file)
    same(toy, again)
    assert again.provenance == toy.provenance
    assert again.n_events == 6  # the last is empty


def test_particles_are_ordered_by_event(toy: ParticleSample, tmp_path: Path) -> None:
    reverse = Particles(*(getattr(toy.particles, field.name)[::-1] for field in fields(Particles)))
    write_particles(tmp_path / "mixed.h5", ParticleSample(reverse, 6, {}))
    again = read_particles(tmp_path / "mixed.h5")
    assert (np.diff(again.particles.event_N) >= 0).all()
    np.testing.assert_array_equal(np.sort(again.particles.energy_N), np.sort(toy.particles.energy_N))
    np.testing.assert_array_equal(again.particles.energy_N[:20], toy.particles.energy_N[19::-1])


def test_values_are_rounded_far_below_any_resolution(tmp_path: Path) -> None:
    particles = toy_particles(3, 2000, np.random.default_rng(2))
    write_particles(tmp_path / "a.hdf5", ParticleSample(particles, 3, {}))
    again = read_particles(tmp_path / "a.hdf5").particles
    large = particles.energy_N > 0.01
    assert np.abs(again.energy_N / particles.energy_N - 1)[large].max() < 0.05 / 100
    assert np.abs(again.eta_N - particles.eta_N).max() < 5 / 56 / 90
    assert np.abs(again.phi_N - particles.phi_N).max() < 2 * np.pi / 56 / 110


def test_equal_samples_give_equal_bytes(toy: ParticleSample, file: Path, tmp_path: Path) -> None:
    write_particles(tmp_path / "again.hdf5", toy)
    assert (tmp_path / "again.hdf5").read_bytes() == file.read_bytes()


@pytest.mark.parametrize("n_events", [0, 4])
def test_no_particles_are_no_particles(n_events: int, tmp_path: Path) -> None:
    none = toy_particles(n_events, 0, np.random.default_rng(3))
    write_particles(tmp_path / "none.hdf5", ParticleSample(none, n_events, {}))
    same(read_particles(tmp_path / "none.hdf5"), ParticleSample(none, n_events, {}))


@pytest.mark.parametrize(
    ("key", "place", "value", "message"),
    [
        ("multiplicity", 1, -1, "multiplicity[1] = -1 is negative; make the file again"),
        ("multiplicity", 1, 21, "'species' has 73 particles, the events have 74; make it again"),
        ("species", 2, 3, "species[2] = 3 is not one of 0 to 2; make the file again"),
        ("species", 2, -1, "species[2] = -1 is not one of 0 to 2; make the file again"),
        ("charge", 2, 2, "charge[2] = 2 is not −1, 0 or 1; make the file again"),
        ("charge", 2, -128, "charge[2] = -128 is not −1, 0 or 1; make the file again"),
        ("energy_gev", 7, -1, "energy_gev[7] = -1.0 is negative; make the file again"),
        ("energy_gev", 7, np.nan, "energy_gev[7] = nan is not finite; make the file again"),
        ("eta", 7, np.inf, "eta[7] = inf is not finite; make the file again"),
        ("phi", 7, np.nan, "phi[7] = nan is not finite; make the file again"),
    ],
)
def test_damaged_values_are_named(file: Path, key: str, place: int, value: float, message: str) -> None:
    with h5py.File(file, "r+") as opened:
        opened[key][place] = value
    with pytest.raises(BadData) as caught:
        read_particles(file)
    assert str(caught.value) == f"{file}: {message}"


@pytest.mark.parametrize(("species", "charge"), [(NEUTRAL_HADRON, 1), (CHARGED_HADRON, 0)])
def test_a_charge_that_contradicts_its_species_is_named(file: Path, species: int, charge: int) -> None:
    with h5py.File(file, "r+") as opened:
        opened["species"][4], opened["charge"][4] = species, charge
    with pytest.raises(BadData) as caught:
        read_particles(file)
    assert str(caught.value) == f"{file}: charge[4] = {charge} contradicts 'species'; make the file again"


def test_missing_and_odd_data_sets_are_named(file: Path) -> None:
    with h5py.File(file, "r+") as opened:
        phi = opened["phi"][:]
        del opened["phi"]
    with pytest.raises(BadData) as caught:
        read_particles(file)
    assert str(caught.value) == (
        f"{file}: no dataset 'phi' (found: charge, energy_gev, eta, multiplicity, species);"
        " a sample has multiplicity, species, charge, energy_gev, eta, phi"
    )
    for values, held, expected in (
        (phi[:, None], "(73, 1) float16", "(N,) numbers"),
        (phi.astype("i2"), "(73,) int16", "(N,) numbers"),
    ):
        with h5py.File(file, "r+") as opened:
            opened["phi"] = values
        with pytest.raises(BadData) as caught:
            read_particles(file)
        assert str(caught.value) == f"{file}: 'phi' holds {held}; expected {expected}"
        with h5py.File(file, "r+") as opened:
            del opened["phi"]


def test_damaged_and_absent_files_are_named(file: Path, tmp_path: Path) -> None:
    file.write_bytes(file.read_bytes()[:3000])
    with pytest.raises(BadData) as caught:
        read_particles(file)
    assert str(caught.value).startswith(f"{file}: not a readable HDF5 file (")
    assert str(caught.value).endswith("); damaged or truncated: make or copy it again")
    with pytest.raises(BadData) as caught:
        read_particles(tmp_path / "none.hdf5")
    assert str(caught.value) == (
        f"{tmp_path / 'none.hdf5'}: no such file; make one with write_particles(path, qcd_events(2000, seed=1))"
    )
    with pytest.raises(UnknownName) as unknown:
        read_particles("qcd")
    assert str(unknown.value) == "no shipped sample 'qcd'; there are: qcd_jets (or give a path ending in .hdf5)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"energy_N": np.array([70000.0])}, "a particle has 70000 GeV; a sample holds 0 to 65504 GeV"),
        ({"energy_N": np.array([-1.0])}, "a particle has -1 GeV; a sample holds 0 to 65504 GeV"),
        ({"energy_N": np.array([np.nan])}, "a particle has nan GeV; a sample holds 0 to 65504 GeV"),
        ({"event_N": np.array([2])}, "a particle is of event 2, the sample has 2 events"),
        ({"event_N": np.array([-1])}, "a particle is of event -1, the sample has 2 events"),
    ],
)
def test_what_no_file_can_hold_is_refused(change: dict[str, np.ndarray], message: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.hdf5"
    with pytest.raises(UserError) as caught:
        write_particles(path, ParticleSample(replace(toy_particles(1, 1, np.random.default_rng(4)), **change), 2, {}))
    assert str(caught.value) == f"{path}: {message}"
    assert list(tmp_path.iterdir()) == []


def test_names_must_be_those_of_samples(toy: ParticleSample, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        write_particles(tmp_path / "a.txt", toy)
    assert str(caught.value) == f"{tmp_path / 'a.txt'}: a sample of particles ends in .hdf5; give such a name"


# Optional packages and arguments


@pytest.mark.parametrize(
    ("call", "package", "purpose"),
    [
        (lambda: qcd_events(1, 1), "pythia8mc", "QCD events"),
    ],
)
def test_missing_packages_are_named(
    call: Callable[[], object], package: str, purpose: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingTool) as caught:
        call()
    assert str(caught.value) == f"{purpose} need the package {package}; pip install 'caloedge[jets]'"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: qcd_events(-1, 1), "n_events = -1: give 0 or more"),
        (lambda: qcd_events(1, 0), "seed = 0: Pythia takes 1 to 900000000"),
        (lambda: qcd_events(1, 900_000_001), "seed = 900000001: Pythia takes 1 to 900000000"),
    ],
)
def test_arguments_that_cannot_be_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        call()
    assert str(caught.value) == message
