"""From QONNX to the exact integer network: compile, inspect."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.table import Table as Grid

from caloedge.catalog import Target, find
from caloedge.cli.terminal import AnyModel, model_file, say, show
from caloedge.errors import MissingTool, Unsupported

MAX_VERIFIED_CODES = 2**26
"""Tensor elements of all events that `caloedge compile` verifies: it should take seconds."""


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

    path = model_file(model)
    compiled = compile_file(path, Format.parse(quantise_missing) if quantise_missing else None)
    graph = compiled.graph
    show(_layer_grid(graph))
    say(f"digest {graph.digest}")
    if compiled.inserted:
        say(f"quantisers put in ({quantise_missing}) at: {', '.join(compiled.inserted)}")
    if verify_events:
        _verify_compiled(path, compiled, verify_events)


def inspect(
    model: AnyModel,
    quantise_missing: Annotated[str, typer.Option(help="As for `caloedge compile`.")] = "",
    target: Annotated[list[str] | None, typer.Option(help="Devices to ask about; default: all.")] = None,
) -> None:
    """Show layers, formats, ranges and costs, where precision is wasted, and what every backend and device would do."""
    from caloedge.compiler.fixed import Format
    from caloedge.compiler.reader import compile_file
    from caloedge.inspection import prospects, remarks
    from caloedge.pipeline import open_model

    choices = {} if Path(model).is_file() else open_model(model).recipe.layers
    compiled = compile_file(model_file(model), Format.parse(quantise_missing) if quantise_missing else None)
    graph, before = compiled.graph, compiled.unoptimised
    show(_layer_grid(graph))
    layers = graph.layers()
    total = f"{sum(x.multiply_adds for x in layers):,} multiply-adds, {sum(x.weight_bits for x in layers):,} bits of weights"
    say(
        f"{total}, {sum(x.ebops for x in layers):,} EBOPs an event (estimated); passes left out "
        f"{len(before.ops) - len(graph.ops)} of {len(before.ops)} operations"
    )
    grid = Grid("layer", "where precision or hardware is wasted")
    for remark in remarks(graph):
        grid.add_row(remark.layer, remark.what)
    show(grid) if grid.row_count else say("no wasted bits found")
    grid = Grid("backend", "variant", "target", "takes it", "what it would build (estimated), or why not")
    for x in prospects(graph, {name: find(Target, name) for name in target} if target else None, choices):
        grid.add_row(x.backend, x.variant, x.target, "yes" if x.takes else "no", x.what)
    show(grid)


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
        say(f"not verified: {problem}")
        return
    if check.exact:
        say(f"verified: {check.outputs:,} output codes of {n_events} random events, 0 LSB from the QONNX executor in float64")
        return
    if check.misfit:
        say(f"DIFFERS from the QONNX executor: {check.misfit}")
        raise typer.Exit(1)
    place = first_node(path, compiled, event(codes, check.first_event or 0))
    say(
        f"DIFFERS from the QONNX executor: {check.differing} of {check.outputs} output codes, up to {check.largest_lsb} LSB, "
        f"first in event {check.first_event}{', ' + place if place else ''}"
    )
    raise typer.Exit(1)


def _between_codes(graph: Any, codes: Any) -> dict[str, Any]:
    """Return the real values of input codes, each moved by up to half a step: quantising an input has an effect, too.

    Whole numbers stay whole.
    """
    rng, found = np.random.default_rng(2), {}
    for op in graph.inputs:
        values = graph.input_values(codes)[op.name]
        half = 0.0 if op.whole else 0.5
        found[op.name] = values + rng.uniform(-half, half, values.shape) * op.format.lsb * op.scale
    return found


def _show_effect(rounded: Any, real: Any, n_events: int) -> None:
    """Say how far inserted quantisers move the outputs."""
    for name, values in rounded.items():
        difference, size = np.abs(values - real[name]), float(np.std(real[name]))
        mean, largest = float(difference.mean()), float(difference.max())
        say(
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
