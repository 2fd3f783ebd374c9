"""A normalising flow of rational-quadratic splines in coupling layers (arXiv 1906.04032), for the energies of layers.

Axes: N shower, L number, K condition.
"""

import torch
import zuko
from torch import Tensor, nn


class LayerFlow(nn.Module):
    """(N, L + K) numbers and conditions to −log p (N, 1) of the numbers; `sampler` goes the other way."""

    def __init__(
        self, n_numbers: int, n_conditions: int, *, transforms: int = 6, bins: int = 8, hidden: tuple[int, ...] = (128, 128)
    ) -> None:
        super().__init__()
        self.n_numbers = n_numbers
        self.flow = zuko.flows.NSF(
            features=n_numbers,
            context=n_conditions,
            transforms=transforms,
            bins=bins,
            passes=2,  # coupling: one evaluation in either direction
            randperm=True,
            hidden_features=tuple(hidden),
            activation=nn.SiLU,
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return −log p, per number."""
        numbers, told = inputs[:, : self.n_numbers], inputs[:, self.n_numbers :]
        likelihood: Tensor = self.flow(told).log_prob(numbers)
        return -likelihood[:, None] / self.n_numbers

    def sampler(self) -> nn.Module:
        """Return the network from noise and conditions (N, L + K) to numbers (N, L), for export."""
        return _Sampler(self)


class _Sampler(nn.Module):
    def __init__(self, network: LayerFlow) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        n = self.network.n_numbers
        numbers: Tensor = self.network.flow(inputs[:, n:]).transform.inv(inputs[:, :n])
        return torch.clamp(numbers, -20, 20)
