"""What `caloedge_dispatch` and `caloedge_gather` must do around lanes that work in any order; the pairs come from CASES.

The lanes are Python: each keeps what it takes for a random time, and passes it on in its own order. So results of an event
arrive in any order, but its end never before all of them.
"""

import json
import os
import random
from pathlib import Path
from typing import Any

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly

from hls.tests.streams import Receiver, Sender, report, try_each

PAIRS = json.loads(Path(os.environ["CASES"]).read_text())
IDLE_CYCLES = 30
PATIENCE_CYCLES = 100
"""When nothing moves for so long, that was all."""


class Patient(Receiver):
    """Ready only for a beat that it has already seen, as a part is that reads a beat in place."""

    def drive(self) -> None:
        super().drive()
        self.willing = self.willing and self.held is not None
        self.ready.value = int(self.willing)


class Pair:
    """Both parts with lanes between them; a rule that is broken is noted, and the pair no longer looked at."""

    def __init__(self, dut: Any, number: int, test: str, patient: bool = False) -> None:
        self.settings = PAIRS[number]
        self.name = f"p{number}"
        self.what = f"{self.settings['dispatch']} and {self.settings['gather']} with {self.settings['lanes']} lanes"
        self.rng = random.Random(f"{test} {number}")
        self.rst = getattr(dut, f"{self.name}_rst")
        self.sender = Sender(dut, self.name, self.settings["width"] + 1, self.rng)
        kind = Patient if patient else Receiver
        lanes = range(self.settings["lanes"])
        self.into = [kind(dut, f"{self.name}_lane{lane}", self.rng) for lane in lanes]
        self.out_of = [Sender(dut, f"{self.name}_lane{lane}", self.settings["width"], self.rng) for lane in lanes]
        self.receiver, self.end = Receiver(dut, self.name, self.rng), Receiver(dut, f"{self.name}_end", self.rng)
        self.forget()
        self.wrong = ""

    def forget(self) -> None:
        self.work: list[list[tuple[int, int]]] = [[] for _ in self.into]
        self.longest = 0
        self.arrived: list[list[int]] = [[]]
        """Results taken since the last end."""
        for sender in (self.sender, *self.out_of):
            sender.waiting.clear()
            sender.taken.clear()
            sender.offering = False
        for receiver in (*self.into, self.receiver, self.end):
            receiver.beats.clear()
            receiver.cycles.clear()
            receiver.held = None

    def offer(self) -> None:
        last = 1 << self.settings["width"]
        self.sender.waiting.extend(beat for event in self.settings["events"] for beat in (*event, last))

    def stalls(self, sender: float, lanes: float, receiver: float, longest: int) -> None:
        """Set how often each end stalls, and the most cycles that a lane works on a payload."""
        self.sender.stall, self.receiver.stall, self.end.stall, self.longest = sender, receiver, receiver, longest
        for lane in (*self.into, *self.out_of):
            lane.stall = lanes

    def moved(self) -> int:
        return sum(len(end.beats) for end in (*self.into, self.receiver, self.end)) + len(self.sender.taken)

    def drive(self, cycle: int) -> None:
        for lane, work in enumerate(self.work):
            while work and work[0][0] <= cycle:
                self.out_of[lane].waiting.append(work.pop(0)[1])
        for end in (self.sender, *self.into, *self.out_of, self.receiver, self.end):
            end.drive()

    def sample(self, cycle: int) -> None:
        self.sender.sample(cycle)
        offered = [lane for lane, receiver in enumerate(self.into) if int(receiver.valid.value)]
        assert len(offered) <= 1, f"cycle {cycle}: a payload is offered to lanes {offered}"
        for lane, receiver in enumerate(self.into):
            before = len(receiver.beats)
            receiver.sample(cycle)
            if len(receiver.beats) > before:
                self.work[lane].append((cycle + self.rng.randint(0, self.longest), receiver.beats[-1]))
            self.out_of[lane].sample(cycle)
        before = len(self.receiver.beats)
        self.receiver.sample(cycle)
        self.arrived[-1] += self.receiver.beats[before:]
        before = len(self.end.beats)
        self.end.sample(cycle)
        if len(self.end.beats) > before:
            self.arrived.append([])

    def compare(self) -> None:
        """Require that each event arrived whole before its end."""
        want = [sorted(event) for event in self.settings["events"]]
        got = [sorted(event) for event in self.arrived]
        wrong = (
            next((at for at, event in enumerate(want) if event != got[at]), len(want)) if len(got) > len(want) else len(got) - 1
        )
        assert got == [*want, []], f"{len(got) - 1} of {len(want)} events; wrong from event {wrong}"


