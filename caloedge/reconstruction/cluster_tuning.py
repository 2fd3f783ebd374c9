"""Determine the constants of the clustering from showers: profile, curves, response and thresholds.

`clustering.TUNING` and `clustering.PARTICLE_FLOW` are the results for the shipped library; only another library needs others.
Lengths are in crystals, energies in GeV. Axes: E event, P true photon, N reconstructed photon or value, X and Y crystal, S seed,
I and J crystal along x and y, K coefficient, B energy bin.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals import events, photon_events
from caloedge.detector.crystals.events import MARGIN, CrystalEvents
from caloedge.detector.crystals.geometry import PBWO4
from caloedge.detector.crystals.library import ShowerLibrary
from caloedge.detector.crystals.photon_events import PhotonEvents, Photons
from caloedge.reconstruction.cluster_model import offset_terms, powers, product, profile, response_terms
from caloedge.reconstruction.clustering import IDENTITY, ClusterTuning, converged, reconstruct, seeds, shared

ENERGY_BINS_GEV = (1.0, 3.0, 10.0, 30.0, 100.0)
MATCH = 1.0
"""Largest distance, in crystals, of a photon from the seed crystal's centre or the cluster that is taken for it."""
PROFILE_SHOWERS = 3000
"""Number of showers that the profile is fitted to."""
THRESHOLD_EVENTS = 6000
"""Number of events that thresholds are tuned on."""


@dataclass(frozen=True)
class SeedSample:
    """Seeds of single photons with their truth."""

    cells_EXY: NDArray[Any]
    event_S: NDArray[Any]
    crystal_S2: NDArray[Any]
    offset_S2: NDArray[Any]
    """(S, 2) impact point from the centre of the seed crystal."""
    energy_S: NDArray[Any]


def tune(library: ShowerLibrary, n_events: int, seed: int, *, fitted: bool = True) -> ClusterTuning:
    """Find every constant with `n_events` events of the training showers; equal arguments give equal results.

    Profile: least squares. Logarithmic positions: narrowest for single photons. Curves and response: least squares on the
    same photons. Thresholds of seeds, and what makes a hidden one: highest `quality`. Without `fitted` the clustering is
    that of particle flow: positions are logarithmic, and seeds are local maxima only.
    """
    rows = events.split_rows(len(library), "train")
    composed = photon_events.compose(library, rows, n_events, np.random.default_rng(seed))
    sample, part = single_photons(composed), first_events(composed, THRESHOLD_EVENTS)
    start = ClusterTuning(_fitted_profile(library, rows), 4.0, 0.3, IDENTITY, IDENTITY, IDENTITY[:3], fitted=False)

    def logarithmic(values: NDArray[Any]) -> ClusterTuning:
        return with_curve(replace(start, log_weight=float(values[0]), crystal_gev=float(values[1])), sample)

    def selecting(values: NDArray[Any]) -> ClusterTuning:
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
    crystals = composed.crystals
    parts = (crystals.cells_EXY, crystals.impact_EP2, crystals.energy_EP, crystals.shower_EP)
    return PhotonEvents(CrystalEvents(*(part[:n_events] for part in parts)), composed.kind_E[:n_events])


def quality(photons: Photons, composed: PhotonEvents, threshold: float) -> float:
    """Return 2 F / (T + R) of T true and R photons reconstructed with scores of at least a threshold (the F₁ score).

    F of them belong together: each is the other's nearest, within one crystal.
    """
    event_N, position_N2 = (values[photons.score_N >= threshold] for values in (photons.event_N, photons.position_N2))
    impact_PE2 = composed.crystals.impact_EP2.swapaxes(0, 1)
    distance_PN = np.hypot(*(position_N2 - impact_PE2[:, event_N]).transpose(2, 0, 1))
    distance_PN = np.where(distance_PN <= MATCH, distance_PN, np.inf)
    nearest_PE = np.full(impact_PE2.shape[:2], np.inf)
    for nearest_E, distance_N in zip(nearest_PE, distance_PN, strict=True):
        np.minimum.at(nearest_E, event_N, distance_N)
    together_PN = (distance_PN == nearest_PE[:, event_N]) & (distance_PN == distance_PN.min(axis=0)) & np.isfinite(distance_PN)
    true = np.isfinite(composed.crystals.energy_EP).sum()
    return float(2 * together_PN.any(axis=0).sum() / max(true + len(event_N), 1))


def single_photons(composed: PhotonEvents) -> SeedSample:
    """Return the local maxima nearest to single photons, as far as they are no more than one crystal away."""
    chosen_E = np.flatnonzero(composed.kind_E == photon_events.ONE)
    cells_EXY = composed.crystals.cells_EXY[chosen_E]
    event_S, crystal_S2 = seeds(cells_EXY, events.SEED_THRESHOLD_GEV)
    offset_S2 = composed.crystals.impact_EP2[chosen_E[event_S], 0] - crystal_S2 - 0.5
    distance_S = np.hypot(*offset_S2.T)
    nearest_E = np.full(len(chosen_E), np.inf)
    np.minimum.at(nearest_E, event_S, distance_S)
    taken_S = (distance_S == nearest_E[event_S]) & (distance_S <= MATCH)
    energy_S = composed.crystals.energy_EP[chosen_E[event_S], 0]
    return SeedSample(cells_EXY, event_S[taken_S], crystal_S2[taken_S], offset_S2[taken_S], energy_S[taken_S])


