"""Two generated networks in one program or one device: each gives its own numbers, whatever the other's layers are called."""

import ctypes
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_networks import stimulus

from caloedge import tools
from caloedge.backends.hls4ml.plan import plan
from caloedge.backends.hls4ml.project import compile_command
from caloedge.backends.rtl.design import Stream
from caloedge.backends.rtl.project import streamed, with_stem, write_project
from caloedge.backends.rtl.simulation import simulate
from caloedge.backends.rtl.text import VerilogText
from caloedge.catalog import Backend, Target, find
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Conv, Dense, InputQuantiser, Output, Requantise, Reshape
from caloedge.project import read_record, stem
from caloedge.recipe import LayerChoice

TARGET = find(Target, "xcvu13p")
SLOW_CLOCK = replace(TARGET, clock_mhz=5.0)
"""At which a core is one pipeline stage, whatever its weights are."""
RESULT = Format(False, 6, 2)
HLS4ML, RTL = find(Backend, "hls4ml"), find(Backend, "rtl")


def network(seed: int, name: str) -> Graph:
    """Return a small network whose layers are called as those of any other seed, and whose ports are as wide."""
    rng, weight = np.random.default_rng(seed), Format(True, 5, 4)

    def codes(*shape: int) -> np.ndarray:
        return rng.integers(-15, 16, shape)

    return Graph(
        (
            InputQuantiser("x", (1, 4, 4), Format(True, 6, 3)),
            Conv("conv", ("x",), codes(2, 1, 3, 3), rng.integers(-90, 90, 2), weight),
            Requantise("act", ("conv",), Format(False, 5, 2), relu=True),
            Reshape("flat", ("act",)),
            Dense("dense", ("flat",), codes(3, 8), rng.integers(-90, 90, 3), weight),
            Requantise("round", ("dense",), RESULT, relu=True),
            Output("y", ("round",)),
        ),
        name,
    )


ELECTRONS, JETS = network(1, "electrons"), network(2, "Jets!")
CODES = stimulus(ELECTRONS, 7, 200)


def expected(graph: Graph) -> np.ndarray:
    return graph.run(CODES)["y"]


def test_the_networks_are_different() -> None:
    assert (expected(ELECTRONS) != expected(JETS)).mean() > 0.3
    assert len(np.unique(expected(ELECTRONS))) > 10


# One program


@pytest.fixture(scope="module")
def hls_projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hls")
    for graph in (ELECTRONS, JETS):
        HLS4ML.build(graph, TARGET, "io_parallel", folder / graph.name.strip("!"), {})
    return {"electrons": folder / "electrons", "jets": folder / "Jets"}


def called(library: Any, project: str) -> np.ndarray:
    """Run a C simulation that is loaded already."""
    function = library[f"{project}_double"]
    values, found = np.ascontiguousarray(CODES.reshape(len(CODES), -1) / 8.0), np.zeros((len(CODES), 3))
    for event, row in zip(values, found, strict=True):
        function(ctypes.c_void_p(event.ctypes.data), ctypes.c_void_p(row.ctypes.data))
    return (found / RESULT.lsb).astype(np.int64)


@pytest.mark.slow
def test_two_c_simulations_share_a_process(hls_projects: Mapping[str, Path]) -> None:
    loaded = {
        name: ctypes.CDLL(str(project / read_record(project)["library"]), mode=ctypes.RTLD_GLOBAL)
        for name, project in hls_projects.items()
    }
    for name, graph in (("electrons", ELECTRONS), ("jets", JETS), ("electrons", ELECTRONS)):
        project = read_record(hls_projects[name])["project"]
        np.testing.assert_array_equal(called(loaded[name], project), expected(graph), err_msg=name)


MAIN = """\
#include "A/firmware/{a}.h"
#include "B/firmware/{b}.h"
extern "C" void both(const double *given, double *first, double *second) {{
    {a}_net::input_t x_a[16];  // channels last, but there is one channel
    {b}_net::input_t x_b[16];
    for (int i = 0; i < 16; ++i) x_a[i] = given[i], x_b[i] = given[i];
    {a}_net::result_t y_a[3];
    {b}_net::result_t y_b[3];
    {a}_net::{a}(x_a, y_a);
    {b}_net::{b}(x_b, y_b);
    for (int i = 0; i < 3; ++i) first[i] = y_a[i].to_double(), second[i] = y_b[i].to_double();
}}
"""


