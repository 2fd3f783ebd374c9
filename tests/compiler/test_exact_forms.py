"""Forms that need more than a shift: several scales, biases between two codes, powers, folded constants, other shapes and types.

Each equals the executor on every code, and each of its twins with one wrong number does not; or it is refused by its true reason.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from small_qonnx import File, same

from caloedge.catalog import Backend, Target, find, names
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import compile_file, read
from caloedge.compiler.ops import Conv, Dense, InputQuantiser, Multiply, Rearrange
from caloedge.errors import BadData, Unsupported, UserError
from caloedge.verification.codes import random_codes

pytest.importorskip("qonnx")
pytest.importorskip("onnxruntime")

INTS, F64 = np.int64, np.float64


def weights(file: File, *shape: int, scale: object = 0.0127, bits: int = 8) -> str:
    return file.quant(file.constant(np.random.default_rng(sum(shape)).normal(0, 0.4, shape)), scale, bits)


def branches(*shape: int, channels: tuple[int, ...] = (5, 4)) -> tuple[File, str]:
    """Return a file that quantises slices of its input with different scales, and joins them again."""
    file = File((sum(channels), *shape), scale=0.0311)
    starts = np.cumsum((0, *channels))
    parts = [
        file.quant(file.node("Slice", "q", *(file.constant([n], INTS) for n in (start, end, 1))), 0.031 * 0.8**number, 7)
        for number, (start, end) in enumerate(pairwise(starts))
    ]
    return file, file.node("Concat", *parts, axis=1)


def dense_after_branches(kind: str, bias: bool = False) -> File:
    file, x = branches()
    constants = [weights(file, 9, 3), *([file.constant([0.3, -1.1, 0.07])] if bias else [])]
    file.node(kind, x, *constants, out="y", **({"alpha": 0.3, "beta": 2.0} if kind == "Gemm" else {}))
    return file


def conv_after_channels(groups: int = 1, count: int = 12, **window: object) -> File:
    """Return a file with a convolution behind a quantiser that has a scale per channel, more than are split."""
    file = File((count, 4, 4))
    scales = (0.01 + 0.001 * np.arange(count)).astype(np.float32).reshape(-1, 1, 1)
    x = file.quant(file.node("Mul", "q", file.constant(0.3)), scales, 7)
    file.node("Conv", x, weights(file, 4, count // groups, 2, 2), out="y", group=groups, **window)
    return file


def after_positions(kind: str, *constants: tuple[object, object], **attributes: object) -> File:
    """Return a file with a node behind a mean that divides by other numbers at the edge: its scale differs by position."""
    file = File((3, 4, 4))
    mean = file.node("AveragePool", "q", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    names = [file.constant(values, type_of) for values, type_of in constants]
    file.quant(file.node(kind, mean, *names, **attributes), 0.5, 8, out="y")
    return file


def biased(scale: float = 0.25, bias: object = (0.3, -1.1, 0.07, 0.5), opset: int = 13, size: int = 6) -> tuple[File, str]:
    """Return a file with a dense layer that has a float bias, and the name of its result."""
    file = File((size,), opset, scale=scale)
    return file, file.node("Gemm", "q", weights(file, size, 4), file.constant(bias))


def chosen(kind: str, **how: object) -> File:
    file, x = biased(0.311)
    file.node(kind, x, out="y", axis=1, **how)
    return file


def ties(kind: str) -> File:
    """Return a file whose scores differ by whole steps of their scale, so that they are equal as often as not."""
    file = File((4,), scale=0.3)
    steps = np.float64(np.float32(0.3)) * np.array([0, 1, -2, 0.5])
    file.node(kind, file.node("Add", "q", file.constant(steps, F64)), out="y", axis=1)
    return file


def best(output: str) -> File:
    file, x = biased(0.0311 if output == "indices" else 0.25, (0.25, -1.5, 0.5, 0.125), 11)
    file.node("TopK", x, file.constant([2], INTS), out="y indices" if output == "values" else "values y", axis=1)
    return file


def input_channel_scales() -> File:
    """Return a file whose weights have a scale per input channel, which no single integer of 24 bits holds."""
    file = File((6,))
    scales = np.float32(0.0127) * np.linspace(1, 2, 6, dtype=np.float32)[:, None]
    file.node("MatMul", "q", weights(file, 6, 3, scale=scales), out="y")
    return file


def two_of_channels(kind: str) -> File:
    """Return a file that multiplies two tensors with a scale for each row."""
    file = File((4, 4))
    scaled = file.quant("q", np.reshape([0.25, 0.375, 0.625, 0.6875], (4, 1)), 6)
    file.quant(file.node(kind, scaled, file.node("Add", scaled, file.constant(0.109375))), 1.0, 8, out="y")
    return file


def padded_bias() -> File:
    file = File((2, 3, 3))
    x = file.node("Add", "q", file.constant(np.reshape([0.1, 0.7], (2, 1, 1))))
    pads = file.constant([0, 0, 1, 1, 0, 0, 1, 1], INTS)
    file.quant(file.node("Conv", file.node("Pad", x, pads), weights(file, 2, 2, 2, 2)), 0.3, 8, out="y")
    return file


def power(exponent: float, then: str = "ReduceSum", bias: float = 0.0) -> File:
    file = File((3, 4))
    x = file.node("Add", "q", file.constant(np.float32(bias))) if bias else "q"
    x = file.node("Pow", x, file.constant(exponent))
    x = file.node("Sub", file.node("Mul", x, file.constant(0.75)), file.constant(0.5))
    if then == "ArgMin":
        file.node("ArgMin", x, out="y", axis=2)
    else:
        file.node(then, x, file.constant([1], INTS), out="y", keepdims=0)
    return file


def reduced(kind: str) -> File:
    file = File((3, 4))
    file.quant(file.node(kind, "q", axes=[1], keepdims=1), 0.3, 8, 0, out="y")
    return file


def folded(kind: str, *values: object, **attributes: object) -> File:
    """Return a file that adds a number which one node makes of constants."""
    file = File((3,))
    names = [file.constant(value, np.asarray(value).dtype if np.asarray(value).dtype != F64 else np.float32) for value in values]
    made = file.node("Cast", file.node(kind, *names, **attributes), to=TensorProto.FLOAT)
    total = file.node("ReduceSum", made, keepdims=0)
    file.quant(file.node("Add", "q", total), 0.3, 8, out="y")
    return file


def bit_width() -> File:
    """Return a file that calculates a bit width as Brevitas' export does: the logarithm of the largest sum."""
    file = File((3,))
    log = file.node("Div", file.node("Log", file.constant(9180.0)), file.constant(np.log(2.0)))
    bits = file.node("Sub", file.node("Ceil", log), file.constant(8.0))
    how = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND", "domain": "qonnx.custom_op.general"}
    file.node("Quant", "q", file.constant(0.5), file.constant(0.0), bits, out="y", **how)
    return file


