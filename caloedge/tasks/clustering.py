"""Find photons among the crystals of a calorimeter, as Belle II's trigger demonstrator does (arXiv 2605.10612)."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import Assessment, Sample, Task
from caloedge.detector.crystals.barrel_events import calorimeter
from caloedge.detector.crystals.hit_libraries import open_hits
from caloedge.detector.crystals.hits import HitEvents
from caloedge.detector.crystals.rings import BARREL_CRYSTALS, BARREL_M, BARREL_RINGS, FORWARD_RINGS
from caloedge.metrics import cluster_comparison, clusters
from caloedge.metrics.cluster_comparison import Map
from caloedge.reconstruction import hit_arrays, local_maxima
from caloedge.reconstruction.hit_arrays import HitTruth

MOST_HITS = 128


def _as_they_are(hits: HitEvents) -> HitEvents:
    return hits


def local_maximum(sample: Sample[HitTruth]) -> NDArray[Any]:
    """Return what the 3 × 3 local maximum says of each hit, as a network would; the score is the energy in GeV."""
    return hit_arrays.as_outputs(sample, local_maxima.local_maxima(sample.truth.hits, calorimeter().neighbours))


def _map(sample: Sample[HitTruth], event: int) -> Map:
    hits, rings = sample.truth.hits, calorimeter()
    first = rings.first_of_ring[FORWARD_RINGS]
    mine = (hits.event_H == event) & (hits.cell_H >= first) & (hits.cell_H < first + BARREL_RINGS * BARREL_CRYSTALS)
    energies = np.zeros((BARREL_RINGS, BARREL_CRYSTALS))
    energies[np.divmod(hits.cell_H[mine] - first, BARREL_CRYSTALS)] = hits.energy_H[mine]
    return Map(energies, rings.position_C3[first + BARREL_CRYSTALS * np.arange(BARREL_RINGS), 2], BARREL_M)


GRANULARITY = cluster_comparison.Granularity(
    name="crystal", least_gev=0.05, close_cm=20.0, most=32, baseline="the 3 × 3 local maximum, in time", map=_map
)


def assess(sample: Sample[HitTruth], scores: Mapping[str, NDArray[Any]], points: Mapping[str, float]) -> Assessment:
    """Compare the methods on one sample, each at its own working point."""
    return cluster_comparison.assess(GRANULARITY, sample, scores, points)


TASK = Task(
    description="find photons among at most 128 CsI crystals: energy, position and condensation point of each hit",
    input_shape=(MOST_HITS, hit_arrays.FEATURES),
    input_unit="GeV, 15.625 ns, m",
    output="nodes",
    loss="object_condensation",
    sample=partial(hit_arrays.sample, _as_they_are, MOST_HITS),
    baseline=local_maximum,
    working_points=partial(clusters.working_points, GRANULARITY.least_gev, GRANULARITY.most),
    assess=assess,
    open=open_hits,
    condensation=clusters.condensation(GRANULARITY.most),
    item="event",
    physical=True,
)
