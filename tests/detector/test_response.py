"""Toy particles and the detector's images of them, against a plain reading of the definition particle by particle."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import fields, replace
from itertools import pairwise

import numpy as np
import pytest

from caloedge.detector.images import response
from caloedge.detector.images.response import (
    CHANNELS,
    CHARGED_HADRON,
    ETA_H,
    FIELD_OFF,
    FIELD_ON,
    NEUTRAL_HADRON,
    PHI_W,
    PION,
    TOY,
    DetectorImages,
    Particles,
    Spectrum,
    images,
    toy_particles,
)
from caloedge.errors import UserError

N_EVENTS = 40


class Dice:
    """Stands for a generator: each normal number is the same."""

    def __init__(self, normal: float) -> None:
        self.normal = normal

    def standard_normal(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.full(shape, self.normal)


def one(species: int, charge: int, energy: float, eta: float = 0.01, phi: float = 0.01) -> Particles:
    return Particles(*(np.array([value]) for value in (0, species, charge, energy, eta, phi)))


def seen(particles: Particles, normal: float = 0.0, field: float = FIELD_OFF) -> DetectorImages:
    return images(particles, 1, field, Dice(normal))  # type: ignore[arg-type]


def sums(detected: DetectorImages) -> list[float]:
    """Return the energies of the channels in their order."""
    return [float(channel.sum()) for channel in detected.inputs_ECHW[0]]


def place(image: np.ndarray) -> tuple[int, int]:
    (row,), (column,) = np.nonzero(image)
    return int(row), int(column)


@pytest.fixture(scope="module")
def toy() -> Particles:
    return toy_particles(N_EVENTS, 1600, np.random.default_rng(1))


# Particles


def kolmogorov_smirnov(values: np.ndarray, distribution: Callable[[float], float]) -> float:
    """Return √n times the largest distance from a distribution function: above 1.95 for one in 1000."""
    n = len(values)
    expected = np.array([distribution(float(value)) for value in np.sort(values)])
    return float(np.sqrt(n) * max(np.abs(expected - np.arange(n) / n).max(), np.abs(expected - np.arange(1, n + 1) / n).max()))


def test_energies_are_those_of_two_normal_numbers(toy: Particles) -> None:
    energy = toy.energy_N[:20000]
    assert kolmogorov_smirnov(energy, lambda e: math.erf(e / math.sqrt(2 * (1 + 4)))) < 1.95
    assert kolmogorov_smirnov(energy, lambda e: math.erf(e / math.sqrt(2 * (1 + 2)))) > 1.95  # a variance of 2 would be seen
    rng = np.random.default_rng(2)
    plain = np.abs(rng.normal(0, 1, 20000) + rng.normal(0, 2, 20000))
    both = np.sort(np.concatenate([energy, plain]))
    apart = np.searchsorted(np.sort(energy), both, "right") - np.searchsorted(np.sort(plain), both, "right")
    assert np.abs(apart).max() / 20000 < 1.95 * math.sqrt(2 / 20000)  # as above, for two samples


def test_species_and_charges_come_in_their_shares(toy: Particles) -> None:
    n = len(toy)
    for species, share in ((PION, 0.25), (NEUTRAL_HADRON, 0.25), (CHARGED_HADRON, 0.5)):
        assert abs((toy.species_N == species).mean() - share) < 4 * math.sqrt(share * (1 - share) / n)  # 4σ of a binomial
    charged = toy.species_N == CHARGED_HADRON
    np.testing.assert_array_equal(np.abs(toy.charge_N), charged)
    assert abs(toy.charge_N[charged].mean()) < 4 / math.sqrt(charged.sum())  # 4σ
    assert set(toy.charge_N.tolist()) == {-1, 0, 1}


@pytest.mark.parametrize(("neutral", "reach"), [(True, 1.0), (False, 0.9)])
def test_particles_are_uniform_in_their_ranges(toy: Particles, neutral: bool, reach: float) -> None:
    chosen = (toy.charge_N == 0) == neutral
    for values, end in ((toy.eta_N[chosen], 2.5 * reach), (toy.phi_N[chosen], math.pi * reach)):
        assert np.abs(values).max() <= end
        assert kolmogorov_smirnov(values[:20000], lambda v, end=end: (v / end + 1) / 2) < 1.95
    assert abs(np.corrcoef(toy.eta_N[chosen], toy.phi_N[chosen])[0, 1]) < 4 / math.sqrt(chosen.sum())  # 4σ of none


def test_multiplicities_may_differ_by_event() -> None:
    drawn = toy_particles(4, np.array([3, 0, 1, 5]), np.random.default_rng(3))
    np.testing.assert_array_equal(drawn.event_N, [0, 0, 0, 2, 3, 3, 3, 3, 3])
    assert {len(getattr(drawn, field.name)) for field in fields(drawn)} == {9} == {len(drawn)}


def test_hardness_scales_energies_and_nothing_else() -> None:
    start, hard, mixed = (
        toy_particles(3, 50, np.random.default_rng(4), spectrum=Spectrum(hardness))
        for hardness in (1.0, 1.7, np.array([1.0, 2.0, 0.5]))
    )
    np.testing.assert_allclose(hard.energy_N, 1.7 * start.energy_N, rtol=1e-12)  # rounding of doubles
    np.testing.assert_array_equal(mixed.energy_N, np.repeat([1.0, 2.0, 0.5], 50) * start.energy_N)
    for name in ("event_N", "species_N", "charge_N", "eta_N", "phi_N"):
        np.testing.assert_array_equal(getattr(hard, name), getattr(start, name))


def test_other_shares_are_obeyed() -> None:
    drawn = toy_particles(2, 500, np.random.default_rng(5), spectrum=Spectrum(shares=(0, 1, 0)))
    assert set(drawn.species_N.tolist()) == {NEUTRAL_HADRON}
    assert Spectrum(1.0, (0.25, 0.25, 0.5)) == TOY


# The response of one particle


@pytest.mark.parametrize(
    ("species", "charge", "energy", "expected"),
    [
        # EMCal, HCal, track −, track + in GeV, by hand
        (PION, 0, 4.0, (0.9 * (4 - 0.3 * 2), 0.9 * (0.4 - 0.3 * math.sqrt(0.4)), 0, 0)),
        (PION, 0, 2.25, (0.9 * (2.25 - 0.3 * 1.5), 0, 0, 0)),  # 0.225 GeV remain: below the HCal's 0.3 GeV
        (NEUTRAL_HADRON, 0, 10.0, (1.0, 0.9 * (9 - 0.3 * 3), 0, 0)),
        (CHARGED_HADRON, 1, 10.0, (1.0, 0.9 * (9 - 0.3 * 3), 0, 10)),
        (CHARGED_HADRON, -1, 10.0, (1.0, 0.9 * (9 - 0.3 * 3), 10, 0)),
        (CHARGED_HADRON, -1, 0.25, (0.025, 0, 0.25, 0)),
        (CHARGED_HADRON, 1, 0.15, (0, 0, 0, 0.15)),
        (CHARGED_HADRON, 1, 0.05, (0, 0, 0, 0)),
        (PION, -1, 4.0, (0.9 * (4 - 0.3 * 2), 0.9 * (0.4 - 0.3 * math.sqrt(0.4)), 4, 0)),  # an electron
    ],
)
def test_the_mean_response_is_the_definition(species: int, charge: int, energy: float, expected: tuple[float, ...]) -> None:
    detected = seen(one(species, charge, energy))
    np.testing.assert_allclose(sums(detected), expected, rtol=1e-6)  # float32
    assert detected.truth_EHW.sum() == pytest.approx(energy, rel=1e-6)


@pytest.mark.parametrize(
    ("channel", "species", "charge", "threshold"),
    [
        ("track +", CHARGED_HADRON, 1, 0.1),
        ("track −", CHARGED_HADRON, -1, 0.1),
        ("EMCal", PION, 0, 0.2),
        ("EMCal", NEUTRAL_HADRON, 0, 0.2),
        ("HCal", NEUTRAL_HADRON, 0, 0.3 / 0.9),
        ("HCal", PION, 0, 0.3 / 0.1),
    ],
)
def test_thresholds_open_just_above_themselves(channel: str, species: int, charge: int, threshold: float) -> None:
    below, above = (sums(seen(one(species, charge, threshold * factor)))[CHANNELS.index(channel)] for factor in (0.9999, 1.0001))
    assert below == 0
    assert above > 0


def test_a_threshold_itself_is_below() -> None:
    assert sums(seen(one(CHARGED_HADRON, 1, 0.1)))[3] == 0
    assert sums(seen(one(PION, 0, 0.2)))[0] == 0


@pytest.mark.parametrize(("channel", "resolution"), [(0, 0.05), (1, 0.1), (2, 0.05), (3, 0.05)])
def test_resolutions_are_relative(channel: int, resolution: float) -> None:
    for energy in (1.0, 50.0):
        charge = (-1 if channel == 2 else 1) * (channel > 1)
        particle = one(CHARGED_HADRON if charge else NEUTRAL_HADRON, charge, energy)
        mean, up, down = (sums(seen(particle, normal))[channel] for normal in (0, 2, -3))
        assert up / mean == pytest.approx(1 + 2 * resolution, rel=1e-6)  # float32
        assert down / mean == pytest.approx(1 - 3 * resolution, rel=1e-6)


def test_measurements_are_smeared_apart(toy: Particles) -> None:
    """Each of the three has its own normal number of the right width."""
    measured = response.response(toy, np.random.default_rng(6))
    mean = response.response(toy, Dice(0.0))  # type: ignore[arg-type]
    chosen = (mean > 0).all(axis=0)
    ratio = measured[:, chosen] / mean[:, chosen] - 1
    n = chosen.sum()
    assert n > 20000
    for values, resolution in zip(ratio, (0.05, 0.05, 0.1), strict=True):
        assert abs(values.mean()) < 4 * resolution / math.sqrt(n)  # 4σ
        assert abs(values.std() / resolution - 1) < 4 / math.sqrt(2 * n)  # 4σ
    assert np.abs(np.corrcoef(ratio) - np.eye(3)).max() < 4 / math.sqrt(n)  # 4σ of none


def test_smearing_never_makes_negative_energies() -> None:
    detected = seen(one(CHARGED_HADRON, 1, 10.0), normal=-25.0)
    assert detected.inputs_ECHW.min() == 0
    assert sums(detected) == [0, 0, 0, 0]


# Places


def test_pixels_are_eta_by_phi() -> None:
    for row, column in ((0, 0), (55, 55), (3, 40), (55, 0)):
        detected = seen(one(NEUTRAL_HADRON, 0, 5.0, float(ETA_H[row]), float(PHI_W[column])))
        assert (
            place(detected.truth_EHW[0])
            == place(detected.inputs_ECHW[0, 0])
            == place(detected.inputs_ECHW[0, 1])
            == (row, column)
        )
    np.testing.assert_allclose(ETA_H[[0, -1]], [-2.5 + 2.5 / 56, 2.5 - 2.5 / 56], rtol=1e-12)  # rounding of doubles
    np.testing.assert_allclose(PHI_W[[0, -1]], [-math.pi * 55 / 56, math.pi * 55 / 56], rtol=1e-12)


def test_pixels_end_where_the_next_begin() -> None:
    step = 5 / 56
    for eta, row in ((-2.5, 0), (-2.5 + step * 0.999, 0), (-2.5 + step * 1.001, 1), (np.nextafter(2.5, 0), 55)):
        assert place(seen(one(PION, 0, 5.0, eta=eta)).truth_EHW[0])[0] == row
    step = 2 * math.pi / 56
    for phi, column in ((-math.pi, 0), (-math.pi + step * 0.999, 0), (-math.pi + step * 1.001, 1), (math.pi - 1e-6, 55)):
        assert place(seen(one(PION, 0, 5.0, phi=phi)).truth_EHW[0])[1] == column


@pytest.mark.parametrize("eta", [-2.5001, 2.5, 7.0, math.inf])
def test_particles_outside_are_lost_from_inputs_and_truth(eta: float) -> None:
    detected = seen(one(CHARGED_HADRON, 1, 5.0, eta=eta), field=FIELD_ON)
    assert not detected.inputs_ECHW.any()
    assert not detected.truth_EHW.any()


@pytest.mark.parametrize("charge", [-1, 1])
def test_the_field_turns_charged_particles_after_the_tracker(charge: int) -> None:
    energy, phi = 2.0, float(PHI_W[30])
    detected = seen(one(CHARGED_HADRON, charge, energy, phi=phi), field=FIELD_ON)
    bent = int((phi + charge * 0.5 / energy + math.pi) // (2 * math.pi / 56))
    assert bent != 30
    assert place(detected.inputs_ECHW[0, 0])[1] == place(detected.inputs_ECHW[0, 1])[1] == bent
    assert place(detected.inputs_ECHW[0, 2 if charge < 0 else 3])[1] == place(detected.truth_EHW[0])[1] == 30


@pytest.mark.parametrize(("charge", "start", "end"), [(1, 54, 0), (-1, 1, 55)])
def test_azimuths_come_round(charge: int, start: int, end: int) -> None:
    energy = 0.5 / (2 * 2 * math.pi / 56)  # turns by two pixels
    detected = seen(one(CHARGED_HADRON, charge, energy, phi=float(PHI_W[start])), field=FIELD_ON)
    assert place(detected.inputs_ECHW[0, 0])[1] == end
    assert place(detected.truth_EHW[0])[1] == start
    # Several turns of a field far stronger than the published ones.
    whole = energy * 2 * math.pi * 3
    assert place(seen(one(CHARGED_HADRON, charge, energy, phi=0.01), field=whole).inputs_ECHW[0, 0])[1] == 28


def test_slow_particles_bend_without_error() -> None:
    for energy in (0.0, 5e-324, 0.01, 0.15):
        detected = seen(one(CHARGED_HADRON, 1, energy), field=FIELD_ON)
        assert np.isfinite(detected.inputs_ECHW).all()
        assert not detected.inputs_ECHW[:, :2].any()


def test_the_field_moves_only_charged_particles_in_the_calorimeters(toy: Particles) -> None:
    on, off = (images(toy, N_EVENTS, field, np.random.default_rng(7)) for field in (FIELD_ON, FIELD_OFF))
    np.testing.assert_array_equal(on.truth_EHW, off.truth_EHW)
    np.testing.assert_array_equal(on.inputs_ECHW[:, 2:], off.inputs_ECHW[:, 2:])
    assert (on.inputs_ECHW[:, :2] != off.inputs_ECHW[:, :2]).mean() > 0.3
    # What is deposited stays in its row of η: float32 sums of 56 pixels.
    np.testing.assert_allclose(on.inputs_ECHW.sum(axis=3), off.inputs_ECHW.sum(axis=3), rtol=1e-5, atol=1e-5)
    neutral = Particles(*(getattr(toy, field.name)[toy.charge_N == 0] for field in fields(toy)))
    on, off = (images(neutral, N_EVENTS, field, np.random.default_rng(7)) for field in (FIELD_ON, FIELD_OFF))
    np.testing.assert_array_equal(on.inputs_ECHW, off.inputs_ECHW)


# Whole events


def plain_images(particles: Particles, n_events: int, field: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Read the definition particle by particle."""
    n = len(particles)
    tracker, emcal, hcal = rng.standard_normal((3, n))
    inputs, truth = np.zeros((n_events, 4, 56, 56)), np.zeros((n_events, 56, 56))
    for i in range(n):
        event, charge, energy = int(particles.event_N[i]), int(particles.charge_N[i]), float(particles.energy_N[i])
        phi = float(particles.phi_N[i])
        row = math.floor((particles.eta_N[i] + 2.5) / 5 * 56)
        column = math.floor((phi + math.pi) / (2 * math.pi) * 56)
        truth[event, row, column] += energy
        if charge and energy > 0.1:
            inputs[event, 2 if charge == -1 else 3, row, column] += energy * (1 + 0.05 * tracker[i])
        if charge:
            phi += charge * field / energy
        while phi >= math.pi:
            phi -= 2 * math.pi
        while phi < -math.pi:
            phi += 2 * math.pi
        column = math.floor((phi + math.pi) / (2 * math.pi) * 56)
        if energy > 0.2 and particles.species_N[i] == PION:
            inputs[event, 0, row, column] += (energy - 0.3 * math.sqrt(energy)) * 0.9 * (1 + 0.05 * emcal[i])
            energy = 0.1 * energy
        elif energy > 0.2:
            inputs[event, 0, row, column] += energy * 0.1 * (1 + 0.05 * emcal[i])
            energy = 0.9 * energy
        if energy > 0.3:
            inputs[event, 1, row, column] += (energy - 0.3 * math.sqrt(energy)) * 0.9 * (1 + 0.1 * hcal[i])
    return inputs, truth


