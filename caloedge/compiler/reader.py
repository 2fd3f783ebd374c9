"""From a QONNX file to the exact integer network; needs onnx only, so that firmware work needs no torch.

Read is what Brevitas exports for networks of quantised convolutions, dense layers, ReLUs and max pools with power-of-two scales.
Everything else is refused by name: a node that is misread would be a wrong trigger.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import numpy_helper

from caloedge.compiler import fixed
from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.compiler.graph import (
    Conv2D,
    Dense,
    Flatten,
    Graph,
    InputQuantiser,
    MaxPool2D,
    Op,
    Output,
    Requantise,
    Tensor,
    infer,
)
from caloedge.errors import BadData, Unsupported, UserError

QUANT = ("Quant", "IntQuant")
QUANT_DOMAINS = ("qonnx.custom_op.general", "onnx.brevitas", "finn.custom_op.general")
ROUNDINGS = {"ROUND": Rounding.HALF_EVEN, "HALF_EVEN": Rounding.HALF_EVEN, "FLOOR": Rounding.TRUNCATE}
MAX_BITS = 32
"""Widest quantiser of weights, biases and activations that is believed; more is a mistake in the file."""


@dataclass(frozen=True, eq=False)
class QuantisedConstant:
    """A constant that went through a quantiser: weights or biases."""

    codes: Codes
    format: Format


@dataclass(frozen=True, eq=False)
class Relu:
    """A ReLU that waits for the quantiser after it."""

    source: str
    node: str


@dataclass
class Reading:
    """What is known so far while the nodes of one file are read in order."""

    file: str
    inputs: dict[str, tuple[int, ...]]
    """Graph inputs that no quantiser has taken yet: shape without the event axis."""
    consumers: Counter[str]
    reserved: set[str]
    """Names of the graph's outputs, which no operation may take."""
    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    quantised: dict[str, QuantisedConstant] = field(default_factory=dict)
    relus: dict[str, Relu] = field(default_factory=dict)
    made_by: dict[str, str] = field(default_factory=dict)
    """ONNX tensor name -> name of the operation that makes it."""
    ops: dict[str, Op] = field(default_factory=dict)
    tensors: dict[str, Tensor] = field(default_factory=dict)

    def known(self, name: str) -> bool:
        """Tell whether an earlier node or the file itself provides this tensor."""
        return any(name in there for there in (self.inputs, self.constants, self.quantised, self.relus, self.made_by))

    def new_name(self, kind: str) -> str:
        """Return the next free operation name, e.g. `conv_2`."""
        number = 1
        while (name := f"{kind}_{number}") in self.ops or name in self.reserved:
            number += 1
        return name

    def add(self, op: Op, output: str) -> None:
        """Append an operation that makes the ONNX tensor `output`; its range is proven at once."""
        self.tensors[op.name] = infer(op, [self.tensors[name] for name in op.inputs])
        self.ops[op.name] = op
        self.made_by[output] = op.name


def read(path: Path) -> Graph:
    """Return the exact integer network of a QONNX file.

    Raises `BadData` for a file that is damaged or contradicts itself and `Unsupported`, naming the node and a cure, for
    what cannot be compiled exactly.
    """
    model = _load(path)
    onnx_graph = model.graph
    constants = {tensor.name: _array(tensor, path) for tensor in onnx_graph.initializer}
    reading = Reading(
        file=path.name,
        inputs={value.name: _input_shape(value, path) for value in onnx_graph.input if value.name not in constants},
        consumers=Counter(name for node in onnx_graph.node for name in node.input),
        reserved={value.name for value in onnx_graph.output},
        constants=constants,
    )
    if len(reading.inputs) != 1:
        raise Unsupported(f"{path.name}: {len(reading.inputs)} inputs are not supported; join them into one")
    for node in _ordered(onnx_graph.node, reading):
        try:
            _read_node(node, reading)
        except (Unsupported, BadData) as error:
            raise type(error)(f"{path.name}: node {_name(node)}: {error}") from None
    return _finish(onnx_graph, reading)


