"""Energy of each pixel of a full event without learning: a calibrated sum of the calorimeters, and a particle flow.

The particle flow takes tracks for charged hadrons of their pixel. Each is linked to the columns of its row that it may have
hit, by how likely each is for its bend, its position in the pixel being unknown, and by how little of its expected deposit is
missing there. What the tracks are expected to deposit is subtracted; an excess of several standard deviations is neutral: in
the HCal neutral hadrons, and what they leave of the EMCal's π⁰. Both are corrected for the response of a single particle, and
scaled by one constant each, as pixels hold several.

It is given what a detector knows of itself: mean responses and resolutions (`detector.images.response`), and each event's field.
Axes: E event, C channel, H row in η, W column in φ, T track (pixel with tracks of one charge), K column in a track's reach.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.images.response import (
    CHANNELS,
    EARLY,
    EFFICIENCY,
    EMCAL_ABOVE_GEV,
    HCAL_ABOVE_GEV,
    NON_LINEARITY,
    PIXELS,
    RESOLUTION,
)
from caloedge.errors import UserError

EVENTS_PER_BLOCK = 50
"""Events that are reconstructed at a time, so that memory does not grow with the sample."""
REACH = 5
"""Number of columns that a track may have hit, around the most likely one."""
ROUNDS = 8
STEP = 0.5
"""Share of each round's result in the links: without damping two tracks would exchange their places for ever."""
FLOOR = 0.01
"""Likelihood, relative to a perfect fit, that is left to columns without the expected deposit."""
LOGISTIC = 1.702
"""A logistic distribution of this inverse scale is a normal one within 0.01; unlike that one's its integral is elementary."""


@dataclass(frozen=True)
class Calibration:
    """Scales of the calorimeters' sum."""

    emcal: float
    hcal: float


@dataclass(frozen=True)
class FlowTuning:
    """Free constants of the particle flow."""

    tolerance: float
    """Standard deviations of the expected deposit by which links forgive what is missing."""
    significance: float
    """Standard deviations of what tracks are expected to deposit, above which an excess is neutral."""
    neutral_hadron: float
    """Scale of neutral hadrons' energy."""
    pion: float
    """Scale of π⁰s' energy."""


CALIBRATION = Calibration(emcal=1.261, hcal=1.23)
"""Result of `calibrated` on validation events; a test repeats it."""
TUNING = FlowTuning(tolerance=1.5, significance=2.0, neutral_hadron=0.99, pion=0.936)
"""Result of `tuned` on validation events; a test repeats it."""
TOLERANCES = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0)
SIGNIFICANCES = (1.0, 1.5, 2.0, 2.5, 3.0)
DIGITS = 3
"""Decimal digits to which scales are rounded: their errors are larger."""


@dataclass(frozen=True)
class _Tracks:
    """Tracks of a block of events with what they are expected to do."""

    prior_TK: NDArray[Any]
    """(T, K) probability of each column in reach."""
    pixel_TK: NDArray[Any]
    """(T, K) those columns as indices into the flattened block of images."""
    emcal_T: NDArray[Any]
    hcal_T: NDArray[Any]
    """(T,) expected deposits in GeV."""
    emcal_variance_T: NDArray[Any]
    hcal_variance_T: NDArray[Any]
    """(T,) variances of the expected deposits in GeV²."""


@dataclass(frozen=True)
class _Excess:
    """Excess over the expected deposits of tracks, and their standard deviation: images (E, 56, 56) in GeV."""

    emcal: NDArray[Any]
    hcal: NDArray[Any]
    emcal_width: NDArray[Any]
    hcal_width: NDArray[Any]


def calorimeter_sum(inputs_ECHW: NDArray[Any], calibration: Calibration = CALIBRATION) -> NDArray[Any]:
    """Return energies (E, 56, 56) float32 in GeV from the calorimeters alone; inputs in GeV.

    It is linear: hot pixels, whose response is nearer to proportional than that of the training's, come out too high.
    """
    _check(inputs_ECHW)
    return np.asarray(calibration.emcal * inputs_ECHW[:, 0] + calibration.hcal * inputs_ECHW[:, 1], np.float32)


