"""Nearest nodes, rows by computed indices and condensation points, against a loop over nodes in Python's own integers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from nodes import RULES, by_hand, clustered, nodes_graph

from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.kernels import _whole_type
from caloedge.compiler.ops import Affine, Condense, InputQuantiser, Nearest, Op, Output, Take
from caloedge.errors import Unsupported

SIZES = [
    (1, 1, Format(True, 4, 0), 1, 1),
    (5, 2, Format(True, 4, 2), 5, 9),
    (8, 3, Format(False, 6, 0), 3, 200),
    (12, 6, Format(True, 8, 6), 7, 36),
    (6, 2, Format(True, 20, 0), 4, 2**20),  # keys beyond 16 bits
    (6, 2, Format(True, 40, 0), 4, 2**41 + 1),  # and beyond 32
]


def events(graph: Graph, seed: int = 0, number: int = 40) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    nodes, axes = graph.tensors["coordinates"].shape
    codes = clustered(rng, number, graph.tensors["coordinates"].format, nodes, axes)
    return {**codes, "values": rng.integers(-128, 128, (number, *graph.tensors["values"].shape))}


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_nodes_are_those_of_a_loop(size: tuple[int, int, Format, int, int]) -> None:
    graph = nodes_graph(*size)
    codes = events(graph)
    wanted = by_hand(graph, codes)
    found = graph.run(codes)
    for name, lists in wanted.items():
        assert found[name].tolist() == lists, name


def test_events_hold_what_is_to_be_tested() -> None:
    """Ties at the last place, padding among the nearest, fewer hits than neighbours, a full and an overfull list of points."""
    graph = nodes_graph(12, 6, Format(True, 8, 6), 4, 36)
    codes = events(graph)
    distances = graph.run(codes)["distances_out"]
    hits = codes["valid"].sum(axis=1)
    assert {0, 1, 2, 12} <= set(hits.tolist())
    assert ((distances[..., 2] == distances[..., 3]) & (distances[..., 3] < 36)).sum() > 20
    status = graph.run(codes)["status_out"]
    assert set(status[:, 0]) == {0, 1, 2}
    assert set(status[:, 1]) == {0, 1}


@pytest.mark.parametrize("rule", RULES)
def test_another_rule_is_caught(rule: str) -> None:
    graph = nodes_graph(12, 6, Format(True, 8, 6), 7, 36)
    codes = events(graph)
    found, wrong = graph.run(codes), by_hand(graph, codes, rule)
    assert found["taken_out"].tolist() != wrong["taken_out"]
    assert (found["distances_out"].tolist() != wrong["distances_out"]) == (rule != "tie")


def test_a_different_reach_apart_threshold_or_number_is_caught() -> None:
    graph = nodes_graph(8, 3, Format(False, 6, 0), 3, 20)
    codes = events(graph)
    wanted = by_hand(graph, codes)
    changes: list[tuple[str, dict[str, Any], str]] = [
        ("distances", {"reach": 19}, "distances_out"),
        ("indices", {"reach": 2}, "taken_out"),
        ("points", {"apart": 3}, "points_out"),
        ("points", {"threshold": 0}, "points_out"),
        ("status", {"most": 3}, "status_out"),
    ]
    for name, change, output in changes:
        assert graph.replacing(name, **change).run(codes)[output].tolist() != wanted[output], (name, change)


def test_equal_nodes_come_in_their_order() -> None:
    """All in one place: neighbours are the lowest other indices, and one point takes all."""
    graph = nodes_graph(5, 2, Format(True, 4, 0), 3, 9)
    codes = {"coordinates": np.full((1, 5, 2), 3), "valid": np.ones((1, 5), np.int64), "score": np.full((1, 5), 2)}
    found = graph.run({**codes, "values": np.arange(15).reshape(1, 5, 3)})
    assert found["indices_out"].tolist() == [[[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]]]
    assert found["distances_out"].tolist() == [[[0] * 3] * 5]
    assert found["points_out"].tolist() == [[0, -1]]
    assert found["clusters_out"].tolist() == [[[0, 1, 2], [0] * 3]]
    assert found["status_out"].tolist() == [[1, 0]]


def test_the_number_of_events_in_a_chunk_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = nodes_graph(12, 6, Format(True, 8, 6), 7, 36)
    codes = events(graph, number=100)
    whole = graph.run(codes)
    monkeypatch.setattr("caloedge.compiler.graph.CHUNK_BYTES", 1)
    for name, found in graph.run(codes).items():
        assert np.array_equal(found, whole[name])


def test_a_whole_type_holds_its_bound() -> None:
    assert [_whole_type(bound) for bound in (2**15 - 1, 2**15, 2**31 - 1, 2**31)] == [np.int16, np.int32, np.int32, np.int64]


def refused(make: Callable[[], Op], *before: Op) -> str:
    inputs = (
        InputQuantiser("x", (4, 2), Format(True, 8, 6)),
        InputQuantiser("valid", (4,), Format(False, 1, 0)),
        InputQuantiser("wide", (4, 2), Format(True, 60, 6)),
        InputQuantiser("half", (2,), Format(False, 1, 1)),
    )
    with pytest.raises(Unsupported) as error:
        Graph((*inputs, *before, make(), Output("y", ("r",))))
    return str(error.value)


@pytest.mark.parametrize(
    ("op", "message"),
    [
        (lambda: Nearest("r", ("x", "valid"), 0, 5, "indices"), "'indices' of 0 nodes within 5 is not possible"),
        (lambda: Nearest("r", ("x", "valid"), 2, 0, "indices"), "'indices' of 2 nodes within 0 is not possible"),
        (lambda: Nearest("r", ("x", "valid"), 2, 5, "values"), "'values' of 2 nodes within 5 is not possible"),  # type: ignore[arg-type]
        (lambda: Nearest("r", ("x", "valid"), 5, 5, "indices"), "the nearest 5 of 4 nodes cannot be taken"),
        (lambda: Nearest("r", ("valid", "valid"), 2, 5, "indices"), "coordinates (N, D) expected, but (4) given"),
        (lambda: Nearest("r", ("x", "half"), 2, 5, "indices"), "(4) expected, one for each node, but (2) given"),
        (lambda: Nearest("r", ("wide", "valid"), 2, 5, "indices"), "its sums may reach 9.22e+18 and do not fit 62 bits"),
        (lambda: Take("r", ("valid", "valid")), "values (N, F) expected, but (4) given"),
        (lambda: Take("r", ("x", "x")), "indices -128 to 127 of fixed<8,2> do not lie within 4 rows"),
        (lambda: Take("r", ("x", "half")), "indices 0 to 1 of ufixed<1,0> do not lie within 4 rows"),
        (lambda: Condense("r", ("valid", "x", "valid"), 0, 0, 2, "indices"), "'indices' of 2 points 0 apart is not possible"),
        (lambda: Condense("r", ("valid", "x", "valid"), 0, 1, 0, "indices"), "'indices' of 0 points 1 apart is not possible"),
        (lambda: Condense("r", ("valid", "x", "valid"), 0, 1, 5, "indices"), "5 of 4 nodes cannot be accepted"),
        (lambda: Condense("r", ("half", "x", "valid"), 0, 1, 2, "status"), "(4) expected, one for each node, but (2) given"),
    ],
)
def test_what_is_not_possible_is_refused(op: Any, message: str) -> None:
    assert refused(op).startswith(f"layer r: {message}")


def test_indices_beyond_the_last_row_or_below_minus_one_are_refused() -> None:
    ones = np.ones(4, np.int64)
    for shift, wrong in ((4, True), (3, True), (2, False), (-1, False), (-2, True)):
        moved = Affine("i", ("valid",), ones, ones * shift, Format(True, 4, 0))
        ops = (InputQuantiser("x", (4, 2), Format(True, 8, 6)), InputQuantiser("valid", (4,), Format(False, 1, 0)), moved)
        if wrong:
            assert "do not lie within 4 rows" in refused(lambda: Take("r", ("x", "i")), moved)
        else:
            Graph((*ops, Take("r", ("x", "i")), Output("y", ("r",))))
