"""Judge generated showers against those of a reference simulation: read this first for the whole story of `caloedge fidelity`."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import Assessment
from caloedge.errors import BadData
from caloedge.extras import need
from caloedge.fidelity import amplification, damage, distances, figures, neighbours, pages, response, spectra
from caloedge.fidelity.features import features, n_features, table
from caloedge.fidelity.figures import Compared, Measure, Sample
from caloedge.fidelity.pages import FROZEN, GENERATED, ITSELF
from caloedge.fidelity.showers import Inputs, Showers
from caloedge.progress import progress
from caloedge.results import Cell, Facts, Number, Section, Table

FEWEST = 100
"""Fewest generated showers, and showers in each half of the reference."""
SEED = 20
ALIKE = 1.95
"""Kolmogorov's λ of incident energies that differ at 99.9 % confidence."""


@dataclass(frozen=True)
class Parts:
    """The showers that are compared, all of one number, and what the rest is for."""

    measure: Showers
    itself: Showers
    generated: Showers
    frozen: Showers | None
    beside: Mapping[str, Showers]


def assess(inputs: Inputs, most: int, *, dnn: bool = False) -> Assessment:
    """Compare at most so many showers in all figures; raise `BadData` for too few, `MissingTool` without scikit-learn."""
    need("fidelity", "this command")
    if dnn:
        need("train", "the DNN")
    parts = divided(inputs, most)
    measure = Measure.of(_sample(parts.measure, inputs))
    samples = {name: _sample(showers, inputs) for name, showers in _compared_samples(parts, inputs)}
    compared: dict[str, Compared] = {}
    with progress("comparing samples", len(samples), 0) as advance:
        for name, sample in samples.items():
            compared[name] = figures.compare(sample, measure)
            advance(1)
    whole = {role: features(showers, inputs.layout) for role, showers in _whole(inputs).items()}
    n_fewest = min(len(inputs.generated), len(inputs.reference))
    edges_mev = response.energy_bins(inputs.reference.energies_mev, n_fewest)
    own, reference = (response.response(whole[role], edges_mev, seed) for seed, role in enumerate(("generated", "reference"), 3))
    near, gain = _memory(inputs, samples, measure)
    claims = pages.response_claims(own, reference, edges_mev)
    if near:
        claims = (*claims, pages.memory_claim(near[GENERATED]))
    sections = [
        pages.comparison(compared),
        pages.ladder(compared),
        pages.responses(own, reference, edges_mev),
        pages.shapes(samples[GENERATED], measure, compared),
        pages.correlation_maps(samples[GENERATED], measure),
    ]
    if inputs.training is not None and near:
        sections.append(pages.memory(near, gain, len(inputs.training)))
    if dnn:
        sections.append(_dnn(samples, measure))
    if published := _published(inputs, whole):
        sections.append(published)
    sections.append(_what_was_compared(inputs, len(parts.measure)))
    return Assessment(
        sections=tuple(sections),
        figures=_headline(compared, near),
        claims=claims,
        caveats=_caveats(inputs, parts),
    )


def divided(inputs: Inputs, most: int) -> Parts:
    """Draw the halves of the reference and as many generated showers; frozen showers are made at the generated energies."""
    generator = np.random.default_rng(SEED)
    halves = np.array_split(generator.permutation(len(inputs.reference)), 2)
    n = min(len(halves[1]), len(inputs.generated), *map(len, inputs.beside.values()), most)
    if n < FEWEST:
        _refuse_few(inputs)
    generated = inputs.generated.take(generator.permutation(len(inputs.generated))[:n])
    copies = None
    if inputs.training is not None:
        copies = damage.frozen(inputs.training, generated.energies_mev, inputs.layout, inputs.scale.lowest_mev, generator)
    beside = {name: showers.take(generator.permutation(len(showers))[:n]) for name, showers in inputs.beside.items()}
    return Parts(inputs.reference.take(halves[0][:n]), inputs.reference.take(halves[1][:n]), generated, copies, beside)


def _refuse_few(inputs: Inputs) -> None:
    needed = {"generated": FEWEST, "reference": 2 * FEWEST, **dict.fromkeys(inputs.beside, FEWEST)}
    for role, library in inputs.libraries:
        if len(library) < needed.get(role, 0):
            halved = ", which are halved" if role == "reference" else ""
            kind = f"{role} " if role in ("generated", "reference") else ""
            raise BadData(f"{library.path}: holds {len(library)} {kind}showers; give at least {needed[role]}{halved}")


