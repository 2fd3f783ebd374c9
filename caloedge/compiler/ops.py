"""The closed set of operations of an integer network, as frozen values.

Every operation reads and makes integer codes. A tensor has one `Format`, and its nominal value is `code * 2**-fraction`; all
operations are exact in nominal values, except those that say they round. Scales that are not powers of two stand at the
inputs and outputs only: between them the compiler has turned them into integer multipliers, thresholds or tables.
Shapes are ONNX's without the event axis: (F,), (C, H, W), …
"""

from collections.abc import Iterable
from dataclasses import dataclass, field, fields
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.errors import Unsupported


@dataclass(frozen=True, eq=False)
class InputQuantiser:
    """Turns sensor values into codes, saturating: value = (code - zero_point) * 2**-fraction * scale."""

    name: str
    shape: tuple[int, ...]
    """Shape without the event axis."""
    format: Format
    narrow: bool = False
    """Whether a signed format leaves out its lowest code."""
    rounding: Rounding = Rounding.HALF_EVEN
    scale: float = 1.0
    """Factor of the scale beside the format's power of two."""
    zero_point: int = 0
    zero_after: bool = False
    """Whether the zero point is added after rounding (ONNX's QuantizeLinear), not before (QONNX): they differ at ties."""
    whole: tuple[int, int] | None = field(default=None, compare=False)
    """Least and greatest number that can come where only whole ones can, such as an ADC's; no code depends on it."""

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of the operations it reads: none."""
        return ()


@dataclass(frozen=True, eq=False)
class Conv:
    """Cross-correlation over one to three axes with zero padding, plus a bias; the result is not rounded."""

    name: str
    inputs: tuple[str]
    weights: Codes
    """(F, C/groups, *kernel)."""
    bias: Codes
    """(F,), in units of the accumulator's least significant bit."""
    weight_format: Format
    stride: tuple[int, ...] = ()
    """One number per axis; empty means 1."""
    padding: tuple[int, ...] = ()
    """Begin of every axis, then end of every axis, as in ONNX: (top, left, bottom, right); empty means 0."""
    dilation: tuple[int, ...] = ()
    """One number per axis; empty means 1."""
    groups: int = 1

    def __post_init__(self) -> None:
        _freeze_weights(self)
        axes = self.weights.ndim - 2
        if axes not in (1, 2, 3):
            raise Unsupported(f"layer {self.name}: weights {self.weights.shape} are not those of 1 to 3 axes")
        for name, default in (("stride", (1,) * axes), ("padding", (0,) * 2 * axes), ("dilation", (1,) * axes)):
            object.__setattr__(self, name, getattr(self, name) or default)
        if len(self.stride) != axes or min(self.stride) < 1 or len(self.padding) != 2 * axes or min(self.padding) < 0:
            raise Unsupported(f"layer {self.name}: stride {self.stride} or padding {self.padding} is not possible")
        if len(self.dilation) != axes or min(self.dilation) < 1:
            raise Unsupported(f"layer {self.name}: dilation {self.dilation} is not possible")
        if self.groups < 1 or len(self.weights) % self.groups:
            raise Unsupported(f"layer {self.name}: {len(self.weights)} filters do not divide into {self.groups} groups")

    @property
    def kernel(self) -> tuple[int, ...]:
        """Size of the kernel along each axis."""
        return self.weights.shape[2:]

    @property
    def is_plain_2d(self) -> bool:
        """Whether it is a convolution of images without groups and dilation, which every backend builds."""
        return len(self.kernel) == 2 and self.groups == 1 and set(self.dilation) == {1}


@dataclass(frozen=True, eq=False)
class Dense:
    """Matrix product along the last axis plus a bias; the result is not rounded."""

    name: str
    inputs: tuple[str]
    weights: Codes
    """(outputs, inputs)."""
    bias: Codes
    """(outputs,), in units of the accumulator's least significant bit."""
    weight_format: Format

    def __post_init__(self) -> None:
        _freeze_weights(self)
        if self.weights.ndim != 2:
            raise Unsupported(f"layer {self.name}: weights {self.weights.shape} are not a matrix")


@dataclass(frozen=True, eq=False)
class Affine:
    """Multiplies by constants and adds constants, element by element or channel by channel; the result is not rounded."""

    name: str
    inputs: tuple[str]
    weights: Codes
    """Factors, in the input's rank; axes of size 1 are repeated."""
    bias: Codes
    """Summands of the same shape, in units of the result's least significant bit."""
    weight_format: Format

    def __post_init__(self) -> None:
        weights, bias = np.broadcast_arrays(np.asarray(self.weights), np.asarray(self.bias))
        object.__setattr__(self, "weights", weights)
        object.__setattr__(self, "bias", bias)
        _freeze_weights(self, same_shape=True)


@dataclass(frozen=True, eq=False)
class Add:
    """Sum of two tensors of equal rank at the finer of their fractions; axes of size 1 are repeated."""

    name: str
    inputs: tuple[str, str]


@dataclass(frozen=True, eq=False)
class Multiply:
    """Product of two tensors of equal rank, element by element; axes of size 1 are repeated."""

    name: str
    inputs: tuple[str, str]


