"""Operands, attributes, and weights as integers."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from caloedge.compiler.builder import Builder
from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.compiler.onnx.onnx_file import shown
from caloedge.compiler.ops import InputQuantiser
from caloedge.compiler.ranges import MAX_ELEMENTS
from caloedge.compiler.rationals import Rationals, common_unit, compressed, exponent_of, nearest_exponent, rationals, to_floats
from caloedge.compiler.requantise import Quantiser
from caloedge.compiler.symbolic import (
    SymbolicValue,
    constant_of,
    moved,
    plain,
    plain_value,
    quantised,
    refuse_beyond_float64,
    uniform,
)
from caloedge.errors import BadData, Unsupported

MAX_WEIGHT_BITS = 24
"""Weights that need more on their common grid were not quantised."""
MAX_EXACT_BITS = 48
"""Most bits of weights that were, but with several scales for one output channel."""
SOFTMAX = "the result of a softmax is not quantised; add a quantiser, or leave it out: the largest score stays the largest"
COUNT_KEEPERS = (
    *("Cast", "Concat", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
)
"""Operators after which the number of events, where it still is among the numbers, still is 0."""
AXIS_MAKERS = ("Expand", "Flatten", "Reshape", "Unsqueeze")
"""Operators that give a tensor of shape (N,) more axes."""
MAX_ZERO_POINT = 2**32
"""Beyond this, float64 cannot add a zero point to real values without rounding before the quantiser does."""
MAX_SCALE_SPREAD = 8
"""Power-of-two scales of channels that lie further apart (in bits) keep their own scales instead of being aligned."""


@dataclass(frozen=True, eq=False)
class Constant:
    """Numbers that do not depend on the input; `codes * scale` where they went through a quantiser."""

    values: NDArray[Any]
    codes: Codes | None = None
    scale: Rationals | None = None
    """Scale of the codes, in their rank."""
    format: Format | None = None
    """Format of the codes; its fraction means nothing."""


@dataclass(frozen=True, eq=False)
class RawInput:
    """An input of the network before its quantiser: factor * x + summand, elements taken from flat positions `index`."""

    name: str
    index: NDArray[np.int64]
    """Flat positions, in the present shape."""
    factor: Fraction = Fraction(1)
    summand: Fraction = Fraction(0)


@dataclass(frozen=True, eq=False)
class Scores:
    """The softmax of a plain value, which waits for a quantiser."""

    value: SymbolicValue
    axis: int
    """Axis of the sum, the event axis not counted."""
    node: str


Operand = Constant | RawInput | Scores | SymbolicValue


@dataclass
class Reading:
    """Knowledge so far while the nodes of one file are read in order."""

    file: str
    builder: Builder
    shapes: dict[str, tuple[int, ...]]
    """Shapes of the network's inputs, by name."""
    whole_ranges: dict[str, tuple[int, int] | None]
    """Least and greatest value of those inputs that are declared as whole numbers."""
    batch_sizes: frozenset[int]
    """Sizes of the event axis that the file declares."""
    opset: int
    read: frozenset[str]
    """Tensors that a node reads or that leave the network."""
    missing: Format | None
    """Format of the quantiser that is put in where one is missing; None to refuse."""
    operands: dict[str, Operand] = field(default_factory=dict)
    inserted: list[str] = field(default_factory=list)
    """Tensors that got such a quantiser."""
    scalars: set[str] = field(default_factory=set)
    """Tensors of shape (N,) in the file, kept as (1,): adding an axis to them changes nothing."""
    event_counts: set[str] = field(default_factory=set)
    """Constants made from the number of events, for which 0 stands: a shape may hold them, arithmetic may not."""


