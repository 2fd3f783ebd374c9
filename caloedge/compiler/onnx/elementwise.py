"""Readers of elementwise operators: arithmetic with constants and between tensors, batch normalisation, activations."""

import math
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction

import numpy as np

from caloedge.compiler import functions
from caloedge.compiler.functions import Function
from caloedge.compiler.onnx.node import Constant, Node, Operand, RawInput, checked, fitted, real_weights
from caloedge.compiler.ops import Multiply
from caloedge.compiler.ranges import TooWide
from caloedge.compiler.rationals import Rationals, rationals
from caloedge.compiler.symbolic import (
    SymbolicValue,
    added,
    applied,
    constant_of,
    limited,
    moved,
    plain_value,
    reason_of,
    scaled,
    without_offset,
)
from caloedge.errors import BadData, Unsupported

SQRT_BITS = 128
"""Bits after the binary point of the square root in a batch normalisation."""


# Arithmetic


def read_arithmetic(node: Node) -> None:
    """Read Add, Sub, Mul or Div, with a constant or between two tensors."""
    a, b = node.operand(0), node.operand(1)
    if isinstance(b, Constant):
        _with_constant(node, a, b, 0)
    elif isinstance(a, Constant):
        _with_constant(node, b, a, 1)
    elif node.kind in ("Add", "Sub"):
        node.set_output(_sum(node, node.kind == "Sub"))
    elif node.kind == "Mul":
        node.set_output(_product(node))
    else:
        raise Unsupported("a division by a tensor is not supported; divide by a constant")


def _with_constant(node: Node, operand: Operand, constant: Constant, index: int) -> None:
    """Apply a constant to input number `index`."""
    node.numbers(1 - index, "the constant")
    values = real_weights(constant)
    if isinstance(operand, RawInput):
        _to_raw_input(node, operand, values, index)
        return
    value = node.value(index)
    shape = np.broadcast_shapes((1, *value.shape), values.shape)[1:] if values.ndim <= len(value.shape) + 1 else value.shape
    if shape != value.shape:
        count = math.prod(shape)
        numbers = np.broadcast_to(np.arange(math.prod(value.shape)).reshape(value.shape), shape)
        value = moved(node.builder, value, numbers, "repeat") if count else value
    constants = fitted(values, value.shape, "the constant")
    factor, summand = _factor_and_summand(node, constants, index)
    node.set_output(scaled(value, factor, summand, node.name))


def _factor_and_summand(node: Node, constants: Rationals, index: int) -> tuple[Rationals, Rationals]:
    rank = constants.ndim
    one, zero = constant_of(1, rank), constant_of(0, rank)
    match node.kind:
        case "Add":
            return one, constants
        case "Sub":
            return (one, -constants) if index == 0 else (-one, constants)
        case "Mul":
            return constants, zero
        case _:
            if index == 1:
                raise Unsupported("a division by a tensor is not supported; divide by a constant")
            if not all(constants.flat):
                raise BadData("a division by zero")
            return 1 / constants, zero


def _to_raw_input(node: Node, raw: RawInput, values: np.ndarray, index: int) -> None:
    """Keep what is done to the network's input until its quantiser comes."""
    numbers = set(checked(values, "the constant").flat)
    if len(numbers) != 1:
        raise Unsupported("constants that differ between channels before the first quantiser are not supported; quantise first")
    shape = (1, *raw.index.shape)
    if np.broadcast_shapes(shape, values.shape) != shape:
        raise Unsupported(f"a constant of shape {values.shape} repeats the network's input; quantise first")
    factor, summand = _factor_and_summand(node, rationals(np.array([numbers.pop()])), index)
    changed = replace(raw, factor=raw.factor * factor[0], summand=raw.summand * factor[0] + summand[0])
    node.set_output(changed)


def _sum(node: Node, subtract: bool) -> SymbolicValue:
    a, b = (_without_steps(node, index) for index in (0, 1))
    a, b = _same_rank(node, a, b)
    _refuse_mismatch(a, b)
    if subtract:
        b = scaled(b, constant_of(-1, len(b.shape)), constant_of(0, len(b.shape)), node.name)
    return added(a, b, node.name)


def _without_steps(node: Node, index: int) -> SymbolicValue:
    """Return an addend: a sum of scaled codes, without limits and functions."""
    value = node.value(index)
    waiting = value.functions or value.low is not None or value.high is not None
    return node.plain(index) if waiting else value


