"""What every part without ready must do; the flows come from the file named by the variable CASES."""

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

from hls.tests.streams import report, try_each

FLOWS = json.loads(Path(os.environ["CASES"]).read_text())
LONGEST = max(delay for flow in FLOWS for _, delay, _ in flow["results"])
IDLE_CYCLES = LONGEST + 40


class Instance:
    """An instance with its flow: sends beats, and knows in which cycles which results are due."""

    def __init__(self, dut: Any, number: int, test: str) -> None:
        self.flow = FLOWS[number]
        self.what, self.wrong = f"{self.flow['part']} {self.flow['parameters']}", ""
        self.rng = random.Random(f"{test} {number}")
        self.rst, self.in_valid, self.in_data, self.out_valid, self.out_data = (
            getattr(dut, f"c{number}_{port}") for port in ("rst", "in_valid", "in_data", "out_valid", "out_data")
        )
        self.waiting_for: dict[int, list[tuple[int, int]]] = {}
        for beat, delay, result in self.flow["results"]:
            self.waiting_for.setdefault(beat, []).append((delay, result))
        self.gap = 0.0
        self.forget()

    def forget(self) -> None:
        self.sent = len(self.flow["beats"])
        self.due: dict[int, int] = {}

    def offer(self, gap: float) -> None:
        """Start with the first beat; `gap` is the share of cycles without one."""
        self.sent, self.gap = 0, gap

    def drive(self, cycle: int, reset: bool) -> None:
        valid = self.sent < len(self.flow["beats"]) and self.rng.random() >= self.gap
        self.rst.value = int(reset)
        self.in_valid.value = int(valid or reset)
        self.in_data.value = self.flow["beats"][self.sent] if valid else self.rng.getrandbits(self.flow["in_bits"])
        if valid and not reset:
            self.due.update((cycle + delay, result) for delay, result in self.waiting_for.get(self.sent, []))
            self.sent += 1

    def words(self, result: int) -> Any:
        """Return a result in the form in which it is compared."""
        bits = self.flow["word_bits"]
        return sorted(result >> at & (1 << bits) - 1 for at in range(0, self.flow["out_bits"], bits)) if bits else result

    def sample(self, cycle: int) -> None:
        valid, want = int(self.out_valid.value), self.due.pop(cycle, None)
        assert bool(valid) == (want is not None), f"cycle {cycle}: valid is {valid}"
        if want is not None:
            got = int(self.out_data.value)
            assert self.words(got) == self.words(want), f"cycle {cycle}: {got:x}, not {want:x}, after {self.sent} beats"

    def finished(self) -> bool:
        return bool(self.wrong) or (self.sent == len(self.flow["beats"]) and not self.due)


class Bench:
    """All instances under one clock."""

    def __init__(self, dut: Any, test: str) -> None:
        self.dut, self.cycle = dut, 0
        self.instances = [Instance(dut, number, test) for number in range(len(FLOWS))]
        cocotb.start_soon(Clock(dut.clk, 2, "ns").start())

    async def step(self, reset: bool = False) -> None:
        await FallingEdge(self.dut.clk)
        for instance in self.instances:
            instance.drive(self.cycle, reset)
        await ReadOnly()
        if not reset:
            try_each(self.instances, lambda instance: instance.sample(self.cycle))
        self.cycle += 1

    async def reset(self) -> None:
        """Reset for one cycle while a beat is offered; then nothing of before may come out."""
        for instance in self.instances:
            instance.forget()
        await self.step(reset=True)

    async def until(self, done: Callable[[], bool]) -> None:
        while not done():
            await self.step()

    async def all_events(self, gap: float) -> None:
        for instance in self.instances:
            instance.offer(gap)
        await self.until(lambda: all(instance.finished() for instance in self.instances))
        for _ in range(IDLE_CYCLES):
            await self.step()


@cocotb.test()
async def without_gaps(dut: Any) -> None:
    """Beats come in every cycle."""
    bench = Bench(dut, "speed")
    await bench.reset()
    await bench.all_events(0.0)
    report(bench.instances)


@cocotb.test()
async def with_gaps(dut: Any) -> None:
    """Beats come whenever they like."""
    bench = Bench(dut, "gaps")
    for gap in (0.2, 0.7):
        await bench.reset()
        await bench.all_events(gap)
    report(bench.instances)


@cocotb.test()
async def reset_in_the_middle(dut: Any) -> None:
    """After a reset nothing of before comes out, and the next events are whole."""
    bench = Bench(dut, "reset")
    await bench.reset()
    for length in (1, 2, 5, 13, 34, 55, LONGEST):
        for instance in bench.instances:
            instance.offer(0.1)
        for _ in range(length):
            await bench.step()
        await bench.reset()
        for _ in range(IDLE_CYCLES):
            await bench.step()
    await bench.all_events(0.1)
    report(bench.instances)
