"""Every damage is seen by the figure that is there for it, and the reference against itself is not."""

from collections.abc import Callable

import numpy as np
import pytest
from optional_packages import need

from caloedge.detector.crystals.geometry import GEOMETRIES
from caloedge.fidelity import damage, distances, response, spectra
from caloedge.fidelity.classifiers import trees_auc
from caloedge.fidelity.features import features
from caloedge.fidelity.figures import Measure, Sample
from caloedge.fidelity.layout import Layout, layout
from caloedge.fidelity.neighbours import coverage
from caloedge.fidelity.showers import Showers

LOWEST_MEV = 0.1
N = 300
Rows = Callable[[int, int], Showers]
MakeSample = Callable[[Showers], Sample]


@pytest.fixture(scope="module")
def measure(rows: Rows, sample: MakeSample) -> Measure:
    return Measure.of(sample(rows(0, N)))


@pytest.fixture(scope="module")
def itself(rows: Rows) -> Showers:
    return rows(N, 2 * N)


@pytest.fixture(scope="module")
def damaged(itself: Showers, cells: Layout) -> dict[str, Showers]:
    return {name: d(itself, cells, LOWEST_MEV, np.random.default_rng(12)) for name, d in damage.LADDER.items()}


def test_the_ladder_does_what_it_says(itself: Showers, damaged: dict[str, Showers], cells: Layout) -> None:
    total = {name: s.cells_mev.sum(axis=1, dtype=float) for name, s in damaged.items()}
    own = itself.cells_mev.sum(axis=1, dtype=float)
    np.testing.assert_allclose(total["energies +1 %"] / own, 1.01, rtol=1e-3)  # cells at the threshold come in or not
    np.testing.assert_allclose(total["energies +3 %"] / own, 1.03, rtol=1e-3)
    hit = itself.cells_mev > 0
    kept = (damaged["2 % of hits dropped"].cells_mev > 0)[hit].mean()
    assert kept == pytest.approx(0.98, abs=0.005)
    large = itself.cells_mev > 10
    ratio = damaged["cells smeared 10 %"].cells_mev[large] / itself.cells_mev[large]
    assert ratio.std() == pytest.approx(0.1, rel=0.05)
    even = cells.layer_C % 2 == 0
    moved = damaged["layers swapped"].cells_mev
    np.testing.assert_array_equal(moved[:, even], itself.cells_mev[:, even])
    assert (moved[:, ~even] != itself.cells_mev[:, ~even]).any(axis=1).mean() > 0.95
    spread = [np.std(t / itself.energies_mev) for t in (own, total["spread of total halved"])]
    assert 0.45 < spread[1] / spread[0] < 0.8  # the mean response depends on the energy, and stays


def test_the_response_sees_scale_and_width(measure: Measure, itself: Showers, damaged: dict[str, Showers], cells: Layout) -> None:
    def found(showers: Showers) -> tuple[tuple[float, float], tuple[float, float]]:
        own = response.response(features(showers, cells), measure.edges_mev, seed=2)
        return response.deviation(own.median, measure.response.median), response.deviation(own.width, measure.response.width)

    (scale, scale_error), (width, width_error) = found(itself)
    assert abs(scale) < 3 * scale_error < 0.5
    assert abs(width) < 3 * width_error < 50
    assert found(damaged["energies +1 %"])[0][0] == pytest.approx(1 + scale, abs=0.05)
    whole, halved = (
        response.response(features(showers, cells), measure.edges_mev, seed=2).width
        for showers in (itself, damaged["spread of total halved"])
    )
    ratio_B = halved.value_B / whole.value_B
    np.testing.assert_allclose(ratio_B[:-1], 0.5, atol=0.08)
    assert ratio_B[-1] < 0.8  # there the response itself changes over the bin, which adds to both widths
    width, width_error = found(damaged["spread of total halved"])[1]
    assert width < -3 * width_error


def test_separations_see_scale_hits_and_smearing(
    measure: Measure, itself: Showers, damaged: dict[str, Showers], cells: Layout
) -> None:
    def found(showers: Showers) -> dict[str, spectra.Separations]:
        own = spectra.histograms(features(showers, cells), showers, measure.binning, seed=2)
        return spectra.separations(measure.histograms, own)

    floor = found(itself)
    for name, family in (
        ("energies +1 %", spectra.TOTAL),
        ("energies +3 %", spectra.TOTAL),
        ("cells smeared 10 %", spectra.TOTAL),
    ):
        seen = found(damaged[name])[family]
        assert seen.mean > floor[family].mean + 3 * seen.uncertainty, name
    # Crystals next to the central one always have energy, unless it was dropped.
    beside = found(damaged["2 % of hits dropped"])[spectra.SPARSITY].value_K[1]
    assert beside > 0.04 > 4 * floor[spectra.SPARSITY].value_K[1]
    assert all(s.mean < 0.25 for s in floor.values())


