"""What is said of cluster finders on the same events: efficiency, purity, energy and position, claims, displays.

Axes: E event, P object, O object of all events, K cluster, B bin, R replica.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import BASELINE, FLOAT, INTEGER, Assessment, Sample, distance_of
from caloedge.detector.crystals.hits import Kind
from caloedge.detector.crystals.rings import BARREL_M
from caloedge.metrics import bootstrap, claims, cluster_purity, clusters, resolution
from caloedge.metrics.cluster_purity import Curve
from caloedge.metrics.clusters import Clusters
from caloedge.reconstruction.hit_arrays import HitTruth
from caloedge.results import Claim, Image, Number, Plot, Section, Series, Table

WITHIN = 1.03
"""What the integer network is held to, relative to its float twin."""
ENERGY_BINS_GEV = np.array([0.05, 0.1, 0.2, 0.35, 0.6, 1.0, 1.7, 3.0, 7.0])
DISTANCE_BINS_CM = np.array([5, 8, 12, 16, 20, 26, 32, 40, 60, 100])
PURITY = 0.97
"""At which methods are compared on events whose fakes and doubles were not made equal on validation events."""
EVENTS_AT_ONCE = 500


@dataclass(frozen=True)
class Map:
    """The energies of an event on the unrolled barrel."""

    energies_XY: NDArray[Any]
    """GeV; x is the ring, y the azimuth."""
    z_X: NDArray[Any]
    """Where the rings are along the beam, in m, descending."""
    least_radius_m: float = 0.0
    """Points nearer to the beam are not on it."""

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
    most: int
    """Clusters of an event that leave."""
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
    counts_EP: NDArray[Any]
    """Which objects of each event they are."""
    has_hit_O: NDArray[Any]
    """Whether some hit is mostly the object's: without one, no method can find it."""
    weights_RO: NDArray[Any]
    """Bootstrap weights: events share showers, so both are resampled."""
    weights_RE: NDArray[Any]

    def only(self, keep_O: NDArray[Any]) -> "Objects":
        """Return some of them."""
        counts_EP = np.zeros_like(self.counts_EP)
        counts_EP[self.event_O[keep_O], self.place_O[keep_O]] = True
        return Objects(
            self.event_O[keep_O],
            self.place_O[keep_O],
            self.energy_O[keep_O],
            self.nearest_cm_O[keep_O],
            counts_EP,
            self.has_hit_O[keep_O],
            self.weights_RO[:, keep_O],
            self.weights_RE,
        )


@dataclass(frozen=True)
class Found:
    """What one method gives of each object; NaN where it did not find it."""

    is_found_O: NDArray[Any]
    response_O: NDArray[Any]
    """Energy over the object's."""
    miss_cm_O: NDArray[Any]
    """Distance from where the object entered, or has its place."""
    fakes_E: NDArray[Any]
    doubles_E: NDArray[Any]
    right_E: NDArray[Any]
    """Clusters that are the best of an object to be found."""
    clusters_E: NDArray[Any]
    """All clusters; those that are none of the above lie on objects that need not be found."""
    clusters: Clusters


def objects_of(truth: HitTruth, least_gev: float) -> Objects:
    """Return the objects of a sample that count."""
    hits = truth.hits
    has_hit_EP = np.zeros(hits.energy_EP.shape, bool)
    owned = hits.object_H >= 0
    has_hit_EP[hits.event_H[owned], hits.object_H[owned]] = True
    counts_EP = np.nan_to_num(hits.energy_EP) >= least_gev
    event_O, place_O = np.nonzero(counts_EP)
    weights_RE = bootstrap.bootstrap_weights(hits.n_events, seed=1)
    shower_O = hits.shower_EP[event_O, place_O]
    units, number_O = np.unique(shower_O, return_inverse=True)
    of_showers_RU = bootstrap.bootstrap_weights(len(units), seed=2)
    of_showers_RU[:, units < 0] = 1
    return Objects(
        event_O,
        place_O,
        hits.energy_EP[event_O, place_O],
        100 * _nearest(hits.position_EP3)[event_O, place_O],
        counts_EP,
        has_hit_EP[event_O, place_O],
        weights_RE[:, event_O] * of_showers_RU[:, number_O],
        weights_RE,
    )


