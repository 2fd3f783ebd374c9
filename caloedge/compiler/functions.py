"""Elementwise real functions between two quantisers, as far as they are not affine: they become exact tables or thresholds.

Each is known twice: in float64 for speed, and to fifty digits (or exactly, where it is rational) for the few values that lie
so close to a rounding boundary that float64 could decide wrongly.
"""

import decimal
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.compiler.rationals import Rationals, to_floats

Floats = NDArray[np.float64]
DIGITS = 50


@dataclass(frozen=True, eq=False)
class Function:
    """A real function of one variable, with constants that may differ between channels."""

    kind: str
    """Name of the ONNX operator."""
    values: Callable[..., Floats]
    """(x, *constants) in float64, any shape."""
    exact: Callable[..., Fraction]
    """(x, *constants): exact, or right to about fifty digits."""
    constants: tuple[Rationals, ...] = ()
    """Each of the tensor's rank, axes of size 1 are repeated."""
    increasing: bool = True
    """Whether a larger argument never gives a smaller result."""
    exponent: int | None = None
    """Exponent of a power, which products of codes can be as well; None of other functions."""
    limits: tuple[bool, bool] = (False, False)
    """Whether it only limits its argument from below, and from above: its constants are those limits."""
    lowest: int | None = None
    """Begin of its domain, if it is not defined for all numbers."""
    node: str = ""
    """The node that applies it, for messages."""

    def __call__(self, x: Floats) -> Floats:
        """Return the values for x (*shape, N), whose leading axes are those of the constants."""
        return self.values(x, *(to_floats(constant)[..., None] for constant in self.constants))

    def at(self, x: Fraction, position: tuple[int, ...]) -> Fraction:
        """Return the exact value at one element of the tensor."""
        return self.exact(x, *(pick(constant, position) for constant in self.constants))


def pick(constant: Rationals, position: tuple[int, ...]) -> Any:
    """Return the constant of one element; axes of size 1 are repeated."""
    return constant[tuple(0 if size == 1 else i for i, size in zip(position, constant.shape, strict=True))]


def _decimal(x: Fraction) -> Decimal:
    return Decimal(x.numerator) / Decimal(x.denominator)


def _precise(function: Callable[[Decimal], Decimal]) -> Callable[[Fraction], Fraction]:
    def exact(x: Fraction) -> Fraction:
        with decimal.localcontext() as context:
            context.prec = DIGITS
            context.Emax, context.Emin = decimal.MAX_EMAX, decimal.MIN_EMIN
            return Fraction(function(_decimal(x)))

    return exact


def _sigmoid_values(x: Floats) -> Floats:
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + small), small / (1 + small))


def _tanh(x: Decimal) -> Decimal:
    small = (-2 * abs(x)).exp()
    return ((1 - small) / (1 + small)).copy_sign(x)


SIGMOID = Function("Sigmoid", _sigmoid_values, _precise(lambda x: 1 / (1 + (-x).exp())))
TANH = Function("Tanh", lambda x: np.tanh(x), _precise(_tanh))
EXP = Function("Exp", lambda x: np.exp(np.minimum(x, 700.0)), _precise(lambda x: min(x, Decimal(700)).exp()))
SQRT = Function("Sqrt", lambda x: np.sqrt(np.maximum(x, 0.0)), _precise(lambda x: max(x, Decimal(0)).sqrt()), lowest=0)
SOFTPLUS = Function("Softplus", lambda x: np.logaddexp(0.0, x), _precise(lambda x: (1 + x.exp()).ln() if x < 200 else x))
ABS = Function("Abs", lambda x: np.abs(x), lambda x: abs(x), increasing=False)


def power(exponent: int) -> Function:
    """Return x ** exponent for a whole positive exponent."""
    return Function("Pow", lambda x: x**exponent, lambda x: x**exponent, (), exponent % 2 == 1, exponent)


def leaky_relu(slope: Rationals) -> Function:
    """Return x above zero and slope * x below; the slope may differ between channels."""
    increasing = all(value >= 0 for value in slope.flat)
    return Function(
        "LeakyRelu",
        lambda x, a: np.where(x < 0, a * x, x),
        lambda x, a: a * x if x < 0 else x,
        (slope,),
        increasing,
    )


def selu(alpha: Fraction, gamma: Fraction) -> Function:
    """Return gamma * x above zero and gamma * alpha * (exp(x) - 1) below; `Elu` is gamma = 1."""
    precise = _precise(lambda x: x.exp() - 1)
    return Function(
        "Selu",
        lambda x: float(gamma) * np.where(x > 0, x, float(alpha) * np.expm1(np.minimum(x, 0))),
        lambda x: gamma * (x if x > 0 else alpha * precise(x)),
        increasing=alpha >= 0 and gamma >= 0,
    )


def affine(factor: Rationals, summand: Rationals) -> Function:
    """Return factor * x + summand, after a function that is not affine."""
    return Function(
        "affine",
        lambda x, a, b: a * x + b,
        lambda x, a, b: a * x + b,
        (factor, summand),
        all(value >= 0 for value in factor.flat),
    )


def clip(low: Rationals | None, high: Rationals | None) -> Function:
    """Return x limited to [low, high], after a function that is not affine."""
    constants = tuple(limit for limit in (low, high) if limit is not None)

    def values(x: Floats, *limits: Floats) -> Floats:
        limited = x if low is None else np.maximum(x, limits[0])
        return limited if high is None else np.minimum(limited, limits[-1])

    def exact(x: Fraction, *limits: Fraction) -> Fraction:
        limited = x if low is None else max(x, limits[0])
        return limited if high is None else min(limited, limits[-1])

    return Function("Clip", values, exact, constants, limits=(low is not None, high is not None))
