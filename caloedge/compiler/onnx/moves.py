"""Readers of operators that move elements without changing them: every one is a list of places to take them from."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from caloedge.compiler.fixed import Format
from caloedge.compiler.onnx.node import Constant, Node, Operand, RawInput, Scores, checked
from caloedge.compiler.onnx.onnx_file import WHOLE_TYPES
from caloedge.compiler.ops import Affine, Rearrange
from caloedge.compiler.ranges import INT_LIMIT, MAX_ELEMENTS
from caloedge.compiler.rationals import Rationals, common_unit, exponent_of, nearest_exponent, rationals
from caloedge.compiler.symbolic import SymbolicValue, constant_of, moved, plain_value, uniform
from caloedge.errors import BadData, Unsupported

Index = NDArray[np.int64]
EXACT_TYPES = WHOLE_TYPES | {TensorProto.FLOAT16: (-(2**11), 2**11), TensorProto.BFLOAT16: (-(2**8), 2**8)}
"""Types that a cast may go to, and from where to where they hold every whole number."""


def _shape(node: Node) -> tuple[int, ...]:
    """Return the shape of the first input without the event axis."""
    operand = node.operand(0)
    if isinstance(operand, RawInput):
        return operand.index.shape
    return operand.value.shape if isinstance(operand, Scores) else node.value(0).shape


def read_identity(node: Node) -> None:
    """Read Identity."""
    node.set_output(node.operand(0))


def read_dropout(node: Node) -> None:
    """Read Dropout, which leaves out nothing when it is not trained."""
    if node.has(2) and np.any(node.numbers(2, "training_mode")):
        raise Unsupported("Dropout in training mode is not supported; export in evaluation mode")
    operand = node.operand(0)
    node.set_output(operand)
    shape = operand.values.shape if isinstance(operand, Constant) else (1, *_shape(node))
    node.set_output(Constant(np.ones(shape, dtype=np.bool_)), 1)


def read_cast(node: Node) -> None:
    """Read casts between real types, and those to whole numbers that change nothing."""
    to = node.int_attribute("to")
    if to not in (TensorProto.FLOAT, TensorProto.DOUBLE) and not _holds_all(to, node.operand(0), node):
        raise Unsupported("a cast that may change numbers is not supported; use a quantiser")
    node.set_output(node.operand(0))


def _holds_all(to: int, value: Operand, node: Node) -> bool:
    """Tell whether a type holds every number of a tensor: whole ones within its range."""
    if not isinstance(value, SymbolicValue) or not value.is_plain or to not in EXACT_TYPES:
        return False
    if any(number.denominator != 1 for number in (*value.scale.flat, *value.offset.flat)):
        return False
    low, high = EXACT_TYPES[to]
    ends = [scale * code for scale in value.scale.flat for code in node.builder.tensors[value.op].range]
    return bool(low <= min(ends) + min(value.offset.flat) and max(ends) + max(value.offset.flat) <= high)


def read_shape(node: Node) -> None:
    """Read Shape; 0 stands for the number of events, as Reshape understands it."""
    if "start" in node.attributes or "end" in node.attributes:
        raise Unsupported("Shape with start or end is not supported")
    node.set_output(Constant(np.array([0, *_shape(node)], dtype=np.int64)))


def read_flatten(node: Node) -> None:
    """Read Flatten from axis 1 on."""
    shape = _shape(node)
    axis = node.int_attribute("axis", 1)
    if axis + (len(shape) + 1 if axis < 0 else 0) != 1:
        raise Unsupported(f"Flatten with axis {axis} is not supported; use start_dim=1")
    node.move(lambda index: index.reshape(-1), "flatten")


def read_reshape(node: Node) -> None:
    """Read Reshape; the leading size is the event axis, whatever number the exporter saw there."""
    shape, target = _shape(node), node.integers(1, "shape")
    count = math.prod(shape)
    if node.int_attribute("allowzero", 0) and 0 in target:
        raise Unsupported("Reshape with allowzero is not supported")
    sizes = [shape[i - 1] if size == 0 and 0 < i <= len(shape) else size for i, size in enumerate(target)]
    event_shape = sizes[1:]
    known = math.prod(size for size in event_shape if size != -1)
    if not sizes or event_shape.count(-1) > 1 or min([1, *event_shape]) < -1 or known <= 0 or len(event_shape) > 8:
        raise Unsupported(f"Reshape to {tuple(target)} is not supported; keep the events on axis 0")
    batch = node.reading.batch_sizes
    if -1 in event_shape and sizes[0] not in (0, *(batch or {1})):  # with open events, only the 1 of an exporter's own event
        raise Unsupported(
            f"Reshape to {tuple(target)} divides events of {count} elements; keep the events on axis 0, where 0 or -1 "
            "stands for their number"
        )
    if -1 in event_shape and count % known == 0 and sizes[0] != -1:
        event_shape = [count // known if size == -1 else size for size in event_shape]
    if math.prod(event_shape) != count:
        raise Unsupported(
            f"Reshape to {tuple(target)} is not supported; {count} elements an event, and the events stay on axis 0"
        )
    node.move(lambda index: index.reshape(event_shape or (1,)), "reshape", scalar=not event_shape)


def read_transpose(node: Node) -> None:
    """Read Transpose."""
    rank = len(_shape(node))
    order = node.ints_attribute("perm", tuple(reversed(range(rank + 1))))
    if sorted(order) != list(range(rank + 1)):
        raise BadData(f"perm {order} is no order of {rank + 1} axes")
    if order[0] != 0:
        raise Unsupported(f"Transpose with perm {order} moves the event axis; keep it first")
    node.move(lambda index: index.transpose([axis - 1 for axis in order[1:]]), "transpose")


def read_squeeze(node: Node) -> None:
    """Read Squeeze."""
    shape = _shape(node)
    numbers = node.integers(1, "axes") if node.has(1) else list(node.ints_attribute("axes", ()))
    axes = [node.axis(axis, len(shape)) for axis in numbers] or [i for i, size in enumerate(shape) if size == 1]
    if any(shape[axis] != 1 for axis in axes):
        raise BadData(f"axes {numbers} of ({', '.join(map(str, shape))}) do not have size 1")
    remaining = [size for i, size in enumerate(shape) if i not in axes]
    node.move(lambda index: index.reshape(remaining or (1,)), "reshape", scalar=not remaining)


def read_unsqueeze(node: Node) -> None:
    """Read Unsqueeze."""
    shape = [] if node.proto.input[0] in node.reading.scalars else list(_shape(node))
    numbers = node.integers(1, "axes") if node.has(1) else list(node.ints_attribute("axes"))
    rank = len(shape) + len(numbers)
    axes = sorted(node.axis(axis, rank) for axis in numbers)
    if len(set(axes)) != len(axes) or rank > 8:
        raise BadData(f"axes {numbers} are not possible")
    for axis in axes:
        shape.insert(axis, 1)
    node.move(lambda index: index.reshape(shape), "reshape")


def read_slice(node: Node) -> None:
    """Read Slice with constant limits."""
    shape = _shape(node)
    if node.has(1):
        starts, ends = node.integers(1, "starts"), node.integers(2, "ends")
        axes = node.integers(3, "axes") if node.has(3) else list(range(len(starts)))
        steps = node.integers(4, "steps") if node.has(4) else [1] * len(starts)
    else:
        starts, ends = list(node.ints_attribute("starts")), list(node.ints_attribute("ends"))
        axes, steps = list(node.ints_attribute("axes", tuple(range(len(starts))))), [1] * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise BadData("starts, ends, axes and steps do not fit together")
    slices = [slice(None)] * len(shape)
    for start, end, number, step in zip(starts, ends, axes, steps, strict=True):
        if number in (0, -len(shape) - 1) and start == 0 and step == 1 and end >= 2**31 - 1:
            continue  # all events
        axis = node.axis(number, len(shape))
        size = shape[axis]
        first, last = (value + size if value < 0 else value for value in (start, end))
        slices[axis] = slice(min(max(first, 0), size - (step < 0)), None if step < 0 and last < 0 else max(last, 0), step)
    node.move(lambda index: _not_empty(index[tuple(slices)]), "slice")


def _not_empty(index: Index) -> Index:
    if not index.size:
        raise BadData("nothing is left of its input")
    return index


def read_gather(node: Node) -> None:
    """Read Gather with constant positions."""
    shape = _shape(node)
    axis = node.axis(node.int_attribute("axis", 0), len(shape))
    positions = np.asarray(node.numbers(1, "positions"))
    if positions.dtype.kind not in "iu" or not positions.size or positions.ndim > 4:
        raise BadData("positions must be whole numbers")
    if positions.min() < -shape[axis] or positions.max() >= shape[axis]:
        raise BadData(f"positions {positions.min()} to {positions.max()} are not all within {shape[axis]}")
    if positions.size * math.prod(shape) // shape[axis] > MAX_ELEMENTS:
        raise Unsupported(f"a result of {positions.size * math.prod(shape) // shape[axis]:,} elements is too large")

    def gather(index: Index) -> Index:
        taken_index = np.take(index, positions, axis=axis)
        return taken_index if taken_index.ndim else taken_index.reshape(1)

    node.move(gather, "gather", scalar=len(shape) == 1 and not positions.ndim)


def read_split(node: Node) -> None:
    """Read Split into parts along one axis."""
    shape = _shape(node)
    axis = node.axis(node.int_attribute("axis", 0), len(shape))
    parts = len(node.proto.output)
    if node.has(1):
        sizes = node.integers(1, "split")
    elif "split" in node.attributes:
        sizes = list(node.ints_attribute("split"))
    else:
        length = -(-shape[axis] // parts)
        sizes = [length] * (parts - 1) + [shape[axis] - length * (parts - 1)]
    if len(sizes) != parts or sum(sizes) != shape[axis] or min(sizes) < 1:
        raise BadData(f"split {tuple(sizes)} does not divide {shape[axis]} into {parts}")
    value = node.value(0)
    index = np.arange(math.prod(shape)).reshape(shape)
    for number, part in enumerate(np.split(index, np.cumsum(sizes)[:-1], axis=axis)):
        node.set_output(moved(node.builder, value, part, "split"), number)


def read_concat(node: Node) -> None:
    """Read Concat of tensors, also with different scales, and of constants such as the first state of a recurrent cell."""
    constant = [isinstance(node.operand(i), Constant) for i in range(len(node.proto.input))]
    moving = {i: node.plain(i) for i, fixed in enumerate(constant) if not fixed}
    source = next(iter(moving.values())).op
    values = [moving[i] if i in moving else _constant_value(node, i, source) for i in range(len(constant))]
    rank = len(values[0].shape)
    axis = node.axis(node.int_attribute("axis"), rank)
    outer = {tuple(size for i, size in enumerate(value.shape) if i != axis) for value in values}
    if len(outer) != 1 or len({len(value.shape) for value in values}) != 1:
        raise BadData(f"shapes {', '.join(str(value.shape) for value in values)} do not fit together along axis {axis + 1}")
    if sum(math.prod(value.shape) for value in values) > MAX_ELEMENTS:
        raise Unsupported("its result is too large")
    values = _at_one_fraction(node, values)
    starts = np.cumsum([0] + [math.prod(value.shape) for value in values])
    parts = [
        np.arange(math.prod(value.shape)).reshape(value.shape) + start for value, start in zip(values, starts[:-1], strict=True)
    ]
    index = np.concatenate(parts, axis=axis)
    names = tuple(value.op for value in values)
    op = node.builder.add(Rearrange(node.builder.new_name("concat"), names, index, kind="concat"))
    arrays = [
        np.concatenate([np.broadcast_to(array, value.shape) for array, value in zip(parameters, values, strict=True)], axis=axis)
        if len({uniform(array) for array in parameters}) > 1 or uniform(parameters[0]) is None
        else parameters[0]
        for parameters in ([value.scale for value in values], [value.offset for value in values])
    ]
    node.set_plain_output(op, arrays[0], arrays[1])


def _constant_value(node: Node, index: int, source: str) -> SymbolicValue:
    """Return a constant input, the same for all events, as codes that are made of nothing of some operation's."""
    numbers = checked(node.numbers(index, "a constant"), "a constant")
    if numbers.ndim < 2 or numbers.shape[0] != 1:
        raise Unsupported(f"a constant of shape {numbers.shape} is not one for all events; use (1, ...)")
    values = rationals(numbers[0])
    unit = common_unit(values)
    steps = [int(number / unit) for number in values.flat]
    if max(map(abs, steps)) >= INT_LIMIT:
        raise Unsupported("its constant is not quantised: as integers its numbers need more than 62 bits; use a quantiser")
    codes = np.array(steps, dtype=np.int64).reshape(values.shape)
    builder = node.builder
    any_code = builder.add(Rearrange(builder.new_name("repeat"), (source,), np.zeros(codes.shape, dtype=np.int64), kind="repeat"))
    fmt = Format(False, 1, nearest_exponent(unit) - builder.tensors[source].format.fraction)
    op = builder.add(Affine(builder.new_name("constant"), (any_code,), np.zeros_like(codes), codes, fmt))
    return plain_value(builder, op, constant_of(unit, codes.ndim))


