"""The vendor's own tools where they are installed, and readers of their reports: every number here has the origin `vendor`."""

import json
import math
import re
import shutil
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from caloedge import tools
from caloedge.catalog import Target
from caloedge.errors import BadData, Unsupported
from caloedge.files import replacing, write_text
from caloedge.project import RECORD, read_record
from caloedge.results import Number
from caloedge.synthesis.netlist import FOLDER, content_digest, digest
from caloedge.synthesis.rtl import CLOCK, Project, read

VIVADO_TIMEOUT_S = 24 * 3600.0
VITIS_TIMEOUT_S = 24 * 3600.0
HLS_FAMILIES = ("xcup", "xcu", "xc7")


@dataclass(frozen=True)
class Utilisation:
    """Used and available amounts of each resource: LUT, FF, DSP, BRAM_18K, URAM."""

    used: Mapping[str, int]
    available: Mapping[str, int]

    def numbers(self, note: str = "") -> tuple[tuple[str, Number], ...]:
        """Return each resource as a number with its origin."""
        return tuple((name, Number(value=value, origin="vendor", note=note)) for name, value in self.used.items())


@dataclass(frozen=True)
class TimingSummary:
    """Result of the vendor's timing analysis for the only clock of a design."""

    worst_slack_ns: float
    """Worst slack of all set-up checks [ns]; negative when the clock is missed."""
    period_ns: float
    """Requested clock period [ns]."""

    @property
    def achieved_ns(self) -> float:
        """The shortest period that the worst path allows."""
        return self.period_ns - self.worst_slack_ns

    @property
    def fmax_mhz(self) -> float:
        """The clock that the worst path allows."""
        return 1e3 / self.achieved_ns

    @property
    def met(self) -> bool:
        """Whether the requested clock is reached."""
        return self.worst_slack_ns >= 0

    def numbers(self, note: str = "") -> tuple[tuple[str, Number], ...]:
        """Return slack and clock as numbers with their origin."""
        return (
            ("worst slack", Number(value=self.worst_slack_ns, unit="ns", origin="vendor", note=note)),
            ("Fmax", Number(value=round(self.fmax_mhz, 1), unit="MHz", origin="vendor", note=note)),
        )


@dataclass(frozen=True)
class Implementation:
    """One design placed and routed by Vivado."""

    utilisation: Utilisation
    timing: TimingSummary
    tool: str

    def numbers(self) -> tuple[tuple[str, Number], ...]:
        """Return all figures as numbers with their origin."""
        return (*self.utilisation.numbers(self.tool), *self.timing.numbers(self.tool))


@dataclass(frozen=True)
class CSynthesis:
    """Result of C synthesis for one design; clock and resources are the compiler's own estimates."""

    latency_cycles: tuple[int, int] | None
    """(best, worst); None when they depend on the data."""
    interval_cycles: tuple[int, int] | None
    """(best, worst); None when they depend on the data."""
    target_ns: float
    """Requested clock period [ns]."""
    estimated_ns: float
    """Clock period that the compiler expects [ns]."""
    utilisation: Utilisation

    def numbers(self, note: str = "C synthesis") -> tuple[tuple[str, Number], ...]:
        """Return all figures as numbers with their origin."""
        cycles = [("latency", self.latency_cycles), ("interval", self.interval_cycles)]
        cycle_numbers = [
            (f"{name}, {bound}", Number(value=value, unit="cycles", origin="vendor", note=note))
            for name, bounds in cycles
            if bounds is not None
            for bound, value in zip(("best", "worst"), bounds, strict=True)
        ]
        clock = Number(value=self.estimated_ns, unit="ns", origin="vendor", note=note)
        return (*cycle_numbers, ("estimated clock period", clock), *self.utilisation.numbers(note))


# Readers of reports

_ROWS = {
    "CLB LUTs": ("LUT", 1),
    "Slice LUTs": ("LUT", 1),
    "CLB Registers": ("FF", 1),
    "Slice Registers": ("FF", 1),
    "Block RAM Tile": ("BRAM_18K", 2),
    "URAM": ("URAM", 1),
    "DSPs": ("DSP", 1),
}
"""Resource of each row of Vivado's tables, and the number of it that one unit of the row takes."""
_NEEDED = ("LUT", "FF", "DSP", "BRAM_18K")


