"""Steps, tables, signals, groups and dilation in the RTL backend against `Graph.run`, cycle by cycle, with `==`."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from brute_force import extreme_codes
from random_networks import stimulus

from caloedge.backends.rtl import BACKEND
from caloedge.backends.rtl.design import design
from caloedge.backends.rtl.epilogue import Rounded
from caloedge.backends.rtl.layers import layers_of, padded_shape
from caloedge.backends.rtl.simulation import compile_model, simulate
from caloedge.backends.rtl.verilog import write_design
from caloedge.catalog import Target, find
from caloedge.compiler import fixed
from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import (
    Add,
    Affine,
    Conv,
    Dense,
    InputQuantiser,
    MatMul,
    MaxPool,
    Op,
    Output,
    Rearrange,
    Requantise,
    Reshape,
    Softmax,
    Table,
    Threshold,
    TopK,
)
from caloedge.errors import Unsupported, UserError
from caloedge.project import read_record, write_record
from caloedge.recipe import LayerChoice

TARGET = find(Target, "xcvu13p")
WEIGHT = Format(True, 5, 3)
IMAGE = InputQuantiser("x", (2, 4, 3), Format(True, 6, 3))
N_EVENTS = 300
VARIANTS = ("unrolled", "streaming")


def draws(seed: int) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    """Return two functions that draw weights and biases of a shape."""
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.integers(-15, 16, shape), lambda *shape: rng.integers(-90, 90, shape)


def signed(name: str, source: str, rounding: Rounding = Rounding.HALF_EVEN) -> Requantise:
    return Requantise(name, (source,), Format(True, 6, 2), relu=False, rounding=rounding)


def scaled() -> Graph:
    """Return multiplications by constants before, behind and after layers: the same for a channel, or for each element."""
    w, b = draws(1)
    return Graph(
        (
            IMAGE,
            Affine("first", ("x",), w(2, 1, 1), b(2, 1, 1), WEIGHT),
            signed("act0", "first"),
            Conv("conv", ("act0",), w(3, 2, 2, 2), b(3), WEIGHT),
            Affine("channels", ("conv",), w(3, 1, 1), b(3, 1, 1), WEIGHT),
            signed("act1", "channels", Rounding.CEILING),
            Affine("each", ("act1",), w(3, 3, 2), b(3, 3, 2), WEIGHT),
            signed("act2", "each", Rounding.FROM_ZERO),
            Reshape("flat", ("act2",)),
            Affine("elements", ("flat",), w(18), b(18), WEIGHT),
            Requantise("act3", ("elements",), Format(False, 7, 1), True, rounding=Rounding.HALF_TO_ZERO, limits=(3, 99)),
            Dense("dense", ("act3",), w(3, 18), b(3), WEIGHT),
            Affine("last", ("dense",), w(3), b(3), WEIGHT),
            Output("y", ("last",)),
        )
    )


def looked_up() -> Graph:
    """Return tables of codes and of flattened codes, and thresholds as comparisons and as a table, falling as well."""
    w, b = draws(2)
    rng = np.random.default_rng(3)
    return Graph(
        (
            IMAGE,
            Table("codes", ("x",), rng.integers(-30, 31, (2, 1, 1, 64)), -32, Format(True, 6, 2)),
            Conv("conv", ("codes",), w(3, 2, 2, 2), b(3), WEIGHT),
            Threshold("steps", ("conv",), np.sort(rng.integers(-900, 900, (3, 1, 1, 15))), -8, 1, Format(True, 4, 0)),
            MaxPool("pool", ("steps",), (2, 1), (1, 1)),
            Threshold("falling", ("pool",), np.sort(rng.integers(-9, 9, (3, 2, 2, 7))), 7, -1, Format(False, 3, 0)),
            Reshape("flat", ("falling",)),
            Table("rows", ("flat",), rng.integers(0, 64, (12, 8)), 0, Format(False, 6, 2)),
            Requantise("act", ("rows",), Format(False, 6, 1), relu=False, rounding=Rounding.TO_ZERO),
            Dense("dense", ("act",), w(3, 12), b(3), WEIGHT),
            Output("y", ("dense",)),
        )
    )


def spread() -> Graph:
    """Return depthwise, grouped and dilated convolutions, a dilated pool, and codes that only change their names."""
    w, b = draws(4)
    return Graph(
        (
            InputQuantiser("x", (4, 6, 7), Format(True, 6, 3)),
            Conv("depthwise", ("x",), w(4, 1, 3, 3), b(4), WEIGHT, padding=(1, 1, 1, 1), groups=4),
            signed("act0", "depthwise"),
            MaxPool("pool", ("act0",), (2, 2), (1, 1), (1, 2)),
            Conv("grouped", ("pool",), w(6, 2, 2, 2), b(6), WEIGHT, stride=(1, 2), dilation=(2, 1), groups=2),
            signed("act1", "grouped"),
            Rearrange("transpose", ("act1",), np.arange(36).reshape(6, 3, 2).transpose(2, 0, 1), kind="transpose"),
            Reshape("flat", ("transpose",)),
            Dense("dense", ("flat",), w(4, 36), b(4), WEIGHT),
            Rearrange("reversed", ("dense",), np.arange(4)[::-1]),
            Output("y", ("reversed",)),
        )
    )


def blocks() -> Graph:
    """Return convolutions of blocks of 2 × 2 pixels: codes change their names behind the input and before the output."""
    w, b = draws(7)
    pixels = np.arange(2 * 4 * 6).reshape(2, 2, 2, 3, 2).transpose(0, 2, 4, 1, 3).reshape(8, 2, 3)
    shuffled = np.arange(4 * 2 * 3).reshape(1, 2, 2, 2, 3).transpose(0, 3, 1, 4, 2).reshape(1, 4, 6)
    return Graph(
        (
            InputQuantiser("x", (2, 4, 6), Format(True, 6, 3)),
            Rearrange("unshuffle", ("x",), pixels),
            Conv("conv0", ("unshuffle",), w(3, 8, 3, 3), b(3), WEIGHT, padding=(1, 1, 1, 1)),
            signed("act0", "conv0"),
            Conv("conv1", ("act0",), w(4, 3, 1, 1), b(4), WEIGHT),
            Rearrange("shuffle", ("conv1",), shuffled),
            Output("y", ("shuffle",)),
        )
    )


def signal() -> Graph:
    """Return a network on two signals of twelve samples, padded by more on the left than on the right."""
    w, b = draws(5)
    return Graph(
        (
            InputQuantiser("x", (2, 12), Format(True, 6, 3)),
            Conv("conv0", ("x",), w(3, 2, 3), b(3), WEIGHT, padding=(2, 0)),
            Requantise("act0", ("conv0",), Format(False, 6, 2), relu=True),
            MaxPool("pool", ("act0",), (2,), (2,)),
            Affine("norm", ("pool",), w(3, 1), b(3, 1), WEIGHT),
            signed("act1", "norm"),
            Conv("conv1", ("act1",), w(2, 3, 2), b(2), WEIGHT, dilation=(2,)),
            Output("y", ("conv1",)),
        )
    )


def rounded() -> Graph:
    """Return one dense layer for each rounding, some with limits."""
    w, b = draws(6)
    ops: list[Op] = [InputQuantiser("x", (4,), Format(True, 9, 3))]
    for number, rounding in enumerate(Rounding):
        weights = w(4, 4) // 2 | 1
        limits = (-100, 77) if number in (2, 3) else None
        ops.append(Dense(f"dense{number}", (ops[-1].name,), weights, b(4), WEIGHT))
        ops.append(Requantise(f"act{number}", (ops[-1].name,), Format(True, 9, 4), number == 6, rounding=rounding, limits=limits))
    return Graph((*ops, Output("y", (ops[-1].name,))))


NETWORKS = {"scaled": scaled, "looked_up": looked_up, "spread": spread, "blocks": blocks, "signal": signal, "rounded": rounded}
FOLDED = {
    "scaled": {"conv": LayerChoice(strategy="streaming", reuse=4), "dense": LayerChoice(strategy="streaming", reuse=9)},
    "spread": {"depthwise": LayerChoice(strategy="streaming", reuse=6), "grouped": LayerChoice(strategy="streaming", reuse=4)},
}
"""Multipliers instead of adder graphs; the rest is unrolled."""
CASES = [(network, variant) for network in NETWORKS for variant in VARIANTS] + [(network, "auto") for network in FOLDED]


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Build each network once, when it is asked for."""
    built: dict[tuple[str, str], Path] = {}

    def project(network: str, variant: str) -> Path:
        if (network, variant) not in built:
            folder = tmp_path_factory.mktemp("ops") / network
            BACKEND.build(NETWORKS[network](), TARGET, variant, folder, FOLDED[network] if variant == "auto" else {})
            built[network, variant] = folder
        return built[network, variant]

    return project


