"""Clusters against their photons: matching, fakes, doubles, working points, and what a comparison says of them."""

import numpy as np
import pytest

from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE, Sample, distance_of
from caloedge.detector.crystals.hits import NOBODY, HitEvents
from caloedge.metrics import cluster_comparison
from caloedge.metrics.cluster_comparison import Granularity, Map
from caloedge.metrics.clusters import clusters, working_point, working_points
from caloedge.reconstruction.hit_arrays import COORDINATES, ENERGY, POSITION, SCORE, HitTruth, hit_sample


def sample(objects: list[list[int]], energies: list[list[float]] | None = None) -> Sample[HitTruth]:
    """Return events whose hits, of 1 GeV each in cells 10 cm apart on a line, belong to the given objects."""
    event = np.repeat(np.arange(len(objects)), [len(row) for row in objects])
    cell = np.concatenate([np.arange(len(row)) for row in objects])
    owner = np.concatenate([np.array(row, int) for row in objects])
    energy = np.concatenate(energies).astype(float) if energies else np.ones(len(event))
    position = np.stack([0.1 * cell, 0 * cell, 0 * cell], axis=1).astype(float)
    most = max(max(owner.max(), 0) + 1, 1)
    present = np.zeros((len(objects), most), bool)
    present[event[owner >= 0], owner[owner >= 0]] = True
    where = np.full((len(objects), most, 3), np.nan)
    for e, o in zip(*np.nonzero(present), strict=True):
        where[e, o] = position[(event == e) & (owner == o)].mean(axis=0)
    hits = HitEvents(
        n_events=len(objects),
        event_H=event,
        cell_H=cell,
        energy_H=energy,
        time_H=np.zeros(len(event)),
        position_H3=position,
        object_H=owner,
        share_H=(owner >= 0).astype(float),
        energy_EP=np.where(present, 1.0, np.nan),
        position_EP3=where,
        shower_EP=np.where(present, np.arange(present.size).reshape(present.shape), -1),
    )
    return hit_sample(hits, most=6)


def outputs(of: Sample[HitTruth], scores: list[list[float]], apart: float = 1.0) -> np.ndarray:
    """Return what a method says: scores, hits `apart` from each other in condensation space, the hit's position, 1.1 GeV."""
    values = np.zeros((*of.inputs.shape[:2], 9))
    values[..., SCORE] = -9
    for event, row in enumerate(scores):
        values[event, : len(row), SCORE] = row
    values[..., COORDINATES.start] = apart * np.arange(of.inputs.shape[1])
    values[..., POSITION] = of.inputs[..., 2:5]
    values[..., ENERGY] = 1.1
    return values


def test_the_best_cluster_of_a_photon_finds_it_others_are_doubles_or_fakes() -> None:
    events = sample([[0, 0, 1, NOBODY], [0, NOBODY]])
    made = clusters(events, outputs(events, [[1, 3, 2, 4], [-1, 5]]), threshold=0, apart=0.5, most=16)
    assert made.event_K.tolist() == [0, 0, 0, 0, 1]
    assert made.object_K.tolist() == [NOBODY, 0, 1, 0, NOBODY]
    assert made.is_first_K.tolist() == [False, True, True, False, False]
    assert made.score_K.tolist() == [4, 3, 2, 1, 5]
    assert made.above(3).is_first_K.tolist() == [False, True, False]


def test_a_higher_threshold_leaves_what_it_would_have_chosen() -> None:
    """So one choice at no threshold is enough for all of them."""
    rng = np.random.default_rng(1)
    events = sample([rng.integers(-1, 3, 6).tolist() for _ in range(300)])
    values = outputs(events, rng.integers(0, 9, (300, 6)).tolist(), apart=0.3)
    values[..., COORDINATES] = rng.normal(size=(300, 6, 3)) / 3
    whole = clusters(events, values, -np.inf, 0.8, 16)
    for threshold in (2.0, 5.0, 8.0):
        chosen, left = clusters(events, values, threshold, 0.8, 16), whole.above(threshold)
        for name in ("event_K", "object_K", "score_K", "is_first_K"):
            np.testing.assert_array_equal(getattr(chosen, name), getattr(left, name))


