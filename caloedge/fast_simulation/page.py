"""The report on a trained generator: its showers against Geant4's, its speed, its training, and published ones beside it.

Axes: N shower, C cell, L layer.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caloedge.artifact import TrainingRecord
from caloedge.catalog import Generator, find
from caloedge.computer import computer
from caloedge.detector.crystals.library import ShowerLibrary
from caloedge.fast_simulation import published, speed
from caloedge.fast_simulation.export import TRAININGS, draw, with_sampler
from caloedge.fast_simulation.recipe import MOST_COMPARED, parametrised
from caloedge.fidelity import figures, spectra
from caloedge.fidelity.assessment import assess
from caloedge.fidelity.figures import Measure, Sample
from caloedge.fidelity.showers import Inputs, Showers, read_inputs
from caloedge.generation.memory import peak_mb
from caloedge.generation.sampling import evaluations
from caloedge.generation.trained import Trained
from caloedge.pipeline import REHEARSAL
from caloedge.progress import progress
from caloedge.reports import sections, summary
from caloedge.results import Cell, Facts, Image, Number, Plot, Report, Section, Series, Table

if TYPE_CHECKING:
    from caloedge.fast_simulation.pipeline import Run

STUDIED = 2000
"""Showers with each number of steps, and of the test library against which they are judged, where it has so many."""
SHOWN = 3
"""Single showers that are shown, of Geant4 and generated."""
SEED = 31
LEAST_CPU_S, QUICK_CPU_S = 4.0, 0.3
"""For which each way to make showers is timed at each batch size, after one call that warms up."""
STUDIED_FIGURES = (
    figures.KPD, figures.AUC, figures.RESPONSE, figures.WIDTH, f"separation, {spectra.LAYERS}",
    f"separation, {spectra.CELLS}",
)  # fmt: skip


def compose(
    opened: "Run",
    trained: Trained,
    modules: Mapping[str, Any],
    training: ShowerLibrary,
    test: ShowerLibrary,
    generated: ShowerLibrary,
    beside: Sequence[ShowerLibrary],
) -> Report:
    """Judge generated showers on the test library, time all ways to make them, and put all on one page."""
    recipe = opened.recipe
    inputs = read_inputs(generated.path, test.path, training.path, beside=[library.path for library in beside])
    found = assess(inputs, MOST_COMPARED)
    records = _records(opened)
    parameters = sum(record.parameters for record in records.values())
    return summary.compose(
        f"{recipe.name}: generated showers against Geant4",
        f"{find(Generator, recipe.generator).description} ({parameters:,} parameters in {len(records)} networks, "
        f"{speed.cost(trained)}). {recipe.particle} of {recipe.min_energy_gev:g} to {recipe.max_energy_gev:g} GeV in geometry "
        f"{recipe.geometry}. Beside each figure stand Geant4 against itself, which is the floor, a library of frozen showers, "
        "which a generator has to beat, and a ladder of known damages, which says what the figure means.",
        f"{test.provenance.get('version', 'Other')} and generated showers",
        found.figures,
        found.claims,
        (
            *found.sections[:1],
            _speed(opened, trained, modules, training),
            *_steps(opened, trained, inputs),
            _pictures(inputs),
            *found.sections[1:],
            sections.trainings(records),
            published.section(),
            _what_was_run(opened, trained, training, test),
        ),
        lower_is_better=True,
        before=(REHEARSAL,) if opened.quick else (),
        caveats=(*found.caveats, summary.ONCE),
    ).model_copy(update={"best": ()})  # no sample competes with the floor


def _records(opened: "Run") -> dict[str, TrainingRecord]:
    stored = json.loads((opened.artifact / TRAININGS).read_text())
    return {role: TrainingRecord.model_validate(record) for role, record in stored.items()}


def _speed(opened: "Run", trained: Trained, modules: Mapping[str, Any], training: ShowerLibrary) -> Section:
    recipe, name = opened.recipe, opened.recipe.generator
    ways = {f"{name}, onnxruntime": speed.drawer(trained)}
    for precision in ("float32", "bf16") if modules else ():
        ways[f"{name}, torch {precision}"] = speed.drawer(trained, speed.torch_networks(modules, precision))
    plugins = {speed.GEANT4: "", "frozen": str(training.path), **({"parametrised": ""} if parametrised(recipe) else {})}
    memory = {f"{name}, onnxruntime": [peak_mb(str(opened.artifact), batch) for batch in speed.MEMORY_BATCHES]}
    batches, least_cpu_s = (speed.BATCHES[:2], QUICK_CPU_S) if opened.quick else (speed.BATCHES, LEAST_CPU_S)
    with speed.silenced():
        one_by_one = {plugin: speed.shooter(plugin, recipe, source) for plugin, source in plugins.items()}
        return speed.section(recipe, ways, one_by_one, memory, least_cpu_s=least_cpu_s, batches=batches)


def _steps(opened: "Run", trained: Trained, inputs: Inputs) -> Iterator[Section]:
    """Compare numbers of steps, each on the same particles."""
    recipe = opened.recipe
    if not recipe.steps:
        return
    order = np.random.default_rng(SEED).permutation(len(inputs.reference))
    count = min(STUDIED, len(order) // 2)
    measure, asked = (inputs.reference.take(rows) for rows in (order[:count], order[count : 2 * count]))
    judged = Measure.of(Sample(measure, inputs.layout, inputs.scale))
    rows: list[tuple[Cell, ...]] = []
    solvers = [(steps, solver) for steps in recipe.steps for solver in (("euler", "heun") if steps > 1 else ("euler",))]
    floor = figures.compare(Sample(asked, inputs.layout, inputs.scale), judged)
    rows.append(("Geant4 itself", "–", *(floor.figures[name] for name in STUDIED_FIGURES)))
    with progress("numbers of steps", len(solvers), 0) as advance:
        for steps, solver in solvers:
            cells = draw(with_sampler(trained, steps=steps, solver=solver), asked.energies_mev, asked.impact_mm, recipe.seed)
            sample = asked.with_cells(cells / inputs.scale.sampling_fraction, inputs.scale.lowest_mev)
            compared = figures.compare(Sample(sample, inputs.layout, inputs.scale), judged)
            cost = Number(value=evaluations(steps, solver), origin="computed")
            rows.append((f"{steps} × {solver.capitalize()}", cost, *(compared.figures[name] for name in STUDIED_FIGURES)))
            advance(1)
    yield Section(
        title="Numbers of steps",
        text="The same networks and noise with other numbers of steps; time grows with the evaluations of the cell network. "
        f"The cut of cells is the one chosen at {trained.manifest.sampler.steps} steps.",
        blocks=(Table(title="Steps of the sampler", columns=("steps", "evaluations", *STUDIED_FIGURES), rows=tuple(rows)),),
    )


def _pictures(inputs: Inputs) -> Section:
    """Show mean showers in (layer, r) and single ones of about the same energy."""
    order = [np.argsort(sample.energies_mev) for sample in (inputs.reference, inputs.generated)]
    middle = [rows[len(rows) // 2 - len(rows) // 20 : len(rows) // 2 + len(rows) // 20] for rows in order]
    samples = [sample.take(rows) for sample, rows in zip((inputs.reference, inputs.generated), middle, strict=True)]
    means = [_plane(inputs, sample).mean(axis=0) for sample in samples]
    top = max(float(mean.max()) for mean in means)
    blocks: list[Image | Plot] = [
        _image(f"Mean shower, {name}", mean, top) for name, mean in zip(("Geant4", "generated"), means, strict=True)
    ]
    for number in range(SHOWN):
        pair = [_plane(inputs, sample.take(slice(number, number + 1)))[0] for sample in samples]
        top = max(float(one.max()) for one in pair)
        for name, sample, one in zip(("Geant4", "generated"), samples, pair, strict=True):
            blocks.append(_image(f"Shower {number + 1}, {name}, {sample.energies_mev[number] / 1e3:.3g} GeV", one, top))
    blocks.append(_hits(inputs))
    return Section(
        title="Showers",
        text="Energies summed in azimuth: the middle tenth of all incident energies. Single showers are the first ones, not "
        "chosen.",
        blocks=tuple(blocks),
    )


def _plane(inputs: Inputs, sample: Showers) -> NDArray[Any]:
    """Return energies (N, layer, r) in MeV, summed over azimuth; r in the rings of the layout."""
    radii = np.unique(inputs.layout.r_mm_C.round(6), return_inverse=True)[1].ravel()
    place = inputs.layout.layer_C * (radii.max() + 1) + radii
    sums = np.stack(
        [np.bincount(place, cells, minlength=inputs.layout.n_layers * (radii.max() + 1)) for cells in sample.cells_mev]
    )
    return sums.reshape(len(sample), inputs.layout.n_layers, -1)


def _image(title: str, values: NDArray[Any], top: float) -> Image:
    return Image(
        title=title,
        values=tuple(map(tuple, values.tolist())),
        unit="MeV",
        labels=("layer", "ring"),
        colour_range=(top * 1e-5, top),
    )


def _hits(inputs: Inputs) -> Plot:
    """Return cells with energy against the incident energy: their mean, with the spread as errors of the mean."""
    edges = np.geomspace(inputs.reference.energies_mev.min(), inputs.reference.energies_mev.max(), 9)
    series = []
    for name, sample in (("Geant4", inputs.reference), ("generated", inputs.generated)):
        hits = (sample.cells_mev > 0).sum(axis=1)
        which = np.clip(np.digitize(sample.energies_mev, edges) - 1, 0, len(edges) - 2)
        filled = [place for place in range(len(edges) - 1) if (which == place).sum() > 1]
        of = [hits[which == place] for place in filled]
        error = tuple(float(values.std(ddof=1) / np.sqrt(len(values))) for values in of)
        series.append(
            Series(
                name=name,
                x=tuple(float(np.sqrt(edges[place] * edges[place + 1]) / 1e3) for place in filled),
                y=tuple(float(values.mean()) for values in of),
                y_error_low=error,
                y_error_high=error,
            )
        )
    return Plot(
        title="Cells with energy",
        x_label="incident energy [GeV]",
        y_label="mean number of cells with energy",
        x_scale="log",
        y_scale="log",
        series=tuple(series),
        ratio_to="Geant4",
    )


def _said(trained: Trained) -> str:
    sampler = trained.manifest.sampler
    cuts = f"layers below {sampler.layer_cut_mev:g} MeV and cells whose number is below {sampler.cell_cut:g} are empty"
    return f"{trained.manifest.generator}, {speed.cost(trained)}; {cuts}, as chosen on validation showers"


def _what_was_run(opened: "Run", trained: Trained, training: ShowerLibrary, test: ShowerLibrary) -> Section:
    items: list[tuple[str, Cell]] = [
        ("recipe", str(opened.path)),
        ("generator", _said(trained)),
        ("training showers", f"{training.path.name}: {len(training):,}, seed {training.provenance.get('seed', 'unknown')}"),
        ("test showers", f"{test.path.name}: {len(test):,}, seed {test.provenance.get('seed', 'unknown')}"),
        ("computer", computer()),
    ]
    return Section(title="What was run", blocks=(Facts(title="Run", items=tuple(items)),))
