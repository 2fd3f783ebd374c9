"""From crystal codes to the inputs of DeepCluster's networks: windows, the best of each event, and the groups that they form.

This crystal matrix looks the same from eight sides, and so do photons that hit it at a right angle. So each window that is
kept is brought to one orientation by its core (`orientations`), the same for every network, and positions are brought back
at the end (`unoriented`): a small network then need not learn the same eight times. Tilted crystals or a field would break that.

Everything up to the photons is integer arithmetic that the hardware parts `caloedge_extract`, `caloedge_top_k`,
`caloedge_group` and `caloedge_photon` repeat bit for bit. Axes: E event, X and Y crystal, W window, M member (a window that
was kept, in the order of event and rank), K rank, C cell of a window, F feature.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals.events import GRID, MARGIN, SEED_THRESHOLD_GEV, WINDOW

CODE_BITS, CODE_FRACTION = 12, 5
"""Format of a digitised crystal: unsigned, in steps of 2⁻⁵ GeV = 31.25 MeV, a fifth of the noise; 127.97 GeV at most."""
THRESHOLD_CODE = int(SEED_THRESHOLD_GEV * 2**CODE_FRACTION)
TOP_K = 4
"""Windows of an event that the center finder gets (arXiv 2311.17914)."""
REACH = 3.0
"""Two seeds w = 1 − distance / `REACH` crystals apart are neighbours, farther ones are not."""

NORMALISED = 7
"""Bit to which a window's shift brings the leading bit of its central code."""
FEATURE_BITS = 12
"""Width of a normalised code; larger cells saturate. So a cell may be 16 to 32 times as high as the centre: a small photon beside
a large one is measured worse without."""
UNIT = 2 ** (NORMALISED + 1)
"""The feature code of 1.0."""
LOWEST_EXPONENT, HIGHEST_EXPONENT = 4, CODE_BITS - 1
"""Range of the position of the leading bit of a central code above threshold."""
OFFSETS = tuple((x, y) for x in range(-2, 3) for y in range(-2, 3) if (x, y) != (0, 0))
"""Steps in crystals to all neighbours closer than `REACH`."""
WEIGHT_CODES = tuple(round(UNIT * (1 - np.hypot(x, y) / REACH)) for x, y in OFFSETS)
FLIP_X, FLIP_Y, SWAP = 1, 2, 4
"""Bits of an orientation: x is reversed, y is reversed, and after that they change places."""
FEATURES = WINDOW * WINDOW + len(OFFSETS) + HIGHEST_EXPONENT - LOWEST_EXPONENT + 1


@dataclass(frozen=True)
class CodeWindows:
    """7 × 7 windows of codes around crystals above the threshold, in (event, x, y) order."""

    codes_WXY: NDArray[Any]
    """(W, 7, 7) uint16."""
    event_W: NDArray[Any]
    crystal_W2: NDArray[Any]

    @property
    def key(self) -> NDArray[Any]:
        """Number (W,) of the central crystal in reading order: it settles ties."""
        return np.asarray(self.crystal_W2[:, 0] * GRID + self.crystal_W2[:, 1])


@dataclass(frozen=True)
class Groups:
    """The windows that were kept, with their neighbours."""

    window_M: NDArray[Any]
    """(M,) number of the window."""
    event_M: NDArray[Any]
    crystal_M2: NDArray[Any]
    others_MK: NDArray[Any]
    """(M, 3) the other members of the event by rank, −1 for none."""
    weight_MK: NDArray[Any]
    """(M, 3) 1 − distance / `REACH` of the others, 0 for farther ones; float32."""


def digitised(cells_gev: NDArray[Any]) -> NDArray[Any]:
    """Return crystal energies in GeV as uint16 codes, rounded half to even, saturated."""
    return np.asarray(np.minimum(np.rint(cells_gev * np.float32(2**CODE_FRACTION)), 2**CODE_BITS - 1).astype(np.uint16))


def extract(codes_EXY: NDArray[Any]) -> CodeWindows:
    """Extract the window around every crystal above the threshold that is not too close to the border."""
    n_events = len(codes_EXY)
    above = codes_EXY[:, MARGIN:-MARGIN, MARGIN:-MARGIN] > THRESHOLD_CODE
    inner = above.shape[1]
    event_W, place_W = np.divmod(np.flatnonzero(above), inner * inner)
    crystal_W2 = np.stack(np.divmod(place_W, inner), axis=1) + MARGIN
    corner_W = event_W * (GRID * GRID) + (crystal_W2[:, 0] - MARGIN) * GRID + crystal_W2[:, 1] - MARGIN
    cell_C = (np.arange(WINDOW)[:, None] * GRID + np.arange(WINDOW)).reshape(-1)
    codes_WC = codes_EXY.reshape(n_events * GRID * GRID).take(corner_W[:, None] + cell_C)
    return CodeWindows(codes_WC.reshape(-1, WINDOW, WINDOW), event_W, crystal_W2)


