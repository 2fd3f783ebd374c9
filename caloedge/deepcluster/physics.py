"""The physics of photon reconstruction: what each method finds, and how well it measures energy, position and π⁰ mass.

All methods are evaluated on the same events: in tables and plots each by the photons that it finds, in claims by those that
both methods find. Lengths are in crystals, energies in GeV.
Axes: E event, P true photon, B bin.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE, Assessment
from caloedge.deepcluster import displays, pions
from caloedge.detector.crystals import photon_events
from caloedge.detector.crystals.geometry import PBWO4
from caloedge.detector.crystals.photon_events import PhotonEvents, Photons
from caloedge.errors import UserError
from caloedge.metrics import bootstrap, claims, resolution
from caloedge.metrics.claims import ComparedFigure
from caloedge.metrics.photon_matching import MATCHED_WITHIN, SPLIT_WITHIN, Comparison, check, match
from caloedge.metrics.resolution import Estimate, Fit
from caloedge.results import Claim, Number, Plot, Section, Table

METHODS = (REFERENCE, FLOAT, INTEGER, BASELINE)
ENERGY_BINS_GEV = np.array([1, 1.7, 3, 4.5, 6.5, 10, 15, 20, 30, 55, 100])
FIT_FROM_GEV = 3.0
"""Lowest energy of the fit: below it thresholds remove the lower tail of what is found, which the fit does not know."""
COARSE_BINS_GEV = np.array([3.0, 10.0, 30.0, 100.0])
DISTANCE_BINS = np.array([1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 6, 10, 20, 45])
CLOSE = 3.0
"""Two photons closer than this (in crystals) share their showers' cores."""
FAKE_BINS_GEV = np.geomspace(0.25, 64, 9)
IMPACT_BINS = np.array([0, 0.15, 0.25, 0.35, 0.45, 0.55, np.sqrt(0.5)])
IMPACT_FROM_GEV = 10.0
"""Lowest energy of plots against the impact point: at lower ones the noise hides where in the crystal a photon hit."""
TOLERANCE = 0.05
"""Relative loss against the published network's resolutions that a claim allows."""

ENERGY_LABEL = r"true energy $E_\mathrm{gen}$ [GeV]"
SCALE_LABEL = r"median of $E_\mathrm{rec}\,/\,E_\mathrm{gen}$"

PAIRS_FOUND = f"Both photons found < {CLOSE:g} crystals"


@dataclass(frozen=True)
class PhotonFigures:
    """Figures of one method that several sections show."""

    width: Estimate
    """Relative width of the energy of single photons in `ENERGY_BINS_GEV`."""
    scale: Estimate
    """Median response of single photons in `ENERGY_BINS_GEV`."""
    position: Estimate
    """Width of the position of single photons in `ENERGY_BINS_GEV`, crystals."""
    coarse: Estimate
    """Relative width of the energy of single photons in `COARSE_BINS_GEV`."""
    position_all: Estimate
    """Width of the position of all single photons, one bin."""
    close: Estimate
    """Relative width of the energy of photons in pairs closer than `CLOSE`, one bin."""
    single: bootstrap.Ratio
    """Single photons found, one bin."""
    pairs: bootstrap.Ratio
    """Pairs with both photons found: closer than `CLOSE`, and others."""


def sections(events: PhotonEvents, photons: Mapping[str, Photons], classical: Sequence[str] = (BASELINE,)) -> Assessment:
    """Compare the photons of the methods, `catalog`'s four by name and any others, on the same events.

    The integer network is claimed to be better than each of the `classical`. The cells may be those of the first events only;
    they are used for displays. Raises `UserError` if a method is missing,
    `BadData` for photons that are not sorted by event or have no place and energy.
    """
    missing = [name for name in METHODS if name not in photons]
    if missing:
        raise UserError(f"no photons of {', '.join(map(repr, missing))}; give those of {', '.join(map(repr, METHODS))}")
    ordered = {name: photons[name] for name in (*METHODS, *(name for name in photons if name not in METHODS))}
    for name, method_photons in ordered.items():
        check(method_photons, len(events.kind_E), name)
    compared = Comparison(
        events,
        ordered,
        {name: match(events.crystals, method_photons) for name, method_photons in ordered.items()},
        bootstrap.shared_bootstrap_weights(events.crystals.shower_EP, seed=1),
    )
    measured = {name: _measure(compared, name) for name in ordered}
    shown = displays.displays(events, ordered)
    result = (
        _summary_section(compared, measured),
        _single_section(compared, measured),
        _finding_section(compared, measured),
        _pair_section(compared),
        pions.section(compared),
        *((Section(title="Event displays", text=DISPLAYS_TEXT, blocks=shown),) if shown else ()),
    )
    return Assessment(
        result, _figures(compared, measured), _claims(compared, measured, classical), _caveats(compared, measured, classical)
    )


