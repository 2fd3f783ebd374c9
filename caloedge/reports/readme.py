"""The README's results, taken from the reports so that they cannot drift from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from caloedge.catalog import BASELINE, FLOAT, INTEGER
from caloedge.errors import BadData
from caloedge.files import write_text
from caloedge.firmware.section import COSTS, DESIGNS
from caloedge.reports.headline import figures, tally
from caloedge.reports.number_format import quantity
from caloedge.results import Cell, Claim, Number, Report, Table, label

VERDICTS = {"fails": "Fails", "undecided": "Undecided", "not tested": "Not tested"}
BEGIN = "<!-- results: written by `caloedge report reports --readme README.md` -->"
END = "<!-- end of results -->"
MOST_CLAIMS = 1
"""Number of claims that one report names, if they have a short name; the others are counted."""


def results(reports: Mapping[str, Report]) -> str:
    """Return reports by folder name as Markdown, an item each: what fails first, the first figure, the first design's cost."""
    return "\n".join(f"- [{name}](reports/{name}/report.md): {_item(report)}" for name, report in reports.items())


def _item(report: Report) -> str:
    claims = [numbered.claim for group in tally(report).values() for numbered in group]
    return " ".join(part for part in (claims_line(claims), _figure(report), _design(report)) if part)


def claims_line(claims: Sequence[Claim]) -> str:
    """Return the claims on one line: those that do not hold by name and figure, the gravest first, of the others the number.

    >>> holds, fails = (Claim(statement="s", brief=f"width: {x}", verdict=v, found="") for x, v in ((1, "holds"), (2, "fails")))
    >>> claims_line([holds, fails])
    '**Fails:** width: 2. **Holds:** 1 of 2 claims.'
    """
    parts, n_left = [], MOST_CLAIMS
    for verdict, heading in VERDICTS.items():
        briefs = [claim.brief for claim in claims if claim.verdict == verdict]
        named = [brief for brief in briefs if brief][:n_left]
        n_left -= len(named)
        more = len(briefs) - len(named)
        if briefs:
            others = f" and {more} more" if more else ""
            parts.append(f"**{heading}:** {'; '.join(named)}{others}." if named else f"**{heading}:** {more}.")
    n_holding = sum(claim.verdict == "holds" for claim in claims)
    return " ".join([*parts, f"**Holds:** {n_holding} of {len(claims)} claims."])


def _figure(report: Report) -> str:
    """Return the first headline figure of the firmware, its float twin and the classical method, the best bold."""
    figure, numbers = next(iter(figures(report).items()), ("", {}))
    texts = []
    for method in (INTEGER, FLOAT, BASELINE):
        if method in numbers:
            text = quantity(numbers[method])
            texts.append(f"{method} {f'**{text}**' if label(figure, method) in report.best else text}")
    return f"{figure}: {', '.join(texts)}." if texts else ""


def _design(report: Report) -> str:
    """Return cycles and resources of the first synthesised design."""
    tables: dict[str, Table] = {}
    for block in (block for section in report.sections for block in section.blocks):
        if isinstance(block, Table):
            tables.setdefault(block.title, block)  # later sections repeat titles on other showers
    costs: dict[Cell, tuple[Cell, ...]] = {}
    for row in tables[COSTS].rows if COSTS in tables else ():
        costs.setdefault(row[0], row[2:])  # the first row of a design is the open tools'; a vendor's follow
    for name, latency, interval, *_ in tables[DESIGNS].rows if DESIGNS in tables else ():
        if name in costs:
            lut, _, dsp, *_ = (_text(cell) for cell in costs[name])
            return f"{_text(name)}: latency {_text(latency)}, interval {_text(interval)}, {lut} LUT, {dsp} DSP."
    return ""


def _text(cell: Cell) -> str:
    return quantity(cell) if isinstance(cell, Number) else cell


def between_marks(text: str, place: Path) -> tuple[str, str, str]:
    """Return what stands before, between and after the marks of the results."""
    if text.count(BEGIN) != 1 or END not in text.split(BEGIN)[1]:
        raise BadData(f"{place}: needs the line {BEGIN} once, and {END} after it")
    before, remainder = text.split(BEGIN)
    middle, after = remainder.split(END, 1)
    return before, middle, after


def update(readme: Path, reports: Mapping[str, Report]) -> None:
    """Rewrite the results in a README."""
    before, _, after = between_marks(readme.read_text(encoding="utf-8"), readme)
    write_text(readme, f"{before}{BEGIN}\n{results(reports)}\n{END}{after}")
