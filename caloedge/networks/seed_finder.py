"""DeepCluster's seed finder (arXiv 2311.17914): two valid 3 × 3 convolutions and a dense head with one logit.

One definition serves the published network and the one small enough for firmware.
"""

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from caloedge.arithmetic import Arithmetic
from caloedge.catalog import Network

WINDOW = 7


@dataclass(frozen=True)
class SeedFinderSize:
    """Widths of the layers, and how the input is scaled."""

    conv: tuple[int, ...]
    dense: tuple[int, ...]
    input_scale: float = 1.0
    """Factor on the input in GeV; 1 for a network that is to be quantised."""
    leaky_slope: float = 0.0
    glorot: bool = False
    """Whether to start from Glorot's weights and zero biases instead of torch's: a deep float network on inputs far below 1
    learns nothing for long with the latter."""


SIZES = {
    # 7,029,449 parameters. Slope and initial weights are the defaults of Keras, which the authors use; they normalise to
    # 100 GeV.
    "published": SeedFinderSize(conv=(128, 256), dense=(2400, 500), input_scale=1 / 100, leaky_slope=0.3, glorot=True),
    "edge": SeedFinderSize(conv=(8, 12), dense=(32, 16)),
}


def build(arithmetic: Arithmetic, size: SeedFinderSize) -> nn.Module:
    """Return the network: input (N, 1, 7, 7) in GeV, output (N, 1) logit that the central crystal is a seed."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(input=arithmetic.input("input"))
    if size.input_scale != 1:
        layers["scale"] = arithmetic.scale(size.input_scale)
    channels, side = 1, WINDOW
    for i, width in enumerate(size.conv, 1):
        layers[f"conv{i}"] = arithmetic.conv2d(f"conv{i}", channels, width, kernel=3)
        layers[f"conv{i}_act"] = arithmetic.activation(f"conv{i}_act", size.leaky_slope)
        channels, side = width, side - 2
    layers["flatten"] = arithmetic.flatten()
    features = channels * side * side
    for i, width in enumerate(size.dense, 1):
        layers[f"dense{i}"] = arithmetic.dense(f"dense{i}", features, width)
        layers[f"dense{i}_act"] = arithmetic.activation(f"dense{i}_act", size.leaky_slope)
        features = width
    layers["logit"] = arithmetic.dense("logit", features, 1, is_output=True)
    if size.glorot:
        for layer in layers.values():
            for parameter in layer.parameters():
                nn.init.xavier_uniform_(parameter) if parameter.dim() > 1 else nn.init.zeros_(parameter)
    return nn.Sequential(layers)


NETWORK = Network(
    description="DeepCluster seed finder: 2 × conv 3×3, dense head, one logit per 7×7 window",
    sizes=SIZES,
    build=build,
)
