import math

import pytest

from caloedge.catalog import Budget
from caloedge.errors import UserError
from caloedge.firmware.budgets import ATLAS_LAR, BELLE_II_ECL, BUDGETS, CMS_LEVEL_1, USABLE, Need, devices, need


@pytest.mark.parametrize("budget", BUDGETS, ids=[budget.name for budget in BUDGETS])
def test_a_budget_limits_something_and_says_who_says_so(budget: Budget) -> None:
    assert min(budget.latency_ns, budget.interval_ns) > 0
    assert any(source in budget.reference for source in ("CERN-", "arXiv:", "Comput. Softw. Big Sci."))


def test_names_are_different() -> None:
    assert len({budget.name for budget in BUDGETS}) == len(BUDGETS)


def test_the_latency_is_a_share_of_the_whole_chain() -> None:
    assert need(ATLAS_LAR, 30, 5, 200.0).latency_share == 1.0
    assert need(ATLAS_LAR, 31, 5, 200.0).latency_share > 1
    assert need(ATLAS_LAR, 30, 5, 199.0).latency_share > 1
    assert need(BELLE_II_ECL, 100, 5, 200.0).latency_share == 0.1


def test_a_full_interval_is_kept_at_every_multiple_of_the_crossing_rate() -> None:
    for cycles in range(1, 101):
        assert need(CMS_LEVEL_1, 10, cycles, 40.0 * cycles).copies == 1
        assert need(CMS_LEVEL_1, 10, cycles + 1, 40.0 * cycles).copies == 2


def test_copies_share_the_rate() -> None:
    assert need(ATLAS_LAR, 30, 5, 200.0).copies == 1
    assert need(ATLAS_LAR, 30, 6, 200.0).copies == 2
    assert need(ATLAS_LAR, 30, 10, 200.0).copies == 2
    assert need(CMS_LEVEL_1, 10**6, 901, 200.0).copies == 181


def test_the_rate_is_that_of_the_networks_inputs() -> None:
    """A design of one window per cycle at 200 MHz takes 5 of the 8.31 windows per crossing in 25 ns."""
    assert need(CMS_LEVEL_1, 12, 1, 200.0, items_per_event=8.31).copies == 2
    assert need(CMS_LEVEL_1, 12, 1, 200.0, items_per_event=5.0).copies == 1
    assert need(CMS_LEVEL_1, 12, 1, 200.0, items_per_event=0.5).copies == 1


def test_devices_hold_whole_copies() -> None:
    assert devices(8, {"LUT": 0.5, "DSP": 0.1}) == 8  # one each
    assert devices(8, {"LUT": 0.4, "DSP": 0.1}) == 4  # two fill exactly what is usable
    assert devices(9, {"LUT": 0.4, "DSP": 0.1}) == 5
    assert devices(31_453, {"LUT": 0.05}) == math.ceil(31_453 / 16)
    assert devices(1, {"LUT": USABLE}) == 1
    assert devices(1, {"LUT": USABLE + 0.001}) is None
    assert devices(1, {"LUT": 0.1, "URAM": math.inf}) is None


@pytest.mark.parametrize("share", [0.03, 0.07, 0.11, 0.27, 0.4, 0.79])
@pytest.mark.parametrize("copies", [1, 2, 13, 181])
def test_no_device_is_filled_beyond_what_is_usable(copies: int, share: float) -> None:
    number = devices(copies, {"LUT": share, "FF": share / 2})
    assert number is not None
    assert math.ceil(copies / number) * share <= USABLE + 1e-12  # rounding of doubles
    assert number >= copies * share / USABLE


def test_the_limits() -> None:
    assert (CMS_LEVEL_1.latency_ns, CMS_LEVEL_1.interval_ns) == (12_500.0, 25.0)
    assert (BELLE_II_ECL.latency_ns, BELLE_II_ECL.interval_ns) == (5_000.0, 125.0)
    assert need(CMS_LEVEL_1, 2500, 5, 200.0) == Need(1.0, 1)


@pytest.mark.parametrize(
    ("latency", "interval", "clock_mhz", "items"),
    [
        (-1, 1, 200.0, 1),
        (1, 0, 200.0, 1),
        (1, 1, 0.0, 1),
        (1, 1, float("nan"), 1),
        (1, 1, 200.0, 0.0),
        (1, 1, 200.0, float("nan")),
    ],
)
def test_nonsense_is_refused(latency: int, interval: int, clock_mhz: float, items: float) -> None:
    with pytest.raises(UserError) as caught:
        need(ATLAS_LAR, latency, interval, clock_mhz, items)
    assert str(caught.value) == (
        f"budget {ATLAS_LAR.name}: a latency of {latency} cycles and {items:g} inputs per event, one every {interval} cycles at "
        f"{clock_mhz:g} MHz, make no sense; give a latency of 0 or more, an interval of 1 or more, and a positive clock and "
        "number of inputs"
    )
