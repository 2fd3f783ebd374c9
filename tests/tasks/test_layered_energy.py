"""The task of six layers: its samples and splits, its classical method, its figures on hand-made images, its assessment."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE, Sample
from caloedge.detector.crystals.events import split_rows
from caloedge.detector.layers.events import Generated, LayeredEvents
from caloedge.detector.layers.files import LayeredSample, generate, read_layered, write_layered
from caloedge.detector.layers.geometry import SIDE_MM
from caloedge.errors import BadData, UserError
from caloedge.metrics import bootstrap
from caloedge.reports.page import render
from caloedge.results import Image, Number, Plot, Report, Table
from caloedge.tasks.layered_energy import assessment
from caloedge.tasks.layered_energy import task as layered_energy
from caloedge.tasks.layered_energy.assessment import SUM, NeutralEvents, measure, response, weighted_square
from caloedge.tasks.layered_energy.task import (
    CHANNELS,
    EVENT_FACTOR,
    FOR_EVENTS,
    PIXEL_FACTOR,
    PROFILE,
    TASK,
    UNIT_GEV,
    composed,
    subtracted,
    tuned_factors,
    tuned_profile,
)

METHODS = (REFERENCE, FLOAT, INTEGER, BASELINE)


@pytest.fixture(scope="module")
def test_sample() -> Sample[NeutralEvents]:
    return TASK.sample(Generated(), "test", 400, 1)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> LayeredSample:
    path = tmp_path_factory.mktemp("layers") / "events.h5"
    write_layered(path, generate(60, 3))
    return read_layered(path)


def image_of(name: str, sample: Sample[NeutralEvents], seed: int) -> np.ndarray:
    """Stand in for a network: truth with some of the baseline's error and noise of its own."""
    wrong = {REFERENCE: 0.30, FLOAT: 0.305, INTEGER: 0.31}[name]
    noise = np.random.default_rng(seed).normal(1, 0.01, (len(sample.targets), 1, 1))
    return ((1 - wrong) * sample.targets[:, 0] + wrong * TASK.baseline(sample)) * noise


def scores_of(sample: Sample[NeutralEvents]) -> dict[str, np.ndarray]:
    networks = {name: image_of(name, sample, 1) for name in METHODS[:3]}
    return networks | {BASELINE: TASK.baseline(sample)}


# Samples


def test_inputs_are_the_layers_and_the_track(test_sample: Sample[NeutralEvents]) -> None:
    events = Generated().events(400, 1, stream=2)
    assert CHANNELS[0] == "ECAL 1"
    assert CHANNELS[-1] == "track"
    assert test_sample.inputs.shape == (400, 7, 64, 64)
    assert test_sample.targets.shape == (400, 1, 64, 64)
    assert test_sample.inputs.dtype == test_sample.targets.dtype == np.float32
    np.testing.assert_array_equal(test_sample.inputs[:, 1], events.cells_gev[1] / np.float32(UNIT_GEV))
    total = sum(cells.sum(axis=(1, 2), dtype=float) for cells in events.neutral_gev)
    np.testing.assert_allclose(UNIT_GEV * test_sample.targets.sum(axis=(1, 2, 3), dtype=float), total, rtol=1e-5)
    track = test_sample.inputs[:, 6]
    assert ((track > 0).sum(axis=(1, 2)) == 1).all()
    _, row, column = np.nonzero(track)
    np.testing.assert_array_equal(row, np.floor((events.track_mm[:, 1] + SIDE_MM / 2) / 36))
    np.testing.assert_array_equal(column, np.floor((events.track_mm[:, 0] + SIDE_MM / 2) / 36))
    np.testing.assert_allclose(UNIT_GEV * track.max(axis=(1, 2)), events.track_gev, rtol=1e-6)


def test_numbers_stay_in_the_range_that_inputs_are_digitised_in(test_sample: Sample[NeutralEvents]) -> None:
    assert 1 < test_sample.inputs.max() < 2
    assert 0.5 < test_sample.targets.max() < 2
    assert test_sample.inputs.min() == test_sample.targets.min() == 0


def test_the_track_is_where_the_charged_energy_is(test_sample: Sample[NeutralEvents]) -> None:
    """Rows and columns of cells and track agree: a transposed track would lie elsewhere."""
    charged = np.maximum(test_sample.inputs[:, 1] - test_sample.targets[:, 0], 0)
    _, row, column = np.nonzero(test_sample.inputs[:, 6])
    events = np.arange(len(row))
    near = np.stack([charged[events, row + i, column + j] for i in (-1, 0, 1) for j in (-1, 0, 1)]).sum(axis=0)
    transposed = np.stack([charged[events, column + i, row + j] for i in (-1, 0, 1) for j in (-1, 0, 1)]).sum(axis=0)
    assert near.sum() > 0.6 * charged.sum()
    assert transposed.sum() < 0.5 * near.sum()


