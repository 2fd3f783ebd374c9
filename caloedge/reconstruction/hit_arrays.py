"""Hits of an event as a network takes them: an array of fixed length, padded with zeros, and who they belong to.

Axes: E event, N hit of the array, H hit of all events, P object.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import Sample
from caloedge.detector.crystals import hit_libraries
from caloedge.detector.crystals.hit_libraries import HitLibrary
from caloedge.detector.crystals.hits import HitEvents, joined
from caloedge.reconstruction.local_maxima import Clusters

TIME_UNIT_NS = 15.625
"""2⁻⁶ µs: a few standard deviations of a hit's time are a number near 1, which a network can learn from soon."""
LATEST = 8.0
"""Times saturate in these units, at ±125 ns: what is so far from the event is background all the same."""
FEATURES = 5
ENERGY, SIGNAL, POSITION, COORDINATES, SCORE = 0, 1, slice(2, 5), slice(5, 8), 8
"""Columns of what a method says of each hit as the centre of a cluster: energy (GeV), logit of being signal, position (m),
coordinates of condensation, and score, which is a network's logit of β."""
OUTPUTS = 9
PADDING = -1
"""Object of places without a hit."""

Merge = Callable[[HitEvents], HitEvents]


@dataclass(frozen=True)
class HitTruth:
    """What the metrics need of a sample."""

    hits: HitEvents
    """All of them, those that did not fit included."""
    hit_EN: NDArray[Any]
    """Row in `hits`, −1 for padding."""
    overflow_E: NDArray[Any]
    """Hits that did not fit."""


def sample(merge: Merge, most: int, library: HitLibrary, split: str, n_events: int, seed: int) -> Sample[HitTruth]:
    """Return events of one split of a library; the same arguments give the same arrays.

    `merge` makes the hits of crystals to those that the network takes, of which `most` fit. Inputs (E, most, 5) are energy (GeV),
    time (`TIME_UNIT_NS`) and position (m); targets (E, most, 5) are the number of the hit's object, from 1 on, its energy and
    position.
    """
    return hit_sample(joined([merge(block) for block in hit_libraries.blocks(library, split, n_events, seed)]), most)


def hit_sample(hits: HitEvents, most: int) -> Sample[HitTruth]:
    """Return the arrays of given events."""
    hit_EN, overflow_E = most_energetic(hits, most)
    there_EN = hit_EN >= 0
    time_H = np.clip(hits.time_H / TIME_UNIT_NS, -LATEST, LATEST)
    features_H = np.column_stack([hits.energy_H, time_H, hits.position_H3])
    owned_H = hits.object_H >= 0
    owner_H = hits.event_H, np.maximum(hits.object_H, 0)
    of_object_H = np.nan_to_num(np.column_stack([hits.energy_EP[owner_H], hits.position_EP3[owner_H]]))
    targets_H = np.column_stack([hits.object_H + 1, np.where(owned_H[:, None], of_object_H, 0)])
    inputs, targets = (
        np.where(there_EN[..., None], values[np.maximum(hit_EN, 0)] if len(values) else 0, empty).astype(np.float32)
        for values, empty in ((features_H, 0), (targets_H, np.array([PADDING, 0, 0, 0, 0])))
    )
    return Sample(inputs, targets, HitTruth(hits, hit_EN, overflow_E))


def most_energetic(hits: HitEvents, most: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the rows (E, most) of each event's most energetic hits in the order of their cells, −1 for none, and how many more.

    Of hits of equal energy those of lower numbers are kept.
    """
    per_event_E = np.bincount(hits.event_H, minlength=hits.n_events)
    first_E = np.cumsum(per_event_E) - per_event_E
    by_energy = np.lexsort((hits.cell_H, -hits.energy_H, hits.event_H))
    rank_H = np.empty(len(by_energy), np.int64)
    rank_H[by_energy] = np.arange(len(by_energy)) - first_E[hits.event_H]
    kept = np.flatnonzero(rank_H < most)
    kept_event = hits.event_H[kept]
    kept_E = np.minimum(per_event_E, most)
    place = np.arange(len(kept)) - (np.cumsum(kept_E) - kept_E)[kept_event]
    rows_EN = np.full((hits.n_events, most), -1)
    rows_EN[kept_event, place] = kept
    return rows_EN, per_event_E - kept_E


def as_outputs(sample: Sample[HitTruth], made: Clusters) -> NDArray[Any]:
    """Return clusters around hits as a network gives them, (E, N, 9): the score is the energy, −1 where there is no cluster.

    Centres that are out of time are none.
    """
    hits, hit_EN = sample.truth.hits, sample.truth.hit_EN
    in_time_H = np.abs(hits.time_H) < hits.kind.in_time_ns
    values_HO = np.zeros((len(in_time_H), OUTPUTS))
    values_HO[:, ENERGY], values_HO[:, POSITION] = made.energy_H, made.position_H3
    values_HO[:, SCORE] = np.where(made.is_centre_H & in_time_H, made.energy_H, -1)
    outputs_ENO = np.zeros((*hit_EN.shape, OUTPUTS))
    outputs_ENO[hit_EN >= 0] = values_HO[hit_EN[hit_EN >= 0]]
    return outputs_ENO
