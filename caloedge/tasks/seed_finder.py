"""Find the crystals that photons hit: the first step of DeepCluster (arXiv 2311.17914).

A 7 × 7 window around every crystal above 0.5 GeV is a seed if a photon's impact point lies in its central crystal.
Photons without a window count as lost for every method alike. Axes: E event, P photon, W window, B bin, R replica.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import BASELINE, INTEGER, REFERENCE, Assessment, Sample, Task
from caloedge.detector.crystals.events import (
    GRID,
    MARGIN,
    WINDOW,
    CrystalEvents,
    block_generator,
    check_matrix,
    compose,
    split_rows,
    windows,
)
from caloedge.detector.crystals.library import ShowerLibrary
from caloedge.metrics import bootstrap, claims
from caloedge.results import Claim, Image, Number, Plot, Section, Series, Table

EVENTS_PER_BLOCK = 250
PUBLISHED_THRESHOLD = float(np.log(0.3 / 0.7))
"""The paper's seed threshold, probability 0.3, as a logit."""
CLOSE = 3.0
"""Two photons closer than this (in crystals) are what a local maximum cannot separate."""

ENERGY_BINS_GEV = np.geomspace(1, 100, 11)
DISTANCE_BINS = np.array([1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 6, 10, 20, 45])
WINDOW_BINS_GEV = np.geomspace(0.5, 80, 12)


@dataclass(frozen=True)
class SeedTruth:
    """Truth of a sample's windows and photons that the metrics use."""

    event_W: NDArray[Any]
    """(W,) event of each window."""
    crystal_W2: NDArray[Any]
    """(W, 2) central crystal of each window."""
    window_EP: NDArray[Any]
    """(E, 2) number of each photon's window, −1 for none."""
    energy_EP: NDArray[Any]
    """(E, 2) GeV, NaN for an absent photon."""
    distance_E: NDArray[Any]
    """(E,) distance of the two impact points in crystals, NaN for one photon."""
    shower_EP: NDArray[Any]
    """(E, 2) library rows, −1 for an absent photon: events share showers, and errors must know it."""
    shown: CrystalEvents
    """The first block's events, for displays."""

    @property
    def n_events(self) -> int:
        """Number of events."""
        return len(self.distance_E)


def sample(library: ShowerLibrary, split: str, n_events: int, seed: int) -> Sample[SeedTruth]:
    """Compose events from one split and extract their windows; the same arguments give the same arrays."""
    check_matrix(library)
    rows = split_rows(len(library), split)
    blocks = []
    for block, first in enumerate(range(0, n_events, EVENTS_PER_BLOCK)):
        rng = block_generator(seed, split, block)
        blocks.append(_block(compose(library, rows, min(EVENTS_PER_BLOCK, n_events - first), rng)))
    inputs, labels, truths = zip(*blocks, strict=True)
    return Sample(np.concatenate(inputs)[:, None], np.concatenate(labels)[:, None], _join(truths))


def _block(events: CrystalEvents) -> tuple[NDArray[Any], NDArray[Any], SeedTruth]:
    extracted = windows(events)
    n_events = len(events.cells_EXY)
    number_EXY = np.full((n_events, GRID, GRID), -1, np.int64)
    number_EXY[extracted.event_W, extracted.crystal_W2[:, 0], extracted.crystal_W2[:, 1]] = np.arange(len(extracted.event_W))
    present_EP = np.isfinite(events.energy_EP)
    seed_EP2 = np.nan_to_num(np.floor(events.impact_EP2)).astype(np.int64)
    event_EP = np.arange(n_events)[:, None]
    window_EP = np.where(present_EP, number_EXY[event_EP, seed_EP2[..., 0], seed_EP2[..., 1]], -1)
    labels = np.zeros(len(extracted.event_W), np.float32)
    labels[window_EP[window_EP >= 0]] = 1
    distance_E = np.hypot(*(events.impact_EP2[:, 0] - events.impact_EP2[:, 1]).T)
    truth = SeedTruth(
        extracted.event_W, extracted.crystal_W2, window_EP, events.energy_EP, distance_E, shower_EP=events.shower_EP, shown=events
    )
    return extracted.cells_WXY, labels, truth


