"""Brevitas' default networks, whose rescalings are too wide for adder graphs: `auto` streams those layers, bit for bit."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from test_rtl import rebuilt

from caloedge.backends.rtl import BACKEND
from caloedge.backends.rtl.design import design
from caloedge.catalog import Backend, Target, find
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import read
from caloedge.compiler.ops import Conv, Dense
from caloedge.errors import Unsupported
from caloedge.recipe import LayerChoice
from caloedge.verification.codes import compare_codes, random_codes

torch = pytest.importorskip("torch")
qnn = pytest.importorskip("brevitas.nn")
pytest.importorskip("brevitas.export")

from brevitas.export import export_qonnx  # noqa: E402
from torch import nn  # noqa: E402

TARGET = find(Target, "xcvu13p")
EMULATOR = find(Backend, "emulator")
N_EVENTS = 300
SHAPES = {"mlp": (16,), "cnn": (1, 6, 6)}


def layers(name: str) -> list[Any]:
    """Return a network of 8 bit with scales that are no powers of two and biases that are not quantised."""
    if name == "mlp":
        return [qnn.QuantIdentity(), qnn.QuantLinear(16, 8, bias=True), qnn.QuantReLU(), qnn.QuantLinear(8, 3, bias=True)]
    first = [qnn.QuantIdentity(), qnn.QuantConv2d(1, 4, 3, bias=True), qnn.QuantReLU()]
    return [*first, nn.Flatten(), qnn.QuantLinear(64, 3, bias=True)]


@cache
def network(name: str, folder: Path) -> Graph:
    """Calibrate and export a network, and read what was exported."""
    torch.manual_seed(0)
    net, path = nn.Sequential(*layers(name)).train(), folder / f"{name}.onnx"
    for _ in range(10):
        net(torch.randn(32, *SHAPES[name]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        export_qonnx(net.eval(), torch.zeros(1, *SHAPES[name]), export_path=str(path), dynamo=False)
    return read(path)


@pytest.fixture(scope="module")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Graph]:
    folder = tmp_path_factory.mktemp("brevitas")
    return {name: network(name, folder) for name in SHAPES}


def differing(graph: Graph, project: Path, stall: float = 0.0) -> int:
    assert BACKEND.simulate is not None
    codes = random_codes(graph, N_EVENTS, seed=4)
    return compare_codes("rtl", graph.run(codes), BACKEND.simulate(project, codes, stall, None).codes, 0.0).differing


@pytest.mark.parametrize("name", SHAPES)
def test_auto_streams_what_is_too_wide(name: str, graphs: dict[str, Graph]) -> None:
    stages = {stage.layer.name: stage for stage in design(graphs[name], TARGET, "auto", {}).stages}
    first, last = stages.values()
    assert (first.strategy, first.adder_graph, last.strategy) == ("streaming", False, "unrolled")
    assert "in scale_1 are too wide for an adder graph (19 at most)" in first.why
    assert first.multipliers == first.lanes * len(first.layer.op.weights)  # type: ignore[union-attr]
    with pytest.raises(
        Unsupported, match=rf"in scale_1 are too wide .*; use --variant auto --layer {first.layer.name}=streaming$"
    ):
        design(graphs[name], TARGET, "unrolled", {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "variant", "choices"),
    [
        ("mlp", "auto", {}),
        ("cnn", "auto", {}),
        ("cnn", "streaming", {}),
        ("cnn", "auto", {"conv_1": LayerChoice(strategy="streaming", reuse=1)}),
    ],
)
def test_default_networks_are_exact_everywhere(
    name: str, variant: str, choices: dict[str, LayerChoice], graphs: dict[str, Graph], tmp_path: Path
) -> None:
    graph, codes = graphs[name], random_codes(graphs[name], N_EVENTS, seed=4)
    project = tmp_path / "rtl"
    BACKEND.build(graph, TARGET, variant, project, choices)
    EMULATOR.build(graph, TARGET, "native", tmp_path / "emulator", {})
    assert compare_codes("emulator", graph.run(codes), EMULATOR.emulate(tmp_path / "emulator", codes), 0.0).differing == 0
    assert [differing(graph, project, stall) for stall in (0.0, 0.3)] == [0, 0]
    multiplied = next(op for op in graph.ops if isinstance(op, Conv | Dense))
    changed = multiplied.weights.copy()
    changed.flat[0] += 1 if changed.flat[0] < 127 else -1
    assert differing(graph.replacing(multiplied.name, weights=changed), project) > 0


@pytest.mark.slow
def test_a_wrong_rescaling_is_caught(graphs: dict[str, Graph], tmp_path: Path) -> None:
    graph, project = graphs["cnn"], tmp_path / "rtl"
    BACKEND.build(graph, TARGET, "auto", project, {})
    assert differing(graph, project) == 0
    text = next((project / "rtl").glob("*_layer_conv_1.v")).read_text()
    first = next(part for part in text.split(".BIAS(")[1:] if part.startswith(("64'sd", "-64'sd"))).split(")")[0]
    number = int(first.replace("64'sd", ""))
    other = number + 2**28
    assert text.count(f".BIAS({first})") == 1
    change = (f".BIAS({first})", f".BIAS({'-' if other < 0 else ''}64'sd{abs(other)})")
    assert differing(graph, rebuilt(project, tmp_path / "wrong", "layer_conv_1", change)) > 0
