"""Open place and route: the clock that a design really reaches on a device, or the reason why there is none.

The design has far more ports than the device has pins, and paths from and to pins are not timed. So all its inputs are fed
from one long shift register and all its outputs go through registers into another one: every path of the design runs from
register to register, and nothing can be optimised away.
"""

import json
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from caloedge import tools
from caloedge.catalog import Target
from caloedge.errors import BadData, MissingTool, Unsupported, UserError
from caloedge.files import write_text
from caloedge.progress import progress
from caloedge.results import Number
from caloedge.synthesis import cells, netlist
from caloedge.synthesis.rtl import CLOCK, ModulePort, Project, alone, read

WRAPPER = "caloedge_route"
PROGRAMS = {"ecp5": "nextpnr-ecp5", "xc7": "nextpnr-xilinx"}
"""The router of each family."""
ALGORITHM = {"ecp5": ("--router", "router2"), "xc7": ()}
"""On wide multiply–accumulate arrays the ECP5's default router takes hours where this one takes minutes."""


@dataclass(frozen=True)
class RoutingResult:
    """The result of place and route."""

    fmax_mhz: float | None
    """The clock that all paths allow, `routed`; None when it was not routed."""
    reason: str
    """Why it was not routed; empty when it was."""
    used: Mapping[str, int]
    """Cells of each kind, the shift registers around the design included; empty when it was not routed."""
    available: Mapping[str, int]
    """Cells of the same kinds that the device has."""
    clock_mhz: float
    """Clock requested of the router [MHz]."""
    seed: int
    time_limit_s: float
    """Time limit of each program [s]."""
    seconds: float
    """Wall time of place and route, now or earlier."""
    tool: str

    @property
    def routed(self) -> bool:
        """Whether place and route finished with a clock."""
        return self.fmax_mhz is not None

    def __str__(self) -> str:
        return f"{self.fmax_mhz:.1f} MHz (routed)" if self.fmax_mhz is not None else f"not routed: {self.reason}"

    def numbers(self) -> tuple[tuple[str, Number], ...]:
        """Return the clock as a number with its origin; nothing when it was not routed."""
        if self.fmax_mhz is None:
            return ()
        note = f"{self.tool}, seed {self.seed}"
        return (("Fmax", Number(value=round(self.fmax_mhz, 1), unit="MHz", origin="routed", note=note)),)


# Text: pure functions


def wrapper(top: str, ports: tuple[ModulePort, ...]) -> str:
    """Return Verilog that gives a design three pins: its inputs come from a shift register, its outputs go into another."""
    inputs = [port for port in ports if port.direction == "input" and port.name != CLOCK]
    outputs = [port for port in ports if port.direction == "output"]
    if not inputs or not outputs:
        raise BadData(f"{top}: nothing to route between registers; a design needs an input besides {CLOCK} and an output")
    n_in, n_out = (sum(port.width for port in group) for group in (inputs, outputs))
    wires = [*_connections(inputs, "fed"), *_connections(outputs, "out")]
    # a register of one bit is no special case: the shifted value is cut to its width
    return f"""\
// Every path of {top} from register to register: {n_in} input bits from a shift register, {n_out} output bits into another.
module {WRAPPER} (input {CLOCK}, input data, output reg result);
  reg [{n_in - 1}:0] fed;
  wire [{n_out - 1}:0] out;
  reg [{n_out - 1}:0] seen;
  reg [{n_out - 1}:0] folded;
  always @(posedge {CLOCK}) begin
    fed <= (fed << 1) | data;
    seen <= out;
    folded <= (folded << 1) ^ seen;
    result <= folded[{n_out - 1}];
  end
  {top} design (
    .{CLOCK}({CLOCK}),
    {f",{chr(10)}    ".join(wires)}
  );
endmodule
"""


def _connections(ports: list[ModulePort], vector: str) -> list[str]:
    connections, low = [], 0
    for port in ports:
        connections.append(f".{port.name}({vector}[{low + port.width - 1}:{low}])")
        low += port.width
    return connections


def netlist_script(family: str, paths: list[str], output: str) -> str:
    """Return the synthesiser's script for the whole design, flat, as a netlist in JSON."""
    settings, synth = netlist.synthesis_commands(family)
    reads = [netlist.read_command(path) for path in paths]
    return "\n".join([*reads, *settings, f"{synth} -top {WRAPPER} -json {output}", ""])


def pin_constraints(pins: Mapping[str, str]) -> str:
    """Return the placement of the wrapper's pins, for routers that do not choose them."""
    return "".join(
        f"set_property LOC {pin} [get_ports {{{port}}}]\nset_property IOSTANDARD LVCMOS33 [get_ports {{{port}}}]\n"
        for port, pin in pins.items()
    )


# Reports


