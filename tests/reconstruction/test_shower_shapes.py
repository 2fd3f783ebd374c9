"""Shower shapes: the window, and the variables against values computed by hand, flipped windows and empty ones."""

import numpy as np
import pytest

from caloedge.reconstruction.shower_shapes import VARIABLES, highest_window, oriented, scaled, variables

NAMES = [variable.name for variable in VARIABLES]


def test_the_window_is_centred_on_the_highest_crystal() -> None:
    rng = np.random.default_rng(3)
    cells = rng.random((50, 13, 13)).astype(np.float32)
    for one, window in zip(cells, highest_window(cells), strict=True):
        x, y = max(((x, y) for x in range(2, 11) for y in range(2, 11)), key=lambda place: one[place])
        np.testing.assert_array_equal(window, one[x - 2 : x + 3, y - 2 : y + 3])


def test_variables_of_a_window_computed_by_hand() -> None:
    window = np.zeros((1, 5, 5), np.float32)
    window[0, 2, 2], window[0, 3, 2], window[0, 2, 3], window[0, 4, 2] = 10, 4, 1, 1
    values = dict(zip(NAMES, variables(window)[0], strict=True))
    x_mean, y_mean = (4 + 2) / 16, 1 / 16
    xx, yy, xy = (4 + 4) / 16 - x_mean**2, 1 / 16 - y_mean**2, -x_mean * y_mean
    matrix = np.linalg.eigh([[xx, xy], [xy, yy]])
    minor, major = np.sqrt(matrix.eigenvalues)
    along = [
        ((x - x_mean) * matrix.eigenvectors[0, 1] + (y - y_mean) * matrix.eigenvectors[1, 1])
        for x, y in ((0, 0), (1, 0), (0, 1), (2, 0))
    ]
    fourth = np.average(np.power(along, 4), weights=[10, 4, 1, 1])
    weights = 4 + np.log(np.array([10, 4, 1, 1]) / 16)
    log_x, log_y = np.average([0, 1, 0, 2], weights=weights), np.average([0, 0, 1, 0], weights=weights)
    mass_gev = 16 * np.sqrt(major**2 - 0.45**2) * 22 / 1290
    expected = {
        "log_energy": 4,
        "e1_e9": 10 / 15,
        "e9_e25": 15 / 16,
        "e2_e1": 0.4,
        "e3_e1": 0.1,
        "e4_e9": 1,
        "outer_e1": 0.1,
        "width_x": np.sqrt(np.average([0, 1, 0, 4], weights=weights) - log_x**2),
        "width_y": np.sqrt(np.average([0, 0, 1, 0], weights=weights) - log_y**2),
        "covariance": -log_x * log_y,
        "asymmetry_x": 5 / 16,
        "asymmetry_y": 1 / 16,
        "major": major,
        "minor": minor,
        "log_kurtosis": np.log(fourth / major**4),
        "root_mass": np.sqrt(mass_gev / 0.1349768),
    }
    assert list(expected) == NAMES
    assert values == pytest.approx(expected, rel=1e-9)  # sums of doubles


def test_a_window_turned_or_mirrored_has_the_same_variables() -> None:
    rng = np.random.default_rng(1)
    windows = rng.gamma(0.3, 4, (200, 5, 5)).astype(np.float32)
    windows[:, 2, 2] += 8
    for view in (windows[:, ::-1], windows[:, :, ::-1], windows.swapaxes(1, 2), np.rot90(windows, axes=(1, 2))):
        np.testing.assert_array_equal(oriented(view), oriented(windows))
    for axis in (1, 2):
        profile = oriented(windows).sum(axis=3 - axis)
        assert (profile[:, 3:].sum(axis=1) >= profile[:, :2].sum(axis=1)).all()


@pytest.mark.parametrize("energy", [0.0, 0.3, 5.0, 1e4])
def test_empty_neighbours_give_numbers(energy: float) -> None:
    window = np.zeros((1, 5, 5), np.float32)
    window[0, 2, 2] = energy
    values = variables(window)
    assert np.isfinite(values).all()
    assert np.isfinite(scaled(values)).all()
    named = dict(zip(NAMES, values[0], strict=True))
    assert named["e2_e1"] == named["width_x"] == named["major"] == named["root_mass"] == named["log_kurtosis"] == 0
    assert named["e1_e9"] == named["e9_e25"] == (energy > 0)
