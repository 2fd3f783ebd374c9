"""Readers of softmax and of sorting."""

import math

import numpy as np

from caloedge.compiler.builder import Builder
from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.onnx.node import Node, Scores
from caloedge.compiler.ops import Affine, Softmax, TopK
from caloedge.compiler.ranges import INT_LIMIT
from caloedge.compiler.rationals import Rationals
from caloedge.compiler.requantise import Quantiser
from caloedge.compiler.symbolic import SymbolicValue, aligned, constant_of, moved, plain_value, positive, unaligned, uniform
from caloedge.errors import BadData, Unsupported

EXPONENTIAL_BITS = 30
"""Most bits of an exponential in a softmax."""
MAX_EXPONENTIALS = 2**16


def read_softmax(node: Node) -> None:
    """Read Softmax: it waits for a quantiser, which turns it into integers."""
    x = node.plain(0)
    old = node.reading.opset < 13
    axis = node.axis(node.int_attribute("axis", 1 if old else -1), len(x.shape))
    if old and math.prod(x.shape[axis:]) != x.shape[axis]:
        raise Unsupported(
            f"before opset 13 Softmax adds over all axes from its axis on, here ({', '.join(map(str, x.shape[axis:]))}); "
            "export with opset 13"
        )
    node.set_output(Scores(x, axis, node.name))


def quantised_softmax(node: Node, scores: Scores, scale: Rationals, quantiser: Quantiser) -> SymbolicValue:
    """Add a softmax whose result is rounded to multiples of one scale."""
    builder, x, unit = node.builder, scores.value, uniform(scale)
    if unit is None:
        raise Unsupported("a softmax that is quantised with several scales is not supported; use one scale per tensor")
    mixed = uniform(x.scale) is None or x.offset.shape[scores.axis] != 1
    x = aligned(builder, x) if mixed else x
    step = x.scale.flat[0]
    if quantiser.rounding is not Rounding.HALF_EVEN or quantiser.high != quantiser.format.max_code:
        raise Unsupported(
            "a softmax is rounded half to even and to a whole format; use rounding_mode ROUND and narrow_range=False"
        )
    last = len(x.shape) - 1
    exchanged = np.arange(math.prod(x.shape)).reshape(x.shape).swapaxes(scores.axis, last)
    turned = positive(builder, x if scores.axis == last else moved(builder, x, exchanged, "transpose"))
    low, high = builder.tensors[turned.op].range
    ratio = (1 / unit).numerator, (1 / unit).denominator
    count = turned.shape[-1]
    bits = min(EXPONENTIAL_BITS, 59 - ratio[0].bit_length(), 59 - ratio[1].bit_length() - count.bit_length())
    if bits < quantiser.format.width + 8:
        raise Unsupported(
            f"a softmax of {count} scores to {quantiser.format.width} bits does not fit 62 bits; use a power-of-two scale"
        )
    entries = np.arange(min(high - low, MAX_EXPONENTIALS) + 1)
    exponentials = np.rint(np.exp(-abs(float(step)) * entries) * 2.0**bits).astype(np.int64)
    if high - low > MAX_EXPONENTIALS and exponentials[-1]:
        if mixed:
            several = len(set(scores.value.scale.flat))
            raise Unsupported(
                f"a softmax of scores with {several} different scales is not supported; quantise them with one scale per tensor"
                if several > 1
                else "a softmax of scores whose bias is no multiple of their scale is not supported; use bias_quant=Int16Bias in "
                "the layer before, or a QuantIdentity between them"
            )
        raise Unsupported(
            f"a softmax of scores with {high - low + 1:,} codes is not supported; quantise them to fewer bits, or a larger scale"
        )
    exponentials = exponentials[: int(np.flatnonzero(exponentials)[-1]) + 1]
    op = builder.add(Softmax(builder.new_name("softmax"), (turned.op,), exponentials, ratio, quantiser.format))
    softmax = plain_value(builder, op, constant_of(unit, len(x.shape)))
    if scores.axis == last:
        return softmax
    back = np.arange(math.prod(turned.shape)).reshape(turned.shape).swapaxes(scores.axis, last)
    return moved(builder, softmax, back, "transpose")


