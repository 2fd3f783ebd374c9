"""Commands from the integer network to firmware and its simulation: build, emulate."""

import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from caloedge.catalog import Backend, CycleRun, Target, Waves, find, look_beside
from caloedge.cli import completion
from caloedge.cli.answer import Answer, Json, answering
from caloedge.cli.terminal import AnyModel, QuantiseMissing, known_variant, missing_format, read_codes
from caloedge.errors import MissingTool, Unsupported, UserError
from caloedge.files import replacing
from caloedge.progress import progress
from caloedge.results import Facts, Number

if TYPE_CHECKING:
    from caloedge.synthesis.cost import ImplementationResult

DEFAULT_TARGET = "xcvu13p"
CLOCKS_MHZ = 1.0, 2000.0
"""Lowest and highest clock that can be requested [MHz]."""
ENOUGH_LUT = 10**9
"""More than any design takes."""


def build(
    model: AnyModel,
    folder: Annotated[Path, typer.Argument(help="Project folder to write.")],
    backend: Annotated[str, typer.Option(help="See: caloedge list.", autocompletion=completion.of_kind("backend"))] = "hls4ml",
    variant: Annotated[
        str | None,
        typer.Option(
            help="How to build it, see `caloedge inspect`; default: the backend's first variant.",
            autocompletion=completion.variants,
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="Device; default: the recipe's, and xcvu13p for a QONNX file.", autocompletion=completion.of_kind("target")
        ),
    ] = None,
    clock_mhz: Annotated[float | None, typer.Option(help="Clock to ask for; default: the device's.")] = None,
    quantise_missing: QuantiseMissing = None,
    layer: Annotated[
        list[str] | None, typer.Option(help="NAME=STRATEGY or NAME=STRATEGY:REUSE, for variant auto; default: the recipe's.")
    ] = None,
    synthesise: Annotated[
        bool | None,
        typer.Option(
            help="Synthesise an rtl project, and route it where open tools can; default: as far as the tools are installed."
        ),
    ] = None,
    block: Annotated[
        str | None,
        typer.Option(help="Synthesise and route only this block of an rtl project, e.g. a lane gravnet_1; default: all."),
    ] = None,
    route_limit_s: Annotated[float, typer.Option(help="Place and route gets no more time than this.", min=0)] = 3600.0,
    chipdb: Annotated[
        Path | None, typer.Option(help="Device file that nextpnr-xilinx needs to route a 7-series; default: none.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a firmware project, compile its simulation, synthesise it. Exit code 1 if it is not routed or misses its clock.

    Ctrl-C keeps what is done; the same command goes on.
    """
    from caloedge.compiler.onnx.reader import compile_file
    from caloedge.pipeline import open_model
    from caloedge.project import AUTO, build_unless_built, record
    from caloedge.synthesis.cost import implement

    layers = dict(map(_layer_choice, layer or []))
    if Path(model).is_file():
        graph = compile_file(Path(model), missing_format(quantise_missing)).graph
        target = DEFAULT_TARGET if target is None else target
    else:
        artifact = open_model(model)
        graph, layers = artifact.graph(), dict(artifact.recipe.layers) | layers
        target = artifact.recipe.target if target is None else target
    look_beside(Path(), [target])
    plugin, device, variant = find(Backend, backend), find(Target, target), known_variant(backend, variant)
    if layer and variant != AUTO:
        cure = f"give --variant {AUTO}" if AUTO in plugin.variants else "leave it out"
        raise UserError(f"--layer {layer[0]}: backend {backend!r} builds all layers of variant {variant} alike; {cure}")
    if block is not None and (synthesise is False or backend != "rtl"):
        raise UserError(f"--block {block}: only blocks of an rtl project are synthesised by themselves; give --backend rtl")
    device = replace(device, clock_mhz=device.clock_mhz if clock_mhz is None else _checked_clock(clock_mhz))
    if block is not None:
        try:
            plugin.preview(graph, device, variant, layers)
        except Unsupported:  # a device that the whole design does not fit may have room for one block
            device = replace(device, resources={**device.resources, "LUT": ENOUGH_LUT})
    with answering(as_json) as answer:

        def build_new() -> None:
            if folder.exists():
                raise UserError(f"{folder}: exists already; remove it or give another name")
            with progress(f"build {folder.name}", 1) as advance:
                plugin.build(graph, device, variant, folder, layers)
                advance(1)

        build_unless_built(folder, record(backend, graph, device, variant, layers), build_new)
        answer.show(
            Facts(
                title=str(folder),
                items=(
                    ("built by", f"{backend} {variant}"),
                    ("for", device.part),
                    ("clock", Number(value=device.clock_mhz, unit="MHz", origin="requested")),
                ),
            )
        )
        if synthesise is not False:
            cost = implement(folder, target, route_limit_s, chipdb, clock_mhz, block)
            _show_cost(answer, " ".join(filter(None, (folder.name, block))), cost, asked_for=bool(synthesise or block))


def _show_cost(answer: Answer, name: str, cost: "ImplementationResult | None", *, asked_for: bool) -> None:
    """Show what synthesis and routing gave; end with exit code 1 when a tool failed or the clock is missed."""
    from caloedge.firmware.section import cost_table

    if cost is None:
        answer.say("not synthesised: no tool for this backend's projects was found")
        return
    if cost.has_result:
        answer.show(cost_table({name: cost}))
    if cost.unrouted:
        answer.say(cost.unrouted)
    for remark in cost.remarks:
        if remark not in cost.broken:
            answer.say(f"not done: {remark}")
    for failure in cost.failures:
        answer.say(f"FAILED: {failure}")
    if cost.failures:
        raise typer.Exit(1)
    if asked_for and cost.remarks:
        raise MissingTool(f"--synthesise: {cost.remarks[0]}")


def _checked_clock(clock_mhz: float) -> float:
    low, high = CLOCKS_MHZ
    if not low <= clock_mhz <= high:
        raise UserError(f"--clock-mhz {clock_mhz:g}: give {low:g} to {high:g}")
    return clock_mhz


def emulate(
    project: Annotated[Path, typer.Argument(help="A project folder made by `caloedge build`, or an artifact.")],
    inputs: Annotated[Path, typer.Argument(help="An .npz file with input codes under `inputs`, such as golden.npz.")],
    outputs: Annotated[Path, typer.Argument(help="The .npz file to write, one array of codes per output.")],
    backend: Annotated[
        str | None,
        typer.Option(
            help="For an artifact: the backend to build it with; default: none, a project.",
            autocompletion=completion.of_kind("backend"),
        ),
    ] = None,
    variant: Annotated[
        str | None,
        typer.Option(help="For an artifact: the backend's variant; default: its first.", autocompletion=completion.variants),
    ] = None,
    vcd: Annotated[Path | None, typer.Option(help="Write all signals to this file (backend rtl); default: none.")] = None,
    vcd_limit_mb: Annotated[float, typer.Option(help="The file of signals ends at this size.", min=0.001)] = 100.0,
    as_json: Json = False,
) -> None:
    """Simulate a firmware project bit for bit on input codes."""
    from caloedge.project import read_record

    if project.is_file():
        raise UserError(f"{project}: is a model, not a project; build it first: caloedge build {project} FOLDER")
    codes = read_codes(inputs)
    folder = _built(project, backend, variant)
    name = str(read_record(folder).get("backend"))
    plugin = find(Backend, name)
    if plugin.simulate is None and vcd:
        raise UserError(f"backend {name!r} has no cycles and no waveforms; use backend 'rtl' with --vcd")
    with answering(as_json) as answer:
        if plugin.simulate is None:
            output_codes: dict[str, Any] = plugin.emulate(folder, codes)
        else:
            run = plugin.simulate(folder, codes, 0.0, Waves(vcd, vcd_limit_mb) if vcd else None)
            output_codes = run.codes
            if len(codes) > 1:
                answer.say(f"latency {run.latency_cycles} cycles, one event every {run.interval_cycles} cycles (simulated)")
            if vcd:
                answer.say(_waves_line(vcd, vcd_limit_mb, run, len(codes)))
        _write_codes(outputs, output_codes)
        answer.say(f"{outputs}: " + ", ".join(f"{name} {values.shape}" for name, values in output_codes.items()))


def _waves_line(vcd: Path, limit_mb: float, run: CycleRun, events: int) -> str:
    complete = run.waved_events == events
    covers = "all" if complete else f"limit of {limit_mb:g} MB reached (--vcd-limit-mb):"
    return f"{vcd}: {covers} {run.waved_cycles:,} cycles, {run.waved_events:,} of {events:,} events"


def _write_codes(path: Path, codes: Mapping[str, Any]) -> None:
    """Write arrays by name as numpy.savez does, which takes no array called `file`."""
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, values in codes.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as stream:
                np.lib.format.write_array(stream, np.asarray(values), allow_pickle=False)


def _layer_choice(text: str) -> tuple[str, Any]:
    from pydantic import ValidationError

    from caloedge.recipe import LayerChoice

    name, _, options = text.partition("=")
    strategy, _, reuse = options.partition(":")
    try:
        return name, LayerChoice.model_validate({"strategy": strategy or None, "reuse": reuse or None})
    except ValidationError:
        raise UserError(f"--layer {text!r} is not NAME=STRATEGY or NAME=STRATEGY:REUSE, e.g. conv_1=streaming:4") from None


def _built(project: Path, backend: str | None, variant: str | None) -> Path:
    """Return the folder of a built project; an artifact is built first, in ./runs, unless it was before."""
    from caloedge.pipeline import open_model, places
    from caloedge.project import FirmwareDesign

    if backend is None:
        return project
    artifact = open_model(str(project))
    design = FirmwareDesign(backend, known_variant(backend, variant), artifact.recipe.target)
    return design.project(artifact.graph(), artifact.recipe, places(artifact.recipe, None).work / "projects")
