"""Distances on numbers whose answer is known, and against the published implementation."""

import numpy as np
import pytest
from optional_packages import need

from caloedge.fidelity import distances
from caloedge.metrics.bootstrap import bootstrap_weights

# Given by `fpd` and `kpd` of jetnet's gen_metrics.py (commit 018bf952cd75ccb55b7163874f14e9b2d2fd5f3e, without its compiler)
# with numpy 2.4.6 and scipy 1.17.1 on the samples of `published_samples`: kpd(real, gen, 4, 300), fpd(real, gen, 200, 500, 3, 5),
# each with its error, then the unbiased MMD² and the Fréchet distance of all rows.
PUBLISHED = {
    0: (0.0013516818944512288, 0.0007666010150451956, 0.006918746829035241, 0.004666774630640603, 0.000340535664038466,
        0.004040812873323141),
    1: (0.003871436845466647, 0.0029907071139902387, 0.008882554918142816, 0.0022141422569654954, 0.0025606525238126565,
        0.007337213958273248),
}  # fmt: skip


def published_samples(which: int) -> tuple[np.ndarray, np.ndarray]:
    """Return 600 and 500 rows of five columns, of which one is zero throughout; the second pair is shifted and wider."""
    generator = np.random.default_rng(2211)
    width, middle = np.array([1, 2, 3, 4, 0]), np.array([0, 1, 0, -2, 0])
    real = generator.standard_normal((600, 5)) * width + middle
    others = [
        generator.standard_normal((500, 5)) * width * scale + middle + shift * (width > 0)
        for shift, scale in ((0, 1), (0.3, 1.1))
    ]
    return real, others[which]


@pytest.mark.parametrize("which", [0, 1])
def test_kpd_and_fpd_are_those_of_the_published_implementation(which: int) -> None:
    real, other = published_samples(which)
    kpd, kpd_error, fpd, fpd_error, mmd2, frechet = PUBLISHED[which]
    found = distances.published_kpd(real, other, batches=4, batch_size=300)
    np.testing.assert_allclose([found.value, found.uncertainty], [kpd, kpd_error], rtol=1e-9)  # sums in another order
    assert distances.kpd(real, other).value == pytest.approx(mmd2, rel=1e-9)
    assert distances.frechet(*distances.scaled(real, other)) == pytest.approx(frechet, rel=1e-9)
    line = distances.published_fpd(real, other, fewest=200, most=500, batches=3, sizes=5)
    # The published line is fitted by steps, to a tolerance of about 1e-4.
    np.testing.assert_allclose([line.value, line.uncertainty], [fpd, fpd_error], rtol=3e-4)


def test_another_kernel_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distances, "DEGREE", 3)
    real, other = published_samples(1)
    assert distances.kpd(real, other).value != pytest.approx(PUBLISHED[1][4], rel=1e-3)


def test_blocks_do_not_change_mmd(monkeypatch: pytest.MonkeyPatch) -> None:
    real, other = published_samples(1)
    whole = distances.mmd2(real, other)
    monkeypatch.setattr(distances, "ROWS_PER_BLOCK", 77)
    parts = distances.mmd2(real, other)
    np.testing.assert_allclose([parts.value, parts.uncertainty], [whole.value, whole.uncertainty], rtol=1e-9)


def test_mmd_is_unbiased_and_its_error_true() -> None:
    """Of 60 pairs of samples of one distribution: the mean is 0 within its error; the jackknife is right to √2 upwards."""
    generator = np.random.default_rng(3)
    found = [distances.mmd2(generator.random((50, 3)), generator.random((80, 3))) for _ in range(60)]
    values, errors = np.array([f.value for f in found]), np.array([f.uncertainty for f in found])
    assert abs(values.mean()) < 3 * values.std() / np.sqrt(len(values))
    assert 0.7 < np.sqrt((errors**2).mean()) / values.std() < 2.2


def test_mmd_sees_a_shift() -> None:
    generator = np.random.default_rng(4)
    found = distances.mmd2(generator.random((200, 3)), generator.random((200, 3)) + 0.2)
    assert found.value > 5 * found.uncertainty


def test_frechet_of_gaussians() -> None:
    generator = np.random.default_rng(5)
    x = generator.standard_normal((40_000, 2))
    assert distances.frechet(x, x) == pytest.approx(0, abs=1e-9)
    y = x * [2, 3] + [1, 0]  # (2 − 1)² + (3 − 1)² + 1² but for the sample's own moments
    assert distances.frechet(x, y) == pytest.approx(6, rel=0.03)


def test_fpd_is_biased_so_its_size_matters() -> None:
    generator = np.random.default_rng(6)
    few, many = (distances.fpd(*generator.standard_normal((2, n, 20))) for n in (60, 600))
    assert few.value > 4 * many.value > 0
    with pytest.raises(AssertionError):
        distances.fpd(np.ones((3, 2)), np.ones((4, 2)))


def test_a_line_keeps_to_its_bounds() -> None:
    x = np.array([1.0, 2.0, 3.0, 4.0])
    assert distances._line_at_zero(x, 2 + 3 * x).value == pytest.approx(2)
    assert distances._line_at_zero(x, 3 * x - 2).value == 0  # no negative intercept
    assert distances._line_at_zero(x, 9 - x).value == pytest.approx(6.5)  # no negative slope: the mean


def test_wasserstein_is_that_of_scipy() -> None:
    need("sklearn")  # which brings scipy
    from scipy.stats import wasserstein_distance

    generator = np.random.default_rng(7)
    x, y = generator.random(40), generator.random(70) ** 2
    weights = [np.concatenate([np.ones((1, len(v))), bootstrap_weights(len(v), 8)[:3]]) for v in (x, y)]
    found = distances.wasserstein(x, y, *weights)
    for replica in range(4):
        expected = wasserstein_distance(x, y, weights[0][replica], weights[1][replica])
        assert found[replica] == pytest.approx(expected, rel=1e-6)  # weights are float32


def test_histograms_count_as_numpy_does() -> None:
    values, edges = np.array([-1.0, 0.0, 0.5, 0.5, 1.0, 2.0, 2.1]), np.array([0.0, 0.5, 1.0, 2.0])
    assert distances.one_in_bin(values, edges).sum(axis=0).tolist() == np.histogram(values, edges)[0].tolist()


def test_correlations_beyond_the_incident_energy() -> None:
    generator = np.random.default_rng(8)
    energy = np.exp(generator.uniform(0, 4, 4000))
    a, b, c = generator.standard_normal((3, 4000))
    columns = np.stack([np.log(energy) * 5 + a, np.log(energy) * 3 + 0.6 * a + 0.8 * b, c, np.full(4000, 7.0)], axis=1)
    found = distances.correlations(columns, energy)
    assert found[0, 1] == pytest.approx(0.6, abs=0.04)
    assert np.abs(found[2, :2]).max() < 0.06
    assert found[3].tolist() == [0, 0, 0, 0]
    halves = [(columns[rows], energy[rows]) for rows in (slice(0, 2000), slice(2000, None))]
    itself = distances.correlation_difference(*halves)
    broken = halves[1][0].copy()
    broken[:, 1] = np.log(halves[1][1]) * 3 + generator.standard_normal(2000)
    damaged = distances.correlation_difference(halves[0], (broken, halves[1][1]))
    assert damaged.value > itself.value + 5 * damaged.uncertainty
