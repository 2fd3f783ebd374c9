"""A charged and a neutral pion that overlap in three ECAL and three HCAL layers, from parametrised showers.

Geometry and gun are those of arXiv 2003.08863 (EPJ C 81 (2021) 107), read from its authors' public Geant4 model and the program
that makes its images; cells are those of the images. The showers are ours, and much simpler than Geant4's:

- both pions start 150 cm before the face; the π⁰ decays there, and its photons hit as the kinematics say; no magnetic field;
- photons: depth from a gamma distribution with the mean of PDG (sec. "Electromagnetic cascades") and the fluctuations of
  Grindhammer–Peters (hep-ex/0001020), whose two-component radius for homogeneous media is used in the average medium;
- π⁺: minimum ionising down to a start that is exponential in interaction lengths; then an electromagnetic part with the mean of
  Groom (NIM A 572 (2007) 633) and a spread of ours, and the rest, both with the depths of Bock (NIM 186 (1981) 533); the former
  has a photon's radius, the latter a halo of ours; the rest is seen with h/e of the ATLAS prototypes (hep-ex/0005029);
- sampling: energy comes in spots whose number and energy fluctuate so that σ/E is the layer's term over √E. That of the HCAL is
  taken for everything that is not electromagnetic, too;
- a cell is the sum of its charged and its neutral energy, as in the published images: there is no noise and no threshold.

Lengths are in mm from the centre of the face; x is along η, y along φ, z along the depth. Energies are in GeV at the scale of
electrons. Axes: E event, P photon, S shower, N spot, L layer, H row in φ, W column in η.
"""

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from importlib.metadata import version as package_version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.errors import UserError

VERSION = 1
"""Of the generator: another one gives other events for the same seed."""
EVENTS_PER_BLOCK = 64
EVENTS = 1_000_000
"""Of each seed and stream."""
SIDE_MM = 16 * 144.0
"""Of the square face: 16 × 16 units of 0.1 in η and φ, at 144 mm each."""
GUN_DISTANCE_MM = 1500.0
"""From where the pions start to the face."""
PIXELS = 64
"""Per side of the finest layer."""


@dataclass(frozen=True)
class Medium:
    """The average of absorber and sensor."""

    name: str
    radiation_length_mm: float
    interaction_length_mm: float
    moliere_mm: float
    critical_gev: float
    effective_z: float
    """Averaged by mass."""
    mip_gev_per_mm: float
    sampling: float
    """GeV^½: σ/E of electrons is this over √E."""
    hadron_response: float
    """h/e, what is seen of energy that is not electromagnetic."""


# Lengths of the materials are those of the published model, mixed by thickness: 1.5 mm Pb and 4.5 mm LAr, 5 mm Fe and 1 mm
# scintillator; Molière radii, critical energies and ionisation are PDG's for the same mixtures. e/h: hep-ex/0005029.
ECAL = Medium("Pb/LAr", 20.0, 446.0, 42.0, 0.0102, 64.8, 0.476e-3, 0.069, 1 / 1.74)
HCAL = Medium("Fe/scintillator", 20.9, 194.0, 19.9, 0.0223, 25.5, 0.986e-3, 0.40, 1 / 1.36)


@dataclass(frozen=True)
class Layer:
    """One layer of cells that are read out together in depth."""

    name: str
    medium: Medium
    depth_mm: float
    phi_cells: int
    eta_cells: int

    @property
    def shape(self) -> tuple[int, int]:
        """Cells in φ and η."""
        return self.phi_cells, self.eta_cells

    @property
    def pixels(self) -> tuple[int, int]:
        """Pixels of the common grid that one cell covers in φ and η."""
        return PIXELS // self.phi_cells, PIXELS // self.eta_cells


