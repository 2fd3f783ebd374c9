"""What a built project costs on a device: open synthesis, routing where it can be had, and the vendor's tools where they are."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from caloedge import tools
from caloedge.catalog import Target, find
from caloedge.errors import MissingTool, UserError
from caloedge.files import locked
from caloedge.project import read_record
from caloedge.synthesis import vendor
from caloedge.synthesis.netlist import Cost, synthesise
from caloedge.synthesis.route import PROGRAMS, Routed, route

T = TypeVar("T")


@dataclass(frozen=True)
class Implemented:
    """All that is known of one project on one target; None for what no tool said."""

    target: str
    netlist: Cost | None = None
    routed: Routed | None = None
    vivado: vendor.Implementation | None = None
    vitis: vendor.CSynthesis | None = None
    remarks: tuple[str, ...] = ()
    """What could not be done, and why."""

    @property
    def found(self) -> bool:
        """Whether any tool said something."""
        return any((self.netlist, self.vivado, self.vitis))


def implement(folder: Path, target_name: str, route_limit_s: float, chipdb: Path | None = None) -> Implemented | None:
    """Run every tool that is there on a built project and keep what they find in its folder; None when there is none to run.

    Open tools take backend `rtl` alone; an hls4ml project needs the vendor's. What one tool cannot do is a remark, and does not
    lose what another found. Raises `UserError` while another process does the same.
    """
    with locked(folder / "synthesis"):
        return _implement(folder, target_name, route_limit_s, chipdb)


def _implement(folder: Path, target_name: str, route_limit_s: float, chipdb: Path | None) -> Implemented | None:
    target, remarks = find(Target, target_name), []

    def attempt(step: Callable[[], T]) -> T | None:
        try:
            return step()
        except UserError as problem:
            remarks.append(str(problem))
            return None

    if read_record(folder)["backend"] != "rtl":
        vitis = attempt(lambda: vendor.vitis_hls(folder))
        return Implemented(target_name, vitis=vitis, remarks=tuple(remarks)) if vitis or remarks else None
    netlist = attempt(lambda: synthesise(folder, target)) if target.family else None
    routed = None
    if netlist and target.family in PROGRAMS:
        routed = attempt(lambda: _routed(folder, target, route_limit_s, chipdb))
    vivado = attempt(lambda: vendor.vivado(folder, target)) if target.family != "ecp5" else None
    return Implemented(target_name, netlist, routed, vivado, None, tuple(remarks))


def _routed(folder: Path, target: Target, limit_s: float, chipdb: Path | None) -> Routed | None:
    """Route; a 7-series only where openXC7's router is on PATH, which is optional, and was given its device file."""
    if target.family == "xc7":
        try:
            tools.find(PROGRAMS[target.family])
        except MissingTool:
            return None
    return route(folder, target, time_limit_s=limit_s, chipdb=chipdb)
