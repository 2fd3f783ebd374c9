"""Classical photon clustering: local maxima as seeds, crystals shared between them, positions and energies by shower profile.

As in CMS particle flow (JINST 12 (2017) P10003) a crystal's energy is shared between clusters in proportion to
what each is expected to leave there, which `cluster_model` says. Alternating between sharing and re-estimation
is expectation maximisation (Feder and Weinstein, IEEE Trans. ASSP 36 (1988) 477), so overlapping showers converge to their
joint most likely positions and amplitudes. Lengths are in crystals, energies in GeV.
Photons that hit next to a stronger one are no local maximum; they show as an excess over what the clusters explain.
The constants, a `ClusterTuning`, are found by `cluster_tuning`.
Axes: E event, N reconstructed photon, X and Y crystal, S seed or cluster, H seed that another hides, G pair of seeds, I and J
crystal of a seed's 3 × 3 along x and y, M term of the profile, K coefficient.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals.events import MARGIN
from caloedge.detector.crystals.photon_events import Photons
from caloedge.errors import BadData
from caloedge.reconstruction.cluster_model import bias, noise_variance, offset_terms, powers, product, profile, response_terms

MOST_ITERATIONS = 50
STABLE = 1e-3
"""A cluster is stable when it moves by less than this many crystals and its energy changes by less than this share."""
LEAST_GEV = 0.05
"""Smallest amplitude: a cluster whose crystals all belong to its neighbours."""
FARTHEST = 1.0
"""Largest distance of a cluster from the centre of its seed crystal, along each axis."""
SPREAD = 1 / 12
"""Variance of an impact point in its crystal: what is known of a position before its crystals are looked at."""
NEIGHBOURS = tuple((x, y) for x in (-1, 0, 1) for y in (-1, 0, 1) if (x, y) != (0, 0))
REACH = 5
"""Largest distance, in crystals along x and y, of clusters that share energy."""
LONGEST_STEP = 0.2
"""Largest step of a position in one iteration, along each axis, in crystals."""
IDENTITY = ((1.0, 0.0, 0.0, 0.0), *((0.0,) * 4,) * 3)
"""The curve that leaves offsets as they are."""
BATCH = 2048
"""Events that are clustered at a time, so that the surroundings fit in memory."""


@dataclass(frozen=True)
class ClusterTuning:
    """Every constant of the clustering; `cluster_tuning.tune` finds all but the threshold of seeds."""

    profile: tuple[tuple[float, float], ...]
    """(share of the energy, width) of each term of the lateral profile; the shares add up to what the terms contain."""
    log_weight: float
    """w₀: in logarithmic positions crystals below e^−w₀ of the cluster get no weight (Awes et al., NIM A 311 (1992) 130)."""
    crystal_gev: float
    """Energy below which crystals get no weight in logarithmic positions, either."""
    log_curve: tuple[tuple[float, ...], ...]
    """True offset from the seed's centre against the logarithmic one: coefficients of `offset_terms` × `powers`."""
    fit_curve: tuple[tuple[float, ...], ...]
    """The same as `log_curve`, against the fitted offset."""
    response: tuple[tuple[float, ...], ...]
    """Amplitude over true energy against energy and offset: coefficients of `response_terms` × `powers`."""
    hidden_sigma: float = np.inf
    """Excess over all clusters, in standard deviations, that makes a cluster's neighbouring crystal a seed too."""
    fluctuation: float = 0.0
    """Spread, in that excess, of a crystal's energy about the profile, relative to √(crystal's × cluster's energy)."""
    best_score: float = 0.0
    """Threshold on scores of the highest `cluster_tuning.quality`; only clusters above it can hide another.

    `reconstruct` does not apply it."""
    seed_gev: float = 0.6
    """Lowest energy of a seed: 3.6 times the electronic noise, so about one event in three has a false one."""
    fitted: bool = True
    """Whether the profile is fitted to the shared crystals; else positions are logarithmic, as in particle flow."""


