"""Features of showers that are small enough to be computed by hand, and the threshold and scale before them."""

import numpy as np
import pytest

from caloedge.detector.crystals.geometry import GEOMETRIES, CrystalMatrix, SamplingStack
from caloedge.fidelity.features import features, n_features, table
from caloedge.fidelity.layout import Layout, layout
from caloedge.fidelity.showers import Showers

STACK = SamplingStack("small", "W", 1.0, "Si", 1.0, 2, 1, n_phi=4, r_edges_mm=(0.0, 2.0, 6.0), outer_rings=0)
MATRIX = CrystalMatrix("small", "PbWO4", cells_per_side=3, cell_mm=10.0, depth_mm=200.0)


def one(cells: Layout, energies: dict[tuple[int, ...], float], incident_mev: float = 1000.0) -> Showers:
    shower = np.zeros((1, *cells.geometry.cell_shape), np.float32)
    for place, energy in energies.items():
        shower[(0, *place)] = energy
    return Showers(np.array([incident_mev]), np.array([[3.0, -4.0]]), shower.reshape(1, -1))


def test_two_cells_of_a_stack_by_hand() -> None:
    cells = layout(STACK)
    # In layer 1: 3 MeV at r = 4, α = −135°, and 1 MeV at r = 1, α = 45°: both on the diagonal, at −4 and +1 along it.
    found = features(one(cells, {(1, 0, 1): 3.0, (1, 2, 0): 1.0}), cells)
    half = np.sqrt(0.5)
    assert found.energy_mev_NL.tolist() == [[0, 4]]
    np.testing.assert_allclose(found.x_mm_NA, [[0, (3 * -4 + 1) / 4 * half]], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.y_mm_NA, found.x_mm_NA, rtol=1e-12)
    width = np.sqrt((3 * 16 + 1) / 4 / 2 - (11 / 4 * half) ** 2)
    np.testing.assert_allclose(found.x_width_mm_NA, [[0, width]], rtol=1e-12)
    np.testing.assert_allclose(found.r_mm_NL, [[0, 13 / 4]], rtol=1e-12)
    np.testing.assert_allclose(found.r_width_mm_NL, [[0, np.sqrt(49 / 4 - (13 / 4) ** 2)]], rtol=1e-12)
    np.testing.assert_allclose(found.sparsity_NL, [[1, 1 - 2 / 8]])
    assert found.response.tolist() == [0.004]


def test_columns_stand_in_the_published_order_and_units() -> None:
    cells = layout(STACK)
    (row,) = table(features(one(cells, {(1, 0, 1): 3.0, (1, 2, 0): 1.0}), cells))
    assert len(row) == n_features(cells) == 2 + 8 * 2
    x = (3 * -4 + 1) / 4 * np.sqrt(0.5) / 100
    np.testing.assert_allclose(row[:5], [3, -8, np.log10(4 + 1e-8), 0, x], rtol=1e-12)  # log E, log of both layers, centres
    np.testing.assert_allclose(row[[11, 12, 13, 15]], [np.log10(4 + 1e-8), 1, 0.75, 0.0325], rtol=1e-12)


def test_rings_of_crystals_take_the_place_of_layers() -> None:
    cells = layout(MATRIX)
    # 6 MeV in the central crystal, 2 MeV beside it at x = +10, 1 MeV in the corner at (−10, −10).
    found = features(one(cells, {(1, 1): 6.0, (2, 1): 2.0, (0, 0): 1.0}), cells)
    assert found.energy_mev_NL.tolist() == [[6, 3]]
    np.testing.assert_allclose(found.x_mm_NA, [[0, 10 / 3]], rtol=1e-12)
    np.testing.assert_allclose(found.y_mm_NA, [[0, -10 / 3]], rtol=1e-12)
    np.testing.assert_allclose(found.sparsity_NL, [[0, 1 - 2 / 8]])
    np.testing.assert_allclose(found.r_mm_NL, [[0, (20 + 10 * np.sqrt(2)) / 3]], rtol=1e-12)
    assert found.impact_mm_NX.tolist() == [[3, -4]]
    assert table(found).shape == (1, n_features(cells)) == (1, 2 + 2 + 8 * 2)


@pytest.mark.parametrize(("name", "columns", "orbits"), [("wsi", 362, 45 * 9), ("pbwo4", 108, 91), ("csi", 60, 28)])
def test_shipped_geometries(name: str, columns: int, orbits: int) -> None:
    cells = layout(GEOMETRIES[name])
    assert n_features(cells) == columns
    assert cells.n_cells == int(np.prod(cells.geometry.cell_shape))
    assert len(np.unique(cells.orbits)) == orbits


def test_an_empty_shower_has_finite_features() -> None:
    cells = layout(STACK)
    assert np.isfinite(table(features(one(cells, {}), cells))).all()
