"""The center finder's samples, targets, baseline, working points and figures, each against a plain reading of its definition."""

import re
from math import ceil, hypot
from typing import Any

import numpy as np
import pytest
from orienting import orient, unorient

from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE, Loss, Sample, find
from caloedge.detector.crystals import events, photon_events
from caloedge.detector.crystals.events import block_generator, split_rows
from caloedge.detector.crystals.geometry import PBWO4
from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.detector.crystals.photon_events import ONE, PhotonEvents
from caloedge.reconstruction import windowing
from caloedge.results import Number, Plot, Table, verdict
from caloedge.tasks import center_finder
from caloedge.tasks.center_finder import EVENTS_PER_BLOCK, NEAR, OTHER, TASK, MemberTruth, energies

METHODS = (REFERENCE, FLOAT, INTEGER, BASELINE)
N = 700
SEED = 5


@pytest.fixture(scope="module")
def members(library: ShowerLibrary) -> Sample[MemberTruth]:
    return TASK.sample(library, "all", N, SEED)


@pytest.fixture(scope="module")
def composed(library: ShowerLibrary) -> PhotonEvents:
    """The events behind it: each block begins with composing them."""
    rows = split_rows(len(library), "all")
    sizes = (EVENTS_PER_BLOCK, N - EVENTS_PER_BLOCK)
    return photon_events.joined(
        [photon_events.compose(library, rows, size, block_generator(SEED, "all", block)) for block, size in enumerate(sizes)]
    )


@pytest.fixture(scope="module")
def large() -> Sample[MemberTruth]:
    return TASK.sample(open_library("pbwo4_gamma"), "test", 4000, 1)


# Samples


def test_the_same_arguments_give_the_same_arrays(library: ShowerLibrary, members: Sample[MemberTruth]) -> None:
    again = TASK.sample(library, "all", N, SEED)
    for field in ("inputs", "published_inputs", "targets"):
        np.testing.assert_array_equal(getattr(again, field), getattr(members, field))
        assert getattr(members, field).dtype == np.float32
    few = TASK.sample(library, "all", EVENTS_PER_BLOCK, SEED)  # whole blocks do not depend on how many events are asked for
    np.testing.assert_array_equal(few.inputs, members.inputs[: len(few.inputs)])
    for split, seed in (("all", SEED + 1), ("train", SEED)):
        other = TASK.sample(library, split, N, seed)
        assert other.inputs.shape != members.inputs.shape or not np.array_equal(other.inputs, members.inputs)


