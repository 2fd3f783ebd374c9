"""Latency and rate budgets of triggers, with references, and what a design needs of them: latency share, copies, devices."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from caloedge.catalog import Budget
from caloedge.errors import UserError

CMS_LEVEL_1 = Budget(
    name="CMS Phase-2 Level-1 trigger",
    latency_ns=12_500.0,
    interval_ns=25.0,
    reference="CERN-LHCC-2020-004 (CMS-TDR-021): 12.5 µs for the whole chain, 40 MHz in, 750 kHz accepted",
)
ATLAS_LAR = Budget(
    name="ATLAS LAr energy reconstruction",
    latency_ns=150.0,
    interval_ns=25.0,
    reference="Comput. Softw. Big Sci. 5 (2021) 19: about 150 ns in the trigger path (arXiv:2302.07555: 125 ns), 40 MHz in",
)
BELLE_II_ECL = Budget(
    name="Belle II ECL trigger",
    latency_ns=5_000.0,
    interval_ns=125.0,
    reference="arXiv:1011.0352: about 5 µs for the whole Level-1 chain; arXiv:2602.15118: 8 MHz in, 3.168 µs for its network",
)

BUDGETS = (CMS_LEVEL_1, ATLAS_LAR, BELLE_II_ECL)

USABLE = 0.8
"""Share of a device's scarcest resource that designs may fill: above, place and route seldom closes timing."""


@dataclass(frozen=True)
class Need:
    """The part of one experiment's budget that a design takes."""

    latency_share: float
    """Fraction of the budgeted latency; above 1 a single item takes too long, which no number of copies mends."""
    copies: int
    """Number of designs that take items in turn to keep the input rate."""


def need(budget: Budget, latency_cycles: int, interval_cycles: int, clock_mhz: float, items_per_event: float = 1.0) -> Need:
    """Return the part of a budget that a design takes; it is as reliable as the origin of `clock_mhz`.

    `items_per_event` is how many inputs of the network one event of the experiment has, e.g. windows per crossing.

    >>> need(CMS_LEVEL_1, latency_cycles=250, interval_cycles=900, clock_mhz=200.0)
    Need(latency_share=0.1, copies=180)
    >>> need(CMS_LEVEL_1, latency_cycles=250, interval_cycles=1, clock_mhz=200.0, items_per_event=8.3).copies
    2
    """
    if not clock_mhz > 0 or latency_cycles < 0 or interval_cycles < 1 or not items_per_event > 0:
        raise UserError(
            f"budget {budget.name}: a latency of {latency_cycles} cycles and {items_per_event:g} inputs per event, one every "
            f"{interval_cycles} cycles at {clock_mhz:g} MHz, make no sense; give a latency of 0 or more, an interval of 1 or "
            "more, and a positive clock and number of inputs"
        )
    # Multiplied before it is divided: no rounding that could ask for one copy more than exactly fills an interval.
    copies = math.ceil(interval_cycles * 1e3 * items_per_event / (budget.interval_ns * clock_mhz))
    return Need(latency_cycles * 1e3 / (budget.latency_ns * clock_mhz), copies)


def devices(copies: int, shares: Mapping[str, float]) -> int | None:
    """Return how many devices hold so many copies of a design that takes these shares of one; None where one holds none.

    A copy is not split over devices, and each is filled up to `USABLE` of its scarcest resource.

    >>> devices(180, {"LUT": 0.01, "DSP": 0.03}), devices(1, {"LUT": 0.79}), devices(1, {"LUT": 0.81})
    (7, 1, None)
    """
    scarcest = max(shares.values())
    if scarcest > USABLE:
        return None
    return math.ceil(copies / math.floor(USABLE / scarcest + 1e-9)) if scarcest > 0 else 1
