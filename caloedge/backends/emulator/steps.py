"""One operation as C++: constants, and the statements that calculate it for a block of events."""
# K term of a sum (channel, kernel position), F filter or feature.

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from caloedge.backends.emulator.layout import MemoryLayout, code_type, index_bits, number_type, padded_shape, plan, rounding_type
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import (
    Add,
    Affine,
    Condense,
    Conv,
    Dense,
    InputQuantiser,
    MatMul,
    MaxPool,
    Multiply,
    Nearest,
    Op,
    Output,
    Rearrange,
    Requantise,
    Reshape,
    Softmax,
    Table,
    Take,
    Threshold,
    TopK,
)
from caloedge.compiler.ranges import Tensor, conv_sizes, pool_sizes
from caloedge.project import identifiers

TABLE_ENTRIES = 2**16
"""Thresholds over a smaller range of codes become a table."""
NUMBERS_PER_LINE = 24
DTYPES = {"float": np.float32, "double": np.float64, "int64_t": np.int64}


@dataclass
class Block:
    """Text of the function that runs one block of events, as it grows."""

    graph: Graph
    layout: MemoryLayout = field(init=False)
    names: Mapping[str, str] = field(init=False)
    """Identifier of each operation."""
    constants: list[str] = field(default_factory=list)
    statements: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.layout, self.names = plan(self.graph), identifiers(self.graph)

    def rows(self, name: str) -> str:
        """Return the C++ name of a tensor's rows."""
        return f"{self.names[name]}_rows"

    def constant(self, op: Op, suffix: str, number: str, values: NDArray[Any] | Sequence[int]) -> str:
        """Add a table and return its name."""
        name = f"{self.names[op.name]}_{suffix}"
        # A value beyond the type's exact integers only ever meets zeros: the bound of the sums says so.
        exact = np.asarray(values).reshape(-1).astype(DTYPES.get(number, np.int64))
        self.constants.append(array(f"alignas(ALIGNMENT) constexpr {number} {name}[]", [str(int(value)) for value in exact]))
        return name

    def number(self, name: str) -> str:
        """Return the number type of a tensor's rows."""
        return number_type(self.graph.tensors[name].bound)


def array(declaration: str, items: Sequence[str]) -> str:
    """Write an array with its items, some on each line."""
    lines = [", ".join(items[i : i + NUMBERS_PER_LINE]) for i in range(0, len(items), NUMBERS_PER_LINE)]
    return f"{declaration} = {{" + (f"{lines[0]}" if len(lines) == 1 else "\n    " + ",\n    ".join(lines) + ",\n") + "};"


def write_block(graph: Graph) -> Block:
    """Return constants and statements of a whole network."""
    block = Block(graph)
    skipped = {*block.layout.fused, *block.layout.first_half.values()}
    for op in block.layout.order:
        tensor = graph.tensors[op.name]
        if op.name in skipped or isinstance(op, InputQuantiser | Reshape | Output):
            continue
        sums = next((sums for sums, rounding in block.layout.fused.items() if rounding is op), None)
        title = block.names[op.name] if sums is None else f"{block.names[sums]}, {block.names[op.name]}"
        shape = " × ".join(map(str, tensor.shape))
        block.statements.append(f"// {title}: {type(op if sums is None else graph[sums]).__name__}, {shape}, {tensor.format}")
        block.statements += _statements(block, op, sums)
    return block


def _statements(block: Block, op: Op, sums: str | None) -> Iterator[str]:
    inputs = [block.graph.tensors[name] for name in op.inputs]
    match op:
        case InputQuantiser() | Reshape() | Output():
            return iter(())
        case Conv():
            return _conv(block, op, op.name, "Keep{}")
        case Dense():
            return _dense(block, op, op.name, "Keep{}")
        case Requantise() if sums is not None:
            return _rounded_sums(block, sums, op)
        case Requantise():
            return _requantise(block, op, inputs[0])
        case Affine():
            return _affine(block, op)
        case Add() | Multiply():
            return _elementwise(block, op)
        case MatMul():
            return _matmul(block, op)
        case Threshold():
            return _threshold(block, op, inputs[0])
        case Table():
            return _table(block, op, inputs[0], op.values, op.first)
        case MaxPool():
            return _max_pool(block, op, inputs[0])
        case Rearrange():
            return _rearrange(block, op, inputs)
        case Softmax():
            return _softmax(block, op, inputs[0])
        case TopK():
            return _top_k(block, op, inputs[0])
        case Nearest():
            return _nearest(block, op, inputs[0])
        case Take():
            return _take(block, op, *inputs)
        case Condense():
            return _condense(block, op, *inputs[:2])
        case _:
            assert_never(op)


