"""From the integer graph to a design: layers in order, how each is built, and the streams between them.

A stream carries an event as `beats`, each of `words` codes. Images travel pixel by pixel, row by row, all channels of a
pixel in one beat; `order` says which element of the graph's tensor each word is. A layer is *unrolled* (a whole event per
cycle, or for a convolution every position in parallel) or *streaming* (one kernel position, or a part of a matrix, per cycle).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import Target
from caloedge.compiler.fixed import Codes, Format
from caloedge.compiler.graph import Conv2D, Dense, Flatten, Graph, InputQuantiser, MaxPool2D, Output, Requantise, Tensor
from caloedge.errors import Unsupported, UserError
from caloedge.project import AUTO, identifiers
from caloedge.recipe import LayerChoice

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
    """A matrix product or a max pool with the requantisations that follow it; only these when `op` is None."""

    name: str
    op: Conv2D | Dense | MaxPool2D | None
    requantise: tuple[tuple[Requantise, int], ...]
    """Each with the right shift from the format before it."""
    source: Tensor
    sums: Tensor
    """Before the requantisations."""
    result: Tensor
    order: NDArray[np.int64]
    """Stream order of the input's elements."""

    @property
    def positions(self) -> int:
        """How often the kernel is applied per event."""
        return int(np.prod(self.result.shape[1:])) if isinstance(self.op, Conv2D | MaxPool2D) else 1

    @property
    def weights(self) -> Codes:
        """(outputs, inputs) in stream order: (row, column, channel) of a kernel, or the words of an event."""
        match self.op:
            case Conv2D():
                return self.op.weights.transpose(0, 2, 3, 1).reshape(len(self.op.weights), -1)
            case Dense():
                return self.op.weights[:, self.order]
            case MaxPool2D() | None:
                raise AssertionError("max pools and requantisations have no weights")
            case _:
                assert_never(self.op)

    @property
    def estimated_lut(self) -> int:
        """Estimate of what the unrolled layer costs; without multipliers, so all of it is LUTs."""
        if self.op is None:
            return self.result.low.size * self.source.format.width
        if isinstance(self.op, MaxPool2D):  # each comparison is a carry chain and a choice, bit by bit
            return (math.prod(self.op.kernel) - 1) * 2 * self.source.format.width * self.result.low.size
        magnitude = np.abs(self.op.weights)
        span = np.frexp((magnitude // np.maximum(magnitude & -magnitude, 1)).astype(np.float64))[1]
        bits = self.source.format.width - int(self.source.format.signed)
        return round(LUT_PER_BIT_OPERATION * int(span.sum()) * self.positions * bits)


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
        if isinstance(self.layer.op, Conv2D):
            return convolution_cycles(self.layer, self.fold)
        if isinstance(self.layer.op, MaxPool2D):
            return math.prod(padded_shape(self.layer))
        return self.source.beats * self.fold

    @property
    def multipliers(self) -> int:
        """Hardware multipliers that work side by side; 0 where products are adder graphs."""
        op = self.layer.op
        if self.strategy == "unrolled" or not isinstance(op, Conv2D | Dense) or (isinstance(op, Conv2D) and self.fold == 1):
            return 0
        return self.lanes * len(op.weights)

    @property
    def lanes(self) -> int:
        """Words multiplied per cycle."""
        words = self.layer.weights.shape[1] if isinstance(self.layer.op, Conv2D) else self.source.words
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
    for op in graph.ops:
        if len(readers.get(op.name, [])) > 1:
            both = " and ".join(readers[op.name])
            raise Unsupported(f"layer {op.name}: is read by {both}; backend 'rtl' takes chains, use backend 'hls4ml'")
        tensor = graph.tensors[op.name]
        match op:
            case InputQuantiser():
                if len(op.shape) not in (1, 3):
                    raise Unsupported(f"layer {op.name}: an input of shape {op.shape}; backend 'rtl' takes (F,) and (C, H, W)")
                order = stream_order(op.shape)
            case Flatten():
                pass  # the words keep their order in the stream
            case Output():
                if not layers:
                    raise Unsupported(f"output {op.name}: is the input itself; backend 'rtl' needs a layer between")
            case Conv2D() | Dense() | MaxPool2D():
                layers.append(Layer(op.name, op, (), graph.tensors[op.inputs[0]], tensor, tensor, order))
                order = stream_order(tensor.shape)
            case Requantise():
                source = graph.tensors[op.inputs[0]]
                step = (op, source.format.fraction - op.format.fraction)
                if layers:
                    layers[-1] = replace(layers[-1], requantise=(*layers[-1].requantise, step), result=tensor)
                else:
                    layers.append(Layer(op.name, None, (step,), source, source, tensor, order))
            case _:
                assert_never(op)
    if len(graph.outputs) != 1:
        raise Unsupported(f"output {graph.outputs[1].name}: backend 'rtl' takes one output, use backend 'hls4ml'")
    return tuple(layers)


def stream_order(shape: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the flat index (C, H, W) of each element in stream order (H, W, C); a vector keeps its order."""
    index = np.arange(math.prod(shape)).reshape(shape)
    return np.moveaxis(index, 0, -1).reshape(-1) if len(shape) == 3 else index


def padded_shape(layer: Layer) -> tuple[int, int]:
    """Return (rows, columns) of the input of a convolution or a max pool with its padding."""
    if isinstance(layer.op, MaxPool2D):
        return layer.source.shape[1], layer.source.shape[2]
    assert isinstance(layer.op, Conv2D)
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
    stages = _stages(layers, strategies, choices, interval)
    most = max(stage.source.words for stage in stages)
    # Dense layers that would take too many multipliers are folded further, and events come less often.
    while interval < most and sum(stage.multipliers for stage in stages) > MULTIPLIER_LIMIT * target.resources.get("DSP", 0):
        interval = min(2 * interval, most)
        stages = _stages(layers, strategies, choices, interval)
    _refuse_blow_up(stages, target)
    return Design("caloedge_net", stages, graph.outputs[0].name, identifiers(graph))


def _stages(
    layers: tuple[Layer, ...],
    strategies: Mapping[str, tuple[str, str]],
    choices: Mapping[str, LayerChoice],
    interval: int,
) -> tuple[Stage, ...]:
    """Connect the layers; dense layers are folded to at most `interval` clock cycles per event."""
    stages = []
    beats = _input_stream(layers[0], strategies[layers[0].name][0])
    for layer in layers:
        strategy, why = strategies[layer.name]
        if strategy == "streaming" and isinstance(layer.op, Conv2D):
            _refuse_early_windows(layer)
        source = _regrouped(beats, layer, strategy)
        fold = _fold(layer, strategy, source, interval, choices.get(layer.name))
        beats = _result_stream(layer, strategy)
        stages.append(Stage(layer, strategy, fold, why, source, beats))
    return tuple(stages)


def _refuse_early_windows(layer: Layer) -> None:
    """Refuse windows that are complete before the first pixel of their event: they would leave before it came."""
    assert isinstance(layer.op, Conv2D)
    top, left = layer.op.padding[:2]
    height, width = layer.op.weights.shape[2:]
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
    return layer.op.weights.size if isinstance(layer.op, Conv2D | Dense) else 0


def _interval(layers: tuple[Layer, ...], strategies: Mapping[str, tuple[str, str]], choices: Mapping[str, LayerChoice]) -> int:
    """Return the clock cycles per event to which dense layers are folded.

    As many as the slowest streaming convolution or max pool needs, or one input word per cycle where there is none.
    """
    windowed = [x for x in layers if isinstance(x.op, Conv2D | MaxPool2D) and strategies[x.name][0] == "streaming"]
    if not windowed:
        return layers[0].source.low.size
    reuse = {x.name: (choices[x.name].reuse or 1) if x.name in choices else 1 for x in windowed}
    return max(max(math.prod(padded_shape(x)), x.positions * reuse[x.name]) for x in windowed)


def _fold(layer: Layer, strategy: str, source: Stream, interval: int, choice: LayerChoice | None) -> int:
    wanted = choice.reuse if choice else None
    if isinstance(layer.op, MaxPool2D) and wanted is not None:
        raise UserError(f"layers: {layer.name}: reuse {wanted}; a max pool has no multipliers to reuse, leave it out")
    if strategy == "unrolled" or layer.op is None or isinstance(layer.op, MaxPool2D):
        return 1
    if isinstance(layer.op, Conv2D):
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


def _input_stream(layer: Layer, strategy: str) -> Stream:
    shape, fmt = layer.source.shape, layer.source.format
    if strategy == "streaming" and len(shape) == 3:
        return Stream(shape[1] * shape[2], shape[0], fmt, layer.order)
    return Stream(1, math.prod(shape), fmt, layer.order)


def _result_stream(layer: Layer, strategy: str) -> Stream:
    shape = layer.result.shape
    beats = math.prod(shape[1:]) if strategy == "streaming" else 1
    return Stream(beats, math.prod(shape) // beats, layer.result.format, stream_order(shape))


def _regrouped(given: Stream, layer: Layer, strategy: str) -> Stream:
    """Return the stream that a layer reads: whole events when unrolled, pixels for a streaming window, else as given."""
    if strategy == "unrolled":
        return replace(given, beats=1, words=given.beats * given.words)
    if isinstance(layer.op, Conv2D | MaxPool2D):
        channels = layer.source.shape[0]
        return replace(given, beats=given.beats * given.words // channels, words=channels)
    return given


def _refuse_blow_up(stages: tuple[Stage, ...], target: Target) -> None:
    luts, multipliers = target.resources.get("LUT", 0), target.resources.get("DSP", 0)
    total = 0
    for stage in stages:
        layer, name = stage.layer, stage.layer.name
        unrolled = stage.strategy == "unrolled"
        if unrolled or (isinstance(layer.op, Conv2D) and stage.fold == 1):
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
        reuse = worst.fold if isinstance(worst.layer.op, Conv2D) else worst.cycles
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
