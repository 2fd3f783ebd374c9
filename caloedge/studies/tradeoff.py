"""Accuracy against size, latency and cost: float networks of a recipe, integer ones at several bit widths and reuse factors."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.flop_counter import FlopCounterMode

from caloedge.artifact import Artifact, Golden, TrainingRecord
from caloedge.backends.emulator.binding import emulate
from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE, Assessment, Sample, Task, find
from caloedge.compiler.onnx.reader import read
from caloedge.computer import computer
from caloedge.evaluation.accuracy import EVALUATION_SEED
from caloedge.evaluation.latency import ONNXRUNTIME, TORCH, NetworkTiming, network_timings
from caloedge.evaluation.scoring import float_scores, integer_scores
from caloedge.export import export
from caloedge.files import replacing, sha256
from caloedge.firmware.reuse import ReuseChoice, reuse_choices
from caloedge.firmware.section import RESOURCES
from caloedge.formats.npz import read_npy
from caloedge.pipeline import REHEARSAL, Run, data_label
from caloedge.progress import announce, progress
from caloedge.recipe import Recipe
from caloedge.reports import sections, store, summary
from caloedge.results import Cell, Number, Plot, Report, Section, Series, Table
from caloedge.studies import pareto
from caloedge.studies.widths import (
    UNROLLED,
    IntegerNetwork,
    announce_trainings,
    artifact_at,
    check_bits,
    clock_mhz,
    is_unrolled,
    measured,
)
from caloedge.training.fit import Hardware
from caloedge.training.stages import Trained, train

HEADLINE_FIGURES = 2
TIMED_IMAGES = 5
"""Number of golden inputs that are simulated at each reuse factor."""


@dataclass(frozen=True)
class NetworkEntry:
    """One network of the trade-off."""

    method: str
    """Method name in the assessment."""
    parameters: int
    flop: int
    """Floating-point operations per input, of the network or of its float twin."""
    timings: tuple[NetworkTiming, ...] = ()
    """Measured times per call; empty for integer networks."""


def tradeoff(opened: Run, hardware: Hardware, bits: Sequence[int] | None = None, threads: int = 1, device: str = "cpu") -> Report:
    """Train, compare and time the networks of a recipe and its alternatives, at its own and further bit widths; write the report.

    Every width is exported, proven exact and, where the network can be unrolled, synthesised; firmware is built at the reuse
    factors of the recipe's `tradeoff`. `bits` are the further widths, by default the recipe's. What is finished is kept in the
    work folder, and the same call goes on. Float networks are timed with `threads` CPU threads through onnxruntime, and
    through torch on `device`.
    """
    recipe, task = opened.recipe, opened.task
    own = recipe.quantisation.weight_bits
    if bits is not None:
        check_bits(bits)
    default = recipe.tradeoff.bits[-1:] if recipe.rehearsal_of else recipe.tradeoff.bits
    widths = sorted({*(default if bits is None else bits)} - {own}, reverse=True)
    _announce(opened, widths, hardware)
    arguments = (opened.library, opened.trainings, hardware, opened.path.parent, recipe.alternatives)
    trained = train(recipe, *arguments)
    artifacts = [export(recipe, opened.path, opened.library, trained, opened.places.artifact)]
    artifacts += [artifact_at(opened, width, hardware) for width in widths]
    work = opened.places.work / "tradeoff"
    integers = []
    with progress("build and simulate each width", len(artifacts)) as advance:
        for width, artifact in zip((own, *widths), artifacts, strict=True):
            integers.append(measured(artifact, work / f"{width}_bit" / "projects", is_main=artifact is artifacts[0]))
            advance(1)
    sample = task.sample(opened.library, "test", recipe.evaluation.events, EVALUATION_SEED)
    floats = {REFERENCE: trained["published"], FLOAT: trained["edge"]} | {
        f"float {alternative}": trained[alternative] for alternative in recipe.alternatives
    }
    scores = _scores(task, sample, floats, integers, work)
    working_points: dict[str, float] = {}
    if artifacts[0].manifest.working_points:  # of a task without, scoring large networks would be in vain
        valid = task.sample(opened.library, "valid", recipe.evaluation.valid_events, recipe.seed)
        working_points = task.working_points(valid, _scores(task, valid, floats, integers, work))
    assessment = task.assess(sample, scores, working_points)
    entries = [_entry(method, network, task, threads, device) for method, network in floats.items()]
    edge = next(entry for entry in entries if entry.method == FLOAT)
    entries += [NetworkEntry(network.method, edge.parameters, edge.flop) for network in integers]
    choices = _reuse_choices(artifacts[0], recipe, opened.places.work)
    records = {method: network.record for method, network in floats.items()}
    records |= {network.method: network.artifact.manifest.stages["quantised"] for network in integers}
    report = _report(recipe, integers, entries, choices, assessment, records, threads)
    folder = opened.places.report.with_name(f"{opened.places.report.name}_tradeoff")
    store.save(report, folder)
    store.write_index(folder.parent)
    return report


def _announce(opened: Run, widths: Sequence[int], hardware: Hardware) -> None:
    """Say what will be done, and how long the trainings take."""
    recipe = opened.recipe
    announce_trainings(opened, widths, hardware)
    steps = ["evaluating and timing every network"]
    if is_unrolled(recipe):
        all_widths = ", ".join(map(str, (recipe.quantisation.weight_bits, *widths)))
        steps.append(f"building, simulating and synthesising rtl {UNROLLED} at {all_widths} bit")
    if recipe.tradeoff.reuse:
        steps.append(f"building firmware at reuse {', '.join(map(str, recipe.tradeoff.reuse))}")
    announce(f"then {'; '.join(steps)}")


def _scores(
    task: Task, sample: Sample[Any], floats: Mapping[str, Trained], integers: Sequence[IntegerNetwork], folder: Path
) -> dict[str, NDArray[Any]]:
    """Return the scores of all methods by name; those of networks are cached in a folder."""
    events = f"{sample.inputs.shape} {sample.inputs.mean(dtype=float):.6g} {sample.inputs.std(dtype=float):.6g}"
    scores_by_method: dict[str, NDArray[Any]] = {}
    for method, trained in floats.items():
        stage = "published" if method == REFERENCE else "edge"
        compute = partial(float_scores, trained.network, sample, stage)
        scores_by_method[method] = _cached(folder, f"{method} {trained.record.key} {events}", compute)
    for network in integers:
        compute = partial(integer_scores, read(network.artifact.model), task, sample, partial(emulate, network.emulator))
        scores_by_method[network.method] = _cached(folder, f"{network.method} {sha256(network.artifact.model)} {events}", compute)
    return scores_by_method | {BASELINE: task.baseline(sample)}


def _cached(folder: Path, key: str, make: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """Return the array of a key, computed by `make` unless it is cached."""
    path = folder / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy"
    if not path.exists():
        with replacing(path) as temporary, temporary.open("wb") as stream:
            np.save(stream, make())
    return read_npy(path, cure="remove it and run again")


def _entry(method: str, trained: Trained, task: Task, threads: int, device: str) -> NetworkEntry:
    shape = task.shape_of("published" if method == REFERENCE else "edge")
    network = trained.network.eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, *shape))
    timings = network_timings(method, network, shape, (ONNXRUNTIME, TORCH), threads, device)
    return NetworkEntry(method, trained.record.parameters, counter.get_total_flops(), tuple(timings))


def _reuse_choices(artifact: Artifact, recipe: Recipe, work: Path) -> list[ReuseChoice]:
    golden = artifact.golden()
    first_images = Golden(golden.inputs[:TIMED_IMAGES], {name: codes[:TIMED_IMAGES] for name, codes in golden.outputs.items()})
    options = recipe.tradeoff
    return reuse_choices(
        read(artifact.model), first_images, options.reuse, recipe.target, work / "reuse", synthesise=options.synthesised_reuse
    )


def _report(
    recipe: Recipe,
    integers: Sequence[IntegerNetwork],
    entries: Sequence[NetworkEntry],
    choices: Sequence[ReuseChoice],
    assessment: Assessment,
    records: Mapping[str, TrainingRecord],
    threads: int,
) -> Report:
    artifact, task = integers[0].artifact, find(Task, recipe.task)
    checks = [*(check for network in integers for check in network.checks), *(choice.check for choice in choices)]
    figures = dict(list(assessment.figures.items())[:HEADLINE_FIGURES])
    losses = pareto.less_is_better(assessment, lower_is_better=task.lower_is_better)
    widths = pareto.points(integers, losses)
    integer_methods = {network.method for network in integers}
    levels = {
        figure: {method: number for method, number in numbers.items() if method not in integer_methods}
        for figure, numbers in losses.figures.items()
    }
    return summary.compose(
        f"{recipe.name}: accuracy against size, latency and bit width",
        "Float networks of several sizes, one of them quantised to several bit widths (weights and activations alike), each "
        "trained for it, compiled and proven exact: accuracy on the same events, size, latency and hardware cost.",
        data_label(recipe.task, artifact.manifest.library),
        figures,
        (*pareto.width_claims(widths), *assessment.claims, sections.exactness_claim(checks)),
        (
            _summary(entries, choices, assessment.figures, recipe, threads),
            pareto.section(widths, levels),
            *((_reuse_section(choices, recipe),) if choices else ()),
            *assessment.sections,
            sections.exactness(checks),
            sections.trainings(records),
            sections.what_was_run(artifact),
        ),
        lower_is_better=task.lower_is_better,
        before=(REHEARSAL,) if recipe.rehearsal_of else (),
        caveats=(*assessment.caveats, *pareto.inverted_widths(widths), *_training_caveats(recipe, records)),
    )


def _training_caveats(recipe: Recipe, records: Mapping[str, TrainingRecord]) -> tuple[str, ...]:
    """Return caveats on networks trained for less than the recipe's own integer one."""
    chain = {stage: records[method] for stage, method in summary.STAGES.items()}
    before = summary.inputs_seen(recipe, chain)
    n_inputs = {method: record.windows_seen for method, record in records.items()}
    n_inputs |= {method: before[stage] for stage, method in summary.STAGES.items()}
    n_inputs |= {
        method: n_inputs[method] + before["edge"] for method in records if method.startswith("integer") and method != INTEGER
    }
    mine = records[INTEGER]  # a smaller network's loss is higher for its size, one of fewer bits for those
    floats = {method: record for method, record in records.items() if method == INTEGER or not method.startswith("integer")}
    losses = {method: record.valid_loss for method, record in floats.items() if record.parameters >= mine.parameters}
    return summary.training_caveats(n_inputs, losses, INTEGER)


