"""Full events of many particles, and their images in a tracker, an electromagnetic (EMCal) and a hadronic calorimeter (HCal).

Generator and response are those that arXiv 2410.07250 trains with, read from its authors' published simulation:

- tracker: charged particles above 0.1 GeV with their energy, smeared by 5 %, where they are produced;
- field: charged particles then bend by ± `field` / E in φ, and hit the calorimeters there;
- EMCal: above 0.2 GeV a π⁰ deposits 0.9 (E − 0.3 √E) and keeps 0.1 E, a hadron deposits 0.1 E and keeps 0.9 E; smeared by 5 %;
- HCal: a remaining energy R above 0.3 GeV deposits 0.9 (R − 0.3 √R), smeared by 10 %.

Here differs on purpose: φ is an angle, so a particle that bends over ± π comes back on the other side (the published
simulation loses its calorimeter energy). Deposits that the smearing would make negative are 0: ten standard deviations away,
as the thresholds keep E − 0.3 √E positive. Particles of |η| above 2.5 are lost from the inputs and from the truth.
Axes: E event, N particle, C channel, H row in η, W column in φ.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.errors import UserError

PION, NEUTRAL_HADRON, CHARGED_HADRON = range(3)
SPECIES = ("π⁰", "neutral hadron", "charged hadron")
"""Ways in which a particle showers: π⁰ stands for all that ends in the EMCal. The charge decides about track and bending."""
CHANNELS = ("EMCal", "HCal", "track −", "track +")

PIXELS = 56
"""Pixels per side of an image."""
MAX_ETA = 2.5
ETA_H = (np.arange(PIXELS) + 0.5) * (2 * MAX_ETA / PIXELS) - MAX_ETA
"""Pseudorapidities of the rows' centres."""
PHI_W = (np.arange(PIXELS) + 0.5) * (2 * np.pi / PIXELS) - np.pi
"""Azimuths of the columns' centres in rad."""

FIELD_ON, FIELD_OFF = 0.5, 0.0
"""Fields of the two published data sets, in rad · GeV."""
CHARGED_REACH = 0.9
"""Part of the η and φ ranges that charged toy particles keep to."""
WIDTH_GEV = np.sqrt(1.0**2 + 2.0**2)
"""Width of the sum of N(0, 1) and N(0, 2), which is one normal number."""

TRACK_ABOVE_GEV, EMCAL_ABOVE_GEV, HCAL_ABOVE_GEV = 0.1, 0.2, 0.3
NON_LINEARITY = 0.3  # GeV^½
EFFICIENCY = 0.9
EARLY = 0.1
"""Part of a hadron's energy that ends in the EMCal, and of a π⁰'s that passes it."""
RESOLUTION = (0.05, 0.05, 0.1)
"""Relative resolutions of tracker, EMCal and HCal."""


@dataclass(frozen=True)
class Particles:
    """The particles of many events, in any order."""

    event_N: NDArray[Any]
    """(N,) event of each particle, from 0."""
    species_N: NDArray[Any]
    """(N,) index into `SPECIES`."""
    charge_N: NDArray[Any]
    """(N,) −1, 0 or 1."""
    energy_N: NDArray[Any]
    """(N,) true energy in GeV."""
    eta_N: NDArray[Any]
    """(N,) pseudorapidity at production."""
    phi_N: NDArray[Any]
    """(N,) azimuth at production in rad."""

    def __len__(self) -> int:
        return len(self.event_N)


@dataclass(frozen=True)
class Spectrum:
    """Distribution of energies and species that toy particles are drawn from."""

    hardness: float | NDArray[Any] = 1.0
    """Energies are |N(0, 1) + N(0, 2)| GeV times this; one number, or one per event (E,)."""
    shares: tuple[float, float, float] = (0.25, 0.25, 0.5)
    """Shares of the species among particles."""

    def __post_init__(self) -> None:
        """Refuse what is no spectrum."""
        hardness = np.asarray(self.hardness)
        if not (np.isfinite(hardness) & (hardness > 0)).all():
            raise UserError(f"hardness = {self.hardness}: energies are multiplied by it; give finite numbers above 0")
        if len(self.shares) != len(SPECIES) or not min(self.shares) >= 0 or not abs(sum(self.shares) - 1) < 1e-9:
            raise UserError(f"shares = {self.shares}: give those of {', '.join(SPECIES)}, together 1")


TOY = Spectrum()
"""Spectrum of the published data sets."""


@dataclass(frozen=True)
class DetectorImages:
    """Detector images of events and the true images, both in GeV per pixel."""

    inputs_ECHW: NDArray[Any]
    """(E, 4, 56, 56) float32 in the order of `CHANNELS`."""
    truth_EHW: NDArray[Any]
    """(E, 56, 56) float32, the true energies where the particles are produced."""


