"""The short report: what fails stands before what holds, numbers keep their origins, figures are images of their own."""

from xml.etree import ElementTree

from caloedge.reports.markdown import drawn, figures, markdown
from caloedge.reports.number_format import NO_BREAK
from caloedge.results import Claim, Number, Plot, Report, Section, Series, Table


def plot(title: str) -> Plot:
    return Plot(
        title=title, x_label="x", y_label="y", series=(Series(name="a", x=(1.0, 2.0), y=(1.0, 4.0)),), caption="Ten events."
    )


def number(value: float, origin: str, unit: str = "") -> Number:
    return Number(value=value, origin=origin, unit=unit)


REPORT = Report(
    title="a net: float against fixed point",
    summary="What it is.",
    created="2026-11-30T12:00:00+00:00",
    data_label="Geant4 simulation",
    headline=tuple(
        (f"width, {name}", Number(value=value, uncertainty=0.1, unit="%", origin="computed"))
        for name, value in (("float edge", 2.0), ("integer edge", 3.0))
    ),
    best=("width, float edge",),
    caveats=("Does not hold: a.",),
    sections=(
        Section(
            title="Claims",
            blocks=(
                Claim(statement="A holds | or not.", verdict="holds", found="1.0", brief="a"),
                Claim(statement="B.", verdict="fails", found="2.0"),
            ),
        ),
        Section(title="The same elsewhere", blocks=(Claim(statement="A.", verdict="undecided", found="1.1"), plot("first"))),
        Section(
            title="Firmware",
            blocks=(
                Table(
                    title="Designs: latency and rate",
                    columns=("design", "latency", "clock"),
                    rows=(
                        ("small | fast", number(3, "simulated", "cycles"), number(200, "requested", "MHz")),
                        ("large", number(4, "simulated", "cycles"), number(61, "routed", "MHz")),
                    ),
                ),
                plot("second"),
                plot("third"),
            ),
        ),
    ),
)


def test_the_text() -> None:
    assert (
        markdown(REPORT).replace(NO_BREAK, " ")
        == """\
# a net: float against fixed point

What it is.

Geant4 simulation; 2026-11-30. `caloedge report` draws all tables and figures from the `report.json` beside this.

## What to know first

- Does not hold: a.

## Claims

|  | verdict | claim | found |
| --- | --- | --- | --- |
| 1 | ✓ holds | A holds \\| or not. | 1.0 |
| 2 | ✗ **fails** | B. | 2.0 |

## Claims: the same elsewhere

|  | verdict | claim | found |
| --- | --- | --- | --- |
| 3 | ? undecided | A. | 1.1 |

## Key figures

| figure | float edge | integer edge |
| --- | --- | --- |
| width | **2.00 ± 0.10 %** | 3.00 ± 0.10 % |

![first](figure_1.svg)

*first. Ten events.*

![second](figure_2.svg)

*second. Ten events.*

## Designs: latency and rate

| design | latency (simulated) | clock |
| --- | --- | --- |
| small \\| fast | 3 cycles | 200 MHz (requested) |
| large | 4 cycles | 61 MHz (routed) |
"""
    )


def test_the_first_figures_are_images_on_white_paper() -> None:
    assert [one.title for one in figures(REPORT)] == ["first", "second"]
    images = drawn(REPORT)
    assert list(images) == ["figure_1.svg", "figure_2.svg"]
    for svg in images.values():
        root = ElementTree.fromstring(svg)
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        assert int(root.get("width", "0")) > 300 < int(root.get("height", "0"))
        assert "background: #ffffff" in root.get("style", "")


def test_a_report_without_designs_or_figures_is_short() -> None:
    designs = Table(title="Designs: latency and rate", columns=("design", "latency"), rows=())
    report = Report(
        title="t", summary="s", created="2026-11-30", headline=(), sections=(Section(title="Firmware", blocks=(designs,)),)
    )
    assert markdown(report).endswith("| design | latency |\n| --- | --- |\n")
    assert drawn(report) == {}
