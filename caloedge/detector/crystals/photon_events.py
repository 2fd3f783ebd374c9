"""Events of one photon, two photons or a π⁰ → γγ in the whole crystal grid, and photons as a reconstruction returns them.

A π⁰ flies at a right angle to the crystals' face and decays `events.DECAY_DISTANCE_MM` before it, isotropically in its rest
frame; both photons have an energy that the library holds, so very asymmetric decays are missing. Photons are taken to hit at
a right angle. Axes: E event, P photon (at most two), N reconstructed photon.
"""

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.constants import PI0_MASS_GEV
from caloedge.detector.crystals import events
from caloedge.detector.crystals.events import GRID, MARGIN, CrystalEvents
from caloedge.detector.crystals.library import ShowerLibrary

ONE, TWO, PION = range(3)
KINDS = ("one photon", "two photons", "π⁰ → γγ")
SHARES = (0.35, 0.4, 0.25)
"""Shares of the kinds among events."""
PION_GEV = (2.5, 20.0)
"""Range of the momentum of the π⁰ in GeV, log-uniform: photons of equal energies hit 6.3 to 0.8 crystals apart."""
LOWEST_PHOTON_GEV = 1.0
"""Lowest energy of a π⁰'s photons: that of the shipped library."""
MOST_APART = 12.0
"""Largest distance of a π⁰'s photons in crystals; lower momenta reach it only with very unequal photons."""


@dataclass(frozen=True)
class PhotonEvents:
    """Digitised events with their truth and kind."""

    crystals: CrystalEvents
    kind_E: NDArray[Any]
    """(E,) index into `KINDS`."""

    @property
    def distance(self) -> NDArray[Any]:
        """Distance (E,) of the two impact points in crystals, NaN for one photon."""
        impact_EP2 = self.crystals.impact_EP2
        return np.asarray(np.hypot(*(impact_EP2[:, 0] - impact_EP2[:, 1]).T))


@dataclass(frozen=True)
class Photons:
    """Reconstructed photons in the order of their events."""

    event_N: NDArray[Any]
    position_N2: NDArray[Any]
    """(N, 2) impact points in crystals, as in `CrystalEvents.impact_EP2`."""
    energy_N: NDArray[Any]
    """(N,) energies in GeV."""
    score_N: NDArray[Any]
    """(N,) scores on the reconstruction's own scale, higher for what is more photon-like."""


def compose(library: ShowerLibrary, rows: NDArray[Any], n_events: int, rng: np.random.Generator) -> PhotonEvents:
    """Compose events of all kinds from the showers `rows` of a library.

    One and two photons are placed as `events.compose` does, the latter 1 to 45 crystals apart, log-uniform. All events are
    mirrored and transposed at random: the showers have the crystals' symmetry, so that is one more shower for each.
    """
    kind_E = rng.choice(len(KINDS), n_events, p=SHARES)
    shower_EP = rng.choice(rows, (n_events, 2))
    pion = kind_E == PION
    step_E2 = np.zeros((n_events, 2), np.int64)
    shower_EP[pion], step_E2[pion] = _pion_decays(library, rows, int(pion.sum()), rng)
    inside_EP2 = events.inside(library, shower_EP)
    crystal_EP2 = events.place(inside_EP2, rng)
    crystal_EP2[pion] = _place_pairs(step_E2[pion], rng)
    two_E = kind_E != ONE
    cells_EXY = events.deposit(library.cells_mev, shower_EP, crystal_EP2, two_E)
    absent_EP = np.stack([np.zeros_like(two_E), ~two_E], axis=1)
    impact_EP2 = np.where(absent_EP[:, :, None], np.nan, crystal_EP2 + inside_EP2)
    energy_EP = np.where(absent_EP, np.nan, library.energies_mev[shower_EP] * 1e-3)
    cells_EXY, impact_EP2 = _oriented_at_random(cells_EXY, impact_EP2, rng)
    crystals = CrystalEvents(events.digitise(cells_EXY, rng), impact_EP2, energy_EP, np.where(absent_EP, -1, shower_EP))
    return PhotonEvents(crystals, kind_E)


def _pion_decays(
    library: ShowerLibrary, rows: NDArray[Any], n_events: int, rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Choose the showers (E, P) of π⁰ decays and the steps (E, 2) between their crystals."""
    momentum_E = np.exp(rng.uniform(np.log(PION_GEV[0]), np.log(PION_GEV[1]), n_events))
    total_E = np.hypot(momentum_E, PI0_MASS_GEV)
    # E₁ = (E + p cos θ*) / 2 with cos θ* uniform, as long as both photons are above the lowest energy.
    max_cosine_E = np.minimum((total_E - 2 * LOWEST_PHOTON_GEV) / momentum_E, 1)
    first_E = (total_E + momentum_E * rng.uniform(-max_cosine_E, max_cosine_E)) / 2
    target_EP = np.stack([first_E, total_E - first_E], axis=1)
    bounds_E2 = np.broadcast_to(np.array([0.0, MOST_APART]), (n_events, 2))
    shower_EP, step_E2, _ = events.match_pairs(library, rows, target_EP, np.full(n_events, np.nan), bounds_E2, rng)
    return shower_EP, step_E2


def _place_pairs(step_E2: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Return crystals (E, P, 2) of pairs a step apart, anywhere where both windows fit."""
    low_E2 = MARGIN - np.minimum(step_E2, 0)
    high_E2 = GRID - MARGIN - np.maximum(step_E2, 0)
    first_E2 = rng.integers(low_E2, high_E2)
    return np.stack([first_E2, first_E2 + step_E2], axis=1)


def _oriented_at_random(
    cells_EXY: NDArray[Any], impact_EP2: NDArray[Any], rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Mirror and transpose each event at random: the eight symmetries of a square."""
    cells_EXY, impact_EP2 = cells_EXY.copy(), impact_EP2.copy()
    for axis in (0, 1):
        chosen = rng.random(len(cells_EXY)) < 0.5
        cells_EXY[chosen] = np.flip(cells_EXY[chosen], axis + 1)
        # A point on a crystal's lower edge would become one on the upper, which is another crystal's.
        impact_EP = np.maximum(impact_EP2[chosen, :, axis], np.floor(impact_EP2[chosen, :, axis]) + 1e-6)
        impact_EP2[chosen, :, axis] = GRID - impact_EP
    chosen = rng.random(len(cells_EXY)) < 0.5
    cells_EXY[chosen] = cells_EXY[chosen].swapaxes(1, 2)
    impact_EP2[chosen] = impact_EP2[chosen][..., ::-1]
    return cells_EXY, impact_EP2


def joined(parts: list[PhotonEvents]) -> PhotonEvents:
    """Join blocks of events; the cells may be those of the first events only."""
    crystals = CrystalEvents(*(
        np.concatenate([getattr(part.crystals, field.name) for part in parts]) for field in fields(CrystalEvents)
    ))  # fmt: skip
    return PhotonEvents(crystals, np.concatenate([part.kind_E for part in parts]))
