"""The energies of a shower's cells as numbers that a network learns, and back.

log2(1 + E / scale) is linear far below what one particle leaves, so that no gap opens between the threshold and the energies
of most cells; empty cells become noise just below 0. Numbers are centred by a polynomial of log E and of the layer's energy,
and scaled, for each set of cells that the detector's symmetry turns into each other.

Axes: N shower, C cell, L layer (or ring), O set of equivalent cells, K coefficient.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray

from caloedge.fidelity.layout import Layout
from caloedge.generation.energies import condition, refuse_nan

EMPTY, EMPTY_NOISE, EMPTY_MOST = -0.6, 0.2, -0.1
"""Numbers of empty cells: mean, width and the largest one."""
LAYER_DEGREE = 4
TERMS = 6
"""Of a cell's mean: see `CellCode.mean_KO`."""
LEAST_SPREAD = 0.05
LEAST_LAYER_SPREAD = 1e-3
"""Of the logarithm of a layer's energy: one that is empty in all showers of the fit has none."""
MOST_SPREADS = 6.0
"""Within which a layer's energy is told to a network."""
ROUNDING = 2e-5
"""By which the energy of a cell at the threshold may be off when it comes back: numbers are float32."""


@dataclass(frozen=True)
class CellCode:
    """How cell energies become numbers of mean 0 and width 1; all that decides it, as plain lists in a file."""

    min_energy_gev: float
    max_energy_gev: float
    scale_mev: float
    threshold_mev: float
    layer_mean_KL: NDArray[Any]
    layer_spread_L: NDArray[Any]
    mean_KO: NDArray[Any]
    """Coefficients of 1, c, c², l, l², c l, where c is log E and l the layer's energy."""
    spread_O: NDArray[Any]

    def channels(self, energies_mev: NDArray[Any], layers_mev: NDArray[Any]) -> NDArray[Any]:
        """Return what a network is told of the layers' energies (N, L): their logarithms, centred and scaled at each energy."""
        off = np.log10(layers_mev + self.scale_mev) - polynomial.polyval(self._c(energies_mev), self.layer_mean_KL).T
        return np.asarray(np.clip(off / self.layer_spread_L, -MOST_SPREADS, MOST_SPREADS))

    def _c(self, energies_mev: NDArray[Any]) -> NDArray[Any]:
        return condition(energies_mev, self.min_energy_gev, self.max_energy_gev)