def _same_rank(node: Node, a: SymbolicValue, b: SymbolicValue) -> tuple[SymbolicValue, SymbolicValue]:
    rank = max(len(a.shape), len(b.shape))

    def grown(value: SymbolicValue) -> SymbolicValue:
        if len(value.shape) == rank:
            return value
        shape = (1,) * (rank - len(value.shape)) + value.shape
        return moved(node.builder, value, np.arange(math.prod(shape)).reshape(shape), "reshape")

    return grown(a), grown(b)


def _refuse_mismatch(a: SymbolicValue, b: SymbolicValue) -> None:
    if any(x != y and 1 not in (x, y) for x, y in zip(a.shape, b.shape, strict=True)):
        raise BadData(f"shapes ({', '.join(map(str, a.shape))}) and ({', '.join(map(str, b.shape))}) do not fit together")


def _product(node: Node) -> SymbolicValue:
    a, b = _same_rank(node, node.plain(0), node.plain(1))
    _refuse_mismatch(a, b)
    c, d = without_offset(node.builder, a), without_offset(node.builder, b)
    try:
        op = node.builder.add(Multiply(node.builder.new_name("multiply"), (c.op, d.op)))
    except TooWide as problem:
        raise reason_of(problem, *(x for x, scaled_only in ((a, c), (b, d)) if scaled_only.scale is not x.scale)) from None
    return plain_value(node.builder, op, c.scale * d.scale)


def read_neg(node: Node) -> None:
    """Read Neg."""
    value = node.value(0)
    rank = len(value.shape)
    node.set_output(scaled(value, constant_of(-1, rank), constant_of(0, rank), node.name))


def read_batch_normalization(node: Node) -> None:
    """Read BatchNormalization: gamma * (x - mean) / sqrt(variance + epsilon) + beta, exactly up to the root."""
    value = node.value(0)
    if node.int_attribute("training_mode", 0) or any(node.proto.output[1:]):
        raise Unsupported("batch normalisation in training mode is not supported; export in evaluation mode")
    names = ("gamma", "beta", "mean", "variance")
    gamma, beta, mean, variance = (checked(node.numbers(i + 1, name), name).reshape(-1) for i, name in enumerate(names))
    channels = value.shape[-1 if node.channels_last else 0]
    if {x.size for x in (gamma, beta, mean, variance)} != {channels}:
        raise BadData(f"its constants are not those of {channels} channels")
    epsilon = Fraction(node.float_attribute("epsilon", 1e-5))
    spread = [Fraction(x) + epsilon for x in variance.tolist()]
    if min(spread) <= 0:
        raise BadData("a variance is negative")
    factor = np.array([Fraction(g) / _square_root(x) for g, x in zip(gamma.tolist(), spread, strict=True)], dtype=object)
    summand = rationals(beta) - rationals(mean) * factor
    shape = [1] * len(value.shape)
    shape[-1 if node.channels_last else 0] = channels
    node.set_output(scaled(value, factor.reshape(shape), summand.reshape(shape), node.name))


