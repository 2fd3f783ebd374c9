"""The sections of the report: tables, figures and claims made of what was compared.

Axes: N shower, L layer, B bin.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.fidelity import damage, figures, spectra
from caloedge.fidelity.amplification import TRAINING_PER_BIN, Amplification
from caloedge.fidelity.distances import correlations
from caloedge.fidelity.features import SMALLEST_LOGARITHM
from caloedge.fidelity.figures import Compared, Measure, Sample
from caloedge.fidelity.layout import Layout
from caloedge.fidelity.neighbours import FAR_NEIGHBOUR, SHARE, Nearness
from caloedge.fidelity.response import Response, over
from caloedge.metrics import claims
from caloedge.metrics.bootstrap import spread
from caloedge.results import Cell, Claim, Image, Number, Plot, Section, Series, Table

GENERATED, REFERENCE, ITSELF, FROZEN = "generated", "reference", "reference itself", "frozen showers"
WITHIN_SIGMA = 2.0
"""Standard deviations within which a figure is not told from the floor."""
WIDTH_WITHIN, RESPONSE_WITHIN, NEAR_AT_MOST = 0.05, 0.01, 2 * 100 * SHARE
"""Limits of the claims: on width and response, as shares, and on near showers in percent, twice what independent ones have."""


def samples(compared: Mapping[str, Compared]) -> list[str]:
    """Return the names of the samples that stand in tables: all but the rungs of the ladder."""
    return [name for name in compared if name not in damage.LADDER]


def comparison(compared: Mapping[str, Compared]) -> Section:
    """Return the section with every figure of the generated showers, the floor, and where it stands on the ladder."""
    beside = samples(compared)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (name, *(compared[sample].figures[name] for sample in beside), standing(name, compared), sees)
        for name, sees in figures.SEEN.items()
        if name in compared[GENERATED].figures
    )
    return Section(
        title="Every figure, with the reference against itself beside",
        text="The reference is divided at random into halves. One is the measure; every sample is compared with it at the same "
        f"number of showers. The other half, untouched, is the column “{ITSELF}”: what statistics alone give, the floor of each "
        "figure. The same half, damaged, makes the ladder below, on which a column places the generated showers.\n\n"
        "No figure sees everything: KPD and FPD may miss a total energy that is wrong, which the response sees at once, and "
        "precision and recall know nothing of frequencies. A generator is as good as its worst figure.",
        blocks=(
            Table(
                title="Figures of the generated showers",
                columns=("figure", *beside, "on the ladder", "what it sees"),
                rows=rows,
                caption="Errors are those of bootstrap or jackknife. Separations and distances are positive even where "
                "nothing differs; only what exceeds the floor is a difference.",
            ),
        ),
    )


def standing(name: str, compared: Mapping[str, Compared]) -> str:
    """Say between which damages a figure of the generated showers lies, by its distance from the floor."""
    floor = compared[ITSELF].figures[name]

    def distance(sample: str) -> float:
        return abs(compared[sample].figures[name].value - floor.value)

    own = compared[GENERATED].figures[name]
    error = np.hypot(own.uncertainty or 0.0, floor.uncertainty or 0.0)
    if not np.isfinite(distance(GENERATED)):
        return "too few showers"
    if distance(GENERATED) <= WITHIN_SIGMA * error:
        return "not told from the reference"
    rungs = sorted((rung for rung in damage.LADDER if np.isfinite(distance(rung))), key=distance)
    below = [rung for rung in rungs if distance(rung) <= distance(GENERATED)]
    above = [rung for rung in rungs if distance(rung) > distance(GENERATED)]
    if not below:
        return f"less than {above[0]}, the smallest damage here" if above else ""
    return f"more than {below[-1]}, less than {above[0]}" if above else "more than every damage here"


def ladder(compared: Mapping[str, Compared]) -> Section:
    """Return the section with every figure of every damage."""
    samples = (ITSELF, *damage.LADDER)
    rows: tuple[tuple[Cell, ...], ...] = tuple(
        (name, *(compared[sample].figures[name] for sample in samples)) for name in compared[GENERATED].figures
    )
    return Section(
        title="The ladder: what known damages do to each figure",
        text="Each column is the reference, damaged by a known amount, against the measure. A figure that stays at its floor is "
        "blind to that damage. Layers are swapped between showers of neighbouring energy, every second one, so that each layer "
        "by itself stays right; the spread of the total energy is halved about its median at the same incident energy.",
        blocks=(Table(title="The damage ladder", columns=("figure", *samples), rows=rows),),
    )


def responses(generated: Response, reference: Response, edges_mev: NDArray[Any]) -> Section:
    """Return the section on the response and its width, with the claims on both."""
    places = [f"{low / 1e3:.3g}–{high / 1e3:.3g} GeV" for low, high in pairwise(edges_mev)]
    rows = []
    for b, place in enumerate(places):
        cells: list[Cell] = [place]
        for kind in ("median", "width"):
            for sample in (generated, reference):
                found = getattr(sample, kind)
                cells.append(_number(found.value_B[b], found.uncertainty_B[b], 100, "%", f"{found.count_B[b]:,} showers"))
            ratio = over(getattr(generated, kind), getattr(reference, kind))
            cells.append(_number(ratio.value_B[b], ratio.spread[b]))
        rows.append(tuple(cells))
    plots = tuple(
        Plot(
            title=title,
            x_label="incident energy [GeV]",
            y_label=label,
            x_scale="log",
            series=tuple(
                _points(name, edges_mev / 1e3, 100 * getattr(sample, kind).value_B, 100 * getattr(sample, kind).uncertainty_B)
                for name, sample in ((GENERATED, generated), (REFERENCE, reference))
            ),
            ratio_to=REFERENCE,
        )
        for kind, title, label in (
            ("median", "Response", "median of total over incident energy [%]"),
            ("width", "Width of the response", "half of the smallest 68 % interval over the median [%]"),
        )
    )
    return Section(
        title="Response and its width",
        text="All showers of both files, in bins of the incident energy. The response is the total over the incident energy.",
        blocks=(
            Table(
                title="Response and its width by incident energy",
                columns=(
                    "incident energy", "response, generated", "response, reference", "ratio of responses",
                    "width, generated", "width, reference", "ratio of widths",
                ),
                rows=tuple(rows),
            ),
            *plots,
        ),
    )  # fmt: skip


def response_claims(generated: Response, reference: Response, edges_mev: NDArray[Any]) -> tuple[Claim, ...]:
    """Claim that response and width agree in every energy bin, on both sides."""
    places = [f"{low / 1e3:.3g}–{high / 1e3:.3g} GeV" for low, high in pairwise(edges_mev)]
    both_sides = [f"{side} {place}" for side in ("ratio at", "its inverse at") for place in places]
    made = []
    for kind, quantity, within in (("median", "response", RESPONSE_WITHIN), ("width", "width of the response", WIDTH_WITHIN)):
        ratio, inverse = (over(getattr(a, kind), getattr(b, kind)) for a, b in ((generated, reference), (reference, generated)))
        joined = claims.ComparedFigure(
            np.concatenate([ratio.value_B, inverse.value_B]), np.concatenate([ratio.replicas_RB, inverse.replicas_RB], axis=1)
        )
        made.append(
            claims.claim_at_most(
                f"The {quantity} is that of the reference within {within:.0%} in every energy bin.",
                f"{quantity} within {within:.0%}",
                joined,
                1 + within,
                both_sides,
            )
        )
    return tuple(made)


def shapes(generated: Sample, measure: Measure, compared: Mapping[str, Compared]) -> Section:
    """Return the section with spectra, profiles and separations by layer."""
    word = measure.sample.cells.word
    return Section(
        title="Spectra, profiles and separations by " + word,
        text="The same number of showers of both. Histograms are the CaloChallenge's; what lies outside of them is not counted.",
        blocks=(
            _spectrum(generated, measure, spectra.TOTAL, "Total over incident energy", "total over incident energy"),
            _spectrum(generated, measure, spectra.CELLS, "Energy of cells", "energy of a cell [MeV]", log=True),
            _profile(generated, measure, "energy_mev_NL", f"Mean energy by {word}", "mean energy [MeV]", log=True),
            _profile(generated, measure, "sparsity_NL", f"Empty cells by {word}", "share of empty cells"),
            _profile(generated, measure, "r_mm_NL", f"Mean radius by {word}", "mean centre of energy in r [mm]"),
            *(
                _by_layer(family, compared, measure.sample.cells)
                for family in (spectra.LAYERS, spectra.CENTRES, spectra.WIDTHS, spectra.SPARSITY)
                if family in measure.histograms.counts
            ),
        ),
    )


def _spectrum(generated: Sample, measure: Measure, family: str, title: str, label: str, *, log: bool = False) -> Plot:
    (edges,) = measure.binning.edges[family]
    own = spectra.histograms(generated.found, generated.showers, measure.binning, seed=2)

    def steps(name: str, counts_RB: NDArray[Any]) -> Series:
        return _points(name, edges, counts_RB[0], spread(counts_RB[1:]), "steps")

    counted = "showers" if family == spectra.TOTAL else "cells"
    return Plot(
        title=title,
        x_label=label,
        y_label=f"{counted} per bin",
        x_scale="log" if log else "linear",
        y_scale="log" if log else "linear",
        series=(steps(REFERENCE, measure.histograms.counts[family][0]), steps(GENERATED, own.counts[family][0])),
        ratio_to=REFERENCE,
    )


def _profile(generated: Sample, measure: Measure, field: str, title: str, label: str, *, log: bool = False) -> Plot:
    def points(name: str, values_NL: NDArray[Any]) -> Series:
        edges = np.arange(values_NL.shape[1] + 1) - 0.5
        return _points(name, edges, values_NL.mean(axis=0), values_NL.std(axis=0) / np.sqrt(len(values_NL)))

    return Plot(
        title=title,
        x_label=measure.sample.cells.word,
        y_label=label,
        y_scale="log" if log else "linear",
        series=(
            points(REFERENCE, getattr(measure.sample.found, field)),
            points(GENERATED, getattr(generated.found, field)),
        ),
        ratio_to=REFERENCE,
    )


def _by_layer(family: str, compared: Mapping[str, Compared], cells: Layout) -> Plot:
    word, n_layers = cells.word, cells.n_layers
    # Centres and widths have two directions, and are those of layers divided in azimuth only.
    there_L = cells.azimuthal_L if family in (spectra.CENTRES, spectra.WIDTHS) else np.ones(n_layers, bool)

    def points(name: str) -> Series:
        found = compared[name].separations[family]
        value_L = np.full(n_layers, np.nan)
        replicas_RL = np.full((len(found.replicas_RK), n_layers), np.nan)
        value_L[there_L] = found.value_K.reshape(-1, there_L.sum()).mean(axis=0)
        replicas_RL[:, there_L] = found.replicas_RK.reshape(len(found.replicas_RK), -1, there_L.sum()).mean(axis=1)
        return _points(name, np.arange(n_layers + 1) - 0.5, value_L, spread(replicas_RL))

    shown = samples(compared)
    return Plot(title=f"Separation of {family} by {word}", x_label=word, y_label="separation", series=tuple(map(points, shown)))


def correlation_maps(generated: Sample, measure: Measure) -> Section:
    """Return the section with the correlations between layers."""
    found = [sample.found for sample in (measure.sample, generated)]
    maps = [correlations(np.log(f.energy_mev_NL + SMALLEST_LOGARITHM), f.incident_mev_N) for f in found]
    word = measure.sample.cells.word

    def image(title: str, values_LL: NDArray[Any]) -> Image:
        return Image(title=title, values=tuple(map(tuple, values_LL.tolist())), unit="correlation", labels=(word, word))

    return Section(
        title=f"Correlations between {word}s",
        text=f"Correlation coefficients of the logarithms of the energies of two {word}s, beyond those that follow from the "
        "incident energy (a parabola in its logarithm is taken off).",
        blocks=(
            image("Reference", maps[0]),
            image("Generated", maps[1]),
            image("Generated less reference", maps[1] - maps[0]),
        ),
    )


def memory(near: Mapping[str, Nearness], gain: Mapping[str, Amplification], n_training: int) -> Section:
    """Return the section on copies of training showers and on amplification."""
    bins = np.linspace(0, 1, 41)

    def steps(name: str, values_N: NDArray[Any]) -> Series:
        share_B = np.histogram(values_N, bins)[0] / len(values_N)
        return _points(name, bins, share_B, np.sqrt(share_B / len(values_N)), "steps")

    series = [steps(REFERENCE, near[GENERATED].held_out_M), *(steps(name, value.generated_N) for name, value in near.items())]
    rows = []
    for name, value in near.items():
        share = value.near()
        rows.append(
            (
                name,
                _number(share.value_B[0], share.spread[0], 1, "%", f"{len(value.generated_N):,} showers"),
                _number(float(np.median(value.generated_N)), None),
                _number(float(np.median(value.held_out_M)), None, sample=f"{len(value.held_out_M):,} showers"),
                _number(gain[name].ratio, gain[name].uncertainty, sample=f"{gain[name].n_bins:,} bins"),
                amplified(gain[name]),
            )
        )
    return Section(
        title="Copies of training showers, and amplification",
        text="Distances between showers are those of the shares of energy in sets of cells that rotations and mirrors turn into "
        "each other, so a copy is found however it is turned, mirrored and scaled. Each shower has the distance to its nearest "
        f"of the {n_training:,} training showers over that to the {FAR_NEIGHBOUR}th: near 1 for independent showers, near 0 for "
        f"copies. Near is what lies below the ratio that {SHARE:.0%} of the reference's showers, which no generator saw, "
        "stay below. Showers mixed of several training showers are not found.\n\n"
        "Amplification divides response, mean depth and mean radius into bins of equal shares of the reference that hold "
        f"{TRAINING_PER_BIN:g} to {2 * TRAINING_PER_BIN:g} training showers each. There the squared errors of the generator's "
        "shares, for any number of showers, are compared with those that the training sample has by its own statistics: below 1 "
        "the generator knows more than its training showers; a library that repeats them has 1.",
        blocks=(
            Table(
                title="Nearness to training showers, and amplification",
                columns=(
                    "sample", "near a training shower", "median ratio of distances", "the reference's median",
                    "errors over the training sample's", "amplification",
                ),
                rows=tuple(rows),
            ),
            Plot(
                title="Distance to the nearest training shower",
                x_label=f"distance to the nearest over that to the {FAR_NEIGHBOUR}th training shower",
                y_label="share of showers per bin",
                series=tuple(series),
            ),
        ),
    )  # fmt: skip


def amplified(gain: Amplification) -> str:
    """Return the verdict on amplification at 95 % confidence on each side."""
    reach = 1.645 * gain.uncertainty
    return "yes" if gain.ratio + reach < 1 else "no" if gain.ratio - reach > 1 else "undecided"


def memory_claim(near: Nearness) -> Claim:
    """Claim that generated showers are no copies of training showers."""
    return claims.claim_at_most(
        "Generated showers are as far from training showers as showers that no generator saw: at most "
        f"{NEAR_AT_MOST:g} % of them are nearer than {100 * SHARE:g} % of those are.",
        f"near a training shower at most {NEAR_AT_MOST:g} %",
        near.near(),
        NEAR_AT_MOST,
        prefix="percent of generated showers: ",
    )


def _points(
    name: str, edges: NDArray[Any], values_B: Sequence[float] | NDArray[Any], errors_B: NDArray[Any], style: Any = "points"
) -> Series:
    centre, half = (edges[1:] + edges[:-1]) / 2, (edges[1:] - edges[:-1]) / 2
    known = np.isfinite(values_B) & np.isfinite(errors_B)
    errors = tuple(np.asarray(errors_B)[known].tolist())
    return Series(
        name=name,
        x=tuple(centre[known].tolist()),
        x_error=tuple(half[known].tolist()),
        y=tuple(np.asarray(values_B)[known].tolist()),
        y_error_low=errors,
        y_error_high=errors,
        style=style,
    )


def _number(value: float, error: float | None, factor: float = 1.0, unit: str = "", sample: str = "") -> Number:
    uncertainty = None if error is None else factor * float(error)
    return Number(value=factor * float(value), uncertainty=uncertainty, unit=unit, origin="computed", sample=sample)