def test_a_separation_by_hand(measure: Measure, cells: Layout) -> None:
    (edges,) = measure.binning.edges[spectra.TOTAL]
    counts = measure.histograms.counts[spectra.TOTAL][0][0]
    assert counts.tolist() == np.histogram(measure.sample.found.response, edges)[0].tolist()
    (edges,) = measure.binning.edges[spectra.CELLS]
    counts = measure.histograms.counts[spectra.CELLS][0][0]
    assert counts.tolist() == np.histogram(measure.sample.showers.cells_mev.astype(float), edges)[0].tolist()
    assert len(edges) == 50
    assert edges[0] == pytest.approx(LOWEST_MEV)
    assert len(measure.binning.edges[spectra.LAYERS][0]) == 40


def test_trees_and_correlations_see_swapped_layers(
    measure: Measure, itself: Showers, damaged: dict[str, Showers], sample: MakeSample
) -> None:
    need("sklearn")
    reference = measure.sample.table
    own, swapped = sample(itself).table, sample(damaged["layers swapped"]).table
    floor, seen = trees_auc(reference, own), trees_auc(reference, swapped)
    assert abs(floor.value - 0.5) < 3 * floor.uncertainty
    assert 0.01 < floor.uncertainty < 0.05
    assert seen.value > 0.65
    energies = itself.energies_mev
    pairs = [((reference, measure.sample.found.incident_mev_N), (table, energies)) for table in (own, swapped)]
    floor, seen = (distances.correlation_difference(*pair, replicas=5) for pair in pairs)
    assert seen.value > floor.value + 3 * seen.uncertainty


def test_kpd_and_fpd_see_dropped_hits_of_many(rows: Rows, cells: Layout, sample: MakeSample) -> None:
    own = rows(1500, 3000)
    reference = sample(rows(0, 1500)).table
    generator = np.random.default_rng(13)
    twice = damage.dropped(damage.dropped(own, cells, LOWEST_MEV, generator), cells, LOWEST_MEV, generator)
    floor, seen = (distances.kpd(reference, sample(s).table) for s in (own, twice))
    assert abs(floor.value) < 3 * floor.uncertainty
    assert seen.value > 3 * seen.uncertainty
    floor, seen = (distances.fpd(reference, sample(s).table) for s in (own, twice))
    assert seen.value > floor.value + 3 * seen.uncertainty


def test_precision_and_recall_see_what_is_missing_and_what_is_odd(
    rows: Rows, itself: Showers, damaged: dict[str, Showers]
) -> None:
    need("sklearn")
    reference = rows(0, N)
    own = coverage(reference, itself, LOWEST_MEV)
    odd = coverage(reference, damaged["2 % of hits dropped"], LOWEST_MEV)
    assert odd.precision < own.precision - 0.1
    few = itself.take(np.arange(N) % 10)  # ten showers, thirty times each
    missing = coverage(reference, few, LOWEST_MEV)
    assert missing.recall < 0.2 < own.recall - 0.3
    assert own.n == N


@pytest.mark.parametrize("name", ["wsi", "pbwo4"])
def test_turned_showers_keep_their_features_of_r(name: str, generator: np.random.Generator) -> None:
    cells = layout(GEOMETRIES[name])
    shape = (20, cells.n_cells)
    showers = generator.random(shape).astype(np.float32) * (generator.random(shape) < 0.1)
    impact = generator.uniform(-11, 11, (20, 2))
    turned, turned_impact = damage.turned_at_random(showers, impact, cells, generator)
    a, b = (features(Showers(np.ones(20), i, s), cells) for s, i in ((showers, impact), (turned, turned_impact)))
    np.testing.assert_allclose(a.energy_mev_NL, b.energy_mev_NL, rtol=1e-6)
    np.testing.assert_allclose(a.r_mm_NL, b.r_mm_NL, rtol=1e-6)
    assert (np.abs(a.x_mm_NA - b.x_mm_NA) > 1e-3).any()
    if name == "pbwo4":  # impact points turn with the crystals: the same distance from the centre of energy
        apart = [np.hypot(f.x_mm_NA - f.impact_mm_NX[:, :1], f.y_mm_NA - f.impact_mm_NX[:, 1:]) for f in (a, b)]
        np.testing.assert_allclose(apart[0], apart[1], rtol=1e-5)