def _at_one_fraction(node: Node, values: list[SymbolicValue]) -> list[SymbolicValue]:
    """Bring tensors to one nominal fraction: those of power-of-two scales to the finest, exactly; others get a new name only."""
    builder = node.builder
    fractions = [builder.tensors[value.op].format.fraction for value in values]
    exponents = [_exponent(value.scale) for value in values]
    if len(set(fractions)) == 1 and (len(set(exponents)) == 1):
        return values
    known = [exponent for exponent in exponents if exponent is not None]
    aligned = []
    finest = max(fractions)
    for value, fraction in zip(values, fractions, strict=True):
        exponent = max(known) if len(known) == len(values) else None
        value_exponent = _exponent(value.scale)
        shift = 0 if exponent is None or value_exponent is None else exponent - value_exponent
        if shift or fraction + shift != finest or exponent is not None:
            target = finest if exponent is None else max(known)
            aligned.append(_relabelled(node, value, shift, target))
        else:
            aligned.append(value if fraction == finest else _relabelled(node, value, 0, finest))
    return aligned


def _exponent(scale: Rationals) -> int | None:
    number = uniform(scale)
    return None if number is None else exponent_of(number)


def _relabelled(node: Node, value: SymbolicValue, shift: int, fraction: int) -> SymbolicValue:
    """Return the value with codes 2**shift times as large, in a tensor whose nominal fraction is `fraction`."""
    old_fraction = node.builder.tensors[value.op].format.fraction
    if not shift and old_fraction == fraction:
        return value
    rank = len(value.shape)
    weights = np.full((1,) * rank, 1 << shift, dtype=np.int64)
    fmt = Format.holding(0, 1 << shift, fraction - old_fraction)
    op = node.builder.add(Affine(node.builder.new_name("align"), (value.op,), weights, np.zeros_like(weights), fmt))
    return replace(value, terms=((op, value.scale * Fraction(1, 2**shift)),))


