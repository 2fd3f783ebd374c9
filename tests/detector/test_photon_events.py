"""Events of photons and π⁰: kinds, kinematics, placement and the eight orientations of each event."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from caloedge.detector.constants import PI0_MASS_GEV
from caloedge.detector.crystals import events, photon_events
from caloedge.detector.crystals.events import GRID, MARGIN, split_rows
from caloedge.detector.crystals.geometry import PBWO4
from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.detector.crystals.photon_events import (
    KINDS,
    LOWEST_PHOTON_GEV,
    MOST_APART,
    ONE,
    PION,
    PION_GEV,
    SHARES,
    TWO,
    PhotonEvents,
)

Compose = Callable[..., PhotonEvents]


@pytest.fixture(scope="module")
def shipped() -> ShowerLibrary:
    return open_library("pbwo4_gamma")


@pytest.fixture(scope="module")
def mixed(shipped: ShowerLibrary) -> PhotonEvents:
    return photon_events.compose(shipped, split_rows(len(shipped), "test"), 3000, np.random.default_rng(1))


@pytest.fixture(scope="module")
def pions(shipped: ShowerLibrary) -> PhotonEvents:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(photon_events, "SHARES", (0, 0, 1))
        return photon_events.compose(shipped, split_rows(len(shipped), "train"), 3000, np.random.default_rng(2))


@pytest.fixture
def clean(shipped: ShowerLibrary, monkeypatch: pytest.MonkeyPatch) -> Compose:
    """Compose events of the shipped library without noise."""
    monkeypatch.setattr(events, "digitise", lambda cells, rng: cells)

    def compose(
        rows: np.ndarray, n_events: int, seed: int, shares: tuple[float, ...] = SHARES, library: ShowerLibrary = shipped
    ) -> PhotonEvents:
        monkeypatch.setattr(photon_events, "SHARES", shares)
        return photon_events.compose(library, rows, n_events, np.random.default_rng(seed))

    return compose


def crystals_hit(composed: PhotonEvents) -> np.ndarray:
    return np.floor(composed.crystals.impact_EP2)


# Kinds and placement


def test_kinds_come_in_their_shares(mixed: PhotonEvents) -> None:
    assert sum(SHARES) == pytest.approx(1, abs=1e-12)  # rounding of doubles
    assert len(SHARES) == len(KINDS)
    for kind, share in enumerate(SHARES):
        # 4σ of a binomial
        assert abs((mixed.kind_E == kind).mean() - share) < 4 * np.sqrt(share * (1 - share) / len(mixed.kind_E))
    absent = mixed.kind_E == ONE
    crystals = mixed.crystals
    assert np.isfinite(crystals.energy_EP[:, 0]).all()
    np.testing.assert_array_equal(np.isnan(crystals.energy_EP[:, 1]), absent)
    np.testing.assert_array_equal(np.isnan(crystals.impact_EP2[:, 1]).any(axis=1), absent)
    np.testing.assert_array_equal(crystals.shower_EP[:, 1] == -1, absent)
    np.testing.assert_array_equal(np.isnan(mixed.distance), absent)


def test_every_window_of_a_photon_fits_into_the_grid(mixed: PhotonEvents, pions: PhotonEvents) -> None:
    for composed in (mixed, pions):
        hit = crystals_hit(composed)
        for axis in (0, 1):
            assert np.nanmin(hit[..., axis]) == MARGIN
            assert np.nanmax(hit[..., axis]) == GRID - MARGIN - 1


def test_two_photons_keep_their_distance(mixed: PhotonEvents) -> None:
    two = mixed.kind_E == TWO
    first, second = (mixed.crystals.impact_EP2[two, photon] for photon in (0, 1))
    distance = np.sqrt(((first - second) ** 2).sum(axis=1))
    np.testing.assert_allclose(mixed.distance[two], distance, rtol=1e-12)  # rounding of doubles
    assert distance.min() >= 1 - 1e-9
    assert 0.2 < (distance < 3).mean() < 0.45  # log 3 / log 45 = 29 %, as for `events.compose`
    assert distance.max() > 30


def test_cells_hold_the_showers_of_their_photons_and_nothing_else(shipped: ShowerLibrary, clean: Compose) -> None:
    sampled = clean(split_rows(len(shipped), "test"), 300, 3)
    crystals = sampled.crystals
    np.testing.assert_array_equal(
        crystals.energy_EP, np.where(crystals.shower_EP < 0, np.nan, shipped.energies_mev[crystals.shower_EP] * 1e-3)
    )
    middle = np.abs(crystals_hit(sampled) - GRID // 2).max(axis=2)
    contained = (np.isnan(middle) | (middle <= GRID // 2 - 12)).all(axis=1)
    assert contained.sum() > 50
    assert len(np.unique(sampled.kind_E[contained])) == 3
    total = np.where(crystals.shower_EP < 0, 0, shipped.cells_mev.sum(axis=1)[crystals.shower_EP]).sum(axis=1) * 1e-3
    # 1e-5: sums of float32
    np.testing.assert_allclose(crystals.cells_EXY.sum(axis=(1, 2))[contained], total[contained], rtol=1e-5)


# Pions


def mass_gev(energy_EP: np.ndarray, distance_E: np.ndarray) -> np.ndarray:
    """Return the mass of two photons that hit this far apart, from transverse momenta that cancel; found by bisection."""
    apart_mm = distance_E * PBWO4.cell_mm
    low, high = np.zeros_like(apart_mm), np.full_like(apart_mm, 0.3)
    for _ in range(60):
        first = (low + high) / 2
        second = np.arcsin(np.clip(energy_EP[:, 0] * np.sin(first) / energy_EP[:, 1], 0, 1))
        far = 1290 * (np.tan(first) + np.tan(second)) > apart_mm
        low, high = np.where(far, low, first), np.where(far, first, high)
    return np.sqrt(2 * energy_EP[:, 0] * energy_EP[:, 1] * (1 - np.cos(first + second)))


def test_the_photons_of_a_pion_have_its_mass(mixed: PhotonEvents, pions: PhotonEvents) -> None:
    for composed in (mixed, pions):
        chosen = composed.kind_E == PION
        distance = composed.distance[chosen]
        mass = mass_gev(composed.crystals.energy_EP[chosen], distance)
        # Showers keep their place in the crystal, so distances are met to `MISMATCH` crystals; masses are proportional to them.
        assert (np.abs(mass / PI0_MASS_GEV - 1) <= 1.05 * events.MISMATCH / distance).all()
        # A sixth of that in the mean, and for 7 crystals at most; a wrong mass or distance would shift all.
        assert abs(np.median(mass) / PI0_MASS_GEV - 1) < 0.002
        assert distance.max() < MOST_APART


def kolmogorov_smirnov(values: np.ndarray, low: float, high: float) -> float:
    """Return √n times the largest difference of the distribution function from a uniform one's: above 1.95 for one in 1000."""
    n = len(values)
    expected = (np.sort(values) - low) / (high - low)
    return float(np.sqrt(n) * max(np.abs(expected - np.arange(n) / n).max(), np.abs(expected - np.arange(1, n + 1) / n).max()))


