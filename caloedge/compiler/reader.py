"""From a QONNX or QCDQ file to the exact integer network; needs onnx only, so that firmware work needs no torch.

The file is a real-valued network with quantisers. Between two of them everything is kept in exact rational numbers (`values`);
at each of them an exact integer operation is found (`steps`). What cannot be exact is refused by name: a node that is misread
would be a wrong trigger.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from caloedge.compiler import (
    read_choices,
    read_convolutions,
    read_elementwise,
    read_moves,
    read_pools,
    read_products,
    read_quantisers,
)
from caloedge.compiler.builder import Builder
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx_file import OnnxFile, load, node_name, shown, tensor_array
from caloedge.compiler.ops import InputQuantiser, Output
from caloedge.compiler.passes import optimise
from caloedge.compiler.ranges import MAX_ELEMENTS
from caloedge.compiler.rationals import Rationals, to_floats
from caloedge.compiler.reading import SOFTMAX, Constant, Node, RawInput, Reading, Scores, as_codes
from caloedge.compiler.values import Value, expanded, uniform
from caloedge.errors import BadData, Unsupported, UserError

QUANT_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
CHANNELS_LAST_DOMAIN = "qonnx.custom_op.channels_last"
READERS: Mapping[str, Callable[[Node], None]] = {
    **read_quantisers.READERS,
    **read_convolutions.READERS,
    **read_products.READERS,
    **read_pools.READERS,
    **read_choices.READERS,
    **read_elementwise.READERS,
    **read_moves.READERS,
}
FOLDED = {
    *("Abs", "Add", "Cast", "Ceil", "Clip", "Concat", "ConstantOfShape", "Div", "Equal", "Exp", "Expand", "Flatten", "Floor"),
    *("Gather", "Identity", "MatMul", "Max", "Min", "Mul", "Neg", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMean"),
    *("ReduceMin", "ReduceProd", "ReduceSum", "Reshape", "Round", "Shape", "Sign", "Slice", "Split", "Sqrt", "Squeeze", "Sub"),
    *("Tile", "Transpose", "Unsqueeze", "Where"),
}
"""Operators that are calculated while reading when all their inputs are constants."""
MOVES = {"Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""Those of them that keep quantised weights quantised."""
ELEMENTWISE = {"Add", "Div", "Equal", "Max", "Min", "Mul", "Pow", "Sub", "Where"}


@dataclass(frozen=True, eq=False)
class Located:
    """Where a tensor of the file is in the integer network: value = code * scale + offset."""

    op: str
    scale: NDArray[np.float64]
    """Repeated over the shape."""
    offset: NDArray[np.float64]


@dataclass(frozen=True)
class Compiled:
    """An integer network, and what was put into the file's one to make it."""

    graph: Graph
    inserted: tuple[str, ...]
    """Tensors that got a quantiser that the file does not have."""
    unoptimised: Graph
    """The same network before the passes."""
    located: Mapping[str, Located]
    """The file's tensors that are codes in `unoptimised`, in the order of its nodes."""


def read(path: str | Path) -> Graph:
    """Return the exact integer network of a QONNX file.

    Raises `BadData` for a file that is damaged or contradicts itself and `Unsupported`, naming the node and a cure, for
    what cannot be compiled exactly.
    """
    return compile_file(path).graph


