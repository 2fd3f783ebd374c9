"""Condensation by a slow loop, in values and codes, and the graph that does the same behind a network."""

import numpy as np
import pytest

from caloedge.catalog import Condensation
from caloedge.compiler.condensation import CLUSTERS, INDICES, STATUS, with_clusters
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Condense, InputQuantiser, Output, Rearrange
from caloedge.errors import Unsupported
from caloedge.reconstruction.condensation import cluster_codes, condense

EVENTS, NODES = 400, 9


def events(seed: int, scores: int = 6, places: int = 5):
    """Return few different scores and places, so that ties and equal nodes are frequent, and which nodes are hits."""
    rng = np.random.default_rng(seed)
    valid = np.arange(NODES) < rng.integers(0, NODES + 1, (EVENTS, 1))
    return rng.integers(-scores, scores, (EVENTS, NODES)), rng.integers(0, places, (EVENTS, NODES, 2)), valid


def by_loops(score, places, valid, threshold, apart, most):
    alive = [n for n in range(len(score)) if valid[n] and score[n] >= threshold]
    chosen: list[int] = []
    while alive and len(chosen) < most:
        best = min(alive, key=lambda n: (-score[n], n))
        chosen.append(best)
        alive = [n for n in alive if n != best and np.abs(places[n] - places[best]).sum() >= apart]
    return chosen + [-1] * (most - len(chosen)), bool(alive)


@pytest.mark.parametrize(("apart", "most"), [(1, 9), (3, 9), (3, 2), (0, 9), (100, 3)])
def test_clusters_are_those_of_the_definition(apart: int, most: int) -> None:
    score, places, valid = events(apart + most)
    chosen, more = condense(score, places, valid, 0, apart, most)
    expected = [by_loops(*event, 0, apart, most) for event in zip(score, places, valid, strict=True)]
    np.testing.assert_array_equal(chosen, [nodes for nodes, _ in expected])
    np.testing.assert_array_equal(more, [left for _, left in expected])
    real = condense(score / 4, places / 4, valid, 0.0, apart / 4, most)
    np.testing.assert_array_equal(real[0], chosen)  # quarters are exact
    assert (chosen[~valid.any(axis=1)] == -1).all()


def test_padding_removes_no_hit() -> None:
    score = np.array([[5, 9]])
    places = np.zeros((1, 2, 1), int)
    assert condense(score, places, np.array([[True, False]]), 0, 3, 2)[0].tolist() == [[0, -1]]
    assert condense(score, places, np.array([[True, True]]), 0, 3, 2)[0].tolist() == [[1, -1]]


def test_a_node_without_a_distance_is_chosen_once() -> None:
    """A distance of 0 removes nothing, also not the other nodes in the same place."""
    chosen, more = condense(np.array([[1, 2, 3]]), np.zeros((1, 3, 2)), np.ones((1, 3), bool), 0, 0, 5)
    assert chosen.tolist() == [[2, 1, 0, -1, -1]]
    assert not more.any()


CONDENSATION = Condensation(score=3, coordinates=(1, 2), most=4)


def network() -> Graph:
    """Return a network whose nodes are its inputs, in another order of the columns."""
    index = np.arange(NODES * 4).reshape(NODES, 4)[:, [0, 2, 3, 1]]
    ops = (
        InputQuantiser("hits", (NODES, 4), Format(True, 8, 4)),
        Rearrange("moved", ("hits",), index),
        Output("nodes", ("moved",)),
    )
    return Graph(ops, "nodes")


def test_the_graph_gives_what_is_calculated_without_it() -> None:
    score, places, valid = events(11)
    codes = np.stack([valid.astype(int), score, *np.moveaxis(places, 2, 0)], axis=2)
    graph = with_clusters(network(), CONDENSATION, threshold=-0.02, apart=0.1)
    (choice, *_) = (op for op in graph.ops if isinstance(op, Condense))
    assert (choice.threshold, choice.apart) == (0, 2)  # the next codes of sixteenths
    outputs = graph.run(codes)
    clusters, indices, status = cluster_codes(outputs["nodes"], codes, CONDENSATION, choice.threshold, choice.apart)
    np.testing.assert_array_equal(outputs[CLUSTERS], clusters)
    np.testing.assert_array_equal(outputs[INDICES], indices)
    np.testing.assert_array_equal(outputs[STATUS], status)
    assert status[:, 1].any(), "no event has more clusters than fit"
    assert (indices == -1).any()
    wrong = graph.replacing(choice.name, apart=3).run(codes)
    assert (wrong[INDICES] != indices).any(), "another distance is not seen"


@pytest.mark.parametrize(("threshold", "codes"), [(-1e30, -128), (1e30, 128), (float(2**-4), 1)])
def test_thresholds_beyond_all_codes_choose_all_or_none(threshold: float, codes: int) -> None:
    graph = with_clusters(network(), CONDENSATION, threshold, apart=0.1)
    assert {op.threshold for op in graph.ops if isinstance(op, Condense)} == {codes}


def test_only_nodes_on_a_grid_have_clusters() -> None:
    scaled = network().replacing("nodes", scale=np.full((NODES, 4), 0.3))
    with pytest.raises(Unsupported, match=r"^output nodes: clusters are chosen from nodes \(N, F\) on a grid of powers of two$"):
        with_clusters(scaled, CONDENSATION, 0, 1)