def particle_flow(inputs_ECHW: NDArray[Any], field_E: NDArray[Any], tuning: FlowTuning = TUNING) -> NDArray[Any]:
    """Return energies (E, 56, 56) float32 in GeV; inputs in GeV, fields in rad · GeV."""
    _check(inputs_ECHW)
    energy_EHW = np.empty((len(inputs_ECHW), PIXELS, PIXELS), np.float32)
    for block in _blocks(len(inputs_ECHW)):
        inputs = inputs_ECHW[block].astype(np.float64)
        hadron, pion = _neutral(_excess(inputs, field_E[block], tuning.tolerance), tuning.significance)
        energy_EHW[block] = inputs[:, 2] + inputs[:, 3] + tuning.neutral_hadron * hadron + tuning.pion * pion
    return energy_EHW


def calibrated(inputs_ECHW: NDArray[Any], truth_EHW: NDArray[Any]) -> Calibration:
    """Return the scales that minimise the mean over events of Σ y (ŷ − y)² / Σ y.

    These are the weights of the figure that methods are compared by, and of the networks' training.
    """
    terms = tuple(inputs_ECHW[:, channel].astype(np.float64) for channel in (0, 1))
    emcal, hcal = _least_squares(terms, truth_EHW.astype(np.float64), _weights(truth_EHW))
    return Calibration(emcal, hcal)


def tuned(inputs_ECHW: NDArray[Any], field_E: NDArray[Any], truth_EHW: NDArray[Any]) -> FlowTuning:
    """Return the constants with the smallest mean of Σ y (ŷ − y)² / Σ y: scales by least squares, the others on a grid."""
    inputs_ECHW, weights_EHW = inputs_ECHW.astype(np.float64), _weights(truth_EHW)
    neutral_EHW = truth_EHW - inputs_ECHW[:, 2] - inputs_ECHW[:, 3]
    tunings: dict[float, FlowTuning] = {}
    for tolerance in TOLERANCES:
        parts = [_excess(inputs_ECHW[block], field_E[block], tolerance) for block in _blocks(len(inputs_ECHW))]
        for significance in SIGNIFICANCES:
            hadron, pion = (
                np.concatenate(blocks) for blocks in zip(*(_neutral(part, significance) for part in parts), strict=True)
            )
            scales = _least_squares((hadron, pion), neutral_EHW, weights_EHW)
            left_EHW = neutral_EHW - scales[0] * hadron - scales[1] * pion
            tunings[float((weights_EHW * left_EHW**2).sum())] = FlowTuning(tolerance, significance, *scales)
    return tunings[min(tunings)]


def _check(inputs_ECHW: NDArray[Any]) -> None:
    if inputs_ECHW.ndim != 4 or inputs_ECHW.shape[1:] != (len(CHANNELS), PIXELS, PIXELS):
        raise UserError(f"images of shape {inputs_ECHW.shape}; give (events, {len(CHANNELS)}, {PIXELS}, {PIXELS}) in GeV")


def _blocks(n_events: int) -> Iterator[slice]:
    for first in range(0, n_events, EVENTS_PER_BLOCK):
        yield slice(first, first + EVENTS_PER_BLOCK)


