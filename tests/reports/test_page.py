"""The page: every number with unit and origin, nothing from elsewhere, and the same text every time."""

import math
import re
from html import unescape
from html.parser import HTMLParser
from typing import get_args

import pytest

from caloedge.reports.page import card, render
from caloedge.reports.rounding import quantity, value
from caloedge.reports.tables import table_view
from caloedge.results import Claim, Facts, Image, Number, Plot, Report, Section, Series, Table, Verdict


def number(value, uncertainty=None, unit="", origin="computed", **fields):
    return Number(value=value, uncertainty=uncertainty, unit=unit, origin=origin, **fields)


def sample_report(name="float"):
    """Return a report with one block of each kind and every origin; `name` appears wherever a name can."""
    origins = ("computed", "simulated", "synthesised", "routed", "estimated", "measured", "vendor", "requested", "published")
    table = Table(
        title=name,
        columns=(name, "efficiency", "LUT"),
        rows=((name, number(91.234, 0.44, "%", sample="3,012 seeds"), number(18433, origin="synthesised")), ("b", "–", "none")),
        caption=name,
    )
    curve = Series(name=name, x=(1, 2, 3), y=(0.5, math.nan, 0.9))
    plot = Plot(title=name, x_label=name, y_label="y", series=(curve,), ratio_to=name, caption=name)
    image = Image(title=name, values=((0, 1), (2, 3)), unit="GeV", marks=((0.5, 0.5, name),), caption=name)
    facts = Facts(title="facts", items=tuple((origin, number(100 + i, origin=origin)) for i, origin in enumerate(origins)))
    claims = tuple(Claim(statement=f"{name} {verdict}", verdict=verdict, found=name) for verdict in get_args(Verdict))
    return Report(
        title=name,
        summary=f"{name} one.\n\nTwo.",
        created="2025-11-22T03:10:00Z",
        headline=((name, number(0.3021, 0.0996, "LSB", note=name)), ("nothing", number(math.nan))),
        sections=(
            Section(title=name, text=name, blocks=(table, plot, plot, image, *claims)),
            Section(title="Hardware", blocks=(facts, table)),
            Section(title="Empty", blocks=(Table(title="t", columns=("a",), rows=()),)),
        ),
        data_label="Geant4 simulation",
    )


@pytest.fixture(scope="module")
def page():
    return render(sample_report())


class Page(HTMLParser):
    """Collects ids and every attribute that could fetch something, and checks that tags are closed."""

    VOID = frozenset({"meta", "br", "link", "img"})

    def __init__(self, text):
        super().__init__()
        self.ids, self.fetches, self.tags, self.open = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        for key, content in attrs:
            if key == "id":
                self.ids.append(content)
            if key in ("src", "href", "xlink:href", "action", "data", "srcset", "poster"):
                self.fetches.append(content)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_its_ids_are_unique(page):
    parsed = Page(page)
    assert parsed.open == []
    assert len(parsed.ids) == len(set(parsed.ids))
    assert {target[1:] for target in parsed.fetches if target.startswith("#")} <= set(parsed.ids)


