"""A report in short, as Markdown: what to know first, claims, key figures, designs and the first figures, for a code forge.

The page drawn from the same `report.json` has everything.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from caloedge.firmware.section import COSTS, DESIGNS
from caloedge.reports.headline import cards, numbered_claims
from caloedge.reports.looks import INK, PAPER
from caloedge.reports.number_format import quantity
from caloedge.reports.page import looks_of
from caloedge.reports.plots.figures import plot_svg
from caloedge.results import Cell, Claim, Number, Plot, Report, Table

MARKS = {"holds": "✓ holds", "fails": "✗ **fails**", "undecided": "? undecided", "not tested": "– not tested"}
N_FIGURES = 2
POINTS_TO_PIXELS = 4 / 3


def figures(report: Report) -> tuple[Plot, ...]:
    """Return the figures that stand in the short report: the first ones."""
    plots = (block for section in report.sections for block in section.blocks if isinstance(block, Plot))
    return tuple(islice(plots, N_FIGURES))


def drawn(report: Report) -> dict[str, str]:
    """Return the files of the figures, by name: SVG on white paper, which a forge shows as an image."""
    shown = enumerate(figures(report), start=1)
    svgs = {number: plot_svg(plot, f"figure{number}", looks_of(report), report.data_label) for number, plot in shown}
    return {figure_name(number): _alone(svg) for number, svg in svgs.items()}


def _alone(svg: str) -> str:
    """Give an SVG element what a page would give it: size, ink and paper."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert box, "figures have a viewBox that starts at 0"
    width, height = (round(POINTS_TO_PIXELS * float(length)) for length in box.groups())
    return svg.replace("<svg ", f'<svg width="{width}" height="{height}" style="background: {PAPER}; color: {INK}" ', 1) + "\n"


def figure_name(number: int | str) -> str:
    """Return the name of the file of a figure, which are counted from 1; a pattern stands for several."""
    return f"figure_{number}.svg"


def markdown(report: Report) -> str:
    """Return the text of `report.md`."""
    return "\n\n".join(_parts(report)) + "\n"


def _parts(report: Report) -> Iterator[str]:
    yield f"# {report.title}"
    yield report.summary
    data = f"{report.data_label}; " if report.data_label else ""
    yield f"{data}{report.created[:10]}. `caloedge report` draws all tables and figures from the `report.json` beside this."
    if report.caveats:
        yield "## What to know first"
        yield "\n".join(f"- {caveat}" for caveat in report.caveats)
    yield from _claims(report)
    if report.headline:
        yield "## Key figures"
        yield _key_figures(report)
    for number, plot in enumerate(figures(report), start=1):
        yield f"![{plot.title}]({figure_name(number)})"
        yield f"*{plot.title}. {plot.caption}".strip() + "*"
    for table in _designs(report):
        yield f"## {table.title}"
        yield _table(table.columns, table.rows)


def _claims(report: Report) -> Iterator[str]:
    """Yield a table for each section that tests claims, with the numbers that they have on the page."""
    numbers = iter(numbered_claims(report))
    for section in report.sections:
        n_claims = sum(isinstance(block, Claim) for block in section.blocks)
        rows = [
            (str(one.number), MARKS[one.claim.verdict], one.claim.statement, one.claim.found) for one in islice(numbers, n_claims)
        ]
        if rows:
            yield "## Claims" if section.title == "Claims" else f"## Claims: {section.title[0].lower()}{section.title[1:]}"
            yield _table(("", "verdict", "claim", "found"), rows)


def _key_figures(report: Report) -> str:
    """Return figures against methods; the best of each is bold."""
    shown = cards(report)
    methods = list(dict.fromkeys(line.method for card in shown for line in card.lines))
    rows = []
    for card in shown:
        texts = {line.method: f"**{quantity(line.number)}**" if line.best else quantity(line.number) for line in card.lines}
        rows.append((card.title, *(texts.get(method, "") for method in methods)))
    return _table(("figure", *(method or "value" for method in methods)), rows)


def _designs(report: Report) -> list[Table]:
    tables = [block for section in report.sections for block in section.blocks if isinstance(block, Table)]
    first = {table.title: table for table in reversed(tables)}  # later sections repeat titles on other events
    return [first[title] for title in (DESIGNS, COSTS) if title in first]


def _table(columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> str:
    """Return a table; an origin that a whole column shares stands in its heading."""
    origins = [{cell.origin for row in rows if isinstance(cell := row[i], Number)} for i in range(len(columns))]
    shared = [next(iter(of_column)) if len(of_column) == 1 else "" for of_column in origins]
    heads = [f"{column} ({origin})" if origin else column for column, origin in zip(columns, shared, strict=True)]
    texts = [[_text(cell, with_origin=not origin) for cell, origin in zip(row, shared, strict=True)] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (heads, ["---"] * len(columns), *texts))


def _text(cell: Cell, *, with_origin: bool) -> str:
    if isinstance(cell, Number):
        return f"{quantity(cell)} ({cell.origin})" if with_origin else quantity(cell)
    return " ".join(cell.replace("|", "\\|").split("\n"))
