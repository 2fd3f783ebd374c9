"""Find where photons hit and how much energy they have: the second step of DeepCluster (arXiv 2311.17914).

One input is a 7 × 7 window that was taken for a seed, with up to three others of its event as neighbours, and is oriented so
that most energy of its core lies at higher x (`reconstruction.windowing`); positions in here are those in oriented windows.
Which windows are seeds is taken from the truth here, with some wrong ones among them, as a seed finder gives: a fifth of
the windows within a crystal of an impact point, a twentieth of all others, in random order behind the right ones. Crystals
that two photons hit are no windows: they have no one answer. What the true chain with a trained seed finder gives is another
command's report (`caloedge reconstruct`).

Targets: impact point from the crystal's centre, in crystals, where it is at most one crystal away; excess of the energy over the
nine central crystals in the window's own unit, for seeds; whether the window is a seed.
Axes: E event, P photon, W window, M member (window that was kept), K other member, B bin, R replica.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE, Assessment, Sample, Task
from caloedge.detector.crystals import events, photon_events
from caloedge.detector.crystals.geometry import PBWO4
from caloedge.detector.crystals.library import ShowerLibrary
from caloedge.metrics import bootstrap, claims, resolution
from caloedge.metrics.resolution import Estimate
from caloedge.reconstruction import clustering, windowing
from caloedge.results import Claim, Number, Plot, Section, Table

EVENTS_PER_BLOCK = 500
NEAR, OTHER = 0.2, 0.05
"""Shares of the windows near an impact point, and of others, that are kept although they are no seeds."""
MOST_OFFSET = 1.0
"""Largest offset of a target in crystals; farther impact points are no target."""
ENERGY_WEIGHT = 0.3
"""Weight of the energy in the loss: an error of 1 GeV counts as much as one of 0.3 crystals."""
EFFICIENCY = 0.99
"""Efficiency for seeds at which the working points are set."""

ENERGY_BINS_GEV = np.array([1, 2, 3, 5, 8, 12, 20, 30, 50, 100])
TABLE_BINS = (3, 5, 8)
SHOWN_BIN = 5
ABOVE_3_GEV, BELOW_30_GEV = 2, 7
"""First bin above 3 GeV, and the number of bins below 30 GeV."""
DISTANCE_BINS = np.array([1, 1.25, 1.5, 1.75, 2, 2.5, 3, 4, 6, 10, 20, 45])
CLOSE = 3.0
"""Distance in crystals below which the windows of a pair are neighbours of each other."""


@dataclass(frozen=True)
class MemberTruth:
    """Truth of each member that the metrics use."""

    kind_M: NDArray[Any]
    """(M,) index into `photon_events.KINDS`."""
    energy_M: NDArray[Any]
    """(M,) energy in GeV of the photon that hit the central crystal, NaN where none did."""
    offset_M2: NDArray[Any]
    """(M, 2) crystals from the centre to the nearest impact point, in the oriented window."""
    distance_M: NDArray[Any]
    """(M,) distance of the event's two impact points in crystals, NaN for one photon."""
    exponent_M: NDArray[Any]
    sum_M: NDArray[Any]
    """(M,) sum of the codes of the nine central crystals."""
    event_M: NDArray[Any]
    crystal_M2: NDArray[Any]
    """(M, 2) central crystal."""
    orientation_M: NDArray[Any]
    """(M,) orientation of the window: bits of `windowing.FLIP_X`, `FLIP_Y` and `SWAP`."""
    shower_MP: NDArray[Any]
    """(M, 2) library rows of the event's photons, −1 for an absent one."""
    codes_EXY: NDArray[Any]
    """(E, 51, 51) uint16: the events, for the baseline."""


