"""Parts that all commands share: options, input files, and checks before the work."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from caloedge.catalog import Backend, find
from caloedge.cli import completion
from caloedge.computer import available_memory_bytes
from caloedge.errors import BadData, UnknownName, UserError, meant
from caloedge.extras import need
from caloedge.formats.npz import array_names, read_npy, read_npz

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from caloedge.compiler.fixed import Format
    from caloedge.compiler.graph import Graph
    from caloedge.fast_simulation.pipeline import Run as GeneratorRun
    from caloedge.pipeline import Run
    from caloedge.training.fit import Hardware

Recipe = Annotated[
    str,
    typer.Argument(
        help="A recipe file, a folder that holds one, or the name of a folder in ./models.", autocompletion=completion.recipes
    ),
]
Model = Annotated[
    str, typer.Argument(help="An artifact: a folder such as models/seed_finder, or its name.", autocompletion=completion.models)
]
AnyModel = Annotated[
    str,
    typer.Argument(help="A QONNX file, an artifact's folder, or its name.", autocompletion=completion.networks_to_compile),
]
Output = Annotated[Path | None, typer.Option(help="Folder for everything; default: ./runs, ./models and ./reports.")]
Accelerator = Annotated[str, typer.Option(help="cpu, gpu, or auto.", autocompletion=completion.one_of(["auto", "cpu", "gpu"]))]
Devices = Annotated[int, typer.Option(help="How many of them; more than one trains in parallel.", min=1)]
ChannelsLast = Annotated[bool, typer.Option(help="Keep a pixel's channels side by side: faster for large images on CPUs.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="Rehearse in about 2 minutes: few epochs and events, in a folder `rehearsal` of its own.")
]
Precision = Annotated[str, typer.Option(help="32-true, or bf16-mixed where the hardware is faster with it.")]
QuantiseMissing = Annotated[
    str | None,
    typer.Option(
        help="Put in a quantiser of this format, e.g. fixed<12,4>, where the file lacks one; its effect is shown; default: none.",
    ),
]

MOST_EVENTS = 10_000_000
"""Largest number of events that any command accepts."""
MOST_BITS, MOST_SHIFT = 32, 64
"""Limits on a format from the command line: its width, and the distance of its bits from the point."""


def model_file(model: str) -> Path:
    """Return the QONNX file of an artifact, or the file itself."""
    from caloedge.artifact import MODEL

    for folder in (Path(model), Path("models") / model):
        if folder.is_dir():
            return folder / MODEL
    return Path(model)


def missing_format(text: str | None) -> "Format | None":
    """Return the format of quantisers to put in; None for none. Raises UserError for one that no value of a network needs."""
    from caloedge.compiler.fixed import Format

    if text is None:
        return None
    try:
        quantiser_format = Format.parse(text)
    except UserError as problem:
        raise UserError(f"--quantise-missing {problem}") from None
    if (
        not 2 <= quantiser_format.width <= MOST_BITS
        or abs(quantiser_format.fraction) > MOST_SHIFT
        or abs(quantiser_format.width - quantiser_format.fraction) > MOST_SHIFT
    ):
        raise UserError(
            f"--quantise-missing {text!r}: give a width of 2 to {MOST_BITS} bits and −{MOST_SHIFT} to {MOST_SHIFT} integer bits, "
            "e.g. fixed<12,4>"
        )
    return quantiser_format


def check_memory(option: str, events: int, numbers: int) -> None:
    """Refuse more events, of so many numbers of 8 bytes each, than this computer has memory for."""
    memory = available_memory_bytes()
    most = max(1, memory // (8 * numbers))
    if events > most:
        raise UserError(
            f"{option} {events}: {numbers:,} numbers each make {events * numbers * 8 / 1e9:,.2f} GB, more than the "
            f"{memory / 1e9:,.2f} GB of memory that are free here; give at most {most:,}"
        )


def read_codes(path: Path, name: str = "inputs") -> Any:
    """Read an array of integer codes from an .npz file. Raises BadData."""
    cure = f"write codes with numpy.savez(FILE, {name}=codes)"
    codes = read_npz(path, (name,), cure=cure)[name]
    if not np.issubdtype(codes.dtype, np.integer):
        raise BadData(
            f"{path}: {name!r} holds {codes.dtype}, not integer codes; {cure}, or quantise the values with "
            "Graph.quantise_inputs; caloedge verify takes them as they are"
        )
    return codes.astype(np.int64)


def read_vectors(path: Path, graph: "Graph") -> Any:
    """Read the inputs of a network as codes: of the only input, or by name of several. Raises BadData.

    An .npy file holds the only input; an .npz file holds an array by input name, or `inputs` for the only one. Integers are codes
    (N, *shape); real values (N, *shape) become codes as the network's own input quantiser makes them.
    """
    inputs = graph.inputs
    if path.suffix == ".npy" and len(inputs) > 1:
        example = ", ".join(f"{op.name}=..." for op in inputs)
        raise BadData(f"{path}: the network has {len(inputs)} inputs; write them with numpy.savez(FILE, {example})")
    if path.suffix == ".npy":
        arrays = {graph.input.name: read_npy(path)}
    else:
        plain = len(inputs) == 1 and inputs[0].name not in array_names(path)
        keys = {op.name: "inputs" if plain else op.name for op in inputs}
        cure = f"write them with numpy.savez(FILE, {', '.join(f'{key}=...' for key in keys.values())})"
        stored = read_npz(path, tuple(keys.values()), cure=cure)
        arrays = {name: stored[key] for name, key in keys.items()}
    vectors: dict[str, NDArray[Any]] = {}
    for op in inputs:
        values = arrays[op.name]
        if values.ndim < 1 or values.shape[1:] != op.shape or values.dtype.kind not in "iuf":
            shape = ", ".join(["N", *map(str, op.shape)])
            raise BadData(
                f"{path}: input {op.name!r} is {values.dtype} {values.shape}; integer codes or real values ({shape}) expected"
            )
        vectors[op.name] = values
    reals = {name: values for name, values in vectors.items() if values.dtype.kind == "f"}
    codes = (
        graph.quantise_inputs({name: reals.get(name, np.zeros(values.shape)) for name, values in vectors.items()})
        if reals
        else {}
    )
    vectors = {name: codes[name] if name in reals else values.astype(np.int64) for name, values in vectors.items()}
    return vectors if len(inputs) > 1 else vectors[graph.input.name]


def known_variant(backend: str, variant: str | None) -> str:
    """Return a variant of a backend, by default its first. Raises UnknownName."""
    variants = find(Backend, backend).variants
    if variant is not None and variant not in variants:
        raise UnknownName(
            f"backend {backend!r} has no variant {variant!r}{meant(variant, variants)}; there are: {', '.join(variants)}"
        )
    return variants[0] if variant is None else variant


def run_on(
    recipe: str, output: Path | None, accelerator: str, devices: int, precision: str, channels_last: bool, quick: bool = False
) -> "tuple[Run, Hardware]":
    """Open a recipe and check where to train, both before anything is written; the rehearsal of it if it is to be `quick`."""
    from caloedge.pipeline import Run

    opened = Run.open(recipe, output)  # which is fast: a wrong name need not wait for torch
    hardware = hardware_of(accelerator, devices, precision, channels_last)
    return opened.rehearsal(output) if quick else opened, hardware


def generator_on(recipe: str, output: Path | None, quick: bool) -> "GeneratorRun | None":
    """Open the recipe of a trained generator, or its rehearsal; None for other recipes."""
    from caloedge.fast_simulation.pipeline import Run
    from caloedge.fast_simulation.recipe import find_generator

    if (path := find_generator(recipe)) is None:
        return None
    for extra in ("fidelity", "fastsim"):
        need(extra, "this command")
    return Run.open(path, output, quick=quick)


def refuse_for_generators(option: str, given: bool) -> None:
    """Refuse an option that means nothing for a trained generator."""
    if given:
        raise UserError(f"{option}: recipes of generators know no such thing; leave it out")


def hardware_of(accelerator: str, devices: int, precision: str, channels_last: bool) -> "Hardware":
    """Check where to train."""
    from caloedge.training.fit import ACCELERATORS, PRECISIONS, Hardware

    for value, allowed, option in ((accelerator, ACCELERATORS, "--accelerator"), (precision, PRECISIONS, "--precision")):
        if value not in allowed:
            raise UserError(f"{option} {value!r} is not known; there are: {', '.join(allowed)}")
    return Hardware(accelerator=accelerator, devices=devices, precision=precision, channels_last=channels_last)


def need_training() -> None:
    """Say in one line what a command that trains or evaluates float networks lacks."""
    need("train", "this command")


def say(text: str) -> None:
    """Print one line."""
    print(text)  # noqa: T201
