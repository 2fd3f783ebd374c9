"""Every figure of one sample against the same part of the reference, so that generated showers, rungs and floor can be compared.

Axes: N shower, F feature.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.fidelity import distances, response, spectra
from caloedge.fidelity.classifiers import FOLDS, trees_auc
from caloedge.fidelity.distances import Estimated
from caloedge.fidelity.features import Features, features, table
from caloedge.fidelity.layout import BLOCKS, Layout
from caloedge.fidelity.neighbours import coverage
from caloedge.fidelity.response import Response
from caloedge.fidelity.showers import Scale, Showers
from caloedge.fidelity.spectra import Binning, Histograms, Separations
from caloedge.metrics import bootstrap
from caloedge.results import Number

KPD, FPD, AUC = "KPD × 10³", "FPD × 10³", "AUC, trees"
FPD_MERGED = "FPD × 10³, layers merged"
RESPONSE, WIDTH = "response − 1", "width of response − 1"
WASSERSTEIN_TOTAL, WASSERSTEIN = "Wasserstein, response", "Wasserstein, all features"
CORRELATIONS = "correlations, rms difference"
PRECISION, RECALL = "precision", "recall"
SEEN = {
    KPD: "means, spreads and correlations of all features, up to the fourth power; unbiased: 0 where nothing differs",
    AUC: "whatever trees find in the features; 0.5 where nothing differs; grows with the number of showers",
    RESPONSE: "energy scale: median of total over incident energy, over the reference's, mean of energy bins",
    WIDTH: "energy resolution: relative width of the response, over the reference's, mean of energy bins",
    **{f"separation, {family}": f"histograms of {family}, mean of all layers" for family in spectra.FAMILIES},
    f"separation, {spectra.TOTAL}": "histogram of total over incident energy",
    f"separation, {spectra.CELLS}": "histogram of all cells with energy",
    WASSERSTEIN_TOTAL: "distance between distributions of total over incident energy, in that unit",
    WASSERSTEIN: "distance between distributions of each feature in its standard deviations, mean of features",
    CORRELATIONS: "correlation coefficients of all pairs of features beyond those through the incident energy",
    PRECISION: "share of showers that lie where the reference has some, cell by cell",
    RECALL: "share of the reference that lies where the sample has some, cell by cell",
    FPD_MERGED: f"means and covariances of the features of {BLOCKS} blocks of layers; biased less",
    FPD: "means and covariances of all features; biased upwards, so only figures of this page compare",
}
"""What each figure sees, in the order of the page."""


@dataclass(frozen=True)
class Sample:
    """Showers of one sample with what is computed of them once."""

    showers: Showers
    cells: Layout
    scale: Scale

    @cached_property
    def found(self) -> Features:
        """High-level features."""
        return features(self.showers, self.cells)

    @cached_property
    def table(self) -> NDArray[Any]:
        """Features as classifiers, KPD and FPD get them."""
        return table(self.found)

    @cached_property
    def merged_table(self) -> NDArray[Any]:
        """Features of blocks of layers: fewer, so that FPD converges with fewer showers."""
        return table(features(self.showers, self.cells.merged))

    def __len__(self) -> int:
        return len(self.showers)


@dataclass(frozen=True)
class Measure:
    """The part of the reference that every sample is compared with."""

    sample: Sample
    binning: Binning
    histograms: Histograms
    edges_mev: NDArray[Any]
    """Energy bins of the response."""
    response: Response

    @classmethod
    def of(cls, sample: Sample) -> "Measure":
        """Return a measure with all that does not depend on what is compared."""
        binning = Binning.of(sample.found, sample.showers, sample.cells, sample.scale.lowest_mev)
        edges_mev = response.energy_bins(sample.showers.energies_mev, len(sample))
        return cls(
            sample,
            binning,
            spectra.histograms(sample.found, sample.showers, binning, seed=1),
            edges_mev,
            response.response(sample.found, edges_mev, seed=1),
        )


@dataclass(frozen=True)
class Compared:
    """One sample's figures, and the separations of each histogram behind them."""

    figures: Mapping[str, Number]
    separations: Mapping[str, Separations]


def compare(sample: Sample, measure: Measure) -> Compared:
    """Return every figure of a sample against the measure, which has as many showers."""
    n = f"{len(sample):,} showers against {len(measure.sample):,}"
    reference_NF, other_NF = measure.sample.table, sample.table

    def number(estimated: Estimated, unit: str = "", factor: float = 1.0, note: str = "") -> Number:
        value, error = factor * estimated.value, factor * estimated.uncertainty
        return Number(value=value, uncertainty=error, unit=unit, origin="computed", sample=n, note=note)

    separated = spectra.separations(measure.histograms, spectra.histograms(sample.found, sample.showers, measure.binning, seed=2))
    own = response.response(sample.found, measure.edges_mev, seed=2)
    near = coverage(measure.sample.showers, sample.showers, sample.scale.lowest_mev)
    pairs = ((reference_NF, measure.sample.found.incident_mev_N), (other_NF, sample.found.incident_mev_N))
    numbers = {
        KPD: number(distances.kpd(reference_NF, other_NF), factor=1e3, note="all showers once, jackknife error"),
        FPD: number(distances.fpd(reference_NF, other_NF), factor=1e3, note="equal size, each shower once"),
        AUC: number(trees_auc(reference_NF, other_NF), note=f"{FOLDS} folds, boosted trees"),
        RESPONSE: number(Estimated(*response.deviation(own.median, measure.response.median)), "%"),
        WIDTH: number(Estimated(*response.deviation(own.width, measure.response.width)), "%"),
        **{f"separation, {family}": number(Estimated(found.mean, found.uncertainty)) for family, found in separated.items()},
        **{name: number(value) for name, value in _wasserstein(sample, measure.sample).items()},
        CORRELATIONS: number(distances.correlation_difference(*pairs)),
        PRECISION: number(_share(near.precision, near.n), note=f"first {near.n:,} showers of each, error of counting only"),
        RECALL: number(_share(near.recall, near.n), note=f"first {near.n:,} showers of each, error of counting only"),
    }
    if sample.cells.merged is not sample.cells:
        merged = distances.fpd(measure.sample.merged_table, sample.merged_table)
        numbers[FPD_MERGED] = number(merged, factor=1e3, note="equal size, each shower once")
    return Compared({name: numbers[name] for name in SEEN if name in numbers}, separated)


def _share(share: float, n: int) -> Estimated:
    return Estimated(share, float(bootstrap.wilson(np.array(share * n), np.array(float(n)))[1]))


def _wasserstein(sample: Sample, measure: Sample) -> dict[str, Estimated]:
    """Return the distances in the response and in all features, these in standard deviations of the reference."""
    weights = [
        np.concatenate([np.ones((1, len(s))), bootstrap.bootstrap_weights(len(s), seed)[: spectra.REPLICAS]])
        for seed, s in enumerate((measure, sample), 1)
    ]
    total_R = distances.wasserstein(measure.found.response, sample.found.response, *weights)
    spread_F = measure.table.std(axis=0)
    # A feature without spread in the reference, such as the energy of a layer that no shower reaches, has no unit.
    varied = np.flatnonzero(spread_F > 1e-9)
    all_R = np.mean(
        [distances.wasserstein(measure.table[:, f], sample.table[:, f], *weights) / spread_F[f] for f in varied], axis=0
    )
    return {
        name: Estimated(float(values_R[0]), float(bootstrap.spread(values_R[1:, None])[0]))
        for name, values_R in ((WASSERSTEIN_TOTAL, total_R), (WASSERSTEIN, all_R))
    }