def read_pad(node: Node) -> None:
    """Read Pad with a constant, with the edge or mirrored."""
    shape = _shape(node)
    mode = node.text_attribute("mode", "constant")
    pads = node.integers(1, "pads") if node.has(1) else list(node.ints_attribute("pads"))
    if node.has(3):
        axes = [node.axis(axis, len(shape)) for axis in node.integers(3, "axes")]
        if len(pads) != 2 * len(axes):
            raise BadData(f"pads {tuple(pads)} are not those of {len(axes)} axes")
        widths = [(0, 0)] * len(shape)
        for i, axis in enumerate(axes):
            widths[axis] = (pads[i], pads[len(axes) + i])
    else:
        if len(pads) != 2 * (len(shape) + 1) or pads[0] or pads[len(shape) + 1]:
            raise BadData(f"pads {tuple(pads)} are not those of {len(shape) + 1} axes, or pad the event axis")
        widths = [(pads[1 + i], pads[len(shape) + 2 + i]) for i in range(len(shape))]
    sizes = [size + before + after for size, (before, after) in zip(shape, widths, strict=True)]
    if min(sizes) < 1 or max(max(map(abs, pair)) for pair in widths) > MAX_ELEMENTS or math.prod(sizes) > MAX_ELEMENTS:
        raise Unsupported(f"pads {tuple(pads)} are not possible or make the tensor too large")
    fill = float(np.asarray(node.numbers(2, "fill value")).reshape(-1)[0]) if node.has(2) else node.float_attribute("value", 0.0)

    def pad(index: Index) -> Index:
        cut = index[tuple(slice(max(-a, 0), size - max(-b, 0)) for size, (a, b) in zip(shape, widths, strict=True))]
        grown = [(max(a, 0), max(b, 0)) for a, b in widths]
        if mode == "constant":
            return np.pad(cut, grown, constant_values=-1)
        if mode not in ("edge", "reflect") or (
            mode == "reflect" and any(max(pair) >= size for pair, size in zip(grown, cut.shape, strict=True))
        ):
            raise Unsupported(f"Pad with mode {mode} is not supported here; use constant or edge")
        return np.pad(cut, grown, mode=mode)  # type: ignore[call-overload, no-any-return]

    if mode == "constant" and fill and any(any(pair) for pair in widths):
        raise Unsupported(f"Pad with {fill:g} is not supported; pad with 0")
    if mode == "constant" and isinstance(node.operand(0), RawInput) and any(any(pair) for pair in widths):
        value = node.plain(0)
        node.set_output(moved(node.builder, value, pad(np.arange(math.prod(shape)).reshape(shape)), "pad"))
        return
    node.move(pad, "pad")


