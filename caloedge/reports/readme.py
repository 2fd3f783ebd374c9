"""The README's result table, taken from report.json so that it cannot drift from it."""

from pathlib import Path

from caloedge.errors import BadData
from caloedge.files import write_text
from caloedge.reports.rounding import quantity
from caloedge.results import Claim, Number, Report, Table

BEGIN, END = "<!-- results: written by `caloedge report FOLDER --readme README.md` -->", "<!-- end of results -->"


def result_table(report: Report) -> str:
    """Return the first table of the accuracy and the claims as Markdown."""
    blocks = [block for section in report.sections for block in section.blocks]
    table = next(block for block in blocks if isinstance(block, Table))
    lines = ["| " + " | ".join(table.columns) + " |", "|---" + "|---:" * (len(table.columns) - 1) + "|"]
    lines += [
        "| " + " | ".join(quantity(cell) if isinstance(cell, Number) else cell for cell in row) + " |" for row in table.rows
    ]
    lines += ["", f"{table.caption} All numbers are computed on test events, with 68 % bootstrap errors over showers.", ""]
    for claim in report.sections[0].blocks:
        if isinstance(claim, Claim):
            verdict = {True: "Holds", False: "Does not hold", None: "Not tested"}[claim.holds]
            lines.append(f"- {verdict}: {claim.statement} {claim.found}.")
    return "\n".join(lines)


def between_marks(text: str, place: Path) -> tuple[str, str, str]:
    """Return what stands before, between and after the marks of the result table."""
    if text.count(BEGIN) != 1 or text.count(END) != 1:
        raise BadData(f"{place}: needs each of these lines once: {BEGIN} and {END}")
    before, rest = text.split(BEGIN)
    middle, after = rest.split(END)
    return before, middle, after


def update(readme: Path, report: Report) -> None:
    """Rewrite the result table of a README."""
    before, _, after = between_marks(readme.read_text(encoding="utf-8"), readme)
    write_text(readme, f"{before}{BEGIN}\n{result_table(report)}\n{END}{after}")