def first_state() -> File:
    file = File((4,))
    state = file.quant(file.constant(np.full((1, 6), 0.3)))
    old = file.node("Gemm", state, weights(file, 6, 6), file.constant(np.linspace(-1, 1, 6)))
    new = file.node("Gemm", "q", weights(file, 4, 6), file.constant(np.zeros(6)))
    file.quant(file.node("Add", new, file.node("Tanh", old)), 0.125, 8, out="y")
    return file


def joined_state(quantise: bool) -> File:
    """Return a recurrent cell that joins its input with a first state."""
    file = File((4,))
    state = file.constant(np.linspace(-1, 1, 6)[None])
    state = file.quant(state, 0.3) if quantise else state
    x = file.node("Concat", state, "q", axis=1)
    file.quant(file.node("Gemm", x, weights(file, 10, 3), file.constant(np.zeros(3))), 0.125, 8, out="y")
    return file


def limit_first(kind: str) -> File:
    file = File((4,))
    file.quant(file.node(kind, file.constant(0.7), "q"), 0.3, 8, out="y")
    return file


def truncated_mean() -> File:
    """Return a file whose Trunc names the scale of a mean, rounded to float32."""
    file = File((2, 3, 3), scale=np.float32(0.0089724))
    mean = file.node("GlobalAveragePool", "q")
    step = np.float32(0.0089724) / np.float32(9)
    constants = [file.constant(value) for value in (step, 0.0, 10, 4)]
    how = {"rounding_mode": "FLOOR", "domain": "qonnx.custom_op.general"}
    file.node("Trunc", mean, *constants, out="y", **how)
    return file