# Depths 6, 16, 3 radiation lengths and 1.5, 4.1, 1.8 interaction lengths. Cells are those of the published images, and sources
# differ on two layers: the model has ECAL 1 in strips of 0.025/8 × 0.1 and ECAL 3 in 0.1 × 0.1 (η × φ).
LAYERS = (
    Layer("ECAL 1", ECAL, 6 * ECAL.radiation_length_mm, 32, 64),
    Layer("ECAL 2", ECAL, 16 * ECAL.radiation_length_mm, 64, 64),
    Layer("ECAL 3", ECAL, 3 * ECAL.radiation_length_mm, 32, 32),
    Layer("HCAL 1", HCAL, 1.5 * HCAL.interaction_length_mm, 16, 16),
    Layer("HCAL 2", HCAL, 4.1 * HCAL.interaction_length_mm, 16, 16),
    Layer("HCAL 3", HCAL, 1.8 * HCAL.interaction_length_mm, 8, 8),
)
EDGES_MM = np.cumsum([0.0, *(layer.depth_mm for layer in LAYERS)])
"""Depths of the layers' borders."""
ECAL_MM = float(EDGES_MM[3])
BEHIND_MM = 2 * float(EDGES_MM[-1])
"""Depth of all that comes out at the back."""
_RADIATION_LENGTHS = np.cumsum([0.0, *(layer.depth_mm / layer.medium.radiation_length_mm for layer in LAYERS)])
_INTERACTION_LENGTHS = np.cumsum([0.0, *(layer.depth_mm / layer.medium.interaction_length_mm for layer in LAYERS)])

PION_MASS_GEV, NEUTRAL_PION_MASS_GEV = 0.13957039, 0.1349768
"""Particle Data Group 2024."""

ECAL_SPOT_GEV = ECAL.sampling**2
"""All alike: their number is Poisson's."""
HCAL_SPOT_GEV = HCAL.sampling**2 / 2
"""The mean of an exponential, which doubles the variance: no cell is a multiple of one energy, which would give hadrons away."""

PROFILE_B = 0.5
"""PDG's b for photons and electrons, per radiation length; the shower maximum is at ln(E / critical) + 0.5."""
MOST_TAU = 4.0
"""Depth over depth of the maximum, beyond which the radius grows no more."""
GROOM_K, GROOM_GEV = 0.82, 1.0
EM_SPREAD = 0.35
"""Relative spread of the electromagnetic part, beta-distributed; ours."""
CORE_SPREAD = 0.25
"""Relative spread of its depth, log-normal; ours."""
HALO_INTERACTION_LENGTHS = 0.25
"""Radius that holds half of the halo; ours, so that nine tenths of a shower lie within one interaction length."""

TRACK_DEPTH_MM = float(EDGES_MM[1] + EDGES_MM[2]) / 2
"""Where the track's position is given: the middle of ECAL 2."""
TRACK_CONSTANT, TRACK_PER_GEV = 0.01, 5e-4
"""Momentum resolution: 1 % ⊕ 0.05 % · p / GeV, the design of ATLAS's inner detector (JINST 3 (2008) S08003)."""
TRACK_MM = 1.0
"""Position resolution in x and y; ours."""


@dataclass(frozen=True)
class Gun:
    """What the particles of an event are drawn from; all uniform."""

    charged_gev: tuple[float, float] = (15.0, 30.0)
    neutral_gev: tuple[float, float] = (10.0, 30.0)
    impact_mm: float = 144.0
    """The π⁺ hits this close to the centre in x and y, as in the source."""
    distance_mm: tuple[float, float] = (0.0, 288.0)
    """From the π⁺'s impact to where the π⁰ flies, in any direction; ours: the source draws both impacts independently."""

    def __post_init__(self) -> None:
        """Refuse what cannot be shot."""
        for name in ("charged_gev", "neutral_gev", "distance_mm"):
            low, high = getattr(self, name)
            least = 0.0 if name == "distance_mm" else 1.0
            if not least <= low <= high < np.inf:
                raise UserError(f"{name} = {low:g} to {high:g}: give finite numbers from {least:g} up, the smaller first")
        if not 0 <= self.impact_mm + self.distance_mm[1] <= SIDE_MM / 2 or self.impact_mm < 0:
            raise UserError(
                f"impact_mm = {self.impact_mm:g} and distance_mm up to {self.distance_mm[1]:g}: particles would miss the face,"
                f" which reaches to {SIDE_MM / 2:g} mm"
            )


