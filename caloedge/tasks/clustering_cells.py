"""Find photons among trigger cells of a crystal calorimeter, as Belle II's level-1 trigger does (arXiv 2602.15118)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import Assessment, Sample, Task
from caloedge.detector.crystals.barrel_events import calorimeter
from caloedge.detector.crystals.hit_libraries import open_hits
from caloedge.detector.crystals.hits import HitEvents, trigger_cells
from caloedge.detector.crystals.rings import BARREL_M, FORWARD_RINGS
from caloedge.metrics import cluster_comparison, clusters
from caloedge.metrics.cluster_comparison import Map
from caloedge.reconstruction import hit_arrays, local_maxima
from caloedge.reconstruction.hit_arrays import HitTruth

MOST_HITS = 32
RINGS, CELLS = 12, 36
"""Rings of trigger cells in the barrel, and cells in each."""


def _merged(hits: HitEvents) -> HitEvents:
    return trigger_cells(hits, calorimeter())


def icn(sample: Sample[HitTruth]) -> NDArray[Any]:
    """Return what the trigger's own rule says of each hit, in the form of a network's outputs; the score is the energy in GeV.

    Clusters whose centre is not in time have no score.
    """
    made = local_maxima.isolated_clusters(sample.truth.hits, calorimeter().trigger_neighbours)
    return hit_arrays.as_outputs(sample, made)


def _map(sample: Sample[HitTruth], event: int) -> Map:
    hits, rings = sample.truth.hits, calorimeter()
    first = rings.trigger_cell_C[rings.first_of_ring[FORWARD_RINGS]]
    mine = (hits.event_H == event) & (hits.cell_H >= first) & (hits.cell_H < first + RINGS * CELLS)
    energies = np.zeros((RINGS, CELLS))
    energies[np.divmod(hits.cell_H[mine] - first, CELLS)] = hits.energy_H[mine]
    return Map(energies, rings.trigger_positions[first + CELLS * np.arange(RINGS), 2], BARREL_M)


GRANULARITY = cluster_comparison.Granularity(
    name="trigger cell",
    least_gev=0.1,
    close_cm=40.0,
    most=16,
    baseline="Belle II's isolated-cluster rule with sums of 3 × 3 trigger cells, in time",
    map=_map,
)


def assess(sample: Sample[HitTruth], scores: Mapping[str, NDArray[Any]], points: Mapping[str, float]) -> Assessment:
    """Compare the methods on one sample, each at its own working point."""
    return cluster_comparison.assess(GRANULARITY, sample, scores, points)


TASK = Task(
    description="find photons among at most 32 trigger cells of 4×4 CsI crystals: energy, position, condensation point",
    input_shape=(MOST_HITS, hit_arrays.FEATURES),
    input_unit="GeV, 15.625 ns, m",
    output="nodes",
    loss="object_condensation",
    sample=partial(hit_arrays.sample, _merged, MOST_HITS),
    baseline=icn,
    working_points=partial(clusters.working_points, GRANULARITY.least_gev, GRANULARITY.most),
    assess=assess,
    open=open_hits,
    condensation=clusters.condensation(GRANULARITY.most),
    item="event",
    physical=True,
)