def toy_particles(
    n_events: int, multiplicity: int | NDArray[Any], rng: np.random.Generator, *, spectrum: Spectrum = TOY
) -> Particles:
    """Draw events of `multiplicity` independent particles each, one number or one per event (E,).

    Equal `rng` give equal particles whatever the hardness, but for their energies, which are proportional to it.
    Raises `UserError` for arguments that cannot be.
    """
    if n_events < 0:
        raise UserError(f"n_events = {n_events}: give 0 or more")
    multiplicity_E = _per_event("multiplicity", multiplicity, n_events)
    if multiplicity_E.dtype.kind not in "iu" or (multiplicity_E < 0).any():
        raise UserError(f"multiplicity = {multiplicity}: give integers of 0 or more")
    event_N = np.repeat(np.arange(n_events), multiplicity_E)
    hardness_N = _per_event("hardness", spectrum.hardness, n_events)[event_N]
    n = len(event_N)
    energy_N = hardness_N * WIDTH_GEV * np.abs(rng.standard_normal(n))
    species_N = np.searchsorted(np.cumsum(spectrum.shares)[:-1], rng.random(n), side="right").astype(np.int8)
    charged_N = species_N == CHARGED_HADRON
    charge_N = np.where(charged_N, np.where(rng.random(n) < 0.5, -1, 1), 0).astype(np.int8)
    direction_2N = rng.uniform(-1, 1, (2, n)) * np.where(charged_N, CHARGED_REACH, 1.0)
    return Particles(event_N, species_N, charge_N, energy_N, MAX_ETA * direction_2N[0], np.pi * direction_2N[1])


def images(particles: Particles, n_events: int, field: float | NDArray[Any], rng: np.random.Generator) -> DetectorImages:
    """Put events through the detector; `field` in rad · GeV, one number or one per event (E,), 0 is off.

    The smearing does not depend on the field: equal `rng` give equal measurements, only elsewhere. Raises `UserError` for
    a field that cannot be, and for particles of other events than 0 to `n_events` − 1.
    """
    field_E = _per_event("field", field, n_events)
    if not ((field_E >= 0) & (field_E < np.inf)).all():
        raise UserError(f"field = {field} rad · GeV: give a finite number of 0 or more")
    event_N = particles.event_N
    if len(event_N) and not (event_N.min() >= 0 and event_N.max() < n_events):
        raise UserError(f"particles of events {event_N.min()} to {event_N.max()}, but images of {n_events} events are wanted")
    track_N, emcal_N, hcal_N = response(particles, rng)
    # Below the EMCal's threshold nothing is deposited, so it does not matter where.
    bend_N = particles.charge_N * field_E[event_N] / np.maximum(particles.energy_N, EMCAL_ABOVE_GEV)
    inside = (particles.eta_N >= -MAX_ETA) & (particles.eta_N < MAX_ETA)
    row_N = np.floor((particles.eta_N[inside] + MAX_ETA) * (PIXELS / (2 * MAX_ETA))).astype(np.int64)
    line_N = event_N[inside] * PIXELS + np.minimum(row_N, PIXELS - 1)  # the last η below the edge may be rounded up to it
    produced_N = line_N * PIXELS + _column(particles.phi_N[inside])
    hit_N = line_N * PIXELS + _column((particles.phi_N + bend_N)[inside])

    def image(pixel_N: NDArray[Any], energy_N: NDArray[Any]) -> NDArray[Any]:
        sums = np.bincount(pixel_N, energy_N[inside], n_events * PIXELS**2)
        return np.asarray(sums.reshape(n_events, PIXELS, PIXELS))

    inputs_ECHW = np.empty((n_events, len(CHANNELS), PIXELS, PIXELS), np.float32)
    inputs_ECHW[:, 0], inputs_ECHW[:, 1] = image(hit_N, emcal_N), image(hit_N, hcal_N)
    for channel, charge in ((2, -1), (3, 1)):
        inputs_ECHW[:, channel] = image(produced_N, np.where(particles.charge_N == charge, track_N, 0))
    return DetectorImages(inputs_ECHW, image(produced_N, particles.energy_N).astype(np.float32))


def response(particles: Particles, rng: np.random.Generator) -> NDArray[Any]:
    """Return what tracker, EMCal and HCal measure of each particle, (3, N) GeV; one normal number is drawn for each."""
    energy_N = particles.energy_N
    pion_N, showers_N = particles.species_N == PION, energy_N > EMCAL_ABOVE_GEV
    track_N = np.where((particles.charge_N != 0) & (energy_N > TRACK_ABOVE_GEV), energy_N, 0)
    emcal_N = np.where(showers_N, np.where(pion_N, _measured(energy_N), EARLY * energy_N), 0)
    rest_N = np.where(showers_N, np.where(pion_N, EARLY, 1 - EARLY), 1) * energy_N
    hcal_N = np.where(rest_N > HCAL_ABOVE_GEV, _measured(rest_N), 0)
    smearing_3N = 1 + np.array(RESOLUTION)[:, None] * rng.standard_normal((3, len(particles)))
    return np.maximum(np.stack([track_N, emcal_N, hcal_N]) * smearing_3N, 0)


def _measured(energy_N: NDArray[Any]) -> NDArray[Any]:
    """Return the non-linear mean response in GeV, which is negative far below the thresholds."""
    return np.asarray(EFFICIENCY * (energy_N - NON_LINEARITY * np.sqrt(energy_N)))


def _column(phi_N: NDArray[Any]) -> NDArray[Any]:
    """Return columns of azimuths, which may lie outside −π to π."""
    return np.floor((phi_N + np.pi) * (PIXELS / (2 * np.pi))).astype(np.int64) % PIXELS


def _per_event(name: str, values: object, n_events: int) -> NDArray[Any]:
    array = np.asarray(values)
    if array.shape not in ((), (n_events,)):
        raise UserError(f"{name} has shape {array.shape}; give one number, or one for each of the {n_events} events")
    return np.broadcast_to(array, (n_events,))