def found(folder: Path, graph: Graph, stall: float = 0.0) -> np.ndarray:
    assert BACKEND.simulate is not None
    return BACKEND.simulate(folder, stimulus(graph, 4, N_EVENTS), stall, None).codes["y"]


@pytest.mark.parametrize(("network", "variant"), CASES)
def test_every_cycle_accurate_result_equals_the_graph(projects: Any, network: str, variant: str) -> None:
    graph, folder = NETWORKS[network](), projects(network, variant)
    expected = graph.run(stimulus(graph, 4, N_EVENTS))["y"]
    assert len(np.unique(expected)) > 50, "the comparison would prove little"
    for stall in (0.0, 0.4):
        np.testing.assert_array_equal(found(folder, graph, stall), expected)


def test_a_signal_is_padded_on_the_side_that_the_network_says() -> None:
    """(begin, end) of the one axis become (top, left, bottom, right) of an image of one row."""
    first = layers_of(signal())[0]
    assert isinstance(first.op, Conv)
    assert first.op.padding == (0, 2, 0, 0)
    assert padded_shape(first) == (1, 14)


def driven() -> Graph:
    """Return a convolution whose sums leave the network as they are."""
    w, b = draws(9)
    return Graph((IMAGE, Conv("conv", ("x",), w(2, 2, 2, 2), b(2), WEIGHT, padding=(0, 1, 1, 0)), Output("y", ("conv",))))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_both_ends_of_every_sum_are_exact(variant: str, tmp_path: Path) -> None:
    """Inputs chosen by the sign of each weight: a register one bit too narrow wraps here and nowhere else."""
    graph = driven()
    BACKEND.build(graph, TARGET, variant, tmp_path / "project", {})
    assert BACKEND.simulate is not None
    codes, sums = extreme_codes(graph), graph.tensors["conv"]
    result = BACKEND.simulate(tmp_path / "project", codes, 0.0, None).codes["y"]
    np.testing.assert_array_equal(result, graph.run(codes)["y"])
    lowest, highest, _ = np.split(result.reshape(len(codes), -1), 3)
    assert np.diagonal(lowest).tolist() == sums.low.reshape(-1).tolist()
    assert np.diagonal(highest).tolist() == sums.high.reshape(-1).tolist()


