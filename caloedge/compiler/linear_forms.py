"""What a tensor is as sums of other tensors' elements: passes prove with it what a part of a network calculates."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caloedge.compiler.fixed import Codes
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Add, Affine, Dense, Op, Rearrange, Requantise, Reshape
from caloedge.compiler.ranges import Tensor

MAX_SUM = 64
"""Dense layers with more inputs are not taken apart."""
MAX_ELEMENTS = 2**22
"""Larger tensors are not taken apart."""

Places = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Term:
    """One summand: weights * codes of an operation's elements at flat `places`, both of the tensor's shape."""

    op: str
    weights: Codes
    places: Places


@dataclass(frozen=True, eq=False)
class LinearForm:
    """The codes of a tensor: constant + sum of terms, exactly."""

    constant: Codes
    terms: tuple[Term, ...]


def linear_form(graph: Graph, name: str) -> LinearForm:
    """Take a tensor apart into sums, down to what is neither a sum nor a move."""
    op, tensor = graph[name], graph.tensors[name]
    shape = tensor.shape
    if tensor.size <= MAX_ELEMENTS:
        match op:
            case Affine():
                return _mapped(linear_form(graph, op.inputs[0]), lambda x: x, op.weights, op.bias)
            case Add():
                parts = []
                for source in op.inputs:
                    factor = 1 << tensor.format.fraction - graph.tensors[source].format.fraction
                    part = linear_form(graph, source)
                    parts.append(_mapped(part, lambda x: np.broadcast_to(x, shape), np.int64(factor), np.int64(0)))
                return LinearForm(parts[0].constant + parts[1].constant, parts[0].terms + parts[1].terms)
            case Reshape():
                return _mapped(linear_form(graph, op.inputs[0]), lambda x: x.reshape(shape))
            case Rearrange() if len(op.inputs) == 1 and op.index.min() >= 0:
                return _mapped(linear_form(graph, op.inputs[0]), lambda x: x.reshape(-1)[op.index])
            case Dense() if op.weights.shape[1] <= MAX_SUM:
                return _dense(graph, op)
            case _:
                pass
    return LinearForm(np.zeros(shape, np.int64), (Term(name, np.ones(shape, np.int64), np.arange(tensor.size).reshape(shape)),))


def _mapped(
    form: LinearForm,
    move: Callable[[Codes], Codes],
    weights: Codes | np.int64 = np.int64(1),  # noqa: B008
    bias: Codes | np.int64 = np.int64(0),  # noqa: B008
) -> LinearForm:
    """Return the form with its elements moved, then multiplied by weights and with a bias added."""
    terms = tuple(Term(term.op, move(term.weights) * weights, move(term.places)) for term in form.terms)
    return LinearForm(move(form.constant) * weights + bias, terms)


def _dense(graph: Graph, op: Dense) -> LinearForm:
    form = linear_form(graph, op.inputs[0])
    shape = graph.tensors[op.name].shape
    constant, terms = form.constant @ op.weights.T + op.bias, []
    for k in range(op.weights.shape[1]):
        for term in form.terms:
            places = np.broadcast_to(term.places[..., k, None], shape)
            terms.append(Term(term.op, term.weights[..., k, None] * op.weights[:, k], places))
    return LinearForm(constant, tuple(terms))


def origin(op_of: Callable[[str], Op], tensors: Mapping[str, Tensor], name: str) -> tuple[str, Places]:
    """Return the operation whose codes a chain of moves shows, and the flat place in it of each element."""
    places = np.arange(tensors[name].size).reshape(tensors[name].shape)
    while True:
        op = op_of(name)
        if isinstance(op, Rearrange) and len(op.inputs) == 1 and op.index.min() >= 0:
            places = op.index.reshape(-1)[places]
        elif not isinstance(op, Reshape):
            return name, places
        (name,) = op.inputs


def clipped(graph: Graph, name: str) -> tuple[str, int, int]:
    """Return what a chain of limits reads, and the lowest and highest code that it leaves: y = min(max(x, low), high)."""
    low, high = -math.inf, math.inf
    while isinstance(op := graph[name], Requantise) and graph.tensors[op.inputs[0]].format.fraction == op.format.fraction:
        # What comes out later was limited to [low, high] there; limits before it go in first.
        low, high = min(max(op.low, low), high), max(min(op.high, high), low)
        (name,) = op.inputs
    least, most = graph.tensors[name].range
    return name, least if low == -math.inf else int(low), int(min(high, most))
