"""The layers of the RTL backend, executed word by word as their fields say: what streams do, without Verilog."""

import numpy as np

from caloedge.backends.rtl.epilogue import After, Scaled
from caloedge.backends.rtl.layers import RtlLayer, input_order, layers_of, padded_shape, window_size
from caloedge.compiler.fixed import Codes, Rounding, saturate, shift_right
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Conv, Dense, MaxPool, Table, Threshold


def run_layers(graph: Graph, codes: Codes) -> Codes:
    """Return what layers make of codes (N, *shape) of a graph's only input."""
    layers = layers_of(graph)
    order = input_order(graph, layers[0])
    found = np.array([_chain(layers, event[order]) for event in codes.reshape(len(codes), -1)])
    elements = np.empty_like(found)
    elements[:, layers[-1].result_order] = found
    (output,) = graph.outputs
    return elements.reshape(len(codes), *graph.tensors[output.name].shape)


def _chain(layers: tuple[RtlLayer, ...], words: Codes) -> Codes:
    for layer in layers:
        assert len(words) == layer.source.size
        words = _sums(layer, words)
        assert len(words) == layer.sums.size
        for step in layer.after:
            words = _after(step, words)
        assert len(words) == layer.result.size
    return words


def _sums(layer: RtlLayer, words: Codes) -> Codes:
    match layer.op:
        case None:
            return words
        case Dense(bias=bias):
            return np.asarray(layer.weights @ words + bias)
        case Conv(bias=bias):
            return np.concatenate([layer.weights @ window.reshape(-1) + bias for window in _windows(layer, words)])
        case MaxPool():
            return np.concatenate([window.max(axis=(0, 1)) for window in _windows(layer, words)])
        case Table(first=first):
            return layer.rows[np.arange(len(words)), words - first]
        case Threshold(base=base, step=step):
            return np.asarray(base + step * (words[:, None] >= layer.rows).sum(axis=1))
    assert layer.excitation is not None
    pixels = words.reshape(layer.positions, -1)
    return np.asarray(pixels * _chain(layer.inner, pixels.sum(axis=0))).reshape(-1)


def _windows(layer: RtlLayer, words: Codes) -> list[Codes]:
    """Return the words (row, column, channel) that each position reads."""
    assert isinstance(layer.op, Conv | MaxPool)
    channels, height, width = layer.source.shape
    image = np.zeros((*padded_shape(layer), channels), dtype=np.int64)
    top, left, *_ = layer.op.padding if isinstance(layer.op, Conv) else (0, 0)
    image[top : top + height, left : left + width] = words.reshape(height, width, channels)
    (rows, columns), (down, right), (below, beside) = window_size(layer.op), layer.op.stride, layer.op.dilation
    found = [
        image[i : i + rows : below, j : j + columns : beside]
        for i in range(0, len(image) - rows + 1, down)
        for j in range(0, image.shape[1] - columns + 1, right)
    ]
    assert len(found) == layer.positions
    return found


def _after(step: After, words: Codes) -> Codes:
    if isinstance(step, Scaled):
        return np.asarray(words * step.weights + step.bias)
    if step.offsets is None:
        words = shift_right(words, step.shift, step.rounding)
    else:
        words = shift_right(words + np.where(words < 0, *step.offsets), step.shift, Rounding.TRUNCATE)
    op = step.op
    if step.limited:
        return saturate(words, op.low, op.high)
    lowest = 0 if op.relu else op.format.min_code + int(op.narrow and op.format.signed)
    return saturate(words, lowest, op.format.max_code)
