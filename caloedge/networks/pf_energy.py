"""Energy per pixel from images of tracker and calorimeters: the networks of arXiv 2410.07250, and those built for firmware.

The paper's are five families of 5 × 5 convolutions at full resolution, each plain, with squeeze-and-excitation, with
attention along rows, and the first and second with a front end of 3-D convolutions: `TABULATED`. "90K" is `se_2` (92,465
parameters), "5M" family 4, "25M" `cnn3d_5`. Layer tables were read from the authors' code; between the front end and the
encoder there is no activation.

`reference_5m` and `reference_25m` have the paper's three ideas: at full resolution the chain of `se3d_2` with a wider decoder,
and beneath it an encoder–decoder with offset attention that holds the other parameters where the image is small. `cnn3d_5`
takes 154 GFLOP per event, `reference_25m` 2.6.

`edge` is `se_2` with a gate that hardware computes exactly; it starts from `published`. `student` is `se_1` of this kind, and
`trigger` looks at blocks of 2 × 2 pixels, four at a time, with separable convolutions.
Axes: N event, C channel, H row in η, W column in φ; inputs in units of `tasks.pf_energy.UNIT_GEV`.
"""

from collections import OrderedDict
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from caloedge.arithmetic import Arithmetic, FloatArithmetic
from caloedge.catalog import Network

CHANNELS = 4
"""EMCal, HCal, track −, track +."""
KERNEL = 5
REDUCTION = 16
"""Of squeeze-and-excitation's bottleneck."""
FRONT_CHANNELS = 12
FIRST_CHANGE = 0.1
"""Of weights whose results are added to what they are made of."""
TRIPLETS = ((0, 1, 2), (0, 1, 3))
"""Channels that the 3-D front end sees together: both calorimeters with the tracks of one charge."""


@dataclass(frozen=True)
class Plain:
    """A chain of 5 × 5 convolutions at full resolution: channels after each layer of encoder and decoder."""

    encoder: tuple[int, ...]
    decoder: tuple[int, ...]
    """The last is the output."""
    attention: Literal["", "squeeze", "row"] = ""
    """Between encoder and decoder."""
    front: bool = False
    """Whether 3-D convolutions come first."""
    decoder_norm: bool = False
    """Whether the decoder has batch normalisation, too."""
    hard_gate: bool = False
    """Whether the gate of squeeze-and-excitation is piecewise linear, for firmware."""


@dataclass(frozen=True)
class Pyramid:
    """A chain as `Plain` at full resolution, and beneath it an encoder–decoder of 3 × 3 convolutions at lower ones."""

    encoder: tuple[int, ...]
    """Channels of the 5 × 5 convolutions at full resolution before the encoder–decoder."""
    levels: tuple[int, ...]
    """Channels at half, quarter, … resolution."""
    decoder: int
    """Channels of the 5 × 5 convolution at full resolution that sees both."""
    blocks: int
    """Further convolutions at the lowest resolution."""


@dataclass(frozen=True)
class Blocks:
    """Separable 3 × 3 convolutions of blocks of `side` × `side` pixels: channels after the first and each separable layer."""

    side: int
    channels: tuple[int, ...]


_FAMILIES = {
    "1": Plain((8, 32), (16, 1)),
    "2": Plain((16, 32, 64), (16, 1)),
    "3": Plain((64, 128, 256), (64, 1), decoder_norm=True),
    "4": Plain((64, 128, 256, 512), (128, 32, 1), decoder_norm=True),
    "5": Plain((64, 128, 256, 512, 1024), (256, 64, 32, 1), decoder_norm=True),
}
_PLAIN_3D = _FAMILIES | {"2": Plain((32, 64), (16, 1))}
"""The plain second family loses its first layer behind the front end; with squeeze-and-excitation it keeps it."""
TABULATED: dict[str, Plain] = {
    **{f"cnn_{n}": size for n, size in _FAMILIES.items()},
    **{f"se_{n}": replace(size, attention="squeeze") for n, size in _FAMILIES.items()},
    **{f"row_{n}": replace(size, attention="row") for n, size in _FAMILIES.items()},
    **{f"cnn3d_{n}": replace(size, front=True) for n, size in _PLAIN_3D.items()},
    **{f"se3d_{n}": replace(size, attention="squeeze", front=True) for n, size in _FAMILIES.items()},
}
SIZES: dict[str, Plain | Pyramid | Blocks] = {
    "published": TABULATED["se_2"],
    "edge": replace(TABULATED["se_2"], hard_gate=True),
    "student": replace(TABULATED["se_1"], hard_gate=True),
    "trigger": Blocks(2, (24, 32, 32)),
    "reference_5m": Pyramid((16, 32, 64), (48, 96, 160, 320), 24, 1),
    "reference_25m": Pyramid((16, 32, 64), (64, 128, 256, 768), 24, 2),
    **TABULATED,
}


