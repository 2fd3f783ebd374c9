"""Clusters against the particles that made them: efficiency, fakes, doubles, resolutions, and working points.

What a method says of an event is an array (N, 9): of each hit, as the centre of a cluster, energy (GeV), whether it is signal,
position (m), coordinates of condensation and score. A cluster belongs to the object of its hit; the best of an object's clusters
finds it, the others are doubles, and those on hits of no object are fakes. Clusters on objects that need not be found, such as a
real experiment's clusters of beam background, are neither right nor wrong: they count in the purity only.
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
from caloedge.reconstruction.hit_arrays import COORDINATES, ENERGY, OUTPUTS, POSITION, SCORE, HitTruth


def condensation(most: int) -> Condensation:
    """Return the choice of at most so many clusters among the outputs of a network."""
    return Condensation(score=SCORE, coordinates=tuple(range(OUTPUTS)[COORDINATES]), most=most)


DISTANCES = (0.3, 0.5, 0.7, 0.85, 1.0, 1.2, 1.5)
"""Condensation distances that are tried."""


@dataclass(frozen=True)
class Clusters:
    """Clusters of all events, in each event the best first."""

    event_K: NDArray[Any]
    object_K: NDArray[Any]
    """Of the same event, −1 for none."""
    hit_K: NDArray[Any]
    """Row of the hit in the centre."""
    score_K: NDArray[Any]
    energy_K: NDArray[Any]
    position_K3: NDArray[Any]
    is_first_K: NDArray[Any]
    """Whether it is the best cluster of an object that is to be found."""
    is_wrong_K: NDArray[Any]
    """Whether it is a fake or a double."""

    def above(self, threshold: float) -> "Clusters":
        """Return those that a higher threshold leaves: a cluster removes only clusters of lower scores."""
        return self.only(self.score_K >= threshold)

    def only(self, keep_K: NDArray[Any]) -> "Clusters":
        """Return some of them."""
        return Clusters(*(getattr(self, name)[keep_K] for name in self.__dataclass_fields__))


def clusters(sample: Sample[HitTruth], outputs_ENO: NDArray[Any], threshold: float, apart: float, most: int) -> Clusters:
    """Return the clusters of a method, at most so many per event, at a threshold of the score and a condensation distance."""
    truth = sample.truth
    chosen_EM, _ = condense(outputs_ENO[..., SCORE], outputs_ENO[..., COORDINATES], truth.hit_EN >= 0, threshold, apart, most)
    event_K, place_K = np.nonzero(chosen_EM >= 0)
    node_K = chosen_EM[event_K, place_K]
    values_KO = outputs_ENO[event_K, node_K].astype(np.float64)
    hit_K = truth.hit_EN[event_K, node_K]
    object_K = truth.hits.object_H[hit_K]
    key_K = event_K * (truth.hits.energy_EP.shape[1] + 1) + object_K
    is_best_K = np.zeros(len(key_K), bool)
    is_best_K[np.unique(key_K, return_index=True)[1]] = True
    is_wanted_K = (object_K >= 0) & np.isfinite(truth.hits.energy_EP[event_K, object_K])
    return Clusters(
        event_K,
        object_K,
        hit_K,
        values_KO[:, SCORE],
        values_KO[:, ENERGY],
        values_KO[:, POSITION],
        is_best_K & is_wanted_K,
        (object_K < 0) | (is_wanted_K & ~is_best_K),
    )


def working_points(
    least_gev: float, most: int, sample: Sample[HitTruth], outputs: Mapping[str, NDArray[Any]]
) -> dict[str, float]:
    """Return threshold and condensation distance of each method at the fakes and doubles per event that the baseline makes.

    The baseline's clusters have at least `least_gev`, as is its custom, and keep no distance.
    """
    made = clusters(sample, outputs[BASELINE], least_gev, 0.0, most)
    rate = float(made.is_wrong_K.sum()) / sample.truth.hits.n_events
    points: dict[str, float] = {}
    for name, values in outputs.items():
        threshold, apart = (least_gev, 0.0) if name == BASELINE else working_point(sample, values, rate, most)
        points |= {name: threshold, distance_of(name): apart}
    return points


def working_point(
    sample: Sample[HitTruth], outputs_ENO: NDArray[Any], rate: float, most: int, distances: Sequence[float] = DISTANCES
) -> tuple[float, float]:
    """Return threshold and condensation distance that find most objects at `rate` fakes and doubles per event."""
    n_events, best = sample.truth.hits.n_events, (-1, np.inf, distances[0])
    for apart in distances:
        found = clusters(sample, outputs_ENO, -np.inf, apart, most)
        threshold = bootstrap.threshold_at_rate(found.score_K[found.is_wrong_K], n_events, rate)
        efficient = int(found.above(threshold).is_first_K.sum())
        best = max(best, (efficient, threshold, apart), key=lambda point: point[0])
    return best[1:]
