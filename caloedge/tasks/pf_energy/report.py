"""Sections of a report on energy images: sets of events, closure of pixels and events, the field, jets, displays.

Axes: E event, C channel, H row in η, W column in φ, B bin, J jet.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import FLOAT, REFERENCE
from caloedge.metrics import bootstrap, energy_images, jet_resolution, resolution
from caloedge.metrics.energy_images import PIXEL_BINS_GEV
from caloedge.metrics.jet_resolution import FOUND_ABOVE_GEV, MATCHED_WITHIN, TRUE_ABOVE_GEV
from caloedge.metrics.resolution import Estimate
from caloedge.reconstruction.jet_clustering import RADIUS
from caloedge.results import Number, Plot, Section, Series, Table
from caloedge.tasks.pf_energy import displays
from caloedge.tasks.pf_energy.comparison import (
    ALL_JETS_GEV,
    CLOSURE,
    CLOSURE_WIDTH,
    JETS,
    RELATIVE,
    SSIM,
    WMSE,
    MethodComparison,
    bins,
    difference,
    jet_estimate,
)

JET_BINS_GEV = np.array([TRUE_ABOVE_GEV, 50, 80, 120, 160, 220, 400])
YARDSTICK = "reference"
"""Part of the names of further networks that every method is compared with, beside the published and the edge one."""
_UNITS = {WMSE: ("GeV²", 1.0), RELATIVE: ("%", 100.0), SSIM: ("", 1.0), CLOSURE: ("", 1.0), CLOSURE_WIDTH: ("%", 100.0)}
_TABLES = {
    WMSE: ("Error weighted by energy", "Mean of Σ y (ŷ − y)² / Σ y over events: it grows with the square of the energies."),
    RELATIVE: (
        "Relative error",
        "Mean of √(Σ y (ŷ − y)² / Σ y³) over events, for comparing sets: it does not depend on the scale of energies, the same "
        "relative error in every pixel gives just that, and a reconstruction of nothing 100 %.",
    ),
    SSIM: (
        "Structural similarity (SSIM)",
        "Mean over events, as in the training: 11 × 11 pixels, Gaussian of 1.5 pixels, range 1 in the networks' units. Where "
        "most pixels are empty in truth and reconstruction, as in QCD events, it is near 1.",
    ),
    CLOSURE: ("Energy closure", "Mean of Σ ŷ / Σ y over events: reconstructed over true energy of the whole event."),
    CLOSURE_WIDTH: ("Width of the energy closure", "Half of the smallest interval that holds 68.27 % of events' Σ ŷ / Σ y."),
}


def sections(compared: MethodComparison, inputs_ECHW: NDArray[Any], outputs: Mapping[str, NDArray[Any]]) -> tuple[Section, ...]:
    """Return all sections; inputs (E, 4, 56, 56) and outputs in the events' units are for displays."""
    return (
        _sets_section(compared),
        _field_section(compared),
        _closure_section(compared),
        _jet_section(compared),
        displays.section(compared.events, (compared.first, compared.jet_set), inputs_ECHW, outputs),
    )


def _sets_section(compared: MethodComparison) -> Section:
    sets = compared.events.sets
    tables = []
    for figure, (title, caption) in _TABLES.items():
        unit, scale = _UNITS[figure]
        rows: list[tuple[Number | str, ...]] = []
        for name, method in compared.methods.items():
            values = method.figures[figure]
            rows.append(
                (name, *(resolution.number(values, i, unit, scale, compared.count(set_name)) for i, set_name in enumerate(sets)))
            )
        tables.append(Table(title=title, columns=("method", *sets), rows=tuple(rows), caption=caption))
    return Section(
        title="Energy of each pixel on the same test events",
        text="True energy y and reconstructed energy ŷ of each pixel. All methods get the same images, events with hot pixels "
        f"divided by a power of two. Only events as in “{compared.first}” are like those of the training; of the others numbers "
        "and energies of the particles, or the generator, are different. The classical methods were tuned on validation events; "
        "the classical baseline is a particle flow that is told each event's field and the detector's mean response and "
        "resolution, the networks are told neither. Errors are 68 % bootstrap intervals over events.",
        blocks=(*tables, *_difference_tables(compared)),
    )


def _yardsticks(compared: MethodComparison) -> list[str]:
    return [name for name in compared.methods if name in (REFERENCE, FLOAT) or YARDSTICK in name]


