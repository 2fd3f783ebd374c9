"""A cylindrical 3-D U-Net after CaloDiffusion (arXiv 2308.03876), periodic in azimuth, with zeros beyond layers and radii.

Published, as code and configuration: blocks of two convolutions with group norms beside the identity, conditions added between
them; two blocks and a linear attention of 32 features at each of three resolutions and in the middle; layers, azimuths and radii
halved twice by 3 × 4 × 4 convolutions; input channels for radius and layer; an embedding of 128; a block of its own before the
last, 1 × 1 × 1, convolution. With widths of 16, 16, 16 and 32 that makes the published 0.518 million parameters.

Ours: an input channel for the energies of layers; time and conditions embedded together; conditions in the block before the last
convolution too; the attention in the middle behind both blocks, not between them; a last convolution whose weights start at zero.

Axes: N shower, C channel, L layer, A azimuth, R radius.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from caloedge.generative.conditioned import Conditions, VelocityNetwork

GROUPS = 8
FEATURES = 32
"""Of a cell's query, key and value."""
HALVING = (3, 4, 4)
"""The kernel that halves layers, azimuths and radii."""


def periodic(x: Tensor) -> Tensor:
    """Return (N, C, L, A + 2, R) with the last azimuth before the first and the first behind the last."""
    return torch.cat([x[..., -1:, :], x, x[..., :1, :]], -2)