GUN = Gun()


@dataclass(frozen=True)
class LayeredEvents:
    """Events with the energy of each cell of each layer; what is not known is NaN."""

    cells_gev: tuple[NDArray[Any], ...]
    """Per layer (E, φ cells, η cells) float32."""
    neutral_gev: tuple[NDArray[Any], ...]
    """The part of `cells_gev` that the π⁰ deposited."""
    track_gev: NDArray[Any]
    """(E,) measured momentum of the π⁺."""
    track_mm: NDArray[Any]
    """(E, 2) where its track, measured, passes `TRACK_DEPTH_MM`: x along η, y along φ."""
    true_charged_gev: NDArray[Any]
    """(E,) energy of the π⁺."""
    true_neutral_gev: NDArray[Any]
    """(E,) energy of the π⁰."""
    distance_mm: NDArray[Any]
    """(E,) between the two at the face."""

    def __len__(self) -> int:
        return len(self.track_gev)

    def rows(self, rows: NDArray[Any] | slice) -> "LayeredEvents":
        """Return some of the events."""
        return LayeredEvents(
            tuple(cells[rows] for cells in self.cells_gev),
            tuple(cells[rows] for cells in self.neutral_gev),
            *(getattr(self, field.name)[rows] for field in fields(self)[2:]),
        )


@dataclass(frozen=True)
class Generated:
    """The generator with its settings, as a library: events are made when they are asked for."""

    gun: Gun = GUN
    path: Path = Path("generated")
    """Of no file: what the library is called."""

    def __len__(self) -> int:
        return EVENTS

    @cached_property
    def provenance(self) -> dict[str, str]:
        """How events are made."""
        made_by = f"caloedge {package_version('caloedge')}"
        return {"version": "parametrised", "settings": json.dumps(self.settings, sort_keys=True), "made_by": made_by}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """All that decides an event, but for its seed and number."""
        return {
            "version": VERSION,
            "block": EVENTS_PER_BLOCK,
            "gun": dataclasses.asdict(self.gun),
            "layers": [dataclasses.asdict(layer) for layer in LAYERS],
        }

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the settings."""
        return hashlib.sha256(json.dumps(self.settings, sort_keys=True).encode()).hexdigest()

    def events(self, n_events: int, seed: int, stream: int = 0, first: int = 0) -> LayeredEvents:
        """Return events `first` to `first + n_events − 1`; an event depends on (seed, stream, number) only.

        Raises `UserError` for negative numbers, and beyond the last event.
        """
        for name, value in (("n_events", n_events), ("seed", seed), ("stream", stream), ("first", first)):
            if value < 0:
                raise UserError(f"{name} = {value}: give 0 or more")
        if first + n_events > EVENTS:
            raise UserError(f"events {first} to {first + n_events - 1}: a seed has {EVENTS:,} events, use another one for more")
        parts = [_block(self.gun, np.random.default_rng(0), 0)] if n_events == 0 else []
        for block in range(first // EVENTS_PER_BLOCK, -(-(first + n_events) // EVENTS_PER_BLOCK) if n_events else 0):
            # A whole block is made even if less is wanted, so that more events begin with the same ones.
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, block)))
            start = block * EVENTS_PER_BLOCK
            wanted = slice(max(first - start, 0), min(first + n_events - start, EVENTS_PER_BLOCK))
            parts.append(_block(self.gun, rng, EVENTS_PER_BLOCK).rows(wanted))
        return joined(parts)


def joined(parts: Sequence[LayeredEvents]) -> LayeredEvents:
    """Join events in their order."""
    return LayeredEvents(
        tuple(np.concatenate(layers) for layers in zip(*(part.cells_gev for part in parts), strict=True)),
        tuple(np.concatenate(layers) for layers in zip(*(part.neutral_gev for part in parts), strict=True)),
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(LayeredEvents)[2:]),
    )


def spread(cells: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """Return all layers (E, 6, 64, 64) float32 on the finest grid: a coarse cell's energy is shared evenly by its pixels."""
    image_ELHW = np.empty((len(cells[0]), len(LAYERS), PIXELS, PIXELS), np.float32)
    for number, (layer, cells_EHW) in enumerate(zip(LAYERS, cells, strict=True)):
        rows, columns = layer.pixels
        shared = cells_EHW / np.float32(rows * columns)
        image_ELHW[:, number] = shared.repeat(rows, axis=1).repeat(columns, axis=2)
    return image_ELHW


