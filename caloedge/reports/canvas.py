"""The house style of figures, and how a figure becomes an SVG that can stand beside others in one page."""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any, TypeAlias

import matplotlib as mpl
from matplotlib import font_manager, mathtext
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text

_FONT = "TeX Gyre Heros"
_STYLE: dict[Any, Any] = {
    "font.family": [_FONT, "DejaVu Sans"],  # the second one lends the glyphs that the first lacks
    "font.size": 11,
    "mathtext.fontset": "custom",
    "mathtext.rm": _FONT,
    "mathtext.it": f"{_FONT}:italic",
    "mathtext.bf": f"{_FONT}:bold",
    "mathtext.bfit": f"{_FONT}:italic:bold",
    "mathtext.sf": _FONT,
    "mathtext.tt": "DejaVu Sans Mono",
    "mathtext.cal": f"{_FONT}:italic",
    "axes.unicode_minus": True,
    "axes.linewidth": 1.0,
    "axes.labelsize": 12.5,
    "axes.titlepad": 5,
    "xaxis.labellocation": "right",
    "yaxis.labellocation": "top",
    "xtick.top": True,
    "ytick.right": True,
    **{
        f"{axis}tick.{key}": setting
        for axis in "xy"
        for key, setting in (
            ("direction", "in"),
            ("minor.visible", True),
            ("major.size", 7),
            ("minor.size", 3.5),
            ("major.pad", 5),
            ("labelsize", 11),
        )
    },
    "legend.frameon": False,
    "legend.fontsize": 11,
    "legend.handlelength": 1.7,
    "legend.handletextpad": 0.5,
    "legend.columnspacing": 1.3,
    "legend.labelspacing": 0.35,
    "lines.linewidth": 1.7,
    "lines.markersize": 6,
    "svg.fonttype": "path",  # the same on every computer, whatever fonts it has
    "svg.hashsalt": "caloedge",
    "path.simplify": True,
}
# Petroff's six-colour cycle (arXiv:2107.02270), the one that experiments use: distinct for colour-blind readers and in grey.
_COLOURS = ("#5790fc", "#f89c20", "#e42536", "#964a8b", "#7a21dd", "#9c9ca1")
_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "<", ">", "h")
_DASHES = ("solid", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1, 1, 1, 1, 1)))

Dashes: TypeAlias = str | tuple[int, tuple[float, ...]]


@dataclass(frozen=True)
class Look:
    """How one series is drawn in every figure of a report."""

    colour: str
    marker: str
    filled: bool
    dashes: Dashes


def looks(names: Iterable[str]) -> dict[str, Look]:
    """Give each name a look of its own, in order of first appearance.

    The first name is black, as the measurement is in a physics figure. The numbers of colours, markers and dashes have no
    common factor, so that a look comes back late.
    """
    result: dict[str, Look] = {}
    for name in names:
        if name not in result:
            i = len(result)
            colour = "#000000" if i == 0 else _COLOURS[(i - 1) % len(_COLOURS)]
            result[name] = Look(colour, _MARKERS[i % len(_MARKERS)], i % 2 == 0, _DASHES[i % len(_DASHES)])
    return result


@contextmanager
def house_style() -> Iterator[None]:
    """Draw in the house style inside the block, and leave matplotlib's settings as they were."""
    _register_fonts()
    with mpl.rc_context():
        mpl.rcdefaults()  # a user's own matplotlibrc must not change a report
        mpl.rcParams.update(_STYLE)
        yield


@cache
def _register_fonts() -> None:
    folder = Path(str(files("mplhep_data"))) / "fonts" / "texgyreheros"
    for name in ("regular", "bold", "italic", "bolditalic"):
        font_manager.fontManager.addfont(folder / f"texgyreheros-{name}.otf")


def drawable(text: str) -> str:
    """Return text that matplotlib can draw: `$...$` stays mathematics where it parses and is shown as it is elsewhere."""
    if text.count("$") < 2:
        return text.replace("$", r"\$")
    try:
        mathtext.MathTextParser("path").parse(text)
    except ValueError:
        return text.replace("$", r"\$")
    return text


