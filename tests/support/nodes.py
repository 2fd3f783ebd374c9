"""Operations on nodes one by one in Python's own integers, and events that put them to the test.

An event is a graph of N nodes: coordinates (N, D), valid (N,), score (N,), values (N, F).
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Condense, InputQuantiser, Nearest, Output, Take

Codes = NDArray[np.int64]


def manhattan(a: Sequence[int], b: Sequence[int]) -> int:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True))


RULES = ("tie", "self", "padding")
"""Of equal distances the lower index first, no node is its own neighbour, padding is nobody's."""


def nearest(coordinates: Codes, valid: Codes, k: int, reach: int, broken: str = "") -> list[list[tuple[int, int]]]:
    """Return the k smallest (distance, index) of each node of one event; `broken` is one of RULES to leave out."""
    nodes, rows = coordinates.tolist(), []
    for i, node in enumerate(nodes):
        hidden = [(j == i and broken != "self") or (valid[j] <= 0 and broken != "padding") for j in range(len(nodes))]
        keys = [(reach if hidden[j] else min(reach, manhattan(node, other)), j) for j, other in enumerate(nodes)]
        rows.append(sorted(keys, key=lambda key: (key[0], -key[1] if broken == "tie" else key[1]))[:k])
    return rows


def condensed(
    score: Codes, coordinates: Codes, valid: Codes, threshold: int, apart: int, most: int
) -> tuple[list[int], list[int]]:
    """Return the indices of the condensation points of one event, filled up with -1, and the status."""
    left = [i for i in range(len(score)) if valid[i] > 0 and score[i] >= threshold]
    accepted: list[int] = []
    while left and len(accepted) < most:
        best = min(left, key=lambda i: (-score[i], i))
        accepted.append(best)
        left = [i for i in left if i != best and manhattan(coordinates[i].tolist(), coordinates[best].tolist()) >= apart]
    return accepted + [-1] * (most - len(accepted)), [len(accepted), int(bool(left))]


def clustered(rng: np.random.Generator, events: int, fmt: Format, nodes: int, axes: int) -> dict[str, Codes]:
    """Return codes {coordinates, valid, score} with many ties: few places, equal nodes, padding, and the extreme events first.

    Of the first events one has no hit, one has one hit, one has k - 1 of them for a small k, and one has all hits in one place.
    """
    centers = rng.integers(fmt.min_code, fmt.max_code, (events, 3, axes), endpoint=True)
    chosen = rng.integers(0, 3, (events, nodes))
    near = np.take_along_axis(centers, chosen[..., None], axis=1) + rng.integers(-1, 2, (events, nodes, axes))
    hits = rng.integers(0, nodes + 1, events)
    hits[:4] = (0, 1, min(2, nodes), nodes)
    valid = (np.arange(nodes) < hits[:, None]).astype(np.int64)
    scattered = rng.permuted(valid[events // 2 :], axis=1)  # padding need not come last
    valid[events // 2 :] = scattered
    near[3] = near[3, :1]
    near[4, ::2], near[4, 1::2] = fmt.min_code, fmt.max_code
    score = rng.integers(-3, 4, (events, nodes))
    coordinates = np.clip(near, fmt.min_code, fmt.max_code) * valid[..., None]
    coordinates[3:5] = np.clip(near[3:5], fmt.min_code, fmt.max_code)
    return {"coordinates": coordinates, "valid": valid, "score": score}


def nodes_graph(nodes: int, axes: int, fmt: Format, k: int, reach: int, features: int = 3) -> Graph:
    """Return a graph of a `Nearest`, a `Take` of its indices, and a `Condense` with a `Take`, all of whose parts leave."""
    ends = ("coordinates", "valid")
    condense = {"threshold": -1, "apart": max(reach // 2, 1), "most": min(2, nodes)}
    ops = (
        InputQuantiser("coordinates", (nodes, axes), fmt),
        InputQuantiser("valid", (nodes,), Format(False, 1, 0)),
        InputQuantiser("score", (nodes,), Format(True, 4, 0)),
        InputQuantiser("values", (nodes, features), Format(True, 8, 3)),
        Nearest("distances", ends, k, reach, "distances"),
        Nearest("indices", ends, k, reach, "indices"),
        Take("taken", ("values", "indices")),
        Condense("points", ("score", *ends), part="indices", **condense),  # type: ignore[arg-type]
        Condense("status", ("score", *ends), part="status", **condense),  # type: ignore[arg-type]
        Take("clusters", ("values", "points")),
    )
    leaving = ("distances", "indices", "taken", "points", "status", "clusters")
    return Graph((*ops, *(Output(f"{name}_out", (name,)) for name in leaving)))


def by_hand(graph: Graph, codes: dict[str, Codes], broken: str = "") -> dict[str, list]:
    """Return the outputs of a `nodes_graph`, event by event and node by node; see `nearest` for `broken`."""
    search, condense = graph["indices"], graph["points"]
    assert isinstance(search, Nearest)
    assert isinstance(condense, Condense)
    found: dict[str, list] = {f"{name}_out": [] for name in ("distances", "indices", "taken", "points", "status", "clusters")}
    for coordinates, valid, score, values in zip(*(codes[op.name] for op in graph.inputs), strict=True):
        rows = nearest(coordinates, valid, search.k, search.reach, broken)
        points, status = condensed(score, coordinates, valid, condense.threshold, condense.apart, condense.most)
        found["distances_out"].append([[d for d, _ in row] for row in rows])
        found["indices_out"].append([[j for _, j in row] for row in rows])
        found["taken_out"].append([[values[j].tolist() for _, j in row] for row in rows])
        found["points_out"].append(points)
        found["status_out"].append(status)
        found["clusters_out"].append([values[i].tolist() if i >= 0 else [0] * values.shape[1] for i in points])
    return found
