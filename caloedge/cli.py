"""The command line: each verb is a few lines around one call. Bad input ends with one line and exit code 2."""

import os
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table as Grid

from caloedge.catalog import Backend, Network, Target, Task, find, names
from caloedge.errors import BadData, MissingTool, Unsupported, UserError
from caloedge.files import replacing
from caloedge.results import Claim, Number, Table

MAX_VERIFIED_CODES = 2**26
"""Tensor elements of all events that `caloedge compile` verifies: it should take seconds."""
DEFAULT_TARGET = "xcvu13p"
INTERRUPTED = 130
"""Exit code that typer gives after Ctrl-C, as shells do."""

app = typer.Typer(
    help="Calorimeter deep learning from particle showers to bit-exact trigger firmware.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)

Recipe = Annotated[str, typer.Argument(help="A recipe file, a folder with recipe.yaml, or the name of a folder in ./models.")]
Model = Annotated[str, typer.Argument(help="An artifact: a folder such as models/seed_finder, or its name.")]
AnyModel = Annotated[str, typer.Argument(help="A QONNX file, an artifact's folder, or its name.")]
Output = Annotated[Path | None, typer.Option(help="Folder for everything; default: ./runs, ./models and ./reports.")]
Accelerator = Annotated[str, typer.Option(help="cpu, gpu, or auto.")]
Devices = Annotated[int, typer.Option(help="How many of them; more than one trains in parallel.", min=1)]
ChannelsLast = Annotated[bool, typer.Option(help="Keep a pixel's channels side by side: faster for large images on CPUs.")]
Precision = Annotated[str, typer.Option(help="32-true, or bf16-mixed where the hardware is faster with it.")]


@app.command()
def simulate(
    file: Annotated[Path, typer.Argument(help="HDF5 file to write.")],
    showers: Annotated[int, typer.Option(help="How many.")] = 10_000,
    geometry: Annotated[str, typer.Option(help="pbwo4 (25×25 crystals) or wsi (45 layers × 16 φ × 9 r).")] = "pbwo4",
    generator: Annotated[str, typer.Option(help="geant4, or parametrised (fast, for development).")] = "geant4",
    particle: Annotated[str, typer.Option(help="Geant4's name of the incident particle.")] = "gamma",
    min_energy_gev: Annotated[float, typer.Option(help="Lowest energy; energies are log-uniform.")] = 1.0,
    max_energy_gev: Annotated[float, typer.Option(help="Highest energy.")] = 100.0,
    seed: Annotated[int, typer.Option(help="The library depends on this, not on the number of workers.")] = 1,
    zero_below_mev: Annotated[float, typer.Option(help="Smaller cell energies are stored as zero.")] = 0.1,
    workers: Annotated[int, typer.Option(help="Processes; default: one per core.", min=1)] = os.cpu_count() or 1,
) -> None:
    """Make a shower library. Ctrl-C keeps what is finished; the same command goes on."""
    from caloedge.detector.production import Production
    from caloedge.detector.production import simulate as produce

    production = Production(
        geometry=geometry,
        generator=generator,
        particle=particle,
        showers=showers,
        min_energy_gev=min_energy_gev,
        max_energy_gev=max_energy_gev,
        seed=seed,
        zero_below_mev=zero_below_mev,
    )
    produce(production, file, workers)
    _say(f"{file}: {showers} showers, {file.stat().st_size / 1e6:.1f} MB")


@app.command()
def train(
    recipe: Recipe,
    output: Output = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    channels_last: ChannelsLast = False,
    rival: Annotated[list[str] | None, typer.Option(help="Train these rivals of the recipe, too.")] = None,
) -> None:
    """Train the networks of a recipe. A second call resumes, or says that all is done."""
    _need_training()
    from caloedge.pipeline import train_recipe

    trained = train_recipe(recipe, output, _hardware(accelerator, devices, precision, channels_last), rival or ())
    for stage, one in trained.items():
        record = one.record
        _say(f"{stage}: {record.parameters:,} parameters, {record.epochs} epochs, validation loss {record.valid_loss:.4f}")


@app.command()
def export(recipe: Recipe, output: Output = None) -> None:
    """Write the artifact: QONNX, golden vectors, weights, manifest. Trains what is not trained yet."""
    _need_training()
    from caloedge.pipeline import make_artifact
    from caloedge.training.fit import Hardware

    artifact = make_artifact(recipe, output, Hardware())
    _say(f"{artifact.folder}: {len(artifact.manifest.files)} files")


@app.command(name="compile")
def compile_(
    model: AnyModel,
    quantise_missing: Annotated[
        str,
        typer.Option(help="Put in a quantiser of this format, e.g. fixed<12,4>, where the file lacks one; its effect is shown."),
    ] = "",
    verify_events: Annotated[
        int, typer.Option(help="Random events to compare with the QONNX executor; 0 for none.", min=0)
    ] = 256,
) -> None:
    """Compile QONNX to the exact integer network, verify it and print its layers. Exit code 1 if the executor differs."""
    from caloedge.compiler.fixed import Format
    from caloedge.compiler.reader import compile_file

    path = _model_file(model)
    compiled = compile_file(path, Format.parse(quantise_missing) if quantise_missing else None)
    graph = compiled.graph
    _show(_layer_grid(graph))
    _say(f"digest {graph.digest}")
    if compiled.inserted:
        _say(f"quantisers put in ({quantise_missing}) at: {', '.join(compiled.inserted)}")
    if verify_events:
        _verify_compiled(path, compiled, verify_events)


def _verify_compiled(path: Path, compiled: Any, n_events: int) -> None:
    """Compare a compiled file with the QONNX executor on random events, or measure what inserted quantisers change."""
    from caloedge.crosscheck import event, first_node
    from caloedge.qonnx_executor import execute
    from caloedge.verification import compare_codes, random_codes, run_qonnx

    graph = compiled.graph
    size = sum(graph.tensors[op.name].size for op in graph.ops)
    n_events = max(1, min(n_events, MAX_VERIFIED_CODES // size))
    codes = random_codes(graph, n_events, seed=1)
    try:
        if compiled.inserted:
            reals = _between_codes(graph, codes)
            rounded = graph.output_values(graph.run(graph.quantise_inputs(reals)))
            _show_effect(rounded, execute(path, reals), n_events)
            return
        found = graph.run(codes)
        check = compare_codes("QONNX executor", found, run_qonnx(path, graph, codes), 0.0)
    except (MissingTool, Unsupported) as problem:
        _say(f"not verified: {problem}")
        return
    if check.exact:
        _say(f"verified: {check.outputs:,} output codes of {n_events} random events, 0 LSB from the QONNX executor in float64")
        return
    place = first_node(path, compiled, event(codes, check.first_event or 0))
    _say(
        f"DIFFERS from the QONNX executor: {check.differing} of {check.outputs} output codes, up to {check.largest_lsb} LSB, "
        f"first in event {check.first_event}{', ' + place if place else ''}"
    )
    raise typer.Exit(1)


def _between_codes(graph: Any, codes: Any) -> dict[str, Any]:
    """Return the real values of input codes, each moved by up to half a step: quantising an input has an effect, too."""
    rng, found = np.random.default_rng(2), {}
    for op in graph.inputs:
        values = graph.input_values(codes)[op.name]
        found[op.name] = values + rng.uniform(-0.5, 0.5, values.shape) * op.format.lsb * op.scale
    return found


def _show_effect(rounded: Any, real: Any, n_events: int) -> None:
    """Say how far inserted quantisers move the outputs."""
    for name, values in rounded.items():
        difference, size = np.abs(values - real[name]), float(np.std(real[name]))
        mean, largest = float(difference.mean()), float(difference.max())
        _say(
            f"output {name}: {mean:.4g} mean and {largest:.4g} largest difference from the unquantised file (standard "
            f"deviation of its values {size:.4g}), {n_events} random events"
        )


def _layer_grid(graph: Any) -> Grid:
    from caloedge.inspection import stored

    grid = Grid("layer", "operation", "shape", "weights", "result", "codes", "multiply-adds", "EBOPs", "constants")
    for x in graph.layers():
        shape, codes = "×".join(map(str, x.shape)), f"{x.low} … {x.high}"
        grid.add_row(
            x.name,
            x.kind,
            shape,
            str(x.weight_format or ""),
            str(x.format),
            codes,
            f"{x.multiply_adds:,}",
            f"{x.ebops:,}",
            stored(graph[x.name]),
        )
    return grid


@app.command()
def inspect(
    model: AnyModel,
    quantise_missing: Annotated[str, typer.Option(help="As for `caloedge compile`.")] = "",
    target: Annotated[list[str] | None, typer.Option(help="Devices to ask about; default: all.")] = None,
) -> None:
    """Show layers, formats, ranges and costs, where precision is wasted, and what every backend and device would do."""
    from caloedge.compiler.fixed import Format
    from caloedge.compiler.reader import compile_file
    from caloedge.inspection import prospects, remarks

    compiled = compile_file(_model_file(model), Format.parse(quantise_missing) if quantise_missing else None)
    graph, before = compiled.graph, compiled.unoptimised
    _show(_layer_grid(graph))
    layers = graph.layers()
    total = f"{sum(x.multiply_adds for x in layers):,} multiply-adds, {sum(x.weight_bits for x in layers):,} bits of weights"
    _say(
        f"{total}, {sum(x.ebops for x in layers):,} EBOPs an event (estimated); passes left out "
        f"{len(before.ops) - len(graph.ops)} of {len(before.ops)} operations"
    )
    grid = Grid("layer", "where precision or hardware is wasted")
    for remark in remarks(graph):
        grid.add_row(remark.layer, remark.what)
    _show(grid) if grid.row_count else _say("no wasted bits found")
    grid = Grid("backend", "variant", "target", "takes it", "what it would build (estimated), or why not")
    for x in prospects(graph, {name: find(Target, name) for name in target} if target else None):
        grid.add_row(x.backend, x.variant, x.target, "yes" if x.takes else "no", x.what)
    _show(grid)


@app.command()
def build(
    model: AnyModel,
    folder: Annotated[Path, typer.Argument(help="Project folder to write.")],
    backend: Annotated[str, typer.Option(help="See: caloedge list.")] = "hls4ml",
    variant: Annotated[
        str, typer.Option(help="How to build it; default: the backend's first variant, see `caloedge list`.")
    ] = "",
    target: Annotated[str, typer.Option(help="Device; default: the recipe's, and xcvu13p for a QONNX file.")] = "",
    quantise_missing: Annotated[str, typer.Option(help="As for `caloedge compile`.")] = "",
    layer: Annotated[
        list[str] | None, typer.Option(help="NAME=STRATEGY or NAME=STRATEGY:REUSE, for variant auto; default: the recipe's.")
    ] = None,
    synthesise: Annotated[bool, typer.Option(help="Synthesise an rtl project (and route it where open tools can).")] = True,
    route_limit_s: Annotated[float, typer.Option(help="Place and route gets no more time than this.", min=0)] = 3600.0,
    chipdb: Annotated[Path | None, typer.Option(help="Device file that nextpnr-xilinx needs to route a 7-series.")] = None,
) -> None:
    """Write a firmware project, compile its simulation, synthesise it. Ctrl-C keeps what is done; the same command goes on."""
    from caloedge.compiler.fixed import Format
    from caloedge.compiler.reader import compile_file, read
    from caloedge.pipeline import open_model
    from caloedge.project import is_built, record
    from caloedge.reports.latency import cost_table
    from caloedge.synthesis.cost import implement

    layers = dict(map(_layer_choice, layer or []))
    if Path(model).is_file():
        graph = compile_file(Path(model), Format.parse(quantise_missing) if quantise_missing else None).graph
        target = target or DEFAULT_TARGET
    else:
        artifact = open_model(model)
        graph, layers, target = read(artifact.model), dict(artifact.recipe.layers) | layers, target or artifact.recipe.target
    maker, device = find(Backend, backend), find(Target, target)
    variant = variant or maker.variants[0]
    if variant not in maker.variants:
        raise UserError(f"backend {backend!r} has no variant {variant!r}; there are: {', '.join(maker.variants)}")
    if not is_built(folder, record(backend, graph, device, variant, layers)):
        if folder.exists():
            raise UserError(f"{folder}: exists already; remove it or give another name")
        maker.build(graph, device, variant, folder, layers)
    _say(f"{folder}: {backend} {variant} project for {device.part} at {device.clock_mhz:g} MHz (requested)")
    if synthesise:
        cost = implement(folder, target, route_limit_s, chipdb)
        _show_blocks([cost_table({folder.name: cost})] if cost and cost.found else [])
        for remark in cost.remarks if cost else ():
            _say(f"not done: {remark}")


@app.command()
def emulate(
    project: Annotated[Path, typer.Argument(help="A project folder made by `caloedge build`, or an artifact.")],
    inputs: Annotated[Path, typer.Argument(help="An .npz file with input codes under `inputs`, such as golden.npz.")],
    outputs: Annotated[Path, typer.Argument(help="The .npz file to write, one array of codes per output.")],
    backend: Annotated[str, typer.Option(help="For an artifact: the backend to build it with.")] = "",
    variant: Annotated[str, typer.Option(help="For an artifact: the backend's variant; default: its first.")] = "",
    vcd: Annotated[Path | None, typer.Option(help="Write all signals to this file (backend rtl).")] = None,
) -> None:
    """Simulate a firmware project bit for bit on input codes."""
    from caloedge.project import read_record

    codes = _read_codes(inputs)
    folder = _built(project, backend, variant)
    name = str(read_record(folder).get("backend"))
    maker = find(Backend, name)
    if maker.simulate is None:
        if vcd:
            raise UserError(f"backend {name!r} has no cycles and no waveforms; use backend 'rtl' with --vcd")
        found: dict[str, Any] = maker.emulate(folder, codes)
    else:
        run = maker.simulate(folder, codes, 0.0, vcd)
        found = run.codes
        if len(codes) > 1:
            _say(f"latency {run.latency_cycles} cycles, one event every {run.interval_cycles} cycles (simulated)")
    with replacing(outputs) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **found)
    _say(f"{outputs}: " + ", ".join(f"{name} {values.shape}" for name, values in found.items()))


def _layer_choice(text: str) -> tuple[str, Any]:
    from pydantic import ValidationError

    from caloedge.recipe import LayerChoice

    name, _, rest = text.partition("=")
    strategy, _, reuse = rest.partition(":")
    try:
        return name, LayerChoice.model_validate({"strategy": strategy or None, "reuse": reuse or None})
    except ValidationError:
        raise UserError(f"--layer {text!r} is not NAME=STRATEGY or NAME=STRATEGY:REUSE, e.g. conv_1=streaming:4") from None


def _built(project: Path, backend: str, variant: str) -> Path:
    """Return the folder of a built project; an artifact is built first, in ./runs, unless it was before."""
    from caloedge.compiler.reader import read
    from caloedge.pipeline import open_model, places
    from caloedge.verification import Design, build_if_needed

    if not backend:
        return project
    artifact = open_model(str(project))
    variant = variant or find(Backend, backend).variants[0]
    design = Design(backend, variant, artifact.recipe.target)
    return build_if_needed(design, read(artifact.model), artifact.recipe, places(artifact.recipe, None).work / "projects")


@app.command()
def verify(
    model: AnyModel,
    projects: Annotated[Path | None, typer.Option(help="Where firmware projects are or are built; default: ./runs.")] = None,
    vectors: Annotated[Path | None, typer.Option(help="An .npz file with input codes; default: golden or random ones.")] = None,
    events: Annotated[int, typer.Option(help="Random events for a QONNX file.", min=1)] = 1_000,
    backend: Annotated[
        list[str] | None,
        typer.Option(help="For a QONNX file: NAME or NAME:VARIANT to run; default: every backend that takes it."),
    ] = None,
    quantise_missing: Annotated[str, typer.Option(help="As for `caloedge compile`.")] = "",
) -> None:
    """Run every executor that is present against every other. Exit code 1 if any output code differs.

    An artifact is checked on its golden vectors with the firmware of its recipe, a QONNX file on given or random vectors.
    """
    from caloedge import verification
    from caloedge.pipeline import open_model, places
    from caloedge.reports.sections import exactness

    if Path(model).is_file() or vectors:
        _verify_file(_model_file(model), projects, vectors, events, backend or [], quantise_missing)
        return
    artifact = open_model(model)
    folder = projects or places(artifact.recipe, None).work / "projects"
    checks = verification.verify(artifact, folder)
    _show_blocks(exactness(checks).blocks)
    _finish_checks(checks)


def _verify_file(
    path: Path, projects: Path | None, vectors: Path | None, events: int, wanted: list[str], quantise_missing: str
) -> None:
    from caloedge import crosscheck
    from caloedge.compiler.fixed import Format
    from caloedge.compiler.reader import compile_file
    from caloedge.verification import random_codes

    compiled = compile_file(path, Format.parse(quantise_missing) if quantise_missing else None)
    inputs = _read_inputs(vectors, compiled.graph) if vectors else random_codes(compiled.graph, events, seed=1)
    folder = projects or Path("runs") / path.stem / compiled.graph.digest[:8]
    outcomes = crosscheck.run_all(path, compiled, inputs, _backends(wanted), folder)
    checks = [crosscheck.located(path, compiled, inputs, check) for check in crosscheck.against_graph(outcomes)]
    refused = {outcome.executor for outcome in outcomes if outcome.refused}
    grid = Grid(
        "executor", "result", "events", "codes", "differing", "largest LSB", "argmax flips", "first event", "first place", "s"
    )
    for x in checks:
        result = (
            "exact"
            if x.exact
            else ("refused: " if x.executor in refused else "not run: ") + x.missing
            if x.missing
            else "DIFFERS"
        )
        event = "" if x.first_event is None else str(x.first_event)
        numbers = [f"{n:,}" for n in (x.vectors, x.outputs, x.differing, x.largest_lsb, x.flips)]
        grid.add_row(x.executor, result, *(numbers if not x.missing else [""] * 5), event, x.first_node, f"{x.seconds:.2f}")
    _show(grid)
    pairs = crosscheck.pairs(outcomes)
    _say(f"{len(pairs)} pairs of executors compared on {checks[0].vectors:,} events, {sum(map(bool, pairs.values()))} differ")
    for (a, b), differing in pairs.items():
        if differing:
            _say(f"{a} and {b} differ in {differing:,} output codes")
    _finish_checks([check for check in checks if check.executor not in refused])


def _finish_checks(checks: list[Any]) -> None:
    """End with exit code 1 when codes differ, and with an error when an executor could not be run."""
    wrong = [check for check in checks if not check.missing and not check.exact]
    for check in wrong:
        _say(f"{check.executor} differs: {check.differing} of {check.outputs} output codes, first in event {check.first_event}")
    if wrong:
        raise typer.Exit(1)
    if missing := [check for check in checks if check.missing]:
        raise MissingTool(f"{missing[0].executor} was not run: {missing[0].missing}; what ran is exact")


def _backends(wanted: list[str]) -> list[tuple[str, str]]:
    """Return (backend, variant) pairs: those asked for, or every backend in its first variant."""
    found = []
    for text in wanted or names("backend"):
        name, _, variant = text.partition(":")
        maker = find(Backend, name)
        if variant and variant not in maker.variants:
            raise UserError(f"backend {name!r} has no variant {variant!r}; there are: {', '.join(maker.variants)}")
        found.append((name, variant or maker.variants[0]))
    return found


def _model_file(model: str) -> Path:
    """Return the QONNX file of an artifact, or the file itself."""
    from caloedge.artifact import MODEL

    for folder in (Path(model), Path("models") / model):
        if folder.is_dir():
            return folder / MODEL
    return Path(model)


def _read_inputs(path: Path, graph: Any) -> Any:
    """Read input codes: `inputs` of a network with one input, else an array by input name."""
    if len(graph.inputs) == 1:
        return _read_codes(path)
    return {op.name: _read_codes(path, op.name) for op in graph.inputs}


@app.command()
def compare(
    model: Model,
    library: Annotated[Path | None, typer.Option(help="Showers to evaluate on; default: the recipe's own test showers.")] = None,
    events: Annotated[int | None, typer.Option(help="Composed events; default: the recipe's.", min=1)] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for a report of this comparison.")] = None,
) -> None:
    """Compare float, quantised and classical accuracy on the same events."""
    _need_training()
    from caloedge.comparison import compare as assess
    from caloedge.comparison import library_of
    from caloedge.pipeline import comparison_report, open_model

    artifact = open_model(model)
    showers = find(Task, artifact.recipe.task).open(library) if library else library_of(artifact)
    assessment = assess(artifact, showers, events)
    for section in assessment.sections:
        _show_blocks(section.blocks)
    _show_blocks(assessment.claims)
    if output:
        comparison_report(artifact, showers, assessment, output)
        _say(f"{output / 'report.html'}")


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(help="A folder with report.json, such as reports/seed_finder.")],
    readme: Annotated[Path | None, typer.Option(help="A README whose result table is to be rewritten.")] = None,
) -> None:
    """Draw report.html from report.json, and the index of the folder above."""
    from caloedge.reports import readme as readme_table
    from caloedge.reports import store

    loaded = store.load(folder)
    store.save(loaded, folder)
    if readme:
        readme_table.update(readme, folder.resolve().name, loaded)
    _say(f"{folder / 'report.html'}, {store.write_index(folder.resolve().parent)}")


