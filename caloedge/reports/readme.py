"""The README's results, taken from report.json so that they cannot drift from it."""

from collections.abc import Sequence
from pathlib import Path

from caloedge.errors import BadData
from caloedge.files import write_text
from caloedge.reports.latency import BUDGET, COSTS, DESIGNS
from caloedge.reports.rounding import quantity
from caloedge.results import Cell, Claim, Number, Report, Table

VERDICTS = {"fails": "Fails", "undecided": "Undecided", "not tested": "Not tested"}
END = "<!-- end of results -->"


def begin(name: str) -> str:
    """Return the line above the results of the report in a folder of this name."""
    return f"<!-- {name}: written by `caloedge report reports/{name} --readme README.md` -->"


def results(report: Report) -> str:
    """Return a report as a few lines of Markdown: what fails and is open, key figures of each method, the firmware's cost."""
    lines = [claims_line([block for block in report.sections[0].blocks if isinstance(block, Claim)]), ""]
    lines += _figures(report)
    if designs := _designs(report):
        lines += ["", f"Firmware (cycles simulated, resources by yosys): {'; '.join(designs)}."]
    return "\n".join(lines)


def claims_line(claims: Sequence[Claim]) -> str:
    """Return the claims on one line: those that do not hold by name and figure, of the others the number.

    >>> holds, fails = (Claim(statement="s", brief=f"width: {x}", verdict=v, found="") for x, v in ((1, "holds"), (2, "fails")))
    >>> claims_line([holds, fails])
    '**Fails:** width: 2. **Holds:** 1 of 2 claims.'
    """
    parts = []
    for verdict, heading in VERDICTS.items():
        if stated := [claim.brief or claim.statement.rstrip(".") for claim in claims if claim.verdict == verdict]:
            parts.append(f"**{heading}:** {'; '.join(stated)}.")
    held = sum(claim.verdict == "holds" for claim in claims)
    return " ".join([*parts, f"**Holds:** {held} of {len(claims)} claims."])


def _figures(report: Report) -> list[str]:
    """Return the headline as a table of methods and figures, the best of each figure bold."""
    cells: dict[str, dict[str, str]] = {}
    figures: list[str] = []
    for label, number in report.headline:
        figure, _, method = label.rpartition(", ")
        figures += [figure] if figure not in figures else []
        text = quantity(number)
        cells.setdefault(method, {})[figure] = f"**{text}**" if label in report.best else text
    rows = [(method, *(of.get(figure, "–") for figure in figures)) for method, of in cells.items()]
    return _markdown(("", *figures), rows)


def _designs(report: Report) -> list[str]:
    """Return each synthesised design's cycles and resources, and how many devices the first trigger's rate takes."""
    tables: dict[str, Table] = {}
    for block in (block for section in report.sections for block in section.blocks):
        if isinstance(block, Table):
            tables.setdefault(block.title, block)  # later sections repeat titles on other showers
    costs: dict[Cell, tuple[Cell, ...]] = {}
    for row in tables[COSTS].rows if COSTS in tables else ():
        costs.setdefault(row[0], row[2:])  # the first row of a design is the open tools'; a vendor's follow
    needs: dict[Cell, str] = {}
    for row in tables[BUDGET].rows if BUDGET in tables and "devices" in tables[BUDGET].columns else ():
        needs.setdefault(row[1], f"{row[0]}: {row[tables[BUDGET].columns.index('devices')]}")
    made = []
    for row in tables[DESIGNS].rows if DESIGNS in tables else ():
        if row[0] in costs:
            lut, _, dsp, *_ = (_text(cell) for cell in costs[row[0]])
            parts = (f"{row[0]}: latency {_text(row[1])}", f"interval {_text(row[2])}", f"{lut} LUT", f"{dsp} DSP")
            made.append(", ".join((*parts, needs[row[0]]) if row[0] in needs else parts))
    return made


def _text(cell: Cell) -> str:
    return quantity(cell) if isinstance(cell, Number) else cell


def _markdown(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def between_marks(text: str, name: str, place: Path) -> tuple[str, str, str]:
    """Return what stands before, between and after the marks of one report's results."""
    if text.count(begin(name)) != 1 or END not in text.split(begin(name))[1]:
        raise BadData(f"{place}: needs the line {begin(name)} once, and {END} after it")
    before, rest = text.split(begin(name))
    middle, after = rest.split(END, 1)
    return before, middle, after


def update(readme: Path, name: str, report: Report) -> None:
    """Rewrite the results of one report in a README."""
    before, _, after = between_marks(readme.read_text(encoding="utf-8"), name, readme)
    write_text(readme, f"{before}{begin(name)}\n{results(report)}\n{END}{after}")
