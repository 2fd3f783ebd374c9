"""Kernels where number types end: float32 and float64 leave out odd integers behind 2**24 and 2**53, and nobody is told."""

from fractions import Fraction

import numpy as np
import pytest
from brute_force import SUMS, exact_round, integers, terms, total
from edges import EDGES, at_the_edge, codes_at_the_edge

from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.kernels import TABLE_ENTRIES, exact_type, kernel, largest_array
from caloedge.compiler.ops import Conv, InputQuantiser, Op, Output, Rearrange, Requantise, Softmax, Threshold, TopK


@pytest.mark.parametrize("limit", EDGES.values(), ids=EDGES)
def test_sums_at_the_edge_of_a_number_type_are_exact(limit: int) -> None:
    graph = at_the_edge(limit)
    trace = graph.trace(codes_at_the_edge())
    for op in graph.ops:
        fractions = [graph.tensors[name].format.fraction for name in op.inputs]
        if isinstance(op, SUMS):
            wanted = total(terms(op, [integers(trace[name]) for name in op.inputs], fractions))
        elif isinstance(op, Requantise):
            shift = fractions[0] - op.format.fraction
            rounded = [exact_round(Fraction(code, 2**shift), op.rounding) for code in trace[op.inputs[0]].reshape(-1).tolist()]
            wanted = np.clip(np.array(rounded, dtype=object), op.low, op.high).reshape(trace[op.name].shape)
        else:
            continue
        assert trace[op.name].tolist() == wanted.tolist(), op.name


@pytest.mark.parametrize("limit", EDGES.values(), ids=EDGES)
@pytest.mark.parametrize(
    "name", ["affine", "dense", "conv", "cancelling", "cancelling_conv", "cancelling_product", "beside", "again", "eighth"]
)
def test_the_edge_is_passed_before_the_result(limit: int, name: str) -> None:
    """The networks of the test above prove nothing unless the narrower type is wrong for what is on the way."""
    graph = at_the_edge(limit)
    assert max(map(abs, graph.tensors[name].range)) < limit
    on_the_way = name if name != "eighth" else "cancelling"
    assert graph.tensors[on_the_way].bound >= limit


def test_a_number_type_holds_its_bound() -> None:
    for limit, types in ((2**24, (np.float32, np.float64)), (2**53, (np.float64, np.int64))):
        assert (exact_type(limit - 1), exact_type(limit)) == types
        if types[0] is np.float32:
            assert int(np.float32(limit - 1)) == limit - 1
            assert int(np.float32(limit + 1)) != limit + 1


def rounded(x: Format, **changes: object) -> Graph:
    return Graph((InputQuantiser("x", (1,), x), Requantise("r", ("x",), **changes), Output("y", ("r",))))  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "limit"), [(20, 2**26 - 1), (20, 2**24), (40, 2**55 - 1), (40, 2**53)])
def test_the_limits_of_a_rounding_are_exact(width: int, limit: int) -> None:
    """A limit that the codes' own float type does not hold would be another limit."""
    fmt = Format(False, 58, 18)
    graph = rounded(Format(False, width, 0), format=fmt, relu=False, limits=(0, limit))
    top = 2**width - 1
    assert graph.run(np.array([[top], [1]]))["y"].tolist() == [[min(top << 18, limit)], [1 << 18]]


@pytest.mark.parametrize("rounding", Rounding)
@pytest.mark.parametrize("shift", [1, 20, 30, 62, 63, 64, 65, 100, 200, 2000])
def test_a_shift_of_any_size_rounds_by_its_mode(rounding: Rounding, shift: int) -> None:
    graph = rounded(Format(True, 30, 0), format=Format(True, 30, -shift), relu=False, rounding=rounding)
    codes = [-(2**29), -(2**19) * 3, -3, -2, -1, 0, 1, 2, 3, 2**19 * 3, 2**29 - 1]
    wanted = [exact_round(Fraction(code, 2**shift), rounding) for code in codes]
    assert graph.run(np.array(codes)[:, None])["y"][:, 0].tolist() == wanted


@pytest.mark.parametrize("ratio", [(1, 1), (3, 1), (5, 1), (7, 2), (255, 1), (4, 3)])
def test_a_softmax_rounds_half_to_even(ratio: tuple[int, int]) -> None:
    """Equal scores share: with two or four of them every second ratio is a tie."""
    exponentials = np.array([4, 2, 1, 1])
    op = Softmax("r", ("x",), exponentials, ratio, Format(False, 12, 0))
    graph = Graph((InputQuantiser("x", (4,), Format(True, 3, 0)), op, Output("y", ("r",))))
    codes = np.array(np.meshgrid(*[range(-4, 4)] * 4)).reshape(4, -1).T
    for event, found in zip(codes.tolist(), graph.run(codes)["y"].tolist(), strict=True):
        each = [int(exponentials[max(event) - code]) if max(event) - code < 4 else 0 for code in event]
        assert found == [round(Fraction(ratio[0] * e, ratio[1] * sum(each))) for e in each]


