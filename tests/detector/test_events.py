"""Composing events: where showers go, the noise formula, the read-out threshold, and the windows against a plain loop."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from caloedge.detector.crystals.events import (
    CONSTANT,
    ELECTRONIC_GEV,
    GRID,
    MARGIN,
    READOUT_GEV,
    SEED_THRESHOLD_GEV,
    STOCHASTIC,
    WINDOW,
    CrystalEvents,
    check_matrix,
    compose,
    digitise,
    opening_angle,
    pion_distance,
    windows,
)
from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.errors import BadData


@pytest.fixture(scope="module")
def events(library: ShowerLibrary) -> CrystalEvents:
    return compose(library, np.arange(len(library)), 1000, np.random.default_rng(1))


def write(path: Path, cells: int, impact_mm: float = 0.0) -> ShowerLibrary:
    with h5py.File(path, "w") as file:
        file["incident_energies"], file["showers"] = np.full((2, 1), 1e4), np.ones((2, cells))
        file["impact_mm"] = np.array([[0.0, 0.0], [0.0, impact_mm]])
    return open_library(path)


def flat(energy_gev: float, n_events: int = 20) -> np.ndarray:
    return np.full((n_events, GRID, GRID), energy_gev, np.float32)


def test_photons_keep_their_distance_from_the_border_and_from_each_other(events: CrystalEvents) -> None:
    crystals = np.floor(events.impact_EP2)
    present = np.isfinite(events.energy_EP)
    assert crystals[present].min() == MARGIN
    assert crystals[present].max() == GRID - MARGIN - 1
    two = present.all(axis=1)
    distance = np.hypot(*(events.impact_EP2[two, 0] - events.impact_EP2[two, 1]).T)
    assert distance.min() >= 1
    assert (crystals[two, 0] != crystals[two, 1]).any(axis=1).all()


def test_half_of_the_events_have_two_photons_and_many_pairs_are_close(events: CrystalEvents) -> None:
    two = np.isfinite(events.energy_EP).all(axis=1)
    assert np.isfinite(events.energy_EP[:, 0]).all()
    # 4σ of a binomial with p = 1/2
    assert abs(two.mean() - 0.5) < 4 * np.sqrt(0.25 / len(two))
    distance = np.hypot(*(events.impact_EP2[two, 0] - events.impact_EP2[two, 1]).T)
    # log-uniform from 1 to 45: log 3 / log 45 = 29 % below 3, fewer as impacts round to whole crystals, more as far ones leave
    assert 0.2 < (distance < 3).mean() < 0.45
    assert distance.max() > 25


def test_impact_points_keep_their_place_in_the_crystal(library: ShowerLibrary, events: CrystalEvents) -> None:
    known = np.round(library.impact_mm / 22.0 + 0.5, 6)
    inside = np.round(events.impact_EP2[:, 0] % 1, 6)
    pairs = {tuple(pair) for pair in known}
    assert all(tuple(pair) in pairs for pair in inside)


def test_a_shower_is_added_where_it_hits(library: ShowerLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise, an event is the sum of its showers moved to their crystals, and nothing else."""
    monkeypatch.setattr("caloedge.detector.crystals.events.digitise", lambda cells, rng: cells)
    composed = compose(library, np.array([5]), 40, np.random.default_rng(2))
    shower = library.cells_mev[5].reshape(25, 25) * np.float32(1e-3)
    for cells, impact in zip(composed.cells_EXY, composed.impact_EP2, strict=True):
        expected = np.zeros((GRID, GRID))
        for x, y in np.floor(impact[np.isfinite(impact).all(axis=1)]).astype(int):
            for i in range(25):
                for j in range(25):
                    if 0 <= x + i - 12 < GRID and 0 <= y + j - 12 < GRID:
                        expected[x + i - 12, y + j - 12] += shower[i, j]
        # 1e-6 relative: two float32 terms added in MeV or in GeV
        np.testing.assert_allclose(cells, expected, rtol=1e-6)


@pytest.mark.parametrize("energy_gev", [2.0, 10.0, 80.0])
def test_the_noise_follows_its_formula(energy_gev: float) -> None:
    noisy = digitise(flat(energy_gev), np.random.default_rng(3)).astype(float)
    sigma = np.sqrt(ELECTRONIC_GEV**2 + STOCHASTIC**2 * energy_gev + (CONSTANT * energy_gev) ** 2)
    # 5 standard errors of the mean and of the standard deviation of n Gaussian numbers
    assert abs(noisy.mean() - energy_gev) < 5 * sigma / np.sqrt(noisy.size)
    assert abs(noisy.std() / sigma - 1) < 5 / np.sqrt(2 * noisy.size)


