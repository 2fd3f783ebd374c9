"""Errors of reconstructed energy images: per event, per pixel and per set of events, with bootstrap uncertainties.

The squared error weighs pixels by their true energy (arXiv 2410.07250): Σ y (ŷ − y)² / Σ y in GeV². Between sets of softer
and harder events it is compared by the relative error √(Σ y (ŷ − y)² / Σ y³): no energy scale is left in it, an error of the
same share δ in every pixel gives δ, and a reconstruction of nothing gives 1.

Similarity of structure is that of the networks' training (`caloedge.metrics.ssim`).
Axes: E event, H row in η, W column in φ, B bin of a pixel's true energy, M moment, S set of events, R replica.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.images.response import PIXELS
from caloedge.errors import UserError
from caloedge.metrics import bootstrap
from caloedge.metrics.resolution import Estimate
from caloedge.metrics.ssim import blur, ssim

PIXEL_BINS_GEV = 2.0 ** np.arange(-2, 12)
"""Inner bin edges: pixels of less energy, most of them empty, are the first bin; those of more the last."""
N_BINS = len(PIXEL_BINS_GEV) + 1
EVENTS_PER_BLOCK = 100
"""Events that are compared at a time, so that memory does not grow with the sample."""
FEWEST_PIXELS = 100
"""Fewest pixels of a bin with a closure."""


@dataclass(frozen=True)
class TrueImages:
    """True images of events of several sets, to which methods are compared."""

    sets: tuple[str, ...]
    set_E: NDArray[Any]
    """(E,) index into `sets`."""
    field_E: NDArray[Any]
    """(E,) magnetic field in rad · GeV."""
    unit_E: NDArray[Any]
    """(E,) energy in GeV that 1 stands for in the networks' inputs and outputs."""
    truth_EHW: NDArray[Any]
    """(E, 56, 56) true energy in GeV."""

    def __len__(self) -> int:
        return len(self.set_E)

    def of(self, name: str) -> NDArray[Any]:
        """Return which events (E,) are of a set."""
        return np.asarray(self.set_E == self.sets.index(name))


@dataclass(frozen=True)
class Errors:
    """Errors of one method's images, event by event."""

    wmse_E: NDArray[Any]
    """(E,) Σ y (ŷ − y)² / Σ y in GeV², NaN for an event without energy."""
    relative_E: NDArray[Any]
    """(E,) relative error √(Σ y (ŷ − y)² / Σ y³)."""
    ssim_E: NDArray[Any]
    """(E,) structural similarity."""
    closure_E: NDArray[Any]
    """(E,) reconstructed over true energy of the event, Σ ŷ / Σ y."""
    moments_EBM: NDArray[Any]
    """(E, B, M) number of pixels in each bin, and sums of ŷ − y, (ŷ − y)², ŷ / y and (ŷ / y)² over them, energies
    in GeV; the ratios of the first bin are 0."""


@dataclass(frozen=True)
class Closure:
    """Mean and standard deviation over pixels in bins of their true energy."""

    mean: Estimate
    spread: Estimate


def measure(events: TrueImages, outputs: NDArray[Any]) -> Errors:
    """Compare one method's outputs (E, 56, 56) or (E, 1, 56, 56), in the events' units, with the truth.

    Raises `UserError` for another shape or values that are not finite.
    """
    outputs_EHW = images_of(outputs, len(events))
    parts = [_measured(events, outputs_EHW, slice(i, i + EVENTS_PER_BLOCK)) for i in range(0, len(events), EVENTS_PER_BLOCK)]
    if not parts:
        nothing = np.empty(0)
        return Errors(nothing, nothing, nothing, nothing, np.empty((0, N_BINS, 5)))
    return Errors(*(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Errors)))


def images_of(outputs: NDArray[Any], n_events: int) -> NDArray[Any]:
    """Return outputs as (E, 56, 56), whether or not they have an axis for their only channel."""
    if outputs.shape not in ((n_events, PIXELS, PIXELS), (n_events, 1, PIXELS, PIXELS)):
        raise UserError(f"outputs of shape {outputs.shape}; give ({n_events}, 1, {PIXELS}, {PIXELS})")
    return outputs.reshape(n_events, PIXELS, PIXELS)


