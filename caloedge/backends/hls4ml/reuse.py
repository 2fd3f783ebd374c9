"""Reuse of a layer's multipliers: factors that hls4ml allows, that a recipe chooses, and that are taken where none is chosen."""

from bisect import bisect_left
from dataclasses import dataclass

from caloedge.compiler.ops import Conv, Dense
from caloedge.errors import UserError
from caloedge.recipe import LayerChoice

MOST_MULTIPLIERS = 4096
"""Products that one layer computes at once without being told to: hls4ml's projects ask the HLS compiler to split no array into
more elements (`maximum_size` in project.tcl), and unrolled loops beyond this are known to fail."""


@dataclass(frozen=True)
class Reuse:
    """Reuse of the multipliers in one layer."""

    strategy: str
    """hls4ml's word: `latency` or `resource`."""
    factor: int
    """Clock cycles for which each multiplier is used, per kernel position."""
    products: int
    """Products of one kernel position; those with zeros count."""
    why: str

    @property
    def multipliers(self) -> int:
        """Multipliers of one kernel position."""
        return -(-self.products // self.factor)


def divisors(number: int) -> list[int]:
    """Return all divisors in ascending order.

    >>> divisors(12)
    [1, 2, 3, 4, 6, 12]
    """
    small = [i for i in range(1, int(number**0.5) + 1) if number % i == 0]
    return sorted({*small, *(number // i for i in small)})


def valid_reuse(n_in: int, n_out: int) -> list[int]:
    """Return the reuse factors that hls4ml takes for a matrix, in ascending order.

    Each multiplier serves one output, or several outputs whole.

    >>> valid_reuse(6, 4)
    [1, 2, 3, 6, 12, 24]
    """
    return [*divisors(n_in), *(n_in * several for several in divisors(n_out) if several > 1)]


def decide_reuse(op: Conv | Dense, n_in: int, n_out: int, choice: LayerChoice | None, *, depthwise: bool = False) -> Reuse:
    """Decide how a layer multiplies with a matrix of `n_in` × `n_out` at each kernel position; `UserError` for what cannot be.

    A depthwise layer has `n_in` products only.
    """
    products = n_in if depthwise else n_in * n_out
    valid = divisors(n_in) if depthwise else valid_reuse(n_in, n_out)
    strategy, reuse = (choice.strategy, choice.reuse) if choice else (None, None)
    least = next((factor for factor in valid if products <= factor * MOST_MULTIPLIERS), valid[-1])
    if strategy == "unrolled" and reuse not in (None, 1):
        raise UserError(f"layers: {op.name}: reuse {reuse} contradicts strategy unrolled; leave one of them out")
    if strategy == "unrolled" and least > 1:
        raise UserError(
            f"layers: {op.name}: strategy unrolled makes {products:,} multipliers, hls4ml can unroll {MOST_MULTIPLIERS:,}; "
            f"leave it out, or give a reuse of {least} or more"
        )
    if reuse is not None and reuse not in valid:
        place = bisect_left(valid, reuse)
        nearest = " and ".join(str(factor) for factor in valid[max(place - 1, 0) : place + 1])
        raise UserError(
            f"layers: {op.name}: reuse {reuse} is not possible in hls4ml for {n_in} inputs and {n_out} outputs; the nearest "
            f"possible: {nearest}"
        )
    if reuse is not None and strategy != "unrolled":
        return Reuse("resource", reuse, products, "chosen in the recipe")
    if least > 1:
        return Reuse("resource", least, products, f"{products:,} products are more than {MOST_MULTIPLIERS:,}")
    return Reuse("latency", 1, products, "")