@app.command()
def run(
    recipe: Recipe,
    output: Output = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    channels_last: ChannelsLast = False,
    independent: Annotated[Path | None, typer.Option(help="A second shower library to repeat the comparison on.")] = None,
) -> None:
    """Do the whole story of a recipe: train, export, compile, build, emulate, compare, report."""
    _need_training()
    from caloedge.pipeline import places, read_named_recipe
    from caloedge.pipeline import run as whole_story

    hardware = _hardware(accelerator, devices, precision, channels_last)
    done = whole_story(recipe, output, hardware, independent)
    _show_blocks(block for section in done.sections for block in section.blocks if isinstance(block, Claim))
    _say(f"report: {places(read_named_recipe(recipe)[1], output).report / 'report.html'}")


@app.command()
def tradeoff(
    recipe: Recipe,
    output: Output = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    channels_last: ChannelsLast = False,
    threads: Annotated[int, typer.Option(help="CPU threads when float networks are timed.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="Where torch is timed, e.g. cuda.")] = "cpu",
) -> None:
    """Compare all networks of a recipe: accuracy against size and latency, and its firmware at several foldings."""
    _need_training()
    from caloedge.tradeoff import tradeoff as compare_all

    hardware = _hardware(accelerator, devices, precision, channels_last)
    done = compare_all(recipe, output, hardware, threads, device)
    _show_blocks(block for section in done.sections[:3] for block in section.blocks if isinstance(block, Claim | Table))


@app.command()
def study(
    recipe: Recipe,
    bits: Annotated[list[int] | None, typer.Option(help="Bits of weights and activations; give it several times.")] = None,
    output: Output = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    channels_last: ChannelsLast = False,
) -> None:
    """Train, prove and synthesise a recipe's network at several bit widths: accuracy against cost."""
    _need_training()
    from caloedge.study import DEFAULT_BITS
    from caloedge.study import study as at_every_width

    done = at_every_width(recipe, bits or DEFAULT_BITS, output, _hardware(accelerator, devices, precision, channels_last))
    _show_blocks(block for section in done.sections[:2] for block in section.blocks if isinstance(block, Claim | Table))


@app.command()
def reconstruct(
    seeds: Annotated[str, typer.Argument(help="An artifact of task seed_finder: a folder, or its name in ./models.")],
    centres: Annotated[str, typer.Argument(help="An artifact of task center_finder.")],
    library: Annotated[Path | None, typer.Option(help="A shower library; default: the artifacts' own test showers.")] = None,
    events: Annotated[int, typer.Option(help="Composed test events.", min=500)] = 40_000,
    valid_events: Annotated[int, typer.Option(help="Validation events, on which thresholds are set.", min=500)] = 10_000,
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("reports/deepcluster"),
    work: Annotated[Path, typer.Option(help="Folder for firmware projects, which can be made again.")] = Path("runs/deepcluster"),
) -> None:
    """Turn whole events into photons, in float, in integers and classically; prove the hardware of it; write the report."""
    _need_training()
    from caloedge.detector.library import open_library
    from caloedge.pipeline import open_model
    from caloedge.reconstruction.chain import Chain
    from caloedge.reconstruction.report import report as whole_report

    models = Chain(open_model(seeds), open_model(centres))
    done = whole_report(models, open_library(library) if library else None, events, valid_events, work, output)
    _show_blocks(block for section in done.sections for block in section.blocks if isinstance(block, Claim))
    _say(f"report: {output / 'report.html'}")


@app.command(name="list")
def list_() -> None:
    """List tasks, networks, targets, backends, geometries, shipped shower libraries and QONNX operators."""
    from caloedge.compiler.reader import READERS
    from caloedge.detector.geometry import GEOMETRIES
    from caloedge.detector.library import open_library, shipped_names

    grid = Grid("kind", "name", "what it is")
    for plugin_type in (Task, Network, Target, Backend):
        kind = plugin_type.__name__.lower()
        for name in names(kind):
            try:
                described = find(plugin_type, name).description  # type: ignore[attr-defined]
            except ModuleNotFoundError as missing:
                described = f"needs the package {missing.name}: pip install 'caloedge[train]'"
            grid.add_row(kind, name, described)
    for name, value in GEOMETRIES.items():
        grid.add_row("geometry", name, f"{type(value).__name__}, cells {'×'.join(map(str, value.cell_shape))}")
    for name in shipped_names():
        library = open_library(name)
        made = ", ".join(library.provenance.get(key, "") for key in ("particle", "version", "physics_list"))
        grid.add_row("library", name, f"{len(library):,} showers, {made}")
    _show(grid)
    _say(f"operators that `caloedge compile` takes: {', '.join(sorted(READERS))}")


def _read_codes(path: Path, name: str = "inputs") -> Any:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if name not in file.files:
                raise BadData(f"{path}: no array {name!r} (found: {', '.join(file.files)}); write codes with numpy.savez")
            codes = file[name]
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as problem:
        raise BadData(f"{path}: not a readable .npz file ({problem}); write codes with numpy.savez(FILE, inputs=codes)") from None
    if not np.issubdtype(codes.dtype, np.integer):
        raise BadData(
            f"{path}: {name!r} holds {codes.dtype}, not integer codes; write codes with numpy.savez(FILE, {name}=codes)"
        )
    return codes.astype(np.int64)


def _hardware(accelerator: str, devices: int, precision: str, channels_last: bool) -> Any:
    """Check where to train before anything is written."""
    from caloedge.training.fit import ACCELERATORS, PRECISIONS, Hardware

    for value, known, option in ((accelerator, ACCELERATORS, "--accelerator"), (precision, PRECISIONS, "--precision")):
        if value not in known:
            raise UserError(f"{option} {value!r} is not known; there are: {', '.join(known)}")
    return Hardware(accelerator=accelerator, devices=devices, precision=precision, channels_last=channels_last)


def _need_training() -> None:
    """Say in one line what a command that trains or evaluates float networks lacks."""
    from importlib.util import find_spec

    lacking = [name for name in ("torch", "brevitas", "lightning") if find_spec(name) is None]
    if lacking:
        raise MissingTool(f"this command needs {', '.join(lacking)}; pip install 'caloedge[train]'")


def _say(text: str) -> None:
    print(text)  # noqa: T201


def _show(grid: Grid) -> None:
    Console(width=None if sys.stdout.isatty() else 160).print(grid)


def _show_blocks(blocks: Any) -> None:
    from caloedge.reports.rounding import quantity

    for block in blocks:
        if isinstance(block, Table):
            grid = Grid(*block.columns, title=f"{block.title} ({_origins(block)})")
            for row in block.rows:
                grid.add_row(*(quantity(cell) if isinstance(cell, Number) else cell for cell in row))
            _show(grid)
        elif isinstance(block, Claim):
            verdict = {True: "holds", False: "DOES NOT HOLD", None: "not tested"}[block.holds]
            _say(f"{verdict}: {block.statement} {block.found}")


def _origins(table: Table) -> str:
    return ", ".join(dict.fromkeys(cell.origin for row in table.rows for cell in row if isinstance(cell, Number)))


def main() -> None:
    """Run the command line; user errors are one line on standard error and exit code 2."""
    try:
        app()
    except UserError as problem:
        print(f"caloedge: {' '.join(str(problem).split())}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except OSError as problem:  # a folder that cannot be written, a full disk
        print(f"caloedge: {problem.filename or 'file'}: {problem.strerror or problem}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    except SystemExit as end:
        if end.code == INTERRUPTED:
            print("caloedge: interrupted; what is finished is kept, the same command goes on", file=sys.stderr)  # noqa: T201
        raise
