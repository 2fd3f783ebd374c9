"""The classical reconstructions of energy images: single particles, links in the field, constants."""

import numpy as np
import pytest

from caloedge.detector.images.response import (
    CHARGED_HADRON,
    FIELD_ON,
    NEUTRAL_HADRON,
    PION,
    PIXELS,
    DetectorImages,
    Particles,
    images,
    toy_particles,
)
from caloedge.errors import UserError
from caloedge.reconstruction import energy_flow
from caloedge.reconstruction.energy_flow import Calibration, calibrated, calorimeter_sum, particle_flow

N = 400
ROW, COLUMN = 28, 40
PHI = (COLUMN + 0.3) * 2 * np.pi / PIXELS - np.pi


def single(species: tuple[int, ...], charge: int, energy_gev: float, field: float, phi: float = PHI) -> DetectorImages:
    """Put the same particles into one pixel of every event."""
    n = len(species)
    event = np.repeat(np.arange(N), n)
    kinds = np.tile(species, N)
    charges = np.where(kinds == CHARGED_HADRON, charge, 0)
    particles = Particles(event, kinds, charges, np.full(N * n, energy_gev), np.full(N * n, 0.01), np.full(N * n, phi))
    return images(particles, N, field, np.random.default_rng(1))


@pytest.mark.parametrize("species", [PION, NEUTRAL_HADRON])
def test_neutral_particles_are_calibrated(species: int) -> None:
    seen = single((species,), 0, 10.0, FIELD_ON)
    energy = particle_flow(seen.inputs_ECHW, np.full(N, FIELD_ON))
    assert energy.dtype == np.float32
    assert (energy.sum(axis=(1, 2)) == energy[:, ROW, COLUMN]).all()
    # The scales were tuned where pixels hold several particles.
    assert energy[:, ROW, COLUMN].mean() == pytest.approx(10, rel=0.1)
    naive = seen.inputs_ECHW[:, :2].sum(axis=(1, 2, 3))
    assert abs(naive.mean() - 10) > 0.1


@pytest.mark.parametrize("charge", [-1, 1])
@pytest.mark.parametrize("field", [0.0, FIELD_ON])
@pytest.mark.parametrize("energy_gev", [1.0, 3.0, 20.0])
def test_a_charged_hadron_is_counted_once_and_where_it_was_produced(charge: int, field: float, energy_gev: float) -> None:
    seen = single((CHARGED_HADRON,), charge, energy_gev, field)
    energy = particle_flow(seen.inputs_ECHW, np.full(N, field))
    at_home = energy[:, ROW, COLUMN]
    assert at_home.mean() == pytest.approx(energy_gev, rel=0.05)
    rest = energy.sum(axis=(1, 2)) - at_home
    # An excess above two standard deviations is one in forty, and 5 % of the tracks' energies are wrong by 10 %.
    assert rest.mean() < 0.03 * energy_gev
    if field and energy_gev == 1.0:  # it hits more than four columns away
        alone = calorimeter_sum(seen.inputs_ECHW)
        assert not alone[:, ROW, COLUMN].any()


def test_a_field_that_is_not_told_takes_the_deposit_for_another_particle() -> None:
    seen = single((CHARGED_HADRON,), 1, 3.0, FIELD_ON)
    with_field, without_field = (
        particle_flow(seen.inputs_ECHW, np.full(N, field)).sum(axis=(1, 2)).mean() for field in (FIELD_ON, 0.0)
    )
    assert with_field == pytest.approx(3, rel=0.05)
    assert without_field > 5