@dataclass(frozen=True, eq=False)
class MatMul:
    """Product of two tensors (..., M, K) and (..., K, N) of equal rank; leading axes of size 1 are repeated."""

    name: str
    inputs: tuple[str, str]


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
    limits: tuple[int, int] | None = None
    """Lowest and highest code that can leave, where they are narrower than what format, `relu` and `narrow` say."""

    @property
    def low(self) -> int:
        """Lowest code that can leave."""
        low = 0 if self.relu else self.format.min_code + int(self.narrow and self.format.signed)
        return max(low, self.limits[0]) if self.limits else low

    @property
    def high(self) -> int:
        """Highest code that can leave."""
        return min(self.format.max_code, self.limits[1]) if self.limits else self.format.max_code


@dataclass(frozen=True, eq=False)
class Threshold:
    """Counts the thresholds that a code reaches: result = base + step * #(code >= threshold)."""

    name: str
    inputs: tuple[str]
    thresholds: Codes
    """(*shape, levels): `shape` has the input's rank, axes of size 1 are repeated; ascending along the last axis."""
    base: int
    step: int
    format: Format

    def __post_init__(self) -> None:
        thresholds = _frozen(self.thresholds)
        if thresholds.ndim < 2 or not thresholds.size or np.any(np.diff(thresholds, axis=-1) < 0):
            raise Unsupported(f"layer {self.name}: thresholds {thresholds.shape} are not ascending along their last axis")
        ends = (self.base, self.base + self.step * thresholds.shape[-1])
        if min(ends) < self.format.min_code or max(ends) > self.format.max_code:
            raise Unsupported(f"layer {self.name}: results {min(ends)} to {max(ends)} do not fit {self.format}")
        object.__setattr__(self, "thresholds", thresholds)


@dataclass(frozen=True, eq=False)
class Table:
    """Looks a code up: result = values[code - first]."""

    name: str
    inputs: tuple[str]
    values: Codes
    """(*shape, entries): `shape` has the input's rank, axes of size 1 are repeated."""
    first: int
    """Code of the first entry."""
    format: Format

    def __post_init__(self) -> None:
        values = _frozen(self.values)
        if values.ndim < 2 or not values.size:
            raise Unsupported(f"layer {self.name}: a table of shape {values.shape} holds nothing")
        if values.min() < self.format.min_code or values.max() > self.format.max_code:
            raise Unsupported(f"layer {self.name}: results {values.min()} to {values.max()} do not fit {self.format}")
        object.__setattr__(self, "values", values)


@dataclass(frozen=True, eq=False)
class MaxPool:
    """Largest code of each window, channel by channel, without padding; format and scale pass through."""

    name: str
    inputs: tuple[str]
    kernel: tuple[int, ...]
    """Size along each axis after the channels."""
    stride: tuple[int, ...]
    dilation: tuple[int, ...] = ()
    """Empty means 1."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "dilation", self.dilation or (1,) * len(self.kernel))
        if not self.kernel or not len(self.kernel) == len(self.stride) == len(self.dilation):
            raise Unsupported(f"layer {self.name}: kernel {self.kernel} and stride {self.stride} do not fit together")
        if min(*self.kernel, *self.stride, *self.dilation) < 1:
            raise Unsupported(f"layer {self.name}: kernel {self.kernel} or stride {self.stride} is not possible")


@dataclass(frozen=True, eq=False)
class Reshape:
    """Gives a tensor another shape; elements keep their row-major order."""

    name: str
    inputs: tuple[str]
    shape: tuple[int, ...] = (-1,)
    """Shape of the result; one size may be -1, for all elements that are left. The default flattens."""


@dataclass(frozen=True, eq=False)
class Rearrange:
    """Moves codes without changing them: transpose, slice, concatenate, pad, repeat.

    All inputs have the same fraction.
    """

    name: str
    inputs: tuple[str, ...]
    index: NDArray[np.int64]
    """Source of each element of the result in the inputs, flattened and laid end to end; -1 is `fill`."""
    fill: int = 0
    """Code of the elements that come from nowhere."""
    kind: str = "rearrange"
    """Name of the move in a report, e.g. `transpose`."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "index", _frozen(self.index))
        if not self.index.size or self.index.min() < -1:
            raise Unsupported(f"layer {self.name}: a result of shape {self.index.shape} is not possible")


@dataclass(frozen=True, eq=False)
class Softmax:
    """Integer softmax along the last axis: with e = exponentials[max - code], round half even of ratio * e / sum(e)."""

    name: str
    inputs: tuple[str]
    exponentials: Codes
    """(entries,): entry d stands for exp(-d * scale); codes further below the largest count as zero."""
    ratio: tuple[int, int]
    """One over the result's scale, as numerator and denominator."""
    format: Format

    def __post_init__(self) -> None:
        object.__setattr__(self, "exponentials", _frozen(self.exponentials))
        if self.exponentials.ndim != 1 or not self.exponentials.size or self.exponentials.min() < 0 or self.exponentials[0] < 1:
            raise Unsupported(f"layer {self.name}: exponentials must be one row of positive codes")


