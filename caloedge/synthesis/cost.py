"""The cost of a built project on a device, by open synthesis and routing and by the vendor's tools where they are installed."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from caloedge import tools
from caloedge.catalog import Target, find
from caloedge.errors import MissingTool, Unsupported, UserError
from caloedge.files import locked
from caloedge.project import read_record
from caloedge.synthesis import vendor
from caloedge.synthesis.netlist import NetlistCost, synthesise
from caloedge.synthesis.route import PROGRAMS, RoutingResult, route
from caloedge.synthesis.rtl import alone, read

T = TypeVar("T")


@dataclass(frozen=True)
class ImplementationResult:
    """The results of all tools for one project on one target; None for a tool that gave none."""

    target: str
    netlist: NetlistCost | None = None
    routed: RoutingResult | None = None
    vivado: vendor.Implementation | None = None
    vitis: vendor.CSynthesis | None = None
    remarks: tuple[str, ...] = ()
    """Reasons for each step that could not be done."""
    broken: tuple[str, ...] = ()
    """The remarks about a tool that ran and failed, as opposed to one that is missing or does not know the device."""
    clock_mhz: float | None = None
    """Requested clock [MHz], where it is not the target's own."""

    @property
    def has_result(self) -> bool:
        """Whether any tool gave a result."""
        return any((self.netlist, self.vivado, self.vitis))

    @property
    def requested_mhz(self) -> float:
        """The clock that was requested."""
        return self.clock_mhz or find(Target, self.target).clock_mhz

    @property
    def failures(self) -> tuple[str, ...]:
        """Steps that were tried and failed, each with its cure; empty when none failed."""
        problems = list(self.broken)
        if self.routed and self.routed.fmax_mhz is None:
            reason = self.routed.reason  # which may name the step itself
            problems.append(f"{reason if 'did not finish' in reason else f'not routed: {reason}'}; {_cure(reason)}")
        for tool, fmax_mhz in self._clocks():
            if fmax_mhz < self.requested_mhz:
                problems.append(
                    f"{tool} reached {fmax_mhz:.1f} MHz, below the {self.requested_mhz:g} MHz asked for; ask for less with "
                    "--clock-mhz, into another folder"
                )
        return tuple(problems)

    @property
    def unrouted(self) -> str:
        """Why a synthesised design was not routed; empty where a router was tried."""
        if not self.netlist or self.routed or self.vivado or self.remarks:
            return ""
        target = find(Target, self.target)
        router = PROGRAMS.get(target.family)
        lacks = f"{router} is not on PATH" if router else f"no open router for {target.part} (family {target.family})"
        return f"not routed: {lacks}; the clock of {self.requested_mhz:g} MHz is only requested"

    def _clocks(self) -> list[tuple[str, float]]:
        """Return the clock of each tool that routed the design."""
        clocks = [("place and route", self.routed.fmax_mhz)] if self.routed and self.routed.fmax_mhz is not None else []
        return clocks + ([("Vivado", self.vivado.timing.fmax_mhz)] if self.vivado else [])


def _cure(reason: str) -> str:
    """Return the cure for a design that was not routed."""
    if "did not finish" in reason:
        return "give it longer with --route-limit-s: what is done is kept, and the command goes on"
    if "does not fit" in reason:
        return "take a larger device, or fold layers with --variant auto and --layer NAME=streaming:REUSE"
    return "see its log under synthesis/ in the project"


def implement(
    folder: Path,
    target_name: str,
    route_limit_s: float,
    chipdb: Path | None = None,
    clock_mhz: float | None = None,
    block: str | None = None,
) -> ImplementationResult | None:
    """Run every tool that is there on a built project and keep what they find in its folder; None when there is none to run.

    `block` names the only block that is taken, by the open tools. These take backend `rtl` alone; an hls4ml project needs the
    vendor's. What one tool cannot do is a remark, and does not lose what another found. Raises `UserError` while another process
    does the same, and `UnknownName` for a block that is not there.
    """
    with locked(folder / "synthesis"):
        return _implement(folder, target_name, route_limit_s, chipdb, clock_mhz, block)


def _implement(
    folder: Path, target_name: str, route_limit_s: float, chipdb: Path | None, clock_mhz: float | None, block: str | None
) -> ImplementationResult | None:
    target, remarks, broken = find(Target, target_name), [], []
    if block is not None:
        alone(read(folder), block)  # what is not there is the caller's mistake, not a tool's
    target = replace(target, clock_mhz=clock_mhz or target.clock_mhz)

    def attempt(step: Callable[[], T]) -> T | None:
        try:
            return step()
        except UserError as problem:
            remarks.append(str(problem))
            if not isinstance(problem, MissingTool | Unsupported):
                broken.append(str(problem))
            return None

    backend = read_record(folder)["backend"]
    if backend != "rtl":
        vitis = attempt(lambda: vendor.vitis_hls(folder)) if backend == "hls4ml" else None
        result = ImplementationResult(target_name, vitis=vitis, remarks=tuple(remarks), broken=tuple(broken), clock_mhz=clock_mhz)
        return result if vitis or remarks else None
    netlist = attempt(lambda: synthesise(folder, target, block=block)) if target.family else None
    routed = None
    if netlist and target.family in PROGRAMS:
        routed = attempt(lambda: _route(folder, target, route_limit_s, chipdb, block))
    vivado = attempt(lambda: vendor.vivado(folder, target)) if target.family != "ecp5" and block is None else None
    return ImplementationResult(target_name, netlist, routed, vivado, None, tuple(remarks), tuple(broken), clock_mhz)


def _route(folder: Path, target: Target, limit_s: float, chipdb: Path | None, block: str | None) -> RoutingResult | None:
    """Route; a 7-series only where openXC7's router is on PATH, which is optional, and was given its device file."""
    if target.family == "xc7":
        try:
            tools.find(PROGRAMS[target.family])
        except MissingTool:
            return None
    return route(folder, target, time_limit_s=limit_s, chipdb=chipdb, block=block)