def read_top_k(node: Node) -> None:
    """Read TopK: values and positions of the best along one axis."""
    if not node.int_attribute("sorted", 1):
        raise Unsupported("an unsorted TopK has no defined order; use sorted=1")
    (k,) = node.integers(1, "k")[:1] or [0]
    parts = tuple(part for part, name in zip(("values", "indices"), node.proto.output, strict=False) if name in node.reading.read)
    _best(node, node.int_attribute("axis", -1), k, bool(node.int_attribute("largest", 1)), parts)


def read_arg_max(node: Node) -> None:
    """Read ArgMax or ArgMin: the first best position along one axis."""
    if node.int_attribute("select_last_index", 0):
        raise Unsupported("select_last_index is not supported; use the first index")
    positions = _best(node, node.int_attribute("axis", 0), 1, node.kind == "ArgMax", ("indices",))
    if not node.int_attribute("keepdims", 1):
        shape = tuple(
            size for i, size in enumerate(positions.shape) if i != node.axis(node.int_attribute("axis", 0), len(positions.shape))
        )
        places = np.arange(math.prod(shape)).reshape(shape or (1,))
        node.set_output(moved(node.builder, positions, places, "reshape"), scalar=not shape)


def _best(node: Node, axis: int, k: int, largest: bool, parts: tuple[str, ...]) -> SymbolicValue:
    builder = node.builder
    scores = node.operand(0)
    if isinstance(scores, Scores) and parts == ("indices",) and node.axis(axis, len(scores.value.shape)) == scores.axis:
        x = positive(builder, scores.value)  # a softmax keeps the order
    else:
        x = positive(builder, node.plain(0))
    axis, last = node.axis(axis, len(x.shape)), len(x.shape) - 1
    if not 1 <= k <= x.shape[axis]:
        raise BadData(f"the best {k} of {x.shape[axis]} cannot be taken")
    if x.scale.shape[axis] != 1 or ("values" in parts and x.offset.shape[axis] != 1):
        x = aligned(builder, x)
    codes = plain_value(builder, x.op if x.offset.shape[axis] == 1 else _comparable(builder, x), x.scale, x.offset)
    turned = [size for i, size in enumerate(x.shape) if i != axis] + [x.shape[axis]]
    if axis != last:
        codes = moved(builder, codes, np.moveaxis(np.arange(math.prod(x.shape)).reshape(x.shape), axis, -1), "transpose")
    result = codes
    for part in parts:
        op = builder.add(TopK(builder.new_name("top"), (codes.op,), k, largest, part))  # type: ignore[arg-type]
        result = (
            plain_value(builder, op, codes.scale, codes.offset)
            if part == "values"
            else plain_value(builder, op, constant_of(1, last + 1))
        )
        if axis != last:
            shape = (*turned[:-1], k)
            result = moved(builder, result, np.moveaxis(np.arange(math.prod(shape)).reshape(shape), -1, axis), "transpose")
        node.set_output(result, int(node.kind == "TopK" and part == "indices"))
    return result


def _comparable(builder: Builder, x: SymbolicValue) -> str:
    """Add codes in the same order as scale * codes + offset, where only the offset differs between what is compared.

    Whole steps of the offset count as such; what is left of it decides between equal codes, and its rank does that as well.
    """
    steps = x.offset / x.scale
    floors = np.array([math.floor(step) for step in steps.flat], dtype=object).reshape(steps.shape)
    ranks = {fraction: rank for rank, fraction in enumerate(sorted(set((steps - floors).flat)))}
    bias = floors * len(ranks) + np.array([ranks[fraction] for fraction in (steps - floors).flat], dtype=object).reshape(
        steps.shape
    )
    if max(map(abs, bias.flat)) >= INT_LIMIT:
        raise Unsupported(unaligned(x))
    weights = np.full(bias.shape, len(ranks), dtype=np.int64)
    fmt = Format.holding(0, len(ranks), 0)
    return builder.add(Affine(builder.new_name("order"), (x.op,), weights, bias.astype(np.int64), fmt))


READERS = {
    "Softmax": read_softmax,
    "TopK": read_top_k,
    "ArgMax": read_arg_max,
    "ArgMin": read_arg_max,
}
