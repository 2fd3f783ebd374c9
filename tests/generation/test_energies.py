"""Layer energies become numbers and come back exactly; any numbers are some shower."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from caloedge.detector.crystals.geometry import geometry
from caloedge.detector.crystals.library import open_library
from caloedge.errors import BadData
from caloedge.fidelity.layout import layout
from caloedge.generation.cells import fit_cells
from caloedge.generation.energies import MOST, EnergyCode, condition, fit_energies
from caloedge.generation.trained import code_of, plain

THRESHOLD_MEV = 5e-4


@pytest.fixture(scope="module")
def showers() -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Return incident energies and layer energies of the shipped showers."""
    library, cells = open_library("wsi_gamma"), layout(geometry("wsi"))
    code = fit_cells(
        library.energies_mev[:500], library.cells_mev[:500], cells,
        energies_gev=(1, 100), scale_mev=0.02, threshold_mev=THRESHOLD_MEV,
    )  # fmt: skip
    return library.energies_mev, code.layers(library.cells_mev)


@pytest.fixture(scope="module")
def code(showers: tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]) -> EnergyCode:
    return fit_energies(*showers, energies_gev=(1, 100), scale_mev=1.0, threshold_mev=THRESHOLD_MEV)


def test_numbers_are_centred_and_of_order_one(code: EnergyCode, showers: tuple[np.ndarray[Any, Any], ...]) -> None:
    numbers = code.encode(*showers, np.random.default_rng(1))
    assert numbers.shape == showers[1].shape
    assert np.abs(numbers.mean(axis=0)).max() < 0.2
    assert (numbers.std(axis=0) > 0.4).all()
    assert (numbers.std(axis=0) < 1.2).all()
    assert np.abs(numbers).max() < 5, "what exceeds it does not come back"


def test_geant4_showers_come_back(code: EnergyCode, showers: tuple[np.ndarray[Any, Any], ...]) -> None:
    energies_mev, layers_mev = showers
    back = code.decode(energies_mev, code.encode(energies_mev, layers_mev, np.random.default_rng(2)))
    np.testing.assert_array_equal(back > 0, layers_mev > 0)
    np.testing.assert_allclose(back, layers_mev, rtol=1e-9, atol=0)


@given(
    st.floats(1e3, 1e5),
    arrays(float, 45, elements=st.one_of(st.just(0.0), st.floats(THRESHOLD_MEV, 20.0))).filter(lambda layers: layers.sum() > 5),
    st.integers(0, 9),
)
def test_any_showers_come_back(code: EnergyCode, energy_mev: float, layers_L: np.ndarray[Any, Any], seed: int) -> None:
    """Empty layers at the front, in the middle or at the end included; far from the showers of the fit, up to what is kept."""
    energies_mev, layers_mev = np.array([energy_mev]), layers_L[None]
    numbers = code.encode(energies_mev, layers_mev, np.random.default_rng(seed))
    back = code.decode(energies_mev, numbers)
    if np.abs(numbers).max() < 5:
        np.testing.assert_array_equal(back > 0, layers_mev > 0)
        np.testing.assert_allclose(back, layers_mev, rtol=1e-9)


LAYERS = st.integers(0, 44)


@given(st.integers(0, 199), LAYERS, LAYERS, st.sets(LAYERS), st.sets(LAYERS), st.integers(0, 9))
def test_showers_with_empty_and_soft_layers_come_back(
    code: EnergyCode,
    showers: tuple[np.ndarray[Any, Any], ...],
    row: int,
    first: int,
    last: int,
    empty: set[int],
    soft: set[int],
    seed: int,
) -> None:
    """Empty at the front, in the middle and at the end, down to a single layer; others lie at the threshold."""
    energies_mev, layers_mev = (values[row : row + 1].copy() for values in showers)
    visible_mev = layers_mev.sum()
    layers_mev[:, list(soft)] = THRESHOLD_MEV
    layers_mev[:, [layer for layer in range(45) if layer in empty or not first <= layer <= max(first, last)]] = 0
    layers_mev[:, first] = max(layers_mev[0, first] + visible_mev - layers_mev.sum(), THRESHOLD_MEV)
    numbers = code.encode(energies_mev, layers_mev, np.random.default_rng(seed))
    assert np.abs(numbers).max() < MOST
    back = code.decode(energies_mev, numbers)
    np.testing.assert_array_equal(back > 0, layers_mev > 0)
    # The rounding of what lies behind a layer is that of the whole.
    np.testing.assert_allclose(back, layers_mev, rtol=1e-9, atol=1e-14 * layers_mev.sum())