@pytest.mark.parametrize("charge", [-1, 1])
def test_a_hadron_that_bends_over_the_edge_is_counted_once(charge: int) -> None:
    seen = single((CHARGED_HADRON,), charge, 1.5, FIELD_ON, charge * (np.pi - 0.05))
    hit = seen.inputs_ECHW[:, 1].sum(axis=(0, 1)).nonzero()[0]
    assert (np.abs(hit - (0 if charge < 0 else PIXELS - 1)) > PIXELS // 2).all()  # on the other side
    energy = particle_flow(seen.inputs_ECHW, np.full(N, FIELD_ON))
    assert energy.sum(axis=(1, 2)).mean() == pytest.approx(1.5, rel=0.05)


def test_a_neutral_hadron_below_a_track_is_an_excess() -> None:
    seen = single((CHARGED_HADRON, NEUTRAL_HADRON), 1, 8.0, 0.0)
    energy = particle_flow(seen.inputs_ECHW, np.zeros(N))[:, ROW, COLUMN]
    assert energy.mean() == pytest.approx(16, rel=0.08)


@pytest.mark.parametrize(("bend", "width"), [(0.0, 1e-3), (0.4, 0.02), (-4.46, 0.22), (13.3, 0.66)])
def test_chances_of_columns_are_those_of_throwing_dice(bend: float, width: float) -> None:
    columns, chance = energy_flow._columns(np.array([bend]), np.array([width]))
    rng = np.random.default_rng(1)
    thrown = np.floor(rng.random(200_000) + bend + width * rng.standard_normal(200_000)).astype(int)
    np.testing.assert_allclose(chance[0], [(thrown == column).mean() for column in columns[0]], atol=0.01)  # logistic for normal
    assert chance.sum() == pytest.approx(1)
    assert (chance >= 0).all()


def test_each_step_beats_the_naive_one() -> None:
    rng = np.random.default_rng(7)
    field = np.where(np.arange(60) % 2, FIELD_ON, 0.0)
    seen = images(toy_particles(60, 1200, rng), 60, field, rng)
    inputs, truth = seen.inputs_ECHW, seen.truth_EHW.astype(float)

    def wmse(energy: np.ndarray) -> float:
        return float(((truth * (energy - truth) ** 2).sum(axis=(1, 2)) / truth.sum(axis=(1, 2))).mean())

    flow, total = wmse(particle_flow(inputs, field)), wmse(calorimeter_sum(inputs))
    naive, tracks_too = wmse(inputs[:, :2].sum(axis=1)), wmse(inputs.sum(axis=1))
    assert flow < 0.2 * total
    assert flow < 0.5 * tracks_too
    assert total < naive
    assert wmse(particle_flow(inputs, np.zeros(60))) > 2 * flow
    np.testing.assert_array_equal(particle_flow(inputs[50:], field[50:]), particle_flow(inputs, field)[50:])


def test_scales_are_found_again() -> None:
    rng = np.random.default_rng(2)
    inputs = rng.exponential(1, (20, 4, PIXELS, PIXELS))
    truth = 2 * inputs[:, 0] + 0.5 * inputs[:, 1]
    assert calibrated(inputs, truth) == Calibration(2.0, 0.5)
    np.testing.assert_allclose(calorimeter_sum(inputs, Calibration(2.0, 0.5)), truth, rtol=1e-6)  # float32


def test_scales_minimise_the_weighted_error() -> None:
    rng = np.random.default_rng(3)
    seen = images(toy_particles(20, 800, rng), 20, 0.0, rng)
    truth = seen.truth_EHW.astype(float)
    best = calibrated(seen.inputs_ECHW, truth)

    def wmse(scales: Calibration) -> float:
        energy = calorimeter_sum(seen.inputs_ECHW, scales)
        return float(((truth * (energy - truth) ** 2).sum(axis=(1, 2)) / truth.sum(axis=(1, 2))).mean())

    for other in (
        Calibration(best.emcal + 0.02, best.hcal), Calibration(best.emcal - 0.02, best.hcal),
        Calibration(best.emcal, best.hcal + 0.02), Calibration(best.emcal, best.hcal - 0.02),
    ):  # fmt: skip
        assert wmse(best) < wmse(other)


def test_what_is_no_image_is_refused() -> None:
    for function in (lambda images: particle_flow(images, np.zeros(1)), calorimeter_sum):
        with pytest.raises(UserError, match=r"^images of shape \(1, 3, 56, 56\); give \(events, 4, 56, 56\) in GeV$"):
            function(np.zeros((1, 3, 56, 56)))


def test_empty_events_stay_empty() -> None:
    assert not particle_flow(np.zeros((2, 4, 56, 56), np.float32), np.zeros(2)).any()
    assert particle_flow(np.zeros((0, 4, 56, 56), np.float32), np.zeros(0)).shape == (0, 56, 56)