@pytest.mark.parametrize("field", [FIELD_ON, FIELD_OFF])
def test_images_are_the_definition_read_particle_by_particle(field: float) -> None:
    particles = toy_particles(5, np.array([300, 0, 1600, 1, 40]), np.random.default_rng(8), spectrum=Spectrum(1.5))
    detected = images(particles, 5, field, np.random.default_rng(9))
    inputs, truth = plain_images(particles, 5, field, np.random.default_rng(9))
    assert detected.inputs_ECHW.dtype == detected.truth_EHW.dtype == np.float32
    np.testing.assert_allclose(detected.inputs_ECHW, inputs, rtol=1e-6, atol=1e-9)  # float32
    np.testing.assert_allclose(detected.truth_EHW, truth, rtol=1e-6, atol=1e-9)
    other, _ = plain_images(particles, 5, field + 0.01, np.random.default_rng(9))
    assert not np.allclose(detected.inputs_ECHW, other, rtol=1e-6, atol=1e-9)  # a slightly different field would be seen


def test_the_order_of_particles_does_not_matter_without_smearing(toy: Particles) -> None:
    order = np.random.default_rng(10).permutation(len(toy))
    mixed = Particles(*(getattr(toy, field.name)[order] for field in fields(toy)))
    one_way, other = (images(p, N_EVENTS, FIELD_ON, Dice(0.0)) for p in (toy, mixed))  # type: ignore[arg-type]
    np.testing.assert_allclose(one_way.inputs_ECHW, other.inputs_ECHW, rtol=1e-6)  # float32
    np.testing.assert_allclose(one_way.truth_EHW, other.truth_EHW, rtol=1e-6)


