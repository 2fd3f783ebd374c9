"""What is exact and what is accurate: verify, compare, report."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table as Grid

from caloedge.catalog import Backend, Task, find, names
from caloedge.cli.terminal import AnyModel, Model, model_file, read_codes, say, show, show_blocks
from caloedge.errors import MissingTool, Unsupported, UserError


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

    It is 2 if a backend that was asked for refuses the network: what was asked for is then not proven.

    An artifact is checked on its golden vectors with the firmware of its recipe, a QONNX file on given or random vectors.
    """
    from caloedge import verification
    from caloedge.pipeline import open_model, places
    from caloedge.reports.sections import exactness

    if Path(model).is_file() or vectors:
        _verify_file(model_file(model), projects, vectors, events, backend or [], quantise_missing)
        return
    artifact = open_model(model)
    folder = projects or places(artifact.recipe, None).work / "projects"
    checks = verification.verify(artifact, folder)
    show_blocks(exactness(checks).blocks)
    _finish_checks(checks)


def compare(
    model: Model,
    library: Annotated[Path | None, typer.Option(help="Showers to evaluate on; default: the recipe's own test showers.")] = None,
    events: Annotated[int | None, typer.Option(help="Composed events; default: the recipe's.", min=1)] = None,
    output: Annotated[Path | None, typer.Option(help="Folder for a report of this comparison.")] = None,
) -> None:
    """Compare float, quantised and classical accuracy on the same events."""
    from caloedge.comparison import compare as assess
    from caloedge.comparison import library_of, not_compared
    from caloedge.pipeline import comparison_report, open_model

    artifact = open_model(model)
    showers = find(Task, artifact.recipe.task).open(library) if library else library_of(artifact)
    assessment = assess(artifact, showers, events)
    for section in assessment.sections:
        show_blocks(section.blocks)
    show_blocks(assessment.claims)
    if missing := not_compared():
        say(missing)
    if output:
        comparison_report(artifact, showers, assessment, output)
        say(f"{output / 'report.html'}")


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
    say(f"{folder / 'report.html'}, {store.write_index(folder.resolve().parent)}")


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
            if not x.misfit
            else f"DIFFERS: {x.misfit}"
        )
        event = "" if x.first_event is None else str(x.first_event)
        numbers = [f"{n:,}" for n in (x.vectors, x.outputs, x.differing, x.largest_lsb, x.flips)]
        grid.add_row(x.executor, result, *(numbers if not x.missing else [""] * 5), event, x.first_node, f"{x.seconds:.2f}")
    show(grid)
    pairs = crosscheck.pairs(outcomes)
    say(f"{len(pairs)} pairs of executors compared on {checks[0].vectors:,} events, {sum(map(bool, pairs.values()))} differ")
    for (a, b), differing in pairs.items():
        if differing:
            say(f"{a} and {b} differ in {differing:,} output codes")
    _finish_checks([check for check in checks if check.executor not in refused])
    asked = {f"{name} {variant}" for name, variant in _backends(wanted)} if wanted else set()
    for check in checks:
        if check.executor in refused & asked:
            raise Unsupported(f"{check.executor} refuses the network: {check.missing}")


def _read_inputs(path: Path, graph: Any) -> Any:
    """Read input codes: `inputs` of a network with one input, else an array by input name."""
    if len(graph.inputs) == 1:
        return read_codes(path)
    return {op.name: read_codes(path, op.name) for op in graph.inputs}


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


def _finish_checks(checks: list[Any]) -> None:
    """End with exit code 1 when codes differ, and with an error when an executor could not be run."""
    wrong = [check for check in checks if not check.missing and not check.exact]
    for check in wrong:
        codes = f"{check.differing} of {check.outputs} output codes, first in event {check.first_event}"
        say(f"{check.executor} differs: {check.misfit or codes}")
    if wrong:
        raise typer.Exit(1)
    if missing := [check for check in checks if check.missing]:
        reasons: dict[str, list[str]] = {}
        for check in missing:
            reasons.setdefault(check.missing, []).append(check.executor)
        said = "; ".join(f"{', '.join(executors)} ({reason})" for reason, executors in reasons.items())
        raise MissingTool(f"not run: {said}; what ran is exact, the rest is not proven")
