"""The C simulation of the written project equals `Graph.run`, on every output element, in both streaming styles."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from caloedge.backends.hls4ml.plan import plan
from caloedge.catalog import Backend, Target, find
from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Conv, Dense, InputQuantiser, MaxPool, Output, Requantise, Reshape
from caloedge.errors import BadData, MissingTool, Unsupported, UserError

BACKEND = find(Backend, "hls4ml")
TARGET = find(Target, "xcvu13p")
N_EVENTS = 1000

needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def network() -> Graph:
    """Return a network with everything that can go wrong: padding, stride, signs, three roundings, heads of all shapes."""
    rng = np.random.default_rng(11)
    weight = Format(True, 5, 4)

    def codes(*shape: int) -> np.ndarray:
        return rng.integers(-15, 16, shape)

    return Graph(
        (
            InputQuantiser("x", (2, 5, 4), Format(True, 6, 3)),
            Conv("conv 1", ("x",), codes(3, 2, 3, 2), rng.integers(-90, 90, 3), weight, (2, 1), (1, 0, 2, 1)),
            Requantise("relu-1", ("conv 1",), Format(False, 5, 2), relu=True),
            Conv("conv 2", ("relu-1",), codes(4, 3, 2, 2), rng.integers(-90, 90, 4), weight),
            Requantise("quant", ("conv 2",), Format(True, 6, 1), relu=False, narrow=True, rounding=Rounding.HALF_UP),
            Conv("image", ("quant",), codes(2, 4, 1, 1), np.zeros(2, dtype=int), weight),
            Conv("pixels", ("quant",), codes(2, 4, 1, 2), rng.integers(-9, 9, 2), weight),
            Requantise("coarse", ("pixels",), Format(True, 7, 2), relu=False, rounding=Rounding.TRUNCATE),
            Reshape("flat", ("coarse",)),
            Dense("dense", ("flat",), codes(6, 8), rng.integers(-90, 90, 6), weight),
            Requantise("relu_3", ("dense",), Format(False, 6, 1), relu=True),
            Dense("head", ("relu_3",), codes(3, 6), rng.integers(-90, 90, 3), weight),
            Output("classes", ("head",)),
            Output("map", ("image",)),
        )
    )


def stimulus(graph: Graph) -> np.ndarray:
    low, high = graph.tensors[graph.input.name].range
    codes = np.random.default_rng(5).integers(low, high, (N_EVENTS, *graph.input.shape), endpoint=True)
    codes[0], codes[1], codes[2] = low, high, 0
    return codes


@pytest.fixture(scope="module", params=["io_parallel", "io_stream"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    built = tmp_path_factory.mktemp(request.param) / "built"
    BACKEND.build(network(), TARGET, request.param, built, {})
    moved = built.with_name("moved")
    return built.rename(moved)  # a project must work from wherever it is put


@pytest.mark.slow
@needs_compiler
def test_the_c_simulation_equals_the_graph(folder: Path) -> None:
    graph = network()
    codes = stimulus(graph)
    expected, found = graph.run(codes), BACKEND.emulate(folder, codes)
    assert list(found) == ["classes", "map"]
    for name, wanted in expected.items():
        assert found[name].dtype == np.int64
        assert len(np.unique(wanted)) > 50, "the comparison would prove little"
        np.testing.assert_array_equal(found[name], wanted)


@pytest.mark.slow
@needs_compiler
def test_a_corrupted_network_is_caught_by_the_comparison(folder: Path) -> None:
    graph = network()
    codes = stimulus(graph)
    found = BACKEND.emulate(folder, codes)
    for name in ("conv 1", "conv 2", "dense", "head"):
        op = graph[name]
        assert isinstance(op, Conv | Dense)
        weights = op.weights.copy()
        weights.flat[-1] += 1 if weights.flat[-1] < 15 else -1
        assert (graph.replacing(name, weights=weights).run(codes)["classes"] != found["classes"]).any(), name
    for name, other in (("relu-1", Rounding.HALF_UP), ("quant", Rounding.HALF_EVEN), ("coarse", Rounding.HALF_EVEN)):
        assert (graph.replacing(name, rounding=other).run(codes)["classes"] != found["classes"]).any(), name


def pooled(stride: tuple[int, int]) -> Graph:
    """Return max pools of the input, of signed codes with pixels left over, and of unrounded sums that leave as an image."""
    rng = np.random.default_rng(12)
    weight = Format(True, 5, 4)
    return Graph(
        (
            InputQuantiser("x", (2, 9, 8), Format(True, 6, 3)),
            MaxPool("tall", ("x",), kernel=(2, 1), stride=stride),
            Conv("conv", ("tall",), rng.integers(-15, 16, (3, 2, 1, 2)), rng.integers(-900, 0, 3), weight),
            Requantise("quant", ("conv",), Format(True, 6, 2), relu=False, narrow=True),
            MaxPool("pool", ("quant",), kernel=(2, 2), stride=(2, 2)),
            Conv("image", ("pool",), rng.integers(-15, 16, (2, 3, 1, 1)), rng.integers(-90, 90, 2), weight),
            MaxPool("wide", ("image",), kernel=(1, 2), stride=(1, 2)),
            Reshape("flat", ("pool",)),
            Dense("head", ("flat",), rng.integers(-15, 16, (3, codes_left(stride))), rng.integers(-90, 90, 3), weight),
            Output("classes", ("head",)),
            Output("map", ("wide",)),
        )
    )


def codes_left(stride: tuple[int, int]) -> int:
    """Return how many codes the pool in the middle leaves."""
    rows = (9 - 2) // stride[0] + 1
    return 3 * (rows // 2) * 3


@pytest.mark.slow
@needs_compiler
@pytest.mark.parametrize(("variant", "stride"), [("io_parallel", (1, 1)), ("io_stream", (2, 1))])
def test_max_pools_are_exact(variant: str, stride: tuple[int, int], tmp_path: Path) -> None:
    graph = pooled(stride)
    BACKEND.build(graph, TARGET, variant, tmp_path / "net", {})
    codes = stimulus(graph)
    expected, found = graph.run(codes), BACKEND.emulate(tmp_path / "net", codes)
    for name, wanted in expected.items():
        assert len(np.unique(wanted)) > 50, "the comparison would prove little"
        np.testing.assert_array_equal(found[name], wanted)
    corrupted = graph.replacing("pool", kernel=(1, 2)).run(codes)
    assert all((corrupted[name] != found[name]).any() for name in found)


def test_a_streamed_max_pool_must_tile() -> None:
    message = (
        r"^layer tall: max pool with kernel \(2, 1\) and stride \(1, 1\) is not supported by backend 'hls4ml' with io_stream; "
        r"use io_parallel, or a stride equal to the kernel$"
    )
    with pytest.raises(Unsupported, match=message):
        plan(pooled((1, 1)), TARGET, "io_stream")
    settings = plan(pooled((2, 1)), TARGET, "io_stream").config["HLSConfig"]["LayerName"]
    assert settings["pool"]["Precision"] == dict.fromkeys(("accum", "result"), settings["quant"]["Precision"]["result"])


@pytest.mark.slow
@needs_compiler
def test_the_folder_is_a_complete_project(folder: Path) -> None:
    for name in ("build_prj.tcl", "project.tcl", "build_lib.sh", "build.log", "hls4ml_config.yml", "firmware/parameters.h"):
        assert (folder / name).is_file(), name
    manifest = json.loads((folder / "caloedge.json").read_text())
    assert manifest["graph"] == network().digest
    assert TARGET.part in (folder / "project.tcl").read_text()
    texts = [path for path in folder.rglob("*") if path.suffix in {".yml", ".json", ".tcl", ".sh", ".cpp", ".h"}]
    assert [path for path in texts if str(folder.parent) in path.read_text(errors="replace")] == []
    assert list(folder.parent.glob(".*.part")) == []
    assert list(folder.parent.glob("*.log")) == []


@pytest.mark.slow
@needs_compiler
def test_bad_codes_are_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"input codes are float64 \(1, 2, 5, 4\); integers \(N, 2, 5, 4\) expected$"):
        BACKEND.emulate(folder, np.zeros((1, 2, 5, 4)))
    with pytest.raises(UserError, match=r"input codes reach from 99 to 99; fixed<6,3> holds -32 to 31$"):
        BACKEND.emulate(folder, np.full((1, 2, 5, 4), 99))


def test_types_come_from_the_proven_ranges() -> None:
    graph = network()
    what = plan(graph, TARGET, "io_parallel")
    assert str(what) == str(plan(network(), TARGET, "io_parallel"))
    settings = what.config["HLSConfig"]["LayerName"]
    assert settings["relu_1"]["Precision"] == {"result": "ufixed<5,3,RND_CONV,SAT>"}
    assert settings["quant"]["Precision"] == {"result": "fixed<6,5,RND,SAT_SYM>"}
    assert settings["flat"]["Precision"] == {"result": "fixed<7,5,TRN,SAT>"}
    conv = graph.tensors["conv 1"]
    assert settings["conv_1"]["Precision"]["accum"] == str(conv.format)
    assert conv.format.min_code <= conv.range[0]
    assert (what.config["Part"], what.config["ClockPeriod"]) == (TARGET.part, 5.0)
    assert what.outputs == ["head", "image"]


def test_no_compiler_is_said_before_anything_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    with pytest.raises(MissingTool, match=r"^g\+\+ not found on PATH; install a C\+\+ compiler"):
        BACKEND.build(network(), TARGET, "io_parallel", tmp_path / "out" / "net", {})
    assert list(tmp_path.iterdir()) == []


def test_no_hls4ml_is_said_before_anything_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingTool, match=r"^the Python package hls4ml is not installed; pip install 'caloedge\[hls4ml\]'$"):
        BACKEND.build(network(), TARGET, "io_parallel", tmp_path / "net", {})
    assert list(tmp_path.iterdir()) == []


def fake_compiler(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program called g++ first on PATH."""
    folder.mkdir()
    (folder / "g++").write_text(f"#!/bin/sh\n{script}\n")
    (folder / "g++").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_failed_compilation_leaves_the_log_and_no_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    fake_compiler(tmp_path / "bin", monkeypatch, "echo 'error: out of patience'; exit 4")
    out = tmp_path / "out"
    with pytest.raises(UserError, match=r"^g\+\+ failed with exit code 4; see .*net\.build\.log; it ends: .*out of patience$"):
        BACKEND.build(network(), TARGET, "io_stream", out / "net", {})
    assert [path.name for path in out.iterdir()] == ["net.build.log"]


