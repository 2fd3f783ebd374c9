"""Physics of the shipped library: Geant4 photons in lead tungstate look like photons in lead tungstate."""

import json
import time

import numpy as np
import pytest

from caloedge.detector.crystals.library import ShowerLibrary, open_library, shipped

SIDE, CELL_MM = 25, 22.0


@pytest.fixture(scope="module")
def photons() -> ShowerLibrary:
    return open_library("pbwo4_gamma")


@pytest.fixture(scope="module")
def cells(photons: ShowerLibrary) -> np.ndarray:
    """(N, x, y) GeV."""
    return photons.cells_mev.reshape(-1, SIDE, SIDE).astype(float) * 1e-3


@pytest.fixture(scope="module")
def energy_gev(photons: ShowerLibrary) -> np.ndarray:
    return photons.energies_mev * 1e-3


def block(cells: np.ndarray, half: int) -> np.ndarray:
    """Return the energy of the (2 half + 1)² crystals around the central one."""
    return cells[:, 12 - half : 13 + half, 12 - half : 13 + half].sum(axis=(1, 2))


def bins(energy_gev: np.ndarray, n: int = 6) -> list[np.ndarray]:
    return np.array_split(np.argsort(energy_gev), n)


def test_it_is_large_enough_and_small_enough(photons: ShowerLibrary) -> None:
    assert len(photons) >= 10_000
    assert shipped("pbwo4_gamma").stat().st_size <= 8_000_000
    assert photons.n_cells == SIDE**2


def test_opening_it_reads_no_cells() -> None:
    start = time.perf_counter()
    library = open_library("pbwo4_gamma")
    assert "cells_mev" not in vars(library)
    assert time.perf_counter() - start < 1.0  # measured 0.01 s; reading all cells takes longer


def test_it_says_how_it_was_made(photons: ShowerLibrary) -> None:
    provenance = photons.provenance
    assert provenance["generator"] == "geant4"
    assert provenance["version"].startswith("Geant4 11.")
    assert provenance["physics_list"] == "G4EmStandardPhysics"
    assert provenance["particle"] == "gamma"
    assert (float(provenance["min_energy_gev"]), float(provenance["max_energy_gev"])) == (1, 100)
    assert int(provenance["showers"]) == len(photons)
    assert int(provenance["seed"]) >= 0
    assert json.loads(provenance["geometry"])["cells_per_side"] == SIDE
    assert provenance["data_tables"]
    assert provenance["made_by"].startswith("caloedge ")


def test_energies_are_log_uniform(energy_gev: np.ndarray) -> None:
    place = np.sort(np.log(energy_gev) / np.log(100))
    n = len(place)
    # Kolmogorov–Smirnov: the distance exceeds 1.95 / √n with a probability of 0.1 %
    assert np.abs(place - (np.arange(n) + 0.5) / n).max() < 1.95 / np.sqrt(n)
    assert place[0] >= 0
    assert place[-1] <= 1


def test_impact_points_are_uniform_over_the_crystal(photons: ShowerLibrary) -> None:
    n = len(photons)
    for axis_mm in photons.impact_mm.T:
        place = np.sort(axis_mm / CELL_MM + 0.5)
        assert np.abs(place - (np.arange(n) + 0.5) / n).max() < 1.95 / np.sqrt(n)  # as above
    x_mm, y_mm = photons.impact_mm.T
    assert abs(np.corrcoef(x_mm, y_mm)[0, 1]) < 4 / np.sqrt(n)  # 4σ of no correlation


def test_every_shower_is_another(photons: ShowerLibrary) -> None:
    assert len(np.unique(photons.energies_mev)) > 0.99 * len(photons)  # float32 energies: a handful may coincide
    assert len(np.unique(photons.impact_mm, axis=0)) == len(photons)


def test_central_hits_share_their_energy_as_measured(photons: ShowerLibrary, cells: np.ndarray, energy_gev: np.ndarray) -> None:
    central = np.hypot(*photons.impact_mm.T) < 3
    assert central.sum() > 200
    # Shares of the true energy. 0.01: they change slightly with energy and with the 3 mm allowed here, and the statistical
    # error is below 0.002.
    for half, share in ((0, 0.775), (1, 0.945), (2, 0.981)):
        assert np.mean(block(cells, half)[central] / energy_gev[central]) == pytest.approx(share, abs=0.01)


def test_the_deposited_energy_is_linear(cells: np.ndarray, energy_gev: np.ndarray) -> None:
    share = cells.sum(axis=(1, 2)) / energy_gev
    assert share.max() <= 1.0005  # stored cells are rounded to 2⁻¹² relative
    means = [np.mean(share[rows]) for rows in bins(energy_gev)]
    assert all(0.97 < mean < 1 for mean in means)
    # More leaks out at the back of 26 X0 the higher the energy, less is below the stored 0.1 MeV: half a percent in all.
    assert max(means) - min(means) < 0.007


def test_the_resolution_improves_with_energy(photons: ShowerLibrary, cells: np.ndarray, energy_gev: np.ndarray) -> None:
    """Without noise the 5 × 5 sum of hits well inside the crystal fluctuates by under 2 % at 1 GeV and less above."""
    inside = np.abs(photons.impact_mm).max(axis=1) < 5
    share = block(cells, 2)[inside] / energy_gev[inside]
    spread = [np.subtract(*np.quantile(share[rows], (0.84, 0.16))) / 2 for rows in bins(energy_gev[inside], 4)]
    assert 0.002 < spread[0] < 0.03
    assert spread[-1] < 0.7 * spread[0]
    assert spread[-1] == min(spread)
    assert spread[0] == max(spread)


def test_the_position_is_where_the_photon_hit(photons: ShowerLibrary, cells: np.ndarray) -> None:
    """Log-weighted positions (Awes et al., NIM A 311 (1992) 130, w0 = 4.2) follow the impact point."""
    near = cells[:, 10:15, 10:15]
    weights = np.maximum(0, 4.2 + np.log(np.maximum(near, 1e-12) / near.sum(axis=(1, 2), keepdims=True)))
    at_mm = (np.arange(5) - 2) * CELL_MM
    for axis, impact_mm in enumerate(photons.impact_mm.T):
        position_mm = (weights.sum(axis=2 - axis) @ at_mm) / weights.sum(axis=(1, 2))
        assert np.corrcoef(position_mm, impact_mm)[0, 1] > 0.95
        assert abs(np.mean(position_mm - impact_mm)) < 0.2  # 4σ for 10,000 showers of 2 mm resolution is 0.08


def test_x_and_y_are_alike(cells: np.ndarray, energy_gev: np.ndarray) -> None:
    mean = (cells / energy_gev[:, None, None]).mean(axis=0)
    spread = (cells / energy_gev[:, None, None]).std(axis=0) / np.sqrt(len(cells))
    near = slice(9, 16)
    for other in (mean.T, mean[::-1], mean[:, ::-1]):
        pull = (mean - other)[near, near] / np.maximum(np.sqrt(2) * spread[near, near], 1e-9)
        assert np.abs(pull).max() < 5  # 49 crystals, 5σ each; neighbouring crystals differ by thousands


def test_a_transposed_or_shifted_library_would_be_noticed(photons: ShowerLibrary, cells: np.ndarray) -> None:
    """The impact point tells the axes apart although the mean shower does not."""
    right = photons.impact_mm[:, 0] > 8
    assert cells[right, 13, 12].mean() > 3 * cells[right, 11, 12].mean()
    up = photons.impact_mm[:, 1] > 8
    assert cells[up, 12, 13].mean() > 3 * cells[up, 12, 11].mean()
