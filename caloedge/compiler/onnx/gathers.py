"""Readers of operators that take elements at computed positions: a node's neighbours are chosen by their distances."""

import math

import numpy as np

from caloedge.compiler.builder import Builder
from caloedge.compiler.fixed import Format
from caloedge.compiler.linear_forms import Places, origin
from caloedge.compiler.onnx.node import Constant, Node
from caloedge.compiler.ops import Affine, Rearrange, Reshape, Take
from caloedge.compiler.symbolic import SymbolicValue, aligned, constant_of, moved, plain_value, uniform
from caloedge.errors import BadData, Unsupported


def read_gather_elements(node: Node) -> None:
    """Read GatherElements: result[a, p, b] = values[a, positions[a, p, b], b] for axes a before and b behind the axis."""
    values, positions = _values(node), _positions(node)
    axis = node.axis(node.int_attribute("axis", 0), len(values.shape))
    if len(positions.shape) != len(values.shape):
        raise BadData(f"positions ({_words(positions.shape)}) and values ({_words(values.shape)}) have different ranks")
    kept = [size for i, size in enumerate(positions.shape) if i != axis]
    given = [size for i, size in enumerate(values.shape) if i != axis]
    if any(a > b for a, b in zip(kept, given, strict=True)):
        raise BadData(f"positions ({_words(positions.shape)}) reach beyond values ({_words(values.shape)})")
    _refuse_outside(node, positions, values.shape[axis])
    part = tuple(slice(None) if i == axis else slice(size) for i, size in enumerate(positions.shape))
    source, value_places = origin(node.builder.ops.__getitem__, node.builder.tensors, values.op)
    index, index_places = origin(node.builder.ops.__getitem__, node.builder.tensors, positions.op)
    before, behind = math.prod(positions.shape[:axis]), math.prod(positions.shape[axis + 1 :])
    rows = value_places[part].reshape(before, values.shape[axis], behind)
    chosen = index_places.reshape(before, positions.shape[axis], behind)
    if (rows == rows[:1]).all() and (chosen == chosen[..., :1]).all():  # rows of one matrix, each as a whole
        result = _rows(node, values, (source, rows[0]), (index, chosen[..., 0]))
    else:
        result = _elements(node, values, positions, axis)
    node.set_output(moved(node.builder, result, np.arange(math.prod(positions.shape)).reshape(positions.shape), "reshape"))


def read_gather_nd(node: Node) -> None:
    """Read GatherND of rows of each event: result[p] = values[positions[p]], with batch_dims=1 and one number per position."""
    values, positions = _values(node), _positions(node)
    if node.int_attribute("batch_dims", 0) != 1:
        raise Unsupported("GatherND with other batch_dims than 1 is not supported; events cannot be mixed")
    if positions.shape[-1] != 1:
        raise Unsupported(f"GatherND of positions of {positions.shape[-1]} numbers is not supported; use one number each")
    _refuse_outside(node, positions, values.shape[0])
    places = origin(node.builder.ops.__getitem__, node.builder.tensors, values.op)
    index, index_places = origin(node.builder.ops.__getitem__, node.builder.tensors, positions.op)
    result = _rows(node, values, (places[0], places[1].reshape(values.shape[0], -1)), (index, index_places[..., 0]))
    shape = (*positions.shape[:-1], *values.shape[1:])
    node.set_output(moved(node.builder, result, np.arange(math.prod(shape)).reshape(shape), "reshape"))


def _words(shape: tuple[int, ...]) -> str:
    return ", ".join(map(str, shape))


def _values(node: Node) -> SymbolicValue:
    """Return the values as codes of one scale: a position does not say which scale it will meet."""
    values = node.plain(0)
    return values if uniform(values.scale) is not None and uniform(values.offset) is not None else aligned(node.builder, values)


def _positions(node: Node) -> SymbolicValue:
    if isinstance(node.operand(1), Constant):
        raise Unsupported("constant positions are not supported here; use Gather")
    positions = node.plain(1)
    whole = uniform(positions.scale) == 1 and not any(positions.offset.flat)
    if not whole or node.builder.tensors[positions.op].format.fraction:
        raise Unsupported("its positions are not whole numbers that a TopK made; use the indices of TopK as they are")
    return positions


def _refuse_outside(node: Node, positions: SymbolicValue, size: int) -> None:
    low, high = node.builder.tensors[positions.op].range
    if low < 0 or high >= size:
        raise Unsupported(f"its positions {low} to {high} may lie outside of {size} elements; use the indices of a TopK of these")


def _rows(node: Node, values: SymbolicValue, rows: tuple[str, Places], chosen: tuple[str, Places]) -> SymbolicValue:
    """Take rows (N, F), which are elements of one operation, at indices that are elements of another one."""
    builder = node.builder
    (source, places), (index, index_places) = rows, chosen
    in_order = np.array_equal(index_places.reshape(-1), np.arange(builder.tensors[index].size))
    indices = index if in_order else builder.add(Rearrange(builder.new_name("indices"), (index,), index_places, kind="indices"))
    op = builder.add(Take(builder.new_name("take"), (_shown(builder, source, places), indices)))
    rank = len(builder.tensors[op].shape)
    numbers = [uniform(array) for array in (values.scale, values.offset)]
    assert numbers[0] is not None
    assert numbers[1] is not None
    return plain_value(builder, op, constant_of(numbers[0], rank), constant_of(numbers[1], rank))


def _shown(builder: Builder, name: str, places: Places) -> str:
    """Return an operation that holds elements of another one at their places: that one, if they are all of them in order."""
    if not np.array_equal(places.reshape(-1), np.arange(builder.tensors[name].size)):
        return builder.add(Rearrange(builder.new_name("rows"), (name,), places, kind="rows"))
    if builder.tensors[name].shape == places.shape:
        return name
    return builder.add(Reshape(builder.new_name("reshape"), (name,), places.shape))


def _elements(node: Node, values: SymbolicValue, positions: SymbolicValue, axis: int) -> SymbolicValue:
    """Take single elements, each from anywhere: positions become places in the flattened values."""
    builder = node.builder
    step = math.prod(values.shape[axis + 1 :])
    starts = np.arange(math.prod(values.shape)).reshape(values.shape).take([0], axis=axis)
    bias = np.broadcast_to(starts[tuple(slice(size) for size in positions.shape)], positions.shape)
    fmt = Format.holding(0, step, 0)
    places = builder.add(Affine(builder.new_name("places"), (positions.op,), np.full(bias.shape, step), bias, fmt))
    source = builder.add(Reshape(builder.new_name("reshape"), (values.op,), (-1, 1)))
    size = math.prod(values.shape)
    return _rows(node, values, (source, np.arange(size)[:, None]), (places, np.arange(bias.size).reshape(bias.shape)))


READERS = {
    "GatherElements": read_gather_elements,
    "GatherND": read_gather_nd,
}
