"""What is said of cluster finders on the same events: efficiency, fakes, energy and position, claims, displays.

Axes: E event, P object, O object of all events, K cluster, B bin, R replica.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import BASELINE, FLOAT, INTEGER, Assessment, Sample, distance_of
from caloedge.metrics import bootstrap, claims, clusters, resolution
from caloedge.metrics.clusters import Clusters
from caloedge.reconstruction.hit_arrays import HitTruth
from caloedge.results import Claim, Image, Number, Plot, Section, Table

WITHIN = 1.03
"""What the integer network is held to, relative to its float twin."""
ENERGY_BINS_GEV = np.array([0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.7, 3.0, 7.0])
DISTANCE_BINS_CM = np.array([5, 8, 12, 16, 20, 26, 32, 40, 60, 100])


@dataclass(frozen=True)
class Map:
    """The energies of an event on the unrolled barrel."""

    energies_XY: NDArray[Any]
    """GeV; x is the ring, y the azimuth."""
    z_X: NDArray[Any]
    """Where the rings are along the beam, in m, descending."""

    def place(self, position: NDArray[Any]) -> tuple[float, float]:
        """Return where a point (3,) in m lies, in cells."""
        rings, cells = self.energies_XY.shape
        ring = np.interp(-position[2], -self.z_X, np.arange(rings) + 0.5)
        return float(ring), float(np.arctan2(position[1], position[0]) / (2 * np.pi) % 1 * cells)


@dataclass(frozen=True)
class Granularity:
    """What differs between crystals and trigger cells."""

    name: str
    least_gev: float
    """Objects of less energy do not count: they seldom reach the threshold of a hit."""
    close_cm: float
    """Objects nearer than this to another one are close."""
    baseline: str
    """What the classical baseline is."""
    map: Callable[[Sample[HitTruth], int], Map]
    """(sample, event)"""


@dataclass(frozen=True)
class Objects:
    """The objects of a sample that count, in the order of their events."""

    event_O: NDArray[Any]
    place_O: NDArray[Any]
    energy_O: NDArray[Any]
    nearest_cm_O: NDArray[Any]
    """Distance of the nearest other object, infinite without one."""
    has_hit_O: NDArray[Any]
    """Whether some hit is mostly the object's: without one, no method can find it."""
    weights_RO: NDArray[Any]
    """Bootstrap weights: events share showers, so both are resampled."""
    weights_RE: NDArray[Any]


@dataclass(frozen=True)
class Found:
    """What one method gives of each object; NaN where it did not find it."""

    is_found_O: NDArray[Any]
    response_O: NDArray[Any]
    """Energy over the true one."""
    miss_cm_O: NDArray[Any]
    """Distance from where the object entered."""
    fakes_E: NDArray[Any]
    doubles_E: NDArray[Any]
    clusters: Clusters


def objects_of(truth: HitTruth, least_gev: float) -> Objects:
    """Return the objects of a sample that count."""
    hits = truth.hits
    apart_EPP = np.linalg.norm(hits.position_EP3[:, :, None] - hits.position_EP3[:, None], axis=3)
    apart_EPP = np.where(np.isfinite(apart_EPP), apart_EPP, np.inf)
    places = np.arange(apart_EPP.shape[1])
    apart_EPP[:, places, places] = np.inf
    has_hit_EP = np.zeros(hits.energy_EP.shape, bool)
    owned = hits.object_H >= 0
    has_hit_EP[hits.event_H[owned], hits.object_H[owned]] = True
    event_O, place_O = np.nonzero(np.nan_to_num(hits.energy_EP) >= least_gev)
    weights_RE = bootstrap.bootstrap_weights(hits.n_events, seed=1)
    shower_O = hits.shower_EP[event_O, place_O]
    units, number_O = np.unique(shower_O, return_inverse=True)
    of_showers_RU = bootstrap.bootstrap_weights(len(units), seed=2)
    of_showers_RU[:, units < 0] = 1
    return Objects(
        event_O,
        place_O,
        hits.energy_EP[event_O, place_O],
        100 * apart_EPP.min(axis=2)[event_O, place_O],
        has_hit_EP[event_O, place_O],
        weights_RE[:, event_O] * of_showers_RU[:, number_O],
        weights_RE,
    )


