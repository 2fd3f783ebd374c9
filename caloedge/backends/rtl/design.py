"""From the integer graph to a design: layers in order, how each is built, and the streams between them.

A stream carries an event as `beats`, each of `words` codes. Images travel pixel by pixel, row by row, all channels of a
pixel in one beat; `order` says which element of the graph's tensor each word is. A layer is *unrolled* (a whole event per
cycle, or for a convolution every position in parallel) or *streaming* (one kernel position, or a part of a matrix, per cycle).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from caloedge.backends.rtl.steps import MOST_SHIFT, After, Rounded, Scaled
from caloedge.backends.rtl.tables import TABLE_ENTRIES, THRESHOLDS
from caloedge.catalog import Target
from caloedge.compiler.fixed import Codes, Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import (
    Add,
    Affine,
    Conv,
    Dense,
    InputQuantiser,
    MatMul,
    MaxPool,
    Multiply,
    Output,
    Rearrange,
    Requantise,
    Reshape,
    Softmax,
    Table,
    Threshold,
    TopK,
)
from caloedge.compiler.ranges import Tensor
from caloedge.errors import Unsupported, UserError
from caloedge.project import AUTO, identifiers
from caloedge.recipe import LayerChoice
from caloedge.refusals import CURE, kind, one_input, refusal, refusal_of_kind

NAME = "rtl"
VARIANTS = (AUTO, "unrolled", "streaming")
UNROLL_SHARE = 0.25
"""`auto` unrolls a layer while all unrolled layers together stay below this share of the target's LUTs."""
LUT_LIMIT, MULTIPLIER_LIMIT = 0.8, 0.95
"""Larger shares of a target's LUTs or multipliers are refused: it would not route."""
LUT_PER_BIT_OPERATION = 0.6
"""Of an unrolled layer's effective bit operations: yosys netlists of the shipped 8- and 6-bit networks gave 0.53 and 0.65."""
STREAM = "use strategy: streaming (variant auto or streaming)"
CORE_WEIGHTS = 16_384
"""The search for shared adders grows faster than the matrix; beyond this it takes many minutes."""


@dataclass(frozen=True, eq=False)
class Stream:
    """How an event travels between two stages."""

    beats: int
    words: int
    format: Format
    order: NDArray[np.int64]
    """(beats * words,): element of the flattened graph tensor that each word is."""

    @property
    def bits(self) -> int:
        """Width of one beat."""
        return self.words * self.format.width


@dataclass(frozen=True, eq=False)
class Layer:
    """A matrix product, max pool or table with the steps that follow it; only these when `op` is None.

    Signals of one axis are images of one row.
    """

    name: str
    op: Conv | Dense | MaxPool | Table | Threshold | None
    after: tuple[After, ...]
    source: Tensor
    sums: Tensor
    """Before the steps."""
    result: Tensor
    """Of the shape of `sums`."""
    order: NDArray[np.int64]
    """Stream order of the input's elements."""
    result_order: NDArray[np.int64]
    """Stream order of the result's elements."""
    rows: Codes = field(default_factory=lambda: np.zeros((0, 0), np.int64))
    """Of a table or of thresholds, (words, entries): one row for each word of an event, in stream order."""

    @property
    def positions(self) -> int:
        """How often the kernel is applied per event."""
        return int(np.prod(self.sums.shape[1:])) if isinstance(self.op, Conv | MaxPool) else 1

    @property
    def whole(self) -> bool:
        """Whether constants differ from pixel to pixel, so that they need the event in one beat."""
        channels = self.sums.shape[0] if len(self.sums.shape) == 3 else self.sums.size
        each = [part for step in self.after if isinstance(step, Scaled) for part in (step.weights, step.bias)]
        return not all(repeats(part, channels) for part in [*each, *([self.rows] if self.rows.size else [])])

    @property
    def weights(self) -> Codes:
        """(outputs, inputs) in stream order: (row, column, channel) of a kernel, or the words of an event."""
        match self.op:
            case Conv():
                return ungrouped(self.op).transpose(0, 2, 3, 1).reshape(len(self.op.weights), -1)
            case Dense():
                return self.op.weights[:, self.order]
            case MaxPool() | Table() | Threshold() | None:
                raise AssertionError("max pools, tables and requantisations have no weights")
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


