"""What every verb shares: options, the files they read, checks before the work, and what they print."""

import sys
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from rich.console import Console
from rich.table import Table as Grid

from caloedge.errors import BadData, UserError
from caloedge.extras import need
from caloedge.npz import read_npz
from caloedge.results import Claim, Number, Table

Recipe = Annotated[str, typer.Argument(help="A recipe file, a folder with recipe.yaml, or the name of a folder in ./models.")]
Model = Annotated[str, typer.Argument(help="An artifact: a folder such as models/seed_finder, or its name.")]
AnyModel = Annotated[str, typer.Argument(help="A QONNX file, an artifact's folder, or its name.")]
Output = Annotated[Path | None, typer.Option(help="Folder for everything; default: ./runs, ./models and ./reports.")]
Accelerator = Annotated[str, typer.Option(help="cpu, gpu, or auto.")]
Devices = Annotated[int, typer.Option(help="How many of them; more than one trains in parallel.", min=1)]
ChannelsLast = Annotated[bool, typer.Option(help="Keep a pixel's channels side by side: faster for large images on CPUs.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="Rehearse in about 2 minutes: few epochs and events, in a folder `rehearsal` of its own.")
]
Precision = Annotated[str, typer.Option(help="32-true, or bf16-mixed where the hardware is faster with it.")]


def model_file(model: str) -> Path:
    """Return the QONNX file of an artifact, or the file itself."""
    from caloedge.artifact import MODEL

    for folder in (Path(model), Path("models") / model):
        if folder.is_dir():
            return folder / MODEL
    return Path(model)


def read_codes(path: Path, name: str = "inputs") -> Any:
    """Read an array of integer codes from an .npz file. Raises BadData."""
    cure = f"write codes with numpy.savez(FILE, {name}=codes)"
    codes = read_npz(path, (name,), cure=cure)[name]
    if not np.issubdtype(codes.dtype, np.integer):
        raise BadData(f"{path}: {name!r} holds {codes.dtype}, not integer codes; {cure}")
    return codes.astype(np.int64)


def chosen_hardware(accelerator: str, devices: int, precision: str, channels_last: bool) -> Any:
    """Check where to train before anything is written."""
    from caloedge.training.fit import ACCELERATORS, PRECISIONS, Hardware

    for value, known, option in ((accelerator, ACCELERATORS, "--accelerator"), (precision, PRECISIONS, "--precision")):
        if value not in known:
            raise UserError(f"{option} {value!r} is not known; there are: {', '.join(known)}")
    return Hardware(accelerator=accelerator, devices=devices, precision=precision, channels_last=channels_last)


def need_training() -> None:
    """Say in one line what a command that trains or evaluates float networks lacks."""
    need("train", "this command")


def say(text: str) -> None:
    """Print one line."""
    print(text)  # noqa: T201


def show(grid: Grid) -> None:
    """Print a grid; 160 columns wide where the output is no terminal."""
    Console(width=None if sys.stdout.isatty() else 160).print(grid)


def show_blocks(blocks: Any) -> None:
    """Print the tables and claims among a report's blocks."""
    from caloedge.reports.rounding import quantity

    for block in blocks:
        if isinstance(block, Table):
            grid = Grid(*block.columns, title=f"{block.title} ({_origins(block)})")
            for row in block.rows:
                grid.add_row(*(quantity(cell) if isinstance(cell, Number) else cell for cell in row))
            show(grid)
        elif isinstance(block, Claim):
            words = {"fails": "DOES NOT HOLD", "undecided": "UNDECIDED"}
            say(f"{words.get(block.verdict, block.verdict)}: {block.statement} {block.found}")


def _origins(table: Table) -> str:
    return ", ".join(dict.fromkeys(cell.origin for row in table.rows for cell in row if isinstance(cell, Number)))