class Node:
    """One ONNX node with checked access to its inputs, attributes and outputs."""

    def __init__(self, proto: onnx.NodeProto, reading: Reading) -> None:
        self.proto = proto
        self.channels_last = "channels_last" in proto.domain
        self.reading = reading
        self.builder = reading.builder
        self.kind = proto.op_type
        self.name = " ".join((proto.name or f"{proto.op_type} of {', '.join(proto.output)}").split())
        self.attributes = {item.name: item for item in proto.attribute}

    # Inputs and outputs

    def has(self, index: int) -> bool:
        """Tell whether an optional input is given."""
        return index < len(self.proto.input) and bool(self.proto.input[index])

    def operand(self, index: int, label: str = "its input") -> Operand:
        """Return an input, whatever it is."""
        if not self.has(index):
            raise BadData(f"{label} is missing")
        return self.reading.operands[self.proto.input[index]]

    def numbers(self, index: int, label: str) -> NDArray[Any]:
        """Return a constant input."""
        if self.has(index) and self.proto.input[index] in self.reading.event_counts:
            raise Unsupported(f"{label} depends on the number of events, which hardware does not know; use a number")
        return self._numbers(index, label)

    def _numbers(self, index: int, label: str) -> NDArray[Any]:
        constant = self.operand(index, label)
        if not isinstance(constant, Constant):
            raise Unsupported(f"{label} must be a constant")
        return constant.values

    def integers(self, index: int, label: str) -> list[int]:
        """Return a constant input of whole numbers as a flat list."""
        values = np.asarray(self._numbers(index, label), dtype=np.float64).reshape(-1)
        if not np.isfinite(values).all() or np.any(values != np.rint(values)) or values.size > MAX_ELEMENTS:
            raise BadData(f"{label} must be whole numbers")
        return [int(value) for value in values]

    def value(self, index: int) -> SymbolicValue:
        """Return an input that depends on the network's input, as it is."""
        operand = self.operand(index)
        if isinstance(operand, Constant):
            raise Unsupported("its first input is a constant and another one is not, which is not supported; exchange them")
        if isinstance(operand, Scores):
            raise Unsupported(f"{SOFTMAX} ({operand.node})")
        if isinstance(operand, RawInput):
            missing = self.reading.missing
            if missing is None:
                raise Unsupported(
                    "the network's input is not quantised; begin with a QuantIdentity, or use --quantise-missing FORMAT"
                )
            scale = constant_of(Fraction(2) ** -missing.fraction, operand.index.ndim)
            operand = quantise_input(self.reading, operand, scale, constant_of(0, operand.index.ndim), quantiser_of(missing))
            self.reading.operands[self.proto.input[index]] = operand
            self.reading.inserted.append(self.proto.input[index])
        return operand

    def plain(self, index: int) -> SymbolicValue:
        """Return an input as codes; where only rounding could do that, the declared missing quantiser or an error."""
        value = self.value(index)
        codes = as_codes(self.reading, value, self.proto.input[index])
        if self.reading.inserted[-1:] == [self.proto.input[index]]:
            self.reading.operands[self.proto.input[index]] = codes
        return codes

    def set_output(self, operand: Operand, index: int = 0, *, scalar: bool = False) -> None:
        """Set an output; `scalar` says that it has no axis but that of the events in the file."""
        if index < len(self.proto.output) and self.proto.output[index]:
            if isinstance(operand, SymbolicValue):
                refuse_beyond_float64(self.builder, operand)
            self.reading.operands[self.proto.output[index]] = operand
            if scalar or (self.kind not in AXIS_MAKERS and self._reads_scalars()):
                self.reading.scalars.add(self.proto.output[index])
            if isinstance(operand, Constant) and (self.kind == "Shape" or self._counts_events(operand)):
                self.reading.event_counts.add(self.proto.output[index])

    def _counts_events(self, result: Constant) -> bool:
        return not self.reading.event_counts.isdisjoint(self.proto.input) and (
            self.kind not in COUNT_KEEPERS or bool(np.any(result.values == 0))
        )

    def _reads_scalars(self) -> bool:
        moving = [name for name in self.proto.input if name and not isinstance(self.reading.operands.get(name), Constant)]
        return bool(moving) and self.reading.scalars.issuperset(moving)

    def move(self, change: Callable[[NDArray[np.int64]], NDArray[np.int64]], kind: str, *, scalar: bool = False) -> None:
        """Set the first output to the first input with its elements in other places; `change` acts on their numbers."""
        operand = self.operand(0)
        if isinstance(operand, RawInput):
            self.set_output(replace(operand, index=change(operand.index)), scalar=scalar)
        else:
            value = self.value(0)
            index = change(np.arange(math.prod(value.shape)).reshape(value.shape))
            self.set_output(moved(self.builder, value, index, kind), scalar=scalar)

    def set_plain_output(self, op: str, scale: Rationals, offset: Rationals | None = None, index: int = 0) -> None:
        """Set an output to scale * codes + offset of an operation."""
        self.set_output(plain_value(self.builder, op, scale, offset), index)

    # Attributes

    def _attribute(self, name: str, kinds: tuple[int, ...]) -> Any:
        item = self.attributes[name]
        if item.type not in kinds:
            raise BadData(f"attribute {name} has the wrong type")
        return onnx.helper.get_attribute_value(item)

    def int_attribute(self, name: str, default: int | None = None) -> int:
        """Return a whole-number attribute; without a default it is required."""
        if name not in self.attributes:
            return int(self._required(name, default))
        return int(self._attribute(name, (onnx.AttributeProto.INT,)))

    def float_attribute(self, name: str, default: float | None = None) -> float:
        """Return a real attribute; without a default it is required."""
        if name not in self.attributes:
            return float(self._required(name, default))
        number = float(self._attribute(name, (onnx.AttributeProto.FLOAT, onnx.AttributeProto.INT)))
        if not math.isfinite(number):
            raise BadData(f"attribute {name} is {number}")
        return number

    def text_attribute(self, name: str, default: str) -> str:
        """Return a text attribute, made printable."""
        if name not in self.attributes:
            return default
        return shown(bytes(self._attribute(name, (onnx.AttributeProto.STRING,))).decode("utf-8", "replace"))

    def ints_attribute(self, name: str, default: tuple[int, ...] | None = None) -> tuple[Any, ...]:
        """Return an attribute of several whole numbers; without a default it is required."""
        if name not in self.attributes:
            return tuple(self._required(name, default))
        return tuple(int(value) for value in self._attribute(name, (onnx.AttributeProto.INTS,)))

    def _required(self, name: str, default: Any) -> Any:
        if default is None:
            raise BadData(f"attribute {name} is missing")
        return default

    def axis(self, number: int, rank: int) -> int:
        """Return an axis of the ONNX tensor as one without the event axis, of `rank` axes."""
        position = number + rank + 1 if number < 0 else number
        if not 0 <= position <= rank:
            raise BadData(f"axis {number} is not one of a tensor of {rank + 1} axes")
        if position == 0:
            raise Unsupported("axis 0 is the event axis; events cannot be mixed")
        return position - 1


