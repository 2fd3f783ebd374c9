"""Node-stream designs of backend `rtl` against `Graph.run`, cycle by cycle, with `==`; broken ones must be caught."""

import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from caloedge.backends.rtl import BACKEND
from caloedge.backends.rtl.simulation import compile_model, simulate
from caloedge.catalog import CycleRun, Target, find
from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import (
    Add,
    Affine,
    Condense,
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
    Softmax,
    Table,
    Take,
)
from caloedge.errors import BadData, Unsupported
from caloedge.project import read_record, write_record

TARGET = find(Target, "xcvu13p")
WEIGHT = Format(True, 6, 3)


def concatenated(name: str, *parts: tuple[str, int], nodes: int) -> Rearrange:
    """Return a concatenation of words of each node."""
    blocks, first = [], 0
    for _, words in parts:
        blocks.append(first + np.arange(nodes * words).reshape(nodes, words))
        first += nodes * words
    return Rearrange(name, tuple(part for part, _ in parts), np.concatenate(blocks, axis=1), kind="concatenation")


def dense(name: str, source: str, outputs: int, inputs: int, rng: np.random.Generator) -> Dense:
    return Dense(name, (source,), rng.integers(-32, 32, (outputs, inputs)), rng.integers(-99, 99, outputs), WEIGHT)


def pointwise(nodes: int = 8) -> Graph:
    """Return a network without neighbours: every operation that a lane has, skips, several roundings, two outputs."""
    rng = np.random.default_rng(5)
    first = Rearrange("first", ("hits",), np.arange(nodes)[:, None] * 4, kind="slice")
    return Graph(
        (
            InputQuantiser("hits", (nodes, 4), Format(True, 10, 6)),
            first,
            dense("dense_1", "hits", 5, 4, rng),
            Requantise("act_1", ("dense_1",), Format(False, 6, 3), relu=True),
            dense("dense_2", "act_1", 3, 5, rng),
            Requantise("act_2", ("dense_2",), Format(True, 7, 3), relu=False, rounding=Rounding.HALF_UP),
            Requantise("skip", ("act_1",), Format(True, 7, 3), relu=False),
            concatenated("both", ("act_2", 3), ("skip", 5), nodes=nodes),
            Multiply("product", ("both", "first")),
            Requantise("act_3", ("product",), Format(True, 6, 2), relu=False, rounding=Rounding.TO_ZERO),
            Table("table", ("act_3",), rng.integers(-9, 9, (1, 8, 64)), -32, Format(True, 5, 3)),
            Affine("scaled", ("table",), rng.integers(-7, 7, (1, 8)), rng.integers(-7, 7, (1, 8)), Format(True, 4, 1)),
            Add("sum", ("scaled", "both")),
            Rearrange(
                "padded", ("both",), np.pad(np.arange(nodes * 8).reshape(nodes, 8), ((0, 0), (0, 2)), constant_values=-1), 3
            ),
            Add("twice", ("padded", "padded")),
            Output("nodes", ("sum",)),
            Output("doubled", ("twice",)),
            Output("acts", ("act_3",)),
        )
    )


def test_lanes_equal_the_graph_at_every_number_of_nodes_per_cycle(tmp_path: Path) -> None:
    graph = pointwise()
    codes = np.random.default_rng(1).integers(-512, 512, (1000, 8, 4))
    expected = graph.run(codes)
    for par in (1, 4):
        BACKEND.build(graph, TARGET, f"nodes_{par}", tmp_path / f"{par}", {})
        assert BACKEND.simulate
        for stall in (0.0, 0.3, 0.7):
            run = BACKEND.simulate(tmp_path / f"{par}", codes, stall, None)
            assert set(run.codes) == {"nodes", "doubled", "acts"}
            assert all(np.array_equal(run.codes[name], expected[name]) for name in expected)
            if not stall:
                assert run.interval_cycles == 8 // par
                assert run.latency_cycles == read_record(tmp_path / f"{par}")["latency_cycles"] <= 8 // par + 9


# Networks with GravNet layers


