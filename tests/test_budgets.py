import pytest

from caloedge.budgets import ATLAS_LAR, BELLE_II_ECL, BUDGETS, CMS_LEVEL_1, LHC_CROSSING, side_by_side, verdict
from caloedge.catalog import Budget
from caloedge.errors import UserError


@pytest.mark.parametrize("budget", BUDGETS, ids=[budget.name for budget in BUDGETS])
def test_a_budget_limits_something_and_says_who_says_so(budget: Budget) -> None:
    limits = [limit for limit in (budget.latency_ns, budget.interval_ns) if limit is not None]
    assert limits
    assert all(limit > 0 for limit in limits)
    assert any(source in budget.reference for source in ("CERN-", "arXiv:", "Comput. Softw. Big Sci."))


def test_names_are_different() -> None:
    assert len({budget.name for budget in BUDGETS}) == len(BUDGETS)


def test_exactly_full_is_kept_and_one_cycle_more_is_not() -> None:
    assert verdict(ATLAS_LAR, 30, 5, 200.0) == (True, {"latency_ns": 0.0, "interval_ns": 0.0})
    assert verdict(ATLAS_LAR, 31, 5, 200.0) == (False, {"latency_ns": -5.0, "interval_ns": 0.0})
    assert verdict(ATLAS_LAR, 30, 6, 200.0) == (False, {"latency_ns": 0.0, "interval_ns": -5.0})


def test_a_full_interval_is_kept_at_every_multiple_of_the_crossing_rate() -> None:
    for cycles in range(1, 101):
        assert verdict(LHC_CROSSING, 10**6, cycles, 40.0 * cycles)[0]
        assert not verdict(LHC_CROSSING, 10**6, cycles + 1, 40.0 * cycles)[0]


def test_designs_side_by_side_share_the_rate_but_not_the_latency() -> None:
    assert side_by_side(ATLAS_LAR, 30, 5, 200.0) == 1
    assert side_by_side(ATLAS_LAR, 30, 6, 200.0) == 2
    assert side_by_side(ATLAS_LAR, 30, 10, 200.0) == 2
    assert side_by_side(ATLAS_LAR, 31, 1, 200.0) is None
    assert side_by_side(LHC_CROSSING, 10**6, 901, 200.0) == 181


def test_the_limits() -> None:
    assert (CMS_LEVEL_1.latency_ns, CMS_LEVEL_1.interval_ns) == (12_500.0, 25.0)
    assert (BELLE_II_ECL.latency_ns, BELLE_II_ECL.interval_ns) == (5_000.0, 125.0)
    assert LHC_CROSSING.latency_ns is None


@pytest.mark.parametrize(("latency", "interval", "clock_mhz"), [(-1, 1, 200.0), (1, 0, 200.0), (1, 1, 0.0), (1, 1, float("nan"))])
def test_nonsense_is_refused(latency: int, interval: int, clock_mhz: float) -> None:
    with pytest.raises(UserError) as caught:
        verdict(ATLAS_LAR, latency, interval, clock_mhz)
    assert str(caught.value) == (
        f"budget {ATLAS_LAR.name}: a latency of {latency} cycles and an event every {interval} cycles at {clock_mhz:g} MHz "
        "make no sense; give a latency of 0 or more, an interval of 1 or more and a positive clock"
    )
