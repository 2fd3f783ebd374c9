"""Corners of single ONNX operators: what the reader makes of them equals the executor, or it refuses them by name."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_qonnx import File, same

from caloedge.compiler.onnx.reader import compile_file
from caloedge.errors import Unsupported

pytest.importorskip("qonnx")
pytest.importorskip("onnxruntime")


def softmax(opset: int, shape: tuple[int, ...], **attributes: int) -> File:
    file = File(shape, opset)
    file.quant(file.node("Softmax", "q", **attributes), 1 / 64, 7, 0, out="y")
    return file


def gemm(bias: tuple[int, ...]) -> File:
    file = File((3,), batch=1 if bias[:1] != (4,) else 4)
    weights, constants = file.constant(np.ones((3, 4))), file.constant(np.arange(1, 1 + np.prod(bias)).reshape(bias))
    file.quant(file.node("Gemm", "q", weights, constants), 0.5, 8, out="y")
    return file


def after(kind: str, *constants: tuple[Any, Any], shape: tuple[int, ...] = (2, 4, 4), opset: int = 13, **options: Any) -> File:
    """Return a file with one node between two quantisers; constants with their types, None for an input left out."""
    batch, scale, out = options.pop("batch", "N"), options.pop("scale", 0.25), options.pop("out", "")
    file = File(shape, opset, batch, scale)
    names = ["" if kind_of is None else file.constant(values, kind_of) for values, kind_of in constants]
    file.quant(file.node(kind, "q", *names, out=out, **options), 0.5, 8, out="y")
    return file


def dropout_mask() -> File:
    file = File((4,))
    kept = file.node("Dropout", "q", out="kept mask")
    file.quant(file.node("Mul", kept, file.node("Cast", "mask", to=TensorProto.FLOAT)), 0.5, out="y")
    return file


def cast(to: int, scale: float = 1.0) -> File:
    file = File((4,), scale=scale)
    file.quant(file.node("Cast", file.node("Cast", "q", to=to), to=TensorProto.FLOAT), 2.0, out="y")
    return file


def linear(kind: int) -> File:
    file = File((4,), opset=21)
    step = file.constant(0.25)
    file.node("DequantizeLinear", file.node("QuantizeLinear", "q", step, output_dtype=kind), step, out="y")
    return file


def pooled(kind: str, **attributes: Any) -> File:
    """Return a file with a mean that divides by other numbers at the edge before another pool."""
    file = File((3, 4, 4))
    mean = file.node("AveragePool", "q", kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    file.quant(file.node(kind, mean, **attributes), 0.5, 8, out="y")
    return file


def normalised(outputs: str, kind: str, *more: Any, **attributes: Any) -> File:
    file = File((3, 2, 2), opset=11)
    constants = [file.constant(values) for values in ([-1, -0.5, -2], [0, 1, 2], [0, 0, 1], [1, 1, 2])]
    x = file.node("BatchNormalization", "q", *constants, out=outputs)
    file.quant(file.node(kind, x, *more, **attributes), 0.11, 8, out="y")
    return file


def signed_scores() -> File:
    file = File((3, 4))
    file.node("ArgMax", file.node("Mul", "q", file.constant([[-1], [1], [-1]])), out="y", axis=1)
    return file


def broadcast_sum() -> File:
    """Return a file that adds an image of one channel to one whose channels have different scales."""
    file = File((1, 2, 2))
    weights = file.quant(file.constant(np.arange(-6, 6).reshape(3, 1, 2, 2)), np.reshape([0.25, 0.3, 0.11], (3, 1, 1, 1)), 8)
    image = file.node("Conv", "q", weights, pads=[0, 0, 1, 1])
    channels = file.quant(image, np.reshape([0.5, 0.3, 0.7], (1, 3, 1, 1)), 8)
    file.quant(file.node("Add", "q", channels), 0.5, 8, out="y")
    return file


def sized(entry: int) -> File:
    """Return a file that multiplies by one number of its own shape; the first is the number of events."""
    file = File((2, 3))
    size = file.node("Gather", file.node("Shape", "q"), file.constant([entry], np.int64))
    file.quant(file.node("Mul", "q", file.node("Cast", size, to=TensorProto.FLOAT)), 0.5, 8, out="y")
    return file


INTS, BOOL, FLOAT = np.int64, np.bool_, np.float32
EXACT = {
    "Softmax of opset 11 over the last axis": lambda: softmax(11, (3, 4), axis=2),
    "Softmax of opset 11 over axis 1 of scores": lambda: softmax(11, (5,)),
    "Softmax of opset 13 over axis 1": lambda: softmax(13, (3, 4), axis=1),
    "Gemm with a bias (1, F)": lambda: gemm((1, 4)),
    "Gemm with one bias": lambda: gemm((1,)),
    "Dropout whose mask is read": dropout_mask,
    "Dropout of evaluation": lambda: after("Dropout", (0.5, FLOAT), (False, BOOL)),
    "Cast to int8": lambda: cast(TensorProto.INT8),
    "Cast to int32": lambda: cast(TensorProto.INT32),
    "QuantizeLinear to int8 without zero point": lambda: linear(TensorProto.INT8),
    "QuantizeLinear to uint16 without zero point": lambda: linear(TensorProto.UINT16),
    "GlobalMaxPool over scales": lambda: pooled("GlobalMaxPool"),
    "ReduceMax after negative gammas": lambda: normalised("b", "ReduceMax", axes=[2, 3]),
    "ArgMax after signs": signed_scores,
    "Add of one channel to several": broadcast_sum,
    "Mul by the size of an axis": lambda: sized(1),
}
REFUSED = {
    "Softmax of opset 11 over several axes": (lambda: softmax(11, (3, 4)), "adds over all axes from its axis on, here"),
    "Gemm with a bias for each event": (lambda: gemm((4, 1)), "its bias .* differs between events"),
    "Dropout in training": (lambda: after("Dropout", (0.5, FLOAT), (True, BOOL)), "Dropout in training mode"),
    "BatchNormalization in training": (lambda: normalised("b m v n w", "Relu"), "batch normalisation in training mode"),
    "Cast to bool": (lambda: cast(TensorProto.BOOL), "a cast that may change numbers"),
    "Cast to uint8": (lambda: cast(TensorProto.UINT8), "a cast that may change numbers"),
    "Cast of fractions": (lambda: cast(TensorProto.INT8, 0.25), "a cast that may change numbers"),
    "QuantizeLinear to int32": (lambda: linear(TensorProto.INT32), "QuantizeLinear to data type 6"),
    "a scale that repeats": (
        lambda: after("PRelu", (np.ones((4, 1, 1)), FLOAT), shape=(1, 2, 2)),
        r"slope of shape \(4, 1, 1\) repeats a tensor",
    ),
    "Reshape that divides events": (
        lambda: after("Reshape", ([2, -1], INTS), shape=(4, 4), batch=1),
        "divides events of 16 elements",
    ),
    "Expand that repeats events": (
        lambda: after("Expand", ([4, 4, 4], INTS), shape=(4, 4), batch=1),
        "Expand to .* not possible",
    ),
    "Resize that keeps the ratio": (
        lambda: after(
            "Resize",
            ("", None),
            ("", None),
            ([1, 2, 8, 6], INTS),
            opset=18,
            mode="nearest",
            keep_aspect_ratio_policy="not_larger",
        ),
        "keep_aspect_ratio_policy",
    ),
    "Mul by the number of events": (lambda: sized(0), "depends on the number of events"),
}


@pytest.mark.parametrize("case", EXACT)
def test_it_is_what_the_executor_makes_of_it(case: str, tmp_path: Path) -> None:
    same(EXACT[case]().save(tmp_path / "case.onnx", "y"))


@pytest.mark.parametrize("case", REFUSED)
def test_it_is_refused_by_name(case: str, tmp_path: Path) -> None:
    make, words = REFUSED[case]
    with pytest.raises(Unsupported, match=words):
        compile_file(make().save(tmp_path / "case.onnx", "y"))


def test_a_constant_that_repeats_the_input_is_refused(tmp_path: Path) -> None:
    file = File((1,))
    file.nodes.clear()
    file.quant(file.node("Mul", "x", file.constant(np.full((1, 4), 0.5))), out="y")
    with pytest.raises(Unsupported, match=r"shape \(1, 4\) repeats the network's input"):
        compile_file(file.save(tmp_path / "case.onnx", "y"))


def test_resize_of_opset_10_takes_the_element_before(tmp_path: Path) -> None:
    # qonnx's executor has no Resize of opset 10; onnxruntime has, in float32, which holds these small numbers.
    import onnxruntime

    scales = ([1.0, 1.0, 1.5, 3.0], FLOAT)
    compiled = compile_file(after("Resize", scales, shape=(1, 4, 4), opset=10).save(tmp_path / "case.onnx", "y")).graph
    nodes = [helper.make_node("Resize", ["x", "s"], ["y"])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("x", "y")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(np.float32(scales[0]), "s")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 10)], ir_version=8)
    codes = np.arange(16).reshape(1, 1, 4, 4) * 2 - 16
    (wanted,) = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": codes.astype(np.float32)})
    assert np.array_equal(compiled.run(codes)["y"] * 2, wanted)
    with pytest.raises(Unsupported, match="makes its input smaller"):
        compile_file(after("Resize", ([1, 1, 0.5, 1], FLOAT), opset=10).save(tmp_path / "case.onnx", "y"))
