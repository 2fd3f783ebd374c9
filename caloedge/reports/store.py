"""Reports on disk: the results as report.json, the page drawn from them, and an index of many."""

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from caloedge.errors import BadData, UserError
from caloedge.files import locked, write_text
from caloedge.progress import progress
from caloedge.reports.headline import Card, NumberedClaim, key_figures, tally
from caloedge.reports.markdown import drawn, figure_name, markdown
from caloedge.reports.page import environment, render
from caloedge.results import Report, Verdict

JSON_NAME = "report.json"
PAGE_NAME = "report.html"
SHORT_NAME = "report.md"
INDEX_NAME = "index.html"
_KEY_CARDS = 3


@dataclass(frozen=True)
class IndexEntry:
    """One report in the index."""

    title: str
    summary: str
    created: str
    link: str
    """Relative address of the page, empty if only the JSON is there."""
    folder: str
    caveat: str
    """The gravest caveat; empty if there is none."""
    claims: dict[Verdict, tuple[NumberedClaim, ...]]
    cards: tuple[Card, ...]


def save(report: Report, folder: Path, *, listed: bool = True) -> None:
    """Write `report.json` and what is drawn from it into a folder: `report.html`, and in short `report.md` with its figures.

    Each appears whole or not at all. The page of a report that is `listed` leads back to the index of the folder above.
    """
    contents = {  # all of it is made before anything is written
        JSON_NAME: text(report),
        PAGE_NAME: render(report, f"../{INDEX_NAME}" if listed else ""),
        SHORT_NAME: markdown(report),
        **drawn(report),
    }
    for name, content in contents.items():
        write_text(folder / name, content)
    for path in folder.glob(figure_name("[0-9]")):
        if path.name not in contents:
            path.unlink()  # a figure of an earlier report that had more


def draw(folders: Sequence[Path]) -> dict[Path, Report]:
    """Draw everything of reports anew from their `report.json`, several at a time; nothing is written if one cannot be read."""
    reports = {folder: load(folder) for folder in folders}
    if len(folders) == 1:
        save(*next((report, folder) for folder, report in reports.items()))
        return reports
    largest_first = sorted(folders, key=lambda folder: -(folder / JSON_NAME).stat().st_size)
    # New processes instead of copies of this one, whose threads a copy would not have.
    with (
        ProcessPoolExecutor(min(len(folders), os.cpu_count() or 1), multiprocessing.get_context("spawn")) as pool,
        progress("draw reports", len(folders)) as advance,
    ):
        for drawing in as_completed([pool.submit(save, reports[folder], folder) for folder in largest_first]):
            drawing.result()
            advance(1)
    return reports


def text(report: Report) -> str:
    """Return the contents of `report.json`."""
    return report.model_dump_json(indent=2) + "\n"


def load(folder: Path) -> Report:
    """Read the `report.json` of a folder.

    Raises `UserError` if there is none and `BadData` if it is not a report, both in one line with the cure.
    """
    path = folder / JSON_NAME
    try:
        return Report.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with `caloedge run`") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; make it readable or make it again with `caloedge run`") from None
    except ValidationError as error:
        raise BadData(f"{path}: {_first(error)}; make it again with `caloedge run`") from None


def folders(folder: Path) -> list[Path]:
    """Return the folder of a report, or those directly below a folder of reports.

    Raises `UserError` if there is none.
    """
    if (folder / JSON_NAME).exists():
        return [folder]
    below = sorted(path.parent for path in folder.glob(f"*/{JSON_NAME}"))
    if not below:
        raise UserError(f"{folder / JSON_NAME}: no such file; make it with `caloedge run`")
    return below


def write_index(folder: Path) -> Path:
    """Write `index.html`, which lists the reports in the folders directly below `folder`, and return its path.

    Raises `BadData` for a report that cannot be read: an index that leaves one out would mislead.
    """
    index = folder / INDEX_NAME
    with locked(index, wait=True):  # who writes last has seen the reports of all others
        entries = [_entry(path.parent, load(path.parent)) for path in sorted(folder.glob(f"*/{JSON_NAME}"))]
        write_text(index, environment().get_template("index.html.j2").render(entries=entries))
    return index


def _entry(folder: Path, report: Report) -> IndexEntry:
    return IndexEntry(
        title=report.title,
        summary=report.summary.split("\n\n")[0],
        created=report.created,
        link=f"{folder.name}/{PAGE_NAME}" if (folder / PAGE_NAME).exists() else "",
        folder=folder.name,
        caveat=next(iter(report.caveats), ""),
        claims=tally(report),
        cards=key_figures(report, _KEY_CARDS),
    )


def _first(error: ValidationError) -> str:
    """Return the first problem on one line: `sections[0].blocks[2].series: Field required (and 3 more)`."""
    problems = error.errors(include_url=False, include_context=False, include_input=False)
    place = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in problems[0]["loc"]).lstrip(".")
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    message = " ".join(problems[0]["msg"].split())
    return f"{place}: {message}{more}" if place else f"{message}{more}"
