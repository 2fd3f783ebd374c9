"""Classical clustering: showers made by hand, sharing, symmetry, independence of events, and the shipped constants."""

from dataclasses import replace
from math import erf, sqrt

import numpy as np
import pytest

from caloedge.detector.crystals import events, photon_events
from caloedge.detector.crystals.events import GRID, MARGIN
from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.errors import BadData
from caloedge.reconstruction import cluster_model, cluster_tuning, clustering
from caloedge.reconstruction.clustering import PARTICLE_FLOW, TUNING, ClusterTuning

BOTH = pytest.mark.parametrize("tuning", [TUNING, PARTICLE_FLOW], ids=["fitted", "particle flow"])


def shower(x: float, y: float, energy_gev: float, terms=((0.36, 0.05), (0.43, 0.24), (0.21, 0.85))) -> np.ndarray:
    """Return crystals (51, 51) of a shower that is a sum of Gaussians: not quite the profile that clusters assume."""
    total = np.zeros((GRID, GRID))
    for share, width in terms:
        along = [np.diff([0.5 * (1 + erf((edge - centre) / (sqrt(2) * width))) for edge in range(GRID + 1)]) for centre in (x, y)]
        total += share * energy_gev * np.outer(*along)
    return total.astype(np.float32)


def noisy(n_events: int, seed: int, showers: int = 3) -> np.ndarray:
    """Return events of hand-made showers anywhere, digitised."""
    rng = np.random.default_rng(seed)
    places = rng.uniform(MARGIN, GRID - MARGIN, (n_events, showers, 2))
    energies = np.exp(rng.uniform(np.log(1), np.log(60), (n_events, showers)))
    clean = [
        sum(shower(*place, energy) for place, energy in zip(*one, strict=True)) for one in zip(places, energies, strict=True)
    ]
    return events.digitise(np.array(clean, np.float32), rng)


@pytest.fixture(scope="module")
def library() -> ShowerLibrary:
    return open_library("pbwo4_gamma")


@pytest.fixture(scope="module")
def training(library: ShowerLibrary) -> photon_events.PhotonEvents:
    """The events that the shipped constants come from."""
    return photon_events.compose(library, events.split_rows(len(library), "train"), 12_000, np.random.default_rng(1))


@BOTH
@pytest.mark.parametrize("inside", [(0.5, 0.5), (0.1, 0.3), (0.85, 0.6), (0.02, 0.5)])
def test_one_shower_without_noise_is_found_at_its_place(tuning: ClusterTuning, inside: tuple[float, float]) -> None:
    place = np.array([20, 31]) + inside
    photons = clustering.reconstruct(shower(*place, 30)[None], tuning)
    assert photons.event_N.tolist() == [0]
    # The curves were tuned for Geant4 showers, whose profile is another.
    np.testing.assert_allclose(photons.position_N2[0], place, atol=0.06)
    np.testing.assert_allclose(photons.energy_N, 30, rtol=0.03)


@BOTH
@pytest.mark.parametrize("ratio", [1, 4])
def test_two_showers_two_crystals_apart_share_their_energy(tuning: ClusterTuning, ratio: float) -> None:
    places = np.array([[20.4, 30.6], [22.5, 30.3]])
    energies = np.array([20.0, 20.0 / ratio])
    cells = sum(shower(*place, energy) for place, energy in zip(places, energies, strict=True))
    photons = clustering.reconstruct(cells[None], tuning)
    np.testing.assert_allclose(photons.energy_N, energies, rtol=0.05)
    # Logarithmic weights leave out the faint crystals on the far side.
    np.testing.assert_allclose(photons.position_N2, places, atol=0.1 if tuning.fitted else 0.2)
    # The whole 3 × 3 around the weaker one also holds energy of the stronger.
    x, y = np.floor(places[1]).astype(int)
    alone = shower(*places[1], energies[1])[x - 1 : x + 2, y - 1 : y + 2].sum()
    assert abs(photons.energy_N[1] / energies[1] - 1) < cells[x - 1 : x + 2, y - 1 : y + 2].sum() / alone - 1


def test_a_photon_that_is_no_local_maximum_is_found_by_its_excess() -> None:
    places = np.array([[20.3, 30.5], [21.4, 30.4]])
    cells = (shower(*places[0], 20) + shower(*places[1], 8))[None]
    event, _ = clustering.seeds(cells, TUNING.seed_gev)
    assert event.tolist() == [0]
    photons = clustering.reconstruct(cells, TUNING)
    np.testing.assert_allclose(photons.position_N2, places, atol=0.15)
    np.testing.assert_allclose(photons.energy_N, [20, 8], rtol=0.1)
    assert len(clustering.reconstruct(cells, replace(TUNING, hidden_sigma=np.inf)).event_N) == 1
    alone = clustering.reconstruct(shower(20.3, 30.5, 28)[None], TUNING)
    assert len(alone.event_N) == 1