def _difference_tables(compared: MethodComparison) -> tuple[Table, ...]:
    """Compare every method with the references, paired."""
    others = _yardsticks(compared)
    if not others:
        return ()
    kinds: list[tuple[str, str, dict[str, Estimate]]] = [
        (WMSE, compared.first, {name: bins(method.figures[WMSE], slice(0, 1)) for name, method in compared.methods.items()})
    ]
    if not compared.no_jets:
        kinds.append(
            (JETS, compared.jet_set, {name: method.jet_width for name, method in compared.methods.items() if method.jet_width})
        )
    return tuple(
        Table(
            title=f"{figure[0].upper()}{figure[1:]} relative to the references, {set_name}",
            columns=("method", *(f"to {other}" for other in others)),
            rows=tuple(
                (name, *(difference(estimate, estimates[other], compared.count(set_name)) for other in others))
                for name, estimate in estimates.items()
            ),
            caption="Differences in percent of the reference's figure, negative where the method is better; errors are paired.",
        )
        for figure, set_name, estimates in kinds
    )


def _field_section(compared: MethodComparison) -> Section:
    events = compared.events
    names = ("field off", "field on")
    tables = []
    for set_name in (compared.first, compared.jet_set):
        inside_E = events.of(set_name)
        bin_E = np.where(inside_E, (events.field_E > 0).astype(int), -1)
        counts = [f"{int((bin_E == b).sum()):,} events" for b in (0, 1)]
        rows: list[tuple[Number | str, ...]] = []
        for name, method in compared.methods.items():
            cells: list[Number | str] = [name]
            for figure, values_E in (
                (WMSE, method.errors.wmse_E),
                (RELATIVE, method.errors.relative_E),
                (CLOSURE, method.errors.closure_E),
            ):
                estimate = energy_images.mean(values_E, bin_E, 2, compared.weights_RE)
                cells += [resolution.number(estimate, b, *_UNITS[figure], counts[b]) for b in (0, 1)]
            rows.append(tuple(cells))
        columns = tuple(f"{figure}, {name}" for figure in (WMSE, RELATIVE, CLOSURE) for name in names)
        tables.append(Table(title=f"With and without the field: {set_name}", columns=("method", *columns), rows=tuple(rows)))
    strength = " or ".join(f"{value:g}" for value in np.unique(events.field_E))
    return Section(
        title="With and without the magnetic field",
        text="In the field charged particles hit the calorimeters away from the pixel in which they are produced; the truth is "
        f"where they are produced. The field is {strength} rad · GeV, drawn for each event, and is none of the networks' inputs.",
        blocks=tuple(tables),
    )


def _closure_section(compared: MethodComparison) -> Section:
    plots = [plot for set_name in (compared.first, compared.jet_set) for plot in _pixel_plots(compared, set_name)]
    empty = Table(
        title=f"Pixels below {PIXEL_BINS_GEV[0]:g} GeV",
        columns=("method", *(f"mean of ŷ − y, {set_name}" for set_name in (compared.first, compared.jet_set)),
                 *(f"spread of ŷ − y, {set_name}" for set_name in (compared.first, compared.jet_set))),
        rows=tuple(_empty_row(compared, name) for name in compared.methods),
        caption="Most of them are empty in the truth.",
    )  # fmt: skip
    return Section(
        title="Closure",
        text="Pixels in bins of their true energy: mean and standard deviation of the difference ŷ − y and of the ratio ŷ / y. A "
        "bin needs 100 pixels; events are resampled, not pixels. Of whole events, the ratio of summed energies.",
        blocks=(*plots, empty, *(_event_plot(compared, set_name) for set_name in (compared.first, compared.jet_set))),
    )


def _pixel_plots(compared: MethodComparison, set_name: str) -> list[Plot]:
    inside_E = compared.events.of(set_name)
    closure = {
        relative: {
            name: energy_images.pixel_closure(method.errors, inside_E, compared.weights_RE, relative=relative)
            for name, method in compared.methods.items()
        }
        for relative in (False, True)
    }

    def plot(title: str, label: str, field: str, relative: bool, scale: str) -> Plot:
        inner = slice(1, len(PIXEL_BINS_GEV))  # without the open first and last bin
        return Plot(
            title=f"{title}, {set_name}",
            x_label="true energy of the pixel [GeV]",
            y_label=label,
            x_scale="log",
            y_scale=scale,  # type: ignore[arg-type]
            series=tuple(
                resolution.points(name, PIXEL_BINS_GEV, bins(getattr(measured, field), inner))
                for name, measured in closure[relative].items()
            ),
            caption=f"{compared.count(set_name)}.",
        )

    return [
        plot("Mean of the ratio in a pixel", "mean of ŷ / y", "mean", True, "linear"),
        plot("Spread of the ratio in a pixel", "standard deviation of ŷ / y", "spread", True, "log"),
        plot("Mean of the difference in a pixel", "mean of ŷ − y [GeV]", "mean", False, "linear"),
        plot("Spread of the difference in a pixel", "standard deviation of ŷ − y [GeV]", "spread", False, "log"),
    ]


