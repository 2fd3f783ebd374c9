"""Branches, signals, moves and constants in hls4ml projects: the C simulation equals `Graph.run`, in both streaming styles."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caloedge.backends.hls4ml.layout import channels_last, moves
from caloedge.backends.hls4ml.plan import plan
from caloedge.catalog import Backend, Target, find
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
    Multiply,
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
from caloedge.project import read_record

BACKEND = find(Backend, "hls4ml")
TARGET = find(Target, "xcvu13p")
WEIGHT = Format(True, 5, 3)
IMAGE = InputQuantiser("x", (3, 4, 5), Format(True, 6, 3))
N_EVENTS = 300

slow = pytest.mark.slow
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def draws(seed: int) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    """Return two functions that draw weights and biases of a shape."""
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.integers(-15, 16, shape), lambda *shape: rng.integers(-90, 90, shape)


def signed(name: str, source: str, rounding: Rounding = Rounding.HALF_EVEN) -> Requantise:
    return Requantise(name, (source,), Format(True, 6, 2), relu=False, rounding=rounding)


def concatenation(name: str, axis: int, *inputs: tuple[str, tuple[int, ...]]) -> Rearrange:
    """Return inputs, given as names and shapes, laid end to end."""
    parts, start = [], 0
    for _, shape in inputs:
        parts.append(start + np.arange(np.prod(shape)).reshape(shape))
        start += parts[-1].size
    return Rearrange(name, tuple(source for source, _ in inputs), np.concatenate(parts, axis=axis), kind="concatenation")


def residual() -> Graph:
    """Return a network whose tensors are read twice, with constants for channels, elements and all, and every rounding."""
    w, b = draws(1)
    return Graph(
        (
            IMAGE,
            Affine("scale", ("x",), w(3, 1, 1), b(3, 1, 1), WEIGHT),
            signed("act0", "scale", Rounding.HALF_TO_ZERO),
            Conv("conv0", ("act0",), w(3, 3, 3, 3), b(3), WEIGHT, padding=(1, 1, 1, 1)),
            Requantise("act1", ("conv0",), Format(False, 6, 1), relu=True, rounding=Rounding.HALF_UP),
            Add("sum", ("act1", "x")),
            signed("act2", "sum", Rounding.TO_ZERO),
            Multiply("product", ("act2", "x")),
            Affine("each", ("product",), w(3, 4, 5), b(3, 4, 5), WEIGHT),
            Requantise("act3", ("each",), Format(True, 9, 2), relu=False, rounding=Rounding.HALF_FROM_ZERO),
            Add("twice", ("act3", "act3")),
            Reshape("flat", ("twice",)),
            Affine("elements", ("flat",), w(60), b(60), WEIGHT),
            Requantise("act4", ("elements",), Format(True, 7, 1), relu=False, rounding=Rounding.TRUNCATE),
            Dense("dense", ("act4",), w(4, 60), b(4), WEIGHT),
            Affine("last", ("dense",), w(1), b(1), WEIGHT),
            Output("y", ("last",)),
        )
    )


def signal() -> Graph:
    """Return a network on signals: strides, padding, groups, dilation, a pool, a dense layer along the last axis."""
    w, b = draws(2)
    return Graph(
        (
            InputQuantiser("x", (2, 13), Format(True, 6, 3)),
            Conv("conv0", ("x",), w(4, 2, 3), b(4), WEIGHT, stride=(2,), padding=(2, 1)),
            Requantise("act0", ("conv0",), Format(False, 6, 2), relu=True),
            Conv("depthwise", ("act0",), w(4, 1, 2), b(4), WEIGHT, groups=4),
            signed("act1", "depthwise"),
            MaxPool("pool", ("act1",), (2,), (2,)),
            Affine("norm", ("pool",), w(4, 1), b(4, 1), WEIGHT),
            signed("act2", "norm"),
            Dense("mix", ("act2",), w(5, 3), b(5), WEIGHT),
            signed("act3", "mix"),
            Conv("dilated", ("act3",), w(2, 4, 2), b(2), WEIGHT, dilation=(2,)),
            Output("y", ("dilated",)),
        )
    )


def moved() -> Graph:
    """Return groups and dilation, concatenations, a transposition, reshapes and a reversal, which leave in several outputs."""
    w, b = draws(3)
    return Graph(
        (
            IMAGE,
            Conv("grouped", ("x",), w(6, 1, 2, 2), b(6), WEIGHT, groups=3, dilation=(2, 1)),
            signed("act0", "grouped"),
            Requantise("act1", ("grouped",), Format(False, 4, 2), relu=True, rounding=Rounding.TRUNCATE),
            concatenation("joined", 1, ("act0", (6, 2, 4)), ("act1", (6, 2, 4)), ("act0", (6, 2, 4))),
            Rearrange("turned", ("joined",), np.arange(144).reshape(6, 6, 4).transpose(2, 0, 1), kind="transpose"),
            Conv("conv", ("turned",), w(2, 4, 2, 3), b(2), WEIGHT, stride=(2, 1)),
            signed("act2", "conv"),
            Reshape("lines", ("act2",), (2, 12)),
            Conv("filter", ("lines",), w(3, 2, 4), b(3), WEIGHT),
            signed("act3", "filter"),
            Reshape("flat", ("act3",)),
            Rearrange("reversed", ("flat",), np.arange(27)[::-1]),
            Requantise("act4", ("reversed",), Format(True, 5, 2), relu=False, narrow=True),
            Dense("dense", ("act4",), w(3, 27), b(3), WEIGHT),
            Output("y", ("dense",)),
            Rearrange("mirrored", ("conv",), np.arange(24).reshape(2, 3, 4)[:, :, ::-1].reshape(-1)),
            Requantise("act5", ("mirrored",), Format(True, 9, 3), relu=False),
            Output("z", ("act5",)),
        )
    )


def paired() -> Graph:
    """Return a network with two inputs, one of them named like a word of C++."""
    w, b = draws(4)
    return Graph(
        (
            InputQuantiser("double", (4,), Format(False, 5, 1)),
            InputQuantiser("input", (2, 3, 4), Format(True, 6, 3)),
            Conv("conv", ("input",), w(4, 2, 3, 4), b(4), WEIGHT),
            signed("act", "conv"),
            Reshape("flat", ("act",)),
            Add("sum", ("flat", "double")),
            Dense("dense", ("sum",), w(3, 4), b(3), WEIGHT),
            Requantise("short", ("double",), Format(True, 11, 5), relu=False),
            concatenation("joined", 0, ("dense", (3,)), ("short", (4,))),
            Output("y", ("joined",)),
        )
    )


NETWORKS: dict[str, Callable[[], Graph]] = {"residual": residual, "signal": signal, "moved": moved, "paired": paired}
CASES = [(network, variant) for network in NETWORKS for variant in ("io_parallel", "io_stream")]


def stimulus(graph: Graph) -> dict[str, np.ndarray]:
    rng, codes = np.random.default_rng(5), {}
    for op in graph.inputs:
        low, high = graph.tensors[op.name].range
        codes[op.name] = rng.integers(low, high, (N_EVENTS, *op.shape), endpoint=True)
        codes[op.name][0], codes[op.name][1] = low, high
    return codes


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Build each network once, when it is asked for."""
    built: dict[tuple[str, str], Path] = {}

    def project(network: str, variant: str) -> Path:
        if (network, variant) not in built:
            folder = tmp_path_factory.mktemp("ops") / f"{network}-{variant}"
            BACKEND.build(NETWORKS[network](), TARGET, variant, folder, {})
            built[network, variant] = folder
        return built[network, variant]

    return project


