"""From layers to a design: how each is built, and the streams between them.

A stream carries an event as `beats`, each of `words` codes. Images travel pixel by pixel, row by row, all channels of a
pixel in one beat; `order` says which element of the graph's tensor each word is. A layer is *unrolled* (a whole event per
cycle, or for a convolution every position in parallel) or *streaming* (one kernel position, or a part of a matrix, per cycle).
A gate is one stage of the chain, with the stages of its excitation inside.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.backends.rtl.adders import width_problem
from caloedge.backends.rtl.layers import (
    NAME,
    RtlLayer,
    flat_layers,
    input_order,
    kernel_weights,
    layers_of,
    padded_shape,
    window_size,
)
from caloedge.catalog import Target
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Condense, Conv, Dense, MaxPool, Nearest, Table, Take, Threshold
from caloedge.compiler.squeeze_excite import Gate
from caloedge.compiler.unsupported import choice_option, kind, layer_names, refusal, refuse_unknown_layers
from caloedge.errors import Unsupported, UserError
from caloedge.project import AUTO, identifiers
from caloedge.recipe import LayerChoice

VARIANTS = (AUTO, "unrolled", "streaming")
NODE_VARIANTS = {f"nodes_{par}": par for par in (1, 2, 4, 8)}
"""Variants that take an event node by node, and their nodes per clock cycle: see `node_stream`."""
TOP = "caloedge_net"
"""The top module, until a project gives all modules the network's name."""
UNROLL_SHARE = 0.25
"""`auto` unrolls a layer while all unrolled layers together stay below this share of the target's LUTs."""
LUT_LIMIT, MULTIPLIER_LIMIT = 0.8, 0.95
"""Larger shares of a target's LUTs or multipliers are refused: it would not route."""
CORE_WEIGHTS = 16_384
"""The search for shared adders grows faster than the matrix; beyond this it takes many minutes."""


@dataclass(frozen=True, eq=False)
class Stream:
    """Form in which an event travels between two stages."""

    beats: int
    words: int
    format: Format
    order: NDArray[np.int64]
    """(beats * words,): element of the flattened graph tensor that each word is."""

    @property
    def bits(self) -> int:
        """Width of one beat."""
        return self.words * self.format.width


@dataclass(frozen=True)
class Strategy:
    """Choice for one layer, made before its cost is known."""

    name: str
    """`unrolled` or `streaming`."""
    why: str
    width_problem: str
    """Reason why an adder graph cannot hold it; see `adders.width_problem`."""


