"""A transformer whose tokens are patches of a cylinder of cells, by default one whole layer each.

The conditions scale, shift and gate every block (adaLN-Zero, arXiv 2212.09748), as in CaloDREAM (arXiv 2405.09629), whose patches
are of 3 layers, 16 azimuths and 1 radius, 480 wide, 6 deep with 6 heads. Ours: positions are learnt where theirs are fixed, time
and conditions are embedded together, and a token has the energies of its own layers besides those that the conditions have.

Axes: N shower, T token, P cell of a patch, D feature, L layer, A azimuth, R radius.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from caloedge.generative.conditioned import Conditions, VelocityNetwork


class ModulatedNorm(nn.Module):
    """A layer norm whose scale and shift (N, 1, D) are given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)

    def forward(self, x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
        """Return tokens (N, T, D)."""
        result: Tensor = self.norm(x) * (1 + scale) + shift
        return result


class Block(nn.Module):
    """Self-attention, then two dense layers, each beside the identity."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.norm = heads, ModulatedNorm(width)
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.dense = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.modulation = nn.Linear(width, 6 * width)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        """Return tokens (N, T, D)."""
        scale1, shift1, gate1, scale2, shift2, gate2 = self.modulation(told)[:, None].chunk(6, 2)
        x = x + gate1 * self.attention(self.norm(x, scale1, shift1))
        result: Tensor = x + gate2 * self.dense(self.norm(x, scale2, shift2))
        return result

    def attention(self, x: Tensor) -> Tensor:
        """Return what each token learns from all (N, T, D)."""
        heads = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        found = functional.scaled_dot_product_attention(heads[0], heads[1], heads[2])
        result: Tensor = self.project(found.transpose(1, 2).flatten(2))
        return result


class LayerTransformer(VelocityNetwork):
    """Velocities of showers in a cylinder of (layers, azimuths, radii); a patch is as many of each, and divides them."""

    def __init__(
        self,
        shape: tuple[int, int, int],
        n_conditions: int,
        *,
        patch: Sequence[int] | None = None,
        width: int = 128,
        depth: int = 6,
        heads: int = 4,
        predicts: str = "x",
    ) -> None:
        super().__init__(math.prod(shape), shape[0], predicts=predicts)
        self.patch = (1, *shape[1:]) if patch is None else tuple(patch)
        if len(self.patch) != 3 or any(cells % size for cells, size in zip(shape, self.patch, strict=True)):
            given, cells = (" × ".join(map(str, of)) for of in (self.patch, shape))
            raise ValueError(f"patch of {given} cells does not divide the {cells} cells of (layers, azimuths, radii)")
        if width % heads:
            raise ValueError(f"{heads} heads do not divide the width of {width}")
        self.patches = tuple(cells // size for cells, size in zip(shape, self.patch, strict=True))
        self.conditions = Conditions(shape[0] + n_conditions, width)
        self.first = nn.Linear(math.prod(self.patch) + self.patch[0], width)
        self.places = nn.Parameter(0.02 * torch.randn(1, math.prod(self.patches), width))
        self.blocks = nn.ModuleList([Block(width, heads) for _ in range(depth)])
        self.norm, self.modulation, self.last = (
            ModulatedNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, math.prod(self.patch)),
        )
        for layer in (self.modulation, self.last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def numbers(self, x: Tensor, layers: Tensor, told: Tensor) -> Tensor:
        """Return what is said of every cell (N, cells)."""
        energies = layers.reshape(-1, self.patches[0], 1, self.patch[0])
        energies = energies.expand(-1, -1, self.patches[1] * self.patches[2], -1).flatten(1, 2)
        h = self.first(torch.cat([self._tokens(x), energies], 2)) + self.places
        embedded = functional.silu(self.conditions(torch.cat([layers, told], 1)))
        for block in self.blocks:
            h = block(h, embedded)
        scale, shift = self.modulation(embedded)[:, None].chunk(2, 2)
        return self._cells(self.last(self.norm(h, scale, shift)))

    def _tokens(self, x: Tensor) -> Tensor:
        """Return the cells of each patch (N, T, P)."""
        (n_l, n_a, n_r), (size_l, size_a, size_r) = self.patches, self.patch
        patches = x.reshape(-1, n_l, size_l, n_a, size_a, n_r, size_r).permute(0, 1, 3, 5, 2, 4, 6)
        return patches.flatten(4).flatten(1, 3)

    def _cells(self, tokens: Tensor) -> Tensor:
        """Return (N, cells) of the cells of each patch (N, T, P)."""
        return tokens.reshape(-1, *self.patches, *self.patch).permute(0, 1, 4, 2, 5, 3, 6).flatten(1)