DISPLAYS_TEXT = (
    "Energies of the crystals after noise and read-out threshold, with what each method reconstructs. Which events are shown "
    "was decided by their truth alone."
)


def _single(compared: Comparison, edges: NDArray[Any]) -> NDArray[Any]:
    """Return the energy bin (E, P) of single photons, −1 for all other photons."""
    bin_EP = resolution.bin_of(compared.truth.crystals.energy_EP, edges)
    return np.where((compared.truth.kind_E == photon_events.ONE)[:, None], bin_EP, -1)


def _close(compared: Comparison) -> NDArray[Any]:
    """Return 0 for pairs of photons closer than `CLOSE`, 1 for other pairs, −1 for what is no pair, (E,)."""
    two_E = compared.truth.kind_E == photon_events.TWO
    return np.where(two_E, (compared.truth.distance >= CLOSE).astype(int), -1)


def _measure(compared: Comparison, name: str) -> PhotonFigures:
    response_EP, offset_EP2 = compared.response(name), compared.offset(name)
    weights_RE, matches = compared.weights_RE, compared.matches[name]
    fine_EP, coarse_EP = _single(compared, ENERGY_BINS_GEV), _single(compared, COARSE_BINS_GEV)
    close_E, single_E = _close(compared), compared.truth.kind_E == photon_events.ONE
    n_fine, n_coarse = len(ENERGY_BINS_GEV) - 1, len(COARSE_BINS_GEV) - 1
    relative, half = resolution.relative_width, resolution.half_width
    return PhotonFigures(
        width=resolution.in_bins(response_EP, fine_EP, n_fine, weights_RE, relative),
        scale=resolution.in_bins(response_EP, fine_EP, n_fine, weights_RE, resolution.median),
        position=resolution.in_bins(offset_EP2, fine_EP, n_fine, weights_RE, half),
        coarse=resolution.in_bins(response_EP, coarse_EP, n_coarse, weights_RE, relative),
        position_all=resolution.in_bins(offset_EP2, np.where(single_E, 0, -1), 1, weights_RE, half),
        close=resolution.in_bins(response_EP, close_E, 1, weights_RE, relative),
        single=resolution.share(matches.found[:, 0], single_E, np.zeros_like(close_E), 1, weights_RE),
        pairs=resolution.share(matches.both_found, close_E >= 0, close_E, 2, weights_RE),
    )


def _coarse_sample(compared: Comparison, b: int) -> str:
    return f"{int((_single(compared, COARSE_BINS_GEV) == b).sum()):,} photons"


def _fakes(compared: Comparison, name: str, edges: NDArray[Any]) -> bootstrap.Ratio:
    """Return fake photons per event in bins of their energy."""
    photons, n_events = compared.photons[name], len(compared.truth.kind_E)
    bin_N = np.where(compared.matches[name].fake_N, resolution.bin_of(photons.energy_N, edges), -1)
    fakes_EB = resolution.tally(photons.event_N, bin_N, n_events, len(edges) - 1)
    return bootstrap.ratio(fakes_EB, np.ones_like(fakes_EB), compared.weights_RE, binomial=False)


