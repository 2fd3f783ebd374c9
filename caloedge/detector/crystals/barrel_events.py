"""Events of one to six photons in the barrel of Belle II's calorimeter, with beam background.

Library showers are placed on the barrel's 46 × 144 crystals; half of the photons have another one within `CLOSE_CRYSTALS`, and
some of these pairs are decays π⁰ → γγ. Photons come along the crystal's axis. Noise, times and background imitate the
experiment's simulated files (arXiv 2605.10612): what is assumed stands in the constants here. Axes: E event, P photon, D deposit
in one crystal; x counts rings and y azimuth, in crystals.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.constants import PI0_MASS_GEV
from caloedge.detector.crystals.geometry import CSI
from caloedge.detector.crystals.hits import NOBODY, HitEvents, merge
from caloedge.detector.crystals.library import ShowerLibrary
from caloedge.detector.crystals.rings import BARREL_CRYSTALS, BARREL_RINGS, FORWARD_RINGS, CrystalRings, belle2

MOST_PHOTONS = 6
PAIR_SHARE, PION_SHARE = 0.6, 0.25
"""Of two photons, how often they are a close pair, and how often such a pair is a π⁰."""
CLOSE_CRYSTALS = (1.0, 10.0)
"""Distance of a close pair's photons that are no π⁰'s, log-uniform."""
PION_GEV = (0.3, 7.0)
"""Momentum of a π⁰, log-uniform."""
CANDIDATES = 16
"""Library showers of nearly the right energy tried for a π⁰'s second photon: places inside of crystals are fixed."""

CRYSTAL_GEV = 0.02
"""Read-out threshold of a crystal."""
LEAST_DEPOSIT_MEV = 0.3
"""Smaller deposits of a shower in a crystal are left out: below a twentieth of the threshold."""
ELECTRONIC_GEV, STOCHASTIC = 0.7e-3, 1e-3
"""Noise: a constant, and a term that grows as √(E / GeV)."""
TIME_NS_GEV, BEST_TIME_NS, WORST_TIME_NS = 0.6, 0.5, 40.0
"""Time resolution in nominal background: 0.6 ns GeV / E, within limits."""
TIME_FREEDOM = 3
"""Degrees of freedom of Student's t by which times scatter. This and `WIDENING` were read off the tails in three of the files on
which networks are evaluated, none of which a network is trained on."""
WIDENING = 3.0
"""By which the 0.6 ns GeV grow to high background, linear in its hits: what piles up disturbs the fit of the pulse."""
BACKGROUND = (((2, 40), 0.012), ((0, 6), 0.1))
"""Kinds of background hits: how many per event, uniform, from nominal to high background, and the mean of the exponential (GeV)
above the threshold of a crystal. The second kind is what reaches the threshold of a trigger cell."""
BACKGROUND_NS = 250.0
"""Background comes at any time from −250 to 250 ns."""


@dataclass(frozen=True)
class _Photons:
    """Library showers on crystals; rows of absent photons hold any values."""

    present_EP: NDArray[Any]
    shower_EP: NDArray[Any]
    crystal_EP2: NDArray[Any]
    inside_EP2: NDArray[Any]
    orientation_EP: NDArray[Any]


@cache
def calorimeter() -> CrystalRings:
    """Return the calorimeter, made once."""
    return belle2()


