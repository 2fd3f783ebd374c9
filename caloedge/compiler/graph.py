"""The exact integer network: a closed set of operations on integer codes, their proven ranges, and `run`, which is the truth.

Tensors are laid out as in ONNX, (N, C, H, W) or (N, F). Inside `run` the event axis comes last, because then every slice
of an image is one contiguous copy and a dense layer one matrix product.
"""
# Axes: C channel, H row, W column, E event, K kernel element (channel, row, column), F filter or feature.

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Self, assert_never

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caloedge.compiler import fixed
from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.errors import Unsupported, UserError

Array = NDArray[Any]
Kernel = Callable[[Array], Array]

FLOAT32_EXACT = 2**24
FLOAT64_EXACT = 2**53
INT_LIMIT = 2 ** (fixed.MAX_WIDTH - 1)
"""Bound of every partial sum and code: a signed format holds it, and no int64 operation can overflow."""

CHUNK_BYTES = 1024 * 1024
"""Size of the largest intermediate array while running: it should stay in a core's second-level cache."""


@dataclass(frozen=True, eq=False)
class InputQuantiser:
    """Turns sensor values into codes: nearest, ties to even, saturating."""

    name: str
    shape: tuple[int, ...]
    """Without the event axis: (C, H, W) or (F,)."""
    format: Format
    narrow: bool = False
    """Whether a signed format leaves out its lowest code."""
    rounding: Rounding = Rounding.HALF_EVEN

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the operations it reads: none."""
        return ()


@dataclass(frozen=True, eq=False)
class Conv2D:
    """Cross-correlation with zero padding, plus a bias; the result is not rounded."""

    name: str
    inputs: tuple[str]
    weights: Codes
    """(F, C, H, W)."""
    bias: Codes
    """(F,), in units of the accumulator's least significant bit."""
    weight_format: Format
    stride: tuple[int, int] = (1, 1)
    """(rows, columns)."""
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)
    """(top, left, bottom, right), as in ONNX."""

    def __post_init__(self) -> None:
        _freeze_weights(self, 4)
        if min(self.stride) < 1 or min(self.padding) < 0:
            raise Unsupported(f"layer {self.name}: stride {self.stride} or padding {self.padding} is not possible")


@dataclass(frozen=True, eq=False)
class Dense:
    """Matrix product plus a bias; the result is not rounded."""

    name: str
    inputs: tuple[str]
    weights: Codes
    """(outputs, inputs)."""
    bias: Codes
    """(outputs,), in units of the accumulator's least significant bit."""
    weight_format: Format

    def __post_init__(self) -> None:
        _freeze_weights(self, 2)


@dataclass(frozen=True, eq=False)
class Requantise:
    """Rounds to a coarser (or finer) format and saturates; with `relu`, negative codes become zero first."""

    name: str
    inputs: tuple[str]
    format: Format
    relu: bool
    narrow: bool = False
    """Whether a signed format leaves out its lowest code."""
    rounding: Rounding = Rounding.HALF_EVEN

    @property
    def low(self) -> int:
        """Lowest code that can leave."""
        return 0 if self.relu else self.format.min_code + int(self.narrow and self.format.signed)

    @property
    def high(self) -> int:
        """Highest code that can leave."""
        return self.format.max_code


@dataclass(frozen=True, eq=False)
class MaxPool2D:
    """Largest code of each window, channel by channel, without padding; format and scale pass through."""

    name: str
    inputs: tuple[str]
    kernel: tuple[int, int]
    """(rows, columns)."""
    stride: tuple[int, int]
    """(rows, columns)."""

    def __post_init__(self) -> None:
        if min(*self.kernel, *self.stride) < 1:
            raise Unsupported(f"layer {self.name}: kernel {self.kernel} or stride {self.stride} is not possible")


@dataclass(frozen=True, eq=False)
class Flatten:
    """(C, H, W) to (F,), row-major."""

    name: str
    inputs: tuple[str]


@dataclass(frozen=True, eq=False)
class Output:
    """Makes a tensor leave the network under this name."""

    name: str
    inputs: tuple[str]


Op = InputQuantiser | Conv2D | Dense | Requantise | MaxPool2D | Flatten | Output


@dataclass(frozen=True, eq=False)
class Tensor:
    """What is proven about the result of one operation, for every input that its format admits."""

    shape: tuple[int, ...]
    """Without the event axis."""
    format: Format
    low: Codes
    """Lowest code of each element, of `shape`; exact when the inputs are independent, else a safe bound."""
    high: Codes
    """Highest code of each element, of `shape`."""
    bound: int
    """No partial sum on the way to this tensor is larger in magnitude, in any order of summation."""

    @property
    def range(self) -> tuple[int, int]:
        """Lowest and highest code over all elements."""
        return int(self.low.min()), int(self.high.max())


