"""Cell energies become numbers and come back; any numbers are some shower with the layer energies that were asked for."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from caloedge.detector.crystals.geometry import geometry
from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.errors import BadData
from caloedge.fidelity.layout import layout
from caloedge.generation.cells import EMPTY_MOST, CellCode, Cells, _numbers, fit_cells
from caloedge.generation.trained import code_of, plain

KINDS = {"wsi": ("wsi_gamma", 0.02, 5e-4), "pbwo4": ("pbwo4_gamma", 1.0, 0.1)}
"""Shipped library, scale and threshold by geometry."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def library(kind: str) -> ShowerLibrary:
    return open_library(KINDS[kind][0])


@pytest.fixture(scope="module")
def threshold_mev(kind: str) -> float:
    return KINDS[kind][2]


@pytest.fixture(scope="module")
def cells_mev(library: ShowerLibrary, threshold_mev: float) -> np.ndarray[Any, Any]:
    cells = library.cells_mev[:1000]
    return np.where(cells < threshold_mev, np.float32(0), cells)


@pytest.fixture(scope="module")
def cells(kind: str, library: ShowerLibrary, cells_mev: np.ndarray[Any, Any]) -> Cells:
    _, scale_mev, threshold_mev = KINDS[kind]
    return fit_cells(
        library.energies_mev[:1000], cells_mev, layout(geometry(kind)),
        energies_gev=(1, 100), scale_mev=scale_mev, threshold_mev=threshold_mev,
    )  # fmt: skip


@pytest.fixture(scope="module")
def of_the_stack() -> Cells:
    library, (_, scale_mev, threshold_mev) = open_library("wsi_gamma"), KINDS["wsi"]
    return fit_cells(
        library.energies_mev[:200], library.cells_mev[:200], layout(geometry("wsi")),
        energies_gev=(1, 100), scale_mev=scale_mev, threshold_mev=threshold_mev,
    )  # fmt: skip


def test_showers_come_back(cells: Cells, library: ShowerLibrary, cells_mev: np.ndarray[Any, Any]) -> None:
    energies_mev = library.energies_mev[:1000]
    numbers = cells.encode(energies_mev, cells_mev, np.random.default_rng(1))
    back = cells.decode(energies_mev, cells.layers(cells_mev), numbers)
    np.testing.assert_array_equal(back > 0, cells_mev > 0)
    np.testing.assert_allclose(back, cells_mev, rtol=2e-5, atol=0)
    assert abs(numbers.mean()) < 0.01
    assert 0.5 < numbers.std() < 1.1


def test_cells_at_the_threshold_come_back(cells: Cells, library: ShowerLibrary, cells_mev: np.ndarray[Any, Any]) -> None:
    energies_mev, generator = library.energies_mev[:1000], np.random.default_rng(1)
    threshold_mev = np.nextafter(np.float32(cells.code.threshold_mev), np.float32(1))
    soft = (cells_mev > 0) & (cells_mev < 3 * threshold_mev) & (generator.random(cells_mev.shape) < 0.5)
    assert soft.sum() > 100
    lowered = np.where(soft, threshold_mev, cells_mev)
    numbers = cells.encode(energies_mev, lowered, generator)
    back = cells.decode(energies_mev, cells.layers(lowered), numbers)
    np.testing.assert_array_equal(back > 0, lowered > 0)
    np.testing.assert_allclose(back, lowered, rtol=2e-5, atol=0)


def test_layers_are_summed_as_the_features_do(cells: Cells, cells_mev: np.ndarray[Any, Any]) -> None:
    layers = cells.layers(cells_mev)
    for layer in (0, 3, cells.layout.n_layers - 1):
        expected = cells_mev[:, cells.layout.layer_C == layer].sum(axis=1, dtype=float)
        np.testing.assert_allclose(layers[:, layer], expected, rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.1, 30), st.floats(0, 0.5))
def test_any_numbers_are_some_shower(
    cells: Cells, library: ShowerLibrary, cells_mev: np.ndarray[Any, Any], seed: int, spread: float, cut: float
) -> None:
    generator = np.random.default_rng(seed)
    rows = generator.integers(0, 1000, 4)
    wanted = cells.layers(cells_mev[rows])
    numbers = spread * generator.standard_normal((4, cells.layout.n_cells)).astype(np.float32)
    found = cells.decode(library.energies_mev[rows], wanted, numbers, cut)
    assert np.isfinite(found).all()
    assert ((found == 0) | (found >= cells.code.threshold_mev)).all()
    np.testing.assert_allclose(cells.layers(found), wanted, rtol=1e-6, atol=0)


