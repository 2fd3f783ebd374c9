"""Response and its width in bins of the incident energy: what reconstructed energies and resolutions rest on.

The response is the total over the incident energy, its width half of the smallest interval that holds 68.27 % over the median.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.fidelity.features import Features
from caloedge.metrics import bootstrap, claims, resolution
from caloedge.metrics.claims import ComparedFigure
from caloedge.metrics.resolution import Estimate

SHOWERS_PER_BIN, MOST_BINS = 100, 8


@dataclass(frozen=True)
class Response:
    """Median response and relative width of one sample in bins of energy."""

    median: Estimate
    width: Estimate


def energy_bins(energies_mev: NDArray[Any], n_showers: int) -> NDArray[Any]:
    """Return edges in MeV over the range of energies, of equal ratio, for at least about 100 of `n_showers` in each."""
    n_bins = int(np.clip(n_showers // SHOWERS_PER_BIN, 1, MOST_BINS))
    low, high = energies_mev.min(), energies_mev.max()
    return np.geomspace(low, max(high, low * (1 + 1e-6)), n_bins + 1)


def response(found: Features, edges_mev: NDArray[Any], seed: int) -> Response:
    """Return the response of a sample, with bootstrap errors."""
    bin_N = resolution.bin_of(found.incident_mev_N, edges_mev)
    weights_RN = bootstrap.bootstrap_weights(len(bin_N), seed)
    n_bins = len(edges_mev) - 1
    return Response(
        *(
            resolution.in_bins(found.response, bin_N, n_bins, weights_RN, statistic)
            for statistic in (resolution.median, resolution.relative_width)
        )
    )


def over(other: Estimate, reference: Estimate) -> ComparedFigure:
    """Return one sample's figures over another's, which shares no showers with it."""
    return claims.ratio(other.value_B, other.replicas_RB, reference.value_B, reference.replicas_RB)


def deviation(other: Estimate, reference: Estimate) -> tuple[float, float]:
    """Return the mean of the known bins' ratios less 1 in percent, with its error; NaN without a bin that is known."""
    ratio = over(other, reference)
    if not ratio.known.any():
        return float("nan"), float("nan")
    replicas_R = ratio.replicas_RB[:, ratio.known].mean(axis=1)
    return 100 * float(ratio.value_B[ratio.known].mean() - 1), 100 * float(bootstrap.spread(replicas_R[:, None])[0])
