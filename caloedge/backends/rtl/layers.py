"""From the integer graph to layers in order: a matrix product, max pool, table or gate with the steps that follow it.

`order` says which element of the graph's tensor each word of a stream is: images travel pixel by pixel, row by row, all
channels of a pixel together.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from caloedge.backends.rtl.epilogue import MOST_SHIFT, After, Rounded, Scaled
from caloedge.backends.rtl.tables import TABLE_ENTRIES, THRESHOLDS
from caloedge.compiler.fixed import Codes, Format
from caloedge.compiler.graph import Graph
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
from caloedge.compiler.ranges import Tensor
from caloedge.compiler.squeeze_excite import Gate, gates
from caloedge.compiler.unsupported import CURE, one_input, refusal, refusal_of_kind
from caloedge.errors import Unsupported

NAME = "rtl"
LUT_PER_BIT_OPERATION = 0.6
"""LUTs per effective bit operation, unrolled: yosys netlists of the shipped 8- and 6-bit networks gave 0.53 and 0.65."""


@dataclass(frozen=True, eq=False)
class Excitation:
    """Layers that make a gate's factors, with one vector of an element per channel at both ends."""

    sums: Format
    layers: tuple["RtlLayer", ...]
    factors: Format


@dataclass(frozen=True, eq=False)
class RtlLayer:
    """A matrix product, max pool, table or gate with the steps that follow it; only these when `op` is None.

    Signals of one axis are images of one row.
    """

    name: str
    op: Conv | Dense | MaxPool | Table | Threshold | Gate | None
    after: tuple[After, ...]
    source: Tensor
    sums: Tensor
    """Result before the steps."""
    result: Tensor
    """Result behind the steps, in the shape of `sums`."""
    order: NDArray[np.int64]
    """Stream order of the input's elements."""
    result_order: NDArray[np.int64]
    """Stream order of the result's elements."""
    rows: Codes = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    """Entries of a table or thresholds (words, entries): one row for each word of an event, in stream order."""
    excitation: Excitation | None = None
    """Excitation of a gate; None of all other layers."""

    @property
    def positions(self) -> int:
        """Number of times that the kernel is applied per event; pixels of a gate."""
        return math.prod(self.sums.shape[1:]) if isinstance(self.op, Conv | MaxPool | Gate) else 1

    @property
    def inner(self) -> tuple["RtlLayer", ...]:
        """The layers of a gate's excitation."""
        return self.excitation.layers if self.excitation else ()

    @property
    def needs_whole_event(self) -> bool:
        """Whether constants differ from pixel to pixel, so that they need the event in one beat."""
        channels = self.sums.shape[0] if len(self.sums.shape) == 3 else self.sums.size
        constants = [part for step in self.after if isinstance(step, Scaled) for part in (step.weights, step.bias)]
        return not all(repeats(part, channels) for part in [*constants, *([self.rows] if self.rows.size else [])])

    @property
    def weights(self) -> Codes:
        """(outputs, inputs) in stream order: (row, column, channel) of a kernel, or the words of an event."""
        match self.op:
            case Conv():
                return ungrouped(self.op).transpose(0, 2, 3, 1).reshape(len(self.op.weights), -1)
            case Dense():
                return self.op.weights[:, self.order]
            case MaxPool() | Table() | Threshold() | Gate() | None:
                raise AssertionError("max pools, tables, gates and requantisations have no weights")
            case _:
                assert_never(self.op)

    @property
    def estimated_lut(self) -> int:
        """Estimate of what the unrolled layer costs; without multipliers, so all of it is LUTs."""
        scaled = [step for step in self.after if isinstance(step, Scaled)]
        bits = self.source.format.width - int(self.source.format.signed)
        more = sum(round(LUT_PER_BIT_OPERATION * span(step.weights) * self.sums.format.width) for step in scaled)
        match self.op:
            case None:
                return self.result.size * self.source.format.width + more
            case Table() | Threshold():  # a table of 6 address bits is one LUT for each bit of the result
                entries = int(self.rows.shape[1])
                return self.result.size * self.result.format.width * max(entries // 64, 1) + more
            case MaxPool():  # each comparison is a carry chain and a choice, bit by bit
                return (math.prod(self.op.kernel) - 1) * 2 * self.source.format.width * self.result.size + more
            case Gate():  # an adder and a multiplier for each element
                assert self.excitation
                return self.source.size * self.source.format.width * (1 + self.excitation.factors.width) + more
            case Conv() | Dense():
                return round(LUT_PER_BIT_OPERATION * span(self.op.weights) * self.positions * bits) + more
            case _:
                assert_never(self.op)


def span(weights: Codes) -> int:
    """Return the sum of the bits of weights from their highest to their lowest set bit."""
    magnitude = np.abs(weights)
    return int(np.frexp((magnitude // np.maximum(magnitude & -magnitude, 1)).astype(np.float64))[1].sum())


def repeats(constants: Codes, words: int) -> bool:
    """Tell whether constants of all words of an event (words, …) are the same for every beat of `words`."""
    beats = constants.reshape(-1, words, *constants.shape[1:])
    return bool((beats == beats[0]).all())


def ungrouped(op: Conv) -> Codes:
    """Return weights (F, C, *kernel) with zeros between the groups."""
    filters, channels = len(op.weights) // op.groups, op.weights.shape[1]
    weights = np.zeros((len(op.weights), channels * op.groups, *op.kernel), dtype=np.int64)
    for group in range(op.groups):
        mine = slice(group * filters, (group + 1) * filters)
        weights[mine, group * channels : (group + 1) * channels] = op.weights[mine]
    return weights


def layers_of(graph: Graph) -> tuple[RtlLayer, ...]:
    """Group a graph into layers; raise `Unsupported` for what this backend cannot build."""
    entry = one_input(graph, NAME)
    if len(entry.shape) > 3:
        raise Unsupported(
            f"layer {entry.name}: an input of shape {entry.shape}; backend 'rtl' takes (F,), (C, L) and (C, H, W), {CURE}"
        )
    gate_of = {gate.multiply.name: gate for gate in gates(graph)}
    inside = {name for gate in gate_of.values() for name in gate.names}.difference(gate_of)
    ops = [op for op in graph.ops if op.name not in inside]
    layers, order = _chain(ops, graph, gate_of, stream_order(entry.shape))
    if len(graph.outputs) != 1:
        raise Unsupported(f"output {graph.outputs[1].name}: backend 'rtl' takes one output, {CURE}")
    # The last result may have been renamed: what leaves is what the output's elements are.
    return (*layers[:-1], replace(layers[-1], result_order=order))


def input_order(graph: Graph, first: RtlLayer) -> NDArray[np.int64]:
    """Return the element of the graph's input that each word of its stream is: that the first layer takes in order.

    What is only rearranged before the first layer costs nothing but another order at the port.
    """
    origin = np.arange(math.prod(graph.input.shape))
    for op in graph.ops:
        if isinstance(op, Rearrange):
            origin = origin[op.index.reshape(-1)]
        elif not isinstance(op, InputQuantiser | Reshape):
            break
    return origin[first.order]


def flat_layers(layers: Iterable[RtlLayer]) -> tuple[RtlLayer, ...]:
    """Return layers in order, those of a gate's excitation behind the gate."""
    return tuple(member for layer in layers for member in (layer, *flat_layers(layer.inner)))


def _chain(
    ops: Iterable[Op], graph: Graph, gate_of: Mapping[str, Gate], order: NDArray[np.int64]
) -> tuple[list[RtlLayer], NDArray[np.int64]]:
    """Group operations that follow each other into layers; return them and the stream order of the last result.

    `gate_of` has the gates by the name of their product, `order` is the stream order before the first operation.
    """
    layers: list[RtlLayer] = []
    sources = {gate.source for gate in gate_of.values()}
    moved = False
    for op in ops:
        if len(graph.readers[op.name]) > 1 and op.name not in sources:
            readers = " and ".join(graph.readers[op.name])
            raise Unsupported(f"layer {op.name}: is read by {readers}; backend 'rtl' takes chains, {CURE}")
        tensor = graph.tensors[op.name]
        if moved and not layers and not isinstance(op, Reshape | Rearrange):
            order = stream_order(graph.tensors[op.inputs[0]].shape)  # the port's order is then `input_order`
        match op:
            case InputQuantiser() | Reshape():
                pass  # the words keep their order in the stream
            case Rearrange():
                order = _renamed(op, order)
                moved = True
            case Output():
                if not layers:
                    raise Unsupported(f"output {op.name}: is the input itself; backend 'rtl' needs a layer between")
            case Conv() | Dense() | MaxPool():
                layers.append(_windowed_or_dense(op, graph, order))
                order = layers[-1].result_order
            case Requantise() | Affine():
                source = graph.tensors[op.inputs[0]]
                step = _step(op, source, tensor, order)
                if not layers or (
                    isinstance(step, Scaled) and _follows(layers[-1], step).needs_whole_event and layers[-1].op is not None
                ):
                    layers.append(RtlLayer(op.name, None, (step,), image(source), image(source), image(tensor), order, order))
                else:
                    layers[-1] = _follows(layers[-1], step)
                layers[-1] = replace(layers[-1], result=replace(tensor, shape=layers[-1].sums.shape), result_order=order)
            case Table() | Threshold():
                layers.append(_looked_up(op, graph, order))
            case Multiply() if op.name in gate_of:
                layers.append(_gated(gate_of[op.name], graph, order))
            case Add() | Multiply() | MatMul() | Softmax() | TopK() | Nearest() | Take() | Condense():
                raise refusal_of_kind(op, NAME)
            case _:
                assert_never(op)
    return layers, order


def _gated(gate: Gate, graph: Graph, order: NDArray[np.int64]) -> RtlLayer:
    source, tensor = graph.tensors[gate.source], graph.tensors[gate.multiply.name]
    channels = source.shape[0]
    pixels = order[::channels]
    if not np.array_equal(order, np.add.outer(pixels, np.arange(channels) * len(pixels)).reshape(-1)):
        raise refusal(gate.multiply, "a gate on channels that were rearranged", NAME)
    layers, _ = _chain(gate.excite, graph, {}, np.arange(channels))
    factors = next(name for name in gate.multiply.inputs if name != gate.source)
    excitation = Excitation(graph.tensors[gate.squeeze[-1].name].format, tuple(layers), graph.tensors[factors].format)
    return RtlLayer(gate.multiply.name, gate, (), source, tensor, tensor, order, order, excitation=excitation)


def image(tensor: Tensor) -> Tensor:
    """Return a signal (C, L) as an image (C, 1, L), and all else as it is."""
    if len(tensor.shape) != 2:
        return tensor
    shape = (tensor.shape[0], 1, tensor.shape[1])
    return replace(tensor, shape=shape, low=tensor.low.reshape(shape), high=tensor.high.reshape(shape))


def _windowed_or_dense(op: Conv | Dense | MaxPool, graph: Graph, order: NDArray[np.int64]) -> RtlLayer:
    source, tensor = graph.tensors[op.inputs[0]], graph.tensors[op.name]
    if isinstance(op, Dense):
        if len(tensor.shape) != 1:
            raise refusal(op, "a dense layer on a matrix", NAME)
    else:
        if len(op.kernel) > 2:
            raise refusal(op, f"{'a convolution' if isinstance(op, Conv) else 'a max pool'} over {len(op.kernel)} axes", NAME)
        if not np.array_equal(order, stream_order(source.shape)):
            raise refusal(op, "an input whose pixels were rearranged", NAME)
        op = _in_two_axes(op)
    return RtlLayer(op.name, op, (), image(source), image(tensor), image(tensor), order, stream_order(tensor.shape))


def _in_two_axes(op: Conv | MaxPool) -> Conv | MaxPool:
    """Return an operation on signals as one on images of one row."""
    if len(op.kernel) == 2:
        return op
    stride, dilation = (1, *op.stride), (1, *op.dilation)
    if isinstance(op, MaxPool):
        return replace(op, kernel=(1, *op.kernel), stride=stride, dilation=dilation)
    padding = (0, op.padding[0], 0, op.padding[1])
    return replace(op, weights=op.weights[:, :, None], padding=padding, stride=stride, dilation=dilation)


def _step(op: Requantise | Affine, source: Tensor, tensor: Tensor, order: NDArray[np.int64]) -> After:
    if isinstance(op, Affine):
        weights, bias = (np.broadcast_to(x, tensor.shape).reshape(-1)[order] for x in (op.weights, op.bias))
        return Scaled(op, tensor.format, weights, bias)
    step = Rounded(op, source.format.fraction - op.format.fraction)
    if step.offsets and step.shift > MOST_SHIFT:
        raise refusal(op, f"rounding {op.rounding.value} of {step.shift} bits", NAME)
    return step


def _follows(layer: RtlLayer, step: After) -> RtlLayer:
    return replace(layer, after=(*layer.after, step))


def _renamed(op: Rearrange, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the stream order of a result that is the same words under other names; refuse all else."""
    flat = op.index.reshape(-1)
    if len(op.inputs) != 1 or not np.array_equal(np.sort(flat), np.arange(order.size)):
        raise refusal_of_kind(op, NAME)
    return np.argsort(flat)[order]


def _looked_up(op: Table | Threshold, graph: Graph, order: NDArray[np.int64]) -> RtlLayer:
    source, tensor = image(graph.tensors[op.inputs[0]]), image(graph.tensors[op.name])
    values = op.values if isinstance(op, Table) else op.thresholds
    rows = np.broadcast_to(values, (*graph.tensors[op.name].shape, values.shape[-1])).reshape(-1, values.shape[-1])[order]
    low, high = source.range
    if isinstance(op, Threshold) and rows.shape[1] > THRESHOLDS and high - low >= TABLE_ENTRIES:
        raise refusal(op, f"a count of {rows.shape[1]} thresholds on {source.format} (limit {THRESHOLDS})", NAME)
    if isinstance(op, Table) and high - low >= TABLE_ENTRIES:
        raise refusal(op, f"a table of {high - low + 1:,} entries (limit {TABLE_ENTRIES:,})", NAME)
    return RtlLayer(op.name, op, (), source, tensor, tensor, order, order, rows)


def stream_order(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the flat index (C, …) of each element in stream order (…, C); a vector keeps its order."""
    index = np.arange(math.prod(shape)).reshape(shape)
    return np.moveaxis(index, 0, -1).reshape(-1)


def window_size(op: Conv | MaxPool) -> tuple[int, int]:
    """Return rows and columns from the first to the last pixel that a kernel reads."""
    height, width = ((size - 1) * gap + 1 for size, gap in zip(op.kernel, op.dilation, strict=True))
    return height, width


def padded_shape(layer: RtlLayer) -> tuple[int, int]:
    """Return (rows, columns) of the image that a layer reads, with its padding."""
    if not isinstance(layer.op, Conv):
        return layer.source.shape[1], layer.source.shape[2]
    top, left, bottom, right = layer.op.padding
    return layer.source.shape[1] + top + bottom, layer.source.shape[2] + left + right


def kernel_weights(layer: RtlLayer) -> int:
    """Return how many weights one adder graph of the layer would hold."""
    return layer.op.weights.size if isinstance(layer.op, Conv | Dense) else 0
