"""What velocity networks share: how inputs are laid out, how time and conditions are told, how x-prediction gives a velocity.

Axes: N shower, C cell, L layer, K condition.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

FREQUENCIES = 32
FASTEST = 1000.0
LEAST_LEFT = 0.05
"""Of the time that is left: the velocity of x-prediction is divided by it."""


class Conditions(nn.Module):
    """(N, K + 1) conditions and time to what every block is told (N, width)."""

    def __init__(self, n_conditions: int, width: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.exp(torch.arange(FREQUENCIES) * (math.log(FASTEST) / (FREQUENCIES - 1))))
        self.dense = nn.Sequential(nn.Linear(2 * FREQUENCIES + n_conditions, width), nn.SiLU(), nn.Linear(width, width))

    def forward(self, told: Tensor) -> Tensor:
        """Return the embedding; the last column of `told` is the time."""
        angles = told[:, -1:] * self.get_buffer("frequencies")
        result: Tensor = self.dense(torch.cat([angles.sin(), angles.cos(), told[:, :-1]], 1))
        return result


class VelocityNetwork(nn.Module, ABC):
    """(N, C + L + K + 1) numbers, layer energies, conditions and time to velocities (N, C)."""

    def __init__(self, n_cells: int, n_layers: int, *, predicts: str = "x") -> None:
        super().__init__()
        if predicts not in ("x", "v"):
            raise ValueError(f"predicts: {predicts!r}; give x, the shower, or v, its velocity")
        self.n_cells, self.n_layers, self.predicts = n_cells, n_layers, predicts

    def forward(self, inputs: Tensor) -> Tensor:
        """Return velocities; what the network itself says is the shower or the velocity."""
        x, layers, told = inputs.tensor_split((self.n_cells, self.n_cells + self.n_layers), dim=1)
        found = self.numbers(x, layers, told)
        if self.predicts == "v":
            return found
        return (found - x) / (1 - told[:, -1:]).clamp(min=LEAST_LEFT)

    @abstractmethod
    def numbers(self, x: Tensor, layers: Tensor, told: Tensor) -> Tensor:
        """Return the numbers (N, C) of the shower, or their velocity."""
