"""Parametrised showers of photons and charged pions in the six layers, as spots of energy, and their sums in cells.

They are ours, and much simpler than Geant4's:

- photons: depth from a gamma distribution with the mean of PDG (sec. "Electromagnetic cascades") and the fluctuations of
  Grindhammer–Peters (hep-ex/0001020), whose two-component radius for homogeneous media is used in the average medium;
- π⁺: minimum ionising down to a start that is exponential in interaction lengths; then an electromagnetic part with the mean of
  Groom (NIM A 572 (2007) 633) and a spread of ours, and the rest, both with the depths of Bock (NIM 186 (1981) 533); the former
  has a photon's radius, the latter a halo of ours; the rest is seen with h/e of the ATLAS prototypes (hep-ex/0005029);
- sampling: energy comes in spots whose number and energy fluctuate so that σ/E is the layer's term over √E. That of the HCAL is
  taken for everything that is not electromagnetic, too.

Lengths are in mm from the centre of the face; x is along η, y along φ, z along the depth. Energies are in GeV at the scale of
electrons. Axes: E event, S shower, N spot.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.layers.geometry import (
    BEHIND_MM,
    ECAL,
    ECAL_MM,
    EDGES_MM,
    GUN_DISTANCE_MM,
    HCAL,
    INTERACTION_LENGTHS,
    LAYERS,
    PIXELS,
    RADIATION_LENGTHS,
    SIDE_MM,
)

ECAL_SPOT_GEV = ECAL.sampling**2
"""Energy of a spot in the ECAL, the same for all: their number is Poisson distributed."""
HCAL_SPOT_GEV = HCAL.sampling**2 / 2
"""Mean energy of a spot in the HCAL, exponentially distributed, which doubles the variance.

So no cell is a multiple of one energy, which would give hadrons away."""

PROFILE_B = 0.5
"""PDG's b for photons and electrons, per radiation length; the shower maximum is at ln(E / critical) + 0.5."""
MOST_TAU = 4.0
"""Depth over depth of the maximum above which the radius grows no more."""
GROOM_K, GROOM_GEV = 0.82, 1.0
EM_SPREAD = 0.35
"""Relative spread of the electromagnetic part, beta-distributed; ours."""
CORE_SPREAD = 0.25
"""Relative spread of its depth, log-normal; ours."""
HALO_INTERACTION_LENGTHS = 0.25
"""Radius that holds half of the halo; ours, so that nine tenths of a shower lie within one interaction length."""

_OFFSETS = np.cumsum([0, *(layer.phi_cells * layer.eta_cells for layer in LAYERS)])
"""Offsets of the layers in a row of all cells of an event."""


@dataclass(frozen=True)
class Spots:
    """Energy spots of many showers: offsets from their showers' axes."""

    shower_N: NDArray[Any]
    """(N,) number of the shower."""
    z_mm: NDArray[Any]
    """(N,) float32 depth below the face in mm."""
    offset_2N: NDArray[Any]
    """(2, N) float32 offsets in x and y from the shower's axis in mm."""
    energy_N: NDArray[Any]
    """(N,) float32 seen energy in GeV."""


def _slant(slope_S2: NDArray[Any]) -> NDArray[Any]:
    """Return dz along a unit of path."""
    return np.asarray(1 / np.sqrt(1 + (slope_S2**2).sum(axis=1)))


def photons(rng: np.random.Generator, energy_S: NDArray[Any], slope_S2: NDArray[Any]) -> Spots:
    """Return the spots of photons of energies (S,) and slopes dx/dz and dy/dz (S, 2) that start to shower at the face."""
    peak_S = _shower_maximum(energy_S)
    ln_y = np.log(np.maximum(energy_S, 2 * ECAL.critical_gev) / ECAL.critical_gev)
    # Spreads and correlation of ln T and ln α: hep-ex/0001020, section A.1; the means are PDG's.
    spread_t, spread_a = 1 / np.maximum(-1.4 + 1.26 * ln_y, 1.5), 1 / np.maximum(-0.58 + 0.86 * ln_y, 1.5)
    rho = np.clip(0.705 - 0.023 * ln_y, 0, 1)
    z1, z2 = rng.standard_normal((2, len(energy_S)))
    plus, minus = np.sqrt((1 + rho) / 2), np.sqrt((1 - rho) / 2)
    drawn_t = peak_S * np.exp(spread_t * (plus * z1 + minus * z2) - spread_t**2 / 2)
    mean_a = 1 + PROFILE_B * peak_S
    alpha_S = np.maximum(mean_a * np.exp(spread_a * (plus * z1 - minus * z2) - spread_a**2 / 2), 1.1)
    # A gamma distribution of shape α with its maximum at T.
    return _em_spots(rng, energy_S, np.zeros_like(energy_S), _slant(slope_S2), alpha_S, drawn_t / (alpha_S - 1), drawn_t)