@slow
@needs_compiler
@pytest.mark.parametrize(("network", "variant"), CASES)
def test_the_c_simulation_equals_the_graph(projects: Any, network: str, variant: str) -> None:
    graph = NETWORKS[network]()
    expected, found = graph.run(stimulus(graph)), BACKEND.emulate(projects(network, variant), stimulus(graph))
    assert list(found) == list(expected)
    for name, wanted in expected.items():
        assert len(np.unique(wanted)) > 50, "the comparison would prove little"
        np.testing.assert_array_equal(found[name], wanted)


def corruptions(graph: Graph) -> list[tuple[str, dict[str, Any]]]:
    """Return a small change of every layer that must show."""
    changes: list[tuple[str, dict[str, Any]]] = []
    for op in graph.ops:
        match op:
            case Affine() | Conv() | Dense():
                weights = op.weights.copy()
                weights[0] += np.where(weights[0] < 15, 1, -1)
                changes.append((op.name, {"weights": weights}))
            case Requantise() if op.rounding is not Rounding.HALF_EVEN:
                changes.append((op.name, {"rounding": Rounding.HALF_EVEN}))
            case Rearrange():
                changes.append((op.name, {"index": np.roll(op.index, 1, axis=-1)}))
            case _:
                pass
    return changes


@slow
@needs_compiler
@pytest.mark.parametrize("network", NETWORKS)
def test_a_corrupted_layer_is_caught_by_the_comparison(projects: Any, network: str) -> None:
    graph = NETWORKS[network]()
    found = BACKEND.emulate(projects(network, "io_parallel"), stimulus(graph))
    for name, change in corruptions(graph):
        wrong = graph.replacing(name, **change).run(stimulus(graph))
        assert any((wrong[output] != codes).any() for output, codes in found.items()), name


