"""The crystals of Belle II's electromagnetic calorimeter: rings around the beam, their neighbours and trigger cells.

8,736 crystals of CsI(Tl) in 69 rings: 13 of the forward end cap, 46 of the barrel, 10 of the backward end cap. Crystals are
numbered ring by ring, in azimuth inside of a ring, and positions are those of their centres. Ring numbers and positions are
those of hits in the simulated files of the experiment's trigger demonstrator (arXiv 2605.10612), rounded to 1 mm. Where crystals
of a ring stand in azimuth is half a pitch for all. Axes: R ring, C crystal, T trigger cell, K neighbour.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORWARD_RINGS, BARREL_RINGS, BACKWARD_RINGS = 13, 46, 10
BARREL_CRYSTALS = 144
"""Crystals of one ring of the barrel."""
BARREL_M = 1.3
"""Distance from the beam beyond which there is the barrel only."""
CRYSTALS_R = (
    48,
    48,
    64,
    64,
    64,
    *(96,) * 6,
    *(144,) * 2,
    *(BARREL_CRYSTALS,) * BARREL_RINGS,
    *(144,) * 2,
    *(96,) * 5,
    *(64,) * 3,
)

# Distance from the beam and along it, in cm.
RADIUS_CM_R = (
    *(49.7, 55.6, 61.7, 67.9, 73.9, 80.2, 86.6, 93.0, 99.4, 105.8, 112.4, 119.1, 125.8),
    *(
        136.2,
        136.4,
        136.7,
        137.0,
        137.3,
        137.6,
        137.9,
        138.1,
        138.4,
        138.6,
        138.8,
        139.1,
        139.3,
        139.5,
        139.8,
        140.0,
        140.1,
        140.3,
    ),
    *(
        140.5,
        140.6,
        140.7,
        140.8,
        140.8,
        140.8,
        140.8,
        140.8,
        140.7,
        140.7,
        140.6,
        140.6,
        140.7,
        140.8,
        140.8,
        140.9,
        140.8,
        140.8,
    ),
    *(140.8, 140.7, 140.6, 140.5, 140.3, 140.2, 140.0, 139.8, 139.6, 139.3),
    *(129.3, 120.2, 111.5, 103.2, 95.2, 87.4, 79.7, 72.2, 65.3, 58.5),
)
Z_CM_R = (
    *(212.2, 212.2, 212.1, 212.0, 212.0, 211.9, 211.8, 211.7, 211.5, 211.4, 211.4, 211.2, 211.0),
    *(210.4, 200.3, 190.7, 181.3, 172.2, 163.2, 154.6, 146.4, 138.3, 130.1, 122.4, 114.9, 107.5, 100.1, 93.0, 86.1, 79.3, 72.4),
    *(65.8, 59.3, 52.8, 46.3, 39.9, 33.7, 27.4, 21.1, 14.9, 8.8, 2.9, -2.7, -8.5, -14.7, -20.9, -27.2, -33.4, -39.7),
    *(-46.0, -52.6, -59.0, -65.6, -72.2, -79.0, -85.8, -92.7, -99.8, -107.0),
    *(-113.8, -114.2, -114.6, -114.9, -115.2, -115.6, -116.0, -116.3, -116.5, -116.8),
)

# Trigger cells are about 4 × 4 crystals: (rings, cells in azimuth) of each of their rings. There are 80 + 432 + 64 of them, as in
# the experiment; which rings of the end caps and of the barrel's ends belong together was not readable and is our choice.
TRIGGER_RINGS = ((5, 16), (4, 32), (4, 32), (3, 36), *((4, 36),) * 10, (3, 36), (5, 32), (5, 32))


@dataclass(frozen=True)
class CrystalRings:
    """The calorimeter as tables; make it with `belle2`."""

    ring_C: NDArray[Any]
    azimuth_C: NDArray[Any]
    """Number inside of the ring."""
    position_C3: NDArray[Any]
    """Centres in m."""
    trigger_cell_C: NDArray[Any]

    @cached_property
    def first_of_ring(self) -> NDArray[Any]:
        """Number of each ring's first crystal."""
        return np.concatenate([[0], np.cumsum(CRYSTALS_R)[:-1]])

    @cached_property
    def trigger_positions(self) -> NDArray[Any]:
        """Centres of the trigger cells in m: the mean of their crystals."""
        members_T = np.bincount(self.trigger_cell_C)
        sums = [np.bincount(self.trigger_cell_C, self.position_C3[:, axis]) for axis in range(3)]
        return np.stack(sums, axis=1) / members_T[:, None]

    @cached_property
    def neighbours(self) -> NDArray[Any]:
        """Crystals that touch each one by a side or a corner, −1 where there are fewer than the most; eight in the barrel."""
        return _touching(np.array(CRYSTALS_R))

    @cached_property
    def trigger_neighbours(self) -> dict[str, NDArray[Any]]:
        """For each trigger cell the cell next to it (−1 for none): `up` and `down` a ring, `left` and `right` in azimuth."""
        cells_R = np.array([cells for _, cells in TRIGGER_RINGS])
        first_R = np.concatenate([[0], np.cumsum(cells_R)])
        ring_T = np.repeat(np.arange(len(cells_R)), cells_R)
        azimuth_T = np.arange(first_R[-1]) - first_R[ring_T]

        def at(ring_step: int, azimuth_step: int) -> NDArray[Any]:
            ring = ring_T + ring_step
            inside = (ring >= 0) & (ring < len(cells_R))
            ring = np.clip(ring, 0, len(cells_R) - 1)
            middle = (azimuth_T + 0.5) / cells_R[ring_T] * cells_R[ring]
            azimuth = (np.floor(middle).astype(np.int64) + azimuth_step) % cells_R[ring]
            return np.where(inside, first_R[ring] + azimuth, -1)

        steps = {"up": 1, "same": 0, "down": -1}, {"left": -1, "": 0, "right": 1}
        return {
            " ".join(filter(None, (name if name != "same" else "", side))): at(step, aside)
            for name, step in steps[0].items()
            for side, aside in steps[1].items()
            if step or aside
        }

    def barrel_position(self, ring: NDArray[Any], azimuth: NDArray[Any]) -> NDArray[Any]:
        """Return points (…, 3) in m of the barrel at fractional crystals: crystal n of a ring reaches from n to n + 1.

        `ring` (…) counts from the barrel's first ring; between the centres of two rings radius and z change linearly.
        """
        barrel = slice(FORWARD_RINGS, FORWARD_RINGS + BARREL_RINGS)
        centres = np.arange(BARREL_RINGS) + 0.5
        radius, z = (_extended(ring, centres, np.array(values[barrel]) / 100) for values in (RADIUS_CM_R, Z_CM_R))
        phi = azimuth * (2 * np.pi / BARREL_CRYSTALS)
        return np.asarray(np.stack([radius * np.cos(phi), radius * np.sin(phi), z], axis=-1))