def as_codes(reading: Reading, value: SymbolicValue, name: str) -> SymbolicValue:
    """Return a tensor as codes, rounded by the declared missing quantiser where that is needed and given."""
    try:
        return plain(reading.builder, value)
    except Unsupported as refused:
        if reading.missing is None:
            raise Unsupported(f"{refused}, or use --quantise-missing FORMAT") from None
    rank = len(value.shape)
    scale = constant_of(Fraction(2) ** -reading.missing.fraction, rank)
    reading.inserted.append(name)
    return quantised(reading.builder, value, scale, constant_of(0, rank), quantiser_of(reading.missing))


def quantiser_of(fmt: Format) -> Quantiser:
    """Return the quantiser to a power-of-two format: nearest, ties to even, saturating."""
    return Quantiser(fmt.min_code, fmt.max_code, Rounding.HALF_EVEN, fmt)


def checked(values: NDArray[Any], label: str) -> NDArray[np.float64]:
    """Return numbers as float64 after refusing NaN and infinity."""
    if values.dtype == object or (not np.issubdtype(values.dtype, np.number) and values.dtype != np.bool_):
        raise BadData(f"{label} is not numeric")
    floats = values.astype(np.float64)
    if not np.isfinite(floats).all():
        raise BadData(f"{label} holds NaN or infinity")
    return floats


