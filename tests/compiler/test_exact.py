"""Random integer networks against an independent implementation in plain Python integers, compared with `==`."""

import math
from fractions import Fraction
from itertools import product
from typing import Any, assert_never

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Conv2D, Dense, Flatten, Graph, InputQuantiser, Op, Output, Requantise

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
        case Conv2D():
            return convolve(op, x)
        case Dense():
            rows = op.weights.tolist()
            return [sum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(rows, op.bias.tolist(), strict=True)]
        case Requantise():
            return apply(x, lambda code: requantise(op, code, fraction))
        case Flatten():
            return flat(x)
        case _:
            assert_never(op)


def convolve(op: Conv2D, x: Nested) -> Nested:
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


# Random networks


def integers(draw: Any, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    drawn = draw(st.lists(st.integers(low, high), min_size=size, max_size=size))
    return np.array(drawn, dtype=np.int64).reshape(shape)


@st.composite
def activations(draw: Any, fraction: int) -> Format:
    return Format(draw(st.booleans()), draw(st.integers(1, 14)), fraction - draw(st.integers(-2, 10)))


@st.composite
def graphs(draw: Any) -> Graph:
    """Draw an input, up to two convolutions, a flatten and up to two dense layers, with widths from 1 to 30 bits."""
    ops: list[Op] = []
    shape: tuple[int, ...] = (draw(st.integers(1, 2)), draw(st.integers(2, 5)), draw(st.integers(2, 5)))
    fmt = Format(draw(st.booleans()), draw(st.integers(1, 20)), draw(st.integers(-3, 8)))
    ops.append(InputQuantiser("x", shape, fmt, narrow=draw(st.booleans())))
    heads: list[str] = []

    def requantised(name: str, fraction: int) -> Format:
        last = ops[-1].name
        after = draw(activations(fraction))
        rounding = draw(st.sampled_from([Rounding.HALF_EVEN, Rounding.HALF_EVEN, Rounding.HALF_UP, Rounding.TRUNCATE]))
        ops.append(Requantise(name, (last,), after, draw(st.booleans()), draw(st.booleans()), rounding))
        return after

    for number in range(draw(st.integers(0, 2))):
        kernel = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        pads = tuple(draw(st.integers(0, 2)) for _ in range(4))
        stride = draw(st.integers(1, 2)), draw(st.integers(1, 3))
        height, width = shape[1] + pads[0] + pads[2] - kernel[0], shape[2] + pads[1] + pads[3] - kernel[1]
        assume(height >= 0 and width >= 0)
        weight = Format(True, draw(st.sampled_from([1, 2, 4, 8, 8, 30])), draw(st.integers(0, 8)))
        n_filters = draw(st.integers(1, 3))
        weights = integers(draw, weight.min_code, weight.max_code, (n_filters, shape[0], *kernel))
        bias = integers(draw, -(2**15), 2**15, (n_filters,))
        ops.append(Conv2D(f"conv{number}", (ops[-1].name,), weights, bias, weight, stride, pads))
        heads.append(ops[-1].name)
        fmt = requantised(f"act{number}", fmt.fraction + weight.fraction)
        shape = n_filters, height // stride[0] + 1, width // stride[1] + 1
    ops.append(Flatten("flat", (ops[-1].name,)))
    n_in = int(np.prod(shape))
    for number in range(draw(st.integers(1, 2))):
        weight = Format(True, draw(st.sampled_from([2, 6, 8, 20])), draw(st.integers(0, 8)))
        n_out = draw(st.integers(1, 3))
        weights = integers(draw, weight.min_code, weight.max_code, (n_out, n_in))
        bias = integers(draw, -(2**20), 2**20, (n_out,))
        ops.append(Dense(f"dense{number}", (ops[-1].name,), weights, bias, weight))
        fmt = requantised(f"head{number}", fmt.fraction + weight.fraction)
        n_in = n_out
    heads.append(ops[-1].name)
    return Graph((*ops, *(Output(f"out{number}", (name,)) for number, name in enumerate(heads))))


def stimulus(graph: Graph, seed: int, n_events: int) -> np.ndarray:
    """Return random codes, with the two extreme events first."""
    low, high = graph.tensors[graph.input.name].range
    codes = np.random.default_rng(seed).integers(low, high, (n_events, *graph.input.shape), endpoint=True)
    codes[0], codes[1] = low, high
    return codes


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
            Conv2D("conv", ("x",), rng.integers(-31, 32, (3, 1, 3, 3)), rng.integers(-500, 500, 3), weight, padding=(1, 0, 0, 1)),
            Requantise("relu", ("conv",), Format(False, 6, 0), relu=True),
            Flatten("flat", ("relu",)),
            Dense("dense", ("flat",), rng.integers(-31, 32, (2, 27)), rng.integers(-500, 500, 2), weight),
            Output("y", ("dense",)),
        )
    )


@pytest.mark.parametrize("change", ["one weight", "one bias", "rounding", "truncation"])
def test_a_corrupted_network_is_caught_by_the_same_comparison(change: str) -> None:
    graph = small()
    conv, codes = graph["conv"], stimulus(graph, 1, 200)
    assert isinstance(conv, Conv2D)
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
