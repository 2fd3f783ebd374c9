"""Clustering tasks on Belle II's simulated events: what baselines find there, and what a comparison says of it.

Figures of the baselines on the demonstrator's own files stand here as they were found by another program, with other rows of
trigger cells at the barrel's ends.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from belle2 import columns, demonstrator, write

from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE, Sample, distance_of
from caloedge.detector.crystals import hits as hit_events
from caloedge.detector.crystals.belle2_files import open_files
from caloedge.detector.crystals.hits import HitEvents
from caloedge.detector.crystals.rings import BARREL_RINGS, FORWARD_RINGS, belle2
from caloedge.metrics.cluster_comparison import Found, found_by, objects_of
from caloedge.metrics.clusters import clusters
from caloedge.reconstruction.hit_arrays import HitTruth
from caloedge.reconstruction.local_maxima import Clusters, isolated_clusters
from caloedge.tasks import clustering, clustering_cells

RINGS = belle2()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "events.parquet", columns())


def many(tmp_path: Path, copies: int) -> Path:
    """Write copies of the three events under different names."""
    once = columns()
    values = {name: np.tile(np.asarray(column), copies) for name, column in once.items() if name != "psd"}
    values["uni_event_id"] = [f"{name} {copy}" for copy in range(copies) for name in once["uni_event_id"]]
    return write(tmp_path / "many.parquet", values)


def sample(task: Any, path: Path, n_events: int = 10_000) -> Sample[HitTruth]:
    return task.TASK.sample(task.TASK.open(path), "all", n_events, 1)


def test_events_are_taken_in_the_order_of_the_file_whatever_the_seed(path: Path) -> None:
    task, library = clustering.TASK, clustering.TASK.open(path)
    whole, two = task.sample(library, "all", 10_000, 1), task.sample(library, "all", 2, 7)
    assert whole.inputs.shape == (3, 128, 5)
    np.testing.assert_array_equal(two.inputs, whole.inputs[:2])
    assert np.isfinite(whole.targets).all()
    np.testing.assert_allclose(whole.inputs[2, :4, 0], [0.2, 0.1, 0.04, 0], rtol=1e-6)
    assert whole.targets[0, :5, 0].tolist() == [0, 2, 2, 1, -1]


def test_trigger_cells_are_sums_of_crystals_and_keep_their_clusters(path: Path) -> None:
    made = sample(clustering_cells, path)
    hits = made.truth.hits
    assert made.inputs.shape == (3, 32, 5)
    assert hits.energy_H.tolist() == pytest.approx([0.56, 0.3, 0.3])  # 0.025, 0.07 and 0.04 GeV are below the threshold
    np.testing.assert_array_equal(hits.cell_H, RINGS.trigger_cell_C[[4320, 6000, 5000]])
    assert hits.object_H.tolist() == [1, 0, 0]


@pytest.mark.parametrize("most", [1, 2])
def test_of_more_hits_than_fit_the_most_energetic_are_taken_and_the_rest_counted(path: Path, most: int) -> None:
    library = open_files(path)
    made = clustering.hit_arrays.sample(lambda hits: hits, most, library, "all", 3, 1)
    assert made.inputs[0, :, 0].tolist() == pytest.approx([0.5, 0.3][:most])
    assert made.truth.overflow_E.tolist() == [4 - most, 0, 3 - most]


def test_hits_far_from_the_event_in_time_are_no_centres(path: Path) -> None:
    made = sample(clustering, path)
    scores = clustering.local_maximum(made)[..., 8]
    assert (scores[0, :4] > 0).tolist() == [False, False, True, True]  # the stray hit comes at 180 ns
    assert scores[1, 0] > 0  # 90 ns are within the wide times of these files
    late = replace(made.truth.hits, kind=hit_events.PHOTONS)
    simulated = replace(made, truth=replace(made.truth, hits=late))
    assert clustering.local_maximum(simulated)[1, 0, 8] == -1


def assess(task: Any, made: Sample[HitTruth]) -> Any:
    """Compare the baseline with itself under the names of all methods."""
    scores = {name: task.TASK.baseline(made) for name in (REFERENCE, FLOAT, INTEGER, BASELINE)}
    points = dict.fromkeys(scores, task.GRANULARITY.least_gev) | {distance_of(name): 0.0 for name in scores}
    return task.TASK.assess(made, scores, points)


def rows(table: Any) -> dict[str, dict[str, Any]]:
    return {row[0]: dict(zip(table.columns, row, strict=True)) for row in table.rows}


def test_clusters_that_need_not_be_found_count_in_the_purity_only(tmp_path: Path) -> None:
    made = sample(clustering, many(tmp_path, 40))
    comparison = assess(clustering, made)
    tables = [block for block in comparison.sections[0].blocks if block.kind == "table"]
    row = rows(tables[0])[INTEGER]
    assert row["efficiency"].value == 100
    assert row["efficiency"].sample == "120 offline clusters"
    # Two clusters in the first event, one in the third, and the second event's, which is matched to no particle.
    assert row["purity"].value == 75
    assert (row["fakes per 100 events"].value, row["doubles per 100 events"].value) == (0, 0)
    assert row["on other offline clusters per 100 events"].value == pytest.approx(100 / 3)
    assert "Offline cluster efficiency" in comparison.figures
    assert "120 events of the experiment's simulation" in tables[0].caption


def test_methods_are_compared_where_they_are_equal_on_these_events(tmp_path: Path) -> None:
    comparison = assess(clustering, sample(clustering, many(tmp_path, 40)))
    tables = {block.title: rows(block)[BASELINE] for block in comparison.sections[0].blocks if block.kind == "table"}
    assert list(tables) == [
        "Offline clusters found at the working points of simulated photons",
        "Offline clusters found at the efficiency of all clusters of the baseline",
        "Offline clusters found at a purity of 97 %",
        "Offline clusters found at the efficiency of all clusters of the baseline in the barrel",
        "Offline clusters found at a purity of 97 % in the barrel",
    ]
    *_, pure = tables.values()
    assert pure["purity"].value == 100
    assert float(pure["threshold"]) > 0.07  # the unmatched cluster is left out
    assert comparison.claims[-1].statement.endswith("at a purity of 97 % in the barrel.")


def test_events_alone_are_resampled(path: Path) -> None:
    truth = sample(clustering, path).truth
    objects = objects_of(truth, 0.05)
    np.testing.assert_array_equal(objects.weights_RO, objects.weights_RE[:, objects.event_O])


def seeds(hits: Sample[HitTruth], least_gev: float) -> tuple[Any, Found]:
    objects = objects_of(hits.truth, least_gev)
    return objects, found_by(
        hits.truth, objects, clusters(hits, clustering.local_maximum(hits), least_gev, 0.0, clustering.GRANULARITY.most)
    )


@pytest.mark.parametrize(
    ("name", "efficiency", "close", "n_close", "purity", "bias", "width", "miss"),
    [
        ("bhabha_exp1003_0", 95.3, 96.8, 283, 91.9, -8.6, 4.9, 1.25),
        ("kkmc_exp1003_0", 99.1, 92.3, 91, 90.3, -10.6, 3.8, 0.89),
        ("bhabha_exp0_0", 92.6, 90.2, 132, 55.1, -9.3, 5.9, 1.28),
    ],
)
def test_local_maxima_are_as_they_were_found(
    name: str, efficiency: float, close: float, n_close: int, purity: float, bias: float, width: float, miss: float
) -> None:
    """Without a cut on time; purity is of all clusters of the experiment, matched or not."""
    made = sample(clustering, demonstrator(name))
    any_time = replace(made.truth.hits, kind=replace(made.truth.hits.kind, in_time_ns=np.inf))
    objects, found = seeds(replace(made, truth=replace(made.truth, hits=any_time)), 0.05)
    near_O = objects.nearest_cm_O < 20
    assert 100 * found.is_found_O.mean() == pytest.approx(efficiency, abs=0.2)
    assert (int(near_O.sum()), 100 * found.is_found_O[near_O].mean()) == (n_close, pytest.approx(close, abs=0.2))
    assert 100 * found.right_E.sum() / found.clusters_E.sum() == pytest.approx(purity, abs=0.3)
    response = found.response_O[found.is_found_O]
    assert 100 * np.median(response) - 100 == pytest.approx(bias, abs=0.2)
    assert 50 * np.diff(np.quantile(response, [0.1587, 0.8413]))[0] == pytest.approx(width, abs=0.2)
    assert np.nanmedian(found.miss_cm_O) == pytest.approx(miss, abs=0.02)
    # Within 100 ns, as the comparison has it, purity is higher and hardly a cluster is lost.
    _, in_time = seeds(made, 0.05)
    assert in_time.is_found_O.mean() > found.is_found_O.mean() - 0.005
    assert in_time.right_E.sum() / in_time.clusters_E.sum() > found.right_E.sum() / found.clusters_E.sum() + 0.01


def crystals_at(position_N3: np.ndarray) -> np.ndarray:
    """Return the crystal nearest to each point."""
    return np.array([int(np.square(RINGS.position_C3 - point).sum(axis=1).argmin()) for point in position_N3], int)


def of_barrel(crystal_N: np.ndarray) -> np.ndarray:
    ring_N = RINGS.ring_C[crystal_N]
    return (ring_N >= FORWARD_RINGS) & (ring_N < FORWARD_RINGS + BARREL_RINGS)


def in_barrel(hits: HitEvents) -> HitEvents:
    """Leave out hits and clusters of the end caps."""
    keep = of_barrel(hits.cell_H)
    per_hit = ("event_H", "cell_H", "energy_H", "time_H", "position_H3", "object_H", "share_H")
    there_EP = np.isfinite(hits.position_EP3[..., 0])
    outside_EP = there_EP.copy()
    outside_EP[there_EP] = ~of_barrel(crystals_at(hits.position_EP3[there_EP]))
    return replace(
        hits,
        **{name: getattr(hits, name)[keep] for name in per_hit},
        energy_EP=np.where(outside_EP, np.nan, hits.energy_EP),
        position_EP3=np.where(outside_EP[..., None], np.nan, hits.position_EP3),
    )


def paired(cells: HitEvents, made: Clusters) -> dict[tuple[int, int], int]:
    """Pair clusters of at least 0.1 GeV, the largest first, with the nearest ICN cluster in the same or a neighbouring cell.

    Returns the row of its centre, −1 for none, by event and cluster. Each ICN cluster is used once.
    """
    near = np.stack(list(RINGS.trigger_neighbours.values()), axis=1)
    pairs: dict[tuple[int, int], int] = {}
    event_O, place_O = np.nonzero(np.nan_to_num(cells.energy_EP) > 0.1)
    for number in np.argsort(-cells.energy_EP[event_O, place_O]):
        event, place = int(event_O[number]), int(place_O[number])
        point = cells.position_EP3[event, place]
        (cell,) = RINGS.trigger_cell_C[crystals_at(point[None])]
        free = made.is_centre_H & (cells.event_H == event) & np.isin(cells.cell_H, [cell, *near[cell]])
        free[list(set(pairs.values()) - {-1})] = False
        away = np.where(free, np.linalg.norm(made.position_H3 - point, axis=1), np.inf)
        pairs[event, place] = int(away.argmin()) if free.any() else -1
    return pairs


@pytest.mark.parametrize(
    ("name", "efficiency", "n", "close", "n_close", "purity", "bias", "width", "miss"),
    [
        ("bhabha_exp1003_0", 85, 89, 48, 21, 86, -7, 2.7, 8.4),
        ("kkmc_exp1003_0", 95.5, 1287, 50, 72, 97, -11, 4.3, 9.9),
    ],
)
def test_the_icn_rule_is_as_it_was_found(
    name: str, efficiency: float, n: int, close: float, n_close: int, purity: float, bias: float, width: float, miss: float
) -> None:
    """In the barrel; clusters are close to others that are to be found, too."""
    cells = hit_events.trigger_cells(in_barrel(open_files(demonstrator(name)).hits), RINGS)
    made = isolated_clusters(cells, RINGS.trigger_neighbours)
    pairs = paired(cells, made)
    places, row_O = np.array(list(pairs)), np.array(list(pairs.values()))
    wanted_EP3 = np.where(np.nan_to_num(cells.energy_EP)[..., None] > 0.1, cells.position_EP3, np.nan)
    apart = np.linalg.norm(wanted_EP3[places[:, 0]] - wanted_EP3[places[:, 0], places[:, 1], None], axis=2)
    apart[np.arange(len(apart)), places[:, 1]] = np.inf
    near_O, found_O = np.nanmin(apart, axis=1) < 0.4, row_O >= 0
    assert (len(found_O), 100 * found_O.mean()) == (n, pytest.approx(efficiency, abs=1))
    assert (int(near_O.sum()), 100 * found_O[near_O].mean()) == (n_close, pytest.approx(close, abs=1))
    assert 100 * found_O.sum() / made.is_centre_H.sum() == pytest.approx(purity, abs=1)
    event, place = places[found_O].T
    response = made.energy_H[row_O[found_O]] / cells.energy_EP[event, place]
    assert 100 * np.median(response) - 100 == pytest.approx(bias, abs=1)
    assert 50 * np.diff(np.quantile(response, [0.1587, 0.8413]))[0] == pytest.approx(width, abs=0.5)
    away = np.linalg.norm(made.position_H3[row_O[found_O]] - cells.position_EP3[event, place], axis=1)
    # Places of trigger cells are the means of their crystals', and rows of cells are other ones: 0.7 cm are little of 20.
    assert 100 * np.median(away) == pytest.approx(miss, abs=0.7)
