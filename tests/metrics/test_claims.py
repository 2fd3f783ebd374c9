"""The rule that judges claims: borderline cases each way, and how often it errs on toy data whose truth is known."""

from statistics import NormalDist

import numpy as np
import pytest

from caloedge.metrics import bootstrap, claims
from caloedge.metrics.claims import ComparedFigure, at_most, below

R = 200


def normal(value: float, error: float) -> ComparedFigure:
    """Return one bin whose replicas are the quantiles of a Gaussian, so that its limits are known."""
    z = np.array([NormalDist().inv_cdf((i + 0.5) / R) for i in range(R)])
    return ComparedFigure(np.array([value]), (value + error * z)[:, None])


def joined(*bins: ComparedFigure, seed: int = 1) -> ComparedFigure:
    """Return several independent bins: the replicas of each are shuffled."""
    rng = np.random.default_rng(seed)
    columns = [rng.permutation(figure.replicas_RB[:, 0]) for figure in bins]
    return ComparedFigure(np.concatenate([figure.value_B for figure in bins]), np.stack(columns, axis=1))


@pytest.mark.parametrize(
    ("value", "error", "verdict"),
    [
        (1.040, 0.022, "undecided"),  # the example: 1.040 + 1.645 × 0.022 = 1.076
        (1.040, 0.005, "holds"),
        (1.040, 0.0063, "undecided"),  # 1.0504
        (1.040, 0.0060, "holds"),  # 1.0499
        (1.060, 0.022, "undecided"),
        (1.060, 0.0063, "undecided"),  # 1.0496
        (1.060, 0.0060, "fails"),  # 1.0501
        (1.000, 0.100, "undecided"),
    ],
)
def test_the_limit_decides_not_the_central_value(value: float, error: float, verdict: str) -> None:
    assert at_most(1.05, normal(value, error)) == verdict
    assert claims.claim_at_least("s", "b", normal(-value, error), -1.05).verdict == verdict  # the same the other way round


@pytest.mark.parametrize(
    ("value", "error", "verdict"),
    [
        (0.90, 0.030, "holds"),  # 3.3 σ
        (0.92, 0.030, "undecided"),  # 2.7 σ: below 1 at 95 %, but not clearly
        (1.04, 0.030, "undecided"),  # 1.3 σ above
        (1.06, 0.030, "fails"),  # 2 σ above
    ],
)
def test_clearly_less_takes_three_standard_deviations(value: float, error: float, verdict: str) -> None:
    assert below(1, normal(value, error), clearly=True) == verdict
    assert claims.claim_clearly_below("s", "b", normal(value, error), 1).verdict == verdict
    assert claims.claim_clearly_above("s", "b", normal(-value, error), -1).verdict == verdict


def test_every_bin_must_hold_by_its_own_limit() -> None:
    good, wide = normal(1.0, 0.01), normal(1.04, 0.022)
    assert at_most(1.05, joined(good, good, good)) == "holds"
    assert at_most(1.05, joined(good, wide, good)) == "undecided"
    assert at_most(1.05, joined(good, normal(1.2, 0.02), good)) == "fails"
    assert at_most(1.05, joined(wide, normal(1.2, 0.02))) == "fails"


def test_one_of_many_bins_that_fails_by_chance_is_not_enough() -> None:
    """A bin 1.9 standard deviations too high breaks a limit of 95 % alone, and one of eight does so often."""
    high, good = normal(1.05 + 1.9 * 0.02, 0.02), normal(1.05 - 0.02, 0.02)
    assert at_most(1.05, high) == "fails"
    assert at_most(1.05, joined(high, *[good] * 7)) == "undecided"
    assert at_most(1.05, joined(normal(1.05 + 4 * 0.02, 0.02), *[good] * 7)) == "fails"


def test_the_limit_for_all_bins_is_that_of_one_where_there_is_one() -> None:
    figure = normal(1.0, 0.1)
    assert figure.joint_low() == pytest.approx(figure.limits()[0], rel=1e-12)
    many = joined(*[figure] * 8)
    assert (many.joint_low() < many.limits()[0]).all()
    # Šidák: of 8 independent bins each needs 1 − (1 − 0.05)^(1/8), 2.49 σ; 200 replicas know it to about 0.15
    assert (1.0 - many.joint_low()) / 0.1 == pytest.approx(2.49, abs=0.3)
    alike = ComparedFigure(np.ones(8), np.repeat(figure.replicas_RB, 8, axis=1))  # fully correlated: no price
    assert alike.joint_low() == pytest.approx(figure.limits()[0].repeat(8), rel=1e-12)


def test_identical_methods_are_called_so_and_are_not_better() -> None:
    same = ComparedFigure(np.ones(1), np.ones((R, 1)))
    assert at_most(1.05, same) == "holds"
    assert below(1, same) == below(1, same, clearly=True) == "fails"
    claim = claims.claim_clearly_below("s", "b", same, 1)
    assert claim.found.startswith("identical (")
    assert claim.brief == "b: identical"


def shares(passed_by_first: np.ndarray, passed_by_second: np.ndarray) -> ComparedFigure:
    weights = bootstrap.bootstrap_weights(len(passed_by_first), seed=3)
    ratios = [
        bootstrap.ratio(passed[:, None].astype(float), np.ones((len(passed_by_first), 1)), weights)
        for passed in (passed_by_first, passed_by_second)
    ]
    return claims.difference(*ratios)


