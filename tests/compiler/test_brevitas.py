"""Networks as users write them with Brevitas: torch, the executor and `Graph` agree, for QONNX and for QCDQ files."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from random_qonnx import Comparison, compare, stimulus

from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import read
from caloedge.compiler.ops import Conv, Dense

torch = pytest.importorskip("torch")
qnn = pytest.importorskip("brevitas.nn")
pytest.importorskip("brevitas.export")  # which warns of its own deprecated parts
pytest.importorskip("qonnx")
pytest.importorskip("onnxruntime")

from brevitas.export import export_onnx_qcdq, export_qonnx  # noqa: E402
from brevitas.quant import (  # noqa: E402
    Int8WeightPerChannelFloat,
    Int16Bias,
    ShiftedUint8ActPerTensorFloat,
    SignedBinaryActPerTensorConst,
    SignedBinaryWeightPerTensorConst,
    SignedTernaryWeightPerTensorConst,
)
from torch import nn  # noqa: E402

EVENTS = 500
MOST_DIFFERING = 1e-3
"""Of the codes: torch calculates in float32, and a sum next to a tie may fall to the other side of it."""
MOST_CODES = 2
"""One code that falls to the other side inside a network may change more than one at its end."""
FLOAT32_NOISE = 1e-6
"""How close to a tie float32 may decide wrongly."""
CHANNELS = {"weight_quant": Int8WeightPerChannelFloat}


def mlp() -> nn.Module:
    return nn.Sequential(
        qnn.QuantIdentity(bit_width=8),
        qnn.QuantLinear(16, 24, bias=True, weight_bit_width=4),
        nn.BatchNorm1d(24),
        qnn.QuantReLU(bit_width=4),
        qnn.QuantLinear(24, 8, bias=True, weight_bit_width=5, **CHANNELS),
        qnn.QuantHardTanh(bit_width=5, min_val=-1.0, max_val=1.0),
        qnn.QuantLinear(8, 5, bias=True),
    )


def binary_1d() -> nn.Module:
    return nn.Sequential(
        qnn.QuantIdentity(bit_width=8),
        qnn.QuantConv1d(2, 8, 3, dilation=2, bias=False, weight_bit_width=4),
        nn.BatchNorm1d(8),
        qnn.QuantReLU(bit_width=4),
        qnn.QuantConv1d(8, 4, 3, bias=False, weight_quant=SignedBinaryWeightPerTensorConst),
        nn.BatchNorm1d(4),
        qnn.QuantIdentity(act_quant=SignedBinaryActPerTensorConst),
        nn.Flatten(),
        qnn.QuantLinear(56, 3, bias=False, weight_quant=SignedTernaryWeightPerTensorConst),
    )


def separable_2d() -> nn.Module:
    return nn.Sequential(
        qnn.QuantIdentity(bit_width=8),
        qnn.QuantConv2d(2, 8, 3, padding=1, bias=True, weight_bit_width=4, **CHANNELS),
        nn.BatchNorm2d(8),
        qnn.QuantReLU(bit_width=4),
        nn.MaxPool2d(2),
        qnn.QuantConv2d(8, 8, 3, stride=2, padding=1, groups=8, bias=False, weight_bit_width=4),
        nn.BatchNorm2d(8),
        qnn.QuantReLU(bit_width=5),
        qnn.QuantConv2d(8, 6, 1, bias=False, weight_bit_width=6),
        nn.LeakyReLU(0.1),
        qnn.QuantIdentity(bit_width=6),
        nn.AdaptiveAvgPool2d(1),
        qnn.QuantIdentity(bit_width=8),
        nn.Flatten(),
        qnn.QuantLinear(6, 3, bias=True),
    )


def conv_3d() -> nn.Module:
    return nn.Sequential(
        qnn.QuantIdentity(bit_width=8),
        qnn.QuantConv3d(1, 4, 3, padding=1, bias=True, weight_bit_width=5),
        qnn.QuantReLU(bit_width=5),
        nn.MaxPool3d(2),
        qnn.QuantConv3d(4, 4, (1, 2, 2), bias=True, weight_bit_width=4, **CHANNELS),
        nn.PReLU(4),
        qnn.QuantIdentity(bit_width=6),
        nn.AvgPool3d((2, 1, 1)),
        qnn.QuantIdentity(bit_width=7),
        nn.Flatten(),
        qnn.QuantLinear(4 * 1 * 2 * 2, 3, bias=False),
    )


def average() -> nn.Module:
    quantised = {"return_quant_tensor": True}
    return nn.Sequential(
        qnn.QuantIdentity(bit_width=8, **quantised),
        qnn.QuantConv2d(1, 4, 3, bias=False, weight_bit_width=4),
        qnn.QuantReLU(bit_width=6, **quantised),
        qnn.TruncAvgPool2d(2, float_to_int_impl_type="floor"),
        nn.AvgPool2d(2, padding=1, count_include_pad=False),
        qnn.QuantIdentity(bit_width=6),
        nn.Flatten(),
        qnn.QuantLinear(16, 2, bias=True, bias_quant=None),
    )


class Residual(nn.Module):
    """Adds with a shared and with different scales, gates with a sigmoid and a tanh, and ends in two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.begin = qnn.QuantIdentity(bit_width=8)
        self.conv_1 = qnn.QuantConv2d(1, 4, 3, padding=1, bias=True)
        self.relu_1 = qnn.QuantReLU(bit_width=6)
        self.conv_2 = qnn.QuantConv2d(4, 4, 3, padding=1, bias=True)
        self.other = qnn.QuantIdentity(bit_width=7)
        self.relu_2 = qnn.QuantReLU(bit_width=6, return_quant_tensor=True)
        self.conv_3 = qnn.QuantConv2d(4, 4, 1, bias=True, bias_quant=Int16Bias)
        self.shared = qnn.QuantIdentity(bit_width=6)
        self.sigmoid = qnn.QuantSigmoid(bit_width=6)
        self.tanh = qnn.QuantTanh(bit_width=6)
        self.energy = qnn.QuantLinear(4 * 36, 2, bias=True)
        self.classes = qnn.QuantLinear(4 * 36, 4, bias=True)

    def forward(self, x: Any) -> Any:
        a = self.relu_1(self.conv_1(self.begin(x)))
        y = self.relu_2(a + self.other(self.conv_2(a)))
        y = self.shared(y) + self.shared(self.conv_3(y))
        return self.energy(self.sigmoid(y).flatten(1)), self.classes(self.tanh(y).flatten(1))


