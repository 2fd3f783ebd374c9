"""Events of photons in the barrel: energies, places, truth of hits, background, and their trigger cells."""

from dataclasses import fields

import numpy as np
import pytest

from caloedge.detector.constants import PI0_MASS_GEV
from caloedge.detector.crystals import barrel_events
from caloedge.detector.crystals.barrel_events import CRYSTAL_GEV, calorimeter, compose
from caloedge.detector.crystals.events import split_rows
from caloedge.detector.crystals.hits import NOBODY, HitEvents, joined, merge, trigger_cells
from caloedge.detector.crystals.library import ShowerLibrary, open_library

EVENTS = 600


@pytest.fixture(scope="module")
def library() -> ShowerLibrary:
    return open_library("csi_gamma")


@pytest.fixture(scope="module")
def hits(library: ShowerLibrary) -> HitEvents:
    return compose(library, split_rows(len(library), "test"), EVENTS, np.random.default_rng(1))


def seen(hits: HitEvents) -> np.ndarray:
    """Return the energy (E, P) in hits of each object."""
    energy_EP = np.zeros(hits.energy_EP.shape)
    mine = hits.object_H != NOBODY
    np.add.at(energy_EP, (hits.event_H[mine], hits.object_H[mine]), (hits.energy_H * hits.share_H)[mine])
    return energy_EP


def test_the_shipped_library_is_of_photons_in_csi(library: ShowerLibrary) -> None:
    assert len(library) >= 25_000
    assert library.path.stat().st_size <= 4_000_000
    assert library.provenance["version"].startswith("Geant4")
    assert library.energies_mev.min() == pytest.approx(50, abs=2)  # the lowest of 36,000 log-uniform ones
    assert 6_500 < library.energies_mev.max() <= 7_000
    share = library.cells_mev[:5000].sum(axis=1) / library.energies_mev[:5000]
    assert 0.95 < np.median(share) < 1


def test_the_same_arguments_give_the_same_events(library: ShowerLibrary, hits: HitEvents) -> None:
    again = compose(library, split_rows(len(library), "test"), EVENTS, np.random.default_rng(1))
    for field in fields(hits):
        np.testing.assert_array_equal(getattr(hits, field.name), getattr(again, field.name))


def test_photons_use_only_the_showers_that_they_may(library: ShowerLibrary, hits: HitEvents) -> None:
    there = hits.shower_EP >= 0
    assert set(hits.shower_EP[there]) <= set(split_rows(len(library), "test"))
    np.testing.assert_array_equal(there, np.isfinite(hits.energy_EP))
    np.testing.assert_allclose(hits.energy_EP[there], library.energies_mev[hits.shower_EP[there]] * 1e-3)  # rounding of doubles
    assert set(there.sum(axis=1)) == {1, 2, 3, 4, 5, 6}


def test_hits_are_in_order_above_threshold_and_each_cell_once(hits: HitEvents) -> None:
    key = hits.event_H * 10_000 + hits.cell_H
    assert (np.diff(key) > 0).all()
    assert hits.energy_H.min() >= CRYSTAL_GEV
    np.testing.assert_array_equal(hits.position_H3, calorimeter().position_C3[hits.cell_H])
    ring = calorimeter().ring_C[hits.cell_H]
    assert ring.min() >= 13
    assert ring.max() < 59


def test_a_photon_is_seen_where_it_entered_with_its_energy(hits: HitEvents) -> None:
    energy_EP = seen(hits)
    strong = np.nan_to_num(hits.energy_EP) > 0.5
    edge = np.abs(np.nan_to_num(hits.position_EP3[..., 2]) - 0.5) > 1.2
    response = energy_EP[strong & ~edge] / hits.energy_EP[strong & ~edge]
    assert 0.85 < np.median(response) < 1
    assert np.quantile(response, 0.999) < 1.1
    mine = hits.object_H != NOBODY
    weighted = np.zeros((*energy_EP.shape, 3))
    owner = hits.event_H[mine], hits.object_H[mine]
    np.add.at(weighted, owner, ((hits.energy_H * hits.share_H)[:, None] * hits.position_H3)[mine])
    centroid = weighted[strong] / energy_EP[strong][:, None]
    miss_cm = 100 * np.linalg.norm(centroid - hits.position_EP3[strong], axis=1)
    assert np.median(miss_cm) < 2.5  # the crystals are 6 cm wide
    assert np.quantile(miss_cm, 0.99) < 8


def test_background_belongs_to_nobody_and_comes_at_any_time(hits: HitEvents) -> None:
    nobody = hits.object_H == NOBODY
    assert 0.4 < nobody.mean() < 0.75
    assert (hits.share_H[nobody] == 0).all()
    assert (hits.share_H[~nobody] > 0.25).all()  # half of the energy in all, and most of that
    assert hits.time_H[nobody].std() == pytest.approx(
        2 * barrel_events.BACKGROUND_NS / np.sqrt(12), rel=0.05
    )  # uniform; some 13,000 hits