def _summary_section(compared: Comparison, measured: Mapping[str, PhotonFigures]) -> Section:
    truth, weights_RE = compared.truth, compared.weights_RE
    energy_EP, shower_EP = truth.crystals.energy_EP, truth.crystals.shower_EP
    single_E = truth.kind_E == photon_events.ONE
    counted = [f"{int((truth.kind_E == kind).sum()):,}" for kind in range(len(photon_events.KINDS))]
    finding: list[tuple[Number | str, ...]] = []
    measuring: list[tuple[Number | str, ...]] = []
    for name, figures in measured.items():
        split_E = compared.matches[name].split_EP[:, 0]
        split = resolution.share(split_E, single_E, np.zeros(len(single_E), np.int64), 1, weights_RE)
        fakes = _fakes(compared, name, np.array([-np.inf, np.inf]))
        per_100 = Number(
            value=100 * float(fakes.value[0]),
            origin="computed",
            uncertainty=100 * float(fakes.uncertainty[0]),
            sample=f"{len(single_E):,} events",
        )
        pairs = (bootstrap.percent(figures.pairs, kind, "pairs") for kind in (0, 1))
        finding.append(
            (name, bootstrap.percent(figures.single, 0, "photons"), *pairs, per_100, bootstrap.percent(split, 0, "photons"))
        )
        widths = (resolution.number(figures.coarse, b, "%", 100, _coarse_sample(compared, b)) for b in (0, 1, 2))
        position = resolution.number(figures.position_all, 0, "mm", PBWO4.cell_mm, f"{counted[0]} photons")
        in_pairs = resolution.number(figures.close, 0, "%", 100, f"{int(figures.close.count_B[0]):,} photons")
        measuring.append((name, *widths, position, in_pairs))
    ranges = [f"σ(E)/E, {low:g}–{high:g} GeV" for low, high in pairwise(COARSE_BINS_GEV)]
    return Section(
        title="Photon reconstruction on the same test events",
        text="Reconstructed photons are matched to true ones by position alone: the assignment with the smallest sum of "
        f"distances, none above {MATCHED_WITHIN:g} crystals ({MATCHED_WITHIN * PBWO4.cell_mm:g} mm), each used once. What is "
        f"matched to none is a fake. A photon is split if two or more within {SPLIT_WITHIN:g} crystals can be nothing else. The "
        "resolution is half of the smallest interval that holds 68.27 % of the values: of reconstructed over true energy, "
        "divided by their median, or of reconstructed minus true position, both axes together. Each method is judged by the "
        "photons that it finds. Errors are 68 % bootstrap intervals; showers are resampled, because composed events share them, "
        "by the same weights for all methods.",
        blocks=(
            Table(
                title="Photons found",
                columns=(
                    "method",
                    "one photon found",
                    f"both of two found, < {CLOSE:g} crystals",
                    f"both of two found, ≥ {CLOSE:g} crystals",
                    "fakes per 100 events",
                    "one photon split",
                ),
                rows=tuple(finding),
                caption=f"{len(single_E):,} events: {counted[0]} with one photon, {counted[1]} with two, {counted[2]} with a π⁰; "
                f"{int(np.isfinite(energy_EP).sum()):,} photons of {len(np.unique(shower_EP[shower_EP >= 0])):,} showers. Fakes "
                "of all events; pieces of a split photon are among them.",
            ),
            Table(
                title="Photons measured",
                columns=("method", *ranges, "position", f"σ(E)/E, pairs < {CLOSE:g} crystals"),
                rows=tuple(measuring),
                caption="Single photons but for the last column, each method by those that it finds of the numbers given; "
                f"position at all energies, in mm of {PBWO4.cell_mm:g} mm crystals. A method that finds more close pairs has "
                "harder ones: the claims compare photons that both methods find.",
            ),
        ),
    )


def _single_section(compared: Comparison, measured: Mapping[str, PhotonFigures]) -> Section:
    bin_EP = _single(compared, ENERGY_BINS_GEV)
    energy_EP = compared.truth.crystals.energy_EP
    n_bins = len(ENERGY_BINS_GEV) - 1
    inverse_BT = resolution.inverse_powers(energy_EP, bin_EP, n_bins)
    in_fit_B = ENERGY_BINS_GEV[:-1] >= FIT_FROM_GEV
    fits = {
        name: resolution.fit(figures.width, np.where(in_fit_B[:, None], inverse_BT, np.nan)) for name, figures in measured.items()
    }
    n_photons = int(((bin_EP >= 0) & (bin_EP < n_bins)).sum())
    return Section(
        title="Energy and position of single photons",
        text="Photons that are alone in their event.",
        blocks=(
            _fit_plot(measured, fits, 1 / inverse_BT[:, 0], n_photons),
            _against_energy(
                "Energy scale",
                SCALE_LABEL,
                {name: (figures.scale, 1.0) for name, figures in measured.items()},
                f"{n_photons:,} single photons.",
                ratio_to="",
            ),
            _against_energy(
                "Position resolution",
                "position resolution [mm]",
                {name: (figures.position, PBWO4.cell_mm) for name, figures in measured.items()},
                f"{n_photons:,} single photons, both coordinates of each.",
                ratio_to=REFERENCE,
            ),
            *_impact_plots(compared),
            _fit_table(fits, int(in_fit_B.sum())),
        ),
    )


