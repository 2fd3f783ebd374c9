"""The two ends of a stream, for cocotb: both offer at random, check the rules of the handshake, and note the cycle.

Inputs change at the falling edge of the clock and are sampled, once everything has settled, before the rising edge: so it
does not matter when a simulator updates its registers, and paths from an input to an output within the cycle are seen.
"""

import random
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypeVar

import cocotb
from cocotb.clock import Clock
from cocotb.triggers import FallingEdge, ReadOnly


class Sender:
    """Sends beats; a stalled cycle shows no valid and any data."""

    def __init__(self, dut: Any, name: str, bits: int, rng: random.Random) -> None:
        self.valid, self.ready = getattr(dut, f"{name}_in_valid"), getattr(dut, f"{name}_in_ready")
        self.data, self.bits, self.rng = getattr(dut, f"{name}_in_data"), bits, rng
        self.waiting: deque[int] = deque()
        self.stall = 0.0
        self.offering = False
        self.taken: list[int] = []
        """Cycle in which each beat was taken."""

    def drive(self) -> None:
        self.offering = bool(self.waiting) and (self.offering or self.rng.random() >= self.stall)
        self.valid.value = int(self.offering)
        self.data.value = self.waiting[0] if self.offering else self.rng.getrandbits(self.bits)

    def sample(self, cycle: int) -> None:
        if self.offering and int(self.ready.value):
            self.waiting.popleft()
            self.taken.append(cycle)
            self.offering = False


class Receiver:
    """Takes beats; a beat that it did not take must stay."""

    def __init__(self, dut: Any, name: str, rng: random.Random) -> None:
        self.valid, self.ready = getattr(dut, f"{name}_out_valid"), getattr(dut, f"{name}_out_ready")
        self.data, self.rng = getattr(dut, f"{name}_out_data"), rng
        self.stall = 0.0
        self.willing = False
        self.held: int | None = None
        self.beats: list[int] = []
        self.cycles: list[int] = []
        """Cycle in which each beat was taken."""

    def drive(self) -> None:
        self.willing = self.rng.random() >= self.stall
        self.ready.value = int(self.willing)

    def sample(self, cycle: int) -> None:
        valid = int(self.valid.value)
        assert valid or self.held is None, f"cycle {cycle}: a beat that was not taken has gone"
        if not valid:
            return
        data = int(self.data.value)
        assert self.held is None or self.held == data, f"cycle {cycle}: a beat that was not taken has changed"
        self.held = None if self.willing else data
        if self.willing:
            self.beats.append(data)
            self.cycles.append(cycle)


class Watched(Protocol):
    """An instance under test; the first rule that it breaks is noted, and it is no longer looked at."""

    what: str
    wrong: str


Instance = TypeVar("Instance", bound=Watched)


def try_each(instances: Iterable[Instance], check: Callable[[Instance], None]) -> None:
    """Check every instance that has broken no rule yet."""
    for instance in instances:
        if not instance.wrong:
            try:
                check(instance)
            except AssertionError as error:
                instance.wrong = f"{instance.what} : {error}"


def report(instances: Iterable[Watched]) -> None:
    """Fail if any instance has broken a rule, and say which ones have."""
    wrong = [instance.wrong for instance in instances if instance.wrong]
    assert not wrong, "\n".join(wrong)


class Link:
    """A sender and a receiver around one instance."""

    def __init__(self, dut: Any, name: str, in_bits: int, seed: str, what: str) -> None:
        rng = random.Random(seed)
        self.what, self.wrong = what, ""
        self.rst = getattr(dut, f"{name}_rst")
        self.sender, self.receiver = Sender(dut, name, in_bits, rng), Receiver(dut, name, rng)

    def forget(self) -> None:
        """Drop what is under way, as a reset does."""
        self.sender.waiting.clear()
        self.sender.taken.clear()
        self.receiver.beats.clear()
        self.receiver.cycles.clear()
        self.sender.offering, self.receiver.held = False, None

    def send(self, beats: Iterable[int]) -> None:
        self.sender.waiting.extend(beats)

    def stalls(self, sender: float, receiver: float) -> None:
        self.sender.stall, self.receiver.stall = sender, receiver

    def sample(self, cycle: int) -> None:
        self.sender.sample(cycle)
        self.receiver.sample(cycle)


async def cycles(dut: Any, links: Sequence[Link], count: int, reset: bool = False) -> None:
    """Run `count` cycles; with `reset` the parts are held in reset and no beat counts."""
    for cycle in range(count):
        await FallingEdge(dut.clk)
        for link in links:
            link.rst.value = int(reset)
            link.sender.drive()
            link.receiver.drive()
        if reset:
            continue
        await ReadOnly()
        try_each(links, lambda link, cycle=cycle: link.sample(cycle))


async def start(dut: Any, links: Sequence[Link]) -> None:
    """Start the clock and reset once, with anything at the inputs."""
    cocotb.start_soon(Clock(dut.clk, 2, "ns").start())
    await reset(dut, links)


async def reset(dut: Any, links: Sequence[Link]) -> None:
    """Reset for one cycle while a beat is offered and taken, then forget all of it."""
    for link in links:
        link.forget()
        link.send([link.sender.rng.getrandbits(link.sender.bits)])
        link.stalls(0.0, 0.0)
    await cycles(dut, links, 1, reset=True)
    for link in links:
        link.forget()
