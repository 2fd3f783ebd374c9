"""Networks of nodes in hls4ml projects: GravNet layers and condensation points equal `Graph.run`, and broken ones are caught."""

import ctypes
import re
import shutil
import subprocess
from importlib import resources
from pathlib import Path
from typing import Any

import hls4ml
import nodes
import numpy as np
import pytest

from caloedge.backends.hls4ml.nodes import CONDENSE, GRAVNET, GRAVNET_HEADER, NODES_HEADER
from caloedge.backends.hls4ml.plan import plan
from caloedge.catalog import Backend, Target, find
from caloedge.compiler.fixed import Format, Rounding, requantise
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import (
    Add,
    Affine,
    Condense,
    Conv,
    Dense,
    InputQuantiser,
    MaxPool,
    Multiply,
    Nearest,
    Op,
    Output,
    Rearrange,
    Requantise,
    Reshape,
    Table,
    Take,
)
from caloedge.errors import Unsupported

BACKEND = find(Backend, "hls4ml")
TARGET = find(Target, "xcvu13p")
WEIGHT = Format(True, 6, 3)
COORDINATE = Format(True, 8, 6)
N, AXES, FEATURES, K, REACH, MOST = 8, 2, 2, 3, 36, 3
N_EVENTS = 400

slow = pytest.mark.slow
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed")


def exponentials(reach: int = REACH) -> np.ndarray:
    """Return the weight of each distance in steps of 2⁻⁷: the last one is 0."""
    return np.rint(128 * np.exp(-10 * np.arange(reach + 1) / 64)).astype(np.int64)


def columns(name: str, source: str, width: int, chosen: list[int]) -> Rearrange:
    return Rearrange(name, (source,), np.arange(N)[:, None] * width + np.array(chosen), kind="slice")


def joined(name: str, *parts: tuple[str, int]) -> Rearrange:
    """Return features of each node, given as names and widths, side by side."""
    blocks, first = [], 0
    for _, width in parts:
        blocks.append(first + np.arange(N * width).reshape(N, width))
        first += N * width
    return Rearrange(name, tuple(source for source, _ in parts), np.concatenate(blocks, axis=1), kind="concatenation")


def collecting(name: str, k: int, *, mean: bool = True) -> tuple[Op, ...]:
    """Return a GravNet layer of `NAME_at` (N, D) and `NAME_from` (N, F): `NAME_max` and, if it is wanted, `NAME_mean` (N, F)."""
    by_feature = np.arange(N * k * FEATURES).reshape(N, k, FEATURES).swapaxes(1, 2).reshape(-1, k)
    ops = (
        Nearest(f"{name}_d", (f"{name}_at", "valid"), k, REACH, "distances"),
        Nearest(f"{name}_i", (f"{name}_at", "valid"), k, REACH, "indices"),
        Table(f"{name}_exp", (f"{name}_d",), exponentials()[None, None], 0, Format(False, 8, 7)),
        Reshape(f"{name}_weights", (f"{name}_exp",), (N, k, 1)),
        Take(f"{name}_taken", (f"{name}_from", f"{name}_i")),
        Multiply(f"{name}_products", (f"{name}_weights", f"{name}_taken")),
        Requantise(f"{name}_messages", (f"{name}_products",), Format(True, 6, 4), relu=False),
        Rearrange(f"{name}_rows", (f"{name}_messages",), by_feature, kind="transpose"),
        MaxPool(f"{name}_pool", (f"{name}_rows",), (k,), (1,)),
        Reshape(f"{name}_max", (f"{name}_pool",), (N, FEATURES)),
    )
    if not mean:
        return ops
    return (
        *ops,
        Dense(f"{name}_total", (f"{name}_rows",), np.ones((1, k), np.int64), np.zeros(1, np.int64), Format(False, 1, 0)),
        Reshape(f"{name}_sum", (f"{name}_total",), (N, FEATURES)),
        Affine(f"{name}_share", (f"{name}_sum",), np.ones((1, 1), np.int64), np.zeros((1, 1), np.int64), Format(False, 1, 2)),
        Requantise(f"{name}_mean", (f"{name}_share",), Format(True, 6, 4), relu=False),
    )