def _finish(onnx_graph: onnx.GraphProto, reading: Reading) -> Graph:
    if not onnx_graph.output:
        raise BadData(f"{reading.file}: the network has no output")
    outputs = []
    for value in onnx_graph.output:
        if value.name in reading.relus:
            raise Unsupported(f"{reading.file}: {_unquantised_relu(reading.relus[value.name])}")
        if value.name not in reading.made_by:
            raise BadData(f"{reading.file}: output {value.name!r} is not the result of any layer")
        outputs.append(Output(value.name, (reading.made_by[value.name],)))
    if not any(isinstance(op, InputQuantiser) for op in reading.ops.values()):
        raise Unsupported(f"{reading.file}: no output depends on the input")
    try:
        return Graph((*reading.ops.values(), *outputs))
    except Unsupported as error:
        raise Unsupported(f"{reading.file}: {error}") from None


# The file


def _load(path: Path) -> onnx.ModelProto:
    try:
        model = onnx.load(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: {'no such file' if not path.exists() else error}") from None
    except (DecodeError, onnx.checker.ValidationError, ValueError, OSError) as error:
        first_line = (str(error).splitlines() or ["damaged"])[0]
        raise BadData(f"{path.name}: not a readable ONNX file ({first_line}); export it again") from None
    if not model.graph.node:
        raise BadData(f"{path.name}: not a readable ONNX file (it holds no nodes); export it again")
    return model


def _array(tensor: onnx.TensorProto, path: Path) -> NDArray[Any]:
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError) as error:
        raise BadData(f"{path.name}: initialiser {tensor.name!r} is damaged ({error}); export the file again") from None


def _input_shape(value: onnx.ValueInfoProto, path: Path) -> tuple[int, ...]:
    shape = tuple(int(dim.dim_value) for dim in value.type.tensor_type.shape.dim)[1:]
    if len(shape) not in (1, 3) or min(shape) < 1:
        raise Unsupported(f"{path.name}: input {value.name!r} must be (events, features) or (events, C, H, W) with fixed sizes")
    return shape


def _name(node: onnx.NodeProto) -> str:
    return node.name or f"{node.op_type} of {', '.join(node.output)}"


def _ordered(nodes: Iterable[onnx.NodeProto], reading: Reading) -> Iterable[onnx.NodeProto]:
    """Yield nodes when their inputs are known; the reader makes the outputs known before it asks for the next."""
    waiting = list(nodes)
    while waiting:
        ready = [node for node in waiting if all(not name or reading.known(name) for name in node.input)]
        if not ready:
            _refuse_unready(waiting, reading)
        yield from ready
        done = {id(node) for node in ready}
        waiting = [node for node in waiting if id(node) not in done]


def _refuse_unready(waiting: list[onnx.NodeProto], reading: Reading) -> NoReturn:
    made = {output for node in waiting for output in node.output}
    for node in waiting:
        for name in node.input:
            if name and name not in made and not reading.known(name):
                raise BadData(f"{reading.file}: node {_name(node)}: input {name!r} is missing; export the file again")
    raise BadData(f"{reading.file}: nodes {', '.join(sorted(map(_name, waiting))[:5])} read each other in a cycle")


# One node


def _read_node(node: onnx.NodeProto, reading: Reading) -> None:
    reader = READERS.get(node.op_type)
    allowed = QUANT_DOMAINS if node.op_type in QUANT else ("", "ai.onnx")
    if reader is None or node.domain not in allowed:
        operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
        raise Unsupported(f"operator {operator} is not supported; use {', '.join(READERS)}")
    if len(node.output) != 1:
        raise BadData(f"one output expected, {len(node.output)} given")
    reader(node, reading)


def _attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}


def _input(node: onnx.NodeProto, index: int, what: str) -> str:
    if index >= len(node.input) or not node.input[index]:
        raise BadData(f"{what} is missing")
    return str(node.input[index])


def _constant(node: onnx.NodeProto, index: int, what: str, reading: Reading) -> NDArray[Any]:
    name = _input(node, index, what)
    if name not in reading.constants:
        raise Unsupported(f"{what} must be a constant")
    return reading.constants[name]


def _source(node: onnx.NodeProto, reading: Reading, index: int = 0) -> str:
    """Return the name of the operation that a node reads; raw inputs and unquantised ReLUs are refused."""
    name = _input(node, index, "its input")
    if name in reading.relus:
        raise Unsupported(_unquantised_relu(reading.relus[name]))
    if name in reading.inputs:
        raise Unsupported("the network's input is not quantised; begin with a QuantIdentity")
    if name not in reading.made_by:
        raise Unsupported("its input is a constant; fold constants before exporting")
    return reading.made_by[name]


def _unquantised_relu(relu: Relu) -> str:
    return f"the result of ReLU {relu.node} is not quantised; use QuantReLU"


