"""A report as one HTML page that needs nothing else: no script, no font, no file, no network."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from typing import get_args

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from caloedge.reports import rounding
from caloedge.reports.canvas import Look, looks
from caloedge.reports.plots import image_svg, plot_svg
from caloedge.reports.tables import CellView, TableView, cell_view, exact_text, table_view
from caloedge.results import Block, Claim, Facts, Image, Number, Origin, Plot, Report, Section, Table

ORIGINS: dict[str, str] = {
    "computed": "software, run on test data",
    "simulated": "the hardware description, run by C or cycle-accurate simulation",
    "synthesised": "counted in the netlist of a synthesis for an open target",
    "routed": "after place and route, with timing closed",
    "estimated": "a model of cost or speed, not a tool's result",
    "measured": "a clock on the wall of the computer that ran it",
    "vendor": "read from an FPGA vendor's report",
    "requested": "an input, such as the clock",
    "published": "taken from a publication",
}
assert set(ORIGINS) == set(get_args(Origin)), "every origin is explained"


@dataclass(frozen=True)
class FigureView:
    """A figure with its number in the page."""

    number: int
    title: str
    caption: str
    svg: Markup


@dataclass(frozen=True)
class NumberedTable:
    """A table with its number in the page."""

    number: int
    table: TableView


@dataclass(frozen=True)
class FactsView:
    """Name-value pairs ready to be drawn, with the sample or note of each."""

    title: str
    items: tuple[tuple[str, CellView, str], ...]


@dataclass(frozen=True)
class Group:
    """Neighbouring blocks that are laid out together."""

    kind: str
    """`figures`, `tables`, `claims` or `facts`."""
    members: tuple[FigureView | NumberedTable | FactsView | Claim, ...]


@dataclass(frozen=True)
class SectionView:
    """A numbered section."""

    number: int
    title: str
    text: str
    groups: tuple[Group, ...]


def render(report: Report) -> str:
    """Return the whole page; the same report gives the same text."""
    return environment().get_template("report.html.j2").render(
        report=report,
        headline=[(name, card(number), number) for name, number in report.headline],
        sections=list(_sections(report)),
        claims=_verdicts(report),
        origins=[(origin, meaning) for origin, meaning in ORIGINS.items() if origin in _origins(report)],
    )  # fmt: skip


@cache
def environment() -> Environment:
    """Return the template environment of the reports: undefined names are errors and text is escaped."""
    environment = Environment(
        loader=PackageLoader("caloedge.reports"), undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["paragraphs"] = lambda text: [part.strip() for part in text.split("\n\n") if part.strip()]
    environment.filters["readable_time"] = lambda iso: iso.replace("T", " ").replace("Z", " UTC")
    environment.filters["plural"] = lambda n, one, many: f"{n} {one if n == 1 else many}"
    return environment


def card(number: Number) -> tuple[str, str, str]:
    """Return value, what follows it in small print (uncertainty and unit), and the exact text."""
    text, sign, error = rounding.value(number).partition(f"{rounding.NO_BREAK}±")
    if text.startswith("("):  # a common power of ten binds both
        text, sign, error = f"{text}{sign}{error}", "", ""
    tail = f"{sign.strip()}{error}" if sign else ""
    unit = f"{rounding.NO_BREAK}{number.unit}" if number.unit else ""
    return text, f"{tail}{unit}".strip(), exact_text(number)


def _sections(report: Report) -> Iterator[SectionView]:
    series_looks = looks(_names(report))
    n_figures = n_tables = 0
    for i, section in enumerate(report.sections, start=1):
        groups = []
        for kind, blocks in groupby(section.blocks, key=_group_kind):
            members: list[FigureView | NumberedTable | FactsView | Claim] = []
            for block in blocks:
                match block:
                    case Plot() | Image():
                        n_figures += 1
                        members.append(_figure(block, n_figures, series_looks, report.data_label))
                    case Table():
                        n_tables += 1
                        members.append(NumberedTable(n_tables, table_view(block)))
                    case Facts():
                        members.append(_facts(block))
                    case Claim():
                        members.append(block)
            groups.append(Group(kind, tuple(members)))
        yield SectionView(i, section.title, section.text, tuple(groups))


def _group_kind(block: Block) -> str:
    match block:
        case Plot() | Image():
            return "figures"
        case Table():
            return "tables"
        case Claim():
            return "claims"
        case Facts():
            return "facts"


def _figure(block: Plot | Image, number: int, series_looks: dict[str, Look], data_label: str) -> FigureView:
    prefix = f"figure{number}"
    if isinstance(block, Plot):
        svg = plot_svg(block, prefix, series_looks, data_label)
    else:
        svg = image_svg(block, prefix, series_looks, data_label)
    return FigureView(number, block.title, block.caption, Markup(svg))


def _facts(facts: Facts) -> FactsView:
    def detail(cell: Number | str) -> str:
        return "" if isinstance(cell, str) else "; ".join(part for part in (cell.sample, cell.note) if part)

    return FactsView(facts.title, tuple((name, cell_view(cell), detail(cell)) for name, cell in facts.items))


def _names(report: Report) -> Iterator[str]:
    """Yield the names that need a look of their own, in reading order."""
    for block in _blocks(report.sections):
        if isinstance(block, Plot):
            yield from (series.name for series in block.series)
        elif isinstance(block, Image):
            yield from (label for _, _, label in block.marks)


def _origins(report: Report) -> set[str]:
    numbers = [number for _, number in report.headline]
    for block in _blocks(report.sections):
        if isinstance(block, Table):
            numbers += [cell for row in block.rows for cell in row if isinstance(cell, Number)]
        elif isinstance(block, Facts):
            numbers += [cell for _, cell in block.items if isinstance(cell, Number)]
    return {number.origin for number in numbers}


def _verdicts(report: Report) -> dict[str, int]:
    found = [block.verdict for block in _blocks(report.sections) if isinstance(block, Claim)]
    return {
        "hold": found.count("holds"),
        "fail": found.count("fails"),
        "undecided": found.count("undecided"),
        "untested": found.count("not tested"),
    }


def _blocks(sections: tuple[Section, ...]) -> Iterator[Block]:
    for section in sections:
        yield from section.blocks
