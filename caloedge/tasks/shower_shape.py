"""Tell one photon from two and from a π⁰ by 16 shower-shape variables of a 5 × 5 window of PbWO4 crystals.

Five classes: one photon; two photons closer than 1 crystal, 1–2 and 2–3 crystals apart; π⁰ → γγ. The network's size and
form, 16 variables and 5 classes, are those of the field's benchmark (jet tagging, JINST 13 (2018) P07027).

Events: the total energy of every class is log-uniform from 8 to 100 GeV, and its sharing between two photons uniform with
at least 1 GeV each. For a π⁰ that is the isotropic decay. Above 8 GeV a π⁰'s photons are then never farther apart than
3 crystals, so that no cut on the distance bends its spectrum. The photons' distance follows from their energies and the
π⁰'s mass (`events.pion_distance`); that of the other pairs is uniform within their class. Photons hit at a right angle.

The classes overlap, and no method can be perfect: a π⁰ differs from two photons at its distance only by the mass relation
between energy and distance, above 50 GeV its photons are mostly less than half a crystal apart, two photons within a
tenth of a crystal are a photon but for fluctuations, and a second photon of little energy drowns in the first's shower or
in the noise, or lies outside the window.

The variables (`reconstruction.shower_shapes`) are computed before the network; they are not part of its firmware.
Axes: E event, P photon, X and Y crystal, K class, B bin, R replica.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import BASELINE, INTEGER, REFERENCE, Assessment, Sample, Task
from caloedge.detector.crystals import events
from caloedge.detector.crystals.library import ShowerLibrary
from caloedge.errors import BadData
from caloedge.metrics import bootstrap, claims
from caloedge.reconstruction import shower_shapes
from caloedge.results import Claim, Number, Plot, Section, Series, Table

EVENTS_PER_BLOCK = 1000
CLASSES = ("one photon", "two photons, < 1 crystal", "two photons, 1–2 crystals", "two photons, 2–3 crystals", "π⁰")
PHOTON, PION = 0, 4
TOTAL_GEV = (8.0, 100.0)
LOWEST_PHOTON_GEV = 1.0
"""Lowest energy of the library's photons."""
BOUNDS_K2 = np.array([[0, 0], [0, 1], [1, 2], [2, 3], [0, 3]], np.float64)
"""Distances of each class in crystals, [low, high)."""
EFFICIENCY = 0.9
"""Efficiency for single photons at which the working points are set."""

CUT_VARIABLES = ("e2_e1", "major", "root_mass")
CUTS = (0.4, 0.46, 0.74, 1.06, 0.56, 0.92)
"""Cuts of the baseline, in the order of `chosen_by_cuts`: what `tuned_cuts` finds on training events of the shipped library."""
CUT_GRID = np.arange(0.02, 1.6, 0.02).round(2)
CUT_EVENTS, CUT_SEED = 40_000, 11

ENERGY_BINS_GEV = np.geomspace(*TOTAL_GEV, 9)
DISTANCE_BINS = np.array([0, 0.2, 0.4, 0.6, 0.8, 1, 1.25, 1.5, 1.75, 2, 2.5, 3])


@dataclass(frozen=True)
class ShapeTruth:
    """Truth of a sample's events that the metrics use."""

    class_E: NDArray[Any]
    """(E,) index into `CLASSES`."""
    energy_EP: NDArray[Any]
    """(E, 2) GeV, NaN for an absent photon."""
    distance_E: NDArray[Any]
    """(E,) distance of the two impact points in crystals, NaN for one photon."""
    angle_E: NDArray[Any]
    """(E,) opening angle of a π⁰'s photons in radians, NaN for others; with its energies it gives the π⁰'s mass."""
    shower_EP: NDArray[Any]
    """(E, 2) library rows, −1 for an absent photon: events share showers, and errors must know it."""

    @property
    def total_gev(self) -> NDArray[Any]:
        """True energy (E,) of each event."""
        return np.asarray(np.nansum(self.energy_EP, axis=1))


