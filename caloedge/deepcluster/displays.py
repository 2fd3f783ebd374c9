"""Event displays: cells around a few true photons with what each method reconstructs there.

Which events are shown is decided by the truth alone. Axes: E event, P photon, X and Y crystal.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals import photon_events
from caloedge.detector.crystals.events import GRID
from caloedge.detector.crystals.photon_events import PhotonEvents, Photons
from caloedge.results import Image

SIDE = 13
"""Crystals per side of a display."""
CLOSE_PAIR = (1.5, 2.5)
"""Range of the distance, in crystals, of the photons shown as a close pair."""
PION_DISTANCE = 2.5
LOW_GEV = 1.5


def displays(truth: PhotonEvents, photons: Mapping[str, Photons]) -> tuple[Image, ...]:
    """Show a close pair, a π⁰ and a photon of low energy; events whose cells were not kept cannot be shown.

    `truth.crystals.cells_EXY` may hold the first events only.
    """
    return tuple(_image(truth, photons, event, title, why) for event, title, why in _chosen(truth))


def _chosen(truth: PhotonEvents) -> list[tuple[int, str, str]]:
    """Return event, title and reason of choice of what is shown."""
    n = len(truth.crystals.cells_EXY)
    kind_E, distance_E, energy_EP = truth.kind_E[:n], truth.distance[:n], truth.crystals.energy_EP[:n]
    low, high = CLOSE_PAIR
    asymmetry_E = np.abs(np.log(energy_EP[:, 0] / energy_EP[:, 1]))
    candidates = (
        (
            np.where((kind_E == photon_events.TWO) & (distance_E >= low) & (distance_E < high), asymmetry_E, np.nan),
            "A close pair",
            f"of the photon pairs {low:g} to {high:g} crystals apart that of the most similar energies",
        ),
        (
            np.where(kind_E == photon_events.PION, np.abs(distance_E - PION_DISTANCE), np.nan),
            "A π⁰",
            f"the π⁰ whose photons are most nearly {PION_DISTANCE:g} crystals apart",
        ),
        (
            np.where(kind_E == photon_events.ONE, np.abs(energy_EP[:, 0] - LOW_GEV), np.nan),
            "A single photon of low energy",
            f"the single photon whose energy is nearest to {LOW_GEV:g} GeV",
        ),
    )
    return [(int(np.nanargmin(badness_E)), title, why) for badness_E, title, why in candidates if np.isfinite(badness_E).any()]


def _image(truth: PhotonEvents, photons: Mapping[str, Photons], event: int, title: str, why: str) -> Image:
    impact_P2, energy_P = truth.crystals.impact_EP2[event], truth.crystals.energy_EP[event]
    present_P = np.isfinite(energy_P)
    corner = np.clip(np.floor(impact_P2[present_P].mean(axis=0)).astype(int) - SIDE // 2, 0, GRID - SIDE)
    x0, y0 = (int(c) for c in corner)
    cells_XY = truth.crystals.cells_EXY[event, x0 : x0 + SIDE, y0 : y0 + SIDE]
    marks = _marks(impact_P2[present_P] - corner, "true impact")
    energies = [f"true impact {_list(energy_P[present_P])}"]
    for name, reconstructed in photons.items():
        rows = np.flatnonzero(reconstructed.event_N == event)
        marks += _marks(reconstructed.position_N2[rows] - corner, name)
        energies.append(f"{name} {_list(reconstructed.energy_N[rows])}")
    n = len(truth.crystals.cells_EXY)
    return Image(
        title=title,
        values=tuple(tuple(row) for row in cells_XY.astype(float).round(3).tolist()),
        unit="GeV",
        marks=tuple(marks),
        caption=f"Energies in GeV: {'; '.join(energies)}. Shown is, among the first {n:,} events, {why}.",
    )


def _marks(place_N2: NDArray[Any], label: str) -> list[tuple[float, float, str]]:
    return [(float(x), float(y), label) for x, y in place_N2 if 0 <= x <= SIDE and 0 <= y <= SIDE]


def _list(energies_gev: NDArray[Any]) -> str:
    return " + ".join(f"{energy:.2f}" for energy in sorted(energies_gev, reverse=True)) or "none"