def test_shared_fractions_add_up_to_one() -> None:
    """Each crystal's energy is given away once: over three seeds that all reach the crystal in their middle."""
    rng = np.random.default_rng(4)
    crystals = np.array([[20, 20], [20, 21], [21, 21], [40, 40]])
    event = np.zeros(4, int)
    guess = clustering.Clusters(rng.uniform(-0.4, 0.4, (2, 4)), rng.uniform(1, 20, 4), np.zeros(4))
    own, total = clustering._expected(guess, crystals, clustering._pairs(event, crystals), TUNING)
    for x, y in ((20, 20), (20, 21), (21, 21), (21, 20)):
        parts, totals = [], []
        for number in range(3):
            i, j = x - crystals[number, 0] + 1, y - crystals[number, 1] + 1
            parts.append(own[i, j, number] / total[i, j, number])
            totals.append(total[i, j, number])
        np.testing.assert_allclose(totals, totals[0], rtol=1e-12)  # sums of doubles in another order
        np.testing.assert_allclose(sum(parts), 1, rtol=1e-12)
    np.testing.assert_array_equal(own[:, :, 3], total[:, :, 3])


def test_energy_is_neither_lost_nor_counted_twice() -> None:
    rng = np.random.default_rng(9)
    for _ in range(20):
        step = rng.uniform(1.2, 3, 2)
        cells = (shower(20.5, 20.5, 15) + shower(*(20.5 + step), 15))[None]
        seeds = np.floor([[20.5, 20.5], 20.5 + step]).astype(int)
        _, energy = clustering.shared(cells, np.zeros(2, int), seeds, TUNING)
        np.testing.assert_allclose(energy.sum(), 30, rtol=0.04)


@BOTH
def test_moved_mirrored_and_transposed_events_give_moved_mirrored_and_transposed_photons(tuning: ClusterTuning) -> None:
    event = noisy(1, 12)[0].copy()
    event[:12] = event[-12:] = event[:, :12] = event[:, -12:] = 0
    event[20, 20] = 8  # at least one photon far from the edge of the frame
    start = clustering.reconstruct(event[None], tuning)
    assert len(start.event_N) >= 1

    def sorted_rows(photons: photon_events.Photons) -> np.ndarray:
        rows = np.column_stack([photons.position_N2, photons.energy_N, photons.score_N])
        return rows[np.lexsort(rows.T)]

    def expect(cells: np.ndarray, moved: np.ndarray) -> None:
        expected = photon_events.Photons(start.event_N, moved, start.energy_N, start.score_N)
        photons = clustering.reconstruct(cells[None], tuning)
        # Sums run in another order, and iteration stops at changes below 1e-3.
        np.testing.assert_allclose(sorted_rows(photons), sorted_rows(expected), rtol=1e-6, atol=1e-6)

    expect(np.roll(event, (4, -7), (0, 1)), start.position_N2 + np.array([4, -7]))
    expect(event[::-1], np.column_stack([GRID - start.position_N2[:, 0], start.position_N2[:, 1]]))
    expect(event.T, start.position_N2[:, ::-1])


def test_of_equal_neighbours_exactly_one_is_a_seed() -> None:
    cells = np.zeros((3, GRID, GRID), np.float32)
    cells[0, 20:22, 20:22] = 2
    cells[1, 10, 10] = cells[1, 11, 9] = 3
    cells[2, 10, 10] = cells[2, 10, 12] = 3
    event, crystal = clustering.seeds(cells, 0.5)
    assert event.tolist() == [0, 1, 2, 2]
    assert crystal.tolist() == [[20, 20], [10, 10], [10, 10], [10, 12]]


def test_seeds_are_local_maxima_away_from_the_border() -> None:
    cells = noisy(20, 3)
    event, crystal = clustering.seeds(cells, 0.6)
    expected = [
        (e, x, y)
        for e, one in enumerate(cells)
        for x in range(MARGIN, GRID - MARGIN)
        for y in range(MARGIN, GRID - MARGIN)
        if one[x, y] >= 0.6 and one[x, y] == one[x - 1 : x + 2, y - 1 : y + 2].max()
    ]
    assert len(expected) > 30
    assert list(zip(event.tolist(), *crystal.T.tolist(), strict=True)) == expected


