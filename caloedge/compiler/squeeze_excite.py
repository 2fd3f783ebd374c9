"""Channel gates: where each channel of an image is multiplied by a factor computed from the sums of all channels.

That is squeeze-and-excitation (arXiv 1709.01507). Streaming hardware builds it as one part: pixels wait in a buffer until the
last of their event is summed.
"""

import math
from dataclasses import dataclass

import numpy as np

from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Affine, Conv, Dense, Multiply, Op, Requantise, Reshape, Table, Threshold

VECTOR_OPS = (Affine, Dense, Requantise, Table, Threshold, Reshape)


@dataclass(frozen=True, eq=False)
class Gate:
    """One channel gate of a graph."""

    source: str
    """The image (C, H, W) that is gated."""
    squeeze: tuple[Op, ...]
    """Operations that sum its pixels, in order; the last one's result has C elements: the sums, in the format of that tensor."""
    excite: tuple[Op, ...]
    """Operations that make factors of the sums, in order; the last one's result has C elements."""
    multiply: Multiply
    """Product of the image and the factors (C, 1, 1)."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all its operations."""
        return (*(op.name for op in (*self.squeeze, *self.excite)), self.multiply.name)


def gates(graph: Graph) -> tuple[Gate, ...]:
    """Return all channel gates of a graph, in order; what branches in any other way is not among them."""
    candidates = (_gate(graph, op) for op in graph.ops if isinstance(op, Multiply))
    return tuple(gate for gate in candidates if gate is not None)


def _gate(graph: Graph, multiply: Multiply) -> Gate | None:
    for source, factors in (multiply.inputs, multiply.inputs[::-1]):
        shape = graph.tensors[source].shape
        if len(shape) != 3 or graph.tensors[factors].shape != (shape[0], 1, 1) or len(graph.readers[source]) != 2:
            continue
        chain: list[Op] = []
        name = factors
        while name != source:
            op = graph[name]
            if len(graph.readers[name]) != 1 or not isinstance(op, (*VECTOR_OPS, Conv)):
                break
            chain.insert(0, op)
            (name,) = op.inputs
        else:
            for length in range(1, len(chain) + 1):
                if _sums(graph, source, tuple(chain[:length])) and _are_vectors(graph, tuple(chain[length:])):
                    return Gate(source, tuple(chain[:length]), tuple(chain[length:]), multiply)
    return None


def _sums(graph: Graph, source: str, ops: tuple[Op, ...]) -> bool:
    """Tell whether operations sum the pixels of each channel and do nothing else."""
    channels, *pixels = graph.tensors[source].shape
    *before, last = ops
    if not isinstance(last, Dense | Conv) or not (last.weights == 1).all() or last.bias.any():
        return False
    if graph.tensors[last.name].size != channels:
        return False
    if isinstance(last, Conv):
        covers_image = last.kernel == tuple(pixels) and not any(last.padding)
        return not before and last.groups == channels and covers_image
    reshaped = [op for op in before if isinstance(op, Reshape)]
    return len(reshaped) == len(before) and graph.tensors[last.inputs[0]].shape == (channels, math.prod(pixels))


def _are_vectors(graph: Graph, ops: tuple[Op, ...]) -> bool:
    """Tell whether operations work on one vector per event, so that reshaping it moves nothing."""
    return all(np.sum(np.array(graph.tensors[op.name].shape) > 1) <= 1 and not isinstance(op, Conv) for op in ops)