def _summary(
    entries: Sequence[NetworkEntry],
    choices: Sequence[ReuseChoice],
    figures: summary.Figures,
    recipe: Recipe,
    threads: int,
) -> Section:
    batch = max((timing.batch for entry in entries for timing in entry.timings), default=1)
    columns = (
        "network", "parameters", "operations", *figures,
        *(f"{engine}, batch {size}" for engine in (ONNXRUNTIME, TORCH) for size in (1, batch)),
    )  # fmt: skip
    rows: list[tuple[Cell, ...]] = []
    for entry in entries:
        times = {(timing.engine, timing.batch): timing for timing in entry.timings}
        cells = [_per_event(times.get((engine, size))) for engine in (ONNXRUNTIME, TORCH) for size in (1, batch)]
        operations = Number(value=round(entry.flop / 1e9, 3), unit="10⁹ FLOP", origin="computed")
        rows.append(
            (entry.method, Number(value=entry.parameters, origin="computed"), operations,
             *(numbers.get(entry.method, "–") for numbers in figures.values()), *cells)
        )  # fmt: skip
    without = [method for method in next(iter(figures.values()), {}) if method not in {entry.method for entry in entries}]
    rows += [(method, "–", "–", *(numbers.get(method, "–") for numbers in figures.values()), *["–"] * 4) for method in without]
    table = Table(
        title="Size, accuracy and time of each network",
        columns=columns,
        rows=tuple(rows),
        caption=f"Times per event on {computer()}, {threads} thread{'s' * (threads > 1)}: median and half of the central 68 % of "
        "the calls. Integer networks run on the FPGA; their cycles stand below. Operations count every product and every sum.",
    )
    plots = [plot for figure in figures for plot in _plots(figure, entries, choices, figures[figure], recipe)]
    return Section(title="Accuracy, size and latency", blocks=(table, *plots))


