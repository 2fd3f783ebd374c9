"""Events in six layers: showers against textbook numbers, cells against energies, seeds, and files with their complaints."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from caloedge.detector.constants import PI0_MASS_GEV
from caloedge.detector.layers import showers
from caloedge.detector.layers.events import (
    EVENTS,
    Generated,
    Gun,
    LayeredEvents,
    photon_energies,
    photon_slopes,
)
from caloedge.detector.layers.files import LayeredSample, generate, open_layered, read_layered, write_layered
from caloedge.detector.layers.geometry import ECAL, ECAL_MM, GUN_DISTANCE_MM, HCAL, LAYERS, SIDE_MM, TRACK_DEPTH_MM, spread
from caloedge.detector.layers.showers import HCAL_SPOT_GEV
from caloedge.errors import BadData, Unsupported, UserError

CENTRAL = Gun((20.0, 20.0), (20.0, 20.0), 0.0, (0.0, 0.0))
"""Straight through the middle."""


@pytest.fixture(scope="module")
def central() -> LayeredEvents:
    return Generated(CENTRAL).events(1500, 3)


@pytest.fixture(scope="module")
def usual() -> LayeredEvents:
    return Generated().events(640, 5)


def neutral(events: LayeredEvents) -> np.ndarray:
    """Energy per event and layer."""
    return np.stack([cells.sum(axis=(1, 2), dtype=float) for cells in events.neutral_gev], axis=1)


def charged(events: LayeredEvents) -> np.ndarray:
    return np.stack([cells.sum(axis=(1, 2), dtype=float) for cells in events.cells_gev], axis=1) - neutral(events)


def same(events: LayeredEvents, other_events: LayeredEvents) -> bool:
    cells = zip((*events.cells_gev, *events.neutral_gev), (*other_events.cells_gev, *other_events.neutral_gev), strict=True)
    columns = ((getattr(events, field.name), getattr(other_events, field.name)) for field in fields(LayeredEvents)[2:])
    return all(np.array_equal(a, b, equal_nan=True) for a, b in (*cells, *columns))


# Geometry


def test_the_layers_are_the_published_ones() -> None:
    depths = [layer.depth_mm / layer.medium.radiation_length_mm for layer in LAYERS[:3]]
    assert depths == pytest.approx([6, 16, 3], rel=1e-12)  # rounding of doubles
    depths = [layer.depth_mm / layer.medium.interaction_length_mm for layer in LAYERS[3:]]
    assert depths == pytest.approx([1.5, 4.1, 1.8], rel=1e-12)
    assert [layer.shape for layer in LAYERS] == [(32, 64), (64, 64), (32, 32), (16, 16), (16, 16), (8, 8)]
    assert SIDE_MM / 64 == 36
    assert (ECAL.sampling, HCAL.sampling) == (0.069, 0.40)


def test_the_media_are_mixtures_of_their_materials() -> None:
    """Lengths of Pb, LAr, Fe and scintillator in mm are those of the published model."""
    assert ECAL.radiation_length_mm == pytest.approx(6 / (1.5 / 5.612 + 4.5 / 140.65), rel=0.01)
    assert ECAL.interaction_length_mm == pytest.approx(6 / (1.5 / 182.47 + 4.5 / 860.78), rel=0.01)
    assert HCAL.radiation_length_mm == pytest.approx(6 / (5 / 17.59 + 1 / 425.44), rel=0.01)
    assert HCAL.interaction_length_mm == pytest.approx(6 / (5 / 169.99 + 1 / 699.69), rel=0.01)


# Decays


def test_photons_have_the_mass_energy_and_direction_of_their_pion() -> None:
    rng = np.random.default_rng(1)
    energy, slope = rng.uniform(10, 30, 500), rng.uniform(-0.3, 0.3, (500, 2))
    energy_EP, slope_EP2 = photon_slopes(energy, slope, rng.uniform(-0.95, 0.95, 500), rng.uniform(0, 2 * np.pi, 500))
    np.testing.assert_allclose(energy_EP.sum(axis=1), energy, rtol=1e-12)
    direction = np.concatenate([slope_EP2, np.ones((500, 2, 1))], axis=2)
    momentum = direction / np.linalg.norm(direction, axis=2, keepdims=True) * energy_EP[:, :, None]
    total = momentum.sum(axis=1)
    mass2 = energy**2 - (total**2).sum(axis=1)
    np.testing.assert_allclose(mass2, PI0_MASS_GEV**2, rtol=1e-6)  # a difference of squares 20,000 times larger
    np.testing.assert_allclose(total[:, :2] / total[:, 2:], slope, atol=1e-9)


def test_a_photon_that_flies_backwards_never_arrives() -> None:
    _, slopes = photon_slopes(np.array([20.0]), np.zeros((1, 2)), np.array([-1.0]), np.array([0.0]))
    assert np.isinf(slopes[0, 0]).all()
    assert np.isfinite(slopes[0, 1]).all()


# Showers


def test_a_pion_deposits_its_energy_at_the_electron_scale(central: LayeredEvents) -> None:
    # 0.2 GeV of statistical fluctuation over √1500, and up to 0.1 % out of the sides and of photons that miss.
    assert neutral(central).sum(axis=1).mean() == pytest.approx(20, abs=0.04)


def test_the_layers_share_a_pion_as_pdgs_profile_says(central: LayeredEvents) -> None:
    depth = np.linspace(1e-3, 60, 20_001)
    edges = np.searchsorted(depth, [6, 22, 25])
    expected = np.zeros(4)
    for cosine in np.linspace(-0.99, 0.99, 100):
        for energy in photon_energies(np.array([20.0]), np.array([cosine]))[0]:
            alpha = 1 + 0.5 * (np.log(energy / ECAL.critical_gev) + 0.5)
            profile = depth ** (alpha - 1) * np.exp(-0.5 * depth)
            expected += [part.sum() * energy / profile.sum() for part in np.split(profile, edges)]
    shares = neutral(central).sum(axis=0)
    shares = np.array([*shares[:3], shares[3:].sum()])
    # Shower-to-shower fluctuations widen the mean profile a little.
    np.testing.assert_allclose(shares / shares.sum(), expected / expected.sum(), atol=0.02)
    assert expected[1] / expected.sum() > 0.7


def test_photons_are_as_deep_and_as_long_as_pdgs_profile() -> None:
    spots = showers.photons(np.random.default_rng(1), np.full(400, 10.0), np.zeros((400, 2)))
    depth = spots.z_mm[spots.z_mm < ECAL_MM] / ECAL.radiation_length_mm
    alpha = 1 + 0.5 * (np.log(10 / ECAL.critical_gev) + 0.5)
    assert depth.mean() == pytest.approx(alpha / 0.5, rel=0.03)
    assert depth.std() == pytest.approx(np.sqrt(alpha) / 0.5, rel=0.1)  # fluctuations make it longer, the ECAL's end shorter


def test_showers_fluctuate_in_depth(central: LayeredEvents) -> None:
    first = neutral(central)[:, 0] / neutral(central).sum(axis=1)
    counting = np.sqrt(first.mean() * (1 - first.mean()) / (20 / 0.069**2))
    assert first.std() > 5 * counting


def test_electrons_and_photons_are_measured_with_the_ecals_sampling_term(central: LayeredEvents) -> None:
    term = neutral(central).sum(axis=1).std() / np.sqrt(20)
    assert 0.069 < term < 0.085  # 0.7 % of the energy is behind the ECAL, where the term is six times larger


def test_the_hcals_sampling_term_is_that_of_its_spots() -> None:
    rng = np.random.default_rng(2)
    n = 4000
    spots = showers._ionisation(rng, np.full(n, 5.0), np.full(n, ECAL_MM), np.full(n, 100.0), HCAL_SPOT_GEV)
    sums = np.bincount(spots.shower_N, spots.energy_N, n)
    assert sums.mean() == pytest.approx(5, rel=0.02)
    assert sums.std() / np.sqrt(5) == pytest.approx(0.40, rel=0.05)  # 4,000 numbers know their width to 1 %


def test_nine_tenths_of_a_photon_are_within_a_moliere_radius() -> None:
    spots = showers.photons(np.random.default_rng(1), np.full(200, 10.0), np.zeros((200, 2)))
    radius = np.hypot(*spots.offset_2N)
    for radii, share in ((1, 0.90), (2, 0.95)):
        inside = spots.energy_N[radius < radii * ECAL.moliere_mm].sum() / spots.energy_N.sum()
        assert inside == pytest.approx(share, abs=0.025)


def test_a_charged_pion_starts_to_shower_anywhere(central: LayeredEvents) -> None:
    ecal = charged(central)[:, :3].sum(axis=1)
    passed = np.exp(-ECAL_MM / ECAL.interaction_length_mm)
    # Those that ionise only leave 0.24 GeV; a few of the others start close to the end.
    assert (ecal < 0.5).mean() == pytest.approx(passed, abs=0.04)
    assert np.median(ecal[ecal < 0.5]) == pytest.approx(ECAL_MM * ECAL.mip_gev_per_mm, rel=0.1)


def test_a_charged_pion_is_seen_with_less_than_its_energy_and_widely(central: LayeredEvents) -> None:
    response = charged(central).sum(axis=1) / 20
    fraction = 1 - 20**-0.18
    # All energy with e/h of one or the other calorimeter, without leakage.
    low, high = (fraction + (1 - fraction) * medium.hadron_response for medium in (ECAL, HCAL))
    assert low - 0.03 < response.mean() < high + 0.03
    assert 0.25 < response.std() * np.sqrt(20) < 0.5


def test_the_electromagnetic_part_has_grooms_mean() -> None:
    drawn = showers._em_fraction(np.random.default_rng(1), np.full(20_000, 20.0))
    assert drawn.mean() == pytest.approx(1 - 20**-0.18, abs=0.005)
    assert drawn.std() / drawn.mean() == pytest.approx(0.35, rel=0.03)
    assert ((drawn >= 0) & (drawn <= 1)).all()


# Places


def test_showers_are_where_their_particles_go() -> None:
    events = Generated(Gun((20.0, 20.0), (20.0, 20.0), 144.0, (100.0, 288.0))).events(256, 8)
    centre = (np.arange(64) + 0.5) * 36 - SIDE_MM / 2
    part = events.neutral_gev[1]

    def from_track(cells: np.ndarray) -> np.ndarray:
        energy = np.maximum(cells.sum(axis=(1, 2), dtype=float), 1e-9)
        x, y = ((cells.sum(axis=axis, dtype=float) * centre).sum(axis=1) / energy for axis in (1, 2))
        return np.hypot(x - events.track_mm[:, 0], y - events.track_mm[:, 1])

    # Half a cell: the charged shower is on its track, the neutral one as far away as it should be, farther out at this depth.
    assert np.median(from_track(events.cells_gev[1] - part)) < 18
    scale = (GUN_DISTANCE_MM + TRACK_DEPTH_MM) / GUN_DISTANCE_MM
    assert np.median(np.abs(from_track(part) - scale * events.distance_mm)) < 18


def test_tracks_are_smeared_a_little(usual: LayeredEvents) -> None:
    ratio = usual.track_gev / usual.true_charged_gev - 1
    assert abs(ratio.mean()) < 0.003
    assert 0.012 < ratio.std() < 0.019  # 1 % and 0.05 % per GeV at 15 to 30 GeV
    assert usual.true_charged_gev.min() >= 15
    assert usual.true_charged_gev.max() <= 30
    assert usual.true_neutral_gev.min() >= 10
    assert usual.true_neutral_gev.max() <= 30
    assert usual.distance_mm.max() <= 288
    assert np.abs(usual.track_mm).max() < 144 * 1.2 + 10


def test_spread_cells_keep_their_energy_and_place(usual: LayeredEvents) -> None:
    image = spread(usual.cells_gev)
    assert image.shape == (640, 6, 64, 64)
    for number, cells in enumerate(usual.cells_gev):
        np.testing.assert_allclose(image[:, number].sum(axis=(1, 2)), cells.sum(axis=(1, 2)), rtol=1e-5)
    np.testing.assert_array_equal(image[:, 1], usual.cells_gev[1])
    np.testing.assert_array_equal(image[:, 0, 0], usual.cells_gev[0][:, 0] / 2)
    np.testing.assert_array_equal(image[:, 0, 1], usual.cells_gev[0][:, 0] / 2)
    np.testing.assert_array_equal(image[:, 5, 8:16, 16:24], np.broadcast_to(usual.cells_gev[5][:, 1:2, 2:3] / 64, (640, 8, 8)))


def test_cells_are_what_both_particles_leave_there(usual: LayeredEvents) -> None:
    for layer, cells, part in zip(LAYERS, usual.cells_gev, usual.neutral_gev, strict=True):
        assert cells.shape == part.shape == (640, *layer.shape)
        assert cells.dtype == part.dtype == np.float32
        assert (part >= 0).all()
        assert (cells >= part).all()


# Seeds


def test_an_event_depends_on_seed_stream_and_number_only() -> None:
    generator = Generated()
    events = generator.events(150, 4)
    assert same(generator.events(150, 4), events)
    assert same(generator.events(70, 4), events.rows(slice(0, 70)))
    assert same(generator.events(80, 4, first=60), events.rows(slice(60, 140)))
    for other in (generator.events(150, 5), generator.events(150, 4, stream=1)):
        assert not set(other.track_gev.tolist()) & set(events.track_gev.tolist())
    assert len(set(events.track_gev.tolist())) == 150
    assert len(generator.events(0, 4)) == 0


def test_the_digest_is_that_of_the_settings() -> None:
    assert Generated().digest == Generated().digest
    assert Generated(Gun(charged_gev=(15.0, 31.0))).digest != Generated().digest
    assert len(Generated()) == EVENTS
    assert Generated().provenance["version"] == "parametrised"


@pytest.mark.parametrize(
    ("call", "complaint"),
    [
        (lambda: Generated().events(-1, 1), "n_events = -1: give 0 or more"),
        (lambda: Generated().events(1, -1), "seed = -1: give 0 or more"),
        (
            lambda: Generated().events(2, 1, first=999_999),
            "events 999999 to 1000000: a seed has 1,000,000 events, use another one for more",
        ),
        (lambda: Gun(charged_gev=(30.0, 15.0)), "charged_gev = 30 to 15: give finite numbers from 1 up, the smaller first"),
        (lambda: Gun(neutral_gev=(0.1, 1.0)), "neutral_gev = 0.1 to 1: give finite numbers from 1 up, the smaller first"),
        (lambda: Gun(distance_mm=(0.0, np.nan)), "distance_mm = 0 to nan: give finite numbers from 0 up, the smaller first"),
        (
            lambda: Gun(impact_mm=1000.0),
            "impact_mm = 1000 and distance_mm up to 288: particles would miss the face, which reaches to 1152 mm",
        ),
    ],
)
def test_what_cannot_be_generated_is_refused(call: Any, complaint: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(complaint)}$"):
        call()


# Our files


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "events.hdf5"
    write_layered(path, generate(6, 2))
    return path


def test_a_file_holds_what_was_written(file: Path, tmp_path: Path) -> None:
    read = read_layered(file)
    assert same(read.events, Generated().events(6, 2))
    assert len(read) == 6
    assert read.path == file
    assert read.provenance["seed"] == "2"
    assert read.provenance == generate(6, 2).provenance
    again = tmp_path / "again.hdf5"
    write_layered(again, read)
    assert again.read_bytes() == file.read_bytes()
    assert read_layered(again).digest == read.digest


def test_a_name_is_the_generator_and_a_path_a_file(file: Path) -> None:
    assert open_layered("generated") == Generated()
    assert isinstance(open_layered(str(file)), LayeredSample)


def changed(file: Path, name: str, change: Any) -> None:
    with h5py.File(file, "r+") as opened:
        values = change(opened[name][()])
        del opened[name]
        if values is not None:
            opened[name] = values


def put(place: tuple[int, ...], value: float) -> Any:
    def change(values: np.ndarray) -> np.ndarray:
        values[place] = value
        return values

    return change


@pytest.mark.parametrize(
    ("name", "change", "complaint"),
    [
        ("cell_energy_L3", lambda _: None, r"no dataset 'cell_energy_L3' \(found: .*\); such a file has cell_energy_L1, .*"),
        ("track_mm", lambda _: None, r"no dataset 'track_mm' \(found: .*\); such a file has track_gev, .*"),
        (
            "cell_energy_L1",
            lambda v: v.transpose(0, 2, 1),
            r"'cell_energy_L1' holds \(6, 64, 32\) float32; expected \(N, 32, 64\) numbers, φ × η",
        ),
        ("neutral_energy_L6", lambda v: v[:5], "'neutral_energy_L6' has 5 events, 'cell_energy_L1' has 6; make the file again"),
        ("cell_energy_L2", put((1, 2, 3), np.nan), r"cell_energy_L2\[1, 2, 3\] = nan is not finite; make the file again"),
        ("cell_energy_L2", put((1, 2, 3), -1), r"cell_energy_L2\[1, 2, 3\] = -1 is negative; make the file again"),
        (
            "neutral_energy_L2",
            put((0, 0, 0), 99),
            r"neutral_energy_L2\[0, 0, 0\] = 99 is more than its cell has; make the file again",
        ),
        ("track_gev", put((2,), np.inf), r"track_gev\[2\] = inf is infinite; make the file again"),
        ("track_gev", put((2,), 0), r"track_gev\[2\] = 0 is no energy above 0; make the file again"),
        ("track_gev", lambda v: v[:, None], r"'track_gev' holds \(6, 1\) float64; expected \(6,\) numbers"),
        ("track_mm", lambda v: v.astype("S4"), r"'track_mm' holds \(6, 2\) \|S4; expected \(6, 2\) numbers"),
    ],
)
def test_a_wrong_file_is_refused_with_place_and_cure(file: Path, name: str, change: Any, complaint: str) -> None:
    changed(file, name, change)
    with pytest.raises(BadData, match=f"^{re.escape(str(file))}: {complaint}$"):
        read_layered(file)


def test_what_is_no_file_of_events_is_refused(tmp_path: Path, file: Path) -> None:
    none = tmp_path / "none.h5"
    with pytest.raises(BadData, match=r"none\.h5: no such file; make one with write_layered\(path, generate\(2000, seed=1\)\)$"):
        read_layered(none)
    with pytest.raises(BadData, match=r"^jets: neither the generator, 'generated', nor a file ending in \.h5, \.hdf5 or \.npz$"):
        open_layered("jets")
    with pytest.raises(
        Unsupported, match=r"dump\.root: ROOT files are not read; convert the tree with numpy\.savez\(path, \*\*up"
    ):
        open_layered(tmp_path / "dump.root")
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(BadData, match=r"events\.hdf5: not a readable HDF5 file \(.*\); damaged or truncated: make or copy it"):
        read_layered(file)
    broken = tmp_path / "broken.npz"
    broken.write_bytes(b"PK\x03\x04 no archive")
    with pytest.raises(BadData, match=r"broken\.npz: not a readable \.npz file \(.*\); damaged or truncated: make or copy it"):
        read_layered(broken)
    with pytest.raises(UserError, match=r"events\.npz: a sample of layers ends in \.hdf5; give such a name$"):
        write_layered(tmp_path / "events.npz", generate(1, 1))


# Published images


def published(events: LayeredEvents) -> dict[str, np.ndarray]:
    """The same events with the published names and units."""
    names = {}
    for n, (cells, part) in enumerate(zip(events.cells_gev, events.neutral_gev, strict=True), 1):
        names[f"cell_Energy_L{n}"] = 1e3 * cells
        names[f"cellCh_Energy_L{n}"] = 1e3 * (cells - part)
        names[f"cellNu_Energy_L{n}"] = 1e3 * part
    return names


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
@pytest.mark.parametrize("tracks", [True, False])
def test_published_images_are_read(tmp_path: Path, suffix: str, tracks: bool) -> None:
    events = Generated().events(5, 1)
    arrays = published(events)
    if tracks:
        arrays |= {"track_gev": events.track_gev, "track_mm": events.track_mm}
    path = tmp_path / f"images{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    else:
        with h5py.File(path, "w") as opened:
            for name, values in arrays.items():
                opened[name] = values
    read = read_layered(path).events
    for actual, expected in zip((*read.cells_gev, *read.neutral_gev), (*events.cells_gev, *events.neutral_gev), strict=True):
        np.testing.assert_allclose(actual, expected, rtol=1e-6)  # there and back in single precision
    np.testing.assert_array_equal(read.track_gev, events.track_gev if tracks else np.full(5, np.nan))
    assert np.isnan(read.track_mm).all() != tracks
    assert np.isnan(read.distance_mm).all()


def test_published_images_that_contradict_themselves_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "images.npz"
    arrays = published(Generated().events(2, 1))
    arrays["cell_Energy_L4"][1, 8, 8] += 5
    np.savez(path, **arrays)
    with pytest.raises(
        BadData, match=r"cell_Energy_L4\[1, 8, 8\] = .* is not the sum of its charged and its neutral energy; make"
    ):
        read_layered(path)
    del arrays["cellNu_Energy_L1"]
    np.savez(path, **arrays)
    with pytest.raises(BadData, match=r"no dataset 'cellNu_Energy_L1' \(found: .*\); such a file has cell_Energy_L1, "):
        read_layered(path)


def test_a_sample_without_events_is_written_and_read(tmp_path: Path) -> None:
    path = tmp_path / "empty.h5"
    write_layered(path, replace(generate(0, 1), provenance={}))
    assert len(read_layered(path)) == 0