def corruptions(graph: Graph) -> list[tuple[str, dict[str, Any]]]:
    """Return a small change of every layer that must show."""
    changes: list[tuple[str, dict[str, Any]]] = []
    for op in graph.ops:
        match op:
            case Affine() | Conv() | Dense():
                weights = op.weights.copy()
                weights[0] += np.where(weights[0] < 15, 1, -1)
                changes.append((op.name, {"weights": weights}))
            case Table():
                changes.append((op.name, {"values": np.roll(op.values, 1, axis=-1)}))
            case Threshold():
                changes.append((op.name, {"thresholds": op.thresholds + 1}))
            case Requantise() if op.rounding is not Rounding.HALF_EVEN:
                changes.append((op.name, {"rounding": Rounding.HALF_EVEN}))
                if op.limits:
                    changes.append((op.name, {"limits": None}))
            case MaxPool() if set(op.dilation) != {1}:
                changes.append((op.name, {"kernel": (1, 2)}))
            case _:
                pass
    return changes


@pytest.mark.parametrize("network", NETWORKS)
def test_a_corrupted_layer_is_caught_by_the_comparison(projects: Any, network: str) -> None:
    graph = NETWORKS[network]()
    codes = found(projects(network, "unrolled"), graph)
    for name, change in corruptions(graph):
        wrong = graph.replacing(name, **change)
        assert (wrong.run(stimulus(graph, 4, N_EVENTS))["y"] != codes).any(), (name, list(change))


