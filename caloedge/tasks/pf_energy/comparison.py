"""Comparison of all methods on the same events: errors of images and jets, differences of two methods, and claims.

Any number of methods is compared, all alike and in the order given.
Axes: E event, J jet of an event, H row in η, W column in φ, B bin, R replica.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import FLOAT, INTEGER, REFERENCE
from caloedge.errors import MissingTool
from caloedge.metrics import bootstrap, claims, energy_images, jet_resolution, resolution
from caloedge.metrics.energy_images import Errors, TrueImages
from caloedge.metrics.jet_resolution import FOUND_ABOVE_GEV, TRUE_ABOVE_GEV, JetPairs
from caloedge.metrics.resolution import Estimate
from caloedge.reconstruction.jet_clustering import Jets, jets
from caloedge.results import Claim, Number

TOLERANCE = 0.03
"""Relative loss against the float networks' figures that a claim allows."""
FEW_PERCENT = 0.05
"""Relative loss of a small network against a larger one that a claim allows."""
WMSE, RELATIVE, SSIM, CLOSURE, CLOSURE_WIDTH = "WMSE", "relative error", "SSIM", "energy closure", "closure width"
JETS = "jet resolution"
ALL_JETS_GEV = np.array([TRUE_ABOVE_GEV, np.inf])


@dataclass(frozen=True)
class ImageFigures:
    """Figures of one method."""

    errors: Errors
    figures: Mapping[str, Estimate]
    """Estimates by name of the figure, with one bin per set of events."""
    jets: JetPairs | None
    """Matched jets of the events of `MethodComparison.jet_set`; None where they could not be clustered."""
    jet_width: Estimate | None
    """Jet resolution over all their jets, in one bin."""


@dataclass(frozen=True)
class MethodComparison:
    """Figures of all methods on the same events."""

    events: TrueImages
    methods: Mapping[str, ImageFigures]
    weights_RE: NDArray[Any]
    jet_set: str
    no_jets: str
    """Why there are no jets; empty if there are."""

    @property
    def first(self) -> str:
        """Name of the first set, on which claims are made."""
        return self.events.sets[0]

    @property
    def jet_weights(self) -> NDArray[Any]:
        """Weights of the events in which jets are clustered."""
        return np.asarray(self.weights_RE[:, self.events.of(self.jet_set)])

    def count(self, name: str) -> str:
        """Say how many events a set has."""
        return f"{int(self.events.of(name).sum()):,} events"


def compare(events: TrueImages, outputs: Mapping[str, NDArray[Any]], jet_set: str) -> MethodComparison:
    """Measure all methods; jets are clustered in the events of one set alone, and need the extra `jets`."""
    weights_RE = bootstrap.bootstrap_weights(len(events), seed=1)
    in_jet_set_E = events.of(jet_set)
    true_jets, no_jets = _true_jets(events.truth_EHW[in_jet_set_E])
    methods = {}
    for name, values in outputs.items():
        errors = energy_images.measure(events, values)
        pairs = None
        if true_jets is not None:
            images = energy_images.images_of(values, len(events))[in_jet_set_E] * events.unit_E[in_jet_set_E, None, None]
            pairs = jet_resolution.pairs(true_jets, jets(images, lowest_pt_gev=FOUND_ABOVE_GEV), len(images))
        width = jet_estimate(pairs, ALL_JETS_GEV, weights_RE[:, in_jet_set_E], jet_resolution.central_width)
        methods[name] = ImageFigures(errors, _figures(events, errors, weights_RE), pairs, width)
    return MethodComparison(events, methods, weights_RE, jet_set, no_jets)


def _true_jets(truth_EHW: NDArray[Any]) -> tuple[Jets | None, str]:
    try:
        return jets(truth_EHW, lowest_pt_gev=FOUND_ABOVE_GEV), ""
    except MissingTool as problem:
        return None, str(problem)


