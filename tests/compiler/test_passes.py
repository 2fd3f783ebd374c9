"""Every pass leaves every output code as it was, and does what it is for."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from random_networks import graphs, stimulus

from caloedge.compiler import passes
from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import (
    Affine,
    Conv,
    Dense,
    InputQuantiser,
    MaxPool,
    Op,
    Output,
    Rearrange,
    Requantise,
    Reshape,
    Table,
    Threshold,
)

BYTE, WIDE = Format(True, 8, 0), Format(True, 20, 0)
rng = np.random.default_rng(3)


def same(before: Graph, after: Graph, n_events: int = 200) -> None:
    codes = stimulus(before, 7, n_events)
    wanted, found = before.run(codes), after.run(codes)
    assert list(wanted) == list(found)
    for name in wanted:
        np.testing.assert_array_equal(found[name], wanted[name])
    assert [op.name for op in after.outputs] == [op.name for op in before.outputs]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(graphs())
def test_no_pass_changes_a_code_of_a_random_network(graph: Graph) -> None:
    for one in (*passes.PASSES, passes.optimise):
        same(graph, one(graph), 40)


def image(*ops: Op, shape: tuple[int, ...] = (2, 4, 4), last: str = "") -> Graph:
    return Graph((InputQuantiser("x", shape, BYTE), *ops, Output("y", (last or ops[-1].name,))))


def conv(name: str, source: str, filters: int, channels: int, **options: object) -> Conv:
    weights = rng.integers(-7, 8, (filters, channels, 3, 3))
    return Conv(name, (source,), weights, rng.integers(-20, 20, filters), Format(True, 4, 0), **options)  # type: ignore[arg-type]


def column(*values: int) -> np.ndarray:
    return np.array(values).reshape(-1, 1, 1)


def test_constants_go_into_the_layer_before() -> None:
    graph = image(
        conv("c", "x", 3, 2),
        Affine("s", ("c",), column(1, -1, 1), column(5, 0, -9), Format(True, 2, 0)),
        Requantise("r", ("s",), Format(False, 6, -3), relu=True),
    )
    after = passes.optimise(graph)
    assert [op.name for op in after.ops] == ["x", "c", "r", "y"]
    same(graph, after)


def test_a_limit_joins_the_requantisation_after_it() -> None:
    graph = image(
        conv("c", "x", 3, 2),
        Requantise("relu", ("c",), WIDE, relu=True),
        Requantise("r", ("relu",), Format(True, 6, -4), relu=False, rounding=Rounding.TRUNCATE),
    )
    after = passes.merge_requantisations(graph)
    assert [op.name for op in after.ops] == ["x", "c", "r", "y"]
    assert after.tensors["r"].range == (0, 31)
    same(graph, after)


def test_a_limit_stays_where_only_what_it_leaves_can_be_shifted() -> None:
    x = InputQuantiser("x", (4,), Format(True, 32, 8))
    limited = Requantise("limited", ("x",), Format(True, 8, 8), relu=False)
    finer = Requantise("finer", ("limited",), Format(True, 32, 40), relu=False)
    graph = Graph((x, limited, finer, Output("y", ("finer",))))
    same(graph, passes.optimise(graph))


def test_transposes_meet_and_cancel() -> None:
    shape = (2, 4, 4)
    there = np.moveaxis(np.arange(32).reshape(shape), 0, -1)
    back = np.moveaxis(np.arange(32).reshape(4, 4, 2), -1, 0)
    graph = image(
        Rearrange("to_last", ("x",), there, kind="transpose"),
        Affine("s", ("to_last",), np.array([3, -2]).reshape(1, 1, 2), np.array([1, 2]).reshape(1, 1, 2), Format(True, 3, 0)),
        Requantise("r", ("s",), Format(True, 7, -2), relu=False),
        Table("t", ("r",), rng.integers(0, 9, (1, 1, 2, 128)), -64, Format(False, 4, 0)),
        Threshold("h", ("t",), np.array([1, 5]).reshape(1, 1, 1, 2), 0, 1, Format(False, 2, 0)),
        Rearrange("to_first", ("h",), back, kind="transpose"),
        conv("c", "to_first", 2, 2),
    )
    after = passes.optimise(graph)
    assert not any(isinstance(op, Rearrange) for op in after.ops)
    same(graph, after)


def test_moves_become_one() -> None:
    graph = image(
        Rearrange("a", ("x",), np.arange(32)[::-1].reshape(4, 8), kind="slice"),
        Reshape("b", ("a",), (32,)),
        Rearrange("c", ("b",), np.array([[3, -1], [5, 7]]), fill=2, kind="pad"),
        Reshape("d", ("c",), (4,)),
    )
    after = passes.optimise(graph)
    assert len(after.ops) == 3
    same(graph, after)


@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 1, 1, 1)])
def test_dead_channels_are_left_out(padding: tuple[int, ...]) -> None:
    first = conv("c", "x", 4, 2)
    weights, bias = first.weights.copy(), first.bias.copy()
    weights[1], bias[1] = 0, -3  # never above zero
    weights[2], bias[2] = 0, 40  # always five
    graph = image(
        Conv("c", ("x",), weights, bias, first.weight_format),
        Requantise("r", ("c",), Format(False, 5, -3), relu=True),
        MaxPool("p", ("r",), (1, 1), (1, 1)),
        conv("d", "p", 3, 4, padding=padding),
        Reshape("f", ("d",)),
        Dense("e", ("f",), rng.integers(-3, 3, (2, 12 if not any(padding) else 3 * 4)), np.zeros(2, dtype=np.int64), BYTE),
        shape=(2, 6, 6) if not any(padding) else (2, 4, 4),
    )
    after = passes.optimise(graph)
    kept = after["c"]
    assert isinstance(kept, Conv)
    assert len(kept.weights) == (2 if not any(padding) else 3)  # a constant five meets padding with zeros
    same(graph, after)


def test_formats_become_as_narrow_as_their_codes() -> None:
    graph = image(
        conv("c", "x", 3, 2),
        Requantise("r", ("c",), Format(True, 18, -6), relu=False),
        Threshold("h", ("r",), np.array([-5, 0, 9]).reshape(1, 1, 1, 3), 0, 2, Format(True, 12, 0)),
    )
    after = passes.narrow_formats(graph)
    assert after.tensors["r"].format.width < 12
    assert after.tensors["h"].format == Format(False, 3, 0)
    same(graph, after)


def test_what_nobody_reads_is_left_out() -> None:
    graph = image(conv("c", "x", 3, 2), conv("unread", "x", 2, 2), last="c")
    assert [op.name for op in passes.remove_unread(graph).ops] == ["x", "c", "y"]


def test_a_pass_that_changed_a_code_would_be_seen() -> None:
    graph = image(conv("c", "x", 3, 2), Requantise("r", ("c",), Format(False, 6, -3), relu=True))
    wrong: Callable[[Graph], Graph] = lambda g: g.replacing("r", rounding=Rounding.TRUNCATE)  # noqa: E731
    with pytest.raises(AssertionError):
        same(graph, wrong(graph))