def chosen(op: Op, codes: np.ndarray, width: int = 4) -> list:
    shape = codes.shape[1:]
    return Graph((InputQuantiser("x", shape, Format(True, width, 0)), op, Output("y", ("r",)))).run(codes)["y"].tolist()


def test_every_row_has_a_softmax_and_a_best_of_its_own() -> None:
    """Along the last axis: the sum and the order of one row must not reach into the next."""
    codes = np.random.default_rng(3).integers(-8, 8, (40, 2, 3, 4))
    exponentials = np.array([64, 32, 16, 8, 4, 2, 1])
    shares = chosen(Softmax("r", ("x",), exponentials, (255, 1), Format(False, 8, 0)), codes)
    for event, found in zip(codes.reshape(-1, 4).tolist(), np.reshape(shares, (-1, 4)).tolist(), strict=True):
        each = [int(exponentials[max(event) - code]) if max(event) - code < 7 else 0 for code in event]
        assert found == [round(Fraction(255 * e, sum(each))) for e in each]
    for largest in (True, False):
        order = [sorted(range(4), key=lambda i: (-row[i] if largest else row[i], i))[:3] for row in codes.reshape(-1, 4).tolist()]
        which = chosen(TopK("r", ("x",), 3, largest, "indices"), codes)
        assert np.reshape(which, (-1, 3)).tolist() == order
        best = chosen(TopK("r", ("x",), 3, largest, "values"), codes)
        assert np.reshape(best, (-1, 3)).tolist() == np.take_along_axis(codes.reshape(-1, 4), np.array(order), axis=1).tolist()


@pytest.mark.parametrize("fill", [-3, 2**30 + 1])
def test_elements_from_nowhere_are_filled(fill: int) -> None:
    """The filling code is exact, too: float32 would leave 2**30 + 1 out."""
    codes = np.arange(8).reshape(4, 2) - 4
    found = chosen(Rearrange("r", ("x",), np.array([[1, -1], [0, 1]]), fill), codes)
    assert found == [[[b, fill], [a, b]] for a, b in codes.tolist()]


@pytest.mark.parametrize("width", [8, 16, 17, 40])
def test_thresholds_count_the_same_as_a_table_and_one_by_one(width: int) -> None:
    """Up to 2**16 codes the counts are a table that is made once; beyond, each code is searched."""
    fmt = Format(True, width, 0)
    rng = np.random.default_rng(width)
    thresholds = np.sort(rng.integers(fmt.min_code, fmt.max_code, (3, 1, 9), endpoint=True))
    op: Op = Threshold("r", ("x",), thresholds, 5, -2, Format(True, 6, 0))
    graph = Graph((InputQuantiser("x", (3, 2), fmt), op, Output("y", ("r",))))
    codes = rng.integers(fmt.min_code, fmt.max_code, (90, 3, 2), endpoint=True)
    codes[:9] = thresholds.transpose(2, 0, 1)  # a code on its threshold counts
    codes[9:18] = np.maximum(thresholds.transpose(2, 0, 1) - 1, fmt.min_code)
    codes[18], codes[19] = fmt.min_code, fmt.max_code
    wanted = 5 - 2 * (codes[..., None] >= thresholds).sum(axis=-1)
    assert graph.run(codes)["y"].tolist() == wanted.tolist()
    assert (2**width <= TABLE_ENTRIES) == (width <= 16)


def test_an_input_has_no_kernel() -> None:
    graph = rounded(Format(False, 4, 0), format=Format(False, 4, 0), relu=False)
    with pytest.raises(AssertionError, match="the input has no kernel"):
        kernel(graph.input, graph.tensors)


def test_the_largest_array_of_a_convolution_is_that_of_its_columns() -> None:
    """Chunks of events are cut by it: 6 filters of 4 channels in 2 groups read 2 × 2 of 5 × 4 pixels at 12 positions."""
    x = InputQuantiser("x", (4, 5, 4), Format(True, 4, 0))
    for filters, groups, wanted in ((6, 2, 4 * 4 * 12), (60, 2, 60 * 12), (6, 1, 4 * 4 * 12)):
        weights = np.ones((filters, 4 // groups, 2, 2), np.int64)
        conv = Conv("conv", ("x",), weights, np.zeros(filters, np.int64), Format(True, 4, 0), groups=groups)
        graph = Graph((x, conv, Output("y", ("conv",))))
        assert largest_array(graph["conv"], graph.tensors) == wanted
        assert largest_array(graph["x"], graph.tensors) == 80
