"""From the integer graph to the layers of the RTL backend: their order, shapes, constants and estimates, without any Verilog."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from random_networks import graphs, stimulus
from stream_layers import run_layers
from test_rtl_gate import gate_alone, network
from test_rtl_ops import NETWORKS, WEIGHT, draws, signed

from caloedge.backends.rtl.epilogue import Rounded, Scaled
from caloedge.backends.rtl.layers import (
    RtlLayer,
    flat_layers,
    image,
    kernel_weights,
    layers_of,
    padded_shape,
    span,
    stream_order,
    ungrouped,
    window_size,
)
from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import (
    Affine,
    Conv,
    Dense,
    InputQuantiser,
    MaxPool,
    Multiply,
    Op,
    Output,
    Rearrange,
    Requantise,
    Reshape,
    Table,
    Threshold,
)
from caloedge.errors import Unsupported

BYTE = Format(True, 8, 0)
CASES = NETWORKS | {
    "gates": network,
    "a gate with an excitation": lambda: gate_alone(excited=True),
    "a gate of sums": lambda: gate_alone(excited=False),
}


@pytest.mark.parametrize("case", CASES)
def test_layers_in_stream_order_say_what_the_graph_says(case: str) -> None:
    graph = CASES[case]()
    codes = stimulus(graph, 4, 20)
    assert run_layers(graph, codes).tolist() == graph.run(codes)["y"].tolist()


@pytest.mark.parametrize("case", CASES)
def test_a_layer_ends_with_what_its_last_step_makes(case: str) -> None:
    graph = CASES[case]()
    for layer in flat_layers(layers_of(graph)):
        made = graph.tensors[layer.after[-1].op.name if layer.after else layer.name]
        assert layer.result.format == made.format
        assert layer.result.range == made.range
        assert layer.result.shape == layer.sums.shape


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(graphs())
def test_layers_of_random_networks_say_what_the_graph_says(graph: Graph) -> None:
    last = graph.outputs[-1]
    alone = Graph(tuple(op for op in graph.ops if not isinstance(op, Output) or op is last))
    codes = stimulus(alone, 4, 4)
    assert run_layers(alone, codes).tolist() == alone.run(codes)[last.name].tolist()


def ones(*shape: int) -> np.ndarray:
    return np.ones(shape, dtype=np.int64)


def chain(*ops: Op, shape: tuple[int, ...] = (2, 4, 3), fmt: Format = BYTE) -> Graph:
    return Graph((InputQuantiser("x", shape, fmt), *ops, Output("y", (ops[-1].name,))))


def conv(name: str, source: str, *shape: int, seed: int = 1, **how: Any) -> Conv:
    w, b = draws(seed)
    return Conv(name, (source,), w(*shape), b(shape[0]), WEIGHT, **how)


def test_every_border_of_an_image_has_its_own_padding() -> None:
    graph = chain(conv("conv", "x", 3, 2, 2, 3, padding=(1, 2, 4, 8)), MaxPool("pool", ("conv",), (2, 2), (1, 1)))
    first, second = layers_of(graph)
    assert padded_shape(first) == (4 + 1 + 4, 3 + 2 + 8)
    assert padded_shape(second) == first.result.shape[1:] == (8, 11)


@pytest.mark.parametrize("groups", [1, 2, 3, 6])
def test_groups_have_zeros_where_they_read_nothing(groups: int) -> None:
    op = conv("conv", "x", 6, 6 // groups, 2, 3, groups=groups)
    whole = ungrouped(op)
    assert (whole.shape, whole.dtype) == ((6, 6, 2, 3), np.int64)
    for f, c in np.ndindex(6, 6):
        mine = c - f // (6 // groups) * (6 // groups)
        assert whole[f, c].tolist() == (op.weights[f, mine].tolist() if 0 <= mine < 6 // groups else [[0] * 3] * 2)


def test_a_signal_is_an_image_of_one_row() -> None:
    ops = (
        conv("conv", "x", 3, 2, 4, padding=(1, 2), stride=(2,), dilation=(3,)),
        signed("act", "conv"),
        MaxPool("pool", ("act",), (2,), (3,), (2,)),
    )
    graph = chain(*ops, shape=(2, 20))
    first, second = layers_of(graph)
    assert isinstance(first.op, Conv)
    assert isinstance(second.op, MaxPool)
    assert (first.op.kernel, first.op.stride, first.op.dilation, first.op.padding) == ((1, 4), (1, 2), (1, 3), (0, 1, 0, 2))
    assert first.op.weights[:, :, 0].tolist() == ops[0].weights.tolist()  # type: ignore[union-attr]
    assert (second.op.kernel, second.op.stride, second.op.dilation) == ((1, 2), (1, 3), (1, 2))
    assert (window_size(first.op), window_size(second.op)) == ((1, 10), (1, 3))
    assert [(layer.source.shape, layer.sums.shape, layer.result.shape) for layer in (first, second)] == [
        ((2, 1, 20), (3, 1, 7), (3, 1, 7)),
        ((3, 1, 7), (3, 1, 2), (3, 1, 2)),
    ]
    codes = stimulus(graph, 2, 30)
    assert run_layers(graph, codes).tolist() == graph.run(codes)["y"].tolist()


def test_an_image_of_a_signal_has_its_ranges_and_all_else_stays() -> None:
    graph = chain(Affine("shift", ("x",), ones(2, 1), np.array([[3], [-5]]), BYTE), shape=(2, 3))
    tensor = graph.tensors["shift"]
    seen = image(tensor)
    assert seen.shape == (2, 1, 3)
    assert (seen.low.tolist(), seen.high.tolist()) == (tensor.low[:, None].tolist(), tensor.high[:, None].tolist())
    assert image(seen) is seen


def test_words_of_a_pixel_are_its_channels() -> None:
    assert stream_order((2, 2, 3)).tolist() == [0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11]
    assert stream_order((2, 3)).tolist() == [0, 3, 1, 4, 2, 5]
    assert stream_order((4,)).tolist() == [0, 1, 2, 3]


@given(st.lists(st.integers(-(2**40), 2**40), min_size=1, max_size=9))
def test_a_span_is_from_the_highest_to_the_lowest_bit(weights: list[int]) -> None:
    bits = [abs(weight).bit_length() - ((weight & -weight).bit_length() - 1) if weight else 0 for weight in weights]
    assert span(np.array(weights)) == sum(bits)


# Estimates


def only(*ops: Op, **how: Any) -> RtlLayer:
    (layer,) = layers_of(chain(*ops, **how))
    return layer


def test_an_estimate_counts_bits_as_its_kind_of_layer_uses_them() -> None:
    unsigned, five = Format(False, 8, 0), np.full((3, 2, 2, 2), 5)  # a span of three bits
    bias, images = np.zeros(3, np.int64), {"fmt": unsigned}
    assert only(Conv("c", ("x",), five, bias, BYTE), **images).estimated_lut == round(0.6 * 72 * 6 * 8)
    assert only(Conv("c", ("x",), five, bias, BYTE)).estimated_lut == round(0.6 * 72 * 6 * 7)
    dense = Dense("d", ("x",), np.full((3, 4), -12), bias, BYTE)  # of two bits
    assert only(dense, shape=(4,)).estimated_lut == round(0.6 * 24 * 7)
    assert only(Requantise("q", ("x",), Format(True, 5, 0), relu=False)).estimated_lut == 24 * 8
    assert only(MaxPool("p", ("x",), (2, 3), (1, 1))).estimated_lut == (6 - 1) * 2 * 8 * 6
    for entries, bits in ((64, 6), (128, 7), (256, 8)):
        table = Table("t", ("x",), np.zeros((1, 1, 1, entries), np.int64), 0, Format(False, 3, 0))
        assert only(table, fmt=Format(False, bits, 0)).estimated_lut == 24 * 3 * (entries // 64)
    few = Threshold("t", ("x",), np.arange(5).reshape(1, 1, 1, 5), 0, 1, Format(False, 3, 0))
    assert only(few).estimated_lut == 24 * 3
    (gate,) = layers_of(gate_alone(excited=True))
    assert gate.excitation is not None
    assert gate.estimated_lut == 90 * 5 * (1 + gate.excitation.factors.width) == 90 * 5 * 7


def test_constants_behind_a_layer_are_added_to_its_estimate() -> None:
    """One rounded number of LUTs for each multiplication, by the width of what it multiplies."""
    ops = (
        Dense("d", ("x",), np.full((3, 4), 3), np.zeros(3, np.int64), BYTE),
        Affine("a", ("d",), np.array([5, 3, 1]), np.zeros(3, np.int64), BYTE),
    )
    layer = only(*ops, shape=(4,))
    assert layer.sums.format.width == 12
    assert layer.estimated_lut == round(0.6 * 24 * 7) + round(0.6 * 6 * 12)
    pool = (MaxPool("p", ("x",), (4, 3), (1, 1)), Affine("a", ("p",), np.full((2, 1, 1), 3), np.zeros((2, 1, 1), np.int64), BYTE))
    assert only(*pool).estimated_lut == 11 * 2 * 8 * 2 + round(0.6 * 4 * 8)
    first = Affine("a", ("x",), np.array([5, 3, 1, 0]), np.zeros(4, np.int64), BYTE)
    assert only(first, shape=(4,)).estimated_lut == 4 * 8 + round(0.6 * 6 * 8)


def test_a_layer_without_weights_has_none() -> None:
    for op in (MaxPool("p", ("x",), (2, 2), (1, 1)), Requantise("q", ("x",), Format(True, 5, 0), relu=False)):
        layer = only(op)
        assert kernel_weights(layer) == 0
        with pytest.raises(AssertionError, match=r"^max pools, tables, gates and requantisations have no weights$"):
            layer.weights  # noqa: B018
    assert kernel_weights(only(conv("c", "x", 3, 2, 2, 2))) == 24
    assert kernel_weights(only(Dense("d", ("x",), ones(3, 4), 0 * ones(3), BYTE), shape=(4,))) == 12


# Gates


def test_a_gate_knows_what_makes_its_factors() -> None:
    graph = network()
    conv0, gate, second, conv1 = layers_of(graph)
    tensors = graph.tensors
    for layer, source, sums, factors, product in (
        (gate, "act0", "vector", "factors", "gate"), (second, "gated", "total", "look", "gate2")
    ):  # fmt: skip
        assert layer.excitation is not None
        assert layer.excitation.sums == tensors[sums].format
        assert layer.excitation.factors == tensors[factors].format
        assert layer.source.format == tensors[source].format
        assert layer.sums.format == tensors[product].format
        assert layer.order.tolist() == layer.result_order.tolist() == stream_order((3, 6, 5)).tolist()
        assert layer.positions == 30
        assert layer.inner == layer.excitation.layers
    assert [[each.name for each in layer.inner] for layer in (gate, second)] == [["mean", "reduce", "expand"], ["small", "look"]]
    assert all(each.order.tolist() == list(range(each.source.size)) for each in (*gate.inner, *second.inner))
    assert [layer.inner for layer in (conv0, conv1)] == [(), ()]
    assert [layer.name for layer in flat_layers((gate,))] == ["gate", "mean", "reduce", "expand"]


# What follows a layer


def test_constants_that_differ_by_pixel_make_a_layer_whole() -> None:
    one, each = np.arange(1, 3).reshape(2, 1, 1), np.arange(1, 25).reshape(2, 4, 3)
    for weights, bias, whole in ((one, one, False), (each, one, True), (one, each, True)):
        layer = only(Affine("a", ("x",), weights, bias, BYTE))
        assert layer.needs_whole_event is whole
    table = np.zeros((2, 4, 3, 256), np.int64)
    assert not only(Table("t", ("x",), table, -128, BYTE)).needs_whole_event
    table[1, 2, 1, 77] = 1
    assert only(Table("t", ("x",), table, -128, BYTE)).needs_whole_event


def test_constants_that_differ_by_pixel_are_a_layer_of_their_own_behind_another() -> None:
    each, one = np.arange(1, 13).reshape(2, 3, 2), ones(2, 1, 1)
    pool = MaxPool("pool", ("x",), (2, 2), (1, 1))
    for weights, names in ((each, ["pool", "a"]), (one, ["pool"])):
        layers = layers_of(chain(pool, Affine("a", ("pool",), weights, one * 0, BYTE), signed("q", "a")))
        assert [layer.name for layer in layers] == names
        assert [step.op.name for step in layers[-1].after] == ["a", "q"]
    twice = [Affine(name, (source,), np.arange(24).reshape(2, 4, 3), 0 * ones(2, 4, 3), BYTE) for name, source in ("ax", "ba")]
    both = layers_of(chain(*twice))
    assert [layer.name for layer in both] == ["a"]


def test_rows_of_a_table_are_in_stream_order() -> None:
    values = np.arange(24)[:, None] * 4 + np.arange(4)
    layer = only(Table("t", ("x",), values.reshape(2, 4, 3, 4), 0, BYTE), fmt=Format(False, 2, 0))
    assert layer.rows.tolist() == values[stream_order((2, 4, 3))].tolist()
    repeated = only(Table("t", ("x",), values[:2].reshape(2, 1, 1, 4), 0, BYTE), fmt=Format(False, 2, 0))
    assert repeated.rows.tolist() == [*values[:2].tolist()] * 12
    assert only(signed("q", "x")).rows.size == 0


@pytest.mark.parametrize(
    ("op", "limited"),
    [
        (Requantise("q", ("x",), Format(True, 4, 0), relu=False), False),
        (Requantise("q", ("x",), Format(True, 4, 0), relu=False, narrow=True), False),
        (Requantise("q", ("x",), Format(False, 4, 0), relu=False, narrow=True), False),
        (Requantise("q", ("x",), Format(True, 4, 0), relu=True), False),
        (Requantise("q", ("x",), Format(True, 4, 0), relu=True, narrow=True), False),
        (Requantise("q", ("x",), Format(True, 4, 0), relu=False, limits=(-8, 7)), False),
        (Requantise("q", ("x",), Format(True, 4, 0), relu=False, narrow=True, limits=(-7, 7)), False),
        (Requantise("q", ("x",), Format(True, 4, 0), relu=False, limits=(-7, 7)), True),
        (Requantise("q", ("x",), Format(True, 4, 0), relu=False, limits=(-8, 6)), True),
        (Requantise("q", ("x",), Format(True, 4, 0), relu=True, limits=(1, 7)), True),
        (Requantise("q", ("x",), Format(True, 4, 0), relu=True, limits=(-3, 7)), False),
    ],
)
def test_only_limits_that_the_format_does_not_have_are_limits(op: Requantise, limited: bool) -> None:
    assert Rounded(op, 2).limited is limited


def test_where_no_bit_is_lost_every_rounding_is_a_truncation() -> None:
    for rounding in Rounding:
        op = Requantise("q", ("x",), Format(True, 9, 0), relu=False, rounding=rounding)
        plain = rounding in (Rounding.HALF_EVEN, Rounding.HALF_UP, Rounding.TRUNCATE)
        assert Rounded(op, 1).rounding is rounding
        for shift in (0, -1):
            assert Rounded(op, shift).rounding is (rounding if plain else Rounding.TRUNCATE)


def test_steps_know_their_shift_and_format() -> None:
    ops = (
        Affine("a", ("x",), np.full(4, 3), np.arange(4), Format(True, 8, 2)),
        Requantise("q", ("a",), Format(True, 8, -1), False),
    )
    first, second = only(*ops, shape=(4,)).after
    assert isinstance(first, Scaled)
    assert isinstance(second, Rounded)
    graph = chain(*ops, shape=(4,))
    assert (first.format, second.shift) == (graph.tensors["a"].format, 3)
    assert (first.weights.tolist(), first.bias.tolist()) == ([3, 3, 3, 3], [0, 1, 2, 3])


# What is refused, at the edge


def refused(graph: Graph) -> str:
    with pytest.raises(Unsupported) as caught:
        layers_of(graph)
    return str(caught.value)


def test_a_table_may_have_as_many_entries_as_are_built() -> None:
    for highest in (511, 512):
        codes = Requantise("few", ("x",), Format(True, 11, 0), relu=False, limits=(-512, highest))
        table = Table("t", ("few",), np.zeros((1, highest + 513), np.int64), -512, BYTE)
        graph = chain(codes, table, shape=(1,), fmt=Format(True, 11, 0))
        if highest == 511:
            assert layers_of(graph)[-1].rows.shape == (1, 1024)
        else:
            assert refused(graph).startswith("layer t: a table of 1,025 entries (limit 1,024) is not supported by backend 'rtl'")


def test_thresholds_are_compared_or_looked_up_or_refused() -> None:
    for count, highest, fine in ((64, 2047, True), (65, 511, True), (65, 512, False)):
        codes = Requantise("few", ("x",), Format(True, 12, 0), relu=False, limits=(-512, highest))
        counted = Threshold("t", ("few",), np.arange(count)[None], 0, 1, Format(False, 7, 0))
        graph = chain(codes, counted, shape=(1,), fmt=Format(True, 12, 0))
        if fine:
            assert layers_of(graph)[-1].rows.shape == (1, count)
        else:
            assert refused(graph).startswith("layer t: a count of 65 thresholds on fixed<12,12> (limit 64) is not supported by ")


@pytest.mark.parametrize("rounding", Rounding)
def test_a_rounding_may_lose_as_many_bits_as_offsets_have(rounding: Rounding) -> None:
    plain = rounding in (Rounding.HALF_EVEN, Rounding.HALF_UP, Rounding.TRUNCATE)
    for lost in (60, 61):
        op = Requantise("q", ("x",), Format(True, 4, 0), relu=False, rounding=rounding)
        graph = chain(op, shape=(1,), fmt=Format(True, 4, lost))
        if plain or lost == 60:
            (step,) = layers_of(graph)[0].after
            assert isinstance(step, Rounded)
            assert step.shift == lost
        else:
            assert refused(graph).startswith(f"layer q: rounding {rounding.value} of 61 bits is not supported by backend 'rtl'")


EMULATOR = "is not supported by backend 'rtl'; use backend 'emulator'"
TURNED = Rearrange("turn", ("x",), np.arange(24).reshape(2, 4, 3)[:, ::-1], kind="flip")


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (chain(signed("q", "x"), shape=(1, 2, 3, 4)),
         "layer x: an input of shape (1, 2, 3, 4); backend 'rtl' takes (F,), (C, L) and (C, H, W), use backend 'emulator'"),
        (Graph((InputQuantiser("x", (2,), BYTE), signed("q", "x"), Output("y", ("q",)), Output("z", ("q",)))),
         "layer q: is read by y and z; backend 'rtl' takes chains, use backend 'emulator'"),
        (Graph((InputQuantiser("x", (2,), BYTE), signed("q", "x"), Output("y", ("q",)), Output("z", ("y",)))),
         "output z: backend 'rtl' takes one output, use backend 'emulator'"),
        (chain(Reshape("flat", ("x",))), "output y: is the input itself; backend 'rtl' needs a layer between"),
        (chain(Reshape("cube", ("x",), (1, 2, 3, 4)), conv("deep", "cube", 2, 1, 1, 1, 1)),
         f"layer deep: a convolution over 3 axes {EMULATOR}"),
        (chain(signed("act", "x"), replace(TURNED, inputs=("act",)), conv("conv", "turn", 3, 2, 2, 2)),
         f"layer conv: an input whose pixels were rearranged {EMULATOR}"),
        (chain(signed("act", "x"), Rearrange("both", ("act", "act"), np.arange(48), kind="join")),
         "layer act: is read by both and both; backend 'rtl' takes chains, use backend 'emulator'"),
        (chain(signed("act", "x"), Rearrange("twice", ("act",), np.zeros(24, np.int64), kind="repeat")),
         f"layer twice: a repeat {EMULATOR}"),
        (chain(signed("act", "x"), Multiply("square", ("act", "act"))),
         "layer act: is read by square and square; backend 'rtl' takes chains, use backend 'emulator'"),
    ],
)  # fmt: skip
def test_what_is_no_chain_of_layers_is_refused(graph: Graph, message: str) -> None:
    assert refused(graph) == message


def test_what_is_rearranged_before_the_first_layer_costs_nothing() -> None:
    graph = chain(TURNED, conv("conv", "turn", 3, 2, 2, 2))
    codes = stimulus(graph, 2, 20)
    assert run_layers(graph, codes).tolist() == graph.run(codes)["y"].tolist()
    assert len(layers_of(graph)) == 1
    assert math.prod(layers_of(graph)[0].order.shape) == 24
