"""One network at several bit widths: cost, accuracy, Pareto front and recommended width."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.artifact import RECIPE, Artifact
from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE, Backend, Library, Target, Task, find
from caloedge.compiler.onnx.reader import read
from caloedge.errors import UserError
from caloedge.evaluation.accuracy import evaluate, library_of
from caloedge.export import export
from caloedge.metrics import claims
from caloedge.metrics.claims import ComparedFigure
from caloedge.pipeline import data_label, open_beside, places, read_named_recipe
from caloedge.progress import announce
from caloedge.project import is_built, record
from caloedge.recipe import Recipe, write_recipe
from caloedge.reports import sections, store, summary
from caloedge.results import Claim, Number, Plot, Report, Section, Series, Table, Verdict
from caloedge.synthesis.cost import implement
from caloedge.training.fit import Hardware
from caloedge.training.forecast import Forecast, forecast, together
from caloedge.training.stages import train
from caloedge.verification.executors import Check, run_check, run_qonnx

DEFAULT_BITS = (8, 6, 5, 4, 3)
VARIANT = "unrolled"
"""Variant that is synthesised: all of it in LUTs, so that one number is the whole cost."""
TOLERANCE = 0.05
"""Largest relative loss of the recommended network in any figure against the float network of the same shape."""


@dataclass(frozen=True)
class Point:
    """The figures and cost of the network at one bit width."""

    bits: int
    figures: Mapping[str, Number]
    """The headline figures of the integer network, by label; all such that less is better."""
    ebops: int
    resources: Mapping[str, int]
    """Synthesised resources by name; empty where no synthesiser is installed."""
    cycles: int | None
    """Latency of the synthesised design from input to output [clock cycles]."""
    ratios: Mapping[str, ComparedFigure] = field(default_factory=dict)
    """Ratios of the figures, one per bin, to those of another method in the same assessment, by method."""
    remarks: tuple[str, ...] = ()
    """Reasons why something was not synthesised."""

    def cost(self, axis: str) -> float:
        """Return LUTs, 0 if they are not known, or effective bit operations."""
        return float(self.resources.get("LUT", 0) if axis == "LUT" else self.ebops)


AXES = ("LUT", "EBOPs")


def axis_of(points: Sequence[Point]) -> str:
    """Return the cost by which all points can be compared: LUTs if all were synthesised, else EBOPs."""
    return "LUT" if all("LUT" in point.resources for point in points) else "EBOPs"


def study(name: str, bits: Sequence[int], output: Path | None, hardware: Hardware) -> Report:
    """Train, compile, compare and synthesise the quantised network at each bit width, and write the report.

    Weights and activations get the same number of bits, single layers as many more as in the recipe; the input stays as it is.
    Float networks are trained once. What is finished is kept in the work folder, and the same call goes on.
    """
    path, recipe = read_named_recipe(name)
    wrong = [str(b) for b in bits if not 2 <= b <= 8]
    if wrong or not bits:
        raise UserError(f"--bits {', '.join(wrong) or 'without a number'}: give numbers from 2 to 8, e.g. --bits 8 --bits 6")
    library = open_beside(path, recipe)
    paths = places(recipe, output)
    widths = sorted(set(bits), reverse=True)
    announce_widths(path, recipe, dict.fromkeys(widths), library, paths.work, hardware)
    announce(f"then building, simulating and synthesising rtl {VARIANT} at {', '.join(map(str, widths))} bit")
    results: list[tuple[Point, list[Check]]] = []
    levels: dict[str, dict[str, Number]] = {}
    artifact = None
    for width in widths:
        artifact = artifact_at(path, recipe, width, library, paths.work, hardware)
        point, checks, others = _measure(artifact, paths.work / "study" / f"{width}_bit" / "projects")
        results.append((point, checks))
        levels = levels or others
    assert artifact is not None
    report = _report(recipe, artifact, [point for point, _ in results], [c for _, checks in results for c in checks], levels)
    folder = paths.report.with_name(f"{paths.report.name}_bits")
    store.save(report, folder)
    store.write_index(folder.parent)
    return report


def artifact_at(
    path: Path, recipe: Recipe, bits: int, library: Library, work: Path, hardware: Hardware, place: Path | None = None
) -> Artifact:
    """Train and export one bit width, into the work folder or where it is to be kept."""
    other, draft = at_width(recipe, bits), work / "study" / f"{bits}_bit"
    place = place or draft / "artifact"
    trained = train(other, library, work / "training", hardware, path.parent, artifacts=[place])
    write_recipe(other, draft / RECIPE, path.parent, place)
    return export(other, draft / RECIPE, library, trained, place)


def at_width(recipe: Recipe, bits: int) -> Recipe:
    """Return the recipe of the same network with another number of bits."""
    training = recipe.training.model_copy(update={"quantised": recipe.tradeoff.schedule or recipe.training.quantised})
    changes = {"quantisation": recipe.quantisation.of_width(bits), "training": training}
    return recipe.model_copy(update={"name": f"{recipe.name}_{bits}_bit", **changes})


def announce_widths(
    path: Path,
    recipe: Recipe,
    artifact_paths: Mapping[int, Path | None],
    library: Library,
    work: Path,
    hardware: Hardware,
    other_forecasts: Mapping[str, Forecast] | None = None,
) -> None:
    """Announce the trainings at each bit width, whose artifacts lie at `artifact_paths`, together with `other_forecasts`."""
    forecasts = dict(other_forecasts or {})
    for bits, place in artifact_paths.items():
        places = [place or work / "study" / f"{bits}_bit" / "artifact"]
        recipe_at_width = at_width(recipe, bits)
        forecasts[f"{bits} bit"] = forecast(recipe_at_width, library, work / "training", hardware, path.parent, artifacts=places)
    for line in together(forecasts).lines():
        announce(line)


def _measure(artifact: Artifact, projects: Path) -> tuple[Point, list[Check], dict[str, dict[str, Number]]]:
    """Return a point, its exactness, and the figures of the other methods by method and label."""
    graph, golden, bits = read(artifact.model), artifact.golden(), artifact.recipe.quantisation.weight_bits
    checks = [
        run_check(f"integer graph, {bits} bit", golden, graph.run),
        run_check(f"QONNX executor, {bits} bit", golden, lambda codes: run_qonnx(artifact.model, graph, codes)),
    ]
    levels: dict[str, dict[str, Number]] = {method: {} for method in (REFERENCE, FLOAT, INTEGER, BASELINE)}
    replicas: dict[str, list[NDArray[Any]]] = {method: [] for method in levels}
    task, assessment = find(Task, artifact.recipe.task), evaluate(artifact, library_of(artifact))
    for label, value in assessment.headline:
        figure, _, method = label.rpartition(", ")
        replicas_R = assessment.replicas[label]
        if not task.lower_is_better:
            figure, value, replicas_R = (
                f"100 % − {figure.lower()}",
                value.model_copy(update={"value": 100 - value.value}),
                100 - replicas_R,
            )
        levels[method][figure] = value
        replicas[method].append(replicas_R)
    ratios = {method: _ratios(levels, replicas, method) for method in (REFERENCE, FLOAT)}
    target = find(Target, artifact.recipe.target)
    folder = projects / f"rtl_{VARIANT}"
    if not is_built(folder, record("rtl", graph, target, VARIANT)):
        find(Backend, "rtl").build(graph, target, VARIANT, folder, {})
    simulate = find(Backend, "rtl").simulate
    assert simulate is not None
    run = simulate(folder, golden.inputs[:256], 0.0, None)
    checks.append(run_check(f"rtl {VARIANT}, {bits} bit", golden, lambda codes: simulate(folder, codes, 0.0, None).codes))
    cost = implement(folder, artifact.recipe.target, artifact.recipe.route_limit_s)
    resources = dict(cost.netlist.resources) if cost and cost.netlist else {}
    ebops = sum(layer.ebops for layer in graph.layers())
    remarks = cost.remarks if cost else ("no synthesiser",)
    return Point(bits, levels.pop(INTEGER), ebops, resources, run.latency_cycles, ratios, remarks), checks, levels


def _ratios(
    levels: Mapping[str, Mapping[str, Number]], replicas: Mapping[str, list[NDArray[Any]]], method: str
) -> ComparedFigure:
    """Return the integer network's figures over another method's."""
    mine, theirs = (np.array([number.value for number in levels[name].values()], float) for name in (INTEGER, method))
    return claims.ratio(mine, np.stack(replicas[INTEGER], axis=1), theirs, np.stack(replicas[method], axis=1))


def front(points: Sequence[Point], figure: str, axis: str) -> list[Point]:
    """Return the Pareto front of a figure, for which lower is better, in ascending cost."""
    result: list[Point] = []
    for point in sorted(points, key=lambda p: p.cost(axis)):
        if not result or point.figures[figure].value < result[-1].figures[figure].value:
            result.append(point)
    return result


def verdict(point: Point, method: str) -> Verdict:
    """Test that no figure of a point is more than `TOLERANCE` above a method's."""
    return claims.at_most(1 + TOLERANCE, point.ratios[method])