def belle2() -> CrystalRings:
    """Return the calorimeter.

    >>> len(belle2().ring_C), len(belle2().trigger_positions)
    (8736, 576)
    """
    crystals_R = np.array(CRYSTALS_R)
    ring_C = np.repeat(np.arange(len(crystals_R)), crystals_R)
    azimuth_C = np.arange(len(ring_C)) - np.concatenate([[0], np.cumsum(crystals_R)])[ring_C]
    phi_C = (azimuth_C + 0.5) / crystals_R[ring_C] * 2 * np.pi
    radius_C, z_C = (np.array(values)[ring_C] / 100 for values in (RADIUS_CM_R, Z_CM_R))
    position_C3 = np.stack([radius_C * np.cos(phi_C), radius_C * np.sin(phi_C), z_C], axis=1)
    group_R = np.repeat(np.arange(len(TRIGGER_RINGS)), [rings for rings, _ in TRIGGER_RINGS])
    cells_T = np.array([cells for _, cells in TRIGGER_RINGS])
    first_T = np.concatenate([[0], np.cumsum(cells_T)])
    group_C = group_R[ring_C]
    trigger_C = first_T[group_C] + azimuth_C * cells_T[group_C] // crystals_R[ring_C]
    return CrystalRings(ring_C, azimuth_C, position_C3, trigger_C)


def _extended(x: NDArray[Any], knots: NDArray[Any], values: NDArray[Any]) -> NDArray[Any]:
    """Interpolate linearly, and go on with the end slopes half a crystal beyond the outermost centres."""
    ends = 2 * values[[0, -1]] - values[[1, -2]]
    return np.asarray(np.interp(x, [knots[0] - 1, *knots, knots[-1] + 1], [ends[0], *values, ends[1]]))


def _touching(crystals_R: NDArray[Any]) -> NDArray[Any]:
    """Return the neighbours (C, K) of every crystal, −1 for none: those of the same ring, then of the rings before and after."""
    first_R = np.concatenate([[0], np.cumsum(crystals_R)])
    rows: list[NDArray[Any]] = []
    for ring, count in enumerate(crystals_R):
        azimuth = np.arange(count)
        columns = [first_R[ring] + (azimuth + step) % count for step in (-1, 1)]
        for other in (ring - 1, ring + 1):
            if not 0 <= other < len(crystals_R):
                continue
            ratio = crystals_R[other] / count
            # Their edges lie side by side where the pitch is equal; then corners touch, too.
            low = np.ceil(azimuth * ratio - 1e-9).astype(np.int64) - 1
            high = np.floor((azimuth + 1) * ratio + 1e-9).astype(np.int64)
            columns += [
                np.where(low + step <= high, first_R[other] + (low + step) % crystals_R[other], -1)
                for step in range(int((high - low).max()) + 1)
            ]
        rows.append(np.stack(columns, axis=1))
    most = max(row.shape[1] for row in rows)
    padded = [np.pad(row, ((0, 0), (0, most - row.shape[1])), constant_values=-1) for row in rows]
    return np.concatenate(padded)