def squeezed() -> File:
    file = File((8,))
    file.node("Squeeze", file.quant(file.node("MatMul", "q", weights(file, 8, 1)), 0.3), file.constant([1], INTS), out="y")
    return file


def column() -> File:
    file = File(())
    file.node("MatMul", file.node("Unsqueeze", "q", file.constant([1], INTS)), weights(file, 1, 4), out="y")
    return file


def whole(kind: int, scale: float) -> File:
    file = File((6,), scale=scale, kind=kind)
    file.node("MatMul", "q", weights(file, 6, 3), out="y")
    return file


def camera() -> File:
    """Return a file that takes the bytes of a camera, divided by 255, as FINN's preprocessing does."""
    file = File((6,), kind=TensorProto.UINT8)
    file.nodes.clear()
    reals = file.node("Div", file.node("Cast", "x", to=TensorProto.FLOAT), file.constant(255.0))
    file.node("MatMul", file.quant(reals, np.float32(1 / 255), 8, 0), weights(file, 6, 3), out="y")
    return file


EXACT: dict[str, Callable[[], File]] = {
    "MatMul after branches": lambda: dense_after_branches("MatMul"),
    "Gemm after branches, with a bias": lambda: dense_after_branches("Gemm", bias=True),
    "Conv after twelve scales": conv_after_channels,
    "padded Conv after twelve scales": lambda: conv_after_channels(pads=[1, 0, 0, 1]),
    "Conv of two groups after eight scales": lambda: conv_after_channels(2, 8),
    "depthwise Conv after four scales": lambda: conv_after_channels(4, 4),
    "Conv after scales of positions": lambda: after_positions("Conv", (np.ones((2, 3, 2, 2)), np.float32)),
    "MaxPool after scales of positions": lambda: after_positions("MaxPool", kernel_shape=[2, 2]),
    "ReduceSum after scales of positions": lambda: after_positions("ReduceSum", ([2, 3], INTS)),
    "MatMul after scales of positions": lambda: after_positions("MatMul", (np.ones((4, 2)), np.float32)),
    "weights with a scale per input channel": input_channel_scales,
    "MatMul of two tensors with scales per row": lambda: two_of_channels("MatMul"),
    "Mul of a tensor with a bias": lambda: two_of_channels("Mul"),
    "Pad of what has no code for zero": padded_bias,
    "ArgMax with a float bias": lambda: chosen("ArgMax"),
    "ArgMin with a float bias": lambda: chosen("ArgMin", keepdims=0),
    "ArgMax with ties": lambda: ties("ArgMax"),
    "ArgMin with ties": lambda: ties("ArgMin"),
    "TopK indices with a float bias": lambda: best("indices"),
    "Pow 2": lambda: power(2.0),
    "Pow 3": lambda: power(3.0),
    "Pow 4 of a biased tensor": lambda: power(4.0, bias=0.109375),
    "Pow 2 and a minimum": lambda: power(2.0, "ArgMin"),
    "ReduceSumSquare": lambda: reduced("ReduceSumSquare"),
    "ReduceL2": lambda: reduced("ReduceL2"),
    "Log": lambda: folded("Log", 9.5),
    "Sigmoid": lambda: folded("Sigmoid", [0.3, -2.0]),
    "Where": lambda: folded("Where", np.array([True, False]), [1.5, 2.0], [0.25, 0.75]),
    "Less": lambda: folded("Less", [1.5, 2.0], [1.75, 0.5]),
    "Concat": lambda: folded("Concat", [1.5, 2.0], [0.25], axis=0),
    "Conv of constants": lambda: folded("Conv", np.ones((1, 2, 3)), np.ones((1, 2, 2)) / 4),
    "Gemm of constants": first_state,
    "a first state joined with the input": lambda: joined_state(quantise=True),
    "a first state without a quantiser": lambda: joined_state(quantise=False),
    "Min of a constant and a tensor": lambda: limit_first("Min"),
    "Max of a constant and a tensor": lambda: limit_first("Max"),
    "a bit width by logarithms": bit_width,
    "Trunc of a mean": truncated_mean,
    "one number an event": squeezed,
    "an input of one number an event": column,
    "the bytes of a camera": camera,
    **{
        f"an input of {name}, scale {scale}": lambda name=name, scale=scale: whole(getattr(TensorProto, name), scale)
        for name in ("UINT8", "INT8", "INT32", "BOOL")
        for scale in (0.25, 0.3, 3.7)
    },
}


