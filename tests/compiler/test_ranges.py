"""What is proven of every operation, against brute force: ranges are kept and reached, no partial sum is above its bound.

The number types of every executor are chosen by `bound`: one that is too small lets sums wrap or round, and nobody is told.
"""

from collections.abc import Callable
from itertools import product
from typing import Any

import brute_force
import numpy as np
import pytest
from brute_force import extremes, integers, magnitude, terms, total
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from random_networks import graphs
from random_qonnx import seeded

from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.kernels import exact_type, kernel
from caloedge.compiler.onnx.reader import read
from caloedge.compiler.ops import (
    Add,
    Affine,
    Condense,
    Conv,
    Dense,
    InputQuantiser,
    MatMul,
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
    Threshold,
    TopK,
)
from caloedge.compiler.ranges import INT_LIMIT, MAX_ELEMENTS, Tensor
from caloedge.errors import Unsupported

WEIGHT = Format(True, 5, 2)
SMALL = Format(True, 4, 0)


class Case:
    """A network around one operation `r`, small enough for every input to be tried; its parts are drawn."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.ops: list[Op] = []

    def whole(self, low: int, high: int) -> int:
        return self.draw(st.integers(low, high))

    def numbers(self, low: int, high: int, *shape: int) -> np.ndarray:
        size = int(np.prod(shape))
        return np.array(self.draw(st.lists(st.integers(low, high), min_size=size, max_size=size)), np.int64).reshape(shape)

    def source(self, name: str, *shape: int, fraction: int = 0) -> str:
        """Add codes whose range differs from element to element, and need not hold zero."""
        fmt = Format(self.draw(st.booleans()), self.whole(1, 2) if np.prod(shape) < 5 else 1, fraction)
        self.ops.append(InputQuantiser(f"{name}_in", shape, fmt))
        weights, bias = self.numbers(-3, 3, *shape), self.numbers(-9, 9, *shape)
        self.ops.append(Affine(name, (f"{name}_in",), weights, bias, Format(True, 3, 0)))
        return name

    def tensor(self, name: str) -> Tensor:
        return Graph((*self.ops, Output("y", (name,)))).tensors[name]


def conv(case: Case) -> Op:
    if case.draw(st.booleans()):
        case.source("x", 2, 3)
        groups = case.whole(1, 2)
        weights = case.numbers(-9, 9, 2, 2 // groups, case.whole(1, 2))
        padding = case.whole(0, 1), case.whole(0, 2)
        return Conv("r", ("x",), weights, case.numbers(-9, 9, 2), WEIGHT, (case.whole(1, 2),), padding, (1,), groups)
    case.source("x", 1, 2, 3)
    padding = tuple(case.whole(0, 1) for _ in range(4))
    weights = case.numbers(-9, 9, 2, 1, case.whole(1, 2), 2)
    return Conv("r", ("x",), weights, case.numbers(-9, 9, 2), WEIGHT, (1, case.whole(1, 2)), padding, (1, case.whole(1, 2)))


def dense(case: Case) -> Op:
    case.source("x", *case.draw(st.sampled_from([(3,), (2, 2)])))
    return Dense("r", ("x",), case.numbers(-9, 9, 2, case.tensor("x").shape[-1]), case.numbers(-40, 40, 2), WEIGHT)


def affine(case: Case) -> Op:
    case.source("x", 2, 2)
    return Affine("r", ("x",), case.numbers(-9, 9, 2, 1), case.numbers(-40, 40, 2, 1), WEIGHT)


def add(case: Case) -> Op:
    case.source("a", 2, 1, fraction=case.whole(-2, 3))
    case.source("b", *case.draw(st.sampled_from([(1, 2), (2, 2), (1, 1)])))
    return Add("r", ("a", "b"))


def multiply(case: Case) -> Op:
    case.source("a", 2, 1)
    case.source("b", *case.draw(st.sampled_from([(1, 2), (2, 2), (1, 1)])))
    return Multiply("r", ("a", "b"))


def matmul(case: Case) -> Op:
    case.source("a", 1, 1, 3)
    case.source("b", 1, 3, 1)
    return MatMul("r", ("a", "b"))


def requantise(case: Case) -> Op:
    case.source("x", 4)
    fmt = Format(case.draw(st.booleans()), case.whole(1, 5), case.whole(-3, 3))
    rounding = case.draw(st.sampled_from(Rounding))
    narrow, relu = case.draw(st.booleans()), case.draw(st.booleans())
    limits = (0, max(fmt.max_code - 1, 0)) if case.draw(st.booleans()) else None
    return Requantise("r", ("x",), fmt, relu, narrow and fmt.width > 1, rounding, limits)


def threshold(case: Case) -> Op:
    case.source("x", 2, 2)
    thresholds = np.sort(case.numbers(-15, 15, *case.draw(st.sampled_from([(1, 1), (2, 1), (2, 2)])), 4))
    return Threshold("r", ("x",), thresholds, case.whole(-9, 9), case.whole(-3, 3), Format(True, 6, 0))


def table(case: Case) -> Op:
    # The smallest and largest entry must be met by codes that come: every step of one code.
    fmt = Format(case.draw(st.booleans()), 2, 0)
    shifts = case.numbers(-5, 5, 2, 2)
    case.ops += [InputQuantiser("x_in", (2, 2), fmt), Affine("x", ("x_in",), np.ones((2, 2), np.int64), shifts, WEIGHT)]
    low, high = case.tensor("x").range
    before, behind = case.whole(0, 2), case.whole(0, 2)
    shape = case.draw(st.sampled_from([(1, 1), (2, 1), (1, 2), (2, 2)]))
    return Table("r", ("x",), case.numbers(-30, 30, *shape, high - low + 1 + before + behind), low - before, Format(True, 6, 0))


def max_pool(case: Case) -> Op:
    case.source("x", 2, 3)
    return MaxPool("r", ("x",), (2,), (1,))


def reshape(case: Case) -> Op:
    case.source("x", 2, 2)
    return Reshape("r", ("x",))


def rearrange(case: Case) -> Op:
    case.source("a", 2)
    case.source("b", 1, 2)
    return Rearrange("r", ("a", "b"), case.numbers(-1, 3, 3), fill=case.whole(-40, 40))


def softmax(case: Case) -> Op:
    case.source("x", 3)
    exponentials = np.rint(255 * np.exp(-np.arange(30) / 4)).astype(np.int64)
    return Softmax("r", ("x",), exponentials, (case.whole(1, 300), case.whole(1, 2)), Format(False, 8, 8))


def top_k(case: Case) -> Op:
    case.source("x", *case.draw(st.sampled_from([(4,), (2, 2)])))
    k, part = case.whole(1, case.tensor("x").shape[-1]), case.draw(st.sampled_from(["values", "indices"]))
    return TopK("r", ("x",), k, case.draw(st.booleans()), part)


def nearest(case: Case) -> Op:
    nodes, axes = case.draw(st.sampled_from([(3, 1), (2, 2), (4, 1)]))
    case.source("x", nodes, axes, fraction=case.whole(-2, 3))
    case.source("valid", nodes)
    return Nearest(
        "r", ("x", "valid"), case.whole(1, nodes), case.whole(1, 12), case.draw(st.sampled_from(["distances", "indices"]))
    )


def take(case: Case) -> Op:
    case.source("x", *case.draw(st.sampled_from([(3, 2), (3, 1), (4, 1)])), fraction=case.whole(-2, 3))
    case.ops.append(InputQuantiser("chosen_in", (2,), Format(False, case.whole(1, 2), 0)))
    shifts = case.numbers(-1, case.tensor("x").shape[0] - case.tensor("chosen_in").range[1] - 1, 2)
    case.ops.append(Affine("chosen", ("chosen_in",), np.ones(2, np.int64), shifts, Format(True, 2, 0)))
    return Take("r", ("x", "chosen"))


def condense(case: Case) -> Op:
    nodes = case.whole(2, 3)
    case.source("score", nodes)
    case.ops.append(InputQuantiser("x", (nodes, 1), Format(False, 2, 0)))
    case.source("valid", nodes)
    limits = case.whole(-9, 9), case.whole(1, 4), case.whole(1, nodes)
    return Condense("r", ("score", "x", "valid"), *limits, case.draw(st.sampled_from(["indices", "status"])))


def output(case: Case) -> Op:
    case.source("x", 2)
    return Output("r", ("x",))


CASES = {
    Conv: conv, Dense: dense, Affine: affine, Add: add, Multiply: multiply, MatMul: matmul, Requantise: requantise,
    Threshold: threshold, Table: table, MaxPool: max_pool, Reshape: reshape, Rearrange: rearrange, Softmax: softmax, TopK: top_k,
    Nearest: nearest, Take: take, Condense: condense, Output: output,
}  # fmt: skip


def every_input(graph: Graph) -> dict[str, np.ndarray]:
    """Return all combinations of input codes, by input."""
    ranges = [range(low, high + 1) for op in graph.inputs for low, high in [graph.tensors[op.name].range] * op_size(op)]
    every = np.array(list(product(*ranges)))
    ends = np.cumsum([op_size(op) for op in graph.inputs])
    parts = np.split(every, ends[:-1], axis=1)
    return {op.name: part.reshape(-1, *op.shape) for op, part in zip(graph.inputs, parts, strict=True)}


def op_size(op: InputQuantiser) -> int:
    return int(np.prod(op.shape))


def bound_by_brute_force(graph: Graph, op: Op, trace: dict[str, np.ndarray]) -> int:
    """Return what the docstring of `Tensor.bound` promises, from all codes that really come."""
    codes = [integers(trace[name]) for name in op.inputs]
    fractions = [graph.tensors[name].format.fraction for name in op.inputs]
    largest = [int(abs(array).max()) for array in codes]
    match op:
        case InputQuantiser():
            return 0
        case Conv() | Dense() | Affine():
            return int(magnitude(terms(op, codes, fractions)).max())
        case Multiply():
            return largest[0] * largest[1]  # of any two elements
        case MatMul():
            return largest[0] * largest[1] * codes[0].shape[-1]
        case Add():  # the sums that made its terms may be larger than these
            finest = max(fractions)
            return sum(graph.tensors[name].bound << finest - f for name, f in zip(op.inputs, fractions, strict=True))
        case Requantise():
            return max(abs(op.low), abs(op.high))
        case Threshold() | Table() | Softmax() | Nearest() | Condense():
            return 0
        case Take():
            return graph.tensors[op.inputs[0]].bound
        case TopK():
            return 0 if op.part == "indices" else graph.tensors[op.inputs[0]].bound
        case MaxPool() | Reshape() | Rearrange() | Output():  # the number type of what they read is the number type of all of it
            return max(graph.tensors[name].bound for name in op.inputs)


def is_exact(graph: Graph, op: Op) -> bool:
    """Tell whether both ends of the range are promised to come: not of what depends on several elements at once."""
    if isinstance(op, Output):
        return is_exact(graph, graph[op.inputs[0]])
    return not isinstance(op, Softmax | Nearest | Condense) and not (isinstance(op, TopK) and op.part == "indices")


@pytest.mark.parametrize("kind", CASES, ids=lambda kind: kind.__name__)
@settings(max_examples=25, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_ranges_are_reached_and_bounds_are_those_of_brute_force(kind: type, data: Any) -> None:
    case = Case(data.draw)
    op = CASES[kind](case)
    assert isinstance(op, kind)
    graph = Graph((*case.ops, op) if isinstance(op, Output) else (*case.ops, op, Output("y", ("r",))))
    trace = graph.trace(every_input(graph))
    for op in graph.ops:
        tensor, codes = graph.tensors[op.name], trace[op.name]
        assert codes.shape[1:] == tensor.shape == tensor.low.shape == tensor.high.shape
        assert tensor.low.dtype == tensor.high.dtype == np.int64
        low, high = codes.min(axis=0), codes.max(axis=0)
        assert (tensor.low <= low).all()
        assert (high <= tensor.high).all()
        if is_exact(graph, op):
            assert tensor.low.tolist() == low.tolist(), op.name
            assert tensor.high.tolist() == high.tolist(), op.name
        if isinstance(op, brute_force.SUMS):
            parts = terms(
                op, [integers(trace[name]) for name in op.inputs], [graph.tensors[n].format.fraction for n in op.inputs]
            )
            assert total(parts).tolist() == codes.tolist()
            assert magnitude(parts).max() <= tensor.bound
        least = max(abs(tensor.range[0]), abs(tensor.range[1]))
        assert tensor.bound == max(bound_by_brute_force(graph, op, trace), least), op.name
        assert tensor.format.min_code <= tensor.range[0]
        assert tensor.range[1] <= tensor.format.max_code


def test_every_operation_is_tried() -> None:
    assert {InputQuantiser, *CASES} == set(Op.__args__)


def check_sums(graph: Graph) -> int:
    """Drive every layer of a network to its ends, from the ranges of what it reads; return how many layers there are."""
    layers = [op for op in graph.ops if isinstance(op, Conv | Dense | Affine)]
    for op in layers:
        x, result = graph.tensors[op.inputs[0]], graph.tensors[op.name]
        events = extremes(op, x.low, x.high)
        parts = terms(op, [integers(events)], [0])
        lowest, highest, _ = np.split(total(parts).reshape(len(events), -1), 3)
        assert result.low.reshape(-1).tolist() == np.diagonal(lowest).tolist(), op.name
        assert result.high.reshape(-1).tolist() == np.diagonal(highest).tolist(), op.name
        # Beyond 2**53 a bound is summed in float64: all that hangs on it is then integer arithmetic, which has room.
        wanted = max(int(magnitude(parts).max()), *map(abs, result.range))
        assert result.bound == wanted if wanted < 2**53 else abs(result.bound - wanted) <= wanted >> 40, op.name
        found = kernel(op, graph.tensors)(np.moveaxis(events, 0, -1).astype(exact_type(x.bound)))
        assert np.moveaxis(found, -1, 0).astype(np.int64).tolist() == total(parts).tolist(), op.name
    return len(layers)


@settings(max_examples=40, deadline=None, derandomize=True, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
@given(graphs())
def test_the_ends_of_random_networks_are_reached_exactly(graph: Graph) -> None:
    assert check_sums(graph)


def test_the_ends_of_random_files_are_reached_exactly(tmp_path: Any) -> None:
    import onnx

    layers = 0
    for seed in range(60):
        onnx.save(seeded(seed).model, tmp_path / "random.onnx")
        try:
            graph = read(tmp_path / "random.onnx")
        except Unsupported:
            continue
        layers += check_sums(graph)
    assert layers > 60


# Where a range is refused: the tests above never come near


def two(width: int, weights: list[int], bias: int = 0) -> Graph:
    x = InputQuantiser("x", (len(weights),), Format(False, width, 0))
    layer = Dense("sum", ("x",), np.array([weights]), np.array([bias]), Format(True, 62, 0))
    return Graph((x, layer, Output("y", ("sum",))))


def test_the_widest_sum_is_exact_and_one_bit_more_is_refused() -> None:
    """Four times the limit is where int64 wraps: such a sum must be refused, not calculated."""
    graph = two(30, [2**29, 2**29], -(2**58))
    codes = np.array([[2**30 - 1, 2**30 - 1], [0, 0]])
    assert graph.run(codes)["y"].tolist() == [[2 * 2**29 * (2**30 - 1) - 2**58], [-(2**58)]]
    for weights, bias in (([2**30, 2**30], 0), ([2**30, -(2**30)], 0), ([2**29, -(2**29)], 2**60)):
        with pytest.raises(Unsupported, match=r"^layer sum: its sums may reach 2.31e\+18 and do not fit 62 bits; use fewer bits"):
            two(30, weights, bias)
    assert INT_LIMIT == 2**61


def test_a_shift_to_the_left_is_refused_where_it_would_wrap() -> None:
    def shifted(fraction: int) -> Graph:
        ops = (InputQuantiser("x", (1,), Format(False, 30, 0)), Requantise("r", ("x",), Format(False, 62, fraction), relu=False))
        return Graph((*ops, Output("y", ("r",))))

    assert shifted(31).run(np.array([[2**30 - 1]]))["y"].tolist() == [[(2**30 - 1) << 31]]
    with pytest.raises(Unsupported, match=r"^layer r: a left shift of ufixed<30,30> by 32 does not fit 62 bits; use a coarser"):
        shifted(32)


def test_a_sum_is_refused_where_its_alignment_would_wrap() -> None:
    def aligned(fraction: int) -> Graph:
        ops = (InputQuantiser("a", (1,), Format(False, 30, 0)), InputQuantiser("b", (1,), Format(False, 30, fraction)))
        return Graph((*ops, Add("sum", ("a", "b")), Output("y", ("sum",))))

    codes = {name: np.array([[2**30 - 1]]) for name in "ab"}
    assert aligned(30).run(codes)["y"].tolist() == [[((2**30 - 1) << 30) + 2**30 - 1]]
    with pytest.raises(Unsupported, match=r"^layer sum: its sums may reach 2.31e\+18 and do not fit 62 bits"):
        aligned(31)
    with pytest.raises(Unsupported, match=r"^layer sum: the scales of ufixed<30,30> and ufixed<30,-33> lie too far apart"):
        aligned(63)


def test_products_are_refused_where_they_would_wrap() -> None:
    def product_of(op: Op, shape: tuple[int, ...], width: int) -> Graph:
        return Graph((*(InputQuantiser(name, shape, Format(False, width, 0)) for name in "ab"), op, Output("y", ("r",))))

    top = {name: np.full((1, 1, 1), 2**30 - 1) for name in "ab"}
    assert product_of(Multiply("r", ("a", "b")), (1, 1), 30).run(top)["y"].tolist() == [[[(2**30 - 1) ** 2]]]
    with pytest.raises(Unsupported, match=r"^layer r: its sums may reach 4.61e\+18 and do not fit 62 bits"):
        product_of(Multiply("r", ("a", "b")), (1, 1), 31)
    four = {name: np.full((1, 4, 4), 2**29 - 1) for name in "ab"}
    assert set(product_of(MatMul("r", ("a", "b")), (4, 4), 29).run(four)["y"].flat) == {4 * (2**29 - 1) ** 2}
    with pytest.raises(Unsupported, match=r"^layer r: its sums may reach 4.61e\+18 and do not fit 62 bits"):
        product_of(MatMul("r", ("a", "b")), (4, 4), 30)


def test_a_table_must_hold_every_code() -> None:
    def looked_up(first: int, entries: int) -> Graph:
        values = np.arange(entries).reshape(1, -1)
        ops = (InputQuantiser("x", (2,), Format(True, 3, 0)), Table("r", ("x",), values, first, Format(False, 6, 0)))
        return Graph((*ops, Output("y", ("r",))))

    assert looked_up(-4, 8).tensors["r"].range == (0, 7)
    for first, entries in ((-3, 8), (-4, 7), (-5, 8)):
        with pytest.raises(Unsupported, match=rf"^layer r: its table starts at {first} and is too short for codes -4 to 3$"):
            looked_up(first, entries)


def test_a_tensor_that_is_too_large_is_refused() -> None:
    def sized(n: int) -> Graph:
        return Graph((InputQuantiser("x", (n,), Format(False, 1, 0)), Output("y", ("x",))))

    assert sized(MAX_ELEMENTS).tensors["y"].size == MAX_ELEMENTS == 2**24
    with pytest.raises(Unsupported, match=r"^layer x: a tensor of 16,777,217 elements is larger than the limit of 16,777,216$"):
        sized(MAX_ELEMENTS + 1)


def test_the_sums_of_a_softmax_are_refused_where_they_would_wrap() -> None:
    def weighted(exponentials: list[int], ratio: tuple[int, int]) -> Graph:
        op = Softmax("r", ("x",), np.array(exponentials), ratio, Format(False, 8, 8))
        return Graph((InputQuantiser("x", (4,), Format(False, 1, 0)), op, Output("y", ("r",))))

    weighted([2**28, 1], (2**32 - 1, 2**30 - 1))
    for exponentials, ratio in (([2**28, 1], (2**32, 1)), ([2**28, 1], (1, 2**30)), ([1, 2**28], (1, 2**30))):
        with pytest.raises(Unsupported, match=r"^layer r: 4 exponentials do not fit 62 bits; use fewer bits$"):
            weighted(exponentials, ratio)


# What is impossible


def graph_of(op: Op, *shapes: tuple[int, ...], fmt: Format = SMALL) -> Graph:
    """Return a network of one operation on inputs a, b, … of these shapes."""
    inputs = [InputQuantiser(name, shape, fmt) for name, shape in zip("ab", shapes, strict=False)]
    return Graph((*inputs, op, Output("y", (op.name,))))


def of_ones(*shape: int) -> Any:
    return np.ones(shape, dtype=np.int64)


IMPOSSIBLE: dict[str, tuple[Callable[[], Graph], str]] = {
    "Conv of another rank": (
        lambda: graph_of(Conv("r", ("a",), of_ones(2, 3, 1, 1), of_ones(2), SMALL), (3, 4)),
        "(3, H, W) expected, but (3, 4) given"),
    "Conv of a signal": (
        lambda: graph_of(Conv("r", ("a",), of_ones(2, 3, 1), of_ones(2), SMALL), (3, 4, 5)),
        "(3, W) expected, but (3, 4, 5) given"),
    "Conv of three axes": (
        lambda: graph_of(Conv("r", ("a",), of_ones(2, 3, 1, 1, 1), of_ones(2), SMALL), (3, 4)),
        "(3, D, H, W) expected, but (3, 4) given"),
    "Conv of other channels": (
        lambda: graph_of(Conv("r", ("a",), of_ones(4, 3, 1), of_ones(4), SMALL, groups=2), (3, 4)),
        "(6, W) expected, but (3, 4) given"),
    "Conv larger than its input": (
        lambda: graph_of(Conv("r", ("a",), of_ones(1, 1, 3), of_ones(1), SMALL, padding=(1, 0), dilation=(2,)), (1, 3)),
        "the kernel is larger than its padded input (1, 3)"),
    "Conv of too many columns": (
        lambda: graph_of(Conv("r", ("a",), of_ones(1, 1, 2**11), of_ones(1), SMALL, padding=(3072, 3072)), (1, 2**12)),
        "a tensor of 16,779,264 elements is larger than the limit of 16,777,216"),
    "Dense of other features": (
        lambda: graph_of(Dense("r", ("a",), of_ones(2, 3), of_ones(2), SMALL), (3, 2)), "(3) expected, but (3, 2) given"),
    "Dense of too many rows": (
        lambda: graph_of(Dense("r", ("a",), of_ones(9, 1), of_ones(9), SMALL), (2**21, 1)),
        "a tensor of 18,874,368 elements is larger than the limit of 16,777,216"),
    "Affine of another rank": (
        lambda: graph_of(Affine("r", ("a",), of_ones(3), of_ones(3), SMALL), (3, 1)),
        "constants (3) do not fit its input (3, 1)"),
    "Affine that would repeat": (
        lambda: graph_of(Affine("r", ("a",), of_ones(3, 2), of_ones(3, 2), SMALL), (3, 1)),
        "constants (3, 2) do not fit its input (3, 1)"),
    "Threshold of other channels": (
        lambda: graph_of(Threshold("r", ("a",), of_ones(2, 1), 0, 1, SMALL), (3,)), "constants (2) do not fit its input (3)"),
    "Table of other channels": (
        lambda: graph_of(Table("r", ("a",), of_ones(2, 16), -8, SMALL), (3,)), "constants (2) do not fit its input (3)"),
    "Add of other shapes": (
        lambda: graph_of(Add("r", ("a", "b")), (3, 2), (2, 2)), "shapes (3, 2) and (2, 2) do not fit together"),
    "Add of other ranks": (lambda: graph_of(Add("r", ("a", "b")), (2,), (2, 2)), "shapes (2) and (2, 2) do not fit together"),
    "Add that grows without end": (
        lambda: graph_of(Add("r", ("a", "b")), (2**13, 1), (1, 2**13)),
        "a tensor of 67,108,864 elements is larger than the limit of 16,777,216"),
    "Multiply of other shapes": (
        lambda: graph_of(Multiply("r", ("a", "b")), (3,), (2,)), "shapes (3) and (2) do not fit together"),
    "MatMul of vectors": (
        lambda: graph_of(MatMul("r", ("a", "b")), (3,), (3,)), "shapes (3) and (3) cannot be multiplied"),
    "MatMul of a vector": (
        lambda: graph_of(MatMul("r", ("a", "b")), (2, 3), (3,)), "shapes (2, 3) and (3) cannot be multiplied"),
    "MatMul of other sizes": (
        lambda: graph_of(MatMul("r", ("a", "b")), (2, 3), (2, 3)), "shapes (2, 3) and (2, 3) cannot be multiplied"),
    "MatMul of other stacks": (
        lambda: graph_of(MatMul("r", ("a", "b")), (2, 2, 3), (3, 3, 2)), "shapes (2, 1, 1) and (3, 1, 1) do not fit together"),
    "MatMul of too many terms": (
        lambda: graph_of(MatMul("r", ("a", "b")), (2**8, 2**9), (2**9, 2**8)),
        "a tensor of 33,554,432 elements is larger than the limit of 16,777,216"),
    "MatMul of stacks of too many terms": (
        lambda: graph_of(MatMul("r", ("a", "b")), (1, 2**4, 2**11), (1, 2**11, 2**10)),
        "a tensor of 33,554,432 elements is larger than the limit of 16,777,216"),
    "Requantise to no code": (
        lambda: graph_of(Requantise("r", ("a",), SMALL, relu=False, limits=(3, 2)), (1,)), "no code is left between 3 and 2"),
    "Requantise to no code of its format": (
        lambda: graph_of(Requantise("r", ("a",), SMALL, relu=False, limits=(9, 12)), (1,)), "no code is left between 9 and 7"),
    "Requantise to the left without end": (
        lambda: graph_of(Requantise("r", ("a",), Format(True, 4, 61), relu=False, limits=(0, 0)), (1,)),
        "a left shift of fixed<4,4> by 61 does not fit 62 bits; use a coarser scale"),
    "MaxPool of another rank": (
        lambda: graph_of(MaxPool("r", ("a",), (1, 1), (1, 1)), (3, 4)), "(C, H, W) expected, but (3, 4) given"),
    "MaxPool of a signal": (
        lambda: graph_of(MaxPool("r", ("a",), (1,), (1,)), (3, 4, 5)), "(C, W) expected, but (3, 4, 5) given"),
    "MaxPool larger than its input": (
        lambda: graph_of(MaxPool("r", ("a",), (2,), (1,), (3,)), (1, 3)), "the kernel (2,) is larger than its input (1, 3)"),
    "Reshape to other sizes": (
        lambda: graph_of(Reshape("r", ("a",), (4, 2)), (2, 3)), "(2, 3) cannot be reshaped to (4, 2)"),
    "Reshape to what is left over": (
        lambda: graph_of(Reshape("r", ("a",), (4, -1)), (2, 3)), "(2, 3) cannot be reshaped to (4, -1)"),
    "Reshape to two unknown sizes": (
        lambda: graph_of(Reshape("r", ("a",), (-1, -1)), (2, 3)), "(2, 3) cannot be reshaped to (-1, -1)"),
    "Reshape to nothing": (lambda: graph_of(Reshape("r", ("a",), ()), (1,)), "(1) cannot be reshaped to ()"),
    "Reshape to no element": (
        lambda: graph_of(Reshape("r", ("a",), (0, -1)), (2, 3)), "(2, 3) cannot be reshaped to (0, -1)"),
    "Reshape to a negative size": (
        lambda: graph_of(Reshape("r", ("a",), (-2, -3)), (2, 3)), "(2, 3) cannot be reshaped to (-2, -3)"),
    "Rearrange of other fractions": (
        lambda: Graph((InputQuantiser("a", (1,), SMALL), InputQuantiser("b", (1,), Format(True, 4, 2)),
                       Rearrange("r", ("b", "a"), np.arange(2)), Output("y", ("r",)))),
        "its inputs have different fractions [0, 2]"),
    "Rearrange of what is not there": (
        lambda: graph_of(Rearrange("r", ("a", "b"), np.array([0, 5])), (2,), (3,)), "takes element 5 of 5"),
    "Rearrange to nothing": (
        lambda: graph_of(Rearrange("r", ("a",), np.zeros((0,), np.int64)), (2,)), "a result of shape (0,) is not possible"),
    "the best none": (lambda: graph_of(TopK("r", ("a",), 0, True, "values"), (3,)), "the best 0 of 3 cannot be taken"),
    "the best of fewer": (lambda: graph_of(TopK("r", ("a",), 4, True, "values"), (3,)), "the best 4 of 3 cannot be taken"),
}  # fmt: skip


@pytest.mark.parametrize("case", IMPOSSIBLE)
def test_what_is_impossible_is_said_in_these_words(case: str) -> None:
    make, message = IMPOSSIBLE[case]
    with pytest.raises(Unsupported) as caught:
        make()
    assert str(caught.value) == f"layer r: {message}"


def test_what_is_just_possible_is_not_refused() -> None:
    """The neighbours of the refusals above."""
    widest = Conv("r", ("a",), of_ones(1, 1, 2**11), of_ones(1), SMALL, padding=(3072, 3071))
    assert graph_of(widest, (1, 2**12)).tensors["r"].shape == (1, 2**13)
    assert graph_of(Reshape("r", ("a",), (-1, 2)), (2, 3)).tensors["r"].shape == (3, 2)
    assert graph_of(Reshape("r", ("a",), (6, -1)), (2, 3)).tensors["r"].shape == (6, 1)
    assert graph_of(TopK("r", ("a",), 3, True, "values"), (3,)).tensors["r"].shape == (3,)
    assert graph_of(TopK("r", ("a",), 1, True, "values"), (3,)).tensors["r"].shape == (1,)
    assert graph_of(MaxPool("r", ("a",), (2,), (1,), (3,)), (1, 4)).tensors["r"].shape == (1, 1)
    assert graph_of(Requantise("r", ("a",), SMALL, relu=False, limits=(2, 2)), (1,)).tensors["r"].range == (2, 2)
    assert graph_of(Requantise("r", ("a",), Format(True, 62, 57), relu=False), (1,)).tensors["r"].range == (-(2**60), 7 << 57)


def test_a_square_is_never_negative_and_reaches_zero_only_where_its_root_does() -> None:
    ends = [(low, low + extent) for low in range(-3, 3) for extent in range(4)]
    weights, bias = (np.array([[part] for part in parts]) for parts in ([b - a for a, b in ends], [a for a, _ in ends]))
    ops = (InputQuantiser("a", (len(ends), 1), Format(False, 1, 0)), Affine("x", ("a",), weights, bias, SMALL))
    square = Graph((*ops, Multiply("r", ("x", "x")), Output("y", ("r",)))).tensors["r"]
    wanted = [[code * code for code in range(a, b + 1)] for a, b in ends]
    assert square.low.reshape(-1).tolist() == [min(row) for row in wanted]
    assert square.high.reshape(-1).tolist() == [max(row) for row in wanted]
    product_of = Graph(
        (*ops, Reshape("z", ("x",)), Reshape("same", ("z",), (-1, 1)), Multiply("r", ("x", "same")), Output("y", ("r",)))
    )
    every = [[a * b for a in ends_of for b in ends_of] for ends_of in ends]
    assert product_of.tensors["r"].low.reshape(-1).tolist() == [min(row) for row in every]


def test_ranges_of_wide_sums_are_exact() -> None:
    """Beyond 2**53 float64 would round them to even numbers."""
    top = 2**30 - 1
    for weights, low, high in (
        ([2**29 + 1, 2**28 + 1], 0, (2**29 + 2**28 + 2) * top),
        ([-(2**29) - 1, -(2**28) - 1], -(2**29 + 2**28 + 2) * top, 0),
        ([2**29 + 1, -(2**28) - 1], -(2**28 + 1) * top, (2**29 + 1) * top),
    ):
        assert two(30, weights, 1).tensors["sum"].range == (low + 1, high + 1)


def test_sums_are_refused_a_little_before_62_bits() -> None:
    """Bounds are summed in float64, so the last billionth is left out."""
    for part, refused in ((2e-9, False), (5e-10, True)):
        bias = int(2**61 * (1 - part))
        if refused:
            with pytest.raises(Unsupported, match=r"^layer sum: its sums may reach 2.31e\+18 and do not fit 62 bits"):
                two(1, [0], bias)
        else:
            assert two(1, [0], bias).run(np.array([[1]]))["y"].tolist() == [[bias]]


def test_shifts_to_the_left_stay_within_62_bits_even_of_nothing() -> None:
    bit = InputQuantiser("x", (1,), Format(False, 1, 0))
    nothing = Requantise("zero", ("x",), Format(False, 1, 0), relu=False, limits=(0, 0))

    def shifted(source: str, fraction: int) -> Graph:
        before = (bit, nothing) if source == "zero" else (bit,)
        return Graph((*before, Requantise("r", (source,), Format(False, 62, fraction), relu=False), Output("y", ("r",))))

    assert shifted("x", 60).tensors["r"].range == (0, 2**60)
    assert shifted("zero", 60).tensors["r"].range == (0, 0)
    for source in ("x", "zero"):
        with pytest.raises(Unsupported, match=r"^layer r: a left shift of ufixed<1,1> by 61 does not fit 62 bits; use a coarser"):
            shifted(source, 61)


@pytest.mark.parametrize("order", ["ab", "ba"])
def test_fractions_of_a_sum_lie_62_bits_apart_at_most(order: str) -> None:
    def of(fraction: int) -> str:
        formats = {"a": Format(True, 2, 0), "b": Format(True, 2, fraction)}
        inputs = [InputQuantiser(name, (1,), fmt) for name, fmt in formats.items()]
        with pytest.raises(Unsupported) as caught:
            Graph((*inputs, Add("r", (order[0], order[1])), Output("y", ("r",))))
        words = " and ".join(str(formats[name]) for name in order)
        return str(caught.value).replace(words, "both")

    assert of(62) == "layer r: its sums may reach 9.22e+18 and do not fit 62 bits; use fewer bits per weight or input"
    assert of(63) == "layer r: the scales of both lie too far apart to be added in 62 bits"


def test_a_choice_knows_its_format_and_range() -> None:
    """Numbers of elements need no sign; the values of the best lie between those of all lowest and all highest codes."""
    spread = Affine("spread", ("a",), np.array([[1, 2, 3, 4]]), np.array([[0, 40, -10, 3]]), Format(True, 8, 1))
    fine = Format(True, 4, 1)
    for k, largest, low, high in ((1, True, [24], [54]), (2, True, [24, -8], [54, 31]), (2, False, [-34, -29], [7, 11])):
        for part in ("values", "indices"):
            best = TopK("r", ("spread",), k, largest, part)
            tensor = Graph((InputQuantiser("a", (1, 4), fine), spread, best, Output("y", ("r",)))).tensors["r"]
            assert tensor.shape == (1, k)
            if part == "indices":
                assert (str(tensor.format), tensor.range, tensor.bound) == ("ufixed<2,2>", (0, 3), 3)
            else:
                assert tensor.format.fraction == 2
                assert (tensor.low.tolist(), tensor.high.tolist()) == ([low], [high])
