"""Sums of products term by term in Python's own integers, the inputs that drive them to their ends, and rounding by definition.

Axes: every array begins with the event axis.
"""

import math
from fractions import Fraction
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.compiler.fixed import Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Add, Affine, Conv, Dense, MatMul, Multiply, Op, Reshape

Integers = NDArray[Any]
"""Of Python integers: no width, no rounding."""
SUMS = (Conv, Dense, Affine, Add, Multiply, MatMul)


def integers(codes: Any) -> Integers:
    """Return codes as Python integers."""
    return np.asarray(codes).astype(object)


def terms(op: Op, inputs: list[Integers], fractions: list[int]) -> list[Integers]:
    """Return the terms that an operation adds up to its result, each of the result's shape."""
    match op:
        case Conv():
            return _terms_of_conv(op, inputs[0])
        case Dense():
            weights = integers(op.weights)
            found = [inputs[0][..., k, None] * weights[:, k] for k in range(weights.shape[1])]
            return [*found, np.broadcast_to(integers(op.bias), found[0].shape)]
        case Affine():
            scaled = inputs[0] * integers(op.weights)
            return [scaled, np.broadcast_to(integers(op.bias), scaled.shape)]
        case Add():
            finest = max(fractions)
            a, b = (x * 2 ** (finest - fraction) for x, fraction in zip(inputs, fractions, strict=True))
            shape = np.broadcast_shapes(a.shape, b.shape)
            return [np.broadcast_to(x, shape) for x in (a, b)]
        case Multiply():
            return [inputs[0] * inputs[1]]
        case MatMul():
            a, b = inputs
            return [a[..., :, k, None] * b[..., None, k, :] for k in range(a.shape[-1])]
        case _:
            raise AssertionError(f"{op.name} adds nothing up")


def _terms_of_conv(op: Conv, x: Integers) -> list[Integers]:
    axes, filters, groups = len(op.kernel), len(op.weights), op.groups
    padded = np.pad(x, ((0, 0), (0, 0), *((op.padding[i], op.padding[axes + i]) for i in range(axes))), constant_values=0)
    sizes = [
        (size - (kernel - 1) * gap - 1) // step + 1
        for size, kernel, gap, step in zip(padded.shape[2:], op.kernel, op.dilation, op.stride, strict=True)
    ]
    found = []
    for channel in range(op.weights.shape[1]):
        seen = padded[:, [f // (filters // groups) * op.weights.shape[1] + channel for f in range(filters)]]
        for position in product(*map(range, op.kernel)):
            part = seen
            for axis, (k, gap, step, size) in enumerate(zip(position, op.dilation, op.stride, sizes, strict=True)):
                part = np.take(part, [k * gap + step * i for i in range(size)], axis=2 + axis)
            found.append(part * integers(op.weights[(slice(None), channel, *position)]).reshape(-1, *(1,) * axes))
    return [*found, np.broadcast_to(integers(op.bias).reshape(-1, *(1,) * axes), found[0].shape)]


def total(parts: list[Integers]) -> Integers:
    """Return the sum of terms."""
    return np.sum(np.stack(parts), axis=0)


def magnitude(parts: list[Integers]) -> Integers:
    """Return the sum of the terms' magnitudes: no partial sum in any order is larger."""
    return total([abs(part) for part in parts])


def extremes(op: Conv | Dense | Affine, low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.int64]:
    """Return the inputs that drive each element of the result to its lowest and highest code, and its terms to their largest.

    `low` and `high` are of the input's shape; the events are those of the lowest codes, then the highest, then the largest terms,
    each in the order of the result's elements.
    """
    size = low.size
    probes = integers(np.concatenate([np.eye(size, dtype=np.int64), np.zeros((1, size), np.int64)])).reshape(-1, *low.shape)
    answers = total(terms(op, [probes], [0])).reshape(size + 1, -1)
    factors_OI = (answers[:-1] - answers[-1]).T
    low, high = low.reshape(1, -1), high.reshape(1, -1)
    largest = np.where(abs(low) > abs(high), low, high)
    lowest, highest = np.where(factors_OI > 0, low, high), np.where(factors_OI > 0, high, low)
    events = np.concatenate([lowest, highest, np.broadcast_to(largest, lowest.shape)])
    return events.astype(np.int64).reshape(-1, *probes.shape[1:])


def extreme_codes(graph: Graph) -> NDArray[np.int64]:
    """Return input codes (N, *shape) that drive the first sums of a chain to their ends."""
    first = next(op for op in graph.ops if isinstance(op, Conv | Dense | Affine))
    source = graph[first.inputs[0]]
    while isinstance(source, Reshape):
        source = graph[source.inputs[0]]
    assert source is graph.input, f"layer {first.name} does not read the input"
    x = graph.tensors[first.inputs[0]]
    return extremes(first, x.low, x.high).reshape(-1, *graph.input.shape)


def exact_round(value: Fraction, rounding: Rounding) -> int:
    """Round a rational number by definition, without any bit trick."""
    match rounding:
        case Rounding.HALF_EVEN:
            return round(value)
        case Rounding.HALF_UP:
            return math.floor(value + Fraction(1, 2))
        case Rounding.TRUNCATE:
            return math.floor(value)
        case Rounding.CEILING:
            return math.ceil(value)
        case Rounding.TO_ZERO:
            return math.trunc(value)
        case Rounding.FROM_ZERO:
            return math.ceil(value) if value > 0 else math.floor(value)
        case Rounding.HALF_TO_ZERO:
            return math.ceil(value - Fraction(1, 2)) if value > 0 else math.floor(value + Fraction(1, 2))
        case Rounding.HALF_FROM_ZERO:
            return math.floor(value + Fraction(1, 2)) if value > 0 else math.ceil(value - Fraction(1, 2))
