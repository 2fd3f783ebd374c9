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
from caloedge.errors import BadData, MissingTool, UserError
from caloedge.files import replacing
from caloedge.results import Claim, Number, Table

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
Output = Annotated[Path | None, typer.Option(help="Folder for everything; default: ./runs, ./models and ./reports.")]
Accelerator = Annotated[str, typer.Option(help="cpu, gpu, or auto.")]
Devices = Annotated[int, typer.Option(help="How many of them; more than one trains in parallel.", min=1)]
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
) -> None:
    """Train the networks of a recipe. A second call resumes, or says that all is done."""
    _need_training()
    from caloedge.pipeline import train_recipe

    trained = train_recipe(recipe, output, _hardware(accelerator, devices, precision))
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
    model: Annotated[Path, typer.Argument(help="A QONNX file, or an artifact's folder.")],
) -> None:
    """Compile QONNX to the exact integer network and print its layers."""
    from caloedge.artifact import MODEL
    from caloedge.compiler.reader import read

    graph = read(model / MODEL if model.is_dir() else model)
    grid = Grid("layer", "operation", "shape", "weights", "result", "codes", "multiply-adds", "EBOPs")
    for x in graph.layers():
        shape, codes = "×".join(map(str, x.shape)), f"{x.low} … {x.high}"
        grid.add_row(
            x.name, x.kind, shape, str(x.weight_format or ""), str(x.format), codes, f"{x.multiply_adds:,}", f"{x.ebops:,}"
        )
    _show(grid)
    _say(f"digest {graph.digest}")


@app.command()
def build(
    model: Model,
    folder: Annotated[Path, typer.Argument(help="Project folder to write.")],
    backend: Annotated[str, typer.Option(help="See: caloedge list.")] = "hls4ml",
    variant: Annotated[
        str, typer.Option(help="How to build it; default: the backend's first variant, see `caloedge list`.")
    ] = "",
    target: Annotated[str, typer.Option(help="Device; default: the recipe's.")] = "",
    layer: Annotated[
        list[str] | None, typer.Option(help="NAME=STRATEGY or NAME=STRATEGY:REUSE, for variant auto; default: the recipe's.")
    ] = None,
    synthesise: Annotated[bool, typer.Option(help="Synthesise an rtl project (and route it where open tools can).")] = True,
    route_limit_s: Annotated[float, typer.Option(help="Place and route gets no more time than this.", min=0)] = 3600.0,
    chipdb: Annotated[Path | None, typer.Option(help="Device file that nextpnr-xilinx needs to route a 7-series.")] = None,
) -> None:
    """Write a firmware project, compile its simulation, synthesise it. Ctrl-C keeps what is done; the same command goes on."""
    from caloedge.compiler.reader import read
    from caloedge.pipeline import open_model
    from caloedge.project import is_built, record
    from caloedge.reports.latency import cost_table
    from caloedge.synthesis.cost import implement

    artifact = open_model(model)
    graph, layers = read(artifact.model), dict(artifact.recipe.layers) | dict(map(_layer_choice, layer or []))
    maker, device = find(Backend, backend), find(Target, target or artifact.recipe.target)
    variant = variant or maker.variants[0]
    if variant not in maker.variants:
        raise UserError(f"backend {backend!r} has no variant {variant!r}; there are: {', '.join(maker.variants)}")
    if not is_built(folder, record(backend, graph, device, variant, layers)):
        if folder.exists():
            raise UserError(f"{folder}: exists already; remove it or give another name")
        maker.build(graph, device, variant, folder, layers)
    _say(f"{folder}: {backend} {variant} project for {device.part} at {device.clock_mhz:g} MHz (requested)")
    if synthesise:
        cost = implement(folder, target or artifact.recipe.target, route_limit_s, chipdb)
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
    model: Model,
    projects: Annotated[Path | None, typer.Option(help="Where firmware projects are or are built; default: ./runs.")] = None,
) -> None:
    """Rerun the exactness chain on the golden vectors. Exit code 1 if any output code differs."""
    from caloedge import verification
    from caloedge.pipeline import open_model, places
    from caloedge.reports.sections import exactness

    artifact = open_model(model)
    folder = projects or places(artifact.recipe, None).work / "projects"
    checks = verification.verify(artifact, folder)
    _show_blocks(exactness(checks).blocks)
    wrong = [check for check in checks if not check.missing and not check.exact]
    for check in wrong:
        _say(f"{check.executor} differs: {check.differing} of {check.outputs} output codes, first in event {check.first_event}")
    if wrong:
        raise typer.Exit(1)
    if missing := [check for check in checks if check.missing]:
        raise MissingTool(f"{missing[0].executor} was not run: {missing[0].missing}; what ran is exact")


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
    from caloedge.detector.library import open_library
    from caloedge.pipeline import comparison_report, open_model

    artifact = open_model(model)
    showers = open_library(library) if library else library_of(artifact)
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
    independent: Annotated[Path | None, typer.Option(help="A second shower library to repeat the comparison on.")] = None,
) -> None:
    """Do the whole story of a recipe: train, export, compile, build, emulate, compare, report."""
    _need_training()
    from caloedge.pipeline import places, read_named_recipe
    from caloedge.pipeline import run as whole_story

    hardware = _hardware(accelerator, devices, precision)
    done = whole_story(recipe, output, hardware, independent)
    _show_blocks(block for section in done.sections for block in section.blocks if isinstance(block, Claim))
    _say(f"report: {places(read_named_recipe(recipe)[1], output).report / 'report.html'}")


@app.command(name="list")
def list_() -> None:
    """List tasks, networks, targets, backends, geometries and shipped shower libraries."""
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


def _read_codes(path: Path) -> Any:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            if "inputs" not in file.files:
                raise BadData(f"{path}: no array 'inputs' (found: {', '.join(file.files)}); write codes with numpy.savez")
            codes = file["inputs"]
    except (OSError, ValueError, EOFError, TypeError, zipfile.BadZipFile, zlib.error) as problem:
        raise BadData(f"{path}: not a readable .npz file ({problem}); write codes with numpy.savez(FILE, inputs=codes)") from None
    if not np.issubdtype(codes.dtype, np.integer):
        raise BadData(
            f"{path}: 'inputs' holds {codes.dtype}, not integer codes; write codes with numpy.savez(FILE, inputs=codes)"
        )
    return codes.astype(np.int64)


def _hardware(accelerator: str, devices: int, precision: str) -> Any:
    """Check where to train before anything is written."""
    from caloedge.training.fit import ACCELERATORS, PRECISIONS, Hardware

    for value, known, option in ((accelerator, ACCELERATORS, "--accelerator"), (precision, PRECISIONS, "--precision")):
        if value not in known:
            raise UserError(f"{option} {value!r} is not known; there are: {', '.join(known)}")
    return Hardware(accelerator=accelerator, devices=devices, precision=precision)


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