@dataclass(frozen=True, eq=False)
class Stage:
    """A layer and how it is built."""

    layer: Layer
    strategy: str
    """`unrolled` or `streaming`."""
    fold: int
    """Streaming only: clock cycles per beat (dense) or per position (convolution)."""
    why: str
    source: Stream
    result: Stream

    @property
    def cycles(self) -> int:
        """Clock cycles between two events that the stage itself needs."""
        if self.strategy == "unrolled":
            return 1
        if isinstance(self.layer.op, Conv):
            return convolution_cycles(self.layer, self.fold)
        if isinstance(self.layer.op, MaxPool):
            return math.prod(padded_shape(self.layer))
        return self.source.beats * self.fold

    @property
    def multipliers(self) -> int:
        """Hardware multipliers that work side by side; 0 where products are adder graphs."""
        op = self.layer.op
        if self.strategy == "unrolled" or not isinstance(op, Conv | Dense) or (isinstance(op, Conv) and self.fold == 1):
            return 0
        return self.lanes * len(op.weights)

    @property
    def lanes(self) -> int:
        """Words multiplied per cycle."""
        words = self.layer.weights.shape[1] if isinstance(self.layer.op, Conv) else self.source.words
        return -(-words // self.fold)


@dataclass(frozen=True, eq=False)
class Design:
    """All stages in order; with one streaming stage, the whole design has handshakes."""

    name: str
    stages: tuple[Stage, ...]
    output: str
    """Name of the graph's output."""
    identifiers: Mapping[str, str]

    @property
    def streaming(self) -> bool:
        """Whether the ports have valid and ready; otherwise an event enters every cycle and never waits."""
        return any(stage.strategy == "streaming" for stage in self.stages)

    @property
    def source(self) -> Stream:
        """The input port's stream."""
        return self.stages[0].source

    @property
    def result(self) -> Stream:
        """The output port's stream."""
        return self.stages[-1].result


def layers_of(graph: Graph) -> tuple[Layer, ...]:
    """Group a graph into layers; raise `Unsupported` for what this backend cannot build."""
    readers: dict[str, list[str]] = {}
    for op in graph.ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op.name)
    layers: list[Layer] = []
    order = np.zeros(0, dtype=np.int64)
    one_input(graph, NAME)
    for op in graph.ops:
        if len(readers.get(op.name, [])) > 1:
            both = " and ".join(readers[op.name])
            raise Unsupported(f"layer {op.name}: is read by {both}; backend 'rtl' takes chains, {CURE}")
        tensor = graph.tensors[op.name]
        match op:
            case InputQuantiser():
                if len(op.shape) > 3:
                    raise Unsupported(
                        f"layer {op.name}: an input of shape {op.shape}; backend 'rtl' takes (F,), (C, L) and (C, H, W), {CURE}"
                    )
                order = stream_order(op.shape)
            case Reshape():
                pass  # the words keep their order in the stream
            case Rearrange():
                order = _renamed(op, order)
            case Output():
                if not layers:
                    raise Unsupported(f"output {op.name}: is the input itself; backend 'rtl' needs a layer between")
            case Conv() | Dense() | MaxPool():
                layers.append(_windowed_or_dense(op, graph, order))
                order = layers[-1].result_order
            case Requantise() | Affine():
                source = graph.tensors[op.inputs[0]]
                step = _step(op, source, tensor, order)
                if not layers or (isinstance(step, Scaled) and _follows(layers[-1], step).whole and layers[-1].op is not None):
                    layers.append(Layer(op.name, None, (step,), image(source), image(source), image(tensor), order, order))
                else:
                    layers[-1] = _follows(layers[-1], step)
                layers[-1] = replace(layers[-1], result=replace(tensor, shape=layers[-1].sums.shape), result_order=order)
            case Table() | Threshold():
                layers.append(_looked_up(op, graph, order))
            case Add() | Multiply() | MatMul() | Softmax() | TopK():
                raise refusal_of_kind(op, NAME)
            case _:
                assert_never(op)
    if len(graph.outputs) != 1:
        raise Unsupported(f"output {graph.outputs[1].name}: backend 'rtl' takes one output, {CURE}")
    # The last result may have been renamed: what leaves is what the output's elements are.
    return (*layers[:-1], replace(layers[-1], result_order=order))


def image(tensor: Tensor) -> Tensor:
    """Return a signal (C, L) as an image (C, 1, L), and all else as it is."""
    if len(tensor.shape) != 2:
        return tensor
    shape = (tensor.shape[0], 1, tensor.shape[1])
    return replace(tensor, shape=shape, low=tensor.low.reshape(shape), high=tensor.high.reshape(shape))