def recommended(points: Sequence[Point], method: str) -> Point | None:
    """Return the cheapest point of which every figure is at most `TOLERANCE` above a method's, also at its confidence limit."""
    good = [point for point in points if verdict(point, method) == "holds"]
    return min(good, key=lambda p: p.cost(axis_of(points)), default=None)


def _report(
    recipe: Recipe, artifact: Artifact, points: list[Point], checks: list[Check], levels: Mapping[str, Mapping[str, Number]]
) -> Report:
    claim_blocks = (
        claim(points, REFERENCE, "the published float network's as trained here"),
        claim(points, FLOAT, "those of the float network of the same shape"),
        sections.exactness_claim(checks),
    )
    headline = tuple((f"{name}, {p.bits} bit", figure) for p in points for name, figure in list(p.figures.items())[:1])
    return Report(
        title=f"{recipe.name}: accuracy against bit width",
        summary="The same network quantised to different numbers of bits (weights and activations alike), each trained for it, "
        "compiled, proven exact and synthesised.",
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        data_label=data_label(recipe.task, artifact.manifest.library),
        headline=headline,
        best=summary.best(headline, lower_is_better=True),
        caveats=(*summary.claim_caveats(claim_blocks), *inverted_widths(points), *summary.artifact_caveats(artifact)),
        sections=(
            Section(title="Claims", blocks=claim_blocks),
            Section(
                title="Accuracy against cost",
                text="Smaller is better in every figure. LUTs are those of the unrolled Verilog, one input per clock cycle, by "
                "yosys; EBOPs sum weight bits times input bits over all products. All widths are judged on the same events.",
                blocks=(_table(points, levels), *(_plot(points, name, levels, axis) for name in levels[FLOAT] for axis in AXES)),
            ),
            sections.exactness(checks),
            sections.what_was_run(artifact),
        ),
    )


