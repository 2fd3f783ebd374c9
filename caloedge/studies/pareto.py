"""Accuracy against hardware cost of one network at several bit widths: Pareto front and recommended width."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from caloedge.catalog import FLOAT, REFERENCE, Assessment
from caloedge.metrics import claims
from caloedge.metrics.claims import ComparedFigure
from caloedge.reports.summary import Figures
from caloedge.results import Cell, Claim, Number, Plot, Section, Series, Table, Verdict
from caloedge.studies.widths import UNROLLED, IntegerNetwork

TOLERANCE = 0.05
"""Largest relative loss of the recommended network in any figure against the float network of the same shape."""
AXES = ("LUT", "EBOPs")


@dataclass(frozen=True)
class Point:
    """The figures and cost of the network at one bit width."""

    bits: int
    figures: Mapping[str, Number]
    """Of the integer network, by name; all such that less is better."""
    ebops: int
    resources: Mapping[str, int]
    """Synthesised resources by name; empty where it was not synthesised."""
    cycles: int | None
    """Latency of the synthesised design from input to output [clock cycles]."""
    ratios: Mapping[str, ComparedFigure] = field(default_factory=dict)
    """Ratios of the figures, one per bin, to those of another method on the same events, by method."""
    remarks: tuple[str, ...] = ()
    """Reasons why something was not synthesised."""

    def cost(self, axis: str) -> float:
        """Return LUTs, 0 if they are not known, or effective bit operations."""
        return float(self.resources.get("LUT", 0) if axis == "LUT" else self.ebops)


def less_is_better(assessment: Assessment, *, lower_is_better: bool) -> Assessment:
    """Return an assessment whose figures are such that less is better: shares in percent become what they lack of 100."""
    if lower_is_better:
        return assessment
    figures = {
        f"100 % − {figure.lower()}": {
            method: number.model_copy(update={"value": 100 - number.value}) for method, number in numbers.items()
        }
        for figure, numbers in assessment.figures.items()
    }
    replicas = {
        f"100 % − {figure.lower()}": {method: 100 - replicas_R for method, replicas_R in by_method.items()}
        for figure, by_method in assessment.replicas.items()
    }
    return Assessment((), figures, (), replicas=replicas)


def points(networks: Sequence[IntegerNetwork], losses: Assessment) -> list[Point]:
    """Return a point for each width, the widest first; `losses` are figures of which less is better, of all methods at once."""
    return [
        Point(
            network.bits,
            {figure: numbers[network.method] for figure, numbers in losses.figures.items()},
            network.ebops,
            network.resources,
            network.cycles,
            {method: _ratios(losses, network.method, method) for method in (REFERENCE, FLOAT)},
            network.remarks,
        )
        for network in sorted(networks, key=lambda network: -network.bits)
    ]


def _ratios(losses: Assessment, method: str, other: str) -> ComparedFigure:
    """Return one method's figures over another's, one per bin; not known of a task that gives no replicas."""
    values, other_values = (
        np.array([numbers[name].value for numbers in losses.figures.values()], float) for name in (method, other)
    )
    if losses.replicas.keys() != losses.figures.keys():
        return claims.ratio(values, np.full((1, len(values)), np.nan), other_values, np.ones((1, len(values))))
    replicas, other_replicas = (
        np.stack([losses.replicas[figure][name] for figure in losses.figures], axis=1) for name in (method, other)
    )
    return claims.ratio(values, replicas, other_values, other_replicas)


def axis_of(points: Sequence[Point]) -> str:
    """Return the cost by which all points can be compared: LUTs if all were synthesised, else EBOPs."""
    return "LUT" if all("LUT" in point.resources for point in points) else "EBOPs"


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


def width_claims(points: Sequence[Point]) -> tuple[Claim, Claim]:
    """Claim that one width is as good as each of the float networks."""
    return (
        claim(points, REFERENCE, "the published float network's as trained here"),
        claim(points, FLOAT, "those of the float network of the same shape"),
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


def section(points: Sequence[Point], levels: Figures) -> Section:
    """Return the section on cost; `levels` are the same figures of the other methods."""
    axes = [axis for axis in AXES if any(point.cost(axis) for point in points)]
    return Section(
        title="Accuracy against hardware cost",
        text=f"Smaller is better in every figure. LUTs are those of the {UNROLLED} Verilog, one input per clock cycle, by yosys, "
        "where the network is small enough for it; EBOPs sum weight bits times input bits over all products. All widths are "
        "measured on the same events.",
        blocks=(_table(points, levels), *(_plot(points, figure, levels[figure], axis) for figure in levels for axis in axes)),
    )


def _table(points: Sequence[Point], levels: Figures) -> Table:
    methods = tuple(next(iter(levels.values()), {}))
    rows: list[tuple[Cell, ...]] = [
        (method, "–", "–", "–", "–", *(numbers[method] for numbers in levels.values())) for method in methods
    ]
    for point in points:
        synthesised = (
            Number(value=point.resources[name], origin="synthesised") if name in point.resources else "–"
            for name in ("LUT", "FF")
        )
        cycles = Number(value=point.cycles, unit="cycles", origin="simulated") if point.cycles is not None else "–"
        ebops = Number(value=point.ebops, origin="estimated")
        rows.append((f"{point.bits} bit", ebops, *synthesised, cycles, *(point.figures[figure] for figure in levels)))
    columns = ("network", "EBOPs", "LUT", "FF", "latency", *levels)
    missing = "; ".join(f"{point.bits} bit: {remark}" for point in points for remark in point.remarks)
    return Table(title="Bit widths", columns=columns, rows=tuple(rows), caption=missing)


def _plot(points: Sequence[Point], figure: str, levels: Mapping[str, Number], axis: str) -> Plot:
    costed = [p for p in points if p.cost(axis) > 0]
    best = front(costed, figure, axis)
    ends = (min(p.cost(axis) for p in costed), max(p.cost(axis) for p in costed)) if costed else ()

    def error(p: Point) -> tuple[float, ...]:
        uncertainty = p.figures[figure].uncertainty
        return (float(uncertainty),) if uncertainty is not None else ()

    unit = points[0].figures[figure].unit
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
                Series(name=method, x=ends, y=(float(number.value),) * len(ends), style="line")
                for method, number in levels.items()
            ),
        ),
        caption="Points on the front are better than every cheaper one. Horizontal lines: the other methods on the same events.",
    )  # fmt: skip