def choosing(score: str, places: str) -> tuple[Op, ...]:
    """Return a choice of clusters, as `with_clusters` makes it, from `nodes` (N, 5) with the columns given."""
    inputs, settings = (score, places, "valid"), (3, 9, MOST)
    return (
        Condense("points", inputs, *settings, "indices"),
        Condense("number", inputs, *settings, "status"),
        Take("chosen", ("nodes", "points")),
        Output("out", ("nodes",)),
        Output("clusters", ("chosen",)),
        Output("cluster_indices", ("points",)),
        Output("cluster_status", ("number",)),
    )


def network() -> Graph:
    """Return two GravNet layers with skips past both, the second of all N nodes, and clusters: every kind of layer there is.

    Input columns: energy, two coordinates, another feature; coordinates of the first search are those of the input.
    """
    rng = np.random.default_rng(3)

    def dense(name: str, source: str, inputs: int, outputs: int) -> Dense:
        return Dense(name, (source,), rng.integers(-20, 21, (outputs, inputs)), rng.integers(-99, 99, outputs), WEIGHT)

    def signed(name: str, source: str, width: int = 6, fraction: int = 4) -> Requantise:
        return Requantise(name, (source,), Format(True, width, fraction), relu=False)

    return Graph(
        (
            InputQuantiser("hits", (N, 4), Format(True, 10, 6)),
            Rearrange("energy", ("hits",), np.arange(N) * 4, kind="rows"),
            Requantise("valid", ("energy",), Format(False, 1, 6), relu=True),
            columns("a_place", "hits", 4, [1, 2]),
            signed("a_at", "a_place", 8, 6),
            dense("embed", "hits", 4, 3),
            Requantise("embedded", ("embed",), Format(False, 6, 4), relu=True),
            dense("a_f", "hits", 4, FEATURES),
            signed("a_from", "a_f"),
            *collecting("a", K),
            joined("a_joined", ("embedded", 3), ("a_mean", FEATURES), ("a_max", FEATURES)),
            signed("a_all", "a_joined"),
            dense("b_c", "a_all", 7, AXES),
            signed("b_at", "b_c", 8, 6),
            dense("b_f", "a_all", 7, FEATURES),
            signed("b_from", "b_f"),
            *collecting("b", N, mean=False),
            joined("b_joined", ("b_max", FEATURES), ("a_all", 7), ("embedded", 3)),
            signed("last", "b_joined"),
            dense("factor", "last", 12, 1),
            Requantise("factors", ("factor",), Format(False, 6, 4), relu=True),
            columns("energies", "hits", 4, [0]),
            Multiply("products", ("factors", "energies")),
            signed("energy_out", "products", 12, 6),
            dense("offset", "last", 12, 2),
            signed("offsets", "offset", 8, 6),
            Add("moved", ("offsets", "a_place")),
            signed("position_out", "moved", 12, 6),
            dense("beta", "last", 12, 2),
            signed("betas", "beta", 12, 6),
            joined("nodes", ("energy_out", 1), ("position_out", 2), ("betas", 2)),
            columns("score_of_node", "nodes", 5, [3]),
            Reshape("score", ("score_of_node",), (N,)),
            columns("places", "nodes", 5, [2, 1]),
            *choosing("score", "places"),
        )
    )