def mean_gev(measured: Callable[[float], float], opens_gev: float) -> float:
    """Return the mean over the toy's spectrum of what is measured above `opens_gev`, by the trapezoidal rule."""
    density = 2 / math.sqrt(2 * math.pi * 5)
    at = np.linspace(opens_gev, 25, 200_001)
    values = [measured(float(e)) * density * math.exp(-e * e / 10) for e in at]
    return sum((a + b) / 2 for a, b in pairwise(values)) * float(at[1] - at[0])


def test_energies_close_within_statistics(toy: Particles) -> None:
    """Totals of 40 events agree with the integral over the spectrum within 4σ of their own scatter."""
    detected = images(toy, N_EVENTS, FIELD_ON, np.random.default_rng(11))
    np.testing.assert_allclose(detected.truth_EHW.sum(), toy.energy_N.sum(), rtol=1e-5)  # float32

    def shower(e: float) -> float:
        return 0.9 * (e - 0.3 * math.sqrt(e))

    pion_em, hadron_em = mean_gev(shower, 0.2), mean_gev(lambda e: 0.1 * e, 0.2)
    pion_had = mean_gev(lambda e: shower(0.1 * e), 3.0)
    hadron_had = mean_gev(lambda e: shower(0.9 * e), 0.3 / 0.9)
    tracks = mean_gev(lambda e: e, 0.1)
    expected = [
        0.25 * pion_em + 0.75 * hadron_em,
        0.25 * pion_had + 0.75 * hadron_had,
        0.25 * tracks,
        0.25 * tracks,
        mean_gev(lambda e: e, 0.0),
    ]
    totals = [*detected.inputs_ECHW.astype(float).sum(axis=(2, 3)).T, detected.truth_EHW.astype(float).sum(axis=(1, 2))]
    for total, mean in zip(totals, expected, strict=True):
        error = total.std(ddof=1) / math.sqrt(N_EVENTS)
        assert error < 0.01 * 1600 * mean  # else nothing would be compared; 0.2 to 0.7 % were measured
        assert abs(total.mean() - 1600 * mean) < 4 * error