def test_the_terms_of_the_noise_are_the_published_ones() -> None:
    """DeepCluster (arXiv 2311.17914): 3 % / √E, 167 MeV, 0.35 %, 50 MeV; at 80 GeV σ is 423 MeV, not 2.83 GeV."""
    assert (STOCHASTIC, ELECTRONIC_GEV, READOUT_GEV) == (0.03, 0.167, 0.05)
    assert pytest.approx(0.0035) == CONSTANT
    sigma = digitise(flat(80.0), np.random.default_rng(8)).std(dtype=float)
    assert sigma == pytest.approx(0.42295, rel=5 / np.sqrt(2 * flat(80.0).size))  # 5 standard errors


def test_the_photons_of_a_pion_balance_their_momenta() -> None:
    """E₁ sin θ₁ = E₂ sin θ₂ about the flight: the harder photon is nearer to it. Wide pairs tell that from equal angles."""
    energy = np.array([[0.2, 1.0], [1.0, 0.2], [0.1, 0.5], [0.3, 0.3], [5.0, 1.5]])
    m = 0.1349768
    for (e1, e2), distance in zip(energy, pion_distance(energy), strict=True):
        p = np.sqrt((e1 + e2) ** 2 - m**2)
        along = [(p**2 + e**2 - other**2) / (2 * p) for e, other in ((e1, e2), (e2, e1))]  # cosine theorem
        across = np.sqrt(e1**2 - along[0] ** 2)
        # 1e-9: differences of nearly equal squares in float64
        assert distance == pytest.approx((across / along[0] + across / along[1]) * 1290.0 / 22.0, rel=1e-9)
    narrow = 2 * np.tan(opening_angle(energy) / 2) * 1290.0 / 22.0
    assert abs(narrow[0] / pion_distance(energy)[0] - 1) > 1e-3


def test_each_term_of_the_noise_matters() -> None:
    """At these energies the three terms are within the reach of the test above: none can be missing unnoticed."""
    reach = 5 / np.sqrt(2 * flat(1.0).size)
    for energy_gev, term in ((2.0, ELECTRONIC_GEV**2), (10.0, STOCHASTIC**2 * 10), (80.0, (CONSTANT * 80) ** 2)):
        total = ELECTRONIC_GEV**2 + STOCHASTIC**2 * energy_gev + (CONSTANT * energy_gev) ** 2
        assert 1 - np.sqrt(1 - term / total) > reach


def test_cells_below_the_read_out_threshold_are_zero() -> None:
    noisy = digitise(flat(0.0), np.random.default_rng(4))
    recorded = noisy[noisy != 0]
    assert recorded.min() >= READOUT_GEV
    p = 0.38230  # of a Gaussian above 0.05 / 0.167 = 0.29940 standard deviations
    assert abs((noisy != 0).mean() - p) < 5 * np.sqrt(p * (1 - p) / noisy.size)  # 5σ, binomial


def test_the_same_generator_gives_the_same_events(library: ShowerLibrary) -> None:
    rows = np.arange(len(library))
    first, second, other = (compose(library, rows, 30, np.random.default_rng(seed)) for seed in (5, 5, 6))
    np.testing.assert_array_equal(first.cells_EXY, second.cells_EXY)
    np.testing.assert_array_equal(first.impact_EP2, second.impact_EP2)
    assert not np.array_equal(first.cells_EXY, other.cells_EXY)


def test_windows_equal_a_plain_loop(events: CrystalEvents) -> None:
    few = CrystalEvents(events.cells_EXY[:25], events.impact_EP2[:25], events.energy_EP[:25], events.shower_EP[:25])
    extracted = windows(few)
    cells, event, crystal = [], [], []
    for e in range(25):
        for x in range(MARGIN, GRID - MARGIN):
            for y in range(MARGIN, GRID - MARGIN):
                if few.cells_EXY[e, x, y] > SEED_THRESHOLD_GEV:
                    cells.append(few.cells_EXY[e, x - 3 : x + 4, y - 3 : y + 4])
                    event.append(e)
                    crystal.append((x, y))
    assert extracted.cells_WXY.shape[1:] == (WINDOW, WINDOW)
    np.testing.assert_array_equal(extracted.cells_WXY, np.array(cells))
    np.testing.assert_array_equal(extracted.event_W, event)
    np.testing.assert_array_equal(extracted.crystal_W2, crystal)


def test_another_calorimeter_is_refused(tmp_path: Path) -> None:
    library = write(tmp_path / "wsi.h5", 6480)
    with pytest.raises(BadData) as caught:
        check_matrix(library)
    assert str(caught.value) == (
        f"{library.path}: showers have 6480 cells; this task needs 25×25 = 625 PbWO4 crystals"
        " (caloedge simulate --geometry pbwo4)"
    )


def test_impact_points_outside_the_central_crystal_are_refused(tmp_path: Path) -> None:
    check_matrix(write(tmp_path / "edge.h5", 625, impact_mm=-11.0))
    library = write(tmp_path / "outside.h5", 625, impact_mm=-12.5)
    with pytest.raises(BadData) as caught:
        check_matrix(library)
    assert str(caught.value) == (
        f"{library.path}: an impact point lies 1.5 mm outside the central crystal (±11.0 mm);"
        " impact_mm is measured from that crystal's centre"
    )