def _nearest(position_EP3: NDArray[Any]) -> NDArray[Any]:
    """Return the distance (E, P) of each object from the nearest other one of its event, infinite without one."""
    nearest_EP = np.full(position_EP3.shape[:2], np.inf)
    places = np.arange(position_EP3.shape[1])
    for first in range(0, len(position_EP3), EVENTS_AT_ONCE):
        position_BP3 = position_EP3[first : first + EVENTS_AT_ONCE]
        apart_BPP = np.linalg.norm(position_BP3[:, :, None] - position_BP3[:, None], axis=3)
        apart_BPP[:, places, places] = np.inf
        nearest_EP[first : first + EVENTS_AT_ONCE] = np.where(np.isfinite(apart_BPP), apart_BPP, np.inf).min(axis=2)
    return nearest_EP


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
    fake_K = made.object_K < 0
    kinds = fake_K, made.is_wrong_K & ~fake_K, made.is_first_K, np.ones(len(fake_K), bool)
    fakes_E, doubles_E, right_E, clusters_E = (np.bincount(made.event_K[kind], minlength=hits.n_events) for kind in kinds)
    return Found(
        is_found_O,
        np.where(is_found_O, energy_O / objects.energy_O, np.nan),
        np.where(is_found_O, 100 * miss_O, np.nan),
        fakes_E,
        doubles_E,
        right_E,
        clusters_E,
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
    kind = truth.hits.kind
    made = {
        # Where the baseline has no cluster its score is negative.
        name: clusters.clusters(sample, outputs, 0 if name == BASELINE else -np.inf, points[distance_of(name)], granularity.most)
        for name, outputs in scores.items()
    }
    found = {name: found_by(truth, objects, one.above(points[name])) for name, one in made.items()}
    compared = [_Compared("at equal fakes and doubles" if kind.is_truth else AS_SIMULATED, objects, found, points)]
    if not kind.is_truth:
        compared += _alike(truth, objects, made, points)
    curves = {name: cluster_purity.curve(one, objects.counts_EP) for name, one in made.items()}
    section = Section(
        title="Clusters on the same test events",
        text=_text(granularity, kind),
        blocks=(
            *(_table(one, truth, granularity) for one in compared),
            *_plots(objects, found, granularity, kind),
            _purity_plot(curves, kind),
            *_displays(sample, found, objects, granularity),
        ),
    )
    every = np.zeros(len(objects.event_O), np.int64)
    shares = {name: resolution.share(one.is_found_O, every == 0, every, 1, objects.weights_RO) for name, one in found.items()}
    figure = f"{_capital(kind.object)} efficiency"
    return Assessment(
        sections=(section,),
        figures={figure: {name: _figures(objects, one, granularity, kind)[EFFICIENCY] for name, one in found.items()}},
        claims=_claims(compared[0], compared[-1], granularity, kind) if FLOAT in found and BASELINE in found else (),
        replicas={figure: {name: 100 * share.replicas[:, 0] for name, share in shares.items()}},
    )


EFFICIENCY = "efficiency"
AS_SIMULATED = "at the working points of simulated photons"


@dataclass(frozen=True)
class _Compared:
    """What all methods find at one choice of their thresholds."""

    how: str
    """The choice, such as "at equal fakes and doubles"."""
    objects: Objects
    found: Mapping[str, Found]
    points: Mapping[str, float]


def _alike(truth: HitTruth, objects: Objects, made: Mapping[str, Clusters], points: Mapping[str, float]) -> list[_Compared]:
    """Compare methods where they are alike on these events: at the baseline's efficiency, and last at `PURITY` in the barrel.

    Photons were simulated in the barrel only, so the end caps are new to a network.
    """
    hits = truth.hits
    barrel_O = _in_barrel(hits.position_EP3[objects.event_O, objects.place_O])
    in_barrel = {name: one.only(_in_barrel(hits.position_H3[one.hit_K])) for name, one in made.items()}
    compared = []
    for where, mine, theirs in ("", objects, made), (" in the barrel", objects.only(barrel_O), in_barrel):
        curves = {name: cluster_purity.curve(one, mine.counts_EP) for name, one in theirs.items()}
        most = curves[BASELINE].efficiency_T.max(initial=0)
        for how, thresholds in {
            "at the efficiency of all clusters of the baseline": {name: one.at_efficiency(most) for name, one in curves.items()},
            f"at a purity of {100 * PURITY:g} %": {name: one.at_purity(PURITY) for name, one in curves.items()},
        }.items():
            found = {name: found_by(truth, mine, one.above(thresholds[name])) for name, one in theirs.items()}
            compared.append(_Compared(how + where, mine, found, {**points, **thresholds}))
    return compared


def _in_barrel(position_N3: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.hypot(position_N3[:, 0], position_N3[:, 1]) > BARREL_M)


def _text(granularity: Granularity, kind: Kind) -> str:
    """Return what tables and figures count."""
    counted = (
        f"A cluster belongs to the {kind.object} that gave most of the energy of its {granularity.name}; the best cluster of one "
        "finds it, others are doubles, those on background are fakes. Purity is the share of clusters that find one. "
    )
    if not kind.is_truth:
        counted += (
            f"To be found are those that the experiment matches to a particle; clusters on its other {kind.object}s are neither "
            "right nor wrong, they count in the purity only. They are another algorithm's clusters: a particle may have two. "
        )
    return counted + (
        "Threshold and condensation distance of each method are those that find most photons on validation events at "
        f"the baseline's number of fakes and doubles per event{'' if kind.is_truth else ', of simulated photons'}; the baseline "
        f"is {granularity.baseline}. Errors are 68 % bootstrap intervals; events {'and showers ' if kind.is_truth else ''}are "
        "resampled."
    )


def _capital(noun: str) -> str:
    return noun[0].upper() + noun[1:]


def _figures(objects: Objects, found: Found, granularity: Granularity, kind: Kind) -> dict[str, Number]:
    """Return the row of one method in the table."""
    every_O = np.zeros(len(objects.event_O), np.int64)
    close_O = objects.nearest_cm_O < granularity.close_cm
    counted = f"{kind.object}s"

    def share(use_O: NDArray[Any]) -> Number:
        return bootstrap.percent(resolution.share(found.is_found_O, use_O, every_O, 1, objects.weights_RO), 0, counted)

    def rate(counts_E: NDArray[Any]) -> Number:
        ones = np.ones((len(counts_E), 1), np.int64)
        of = bootstrap.ratio(counts_E[:, None], ones, objects.weights_RE, binomial=False)
        return Number(
            value=100 * float(of.value[0]),
            origin="computed",
            uncertainty=100 * float(of.uncertainty[0]),
            sample=f"{len(counts_E):,} events",
        )

    sample = f"{int(found.is_found_O.sum()):,} {counted}"
    bias, width, miss = _resolutions(objects, found, every_O, 1)
    purity = bootstrap.ratio(found.right_E[:, None], found.clusters_E[:, None], objects.weights_RE)
    others_E = found.clusters_E - found.right_E - found.doubles_E - found.fakes_E
    return {
        EFFICIENCY: share(every_O == 0),
        f"closer than {granularity.close_cm:g} cm": share(close_O),
        "with a hit of their own": share(objects.has_hit_O),
        "purity": bootstrap.percent(purity, 0, "clusters"),
        "fakes per 100 events": rate(found.fakes_E),
        "doubles per 100 events": rate(found.doubles_E),
        **({} if kind.is_truth else {f"on other {counted} per 100 events": rate(others_E)}),
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


def _table(compared: _Compared, truth: HitTruth, granularity: Granularity) -> Table:
    kind, points = truth.hits.kind, compared.points
    rows = {name: _figures(compared.objects, one, granularity, kind) for name, one in compared.found.items()}
    hits_E = np.bincount(truth.hits.event_H, minlength=truth.hits.n_events)
    return Table(
        title=f"{_capital(kind.object)}s found {compared.how}",
        columns=("method", *next(iter(rows.values())), "threshold", "distance"),
        rows=tuple(
            (name, *row.values(), f"{points[name]:.4g}", f"{points[distance_of(name)]:.4g}") for name, row in rows.items()
        ),
        caption=f"{truth.hits.n_events:,} {kind.events}, {len(compared.objects.event_O):,} {kind.object}s of at least "
        f"{granularity.least_gev:g} GeV, {np.median(hits_E):.0f} hits per event (median; 95 % have at most "
        f"{np.quantile(hits_E, 0.95):.0f}), {(truth.overflow_E > 0).mean():.2%} of the events with more hits than fit. The "
        "energy resolution is half of the smallest interval with 68.27 % of the responses, over their median. Thresholds: logit "
        "of β, for the baseline GeV.",
    )


def _purity_plot(curves: Mapping[str, Curve], kind: Kind) -> Plot:
    series = {method: curve.points() for method, curve in curves.items()}
    return Plot(
        title="Purity against efficiency",
        x_label=f"{kind.object} efficiency [%]",
        y_label="purity [%]",
        series=tuple(
            Series(name=method, x=tuple((100 * x).tolist()), y=tuple((100 * y).tolist()), style="line")
            for method, (x, y) in series.items()
        ),
        caption="At all thresholds, at the condensation distance of each method's working point.",
    )


def _plots(objects: Objects, found: Mapping[str, Found], granularity: Granularity, kind: Kind) -> tuple[Plot, ...]:
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
            y_label=f"{kind.object} efficiency [%]",
            x_scale="log",
            series=tuple(bootstrap.points(method, bins, share, 100) for method, share in shares.items()),
            ratio_to=FLOAT if FLOAT in shares else "",
            caption=name,
        )

    widths = {method: _resolutions(objects, one, energy_O, len(edges) - 1) for method, one in found.items()}
    near = {method: _resolutions(objects, one, near_O, len(DISTANCE_BINS_CM) - 1) for method, one in found.items()}
    distance = f"distance of the nearest other {kind.object} [cm]"
    true = f"{'true ' if kind.is_truth else ''}{kind.object}"
    some = f"{_capital(kind.object)}s"
    return (
        efficiency(f"All {kind.object}s.", energy_O, edges, f"{true} energy [GeV]", "Efficiency against energy"),
        efficiency(f"{some} with another one in the event.", near_O, DISTANCE_BINS_CM, distance, "Efficiency against distance"),
        Plot(
            title="Energy resolution",
            x_label=f"{true} energy [GeV]",
            y_label="half of the 68 % interval over the median [%]",
            x_scale="log",
            series=tuple(resolution.points(method, edges, width, 100) for method, (_, width, _) in widths.items()),
            ratio_to=FLOAT if FLOAT in widths else "",
        ),
        Plot(
            title="Position resolution",
            x_label=f"{true} energy [GeV]",
            y_label=f"median distance from the {true} [cm]",
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
    """Show, of the first hundred events, the one with the most objects that are close to another one, in the barrel."""
    close_E = np.bincount(objects.event_O[objects.nearest_cm_O < granularity.close_cm], minlength=sample.truth.hits.n_events)
    event = int(np.argmax(close_E[:100]))
    shown, kind = granularity.map(sample, event), sample.truth.hits.kind
    mine_O = np.flatnonzero(objects.event_O == event)
    marked = {
        f"true {kind.object}" if kind.is_truth else kind.object: sample.truth.hits.position_EP3[event, objects.place_O[mine_O]],
        **{name: one.clusters.position_K3[one.clusters.event_K == event] for name, one in found.items()},
    }
    marks = [
        (*shown.place(position), name)
        for name, positions in marked.items()
        for position in positions
        if shown.least_radius_m <= np.hypot(position[0], position[1])
    ]
    energies = ", ".join(f"{energy:.2f}" for energy in objects.energy_O[mine_O])
    return (
        Image(
            title=f"An event in {granularity.name}s",
            values=tuple(tuple(row) for row in shown.energies_XY.round(3).tolist()),
            unit="GeV",
            marks=tuple(marks),
            caption=f"{_capital(kind.object)}s of {energies} GeV; the barrel's rings to the right, azimuth upwards. Of the first "
            f"100 events, the one with most {kind.object}s close to another one.",
        ),
    )


def _claims(own: _Compared, equal: _Compared, granularity: Granularity, kind: Kind) -> tuple[Claim, ...]:
    """Judge the integer network: against its twin at `own` working points, against the baseline where they are `equal`."""
    objects, found = own.objects, own.found
    every_O = np.zeros(len(objects.event_O), np.int64)
    shares = {name: resolution.share(one.is_found_O, every_O == 0, every_O, 1, objects.weights_RO) for name, one in found.items()}
    close_O = equal.objects.nearest_cm_O < granularity.close_cm
    near = {
        name: resolution.share(one.is_found_O, close_O, np.zeros(len(close_O), np.int64), 1, equal.objects.weights_RO)
        for name, one in equal.found.items()
    }
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
            f"The integer network finds {kind.object}s closer than {granularity.close_cm:g} cm to another one clearly more often "
            f"than the classical baseline, {granularity.baseline}, {equal.how}.",
            f"efficiency for {kind.object}s closer than {granularity.close_cm:g} cm above the baseline's",
            claims.difference(near[INTEGER], near[BASELINE]),
            0,
        ),
    )