def test_equal_generators_give_equal_events() -> None:
    def made(seed: int) -> DetectorImages:
        rng = np.random.default_rng(seed)
        return images(toy_particles(6, 200, rng), 6, FIELD_ON, rng)

    first, again, other = made(12), made(12), made(13)
    np.testing.assert_array_equal(first.inputs_ECHW, again.inputs_ECHW)
    np.testing.assert_array_equal(first.truth_EHW, again.truth_EHW)
    assert not np.array_equal(first.inputs_ECHW, other.inputs_ECHW)
    assert not np.array_equal(first.truth_EHW, other.truth_EHW)


@pytest.mark.parametrize("n_events", [0, 3])
def test_empty_events_are_empty_images(n_events: int) -> None:
    rng = np.random.default_rng(14)
    none = toy_particles(n_events, 0, rng)
    assert len(none) == 0
    detected = images(none, n_events, FIELD_ON, rng)
    assert detected.inputs_ECHW.shape == (n_events, 4, 56, 56)
    assert detected.truth_EHW.shape == (n_events, 56, 56)
    assert not detected.inputs_ECHW.any()
    assert not detected.truth_EHW.any()


def test_events_are_made_fast_enough() -> None:
    """At least 200 events of 1600 particles a second and core; 1600 were measured."""
    rates = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        start = time.process_time()
        images(toy_particles(32, 1600, rng), 32, FIELD_ON, rng)
        rates.append(32 / (time.process_time() - start))
    assert max(rates) > 200, f"{max(rates):.0f} events/s on {os.cpu_count()} cores"