def test_the_page_needs_nothing_from_elsewhere(page):
    parsed = Page(page)
    assert all(target.startswith(("#", "data:image/png;base64,")) for target in parsed.fetches)
    assert not {"script", "link", "iframe", "object", "base"} & set(parsed.tags)
    assert set(re.findall(r"https?://[^\"' )]*", page)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_the_page_contains_every_number_and_its_exact_value(page):
    text = unescape(page)
    for written in ("91.23\xa0±\xa00.44", "18,433", *map(str, range(100, 109)), "n/a"):
        assert written in text
    assert 'title="91.234 ± 0.44 %"' in text
    assert "efficiency [%]" in text
    assert "3,012 seeds" in text


def test_the_page_explains_the_origins_it_uses_and_no_others(page):
    used = re.findall(r"<dt><span class=\"origin (\w+)\">", page)
    assert used == ["computed", "simulated", "synthesised", "routed", "estimated", "measured", "vendor", "requested", "published"]
    one = Report(title="t", summary="", created="", headline=(("a", number(1, origin="vendor")),), sections=())
    assert re.findall(r"<dt><span class=\"origin (\w+)\">", render(one)) == ["vendor"]


def test_claims_that_fail_or_are_untested_say_so(page):
    for words in ("✓ holds", "✗ does not hold", "– not tested", "✓ 1 holds", "✗ 1 does not hold", "– 1 not tested"):
        assert words in page


def test_figures_and_tables_are_numbered_through(page):
    assert re.findall(r"<b>(Figure \d+)\.", page) == ["Figure 1", "Figure 2", "Figure 3"]
    assert re.findall(r"<b>(Table \d+)\.", page) == ["Table 1", "Table 2", "Table 3"]


def test_names_are_escaped():
    evil = "<script>alert('&')</script>"
    page = render(sample_report(evil))
    assert "script" not in Page(page).tags
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_same_report_gives_the_same_bytes(page):
    assert render(Report.model_validate_json(sample_report().model_dump_json())) == page


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (number(91.2345, 0.4449), "91.23 ± 0.44"),
        (number(12345, 678), "12,340 ± 680"),
        (number(123456.0, 1234.0), "123,500 ± 1,200"),
        (number(0.5, 0.0996), "0.50 ± 0.10"),
        (number(99.96, 0.0996), "99.96 ± 0.10"),
        (number(12, 3), "12.0 ± 3.0"),
        (number(-0.0004, 0.01), "0.000 ± 0.010"),
        (number(-1.234, 0.1), "−1.23 ± 0.10"),
        (number(1.23e-7, 1.1e-8), "(1.23 ± 0.11)×10⁻⁷"),
        (number(1e22, 1e20), "(1.000 ± 0.010)×10²²"),
        (number(1e-9, 0.2), "0.00 ± 0.20"),
        (number(1, 0), "1 ± 0"),
        (number(0.9, math.nan), "0.9 ± n/a"),
        (number(math.nan, 1.0), "n/a"),
        (number(math.nan), "n/a"),
        (number(-math.inf), "−∞"),
        (number(3), "3"),
        (number(3.0), "3"),
        (number(0.0), "0"),
        (number(123456789), "123,456,789"),
        (number(5_000_000_000_000), "5,000,000,000,000"),
        (number(0.912345), "0.9123"),
        (number(12345.678), "12,346"),
        (number(-12.5), "−12.5"),
        (number(1.5e-6), "1.5×10⁻⁶"),
        (number(2.5e12), "2.5×10¹²"),
    ],
)
def test_numbers_are_rounded_to_what_is_known(given, written):
    assert value(given).replace("\xa0", " ") == written


def test_quantities_carry_their_unit():
    assert quantity(number(665, unit="ns")).replace("\xa0", " ") == "665 ns"
    assert [text.replace("\xa0", " ") for text in card(number(97.61, 0.27, "%"))] == ["97.61", "± 0.27 %", "97.61 ± 0.27 %"]
    assert card(number(1e-7, 1e-8))[0].replace("\xa0", " ") == "(1.00 ± 0.10)×10⁻⁷"


def view(*rows, columns=("name", "a", "b")):
    return table_view(Table(title="t", columns=columns, rows=rows))


def test_what_a_whole_table_shares_is_said_once():
    table = view(("x", number(1, sample="9 events"), number(2, sample="9 events")))
    assert (table.origin, table.sample, table.footnotes) == ("computed", "9 events", ())
    assert [cell.origin for row in (table.head, *table.rows) for cell in row] == [""] * 6


def test_what_a_column_shares_stands_in_its_head():
    table = view(
        ("x", number(1, unit="s", sample="9 events"), number(2, origin="routed")),
        ("y", number(3, unit="s", sample="9 events"), "–"),
    )
    assert [(cell.text, cell.origin, cell.mark) for cell in table.head] == [
        ("name", "", ""), ("a [s]", "computed", "a"), ("b", "routed", ""),
    ]  # fmt: skip
    assert table.footnotes == (("a", "9 events"),)
    assert [cell.text for cell in table.rows[0]] == ["x", "1", "2"]


def test_what_a_row_shares_stands_beside_its_name_and_exceptions_in_their_cells():
    table = view(
        ("x", number(1, origin="vendor"), number(2, origin="vendor"), number(5, unit="MHz", origin="requested")),
        ("y", number(3, origin="estimated"), number(4, origin="estimated"), number(6, unit="ns", origin="routed", note="slow")),
        columns=("name", "a", "b", "c"),
    )
    assert [[cell.origin for cell in row] for row in table.rows] == [
        ["vendor", "", "", "requested"],
        ["estimated", "", "", "routed"],
    ]
    assert [row[3].text.replace("\xa0", " ") for row in table.rows] == ["5 MHz", "6 ns"]
    assert table.rows[1][3].mark == "a"
    assert table.footnotes == (("a", "slow"),)