@slow
@needs_compiler
def test_inputs_are_given_by_name(projects: Any) -> None:
    folder, codes = projects("paired", "io_parallel"), stimulus(paired())
    assert [item["name"] for item in read_record(folder)["inputs"]] == ["double", "input"]
    with pytest.raises(UserError, match=r"input codes for double given; the inputs are: double, input$"):
        BACKEND.emulate(folder, {"double": codes["double"]})
    with pytest.raises(UserError, match=r"input codes for double given; the inputs are: double, input$"):
        BACKEND.emulate(folder, codes["double"])
    with pytest.raises(UserError, match=r"the inputs have different numbers of events: 300, 2$"):
        BACKEND.emulate(folder, codes | {"input": codes["input"][:2]})


# The plan


def test_names_that_hls4ml_or_c_plus_plus_take_are_changed() -> None:
    what = plan(paired(), TARGET, "io_parallel")
    assert what.inputs == ["double_1", "input_1"]
    assert what.layers[2]["inputs"] == ["input_1"]


def test_missing_weights_are_zeros() -> None:
    layers = {layer["name"]: layer for layer in plan(moved(), TARGET, "io_parallel").layers}
    weights = layers["grouped"]["weight_data"]  # (row, column, channel, filter)
    assert weights.shape == (3, 2, 3, 6)
    assert not weights[1].any()
    assert not weights[:, :, 0, 2:].any()
    np.testing.assert_array_equal(weights[::2, :, 2, 4:] * 8, moved()["grouped"].weights[4:, 0].transpose(1, 2, 0))  # type: ignore[union-attr]


def test_a_flattened_stream_stays_in_pixels_until_a_dense_layer() -> None:
    for variant, kinds in (
        ("io_parallel", ["Reshape", "BatchNormalization"]),
        ("io_stream", ["BatchNormalization", "Activation"]),
    ):
        layers = [layer["class_name"] for layer in plan(residual(), TARGET, variant).layers]
        start = len(layers) - 1 - layers[::-1].index("Merge") + 1
        assert layers[start : start + 2] == kinds


