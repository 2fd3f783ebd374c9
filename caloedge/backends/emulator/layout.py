"""Memory of a generated emulator: the number type of each tensor's rows, and the places of one block's buffers."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from caloedge.compiler.fixed import Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.kernels import FLOAT32_EXACT
from caloedge.compiler.ops import Conv, Dense, InputQuantiser, Op, Output, Requantise, Reshape
from caloedge.compiler.ranges import FLOAT64_EXACT, Tensor

EVENTS = 32
"""Events of a block; the same number stands in caloedge_emulator.h."""
ALIGNMENT = 64
SIZES = {"float": 4, "double": 8, "int64_t": 8}
ROUNDED_EXACT = {"float": 2**22, "double": 2**51}
"""Largest results that floating point can round by an addition."""


@dataclass(frozen=True)
class Buffer:
    """Rows of one tensor in the memory of a block."""

    type: str
    elements: int
    offset: int
    """First byte."""

    @property
    def size(self) -> int:
        """Bytes, with what alignment adds."""
        return buffer_bytes(self.type, self.elements)


@dataclass(frozen=True)
class MemoryLayout:
    """The memory of one block."""

    buffers: Mapping[str, Buffer]
    """Buffer of each operation; those that only rename share the buffer of what they read, and fused sums have none."""
    padded: Mapping[str, Buffer]
    """Copies with zero borders, by the convolution that reads them."""
    fused: Mapping[str, Requantise]
    """The rounding that is applied to sums before they are stored, by the operation that makes the sums."""
    size: int
    """Bytes."""


def number_type(bound: int) -> str:
    """Return the fastest C++ number type that holds every integer up to `bound` exactly."""
    return "float" if bound < FLOAT32_EXACT else "double" if bound < FLOAT64_EXACT else "int64_t"


def code_type(low: int, high: int) -> str:
    """Return the narrowest C type that holds every code in [low, high].

    >>> code_type(0, 4095), code_type(-128, 127), code_type(-1, 255)
    ('uint16_t', 'int8_t', 'int16_t')
    """
    for width in (8, 16, 32):
        if low >= 0 and high < 1 << width:
            return f"uint{width}_t"
        if -(1 << (width - 1)) <= low and high < 1 << (width - 1):
            return f"int{width}_t"
    return "int64_t"


def rounding_type(op: Requantise, x: Tensor) -> str | None:
    """Return the floating-point type that rounds exactly as `op` does, or None where only integers do."""
    shift, largest = x.format.fraction - op.format.fraction, max(abs(op.low), abs(op.high))
    if op.rounding is not Rounding.HALF_EVEN or abs(shift) >= 64:
        return None
    exact = {"float": x.bound < FLOAT32_EXACT, "double": x.bound < FLOAT64_EXACT}
    return next((name for name, limit in ROUNDED_EXACT.items() if exact[name] and largest <= limit), None)


def padded_shape(op: Conv, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shape (C, *sizes) of a convolution's input with its zero borders."""
    axes = len(op.kernel)
    return (shape[0], *(size + op.padding[i] + op.padding[axes + i] for i, size in enumerate(shape[1:])))


def buffer_bytes(number: str, elements: int) -> int:
    """Return the bytes of a buffer: a multiple of the alignment."""
    return -(-elements * EVENTS * SIZES[number] // ALIGNMENT) * ALIGNMENT


def plan(graph: Graph) -> MemoryLayout:
    """Lay the buffers of all tensors out in memory, reusing the place of those that nothing reads any more."""
    fused = _fused(graph)
    skipped = {op.name: sums for sums, op in fused.items()}
    owner: dict[str, str] = {}  # the operation whose buffer holds each result
    last_use: dict[str, int] = {}
    # All inputs are there before the first operation runs.
    ops = sorted(graph.ops, key=lambda op: not isinstance(op, InputQuantiser))
    for number, op in enumerate(ops):
        renames = isinstance(op, Reshape | Output)
        owner[op.name] = owner[op.inputs[0]] if renames else op.name
        reads = graph[skipped[op.name]].inputs if op.name in skipped else op.inputs
        for name in (owner[op.name], *(owner[read] for read in reads)):
            last_use[name] = max(last_use.get(name, 0), len(ops) if isinstance(op, Output) else number)
    memory = _Memory()
    buffers: dict[str, Buffer] = {}
    padded: dict[str, Buffer] = {}
    for number, op in enumerate(ops):
        tensor = graph.tensors[op.name]
        if owner[op.name] == op.name and op.name not in fused:
            buffers[op.name] = memory.take(number_type(tensor.bound), tensor.size)
        source = graph[skipped[op.name]] if op.name in skipped else op
        if isinstance(source, Conv) and any(source.padding) and op.name not in fused:
            x = graph.tensors[source.inputs[0]]
            padded[source.name] = memory.take(number_type(x.bound), math.prod(padded_shape(source, x.shape)))
            memory.give_back(padded[source.name])
        for name in {owner[read] for read in (*source.inputs, op.name)} & set(buffers):
            if last_use[name] == number:
                memory.give_back(buffers[name])
    return MemoryLayout({name: buffers[owner[name]] for name in owner if owner[name] in buffers}, padded, fused, memory.size)


def _fused(graph: Graph) -> dict[str, Requantise]:
    """Find sums that one rounding alone reads, which can round them in the same number type."""
    readers: dict[str, list[Op]] = {}
    for op in graph.ops:
        for name in op.inputs:
            readers.setdefault(name, []).append(op)
    fused = {}
    for op in graph.ops:
        tensor = graph.tensors[op.name]
        match op, readers.get(op.name):
            case Conv() | Dense(), [Requantise() as rounding] if rounding_type(rounding, tensor) == number_type(tensor.bound):
                fused[op.name] = rounding
            case _:
                pass
    return fused


class _Memory:
    """Free places, first fit."""

    def __init__(self) -> None:
        self.size = 0
        self._free: list[tuple[int, int]] = []  # (first byte, byte after the last), ascending, never touching

    def take(self, number: str, elements: int) -> Buffer:
        needed = buffer_bytes(number, elements)
        for place, (start, end) in enumerate(self._free):
            if end - start >= needed:
                self._free[place : place + 1] = [(start + needed, end)] if end - start > needed else []
                return Buffer(number, elements, start)
        start = self._free.pop()[0] if self._free and self._free[-1][1] == self.size else self.size
        self.size = start + needed
        return Buffer(number, elements, start)

    def give_back(self, buffer: Buffer) -> None:
        merged: list[tuple[int, int]] = []
        for start, end in sorted([*self._free, (buffer.offset, buffer.offset + buffer.size)]):
            if merged and merged[-1][1] == start:
                merged[-1] = merged[-1][0], end
            else:
                merged.append((start, end))
        self._free = merged
