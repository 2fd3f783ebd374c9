"""The shower-shape classifier: a multilayer perceptron 16-64-32-32-5, the size of the field's benchmark (JINST 13 (2018) P07027).

The published form and the one for firmware have the same layers; only the arithmetic differs.
"""

from collections import OrderedDict
from dataclasses import dataclass

from torch import nn

from caloedge.arithmetic import Arithmetic
from caloedge.catalog import Network
from caloedge.results import Number, Table


@dataclass(frozen=True)
class ShowerShapeSize:
    """Widths: inputs, hidden layers, outputs."""

    inputs: int = 16
    hidden: tuple[int, ...] = (64, 32, 32)
    outputs: int = 5


SIZES = {"published": ShowerShapeSize(), "edge": ShowerShapeSize()}  # 4,389 parameters
HGQ = "arXiv:2405.00645, Table I: XCVU9P, 200 MHz, one event per cycle"
HGQ_CLOCK_MHZ, VU9P_LUT, VU9P_DSP = 200, 1_182_240, 6_840

# name, accuracy %, latency ns, DSP %, LUT %
HGQ_ROWS = (
    ("BF, 14 bit", 74.4, 45, 56.0, 4.09),
    ("BP, 14 bit pruned", 74.8, 70, 7.7, 1.49),
    ("BH, 14 bit mixed", 73.2, 70, 1.3, 1.34),
    ("Q6, 6 bit", 74.8, 55, 1.8, 3.36),
    ("QE, mixed", 72.3, 55, 1.0, 0.77),
    ("QB, mixed", 71.9, 70, 1.0, 0.95),
    ("HGQ-1", 76.4, 30, 0.50, 0.53),
    ("HGQ-2", 75.9, 20, 0.09, 0.27),
    ("HGQ-3", 75.0, 20, 0.07, 0.13),
    ("HGQ-4", 73.9, 15, 0.0, 0.05),
    ("HGQ-5", 72.5, 10, 0.0, 0.04),
    ("HGQ-6", 71.0, 10, 0.0, 0.02),
)
"""Published firmware, for reading beside ours: other data, another device, other tools."""


def build(arithmetic: Arithmetic, size: ShowerShapeSize) -> nn.Module:
    """Return the network: scaled variables (N, 16) to one logit per class (N, 5)."""
    layers: OrderedDict[str, nn.Module] = OrderedDict(input=arithmetic.input("input"))
    features = size.inputs
    for i, width in enumerate(size.hidden, 1):
        layers[f"dense{i}"] = arithmetic.dense(f"dense{i}", features, width)
        layers[f"dense{i}_act"] = arithmetic.activation(f"dense{i}_act", 0.0)
        features = width
    layers["logits"] = arithmetic.dense("logits", features, size.outputs, is_output=True)
    return nn.Sequential(layers)


def jet_classifiers() -> Table:
    """Return the published jet classifiers of 16 inputs and 5 classes, most of size 16-64-32-32-5."""

    def published(value: float, unit: str = "") -> Number:
        return Number(value=value, unit=unit, origin="published", note=HGQ)

    return Table(
        title="Published: jet classifiers with 16 inputs and 5 classes",
        columns=("network", "accuracy, of jets", "latency", "latency cycles", "DSP", "share of DSP", "LUT", "share of LUT"),
        rows=tuple(
            (
                name,
                published(accuracy, "%"),
                published(ns, "ns"),
                published(round(ns * HGQ_CLOCK_MHZ / 1e3), "cycles"),
                published(round(dsp / 100 * VU9P_DSP)),
                published(dsp, "%"),
                published(round(lut / 100 * VU9P_LUT, -2)),
                published(lut, "%"),
            )
            for name, accuracy, ns, dsp, lut in HGQ_ROWS
        ),
        caption=f"{HGQ}. The accuracy is that of another task (jets, not showers) and cannot be compared with ours; cycles "
        "and resources can, as far as two tool chains can: these come from the vendor's synthesis. Shares were taken from a text "
        "that quotes the table; DSP and LUT are these shares of the device, cycles are latency times clock.",
    )  # fmt: skip


NETWORK = Network(
    description="shower-shape classifier: MLP 16-64-32-32-5 with ReLU, one logit per class",
    sizes=SIZES,
    build=build,
    published_firmware=jet_classifiers,
)
