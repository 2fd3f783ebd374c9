"""Samples of full events, their sets and ranging; the classical methods' constants; the assessment and its claims."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE, Assessment, Sample
from caloedge.detector.images import particle_samples as detector_jets
from caloedge.detector.images import response
from caloedge.detector.images.response import FIELD_OFF, FIELD_ON, PIXELS
from caloedge.errors import MissingTool, UserError
from caloedge.reconstruction import energy_flow
from caloedge.reports import page, summary
from caloedge.results import Claim, Image, Number, Plot, Report, Table
from caloedge.tasks.pf_energy import comparison
from caloedge.tasks.pf_energy import task as pf_energy
from caloedge.tasks.pf_energy.task import CALORIMETER_SUM, JETS, OTHERS, SETS, TASK, TRAINED, UNIT_GEV, EventTruth, ranging

N = 60
RIVALS = ("float student", "float reference_5m", "integer 8 bit")


@pytest.fixture(scope="module")
def library() -> Any:
    return detector_jets.read_particles("qcd_jets")


@pytest.fixture(scope="module")
def generated(library: Any) -> Sample[EventTruth]:
    return TASK.sample(library, "test", N, 5)


def of(sample: Sample[EventTruth], name: str) -> np.ndarray:
    return sample.truth.set_E == SETS.index(name)


# Samples


def test_the_same_arguments_give_the_same_arrays(library: Any, generated: Sample[EventTruth]) -> None:
    again = TASK.sample(library, "test", N, 5)
    np.testing.assert_array_equal(again.inputs, generated.inputs)
    np.testing.assert_array_equal(again.targets, generated.targets)
    assert generated.inputs.dtype == generated.targets.dtype == np.float32
    assert generated.inputs.shape == (len(generated.targets), *TASK.input_shape)
    assert generated.targets.shape == (len(generated.inputs), 1, PIXELS, PIXELS)


def test_more_events_begin_with_the_same_ones(library: Any) -> None:
    few, many = (TASK.sample(library, "train", n, 5).inputs for n in (30, 230))
    assert len(few) == 30
    assert len(many) == 230
    np.testing.assert_array_equal(many[:30], few)
    assert not np.array_equal(many[100:130], few)  # the next block is another


def test_splits_and_seeds_share_no_event(library: Any, generated: Sample[EventTruth]) -> None:
    samples = [TASK.sample(library, split, N, seed) for split in ("train", "valid", "all") for seed in (5, 6)]
    parts = [sample.inputs[:N].reshape(N, -1) for sample in samples] + [generated.inputs[:N].reshape(N, -1)]
    sums = np.concatenate([part.astype(float).sum(axis=1) for part in parts])
    assert len(np.unique(sums)) == len(sums)
    with pytest.raises(UserError, match=r"^split 'tests': there are train, valid, test, all$"):
        TASK.sample(library, "tests", 1, 1)


@pytest.mark.parametrize("split", ["train", "valid"])
def test_only_the_trained_set_is_trained_on(split: str) -> None:
    assert (TASK.sample(None, split, 20, 1).truth.set_E == 0).all()  # the library is not even asked


def test_the_test_split_has_all_sets(library: Any, generated: Sample[EventTruth]) -> None:
    assert [int(of(generated, name).sum()) for name in SETS] == [N, *[N // 2] * (len(SETS) - 1)]
    limited = TASK.sample(Few(library, 7), "test", 40, 5)
    assert int(of(limited, JETS).sum()) == 7


class Few:
    """The first events of a library."""

    def __init__(self, library: Any, n_events: int) -> None:
        self.particles, self.n_events = library.particles, n_events


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[tuple[np.ndarray, np.ndarray]]:
    """Multiplicity and hardness of each block that is drawn."""
    calls = []
    original = response.toy_particles

    def spy(n: int, multiplicity: np.ndarray, rng: np.random.Generator, *, spectrum: response.Spectrum) -> Any:
        calls.append((multiplicity, np.asarray(spectrum.hardness)))
        return original(n, multiplicity, rng, spectrum=spectrum)

    monkeypatch.setattr(pf_energy.response, "toy_particles", spy)
    return calls


def test_sets_hold_what_they_are_called(library: Any, drawn: list[tuple[np.ndarray, np.ndarray]]) -> None:
    sample = TASK.sample(library, "test", 100, 2)
    assert len(drawn) == 1 + len(OTHERS)
    for event_set, (multiplicity, hardness) in zip((TRAINED, *OTHERS), drawn, strict=True):
        combinations = set(zip(multiplicity.tolist(), hardness.tolist(), strict=True))
        assert combinations == {(n, h) for n in event_set.multiplicities for h in event_set.hardnesses}, event_set.name
        events = of(sample, event_set.name)
        # A particle has |N(0, √5)| GeV: 1.78 in the mean.
        expected = (multiplicity * hardness)[: int(events.sum())] * np.sqrt(5) * np.sqrt(2 / np.pi)
        energy = sample.truth.energy_EHW[events].sum(axis=(1, 2))
        np.testing.assert_allclose(energy, expected, rtol=0.12)  # 800 particles: 2.7 %
    unseen = {(event_set.multiplicities, event_set.hardnesses) for event_set in OTHERS}
    assert (TRAINED.multiplicities, TRAINED.hardnesses) not in unseen


def test_jets_are_the_librarys_particles(library: Any, generated: Sample[EventTruth]) -> None:
    energy = generated.truth.energy_EHW[of(generated, JETS)].sum(axis=(1, 2))
    particles = library.particles
    first = particles.event_N < len(energy)
    inside = np.abs(particles.eta_N[first]) < response.MAX_ETA
    expected = np.bincount(particles.event_N[first], particles.energy_N[first] * inside, len(energy))
    np.testing.assert_allclose(energy, expected, rtol=1e-5)  # float32


def test_half_of_the_events_are_in_the_field(library: Any) -> None:
    truth = TASK.sample(library, "train", 400, 3).truth
    assert set(truth.field_E) == {FIELD_OFF, FIELD_ON}
    assert 0.4 < (truth.field_E == FIELD_ON).mean() < 0.6  # 4 σ


def test_images_are_ranged_by_powers_of_two(generated: Sample[EventTruth]) -> None:
    factor = generated.truth.factor_E
    assert set(factor) <= set(2.0 ** np.arange(12))
    largest = pf_energy.inputs_gev(generated).max(axis=(1, 2, 3))
    assert (largest / factor < 32).all()
    assert (largest[factor > 1] / factor[factor > 1] >= 16).all()  # no larger than needed
    assert (factor[of(generated, JETS)] > 1).any()
    assert generated.inputs.max() < 32 / UNIT_GEV
    energy = generated.targets[:, 0] * pf_energy.units_gev(generated.truth)[:, None, None]
    np.testing.assert_allclose(energy, generated.truth.energy_EHW, rtol=1e-6)


def test_ranging_at_its_borders() -> None:
    images = np.array([0.0, 1.0, 31.999, 32.0, 63.9, 64.0]).reshape(-1, 1, 1, 1)
    assert ranging(images).tolist() == [1, 1, 1, 2, 2, 4]
    assert ranging(np.zeros((0, 4, 2, 2))).shape == (0,)


# Classical methods


def test_constants_are_what_validation_events_give() -> None:
    assert pf_energy.tuned_on(None) == (energy_flow.CALIBRATION, energy_flow.TUNING)


def wmse(sample: Sample[EventTruth], outputs: np.ndarray) -> np.ndarray:
    truth = sample.truth.energy_EHW.astype(float)
    energy = outputs.reshape(truth.shape) * pf_energy.units_gev(sample.truth)[:, None, None]
    return (truth * (energy - truth) ** 2).sum(axis=(1, 2)) / truth.sum(axis=(1, 2))


def test_the_classical_methods_beat_naive_sums(generated: Sample[EventTruth]) -> None:
    flow, total = TASK.baseline(generated), pf_energy.calorimeter_sum(generated)
    assert flow.shape == total.shape == generated.targets.shape
    for name in SETS:
        events = of(generated, name)
        flow_error, sum_error, naive, everything = (
            wmse(generated, outputs)[events].mean()
            for outputs in (flow, total, generated.inputs[:, :2].sum(axis=1), generated.inputs.sum(axis=1))
        )
        assert flow_error < 0.5 * sum_error, name
        assert flow_error < 0.5 * everything, name
        if name != JETS:  # its scales are those of pixels with some GeV: where the response is nearly linear, they are too high
            assert sum_error < naive, name


def test_the_baseline_uses_each_events_factor_and_field(generated: Sample[EventTruth]) -> None:
    hot = np.flatnonzero(generated.truth.factor_E > 4)[:5]
    part = pf_energy.inputs_gev(generated)[hot]
    expected = (
        energy_flow.particle_flow(part, generated.truth.field_E[hot]) / pf_energy.units_gev(generated.truth)[hot, None, None]
    )
    np.testing.assert_allclose(TASK.baseline(generated)[hot, 0], expected, rtol=1e-6)


# The assessment


Make = Callable[..., dict[str, np.ndarray]]


@pytest.fixture(scope="module")
def scores(generated: Sample[EventTruth]) -> Make:
    """Stand-ins: the truth with a relative error, by method."""
    flow = TASK.baseline(generated)

    def make(**size: float) -> dict[str, np.ndarray]:
        sizes = {REFERENCE: 0.03, FLOAT: 0.04, INTEGER: 0.0404} | dict.fromkeys(RIVALS, 0.05)
        sizes |= {name.replace("_", " "): value for name, value in size.items()}
        noise = np.random.default_rng(1).standard_normal(generated.targets.shape)
        outputs = {name: generated.targets * (1 + value * noise) for name, value in sizes.items()}
        return {REFERENCE: outputs[REFERENCE], FLOAT: outputs[FLOAT], INTEGER: outputs[INTEGER], BASELINE: flow} | outputs

    return make


@pytest.fixture(scope="module")
def assessment(generated: Sample[EventTruth], scores: Make) -> Assessment:
    pytest.importorskip("fastjet")
    return TASK.assess(generated, scores(), {})


def tables(assessment: Assessment) -> dict[str, Table]:
    return {block.title: block for section in assessment.sections for block in section.blocks if isinstance(block, Table)}


def test_all_methods_are_in_every_table_in_the_order_given(assessment: Assessment) -> None:
    methods = (REFERENCE, FLOAT, INTEGER, BASELINE, *RIVALS, CALORIMETER_SUM)
    tables_by_title = tables(assessment)
    assert len(tables_by_title) >= 10
    for table in tables_by_title.values():
        assert tuple(row[0] for row in table.rows) == methods, table.title
    for section in assessment.sections:
        for block in section.blocks:
            if isinstance(block, Plot):
                assert tuple(series.name for series in block.series) == methods, block.title
    assert tables_by_title["Error weighted by energy"].columns == ("method", *SETS)


def test_numbers_have_errors_and_events(assessment: Assessment) -> None:
    for table in tables(assessment).values():
        for cell in (cell for row in table.rows for cell in row if isinstance(cell, Number)):
            assert cell.origin == "computed"
            assert cell.uncertainty is not None
            assert cell.sample
    assert list(assessment.figures) == ["WMSE", "Jet resolution"]
    for numbers in assessment.figures.values():
        assert list(numbers)[:3] == [REFERENCE, FLOAT, INTEGER]
        assert all(number.uncertainty > 0 for number in numbers.values())


def test_figures_are_those_of_the_sample(generated: Sample[EventTruth], assessment: Assessment, scores: Make) -> None:
    table = tables(assessment)["Error weighted by energy"]
    for name, outputs in scores().items():
        (row,) = (row for row in table.rows if row[0] == name)
        for cell, event_set in zip(row[1:], SETS, strict=True):
            assert cell.value == pytest.approx(wmse(generated, outputs)[of(generated, event_set)].mean(), rel=1e-9)
    (row,) = (row for row in tables(assessment)["Relative error"].rows if row[0] == RIVALS[0])
    np.testing.assert_allclose([cell.value for cell in row[1:-1]], 5, rtol=0.02)  # percent; in jets one pixel may be all


def test_differences_to_the_references(assessment: Assessment) -> None:
    table = tables(assessment)["WMSE relative to the references, as trained"]
    assert table.columns == ("method", f"to {REFERENCE}", f"to {FLOAT}", "to float reference_5m")
    (row,) = (row for row in table.rows if row[0] == INTEGER)
    assert row[2].value == pytest.approx(100 * (1.01**2 - 1), rel=1e-6)
    assert row[2].uncertainty < 1e-6  # the same events and the same noise
    assert table.rows[0][1] == "–"


def test_the_report_can_be_drawn(assessment: Assessment) -> None:
    report = summary.compose(
        "pf_energy", "", "", assessment.figures, (),
        (part.model_copy(update={"blocks": (*part.blocks[:1], *part.blocks[-1:])}) for part in assessment.sections),
        lower_is_better=True,
    )  # fmt: skip
    html = page.render(Report.model_validate_json(report.model_dump_json()))
    assert "integer edge − true energy, QCD jets" in html
    shown = [block for block in assessment.sections[-1].blocks if isinstance(block, Image)]
    assert [block.title for block in shown[:8]] == [
        f"{what}, {TRAINED.name}"
        for what in ("EMCal", "HCal", "tracks", "true energy", BASELINE, FLOAT, INTEGER, f"{INTEGER} − true energy")
    ]
    assert len(shown) == 16
    assert np.array(shown[0].values).shape == (PIXELS, PIXELS)


def verdicts(claims: tuple[Claim, ...]) -> dict[str, bool]:
    return {claim.statement: claim.verdict == "holds" for claim in claims}


def test_claims_hold_and_fail(generated: Sample[EventTruth], assessment: Assessment, scores: Make) -> None:
    pytest.importorskip("fastjet")
    good = verdicts(assessment.claims)
    to_float = "The integer network's WMSE (as trained) is at most 3 % above that of the method “float edge”."
    to_flow = "The integer network's WMSE (as trained) is clearly below that of the method “classical baseline”."
    to_published = "The integer network's WMSE (as trained) is at most 3 % above that of the method “float published”."
    jets_to_float = "The integer network's jet resolution (QCD jets) is at most 3 % above that of the method “float edge”."
    assert good[to_float]
    assert good[to_flow]
    assert good[jets_to_float]
    assert not good[to_published]
    few = {
        name: f"The WMSE (as trained) of “{name}” is at most 5 % above that of “float reference_5m”, as trained."
        for name in (REFERENCE, FLOAT)
    }
    assert set(few.values()) < set(good)
    assert len(good) == 10
    bad = verdicts(TASK.assess(generated, scores(integer_edge=0.3), {}).claims)
    assert not bad[to_float]
    assert not bad[to_flow]
    assert not bad[jets_to_float]
    assert assessment.claims[0].found.endswith("(limits at 95% confidence, paired bootstrap)")


def test_a_biased_response_is_a_caveat(generated: Sample[EventTruth], scores: Make) -> None:
    pytest.importorskip("fastjet")
    outputs = scores()
    caveats = TASK.assess(generated, outputs | {INTEGER: np.asarray(1.2 * outputs[FLOAT])}, {}).caveats
    assert re.match(r"The integer network's jet response \(QCD jets\) differs from 1: 1\.[12]\d+ \(1\.", caveats[0])
    assert any(caveat.startswith("The integer network's energy of whole events over the true one differs") for caveat in caveats)


def test_no_better_is_not_clearly_better(generated: Sample[EventTruth]) -> None:
    flow = TASK.baseline(generated)
    verdicts_found = verdicts(TASK.assess(generated, {INTEGER: flow, BASELINE: flow}, {}).claims)
    assert not verdicts_found["The integer network's WMSE (as trained) is clearly below that of the method “classical baseline”."]
    assert verdicts_found["The integer network's WMSE (as trained) is clearly below that of the method “calorimeter sum”."]
    assert not any("float" in statement for statement in verdicts_found)


def test_any_methods_will_do(generated: Sample[EventTruth], scores: Make) -> None:
    assessed = TASK.assess(generated, {"my network": scores()[FLOAT][:, 0]}, {})  # without the axis of the only channel
    assert assessed.claims == ()
    assert {figure: list(numbers) for figure, numbers in assessed.figures.items()} == {
        "WMSE": ["my network"],
        "Jet resolution": ["my network"],
    }


def test_without_fastjet_the_assessment_says_so(
    generated: Sample[EventTruth], scores: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*_: object, **__: object) -> None:
        raise MissingTool("Jets need the package fastjet; pip install 'caloedge[jets]'")

    monkeypatch.setattr(comparison, "jets", missing)
    assessed = TASK.assess(generated, scores(), {})
    (section,) = (section for section in assessed.sections if section.title == "Jets")
    assert section.text == "Jets are not compared here: Jets need the package fastjet; pip install 'caloedge[jets]'."
    assert not section.blocks
    jets = [claim for claim in assessed.claims if "jet resolution" in claim.statement]
    assert len(jets) == 4
    assert all(claim.verdict == "not tested" and "fastjet" in claim.found for claim in jets)
    assert list(assessed.figures) == ["WMSE"]


@pytest.mark.parametrize("n_events", [1, 3])
def test_sets_may_be_nearly_empty(library: Any, n_events: int) -> None:
    few = TASK.sample(library, "test", n_events, 1)
    flow = TASK.baseline(few)
    assessed = TASK.assess(few, {FLOAT: flow, INTEGER: flow}, {})
    assert len(assessed.sections) == 5
    assert assessed.claims


def test_statements_on_sizes_hold_and_fail(generated: Sample[EventTruth]) -> None:
    """A network that is nearer to the truth everywhere is best everywhere; one that is not, is not."""
    far = TASK.baseline(generated)
    near = 0.9 * generated.targets + 0.1 * far
    few = "The WMSE (as trained) of “float published” is at most 5 % above that of “float reference_5m”, as trained."
    best = "“float reference_25m” has the smallest relative error of all float networks ({}), as trained."
    expected = [best.format(name) for name in ("2400 particles", "3200 particles", "harder", "QCD jets")]
    good = verdicts(TASK.assess(generated, {REFERENCE: far, "float reference_5m": far, "float reference_25m": near}, {}).claims)
    assert [good[statement] for statement in (few, *expected)] == [True] * 5
    bad = verdicts(TASK.assess(generated, {REFERENCE: far, "float reference_5m": near, "float reference_25m": far}, {}).claims)
    assert [bad[statement] for statement in (few, *expected)] == [False] * 5


def test_training_events_have_empty_regions_and_others_have_not() -> None:
    empty = {split: (TASK.sample(None, split, 100, 3).targets == 0).mean(axis=(1, 2, 3)) for split in ("train", "valid")}
    assert (empty["train"] > 0.85).sum() > 10
    assert not (empty["valid"] > 0.85).any()


def test_a_cut_keeps_what_is_inside_or_outside_one_rectangle() -> None:
    rng = np.random.default_rng(1)
    whole = response.toy_particles(200, 400, rng)
    cropped = pf_energy.with_empty_regions(whole, 200, np.random.default_rng(2))
    counts = np.bincount(cropped.event_N, minlength=200)
    assert 70 < (counts == 400).sum() < 135  # half of the events, and a few whose rectangle is nearly empty
    assert counts.min() < 100
    assert set(zip(cropped.event_N, cropped.energy_N, strict=True)) <= set(zip(whole.event_N, whole.energy_N, strict=True))
