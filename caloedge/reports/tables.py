"""Tables as drawn on the page: unit and origin stand once where cells share them, details in footnotes."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

from caloedge.reports import number_format
from caloedge.results import Cell, Number, Table


@dataclass(frozen=True)
class CellView:
    """One cell or heading as text, with its exact value, origin and footnote."""

    text: str
    exact: str = ""
    """The stored value with all its digits; empty for words."""
    origin: str = ""
    """Badge, empty where the column or the table says it."""
    mark: str = ""
    """Letter of a footnote."""
    numeric: bool = False


@dataclass(frozen=True)
class TableView:
    """A table ready to be drawn."""

    title: str
    caption: str
    head: tuple[CellView, ...]
    rows: tuple[tuple[CellView, ...], ...]
    origin: str
    """Origin of every number of the table, empty if they differ."""
    sample: str
    """Sample of every number of the table, empty if they differ."""
    footnotes: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class _Shared:
    """Attributes that all numbers of a column share; None where they differ."""

    unit: str | None
    origin: str | None
    detail: str | None


def table_view(table: Table) -> TableView:
    """Return a table in which unit, origin, sample and note stand once where numbers share them."""
    numbers = [cell for row in table.rows for cell in row if isinstance(cell, Number)]
    origin = _same(number.origin for number in numbers) or ""
    sample = _same(number.sample for number in numbers) or ""
    letters: dict[str, str] = {}

    def mark(detail: str | None) -> str:
        return letters.setdefault(detail, _letter(len(letters))) if detail else ""

    columns = [[row[i] for row in table.rows] for i in range(len(table.columns))]
    shared = [_shared(column, with_sample=not sample) for column in columns]
    head = tuple(
        CellView(
            text=f"{name} [{same.unit}]" if same.unit and same.unit != name else name,
            origin="" if origin else same.origin or "",
            mark=mark(same.detail),
            numeric=any(isinstance(cell, Number) for cell in column),
        )
        for name, same, column in zip(table.columns, shared, columns, strict=True)
    )
    rows = []
    for row in table.rows:
        of_row = "" if origin else _row_origin(row, shared)
        views = [
            _cell(
                cell,
                same,
                known_origin=origin or same.origin or of_row,
                mark=mark(_detail(cell, with_sample=not sample)) if same.detail is None else "",
            )
            for cell, same in zip(row, shared, strict=True)
        ]
        rows.append((replace(views[0], origin=of_row), *views[1:]) if of_row else tuple(views))
    footnotes = tuple((letter, detail) for detail, letter in letters.items())
    return TableView(table.title, table.caption, head, tuple(rows), origin, sample, footnotes)


def cell_view(cell: Cell) -> CellView:
    """Return a cell that stands alone, with unit and origin."""
    return _cell(cell, _Shared(None, None, None), known_origin="", mark="")


def _cell(cell: Cell, same: _Shared, *, known_origin: str, mark: str) -> CellView:
    if isinstance(cell, str):
        return CellView(cell)
    text = number_format.quantity(cell) if same.unit is None else number_format.value(cell)
    return CellView(text, exact_text(cell), "" if cell.origin == known_origin else cell.origin, mark, numeric=True)


def exact_text(number: Number) -> str:
    """Return value, uncertainty and unit with all their digits."""
    error = "" if number.uncertainty is None else f" ± {number.uncertainty!r}"
    return f"{number.value!r}{error} {number.unit}".strip()


def _shared(column: list[Cell], *, with_sample: bool) -> _Shared:
    numbers = [cell for cell in column if isinstance(cell, Number)]
    return _Shared(
        _same(number.unit for number in numbers),
        _same(number.origin for number in numbers),
        _same(_detail(number, with_sample=with_sample) for number in numbers),
    )


def _row_origin(row: tuple[Cell, ...], shared: list[_Shared]) -> str:
    """Return the origin to write beside the row's name: that of most cells whose column does not say it, if of several."""
    if not row or not isinstance(row[0], str):
        return ""
    open_cells = [cell for cell, same in zip(row, shared, strict=True) if isinstance(cell, Number) and same.origin is None]
    most = Counter(cell.origin for cell in open_cells).most_common(1)
    return most[0][0] if most and most[0][1] > 1 else ""


def _detail(cell: Cell, *, with_sample: bool) -> str:
    if isinstance(cell, str):
        return ""
    return "; ".join(part for part in (cell.sample if with_sample else "", cell.note) if part)


def _same(values: Iterable[str]) -> str | None:
    distinct = set(values)
    return distinct.pop() if len(distinct) == 1 else None


def _letter(i: int) -> str:
    return chr(ord("a") + i) if i < 26 else _letter(i // 26 - 1) + _letter(i % 26)
