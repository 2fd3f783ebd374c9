"""Channel gates in the RTL backend against `Graph.run`, cycle by cycle, with `==`; broken gates must be caught."""

import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from random_networks import stimulus

from caloedge.backends.rtl import BACKEND
from caloedge.backends.rtl.design import design
from caloedge.backends.rtl.layers import flat_layers, layers_of
from caloedge.backends.rtl.simulation import compile_model, simulate
from caloedge.backends.rtl.verilog import write_design
from caloedge.catalog import Target, find
from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import (
    Affine,
    Conv,
    Dense,
    InputQuantiser,
    Multiply,
    Op,
    Output,
    Rearrange,
    Requantise,
    Reshape,
    Table,
)
from caloedge.errors import BadData, Unsupported, UserError
from caloedge.project import read_record, write_record
from caloedge.recipe import LayerChoice

TARGET = find(Target, "xcvu13p")
WEIGHT = Format(True, 5, 3)
IMAGE = InputQuantiser("x", (2, 6, 5), Format(True, 6, 3))
FOLDED = {
    "conv0": LayerChoice(strategy="streaming", reuse=4),
    "reduce": LayerChoice(strategy="streaming", reuse=3),
    "expand": LayerChoice(strategy="streaming", reuse=1),
    "conv1": LayerChoice(strategy="streaming", reuse=9),
}
CASES: dict[str, tuple[str, Mapping[str, LayerChoice]]] = {
    "streaming": ("streaming", {}),
    "auto": ("auto", {}),
    "folded": ("auto", FOLDED),
}
N_EVENTS = 300


def first_gate(source: str, rng: np.random.Generator) -> tuple[Op, ...]:
    """Return a gate of three channels of 6 × 5 pixels with a bottleneck, as it is exported."""
    return (
        Reshape("rows", (source,), (3, 30)),
        Dense("sum", ("rows",), np.ones((1, 30), np.int64), np.zeros(1, np.int64), Format(True, 2, 0)),
        Reshape("vector", ("sum",)),
        Affine("mean", ("vector",), np.array([5]), np.array([0]), Format(True, 5, 4)),
        Requantise("squeezed", ("mean",), Format(False, 6, 0), relu=False),
        Dense("reduce", ("squeezed",), rng.integers(-15, 16, (2, 3)), np.array([40, 9]), WEIGHT),
        Requantise("reduced", ("reduce",), Format(False, 5, -1), relu=True),
        Dense("expand", ("reduced",), rng.integers(-15, 16, (3, 2)), rng.integers(-9, 9, 3), WEIGHT),
        Requantise("expanded", ("expand",), Format(True, 6, 0), relu=False),
        Reshape("factors", ("expanded",), (3, 1, 1)),
        Multiply("gate", (source, "factors")),
        Requantise("gated", ("gate",), Format(True, 7, 0), relu=False, rounding=Rounding.HALF_UP),
    )


def second_gate(source: str, rng: np.random.Generator) -> tuple[Op, ...]:
    """Return a gate of signed codes whose sums are a convolution, with a table for each channel."""
    return (
        Conv("total", (source,), np.ones((3, 1, 6, 5), np.int64), np.zeros(3, np.int64), Format(True, 2, 0), groups=3),
        Requantise("small", ("total",), Format(True, 6, -5), relu=False),
        Table("look", ("small",), rng.integers(1, 16, (3, 1, 1, 64)), -32, Format(False, 4, 3)),
        Multiply("gate2", ("look", source)),
        Affine("scaled", ("gate2",), np.array([3, -5, 7])[:, None, None], np.zeros((3, 1, 1), np.int64), WEIGHT),
        Requantise("gated2", ("scaled",), Format(True, 6, 0), relu=False),
    )


def network() -> Graph:
    """Return convolutions with padding around two gates in a chain."""
    rng = np.random.default_rng(6)
    return Graph(
        (
            IMAGE,
            Conv("conv0", ("x",), rng.integers(-15, 16, (3, 2, 3, 3)), rng.integers(-99, 99, 3), WEIGHT, (1, 1), (1, 1, 1, 1)),
            Requantise("act0", ("conv0",), Format(False, 6, 2), relu=True),
            *first_gate("act0", rng),
            *second_gate("gated", rng),
            Conv(
                "conv1", ("gated2",), rng.integers(-15, 16, (2, 3, 3, 3)), rng.integers(-99, 99, 2), WEIGHT, (1, 1), (1, 1, 1, 1)
            ),
            Output("y", ("conv1",)),
        )
    )