def found_by(truth: HitTruth, objects: Objects, made: Clusters) -> Found:
    """Return what a method's clusters say of each object."""
    hits = truth.hits
    number_EP = np.full(hits.energy_EP.shape, -1)
    first = np.flatnonzero(made.is_first_K)
    number_EP[made.event_K[first], made.object_K[first]] = first
    cluster_O = number_EP[objects.event_O, objects.place_O]
    is_found_O = cluster_O >= 0
    energy_O = made.energy_K[cluster_O] if len(made.energy_K) else np.zeros(len(cluster_O))
    position_O3 = made.position_K3[cluster_O] if len(made.energy_K) else np.zeros((len(cluster_O), 3))
    miss_O = np.linalg.norm(position_O3 - hits.position_EP3[objects.event_O, objects.place_O], axis=1)
    fake_K, double_K = made.object_K < 0, (made.object_K >= 0) & ~made.is_first_K
    fakes_E, doubles_E = (np.bincount(made.event_K[kind], minlength=hits.n_events) for kind in (fake_K, double_K))
    return Found(
        is_found_O,
        np.where(is_found_O, energy_O / objects.energy_O, np.nan),
        np.where(is_found_O, 100 * miss_O, np.nan),
        fakes_E,
        doubles_E,
        made,
    )


def assess(
    granularity: Granularity,
    sample: Sample[HitTruth],
    scores: Mapping[str, NDArray[Any]],
    points: Mapping[str, float],
) -> Assessment:
    """Compare the methods on one sample, each at its own working point."""
    truth, objects = sample.truth, objects_of(sample.truth, granularity.least_gev)
    found = {
        name: found_by(truth, objects, clusters.clusters(sample, outputs, points[name], points[distance_of(name)]))
        for name, outputs in scores.items()
    }
    rows = {name: _figures(objects, one, granularity) for name, one in found.items()}
    section = Section(
        title="Clusters on the same test events",
        text=f"A cluster belongs to the photon that gave most of the energy of its {granularity.name}; the best cluster of a "
        "photon finds it, others are doubles, those on background are fakes. Threshold and condensation distance of each method "
        f"are those that find most photons on validation events at {clusters.RATE:g} fakes and doubles per event; the baseline "
        f"is {granularity.baseline}. Errors are 68 % bootstrap intervals; events and showers are resampled.",
        blocks=(
            _table(truth, objects, rows, points, granularity),
            *_plots(objects, found, granularity),
            *_displays(sample, found, objects, granularity),
        ),
    )
    every = np.zeros(len(objects.event_O), np.int64)
    shares = {name: resolution.share(one.is_found_O, every == 0, every, 1, objects.weights_RO) for name, one in found.items()}
    return Assessment(
        sections=(section,),
        figures={"Photon efficiency": {name: row[EFFICIENCY] for name, row in rows.items()}},
        claims=_claims(objects, found, granularity) if FLOAT in found and BASELINE in found else (),
        replicas={"Photon efficiency": {name: 100 * share.replicas[:, 0] for name, share in shares.items()}},
    )


EFFICIENCY = "efficiency"


def _figures(objects: Objects, found: Found, granularity: Granularity) -> dict[str, Number]:
    """Return the row of one method in the table."""
    every_O = np.zeros(len(objects.event_O), np.int64)
    close_O = objects.nearest_cm_O < granularity.close_cm

    def share(use_O: NDArray[Any]) -> Number:
        return bootstrap.percent(resolution.share(found.is_found_O, use_O, every_O, 1, objects.weights_RO), 0, "photons")

    def rate(counts_E: NDArray[Any]) -> Number:
        ones = np.ones((len(counts_E), 1), np.int64)
        of = bootstrap.ratio(counts_E[:, None], ones, objects.weights_RE, binomial=False)
        return Number(
            value=100 * float(of.value[0]),
            origin="computed",
            uncertainty=100 * float(of.uncertainty[0]),
            sample=f"{len(counts_E):,} events",
        )

    sample = f"{int(found.is_found_O.sum()):,} photons"
    bias, width, miss = _resolutions(objects, found, every_O, 1)
    return {
        EFFICIENCY: share(every_O == 0),
        f"closer than {granularity.close_cm:g} cm": share(close_O),
        "with a hit of their own": share(objects.has_hit_O),
        "fakes per 100 events": rate(found.fakes_E),
        "doubles per 100 events": rate(found.doubles_E),
        "median response": resolution.number(bias, 0, "", 1, sample),
        "energy resolution": resolution.number(width, 0, "%", 100, sample),
        "position, median miss": resolution.number(miss, 0, "cm", 1, sample),
    }