def halves() -> Graph:
    """Return what `network` lacks: several inputs, a mean as it is of messages as they are, one half of each choice, an input."""
    k, ends = 2, ("coordinates", "valid")
    by_feature = np.arange(N * k * FEATURES).reshape(N, k, FEATURES).swapaxes(1, 2).reshape(-1, k)
    return Graph(
        (
            InputQuantiser("coordinates", (N, AXES), COORDINATE),
            InputQuantiser("valid", (N,), Format(False, 1, 0)),
            InputQuantiser("score", (N,), Format(True, 4, 0)),
            InputQuantiser("values", (N, FEATURES), Format(True, 8, 3)),
            Nearest("i", ends, k, 9, "indices"),
            Nearest("d", ends, k, 9, "distances"),
            Affine("minus", ("d",), np.array([[-1]]), np.array([[4]]), Format(True, 2, 0)),
            Table("exp", ("minus",), exponentials(9)[None, None, ::-1], -5, Format(False, 8, 7)),
            Reshape("weights", ("exp",), (N, k, 1)),
            Take("taken", ("values", "i")),
            Multiply("messages", ("taken", "weights")),
            Rearrange("rows", ("messages",), by_feature, kind="transpose"),
            Dense("mean", ("rows",), np.ones((1, k), np.int64), np.zeros(1, np.int64), Format(False, 1, 1)),
            Condense("points", ("score", *ends), -8, 2, 2, "indices"),
            Condense("number", ("score", *ends), 1, 600, 2, "status"),
            Take("chosen", ("values", "points")),
            *(Output(f"{name}_out", (name,)) for name in ("mean", "number", "chosen", "values")),
        )
    )


