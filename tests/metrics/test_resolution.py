"""Widths, medians and fits against what they were generated from."""

import numpy as np
import pytest

from caloedge.metrics import bootstrap, resolution
from caloedge.metrics.resolution import Estimate


def weights(n: int, seed: int = 1) -> np.ndarray:
    return bootstrap.bootstrap_weights(n, seed)


def one_bin(values: np.ndarray, statistic: resolution.Statistic, seed: int = 1) -> Estimate:
    return resolution.in_bins(values, np.zeros(len(values), int), 1, weights(len(values), seed), statistic)


def test_the_width_of_a_gaussian_is_its_sigma_relative_to_the_median() -> None:
    values = 0.9 * (1 + 0.1 * np.random.default_rng(1).standard_normal(20_000))
    width, scale = one_bin(values, resolution.relative_width), one_bin(values, resolution.median)
    assert abs(width.value_B[0] - 0.1) < 4 * width.uncertainty_B[0] + 0.0005  # the smallest of many intervals is slightly small
    assert abs(scale.value_B[0] - 0.9) < 4 * scale.uncertainty_B[0]
    assert scale.uncertainty_B[0] == pytest.approx(0.09 * np.sqrt(np.pi / 2 / 20_000), rel=0.25)  # of the median of a Gaussian


def test_far_tails_do_not_change_the_width_much() -> None:
    rng = np.random.default_rng(2)
    values = 1 + 0.1 * rng.standard_normal(20_000)
    values[:600] = 5
    assert one_bin(values, resolution.half_width).value_B[0] == pytest.approx(0.1, rel=0.06)
    assert values.std() > 0.5


def test_the_width_is_that_of_the_smallest_interval() -> None:
    assert resolution.half_width(np.arange(10.0) ** 2) == 18  # seven of ten: 0 … 36
    values = np.sort(np.random.default_rng(3).standard_normal(1000))
    inside = int(np.ceil(resolution.CONTENT * 1000))
    by_hand = min(values[i + inside - 1] - values[i] for i in range(1000 - inside + 1)) / 2
    assert resolution.half_width(values) == by_hand


def test_a_weight_counts_a_value_as_often() -> None:
    rng = np.random.default_rng(4)
    values, event_weights = rng.standard_normal(500), rng.poisson(1, (3, 500)).astype(np.float32)
    for statistic in (resolution.half_width, resolution.median):
        replicas = resolution.in_bins(values, np.zeros(500, int), 1, event_weights, statistic).replicas_RB
        plain = [statistic(np.sort(np.repeat(values, w.astype(int)))) for w in event_weights]
        np.testing.assert_array_equal(replicas[:, 0], plain)


