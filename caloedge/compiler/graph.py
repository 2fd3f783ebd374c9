"""The exact integer network: operations in order, their proven ranges, and `run`, which is the truth."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from types import MappingProxyType
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from caloedge.compiler import fixed
from caloedge.compiler.fixed import Codes, Format
from caloedge.compiler.kernels import exact_type, halves_kernel, kernel, largest_array
from caloedge.compiler.ops import Affine, Condense, Conv, Dense, InputQuantiser, Nearest, Op, Output, first_halves
from caloedge.compiler.ranges import Tensor, infer, words
from caloedge.errors import Unsupported, UserError

Array = NDArray[Any]
Inputs = Array | Mapping[str, Array]
"""Codes of the only input, or codes by input name."""

CODE_NOISE = 1e-3
"""How far, in codes, a real value may lie beside its code through rounding in float64."""

CHUNK_BYTES = 1024 * 1024
"""Size of the largest intermediate array while running: it should stay in a core's second-level cache."""


@dataclass(frozen=True)
class Layer:
    """One operation as a report shows it."""

    name: str
    kind: str
    shape: tuple[int, ...]
    """Shape of the result, without the event axis."""
    weight_format: Format | None
    format: Format
    """Format of the result."""
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
    name: str = "network"
    """Name of generated code; not part of the digest."""
    tensors: Mapping[str, Tensor] = field(init=False, repr=False)
    """Shape, format and range of every operation's result, by name."""
    _by_name: Mapping[str, Op] = field(init=False, repr=False)
    readers: Mapping[str, tuple[str, ...]] = field(init=False, repr=False)
    """Operations that read each one, by name; one that reads a tensor twice is there twice."""

    def __post_init__(self) -> None:
        tensors: dict[str, Tensor] = {}
        for op in self.ops:
            if op.name in tensors:
                raise Unsupported(f"layer {op.name}: the name is used twice; give every layer its own")
            if missing := [name for name in op.inputs if name not in tensors]:
                raise Unsupported(f"layer {op.name}: reads {missing[0]!r}, which no earlier layer makes")
            tensors[op.name] = infer(op, [tensors[name] for name in op.inputs])
        if not any(isinstance(op, InputQuantiser) for op in self.ops):
            raise Unsupported("a graph has at least one input")
        if not any(isinstance(op, Output) for op in self.ops):
            raise Unsupported("a graph has at least one output")
        object.__setattr__(self, "tensors", MappingProxyType(tensors))
        object.__setattr__(self, "_by_name", {op.name: op for op in self.ops})
        readers: dict[str, tuple[str, ...]] = dict.fromkeys(tensors, ())
        for op in self.ops:
            for name in op.inputs:
                readers[name] += (op.name,)
        object.__setattr__(self, "readers", MappingProxyType(readers))

    def __getitem__(self, name: str) -> Op:
        """Return the operation called `name`."""
        if name not in self._by_name:
            raise UserError(f"no layer {name!r}; there are: {', '.join(self._by_name)}")
        return self._by_name[name]

    @property
    def inputs(self) -> tuple[InputQuantiser, ...]:
        """The inputs in declared order."""
        return tuple(op for op in self.ops if isinstance(op, InputQuantiser))

    @property
    def input(self) -> InputQuantiser:
        """The only input; a network with several is an error."""
        if len(self.inputs) > 1:
            raise Unsupported(
                f"the network has {len(self.inputs)} inputs ({', '.join(op.name for op in self.inputs)}), one expected"
            )
        return self.inputs[0]

    @property
    def outputs(self) -> tuple[Output, ...]:
        """The outputs in declared order."""
        return tuple(op for op in self.ops if isinstance(op, Output))

    def quantise_input(self, values: ArrayLike) -> Codes:
        """Return the codes (N, *shape) of real values (N, *shape) at the only input; NaN and infinity are an error."""
        return self.quantise_inputs({self.input.name: values})[self.input.name]

    def quantise_inputs(self, values: Mapping[str, ArrayLike]) -> dict[str, Codes]:
        """Return {input name: codes (N, *shape)} of real values (N, *shape); NaN and infinity are an error."""
        self._check_names(values, "values")
        codes = {}
        for op in self.inputs:
            array = np.asarray(values[op.name], dtype=np.float64)
            if array.ndim == 1 and op.shape == (1,):
                array = array[:, None]
            if array.shape[1:] != op.shape:
                raise UserError(f"input of shape {array.shape} does not fit; the network takes (N, {words(op.shape)})")
            codes[op.name] = _quantised(op, array)
        return codes

    def input_values(self, codes: Inputs) -> dict[str, NDArray[np.float64]]:
        """Return {input name: real values} of input codes.

        Where only whole numbers can come, they are whole: one that gives the code, or the nearest one where none does.
        """
        inputs = self._checked(codes)
        return {op.name: _values(op, inputs[op.name].astype(np.int64, copy=False)) for op in self.inputs}

    def possible_inputs(self, codes: Inputs) -> dict[str, Codes]:
        """Return {input name: codes}, each replaced by one next to it that can come where only whole numbers can."""
        inputs = {name: array.astype(np.int64, copy=False) for name, array in self._checked(codes).items()}
        return {op.name: _quantised(op, _values(op, inputs[op.name])) if op.whole else inputs[op.name] for op in self.inputs}

    def output_values(self, codes: Mapping[str, Codes]) -> dict[str, NDArray[np.float64]]:
        """Return {output name: real values} of output codes, to float64's precision."""
        values = {}
        for op in self.outputs:
            scale = self.tensors[op.name].format.lsb if op.scale is None else op.scale
            values[op.name] = np.asarray(codes[op.name] * scale + (0.0 if op.offset is None else op.offset), dtype=np.float64)
        return values

    def output_codes(self, values: Mapping[str, NDArray[Any]]) -> dict[str, Codes]:
        """Return {output name: codes} of real values; a value between two codes becomes one that is a difference from both.

        Values of scales that are not powers of two may lie `CODE_NOISE` beside a code, because float64 cannot hold them.
        """
        codes = {}
        for op in self.outputs:
            lsb = self.tensors[op.name].format.lsb
            scaled = (values[op.name] - (0.0 if op.offset is None else op.offset)) / (lsb if op.scale is None else op.scale)
            nearest = np.rint(scaled)
            between = np.abs(scaled - nearest) > (0.0 if op.scale is None and op.offset is None else CODE_NOISE)
            codes[op.name] = np.where(between, nearest + np.where(scaled < 0, -2, 2), nearest).astype(np.int64)
        return codes

    def run(self, codes: Inputs) -> dict[str, Codes]:
        """Return {output name: codes (N, *shape)} for input codes (N, *shape), exactly.

        A network with several inputs takes {input name: codes}.
        """
        return self._run(codes, [op.name for op in self.outputs])

    def trace(self, codes: Inputs) -> dict[str, Codes]:
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
            for item in (item for item in fields(op) if item.compare):
                value = getattr(op, item.name)
                total.update(f"\n{item.name}=".encode())
                if isinstance(value, np.ndarray):
                    kind = "<i8" if np.issubdtype(value.dtype, np.integer) else "<f8"
                    total.update(f"{value.shape}".encode() + value.astype(kind).tobytes())
                else:
                    total.update(str(value).encode())
            total.update(b"\n\n")
        return total.hexdigest()

    def _run(self, codes: Inputs, keep: list[str]) -> dict[str, Codes]:
        inputs = self._checked(codes)
        n_events = len(next(iter(inputs.values())))
        kernels = {op.name: kernel(op, self.tensors) for op in self.ops if not isinstance(op, InputQuantiser)}
        second = {first: self[name] for name, first in first_halves(self.ops).items()}
        results = {name: np.empty((n_events, *self.tensors[name].shape), dtype=np.int64) for name in keep}
        size = max(16, CHUNK_BYTES // (4 * max(largest_array(op, self.tensors) for op in self.ops)))
        last_use = {name: op.name for op in self.ops for name in op.inputs}
        for start in range(0, n_events, size):
            live: dict[str, Array] = {}
            for op in self.ops:
                if isinstance(op, InputQuantiser):
                    live[op.name] = _events_last(inputs[op.name][start : start + size], self.tensors[op.name])
                elif op.name in second:
                    live |= self._both_halves(op, second[op.name], live)
                elif op.name not in live:
                    live[op.name] = kernels[op.name](*(live[name] for name in op.inputs))
                if op.name in results:
                    results[op.name][start : start + size] = np.moveaxis(live[op.name], -1, 0)
                for name in set(op.inputs):
                    if last_use[name] == op.name:
                        del live[name]
        return results

    def _both_halves(self, op: Op, other: Op, live: Mapping[str, Array]) -> dict[str, Array]:
        """Calculate two halves of one search at once."""
        assert isinstance(op, Nearest | Condense)
        assert isinstance(other, Nearest | Condense)
        parts = halves_kernel(op, self.tensors)(*(live[name] for name in op.inputs))
        return {half.name: parts[half.part] for half in (op, other)}

    def _checked(self, codes: Inputs) -> dict[str, Array]:
        """Return input codes by name, in their own integer type, after checking names, shapes, types, ranges and events."""
        inputs = dict(codes) if isinstance(codes, Mapping) else {self.input.name: codes}
        self._check_names(inputs, "codes")
        checked = {op.name: self._checked_one(op, inputs[op.name]) for op in self.inputs}
        if len({len(array) for array in checked.values()}) != 1:
            counts = ", ".join(f"{name} {len(array)}" for name, array in checked.items())
            raise UserError(f"the inputs have different numbers of events: {counts}")
        return checked

    def _check_names(self, arrays: Mapping[str, Any], label: str) -> None:
        names = [op.name for op in self.inputs]
        if set(arrays) != set(names):
            raise UserError(f"input {label} for {', '.join(arrays) or 'nothing'} given; the inputs are: {', '.join(names)}")

    def _checked_one(self, op: InputQuantiser, codes: Array) -> Array:
        codes = np.asarray(codes)
        if codes.shape[1:] != op.shape or codes.ndim == 0:
            raise UserError(f"input codes of shape {codes.shape} do not fit; the network takes (N, {words(op.shape)})")
        if not np.issubdtype(codes.dtype, np.integer):
            raise UserError(f"input codes are {codes.dtype}, not integers; use Graph.quantise_input for real values")
        low, high = self.tensors[op.name].range
        if codes.size and (int(codes.min()) < low or int(codes.max()) > high):
            raise UserError(f"input codes reach from {codes.min()} to {codes.max()}; {op.format} holds {low} to {high}")
        return codes


def _quantised(op: InputQuantiser, values: NDArray[np.float64]) -> Codes:
    return fixed.quantise(
        values / op.scale, op.format, op.rounding, narrow=op.narrow, zero_point=op.zero_point, zero_after=op.zero_after
    )


def _values(op: InputQuantiser, codes: Codes) -> NDArray[np.float64]:
    values = fixed.to_float(codes - op.zero_point, op.format.fraction) * op.scale
    if op.whole is None:
        return values
    # What is rounded to one code are numbers next to each other, and `values` is one of them: look on either side of it.
    nearest, below, above = (np.clip(step(values), *op.whole) for step in (np.rint, np.floor, np.ceil))
    neighbour = np.where(_quantised(op, below) == codes, below, np.where(_quantised(op, above) == codes, above, nearest))
    return np.where(_quantised(op, nearest) == codes, nearest, neighbour)


def _events_last(codes: Array, tensor: Tensor) -> Array:
    """Return codes (E, *shape) as (*shape, E) in a number type that is exact for them."""
    rows = np.ascontiguousarray(codes.reshape(len(codes), -1).T, dtype=exact_type(tensor.bound))
    return rows.reshape(*tensor.shape, len(codes))


# What a report says of each operation


def _layer(op: Op, inputs: list[Tensor], result: Tensor) -> Layer:
    low, high = result.range
    row = Layer(op.name, type(op).__name__, result.shape, None, result.format, low, high, 0, 0, 0)
    if not isinstance(op, Conv | Dense | Affine):
        return row
    positions = result.size // op.bias.size
    input_bits = inputs[0].format.width - int(inputs[0].format.signed)
    magnitude = np.abs(op.weights)
    span = np.frexp((magnitude // np.maximum(magnitude & -magnitude, 1)).astype(np.float64))[1]
    return replace(
        row,
        weight_format=op.weight_format,
        multiply_adds=op.weights.size * positions,
        weight_bits=op.weights.size * op.weight_format.width + op.bias.size * result.format.width,
        ebops=int(span.sum()) * positions * input_bits,
    )