def events(seed: int = 1) -> np.ndarray:
    """Return input codes (E, N, 4): clustered ones with ties and every number of hits, and random ones."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-512, 512, (N_EVENTS, N, 4))
    found = nodes.clustered(rng, N_EVENTS // 2, COORDINATE, N, AXES)
    near = codes[: N_EVENTS // 2]
    near[..., 1:3] = found["coordinates"]
    near[..., 0], near[..., 3] = rng.integers(1, 3, near.shape[:2]) * 100, rng.integers(-1, 2, near.shape[:2]) * 200
    near[found["valid"] == 0] = 0
    near[3:5, :, 0], near[3, :, 3] = 200, 100  # all hits in one place, and all the same; all hits in two places
    return codes


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nodes") / "network"
    BACKEND.build(network(), TARGET, "io_parallel", folder, {})
    return folder


def test_the_events_are_those_that_matter() -> None:
    trace = network().trace(events())
    hits = trace["valid"].sum(axis=1)
    assert {0, 1, K - 1, K, N} <= set(hits.tolist())
    assert set(trace["cluster_status"][:, 0].tolist()) == set(range(MOST + 1))
    assert 20 < trace["cluster_status"][:, 1].sum() < N_EVENTS - 20
    assert all(len(np.unique(trace[f"{name}_max"])) > 15 for name in "ab")
    ties = sum(
        len({key[0] for key in row}) < len(row)
        for coordinates, valid in zip(trace["a_at"], trace["valid"], strict=True)
        for row in nodes.nearest(coordinates, valid, K + 1, REACH)
    )
    assert ties > 1000


@slow
@needs_compiler
def test_the_c_simulation_equals_the_graph(project: Path) -> None:
    expected, found = network().run(events()), BACKEND.emulate(project, events())
    assert list(found) == list(expected) == ["out", "clusters", "cluster_indices", "cluster_status"]
    assert len(np.unique(expected["out"])) > 200, "the comparison would prove little"
    for name, wanted in expected.items():
        np.testing.assert_array_equal(found[name], wanted)


@slow
@needs_compiler
def test_halves_and_several_inputs_are_exact(tmp_path: Path) -> None:
    BACKEND.build(halves(), TARGET, "io_parallel", tmp_path / "halves", {})
    codes = part_events()
    expected, found = halves().run(codes), BACKEND.emulate(tmp_path / "halves", codes)
    assert len(np.unique(expected["mean_out"])) > 200, "the comparison would prove little"
    assert set(np.unique(expected["number_out"][:, 0])) == {0, 1}
    for name, wanted in expected.items():
        np.testing.assert_array_equal(found[name], wanted)


def one_entry() -> np.ndarray:
    values = exponentials()[None, None].copy()
    values[..., 2] += 4
    return values


@slow
@needs_compiler
@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("a_exp", {"values": one_entry()}),
        ("b_exp", {"values": one_entry()}),
        ("a_messages", {"rounding": Rounding.HALF_UP}),
        ("a_mean", {"rounding": Rounding.HALF_UP}),
        ("a_i", {"reach": 20}),
        ("points", {"threshold": 99}),
        ("number", {"apart": 10}),
        ("places", {"index": columns("places", "nodes", 5, [2, 0]).index}),
    ],
)
def test_a_corrupted_network_is_caught_by_the_comparison(project: Path, name: str, change: dict[str, Any]) -> None:
    found, wrong = BACKEND.emulate(project, events()), network().replacing(name, **change).run(events())
    assert any((wrong[output] != codes).any() for output, codes in found.items())


# The parts alone, in C++, whole and broken

PARTS = """
namespace NAME {
TEXT
struct config {
    static const unsigned n_nodes = 8, n_axes = 2, n_features = 2, n_neighbours = 3, n_index_bits = 3, n_distance_bits = 6;
    static const unsigned n_weights = 37, n_most = 3, n_rows = 3, reuse_factor = 1;
    typedef ap_ufixed<10, 4> distance_t;
    typedef ap_fixed<6, 2, AP_RND_CONV, AP_SAT> message_t;
    typedef ap_fixed<8, 4> accum_t;
    typedef ap_fixed<5, 5> threshold_t;
    typedef ap_uint<9> key_t;
    static distance_t reach() { return 36 / 64.0; }
    static threshold_t threshold() { return -1; }
    static distance_t apart() { return 3 / 64.0; }
};
}
extern "C" void NAME_gravnet(const double *given, const double *weights_given, double *made) {
    ap_fixed<8, 2> coordinates[16];
    ap_ufixed<1, 1> valid[8];
    ap_fixed<8, 5> features[16];
    ap_ufixed<8, 1> weights[37];
    ap_fixed<6, 2> largest[16];
    ap_fixed<8, 4> sums[16];
    for (int i = 0; i < 16; ++i) coordinates[i] = given[i], features[i] = given[24 + i];
    for (int i = 0; i < 8; ++i) valid[i] = given[16 + i];
    for (int i = 0; i < 37; ++i) weights[i] = weights_given[i];
    NAME::gravnet<ap_fixed<8, 2>, ap_ufixed<1, 1>, ap_fixed<8, 5>, ap_fixed<6, 2>, ap_fixed<8, 4>, ap_ufixed<8, 1>, NAME::config>(
        coordinates, valid, features, largest, sums, weights);
    for (int i = 0; i < 16; ++i) made[i] = largest[i].to_double(), made[16 + i] = sums[i].to_double();
}
extern "C" void NAME_condense(const double *given, const double *, double *made) {
    ap_fixed<8, 2> coordinates[16];
    ap_ufixed<1, 1> valid[8];
    ap_fixed<4, 4> score[8];
    ap_fixed<4, 4> indices[3];
    ap_ufixed<2, 2> status[2];
    ap_fixed<8, 5> values[16], rows[6];
    for (int i = 0; i < 16; ++i) coordinates[i] = given[i], values[i] = given[24 + i];
    for (int i = 0; i < 8; ++i) valid[i] = given[16 + i], score[i] = given[40 + i];
    NAME::condense<ap_fixed<4, 4>, ap_fixed<8, 2>, ap_ufixed<1, 1>, ap_fixed<4, 4>, ap_ufixed<2, 2>, NAME::config>(
        score, coordinates, valid, indices, status);
    NAME::take_rows<ap_fixed<8, 5>, ap_fixed<4, 4>, ap_fixed<8, 5>, NAME::config>(values, indices, rows);
    for (int i = 0; i < 3; ++i) made[i] = indices[i].to_double();
    for (int i = 0; i < 2; ++i) made[3 + i] = status[i].to_double();
    for (int i = 0; i < 6; ++i) made[5 + i] = rows[i].to_double();
}
"""
TWINS = {
    "whole": ("", ""),
    "tie": (
        "if (key < nearest[p])",
        "if ((key >> CONFIG_T::n_index_bits) <= (nearest[p] >> CONFIG_T::n_index_bits))",
    ),
    "self": ("j == i || ", ""),
    "padding": ("padding || ", ""),
    "saturation": (" || distance > reach", ""),
    "largest": ("p == 0 || message > most", "message > most"),
    "axis": ("distance += y - x", "distance += x - y"),
    "best": ("score[i] > highest", "score[i] >= highest"),
    "threshold": (">= CONFIG_T::threshold()", "> CONFIG_T::threshold()"),
    "hit": ("valid[i] > 0 && ", ""),
    "apart": ("distance >= CONFIG_T::apart()", "distance > CONFIG_T::apart()"),
    "left": ("left = left || candidate[i]", "left = candidate[i]"),
    "hole": ("row < 0", "row <= 0"),
}
OF_GRAVNET = ("tie", "self", "padding", "saturation", "largest", "axis")


def part_text(old: str, new: str) -> str:
    """Return the parts without what stands around their functions, one of them changed."""
    folder = resources.files("caloedge.hls") / "hls4ml"
    text = "".join((folder / name).read_text(encoding="utf-8") for name in (NODES_HEADER, GRAVNET_HEADER))
    around = re.compile(r"#(ifndef|define|include|endif)|namespace nnet|} // namespace")
    text = "\n".join(line for line in text.splitlines() if not around.match(line))
    assert not old or text.count(old) == 1, old
    return text.replace(old, new) if old else text


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """Compile the parts and their broken twins, each in a namespace of its own."""
    folder = tmp_path_factory.mktemp("parts")
    texts = [PARTS.replace("NAME", f"twin_{name}").replace("TEXT", part_text(*change)) for name, change in TWINS.items()]
    (folder / "parts.cpp").write_text('#include "ap_fixed.h"\n#include "ap_int.h"\n' + "".join(texts))
    types = Path(hls4ml.__file__).parent / "templates" / "vivado" / "ap_types"
    command = ["g++", "-std=c++17", "-O0", "-w", "-fPIC", "-shared", f"-I{types}", "parts.cpp", "-o", "parts.so"]
    subprocess.run(command, cwd=folder, check=True, timeout=600)
    return ctypes.CDLL(str(folder / "parts.so"))


def part_events() -> dict[str, np.ndarray]:
    """Return events with many ties, in which padding has features as well, so that it would be noticed."""
    rng = np.random.default_rng(2)
    codes = nodes.clustered(rng, N_EVENTS, COORDINATE, N, AXES)
    return codes | {"values": rng.integers(-128, 128, (N_EVENTS, N, FEATURES))}


def called(parts: ctypes.CDLL, function: str, codes: dict[str, np.ndarray], weights: np.ndarray, results: int) -> np.ndarray:
    """Return the results (E, results) of a compiled part as values."""
    columns = [codes["coordinates"] / 64, codes["valid"], codes["values"] / 8, codes["score"]]
    given = np.ascontiguousarray(np.concatenate([x.reshape(N_EVENTS, -1) for x in columns], axis=1), dtype=np.float64)
    made, table = np.full((N_EVENTS, results), np.nan), np.ascontiguousarray(weights / 128)
    for row, result in zip(given, made, strict=True):
        parts[function](*(ctypes.c_void_p(array.ctypes.data) for array in (row, table, result)))
    return made


def collected_by_hand(codes: dict[str, np.ndarray], weights: np.ndarray) -> np.ndarray:
    """Return largest and sum of messages (E, 2 N F) in codes, node by node."""
    made = np.zeros((N_EVENTS, 2, N, FEATURES), dtype=np.int64)
    for event, (coordinates, valid, values) in enumerate(zip(codes["coordinates"], codes["valid"], codes["values"], strict=True)):
        for node, row in enumerate(nodes.nearest(coordinates, valid, K, REACH)):
            products = np.array([weights[distance] * values[j] for distance, j in row])
            messages = requantise(products, 7 + 3 - 4, -32, 31)
            made[event, :, node] = messages.max(axis=0), messages.sum(axis=0)
    return made.reshape(N_EVENTS, -1)


def chosen_by_hand(codes: dict[str, np.ndarray]) -> np.ndarray:
    """Return indices, status and values of condensation points (E, 3 + 2 + 3 F) in codes."""
    graph = nodes.nodes_graph(N, AXES, COORDINATE, K, REACH, FEATURES)
    for name in ("points", "status"):
        graph = graph.replacing(name, most=MOST, apart=3)
    found = nodes.by_hand(graph, codes)
    parts = (np.array(found[f"{name}_out"]).reshape(N_EVENTS, -1) for name in ("points", "status", "clusters"))
    return np.concatenate(list(parts), axis=1)


def gravnet_codes(parts: ctypes.CDLL, twin: str, weights: np.ndarray) -> np.ndarray:
    return called(parts, f"twin_{twin}_gravnet", part_events(), weights, 2 * N * FEATURES) * 16


def condense_codes(parts: ctypes.CDLL, twin: str) -> np.ndarray:
    made = called(parts, f"twin_{twin}_condense", part_events(), exponentials(), MOST + 2 + MOST * FEATURES)
    made[:, MOST + 2 :] *= 8
    return made


@slow
@needs_compiler
def test_the_parts_equal_a_calculation_by_hand(parts: ctypes.CDLL) -> None:
    weights = exponentials()
    weights[-1] = 3  # so that nodes at the reach are told from each other: ties at the k-th place show
    wanted = collected_by_hand(part_events(), weights)
    np.testing.assert_array_equal(gravnet_codes(parts, "whole", weights), wanted)
    weights[2] += 4
    assert (gravnet_codes(parts, "whole", weights) != wanted).any(), "one entry of the table"
    np.testing.assert_array_equal(condense_codes(parts, "whole"), chosen_by_hand(part_events()))


@slow
@needs_compiler
@pytest.mark.parametrize("twin", [name for name in TWINS if name != "whole"])
def test_a_broken_part_is_caught_by_the_comparison(parts: ctypes.CDLL, twin: str) -> None:
    if twin in OF_GRAVNET:
        weights = exponentials()
        weights[-1] = 3
        assert (gravnet_codes(parts, twin, weights) != collected_by_hand(part_events(), weights)).any()
    else:
        assert (condense_codes(parts, twin) != chosen_by_hand(part_events())).any()


# The plan, and what is refused


def test_a_layer_is_one_of_ours_and_the_rest_are_hls4mls() -> None:
    what = plan(network(), TARGET, "io_parallel")
    layers = {layer["name"]: layer for layer in what.layers}
    kinds = [layer["class_name"] for layer in what.layers]
    assert (kinds.count(GRAVNET), kinds.count(CONDENSE), kinds.count("Transpose")) == (2, 1, 0)
    assert layers["a_i"]["inputs"] == ["a_at", "valid", "a_from"]
    assert layers["a_i"]["weight_data"][[0, 1, 35, 36]].tolist() == [1.0, 109 / 128, 1 / 128, 0.0]
    settings = what.config["HLSConfig"]["LayerName"]
    assert settings["a_i"]["Precision"]["message"] == "fixed<6,2,RND_CONV,SAT>"
    assert settings["embed"]["ParallelizationFactor"] == 1
    assert what.outputs == ["out", "chosen", "cluster_indices", "cluster_status"], "nodes are read by others: their copy leaves"
    told = "hls4ml layers with reuse factor 1, dense layers one node per clock cycle; "
    assert told in BACKEND.preview(network(), TARGET, "io_parallel", {})


def changed(**ops: Op) -> Graph:
    """Return the network with some operations replaced, by name."""
    return Graph(tuple(ops.get(op.name, op) for op in network().ops))


def with_output(name: str) -> Graph:
    """Return the network with one more output."""
    return Graph((*network().ops, Output("extra", (name,))))


UNLIKE = "a search of neighbours that is no GravNet layer (weighted messages, summed or the largest)"
EMULATOR = "is not supported by backend 'hls4ml'; use backend 'emulator'"
TWICE = Dense("a_total", ("a_rows",), np.full((1, K), 2), np.zeros(1, np.int64), Format(False, 2, 0))
RELU = Requantise("a_messages", ("a_products",), Format(True, 6, 4), relu=True)
UP = Requantise("a_messages", ("a_products",), Format(True, 6, 4), relu=False, rounding=Rounding.CEILING)
SWAPPED = Rearrange("places", ("nodes",), np.arange(N)[::-1, None] * 5 + np.array([1, 2]), kind="slice")
MIXED = Rearrange("a_rows", ("a_messages",), np.arange(N * K * FEATURES).reshape(-1, K), kind="reshape")
POOLED = (MaxPool("pooled", ("hits",), (2,), (2,)), Output("extra", ("pooled",)))
FILTERED = (
    Conv("filtered", ("hits",), np.ones((1, N, 2), np.int64), np.zeros(1, np.int64), WEIGHT),
    Output("extra", ("filtered",)),
)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (nodes.nodes_graph(N, AXES, COORDINATE, K, REACH), f"layer indices: {UNLIKE} {EMULATOR}"),
        (changed(a_total=TWICE), f"layer a_i: {UNLIKE} {EMULATOR}"),
        (changed(a_rows=MIXED), f"layer a_i: {UNLIKE} {EMULATOR}"),
        (with_output("a_exp"), f"layer a_i: {UNLIKE} {EMULATOR}"),
        (with_output("a_messages"), f"layer a_i: {UNLIKE} {EMULATOR}"),
        (with_output("b_i"), f"layer b_i: {UNLIKE} {EMULATOR}"),
        (changed(a_messages=RELU), f"layer a_messages: a rectified message in a signed format {EMULATOR}"),
        (changed(a_messages=UP), f"layer a_messages: rounding ceiling {EMULATOR}"),
        (changed(places=SWAPPED), f"layer places: a slice from node to node {EMULATOR}"),
        (Graph((*network().ops, *FILTERED)), f"layer filtered: a convolution over one axis in a network of nodes {EMULATOR}"),
        (Graph((*network().ops, *POOLED)), f"layer pooled: a max pool in a network of nodes {EMULATOR}"),
    ],
)  # fmt: skip
def test_what_cannot_be_built_is_refused_by_name(graph: Graph, message: str) -> None:
    with pytest.raises(Unsupported) as caught:
        BACKEND.preview(graph, TARGET, "io_parallel", {})
    assert str(caught.value) == message


@pytest.mark.parametrize("variant", ["io_stream", "auto"])
def test_streams_of_nodes_are_refused(variant: str) -> None:
    with pytest.raises(Unsupported) as caught:
        BACKEND.preview(network(), TARGET, variant, {})
    told = "layer a_d: a search for the nearest nodes in io_stream is not supported by backend 'hls4ml'; use io_parallel"
    assert str(caught.value) == told


def test_only_one_node_counts_in_the_limit_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = sum(layer.multiply_adds for layer in network().layers()) // N
    monkeypatch.setattr("caloedge.backends.hls4ml.plan.MOST_PARALLEL_PRODUCTS", limit)
    plan(network(), TARGET, "io_parallel")
    monkeypatch.setattr("caloedge.backends.hls4ml.plan.MOST_PARALLEL_PRODUCTS", limit - 9)
    with pytest.raises(Unsupported, match=r"products of a node, which io_parallel unrolls \(limit .*\); use backend 'rtl' or"):
        plan(network(), TARGET, "io_parallel")
