"""Commands from QONNX to the exact integer network: compile, inspect."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from caloedge.catalog import Target, find, look_beside
from caloedge.cli import completion
from caloedge.cli.answer import Answer, Json, answering
from caloedge.cli.terminal import MOST_EVENTS, AnyModel, QuantiseMissing, missing_format, model_file
from caloedge.errors import MissingTool, Unsupported
from caloedge.results import Facts, Number, Table

MAX_VERIFIED_CODES = 2**26
"""Tensor elements of all events that `caloedge compile` verifies: it should take seconds."""


def compile_(
    model: AnyModel,
    quantise_missing: QuantiseMissing = None,
    verify_events: Annotated[
        int, typer.Option(help="Random events to compare with the QONNX executor; 0 for none.", min=0, max=MOST_EVENTS)
    ] = 256,
    as_json: Json = False,
) -> None:
    """Compile QONNX to the exact integer network, verify it and print its layers. Exit code 1 if the executor differs."""
    from caloedge.compiler.onnx.reader import compile_file

    path = model_file(model)
    compiled = compile_file(path, missing_format(quantise_missing))
    graph = compiled.graph
    with answering(as_json) as answer:
        answer.show(_layer_table(graph))
        answer.say(f"digest {graph.digest}")
        if compiled.inserted:
            answer.say(f"quantisers put in ({quantise_missing}) at: {', '.join(compiled.inserted)}")
        if verify_events:
            _verify_compiled(answer, path, compiled, verify_events)


def inspect(
    model: AnyModel,
    quantise_missing: QuantiseMissing = None,
    target: Annotated[
        list[str] | None,
        typer.Option(help="Devices to ask about; default: all.", autocompletion=completion.of_kind("target")),
    ] = None,
    as_json: Json = False,
) -> None:
    """Show layers, formats, ranges and costs, where precision is wasted, and what every backend and device would do."""
    from caloedge.compiler.onnx.reader import compile_file
    from caloedge.firmware.inspection import previews, wastes
    from caloedge.pipeline import open_model

    look_beside(Path(), target or [])
    devices = {name: find(Target, name) for name in target} if target else None
    choices = {} if Path(model).is_file() else open_model(model).recipe.layers
    compiled = compile_file(model_file(model), missing_format(quantise_missing))
    graph, before = compiled.graph, compiled.unoptimised
    with answering(as_json) as answer:
        answer.show(_layer_table(graph), _totals(graph))
        answer.say(f"passes left out {len(before.ops) - len(graph.ops)} of {len(before.ops)} operations")
        wasted = tuple((waste.layer, waste.description) for waste in wastes(graph))
        if wasted:
            answer.show(Table(title="Where precision or hardware is wasted", columns=("layer", "what"), rows=wasted))
        else:
            answer.say("no wasted bits found")
        backend_previews = previews(graph, devices, choices)
        answer.show(
            Table(
                title="What each backend would build",
                columns=("backend", "variant", "target", "takes it", "what it would build (estimated), or why not"),
                rows=tuple(
                    (x.backend, x.variant, x.target, "yes" if x.supported else "no", x.description) for x in backend_previews
                ),
            )
        )


def _verify_compiled(answer: Answer, path: Path, compiled: Any, n_events: int) -> None:
    """Compare a compiled file with the QONNX executor on random events, or measure what inserted quantisers change."""
    from caloedge.verification.codes import compare_codes, random_codes, select_event
    from caloedge.verification.executors import run_qonnx
    from caloedge.verification.locating import first_differing_node
    from caloedge.verification.qonnx_executor import execute

    graph = compiled.graph
    size = sum(graph.tensors[op.name].size for op in graph.ops)
    n_events = max(1, min(n_events, MAX_VERIFIED_CODES // size))
    codes = random_codes(graph, n_events, seed=1)
    try:
        if compiled.inserted:
            reals = _between_codes(graph, codes)
            rounded = graph.output_values(graph.run(graph.quantise_inputs(reals)))
            _say_effect(answer, rounded, execute(path, reals), n_events)
            return
        expected = graph.run(codes)
        check = compare_codes("QONNX executor", expected, run_qonnx(path, graph, codes), 0.0)
    except (MissingTool, Unsupported) as problem:
        answer.say(f"not verified: {problem}")
        return
    if check.exact:
        answer.say(
            f"verified: {check.outputs:,} output codes of {n_events} random events, 0 LSB from the QONNX executor in float64"
        )
        return
    if check.misfit:
        answer.say(f"DIFFERS from the QONNX executor: {check.misfit}")
        raise typer.Exit(1)
    place = first_differing_node(path, compiled, select_event(codes, check.first_event or 0))
    answer.say(
        f"DIFFERS from the QONNX executor: {check.differing} of {check.outputs} output codes, up to {check.largest_lsb} LSB, "
        f"first in event {check.first_event}{', ' + place if place else ''}"
    )
    raise typer.Exit(1)


def _between_codes(graph: Any, codes: Any) -> dict[str, Any]:
    """Return the real values of input codes, each moved by up to half a step: quantising an input has an effect, too.

    Whole numbers stay whole.
    """
    rng, reals = np.random.default_rng(2), {}
    for op in graph.inputs:
        values = graph.input_values(codes)[op.name]
        half = 0.0 if op.whole else 0.5
        reals[op.name] = values + rng.uniform(-half, half, values.shape) * op.format.lsb * op.scale
    return reals


def _say_effect(answer: Answer, rounded: Any, real: Any, n_events: int) -> None:
    """Say how far inserted quantisers move the outputs."""
    for name, values in rounded.items():
        difference, size = np.abs(values - real[name]), float(np.std(real[name]))
        mean, largest = float(difference.mean()), float(difference.max())
        answer.say(
            f"output {name}: {mean:.4g} mean and {largest:.4g} largest difference from the unquantised file (standard "
            f"deviation of its values {size:.4g}), {n_events} random events"
        )


def _layer_table(graph: Any) -> Table:
    from caloedge.firmware.inspection import describe_constants

    columns = ("layer", "operation", "shape", "weights", "result", "lowest", "highest", "multiply-adds", "EBOPs", "constants")
    return Table(
        title="Layers",
        columns=columns,
        rows=tuple(
            (
                x.name,
                x.kind,
                "×".join(map(str, x.shape)),
                str(x.weight_format or ""),
                str(x.format),
                *(Number(value=n, origin="computed") for n in (x.low, x.high, x.multiply_adds)),
                Number(value=x.ebops, origin="estimated"),
                describe_constants(graph[x.name]),
            )
            for x in graph.layers()
        ),
        caption="`lowest` and `highest` are the codes that a result can take.",
    )


def _totals(graph: Any) -> Facts:
    layers = graph.layers()
    return Facts(
        title="An event",
        items=(
            ("multiply-adds", Number(value=sum(x.multiply_adds for x in layers), origin="computed")),
            ("bits of weights", Number(value=sum(x.weight_bits for x in layers), unit="bit", origin="computed")),
            ("EBOPs", Number(value=sum(x.ebops for x in layers), origin="estimated")),
        ),
    )
