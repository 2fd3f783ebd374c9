"""The shower-shape classifier: a multilayer perceptron 16-64-32-32-5, the size of the field's benchmark (JINST 13 (2018) P07027).

The published form and the one for firmware have the same layers; only the arithmetic differs.
"""

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from caloedge.arithmetic import Arithmetic
from caloedge.catalog import Network
from caloedge.published import jet_classifiers


@dataclass(frozen=True)
class Size:
    """Widths: inputs, hidden layers, outputs."""

    inputs: int = 16
    hidden: tuple[int, ...] = (64, 32, 32)
    outputs: int = 5


SIZES = {"published": Size(), "edge": Size()}  # 4,389 parameters


def build(arithmetic: Arithmetic, size: Size) -> nn.Module:
    """Return the network: scaled variables (N, 16) to one logit per class (N, 5)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(input=arithmetic.input("input"))
    features = size.inputs
    for i, width in enumerate(size.hidden, 1):
        layers[f"dense{i}"] = arithmetic.dense(f"dense{i}", features, width)
        layers[f"dense{i}_act"] = arithmetic.activation(f"dense{i}_act", 0.0)
        features = width
    layers["logits"] = arithmetic.dense("logits", features, size.outputs, is_output=True)
    return nn.Sequential(layers)


NETWORK = Network(
    description="shower-shape classifier: MLP 16-64-32-32-5 with ReLU, one logit per class",
    sizes=SIZES,
    build=build,
    published_firmware=jet_classifiers,
)