@pytest.mark.exhaustive
def test_two_projects_are_linked_into_one_program(hls_projects: Mapping[str, Path], tmp_path: Path) -> None:
    """As for one kernel that calls both: sources, headers and the files of weights get along."""
    (tmp_path / "weights").mkdir()
    for letter, project in zip("AB", hls_projects.values(), strict=True):
        (tmp_path / letter).symlink_to(project)
        for path in (project / "firmware" / "weights").glob("*.txt"):
            assert not (tmp_path / "weights" / path.name).exists()
            shutil.copy(path, tmp_path / "weights")
    a, b = (read_record(project)["project"] for project in hls_projects.values())
    (tmp_path / "main.cpp").write_text(MAIN.format(a=a, b=b))
    options = ["-std=c++17", "-O0", "-fPIC", "-shared", "-IA/firmware/ap_types", f'-DWEIGHTS_DIR="{tmp_path}/weights"']
    sources = ["main.cpp", f"A/firmware/{a}.cpp", f"B/firmware/{b}.cpp"]
    tools.run(["g++", *options, *sources, "-o", "both.so"], cwd=tmp_path, log=tmp_path / "log", timeout_s=1200)
    both, values = ctypes.CDLL(str(tmp_path / "both.so")).both, np.ascontiguousarray(CODES.reshape(len(CODES), -1) / 8.0)
    found = np.zeros((2, len(CODES), 3))
    for event, row in enumerate(values):
        both(*(ctypes.c_void_p(array.ctypes.data) for array in (row, found[0, event], found[1, event])))
    np.testing.assert_array_equal(found[0] / RESULT.lsb, expected(ELECTRONS))
    np.testing.assert_array_equal(found[1] / RESULT.lsb, expected(JETS))


@pytest.mark.slow
def test_shared_names_would_be_caught(hls_projects: Mapping[str, Path], tmp_path: Path) -> None:
    """With hls4ml's own names and all of them exported, the second network takes the first one's weights."""
    loaded = []
    for name, project in hls_projects.items():
        plain, own = tmp_path / name, read_record(project)["project"]
        shutil.copytree(project, plain, ignore=shutil.ignore_patterns("*.so", "*.log", "tb_data"))
        for path in [path for path in plain.rglob("*") if path.is_file() and own in path.read_text(errors="replace")]:
            path.write_text(path.read_text().replace(own, "net"))
        for path in [path for path in plain.rglob(f"*{own}*") if path.is_file()]:
            path.rename(path.with_name(path.name.replace(own, "net")))
        command = [word for word in compile_command("net", f"{name}.so") if "version-script" not in word]
        tools.run(command, cwd=plain, log=tmp_path / "log", timeout_s=1200)
        shutil.move(plain / f"{name}.so", plain / "firmware")
        loaded.append(ctypes.CDLL(str(plain / "firmware" / f"{name}.so"), mode=ctypes.RTLD_GLOBAL))
    np.testing.assert_array_equal(called(loaded[0], "net"), expected(ELECTRONS))
    assert (called(loaded[1], "net") != expected(JETS)).any()


def test_a_project_says_its_network_and_how_it_is_built() -> None:
    parallel, streamed_ = (plan(JETS, TARGET, variant).project for variant in ("io_parallel", "io_stream"))
    assert re.fullmatch(rf"caloedge_jets_{JETS.digest[:8]}_[0-9a-f]{{4}}", parallel)
    assert parallel != streamed_
    assert plan(JETS, TARGET, "io_parallel").project == parallel


# One device


@pytest.fixture(scope="module")
def rtl_projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("rtl")
    for graph in (ELECTRONS, JETS):
        RTL.build(graph, SLOW_CLOCK, "unrolled", folder / graph.name.strip("!"), {})
    return {"electrons": folder / "electrons", "jets": folder / "Jets"}


def modules(project: Path) -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted((project / "rtl").glob("*.v"))}


def test_every_module_says_its_network(rtl_projects: Mapping[str, Path]) -> None:
    for project, graph in zip(rtl_projects.values(), (ELECTRONS, JETS), strict=True):
        top = read_record(project)["top"]
        assert top.startswith(f"{stem(graph.name, graph.digest)}_")
        defined = re.findall(r"^module (\w+)", "\n".join(modules(project).values()), re.MULTILINE)
        assert sorted(defined) == sorted(modules(project))
        assert all(name == top or name.startswith(f"{top}_") for name in defined)
        assert top in defined