def _fit_plot(measured: Mapping[str, PhotonFigures], fits: Mapping[str, Fit], energy_B: NDArray[Any], n_photons: int) -> Plot:
    """Draw resolutions at the bins' harmonic mean energies: σ/E of the stochastic term is right there, bin centres are not."""
    top_gev = float(ENERGY_BINS_GEV[-1])
    curves = (resolution.fit_line(name, fit, FIT_FROM_GEV, top_gev) for name, fit in fits.items() if np.isfinite(fit.chi2))
    return Plot(
        title="Energy resolution",
        x_label=ENERGY_LABEL,
        y_label="energy resolution σ(E)/E [%]",
        x_scale="log",
        y_scale="log",
        x_range=(float(ENERGY_BINS_GEV[0]), top_gev),
        series=(*(resolution.points_at(name, energy_B, figures.width, 100) for name, figures in measured.items()), *curves),
        ratio_to=REFERENCE,
        caption=f"{n_photons:,} single photons. Points stand at the harmonic mean energies of their bins, lines are fits of "
        f"a/√E ⊕ b/E ⊕ c from {FIT_FROM_GEV:g} GeV up.",
    )


def _fit_table(fits: Mapping[str, Fit], n_bins: int) -> Table:
    rows: list[tuple[Number | str, ...]] = []
    for name, fit in fits.items():
        terms = (
            Number(value=scale * float(value), unit=unit, origin="computed", uncertainty=scale * float(error))
            for value, error, scale, unit in zip(
                fit.terms_T, fit.uncertainty_T, (100, 1, 100), ("% √GeV", "GeV", "%"), strict=True
            )
        )
        rows.append((name, *terms, f"{fit.chi2:.1f} / {fit.ndf}" if np.isfinite(fit.chi2) else "too few bins"))
    return Table(
        title="Fit of the energy resolution",
        columns=("method", "stochastic term a", "noise term b", "constant term c", "χ² / ndf"),
        rows=tuple(rows),
        caption=f"σ(E)/E = a/√E ⊕ b/E ⊕ c, added in quadrature, E in GeV, none negative; {n_bins} bins from {FIT_FROM_GEV:g} GeV "
        "up. Least squares of the squared widths with each bin's means of 1/E and 1/E². Errors: the standard deviation of the "
        "replicas' fits; the terms are correlated, and one that is 0 in most replicas has no Gaussian error.",
    )


def _against_energy(
    title: str, y_label: str, estimates: Mapping[str, tuple[Estimate, float]], caption: str, ratio_to: str
) -> Plot:
    return Plot(
        title=title,
        x_label=ENERGY_LABEL,
        y_label=y_label,
        x_scale="log",
        series=tuple(resolution.points(name, ENERGY_BINS_GEV, estimate, scale) for name, (estimate, scale) in estimates.items()),
        ratio_to=ratio_to,
        caption=caption,
    )


def _impact_plots(compared: Comparison) -> tuple[Plot, ...]:
    energy_EP, impact_EP2 = compared.truth.crystals.energy_EP, compared.truth.crystals.impact_EP2
    high_EP = (compared.truth.kind_E == photon_events.ONE)[:, None] & (energy_EP >= IMPACT_FROM_GEV)
    from_centre_EP = np.hypot(*np.moveaxis(impact_EP2 - np.floor(impact_EP2) - 0.5, -1, 0))
    bin_EP = np.where(high_EP, resolution.bin_of(from_centre_EP, IMPACT_BINS), -1)
    return _plots_of_all(
        compared,
        bin_EP,
        IMPACT_BINS,
        "where the photon hits",
        "distance of the impact from the crystal's centre [crystals]",
        f"{int(high_EP.sum()):,} single photons above {IMPACT_FROM_GEV:g} GeV.",
        "linear",
    )


