"""Hostile ONNX files: `caloedge compile` answers whatever is in them with one line, in bounded memory and time."""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from small_qonnx import same

from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import read
from caloedge.errors import UserError
from caloedge.verification.qonnx_executor import execute

NAME = "hostile.qonnx"
MODEL = Path(__file__).parents[2] / "models" / "seed_finder" / "model.qonnx"
QONNX = "qonnx.custom_op.general"
SECONDS = 20
"""Most time of the processor that one file may take, however busy the machine is; usual are milliseconds."""
MEMORY_BYTES = 3 << 30
"""What one file may take beyond what the test process has already."""

Call = Callable[..., Any]
Case = Callable[[], onnx.ModelProto | bytes]


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Let a file that fills the memory or never ends fail its test instead of stopping the machine."""
    status = Path("/proc/self/statm")  # Linux only; elsewhere time alone is bounded
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(status.read_text().split()[0]) * resource.getpagesize() if status.exists() else None

    def too_long(*_: object) -> None:
        pytest.fail(f"longer than {SECONDS} s of the processor")

    before = signal.signal(signal.SIGPROF, too_long)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    if used is not None:
        resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    signal.setitimer(signal.ITIMER_PROF, 0)
    signal.signal(signal.SIGPROF, before)


def one_line(ended: Any, place: str) -> str:
    """Return the complaint of a call that must have ended with exit code 2; it names the file and the place."""
    assert ended.code == 2, ended
    assert ended.out == ""
    (line,) = ended.err.splitlines()
    assert line.startswith("caloedge: ")
    assert NAME in line
    assert line.isprintable()
    assert len(line) < 1000
    said = line.removeprefix("caloedge: ")
    assert place in said.replace(NAME, "")
    return said


def written(content: onnx.ModelProto | bytes, folder: Path) -> Path:
    path = folder / NAME
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


# Small networks. The hostile node, tensor or attribute is named `bad`, which the complaint must repeat.


def constant(name: str, value: Any, dtype: Any = np.float32) -> TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype), name)


def node(kind: str, inputs: list[str], output: str, name: str = "", **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], name or f"{kind}_{output}", **attributes)


def bad(kind: str, *inputs: str, **attributes: Any) -> onnx.NodeProto:
    """Return the hostile node, from `a` to `b`, with its further inputs."""
    return node(kind, ["a", *inputs], "b", "bad", **attributes)


def quant(
    source: str, output: str, name: str = "", scale: str = "scale", zero: str = "zero", bits: str = "bits", **given: Any
) -> onnx.NodeProto:
    attributes = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND", **given}
    return node("Quant", [source, scale, zero, bits], output, name, domain=QONNX, **attributes)


def model(nodes: list[onnx.NodeProto], constants: list[TensorProto], shape: Any, outputs: tuple[str, ...] = ("y",)) -> Any:
    given = {"scale": 0.125, "zero": 0, "bits": 8} | {tensor.name: None for tensor in constants}
    plain = [constant(name, value) for name, value in given.items() if value is not None]
    graph = helper.make_graph(
        nodes,
        "hostile",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
        [*plain, *constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(QONNX, 1)], ir_version=9)


def between(*nodes: onnx.NodeProto, shape: Any = (None, 4), **constants: Any) -> Any:
    """Return x -> Quant -> a ... b -> Quant -> y, with the nodes that make b from a."""
    tensors = [
        value if isinstance(value, TensorProto) else constant(name, value, np.int64 if _whole(value) else np.float32)
        for name, value in constants.items()
    ]
    return model([quant("x", "a"), *nodes, quant("b", "y")], tensors, shape)


def _whole(value: Any) -> bool:
    return np.issubdtype(np.asarray(value).dtype, np.integer)


def input_quant(**constants: Any) -> Any:
    """Return a network whose first quantiser has hostile scale, zero point or bit width."""
    own = {f"bad_{name}": constant(f"bad_{name}", value) for name, value in constants.items()}
    names = {name: f"bad_{name}" for name in constants}
    return model([quant("x", "a", "bad", **names), quant("a", "y")], list(own.values()), (None, 4))


def weight_quant(weights: Any, **constants: Any) -> Any:
    """Return a dense network whose weight quantiser has hostile weights, scale, zero point or bit width."""
    own = [constant("w", weights), *(constant(f"bad_{name}", value) for name, value in constants.items())]
    names = {name: f"bad_{name}" for name in constants}
    nodes = [quant("x", "a"), quant("w", "wq", "bad", **names), node("MatMul", ["a", "wq"], "b", "bad_too"), quant("b", "y")]
    return model(nodes, own, (None, 4))


def dense(weights_shape: tuple[int, ...], kind: str = "MatMul", **attributes: Any) -> Any:
    weights = constant("w", np.full(weights_shape, 0.5))
    nodes = [quant("x", "a"), quant("w", "wq"), bad(kind, "wq", **attributes), quant("b", "y")]
    return model(nodes, [weights], (None, 4))


def conv(weights_shape: tuple[int, ...] = (2, 1, 3, 3), shape: tuple[Any, ...] = (None, 1, 8, 8), **attributes: Any) -> Any:
    weights = constant("w", np.full(weights_shape, 0.5))
    nodes = [quant("x", "a"), quant("w", "wq"), bad("Conv", "wq", **attributes), quant("b", "y")]
    return model(nodes, [weights], shape)


def image(*nodes: onnx.NodeProto, **constants: Any) -> Any:
    return between(*nodes, shape=(None, 2, 4, 4), **constants)


def pool(kind: str = "MaxPool", **attributes: Any) -> Any:
    return image(bad(kind, **{"kernel_shape": [2, 2], **attributes}))


def edited(content: Any, change: Callable[[Any], object]) -> Any:
    change(content)
    return content


def doublings(count: int) -> Any:
    chain = [node("Concat", [f"d{i}"] * 2, f"d{i + 1}", f"bad_{i}", axis=1) for i in range(count)]
    return between(node("Relu", ["a"], "d0"), *chain, node("Relu", [f"d{count}"], "b"))


def claimed(dims: list[int], name: str = "bad") -> TensorProto:
    """Return a tensor that claims a shape without any data."""
    return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims)


def weights_tensor(tensor: TensorProto) -> Any:
    """Return a dense network whose weights are the tensor `bad`."""
    nodes = [quant("x", "a"), quant("bad", "wq"), node("MatMul", ["a", "wq"], "b"), quant("b", "y")]
    return model(nodes, [tensor], (None, 4))


def set_dim(content: Any, axis: int, size: int) -> Any:
    content.graph.input[0].type.tensor_type.shape.dim[axis].dim_value = size
    return content


def plain() -> Any:
    return between(bad("Relu"))


def lying_attribute(kind: str, name: str, **fields: Any) -> onnx.NodeProto:
    """Return the hostile node with one attribute set by hand."""
    made = bad(kind)
    made.attribute.add(name=name, **fields)
    return made


# What is well made compiles: the refusals below are not about the frame

GOOD: dict[str, Case] = {
    "relu": plain,
    "dense": lambda: dense((4, 3)),
    "conv": lambda: conv(),
    "pool": lambda: pool(),
    "weight quantiser": lambda: weight_quant(np.full((4, 2), 0.5), scale=0.25, bits=4.0, zero=0.0),
    "input quantiser": lambda: input_quant(scale=0.25, bits=4.0, zero=0.0),
    "given weights": lambda: weights_tensor(constant("bad", np.full((4, 2), 0.5))),
}


@pytest.mark.parametrize("case", GOOD)
def test_the_well_made_twin_compiles(case: str, tmp_path: Path, caloedge: Call) -> None:
    ended = caloedge("compile", written(GOOD[case](), tmp_path))
    assert (ended.code, ended.err) == (0, ""), ended


# Damaged files

NAN, INF = float("nan"), float("inf")
FILE: dict[str, tuple[Case, str]] = {
    "empty": (lambda: b"", "not a readable ONNX file"),
    "a number": (lambda: b"\x08\x08", "not a readable ONNX file"),
    "random bytes": (lambda: np.random.default_rng(1).bytes(5000), "not a readable ONNX file"),
    "text": (lambda: b"caloedge compiles networks.\n" * 50, "not a readable ONNX file"),
    "JSON": (lambda: b'{"ir_version": 9, "graph": {"node": []}}', "not a readable ONNX file"),
    "a pickle": (lambda: b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R.", "not a readable ONNX file"),
    "cut in half": (lambda: MODEL.read_bytes()[: MODEL.stat().st_size // 2], "not a readable ONNX file"),
    "twice": (lambda: plain().SerializeToString() * 2, "declared twice"),
    "a Git LFS pointer": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 5\n", "git lfs pull"),
    "no nodes": (lambda: model([], [], (None, 4)), "nodes"),
    "no outputs": (lambda: edited(plain(), lambda m: m.graph.ClearField("output")), "output"),
    "no inputs": (lambda: edited(plain(), lambda m: m.graph.ClearField("input")), "input"),
    "no operator sets": (lambda: edited(plain(), lambda m: m.ClearField("opset_import")), "version"),
    "an output nobody makes": (lambda: edited(plain(), lambda m: m.graph.output.add(name="bad")), "'bad'"),
    "an output that is the input": (lambda: model([quant("x", "y")], [], (None, 4), ("y", "x")), "'x'"),
    "an output that is a constant": (lambda: model([quant("x", "y")], [], (None, 4), ("y", "scale")), "'scale'"),
    "two outputs of one name": (lambda: model([quant("x", "y")], [], (None, 4), ("y", "y")), "'y'"),
    "two makers of one tensor": (lambda: between(bad("Relu"), node("Relu", ["a"], "b")), "'b'"),
    "a node that makes the input": (lambda: between(bad("Relu"), node("Relu", ["b"], "x", "bad_too")), "'x'"),
    "a node that makes a constant": (lambda: between(bad("Relu"), node("Relu", ["b"], "scale", "bad_too")), "'scale'"),
    "two constants of one name": (
        lambda: edited(plain(), lambda m: m.graph.initializer.append(constant("scale", 1))),
        "'scale'",
    ),
    "a cycle of two": (lambda: between(node("Add", ["a", "c"], "b", "bad"), node("Relu", ["b"], "c")), "bad"),
    "a node that reads itself": (lambda: between(node("Add", ["a", "b"], "b", "bad")), "bad"),
    "a missing constant": (lambda: between(bad("Add", "nowhere")), "'nowhere'"),
    "a node without operator": (lambda: between(bad("")), "bad"),
    "a node without output": (
        lambda: edited(plain(), lambda m: m.graph.node.append(helper.make_node("Relu", ["a"], [], "bad_too"))),
        "bad_too",
    ),
    "bytes missing": (lambda: weights_tensor(TensorProto(name="bad", data_type=1, dims=[4, 2], raw_data=bytes(31))), "'bad'"),
    "bytes too many": (lambda: weights_tensor(TensorProto(name="bad", data_type=1, dims=[4, 2], raw_data=bytes(33))), "'bad'"),
    "a negative size": (lambda: weights_tensor(TensorProto(name="bad", data_type=1, dims=[-4, -2], raw_data=bytes(32))), "'bad'"),
    "1e9 values without data": (lambda: weights_tensor(claimed([10**9])), "'bad'"),
    "1e18 values without data": (lambda: weights_tensor(claimed([10**9, 10**9])), "'bad'"),
    "2**64 values wrapped around": (
        lambda: weights_tensor(TensorProto(name="bad", data_type=1, dims=[2**32, 2**32], raw_data=b"")),
        "'bad'",
    ),
    "ten thousand axes": (
        lambda: weights_tensor(TensorProto(name="bad", data_type=1, dims=[1] * 10_000, float_data=[1])),
        "'bad'",
    ),
    "bfloat16": (lambda: weights_tensor(TensorProto(name="bad", data_type=16, dims=[4, 2], raw_data=bytes(16))), "bfloat16"),
    "text values": (lambda: weights_tensor(helper.make_tensor("bad", TensorProto.STRING, [1], [b"1"])), "string"),
    "complex values": (lambda: weights_tensor(TensorProto(name="bad", data_type=14, dims=[4], raw_data=bytes(32))), "complex64"),
    "values of an unknown type": (lambda: weights_tensor(TensorProto(name="bad", data_type=77, dims=[1])), "'bad'"),
    "sparse values": (lambda: edited(plain(), lambda m: m.graph.sparse_initializer.add()), "sparse"),
    "an input of 1e9": (lambda: set_dim(plain(), 1, 10**9), "'x'"),
    "an input of size 0": (lambda: set_dim(plain(), 1, 0), "'x'"),
    "an input of size -3": (lambda: set_dim(plain(), 1, -3), "'x'"),
    "an open input": (lambda: between(bad("Relu"), shape=(None, "width")), "'x'"),
    "a scalar input": (lambda: between(bad("Relu"), shape=()), "'x'"),
    "an input without shape": (lambda: between(bad("Relu"), shape=None), "'x'"),
    "an input of thousand axes": (lambda: between(bad("Relu"), shape=(None, *[1] * 1000)), "'x'"),
    "an input that is a sequence": (
        lambda: edited(
            plain(), lambda m: m.graph.input[0].CopyFrom(helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, None))
        ),
        "'x'",
    ),
    "an input of text": (
        lambda: edited(plain(), lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.STRING)),
        "'x'",
    ),
    "names of control characters": (
        lambda: edited(between(bad("Relu")), lambda m: m.graph.node[1].input.append("\x1b[31m\r\n\x00caloedge: all is well")),
        "\\x1b[31m\\r\\n\\x00caloedge: all is well",
    ),
    "a name of a megabyte": (
        lambda: edited(between(bad("Relu")), lambda m: m.graph.node[1].input.append("n" * 1_000_000)),
        "nnn",
    ),
    "a name that is not UTF-8": (
        lambda: between(bad("Relu", "zzzz")).SerializeToString().replace(b"zzzz", b"\xff\xfe\n\xf0"),
        "UTF-8",
    ),
    "an attribute twice": (
        lambda: between(edited(bad("Softmax", axis=1), lambda n: n.attribute.append(helper.make_attribute("axis", 0)))),
        "bad",
    ),
    "a branch": (
        lambda: between(
            bad("If", then_branch=helper.make_graph([], "t", [], []), else_branch=helper.make_graph([], "e", [], []))
        ),
        "bad",
    ),
    "a loop": (lambda: between(bad("Loop", "a", body=helper.make_graph([], "body", [], []))), "bad"),
    "a function": (
        lambda: edited(
            between(bad("Own", domain="my.own")),
            lambda m: m.functions.append(
                helper.make_function("my.own", "Own", ["i"], ["o"], [node("Own", ["i"], "o", domain="my.own")], [])
            ),
        ),
        "bad",
    ),
}


# Files that are consistent and mean nonsense


QUANTISERS: dict[str, Case] = {
    "scale 0": lambda: input_quant(scale=0.0),
    "scale -0.5": lambda: input_quant(scale=-0.5),
    "scale NaN": lambda: input_quant(scale=NAN),
    "scale infinite": lambda: input_quant(scale=INF),
    "no scale at all": lambda: input_quant(scale=np.zeros((0,))),
    "a scale of one shape too many": lambda: input_quant(scale=np.full((1, 3), 0.5)),
    "weight scale 0": lambda: weight_quant(np.ones((4, 2)), scale=0.0),
    "weight scale -2": lambda: weight_quant(np.ones((4, 2)), scale=-2.0),
    "weight scale NaN in one channel": lambda: weight_quant(np.ones((4, 2)), scale=[[0.5, NAN]]),
    "weight scales that do not fit": lambda: weight_quant(np.ones((4, 2)), scale=np.full((1, 3), 0.5)),
    "weight scales of more axes": lambda: weight_quant(np.ones((4, 2)), scale=np.full((7, 4, 2), 0.5)),
    "weights NaN": lambda: weight_quant([[1.0, NAN], [0, 0], [0, 0], [0, 0]]),
    "weights infinite": lambda: weight_quant([[1.0, INF], [0, 0], [0, 0], [0, 0]]),
    "no weights": lambda: weight_quant(np.zeros((4, 0))),
    "bit width 0": lambda: input_quant(bits=0.0),
    "bit width -3": lambda: input_quant(bits=-3.0),
    "bit width 2.5": lambda: input_quant(bits=2.5),
    "bit width 1e9": lambda: input_quant(bits=1e9),
    "bit width NaN": lambda: input_quant(bits=NAN),
    "bit width infinite": lambda: input_quant(bits=INF),
    "two bit widths": lambda: input_quant(bits=[8.0, 4.0]),
    "no bit width": lambda: input_quant(bits=np.zeros((0,))),
    "weight bit width NaN": lambda: weight_quant(np.ones((4, 2)), bits=NAN),
    "weight bit width 1e30": lambda: weight_quant(np.ones((4, 2)), bits=1e30),
    "zero point 0.5": lambda: input_quant(zero=0.5),
    "zero point NaN": lambda: input_quant(zero=NAN),
    "zero point infinite": lambda: input_quant(zero=-INF),
    "weight zero point 0.25": lambda: weight_quant(np.ones((4, 2)), zero=0.25),
    "a rounding mode nobody knows": lambda: model([quant("x", "y", "bad", rounding_mode="ASTROLOGY")], [], (None, 4)),
    "a rounding mode that is not text": lambda: model([quant("x", "y", "bad", rounding_mode=b"\xff\xfe")], [], (None, 4)),
    "a rounding mode that is a number": lambda: model([quant("x", "y", "bad", rounding_mode=7)], [], (None, 4)),
    "signed as text": lambda: model([quant("x", "y", "bad", signed="yes")], [], (None, 4)),
    "a scale that is computed": lambda: model([quant("x", "a"), quant("x", "y", "bad", scale="a")], [], (None, 4)),
    "no bit width given": lambda: model([node("Quant", ["x", "scale", "zero"], "y", "bad", domain=QONNX)], [], (None, 4)),
    "an empty name for the scale": lambda: model([quant("x", "y", "bad", scale="")], [], (None, 4)),
}
OPERATORS: dict[str, Case] = {
    "an unknown operator": lambda: between(bad("Frobnicate")),
    "an operator of an unknown domain": lambda: between(bad("Relu", domain="my.own")),
    "a quantiser of an unknown domain": lambda: model(
        [node("Quant", ["x", "scale", "zero", "bits"], "y", "bad", domain="my.own")], [], (None, 4)
    ),
    "an empty name for the input": lambda: between(node("Relu", [""], "b", "bad"), node("Relu", ["a"], "c")),
    "no input": lambda: between(node("Relu", [], "b", "bad")),
    "too many inputs": lambda: between(bad("Relu", "a", "a")),
    "weights that do not fit": lambda: dense((5, 3)),
    "weights of no axis": lambda: dense(()),
    "Gemm weights the wrong way round": lambda: dense((3, 4), "Gemm"),
    "Gemm transB that is text": lambda: dense((4, 3), "Gemm", transB="no"),
    "MatMul without weights": lambda: between(bad("MatMul")),
    "a bias that does not fit": lambda: between(
        node("MatMul", ["a", "wq"], "m"), quant("w", "wq"), node("Add", ["m", "v"], "b", "bad"), w=np.ones((4, 2)), v=np.ones(3)
    ),
    "Conv weights of other channels": lambda: conv((2, 3, 3, 3)),
    "Conv weights of two axes": lambda: conv((2, 9)),
    "Conv kernel_shape that contradicts the weights": lambda: conv(kernel_shape=[5, 5]),
    "Conv stride 0": lambda: conv(strides=[0, 1]),
    "Conv stride -1": lambda: conv(strides=[-1, 1]),
    "Conv padding -1": lambda: conv(pads=[-1, -1, -1, -1]),
    "Conv padding 1e9": lambda: conv(pads=[10**9] * 4),
    "Conv padding of three numbers": lambda: conv(pads=[1, 1, 1]),
    "Conv padding that is a number": lambda: conv(pads=1),
    "Conv dilation 0": lambda: conv(dilations=[0, 0]),
    "Conv dilation 1e18": lambda: conv(dilations=[10**18, 10**18]),
    "Conv group that does not divide": lambda: conv((2, 1, 3, 3), (None, 3, 8, 8), group=2),
    "Conv group 0": lambda: conv(group=0),
    "Conv auto_pad nobody knows": lambda: conv(auto_pad="SOMEHOW"),
    "Conv kernel larger than the input": lambda: conv((2, 1, 9, 9)),
    "pool larger than its input": lambda: pool(kernel_shape=[9, 9]),
    "pool of size 0": lambda: pool(kernel_shape=[0, 2]),
    "pool stride 0": lambda: pool(strides=[0, 0]),
    "pool of 1e9": lambda: pool(kernel_shape=[10**9, 10**9], pads=[10**9] * 4),
    "pool without a size": lambda: image(bad("MaxPool")),
    "AveragePool larger than its input": lambda: pool("AveragePool", kernel_shape=[5, 5]),
    "Reshape to a size that does not fit": lambda: between(bad("Reshape", "to"), to=[-1, 3, 7]),
    "Reshape to two unknown sizes": lambda: between(bad("Reshape", "to"), to=[-1, -1]),
    "Reshape to -7": lambda: between(bad("Reshape", "to"), to=[-1, -7]),
    "Reshape to 1e9": lambda: between(bad("Reshape", "to"), to=[-1, 10**9]),
    "Reshape to 2**64": lambda: between(bad("Reshape", "to"), to=[-1, 2**32, 2**32]),
    "Reshape to a fraction": lambda: between(bad("Reshape", "to"), to=[-1.0, 2.5]),
    "Reshape to a shape that is computed": lambda: between(bad("Reshape", "a")),
    "Flatten of axis 9": lambda: image(bad("Flatten", axis=9)),
    "Transpose twice the same axis": lambda: image(bad("Transpose", perm=[0, 1, 1, 3])),
    "Transpose an axis that is not there": lambda: image(bad("Transpose", perm=[0, 1, 2, 7])),
    "Transpose too few axes": lambda: image(bad("Transpose", perm=[0, 2, 1])),
    "Transpose by a number": lambda: image(bad("Transpose", perm=3)),
    "Transpose of weights by a bad order": lambda: between(
        node("Transpose", ["w"], "wt", "bad", perm=[1, 1]), quant("wt", "wq"), node("MatMul", ["a", "wq"], "b"), w=np.ones((2, 4))
    ),
    "ConstantOfShape of 1e9": lambda: between(
        node("ConstantOfShape", ["s"], "c", "bad"), node("Add", ["a", "c"], "b"), s=[10**9, 4]
    ),
    "ConstantOfShape of -1": lambda: between(node("ConstantOfShape", ["s"], "c", "bad"), node("Add", ["a", "c"], "b"), s=[-1]),
    "Expand to 1e9": lambda: between(bad("Expand", "to"), to=[1, 10**9, 4]),
    "Expand that does not fit": lambda: between(bad("Expand", "to"), to=[1, 7]),
    "Tile 1e9 times": lambda: between(bad("Tile", "times"), times=[1, 10**9]),
    "Tile -1 times": lambda: between(bad("Tile", "times"), times=[1, -1]),
    "Resize 1e5 × 1e5": lambda: image(bad("Resize", "", "by"), by=[1.0, 1.0, 1e5, 1e5]),
    "Resize NaN": lambda: image(bad("Resize", "", "by"), by=[1.0, 1.0, NAN, 1.0]),
    "Pad by 1e9": lambda: between(bad("Pad", "by"), by=[0, 10**9, 0, 0]),
    "Range of 1e12": lambda: between(
        node("Range", ["start", "stop", "step"], "c", "bad"), node("Add", ["a", "c"], "b"), start=0.0, stop=1e12, step=1.0
    ),
    "Concat of clashing shapes": lambda: image(node("Flatten", ["a"], "f"), bad("Concat", "f", axis=1)),
    "Concat of axis 9": lambda: between(bad("Concat", "a", axis=9)),
    "Concat without axis": lambda: between(bad("Concat", "a")),
    "Concat of nothing": lambda: between(node("Concat", [], "b", "bad", axis=1)),
    "40 doublings": lambda: doublings(40),
    "Gather out of range": lambda: between(bad("Gather", "at", axis=1), at=[0, 4]),
    "Gather of axis -9": lambda: between(bad("Gather", "at", axis=-9), at=[0]),
    "Gather at a fraction": lambda: between(bad("Gather", "at", axis=1), at=[0.5]),
    "Slice of step 0": lambda: between(
        bad("Slice", "from", "to", "axes", "step"), **{"from": [0], "to": [4], "axes": [1], "step": [0]}
    ),
    "Slice of axis 5": lambda: between(bad("Slice", "from", "to", "axes"), **{"from": [0], "to": [4], "axes": [5]}),
    "Slice of nothing": lambda: between(bad("Slice", "from", "to", "axes"), **{"from": [3], "to": [3], "axes": [1]}),
    "Slice of lists that differ": lambda: between(bad("Slice", "from", "to", "axes"), **{"from": [0], "to": [4, 4], "axes": [1]}),
    "Split that does not add up": lambda: between(
        helper.make_node("Split", ["a", "sizes"], ["b", "c"], "bad", axis=1), sizes=[1, 2]
    ),
    "Split of a negative size": lambda: between(
        helper.make_node("Split", ["a", "sizes"], ["b", "c"], "bad", axis=1), sizes=[6, -2]
    ),
    "ReduceSum of axis 9": lambda: between(bad("ReduceSum", "axes"), axes=[9]),
    "Squeeze of an axis that is not 1": lambda: between(bad("Squeeze", "axes"), axes=[1]),
    "Unsqueeze of axis 9": lambda: between(bad("Unsqueeze", "axes"), axes=[9]),
    "Softmax of axis 5": lambda: between(bad("Softmax", axis=5)),
    "Softmax of an axis that is text": lambda: between(bad("Softmax", axis="last")),
    "ArgMax of axis -4": lambda: between(bad("ArgMax", axis=-4)),
    "TopK of more than there is": lambda: between(helper.make_node("TopK", ["a", "k"], ["b", "i"], "bad", axis=1), k=[5]),
    "Clip upside down by NaN": lambda: between(bad("Clip", "low", "high"), low=NAN, high=1.0),
    "LeakyRelu of NaN": lambda: between(bad("LeakyRelu", alpha=NAN)),
    "Div by 0": lambda: between(bad("Div", "by"), by=0.0),
    "Mul by NaN": lambda: between(bad("Mul", "by"), by=NAN),
    "Mul by shapes that clash": lambda: between(bad("Mul", "by"), by=np.ones((3,))),
    "Add of shapes that clash": lambda: image(node("Flatten", ["a"], "f"), bad("Add", "f")),
    "Add that blows up by broadcasting": lambda: between(bad("Add", "c"), c=np.zeros((2_000_000, 1, 1))),
    "BatchNormalization of a negative variance": lambda: image(
        bad("BatchNormalization", "one", "none", "none", "minus"), one=[1.0, 1.0], none=[0.0, 0.0], minus=[-1.0, -1.0]
    ),
    "BatchNormalization of other channels": lambda: image(
        bad("BatchNormalization", "one", "none", "none", "one"), one=[1.0] * 3, none=[0.0] * 3
    ),
    "Constant without value": lambda: between(node("Constant", [], "c", "bad"), node("Add", ["a", "c"], "b")),
    "Constant of too little data": lambda: between(
        node("Constant", [], "c", "bad", value=claimed([10**9], "")), node("Add", ["a", "c"], "b")
    ),
    "Constant of text": lambda: between(node("Constant", [], "c", "bad", value_string="x"), node("Add", ["a", "c"], "b")),
    "strides without numbers": lambda: image(
        edited(bad("MaxPool", kernel_shape=[2, 2]), lambda n: n.attribute.add(name="strides", type=onnx.AttributeProto.INTS))
    ),
    "an attribute whose type lies": lambda: image(
        lying_attribute("MaxPool", "kernel_shape", type=onnx.AttributeProto.INTS, floats=[2.0, 2.0])
    ),
    "an attribute without type": lambda: image(lying_attribute("MaxPool", "kernel_shape", ints=[2, 2])),
    "an attribute that is a tensor": lambda: image(bad("MaxPool", kernel_shape=constant("k", [2, 2]))),
}
SEMANTIC = QUANTISERS | OPERATORS


@pytest.mark.parametrize("case", FILE)
def test_a_damaged_file_is_one_line(case: str, tmp_path: Path, caloedge: Call) -> None:
    make, place = FILE[case]
    one_line(caloedge("compile", written(make(), tmp_path)), place)


@pytest.mark.parametrize("case", SEMANTIC)
def test_a_file_of_nonsense_is_one_line_that_names_the_node(case: str, tmp_path: Path, caloedge: Call) -> None:
    one_line(caloedge("compile", written(SEMANTIC[case](), tmp_path)), "bad")


EXTREME: dict[str, Case] = {
    "scale 1e38": lambda: input_quant(scale=1e38),
    "scale 2**127": lambda: input_quant(scale=2.0**127),
    "scale denormal": lambda: input_quant(scale=1e-45),
    "weight scale 1e38": lambda: weight_quant(np.ones((4, 2)), scale=1e38),
    "weight scale denormal": lambda: weight_quant(np.ones((4, 2)), scale=1e-45),
    "weight scales from 1e-38 to 1e38": lambda: weight_quant(np.ones((4, 2)), scale=[[1e-38, 1e38]]),
    "scale that fits by one axis more": lambda: input_quant(scale=np.full((1, 1, 1), 0.5)),
    "zero point 3": lambda: input_quant(zero=3.0),
    "zero point 1e30": lambda: input_quant(zero=1e30),
    "bit width 64": lambda: input_quant(bits=64.0),
    "weights 1e38": lambda: weight_quant(np.full((4, 2), 3e38)),
    "Mul by 1e38": lambda: between(bad("Mul", "by"), by=1e38),
    "BatchNormalization of no variance": lambda: image(
        bad("BatchNormalization", "one", "none", "none", "none", epsilon=0.0), one=[1.0, 1.0], none=[0.0, 0.0]
    ),
    "ReduceMean of one axis twice": lambda: image(bad("ReduceMean", axes=[2, 2])),
    "Clip upside down": lambda: between(bad("Clip", "low", "high"), low=2.0, high=-2.0),
    "an input of four million": lambda: set_dim(plain(), 1, 2**22),
    "a chain of a thousand": lambda: between(
        *(node("Relu", [f"a{i}" if i else "a"], f"a{i + 1}", "bad") for i in range(1000)), node("Relu", ["a1000"], "b")
    ),
    "a version from the future": lambda: edited(
        plain(), lambda m: (setattr(m, "ir_version", 2**62), setattr(m.opset_import[0], "version", 2**62))
    ),
    "an event axis of 1e18": lambda: set_dim(plain(), 0, 10**18),
    "an output that claims another shape": lambda: edited(
        plain(), lambda m: m.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, [10**9, -5]))
    ),
    "values that claim another shape": lambda: edited(
        plain(), lambda m: m.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, [3, 10**9]))
    ),
}


@pytest.mark.parametrize("case", EXTREME)
def test_an_extreme_file_compiles_or_is_one_line(case: str, tmp_path: Path, caloedge: Call) -> None:
    ended = caloedge("compile", written(EXTREME[case](), tmp_path))
    if ended.code:
        one_line(ended, "")
    else:
        assert ended.err == ""


# Dead code, long chains, numbers beyond float64, functions outside of their domain, events among the features


def own(name: str, *calls: str) -> onnx.FunctionProto:
    """Return a function of the file that calls others one after the other."""
    nodes = [node(call, ["i" if i == 0 else f"m{i}"], f"m{i + 1}", domain="my.own") for i, call in enumerate(calls)]
    nodes.append(node("Relu", [f"m{len(calls)}" if calls else "i"], "o"))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("my.own", 1)]
    return helper.make_function("my.own", name, ["i"], ["o"], nodes, opsets)


def with_dead(
    *nodes: onnx.NodeProto, functions: tuple[onnx.FunctionProto, ...] = (), tensors: tuple[TensorProto, ...] = ()
) -> Any:
    made = plain()
    made.opset_import.append(helper.make_opsetid("my.own", 1))
    made.graph.node.extend(nodes)
    made.graph.initializer.extend(tensors)
    made.functions.extend(functions)
    return made


DOUBLING = (*(own(f"F{i}", f"F{i + 1}", f"F{i + 1}") for i in range(40)), own("F40"))
DEAD: dict[str, Case] = {
    "a function that calls itself": lambda: with_dead(node("F", ["a"], "c", domain="my.own"), functions=(own("F", "F"),)),
    "functions that double": lambda: with_dead(node("F0", ["a"], "c", domain="my.own"), functions=DOUBLING),
    "functions that nobody calls": lambda: with_dead(functions=(own("F", "F"), *DOUBLING)),
    "Tile of 1e8": lambda: with_dead(node("Tile", ["a", "t"], "c"), tensors=(constant("t", [1, 10**8], np.int64),)),
    "Tile of a constant": lambda: with_dead(
        node("Tile", ["v", "t"], "c"), tensors=(constant("v", [1.0]), constant("t", [10**8], np.int64))
    ),
    "values of an unknown type": lambda: with_dead(
        node("Add", ["a", "u"], "c"), tensors=(TensorProto(name="u", data_type=77, dims=[4]),)
    ),
    "unread values of an unknown type": lambda: with_dead(tensors=(TensorProto(name="u", data_type=77, dims=[4]),)),
}


@pytest.mark.parametrize("case", DEAD)
def test_what_no_output_needs_is_dropped_unlooked_at(case: str, tmp_path: Path) -> None:
    path = written(DEAD[case](), tmp_path)
    graph = read(path)
    twin = tmp_path / "twin.qonnx"
    twin.write_bytes(plain().SerializeToString())
    assert graph.digest == read(twin).digest
    x = np.linspace(-20, 20, 12).reshape(3, 4)
    assert (execute(path, {"x": x})["y"] == execute(twin, {"x": x})["y"]).all()


CALLED: dict[str, tuple[tuple[onnx.FunctionProto, ...], str]] = {
    "itself": ((own("F0", "F0"),), "function F0 of the file calls itself; export the file again"),
    "doubling": (DOUBLING, "nodes, 41 calls deep; at most 5,000 and 100 are run"),
    "deep": ((*(own(f"F{i}", f"F{i + 1}") for i in range(200)), own("F200")), "nodes, 201 calls deep; at most 5,000 and 100"),
}


@pytest.mark.parametrize("case", CALLED)
def test_functions_that_grow_without_end_are_one_line(case: str, tmp_path: Path) -> None:
    functions, reason = CALLED[case]
    made = between(node("F0", ["a"], "b", domain="my.own"))
    made.opset_import.append(helper.make_opsetid("my.own", 1))
    made.functions.extend(functions)
    path = written(made, tmp_path)
    with pytest.raises(UserError, match="calls a function of the file"):
        read(path)
    with pytest.raises(UserError, match=reason):
        execute(path, {"x": np.zeros((2, 4))})


def chain(kind: str, count: int, *inputs: str, **constants: Any) -> Any:
    nodes = [node(kind, [f"a{i}" if i else "a", *inputs], f"a{i + 1}") for i in range(count)]
    return between(*nodes, node("Relu", [f"a{count}"], "b"), **constants)


def double(name: str, value: float) -> TensorProto:
    return constant(name, value, np.float64)


def float64(value: float, *nodes: onnx.NodeProto) -> Any:
    return model([quant("x", "a"), *nodes], [double("v", value)], (None, 4))


def reshaped(*to: int, shape: Any = (None, 4)) -> Any:
    return model([quant("x", "a"), node("Reshape", ["a", "to"], "y", "bad")], [constant("to", to, np.int64)], shape)


def scalar_output() -> Any:
    made = model([quant("x", "y", "bad")], [], (None, 4))
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, []))
    return made


BEYOND = "beyond what float64 holds; use scales nearer to 1"
UNDEFINED = "which is not defined below 0; put a Relu or Clip before it"
TRUE_REASON: dict[str, tuple[Case, str]] = {
    "a chain of 20,000": (lambda: chain("Relu", 20_000), "its outputs need 20,003 nodes; at most 5,000 are compiled"),
    "a chain of factors": (lambda: chain("Mul", 4000, "v", v=0.3), "its scale is about 2**-1023, below what float64 holds"),
    "factors that never end": (
        lambda: chain("Mul", 4000, "v", v=1 / 3 + 2 / 3 + 1e-7),
        "bits to be exact, at most 16,384; put a quantiser before it",
    ),
    "an input scale of 1.7e308": (
        lambda: model([quant("x", "y", "bad", scale="v")], [double("v", 1.7e308)], (None, 4)),
        f"node bad: its result may reach 2**1031, {BEYOND}",
    ),
    "a scale of 5e-324": (
        lambda: model([quant("x", "y", "bad", scale="v")], [double("v", 5e-324)], (None, 4)),
        "node bad: its scale is about 2**-1074, below what float64 holds",
    ),
    "Mul by 1.7e308": (
        lambda: float64(1.7e308, node("Mul", ["a", "v"], "y", "bad")),
        f"node bad: its result may reach 2**1028, {BEYOND}",
    ),
    "Mul by 1e300 twice": (
        lambda: float64(1e300, node("Mul", ["a", "v"], "b"), node("Mul", ["b", "v"], "y", "bad")),
        BEYOND,
    ),
    "Mul by 1e-300 twice": (
        lambda: float64(1e-300, node("Mul", ["a", "v"], "b"), node("Mul", ["b", "v"], "y", "bad")),
        "below what float64 holds",
    ),
    "Add of 1.7e308": (
        lambda: float64(1.7e308, node("Add", ["a", "v"], "y", "bad")),
        "output y: float64 cannot tell its codes apart beside its offset",
    ),
    "root of negative numbers": (
        lambda: between(bad("Sqrt")),
        f"bad would take the Sqrt of numbers from -16 to 15.875, {UNDEFINED}",
    ),
    "root as a power": (
        lambda: between(bad("Pow", "e"), e=0.5),
        f"bad would take the Sqrt of numbers from -16 to 15.875, {UNDEFINED}",
    ),
    "root of a square less 1": (
        lambda: between(node("Mul", ["a", "a"], "m"), node("Add", ["m", "v"], "n"), node("Sqrt", ["n"], "b", "bad"), v=-1.0),
        f"bad would take the Sqrt of numbers from -1 to 255, {UNDEFINED}",
    ),
    "an output without axes": (scalar_output, "output 'y': a scalar has no axis for events; give it the shape (events, ...)"),
    "events as features": (lambda: reshaped(4, -1), "Reshape to (4, -1) divides events of 4 elements; keep the events on axis 0"),
    "events between features": (lambda: reshaped(2, -1, 2, shape=(None, 2, 2)), "divides events of 4 elements"),
}


@pytest.mark.parametrize("case", TRUE_REASON)
def test_the_true_reason_is_said(case: str, tmp_path: Path, caloedge: Call) -> None:
    make, reason = TRUE_REASON[case]
    assert reason in one_line(caloedge("compile", written(make(), tmp_path)), "")


ALLOWED: dict[str, Case] = {
    "root of positive numbers": lambda: between(node("Relu", ["a"], "r"), node("Sqrt", ["r"], "b")),
    "root of a square": lambda: between(node("Mul", ["a", "a"], "m"), node("Sqrt", ["m"], "b")),
    "root of the power 2": lambda: between(node("Pow", ["a", "e"], "m"), node("Sqrt", ["m"], "b"), e=2.0),
    "an exporter's own event": lambda: reshaped(1, -1),
    "all events": lambda: reshaped(-1, 2, 2),
    "scale 1e300": lambda: float64(1e300, node("Mul", ["a", "v"], "b"), node("Div", ["b", "v"], "c"), quant("c", "y")),
}


@pytest.mark.parametrize("case", ALLOWED)
def test_their_twins_compile_exactly(case: str, tmp_path: Path) -> None:
    same(written(ALLOWED[case](), tmp_path))


def test_a_long_chain_takes_time_in_proportion(tmp_path: Path) -> None:
    nodes = [quant(f"a{i}" if i else "a", f"a{i + 1}", scale="half" if i % 2 else "scale") for i in range(4000)]
    start = time.process_time()
    read(written(between(*nodes, node("Relu", ["a4000"], "b"), half=0.5), tmp_path))
    assert time.process_time() - start < SECONDS


def test_results_that_are_too_many_together_are_one_line(tmp_path: Path, caloedge: Call) -> None:
    made = between(*(quant(f"a{i}" if i else "a", f"a{i + 1}", "bad") for i in range(40)), node("Relu", ["a40"], "b"))
    said = one_line(caloedge("compile", written(set_dim(made, 1, 2**22), tmp_path)), "bad")
    assert "more than 67,108,864 elements in all layers together; use a smaller network" in said


# Beside the file


def external(folder: Path, location: str, **entries: Any) -> Path:
    """Write a dense network whose weights, of 32 bytes, lie in another file."""
    weights = TensorProto(name="bad", data_type=1, dims=[4, 2], data_location=TensorProto.EXTERNAL)
    for key, text in {"location": location, **entries}.items():
        weights.external_data.add(key=key, value=str(text))
    return written(weights_tensor(weights), folder)


def test_weights_beside_the_model_compile(tmp_path: Path, caloedge: Call) -> None:
    (tmp_path / "w.bin").write_bytes(np.full(8, 0.5, np.float32).tobytes())
    assert caloedge("compile", external(tmp_path, "w.bin")).code == 0


@pytest.mark.parametrize(
    ("location", "entries"),
    [
        ("/etc/passwd", {}),
        ("../w.bin", {}),
        ("link", {}),
        ("none.bin", {}),
        ("pipe", {}),
        ("", {}),
        ("w\0.bin", {}),
        ("w.bin", {"offset": 8}),
        ("w.bin", {"offset": 10**18}),
        ("w.bin", {"offset": -1}),
        ("w.bin", {"length": 10**18}),
        ("w.bin", {"length": 31}),
        ("w.bin", {"length": "all of it"}),
    ],
)
def test_weights_out_of_reach_are_one_line(location: str, entries: dict[str, Any], tmp_path: Path, caloedge: Call) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for place in (tmp_path, folder):
        (place / "w.bin").write_bytes(np.full(8, 0.5, np.float32).tobytes())
    (folder / "link").symlink_to("../w.bin")
    os.mkfifo(folder / "pipe")
    one_line(caloedge("compile", external(folder, location, **entries)), "'bad'")


def test_what_is_no_file_is_one_line(tmp_path: Path, caloedge: Call) -> None:
    one_line(caloedge("compile", tmp_path / NAME), "")
    (tmp_path / NAME).mkdir()
    one_line(caloedge("compile", tmp_path / NAME), "no such file")
    (tmp_path / NAME).rmdir()
    os.mkfifo(tmp_path / NAME)
    one_line(caloedge("compile", tmp_path / NAME), "")


# Damage at random: the result is a network or one line, never another exception


def graph_or_complaint(content: bytes, folder: Path) -> Graph | str:
    signal.setitimer(signal.ITIMER_PROF, SECONDS)  # the limit is that of each file
    try:
        return read(written(content, folder))
    except UserError as problem:
        line = str(problem)
        assert NAME in line
        assert line.isprintable()
        return line


def test_every_truncation_of_a_small_file_is_one_line_or_the_same_network(tmp_path: Path) -> None:
    whole = dense((4, 3)).SerializeToString()
    graph = graph_or_complaint(whole, tmp_path)
    assert isinstance(graph, Graph)
    found = [graph_or_complaint(whole[:size], tmp_path) for size in range(len(whole))]
    assert {one.digest for one in found if isinstance(one, Graph)} <= {graph.digest}
    assert sum(isinstance(one, Graph) for one in found) <= 1, "only the last declared domain may be lost"


RANDOM = settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


@RANDOM
@given(data=st.data())
def test_any_truncation_of_a_shipped_model_is_one_line(data: st.DataObject, tmp_path: Path) -> None:
    whole = MODEL.read_bytes()
    size = data.draw(st.integers(0, len(whole) - 64))
    assert isinstance(graph_or_complaint(whole[:size], tmp_path), str)


@RANDOM
@given(flips=st.lists(st.tuples(st.integers(0, MODEL.stat().st_size - 1), st.integers(1, 255)), min_size=1, max_size=4))
def test_flipped_bytes_give_a_network_or_one_line(flips: list[tuple[int, int]], tmp_path: Path) -> None:
    content = bytearray(MODEL.read_bytes())
    for at, pattern in flips:
        content[at] ^= pattern
    graph_or_complaint(bytes(content), tmp_path)


SMALL = [make().SerializeToString() for make in (lambda: dense((4, 3)), lambda: conv(pads=[1, 1, 1, 1], strides=[2, 2]), pool)]


@RANDOM
@given(which=st.sampled_from(range(len(SMALL))), data=st.data())
def test_flipped_bytes_of_a_small_file_give_a_network_or_one_line(which: int, data: st.DataObject, tmp_path: Path) -> None:
    content = bytearray(SMALL[which])  # with few weights, most flips hit what describes the network
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    graph_or_complaint(bytes(content), tmp_path)


MODELS = sorted(Path(__file__).parents[2].glob("models/*/model.qonnx"))


def mutated(made: Any, data: st.DataObject) -> None:
    """Drop, rename, rewire or renumber one thing of a network."""
    graph = made.graph
    one = graph.node[data.draw(st.integers(0, len(graph.node) - 1))]
    names = sorted({name for other in graph.node for name in (*other.input, *other.output)})
    tensor = graph.initializer[data.draw(st.integers(0, len(graph.initializer) - 1))]
    dim = graph.input[0].type.tensor_type.shape.dim
    kinds = (
        "Relu",
        "Sqrt",
        "Exp",
        "Mul",
        "Add",
        "Concat",
        "Transpose",
        "Softmax",
        "Flatten",
        "Reshape",
        "Pow",
        "MatMul",
        "Quant",
    )
    size = data.draw(st.sampled_from([-1, 0, 1, 2, 3, 7, 2**31, 2**63 - 1]))
    number = data.draw(st.sampled_from([0.0, -1.0, 0.3, 1e-300, 1e300, 1.7e308, NAN, INF, 2.0**31, -(2.0**40)]))
    match data.draw(st.integers(0, 8)):
        case 0:
            graph.node.remove(one)
        case 1 if one.input:
            one.input[data.draw(st.integers(0, len(one.input) - 1))] = data.draw(st.sampled_from(names))
        case 2:
            one.op_type = data.draw(st.sampled_from(kinds))
        case 3 if one.attribute:
            attribute = one.attribute[data.draw(st.integers(0, len(one.attribute) - 1))]
            attribute.CopyFrom(
                helper.make_attribute(attribute.name, data.draw(st.sampled_from([size, [size] * 2, [1, size, 1, 1]])))
            )
        case 4:
            shape = numpy_helper.to_array(tensor).shape
            tensor.CopyFrom(constant(tensor.name, np.full(shape, number), np.float64))
        case 5 if tensor.dims:
            tensor.dims[data.draw(st.integers(0, len(tensor.dims) - 1))] = size
        case 6:
            tensor.data_type = data.draw(st.integers(0, 25))
        case 7:
            dim[data.draw(st.integers(0, len(dim) - 1))].dim_value = size
        case _:
            one.input.reverse()


@RANDOM
@given(which=st.sampled_from(range(len(MODELS) + len(SMALL))), data=st.data())
def test_a_network_with_something_changed_is_a_network_or_one_line(which: int, data: st.DataObject, tmp_path: Path) -> None:
    made = onnx.load_from_string(SMALL[which] if which < len(SMALL) else MODELS[which - len(SMALL)].read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        if made.graph.node and made.graph.initializer:
            mutated(made, data)
    graph_or_complaint(made.SerializeToString(), tmp_path)


@RANDOM
@given(content=st.binary(max_size=300))
def test_random_bytes_are_one_line(content: bytes, tmp_path: Path) -> None:
    assert isinstance(graph_or_complaint(content, tmp_path), str)


# In a process of its own, whose memory is limited


def wire(field: int, content: bytes) -> bytes:
    """Return a protobuf field of bytes, written by hand."""
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([field << 3 | 2]) + length + bytes([size]) + content


def empty_nodes(folder: Path) -> None:
    """Write 30 million nodes of two bytes each, which take 200 bytes each once parsed."""
    written(wire(7, b"\x0a\x00" * 30_000_000), folder)


def same_place_again(folder: Path) -> None:
    """Write a hundred constants that read the same 100 MB of a file that takes no space on disk."""
    with (folder / "w.bin").open("wb") as stream:
        stream.truncate(100_000_000)
    tensors = []
    for i in range(100):
        tensors.append(TensorProto(name=f"w{i}", data_type=1, dims=[25_000_000], data_location=TensorProto.EXTERNAL))
        tensors[-1].external_data.add(key="location", value="w.bin")
    adds = [node("Add", [f"s{i}" if i else "a", f"w{i}"], f"s{i + 1}") for i in range(100)]
    written(model([quant("x", "a"), *adds, quant("s100", "y")], tensors, (None, 1)), folder)


def blow_up(folder: Path) -> None:
    written(doublings(40), folder)


def sparse_file(folder: Path) -> None:
    with (folder / NAME).open("wb") as stream:
        stream.truncate(3 << 30)


def limited() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))


@pytest.mark.parametrize("make", [empty_nodes, same_place_again, blow_up, sparse_file])
def test_what_would_fill_the_memory_is_one_line(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "caloedge", "compile", NAME],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        preexec_fn=limited,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, ""), done.stderr[-500:]
    assert done.stderr.startswith(f"caloedge: {NAME}: ")
    assert len(done.stderr.splitlines()) == 1
