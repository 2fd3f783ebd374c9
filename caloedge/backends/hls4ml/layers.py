"""The layers that hls4ml is given for each operation, with proven types and every code in its place."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

import numpy as np

from caloedge.backends.hls4ml.layout import ArrayLayout, channels_last, moves, natural
from caloedge.backends.hls4ml.reuse import Reuse, decide_reuse
from caloedge.compiler import fixed
from caloedge.compiler.fixed import Codes, Format, Rounding
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
from caloedge.compiler.ranges import words
from caloedge.compiler.unsupported import refusal, refusal_of_kind
from caloedge.errors import Unsupported
from caloedge.recipe import LayerChoice

NAME = "hls4ml"
EXACT_DOUBLE_BITS = 53
"""Codes cross into the C simulation as doubles."""
HLS_ROUNDING = {
    Rounding.HALF_EVEN: "RND_CONV",
    Rounding.HALF_UP: "RND",
    Rounding.HALF_TO_ZERO: "RND_ZERO",
    Rounding.HALF_FROM_ZERO: "RND_INF",
    Rounding.TRUNCATE: "TRN",
    Rounding.TO_ZERO: "TRN_ZERO",
}
"""`RND_MIN_INF` is the one that nobody needs; towards plus infinity and away from zero do not exist there."""


@dataclass(frozen=True, eq=False)
class Wire:
    """Place of an operation's result: a layer's array, and the codes that lie in it."""

    layer: str
    layout: ArrayLayout
    type: str


@dataclass
class Draft:
    """A plan that is being made, layer by layer."""

    graph: Graph
    streaming: bool
    """Whether codes travel in streams."""
    names: dict[str, str]
    choices: Mapping[str, LayerChoice] = field(default_factory=dict)
    """Choices of the recipe, by operation."""
    nodes: int = 0
    """Nodes of an event in a network of nodes, else 0: tensors (N, F) have their channels last already."""
    reuse: dict[str, Reuse] = field(default_factory=dict)
    """Reuse in convolutions and dense layers, by operation."""
    layers: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    wires: dict[str, Wire] = field(default_factory=dict)

    def add(self, name: str, inputs: list[str], layer: dict[str, Any], types: dict[str, str], **more: Any) -> None:
        """Append a layer of this name with the types of its arrays."""
        self.layers.append({"name": name, "inputs": inputs, "outputs": [name], **layer})
        self.settings[name] = {"Precision": types, "ReuseFactor": 1, "Strategy": "latency", **more}

    def layout(self, shape: tuple[int, ...]) -> ArrayLayout:
        """Return the layout in which a tensor of this shape is passed on."""
        return natural(shape) if self.nodes else channels_last(shape)

    def positions_at_once(self, shape: tuple[int, ...]) -> dict[str, Any]:
        """Return at how many positions of a result (…, channels) a layer calculates at once, in hls4ml's words.

        All pixels of an image: a reuse factor of one then means one event per clock cycle. One node of a network of nodes: the
        search for neighbours takes them one by one anyway.
        """
        return {} if self.streaming else {"ParallelizationFactor": 1 if self.nodes else math.prod(shape[:-1])}

    def multiplying(self, op: Conv | Dense, n_in: int, n_out: int, *, depthwise: bool = False) -> dict[str, Any]:
        """Decide how often multipliers are used and return it in hls4ml's words."""
        self.reuse[op.name] = reuse = decide_reuse(op, n_in, n_out, self.choices.get(op.name), depthwise=depthwise)
        return {"ReuseFactor": reuse.factor, "Strategy": reuse.strategy}

    def new_name(self, base: str) -> str:
        """Return a name that no layer has or gets."""
        used = {*self.names.values(), *self.settings}
        return next(name for i in range(1, len(used) + 2) if (name := f"{base}_{i}") not in used)


def _check_width(name: str, fmt: Format) -> None:
    if fmt.width > EXACT_DOUBLE_BITS:
        raise Unsupported(f"layer {name}: {fmt} is wider than the {EXACT_DOUBLE_BITS} bits that the C simulation passes exactly")


