"""The two arithmetics a network is written in: float (torch.nn) and quantised (Brevitas).

A network file calls these operations by name and never knows which it got. Trainable parameters have the same names in
both, so float weights load into the quantised twin. Quantised values use power-of-two scales per tensor, round half to
even and saturate; biases are integers at the accumulator's scale.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor, nn


class Arithmetic(Protocol):
    """What a network may be made of; `name` is the layer's name in the network."""

    def input(self, name: str) -> nn.Module:
        """Take the network's input."""

    def scale(self, factor: float) -> nn.Module:
        """Multiply by a constant."""

    def conv2d(self, name: str, channels_in: int, channels_out: int, kernel: int) -> nn.Module:
        """Convolve without padding."""

    def dense(self, name: str, features_in: int, features_out: int, *, is_output: bool = False) -> nn.Module:
        """Multiply by a matrix and add a bias; the last layer of a network `is_output`."""

    def activation(self, name: str, leaky_slope: float) -> nn.Module:
        """Rectify; a slope of 0 is ReLU."""

    def max_pool(self, kernel: int) -> nn.Module:
        """Keep the largest value of each window of `kernel` rows and columns; windows do not overlap."""

    def flatten(self) -> nn.Module:
        """Flatten channels, rows and columns, in this order."""


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return `factor * x`."""
        return self.factor * x


class FloatArithmetic:
    """Plain torch layers."""

    def input(self, name: str) -> nn.Module:  # noqa: ARG002
        """Take the input as it is."""
        return nn.Identity()

    def scale(self, factor: float) -> nn.Module:
        """Multiply by a constant."""
        return Scale(factor)

    def conv2d(self, name: str, channels_in: int, channels_out: int, kernel: int) -> nn.Module:  # noqa: ARG002
        """Convolve without padding."""
        return nn.Conv2d(channels_in, channels_out, kernel)

    def dense(self, name: str, features_in: int, features_out: int, *, is_output: bool = False) -> nn.Module:  # noqa: ARG002
        """Multiply by a matrix and add a bias."""
        return nn.Linear(features_in, features_out)

    def activation(self, name: str, leaky_slope: float) -> nn.Module:  # noqa: ARG002
        """Rectify."""
        return nn.LeakyReLU(leaky_slope) if leaky_slope else nn.ReLU()

    def max_pool(self, kernel: int) -> nn.Module:
        """Keep the largest value of each window."""
        return nn.MaxPool2d(kernel)

    def flatten(self) -> nn.Module:
        """Flatten channels, rows and columns, in this order."""
        return nn.Flatten()


@dataclass(frozen=True)
class QuantisedArithmetic:
    """Brevitas layers with power-of-two scales.

    `activation_max` gives each activation's largest useful value, measured on the float network; its power-of-two scale
    starts there and is trained.
    """

    weight_bits: int
    activation_bits: int
    input_bits: int
    input_fraction: int
    """The LSB of input codes is 2**-input_fraction of the input's unit."""
    activation_max: Mapping[str, float] = field(default_factory=dict)
    input_signed: bool = False

    def input(self, name: str) -> nn.Module:  # noqa: ARG002
        """Digitise the input: fixed scale, signed or not."""
        from brevitas.core.scaling import ScalingImplType
        from brevitas.nn import QuantIdentity
        from brevitas.quant import Int8ActPerTensorFixedPoint, Uint8ActPerTensorFixedPoint

        layer: nn.Module = QuantIdentity(
            act_quant=Int8ActPerTensorFixedPoint if self.input_signed else Uint8ActPerTensorFixedPoint,
            bit_width=self.input_bits,
            scaling_impl_type=ScalingImplType.CONST,
            scaling_init=2.0 ** (self.input_bits - self.input_signed - self.input_fraction),
            return_quant_tensor=True,
        )
        return layer

    def scale(self, factor: float) -> nn.Module:
        """Refuse: a quantised network takes its input in the unit of the read-out."""
        raise ValueError(f"a quantised network cannot scale its input by {factor}; choose input_fraction instead")

    def conv2d(self, name: str, channels_in: int, channels_out: int, kernel: int) -> nn.Module:  # noqa: ARG002
        """Convolve without padding."""
        from brevitas.nn import QuantConv2d
        from brevitas.quant import Int8WeightPerTensorFixedPoint, Int16Bias

        layer: nn.Module = QuantConv2d(
            channels_in,
            channels_out,
            kernel,
            weight_quant=Int8WeightPerTensorFixedPoint,
            weight_bit_width=self.weight_bits,
            bias_quant=Int16Bias,
            return_quant_tensor=True,
        )
        return layer

    def dense(self, name: str, features_in: int, features_out: int, *, is_output: bool = False) -> nn.Module:  # noqa: ARG002
        """Multiply by a matrix and add a bias."""
        from brevitas.nn import QuantLinear
        from brevitas.quant import Int8WeightPerTensorFixedPoint, Int16Bias

        layer: nn.Module = QuantLinear(
            features_in,
            features_out,
            bias=True,
            weight_quant=Int8WeightPerTensorFixedPoint,
            weight_bit_width=self.weight_bits,
            bias_quant=Int16Bias,
            return_quant_tensor=not is_output,
        )
        return layer

    def activation(self, name: str, leaky_slope: float) -> nn.Module:
        """Rectify, round half to even and saturate to unsigned codes."""
        if leaky_slope:
            raise ValueError(f"layer {name}: a quantised activation has slope 0 below zero, not {leaky_slope}")
        from brevitas.core.scaling import ScalingImplType
        from brevitas.nn import QuantReLU
        from brevitas.quant import Uint8ActPerTensorFixedPoint

        layer: nn.Module = QuantReLU(
            act_quant=Uint8ActPerTensorFixedPoint,
            bit_width=self.activation_bits,
            scaling_impl_type=ScalingImplType.PARAMETER,
            scaling_init=self.activation_max.get(name, 1.0),
            return_quant_tensor=True,
        )
        return layer

    def max_pool(self, kernel: int) -> nn.Module:
        """Keep the largest code of each window; torch's own layer passes scale and bit width on."""
        return nn.MaxPool2d(kernel)

    def flatten(self) -> nn.Module:
        """Flatten channels, rows and columns, in this order."""
        return nn.Flatten()