def claim(points: Sequence[Point], method: str, reference: str) -> Claim:
    """Claim that one width is good enough; it fails only if every width does."""
    best, verdicts = recommended(points, method), [verdict(point, method) for point in points]
    order: tuple[Verdict, ...] = ("holds", "undecided", "not tested", "fails")
    worst = "; ".join(f"{point.bits} bit: {_worst(point, method)}" for point in points)
    recommendation = f"{best.bits} bit, {_cost(best, axis_of(points))}" if best else "none"
    return Claim(
        statement=f"There is a bit width at which no figure is more than {TOLERANCE:.0%} (relative) above {reference}; the "
        "cheapest is recommended.",
        brief=f"a width with every figure at most {TOLERANCE:.0%} above {reference}: {best.bits if best else 'no'} bit",
        verdict=next(candidate for candidate in order if candidate in verdicts),
        found=f"recommended: {recommendation}; largest ratio of any figure, {worst} ({claims.LIMITS})",
    )


def _worst(point: Point, method: str) -> str:
    """Return the largest ratio with its limits, its figure and the verdict."""
    ratio = point.ratios[method]
    if not ratio.known.all():
        return claims.UNKNOWN
    largest = int(ratio.limits()[1].argmax())
    return f"{ratio.text(largest)} in {list(point.figures)[largest]}, {verdict(point, method)}"