def sample(library: ShowerLibrary, split: str, n_events: int, seed: int) -> Sample[MemberTruth]:
    """Compose events from one split and form their groups; the same arguments give the same arrays."""
    events.check_matrix(library)
    rows = events.split_rows(len(library), split)
    blocks = []
    for block, first in enumerate(range(0, n_events, EVENTS_PER_BLOCK)):
        rng = events.block_generator(seed, split, block)
        composed = photon_events.compose(library, rows, min(EVENTS_PER_BLOCK, n_events - first), rng)
        blocks.append(_block(composed, first, rng))
    inputs, published, targets, truths = zip(*blocks, strict=True)
    joined = (np.concatenate([getattr(truth, field.name) for truth in truths]) for field in fields(MemberTruth))
    return Sample(np.concatenate(inputs), np.concatenate(targets), MemberTruth(*joined), np.concatenate(published))


def _block(
    composed: photon_events.PhotonEvents, first_event: int, rng: np.random.Generator
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], MemberTruth]:
    crystals = composed.crystals
    codes_EXY = windowing.digitised(crystals.cells_EXY)
    windows = windowing.extract(codes_EXY)
    impact_EP2 = np.nan_to_num(crystals.impact_EP2, nan=-events.GRID)
    offset_WP2 = impact_EP2[windows.event_W] - (windows.crystal_W2[:, None] + 0.5)
    hit_WP = (np.floor(impact_EP2[windows.event_W]) == windows.crystal_W2[:, None]).all(axis=2)
    near_W = np.hypot(offset_WP2[..., 0], offset_WP2[..., 1]).min(axis=1) <= MOST_OFFSET
    hits_W = hit_WP.sum(axis=1)
    selected_W = (hits_W == 1) | ((rng.random(len(near_W)) < np.where(near_W, NEAR, OTHER)) & (hits_W == 0))
    score_W = np.where(selected_W, hits_W + rng.random(len(near_W)), -1)
    group = windowing.grouped(windows.event_W, windows.crystal_W2, windowing.top_k(windows.event_W, windows.key, score_W, 0))
    codes_MXY = windows.codes_WXY[group.window_M]
    exponent_M, sum_M, orientation_M = (
        windowing.exponents(codes_MXY),
        windowing.sums(codes_MXY),
        windowing.orientations(codes_MXY),
    )
    offset_MP2 = np.stack([windowing.oriented(offset_WP2[group.window_M, photon], orientation_M) for photon in (0, 1)], axis=1)
    targets, energy_M, offset_M2 = _targets(
        offset_MP2, hit_WP[group.window_M], crystals.energy_EP[group.event_M], exponent_M, sum_M
    )
    truth = MemberTruth(
        composed.kind_E[group.event_M], energy_M, offset_M2, composed.distance[group.event_M], exponent_M, sum_M,
        group.event_M + first_event, group.crystal_M2, orientation_M, crystals.shower_EP[group.event_M], codes_EXY,
    )  # fmt: skip
    inputs = windowing.features(codes_MXY, group).astype(np.float32) / windowing.UNIT
    return inputs, windowing.joined_windows(crystals.cells_EXY, group, orientation_M), targets, truth