def _windowed_or_dense(op: Conv | Dense | MaxPool, graph: Graph, order: NDArray[np.int64]) -> Layer:
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
    return Layer(op.name, op, (), image(source), image(tensor), image(tensor), order, stream_order(tensor.shape))


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


def _follows(layer: Layer, step: After) -> Layer:
    return replace(layer, after=(*layer.after, step))


def _renamed(op: Rearrange, order: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the stream order of a result that is the same words under other names; refuse all else."""
    flat = op.index.reshape(-1)
    if len(op.inputs) != 1 or not np.array_equal(np.sort(flat), np.arange(order.size)):
        raise refusal_of_kind(op, NAME)
    return np.argsort(flat)[order]


def _looked_up(op: Table | Threshold, graph: Graph, order: NDArray[np.int64]) -> Layer:
    source, tensor = image(graph.tensors[op.inputs[0]]), image(graph.tensors[op.name])
    every = op.values if isinstance(op, Table) else op.thresholds
    rows = np.broadcast_to(every, (*graph.tensors[op.name].shape, every.shape[-1])).reshape(-1, every.shape[-1])[order]
    low, high = source.range
    if isinstance(op, Threshold) and rows.shape[1] > THRESHOLDS and high - low >= TABLE_ENTRIES:
        raise refusal(op, f"a count of {rows.shape[1]} thresholds on {source.format} (limit {THRESHOLDS})", NAME)
    if isinstance(op, Table) and high - low >= TABLE_ENTRIES:
        raise refusal(op, f"a table of {high - low + 1:,} entries (limit {TABLE_ENTRIES:,})", NAME)
    return Layer(op.name, op, (), source, tensor, tensor, order, order, rows)


def stream_order(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the flat index (C, …) of each element in stream order (…, C); a vector keeps its order."""
    index = np.arange(math.prod(shape)).reshape(shape)
    return np.moveaxis(index, 0, -1).reshape(-1)


def window_size(op: Conv | MaxPool) -> tuple[int, int]:
    """Return rows and columns from the first to the last pixel that a kernel reads."""
    height, width = ((size - 1) * gap + 1 for size, gap in zip(op.kernel, op.dilation, strict=True))
    return height, width


def padded_shape(layer: Layer) -> tuple[int, int]:
    """Return (rows, columns) of the input of a convolution or a max pool with its padding."""
    if isinstance(layer.op, MaxPool):
        return layer.source.shape[1], layer.source.shape[2]
    assert isinstance(layer.op, Conv)
    top, left, bottom, right = layer.op.padding
    return layer.source.shape[1] + top + bottom, layer.source.shape[2] + left + right


def convolution_cycles(layer: Layer, fold: int) -> int:
    """Return the clock cycles per event of a streaming convolution: the padded grid, and `fold` − 1 more for each position."""
    return math.prod(padded_shape(layer)) + layer.positions * (fold - 1)


def design(graph: Graph, target: Target, variant: str, choices: Mapping[str, LayerChoice]) -> Design:
    """Decide how every layer is built; raise `Unsupported` before anything blows up."""
    if variant not in VARIANTS:
        raise UserError(f"backend 'rtl' has no variant {variant!r}; there are: {', '.join(VARIANTS)}")
    layers = layers_of(graph)
    if unknown := [name for name in choices if name not in {layer.name for layer in layers}]:
        known = ", ".join(layer.name for layer in layers)
        raise UserError(f"layers: {unknown[0]!r} is no layer of the network; there are: {known}")
    if variant != AUTO:
        choices = {}
    strategies = _strategies(layers, target, variant, choices)
    interval = _interval(layers, strategies, choices)
    order = stream_order(graph.input.shape)
    stages = _stages(layers, order, strategies, choices, interval)
    most = max(stage.source.words for stage in stages)
    # Dense layers that would take too many multipliers are folded further, and events come less often.
    while interval < most and sum(stage.multipliers for stage in stages) > MULTIPLIER_LIMIT * target.resources.get("DSP", 0):
        interval = min(2 * interval, most)
        stages = _stages(layers, order, strategies, choices, interval)
    _refuse_blow_up(stages, target)
    return Design("caloedge_net", stages, graph.outputs[0].name, identifiers(graph))


def _stages(
    layers: tuple[Layer, ...],
    order: NDArray[np.int64],
    strategies: Mapping[str, tuple[str, str]],
    choices: Mapping[str, LayerChoice],
    interval: int,
) -> tuple[Stage, ...]:
    """Connect the layers; dense layers are folded to at most `interval` clock cycles per event."""
    stages = []
    beats = _input_stream(layers[0], order, strategies[layers[0].name][0])
    for layer in layers:
        strategy, why = strategies[layer.name]
        if strategy == "streaming" and isinstance(layer.op, Conv):
            _refuse_early_windows(layer)
        source = _regrouped(beats, layer, strategy)
        fold = _fold(layer, strategy, source, interval, choices.get(layer.name))
        beats = _result_stream(layer, strategy, source)
        stages.append(Stage(layer, strategy, fold, why, source, beats))
    return tuple(stages)


def _refuse_early_windows(layer: Layer) -> None:
    """Refuse windows that are complete before the first pixel of their event: they would leave before it came."""
    assert isinstance(layer.op, Conv)
    top, left = layer.op.padding[:2]
    height, width = window_size(layer.op)
    if (height - 1, width - 1) < (top, left):
        raise Unsupported(
            f"layer {layer.name} streaming: padding {layer.op.padding} holds whole windows of {height}×{width} before the first "
            "pixel; use less padding, or strategy: unrolled"
        )


def _strategies(
    layers: tuple[Layer, ...], target: Target, variant: str, choices: Mapping[str, LayerChoice]
) -> dict[str, tuple[str, str]]:
    """Return strategy and reason by layer."""
    left = UNROLL_SHARE * target.resources.get("LUT", 0)
    found: dict[str, tuple[str, str]] = {}
    for layer in layers:
        choice = choices.get(layer.name)
        lut = layer.estimated_lut
        estimate = f"about {lut:,} LUT unrolled (estimated)"
        if variant != "auto":
            found[layer.name] = (variant, f"variant {variant}; {estimate}")
        elif choice and (choice.strategy or choice.reuse):
            found[layer.name] = (choice.strategy or "streaming", f"chosen in the recipe; {estimate}")
        elif lut <= left and kernel_weights(layer) <= CORE_WEIGHTS:
            found[layer.name] = ("unrolled", f"{estimate}, within the {UNROLL_SHARE:.0%} of {target.part} kept for it")
        else:
            found[layer.name] = ("streaming", f"{estimate}, beyond the {UNROLL_SHARE:.0%} of {target.part} kept for it")
        if found[layer.name][0] == "unrolled":
            left -= lut
    return found


def kernel_weights(layer: Layer) -> int:
    """Return how many weights one adder graph of the layer would hold."""
    return layer.op.weights.size if isinstance(layer.op, Conv | Dense) else 0


def _interval(layers: tuple[Layer, ...], strategies: Mapping[str, tuple[str, str]], choices: Mapping[str, LayerChoice]) -> int:
    """Return the clock cycles per event to which dense layers are folded.

    As many as the slowest streaming convolution or max pool needs, or one input word per cycle where there is none.
    """
    windowed = [x for x in layers if isinstance(x.op, Conv | MaxPool) and strategies[x.name][0] == "streaming"]
    if not windowed:
        return layers[0].source.size
    reuse = {x.name: (choices[x.name].reuse or 1) if x.name in choices else 1 for x in windowed}
    return max(max(math.prod(padded_shape(x)), x.positions * reuse[x.name]) for x in windowed)


def _fold(layer: Layer, strategy: str, source: Stream, interval: int, choice: LayerChoice | None) -> int:
    wanted = choice.reuse if choice else None
    if isinstance(layer.op, MaxPool | Table | Threshold) and wanted is not None:
        raise UserError(f"layers: {layer.name}: reuse {wanted}; {kind(layer.op)} has no multipliers to reuse, leave it out")
    if strategy == "unrolled" or not isinstance(layer.op, Conv | Dense):
        return 1
    if isinstance(layer.op, Conv):
        words = layer.weights.shape[1]
        if wanted is None:
            return 1 if kernel_weights(layer) <= CORE_WEIGHTS else min(words, -(-kernel_weights(layer) // CORE_WEIGHTS))
        if not 1 <= wanted <= words:
            raise UserError(f"layers: {layer.name}: reuse {wanted} cycles per position; 1 to {words} are possible")
        return wanted
    most = source.beats * source.words
    if wanted is None:
        return max(1, min(source.words, interval // source.beats))
    if wanted % source.beats or not source.beats <= wanted <= most:
        raise UserError(
            f"layers: {layer.name}: reuse {wanted}; its {source.beats} beats of {source.words} words allow multiples of "
            f"{source.beats} up to {most}"
        )
    return wanted // source.beats


def _input_stream(layer: Layer, order: NDArray[np.int64], strategy: str) -> Stream:
    shape, fmt = layer.source.shape, layer.source.format
    if strategy == "streaming" and len(shape) == 3:
        return Stream(shape[1] * shape[2], shape[0], fmt, order)
    return Stream(1, math.prod(shape), fmt, order)


def _result_stream(layer: Layer, strategy: str, source: Stream) -> Stream:
    if isinstance(layer.op, Conv | MaxPool | Dense):
        beats = math.prod(layer.sums.shape[1:]) if strategy == "streaming" else 1
    else:
        beats = source.beats
    return Stream(beats, layer.result.size // beats, layer.result.format, layer.result_order)


def _regrouped(given: Stream, layer: Layer, strategy: str) -> Stream:
    """Return the stream that a layer reads: whole events when unrolled, pixels for a streaming window, else as given."""
    if strategy == "unrolled" or (layer.whole and not isinstance(layer.op, Conv | MaxPool)):
        return replace(given, beats=1, words=given.beats * given.words)
    if isinstance(layer.op, Conv | MaxPool):
        channels = layer.source.shape[0]
        return replace(given, beats=given.beats * given.words // channels, words=channels)
    return given


def _refuse_blow_up(stages: tuple[Stage, ...], target: Target) -> None:
    luts, multipliers = target.resources.get("LUT", 0), target.resources.get("DSP", 0)
    total = 0
    for stage in stages:
        layer, name = stage.layer, stage.layer.name
        unrolled = stage.strategy == "unrolled"
        if unrolled or (isinstance(layer.op, Conv) and stage.fold == 1):
            cost = layer.estimated_lut // (1 if unrolled else layer.positions)
            total += cost
            if kernel_weights(layer) > CORE_WEIGHTS:
                raise Unsupported(
                    f"layer {name} {stage.strategy}: an adder graph of {kernel_weights(layer):,} weights takes too long to find "
                    f"(limit {CORE_WEIGHTS:,}), ~{cost:,} LUT; "
                    + (STREAM if unrolled else f"use reuse: {layer.weights.shape[1]} or less, above 1")
                )
            if total > LUT_LIMIT * luts:
                cure = STREAM if unrolled else "use reuse above 1"
                raise Unsupported(
                    f"layer {name} {stage.strategy}: ~{cost:,} LUT, ~{total:,} with the layers before it, more than "
                    f"{LUT_LIMIT:.0%} of the {luts:,} of {target.part}; {cure}"
                )
    used = sum(stage.multipliers for stage in stages)
    if used > MULTIPLIER_LIMIT * multipliers:
        worst = max(stages, key=lambda stage: stage.multipliers)
        reuse = worst.fold if isinstance(worst.layer.op, Conv) else worst.cycles
        cure = f"use a larger reuse than {reuse}" if worst.lanes > 1 else "use a larger target"
        raise Unsupported(
            f"layer {worst.layer.name} streaming: {worst.multipliers:,} multipliers, the design {used:,}, more than "
            f"{MULTIPLIER_LIMIT:.0%} of the {multipliers:,} of {target.part}; {cure}"
        )


def table(stages: tuple[Stage, ...]) -> list[dict[str, Any]]:
    """Return what the record says of each stage."""
    return [
        {
            "layer": stage.layer.name,
            "strategy": stage.strategy,
            "interval_cycles": stage.cycles,
            "multipliers": stage.multipliers,
            "estimated_lut_unrolled": stage.layer.estimated_lut,
            "why": stage.why,
        }
        for stage in stages
    ]


def preview(graph: Graph, target: Target, variant: str) -> str:
    """Say what would be built: strategies, interval, multipliers and LUTs, all estimated."""
    made = design(graph, target, variant, {})
    unrolled = [stage for stage in made.stages if stage.strategy == "unrolled"]
    lut = sum(stage.layer.estimated_lut for stage in unrolled)
    multipliers = sum(stage.multipliers for stage in made.stages)
    shares = [f"about {lut:,} LUT in unrolled layers ({lut / max(target.resources.get('LUT', 1), 1):.1%})"] if unrolled else []
    if multipliers:
        shares.append(f"{multipliers:,} multipliers ({multipliers / max(target.resources.get('DSP', 1), 1):.1%} of the DSP)")
    streaming = len(made.stages) - len(unrolled)
    parts = [f"{len(unrolled)} layers unrolled"] * bool(unrolled) + [f"{streaming} streaming"] * bool(streaming)
    cycles = max(stage.cycles for stage in made.stages)
    return f"{', '.join(parts)}; one event in {cycles} cycles; {', '.join(shares) or 'no multipliers'}"
