"""Sections and claims of photons that were made from the truth in a known way."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE
from caloedge.deepcluster import physics
from caloedge.deepcluster.physics import METHODS, sections
from caloedge.detector.constants import PI0_MASS_GEV
from caloedge.detector.crystals import photon_events
from caloedge.detector.crystals.events import CrystalEvents, pion_distance
from caloedge.detector.crystals.photon_events import PhotonEvents, Photons
from caloedge.errors import UserError
from caloedge.metrics import bootstrap
from caloedge.metrics.photon_matching import match
from caloedge.results import Claim, Image, Number, Plot, Section, Table

N_EVENTS = 8000
SHOWN = 300


@pytest.fixture(scope="module", autouse=True)
def few_replicas() -> Iterator[None]:
    """Know errors to 9 % only: enough for these tests, and three times as fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bootstrap, "REPLICAS", 64)
        yield


@pytest.fixture(scope="module")
def truth() -> PhotonEvents:
    """Every photon is a shower of its own."""
    rng = np.random.default_rng(1)
    kind = rng.choice(3, N_EVENTS, p=photon_events.SHARES)
    energy = np.exp(rng.uniform(0, np.log(100), (N_EVENTS, 2)))
    pion = kind == photon_events.PION
    total = np.hypot(np.exp(rng.uniform(np.log(2.5), np.log(20), N_EVENTS)), PI0_MASS_GEV)
    first = rng.uniform(1, total - 1)
    energy[pion] = np.stack([first, total - first], axis=1)[pion]
    distance = np.where(pion, pion_distance(energy), np.exp(rng.uniform(0, np.log(15), N_EVENTS)))
    angle = rng.uniform(0, 2 * np.pi, N_EVENTS)
    impact = np.repeat(rng.uniform(20, 30, (N_EVENTS, 1, 2)), 2, axis=1)
    impact[:, 1] += distance[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    shower = np.arange(2 * N_EVENTS).reshape(N_EVENTS, 2)
    single = kind == photon_events.ONE
    impact[single, 1], energy[single, 1], shower[single, 1] = np.nan, np.nan, -1
    cells = rng.exponential(0.1, (SHOWN, 51, 51)).astype(np.float32)
    return PhotonEvents(CrystalEvents(cells, impact, energy, shower), kind)


@dataclass(frozen=True)
class Smearing:
    """How photons are made of the truth."""

    relative: float = 0.05
    crystals: float = 0.05
    scale: float = 1.0
    found: float = 1.0
    close_found: float = 1.0
    close_width: float = 1.0
    fakes: float = 0.0
    doubled: float = 0.0
    own: float = 0.05
    """Share of the deviations that is not common to all methods."""


def smeared(truth: PhotonEvents, how: Smearing, seed: int) -> Photons:
    common, rng = np.random.default_rng(99), np.random.default_rng(seed)
    crystals, close = truth.crystals, (truth.distance < physics.CLOSE)[:, None]

    def deviate(shape: tuple[int, ...]) -> np.ndarray:
        return np.sqrt(1 - how.own**2) * common.standard_normal(shape) + how.own * rng.standard_normal(shape)

    width = how.relative * np.where(close, how.close_width, 1)
    energy = how.scale * crystals.energy_EP * (1 + width * deviate((N_EVENTS, 2)))
    position = crystals.impact_EP2 + how.crystals * deviate((N_EVENTS, 2, 2))
    detected = np.isfinite(energy) & (rng.random((N_EVENTS, 2)) < np.where(close, how.close_found, how.found))
    event = np.repeat(np.arange(N_EVENTS), 2).reshape(N_EVENTS, 2)[detected]
    double = detected & (rng.random((N_EVENTS, 2)) < how.doubled)
    fake = np.flatnonzero(rng.random(N_EVENTS) < how.fakes)
    events = np.concatenate([event, np.nonzero(double)[0], fake])
    order = rng.permutation(len(events))  # the order within an event is any
    order = order[np.argsort(events[order], kind="stable")]
    positions = np.concatenate([position[detected], position[double] + 1.2, np.full((len(fake), 2), 2.0)])
    energies = np.concatenate([energy[detected], 0.3 * energy[double], np.full(len(fake), 0.7)])
    return Photons(events[order], positions[order], energies[order], np.ones(len(order)))


GOOD = {
    REFERENCE: Smearing(),
    FLOAT: Smearing(),
    INTEGER: Smearing(),
    BASELINE: Smearing(relative=0.07, crystals=0.08, close_found=0.6, close_width=1.5),
}


@dataclass(frozen=True)
class Result:
    """What `sections` returned."""

    sections: tuple[Section, ...]
    claims: tuple[Claim, ...]
    figures: Mapping[str, Mapping[str, Number]]
    caveats: tuple[str, ...]

    def blocks(self) -> list:
        return [block for section in self.sections for block in section.blocks]

    def table(self, title: str) -> Table:
        (found,) = [block for block in self.blocks() if isinstance(block, Table) and block.title.startswith(title)]
        return found

    def number(self, title: str, method: str, column: str) -> Number:
        table = self.table(title)
        (at,) = [i for i, name in enumerate(table.columns) if name.startswith(column)]
        (row,) = [row for row in table.rows if row[0] == method]
        cell = row[at]
        assert isinstance(cell, Number)
        return cell


def result_of(truth: PhotonEvents, **changed: Smearing) -> Result:
    methods = GOOD | {
        dict(zip(("reference", "float_", "integer", "baseline"), METHODS, strict=True))[k]: v for k, v in changed.items()
    }
    return assessed(truth, {name: smeared(truth, how, seed) for seed, (name, how) in enumerate(methods.items())})


def assessed(truth: PhotonEvents, photons: dict[str, Photons], classical: tuple[str, ...] = (BASELINE,)) -> Result:
    assessment = sections(truth, photons, classical)
    return Result(assessment.sections, assessment.claims, assessment.figures, assessment.caveats)


@pytest.fixture(scope="module")
def good(truth: PhotonEvents) -> Result:
    return result_of(truth)


@pytest.fixture(scope="module")
def spoilt(truth: PhotonEvents) -> Result:
    """Each method has a fault of its own, so that one run shows all."""
    return result_of(
        truth,
        reference=Smearing(scale=0.9),
        float_=Smearing(found=0.8, close_found=0.8),
        integer=Smearing(fakes=0.1),
        baseline=Smearing(doubled=0.25),
    )


def near(number: Number, expected: float, sigmas: float = 4) -> bool:
    assert number.uncertainty is not None
    return abs(number.value - expected) < sigmas * number.uncertainty


def test_the_smearing_is_what_is_measured(good: Result) -> None:
    for column in ("σ(E)/E, 3–10", "σ(E)/E, 10–30", "σ(E)/E, 30–100"):
        assert near(good.number("Photons measured", INTEGER, column), 5)
        assert near(good.number("Photons measured", BASELINE, column), 7)
        assert not near(good.number("Photons measured", BASELINE, column), 5)
    assert near(good.number("Photons measured", INTEGER, "position"), 0.05 * 22)
    assert near(good.number("Photons measured", BASELINE, "position"), 0.08 * 22)
    assert good.number("Photons measured", INTEGER, "position").unit == "mm"


def test_nothing_is_lost_fake_or_split_where_nothing_was(good: Result) -> None:
    assert good.number("Photons found", INTEGER, "one photon found").value == 100
    assert good.number("Photons found", INTEGER, "both of two found, <").value == 100
    assert good.number("Photons found", INTEGER, "fakes").value == 0
    assert good.number("Photons found", INTEGER, "one photon split").value == 0


def test_lost_photons_show_in_the_efficiency(spoilt: Result) -> None:
    assert near(spoilt.number("Photons found", FLOAT, "one photon found"), 80)
    assert near(spoilt.number("Photons found", FLOAT, "both of two found, <"), 64)
    assert near(spoilt.number("Photons found", FLOAT, "both of two found, ≥"), 64)
    assert spoilt.number("Photons found", FLOAT, "fakes").value == 0


def test_added_photons_show_as_fakes_and_as_nothing_else(spoilt: Result) -> None:
    assert near(spoilt.number("Photons found", INTEGER, "fakes"), 10)
    assert spoilt.number("Photons found", INTEGER, "one photon found").value == 100
    assert spoilt.number("Photons found", INTEGER, "one photon split").value == 0
    (plot,) = [block for block in spoilt.blocks() if block.title == "Fake photons"]
    (series,) = [series for series in plot.series if series.name == INTEGER]
    full = [(x, y) for x, y in zip(series.x, series.y, strict=True) if y]
    assert len(full) == 1  # all were given 0.7 GeV
    assert 0.5 < full[0][0] < 1
    assert full[0][1] == pytest.approx(spoilt.number("Photons found", INTEGER, "fakes").value)


def test_doubled_photons_show_as_split(spoilt: Result) -> None:
    assert near(spoilt.number("Photons found", BASELINE, "one photon split"), 25)
    assert spoilt.number("Photons found", BASELINE, "fakes").value > 25  # per 100 events of one or two photons
    assert spoilt.number("Photons found", BASELINE, "one photon found").value == 100


def test_a_bias_shows_in_the_scale_and_not_in_the_resolution(good: Result, spoilt: Result) -> None:
    (plot,) = [block for block in spoilt.blocks() if block.title == "Energy scale"]
    scales = {series.name: series.y for series in plot.series}
    np.testing.assert_allclose(scales[REFERENCE], 0.9, rtol=0.02)  # medians of some 280 photons with 5 %
    np.testing.assert_allclose(scales[INTEGER], 1.0, rtol=0.02)
    column = "σ(E)/E, 10–30"
    assert spoilt.number("Photons measured", REFERENCE, column).value == pytest.approx(
        good.number("Photons measured", REFERENCE, column).value
    )


def test_the_order_of_an_events_photons_does_not_matter(truth: PhotonEvents, good: Result) -> None:
    def reverse(photons: Photons) -> Photons:
        back = np.arange(len(photons.event_N))[::-1]
        back = back[np.argsort(photons.event_N[back], kind="stable")]
        return Photons(photons.event_N[back], photons.position_N2[back], photons.energy_N[back], photons.score_N[back])

    methods = {name: smeared(truth, how, seed) for seed, (name, how) in enumerate(GOOD.items())}
    again = assessed(truth, {name: reverse(photons) for name, photons in methods.items()})
    assert again.claims == good.claims
    assert again.figures == good.figures
    assert again.sections[:-1] == good.sections[:-1]  # the displays list their marks in the order given


def test_the_pion_mass_is_found(good: Result) -> None:
    table = good.table("π⁰ candidates")
    rows = [row for row in table.rows if row[1] == INTEGER]
    assert [row[0] for row in rows] == ["2.5–5", "5–8", "8–12", "12–20"]
    for row in rows:
        both, _, peak, width = row[2:]
        assert both.value > 99
        assert abs(peak.value - 1e3 * PI0_MASS_GEV) < 5 * peak.uncertainty + 0.5  # the median of a product is not exact
        assert peak.unit == width.unit == "MeV"
    # Two photons of 5 % each: 5 % / √2 of the mass from the energies; positions matter where photons are close.
    assert 0.9 < rows[0][5].value / (135 * 0.05 / np.sqrt(2)) < 1.2


def test_the_fit_finds_a_constant_resolution(good: Result) -> None:
    assert near(good.number("Fit of the energy resolution", BASELINE, "constant term"), 7, 5)
    assert not near(good.number("Fit of the energy resolution", INTEGER, "constant term"), 7, 5)
    chi2, ndf = good.table("Fit of the energy resolution").rows[0][-1].split(" / ")
    assert ndf == "5"
    assert 0 < float(chi2) < 25


def test_all_claims_hold_for_equal_networks_and_a_worse_baseline(good: Result) -> None:
    assert [claim.verdict for claim in good.claims] == ["holds"] * 7
    assert good.claims[0].found.startswith("ratio of the widths, the worst bin: ")
    assert not [caveat for caveat in good.caveats if "classical" in caveat]


@pytest.mark.parametrize(
    ("changed", "failing"),
    [
        (Smearing(relative=0.058), {0}),
        (Smearing(crystals=0.06), {1}),
        (Smearing(relative=0.075), {0, 2}),
        (Smearing(crystals=0.085), {1, 3, 6}),
        (Smearing(close_found=0.5), {4}),
        (Smearing(close_width=2 * 0.07 / 0.05), {5}),
    ],
)
def test_each_claim_fails_for_a_worse_integer_network(truth: PhotonEvents, changed: Smearing, failing: set[int]) -> None:
    claims = result_of(truth, integer=changed).claims
    assert [claim.verdict == "fails" for claim in claims] == [number in failing for number in range(7)]


def test_a_method_that_finds_more_of_the_hard_pairs_is_not_measured_worse_for_it(truth: PhotonEvents) -> None:
    """What the baseline does not find decides no width of the claims."""
    methods = {name: smeared(truth, how, seed) for seed, (name, how) in enumerate(GOOD.items())}
    index, lost = match(truth.crystals, methods[INTEGER]).index_EP, ~match(truth.crystals, methods[BASELINE]).found
    hard = index[lost & (index >= 0)]
    assert len(hard) > 100
    energy = methods[INTEGER].energy_N.copy()
    energy[hard] *= 3  # and what the baseline has of a pair that it merges is no better for it
    merged = methods[BASELINE].energy_N.copy()
    half = match(truth.crystals, methods[BASELINE])
    merged[
        half.index_EP[(half.index_EP >= 0) & (half.found.sum(axis=1) == 1)[:, None] & np.isfinite(truth.distance)[:, None]]
    ] *= 3
    spoilt = methods | {
        INTEGER: replace(methods[INTEGER], energy_N=energy), BASELINE: replace(methods[BASELINE], energy_N=merged)
    }  # fmt: skip
    before, after = (assessed(truth, photons) for photons in (methods, spoilt))
    assert after.claims[2:] == before.claims[2:]
    column = "σ(E)/E, pairs"
    assert (
        after.number("Photons measured", INTEGER, column).value > 1.2 * before.number("Photons measured", INTEGER, column).value
    )


def test_a_failed_claim_names_its_bins(truth: PhotonEvents) -> None:
    claim = result_of(truth, integer=Smearing(relative=0.07)).claims[0]
    assert claim.found.startswith("ratio of the widths, 8 of 8 bins shown, the worst first: ")
    assert claim.found.count(" GeV: 1.") == claim.found.count(" to 1.") == 8


def test_equal_methods_are_not_better_than_each_other(truth: PhotonEvents) -> None:
    claims = result_of(truth, integer=GOOD[BASELINE]).claims
    assert "holds" not in {claim.verdict for claim in claims[2:]}


def test_what_is_worse_or_biased_is_a_caveat(truth: PhotonEvents) -> None:
    caveats = result_of(truth, integer=Smearing(relative=0.09, scale=1.09)).caveats
    assert caveats[0].startswith(
        "The integer network is worse than the classical baseline in energy resolution for single photons, ratio at 1–1.7 GeV: 1."
    )
    assert any(caveat.startswith("The integer network is worse than its own float twin in energy") for caveat in caveats)
    assert not any("position" in caveat for caveat in caveats)
    assert caveats[-1].startswith("The integer network's energy scale differs from 1 at ")
    assert ": 1.09" in caveats[-1] or ": 1.1" in caveats[-1]


def test_a_claim_that_cannot_be_tested_says_so(truth: PhotonEvents) -> None:
    claims = result_of(truth, integer=Smearing(found=0.0, close_found=0.0)).claims
    assert [claim.verdict == "fails" for claim in claims] == [number == 4 for number in range(7)]
    assert {claim.verdict for claim in claims} == {"fails", "not tested"}
    assert claims[0].found.startswith("too few values, or a figure that is not positive, in 3–4.5 GeV, ")


def test_events_are_shown_by_their_truth(truth: PhotonEvents, good: Result, spoilt: Result) -> None:
    shown, others = (
        {block.title: block for block in assessment.blocks() if isinstance(block, Image)} for assessment in (good, spoilt)
    )
    assert list(shown) == ["A close pair", "A π⁰", "A single photon of low energy"]
    assert [image.values for image in shown.values()] == [image.values for image in others.values()]
    for title, n in zip(shown, (2, 2, 1), strict=True):
        image = shown[title]
        true = [(x, y) for x, y, label in image.marks if label == "true impact"]
        marks = [(x, y) for x, y, label in image.marks if label == INTEGER]
        assert len(true) == len(marks) == n
        assert np.shape(image.values) == (13, 13)
        for x, y in true:
            assert min(np.hypot(x - a, y - b) for a, b in marks) < 0.5
    (x, y), *_ = ((x, y) for x, y, label in shown["A single photon of low energy"].marks if label == "true impact")
    energy = truth.crystals.energy_EP[:SHOWN]
    event = int(np.nanargmin(np.where(truth.kind_E[:SHOWN] == photon_events.ONE, np.abs(energy[:, 0] - 1.5), np.nan)))
    i, j = (int(c) for c in truth.crystals.impact_EP2[event, 0])
    assert shown["A single photon of low energy"].values[int(x)][int(y)] == pytest.approx(
        truth.crystals.cells_EXY[event, i, j], abs=6e-4
    )


def test_without_cells_there_are_no_displays(truth: PhotonEvents) -> None:
    none = replace(truth, crystals=replace(truth.crystals, cells_EXY=truth.crystals.cells_EXY[:0]))
    methods = {name: smeared(none, how, seed) for seed, (name, how) in enumerate(GOOD.items())}
    assert not [block for section in sections(none, methods).sections for block in section.blocks if isinstance(block, Image)]


def test_every_number_is_finite_and_has_an_error_and_a_sample(good: Result) -> None:
    numbers = [cell for block in good.blocks() if isinstance(block, Table) for row in block.rows for cell in row]
    numbers = [cell for cell in numbers if isinstance(cell, Number)]
    numbers += [number for of_figure in good.figures.values() for number in of_figure.values()]
    assert len(numbers) > 100
    for number in numbers:
        assert np.isfinite(number.value)
        assert number.uncertainty is not None
        assert np.isfinite(number.uncertainty)
    assert all(number.sample for of_figure in good.figures.values() for number in of_figure.values())
    assert [set(of_figure) for of_figure in good.figures.values()] == [{REFERENCE, INTEGER, BASELINE}] * 2


def test_every_plot_shows_all_methods(good: Result) -> None:
    plots = [block for block in good.blocks() if isinstance(block, Plot)]
    assert len(plots) == 18
    for plot in plots:
        assert [series.name for series in plot.series][:4] == list(METHODS)
        assert plot.caption


def test_a_missing_method_is_named(truth: PhotonEvents) -> None:
    with pytest.raises(UserError, match=r"^no photons of 'integer edge'; give those of 'float published', 'float edge', "):
        sections(truth, {name: smeared(truth, GOOD[name], 1) for name in METHODS if name != INTEGER})


def test_claims_are_made_against_every_rival(truth: PhotonEvents) -> None:
    worse = Smearing(relative=0.09, crystals=0.1, close_found=0.4, close_width=2.0)
    methods = {name: smeared(truth, how, seed) for seed, (name, how) in enumerate({**GOOD, "particle flow": worse}.items())}
    claims = sections(truth, methods, ("particle flow", BASELINE)).claims
    assert [claim.verdict for claim in claims] == ["holds"] * 12
    assert [("particle flow's" in c.statement or "than the particle flow" in c.statement) for c in claims] == [False] * 2 + [
        True
    ] * 5 + [False] * 5
    spoilt = methods | {"particle flow": methods[INTEGER]}
    claims = sections(truth, spoilt, ("particle flow", BASELINE)).claims
    # Of the same photons no width is smaller; that no pair of some hundreds is found by one alone does not exclude a few.
    same = ["fails", "fails", "undecided", "fails", "fails"]
    assert [claim.verdict for claim in claims] == ["holds"] * 2 + same + ["holds"] * 5
    assert all("identical" in claim.found for claim, verdict in zip(claims[2:7], same, strict=True) if verdict == "fails")