def gravnet(
    name: str, source: str, valid: str, sizes: "Sizes", rng: np.random.Generator, inputs: int, fraction: int
) -> tuple[Op, ...]:
    """Return a GravNet layer as the reader writes it: `NAME_mean` (N, F) and `NAME_max` (N, F)."""
    nodes, k, features = sizes.nodes, sizes.k, sizes.features
    by_feature = np.arange(nodes * k * features).reshape(nodes, k, features).swapaxes(1, 2).reshape(-1, k)
    weights = np.rint(128 * np.exp(-10 * np.arange(sizes.reach + 1) / 64)).astype(np.int64)
    return (
        dense(f"{name}_c", source, sizes.dimensions, inputs, rng),
        Requantise(f"{name}_coordinates", (f"{name}_c",), Format(True, 8, fraction), relu=False),
        dense(f"{name}_f", source, features, inputs, rng),
        Requantise(f"{name}_features", (f"{name}_f",), Format(True, 8, fraction), relu=False),
        Nearest(f"{name}_distances", (f"{name}_coordinates", valid), k, sizes.reach, "distances"),
        Nearest(f"{name}_indices", (f"{name}_coordinates", valid), k, sizes.reach, "indices"),
        Affine(f"{name}_minus", (f"{name}_distances",), np.array([[-1]]), np.array([[0]]), Format(True, 2, 0)),
        Table(f"{name}_exp", (f"{name}_minus",), weights[None, None, ::-1], -sizes.reach, Format(False, 8, 7)),
        Reshape(f"{name}_weights", (f"{name}_exp",), (nodes, k, 1)),
        Take(f"{name}_taken", (f"{name}_features", f"{name}_indices")),
        Multiply(f"{name}_products", (f"{name}_weights", f"{name}_taken")),
        Requantise(f"{name}_messages", (f"{name}_products",), Format(True, 8, fraction), relu=False),
        Rearrange(f"{name}_rows", (f"{name}_messages",), by_feature, kind="transpose"),
        Dense(f"{name}_total", (f"{name}_rows",), np.ones((1, k), np.int64), np.zeros(1, np.int64), Format(False, 1, 0)),
        Reshape(f"{name}_sum", (f"{name}_total",), (nodes, features)),
        Affine(f"{name}_share", (f"{name}_sum",), np.array([[37]]), np.array([[0]]), Format(True, 8, 8)),
        Requantise(f"{name}_mean", (f"{name}_share",), Format(True, 8, fraction), relu=False),
        MaxPool(f"{name}_pool", (f"{name}_rows",), (k,), (1,)),
        Reshape(f"{name}_max", (f"{name}_pool",), (nodes, features)),
    )


@dataclass(frozen=True)
class Sizes:
    """Sizes of a test network."""

    nodes: int = 8
    dimensions: int = 2
    features: int = 3
    k: int = 3
    reach: int = 36
    layers: int = 1
    most: int = 0
    """Clusters; 0 for none."""


def network(sizes: Sizes, *, nodes_leave: bool = True) -> Graph:
    """Return a network of GravNet layers one behind the other, with skips past all of them, and a choice of clusters."""
    rng, nodes, features = np.random.default_rng(7), sizes.nodes, sizes.features
    ops: list[Op] = [
        InputQuantiser("hits", (nodes, 4), Format(True, 10, 6)),
        Rearrange("energy", ("hits",), np.arange(nodes) * 4, kind="slice"),
        Requantise("valid", ("energy",), Format(False, 1, 6), relu=True),
        dense("dense_0", "hits", 5, 4, rng),
        Requantise("act_0", ("dense_0",), Format(False, 6, 4), relu=True),
    ]
    words = 5
    for number in range(1, sizes.layers + 1):
        ops += gravnet(f"g{number}", f"act_{number - 1}", "valid", sizes, rng, words, 3 if number == 1 else 1)
        parts = tuple((f"g{number}_a{i}", n) for i, n in enumerate((words, features, features)))
        ops += [
            Requantise(f"g{number}_a{i}", (source,), Format(True, 12, 6), relu=False)
            for i, source in enumerate((f"act_{number - 1}", f"g{number}_mean", f"g{number}_max"))
        ]
        words += 2 * features
        ops += [concatenated(f"all_{number}", *parts, nodes=nodes), dense(f"dense_{number}", f"all_{number}", 4, words, rng)]
        ops.append(Requantise(f"act_{number}", (f"dense_{number}",), Format(False, 10, 5), relu=True))
        words = 4
    last = f"act_{sizes.layers}"
    ops += [
        dense("head", last, 3, words, rng),
        Requantise("scores", ("head",), Format(True, 14, 5), relu=False),
        concatenated("together", ("scores", 3), ("energy_word", 1), nodes=nodes),
    ]
    ops.insert(2, Requantise("energy_word", ("hits_energy",), Format(True, 14, 5), relu=False))
    ops.insert(2, Reshape("hits_energy", ("energy",), (nodes, 1)))
    outputs: list[Op] = [Output("nodes", ("together",))] if nodes_leave or not sizes.most else []
    if sizes.most:
        ops += clustering(sizes)
        outputs += [Output(f"cluster{end}", (f"chosen{end}",)) for end in ("s", "_indices", "_status")]
    return Graph((*ops, *outputs))


