"""Random integer networks over the whole op set, for tests that compare executors."""

from typing import Any

import numpy as np
from hypothesis import assume
from hypothesis import strategies as st

from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Conv, Dense, InputQuantiser, MaxPool, Op, Output, Requantise, Reshape


def integers(draw: Any, low: int, high: int, shape: tuple[int, ...]) -> np.ndarray:
    size = int(np.prod(shape))
    drawn = draw(st.lists(st.integers(low, high), min_size=size, max_size=size))
    return np.array(drawn, dtype=np.int64).reshape(shape)


@st.composite
def activations(draw: Any, fraction: int) -> Format:
    return Format(draw(st.booleans()), draw(st.integers(1, 14)), fraction - draw(st.integers(-2, 10)))


@st.composite
def graphs(draw: Any) -> Graph:
    """Draw an input, up to two convolutions with max pools, a flatten and up to two dense layers, of 1 to 30 bits."""
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

    def pooled(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        if max(shape[1:]) < 2 or not draw(st.booleans()):
            return shape
        kernel = draw(st.integers(1, min(3, shape[1]))), draw(st.integers(1, min(3, shape[2])))
        stride = draw(st.integers(1, 3)), draw(st.integers(1, 3))
        ops.append(MaxPool(name, (ops[-1].name,), kernel, stride))
        return shape[0], (shape[1] - kernel[0]) // stride[0] + 1, (shape[2] - kernel[1]) // stride[1] + 1

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
        ops.append(Conv(f"conv{number}", (ops[-1].name,), weights, bias, weight, stride, pads))
        heads.append(ops[-1].name)
        shape = n_filters, height // stride[0] + 1, width // stride[1] + 1
        if draw(st.integers(0, 3)) == 0:  # rarely before the rounding: such sums may need any number type
            shape = pooled(f"sums{number}", shape)
        fmt = requantised(f"act{number}", fmt.fraction + weight.fraction)
        shape = pooled(f"pool{number}", shape)
    ops.append(Reshape("flat", (ops[-1].name,)))
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
