"""Cycles, clock and resources of firmware designs, what fits where, and the float networks' latency beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from caloedge.catalog import Target, find, names
from caloedge.firmware.budgets import BUDGETS, USABLE, Need, devices, need
from caloedge.firmware.measure import Firmware
from caloedge.results import Cell, Number, Plot, Report, Section, Series, Table
from caloedge.synthesis.cost import ImplementationResult

if TYPE_CHECKING:
    from caloedge.evaluation.latency import NetworkTiming

RESOURCES = ("LUT", "FF", "DSP", "BRAM_18K", "URAM")
NONE = "–"
DESIGNS, COSTS, BUDGET = "Designs: latency and rate", "Resources and routed clock", "Trigger budgets"
"""Titles of the tables that the README shows."""
PROJECTS, BLOCKS = "Projects: building and simulating", "Synthesised blocks, per instance"
"""Titles of the two tables with build times."""


def firmware(
    designs: Sequence[Firmware],
    timings: Sequence[NetworkTiming],
    computer: str,
    published: Table | None,
    event: str,
    items_per_event: float = 1.0,
) -> Section:
    """Return the section on firmware; `event` names what one input of the network is, e.g. `window`, and how many there are."""
    clocked = [design for design in designs if design.cycles]
    costs = {str(project.design): project.cost for project in designs if project.cost and project.cost.has_result}
    blocks: list[Table | Plot | None] = [
        _designs_table(clocked, event) if clocked else None,
        cost_table(costs) if costs else None,
        _cost_plot(clocked),
        _shares_table(costs),
        _budget_table(clocked, event, items_per_event) if clocked else None,
        _layers_table([project for project in clocked if "stages" in project.record]),
        _blocks_table(costs),
        _float_table(timings, computer, event) if timings else None,
        published,
        _projects_table(designs, event) if designs else None,
    ]
    missing = [f"{project.design}: {remark}" for project in designs if project.cost for remark in project.cost.remarks]
    return Section(
        title="Firmware: cycles, clock and resources",
        text="Cycles come from cycle-accurate simulation of the Verilog, of which every result was compared above. Nanoseconds "
        "and rates multiply them with a clock: the requested one, which nobody has proven, or the routed one where place and "
        "route closed timing. No vendor tool was needed; where one is on PATH, its figures stand beside ours as vendor."
        + (f" Not done: {'; '.join(missing)}." if missing else ""),
        blocks=tuple(block for block in blocks if block),
    )


def building_s(report: Report, built: Sequence[str], synthesised: Sequence[str]) -> float:
    """Return how long it took, in seconds, to build some projects and to synthesise some; 0 if the report does not tell."""
    tables = {block.title: block for section in report.sections for block in section.blocks if isinstance(block, Table)}
    compiled = [row[1] for row in tables[PROJECTS].rows if row[0] in built] if PROJECTS in tables else []
    blocks = [row[-1] for row in tables[BLOCKS].rows if row[0] in synthesised] if BLOCKS in tables else []
    return sum(float(cell.value) for cell in (*compiled, *blocks) if isinstance(cell, Number))


def _at_clock(value: float, unit: str, clock_mhz: float, routed: bool) -> Number:
    note = f"simulated cycles at {clock_mhz:g} MHz, {'routed' if routed else 'requested'}"
    return Number(value=value, unit=unit, origin="routed" if routed else "requested", note=note)


def _designs_table(designs: Sequence[Firmware], event: str) -> Table:
    rows = []
    for project in designs:
        assert project.cycles is not None
        fmax = project.cost.routed.fmax_mhz if project.cost and project.cost.routed else None
        clock = fmax or project.target.clock_mhz
        rows.append(
            (
                str(project.design),
                Number(value=project.cycles.latency_cycles, unit="cycles", origin="simulated"),
                Number(value=project.cycles.interval_cycles, unit="cycles", origin="simulated"),
                Number(value=round(clock, 1), unit="MHz", origin="routed" if fmax else "requested"),
                _at_clock(project.cycles.latency_cycles * 1e3 / clock, "ns", clock, bool(fmax)),
                _at_clock(clock / project.cycles.interval_cycles, f"10⁶ {event}s/s", clock, bool(fmax)),
            )
        )
    return Table(
        title=DESIGNS,
        columns=("design", "latency", f"one {event} every", "clock", "latency at that clock", "rate at that clock"),
        rows=tuple(rows),
        caption=f"Latency: from the clock edge at which the first part of one {event} stands at the input of an empty "
        "design to the edge at which its result can be taken.",
    )


def cost_table(costs: Mapping[str, ImplementationResult]) -> Table:
    """Return resources and clock of implemented projects by name, one row for each tool that gave a result."""
    rows: list[tuple[Cell, ...]] = []
    for name, cost in costs.items():
        requested = Number(value=cost.requested_mhz, unit="MHz", origin="requested")
        if cost.netlist:
            clock: Cell = NONE
            if cost.routed:
                clock = cost.routed.numbers()[0][1] if cost.routed.routed else f"not routed: {cost.routed.reason}"
            rows.append((name, cost.netlist.tool, *_amounts(cost.netlist.resources, "synthesised"), requested, clock))
        if cost.vivado:
            rows.append((name, cost.vivado.tool, *_vendor_cells(cost.vivado.numbers(), requested)))
        if cost.vitis:
            rows.append((name, "Vitis HLS", *_vendor_cells(cost.vitis.numbers(), requested)))
    return Table(
        title=COSTS,
        columns=("design", "tool", *RESOURCES, "clock asked for", "Fmax"),
        rows=tuple(rows),
        caption="Out of context: without input and output pins and without the shift registers that stand around a design "
        "for routing. Each block was synthesised by itself: on AMD devices the sum is rather too high, while on an ECP5 place "
        "and route adds carry cells (here 6 to 18 % of the LUTs).",
    )


def _cost_plot(designs: Sequence[Firmware]) -> Plot | None:
    """Return logic against latency where the same network stands in several designs of one device; None for fewer than three."""
    series = []
    for project in designs:
        if project.cycles and project.cost and project.cost.netlist and project.design.target == designs[0].design.target:
            lut = project.cost.netlist.resources["LUT"]
            interval = project.cycles.interval_cycles
            name = f"{project.design.variant}: one in {interval} cycles"
            series.append(Series(name=name, x=(float(project.cycles.latency_cycles),), y=(lut / 1e3,)))
    if len(series) < 3:
        return None
    return Plot(
        title="Logic against latency",
        x_label="latency [cycles], simulated",
        y_label="LUT [10³], synthesised",
        series=tuple(series),
        caption=f"The same network and the same results, for {designs[0].design.target}.",
    )


def _amounts(resources: Mapping[str, int], origin: str) -> Iterable[Cell]:
    for name in RESOURCES:
        yield Number(value=resources[name], origin=origin) if name in resources else NONE  # type: ignore[arg-type]


def _vendor_cells(numbers: Iterable[tuple[str, Number]], requested: Number) -> Iterable[Cell]:
    by_name = dict(numbers)
    return (*(by_name.get(name, NONE) for name in RESOURCES), requested, by_name.get("Fmax", NONE))


def _devices_of(target: str) -> list[str]:
    """Return the target itself, wherever its file lies, and the shipped devices of its family."""
    family = find(Target, target).family
    return list(dict.fromkeys([target, *(device for device in names("target") if find(Target, device).family == family)]))


def _shares_table(costs: Mapping[str, ImplementationResult]) -> Table | None:
    """Return the share of its own device, and of each shipped one of the same family, that a netlist takes [%]."""
    rows: list[tuple[Cell, ...]] = []
    for name, cost in costs.items():
        if not cost.netlist:
            continue
        for device in _devices_of(cost.target):
            shares = cost.netlist.utilisation(find(Target, device))
            cells = [Number(value=100 * shares[r], unit="%", origin="synthesised") if r in shares else NONE for r in RESOURCES]
            worst = max(shares.values(), default=0.0)
            word = "fits" if worst <= USABLE else "seldom routes" if worst <= 1 else "does not fit"
            rows.append((name, device, *cells, word, f"{1 - worst:+.1%}"))
    if not rows:
        return None
    return Table(
        title="Share of the devices that the netlists are for",
        columns=("design", "device", *RESOURCES, "verdict", "margin"),
        rows=tuple(rows),
        caption=f"The margin is what is left of the scarcest resource. A design above {USABLE:.0%} seldom routes.",
    )


def _budget_table(designs: Sequence[Firmware], event: str, items_per_event: float) -> Table:
    """Return latency as a share of the whole chain, copies for the input rate, and how many devices hold them."""
    rows: list[tuple[Cell, ...]] = []
    for budget in BUDGETS:
        for project in designs:
            assert project.cycles is not None
            fmax = project.cost.routed.fmax_mhz if project.cost and project.cost.routed else None
            clock = fmax or project.target.clock_mhz
            requirement = need(budget, project.cycles.latency_cycles, project.cycles.interval_cycles, clock, items_per_event)
            rows.append((
                budget.name,
                str(project.design),
                Number(value=round(clock, 1), unit="MHz", origin="routed" if fmax else "requested"),
                _at_clock(100 * requirement.latency_share, "%", clock, bool(fmax)),
                _at_clock(requirement.copies, "", clock, bool(fmax)) if requirement.latency_share <= 1 else NONE,
                _devices(requirement, project),
                budget.reference,
            ))  # fmt: skip
    per_event = f"{items_per_event:.3g} {event}s per event, as in the test sample above" if items_per_event != 1 else (
        f"one {event} per event"
    )  # fmt: skip
    return Table(
        title=BUDGET,
        columns=("experiment", "design", "clock", "latency, share of the chain", "copies for the rate", "devices", "reference"),
        rows=tuple(rows),
        caption=f"Assumed: {per_event}, and the experiment's whole input rate. The latency is that of this network alone; a "
        "trigger spends the rest of the chain on everything else. Copies take inputs in turn (time multiplexing); what "
        f"distributes them is not counted. Devices are filled up to {USABLE:.0%} of their scarcest resource (synthesised), and a "
        "copy is not split.",
    )


def _devices(requirement: Need, project: Firmware) -> str:
    """Return as text how many of its target's devices a design needs."""
    if requirement.latency_share > 1:
        return "too slow: one input alone takes longer than the chain"
    if not (project.cost and project.cost.netlist):
        return "not synthesised"
    shares = project.cost.netlist.utilisation(project.target)
    number = devices(requirement.copies, shares)
    if number is None:
        missing = [name for name, share in shares.items() if share == math.inf]
        takes = f"needs {missing[0]}, which there is none of on" if missing else f"takes {max(shares.values()):.0%} of"
        return f"does not fit: one copy {takes} a {project.design.target}"
    return f"needs {number:,} {project.design.target}"