def clustering(sizes: Sizes) -> list[Op]:
    """Return the choice of clusters by the first word of a node and the others' distance."""
    nodes = sizes.nodes
    score = Rearrange("score", ("scores",), np.arange(nodes) * 3, kind="slice")
    places = Rearrange("places", ("scores",), np.arange(nodes)[:, None] * 3 + np.array([1, 2]), kind="slice")
    inputs, settings = ("score", "places", "valid"), (-1000, 700, sizes.most)
    return [
        score,
        places,
        Condense("chosen_indices", inputs, *settings, "indices"),
        Condense("chosen_status", inputs, *settings, "status"),
        Take("chosens", ("together", "chosen_indices")),
    ]


def events(sizes: Sizes, count: int, seed: int = 3) -> np.ndarray:
    """Return input codes (E, N, 4): any number of hits, many at equal places, some events with all hits equal."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(-512, 512, (count, sizes.nodes, 4))
    coarse = rng.integers(-2, 3, codes.shape) * 64
    kinds = rng.integers(0, 4, count)
    codes[kinds == 1] = coarse[kinds == 1]
    codes[kinds == 2] = codes[kinds == 2, :1]  # all hits in one place, and equal
    codes[..., 0] = np.where(kinds[:, None] == 3, 7, rng.integers(1, 512, codes.shape[:2]))
    hits = rng.choice([0, 1, sizes.k, sizes.k + 1, sizes.nodes, sizes.nodes, sizes.nodes - 1], count)
    codes[np.arange(sizes.nodes) >= hits[:, None]] = 0
    return codes


WHOLE = Sizes(layers=2, most=3)
"""Two GravNet layers, skips past both, nodes and clusters leave."""


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole") / "nodes_2"
    BACKEND.build(network(WHOLE), TARGET, "nodes_2", folder, {})
    return folder


def check(folder: Path, graph: Graph, codes: np.ndarray, beats: int, stalls: tuple[float, ...] = (0.0, 0.3, 0.7)) -> CycleRun:
    """Compare a project with its graph at several chances of a stall, and return the run without stalls."""
    expected, runs = graph.run(codes), []
    assert BACKEND.simulate
    for stall in stalls:
        runs.append(BACKEND.simulate(folder, codes, stall, None))
        assert set(runs[-1].codes) == set(expected)
        assert all(np.array_equal(runs[-1].codes[name], expected[name]) for name in expected), stall
    blocked = simulate(folder, codes[:300], stall_out=0.9).codes
    assert all(np.array_equal(blocked[name], expected[name][:300]) for name in expected)
    assert runs[0].interval_cycles == beats
    assert runs[0].latency_cycles == read_record(folder)["latency_cycles"]
    return runs[0]


def test_every_output_of_a_whole_network_equals_the_graph(whole: Path) -> None:
    codes = events(WHOLE, 1500)
    traced = network(WHOLE).trace(codes)
    distances = traced["g1_distances"]
    assert ((distances[..., 1:] == distances[..., :-1]) & (distances[..., 1:] < WHOLE.reach)).any(axis=2).mean() > 0.1, "ties"
    assert set(map(tuple, traced["chosen_status"])) >= {(0, 0), (1, 0), (2, 0), (3, 0), (3, 1)}
    assert set((codes[..., 0] > 0).sum(axis=1)) >= {0, 1, WHOLE.k, WHOLE.k + 1, WHOLE.nodes}
    run = check(whole, network(WHOLE), codes, beats=4)
    assert run.latency_cycles <= 60


def test_outputs_lie_in_one_stream(whole: Path) -> None:
    record = read_record(whole)
    assert [(port["name"], port["shape"]) for port in record["outputs"]] == [
        ("nodes", [8, 4]), ("clusters", [3, 4]), ("cluster_indices", [3]), ("cluster_status", [2]),
    ]  # fmt: skip
    places = [place for port in record["outputs"] for place in port["places"]]
    assert len(set(places)) == len(places)
    assert max(places) < record["output"]["beats"] * record["output"]["words"]
    empty = BACKEND.emulate(whole, np.zeros((0, 8, 4), np.int64))
    assert {name: codes.shape for name, codes in empty.items()} == {
        "nodes": (0, 8, 4), "clusters": (0, 3, 4), "cluster_indices": (0, 3), "cluster_status": (0, 2),
    }  # fmt: skip


def test_an_event_does_not_depend_on_the_one_before(whole: Path) -> None:
    codes = events(WHOLE, 40, seed=8)
    alone = [BACKEND.emulate(whole, codes[i : i + 1])["clusters"][0] for i in (0, 17, 39)]
    assert np.array_equal(BACKEND.emulate(whole, codes)["clusters"][[0, 17, 39]], alone)


def changed_table(graph: Graph) -> Graph:
    """Return a network in which the weight of one distance is one more."""
    op = graph["g1_exp"]
    assert isinstance(op, Table)
    values = op.values.copy()
    values[..., -8] += 1
    return graph.replacing("g1_exp", values=values)


def changed_weight(graph: Graph) -> Graph:
    op = graph["dense_1"]
    assert isinstance(op, Dense)
    weights = op.weights.copy()
    weights[2, 6] += 1 if weights[2, 6] < 0 else -1
    return graph.replacing("dense_1", weights=weights)


@pytest.mark.parametrize("change", [
    changed_table,
    changed_weight,
    lambda graph: graph.replacing("g1_messages", rounding=Rounding.HALF_UP),
    lambda graph: graph.replacing("g1_distances", reach=35).replacing("g1_indices", reach=35),
    lambda graph: graph.replacing("chosen_indices", apart=740).replacing("chosen_status", apart=740),
])  # fmt: skip
def test_a_network_with_one_number_changed_is_told_apart(whole: Path, change: Callable[[Graph], Graph]) -> None:
    codes = events(WHOLE, 1500)
    expected, found = change(network(WHOLE)).run(codes), BACKEND.emulate(whole, codes)
    assert any(not np.array_equal(expected[name], found[name]) for name in expected)


# Broken hardware

SMALL = Sizes(features=2)
FAULTS: dict[str, tuple[str, str | re.Pattern[str], str]] = {
    "tie rule": ("nearest", "other < one", "{other[KEY_BITS-1:INDEX_BITS], ~other[INDEX_BITS-1:0]} < "
                                           "{one[KEY_BITS-1:INDEX_BITS], ~one[INDEX_BITS-1:0]}"),
    "self mask": ("nearest", " || in_index == INDEX[INDEX_BITS-1:0]", ""),
    "padding mask": ("nearest", "!word[NODE_BITS-1] || ", ""),
    "number of the query": ("", ".in_index({beat_1, 1'd1})", ".in_index({beat_1, 1'd0})"),
    "valid too early": ("", re.compile(r"end_0_valid = end_0_valid_delay\[\d+\]"), "end_0_valid = end_0_valid_delay[0]"),
    "skip too short": ("", re.compile(r"DEPTH\(\d+\)\) skip_1_unit"), "DEPTH(4)) skip_1_unit"),
}  # fmt: skip
"""Module, what stands there, and what makes it wrong."""


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("small") / "nodes_2"
    BACKEND.build(network(SMALL), TARGET, "nodes_2", folder, {})
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
def test_broken_hardware_is_caught(tmp_path: Path, small: Path, fault: str) -> None:
    module, before, after = FAULTS[fault]
    broken = tmp_path / "broken"
    shutil.copytree(small, broken)
    record = read_record(broken)
    path = broken / "rtl" / f"{record['top']}{'_' if module else ''}{module}.v"
    text, count = re.subn(before if isinstance(before, re.Pattern) else re.escape(before), lambda _: after, path.read_text())
    assert count == 1, fault
    path.write_text(text)
    record["library"] = f"sim/{tmp_path.name}.so"  # a process never loads one name twice
    compile_model(broken, record["top"], record["sources"], record["library"], broken / "again.log", trace=False)
    write_record(broken, record)
    codes, graph = events(SMALL, 1000), network(SMALL)
    assert np.array_equal(BACKEND.emulate(small, codes)["nodes"], graph.run(codes)["nodes"])
    try:
        found = BACKEND.emulate(broken, codes)["nodes"]
    except BadData:  # it stopped
        return
    assert not np.array_equal(found, graph.run(codes)["nodes"])


# Other sizes


@pytest.mark.slow
@pytest.mark.parametrize(("sizes", "variant", "beats"), [
    (Sizes(nodes=12, most=5), "nodes_4", 3),
    (Sizes(layers=2, k=1, dimensions=1, features=1, most=1), "nodes_1", 8),
    (Sizes(nodes=8, k=8, features=1, most=8), "nodes_8", 1),
])  # fmt: skip
def test_clusters_leave_alone_at_other_sizes(tmp_path: Path, sizes: Sizes, variant: str, beats: int) -> None:
    graph = network(sizes, nodes_leave=False)
    BACKEND.build(graph, TARGET, variant, tmp_path / "project", {})
    check(tmp_path / "project", graph, events(sizes, 1000), beats)


@pytest.mark.exhaustive
def test_an_event_of_32_nodes_takes_16_cycles_and_at_most_210_to_its_clusters(tmp_path: Path) -> None:
    sizes = Sizes(nodes=32, dimensions=6, features=8, k=7, layers=2, most=16)
    graph = network(sizes, nodes_leave=False)
    BACKEND.build(graph, TARGET, "nodes_2", tmp_path / "project", {})
    run = check(tmp_path / "project", graph, events(sizes, 1000), beats=16)
    assert run.latency_cycles <= 210


# Refusals


def refusal(*ops: Op, variant: str = "nodes_2") -> str:
    """Return why a network of 8 nodes with 4 features `hits` cannot be built, which preview and build say alike."""
    graph = Graph((InputQuantiser("hits", (8, 4), Format(True, 10, 6)), *ops, Output("nodes", (ops[-1].name,))))
    with pytest.raises(Unsupported) as foreseen:
        BACKEND.preview(graph, TARGET, variant, {})
    with pytest.raises(Unsupported) as said:
        BACKEND.build(graph, TARGET, variant, Path("nowhere"), {})
    assert str(foreseen.value) == str(said.value)
    return str(said.value)


def test_what_does_not_fit_is_refused_in_one_line() -> None:
    valid = (Rearrange("energy", ("hits",), np.arange(8) * 4), Requantise("valid", ("energy",), Format(False, 1, 6), relu=True))
    search = Nearest("near", ("hits", "valid"), 3, 9, "indices")
    taken = Take("taken", ("hits", "near"))
    end = "is not supported by backend 'rtl'"
    assert refusal(Rearrange("turn", ("hits",), np.arange(32).reshape(8, 4).T)) == (
        f"layer turn: mixing of nodes outside of GravNet layers {end}; use another variant, e.g. auto"
    )
    assert refusal(*valid, search, taken, Requantise("out", ("taken",), Format(True, 8, 3), relu=False)) == (
        f"layer near: a search of neighbours that is no GravNet layer (weights of messages, summed or the largest) {end}; "
        "use backend 'emulator'"
    )
    assert refusal(Softmax("soft", ("hits",), np.array([9, 3, 1]), (255, 1), Format(False, 8, 8))) == (
        f"layer soft: a softmax in a network of nodes {end}; use another variant, e.g. auto"
    )
    assert refusal(Affine("scaled", ("hits",), np.arange(32).reshape(8, 4), np.zeros((8, 4), np.int64), Format(True, 8, 0))) == (
        f"layer scaled: constants that differ from node to node {end}; use backend 'emulator'"
    )


@pytest.mark.parametrize("variant", ["auto", "unrolled", "streaming"])
def test_chains_name_the_variants_that_take_nodes(variant: str) -> None:
    with pytest.raises(Unsupported) as caught:
        BACKEND.preview(network(SMALL), TARGET, variant, {})
    assert re.fullmatch(
        rf"layer g1_distances: .* in variant '{variant}' is not supported by backend 'rtl'; "
        "use one of nodes_1, nodes_2, nodes_4, nodes_8",
        str(caught.value),
    )


def test_a_number_of_nodes_that_does_not_divide_is_refused() -> None:
    graph = pointwise(nodes=6)
    with pytest.raises(Unsupported) as caught:
        BACKEND.preview(graph, TARGET, "nodes_4", {})
    assert str(caught.value) == (
        "layer hits: 6 nodes, 4 per cycle, is not supported by backend 'rtl'; use one of nodes_1, nodes_2"
    )


def test_a_design_larger_than_its_device_is_refused() -> None:
    with pytest.raises(Unsupported) as caught:
        BACKEND.preview(network(SMALL), replace(TARGET, resources={"LUT": 3000}), "nodes_2", {})
    assert re.fullmatch(
        rf"layer g1_indices: ~[\d,]+ LUT, the design ~[\d,]+ at 2 nodes per cycle, more than 80% of the 3,000 of {TARGET.part}; "
        "use a variant with fewer, or a larger target",
        str(caught.value),
    )


def test_a_preview_says_nodes_interval_latency_and_luts() -> None:
    said = BACKEND.preview(network(WHOLE), TARGET, "nodes_2", {})
    begin = r"2 nodes per cycle, 2 GravNet layers; one event in 4 cycles, latency about \d+ cycles; "
    assert re.fullmatch(begin + r"about [\d,]+ LUT \(\d\.\d%\), 36 multipliers", said)