def photon_energies(pion_gev: NDArray[Any], cosine: NDArray[Any]) -> NDArray[Any]:
    """Return the energies (E, 2) of a π⁰'s photons from its energy and the cosine of the first one's angle at rest."""
    momentum_E = np.sqrt(pion_gev**2 - NEUTRAL_PION_MASS_GEV**2)
    return np.asarray(np.stack([pion_gev + momentum_E * cosine, pion_gev - momentum_E * cosine], axis=1) / 2)


def photon_slopes(
    pion_gev: NDArray[Any], slope_E2: NDArray[Any], cosine: NDArray[Any], turn: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the photons' energies (E, P) in GeV and slopes dx/dz and dy/dz (E, P, 2) of decays of π⁰ with slopes (E, 2).

    `cosine` (E,) is that of the first photon's angle at rest, `turn` (E,) its azimuth around the π⁰. A photon that flies sideways
    or backwards, of a few MeV at most, has infinite slopes.
    """
    energy_EP = photon_energies(pion_gev, cosine)
    momentum_E = np.sqrt(pion_gev**2 - NEUTRAL_PION_MASS_GEV**2)
    # Transverse momentum is the same at rest; the longitudinal one follows from the energy: E₁ = (E + p cos θ*) / 2.
    aside_E = NEUTRAL_PION_MASS_GEV / 2 * np.sqrt(1 - cosine**2)
    aside_EP = np.stack([aside_E, -aside_E], axis=1)
    along_EP = np.stack([momentum_E + cosine * pion_gev, momentum_E - cosine * pion_gev], axis=1) / 2
    forward_E3 = np.concatenate([slope_E2, np.ones((len(slope_E2), 1))], axis=1)
    forward_E3 /= np.linalg.norm(forward_E3, axis=1, keepdims=True)
    first_E3 = np.cross(forward_E3, np.array([0.0, 1.0, 0.0]))
    first_E3 /= np.linalg.norm(first_E3, axis=1, keepdims=True)
    second_E3 = np.cross(forward_E3, first_E3)
    sideways_E3 = np.cos(turn)[:, None] * first_E3 + np.sin(turn)[:, None] * second_E3
    momentum_EP3 = along_EP[:, :, None] * forward_E3[:, None] + aside_EP[:, :, None] * sideways_E3[:, None]
    z_EP1 = momentum_EP3[:, :, 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        return energy_EP, np.where(z_EP1 > 0.1 * energy_EP[:, :, None], momentum_EP3[:, :, :2] / z_EP1, np.inf)


@dataclass(frozen=True)
class _Spots:
    """Energy spots of many showers: offsets from their showers' axes."""

    shower_N: NDArray[Any]
    z_mm: NDArray[Any]
    """(N,) float32 depth below the face."""
    aside_2N: NDArray[Any]
    """(2, N) float32 mm."""
    energy_N: NDArray[Any]
    """(N,) float32 GeV as seen."""


def _block(gun: Gun, rng: np.random.Generator, n: int) -> LayeredEvents:
    charged_E, neutral_E = rng.uniform(*gun.charged_gev, n), rng.uniform(*gun.neutral_gev, n)
    impact_E2 = rng.uniform(-gun.impact_mm, gun.impact_mm, (n, 2))
    distance_E, azimuth_E = rng.uniform(*gun.distance_mm, n), rng.uniform(0, 2 * np.pi, n)
    other_E2 = impact_E2 + distance_E[:, None] * np.stack([np.cos(azimuth_E), np.sin(azimuth_E)], axis=1)
    slope_E2 = impact_E2 / GUN_DISTANCE_MM
    photon_EP, slope_EP2 = photon_slopes(neutral_E, other_E2 / GUN_DISTANCE_MM, *_decays(rng, n))
    # A photon beyond the face is lost as a whole.
    hits_EP = (np.abs(slope_EP2) * GUN_DISTANCE_MM < SIDE_MM / 2).all(axis=2)
    photon_slopes_S2 = np.where(hits_EP[:, :, None], slope_EP2, 0.0).reshape(-1, 2)
    photons = _photons(rng, np.where(hits_EP, photon_EP, 0.0).ravel(), photon_slopes_S2)
    neutral = _cells(photons, np.repeat(np.arange(n), 2), photon_slopes_S2, n)
    charged = _cells(_hadrons(rng, charged_E, slope_E2), np.arange(n), slope_E2, n)
    momentum_E = np.sqrt(charged_E**2 - PION_MASS_GEV**2)
    resolution_E = np.hypot(TRACK_CONSTANT, TRACK_PER_GEV * momentum_E)
    passes_E2 = impact_E2 + slope_E2 * TRACK_DEPTH_MM
    return LayeredEvents(
        cells_gev=tuple(one + other for one, other in zip(charged, neutral, strict=True)),
        neutral_gev=neutral,
        track_gev=momentum_E * (1 + resolution_E * rng.standard_normal(n)),
        track_mm=passes_E2 + TRACK_MM * rng.standard_normal((n, 2)),
        true_charged_gev=charged_E,
        true_neutral_gev=neutral_E,
        distance_mm=distance_E,
    )


def _decays(rng: np.random.Generator, n: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Draw cosine and azimuth of isotropic decays."""
    return rng.uniform(-1, 1, n), rng.uniform(0, 2 * np.pi, n)


def _slant(slope_S2: NDArray[Any]) -> NDArray[Any]:
    """Return dz along a unit of path."""
    return np.asarray(1 / np.sqrt(1 + (slope_S2**2).sum(axis=1)))


def _photons(rng: np.random.Generator, energy_S: NDArray[Any], slope_S2: NDArray[Any]) -> _Spots:
    """Return the spots of photons that start to shower at the face."""
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
) -> _Spots:
    """Return electromagnetic spots: depths gamma-distributed from a start with `alpha_S` and `scale_S`.

    Scale and the maximum's depth `peak_S` are in radiation lengths.
    """
    shower_N = np.repeat(np.arange(len(energy_S)), rng.poisson(energy_S / ECAL_SPOT_GEV))
    n = len(shower_N)
    # Single precision halves the time; a spot's place is far better known than a cell is wide.
    depth_N = rng.standard_gamma(alpha_S.astype("f4")[shower_N], dtype=np.float32) * scale_S.astype("f4")[shower_N]
    start_S = np.interp(start_mm_S, EDGES_MM, _RADIATION_LENGTHS)  # behind the last layer there is no energy left
    z_mm = _depth_mm(start_S.astype("f4")[shower_N] + depth_N * slant_S.astype("f4")[shower_N], _RADIATION_LENGTHS)
    tau_N = np.minimum(depth_N / peak_S.astype("f4")[shower_N], np.float32(MOST_TAU))
    radius_N = _radius(rng, tau_N, np.log(np.maximum(energy_S, 0.05)).astype("f4")[shower_N])
    radius_N *= np.where(z_mm < ECAL_MM, np.float32(ECAL.moliere_mm), np.float32(HCAL.moliere_mm))
    energy_N = np.full(n, ECAL_SPOT_GEV, np.float32)
    behind = np.flatnonzero(z_mm >= ECAL_MM)
    # Fewer and larger spots behind the ECAL.
    kept = rng.random(len(behind)) < ECAL_SPOT_GEV / HCAL_SPOT_GEV
    energy_N[behind] = np.where(kept, rng.exponential(HCAL_SPOT_GEV, len(behind)), 0)
    return _Spots(shower_N, z_mm, _around(rng, radius_N), energy_N)


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
    """Turn radii into offsets (2, N) in x and y."""
    phi_N = rng.random(len(radius_N), np.float32) * np.float32(2 * np.pi)
    return np.stack([radius_N * np.cos(phi_N), radius_N * np.sin(phi_N)])


def _hadrons(rng: np.random.Generator, energy_S: NDArray[Any], slope_S2: NDArray[Any]) -> _Spots:
    """Return the spots of charged pions that enter at the face."""
    n, slant_S = len(energy_S), _slant(slope_S2)
    start_S = rng.exponential(1.0, n) * slant_S  # interaction lengths in z
    start_mm_S = np.interp(start_S, _INTERACTION_LENGTHS, EDGES_MM, right=BEHIND_MM)
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
    arrays = ([getattr(part, field.name) for part in parts] for field in fields(_Spots))
    return _Spots(*(np.concatenate(some, axis=-1) for some in arrays))


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
) -> _Spots:
    """Return the spots of what is not electromagnetic; start and scale are in interaction lengths."""
    shower_N = np.repeat(np.arange(len(energy_S)), rng.poisson(energy_S / HCAL_SPOT_GEV))
    depth_N = rng.standard_gamma(alpha_S[shower_N]) * scale_S[shower_N] * slant_S[shower_N]
    z_mm = _depth_mm(start_S[shower_N] + depth_N, _INTERACTION_LENGTHS)
    in_ecal = z_mm < ECAL_MM
    length_mm = np.where(in_ecal, ECAL.interaction_length_mm, HCAL.interaction_length_mm)
    radius_N = HALO_INTERACTION_LENGTHS * length_mm * _within(rng, len(shower_N))
    seen_N = rng.exponential(HCAL_SPOT_GEV, len(shower_N)) * np.where(in_ecal, ECAL.hadron_response, HCAL.hadron_response)
    return _Spots(shower_N, z_mm, _around(rng, radius_N.astype(np.float32)), seen_N.astype(np.float32))


def _ionisation(
    rng: np.random.Generator, energy_S: NDArray[Any], top_mm_S: NDArray[Any], length_mm_S: NDArray[Any], spot_gev: float
) -> _Spots:
    """Return spots spread evenly along tracks that have not showered yet."""
    shower_N = np.repeat(np.arange(len(energy_S)), rng.poisson(energy_S / spot_gev))
    z_mm = top_mm_S[shower_N] + length_mm_S[shower_N] * rng.random(len(shower_N))
    equal = np.full(len(shower_N), spot_gev)
    seen_N = equal if spot_gev == ECAL_SPOT_GEV else rng.exponential(spot_gev, len(shower_N))
    aside_2N = np.zeros((2, len(shower_N)), np.float32)
    return _Spots(shower_N, z_mm.astype(np.float32), aside_2N, seen_N.astype(np.float32))


_OFFSETS = np.cumsum([0, *(layer.phi_cells * layer.eta_cells for layer in LAYERS)])
"""Of the layers in a row of all cells of an event."""


def _cells(spots: _Spots, event_S: NDArray[Any], slope_S2: NDArray[Any], n_events: int) -> tuple[NDArray[Any], ...]:
    """Sum spots in cells, per layer (E, φ cells, η cells) float32; what is outside is lost."""
    slope_2S = slope_S2.T.astype(np.float32)
    # The axis of a shower goes on in the direction of its particle, which comes from the gun.
    x_N, y_N = (
        slope_S[spots.shower_N] * (spots.z_mm + np.float32(GUN_DISTANCE_MM)) + aside_N
        for slope_S, aside_N in zip(slope_2S, spots.aside_2N, strict=True)
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
