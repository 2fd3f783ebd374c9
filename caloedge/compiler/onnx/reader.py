"""From a QONNX or QCDQ file to the exact integer network; needs onnx only, so that firmware work needs no torch.

The file is a real-valued network with quantisers. Between two of them everything is kept in exact rational numbers (`symbolic`);
at each of them an exact integer operation is found (`requantise`). What cannot be exact is refused by name: a node that is
misread would be a wrong trigger.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from caloedge.compiler.builder import Builder
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx import convolutions, elementwise, gathers, moves, pools, products, quantisers, selection
from caloedge.compiler.onnx.folding import fold, is_folded
from caloedge.compiler.onnx.node import SOFTMAX, Constant, Node, RawInput, Reading, Scores, as_codes
from caloedge.compiler.onnx.onnx_file import OnnxFile, load, node_name, shown, tensor_array
from caloedge.compiler.ops import InputQuantiser, Output
from caloedge.compiler.passes import optimise
from caloedge.compiler.ranges import FLOAT64_EXACT
from caloedge.compiler.rationals import Rationals, to_floats
from caloedge.compiler.symbolic import SymbolicValue, expanded, uniform
from caloedge.errors import BadData, Unsupported, UserError

QUANT_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
CHANNELS_LAST_DOMAIN = "qonnx.custom_op.channels_last"
NO_MEMORY = "compiling it needs more memory than there is; use a smaller network"
READERS: Mapping[str, Callable[[Node], None]] = {
    **quantisers.READERS,
    **convolutions.READERS,
    **products.READERS,
    **pools.READERS,
    **selection.READERS,
    **gathers.READERS,
    **elementwise.READERS,
    **moves.READERS,
}


@dataclass(frozen=True, eq=False)
class Located:
    """Place of a tensor of the file in the integer network: value = code * scale + offset."""

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
        whole_ranges={value.name: value.whole_range for value in file.inputs},
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
        except MemoryError:
            raise Unsupported(f"{file.name}: node {node_name(proto)}: {NO_MEMORY}") from None
        except (ArithmeticError, ValueError, IndexError, TypeError) as error:
            # Numbers and shapes that nobody thought of; nothing has been written.
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise BadData(f"{file.name}: node {node_name(proto)}: contradicts itself ({reason}); export the file again") from None
    try:
        graph = replace(_finish(file, reading), name=_network_name(path))
        located = {
            name: Located(operand.op, _floats(operand.scale), _floats(operand.offset))
            for name, operand in reading.operands.items()
            if isinstance(operand, SymbolicValue) and operand.is_plain and operand.op in graph.tensors
        }
        return Compiled(optimise(graph), tuple(reading.inserted), graph, located)
    except MemoryError:
        raise Unsupported(f"{file.name}: {NO_MEMORY}") from None


def _read_node(proto: onnx.NodeProto, reading: Reading, folder: Path) -> None:
    node = Node(proto, reading)
    if proto.op_type == "Constant" and proto.domain in ("", "ai.onnx"):
        node.set_output(_constant(node, folder))
        return
    custom = proto.op_type in quantisers.CUSTOM
    last = node.channels_last and proto.op_type in convolutions.CHANNELS_LAST
    allowed = QUANT_DOMAINS if custom else (CHANNELS_LAST_DOMAIN,) if last else ("", "ai.onnx")
    folded = not custom and not last and is_folded(node)
    if not (proto.op_type in READERS or folded) or proto.domain not in allowed:
        operator = shown(f"{proto.domain}.{proto.op_type}" if proto.domain else proto.op_type)
        raise Unsupported(
            f"operator {operator} is not supported (see `caloedge list`); export the network without it, or calculate it outside"
        )
    if not custom and not last:
        _refuse_wrong_count(proto, reading.opset)
    if folded:
        fold(node)
    else:
        READERS[proto.op_type](node)


def _refuse_wrong_count(proto: onnx.NodeProto, opset: int) -> None:
    """Refuse more or fewer inputs or outputs than the operator has in the file's version."""
    try:
        schema = onnx.defs.get_schema(proto.op_type, min(opset, onnx.defs.onnx_opset_version()))
    except onnx.defs.SchemaError:
        raise BadData(f"operator {proto.op_type} does not exist in opset {opset}; export the network again") from None
    for label, number, least, most in (
        ("inputs", len(proto.input), schema.min_input, schema.max_input),
        ("outputs", len(proto.output), schema.min_output, schema.max_output),
    ):
        if not least <= number <= most:
            raise BadData(f"{number} {label} given, {least} to {most} expected")


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


# The end


def _finish(file: OnnxFile, reading: Reading) -> Graph:
    outputs = []
    for name in file.outputs:
        operand = reading.operands.get(name)
        if isinstance(operand, Scores):
            raise Unsupported(f"{file.name}: output {shown(name)}: {SOFTMAX}")
        if not isinstance(operand, SymbolicValue):
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


def _output(name: str, operand: SymbolicValue, reading: Reading) -> Output:
    value = expanded(reading.builder, as_codes(reading, operand, name))
    scale, fraction = uniform(value.scale), reading.builder.tensors[value.op].format.fraction
    if max(map(abs, value.offset.flat)) >= min(map(abs, value.scale.flat)) * FLOAT64_EXACT > 0:
        raise Unsupported("float64 cannot tell its codes apart beside its offset; leave the offset out")
    power = scale == Fraction(2) ** -fraction
    return Output(
        name, (value.op,), None if power else _floats(value.scale), _floats(value.offset) if any(value.offset.flat) else None
    )


def _floats(values: Rationals) -> NDArray[np.float64]:
    floats = to_floats(values)
    floats.setflags(write=False)
    return floats