def fit(text: Text, length_px: float, *, vertical: bool = False) -> None:
    """Break a text that is longer than `length_px` display pixels into two lines, and make it smaller if that is not enough."""
    if not text.get_text() or length_px <= 0:
        return
    words = text.get_text().split(" ")
    if _length(text, vertical=vertical) > length_px and len(words) > 1 and not {"$", "\n"} & set(text.get_text()):
        breaks = [(" ".join(words[:i]), " ".join(words[i:])) for i in range(1, len(words))]
        text.set_text("\n".join(min(breaks, key=lambda lines: max(map(len, lines)))))
    length = _length(text, vertical=vertical)
    if length > length_px:
        text.set_fontsize(float(text.get_fontsize()) * length_px / length)


def _length(text: Text, *, vertical: bool) -> float:
    extent = text.get_window_extent()
    return float(extent.height if vertical else extent.width)


def inline_svg(figure: Figure, prefix: str, title: str) -> str:
    """Return a figure as an `<svg>` element for an HTML page.

    Every id in it starts with `prefix`, so that figures with different prefixes can share a page; `title` is read out by
    screen readers. The same figure gives the same text.
    """
    figure.set_layout_engine("none")  # it has been laid out, and a second time would only take time
    stream = StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(stream, metadata=nothing)  # type: ignore[no-untyped-call]
    svg = stream.getvalue()
    svg = svg[svg.index("<svg") :]
    head, body = svg.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head)
    assert box, "matplotlib writes a viewBox"
    # Sizes come from the page. Matplotlib's rule for `*` would reach beyond the figure; inherited attributes do not.
    head = f'<svg {box[0]} xmlns="http://www.w3.org/2000/svg" stroke-linejoin="round" stroke-linecap="butt"'
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.DOTALL).replace("xlink:href=", "href=")
    return f'{head} role="img" aria-label="{escape(title)}">{_slim(_own_ids(body, prefix))}'.strip()


def _own_ids(body: str, prefix: str) -> str:
    """Rename the ids that are referred to, prefix first, and drop the others."""
    used = dict.fromkeys(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    new = {name: f"{prefix}-{i}" for i, name in enumerate(used)}
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{new[m[1]]}"' if m[1] in new else "", body)
    return re.sub(r'(href="#|url\(#)([^")]+)', lambda m: m[1] + new[m[2]], body)


def _slim(body: str) -> str:
    """Round lengths to a hundredth of a point, drop comments and white space, and say a look that neighbours share once."""
    body = re.sub(r"<!--.*?-->", "", body, flags=re.DOTALL)
    body = re.sub(r">\s+<", ">\n<", body)
    body = re.sub(r' (?:d|x|y)="[^"]*"|translate\([^)]*\)', lambda m: _rounded(m[0]), body)
    return "\n".join(_joined(body.splitlines()))


_LINE = re.compile(r'<path d="(?P<own>[^"]*)" (?P<look>.*style="fill: none;.*)/>')
_MARKER = re.compile(r'<use (?P<own>href="[^"]*" x="[^"]*" y="[^"]*") (?P<look>style="[^"]*")/>')


def _joined(elements: list[str]) -> Iterator[str]:
    """Yield the elements with the look of neighbouring lines and of neighbouring markers said once: error bars are many."""
    matches = [(element, _LINE.fullmatch(element) or _MARKER.fullmatch(element)) for element in elements]
    for look, run in groupby(matches, key=lambda pair: pair[1] and (pair[1].re, pair[1]["look"])):
        if look is None:
            yield from (element for element, _ in run)
            continue
        own = [match["own"] for _, match in run if match]
        if look[0] is _LINE:
            yield f'<path d="{" ".join(own)}" {look[1]}/>'
        else:
            yield f"<g {look[1]}>" + "".join(f"<use {place}/>" for place in own) + "</g>"


def _rounded(text: str) -> str:
    shorter = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), text)
    return re.sub(r"(?<=\S)\s+", " ", shorter).replace(' "', '"')
