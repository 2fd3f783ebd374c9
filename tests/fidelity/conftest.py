"""Small samples of the shipped Geant4 showers, with which every figure is tested."""

from collections.abc import Callable

import numpy as np
import pytest

from caloedge.detector.crystals.geometry import PBWO4
from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.fidelity.figures import Sample
from caloedge.fidelity.layout import Layout, layout
from caloedge.fidelity.showers import Scale, Showers

LOWEST_MEV = 0.1
"""Threshold that the shipped library was made with."""


@pytest.fixture(scope="session")
def geant4() -> ShowerLibrary:
    return open_library("pbwo4_gamma")


@pytest.fixture(scope="session")
def cells() -> Layout:
    return layout(PBWO4)


@pytest.fixture(scope="session")
def rows(geant4: ShowerLibrary) -> Callable[[int, int], Showers]:
    """Return the function that gives the shipped showers from one row to another."""

    def of(first: int, last: int) -> Showers:
        part = slice(first, last)
        return Showers(geant4.energies_mev[part], geant4.impact_mm[part], geant4.cells_mev[part])

    return of


@pytest.fixture(scope="session")
def sample(cells: Layout) -> Callable[[Showers], Sample]:
    return lambda showers: Sample(showers, cells, Scale(LOWEST_MEV, 1.0))


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(11)
