"""Random integer networks against an independent implementation in plain Python integers, compared with `==`."""

import math
from fractions import Fraction
from itertools import product
from typing import Any, assert_never

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_networks import graphs, integers, stimulus

from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Conv, Dense, InputQuantiser, MaxPool, Op, Output, Requantise, Reshape

Nested = Any


def reference(graph: Graph, event: Nested) -> dict[str, Nested]:
    """Run one event with nested lists, loops and rational numbers; nothing is shared with the package's arithmetic."""
    values: dict[str, Nested] = {}
    for op in graph.ops:
        source = values[op.inputs[0]] if op.inputs else event
        fraction = graph.tensors[op.inputs[0]].format.fraction if op.inputs else 0
        values[op.name] = step(op, source, fraction)
    return values


def step(op: Op, x: Nested, fraction: int) -> Nested:
    match op:
        case InputQuantiser() | Output():
            return x
        case Conv():
            return convolve(op, x)
        case Dense():
            rows = op.weights.tolist()
            return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(rows, op.bias.tolist(), strict=True)]
        case Requantise():
            return apply(x, lambda code: requantise(op, code, fraction))
        case MaxPool():
            return [pool(op, channel) for channel in x]
        case Reshape():
            return flat(x)
        case _:
            assert_never(op)


def convolve(op: Conv, x: Nested) -> Nested:
    weights, bias = op.weights.tolist(), op.bias.tolist()
    top, left, bottom, right = op.padding
    n_channels, height, width = len(x), len(x[0]), len(x[0][0])
    kernel_h, kernel_w = len(weights[0][0]), len(weights[0][0][0])
    out_h = (height + top + bottom - kernel_h) // op.stride[0] + 1
    out_w = (width + left + right - kernel_w) // op.stride[1] + 1

    def at(f: int, i: int, j: int) -> int:
        total = bias[f]
        for c, k, m in product(range(n_channels), range(kernel_h), range(kernel_w)):
            row, column = i * op.stride[0] + k - top, j * op.stride[1] + m - left
            if 0 <= row < height and 0 <= column < width:
                total += weights[f][c][k][m] * x[c][row][column]
        return total

    return [[[at(f, i, j) for j in range(out_w)] for i in range(out_h)] for f in range(len(bias))]


def pool(op: MaxPool, x: Nested) -> Nested:
    tops = range(0, len(x) - op.kernel[0] + 1, op.stride[0])
    lefts = range(0, len(x[0]) - op.kernel[1] + 1, op.stride[1])
    return [[max(code for row in x[i : i + op.kernel[0]] for code in row[j : j + op.kernel[1]]) for j in lefts] for i in tops]


def requantise(op: Requantise, code: int, fraction: int) -> int:
    value = Fraction(max(code, 0) if op.relu else code) * Fraction(2) ** (op.format.fraction - fraction)
    match op.rounding:
        case Rounding.HALF_EVEN:
            rounded = round(value)
        case Rounding.HALF_UP:
            rounded = math.floor(value + Fraction(1, 2))
        case Rounding.TRUNCATE:
            rounded = math.floor(value)
    top = 2 ** (op.format.width - op.format.signed) - 1
    bottom = -top - (not op.narrow) if op.format.signed else 0
    return min(max(rounded, bottom), top)


def apply(x: Nested, function: Any) -> Nested:
    return [apply(item, function) for item in x] if isinstance(x, list) else function(x)


def flat(x: Nested) -> list[int]:
    return [code for item in x for code in flat(item)] if isinstance(x, list) else [x]


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(graphs(), st.integers(0, 2**32 - 1))
def test_every_tensor_equals_the_reference_and_stays_in_its_range(graph: Graph, seed: int) -> None:
    codes = stimulus(graph, seed, 4)
    trace = graph.trace(codes)
    for number, event in enumerate(codes.tolist()):
        expected = reference(graph, event)
        for name, found in trace.items():
            assert found[number].tolist() == expected[name], name
            assert (graph.tensors[name].low <= found[number]).all()
            assert (found[number] <= graph.tensors[name].high).all()
            fmt = graph.tensors[name].format
            assert fmt.min_code <= graph.tensors[name].low.min()
            assert graph.tensors[name].high.max() <= fmt.max_code
    for name, found in graph.run(codes).items():
        np.testing.assert_array_equal(found, trace[name])