def _sample(showers: Showers, inputs: Inputs) -> Sample:
    return Sample(showers, inputs.layout, inputs.scale)


def _whole(inputs: Inputs) -> dict[str, Showers]:
    return {"generated": inputs.generated, "reference": inputs.reference}


def _compared_samples(parts: Parts, inputs: Inputs) -> Iterator[tuple[str, Showers]]:
    yield GENERATED, parts.generated
    yield ITSELF, parts.itself
    if parts.frozen is not None:
        yield FROZEN, parts.frozen
    yield from parts.beside.items()
    for number, (name, damaged) in enumerate(damage.LADDER.items()):
        yield name, damaged(parts.itself, inputs.layout, inputs.scale.lowest_mev, np.random.default_rng((SEED, number)))


def _memory(
    inputs: Inputs, samples: Mapping[str, Sample], measure: Measure
) -> tuple[dict[str, neighbours.Nearness], dict[str, amplification.Amplification]]:
    """Return nearness to training showers and amplification of generated and frozen showers; nothing without training showers."""
    if inputs.training is None:
        return {}, {}
    judged = {name: samples[name] for name in (GENERATED, FROZEN)}
    near = {
        name: neighbours.nearness(sample.showers, inputs.reference, inputs.training, inputs.layout)
        for name, sample in judged.items()
    }
    gain = {
        name: amplification.amplification(sample.found, measure.sample.found, samples[ITSELF].found, len(inputs.training))
        for name, sample in judged.items()
    }
    return near, gain


def _headline(compared: Mapping[str, Compared], near: Mapping[str, neighbours.Nearness]) -> dict[str, dict[str, Number]]:
    chosen = (figures.KPD, figures.AUC, figures.WIDTH, f"separation, {spectra.LAYERS}", figures.CORRELATIONS, figures.FPD)
    shown = pages.samples(compared)
    head = {figure: {name: compared[name].figures[figure] for name in shown} for figure in chosen}
    if near:
        head["near a training shower"] = {
            name: Number(
                value=float(value.near().value_B[0]),
                uncertainty=float(value.near().spread[0]),
                unit="%",
                origin="computed",
                sample=f"{len(value.generated_N):,} showers",
            )
            for name, value in near.items()
        }
    return head


def _dnn(samples: Mapping[str, Sample], measure: Measure) -> Section:
    """Train the published classifier on features and on cells, of generated showers and of the floor."""
    from caloedge.fidelity.dnn import EPOCHS, HIDDEN, HIDDEN_LAYERS, dnn_auc

    def high(sample: Sample) -> NDArray[Any]:
        return sample.table

    def low(sample: Sample) -> NDArray[Any]:
        energy_N1 = sample.showers.energies_mev[:, None]
        return np.concatenate([np.log10(energy_N1), sample.showers.cells_mev / energy_N1], axis=1).astype(np.float32)

    levels: dict[str, Callable[[Sample], NDArray[Any]]] = {"features": high, "cells": low}
    rows: list[tuple[Cell, ...]] = []
    for level, inputs_of in levels.items():
        numbers = []
        for name in (GENERATED, ITSELF):
            n = len(samples[name])
            found = dnn_auc(inputs_of(measure.sample), inputs_of(samples[name]), f"{level} of {name}")
            note = f"{n:,} showers of each: {int(0.6 * n):,} trained, {n - int(0.6 * n) - int(0.2 * n):,} judged; one training"
            numbers.append(Number(value=found.value, uncertainty=found.uncertainty, origin="computed", sample=note))
        rows.append((level, *numbers))
    return Section(
        title="The CaloChallenge's classifier",
        text=f"Set up as published: {HIDDEN_LAYERS} hidden layers of {HIDDEN} with LeakyReLU, Adam, {EPOCHS} epochs, inputs not "
        "standardised, the epoch of best accuracy kept; in float32 instead of float64. AUC grows with the number of showers: "
        "published values have 100,000 of each. The error does not hold how much another training would differ.",
        blocks=(Table(title="AUC of the DNN", columns=("inputs", GENERATED, ITSELF), rows=tuple(rows)),),
    )


