"""Clusters against the particles that made them: efficiency, fakes, doubles, resolutions, and working points.

What a method says of an event is an array (N, 9): of each hit, as the centre of a cluster, energy (GeV), whether it is signal,
position (m), coordinates of condensation and score. A cluster belongs to the object of its hit; the best of an object's clusters
finds it, the others are doubles, and those on hits of no object are fakes.
Axes: E event, N hit, P object, K cluster, R bootstrap replica.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import BASELINE, Condensation, Sample, distance_of
from caloedge.metrics import bootstrap
from caloedge.reconstruction.condensation import condense
from caloedge.reconstruction.hit_arrays import HitTruth

ENERGY, SIGNAL, POSITION, COORDINATES, SCORE = 0, 1, slice(2, 5), slice(5, 8), 8
CONDENSATION = Condensation(score=SCORE, coordinates=(5, 6, 7), most=16)
RATE = 0.05
"""Fakes and doubles per event at which methods are compared."""
DISTANCES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0)
"""Condensation distances that are tried."""


@dataclass(frozen=True)
class Clusters:
    """Clusters of all events, in each event the best first."""

    event_K: NDArray[Any]
    object_K: NDArray[Any]
    """Of the same event, −1 for none."""
    score_K: NDArray[Any]
    energy_K: NDArray[Any]
    position_K3: NDArray[Any]
    is_first_K: NDArray[Any]
    """Whether it is the best cluster of its object."""

    def above(self, threshold: float) -> "Clusters":
        """Return those that a higher threshold leaves: a cluster removes only clusters of lower scores."""
        keep = self.score_K >= threshold
        return Clusters(*(getattr(self, name)[keep] for name in self.__dataclass_fields__))


def clusters(sample: Sample[HitTruth], outputs_ENO: NDArray[Any], threshold: float, apart: float) -> Clusters:
    """Return the clusters of a method at a threshold of the score and a condensation distance."""
    truth = sample.truth
    chosen_EM, _ = condense(
        outputs_ENO[..., SCORE], outputs_ENO[..., COORDINATES], truth.hit_EN >= 0, threshold, apart, CONDENSATION.most
    )
    event_K, place_K = np.nonzero(chosen_EM >= 0)
    node_K = chosen_EM[event_K, place_K]
    values_KO = outputs_ENO[event_K, node_K].astype(np.float64)
    object_K = truth.hits.object_H[truth.hit_EN[event_K, node_K]]
    key_K = event_K * (truth.hits.energy_EP.shape[1] + 1) + object_K
    is_first_K = np.zeros(len(key_K), bool)
    is_first_K[np.unique(key_K, return_index=True)[1]] = True
    return Clusters(
        event_K, object_K, values_KO[:, SCORE], values_KO[:, ENERGY], values_KO[:, POSITION], is_first_K & (object_K >= 0)
    )


def working_points(sample: Sample[HitTruth], outputs: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Return threshold and condensation distance of each method at `RATE`; those of the baseline keep no distance."""
    points: dict[str, float] = {}
    for name, values in outputs.items():
        threshold, apart = working_point(sample, values, RATE, (0.0,) if name == BASELINE else DISTANCES)
        points |= {name: threshold, distance_of(name): apart}
    return points


def working_point(
    sample: Sample[HitTruth], outputs_ENO: NDArray[Any], rate: float, distances: Sequence[float] = DISTANCES
) -> tuple[float, float]:
    """Return threshold and condensation distance that find most objects at `rate` fakes and doubles per event."""
    n_events, best = sample.truth.hits.n_events, (-1, np.inf, distances[0])
    for apart in distances:
        found = clusters(sample, outputs_ENO, -np.inf, apart)
        threshold = bootstrap.threshold_at_rate(found.score_K[~found.is_first_K], n_events, rate)
        efficient = int(found.above(threshold).is_first_K.sum())
        best = max(best, (efficient, threshold, apart), key=lambda point: point[0])
    return best[1:]