def small() -> Graph:
    rng = np.random.default_rng(7)
    weight = Format(True, 6, 5)
    return Graph(
        (
            InputQuantiser("x", (1, 4, 4), Format(False, 8, 3)),
            Conv("conv", ("x",), rng.integers(-31, 32, (3, 1, 3, 3)), rng.integers(-500, 500, 3), weight, padding=(1, 0, 0, 1)),
            Requantise("relu", ("conv",), Format(False, 6, 0), relu=True),
            Reshape("flat", ("relu",)),
            Dense("dense", ("flat",), rng.integers(-31, 32, (2, 27)), rng.integers(-500, 500, 2), weight),
            Output("y", ("dense",)),
        )
    )


def test_a_corrupted_max_pool_is_caught_by_the_same_comparison() -> None:
    graph = Graph(
        (
            InputQuantiser("x", (2, 5, 6), Format(True, 4, 1)),
            MaxPool("pool", ("x",), kernel=(2, 3), stride=(2, 2)),
            Output("y", ("pool",)),
        )
    )
    codes = stimulus(graph, 3, 100)
    expected = [reference(graph, event)["y"] for event in codes.tolist()]
    assert graph.run(codes)["y"].tolist() == expected
    assert graph.tensors["y"].shape == (2, 2, 2)
    for changes in ({"kernel": (2, 2)}, {"kernel": (1, 3)}, {"stride": (2, 3)}):
        assert graph.replacing("pool", **changes).run(codes)["y"].tolist() != expected, changes
    unsigned = np.where(codes < 0, codes + 16, codes)  # compared without their sign bit
    assert reference(graph, unsigned[5].tolist())["y"] != expected[5]


@pytest.mark.parametrize("change", ["one weight", "one bias", "rounding", "truncation"])
def test_a_corrupted_network_is_caught_by_the_same_comparison(change: str) -> None:
    graph = small()
    conv, codes = graph["conv"], stimulus(graph, 1, 200)
    assert isinstance(conv, Conv)
    weights, bias = conv.weights.copy(), conv.bias.copy()
    weights[1, 0, 2, 2] += 1
    bias[2] += 1
    match change:
        case "one weight":
            corrupted = graph.replacing("conv", weights=weights)
        case "one bias":
            corrupted = graph.replacing("conv", bias=bias)
        case "rounding":
            corrupted = graph.replacing("relu", rounding=Rounding.HALF_UP)
        case _:
            corrupted = graph.replacing("relu", rounding=Rounding.TRUNCATE)
    expected = [reference(graph, event)["y"] for event in codes.tolist()]
    assert graph.run(codes)["y"].tolist() == expected
    assert corrupted.run(codes)["y"].tolist() != expected
    trace, other = graph.trace(codes), corrupted.trace(codes)
    first = next(name for name in trace if (trace[name] != other[name]).any())
    assert first == ("relu" if change in ("rounding", "truncation") else "conv")


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_ranges_of_the_first_sums_are_attained(data: Any) -> None:
    """Every input of two bits is tried: the proven bounds must be met exactly, not only kept."""
    weights = integers(data.draw, -8, 7, (2, 4))
    bias = integers(data.draw, -20, 20, (2,))
    fmt = Format(data.draw(st.booleans()), 2, 0)
    graph = Graph(
        (
            InputQuantiser("x", (4,), fmt),
            Dense("dense", ("x",), weights, bias, Format(True, 4, 0)),
            Requantise("act", ("dense",), Format(True, 5, -1), relu=False),
            Output("y", ("act",)),
        )
    )
    every = np.array(list(product(range(fmt.min_code, fmt.max_code + 1), repeat=4)))
    trace = graph.trace(every)
    for name in ("dense", "act"):
        np.testing.assert_array_equal(graph.tensors[name].low, trace[name].min(axis=0))
        np.testing.assert_array_equal(graph.tensors[name].high, trace[name].max(axis=0))
