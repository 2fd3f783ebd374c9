"""Channel gates, reuse factors and reordered ends in hls4ml projects: the C simulation equals `Graph.run`."""

import re
import shutil
import subprocess
from collections.abc import Callable, Mapping
from importlib import resources
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from caloedge.backends.hls4ml import reuse
from caloedge.backends.hls4ml.extension import hold_events
from caloedge.backends.hls4ml.gates import HEADER, SCALE, SUM
from caloedge.backends.hls4ml.plan import MOST_PARALLEL_PRODUCTS, plan
from caloedge.catalog import Backend, Target, find
from caloedge.compiler.fixed import Format
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
)
from caloedge.compiler.squeeze_excite import gates
from caloedge.errors import Unsupported, UserError
from caloedge.project import is_built, read_record, record
from caloedge.recipe import LayerChoice

BACKEND = find(Backend, "hls4ml")
TARGET = find(Target, "xcvu13p")
WEIGHT = Format(True, 5, 3)
ONE = Format(False, 1, 0)
N_EVENTS = 300
CHANNELS, PIXELS = 3, 30
GATED = "gated"

slow = pytest.mark.slow
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def draws(seed: int) -> tuple[Callable[..., np.ndarray], Callable[..., np.ndarray]]:
    """Return two functions that draw weights and biases of a shape."""
    rng = np.random.default_rng(seed)
    return lambda *shape: rng.integers(-15, 16, shape), lambda *shape: rng.integers(-90, 90, shape)


def relu(name: str, source: str) -> Requantise:
    return Requantise(name, (source,), Format(False, 5, 2), relu=True)


def gate(name: str, source: str, seed: int, *, by_convolution: bool = False) -> tuple[Op, ...]:
    """Return the operations of a gate of three channels: mean, two dense layers, a piecewise linear factor, the product."""
    w, b = draws(seed)
    zeros = np.zeros(CHANNELS, np.int64)
    if by_convolution:
        ones = np.ones((CHANNELS, 1, 6, 5), np.int64)
        squeeze: tuple[Op, ...] = (Conv(f"{name}_sum", (source,), ones, zeros, Format(False, 1, 5), groups=CHANNELS),)
    else:
        squeeze = (
            Reshape(f"{name}_pixels", (source,), (CHANNELS, PIXELS)),
            Dense(f"{name}_sum", (f"{name}_pixels",), np.ones((1, PIXELS), np.int64), zeros[:1], ONE),
        )
    return (
        *squeeze,
        Reshape(f"{name}_flat", (f"{name}_sum",)),
        Affine(f"{name}_mean", (f"{name}_flat",), np.ones(1, np.int64), zeros[:1], Format(False, 1, 0 if by_convolution else 5)),
        Requantise(f"{name}_means", (f"{name}_mean",), Format(False, 8, 5), relu=False),
        Dense(f"{name}_reduce", (f"{name}_means",), w(2, CHANNELS), b(2), WEIGHT),
        Requantise(f"{name}_reduced", (f"{name}_reduce",), Format(False, 7, 3), relu=True),
        Dense(f"{name}_expand", (f"{name}_reduced",), w(CHANNELS, 2), b(CHANNELS), WEIGHT),
        Affine(f"{name}_line", (f"{name}_expand",), np.ones(1, np.int64), np.full(1, 1 << 7), Format(False, 1, 2)),
        Requantise(f"{name}_factors", (f"{name}_line",), Format(False, 6, 6), relu=False),
        Reshape(f"{name}_wide", (f"{name}_factors",), (CHANNELS, 1, 1)),
        Multiply(f"{name}_scale", (source, f"{name}_wide")),
    )


def gated() -> Graph:
    """Return two gates in a chain, one that sums by a dense layer of ones and one by a convolution whose ones stand for 1/32."""
    w, b = draws(1)
    return Graph(
        (
            InputQuantiser("x", (2, 6, 5), Format(True, 6, 3)),
            Conv("conv", ("x",), w(CHANNELS, 2, 3, 3), b(CHANNELS), WEIGHT, padding=(1, 1, 1, 1)),
            relu("act", "conv"),
            *gate("first", "act", 2),
            Requantise("gated", ("first_scale",), Format(False, 5, 2), relu=False),
            *gate("second", "gated", 3, by_convolution=True),
            relu("again", "second_scale"),
            Conv("last", ("again",), w(1, CHANNELS, 3, 3), b(1), WEIGHT, padding=(1, 1, 1, 1)),
            Output("y", ("last",)),
        )
    )


