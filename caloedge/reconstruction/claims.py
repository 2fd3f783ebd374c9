"""What is claimed of the integer network's photons, tested with differences that are paired by showers.

Axes: B bin, R replica.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge import statistics
from caloedge.reconstruction import resolution
from caloedge.reconstruction.resolution import Estimate
from caloedge.results import Claim, verdict

CLEARLY = 3.0
"""Standard deviations that make a difference clear."""


def no_wider(statement: str, found: Estimate, wanted: Estimate, edges: NDArray[Any], tolerance: float) -> Claim:
    """Claim that in no bin one method's width exceeds the other's by more than a share of it.

    The central values decide; every bin where it fails is named with ratio and error.
    """
    ratio_B, error_B = resolution.ratio(found, wanted)
    if not np.isfinite(ratio_B).all():
        return _untested(statement, np.isfinite(ratio_B), edges)
    text_B = [f"{_energies(edges, b)}: {ratio_B[b]:.3f} ± {error_B[b]:.3f}" for b in range(len(ratio_B))]
    failed = np.flatnonzero(ratio_B > 1 + tolerance)
    if len(failed):
        text = f"ratio of the widths above {1 + tolerance:g} in {len(failed)} of {len(ratio_B)} bins: "
        text += "; ".join(text_B[b] for b in failed)
    else:
        text = (
            f"ratio of the widths at most {1 + tolerance:g} in all {len(ratio_B)} bins; the largest: {text_B[ratio_B.argmax()]}"
        )
    return Claim(statement=statement, verdict=verdict(not len(failed)), found=f"{text} (paired bootstrap)")


def narrower(statement: str, found: Estimate, wanted: Estimate, edges: NDArray[Any]) -> Claim:
    """Claim that one method's width is below the other's in every bin, and clearly so in their mean."""
    ratio_B, error_B = resolution.ratio(found, wanted)
    if not np.isfinite(ratio_B).all():
        return _untested(statement, np.isfinite(ratio_B), edges)
    mean, mean_error = float(ratio_B.mean()), _deviation((found.replicas_RB / wanted.replicas_RB).mean(axis=1))
    parts = [
        f"{_energies(edges, b)}: {ratio_B[b]:.3f} ± {error_B[b]:.3f} ({_sigmas(1 - ratio_B[b], error_B[b])})"
        for b in range(len(ratio_B))
    ]
    return Claim(
        statement=statement,
        verdict=verdict(bool((ratio_B < 1).all() and 1 - mean > CLEARLY * mean_error)),
        found=f"ratio of the widths {mean:.3f} ± {mean_error:.3f} in the mean of the bins; {'; '.join(parts)} (paired bootstrap)",
    )


def clearly_narrower(statement: str, found: Estimate, wanted: Estimate, unit: str = "%") -> Claim:
    """Claim that one method's width in the only bin, relative or in a unit, is clearly below the other's."""
    ratio, error = float(found.value_B[0] / wanted.value_B[0]), _deviation(found.replicas_RB[:, 0] / wanted.replicas_RB[:, 0])
    if not np.isfinite(ratio):
        return Claim(statement=statement, verdict=verdict(None), found="too few photons, or a median that is not positive")
    mine, theirs = (f"{of.value_B[0]:.2%}" if unit == "%" else f"{of.value_B[0]:.3g} {unit}" for of in (found, wanted))
    return Claim(
        statement=statement,
        verdict=verdict(1 - ratio > CLEARLY * error),
        found=f"{mine} against {theirs}: ratio {ratio:.3f} ± {error:.3f}, "
        f"{_sigmas(1 - ratio, error)} (paired bootstrap; {found.count_B[0]:,} and {wanted.count_B[0]:,} values)",
    )


def clearly_more(statement: str, found: statistics.Ratio, wanted: statistics.Ratio, what: str) -> Claim:
    """Claim that one method's share in the only bin is clearly above the other's."""
    change, error = 100 * float(found.value[0] - wanted.value[0]), 100 * _deviation(found.replicas[:, 0] - wanted.replicas[:, 0])
    if not np.isfinite(change):
        return Claim(statement=statement, verdict=verdict(None), found=f"no {what}")
    return Claim(
        statement=statement,
        verdict=verdict(change > CLEARLY * error),
        found=f"{found.value[0]:.2%} against {wanted.value[0]:.2%} of {int(found.total[0]):,} {what}: "
        f"{change:+.2f} ± {error:.2f} % (paired bootstrap)",
    )


def _sigmas(difference: float, error: float) -> str:
    """Return a difference in its standard deviations; that of a method from itself has none."""
    return f"{difference / error:+.1f} σ" if error > 0 else "no spread"


def _deviation(replicas_R: NDArray[Any]) -> float:
    return float(resolution.spread(replicas_R[:, None])[0])


def _energies(edges: NDArray[Any], b: int) -> str:
    return f"{edges[b]:g}–{edges[b + 1]:g} GeV"


def _untested(statement: str, known_B: NDArray[Any], edges: NDArray[Any]) -> Claim:
    bins = ", ".join(_energies(edges, int(b)) for b in np.flatnonzero(~known_B))
    return Claim(
        statement=statement, verdict=verdict(None), found=f"too few photons, or a median that is not positive, in {bins}"
    )