def gate_alone(*, excited: bool) -> Graph:
    """Return a gate right behind the input; without an excitation the sums themselves are the factors."""
    given = InputQuantiser("x", (3, 6, 5), Format(False, 5, 0))
    if excited:
        return Graph((given, *first_gate("x", np.random.default_rng(7)), Output("y", ("gated",))))
    total = Conv("total", ("x",), np.ones((3, 1, 6, 5), np.int64), np.zeros(3, np.int64), Format(True, 2, 0), groups=3)
    return Graph((given, total, Multiply("gate", ("x", "total")), Output("y", ("gate",))))


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Build each case once, when it is asked for."""
    built: dict[str, Path] = {}

    def project(name: str) -> Path:
        if name not in built:
            variant, choices = CASES[name]
            built[name] = tmp_path_factory.mktemp("gate") / name
            BACKEND.build(network(), TARGET, variant, built[name], choices)
        return built[name]

    return project


def rebuilt(project: Path, to: Path, module: str, change: tuple[str, str]) -> Path:
    """Return a copy of a project in which a text of one module is another, with its simulation compiled anew."""
    shutil.copytree(project, to)
    path = to / "rtl" / f"{read_record(to)['top']}_{module}.v"
    text, count = re.subn(change[0], change[1], path.read_text())
    assert count == 1, change
    path.write_text(text)
    record = read_record(to)
    record["library"] = f"sim/{to.parent.name}-{to.name}.so"  # a process never loads one name twice
    compile_model(to, record["top"], record["sources"], record["library"], to / "again.log", trace=False)
    write_record(to, record)
    return to


@pytest.mark.parametrize("name", CASES)
def test_every_cycle_accurate_result_equals_the_graph(projects: Callable[[str], Path], name: str) -> None:
    project = projects(name)
    codes = stimulus(network(), 2, N_EVENTS)
    expected = network().run(codes)["y"]
    assert len(np.unique(expected)) > 50, "the comparison would prove little"
    np.testing.assert_array_equal(BACKEND.emulate(project, codes)["y"], expected)
    for stall_in, stall_out in ((0.3, 0.3), (0.0, 0.8), (0.8, 0.0)):
        run = simulate(project, codes, stall_in=stall_in, stall_out=stall_out)
        np.testing.assert_array_equal(run.codes["y"], expected)


@pytest.mark.parametrize("excited", [True, False])
def test_events_follow_each_other_as_fast_as_the_slowest_stage_lets_them(tmp_path: Path, excited: bool) -> None:
    graph = gate_alone(excited=excited)
    BACKEND.build(graph, TARGET, "auto", tmp_path / "gate", {})
    codes = stimulus(graph, 2, 40)
    run = simulate(tmp_path / "gate", codes)
    np.testing.assert_array_equal(run.codes["y"], graph.run(codes)["y"])
    assert run.interval_cycles == 30  # pixels: one per cycle, without a gap
    text = write_design(design(graph, TARGET, "auto", {}), TARGET.adders_per_stage())
    depth = re.search(r"\.DEPTH\((\d+)\)", text.modules["layer_gate"])
    assert depth
    waited = int(depth[1]) - 30 - 1
    # The last pixel leaves 29 cycles after the first, which has waited for all pixels, their factors, 2 registers and a FIFO.
    assert run.latency_cycles == 30 + waited + 2 + 1 + 29


@pytest.mark.parametrize(
    ("name", "module", "change"),
    [
        ("folded", "rom_expand", (r"'d0: word <= (\d+)'h(\w*)(\w);", r"'d0: word <= \1'h\g<2>0;")),
        ("streaming", "layer_gate", (r"\.ROUNDING\(1\)(?=.*rounded_0_2 )", ".ROUNDING(0)")),
        ("streaming", "layer_gate2", (r"\.SIGNED\(1\)", ".SIGNED(0)")),
        ("folded", "layer_gate2", (r"\.WEIGHT\(-64'sd5\)", ".WEIGHT(-64'sd4)")),
    ],
)
def test_a_broken_gate_is_caught(
    tmp_path: Path, projects: Callable[[str], Path], name: str, module: str, change: tuple[str, str]
) -> None:
    codes = stimulus(network(), 4, N_EVENTS)
    wrong = simulate(rebuilt(projects(name), tmp_path / "wrong", module, change), codes).codes["y"]
    assert (wrong != network().run(codes)["y"]).any()


def test_a_buffer_that_holds_less_than_an_event_is_caught(tmp_path: Path, projects: Callable[[str], Path]) -> None:
    small = rebuilt(projects("streaming"), tmp_path / "small", "layer_gate", (r"\.DEPTH\(\d\d\)", ".DEPTH(29)"))
    with pytest.raises(
        BadData, match=r"the simulated design stopped after 0 of 3 events; it is broken, build the project again$"
    ):
        simulate(small, stimulus(network(), 2, 3))


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("reduce", {"bias": np.array([41, 9])}),
        ("expand", {"weights": np.zeros((3, 2), np.int64)}),
        ("mean", {"weights": np.array([6])}),
        ("gated", {"rounding": Rounding.TRUNCATE}),
        ("look", {"values": np.full((3, 1, 1, 64), 5)}),
        ("scaled", {"weights": np.array([3, -5, 6])[:, None, None]}),
    ],
)
def test_a_corrupted_layer_is_caught_by_the_comparison(
    projects: Callable[[str], Path], name: str, change: dict[str, Any]
) -> None:
    codes = stimulus(network(), 4, N_EVENTS)
    wrong = network().replacing(name, **change)
    assert (wrong.run(codes)["y"] != simulate(projects("streaming"), codes).codes["y"]).any()


# The design


def test_a_gate_is_one_stage_with_stages_inside() -> None:
    assert [layer.name for layer in layers_of(network())] == ["conv0", "gate", "gate2", "conv1"]
    names = ["conv0", "gate", "mean", "reduce", "expand", "gate2", "small", "look", "conv1"]
    assert [layer.name for layer in flat_layers(layers_of(network()))] == names
    made = design(network(), TARGET, "auto", FOLDED)
    stages = {stage.layer.name: stage for stage in made.all_stages}
    assert list(stages) == names
    assert [stages[name].strategy for name in ("gate", "mean", "reduce", "gate2", "look")] == [
        "streaming", "unrolled", "streaming", "streaming", "unrolled"
    ]  # fmt: skip
    assert (stages["gate"].source.beats, stages["gate"].source.words, stages["gate"].cycles) == (30, 3, 30)
    assert (stages["gate"].multipliers, stages["reduce"].multipliers, stages["expand"].multipliers) == (3, 2, 6)
    assert [step.op.name for step in stages["gate2"].layer.after] == ["scaled", "gated2"]
    assert stages["gate"].why == "pixels of a gate wait until the last one of their event is summed"


def test_the_preview_counts_the_stages_inside() -> None:
    said = BACKEND.preview(network(), TARGET, "streaming", {})
    assert re.fullmatch(r"9 streaming; one event in 56 cycles; \d+ multipliers \(0\.\d% of the DSP\)", said)


def test_the_text_of_a_gate_is_the_same_twice_and_its_modules_are_blocks() -> None:
    texts = [write_design(design(network(), TARGET, "auto", FOLDED), 5) for _ in range(2)]
    assert texts[0] == texts[1]
    assert "caloedge_gate" in texts[0].parts
    assert all(texts[0].blocks[f"layer_{name}"] == 1 for name in ("gate", "gate2", "reduce", "expand", "look"))


def unrolled(name: str) -> str:
    return f"layer {name} unrolled: a gate waits for its event's last pixel; use --variant auto --layer {name}=streaming"


@pytest.mark.parametrize(
    ("variant", "choices", "message"),
    [
        ("unrolled", {}, unrolled("gate")),
        ("auto", {"gate2": LayerChoice(strategy="unrolled")}, unrolled("gate2")),
        ("auto", {"gate": LayerChoice(reuse=2)}, "layers: gate: reuse 2; a gate multiplies one pixel per cycle, leave it out"),
        ("auto", {"act0": LayerChoice(reuse=2)},
         "layers: 'act0' is a part of another layer in backend 'rtl', which has: conv0, gate, mean, reduce, expand, gate2, "
         "small, look, conv1"),
    ],
)  # fmt: skip
def test_an_impossible_choice_is_named(variant: str, choices: Mapping[str, LayerChoice], message: str) -> None:
    with pytest.raises(UserError) as caught:
        design(network(), TARGET, variant, choices)
    assert str(caught.value) == message


def test_what_is_no_gate_is_refused_by_name() -> None:
    weighted = network().replacing("sum", weights=np.arange(30)[None] // 29 + 1, weight_format=Format(True, 4, 0))
    with pytest.raises(Unsupported) as caught:
        layers_of(weighted)
    assert str(caught.value) == "layer act0: is read by rows and gate; backend 'rtl' takes chains, use backend 'emulator'"
    turned = (
        IMAGE,
        Requantise("first", ("x",), Format(True, 5, 3), relu=False),
        Rearrange("turn", ("first",), np.arange(60).reshape(6, 5, 2).transpose(2, 0, 1), kind="transpose"),
        Requantise("act", ("turn",), Format(True, 5, 3), relu=False),
        Conv("total", ("act",), np.ones((2, 1, 6, 5), np.int64), np.zeros(2, np.int64), Format(True, 2, 0), groups=2),
        Multiply("gate", ("act", "total")),
        Output("y", ("gate",)),
    )
    with pytest.raises(Unsupported) as caught:
        layers_of(Graph(turned))
    assert str(caught.value) == (
        "layer gate: a gate on channels that were rearranged is not supported by backend 'rtl'; use backend 'emulator'"
    )