def signs() -> Graph:
    """Return a gate of signed pixels of the input itself, whose only dense layer makes negative factors of rows of means."""
    w, b = draws(4)
    return Graph(
        (
            InputQuantiser("x", (CHANNELS, 6, 5), Format(True, 6, 3)),
            Reshape("pixels", ("x",), (CHANNELS, PIXELS)),
            Dense("sum", ("pixels",), np.ones((1, PIXELS), np.int64), np.zeros(1, np.int64), ONE),
            Requantise("means", ("sum",), Format(True, 8, 1), relu=False),
            Reshape("row", ("means",), (1, CHANNELS)),
            Dense("mix", ("row",), w(CHANNELS, CHANNELS), b(CHANNELS), WEIGHT),
            Requantise("factors", ("mix",), Format(True, 7, 2), relu=False),
            Reshape("wide", ("factors",), (CHANNELS, 1, 1)),
            Multiply("scale", ("wide", "x")),
            Output("y", ("scale",)),
        )
    )


def blocks(side: int = 2) -> Graph:
    """Return a network that looks at blocks of pixels: reordered input and output, depthwise and pointwise convolutions."""
    w, b = draws(5)
    inside = np.arange(2 * 6 * 8).reshape(2, 6 // side, side, 8 // side, side).transpose(0, 2, 4, 1, 3).reshape(8, 3, 4)
    outside = np.arange(4 * 3 * 4).reshape(1, side, side, 3, 4).transpose(0, 3, 1, 4, 2).reshape(1, 6, 8)
    return Graph(
        (
            InputQuantiser("x", (2, 6, 8), Format(True, 6, 3)),
            Rearrange("unshuffle", ("x",), inside),
            Conv("deep", ("unshuffle",), w(8, 1, 3, 2), b(8), WEIGHT, padding=(1, 1, 1, 0), groups=8),
            relu("act0", "deep"),
            Conv("point", ("act0",), w(6, 8, 1, 1), b(6), WEIGHT),
            relu("act1", "point"),
            Conv("conv", ("act1",), w(4, 6, 3, 3), b(4), WEIGHT, padding=(1, 1, 1, 1)),
            Rearrange("shuffle", ("conv",), outside),
            Output("y", ("shuffle",)),
        )
    )


def mixed() -> Graph:
    """Return every kind of layer that reuses multipliers: over pixels, depthwise, along a line, dense of a vector and of rows."""
    w, b = draws(6)
    return Graph(
        (
            InputQuantiser("x", (2, 5, 4), Format(True, 6, 3)),
            Conv("conv", ("x",), w(4, 2, 3, 3), b(4), WEIGHT, padding=(1, 1, 1, 1)),
            relu("act0", "conv"),
            Conv("deep", ("act0",), w(4, 1, 2, 3), b(4), WEIGHT, groups=4),
            relu("act1", "deep"),
            Reshape("lines", ("act1",), (4, 8)),
            Conv("line", ("lines",), w(3, 4, 3), b(3), WEIGHT),
            relu("act2", "line"),
            Dense("rows", ("act2",), w(4, 6), b(4), WEIGHT),
            relu("act3", "rows"),
            Reshape("flat", ("act3",)),
            Dense("dense", ("flat",), w(6, 12), b(6), WEIGHT),
            Output("y", ("dense",)),
        )
    )


NETWORKS: dict[str, Callable[[], Graph]] = {GATED: gated, "signs": signs, "blocks": blocks}


def stimulus(graph: Graph) -> np.ndarray:
    rng = np.random.default_rng(5)
    low, high = graph.tensors[graph.input.name].range
    # Events of all sizes: alike in size, they would have gates alike.
    top = np.geomspace(1, high + 1, N_EVENTS).astype(np.int64).reshape(-1, 1, 1, 1)
    codes = np.clip(rng.integers(-top, top, (N_EVENTS, *graph.input.shape), endpoint=True), low, high)
    codes[0], codes[1] = low, high
    return codes


def built(graph: Graph, variant: str, folder: Path, choices: Mapping[str, LayerChoice] | None = None) -> Path:
    BACKEND.build(graph, TARGET, variant, folder, choices or {})
    return folder


@pytest.fixture(scope="module")
def projects(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Build each network once, when it is asked for."""
    made: dict[tuple[str, str], Path] = {}

    def project(network: str, variant: str) -> Path:
        if (network, variant) not in made:
            folder = tmp_path_factory.mktemp("gates") / f"{network}-{variant}"
            made[network, variant] = built(NETWORKS[network](), variant, folder)
        return made[network, variant]

    return project


def test_the_networks_have_the_gates_that_they_are_named_for() -> None:
    assert [len(gates(network())) for network in NETWORKS.values()] == [2, 1, 0]
    trace = gated().trace(stimulus(gated()))
    for name in ("first_factors", "second_factors"):
        assert len(np.unique(trace[name])) > 5, "gates that never change would prove little"
        assert trace[name].min() < 32 < trace[name].max()
    factors = signs().trace(stimulus(signs()))["factors"]
    assert factors.min() < 0 < factors.max()


@slow
@needs_compiler
@pytest.mark.parametrize("variant", ["io_parallel", "io_stream"])
@pytest.mark.parametrize("network", NETWORKS)
def test_the_c_simulation_equals_the_graph(projects: Any, network: str, variant: str) -> None:
    graph = NETWORKS[network]()
    expected, found = graph.run(stimulus(graph)), BACKEND.emulate(projects(network, variant), stimulus(graph))
    assert list(found) == list(expected)
    assert len(np.unique(expected["y"])) > 50, "the comparison would prove little"
    np.testing.assert_array_equal(found["y"], expected["y"])


@slow
@needs_compiler
@pytest.mark.parametrize(
    "name", ["first_sum", "first_reduce", "first_expand", "first_line", "second_sum", "second_reduce", "second_expand"]
)
def test_a_corrupted_gate_is_caught_by_the_comparison(projects: Any, name: str) -> None:
    graph = gated()
    op = graph[name]
    assert isinstance(op, Affine | Conv | Dense)
    changes: dict[str, Any] = {"bias": op.bias + (np.arange(op.bias.size) == 0).reshape(op.bias.shape) * 4}
    if not (op.weights == 1).all():
        weights = op.weights.copy()
        weights[0, 0] += 1 if weights[0, 0] < 15 else -1
        changes = {"weights": weights}
    wrong = graph.replacing(name, **changes).run(stimulus(graph))["y"]
    assert (wrong != BACKEND.emulate(projects(GATED, "io_stream"), stimulus(graph))["y"]).any()


# What streams must hold


@slow
@needs_compiler
def test_the_stream_beside_each_gate_holds_a_whole_event(projects: Any) -> None:
    folder = projects(GATED, "io_stream")
    streams = read_record(folder)["whole_event_streams"]
    assert [(item["layer"], item["words"]) for item in streams] == [("first_scale", PIXELS), ("second_scale", PIXELS)]
    text = (folder / "firmware" / f"{read_record(folder)['project']}.cpp").read_text()
    for item in streams:
        assert item["depth"] >= PIXELS
        assert f"#pragma HLS STREAM variable={item['stream']} depth={item['depth']}\n" in text
        assert re.search(rf"nnet::channel_scale<.*>\({item['stream']}, ", text)
    assert read_record(projects(GATED, "io_parallel"))["whole_event_streams"] == []


def test_a_stream_that_is_too_short_is_made_longer() -> None:
    variable = SimpleNamespace(name="layer9_cpy2", pragma=("stream", 2))
    node = SimpleNamespace(
        class_name=SCALE,
        name="scale",
        inputs=["pixels", "factors"],
        get_attr={"n_pixels": PIXELS}.get,
        get_input_variable={"pixels": variable}.get,
    )
    model = SimpleNamespace(get_layers=lambda: [SimpleNamespace(class_name="Dense"), node])
    assert hold_events(model) == [{"layer": "scale", "stream": "layer9_cpy2", "words": PIXELS, "depth": PIXELS}]
    assert variable.pragma == ("stream", PIXELS)


BOUNDED = r"""
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <mutex>
#include <thread>

static std::mutex mutex;
static std::condition_variable changed;

template <class Ready> void wait_for(std::unique_lock<std::mutex> &lock, Ready ready) {
    if (!changed.wait_for(lock, std::chrono::seconds(2), ready)) std::_Exit(3);  // nothing moves any more
}

namespace hls {
template <class T> struct stream {  // as in hardware: a full one blocks
    std::size_t depth;
    std::deque<T> words;
    explicit stream(std::size_t depth) : depth(depth) {}
    T read() {
        std::unique_lock<std::mutex> lock(mutex);
        wait_for(lock, [&] { return !words.empty(); });
        T word = words.front();
        words.pop_front();
        changed.notify_all();
        return word;
    }
    void write(const T &word) {
        std::unique_lock<std::mutex> lock(mutex);
        wait_for(lock, [&] { return words.size() < depth; });
        words.push_back(word);
        changed.notify_all();
    }
};
}

struct Number {
    static const int width = 16;
    int value;
    Number(int value = 0) : value(value) {}
    int &range(int, int) { return value; }
    const int &range(int, int) const { return value; }
    void operator+=(const Number &other) { value += other.value; }
    Number operator*(const Number &other) const { return Number(value * other.value); }
};
#define PRAGMA_DATA_PACK(variable)
#include "HEADER"

struct config {
    static const unsigned n_chan = 2, n_pixels = 12;
    typedef Number accum_t;
};

int main(int, char **arguments) {
    typedef std::array<Number, 2> Word;
    const int events = 3;
    hls::stream<Word> summed(1), kept(std::atoi(arguments[1])), factors(1), made(1);
    std::thread clone([&] {
        for (int i = 0; i < events * int(config::n_pixels); i++) {
            Word word{Number(i), Number(2 * i)};
            std::unique_lock<std::mutex> lock(mutex);  // both are written in one clock cycle, or none
            wait_for(lock, [&] { return summed.words.size() < summed.depth && kept.words.size() < kept.depth; });
            summed.words.push_back(word);
            kept.words.push_back(word);
            changed.notify_all();
        }
    });
    std::thread sum([&] {
        for (int i = 0; i < events; i++) nnet::channel_sum<Word, Word, config>(summed, factors);
    });
    std::thread scale([&] {
        for (int i = 0; i < events; i++) nnet::channel_scale<Word, Word, Word, config>(kept, factors, made);
    });
    for (int event = 0; event < events; event++) {
        int total = 0;
        for (int p = 0; p < 12; p++) total += event * 12 + p;
        for (int p = 0; p < 12; p++) {
            const int i = event * 12 + p;
            const Word word = made.read();
            if (word[0].value != i * total || word[1].value != 4 * i * total) return 1;
        }
    }
    clone.join(), sum.join(), scale.join();
}
"""


@needs_compiler
def test_a_gate_stands_still_exactly_when_the_stream_is_shorter_than_an_event(tmp_path: Path) -> None:
    header = resources.files("caloedge.hls") / "hls4ml" / HEADER
    text = header.read_text(encoding="utf-8").replace('#include "hls_stream.h"', "").replace('#include "nnet_common.h"', "")
    (tmp_path / HEADER).write_text(text)
    (tmp_path / "bounded.cpp").write_text(BOUNDED.replace("HEADER", HEADER))
    command = ["g++", "-std=c++17", "-Wno-unknown-pragmas", "-pthread", "bounded.cpp", "-o", "bounded"]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=120)
    ended = [subprocess.run([tmp_path / "bounded", depth], check=False, timeout=60).returncode for depth in ("12", "11")]
    assert ended == [0, 3]


@slow
@needs_compiler
def test_only_projects_with_gates_carry_their_header(projects: Any) -> None:
    place = Path("firmware") / "nnet_utils" / HEADER
    shipped = (resources.files("caloedge.hls") / "hls4ml" / HEADER).read_text(encoding="utf-8")
    assert (projects(GATED, "io_stream") / place).read_text() == shipped
    assert not (projects("blocks", "io_stream") / place).exists()


def test_a_gate_is_two_layers_of_our_own_and_no_moves() -> None:
    for variant in BACKEND.variants:
        kinds = [layer["class_name"] for layer in plan(gated(), TARGET, variant).layers]
        assert kinds.count(SUM) == kinds.count(SCALE) == 2
        assert not {"Reshape", "Transpose", "Merge"} & set(kinds)


# Reordered ends


def test_reordered_inputs_and_outputs_are_an_order_of_the_arrays() -> None:
    for variant in BACKEND.variants:
        what = plan(blocks(), TARGET, variant)
        assert not {"Reshape", "Transpose"} & {layer["class_name"] for layer in what.layers}
        assert what.layers[0]["input_shape"] == [3, 4, 8]
        np.testing.assert_array_equal(np.sort(what.orders["x"]), np.arange(96))
        assert what.orders["x"][:8].tolist() == [0, 1, 8, 9, 48, 49, 56, 57]  # the first pixel: both channels of its block
        assert what.orders["y"][:8].tolist() == [0, 1, 8, 9, 2, 3, 10, 11]


def test_an_input_that_others_read_as_it_is_keeps_its_order() -> None:
    graph = blocks()
    w, b = draws(7)
    both = Graph((*graph.ops, Conv("raw", ("x",), w(2, 2, 1, 1), b(2), WEIGHT), Output("z", ("raw",))))
    layers = {layer["name"]: layer for layer in plan(graph, TARGET, "io_stream").layers}
    assert layers["deep"]["class_name"] == "DepthwiseConv2D"
    with pytest.raises(UserError, match=r"^layer unshuffle: an order of codes that one transposition cannot make "):
        plan(both, TARGET, "io_stream")


# Reuse factors


@pytest.mark.parametrize(("n_in", "n_out"), [(1, 1), (6, 4), (18, 4), (12, 7), (25, 16), (64, 10)])
def test_valid_reuse_factors_are_hls4mls(n_in: int, n_out: int) -> None:
    backends = pytest.importorskip("hls4ml.backends")
    assert reuse.valid_reuse(n_in, n_out) == backends.get_backend("vitis").get_valid_reuse_factors(n_in, n_out)


def conv(n_out: int, channels: int, kernel: int) -> Graph:
    weights, zeros = np.ones((n_out, channels, kernel, kernel), np.int64), np.zeros(n_out, np.int64)
    image = InputQuantiser("x", (channels, 8, 8), Format(True, 6, 3))
    return Graph((image, Conv("conv", ("x",), weights, zeros, WEIGHT), Output("y", ("conv",))))


@pytest.mark.parametrize(
    ("sizes", "strategy", "factor", "multipliers"),
    [
        ((16, 10, 5), "latency", 1, 4000),
        ((16, 16, 4), "latency", 1, 4096),
        ((16, 32, 5), "resource", 4, 3200),
        ((64, 32, 5), "resource", 16, 3200),
        ((400, 24, 1), "resource", 3, 3200),
        ((5000, 1, 1), "resource", 2, 2500),
    ],
)
def test_layers_too_large_to_unroll_reuse_multipliers(
    sizes: tuple[int, int, int], strategy: str, factor: int, multipliers: int
) -> None:
    graph = conv(*sizes)
    products = sum(layer.multiply_adds for layer in graph.layers())
    for variant in BACKEND.variants:
        if variant == "io_parallel" and products > MOST_PARALLEL_PRODUCTS:
            with pytest.raises(Unsupported, match="use --variant io_stream"):
                plan(graph, TARGET, variant)
            continue
        planned = plan(graph, TARGET, variant)
        settings = planned.config["HLSConfig"]["LayerName"]["conv"]
        used = planned.reuse["conv"]
        assert (used.strategy, used.factor, used.multipliers) == (strategy, factor, multipliers)
        assert (settings["Strategy"], settings["ReuseFactor"]) == (strategy, factor)


def test_the_preview_says_what_is_reused_and_why() -> None:
    text = BACKEND.preview(conv(64, 32, 5), TARGET, "io_stream", {})
    why = "16 in conv (51,200 products are more than 4,096)"
    assert text == f"2 hls4ml layers with reuse factor 1, but {why}; 819,200 multiplications, sums of up to 16 bits"
    small = BACKEND.preview(conv(2, 3, 2), TARGET, "io_stream", {})
    assert small.startswith("2 hls4ml layers with reuse factor 1; ")


CHOICES = {
    "conv": LayerChoice(strategy="streaming", reuse=6),
    "deep": LayerChoice(reuse=8),
    "line": LayerChoice(reuse=36),
    "rows": LayerChoice(reuse=12),
    "dense": LayerChoice(reuse=1),
}


@slow
@needs_compiler
@pytest.mark.parametrize(
    "choices", [CHOICES, {"conv": LayerChoice(reuse=36), "deep": LayerChoice(reuse=3), "dense": LayerChoice(reuse=24)}]
)
def test_reused_multipliers_change_no_code(choices: dict[str, LayerChoice], tmp_path: Path) -> None:
    graph = mixed()
    folder = built(graph, "auto", tmp_path / "net", choices)
    expected = graph.run(stimulus(graph))["y"]
    assert len(np.unique(expected)) > 50, "the comparison would prove little"
    np.testing.assert_array_equal(BACKEND.emulate(folder, stimulus(graph))["y"], expected)
    values = read_record(folder)
    factors = {name: item["factor"] for name, item in values["reuse"].items()}
    assert factors == {name: choice.reuse for name, choice in choices.items()}
    assert {item["why"] for item in values["reuse"].values()} == {"chosen in the recipe"}
    assert "WARNING: Invalid ReuseFactor" not in (folder / "build.log").read_text()
    assert is_built(folder, record("hls4ml", graph, TARGET, "auto", choices))
    assert not is_built(folder, record("hls4ml", graph, TARGET, "auto", {**choices, "conv": LayerChoice(reuse=2)}))


@slow
@needs_compiler
@pytest.mark.parametrize("variant", ["io_parallel", "io_stream"])
def test_reuse_for_size_changes_no_code(variant: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(reuse, "MOST_MULTIPLIERS", 5)
    graph = mixed()
    folder = built(graph, variant, tmp_path / "net")
    np.testing.assert_array_equal(BACKEND.emulate(folder, stimulus(graph))["y"], graph.run(stimulus(graph))["y"])
    assert all(item["multipliers"] <= 5 < item["multipliers"] * item["factor"] for item in read_record(folder)["reuse"].values())
    assert list(read_record(folder)["reuse"]) == [op.name for op in graph.ops if isinstance(op, Conv | Dense)]
    assert "WARNING: Invalid ReuseFactor" not in (folder / "build.log").read_text()


def test_only_auto_heeds_the_recipe() -> None:
    factors = {
        variant: plan(mixed(), TARGET, variant, CHOICES).config["HLSConfig"]["LayerName"]["conv"]["ReuseFactor"]
        for variant in BACKEND.variants
    }
    assert factors == {"io_parallel": 1, "io_stream": 1, "auto": 6}
    assert plan(mixed(), TARGET, "auto").config["IOType"] == "io_stream"


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"conv": LayerChoice(reuse=4)},
         "layers: conv: reuse 4 is not possible in hls4ml for 18 inputs and 4 outputs; the nearest possible: 3 and 6"),
        ({"conv": LayerChoice(reuse=99)},
         "layers: conv: reuse 99 is not possible in hls4ml for 18 inputs and 4 outputs; the nearest possible: 72"),
        ({"dense": LayerChoice(reuse=5)},
         "layers: dense: reuse 5 is not possible in hls4ml for 12 inputs and 6 outputs; the nearest possible: 4 and 6"),
        ({"deep": LayerChoice(reuse=48)},
         "layers: deep: reuse 48 is not possible in hls4ml for 24 inputs and 4 outputs; the nearest possible: 24"),
        ({"conv": LayerChoice(strategy="unrolled", reuse=6)},
         "layers: conv: reuse 6 contradicts strategy unrolled; leave one of them out"),
        ({"act0": LayerChoice(reuse=2)},
         "layers: act0: reuse 2; a requantisation has no multipliers for hls4ml to reuse, leave it out"),
        ({"convolution": LayerChoice(reuse=2)},
         "layers: 'convolution' is no layer of the network; there are: conv, act0, deep, act1, lines, line, act2, rows, act3, "
         "flat, dense"),
    ],
)  # fmt: skip
def test_choices_that_cannot_be_are_refused(choices: dict[str, LayerChoice], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        BACKEND.build(mixed(), TARGET, "auto", tmp_path / "net", choices)
    assert str(caught.value) == message
    assert list(tmp_path.iterdir()) == []


def test_unrolling_what_is_too_large_is_refused() -> None:
    with pytest.raises(UserError) as caught:
        plan(conv(64, 32, 5), TARGET, "auto", {"conv": LayerChoice(strategy="unrolled")})
    told = "strategy unrolled makes 51,200 multipliers, hls4ml can unroll 4,096; leave it out, or give a reuse of 16 or more"
    assert str(caught.value) == f"layers: conv: {told}"