def compose(library: ShowerLibrary, rows: NDArray[Any], n_events: int, rng: np.random.Generator) -> HitEvents:
    """Compose events from the showers `rows` of a library of CsI crystals; the same arguments give the same events."""
    photons = _place(library, rows, n_events, rng)
    event_D, crystal_D, energy_D, object_D = _deposits(library, photons)
    event_B, energy_B, level_E = _background(n_events, rng)
    crystal_B = rng.integers(0, BARREL_RINGS * BARREL_CRYSTALS, len(event_B))
    time_D = np.concatenate([np.zeros(len(event_D)), rng.uniform(-BACKGROUND_NS, BACKGROUND_NS, len(event_B))])
    key_D = np.concatenate([event_D, event_B]) * (BARREL_RINGS * BARREL_CRYSTALS) + np.concatenate([crystal_D, crystal_B])
    deposit_D = np.concatenate([energy_D, energy_B])
    merged = merge(key_D, deposit_D, time_D, np.concatenate([object_D, np.full(len(event_B), NOBODY)]), deposit_D)
    energy_G = merged.energy_G + rng.standard_normal(len(merged.key_G)) * np.hypot(
        ELECTRONIC_GEV, STOCHASTIC * np.sqrt(merged.energy_G)
    )
    widening_G = 1 + (WIDENING - 1) * level_E[merged.key_G // (BARREL_RINGS * BARREL_CRYSTALS)]
    time_G = merged.time_G + rng.standard_t(TIME_FREEDOM, len(energy_G)) * time_spread(energy_G, widening_G)
    keep = energy_G >= CRYSTAL_GEV
    event_H, barrel_H = np.divmod(merged.key_G[keep], BARREL_RINGS * BARREL_CRYSTALS)
    cell_H = barrel_H + calorimeter().first_of_ring[FORWARD_RINGS]
    impact_EP2 = photons.crystal_EP2 + photons.inside_EP2
    position_EP3 = calorimeter().barrel_position(impact_EP2[..., 0], impact_EP2[..., 1])
    return HitEvents(
        n_events,
        event_H,
        cell_H,
        energy_G[keep],
        np.clip(time_G[keep], -BACKGROUND_NS, BACKGROUND_NS),
        calorimeter().position_C3[cell_H],
        merged.object_G[keep],
        merged.share_G[keep],
        np.where(photons.present_EP, library.energies_mev[photons.shower_EP] * 1e-3, np.nan),
        np.where(photons.present_EP[..., None], position_EP3, np.nan),
        np.where(photons.present_EP, photons.shower_EP, -1),
    )


def time_spread(energy_H: NDArray[Any], widening_H: NDArray[Any] | float = 1.0) -> NDArray[Any]:
    """Return the scale (H,) in ns by which the times of hits of these energies (GeV) scatter."""
    return np.asarray(np.clip(TIME_NS_GEV * widening_H / np.maximum(energy_H, CRYSTAL_GEV), BEST_TIME_NS, WORST_TIME_NS))


def _background(n_events: int, rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return events and energies (GeV) of background hits, and each event's level between nominal (0) and high (1) background."""
    event, energy, levels = [], [], []
    for (fewest, most), mean_gev in BACKGROUND:
        hits_E = rng.integers(fewest, most + 1, n_events)
        event.append(np.repeat(np.arange(n_events), hits_E))
        energy.append(CRYSTAL_GEV + rng.exponential(mean_gev, len(event[-1])))
        levels.append((hits_E - fewest) / (most - fewest))
    return np.concatenate(event), np.concatenate(energy), levels[0]


def _place(library: ShowerLibrary, rows: NDArray[Any], n_events: int, rng: np.random.Generator) -> _Photons:
    """Choose showers, their orientations and their crystals."""
    shape = (n_events, MOST_PHOTONS)
    present_EP = np.arange(MOST_PHOTONS) < rng.integers(1, MOST_PHOTONS + 1, n_events)[:, None]
    shower_EP = rng.choice(rows, shape)
    orientation_EP = rng.integers(0, 8, shape)
    crystal_EP2 = np.stack([rng.integers(0, BARREL_RINGS, shape), rng.integers(0, BARREL_CRYSTALS, shape)], axis=-1)
    event_N, pair_N = np.nonzero(present_EP[:, 1::2] & (rng.random((n_events, MOST_PHOTONS // 2)) < PAIR_SHARE))
    first_N, second_N = 2 * pair_N, 2 * pair_N + 1
    pion_N = rng.random(len(event_N)) < PION_SHARE
    distance_N = _log_uniform(CLOSE_CRYSTALS, len(event_N), rng)
    chosen = event_N[pion_N], first_N[pion_N], second_N[pion_N]
    energy_N2, angle_N = _pion_decays(library, rng, int(pion_N.sum()))
    shower_EP[chosen[0], chosen[1]] = _nearest_in_energy(library, rows, energy_N2[:, 0], 1)[:, 0]
    ring_N = crystal_EP2[chosen[0], chosen[1], 0] + FORWARD_RINGS
    seen = calorimeter().position_C3[calorimeter().first_of_ring[ring_N]]
    # A crystal of the barrel is seen from the collision point under 2.5° times the sine of its polar angle.
    distance_N[pion_N] = angle_N / (2 * np.pi / BARREL_CRYSTALS * np.hypot(*seen.T[:2]) / np.linalg.norm(seen, axis=1))
    inside_EP2 = _inside(library, shower_EP, orientation_EP)
    start_N2 = crystal_EP2[event_N, first_N] + inside_EP2[event_N, first_N]
    target_N2 = _at_distance(start_N2, distance_N, rng)
    candidates_NK = rng.choice(rows, (len(event_N), 1)).repeat(CANDIDATES, axis=1)
    candidates_NK[pion_N] = _nearest_in_energy(library, rows, energy_N2[:, 1], CANDIDATES)
    inside_NK2 = _inside(library, candidates_NK, orientation_EP[event_N, second_N, None])
    crystal_NK2 = np.rint(target_N2[:, None] - inside_NK2).astype(np.int64)
    best_N = np.square(crystal_NK2 + inside_NK2 - target_N2[:, None]).sum(axis=2).argmin(axis=1)
    row_N = np.arange(len(event_N))
    shower_EP[event_N, second_N] = candidates_NK[row_N, best_N]
    inside_EP2[event_N, second_N] = inside_NK2[row_N, best_N]
    crystal_EP2[event_N, second_N] = crystal_NK2[row_N, best_N]
    crystal_EP2[..., 0] = np.clip(crystal_EP2[..., 0], 0, BARREL_RINGS - 1)
    crystal_EP2[..., 1] %= BARREL_CRYSTALS
    return _Photons(present_EP, shower_EP, crystal_EP2, inside_EP2, orientation_EP)


def _log_uniform(limits: tuple[float, float], n: int, rng: np.random.Generator) -> NDArray[Any]:
    return np.exp(rng.uniform(np.log(limits[0]), np.log(limits[1]), n))


def _at_distance(start_N2: NDArray[Any], distance_N: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Return points at a distance in a random direction, or in the opposite one where that leaves the barrel."""
    angle_N = rng.uniform(0, 2 * np.pi, len(distance_N))
    step_N2 = distance_N[:, None] * np.stack([np.cos(angle_N), np.sin(angle_N)], axis=1)
    beyond_N = (start_N2[:, 0] + step_N2[:, 0] < 1) | (start_N2[:, 0] + step_N2[:, 0] > BARREL_RINGS - 1)
    return np.asarray(start_N2 + np.where(beyond_N[:, None], -step_N2, step_N2))


def _pion_decays(library: ShowerLibrary, rng: np.random.Generator, n: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the energies (N, 2) in GeV and the opening angle (N,) of isotropic decays whose photons the library can hold."""
    least, most = library.energies_mev.min() * 1e-3, library.energies_mev.max() * 1e-3
    momentum_N = _log_uniform(PION_GEV, n, rng)
    total_N = np.hypot(momentum_N, PI0_MASS_GEV)
    most_cosine_N = np.minimum((total_N - 2 * least) / momentum_N, 1)
    first_N = (total_N + momentum_N * rng.uniform(-most_cosine_N, most_cosine_N)) / 2
    energy_N2 = np.clip(np.stack([first_N, total_N - first_N], axis=1), least, most)
    return energy_N2, 2 * np.arcsin(np.minimum(PI0_MASS_GEV / (2 * np.sqrt(energy_N2.prod(axis=1))), 1))


def _nearest_in_energy(library: ShowerLibrary, rows: NDArray[Any], target_gev_N: NDArray[Any], n: int) -> NDArray[Any]:
    """Return the `n` showers (N, n) of `rows` around each target energy, in the order of energy."""
    ordered = rows[np.argsort(library.energies_mev[rows], kind="stable")]
    position_N = np.searchsorted(library.energies_mev[ordered], 1e3 * target_gev_N) - n // 2
    return np.asarray(ordered[np.clip(position_N, 0, len(rows) - n)[:, None] + np.arange(n)])


def _inside(library: ShowerLibrary, shower: NDArray[Any], orientation: NDArray[Any]) -> NDArray[Any]:
    """Return where in its crystal each photon hits (…, 2), in [0, 1)."""
    offset = np.clip(library.impact_mm[shower] / CSI.cell_mm, -0.5, 0.5 - 1e-6)
    return np.clip(_oriented(offset[..., 0], offset[..., 1], orientation) + 0.5, 0, 1 - 1e-6)


def _oriented(x: NDArray[Any], y: NDArray[Any], orientation: NDArray[Any]) -> NDArray[Any]:
    """Mirror and transpose points (…, 2) about the middle of the matrix: the eight symmetries of a square."""
    x, y = np.where(orientation & 1, -x, x), np.where(orientation & 2, -y, y)
    return np.where((orientation & 4 > 0)[..., None], np.stack([y, x], axis=-1), np.stack([x, y], axis=-1))


def _deposits(library: ShowerLibrary, photons: _Photons) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return event, barrel crystal, energy (GeV) and photon of each deposit; what falls beside the barrel is lost."""
    event_N, photon_N = np.nonzero(photons.present_EP)
    cells_NC = library.cells_mev[photons.shower_EP[event_N, photon_N]]
    shower_D, cell_D = np.nonzero(cells_NC > LEAST_DEPOSIT_MEV)
    side = CSI.cells_per_side
    x_D, y_D = np.divmod(cell_D, side)
    orientation_D = photons.orientation_EP[event_N, photon_N][shower_D]
    step_D2 = _oriented(x_D - side // 2, y_D - side // 2, orientation_D)
    crystal_D2 = photons.crystal_EP2[event_N, photon_N][shower_D] + step_D2
    on = (crystal_D2[:, 0] >= 0) & (crystal_D2[:, 0] < BARREL_RINGS)
    crystal_D = crystal_D2[:, 0] * BARREL_CRYSTALS + crystal_D2[:, 1] % BARREL_CRYSTALS
    energy_D = cells_NC[shower_D, cell_D].astype(np.float64) * 1e-3
    return event_N[shower_D][on], crystal_D[on], energy_D[on], photon_N[shower_D][on]
