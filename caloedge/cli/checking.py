"""Commands that check exactness and accuracy: verify, compare, report."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from caloedge.catalog import Task, find, names
from caloedge.cli import completion
from caloedge.cli.answer import Answer, Json, answering
from caloedge.cli.terminal import (
    MOST_EVENTS,
    AnyModel,
    Model,
    QuantiseMissing,
    check_memory,
    known_variant,
    missing_format,
    model_file,
    read_vectors,
)
from caloedge.errors import MissingTool, Unsupported, UserError
from caloedge.results import Cell, Claim, Facts, Number, Table


def verify(
    model: AnyModel,
    projects: Annotated[Path | None, typer.Option(help="Where firmware projects are or are built; default: ./runs.")] = None,
    vectors: Annotated[
        Path | None,
        typer.Option(
            help="An .npz or .npy file of inputs: integer codes, or real values, which the network's own input quantiser takes; "
            "default: golden or random codes."
        ),
    ] = None,
    events: Annotated[int, typer.Option(help="Random events for a QONNX file.", min=1, max=MOST_EVENTS)] = 1_000,
    backend: Annotated[
        list[str] | None,
        typer.Option(
            help="For a QONNX file: NAME or NAME:VARIANT to run; default: every backend that takes it.",
            autocompletion=completion.of_kind("backend"),
        ),
    ] = None,
    quantise_missing: QuantiseMissing = None,
    as_json: Json = False,
) -> None:
    """Run every executor that is present against every other. Exit code 1 if any output code differs.

    It is 2 if a backend that was asked for refuses the network: what was asked for is then not proven.

    An artifact is checked on its golden vectors with the firmware of its recipe, a QONNX file on given or random vectors.
    """
    from caloedge.pipeline import open_model, places
    from caloedge.reports.sections import exactness
    from caloedge.verification import executors

    with answering(as_json) as answer:
        if Path(model).is_file() or vectors:
            _verify_file(answer, model_file(model), projects, vectors, events, backend or [], quantise_missing)
            return
        artifact = open_model(model)
        folder = projects or places(artifact.recipe, None).work / "projects"
        checks = executors.verify(artifact, folder)
        answer.show(*exactness(checks).blocks)
        _finish_checks(answer, checks)


def compare(
    model: Model,
    library: Annotated[Path | None, typer.Option(help="Showers to evaluate on; default: the recipe's own test showers.")] = None,
    events: Annotated[int | None, typer.Option(help="Composed events; default: the recipe's.", min=1, max=MOST_EVENTS)] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for a report of this comparison; default: none is written.")] = None,
    as_json: Json = False,
) -> None:
    """Compare float, quantised and classical accuracy on the same events."""
    from caloedge.evaluation.accuracy import evaluate as assess
    from caloedge.evaluation.accuracy import library_of, not_compared
    from caloedge.pipeline import comparison_report, open_model

    artifact = open_model(model)
    task = find(Task, artifact.recipe.task)
    check_memory("--events", events or 1, int(np.prod(task.shape_of("published"))))
    showers = task.open(library) if library else library_of(artifact)
    with answering(as_json) as answer:
        assessment = assess(artifact, showers, events)
        for section in assessment.sections:
            answer.show(*section.blocks)
        answer.show(*assessment.claims)
        if missing := not_compared():
            answer.say(missing)
        if output:
            comparison_report(artifact, showers, assessment, output)
            answer.say(f"{output / 'report.html'}")


def report(
    folder: Annotated[
        Path, typer.Argument(help="A folder with report.json, such as reports/seed_finder, or one of such folders.")
    ],
    readme: Annotated[
        Path | None, typer.Option(help="A README whose results are to be rewritten from a folder of reports; default: none.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Draw report.html and report.md from report.json, and the index of the folder above; print key figures and claims."""
    from caloedge.reports import readme as results
    from caloedge.reports import store

    folders = store.folders(folder)
    if readme and folder in folders:
        raise UserError(f"--readme {readme}: lists every report; give the folder of all, such as {folder.resolve().parent.name}")
    reports = {report_folder: store.load(report_folder) for report_folder in folders}
    with answering(as_json) as answer:
        for report_folder, loaded_report in reports.items():
            store.save(loaded_report, report_folder)
            answer.show(Facts(title=loaded_report.title, items=loaded_report.headline))
            answer.show(*(block for section in loaded_report.sections for block in section.blocks if isinstance(block, Claim)))
            answer.say(f"{report_folder / 'report.html'}")
        if readme:
            results.update(readme, {report_folder.name: loaded_report for report_folder, loaded_report in reports.items()})
        answer.say(f"{store.write_index(folders[0].resolve().parent)}")