def test_pions_have_log_uniform_momenta_and_decay_isotropically(pions: PhotonEvents) -> None:
    energy = pions.crystals.energy_EP
    assert energy.min() >= LOWEST_PHOTON_GEV
    total = energy.sum(axis=1)
    momentum = np.sqrt(total**2 - PI0_MASS_GEV**2)
    # Of the nearest energies in the library those are taken that meet the distance: 1 % off.
    assert momentum.min() > PION_GEV[0] * 0.98
    assert momentum.max() < PION_GEV[1] * 1.02
    assert kolmogorov_smirnov(np.log(momentum), *np.log(PION_GEV)) < 1.95
    cosine = (energy[:, 0] - energy[:, 1]) / momentum
    most = np.minimum(1, (total - 2 * LOWEST_PHOTON_GEV) / momentum)
    assert (np.abs(cosine) < 1.05).all()
    assert kolmogorov_smirnov(np.clip(cosine / most, -1, 1), -1, 1) < 1.95
    # The test sees a spectrum that is not uniform: without the acceptance, say.
    assert kolmogorov_smirnov(np.clip(cosine, -1, 1), -1, 1) > 1.95


# Showers


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_only_the_given_showers_are_used(library: ShowerLibrary, monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    used: set[int] = set()
    deposit = events.deposit

    def spy(showers: np.ndarray, chosen: np.ndarray, crystals: np.ndarray, two: np.ndarray) -> np.ndarray:
        used.update(chosen.ravel().tolist())
        return deposit(showers, chosen, crystals, two)

    monkeypatch.setattr(events, "deposit", spy)
    rows = split_rows(len(library), split)
    sampled = photon_events.compose(library, rows, 400, np.random.default_rng(4))
    shown = sampled.crystals.shower_EP
    assert set(shown[shown >= 0].tolist()) <= used <= set(rows.tolist())
    assert len(used) > 50
    assert len(set(shown[sampled.kind_E == PION].ravel().tolist())) > 20


def test_the_same_generator_gives_the_same_events(library: ShowerLibrary) -> None:
    rows = split_rows(len(library), "train")
    first, again, other = (photon_events.compose(library, rows, 60, np.random.default_rng(seed)) for seed in (5, 5, 6))
    for field in ("cells_EXY", "impact_EP2", "energy_EP", "shower_EP"):
        np.testing.assert_array_equal(getattr(first.crystals, field), getattr(again.crystals, field))
    np.testing.assert_array_equal(first.kind_E, again.kind_E)
    assert not np.array_equal(first.crystals.cells_EXY, other.crystals.cells_EXY)


# The eight orientations


def orientations(cells_XY: np.ndarray, impact_P2: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return an event in its eight orientations."""
    mixed = []
    for transposed in (False, True):
        for mirrored_x in (False, True):
            for mirrored_y in (False, True):
                cells, impact = cells_XY, impact_P2.copy()
                if mirrored_x:
                    cells, impact[:, 0] = cells[::-1], 51 - impact[:, 0]
                if mirrored_y:
                    cells, impact[:, 1] = cells[:, ::-1], 51 - impact[:, 1]
                if transposed:
                    cells, impact = cells.T, impact[:, ::-1]
                mixed.append((cells, impact))
    return mixed


def oriented_and_not(clean: Compose, monkeypatch: pytest.MonkeyPatch, *arguments: object) -> tuple[PhotonEvents, PhotonEvents]:
    oriented = clean(*arguments)
    monkeypatch.setattr(photon_events, "_oriented_at_random", lambda cells, impact, rng: (cells, impact))
    return oriented, clean(*arguments)


def test_an_event_is_one_of_its_eight_orientations(
    shipped: ShowerLibrary, clean: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    n = 480
    oriented, start = oriented_and_not(clean, monkeypatch, split_rows(len(shipped), "test"), n, 7)
    np.testing.assert_array_equal(oriented.kind_E, start.kind_E)
    counts = np.zeros(8, int)
    for e in range(n):
        cells, impact = oriented.crystals.cells_EXY[e], oriented.crystals.impact_EP2[e]
        matching = [
            number
            for number, (cells_8, impact_8) in enumerate(orientations(start.crystals.cells_EXY[e], start.crystals.impact_EP2[e]))
            if np.array_equal(cells, cells_8) and np.array_equal(impact, impact_8, equal_nan=True)
        ]
        assert len(matching) == 1, f"event {e}: orientations {matching}"
        counts[matching[0]] += 1
    # 4σ of a binomial
    assert (np.abs(counts - n / 8) < 4 * np.sqrt(n * 7 / 64)).all(), counts


def test_pions_are_placed_anywhere_before_they_are_oriented(
    shipped: ShowerLibrary, clean: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turning would hide a border that is never reached."""
    _, start = oriented_and_not(clean, monkeypatch, split_rows(len(shipped), "test"), 1000, 10, (0, 0, 1))
    hit = crystals_hit(start)
    for photon in (0, 1):
        for axis in (0, 1):
            assert hit[:, photon, axis].min() == MARGIN
            assert hit[:, photon, axis].max() == GRID - MARGIN - 1


def test_a_lone_shower_lies_around_its_impact_point_in_every_orientation(
    shipped: ShowerLibrary, clean: Compose, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = split_rows(len(shipped), "test")
    rows = rows[shipped.energies_mev[rows] > 20_000]
    n = 800
    oriented, start = oriented_and_not(clean, monkeypatch, rows, n, 8, (1, 0, 0))
    impact = oriented.crystals.impact_EP2[:, 0]
    centre = np.empty((n, 2))
    orientation = np.empty(n, int)
    for e, cells in enumerate(oriented.crystals.cells_EXY):
        centre[e] = [(cells.sum(axis=1 - axis) * (np.arange(GRID) + 0.5)).sum() / cells.sum() for axis in (0, 1)]
        candidates = orientations(start.crystals.cells_EXY[e], start.crystals.impact_EP2[e])
        orientation[e] = next(number for number, (cells_8, _) in enumerate(candidates) if np.array_equal(cells_8, cells))
    contained = (np.abs(np.floor(impact) - GRID // 2) <= GRID // 2 - 12).all(axis=1)
    for number in range(8):
        selected = (orientation == number) & contained
        assert selected.sum() > 15
        apart = centre[selected] - impact[selected]
        assert np.abs(apart).max() < 0.6
        for axis in (0, 1):
            inside = impact[selected, axis] % 1 - 0.5
            # The centre moves with the impact point inside its crystal: mirrored wrongly, it would move against it.
            assert np.corrcoef(inside, centre[selected, axis] - np.floor(impact[selected, axis]))[0, 1] > 0.85


def test_a_photon_on_the_edge_of_its_crystal_stays_in_it(tmp_path: Path, clean: Compose) -> None:
    path = tmp_path / "edges.h5"
    half = PBWO4.impact_half_width_mm
    with h5py.File(path, "w") as file:
        showers = np.zeros((16, 625), np.float32)
        showers[:, 312] = 5000  # all in the crystal that is hit
        file["incident_energies"], file["showers"] = np.full((16, 1), 5e3), showers
        file["impact_mm"] = np.array([[x, y] for x in (-half, 0, half, 3) for y in (-half, 0, half, -3)])
    sampled = clean(np.arange(16), 400, 9, (1, 0, 0), open_library(path))
    x, y = crystals_hit(sampled)[:, 0].astype(int).T
    assert (sampled.crystals.cells_EXY[np.arange(400), x, y] == 5).all()


# Blocks


def test_blocks_are_joined_in_their_order(mixed: PhotonEvents, library: ShowerLibrary) -> None:
    other = photon_events.compose(library, np.arange(len(library)), 5, np.random.default_rng(1))
    both = photon_events.joined([mixed, other])
    np.testing.assert_array_equal(both.kind_E, np.concatenate([mixed.kind_E, other.kind_E]))
    for field in ("cells_EXY", "impact_EP2", "energy_EP", "shower_EP"):
        joined = getattr(both.crystals, field)
        np.testing.assert_array_equal(joined[:3000], getattr(mixed.crystals, field))
        np.testing.assert_array_equal(joined[3000:], getattr(other.crystals, field))


def test_no_events_are_no_events(library: ShowerLibrary) -> None:
    none = photon_events.compose(library, np.arange(len(library)), 0, np.random.default_rng(1))
    assert none.crystals.cells_EXY.shape == (0, GRID, GRID)
    assert none.crystals.impact_EP2.shape == (0, 2, 2)
    assert none.crystals.energy_EP.shape == none.crystals.shower_EP.shape == (0, 2)
    assert none.kind_E.shape == none.distance.shape == (0,)