# Loops over the elements of a tensor


def loops(sizes: Sequence[int], body: Sequence[str]) -> Iterator[str]:
    """Write nested loops with the variables i0, i1, … around statements."""
    depth = 0
    for axis, size in enumerate(sizes):
        if size > 1:
            yield "    " * depth + f"for (int i{axis} = 0; i{axis} < {size}; ++i{axis})"
            depth += 1
    braces = depth > 0 and len(body) > 1
    if braces:
        yield "    " * (depth - 1) + "{"
    yield from ("    " * depth + line for line in body)
    if braces:
        yield "    " * (depth - 1) + "}"


def index(sizes: Sequence[int], steps: Sequence[int]) -> str:
    """Write the place of an element: the sum of loop variables times steps.

    >>> index((2, 1, 5), (10, 5, 1))
    'i0 * 10 + i2'
    """
    parts = [f"i{i}" if step == 1 else f"i{i} * {step}" for i, step in enumerate(steps) if step and sizes[i] > 1]
    return " + ".join(parts) or "0"


def steps(shape: Sequence[int]) -> list[int]:
    """Return how far apart neighbours along each axis lie in row-major order; 0 along axes of size 1, which are repeated."""
    return [math.prod(shape[axis + 1 :]) if size > 1 else 0 for axis, size in enumerate(shape)]


