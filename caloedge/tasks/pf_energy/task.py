"""Energy of each pixel of a full event, from images of tracker and calorimeters (arXiv 2410.07250).

Events are generated as they are asked for (`detector.images.response`); those of jets are the library's particles
(`detector.images.particle_samples`) put through the same detector. Half of the events of every set are in the magnetic field.

Images are ranged: where a pixel of an event exceeds `RANGE_GEV`, the whole event is divided by the power of two that brings it
below, and the networks' results are multiplied by it. Hardware cannot have more bits for rare hot pixels; the paper scales
each data set to its own maximum instead. All methods get the same images.
Axes: E event, C channel, H row in η, W column in φ.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import BASELINE, Assessment, Sample, Task
from caloedge.detector.images import response
from caloedge.detector.images.particle_samples import read_particles
from caloedge.detector.images.response import CHANNELS, FIELD_OFF, FIELD_ON, PIXELS, Particles, Spectrum
from caloedge.errors import UserError
from caloedge.metrics.energy_images import TrueImages
from caloedge.reconstruction import energy_flow
from caloedge.tasks.pf_energy import comparison, report

UNIT_GEV = 16.0
"""Energy that 1 stands for in inputs, outputs and targets: about that of the largest pixel of the published events."""
RANGE_GEV = 32.0
EVENTS_PER_BLOCK = 100
CUT_HALF_WIDTHS = (0.1, 0.8)
"""Half widths of the rectangles of `with_empty_regions`, as shares of the detector's in η and φ."""


@dataclass(frozen=True)
class EventSet:
    """Distribution that one set of generated events is drawn from, every combination with the same probability."""

    name: str
    multiplicities: tuple[int, ...]
    """Particles per event."""
    hardnesses: tuple[float, ...]
    """Factors on the published energies."""


TRAINED = EventSet("as trained", (800, 1200, 1600), (0.5, 1.0, 2.0))
OTHERS = (
    EventSet("interpolation", (1000, 1400), (0.7, 1.4)),
    EventSet("2400 particles", (2400,), (1.0,)),
    EventSet("3200 particles", (3200,), (1.0,)),
    EventSet("harder", (1600,), (4.0,)),
)
JETS = "QCD jets"
LARGER = ("float reference_5m", "float reference_25m")
"""Larger networks that the paper's statements on sizes are tested with."""
SETS = (TRAINED.name, *(event_set.name for event_set in OTHERS), JETS)
SHARE = 0.5
"""Events of every other set, as a share of those as trained."""
CALORIMETER_SUM = "calorimeter sum"
"""Name of the other classical method, which `assess` adds."""
TUNING_EVENTS, TUNING_SEED = 250, 11
SPLITS = ("train", "valid", "test", "all")


@dataclass(frozen=True)
class EventTruth:
    """Truth of a sample's events that the metrics use."""

    set_E: NDArray[Any]
    """(E,) index into `SETS`."""
    field_E: NDArray[Any]
    """(E,) rad · GeV."""
    factor_E: NDArray[Any]
    """(E,) powers of two that the event was divided by."""
    energy_EHW: NDArray[Any]
    """(E, 56, 56) true GeV."""


def sample(library: Any, split: str, n_events: int, seed: int) -> Sample[EventTruth]:
    """Generate events of one split; the same arguments give the same arrays, and more events begin with the same ones.

    The test split has `n_events` as trained, then `SHARE` as many of every other set; jets are limited to those of the library.
    """
    parts = [_generated(TRAINED, 0, split, n_events, seed)]
    if split in ("test", "all"):
        n_others = int(SHARE * n_events)
        parts += [_generated(event_set, number, split, n_others, seed) for number, event_set in enumerate(OTHERS, 1)]
        parts.append(_jets(library, min(n_others, library.n_events), seed))
    truth = EventTruth(*(np.concatenate([getattr(truth, f.name) for _, truth in parts]) for f in fields(EventTruth)))
    inputs = np.concatenate([inputs for inputs, _ in parts])
    targets = truth.energy_EHW / (UNIT_GEV * truth.factor_E[:, None, None])
    return Sample(inputs, targets.astype(np.float32)[:, None], truth)


