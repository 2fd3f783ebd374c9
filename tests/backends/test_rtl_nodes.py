"""Node-stream designs of backend `rtl` against `Graph.run`, cycle by cycle, with `==`; broken ones must be caught."""

from pathlib import Path

import numpy as np

from caloedge.backends.rtl import BACKEND
from caloedge.catalog import Target, find
from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Add, Affine, Dense, InputQuantiser, Multiply, Output, Rearrange, Requantise, Table

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
            Output("nodes", ("sum",)),
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
            assert set(run.codes) == {"nodes", "acts"}
            assert all(np.array_equal(run.codes[name], expected[name]) for name in expected)
            if not stall:
                assert run.interval_cycles == 8 // par
                assert run.latency_cycles <= 8 // par + 9
