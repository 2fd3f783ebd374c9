"""A report as one HTML page that needs nothing else: no font, no file, no network, and a script only to save figures."""

from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from hashlib import sha256
from importlib.resources import files
from itertools import groupby
from typing import get_args

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from caloedge.reports import downloads
from caloedge.reports.headline import MOST_CARDS, NumberedClaim, cards, numbered_claims, tally
from caloedge.reports.looks import Look, looks
from caloedge.reports.plots.canvas import share_glyphs
from caloedge.reports.plots.figures import image_svg, plot_svg
from caloedge.reports.tables import CellView, TableView, cell_view, table_view
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
    csv: str
    """Address of the numbers it shows."""
    csv_name: str
    svg_name: str


@dataclass(frozen=True)
class NumberedTable:
    """A table with its number in the page."""

    number: int
    table: TableView
    csv: str
    """Address of all its numbers."""
    csv_name: str


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
    members: tuple[FigureView | NumberedTable | FactsView | NumberedClaim, ...]


@dataclass(frozen=True)
class SectionView:
    """A numbered section."""

    number: int
    title: str
    text: str
    groups: tuple[Group, ...]


def render(report: Report, index: str = "../index.html") -> str:
    """Return the whole page; the same report gives the same text.

    `index` is the address of the page that lists the reports, empty if there is none.
    """
    report = report.model_copy(update={"sections": _merge_neighbours(report.sections)})
    glyphs, sections = _with_shared_glyphs(list(_sections(report)))
    claims, all_cards = tally(report), cards(report)
    return environment().get_template("report.html.j2").render(
        report=report,
        index=index,
        cards=all_cards[:MOST_CARDS],
        n_more_cards=max(0, len(all_cards) - MOST_CARDS),
        sections=sections,
        glyphs=Markup(glyphs),
        claims=claims,
        doubtful=claims["fails"] + claims["undecided"],
        origins=[(origin, meaning) for origin, meaning in ORIGINS.items() if origin in _origins(report)],
        script=_script(),
        script_digest=b64encode(sha256(_script().encode()).digest()).decode(),
    )  # fmt: skip


def looks_of(report: Report) -> dict[str, Look]:
    """Return the look of every method and series of a report, the same in all its figures."""
    return looks(_names(report))


@cache
def _script() -> Markup:
    return Markup((files("caloedge.reports") / "templates" / "save.js").read_text(encoding="utf-8"))


@cache
def environment() -> Environment:
    """Return the template environment of the reports: undefined names are errors and text is escaped."""
    environment = Environment(
        loader=PackageLoader("caloedge.reports"), undefined=StrictUndefined, autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["paragraphs"] = lambda text: [part.strip() for part in text.split("\n\n") if part.strip()]
    environment.filters["readable_time"] = _readable_time
    environment.filters["plural"] = lambda n, singular, plural: f"{n} {singular if n == 1 else plural}"
    return environment


def _readable_time(iso: str) -> str:
    """Write a moment to the minute in UTC; what is no moment stays as it is."""
    try:
        moment = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    return (moment if moment.tzinfo is None else moment.astimezone(UTC)).strftime("%Y-%m-%d %H:%M UTC")


def _merge_neighbours(sections: tuple[Section, ...]) -> tuple[Section, ...]:
    """Make one section of neighbours with the same title and text, such as what was run for two models."""
    merged = []
    for _, run in groupby(sections, key=lambda section: (section.title, section.text)):
        same = list(run)
        blocks = [block for section in same for block in section.blocks]
        facts = dict.fromkeys(block for block in blocks if isinstance(block, Facts))
        others = [block for block in blocks if not isinstance(block, Facts)]
        merged.append(same[0] if len(same) == 1 else same[0].model_copy(update={"blocks": (*others, *facts)}))
    return tuple(merged)


def _sections(report: Report) -> Iterator[SectionView]:
    series_looks = looks_of(report)
    claims = iter(numbered_claims(report))
    n_figures = n_tables = 0
    for i, section in enumerate(report.sections, start=1):
        groups = []
        for kind, blocks in groupby(section.blocks, key=_group_kind):
            members: list[FigureView | NumberedTable | FactsView | NumberedClaim] = []
            for block in blocks:
                match block:
                    case Plot() | Image():
                        n_figures += 1
                        members.append(_figure(block, n_figures, series_looks, report.data_label))
                    case Table():
                        n_tables += 1
                        members.append(_table(block, n_tables))
                    case Facts():
                        members.append(_facts(block))
                    case Claim():
                        members.append(next(claims))
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
    csv_name, svg_name = (downloads.file_name("figure", number, block.title, ending) for ending in ("csv", "svg"))
    csv = downloads.link(downloads.figure_csv(block))
    return FigureView(number, block.title, block.caption, Markup(svg), csv, csv_name, svg_name)


def _table(table: Table, number: int) -> NumberedTable:
    csv_name = downloads.file_name("table", number, table.title, "csv")
    return NumberedTable(number, table_view(table), downloads.link(downloads.table_csv(table)), csv_name)


def _with_shared_glyphs(sections: list[SectionView]) -> tuple[str, list[SectionView]]:
    """Return the letters of all figures, and the sections with figures that refer to them."""
    figures = [member for section in sections for group in section.groups for member in group.members]
    glyphs, slim = share_glyphs([member.svg for member in figures if isinstance(member, FigureView)])
    svgs = iter(slim)

    def slimmed(group: Group) -> Group:
        return replace(
            group,
            members=tuple(
                replace(member, svg=Markup(next(svgs))) if isinstance(member, FigureView) else member for member in group.members
            ),
        )

    return glyphs, [replace(section, groups=tuple(map(slimmed, section.groups))) for section in sections]


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


def _blocks(sections: tuple[Section, ...]) -> Iterator[Block]:
    for section in sections:
        yield from section.blocks
