"""Whole workflows, from training to a report: run, tradeoff, reconstruct."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from caloedge.cli.answer import Json, answering
from caloedge.cli.terminal import (
    MOST_EVENTS,
    Accelerator,
    ChannelsLast,
    Devices,
    Output,
    Precision,
    Quick,
    Recipe,
    generator_on,
    hardware_of,
    need_training,
    refuse_for_generators,
    run_on,
)
from caloedge.results import Claim, Table

if TYPE_CHECKING:
    from caloedge.fast_simulation.pipeline import Run as GeneratorRun
    from caloedge.training.fit import Hardware


def run(
    recipe: Recipe,
    output: Output = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    channels_last: ChannelsLast = False,
    quick: Quick = False,
    independent: Annotated[
        Path | None, typer.Option(help="A second shower library to repeat the comparison on; default: none.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Do the whole story of a recipe: train, export, compile, build, emulate, compare, report."""
    need_training()
    if opened_generator := generator_on(recipe, output, quick):
        refuse_for_generators("--independent", independent is not None)
        _run_generator(opened_generator, hardware_of(accelerator, devices, precision, channels_last), as_json)
        return
    from caloedge import pipeline

    opened, hardware = run_on(recipe, output, accelerator, devices, precision, channels_last, quick)
    with answering(as_json) as answer:
        report = pipeline.run(opened, hardware, independent)
        for caveat in report.caveats:
            answer.say(caveat)
        answer.show(*(block for section in report.sections for block in section.blocks if isinstance(block, Claim)))
        answer.say(f"report: {opened.places.report / 'report.html'}")


def _run_generator(opened: "GeneratorRun", hardware: "Hardware", as_json: bool) -> None:
    from caloedge.fast_simulation import pipeline

    with answering(as_json) as answer:
        report = pipeline.run(opened, hardware)
        for caveat in report.caveats:
            answer.say(caveat)
        answer.show(*(block for section in report.sections[:3] for block in section.blocks if isinstance(block, Claim | Table)))
        answer.say(f"report: {opened.report / 'report.html'}")


def tradeoff(
    recipe: Recipe,
    bits: Annotated[
        list[int] | None,
        typer.Option(
            help="Further bits of weights and activations; give it several times; default: the recipe's, else 8, 6, 5, 4 and 3."
        ),
    ] = None,
    output: Output = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    channels_last: ChannelsLast = False,
    quick: Quick = False,
    threads: Annotated[int, typer.Option(help="CPU threads when float networks are timed.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="Where torch is timed, e.g. cuda.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Compare a recipe's networks at several sizes and bit widths: accuracy against parameters, latency and hardware cost."""
    need_training()
    from caloedge.studies.tradeoff import tradeoff as compare_all

    opened, hardware = run_on(recipe, output, accelerator, devices, precision, channels_last, quick)
    with answering(as_json) as answer:
        report = compare_all(opened, hardware, bits, threads, device)
        answer.show(*(block for section in report.sections[:4] for block in section.blocks if isinstance(block, Claim | Table)))


def reconstruct(
    seeds: Annotated[str, typer.Argument(help="An artifact of task seed_finder: a folder, or its name in ./models.")],
    centres: Annotated[str, typer.Argument(help="An artifact of task center_finder.")],
    library: Annotated[Path | None, typer.Option(help="A shower library; default: the artifacts' own test showers.")] = None,
    events: Annotated[int, typer.Option(help="Composed test events.", min=500, max=MOST_EVENTS)] = 40_000,
    valid_events: Annotated[
        int, typer.Option(help="Validation events, on which thresholds are set.", min=500, max=MOST_EVENTS)
    ] = 10_000,
    output: Annotated[Path, typer.Option(help="Folder for the report.")] = Path("reports/deepcluster"),
    work: Annotated[Path, typer.Option(help="Folder for firmware projects, which can be made again.")] = Path("runs/deepcluster"),
    as_json: Json = False,
) -> None:
    """Turn whole events into photons, in float, in integers and classically; prove the hardware of it; write the report."""
    need_training()
    from caloedge.deepcluster.chain import Chain
    from caloedge.deepcluster.report import report as whole_report
    from caloedge.detector.crystals.library import open_library
    from caloedge.pipeline import open_model

    models = Chain(open_model(seeds), open_model(centres))
    with answering(as_json) as answer:
        report = whole_report(models, open_library(library) if library else None, events, valid_events, work, output)
        answer.show(*(block for section in report.sections for block in section.blocks if isinstance(block, Claim)))
        answer.say(f"report: {output / 'report.html'}")