def _square_root(x: Fraction) -> Fraction:
    """Return the root: exact where it is rational, else with far more digits than any rounding can see."""
    exact = Fraction(math.isqrt(x.numerator), math.isqrt(x.denominator))
    if exact * exact == x:
        return exact
    return Fraction(math.isqrt((x.numerator << 2 * SQRT_BITS) // x.denominator), 1 << SQRT_BITS)


# Activations


def read_relu(node: Node) -> None:
    """Read Relu."""
    value = node.value(0)
    node.set_output(limited(value, constant_of(0, len(value.shape)), None, node.name))


def read_clip(node: Node) -> None:
    """Read Clip, Min or Max with constant limits."""
    first = int(node.kind != "Clip" and isinstance(node.operand(0), Constant))  # of Min and Max, either may be the constant
    value = node.value(first)
    if node.kind == "Clip":
        if "min" in node.attributes or "max" in node.attributes:
            low, high = (
                np.array(node.float_attribute(name, 0.0)) if name in node.attributes else None for name in ("min", "max")
            )
        else:
            low, high = (node.numbers(i, "limit") if node.has(i) else None for i in (1, 2))
    else:
        if len(node.proto.input) != 2:
            raise Unsupported(f"{node.kind} of {len(node.proto.input)} tensors is not supported; use one tensor and one constant")
        limit = node.numbers(1 - first, "limit")
        low, high = (limit, None) if node.kind == "Max" else (None, limit)
    node.set_output(limited(value, _limit(low, value), _limit(high, value), node.name))


def _limit(values: np.ndarray | None, value: SymbolicValue) -> Rationals | None:
    if values is None:
        return None
    floats = values.astype(np.float64)
    if np.isinf(floats).all():
        return None
    return fitted(values, value.shape, "limit")


def read_leaky_relu(node: Node) -> None:
    """Read LeakyRelu or PRelu."""
    value = node.value(0)
    if node.kind == "PRelu":
        slope = fitted(node.numbers(1, "slope"), value.shape, "slope")
    else:
        slope = constant_of(Fraction(float(np.float32(node.float_attribute("alpha", 0.01)))), len(value.shape))
    node.set_output(applied(value, functions.leaky_relu(slope), node.name))


def read_hard_sigmoid(node: Node) -> None:
    """Read HardSigmoid: alpha * x + beta, limited to [0, 1]."""
    value = node.value(0)
    node.set_output(_hard_sigmoid(node, value))


def _hard_sigmoid(node: Node, value: SymbolicValue) -> SymbolicValue:
    rank = len(value.shape)
    alpha, beta = (
        Fraction(float(np.float32(node.float_attribute(name, default)))) for name, default in (("alpha", 0.2), ("beta", 0.5))
    )
    line = scaled(value, constant_of(alpha, rank), constant_of(beta, rank), node.name)
    return limited(line, constant_of(0, rank), constant_of(1, rank), node.name)


def read_hard_swish(node: Node) -> None:
    """Read HardSwish: x * limit(x / 6 + 1/2, 0, 1)."""
    sixth, half = Fraction(float(np.float32(1 / 6))), Fraction(1, 2)

    def exact(x: Fraction) -> Fraction:
        return x * min(max(x * sixth + half, Fraction(0)), Fraction(1))

    hard_swish = Function("HardSwish", lambda x: x * np.clip(x * float(sixth) + 0.5, 0, 1), exact, increasing=False)
    node.set_output(applied(node.value(0), hard_swish, node.name))


def read_selu(node: Node) -> None:
    """Read Selu or Elu."""
    if node.kind == "Elu":
        alpha, gamma = Fraction(float(np.float32(node.float_attribute("alpha", 1.0)))), Fraction(1)
    else:
        alpha, gamma = (
            Fraction(float(np.float32(node.float_attribute(name, default))))
            for name, default in (("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875))
        )
    node.set_output(applied(node.value(0), functions.selu(alpha, gamma), node.name))


def _simple(function: Function) -> Callable[[Node], None]:
    def read(node: Node) -> None:
        node.set_output(applied(node.value(0), function, node.name))

    return read


def read_pow(node: Node) -> None:
    """Read Pow with a whole positive exponent, or the root."""
    exponents = set(checked(node.numbers(1, "exponent"), "exponent").flat)
    exponent = exponents.pop() if len(exponents) == 1 else 0.0
    if exponent not in (0.5, 1.0, 2.0, 3.0, 4.0):
        raise Unsupported("only the exponents 1 to 4 and 0.5 are supported")
    function = functions.SQRT if exponent == 0.5 else functions.power(int(exponent))
    node.set_output(applied(node.value(0), function, node.name))


READERS: dict[str, Callable[[Node], None]] = {
    "Add": read_arithmetic,
    "Sub": read_arithmetic,
    "Mul": read_arithmetic,
    "Div": read_arithmetic,
    "Neg": read_neg,
    "BatchNormalization": read_batch_normalization,
    "Relu": read_relu,
    "Clip": read_clip,
    "Min": read_clip,
    "Max": read_clip,
    "LeakyRelu": read_leaky_relu,
    "PRelu": read_leaky_relu,
    "HardSigmoid": read_hard_sigmoid,
    "HardSwish": read_hard_swish,
    "Selu": read_selu,
    "Elu": read_selu,
    "Sigmoid": _simple(functions.SIGMOID),
    "Tanh": _simple(functions.TANH),
    "Exp": _simple(functions.EXP),
    "Sqrt": _simple(functions.SQRT),
    "Softplus": _simple(functions.SOFTPLUS),
    "Abs": _simple(functions.ABS),
    "Pow": read_pow,
}
