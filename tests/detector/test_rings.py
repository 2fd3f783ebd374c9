"""The crystals of Belle II's calorimeter: their number, places, neighbours and trigger cells."""

import numpy as np
import pytest
from belle2 import demonstrator

from caloedge.detector.crystals.belle2_files import open_files
from caloedge.detector.crystals.rings import (
    BACKWARD_RINGS,
    BARREL_CRYSTALS,
    BARREL_M,
    BARREL_RINGS,
    CRYSTALS_R,
    FORWARD_RINGS,
    RADIUS_CM_R,
    TRIGGER_RINGS,
    Z_CM_R,
    CrystalRings,
    belle2,
)

BARREL = slice(FORWARD_RINGS, FORWARD_RINGS + BARREL_RINGS)


@pytest.fixture(scope="module")
def rings() -> CrystalRings:
    return belle2()


def of_barrel(rings: CrystalRings) -> np.ndarray:
    return np.flatnonzero((rings.ring_C >= BARREL.start) & (rings.ring_C < BARREL.stop))


def test_there_are_as_many_crystals_as_the_experiment_has(rings: CrystalRings) -> None:
    assert len(CRYSTALS_R) == len(RADIUS_CM_R) == len(Z_CM_R) == FORWARD_RINGS + BARREL_RINGS + BACKWARD_RINGS == 69
    assert len(rings.ring_C) == sum(CRYSTALS_R) == 8736
    assert [sum(CRYSTALS_R[:13]), sum(CRYSTALS_R[BARREL]), sum(CRYSTALS_R[BARREL.stop :])] == [1152, 6624, 960]
    assert (np.diff(rings.ring_C) >= 0).all()
    np.testing.assert_array_equal(rings.ring_C[rings.first_of_ring], np.arange(69))
    np.testing.assert_array_equal(rings.azimuth_C[rings.first_of_ring], 0)


def test_only_the_barrel_is_so_far_from_the_beam(rings: CrystalRings) -> None:
    far = np.hypot(*rings.position_C3[:, :2].T) > BARREL_M
    np.testing.assert_array_equal(np.flatnonzero(far), of_barrel(rings))
    assert rings.position_C3[of_barrel(rings), 2].max() < rings.position_C3[: rings.first_of_ring[BARREL.start], 2].min()


def test_neighbours_are_mutual_and_no_crystal_is_its_own(rings: CrystalRings) -> None:
    pairs = {(crystal, int(other)) for crystal, row in enumerate(rings.neighbours) for other in row if other >= 0}
    assert all((other, crystal) in pairs for crystal, other in pairs)
    assert not any(crystal == other for crystal, other in pairs)
    assert len(pairs) == (rings.neighbours >= 0).sum(), "a neighbour is named once"


def test_neighbours_are_near_and_the_nearest_are_neighbours(rings: CrystalRings) -> None:
    """Inside of the barrel: at its ends and in the end caps pitches change from ring to ring."""
    inner = of_barrel(rings)[BARREL_CRYSTALS:-BARREL_CRYSTALS]
    near = rings.neighbours[inner]
    assert (near >= 0).all()
    assert near.shape[1] == 8
    apart = np.linalg.norm(rings.position_C3[near] - rings.position_C3[inner, None], axis=2)
    assert apart.min() > 0.05
    assert apart.max() < 0.13
    for crystal in inner[:: len(inner) // 50]:
        away = np.linalg.norm(rings.position_C3 - rings.position_C3[crystal], axis=1)
        nearest = np.argsort(away, kind="stable")[1:5]
        assert set(nearest) <= set(rings.neighbours[crystal])


def test_the_barrel_closes_in_azimuth(rings: CrystalRings) -> None:
    first = rings.first_of_ring[20]
    last = first + BARREL_CRYSTALS - 1
    assert last in rings.neighbours[first]
    assert first - 1 in rings.neighbours[first], "the last of the ring before touches by a corner"
    assert last + BARREL_CRYSTALS in rings.neighbours[first], "and that of the ring after"
    assert last + 1 in rings.neighbours[last]


def test_outermost_rings_have_neighbours_on_one_side(rings: CrystalRings) -> None:
    for ring, other in ((0, 1), (68, 67)):
        near = rings.neighbours[rings.ring_C == ring]
        assert set(rings.ring_C[near[near >= 0]]) == {ring, other}
    assert (rings.neighbours >= 0).sum(axis=1).min() >= 4


def test_trigger_cells_are_as_many_as_the_experiment_has(rings: CrystalRings) -> None:
    cells = np.bincount(rings.trigger_cell_C)
    assert len(cells) == len(rings.trigger_positions) == 576
    rings_of_cell = [{int(r) for r in rings.ring_C[rings.trigger_cell_C == cell]} for cell in range(576)]
    regions = [{(ring >= BARREL.start) + (ring >= BARREL.stop) for ring in of_cell} for of_cell in rings_of_cell]
    assert all(len(region) == 1 for region in regions), "no cell lies in the barrel and in an end cap"
    assert np.bincount([region.pop() for region in regions]).tolist() == [80, 432, 64]
    assert (cells[80:512].reshape(12, 36) == [[12]] + [[16]] * 10 + [[12]]).all()
    assert sum(count for count, _ in TRIGGER_RINGS) == 69


def test_trigger_cells_are_compact(rings: CrystalRings) -> None:
    away = np.linalg.norm(rings.position_C3 - rings.trigger_positions[rings.trigger_cell_C], axis=1)
    assert away[of_barrel(rings)].max() < 0.20
    assert away.max() < 0.25


def test_neighbours_of_trigger_cells_are_mutual_in_the_barrel(rings: CrystalRings) -> None:
    opposite = {"up": "down", "down": "up", "left": "right", "right": "left"}
    near = rings.trigger_neighbours
    assert len(near) == 8
    # At the barrel's ends the number of cells in a ring changes, and steps there and back need not meet.
    inner = np.arange(80 + 36, 512 - 36)
    for name, cells in near.items():
        back = near[" ".join(opposite[word] for word in name.split())]
        np.testing.assert_array_equal(back[cells[inner]], inner)
    np.testing.assert_array_equal(near["right"][near["up"][inner]], near["up right"][inner])
    assert (near["down"][:16] == -1).all()
    assert (near["up"][-32:] == -1).all()


def test_points_of_the_barrel_go_through_the_centres(rings: CrystalRings) -> None:
    barrel = of_barrel(rings)
    points = rings.barrel_position(rings.ring_C[barrel] - BARREL.start + 0.5, rings.azimuth_C[barrel] + 0.5)
    np.testing.assert_allclose(points, rings.position_C3[barrel], atol=1e-12)


@pytest.mark.parametrize("name", ["bhabha_exp1003_0", "kkmc_exp1003_0", "bhabha_exp0_0"])
def test_centres_are_those_of_the_experiments_hits(rings: CrystalRings, name: str) -> None:
    hits = open_files(demonstrator(name)).hits
    away = np.linalg.norm(hits.position_H3 - rings.position_C3[hits.cell_H], axis=1)
    assert away.max() < 0.01
    assert len(np.unique(hits.cell_H)) > 2000
