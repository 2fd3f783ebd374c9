"""Events of a charged and a neutral pion that overlap in the six layers, generated as they are asked for.

The gun is that of arXiv 2003.08863 (EPJ C 81 (2021) 107), read from the program that makes its images; the showers are those of
`layers.showers`:

- both pions start 150 cm before the face; the π⁰ decays there, and its photons hit as the kinematics say; no magnetic field;
- a cell is the sum of its charged and its neutral energy, as in the published images: there is no noise and no threshold.

Lengths are in mm from the centre of the face; x is along η, y along φ, z along the depth. Energies are in GeV at the scale of
electrons. Axes: E event, P photon, S shower.
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

from caloedge.detector.constants import PI0_MASS_GEV, PI_CHARGED_MASS_GEV
from caloedge.detector.layers import showers
from caloedge.detector.layers.geometry import GUN_DISTANCE_MM, LAYERS, SIDE_MM, TRACK_DEPTH_MM
from caloedge.errors import UserError

VERSION = 1
"""Version of the generator: another one gives other events for the same seed."""
EVENTS_PER_BLOCK = 64
EVENTS = 1_000_000
"""Number of events of each seed and stream."""
TRACK_CONSTANT, TRACK_PER_GEV = 0.01, 5e-4
"""Relative momentum resolution: 1 % ⊕ 0.05 % · p / GeV, the design of ATLAS's inner detector (JINST 3 (2008) S08003)."""
TRACK_MM = 1.0
"""Position resolution in x and y in mm; ours."""


@dataclass(frozen=True)
class Gun:
    """Ranges that the particles of an event are drawn from, all uniform."""

    charged_gev: tuple[float, float] = (15.0, 30.0)
    neutral_gev: tuple[float, float] = (10.0, 30.0)
    impact_mm: float = 144.0
    """Largest |x| and |y| of the π⁺'s impact, as in the source."""
    distance_mm: tuple[float, float] = (0.0, 288.0)
    """Distance from the π⁺'s impact to where the π⁰ flies, in any direction; ours: the source draws both independently."""

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
    """Energies (E, φ cells, η cells) float32 in GeV, per layer."""
    neutral_gev: tuple[NDArray[Any], ...]
    """Part of `cells_gev` that the π⁰ deposited."""
    track_gev: NDArray[Any]
    """(E,) measured momentum of the π⁺."""
    track_mm: NDArray[Any]
    """(E, 2) measured position of its track at `TRACK_DEPTH_MM`: x along η, y along φ."""
    true_charged_gev: NDArray[Any]
    """(E,) energy of the π⁺."""
    true_neutral_gev: NDArray[Any]
    """(E,) energy of the π⁰."""
    distance_mm: NDArray[Any]
    """(E,) distance between the two pions at the face."""

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
    """Name of the library; it is no file."""

    def __len__(self) -> int:
        return EVENTS

    @cached_property
    def provenance(self) -> dict[str, str]:
        """Version, settings and maker of the events."""
        made_by = f"caloedge {package_version('caloedge')}"
        return {"version": "parametrised", "settings": json.dumps(self.settings, sort_keys=True), "made_by": made_by}

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Settings that decide an event, together with its seed and number."""
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

        Raises `UserError` for negative numbers, and for events behind the last one.
        """
        for name, value in (("n_events", n_events), ("seed", seed), ("stream", stream), ("first", first)):
            if value < 0:
                raise UserError(f"{name} = {value}: give 0 or more")
        if first + n_events > EVENTS:
            raise UserError(f"events {first} to {first + n_events - 1}: a seed has {EVENTS:,} events, use another one for more")
        parts = [_block(self.gun, np.random.default_rng(0), 0)] if n_events == 0 else []
        for block in range(first // EVENTS_PER_BLOCK, -(-(first + n_events) // EVENTS_PER_BLOCK) if n_events else 0):
            # A whole block is made even if fewer events are asked for, so that more events begin with the same ones.
            rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(stream, block)))
            start = block * EVENTS_PER_BLOCK
            selection = slice(max(first - start, 0), min(first + n_events - start, EVENTS_PER_BLOCK))
            parts.append(_block(self.gun, rng, EVENTS_PER_BLOCK).rows(selection))
        return joined(parts)


def joined(parts: Sequence[LayeredEvents]) -> LayeredEvents:
    """Join events in their order."""
    return LayeredEvents(
        tuple(np.concatenate(layers) for layers in zip(*(part.cells_gev for part in parts), strict=True)),
        tuple(np.concatenate(layers) for layers in zip(*(part.neutral_gev for part in parts), strict=True)),
        *(np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(LayeredEvents)[2:]),
    )


