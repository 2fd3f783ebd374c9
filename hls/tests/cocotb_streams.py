"""What every part with a stream at both ends must do; the cases come from the file named by the variable CASES."""

import json
import os
from pathlib import Path
from typing import Any

import cocotb

from hls.tests.streams import Link, cycles, report, reset, start, try_each

CASES = json.loads(Path(os.environ["CASES"]).read_text())
IDLE_CYCLES = 30
PATIENCE_CYCLES = 300
"""When no part takes or sends anything for so long, that was all."""
STALLS = ((0.5, 0.5), (0.1, 0.8), (0.8, 0.1), (0.0, 0.5), (0.5, 0.0))


class Instance(Link):
    """An instance with its case."""

    def __init__(self, dut: Any, number: int, test: str) -> None:
        self.case = CASES[number]
        what = f"{self.case['part']} {self.case['parameters']}"
        super().__init__(dut, f"c{number}", self.case["in_bits"], f"{test} {number}", what)
        self.expected = [beat for result in self.case["results"] for beat in result]

    def offer(self) -> None:
        """Give the sender all events."""
        self.send(beat for event in self.case["events"] for beat in event)

    def ends(self) -> None:
        """Require that not more beats come than should, as they might for ever."""
        assert len(self.receiver.beats) <= len(self.expected), f"more than {len(self.expected)} beats"

    def compare(self) -> None:
        got, want = self.receiver.beats, self.expected
        wrong = next((at for at, (a, b) in enumerate(zip(got, want, strict=False)) if a != b), min(len(got), len(want)))
        assert got == want, f"{len(got)} of {len(want)} beats; from {wrong}: {got[wrong:][:3]}, not {want[wrong:][:3]}"

    def keeps_time(self) -> None:
        """Require the latency and the throughput that the part claims."""
        case, got, per_event = self.case, self.receiver.cycles, len(self.case["results"][0])
        if case["leaves"]:
            assert got == case["leaves"], f"beats leave in {got}, not in {case['leaves']}"
            return
        assert got[0] == case["latency"], f"latency {got[0]} cycles, not {case['latency']}"
        periods = {later - earlier for earlier, later in zip(got, got[per_event:], strict=False)}
        assert periods == {case["cycles"]}, f"{periods} cycles per event, not {case['cycles']}"

    def holds(self) -> None:
        """Require that as many beats were taken as the part claims to hold."""
        low, high = self.case["capacity"]
        assert low <= len(self.sender.taken) <= high, f"{len(self.sender.taken)} beats taken"


def all_instances(dut: Any, test: str) -> list[Instance]:
    return [Instance(dut, number, test) for number in range(len(CASES))]


async def arrive(dut: Any, instances: list[Instance]) -> None:
    """Run until nothing more arrives, then compare."""
    before = -1
    while before != (before := sum(len(instance.sender.taken) + len(instance.receiver.beats) for instance in instances)):
        await cycles(dut, instances, PATIENCE_CYCLES)
        try_each(instances, Instance.ends)
    for instance in instances:
        instance.receiver.stall = 0.0
    await cycles(dut, instances, IDLE_CYCLES)
    try_each(instances, Instance.compare)


@cocotb.test()
async def random_stalls(dut: Any) -> None:
    """All results arrive, in order, whatever the two ends do."""
    instances = all_instances(dut, "stalls")
    await start(dut, instances)
    for pair in STALLS:
        await reset(dut, instances)
        for instance in instances:
            instance.offer()
            instance.stalls(*pair)
        await arrive(dut, instances)
    report(instances)


@cocotb.test()
async def full_speed(dut: Any) -> None:
    """Without stalls latency and throughput are as claimed."""
    instances = all_instances(dut, "speed")
    await start(dut, instances)
    for instance in instances:
        instance.offer()
    total = max(max([case["latency"] + case["cycles"] * len(case["events"]), *case["leaves"]]) for case in CASES)
    await cycles(dut, instances, total + IDLE_CYCLES)
    try_each(instances, Instance.compare)
    try_each(instances, Instance.keeps_time)
    report(instances)


@cocotb.test()
async def nothing_is_taken_that_does_not_fit(dut: Any) -> None:
    """While no output leaves, a part takes what it claims to hold; then all of it arrives."""
    instances = all_instances(dut, "capacity")
    await start(dut, instances)
    for instance in instances:
        instance.offer()
        instance.stalls(0.0, 1.0)
    await cycles(dut, instances, max(4 * case["cycles"] + 2 * case["latency"] for case in CASES) + IDLE_CYCLES)
    try_each(instances, Instance.holds)
    for instance in instances:
        instance.stalls(0.0, 0.0)
    await arrive(dut, instances)
    report(instances)


@cocotb.test()
async def reset_in_the_middle(dut: Any) -> None:
    """After a reset nothing of before comes out, and the next event is whole."""
    instances = all_instances(dut, "reset")
    await start(dut, instances)
    for length in (1, 2, 3, 5, 8, 13, 21):
        for instance in instances:
            instance.offer()
            instance.stalls(0.2, 0.7)
        await cycles(dut, instances, length)
        await reset(dut, instances)
        await cycles(dut, instances, IDLE_CYCLES)

        def empty(instance: Instance, length: int = length) -> None:
            assert not instance.receiver.beats, f"stale data after {length} cycles and a reset"

        try_each(instances, empty)
        if length in (3, 21):
            for instance in instances:
                instance.offer()
            await arrive(dut, instances)
    report(instances)
