"""Figures of energy images on images made by hand, and against the training's own loss."""

import numpy as np
import pytest

from caloedge.errors import UserError
from caloedge.metrics import energy_images, resolution
from caloedge.metrics.bootstrap import bootstrap_weights
from caloedge.metrics.energy_images import TrueImages, measure, pixel_closure
from caloedge.metrics.ssim import blur, ssim

UNIT_GEV = 16.0


def random_truth(n_events: int, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return (rng.exponential(2, (n_events, 56, 56)) * (rng.random((n_events, 56, 56)) < 0.3)).astype(np.float32)


def events_of(truth: np.ndarray, unit: float | np.ndarray = UNIT_GEV) -> TrueImages:
    n = len(truth)
    return TrueImages(("one", "other"), np.arange(n) % 2, np.zeros(n), np.broadcast_to(unit, (n,)).astype(float), truth)


def noisy(truth: np.ndarray, size: float, seed: int = 2) -> np.ndarray:
    return truth + size * np.random.default_rng(seed).standard_normal(truth.shape)


def test_a_perfect_reconstruction() -> None:
    truth = random_truth(6)
    errors = measure(events_of(truth), truth / UNIT_GEV)
    assert errors.wmse_E.tolist() == errors.relative_E.tolist() == [0] * 6
    np.testing.assert_allclose(errors.ssim_E, 1, rtol=0, atol=1e-12)  # sums in another order
    np.testing.assert_allclose(errors.closure_E, 1, rtol=1e-12)


def test_figures_of_two_pixels_by_hand() -> None:
    truth, output = np.zeros((1, 56, 56)), np.zeros((1, 1, 56, 56))
    truth[0, 3, 4], truth[0, 50, 9] = 2, 4
    output[0, 0, 3, 4], output[0, 0, 50, 9], output[0, 0, 0, 0] = 3 / 32, 3 / 32, 1 / 32
    errors = measure(events_of(truth, 32.0), output)
    assert errors.wmse_E[0] == pytest.approx((2 * 1 + 4 * 1) / 6)  # the pixel without true energy has no weight
    assert errors.relative_E[0] == pytest.approx(np.sqrt(6 / (8 + 64)))
    assert errors.closure_E[0] == pytest.approx(7 / 6)


@pytest.mark.parametrize("scale", [0.5, 8.0])
def test_only_the_relative_error_does_not_depend_on_the_scale_of_energies(scale: float) -> None:
    truth = random_truth(4).astype(float)
    output = noisy(truth, 0.3) / UNIT_GEV
    errors, scaled = measure(events_of(truth), output), measure(events_of(scale * truth, scale * UNIT_GEV), output)
    np.testing.assert_allclose(scaled.relative_E, errors.relative_E, rtol=1e-12)
    np.testing.assert_allclose(scaled.wmse_E, scale**2 * errors.wmse_E, rtol=1e-12)
    np.testing.assert_allclose(scaled.ssim_E, errors.ssim_E, rtol=1e-12)  # in the networks' units nothing has changed
    np.testing.assert_allclose(scaled.closure_E, errors.closure_E, rtol=1e-12)


def test_the_relative_error_is_that_of_every_pixel_and_one_for_nothing() -> None:
    truth = random_truth(3).astype(float)
    np.testing.assert_allclose(measure(events_of(truth), 1.07 * truth / UNIT_GEV).relative_E, 0.07, rtol=1e-9)
    np.testing.assert_allclose(measure(events_of(truth), 0 * truth).relative_E, 1, rtol=1e-12)


def test_figures_are_those_of_the_training() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("lightning")
    from torchmetrics.functional.image import structural_similarity_index_measure

    from caloedge.losses.image import SSIM_WEIGHT, image_loss, weighted_mean_square

    truth = random_truth(12)
    output = noisy(truth, 0.5) / UNIT_GEV
    errors = measure(events_of(truth), output)
    output_tensor, truth_tensor = (
        torch.from_numpy(np.asarray(image, np.float64))[:, None] for image in (output, truth / UNIT_GEV)
    )
    each = structural_similarity_index_measure(
        output_tensor, truth_tensor, kernel_size=11, sigma=1.5, data_range=1.0, reduction="none"
    )
    assert errors.ssim_E.std() > 1e-4  # else the comparison says little
    np.testing.assert_allclose(errors.ssim_E, each.numpy(), rtol=0, atol=1e-6)
    assert errors.wmse_E.mean() == pytest.approx(UNIT_GEV**2 * weighted_mean_square(output_tensor, truth_tensor).item(), rel=1e-6)
    loss = errors.wmse_E.mean() / UNIT_GEV**2 + SSIM_WEIGHT * (1 - errors.ssim_E.mean())
    assert loss == pytest.approx(image_loss(output_tensor, truth_tensor).item(), rel=1e-6)


def test_ssim_sees_structure_and_the_edges() -> None:
    def similar(image: np.ndarray, other_image: np.ndarray) -> float:
        return float(ssim(image, other_image, *(blur(side) for side in image.shape[1:]))[0])

    image = random_truth(1).astype(float) / UNIT_GEV
    assert similar(image, image) == pytest.approx(1, abs=1e-12)
    assert similar(image, image[:, ::-1]) < 0.5
    other = image.copy()
    other[0, 0, 0] += 1
    middle = image.copy()
    middle[0, 28, 28] += 1
    assert similar(image, other) < 1
    assert similar(image, other) != pytest.approx(similar(image, middle), abs=1e-6)  # mirrored, not wrapped
    assert similar(image, other) == pytest.approx(similar(other, image), rel=1e-12)


def test_results_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    truth = random_truth(7)
    output = noisy(truth, 0.2) / UNIT_GEV
    whole = measure(events_of(truth), output)
    monkeypatch.setattr(energy_images, "EVENTS_PER_BLOCK", 3)
    parts = measure(events_of(truth), output[:, None])
    for name in ("wmse_E", "relative_E", "ssim_E", "closure_E", "moments_EBM"):
        np.testing.assert_array_equal(getattr(parts, name), getattr(whole, name))


def test_closure_of_pixels_by_hand() -> None:
    truth = np.zeros((40, 56, 56))
    truth[:, :, ::2] = 1.5
    truth[:, :, 1::4] = 6.0
    output = 1.1 * truth
    output[:, ::2, ::2] += 0.3  # half of the pixels of 1.5 GeV: 1.95 and 1.65
    output[:, :, 3::4] = 0.02
    events = events_of(truth)
    errors, weights = measure(events, output / UNIT_GEV), bootstrap_weights(40, 1)
    chosen = events.of("one")
    for relative, middle, width in ((True, 1.2, 0.1), (False, 0.3, 0.15)):
        closure = pixel_closure(errors, chosen, weights, relative=relative)
        b = int(np.digitize(1.5, energy_images.PIXEL_BINS_GEV))
        assert closure.mean.count_B[b] == 20 * 56 * 28
        assert closure.mean.value_B[b] == pytest.approx(middle)
        assert closure.spread.value_B[b] == pytest.approx(width)
    assert pixel_closure(errors, chosen, weights, relative=False).mean.value_B[0] == pytest.approx(0.02)
    assert np.isnan(closure.mean.value_B[-1])  # no pixel is that hot
    assert closure.mean.count_B.sum() == 20 * 56 * 56


def test_bootstrap_errors_are_those_of_means() -> None:
    values = np.random.default_rng(3).normal(5, 2, 1600)
    values[::200] = np.nan
    estimate = energy_images.mean(values, np.where(np.arange(1600) < 1200, 0, 1), 2, bootstrap_weights(1600, 1))
    assert estimate.count_B.tolist() == [1194, 398]
    np.testing.assert_allclose(estimate.value_B, [np.nanmean(values[:1200]), np.nanmean(values[1200:])])
    # 200 replicas know an error to 6 % or so.
    np.testing.assert_allclose(estimate.uncertainty_B, [2 / np.sqrt(1194), 2 / np.sqrt(398)], rtol=0.25)


def test_differences_are_paired() -> None:
    truth = random_truth(200)
    output = noisy(truth, 0.5) / UNIT_GEV
    events, weights = events_of(truth), bootstrap_weights(200, 1)
    better, worse = measure(events, output), measure(events, output + 0.1 * (output - truth / UNIT_GEV))
    one, other = (energy_images.mean(errors.wmse_E, np.zeros(200), 1, weights) for errors in (better, worse))
    ratio, error = resolution.ratio(other, one)
    assert ratio[0] == pytest.approx(1.21, rel=1e-9)
    assert error[0] < 1e-9 < one.uncertainty_B[0]


def test_what_is_no_image_is_refused() -> None:
    events = events_of(random_truth(3))
    with pytest.raises(UserError, match=r"^outputs of shape \(3, 2, 56, 56\); give \(3, 1, 56, 56\)$"):
        measure(events, np.zeros((3, 2, 56, 56)))
    bad = np.zeros((3, 1, 56, 56))
    bad[2, 0, 5, 5] = np.nan
    with pytest.raises(UserError, match=r"^output of event 2 is not finite; energies must be$"):
        measure(events, bad)
    assert measure(events_of(random_truth(0)), np.zeros((0, 56, 56))).wmse_E.shape == (0,)
