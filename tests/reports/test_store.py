"""Reports on disk: the round trip is exact, and a bad file is reported in one line with the cure."""

import json
import math
import re

import pytest

from caloedge.errors import BadData, UserError
from caloedge.reports.markdown import drawn
from caloedge.reports.store import load, save, write_index
from caloedge.results import Claim, Number, Plot, Report, Section, Series, Table


def small_report(title="Seeds", **fields):
    values = (0.1 + 0.2, 1e-300, 3, 3.0, -0.0, 2**60, math.nan, math.inf, -math.inf)
    rows = (("word",), *((Number(value=v, origin="computed"),) for v in values))
    table = Table(title="t", columns=("v",), rows=rows)
    plot = Plot(title="p", x_label="x", y_label="y", series=(Series(name="é", x=(1 / 3,), y=(math.nan,)),), x_range=(0, 1))
    defaults = {
        "title": title,
        "summary": "First.\n\nSecond.",
        "created": "2025-11-22T03:10:00Z",
        "headline": (("efficiency", Number(value=0.97, uncertainty=0.01, origin="computed")),),
        "sections": (Section(title="s", blocks=(table, plot)),),
    }
    return Report(**defaults | fields)


def test_the_round_trip_is_exact(tmp_path):
    report = small_report()
    save(report, tmp_path)
    again = load(tmp_path)
    assert again.model_dump_json() == report.model_dump_json()
    assert repr(again) == repr(report)  # not ==: NaN differs from itself, and 3 equals 3.0


def test_save_writes_its_files_and_leaves_no_others(tmp_path):
    save(small_report(), tmp_path / "new" / "folder")
    folder = tmp_path / "new" / "folder"
    assert sorted(path.name for path in folder.iterdir()) == [*drawn(small_report()), "report.html", "report.json", "report.md"]
    first = {path.name: path.read_bytes() for path in folder.iterdir()}
    save(small_report(), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == first


def test_figures_of_an_earlier_report_do_not_stay(tmp_path):
    save(small_report(), tmp_path)
    assert (tmp_path / "figure_1.svg").exists()
    (tmp_path / "figure_of_mine.svg").touch()
    save(small_report(sections=()), tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.svg")) == ["figure_of_mine.svg"]


def test_a_page_that_cannot_be_drawn_leaves_the_old_report(tmp_path, monkeypatch):
    save(small_report(sections=()), tmp_path)
    before = (tmp_path / "report.json").read_bytes()
    monkeypatch.setattr("caloedge.reports.store.render", lambda report, index: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        save(small_report("Other"), tmp_path)
    assert (tmp_path / "report.json").read_bytes() == before


def error_line(folder, kind):
    with pytest.raises(UserError) as caught:
        load(folder)
    assert type(caught.value) is kind
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(folder), "F")


def test_a_missing_report_says_how_to_make_it(tmp_path):
    assert error_line(tmp_path, UserError) == "F/report.json: no such file; make it with `caloedge run`"


def test_an_unreadable_report_says_so(tmp_path):
    (tmp_path / "report.json").mkdir()
    line = "F/report.json: Is a directory; make it readable or make it again with `caloedge run`"
    assert error_line(tmp_path, UserError) == line


def test_broken_json_is_placed_by_line_and_column(tmp_path):
    (tmp_path / "report.json").write_text('{"title": "a",\n  oops}')
    line = error_line(tmp_path, BadData)
    assert line.startswith("F/report.json: Invalid JSON: ")
    assert "line 2 column 3" in line
    assert line.endswith("; make it again with `caloedge run`")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: r.pop("created"), "created: Field required"),
        (lambda r: r.update(extra=1), "extra: Extra inputs are not permitted"),
        (lambda r: r["sections"][0]["blocks"][1].pop("y_label"), "sections[0].blocks[1].plot.y_label: Field required"),
        (
            lambda r: r["sections"][0]["blocks"][1]["series"][0].update(y=[1, 2]),
            "sections[0].blocks[1].plot.series[0]: Value error, series 'é': y has 2 entries for 1 x",
        ),
        (lambda r: (r.pop("created"), r.pop("title")), "title: Field required (and 1 more)"),
    ],
)
def test_a_wrong_field_is_named(tmp_path, change, message):
    path = tmp_path / "report.json"
    stored = json.loads(small_report().model_dump_json())
    change(stored)
    path.write_text(json.dumps(stored))
    assert error_line(tmp_path, BadData) == f"F/report.json: {message}; make it again with `caloedge run`"


def test_bytes_that_are_no_text_are_bad_data(tmp_path):
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    assert "F/report.json: Invalid JSON" in error_line(tmp_path, BadData)


def test_the_index_lists_every_report_once_with_its_headline(tmp_path):
    save(small_report("A <b>", sections=()), tmp_path / "a b")
    save(small_report("Z", sections=()), tmp_path / "z")
    (tmp_path / "z" / "report.html").unlink()
    (tmp_path / "other").mkdir()
    index = write_index(tmp_path)
    assert index == tmp_path / "index.html"
    text = index.read_text()
    assert '<a href="a%20b/report.html">A &lt;b&gt;</a>' in text
    assert text.count("<h2>") == 2
    assert text.count("0.970") == 2
    assert "no page yet" in text
    assert "http" not in text.replace("http-equiv", "")
    assert write_index(tmp_path).read_text() == text


def test_the_index_counts_claims_and_links_the_failed_ones(tmp_path):
    verdicts = ("holds", "holds", "fails", "undecided", "not tested")
    claims = tuple(Claim(statement=f"c{i}", verdict=verdict, found="") for i, verdict in enumerate(verdicts))
    save(small_report(sections=(Section(title="s", blocks=claims),), caveats=("Grave.", "Less.")), tmp_path / "a b")
    text = write_index(tmp_path).read_text()
    assert '<p class="caveat">Grave.</p>' in text
    assert "Less." not in text
    for words in ("✓ 2 hold", "✗ 1 does not hold", "? 1 undecided", "– 1 not tested"):
        assert words in text
    assert re.findall(r'href="([^"]*claim[^"]*)"', text) == ["a%20b/report.html#claim-3", "a%20b/report.html#claim-4"]


def test_reports_of_the_first_version_are_drawn_and_listed(tmp_path):
    save(small_report(), tmp_path / "old")
    path = tmp_path / "old" / "report.json"
    stored = json.loads(path.read_text())
    del stored["best"], stored["caveats"]
    stored["sections"][0]["blocks"] += [
        {"kind": "claim", "statement": f"c {holds}", "holds": holds, "found": ""} for holds in (True, False, None)
    ]
    path.write_text(json.dumps(stored))
    save(load(tmp_path / "old"), tmp_path / "old")
    page = (tmp_path / "old" / "report.html").read_text()
    for text in (page, write_index(tmp_path).read_text()):
        for words in ("✓ 1 holds", "✗ 1 does not hold", "– 1 not tested"):
            assert words in text


def test_a_report_that_no_index_lists_leads_to_none(tmp_path):
    save(small_report(), tmp_path / "a")
    assert "../index.html" in (tmp_path / "a" / "report.html").read_text()
    save(small_report(), tmp_path / "a", listed=False)
    assert "index.html" not in (tmp_path / "a" / "report.html").read_text()


def test_an_index_of_nothing_says_so(tmp_path):
    assert "No reports yet." in write_index(tmp_path).read_text()


def test_an_index_with_a_bad_report_is_not_written(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "report.json").write_text("{")
    with pytest.raises(BadData, match=r"a/report\.json: Invalid JSON"):
        write_index(tmp_path)
    assert not (tmp_path / "index.html").exists()
