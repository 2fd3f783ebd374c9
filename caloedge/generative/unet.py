"""A U-Net over (layer, azimuth) with the radius as channels, for cylinders of cells; periodic in azimuth.

Axes: N shower, C channel, L layer, A azimuth.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from caloedge.generative.conditioned import Conditions, VelocityNetwork

GROUPS = 8
PLACES = 8
"""Learnt numbers per layer, by which the network knows where it is."""


class PeriodicConv(nn.Module):
    """A 3 × 3 convolution that goes round in azimuth."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 3, padding=(1, 0))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, C, L, A)."""
        result: Tensor = self.conv(torch.cat([x[..., -1:], x, x[..., :1]], -1))
        return result


class Block(nn.Module):
    """Two convolutions beside the identity; the conditions scale and shift between them."""

    def __init__(self, channels_in: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.norm1, self.conv1 = nn.GroupNorm(GROUPS, channels_in), PeriodicConv(channels_in, channels)
        self.norm2, self.conv2 = nn.GroupNorm(GROUPS, channels), PeriodicConv(channels, channels)
        self.told = nn.Linear(embedding, 2 * channels)
        self.beside = nn.Conv2d(channels_in, channels, 1) if channels_in != channels else nn.Identity()
        nn.init.zeros_(self.conv2.conv.weight)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Return (N, C, L, A)."""
        scale, shift = self.told(told)[:, :, None, None].chunk(2, 1)
        inner = self.conv1(functional.silu(self.norm1(x)))
        result: Tensor = self.beside(x) + self.conv2(functional.silu(self.norm2(inner) * (1 + scale) + shift))
        return result


class UNet(VelocityNetwork):
    """Velocities of showers in a cylinder of (layers, azimuths, radii)."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        n_conditions: int,
        *,
        widths: tuple[int, ...] = (32, 64, 128),
        embedding: int = 128,
        predicts: str = "x",
    ) -> None:
        layers, azimuths, radii = shape
        super().__init__(layers * azimuths * radii, layers, predicts=predicts)
        halvings = 2 ** (len(widths) - 1)
        if azimuths % halvings:
            raise ValueError(f"{len(widths)} widths halve {azimuths} azimuths {len(widths) - 1} times; give fewer widths")
        self.shape, self.padding = shape, -layers % halvings
        self.conditions = Conditions(n_conditions, embedding)
        self.places = nn.Parameter(0.1 * torch.randn(1, PLACES, layers, 1))
        self.first = PeriodicConv(radii + 1 + PLACES, widths[0])
        pairs = list(pairwise(widths))
        self.down = nn.ModuleList([Block(width, width, embedding) for width in widths])
        self.halve = nn.ModuleList([nn.Conv2d(fine, coarse, 2, 2) for fine, coarse in pairs])
        self.middle = Block(widths[-1], widths[-1], embedding)
        self.enlarge = nn.ModuleList([nn.ConvTranspose2d(coarse, fine, 2, 2) for fine, coarse in pairs])
        self.up = nn.ModuleList([Block(2 * fine, fine, embedding) for fine, _ in pairs])
        self.norm, self.last = nn.GroupNorm(GROUPS, widths[0]), PeriodicConv(widths[0], radii)
        nn.init.zeros_(self.last.conv.weight)

    def numbers(self, x: Tensor, layers: Tensor, told: Tensor) -> Tensor:
        """Return what is said of every cell (N, cells)."""
        n_layers, azimuths, _ = self.shape
        image = x.reshape(-1, *self.shape).permute(0, 3, 1, 2)
        planes = torch.cat([layers[:, None, :, None], self.places.expand(x.shape[0], -1, -1, -1).to(x.dtype)], 1)
        h = self.first(torch.cat([image, planes.expand(-1, -1, -1, azimuths)], 1))
        h = functional.pad(h, (0, 0, 0, self.padding))
        embedded = self.conditions(told)
        kept = []
        for block, halve in zip(self.down[:-1], self.halve, strict=True):
            h = block(h, embedded)
            kept.append(h)
            h = halve(h)
        h = self.middle(self.down[-1](h, embedded), embedded)
        for block, enlarge, fine in reversed(list(zip(self.up, self.enlarge, kept, strict=True))):
            h = block(torch.cat([enlarge(h), fine], 1), embedded)
        result: Tensor = self.last(functional.silu(self.norm(h)))[:, :, :n_layers]
        return result.permute(0, 2, 3, 1).flatten(1)