def build_layers(op: Op, draft: Draft) -> Wire:
    """Append the layers of one operation and return where its result is."""
    match op:
        case InputQuantiser():
            return _input(op, draft)
        case Conv():
            return _convolution(op, draft)
        case Dense():
            return _dense(op, draft)
        case Affine():
            return _affine(op, draft)
        case Add():
            return _merge(op, "add", draft)
        case Multiply():
            return _merge(op, "multiply", draft)
        case Requantise():
            return _requantise(op, draft)
        case MaxPool():
            return _max_pool(op, draft)
        case Reshape():
            return _reshape(op, draft)
        case Rearrange():
            return _rearrange(op, draft)
        case Output():
            _check_width(op.name, draft.graph.tensors[op.name].format)
            return draft.wires[op.inputs[0]]
        case MatMul() | Threshold() | Table() | Softmax() | TopK() | Nearest() | Take() | Condense():
            raise refusal_of_kind(op, NAME)
        case _:
            assert_never(op)


def _input(op: InputQuantiser, draft: Draft) -> Wire:
    _check_width(op.name, op.format)
    layout = natural(op.shape) if draft.nodes else _entering_layout(op, draft.graph)
    layer = {"class_name": "InputLayer", "input_shape": list(layout.shape)}
    draft.add(draft.names[op.name], [], layer, {"result": str(op.format)})
    return Wire(draft.names[op.name], layout, str(op.format))


def _entering_layout(op: InputQuantiser, graph: Graph) -> ArrayLayout:
    """Return the layout of an input: of what it is rearranged to before anything else reads it, which then costs nothing."""
    name, shape, order = op.name, op.shape, np.arange(math.prod(op.shape))
    while len(graph.readers[name]) == 1:
        reader = graph[graph.readers[name][0]]
        if not isinstance(reader, Rearrange) or not _permutes(reader, order.size) or reader.index.ndim == 1:
            break
        name, shape, order = reader.name, reader.index.shape, order[reader.index.reshape(-1)]
    layout = channels_last(shape)
    return ArrayLayout(layout.shape, order[layout.order])


def _permutes(op: Rearrange, size: int) -> bool:
    """Tell whether a rearrangement takes each code of one input once."""
    return len(op.inputs) == 1 and np.array_equal(np.sort(op.index.reshape(-1)), np.arange(size))


def moved(wire: Wire, layout: ArrayLayout, op: Op, draft: Draft, last: str = "") -> Wire:
    """Append what brings codes into another layout; the last layer is called `last`."""
    steps = moves(wire.layout, layout)
    if steps is None:
        raise refusal(op, "an order of codes that one transposition cannot make", NAME)
    for number, step in enumerate(steps):
        name = last if last and number == len(steps) - 1 else draft.new_name(f"{draft.names[op.name]}_order")
        if step.axes:
            layer: dict[str, Any] = {"class_name": "Transpose", "perm": list(step.axes)}
        else:
            layer = {"class_name": "Reshape", "target_shape": list(step.shape)}
        draft.add(name, [wire.layer], layer, {"result": wire.type})
        wire = replace(wire, layer=name)
    return replace(wire, layout=layout)


# Sums of products