def _generator(seed: int, split: str, set_number: int, block: int) -> np.random.Generator:
    """Return the random numbers of one block of events; no other block, set, split or seed shares them."""
    if split not in SPLITS:
        raise UserError(f"split {split!r}: there are {', '.join(SPLITS)}")
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(SPLITS.index(split), set_number, block)))


def _generated(event_set: EventSet, number: int, split: str, n_events: int, seed: int) -> tuple[NDArray[Any], EventTruth]:
    blocks = []
    for block, first in enumerate(range(0, n_events, EVENTS_PER_BLOCK)):
        rng = _generator(seed, split, number, block)
        # A whole block is drawn even if fewer events are asked for, so that more events begin with the same ones.
        multiplicity_E = rng.choice(event_set.multiplicities, EVENTS_PER_BLOCK)
        hardness_E = rng.choice(event_set.hardnesses, EVENTS_PER_BLOCK)
        particles = response.toy_particles(EVENTS_PER_BLOCK, multiplicity_E, rng, spectrum=Spectrum(hardness_E))
        if split == "train":
            particles = with_empty_regions(particles, EVENTS_PER_BLOCK, rng)
        blocks.append(_detected(particles, EVENTS_PER_BLOCK, number, rng, min(EVENTS_PER_BLOCK, n_events - first)))
    return _joined(blocks)


def with_empty_regions(particles: Particles, n_events: int, rng: np.random.Generator) -> Particles:
    """Remove particles from half of the events: those inside a random rectangle, or those outside.

    The loss weighs errors by energy, and full events have few empty regions: without these regions networks learn to put a little
    energy everywhere, which adds up where most of an event is empty.
    """
    kind_E = rng.integers(4, size=n_events)  # 0 keeps what is inside, 1 what is outside, others all
    half_E2 = rng.uniform(*CUT_HALF_WIDTHS, (n_events, 2))
    centre_E2 = rng.uniform(-1, 1, (n_events, 2))
    event_N = particles.event_N
    position_N2 = np.stack([particles.eta_N / response.MAX_ETA, particles.phi_N / np.pi], axis=1)
    inside_N = (np.abs(position_N2 - centre_E2[event_N]) < half_E2[event_N]).all(axis=1)
    keep_N = np.where(kind_E[event_N] == 0, inside_N, (kind_E[event_N] != 1) | ~inside_N)
    return Particles(*(getattr(particles, f.name)[keep_N] for f in fields(Particles)))


def _jets(library: Any, n_events: int, seed: int) -> tuple[NDArray[Any], EventTruth]:
    blocks = []
    particles: Particles = library.particles
    for block, first in enumerate(range(0, n_events, EVENTS_PER_BLOCK)):
        rng = _generator(seed, "test", len(OTHERS) + 1, block)
        size = min(EVENTS_PER_BLOCK, n_events - first)
        low, high = np.searchsorted(particles.event_N, (first, first + size))
        chosen = Particles(*(getattr(particles, f.name)[low:high] for f in fields(Particles)))
        shifted = Particles(chosen.event_N - first, *(getattr(chosen, f.name) for f in fields(Particles)[1:]))
        blocks.append(_detected(shifted, size, len(OTHERS) + 1, rng, size))
    return _joined(blocks)


def _joined(blocks: list[tuple[NDArray[Any], EventTruth]]) -> tuple[NDArray[Any], EventTruth]:
    if not blocks:
        none, image = np.zeros(0), np.zeros((0, PIXELS, PIXELS), np.float32)
        return np.zeros((0, len(CHANNELS), PIXELS, PIXELS), np.float32), EventTruth(np.zeros(0, int), none, none, image)
    truth = EventTruth(*(np.concatenate([getattr(truth, f.name) for _, truth in blocks]) for f in fields(EventTruth)))
    return np.concatenate([inputs for inputs, _ in blocks]), truth


def _detected(
    particles: Particles, n_events: int, number: int, rng: np.random.Generator, n_kept: int
) -> tuple[NDArray[Any], EventTruth]:
    """Put a block of events through the detector, each in the field or not, and range the images."""
    field_E = np.where(rng.random(n_events) < 0.5, FIELD_ON, FIELD_OFF)
    seen = response.images(particles, n_events, field_E, rng)
    inputs_ECHW = seen.inputs_ECHW[:n_kept]
    factor_E = ranging(inputs_ECHW)
    truth = EventTruth(np.full(n_kept, number), field_E[:n_kept], factor_E, seen.truth_EHW[:n_kept])
    return inputs_ECHW / np.float32(UNIT_GEV) / factor_E[:, None, None, None].astype(np.float32), truth


