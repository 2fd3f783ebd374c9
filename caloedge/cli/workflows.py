"""Whole workflows, from training to a report: run, tradeoff, study, reconstruct."""

from pathlib import Path
from typing import Annotated

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
    chosen_hardware,
    need_training,
)
from caloedge.results import Claim, Table


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
    from caloedge.pipeline import places, read_named_recipe, rehearse
    from caloedge.pipeline import run as whole_story

    hardware = chosen_hardware(accelerator, devices, precision, channels_last)
    if quick:
        recipe, output = rehearse(recipe, output)
    with answering(as_json) as answer:
        report = whole_story(recipe, output, hardware, independent)
        for caveat in report.caveats:
            answer.say(caveat)
        answer.show(*(block for section in report.sections for block in section.blocks if isinstance(block, Claim)))
        answer.say(f"report: {places(read_named_recipe(recipe)[1], output).report / 'report.html'}")


def tradeoff(
    recipe: Recipe,
    output: Output = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    channels_last: ChannelsLast = False,
    threads: Annotated[int, typer.Option(help="CPU threads when float networks are timed.", min=1)] = 1,
    device: Annotated[str, typer.Option(help="Where torch is timed, e.g. cuda.")] = "cpu",
    as_json: Json = False,
) -> None:
    """Compare all networks of a recipe: accuracy against size and latency, and its firmware at several reuse factors."""
    need_training()
    from caloedge.studies.tradeoff import tradeoff as compare_all

    hardware = chosen_hardware(accelerator, devices, precision, channels_last)
    with answering(as_json) as answer:
        report = compare_all(recipe, output, hardware, threads, device)
        answer.show(*(block for section in report.sections[:3] for block in section.blocks if isinstance(block, Claim | Table)))


def study(
    recipe: Recipe,
    bits: Annotated[
        list[int] | None,
        typer.Option(help="Bits of weights and activations; give it several times; default: 8, 6, 5, 4 and 3."),
    ] = None,
    output: Output = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    channels_last: ChannelsLast = False,
    as_json: Json = False,
) -> None:
    """Train, prove and synthesise a recipe's network at several bit widths: accuracy against cost."""
    need_training()
    from caloedge.studies.widths import DEFAULT_BITS
    from caloedge.studies.widths import study as at_every_width

    hardware = chosen_hardware(accelerator, devices, precision, channels_last)
    with answering(as_json) as answer:
        report = at_every_width(recipe, bits or DEFAULT_BITS, output, hardware)
        answer.show(*(block for section in report.sections[:2] for block in section.blocks if isinstance(block, Claim | Table)))


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
