"""The two arithmetics a network is written in: float (torch.nn) and quantised (Brevitas).

A network file calls these operations by name and never knows which it got. Trainable parameters have the same names in
both, so float weights load into the quantised twin; only batch normalisation is missing there, because `folded` has put it
into the layer before. Quantised values use power-of-two scales per tensor, round half to even and saturate; biases are
integers at the accumulator's scale.
"""

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from caloedge.graph_layers import COORDINATE_FRACTION, AllPairsGravNet, GravNet, Joined, Signed, WithinReach, plain

SCALE = "scaling_impl"
"""Part of the names of all that sets a quantiser's scale."""
GATE_BITS = 8
"""Of the means and gates of squeeze-and-excitation: there is one per channel and event, so they cost nothing."""
WEIGHT_BITS, COORDINATE_BITS = 8, 8
"""Of the weights of messages, from 0 to 1 in steps of 2⁻⁷, and of the coordinates of graphs."""
GATE_SLOPE, GATE_CENTRE = 0.25, 0.5
"""Of the hard sigmoid; the slope is the sigmoid's own at 0."""
NORM = "_norm"
"""What the name of a batch normalisation adds to that of the layer before it."""


class Arithmetic(Protocol):
    """What a network may be made of; `name` is the layer's name in the network."""

    def input(self, name: str) -> nn.Module:
        """Take the network's input."""

    def scale(self, factor: float) -> nn.Module:
        """Multiply by a constant."""

    def conv2d(
        self,
        name: str,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        padding: int = 0,
        groups: int = 1,
        is_output: bool = False,
    ) -> nn.Module:
        """Convolve, with `padding` zeros on every side; the last layer of a network `is_output`."""

    def norm(self, name: str, channels: int) -> nn.Module:
        """Normalise the channels of the convolution whose name this one continues with `_norm`."""

    def dense(self, name: str, features_in: int, features_out: int, *, bias: bool = True, is_output: bool = False) -> nn.Module:
        """Multiply by a matrix and add a bias; the last layer of a network `is_output`."""

    def activation(self, name: str, leaky_slope: float) -> nn.Module:
        """Rectify; a slope of 0 is ReLU."""

    def max_pool(self, kernel: int) -> nn.Module:
        """Keep the largest value of each window of `kernel` rows and columns; windows do not overlap."""

    def flatten(self) -> nn.Module:
        """Flatten channels, rows and columns, in this order."""

    def squeeze(self, name: str) -> nn.Module:
        """Sum each channel's pixels and divide by the next power of two of their number: (N, C, H, W) to (N, C)."""

    def gate(self, name: str) -> nn.Module:
        """Squash to 0 … 1 piecewise linearly."""

    def scale_channels(self, name: str) -> nn.Module:
        """Multiply the channels of the first argument (N, C, H, W), which is not negative, by the second (N, C)."""

    def signed(self, name: str) -> nn.Module:
        """Keep the signed results of a dense layer as they are."""

    def fixed(self, name: str, bits: int, fraction: int, *, signed: bool = True) -> nn.Module:
        """Keep values on steps of 2^-fraction, whatever they are in training; unsigned ones are rectified."""

    def joined(self, name: str) -> nn.Module:
        """Put features (N, nodes, F) of several inputs side by side."""

    def gravnet(self, name: str, k: int) -> nn.Module:
        """Collect messages of the k nearest nodes: (coordinates, features, valid) to (mean, largest) as `GravNet`."""

    def coordinates(self, name: str) -> nn.Module:
        """Keep the coordinates in which `gravnet` takes distances."""


class Scale(nn.Module):
    """Multiply by a constant."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Return `factor * x`."""
        return self.factor * x


class Squeeze(nn.Module):
    """Sum pixels and divide by the next power of two of their number, which is exact in binary."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C) from (N, C, H, W)."""
        rows, columns = x.shape[-2:]
        return torch.sum(x, dim=(2, 3)) * 2.0 ** -(int(rows) * int(columns) - 1).bit_length()


class HardSigmoid(nn.Module):
    """Squash to 0 … 1 piecewise linearly, with the slope of the sigmoid at 0."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        return torch.clamp(GATE_SLOPE * x + GATE_CENTRE, 0.0, 1.0)


class ScaleChannels(nn.Module):
    """Multiply channels (N, C, H, W) by factors (N, C)."""

    def forward(self, x: Tensor, factors: Tensor) -> Tensor:
        """Return (N, C, H, W)."""
        return x * factors[:, :, None, None]


class Rectified(nn.Module):
    """Keep positive values; not calibrated, as its scale is given."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        return torch.clamp(x, min=0.0)