async def cycles(dut: Any, pairs: list[Pair], count: int, first: int = 0, reset: bool = False) -> None:
    for cycle in range(first, first + count):
        await FallingEdge(dut.clk)
        for pair in pairs:
            pair.rst.value = int(reset)
            pair.drive(cycle)
        if not reset:
            await ReadOnly()
            try_each(pairs, lambda pair, cycle=cycle: pair.sample(cycle))


async def reset(dut: Any, pairs: list[Pair]) -> None:
    """Reset for one cycle while beats are offered and taken, then forget all of it."""
    for pair in pairs:
        pair.forget()
        pair.stalls(0.0, 0.0, 0.0, 0)
        for sender in (pair.sender, *pair.out_of):
            sender.waiting.append(0)
    await cycles(dut, pairs, 1, reset=True)
    for pair in pairs:
        pair.forget()


async def start(dut: Any, test: str, patient: bool = False) -> list[Pair]:
    pairs = [Pair(dut, number, test, patient) for number in range(len(PAIRS))]
    cocotb.start_soon(Clock(dut.clk, 2, "ns").start())
    await reset(dut, pairs)
    return pairs


async def arrive(dut: Any, pairs: list[Pair], first: int = 0) -> None:
    """Run until nothing more moves, then compare."""
    before = -1
    while before != (before := sum(pair.moved() for pair in pairs)):
        await cycles(dut, pairs, PATIENCE_CYCLES, first)
        first += PATIENCE_CYCLES
    try_each(pairs, Pair.compare)


@cocotb.test()
async def random_lanes(dut: Any) -> None:
    """All payloads of an event arrive before its end, whatever the lanes do."""
    pairs = await start(dut, "random")
    for stalls in ((0.5, 0.5, 0.5, 20), (0.0, 0.8, 0.0, 0), (0.0, 0.0, 0.7, 5)):
        await reset(dut, pairs)
        for pair in pairs:
            pair.offer()
            pair.stalls(*stalls)
        await arrive(dut, pairs)
    report(pairs)


@cocotb.test()
async def patient_lanes(dut: Any) -> None:
    """A lane that is ready only for a beat that it sees gets one."""
    pairs = await start(dut, "patient", patient=True)
    for pair in pairs:
        pair.offer()
        pair.stalls(0.1, 0.3, 0.1, 10)
    await arrive(dut, pairs)
    report(pairs)