def parse_utilisation(text: str, source: str) -> Utilisation:
    """Read Vivado's `report_utilization`, of 7-series or UltraScale devices."""
    used: dict[str, int] = {}
    available: dict[str, int] = {}
    columns: list[str] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")] if line.lstrip().startswith("|") else []
        if not cells:
            continue
        if cells[0] == "Site Type":
            columns = cells
        elif (row := _ROWS.get(cells[0].rstrip("*"))) and len(cells) == len(columns):
            resource, factor = row
            if resource not in used:  # later tables repeat some names with other meanings
                used[resource] = round(factor * _figure(cells, columns, "Used", source))
                available[resource] = round(factor * _figure(cells, columns, "Available", source))
    if missing := [name for name in _NEEDED if name not in used]:
        raise BadData(f"{source}: no row of {', '.join(missing)}; not a whole report of report_utilization")
    return Utilisation(used, available)


def _figure(cells: list[str], columns: list[str], column: str, source: str) -> float:
    try:
        return float(cells[columns.index(column)])
    except ValueError:
        raise BadData(f"{source}: row {cells[0]!r} has no number under {column!r}; the report is damaged") from None


_SLACK = re.compile(r"^\s*WNS\(ns\).*\n[\s-]*\n\s*(\S+)", re.MULTILINE)
_CLOCKS = re.compile(r"^\|\s*Clock Summary\b", re.MULTILINE)
_CLOCK = re.compile(r"^(\S.*?)\s+\{[\d.\s-]+\}\s+([\d.]+)\s+[\d.]+", re.MULTILINE)


def parse_timing(text: str, source: str) -> TimingSummary:
    """Read Vivado's `report_timing_summary` of a design with one clock."""
    slack = _SLACK.search(text)
    if slack is None:
        raise BadData(f"{source}: no line under 'WNS(ns)'; not a whole report of report_timing_summary")
    try:
        worst = float(slack[1])
    except ValueError:
        worst = math.nan
    if not math.isfinite(worst):
        raise BadData(f"{source}: the worst slack is {slack[1]!r}; the design has no constrained path, so create its clock first")
    start = _CLOCKS.search(text)
    clocks = _CLOCK.findall(text, start.end()) if start else []
    if len(clocks) != 1:
        raise BadData(f"{source}: {len(clocks)} clocks under 'Clock Summary', but a design of this package has one")
    period = float(clocks[0][1])
    if not period - worst > 0:
        raise BadData(f"{source}: a slack of {worst:g} ns with a period of {period:g} ns makes no sense; the report is damaged")
    return TimingSummary(worst, period)


def parse_csynth(text: str, source: str) -> CSynthesis:
    """Read the `csynth.xml` of Vitis HLS."""
    try:
        root = ET.fromstring(text)
    except ET.ParseError as error:
        raise BadData(f"{source}: not XML ({error}); run the C synthesis again") from None

    def value(path: str) -> str:
        content = root.findtext(path)
        if content is None:
            raise BadData(f"{source}: no {path.removeprefix('./')}; not a whole report of the C synthesis")
        return content.strip()

    def figure(path: str) -> float:
        try:
            return float(value(path))
        except ValueError:
            raise BadData(f"{source}: {path.removeprefix('./')} is {value(path)!r}, which is no number") from None

    def cycles(best: str, worst: str) -> tuple[int, int] | None:
        overall = "./PerformanceEstimates/SummaryOfOverallLatency/"
        if "undef" in (value(overall + best), value(overall + worst)):
            return None
        return int(figure(overall + best)), int(figure(overall + worst))

    def resources(group: str) -> dict[str, int]:
        area = f"./AreaEstimates/{group}/"
        dsp = "DSP48E" if root.find(area + "DSP48E") is not None else "DSP"
        names = {"LUT": "LUT", "FF": "FF", "DSP": dsp, "BRAM_18K": "BRAM_18K"}
        if root.find(area + "URAM") is not None:
            names["URAM"] = "URAM"
        return {name: int(figure(area + tag)) for name, tag in names.items()}

    return CSynthesis(
        latency_cycles=cycles("Best-caseLatency", "Worst-caseLatency"),
        interval_cycles=cycles("Interval-min", "Interval-max"),
        target_ns=figure("./UserAssignments/TargetClockPeriod"),
        estimated_ns=figure("./PerformanceEstimates/SummaryOfTimingAnalysis/EstimatedClockPeriod"),
        utilisation=Utilisation(resources("Resources"), resources("AvailableResources")),
    )


def _read_report(path: Path, made_by: str) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        raise BadData(f"{path} is missing: {made_by} did not write it; see its log") from None


# Vivado on an RTL project


def constraints(period_ns: float) -> str:
    """Return the clock of a design as a constraint."""
    return f"create_clock -name {CLOCK} -period {period_ns:.3f} [get_ports {CLOCK}]\n"