def test_splits_share_no_showers(library: ShowerLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    used: dict[str, set[int]] = {}
    deposit = events.deposit
    split = ""

    def spy(showers: np.ndarray, chosen: np.ndarray, crystals: np.ndarray, two: np.ndarray) -> np.ndarray:
        used.setdefault(split, set()).update(chosen.ravel().tolist())
        return deposit(showers, chosen, crystals, two)

    monkeypatch.setattr(events, "deposit", spy)
    for split in ("train", "valid", "test"):
        sample = TASK.sample(library, split, 300, 1)
        shown = set(sample.truth.shower_MP.ravel().tolist()) - {-1}
        assert shown <= used[split] <= set(split_rows(len(library), split).tolist())
        assert len(shown) > 40
    assert not used["train"] & used["valid"]
    assert not used["train"] & used["test"]
    assert not used["valid"] & used["test"]


def plain(members: Sample[MemberTruth], composed: PhotonEvents, member: int) -> dict[str, Any]:
    """Return what is to be known of a member, from the event alone."""
    event, (x, y) = int(members.truth.event_M[member]), members.truth.crystal_M2[member].tolist()
    crystals = composed.crystals
    codes = [
        [min(round(float(cell) * 32), 4095) for cell in row[y - 3 : y + 4]] for row in crystals.cells_EXY[event, x - 3 : x + 4]
    ]
    photons_here = [
        p for p in zip(crystals.impact_EP2[event].tolist(), crystals.energy_EP[event].tolist(), strict=True) if p[1] > 0
    ]
    _, steps, applied = orient(codes, [(ix - x - 0.5, iy - y - 0.5) for (ix, iy), _ in photons_here])
    around = [(*step, energy, (int(ix), int(iy)) == (x, y)) for step, ((ix, iy), energy) in zip(steps, photons_here, strict=True)]
    nearest = min(around, key=lambda photon: (not photon[3], hypot(*photon[:2])))
    unit = 2.0 ** (codes[3][3].bit_length() - 5)
    return {
        "codes": codes,
        "done": applied,
        "offset": nearest[:2],
        "known": nearest[3] or hypot(*nearest[:2]) <= 1,
        "seed": nearest[3],
        "energy": nearest[2],
        "nine": sum(codes[i][j] for i in (2, 3, 4) for j in (2, 3, 4)),
        "unit": unit,
    }


def test_targets_and_truth_are_those_of_the_events(members: Sample[MemberTruth], composed: PhotonEvents) -> None:
    truth = members.truth
    assert members.targets.shape == (len(members.inputs), 4 + find(Loss, TASK.loss).target_weights)
    kinds = {"seed": 0, "near": 0, "far": 0}
    for m in range(len(members.inputs)):
        by_hand = plain(members, composed, m)
        kinds["seed" if by_hand["seed"] else "near" if by_hand["known"] else "far"] += 1
        excess = (by_hand["energy"] - by_hand["nine"] / 32) / by_hand["unit"]
        expected = [
            *(by_hand["offset"] if by_hand["known"] else (0, 0)), excess if by_hand["seed"] else 0, by_hand["seed"],
            by_hand["known"], 0.3 * by_hand["unit"] if by_hand["seed"] else 0,
        ]  # fmt: skip
        # float32 of what was computed in double precision
        np.testing.assert_allclose(members.targets[m], expected, rtol=1e-6, atol=1e-6, err_msg=f"member {m}")
        assert (truth.energy_M[m] == by_hand["energy"]) if by_hand["seed"] else np.isnan(truth.energy_M[m])
        np.testing.assert_allclose(truth.offset_M2[m], by_hand["offset"], rtol=0, atol=1e-9)  # rounding of doubles
        assert (int(truth.sum_M[m]), 2.0 ** (int(truth.exponent_M[m]) - 4)) == (by_hand["nine"], by_hand["unit"])
        event = int(truth.event_M[m])
        assert truth.kind_M[m] == composed.kind_E[event]
        np.testing.assert_array_equal(truth.distance_M[m], composed.distance[event])
        np.testing.assert_array_equal(truth.shower_MP[m], composed.crystals.shower_EP[event])
    assert kinds["seed"] > 900
    assert kinds["near"] > 50
    assert kinds["far"] > 5
    np.testing.assert_array_equal(truth.codes_EXY, windowing.digitised(composed.crystals.cells_EXY))
    assert len(truth.codes_EXY) == N


def test_the_photon_that_hit_counts_even_if_another_is_nearer() -> None:
    offset = np.array(
        [[[0.45, 0.45], [-0.51, 0.0]], [[-0.51, 0.0], [0.45, 0.45]], [[0.6, 0.0], [-0.55, 0.0]], [[0.9, 0.9], [9, 9]]]
    )
    hit = np.array([[True, False], [False, True], [False, False], [False, False]])
    energy = np.array([[10.0, 20], [20, 10], [10, 20], [10, np.nan]])
    exponent, total = np.array([5, 5, 5, 5]), np.array([64, 64, 64, 64])
    targets, of_seed, nearest = center_finder._targets(offset, hit, energy, exponent, total)
    expected = [
        [0.45, 0.45, (10 - 2) / 2, 1, 1, 0.6],
        [0.45, 0.45, (10 - 2) / 2, 1, 1, 0.6],
        [-0.55, 0, 0, 0, 1, 0],
        [0, 0, 0, 0, 0, 0],
    ]
    np.testing.assert_array_equal(targets, np.array(expected, np.float32))
    np.testing.assert_array_equal(of_seed, [10, 10, np.nan, np.nan])
    np.testing.assert_array_equal(nearest, [[0.45, 0.45], [0.45, 0.45], [-0.55, 0], [0.9, 0.9]])


def test_the_targets_stand_for_the_true_energies(members: Sample[MemberTruth]) -> None:
    seeds = np.isfinite(members.truth.energy_M)
    # float32 of differences of up to a few hundred GeV
    np.testing.assert_allclose(
        energies(members.targets[:, :4], members.truth)[seeds], members.truth.energy_M[seeds], rtol=0, atol=1e-4
    )


def test_inputs_of_both_kinds_show_the_same_windows(members: Sample[MemberTruth], composed: PhotonEvents) -> None:
    assert members.published_inputs is not None
    assert members.inputs_of("published") is members.published_inputs
    assert members.inputs_of("edge") is members.inputs_of("quantised") is members.inputs
    assert members.inputs.shape[1:] == TASK.shape_of("edge") == (81,)
    assert members.published_inputs.shape[1:] == TASK.shape_of("published") == (4, 50)
    truth = members.truth
    by_event = {e: np.flatnonzero(truth.event_M == e).tolist() for e in np.unique(truth.event_M).tolist()}
    assert max(map(len, by_event.values())) == 4
    alone = 0
    for m in range(len(members.inputs)):
        own, others = members.published_inputs[m, 0], members.published_inputs[m, 1:]
        x, y = truth.crystal_M2[m]
        around = windowing.digitised(composed.crystals.cells_EXY[truth.event_M[m], x - 3 : x + 4, y - 3 : y + 4]).tolist()
        window, *_ = orient(around, [])
        np.testing.assert_array_equal(windowing.digitised(own[:49]), np.ravel(window))
        assert own[49] == 1
        codes = windowing.digitised(own[:49]).astype(int)
        exponent = int(codes[24]).bit_length() - 1
        expected = np.minimum((codes * 2.0 ** (7 - exponent)).astype(int), 4095)
        np.testing.assert_array_equal(members.inputs[m, :49] * 256, expected)
        np.testing.assert_array_equal(members.inputs[m, 73:], np.arange(4, 12) == exponent)
        marks = np.zeros((5, 5))
        rest = [other for other in by_event[int(truth.event_M[m])] if other != m]
        for slot in range(3):
            if slot >= len(rest):
                assert not others[slot].any()
                continue
            np.testing.assert_array_equal(np.sort(others[slot, :49]), np.sort(members.published_inputs[rest[slot], 0, :49]))
            (dx, dy), *_ = orient(around, [tuple((truth.crystal_M2[rest[slot]] - truth.crystal_M2[m]).tolist())])[1]
            assert others[slot, 49] == pytest.approx(max(0, 1 - hypot(dx, dy) / 3), abs=1e-7)  # float32
            if hypot(dx, dy) < 3:
                marks[dx + 2, dy + 2] = round(256 * (1 - hypot(dx, dy) / 3))
        np.testing.assert_array_equal(members.inputs[m, 49:73] * 256, np.delete(marks.ravel(), 12))
        alone += not marks.any()
    assert 0 < alone < len(members.inputs) - 100


def test_windows_are_kept_at_random_but_for_the_seeds(library: ShowerLibrary, monkeypatch: pytest.MonkeyPatch) -> None:
    best, chosen, offered = windowing.top_k, [], []

    def spy(event: np.ndarray, key: np.ndarray, score: np.ndarray, threshold: float) -> np.ndarray:
        offered.append((event, key, score))
        chosen.append(best(event, key, score, threshold))
        return chosen[-1]

    monkeypatch.setattr(windowing, "top_k", spy)
    members = TASK.sample(library, "train", EVENTS_PER_BLOCK, 2)
    rows = split_rows(len(library), "train")
    impact = photon_events.compose(library, rows, EVENTS_PER_BLOCK, block_generator(2, "train", 0)).crystals.impact_EP2
    ((event, key, score),) = offered
    crystal = np.stack([key // 51, key % 51], axis=1)
    seed = (np.floor(impact[event]) == crystal[:, None]).all(axis=2).any(axis=1)
    near = np.nanmin(np.hypot(*np.moveaxis(impact[event] - crystal[:, None] - 0.5, 2, 0)), axis=1) <= 1
    both = (np.floor(impact[event]) == crystal[:, None]).all(axis=2).all(axis=1)
    assert (score[both] < 0).all(), "a crystal that both photons hit has no one answer"
    seed &= ~both
    assert (score[seed] >= 0).all()
    for kind, share in ((near & ~seed, NEAR), (~near & ~seed, OTHER)):
        assert kind.sum() > 500
        # 4σ of a binomial
        assert abs((score[kind] >= 0).mean() - share) < 4 * np.sqrt(share * (1 - share) / kind.sum())
    # Seeds come first; else ranks tell nothing: 4σ of the mean of uniform numbers
    assert score[seed].min() >= 1 > score[~seed].max()
    for kind in (seed, (score >= 0) & ~seed):
        assert abs(np.mod(score[kind], 1).mean() - 0.5) < 4 / np.sqrt(12 * kind.sum())
    assert members.targets[:, 3].sum() == seed[chosen[0]].sum() == seed.sum()


# Baseline and working points


def test_the_baseline_has_the_form_of_outputs(large: Sample[MemberTruth]) -> None:
    truth, outputs = large.truth, TASK.baseline(large)
    assert outputs.shape == (len(large.inputs), 4)
    # The score is the energy of a sharing that is not told the seeds: 1e-9, rounding of doubles
    energy, is_seed = energies(outputs, truth), np.isfinite(truth.energy_M)
    np.testing.assert_allclose(energy[~is_seed], outputs[~is_seed, 3], rtol=1e-9)
    assert 0.02 < (np.abs(energy[is_seed] / outputs[is_seed, 3] - 1) > 1e-6).mean() < 0.9
    single = (truth.kind_M == ONE) & (truth.energy_M > 10)
    assert single.sum() > 300
    response = energy[single] / truth.energy_M[single]
    assert abs(np.median(response) - 1) < 0.01
    assert np.quantile(np.abs(response - 1), 0.68) < 0.04
    assert np.quantile(np.abs(outputs[single, :2] - truth.offset_M2[single]), 0.68) < 0.08
    # Not mixed up, not mirrored; in oriented windows x and y are correlated.
    at, true = (windowing.unoriented(v[single, :2], truth.orientation_M[single]) for v in (outputs, truth.offset_M2))
    for output in (0, 1):
        assert np.corrcoef(at[:, output], true[:, output])[0, 1] > 0.9
        assert abs(np.corrcoef(at[:, output], true[:, 1 - output])[0, 1]) < 0.3


def test_working_points_keep_99_percent_of_the_seeds(members: Sample[MemberTruth]) -> None:
    rng = np.random.default_rng(3)
    seeds = members.targets[:, 3] > 0
    scores = {
        REFERENCE: rng.normal(size=(len(seeds), 4)) + members.targets[:, :4],
        INTEGER: np.rint(3 * rng.normal(size=(len(seeds), 4))),
        BASELINE: TASK.baseline(members),
    }
    points = TASK.working_points(members, scores)
    assert list(points) == list(scores)
    for name, threshold in points.items():
        of_seeds = scores[name][seeds, 3]
        assert (of_seeds >= threshold).mean() >= 0.99
        assert (of_seeds > threshold).mean() < 0.99, "there is a higher one"


# Figures


def perfect(sample: Sample[MemberTruth]) -> np.ndarray:
    """Return the targets as outputs, seeds with a logit of 5."""
    return np.column_stack([sample.targets[:, :3], 10 * sample.targets[:, 3] - 5]).astype(float)


def noise(sample: Sample[MemberTruth], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 1, (len(sample.inputs), 4)) * [0.5, 0.5, 2, 3]


def smeared(sample: Sample[MemberTruth], seed: int, share: float) -> np.ndarray:
    """Return outputs between the targets and noise."""
    return perfect(sample) + share * noise(sample, seed)


def test_perfect_outputs_fulfil_every_claim_and_noise_none(large: Sample[MemberTruth]) -> None:
    base = TASK.baseline(large)
    common = {REFERENCE: smeared(large, 1, 0.05), FLOAT: smeared(large, 2, 0.05), BASELINE: base}
    for integer, holds in ((perfect(large), True), (noise(large, 3), False)):
        scores = {REFERENCE: common[REFERENCE], FLOAT: common[FLOAT], INTEGER: integer, BASELINE: base}
        assessment = TASK.assess(large, scores, TASK.working_points(large, scores))
        assert [claim.verdict for claim in assessment.claims] == [verdict(holds)] * 4, [
            claim.found for claim in assessment.claims
        ]
        (table,) = (block for block in assessment.sections[0].blocks if isinstance(block, Table))
        row = dict(zip(table.columns, next(row for row in table.rows if row[0] == INTEGER), strict=True))
        figures = {name: cell.value for name, cell in row.items() if isinstance(cell, Number)}
        if holds:
            assert figures["ROC AUC, seed"] == 1
            assert (figures["seeds kept"], figures["others kept"]) == (100, 0)
            assert figures["energy, 5–8 GeV"] < 1e-3
            assert figures["position, 12–20 GeV"] < 1e-3
        else:
            assert figures["ROC AUC, seed"] == pytest.approx(0.5, abs=0.05)
            assert figures["others kept"] > 90


def test_only_the_outputs_of_the_integer_network_decide_its_claims(large: Sample[MemberTruth]) -> None:
    """A fifth more width in one energy bin is seen, and named."""
    reference, base = smeared(large, 1, 0.05), TASK.baseline(large)
    truth = large.truth
    wide = (truth.energy_M >= 20) & (truth.energy_M < 30)
    right = perfect(large)
    integer = reference + np.where(wide[:, None], 0.2, 0) * (reference - right)
    scores = {REFERENCE: reference, FLOAT: reference, INTEGER: integer, BASELINE: base}
    energy, position, *_ = TASK.assess(large, scores, dict.fromkeys(METHODS, 0.0)).claims
    for claim in (energy, position):
        assert claim.verdict == "fails"
        assert re.search(r"the worst first: 20–30 GeV: 1\.(19|20)\d+ \(", claim.found), claim.found


def smallest_half(values: np.ndarray) -> float:
    ordered = sorted(values.tolist())
    inside = ceil(0.6827 * len(ordered))
    return min(ordered[i + inside - 1] - ordered[i] for i in range(len(ordered) - inside + 1)) / 2


def test_headline_figures_counted_in_a_plain_way(large: Sample[MemberTruth]) -> None:
    truth = large.truth
    scores = {name: smeared(large, number, 0.05 + 0.05 * number) for number, name in enumerate(METHODS)}
    figures = TASK.assess(large, scores, dict.fromkeys(METHODS, 0.0)).figures
    single = (truth.kind_M == ONE) & np.isfinite(truth.energy_M)
    for name, outputs in scores.items():
        energy = truth.sum_M / 32 + outputs[:, 2] * 2.0 ** (truth.exponent_M - 4.0)
        for low, high in ((5, 8), (12, 20), (50, 100)):
            ratios = [energy[m] / truth.energy_M[m] for m in np.flatnonzero(single) if low <= truth.energy_M[m] < high]
            assert len(ratios) > 100
            number = figures[f"Energy width at {low}–{high} GeV"][name]
            # rounding of doubles
            assert number.value == pytest.approx(100 * smallest_half(np.array(ratios)) / np.median(ratios), rel=1e-9)
            assert number.unit == "%"
        apart = []  # in the event's own orientation
        for m in np.flatnonzero(single & (truth.energy_M >= 12) & (truth.energy_M < 20)):
            applied = [
                what
                for bit, what in ((windowing.FLIP_X, "x"), (windowing.FLIP_Y, "y"), (windowing.SWAP, "swap"))
                if truth.orientation_M[m] & bit
            ]
            apart += unorient(*(outputs[m, :2] - truth.offset_M2[m]), applied)
        number = figures["Position width at 12–20 GeV"][name]
        assert number.value == pytest.approx(PBWO4.cell_mm * smallest_half(np.array(apart)), rel=1e-9)
        assert number.unit == "mm"
        close = np.isfinite(truth.energy_M) & (truth.distance_M < 3)
        ratios = energy[close] / truth.energy_M[close]
        number = figures["Energy width of pairs < 3 crystals"][name]
        assert number.value == pytest.approx(100 * smallest_half(ratios) / np.median(ratios), rel=1e-9)
    assert len(figures) == 5
    for numbers in figures.values():
        assert list(numbers) == list(METHODS)
        assert all(number.uncertainty and number.sample for number in numbers.values())
    assert TASK.lower_is_better


def test_plots_show_every_method(large: Sample[MemberTruth]) -> None:
    scores = {name: smeared(large, number, 0.1) for number, name in enumerate(METHODS)}
    assessment = TASK.assess(large, scores, dict.fromkeys(METHODS, 0.0))
    plots = [block for block in assessment.sections[0].blocks if isinstance(block, Plot)]
    assert len(plots) == 5
    for plot in plots:
        assert [series.name for series in plot.series] == list(METHODS)
        assert all(len(series.x) == len(series.y) > 5 for series in plot.series)
    resolution = plots[0].series[0]
    assert resolution.y[5] == pytest.approx(assessment.figures["Energy width at 12–20 GeV"][REFERENCE].value, rel=1e-12)
    assert center_finder.ENERGY_BINS_GEV[5] == 12


def test_one_event_is_enough(library: ShowerLibrary) -> None:
    for seed in range(8):
        sample = TASK.sample(library, "test", 1, seed)
        scores = dict.fromkeys(METHODS, TASK.baseline(sample))
        claims = TASK.assess(sample, scores, TASK.working_points(sample, scores)).claims
        assert [claim.verdict for claim in claims] == ["not tested"] * 4
