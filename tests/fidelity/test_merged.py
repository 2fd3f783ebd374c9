"""Features of merged layers: 74 instead of 362, with which FPD needs fewer showers."""

import numpy as np
import pytest

from caloedge.detector.crystals.geometry import geometry
from caloedge.detector.crystals.library import open_library
from caloedge.fidelity import distances
from caloedge.fidelity.features import features, n_features, table
from caloedge.fidelity.layout import Layout, layout
from caloedge.fidelity.showers import Showers


@pytest.fixture(scope="module")
def photons() -> Showers:
    library = open_library("wsi_gamma")
    return Showers(library.energies_mev, library.impact_mm, library.cells_mev)


@pytest.fixture(scope="module")
def stack() -> Layout:
    return layout(geometry("wsi"))


def test_five_layers_make_a_block(photons: Showers, stack: Layout) -> None:
    merged = stack.merged
    assert (merged.n_layers, n_features(merged), merged.word) == (9, 74, "block")
    some = photons.take(slice(0, 50))
    whole, blocks = features(some, stack), features(some, merged)
    np.testing.assert_allclose(blocks.energy_mev_NL, whole.energy_mev_NL.reshape(50, 9, 5).sum(axis=2), rtol=1e-12)
    sparsity = whole.sparsity_NL.reshape(50, 9, 5).mean(axis=2)
    np.testing.assert_allclose(blocks.sparsity_NL, sparsity, rtol=1e-12)
    assert table(blocks).shape == (50, 74)


def test_few_layers_stay_as_they_are(stack: Layout) -> None:
    assert stack.merged.merged is stack.merged


def test_fpd_of_geant4_against_itself_is_nearer_to_zero(photons: Showers, stack: Layout) -> None:
    halves = photons.take(slice(0, 2000)), photons.take(slice(2000, 4000))
    many, few = (distances.fpd(*(table(features(half, cells)) for half in halves)) for cells in (stack, stack.merged))
    assert 0 < few.value < many.value / 3


def test_it_sees_showers_that_start_a_layer_deeper(photons: Showers, stack: Layout) -> None:
    half, other = photons.take(slice(0, 2000)), photons.take(slice(2000, 4000))
    deeper = np.roll(other.cells_mev.reshape(-1, 45, 144), 1, axis=1).reshape(other.cells_mev.shape)
    damaged = other.with_cells(deeper, 5e-4)
    reference, same, changed = (table(features(sample, stack.merged)) for sample in (half, other, damaged))
    floor, seen = distances.fpd(reference, same), distances.fpd(reference, changed)
    assert seen.value > floor.value + 3 * np.hypot(floor.uncertainty, seen.uncertainty)
