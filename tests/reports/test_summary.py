"""What a reader is told first: verdicts in their order, unequal trainings, and the README's lines."""

import json
from pathlib import Path

import pytest

from caloedge.artifact import TrainingRecord, read_artifact
from caloedge.catalog import FLOAT, INTEGER, REFERENCE
from caloedge.reports import store, summary
from caloedge.reports.readme import claims_line, results
from caloedge.results import OLDER_RULE, Claim, Number, Verdict

MODELS = Path(__file__).parents[2] / "models"


def claim(verdict: Verdict, brief: str = "") -> Claim:
    return Claim(statement=f"The network {verdict}.", verdict=verdict, found="", brief=brief)


CLAIMS = (claim("holds"), claim("undecided", "b: 1.04"), claim("not tested"), claim("fails", "a: 1.2"), claim("fails"))


def test_what_fails_is_said_before_what_is_open() -> None:
    assert summary.claim_caveats(CLAIMS) == (
        "Does not hold: a: 1.2.",
        "Does not hold: The network fails.",
        "Undecided: b: 1.04.",
        "Not tested: The network not tested.",
    )


def test_what_comes_out_worse_on_independent_showers_is_said_too() -> None:
    before = (claim("holds"), claim("undecided", "b: 1.04"), claim("fails", "a: 1.2"))
    again = (
        claim("undecided", "b: 1.01"),  # as before
        claim("fails", "a: 1.1"),  # as before
        Claim(statement="The network holds.", verdict="fails", found="", brief="c: 1.3"),
        Claim(statement="The network undecided.", verdict="fails", found="", brief="b: 1.06"),
        Claim(statement="The network fails.", verdict="undecided", found="", brief="a: 1.0"),  # better than before
    )
    assert summary.claim_caveats(before, (*again, *again)) == (
        "Does not hold: a: 1.2.",
        "Does not hold on independent showers: c: 1.3.",
        "Does not hold on independent showers: b: 1.06.",
        "Undecided: b: 1.04.",
    )


def test_shorter_and_worse_trainings_are_named() -> None:
    n_inputs, losses = {REFERENCE: 100, FLOAT: 900, INTEGER: 1000}, {REFERENCE: 0.4, FLOAT: 0.2, INTEGER: 0.3}
    fewer, worse, once = summary.training_caveats(n_inputs, losses, INTEGER)
    assert fewer == (
        "Trained on fewer inputs than integer edge (1,000, its float twin's among them): float published 100, float edge 900."
    )
    assert worse.startswith("Validation loss above that of integer edge (0.3): float published 0.4. Leads over networks")
    assert once == summary.ONCE
    assert summary.training_caveats(dict.fromkeys(n_inputs, 5), dict.fromkeys(n_inputs, 0.1), INTEGER) == (summary.ONCE,)


@pytest.mark.parametrize("name", ["center_finder", "seed_finder"])
def test_shipped_references_were_trained_for_less(name: str) -> None:
    fewer, worse, _ = summary.artifact_caveats(read_artifact(MODELS / name))
    assert f"{REFERENCE} " in fewer
    assert f"{REFERENCE} " in worse


def test_a_network_that_starts_from_another_has_seen_its_inputs() -> None:
    artifact = read_artifact(MODELS / "pf_energy")
    stages: dict[str, TrainingRecord] = {stage: artifact.manifest.stages[stage] for stage in ("published", "edge", "quantised")}
    assert summary.inputs_seen(artifact.recipe, stages) == {"published": 280_000, "edge": 300_000, "quantised": 528_000}


def test_the_readme_begins_with_what_fails() -> None:
    numbers = {
        name: Number(value=value, unit="%", origin="computed")
        for name, value in ((INTEGER, 2.0), (REFERENCE, 3.0), ("mine", 4.0))
    }
    report = summary.compose("t", "", "", {"width": numbers}, CLAIMS, (), lower_is_better=True)
    claims = "- [mine](reports/mine/report.md): **Fails:** a: 1.2. **Undecided:** 1. **Not tested:** 1. **Holds:** 1 of 4 claims."
    assert results({"mine": report}, {}) == claims
    row = "|[mine](reports/mine/report.md)|4,389|6|width [%]|2|–|3|–|–|–|–|"
    both = results(
        {"mine": report}, {"mine": read_artifact(MODELS / "shower_shape"), "other": read_artifact(MODELS / "seed_finder")}
    )
    assert both.split("\n\n")[0].splitlines()[2:] == [row]
    assert both.split("\n\n")[1] == claims


def test_the_readme_names_the_gravest_claim_and_counts_the_others() -> None:
    claims = [Claim(statement=f"s{i}", brief=f"b{i}", verdict="fails", found="") for i in range(5)]
    assert claims_line(claims) == "**Fails:** b0 and 4 more. **Holds:** 0 of 5 claims."


def test_an_older_report_says_how_it_was_judged(tmp_path: Path) -> None:
    """Version 0.1 stored whether a claim `holds`, by its central value, and no caveats."""
    claims = [
        {"kind": "claim", "statement": f"It {word}.", "holds": holds, "found": "1 ± 2"}
        for word, holds in (("is", True), ("is not", False))
    ]
    old = {"title": "t", "summary": "", "created": "", "headline": [], "sections": [{"title": "Claims", "blocks": claims}]}
    (tmp_path / "report.json").write_text(json.dumps(old))
    report = store.load(tmp_path)
    assert report.caveats == ("Does not hold: It is not. 1 ± 2.", OLDER_RULE)
    store.save(report, tmp_path)
    assert store.load(tmp_path) == report  # the remark stays when it is drawn anew
    old["sections"][0]["blocks"] = []  # type: ignore[index]
    (tmp_path / "report.json").write_text(json.dumps(old))
    assert store.load(tmp_path).caveats == ()