def _shower_maximum(energy_S: NDArray[Any]) -> NDArray[Any]:
    """Return PDG's mean depth of the maximum in radiation lengths, at least 0.5."""
    return np.asarray(np.maximum(np.log(np.maximum(energy_S, 1e-6) / ECAL.critical_gev) + 0.5, 0.5))


def _em_spots(
    rng: np.random.Generator,
    energy_S: NDArray[Any],
    start_mm_S: NDArray[Any],
    slant_S: NDArray[Any],
    alpha_S: NDArray[Any],
    scale_S: NDArray[Any],
    peak_S: NDArray[Any],
) -> Spots:
    """Return electromagnetic spots: depths gamma-distributed from a start with `alpha_S` and `scale_S`.

    Scale and the maximum's depth `peak_S` are in radiation lengths.
    """
    shower_N = np.repeat(np.arange(len(energy_S)), rng.poisson(energy_S / ECAL_SPOT_GEV))
    n = len(shower_N)
    # Single precision halves the time; a spot's place is far better known than a cell is wide.
    depth_N = rng.standard_gamma(alpha_S.astype("f4")[shower_N], dtype=np.float32) * scale_S.astype("f4")[shower_N]
    start_S = np.interp(start_mm_S, EDGES_MM, RADIATION_LENGTHS)  # behind the last layer there is no energy left
    z_mm = _depth_mm(start_S.astype("f4")[shower_N] + depth_N * slant_S.astype("f4")[shower_N], RADIATION_LENGTHS)
    tau_N = np.minimum(depth_N / peak_S.astype("f4")[shower_N], np.float32(MOST_TAU))
    radius_N = _radius(rng, tau_N, np.log(np.maximum(energy_S, 0.05)).astype("f4")[shower_N])
    radius_N *= np.where(z_mm < ECAL_MM, np.float32(ECAL.moliere_mm), np.float32(HCAL.moliere_mm))
    energy_N = np.full(n, ECAL_SPOT_GEV, np.float32)
    behind = np.flatnonzero(z_mm >= ECAL_MM)
    # Fewer and larger spots behind the ECAL.
    selected = rng.random(len(behind)) < ECAL_SPOT_GEV / HCAL_SPOT_GEV
    energy_N[behind] = np.where(selected, rng.exponential(HCAL_SPOT_GEV, len(behind)), 0)
    return Spots(shower_N, z_mm, _around(rng, radius_N), energy_N)


def _depth_mm(lengths_N: NDArray[Any], borders: NDArray[Any]) -> NDArray[Any]:
    """Return depths in mm of depths in radiation or interaction lengths."""
    inside = (lengths_N * np.float32(ECAL_MM / borders[3])).astype(np.float32)
    deep = np.flatnonzero(lengths_N > borders[3])
    inside[deep] = np.interp(lengths_N[deep], borders, EDGES_MM, right=BEHIND_MM)
    return inside


def _radius(rng: np.random.Generator, tau_N: NDArray[Any], ln_e_N: NDArray[Any]) -> NDArray[Any]:
    """Draw radii in Molière radii at depths τ in units of the maximum's (hep-ex/0001020, sections 3.2 and A.1)."""
    z, f4 = ECAL.effective_z, np.float32
    core = f4(0.0251) + f4(0.00319) * ln_e_N + f4(0.1162 - 0.000381 * z) * tau_N
    past = tau_N - f4(0.645)
    tail = f4(0.659 - 0.00309 * z) * (np.exp(f4(-2.59) * past) + np.exp((f4(0.3585) + f4(0.0421) * ln_e_N) * past))
    w = (f4(0.401 + 0.00187 * z) - tau_N) / (f4(1.313) - f4(0.0686) * ln_e_N)
    in_core = rng.random(len(tau_N), np.float32) < f4(2.632 - 0.00094 * z) * np.exp(w - np.exp(w))
    return np.asarray(np.where(in_core, core, tail) * _within(rng, len(tau_N)))


