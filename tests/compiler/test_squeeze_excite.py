"""What is a channel gate and what only looks like one."""

from typing import Any

import numpy as np
import pytest

from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Affine, Conv, Dense, InputQuantiser, Multiply, Op, Output, Requantise, Reshape
from caloedge.compiler.squeeze_excite import gates

ONE = Format(True, 2, 0)
WEIGHT = Format(True, 5, 3)
SUMMED_ROWS: tuple[Op, ...] = (
    Reshape("rows", ("x",), (3, 20)),
    Dense("sum", ("rows",), np.ones((1, 20), np.int64), np.zeros(1, np.int64), ONE),
    Reshape("vector", ("sum",)),
)
SUMMED_PLANES: tuple[Op, ...] = (
    Conv("planes", ("x",), np.ones((3, 1, 4, 5), np.int64), np.zeros(3, np.int64), ONE, groups=3),
    Reshape("vector", ("planes",)),
)
EXCITED: tuple[Op, ...] = (
    Affine("mean", ("vector",), np.array([5]), np.array([0]), WEIGHT),
    Dense("expand", ("mean",), np.eye(3, dtype=np.int64), np.zeros(3, np.int64), WEIGHT),
    Requantise("clipped", ("expand",), Format(False, 6, 0), relu=True),
    Reshape("factors", ("clipped",), (3, 1, 1)),
)


def graph(*ops: Op, inputs: tuple[str, str] = ("x", "factors"), more: tuple[Op, ...] = ()) -> Graph:
    given = InputQuantiser("x", (3, 4, 5), Format(True, 6, 3))
    return Graph((given, *ops, Multiply("gate", inputs), Output("y", ("gate",)), *more))


@pytest.mark.parametrize("inputs", [("x", "factors"), ("factors", "x")])
def test_sums_of_rows_and_of_planes_are_gates(inputs: tuple[str, str]) -> None:
    for squeeze, first in ((SUMMED_ROWS, "vector"), (SUMMED_PLANES, "vector")):
        (gate,) = gates(graph(*squeeze, *EXCITED, inputs=inputs))
        assert gate.source == "x"
        assert [op.name for op in gate.squeeze] == [op.name for op in squeeze[:-1]]
        assert [op.name for op in gate.excite] == [first, "mean", "expand", "clipped", "factors"]
        assert gate.names == (*(op.name for op in (*squeeze, *EXCITED)), "gate")


def test_sums_may_be_the_factors() -> None:
    planes = SUMMED_PLANES[0]
    (gate,) = gates(graph(planes, inputs=("x", "planes")))
    assert [op.name for op in gate.squeeze] == ["planes"]
    assert gate.excite == ()


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("sum", {"weights": np.arange(20)[None] % 2}),
        ("sum", {"bias": np.ones(1, np.int64)}),
        ("sum", {"weights": -np.ones((1, 20), np.int64)}),
    ],
)
def test_what_is_no_plain_sum_is_no_gate(name: str, changes: dict[str, Any]) -> None:
    assert gates(graph(*SUMMED_ROWS, *EXCITED).replacing(name, **changes)) == ()


def test_sums_of_all_channels_are_no_gate() -> None:
    mixed = Conv("planes", ("x",), np.ones((3, 3, 4, 5), np.int64), np.zeros(3, np.int64), ONE)
    assert gates(graph(mixed, SUMMED_PLANES[1], *EXCITED)) == ()
    shifted = Conv("planes", ("x",), np.ones((3, 1, 4, 5), np.int64), np.zeros(3, np.int64), ONE, (3, 3), (1, 1, 0, 0), groups=3)
    assert gates(graph(shifted, SUMMED_PLANES[1], *EXCITED)) == ()
    part = Conv("part", ("x",), np.ones((3, 1, 4, 4), np.int64), np.zeros(3, np.int64), ONE, groups=3)
    last = Conv("planes", ("part",), np.ones((3, 1, 1, 2), np.int64), np.zeros(3, np.int64), ONE, groups=3)
    assert gates(graph(part, last, SUMMED_PLANES[1], *EXCITED)) == ()


@pytest.mark.parametrize("name", ["x", "expand"])
def test_what_leaves_elsewhere_as_well_is_no_gate(name: str) -> None:
    assert gates(graph(*SUMMED_ROWS, *EXCITED, more=(Output("early", (name,)),))) == ()


def test_a_product_of_two_images_is_no_gate() -> None:
    other = Requantise("other", ("x",), Format(True, 6, 2), relu=False)
    assert gates(graph(other, inputs=("x", "other"))) == ()
