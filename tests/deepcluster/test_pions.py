"""The π⁰ mass: the inverse of how decays are placed, and which two photons it is made of."""

import numpy as np
import pytest

from caloedge.deepcluster.pions import mass, momentum, pair_masses
from caloedge.detector.constants import PI0_MASS_GEV
from caloedge.detector.crystals.events import DECAY_DISTANCE_MM, pion_distance
from caloedge.detector.crystals.geometry import PBWO4
from caloedge.detector.crystals.photon_events import Photons


def decays(n: int) -> np.ndarray:
    """Return photon energies (n, 2) of decays as `photon_events.compose` makes them."""
    rng = np.random.default_rng(1)
    total = np.hypot(np.exp(rng.uniform(np.log(2.5), np.log(20), n)), PI0_MASS_GEV)
    first = rng.uniform(1, total - 1)
    return np.stack([first, total - first], axis=1)


def test_true_energies_and_distances_give_the_pions_mass() -> None:
    energy = decays(20_000)
    # Momenta balance in the decay, positions weighted with energies in the mass: equal up to the fourth power of the angle,
    # which leaves 1.04e-6 for the widest and least equal pairs.
    mass_mev = 1e3 * mass(energy, pion_distance(energy))
    np.testing.assert_allclose(mass_mev, 134.9768, rtol=1.1e-6)
    assert (np.abs(mass_mev / 134.9768 - 1) < 1e-6).mean() > 0.998


def test_the_mass_grows_with_the_distance_and_with_both_energies() -> None:
    energy = np.array([[3.0, 7.0]])
    at = mass(energy, np.array([1.0]))
    assert mass(2 * energy, np.array([1.0])) == pytest.approx(2 * at)
    assert mass(energy, np.array([2.0])) == pytest.approx(2 * at, rel=1e-3)  # small angles
    wide = mass(np.array([[5.0, 5.0]]), np.array([2 * DECAY_DISTANCE_MM / PBWO4.cell_mm]))
    assert wide == pytest.approx(np.sqrt(2 * 25))  # each photon at 45°: m² = 2 E₁ E₂


def test_the_momentum_is_that_of_the_true_energies() -> None:
    assert momentum(np.array([[3.0, 1.0]])) == pytest.approx(np.sqrt(16 - PI0_MASS_GEV**2))


def test_the_two_photons_of_highest_energy_are_taken_in_any_order() -> None:
    event = np.array([0, 0, 0, 1, 3, 3, 4, 4])
    energy = np.array([1.0, 6.0, 4.0, 9.0, 2.0, 8.0, 5.0, -1.0])
    position = np.column_stack([np.arange(8.0), np.zeros(8)])
    masses = pair_masses(Photons(event, position, energy, np.ones(8)), 6)
    expected = mass(np.array([[6.0, 4.0], [8.0, 2.0]]), np.array([1.0, 1.0]))
    np.testing.assert_array_equal(masses, [expected[0], np.nan, np.nan, expected[1], np.nan, np.nan])


def test_events_without_photons_have_no_mass() -> None:
    nothing = Photons(np.empty(0, int), np.empty((0, 2)), np.empty(0), np.empty(0))
    np.testing.assert_array_equal(pair_masses(nothing, 3), np.full(3, np.nan))