def test_agreement_in_few_trials_shows_little() -> None:
    """No event of 40 differs: up to 7.2 % may, by Clopper and Pearson; of 10,000 up to 0.03 %. Ten are too few for a verdict."""
    all_of = np.ones(40, bool)
    assert claims.claim_at_least("s", "b", shares(all_of[:10], all_of[:10]), -0.5).verdict == "not tested"
    few, many = shares(all_of, all_of), shares(np.ones(10_000, bool), np.ones(10_000, bool))
    assert few.limits()[0][0] == pytest.approx(-100 * (1 - 0.05 ** (1 / 40)), rel=1e-12)
    assert claims.claim_at_least("s", "b", few, -0.5).verdict == "undecided"
    assert claims.claim_at_least("s", "b", many, -0.5).verdict == "holds"
    assert claims.claim_at_least("s", "b", few, -0.5).found.startswith("+0.00 % (-7.22 to +7.22 %)")
    assert claims.claim_clearly_above("s", "b", many, 0).verdict != "holds"


def test_what_is_not_known_is_not_tested() -> None:
    unknown = ComparedFigure(np.array([np.nan]), np.full((R, 1), np.nan))
    seldom = normal(1.0, 0.001)
    seldom.replicas_RB[:20] = np.inf  # a tenth of the replicas has no figure
    for figure in (unknown, seldom, joined(normal(1.0, 0.01), seldom)):
        assert at_most(1.05, figure) == below(1.05, figure) == "not tested"
    claim = claims.claim_at_most("s", "b", joined(normal(1.0, 0.01), seldom), 1.05, ("low", "high"))
    assert claim.verdict == "not tested"
    assert claim.found == "too few values, or a figure that is not positive, in high"


def test_a_claim_names_the_bins_that_do_not_keep_to_it() -> None:
    places = ("1–2 GeV", "2–3 GeV", "3–5 GeV")
    figure = joined(normal(1.0, 0.01), normal(1.2, 0.01), normal(1.04, 0.022))
    claim = claims.claim_at_most("s", "width", figure, 1.05, places, "ratio, ")
    assert claim.verdict == "fails"
    assert claim.found == (
        "ratio, 2 of 3 bins shown, the worst first: 2–3 GeV: 1.200 (1.184 to 1.216); 3–5 GeV: 1.040 (1.004 to 1.076) "
        "(limits at 95% confidence, paired bootstrap)"
    )
    assert claim.brief == "width: 2–3 GeV: 1.200 (1.184 to 1.216)"


@pytest.mark.parametrize("n_bins", [1, 8])
@pytest.mark.parametrize(("truth", "never"), [(1.05, "fails"), (1.0501, "holds")])
def test_wrong_verdicts_are_rare(n_bins: int, truth: float, never: str) -> None:
    """Means of toy events whose true value lies at the limit: neither wrong verdict comes in more than about 5 % of samples."""
    rng = np.random.default_rng(n_bins)
    wrong, samples, n = 0, 300, 150
    for seed in range(samples):
        events_EB = rng.normal(truth, 0.5, (n, n_bins))
        weights_RE = np.random.default_rng(seed).poisson(1.0, (R, n))
        replicas_RB = weights_RE @ events_EB / weights_RE.sum(axis=1, keepdims=True)
        wrong += at_most(1.05, ComparedFigure(events_EB.mean(axis=0), replicas_RB)) == never
    # Binomial: 5 % of 300 are 15 ± 3.8; the bootstrap's own errors add to it
    assert wrong <= 15 + 3 * 3.8
    if n_bins == 1:
        assert wrong >= 15 - 3 * 3.8, "a rule that never decides would pass, too"


def test_a_decision_comes_with_enough_events() -> None:
    rng = np.random.default_rng(4)
    verdicts = []
    for n in (100, 20_000):
        events = rng.normal(1.03, 0.5, (n, 1))
        weights = np.random.default_rng(n).multinomial(n, np.full(n, 1 / n), R)
        verdicts.append(at_most(1.05, ComparedFigure(events.mean(axis=0), weights @ events / n)))
    assert verdicts == ["undecided", "holds"]


def test_warnings_name_bins_and_bias() -> None:
    places = ("low", "high")
    figure = joined(normal(1.02, 0.005), normal(1.0, 0.005))
    assert claims.worse("its twin", "width", figure, places) == (
        "The integer network is worse than its twin in width, ratio at low: 1.020 (1.012 to 1.028).",
    )
    assert claims.worse("its twin", "width", figure, places, margin=0.03) == ()
    assert claims.biased("The response", figure, places) == ("The response differs from 1 at low: 1.020 (1.012 to 1.028).",)
    assert claims.biased("The response", joined(normal(1.001, 0.005), normal(1.0, 0.005)), places) == ()
    low = claims.biased("The response", normal(0.91, 0.005), ("",))
    assert low == ("The response differs from 1: 0.910 (0.902 to 0.918).",)


def test_several_parts_of_a_claim_must_all_hold() -> None:
    places = ("low", "high")
    good = joined(normal(0.8, 0.01), normal(0.9, 0.01))
    assert claims.claim_below_everywhere("s", "b", good, 1, places).verdict == "holds"
    assert (
        claims.claim_below_everywhere("s", "b", joined(normal(0.8, 0.01), normal(0.99, 0.01)), 1, places).verdict == "undecided"
    )
    assert claims.claim_below_everywhere("s", "b", joined(normal(0.8, 0.01), normal(1.1, 0.01)), 1, places).verdict == "fails"