@pytest.mark.parametrize("shared", [1, 8])
def test_errors_are_the_scatter_of_repeated_samples(shared: int) -> None:
    """`shared` values come of one shower each, which carries half of the variance."""
    n, values, errors, ratios, ratio_errors = 800, [], [], [], []
    rng = np.random.default_rng(5)
    for repeat in range(60):
        shower = np.repeat(np.arange(n // shared), shared)
        common, own, other = rng.standard_normal(n)[shower], rng.standard_normal(n), rng.standard_normal(n)
        event_weights = bootstrap.shared_bootstrap_weights(shower[:, None], repeat)
        one, two = (
            resolution.in_bins(1 + 0.1 * np.sqrt(0.5) * (common + z), np.zeros(n, int), 1, event_weights, resolution.half_width)
            for z in (own, 0.8 * own + 0.6 * other)
        )
        values.append(one.value_B[0])
        errors.append(one.uncertainty_B[0])
        value, error = resolution.ratio(two, one)
        ratios.append(value[0])
        ratio_errors.append(error[0])
    # The scatter of 60 samples is known to 9 %, and the smallest interval's bootstrap is not exact.
    assert np.mean(errors) == pytest.approx(np.std(values), rel=0.35)
    assert np.mean(ratio_errors) == pytest.approx(np.std(ratios), rel=0.35)
    unpaired = np.sqrt(2) * np.mean(errors) / np.mean(values)
    assert np.mean(ratio_errors) < 0.85 * unpaired


def test_bins_are_kept_apart_and_trailing_axes_share_them() -> None:
    rng = np.random.default_rng(6)
    bins = np.repeat([0, 1, -1, 2], 400)
    values = rng.standard_normal((1600, 2, 2)) * np.array([1.0, 3.0, 100.0, 9.0]).repeat(400)[:, None, None]
    values[:100] = np.nan
    both = resolution.in_bins(values, bins, 3, weights(1600), resolution.half_width)
    np.testing.assert_array_equal(both.count_B, [1200, 1600, 1600])
    np.testing.assert_allclose(both.value_B, [1, 3, 9], rtol=0.12)  # 1,200 values each know σ to 2 % and more
    per_photon = resolution.in_bins(values, np.stack([bins, np.full(1600, -1)], axis=1), 3, weights(1600), resolution.half_width)
    np.testing.assert_array_equal(per_photon.count_B, [600, 800, 800])


def test_a_bin_with_too_few_values_has_no_estimate() -> None:
    few = one_bin(np.arange(bootstrap.FEWEST - 1.0), resolution.median)
    enough = one_bin(np.arange(bootstrap.FEWEST + 0.0), resolution.median)
    assert np.isnan(few.value_B[0])
    assert np.isnan(few.uncertainty_B[0])
    assert np.isfinite(enough.value_B[0])
    assert np.isfinite(enough.uncertainty_B[0])
    assert resolution.points("m", np.array([0.0, 1.0]), few).x == ()


def test_edges_belong_to_the_bins_they_open_and_the_last_one_to_the_last() -> None:
    bins = resolution.bin_of(np.array([0.5, 1, 1.5, 2, 3, 3.5, np.nan]), np.array([1.0, 2, 3]))
    np.testing.assert_array_equal(bins, [-1, 0, 0, 1, 1, 2, 2])


def generated(terms: tuple[float, float, float], n_per_bin: int, seed: int) -> tuple[Estimate, np.ndarray]:
    rng = np.random.default_rng(seed)
    edges = np.geomspace(1, 100, 11)
    energy = np.exp(rng.uniform(0, np.log(100), 10 * n_per_bin))
    bins = resolution.bin_of(energy, edges)
    a, b, c = terms
    response = 1 + np.sqrt(a**2 / energy + b**2 / energy**2 + c**2) * rng.standard_normal(len(energy))
    width = resolution.in_bins(response, bins, 10, weights(len(energy), seed), resolution.relative_width)
    return width, resolution.inverse_powers(energy, bins, 10)


@pytest.mark.parametrize("terms", [(0.10, 0.05, 0.02), (0.03, 0.15, 0.006), (0.05, 0.0, 0.01)])
def test_the_fit_finds_the_terms_that_widths_were_generated_with(terms: tuple[float, float, float]) -> None:
    fit = resolution.fit(*generated(terms, 2500, 7))
    assert fit.ndf == 7
    assert 0.5 < fit.chi2 < 20  # 99 % of the χ² distribution of 7 degrees of freedom lie below 18.5
    for term, error, expected in zip(fit.terms_T, fit.uncertainty_T, terms, strict=True):
        assert error < 0.5 * max(expected, 0.1)
        # The smallest interval is 1 % too small with so few values, which is common to all terms.
        assert abs(term - expected) < 3.5 * error + 0.01 * expected


def test_the_fit_of_exact_widths_is_exact() -> None:
    inverse = np.array([[1 / e, 1 / e**2, 1.0] for e in (1, 2, 5, 10, 30, 80)])
    value = np.sqrt(inverse @ np.array([0.1, 0.05, 0.02]) ** 2)
    exact = Estimate(value, 0.02 * value, np.full(6, 100), np.repeat(value[None], 5, axis=0))
    fit = resolution.fit(exact, inverse)
    np.testing.assert_allclose(fit.terms_T, [0.1, 0.05, 0.02], rtol=1e-9)
    assert fit.chi2 < 1e-15
    line = resolution.fit_line("m", fit, 1, 100)
    assert line.y[0] == pytest.approx(100 * np.sqrt(0.1**2 + 0.05**2 + 0.02**2))
    assert line.style == "line"


def test_terms_are_never_negative_and_no_better_ones_are_on_a_grid() -> None:
    rng = np.random.default_rng(8)
    design, target = rng.uniform(0, 1, (6, 3)), rng.normal(0, 1, (6, 40))
    solution = resolution.non_negative_least_squares(design, target)
    assert (solution >= 0).all()
    assert ((solution == 0).any(axis=0)).sum() > 10
    left = ((target - design @ solution) ** 2).sum(axis=0)
    grid = np.stack(np.meshgrid(*[np.linspace(0, 3, 31)] * 3), axis=-1).reshape(-1, 3)
    on_grid = ((target[None] - (grid @ design.T)[:, :, None]) ** 2).sum(axis=1).min(axis=0)
    assert (left <= on_grid + 1e-12).all()


def test_too_few_bins_give_no_fit() -> None:
    nothing = Estimate(np.array([0.1, np.nan, 0.1]), np.full(3, 0.01), np.full(3, 100), np.full((5, 3), 0.1))
    fit = resolution.fit(nothing, np.ones((3, 3)))
    assert np.isnan(fit.terms_T).all()
    assert np.isnan(fit.chi2)


def test_a_width_needs_a_positive_median():
    values = np.sort(np.random.default_rng(1).normal(-1, 0.4, 500))
    assert np.isnan(resolution.relative_width(values))
    assert resolution.relative_width(np.sort(-values)) > 0