@dataclass(frozen=True, eq=False)
class RtlStage:
    """A layer and how it is built."""

    layer: RtlLayer
    strategy: str
    """`unrolled` or `streaming`."""
    reuse: int
    """Streaming only: clock cycles for which each multiplier is used, per beat (dense) or per position (convolution)."""
    why: str
    source: Stream
    result: Stream
    adder_graph: bool
    """Whether its products are sums of shifted words; otherwise multipliers make them, if there are any."""
    inner: tuple["RtlStage", ...] = ()
    """Stages of a gate that make factors of sums."""

    @property
    def cycles(self) -> int:
        """Clock cycles between two events that the stage itself needs."""
        if self.strategy == "unrolled":
            return 1
        if isinstance(self.layer.op, Conv):
            return convolution_cycles(self.layer, self.reuse)
        if isinstance(self.layer.op, MaxPool):
            return math.prod(padded_shape(self.layer))
        return self.source.beats * self.reuse

    @property
    def most_cycles(self) -> int:
        """Clock cycles per event beyond which it needs no fewer multipliers."""
        if isinstance(self.layer.op, Conv) and not self.adder_graph:
            return self.layer.positions * int(self.layer.weights.shape[1])
        return self.source.words

    @property
    def drain_cycles(self) -> int:
        """Clock cycles that it may go on without input where none of its events is under way."""
        grid = math.prod(padded_shape(self.layer)) if self.strategy == "streaming" and len(self.layer.source.shape) == 3 else 0
        return grid + 4 * self.reuse

    @property
    def multipliers(self) -> int:
        """Hardware multipliers that work side by side; 0 where products are adder graphs."""
        op = self.layer.op
        if isinstance(op, Gate):
            return self.source.words
        if self.adder_graph or not isinstance(op, Conv | Dense):
            return 0
        return self.lanes * len(op.weights)

    @property
    def lanes(self) -> int:
        """Words multiplied per cycle."""
        words = self.layer.weights.shape[1] if isinstance(self.layer.op, Conv) else self.source.words
        return -(-words // self.reuse)


@dataclass(frozen=True, eq=False)
class Design:
    """All stages in order; with one streaming stage, the whole design has handshakes."""

    name: str
    stages: tuple[RtlStage, ...]
    output: str
    """Name of the graph's output."""
    identifiers: Mapping[str, str]

    @property
    def streaming(self) -> bool:
        """Whether the ports have valid and ready; otherwise an event enters every cycle and never waits."""
        return any(stage.strategy == "streaming" for stage in self.stages)

    @property
    def all_stages(self) -> tuple[RtlStage, ...]:
        """All stages, those inside a gate behind it."""
        return flat_stages(self.stages)

    @property
    def source(self) -> Stream:
        """The input port's stream."""
        return self.stages[0].source

    @property
    def result(self) -> Stream:
        """The output port's stream."""
        return self.stages[-1].result


def flat_stages(stages: Iterable[RtlStage]) -> tuple[RtlStage, ...]:
    """Return stages in order, those inside a gate behind it."""
    return tuple(member for stage in stages for member in (stage, *flat_stages(stage.inner)))


def convolution_cycles(layer: RtlLayer, reuse: int) -> int:
    """Return the clock cycles per event of a streaming convolution: the padded grid, and `reuse` − 1 more for each position."""
    return math.prod(padded_shape(layer)) + layer.positions * (reuse - 1)


def design(graph: Graph, target: Target, variant: str, choices: Mapping[str, LayerChoice]) -> Design:
    """Decide how every layer is built; raise `Unsupported` before anything blows up."""
    if variant not in VARIANTS:
        raise UserError(f"backend 'rtl' has no variant {variant!r}; there are: {', '.join((*VARIANTS, *NODE_VARIANTS))}")
    refuse_unknown_layers(choices, layer_names(graph))
    if nodal := [op for op in graph.ops if isinstance(op, Nearest | Take | Condense)]:
        raise refusal(nodal[0], f"{kind(nodal[0])} in variant {variant!r}", NAME, f"use one of {', '.join(NODE_VARIANTS)}")
    layers = layers_of(graph)
    names = [layer.name for layer in flat_layers(layers)]
    if merged := [name for name in choices if name not in names]:
        raise UserError(f"layers: {merged[0]!r} is a part of another layer in backend 'rtl', which has: {', '.join(names)}")
    if variant != AUTO:
        choices = {}
    strategies = _strategies(flat_layers(layers), target, variant, choices)
    interval = _interval(layers, strategies, choices)
    stream = _input_stream(layers[0], input_order(graph, layers[0]), strategies[layers[0].name].name)
    stages = _stages(layers, stream, strategies, choices, interval)
    most = max(stage.most_cycles for stage in flat_stages(stages))
    # What would take too many multipliers is folded further, and events come less often.
    while interval < most and _multipliers(stages) > MULTIPLIER_LIMIT * target.resources.get("DSP", 0):
        interval = min(2 * interval, most)
        stages = _stages(layers, stream, strategies, choices, interval)
    _refuse_blow_up(flat_stages(stages), target)
    return Design(TOP, stages, graph.outputs[0].name, identifiers(graph))


def _multipliers(stages: Iterable[RtlStage]) -> int:
    return sum(stage.multipliers for stage in flat_stages(stages))


def _stages(
    layers: tuple[RtlLayer, ...],
    beats: Stream,
    strategies: Mapping[str, Strategy],
    choices: Mapping[str, LayerChoice],
    interval: int,
) -> tuple[RtlStage, ...]:
    """Connect layers behind a stream; multipliers are reused for at most about `interval` clock cycles per event."""
    stages = []
    for layer in layers:
        chosen = strategies[layer.name]
        strategy = chosen.name
        if strategy == "streaming" and isinstance(layer.op, Conv):
            _refuse_early_windows(layer)
        source = _regrouped(beats, layer, strategy)
        reuse = _reuse(layer, chosen, source, interval, choices.get(layer.name))
        adder_graph = strategy == "unrolled" or (isinstance(layer.op, Conv) and reuse == 1 and not chosen.width_problem)
        inner: tuple[RtlStage, ...] = ()
        if layer.excitation:
            channels = np.arange(source.words)
            sums = Stream(1, source.words, layer.excitation.sums, channels)
            inner = _stages(layer.excitation.layers, sums, strategies, choices, interval)
        beats = _result_stream(layer, strategy, source)
        stages.append(RtlStage(layer, strategy, reuse, chosen.why, source, beats, adder_graph, inner))
    return tuple(stages)


def _refuse_early_windows(layer: RtlLayer) -> None:
    """Refuse windows that are complete before the first pixel of their event: they would leave before it came."""
    assert isinstance(layer.op, Conv)
    top, left = layer.op.padding[:2]
    height, width = window_size(layer.op)
    if (height - 1, width - 1) < (top, left):
        raise Unsupported(
            f"layer {layer.name} streaming: padding {layer.op.padding} holds whole windows of {height}×{width} before the first "
            f"pixel; use less padding, or {choice_option(layer.name, 'unrolled')}"
        )


def _strategies(
    layers: tuple[RtlLayer, ...], target: Target, variant: str, choices: Mapping[str, LayerChoice]
) -> dict[str, Strategy]:
    """Return how each layer is to be built, by name."""
    lut_left = UNROLL_SHARE * target.resources.get("LUT", 0)
    by_layer: dict[str, Strategy] = {}
    for layer in layers:
        choice = choices.get(layer.name)
        if isinstance(layer.op, Gate):
            if variant == "unrolled" or (choice and choice.strategy == "unrolled"):
                raise Unsupported(f"layer {layer.name} unrolled: a gate waits for its event's last pixel; {_stream(layer)}")
            by_layer[layer.name] = Strategy("streaming", "pixels of a gate wait until the last one of their event is summed", "")
            continue
        lut, wide = layer.estimated_lut, width_problem(layer)
        estimate = f"about {lut:,} LUT unrolled (estimated)"
        if variant != AUTO:
            name, why = variant, f"variant {variant}; {estimate}"
        elif choice and (choice.strategy or choice.reuse):
            name, why = choice.strategy or "streaming", f"chosen in the recipe; {estimate}"
        elif wide:
            name, why = "streaming", wide
        elif lut <= lut_left and kernel_weights(layer) <= CORE_WEIGHTS:
            name, why = "unrolled", f"{estimate}, within the {UNROLL_SHARE:.0%} of {target.part} kept for it"
        else:
            name, why = "streaming", f"{estimate}, beyond the {UNROLL_SHARE:.0%} of {target.part} kept for it"
        if name == "unrolled":
            if wide:
                raise Unsupported(f"layer {layer.name} unrolled: {wide}; {_stream(layer)}")
            lut_left -= lut
        by_layer[layer.name] = Strategy(name, why, wide)
    return by_layer


def _stream(layer: RtlLayer) -> str:
    return f"use {choice_option(layer.name, 'streaming')}"


def _interval(layers: tuple[RtlLayer, ...], strategies: Mapping[str, Strategy], choices: Mapping[str, LayerChoice]) -> int:
    """Return the clock cycles per event up to which layers reuse their multipliers.

    As many as the slowest streaming convolution, max pool or gate needs, or one input word per cycle where there is none.
    """
    windowed = [x for x in layers if isinstance(x.op, Conv | MaxPool | Gate) and strategies[x.name].name == "streaming"]
    if not windowed:
        return layers[0].source.size
    reuse = {x.name: (choices[x.name].reuse if x.name in choices else None) or least_reuse(x) for x in windowed}
    return max(max(math.prod(padded_shape(x)), x.positions * reuse[x.name]) for x in windowed)


def least_reuse(layer: RtlLayer) -> int:
    """Return the cycles per position below which a streaming convolution is not built unless it is asked for."""
    weights = kernel_weights(layer)
    return (
        1
        if not isinstance(layer.op, Conv) or weights <= CORE_WEIGHTS
        else min(layer.weights.shape[1], -(-weights // CORE_WEIGHTS))
    )


def _reuse(layer: RtlLayer, strategy: Strategy, source: Stream, interval: int, choice: LayerChoice | None) -> int:
    """Return `RtlStage.reuse`; a choice for a dense layer is per event instead."""
    reuse = choice.reuse if choice else None
    if isinstance(layer.op, Gate) and reuse is not None:
        raise UserError(f"layers: {layer.name}: reuse {reuse}; a gate multiplies one pixel per cycle, leave it out")
    if isinstance(layer.op, MaxPool | Table | Threshold) and reuse is not None:
        raise UserError(f"layers: {layer.name}: reuse {reuse}; {kind(layer.op)} has no multipliers to reuse, leave it out")
    if strategy.name == "unrolled" or not isinstance(layer.op, Conv | Dense):
        return 1
    if isinstance(layer.op, Conv):
        words = int(layer.weights.shape[1])
        if reuse is None:
            least = least_reuse(layer)
            if least == 1 and not strategy.width_problem:
                return 1
            return max(least, min(words, interval // layer.positions))
        if not 1 <= reuse <= words:
            raise UserError(f"layers: {layer.name}: reuse {reuse} cycles per position; 1 to {words} are possible")
        return reuse
    most = source.beats * source.words
    if reuse is None:
        return max(1, min(source.words, interval // source.beats))
    if reuse % source.beats or not source.beats <= reuse <= most:
        raise UserError(
            f"layers: {layer.name}: reuse {reuse}; its {source.beats} beats of {source.words} words allow multiples of "
            f"{source.beats} up to {most}"
        )
    return reuse // source.beats


def _input_stream(layer: RtlLayer, order: NDArray[np.int64], strategy: str) -> Stream:
    shape, fmt = layer.source.shape, layer.source.format
    if strategy == "streaming" and len(shape) == 3:
        return Stream(shape[1] * shape[2], shape[0], fmt, order)
    return Stream(1, math.prod(shape), fmt, order)


def _result_stream(layer: RtlLayer, strategy: str, source: Stream) -> Stream:
    if isinstance(layer.op, Conv | MaxPool | Dense | Gate):
        beats = math.prod(layer.sums.shape[1:]) if strategy == "streaming" else 1
    else:
        beats = source.beats
    return Stream(beats, layer.result.size // beats, layer.result.format, layer.result_order)


def _regrouped(stream: Stream, layer: RtlLayer, strategy: str) -> Stream:
    """Return the stream that a layer reads: whole events when unrolled, pixels for a window or a gate, else as given."""
    windowed = isinstance(layer.op, Conv | MaxPool | Gate)
    if strategy == "unrolled" or (layer.needs_whole_event and not windowed):
        return replace(stream, beats=1, words=stream.beats * stream.words)
    if windowed:
        channels = layer.source.shape[0]
        return replace(stream, beats=stream.beats * stream.words // channels, words=channels)
    return stream


def _refuse_blow_up(stages: tuple[RtlStage, ...], target: Target) -> None:
    luts, multipliers = target.resources.get("LUT", 0), target.resources.get("DSP", 0)
    total = 0
    for stage in stages:
        layer, name = stage.layer, stage.layer.name
        unrolled = stage.strategy == "unrolled"
        reusing = f"use {choice_option(name, 'streaming:2')}"
        if stage.adder_graph:
            cost = layer.estimated_lut // (1 if unrolled else layer.positions)
            total += cost
            if kernel_weights(layer) > CORE_WEIGHTS:
                raise Unsupported(
                    f"layer {name} {stage.strategy}: an adder graph of {kernel_weights(layer):,} weights takes too long to find "
                    f"(limit {CORE_WEIGHTS:,}), ~{cost:,} LUT; {_stream(layer) if unrolled else reusing}"
                )
            if total > LUT_LIMIT * luts:
                raise Unsupported(
                    f"layer {name} {stage.strategy}: ~{cost:,} LUT, ~{total:,} with the layers before it, more than "
                    f"{LUT_LIMIT:.0%} of the {luts:,} of {target.part}; {_stream(layer) if unrolled else reusing}"
                )
    used = sum(stage.multipliers for stage in stages)
    if used > MULTIPLIER_LIMIT * multipliers:
        worst = max(stages, key=lambda stage: stage.multipliers)
        reuse, most = (worst.reuse, worst.layer.weights.shape[1])
        if not isinstance(worst.layer.op, Conv):
            reuse, most = worst.cycles, worst.source.beats * worst.source.words
        more = choice_option(worst.layer.name, f"streaming:{min(2 * reuse, most)}")
        cure = f"use {more}, or more" if worst.lanes > 1 else "use a larger target"
        raise Unsupported(
            f"layer {worst.layer.name} streaming: {worst.multipliers:,} multipliers, the design {used:,}, more than "
            f"{MULTIPLIER_LIMIT:.0%} of the {multipliers:,} of {target.part}; {cure}"
        )


def table(stages: Iterable[RtlStage]) -> list[dict[str, Any]]:
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


def preview(graph: Graph, target: Target, variant: str, choices: Mapping[str, LayerChoice]) -> str:
    """Say what would be built: strategies, interval, multipliers and LUTs, all estimated; raise as `design` does."""
    planned = design(graph, target, variant, choices)
    unrolled = [stage for stage in planned.all_stages if stage.strategy == "unrolled"]
    lut = sum(stage.layer.estimated_lut for stage in unrolled)
    multipliers = sum(stage.multipliers for stage in planned.all_stages)
    shares = [f"about {lut:,} LUT in unrolled layers ({lut / max(target.resources.get('LUT', 1), 1):.1%})"] if unrolled else []
    if multipliers:
        shares.append(f"{multipliers:,} multipliers ({multipliers / max(target.resources.get('DSP', 1), 1):.1%} of the DSP)")
    streaming = len(planned.all_stages) - len(unrolled)
    parts = [f"{len(unrolled)} layers unrolled"] * bool(unrolled) + [f"{streaming} streaming"] * bool(streaming)
    cycles = max(stage.cycles for stage in planned.all_stages)
    return f"{', '.join(parts)}; one event in {cycles} cycles; {', '.join(shares) or 'no multipliers'}"
