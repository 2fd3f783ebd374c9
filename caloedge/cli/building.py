"""From the integer network to firmware and its simulation: build, emulate."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from caloedge.catalog import Backend, Target, find
from caloedge.cli.terminal import AnyModel, read_codes, say, show_blocks
from caloedge.errors import UserError
from caloedge.files import replacing

DEFAULT_TARGET = "xcvu13p"


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
    from caloedge.project import AUTO, is_built, record
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
    if layer and variant != AUTO:
        cure = f"give --variant {AUTO}" if AUTO in maker.variants else "leave it out"
        raise UserError(f"--layer {layer[0]}: backend {backend!r} builds all layers of variant {variant} alike; {cure}")
    if not is_built(folder, record(backend, graph, device, variant, layers)):
        if folder.exists():
            raise UserError(f"{folder}: exists already; remove it or give another name")
        maker.build(graph, device, variant, folder, layers)
    say(f"{folder}: {backend} {variant} project for {device.part} at {device.clock_mhz:g} MHz (requested)")
    if synthesise:
        cost = implement(folder, target, route_limit_s, chipdb)
        show_blocks([cost_table({folder.name: cost})] if cost and cost.found else [])
        for remark in cost.remarks if cost else ():
            say(f"not done: {remark}")


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

    codes = read_codes(inputs)
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
            say(f"latency {run.latency_cycles} cycles, one event every {run.interval_cycles} cycles (simulated)")
    with replacing(outputs) as temporary, temporary.open("wb") as stream:
        np.savez_compressed(stream, **found)
    say(f"{outputs}: " + ", ".join(f"{name} {values.shape}" for name, values in found.items()))


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
