"""Steps that follow a layer word by word: requantisations and multiplications by constants."""

from dataclasses import dataclass

from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.compiler.ops import Affine, Requantise

PLAIN_ROUNDINGS = (Rounding.HALF_EVEN, Rounding.HALF_UP, Rounding.TRUNCATE)
"""The others are truncations after an offset that depends on the sign."""
MOST_SHIFT = 60
"""Bits that the others can lose: offsets are 64-bit literals."""


@dataclass(frozen=True, eq=False)
class Rounded:
    """A requantisation behind a layer."""

    op: Requantise
    shift: int
    """Right shift from the format before it."""

    @property
    def rounding(self) -> Rounding:
        """Rounding mode, the simplest where no bit is lost."""
        return self.op.rounding if self.shift > 0 or self.op.rounding in PLAIN_ROUNDINGS else Rounding.TRUNCATE

    @property
    def offsets(self) -> tuple[int, int] | None:
        """Summands for negative codes and for all others before they are truncated; None for the plain roundings.

        >>> from caloedge.compiler.fixed import Format
        >>> Rounded(Requantise("q", ("x",), Format(True, 4, 0), False, rounding=Rounding.TO_ZERO), 3).offsets
        (7, 0)
        """
        half = 2**self.shift // 2 if self.shift > 0 else 0
        return {
            Rounding.CEILING: (2 * half - 1, 2 * half - 1),
            Rounding.TO_ZERO: (2 * half - 1, 0),
            Rounding.FROM_ZERO: (0, 2 * half - 1),
            Rounding.HALF_TO_ZERO: (half, half - 1),
            Rounding.HALF_FROM_ZERO: (half - 1, half),
        }.get(self.rounding)

    @property
    def limited(self) -> bool:
        """Whether it clips to less than its format, ReLU and narrowness say."""
        op = self.op
        return (op.low, op.high) != (
            0 if op.relu else op.format.min_code + int(op.narrow and op.format.signed),
            op.format.max_code,
        )


@dataclass(frozen=True, eq=False)
class Scaled:
    """A multiplication by constants behind a layer."""

    op: Affine
    format: Format
    """Format of the result."""
    weights: Codes
    """One factor for each word of an event, in stream order."""
    bias: Codes


After = Rounded | Scaled