def _convolution(op: Conv, draft: Draft) -> Wire:
    graph, name = draft.graph, draft.names[op.name]
    if len(op.kernel) > 2:
        raise refusal_of_kind(op, NAME)
    source, layout = draft.wires[op.inputs[0]], channels_last(graph.tensors[op.name].shape)
    if draft.streaming and len(op.kernel) == 2 and op.kernel[0] == 1 < op.kernel[1] and op.stride[0] > 1:
        # Its stream of a kernel without rows knows no rows to leave out: it makes one for every input row.
        raise refusal(op, f"kernel {op.kernel} with stride {op.stride} in io_stream", NAME, "use io_parallel")
    n_filters = len(op.weights)
    if depthwise := draft.streaming and _is_depthwise(op):
        weights = np.moveaxis(op.weights, (0, 1), (-2, -1))
        kind, n_in = {"class_name": "DepthwiseConv2D", "depth_multiplier": 1}, weights.size
    else:
        weights = np.moveaxis(_plain_kernel(op), (0, 1), (-1, -2))
        kind, n_in = {}, weights.size // n_filters
    constants = _constants("depthwise" if depthwise else "weight", weights, op.weight_format, op.bias, op.name, graph)
    layer = {**_geometry(op, graph), **kind, **constants}
    result = graph.tensors[op.name].format
    more = draft.positions_at_once(layout.shape) | draft.multiplying(op, n_in, n_filters, depthwise=depthwise)
    draft.add(name, [source.layer], layer, _sum_types("weight", op, graph), **more)
    return Wire(name, layout, str(result))


def _is_depthwise(op: Conv) -> bool:
    """Tell whether hls4ml's own depthwise streams build a convolution."""
    one_each = op.groups == len(op.weights) > 1 and op.weights.shape[1] == 1
    return one_each and len(op.kernel) == 2 and op.kernel[0] > 1 and set(op.dilation) == {1}