@dataclass(frozen=True)
class Cells:
    """A code together with where the cells lie."""

    code: CellCode
    layout: Layout

    def layers(self, cells_mev: NDArray[Any]) -> NDArray[Any]:
        """Return the layer energies (N, L) MeV of showers (N, C) MeV."""
        return np.stack([cells_mev[:, rows].sum(axis=1, dtype=float) for rows in self._rows], axis=1)

    def encode(self, energies_mev: NDArray[Any], cells_mev: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
        """Return the numbers (N, C) float32 of showers (N, C) MeV; empty cells draw theirs."""
        mean = self._mean(energies_mev, self.layers(cells_mev))
        numbers = _numbers(cells_mev, self.code.scale_mev, self.code.threshold_mev, generator)
        return np.asarray((numbers - mean) / self._spread, np.float32)

    def decode(
        self, energies_mev: NDArray[Any], layers_mev: NDArray[Any], numbers: NDArray[Any], cut: float = 0.0
    ) -> NDArray[Any]:
        """Return showers (N, C) MeV with these layer energies (N, L) MeV of any numbers (N, C); those below `cut` are empty.

        Cells that fall below the threshold leave their energy to the others of their layer; where all do, the largest has all.
        """
        refuse_nan(numbers, "cells")
        found = numbers * self._spread + self._mean(energies_mev, layers_mev)
        # No cell holds more than its layer; without the bound, what a poor network says overflows.
        found = np.minimum(found, np.log2(1 + layers_mev / self.code.scale_mev)[:, self.layout.layer_C])
        cells = self._with_layers(np.where(found > cut, self.code.scale_mev * (np.exp2(found) - 1), 0.0), layers_mev)
        cells[cells < self.code.threshold_mev * (1 - ROUNDING)] = 0
        for layer, rows in enumerate(self._rows):
            lost = np.flatnonzero((layers_mev[:, layer] > 0) & ~cells[:, rows].any(axis=1))
            cells[lost, rows[found[lost][:, rows].argmax(axis=1)]] = layers_mev[lost, layer]
        cells = self._with_layers(cells, layers_mev)  # makes cells larger only: below the threshold falls what rounding takes
        return np.where(cells > 0, np.maximum(cells, self.code.threshold_mev), 0)

    def _with_layers(self, cells_mev: NDArray[Any], layers_mev: NDArray[Any]) -> NDArray[Any]:
        sums = self.layers(cells_mev)
        factors = np.where(sums > 0, layers_mev / np.where(sums > 0, sums, 1), 0)
        return np.asarray(cells_mev * factors[:, self.layout.layer_C])

    @cached_property
    def _rows(self) -> list[NDArray[Any]]:
        return [np.flatnonzero(self.layout.layer_C == layer) for layer in range(self.layout.n_layers)]

    @cached_property
    def _spread(self) -> NDArray[Any]:
        return np.asarray(self.code.spread_O[self.layout.orbits], np.float32)

    @cached_property
    def _layer_of(self) -> NDArray[Any]:
        return _layers_of_orbits(self.layout)

    def _mean(self, energies_mev: NDArray[Any], layers_mev: NDArray[Any]) -> NDArray[Any]:
        terms = _terms(self.code._c(energies_mev), self.code.channels(energies_mev, layers_mev))
        mean_NO = np.einsum("knl,kl->nl", terms[:, :, self._layer_of], self.code.mean_KO)
        return np.asarray(mean_NO, np.float32)[:, self.layout.orbits]


def fit_cells(
    energies_mev: NDArray[Any],
    cells_mev: NDArray[Any],
    layout: Layout,
    *,
    energies_gev: tuple[float, float],
    scale_mev: float,
    threshold_mev: float,
) -> Cells:
    """Return the code of some showers (N, C) MeV."""
    c = condition(energies_mev, *energies_gev)
    n_orbits = int(layout.orbits.max()) + 1
    rows = [np.flatnonzero(layout.layer_C == layer) for layer in range(layout.n_layers)]
    layers_mev = np.stack([cells_mev[:, of].sum(axis=1, dtype=float) for of in rows], axis=1)
    logs = np.log10(layers_mev + scale_mev)
    layer_mean_KL = polynomial.polyfit(c, logs, LAYER_DEGREE)
    layer_spread_L = np.maximum((logs - polynomial.polyval(c, layer_mean_KL).T).std(axis=0), LEAST_LAYER_SPREAD)
    code = CellCode(
        *energies_gev, scale_mev, threshold_mev, layer_mean_KL, layer_spread_L, np.zeros((TERMS, n_orbits)), np.ones(n_orbits)
    )
    terms = _terms(c, code.channels(energies_mev, layers_mev))
    generator = np.random.default_rng(1)
    layer_O = _layers_of_orbits(layout)
    for orbit in range(n_orbits):
        numbers = _numbers(cells_mev[:, layout.orbits == orbit], scale_mev, threshold_mev, generator)
        of_layer = terms[:, :, layer_O[orbit]].T
        code.mean_KO[:, orbit] = np.linalg.lstsq(of_layer, numbers.mean(axis=1), rcond=None)[0]
        code.spread_O[orbit] = (numbers - (of_layer @ code.mean_KO[:, orbit])[:, None]).std() + LEAST_SPREAD
    return Cells(code, layout)


def _layers_of_orbits(layout: Layout) -> NDArray[Any]:
    first = np.unique(layout.orbits, return_index=True)[1]
    return np.asarray(layout.layer_C[first])


def _terms(c_N: NDArray[Any], channels_NL: NDArray[Any]) -> NDArray[Any]:
    c = np.broadcast_to(c_N[:, None], channels_NL.shape)
    return np.stack([np.ones_like(channels_NL), c, c**2, channels_NL, channels_NL**2, c * channels_NL])


def _numbers(cells_mev: NDArray[Any], scale_mev: float, threshold_mev: float, generator: np.random.Generator) -> NDArray[Any]:
    empty = EMPTY + EMPTY_NOISE * generator.standard_normal(cells_mev.shape, np.float32)
    filled = np.log2(1 + np.asarray(cells_mev, np.float32) / np.float32(scale_mev))
    return np.asarray(np.where(cells_mev >= max(threshold_mev, 1e-30), filled, np.minimum(empty, EMPTY_MOST)))
