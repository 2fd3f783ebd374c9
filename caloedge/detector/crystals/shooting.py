"""How showers are asked for: one by one, or all of a part at once.

Axes: N shower, C cell.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shoot = Callable[[float, tuple[float, float], int], NDArray[Any]]
"""(energy in MeV, impact point in mm, seed) -> energies in cells in MeV, flat float64."""

ShootMany = Callable[[NDArray[Any], NDArray[Any], NDArray[Any]], Iterator[NDArray[Any]]]
"""(energies in MeV (N,), impact points in mm (N, 2), seeds (N,)) -> energies in cells in MeV (C,), shower by shower."""


def one_by_one(shoot: Shoot) -> ShootMany:
    """Return the function that shoots many showers, each as it is asked for."""

    def shoot_many(energies_mev: NDArray[Any], impact_mm: NDArray[Any], seeds: NDArray[Any]) -> Iterator[NDArray[Any]]:
        for energy_mev, (x_mm, y_mm), seed in zip(energies_mev, impact_mm, seeds, strict=True):
            yield np.asarray(shoot(float(energy_mev), (float(x_mm), float(y_mm)), int(seed)))

    return shoot_many