# Errors


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda rng: toy_particles(-1, 5, rng), "n_events = -1: give 0 or more"),
        (lambda rng: toy_particles(2, -5, rng), "multiplicity = -5: give integers of 0 or more"),
        (lambda rng: toy_particles(2, 1.5, rng), "multiplicity = 1.5: give integers of 0 or more"),
        (
            lambda rng: toy_particles(2, np.array([1, 2, 3]), rng),
            "multiplicity has shape (3,); give one number, or one for each of the 2 events",
        ),
        (
            lambda rng: toy_particles(2, 5, rng, spectrum=Spectrum(np.array([1.0]))),
            "hardness has shape (1,); give one number, or one for each of the 2 events",
        ),
        (lambda rng: Spectrum(0.0), "hardness = 0.0: energies are multiplied by it; give finite numbers above 0"),
        (lambda rng: Spectrum(math.nan), "hardness = nan: energies are multiplied by it; give finite numbers above 0"),
        (
            lambda rng: Spectrum(shares=(0.5, 0.5, 0.5)),
            "shares = (0.5, 0.5, 0.5): give those of π⁰, neutral hadron, charged hadron, together 1",
        ),
        (
            lambda rng: Spectrum(shares=(-0.5, 0.5, 1.0)),
            "shares = (-0.5, 0.5, 1.0): give those of π⁰, neutral hadron, charged hadron, together 1",
        ),
        (
            lambda rng: images(one(PION, 0, 1.0), 1, -0.5, rng),
            "field = -0.5 rad · GeV: give a finite number of 0 or more",
        ),
        (
            lambda rng: images(one(PION, 0, 1.0), 1, math.nan, rng),
            "field = nan rad · GeV: give a finite number of 0 or more",
        ),
        (
            lambda rng: images(replace(one(PION, 0, 1.0), event_N=np.array([7])), 5, 0.5, rng),
            "particles of events 7 to 7, but images of 5 events are wanted",
        ),
        (
            lambda rng: images(replace(one(PION, 0, 1.0), event_N=np.array([-1])), 5, 0.5, rng),
            "particles of events -1 to -1, but images of 5 events are wanted",
        ),
    ],
)
def test_errors_say_what_is_wrong(call: Callable[[np.random.Generator], object], message: str) -> None:
    with pytest.raises(UserError) as caught:
        call(np.random.default_rng(1))
    assert str(caught.value) == message
