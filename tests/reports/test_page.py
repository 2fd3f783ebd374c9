"""The page: every number with unit and origin, nothing from elsewhere, and the same text every time."""

import base64
import csv
import hashlib
import io
import math
import re
from html import unescape
from html.parser import HTMLParser
from typing import get_args
from urllib.parse import unquote
from xml.etree import ElementTree

import matplotlib as mpl
import pytest

from caloedge.reports.headline import MOST_CARDS, cards, key_figures, parts, tally
from caloedge.reports.looks import COLOURS
from caloedge.reports.number_format import quantity, value
from caloedge.reports.page import render
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
        self.ids, self.fetches, self.tags, self.open, self.saves = [], [], [], [], {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.handle_startendtag(tag, attrs)
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        attributes = dict(attrs)
        if "download" in attributes:
            assert attributes["download"] not in self.saves
            self.saves[attributes["download"]] = attributes["href"]
            assert attributes["href"].startswith(("data:text/csv;charset=utf-8,", "#"))
            return
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
    assert {target[1:] for target in [*parsed.fetches, *parsed.saves.values()] if target.startswith("#")} <= set(parsed.ids)


def test_the_page_needs_nothing_from_elsewhere(page):
    parsed = Page(page)
    assert all(target.startswith(("#", "data:image/png;base64,")) or target == "../index.html" for target in parsed.fetches)
    assert not {"link", "iframe", "object", "base"} & set(parsed.tags)
    assert set(re.findall(r"https?://[^\"' )]*", page)) == {"http://www.w3.org/2000/svg"}
    assert "@import" not in page
    assert "default-src 'none'" in page


def test_only_the_script_that_saves_figures_may_run(page):
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'\"" in page
    assert not {"fetch(", "import(", "XMLHttpRequest", "eval(", "innerHTML"} & set(re.findall(r"\w+\(|\w+", script))


def test_every_report_leads_back_to_the_index_unless_there_is_none(page):
    assert '<a class="home" href="../index.html">' in page
    assert "index.html" not in render(sample_report(), index="")


def test_the_contents_stay_in_sight_and_reach_every_section(page):
    (contents,) = re.findall(r'<nav class="bar" aria-label="Contents">.*?</nav>', page, re.DOTALL)
    assert re.findall(r'href="#(section-\d+)"', contents) == re.findall(r'<section id="([^"]*)"', page)
    assert re.search(r"\.bar \{ position: sticky; top: 0;", page)


def test_tables_scroll_inside_the_page_beside_their_first_column(page):
    assert page.count("<table") == len(re.findall(r'<div class="scroll" role="region" tabindex="0"[^>]*>\s*<table', page)) == 3
    assert ".scroll { overflow-x: auto; }" in page
    assert re.search(r"th:first-child, td:first-child \{[^}]*position: sticky; left: 0; background: var\(--paper\)", page)


def test_every_table_and_figure_can_be_saved_with_all_its_digits(page):
    saves = Page(page).saves
    kinds = [re.sub(r"-float|-t\b", "", name) for name in saves]
    figures = [f"figure-{i}.{ending}" for i in (1, 2, 3) for ending in ("csv", "svg")]
    assert kinds == ["table-1.csv", *figures, "table-2.csv", "table-3.csv"]
    files = {name: rows(address) for name, address in zip(kinds, saves.values(), strict=True) if name.endswith("csv")}
    assert files["table-1.csv"] == [
        ["float", "efficiency", "efficiency: uncertainty", "efficiency: unit", "efficiency: origin", "efficiency: sample",
         "LUT", "LUT: origin"],
        ["float", "91.234", "0.44", "%", "computed", "3,012 seeds", "18433", "synthesised"],
        ["b", "–", "", "", "", "", "none", ""],
    ]  # fmt: skip
    assert files["figure-1.csv"][1:] == [
        ["float", "points", x, y, "", "", ""] for x, y in (("1.0", "0.5"), ("2.0", "nan"), ("3.0", "0.9"))
    ]
    assert files["figure-3.csv"] == [
        ["value [GeV], x [cells] down, y [cells] to the right", "0.5", "1.5"],
        ["0.5", "0.0", "1.0"],
        ["1.5", "2.0", "3.0"],
        ["mark", "x [cells]", "y [cells]"],
        ["float", "0.5", "0.5"],
    ]


def rows(address):
    """Return the rows of a CSV file in a `data:` address."""
    return list(csv.reader(io.StringIO(unquote(address.removeprefix("data:text/csv;charset=utf-8,")))))


def test_a_csv_file_holds_the_stored_value_bit_by_bit_and_any_text():
    values = (0.1 + 0.2, 1e-300, 2**60, -0.0, 5e-324)
    awkward = 'a "b", 50 % #1 & <c>\n→ é'
    table = Table(title="t", columns=(awkward, "v"), rows=tuple((awkward, number(value, 1 / 3)) for value in values))
    report = Report(title="t", summary="", created="", headline=(), sections=(Section(title="s", blocks=(table,)),))
    head, *body = rows(Page(render(report)).saves["table-1-t.csv"])
    assert head == [awkward, "v", "v: uncertainty", "v: origin"]
    assert [row[0] for row in body] == [awkward] * 5
    assert [repr(float(row[1])) for row in body] == [repr(float(value)) for value in values]
    assert {float(row[2]) for row in body} == {1 / 3}


def test_figures_are_valid_xml_that_follows_the_page_into_the_dark(page):
    figures = re.findall(r"<svg viewBox.*?</svg>", page, re.DOTALL)
    assert len(figures) == 3
    for svg in figures:
        ElementTree.fromstring(svg)
    plot, image = figures[0], figures[2]
    assert "currentColor" in plot
    assert not re.search(r"(?<!, )#(?:000000|ffffff)", plot)  # else it would be black on black
    assert 'style="background: #ffffff"' in image  # a map brings its own paper
    assert "var(" not in image


def test_letters_of_figures_stand_in_the_page_once(page):
    letters = re.findall(r'<path id="glyph-\d+" (d="[^"]*"[^>]*)/>', page)
    assert letters
    assert len(letters) == len(set(letters))
    assert not re.search(r'<path id="figure[^"]*" d="[^"]*"( transform="[^"]*")?/>', page)


def test_the_page_contains_every_number_and_its_exact_value(page):
    text = unescape(page)
    for expected in ("91.23\xa0±\xa00.44", "18,433", *map(str, range(100, 109)), "n/a"):
        assert expected in text
    assert 'title="91.234 ± 0.44 %"' in text
    assert "efficiency [%]" in text
    assert "3,012 seeds" in text


def test_the_page_explains_the_origins_it_uses_and_no_others(page):
    used = re.findall(r"<dt><span class=\"origin (\w+)\">", page)
    assert used == ["computed", "simulated", "synthesised", "routed", "estimated", "measured", "vendor", "requested", "published"]
    report = Report(title="t", summary="", created="", headline=(("a", number(1, origin="vendor")),), sections=())
    assert re.findall(r"<dt><span class=\"origin (\w+)\">", render(report)) == ["vendor"]


def test_claims_that_fail_or_are_untested_say_so(page):
    for words in ("✓ holds", "✗ does not hold", "? undecided", "– not tested"):
        assert words in page
    for words in ("✓ 1 holds", "✗ 1 does not hold", "? 1 undecided", "– 1 not tested"):
        assert words in page


def report_with_claims(*verdicts, **fields):
    """Return a report with two sections of the same claims, with (first, second) verdicts."""
    sections = tuple(
        Section(
            title=str(k),
            blocks=tuple(
                Claim(statement=f"c{i}", verdict=verdict_by_section[k], found="") for i, verdict_by_section in enumerate(verdicts)
            ),
        )
        for k in (0, 1)
    )
    return Report(title="t", summary="", created="", headline=(), sections=sections, **fields)


def test_a_claim_tested_twice_counts_once_by_its_gravest_verdict():
    report = report_with_claims(("holds", "holds"), ("holds", "fails"), ("undecided", "holds"), ("not tested", "holds"))
    assert {verdict: [claim.number for claim in claims] for verdict, claims in tally(report).items()} == {
        "holds": [1], "fails": [6], "undecided": [3], "not tested": [4],
    }  # fmt: skip
    page = render(report)
    links = re.findall(r'<a href="#claim-(\d+)" title="([^"]*)">', page)
    assert links == [("6", "c1"), ("3", "c2")]  # the claims that failed, then the undecided ones
    assert re.findall(r'<li id="claim-(\d+)">', page) == list("12345678")


def test_what_to_know_stands_first_and_is_not_hidden():
    above = render(
        report_with_claims(
            ("fails", "holds"),
            caveats=("Grave & <b>.", "Less."),
        )
    ).split('<div class="tally">')[0]
    assert above.index("What to know first") < above.index("Grave &amp; &lt;b&gt;.") < above.index("Less.")
    assert "<details" not in above
    of_older_report = render(report_with_claims(("fails", "holds"), ("undecided", "holds"), ("holds", "holds")))
    box = of_older_report[of_older_report.index("What to know first") :].split("</ul>")[0]
    assert re.findall(r'href="#claim-\d+">(c\d)<', box) == ["c0", "c1"]  # without caveats, the claims speak for themselves
    assert "What to know first" not in render(report_with_claims(("holds", "holds")))


def headline(*names, best=()):
    return Report(
        title="t", summary="", created="", sections=(), best=best,
        headline=tuple((name, number(i, 0.5, "%", sample="9 events")) for i, name in enumerate(names)),
    )  # fmt: skip


def test_headline_figures_of_one_quantity_share_a_card_with_the_best_marked():
    names = ("width, far, float edge", "width, far, integer edge", "alone, integer edge", "no, method", "plain")
    report = headline(*names, best=("width, far, integer edge",))
    assert [(card.title, [line.method for line in card.lines]) for card in cards(report)] == [
        ("width, far", ["float edge", "integer edge"]), ("alone", ["integer edge"]), ("no, method", [""]), ("plain", [""]),
    ]  # fmt: skip
    page = render(report)
    assert page.count("★ best") == 1
    assert re.search(r'<div class="line best">\s*<dt>integer edge</dt>', page)
    assert "★" not in render(headline(*names))


def test_there_are_at_most_eight_cards_and_the_rest_is_counted():
    page = render(headline(*(f"quantity {i}, {method}" for i in range(10) for method in ("float edge", "integer edge"))))
    assert page.count('<div class="card">') == MOST_CARDS == 8
    assert "2 more headline quantities stand in report.json" in page
    assert "more headline" not in render(headline(*map(str, range(8))))


def test_key_figures_keep_the_firmware_its_references_and_the_best():
    methods = ("float published", "float edge", "integer edge", "integer 4 bit", "classical baseline", "sum")
    (card,) = key_figures(headline(*(f"q, {method}" for method in methods), best=("q, sum",)), 1)
    assert [line.method for line in card.lines] == ["float published", "integer edge", "classical baseline", "sum"]
    (card_of_own,) = key_figures(headline(*(f"q, m{i}" for i in range(9))), 1)
    assert [line.method for line in card_of_own.lines] == [f"m{i}" for i in range(6)]


def test_a_headline_figure_that_is_given_twice_is_shown_once():
    twice = headline("q, float edge")
    assert len(cards(twice.model_copy(update={"headline": twice.headline * 2}))[0].lines) == 1


def test_dark_screens_have_every_colour_of_the_light_ones(page):
    style = page.split("<style>")[1].split("\n* {")[0]
    light, dark = (dict(re.findall(r"--(\w+): (#\w{6});", part)) for part in style.split("prefers-color-scheme: dark"))
    assert set(dark) == set(light) | set(COLOURS)
    for theme in (light, dark):
        for name in ("ink", "soft", "accent", "good", "bad", "open", "simulated", "synthesised", "estimated"):
            for paper in ("paper", "warn", "faint"):
                assert contrast(theme[name], theme[paper]) >= 4.5, (name, paper)  # WCAG 2.1 for text
    for name in COLOURS:
        assert contrast(dark[name], dark["paper"]) >= 4.5, name


def contrast(a, b):
    """Return the contrast ratio of two colours as WCAG 2.1 defines it."""
    bright, faint = sorted((luminance(a), luminance(b)), reverse=True)
    return (bright + 0.05) / (faint + 0.05)


def luminance(colour):
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in mpl.colors.to_rgb(colour)]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_neighbouring_sections_of_one_title_are_one_and_no_facts_stand_twice():
    artifact_facts = [Facts(title="Artifact", items=(("task", name),)) for name in ("seeds", "centres")]
    library = Facts(title="Showers", items=(("seed", "1"),))
    both = tuple(Section(title="What was run", blocks=(facts, library)) for facts in artifact_facts)
    page = render(Report(title="t", summary="", created="", headline=(), sections=both))
    assert page.count("<h2>") == page.count('<li><a href="#section-') == 1
    assert re.findall(r"<h3>(\w+)</h3>", page) == ["Artifact", "Showers", "Artifact"]
    apart = (both[0], Section(title="Other", blocks=()), both[1])
    assert render(Report(title="t", summary="", created="", headline=(), sections=apart)).count("<h2>") == 3