def _resolutions(
    objects: Objects, found: Found, bin_O: NDArray[Any], n_bins: int
) -> tuple[resolution.Estimate, resolution.Estimate, resolution.Estimate]:
    """Return median response, relative width of the response, and median miss in bins of the objects."""
    return (
        resolution.in_bins(found.response_O, bin_O, n_bins, objects.weights_RO, resolution.median),
        resolution.in_bins(found.response_O, bin_O, n_bins, objects.weights_RO, resolution.relative_width),
        resolution.in_bins(found.miss_cm_O, bin_O, n_bins, objects.weights_RO, resolution.median),
    )


def _table(
    truth: HitTruth,
    objects: Objects,
    rows: Mapping[str, Mapping[str, Number]],
    points: Mapping[str, float],
    granularity: Granularity,
) -> Table:
    columns = next(iter(rows.values()))
    hits_E = np.bincount(truth.hits.event_H, minlength=truth.hits.n_events)
    return Table(
        title="Photons found at equal fakes and doubles",
        columns=("method", *columns, "threshold", "distance"),
        rows=tuple(
            (name, *row.values(), f"{points[name]:.4g}", f"{points[distance_of(name)]:.4g}") for name, row in rows.items()
        ),
        caption=f"{truth.hits.n_events:,} events with one to six photons, {len(objects.event_O):,} photons of at least "
        f"{granularity.least_gev:g} GeV, {np.median(hits_E):.0f} hits per event (median; 95 % have at most "
        f"{np.quantile(hits_E, 0.95):.0f}), {(truth.overflow_E > 0).mean():.2%} of the events with more hits than fit. The "
        "energy resolution is half of the smallest interval with 68.27 % of the responses, over their median. Thresholds: logit "
        "of β, for the baseline GeV.",
    )


def _plots(objects: Objects, found: Mapping[str, Found], granularity: Granularity) -> tuple[Plot, ...]:
    edges = ENERGY_BINS_GEV[granularity.least_gev <= ENERGY_BINS_GEV]
    energy_O, near_O = resolution.bin_of(objects.energy_O, edges), resolution.bin_of(objects.nearest_cm_O, DISTANCE_BINS_CM)
    every_O = np.ones(len(objects.event_O), bool)

    def efficiency(name: str, bin_O: NDArray[Any], bins: NDArray[Any], x_label: str, title: str) -> Plot:
        shares = {
            method: resolution.share(one.is_found_O, every_O, bin_O, len(bins) - 1, objects.weights_RO)
            for method, one in found.items()
        }
        return Plot(
            title=title,
            x_label=x_label,
            y_label="photon efficiency [%]",
            x_scale="log",
            series=tuple(bootstrap.points(method, bins, share, 100) for method, share in shares.items()),
            ratio_to=FLOAT if FLOAT in shares else "",
            caption=name,
        )

    widths = {method: _resolutions(objects, one, energy_O, len(edges) - 1) for method, one in found.items()}
    near = {method: _resolutions(objects, one, near_O, len(DISTANCE_BINS_CM) - 1) for method, one in found.items()}
    distance = "distance of the nearest other photon [cm]"
    return (
        efficiency("All photons.", energy_O, edges, "true photon energy [GeV]", "Efficiency against energy"),
        efficiency("Photons with another one in the event.", near_O, DISTANCE_BINS_CM, distance, "Efficiency against distance"),
        Plot(
            title="Energy resolution",
            x_label="true photon energy [GeV]",
            y_label="half of the 68 % interval over the median [%]",
            x_scale="log",
            series=tuple(resolution.points(method, edges, width, 100) for method, (_, width, _) in widths.items()),
            ratio_to=FLOAT if FLOAT in widths else "",
        ),
        Plot(
            title="Position resolution",
            x_label="true photon energy [GeV]",
            y_label="median distance from the true point [cm]",
            x_scale="log",
            series=tuple(resolution.points(method, edges, miss) for method, (_, _, miss) in widths.items()),
            ratio_to=FLOAT if FLOAT in widths else "",
        ),
        Plot(
            title="Energy resolution against distance",
            x_label=distance,
            y_label="half of the 68 % interval over the median [%]",
            x_scale="log",
            series=tuple(resolution.points(method, DISTANCE_BINS_CM, width, 100) for method, (_, width, _) in near.items()),
        ),
    )