@BOTH
@pytest.mark.parametrize("n_events", [0, 3])
def test_empty_events_have_no_photons(tuning: ClusterTuning, n_events: int) -> None:
    photons = clustering.reconstruct(np.zeros((n_events, GRID, GRID), np.float32), tuning)
    assert photons.position_N2.shape == (0, 2)
    assert len(photons.event_N) == len(photons.energy_N) == len(photons.score_N) == 0
    position, energy = clustering.shared(
        np.zeros((n_events, GRID, GRID), np.float32), np.empty(0, int), np.empty((0, 2), int), tuning
    )
    assert position.shape == (0, 2)
    assert energy.shape == (0,)


@BOTH
def test_an_event_full_of_energy_gives_finite_photons_near_their_seeds(tuning: ClusterTuning) -> None:
    cells = np.random.default_rng(2).uniform(0, 100, (2, GRID, GRID)).astype(np.float32)
    event, crystal = clustering.seeds(cells, tuning.seed_gev)
    assert len(event) > 300
    position, energy = clustering.shared(cells, event, crystal, tuning)
    assert np.abs(position - crystal - 0.5).max() <= clustering.FARTHEST
    assert np.isfinite(energy).all()
    assert (energy > 0).all()
    photons = clustering.reconstruct(cells, tuning)
    assert len(photons.event_N) >= len(event)
    for values in (photons.position_N2, photons.energy_N, photons.score_N):
        assert np.isfinite(values).all()


@BOTH
def test_a_seed_on_nothing_gets_almost_nothing(tuning: ClusterTuning) -> None:
    cells = shower(20.5, 20.5, 10)[None]
    _, energy = clustering.shared(cells, np.zeros(2, int), np.array([[20, 20], [40, 40]]), tuning)
    assert energy[0] == pytest.approx(10, rel=0.05)
    assert 0 < energy[1] < 0.1