class UNet(nn.Module):
    """Concatenates an encoder's features with upsampled ones, and ends in a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.begin = qnn.QuantIdentity(bit_width=8)
        self.conv_1, self.norm = qnn.QuantConv2d(1, 4, 3, padding=1, bias=True), nn.BatchNorm2d(4)
        self.relu_1, self.pool = qnn.QuantReLU(bit_width=6), nn.MaxPool2d(2)
        self.conv_2, self.relu_2 = qnn.QuantConv2d(4, 8, 3, padding=1, bias=True), qnn.QuantReLU(bit_width=5)
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.conv_3 = qnn.QuantConv2d(12, 4, 3, padding=1, bias=True, **CHANNELS)
        self.relu_3 = qnn.QuantReLU(bit_width=6)
        self.transposed = qnn.QuantConvTranspose2d(4, 2, 2, stride=2, bias=True)
        self.end = qnn.QuantIdentity(bit_width=8)

    def forward(self, x: Any) -> Any:
        a = self.relu_1(self.norm(self.conv_1(self.begin(x))))
        b = self.relu_2(self.conv_2(self.pool(a)))
        return self.end(self.transposed(self.relu_3(self.conv_3(torch.cat([a, self.up(b)], 1)))))


def shifted() -> nn.Module:
    return nn.Sequential(
        qnn.QuantIdentity(bit_width=8),
        qnn.QuantConv1d(2, 4, 3, bias=True),
        qnn.QuantIdentity(bit_width=6, act_quant=ShiftedUint8ActPerTensorFloat),
        qnn.QuantConv1d(4, 4, 3, padding=1, bias=True),
        qnn.QuantReLU(bit_width=5),
        nn.Flatten(),
        qnn.QuantLinear(40, 3, bias=True),
    )


NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "mlp": (mlp, (16,)),
    "binary 1-D": (binary_1d, (2, 20)),
    "separable 2-D": (separable_2d, (2, 12, 12)),
    "3-D": (conv_3d, (1, 4, 6, 6)),
    "average pools": (average, (1, 8, 8)),
    "residual": (Residual, (1, 6, 6)),
    "U-Net": (UNet, (1, 8, 8)),
    "zero points": (shifted, (2, 12)),
}
NOT_QCDQ = {"binary 1-D"}
"""Brevitas has no QuantizeLinear for one bit."""
CASES = [
    *((name, "QONNX") for name in NETWORKS),
    *((name, "QCDQ") for name in NETWORKS if name not in NOT_QCDQ),
    ("mlp", "dynamo"),
    ("residual", "dynamo"),
]


@dataclass(frozen=True)
class Exported:
    """A trained network, its file and what the reader makes of it."""

    net: nn.Module
    path: Path
    graph: Graph
    reals: dict[str, Any]
    """Inputs of many events."""
    found: Comparison
    """Of the graph and the executor on them."""


@cache
def trained(name: str) -> nn.Module:
    build, shape = NETWORKS[name]
    torch.manual_seed(1)
    net = build().train()
    for _ in range(20):  # scales and batch statistics settle
        net(torch.randn(32, *shape) * 2)
    return net.eval()


@pytest.fixture(scope="module", params=CASES, ids=[f"{name} {form}" for name, form in CASES])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    name, form = request.param
    net, path = trained(name), tmp_path_factory.mktemp("brevitas") / "net.onnx"
    example = torch.zeros(1, *NETWORKS[name][1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporters' own
        if form == "QCDQ":
            export_onnx_qcdq(net, example, str(path), dynamo=False, opset_version=13)
            model = onnx.load(path)
        else:
            model = export_qonnx(net, example, dynamo=form == "dynamo")
    model.ir_version = 10  # the newest that onnxruntime reads
    onnx.save(model, path)
    graph = read(path)
    reals = stimulus(graph, 3, EVENTS)
    return Exported(net, path, graph, reals, compare(path, graph, reals))


def test_the_graph_equals_the_executor_on_every_code(exported: Exported) -> None:
    assert exported.found.agree.all()


def test_torch_in_float32_differs_next_to_ties_only(exported: Exported) -> None:
    graph = exported.graph
    (inputs,) = exported.reals.values()
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of named tensors, inside Brevitas
        results = exported.net(torch.tensor(inputs, dtype=torch.float32))
    integers = graph.run(graph.quantise_inputs(exported.reals))
    heads = results if len(graph.outputs) > 1 else (results,)
    for op, head in zip(graph.outputs, heads, strict=True):
        result = getattr(head, "value", head).numpy().astype(np.float64)
        scale = graph.tensors[op.name].format.lsb if op.scale is None else op.scale
        codes = np.rint((result - (0.0 if op.offset is None else op.offset)) / scale)
        difference = np.abs(codes - integers[op.name]).reshape(EVENTS, -1)
        assert (difference > 0).mean() < MOST_DIFFERING
        assert difference.max() <= MOST_CODES
        assert (exported.found.closest[difference.any(axis=1)] < FLOAT32_NOISE).all()


def test_a_corrupted_weight_is_noticed(exported: Exported) -> None:
    graph = exported.graph
    reals = {name: values[:50] for name, values in exported.reals.items()}
    layer = next(op for op in graph.ops if isinstance(op, Conv | Dense))
    weights = layer.weights.copy()
    weights.flat[int(np.abs(weights).argmax())] //= 2
    found = compare(exported.path, graph.replacing(layer.name, weights=weights), reals)
    assert (~found.agree & ~found.doubtful).any()
