"""Tables and figures as CSV, in links that hold the file: a page that was copied somewhere still has its numbers."""

import csv
import re
from collections.abc import Iterable
from io import StringIO
from urllib.parse import quote

from caloedge.results import Cell, Image, Number, Plot, Table

_PARTS = ("uncertainty", "unit", "origin", "sample", "note")


def file_name(kind: str, number: int, title: str, ending: str) -> str:
    """Return a name that sorts and says what is in it, such as `table-3-trainings.csv`."""
    words = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:50].rstrip("-")
    return f"{'-'.join(part for part in (kind, str(number), words) if part)}.{ending}"


def link(csv_text: str) -> str:
    """Return a `data:` address of a CSV file."""
    return f"data:text/csv;charset=utf-8,{quote(csv_text, safe=' ,-_.:;()/+*=[]')}"


def table_csv(table: Table) -> str:
    """Write a table as CSV with all digits.

    Beside each column of numbers stand its uncertainties, units, origins, samples and notes, those that it has.
    """
    columns = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    parts = [[part for part in _PARTS if any(_part(cell, part) for cell in column)] for column in columns]
    head = [
        name for title, present in zip(table.columns, parts, strict=True) for name in (title, *(f"{title}: {x}" for x in present))
    ]
    rows = [[text for cell, present in zip(row, parts, strict=True) for text in _cells(cell, present)] for row in table.rows]
    return _csv([head, *rows])


def figure_csv(figure: Plot | Image) -> str:
    """Write what a figure shows as CSV with all digits: a plot's points, an image's cells and marks."""
    if isinstance(figure, Image):
        right, up = figure.labels
        centres = [y + 0.5 for y in range(len(figure.values[0]) if figure.values else 0)]
        rows: list[tuple[object, ...]] = [(f"value [{figure.unit}], {right} down, {up} to the right", *centres)]
        rows += [(x + 0.5, *column) for x, column in enumerate(figure.values)]
        return _csv(rows + [("mark", right, up)] * bool(figure.marks) + [(label, x, y) for x, y, label in figure.marks])
    rows = [("series", "drawn as", figure.x_label, figure.y_label, "half bin width", "error downwards", "error upwards")]
    lengths = ("x_error", "y_error_low", "y_error_high")
    for series in figure.series:
        errors = [getattr(series, name) or ("",) * len(series.x) for name in lengths]
        rows += [(series.name, series.style, *point) for point in zip(series.x, series.y, *errors, strict=True)]
    return _csv(rows)


def _cells(cell: Cell, parts: Iterable[str]) -> list[str]:
    return [repr(cell.value) if isinstance(cell, Number) else cell, *(_part(cell, part) for part in parts)]


def _part(cell: Cell, part: str) -> str:
    stored = getattr(cell, part) if isinstance(cell, Number) else None
    return "" if stored is None else stored if isinstance(stored, str) else repr(stored)


def _csv(rows: Iterable[Iterable[object]]) -> str:
    text = StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()
