"""`compile`, `inspect` and `verify` on a foreign QONNX file: what agrees is said, what differs is found and located."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from caloedge import project
from caloedge.artifact import Golden
from caloedge.catalog import Backend, Target, find
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import Compiled, compile_file
from caloedge.compiler.ops import Dense
from caloedge.errors import MissingTool, Unsupported
from caloedge.firmware import inspection
from caloedge.verification import executors, locating
from caloedge.verification.codes import Check, random_codes

pytest.importorskip("qonnx")
Call = Callable[..., Any]
rng = np.random.default_rng(5)


def quant(source: str, output: str, scale: str, bits: str = "eight", signed: int = 1) -> onnx.NodeProto:
    attributes = {"signed": signed, "narrow": 0, "rounding_mode": "ROUND"}
    return helper.make_node(
        "Quant", [source, scale, "zero", bits], [output], output, domain="qonnx.custom_op.general", **attributes
    )


def constant(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype=np.float32), name)


def write(path: Path, quantised: bool = True) -> Path:
    """Write x (4) -> dense 6 -> batch norm -> ReLU -> dense 3, with scales that are no powers of two."""
    hidden = "h" if quantised else "r"
    nodes = [
        quant("x", "xq", "s_x"),
        quant("w", "wq", "s_w", "four"),
        helper.make_node("MatMul", ["xq", "wq"], ["m"], "m"),
        helper.make_node("BatchNormalization", ["m", "gamma", "beta", "mean", "var"], ["n"], "n"),
        helper.make_node("Sigmoid", ["n"], ["r"], "r"),
        *([quant("r", "h", "s_h", "four", signed=0)] if quantised else []),
        quant("v", "vq", "s_v", "four"),
        helper.make_node("Gemm", [hidden, "vq", "b"], ["y"], "y"),
    ]
    constants = [
        *(constant(name, value) for name, value in (("s_x", 0.1), ("s_w", 0.037), ("s_h", 0.066), ("s_v", 0.02), ("zero", 0))),
        *(constant(name, value) for name, value in (("eight", 8), ("four", 4), ("b", [0.1, -0.2, 0.3]))),
        constant("w", rng.normal(0, 0.1, (4, 6))),
        constant("v", rng.normal(0, 0.07, (6, 3))),
        *(constant(name, rng.uniform(0.5, 1.5, 6)) for name in ("gamma", "var")),
        *(constant(name, rng.normal(0, 0.5, 6)) for name in ("beta", "mean")),
    ]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", size]) for name, size in (("x", 4), ("y", 3))]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], constants)
    model = helper.make_model(
        graph, ir_version=10, opset_imports=[helper.make_opsetid("", 15), helper.make_opsetid("qonnx.custom_op.general", 1)]
    )
    onnx.save(model, path)
    return path


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "their.onnx")


def wrong(graph: Graph) -> Graph:
    (last,) = [op for op in graph.ops if isinstance(op, Dense)][-1:]
    weights = last.weights.copy()
    weights[0, 0] += 1 if weights[0, 0] < last.weight_format.max_code else -1
    return graph.replacing(last.name, weights=weights)


def fake(monkeypatch: pytest.MonkeyPatch, change: Callable[[Graph], Graph]) -> None:
    """Put a backend in the place of the emulator that simulates a changed network."""
    built: dict[str, Graph] = {}

    def build(graph: Graph, target: Target, variant: str, folder: Path, choices: Mapping[str, Any]) -> None:
        built[str(folder)] = change(graph)

    backend = Backend("changed", ("only",), lambda *_: "", build, lambda folder, codes: built[str(folder)].run(codes))
    use_for_all(monkeypatch, backend)


def use_for_all(monkeypatch: pytest.MonkeyPatch, backend: Backend) -> None:
    for module in (project, executors, locating):
        monkeypatch.setattr(module, "find", lambda kind, name: backend if kind is Backend else find(kind, name))


def test_compile_verifies_what_it_compiled(file: Path, caloedge: Call) -> None:
    ended = caloedge("compile", file)
    assert ended.code == 0, ended
    assert "verified: 768 output codes of 256 random events, 0 LSB from the QONNX executor in float64" in ended.out
    assert "table of 256 × 6 entries" not in ended.out  # sums of 4 products of 8 by 4 bits need more codes than the input has
    assert "entries" in ended.out


def test_compile_says_where_the_executor_differs(file: Path, caloedge: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    from caloedge.compiler.onnx import reader

    right = reader.compile_file
    monkeypatch.setattr(reader, "compile_file", lambda path, missing=None: changed(right(path, missing)))
    ended = caloedge("compile", file)
    assert ended.code == 1
    assert "DIFFERS from the QONNX executor" in ended.out
    assert "tensor y" in ended.out


def changed(compiled: Compiled) -> Compiled:
    return replace(compiled, graph=wrong(compiled.graph), unoptimised=wrong(compiled.unoptimised))


def test_a_missing_quantiser_is_put_in_and_its_effect_measured(tmp_path: Path, caloedge: Call) -> None:
    file = write(tmp_path / "their.onnx", quantised=False)
    refused = caloedge("compile", file)
    assert refused.code == 2
    assert "node y: the result of r is not quantised; add a quantiser after it, or use --quantise-missing FORMAT" in refused.err
    coarse, fine = (caloedge("compile", file, "--quantise-missing", f"ufixed<{bits},0>") for bits in (4, 12))
    effects = []
    for ended in (coarse, fine):
        assert ended.code == 0, ended
        assert "at: r" in ended.out
        (line,) = [line for line in ended.out.splitlines() if line.startswith("output y: ")]
        effects.append(float(line.split()[2]))
    assert effects[0] > 10 * effects[1] > 0
    graph = compile_file(file, Format(False, 12, 12)).graph
    assert graph.tensors["sigmoid_1"].format.fraction == 12


def test_verify_runs_every_executor_on_a_file(file: Path, caloedge: Call, tmp_path: Path) -> None:
    ended = caloedge("verify", file, "--backend", "emulator:portable", "--projects", tmp_path / "projects", "--events", "200")
    assert ended.code == 0, ended
    assert ended.out.count("exact") == 3
    assert "3 pairs of executors compared on 200 events, 0 differ" in ended.out


def test_verify_finds_the_event_and_the_layer(
    file: Path, caloedge: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, wrong)
    ended = caloedge("verify", file, "--backend", "emulator", "--projects", tmp_path / "projects")
    assert ended.code == 1
    assert "DIFFERS" in ended.out
    assert "layer dense_2" in " ".join(ended.out.split())
    assert "3 pairs of executors compared on 1,000 events, 2 differ" in ended.out
    compiled = compile_file(file)
    codes = random_codes(compiled.graph, 1000, seed=1)
    first = int(np.flatnonzero((compiled.graph.run(codes)["y"] != wrong(compiled.graph).run(codes)["y"]).any(axis=1))[0])
    assert f"first in event {first}" in ended.out


def test_given_vectors_are_used(file: Path, caloedge: Call, tmp_path: Path) -> None:
    np.savez(tmp_path / "codes.npz", inputs=rng.integers(-128, 128, (7, 4)))
    ended = caloedge("verify", file, "--vectors", tmp_path / "codes.npz", "--backend", "emulator", "--projects", tmp_path / "p")
    assert ended.code == 0, ended
    assert "compared on 7 events" in ended.out
    np.savez(tmp_path / "codes.npz", inputs=rng.integers(-999, 999, (7, 4)))
    ended = caloedge("verify", file, "--vectors", tmp_path / "codes.npz", "--backend", "emulator", "--projects", tmp_path / "p")
    assert ended.code == 2


def test_a_backend_that_refuses_is_no_difference_but_a_missing_tool_is_an_error(file: Path) -> None:
    compiled = compile_file(file)
    codes = random_codes(compiled.graph, 20, seed=1)

    def refuse(kind: type[Exception]) -> list[Check]:
        def build(*_: object) -> None:
            raise kind("no")

        backend = Backend("refusing", ("only",), lambda *_: "", build, lambda *_: {})
        with pytest.MonkeyPatch.context() as patch:
            use_for_all(patch, backend)
            chain = executors.executors_of_file(file, compiled, [("rtl", "only")], Path("nowhere"))
            return executors.verify(chain, Golden(codes, compiled.graph.run(codes)), "verify")

    assert [(x.executor, x.refused) for x in refuse(Unsupported) if x.missing] == [("rtl only", True)]
    assert [(x.executor, x.refused) for x in refuse(MissingTool) if x.missing] == [("rtl only", False)]


def test_a_backend_that_was_asked_for_and_refuses_is_an_error(file: Path, caloedge: Call, tmp_path: Path) -> None:
    options = ("--events", "5", "--projects", tmp_path / "p", "--backend", "emulator", "--backend", "hls4ml:io_stream")
    ended = caloedge("verify", file, *options)
    assert ended.code == 2, ended
    assert ended.err.splitlines()[-1] == (
        "caloedge: hls4ml io_stream refuses the network: layer sigmoid_1: a table is not supported by backend 'hls4ml'; "
        "use backend 'emulator'"
    )
    assert "refused: " in " ".join(ended.out.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--backend", "emulator", "--layer", "nope=streaming"),
         "--layer nope=streaming: backend 'emulator' builds all layers of variant native alike; leave it out"),
        (("--backend", "rtl", "--layer", "nope=streaming", "--variant", "streaming"),
         "--layer nope=streaming: backend 'rtl' builds all layers of variant streaming alike; give --variant auto"),
        (("--backend", "rtl", "--layer", "nope=streaming"),
         r"layers: 'nope' is no layer of the network; there are: "),
        (("--backend", "hls4ml", "--variant", "auto", "--layer", "nope=streaming"),
         r"layers: 'nope' is no layer of the network; there are: "),
    ],
)  # fmt: skip
def test_a_choice_that_nobody_heeds_is_an_error(
    file: Path, caloedge: Call, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    ended = caloedge("build", file, tmp_path / "project", *options)
    assert ended.code == 2, ended
    assert ended.err.splitlines()[-1].startswith(f"caloedge: {message}"), ended.err
    assert not (tmp_path / "project").exists()


def test_inspect_shows_wastes_and_previews(file: Path, caloedge: Call) -> None:
    ended = caloedge("inspect", file, "--target", "xcvu13p")
    assert ended.code == 0, ended
    words = " ".join(ended.out.split())
    assert "multiply-adds" in words
    for backend in ("emulator", "hls4ml", "rtl"):
        assert f"│ {backend}" in words
    assert "a table is not supported by backend 'hls4ml'" in words


def test_wasted_bits_zero_weights_and_constant_channels_are_named() -> None:
    from caloedge.compiler.ops import InputQuantiser, Output, Requantise

    weights = np.array([[4, 0], [0, 0], [-8, 12]])
    graph = Graph(
        (
            InputQuantiser("x", (2,), Format(False, 3, 0)),
            Dense("d", ("x",), weights, np.array([0, 5, 1]), Format(True, 9, 0)),
            Requantise("r", ("d",), Format(True, 12, 0), relu=False),
            Output("y", ("r",)),
        )
    )
    wastes = {(waste.layer, waste.description) for waste in inspection.wastes(graph)}
    assert wastes == {
        ("d", "weights -8 … 12 need 5 of 9 bits"),
        ("d", "50% of the weights are zero"),
        ("d", "all weights are multiples of 4: 2 bits are never used"),
        ("r", "codes -55 … 85 need 8 of 12 bits"),
        ("r", "1 of 3 channels never change"),
    }


def test_a_foreign_file_is_built_and_emulated(file: Path, caloedge: Call, tmp_path: Path) -> None:
    np.savez(tmp_path / "codes.npz", inputs=(codes := rng.integers(-128, 128, (50, 4))))
    built = caloedge("build", file, tmp_path / "project", "--backend", "emulator", "--variant", "portable")
    assert built.code == 0, built
    assert caloedge("emulate", tmp_path / "project", tmp_path / "codes.npz", tmp_path / "out.npz").code == 0
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_array_equal(outputs["y"], compile_file(file).graph.run(codes)["y"])
    assert "is not supported by backend 'hls4ml'" in caloedge("build", file, tmp_path / "other").err
    assert not (tmp_path / "other").exists()


def test_outputs_wider_than_float64_are_compared_by_value(tmp_path: Path) -> None:
    """Two sums with scales that have a common unit of 2**-50 or less: their codes differ by more than float64 can show."""
    from caloedge.verification.executors import run_qonnx

    nodes = [quant("x", "a", "s_x"), quant("x", "b", "s_x"), helper.make_node("Mul", ["a", "f"], ["c"], "c")]
    nodes += [helper.make_node("MatMul", ["c", "w"], ["m"], "m"), helper.make_node("Add", ["m", "b"], ["y"], "y")]
    constants = [constant(name, value) for name, value in (("s_x", 0.1), ("f", 1 / 3), ("zero", 0), ("eight", 8))]
    constants.append(constant("w", np.diag([2.0**20 + 1, 3, 5, 7])))
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 4]) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:], constants)
    domains = [helper.make_opsetid("", 15), helper.make_opsetid("qonnx.custom_op.general", 1)]
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=domains), tmp_path / "wide.onnx")
    compiled = compile_file(tmp_path / "wide.onnx").graph
    assert max(map(abs, compiled.tensors["y"].range)) > 2**40
    codes = random_codes(compiled, 100, seed=2)
    expected = compiled.run(codes)["y"]
    np.testing.assert_array_equal(run_qonnx(tmp_path / "wide.onnx", compiled, codes)["y"], expected)
    scale = compiled.tensors["y"].format.lsb if compiled["y"].scale is None else compiled["y"].scale  # type: ignore[union-attr]
    shifted = compiled.replacing("y", offset=np.full((4,), 0.05) * np.ones_like(scale))
    assert (run_qonnx(tmp_path / "wide.onnx", shifted, codes)["y"] != expected).any()
