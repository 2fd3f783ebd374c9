"""The shower-shape task's events, inputs, cuts, working points and figures, each against a plain reading of its definition."""

import re
from pathlib import Path

import numpy as np
import pytest

from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE, Sample
from caloedge.detector.crystals import events
from caloedge.detector.crystals.events import DECAY_DISTANCE_MM, MISMATCH, split_rows
from caloedge.detector.crystals.geometry import PBWO4
from caloedge.detector.crystals.library import ShowerLibrary, open_library, write_library
from caloedge.errors import BadData
from caloedge.recipe import read_recipe
from caloedge.reconstruction import shower_shapes
from caloedge.reconstruction.shower_shapes import RANGE, VARIABLES, highest_window, unscaled
from caloedge.results import Number, Plot, Table
from caloedge.tasks import shower_shape
from caloedge.tasks.shower_shape import (
    BOUNDS_K2,
    CLASSES,
    CUTS,
    PHOTON,
    PION,
    TASK,
    TOTAL_GEV,
    ShapeTruth,
    photon_score,
    tuned_cuts,
)

ROOT = Path(__file__).parents[2]
METHODS = (REFERENCE, FLOAT, INTEGER, BASELINE)
NAMES = [variable.name for variable in VARIABLES]


@pytest.fixture(scope="module")
def shipped() -> ShowerLibrary:
    return open_library("pbwo4_gamma")


@pytest.fixture(scope="module")
def composed(shipped: ShowerLibrary) -> Sample[ShapeTruth]:
    return TASK.sample(shipped, "train", 20_000, 5)


# Events


def test_the_same_arguments_give_the_same_arrays(library: ShowerLibrary) -> None:
    first, again = (TASK.sample(library, "test", 1500, 5) for _ in range(2))
    np.testing.assert_array_equal(first.inputs, again.inputs)
    np.testing.assert_array_equal(first.targets, again.targets)
    np.testing.assert_array_equal(first.truth.distance_E, again.truth.distance_E)
    few = TASK.sample(library, "test", 1000, 5)  # whole blocks do not depend on how many events are asked for
    np.testing.assert_array_equal(few.inputs, first.inputs[:1000])
    assert not np.array_equal(first.inputs[:500], first.inputs[1000:])
    for split, seed in (("test", 6), ("valid", 5), ("all", 5)):
        assert not np.array_equal(TASK.sample(library, split, 1500, seed).inputs, first.inputs)


@pytest.mark.parametrize("split", ["train", "valid", "test", "all"])
def test_events_are_of_showers_of_their_split_and_what_the_truth_says(
    library: ShowerLibrary, monkeypatch: pytest.MonkeyPatch, split: str
) -> None:
    deposited = []
    deposit = events.deposit_patch

    def spy(library: ShowerLibrary, showers: np.ndarray, steps: np.ndarray) -> np.ndarray:
        deposited.append((showers.copy(), steps.copy()))
        return deposit(library, showers, steps)

    monkeypatch.setattr(events, "deposit_patch", spy)
    truth = TASK.sample(library, split, 400, 1).truth
    ((showers, steps),) = deposited
    np.testing.assert_array_equal(showers, truth.shower_EP)
    seen = set(showers[showers >= 0].tolist())
    assert seen <= set(split_rows(len(library), split).tolist())
    assert len(seen) > 30
    two = truth.class_E != PHOTON
    np.testing.assert_array_equal(showers[:, 1] >= 0, two)
    inside = library.impact_mm / PBWO4.cell_mm
    apart = steps[two] + inside[showers[two, 1]] - inside[showers[two, 0]]
    np.testing.assert_allclose(np.hypot(*apart.T), truth.distance_E[two], atol=1e-5)  # impact points just inside the crystal
    assert np.isnan(truth.distance_E[~two]).all()
    energy = np.where(showers < 0, np.nan, library.energies_mev[showers] / 1e3)
    np.testing.assert_allclose(truth.energy_EP, energy, rtol=1e-12)  # MeV to GeV in doubles


def test_distances_are_those_of_the_class(composed: Sample[ShapeTruth]) -> None:
    truth = composed.truth
    np.testing.assert_array_equal(composed.targets, np.eye(5)[truth.class_E])
    counts = np.bincount(truth.class_E, minlength=5)
    assert (np.abs(counts - 4000) < 5 * np.sqrt(20_000 * 0.2 * 0.8)).all()
    for kind in range(1, 5):
        distance = truth.distance_E[truth.class_E == kind]
        low, high = BOUNDS_K2[kind]
        assert ((distance >= low) & (distance < high)).all()
        if kind != PION:  # uniform: 5 σ of the mean of a uniform distribution
            assert abs(distance.mean() - low - 0.5) < 5 / np.sqrt(12 * len(distance))