def ranging(inputs_ECHW: NDArray[Any]) -> NDArray[Any]:
    """Return the powers of two (E,), at least 1, that bring all pixels of events in GeV below `RANGE_GEV`.

    >>> ranging(np.array([31.9, 32.0, 100.0]).reshape(3, 1, 1, 1)).tolist()
    [1.0, 2.0, 4.0]
    """
    largest_E = inputs_ECHW.max(axis=(1, 2, 3), initial=0.0) / RANGE_GEV
    exponent_E = np.frexp(largest_E)[1]  # largest < 2 ** exponent
    return np.asarray(2.0 ** np.maximum(exponent_E, 0))


def inputs_gev(sample: Sample[EventTruth]) -> NDArray[Any]:
    """Return the images (E, 4, 56, 56) float32 in GeV."""
    return np.asarray(sample.inputs * units_gev(sample.truth).astype(np.float32)[:, None, None, None])


def units_gev(truth: EventTruth) -> NDArray[Any]:
    """Return how many GeV (E,) inputs, outputs and targets of 1 stand for."""
    return np.asarray(UNIT_GEV * truth.factor_E)


def baseline(sample: Sample[EventTruth]) -> NDArray[Any]:
    """Reconstruct with a particle flow of tracks and calorimeters, (E, 1, 56, 56); it knows each event's field."""
    energy_EHW = energy_flow.particle_flow(inputs_gev(sample), sample.truth.field_E)
    return _output(energy_EHW, sample.truth)


def calorimeter_sum(sample: Sample[EventTruth]) -> NDArray[Any]:
    """Reconstruct with the calibrated sum of the calorimeters, (E, 1, 56, 56)."""
    return _output(energy_flow.calorimeter_sum(inputs_gev(sample)), sample.truth)


def _output(energy_EHW: NDArray[Any], truth: EventTruth) -> NDArray[Any]:
    """Return energies in GeV as the networks give them."""
    return np.asarray(energy_EHW / units_gev(truth).astype(np.float32)[:, None, None])[:, None]


def tuned_on(library: Any) -> tuple[energy_flow.Calibration, energy_flow.FlowTuning]:
    """Return the constants of the classical methods; `energy_flow` has them, and a test repeats this."""
    training = sample(library, "valid", TUNING_EVENTS, TUNING_SEED)  # whole events
    images, truth = inputs_gev(training), training.truth
    return energy_flow.calibrated(images, truth.energy_EHW), energy_flow.tuned(images, truth.field_E, truth.energy_EHW)


def assess(sample: Sample[EventTruth], scores: Mapping[str, NDArray[Any]], _points: Mapping[str, float]) -> Assessment:
    """Compare the methods' images (E, 1, 56, 56), and those of the calorimeters' sum, with the truth."""
    truth = sample.truth
    events = TrueImages(SETS, truth.set_E, truth.field_E, units_gev(truth), truth.energy_EHW)
    outputs = {**scores, CALORIMETER_SUM: calorimeter_sum(sample)}
    compared = comparison.compare(events, outputs, JETS)
    return Assessment(
        sections=report.sections(compared, sample.inputs, outputs),
        figures=comparison.figures(compared, scores),
        claims=(
            *comparison.claims_of(compared, classical=(BASELINE, CALORIMETER_SUM)),
            *comparison.size_claims(compared, *LARGER, further=(*(event_set.name for event_set in OTHERS[1:]), JETS)),
        ),
        caveats=comparison.caveats(compared),
        replicas=comparison.replicas(compared, scores),
    )


TASK = Task(
    description="energy of each pixel of a full event, from tracker and calorimeter images",
    input_shape=(len(CHANNELS), PIXELS, PIXELS),
    input_unit=f"{UNIT_GEV:g} GeV",
    output="energy",
    loss="image",
    sample=sample,
    baseline=baseline,
    working_points=lambda _sample, _scores: {},
    assess=assess,
    open=read_particles,
    contents="events",
    simulation="parametrised detector",
    item="event",
    valid_events=256,
    physical=True,
    lower_is_better=True,
)
