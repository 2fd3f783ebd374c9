"""The head of a page: claims by verdict, caveats, and at most eight cards of headline figures."""

from collections import Counter
from dataclasses import dataclass, replace
from typing import get_args

from caloedge.catalog import BASELINE, INTEGER, REFERENCE
from caloedge.reports import number_format
from caloedge.reports.looks import METHODS, method
from caloedge.reports.tables import exact_text
from caloedge.results import Claim, Number, Report, Verdict, label

MOST_CARDS = 8
_MOST_LINES = 6
_GRAVEST_FIRST: tuple[Verdict, ...] = ("fails", "undecided", "not tested", "holds")
assert set(_GRAVEST_FIRST) == set(get_args(Verdict))


@dataclass(frozen=True)
class Line:
    """One figure of a card."""

    method: str
    """Method that the figure belongs to; empty where the card's title says all."""
    value: str
    tail: str
    """Uncertainty and unit."""
    exact: str
    detail: str
    """Sample and note, where the lines of the card differ in them."""
    number: Number
    best: bool


@dataclass(frozen=True)
class Card:
    """One quantity, with the figures of all methods that have one."""

    title: str
    lines: tuple[Line, ...]
    origin: str
    """Origin that all lines share; empty where they differ."""
    detail: str
    """Sample and note that all lines share; empty where they differ."""


@dataclass(frozen=True)
class NumberedClaim:
    """A claim with its number in the page."""

    number: int
    claim: Claim


def figures(report: Report) -> dict[str, dict[str, Number]]:
    """Return the headline by figure and method; a figure of no method has the method "".

    Only here are labels taken apart: files have them joined.
    """
    n_methods = Counter(name.rpartition(", ")[0] for name in dict(report.headline))
    result: dict[str, dict[str, Number]] = {}
    for name, number in report.headline:
        figure, _, last = name.rpartition(", ")
        has_method = figure and (n_methods[figure] > 1 or method(last) in METHODS)
        result.setdefault(figure if has_method else name, {})[last if has_method else ""] = number
    return result


def cards(report: Report) -> tuple[Card, ...]:
    """Return the headline figures, those of one quantity together; a page shows the first `MOST_CARDS`."""
    return tuple(
        _card(figure, [(name, number, label(figure, name) in report.best) for name, number in numbers.items()])
        for figure, numbers in figures(report).items()
    )


def key_figures(report: Report, n_cards: int) -> tuple[Card, ...]:
    """Return the first cards, and of each only the lines that a first look needs: the firmware, its references, the best."""
    shown_methods = (INTEGER, REFERENCE, BASELINE)

    def shortened(card: Card) -> Card:
        lines = tuple(line for line in card.lines if line.best or line.method in shown_methods)
        return replace(card, lines=lines or card.lines[:_MOST_LINES])

    return tuple(map(shortened, cards(report)[:n_cards]))


def numbered_claims(report: Report) -> tuple[NumberedClaim, ...]:
    """Return all claims in reading order."""
    claims = [block for section in report.sections for block in section.blocks if isinstance(block, Claim)]
    return tuple(NumberedClaim(i, claim) for i, claim in enumerate(claims, start=1))


def tally(report: Report) -> dict[Verdict, tuple[NumberedClaim, ...]]:
    """Return the claims by verdict; one that was tested on several samples counts once, by its gravest verdict."""
    gravest: dict[str, NumberedClaim] = {}
    for numbered in sorted(numbered_claims(report), key=lambda numbered: _GRAVEST_FIRST.index(numbered.claim.verdict)):
        gravest.setdefault(numbered.claim.statement, numbered)
    return {
        verdict: tuple(numbered for numbered in gravest.values() if numbered.claim.verdict == verdict)
        for verdict in get_args(Verdict)
    }


def parts(number: Number) -> tuple[str, str, str]:
    """Return value, what follows it in small print (uncertainty and unit), and the exact text."""
    text, sign, error = number_format.value(number).partition(f"{number_format.NO_BREAK}±")
    if text.startswith("("):  # a common power of ten binds both
        text, sign, error = f"{text}{sign}{error}", "", ""
    tail = f"{sign.strip()}{error}" if sign else ""
    unit = f"{number_format.NO_BREAK}{number.unit}" if number.unit else ""
    return text, f"{tail}{unit}".strip(), exact_text(number)


def _card(title: str, entries: list[tuple[str, Number, bool]]) -> Card:
    origins = {number.origin for _, number, _ in entries}
    details = {_detail(number) for _, number, _ in entries}
    lines = tuple(
        Line(name, *parts(number), "" if len(details) == 1 else _detail(number), number, is_best)
        for name, number, is_best in entries
    )
    return Card(title, lines, origins.pop() if len(origins) == 1 else "", details.pop() if len(details) == 1 else "")


def _detail(number: Number) -> str:
    return "; ".join(part for part in (number.sample, number.note) if part)
