"""What triggers allow, each with its reference, and whether a design keeps to it."""

import math

from caloedge.catalog import Budget
from caloedge.errors import UserError

LHC_CROSSING = Budget(
    name="LHC bunch crossing",
    latency_ns=None,
    interval_ns=25.0,
    reference="CERN-2004-003-V-1, LHC Design Report: one bunch crossing every 25 ns (40 MHz)",
)
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
    reference="Comput. Softw. Big Sci. 5 (2021) 19: about 150 ns in the trigger path, every bunch crossing",
)
ATLAS_LAR_FAST = Budget(
    name="ATLAS LAr energy reconstruction, 125 ns",
    latency_ns=125.0,
    interval_ns=25.0,
    reference="arXiv:2302.07555: 125 ns, every bunch crossing",
)
BELLE_II_ECL = Budget(
    name="Belle II ECL trigger",
    latency_ns=5_000.0,
    interval_ns=125.0,
    reference="arXiv:1011.0352: about 5 µs for the whole Level-1 chain; arXiv:2602.15118: 8 MHz in",
)

BUDGETS = (LHC_CROSSING, CMS_LEVEL_1, ATLAS_LAR, ATLAS_LAR_FAST, BELLE_II_ECL)


def verdict(budget: Budget, latency_cycles: int, interval_cycles: int, clock_mhz: float) -> tuple[bool, dict[str, float | None]]:
    """Return whether a design keeps to a budget, and its margins in nanoseconds: what is left, negative when exceeded.

    A margin is None where the budget sets no limit. The nanoseconds are no better than the origin of `clock_mhz`.

    >>> verdict(CMS_LEVEL_1, latency_cycles=100, interval_cycles=5, clock_mhz=200.0)
    (True, {'latency_ns': 12000.0, 'interval_ns': 0.0})
    >>> verdict(LHC_CROSSING, latency_cycles=100, interval_cycles=6, clock_mhz=200.0)
    (False, {'latency_ns': None, 'interval_ns': -5.0})
    """
    if not clock_mhz > 0 or latency_cycles < 0 or interval_cycles < 1:
        raise UserError(
            f"budget {budget.name}: a latency of {latency_cycles} cycles and an event every {interval_cycles} cycles at "
            f"{clock_mhz:g} MHz make no sense; give a latency of 0 or more, an interval of 1 or more and a positive clock"
        )
    needed = {"latency_ns": (budget.latency_ns, latency_cycles), "interval_ns": (budget.interval_ns, interval_cycles)}
    margins = {key: None if limit is None else limit - cycles * 1e3 / clock_mhz for key, (limit, cycles) in needed.items()}
    # cycles × 1000 ≤ limit × clock: no division that could round a design out of a budget that it just keeps
    fits = all(limit is None or cycles * 1e3 <= limit * clock_mhz for limit, cycles in needed.values())
    return fits, margins


def side_by_side(budget: Budget, latency_cycles: int, interval_cycles: int, clock_mhz: float) -> int | None:
    """Return how many designs that take events in turn keep to a budget: None where one event alone takes too long.

    >>> side_by_side(CMS_LEVEL_1, latency_cycles=990, interval_cycles=900, clock_mhz=200.0)
    180
    >>> side_by_side(CMS_LEVEL_1, latency_cycles=2501, interval_cycles=5, clock_mhz=200.0) is None
    True
    """
    alone = Budget(budget.name, budget.latency_ns, None, budget.reference)
    if not verdict(alone, latency_cycles, interval_cycles, clock_mhz)[0]:
        return None
    return 1 if budget.interval_ns is None else math.ceil(interval_cycles * 1e3 / (budget.interval_ns * clock_mhz))