def _plots_of_all(
    compared: Comparison,
    bin_EP: NDArray[Any],
    edges: NDArray[Any],
    abscissa: str,
    x_label: str,
    caption: str,
    x_scale: Literal["linear", "log"],
) -> tuple[Plot, ...]:
    """Draw energy resolution and scale and position resolution of matched photons in the same bins."""
    quantities = (
        ("Energy resolution", "energy resolution σ(E)/E [%]", 100.0, resolution.relative_width, compared.response),
        ("Energy scale", SCALE_LABEL, 1.0, resolution.median, compared.response),
        ("Position resolution", "position resolution [mm]", PBWO4.cell_mm, resolution.half_width, compared.offset),
    )
    return tuple(
        Plot(
            title=f"{title} against {abscissa}",
            x_label=x_label,
            y_label=y_label,
            x_scale=x_scale,
            series=tuple(
                resolution.points(
                    name,
                    edges,
                    resolution.in_bins(values(name), bin_EP, len(edges) - 1, compared.weights_RE, statistic),
                    scale,
                )
                for name in compared.photons
            ),
            ratio_to="" if y_label == SCALE_LABEL else REFERENCE,
            caption=caption,
        )
        for title, y_label, scale, statistic, values in quantities
    )


def _finding_section(compared: Comparison, measured: Mapping[str, PhotonFigures]) -> Section:
    truth, weights_RE, n_bins = compared.truth, compared.weights_RE, len(ENERGY_BINS_GEV) - 1
    single_EP = _single(compared, ENERGY_BINS_GEV)
    every_EP = resolution.bin_of(truth.crystals.energy_EP, ENERGY_BINS_GEV)
    n_single, n_every = (int(((bin_EP >= 0) & (bin_EP < n_bins)).sum()) for bin_EP in (single_EP, every_EP))
    present_EP = np.isfinite(truth.crystals.energy_EP)

    def share(title: str, y_label: str, bin_EP: NDArray[Any], passed: Mapping[str, NDArray[Any]], caption: str, to: str) -> Plot:
        ratios = {name: resolution.share(passed_EP, present_EP, bin_EP, n_bins, weights_RE) for name, passed_EP in passed.items()}
        return Plot(
            title=title,
            x_label=ENERGY_LABEL,
            y_label=y_label,
            x_scale="log",
            series=tuple(bootstrap.points(name, ENERGY_BINS_GEV, ratio, 100) for name, ratio in ratios.items()),
            ratio_to=to,
            caption=caption,
        )

    found_EP = {name: compared.matches[name].found for name in measured}
    split = {name: compared.matches[name].split_EP for name in measured}
    return Section(
        title="Efficiency, fakes and splitting",
        text="A photon is found if a reconstructed one is matched to it. Fakes are counted in the bin of their own energy.",
        blocks=(
            share(
                "Efficiency for single photons",
                "efficiency [%]",
                single_EP,
                found_EP,
                f"{n_single:,} photons alone in their event.",
                REFERENCE,
            ),
            share(
                "Efficiency for all photons",
                "efficiency [%]",
                every_EP,
                found_EP,
                f"{n_every:,} photons: single ones, pairs and those of π⁰.",
                REFERENCE,
            ),
            _fake_plot(compared),
            share(
                "Splitting of single photons",
                "photons split [%]",
                single_EP,
                split,
                f"{n_single:,} photons alone in their event; split into two or more within {SPLIT_WITHIN:g} crystals.",
                "",
            ),
        ),
    )


