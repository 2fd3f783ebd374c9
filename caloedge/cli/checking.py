"""Commands that check exactness and accuracy: verify, compare, report."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

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
from caloedge.results import Claim, Facts

if TYPE_CHECKING:
    from caloedge.verification.codes import Check


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
    from caloedge.verification.executors import verify_artifact

    with answering(as_json) as answer:
        if Path(model).is_file() or vectors:
            _verify_file(answer, model_file(model), projects, vectors, events, backend or [], quantise_missing)
            return
        artifact = open_model(model)
        folder = projects or places(artifact.recipe, None).work / "projects"
        checks = verify_artifact(artifact, folder)
        answer.show(*exactness(checks).blocks)
        _finish_checks(answer, checks)


def compare(
    model: Model,
    library: Annotated[
        Path | None,
        typer.Option(help="Showers, or events that the task reads, to evaluate on; default: the recipe's test showers."),
    ] = None,
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
    with answering(as_json) as answer:
        reports = store.draw(folders)
        for report_folder, loaded_report in reports.items():
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
    from caloedge.artifact import Golden
    from caloedge.compiler.onnx.reader import compile_file
    from caloedge.reports.sections import checks_table
    from caloedge.verification import executors
    from caloedge.verification.codes import differing_codes_by_pair, random_codes

    compiled = compile_file(path, missing_format(quantise_missing))
    graph = compiled.graph
    if not vectors:
        ends = [op.name for op in graph.inputs] + [op.name for op in graph.outputs]
        check_memory("--events", events, sum(graph.tensors[name].size for name in ends))
    inputs = read_vectors(vectors, graph) if vectors else random_codes(graph, events, seed=1)
    folder = projects or Path("runs") / path.stem / graph.digest[:8]
    backends = _backends(requested_backends)
    chain = executors.executors_of_file(path, compiled, backends, folder)
    checks = executors.verify(chain, Golden(inputs, graph.run(inputs)), f"verify {path.name}")
    answer.show(checks_table("Every executor against the integer network", checks))
    pairs = differing_codes_by_pair(checks)
    answer.say(
        f"{len(pairs)} pairs of executors compared on {checks[0].vectors:,} events, {sum(map(bool, pairs.values()))} differ"
    )
    for (a, b), differing in pairs.items():
        if differing:
            answer.say(f"{a} and {b} differ in {differing:,} output codes")
    _finish_checks(answer, [check for check in checks if not check.refused])
    requested_executors = {f"{name} {variant}" for name, variant in backends} if requested_backends else set()
    for check in checks:
        if check.refused and check.executor in requested_executors:
            raise Unsupported(f"{check.executor} refuses the network: {check.missing}")


def _backends(requested: list[str]) -> list[tuple[str, str]]:
    """Return (backend, variant) pairs: those asked for, or every backend in its first variant."""
    pairs = []
    for text in requested or names("backend"):
        name, _, variant = text.partition(":")
        pairs.append((name, known_variant(name, variant or None)))
    return pairs


def _finish_checks(answer: Answer, checks: "Sequence[Check]") -> None:
    """End with exit code 1 when codes differ, and with an error when an executor could not be run."""
    wrong = [check for check in checks if not check.missing and not check.exact]
    for check in wrong:
        place = f", {check.first_node}" if check.first_node else ""
        codes = f"{check.differing} of {check.outputs} output codes, first in event {check.first_event}{place}"
        answer.say(f"{check.executor} differs: {check.misfit or codes}")
    if wrong:
        raise typer.Exit(1)
    if missing := [check for check in checks if check.missing]:
        reasons: dict[str, list[str]] = {}
        for check in missing:
            reasons.setdefault(check.missing, []).append(check.executor)
        summary = "; ".join(f"{', '.join(executors)} ({reason})" for reason, executors in reasons.items())
        raise MissingTool(f"not run: {summary}; what ran is exact, the rest is not proven")