def read_resize(node: Node) -> None:
    """Read Resize or Upsample to the nearest element."""
    shape = _shape(node)
    if node.text_attribute("mode", "nearest") != "nearest":
        raise Unsupported("only Resize to the nearest element is supported; use mode='nearest'")
    if node.text_attribute("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unsupported("only Resize with keep_aspect_ratio_policy='stretch' is supported; give the sizes themselves")
    scales = _factors(node, len(shape))
    old = _is_upsample(node)
    coordinates = node.text_attribute("coordinate_transformation_mode", "asymmetric" if old else "half_pixel")
    rule = node.text_attribute("nearest_mode", "floor" if old else "round_prefer_floor")
    if old and min(factor for factor, _ in scales) < 1:
        raise Unsupported("a Resize of opset 10 that makes its input smaller is not defined exactly; export with opset 11")
    if coordinates not in ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners"):
        raise Unsupported(f"coordinate_transformation_mode {coordinates} is not supported")
    rounders: dict[str, Callable[[Fraction], int]] = {
        "floor": math.floor,
        "ceil": math.ceil,
        "round_prefer_floor": lambda x: math.ceil(x - Fraction(1, 2)),
        "round_prefer_ceil": lambda x: math.floor(x + Fraction(1, 2)),
    }
    if rule not in rounders:
        raise BadData(f"nearest_mode {rule} is not known")
    places = []
    if min(length for _, length in scales) < 1 or math.prod(length for _, length in scales) > MAX_ELEMENTS:
        raise Unsupported(f"a result of {' × '.join(str(length) for _, length in scales)} elements is not possible or too large")
    for size, (factor, length) in zip(shape, scales, strict=True):
        line = []
        for i in range(length):
            if coordinates == "asymmetric":
                x = Fraction(i) / factor
            elif coordinates == "align_corners":
                x = Fraction(i * (size - 1), length - 1) if length > 1 else Fraction(0)
            elif coordinates == "pytorch_half_pixel" and length == 1:
                x = Fraction(0)
            else:
                x = (Fraction(2 * i + 1, 2)) / factor - Fraction(1, 2)
            line.append(min(max(rounders[rule](x), 0), size - 1))
        places.append(np.array(line))
    node.move(lambda index: index[np.ix_(*places)], "resize")


def _is_upsample(node: Node) -> bool:
    """Tell whether a node takes the element before, as Upsample and the Resize of opset 10 do."""
    return node.kind == "Upsample" or node.reading.opset < 11


def _factors(node: Node, rank: int) -> list[tuple[Fraction, int]]:
    """Return factor and size of each axis of a Resize."""
    shape = _shape(node)
    first = 1 if _is_upsample(node) else 2
    if "axes" in node.attributes:
        raise Unsupported("Resize of some axes is not supported; give all")
    if node.has(3) and node.kind == "Resize":
        sizes = node.integers(3, "sizes")
        if len(sizes) != rank + 1 or sizes[0] not in (0, 1, *node.reading.batch_sizes):
            raise Unsupported(f"sizes {tuple(sizes)} are not those of {rank + 1} axes, or change the number of events")
        return [(Fraction(size, old), size) for size, old in zip(sizes[1:], shape, strict=True)]
    if "scales" in node.attributes:
        values = [float(value) for value in node.attributes["scales"].floats]
    else:
        values = [float(value) for value in np.asarray(node.numbers(first, "scales"), dtype=np.float64).reshape(-1)]
    if len(values) != rank + 1 or values[0] != 1.0 or not np.isfinite(values).all() or max(values) > MAX_ELEMENTS:
        raise Unsupported(f"scales of {len(values)} axes are not those of {rank + 1}, or change the number of events")
    return [(Fraction(value), math.floor(Fraction(value) * old)) for value, old in zip(values[1:], shape, strict=True)]


def read_expand(node: Node) -> None:
    """Read Expand or Tile."""
    shape, sizes = _shape(node), node.integers(1, "shape")
    if node.kind == "Tile":
        if len(sizes) != len(shape) + 1 or sizes[0] != 1 or min(sizes) < 1 or math.prod(sizes) * math.prod(shape) > MAX_ELEMENTS:
            raise Unsupported(f"repeats {tuple(sizes)} are not possible, or repeat events")
        node.move(lambda index: np.tile(index, sizes[1:]), "repeat")
        return
    keeps_events = bool(sizes) and sizes[0] in (0, 1, *node.reading.batch_sizes)
    if len(sizes) != len(shape) + 1 or not keeps_events or min(sizes[1:], default=1) < 1 or math.prod(sizes[1:]) > MAX_ELEMENTS:
        raise Unsupported(f"Expand to {tuple(sizes)} is not possible here")
    target = np.broadcast_shapes(shape, tuple(sizes[1:])) if _broadcasts(shape, sizes[1:]) else None
    if target is None:
        raise BadData(f"({', '.join(map(str, shape))}) cannot be expanded to {tuple(sizes)}")
    node.move(lambda index: np.broadcast_to(index, target).copy(), "repeat")


def _broadcasts(shape: tuple[int, ...], sizes: list[int]) -> bool:
    return all(a == b or 1 in (a, b) for a, b in zip(shape, sizes, strict=True))


def read_space_depth(node: Node) -> None:
    """Read DepthToSpace or SpaceToDepth."""
    shape, block = _shape(node), node.int_attribute("blocksize")
    if len(shape) != 3 or not 1 <= block <= 64:
        raise BadData(f"blocksize {block} or an input ({', '.join(map(str, shape))}) is not possible")
    channels, height, width = shape
    if node.kind == "SpaceToDepth":
        if height % block or width % block:
            raise BadData(f"{height}×{width} does not divide into blocks of {block}")
        split = (channels, height // block, block, width // block, block)
        node.move(
            lambda index: index.reshape(split).transpose(2, 4, 0, 1, 3).reshape(-1, height // block, width // block), "transpose"
        )
        return
    if channels % block**2:
        raise BadData(f"{channels} channels do not divide into blocks of {block}")
    less = channels // block**2
    if node.text_attribute("mode", "DCR") == "DCR":
        node.move(
            lambda index: (
                index.reshape(block, block, less, height, width)
                .transpose(2, 3, 0, 4, 1)
                .reshape(less, height * block, width * block)
            ),
            "transpose",
        )
    else:
        node.move(
            lambda index: (
                index.reshape(less, block, block, height, width)
                .transpose(0, 3, 1, 4, 2)
                .reshape(less, height * block, width * block)
            ),
            "transpose",
        )


READERS: dict[str, Callable[[Node], None]] = {
    "Identity": read_identity,
    "Dropout": read_dropout,
    "Cast": read_cast,
    "Shape": read_shape,
    "Flatten": read_flatten,
    "Reshape": read_reshape,
    "Transpose": read_transpose,
    "Squeeze": read_squeeze,
    "Unsqueeze": read_unsqueeze,
    "Slice": read_slice,
    "Gather": read_gather,
    "Split": read_split,
    "Concat": read_concat,
    "Pad": read_pad,
    "Resize": read_resize,
    "Upsample": read_resize,
    "Expand": read_expand,
    "Tile": read_expand,
    "DepthToSpace": read_space_depth,
    "SpaceToDepth": read_space_depth,
}
