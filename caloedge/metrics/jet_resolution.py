"""Jets in reconstructed energy images against those in the true images: response, resolution, efficiency.

True jets and reconstructed ones are matched one to one in each event, the closest pairs first.
Axes: E event, J jet of an event (hardest first, padded with NaN), N jet.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.images.jets import Jets

MATCHED_WITHIN = 0.3
"""ΔR = √(Δη² + Δφ²), less than the jets' radius of 0.4."""
TRUE_ABOVE_GEV = 30.0
"""pT of the true jets that are counted."""
FOUND_ABOVE_GEV = 10.0
"""pT of what is clustered: far enough below that a low response does not lose a jet."""
CENTRAL = (0.16, 0.84)


@dataclass(frozen=True)
class JetPairs:
    """One method's jets in each event."""

    true_pt_EJ: NDArray[Any]
    """GeV, of true jets above `TRUE_ABOVE_GEV`."""
    ratio_EJ: NDArray[Any]
    """Reconstructed over true pT, NaN where no jet was found."""
    extra_E: NDArray[Any]
    """Number of reconstructed jets above `TRUE_ABOVE_GEV` that match no true jet above `FOUND_ABOVE_GEV`."""


def pairs(true: Jets, found: Jets, n_events: int) -> JetPairs:
    """Match jets above `FOUND_ABOVE_GEV` of all events."""
    partner_N = match(true, found)
    counted_N = true.pt_N >= TRUE_ABOVE_GEV
    ratio_N = np.where(partner_N >= 0, np.append(found.pt_N, np.nan)[partner_N] / true.pt_N, np.nan)
    alone_N = found.pt_N >= TRUE_ABOVE_GEV
    alone_N[partner_N[partner_N >= 0]] = False
    event_N = true.event_N[counted_N]
    columns = (true.pt_N[counted_N], ratio_N[counted_N])
    true_pt_EJ, ratio_EJ = (_padded(event_N, values, n_events) for values in columns)
    return JetPairs(true_pt_EJ, ratio_EJ, np.bincount(found.event_N[alone_N], minlength=n_events))


def match(true: Jets, found: Jets) -> NDArray[Any]:
    """Return the index of each true jet's partner among the reconstructed ones, −1 for none."""
    partner_N = np.full(len(true.pt_N), -1)
    for event in np.intersect1d(true.event_N, found.event_N):
        ours, theirs = (np.arange(*np.searchsorted(of.event_N, (event, event + 1))) for of in (true, found))
        eta = true.eta_N[ours][:, None] - found.eta_N[theirs]
        phi = true.phi_N[ours][:, None] - found.phi_N[theirs]
        apart = np.hypot(eta, (phi + np.pi) % (2 * np.pi) - np.pi)
        while apart.size and apart.min() < MATCHED_WITHIN:
            one, other = np.unravel_index(apart.argmin(), apart.shape)
            partner_N[ours[one]] = theirs[other]
            apart[one], apart[:, other] = np.inf, np.inf
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