def _per_event(timing: NetworkTiming | None) -> Cell:
    if timing is None:
        return "–"
    spread = (timing.high_s - timing.low_s) / 2 / timing.batch
    return Number(
        value=1e3 * timing.median_s / timing.batch, unit="ms", origin="measured", uncertainty=1e3 * spread,
        sample=f"{timing.calls} calls",
    )  # fmt: skip


def _plots(
    figure: str, entries: Sequence[NetworkEntry], choices: Sequence[ReuseChoice], figures: Mapping[str, Number], recipe: Recipe
) -> list[Plot]:
    """Return one figure against parameters and one against latency."""
    compared = [entry for entry in entries if entry.method in figures]
    unit = next(iter(figures.values())).unit
    label = f"{figure} [{unit}]" if unit else figure
    clock = clock_mhz(recipe)

    def series(name: str, x: Sequence[float], number: Number) -> Series:
        errors = (float(number.uncertainty or 0),) * len(x)
        return Series(name=name, x=tuple(x), y=(float(number.value),) * len(x), y_error_low=errors, y_error_high=errors)

    sizes = [series(_name_with_size(entry), (entry.parameters,), figures[entry.method]) for entry in compared]
    times = [
        series(
            _name_with_size(entry),
            [1e6 * timing.median_s for timing in entry.timings if timing.batch == 1],
            figures[entry.method],
        )
        for entry in compared
        if entry.timings
    ]
    integer = next((entry for entry in compared if entry.method == INTEGER), None)
    if integer and choices:
        name = f"{_name_with_size(integer)}, FPGA at {clock:g} MHz (requested)"
        times.append(series(name, [choice.cycles.latency_cycles / clock for choice in choices], figures[INTEGER]))
    levels = {method: number for method, number in figures.items() if method not in {entry.method for entry in entries}}

    def with_levels(curves: list[Series]) -> tuple[Series, ...]:
        x = [value for curve in curves for value in curve.x]
        ends = (min(x), max(x)) if x else ()
        lines = [
            Series(name=method, x=ends, y=(float(number.value),) * len(ends), style="line") for method, number in levels.items()
        ]
        return (*curves, *lines)

    return [
        Plot(title=f"{figure} against parameters", x_label="parameters", y_label=label, x_scale="log", series=with_levels(sizes),
             caption="Lines: classical methods on the same events."),
        Plot(title=f"{figure} against latency of one event", x_label="latency of one event [µs]", y_label=label, x_scale="log",
             series=with_levels(times),
             caption=f"Float: {ONNXRUNTIME} and torch, batch 1, on this computer (measured). FPGA: simulated cycles at the "
             "requested clock, one point for each reuse factor."),
    ]  # fmt: skip