CALIBRATED = (nn.ReLU, Squeeze, ScaleChannels, Signed)
"""Layers whose quantised twins need to know how large their results are."""


def folded(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a float network as its quantised twin takes them: batch normalisation is put into convolutions.

    That is exact as long as the statistics are not those of a batch.
    """
    modules, weights = dict(network.named_modules()), dict(network.state_dict())
    for name, norm in modules.items():
        if not isinstance(norm, nn.BatchNorm2d):
            continue
        before = name.removesuffix(NORM)
        layer = modules[before]
        assert isinstance(layer, nn.Conv2d), before
        assert layer.bias is not None, before
        assert norm.running_mean is not None
        assert norm.running_var is not None
        factor = norm.weight / torch.sqrt(norm.running_var + norm.eps)
        weights[f"{before}.weight"] = (layer.weight * factor[:, None, None, None]).detach()
        weights[f"{before}.bias"] = ((layer.bias - norm.running_mean) * factor + norm.bias).detach()
    return {name: value for name, value in weights.items() if not name.rpartition(".")[0].endswith(NORM)}


class FloatArithmetic:
    """Plain torch layers."""

    def input(self, name: str) -> nn.Module:  # noqa: ARG002
        """Take the input as it is."""
        return nn.Identity()

    def scale(self, factor: float) -> nn.Module:
        """Multiply by a constant."""
        return Scale(factor)

    def conv2d(
        self,
        name: str,  # noqa: ARG002
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        padding: int = 0,
        groups: int = 1,
        is_output: bool = False,  # noqa: ARG002
    ) -> nn.Module:
        """Convolve."""
        return nn.Conv2d(channels_in, channels_out, kernel, padding=padding, groups=groups)

    def norm(self, name: str, channels: int) -> nn.Module:
        """Normalise each channel."""
        assert name.endswith(NORM), name
        return nn.BatchNorm2d(channels)

    def dense(
        self,
        name: str,  # noqa: ARG002
        features_in: int,
        features_out: int,
        *,
        bias: bool = True,
        is_output: bool = False,  # noqa: ARG002
    ) -> nn.Module:
        """Multiply by a matrix and add a bias."""
        return nn.Linear(features_in, features_out, bias=bias)

    def activation(self, name: str, leaky_slope: float) -> nn.Module:  # noqa: ARG002
        """Rectify."""
        return nn.LeakyReLU(leaky_slope) if leaky_slope else nn.ReLU()

    def max_pool(self, kernel: int) -> nn.Module:
        """Keep the largest value of each window."""
        return nn.MaxPool2d(kernel)

    def flatten(self) -> nn.Module:
        """Flatten channels, rows and columns, in this order."""
        return nn.Flatten()

    def squeeze(self, name: str) -> nn.Module:  # noqa: ARG002
        """Sum each channel's pixels."""
        return Squeeze()

    def gate(self, name: str) -> nn.Module:  # noqa: ARG002
        """Squash to 0 … 1."""
        return HardSigmoid()

    def scale_channels(self, name: str) -> nn.Module:  # noqa: ARG002
        """Multiply channels."""
        return ScaleChannels()

    def signed(self, name: str) -> nn.Module:  # noqa: ARG002
        """Keep values as they are."""
        return Signed()

    def fixed(self, name: str, bits: int, fraction: int, *, signed: bool = True) -> nn.Module:  # noqa: ARG002
        """Keep values as they are, or rectify them."""
        return nn.Identity() if signed else Rectified()

    def joined(self, name: str) -> nn.Module:  # noqa: ARG002
        """Put features side by side."""
        return Joined(Signed())

    def gravnet(self, name: str, k: int) -> nn.Module:  # noqa: ARG002
        """Collect messages of the k nearest nodes."""
        return GravNet(k, exact=False, weight=WithinReach(), message=Signed(), mean=Signed())

    def coordinates(self, name: str) -> nn.Module:  # noqa: ARG002
        """Keep coordinates as they are."""
        return nn.Identity()


def all_pairs(network: nn.Module, nodes: int) -> nn.Module:
    """Return a copy of a quantised network whose graph layers export the messages of all pairs of `nodes`: without a gather."""
    network = copy.deepcopy(network)
    arithmetic = QuantisedArithmetic(0, 0, 0, 0)
    for name, layer in list(network.named_modules()):
        if isinstance(layer, GravNet):
            quantiser: Any = layer.message.act_quant
            scale, bits = float(quantiser.scale().detach()), float(quantiser.bit_width())
            message = int(bits), -round(math.log2(scale))
            network.set_submodule(
                name,
                AllPairsGravNet(layer, nodes, message, lambda b, f, signed: arithmetic.fixed("", b, f, signed=signed)),
            )
    return network


class FoldedArithmetic(FloatArithmetic):
    """Plain torch layers for the weights that `folded` gives."""

    def norm(self, name: str, channels: int) -> nn.Module:  # noqa: ARG002
        """Do nothing: it is in the convolution."""
        return nn.Identity()


class _Then(nn.Module):
    """A layer without weights, and the quantiser of its result."""

    def __init__(self, layer: nn.Module, quantiser: nn.Module) -> None:
        super().__init__()
        self.layer, self.quantiser = layer, quantiser

    def forward(self, *inputs: Any) -> Any:
        """Return what the quantiser makes of the layer's result."""
        return self.quantiser(self.layer(*(plain(x) for x in inputs)))


class _Ramp(nn.Module):
    """The hard sigmoid before it is clipped."""

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        return GATE_SLOPE * x + GATE_CENTRE


class FixedScale(nn.Module):
    """The range of a quantiser, as a buffer: saved with the weights, but not trained.

    Brevitas' own constant scales are not saved, and its parameters are trained again after every loading.
    """

    def __init__(self, scaling_init: Tensor, scaling_shape: tuple[int, ...]) -> None:
        super().__init__()
        self.register_buffer("value", torch.ceil(torch.log2(scaling_init)).expand(scaling_shape).clone())
        self.value: Tensor

    def forward(self, x: Tensor, levels: Tensor | None = None) -> Tensor:  # noqa: ARG002 (Brevitas passes what is quantised)
        """Return the step of the codes; without their number, the range."""
        range_ = 2.0**self.value
        return range_ if levels is None else range_ / levels


@dataclass(frozen=True)
class QuantisedArithmetic:
    """Brevitas layers with power-of-two scales.

    `largest` gives each activation's largest useful value, measured on the float network. Its scale starts there and is
    trained, and the scale of weights follows the largest of them, unless scales are fixed: then `largest` also gives, by the
    name of a layer, the largest useful weight, or one per filter (C_out, 1, …) where each filter has a scale of its own.
    """

    weight_bits: int
    activation_bits: int
    input_bits: int
    input_fraction: int
    """The LSB of input codes is 2**-input_fraction of the input's unit."""
    largest: Mapping[str, float | Tensor] = field(default_factory=dict)
    input_signed: bool = False
    fixed_scales: bool = False
    filter_scales: bool = False
    """Whether each filter has a scale of its own; only where scales are fixed."""
    layer_bits: Mapping[str, int] = field(default_factory=dict)
    """Of activations that have others than `activation_bits`, by name."""

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

    def conv2d(
        self,
        name: str,
        channels_in: int,
        channels_out: int,
        kernel: int,
        *,
        padding: int = 0,
        groups: int = 1,
        is_output: bool = False,
    ) -> nn.Module:
        """Convolve."""
        from brevitas.nn import QuantConv2d
        from brevitas.quant import Int32Bias

        layer: nn.Module = QuantConv2d(
            channels_in,
            channels_out,
            kernel,
            padding=padding,
            groups=groups,
            bias_quant=Int32Bias,
            return_quant_tensor=not is_output,
            **self._of_weights(name),
        )
        return layer

    def norm(self, name: str, channels: int) -> nn.Module:  # noqa: ARG002
        """Do nothing: `folded` has put it into the convolution."""
        return nn.Identity()

    def dense(
        self,
        name: str,
        features_in: int,
        features_out: int,
        *,
        bias: bool = True,
        is_output: bool = False,
    ) -> nn.Module:
        """Multiply by a matrix and add a bias."""
        from brevitas.nn import QuantLinear
        from brevitas.quant import Int32Bias

        layer: nn.Module = QuantLinear(
            features_in,
            features_out,
            bias=bias,
            bias_quant=Int32Bias if bias else None,
            return_quant_tensor=not is_output,
            **self._of_weights(name),
        )
        return layer

    def activation(self, name: str, leaky_slope: float) -> nn.Module:
        """Rectify, round half to even and saturate to unsigned codes."""
        if leaky_slope:
            raise ValueError(f"layer {name}: a quantised activation has slope 0 below zero, not {leaky_slope}")
        from brevitas.nn import QuantReLU

        layer: nn.Module = QuantReLU(
            bit_width=self.layer_bits.get(name, self.activation_bits),
            return_quant_tensor=True,
            **self._of_values(self.largest.get(name, 1.0)),
        )
        return layer

    def max_pool(self, kernel: int) -> nn.Module:
        """Keep the largest code of each window; torch's own layer passes scale and bit width on."""
        return nn.MaxPool2d(kernel)

    def flatten(self) -> nn.Module:
        """Flatten channels, rows and columns, in this order."""
        return nn.Flatten()

    def squeeze(self, name: str) -> nn.Module:
        """Sum each channel's pixels; the result has `GATE_BITS`."""
        return _Then(Squeeze(), self._positive(GATE_BITS, self.largest.get(name, 1.0)))

    def gate(self, name: str) -> nn.Module:  # noqa: ARG002
        """Squash to 0 … 1 − 2^-GATE_BITS."""
        return _Then(_Ramp(), self._positive(GATE_BITS, 1.0, trained=False))

    def scale_channels(self, name: str) -> nn.Module:
        """Multiply channels and round to the bits of an activation."""
        bits = self.layer_bits.get(name, self.activation_bits)
        return _Then(ScaleChannels(), self._positive(bits, self.largest.get(name, 1.0)))

    def signed(self, name: str) -> nn.Module:
        """Round half to even and saturate to signed codes."""
        from brevitas.nn import QuantIdentity

        bits = self.layer_bits.get(name, self.activation_bits)
        options = self._of_values(self.largest.get(name, 1.0), signed=True)
        layer: nn.Module = QuantIdentity(bit_width=bits, return_quant_tensor=True, **options)
        return layer

    def fixed(self, name: str, bits: int, fraction: int, *, signed: bool = True) -> nn.Module:  # noqa: ARG002
        """Round half to even and saturate to codes with steps of 2^-fraction."""
        from brevitas.nn import QuantIdentity

        options = self._of_values(2.0 ** (bits - signed - fraction), trained=False, signed=signed)
        layer: nn.Module = QuantIdentity(bit_width=bits, return_quant_tensor=True, **options)
        return layer

    def joined(self, name: str) -> nn.Module:
        """Put features side by side and round them on one scale."""
        return Joined(self.signed(f"{name}.quantiser"))

    def gravnet(self, name: str, k: int) -> nn.Module:
        """Collect messages of the k nearest nodes, rounded."""
        weight = self.fixed(f"{name}.weight", WEIGHT_BITS, WEIGHT_BITS - 1, signed=False)
        message, mean = (self.signed(f"{name}.{part}") for part in ("message", "mean"))
        return GravNet(k, exact=True, weight=weight, message=message, mean=mean)

    def coordinates(self, name: str) -> nn.Module:
        """Round coordinates to `COORDINATE_BITS`."""
        return self.fixed(name, COORDINATE_BITS, COORDINATE_FRACTION)

    def _positive(self, bits: int, largest: float | Tensor, *, trained: bool = True) -> nn.Module:
        """Return a quantiser to unsigned codes that saturates at both ends."""
        from brevitas.nn import QuantIdentity

        layer: nn.Module = QuantIdentity(bit_width=bits, return_quant_tensor=True, **self._of_values(largest, trained=trained))
        return layer

    def _of_values(self, largest: float | Tensor, *, trained: bool = True, signed: bool = False) -> dict[str, Any]:
        """Return how the results of a layer are quantised, as options of its Brevitas layer."""
        from brevitas.core.scaling import ScalingImplType
        from brevitas.quant import Int8ActPerTensorFixedPoint, Uint8ActPerTensorFixedPoint

        base = Int8ActPerTensorFixedPoint if signed else Uint8ActPerTensorFixedPoint

        class Fixed(base):  # type: ignore[misc, valid-type]
            scaling_impl = FixedScale

        if self.fixed_scales and trained:
            return {"act_quant": Fixed, "scaling_init": torch.as_tensor(largest, dtype=torch.float32)}
        how = ScalingImplType.PARAMETER if trained else ScalingImplType.CONST
        return {"act_quant": base, "scaling_impl_type": how, "scaling_init": float(largest)}

    def _of_weights(self, name: str) -> dict[str, Any]:
        """Return how the weights of a layer are quantised, as options of its Brevitas layer."""
        from brevitas.quant import Int8WeightPerTensorFixedPoint

        class Fixed(Int8WeightPerTensorFixedPoint):  # type: ignore[misc]
            scaling_impl = FixedScale
            scaling_init = torch.as_tensor(self.largest.get(name, 1.0), dtype=torch.float32)
            scaling_per_output_channel = self.filter_scales

        return {
            "weight_quant": Fixed if self.fixed_scales else Int8WeightPerTensorFixedPoint,
            "weight_bit_width": self.weight_bits,
        }