def _figures(events: TrueImages, errors: Errors, weights_RE: NDArray[Any]) -> dict[str, Estimate]:
    n = len(events.sets)
    values_by_figure = {WMSE: errors.wmse_E, RELATIVE: errors.relative_E, SSIM: errors.ssim_E, CLOSURE: errors.closure_E}
    means = {name: energy_images.mean(values_E, events.set_E, n, weights_RE) for name, values_E in values_by_figure.items()}
    width = resolution.in_bins(errors.closure_E, events.set_E, n, weights_RE, resolution.half_width)
    return means | {CLOSURE_WIDTH: width}


def jet_estimate(
    pairs: JetPairs | None, edges: NDArray[Any], weights_RE: NDArray[Any], statistic: resolution.Statistic
) -> Estimate | None:
    """Return a statistic of reconstructed over true pT in bins of true pT; None without jets."""
    if pairs is None:
        return None
    bin_EJ = np.where(np.isfinite(pairs.true_pt_EJ), resolution.bin_of(pairs.true_pt_EJ, edges), -1)
    return resolution.in_bins(pairs.ratio_EJ, bin_EJ, len(edges) - 1, weights_RE, statistic)


def bins(estimate: Estimate, chosen: slice) -> Estimate:
    """Return some bins of an estimate."""
    return Estimate(
        estimate.value_B[chosen], estimate.uncertainty_B[chosen], estimate.count_B[chosen], estimate.replicas_RB[:, chosen]
    )


def difference(estimate: Estimate, reference: Estimate, sample: str) -> Number | str:
    """Return by how many percent of it one figure differs from another, paired; a dash for a figure and itself."""
    if estimate is reference:
        return "–"
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio_B, error_B = resolution.ratio(estimate, reference)
    if ratio_B[0] == 1 and error_B[0] == 0:
        return "identical"
    return Number(
        value=100 * (float(ratio_B[0]) - 1), unit="%", origin="computed", uncertainty=100 * float(error_B[0]), sample=sample
    )


def figures(compared: MethodComparison, names: Collection[str]) -> dict[str, dict[str, Number]]:
    """Return the error weighted by energy and the jet resolution of some methods."""
    methods = {name: method for name, method in compared.methods.items() if name in names}
    size = compared.count(compared.first)
    errors = {name: resolution.number(method.figures[WMSE], 0, "GeV²", 1, size) for name, method in methods.items()}
    widths = {
        name: resolution.number(method.jet_width, 0, "%", 100, f"{int(method.jet_width.count_B[0]):,} jets")
        for name, method in methods.items()
        if method.jet_width is not None
    }
    return {WMSE: errors} | ({JETS.capitalize(): widths} if widths else {})


def replicas(compared: MethodComparison, names: Collection[str]) -> dict[str, dict[str, NDArray[Any]]]:
    """Return the replicas of `figures`."""
    methods = {name: method for name, method in compared.methods.items() if name in names}
    errors = {name: method.figures[WMSE].replicas_RB[:, 0] for name, method in methods.items()}
    widths = {name: 100 * m.jet_width.replicas_RB[:, 0] for name, m in methods.items() if m.jet_width is not None}
    return {WMSE: errors} | ({JETS.capitalize(): widths} if widths else {})


def caveats(compared: MethodComparison) -> tuple[str, ...]:
    """Warn of biases of the integer network, and of sets of events in which its float twin is better than claims allow."""
    integer = compared.methods.get(INTEGER)
    if integer is None:
        return ()
    warnings: list[str] = []
    response = jet_estimate(integer.jets, ALL_JETS_GEV, compared.jet_weights, resolution.median)
    if response is not None:
        jets_alone = claims.ComparedFigure(response.value_B, response.replicas_RB)
        warnings += claims.biased(f"The integer network's jet response ({compared.jet_set})", jets_alone, ("",))
    closure = integer.figures[CLOSURE]
    warnings += claims.biased(
        "The integer network's energy of whole events over the true one",
        claims.ComparedFigure(closure.value_B, closure.replicas_RB),
        compared.events.sets,
    )
    if twin := compared.methods.get(FLOAT):
        with np.errstate(invalid="ignore", divide="ignore"):
            ratio = resolution.compared(integer.figures[WMSE], twin.figures[WMSE])
        warnings += claims.worse("its own float twin", WMSE, ratio, compared.events.sets, margin=TOLERANCE)
    return tuple(warnings)