def parse_report(text: str, source: str) -> tuple[float, dict[str, int], dict[str, int]]:
    """Return (fmax in MHz, used, available) from the router's report in JSON."""
    try:
        report = json.loads(text)
        clocks = {name: float(clock["achieved"]) for name, clock in report["fmax"].items()}
        rows = report["utilization"].items()
        used = {str(name): int(row["used"]) for name, row in rows if row["used"]}
        available = {str(name): int(row["available"]) for name, row in rows if row["used"]}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadData(f"{source}: not a report of place and route (fmax and utilization in JSON)") from None
    if len(clocks) != 1:
        raise BadData(f"{source}: has {len(clocks)} clocks, but a routed design has one; look into the log beside it")
    return next(iter(clocks.values())), used, available


_LOG_FMAX = re.compile(r"Max frequency for clock\s+'[^']*':\s*([\d.]+) MHz")
_LOG_USED = re.compile(r"^Info:\s+(\w+):\s*(\d+)\s*/\s*(\d+)\s+\d+%", re.MULTILINE)


def parse_log(text: str, source: str) -> tuple[float, dict[str, int], dict[str, int]]:
    """Return (fmax in MHz, used, available) from the router's log, for a router without reports; the last word counts."""
    if not (clocks := _LOG_FMAX.findall(text)):
        raise BadData(f"{source}: no line 'Max frequency for clock', so it was not routed; see its end")
    rows = [(name, int(used), int(has)) for name, used, has in _LOG_USED.findall(text) if int(used)]
    return float(clocks[-1]), {name: used for name, used, _ in rows}, {name: has for name, _, has in rows}


def overflow(resources: Mapping[str, int], target: Target) -> str:
    """Return what does not fit on a device and by how much; empty when all does."""
    over = [name for name, part in netlist.utilisation(resources, target).items() if part > 1]
    return ", ".join(f"{resources[name]:,} {name} of {target.resources.get(name, 0):,}" for name in sorted(over))


# Running


def route(
    folder: Path,
    target: Target,
    *,
    time_limit_s: float,
    seed: int = 1,
    workers: int = 1,
    chipdb: Path | None = None,
    block: str | None = None,
) -> RoutingResult:
    """Place and route an RTL project, or one block of it, and return its clock, or why there is none.

    `time_limit_s` is given to each program that runs: the synthesis of a block, of the whole design, and place and route.
    `chipdb` is the device file that the 7-series router needs. Results are kept under `synthesis/<family>/`, also that a
    limit was too short: it is tried again only with a longer one. Raises `MissingTool`, `BadData` and `Unsupported`; a design
    that the router cannot finish is a result with a reason, and a failing synthesis is a `UserError`.
    """
    project = read(folder) if block is None else alone(read(folder), block)
    router = _router(target, chipdb)
    yosys = tools.newest("yosys")
    text = wrapper(project.top, project.ports)
    content = netlist.digest(netlist.content_digest(project, project.needed(project.top), text), str(yosys))
    options = [
        *target.device_options,
        *ALGORITHM.get(target.family, ()),
        repr(sorted(target.resources.items())),
        str(chipdb or ""),
        repr(sorted(target.pins.items())),
        f"{target.clock_mhz:g}",
        str(seed),
    ]
    key = netlist.digest(content, str(router), *options)
    record_path = folder / f"{netlist.FOLDER}/{target.family}/route-{key[:12]}.json"
    if (earlier := _cached(record_path, key, time_limit_s)) is not None:
        return earlier
    start = time.monotonic()
    fmax: float | None = None
    used: dict[str, int] = {}
    available: dict[str, int] = {}
    step, over_time = "synthesis of a block", False
    try:
        if not (reason := _overflow_of_blocks(folder, target, time_limit_s, workers, block)):
            step = "synthesis of the whole design"
            with progress(f"place and route on {target.part}", 2) as advance:
                name, reason = _netlist(project, target, text, content, yosys, time_limit_s)
                advance(1)
                if not reason:
                    step = "place and route"
                    fmax, used, available = _place_and_route(project, target, router, name, key, time_limit_s, seed, chipdb)
                advance(1)
    except tools.Overtime:
        reason, over_time = f"{step} did not finish within the time limit of {time_limit_s:g} s", True
    except _RouterFailed as error:
        reason = str(error)
    seconds = round(time.monotonic() - start, 1)
    result = RoutingResult(fmax, reason, used, available, target.clock_mhz, seed, time_limit_s, seconds, str(router))
    # not kept: a crash, which may have been an accident, and a block, whose synthesis keeps its own results
    if fmax is not None or reason.startswith("does not fit") or (over_time and step != "synthesis of a block"):
        write_text(record_path, json.dumps({"digest": key, "over_time": over_time, **vars(result)}, indent=1) + "\n")
    return result