def _layers_table(designs: Sequence[Firmware]) -> Table | None:
    rows = tuple(
        (
            str(project.design),
            stage["layer"],
            stage["strategy"],
            Number(value=stage["interval_cycles"], unit="cycles", origin="computed"),
            Number(value=stage["multipliers"], origin="computed"),
            Number(value=stage["estimated_lut_unrolled"], origin="estimated"),
            stage["why"].split(";")[0],
        )
        for project in designs
        for stage in project.record["stages"]
    )
    if not rows:
        return None
    return Table(
        title="How each layer is built",
        columns=("design", "layer", "strategy", "busy per event", "multipliers", "LUT if unrolled", "why"),
        rows=rows,
        caption="Unrolled: an adder graph for a whole event per cycle. Streaming: one kernel position per cycle "
        "through an adder graph, or a multiply–accumulate array that uses its multipliers again and again.",
    )


def _blocks_table(costs: Mapping[str, ImplementationResult]) -> Table | None:
    rows = tuple(
        (
            name,
            block.module,
            Number(value=block.instances, origin="computed"),
            *_amounts(block.resources, "synthesised"),
            Number(value=block.seconds, unit="s", origin="measured"),
        )
        for name, cost in costs.items()
        if cost.netlist
        for block in cost.netlist.blocks
    )
    if not rows:
        return None
    return Table(title=BLOCKS, columns=("design", "module", "instances", *RESOURCES, "time"), rows=rows)