TUNING = ClusterTuning(
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
"""Result of `cluster_tuning.tune(library, 12_000, seed=1)` with the shipped library `pbwo4_gamma`."""
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
class Clusters:
    """Clusters before calibration."""

    offset_2S: NDArray[Any]
    """(2, S) offset from the centre of the seed crystal, in crystals."""
    amplitude_S: NDArray[Any]
    """(S,) amplitude in GeV."""
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
    cells_EXY: NDArray[Any], event_S: NDArray[Any], crystal_S2: NDArray[Any], tuning: ClusterTuning
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return positions (S, 2) and energies (S,) of clusters around given seed crystals, in the order of their events.

    An event's clusters do not depend on other events. Raises `BadData` for seeds that are not sorted by event, of no event
    or too near the border.
    """
    _check_seeds(cells_EXY, event_S, crystal_S2)
    return _calibrated(converged(cells_EXY, event_S, crystal_S2, tuning), crystal_S2, tuning)


def reconstruct(cells_EXY: NDArray[Any], tuning: ClusterTuning) -> Photons:
    """Find the photons of events (E, X, Y) in GeV, all that have a seed; a threshold on their scores is the caller's choice.

    The score is the significance: a cluster's amplitude over its uncertainty. In the order (event, x, y) of the seeds.
    """
    batches = [_reconstruct(cells_EXY[first : first + BATCH], first, tuning) for first in range(0, max(len(cells_EXY), 1), BATCH)]
    parts = ((batch.event_N, batch.position_N2, batch.energy_N, batch.score_N) for batch in batches)
    return Photons(*(np.concatenate(part) for part in zip(*parts, strict=True)))


def _reconstruct(cells_EXY: NDArray[Any], first_event: int, tuning: ClusterTuning) -> Photons:
    """Reconstruct one batch of events: local maxima alone, then with hidden seeds, of two guesses the one that fits better."""
    event_S, crystal_S2 = seeds(cells_EXY, tuning.seed_gev)
    initial = converged(cells_EXY, event_S, crystal_S2, tuning)
    guesses = _hidden(cells_EXY, event_S, crystal_S2, initial, tuning)
    changed_E = np.zeros(len(cells_EXY), bool)
    for event_H, _ in guesses:
        changed_E[event_H] = True
    changed_S = changed_E[event_S]
    parts = [(event_S, crystal_S2, initial)]
    misfit_E = [np.where(changed_E, np.inf, -np.inf)]
    for event_H, crystal_H2 in guesses if changed_E.any() else ():
        event, crystal = np.append(event_S[changed_S], event_H), np.append(crystal_S2[changed_S], crystal_H2, axis=0)
        order = np.lexsort((*crystal.T[::-1], event))
        refitted = converged(cells_EXY, event[order], crystal[order], tuning)
        parts.append((event[order], crystal[order], refitted))
        is_maximum = order < changed_S.sum()
        misfit_E.append(np.bincount(event[order], is_maximum * _misfit(cells_EXY, *parts[-1], tuning), minlength=len(cells_EXY)))
    best_E = np.argmin(misfit_E, axis=0)
    chosen = [best_E[event] == number for number, (event, _, _) in enumerate(parts)]
    event_N = np.concatenate([event[mask] for (event, _, _), mask in zip(parts, chosen, strict=True)])
    results = [(*_calibrated(clusters, crystal, tuning), clusters.score_S) for _, crystal, clusters in parts]
    order = np.argsort(event_N, kind="stable")
    values = (
        np.concatenate([value[mask] for value, mask in zip(column, chosen, strict=True)])[order]
        for column in zip(*results, strict=True)
    )
    return Photons(event_N[order] + first_event, *values)


def _excess(
    cells_EXY: NDArray[Any], event_S: NDArray[Any], crystal_S2: NDArray[Any], clusters: Clusters, tuning: ClusterTuning
) -> NDArray[Any]:
    """Return by how many standard deviations the 3 × 3 (3, 3, S) around seeds exceed what the clusters explain."""
    own_IJS, all_IJS = _expected(clusters, crystal_S2, _pairs(event_S, crystal_S2), tuning)
    variance_IJS = noise_variance(all_IJS) + tuning.fluctuation**2 * clusters.amplitude_S * own_IJS
    return np.asarray((_surroundings(cells_EXY, event_S, crystal_S2) - bias(all_IJS) - all_IJS) / np.sqrt(variance_IJS))


def _misfit(
    cells_EXY: NDArray[Any], event_S: NDArray[Any], crystal_S2: NDArray[Any], clusters: Clusters, tuning: ClusterTuning
) -> NDArray[Any]:
    """Return χ² (S,) of the 3 × 3 around seeds."""
    return np.asarray((_excess(cells_EXY, event_S, crystal_S2, clusters, tuning) ** 2).sum(axis=(0, 1)))


def _hidden(
    cells_EXY: NDArray[Any], event_S: NDArray[Any], crystal_S2: NDArray[Any], clusters: Clusters, tuning: ClusterTuning
) -> list[tuple[NDArray[Any], NDArray[Any]]]:
    """Return two guesses, event (H,) and crystal (H, 2) each, at photons that are no local maximum.

    A cluster hides one if a neighbour of its seed exceeds the expectation by `hidden_sigma` or more. Its seed is the
    neighbour with the highest excess or, because the cluster may have moved between the two photons, with most energy.
    """
    excess_IJS = _excess(cells_EXY, event_S, crystal_S2, clusters, tuning)
    cells_IJS = _surroundings(cells_EXY, event_S, crystal_S2)
    excess_IJS[1, 1] = cells_IJS[1, 1] = -np.inf
    hides_S = (excess_IJS.max(axis=(0, 1)) >= tuning.hidden_sigma) & (clusters.score_S >= tuning.best_score)
    guesses = []
    for value_IJS in (excess_IJS, cells_IJS):
        best_S = value_IJS.reshape(9, -1).argmax(axis=0)
        crystal_H2 = crystal_S2 + np.stack([best_S // 3, best_S % 3], axis=1) - 1
        new_S = hides_S & ((crystal_H2 >= MARGIN) & (crystal_H2 < np.array(cells_EXY.shape[1:]) - MARGIN)).all(axis=1)
        place_S, place_H = (
            np.ravel_multi_index((event_S, *crystals.T), cells_EXY.shape) for crystals in (crystal_S2, crystal_H2)
        )
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


def _pairs(event_S: NDArray[Any], crystal_S2: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return all ordered pairs (G,), (G,) of seeds of one event that are no more than `REACH` crystals apart along x and y."""
    first, second = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    most = np.bincount(event_S).max() if len(event_S) else 0
    for lag in range(1, most):
        near = (event_S[lag:] == event_S[:-lag]) & (np.abs(crystal_S2[lag:] - crystal_S2[:-lag]) <= REACH).all(axis=1)
        index = np.flatnonzero(near)
        first += [index, index + lag]
        second += [index + lag, index]
    return np.concatenate(first), np.concatenate(second)


def _surroundings(cells_EXY: NDArray[Any], event_S: NDArray[Any], crystal_S2: NDArray[Any]) -> NDArray[Any]:
    """Return the crystals (3, 3, S) around seeds."""
    near = np.arange(-1, 2)
    x_IJS, y_IJS = crystal_S2[:, 0] + near[:, None, None], crystal_S2[:, 1] + near[:, None]
    return np.asarray(cells_EXY[event_S, x_IJS, y_IJS], np.float64)


def converged(cells_EXY: NDArray[Any], event_S: NDArray[Any], crystal_S2: NDArray[Any], tuning: ClusterTuning) -> Clusters:
    """Alternate between sharing crystals and re-estimating clusters until all of an event are stable."""
    cells_IJS = _surroundings(cells_EXY, event_S, crystal_S2)
    own_G, other_G = _pairs(event_S, crystal_S2)
    clusters = Clusters(np.zeros((2, len(event_S))), np.maximum(cells_IJS.sum(axis=(0, 1)), LEAST_GEV), np.zeros(len(event_S)))
    busy = np.arange(len(event_S))
    for iteration in range(MOST_ITERATIONS):
        if not len(busy):
            break
        old = Clusters(clusters.offset_2S[:, busy], clusters.amplitude_S[busy], clusters.score_S)
        others_IJS = _from_others(clusters, crystal_S2, own_G, other_G, tuning)[:, :, busy]
        new = _updated(old, cells_IJS[:, :, busy], others_IJS, tuning, fit=tuning.fitted and iteration > 0)
        clusters.offset_2S[:, busy], clusters.amplitude_S[busy], clusters.score_S[busy] = (
            new.offset_2S,
            new.amplitude_S,
            new.score_S,
        )
        moved_S = np.abs(new.offset_2S - old.offset_2S).max(axis=0) > STABLE
        moved_S |= np.abs(new.amplitude_S - old.amplitude_S) > STABLE * old.amplitude_S
        unstable_E = np.zeros(len(cells_EXY), bool)
        unstable_E[event_S[busy[moved_S]]] = True
        busy = busy[unstable_E[event_S[busy]]]
        still_G = unstable_E[event_S[own_G]]
        own_G, other_G = own_G[still_G], other_G[still_G]
    return clusters


def _expected(
    clusters: Clusters, crystal_S2: NDArray[Any], pairs: tuple[NDArray[Any], NDArray[Any]], tuning: ClusterTuning
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the energy (3, 3, S) in GeV expected in each seed's 3 × 3 from its own cluster, and from all."""
    (x_MIS, _), (y_MJS, _) = profile(clusters.offset_2S, tuning.profile)
    own_IJS = clusters.amplitude_S * product(x_MIS, y_MJS)
    return own_IJS, own_IJS + _from_others(clusters, crystal_S2, *pairs, tuning)


def _from_others(
    clusters: Clusters, crystal_S2: NDArray[Any], own_G: NDArray[Any], other_G: NDArray[Any], tuning: ClusterTuning
) -> NDArray[Any]:
    """Return the energy (3, 3, S) in GeV expected from the other clusters in each seed's 3 × 3."""
    others_IJS = np.zeros((3, 3, len(crystal_S2)))
    if len(own_G):
        displaced_2G = (crystal_S2[other_G] - crystal_S2[own_G]).T + clusters.offset_2S[:, other_G]
        (x_MIG, _), (y_MJG, _) = profile(displaced_2G, tuning.profile)
        left_IJG = clusters.amplitude_S[other_G] * product(x_MIG, y_MJG)
        for x, y in np.ndindex(3, 3):
            others_IJS[x, y] = np.bincount(own_G, left_IJG[x, y], minlength=len(crystal_S2))
    return others_IJS


def _updated(old: Clusters, cells_IJS: NDArray[Any], others_IJS: NDArray[Any], tuning: ClusterTuning, *, fit: bool) -> Clusters:
    """Return clusters re-estimated from their part of the crystals.

    With expected energies m of this cluster and t of all, variance σ² and net energy e of a crystal, the cluster gets
    e m / t = m + (m / t) (e − t) of the variance (m / t) σ²; a Gauss-Newton step for amplitude and offset follows from that.
    """
    (x_MIS, slope_x), (y_MJS, slope_y) = profile(old.offset_2S, tuning.profile)
    share_IJS = product(x_MIS, y_MJS)
    own_IJS = old.amplitude_S * share_IJS
    all_IJS = own_IJS + others_IJS
    net_IJS = cells_IJS - bias(all_IJS)
    weight_IJS = 1 / noise_variance(all_IJS)
    score_S = old.amplitude_S * np.sqrt((share_IJS**2 * weight_IJS).sum(axis=(0, 1)))
    if not fit:
        amplitude_S = (own_IJS * net_IJS * weight_IJS).sum(axis=(0, 1)) / (all_IJS * share_IJS * weight_IJS).sum(axis=(0, 1))
        amplitude_S = np.maximum(amplitude_S, LEAST_GEV)
        offset_2S = _logarithmic(net_IJS * own_IJS / all_IJS, amplitude_S, tuning)
        return Clusters(_offset(offset_2S, amplitude_S, tuning.log_curve), amplitude_S, score_S)
    slopes = share_IJS, old.amplitude_S * product(slope_x, y_MJS), old.amplitude_S * product(x_MIS, slope_y)
    pull_IJS = (net_IJS - all_IJS) * weight_IJS
    step_A, step_x, step_y = _step(slopes, pull_IJS, weight_IJS * all_IJS / np.maximum(own_IJS, 1e-3 * all_IJS), old.offset_2S)
    amplitude_S = np.maximum(old.amplitude_S + np.maximum(step_A, -0.5 * old.amplitude_S), LEAST_GEV)
    step_2S = np.clip(np.stack([step_x, step_y]), -LONGEST_STEP, LONGEST_STEP)
    return Clusters(np.clip(old.offset_2S + step_2S, -FARTHEST, FARTHEST), amplitude_S, score_S)


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


def _logarithmic(energy_IJS: NDArray[Any], amplitude_S: NDArray[Any], tuning: ClusterTuning) -> NDArray[Any]:
    """Return offsets (2, S) with the weights max(0, ln(E / threshold)); 0 where no crystal is above its threshold."""
    threshold_S = np.maximum(amplitude_S * np.exp(-tuning.log_weight), tuning.crystal_gev)
    weight_IJS = np.log(np.maximum(energy_IJS / threshold_S, 1))
    x_S = (weight_IJS[2] - weight_IJS[0]).sum(axis=0)
    y_S = (weight_IJS[:, 2] - weight_IJS[:, 0]).sum(axis=0)
    return np.asarray(np.stack([x_S, y_S]) / np.maximum(weight_IJS.sum(axis=(0, 1)), 1e-9))


def _offset(offset_2S: NDArray[Any], energy_S: NDArray[Any], curve: tuple[tuple[float, ...], ...]) -> NDArray[Any]:
    """Return offsets (2, S) freed of their bias inside the crystal."""
    curve_SK = powers(energy_S) @ np.transpose(curve)
    along = [(offset_terms(offset_S) * curve_SK).sum(axis=1) for offset_S in offset_2S]
    return np.asarray(np.clip(np.stack(along), -FARTHEST, FARTHEST))


def _calibrated(clusters: Clusters, crystal_S2: NDArray[Any], tuning: ClusterTuning) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return positions (S, 2) and energies (S,) of clusters around these crystals."""
    offset_2S = clusters.offset_2S
    if tuning.fitted:
        offset_2S = _offset(offset_2S, clusters.amplitude_S, tuning.fit_curve)
    energy_S, terms_SK = clusters.amplitude_S, response_terms(clusters.offset_2S)
    for _ in range(3):  # the response is known against the true energy and nearly constant
        energy_S = clusters.amplitude_S / (terms_SK * (powers(energy_S) @ np.transpose(tuning.response))).sum(axis=1)
    return crystal_S2 + 0.5 + offset_2S.T, energy_S
