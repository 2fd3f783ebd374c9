"""The house style of figures, and their conversion to SVG that can share a page with others."""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from html import escape
from importlib.resources import files
from io import StringIO
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib import font_manager, mathtext
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.text import Text

from caloedge.reports.looks import COLOURS, INK, PAPER

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
    "figure.facecolor": "none",
    "axes.facecolor": "none",
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


def inline_svg(figure: Figure, prefix: str, title: str, *, adapts: bool = True) -> str:
    """Return a figure as an `<svg>` element for an HTML page.

    Every id in it starts with `prefix`, so that figures with different prefixes can share a page; `title` is read out by
    screen readers. A figure that `adapts` takes ink, paper and the colours of series from the page, so that it can be read
    on a dark one, and shows its own where no page says otherwise; one that does not brings white paper with it. The same
    figure gives the same text.
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
    head += ' fill="currentColor"' if adapts else ' style="background: #ffffff"'
    body = _slim(_own_ids(body, prefix))
    return f'{head} role="img" aria-label="{escape(title)}">{_adaptable(body) if adapts else body}'.strip()


_BY_PAGE = {INK: "currentColor", PAPER: f"var(--paper, {PAPER})"} | {
    colour: f"var(--{name}, {colour})" for name, colour in COLOURS.items()
}


def _adaptable(body: str) -> str:
    return re.sub("|".join(_BY_PAGE), lambda m: _BY_PAGE[m[0]], body)


_GLYPH = re.compile(r'<path id="([^"]*)" d="([^"]*)"( transform="scale\([^"]*\)")?/>\n?')


def share_glyphs(svgs: Sequence[str]) -> tuple[str, list[str]]:
    """Return the letters of all figures of a page as definitions to stand in it once, and the figures without them.

    They are a third of a figure. The page's script puts them back into a figure that is saved.
    """
    ids: dict[str, str] = {}

    def slimmed(svg: str) -> str:
        new_ids = {}
        for name, *shape in _GLYPH.findall(svg):
            new_ids[name] = ids.setdefault(f'd="{shape[0]}"{shape[1]}', f"glyph-{len(ids)}")
        svg = _GLYPH.sub("", svg)
        return re.sub(r'href="#([^"]*)"', lambda m: f'href="#{new_ids.get(m[1], m[1])}"', svg)

    slim = [slimmed(svg) for svg in svgs]
    return "\n".join(f'<path id="{name}" {shape}/>' for shape, name in ids.items()), slim


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
    return "\n".join(_merge_repeated_looks(body.splitlines()))


_LINE = re.compile(r'<path d="(?P<own>[^"]*)" (?P<look>.*style="fill: none;.*)/>')
_MARKER = re.compile(r'<use (?P<own>href="[^"]*" x="[^"]*" y="[^"]*") (?P<look>style="[^"]*")/>')


def _merge_repeated_looks(elements: list[str]) -> Iterator[str]:
    """Yield the elements with the look of neighbouring lines and of neighbouring markers said once: error bars are many."""
    matches = [(element, _LINE.fullmatch(element) or _MARKER.fullmatch(element)) for element in elements]
    for look, run in groupby(matches, key=lambda pair: pair[1] and (pair[1].re, pair[1]["look"])):
        if look is None:
            yield from (element for element, _ in run)
            continue
        places = [match["own"] for _, match in run if match]
        if look[0] is _LINE:
            yield f'<path d="{" ".join(places)}" {look[1]}/>'
        else:
            yield f"<g {look[1]}>" + "".join(f"<use {place}/>" for place in places) + "</g>"


def _rounded(text: str) -> str:
    shorter = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), text)
    return re.sub(r"(?<=\S)\s+", " ", shorter).replace(' "', '"')
