"""The energies of a shower's layers as numbers that a network learns, and back.

The first number is the logarithm of the visible share of the incident energy. Each further one compares a layer with all that
come behind it, so that any numbers are some shower: log((E_l + a) / (E_behind + a)). The energy a, far below what one particle
leaves, closes the gap between empty layers and others; what is empty becomes noise just beyond the value of an empty layer.
All are centred and scaled by polynomials of log E, and the rare far ones (a first layer without energy) drawn in by asinh.

Axes: N shower, L layer (or ring), K coefficient.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.polynomial import polynomial
from numpy.typing import NDArray

from caloedge.errors import BadData

MEAN_DEGREE, WIDTH_DEGREE = 4, 2
EMPTY, EMPTY_NOISE, EMPTY_LEAST = 0.5, 0.15, 0.02
"""How far the numbers of empty layers lie beyond that of a layer without energy: mean, width and least, of the logarithm. Few
lie close to it, so that a network that blurs a little makes no soft layers of empty ones."""
ROUNDING = 1e-6
"""By which the energy of a layer at the threshold may be off when it comes back."""
MOST = 5.0
"""Numbers of a network are kept within: beyond, they are no shower's."""


@dataclass(frozen=True)
class EnergyCode:
    """How layer energies become numbers of mean 0 and width 1; all that decides it, as plain lists in a file."""

    min_energy_gev: float
    max_energy_gev: float
    scale_mev: float
    """a, the energy below which layers are as good as empty."""
    threshold_mev: float
    """Layers below it are empty."""
    mean_KL: NDArray[Any]
    log_width_KL: NDArray[Any]
    spread_L: NDArray[Any]

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.spread_L)

    def condition(self, energies_mev: NDArray[Any]) -> NDArray[Any]:
        """Return log E (N,) between −1 at the lowest and 1 at the highest energy of training."""
        return condition(energies_mev, self.min_energy_gev, self.max_energy_gev)

    def encode(self, energies_mev: NDArray[Any], layers_mev: NDArray[Any], generator: np.random.Generator) -> NDArray[Any]:
        """Return the numbers (N, L) of layer energies (N, L) MeV; empty layers draw theirs."""
        raw = _raw(energies_mev, layers_mev, self.scale_mev, generator)
        mean, width = self._mean_and_width(energies_mev)
        return np.asarray(np.arcsinh((raw - mean) / (width * self.spread_L)))

    def decode(self, energies_mev: NDArray[Any], numbers: NDArray[Any], cut_mev: float = 0.0) -> NDArray[Any]:
        """Return the layer energies (N, L) MeV of any numbers (N, L); layers below the threshold or a cut are empty."""
        refuse_nan(numbers, "layers")
        least_mev = max(self.threshold_mev, cut_mev) * (1 - ROUNDING)
        mean, width = self._mean_and_width(energies_mev)
        raw = np.sinh(np.clip(np.asarray(numbers, float), -MOST, MOST)) * self.spread_L * width + mean
        left = np.asarray(energies_mev, float) * np.exp(np.minimum(raw[:, 0], 0))  # none leaves more than it brings
        layers: NDArray[Any] = np.zeros_like(raw)
        for layer, ratio in enumerate(np.exp(raw[:, 1:]).T):
            # (E + a) / (left − E + a) = ratio, solved for E
            layers[:, layer] = np.clip((ratio * (left + self.scale_mev) - self.scale_mev) / (1 + ratio), 0, left)
            layers[layers[:, layer] < least_mev, layer] = 0
            left = left - layers[:, layer]
        layers[:, -1] = np.where(left < least_mev, 0, left)
        return layers

    def _mean_and_width(self, energies_mev: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
        c = self.condition(energies_mev)
        mean, log_width = (np.asarray(polynomial.polyval(c, of)).T for of in (self.mean_KL, self.log_width_KL))
        return mean, np.exp(log_width)


def condition(energies_mev: NDArray[Any], min_energy_gev: float, max_energy_gev: float) -> NDArray[Any]:
    """Return log E (N,), from −1 at the lowest to 1 at the highest energy.

    >>> condition(np.array([1e3, 1e4, 1e5]), 1, 100).tolist()
    [-1.0, 0.0, 1.0]
    """
    middle, half = np.log10(min_energy_gev * max_energy_gev) / 2, np.log10(max_energy_gev / min_energy_gev) / 2
    return np.asarray((np.log10(np.asarray(energies_mev, float)) - 3 - middle) / (half or 1.0))


def refuse_nan(numbers: NDArray[Any], role: str) -> None:
    """Raise `BadData` where a network says what is no number: it would become empty showers."""
    if np.isnan(numbers).any():
        raise BadData(f"network {role!r} of the generator gives nan; train it again, at a lower learning rate")


def fit_energies(
    energies_mev: NDArray[Any],
    layers_mev: NDArray[Any],
    *,
    energies_gev: tuple[float, float],
    scale_mev: float,
    threshold_mev: float,
) -> EnergyCode:
    """Return the code of some showers' layer energies (N, L) MeV."""
    raw = _raw(energies_mev, layers_mev, scale_mev, np.random.default_rng(0))
    c = condition(energies_mev, *energies_gev)
    mean_KL = polynomial.polyfit(c, raw, MEAN_DEGREE)
    off = raw - polynomial.polyval(c, mean_KL).T
    log_width_KL = polynomial.polyfit(c, np.log(np.abs(off) + 1e-3), WIDTH_DEGREE)
    spread_L = (off / np.exp(polynomial.polyval(c, log_width_KL).T)).std(axis=0)
    return EnergyCode(*energies_gev, scale_mev, threshold_mev, mean_KL, log_width_KL, spread_L)


def _raw(energies_mev: NDArray[Any], layers_mev: NDArray[Any], scale_mev: float, generator: np.random.Generator) -> NDArray[Any]:
    """Return the numbers before they are centred and scaled; a shower without any visible energy counts as the least visible."""
    layers = np.asarray(layers_mev, float)
    behind = np.cumsum(layers[:, ::-1], axis=1)[:, ::-1]
    visible = np.log(np.maximum(behind[:, :1], scale_mev) / np.asarray(energies_mev, float)[:, None])
    mine, rest = layers[:, :-1], behind[:, 1:]
    ratios = np.log((mine + scale_mev) / (rest + scale_mev))
    noise = EMPTY_NOISE * generator.standard_normal(ratios.shape)
    beyond = np.maximum(EMPTY + noise, EMPTY_LEAST)
    ratios = np.where(mine > 0, np.where(rest > 0, ratios, ratios + beyond), np.where(rest > 0, ratios - beyond, noise))
    return np.concatenate([visible, ratios], axis=1)
