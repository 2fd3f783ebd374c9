"""Command that judges a simulation against another: fidelity."""

from pathlib import Path
from typing import Annotated

import typer

from caloedge.cli import completion
from caloedge.cli.answer import Json, answering
from caloedge.extras import need
from caloedge.results import Claim, Table

MOST_SHOWERS = 100_000


def fidelity(
    generated: Annotated[Path, typer.Argument(help="Generated showers: an HDF5 library of ours, or of the CaloChallenge.")],
    reference: Annotated[Path, typer.Argument(help="Showers of the simulation to be imitated; half of them are the floor.")],
    training: Annotated[
        Path | None, typer.Option(help="Showers that the generator was trained on, to look for copies of them; default: none.")
    ] = None,
    beside: Annotated[
        list[Path] | None,
        typer.Option(help="Further generated showers for the same table; give it several times; default: none."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("reports/fidelity"),
    geometry: Annotated[
        str | None,
        typer.Option(
            help="pbwo4, csi, wsi or a binning file (.xml), where the files do not say it; default: the files'.",
            autocompletion=completion.geometries,
        ),
    ] = None,
    particle: Annotated[str | None, typer.Option(help="Which of a binning file's particles; default: its only one.")] = None,
    threshold_mev: Annotated[
        float | None,
        typer.Option(
            help="Stored cells below it are empty; default: the highest that a file was made with, at least 0.0005 deposited."
        ),
    ] = None,
    sampling_fraction: Annotated[
        float | None,
        typer.Option(help="Stored energies are divided by it; default: 0.033 for libraries of stacks, 1 for all others."),
    ] = None,
    showers: Annotated[int, typer.Option(help="Most showers of each sample.", min=100, max=MOST_SHOWERS)] = 10_000,
    dnn: Annotated[bool, typer.Option("--dnn", help="Train the CaloChallenge's classifier, too: minutes to hours.")] = False,
    as_json: Json = False,
) -> None:
    """Judge generated showers against a reference simulation by the community's metrics; write the report."""
    need("fidelity", "this command")
    from caloedge.fidelity.assessment import assess
    from caloedge.fidelity.showers import read_inputs
    from caloedge.reports import store, summary

    inputs = read_inputs(
        generated,
        reference,
        training,
        beside=beside or (),
        geometry_name=geometry,
        particle=particle,
        threshold_mev=threshold_mev,
        sampling_fraction=sampling_fraction,
    )
    with answering(as_json) as answer:
        found = assess(inputs, showers, dnn=dnn)
        report = summary.compose(
            f"Fidelity of {generated.stem} against {reference.stem}",
            "Generated showers against those of a reference simulation. Beside each figure stand the reference against itself, "
            "which is the floor, and a ladder of known damages, which says what the figure means.",
            "",
            found.figures,
            found.claims,
            found.sections,
            lower_is_better=True,
            caveats=found.caveats,
        )
        # No sample competes with the floor.
        report = report.model_copy(update={"best": ()})
        store.save(report, output, listed=False)
        for caveat in report.caveats:
            answer.say(caveat)
        answer.show(*(block for section in report.sections[:2] for block in section.blocks if isinstance(block, Claim | Table)))
        answer.say(f"report: {output / 'report.html'}")