def _read_quant(node: onnx.NodeProto, reading: Reading) -> None:
    source, output, attributes = _input(node, 0, "its input"), node.output[0], _attributes(node)
    scale = np.asarray(_constant(node, 1, "scale", reading), dtype=np.float64)
    signed, narrow = bool(attributes.get("signed", 1)), bool(attributes.get("narrow", 0))
    width, rounding = _checked_quant(node, reading)
    fractions = _fractions(scale)
    if source in reading.constants:
        values = reading.constants[source]
        reading.quantised[output] = _quantise_constant(values, fractions, Format(signed, width, 0), narrow, rounding)
        return
    if len(set(fractions.flat)) != 1:
        raise Unsupported("the scale differs between channels, which only weights may do; use one scale per tensor")
    fmt = Format(signed, width, int(fractions.flat[0]))
    if source in reading.inputs:
        op: Op = InputQuantiser(reading.new_name("input"), reading.inputs[source], fmt, narrow, rounding)
    elif source in reading.relus:
        relu = reading.relus[source].source
        op = Requantise(reading.new_name("relu"), (relu,), fmt, relu=True, narrow=narrow, rounding=rounding)
    else:
        op = Requantise(reading.new_name("quant"), (_source(node, reading),), fmt, relu=False, narrow=narrow, rounding=rounding)
    reading.add(op, output)


def _checked_quant(node: onnx.NodeProto, reading: Reading) -> tuple[int, Rounding]:
    """Return width and rounding of a quantiser after checking everything but its scale."""
    attributes = _attributes(node)
    zero_point = _constant(node, 2, "zero point", reading)
    if np.any(zero_point):
        raise Unsupported(f"zero point {np.ravel(zero_point)[0]:g} is not supported; use a symmetric quantiser (zero point 0)")
    width = np.unique(_constant(node, 3, "bit width", reading))
    if width.size != 1 or width[0] != int(width[0]) or not 1 <= width[0] <= MAX_BITS:
        words = ", ".join(f"{value:g}" for value in width[:3])
        raise Unsupported(f"bit width {words} is not supported; use one whole number up to {MAX_BITS}")
    if attributes.get("narrow", 0) and not attributes.get("signed", 1):
        raise Unsupported("an unsigned quantiser with narrow range is not supported; use narrow_range=False")
    mode = attributes.get("rounding_mode", b"ROUND").decode().upper()
    if mode not in ROUNDINGS:
        raise Unsupported(f"rounding mode {mode} is not supported; use {' or '.join(ROUNDINGS)}")
    return int(width[0]), ROUNDINGS[mode]


