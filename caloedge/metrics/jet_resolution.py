"""Jets in reconstructed energy images against those in the true images: response, resolution, efficiency.

True jets and reconstructed ones are matched one to one in each event, the closest pairs first.
Axes: E event, J jet of an event (hardest first, padded with NaN), N jet.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.reconstruction.jet_clustering import Jets

MATCHED_WITHIN = 0.3
"""Largest ΔR = √(Δη² + Δφ²) of a match, less than the jets' radius of 0.4."""
TRUE_ABOVE_GEV = 30.0
"""Lowest pT of the true jets that are counted."""
FOUND_ABOVE_GEV = 10.0
"""Lowest pT of what is clustered: far enough below that a low response does not lose a jet."""
CENTRAL = (0.16, 0.84)


@dataclass(frozen=True)
class JetPairs:
    """One method's jets in each event."""

    true_pt_EJ: NDArray[Any]
    """(E, J) pT in GeV of the true jets above `TRUE_ABOVE_GEV`."""
    ratio_EJ: NDArray[Any]
    """(E, J) reconstructed over true pT, NaN where no jet was found."""
    extra_E: NDArray[Any]
    """(E,) number of reconstructed jets above `TRUE_ABOVE_GEV` that match no true jet above `FOUND_ABOVE_GEV`."""


def pairs(true: Jets, reconstructed: Jets, n_events: int) -> JetPairs:
    """Match jets above `FOUND_ABOVE_GEV` of all events."""
    partner_N = match(true, reconstructed)
    counted_N = true.pt_N >= TRUE_ABOVE_GEV
    ratio_N = np.where(partner_N >= 0, np.append(reconstructed.pt_N, np.nan)[partner_N] / true.pt_N, np.nan)
    alone_N = reconstructed.pt_N >= TRUE_ABOVE_GEV
    alone_N[partner_N[partner_N >= 0]] = False
    event_N = true.event_N[counted_N]
    columns = (true.pt_N[counted_N], ratio_N[counted_N])
    true_pt_EJ, ratio_EJ = (_padded(event_N, values, n_events) for values in columns)
    return JetPairs(true_pt_EJ, ratio_EJ, np.bincount(reconstructed.event_N[alone_N], minlength=n_events))


def match(true: Jets, reconstructed: Jets) -> NDArray[Any]:
    """Return the index of each true jet's partner among the reconstructed ones, −1 for none."""
    partner_N = np.full(len(true.pt_N), -1)
    for event in np.intersect1d(true.event_N, reconstructed.event_N):
        true_rows, reconstructed_rows = (
            np.arange(*np.searchsorted(jets.event_N, (event, event + 1))) for jets in (true, reconstructed)
        )
        eta = true.eta_N[true_rows][:, None] - reconstructed.eta_N[reconstructed_rows]
        phi = true.phi_N[true_rows][:, None] - reconstructed.phi_N[reconstructed_rows]
        distance = np.hypot(eta, (phi + np.pi) % (2 * np.pi) - np.pi)
        while distance.size and distance.min() < MATCHED_WITHIN:
            row, column = np.unravel_index(distance.argmin(), distance.shape)
            partner_N[true_rows[row]] = reconstructed_rows[column]
            distance[row], distance[:, column] = np.inf, np.inf
    return partner_N


def _padded(event_N: NDArray[Any], values_N: NDArray[Any], n_events: int) -> NDArray[Any]:
    """Return values of jets ordered by event as (E, J)."""
    counts_E = np.bincount(event_N, minlength=n_events)
    padded_EJ = np.full((n_events, max(1, int(counts_E.max(initial=0)))), np.nan)
    padded_EJ[np.arange(padded_EJ.shape[1]) < counts_E[:, None]] = values_N
    return padded_EJ


def central_width(ordered_N: NDArray[Any]) -> float:
    """Return half of the central 68 % interval of values in ascending order over their median, NaN where that is not positive.

    >>> round(central_width(np.arange(1.0, 102.0)), 4)
    0.6667
    """
    low, middle, high = np.quantile(ordered_N, (CENTRAL[0], 0.5, CENTRAL[1]))
    return float((high - low) / 2 / middle) if middle > 0 else float("nan")
