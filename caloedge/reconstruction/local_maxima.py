"""Classical cluster finders on a calorimeter's hits: the 3 × 3 local maximum on crystals, Belle II's ICN rule on trigger cells.

Both give each hit the energy and position of the cluster around it where it is a cluster's centre. Axes: H hit, K neighbour.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals.hits import HitEvents

NO_NEIGHBOUR = -1


@dataclass(frozen=True)
class Clusters:
    """What each hit would be as the centre of a cluster."""

    is_centre_H: NDArray[Any]
    energy_H: NDArray[Any]
    """GeV, of the hit and its neighbours."""
    position_H3: NDArray[Any]
    """Energy-weighted mean in m."""


def local_maxima(hits: HitEvents, neighbours_CK: NDArray[Any]) -> Clusters:
    """Return clusters around hits that have more energy than all neighbours; of equal ones the lower number is the centre."""
    near_HK = neighbouring_hits(hits, neighbours_CK)
    energy_HK = _energies(hits, near_HK)
    lower_HK = neighbours_CK[hits.cell_H] < hits.cell_H[:, None]
    beaten_HK = (energy_HK > hits.energy_H[:, None]) | ((energy_HK == hits.energy_H[:, None]) & lower_HK & (near_HK >= 0))
    return Clusters(~beaten_HK.any(axis=1), *_sums(hits, near_HK))


def isolated_clusters(hits: HitEvents, neighbours: Mapping[str, NDArray[Any]]) -> Clusters:
    """Return the clusters of the isolated-cluster-number (ICN) rule of Belle II's trigger, on trigger cells.

    A hit cell is the corner of a cluster where the cells above and to the left are not hit, and not both of those below and
    below to the left are; that counts every connected group about once. The centre is the most energetic of the 3 × 3 cells
    around the corner, energy and position are those of the 3 × 3 cells around the centre.
    """
    names = list(neighbours)
    table_CK = np.stack([neighbours[name] for name in names], axis=1)
    near_HK = neighbouring_hits(hits, table_CK)
    hit = {name: near_HK[:, number] >= 0 for number, name in enumerate(names)}
    is_corner_H = ~hit["up"] & ~hit["left"] & ~(hit["down"] & hit["down left"])
    around_HK = np.column_stack([np.arange(len(near_HK)), near_HK])
    energy_HK = np.where(around_HK >= 0, hits.energy_H[np.maximum(around_HK, 0)], -np.inf)
    centre_H = around_HK[np.arange(len(near_HK)), energy_HK.argmax(axis=1)]
    is_centre_H = np.zeros(len(near_HK), bool)
    is_centre_H[centre_H[is_corner_H]] = True
    return Clusters(is_centre_H, *_sums(hits, near_HK))


def neighbouring_hits(hits: HitEvents, neighbours_CK: NDArray[Any]) -> NDArray[Any]:
    """Return for each hit the rows (H, K) of the hits on its neighbouring cells, −1 where there is none."""
    if not len(hits.cell_H):
        return np.empty((0, neighbours_CK.shape[1]), np.int64)
    key_H = hits.event_H * len(neighbours_CK) + hits.cell_H  # ascending
    cell_HK = neighbours_CK[hits.cell_H]
    wanted_HK = hits.event_H[:, None] * len(neighbours_CK) + cell_HK
    row_HK = np.minimum(np.searchsorted(key_H, wanted_HK), len(key_H) - 1)
    return np.where((cell_HK != NO_NEIGHBOUR) & (key_H[row_HK] == wanted_HK), row_HK, -1)


def _energies(hits: HitEvents, near_HK: NDArray[Any]) -> NDArray[Any]:
    return np.where(near_HK >= 0, hits.energy_H[np.maximum(near_HK, 0)], 0) if len(near_HK) else np.zeros(near_HK.shape)


def _sums(hits: HitEvents, near_HK: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return energy (H,) and energy-weighted position (H, 3) of each hit with its neighbours."""
    energy_HK = np.column_stack([hits.energy_H, _energies(hits, near_HK)])
    rows_HK = np.column_stack([np.arange(len(near_HK)), np.maximum(near_HK, 0)])
    energy_H = energy_HK.sum(axis=1)
    position_H3 = (energy_HK[..., None] * hits.position_H3[rows_HK]).sum(axis=1) / energy_H[:, None]
    return energy_H, position_H3
