"""Physics of the shipped library of a tungsten-silicon stack, and that the checks see what is wrong."""

import numpy as np
import pytest
import shower_physics

from caloedge.detector.crystals.library import ShowerLibrary, open_library, shipped


@pytest.fixture(scope="module")
def photons() -> ShowerLibrary:
    return open_library("wsi_gamma")


def test_it_is_large_enough_and_small_enough(photons: ShowerLibrary) -> None:
    assert len(photons) >= 4_000
    assert shipped("wsi_gamma").stat().st_size <= 12_000_000
    assert (photons.provenance["generator"], photons.provenance["seed"]) == ("geant4", "4201")


def test_they_are_photons_in_tungsten_and_silicon(photons: ShowerLibrary) -> None:
    shower_physics.check(photons.energies_mev, photons.cells_mev)


def damaged(name: str, energies: np.ndarray, cells: np.ndarray) -> np.ndarray:
    showers = cells.reshape(-1, *shower_physics.SHAPE).copy()
    if name == "energies_are_deposits":
        showers[showers > 0] *= 0.5
    if name == "response_is_linear":
        showers *= (energies / 1e4)[:, None, None, None] ** 0.02
    if name == "resolution_is_stochastic":
        showers *= np.random.default_rng(1).normal(1, 0.08, len(showers))[:, None, None, None]
    if name == "depth_grows":
        showers = showers[np.random.default_rng(1).permutation(len(showers))]
        showers *= (energies * 0.032 / showers.sum(axis=(1, 2, 3)))[:, None, None, None]
    if name == "azimuth_is_alike":
        showers[:, :, 3] *= 1.05
    if name == "core_is_dense":
        showers = showers[..., ::-1]
    return showers


@pytest.mark.parametrize(
    "name",
    [
        "energies_are_deposits",
        "response_is_linear",
        "resolution_is_stochastic",
        "depth_grows",
        "azimuth_is_alike",
        "core_is_dense",
    ],
)
def test_the_checks_see_what_is_wrong(name: str, photons: ShowerLibrary) -> None:
    showers = damaged(name, photons.energies_mev, photons.cells_mev)
    with pytest.raises(AssertionError):
        getattr(shower_physics, name)(photons.energies_mev, showers)