def fitted(values: NDArray[Any], shape: tuple[int, ...], label: str) -> Rationals:
    """Return constants that act on a tensor of `shape` (without the event axis) as fractions of its rank.

    They have the event axis (of size 1) or fewer axes, as in ONNX, where they are repeated over missing leading axes.
    """
    constants = checked(values, label)
    rank = len(shape)
    if constants.ndim == rank + 1:
        if constants.shape[0] != 1:
            raise Unsupported(f"{label} differs between events")
        constants = constants[0]
    if constants.ndim > rank:
        raise BadData(f"{label} of shape {values.shape} does not fit a tensor ({', '.join(map(str, shape))})")
    constants = constants.reshape((1,) * (rank - constants.ndim) + constants.shape)
    if any(n not in (1, size) for n, size in zip(constants.shape, shape, strict=True)):
        if all(n == size or 1 in (n, size) for n, size in zip(constants.shape, shape, strict=True)):
            raise Unsupported(
                f"{label} of shape {values.shape} repeats a tensor ({', '.join(map(str, shape))}); put Expand before it"
            )
        raise BadData(f"{label} of shape {values.shape} does not fit a tensor ({', '.join(map(str, shape))})")
    if constants.size > MAX_ELEMENTS // 16:
        raise Unsupported(f"{label} has {constants.size:,} elements, too many to be kept as fractions")
    return compressed(rationals(constants))


def quantise_input(
    reading: Reading, raw: RawInput, scale: Rationals, zero_point: Rationals, quantiser: Quantiser, *, zero_after: bool = False
) -> SymbolicValue:
    """Make an input of the network from its quantiser; what was done to the input before goes into scale and zero point."""
    zero_code, common_scale = uniform(zero_point), uniform(scale)
    if zero_code is None or common_scale is None or zero_code.denominator != 1 or not raw.factor:
        raise Unsupported("the quantiser of the network's input needs one scale and one whole zero point for all elements")
    zero, real_scale = zero_code + raw.summand / common_scale, common_scale / raw.factor
    if zero.denominator != 1 or abs(zero) >= 2**53 or real_scale < 0 or (zero_after and raw.summand):
        raise Unsupported("what is done to the network's input before its quantiser has no exact integer form; quantise first")
    if abs(zero) >= MAX_ZERO_POINT:
        raise Unsupported(f"zero point {float(zero):g} of the network's input lies beyond 32 bits; quantise first")
    limits = quantiser.limits
    if limits is not None:
        raise Unsupported("the quantiser of the network's input leaves out codes at its upper end; use narrow_range=False")
    exponent = exponent_of(real_scale)
    fraction = nearest_exponent(real_scale) if exponent is None else exponent
    scale_left = real_scale * Fraction(2) ** fraction
    fmt = replace(quantiser.format, fraction=fraction)
    shape = reading.shapes[raw.name]
    rounding, whole_range = quantiser.rounding, reading.whole_ranges[raw.name]
    op = InputQuantiser(raw.name, shape, fmt, quantiser.narrow, rounding, float(scale_left), int(zero), zero_after, whole_range)
    existing = reading.builder.ops.get(raw.name)
    if existing is None:
        reading.builder.add(op)
    elif not isinstance(existing, InputQuantiser) or _fields(existing) != _fields(op):
        raise Unsupported(f"input {raw.name!r} is quantised a second time in another way; quantise it once")
    rank = len(shape)
    value = plain_value(reading.builder, raw.name, constant_of(common_scale, rank), constant_of(-common_scale * zero_code, rank))
    in_order = raw.index.shape == shape and np.array_equal(raw.index.reshape(-1), np.arange(raw.index.size))
    return value if in_order else moved(reading.builder, value, raw.index, "transpose")


def _fields(op: InputQuantiser) -> tuple[Any, ...]:
    return op.shape, op.format, op.narrow, op.rounding, op.scale, op.zero_point, op.zero_after


# Weights