def _least_squares(
    terms_NK: NDArray[Any], energy_N: NDArray[Any], target_N: NDArray[Any], weight_N: NDArray[Any]
) -> tuple[tuple[float, ...], ...]:
    """Return the coefficients of terms × powers of the logarithmic energy that come nearest to the target values."""
    powers_NP = powers(energy_N)
    flat = (terms_NK[:, :, None] * powers_NP[:, None]).reshape(len(target_N), -1)
    coefficients = np.linalg.lstsq(flat * weight_N[:, None], target_N * weight_N, rcond=None)[0]
    return tuple(tuple(float(f"{c:.5g}") for c in row) for row in coefficients.reshape(terms_NK.shape[1], -1))


def with_curve(tuning: ClusterTuning, sample: SeedSample) -> ClusterTuning:
    """Return a tuning with its offset curve, for fitted or logarithmic positions, and its response from single photons."""
    weight_S = np.sqrt(sample.energy_S)
    if not tuning.fitted:
        tuning = replace(tuning, log_curve=IDENTITY)
    clusters = converged(sample.cells_EXY, sample.event_S, sample.crystal_S2, tuning)
    terms_SK = np.concatenate([offset_terms(offset_S) for offset_S in clusters.offset_2S])
    curve = _least_squares(terms_SK, np.tile(clusters.amplitude_S, 2), sample.offset_S2.T.ravel(), np.tile(weight_S, 2))
    if tuning.fitted:
        tuning = replace(tuning, fit_curve=curve)
    else:
        tuning = replace(tuning, log_curve=curve)
        clusters = converged(sample.cells_EXY, sample.event_S, sample.crystal_S2, tuning)
    response_S = clusters.amplitude_S / sample.energy_S
    response = _least_squares(response_terms(clusters.offset_2S), sample.energy_S, response_S, weight_S)
    return replace(tuning, response=response)


def widths(errors_N: NDArray[Any], energy_N: NDArray[Any]) -> NDArray[Any]:
    """Return half the central 68 % of the errors (B,) in the bins of true energy, NaN for empty bins."""
    bin_N = np.digitize(energy_N, ENERGY_BINS_GEV) - 1
    widths_B = np.full(len(ENERGY_BINS_GEV) - 1, np.nan)
    for number in np.unique(bin_N[(bin_N >= 0) & (bin_N < len(widths_B))]):
        low, high = np.quantile(errors_N[bin_N == number], (0.16, 0.84))
        widths_B[number] = (high - low) / 2
    return widths_B


def position_width(tuning: ClusterTuning, sample: SeedSample) -> float:
    """Return the geometric mean over the energy bins of the width of positions, in crystals."""
    position_S2, _ = shared(sample.cells_EXY, sample.event_S, sample.crystal_S2, tuning)
    errors_S2 = position_S2 - sample.crystal_S2 - 0.5 - sample.offset_S2
    return float(np.exp(np.nanmean(np.log(widths(errors_S2.ravel(), np.repeat(sample.energy_S, 2))))))


def _lowest(objective: Callable[[NDArray[Any]], float], start: tuple[float, ...], steps: tuple[float, ...]) -> NDArray[Any]:
    """Return where the objective is lowest: one value at a time is moved by its step, until quarter steps help no more."""
    best, step = np.array(start), np.array(steps)
    value = objective(best)
    for fraction in (1.0, 0.5, 0.25):
        improved = True
        while improved:
            improved = False
            for number in range(len(best)):
                for sign in (1, -1):
                    trial = best.copy()
                    trial[number] = round(trial[number] + sign * fraction * step[number], 6)
                    if (trial_value := objective(trial)) < value:
                        best, value, improved = trial, trial_value, True
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
        shares_by_width = [
            product(*(part[0] for part in profile(offset_2S, ((1.0, width),), MARGIN))) for width in np.exp(log_width)
        ]
        return np.stack([share_IJS.ravel() for share_IJS in shares_by_width], axis=1)

    def coefficients(log_width: NDArray[Any]) -> NDArray[Any]:
        weighted = terms(log_width) * weight[:, None]
        return np.asarray(np.linalg.solve(weighted.T @ weighted, weighted.T @ (shares.ravel() * weight)))

    def distance(log_width: NDArray[Any]) -> float:
        return float(np.square((terms(log_width) @ coefficients(log_width) - shares.ravel()) * weight).mean())

    log_width = _lowest(distance, tuple(np.log([0.03, 0.15, 0.55])), (0.2, 0.2, 0.2))
    return tuple((float(f"{s:.4g}"), float(f"{w:.4g}")) for s, w in zip(coefficients(log_width), np.exp(log_width), strict=True))