@BOTH
def test_photons_of_an_event_depend_neither_on_the_others_nor_on_their_order(
    tuning: ClusterTuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = noisy(40, 5)
    together = clustering.reconstruct(cells, tuning)
    assert len(np.unique(together.event_N)) == 40
    order = np.random.default_rng(0).permutation(40)
    shuffled = clustering.reconstruct(cells[order], tuning)
    monkeypatch.setattr(clustering, "BATCH", 7)
    batched = clustering.reconstruct(cells, tuning)
    np.testing.assert_array_equal(batched.event_N, together.event_N)
    for event in range(40):
        alone = clustering.reconstruct(cells[event : event + 1], tuning)
        in_event, in_shuffled = together.event_N == event, shuffled.event_N == int(np.flatnonzero(order == event)[0])
        for field in ("position_N2", "energy_N", "score_N"):
            expected = getattr(together, field)[in_event]
            # Products of matrices may round differently for other sizes.
            np.testing.assert_allclose(getattr(alone, field), expected, rtol=1e-12)
            np.testing.assert_allclose(getattr(shuffled, field)[in_shuffled], expected, rtol=1e-12)
            np.testing.assert_allclose(getattr(batched, field)[in_event], expected, rtol=1e-12)


def test_photons_are_in_the_order_of_their_events() -> None:
    photons = clustering.reconstruct(noisy(60, 8), TUNING)
    assert (np.diff(photons.event_N) >= 0).all()


@pytest.mark.parametrize(
    ("event", "crystal", "message"),
    [
        ([0, 2], [[9, 9], [9, 9]], "seeds: events 0 to 2; there are 2, counted from 0"),
        ([1, 0], [[9, 9], [9, 9]], "seeds: number 1 is of event 0, after one of 1; sort by event"),
        ([0, 1], [[9, 9], [9, 48]], r"seeds: number 1 in crystal \(9, 48\); seeds keep 3 crystals from the border"),
    ],
)
def test_bad_seeds_are_named(event: list[int], crystal: list[list[int]], message: str) -> None:
    with pytest.raises(BadData, match=message):
        clustering.shared(np.zeros((2, GRID, GRID), np.float32), np.array(event), np.array(crystal), TUNING)


def test_the_bias_of_zero_suppression_is_that_of_digitised_crystals() -> None:
    rng = np.random.default_rng(6)
    for energy_gev in (0.0, 0.1, 0.3, 1.0):
        mean = events.digitise(np.full((1, 1000, 1000), energy_gev, np.float32), rng).mean(dtype=np.float64)
        # The mean of 10⁶ crystals has an error of 0.0002 GeV; the table has steps of 1/1024 GeV.
        assert cluster_model.bias(np.array(energy_gev)) == pytest.approx(mean - energy_gev, abs=1e-3)


def test_quality_of_photons_counted_by_hand() -> None:
    impact = np.array([[[10.5, 10.5], [12, 10.5]], [[20.5, 20.5], [np.nan, np.nan]]])
    energy = np.array([[5.0, 5], [5, np.nan]])
    composed = photon_events.PhotonEvents(
        events.CrystalEvents(np.zeros((2, GRID, GRID)), impact, energy, np.zeros((2, 2), int)), np.array([1, 0])
    )
    position = np.array([[10.4, 10.5], [10.7, 10.5], [12.2, 11], [20.5, 22], [40, 40]])
    photons = photon_events.Photons(np.array([0, 0, 0, 1, 1]), position, np.ones(5), np.array([5.0, 5, 5, 5, 1]))
    assert cluster_tuning.quality(photons, composed, 0) == pytest.approx(2 * 2 / (3 + 5))
    assert cluster_tuning.quality(photons, composed, 2) == pytest.approx(2 * 2 / (3 + 4))


def test_the_shipped_constants_are_what_tune_finds(library: ShowerLibrary, training: photon_events.PhotonEvents) -> None:
    profile = cluster_tuning._fitted_profile(library, events.split_rows(len(library), "train"))
    np.testing.assert_allclose(TUNING.profile, profile, rtol=1e-3)  # four digits are kept
    sample = cluster_tuning.single_photons(training)
    assert len(sample.energy_S) > 4000
    for tuning in (TUNING, PARTICLE_FLOW):
        for field in ("log_curve", "fit_curve", "response"):
            constants = getattr(cluster_tuning.with_curve(tuning, sample), field)
            np.testing.assert_allclose(getattr(tuning, field), constants, atol=1e-4)  # five digits are kept


def test_the_shipped_positions_are_the_narrowest(training: photon_events.PhotonEvents) -> None:
    sample = cluster_tuning.single_photons(training)

    def width(**changes: float) -> float:
        return cluster_tuning.position_width(cluster_tuning.with_curve(replace(PARTICLE_FLOW, **changes), sample), sample)

    best = width()
    for changes in ({"log_weight": 3.1}, {"log_weight": 4.7}, {"crystal_gev": 0.15}, {"crystal_gev": 0.5}):
        assert width(**changes) > best
    assert cluster_tuning.position_width(TUNING, sample) < 0.9 * best


def test_the_shipped_thresholds_have_the_highest_quality(training: photon_events.PhotonEvents) -> None:
    part = cluster_tuning.first_events(training, cluster_tuning.THRESHOLD_EVENTS)

    def quality(tuning: ClusterTuning) -> float:
        return cluster_tuning.quality(clustering.reconstruct(part.crystals.cells_EXY, tuning), part, tuning.best_score)

    best = quality(TUNING)
    assert best > 0.945
    for changes in ({"best_score": 3.8}, {"best_score": 5.2}, {"hidden_sigma": 2.0}, {"hidden_sigma": 6.0}):
        assert quality(replace(TUNING, **changes)) < best
    assert quality(PARTICLE_FLOW) < best - 0.02


def test_energies_and_positions_of_showers_not_used_for_tuning(library: ShowerLibrary) -> None:
    composed = photon_events.compose(library, events.split_rows(len(library), "valid"), 6000, np.random.default_rng(3))
    sample = cluster_tuning.single_photons(composed)
    position, energy = clustering.shared(sample.cells_EXY, sample.event_S, sample.crystal_S2, TUNING)
    response = energy / sample.energy_S
    bins = np.digitize(sample.energy_S, cluster_tuning.ENERGY_BINS_GEV) - 1
    for number, bound in enumerate((0.02, 0.015, 0.01, 0.01)):
        assert np.median(response[bins == number]) == pytest.approx(1, abs=bound)
    near = np.array([sample.cells_EXY[e, x - 1 : x + 2, y - 1 : y + 2].sum() for e, (x, y) in
                     zip(sample.event_S, sample.crystal_S2, strict=True)])  # fmt: skip
    centred = near / sample.energy_S / np.array([np.median((near / sample.energy_S)[bins == b]) for b in range(4)])[bins]
    ratio = cluster_tuning.widths(response, sample.energy_S) / cluster_tuning.widths(centred, sample.energy_S)
    assert (ratio < [0.95, 0.9, 0.85, 0.95]).all()  # against the sum of the 3 × 3
    errors = position - sample.crystal_S2 - 0.5 - sample.offset_S2
    widths = cluster_tuning.widths(errors.ravel(), np.repeat(sample.energy_S, 2))
    assert (widths < [0.26, 0.125, 0.055, 0.022]).all()


def test_tune_finds_the_same_constants_again(library: ShowerLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_tuning, "PROFILE_SHOWERS", 300)
    first, second = (cluster_tuning.tune(library, 300, seed=5, fitted=False) for _ in range(2))
    assert first == second
    assert not first.fitted
    assert cluster_tuning.tune(library, 300, seed=6, fitted=False) != first