class CylindricalConv(nn.Module):
    """A convolution that goes round in azimuth."""

    def __init__(self, channels_in: int, channels: int, kernel: tuple[int, int, int] = (3, 3, 3), stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels_in, channels, kernel, stride, padding=(1, 0, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Convolve (N, C, L, A, R)."""
        result: Tensor = self.conv(periodic(x))
        return result


class Enlarge(nn.Module):
    """The way back from cells that were halved to the layers, azimuths and radii before."""

    def __init__(self, channels: int, fine: tuple[int, int, int]) -> None:
        super().__init__()
        ends = (1 - fine[0] % 2, 0, fine[2] % 2)
        self.conv = nn.ConvTranspose3d(channels, channels, HALVING, 2, padding=(1, 3, 1), output_padding=ends)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, L, A, R) of the finer cells."""
        result: Tensor = self.conv(periodic(x))
        return result


class Block(nn.Module):
    """Two convolutions beside the identity; the conditions are added between them."""

    def __init__(self, channels_in: int, channels: int, embedding: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = CylindricalConv(channels_in, channels), nn.GroupNorm(GROUPS, channels)
        self.conv2, self.norm2 = CylindricalConv(channels, channels), nn.GroupNorm(GROUPS, channels)
        self.told = nn.Linear(embedding, channels)
        self.beside = nn.Conv3d(channels_in, channels, 1) if channels_in != channels else nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Return (N, C, L, A, R)."""
        inner = functional.silu(self.norm1(self.conv1(x))) + self.told(functional.silu(told))[..., None, None, None]
        result: Tensor = self.beside(x) + functional.silu(self.norm2(self.conv2(inner)))
        return result


class LinearAttention(nn.Module):
    """Attention of every cell to all at a cost proportional to their number (arXiv 1812.01243), beside the identity."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(1, channels)
        self.qkv = nn.Conv1d(channels, 3 * FEATURES, 1, bias=False)
        self.project = nn.Sequential(nn.Conv1d(FEATURES, channels, 1), nn.GroupNorm(1, channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, L, A, R)."""
        queries, keys, values = self.qkv(self.norm(x.flatten(2))).chunk(3, 1)
        context = values @ keys.softmax(2).transpose(1, 2)
        result: Tensor = self.project(context @ queries.softmax(1) / FEATURES**0.5)
        return x + result.view_as(x)


class Stage(nn.Module):
    """Two blocks and the attention at one resolution."""

    def __init__(self, channels_in: int, channels: int, embedding: int, attention: bool) -> None:
        super().__init__()
        self.block1, self.block2 = Block(channels_in, channels, embedding), Block(channels, channels, embedding)
        self.attention = LinearAttention(channels) if attention else nn.Identity()

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Return (N, C, L, A, R)."""
        result: Tensor = self.attention(self.block2(self.block1(x, told), told))
        return result


class UNet3d(VelocityNetwork):
    """Velocities of showers in a cylinder of (layers, azimuths, radii).

    `widths` are the channels of the input and of each resolution; every resolution but the last is halved to the next.
    """

    positions: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        n_conditions: int,
        *,
        widths: Sequence[int] = (16, 16, 16, 32),
        embedding: int = 128,
        attention: bool = True,
        predicts: str = "x",
    ) -> None:
        layers, azimuths, radii = shape
        super().__init__(layers * azimuths * radii, layers, predicts=predicts)
        _check(shape, widths)
        sizes = [shape]
        for _ in widths[2:]:
            fine = sizes[-1]
            sizes.append(((fine[0] + 1) // 2, fine[1] // 2, fine[2] // 2))
        pairs = list(pairwise(widths))
        self.shape = shape
        self.register_buffer("positions", _positions(shape), persistent=False)
        self.conditions = Conditions(n_conditions, embedding)
        self.first = CylindricalConv(2 + len(self.positions), widths[0])
        self.down = nn.ModuleList([Stage(one, other, embedding, attention) for one, other in pairs])
        self.halve = nn.ModuleList([CylindricalConv(width, width, HALVING, 2) for width in widths[1:-1]])
        self.middle = Stage(widths[-1], widths[-1], embedding, attention)
        self.up = nn.ModuleList([Stage(2 * other, one, embedding, attention) for one, other in pairs])
        self.enlarge = nn.ModuleList([Enlarge(width, size) for width, size in zip(widths[1:-1], sizes[:-1], strict=True)])
        self.before_last, self.last = Block(widths[0], widths[0], embedding), nn.Conv3d(widths[0], 1, 1)
        nn.init.zeros_(self.last.weight)

    def numbers(self, x: Tensor, layers: Tensor, told: Tensor) -> Tensor:
        """Return what is said of every cell (N, cells)."""
        image = x.reshape(-1, 1, *self.shape)
        planes = layers[:, None, :, None, None].expand(-1, -1, -1, *self.shape[1:])
        positions = self.positions.to(x.dtype).expand(x.shape[0], -1, -1, -1, -1)
        h = self.first(torch.cat([image, planes, positions], 1))
        embedded = self.conditions(told)
        kept = []
        for number, stage in enumerate(self.down):
            h = self.halve[number - 1](h) if number else h
            h = stage(h, embedded)
            kept.append(h)
        h = self.middle(h, embedded)
        for number in reversed(range(len(self.up))):
            h = self.up[number](torch.cat([h, kept[number]], 1), embedded)
            h = self.enlarge[number - 1](h) if number else h
        result: Tensor = self.last(self.before_last(h, embedded))
        return result.flatten(1)


def _check(shape: tuple[int, int, int], widths: Sequence[int]) -> None:
    _, azimuths, radii = shape
    halvings = len(widths) - 2
    if halvings < 0:
        raise ValueError("widths are at least two: that of the input and that of the finest cells")
    if wrong := next((width for width in widths if width % GROUPS), 0):
        raise ValueError(f"width {wrong} is no multiple of {GROUPS}")
    if azimuths % 2**halvings or radii < 2**halvings:
        raise ValueError(f"{len(widths)} widths halve {azimuths} azimuths and {radii} radii {halvings} times; give fewer widths")


def _positions(shape: tuple[int, int, int]) -> Tensor:
    """Return radius and layer of every cell (2, L, A, R), from 0 to 1."""
    layer, _, radius = torch.meshgrid(*(torch.linspace(0, 1, size) for size in shape), indexing="ij")
    return torch.stack([radius, layer])
