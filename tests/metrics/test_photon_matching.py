"""Which reconstructed photon is which true one, against a search through all assignments and plain cases."""

from itertools import product

import numpy as np
import pytest

from caloedge.detector.crystals.events import CrystalEvents
from caloedge.detector.crystals.photon_events import Photons
from caloedge.errors import BadData
from caloedge.metrics.photon_matching import MATCHED_WITHIN, SPLIT_WITHIN, check, match


def truth_of(*events: list[tuple[float, float]]) -> CrystalEvents:
    impact = np.full((len(events), 2, 2), np.nan)
    for event, places in enumerate(events):
        impact[event, : len(places)] = places
    energy = np.where(np.isnan(impact[:, :, 0]), np.nan, 10.0)
    return CrystalEvents(np.zeros((0, 51, 51), np.float32), impact, energy, np.where(np.isnan(energy), -1, 0))


def photons_of(*events: list[tuple[float, float]]) -> Photons:
    event = np.repeat(np.arange(len(events)), [len(places) for places in events])
    position = np.array([place for places in events for place in places], dtype=float).reshape(-1, 2)
    return Photons(event, position, np.full(len(event), 10.0), np.ones(len(event)))


def cheapest(true: np.ndarray, places: np.ndarray) -> float:
    """Return the smallest sum of distances of all assignments of one event, by trying each."""
    best = np.inf
    for chosen in product(range(-1, len(places)), repeat=len(true)):
        used = [index for index in chosen if index >= 0]
        if len(used) != len(set(used)):
            continue
        apart = [MATCHED_WITHIN if index < 0 else float(np.hypot(*(true[p] - places[index]))) for p, index in enumerate(chosen)]
        if max(apart) <= MATCHED_WITHIN:
            best = min(best, sum(apart))
    return best


def test_no_assignment_is_cheaper() -> None:
    rng = np.random.default_rng(1)
    true = [rng.uniform(0, 3, (rng.integers(1, 3), 2)) for _ in range(600)]
    places_by_event = [rng.uniform(-0.5, 3.5, (rng.integers(0, 6), 2)) for _ in range(600)]
    matches = match(truth_of(*map(list, true)), photons_of(*map(list, places_by_event)))
    first = np.cumsum([0, *map(len, places_by_event)])
    for event in range(600):
        rows = matches.index_EP[event, : len(true[event])] - first[event]
        assert (matches.index_EP[event, len(true[event]) :] == -1).all()
        taken = matches.index_EP[event][matches.index_EP[event] >= 0]
        assert len(set(taken.tolist())) == len(taken)
        apart = [
            MATCHED_WITHIN if index < 0 else float(np.hypot(*(place - places_by_event[event][row])))
            for place, index, row in zip(true[event], matches.index_EP[event], rows, strict=False)
        ]
        assert max(apart) <= MATCHED_WITHIN
        assert sum(apart) == pytest.approx(cheapest(true[event], places_by_event[event]), abs=1e-12)  # sums in another order
    assert matches.fake_N.sum() == first[-1] - matches.found.sum()
    assert 100 < matches.fake_N.sum() < first[-1] - 100


def test_the_smaller_sum_wins_over_the_nearer_one() -> None:
    # The first photon's nearest is the second's only one.
    matches = match(truth_of([(10, 10), (11, 10)]), photons_of([(10.6, 10), (9.0, 10)]))
    np.testing.assert_array_equal(matches.index_EP, [[1, 0]])
    assert not matches.fake_N.any()


@pytest.mark.parametrize(("apart", "found"), [(MATCHED_WITHIN - 1e-9, True), (MATCHED_WITHIN + 1e-9, False)])
def test_a_photon_is_matched_up_to_the_limit(apart: float, found: bool) -> None:
    matches = match(truth_of([(20, 20)]), photons_of([(20 + apart, 20)]))
    assert bool(matches.found[0, 0]) is found
    assert bool(matches.fake_N[0]) is not found


def test_the_limits_are_those_that_every_efficiency_was_measured_with() -> None:
    """A photon 1.55 crystals away is not found, and one 3.05 away is no piece: other limits are other efficiencies."""
    assert (MATCHED_WITHIN, SPLIT_WITHIN) == (1.5, 3.0)
    away, near = (match(truth_of([(20, 20)]), photons_of([(20 + apart, 20)])) for apart in (1.55, 1.45))
    assert (bool(away.found[0, 0]), bool(near.found[0, 0])) == (False, True)
    apart, piece = (match(truth_of([(20, 20)]), photons_of([(20, 20), (20, 20 + step)])) for step in (3.05, 2.95))
    assert (bool(apart.split_EP[0, 0]), bool(piece.split_EP[0, 0])) == (False, True)


