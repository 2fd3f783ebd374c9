"""A float network with fake-quantised activations: it rounds them as its quantised twin will.

Rounding a wide layer's weights costs little where they are rounded one after the other (`gptq`); what rounding the activations
and narrow layers costs is left to training. Gradients pass the rounding by the straight-through estimator (arXiv 1308.3432).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from caloedge.arithmetic import GATE_BITS, FoldedArithmetic, HardSigmoid, QuantisedArithmetic, ScaleChannels, Squeeze


class _StraightThrough(torch.autograd.Function):
    """Round to multiples of a step and saturate; where nothing saturates, gradients pass."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, step: Tensor, bottom: Tensor, top: Tensor) -> Tensor:
        rounded = torch.round(values / step) * step
        ctx.save_for_backward((rounded >= bottom) & (rounded <= top))
        return torch.clamp(rounded, bottom, top)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None


class FakeQuant(nn.Module):
    """A layer without weights whose results (N, C, …) are rounded to codes of `bits`, which may be signed."""

    def __init__(self, layer: nn.Module, bits: int, full_scale: float = 1.0, *, signed: bool = False) -> None:
        super().__init__()
        self.layer, self.bits, self.signed = layer, bits - signed, signed
        self.register_buffer("full_scale", torch.tensor(full_scale))
        self.full_scale: Tensor

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return what the layer makes of its inputs, rounded."""
        values: Tensor = self.layer(*inputs).float()
        step = self.full_scale / 2**self.bits
        bottom = -self.full_scale if self.signed else torch.zeros_like(self.full_scale)
        rounded: Tensor = _StraightThrough.apply(values, step, bottom, self.full_scale - step)  # type: ignore[no-untyped-call]
        return rounded


@dataclass(frozen=True)
class FakeQuantArithmetic(FoldedArithmetic):
    """Float layers without batch normalisation, and activations that round."""

    activation_bits: int
    input_bits: int
    input_fraction: int
    input_signed: bool = False
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    """Of activations that have others than `activation_bits`, by name."""

    def input(self, name: str) -> nn.Module:  # noqa: ARG002
        """Round the input."""
        full_scale = 2.0 ** (self.input_bits - self.input_signed - self.input_fraction)
        return FakeQuant(nn.Identity(), self.input_bits, full_scale, signed=self.input_signed)

    def scale(self, factor: float) -> nn.Module:
        """Refuse, as the quantised network does."""
        return QuantisedArithmetic(0, 0, 0, 0).scale(factor)

    def activation(self, name: str, leaky_slope: float) -> nn.Module:
        """Rectify and round."""
        if leaky_slope:
            raise ValueError(f"layer {name}: a quantised activation has slope 0 below zero, not {leaky_slope}")
        return FakeQuant(nn.ReLU(), self.layer_bits.get(name, self.activation_bits))

    def squeeze(self, name: str) -> nn.Module:  # noqa: ARG002
        """Sum each channel's pixels and round."""
        return FakeQuant(Squeeze(), GATE_BITS)

    def gate(self, name: str) -> nn.Module:  # noqa: ARG002
        """Squash to 0 … 1 − 2^-GATE_BITS."""
        return FakeQuant(HardSigmoid(), GATE_BITS)

    def scale_channels(self, name: str) -> nn.Module:
        """Multiply channels and round."""
        return FakeQuant(ScaleChannels(), self.layer_bits.get(name, self.activation_bits))
