"""Beyond the contract that every target keeps: what synthesis and pipelining take from it."""

import dataclasses

import pytest

from caloedge.catalog import Target, find, names
from caloedge.synthesis.cells import TABLES
from caloedge.synthesis.route import PROGRAMS

EVERY = {name: find(Target, name) for name in names("target")}


def test_the_devices() -> None:
    assert set(EVERY) >= {"lfe5u_85", "xc7z020", "xcku115", "xcvu13p", "xcvu9p"}


@pytest.mark.parametrize("target", EVERY.values(), ids=EVERY)
def test_open_synthesis_knows_every_device(target: Target) -> None:
    assert target.family in TABLES
    assert {"LUT", "FF", "DSP", "BRAM_18K"} <= set(target.resources)
    if target.family != "ecp5":
        assert target.resources["FF"] == 2 * target.resources["LUT"]
    if target.family in PROGRAMS:
        assert target.device_options or set(target.pins) == {"clk", "data", "result"}


@pytest.mark.parametrize(("name", "adders"), [("xcvu13p", 5), ("xcvu9p", 5), ("xcku115", 4), ("xc7z020", 4), ("lfe5u_85", 4)])
def test_adders_between_two_registers(name: str, adders: int) -> None:
    assert EVERY[name].adders_per_stage() == adders


@pytest.mark.parametrize("target", EVERY.values(), ids=EVERY)
def test_a_slower_clock_never_allows_fewer_adders(target: Target) -> None:
    found = [target.adders_per_stage(clock_mhz) for clock_mhz in (1000, 400, 200, 100, 50, 25)]
    assert found == sorted(found)
    assert found[0] >= 1
    for clock_mhz in (25.0, 50.0, 75.0):
        adders = target.adders_per_stage(clock_mhz)
        period_ns = target.register_delay_ns + adders * target.adder_delay_ns
        assert period_ns <= 1e3 / clock_mhz < period_ns + target.adder_delay_ns


def test_the_ecp5_delays_are_those_that_were_routed() -> None:
    """Clocks that place and route reached with 1, 3 and 5 adders per stage; the two numbers describe them to 5 %."""
    target = EVERY["lfe5u_85"]
    for adders, clock_mhz in ((1, 232.0), (3, 111.5), (5, 75.0)):
        assert target.register_delay_ns + adders * target.adder_delay_ns == pytest.approx(1e3 / clock_mhz, rel=0.05)


def test_without_delays_every_adder_has_its_stage() -> None:
    unknown = dataclasses.replace(EVERY["xcvu13p"], register_delay_ns=0.0, adder_delay_ns=0.0)
    assert unknown.adders_per_stage() == unknown.adders_per_stage(1.0) == 1