def _name_with_size(entry: NetworkEntry) -> str:
    """Return a network's name with its number of parameters, so that one figure shows accuracy, size and latency."""
    size = f"{entry.parameters / 1e6:.3g} M" if entry.parameters >= 10**6 else f"{entry.parameters / 1e3:.3g} k"
    return f"{entry.method}, {size} parameters"


def _reuse_section(choices: Sequence[ReuseChoice], recipe: Recipe) -> Section:
    clock = clock_mhz(recipe)
    rows: list[tuple[Cell, ...]] = []
    for choice in choices:
        resources = choice.cost.netlist.resources if choice.cost and choice.cost.netlist else {}
        used = [
            Number(value=resources[resource], origin="synthesised") if resource in resources else "–" for resource in RESOURCES
        ]
        rows.append((
            str(choice.reuse),
            "exact" if choice.check.exact else "DIFFERS",
            Number(value=choice.cycles.latency_cycles, unit="cycles", origin="simulated"),
            Number(value=choice.cycles.interval_cycles, unit="cycles", origin="simulated"),
            Number(value=choice.cycles.latency_cycles / clock, unit="µs", origin="requested",
                   note=f"simulated cycles at {clock:g} MHz, requested"),
            Number(value=1e6 * clock / choice.cycles.interval_cycles, unit="events/s", origin="requested"),
            Number(value=choice.multipliers, origin="computed"),
            *used,
        ))  # fmt: skip
    columns = ("reuse", "result", "latency", "one event every", "latency at the clock", "rate", "multipliers", *RESOURCES)
    remarks = [f"reuse {choice.reuse}: {remark}" for choice in choices if choice.cost for remark in choice.cost.remarks]
    cycles = Plot(
        title="Latency against multipliers",
        x_label="multipliers that work side by side",
        y_label="latency of one event [cycles, simulated]",
        x_scale="log",
        y_scale="log",
        series=tuple(
            Series(name=f"reuse {choice.reuse}", x=(float(choice.multipliers),), y=(float(choice.cycles.latency_cycles),))
            for choice in choices
        ),
    )
    return Section(
        title="Firmware: one network at several reuse factors",
        text="At reuse factor F every multiplier of a convolution serves F clock cycles of each pixel. The Verilog of each was "
        f"simulated cycle by cycle on {choices[0].check.vectors} whole events, and every output code compared with ==."
        + (f" Not done: {'; '.join(remarks)}." if remarks else ""),
        blocks=(Table(title="Reuse factors", columns=columns, rows=tuple(rows)), cycles),
    )