def photon_energies(pion_gev: NDArray[Any], cosine: NDArray[Any]) -> NDArray[Any]:
    """Return the energies (E, 2) of a π⁰'s photons from its energy and the cosine of the first one's angle at rest."""
    momentum_E = np.sqrt(pion_gev**2 - PI0_MASS_GEV**2)
    return np.asarray(np.stack([pion_gev + momentum_E * cosine, pion_gev - momentum_E * cosine], axis=1) / 2)


def photon_slopes(
    pion_gev: NDArray[Any], slope_E2: NDArray[Any], cosine: NDArray[Any], azimuth_E: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return the photons' energies (E, P) in GeV and slopes dx/dz and dy/dz (E, P, 2) of decays of π⁰ with slopes (E, 2).

    `cosine` (E,) is that of the first photon's angle at rest, `azimuth_E` (E,) its azimuth around the π⁰. A photon
    that flies sideways or backwards, of a few MeV at most, has infinite slopes.
    """
    energy_EP = photon_energies(pion_gev, cosine)
    momentum_E = np.sqrt(pion_gev**2 - PI0_MASS_GEV**2)
    # Transverse momentum is the same at rest; the longitudinal one follows from the energy: E₁ = (E + p cos θ*) / 2.
    transverse_E = PI0_MASS_GEV / 2 * np.sqrt(1 - cosine**2)
    transverse_EP = np.stack([transverse_E, -transverse_E], axis=1)
    longitudinal_EP = np.stack([momentum_E + cosine * pion_gev, momentum_E - cosine * pion_gev], axis=1) / 2
    forward_E3 = np.concatenate([slope_E2, np.ones((len(slope_E2), 1))], axis=1)
    forward_E3 /= np.linalg.norm(forward_E3, axis=1, keepdims=True)
    first_E3 = np.cross(forward_E3, np.array([0.0, 1.0, 0.0]))
    first_E3 /= np.linalg.norm(first_E3, axis=1, keepdims=True)
    second_E3 = np.cross(forward_E3, first_E3)
    sideways_E3 = np.cos(azimuth_E)[:, None] * first_E3 + np.sin(azimuth_E)[:, None] * second_E3
    momentum_EP3 = longitudinal_EP[:, :, None] * forward_E3[:, None] + transverse_EP[:, :, None] * sideways_E3[:, None]
    z_EP1 = momentum_EP3[:, :, 2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        return energy_EP, np.where(z_EP1 > 0.1 * energy_EP[:, :, None], momentum_EP3[:, :, :2] / z_EP1, np.inf)


def _block(gun: Gun, rng: np.random.Generator, n: int) -> LayeredEvents:
    charged_E, neutral_E = rng.uniform(*gun.charged_gev, n), rng.uniform(*gun.neutral_gev, n)
    impact_E2 = rng.uniform(-gun.impact_mm, gun.impact_mm, (n, 2))
    distance_E, azimuth_E = rng.uniform(*gun.distance_mm, n), rng.uniform(0, 2 * np.pi, n)
    other_E2 = impact_E2 + distance_E[:, None] * np.stack([np.cos(azimuth_E), np.sin(azimuth_E)], axis=1)
    slope_E2 = impact_E2 / GUN_DISTANCE_MM
    photon_EP, slope_EP2 = photon_slopes(neutral_E, other_E2 / GUN_DISTANCE_MM, *_decays(rng, n))
    # A photon that misses the face is lost as a whole.
    hits_EP = (np.abs(slope_EP2) * GUN_DISTANCE_MM < SIDE_MM / 2).all(axis=2)
    photon_slopes_S2 = np.where(hits_EP[:, :, None], slope_EP2, 0.0).reshape(-1, 2)
    photons = showers.photons(rng, np.where(hits_EP, photon_EP, 0.0).ravel(), photon_slopes_S2)
    neutral = showers.cells(photons, np.repeat(np.arange(n), 2), photon_slopes_S2, n)
    charged = showers.cells(showers.hadrons(rng, charged_E, slope_E2), np.arange(n), slope_E2, n)
    momentum_E = np.sqrt(charged_E**2 - PI_CHARGED_MASS_GEV**2)
    resolution_E = np.hypot(TRACK_CONSTANT, TRACK_PER_GEV * momentum_E)
    passes_E2 = impact_E2 + slope_E2 * TRACK_DEPTH_MM
    return LayeredEvents(
        cells_gev=tuple(charged_cells + neutral_cells for charged_cells, neutral_cells in zip(charged, neutral, strict=True)),
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