def vivado_script(project: Project, target: Target, base: str) -> str:
    """Return the Tcl that synthesises, places and routes a design out of context; reports and checkpoint lie at `base`."""
    lines = [f"read_verilog {'-sv ' if source.path.endswith('.sv') else ''}{{{source.path}}}" for source in project.sources]
    return "\n".join(
        [
            *lines,
            f"read_xdc -mode out_of_context {{{base}.xdc}}",
            f"synth_design -mode out_of_context -flatten_hierarchy rebuilt -top {project.top} -part {target.part}",
            "opt_design",
            "place_design",
            "phys_opt_design",
            "route_design",
            f"report_timing_summary -delay_type min_max -file {{{base}.timing.rpt}}",
            f"report_utilization -file {{{base}.utilisation.rpt}}",
            "",
        ]
    )


def vivado(folder: Path, target: Target, *, timeout_s: float = VIVADO_TIMEOUT_S) -> Implementation | None:
    """Synthesise, place and route an RTL project with Vivado; None when it is not on PATH.

    Out of context: paths from and to the ports are not timed. The reports are kept under `synthesis/vivado/`; the same design
    is not run again. Raises `BadData` for damaged reports and `UserError` when Vivado fails.
    """
    if shutil.which("vivado") is None:
        return None
    if target.family not in HLS_FAMILIES:
        raise Unsupported(f"target {target.part}: Vivado has no family {target.family!r}; use one of an AMD device")
    project = read(folder)
    tool = tools.version("vivado", "-version")
    key = digest(content_digest(project, project.sources), vivado_script(project, target, ""), f"{target.period_ns:.3f}", tool)
    base = f"{FOLDER}/vivado/{project.top}-{key[:12]}"
    record_path = folder / f"{base}.json"
    if not _finished(record_path, key):
        write_text(folder / f"{base}.tcl", vivado_script(project, target, base))
        write_text(folder / f"{base}.xdc", constraints(target.period_ns))
        log = folder / f"{base}.log"
        log.unlink(missing_ok=True)
        words = ["vivado", "-mode", "batch", "-nojournal", "-nolog", "-notrace", "-source", f"{base}.tcl"]
        tools.run(words, cwd=folder, log=log, timeout_s=timeout_s)
    result = Implementation(
        parse_utilisation(_read_report(folder / f"{base}.utilisation.rpt", "vivado"), str(folder / f"{base}.utilisation.rpt")),
        parse_timing(_read_report(folder / f"{base}.timing.rpt", "vivado"), str(folder / f"{base}.timing.rpt")),
        tool,
    )
    write_text(record_path, json.dumps({"digest": key, "tool": tool}) + "\n")
    return result


def _finished(path: Path, key: str) -> bool:
    try:
        return bool(json.loads(path.read_text(encoding="utf-8"))["digest"] == key)
    except (OSError, ValueError, KeyError, TypeError):
        return False


# Vitis on an hls4ml project

HLS_STEPS = ("reset", "csim", "synth", "cosim", "validation", "export", "vsynth", "fifo_opt")


def hls_options(steps: tuple[str, ...] = ("reset", "synth")) -> str:
    """Return the Tcl that tells an hls4ml project which steps to run."""
    return "array set opt {\n" + "".join(f"    {step:<10} {int(step in steps)}\n" for step in HLS_STEPS) + "}\n"


def vitis_hls(folder: Path, *, timeout_s: float = VITIS_TIMEOUT_S) -> CSynthesis | None:
    """Run the C synthesis of an hls4ml project with Vitis; None when `vitis-run` is not on PATH.

    The report is kept under `synthesis/vitis/`; a finished one is not made again. Raises `BadData` for a damaged report and
    `UserError` when Vitis fails.
    """
    if shutil.which("vitis-run") is None:
        return None
    project_record = read_record(folder, "hls4ml")
    name = project_record.get("project")
    if not isinstance(name, str):
        raise BadData(f"{folder / RECORD}: 'project' is missing; build the project again")
    tool = tools.version("vitis-run", "--version")
    key = digest(json.dumps([project_record.get(part) for part in ("graph", "variant", "part", "clock_mhz")]), tool)
    report_path = folder / f"{FOLDER}/vitis/csynth-{key[:12]}.xml"
    if not report_path.is_file():
        write_text(folder / "build_opt.tcl", hls_options())
        log = folder / f"{FOLDER}/vitis/csynth-{key[:12]}.log"
        log.unlink(missing_ok=True)
        words = ["vitis-run", "--mode", "hls", "--tcl", "build_prj.tcl"]
        tools.run(words, cwd=folder, log=log, timeout_s=timeout_s)
        report = folder / f"{name}_prj/solution1/syn/report/{name}_csynth.xml"
        text = _read_report(report, "vitis-run")
        parse_csynth(text, str(report))  # only a whole report is kept
        with replacing(report_path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return parse_csynth(_read_report(report_path, "vitis-run"), str(report_path))