def _join(truths: tuple[SeedTruth, ...]) -> SeedTruth:
    first_event = np.cumsum([0, *(t.n_events for t in truths)])
    first_window = np.cumsum([0, *(len(t.event_W) for t in truths)])
    return SeedTruth(
        event_W=np.concatenate([t.event_W + e for t, e in zip(truths, first_event, strict=False)]),
        crystal_W2=np.concatenate([t.crystal_W2 for t in truths]),
        window_EP=np.concatenate(
            [np.where(t.window_EP >= 0, t.window_EP + w, -1) for t, w in zip(truths, first_window, strict=False)]
        ),
        energy_EP=np.concatenate([t.energy_EP for t in truths]),
        distance_E=np.concatenate([t.distance_E for t in truths]),
        shower_EP=np.concatenate([t.shower_EP for t in truths]),
        shown=truths[0].shown,
    )


def local_maximum(sample: Sample[SeedTruth]) -> NDArray[Any]:
    """Score the classical seed finder: the central energy in GeV where no neighbour of the eight is higher, else 0."""
    cells_WXY = sample.inputs[:, 0]
    core_WXY = cells_WXY[:, MARGIN - 1 : MARGIN + 2, MARGIN - 1 : MARGIN + 2]
    centre_W = cells_WXY[:, MARGIN, MARGIN]
    return np.where(centre_W >= core_WXY.max(axis=(1, 2)), centre_W, 0).astype(np.float64)