class SqueezeExcite(nn.Module):
    """Scale each channel by a gate that is computed from the means of all channels (arXiv 1709.01507); no biases."""

    def __init__(self, arithmetic: Arithmetic, name: str, channels: int, hard: bool) -> None:
        super().__init__()
        self.squeeze = arithmetic.squeeze(f"{name}.squeeze")
        self.reduce = arithmetic.dense(f"{name}.reduce", channels, channels // REDUCTION, bias=False)
        self.reduce_act = arithmetic.activation(f"{name}.reduce_act", 0.0)
        self.expand = arithmetic.dense(f"{name}.expand", channels // REDUCTION, channels, bias=False)
        self.gate = arithmetic.gate(f"{name}.gate") if hard else nn.Sigmoid()
        self.scale = arithmetic.scale_channels(f"{name}.scale")

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) from (N, C, H, W)."""
        scaled: Tensor = self.scale(x, self.gate(self.expand(self.reduce_act(self.reduce(self.squeeze(x))))))
        return scaled


class RowAttention(nn.Module):
    """Attend along each row of pixels."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) from (N, C, H, W)."""
        rows = x.permute(0, 2, 3, 1)
        seen = functional.scaled_dot_product_attention(self.query(rows), self.key(rows), self.value(rows))
        return seen.permute(0, 3, 1, 2)


class OffsetAttention(nn.Module):
    """Learn from what self-attention changes: x + ReLU(linear(x − attention(x))) (arXiv 2012.09688).

    All pixels attend to all; they are taken block by block, so that memory grows with the pixels and not with their square.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        inner = channels // 4
        self.query, self.key = nn.Conv2d(channels, inner, 1, bias=False), nn.Conv2d(channels, inner, 1, bias=False)
        self.value = nn.Conv2d(channels, channels, 1)
        self.change = nn.Sequential(nn.Conv2d(channels, channels, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, H, W) from (N, C, H, W)."""
        # One head, values as wide as keys, all contiguous: the path that never holds the whole matrix of attention.
        query, key, value = (
            layer(x).flatten(2).transpose(1, 2)[:, None].contiguous() for layer in (self.query, self.key, self.value)
        )
        parts = (part.contiguous() for part in value.split(key.shape[3], dim=3))
        seen = torch.cat([functional.scaled_dot_product_attention(query, key, part) for part in parts], dim=3)
        changed: Tensor = self.change(x - seen[:, 0].transpose(1, 2).reshape(x.shape))
        return x + changed


class Front3d(nn.Module):
    """Convolve triplets of images with three kernels, two channels each, shared by both triplets: (N, 4, …) to (N, 12, …)."""

    def __init__(self) -> None:
        super().__init__()
        self.kernels = nn.ModuleList(nn.Conv3d(1, 2, (3, size, size), padding=(0, size // 2, size // 2)) for size in (3, 5, 7))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 12, H, W)."""
        return torch.cat([kernel(x[:, None, list(triplet)])[:, :, 0] for triplet in TRIPLETS for kernel in self.kernels], dim=1)


class EncoderDecoder(nn.Module):
    """(N, 4, H, W) to (N, 1, H, W); the output is a change of a weighted sum of the inputs.

    There is no normalisation: the statistics of a few events, half of them nearly empty, differ much from batch to batch, and
    the energy of a pixel must not depend on them. Residual changes begin small (arXiv 1901.09321).
    """

    def __init__(self, size: Pyramid) -> None:
        super().__init__()
        self.front = Front3d()
        widths = (FRONT_CHANNELS, *size.encoder)
        self.encoder = nn.Sequential(*(_convolved(a, b, KERNEL) for a, b in pairwise(widths)), _gate(widths[-1]))
        levels = (widths[-1], *size.levels)
        self.down = nn.ModuleList(_double(a, b) for a, b in pairwise(levels))
        self.lowest = nn.Sequential(*(_Residual(levels[-1]) for _ in range(size.blocks)))
        # Pixels of the two highest levels are left to convolutions: they are near enough, and too many.
        self.attention = nn.ModuleList(OffsetAttention(width) for width in levels[2:])
        self.up = nn.ModuleList(_double(b + a, a) for a, b in pairwise(levels[1:]))
        self.decoder = _convolved(levels[1] + levels[0], size.decoder, KERNEL)
        self.last = nn.Conv2d(size.decoder, 1, KERNEL, padding=KERNEL // 2)
        self.sum = nn.Conv2d(CHANNELS, 1, 1, bias=False)
        nn.init.zeros_(self.last.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return the energy of each pixel."""
        levels = [self.encoder(self.front(x))]
        for number, down in enumerate(self.down):
            y = down(functional.max_pool2d(levels[-1], 2, ceil_mode=True))
            levels.append(self.attention[number - 1](y) if number else y)
        y = self.lowest(levels.pop())
        for up in reversed(self.up):
            y = up(_beside(y, levels.pop()))
        energy: Tensor = self.last(self.decoder(_beside(y, levels.pop()))) + self.sum(x)
        return energy


def _beside(low: Tensor, high: Tensor) -> Tensor:
    """Return the channels of a lower resolution, each pixel repeated, and those of a higher one."""
    return torch.cat([functional.interpolate(low, size=high.shape[2:]), high], dim=1)


def _convolved(channels_in: int, channels_out: int, kernel: int) -> nn.Sequential:
    convolution = nn.Conv2d(channels_in, channels_out, kernel, padding=kernel // 2)
    nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")
    nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
    return nn.Sequential(convolution, nn.ReLU())


def _gate(channels: int) -> nn.Module:
    return SqueezeExcite(FloatArithmetic(), "gate", channels, hard=False)


def _double(channels_in: int, channels_out: int) -> nn.Sequential:
    return nn.Sequential(_convolved(channels_in, channels_out, 3), _convolved(channels_out, channels_out, 3), _gate(channels_out))


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.change = _convolved(channels, channels, 3)
        next(self.change.parameters()).data *= FIRST_CHANGE  # of the convolution

    def forward(self, x: Tensor) -> Tensor:
        changed: Tensor = self.change(x)
        return x + changed


def build(arithmetic: Arithmetic, size: Plain | Pyramid | Blocks) -> nn.Module:
    """Return the network: (N, 4, H, W) to (N, 1, H, W); rows of attention and 3-D front ends exist in float arithmetic only."""
    if isinstance(size, Blocks):
        return _blocks(arithmetic, size)
    if not isinstance(arithmetic, FloatArithmetic) and (isinstance(size, Pyramid) or size.front or size.attention == "row"):
        raise ValueError("3-D front ends, rows of attention and the references exist in float arithmetic only")
    return EncoderDecoder(size) if isinstance(size, Pyramid) else _plain(arithmetic, size)


def _plain(arithmetic: Arithmetic, size: Plain) -> nn.Module:
    layers: OrderedDict[str, nn.Module] = OrderedDict(input=arithmetic.input("input"))
    channels = CHANNELS
    if size.front:
        layers["front"], channels = Front3d(), FRONT_CHANNELS
    for i, width in enumerate(size.encoder, 1):
        layers[f"encoder{i}"] = arithmetic.conv2d(f"encoder{i}", channels, width, KERNEL, padding=KERNEL // 2)
        layers[f"encoder{i}_norm"] = arithmetic.norm(f"encoder{i}_norm", width)
        layers[f"encoder{i}_act"] = arithmetic.activation(f"encoder{i}_act", 0.0)
        channels = width
    if size.attention == "squeeze":
        layers["attention"] = SqueezeExcite(arithmetic, "attention", channels, size.hard_gate)
    elif size.attention == "row":
        layers["attention"] = RowAttention(channels)
    for i, width in enumerate(size.decoder, 1):
        last = i == len(size.decoder)
        name = "energy" if last else f"decoder{i}"
        layers[name] = arithmetic.conv2d(name, channels, width, KERNEL, padding=KERNEL // 2, is_output=last)
        if size.decoder_norm and not last:
            layers[f"{name}_norm"] = arithmetic.norm(f"{name}_norm", width)
        if not last:
            layers[f"{name}_act"] = arithmetic.activation(f"{name}_act", 0.0)
        channels = width
    return nn.Sequential(layers)


def _blocks(arithmetic: Arithmetic, size: Blocks) -> nn.Module:
    first, *others = size.channels
    pixels = size.side**2
    layers: OrderedDict[str, nn.Module] = OrderedDict(input=arithmetic.input("input"))
    layers["block"] = nn.PixelUnshuffle(size.side)

    def convolution(name: str, channels_in: int, channels_out: int, kernel: int, groups: int, *, act: bool) -> None:
        layers[name] = arithmetic.conv2d(name, channels_in, channels_out, kernel, padding=kernel // 2, groups=groups)
        if act:
            layers[f"{name}_norm"] = arithmetic.norm(f"{name}_norm", channels_out)
            layers[f"{name}_act"] = arithmetic.activation(f"{name}_act", 0.0)

    convolution("first", CHANNELS * pixels, first, 3, 1, act=True)
    channels = first
    for i, width in enumerate(others, 1):
        convolution(f"deep{i}", channels, channels, 3, channels, act=True)
        convolution(f"point{i}", channels, width, 1, 1, act=True)
        channels = width
    layers["energy"] = arithmetic.conv2d("energy", channels, pixels, 3, padding=1, is_output=True)
    layers["pixels"] = nn.PixelShuffle(size.side)
    return nn.Sequential(layers)


NETWORK = Network(
    description="energy per pixel from tracker and calorimeter images: the families of arXiv 2410.07250 and references",
    sizes=SIZES,
    build=build,
    counts_statistics=False,
)
