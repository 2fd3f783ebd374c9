"""Files that search for the nearest nodes: random vectors have ties and padding, and the first wrong layer is named."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gravnet_files import FIRST_ZERO, NODES, K, Layer, gravnet

from caloedge.catalog import Backend, Target, find
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import compile_file
from caloedge.compiler.ops import InputQuantiser, Nearest, Op, Output, Table
from caloedge.verification import executors, locating
from caloedge.verification.codes import random_codes, random_vectors
from caloedge.verification.executors import executors_of_file, verify
from caloedge.verification.locating import first_differing_node

Call = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    written, output = gravnet(Layer())
    return written.save(tmp_path / "layer.onnx", output)


def shares_of_rows(coordinates: np.ndarray, valid: np.ndarray, k: int, reach: int) -> dict[str, float]:
    """Return which share of nodes has equal distances at the k-th place, and which less than k nodes within reach."""
    nodes, axes = coordinates.shape[1:]
    ops = (
        InputQuantiser("c", (nodes, axes), Format(True, 32, 0)),
        InputQuantiser("v", (nodes,), Format(True, 32, 0)),
        Nearest("d", ("c", "v"), k + 1, reach, "distances"),
    )
    found = Graph((*ops, Output("y", ("d",)))).run({"c": coordinates, "v": valid})["y"]
    return {
        "tied": float(((found[..., k] == found[..., k - 1]) & (found[..., k] < reach)).mean()),
        "few": float((found[..., k - 1] == reach).mean()),
        "equal": float((found[..., 0] == 0).mean()),
    }


def test_random_codes_have_ties_few_hits_and_padding(file: Path) -> None:
    graph = compile_file(file).graph
    codes = random_codes(graph, 2000, seed=1)
    shares = shares_of_rows(codes[:, :, 1:3], codes[:, :, 0], K, FIRST_ZERO)
    uniform = np.random.default_rng(1).integers(-32, 32, codes.shape)
    before = shares_of_rows(uniform[:, :, 1:3], uniform[:, :, 0], K, FIRST_ZERO)
    assert before["tied"] < 0.002
    assert before["equal"] < 0.002
    assert shares["tied"] > 0.02
    assert shares["equal"] > 0.03
    assert (codes == 0).all(axis=2).any(axis=1).mean() > 0.3  # events with padding
    assert (codes[2:] == 0).all(axis=(1, 2)).any()  # and without any hit
    assert {int(codes[0].min()), int(codes[0].max())} == {-32}
    assert {int(codes[1].min()), int(codes[1].max())} == {31}


def test_random_codes_of_other_networks_are_what_they_were() -> None:
    graph = Graph((InputQuantiser("x", (4, 3), Format(True, 6, 0)), Output("y", ("x",))))
    wanted = np.random.default_rng(5).integers(-32, 32, (50, 4, 3))
    wanted[0], wanted[1] = -32, 31
    assert random_codes(graph, 50, seed=5).tolist() == wanted.tolist()


def test_the_command_verifies_a_file(file: Path, caloedge: Call, tmp_path: Path) -> None:
    pytest.importorskip("qonnx")
    pytest.importorskip("onnxruntime")
    ended = caloedge("verify", file, "--backend", "emulator", "--projects", tmp_path / "projects", "--events", 200)
    assert ended.code == 0, ended
    assert ended.out.count(f"{200 * NODES * 4:,}") == 3, ended.out


@pytest.mark.parametrize(("kind", "changes"), [(Nearest, {"reach": 3}), (Table, {})], ids=["reach", "table"])
def test_the_first_wrong_layer_is_named(kind: type[Op], changes: dict, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = compile_file(file)
    (layer, *_) = (op for op in compiled.graph.ops if isinstance(op, kind))
    built: dict[Path, Graph] = {}

    def build(graph: Graph, _target: Target, _variant: str, folder: Path, _choices: Mapping[str, Any]) -> None:
        wrong = changes or {"values": np.minimum(layer.values, 100)}  # type: ignore[union-attr]
        built[folder] = graph.replacing(layer.name, **wrong)

    backend = Backend("wrong", ("only",), lambda *_: "", build, lambda folder, codes: built[folder].run(codes))
    for module in (executors, locating):
        monkeypatch.setattr(module, "find", lambda kind, name: backend if kind is Backend else find(kind, name))
    monkeypatch.setattr(
        executors, "project", lambda _name, graph, target, variant, folder: build(graph, target, variant, folder, {})
    )
    runs = executors_of_file(file, compiled, [("wrong", "only")], file.parent / "projects")
    check = verify([runs[-1]], random_vectors(compiled.graph, 100), "test")[0]
    assert not check.exact
    assert check.first_node == f"layer {layer.name}"


def test_the_first_wrong_tensor_of_a_file_is_named(file: Path) -> None:
    pytest.importorskip("qonnx")
    pytest.importorskip("onnxruntime")
    compiled = compile_file(file)
    codes = random_vectors(compiled.graph, 20).inputs
    assert first_differing_node(file, compiled, codes) == ""
    (table,) = (op for op in compiled.unoptimised.ops if isinstance(op, Table) and op.name.startswith("exp"))
    wrong = compiled.unoptimised.replacing(table.name, values=np.minimum(table.values, 100))
    place = first_differing_node(file, replace(compiled, unoptimised=wrong), codes)
    assert place.endswith(f"(layer {table.name})")
