"""Matching of jets by hand, and response and resolution of scaled and smeared images."""

import importlib.util
import os

import numpy as np
import pytest

from caloedge.detector.images.response import ETA_H, PHI_W
from caloedge.metrics import jet_resolution
from caloedge.metrics.jet_resolution import central_width, match, pairs
from caloedge.reconstruction.jet_clustering import Jets, jets


def jets_of(*rows: tuple[int, float, float, float]) -> Jets:
    """Event, pT, η and φ of each."""
    event, pt, eta, phi = np.array(rows, float).reshape(-1, 4).T
    return Jets(event.astype(np.int64), pt, eta, phi)


def test_the_closest_are_matched_first_and_only_once() -> None:
    true = jets_of((0, 90, 0.0, 0.0), (0, 50, 0.25, 0.0), (1, 60, 1.0, 2.0))
    reconstructed = jets_of((0, 80, 0.2, 0.0), (1, 55, 1.0, -2.0), (2, 70, 0.0, 0.0))
    assert match(true, reconstructed).tolist() == [-1, 0, -1]  # the harder jet is farther; events and directions matter
    reconstructed = jets_of((0, 80, 0.2, 0.0), (0, 40, 0.05, 0.0))
    assert match(true, reconstructed).tolist() == [1, 0, -1]


@pytest.mark.parametrize(("apart", "partner"), [(0.29, 0), (0.31, -1)])
def test_the_distance_counts_over_the_edge_of_phi(apart: float, partner: int) -> None:
    true, reconstructed = jets_of((0, 50, 0, np.pi - 0.1)), jets_of((0, 50, 0, -np.pi - 0.1 + apart))
    assert match(true, reconstructed).tolist() == [partner]


def test_what_is_counted() -> None:
    true = jets_of((0, 100, 0, 0), (0, 40, 1, 1), (0, 20, 2, 2), (2, 60, 0, 0))
    reconstructed = jets_of((0, 90, 0, 0), (0, 31, 2, 2), (1, 35, 0, 0), (1, 15, 1, 1), (2, 30, 0, 0))
    matched = pairs(true, reconstructed, 4)
    np.testing.assert_array_equal(matched.true_pt_EJ, [[100, 40], [np.nan] * 2, [60, np.nan], [np.nan] * 2])
    np.testing.assert_array_equal(matched.ratio_EJ, [[0.9, np.nan], [np.nan] * 2, [0.5, np.nan], [np.nan] * 2])
    assert matched.extra_E.tolist() == [0, 1, 0, 0]  # that of 31 GeV is a true jet of 20
    nothing = pairs(jets_of(), jets_of(), 2)
    assert nothing.true_pt_EJ.shape == (2, 1)
    assert not np.isfinite(nothing.ratio_EJ).any()


def test_the_width_is_that_of_a_gaussian() -> None:
    values = np.sort(np.random.default_rng(1).normal(2, 0.2, 40_000))
    # The central 68 % lie within 0.9945 σ; 40,000 values know the width to 0.7 %.
    assert central_width(values) == pytest.approx(0.1 * 0.9945, rel=0.02)
    assert np.isnan(central_width(-values[::-1]))


def test_scaled_and_smeared_images() -> None:
    if importlib.util.find_spec("fastjet") is None or importlib.util.find_spec("awkward") is None:
        assert os.environ.get("CI") != "true", "fastjet missing in continuous integration"
        pytest.skip("fastjet not installed; pip install 'caloedge[jets]'")
    rng = np.random.default_rng(5)
    truth = np.zeros((120, 56, 56))
    for event in range(120):
        for row, column in ((20, 5), (30, 33)):
            truth[event, row, column] = 100 * np.cosh(ETA_H[row])
            truth[event, row + 1, column] = 10 * np.cosh(ETA_H[row + 1])
    true = jets(truth, lowest_pt_gev=jet_resolution.FOUND_ABOVE_GEV)
    assert len(true.pt_N) == 240
    assert np.abs(true.phi_N[:, None] - PHI_W[[5, 33]]).min(axis=1).max() < 1e-6
    same = pairs(true, true, 120)
    assert (same.ratio_EJ == 1).all()
    assert not same.extra_E.any()
    low = pairs(true, jets(0.3 * truth, lowest_pt_gev=jet_resolution.FOUND_ABOVE_GEV), 120)
    np.testing.assert_allclose(low.ratio_EJ, 0.3, rtol=1e-9)  # a low response loses no jet
    smeared = truth * (1 + 0.1 * rng.standard_normal((120, 56, 56)))
    matched = pairs(true, jets(smeared, lowest_pt_gev=jet_resolution.FOUND_ABOVE_GEV), 120)
    expected = 0.1 * np.hypot(100, 10) / 110
    assert central_width(np.sort(matched.ratio_EJ.ravel())) == pytest.approx(expected, rel=0.2)  # 240 jets: 6 %