def test_a_pion_has_its_mass_and_the_distance_that_follows_from_it(composed: Sample[ShapeTruth]) -> None:
    pion = composed.truth.class_E == PION
    first, second = composed.truth.energy_EP[pion].T
    angle = composed.truth.angle_E[pion]
    assert np.isnan(composed.truth.angle_E[~pion]).all()
    mass_mev = 1e3 * np.sqrt(2 * first * second * (1 - np.cos(angle)))
    np.testing.assert_allclose(mass_mev, 134.9768, rtol=1e-9)  # 1 − cos of a milliradian keeps ten digits
    # The two momenta cancel across the flight: two triangles from the decay point to the face.
    along_first = np.arctan(second * np.sin(angle) / (first + second * np.cos(angle)))
    expected = DECAY_DISTANCE_MM * (np.tan(along_first) + np.tan(angle - along_first)) / PBWO4.cell_mm
    difference = composed.truth.distance_E[pion] - expected
    assert np.abs(difference).max() <= MISMATCH
    assert abs(difference.mean()) < 5e-4, "the choice of pairs prefers one side"


def test_a_pion_decays_isotropically(composed: Sample[ShapeTruth]) -> None:
    """The energy sharing is uniform between the limits of 1 GeV: Kolmogorov–Smirnov distance below its 0.1 % quantile."""
    for kind in range(1, 5):
        energy = composed.truth.energy_EP[composed.truth.class_E == kind]
        total = energy.sum(axis=1)
        # Library energies miss the target energies by a few per mille, so that a share may lie just outside.
        share = np.sort(np.clip((energy[:, 0] / total - 1 / total) / (1 - 2 / total), 0, 1))
        distance = np.abs(share - (np.arange(len(share)) + 0.5) / len(share)).max()
        assert distance < 1.95 / np.sqrt(len(share)), CLASSES[kind]


def best_by_histogram(values: np.ndarray, classes: np.ndarray, bins: int = 25) -> float:
    """Return the accuracy, on the second half, of the most frequent class in bins of one value on the first half."""
    edges = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    number, half = np.digitize(values, edges), len(values) // 2
    counts = np.zeros((bins, 5))
    np.add.at(counts, (number[:half], classes[:half]), 1)
    return float((counts.argmax(axis=1)[number[half:]] == classes[half:]).mean())


def test_energy_alone_is_no_handle(composed: Sample[ShapeTruth]) -> None:
    truth = composed.truth
    total = truth.total_gev
    assert total.min() > 0.98 * TOTAL_GEV[0]
    assert total.max() < 1.02 * TOTAL_GEV[1]
    for kind in range(1, 5):  # Kolmogorov–Smirnov distance of two samples, 0.1 % quantile
        a, b = np.sort(total[truth.class_E == PHOTON]), np.sort(total[truth.class_E == kind])
        at = np.concatenate([a, b])
        distance = np.abs(np.searchsorted(a, at) / len(a) - np.searchsorted(b, at) / len(b)).max()
        assert distance < 1.95 * np.sqrt(1 / len(a) + 1 / len(b)), CLASSES[kind]
    chance, error = 0.2, np.sqrt(0.2 * 0.8 / 10_000)
    assert best_by_histogram(total, truth.class_E) < chance + 4 * error
    # The window's energy tells a little: of photons 2–3 crystals apart a part lies outside.
    assert best_by_histogram(unscaled(composed.inputs, "log_energy"), truth.class_E) < 0.25
    assert best_by_histogram(unscaled(composed.inputs, "major"), truth.class_E) > 0.35, "the classifier itself finds nothing"