def test_the_same_network_built_in_two_ways_has_two_names() -> None:
    texts = [with_stem(VerilogText("top", {"top": f"module top; // {way}"}), "net", "0" * 64) for way in ("one", "other", "one")]
    assert texts[0] == texts[2]
    assert texts[0].top != texts[1].top
    assert texts[0].modules[texts[0].top].startswith(f"module {texts[0].top};")


@dataclass(frozen=True)
class Both:
    """Two networks behind one input."""

    source: Stream
    result: Stream
    streaming: bool = False


def joined(rtl_projects: Mapping[str, Path], modules_of_both: dict[str, str], tops: list[str], folder: Path) -> np.ndarray:
    """Simulate both networks side by side, fed with the same events: results (N, 2, 3)."""
    bits, out = 16 * 6, 3 * RESULT.width
    units = "\n".join(
        f"  {top} unit_{i} (.clk(clk), .rst(rst), .in_valid(in_valid), .in_data(in_data), .out_valid(valid[{i}]), "
        f".out_data(out_data[{(i + 1) * out - 1}:{i * out}]));"
        for i, top in enumerate(tops)
    )
    top = f"""\
module both (
  input clk, input rst, input in_valid, input [{bits - 1}:0] in_data, output out_valid, output [{2 * out - 1}:0] out_data
);
  wire [1:0] valid;
  assign out_valid = valid[0] & valid[1];
{units}
endmodule
"""
    first = read_record(next(iter(rtl_projects.values())))
    source = Stream(1, 16, Format(True, 6, 3), np.array(first["input"]["order"]))
    what = Both(source, Stream(1, 6, RESULT, np.arange(6)))
    values = {key: first[key] for key in ("backend", "input", "timeout_cycles", "drain_cycles")}
    values["output"] = {"name": "y", "shape": [2, 3], "format": str(RESULT), **streamed(what.result)}
    ports = [("clk", "input", 1), ("rst", "input", 1), ("in_valid", "input", 1), ("in_data", "input", bits),
             ("out_valid", "output", 1), ("out_data", "output", 2 * out)]  # fmt: skip
    write_project(what, VerilogText("both", modules_of_both | {"both": top}, ports=ports), values, folder)
    return simulate(folder, CODES).codes["y"]


def test_two_designs_are_simulated_as_one(rtl_projects: Mapping[str, Path], tmp_path: Path) -> None:
    parts = [modules(project) for project in rtl_projects.values()]
    assert not set(parts[0]) & set(parts[1])
    tops = [read_record(project)["top"] for project in rtl_projects.values()]
    found = joined(rtl_projects, parts[0] | parts[1], tops, tmp_path / "both")
    np.testing.assert_array_equal(found[:, 0], expected(ELECTRONS))
    np.testing.assert_array_equal(found[:, 1], expected(JETS))


def test_a_shared_name_would_be_caught(rtl_projects: Mapping[str, Path], tmp_path: Path) -> None:
    """Without the digest, a module of one network takes the place of the other's."""
    tops = [read_record(project)["top"] for project in rtl_projects.values()]
    plain = [
        {name.replace(top, "net"): text.replace(top, "net") for name, text in modules(project).items()}
        for top, project in zip(tops, rtl_projects.values(), strict=True)
    ]
    found = joined(rtl_projects, plain[0] | plain[1], ["net", "net"], tmp_path / "both")
    assert (found[:, 0] != expected(ELECTRONS)).any()


def test_two_designs_are_clean_verilog_together(rtl_projects: Mapping[str, Path], tmp_path: Path) -> None:
    verilator = tools.newest("verilator")
    tops = [read_record(project)["top"] for project in rtl_projects.values()]
    sources = [str(project / name) for project in rtl_projects.values() for name in read_record(project)["sources"]]
    for top in tops:
        options = ["--lint-only", "--default-language", "1364-2005", "-Wall", "-Wno-MULTITOP", "-Wno-UNUSEDSIGNAL"]
        log = tmp_path / f"{top}.log"
        command = [verilator.path, *options, "--top-module", top, *sources]
        tools.run(command, cwd=tmp_path, log=log, timeout_s=120, environment=verilator.environment)
        assert "%Warning" not in log.read_text()


def test_choices_give_a_project_another_name() -> None:
    names = {plan(JETS, TARGET, "auto", choices).project for choices in ({}, {"dense": LayerChoice(reuse=2)})}
    assert len(names) == 2
