"""Classical photon clustering: local maxima as seeds, crystals shared between them, positions and energies by shower profile.

As in CMS particle flow (JINST 12 (2017) P10003) a crystal's energy is shared between clusters in proportion to
what each is expected to leave there. The expectation is an amplitude times the mean lateral profile, integrated over the
crystal: a sum of terms that fall off like sech² along x and y, so with exponential tails. Sharing and re-estimating in turn
is expectation maximisation (Feder and Weinstein, IEEE Trans. ASSP 36 (1988) 477), so overlapping showers converge to their
joint most likely positions and amplitudes. Lengths are in crystals, energies in GeV.
Photons that hit next to a stronger one are no local maximum; they show as an excess over what the clusters explain.
Axes: E event, P true photon, N reconstructed photon, X and Y crystal, S seed or cluster, H seed that another hides, G pair of
seeds, I and J crystal of a seed's 3 × 3 along x and y, M term of the profile, B energy bin, K coefficient.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector import events, photons
from caloedge.detector.events import CONSTANT, ELECTRONIC_GEV, MARGIN, READOUT_GEV, STOCHASTIC, CrystalEvents
from caloedge.detector.geometry import PBWO4
from caloedge.detector.library import ShowerLibrary
from caloedge.detector.photons import PhotonEvents, Photons
from caloedge.errors import BadData

MOST_ITERATIONS = 50
STABLE = 1e-3
"""A cluster is stable when it moves by less than this many crystals and its energy changes by less than this share."""
LEAST_GEV = 0.05
"""Smallest amplitude: a cluster whose crystals all belong to its neighbours."""
FARTHEST = 1.0
"""A cluster stays this close to the centre of its seed crystal, along each axis."""
SPREAD = 1 / 12
"""Variance of an impact point in its crystal: what is known of a position before its crystals are looked at."""
NEIGHBOURS = tuple((x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if (x, y) != (0, 0))
REACH = 5
"""Clusters farther apart, in crystals along x or y, share nothing."""
LONGEST_STEP = 0.2
"""Of a position in one iteration, along each axis."""
ENERGY_BINS_GEV = (1.0, 3.0, 10.0, 30.0, 100.0)
MATCH = 1.0
"""Largest distance, in crystals, of a photon from the seed crystal's centre or the cluster that is taken for it."""
BIAS_STEPS_PER_GEV = 1024
PROFILE_SHOWERS = 3000
"""Showers that the profile is fitted to."""
THRESHOLD_EVENTS = 6000
"""Events that thresholds are found with."""
IDENTITY = ((1.0, 0.0, 0.0, 0.0), *((0.0,) * 4,) * 3)
"""The curve that leaves offsets as they are."""
BATCH = 2048
"""Events that are clustered at a time, so that the surroundings fit in memory."""


@dataclass(frozen=True)
class Tuning:
    """Every constant of the clustering; `tune` finds all but the threshold of seeds."""

    profile: tuple[tuple[float, float], ...]
    """(share of the energy, width) of each term of the lateral profile; the shares add up to what the terms contain."""
    log_weight: float
    """w₀: in logarithmic positions crystals below e^−w₀ of the cluster get no weight (Awes et al., NIM A 311 (1992) 130)..."""
    crystal_gev: float
    """...and neither do those below this."""
    log_curve: tuple[tuple[float, ...], ...]
    """True offset from the seed's centre against the logarithmic one: coefficients of `_offset_terms` × `_powers`."""
    fit_curve: tuple[tuple[float, ...], ...]
    """As `log_curve`, against the fitted offset."""
    response: tuple[tuple[float, ...], ...]
    """Amplitude over true energy against energy and offset: coefficients of `_response_terms` × `_powers`."""
    hidden_sigma: float = np.inf
    """Excess over all clusters, in standard deviations, that makes a cluster's neighbouring crystal a seed too."""
    fluctuation: float = 0.0
    """In that excess: spread of a crystal's energy about the profile, relative to √(crystal's × cluster's energy)."""
    best_score: float = 0.0
    """Threshold on scores of the highest `quality`; only clusters above it can hide another. `reconstruct` does not apply it."""
    seed_gev: float = 0.6
    """Local maxima below this are no seeds: 3.6 times the electronic noise, so about one event in three has a false one."""
    fitted: bool = True
    """Whether the profile is fitted to the shared crystals; else positions are logarithmic, as in particle flow."""