@dataclass(frozen=True)
class Layer:
    """One operation as a report shows it."""

    name: str
    kind: str
    shape: tuple[int, ...]
    """Of the result, without the event axis."""
    weight_format: Format | None
    format: Format
    """Of the result."""
    low: int
    high: int
    multiply_adds: int
    """Per event; products with zero weights and padding count."""
    weight_bits: int
    """Weights times their width, plus each bias at the accumulator's width."""
    ebops: int
    """Effective bit operations: the sum over all products of weight bits times input bits. The bits of a weight run from its
    highest to its lowest set bit without sign, so 0 costs nothing and a power of two costs one; the bits of an input are its
    format's width without sign."""


@dataclass(frozen=True, eq=False)
class Graph:
    """An integer network: operations in an order in which each reads only earlier ones."""

    ops: tuple[Op, ...]
    tensors: Mapping[str, Tensor] = field(init=False, repr=False)
    """Shape, format and range of every operation's result, by name."""

    def __post_init__(self) -> None:
        tensors: dict[str, Tensor] = {}
        for op in self.ops:
            if op.name in tensors:
                raise Unsupported(f"layer {op.name}: the name is used twice; give every layer its own")
            if missing := [name for name in op.inputs if name not in tensors]:
                raise Unsupported(f"layer {op.name}: reads {missing[0]!r}, which no earlier layer makes")
            tensors[op.name] = infer(op, [tensors[name] for name in op.inputs])
        if sum(isinstance(op, InputQuantiser) for op in self.ops) != 1:
            raise Unsupported("a graph has exactly one input; join several into one")
        if not any(isinstance(op, Output) for op in self.ops):
            raise Unsupported("a graph has at least one output")
        object.__setattr__(self, "tensors", MappingProxyType(tensors))

    def __getitem__(self, name: str) -> Op:
        """Return the operation called `name`."""
        for op in self.ops:
            if op.name == name:
                return op
        raise UserError(f"no layer {name!r}; there are: {', '.join(op.name for op in self.ops)}")

    @property
    def input(self) -> InputQuantiser:
        """The one input."""
        return next(op for op in self.ops if isinstance(op, InputQuantiser))

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs in declared order."""
        return tuple(op for op in self.ops if isinstance(op, Output))

    def quantise_input(self, values: ArrayLike) -> Codes:
        """Return the input codes (N, *shape) of real values (N, *shape); NaN and infinity are an error."""
        array = np.asarray(values)
        if array.shape[1:] != self.input.shape:
            raise UserError(f"input of shape {array.shape} does not fit; the network takes (N, {_words(self.input.shape)})")
        return fixed.quantise(array, self.input.format, self.input.rounding, narrow=self.input.narrow)

    def run(self, codes: Array) -> dict[str, Codes]:
        """Return {output name: codes (N, *shape)} for input codes (N, *shape), exactly."""
        return self._run(codes, [op.name for op in self.outputs])

    def trace(self, codes: Array) -> dict[str, Codes]:
        """Return the codes (N, *shape) of every operation, in order: compare two traces to find the first that differs."""
        return self._run(codes, [op.name for op in self.ops])

    def replacing(self, name: str, /, **changes: Any) -> Self:
        """Return a graph with some fields of one operation changed, e.g. its weights or its rounding."""
        changed = replace(self[name], **changes)
        return replace(self, ops=tuple(changed if op.name == name else op for op in self.ops))

    def layers(self) -> tuple[Layer, ...]:
        """Return one row per operation for the report."""
        return tuple(_layer(op, [self.tensors[name] for name in op.inputs], self.tensors[op.name]) for op in self.ops)

    @property
    def digest(self) -> str:
        """SHA-256 over every operation's fields: equal for equal networks, on every machine."""
        total = hashlib.sha256()
        for op in self.ops:
            total.update(type(op).__name__.encode())
            for item in fields(op):
                value = getattr(op, item.name)
                total.update(f"\n{item.name}=".encode())
                if isinstance(value, np.ndarray):
                    total.update(f"{value.shape}".encode() + value.astype("<i8").tobytes())
                else:
                    total.update(str(value).encode())
            total.update(b"\n\n")
        return total.hexdigest()

    def _run(self, codes: Array, keep: list[str]) -> dict[str, Codes]:
        codes = self._checked(codes)
        kernels = {op.name: _kernel(op, self.tensors) for op in self.ops if not isinstance(op, InputQuantiser)}
        results = {name: np.empty((len(codes), *self.tensors[name].shape), dtype=np.int64) for name in keep}
        size = self._chunk_events()
        last_use = {name: op.name for op in self.ops for name in op.inputs}
        dtype = _dtype(self.tensors[self.input.name].bound)
        for start in range(0, len(codes), size):
            chunk = codes[start : start + size]
            live: dict[str, Array] = {}
            for op in self.ops:
                if isinstance(op, InputQuantiser):
                    value = np.ascontiguousarray(chunk.reshape(len(chunk), -1).T, dtype=dtype).reshape(*op.shape, len(chunk))
                else:
                    value = kernels[op.name](live[op.inputs[0]])
                live[op.name] = value
                if op.name in results:
                    results[op.name][start : start + size] = np.moveaxis(value, -1, 0)
                for name in op.inputs:
                    if last_use[name] == op.name:
                        del live[name]
        return results

    def _checked(self, codes: Array) -> Codes:
        codes = np.asarray(codes)
        fmt, shape = self.input.format, self.input.shape
        if codes.shape[1:] != shape:
            raise UserError(f"input codes of shape {codes.shape} do not fit; the network takes (N, {_words(shape)})")
        if not np.issubdtype(codes.dtype, np.integer):
            raise UserError(f"input codes are {codes.dtype}, not integers; use Graph.quantise_input for real values")
        low, high = self.tensors[self.input.name].range
        if codes.size and (int(codes.min()) < low or int(codes.max()) > high):
            raise UserError(f"input codes reach from {codes.min()} to {codes.max()}; {fmt} holds {low} to {high}")
        return codes.astype(np.int64, copy=False)

    def _chunk_events(self) -> int:
        largest = max(_elements(op, self.tensors) for op in self.ops)
        return max(16, CHUNK_BYTES // (4 * largest))


def _words(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _freeze_weights(op: Conv2D | Dense, dimensions: int) -> None:
    """Check weights and bias against the declared format, and make them read-only copies."""
    if not all(np.issubdtype(np.asarray(array).dtype, np.integer) for array in (op.weights, op.bias)):
        raise Unsupported(f"layer {op.name}: weights and bias must be integer codes")
    weights, bias = np.array(op.weights, dtype=np.int64), np.array(op.bias, dtype=np.int64)
    if weights.ndim != dimensions or weights.size == 0 or bias.shape != weights.shape[:1]:
        raise Unsupported(f"layer {op.name}: weights {weights.shape} and bias {bias.shape} do not fit together")
    fmt = op.weight_format
    if weights.min() < fmt.min_code or weights.max() > fmt.max_code:
        raise Unsupported(f"layer {op.name}: weight codes {weights.min()} to {weights.max()} do not fit {fmt}")
    weights.setflags(write=False)
    bias.setflags(write=False)
    object.__setattr__(op, "weights", weights)
    object.__setattr__(op, "bias", bias)


# What is proven of each result


def infer(op: Op, inputs: list[Tensor]) -> Tensor:
    """Return the shape, format and exact range of an operation's result from those of its inputs."""
    match op:
        case InputQuantiser():
            low = np.full(op.shape, op.format.min_code + int(op.narrow and op.format.signed), dtype=np.int64)
            high = np.full(op.shape, op.format.max_code, dtype=np.int64)
            return Tensor(op.shape, op.format, low, high, _magnitude(low, high))
        case Conv2D():
            return _infer_conv(op, inputs[0])
        case Dense():
            if inputs[0].shape != op.weights.shape[1:]:
                raise Unsupported(f"layer {op.name}: ({op.weights.shape[1]}) expected, but ({_words(inputs[0].shape)}) given")
            return _infer_product(op, inputs[0], inputs[0].low[:, None], inputs[0].high[:, None], op.bias.shape)
        case Requantise():
            return _infer_requantise(op, inputs[0])
        case MaxPool2D():
            return _infer_max_pool(op, inputs[0])
        case Flatten():
            x = inputs[0]
            return replace(x, shape=(x.low.size,), low=x.low.reshape(-1), high=x.high.reshape(-1))
        case Output():
            return inputs[0]
        case _:
            assert_never(op)


def _infer_conv(op: Conv2D, x: Tensor) -> Tensor:
    if len(x.shape) != 3 or x.shape[0] != op.weights.shape[1]:
        raise Unsupported(f"layer {op.name}: ({op.weights.shape[1]}, H, W) expected, but ({_words(x.shape)}) given")
    height, width = _conv_shape(op, x.shape)
    if height < 1 or width < 1:
        raise Unsupported(f"layer {op.name}: the kernel is larger than its padded input ({_words(x.shape)})")
    low, high = (_columns(bounds[..., None], op) for bounds in (x.low, x.high))
    return _infer_product(op, x, low, high, (len(op.bias), height, width))


def _infer_product(op: Conv2D | Dense, x: Tensor, low: Codes, high: Codes, shape: tuple[int, ...]) -> Tensor:
    """Bound weights @ x + bias for x (K, positions) between `low` and `high`, element by element."""
    weights, bias = op.weights.reshape(len(op.weights), -1), op.bias[:, None]
    largest = np.maximum(np.abs(low), np.abs(high)).astype(np.float64)
    bound = float((np.abs(weights).astype(np.float64) @ largest + np.abs(bias)).max())
    if bound >= INT_LIMIT * (1 - 1e-9):  # the margin covers the rounding of this float64 sum itself
        raise Unsupported(
            f"layer {op.name}: its sums may reach {bound:.3g} and do not fit 62 bits; use fewer bits per weight or input"
        )
    # Below 2**53 the float64 product is exact and far quicker than the integer one.
    dtype: type[np.float64 | np.int64] = np.float64 if bound < FLOAT64_EXACT else np.int64
    positive, negative = np.maximum(weights, 0).astype(dtype), np.minimum(weights, 0).astype(dtype)
    low, high = low.astype(dtype), high.astype(dtype)
    lowest = (positive @ low + negative @ high).astype(np.int64) + bias
    highest = (positive @ high + negative @ low).astype(np.int64) + bias
    fmt = Format.holding(int(lowest.min()), int(highest.max()), x.format.fraction + op.weight_format.fraction)
    return Tensor(shape, fmt, lowest.reshape(shape), highest.reshape(shape), int(np.ceil(bound)))


def _infer_requantise(op: Requantise, x: Tensor) -> Tensor:
    shift = x.format.fraction - op.format.fraction
    if shift < 0 and (-shift >= 61 or _magnitude(x.low, x.high) << -shift >= INT_LIMIT):
        raise Unsupported(f"layer {op.name}: a left shift of {x.format} by {-shift} does not fit 62 bits; use a coarser scale")
    # Rounding and clipping never swap the order of two codes, so the ends of a range go to the ends of the new range.
    low, high = (fixed.requantise(bounds, shift, op.low, op.high, op.rounding) for bounds in (x.low, x.high))
    return Tensor(x.shape, op.format, low, high, max(op.high, -op.low))


def _infer_max_pool(op: MaxPool2D, x: Tensor) -> Tensor:
    if len(x.shape) != 3:
        raise Unsupported(f"layer {op.name}: (C, H, W) expected, but ({_words(x.shape)}) given")
    if op.kernel[0] > x.shape[1] or op.kernel[1] > x.shape[2]:
        raise Unsupported(f"layer {op.name}: the kernel {op.kernel} is larger than its input ({_words(x.shape)})")
    # A window is lowest when all its codes are. The bound stays that of the input, because the number type does as well.
    low, high = (_max_pool(bounds[..., None], op)[..., 0] for bounds in (x.low, x.high))
    return replace(x, shape=low.shape, low=low, high=high)


def _magnitude(low: Codes, high: Codes) -> int:
    return max(abs(int(low.min())), abs(int(high.max())))


# How each result is calculated


def _dtype(bound: int) -> type[np.float32 | np.float64 | np.int64]:
    """Return the fastest number type that holds every integer up to `bound` exactly."""
    return np.float32 if bound < FLOAT32_EXACT else np.float64 if bound < FLOAT64_EXACT else np.int64


def _kernel(op: Op, tensors: Mapping[str, Tensor]) -> Kernel:
    """Return the function (*shape, E) -> (*shape, E) of one operation; its arrays hold integers in an exact number type."""
    match op:
        case InputQuantiser():
            raise AssertionError("the input has no kernel")
        case Conv2D():
            return _conv_kernel(op, tensors[op.name])
        case Dense():
            dtype = _dtype(tensors[op.name].bound)
            weights, bias = op.weights.astype(dtype), op.bias.astype(dtype)[:, None]
            return lambda x_FE: _affine(weights, x_FE.astype(dtype, copy=False), bias)
        case Requantise():
            return _requantise_kernel(op, tensors[op.inputs[0]])
        case MaxPool2D():
            return lambda x_CHWE: _max_pool(x_CHWE, op)
        case Flatten():
            return lambda x_CHWE: x_CHWE.reshape(-1, x_CHWE.shape[-1])
        case Output():
            return lambda x: x
        case _:
            assert_never(op)


def _affine(weights: Array, x: Array, bias: Array) -> Array:
    result: Array = weights @ x
    result += bias
    return result


def _conv_kernel(op: Conv2D, result: Tensor) -> Kernel:
    dtype = _dtype(result.bound)
    weights, bias = op.weights.reshape(len(op.weights), -1).astype(dtype), op.bias.astype(dtype)[:, None]

    def convolve(x_CHWE: Array) -> Array:
        columns = _columns(x_CHWE.astype(dtype, copy=False), op)
        return _affine(weights, columns, bias).reshape(*result.shape, x_CHWE.shape[-1])

    return convolve


def _conv_shape(op: Conv2D, shape: tuple[int, ...]) -> tuple[int, int]:
    top, left, bottom, right = op.padding
    return (
        (shape[1] + top + bottom - op.weights.shape[2]) // op.stride[0] + 1,
        (shape[2] + left + right - op.weights.shape[3]) // op.stride[1] + 1,
    )


def _columns(x_CHWE: Array, op: Conv2D) -> Array:
    """Lay out the inputs of every kernel position: (K, H*W*E) with K = (channel, kernel row, kernel column)."""
    channels, n_events = x_CHWE.shape[0], x_CHWE.shape[-1]
    kernel_h, kernel_w = op.weights.shape[2:]
    height, width = _conv_shape(op, x_CHWE.shape)
    if any(op.padding):
        top, left, bottom, right = op.padding
        x_CHWE = np.pad(x_CHWE, ((0, 0), (top, bottom), (left, right), (0, 0)))
    columns = np.empty((channels, kernel_h, kernel_w, height, width, n_events), dtype=x_CHWE.dtype)
    for row, column in _positions(kernel_h, kernel_w):
        columns[:, row, column] = x_CHWE[:, _every(row, height, op.stride[0]), _every(column, width, op.stride[1])]
    return columns.reshape(channels * kernel_h * kernel_w, height * width * n_events)


def _max_pool(x_CHWE: Array, op: MaxPool2D) -> Array:
    height, width = ((size - k) // s + 1 for size, k, s in zip(x_CHWE.shape[1:3], op.kernel, op.stride, strict=True))
    result: Array = x_CHWE[:, _every(0, height, op.stride[0]), _every(0, width, op.stride[1])].copy()
    for row, column in _positions(*op.kernel):
        np.maximum(result, x_CHWE[:, _every(row, height, op.stride[0]), _every(column, width, op.stride[1])], out=result)
    return result


def _every(first: int, count: int, stride: int) -> slice:
    """Select `count` rows or columns, `stride` apart."""
    return slice(first, first + (count - 1) * stride + 1, stride)


def _positions(rows: int, columns: int) -> Iterator[tuple[int, int]]:
    return ((row, column) for row in range(rows) for column in range(columns))


def _requantise_kernel(op: Requantise, x: Tensor) -> Kernel:
    shift = x.format.fraction - op.format.fraction
    low, high = op.low, op.high
    # Bits beyond the float's own are never made: the input is exact in its type, and the limits must be as well.
    in_float = op.rounding is Rounding.HALF_EVEN and x.bound < FLOAT64_EXACT and abs(shift) < 64
    if in_float and max(high, -low) < (FLOAT32_EXACT if x.bound < FLOAT32_EXACT else FLOAT64_EXACT):
        return lambda codes: fixed.requantise_float(codes, shift, low, high)
    dtype = _dtype(max(high, -low))
    return lambda codes: fixed.requantise(codes.astype(np.int64), shift, low, high, op.rounding).astype(dtype)


def _elements(op: Op, tensors: Mapping[str, Tensor]) -> int:
    """Return how many numbers per event the largest array of this operation holds."""
    own = int(tensors[op.name].low.size)
    if isinstance(op, Conv2D):
        height, width = tensors[op.name].shape[1:]
        return max(own, int(op.weights[0].size) * height * width)
    return own


# What a report says of each operation


def _layer(op: Op, inputs: list[Tensor], result: Tensor) -> Layer:
    low, high = result.range
    row = Layer(op.name, type(op).__name__, result.shape, None, result.format, low, high, 0, 0, 0)
    if not isinstance(op, Conv2D | Dense):
        return row
    positions = result.low.size // len(op.bias)
    input_bits = inputs[0].format.width - int(inputs[0].format.signed)
    magnitude = np.abs(op.weights)
    span = np.frexp((magnitude // np.maximum(magnitude & -magnitude, 1)).astype(np.float64))[1]
    return replace(
        row,
        weight_format=op.weight_format,
        multiply_adds=op.weights.size * positions,
        weight_bits=op.weights.size * op.weight_format.width + len(op.bias) * result.format.width,
        ebops=int(span.sum()) * positions * input_bits,
    )