def compile_file(path: str | Path, missing: Format | None = None) -> Compiled:
    """Return the integer network of a QONNX file; where a quantiser is missing, one of this format is put in if it is given."""
    path = Path(path)
    file = load(path)
    reading = Reading(
        file=file.name,
        builder=Builder(frozenset((*file.outputs, *(value.name for value in file.inputs)))),
        shapes={value.name: value.shape or (1,) for value in file.inputs},
        whole={value.name: value.whole for value in file.inputs},
        batch_sizes=frozenset(value.event_axis_size for value in file.inputs if value.event_axis_size is not None),
        opset=file.opsets.get("", 13),
        read=frozenset((*file.outputs, *(name for node in file.nodes for name in node.input))),
        missing=missing,
    )
    reading.scalars.update(value.name for value in file.inputs if not value.shape)
    reading.operands.update({name: Constant(values) for name, values in file.constants.items()})
    for value in file.inputs:
        shape = reading.shapes[value.name]
        reading.operands[value.name] = RawInput(value.name, np.arange(math.prod(shape)).reshape(shape))
    for proto in file.nodes:
        try:
            _read_node(proto, reading, path.parent)
        except UserError as error:
            raise _of_kind(error)(f"{file.name}: node {node_name(proto)}: {error}") from None
        except (ArithmeticError, ValueError, IndexError, TypeError, MemoryError) as error:
            # Numbers and shapes that nobody thought of; nothing has been written.
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise BadData(f"{file.name}: node {node_name(proto)}: contradicts itself ({reason}); export the file again") from None
    graph = replace(_finish(file, reading), name=_network_name(path))
    located = {
        name: Located(operand.op, _floats(operand.scale), _floats(operand.offset))
        for name, operand in reading.operands.items()
        if isinstance(operand, Value) and operand.is_plain and operand.op in graph.tensors
    }
    return Compiled(optimise(graph), tuple(reading.inserted), graph, located)


def _read_node(proto: onnx.NodeProto, reading: Reading, folder: Path) -> None:
    node = Node(proto, reading)
    if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx"):
        node.give(_constant(node, folder))
        return
    custom = proto.op_type in read_quantisers.CUSTOM
    last = node.last and proto.op_type in read_convolutions.CHANNELS_LAST
    allowed = QUANT_DOMAINS if custom else (CHANNELS_LAST_DOMAIN,) if last else ("", "ai.onnx")
    known = proto.op_type in READERS or proto.op_type in FOLDED
    if not known or proto.domain not in allowed:
        operator = shown(f"{proto.domain}.{proto.op_type}" if proto.domain else proto.op_type)
        raise Unsupported(
            f"operator {operator} is not supported (see `caloedge list`); export the network without it, or calculate it outside"
        )
    if not custom and not last:
        _refuse_wrong_count(proto, reading.opset)
    operands = [reading.operands[name] for name in proto.input if name]
    if not custom and proto.op_type in FOLDED and all(isinstance(operand, Constant) for operand in operands):
        _fold(node, [operand for operand in operands if isinstance(operand, Constant)])
    elif proto.op_type in READERS:
        READERS[proto.op_type](node)
    else:
        raise Unsupported(f"operator {proto.op_type} is supported for constants only; calculate it outside of the network")


def _refuse_wrong_count(proto: onnx.NodeProto, opset: int) -> None:
    """Refuse more or fewer inputs or outputs than the operator has in the file's version."""
    try:
        schema = onnx.defs.get_schema(proto.op_type, min(opset, onnx.defs.onnx_opset_version()))
    except onnx.defs.SchemaError:
        raise BadData(f"operator {proto.op_type} does not exist in opset {opset}; export the network again") from None
    for what, there, least, most in (
        ("inputs", len(proto.input), schema.min_input, schema.max_input),
        ("outputs", len(proto.output), schema.min_output, schema.max_output),
    ):
        if not least <= there <= most:
            raise BadData(f"{there} {what} given, {least} to {most} expected")


# Constants


def _constant(node: Node, folder: Path) -> Constant:
    values = {item.name: onnx.helper.get_attribute_value(item) for item in node.proto.attribute}
    if isinstance(values.get("value"), onnx.TensorProto):
        return Constant(tensor_array(values["value"], folder))
    for name, kind in (
        ("value_float", np.float32),
        ("value_int", np.int64),
        ("value_floats", np.float32),
        ("value_ints", np.int64),
    ):
        if name in values:
            return Constant(np.asarray(values[name], dtype=kind))
    raise Unsupported("only constants of numbers are supported")


def _fold(node: Node, constants: list[Constant]) -> None:
    """Calculate a node of constants with the operators' reference implementation, in float64."""
    _refuse_growth(node, constants)
    first = constants[0] if constants else None
    if first is not None and first.codes is not None and first.scale is not None and node.kind in MOVES:
        places = np.arange(first.values.size).reshape(first.values.shape)
        for number, moved in enumerate(_calculated(node, [places, *(constant.values for constant in constants[1:])])):
            index = moved.astype(np.int64)
            scale = np.broadcast_to(first.scale, first.codes.shape).reshape(-1)[index]
            values = first.values.reshape(-1)[index]
            node.give(Constant(values, first.codes.reshape(-1)[index], scale, first.format), number)
        return
    arrays = [x.astype(np.float64) if x.dtype == np.float32 else x for x in (constant.values for constant in constants)]
    for number, values in enumerate(_calculated(node, arrays)):
        node.give(Constant(np.asarray(values)), number)