def test_what_is_no_number_is_refused(cells: Cells, library: ShowerLibrary, cells_mev: np.ndarray[Any, Any]) -> None:
    """It would become an empty shower."""
    numbers = np.zeros((2, cells.layout.n_cells), np.float32)
    numbers[1, 7] = np.nan
    with pytest.raises(BadData) as caught:
        cells.decode(library.energies_mev[:2], cells.layers(cells_mev[:2]), numbers)
    assert str(caught.value) == "network 'cells' of the generator gives nan; train it again, at a lower learning rate"


def test_no_gap_is_between_empty_cells_and_others(cells: Cells) -> None:
    code, generator = cells.code, np.random.default_rng(2)
    empty = _numbers(np.zeros(10_000, np.float32), code.scale_mev, code.threshold_mev, generator)
    least = _numbers(np.array([code.threshold_mev], np.float32), code.scale_mev, code.threshold_mev, generator)
    assert empty.max() == np.float32(EMPTY_MOST) < 0 < least[0] < 0.2
    assert -0.7 < empty.mean() < -0.5


def test_cells_that_symmetry_turns_into_each_other_have_one_code(cells: Cells, library: ShowerLibrary) -> None:
    orbits = cells.layout.orbits
    assert cells.code.mean_KO.shape == (6, orbits.max() + 1)
    for turned in cells.layout.orientations_OC:
        np.testing.assert_array_equal(orbits[turned], orbits)
    everywhere = np.ones((1, cells.layout.n_cells), np.float32)
    (numbers,) = cells.encode(library.energies_mev[:1], everywhere, np.random.default_rng(1))
    for orbit in (0, orbits.max() // 2, orbits.max()):
        assert len(set(numbers[orbits == orbit])) == 1


def test_a_layer_that_is_always_empty_has_a_code(library: ShowerLibrary, cells: Cells, cells_mev: np.ndarray[Any, Any]) -> None:
    last = cells.layout.n_layers - 1
    energies_mev, showers = library.energies_mev[:300], cells_mev[:300].copy()
    showers[:, cells.layout.layer_C == last] = 0
    code = fit_cells(
        energies_mev, showers, cells.layout,
        energies_gev=(1, 100), scale_mev=cells.code.scale_mev, threshold_mev=cells.code.threshold_mev,
    )  # fmt: skip
    channels = code.code.channels(energies_mev, code.layers(showers))
    np.testing.assert_allclose(channels[:, last], 0, atol=1e-6)
    back = code.decode(energies_mev, code.layers(showers), code.encode(energies_mev, showers, np.random.default_rng(1)))
    np.testing.assert_allclose(back, showers, rtol=2e-5, atol=0)
    layers = code.layers(cells_mev[:300])  # it had energy, after all
    assert np.isfinite(code.decode(energies_mev, layers, np.zeros(showers.shape, np.float32))).all()


def test_channels_tell_the_layers_energies(cells: Cells, library: ShowerLibrary, cells_mev: np.ndarray[Any, Any]) -> None:
    energies_mev, layers = library.energies_mev[:1000], cells.layers(cells_mev)
    channels = cells.code.channels(energies_mev, layers)
    np.testing.assert_allclose(channels.mean(axis=0), 0, atol=0.05)
    assert (channels.std(axis=0) > 0.8).all()  # few are cut off
    assert (cells.code.channels(energies_mev, 2 * layers + 1) > channels).mean() > 0.9


def test_a_code_is_plain_data_and_back(cells: Cells, library: ShowerLibrary, cells_mev: np.ndarray[Any, Any]) -> None:
    again = Cells(code_of(CellCode, plain(cells.code)), cells.layout)
    energies_mev, some = library.energies_mev[:20], cells_mev[:20]
    numbers = again.encode(energies_mev, some, np.random.default_rng(3))
    np.testing.assert_allclose(again.decode(energies_mev, cells.layers(some), numbers), some, rtol=2e-5)


@given(arrays(np.float32, 6480, elements=st.one_of(st.just(0.0), st.floats(2**-10, 64, width=32))))
@settings(max_examples=10, deadline=None)
def test_any_showers_come_back(of_the_stack: Cells, any_C: np.ndarray[Any, Any]) -> None:
    """Less exactly where they are far from the showers of the fit, since numbers are float32."""
    energy_mev, shower = np.array([2e4]), any_C[None]
    numbers = of_the_stack.encode(energy_mev, shower, np.random.default_rng(1))
    back = of_the_stack.decode(energy_mev, of_the_stack.layers(shower), numbers)
    np.testing.assert_allclose(back, shower, rtol=1e-3, atol=0)
