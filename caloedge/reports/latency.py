"""Cycles, clock and resources of firmware designs, what fits where, and the float networks' latency beside them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from caloedge.budgets import BUDGETS, side_by_side, verdict
from caloedge.catalog import Target, find, names
from caloedge.firmware import Firmware
from caloedge.reports.wording import with_article
from caloedge.results import Cell, Number, Report, Section, Table
from caloedge.synthesis.cost import Implemented

if TYPE_CHECKING:
    from caloedge.training.timing import Timing  # which loads torch

RESOURCES = ("LUT", "FF", "DSP", "BRAM_18K", "URAM")
NONE = "–"
DESIGNS, COSTS = "Designs: latency and rate", "Resources and routed clock"
"""Titles of the two tables that the README shows."""
PROJECTS, BLOCKS = "Projects: building and simulating", "Synthesised blocks, per instance"
"""Titles of the two tables that tell how long building took."""


def firmware(
    designs: Sequence[Firmware], timings: Sequence[Timing], computer: str, published: Table | None, event: str
) -> Section:
    """Return the section on firmware; `event` names what one input of the network is, e.g. `window`."""
    clocked = [design for design in designs if design.cycles]
    costs = {str(x.design): x.cost for x in designs if x.cost and x.cost.found}
    tables: list[Table | None] = [
        _designs_table(clocked, event) if clocked else None,
        cost_table(costs) if costs else None,
        _shares_table(costs),
        _budget_table(clocked, event) if clocked else None,
        _layers_table([x for x in clocked if "stages" in x.record]),
        _blocks_table(costs),
        _float_table(timings, computer, event) if timings else None,
        published,
        _projects_table(designs, event) if designs else None,
    ]
    missing = [f"{x.design}: {remark}" for x in designs if x.cost for remark in x.cost.remarks]
    return Section(
        title="Firmware: cycles, clock and resources",
        text="Cycles come from cycle-accurate simulation of the Verilog, of which every result was compared above. Nanoseconds "
        "and rates multiply them with a clock: the requested one, which nobody has proven, or the routed one where place and "
        "route closed timing. No vendor tool was needed; where one is on PATH, its figures stand beside ours as vendor."
        + (f" Not done: {'; '.join(missing)}." if missing else ""),
        blocks=tuple(table for table in tables if table),
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
    for x in designs:
        assert x.cycles is not None
        fmax = x.cost.routed.fmax_mhz if x.cost and x.cost.routed else None
        clock = fmax or x.target.clock_mhz
        rows.append(
            (
                str(x.design),
                Number(value=x.cycles.latency_cycles, unit="cycles", origin="simulated"),
                Number(value=x.cycles.interval_cycles, unit="cycles", origin="simulated"),
                Number(value=round(clock, 1), unit="MHz", origin="routed" if fmax else "requested"),
                _at_clock(x.cycles.latency_cycles * 1e3 / clock, "ns", clock, bool(fmax)),
                _at_clock(clock / x.cycles.interval_cycles, f"10⁶ {event}s/s", clock, bool(fmax)),
            )
        )
    return Table(
        title=DESIGNS,
        columns=("design", "latency", f"one {event} every", "clock", "latency at that clock", "rate at that clock"),
        rows=tuple(rows),
        caption=f"Latency: from the clock edge at which the first part of {with_article(event)} stands at the input of an empty "
        "design to the edge at which its result can be taken.",
    )


def cost_table(costs: Mapping[str, Implemented]) -> Table:
    """Return resources and clock of implemented projects by name, one row for each tool that said something."""
    rows: list[tuple[Cell, ...]] = []
    for name, cost in costs.items():
        asked = Number(value=find(Target, cost.target).clock_mhz, unit="MHz", origin="requested")
        if cost.netlist:
            clock: Cell = NONE
            if cost.routed:
                clock = cost.routed.numbers()[0][1] if cost.routed.routed else f"not routed: {cost.routed.reason}"
            rows.append((name, cost.netlist.tool, *_amounts(cost.netlist.resources, "synthesised"), asked, clock))
        if cost.vivado:
            rows.append((name, cost.vivado.tool, *_from(cost.vivado.numbers(), asked)))
        if cost.vitis:
            rows.append((name, "Vitis HLS", *_from(cost.vitis.numbers(), asked)))
    return Table(
        title=COSTS,
        columns=("design", "tool", *RESOURCES, "clock asked for", "Fmax"),
        rows=tuple(rows),
        caption="Out of context: without input and output pins and without the shift registers that stand around a design "
        "for routing. Each block was synthesised by itself: on AMD devices the sum is rather too high, while on an ECP5 place "
        "and route adds carry cells (here 6 to 18 % of the LUTs).",
    )


def _amounts(resources: Mapping[str, int], origin: str) -> Iterable[Cell]:
    for name in RESOURCES:
        yield Number(value=resources[name], origin=origin) if name in resources else NONE  # type: ignore[arg-type]


def _from(numbers: Iterable[tuple[str, Number]], asked: Number) -> Iterable[Cell]:
    by_name = dict(numbers)
    return (*(by_name.get(name, NONE) for name in RESOURCES), asked, by_name.get("Fmax", NONE))


def _shares_table(costs: Mapping[str, Implemented]) -> Table | None:
    """Return what part of each device of the same family a netlist takes."""
    rows: list[tuple[Cell, ...]] = []
    for name, cost in costs.items():
        if not cost.netlist:
            continue
        family = find(Target, cost.target).family
        for device in [x for x in names("target") if find(Target, x).family == family]:
            shares = cost.netlist.utilisation(find(Target, device))
            cells = [Number(value=100 * shares[r], unit="%", origin="synthesised") if r in shares else NONE for r in RESOURCES]
            worst = max(shares.values(), default=0.0)
            rows.append((name, device, *cells, "fits" if worst <= 1 else "does not fit", f"{1 - worst:+.1%}"))
    if not rows:
        return None
    return Table(
        title="Share of the devices that the netlists are for",
        columns=("design", "device", *RESOURCES, "verdict", "margin"),
        rows=tuple(rows),
        caption="The margin is what is left of the scarcest resource. A design above about 80 % seldom routes.",
    )


def _budget_table(designs: Sequence[Firmware], event: str) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for budget in BUDGETS:
        for x in designs:
            assert x.cycles is not None
            fmax = x.cost.routed.fmax_mhz if x.cost and x.cost.routed else None
            clock = fmax or x.target.clock_mhz
            _, margins = verdict(budget, x.cycles.latency_cycles, x.cycles.interval_cycles, clock)
            number = side_by_side(budget, x.cycles.latency_cycles, x.cycles.interval_cycles, clock)
            fits = "does not fit" if number is None else "fits" if number == 1 else f"fits with {number:,} side by side"
            left = [NONE if m is None else _at_clock(m, "ns", clock, bool(fmax)) for m in margins.values()]
            rows.append((budget.name, str(x.design), fits, *left, budget.reference))
    return Table(
        title="Trigger budgets",
        columns=("budget", "design", "verdict", "latency left", "interval left", "reference"),
        rows=tuple(rows),
        caption=f"One {event} counts as one event, and the latency is that of this network alone: a trigger spends the rest of "
        "its budget on everything else. Negative: what is missing. Designs side by side take events in turn (time multiplexing); "
        "what distributes the events is not counted.",
    )


def _layers_table(designs: Sequence[Firmware]) -> Table | None:
    rows = tuple(
        (
            str(x.design),
            stage["layer"],
            stage["strategy"],
            Number(value=stage["interval_cycles"], unit="cycles", origin="computed"),
            Number(value=stage["multipliers"], origin="computed"),
            Number(value=stage["estimated_lut_unrolled"], origin="estimated"),
            stage["why"].split(";")[0],
        )
        for x in designs
        for stage in x.record["stages"]
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


def _blocks_table(costs: Mapping[str, Implemented]) -> Table | None:
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


def _float_table(timings: Sequence[Timing], computer: str, event: str) -> Table:
    rows = tuple(
        (
            f"float {x.stage}",
            Number(value=x.batch, unit=f"{event}s", origin="requested"),
            Number(value=x.median_s * 1e6, unit="µs", origin="measured", sample=f"{x.calls} calls",
                   uncertainty=(x.high_s - x.low_s) / 2 * 1e6),
            Number(value=x.median_s * 1e6 / x.batch, unit="µs", origin="measured"),
            Number(value=x.batch / x.median_s / 1e6, unit=f"10⁶ {event}s/s", origin="measured"),
        )
        for x in timings
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
            str(x.design),
            Number(value=x.record["compile_seconds"], unit="s", origin="measured"),
            Number(value=x.check.vectors / max(x.check.seconds, 1e-9), unit=f"{event}s/s", origin="measured"),
        )
        for x in designs
    )
    return Table(
        title=PROJECTS,
        columns=("project", "time to compile its simulation", "simulation speed"),
        rows=rows,
        caption="Times on this computer, which ran other work too; simulation includes loading. hls4ml: C-simulation; rtl: "
        "Verilator, cycle by cycle.",
    )