def top_k(event_W: NDArray[Any], key_W: NDArray[Any], score_W: NDArray[Any], threshold: float) -> NDArray[Any]:
    """Return the numbers of the `TOP_K` windows of each event with the highest scores at or above the threshold, by rank.

    Of equal scores the lower key comes first, so that the order in which windows arrive does not matter.
    """
    (passed_W,) = np.nonzero(score_W >= threshold)
    order = np.lexsort((key_W[passed_W], -score_W[passed_W], event_W[passed_W]))
    sorted_W = passed_W[order]
    event = event_W[sorted_W]
    first = np.searchsorted(event, event, side="left")
    return np.asarray(sorted_W[np.arange(len(event)) - first < TOP_K])


def grouped(event_W: NDArray[Any], crystal_W2: NDArray[Any], window_M: NDArray[Any]) -> Groups:
    """Find the other members and their weights of each kept window; members of an event stand together."""
    event_M, crystal_M2 = event_W[window_M], crystal_W2[window_M]
    first_M = np.searchsorted(event_M, event_M, side="left")
    size_M = np.searchsorted(event_M, event_M, side="right") - first_M
    rank_M = np.arange(len(event_M)) - first_M
    slot_K = np.arange(TOP_K - 1)
    other_rank_MK = slot_K + (slot_K >= rank_M[:, None])  # the other ranks in order
    others_MK = np.where(other_rank_MK < size_M[:, None], first_M[:, None] + other_rank_MK, -1)
    distance_MK = np.hypot(*np.moveaxis(crystal_M2[others_MK] - crystal_M2[:, None], -1, 0))
    weight_MK = np.where(others_MK >= 0, np.maximum(1 - distance_MK / REACH, 0), 0).astype(np.float32)
    return Groups(window_M, event_M, crystal_M2, others_MK, weight_MK)


def orientations(codes_MXY: NDArray[Any]) -> NDArray[Any]:
    """Return the orientation (M,) that brings most energy of each window's nine central crystals to higher x, then higher y."""
    core = codes_MXY[:, MARGIN - 1 : MARGIN + 2, MARGIN - 1 : MARGIN + 2].astype(np.int32)
    step_x_M = core[:, 2].sum(axis=1) - core[:, 0].sum(axis=1)
    step_y_M = core[:, :, 2].sum(axis=1) - core[:, :, 0].sum(axis=1)
    swap_M = np.abs(step_y_M) > np.abs(step_x_M)
    return np.asarray(FLIP_X * (step_x_M < 0) + FLIP_Y * (step_y_M < 0) + SWAP * swap_M)


def _oriented_square(square_XY: NDArray[Any], orientation: int) -> NDArray[Any]:
    flipped = square_XY[:: -1 if orientation & FLIP_X else 1, :: -1 if orientation & FLIP_Y else 1]
    return flipped.T if orientation & SWAP else flipped


CELL_OF_ORIENTATION = np.stack([_oriented_square(np.arange(WINDOW**2).reshape(WINDOW, WINDOW), t).ravel() for t in range(8)])
"""(8, 49) the cell of a window that comes to each place, by orientation."""


def oriented(vector_M2: NDArray[Any], orientation_M: NDArray[Any]) -> NDArray[Any]:
    """Return vectors (M, 2) along x and y as they lie in oriented windows."""
    flipped_M2 = np.where(np.stack([orientation_M & FLIP_X, orientation_M & FLIP_Y], axis=1) > 0, -vector_M2, vector_M2)
    return np.where((orientation_M & SWAP > 0)[:, None], flipped_M2[:, ::-1], flipped_M2)


def unoriented(vector_M2: NDArray[Any], orientation_M: NDArray[Any]) -> NDArray[Any]:
    """Return vectors (M, 2) in oriented windows as they lie in the event: the inverse of `oriented`."""
    back_M2 = np.where((orientation_M & SWAP > 0)[:, None], vector_M2[:, ::-1], vector_M2)
    return np.where(np.stack([orientation_M & FLIP_X, orientation_M & FLIP_Y], axis=1) > 0, -back_M2, back_M2)


def exponents(codes_MXY: NDArray[Any]) -> NDArray[Any]:
    """Return the position (M,) of the leading bit of each window's central code, at least `LOWEST_EXPONENT`."""
    _, position_M = np.frexp(codes_MXY[:, MARGIN, MARGIN].astype(np.float32))
    return np.asarray(np.maximum(position_M - 1, LOWEST_EXPONENT).astype(np.int16))