def test_figures_and_tables_are_numbered_through(page):
    assert re.findall(r"<b>(Figure \d+)\.", page) == ["Figure 1", "Figure 2", "Figure 3"]
    assert re.findall(r"<b>(Table \d+)\.", page) == ["Table 1", "Table 2", "Table 3"]


def test_names_are_escaped():
    evil = "<script>alert('&')</script>"
    page = render(sample_report(evil))
    assert Page(page).tags.count("script") == 1  # ours, and no other could run
    assert "<script>alert" not in page
    assert "&lt;script&gt;" in page


def test_the_same_report_gives_the_same_bytes(page):
    assert render(Report.model_validate_json(sample_report().model_dump_json())) == page


@pytest.mark.parametrize(
    ("number_fields", "expected"),
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
def test_numbers_are_rounded_to_what_is_known(number_fields, expected):
    assert value(number_fields).replace("\xa0", " ") == expected


def test_quantities_carry_their_unit():
    assert quantity(number(665, unit="ns")).replace("\xa0", " ") == "665 ns"
    assert [text.replace("\xa0", " ") for text in parts(number(97.61, 0.27, "%"))] == ["97.61", "± 0.27 %", "97.61 ± 0.27 %"]
    assert parts(number(1e-7, 1e-8))[0].replace("\xa0", " ") == "(1.00 ± 0.10)×10⁻⁷"


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
