"""From the nodes of a graph network to clusters: condensation points (arXiv 2002.03605), chosen one after the other.

Axes: E event, N node, C coordinate, M cluster.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import Condensation

NOBODY = -1


def condense(
    score_EN: NDArray[Any],
    coordinates_ENC: NDArray[Any],
    valid_EN: NDArray[Any],
    threshold: float,
    apart: float,
    most: int,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the nodes (E, M) that stand for clusters, best first and −1 for none, and whether more than `most` would (E,).

    The valid node of the highest score is chosen (of equal ones the first), if its score reaches the threshold; nodes nearer to
    it than `apart` in Manhattan distance are left out, and so on. Codes and real values are treated alike.

    >>> score, points = np.array([[3, 9, 8, 7]]), np.array([[[0], [10], [11], [20]]])
    >>> condense(score, points, np.ones((1, 4), bool), threshold=4, apart=5, most=3)[0]
    array([[ 1,  3, -1]])
    """
    n_events, n_nodes = score_EN.shape
    alive_EN = valid_EN & (score_EN >= threshold)
    chosen_EM = np.full((n_events, most), NOBODY)
    lowest = np.iinfo(score_EN.dtype).min if np.issubdtype(score_EN.dtype, np.integer) else -np.inf
    event_A = np.flatnonzero(alive_EN.any(axis=1))
    for number in range(min(most, n_nodes)):
        if not len(event_A):
            break
        alive_AN = alive_EN[event_A]
        best_A = np.where(alive_AN, score_EN[event_A], lowest).argmax(axis=1)
        chosen_EM[event_A, number] = best_A
        points_ANC = coordinates_ENC[event_A]
        distance_AN = np.abs(points_ANC - points_ANC[np.arange(len(event_A)), best_A][:, None]).sum(axis=2)
        alive_AN &= distance_AN >= apart
        alive_AN[np.arange(len(event_A)), best_A] = False
        alive_EN[event_A] = alive_AN
        event_A = event_A[alive_AN.any(axis=1)]
    return chosen_EM, np.asarray(alive_EN.any(axis=1))


def cluster_codes(
    nodes_ENF: NDArray[Any], inputs_ENC: NDArray[Any], condensation: Condensation, threshold: int, apart: int
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return what firmware gives of the codes of nodes and inputs: clusters (E, M, F), their nodes (E, M), and status (E, 2).

    Absent clusters are zeros and their node is −1; the status is how many there are, and 1 where there would be more.
    """
    valid_EN = inputs_ENC[..., condensation.valid] > 0
    points_ENC = nodes_ENF[..., list(condensation.coordinates)]
    chosen_EM, more_E = condense(nodes_ENF[..., condensation.score], points_ENC, valid_EN, threshold, apart, condensation.most)
    there_EM = chosen_EM >= 0
    taken_EMF = np.take_along_axis(nodes_ENF, np.maximum(chosen_EM, 0)[..., None], axis=1)
    return np.where(there_EM[..., None], taken_EMF, 0), chosen_EM, np.stack([there_EM.sum(axis=1), more_E], axis=1)
