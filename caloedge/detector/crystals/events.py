"""Whole events on a crystal grid: library showers placed at random or as a π⁰'s, electronics noise, zero suppression, windows.

Lengths are in crystals: crystal (i, j) covers [i, i + 1) × [j, j + 1). Energies are in GeV.
Axes: E event, P photon (at most two), X and Y crystal, W window, K and L candidate showers, C corner.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.constants import PI0_MASS_GEV
from caloedge.detector.crystals.geometry import PBWO4, CrystalMatrix
from caloedge.detector.crystals.library import ShowerLibrary
from caloedge.errors import BadData

GRID = 51
"""Crystals per side of an event."""
WINDOW = 7
MARGIN = WINDOW // 2
"""Smallest distance of a seed from the border, over which windows do not reach."""
SEED_THRESHOLD_GEV = 0.5
MAX_DISTANCE = 45.0

# DeepCluster's noise (arXiv 2311.17914): stochastic, electronic and constant term, and the read-out threshold.
STOCHASTIC = 0.03  # GeV^½
ELECTRONIC_GEV = 0.167
CONSTANT = 0.7 * 0.005
READOUT_GEV = 0.05

SPLITS = {"train": (0.0, 0.7), "valid": (0.7, 0.85), "test": (0.85, 1.0), "all": (0.0, 1.0)}
SPLIT_SEED = 20231117

DECAY_DISTANCE_MM = 1290.0
"""Distance from the decay point to the crystals: the inner radius of the CMS barrel (JINST 3 (2008) S08004)."""
PATCH = 13
"""Crystals per side of a close pair's surroundings: all windows around either photon fit."""
CANDIDATES = 8
"""Number of library showers of nearly the target energy that are tried per photon."""
MOST_CANDIDATES = 128
"""Largest number that is tried; only a library too small for more than tests needs so many."""
MISMATCH = 0.02
"""Largest difference of target and composed distance, in crystals: 0.4 mm. The mean difference is six times smaller."""


@dataclass(frozen=True)
class CrystalEvents:
    """Digitised events with their truth; rows of absent photons are NaN."""

    cells_EXY: NDArray[Any]
    """(E, 51, 51) float32 energies in GeV."""
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
    """(W, 7, 7) float32 energies in GeV."""
    event_W: NDArray[Any]
    """(W,) event of each window."""
    crystal_W2: NDArray[Any]
    """(W, 2) central crystal."""


def check_matrix(library: ShowerLibrary, matrix: CrystalMatrix = PBWO4) -> None:
    """Refuse a library whose showers were not made in this matrix of crystals."""
    side = matrix.cells_per_side
    if library.n_cells != side**2:
        raise BadData(
            f"{library.path}: showers have {library.n_cells} cells; this task needs {side}×{side} = {side**2}"
            f" {matrix.label} crystals (caloedge simulate --geometry {matrix.name})"
        )
    outside = np.abs(library.impact_mm).max() - matrix.impact_half_width_mm
    if outside > 1e-3:  # float32 of a half width
        raise BadData(
            f"{library.path}: an impact point lies {outside:.3g} mm outside the central crystal"
            f" (±{matrix.impact_half_width_mm} mm); impact_mm is measured from that crystal's centre"
        )


def split_rows(n_showers: int, split: str) -> NDArray[Any]:
    """Return the library rows of one split: 70 % train, 15 % valid, 15 % test of the *showers*; `all` for other libraries."""
    low, high = SPLITS[split]
    order = np.random.default_rng(SPLIT_SEED).permutation(n_showers)
    return order[round(low * n_showers) : round(high * n_showers)]


