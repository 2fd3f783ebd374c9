"""Calculate nodes of constants while reading, with ONNX's own reference implementation, in float64 as the executor does.

The sizes of results are inferred before anything is calculated: a few bytes of a file may ask for any amount of memory.
"""

import math
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnx.shape_inference import InferenceError

from caloedge.compiler.onnx.node import Constant, Node
from caloedge.compiler.ranges import MAX_ELEMENTS
from caloedge.errors import BadData, Unsupported

QUICK = {
    *("Abs", "Add", "Cast", "Ceil", "Clip", "Concat", "ConstantOfShape", "Div", "Equal", "Exp", "Expand", "Flatten", "Floor"),
    *("Gather", "Greater", "Identity", "Less", "Log", "Max", "Min", "Mul", "Neg", "Pow", "Range", "Reciprocal", "ReduceMax"),
    *(
        "ReduceMean",
        "ReduceMin",
        "ReduceProd",
        "ReduceSum",
        "Relu",
        "Reshape",
        "Round",
        "Shape",
        "Sign",
        "Slice",
        "Split",
        "Sqrt",
    ),
    *("Squeeze", "Sub", "Tanh", "Tile", "Transpose", "Unsqueeze", "Where"),
}
"""Operators of which a single call of numpy does everything."""
MATRIX_PRODUCTS = {"MatMul", "Gemm"}
MAX_QUICK, MAX_SLOW = 4 * MAX_ELEMENTS, 2**20
"""Most elements of results (for other operators: of inputs and results together, since they may be calculated one by one)."""
MAX_PRODUCTS = 2**30
MAX_INFERRED_FROM = 1024
"""Most elements of constants that may say how large a result is."""
DATA_DEPENDENT = {"Compress", "NonZero", "Unique"}
"""Operators whose results have a size that depends on the numbers, but never more elements than rank times their input's."""
NOT_FOLDED = {
    *("Bernoulli", "DequantizeLinear", "Dropout", "DynamicQuantizeLinear", "Multinomial", "QuantizeLinear", "RandomNormal"),
    *("RandomNormalLike", "RandomUniform", "RandomUniformLike", "GRU", "LSTM", "RNN"),
}
"""Random numbers, quantisers (their readers keep the codes), and what takes one step after the other."""
MOVES = {"Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators that keep quantised weights quantised."""
STEPS = {"Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Mod", "Round", "Sign"}
"""Operators that may make much of the little that float32 and float64 differ by, as casts to whole numbers do."""


def is_folded(node: Node) -> bool:
    """Tell whether a node of ONNX's own operators reads constants only."""
    constants = [isinstance(node.reading.operands[name], Constant) for name in node.proto.input if name]
    return node.kind not in NOT_FOLDED and all(constants)


def fold(node: Node) -> None:
    """Calculate a node of constants. Raises `Unsupported` for what would take too long or too much memory."""
    operands = [node.reading.operands[name] for name in node.proto.input if name]
    constants = [operand for operand in operands if isinstance(operand, Constant)]
    arrays = [_float64(constant.values) for constant in constants]
    _refuse_growth(node, arrays)
    first = constants[0] if constants else None
    if first is not None and first.codes is not None and first.scale is not None and node.kind in MOVES:
        places = np.arange(first.values.size).reshape(first.values.shape)
        for number, moved in enumerate(_calculated(node, [places, *arrays[1:]])):
            index = moved.astype(np.int64)
            scale = np.broadcast_to(first.scale, first.codes.shape).reshape(-1)[index]
            values = first.values.reshape(-1)[index]
            node.set_output(Constant(values, first.codes.reshape(-1)[index], scale, first.format), number)
        return
    results = _calculated(node, arrays)
    _refuse_doubtful_steps(node, arrays, results)
    for number, values in enumerate(results):
        node.set_output(Constant(_float64(np.asarray(values))), number)


def _float64(values: NDArray[Any]) -> NDArray[Any]:
    return values.astype(np.float64) if values.dtype.kind == "f" else values


def _one_node(node: Node, arrays: list[NDArray[Any]]) -> onnx.ModelProto:
    """Return a model of the node alone, in which casts to float32 are casts to float64; small inputs are part of it."""
    proto = onnx.NodeProto()
    proto.CopyFrom(node.proto)
    for attribute in proto.attribute:
        if attribute.name == "to" and node.kind == "Cast" and attribute.i == TensorProto.FLOAT:
            attribute.i = TensorProto.DOUBLE
    by_name = dict(zip((name for name in proto.input if name), arrays, strict=False))
    kinds = {name: helper.np_dtype_to_tensor_dtype(array.dtype) for name, array in by_name.items()}
    inputs = [helper.make_tensor_value_info(name, kinds[name], array.shape) for name, array in by_name.items()]
    outputs = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    small = [numpy_helper.from_array(x, name) for name, x in by_name.items() if x.size <= MAX_INFERRED_FROM]
    graph = helper.make_graph([proto], "one", inputs, outputs, small)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", node.reading.opset)])


def _calculated(node: Node, arrays: list[NDArray[Any]]) -> list[Any]:
    try:
        evaluator = ReferenceEvaluator(_one_node(node, arrays))
    except (NotImplementedError, RuntimeError):
        raise Unsupported(
            f"operator {node.kind} of constants cannot be calculated; calculate it outside of the network"
        ) from None
    names = [name for name in node.proto.input if name]
    with np.errstate(all="ignore"):
        return list(evaluator.run(None, dict(zip(names, arrays, strict=True))))


def _refuse_growth(node: Node, arrays: list[NDArray[Any]]) -> None:
    """Refuse results that are too large, or would take too long, before anything is calculated."""
    size = sum(_result_sizes(node, arrays))
    input_size = sum(array.size for array in arrays)
    if node.kind in MATRIX_PRODUCTS:
        products = math.prod(array.size for array in arrays[:2])
        if products > MAX_PRODUCTS or size > MAX_QUICK:
            raise Unsupported(f"a product of constants of {arrays[0].shape} and {arrays[1].shape} is too large")
    elif not (size <= MAX_QUICK if node.kind in QUICK else size + input_size <= MAX_SLOW):
        raise Unsupported(f"a constant of {size:.3g} elements is too large")


def _result_sizes(node: Node, arrays: list[NDArray[Any]]) -> list[float]:
    if node.kind in DATA_DEPENDENT:
        return [float(arrays[0].size * max(1, arrays[0].ndim))] * len(node.proto.output)
    try:
        model = onnx.shape_inference.infer_shapes(_one_node(node, arrays), strict_mode=True, data_prop=True)
    except InferenceError as error:
        reason = " ".join(str(error).split())
        raise BadData(f"contradicts itself ({reason[-160:]}); export the file again") from None
    sizes = []
    for output in model.graph.output:
        dims = output.type.tensor_type.shape.dim
        if not output.type.tensor_type.HasField("shape") or any(not dim.HasField("dim_value") for dim in dims):
            raise Unsupported(f"the size of what {node.kind} makes of constants is not known before; calculate it outside")
        sizes.append(float(math.prod(float(dim.dim_value) for dim in dims)))
    return sizes


def _refuse_doubtful_steps(node: Node, arrays: list[NDArray[Any]], results: list[Any]) -> None:
    """Refuse what would be another number if the file were calculated in float32, as exporters do."""
    if node.kind not in STEPS and not (node.kind == "Cast" and np.asarray(results[0]).dtype.kind != "f"):
        return
    with np.errstate(over="ignore"):
        single = [_float64(x.astype(np.float32)) if x.dtype == np.float64 else x for x in arrays]
    if all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in zip(arrays, single, strict=True)):
        return
    single_results = _calculated(node, single)
    # The rest of Mod and what Round leaves of fractions are rounded like any number; only a step is in doubt.
    close = (np.allclose(a, b, rtol=1e-6, atol=1e-6, equal_nan=True) for a, b in zip(results, single_results, strict=True))
    if not all(close):
        raise Unsupported("its result depends on whether constants are calculated in float32 or float64; store it as a number")