def _weights(truth_EHW: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(truth_EHW / truth_EHW.sum(axis=(1, 2), dtype=np.float64)[:, None, None])


def _least_squares(terms: tuple[NDArray[Any], ...], target: NDArray[Any], weights: NDArray[Any]) -> tuple[float, float]:
    matrix = [[(weights * term * other_term).sum() for other_term in terms] for term in terms]
    first, second = np.linalg.solve(matrix, [(weights * term * target).sum() for term in terms]).round(DIGITS)
    return float(first), float(second)


def _tracks(inputs_ECHW: NDArray[Any], field_E: NDArray[Any]) -> _Tracks:
    """Take each pixel with tracks of one charge for one track at an unknown place in it."""
    parts = []
    for channel, charge in ((2, -1), (3, 1)):
        event_T, row_T, column_T = np.nonzero(inputs_ECHW[:, channel] > 0)
        energy_T = inputs_ECHW[event_T, channel, row_T, column_T]
        bend_T = charge * field_E[event_T] / np.maximum(energy_T, EMCAL_ABOVE_GEV) * (PIXELS / (2 * np.pi))
        # The least width stands for none: without a field a track stays in its column.
        reach_TK, prior_TK = _columns(bend_T, np.maximum(RESOLUTION[0] * np.abs(bend_T), 1e-3))
        line_T = (event_T * PIXELS + row_T) * PIXELS
        parts.append((energy_T, line_T[:, None] + (column_T[:, None] + reach_TK) % PIXELS, prior_TK))
    energy_T, pixel_TK, prior_TK = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    showers_T, remaining_T = energy_T > EMCAL_ABOVE_GEV, (1 - EARLY) * energy_T
    deposits_T = showers_T & (remaining_T > HCAL_ABOVE_GEV)
    remaining_T = np.maximum(remaining_T, HCAL_ABOVE_GEV)
    emcal_T = np.where(showers_T, EARLY * energy_T, 0)
    hcal_T = np.where(deposits_T, EFFICIENCY * (remaining_T - NON_LINEARITY * np.sqrt(remaining_T)), 0)
    slope_T = np.where(deposits_T, (1 - EARLY) * EFFICIENCY * (1 - NON_LINEARITY / (2 * np.sqrt(remaining_T))), 0)
    track, emcal, hcal = RESOLUTION
    return _Tracks(
        prior_TK,
        pixel_TK,
        emcal_T,
        hcal_T,
        emcal_variance_T=(emcal**2 + track**2) * emcal_T**2,
        hcal_variance_T=(hcal * hcal_T) ** 2 + (track * slope_T * energy_T) ** 2,
    )


def _columns(bend_T: NDArray[Any], width_T: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the columns (T, K) in a track's reach, from its own, and the chance of each.

    Where in its column a track starts is uniform; its bend, in columns, has an error `width_T`.
    """
    edge_TK = np.floor(bend_T + 0.5)[:, None] + np.arange(REACH + 1) - REACH // 2
    scale_T1 = (LOGISTIC / width_T)[:, None]
    after_TK = scale_T1 * (edge_TK - bend_T[:, None])
    below_TK = (np.logaddexp(0, after_TK) - np.logaddexp(0, after_TK - scale_T1)) / scale_T1
    chance_TK = np.maximum(np.diff(below_TK, axis=1), 0)  # rounding can bring it below
    return edge_TK[:, :-1].astype(np.int64), chance_TK / chance_TK.sum(axis=1, keepdims=True)


def _excess(inputs_ECHW: NDArray[Any], field_E: NDArray[Any], tolerance: float) -> _Excess:
    """Link tracks to columns and subtract what they are expected to deposit there."""
    tracks, shape = _tracks(inputs_ECHW, field_E), inputs_ECHW[:, 0].shape
    n = inputs_ECHW[:, 0].size

    def summed(link_TK: NDArray[Any], value_T: NDArray[Any]) -> NDArray[Any]:
        return np.bincount(tracks.pixel_TK.ravel(), (link_TK * value_T[:, None]).ravel(), n)

    hcal, expected_T1 = inputs_ECHW[:, 1].ravel(), tracks.hcal_T[:, None]
    tolerated_T1 = tolerance * np.sqrt(tracks.hcal_variance_T)[:, None] + 1e-9
    link_TK = tracks.prior_TK
    for _ in range(ROUNDS):
        others_TK = summed(link_TK, tracks.hcal_T)[tracks.pixel_TK] - link_TK * expected_T1
        missing_TK = np.maximum(expected_T1 - (hcal[tracks.pixel_TK] - others_TK), 0) / tolerated_T1
        # Beyond eight standard deviations only the floor is left.
        new_TK = tracks.prior_TK * (np.exp(-0.5 * np.minimum(missing_TK, 8) ** 2) + FLOOR)
        link_TK = (1 - STEP) * link_TK + STEP * new_TK / new_TK.sum(axis=1, keepdims=True)
    emcal_width, hcal_width = (
        np.sqrt(summed(link_TK, variance_T)) for variance_T in (tracks.emcal_variance_T, tracks.hcal_variance_T)
    )
    return _Excess(
        emcal=inputs_ECHW[:, 0] - summed(link_TK, tracks.emcal_T).reshape(shape),
        hcal=inputs_ECHW[:, 1] - summed(link_TK, tracks.hcal_T).reshape(shape),
        emcal_width=emcal_width.reshape(shape),
        hcal_width=hcal_width.reshape(shape),
    )


def _neutral(excess: _Excess, significance: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the energies of neutral hadrons and π⁰s, images in GeV, as if each pixel's excess were one particle's."""
    hadron = _energy(excess.hcal, significance * excess.hcal_width) / (1 - EARLY)
    return hadron, _energy(excess.emcal - EARLY * hadron, significance * excess.emcal_width)


def _energy(deposit: NDArray[Any], threshold: NDArray[Any]) -> NDArray[Any]:
    """Invert the mean response where a deposit is above its threshold; elsewhere there is nothing."""
    positive = np.maximum(deposit, 0)
    root = (NON_LINEARITY + np.sqrt(NON_LINEARITY**2 + 4 * positive / EFFICIENCY)) / 2
    return np.where(positive > np.maximum(threshold, 0), root**2, 0)