def test_the_highest_crystal_is_found_in_every_event(shipped: ShowerLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    """The patch is large enough: no crystal outside the searched part is higher."""
    seen = []
    monkeypatch.setattr(shower_shapes, "highest_window", lambda cells: seen.append(cells) or highest_window(cells))
    TASK.sample(shipped, "all", 1000, 2)
    for cells in seen:
        assert (cells.max(axis=(1, 2)) == highest_window(cells)[:, 2, 2]).all()


# Inputs


def test_inputs_fill_the_range_of_the_network_s_input(composed: Sample[ShapeTruth]) -> None:
    assert composed.inputs.shape == (20_000, 16)
    assert np.abs(composed.inputs).max() <= RANGE
    # Centre and scale are the mean and standard deviation of training events, to two digits.
    assert np.abs(composed.inputs.mean(axis=0)).max() < 0.15
    assert np.abs(composed.inputs.std(axis=0) - 1).max() < 0.1
    assert (np.abs(composed.inputs) == RANGE).mean(axis=0).max() < 0.01, "a variable saturates too often"
    q = read_recipe(ROOT / "models" / "shower_shape" / "recipe.yaml").quantisation
    assert q.input_signed
    assert 2.0 ** (q.input_bits - 1 - q.input_fraction) == RANGE
    for number, name in enumerate(NAMES):
        values = unscaled(composed.inputs, name)
        np.testing.assert_allclose(
            (values - VARIABLES[number].centre) / VARIABLES[number].scale, composed.inputs[:, number], atol=1e-6
        )


# The baseline


def test_the_baseline_is_a_sequence_of_cuts(composed: Sample[ShapeTruth]) -> None:
    scores = TASK.baseline(composed)
    e2_e1, major, root_mass = (unscaled(composed.inputs, name) for name in ("e2_e1", "major", "root_mass"))
    for event in range(3000):
        if e2_e1[event] < CUTS[0] and major[event] < CUTS[1]:
            chosen = PHOTON
        elif CUTS[2] <= root_mass[event] < CUTS[3]:
            chosen = PION
        else:
            chosen = 1 if major[event] < CUTS[4] else 2 if major[event] < CUTS[5] else 3
        assert scores[event].argmax() == chosen
    assert (scores.argmax(axis=1) == composed.truth.class_E).mean() > 0.44
    assert len(np.unique(photon_score(scores))) > 10_000, "no curve can be drawn"


@pytest.mark.exhaustive
def test_the_cuts_are_those_tuned_on_training_events(shipped: ShowerLibrary) -> None:
    assert tuned_cuts(shipped) == CUTS


# Figures


def graded(sample: Sample[ShapeTruth]) -> dict[str, np.ndarray]:
    """Return made-up scores of the four methods, the first three good."""
    noise = np.random.default_rng(2).standard_normal(sample.targets.shape)
    good = noise + 3 * sample.targets
    return {REFERENCE: good, FLOAT: 2 * good, INTEGER: np.rint(16 * good), BASELINE: TASK.baseline(sample)}


def test_working_points_keep_nine_in_ten_photons(composed: Sample[ShapeTruth]) -> None:
    scores = graded(composed)
    points = TASK.working_points(composed, scores)
    assert list(points) == list(METHODS)
    photon = composed.truth.class_E == PHOTON
    for name, threshold in points.items():
        score = photon_score(scores[name])[photon]
        assert (score >= threshold).mean() >= 0.9
        assert (score > threshold).mean() < 0.9
    assert points[INTEGER] == int(points[INTEGER])


def hand_made() -> Sample[ShapeTruth]:
    """Six events: two photons, one of each other class."""
    class_E = np.array([0, 0, 1, 2, 3, 4])
    nan = np.nan
    energy = np.array([[20.0, nan], [30, nan], [10, 10], [20, 20], [30, 30], [10, 20]])
    truth = ShapeTruth(
        class_E,
        energy,
        np.array([nan, nan, 0.5, 1.5, 2.5, 0.6]),
        np.array([nan] * 5 + [0.0095]),
        np.array([[0, -1], [1, -1], [2, 3], [4, 5], [6, 7], [8, 9]]),
    )
    return Sample(np.zeros((6, 16), np.float32), np.eye(5, dtype=np.float32)[class_E], truth)


def test_figures_of_a_case_counted_by_hand() -> None:
    sample = hand_made()
    perfect = np.eye(5)[sample.truth.class_E]
    worse = perfect.copy()
    worse[1], worse[5] = np.eye(5)[4], np.eye(5)[0]  # a photon and a π⁰ are mistaken for each other
    scores = {REFERENCE: perfect, FLOAT: perfect, INTEGER: worse, BASELINE: np.eye(5)[[0, 0, 0, 0, 0, 0]]}
    assessment = TASK.assess(sample, scores, dict.fromkeys(scores, 0.5))
    summary, classes, confusion = (block for block in assessment.sections[0].blocks if isinstance(block, Table))
    figures = {row[0]: [cell.value for cell in row[1:] if isinstance(cell, Number)] for row in summary.rows}
    close = pytest.approx  # 1e-12: sums of a few doubles
    assert figures[REFERENCE] == close([100, 1, 100, 100, 100, 100, 100], rel=1e-12)
    # Two photons score 1 and −1, the others −1, −1, −1, 1: 3 + ½ for the first, 3 × ½ for the second, of 8 pairs.
    assert figures[INTEGER] == close([100 * 4 / 6, 5 / 8, 50, 100, 100, 100, 0], rel=1e-12)
    assert figures[BASELINE] == close([100 * 2 / 6, 0.5, 100, 0, 0, 0, 0], rel=1e-12)
    shares = {row[0]: [cell.value for cell in row[1:] if isinstance(cell, Number)] for row in classes.rows}
    assert shares[INTEGER] == close([50, 100, 100, 100, 0], rel=1e-12)
    matrix = np.array([[cell.value for cell in row[1:] if isinstance(cell, Number)] for row in confusion.rows])
    np.testing.assert_allclose(
        matrix, [[50, 0, 0, 0, 50], [0, 100, 0, 0, 0], [0, 0, 100, 0, 0], [0, 0, 0, 100, 0], [100, 0, 0, 0, 0]]
    )
    assert list(assessment.figures) == ["Accuracy"]
    assert {name: number.value for name, number in assessment.figures["Accuracy"].items()} == {
        name: figures[name][0] for name in scores
    }
    within, above = assessment.claims
    assert within.verdict == above.verdict == "not tested"  # six events decide nothing


def test_curves_agree_with_the_table(composed: Sample[ShapeTruth]) -> None:
    scores = graded(composed)
    assessment = TASK.assess(composed, scores, TASK.working_points(composed, scores))
    within, above = assessment.claims
    assert within.verdict == "holds"
    assert above.verdict == "holds"
    assert re.match(r"\d+\.\d\d% against \d+\.\d\d%: \+\d+\.\d\d % \(\+\d", above.found)
    blocks = assessment.sections[0].blocks
    summary = next(block for block in blocks if isinstance(block, Table))
    rejected = {row[0]: row[summary.columns.index("rejected: π⁰")] for row in summary.rows}
    plots = {block.title: block for block in blocks if isinstance(block, Plot)}
    pion = composed.truth.class_E == PION
    for title, values, edges in (
        ("π⁰ rejected against energy", composed.truth.total_gev, shower_shape.ENERGY_BINS_GEV),
        ("π⁰ rejected against the distance of its photons", composed.truth.distance_E, shower_shape.DISTANCE_BINS),
    ):
        counts, _ = np.histogram(values[pion], edges)
        outside = int(pion.sum()) - counts.sum()
        assert outside < 10  # library energies just above or below the range
        series = next(s for s in plots[title].series if s.name == FLOAT)
        number = rejected[FLOAT]
        assert isinstance(number, Number)
        assert np.average(series.y, weights=counts[counts > 0]) == pytest.approx(number.value, abs=100 * 10 / pion.sum())
    roc = plots["π⁰ rejected against photon efficiency"].series
    point = next(s for s in roc if s.name == FLOAT and s.style == "points")
    assert point.x[0] == pytest.approx(90, abs=0.1)
    curve = next(s for s in roc if s.name == FLOAT and s.style == "line")
    assert list(curve.x) == sorted(curve.x, reverse=True)
    assert list(curve.y) == sorted(curve.y)


def test_one_event_is_enough(library: ShowerLibrary) -> None:
    for seed in range(8):
        sample = TASK.sample(library, "test", 1, seed)
        scores = dict.fromkeys(METHODS, TASK.baseline(sample))
        TASK.assess(sample, scores, TASK.working_points(sample, scores))


# Libraries that do not fit


def test_a_library_of_another_geometry_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    write_library(path, np.full(5, 2e4), np.zeros((5, 2)), np.ones((5, 49), np.float32), {})
    with pytest.raises(BadData) as caught:
        TASK.sample(open_library(path), "all", 10, 1)
    assert str(caught.value) == (
        f"{path}: showers have 49 cells; this task needs 25×25 = 625 PbWO4 crystals (caloedge simulate --geometry pbwo4)"
    )


def test_a_library_of_too_narrow_energies_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "narrow.h5"
    write_library(path, np.linspace(1e4, 3e4, 5), np.zeros((5, 2)), np.ones((5, 625), np.float32), {})
    with pytest.raises(BadData) as caught:
        TASK.sample(open_library(path), "all", 10, 1)
    assert str(caught.value) == (
        f"{path}: photons of 10 to 30 GeV; shower shapes need 1 to 100 GeV"
        " (caloedge simulate --min-energy-gev 1 --max-energy-gev 100)"
    )
