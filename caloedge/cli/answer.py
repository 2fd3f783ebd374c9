"""Output of a command: tables, claims and lines, as text for people or as one JSON document for programs."""

import json
import math
import sys
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text

from caloedge.results import Claim, Facts, Number, Table

Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document, with blocks as in report.json and the lines of text.")
]
Shown = Table | Claim | Facts
WIDTH = 160
"""Columns of a table where the output is no terminal."""
VERDICTS = {"fails": "DOES NOT HOLD", "undecided": "UNDECIDED"}


class Answer:
    """Output that prints each part at once as text, or collects all parts for one JSON document."""

    def __init__(self, as_json: bool) -> None:
        self.as_json = as_json
        self.blocks: list[Shown] = []
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        """Give one line."""
        if self.as_json:
            self.lines.append(text)
        else:
            print(plain(text))  # noqa: T201

    def show(self, *blocks: Any) -> None:
        """Give the tables, claims and facts among a report's blocks."""
        for block in blocks:
            if not isinstance(block, Shown):
                continue
            if self.as_json:
                self.blocks.append(block)
            elif isinstance(block, Claim):
                self.say(f"{VERDICTS.get(block.verdict, block.verdict)}: {block.statement} {block.found}")
            else:
                self.say(_title(block))  # a line of its own: as the grid's title, a long path would be broken to its width
                Console(width=None if sys.stdout.isatty() else WIDTH).print(_grid(block))


@contextmanager
def answering(as_json: bool) -> Iterator[Answer]:
    """Yield where a verb puts its results. As JSON, all else that is printed meanwhile goes to standard error.

    What was found stands in the document also when the verb ends with an error; with nothing found there is no document.
    """
    answer = Answer(as_json)
    if not as_json:
        yield answer
        return
    try:
        with redirect_stdout(sys.stderr):
            yield answer
    finally:
        if answer.blocks or answer.lines:
            blocks = [_finite(block.model_dump(mode="json")) for block in answer.blocks]
            print(json.dumps({"blocks": blocks, "lines": answer.lines}, indent=1, ensure_ascii=False))  # noqa: T201


def plain(text: str) -> str:
    r"""Return text in which control characters, which a name in a file may hold, are spelt out.

    >>> print(plain("conv\x1b[2J"))
    conv\x1b[2J
    """
    return "".join(c if unicodedata.category(c)[0] != "C" else c.encode("unicode_escape").decode() for c in text)


def _title(block: Table | Facts) -> str:
    """Return the title of a block with the origins of its numbers."""
    rows = block.rows if isinstance(block, Table) else block.items
    origins = ", ".join(dict.fromkeys(cell.origin for row in rows for cell in row if isinstance(cell, Number)))
    return f"{block.title} ({origins})" if origins else block.title


def _grid(block: Table | Facts) -> Grid:
    """Return a block as a grid. Every cell is text, never markup: names come from users' files."""
    from caloedge.reports.number_format import quantity

    columns, rows = (block.columns, block.rows) if isinstance(block, Table) else (("", ""), block.items)
    grid = Grid(show_header=any(columns))
    for column in columns:
        grid.add_column(Text(plain(column)))
    for row in rows:
        grid.add_row(*(Text(plain(quantity(cell) if isinstance(cell, Number) else cell)) for cell in row))
    return grid


def _finite(value: Any) -> Any:
    """Return a document in which numbers that are not finite, which JSON lacks, are null."""
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
