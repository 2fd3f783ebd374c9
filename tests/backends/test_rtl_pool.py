"""Max pools in the RTL backend against `Graph.run`, cycle by cycle, with `==`; a wrong comparison must be caught."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from random_networks import stimulus

from caloedge.backends.rtl import BACKEND
from caloedge.backends.rtl.design import design
from caloedge.backends.rtl.layers import layers_of
from caloedge.backends.rtl.simulation import compile_model, simulate
from caloedge.backends.rtl.verilog import write_design
from caloedge.catalog import Target, find
from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Conv, Dense, InputQuantiser, MaxPool, Output, Requantise, Reshape
from caloedge.errors import UserError
from caloedge.project import read_record, write_record
from caloedge.recipe import LayerChoice

TARGET = find(Target, "xcvu13p")
STREAMING, UNROLLED = LayerChoice(strategy="streaming"), LayerChoice(strategy="unrolled")
CASES: dict[str, tuple[str, Mapping[str, LayerChoice]]] = {
    "unrolled": ("unrolled", {}),
    "streaming": ("streaming", {}),
    "mixed": ("auto", {"conv0": UNROLLED, "pool0": STREAMING, "conv1": STREAMING, "pool1": UNROLLED}),
}
N_EVENTS = 300


def network() -> Graph:
    """Return a network with a pool of signed codes that leaves pixels over, and an overlapping one of unrounded sums."""
    rng = np.random.default_rng(8)
    weight = Format(True, 5, 3)

    def codes(*shape: int) -> np.ndarray:
        return rng.integers(weight.min_code, weight.max_code + 1, shape)

    return Graph(
        (
            InputQuantiser("x", (1, 8, 7), Format(False, 5, 2)),
            Conv("conv0", ("x",), codes(3, 1, 2, 2), rng.integers(-40, 0, 3), weight),
            Requantise("act0", ("conv0",), Format(True, 6, 1), relu=False, narrow=True),
            MaxPool("pool0", ("act0",), kernel=(2, 3), stride=(2, 2)),
            Conv("conv1", ("pool0",), codes(2, 3, 1, 1), rng.integers(-40, 40, 2), weight),
            MaxPool("pool1", ("conv1",), kernel=(2, 1), stride=(1, 1)),
            Requantise("act1", ("pool1",), Format(True, 6, 0), relu=False, rounding=Rounding.HALF_UP),
            Reshape("flat", ("act1",)),
            Dense("dense", ("flat",), codes(3, 8), rng.integers(-40, 40, 3), weight),
            Output("scores", ("dense",)),
        )
    )


@pytest.fixture(scope="module", params=list(CASES))
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    variant, choices = CASES[request.param]
    folder = tmp_path_factory.mktemp("pool") / request.param
    BACKEND.build(network(), TARGET, variant, folder, choices)
    return folder


def differing(folder: Path, stall: float = 0.0) -> int:
    """Return how many output codes differ from the graph's; the output waits only where it can."""
    codes = stimulus(network(), 4, N_EVENTS)
    found = simulate(folder, codes, stall_in=stall, stall_out=stall if read_record(folder, "rtl")["handshake"] else 0.0)
    expected = network().run(codes)["scores"]
    assert len(np.unique(expected)) > 50, "the comparison would prove little"
    return int((found.codes["scores"] != expected).sum())


def test_every_cycle_accurate_result_equals_the_graph(project: Path) -> None:
    assert differing(project) == 0
    assert differing(project, stall=0.4) == 0


@pytest.mark.parametrize("project", ["unrolled", "streaming"], indirect=True)
def test_a_comparison_without_the_sign_is_caught(tmp_path: Path, project: Path) -> None:
    wrong = shutil.copytree(project, tmp_path / "wrong")
    path = wrong / "rtl" / f"{read_record(wrong)['top']}_layer_pool0.v"
    text = path.read_text()
    assert text.count(".SIGNED(1)") == (6 if project.name == "unrolled" else 1)
    path.write_text(text.replace(".SIGNED(1)", ".SIGNED(0)"))
    values = read_record(wrong, "rtl")
    values["library"] = "sim/wrong.so"  # a process never loads one name twice
    compile_model(wrong, values["top"], values["sources"], values["library"], tmp_path / "log", trace=False)
    write_record(wrong, values)
    assert differing(wrong) > 0


def test_stages_cost_and_cycles_are_those_of_the_design() -> None:
    pools = [layer for layer in layers_of(network()) if isinstance(layer.op, MaxPool)]
    assert [(layer.name, layer.positions) for layer in pools] == [("pool0", 6), ("pool1", 4)]
    assert pools[0].estimated_lut == 5 * 2 * 6 * 3 * 6  # comparisons, LUTs per bit, bits, channels, positions
    assert [step.op.name for step in pools[1].after] == ["act1"]
    streaming = {stage.layer.name: stage for stage in design(network(), TARGET, "streaming", {}).stages}
    assert (streaming["pool0"].cycles, streaming["pool0"].multipliers) == (42, 0)
    assert (streaming["pool0"].source.beats, streaming["pool0"].result.beats) == (42, 6)
    text = write_design(design(network(), TARGET, "unrolled", {}), cutoff=4)
    assert (text.blocks["layer_pool0"], text.blocks["layer_pool1"], text.blocks["core_pool1"]) == (1, 1, 1)
    assert text.parts == {"caloedge_max"}
    assert "core_pool0" not in text.modules


@pytest.mark.parametrize("strategy", ["streaming", "unrolled"])
def test_reuse_of_a_max_pool_is_refused(strategy: Literal["streaming", "unrolled"]) -> None:
    with pytest.raises(UserError, match=r"^layers: pool0: reuse 2; a max pool has no multipliers to reuse, leave it out$"):
        design(network(), TARGET, "auto", {"pool0": LayerChoice(strategy=strategy, reuse=2)})