@cocotb.test()
async def full_speed(dut: Any) -> None:
    """Ready lanes get one payload per cycle in turn; as many results leave, in turn again."""
    pairs = await start(dut, "speed")
    count = 48
    for pair in pairs:
        pair.sender.waiting.extend(at % (1 << pair.settings["width"]) for at in range(count))
        pair.longest = 10**6  # the lanes keep what they get
    await cycles(dut, pairs, count + IDLE_CYCLES)

    def in_turn(pair: Pair) -> None:
        lanes, most = pair.settings["lanes"], min(count, (1 << pair.settings["count_bits"]) - 1)
        got = sorted(
            (cycle, lane, beat) for lane, end in enumerate(pair.into) for cycle, beat in zip(end.cycles, end.beats, strict=True)
        )
        want = [(2 + at, at % lanes, at % (1 << pair.settings["width"])) for at in range(most)]
        assert got == want, f"lanes take (cycle, lane, payload) {got}, not {want}"

    try_each(pairs, in_turn)
    await reset(dut, pairs)
    for pair in pairs:
        for lane, sender in enumerate(pair.out_of):
            sender.waiting.extend([lane % (1 << pair.settings["width"])] * 8)
    await cycles(dut, pairs, 8 * max(pair.settings["lanes"] for pair in pairs) + IDLE_CYCLES)

    def one_after_the_other(pair: Pair) -> None:
        lanes = pair.settings["lanes"]
        taken = sorted((cycle, lane) for lane, sender in enumerate(pair.out_of) for cycle in sender.taken)
        assert taken == [(at, at % lanes) for at in range(8 * lanes)], f"gather takes (cycle, lane) {taken}"
        assert pair.receiver.cycles == [1 + at for at in range(8 * lanes)], f"results leave in cycles {pair.receiver.cycles}"

    try_each(pairs, one_after_the_other)
    report(pairs)


@cocotb.test()
async def a_busy_lane_is_left_out(dut: Any) -> None:
    """While one lane takes nothing, the others get all that they can take."""
    pairs = await start(dut, "busy")
    several = [pair for pair in pairs if pair.settings["lanes"] > 1]
    for busy in (0, 1, -1):
        await reset(dut, pairs)
        for pair in several:
            pair.offer()
            pair.into[busy].stall = 1.0
        await arrive(dut, several)
    report(pairs)


@cocotb.test()
async def nothing_is_taken_that_does_not_fit(dut: Any) -> None:
    """While no lane takes anything, dispatch holds three beats; while no result leaves, gather holds two, and the turn stays."""
    pairs = await start(dut, "capacity")
    for pair in pairs:
        pair.sender.waiting.extend([0] * 9)
        for lane, sender in enumerate(pair.out_of):
            sender.waiting.extend([lane % (1 << pair.settings["width"])] * 4)
        pair.stalls(0.0, 0.0, 1.0, 0)
        for lane in pair.into:
            lane.stall = 1.0
    await cycles(dut, pairs, IDLE_CYCLES)

    def held(pair: Pair) -> None:
        taken = len(pair.sender.taken), sum(len(sender.taken) for sender in pair.out_of)
        assert taken == (3, 2), f"dispatch takes {taken[0]} beats, gather {taken[1]}"

    try_each(pairs, held)
    for pair in pairs:
        pair.receiver.stall = 0.0
    await cycles(dut, pairs, 4 * max(pair.settings["lanes"] for pair in pairs) + IDLE_CYCLES, IDLE_CYCLES)

    def in_turn(pair: Pair) -> None:
        lanes = pair.settings["lanes"]
        taken = sorted((cycle, lane) for lane, sender in enumerate(pair.out_of) for cycle in sender.taken)
        assert [lane for _, lane in taken] == [*range(lanes)] * 4, f"gather takes (cycle, lane) {taken}"

    try_each(pairs, in_turn)
    report(pairs)


@cocotb.test()
async def reset_in_the_middle(dut: Any) -> None:
    """After a reset nothing of before comes out, and the next events are whole."""
    pairs = await start(dut, "reset")
    for length in (1, 2, 3, 5, 8, 13, 21):
        for pair in pairs:
            pair.offer()
            pair.stalls(0.1, 0.3, 0.5, 5)
        await cycles(dut, pairs, length)
        await reset(dut, pairs)
        await cycles(dut, pairs, IDLE_CYCLES)

        def silent(pair: Pair) -> None:
            assert not pair.moved(), "stale data after a reset"

        try_each(pairs, silent)
        if length in (3, 21):
            for pair in pairs:
                pair.offer()
            await arrive(dut, pairs)
            await reset(dut, pairs)
    report(pairs)
