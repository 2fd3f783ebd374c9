"""Errors and thresholds against formulas and brute force."""

import numpy as np
import pytest

from caloedge.metrics import bootstrap


def test_the_bootstrap_error_is_the_binomial_one_for_independent_events() -> None:
    rng = np.random.default_rng(1)
    for p in (0.1, 0.5, 0.95):
        passed = (rng.random((4000, 1)) < p).astype(float)
        ratio = bootstrap.ratio(passed, np.ones((4000, 1)), bootstrap.bootstrap_weights(4000, seed=2))
        value = passed.mean()
        assert ratio.value[0] == value
        assert ratio.total[0] == 4000
        # 200 replicas know a 68 % half width to about 7 %: three times that.
        assert ratio.uncertainty[0] == pytest.approx(np.sqrt(value * (1 - value) / 4000), rel=0.21)


def test_the_interval_is_the_central_68_percent_of_the_replicas() -> None:
    """Replicas 0.00, 0.01, … 1.00: any other pair of quantiles changes every error bar of every table."""
    share = np.arange(101) / 100
    ratio = bootstrap.ratio(np.array([[1.0], [0.0]]), np.ones((2, 1)), np.stack([share, 1 - share], axis=1))
    assert ratio.value[0] == 0.5
    np.testing.assert_allclose(ratio.replicas[:, 0], share, rtol=1e-6)  # weights are float32
    np.testing.assert_allclose([ratio.low[0], ratio.high[0], ratio.uncertainty[0]], 0.34, rtol=1e-6)


def test_a_replica_without_trials_counts_as_the_value() -> None:
    """Counted as 0 it would draw the lower end of a thin bin to nothing."""
    weights = np.ones((100, 2), np.float32)
    weights[:30] = 0  # neither event is drawn
    ratio = bootstrap.ratio(np.array([[1.0], [0.0]]), np.ones((2, 1)), weights)
    np.testing.assert_array_equal(ratio.replicas, 0.5)
    assert (ratio.low[0], ratio.high[0]) == (0, 0)


def test_an_event_weighs_the_product_of_its_units() -> None:
    units = np.array([[3, -1], [5, -1], [3, 5], [3, 3], [-1, -1], [-1, 5]])
    weights = bootstrap.shared_bootstrap_weights(units, seed=4)
    first, second = weights[:, 0], weights[:, 1]
    assert weights.shape == (bootstrap.REPLICAS, 6)
    assert {0, 1, 2} <= set(first.tolist()) <= set(range(9))  # Poisson(1): whole numbers, seldom more than six
    assert abs(first.mean() - 1) < 5 / np.sqrt(bootstrap.REPLICAS)  # 5σ of a mean of Poisson(1)
    np.testing.assert_array_equal(weights[:, 2], first * second)
    np.testing.assert_array_equal(weights[:, 3], first * first)
    np.testing.assert_array_equal(weights[:, 4], 1)
    np.testing.assert_array_equal(weights[:, 5], second)


def test_windows_of_one_event_are_not_independent() -> None:
    """Ten copies in each event: the error is that of the events, √10 times the binomial one of the windows."""
    rng = np.random.default_rng(3)
    passed = 10.0 * (rng.random((1000, 1)) < 0.5)
    ratio = bootstrap.ratio(passed, np.full((1000, 1), 10.0), bootstrap.bootstrap_weights(1000, seed=4))
    assert ratio.uncertainty[0] == pytest.approx(np.sqrt(0.25 / 1000), rel=0.21)  # as above


def test_events_that_share_showers_are_not_independent() -> None:
    """Ten events of each shower: the error is that of the showers; without sharing it is that of the events."""
    rng = np.random.default_rng(11)
    passed = (rng.random(400) < 0.5).astype(float).repeat(10)[:, None]
    shower = np.arange(400).repeat(10)
    weights = bootstrap.shared_bootstrap_weights(np.stack([shower, np.full(4000, -1)], axis=1), seed=1)
    assert bootstrap.ratio(passed, np.ones((4000, 1)), weights).uncertainty[0] == pytest.approx(0.5 / 20, rel=0.21)  # as above
    own = bootstrap.shared_bootstrap_weights(np.arange(4000)[:, None], seed=1)
    assert bootstrap.ratio(passed, np.ones((4000, 1)), own).uncertainty[0] == pytest.approx(0.5 / np.sqrt(4000), rel=0.21)


def test_certain_bins_get_the_wilson_interval_and_empty_ones_none() -> None:
    passed = np.array([[1.0, 0.0, 0.0]] * 50)
    total = np.array([[1.0, 1.0, 0.0]] * 50)
    ratio = bootstrap.ratio(passed, total, bootstrap.bootstrap_weights(50, seed=5))
    # Wilson with z = 1 at p = 0 and 1: the interval is 1 / (n + 1) wide.
    np.testing.assert_allclose([ratio.low[0], ratio.high[0]], [1 / 51, 0], atol=1e-12)  # rounding of doubles
    np.testing.assert_allclose([ratio.low[1], ratio.high[1]], [0, 1 / 51], atol=1e-12)
    assert np.isnan(ratio.value[2])
    assert ratio.total[2] == 0


def test_paired_differences_are_more_precise_than_unpaired_ones() -> None:
    rng = np.random.default_rng(6)
    hard = rng.random((2000, 1))
    one, other = (hard < 0.90).astype(float), (hard < 0.91).astype(float)
    weights = bootstrap.bootstrap_weights(2000, seed=7)
    a, b = (bootstrap.ratio(passed, np.ones((2000, 1)), weights) for passed in (one, other))
    assert np.std(a.replicas - b.replicas) < 0.5 * np.hypot(a.uncertainty[0], b.uncertainty[0])