def _calculated(node: Node, arrays: list[NDArray[Any]]) -> list[Any]:
    names = [name for name in node.proto.input if name]
    given = dict(zip(names, arrays, strict=True))
    inputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None) for name in given]
    outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.DOUBLE, None) for name in node.proto.output]
    graph = onnx.helper.make_graph([node.proto], "one", inputs, outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", node.reading.opset)])
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(model).run(None, given))


def _refuse_growth(node: Node, constants: list[Constant]) -> None:
    """Refuse results that are far larger than what they are calculated from."""
    sizes = [constant.values.size for constant in constants]
    shapes = [constant.values.shape for constant in constants]
    if node.kind in ("ConstantOfShape", "Expand", "Tile", "Reshape"):
        last = constants[-1].values.astype(np.float64).reshape(-1)
        size = float(np.prod(np.maximum(np.abs(last), 1))) * (sizes[0] if node.kind in ("Tile", "Expand") else 1)
    elif node.kind == "Range":
        start, end, step = (float(constant.values.reshape(-1)[0]) for constant in constants)
        size = abs((end - start) / step) if step else math.inf
    elif node.kind == "Gather":
        size = float(sizes[0]) * sizes[1]
    elif node.kind in ("MatMul", "Concat"):
        size = float(np.prod(sizes)) if node.kind == "MatMul" else float(sum(sizes))
    else:
        size = (
            float(math.prod(np.broadcast_shapes(*shapes)))
            if node.kind in ELEMENTWISE and shapes
            else float(max(sizes, default=0))
        )
    if not size <= 4 * MAX_ELEMENTS:
        raise Unsupported(f"a constant of up to {size:.3g} elements is too large")


# The end


def _finish(file: OnnxFile, reading: Reading) -> Graph:
    outputs = []
    for name in file.outputs:
        operand = reading.operands.get(name)
        if isinstance(operand, Scores):
            raise Unsupported(f"{file.name}: output {shown(name)}: {SOFTMAX}")
        if not isinstance(operand, Value):
            raise BadData(f"{file.name}: output {shown(name)!r} is not the result of any layer")
        try:
            outputs.append(_output(name, operand, reading))
        except UserError as error:
            raise _of_kind(error)(f"{file.name}: output {shown(name)}: {error}") from None
    ops = reading.builder.needed(source for op in outputs for source in op.inputs)
    by_name = {op.name: op for op in ops if isinstance(op, InputQuantiser)}
    for value in file.inputs:
        if value.name not in by_name:
            raise Unsupported(f"{file.name}: no output depends on the input {shown(value.name)}; export the network without it")
    inputs = [by_name[value.name] for value in file.inputs]
    try:
        return Graph((*inputs, *(op for op in ops if not isinstance(op, InputQuantiser)), *outputs))
    except UserError as error:
        raise _of_kind(error)(f"{file.name}: {error}") from None


def _network_name(path: Path) -> str:
    """Return the file's name, or that of its folder when it is an artifact's model."""
    return path.resolve().parent.name if path.name == "model.qonnx" else path.stem


def _of_kind(error: UserError) -> type[UserError]:
    return BadData if isinstance(error, BadData) else Unsupported


def _output(name: str, operand: Value, reading: Reading) -> Output:
    value = expanded(reading.builder, as_codes(reading, operand, name))
    scale, fraction = uniform(value.scale), reading.builder.tensors[value.op].format.fraction
    power = scale == Fraction(2) ** -fraction
    return Output(
        name, (value.op,), None if power else _floats(value.scale), _floats(value.offset) if any(value.offset.flat) else None
    )


def _floats(values: Rationals) -> NDArray[np.float64]:
    found = to_floats(values)
    found.setflags(write=False)
    return found
