"""The README's results, taken from the reports and models so that they cannot drift from them."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from caloedge.artifact import MANIFEST, Artifact, read_artifact
from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE
from caloedge.errors import BadData
from caloedge.files import write_text
from caloedge.firmware.section import COSTS, DESIGNS
from caloedge.reports.headline import figures, tally
from caloedge.reports.number_format import quantity, value
from caloedge.results import Cell, Claim, Number, Report, Table

VERDICTS = {"fails": "Fails", "undecided": "Undecided", "not tested": "Not tested"}
BEGIN = "<!-- results: written by `caloedge report reports --readme README.md` -->"
END = "<!-- end of results -->"
MOST_CLAIMS = 1
"""Number of claims that one report names, if they have a short name; the others are counted."""
COLUMNS = (
    "model",
    "parameters",
    "bits",
    "figure",
    "integer",
    "float twin",
    "float published",
    "classical",
    "cycles",
    "LUT",
    "DSP",
)
NOTHING = "–"


def results(reports: Mapping[str, Report], models: Mapping[str, Artifact]) -> str:
    """Return as Markdown a table of the models with their first figure and design, then the claims of every report."""
    rows = [_row(name, reports[name], artifact) for name, artifact in models.items() if name in reports]
    table = "\n".join(f"|{'|'.join(row)}|" for row in (COLUMNS, ["---"] * len(COLUMNS), *rows))
    claims = "\n".join(f"- {_link(name)}: {claims_line(_claims(report))}" for name, report in reports.items())
    return f"{table}\n\n{claims}" if rows else claims


def _link(name: str) -> str:
    return f"[{name}](reports/{name}/report.md)"


def _claims(report: Report) -> list[Claim]:
    return [numbered.claim for group in tally(report).values() for numbered in group]


def _row(name: str, report: Report, artifact: Artifact) -> tuple[str, ...]:
    """Return a model's row: size, the first headline figure of each method, and the first synthesised design."""
    figure, numbers = next(iter(figures(report).items()), ("", {}))
    methods = (INTEGER, FLOAT, REFERENCE, BASELINE)
    texts = (value(numbers[method]) if method in numbers else NOTHING for method in methods)
    unit = next((f" [{number.unit}]" for number in numbers.values() if number.unit), "")
    bits = artifact.recipe.quantisation.weight_bits
    parameters = artifact.manifest.stages["edge"].parameters
    return (_link(name), f"{parameters:,}", str(bits), f"{figure}{unit}", *texts, *_design(report))


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


def _design(report: Report) -> tuple[str, str, str]:
    """Return latency in cycles, LUT and DSP of the first synthesised design, or else the latency of the first one."""
    tables: dict[str, Table] = {}
    for block in (block for section in report.sections for block in section.blocks):
        if isinstance(block, Table):
            tables.setdefault(block.title, block)  # later sections repeat titles on other showers
    costs: dict[Cell, tuple[Cell, ...]] = {}
    for row in tables[COSTS].rows if COSTS in tables else ():
        costs.setdefault(row[0], row[2:])  # the first row of a design is the open tools'; a vendor's follow
    for name, latency, *_ in tables[DESIGNS].rows if DESIGNS in tables else ():
        if name in costs and isinstance(latency, Number):
            lut, _, dsp, *_ = (_text(cell) for cell in costs[name])
            return f"{latency.value:,}", lut, dsp
    latencies = (latency for _, latency, *_ in (tables[DESIGNS].rows if DESIGNS in tables else ()))
    first = next((f"{latency.value:,}" for latency in latencies if isinstance(latency, Number)), NOTHING)
    return first, NOTHING, NOTHING


def _text(cell: Cell) -> str:
    return quantity(cell) if isinstance(cell, Number) else cell


def between_marks(text: str, place: Path) -> tuple[str, str, str]:
    """Return what stands before, between and after the marks of the results."""
    if text.count(BEGIN) != 1 or END not in text.split(BEGIN)[1]:
        raise BadData(f"{place}: needs the line {BEGIN} once, and {END} after it")
    before, remainder = text.split(BEGIN)
    middle, after = remainder.split(END, 1)
    return before, middle, after


def models_beside(readme: Path) -> dict[str, Artifact]:
    """Return the shipped models of a README by name."""
    return {path.parent.name: read_artifact(path.parent) for path in sorted((readme.parent / "models").glob(f"*/{MANIFEST}"))}


def update(readme: Path, reports: Mapping[str, Report]) -> None:
    """Rewrite the results in a README."""
    before, _, after = between_marks(readme.read_text(encoding="utf-8"), readme)
    write_text(readme, f"{before}{BEGIN}\n{results(reports, models_beside(readme))}\n{END}{after}")