@pytest.mark.parametrize("case", EXACT)
def test_it_is_what_the_executor_makes_of_it(case: str, tmp_path: Path) -> None:
    same(EXACT[case]().save(tmp_path / "case.onnx", "y"))


@pytest.mark.parametrize(
    "case",
    [
        *("Gemm after branches, with a bias", "Conv after twelve scales", "ArgMax with a float bias", "Pow 4 of a biased tensor"),
        *("one number an event", "the bytes of a camera", "ReduceL2"),
    ],
)
def test_the_emulator_builds_it(case: str, tmp_path: Path) -> None:
    graph = read(EXACT[case]().save(tmp_path / "case.onnx", "y"))
    emulator = find(Backend, "emulator")
    emulator.build(graph, find(Target, "xcvu13p"), "native", tmp_path / "built", {})
    codes = random_codes(graph, 200, seed=2)
    assert np.array_equal(emulator.emulate(tmp_path / "built", codes)["y"], graph.run(codes)["y"])


# What is refused, and why


def fine_scales(count: int) -> File:
    """Return a file in which a dense layer reads sums whose scales are products of floats: they have no common unit."""
    file = File((4,), scale=0.0311)
    scales = np.float32(0.0127) + np.float32(0.0031) * np.arange(count, dtype=np.float32)
    sums = file.node("Mul", file.node("MatMul", "q", weights(file, 4, count, scale=scales)), file.constant(scales))
    file.node("MatMul", sums, weights(file, count, 2), out="y")
    return file


def unquantised_after_branches() -> File:
    file, x = branches()
    file.node("MatMul", x, file.constant(np.random.default_rng(1).normal(size=(9, 3))), out="y")
    return file


def softmax_of_bias() -> File:
    file, x = biased(0.25)
    file.quant(file.node("Softmax", x, axis=1), 2.0**-8, 8, 0, out="y")
    return file


def softmax_of_scales() -> File:
    file = File((4,))
    x = file.quant("q", [0.25, 0.3, 0.11, 0.7], 6)
    file.quant(file.node("Softmax", x, axis=1), 2.0**-8, 8, 0, out="y")
    return file


def threshold_behind(kind: str) -> File:
    file = File((4,))
    file.node("BipolarQuant", file.node(kind, "q"), file.constant(1.0), out="y", domain="qonnx.custom_op.general")
    return file


def reduce_max_of_bias() -> File:
    file, x = biased(0.0311, size=64)
    file.node("ReduceMax", x, out="y", axes=[1])
    return file


def wide_product() -> File:
    """Return a file that multiplies codes of 32 bits whose channels have scales of their own, which a product keeps."""
    file = File((2,))
    x = file.quant("q", 2.0**-28 * np.array([1, 3]), 32)
    file.node("Mul", x, x, out="y")
    return file


def folded_step() -> File:
    """Return a file that rounds 0.1 · 10 up: 1 in float32 and a little more with the float32 nearest to 0.1."""
    file = File((3,))
    ten = file.node("Mul", file.constant(0.1), file.constant(10.0))
    file.node("Add", "q", file.node("Ceil", ten), out="y")
    return file