def test_generated_samples_are_deterministic_and_their_splits_differ() -> None:
    library = Generated()
    samples = {split: TASK.sample(library, split, 70, 4) for split in ("train", "valid", "test", "all")}
    for split, sample in samples.items():
        few = TASK.sample(library, split, 10, 4)
        np.testing.assert_array_equal(few.inputs, sample.inputs[:10])
        np.testing.assert_array_equal(few.targets, sample.targets[:10])
    tracks = [momentum for sample in samples.values() for momentum in sample.truth.track_gev.tolist()]
    tracks += TASK.sample(library, "train", 70, 5).truth.track_gev.tolist()
    assert len(set(tracks)) == 5 * 70


def test_a_files_splits_are_disjoint_and_together_all(small: LayeredSample) -> None:
    parts = {split: TASK.sample(small, split, 60, 1).truth.track_gev for split in ("train", "valid", "test", "all")}
    assert [len(part) for part in parts.values()] == [42, 9, 9, 60]
    seen = [set(part.tolist()) for part in parts.values()]
    assert seen[0] | seen[1] | seen[2] == seen[3]
    assert sum(map(len, seen[:3])) == 60
    assert seen[2] == set(small.events.track_gev[split_rows(60, "test")].tolist())
    few = TASK.sample(small, "train", 5, 1)
    np.testing.assert_array_equal(few.truth.track_gev, parts["train"][:5])
    assert not np.array_equal(TASK.sample(small, "train", 5, 2).truth.track_gev, parts["train"][:5])


def test_an_unknown_split_is_refused(small: LayeredSample) -> None:
    for library in (Generated(), small):
        with pytest.raises(UserError, match=r"^split 'dev': there are train, valid, test, all$"):
            TASK.sample(library, "dev", 5, 1)


def test_events_without_tracks_are_refused(small: LayeredSample) -> None:
    momenta = small.events.track_gev.copy()
    momenta[split_rows(60, "test")[0]] = np.nan
    library = replace(small, events=replace(small.events, track_gev=momenta), path=Path("images.npz"))
    assert len(TASK.sample(library, "train", 60, 1).inputs) == 42
    row = split_rows(60, "test")[0]
    complaint = f"images.npz: event {row} has no track; this task needs the charged pion's 'track_gev' (N,) and 'track_mm' (N, 2)"
    with pytest.raises(BadData, match=f"^{re.escape(complaint)}$"):
        TASK.sample(library, "test", 60, 1)


def test_the_task_opens_the_generator_and_files(small: LayeredSample) -> None:
    generator = TASK.open("generated")
    assert len(generator) == 1_000_000
    assert TASK.open(small.path).digest == small.digest != generator.digest


# The classical method


def test_the_mean_deposit_is_what_training_events_have() -> None:
    tuned, expected = np.array(tuned_profile(Generated())), np.array(PROFILE)
    np.testing.assert_allclose(tuned, expected, rtol=0.01)  # three digits of sums in single precision


def test_the_factors_are_the_best_on_training_events() -> None:
    assert tuned_factors(Generated()) == (PIXEL_FACTOR, EVENT_FACTOR)


def test_the_classical_method_is_better_than_none(test_sample: Sample[NeutralEvents]) -> None:
    target = test_sample.targets[:, 0]
    nothing, of_events = subtracted(test_sample, 0.0, EVENT_FACTOR)
    pixels = TASK.baseline(test_sample)
    np.testing.assert_allclose(nothing, test_sample.inputs[:, :3].sum(axis=1), rtol=1e-6)
    assert weighted_square(pixels, target).mean() < 0.7 * weighted_square(nothing, target).mean()
    rms = [np.sqrt(((response(image, target) - 1) ** 2).mean()) for image in (nothing, pixels, of_events)]
    assert rms[0] > 1.5 * rms[1]
    assert rms[1] > 1.1 * rms[2]


def test_the_classical_method_looks_at_the_track_only_where_it_is(test_sample: Sample[NeutralEvents]) -> None:
    moved = replace(test_sample, truth=replace(test_sample.truth, track_mm=-test_sample.truth.track_mm[:, ::-1]))
    target = test_sample.targets[:, 0]
    assert weighted_square(TASK.baseline(moved), target).mean() > 1.2 * weighted_square(TASK.baseline(test_sample), target).mean()


def test_nothing_is_left_below_zero_or_made_from_nothing(test_sample: Sample[NeutralEvents]) -> None:
    image = TASK.baseline(test_sample)
    assert image.shape == (400, 64, 64)
    assert (image >= 0).all()
    assert (image <= test_sample.inputs[:, :3].sum(axis=1) + 1e-6).all()