def block_generator(seed: int, split: str, block: int) -> np.random.Generator:
    """Return the random numbers of one block of events; no other block, split or seed shares them."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(list(SPLITS).index(split), block)))


def compose(library: ShowerLibrary, rows: NDArray[Any], n_events: int, rng: np.random.Generator) -> CrystalEvents:
    """Place one or two library showers (equal shares) per event, two of them at any distance from 1 crystal up.

    `rows` are the showers that may be used. Impact points keep their place inside the crystal. The distance of two
    photons is log-uniform from 1 to 45 crystals where the grid allows it, so that close pairs are frequent.
    """
    chosen_EP = rng.choice(rows, (n_events, 2))
    inside_EP2 = inside(library, chosen_EP)
    crystal_EP2 = place(inside_EP2, rng)
    two_E = rng.random(n_events) < 0.5
    cells_EXY = deposit(library.cells_mev, chosen_EP, crystal_EP2, two_E)
    absent_EP = np.stack([np.zeros_like(two_E), ~two_E], axis=1)
    impact_EP2 = np.where(absent_EP[:, :, None], np.nan, crystal_EP2 + inside_EP2)
    energy_EP = np.where(absent_EP, np.nan, library.energies_mev[chosen_EP] * 1e-3)
    return CrystalEvents(digitise(cells_EXY, rng), impact_EP2, energy_EP, np.where(absent_EP, -1, chosen_EP))


def opening_angle(energy_EP: NDArray[Any]) -> NDArray[Any]:
    """Return the angle (E,) in radians between the photons of a π⁰ from their energies in GeV: m² = 2 E₁ E₂ (1 − cos θ)."""
    return np.asarray(2 * np.arcsin(PI0_MASS_GEV / (2 * np.sqrt(energy_EP[..., 0] * energy_EP[..., 1]))))


def pion_distance(energy_EP: NDArray[Any]) -> NDArray[Any]:
    """Return the distance (E,) in crystals of a π⁰'s photons on a face `DECAY_DISTANCE_MM` away, at a right angle to its flight.

    >>> pion_distance(np.array([[10.0, 10.0]])).round(3)
    array([0.791])
    """
    angle_E = opening_angle(energy_EP)
    first_E = np.arctan2(energy_EP[..., 1] * np.sin(angle_E), energy_EP[..., 0] + energy_EP[..., 1] * np.cos(angle_E))
    return np.asarray((np.tan(first_E) + np.tan(angle_E - first_E)) * DECAY_DISTANCE_MM / PBWO4.cell_mm)


def match_pairs(
    library: ShowerLibrary,
    rows: NDArray[Any],
    target_gev_EP: NDArray[Any],
    target_distance_E: NDArray[Any],
    bounds_E2: NDArray[Any],
    rng: np.random.Generator,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Choose two showers per event of nearly the target energies and place the second at the target distance from the first.

    Impact points keep their place inside the crystal, so a distance can only be met nearly: of `CANDIDATES`² pairs of
    showers and the four crystals around the target point, in a random direction, those that meet it best are taken; more
    are tried where it is missed by more than `MISMATCH`. A target distance (E,) of NaN means that of a π⁰ of the showers'
    energies. Distances stay within [low, high) of `bounds_E2`. Returns showers (E, P), crystals (E, 2) from the first
    photon's to the second's, and distances (E,) in crystals.
    """
    n_events = len(target_distance_E)
    shower_EP = np.empty((n_events, 2), np.int64)
    step_E2 = np.empty((n_events, 2), np.int64)
    distance_E = np.empty(n_events)
    pending, n_candidates, most = np.arange(n_events), min(CANDIDATES, len(rows)), min(MOST_CANDIDATES, len(rows))
    while len(pending):
        near_EPK = nearest_in_energy(library, rows, target_gev_EP[pending], n_candidates)
        shower_EP[pending], step_E2[pending], distance_E[pending], mismatch = _best_pairs(
            library, near_EPK, target_distance_E[pending], bounds_E2[pending], rng
        )
        pending = pending[mismatch > MISMATCH] if n_candidates < most else pending[:0]
        n_candidates = min(2 * n_candidates, most)
    return shower_EP, step_E2, distance_E


def nearest_in_energy(library: ShowerLibrary, rows: NDArray[Any], target_gev: NDArray[Any], n: int) -> NDArray[Any]:
    """Return for each target energy (...) the `n` showers (..., n) of `rows` around it in the order of energy."""
    ordered = rows[np.argsort(library.energies_mev[rows], kind="stable")]
    position = np.searchsorted(library.energies_mev[ordered], 1e3 * target_gev) - n // 2
    return np.asarray(ordered[np.clip(position, 0, len(rows) - n)[..., None] + np.arange(n)])