def _together(shape: tuple[int, ...], *operand_shapes: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Return a result's shape and those of its operands, as one axis where they are all the same."""
    shapes = [shape, *operand_shapes]
    return [(math.prod(shape),)] * len(shapes) if set(shapes) == {shape} else shapes


# Sums of products


def _rounded_sums(block: Block, sums: str, op: Requantise) -> Iterator[str]:
    source, x = block.graph[sums], block.graph.tensors[sums]
    after = _round(op, x, number_type(x.bound))
    if isinstance(source, Conv):
        return _conv(block, source, op.name, after)
    assert isinstance(source, Dense)
    return _dense(block, source, op.name, after)


def _conv(block: Block, op: Conv, result: str, after: str) -> Iterator[str]:
    x_shape = block.graph.tensors[op.inputs[0]].shape
    number, axes = block.number(op.name), len(op.kernel)
    n_filters, n_channels = len(op.bias) // op.groups, op.weights.shape[1]
    x_rows = block.rows(op.inputs[0])
    if any(op.padding):
        yield from _pad(block, op, x_shape)
        x_rows = f"{block.names[op.name]}_padded"
    shape = padded_shape(op, x_shape)
    sizes, apart = conv_sizes(op, x_shape), [math.prod(shape[axis + 1 :]) for axis in range(len(shape))]
    kernel = product(range(n_channels), *map(range, op.kernel))
    gaps = (1, *op.dilation)
    offsets = [sum(i * gap * step for i, gap, step in zip(place, gaps, apart, strict=True)) for place in kernel]
    weights_GKF = op.weights.reshape(op.groups, n_filters, -1).swapaxes(1, 2)
    terms = block.constant(op, "terms", "int32_t", offsets)
    weights = block.constant(op, "weights", number, weights_GKF)
    bias = block.constant(op, "bias", number, op.bias)
    places = math.prod(sizes)
    nest = (op.groups, *sizes)
    x_steps = (n_channels * apart[0], *(op.stride[i] * apart[i + 1] for i in range(axes)))
    y_steps = (n_filters * places, *(math.prod(sizes[i + 1 :]) for i in range(axes)))
    group = (op.groups,)
    yield from loops(
        nest,
        [
            f"product<{n_filters}>(row({x_rows}, {index(nest, x_steps)}), Listed{{{terms}}}, {len(offsets)},",
            f"    {weights} + {index(group, (len(offsets) * n_filters,))}, {bias} + {index(group, (n_filters,))},",
            f"    row({block.rows(result)}, {index(nest, y_steps)}), {places}, {after});",
        ],
    )


def _pad(block: Block, op: Conv, shape: tuple[int, ...]) -> Iterator[str]:
    """Copy the input into the middle of zeros."""
    buffer, x_rows, rows = block.layout.scratch[op.name], block.rows(op.inputs[0]), f"{block.names[op.name]}_padded"
    padded = padded_shape(op, shape)
    first = sum(op.padding[i] * math.prod(padded[i + 2 :]) for i in range(len(op.kernel)))
    apart = [math.prod(padded[axis + 1 :]) for axis in range(len(padded))]
    yield f"{buffer.type} *const {rows} = {buffer.pointer};"
    yield f"for (int i = 0; i < {buffer.elements}; ++i) row_fill({buffer.type}(0), row({rows}, i));"
    yield from loops(
        shape, [f"row_copy(row({x_rows}, {index(shape, steps(shape))}), row({rows}, {first} + {index(shape, apart)}));"]
    )


def _dense(block: Block, op: Dense, result: str, after: str) -> Iterator[str]:
    number = block.number(op.name)
    n_out, n_in = op.weights.shape
    weights, bias = block.constant(op, "weights", number, op.weights.T), block.constant(op, "bias", number, op.bias)
    lead = (math.prod(block.graph.tensors[op.inputs[0]].shape[:-1]),)
    x_row, y_row = (f"row({block.rows(name)}, {index(lead, (n,))})" for name, n in ((op.inputs[0], n_in), (result, n_out)))
    yield from loops(
        lead,
        [
            f"product<{n_out}>({x_row}, Consecutive{{}}, {n_in}, {weights}, {bias},",
            f"    {y_row}, 1, {after});",
        ],
    )


def _affine(block: Block, op: Affine) -> Iterator[str]:
    number = block.number(op.name)
    shape, constants = _together(block.graph.tensors[op.name].shape, op.weights.shape)
    weights, bias = block.constant(op, "weights", number, op.weights), block.constant(op, "bias", number, op.bias)
    at, place = index(shape, steps(constants)), index(shape, steps(shape))
    x, y = (f"row({block.rows(name)}, {place})" for name in (op.inputs[0], op.name))
    yield from loops(shape, [f"row_affine({x}, {weights}[{at}], {bias}[{at}], {y});"])


def _elementwise(block: Block, op: Add | Multiply) -> Iterator[str]:
    tensors, number = block.graph.tensors, block.number(op.name)
    shape, *operands = _together(tensors[op.name].shape, *(tensors[name].shape for name in op.inputs))
    a, b = (f"row({block.rows(name)}, {index(shape, steps(operand))})" for name, operand in zip(op.inputs, operands, strict=True))
    y = f"row({block.rows(op.name)}, {index(shape, steps(shape))})"
    if isinstance(op, Multiply):
        yield from loops(shape, [f"row_multiply({a}, {b}, {y});"])
        return
    shifts = (tensors[op.name].format.fraction - tensors[name].format.fraction for name in op.inputs)
    factors = [f"{number}({1 << shift}LL)" for shift in shifts]
    yield from loops(shape, [f"row_add({a}, {factors[0]}, {b}, {factors[1]}, {y});"])


def _matmul(block: Block, op: MatMul) -> Iterator[str]:
    a, b = (block.graph.tensors[name].shape for name in op.inputs)
    shape = block.graph.tensors[op.name].shape
    a_steps, b_steps = [*steps(a)[:-2], a[-1], 0], [*steps(b)[:-2], 0, 1]
    rows = [
        f"row({block.rows(name)}, {index(shape, apart)})"
        for name, apart in zip((*op.inputs, op.name), (a_steps, b_steps, steps(shape)), strict=True)
    ]
    yield from loops(shape, [f"row_dot({rows[0]}, {rows[1]}, {b[-1]}, {a[-1]}, {rows[2]});"])


# Step functions


def _round(op: Requantise, x: Tensor, number: str) -> str:
    shift = x.format.fraction - op.format.fraction
    return f"Round<{number}>{{{number}(0x1p{-shift}), {op.low}, {op.high}}}"


def _requantise(block: Block, op: Requantise, x: Tensor) -> Iterator[str]:
    rows = f"row({block.rows(op.inputs[0])}, i0)", f"row({block.rows(op.name)}, i0)"
    if x.size == 1:
        rows = block.rows(op.inputs[0]), block.rows(op.name)
    if (number := rounding_type(op, x)) is not None:
        yield from loops((x.size,), [f"row_round({rows[0]}, {_round(op, x, number)}, {rows[1]});"])
        return
    shift = x.format.fraction - op.format.fraction
    call = f"row_requantise<Rounding::{op.rounding.value}, {shift}>({rows[0]}, {op.low}LL, {op.high}LL, {rows[1]});"
    yield from loops((x.size,), [call])


def _threshold(block: Block, op: Threshold, x: Tensor) -> Iterator[str]:
    low, high = x.range
    levels = op.thresholds.shape[-1]
    # Thresholds beyond the range of codes are never or always reached, wherever they lie.
    thresholds = np.clip(op.thresholds, low, high + 1).reshape(-1, levels)
    if levels > 1 and (high - low + 1) * len(thresholds) <= TABLE_ENTRIES:
        counts = [np.searchsorted(row, np.arange(low, high + 1), side="right") for row in thresholds]
        values = op.base + op.step * np.reshape(counts, (*op.thresholds.shape[:-1], high - low + 1))
        yield from _table(block, op, x, values, low)
        return
    bits = levels.bit_length()
    table = np.full((len(thresholds), 2**bits - 1), high + 1)
    table[:, :levels] = thresholds
    name = block.constant(op, "thresholds", block.number(op.inputs[0]), table)
    at = f"{name} + ({index(x.shape, steps(op.thresholds.shape[:-1]))}) * {2**bits - 1}"
    place = index(x.shape, steps(x.shape))
    x_row, y_row = (f"row({block.rows(name)}, {place})" for name in (op.inputs[0], op.name))
    yield from loops(x.shape, [f"row_threshold<{bits}>({x_row}, {at}, {op.base}LL, {op.step}LL, {y_row});"])


def _table(block: Block, op: Table | Threshold, x: Tensor, values: NDArray[np.int64], first: int) -> Iterator[str]:
    low, high = x.range
    values, first = values[..., low - first : high - first + 1], low
    name = block.constant(op, "values", code_type(int(values.min()), int(values.max())), values)
    at = f"{name} + ({index(x.shape, steps(values.shape[:-1]))}) * {values.shape[-1]}"
    place = index(x.shape, steps(x.shape))
    x_row, y_row = (f"row({block.rows(name)}, {place})" for name in (op.inputs[0], op.name))
    yield from loops(x.shape, [f"row_table({x_row}, {at}, {first}LL, {y_row});"])


# Choices and moves


def _max_pool(block: Block, op: MaxPool, x: Tensor) -> Iterator[str]:
    apart = [math.prod(x.shape[axis + 1 :]) for axis in range(len(x.shape))]
    offsets = [
        sum(i * gap * step for i, gap, step in zip(place, op.dilation, apart[1:], strict=True))
        for place in product(*map(range, op.kernel))
    ]
    terms = block.constant(op, "terms", "int32_t", offsets)
    nest = (x.shape[0], *pool_sizes(op, x.shape))
    x_steps = (apart[0], *(stride * step for stride, step in zip(op.stride, apart[1:], strict=True)))
    y_steps = [math.prod(nest[axis + 1 :]) for axis in range(len(nest))]
    x_row, y_row = (
        f"row({block.rows(op.inputs[0])}, {index(nest, x_steps)})",
        f"row({block.rows(op.name)}, {index(nest, y_steps)})",
    )
    yield from loops(nest, [f"row_largest({x_row}, {terms}, {len(offsets)}, {y_row});"])


def _rearrange(block: Block, op: Rearrange, inputs: list[Tensor]) -> Iterator[str]:
    flat, y_rows, number = op.index.reshape(-1), block.rows(op.name), block.number(op.name)
    if len(outside := np.flatnonzero(flat == -1)):
        name = block.constant(op, "outside", "int32_t", outside)
        yield f"for (const int32_t to : {name}) row_fill({number}({op.fill}LL), row({y_rows}, to));"
    first = 0
    for place, (name, x) in enumerate(zip(op.inputs, inputs, strict=True)):
        targets = np.flatnonzero((flat >= first) & (flat < first + x.size))
        if len(targets):
            moves = block.constant(op, f"moves_{place}", "int32_t", np.stack([flat[targets] - first, targets], axis=1))
            body = f"row_copy(row({block.rows(name)}, {moves}[2 * i]), row({y_rows}, {moves}[2 * i + 1]));"
            yield f"for (int i = 0; i < {len(targets)}; ++i) {body}"
        first += x.size


def _softmax(block: Block, op: Softmax, x: Tensor) -> Iterator[str]:
    size = x.shape[-1]
    exponentials = block.constant(op, "exponentials", code_type(0, int(op.exponentials.max())), op.exponentials)
    lead = (x.size // size,)
    x_row, y_row = (f"row({block.rows(name)}, {index(lead, (size,))})" for name in (op.inputs[0], op.name))
    constants = f"{len(op.exponentials)}, {op.ratio[0]}LL, {op.ratio[1]}LL, {op.format.max_code}LL"
    yield from loops(lead, [f"softmax({x_row}, {size}, {exponentials}, {constants}, {y_row});"])


def _top_k(block: Block, op: TopK, x: Tensor) -> Iterator[str]:
    size = x.shape[-1]
    lead = (x.size // size,)
    x_row = f"row({block.rows(op.inputs[0])}, {index(lead, (size,))})"
    y_row = f"row({block.rows(op.name)}, {index(lead, (op.k,))})"
    options = f"{str(op.largest).lower()}, {str(op.part == 'indices').lower()}, {op.k}"
    yield from loops(lead, [f"top<{options}>({x_row}, {size}, {y_row});"])


# Nodes


def _halves(block: Block, op: Nearest | Condense, parts: Sequence[str]) -> str:
    """Return the rows of each part of a result as arguments: those of this operation and of its first half, else null."""
    rows = dict.fromkeys(parts, "nullptr") | {op.part: block.rows(op.name)}
    if (name := block.layout.first_half.get(op.name)) is not None:
        first = block.graph[name]
        assert isinstance(first, Nearest | Condense)
        rows[first.part] = block.rows(name)
    return ", ".join(rows[part] for part in parts)


def _nearest(block: Block, op: Nearest, x: Tensor) -> Iterator[str]:
    nodes, axes = x.shape
    number, scratch = block.layout.scratch[op.name].type, block.layout.scratch[op.name].pointer
    rows = ", ".join(block.rows(name) for name in op.inputs)
    yield f"nearest<{op.k}, {axes}, {index_bits(x)}>({rows}, {nodes}, {number}({op.reach}LL), {scratch},"
    yield f"    {_halves(block, op, ('distances', 'indices'))});"


def _take(block: Block, op: Take, values: Tensor, indices: Tensor) -> Iterator[str]:
    options = f"{values.shape[1]}, {str(indices.range[0] < 0).lower()}"
    rows = ", ".join(block.rows(name) for name in op.inputs)
    scratch = block.layout.scratch[op.name].pointer
    yield f"take_rows<{options}>({rows}, {values.shape[0]}, {indices.size}, {scratch}, {block.rows(op.name)});"


def _condense(block: Block, op: Condense, score: Tensor, x: Tensor) -> Iterator[str]:
    nodes, axes = x.shape
    number, scratch = block.layout.scratch[op.name].type, block.layout.scratch[op.name].pointer
    rows = ", ".join(block.rows(name) for name in op.inputs)
    limits = (op.threshold, score.range[0] - 1, op.apart)
    codes = ", ".join(f"{number}({code}LL)" for code in limits)
    yield f"condense<{axes}>({rows}, {nodes}, {op.most}, {codes}, {scratch},"
    yield f"    {_halves(block, op, ('indices', 'status'))});"