def _published(inputs: Inputs, whole: Mapping[str, Any]) -> Section | None:
    """Return FPD and KPD by the published procedure where there are as many showers as it asks for."""
    if min(len(showers) for showers in _whole(inputs).values()) < distances.PUBLISHED_SHOWERS:
        return None
    generated, reference = (table(whole[role]) for role in ("generated", "reference"))
    kpd = distances.published_kpd(reference, generated, batch_size=10_000)
    fpd = distances.published_fpd(reference, generated, fewest=10_000)
    rows = tuple(
        (name, Number(value=1e3 * found.value, uncertainty=1e3 * found.uncertainty, origin="computed"))
        for name, found in (("KPD × 10³", kpd), ("FPD × 10³", fpd))
    )
    return Section(
        title="KPD and FPD by the published procedure",
        text="Batches of 10,000 to 50,000 showers drawn with replacement, as in the CaloChallenge.",
        blocks=(Table(title="Published procedure", columns=("figure", GENERATED), rows=rows),),
    )


def _what_was_compared(inputs: Inputs, n: int) -> Section:
    scale, cells = inputs.scale, inputs.layout
    files = tuple(
        Facts(
            title=role.capitalize(),
            items=(
                ("file", library.path.name),
                ("SHA-256", library.digest),
                ("showers", Number(value=len(library), origin="requested")),
                ("incident energies", f"{library.energies_mev.min() / 1e3:.3g}–{library.energies_mev.max() / 1e3:.3g} GeV"),
                *(
                    (key, library.provenance[key])
                    for key in ("generator", "version", "particle", "seed", "zero_below_mev", "made_by", "created")
                    if key in library.provenance
                ),
            ),
        )
        for role, library in inputs.libraries
    )
    return Section(
        title="What was compared",
        blocks=(
            Facts(
                title="Comparison",
                items=(
                    ("geometry", f"{cells.geometry.name}: {cells.n_layers} {cells.word}s, {cells.n_cells:,} cells"),
                    ("high-level features", Number(value=n_features(cells), origin="computed")),
                    ("showers of each sample", Number(value=n, origin="requested")),
                    ("threshold", Number(value=scale.threshold_mev, unit="MeV", origin="requested", note="stored energies")),
                    (
                        "sampling fraction",
                        Number(value=scale.sampling_fraction, origin="requested", note="divides energies"),
                    ),
                ),
            ),
            *files,
        ),
    )


def _caveats(inputs: Inputs, parts: Parts) -> tuple[str, ...]:
    """Return what the figures do not say by themselves, gravest first."""
    found = []
    generated, reference = parts.generated, inputs.reference
    shared = len(_rows(inputs.generated) & _rows(reference))
    if shared:
        found.append(f"{shared:,} generated showers are, cell by cell, in the reference: the samples are not independent.")
    repeated = len(inputs.generated) - len(_rows(inputs.generated))
    if repeated:
        found.append(f"{repeated:,} of {len(inputs.generated):,} generated showers are exact repetitions of others.")
    if inputs.training is not None and (seen := len(_rows(inputs.training) & _rows(reference))):
        found.append(f"{seen:,} reference showers are among the training showers: nothing is held out.")
    if differ(inputs.generated.energies_mev, reference.energies_mev):
        found.append("Incident energies are not distributed as the reference's are: every figure judges that, too.")
    half = inputs.layout.geometry.impact_half_width_mm
    if half and any(differ(inputs.generated.impact_mm[:, axis], reference.impact_mm[:, axis]) for axis in (0, 1)):
        found.append("Impact points are not distributed as the reference's are: every figure judges that, too.")
    if inputs.scale.threshold_mev > 1e-3 and not half:
        found.append(
            f"Cells below {inputs.scale.threshold_mev:g} MeV are empty in one of the files, far above the CaloChallenge's "
            "0.0005 MeV: the soft part of the showers is not compared."
        )
    n = len(generated)
    found.append(
        f"AUC and FPD depend on the number of showers, here {n:,} of each sample: fewer showers are kinder. They compare only "
        "within this page; published values were taken with 50,000 to 100,000."
    )
    if inputs.training is None:
        found.append("Whether generated showers are copies of training showers was not tested: give --training.")
    return tuple(found)


def _rows(showers: Showers) -> set[bytes]:
    return {row.tobytes() for row in showers.cells_mev}


def differ(values_N: NDArray[Any], other_M: NDArray[Any]) -> bool:
    """Say whether two samples differ by the test of Kolmogorov and Smirnov at 99.9 % confidence."""
    both = np.concatenate([values_N, other_M])
    shares = [np.searchsorted(np.sort(v), both, side="right") / len(v) for v in (values_N, other_M)]
    n, m = len(values_N), len(other_M)
    return bool(np.abs(shares[0] - shares[1]).max() * np.sqrt(n * m / (n + m)) > ALIKE)