def test_the_same_network_gives_the_same_files(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_compiler(tmp_path / "bin", monkeypatch, "exit 0")
    contents = []
    for name in ("one", "two"):
        BACKEND.build(network(), TARGET, "io_parallel", tmp_path / name, {})
        files = [path for path in sorted((tmp_path / name).rglob("*")) if path.is_file() and path.name != "build.log"]
        found: dict[str, Any] = {str(path.relative_to(tmp_path / name)): path.read_bytes() for path in files}
        values = json.loads(found["caloedge.json"])
        del values["compile_seconds"]  # on a busy computer it differs
        # Packages that are imported later may change how PyYAML quotes a digest: what it says counts.
        found |= {"caloedge.json": values, "hls4ml_config.yml": yaml.safe_load(found["hls4ml_config.yml"])}
        contents.append(found)
    assert contents[0] == contents[1]
    assert len(contents[0]) > 20
    assert capfd.readouterr().out == ""


def test_an_unknown_variant_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^backend 'hls4ml' has no variant 'rtl'; there are: io_parallel, io_stream, auto$"):
        BACKEND.build(network(), TARGET, "rtl", tmp_path / "net", {})


def test_what_cannot_be_built_is_refused_by_name() -> None:
    graph = network()
    with pytest.raises(Unsupported, match=r"^output early: layer quant is also read by image, which is not supported by backend"):
        plan(replace(graph, ops=(*graph.ops, Output("early", ("quant",)))), TARGET, "io_parallel")
    with pytest.raises(Unsupported, match=r"^output raw: is the input itself; backend 'hls4ml' needs a layer between$"):
        plan(replace(graph, ops=(*graph.ops, Output("raw", ("x",)))), TARGET, "io_parallel")
    wide = Graph(
        (InputQuantiser("x", (1,), Format(True, 60, 0)), Requantise("q", ("x",), Format(True, 8, 0), True), Output("y", ("q",)))
    )
    with pytest.raises(
        Unsupported, match=r"^layer x: fixed<60,60> is wider than the 53 bits that the C simulation passes exactly$"
    ):
        plan(wide, TARGET, "io_parallel")


def test_a_folder_that_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no caloedge.json there; make a project with: caloedge build MODEL FOLDER$"):
        BACKEND.emulate(tmp_path, np.zeros((1, 1)))
    (tmp_path / "caloedge.json").write_text("{")
    with pytest.raises(BadData, match=r"damaged .*; build the project again$"):
        BACKEND.emulate(tmp_path, np.zeros((1, 1)))
    (tmp_path / "caloedge.json").write_text('{"backend": "rtl"}')
    with pytest.raises(UserError, match=r"built by backend 'rtl', not 'hls4ml'$"):
        BACKEND.emulate(tmp_path, np.zeros((1, 1)))