def test_what_is_no_number_is_refused(code: EnergyCode) -> None:
    """It would become an empty shower."""
    numbers = np.zeros((2, 45))
    numbers[1, 3] = np.nan
    with pytest.raises(BadData) as caught:
        code.decode(np.array([1e4, 1e4]), numbers)
    assert str(caught.value) == "network 'layers' of the generator gives nan; train it again, at a lower learning rate"
    assert np.isfinite(code.decode(np.array([1e4]), np.full((1, 45), np.inf))).all()


@given(st.floats(1e3, 1e5), st.floats(-2, 2), arrays(float, (2, 44), elements=st.floats(-1e6, 1e6)))
def test_the_first_number_decides_the_total(
    code: EnergyCode, energy_mev: float, first: float, others: np.ndarray[Any, Any]
) -> None:
    numbers = np.concatenate([np.full((2, 1), first), others], axis=1)
    one, other = code.decode(np.full(2, energy_mev), numbers).sum(axis=1)
    assert one == pytest.approx(other, rel=1e-9, abs=THRESHOLD_MEV)  # what is left at the end may lie below it


@given(st.floats(1e3, 1e5), arrays(float, 45, elements=st.floats(-1e6, 1e6)))
def test_any_numbers_are_some_shower(code: EnergyCode, energy_mev: float, numbers_L: np.ndarray[Any, Any]) -> None:
    layers = code.decode(np.array([energy_mev]), numbers_L[None])
    assert np.isfinite(layers).all()
    assert ((layers == 0) | (layers >= THRESHOLD_MEV * (1 - 1e-6))).all()
    assert layers.sum() <= energy_mev * (1 + 1e-9)


def test_a_cut_empties_soft_layers_and_keeps_the_total(code: EnergyCode, showers: tuple[np.ndarray[Any, Any], ...]) -> None:
    energies_mev, layers_mev = showers
    numbers = code.encode(energies_mev, layers_mev, np.random.default_rng(3))
    cut = code.decode(energies_mev, numbers, 0.1)
    assert ((cut == 0) | (cut >= 0.1 * (1 - 1e-6))).all()
    assert (cut == 0).sum() > (layers_mev == 0).sum()
    assert np.abs(cut.sum(axis=1) / layers_mev.sum(axis=1) - 1).max() < 0.05


def test_conditions_reach_from_minus_one_to_one() -> None:
    np.testing.assert_allclose(condition(np.array([2e3, 2e4]), 2, 20), [-1, 1])
    np.testing.assert_allclose(condition(np.array([5e3]), 5, 5), [0], atol=1e-12)


def test_a_code_is_plain_data_and_back(code: EnergyCode, showers: tuple[np.ndarray[Any, Any], ...]) -> None:
    again = code_of(EnergyCode, plain(code))
    energies_mev, layers_mev = (values[:100] for values in showers)
    numbers = again.encode(energies_mev, layers_mev, np.random.default_rng(4))
    np.testing.assert_allclose(numbers, code.encode(energies_mev, layers_mev, np.random.default_rng(4)), atol=1e-3)
    np.testing.assert_allclose(again.decode(energies_mev, numbers), layers_mev, rtol=1e-9)
    with pytest.raises(ValueError, match=r"^EnergyCode has the fields "):
        code_of(EnergyCode, {**plain(code), "more": 1})