# Figures on images made by hand


def by_hand(n: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Neutral energy, all energy, distances."""
    neutral, total = np.zeros((2, n, 4, 4))
    neutral[:, 1, 1], neutral[:, 2, 2] = 3.0, 1.0
    total[:] = neutral + 1.0
    return neutral, total, np.linspace(1, 287, n)


def test_a_perfect_image_has_perfect_figures() -> None:
    neutral, total, distance = by_hand()
    figures = measure(neutral, neutral, total, distance, bootstrap.bootstrap_weights(64, 1))
    assert figures.median.value_B[-1] == 1
    assert figures.width.value_B[-1] == 0
    assert figures.weighted_square.value[0] == figures.misplaced.value[0] == figures.share_error.value[0] == 0


def test_figures_are_what_their_definitions_say() -> None:
    neutral, total, distance = by_hand()
    image = neutral.copy()
    image[:, 1, 1] += 1
    image[:, 0, 0] += 0.5
    figures = measure(image, neutral, total, distance, bootstrap.bootstrap_weights(64, 1))
    assert figures.median.value_B[-1] == pytest.approx(5.5 / 4, rel=1e-12)  # rounding of doubles
    assert figures.weighted_square.value[0] == pytest.approx(3 * 1**2 / 4, rel=1e-6)
    assert figures.misplaced.value[0] == pytest.approx((1 + 0.5) / 20, rel=1e-6)
    assert figures.share_error.value[0] == pytest.approx((1 / 4 + 0.5) / 16, rel=1e-6)


def test_no_pixel_counts_with_less_than_nothing_or_more_than_there_is(test_sample: Sample[NeutralEvents]) -> None:
    """Small values in empty pixels would drown the sum, and do not show."""
    image = TASK.baseline(test_sample)
    total = test_sample.inputs[:, :6].sum(axis=1)
    dirty = np.where(total == 0, np.float32(0.01), np.where(image == 0, np.float32(-0.5), image))
    assert np.maximum(dirty, 0).sum() > 1.5 * image.sum()
    one, other = (TASK.assess(test_sample, {BASELINE: values}, {}) for values in (image, dirty))
    assert one.headline == other.headline


def test_widths_are_relative_and_in_bins_of_the_distance() -> None:
    neutral, total, _ = by_hand(4000)
    rng = np.random.default_rng(3)
    distance = np.repeat([50.0, 250.0], 2000)
    scale = 0.5 * rng.normal(1, np.where(distance < 100, 0.2, 0.1))
    image = neutral * scale[:, None, None]
    figures = measure(image, neutral, total, distance, bootstrap.bootstrap_weights(4000, 1))
    assert figures.width.value_B[1] == pytest.approx(0.2, rel=0.1)
    assert figures.width.value_B[5] == pytest.approx(0.1, rel=0.1)
    assert figures.median.value_B[-1] == pytest.approx(0.5, rel=0.02)
    assert np.isnan(figures.width.value_B[[0, 2, 3, 4]]).all()
    # σ / √(2 N), and the smallest interval is known two to three times worse.
    assert 1 < figures.width.uncertainty_B[1] / (0.2 / np.sqrt(2 * 2000)) < 5
    unknown = measure(image, neutral, total, np.full(4000, np.nan), bootstrap.bootstrap_weights(4000, 1))
    assert np.isnan(unknown.width.value_B[:-1]).all()
    assert unknown.width.value_B[-1] == figures.width.value_B[-1]


# Assessment


def test_an_assessment_can_be_shown(test_sample: Sample[NeutralEvents]) -> None:
    scores = scores_of(test_sample)
    assert TASK.working_points(test_sample, scores) == {}
    assessed = TASK.assess(test_sample, scores, {})
    names = [name.removeprefix("Neutral energy resolution, ") for name, _ in assessed.headline]
    assert names == [*METHODS, FOR_EVENTS]
    assert all(number.origin == "computed" and number.uncertainty for _, number in assessed.headline)
    table, *plots = assessed.sections[0].blocks
    assert isinstance(table, Table)
    assert [row[0] for row in table.rows] == [*METHODS, FOR_EVENTS, SUM]
    assert len(plots) == 2
    assert all(isinstance(plot, Plot) and len(plot.series) == 5 for plot in plots)
    images = assessed.sections[1].blocks
    assert [block.title for block in images] == [
        "All energy",
        "Neutral energy deposited",
        *(f"Neutral energy, {name}" for name in (REFERENCE, INTEGER, BASELINE)),
    ]
    report = Report(
        title="six layers",
        summary="a test",
        created="2026-01-01T00:00:00+00:00",
        headline=assessed.headline,
        sections=assessed.sections,
    )
    page = render(report)
    assert "Neutral energy of events and pixels" in page
    assert FOR_EVENTS in page.replace("&#39;", "'")


def test_a_display_shows_rows_upwards_and_columns_to_the_right(test_sample: Sample[NeutralEvents]) -> None:
    assessed = TASK.assess(test_sample, {BASELINE: TASK.baseline(test_sample)}, {})
    block = assessed.sections[1].blocks[0]
    assert isinstance(block, Image)
    ((x, y, _),) = block.marks
    event = int(np.argmin(np.abs(test_sample.truth.distance_mm - 60)))
    _, row, column = np.nonzero(test_sample.inputs[event : event + 1, 6])
    assert (int(x), int(y)) == (column[0] - 18, row[0] - 18)
    total = UNIT_GEV * test_sample.inputs[event, :6].sum(axis=0)
    shown = total[18:46, 18:46]
    np.testing.assert_allclose(np.array(block.values), shown.T, atol=1e-3)  # stored with three digits
    assert np.abs(shown - shown.T).max() > 1


def test_shapes_of_scores_do_not_matter(test_sample: Sample[NeutralEvents]) -> None:
    flat = TASK.baseline(test_sample)
    assessed = TASK.assess(test_sample, {BASELINE: flat}, {})
    other = TASK.assess(test_sample, {BASELINE: flat[:, None].astype(np.float32)}, {})
    assert assessed.headline == other.headline


def test_claims_hold_for_good_networks_and_fail_for_bad_ones(test_sample: Sample[NeutralEvents]) -> None:
    good = scores_of(test_sample)
    claims = TASK.assess(test_sample, good, {}).claims
    assert [claim.verdict for claim in claims] == ["holds"] * 5
    assert "integer edge" in claims[0].statement
    assert "ratio of the resolutions" in claims[0].found
    bad = good | {INTEGER: good[BASELINE]}
    assert [claim.verdict for claim in TASK.assess(test_sample, bad, {}).claims][:3] == ["fails"] * 3


def test_claims_are_made_only_where_both_methods_are_there(test_sample: Sample[NeutralEvents]) -> None:
    scores = scores_of(test_sample)
    assert TASK.assess(test_sample, {BASELINE: scores[BASELINE]}, {}).claims == ()
    alone = TASK.assess(test_sample, {REFERENCE: scores[REFERENCE]}, {}).claims
    assert len(alone) == 2
    assert all(f"'{FOR_EVENTS}'" in claim.statement for claim in alone)


def test_too_few_events_leave_claims_open() -> None:
    sample = TASK.sample(Generated(), "test", 60, 1)
    claims = TASK.assess(sample, scores_of(sample), {}).claims
    open_claims = [claim for claim in claims if claim.verdict == "not tested"]
    assert open_claims
    assert all("closer than 72 mm" in claim.statement for claim in open_claims)


def test_events_of_unknown_distance_are_assessed_without_plots(test_sample: Sample[NeutralEvents]) -> None:
    unknown = replace(test_sample, truth=replace(test_sample.truth, distance_mm=np.full(400, np.nan)))
    assessed = TASK.assess(unknown, scores_of(unknown), {})
    assert len(assessed.sections) == 1
    assert len(assessed.sections[0].blocks) == 1
    assert all(isinstance(number, Number) and np.isfinite(number.value) for _, number in assessed.headline)


def test_the_loss_takes_its_images() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("lightning")
    from caloedge.training.fit import LOSSES

    targets = torch.from_numpy(TASK.sample(Generated(), "train", 8, 1).targets)
    loss = LOSSES[TASK.loss]
    perfect, nothing = loss(targets, targets), loss(torch.zeros_like(targets), targets)
    assert float(perfect) < 1e-4 < float(nothing)


def test_the_measured_error_is_the_losses(test_sample: Sample[NeutralEvents]) -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("lightning")
    from caloedge.training.fit import weighted_mean_square

    image = TASK.baseline(test_sample)[:, None]
    expected = float(weighted_mean_square(torch.from_numpy(image), torch.from_numpy(test_sample.targets)))
    mean_error = assessment.weighted_square(image[:, 0], test_sample.targets[:, 0]).mean()
    assert mean_error == pytest.approx(expected, rel=1e-4)  # single precision sums there


def test_composed_events_may_be_none() -> None:
    events = Generated().events(0, 1)
    assert isinstance(events, LayeredEvents)
    assert composed(events).inputs.shape == (0, 7, 64, 64)
    assert layered_energy.baseline(composed(events)).shape == (0, 64, 64)
