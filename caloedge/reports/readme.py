"""The README's results, taken from report.json so that they cannot drift from it."""

from collections.abc import Sequence
from pathlib import Path

from caloedge.errors import BadData
from caloedge.files import write_text
from caloedge.reports.latency import COSTS, DESIGNS
from caloedge.reports.rounding import quantity
from caloedge.results import Cell, Claim, Number, Report, Table

VERDICTS = {"fails": "Does not hold", "undecided": "Undecided", "holds": "Holds", "not tested": "Not tested"}
END = "<!-- end of results -->"


def begin(name: str) -> str:
    """Return the line above the results of the report in a folder of this name."""
    return f"<!-- {name}: written by `caloedge report reports/{name} --readme README.md` -->"


def results(report: Report) -> str:
    """Return accuracy, claims and firmware of a report as Markdown."""
    tables: dict[str, Table] = {}
    for block in (block for section in report.sections for block in section.blocks):
        if isinstance(block, Table):
            tables.setdefault(block.title, block)  # later sections repeat titles on other showers
    accuracy = next(iter(tables.values()))
    lines = _markdown(accuracy.columns, accuracy.rows)
    lines += ["", f"- {_first_sentence(accuracy.caption)} Errors: 68 %, bootstrap over showers."]
    claims = [block for block in report.sections[0].blocks if isinstance(block, Claim)]
    for verdict, heading in VERDICTS.items():
        if stated := [claim.statement for claim in claims if claim.verdict == verdict]:
            lines.append(f"- {heading} ({len(stated)} of {len(claims)} claims): {' '.join(stated)}")
    if DESIGNS in tables:
        lines += ["", *_firmware(tables)]
    return "\n".join(lines)


def _firmware(tables: dict[str, Table]) -> list[str]:
    """Return cycles, resources and clock of each design in one table."""
    costs: dict[Cell, tuple[Cell, ...]] = {}
    for row in tables[COSTS].rows if COSTS in tables else ():
        costs.setdefault(row[0], row[2:])  # the first row of a design is the open tools'; a vendor's follow
    columns = ("design (cycles simulated; LUT, FF, DSP by yosys)", "latency", "interval", "LUT", "FF", "DSP", "routed clock")
    rows = []
    for row in tables[DESIGNS].rows:
        lut, ff, dsp, *_, clock = costs.get(row[0], ("–",) * 6)
        rows.append((row[0], row[1], row[2], lut, ff, dsp, clock))
    return _markdown(columns, rows)


def _markdown(columns: tuple[str, ...], rows: Sequence[tuple[Cell, ...]]) -> list[str]:
    lines = ["| " + " | ".join(columns) + " |", "|---" + "|---:" * (len(columns) - 1) + "|"]
    lines += ["| " + " | ".join(quantity(cell) if isinstance(cell, Number) else cell for cell in row) + " |" for row in rows]
    return lines


def _first_sentence(text: str) -> str:
    return text.split(". ")[0].rstrip(".") + "."


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