def _plain_kernel(op: Conv) -> Codes:
    """Return weights (F, C, *kernel) without groups and dilation: zeros stand where no weight is, which cost no multiplier.

    Other grouped convolutions than depthwise streams do not exist in hls4ml, and it ignores dilation.
    """
    filters, channels = len(op.weights), op.weights.shape[1]
    sizes = [(size - 1) * gap + 1 for size, gap in zip(op.kernel, op.dilation, strict=True)]
    weights = np.zeros((filters, channels * op.groups, *sizes), dtype=np.int64)
    taps = tuple(slice(None, None, gap) for gap in op.dilation)
    for group in range(op.groups):
        mine = slice(group * filters // op.groups, (group + 1) * filters // op.groups)
        weights[(mine, slice(group * channels, (group + 1) * channels), *taps)] = op.weights[mine]
    return weights


def _geometry(op: Conv | MaxPool, graph: Graph) -> dict[str, Any]:
    """Return sizes, strides and padding in hls4ml's words."""
    n_channels, *sizes_in = graph.tensors[op.inputs[0]].shape
    n_filters, *sizes_out = graph.tensors[op.name].shape
    axes = len(sizes_in)
    kernel = [(size - 1) * gap + 1 for size, gap in zip(op.kernel, op.dilation, strict=True)]
    padding = op.padding if isinstance(op, Conv) else (0,) * 2 * axes
    kind, window = ("Conv", "filt") if isinstance(op, Conv) else ("MaxPooling", "pool")
    settings: dict[str, Any] = {"class_name": f"{kind}{axes}D", "data_format": "channels_last"}
    names = ("height", "width")[-axes:]
    if isinstance(op, Conv) or axes == 2:
        settings |= {f"in_{axis}": size for axis, size in zip(names, sizes_in, strict=True)}
    settings |= {"n_chan": n_channels, "n_filt": n_filters} if isinstance(op, Conv) else {"n_filt": n_channels}
    settings |= {f"{window}_{axis}": size for axis, size in zip(names, kernel, strict=True)}
    settings |= {f"stride_{axis}": size for axis, size in zip(names, op.stride, strict=True)}
    if isinstance(op, Conv):
        settings |= {f"dilation_{axis}": 1 for axis in names}
    sides = [("top", "bottom"), ("left", "right")][-axes:]
    for number, (begin, end) in enumerate(sides):
        settings |= {f"pad_{begin}": padding[number], f"pad_{end}": padding[axes + number]}
    settings["padding"] = "same" if any(padding) else "valid"
    if isinstance(op, Conv) or axes == 2:
        settings |= {f"out_{axis}": size for axis, size in zip(names, sizes_out, strict=True)}
    else:
        settings |= {"n_in": sizes_in[0], "n_out": sizes_out[0]}
    return settings


def _constants(kind: str, weights: Codes, fmt: Format, bias: Codes, name: str, graph: Graph) -> dict[str, Any]:
    return {
        f"{kind}_data": fixed.to_float(weights, fmt.fraction),
        "bias_data": fixed.to_float(bias, graph.tensors[name].format.fraction),
        "use_bias": True,
    }


def _sum_types(kind: str, op: Conv | Dense | Affine, graph: Graph) -> dict[str, str]:
    """Return the types of a sum; it may wrap on the way because its final value is proven to fit."""
    result = graph.tensors[op.name].format
    bias = Format.holding(min(int(op.bias.min()), -1), int(op.bias.max()), result.fraction)
    return {kind: str(op.weight_format), "bias": str(bias), "accum": str(result), "result": str(result)}


def _dense(op: Dense, draft: Draft) -> Wire:
    graph, name = draft.graph, draft.names[op.name]
    source, shape = draft.wires[op.inputs[0]], graph.tensors[op.name].shape
    if len(shape) == 1:
        return vector_product(op, source, draft)
    n_out, n_in = op.weights.shape
    types, fmt = _sum_types("weight", op, graph), op.weight_format
    # A matrix product along the last axis is a convolution of single pixels, whose channels are that axis.
    shape_in = graph.tensors[op.inputs[0]].shape
    source = moved(source, natural(shape_in), op, draft)
    axes = len(shape) - 1
    kernel = op.weights.reshape(n_out, n_in, *(1,) * axes)
    sizes = dict(zip(("height", "width")[-axes:], shape[:-1], strict=True))
    layer = {"class_name": f"Conv{axes}D", "data_format": "channels_last", "n_chan": n_in, "n_filt": n_out, "padding": "valid"}
    for axis, size in sizes.items():
        layer |= {f"in_{axis}": size, f"out_{axis}": size, f"filt_{axis}": 1, f"stride_{axis}": 1, f"dilation_{axis}": 1}
    layer |= {f"pad_{side}": 0 for side in ("top", "bottom", "left", "right")[-2 * axes :]}
    layer |= _constants("weight", np.moveaxis(kernel, (0, 1), (-1, -2)), fmt, op.bias, op.name, graph)
    more = draft.positions_at_once(shape) | draft.multiplying(op, n_in, n_out)
    draft.add(name, [source.layer], layer, types, **more)
    return moved(Wire(name, natural(shape), types["result"]), draft.layout(shape), op, draft)


def vector_product(op: Dense, source: Wire, draft: Draft) -> Wire:
    """Append a dense layer of one vector per event."""
    name, (n_out, n_in), types = draft.names[op.name], op.weights.shape, _sum_types("weight", op, draft.graph)
    source = moved(source, ArrayLayout((n_in,), source.layout.order), op, draft)
    weights = op.weights[:, source.layout.order].T
    constants = _constants("weight", weights, op.weight_format, op.bias, op.name, draft.graph)
    layer = {"class_name": "Dense", "n_in": n_in, "n_out": n_out, **constants}
    draft.add(name, [source.layer], layer, types, **draft.multiplying(op, n_in, n_out))
    return Wire(name, channels_last((n_out,)), types["result"])


def _affine(op: Affine, draft: Draft) -> Wire:
    graph, name = draft.graph, draft.names[op.name]
    source, tensor = draft.wires[op.inputs[0]], graph.tensors[op.name]
    scale, bias = (np.broadcast_to(x, tensor.shape).reshape(-1)[source.layout.order] for x in (op.weights, op.bias))
    channels = -1
    if len(source.layout.shape) > 1:
        rows = [x.reshape(-1, source.layout.shape[-1]) for x in (scale, bias)]
        if all((x == x[0]).all() for x in rows):
            channels, (scale, bias) = source.layout.shape[-1], (x[0] for x in rows)
    layer = {"class_name": "BatchNormalization", "n_in": tensor.size, "n_filt": channels}
    layer |= _constants("scale", scale, op.weight_format, bias, op.name, graph)
    types = _sum_types("scale", op, graph)
    draft.add(name, [source.layer], layer, types)
    return Wire(name, source.layout, types["result"])


def _merge(op: Add | Multiply, operation: str, draft: Draft) -> Wire:
    graph, name = draft.graph, draft.names[op.name]
    first, second = (draft.wires[source] for source in op.inputs)
    tensor = graph.tensors[op.name]
    larger = first if first.layout.order.size >= second.layout.order.size else second
    if larger.layout.order.size != tensor.size:
        raise refusal(op, "repetition of both inputs", NAME)
    for source, wire in zip(op.inputs, (first, second), strict=True):
        # hls4ml starts the smaller array again and again; that must give the element which the graph repeats.
        shape = graph.tensors[source].shape
        order = np.broadcast_to(np.arange(math.prod(shape)).reshape(shape), tensor.shape).reshape(-1)[larger.layout.order]
        if not np.array_equal(np.resize(wire.layout.order, tensor.size), order):
            raise refusal(op, f"an input of shape ({words(shape)}) in another order", NAME)
    if draft.streaming and first.layout.shape != second.layout.shape:
        first, second = _streams_alike(op, first, second, draft)
        larger = first
    layer = {"class_name": "Merge", "op": operation}
    draft.add(name, [first.layer, second.layer], layer, {"result": str(tensor.format)})
    return Wire(name, larger.layout, str(tensor.format))


def _streams_alike(op: Op, first: Wire, second: Wire, draft: Draft) -> tuple[Wire, Wire]:
    """Return two streams of the same shape; streams of different sizes are refused."""
    if first.layout.order.size != second.layout.order.size:
        shapes = f"{first.layout.shape} and {second.layout.shape}"
        raise refusal(op, f"adding or multiplying streams of {shapes}", NAME, "use io_parallel")
    if len(first.layout.shape) < len(second.layout.shape):
        return moved(first, second.layout, op, draft), second
    return first, moved(second, first.layout, op, draft)


# Steps, choices and moves


def rounding_type(op: Requantise) -> str:
    """Return the type that rounds and saturates what is assigned to it as a requantisation does."""
    if op.rounding not in HLS_ROUNDING:
        raise refusal(op, f"rounding {op.rounding.value}", NAME)
    free = replace(op, limits=None)
    if (op.low, op.high) != (free.low, free.high):
        raise refusal(op, f"clipping to {op.low} and {op.high}", NAME)
    saturation = "SAT_SYM" if op.narrow and op.format.signed else "SAT"
    return f"{str(op.format)[:-1]},{HLS_ROUNDING[op.rounding]},{saturation}>"


def _requantise(op: Requantise, draft: Draft) -> Wire:
    name, source, width = draft.names[op.name], draft.wires[op.inputs[0]], rounding_type(op)
    activation = "relu" if op.relu else "linear"
    size = draft.graph.tensors[op.name].size
    draft.add(name, [source.layer], {"class_name": "Activation", "activation": activation, "n_in": size}, {"result": width})
    return Wire(name, source.layout, width)


def _max_pool(op: MaxPool, draft: Draft) -> Wire:
    graph, name, source = draft.graph, draft.names[op.name], draft.wires[op.inputs[0]]
    if len(op.kernel) > 2:
        raise refusal(op, f"a max pool over {len(op.kernel)} axes", NAME)
    if set(op.dilation) != {1}:
        raise refusal(op, f"dilation {op.dilation}", NAME)
    if draft.streaming and op.kernel != op.stride:  # an assert of hls4ml would end our process
        pool = f"max pool with kernel {op.kernel} and stride {op.stride}"
        raise Unsupported(
            f"layer {op.name}: {pool} is not supported by backend 'hls4ml' with io_stream; use io_parallel, or a stride equal to "
            "the kernel"
        )
    draft.add(name, [source.layer], _geometry(op, graph), dict.fromkeys(("accum", "result"), source.type))
    return Wire(name, channels_last(graph.tensors[op.name].shape), source.type)


def _reshape(op: Reshape, draft: Draft) -> Wire:
    source, shape = draft.wires[op.inputs[0]], draft.graph.tensors[op.name].shape
    if len(shape) > 1:
        return moved(source, draft.layout(shape), op, draft, draft.names[op.name])
    readers = [reader for reader in draft.graph.ops if op.name in reader.inputs]
    if draft.streaming and not all(isinstance(reader, Dense) for reader in readers):
        # There a flattened stream still comes pixel by pixel, which only dense layers expect.
        return source
    name = draft.names[op.name]
    draft.add(name, [source.layer], {"class_name": "Reshape", "target_shape": list(shape)}, {"result": source.type})
    return replace(source, layer=name, layout=ArrayLayout(shape, source.layout.order))


def _rearrange(op: Rearrange, draft: Draft) -> Wire:
    shape = draft.graph.tensors[op.name].shape
    axis = concatenated_axis(op, draft.graph)
    if axis is not None:
        return _concatenate(op, axis, draft)
    source = draft.wires[op.inputs[0]]
    if not _permutes(op, source.layout.order.size):
        raise refusal_of_kind(op, NAME)
    # Nothing moves: the same codes are other elements of the result. Only a shape with channels needs them in place.
    renamed = replace(source, layout=ArrayLayout(source.layout.shape, np.argsort(op.index.reshape(-1))[source.layout.order]))
    if (draft.streaming and len(shape) == 1) or _only_leaves(op, draft.graph):
        return renamed
    layout = channels_last(shape) if len(shape) > 1 else ArrayLayout(shape, renamed.layout.order)
    return moved(renamed, layout, op, draft, draft.names[op.name])


def _only_leaves(op: Rearrange, graph: Graph) -> bool:
    """Tell whether a rearrangement only leaves the network, and nothing else reads what it rearranges."""
    leaving = all(isinstance(graph[reader], Output) for reader in graph.readers[op.name])
    return leaving and len(graph.readers[op.inputs[0]]) == 1


def concatenated_axis(op: Rearrange, graph: Graph) -> int | None:
    """Return the axis along which the inputs are laid end to end, or None if they are not."""
    shapes = [graph.tensors[name].shape for name in op.inputs]
    starts = np.cumsum([0, *(math.prod(shape) for shape in shapes)])
    parts = [start + np.arange(math.prod(shape)).reshape(shape) for start, shape in zip(starts, shapes, strict=False)]
    if len(op.inputs) < 2 or len({part.ndim for part in parts}) != 1:
        return None
    for axis in range(parts[0].ndim):
        if len({(*part.shape[:axis], *part.shape[axis + 1 :]) for part in parts}) == 1:
            joined = np.concatenate(parts, axis=axis)
            if np.array_equal(joined, op.index):
                return axis
    return None


def _concatenate(op: Rearrange, axis: int, draft: Draft) -> Wire:
    """Append one layer for each input after the first: hls4ml joins two at a time."""
    tensor = draft.graph.tensors[op.name]
    if any(len(draft.wires[name].layout.shape) != len(tensor.shape) for name in op.inputs):
        raise refusal(op, "a concatenation of flattened streams", NAME, "use io_parallel")
    place = axis if draft.nodes else (axis - 1) % len(tensor.shape)  # channels come last
    joined, *later = (draft.wires[name] for name in op.inputs)
    fmt = str(tensor.format)
    for number, wire in enumerate(later):
        last = number == len(later) - 1
        name = draft.names[op.name] if last else draft.new_name(f"{draft.names[op.name]}_part")
        layer = {"class_name": "Concatenate", "op": f"concatenate{len(tensor.shape)}d", "axis": place + 1}
        draft.add(name, [joined.layer, wire.layer], layer, {"result": fmt})
        order = np.concatenate([joined.layout.order, joined.layout.order.size + wire.layout.order])
        shape = list(joined.layout.shape)
        shape[place] += wire.layout.shape[place]
        joined = Wire(name, ArrayLayout(tuple(shape), order), fmt)
    return joined if len(tensor.shape) == 1 else replace(joined, layout=draft.layout(tensor.shape))