def working_points(sample: Sample[SeedTruth], scores: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Return each method's threshold on the validation sample: the paper's for the reference, equal fake rate for the rest."""
    false_W = sample.targets[:, 0] == 0
    n_events = sample.truth.n_events
    rate = float((scores[REFERENCE][false_W] >= PUBLISHED_THRESHOLD).sum() / n_events)
    points = {name: bootstrap.threshold_at_rate(values[false_W], n_events, rate) for name, values in scores.items()}
    return points | {REFERENCE: PUBLISHED_THRESHOLD}


def assess(sample: Sample[SeedTruth], scores: Mapping[str, NDArray[Any]], thresholds: Mapping[str, float]) -> Assessment:
    """Compare the methods on one sample, each at its own working point."""
    truth = sample.truth
    weights_RE = bootstrap.shared_bootstrap_weights(truth.shower_EP, seed=1)
    selected = {name: values >= thresholds[name] for name, values in scores.items()}
    kinds = {name: _photons(truth, selected_W, _kind(truth), 3, weights_RE) for name, selected_W in selected.items()}
    summary = {name: _summary(sample, scores[name], selected[name], weights_RE) for name in scores}
    photons = int(np.isfinite(truth.energy_EP).sum())
    showers = len(np.unique(truth.shower_EP[truth.shower_EP >= 0]))
    size = f"{truth.n_events:,} events, {photons:,} photons of {showers:,} showers, {len(truth.event_W):,} windows"
    return Assessment(
        sections=(
            Section(
                title="Accuracy on the same test events",
                text="Working points were set on the validation events: the paper's threshold (probability 0.3) for the "
                "published network, and for every other method the threshold that gives the same number of fake seeds per "
                "event there. A photon whose crystal has no window above 0.5 GeV counts as lost. Errors are 68 % bootstrap "
                "intervals; showers are resampled, because composed events share them.",
                blocks=(
                    _summary_table(summary, thresholds, size),
                    *_efficiency_plots(truth, selected, weights_RE),
                    _roc_plot(sample, scores, selected),
                    *_fake_plots(sample, selected, weights_RE),
                    *_displays(sample, selected),
                ),
            ),
        ),
        figures={"Seed efficiency": {name: values["seed efficiency"] for name, values in summary.items()}},
        claims=_claims(kinds, {name: values["fakes per 100 events"] for name, values in summary.items()})
        if REFERENCE in scores
        else (),
        replicas={"Seed efficiency": {name: 100 * _overall(ratio).replicas[:, 0] for name, ratio in kinds.items()}},
        items_per_event=len(truth.event_W) / max(truth.n_events, 1),
    )


def _found(truth: SeedTruth, selected_W: NDArray[Any]) -> NDArray[Any]:
    return np.asarray((truth.window_EP >= 0) & selected_W[np.maximum(truth.window_EP, 0)])


def _kind(truth: SeedTruth) -> NDArray[Any]:
    """Return 0 for a single photon, 1 for a close pair, 2 for a distant pair."""
    kind_E = np.where(np.isnan(truth.distance_E), 0, np.where(truth.distance_E < CLOSE, 1, 2))
    return np.stack([kind_E, kind_E], axis=1)


def _tally(event_N: NDArray[Any], bin_N: NDArray[Any], use_N: NDArray[Any], n_events: int, n_bins: int) -> NDArray[Any]:
    """Count objects per event and bin, (E, B); bins outside 0 … B − 1 are dropped."""
    use_N = use_N & (bin_N >= 0) & (bin_N < n_bins)
    return np.bincount(event_N[use_N] * n_bins + bin_N[use_N], minlength=n_events * n_bins).reshape(n_events, n_bins)


def _photons(
    truth: SeedTruth, selected_W: NDArray[Any], bin_EP: NDArray[Any], n_bins: int, weights_RE: NDArray[Any]
) -> bootstrap.Ratio:
    """Return the share of photons found, per bin."""
    event_N = np.repeat(np.arange(truth.n_events), 2)
    present_N = np.isfinite(truth.energy_EP).ravel()
    found_N = _found(truth, selected_W).ravel()
    total, passed = (_tally(event_N, bin_EP.ravel(), use, truth.n_events, n_bins) for use in (present_N, present_N & found_N))
    return bootstrap.ratio(passed, total, weights_RE)


def _fakes(
    sample: Sample[SeedTruth], selected_W: NDArray[Any], bin_W: NDArray[Any], bin_E: NDArray[Any], weights_RE: NDArray[Any]
) -> bootstrap.Ratio:
    """Return fake seeds per event and bin of the window; `bin_E` (E, B) says which events count in each bin."""
    truth = sample.truth
    fake_W = selected_W & (sample.targets[:, 0] == 0)
    passed = _tally(truth.event_W, bin_W, fake_W, truth.n_events, bin_E.shape[1])
    return bootstrap.ratio(passed, bin_E, weights_RE, binomial=False)


def _summary(
    sample: Sample[SeedTruth], scores_W: NDArray[Any], selected_W: NDArray[Any], weights_RE: NDArray[Any]
) -> dict[str, Number]:
    truth = sample.truth
    everything = _photons(truth, selected_W, np.zeros_like(truth.window_EP), 1, weights_RE)
    kinds = _photons(truth, selected_W, _kind(truth), 3, weights_RE)
    ones = np.ones((truth.n_events, 1))
    fakes = _fakes(sample, selected_W, np.zeros_like(truth.event_W), ones, weights_RE)
    labels_W = sample.targets[:, 0]
    return {
        "seed efficiency": bootstrap.percent(everything, 0, "photons"),
        "one photon": bootstrap.percent(kinds, 0, "photons"),
        f"two photons, < {CLOSE:g} crystals": bootstrap.percent(kinds, 1, "photons"),
        f"two photons, ≥ {CLOSE:g} crystals": bootstrap.percent(kinds, 2, "photons"),
        "fakes per 100 events": Number(
            value=100 * float(fakes.value[0]),
            origin="computed",
            uncertainty=100 * float(fakes.uncertainty[0]),
            sample=f"{truth.n_events:,} events",
        ),
        "ROC AUC": Number(
            value=bootstrap.auc(scores_W, labels_W),
            origin="computed",
            uncertainty=bootstrap.auc_uncertainty(scores_W, labels_W, truth.event_W, weights_RE),
            sample=f"{len(labels_W):,} windows",
        ),
    }


def _summary_table(summary: Mapping[str, Mapping[str, Number]], thresholds: Mapping[str, float], size: str) -> Table:
    columns = next(iter(summary.values()))
    return Table(
        title="Seed finding at thresholds set for equal fake rate",
        columns=("method", *columns, "threshold"),
        rows=tuple((name, *values.values(), f"{thresholds[name]:.4g}") for name, values in summary.items()),
        caption=f"{size}. Thresholds: logits, for the integer network its output code, for the local maximum GeV. The AUC "
        "is that of windows; a local maximum's includes the ties of all windows that are none. The integer edge network is the "
        "quantised twin: their output codes are equal.",
    )


def _efficiency_plots(truth: SeedTruth, selected: Mapping[str, NDArray[Any]], weights_RE: NDArray[Any]) -> tuple[Plot, Plot]:
    energy_bin_EP = np.digitize(truth.energy_EP, ENERGY_BINS_GEV) - 1
    distance_bin_EP = np.repeat(np.digitize(truth.distance_E, DISTANCE_BINS)[:, None] - 1, 2, axis=1)
    pairs = int(np.isfinite(truth.distance_E).sum())
    return tuple(  # type: ignore[return-value]
        Plot(
            title=title,
            x_label=x_label,
            y_label="seed efficiency [%]",
            x_scale="log",
            series=tuple(
                bootstrap.points(name, edges, _photons(truth, selected_W, bin_EP, len(edges) - 1, weights_RE), 100)
                for name, selected_W in selected.items()
            ),
            ratio_to=REFERENCE if REFERENCE in selected else "",
            caption=caption,
        )
        for title, x_label, edges, bin_EP, caption in (
            (
                "Seed efficiency against photon energy",
                "true photon energy [GeV]",
                ENERGY_BINS_GEV,
                energy_bin_EP,
                "All photons. Below 2 GeV many photons leave less than 0.5 GeV in the crystal they hit.",
            ),
            (
                "Seed efficiency against the distance of two photons",
                "distance of the impact points [crystals]",
                DISTANCE_BINS,
                distance_bin_EP,
                f"Both photons of {pairs:,} two-photon events.",
            ),
        )
    )


def _fake_plots(sample: Sample[SeedTruth], selected: Mapping[str, NDArray[Any]], weights_RE: NDArray[Any]) -> tuple[Plot, Plot]:
    truth = sample.truth
    window_bin_W = np.digitize(sample.inputs[:, 0, MARGIN, MARGIN], WINDOW_BINS_GEV) - 1
    every_E = np.ones((truth.n_events, len(WINDOW_BINS_GEV) - 1))
    distance_bin_E = np.digitize(truth.distance_E, DISTANCE_BINS) - 1  # NaN falls behind the last bin
    in_bin_E = distance_bin_E[:, None] == np.arange(len(DISTANCE_BINS) - 1)
    against_energy = {n: _fakes(sample, s, window_bin_W, every_E, weights_RE) for n, s in selected.items()}
    against_distance = {n: _fakes(sample, s, distance_bin_E[truth.event_W], in_bin_E, weights_RE) for n, s in selected.items()}
    return (
        Plot(
            title="Fake seeds against the energy of the crystal",
            x_label="energy of the window's central crystal [GeV]",
            y_label="fake seeds per 100 events and bin",
            x_scale="log",
            series=tuple(bootstrap.points(n, WINDOW_BINS_GEV, r, 100) for n, r in against_energy.items()),
            caption=f"{truth.n_events:,} events with one or two photons.",
        ),
        Plot(
            title="Fake seeds against the distance of two photons",
            x_label="distance of the impact points [crystals]",
            y_label="fake seeds per 100 events",
            x_scale="log",
            series=tuple(bootstrap.points(n, DISTANCE_BINS, r, 100) for n, r in against_distance.items()),
            caption=f"{int(np.isfinite(truth.distance_E).sum()):,} two-photon events.",
        ),
    )


def _roc_plot(sample: Sample[SeedTruth], scores: Mapping[str, NDArray[Any]], selected: Mapping[str, NDArray[Any]]) -> Plot:
    truth = sample.truth
    false_W = sample.targets[:, 0] == 0
    photons = np.isfinite(truth.energy_EP).sum()
    has_window = truth.window_EP >= 0
    curves, points = [], []
    for name, scores_W in scores.items():
        fakes = np.sort(scores_W[false_W])
        seeds = np.sort(scores_W[truth.window_EP[has_window]])
        rates = np.geomspace(3e-3, 3, 60)
        thresholds = [bootstrap.threshold_at_rate(fakes, truth.n_events, rate) for rate in rates]
        x = [100 * float(len(fakes) - np.searchsorted(fakes, threshold)) / truth.n_events for threshold in thresholds]
        y = [100 * float(len(seeds) - np.searchsorted(seeds, threshold)) / float(photons) for threshold in thresholds]
        curves.append(Series(name=name, x=tuple(x), y=tuple(y), style="line"))
        counts = (selected[name] & false_W).sum(), _found(truth, selected[name]).sum()
        points.append(
            Series(name=name, x=(100 * float(counts[0]) / truth.n_events,), y=(100 * float(counts[1]) / float(photons),))
        )
    return Plot(
        title="Seed efficiency against fake seeds",
        x_label="fake seeds per 100 events",
        y_label="seed efficiency [%]",
        x_scale="log",
        series=(*curves, *points),
        caption="Curves: every threshold. Markers: the working points.",
    )


def _displays(sample: Sample[SeedTruth], selected: Mapping[str, NDArray[Any]]) -> tuple[Image, ...]:
    """Show, of the first block's close pairs, the one whose energies differ least, restricted to its neighbourhood."""
    truth, shown = sample.truth, sample.truth.shown
    distance_E = truth.distance_E[: len(shown.cells_EXY)]
    close = np.flatnonzero(distance_E < CLOSE)
    if not len(close):
        return ()
    asymmetry = np.abs(np.log(shown.energy_EP[close, 0] / shown.energy_EP[close, 1]))
    event = int(close[np.argmin(asymmetry)])
    centre = np.clip(shown.impact_EP2[event].mean(axis=0).astype(int) - 7, 0, GRID - 15)
    x0, y0 = (int(c) for c in centre)
    cells = shown.cells_EXY[event, x0 : x0 + 15, y0 : y0 + 15]
    marks = [(float(x - x0), float(y - y0), "true impact") for x, y in shown.impact_EP2[event]]
    for name, selected_W in selected.items():
        for x, y in truth.crystal_W2[selected_W & (truth.event_W == event)]:
            if 0 <= x - x0 < 15 and 0 <= y - y0 < 15:
                marks.append((float(x - x0 + 0.5), float(y - y0 + 0.5), name))
    first, second = shown.energy_EP[event]
    return (
        Image(
            title="Two photons as the network sees them",
            values=tuple(tuple(row) for row in cells.astype(float).round(3).tolist()),
            unit="GeV",
            marks=tuple(marks),
            caption=f"{first:.1f} GeV and {second:.1f} GeV, {distance_E[event]:.2f} crystals apart; energies after noise and "
            "read-out threshold. Of the first events with photons closer than 3 crystals, that of the most similar energies.",
        ),
    )


def _claims(kinds: Mapping[str, bootstrap.Ratio], fakes: Mapping[str, Number]) -> tuple[Claim, ...]:
    """Test what the design promised: integer against published overall, and against the baseline for close pairs."""
    integer, published = (_overall(kinds[name]) for name in (INTEGER, REFERENCE))
    close, base = kinds[INTEGER], kinds[BASELINE]
    rates = {name: f"{number.value:.2f} ± {number.uncertainty:.2f}" for name, number in fakes.items()}

    def prefix(value: float, other_value: float, other: str) -> str:
        return f"{value:.2%} against {other_value:.2%} at {rates[INTEGER]} and {rates[other]} fakes per 100 events: "

    return (
        claims.claim_at_least(
            "The integer network's seed efficiency is at most 0.5 % (absolute) below that of the published float "
            "network as trained here, at thresholds set for equal fake rate.",
            "seed efficiency at most 0.5 % below the published network's",
            claims.difference(integer, published),
            -0.5,
            prefix(integer.value[0], published.value[0], REFERENCE),
        ),
        claims.claim_clearly_above(
            f"The integer network is clearly above the local maximum for two photons closer than {CLOSE:g} crystals.",
            "efficiency for close pairs above the local maximum's",
            claims.difference(close, base, 1),
            0,
            prefix(close.value[1], base.value[1], BASELINE),
        ),
    )


def _overall(kinds: bootstrap.Ratio) -> bootstrap.Ratio:
    """Return the share of photons of all kinds found, one bin; NaN without photons."""
    total = kinds.total.sum(keepdims=True)
    share = kinds.total / total if total[0] else np.full(len(kinds.total), np.nan)
    # A kind without photons has a share of 0 and no value.
    value, replicas = np.nan_to_num(kinds.value) @ share, np.nan_to_num(kinds.replicas) @ share
    none = np.zeros(1)
    return bootstrap.Ratio(np.array([value]), none, none, total, replicas[:, None])


TASK = Task(
    description="find the crystals that photons hit, in 7×7 windows of a 51×51 PbWO4 matrix (DeepCluster's first step)",
    input_shape=(1, WINDOW, WINDOW),
    input_unit="GeV",
    output="logit",
    loss="binary_cross_entropy",
    sample=sample,
    baseline=local_maximum,
    working_points=working_points,
    assess=assess,
    item="window",
)