def _float_table(timings: Sequence[NetworkTiming], computer: str, event: str) -> Table:
    rows = tuple(
        (
            f"float {timing.stage}",
            Number(value=timing.batch, unit=f"{event}s", origin="requested"),
            Number(value=timing.median_s * 1e6, unit="µs", origin="measured", sample=f"{timing.calls} calls",
                   uncertainty=(timing.high_s - timing.low_s) / 2 * 1e6),
            Number(value=timing.median_s * 1e6 / timing.batch, unit="µs", origin="measured"),
            Number(value=timing.batch / timing.median_s / 1e6, unit=f"10⁶ {event}s/s", origin="measured"),
        )
        for timing in timings
    )  # fmt: skip
    return Table(
        title="The float networks on this computer",
        columns=("network", "batch", "time per call", f"time per {event}", "rate"),
        rows=rows,
        caption=f"onnxruntime, {timings[0].threads} thread, {computer}; median, and half of the central 68 % of the calls.",
    )


def _projects_table(designs: Sequence[Firmware], event: str) -> Table:
    rows = tuple(
        (
            str(project.design),
            Number(value=project.record["compile_seconds"], unit="s", origin="measured"),
            Number(value=project.check.vectors / max(project.check.seconds, 1e-9), unit=f"{event}s/s", origin="measured"),
        )
        for project in designs
    )
    return Table(
        title=PROJECTS,
        columns=("project", "time to compile its simulation", "simulation speed"),
        rows=rows,
        caption="Times on this computer, which ran other work too; simulation includes loading. hls4ml: C-simulation; rtl: "
        "Verilator, cycle by cycle.",
    )