@pytest.mark.parametrize(
    ("network", "variant", "module", "change"),
    [
        ("looked_up", "unrolled", "table_6_codes_0", (": out_data = 6'd", ": out_data = 6'd1 ^ 6'd")),
        ("looked_up", "streaming", "table_13_steps_1", ("code >= ", "code > ")),
        ("scaled", "auto", "layer_conv", (".BIAS(64'sd", ".BIAS(-64'sd")),
        ("scaled", "auto", "layer_conv", (".OF_OTHERS(64'sd", ".OF_OTHERS(-64'sd")),
        ("spread", "streaming", "layer_grouped", ("assign window_data = {pixels[", "assign window_data = {~pixels[")),
    ],
)
def test_a_broken_part_is_caught(
    tmp_path: Path, projects: Any, network: str, variant: str, module: str, change: tuple[str, str]
) -> None:
    wrong = shutil.copytree(projects(network, variant), tmp_path / "wrong")
    path = wrong / "rtl" / f"{read_record(wrong)['top']}_{module}.v"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    values = read_record(wrong, "rtl")
    values["library"] = f"sim/{tmp_path.name}.so"  # a process never loads one name twice
    compile_model(wrong, values["top"], values["sources"], values["library"], tmp_path / "log", trace=False)
    write_record(wrong, values)
    graph = NETWORKS[network]()
    codes = stimulus(graph, 4, N_EVENTS)
    assert (simulate(wrong, codes).codes["y"] != graph.run(codes)["y"]).any()


# Steps and stages


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("shift", [-2, 0, 1, 2, 5])
def test_an_offset_and_a_truncation_make_every_rounding(rounding: Rounding, shift: int) -> None:
    step = Rounded(Requantise("q", ("x",), Format(True, 30, 0), False, rounding=rounding), shift)
    codes = np.arange(-200, 201)
    if step.offsets is None:
        assert step.rounding in (Rounding.HALF_EVEN, Rounding.HALF_UP, Rounding.TRUNCATE)
        return
    shifted = np.where(codes < 0, *step.offsets) + codes
    expected = fixed.shift_right(codes, shift, rounding)
    np.testing.assert_array_equal(fixed.shift_right(shifted, shift, Rounding.TRUNCATE), expected)


def test_constants_stay_with_their_layer_where_they_repeat() -> None:
    layers = layers_of(scaled())
    assert [(layer.name, len(layer.after)) for layer in layers] == [("first", 2), ("conv", 2), ("each", 4), ("dense", 1)]
    assert [layer.needs_whole_event for layer in layers] == [False, False, True, False]
    streaming = {stage.layer.name: stage for stage in design(scaled(), TARGET, "streaming", {}).stages}
    assert (streaming["first"].source.beats, streaming["conv"].result.beats) == (12, 6)
    assert (streaming["each"].source.beats, streaming["each"].cycles) == (1, 1)


def test_equal_rows_share_a_module_and_a_table_is_a_register_stage() -> None:
    text = write_design(design(looked_up(), TARGET, "unrolled", {}), cutoff=4)
    tables = [name for name in text.modules if name.startswith("table_")]
    assert sum("_codes_" in name for name in tables) == 2
    assert sum("_falling_" in name for name in tables) == 12
    assert text.blocks["layer_codes"] == 1
    assert "wire reached_14 = code >= " in next(text.modules[name] for name in tables if "_steps_" in name)
    with pytest.raises(UserError, match=r"^layers: codes: reuse 2; a table has no multipliers to reuse, leave it out$"):
        design(looked_up(), TARGET, "auto", {"codes": LayerChoice(strategy="streaming", reuse=2)})


def test_a_flattened_image_keeps_its_order_to_the_output() -> None:
    ops = (IMAGE, signed("act0", "x"), Reshape("flat", ("act0",)), signed("act1", "flat"), Output("y", ("act1",)))
    for variant in VARIANTS:
        order = design(Graph(ops), TARGET, variant, {}).result.order
        assert order.tolist()[:4] == [0, 12, 1, 13]


