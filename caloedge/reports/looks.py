"""Colour, marker and line style by method: the same name looks the same in every figure of every report."""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias
from zlib import crc32

from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE

Dashes: TypeAlias = str | tuple[int, tuple[float, ...]]

INK, PAPER = "#000000", "#ffffff"
COLOURS = {
    "blue": "#5790fc",
    "orange": "#f89c20",
    "red": "#e42536",
    "plum": "#964a8b",
    "violet": "#7a21dd",
    "grey": "#9c9ca1",
    "brown": "#a96b59",
    "teal": "#128a7a",
    "olive": "#8a8a1e",
}
"""Petroff's six colours (arXiv:2107.02270), which experiments use, a brown of his ten, and two more for long lists. The page's
style sheet has a lighter one for each of them, by name, for dark screens."""
_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "<", ">")
_DASHES: tuple[Dashes, ...] = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1, 1, 1, 1, 1)))


@dataclass(frozen=True)
class Look:
    """Colour, marker and line style of one series."""

    colour: str
    marker: str
    filled: bool
    dashes: Dashes


def _look(colour: str, marker: str, *, filled: bool = True, dashes: int = 0) -> Look:
    return Look(COLOURS.get(colour, INK), marker, filled, _DASHES[dashes])


# The five that most figures share are black, violet, red, blue and orange: in grey as far apart as five can be.
METHODS = {
    REFERENCE: _look("ink", "o"),
    FLOAT: _look("blue", "s", filled=False, dashes=1),
    INTEGER: _look("red", "D"),
    BASELINE: _look("orange", "^", dashes=3),
    "classical particle flow": _look("violet", "v", filled=False, dashes=2),
    "calorimeter sum": _look("grey", "P", filled=False, dashes=4),
    "float student": _look("plum", "X", dashes=2),
    "float reference_5m": _look("brown", "<", filled=False, dashes=4),
    "float reference_25m": _look("violet", ">", dashes=1),
    # As many corners as bits.
    "integer 3 bit": _look("brown", "^", filled=False),
    "integer 4 bit": _look("olive", "d", dashes=1),
    "integer 5 bit": _look("plum", "p", filled=False, dashes=2),
    "integer 6 bit": _look("blue", "h", dashes=3),
    "integer 8 bit": _look("teal", "8", filled=False, dashes=4),
    "true impact": _look("ink", "*", filled=False),
    "Pareto front": _look("grey", "o", dashes=1),
    "π⁰ mass": _look("ink", "X", dashes=2),
}
_STAGES = {"published": REFERENCE, "edge": FLOAT, "quantised": INTEGER}


def method(name: str) -> str:
    """Return the method whose look a series has, whatever follows in its name; its own name if there is none.

    >>> [method(name) for name in ("float edge, 92.5 k parameters", "quantised, validation", "8 bit", "photons, far apart")]
    ['float edge', 'integer edge', 'integer 8 bit', 'photons, far apart']
    """
    head = name.partition(", ")[0]
    if re.fullmatch(r"\d+ bit", head):
        return f"integer {head}"
    head = _STAGES.get(head, head)
    return next((candidate for candidate in (head, f"float {head}") if candidate in METHODS), name)


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Return the look of each name: a method's fixed one, for any other name one chosen by a checksum of the name.

    A name that is no method thus has the same look in the next report too, unless another name there has taken it. Names that
    are no methods differ from each other and from all methods, in colour as long as there are colours.
    """
    result: dict[str, Look] = {}
    look_by_owner: dict[str, Look] = dict(METHODS)
    for name in dict.fromkeys(names):
        owner = method(name)
        if owner not in look_by_owner:
            look_by_owner[owner] = next(look for look in _candidates(owner, look_by_owner) if look not in look_by_owner.values())
        result[name] = look_by_owner[owner]
    return result


def _candidates(name: str, assigned: Mapping[str, Look]) -> Iterator[Look]:
    """Yield every look, from a place in the list that the name decides; first those that share no marker and colour, then all."""
    candidates = [Look(*parts) for parts in product(COLOURS.values(), _MARKERS, (True, False), _DASHES)]
    start = crc32(name.encode()) % len(candidates)
    candidates = candidates[start:] + candidates[:start]
    pairs = {(look.colour, look.marker) for look in assigned.values()}
    colours = {look.colour for other, look in assigned.items() if other not in METHODS}
    free = [look for look in candidates if (look.colour, look.marker) not in pairs]
    yield from (look for look in free if look.colour not in colours)
    yield from free
    yield from candidates