TUNING = Tuning(
    profile=((0.3595, 0.03), (0.4212, 0.1357), (0.1951, 0.5232)),
    log_weight=3.9,
    crystal_gev=0.3,
    log_curve=(
        (0.97085, 0.040658, -0.0081797, -0.0013649),
        (0.050316, -0.049568, 0.0029973, 0.0052487),
        (-0.013231, -0.0031269, -0.0018788, 0.0010908),
        (0.0019681, -0.0077177, 0.0055506, -0.0010305),
    ),
    fit_curve=(
        (1.0037, 0.010923, -0.0094387, 0.0029647),
        (-0.025374, 0.038083, -0.016674, 0.0020281),
        (-0.010982, -0.005728, 0.02086, -0.0070367),
        (-0.00014459, -0.0090283, 0.0020854, 0.00066302),
    ),
    response=(
        (1.0026, -0.0087417, 0.014831, -0.0051293),
        (-0.0020497, 0.011595, -0.014396, 0.0042372),
        (0.0013591, -0.0025309, -0.00020386, 0.00076498),
    ),
    hidden_sigma=2.2,
    fluctuation=0.0475,
    best_score=4.6,
)
"""What `tune(library, 12_000, seed=1)` finds with the shipped library `pbwo4_gamma`."""
PARTICLE_FLOW = replace(
    TUNING,
    fit_curve=IDENTITY,
    response=(
        (0.98604, 0.016306, -0.00086921, -0.0015537),
        (0.0032694, 0.0018474, -0.0044689, 0.0012389),
        (-0.0035486, 0.004055, -0.00048022, -1.5173e-05),
    ),
    hidden_sigma=np.inf,
    fluctuation=0.0,
    best_score=4.4,
    fitted=False,
)
"""The same without `fitted`: logarithmic positions, and seeds are local maxima only."""


@dataclass(frozen=True)
class _Clusters:
    """Clusters before calibration."""

    offset_2S: NDArray[Any]
    """(2, S) from the centre of the seed crystal."""
    amplitude_S: NDArray[Any]
    """(S,) GeV."""
    score_S: NDArray[Any]
    """(S,) amplitude over its uncertainty where everything else is known."""


def seeds(cells_EXY: NDArray[Any], seed_gev: float) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return event (S,) and crystal (S, 2) of local maxima of at least `seed_gev`, in the order (event, x, y).

    A seed is above its eight neighbours; of equal crystals side by side the first in that order is one. Seeds keep
    `MARGIN` crystals from the border.
    """
    event_S, x_S, y_S = np.unravel_index(np.flatnonzero(cells_EXY >= seed_gev), cells_EXY.shape)
    inside_S = (np.minimum(x_S, y_S) >= MARGIN) & (x_S < cells_EXY.shape[1] - MARGIN) & (y_S < cells_EXY.shape[2] - MARGIN)
    event_S, x_S, y_S = event_S[inside_S], x_S[inside_S], y_S[inside_S]
    energy_S = cells_EXY[event_S, x_S, y_S]
    highest_S = energy_S > 0
    for step_x, step_y in NEIGHBOURS:
        other_S = cells_EXY[event_S, x_S + step_x, y_S + step_y]
        earlier = (step_x, step_y) < (0, 0)
        highest_S &= energy_S > other_S if earlier else energy_S >= other_S
    return event_S[highest_S], np.stack([x_S, y_S], axis=1)[highest_S]


def shared(
    cells_EXY: NDArray[Any], event_S: NDArray[Any], crystal_S2: NDArray[Any], tuning: Tuning
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return positions (S, 2) and energies (S,) of clusters around given seed crystals, in the order of their events.

    An event's clusters do not depend on other events. Raises `BadData` for seeds that are not sorted by event, of no event
    or too near the border.
    """
    _check_seeds(cells_EXY, event_S, crystal_S2)
    return _calibrated(_clusters(cells_EXY, event_S, crystal_S2, tuning), crystal_S2, tuning)