def _best_pairs(
    library: ShowerLibrary,
    near_EPK: NDArray[Any],
    target_distance_E: NDArray[Any],
    bounds_E2: NDArray[Any],
    rng: np.random.Generator,
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return showers (E, P), step (E, 2), distance (E,) and mismatch (E,) of the best of all pairs of candidates."""
    n_events, _, n = near_EPK.shape
    energy_EPK = library.energies_mev[near_EPK] * 1e-3
    inside_EPK2 = inside(library, near_EPK)
    pair_EKL2 = np.stack(np.broadcast_arrays(energy_EPK[:, 0, :, None], energy_EPK[:, 1, None, :]), axis=-1)
    target_EKL = np.where(np.isnan(target_distance_E)[:, None, None], pion_distance(pair_EKL2), target_distance_E[:, None, None])
    angle_E = rng.uniform(0, 2 * np.pi, n_events)
    lower_steps, squares = [], []
    for axis, direction_E in enumerate((np.cos(angle_E), np.sin(angle_E))):
        offset_EKL = inside_EPK2[:, 1, None, :, axis] - inside_EPK2[:, 0, :, None, axis]
        step_EKL = np.floor(target_EKL * direction_E[:, None, None] - offset_EKL)
        lower_steps.append(step_EKL)
        lower_or_higher_EKL2 = (step_EKL + offset_EKL)[..., None] + np.arange(2)
        squares.append(np.expand_dims(lower_or_higher_EKL2**2, 4 - axis))
    distance_EKLC = np.sqrt(squares[0] + squares[1]).reshape(n_events, n, n, 4)
    low, high = bounds_E2.T[:, :, None, None, None]
    mismatch_EKLC = np.abs(distance_EKLC - target_EKL[..., None])
    mismatch_EKLC[(distance_EKLC < low) | (distance_EKLC >= high)] = np.inf
    event_E = np.arange(n_events)
    best_E = mismatch_EKLC.reshape(n_events, -1).argmin(axis=1)
    first_E, second_E, x_E, y_E = np.unravel_index(best_E, (n, n, 2, 2))
    shower_EP = np.stack([near_EPK[event_E, 0, first_E], near_EPK[event_E, 1, second_E]], axis=1)
    steps = [lowest[event_E, first_E, second_E] + corner_E for lowest, corner_E in zip(lower_steps, (x_E, y_E), strict=True)]
    distance_E, mismatch_E = (values.reshape(n_events, -1)[event_E, best_E] for values in (distance_EKLC, mismatch_EKLC))
    return shower_EP, np.stack(steps, axis=1).astype(np.int64), distance_E, mismatch_E


def deposit_patch(library: ShowerLibrary, shower_EP: NDArray[Any], step_E2: NDArray[Any]) -> NDArray[Any]:
    """Add each event's one or two showers into (E, 13, 13) crystals, float32 GeV, the first photon's crystal in the middle.

    The second shower (row −1 for none) is centred `step_E2` crystals away.
    """
    side = PBWO4.cells_per_side
    showers = library.cells_mev.reshape(-1, side, side)
    middle = np.arange(PATCH) + (side - PATCH) // 2
    patch = showers[shower_EP[:, 0, None, None], middle[:, None], middle]
    two_E = shower_EP[:, 1] >= 0
    x_EX, y_EY = (middle - step_E2[two_E, axis, None] for axis in (0, 1))
    patch[two_E] += showers[shower_EP[two_E, 1, None, None], x_EX[:, :, None], y_EY[:, None]]
    return np.asarray(patch * np.float32(1e-3))


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
    """Extract the window around every crystal above 0.5 GeV that is not too close to the border."""
    inner = events.cells_EXY[:, MARGIN:-MARGIN, MARGIN:-MARGIN]
    event_W, x_W, y_W = np.nonzero(inner > SEED_THRESHOLD_GEV)
    views = np.lib.stride_tricks.sliding_window_view(events.cells_EXY, (WINDOW, WINDOW), axis=(1, 2))
    crystal_W2 = np.stack([x_W, y_W], axis=1) + MARGIN
    return Windows(views[event_W, x_W, y_W], event_W, crystal_W2)


def inside(library: ShowerLibrary, shower: NDArray[Any]) -> NDArray[Any]:
    """Return where in its crystal each shower's photon hits, (..., 2) in [0, 1)."""
    return np.asarray(np.clip(library.impact_mm[shower] / PBWO4.cell_mm + 0.5, 0, 1 - 1e-6))


def place(inside_EP2: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    """Return crystals (E, P, 2) so that both windows fit and the impact points are at least one crystal apart."""
    n = len(inside_EP2)
    first = rng.integers(MARGIN, GRID - MARGIN, (n, 2))
    second = np.zeros((n, 2), np.int64)
    pending = np.arange(n)
    while len(pending):
        distance = np.exp(rng.uniform(0, np.log(MAX_DISTANCE), len(pending)))
        angle = rng.uniform(0, 2 * np.pi, len(pending))
        target = first[pending] + inside_EP2[pending, 0] + distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        second[pending] = np.rint(target - inside_EP2[pending, 1])
        separation = second[pending] + inside_EP2[pending, 1] - first[pending] - inside_EP2[pending, 0]
        fits = ((second[pending] >= MARGIN) & (second[pending] < GRID - MARGIN)).all(axis=1)
        accepted = fits & (np.hypot(*separation.T) >= 1) & (second[pending] != first[pending]).any(axis=1)
        pending = pending[~accepted]
    return np.stack([first, second], axis=1)


def deposit(showers_mev: NDArray[Any], chosen_EP: NDArray[Any], crystal_EP2: NDArray[Any], two_E: NDArray[Any]) -> NDArray[Any]:
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