def _within(rng: np.random.Generator, n: int) -> NDArray[Any]:
    """Draw radii from f(r) = 2 r / (r² + 1)²: half of them lie within 1."""
    u = rng.random(n, np.float32)
    return np.asarray(np.sqrt(u / (1 - u)))


def _around(rng: np.random.Generator, radius_N: NDArray[Any]) -> NDArray[Any]:
    """Return offsets (2, N) in x and y of given radii and random azimuths."""
    phi_N = rng.random(len(radius_N), np.float32) * np.float32(2 * np.pi)
    return np.stack([radius_N * np.cos(phi_N), radius_N * np.sin(phi_N)])


def hadrons(rng: np.random.Generator, energy_S: NDArray[Any], slope_S2: NDArray[Any]) -> Spots:
    """Return the spots of charged pions of energies (S,) and slopes dx/dz and dy/dz (S, 2) that enter at the face."""
    n, slant_S = len(energy_S), _slant(slope_S2)
    start_S = rng.exponential(1.0, n) * slant_S  # interaction lengths in z
    start_mm_S = np.interp(start_S, INTERACTION_LENGTHS, EDGES_MM, right=BEHIND_MM)
    within_mm = np.stack([np.minimum(start_mm_S, ECAL_MM), np.clip(start_mm_S, ECAL_MM, EDGES_MM[-1]) - ECAL_MM])
    ionised_2S = within_mm / slant_S * np.array([[ECAL.mip_gev_per_mm], [HCAL.mip_gev_per_mm]])
    showering_S = np.where(start_mm_S < EDGES_MM[-1], np.maximum(energy_S - ionised_2S.sum(axis=0), 0), 0)
    em_S = showering_S * _em_fraction(rng, energy_S)
    ln_e = np.log(energy_S)
    # Bock's shapes: radiation lengths for the electromagnetic part, interaction lengths for the rest, from the start.
    alpha_S, core_b, halo_b = 0.6165 + 0.3183 * ln_e, 0.2198, 0.9099 - 0.0237 * ln_e
    deeper_S = np.exp(CORE_SPREAD * rng.standard_normal(n) - CORE_SPREAD**2 / 2)
    parts = [
        _em_spots(rng, em_S, start_mm_S, slant_S, alpha_S, deeper_S / core_b, _shower_maximum(em_S)),
        _halo(rng, showering_S - em_S, start_S, slant_S, alpha_S, 1 / halo_b),
        _ionisation(rng, ionised_2S[0], np.zeros(n), within_mm[0], ECAL_SPOT_GEV),
        _ionisation(rng, ionised_2S[1], np.full(n, ECAL_MM), within_mm[1], HCAL_SPOT_GEV),
    ]
    arrays = ([getattr(part, field.name) for part in parts] for field in fields(Spots))
    return Spots(*(np.concatenate(values, axis=-1) for values in arrays))


def _em_fraction(rng: np.random.Generator, energy_S: NDArray[Any]) -> NDArray[Any]:
    """Draw the electromagnetic part of pions' showers."""
    mean_S = np.clip(1 - (energy_S / GROOM_GEV) ** (GROOM_K - 1), 0.05, 0.9)
    # The spread of a beta distribution of this mean can be no wider than that.
    concentration_S = np.maximum((1 - mean_S) / (mean_S * EM_SPREAD**2) - 1, 0.5)
    return np.asarray(rng.beta(mean_S * concentration_S, (1 - mean_S) * concentration_S))


