"""A design of our own from the graph to a routed clock, with the open tools as they are."""

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from caloedge.backends.rtl import BACKEND, verilog
from caloedge.backends.rtl.adders import core_modules
from caloedge.catalog import Target, find
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Dense, InputQuantiser, Output, Requantise
from caloedge.project import write_record
from caloedge.synthesis.cost import implement


def perceptron() -> Graph:
    rng, weight = np.random.default_rng(4), Format(True, 4, 0)
    return Graph(
        (
            InputQuantiser("x", (6,), Format(False, 5, 0)),
            Dense("first", ("x",), rng.integers(-7, 8, (4, 6)), rng.integers(-20, 20, 4), weight),
            Requantise("relu", ("first",), Format(False, 4, -3), relu=True),
            Dense("second", ("relu",), rng.integers(-7, 8, (2, 4)), rng.integers(-20, 20, 2), weight),
            Output("y", ("second",)),
        )
    )


@pytest.mark.slow
@pytest.mark.parametrize("variant", ["unrolled", "streaming"])
def test_a_small_network_is_synthesised_and_routed(variant: str, tmp_path: Path) -> None:
    project = tmp_path / variant
    BACKEND.build(perceptron(), find(Target, "lfe5u_85"), variant, project, {})
    cost = implement(project, "lfe5u_85", 300.0)
    assert cost is not None
    assert cost.netlist is not None
    assert cost.netlist.resources["LUT"] > 20
    assert (cost.netlist.resources["DSP"] > 0) == (variant == "streaming")
    assert cost.routed is not None
    assert cost.routed.fmax_mhz is not None
    assert cost.routed.fmax_mhz > 30
    files = sorted(path.name for path in (project / "synthesis").rglob("*.json"))
    BACKEND.build(perceptron(), find(Target, "lfe5u_85"), variant, project, {})
    assert implement(project, "lfe5u_85", 300.0) == cost, "what did not change is kept over a build"
    assert files == sorted(path.name for path in (project / "synthesis").rglob("*.json"))


def test_without_a_vendor_tool_an_hls_project_has_no_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    write_record(tmp_path, {"backend": "hls4ml"})
    assert implement(tmp_path, "xcvu13p", 1.0) is None


@pytest.mark.slow
def test_a_core_in_pieces_is_synthesised_piece_by_piece(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    luts = {}
    for kind, bits in (("whole", 10_000), ("cut", 150)):
        monkeypatch.setattr(verilog, "core_modules", partial(core_modules, piece_bits=bits))
        BACKEND.build(perceptron(), find(Target, "lfe5u_85"), "unrolled", tmp_path / kind, {})
        cost = implement(tmp_path / kind, "xcvu13p", 300.0)
        assert cost is not None
        assert cost.netlist is not None
        luts[kind] = cost.netlist.resources["LUT"]
        assert any("_piece_" in block.module for block in cost.netlist.blocks) == (kind == "cut")
    # Nothing is lost or counted twice; what grows lies at the cuts.
    assert luts["whole"] <= luts["cut"] <= 1.3 * luts["whole"]