@dataclass(frozen=True, eq=False)
class TopK:
    """The k largest (or smallest) codes along the last axis, best first; of equal ones the earlier comes first."""

    name: str
    inputs: tuple[str]
    k: int
    largest: bool
    part: Literal["values", "indices"]
    """Half of the answer that the result holds."""


@dataclass(frozen=True, eq=False)
class Nearest:
    """The k nearest other nodes of each node, by Manhattan distance: the k smallest (distance, index), ascending -> (N, k).

    d(i, j) = min(reach, sum over the coordinates of |c_i - c_j|) where j != i and valid[j] > 0, else `reach`: the node itself
    and padding come last, and of equally distant nodes that of the lower index first. Padding has neighbours like any node.
    """

    name: str
    inputs: tuple[str, str]
    """Coordinates (N, D) and valid (N,)."""
    k: int
    reach: int
    """Where distances saturate, in least significant bits of the coordinates."""
    part: Literal["distances", "indices"]
    """Half of the answer that the result holds."""

    def __post_init__(self) -> None:
        if self.k < 1 or self.reach < 1 or self.part not in ("distances", "indices"):
            raise Unsupported(f"layer {self.name}: {self.part!r} of {self.k} nodes within {self.reach} is not possible")


@dataclass(frozen=True, eq=False)
class Take:
    """Rows of values (N, F) at indices (*S,) -> (*S, F); index -1 gives a row of zeros."""

    name: str
    inputs: tuple[str, str]
    """Values and indices."""


@dataclass(frozen=True, eq=False)
class Condense:
    """Choice of condensation points (arXiv 2002.03605): the best node is accepted and its surroundings are left out, repeatedly.

    Candidates are nodes with valid > 0 and score >= threshold. The candidate with the largest score is accepted (of equal ones
    that of the lowest index); it and all nodes at a Manhattan distance < `apart` of it are no candidates any more. That is
    repeated until no candidate is left or `most` are accepted.
    """

    name: str
    inputs: tuple[str, str, str]
    """Score (N,), coordinates (N, D) and valid (N,)."""
    threshold: int
    """Lowest score code of a candidate."""
    apart: int
    """In least significant bits of the coordinates."""
    most: int
    part: Literal["indices", "status"]
    """`indices`: (most,), in order of acceptance, -1 where there is none. `status`: (2,): how many were accepted, and 1 if a
    candidate is left, else 0."""

    def __post_init__(self) -> None:
        if self.apart < 1 or self.most < 1 or self.part not in ("indices", "status"):
            raise Unsupported(f"layer {self.name}: {self.part!r} of {self.most} points {self.apart} apart is not possible")


@dataclass(frozen=True, eq=False)
class Output:
    """Makes a tensor leave the network under this name: value = code * scale + offset."""

    name: str
    inputs: tuple[str]
    scale: NDArray[np.float64] | None = None
    """Whole scale, repeated over the shape; None means the format's power of two."""
    offset: NDArray[np.float64] | None = None
    """Repeated over the shape; None means 0."""


Op = (
    InputQuantiser
    | Conv
    | Dense
    | Affine
    | Add
    | Multiply
    | MatMul
    | Requantise
    | Threshold
    | Table
    | MaxPool
    | Reshape
    | Rearrange
    | Softmax
    | TopK
    | Nearest
    | Take
    | Condense
    | Output
)


def first_halves(ops: Iterable[Op]) -> dict[str, str]:
    """Return by name of the second half of a `Nearest` or `Condense` that of the first: the same but for `part`.

    Whoever calculates one half has the other at no cost.
    """
    first: dict[tuple[Any, ...], str] = {}
    second: dict[str, str] = {}
    for op in ops:
        if isinstance(op, Nearest | Condense):
            what = (type(op), *(getattr(op, item.name) for item in fields(op) if item.name not in ("name", "part")))
            if (what, op.part) in first:
                continue
            other = next((name for (same, part), name in first.items() if same == what and part != op.part), None)
            if other is None:
                first[what, op.part] = op.name
            elif other not in second.values():
                second[op.name] = other
    return second


def _frozen(codes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a read-only copy."""
    copy = np.array(codes, dtype=np.int64)
    copy.setflags(write=False)
    return copy


def _freeze_weights(op: Conv | Dense | Affine, *, same_shape: bool = False) -> None:
    """Check weights and bias against the declared format, and make them read-only copies."""
    if not all(np.issubdtype(np.asarray(array).dtype, np.integer) for array in (op.weights, op.bias)):
        raise Unsupported(f"layer {op.name}: weights and bias must be integer codes")
    weights, bias = _frozen(op.weights), _frozen(op.bias)
    if weights.size == 0 or bias.shape != (weights.shape if same_shape else weights.shape[:1]):
        raise Unsupported(f"layer {op.name}: weights {weights.shape} and bias {bias.shape} do not fit together")
    fmt = op.weight_format
    if weights.min() < fmt.min_code or weights.max() > fmt.max_code:
        raise Unsupported(f"layer {op.name}: weight codes {weights.min()} to {weights.max()} do not fit {fmt}")
    object.__setattr__(op, "weights", weights)
    object.__setattr__(op, "bias", bias)