def _fractions(scale: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the fraction bits of each power-of-two scale."""
    found = [fixed.power_of_two(float(value)) for value in scale.flat]
    for value, fraction in zip(scale.flat, found, strict=True):
        if fraction is None:
            raise Unsupported(f"scale {value:g} is not a power of two; use a FixedPoint quantiser (POWER_OF_TWO scaling)")
    return np.array(found, dtype=np.int64).reshape(scale.shape)


def _quantise_constant(
    values: NDArray[Any], fractions: NDArray[np.int64], fmt: Format, narrow: bool, rounding: Rounding
) -> QuantisedConstant:
    """Return the codes of weights or biases at the finest scale of their channels."""
    if fractions.size > 1 and np.broadcast_shapes(fractions.shape, values.shape) != values.shape:
        raise BadData(f"scale {fractions.shape} does not fit the constant {values.shape}")
    each = np.broadcast_to(fractions.reshape(()) if fractions.size == 1 else fractions, values.shape)
    scaled = np.ldexp(values.astype(np.float64), each)  # exact: the scales are powers of two
    finest = int(fractions.max())
    shifts = finest - each
    if shifts.size and int(shifts.max()) > MAX_BITS:
        raise Unsupported(f"the scales of its channels differ by 2**{int(shifts.max())}; use one scale per tensor")
    codes = fixed.quantise(scaled, fmt, rounding, narrow=narrow) << shifts
    if np.any(fixed.to_float(codes, finest).astype(np.float32).astype(np.float64) != fixed.to_float(codes, finest)):
        raise Unsupported("its codes are not exact in float32, so that training and firmware would differ; use fewer bits")
    if fractions.size == 1:
        return QuantisedConstant(codes, replace(fmt, fraction=finest))
    return QuantisedConstant(codes, Format.holding(int(codes.min()), int(codes.max()), finest))


def _weights(node: onnx.NodeProto, index: int, reading: Reading) -> QuantisedConstant:
    name = _input(node, index, "weights")
    if name not in reading.quantised:
        raise Unsupported("its weights are not quantised constants; use a weight quantiser (QuantConv2d, QuantLinear)")
    return reading.quantised[name]


def _bias(name: str, n_filters: int, fraction: int, reading: Reading) -> Codes:
    """Return the bias (F,) in units of 2**-fraction, the least significant bit of the sums it is added to."""
    if not name:
        return np.zeros(n_filters, dtype=np.int64)
    if name in reading.quantised:
        constant = reading.quantised[name]
        # Coarser than the sums is exact by a shift; finer only if the bits to be lost are zero.
        values = fixed.to_float(constant.codes, constant.format.fraction)
    elif name in reading.constants:
        values = np.asarray(reading.constants[name], dtype=np.float64)
    else:
        raise Unsupported("its bias is not a constant")
    codes = fixed.exact_codes(values, fraction)
    if codes is None:
        raise Unsupported(f"its bias is finer than the sums it is added to (2**-{fraction}); quantise it, e.g. with Int16Bias")
    if codes.size not in (1, n_filters):
        raise BadData(f"bias of {codes.size} values for {n_filters} filters")
    return np.broadcast_to(codes.reshape(-1), (n_filters,))


def _read_conv(node: onnx.NodeProto, reading: Reading) -> None:
    source, weights, attributes = _source(node, reading), _weights(node, 1, reading), _attributes(node)
    if weights.codes.ndim != 4:
        raise Unsupported(f"{weights.codes.ndim - 2}-dimensional convolution is not supported; use Conv2d")
    if (groups := attributes.get("group", 1)) != 1:
        raise Unsupported(f"{groups} groups are not supported; use groups=1")
    if tuple(attributes.get("kernel_shape", weights.codes.shape[2:])) != weights.codes.shape[2:]:
        raise BadData(f"kernel_shape {attributes['kernel_shape']} contradicts the weights {weights.codes.shape}")
    pads, strides = _pads_and_strides(attributes)
    fraction = reading.tensors[source].format.fraction + weights.format.fraction
    bias = _bias(node.input[2] if len(node.input) > 2 else "", len(weights.codes), fraction, reading)
    op = Conv2D(reading.new_name("conv"), (source,), weights.codes, bias, weights.format, strides, pads)
    reading.add(op, node.output[0])


def _pads_and_strides(attributes: dict[str, Any]) -> tuple[tuple[int, int, int, int], tuple[int, int]]:
    """Return (top, left, bottom, right) and (rows, columns) of a sliding window after checking what else describes it."""
    for value in attributes.get("dilations", ()):
        if value != 1:
            raise Unsupported(f"dilation {value} is not supported; use dilation 1")
    if (auto_pad := attributes.get("auto_pad", b"NOTSET").decode()) not in ("NOTSET", "VALID", ""):
        raise Unsupported(f"auto_pad {auto_pad} is not supported; give the padding in numbers")
    pads, strides = tuple(attributes.get("pads", (0, 0, 0, 0))), tuple(attributes.get("strides", (1, 1)))
    if len(pads) != 4 or len(strides) != 2:
        raise BadData(f"pads {pads} or strides {strides} are not those of two dimensions")
    return pads, strides


def _read_max_pool(node: onnx.NodeProto, reading: Reading) -> None:
    source, attributes = _source(node, reading), _attributes(node)
    kernel = tuple(attributes.get("kernel_shape", ()))
    if len(kernel) != 2:
        raise Unsupported(f"max pool with kernel {kernel} is not supported; use MaxPool2d")
    pads, strides = _pads_and_strides(attributes)
    if any(pads):
        raise Unsupported(f"max pool with padding {pads} is not supported; use padding=0")
    if attributes.get("ceil_mode", 0):
        raise Unsupported("max pool with ceil_mode is not supported; use ceil_mode=False")
    reading.add(MaxPool2D(reading.new_name("pool"), (source,), kernel, strides), node.output[0])


def _read_dense(node: onnx.NodeProto, reading: Reading) -> None:
    source, weights, attributes = _source(node, reading), _weights(node, 1, reading), _attributes(node)
    if attributes.get("alpha", 1.0) != 1.0 or attributes.get("beta", 1.0) != 1.0 or attributes.get("transA", 0):
        raise Unsupported("Gemm with alpha, beta or transA is not supported; use plain QuantLinear")
    if weights.codes.ndim != 2:
        raise Unsupported(f"weights of shape {weights.codes.shape} are not supported; use a matrix")
    codes = weights.codes if attributes.get("transB", 0) else weights.codes.T
    fraction = reading.tensors[source].format.fraction + weights.format.fraction
    bias = _bias(node.input[2] if len(node.input) > 2 else "", len(codes), fraction, reading)
    reading.add(Dense(reading.new_name("dense"), (source,), codes, bias, weights.format), node.output[0])


def _read_add(node: onnx.NodeProto, reading: Reading) -> None:
    """Fold the bias that the exporter writes as an Add after a MatMul."""
    names = [_input(node, index, "an addend") for index in (0, 1)]
    made = [name for name in names if name in reading.made_by]
    op = reading.ops[reading.made_by[made[0]]] if len(made) == 1 else None
    if not isinstance(op, Dense) or op.bias.any() or reading.consumers[made[0]] != 1:
        raise Unsupported("Add is supported only for the bias of a MatMul; sums of two tensors are not")
    bias_name = names[1 - names.index(made[0])]
    bias = _bias(bias_name, len(op.bias), reading.tensors[op.name].format.fraction, reading)
    reading.add(replace(op, bias=bias), node.output[0])


def _read_relu(node: onnx.NodeProto, reading: Reading) -> None:
    reading.relus[node.output[0]] = Relu(_source(node, reading), _name(node))


def _read_flatten(node: onnx.NodeProto, reading: Reading) -> None:
    if (axis := _attributes(node).get("axis", 1)) != 1:
        raise Unsupported(f"Flatten with axis {axis} is not supported; use start_dim=1")
    reading.add(Flatten(reading.new_name("flatten"), (_source(node, reading),)), node.output[0])


def _read_reshape(node: onnx.NodeProto, reading: Reading) -> None:
    source = _source(node, reading)
    wanted = tuple(int(size) for size in _constant(node, 1, "shape", reading))
    n_elements = reading.tensors[source].low.size
    # The leading size is the event axis, whatever number the exporter saw there.
    if len(wanted) != 2 or wanted[1] not in (-1, n_elements):
        raise Unsupported(f"Reshape to {wanted} is not supported; only flattening to (events, {n_elements}) is")
    reading.add(Flatten(reading.new_name("flatten"), (source,)), node.output[0])


def _read_constant(node: onnx.NodeProto, reading: Reading) -> None:
    attributes = _attributes(node)
    if isinstance(attributes.get("value"), onnx.TensorProto):
        value = numpy_helper.to_array(attributes["value"])
    else:
        plain = [attributes[key] for key in ("value_float", "value_int", "value_floats", "value_ints") if key in attributes]
        if not plain:
            raise Unsupported("only constants of numbers are supported")
        value = np.asarray(plain[0])
    reading.constants[node.output[0]] = value


def _read_identity(node: onnx.NodeProto, reading: Reading) -> None:
    source = _input(node, 0, "its input")
    places: list[dict[str, Any]] = [reading.constants, reading.quantised, reading.relus, reading.made_by, reading.inputs]
    for known in places:
        if source in known:
            known[node.output[0]] = known[source]


def _read_transpose(node: onnx.NodeProto, reading: Reading) -> None:
    source = _input(node, 0, "its input")
    order = _attributes(node).get("perm")
    if source in reading.constants:
        reading.constants[node.output[0]] = np.transpose(reading.constants[source], order)
    elif source in reading.quantised:
        constant = reading.quantised[source]
        reading.quantised[node.output[0]] = replace(constant, codes=np.transpose(constant.codes, order))
    else:
        _refuse_transpose()


def _refuse_transpose() -> NoReturn:
    raise Unsupported("Transpose is supported for weights only; keep activations in (N, C, H, W)")


READERS: dict[str, Callable[[onnx.NodeProto, Reading], None]] = {
    "Quant": _read_quant,
    "IntQuant": _read_quant,
    "Conv": _read_conv,
    "Gemm": _read_dense,
    "MatMul": _read_dense,
    "Add": _read_add,
    "Relu": _read_relu,
    "MaxPool": _read_max_pool,
    "Flatten": _read_flatten,
    "Reshape": _read_reshape,
    "Constant": _read_constant,
    "Identity": _read_identity,
    "Transpose": _read_transpose,
}