REFUSED: dict[str, tuple[Callable[[], File], str]] = {
    "Dense after fine scales": (
        lambda: fine_scales(6),
        "output y: its scales have no common unit in 62 bits; use the same scale, or scales that are powers of two",
    ),
    "Dense after many fine scales": (
        lambda: fine_scales(12),
        "node MatMul_node: its input has 12 different scales without a common unit in 62 bits; quantise it with one scale per "
        r"tensor \(one QuantIdentity behind all branches\)$",
    ),
    "weights that are not quantised, after branches": (
        unquantised_after_branches,
        "node MatMul_node: weights are not quantised: as integers they need more than 24 bits",
    ),
    "ReduceMax with a float bias": (
        reduce_max_of_bias,
        "node ReduceMax_node: the bias of its input is no multiple of the input's scale, and both together do not fit 62 bits; "
        "use bias_quant=Int16Bias in the layer before, or a QuantIdentity between them$",
    ),
    "Mul of too many bits": (
        wide_product,
        r"node Mul_node: layer multiply_1: its sums may reach .* and do not fit 62 bits; use fewer bits per weight or input$",
    ),
    "Softmax with a float bias": (
        softmax_of_bias,
        "node Quant_node: a softmax of scores whose bias is no multiple of their scale is not supported; use "
        "bias_quant=Int16Bias in the layer before, or a QuantIdentity between them$",
    ),
    "Softmax of several scales": (
        softmax_of_scales,
        "node Quant_node: a softmax of scores with 4 different scales is not supported; quantise them with one scale per tensor$",
    ),
    "BipolarQuant behind Tanh": (
        lambda: threshold_behind("Tanh"),
        "thresholds on the result of Tanh_node are not supported; use a Quant of two bits or more$",
    ),
    "a constant of many elements": (
        lambda: folded("ConstantOfShape", np.array([2**14, 2**14])),
        r"node ConstantOfShape_node: a constant of 2\.68e\+08 elements is too large$",
    ),
    "OneHot of unknown depth": (
        lambda: folded("OneHot", np.array([1]), np.array([10**9]), [0.0, 1.0]),
        "node OneHot_node: (the size of what OneHot makes of constants is not known before|a constant of 1e\\+09 elements)",
    ),
    "a product of many constants": (
        lambda: folded("MatMul", np.zeros((2**10, 2**6)), np.zeros((2**6, 2**10)).repeat(16, axis=1)),
        r"a product of constants of \(1024, 64\) and \(64, 16384\) is too large$",
    ),
    "a step that float32 decides": (
        folded_step,
        "node Ceil_node: its result depends on whether constants are calculated in float32 or float64; store it as a number$",
    ),
    "random numbers": (lambda: folded("RandomNormal", shape=[2]), "operator RandomNormal is not supported"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_by_its_true_reason(case: str, tmp_path: Path) -> None:
    make, words = REFUSED[case]
    with pytest.raises(Unsupported, match=words):
        compile_file(make().save(tmp_path / "case.onnx", "y"))


def test_constants_that_contradict_themselves_are_damage(tmp_path: Path) -> None:
    file = folded("MatMul", np.zeros((2, 3)), np.zeros((2, 3)))
    with pytest.raises(BadData, match=r"node MatMul_node: contradicts itself \(.*\); export the file again$"):
        read(file.save(tmp_path / "case.onnx", "y"))


# How they are built


def test_a_few_scales_are_a_product_each(tmp_path: Path) -> None:
    """The products read the same codes, so that none is wider than that of a network with one scale."""
    graph = read(dense_after_branches("MatMul").save(tmp_path / "case.onnx", "y"))
    layers = [op for op in graph.ops if isinstance(op, Dense)]
    assert len(layers) == 2
    assert {graph.tensors[op.inputs[0]].format.width for op in layers} == {7}


def test_order_takes_a_few_bits(tmp_path: Path) -> None:
    """Four different rests of a bias are told apart by two bits more, whatever digits they have."""
    graph = read(chosen("ArgMax").save(tmp_path / "case.onnx", "y"))
    (dense,) = (op for op in graph.ops if isinstance(op, Dense))
    (order,) = (graph.tensors[name] for name in graph.readers[dense.name])
    assert order.format.width <= graph.tensors[dense.name].format.width + 3


def test_a_power_is_the_product_of_a_tensor_with_itself(tmp_path: Path) -> None:
    once = File((3,))
    once.node("Mul", "q", "q", out="y")
    other = File((3,))
    other.node("Pow", "q", other.constant(2.0), out="y")
    one, two = (read(file.save(tmp_path / f"{name}.onnx", "y")) for name, file in (("a", once), ("b", other)))
    assert any(isinstance(op, Multiply) for op in two.ops)
    assert one.digest == two.digest


def zero_padded(*nodes: str, zero: float = 0.0, pads: tuple[int, ...] = (0, 0, 1, 0, 0, 0, 0, 2)) -> File:
    file = File((2, 5, 5))
    if zero:
        file.constants[1].CopyFrom(onnx.numpy_helper.from_array(np.float32(zero), file.constants[1].name))
    padded = file.node("Pad", "q", file.constant(pads, INTS))
    for number, kind in enumerate(nodes):
        constants = [weights(file, 3, 2, 3, 3)] if kind == "Conv" else []
        file.node(kind, padded, *constants, out=f"y{number}" if number else "y")
    return file


def test_a_zero_pad_becomes_the_convolutions_own(tmp_path: Path) -> None:
    graph = same(zero_padded("Conv").save(tmp_path / "case.onnx", "y"))
    assert [op.padding for op in graph.ops if isinstance(op, Conv)] == [(1, 0, 0, 2)]
    assert not any(isinstance(op, Rearrange) for op in graph.ops)
    for name in names("backend"):
        backend = find(Backend, name)
        variants = [variant for variant in backend.variants if not variant.startswith("nodes_")]  # which take nodes, not images
        assert all(backend.preview(graph, find(Target, "xcvu13p"), variant, {}) for variant in variants)


@pytest.mark.parametrize(
    ("file", "padding"),
    [
        (zero_padded("Conv", zero=3.0), (0, 0, 0, 0)),
        (zero_padded("Conv", pads=(0, 0, -1, 0, 0, 0, 0, 2)), (0, 0, 0, 0)),
    ],
    ids=["of another code", "that cuts, too"],
)
def test_other_pads_stay(file: File, padding: tuple[int, ...], tmp_path: Path) -> None:
    graph = same(file.save(tmp_path / "case.onnx", "y"))
    assert [op.padding for op in graph.ops if isinstance(op, Conv)] == [padding]
    assert any(isinstance(op, Rearrange) for op in graph.ops)


# Inputs


def two_inputs(folder: Path) -> Graph:
    file = File((4,))
    file.inputs.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ("N", 4)))
    file.node("Add", "q", file.quant("z"), out="y")
    return read(str(file.save(folder / "case.onnx", "y")))  # a path may be a text


