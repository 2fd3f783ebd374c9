"""Purity against efficiency of a cluster finder, and the thresholds at which methods are alike in one of the two.

Purity is the share of clusters that are the best of an object to be found. Axes: K cluster, T threshold.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.metrics.clusters import Clusters

POINTS = 40
"""Of a curve, evenly in efficiency."""


@dataclass(frozen=True)
class Curve:
    """What lower and lower thresholds give: clusters with at least that score are taken."""

    threshold_T: NDArray[Any]
    """Descending; each is a score."""
    efficiency_T: NDArray[Any]
    purity_T: NDArray[Any]

    def at_purity(self, purity: float) -> float:
        """Return the lowest threshold of at least that purity, infinite where there is none."""
        good = np.flatnonzero(self.purity_T >= purity)
        return float(self.threshold_T[good[-1]]) if len(good) else np.inf

    def at_efficiency(self, efficiency: float) -> float:
        """Return the highest threshold of at least that efficiency, −infinite where there is none: then all clusters count."""
        good = np.flatnonzero(self.efficiency_T >= efficiency)
        return float(self.threshold_T[good[0]]) if len(good) else -np.inf

    def points(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return efficiencies and purities at thresholds that are evenly spaced in efficiency, about `POINTS` of them."""
        if not len(self.efficiency_T):
            return self.efficiency_T, self.purity_T
        places = np.searchsorted(self.efficiency_T, np.linspace(0, self.efficiency_T[-1], POINTS + 1)[1:])
        places = np.unique(np.minimum(places, len(self.efficiency_T) - 1))
        return self.efficiency_T[places], self.purity_T[places]


def curve(made: Clusters, counts_EP: NDArray[Any]) -> Curve:
    """Return purity and efficiency at each score of the clusters of a method; `counts_EP` says which objects count.

    >>> made = Clusters(np.zeros(3, int), np.array([0, -1, 1]), np.arange(3), np.array([3.0, 2.0, 1.0]), np.ones(3),
    ...                 np.zeros((3, 3)), np.array([True, False, True]), np.array([False, True, False]))
    >>> made = curve(made, np.ones((1, 2), bool))
    >>> made.efficiency_T.tolist(), made.purity_T.round(2).tolist(), made.at_purity(0.6), made.at_efficiency(0.5)
    ([0.5, 0.5, 1.0], [1.0, 0.5, 0.67], 1.0, 3.0)
    """
    order = np.argsort(-made.score_K, kind="stable")
    score, right = made.score_K[order], made.is_first_K[order]
    counts = right & counts_EP[made.event_K[order], made.object_K[order]]
    last = np.flatnonzero(np.append(np.diff(score) != 0, True)) if len(score) else np.zeros(0, np.int64)
    efficiency, purity = np.cumsum(counts) / max(int(counts_EP.sum()), 1), np.cumsum(right) / (np.arange(len(right)) + 1)
    return Curve(score[last], efficiency[last], purity[last])