@pytest.mark.parametrize("shape", [(6,), (2, 3), (3, 2, 4)])
def test_moves_make_what_they_promise(shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    given = channels_last(shape)
    array = rng.permutation(given.order.size)[given.order].reshape(given.shape)
    natural = array.reshape(-1)[np.argsort(given.order)]
    for other in ((given.order.size,), shape, shape[::-1], (1, *shape)[:3], (given.order.size, 1)):
        if np.prod(other) != given.order.size or (steps := moves(given, wanted := channels_last(other))) is None:
            continue
        made = array
        for step in steps:
            made = made.transpose(step.axes) if step.axes else made.reshape(step.shape)
            assert made.shape == step.shape
        np.testing.assert_array_equal(made.reshape(-1), natural[wanted.order])


# What is refused


def after(*ops: Op, first: InputQuantiser = IMAGE) -> Graph:
    return Graph((first, signed("act", "x"), *ops, Output("y", (ops[-1].name,))))


EMULATOR = "is not supported by backend 'hls4ml'; use backend 'emulator'"
WIDE = Format(True, 12, 0)
ZEROS = np.zeros(2, np.int64)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (after(TopK("best", ("act",), 1, True, "values")), f"layer best: a choice of the best {EMULATOR}"),
        (after(Softmax("soft", ("act",), np.ones(3, np.int64), (1, 1), WIDE)), f"layer soft: a softmax {EMULATOR}"),
        (after(MatMul("m", ("act", "act")), first=InputQuantiser("x", (2, 2), WEIGHT)),
         f"layer m: a matrix product of two tensors {EMULATOR}"),
        (after(Table("t", ("act",), np.zeros((1, 1, 1, 64), np.int64), -32, WIDE)), f"layer t: a table {EMULATOR}"),
        (after(Threshold("t", ("act",), np.zeros((1, 1, 1, 3), np.int64), 0, 1, WIDE)),
         f"layer t: a count of thresholds {EMULATOR}"),
        (after(Rearrange("cut", ("act",), np.arange(5), kind="slice")), f"layer cut: a slice {EMULATOR}"),
        (after(Requantise("up", ("act",), WIDE, False, rounding=Rounding.CEILING)), f"layer up: rounding ceiling {EMULATOR}"),
        (after(Requantise("clip", ("act",), WIDE, True, limits=(-5, 6))), f"layer clip: clipping to 0 and 6 {EMULATOR}"),
        (after(MaxPool("pool", ("act",), (2, 2), (1, 1), (1, 2))), f"layer pool: dilation (1, 2) {EMULATOR}"),
        (after(Reshape("deep", ("act",), (1, 3, 4, 5)), MaxPool("pool", ("deep",), (1, 1, 1), (1, 1, 1))),
         f"layer deep: a tensor of 4 axes {EMULATOR}"),
        (after(Reshape("odd", ("act",), (5, 12))), f"layer odd: an order of codes that one transposition cannot make {EMULATOR}"),
        (after(Conv("grey", ("act",), np.ones((1, 3, 1, 1), np.int64), ZEROS[:1], WEIGHT), Add("sum", ("act", "grey"))),
         f"layer sum: an input of shape (1, 4, 5) in another order {EMULATOR}"),
        (after(Conv("row", ("act",), np.ones((2, 3, 4, 1), np.int64), ZEROS, WEIGHT),
               Conv("column", ("act",), np.ones((2, 3, 1, 5), np.int64), ZEROS, WEIGHT), Add("sum", ("row", "column"))),
         f"layer sum: repetition of both inputs {EMULATOR}"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_by_name(graph: Graph, message: str) -> None:
    with pytest.raises(Unsupported) as caught:
        BACKEND.preview(graph, TARGET, "io_parallel", {})
    assert str(caught.value) == message


def test_a_reshaped_input_is_no_output() -> None:
    graph = Graph((IMAGE, Reshape("flat", ("x",)), Output("y", ("flat",))))
    with pytest.raises(Unsupported, match=r"^output y: is the input itself; backend 'hls4ml' needs a layer between$"):
        plan(graph, TARGET, "io_parallel")


def test_what_streams_cannot_do_is_refused_by_name() -> None:
    mean = Conv("mean", ("act",), np.ones((3, 3, 4, 5), np.int64), np.zeros(3, np.int64), WEIGHT)
    graph = after(mean, Add("sum", ("act", "mean")))
    assert plan(graph, TARGET, "io_parallel").layers[-1]["op"] == "add"
    with pytest.raises(Unsupported) as caught:
        plan(graph, TARGET, "io_stream")
    what = "adding or multiplying streams of (4, 5, 3) and (1, 1, 3)"
    assert str(caught.value) == f"layer sum: {what} is not supported by backend 'hls4ml'; use io_parallel"
    rows = after(Conv("rows", ("act",), np.ones((2, 3, 1, 2), np.int64), ZEROS, WEIGHT, stride=(2, 1)))
    assert plan(rows, TARGET, "io_parallel").layers
    with pytest.raises(
        Unsupported, match=r"^layer rows: kernel \(1, 2\) with stride \(2, 1\) in io_stream is not .*; use io_parallel$"
    ):
        plan(rows, TARGET, "io_stream")
    both = after(Reshape("flat", ("act",)), concatenation("joined", 0, ("flat", (60,)), ("flat", (60,))))
    with pytest.raises(Unsupported, match=r"^layer joined: a concatenation of flattened streams is not .*; use io_parallel$"):
        plan(both, TARGET, "io_stream")