def claims_of(compared: MethodComparison, classical: Sequence[str]) -> tuple[Claim, ...]:
    """Test the integer network against the float ones and against the classical methods, where they are present."""
    results = []
    for figure, set_name in ((WMSE, compared.first), (JETS, compared.jet_set)):
        subject, bound = f"The integer network's {figure} ({set_name}) is", f"at most {100 * TOLERANCE:g} % above"
        for other in (FLOAT, REFERENCE):
            statement = f"{subject} {bound} that of the method “{other}”."
            results.append(_claim(statement, f"{figure} {bound} {other}", compared, figure, (INTEGER, other), 1 + TOLERANCE))
        for other in classical:
            statement = f"{subject} clearly below that of the method “{other}”."
            results.append(_claim(statement, f"{figure} below {other}", compared, figure, (INTEGER, other), None))
    return tuple(claim for claim in results if claim)


def size_claims(compared: MethodComparison, larger: str, largest: str, further: Sequence[str]) -> tuple[Claim, ...]:
    """Test what arXiv 2410.07250 says of sizes, where these networks are there; `further` are the sets to extrapolate to."""
    bound = f"is at most {100 * FEW_PERCENT:g} % above that of"
    results = [
        _claim(
            f"The WMSE ({compared.first}) of “{small}” {bound} “{larger}”, as trained.",
            f"WMSE of {small} at most {100 * FEW_PERCENT:g} % above that of {larger}",
            compared, WMSE, (small, larger), 1 + FEW_PERCENT,
        )
        for small in (REFERENCE, FLOAT)
    ]  # fmt: skip
    if largest in compared.methods:
        results += [_best_claim(compared, largest, set_number) for set_number in map(list(compared.events.sets).index, further)]
    return tuple(claim for claim in results if claim)


def _claim(
    statement: str, brief: str, compared: MethodComparison, figure: str, pair: tuple[str, str], limit: float | None
) -> Claim | None:
    """Claim that a figure of one method is at most a multiple of another's, or clearly below it."""
    if any(name not in compared.methods for name in pair):
        return None
    estimate, reference = (_claimed(compared.methods[name], figure) for name in pair)
    if estimate is None or reference is None:
        return Claim(statement=statement, brief=brief, verdict="not tested", found=compared.no_jets)
    value, reference_value = (
        f"{100 * measured.value_B[0]:.3f} %" if figure == JETS else f"{measured.value_B[0]:.4g} GeV²"
        for measured in (estimate, reference)
    )
    prefix, ratio = f"{value} against {reference_value}: ratio ", resolution.compared(estimate, reference)
    if limit is None:
        return claims.claim_clearly_below(statement, brief, ratio, 1, prefix)
    return claims.claim_at_most(statement, brief, ratio, limit, prefix=prefix)


def _best_claim(compared: MethodComparison, name: str, set_number: int) -> Claim:
    """Claim that a float network has the smallest relative error of all in one set: its ratio to each other one is below 1."""
    set_name = compared.events.sets[set_number]
    statement = f"“{name}” has the smallest relative error of all float networks ({set_name}), as trained."
    brief = f"{name} the best float network for {set_name}"
    estimates = {
        method: bins(figures.figures[RELATIVE], slice(set_number, set_number + 1))
        for method, figures in compared.methods.items()
        if method.startswith(FLOAT.split()[0])
    }
    others = [method for method in estimates if method != name]
    if not others:
        return Claim(statement=statement, brief=brief, verdict="not tested", found="there is no other float network")
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = [resolution.compared(estimates[name], estimates[other]) for other in others]
    joined = claims.ComparedFigure(
        np.concatenate([ratio.value_B for ratio in ratios]), np.concatenate([ratio.replicas_RB for ratio in ratios], axis=1)
    )
    return claims.claim_below(statement, brief, joined, 1, [f"against {other}" for other in others], "ratio, ")


def _claimed(method: ImageFigures, figure: str) -> Estimate | None:
    return method.jet_width if figure == JETS else bins(method.figures[figure], slice(0, 1))