def _displays(
    sample: Sample[HitTruth], found: Mapping[str, Found], objects: Objects, granularity: Granularity
) -> tuple[Image, ...]:
    """Show, of the first hundred events, the one with the most photons that are close to another one."""
    close_E = np.bincount(objects.event_O[objects.nearest_cm_O < granularity.close_cm], minlength=sample.truth.hits.n_events)
    event = int(np.argmax(close_E[:100]))
    shown = granularity.map(sample, event)
    mine_O = np.flatnonzero(objects.event_O == event)
    marks = [
        (*shown.place(position), "true photon") for position in sample.truth.hits.position_EP3[event, objects.place_O[mine_O]]
    ]
    for name, one in found.items():
        marks += [(*shown.place(position), name) for position in one.clusters.position_K3[one.clusters.event_K == event]]
    energies = ", ".join(f"{energy:.2f}" for energy in objects.energy_O[mine_O])
    return (
        Image(
            title=f"An event in {granularity.name}s",
            values=tuple(tuple(row) for row in shown.energies_XY.round(3).tolist()),
            unit="GeV",
            marks=tuple(marks),
            caption=f"Photons of {energies} GeV; the barrel's rings to the right, azimuth upwards. Of the first 100 events, "
            "the one with most photons close to another one.",
        ),
    )


def _claims(objects: Objects, found: Mapping[str, Found], granularity: Granularity) -> tuple[Claim, ...]:
    every_O = np.zeros(len(objects.event_O), np.int64)
    close_O = objects.nearest_cm_O < granularity.close_cm
    shares = {name: resolution.share(one.is_found_O, every_O == 0, every_O, 1, objects.weights_RO) for name, one in found.items()}
    near = {name: resolution.share(one.is_found_O, close_O, every_O, 1, objects.weights_RO) for name, one in found.items()}
    of = {name: _resolutions(objects, found[name], every_O, 1) for name in (INTEGER, FLOAT)}
    lost = claims.ratio(shares[FLOAT].value, shares[FLOAT].replicas, shares[INTEGER].value, shares[INTEGER].replicas)
    widths = [resolution.compared(of[INTEGER][number], of[FLOAT][number]) for number in (1, 2)]
    return (
        claims.claim_at_most(
            "The integer network's efficiency is within 3 % (relative) of its float twin's.",
            "efficiency of the float twin over the integer network's",
            lost,
            WITHIN,
        ),
        claims.claim_at_most(
            "The integer network's energy resolution is within 3 % of its float twin's.",
            "energy resolution over the float twin's",
            widths[0],
            WITHIN,
        ),
        claims.claim_at_most(
            "The integer network's median position error is within 3 % of its float twin's.",
            "position error over the float twin's",
            widths[1],
            WITHIN,
        ),
        claims.claim_clearly_above(
            f"The integer network finds photons closer than {granularity.close_cm:g} cm to another one clearly more often than "
            f"the classical baseline, {granularity.baseline}, at equal fakes and doubles.",
            f"efficiency for photons closer than {granularity.close_cm:g} cm above the baseline's",
            claims.difference(near[INTEGER], near[BASELINE]),
            0,
        ),
    )