def _error(*figures: Number) -> float:
    """Return the errors of figures in quadrature."""
    return float(np.sqrt(sum((figure.uncertainty or 0) ** 2 for figure in figures)))


def inverted_widths(points: Sequence[Point]) -> tuple[str, ...]:
    """Return a caveat on figures in which more bits are worse than fewer: single trainings scatter."""
    warnings = []
    for more, fewer in ((a, b) for a in points for b in points if a.bits > b.bits):
        worse = [
            f"{figure} ({more.figures[figure].value:.3g} against {fewer.figures[figure].value:.3g} {more.figures[figure].unit})"
            for figure in more.figures
            if more.figures[figure].value - fewer.figures[figure].value > _error(more.figures[figure], fewer.figures[figure])
        ]
        if worse:
            warnings.append(f"{more.bits} bit are worse than {fewer.bits} in {', '.join(worse)}")
    return (f"{'; '.join(warnings)}: trainings scatter by at least as much.",) if warnings else ()


def _cost(point: Point, axis: str) -> str:
    return f"{point.cost(axis):,.0f} {'LUT (synthesised)' if axis == 'LUT' else 'EBOPs (estimated)'}"


def _table(points: list[Point], levels: Mapping[str, Mapping[str, Number]]) -> Table:
    figures = list(levels[FLOAT])
    rows: list[tuple[Number | str, ...]] = [(method, "–", "–", "–", "–", *numbers.values()) for method, numbers in levels.items()]
    for point in points:
        synthesised = (
            Number(value=point.resources[name], origin="synthesised") if name in point.resources else "–"
            for name in ("LUT", "FF")
        )
        cycles = Number(value=point.cycles, unit="cycles", origin="simulated") if point.cycles is not None else "–"
        ebops = Number(value=point.ebops, origin="estimated")
        rows.append((f"{point.bits} bit", ebops, *synthesised, cycles, *(point.figures[figure] for figure in figures)))
    columns = ("network", "EBOPs", "LUT", "FF", "latency", *figures)
    missing = "; ".join(f"{point.bits} bit: {remark}" for point in points for remark in point.remarks)
    return Table(title="Bit widths", columns=columns, rows=tuple(rows), caption=missing)


def _plot(points: list[Point], figure: str, levels: Mapping[str, Mapping[str, Number]], axis: str) -> Plot:
    costed = [p for p in points if p.cost(axis) > 0]
    best = front(costed, figure, axis)
    ends = (min(p.cost(axis) for p in costed), max(p.cost(axis) for p in costed)) if costed else ()

    def error(p: Point) -> tuple[float, ...]:
        uncertainty = p.figures[figure].uncertainty
        return (float(uncertainty),) if uncertainty is not None else ()

    unit = levels[FLOAT][figure].unit
    return Plot(
        title=f"{figure} against {axis}",
        x_label="LUT of the unrolled network (synthesised)" if axis == "LUT" else "effective bit operations (estimated)",
        y_label=f"{figure} [{unit}]" if unit else figure,
        x_scale="log",
        series=(
            *(
                Series(name=f"{p.bits} bit", x=(p.cost(axis),), y=(float(p.figures[figure].value),), y_error_low=error(p),
                       y_error_high=error(p))
                for p in costed
            ),
            Series(name="Pareto front", x=tuple(p.cost(axis) for p in best),
                   y=tuple(float(p.figures[figure].value) for p in best), style="line"),
            *(
                Series(name=method, x=ends, y=(float(numbers[figure].value),) * len(ends), style="line")
                for method, numbers in levels.items()
            ),
        ),
        caption="Points on the front are better than every cheaper one. Horizontal lines: the other methods on the same events.",
    )  # fmt: skip