def sample(library: ShowerLibrary, split: str, n_events: int, seed: int) -> Sample[ShapeTruth]:
    """Compose events of one split and compute their variables; the same arguments give the same arrays."""
    events.check_matrix(library)
    _check_energies(library)
    rows = events.split_rows(len(library), split)
    inputs, truths = [], []
    for block, first in enumerate(range(0, n_events, EVENTS_PER_BLOCK)):
        rng = events.block_generator(seed, split, block)
        truth, windows_EXY = compose(library, rows, min(EVENTS_PER_BLOCK, n_events - first), rng)
        inputs.append(shower_shapes.scaled(shower_shapes.variables(windows_EXY)))
        truths.append(truth)
    joined = ShapeTruth(*(np.concatenate([getattr(truth, field.name) for truth in truths]) for field in fields(ShapeTruth)))
    return Sample(np.concatenate(inputs), np.eye(len(CLASSES), dtype=np.float32)[joined.class_E], joined)


def _check_energies(library: ShowerLibrary) -> None:
    low, high = library.energies_mev.min() * 1e-3, library.energies_mev.max() * 1e-3
    if low > 2 * LOWEST_PHOTON_GEV or high < TOTAL_GEV[1] / 2:
        raise BadData(
            f"{library.path}: photons of {low:.3g} to {high:.3g} GeV; shower shapes need {LOWEST_PHOTON_GEV:g} to"
            f" {TOTAL_GEV[1]:g} GeV (caloedge simulate --min-energy-gev 1 --max-energy-gev 100)"
        )


def compose(
    library: ShowerLibrary, rows: NDArray[Any], n_events: int, rng: np.random.Generator
) -> tuple[ShapeTruth, NDArray[Any]]:
    """Return events of all classes in equal shares, and their windows (E, 5, 5) in GeV around the highest crystal."""
    class_E = rng.integers(len(CLASSES), size=n_events)
    total_E = np.exp(rng.uniform(np.log(TOTAL_GEV[0]), np.log(TOTAL_GEV[1]), n_events))
    lowest_E = LOWEST_PHOTON_GEV / total_E
    share_E = lowest_E + (1 - 2 * lowest_E) * rng.random(n_events)
    low_E, high_E = BOUNDS_K2[class_E].T
    distance_E = rng.uniform(low_E, high_E)
    two, pion = class_E != PHOTON, class_E == PION
    shower_EP = np.full((n_events, 2), -1)
    step_E2 = np.zeros((n_events, 2), np.int64)
    near_EK = events.nearest_in_energy(library, rows, total_E[~two], min(events.CANDIDATES, len(rows)))
    shower_EP[~two, 0] = rng.permuted(near_EK, axis=1)[:, 0]
    target_EP = np.stack([share_E, 1 - share_E], axis=1) * total_E[:, None]
    target_distance_E = np.where(pion, np.nan, distance_E)[two]
    shower_EP[two], step_E2[two], distance_E[two] = events.match_pairs(
        library, rows, target_EP[two], target_distance_E, BOUNDS_K2[class_E[two]], rng
    )
    energy_EP = np.where(shower_EP < 0, np.nan, library.energies_mev[shower_EP] * 1e-3)
    angle_E = np.where(pion, events.opening_angle(energy_EP), np.nan)
    truth = ShapeTruth(class_E, energy_EP, np.where(two, distance_E, np.nan), angle_E, shower_EP)
    patch_EXY = events.deposit_patch(library, shower_EP, step_E2)
    noisy = events.digitise(patch_EXY.reshape(1, -1), rng)  # crystals are independent: all events at once
    return truth, shower_shapes.highest_window(noisy.reshape(patch_EXY.shape))