def test_the_working_point_is_the_most_efficient_at_its_rate() -> None:
    """Both hits of each photon score: at a small distance the second is a double, at a large one two photons become one."""
    events = sample([[0, 0, 1, 1]] * 100)
    values = outputs(events, [[3, 2, 2.5, 1], [0.9, 0.6, 0.8, 0.5]] * 50)
    values[..., COORDINATES] = 0
    values[..., COORDINATES.start] = [0, 0.3, 1, 1.3, 5, 5]
    threshold, apart = working_point(events, values, rate=0.0, most=16, distances=(0.1, 0.5, 2.0))
    assert apart == 0.5
    found = clusters(events, values, threshold, apart, 16)
    assert found.is_first_K.sum() == 200
    assert len(found.event_K) == 200
    assert working_point(events, values, rate=0.0, most=16, distances=(0.1,))[0] > 2, (
        "doubles must be cut away, and photons with them"
    )
    points = working_points(0.7, 16, events, {INTEGER: values, BASELINE: values})
    assert (points[BASELINE], points[distance_of(BASELINE)]) == (0.7, 0)
    assert set(points) == {INTEGER, BASELINE, distance_of(INTEGER), distance_of(BASELINE)}


def plain_map(of: Sample[HitTruth], event: int) -> Map:
    return Map(of.inputs[event : event + 1, :, 0].astype(float), np.array([0.0]))


GRANULARITY = Granularity("cell", least_gev=0.5, close_cm=15, most=16, baseline="a rule", map=plain_map)


def assess(events: Sample[HitTruth], values: dict[str, np.ndarray]):
    points = dict.fromkeys(values, 0.0) | {distance_of(name): 0.5 for name in values}
    return cluster_comparison.assess(GRANULARITY, events, values, points)


@pytest.fixture(scope="module")
def comparison():
    """One photon, or two 10 cm apart: three methods see all, the baseline misses one of each two and has fakes."""
    events = sample([[0, 1, NOBODY], [0, NOBODY, NOBODY]] * 200)
    every = outputs(events, [[1, 1, -1], [1, -1, -1]] * 200)
    missing = outputs(events, [[1, -1, -1], [1, 1, -1]] * 200)
    return assess(events, {REFERENCE: every, FLOAT: every, INTEGER: every, BASELINE: missing})


def test_a_comparison_counts_what_is_there(comparison) -> None:
    table = comparison.sections[0].blocks[0]
    rows = {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}
    best, worst = rows[INTEGER], rows[BASELINE]
    assert best["efficiency"].value == best["closer than 15 cm"].value == 100
    assert worst["efficiency"].value == pytest.approx(200 / 3)  # 400 of 600
    assert worst["closer than 15 cm"].value == 50
    assert (best["fakes per 100 events"].value, best["doubles per 100 events"].value) == (0, 0)
    assert worst["fakes per 100 events"].value == 50
    assert best["median response"].value == pytest.approx(1.1)
    assert best["position, median miss"].value == pytest.approx(0, abs=1e-5)
    assert comparison.figures["Photon efficiency"][BASELINE].value == worst["efficiency"].value


def test_claims_are_of_the_integer_network_against_its_twin_and_the_baseline(comparison) -> None:
    assert [claim.verdict for claim in comparison.claims] == ["holds", "not tested", "not tested", "holds"]
    assert "finds photons closer than 15 cm" in comparison.claims[-1].statement


def test_a_worse_integer_network_is_said_to_be_worse() -> None:
    events = sample([[0, 1, NOBODY]] * 400)
    every, missing = outputs(events, [[1, 1, -1]] * 400), outputs(events, [[1, 1, -1], [1, -1, -1]] * 200)
    made = assess(events, {REFERENCE: every, FLOAT: every, INTEGER: missing, BASELINE: every})
    assert made.claims[0].verdict == "fails"
    assert made.claims[-1].verdict == "fails"


def test_energies_and_positions_beside_the_truth_are_seen() -> None:
    rng = np.random.default_rng(3)
    events = sample([[0]] * 2000)
    values = outputs(events, [[1]] * 2000)
    values[:, 0, ENERGY] = rng.normal(0.9, 0.09, 2000)
    values[:, 0, 2] += 0.02
    made = assess(events, {REFERENCE: values, FLOAT: values, INTEGER: values, BASELINE: values})
    table = made.sections[0].blocks[0]
    row = dict(zip(table.columns, table.rows[0], strict=True))
    assert row["median response"].value == pytest.approx(0.9, abs=0.01)
    assert row["energy resolution"].value == pytest.approx(10, abs=1)
    assert row["position, median miss"].value == pytest.approx(2, abs=0.01)


def test_a_method_that_finds_nothing_has_a_comparison_too() -> None:
    events = sample([[0, NOBODY]] * 100)
    none = outputs(events, [[-1, -1]] * 100)
    made = assess(events, {REFERENCE: none, FLOAT: none, INTEGER: none, BASELINE: none})
    assert made.figures["Photon efficiency"][INTEGER].value == 0
    assert all(claim.verdict in ("not tested", "undecided", "fails") for claim in made.claims)