def _empty_row(compared: MethodComparison, name: str) -> tuple[Number | str, ...]:
    errors, weights_RE = compared.methods[name].errors, compared.weights_RE
    closures = [
        energy_images.pixel_closure(errors, compared.events.of(set_name), weights_RE, relative=False)
        for set_name in (compared.first, compared.jet_set)
    ]

    def cell(estimate: Estimate) -> Number:
        return resolution.number(estimate, 0, "MeV", 1000, f"{int(estimate.count_B[0]):,} pixels")

    return name, *(cell(closure.mean) for closure in closures), *(cell(closure.spread) for closure in closures)


def _event_plot(compared: MethodComparison, set_name: str) -> Plot:
    edges = np.linspace(0.8, 1.2, 81)
    inside_E = compared.events.of(set_name)
    middle, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    return Plot(
        title=f"Reconstructed over true energy of an event, {set_name}",
        x_label="Σ ŷ / Σ y",
        y_label="events",
        x_range=(float(edges[0]), float(edges[-1])),
        series=tuple(
            Series(
                name=name,
                x=tuple(middle.tolist()),
                x_error=tuple(half.tolist()),
                y=tuple(np.histogram(method.errors.closure_E[inside_E], edges)[0].astype(float).tolist()),
                style="steps",
            )
            for name, method in compared.methods.items()
        ),
        caption=f"{compared.count(set_name)}; what lies outside is not shown.",
    )


def _jet_section(compared: MethodComparison) -> Section:
    title, alone = "Jets", f"Jets are compared in the set “{compared.jet_set}” alone: those of the others are combinatorial."
    if compared.no_jets:
        return Section(title=title, text=f"Jets are not compared here: {compared.no_jets}.", blocks=())
    return Section(
        title=title,
        text=f"{alone} Anti-kT, R = {RADIUS:g}, of all pixels above 0 GeV. True jets above {TRUE_ABOVE_GEV:g} GeV are matched "
        f"one to one to reconstructed ones above {FOUND_ABOVE_GEV:g} GeV within ΔR < {MATCHED_WITHIN:g}, the closest first. "
        "Response is the median of reconstructed over true pT, resolution half of their central 68 % interval divided by the "
        "median. Errors are 68 % bootstrap intervals over events.",
        blocks=(_jet_table(compared), *_jet_plots(compared)),
    )


def _jet_table(compared: MethodComparison) -> Table:
    weights_RE = compared.jet_weights
    rows: list[tuple[Number | str, ...]] = []
    for name, method in compared.methods.items():
        assert method.jets is not None
        assert method.jet_width is not None
        true_EJ = np.isfinite(method.jets.true_pt_EJ)
        counted = f"{int(true_EJ.sum()):,} jets"
        response = jet_estimate(method.jets, ALL_JETS_GEV, weights_RE, resolution.median)
        assert response is not None
        matched = np.isfinite(method.jets.ratio_EJ)
        efficiency = resolution.share(matched, true_EJ, np.zeros(true_EJ.shape, np.int64), 1, weights_RE)
        extra = energy_images.mean(method.jets.extra_E.astype(float), np.zeros(len(true_EJ), int), 1, weights_RE)
        rows.append((
            name, resolution.number(method.jet_width, 0, "%", 100, counted), resolution.number(response, 0, "", 1, counted),
            bootstrap.percent(efficiency, 0, "jets"), resolution.number(extra, 0, "", 100, compared.count(compared.jet_set)),
        ))  # fmt: skip
    return Table(
        title=f"Jets above {TRUE_ABOVE_GEV:g} GeV",
        columns=("method", "resolution", "response", "matched", "unmatched jets per 100 events"),
        rows=tuple(rows),
        caption=f"Unmatched: reconstructed above {TRUE_ABOVE_GEV:g} GeV, without a true jet above {FOUND_ABOVE_GEV:g} GeV.",
    )


def _jet_plots(compared: MethodComparison) -> list[Plot]:
    plots = []
    reference = next((name for name in (REFERENCE, FLOAT) if name in compared.methods), "")
    for title, label, statistic, scale, against in (
        ("Jet response", "median of reconstructed / true pT", resolution.median, 1, ""),
        ("Jet resolution", "σ(pT) / pT [%]", jet_resolution.central_width, 100, reference),
    ):
        series = []
        for name, method in compared.methods.items():
            estimate = jet_estimate(method.jets, JET_BINS_GEV, compared.jet_weights, statistic)
            assert estimate is not None
            series.append(resolution.points(name, JET_BINS_GEV, estimate, scale))
        plots.append(
            Plot(
                title=title,
                x_label="true pT of the jet [GeV]",
                y_label=label,
                x_scale="log",
                series=tuple(series),
                ratio_to=against,
                caption=f"{compared.count(compared.jet_set)}.",
            )
        )
    return plots