def integer_weights(constant: Constant, axis: int, inputs: Rationals, node: Node, label: str) -> tuple[Codes, Rationals, Format]:
    """Return integer weights, the unit of each filter (F,), and their format.

    `axis` is that of the filters; `inputs` is the scale of what the weights are multiplied with, of the weights' rank.
    """
    input_scale = uniform(inputs)
    if constant.codes is not None and constant.scale is not None and constant.format is not None and input_scale is not None:
        scale = compressed(np.broadcast_to(constant.scale, constant.codes.shape))
        if all(size == 1 for i, size in enumerate(scale.shape) if i != axis):
            return _scaled_codes(constant.codes, scale, constant.format, axis, input_scale)
    values = checked(constant.values, label)
    if node.reading.missing is not None and constant.codes is None and _bits(values) > MAX_WEIGHT_BITS:
        missing = node.reading.missing
        values = np.clip(np.rint(np.ldexp(values, missing.fraction)), missing.min_code, missing.max_code) * missing.lsb
        node.reading.inserted.append(label)
    if values.size > MAX_ELEMENTS // 16 and constant.codes is None:
        raise Unsupported(f"{label} are {values.size:,} unquantised numbers; use a weight quantiser (QuantConv2d, QuantLinear)")
    real = rationals(values) * inputs
    most = MAX_WEIGHT_BITS if constant.codes is None or input_scale is None else MAX_EXACT_BITS
    scaled = _with_units(real, axis, [_unit(real)] * real.shape[axis])
    if scaled is None or int(np.abs(scaled[0]).max(initial=0)).bit_length() >= MAX_WEIGHT_BITS:
        scaled = _with_units(real, axis, [_unit(row) for row in np.moveaxis(real, axis, 0)])
    if scaled is None or int(np.abs(scaled[0]).max(initial=0)).bit_length() >= most:
        if constant.codes is not None:
            raise Unsupported(
                f"{label} of one output channel have scales without a common unit in {most} bits; use one scale per output "
                "channel"
            )
        cure = "use a weight quantiser (QuantConv2d, QuantLinear), or --quantise-missing FORMAT"
        raise Unsupported(f"{label} are not quantised: as integers they need more than {MAX_WEIGHT_BITS} bits; {cure}")
    codes, units = scaled
    fmt = Format.holding(int(codes.min()), int(codes.max()), nearest_exponent(units[0] / (input_scale or Fraction(1))))
    return codes, units, fmt


def _scaled_codes(codes: Codes, scale: Rationals, fmt: Format, axis: int, inputs: Fraction) -> tuple[Codes, Rationals, Format]:
    exponents = [exponent_of(number) for number in scale.flat]
    units = np.broadcast_to(scale.reshape(-1), (codes.shape[axis],))
    known = [exponent for exponent in exponents if exponent is not None]
    if len(known) < len(exponents) or max(known) - min(known) > MAX_SCALE_SPREAD:
        return codes, units * inputs, replace(fmt, fraction=nearest_exponent(scale.reshape(-1)[0]))
    finest = max(known)
    if len(set(known)) == 1:
        return codes, units * inputs, replace(fmt, fraction=finest)
    aligned = codes << (finest - np.array(known, dtype=np.int64).reshape(scale.shape))
    common_units = np.full(len(units), Fraction(1, 2) ** finest, dtype=object)
    return aligned, common_units * inputs, Format.holding(int(aligned.min()), int(aligned.max()), finest)


def _bits(values: NDArray[np.float64]) -> int:
    """Return how many bits the values need on their common grid; cheap for many values."""
    mantissas, exponents = np.frexp(values[values != 0])
    if not mantissas.size:
        return 0
    mantissa_codes = (np.abs(mantissas) * 2.0**53).astype(np.int64)
    lowest = np.log2((mantissa_codes & -mantissa_codes).astype(np.float64)) - 53 + exponents
    return int(exponents.max() - lowest.min())


def _unit(real: Rationals) -> Fraction:
    return common_unit(real)


def _with_units(real: Rationals, axis: int, units: list[Fraction]) -> tuple[Codes, Rationals] | None:
    units_F = np.array(units, dtype=object)
    shape = [1] * real.ndim
    shape[axis] = len(units)
    quotients = real / units_F.reshape(shape)
    if max(abs(int(number)) for number in quotients.flat) >= 2**62:
        return None
    return np.array([int(number) for number in quotients.flat], dtype=np.int64).reshape(real.shape), units_F


def transposed(constant: Constant, order: tuple[int, ...]) -> Constant:
    """Return a constant with its axes in another order."""
    return Constant(
        constant.values.transpose(order),
        None if constant.codes is None else constant.codes.transpose(order),
        None if constant.scale is None else constant.scale.transpose(order),
        constant.format,
    )


def real_weights(constant: Constant) -> NDArray[np.float64]:
    """Return the weights' real values."""
    if constant.codes is not None and constant.scale is not None:
        return np.asarray(constant.codes * to_floats(np.broadcast_to(constant.scale, constant.codes.shape)))
    return constant.values.astype(np.float64)
