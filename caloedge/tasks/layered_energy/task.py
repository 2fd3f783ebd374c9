"""Energy of the neutral pion beside a charged one, from images of six calorimeter layers and the track (arXiv 2003.08863).

Events are generated as they are asked for (library `generated`, `detector.layers.events`) or come from a file
(`detector.layers.files`), whose rows are split. Inputs are the six layers on the finest grid, a coarse cell's energy shared
evenly by its pixels, and the track: its momentum in the pixel where it passes the middle of ECAL 2.

The target is the neutral energy of each pixel, summed over the layers; the paper asks for the neutral share of each cell. One
image per event is what a trigger goes on with and what the image networks of this package give; little is lost, since
98 % of a π⁰ are in ECAL 1 and 2, and the share of a pixel follows from it.

Classical method: what a charged pion of the track's momentum deposits in ECAL on average, by distance from the track in each
layer (`PROFILE`), times a factor, is subtracted from the ECAL's sum in each pixel, and what would be negative is 0. The average
is too little where the pion showers early and too much where it does not; the factor is tuned, once for the pixels' energies
and once for the event's.
Axes: E event, C channel, L layer, H row in φ, W column in η, R ring.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import Assessment, Sample, Task
from caloedge.detector.crystals.events import split_rows
from caloedge.detector.layers import geometry
from caloedge.detector.layers.events import Generated, LayeredEvents
from caloedge.detector.layers.files import LayeredSample, open_layered
from caloedge.detector.layers.geometry import EDGES_MM, GUN_DISTANCE_MM, LAYERS, PIXELS, SIDE_MM, TRACK_DEPTH_MM
from caloedge.errors import BadData, UserError
from caloedge.metrics import bootstrap
from caloedge.tasks.layered_energy import assessment
from caloedge.tasks.layered_energy.assessment import NeutralEvents

UNIT_GEV = 16.0
"""Energy that 1 stands for in inputs, outputs and targets, all of which are then below 2."""
SPLITS = ("train", "valid", "test", "all")
CHANNELS = (*(layer.name for layer in LAYERS), "track")
N_ECAL = 3
PIXEL_MM = SIDE_MM / PIXELS
CENTRES_MM = (np.arange(PIXELS) + 0.5) * PIXEL_MM - SIDE_MM / 2

FOR_EVENTS = "classical, for the event's energy"
RING_EDGES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24, 48])
"""Edges of the rings: distances from the track in pixels."""
PROFILE = (
    (0.0132, 0.00449, 0.00218, 0.000323, 5.63e-05, 2.63e-05, 9.53e-06, 2.98e-06, 7.99e-07, 2.77e-07, 6.62e-08, 9.22e-09),
    (0.125, 0.0277, 0.00286, 0.00126, 0.000615, 0.000284, 0.000104, 3.6e-05, 1.02e-05, 2.94e-06, 7.22e-07, 1.41e-07),
    (0.00573, 0.00353, 0.00247, 0.000899, 0.000206, 8.57e-05, 3.41e-05, 1.07e-05, 3.1e-06, 7.87e-07, 2.39e-07, 4.67e-08),
)
"""Mean share of the track's momentum in a pixel, by ECAL layer and ring: what `tuned_profile` finds on training events."""
PIXEL_FACTOR, EVENT_FACTOR = 1.25, 2.5
"""Factors by which the profile is multiplied before it is subtracted: what `tuned_factors` finds on training events."""
FACTORS = np.arange(0.5, 8.25, 0.25)
PROFILE_EVENTS, FACTOR_EVENTS, TUNING_SEED = 2048, 1024, 11


def sample(library: Generated | LayeredSample, split: str, n_events: int, seed: int) -> Sample[NeutralEvents]:
    """Return events of one split, 130 kB each; the same arguments give the same arrays, and more events begin with the same ones.

    Of a file there are at most as many events as it has rows in the split: 70 % train, 15 % valid and test, or all.
    """
    if split not in SPLITS:
        raise UserError(f"split {split!r}: there are {', '.join(SPLITS)}")
    if isinstance(library, Generated):
        events = library.events(n_events, seed, stream=SPLITS.index(split))
    else:
        rows = np.random.default_rng(seed).permutation(split_rows(len(library), split))
        events = library.events.rows(rows[:n_events])
        _check_tracks(library, rows[:n_events], events)
    return composed(events)


def _check_tracks(library: LayeredSample, rows: NDArray[Any], events: LayeredEvents) -> None:
    known = np.isfinite(events.track_gev) & np.isfinite(events.track_mm).all(axis=1)
    if not known.all():
        raise BadData(
            f"{library.path}: event {rows[int(np.argmin(known))]} has no track; this task needs the charged pion's"
            " 'track_gev' (N,) and 'track_mm' (N, 2)"
        )


def composed(events: LayeredEvents) -> Sample[NeutralEvents]:
    """Return events as images in units of `UNIT_GEV`."""
    n = len(events)
    inputs = np.zeros((n, len(CHANNELS), PIXELS, PIXELS), np.float32)
    inputs[:, : len(LAYERS)] = geometry.spread(events.cells_gev)
    column_E, row_E = np.clip(np.floor((events.track_mm + SIDE_MM / 2) / PIXEL_MM), 0, PIXELS - 1).astype(int).T
    inputs[np.arange(n), -1, row_E, column_E] = events.track_gev
    neutral_EHW = geometry.spread(events.neutral_gev).sum(axis=1)
    unit = np.float32(UNIT_GEV)
    return Sample(
        inputs / unit, neutral_EHW[:, None] / unit, NeutralEvents(events.track_gev, events.track_mm, events.distance_mm)
    )