def reconstruct(cells_EXY: NDArray[Any], tuning: Tuning) -> Photons:
    """Find the photons of events (E, X, Y) in GeV, all that have a seed; a threshold on their scores is the caller's choice.

    The score is the significance: a cluster's amplitude over its uncertainty. In the order (event, x, y) of the seeds.
    """
    found = [_reconstruct(cells_EXY[at : at + BATCH], at, tuning) for at in range(0, max(len(cells_EXY), 1), BATCH)]
    parts = ((one.event_N, one.position_N2, one.energy_N, one.score_N) for one in found)
    return Photons(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _reconstruct(cells_EXY: NDArray[Any], first_event: int, tuning: Tuning) -> Photons:
    """Reconstruct one batch of events: local maxima alone, then with hidden seeds, of two guesses the one that fits better."""
    event_S, crystal_S2 = seeds(cells_EXY, tuning.seed_gev)
    found = _clusters(cells_EXY, event_S, crystal_S2, tuning)
    guesses = _hidden(cells_EXY, event_S, crystal_S2, found, tuning)
    changed_E = np.zeros(len(cells_EXY), bool)
    for event_H, _ in guesses:
        changed_E[event_H] = True
    changed_S = changed_E[event_S]
    parts = [(event_S, crystal_S2, found)]
    misfit_E = [np.where(changed_E, np.inf, -np.inf)]
    for event_H, crystal_H2 in guesses if changed_E.any() else ():
        event, crystal = np.append(event_S[changed_S], event_H), np.append(crystal_S2[changed_S], crystal_H2, axis=0)
        order = np.lexsort((*crystal.T[::-1], event))
        anew = _clusters(cells_EXY, event[order], crystal[order], tuning)
        parts.append((event[order], crystal[order], anew))
        maximum = order < changed_S.sum()
        misfit_E.append(np.bincount(event[order], maximum * _misfit(cells_EXY, *parts[-1], tuning), minlength=len(cells_EXY)))
    best_E = np.argmin(misfit_E, axis=0)
    chosen = [best_E[event] == number for number, (event, _, _) in enumerate(parts)]
    event_N = np.concatenate([event[mine] for (event, _, _), mine in zip(parts, chosen, strict=True)])
    results = [(*_calibrated(clusters, crystal, tuning), clusters.score_S) for _, crystal, clusters in parts]
    order = np.argsort(event_N, kind="stable")
    values = (
        np.concatenate([value[mine] for value, mine in zip(column, chosen, strict=True)])[order]
        for column in zip(*results, strict=True)
    )
    return Photons(event_N[order] + first_event, *values)


def _excess(
    cells_EXY: NDArray[Any], event_S: NDArray[Any], crystal_S2: NDArray[Any], found: _Clusters, tuning: Tuning
) -> NDArray[Any]:
    """Return by how many standard deviations the 3 × 3 (3, 3, S) around seeds exceed what the clusters explain."""
    mine_IJS, all_IJS = _expected(found, crystal_S2, _pairs(event_S, crystal_S2), tuning)
    variance_IJS = _noise_variance(all_IJS) + tuning.fluctuation**2 * found.amplitude_S * mine_IJS
    return np.asarray((_surroundings(cells_EXY, event_S, crystal_S2) - _bias(all_IJS) - all_IJS) / np.sqrt(variance_IJS))


def _misfit(
    cells_EXY: NDArray[Any], event_S: NDArray[Any], crystal_S2: NDArray[Any], found: _Clusters, tuning: Tuning
) -> NDArray[Any]:
    """Return χ² (S,) of the 3 × 3 around seeds."""
    return np.asarray((_excess(cells_EXY, event_S, crystal_S2, found, tuning) ** 2).sum(axis=(0, 1)))


def _hidden(
    cells_EXY: NDArray[Any], event_S: NDArray[Any], crystal_S2: NDArray[Any], found: _Clusters, tuning: Tuning
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return two guesses, event (H,) and crystal (H, 2) each, at photons that are no local maximum.

    A cluster hides one if a neighbour of its seed exceeds the expectation by `hidden_sigma` or more. Its seed is the
    neighbour with the highest excess or, because the cluster may have moved between the two photons, with most energy.
    """
    excess_IJS = _excess(cells_EXY, event_S, crystal_S2, found, tuning)
    cells_IJS = _surroundings(cells_EXY, event_S, crystal_S2)
    excess_IJS[1, 1] = cells_IJS[1, 1] = -np.inf
    hides_S = (excess_IJS.max(axis=(0, 1)) >= tuning.hidden_sigma) & (found.score_S >= tuning.best_score)
    guesses = []
    for value_IJS in (excess_IJS, cells_IJS):
        best_S = value_IJS.reshape(9, -1).argmax(axis=0)
        crystal_H2 = crystal_S2 + np.stack([best_S // 3, best_S % 3], axis=1) - 1
        new_S = hides_S & ((crystal_H2 >= MARGIN) & (crystal_H2 < np.array(cells_EXY.shape[1:]) - MARGIN)).all(axis=1)
        place_S, place_H = (np.ravel_multi_index((event_S, *at.T), cells_EXY.shape) for at in (crystal_S2, crystal_H2))
        event_H, x_H, y_H = np.unravel_index(np.setdiff1d(place_H[new_S], place_S), cells_EXY.shape)
        guesses.append((event_H, np.stack([x_H, y_H], axis=1)))
    return guesses


def _check_seeds(cells_EXY: NDArray[Any], event_S: NDArray[Any], crystal_S2: NDArray[Any]) -> None:
    """Refuse seeds whose surroundings reach outside the events."""
    if len(event_S) and (event_S.min() < 0 or event_S.max() >= len(cells_EXY)):
        raise BadData(f"seeds: events {event_S.min()} to {event_S.max()}; there are {len(cells_EXY)}, counted from 0")
    if (np.diff(event_S) < 0).any():
        number = int((np.diff(event_S) < 0).argmax()) + 1
        raise BadData(f"seeds: number {number} is of event {event_S[number]}, after one of {event_S[number - 1]}; sort by event")
    outside_S = ((crystal_S2 < MARGIN) | (crystal_S2 >= np.array(cells_EXY.shape[1:]) - MARGIN)).any(axis=1)
    if outside_S.any():
        number = int(outside_S.argmax())
        x, y = (int(c) for c in crystal_S2[number])
        raise BadData(f"seeds: number {number} in crystal ({x}, {y}); seeds keep {MARGIN} crystals from the border")


def _profile(
    offset_2S: NDArray[Any], profile: tuple[tuple[float, float], ...], reach: int = 1
) -> tuple[tuple[NDArray[Any], NDArray[Any]], tuple[NDArray[Any], NDArray[Any]]]:
    """Return for x and y the share (M, I, S) of each row of crystals and its derivative by the offset.

    Offsets are those of impact points from the centre of the crystal in the middle; `reach` rows follow on either side of
    it. The terms' shares of the energy are with x.
    """
    share_M, width_M = np.array(profile).T[:, :, None, None]
    edge_I = np.arange(2 * reach + 2)[:, None] - reach - 0.5
    along = []
    for offset_S, scale_M in zip(offset_2S, (share_M, 1.0), strict=True):
        # ½ tanh is the integral of sech², and its derivative is ¼ − (½ tanh)²
        below_MIS = 0.5 * np.tanh((edge_I - offset_S) / (2 * width_M))
        density_MIS = (0.25 - below_MIS**2) / width_M
        along.append((scale_M * (below_MIS[:, 1:] - below_MIS[:, :-1]), scale_M * (density_MIS[:, :-1] - density_MIS[:, 1:])))
    return along[0], along[1]


def _product(x_MIS: NDArray[Any], y_MJS: NDArray[Any]) -> NDArray[Any]:
    """Return Σ over terms of x × y, (I, J, S)."""
    total = x_MIS[0, :, None] * y_MJS[0]
    for term in range(1, len(x_MIS)):
        total += x_MIS[term, :, None] * y_MJS[term]
    return np.asarray(total)


def _noise_variance(expected: NDArray[Any]) -> NDArray[Any]:
    """Return the variance in GeV² of crystals of these energies, as `events.digitise` makes it."""
    return np.asarray(ELECTRONIC_GEV**2 + expected * (STOCHASTIC**2 + CONSTANT**2 * expected))


def _bias_table() -> NDArray[Any]:
    """Return by how much zero suppression raises the mean of crystals of 0, 1/1024, … 2 GeV."""
    expected = (np.arange(2 * BIAS_STEPS_PER_GEV + 1) + 0.5) / BIAS_STEPS_PER_GEV
    expected[-1] = np.inf
    node, weight = np.polynomial.legendre.leggauss(64)
    deviation = np.sqrt(_noise_variance(expected[:-1]))
    # The mean of what is suppressed, −∫ y p(y) from −∞ to the threshold, with 8σ for ∞.
    low = expected[:-1] - 8 * deviation
    half = np.maximum(READOUT_GEV - low, 0) / 2
    value = low[:, None] + half[:, None] * (node + 1)
    density = np.exp(-0.5 * ((value - expected[:-1, None]) / deviation[:, None]) ** 2) / (np.sqrt(2 * np.pi) * deviation[:, None])
    return np.asarray(np.append(-(weight * value * density).sum(axis=1) * half, 0.0))


BIAS_GEV = _bias_table()


def _bias(expected: NDArray[Any]) -> NDArray[Any]:
    """Return by how much zero suppression raises the mean of crystals of these energies, in GeV."""
    return np.asarray(BIAS_GEV[np.minimum(expected * BIAS_STEPS_PER_GEV, len(BIAS_GEV) - 1).astype(np.int32)])


def _pairs(event_S: NDArray[Any], crystal_S2: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return all ordered pairs (G,), (G,) of seeds of one event that are no more than `REACH` crystals apart along x and y."""
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    most = np.bincount(event_S).max() if len(event_S) else 0
    for lag in range(1, most):
        near = (event_S[lag:] == event_S[:-lag]) & (np.abs(crystal_S2[lag:] - crystal_S2[:-lag]) <= REACH).all(axis=1)
        at = np.flatnonzero(near)
        first += [at, at + lag]
        second += [at + lag, at]
    return np.concatenate(first), np.concatenate(second)


def _surroundings(cells_EXY: NDArray[Any], event_S: NDArray[Any], crystal_S2: NDArray[Any]) -> NDArray[Any]:
    """Return the crystals (3, 3, S) around seeds."""
    near = np.arange(-1, 2)
    x_IJS, y_IJS = crystal_S2[:, 0] + near[:, None, None], crystal_S2[:, 1] + near[:, None]
    return np.asarray(cells_EXY[event_S, x_IJS, y_IJS], np.float64)


def _clusters(cells_EXY: NDArray[Any], event_S: NDArray[Any], crystal_S2: NDArray[Any], tuning: Tuning) -> _Clusters:
    """Share crystals and re-estimate clusters in turn until all of an event are stable."""
    cells_IJS = _surroundings(cells_EXY, event_S, crystal_S2)
    mine_G, other_G = _pairs(event_S, crystal_S2)
    found = _Clusters(np.zeros((2, len(event_S))), np.maximum(cells_IJS.sum(axis=(0, 1)), LEAST_GEV), np.zeros(len(event_S)))
    busy = np.arange(len(event_S))
    for iteration in range(MOST_ITERATIONS):
        if not len(busy):
            break
        old = _Clusters(found.offset_2S[:, busy], found.amplitude_S[busy], found.score_S)
        others_IJS = _from_others(found, crystal_S2, mine_G, other_G, tuning)[:, :, busy]
        new = _updated(old, cells_IJS[:, :, busy], others_IJS, tuning, fit=tuning.fitted and iteration > 0)
        found.offset_2S[:, busy], found.amplitude_S[busy], found.score_S[busy] = new.offset_2S, new.amplitude_S, new.score_S
        moved_S = np.abs(new.offset_2S - old.offset_2S).max(axis=0) > STABLE
        moved_S |= np.abs(new.amplitude_S - old.amplitude_S) > STABLE * old.amplitude_S
        unstable_E = np.zeros(len(cells_EXY), bool)
        unstable_E[event_S[busy[moved_S]]] = True
        busy = busy[unstable_E[event_S[busy]]]
        still_G = unstable_E[event_S[mine_G]]
        mine_G, other_G = mine_G[still_G], other_G[still_G]
    return found


def _expected(
    found: _Clusters, crystal_S2: NDArray[Any], pairs: tuple[NDArray[Any], NDArray[Any]], tuning: Tuning
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the energy (3, 3, S) in GeV expected in each seed's 3 × 3 from its own cluster, and from all."""
    (x_MIS, _), (y_MJS, _) = _profile(found.offset_2S, tuning.profile)
    mine_IJS = found.amplitude_S * _product(x_MIS, y_MJS)
    return mine_IJS, mine_IJS + _from_others(found, crystal_S2, *pairs, tuning)


def _from_others(
    found: _Clusters, crystal_S2: NDArray[Any], mine_G: NDArray[Any], other_G: NDArray[Any], tuning: Tuning
) -> NDArray[Any]:
    """Return the energy (3, 3, S) in GeV expected from the other clusters in each seed's 3 × 3."""
    others_IJS = np.zeros((3, 3, len(crystal_S2)))
    if len(mine_G):
        displaced_2G = (crystal_S2[other_G] - crystal_S2[mine_G]).T + found.offset_2S[:, other_G]
        (x_MIG, _), (y_MJG, _) = _profile(displaced_2G, tuning.profile)
        left_IJG = found.amplitude_S[other_G] * _product(x_MIG, y_MJG)
        for x, y in np.ndindex(3, 3):
            others_IJS[x, y] = np.bincount(mine_G, left_IJG[x, y], minlength=len(crystal_S2))
    return others_IJS


def _updated(old: _Clusters, cells_IJS: NDArray[Any], others_IJS: NDArray[Any], tuning: Tuning, *, fit: bool) -> _Clusters:
    """Return clusters re-estimated from their part of the crystals.

    With expected energies m of this cluster and t of all, variance σ² and net energy e of a crystal, the cluster gets
    e m / t = m + (m / t) (e − t) of the variance (m / t) σ²; a Gauss-Newton step for amplitude and offset follows from that.
    """
    (x_MIS, slope_x), (y_MJS, slope_y) = _profile(old.offset_2S, tuning.profile)
    share_IJS = _product(x_MIS, y_MJS)
    mine_IJS = old.amplitude_S * share_IJS
    all_IJS = mine_IJS + others_IJS
    net_IJS = cells_IJS - _bias(all_IJS)
    weight_IJS = 1 / _noise_variance(all_IJS)
    score_S = old.amplitude_S * np.sqrt((share_IJS**2 * weight_IJS).sum(axis=(0, 1)))
    if not fit:
        amplitude_S = (mine_IJS * net_IJS * weight_IJS).sum(axis=(0, 1)) / (all_IJS * share_IJS * weight_IJS).sum(axis=(0, 1))
        amplitude_S = np.maximum(amplitude_S, LEAST_GEV)
        offset_2S = _logarithmic(net_IJS * mine_IJS / all_IJS, amplitude_S, tuning)
        return _Clusters(_offset(offset_2S, amplitude_S, tuning.log_curve), amplitude_S, score_S)
    slopes = share_IJS, old.amplitude_S * _product(slope_x, y_MJS), old.amplitude_S * _product(x_MIS, slope_y)
    pull_IJS = (net_IJS - all_IJS) * weight_IJS
    step_A, step_x, step_y = _step(slopes, pull_IJS, weight_IJS * all_IJS / np.maximum(mine_IJS, 1e-3 * all_IJS), old.offset_2S)
    amplitude_S = np.maximum(old.amplitude_S + np.maximum(step_A, -0.5 * old.amplitude_S), LEAST_GEV)
    step_2S = np.clip(np.stack([step_x, step_y]), -LONGEST_STEP, LONGEST_STEP)
    return _Clusters(np.clip(old.offset_2S + step_2S, -FARTHEST, FARTHEST), amplitude_S, score_S)


def _step(
    slopes: tuple[NDArray[Any], NDArray[Any], NDArray[Any]],
    pull_IJS: NDArray[Any],
    weight_IJS: NDArray[Any],
    offset_2S: NDArray[Any],
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Solve the normal equations of amplitude, x and y by elimination; the impact point is as likely anywhere in its crystal."""
    weighted = [slope * weight_IJS for slope in slopes]
    (aa, ax, ay), (_, xx, xy), (_, _, yy) = [[(left * right).sum(axis=(0, 1)) for right in slopes] for left in weighted]
    to_a, to_x, to_y = ((slope * pull_IJS).sum(axis=(0, 1)) for slope in slopes)
    xx, to_x = xx + 1 / SPREAD - ax * ax / aa, to_x - offset_2S[0] / SPREAD - ax * to_a / aa
    yy, to_y = yy + 1 / SPREAD - ay * ay / aa, to_y - offset_2S[1] / SPREAD - ay * to_a / aa
    xy = xy - ax * ay / aa
    determinant = xx * yy - xy * xy
    step_x, step_y = (yy * to_x - xy * to_y) / determinant, (xx * to_y - xy * to_x) / determinant
    return (to_a - ax * step_x - ay * step_y) / aa, step_x, step_y


def _logarithmic(energy_IJS: NDArray[Any], amplitude_S: NDArray[Any], tuning: Tuning) -> NDArray[Any]:
    """Return offsets (2, S) with the weights max(0, ln(E / cut)); 0 where no crystal is above its cut."""
    cut_S = np.maximum(amplitude_S * np.exp(-tuning.log_weight), tuning.crystal_gev)
    weight_IJS = np.log(np.maximum(energy_IJS / cut_S, 1))
    x_S = (weight_IJS[2] - weight_IJS[0]).sum(axis=0)
    y_S = (weight_IJS[:, 2] - weight_IJS[:, 0]).sum(axis=0)
    return np.asarray(np.stack([x_S, y_S]) / np.maximum(weight_IJS.sum(axis=(0, 1)), 1e-9))


def _powers(energy_S: NDArray[Any]) -> NDArray[Any]:
    """Return powers 0 to 3 (S, 4) of ln(energy / 10 GeV), constant outside 0.5 to 150 GeV so that no polynomial runs away."""
    return np.vander(np.log(np.clip(energy_S, 0.5, 150) / 10), 4, increasing=True)


def _offset_terms(offset_S: NDArray[Any]) -> NDArray[Any]:
    """Return u, sin 2πu, sin 4πu and sin 6πu (S, 4)."""
    sine_S, cosine_S = np.sin(2 * np.pi * offset_S), np.cos(2 * np.pi * offset_S)
    return np.stack([offset_S, sine_S, 2 * sine_S * cosine_S, sine_S * (3 - 4 * sine_S**2)], axis=1)


def _offset(offset_2S: NDArray[Any], energy_S: NDArray[Any], curve: tuple[tuple[float, ...], ...]) -> NDArray[Any]:
    """Return offsets (2, S) freed of their bias inside the crystal."""
    curve_SK = _powers(energy_S) @ np.transpose(curve)
    along = [(_offset_terms(offset_S) * curve_SK).sum(axis=1) for offset_S in offset_2S]
    return np.asarray(np.clip(np.stack(along), -FARTHEST, FARTHEST))


def _response_terms(offset_2S: NDArray[Any]) -> NDArray[Any]:
    """Return 1, cos 2πu + cos 2πv and cos 2πu cos 2πv (S, 3)."""
    x_S, y_S = np.cos(2 * np.pi * offset_2S)
    return np.stack([np.ones_like(x_S), x_S + y_S, x_S * y_S], axis=1)


def _calibrated(found: _Clusters, crystal_S2: NDArray[Any], tuning: Tuning) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return positions (S, 2) and energies (S,) of clusters around these crystals."""
    offset_2S = found.offset_2S
    if tuning.fitted:
        offset_2S = _offset(offset_2S, found.amplitude_S, tuning.fit_curve)
    energy_S, terms_SK = found.amplitude_S, _response_terms(found.offset_2S)
    for _ in range(3):  # the response is known against the true energy and nearly constant
        energy_S = found.amplitude_S / (terms_SK * (_powers(energy_S) @ np.transpose(tuning.response))).sum(axis=1)
    return crystal_S2 + 0.5 + offset_2S.T, energy_S


@dataclass(frozen=True)
class Sample:
    """Seeds of single photons with their truth."""

    cells_EXY: NDArray[Any]
    event_S: NDArray[Any]
    crystal_S2: NDArray[Any]
    offset_S2: NDArray[Any]
    """(S, 2) impact point from the centre of the seed crystal."""
    energy_S: NDArray[Any]


def tune(library: ShowerLibrary, n_events: int, seed: int, *, fitted: bool = True) -> Tuning:
    """Find every constant with `n_events` events of the training showers; equal arguments give equal results.

    Profile: least squares. Logarithmic positions: narrowest for single photons. Curves and response: least squares on the
    same photons. Thresholds of seeds, and what makes a hidden one: highest `quality`. Without `fitted` the clustering is
    that of particle flow: positions are logarithmic, and seeds are local maxima only.
    """
    rows = events.split_rows(len(library), "train")
    composed = photons.compose(library, rows, n_events, np.random.default_rng(seed))
    sample, part = single_photons(composed), first_events(composed, THRESHOLD_EVENTS)
    start = Tuning(_fitted_profile(library, rows), 4.0, 0.3, IDENTITY, IDENTITY, IDENTITY[:3], fitted=False)

    def logarithmic(values: NDArray[Any]) -> Tuning:
        return with_curve(replace(start, log_weight=float(values[0]), crystal_gev=float(values[1])), sample)

    def selecting(values: NDArray[Any]) -> Tuning:
        return replace(tuning, **dict(zip(("best_score", "hidden_sigma", "fluctuation"), values.tolist(), strict=False)))

    def loss(values: NDArray[Any]) -> float:
        return -quality(reconstruct(part.crystals.cells_EXY, selecting(values)), part, values[0])

    tuning = logarithmic(_lowest(lambda v: position_width(logarithmic(v), sample), (4.0, 0.3), (0.4, 0.08)))
    if not fitted:
        return selecting(_lowest(loss, (4.2,), (0.2,)))
    tuning = with_curve(replace(tuning, fitted=True), sample)
    return selecting(_lowest(loss, (4.2, 3.0, 0.03), (0.2, 0.4, 0.01)))


def first_events(composed: PhotonEvents, n_events: int) -> PhotonEvents:
    """Return the first so many events."""
    all_of = composed.crystals
    parts = (all_of.cells_EXY, all_of.impact_EP2, all_of.energy_EP, all_of.shower_EP)
    return PhotonEvents(CrystalEvents(*(part[:n_events] for part in parts)), composed.kind_E[:n_events])


def quality(found: Photons, composed: PhotonEvents, threshold: float) -> float:
    """Return 2 F / (T + R) of T true and R photons reconstructed with scores of at least a threshold (the F₁ score).

    F of them belong together: each is the other's nearest, within one crystal.
    """
    event_N, position_N2 = (values[found.score_N >= threshold] for values in (found.event_N, found.position_N2))
    impact_PE2 = composed.crystals.impact_EP2.swapaxes(0, 1)
    distance_PN = np.hypot(*(position_N2 - impact_PE2[:, event_N]).transpose(2, 0, 1))
    distance_PN = np.where(distance_PN <= MATCH, distance_PN, np.inf)
    nearest_PE = np.full(impact_PE2.shape[:2], np.inf)
    for nearest_E, distance_N in zip(nearest_PE, distance_PN, strict=True):
        np.minimum.at(nearest_E, event_N, distance_N)
    together_PN = (distance_PN == nearest_PE[:, event_N]) & (distance_PN == distance_PN.min(axis=0)) & np.isfinite(distance_PN)
    true = np.isfinite(composed.crystals.energy_EP).sum()
    return float(2 * together_PN.any(axis=0).sum() / max(true + len(event_N), 1))


def single_photons(composed: PhotonEvents) -> Sample:
    """Return the local maxima nearest to single photons, as far as they are no more than one crystal away."""
    chosen_E = np.flatnonzero(composed.kind_E == photons.ONE)
    cells_EXY = composed.crystals.cells_EXY[chosen_E]
    event_S, crystal_S2 = seeds(cells_EXY, events.SEED_THRESHOLD_GEV)
    offset_S2 = composed.crystals.impact_EP2[chosen_E[event_S], 0] - crystal_S2 - 0.5
    distance_S = np.hypot(*offset_S2.T)
    nearest_E = np.full(len(chosen_E), np.inf)
    np.minimum.at(nearest_E, event_S, distance_S)
    taken_S = (distance_S == nearest_E[event_S]) & (distance_S <= MATCH)
    energy_S = composed.crystals.energy_EP[chosen_E[event_S], 0]
    return Sample(cells_EXY, event_S[taken_S], crystal_S2[taken_S], offset_S2[taken_S], energy_S[taken_S])


def _least_squares(
    terms_NK: NDArray[Any], energy_N: NDArray[Any], wanted_N: NDArray[Any], weight_N: NDArray[Any]
) -> tuple[tuple[float, ...], ...]:
    """Return the coefficients of terms × powers of the logarithmic energy that come nearest to the wanted values."""
    powers_NP = _powers(energy_N)
    flat = (terms_NK[:, :, None] * powers_NP[:, None]).reshape(len(wanted_N), -1)
    found = np.linalg.lstsq(flat * weight_N[:, None], wanted_N * weight_N, rcond=None)[0]
    return tuple(tuple(float(f"{c:.5g}") for c in row) for row in found.reshape(terms_NK.shape[1], -1))


def with_curve(tuning: Tuning, sample: Sample) -> Tuning:
    """Return a tuning with the offset curve of its way to positions, and the response, from photons."""
    weight_S = np.sqrt(sample.energy_S)
    if not tuning.fitted:
        tuning = replace(tuning, log_curve=IDENTITY)
    found = _clusters(sample.cells_EXY, sample.event_S, sample.crystal_S2, tuning)
    terms_SK = np.concatenate([_offset_terms(offset_S) for offset_S in found.offset_2S])
    curve = _least_squares(terms_SK, np.tile(found.amplitude_S, 2), sample.offset_S2.T.ravel(), np.tile(weight_S, 2))
    if tuning.fitted:
        tuning = replace(tuning, fit_curve=curve)
    else:
        tuning = replace(tuning, log_curve=curve)
        found = _clusters(sample.cells_EXY, sample.event_S, sample.crystal_S2, tuning)
    response_S = found.amplitude_S / sample.energy_S
    response = _least_squares(_response_terms(found.offset_2S), sample.energy_S, response_S, weight_S)
    return replace(tuning, response=response)


def widths(errors_N: NDArray[Any], energy_N: NDArray[Any]) -> NDArray[Any]:
    """Return half the central 68 % of the errors (B,) in the bins of true energy, NaN for empty bins."""
    bin_N = np.digitize(energy_N, ENERGY_BINS_GEV) - 1
    found = np.full(len(ENERGY_BINS_GEV) - 1, np.nan)
    for number in np.unique(bin_N[(bin_N >= 0) & (bin_N < len(found))]):
        low, high = np.quantile(errors_N[bin_N == number], (0.16, 0.84))
        found[number] = (high - low) / 2
    return found


def position_width(tuning: Tuning, sample: Sample) -> float:
    """Return the geometric mean over the energy bins of the width of positions, in crystals."""
    position_S2, _ = shared(sample.cells_EXY, sample.event_S, sample.crystal_S2, tuning)
    errors_S2 = position_S2 - sample.crystal_S2 - 0.5 - sample.offset_S2
    return float(np.exp(np.nanmean(np.log(widths(errors_S2.ravel(), np.repeat(sample.energy_S, 2))))))


def _lowest(objective: Callable[[NDArray[Any]], float], start: tuple[float, ...], steps: tuple[float, ...]) -> NDArray[Any]:
    """Return where the objective is lowest: one value at a time is moved by its step, until quarter steps help no more."""
    best, step = np.array(start), np.array(steps)
    value = objective(best)
    for fraction in (1.0, 0.5, 0.25):
        moved = True
        while moved:
            moved = False
            for number in range(len(best)):
                for sign in (1, -1):
                    trial = best.copy()
                    trial[number] = round(trial[number] + sign * fraction * step[number], 6)
                    if (now := objective(trial)) < value:
                        best, value, moved = trial, now, True
    return best


def _fitted_profile(library: ShowerLibrary, rows: NDArray[Any]) -> tuple[tuple[float, float], ...]:
    """Return (share, width) of three terms that come nearest to the showers' shares of energy per crystal."""
    rows = rows[:PROFILE_SHOWERS]
    side, middle = PBWO4.cells_per_side, PBWO4.cells_per_side // 2
    inner = slice(middle - MARGIN, middle + MARGIN + 1)
    shares_SIJ = library.cells_mev[rows].reshape(-1, side, side)[:, inner, inner] / library.energies_mev[rows, None, None]
    shares = shares_SIJ.transpose(1, 2, 0)
    # Crystals of 1 % and less count alike.
    weight = 1 / np.sqrt(np.broadcast_to(shares.mean(axis=2, keepdims=True) + 0.01, shares.shape).ravel())
    offset_2S = (events.inside(library, rows) - 0.5).T

    def terms(log_width: NDArray[Any]) -> NDArray[Any]:
        each = [_product(*(part[0] for part in _profile(offset_2S, ((1.0, width),), MARGIN))) for width in np.exp(log_width)]
        return np.stack([one.ravel() for one in each], axis=1)

    def solved(log_width: NDArray[Any]) -> NDArray[Any]:
        weighted = terms(log_width) * weight[:, None]
        return np.asarray(np.linalg.solve(weighted.T @ weighted, weighted.T @ (shares.ravel() * weight)))

    def distance(log_width: NDArray[Any]) -> float:
        return float(np.square((terms(log_width) @ solved(log_width) - shares.ravel()) * weight).mean())

    log_width = _lowest(distance, tuple(np.log([0.03, 0.15, 0.55])), (0.2, 0.2, 0.2))
    return tuple((float(f"{s:.4g}"), float(f"{w:.4g}")) for s, w in zip(solved(log_width), np.exp(log_width), strict=True))