def _fake_plot(compared: Comparison) -> Plot:
    low, high = FAKE_BINS_GEV[0], FAKE_BINS_GEV[-1]
    outside = []
    for name, photons in compared.photons.items():
        energies = photons.energy_N[compared.matches[name].fake_N]
        outside.append(f"{name} {int(((energies < low) | (energies > high)).sum()):,}")
    return Plot(
        title="Fake photons",
        x_label="reconstructed energy [GeV]",
        y_label="fakes per 100 events and bin",
        x_scale="log",
        series=tuple(
            bootstrap.points(name, FAKE_BINS_GEV, _fakes(compared, name, FAKE_BINS_GEV), 100) for name in compared.photons
        ),
        caption=f"{len(compared.truth.kind_E):,} events of all kinds. Fakes outside the axis: {', '.join(outside)}.",
    )


def _pair_section(compared: Comparison) -> Section:
    truth, n_bins = compared.truth, len(DISTANCE_BINS) - 1
    two_E = truth.kind_E == photon_events.TWO
    bin_E = np.where(two_E, resolution.bin_of(truth.distance, DISTANCE_BINS), -1)
    both = {
        name: resolution.share(matches.both_found, two_E, bin_E, n_bins, compared.weights_RE)
        for name, matches in compared.matches.items()
    }
    x_label, pairs = "distance of the impact points [crystals]", f"{int(two_E.sum()):,} pairs of photons, π⁰ not among them"
    return Section(
        title="Two photons",
        text="Pairs of independent photons by the distance of their true impact points. Resolutions are those of the photons "
        "matched, whatever became of the other one: a method that finds fewer close pairs is judged by easier ones.",
        blocks=(
            Plot(
                title="Both photons found against their distance",
                x_label=x_label,
                y_label="both photons found [%]",
                x_scale="log",
                series=tuple(bootstrap.points(name, DISTANCE_BINS, ratio, 100) for name, ratio in both.items()),
                ratio_to=REFERENCE,
                caption=f"{pairs}.",
            ),
            *_plots_of_all(
                compared,
                np.repeat(bin_E[:, None], 2, axis=1),
                DISTANCE_BINS,
                "the distance of two photons",
                x_label,
                f"{pairs}; photons of all energies.",
                "log",
            ),
        ),
    )


def _claims(compared: Comparison, measured: Mapping[str, PhotonFigures], classical: Sequence[str]) -> tuple[Claim, ...]:
    """Test the integer network against the published one and against the classical methods."""
    above = ENERGY_BINS_GEV[:-1] >= 3
    worse = (
        f"is at most {100 * TOLERANCE:g} % (relative) worse than that of the published float network as trained here, in every "
        "bin above 3 GeV"
    )
    integer, published = _found_by_both(compared, REFERENCE)
    return (
        *(
            claims.claim_at_most(
                f"The integer network's {quantity} resolution for single photons {worse}, {BOTH}.",
                f"{quantity} resolution at most {100 * TOLERANCE:g} % above the published network's",
                _only(resolution.compared(integer[quantity], published[quantity]), above),
                1 + TOLERANCE, _places(above), "ratio of the widths, ",
            )
            for quantity in ("energy", "position")
        ),
        *(claim for method in classical for claim in _claims_against(method, compared, measured)),
    )  # fmt: skip


BOTH = "of the photons that both methods find"


def _places(bins_B: NDArray[Any]) -> list[str]:
    return [f"{low:g}–{high:g} GeV" for (low, high), chosen in zip(pairwise(ENERGY_BINS_GEV), bins_B, strict=True) if chosen]