def _measured(events: TrueImages, outputs_EHW: NDArray[Any], block: slice) -> Errors:
    unit_E11 = events.unit_E[block, None, None]
    truth, scaled = events.truth_EHW[block].astype(np.float64), outputs_EHW[block].astype(np.float64)
    if not np.isfinite(scaled).all():
        event = block.start + int(np.argwhere(~np.isfinite(scaled))[0, 0])
        raise UserError(f"output of event {event} is not finite; energies must be")
    estimate = scaled * unit_E11
    weighted_E = (truth * (estimate - truth) ** 2).sum(axis=(1, 2))
    energy_E, cubes_E = truth.sum(axis=(1, 2)), (truth**3).sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return Errors(
            wmse_E=weighted_E / energy_E,
            relative_E=np.sqrt(weighted_E / cubes_E),
            ssim_E=ssim(scaled, truth / unit_E11, *(blur(side) for side in truth.shape[1:])),
            closure_E=estimate.sum(axis=(1, 2)) / energy_E,
            moments_EBM=_moments(estimate, truth),
        )


def _moments(estimate: NDArray[Any], truth: NDArray[Any]) -> NDArray[Any]:
    n_events = len(truth)
    bin_EHW = np.digitize(truth, PIXEL_BINS_GEV)
    bin_index = (bin_EHW + np.arange(n_events)[:, None, None] * N_BINS).ravel()
    difference = (estimate - truth).ravel()
    ratio = np.where(bin_EHW > 0, estimate / np.maximum(truth, PIXEL_BINS_GEV[0]), 0).ravel()
    sums = [
        np.bincount(bin_index, weights, n_events * N_BINS)
        for weights in (np.ones_like(difference), difference, difference**2, ratio, ratio**2)
    ]
    return np.stack(sums, axis=-1).reshape(n_events, N_BINS, len(sums))


def mean(values_E: NDArray[Any], bin_E: NDArray[Any], n_bins: int, weights_RE: NDArray[Any]) -> Estimate:
    """Return the mean of the finite values in each bin; events of other bins than 0 … `n_bins` − 1 do not count."""
    inside_EB = (bin_E[:, None] == np.arange(n_bins)) & np.isfinite(values_E)[:, None]
    return _ratio(np.where(inside_EB, np.nan_to_num(values_E)[:, None], 0), inside_EB, weights_RE, 1)


def _ratio(part_EB: NDArray[Any], total_EB: NDArray[Any], weights_RE: NDArray[Any], fewest: int) -> Estimate:
    total_B = total_EB.sum(axis=0, dtype=np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        value_B = np.where(total_B >= fewest, part_EB.sum(axis=0, dtype=np.float64) / total_B, np.nan)
        replicas_RB = (weights_RE @ part_EB) / (weights_RE @ total_EB.astype(np.float64))
    return Estimate(value_B, bootstrap.spread(replicas_RB), total_B.astype(np.int64), replicas_RB)


def pixel_closure(errors: Errors, chosen_E: NDArray[Any], weights_RE: NDArray[Any], *, relative: bool) -> Closure:
    """Return mean and spread of ŷ − y in GeV, or of ŷ / y, over the pixels of the chosen events, all `N_BINS` bins."""
    moments_EBM = errors.moments_EBM * chosen_E[:, None, None]
    number_EB, first = moments_EBM[:, :, 0], 3 if relative else 1
    middle = _ratio(moments_EBM[:, :, first], number_EB, weights_RE, FEWEST_PIXELS)
    square = _ratio(moments_EBM[:, :, first + 1], number_EB, weights_RE, FEWEST_PIXELS)
    with np.errstate(invalid="ignore"):
        width_B = np.sqrt(np.maximum(square.value_B - middle.value_B**2, 0))
        width_RB = np.sqrt(np.maximum(square.replicas_RB - middle.replicas_RB**2, 0))
    return Closure(middle, Estimate(width_B, bootstrap.spread(width_RB), middle.count_B, width_RB))