def _targets(
    offset_MP2: NDArray[Any], hit_MP: NDArray[Any], energy_MP: NDArray[Any], exponent_M: NDArray[Any], sum_M: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return targets (M, 6), the energy (M,) of the photon that hit, and the offset (M, 2) of the nearest photon."""
    apart_MP = np.where(hit_MP, -1, np.hypot(offset_MP2[..., 0], offset_MP2[..., 1]))
    photon_M, member_M = apart_MP.argmin(axis=1), np.arange(len(apart_MP))
    offset_M2 = offset_MP2[member_M, photon_M]
    is_seed_M, known_M = hit_MP.any(axis=1), apart_MP.min(axis=1) <= MOST_OFFSET
    energy_M = np.where(is_seed_M, energy_MP[member_M, photon_M], np.nan)
    excess_M = np.where(is_seed_M, _excess(np.nan_to_num(energy_M), exponent_M, sum_M), 0)
    targets = np.column_stack(
        [
            np.where(known_M[:, None], offset_M2, 0), excess_M, is_seed_M,
            known_M, is_seed_M * ENERGY_WEIGHT * windowing.units_gev(exponent_M),
        ]
    )  # fmt: skip
    return targets.astype(np.float32), energy_M, offset_M2


def _excess(energy_M: NDArray[Any], exponent_M: NDArray[Any], sum_M: NDArray[Any]) -> NDArray[Any]:
    """Return the excess (M,) of energies in GeV over the nine central crystals, in the window's unit."""
    return np.asarray((energy_M - sum_M * 2.0**-windowing.CODE_FRACTION) / windowing.units_gev(exponent_M))


def energies(outputs_M4: NDArray[Any], truth: MemberTruth) -> NDArray[Any]:
    """Return the energies (M,) in GeV that outputs stand for."""
    return np.asarray(truth.sum_M * 2.0**-windowing.CODE_FRACTION + outputs_M4[:, 2] * windowing.units_gev(truth.exponent_M))


def baseline(sample: Sample[MemberTruth]) -> NDArray[Any]:
    """Share the crystals' energies classically, scores (M, 4) in the form of the outputs: among the right seeds alone for those.

    The others, and the score, get what comes out when all share. So in its energies and positions the baseline knows which
    seeds are right; the networks do not.
    """
    truth, right = sample.truth, sample.targets[:, 3] > 0
    cells_EXY = truth.codes_EXY * np.float32(2.0**-windowing.CODE_FRACTION)
    position_M2, energy_M = clustering.shared(cells_EXY, truth.event_M, truth.crystal_M2, clustering.TUNING)
    score_M = energy_M.copy()  # the score is that of a method which does not know the right seeds
    position_M2[right], energy_M[right] = clustering.shared(
        cells_EXY, truth.event_M[right], truth.crystal_M2[right], clustering.TUNING
    )
    excess_M = _excess(energy_M, truth.exponent_M, truth.sum_M)
    offset_M2 = windowing.oriented(position_M2 - truth.crystal_M2 - 0.5, truth.orientation_M)
    return np.column_stack([offset_M2, excess_M, score_M])


def working_points(sample: Sample[MemberTruth], scores: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Return each method's threshold on the seed output that keeps 99 % of the validation sample's seeds."""
    is_seed_M = sample.targets[:, 3] > 0
    return {name: bootstrap.threshold_at_efficiency(values[is_seed_M, 3], EFFICIENCY) for name, values in scores.items()}


@dataclass(frozen=True)
class _MemberFigures:
    """One method's estimates for true seeds."""

    energy: Estimate
    """Relative width of single photons' energy in `ENERGY_BINS_GEV`."""
    scale: Estimate
    """Median response of single photons in `ENERGY_BINS_GEV`."""
    position: Estimate
    """Width of single photons' position in `ENERGY_BINS_GEV`, crystals."""
    pair_energy: Estimate
    """Relative width of the energy of photons in pairs, in `DISTANCE_BINS`."""
    pair_position: Estimate
    """Width of the position of photons in pairs, in `DISTANCE_BINS`, crystals."""
    close: Estimate
    """Relative width of the energy of photons in pairs closer than `CLOSE`, one bin."""
    passed: bootstrap.Ratio
    """Seeds and other windows above the threshold."""


def assess(sample: Sample[MemberTruth], scores: Mapping[str, NDArray[Any]], thresholds: Mapping[str, float]) -> Assessment:
    """Compare the methods on the same members: energies and positions of seeds, and whether others are rejected."""
    truth = sample.truth
    weights_RM = bootstrap.shared_bootstrap_weights(truth.shower_MP, seed=1)
    measured = {name: _measure(truth, values, thresholds[name], weights_RM) for name, values in scores.items()}
    seeds = np.isfinite(truth.energy_M)
    single = int((seeds & (truth.kind_M == photon_events.ONE)).sum())
    size = (
        f"{len(truth.codes_EXY):,} events, {len(seeds):,} windows, {int(seeds.sum()):,} of them seeds ({single:,} single photons)"
    )
    auc = {
        name: Number(
            value=bootstrap.auc(values[:, 3], seeds),
            origin="computed",
            uncertainty=bootstrap.auc_uncertainty(values[:, 3], seeds, np.arange(len(seeds)), weights_RM),
            sample=f"{len(seeds):,} windows",
        )
        for name, values in scores.items()
    }
    figures = {name: _figures(method) for name, method in measured.items()}
    labels = tuple(next(iter(figures.values())))
    return Assessment(
        sections=(
            Section(
                title="Accuracy on the same test events",
                text="Windows around true seeds, with some that are none; the networks get the same, turned to one "
                "orientation. Widths are half of the smallest interval that holds 68.27 %, for energies divided by the median. "
                "The baseline shares crystals by the showers' mean profile among the true seeds alone, which it is told, while "
                "the networks see the wrong ones, too. Errors are 68 % bootstrap intervals; showers are resampled, because "
                "composed events share them.",
                blocks=(_summary(measured, auc, thresholds, size), *_single_plots(measured), *_pair_plots(measured)),
            ),
        ),
        figures={label: {name: values[label][0] for name, values in figures.items()} for label in labels},
        claims=_claims(measured) if REFERENCE in scores else (),
        caveats=_caveats(measured),
        replicas={label: {name: values[label][1] for name, values in figures.items()} for label in labels},
        items_per_event=len(seeds) / max(len(truth.codes_EXY), 1),
    )


def _measure(truth: MemberTruth, outputs_M4: NDArray[Any], threshold: float, weights_RM: NDArray[Any]) -> _MemberFigures:
    response_M = energies(outputs_M4, truth) / truth.energy_M
    # In the event's own orientation: in the window's a pull towards the crystal's middle has one sign and no width.
    residual_M2 = windowing.unoriented(outputs_M4[:, :2] - truth.offset_M2, truth.orientation_M)
    residual_M2 = np.where(np.isfinite(truth.energy_M)[:, None], residual_M2, np.nan)
    single_M = truth.kind_M == photon_events.ONE
    energy_bin_M = np.where(single_M, resolution.bin_of(truth.energy_M, ENERGY_BINS_GEV), -1)
    distance_bin_M = resolution.bin_of(truth.distance_M, DISTANCE_BINS)
    close_bin_M = np.where(truth.distance_M < CLOSE, 0, -1)
    seeds_M = np.isfinite(truth.energy_M)

    def in_bins(values: NDArray[Any], bin_M: NDArray[Any], n_bins: int, statistic: resolution.Statistic) -> Estimate:
        return resolution.in_bins(values, bin_M, n_bins, weights_RM, statistic)

    n_energies, n_distances = len(ENERGY_BINS_GEV) - 1, len(DISTANCE_BINS) - 1
    return _MemberFigures(
        energy=in_bins(response_M, energy_bin_M, n_energies, resolution.relative_width),
        scale=in_bins(response_M, energy_bin_M, n_energies, resolution.median),
        position=in_bins(residual_M2, energy_bin_M, n_energies, resolution.half_width),
        pair_energy=in_bins(response_M, distance_bin_M, n_distances, resolution.relative_width),
        pair_position=in_bins(residual_M2, distance_bin_M, n_distances, resolution.half_width),
        close=in_bins(response_M, close_bin_M, 1, resolution.relative_width),
        passed=resolution.share(
            outputs_M4[:, 3] >= threshold, np.ones(len(seeds_M), bool), np.where(seeds_M, 0, 1), 2, weights_RM
        ),
    )


def _figures(method: _MemberFigures) -> dict[str, tuple[Number, NDArray[Any]]]:
    """Return the headline figures of one method with their replicas (R,), by name."""
    return {
        **{
            f"Energy width at {_energies(b)}": (_percent(method.energy, b), 100 * method.energy.replicas_RB[:, b])
            for b in TABLE_BINS
        },
        f"Position width at {_energies(SHOWN_BIN)}": (
            _position(method),
            PBWO4.cell_mm * method.position.replicas_RB[:, SHOWN_BIN],
        ),
        f"Energy width of pairs < {CLOSE:g} crystals": (_percent(method.close, 0), 100 * method.close.replicas_RB[:, 0]),
    }


def _position(figures: _MemberFigures) -> Number:
    count = int(figures.position.count_B[SHOWN_BIN])
    return resolution.number(figures.position, SHOWN_BIN, "mm", PBWO4.cell_mm, f"{count:,} coordinates")


def _energies(bin_: int) -> str:
    return f"{ENERGY_BINS_GEV[bin_]:g}–{ENERGY_BINS_GEV[bin_ + 1]:g} GeV"


def _percent(estimate: Estimate, bin_: int) -> Number:
    return resolution.number(estimate, bin_, "%", 100, f"{int(estimate.count_B[bin_]):,} photons")


def _summary(
    measured: Mapping[str, _MemberFigures], auc: Mapping[str, Number], thresholds: Mapping[str, float], size: str
) -> Table:
    def row(name: str, figures: _MemberFigures) -> tuple[Number | str, ...]:
        seeds_kept, others_kept = (
            bootstrap.percent(figures.passed, i, counted) for i, counted in enumerate(("seeds", "other windows"))
        )
        return (
            name,
            *(_percent(figures.energy, b) for b in TABLE_BINS),
            _position(figures),
            _percent(figures.close, 0),
            auc[name],
            seeds_kept,
            others_kept,
        )

    points = ", ".join(f"{name}: {value:.3g}" for name, value in thresholds.items())
    return Table(
        title="Energy and position of single photons, of close pairs, and the seeds' score",
        columns=(
            "method", *(f"energy, {_energies(b)}" for b in TABLE_BINS), f"position, {_energies(SHOWN_BIN)}",
            f"energy, pairs < {CLOSE:g} crystals", "ROC AUC, seed", "seeds kept", "others kept",
        ),
        rows=tuple(row(name, figures) for name, figures in measured.items()),
        caption=f"{size}. Thresholds on the seed's logit ({points}; for the baseline GeV) keep 99 % of the validation seeds. "
        "The integer edge network is the quantised twin: their output codes are equal.",
    )  # fmt: skip


def _single_plots(measured: Mapping[str, _MemberFigures]) -> tuple[Plot, ...]:
    return tuple(
        Plot(
            title=title,
            x_label="true photon energy [GeV]",
            y_label=label,
            x_scale="log",
            y_scale=y_scale,  # type: ignore[arg-type]
            series=tuple(
                resolution.points(name, ENERGY_BINS_GEV, getattr(figures, field), scale) for name, figures in measured.items()
            ),
            ratio_to=REFERENCE if field != "scale" and REFERENCE in measured else "",
            caption="Single photons.",
        )
        for title, label, field, scale, y_scale in (
            ("Energy resolution", "σ(E) / E [%]", "energy", 100, "log"),
            ("Energy scale", "median of reconstructed / true energy", "scale", 1, "linear"),
            ("Position resolution", "σ(x) [mm]", "position", PBWO4.cell_mm, "log"),
        )
    )


def _pair_plots(measured: Mapping[str, _MemberFigures]) -> tuple[Plot, ...]:
    return tuple(
        Plot(
            title=title,
            x_label="distance of the impact points [crystals]",
            y_label=label,
            x_scale="log",
            y_scale="log",
            series=tuple(
                resolution.points(name, DISTANCE_BINS, getattr(figures, field), scale) for name, figures in measured.items()
            ),
            ratio_to=REFERENCE if REFERENCE in measured else "",
            caption="Two photons and π⁰ together, both photons of each.",
        )
        for title, label, field, scale in (
            ("Energy resolution of two photons", "σ(E) / E [%]", "pair_energy", 100),
            ("Position resolution of two photons", "σ(x) [mm]", "pair_position", PBWO4.cell_mm),
        )
    )


def _claims(measured: Mapping[str, _MemberFigures]) -> tuple[Claim, ...]:
    integer, reference, classical = measured[INTEGER], measured[REFERENCE], measured[BASELINE]

    def high(estimate: Estimate) -> Estimate:
        return _bins(estimate, slice(ABOVE_3_GEV, None))

    def low(estimate: Estimate) -> Estimate:
        return _bins(estimate, slice(None, BELOW_30_GEV))

    high_places, low_places = _places(slice(ABOVE_3_GEV, None)), _places(slice(None, BELOW_30_GEV))
    as_good = "is within 5 % (relative) of the published float network's as trained here, in every energy bin above 3 GeV."
    sharing = "is better than that of the classical sharing, which is told the seeds."
    return (
        *(
            claims.claim_at_most(
                f"The integer network's {quantity} resolution {as_good}",
                f"{quantity} resolution at most 5 % above the published network's",
                resolution.compared(high(estimate), high(published)),
                1.05,
                high_places,
                "ratio of the widths, ",
            )
            for quantity, estimate, published in (
                ("energy", integer.energy, reference.energy),
                ("position", integer.position, reference.position),
            )
        ),
        claims.claim_below_everywhere(
            f"The integer network's energy resolution of single photons below 30 GeV {sharing}",
            "energy resolution below the classical fit's",
            resolution.compared(low(integer.energy), low(classical.energy)),
            1,
            low_places,
        ),
        claims.claim_clearly_below(
            f"The integer network's energy resolution of photons in pairs closer than {CLOSE:g} crystals {sharing}",
            "energy resolution of close pairs below the classical fit's",
            resolution.compared(integer.close, classical.close),
            1,
            f"{integer.close.value_B[0]:.2%} against {classical.close.value_B[0]:.2%}: ratio ",
        ),
    )


def _caveats(measured: Mapping[str, _MemberFigures]) -> tuple[str, ...]:
    """Warn of bins in which the integer network is worse than the classical fit or its float twin, and of its energy scale."""
    if INTEGER not in measured:
        return ()
    figures, places = measured[INTEGER], _places(slice(None))
    others = ((BASELINE, "the classical fit, which is told the seeds,"), (FLOAT, "its own float twin"))
    return (
        *(
            warning
            for name, competitor in others
            if name in measured
            for quantity, field in (("energy resolution", "energy"), ("position resolution", "position"))
            for warning in claims.worse(
                competitor, quantity, resolution.compared(getattr(figures, field), getattr(measured[name], field)), places
            )
        ),
        *claims.biased(
            "The integer network's energy scale", claims.ComparedFigure(figures.scale.value_B, figures.scale.replicas_RB), places
        ),
    )


def _places(chosen: slice) -> list[str]:
    return [_energies(b) for b in range(len(ENERGY_BINS_GEV) - 1)][chosen]


def _bins(estimate: Estimate, chosen: slice) -> Estimate:
    """Return some bins of an estimate."""
    return Estimate(
        estimate.value_B[chosen], estimate.uncertainty_B[chosen], estimate.count_B[chosen], estimate.replicas_RB[:, chosen]
    )


TASK = Task(
    description="find impact point and energy of each photon from its window of PbWO4 crystals and the neighbouring seeds",
    input_shape=(windowing.FEATURES,),
    input_unit="of the window's own scale",
    output="photon",
    loss="photon",
    sample=sample,
    baseline=baseline,
    working_points=working_points,
    assess=assess,
    item="window",
    published_input_shape=(windowing.TOP_K, events.WINDOW * events.WINDOW + 1),
    physical=True,
    lower_is_better=True,
)
