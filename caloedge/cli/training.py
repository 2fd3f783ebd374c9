"""Commands from showers to an artifact: simulate, convert, train, export."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from caloedge.cli import completion
from caloedge.cli.terminal import (
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
    say,
)

if TYPE_CHECKING:
    from caloedge.artifact import TrainingRecord


def simulate(
    file: Annotated[Path, typer.Argument(help="HDF5 file to write.")],
    showers: Annotated[int, typer.Option(help="How many.")] = 10_000,
    geometry: Annotated[
        str,
        typer.Option(
            help="pbwo4 (25×25 crystals), csi (13×13) or wsi (45 layers × 16 φ × 9 r).",
            autocompletion=completion.geometries,
        ),
    ] = "pbwo4",
    generator: Annotated[
        str,
        typer.Option(
            help="geant4, parametrised (fast), frozen (stored showers), flow_matching (trained networks), or your own.",
            autocompletion=completion.of_kind("generator"),
        ),
    ] = "geant4",
    particle: Annotated[str, typer.Option(help="Geant4's name of the incident particle.")] = "gamma",
    min_energy_gev: Annotated[float, typer.Option(help="Lowest energy; energies are log-uniform.")] = 1.0,
    max_energy_gev: Annotated[float, typer.Option(help="Highest energy.")] = 100.0,
    seed: Annotated[int, typer.Option(help="The library depends on this, not on the number of workers.")] = 1,
    zero_below_mev: Annotated[float, typer.Option(help="Smaller cell energies are stored as zero.")] = 0.1,
    source: Annotated[
        str,
        typer.Option(
            help="What the generator needs: a shower library for frozen, a trained generator for flow_matching; default: none."
        ),
    ] = "",
    workers: Annotated[int, typer.Option(help="Processes; default: one per core.", min=1)] = os.cpu_count() or 1,
) -> None:
    """Make a shower library. Ctrl-C keeps what is finished; the same command goes on."""
    from caloedge.production import Production
    from caloedge.production import simulate as produce

    production = Production(
        geometry=geometry,
        generator=generator,
        particle=particle,
        showers=showers,
        min_energy_gev=min_energy_gev,
        max_energy_gev=max_energy_gev,
        seed=seed,
        zero_below_mev=zero_below_mev,
        source=source,
    )
    produce(production, file, workers)
    say(f"{file}: {showers} showers, {file.stat().st_size / 1e6:.1f} MB")


def convert(
    source: Annotated[Path, typer.Argument(help="A shower library, or a file of the CaloChallenge.")],
    file: Annotated[Path, typer.Argument(help="HDF5 file to write: of the other kind; a binning file (.xml) comes with theirs.")],
    geometry: Annotated[
        str | None,
        typer.Option(help="wsi or a binning file (.xml); default: what the source says.", autocompletion=completion.geometries),
    ] = None,
    particle: Annotated[
        str | None, typer.Option(help="photon, electron or pion; default: the source's, or the binning file's only one.")
    ] = None,
    sampling_fraction: Annotated[
        float | None,
        typer.Option(help="Share of the energy that sensors see, by which their energies are divided; default: 0.033 for wsi."),
    ] = None,
) -> None:
    """Turn a shower library into a file of the CaloChallenge, or the other way round."""
    from caloedge.detector.crystals import challenge

    written = challenge.convert(source, file, geometry_name=geometry, particle=particle, sampling_fraction=sampling_fraction)
    for path in written:
        say(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


def train(
    recipe: Recipe,
    output: Output = None,
    accelerator: Accelerator = "auto",
    devices: Devices = 1,
    precision: Precision = "32-true",
    channels_last: ChannelsLast = False,
    quick: Quick = False,
    alternative: Annotated[
        list[str] | None, typer.Option("--alternative", help="Train these alternatives of the recipe, too; default: none.")
    ] = None,
) -> None:
    """Train the networks of a recipe. A second call resumes, or says that all is done."""
    need_training()
    if opened_generator := generator_on(recipe, output, quick):
        from caloedge.fast_simulation.pipeline import train as train_generator

        refuse_for_generators("--alternative", bool(alternative))
        _, networks = train_generator(opened_generator, hardware_of(accelerator, devices, precision, channels_last))
        _say_trained({role: one.record for role, one in networks.items()})
        return
    from caloedge import pipeline

    opened, hardware = run_on(recipe, output, accelerator, devices, precision, channels_last, quick)
    trained = pipeline.train(opened, hardware, alternative or ())
    _say_trained({stage: one.record for stage, one in trained.items()})


def _say_trained(records: "Mapping[str, TrainingRecord]") -> None:
    for name, record in records.items():
        say(f"{name}: {record.parameters:,} parameters, {record.epochs} epochs, validation loss {record.valid_loss:.4f}")


def export(recipe: Recipe, output: Output = None, quick: Quick = False) -> None:
    """Write the artifact: QONNX, golden vectors, weights, manifest. Trains what is not trained yet."""
    need_training()
    if opened_generator := generator_on(recipe, output, quick):
        from caloedge.fast_simulation.pipeline import export as export_generator

        export_generator(opened_generator, hardware_of("auto", 1, "32-true", channels_last=False))
        say(f"{opened_generator.artifact}: {len(list(opened_generator.artifact.iterdir()))} files")
        return
    from caloedge import pipeline

    opened, hardware = run_on(recipe, output, "auto", 1, "32-true", channels_last=False, quick=quick)
    artifact = pipeline.export(opened, hardware)
    say(f"{artifact.folder}: {len(artifact.manifest.files)} files")
