"""DeepCluster's center finder (arXiv 2311.17914): impact point, energy and seed of a window that knows its neighbours.

The published network runs shared convolutions over the four windows of an event, weights their features by the distance of
the seeds and joins them: 3,226,504 parameters. It is written here for one window and its three others, which is the same
function. Its energy output is converted to the task's unit, so that both networks learn the same target; its windows are
turned to one orientation as the edge twin's are, which the paper does not do.

The edge twin sees one window with its neighbours marked where they lie in it, all shifted to the window's own scale, through
dense layers: a chain that firmware can hold.
"""

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from caloedge.arithmetic import Arithmetic, FloatArithmetic
from caloedge.catalog import Network

WINDOW = 7
FEATURES = 81
"""49 cells, 24 places of neighbours, 8 exponents: `reconstruction.windowing.features`."""
OUTPUTS = 4
SCALE_GEV = 100.0
"""The published network's inputs and energy output are divided by it."""
LEAKY_SLOPE = 0.3
"""The default of Keras, which the authors use."""
NORM_EPSILON, NORM_MOMENTUM = 1e-3, 0.01
"""Of batch normalisation: Keras' defaults, in torch's sense."""
LSB_PER_GEV = 32
"""Of the crystals' codes, whose leading bit sets the unit of the energy."""


@dataclass(frozen=True)
class Published:
    """The paper's network; its sizes are fixed."""


@dataclass(frozen=True)
class Edge:
    """Widths of the dense layers of the network for firmware."""

    dense: tuple[int, ...]


SIZES: dict[str, Published | Edge] = {"published": Published(), "edge": Edge((96, 64, 48))}  # 17,396 parameters


class PublishedCenterFinder(nn.Module):
    """(N, 4, 50) windows in GeV, each with its weight, the own one first, to (N, 4) outputs in the task's units."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3), nn.LeakyReLU(LEAKY_SLOPE), nn.BatchNorm2d(32, NORM_EPSILON, NORM_MOMENTUM),
            nn.Conv2d(32, 64, 3), nn.LeakyReLU(LEAKY_SLOPE), nn.BatchNorm2d(64, NORM_EPSILON, NORM_MOMENTUM), nn.Flatten(),
        )  # fmt: skip
        self.body = _dense(4 * 576, 1000, 0.1)
        self.centre = nn.Sequential(_dense(1000, 500, 0.1), nn.Linear(500, 2), nn.Tanh())
        self.energy = nn.Sequential(_dense(1000, 200, 0.3), nn.Linear(200, 1), nn.Sigmoid())
        self.seed = nn.Sequential(_dense(1000, 200, 0.1), nn.Linear(200, 1))
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):  # Keras' initial weights
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return offsets in x and y (crystals), energy beyond the nine central crystals in the own unit, seed logit."""
        windows, weights = x[:, :, :-1].reshape(-1, 1, WINDOW, WINDOW), x[:, :, -1:]
        if self.training:  # most windows have no neighbours: the statistics of batch normalisation do not want empty ones
            used = weights.flatten() > 0
            features = windows.new_zeros(len(windows), 576)
            features[used] = self.features(windows[used] / SCALE_GEV).to(features.dtype)
        else:
            features = self.features(windows / SCALE_GEV)
        joined = self.body((features.reshape(-1, 4, 576) * weights).flatten(1))
        nine_gev, unit_gev = self._own_scale(x[:, 0, :-1].reshape(-1, WINDOW, WINDOW))
        energy = (SCALE_GEV * self.energy(joined)[:, 0] - nine_gev) / unit_gev
        return torch.cat([self.centre(joined), energy[:, None], self.seed(joined)], dim=1)

    def _own_scale(self, windows: Tensor) -> tuple[Tensor, Tensor]:
        """Return the sum of the nine central crystals and the unit, both (N,) in GeV, as the hardware sees them."""
        codes = torch.clamp(torch.round(windows[:, 2:5, 2:5] * LSB_PER_GEV), max=4095)
        # Comparisons are exact everywhere; ONNX has no exp2, and its logarithms are natural.
        unit = torch.ones_like(codes[:, 1, 1])
        for exponent in range(5, 12):
            unit = torch.where(codes[:, 1, 1] >= 2**exponent, 2.0 ** (exponent - 4), unit)
        return codes.sum(dim=(1, 2)) / LSB_PER_GEV, unit


def _dense(features_in: int, features_out: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(nn.Linear(features_in, features_out), nn.LeakyReLU(LEAKY_SLOPE), nn.Dropout(dropout))


def build(arithmetic: Arithmetic, size: Published | Edge) -> nn.Module:
    """Return the network: inputs as the task gives them to this size, output (N, 4)."""
    if isinstance(size, Published):
        if not isinstance(arithmetic, FloatArithmetic):
            raise ValueError("the published center finder exists in float arithmetic only")
        return PublishedCenterFinder()
    layers: OrderedDict[str, nn.Module] = OrderedDict(input=arithmetic.input("input"))
    features = FEATURES
    for i, width in enumerate(size.dense, 1):
        layers[f"dense{i}"] = arithmetic.dense(f"dense{i}", features, width)
        layers[f"dense{i}_act"] = arithmetic.activation(f"dense{i}_act", 0.0)
        features = width
    layers["photon"] = arithmetic.dense("photon", features, OUTPUTS, is_output=True)
    return nn.Sequential(layers)


NETWORK = Network(
    description="DeepCluster center finder: position, energy and seed of a window with up to three neighbours",
    sizes=SIZES,
    build=build,
)