@pytest.mark.parametrize(
    ("true", "found", "split"),
    [
        ([(20, 20)], [(20, 20)], (False, False)),
        ([(20, 20)], [(20, 20), (22, 20)], (True, False)),
        ([(20, 20)], [(20, 20), (20 + SPLIT_WITHIN + 0.01, 20)], (False, False)),
        ([(20, 20)], [(22, 20), (20, 18)], (True, False)),  # neither is matched: both are more than the limit away
        ([(20, 20), (22, 20)], [(20, 20), (22, 20)], (False, False)),
        ([(20, 20), (22, 20)], [(20, 20), (22, 20), (19, 20)], (True, False)),
        ([(20, 20), (22, 20)], [(20, 20), (22, 20), (23, 20)], (False, True)),
        ([(20, 20), (22.5, 20)], [(20, 20), (20.9, 20)], (False, False)),  # the second may be the other photon's
        ([(20, 20), (30, 20)], [(20, 20), (20.9, 20)], (True, False)),  # the other photon is too far away for that
    ],
)
def test_what_counts_as_split(true: list, found: list, split: tuple[bool, bool]) -> None:
    matches = match(truth_of(true), photons_of(found))
    assert tuple(matches.split_EP[0].tolist()) == split


def test_the_order_within_an_event_does_not_matter() -> None:
    rng = np.random.default_rng(2)
    true = [list(rng.uniform(10, 14, (2, 2))) for _ in range(300)]
    places_by_event = [list(rng.uniform(9, 15, (rng.integers(0, 5), 2))) for _ in range(300)]
    straight, reversed_order = photons_of(*places_by_event), photons_of(*(places[::-1] for places in places_by_event))
    matches, matches_reversed = match(truth_of(*true), straight), match(truth_of(*true), reversed_order)
    places = [
        np.concatenate([photons.position_N2, [[-1, -1]]])[m.index_EP]
        for photons, m in ((straight, matches), (reversed_order, matches_reversed))
    ]
    np.testing.assert_array_equal(*places)
    np.testing.assert_array_equal(matches.split_EP, matches_reversed.split_EP)
    assert matches.fake_N.sum() == matches_reversed.fake_N.sum()
    swapped = match(truth_of(*(places[::-1] for places in true)), straight)
    np.testing.assert_array_equal(swapped.index_EP[:, ::-1], matches.index_EP)
    np.testing.assert_array_equal(swapped.split_EP[:, ::-1], matches.split_EP)


def test_no_photons_at_all() -> None:
    matches = match(truth_of([(20, 20)], [(5, 5), (9, 9)]), photons_of([], []))
    np.testing.assert_array_equal(matches.index_EP, -1)
    assert not matches.split_EP.any()
    assert matches.fake_N.shape == (0,)


@pytest.mark.parametrize(
    ("event", "position", "energy", "message"),
    [
        ([0, 2, 1], 1.0, 1.0, r"^photons of 'm': event_N falls at row 2; sort the photons by event$"),
        (
            [0, 1, 3],
            1.0,
            1.0,
            r"^photons of 'm': row 2 is of event 3, but events are 0 to 2; reconstruct the events that are compared$",
        ),
        ([-1, 1, 2], 1.0, 1.0, r"^photons of 'm': row 0 is of event -1, but events are 0 to 2;"),
        (
            [0, 1, 2],
            np.nan,
            1.0,
            r"^photons of 'm': row 0 has position \[nan, nan\] and energy 1 GeV; leave out what is not a photon$",
        ),
        ([0, 1, 2], 1.0, np.inf, r"^photons of 'm': row 0 has position \[1.0, 1.0\] and energy inf GeV;"),
    ],
)
def test_bad_photons_are_named(event: list[int], position: float, energy: float, message: str) -> None:
    photons = Photons(np.array(event), np.full((3, 2), position), np.full(3, energy), np.ones(3))
    with pytest.raises(BadData, match=message):
        check(photons, 3, "m")


def test_arrays_of_different_lengths_are_named() -> None:
    photons = Photons(np.zeros(3, int), np.zeros((2, 2)), np.ones(3), np.ones(3))
    with pytest.raises(
        BadData, match=r"^photons of 'm': 3 events, positions \(2, 2\) and energies \(3,\) do not belong together;"
    ):
        check(photons, 3, "m")
