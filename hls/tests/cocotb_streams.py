"""What every part with a stream at both ends must do; the cases come from the file named by the variable CASES."""

import json
import os
from pathlib import Path
from typing import Any

import cocotb

from hls.tests.streams import Link, cycles, reset, start

CASES = json.loads(Path(os.environ["CASES"]).read_text())
IDLE_CYCLES = 30
PATIENCE_CYCLES = 300
"""When no part takes or sends anything for so long, that was all."""
STALLS = ((0.5, 0.5), (0.1, 0.8), (0.8, 0.1), (0.0, 0.5), (0.5, 0.0))


def links_of(dut: Any, test: str) -> list[Link]:
    return [Link(dut, f"c{number}", case["in_bits"], f"{test} {number}") for number, case in enumerate(CASES)]


def offer(links: list[Link]) -> None:
    """Give every sender all its events."""
    for link, case in zip(links, CASES, strict=True):
        link.send(beat for event in case["events"] for beat in event)


async def arrive(dut: Any, links: list[Link]) -> None:
    """Run until nothing more arrives, then compare."""
    expected = [[beat for result in case["results"] for beat in result] for case in CASES]
    before = -1
    while before != (before := sum(len(link.sender.taken) + len(link.receiver.beats) for link in links)):
        await cycles(dut, links, PATIENCE_CYCLES)
    for link in links:
        link.receiver.stall = 0.0
    await cycles(dut, links, IDLE_CYCLES)
    failed = []
    for case, link, want in zip(CASES, links, expected, strict=True):
        got, what = link.receiver.beats, f"{case['part']} {case['parameters']}"
        wrong = next((at for at, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), min(len(got), len(want)))
        if got != want:
            failed.append(f"{what}: {len(got)} of {len(want)} beats; from {wrong}: {got[wrong:][:3]}, not {want[wrong:][:3]}")
    assert not failed, "\n".join(failed)


@cocotb.test()
async def random_stalls(dut: Any) -> None:
    """All results arrive, in order, whatever the two ends do."""
    links = links_of(dut, "stalls")
    await start(dut, links)
    for pair in STALLS:
        await reset(dut, links)
        offer(links)
        for link in links:
            link.stalls(*pair)
        await arrive(dut, links)


@cocotb.test()
async def full_speed(dut: Any) -> None:
    """Without stalls latency and throughput are as claimed."""
    links = links_of(dut, "speed")
    await start(dut, links)
    offer(links)
    total = max(max([case["latency"] + case["cycles"] * len(case["events"]), *case["leaves"]]) for case in CASES)
    await cycles(dut, links, total + IDLE_CYCLES)
    for case, link in zip(CASES, links, strict=True):
        got, per_event = link.receiver.cycles, len(case["results"][0])
        assert link.receiver.beats == [beat for result in case["results"] for beat in result], (
            f"{case['part']} {case['parameters']}"
        )
        if case["leaves"]:
            assert got == case["leaves"], f"{case['part']} {case['parameters']}: beats leave in {got}, not in {case['leaves']}"
            continue
        assert got[0] == case["latency"], f"{case['part']} {case['parameters']}: latency {got[0]} cycles, not {case['latency']}"
        periods = {later - earlier for earlier, later in zip(got, got[per_event:], strict=False)}
        assert periods == {case["cycles"]}, (
            f"{case['part']} {case['parameters']}: {periods} cycles per event, not {case['cycles']}"
        )


@cocotb.test()
async def nothing_is_taken_that_does_not_fit(dut: Any) -> None:
    """While no output leaves, a part takes what it claims to hold; then all of it arrives."""
    links = links_of(dut, "capacity")
    await start(dut, links)
    offer(links)
    for link in links:
        link.stalls(0.0, 1.0)
    await cycles(dut, links, max(4 * case["cycles"] + 2 * case["latency"] for case in CASES) + IDLE_CYCLES)
    for case, link in zip(CASES, links, strict=True):
        low, high = case["capacity"]
        assert low <= len(link.sender.taken) <= high, f"{case['part']} {case['parameters']}: {len(link.sender.taken)} beats taken"
        link.stalls(0.0, 0.0)
    await arrive(dut, links)


@cocotb.test()
async def reset_in_the_middle(dut: Any) -> None:
    """After a reset nothing of before comes out, and the next event is whole."""
    links = links_of(dut, "reset")
    await start(dut, links)
    for length in (1, 2, 3, 5, 8, 13, 21):
        offer(links)
        for link in links:
            link.stalls(0.2, 0.7)
        await cycles(dut, links, length)
        await reset(dut, links)
        await cycles(dut, links, IDLE_CYCLES)
        assert not any(link.receiver.beats for link in links), f"stale data after {length} cycles and a reset"
        if length in (3, 21):
            offer(links)
            await arrive(dut, links)