def chosen_by_cuts(values: tuple[NDArray[Any], ...], cuts: tuple[float, ...]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return how far (E,) each event is inside both cuts on one photon, and the class (E,) of what is not one.

    `values` are those of `CUT_VARIABLES`. One photon: e2_e1 < c₀ and major < c₁; else π⁰: c₂ ≤ root_mass < c₃; else the
    distance from major, with borders at c₄ and c₅.
    """
    e2_e1, major, root_mass = values
    spread = {variable.name: variable.scale for variable in shower_shapes.VARIABLES}
    inside = np.minimum((cuts[0] - e2_e1) / spread["e2_e1"], (cuts[1] - major) / spread["major"])
    pair = 1 + (major >= cuts[4]).astype(np.int64) + (major >= cuts[5])
    return inside, np.where((root_mass >= cuts[2]) & (root_mass < cuts[3]), PION, pair)


def baseline(sample: Sample[ShapeTruth]) -> NDArray[Any]:
    """Score with cuts on three variables (E, K): the highest score is the class chosen, the first grows with the margin."""
    inside, other = chosen_by_cuts(tuple(shower_shapes.unscaled(sample.inputs, name) for name in CUT_VARIABLES), CUTS)
    scores = np.where(np.arange(len(CLASSES)) == other[:, None], 0.0, -1e3)
    scores[:, PHOTON] = inside
    return scores


def tuned_cuts(library: ShowerLibrary) -> tuple[float, ...]:
    """Return the cuts that classify most training events right: one after the other on a grid until none changes.

    `CUTS` is `tuned_cuts(open_library("pbwo4_gamma"))`; a test repeats that.
    """
    training = sample(library, "train", CUT_EVENTS, CUT_SEED)
    values = tuple(shower_shapes.unscaled(training.inputs, name) for name in CUT_VARIABLES)

    def right(cuts: tuple[float, ...]) -> int:
        inside, other = chosen_by_cuts(values, cuts)
        return int((np.where(inside > 0, PHOTON, other) == training.truth.class_E).sum())

    cuts: tuple[float, ...] = (0.3, 0.4, 0.8, 1.2, 0.6, 0.9)
    before: tuple[float, ...] = ()
    while cuts != before:
        before = cuts
        for i in range(len(cuts)):
            cuts = max(((*cuts[:i], float(cut), *cuts[i + 1 :]) for cut in CUT_GRID), key=right)
    return cuts


def photon_score(scores_EK: NDArray[Any]) -> NDArray[Any]:
    """Return the score (E,) of one photon above the best other class: for integer networks a difference of codes."""
    return np.asarray(scores_EK[:, PHOTON] - np.delete(scores_EK, PHOTON, axis=1).max(axis=1))


def working_points(sample: Sample[ShapeTruth], scores: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Return each method's threshold on `photon_score` that keeps 90 % of the validation sample's single photons."""
    photon_E = sample.truth.class_E == PHOTON
    return {name: bootstrap.threshold_at_efficiency(photon_score(v)[photon_E], EFFICIENCY) for name, v in scores.items()}


def assess(sample: Sample[ShapeTruth], scores: Mapping[str, NDArray[Any]], thresholds: Mapping[str, float]) -> Assessment:
    """Compare the methods on one sample: the class of the highest score, and photons selected at the working points."""
    truth = sample.truth
    weights_RE = bootstrap.shared_bootstrap_weights(truth.shower_EP, seed=1)
    chosen = {name: values.argmax(axis=1) for name, values in scores.items()}
    selected = {name: photon_score(values) >= thresholds[name] for name, values in scores.items()}
    accuracy = {name: _share(chosen_E == truth.class_E, np.ones_like(chosen_E), weights_RE) for name, chosen_E in chosen.items()}
    return Assessment(
        sections=(
            Section(
                title="Accuracy on the same test events",
                text="The class chosen is that of the highest score (of equal codes, the first). Photons are also selected by "
                "the score of one photon above the best other class; thresholds were set on validation events to keep 90 % of "
                "the single photons. The baseline is a sequence of cuts on e2_e1, major and root_mass, tuned on training events. "
                "Errors are 68 % bootstrap intervals; showers are resampled, because composed events share them.",
                blocks=(
                    _summary_table(truth, scores, selected, accuracy, thresholds, weights_RE),
                    *_class_tables(truth, chosen, weights_RE),
                    *_rejection_plots(truth, selected, weights_RE),
                    _accuracy_plot(truth, chosen, weights_RE),
                    _roc_plot(truth, scores, selected),
                    _mass_plot(sample),
                ),
            ),
        ),
        figures={"Accuracy": {name: bootstrap.percent(ratio, 0, "events") for name, ratio in accuracy.items()}},
        claims=_claims(accuracy) if REFERENCE in scores else (),
        replicas={"Accuracy": {name: 100 * ratio.replicas[:, 0] for name, ratio in accuracy.items()}},
    )


def _share(passed_E: NDArray[Any], counted_EB: NDArray[Any], weights_RE: NDArray[Any]) -> bootstrap.Ratio:
    """Return the share of events passed in each bin; `counted_EB` (E,) or (E, B) says which events count there."""
    counted_EB = counted_EB.reshape(len(passed_E), -1).astype(bool)
    return bootstrap.ratio(counted_EB & passed_E[:, None], counted_EB, weights_RE)


def _summary_table(
    truth: ShapeTruth,
    scores: Mapping[str, NDArray[Any]],
    selected: Mapping[str, NDArray[Any]],
    accuracy: Mapping[str, bootstrap.Ratio],
    thresholds: Mapping[str, float],
    weights_RE: NDArray[Any],
) -> Table:
    photon_E, event_E = truth.class_E == PHOTON, np.arange(len(truth.class_E))
    rows: list[tuple[Number | str, ...]] = []
    for name, score_E in ((name, photon_score(scores_EK)) for name, scores_EK in scores.items()):
        auc = Number(
            value=bootstrap.auc(score_E, photon_E),
            origin="computed",
            uncertainty=bootstrap.auc_uncertainty(score_E, photon_E, event_E, weights_RE),
            sample=f"{len(photon_E):,} events",
        )
        efficiency = bootstrap.percent(_share(selected[name], photon_E, weights_RE), 0, "photons")
        others = [_share(~selected[name], truth.class_E == kind, weights_RE) for kind in range(PHOTON + 1, len(CLASSES))]
        rejected = [bootstrap.percent(ratio, 0, "events") for ratio in others]
        rows.append((name, bootstrap.percent(accuracy[name], 0, "events"), auc, efficiency, *rejected, f"{thresholds[name]:.4g}"))
    showers = len(np.unique(truth.shower_EP[truth.shower_EP >= 0]))
    rejections = (f"rejected: {name}" for name in CLASSES[1:])
    return Table(
        title="Classification, and photons selected at 90 % efficiency on validation events",
        columns=("method", "accuracy", "ROC AUC, photon", "photon efficiency", *rejections, "threshold"),
        rows=tuple(rows),
        caption=f"{len(photon_E):,} events of {showers:,} showers, classes in equal shares. Thresholds: differences of logits, "
        "for the integer network of output codes, for the baseline the margin in standard deviations. The integer edge network "
        "is the quantised twin: their output codes are equal.",
    )


def _class_tables(truth: ShapeTruth, chosen: Mapping[str, NDArray[Any]], weights_RE: NDArray[Any]) -> tuple[Table, Table]:
    kinds = range(len(CLASSES))
    is_EK = truth.class_E[:, None] == np.arange(len(CLASSES))
    right = {name: _share(chosen_E == truth.class_E, is_EK, weights_RE) for name, chosen_E in chosen.items()}
    taken = [_share(chosen[INTEGER] == kind, is_EK, weights_RE) for kind in kinds]
    return (
        Table(
            title="Share of each class that is recognised",
            columns=("method", *CLASSES),
            rows=tuple((name, *(bootstrap.percent(ratio, kind, "events") for kind in kinds)) for name, ratio in right.items()),
        ),
        Table(
            title="What the integer network takes each class for",
            columns=("true class", *CLASSES),
            rows=tuple((CLASSES[true], *(bootstrap.percent(ratio, true, "events") for ratio in taken)) for true in kinds),
            caption="Columns: the class chosen. Rows add up to 100 %.",
        ),
    )


def _rejection_plots(truth: ShapeTruth, selected: Mapping[str, NDArray[Any]], weights_RE: NDArray[Any]) -> tuple[Plot, ...]:
    pion_E = truth.class_E == PION
    return tuple(
        Plot(
            title=f"π⁰ rejected against {quantity}",
            x_label=x_label,
            y_label="π⁰ rejected [%]",
            x_scale="log" if quantity == "energy" else "linear",
            series=tuple(
                bootstrap.points(name, edges, _share(~selected_E, pion_E[:, None] & _in_bins(values_E, edges), weights_RE), 100)
                for name, selected_E in selected.items()
            ),
            caption=f"{int(pion_E.sum()):,} π⁰, at thresholds that keep 90 % of all single photons. {remark}",
        )
        for quantity, x_label, edges, values_E, remark in (
            ("energy", "true energy of the π⁰ [GeV]", ENERGY_BINS_GEV, truth.total_gev, "The threshold is one for all."),
            (
                "the distance of its photons",
                "distance of the impact points [crystals]",
                DISTANCE_BINS,
                truth.distance_E,
                "Its energy sets the distance: close photons are those of high energy.",
            ),
        )
    )


def _in_bins(values_E: NDArray[Any], edges: NDArray[Any]) -> NDArray[Any]:
    """Return (E, B) which bin each value lies in; NaN lies in none."""
    return np.asarray(np.digitize(values_E, edges)[:, None] - 1 == np.arange(len(edges) - 1))


def _accuracy_plot(truth: ShapeTruth, chosen: Mapping[str, NDArray[Any]], weights_RE: NDArray[Any]) -> Plot:
    in_bin_EB = _in_bins(truth.total_gev, ENERGY_BINS_GEV)
    return Plot(
        title="Accuracy against energy",
        x_label="true total energy [GeV]",
        y_label="accuracy [%]",
        x_scale="log",
        series=tuple(
            bootstrap.points(name, ENERGY_BINS_GEV, _share(chosen_E == truth.class_E, in_bin_EB, weights_RE), 100)
            for name, chosen_E in chosen.items()
        ),
        ratio_to=REFERENCE if REFERENCE in chosen else "",
        caption="All five classes; a random choice is right in 20 %.",
    )


def _roc_plot(truth: ShapeTruth, scores: Mapping[str, NDArray[Any]], selected: Mapping[str, NDArray[Any]]) -> Plot:
    curves, points = [], []
    photon_E, pion_E = truth.class_E == PHOTON, truth.class_E == PION
    for name, scores_EK in scores.items():
        photons, pions = (np.sort(photon_score(scores_EK)[kind_E]) for kind_E in (photon_E, pion_E))
        if not len(photons) or not len(pions):
            continue
        cuts = np.unique(np.quantile(photons, np.linspace(0, 0.6, 60), method="lower"))
        efficiency = 100 * (1 - np.searchsorted(photons, cuts) / len(photons))
        rejected = 100 * np.searchsorted(pions, cuts) / len(pions)
        curves.append(Series(name=name, x=tuple(efficiency.tolist()), y=tuple(rejected.tolist()), style="line"))
        point = 100 * float(selected[name][photon_E].mean()), 100 * float((~selected[name])[pion_E].mean())
        points.append(Series(name=name, x=point[:1], y=point[1:]))
    return Plot(
        title="π⁰ rejected against photon efficiency",
        x_label="efficiency for single photons [%]",
        y_label="π⁰ rejected [%]",
        series=(*curves, *points),
        caption="Curves: every threshold. Markers: the working points.",
    )


def _mass_plot(sample: Sample[ShapeTruth]) -> Plot:
    """Show the variable that tells π⁰ from other pairs."""
    edges = np.linspace(0, 3, 31)
    mass_E = shower_shapes.unscaled(sample.inputs, "root_mass")
    return Plot(
        title="The variable that knows the π⁰'s mass",
        x_label="√(m / m_π⁰) from energy and width",
        y_label="events",
        series=tuple(
            Series(
                name=name,
                x=tuple(((edges[1:] + edges[:-1]) / 2).tolist()),
                x_error=tuple((np.diff(edges) / 2).tolist()),
                y=tuple(np.histogram(mass_E[sample.truth.class_E == kind], edges)[0].astype(float).tolist()),
                style="steps",
            )
            for kind, name in enumerate(CLASSES)
        ),
        caption="Of a window no wider than a single photon's the variable is 0.",
    )


def _claims(accuracy: Mapping[str, bootstrap.Ratio]) -> tuple[Claim, ...]:
    """Test integer against published, and integer against cuts; differences are paired by showers."""
    integer, published, cuts = (accuracy[name] for name in (INTEGER, REFERENCE, BASELINE))

    def prefix(other: bootstrap.Ratio) -> str:
        return f"{integer.value[0]:.2%} against {other.value[0]:.2%}: "

    return (
        claims.claim_at_least(
            "The integer network's accuracy is at most 1 % (absolute) below that of the published float network as trained here.",
            "accuracy at most 1 % below the published network's",
            claims.difference(integer, published),
            -1,
            prefix(published),
        ),
        claims.claim_clearly_above(
            "The integer network is clearly more accurate than the cuts on shower shapes.",
            "accuracy above the cuts'",
            claims.difference(integer, cuts),
            0,
            prefix(cuts),
        ),
    )


TASK = Task(
    description="tell one photon from two and from a π⁰ by 16 shower shapes of a 5×5 window of PbWO4 crystals",
    input_shape=(len(shower_shapes.VARIABLES),),
    input_unit="standard deviation",
    output="logits",
    loss="cross_entropy",
    sample=sample,
    baseline=baseline,
    working_points=working_points,
    assess=assess,
    item="candidate",
)
