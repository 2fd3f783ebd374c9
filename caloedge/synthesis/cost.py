"""What a built project costs on a device: open synthesis, routing where it can be had, and the vendor's tools where they are."""

from dataclasses import dataclass
from pathlib import Path

from caloedge import tools
from caloedge.catalog import Target, find
from caloedge.errors import MissingTool
from caloedge.project import read_record
from caloedge.synthesis import vendor
from caloedge.synthesis.netlist import Cost, synthesise
from caloedge.synthesis.route import PROGRAMS, Routed, route


@dataclass(frozen=True)
class Implemented:
    """All that is known of one project on one target; None for what no tool said."""

    target: str
    netlist: Cost | None
    routed: Routed | None
    vivado: vendor.Implementation | None
    vitis: vendor.CSynthesis | None


def implement(folder: Path, target_name: str, route_limit_s: float) -> Implemented | None:
    """Run every tool that is there on a built project and keep what they find in its folder; None when there is none to run.

    Open tools take backend `rtl` alone; an hls4ml project needs the vendor's.
    """
    target = find(Target, target_name)
    if read_record(folder)["backend"] != "rtl":
        found = vendor.vitis_hls(folder)
        return Implemented(target_name, None, None, None, found) if found else None
    netlist = synthesise(folder, target) if target.family else None
    routed = route(folder, target, time_limit_s=route_limit_s) if netlist and _can_route(target) else None
    vivado = vendor.vivado(folder, target) if target.family != "ecp5" else None
    return Implemented(target_name, netlist, routed, vivado, None)


def _can_route(target: Target) -> bool:
    """Tell whether a router for the family is there; openXC7's is optional, that of the ECP5 comes from pip."""
    if target.family not in PROGRAMS:
        return False
    if target.family == "ecp5":
        return True
    try:
        tools.find(PROGRAMS[target.family])
    except MissingTool:
        return False
    return True