def _halo(
    rng: np.random.Generator,
    energy_S: NDArray[Any],
    start_S: NDArray[Any],
    slant_S: NDArray[Any],
    alpha_S: NDArray[Any],
    scale_S: NDArray[Any],
) -> Spots:
    """Return the spots of what is not electromagnetic; start and scale are in interaction lengths."""
    shower_N = np.repeat(np.arange(len(energy_S)), rng.poisson(energy_S / HCAL_SPOT_GEV))
    depth_N = rng.standard_gamma(alpha_S[shower_N]) * scale_S[shower_N] * slant_S[shower_N]
    z_mm = _depth_mm(start_S[shower_N] + depth_N, INTERACTION_LENGTHS)
    in_ecal = z_mm < ECAL_MM
    length_mm = np.where(in_ecal, ECAL.interaction_length_mm, HCAL.interaction_length_mm)
    radius_N = HALO_INTERACTION_LENGTHS * length_mm * _within(rng, len(shower_N))
    seen_N = rng.exponential(HCAL_SPOT_GEV, len(shower_N)) * np.where(in_ecal, ECAL.hadron_response, HCAL.hadron_response)
    return Spots(shower_N, z_mm, _around(rng, radius_N.astype(np.float32)), seen_N.astype(np.float32))


def _ionisation(
    rng: np.random.Generator, energy_S: NDArray[Any], top_mm_S: NDArray[Any], length_mm_S: NDArray[Any], spot_gev: float
) -> Spots:
    """Return spots spread evenly along tracks that have not showered yet."""
    shower_N = np.repeat(np.arange(len(energy_S)), rng.poisson(energy_S / spot_gev))
    z_mm = top_mm_S[shower_N] + length_mm_S[shower_N] * rng.random(len(shower_N))
    equal = np.full(len(shower_N), spot_gev)
    seen_N = equal if spot_gev == ECAL_SPOT_GEV else rng.exponential(spot_gev, len(shower_N))
    offset_2N = np.zeros((2, len(shower_N)), np.float32)
    return Spots(shower_N, z_mm.astype(np.float32), offset_2N, seen_N.astype(np.float32))


def cells(spots: Spots, event_S: NDArray[Any], slope_S2: NDArray[Any], n_events: int) -> tuple[NDArray[Any], ...]:
    """Sum spots in cells, per layer (E, φ cells, η cells) float32; what is outside is lost.

    A shower's event and slopes are in `event_S` (S,) and `slope_S2` (S, 2).
    """
    slope_2S = slope_S2.T.astype(np.float32)
    # The axis of a shower goes on in the direction of its particle, which comes from the gun.
    x_N, y_N = (
        slope_S[spots.shower_N] * (spots.z_mm + np.float32(GUN_DISTANCE_MM)) + offset_N
        for slope_S, offset_N in zip(slope_2S, spots.offset_2N, strict=True)
    )
    half = np.float32(SIDE_MM / 2)
    inside = np.flatnonzero((np.abs(x_N) < half) & (np.abs(y_N) < half) & (spots.z_mm < EDGES_MM[-1]) & (spots.energy_N > 0))
    x_N, y_N, z_N = x_N[inside], y_N[inside], spots.z_mm[inside]
    layer_N = np.searchsorted(EDGES_MM[1:-1].astype("f4"), z_N, side="right")
    per_pixel = np.float32(PIXELS / SIDE_MM)
    column_N, row_N = (np.minimum(((v + half) * per_pixel).astype(np.int32), PIXELS - 1) for v in (x_N, y_N))
    rows, columns = (np.array([layer.pixels[axis] for layer in LAYERS], np.int32) for axis in (0, 1))
    widths = np.array([layer.eta_cells for layer in LAYERS], np.int32)
    cell_N = (row_N // rows[layer_N]) * widths[layer_N] + column_N // columns[layer_N] + _OFFSETS[layer_N]
    index_N = event_S[spots.shower_N[inside]] * _OFFSETS[-1] + cell_N
    sums = (
        np.bincount(index_N, spots.energy_N[inside], n_events * _OFFSETS[-1]).astype(np.float32).reshape(n_events, _OFFSETS[-1])
    )
    parts = zip(LAYERS, _OFFSETS[:-1], _OFFSETS[1:], strict=True)
    return tuple(sums[:, low:high].reshape(n_events, *layer.shape) for layer, low, high in parts)