def test_a_wrong_name_of_an_input_is_one_line(tmp_path: Path) -> None:
    graph, values = two_inputs(tmp_path), np.zeros((2, 4))
    for call in (graph.quantise_inputs, graph.run, graph.input_values):
        with pytest.raises(UserError, match=r"^input (values|codes) for x, b given; the inputs are: x, z$"):
            call({"x": values.astype(int), "b": values.astype(int)})
    with pytest.raises(UserError, match=r"^input values for nothing given; the inputs are: x, z$"):
        graph.quantise_inputs({})


@pytest.mark.parametrize("rounding", ["ROUND", "FLOOR", "CEIL", "UP", "DOWN", "HALF_UP", "HALF_DOWN"])
@pytest.mark.parametrize("scale", [0.25, 1.0, 0.3, 3.0, 7.3])
def test_values_of_whole_inputs_are_whole_and_give_their_codes(scale: float, rounding: str, tmp_path: Path) -> None:
    """Random codes are those that some int8 gives: every whole number's code is among them, and no other."""
    file = whole(TensorProto.INT8, scale)
    (attribute,) = (item for item in file.nodes[1].attribute if item.name == "rounding_mode")
    attribute.s = rounding.encode()
    graph = read(file.save(tmp_path / "case.onnx", "y"))
    possible = np.unique(graph.quantise_input(np.repeat(np.arange(-128, 128)[:, None], 6, axis=1)))
    codes = random_codes(graph, 2000, seed=3)
    assert np.array_equal(np.unique(codes), possible)
    values = graph.input_values(codes)["x"]
    assert np.array_equal(values, np.rint(values))
    assert values.min() >= -128
    assert values.max() <= 127
    assert np.array_equal(graph.quantise_input(values), codes)


def test_the_type_of_an_input_changes_no_digest(tmp_path: Path) -> None:
    """It says what can come, not what is made of it."""
    graph = read(whole(TensorProto.INT8, 0.25).save(tmp_path / "case.onnx", "y"))
    (op,) = (op for op in graph.ops if isinstance(op, InputQuantiser))
    assert op.whole == (-128, 127)
    assert graph.replacing(op.name, whole=None).digest == graph.digest