def _claims_against(method: str, compared: Comparison, measured: Mapping[str, PhotonFigures]) -> tuple[Claim, ...]:
    """Test whether the integer network is better than a classical method."""
    below = ENERGY_BINS_GEV[1:] <= 30
    close, clearly = f"for two photons closer than {CLOSE:g} crystals", f"by more than {claims.CLEARLY:g} σ"
    integer, other = _found_by_both(compared, method)
    pairs, other_pairs = measured[INTEGER].pairs, measured[method].pairs

    def against(quantity: str, unit: str) -> str:
        shown = (
            f"{estimates[quantity].value_B[0]:.2%}" if unit == "%" else f"{estimates[quantity].value_B[0]:.3g} {unit}"
            for estimates in (integer, other)
        )
        return f"{' against '.join(shown)} of {int(integer[quantity].count_B[0]):,} values: ratio "

    return (
        *(
            claims.claim_below_everywhere(
                f"The integer network's {quantity} resolution for single photons is better than the {method}'s in every "
                f"bin below 30 GeV, and in their mean {clearly}, {BOTH}.",
                f"{quantity} resolution below the {method}'s",
                _only(resolution.compared(integer[quantity], other[quantity]), below), 1, _places(below),
            )
            for quantity in ("energy", "position")
        ),
        claims.claim_clearly_above(
            f"The integer network finds both photons more often than the {method} {close}, {clearly}.",
            f"close pairs found above the {method}'s",
            claims.difference(pairs, other_pairs), 0,
            f"{pairs.value[0]:.2%} against {other_pairs.value[0]:.2%} of {int(pairs.total[0]):,} pairs: ",
        ),
        *(
            claims.claim_clearly_below(
                f"The integer network's {quantity} resolution {close} is better than the {method}'s, {clearly}, of the "
                "pairs that both methods find whole.",
                f"{quantity} resolution of close pairs below the {method}'s",
                resolution.compared(integer[f"close {quantity}"], other[f"close {quantity}"]), 1,
                against(f"close {quantity}", unit),
            )
            for quantity, unit in (("energy", "%"), ("position", "mm"))
        ),
    )  # fmt: skip


def _caveats(compared: Comparison, measured: Mapping[str, PhotonFigures], classical: Sequence[str]) -> tuple[str, ...]:
    """Warn of energies at which the integer network is worse than a classical method or its float twin, and of its scale."""
    places = _places(np.ones(len(ENERGY_BINS_GEV) - 1, bool))
    scale = measured[INTEGER].scale
    warnings: list[str] = []
    for other in (*classical, FLOAT):
        integer, other_estimates = _found_by_both(compared, other)
        than = "its own float twin" if other == FLOAT else f"the {other}"
        for quantity in ("energy", "position"):
            ratio = resolution.compared(integer[quantity], other_estimates[quantity])
            warnings += claims.worse(than, f"{quantity} resolution for single photons", ratio, places)
    return (
        *warnings,
        *claims.biased("The integer network's energy scale", ComparedFigure(scale.value_B, scale.replicas_RB), places),
    )


def _found_by_both(compared: Comparison, other: str) -> tuple[dict[str, Estimate], dict[str, Estimate]]:
    """Return the widths of the integer network and of another method, of single photons and close pairs that both find.

    Otherwise a method that finds more of the hard ones is measured worse for it, and one that merges pairs better.
    """
    integer, other_matches = compared.matches[INTEGER], compared.matches[other]
    single_EP = np.where(integer.found & other_matches.found, _single(compared, ENERGY_BINS_GEV), -1)
    close_E = np.where(integer.both_found & other_matches.both_found & (_close(compared) == 0), 0, -1)
    n_bins = len(ENERGY_BINS_GEV) - 1

    def widths(name: str) -> dict[str, Estimate]:
        quantities = (
            ("energy", compared.response(name), resolution.relative_width),
            ("position", compared.offset(name) * PBWO4.cell_mm, resolution.half_width),
        )
        estimates: dict[str, Estimate] = {}
        for quantity, values, statistic in quantities:
            estimates[quantity] = resolution.in_bins(values, single_EP, n_bins, compared.weights_RE, statistic)
            estimates[f"close {quantity}"] = resolution.in_bins(values, close_E, 1, compared.weights_RE, statistic)
        return estimates

    return widths(INTEGER), widths(other)


def _only(figure: ComparedFigure, bins_B: NDArray[Any]) -> ComparedFigure:
    return ComparedFigure(figure.value_B[bins_B], figure.replicas_RB[:, bins_B])


def _figures(compared: Comparison, measured: Mapping[str, PhotonFigures]) -> dict[str, dict[str, Number]]:
    low, high = COARSE_BINS_GEV[1:3]
    shown = {name: measured[name] for name in (REFERENCE, INTEGER, BASELINE)}
    return {
        f"σ(E)/E at {low:g}–{high:g} GeV": {
            name: resolution.number(figures.coarse, 1, "%", 100, _coarse_sample(compared, 1)) for name, figures in shown.items()
        },
        PAIRS_FOUND: {name: bootstrap.percent(figures.pairs, 0, "pairs") for name, figures in shown.items()},
    }