def test_times_have_tails_and_widen_with_the_background(hits: HitEvents) -> None:
    own = (hits.share_H > 0.999) & (hits.energy_H > 0.05) & (hits.energy_H < 0.5)  # between the limits of the resolution
    background_H = np.bincount(hits.event_H[hits.object_H == NOBODY], minlength=hits.n_events)[hits.event_H]
    level_H = np.clip((background_H - 5) / 38, 0, 1)  # 2 to 40 of the kind that disturbs, 3 of the other
    scatter = np.abs(hits.time_H) / barrel_events.time_spread(hits.energy_H)
    pull = scatter[own] / (1 + (barrel_events.WIDENING - 1) * level_H[own])
    # Student's t of three degrees of freedom: half of it is within 0.765, 5 % beyond 3.182; some 2,000 hits.
    assert np.median(pull) == pytest.approx(0.765, rel=0.06)
    assert (pull > 3.182).mean() == pytest.approx(0.05, abs=0.015)
    few, many = (np.median(scatter[own & of]) for of in (level_H < 0.2, level_H > 0.8))
    assert many / few == pytest.approx(2.8 / 1.2, rel=0.2)


def test_close_pairs_are_frequent_and_pions_have_their_mass(library: ShowerLibrary) -> None:
    hits = compose(library, np.arange(len(library)), 4000, np.random.default_rng(2))
    position_EP3 = hits.position_EP3
    pairs = np.linalg.norm(position_EP3[:, ::2] - position_EP3[:, 1::2], axis=2)
    pairs = pairs[np.isfinite(pairs)]
    assert 0.5 < (pairs < 0.7).mean() < 0.7
    assert (pairs > 0.03).mean() > 0.98
    # Some pairs have the π⁰'s mass from the angle under which they are seen: far more than a smooth distribution has.
    first, second = position_EP3[:, ::2].reshape(-1, 3), position_EP3[:, 1::2].reshape(-1, 3)
    cosine = (first * second).sum(axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    product = hits.energy_EP[:, ::2].ravel() * hits.energy_EP[:, 1::2].ravel()
    mass = np.sqrt(np.maximum(2 * product * (1 - cosine), 0))
    mass = mass[np.isfinite(mass)]
    at_mass, beside = (((mass > low) & (mass < high)).sum() for low, high in ((0.12, 0.15), (0.16, 0.19)))
    assert at_mass > 2 * beside
    assert pytest.approx(0.135, abs=0.001) == PI0_MASS_GEV


def test_trigger_cells_add_the_crystals_above_their_threshold(hits: HitEvents) -> None:
    cells = trigger_cells(hits, calorimeter(), threshold_gev=0.1)
    sums: dict[tuple[int, int], float] = {}
    for event, crystal, energy in zip(hits.event_H, hits.cell_H, hits.energy_H, strict=True):
        key = int(event), int(calorimeter().trigger_cell_C[crystal])
        sums[key] = sums.get(key, 0.0) + energy
    expected = {key: energy for key, energy in sorted(sums.items()) if energy >= 0.1}
    assert list(zip(cells.event_H.tolist(), cells.cell_H.tolist(), strict=True)) == list(expected)
    np.testing.assert_allclose(cells.energy_H, list(expected.values()))  # another order of sums
    np.testing.assert_array_equal(cells.energy_EP, hits.energy_EP)


def test_merging_gives_the_sum_to_the_object_of_the_most_energy() -> None:
    key = np.array([7, 3, 7, 7, 3, 9, 9])
    owner = np.array([0, 1, 1, 0, NOBODY, NOBODY, 2])
    energy = np.array([1.0, 1.0, 1.5, 1.0, 0.5, 3.0, 1.0])
    time = np.array([0.0, 10.0, 0.0, 0.0, 40.0, 0.0, 0.0])
    merged = merge(key, energy, time, owner, energy)
    assert merged.key_G.tolist() == [3, 7, 9]
    np.testing.assert_allclose(merged.energy_G, [1.5, 3.5, 4.0])
    np.testing.assert_allclose(merged.time_G, [20.0, 0.0, 0.0])
    assert merged.object_G.tolist() == [1, 0, NOBODY]  # 9: three quarters are background
    np.testing.assert_allclose(merged.share_G, [1 / 1.5, 2 / 3.5, 0])


def test_nothing_merges_to_nothing() -> None:
    nothing = np.zeros(0, np.int64)
    merged = merge(nothing, np.zeros(0), np.zeros(0), nothing, np.zeros(0))
    assert len(merged.key_G) == len(merged.energy_G) == len(merged.object_G) == 0


def test_blocks_join_to_the_events_of_each(library: ShowerLibrary) -> None:
    blocks = [compose(library, np.arange(100), n, np.random.default_rng(n)) for n in (3, 1, 5)]
    whole = joined(blocks)
    assert whole.n_events == 9
    assert whole.event_H.max() <= 8
    for number, (block, first) in enumerate(zip(blocks, (0, 3, 4), strict=True)):
        mine = (whole.event_H >= first) & (whole.event_H < first + block.n_events)
        np.testing.assert_array_equal(whole.energy_H[mine], block.energy_H, err_msg=str(number))
        np.testing.assert_array_equal(whole.position_EP3[first : first + block.n_events], block.position_EP3)