def test_the_same_seed_gives_the_same_weights() -> None:
    first, second, other = (bootstrap.bootstrap_weights(100, seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first, second)
    assert not np.array_equal(first, other)
    assert first.shape == (bootstrap.REPLICAS, 100)


@pytest.mark.parametrize("levels", [5, 50, 100_000])
@pytest.mark.parametrize("rate", [0.0, 0.03, 0.5, 1.0, 2.0])
def test_the_threshold_is_the_lowest_that_keeps_the_rate(levels: int, rate: float) -> None:
    """Against brute force over all scores, with few levels so that most scores are ties."""
    scores = np.random.default_rng(levels).integers(0, levels, 300).astype(float)
    threshold = bootstrap.threshold_at_rate(scores, 200, rate)
    assert (scores >= threshold).sum() <= rate * 200 or rate * 200 >= len(scores)
    possible = [t for t in np.unique(scores) if (scores >= t).sum() <= rate * 200]
    if possible:
        assert threshold == min(possible)
    else:
        assert threshold > scores.max()


def test_a_rate_that_float64_cannot_hold_allows_what_it_says() -> None:
    """0.29 * 100 is 28.999999999999996: rounded down without a guard, one window less would be allowed."""
    scores = np.arange(200.0)
    assert 0.29 * 100 < 29
    assert (scores >= bootstrap.threshold_at_rate(scores, 100, 0.29)).sum() == 29
    assert (scores >= bootstrap.threshold_at_rate(scores, 100, 0.2899)).sum() == 28
    assert (scores >= bootstrap.threshold_at_rate(scores, 100, 0.2901)).sum() == 29


def test_above_the_best_score_means_just_above() -> None:
    threshold = bootstrap.threshold_at_rate(np.array([2.0, 2.0, 1.0]), 1, 0.5)
    assert 2.0 < threshold < 2.0 + 1e-12


def test_an_efficiency_that_float64_cannot_hold_keeps_what_it_says() -> None:
    """0.07 * 100 is 7.000000000000001: rounded up without a guard, one more would have to pass."""
    scores = np.arange(100.0)
    assert 0.07 * 100 > 7
    assert (scores >= bootstrap.threshold_at_efficiency(scores, 0.07)).sum() == 7
    assert (scores >= bootstrap.threshold_at_efficiency(scores, 0.0701)).sum() == 8
    assert bootstrap.threshold_at_efficiency(scores, 0.0) == 99
    assert bootstrap.threshold_at_efficiency(np.array([]), 0.5) == -np.inf


def test_without_false_windows_everything_passes() -> None:
    assert bootstrap.threshold_at_rate(np.array([]), 10, 0.1) == -np.inf


@pytest.mark.parametrize("levels", [3, 1000])
def test_auc_counts_pairs(levels: int) -> None:
    rng = np.random.default_rng(8)
    labels = rng.random(200) < 0.3
    scores = rng.integers(0, levels, 200) + levels / 4 * labels
    pairs = [(true > false) + (true == false) / 2 for true in scores[labels] for false in scores[~labels]]
    # 1e-12: the same rational number summed in another order
    assert bootstrap.auc(scores, labels.astype(float)) == pytest.approx(np.mean(pairs), rel=1e-12)
    assert bootstrap.auc(-scores, labels.astype(float)) == pytest.approx(1 - np.mean(pairs), rel=1e-12)


def test_ties_of_true_and_false_count_half() -> None:
    """Integer scores of both kinds: most pairs are ties."""
    rng = np.random.default_rng(12)
    labels, scores = (rng.random(150) < 0.4).astype(float), rng.integers(0, 4, 150).astype(float)
    true, false = scores[labels == 1], scores[labels == 0]
    pairs = [(a > b) + (a == b) / 2 for a in true for b in false]
    assert np.mean([a == b for a in true for b in false]) > 0.2
    assert bootstrap.auc(scores, labels) == pytest.approx(np.mean(pairs), rel=1e-12)  # another order of summation
    assert np.isnan(bootstrap.auc(scores, np.ones(150)))


def test_a_replica_of_an_auc_weighs_every_pair() -> None:
    """Against brute force over pairs, with ties; two replicas a and b have the standard deviation |a - b| / 2."""
    rng = np.random.default_rng(13)
    event, labels = np.arange(80) // 2, (rng.random(80) < 0.5).astype(float)
    scores, weights = rng.integers(0, 5, 80).astype(float), rng.integers(0, 4, (2, 40)).astype(float)

    def weighted(replica: int) -> float:
        weight = weights[replica][event]
        pair = np.subtract.outer(scores, scores)
        both = np.outer(weight * labels, weight * (1 - labels))
        return float((both * ((pair > 0) + (pair == 0) / 2)).sum() / both.sum())

    uncertainty = bootstrap.auc_uncertainty(scores, labels, event, weights)
    assert uncertainty == pytest.approx(abs(weighted(0) - weighted(1)) / 2, rel=1e-9)  # another order of summation
    assert bootstrap.auc_uncertainty(scores, labels, event, weights[:1]) == 0
    assert np.isnan(bootstrap.auc_uncertainty(scores, np.ones(80), event, weights))


def test_the_error_of_an_auc_is_that_of_independent_samples() -> None:
    rng = np.random.default_rng(9)

    def draw() -> tuple[np.ndarray, np.ndarray]:
        labels = (rng.random(400) < 0.5).astype(float)
        return rng.standard_normal(400) + labels, labels

    truth = np.std([bootstrap.auc(*draw()) for _ in range(300)])
    scores, labels = draw()
    uncertainty = bootstrap.auc_uncertainty(scores, labels, np.arange(400), bootstrap.bootstrap_weights(400, seed=1))
    assert uncertainty == pytest.approx(truth, rel=0.35)  # 50 replicas know a standard deviation to 10 %, one sample adds its own
