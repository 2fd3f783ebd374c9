"""Whole events on a crystal grid: library showers placed at random, electronics noise, zero suppression, windows.

Lengths are in crystals: crystal (i, j) covers [i, i + 1) × [j, j + 1). Energies are in GeV.
Axes: E event, P photon (at most two), X and Y crystal, W window.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.geometry import PBWO4
from caloedge.detector.library import ShowerLibrary
from caloedge.errors import BadData

GRID = 51
"""Crystals per side of an event."""
WINDOW = 7
MARGIN = WINDOW // 2
"""Windows do not reach over the border, so seeds keep this distance from it."""
SEED_THRESHOLD_GEV = 0.5
MAX_DISTANCE = 45.0

# DeepCluster's noise (arXiv 2311.17914): stochastic, electronic and constant term, and the read-out threshold.
STOCHASTIC = 0.03  # GeV^½
ELECTRONIC_GEV = 0.167
CONSTANT = 0.7 * 0.005
READOUT_GEV = 0.05


@dataclass(frozen=True)
class CrystalEvents:
    """Digitised events with their truth; rows of absent photons are NaN."""

    cells_EXY: NDArray[Any]
    """(E, 51, 51) float32 GeV."""
    impact_EP2: NDArray[Any]
    """(E, 2, 2) impact points in crystals."""
    energy_EP: NDArray[Any]
    """(E, 2) true energies in GeV."""
    shower_EP: NDArray[Any]
    """(E, 2) rows of the library, −1 for an absent photon."""


@dataclass(frozen=True)
class Windows:
    """7 × 7 windows around crystals above the seed threshold, in (event, x, y) order."""

    cells_WXY: NDArray[Any]
    """(W, 7, 7) float32 GeV."""
    event_W: NDArray[Any]
    crystal_W2: NDArray[Any]
    """(W, 2) central crystal."""


def check_matrix(library: ShowerLibrary) -> None:
    """Refuse a library whose showers were not made in the 25 × 25 crystal matrix."""
    cells = PBWO4.cells_per_side**2
    if library.n_cells != cells:
        raise BadData(
            f"{library.path}: showers have {library.n_cells} cells; this task needs {PBWO4.cells_per_side}×"
            f"{PBWO4.cells_per_side} = {cells} PbWO4 crystals (caloedge simulate --geometry pbwo4)"
        )
    outside = np.abs(library.impact_mm).max() - PBWO4.impact_half_width_mm
    if outside > 1e-3:  # float32 of a half width
        raise BadData(
            f"{library.path}: an impact point lies {outside:.3g} mm outside the central crystal"
            f" (±{PBWO4.impact_half_width_mm} mm); impact_mm is measured from that crystal's centre"
        )


def compose(library: ShowerLibrary, rows: NDArray[Any], n_events: int, rng: np.random.Generator) -> CrystalEvents:
    """Place one or two library showers (equal shares) per event, two of them at any distance from 1 crystal up.

    `rows` are the showers that may be used. Impact points keep their place inside the crystal. The distance of two
    photons is log-uniform from 1 to 45 crystals where the grid allows it, so that close pairs are frequent.
    """
    chosen_EP = rng.choice(rows, (n_events, 2))
    inside_EP2 = np.clip(library.impact_mm[chosen_EP] / PBWO4.cell_mm + 0.5, 0, 1 - 1e-6)
    crystal_EP2 = _place(inside_EP2, rng)
    two_E = rng.random(n_events) < 0.5
    cells_EXY = _deposit(library.cells_mev, chosen_EP, crystal_EP2, two_E)
    absent_EP = np.stack([np.zeros_like(two_E), ~two_E], axis=1)
    impact_EP2 = np.where(absent_EP[:, :, None], np.nan, crystal_EP2 + inside_EP2)
    energy_EP = np.where(absent_EP, np.nan, library.energies_mev[chosen_EP] * 1e-3)
    return CrystalEvents(digitise(cells_EXY, rng), impact_EP2, energy_EP, np.where(absent_EP, -1, chosen_EP))


def digitise(cells_gev: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Add noise to deposited energies (float32 GeV) and suppress cells below the read-out threshold."""
    noisy = rng.standard_normal(cells_gev.shape, dtype=np.float32)
    variance = np.empty_like(cells_gev[:1])
    for event, cells in zip(noisy, cells_gev, strict=True):  # one event fits in the cache
        np.multiply(cells, np.float32(CONSTANT**2), out=variance[0])
        variance += np.float32(STOCHASTIC**2)
        variance *= cells
        variance += np.float32(ELECTRONIC_GEV**2)
        event *= np.sqrt(variance[0], out=variance[0])
        event += cells
        event *= event >= READOUT_GEV
    return noisy


def windows(events: CrystalEvents) -> Windows:
    """Cut the window around every crystal above 0.5 GeV that is not too close to the border."""
    inner = events.cells_EXY[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    event_W, x_W, y_W = np.nonzero(inner > SEED_THRESHOLD_GEV)
    views = np.lib.stride_tricks.sliding_window_view(events.cells_EXY, (WINDOW, WINDOW), axis=(1, 2))
    crystal_W2 = np.stack([x_W, y_W], axis=1) + MARGIN
    return Windows(views[event_W, x_W, y_W], event_W, crystal_W2)


def _place(inside_EP2: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Return crystals (E, P, 2) so that both windows fit and the impact points are at least one crystal apart."""
    n = len(inside_EP2)
    first = rng.integers(MARGIN, GRID - MARGIN, (n, 2))
    second = np.zeros((n, 2), np.int64)
    todo = np.arange(n)
    while len(todo):
        distance = np.exp(rng.uniform(0, np.log(MAX_DISTANCE), len(todo)))
        angle = rng.uniform(0, 2 * np.pi, len(todo))
        aim = first[todo] + inside_EP2[todo, 0] + distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        second[todo] = np.rint(aim - inside_EP2[todo, 1])
        apart = second[todo] + inside_EP2[todo, 1] - first[todo] - inside_EP2[todo, 0]
        fits = ((second[todo] >= MARGIN) & (second[todo] < GRID - MARGIN)).all(axis=1)
        good = fits & (np.hypot(*apart.T) >= 1) & (second[todo] != first[todo]).any(axis=1)
        todo = todo[~good]
    return np.stack([first, second], axis=1)


def _deposit(showers_mev: NDArray[Any], chosen_EP: NDArray[Any], crystal_EP2: NDArray[Any], two_E: NDArray[Any]) -> NDArray[Any]:
    """Add the showers into the grid (float32 GeV); what falls outside the grid is lost, as in a detector."""
    side = PBWO4.cells_per_side
    pad = side // 2
    showers = showers_mev.reshape(-1, side, side)
    grid = np.zeros((len(chosen_EP), GRID + 2 * pad, GRID + 2 * pad), np.float32)
    for photon in (0, 1):
        for event in range(len(chosen_EP)) if photon == 0 else np.flatnonzero(two_E):
            x, y = crystal_EP2[event, photon]
            grid[event, x : x + side, y : y + side] += showers[chosen_EP[event, photon]]
    return grid[:, pad:-pad, pad:-pad] * np.float32(1e-3)