def sums(codes_MXY: NDArray[Any]) -> NDArray[Any]:
    """Return the sum (M,) of the nine central codes."""
    core = codes_MXY[:, MARGIN - 1 : MARGIN + 2, MARGIN - 1 : MARGIN + 2]
    return np.asarray(core.reshape(-1, 9).sum(axis=1, dtype=np.int64))


def features(codes_MXY: NDArray[Any], groups: Groups) -> NDArray[Any]:
    """Return the input codes (M, F) int16 of the edge center finder.

    They describe the window in its orientation: 49 cells, shifted so that the central one lies in [128, 256); the weights of
    neighbours at their places around the centre; one of eight words set for the exponent.
    """
    exponent_M, orientation_M = exponents(codes_MXY), orientations(codes_MXY)
    out_MF = np.zeros((len(codes_MXY), FEATURES), np.int16)
    cells = WINDOW * WINDOW
    # 12 bits shifted left by at most 3 fit into uint16.
    codes_MC = np.take_along_axis(codes_MXY.reshape(-1, cells), CELL_OF_ORIENTATION[orientation_M], axis=1)
    left_M = np.maximum(NORMALISED - exponent_M, 0).astype(np.uint16)
    right_M = np.maximum(exponent_M - NORMALISED, 0).astype(np.uint16)
    shifted_MC = (codes_MC << left_M[:, None]) >> right_M[:, None]
    out_MF[:, :cells] = np.minimum(shifted_MC, 2**FEATURE_BITS - 1)
    member, slot = np.nonzero(groups.weight_MK)
    step = oriented(groups.crystal_M2[groups.others_MK[member, slot]] - groups.crystal_M2[member], orientation_M[member])
    place = (step[:, 0] + 2) * 5 + step[:, 1] + 2
    place -= place > 12  # the centre has no word
    near = np.abs(step).max(axis=1, initial=0) <= 2
    out_MF[member[near], cells + place[near]] = np.array(WEIGHT_CODES, np.int16)[place[near]]
    out_MF[np.arange(len(out_MF)), cells + len(OFFSETS) + exponent_M - LOWEST_EXPONENT] = UNIT
    return out_MF


def photon_codes(
    outputs_M4: NDArray[Any], fraction: int, crystal_M2: NDArray[Any], codes_MXY: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return positions (M, 2) and energies (M,) as codes with `fraction` fraction bits, in crystals and GeV.

    `outputs_M4` are the network's output codes: offsets in x and y from the crystal's centre in the oriented window, excess
    of the energy over the nine central crystals in units of 2^(exponent − 4) GeV, and seed logit, with the same fraction bits,
    at least 5.
    """
    exponent_M, sum_M = exponents(codes_MXY), sums(codes_MXY)
    offset_M2 = unoriented(outputs_M4[:, :2].astype(np.int64), orientations(codes_MXY))
    position_M2 = (crystal_M2.astype(np.int64) << fraction) + (1 << (fraction - 1)) + offset_M2
    excess_M = outputs_M4[:, 2] << (exponent_M.astype(np.int64) - LOWEST_EXPONENT)
    return position_M2, (sum_M << (fraction - CODE_FRACTION)) + excess_M


def units_gev(exponent_M: NDArray[Any]) -> NDArray[Any]:
    """Return what 1.0 of the energy output and of a normalised cell is in GeV."""
    return np.asarray(np.ldexp(1.0, exponent_M.astype(np.int64) - LOWEST_EXPONENT))


def joined_windows(cells_EXY: NDArray[Any], groups: Groups, orientation_M: NDArray[Any]) -> NDArray[Any]:
    """Return the inputs (M, 4, 50) float32 of the published center finder: the own window and the others by rank.

    49 cells in GeV each, zeros for an absent one, and the weight, 1 for the own. All have the orientation of the own one.
    """
    views = np.lib.stride_tricks.sliding_window_view(cells_EXY, (WINDOW, WINDOW), axis=(1, 2))
    corner_M2 = groups.crystal_M2 - MARGIN
    own_MC = views[groups.event_M, corner_M2[:, 0], corner_M2[:, 1]].reshape(len(corner_M2), WINDOW * WINDOW)
    out = np.zeros((len(own_MC), TOP_K, WINDOW * WINDOW + 1), np.float32)
    out[:, 0, :-1], out[:, 0, -1] = own_MC, 1
    out[:, 1:, :-1] = np.where(groups.others_MK[..., None] >= 0, own_MC[groups.others_MK], 0)
    out[:, :, :-1] = np.take_along_axis(out[:, :, :-1], CELL_OF_ORIENTATION[orientation_M][:, None], axis=2)
    out[:, 1:, -1] = groups.weight_MK
    return out