def test_a_rearranged_input_is_another_order_at_the_port() -> None:
    made = design(blocks(), TARGET, "streaming", {})
    assert (made.source.beats, made.source.words) == (6, 8)
    # The first beat holds the upper left block of 2 × 2 pixels of both channels, 24 pixels each.
    assert made.source.order.tolist()[:8] == [0, 1, 6, 7, 24, 25, 30, 31]
    assert made.result.order.tolist()[:8] == [0, 1, 6, 7, 2, 3, 8, 9]


# What is refused


def after(*ops: Op, first: InputQuantiser = IMAGE) -> Graph:
    return Graph((first, signed("act", "x"), *ops, Output("y", (ops[-1].name,))))


EMULATOR = "is not supported by backend 'rtl'; use backend 'emulator'"
WIDE = Format(True, 12, 0)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (after(Add("sum", ("act", "act"))),
         "layer act: is read by sum and sum; backend 'rtl' takes chains, use backend 'emulator'"),
        (after(TopK("best", ("act",), 1, True, "values")), f"layer best: a choice of the best {EMULATOR}"),
        (after(Softmax("soft", ("act",), np.ones(3, np.int64), (1, 1), WIDE)), f"layer soft: a softmax {EMULATOR}"),
        (after(Rearrange("cut", ("act",), np.arange(5), kind="slice")), f"layer cut: a slice {EMULATOR}"),
        (after(Dense("rows", ("act",), np.ones((2, 3), np.int64), np.zeros(2, np.int64), WEIGHT)),
         f"layer rows: a dense layer on a matrix {EMULATOR}"),
        (after(Rearrange("turn", ("act",), np.arange(24).reshape(2, 4, 3)[:, ::-1]), MaxPool("pool", ("turn",), (2, 2), (1, 1))),
         f"layer pool: an input whose pixels were rearranged {EMULATOR}"),
        (after(Reshape("deep", ("act",), (1, 2, 3, 4)), MaxPool("pool", ("deep",), (1, 1, 1), (1, 1, 1))),
         f"layer pool: a max pool over 3 axes {EMULATOR}"),
        (Graph((InputQuantiser("x", (1,), Format(True, 11, 0)), Table("t", ("x",), np.zeros((1, 2048), np.int64), -1024, WIDE),
                Output("y", ("t",)))),
         f"layer t: a table of 2,048 entries (limit 1,024) {EMULATOR}"),
        (Graph((InputQuantiser("x", (1,), Format(True, 12, 0)), Threshold("t", ("x",), np.arange(65)[None], 0, 1, WIDE),
                Output("y", ("t",)))),
         f"layer t: a count of 65 thresholds on fixed<12,12> (limit 64) {EMULATOR}"),
        (Graph((InputQuantiser("x", (1,), Format(True, 4, 61)),
                Requantise("q", ("x",), Format(True, 4, 0), False, rounding=Rounding.CEILING), Output("y", ("q",)))),
         f"layer q: rounding ceiling of 61 bits {EMULATOR}"),
        (Graph((InputQuantiser("a", (2, 2), WEIGHT), InputQuantiser("b", (2, 2), WEIGHT), MatMul("m", ("a", "b")),
                Output("y", ("m",)))),
         "input b: a second input is not supported by backend 'rtl'; use backend 'emulator'"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_by_name(graph: Graph, message: str) -> None:
    with pytest.raises(Unsupported) as caught:
        layers_of(graph)
    assert str(caught.value) == message


def test_wide_constants_are_refused_unrolled_and_go_on_multipliers() -> None:
    graph = scaled()
    wide = np.full((3, 1, 1), 2**25 + 1)
    graph = graph.replacing("channels", weights=wide, weight_format=Format(True, 27, 3))
    with pytest.raises(
        Unsupported,
        match=r"^layer conv unrolled: weights of 26 bits in channels are too wide for an adder graph \(19 at most\); "
        r"use --variant auto --layer conv=streaming$",
    ):
        design(graph, TARGET, "unrolled", {})
    text = write_design(design(graph, TARGET, "auto", FOLDED["scaled"]), cutoff=4)
    assert f".WEIGHT(64'sd{2**25 + 1})" in text.modules["layer_conv"]