def _verify_file(
    answer: Answer,
    path: Path,
    projects: Path | None,
    vectors: Path | None,
    events: int,
    requested_backends: list[str],
    quantise_missing: str | None,
) -> None:
    from caloedge.compiler.onnx.reader import compile_file
    from caloedge.verification import crosscheck
    from caloedge.verification.executors import random_codes

    compiled = compile_file(path, missing_format(quantise_missing))
    graph = compiled.graph
    if not vectors:
        ends = [op.name for op in graph.inputs] + [op.name for op in graph.outputs]
        check_memory("--events", events, sum(graph.tensors[name].size for name in ends))
    inputs = read_vectors(vectors, graph) if vectors else random_codes(graph, events, seed=1)
    folder = projects or Path("runs") / path.stem / graph.digest[:8]
    outcomes = crosscheck.run_all(path, compiled, inputs, _backends(requested_backends), folder)
    checks = [
        crosscheck.with_first_difference(path, compiled, inputs, check) for check in crosscheck.compare_with_graph(outcomes)
    ]
    refused = {outcome.executor for outcome in outcomes if outcome.refused}
    answer.show(
        Table(
            title="Every executor against the integer network",
            columns=("executor", "result", *COUNTED, "first event", "first place", "time"),
            rows=tuple(_row(check, check.executor in refused) for check in checks),
        )
    )
    pairs = crosscheck.differing_codes_by_pair(outcomes)
    answer.say(
        f"{len(pairs)} pairs of executors compared on {checks[0].vectors:,} events, {sum(map(bool, pairs.values()))} differ"
    )
    for (a, b), differing in pairs.items():
        if differing:
            answer.say(f"{a} and {b} differ in {differing:,} output codes")
    _finish_checks(answer, [check for check in checks if check.executor not in refused])
    requested_executors = (
        {f"{name} {variant}" for name, variant in _backends(requested_backends)} if requested_backends else set()
    )
    for check in checks:
        if check.executor in refused & requested_executors:
            raise Unsupported(f"{check.executor} refuses the network: {check.missing}")


COUNTED = ("events", "codes", "differing", "largest difference", "argmax flips")


def _row(x: Any, refused: bool) -> tuple[Cell, ...]:
    """Return a check as a row of the table of executors."""
    differs = f"DIFFERS: {x.misfit}" if x.misfit else "DIFFERS"
    result = f"{'refused' if refused else 'not run'}: {x.missing}" if x.missing else "exact" if x.exact else differs
    counts = zip((x.vectors, x.outputs, x.differing, x.largest_lsb, x.flips), ("", "", "", "LSB", ""), strict=True)
    numbers = [Number(value=n, unit=unit, origin="computed") for n, unit in counts]
    first = "" if x.first_event is None else Number(value=x.first_event, origin="computed")
    time = Number(value=round(x.seconds, 2), unit="s", origin="measured")
    return (x.executor, result, *([""] * len(COUNTED) if x.missing else numbers), first, x.first_node, time)


def _backends(requested: list[str]) -> list[tuple[str, str]]:
    """Return (backend, variant) pairs: those asked for, or every backend in its first variant."""
    pairs = []
    for text in requested or names("backend"):
        name, _, variant = text.partition(":")
        pairs.append((name, known_variant(name, variant or None)))
    return pairs


def _finish_checks(answer: Answer, checks: list[Any]) -> None:
    """End with exit code 1 when codes differ, and with an error when an executor could not be run."""
    wrong = [check for check in checks if not check.missing and not check.exact]
    for check in wrong:
        codes = f"{check.differing} of {check.outputs} output codes, first in event {check.first_event}"
        answer.say(f"{check.executor} differs: {check.misfit or codes}")
    if wrong:
        raise typer.Exit(1)
    if missing := [check for check in checks if check.missing]:
        reasons: dict[str, list[str]] = {}
        for check in missing:
            reasons.setdefault(check.missing, []).append(check.executor)
        summary = "; ".join(f"{', '.join(executors)} ({reason})" for reason, executors in reasons.items())
        raise MissingTool(f"not run: {summary}; what ran is exact, the rest is not proven")