def rings(track_mm: NDArray[Any]) -> NDArray[Any]:
    """Return the ring (E, L, H, W) of each pixel in each ECAL layer around tracks (E, 2), at most the last."""
    middle_L = (EDGES_MM[1 : N_ECAL + 1] + EDGES_MM[:N_ECAL]) / 2
    # Tracks come from the gun's point, so their direction is known.
    axis_EL2 = track_mm[:, None] * ((GUN_DISTANCE_MM + middle_L) / (GUN_DISTANCE_MM + TRACK_DEPTH_MM))[:, None]
    x_ELHW = CENTRES_MM[None, None, None, :] - axis_EL2[:, :, 0, None, None]
    y_ELHW = CENTRES_MM[None, None, :, None] - axis_EL2[:, :, 1, None, None]
    ring_ELHW = np.digitize(np.hypot(x_ELHW, y_ELHW) / PIXEL_MM, RING_EDGES) - 1
    return np.asarray(np.minimum(ring_ELHW, len(RING_EDGES) - 2))


def expected(truth: NeutralEvents, profile: tuple[tuple[float, ...], ...]) -> NDArray[Any]:
    """Return the mean charged energy (E, H, W) in GeV in the ECAL around measured tracks."""
    ring_ELHW = rings(truth.track_mm)
    share_EHW = sum(np.asarray(profile[layer], np.float32)[ring_ELHW[:, layer]] for layer in range(N_ECAL))
    return np.asarray(share_EHW * truth.track_gev[:, None, None].astype(np.float32))


def subtracted(sample: Sample[NeutralEvents], *factors: float) -> Iterator[NDArray[Any]]:
    """Yield for each factor the ECAL's energy (E, H, W) less that many times the mean charged one, in units of `UNIT_GEV`."""
    ecal_EHW = sample.inputs[:, :N_ECAL].sum(axis=1)
    expected_EHW = expected(sample.truth, PROFILE)
    for factor in factors:
        yield np.maximum(ecal_EHW - np.float32(factor / UNIT_GEV) * expected_EHW, 0)


def baseline(sample: Sample[NeutralEvents]) -> NDArray[Any]:
    """Return the classical method's image (E, H, W), tuned for pixels."""
    (image_EHW,) = subtracted(sample, PIXEL_FACTOR)
    return image_EHW


def tuned_profile(library: Generated) -> tuple[tuple[float, ...], ...]:
    """Return the mean charged share by ECAL layer and ring on training events, to three digits.

    `PROFILE` is `tuned_profile(Generated())`; a test repeats that.
    """
    n_rings = len(RING_EDGES) - 1
    energy_LR, pixels_LR = np.zeros((2, N_ECAL, n_rings))
    for first in range(0, PROFILE_EVENTS, 256):
        events = library.events(256, TUNING_SEED, SPLITS.index("train"), first)
        charged = [total - part for total, part in zip(events.cells_gev, events.neutral_gev, strict=True)]
        share_ELHW = geometry.spread(charged)[:, :N_ECAL] / events.track_gev[:, None, None, None]
        ring_ELHW = rings(events.track_mm)
        for layer in range(N_ECAL):
            energy_LR[layer] += np.bincount(ring_ELHW[:, layer].ravel(), share_ELHW[:, layer].ravel(), n_rings)
            pixels_LR[layer] += np.bincount(ring_ELHW[:, layer].ravel(), minlength=n_rings)
    return tuple(tuple(float(f"{share:.3g}") for share in row) for row in energy_LR / pixels_LR)


def tuned_factors(library: Generated) -> tuple[float, float]:
    """Return the factors with the smallest weighted square error of pixels, and of events' responses from 1.

    `PIXEL_FACTOR, EVENT_FACTOR` are `tuned_factors(Generated())`; a test repeats that.
    """
    training = sample(library, "train", FACTOR_EVENTS, TUNING_SEED)
    target_EHW = training.targets[:, 0]
    pixel_errors, response_errors = [], []
    for image_EHW in subtracted(training, *FACTORS.tolist()):
        pixel_errors.append(assessment.weighted_square(image_EHW, target_EHW).mean())
        response_errors.append(((assessment.response(image_EHW, target_EHW) - 1) ** 2).mean())
    return float(FACTORS[np.argmin(pixel_errors)]), float(FACTORS[np.argmin(response_errors)])


def assess(sample: Sample[NeutralEvents], scores: Mapping[str, NDArray[Any]], points: Mapping[str, float]) -> Assessment:
    """Compare the methods on one sample, and with them the classical one tuned for the event's energy; no working points."""
    del points
    images = {name: UNIT_GEV * values.reshape(-1, PIXELS, PIXELS) for name, values in scores.items()}
    (for_events_EHW,) = subtracted(sample, EVENT_FACTOR)
    images[FOR_EVENTS] = UNIT_GEV * for_events_EHW
    layers_ELHW = UNIT_GEV * sample.inputs[:, : len(LAYERS)]
    weights_RE = bootstrap.bootstrap_weights(len(sample.inputs), seed=1)
    return assessment.assess(sample.truth, layers_ELHW, UNIT_GEV * sample.targets[:, 0], images, FOR_EVENTS, weights_RE)


TASK = Task(
    description="neutral energy per pixel beside a charged pion, from six calorimeter layers and a track",
    input_shape=(len(CHANNELS), PIXELS, PIXELS),
    input_unit=f"{UNIT_GEV:g} GeV",
    output="energy",
    loss="image",
    sample=sample,
    baseline=baseline,
    working_points=lambda _sample, _scores: {},
    assess=assess,
    open=open_layered,
    contents="events",
    item="event",
    valid_events=256,
    physical=True,
    lower_is_better=True,
)