class _RouterFailed(Exception):
    """The router ended with an error."""


def _router(target: Target, chipdb: Path | None) -> tools.Program:
    if (name := PROGRAMS.get(target.family)) is None:
        raise Unsupported(
            f"target {target.part}: no open place and route for family {target.family!r}; route for one of: "
            f"{', '.join(PROGRAMS)}, or use the vendor's tools"
        )
    router = tools.newest(name)
    if target.family == "xc7":
        if chipdb is None or not chipdb.is_file():
            raise MissingTool(
                f"{name} needs the device file of {target.part}; build it with the openXC7 project and give it as chipdb"
            )
        if not target.pins:
            raise Unsupported(
                f"target {target.part}: {name} needs the pins of clk, data and result; set `pins` in the target file"
            )
    return router


def _overflow_of_blocks(folder: Path, target: Target, time_limit_s: float, workers: int, block: str | None) -> str:
    """Return why a design cannot fit, from its blocks' synthesis; empty when it may."""
    cost = netlist.synthesise(folder, target, timeout_s=time_limit_s, workers=workers, block=block)
    over = overflow(cost.resources, target)
    return f"does not fit: {over} (synthesised block by block)" if over else ""


def _netlist(
    project: Project, target: Target, text: str, content: str, yosys: tools.Program, time_limit_s: float
) -> tuple[str, str]:
    """Synthesise the whole design flat; return its netlist's name, relative to the project, and why it does not fit."""
    base = f"{netlist.FOLDER}/{target.family}/{WRAPPER}"
    paths = [source.path for source in project.needed(project.top)] + [f"{base}.v"]
    script = netlist_script(target.family, paths, f"{base}.part")
    stem = f"{base}-{netlist.digest(content, script)[:12]}"
    statistics, result = project.folder / f"{stem}.stat.json", project.folder / f"{stem}.netlist.json"
    if not (result.is_file() and statistics.is_file()):
        write_text(project.folder / f"{base}.v", text)
        script += f"tee -q -o {stem}.stat.json stat -json\n"
        netlist.run_script(yosys, project.folder, stem, script, "whole design", time_limit_s)
        if not statistics.is_file():
            raise BadData(f"{statistics} was not written by {yosys}; see {stem}.log beside it")
        (project.folder / f"{base}.part").replace(result)
    cell_numbers = netlist.cell_counts(statistics.read_text(encoding="utf-8"), str(statistics))
    over = overflow(cells.count(cell_numbers, target.family, str(statistics)), target)
    return f"{stem}.netlist.json", f"does not fit: {over} (synthesised flat)" if over else ""


def _place_and_route(
    project: Project,
    target: Target,
    router: tools.Program,
    name: str,
    key: str,
    time_limit_s: float,
    seed: int,
    chipdb: Path | None,
) -> tuple[float, dict[str, int], dict[str, int]]:
    """Run the router on a netlist; return (fmax in MHz, used, available)."""
    folder = project.folder
    stem = f"{netlist.FOLDER}/{target.family}/route-{key[:12]}"
    log, report = folder / f"{stem}.log", folder / f"{stem}.report.json"
    words = [
        *target.device_options,
        *ALGORITHM[target.family],
        "--freq",
        f"{target.clock_mhz:g}",
        "--seed",
        str(seed),
        "--timing-allow-fail",
        "--json",
        name,
    ]
    if target.family == "xc7":
        write_text(folder / f"{stem}.xdc", pin_constraints(target.pins))
        words += ["--chipdb", str(chipdb), "--xdc", f"{stem}.xdc"]
    else:
        words += ["--report", f"{stem}.report.json"]
    log.unlink(missing_ok=True)
    report.unlink(missing_ok=True)
    try:
        tools.run([router.path, *words], cwd=folder, log=log, timeout_s=time_limit_s, environment=router.environment)
    except tools.Overtime:
        raise
    except UserError:
        raise _RouterFailed(f"{router.path.name} failed: {_last_error(log)}") from None
    if target.family == "xc7":
        return parse_log(log.read_text(encoding="utf-8", errors="replace"), str(log))
    return parse_report(report.read_text(encoding="utf-8") if report.is_file() else "", str(report))


def _last_error(log: Path) -> str:
    """Return the router's own last word about an error."""
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")]
    return (errors or lines or ["(it printed nothing)"])[-1].removeprefix("ERROR:").strip()


def _cached(path: Path, key: str, time_limit_s: float) -> RoutingResult | None:
    """Return an earlier result, but not that a shorter limit was too short; None when there is none or it is damaged."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored.pop("digest") != key or (stored.pop("over_time") and time_limit_s > stored["time_limit_s"]):
            return None
        return RoutingResult(**stored)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
