"""All methods on the same events: what each one's images and jets are like, differences of two, and what is claimed of them.

Any number of methods is compared, all alike and in the order given.
Axes: E event, J jet of an event, H row in η, W column in φ, B bin, R replica.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import FLOAT, INTEGER, REFERENCE
from caloedge.detector.images.jets import Jets, jets
from caloedge.errors import MissingTool
from caloedge.metrics import bootstrap, claims, energy_images, jet_resolution, resolution
from caloedge.metrics.energy_images import Errors, EventImages
from caloedge.metrics.jet_resolution import FOUND_ABOVE_GEV, TRUE_ABOVE_GEV, JetPairs
from caloedge.metrics.resolution import Estimate
from caloedge.results import Claim, Number

TOLERANCE = 0.03
"""Of the float network's figures."""
FEW_PERCENT = 0.05
"""What a small network may lose against a larger one."""
WMSE, RELATIVE, SSIM, CLOSURE, CLOSURE_WIDTH = "WMSE", "relative error", "SSIM", "energy closure", "closure width"
JETS = "jet resolution"
ALL_JETS_GEV = np.array([TRUE_ABOVE_GEV, np.inf])


@dataclass(frozen=True)
class Measured:
    """One method."""

    errors: Errors
    figures: Mapping[str, Estimate]
    """By name, one bin per set of events."""
    jets: JetPairs | None
    """Of the events of `Compared.jet_set`, where they could be clustered."""
    jet_width: Estimate | None
    """Of all their jets, one bin."""


@dataclass(frozen=True)
class Compared:
    """All methods on the same events."""

    events: EventImages
    methods: Mapping[str, Measured]
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


def compare(events: EventImages, outputs: Mapping[str, NDArray[Any]], jet_set: str) -> Compared:
    """Measure all methods; jets are clustered in the events of one set alone, and need the extra `jets`."""
    weights_RE = bootstrap.bootstrap_weights(len(events), seed=1)
    of_jets_E = events.of(jet_set)
    true_jets, no_jets = _true_jets(events.truth_EHW[of_jets_E])
    methods = {}
    for name, values in outputs.items():
        errors = energy_images.measure(events, values)
        found = None
        if true_jets is not None:
            images = energy_images.images_of(values, len(events))[of_jets_E] * events.unit_E[of_jets_E, None, None]
            found = jet_resolution.pairs(true_jets, jets(images, lowest_pt_gev=FOUND_ABOVE_GEV), len(images))
        width = jet_estimate(found, ALL_JETS_GEV, weights_RE[:, of_jets_E], jet_resolution.central_width)
        methods[name] = Measured(errors, _figures(events, errors, weights_RE), found, width)
    return Compared(events, methods, weights_RE, jet_set, no_jets)


def _true_jets(truth_EHW: NDArray[Any]) -> tuple[Jets | None, str]:
    try:
        return jets(truth_EHW, lowest_pt_gev=FOUND_ABOVE_GEV), ""
    except MissingTool as problem:
        return None, str(problem)


def _figures(events: EventImages, errors: Errors, weights_RE: NDArray[Any]) -> dict[str, Estimate]:
    n = len(events.sets)
    of = {WMSE: errors.wmse_E, RELATIVE: errors.relative_E, SSIM: errors.ssim_E, CLOSURE: errors.closure_E}
    means = {name: energy_images.mean(values_E, events.set_E, n, weights_RE) for name, values_E in of.items()}
    width = resolution.in_bins(errors.closure_E, events.set_E, n, weights_RE, resolution.half_width)
    return means | {CLOSURE_WIDTH: width}


def jet_estimate(
    found: JetPairs | None, edges: NDArray[Any], weights_RE: NDArray[Any], statistic: resolution.Statistic
) -> Estimate | None:
    """Return a statistic of reconstructed over true pT in bins of true pT; None without jets."""
    if found is None:
        return None
    bin_EJ = np.where(np.isfinite(found.true_pt_EJ), resolution.bin_of(found.true_pt_EJ, edges), -1)
    return resolution.in_bins(found.ratio_EJ, bin_EJ, len(edges) - 1, weights_RE, statistic)


def bins(estimate: Estimate, chosen: slice) -> Estimate:
    """Return some bins of an estimate."""
    return Estimate(
        estimate.value_B[chosen], estimate.uncertainty_B[chosen], estimate.count_B[chosen], estimate.replicas_RB[:, chosen]
    )


def difference(found: Estimate, wanted: Estimate, sample: str) -> Number | str:
    """Return by how many percent of it one figure differs from another, paired; a dash for a figure and itself."""
    if found is wanted:
        return "–"
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio_B, error_B = resolution.ratio(found, wanted)
    if ratio_B[0] == 1 and error_B[0] == 0:
        return "identical"
    return Number(
        value=100 * (float(ratio_B[0]) - 1), unit="%", origin="computed", uncertainty=100 * float(error_B[0]), sample=sample
    )


def headline(compared: Compared, names: Collection[str]) -> tuple[tuple[str, Number], ...]:
    """Return the error weighted by energy of some methods, then their jet resolution."""
    methods = {name: of for name, of in compared.methods.items() if name in names}
    size = compared.count(compared.first)
    return (
        *((f"{WMSE}, {name}", resolution.number(of.figures[WMSE], 0, "GeV²", 1, size)) for name, of in methods.items()),
        *(
            (f"{JETS.capitalize()}, {name}", resolution.number(width, 0, "%", 100, f"{int(width.count_B[0]):,} jets"))
            for name, width in ((name, of.jet_width) for name, of in methods.items())
            if width is not None
        ),
    )


def replicas(compared: Compared, names: Collection[str]) -> dict[str, NDArray[Any]]:
    """Return the replicas of `headline` by label."""
    methods = {name: of for name, of in compared.methods.items() if name in names}
    found = {f"{WMSE}, {name}": of.figures[WMSE].replicas_RB[:, 0] for name, of in methods.items()}
    widths = ((name, of.jet_width) for name, of in methods.items())
    return found | {f"{JETS.capitalize()}, {name}": 100 * w.replicas_RB[:, 0] for name, w in widths if w is not None}


def caveats(compared: Compared) -> tuple[str, ...]:
    """Warn of biases of the integer network, and of sets of events in which its float twin is better than claims allow."""
    mine = compared.methods.get(INTEGER)
    if mine is None:
        return ()
    made: list[str] = []
    response = jet_estimate(mine.jets, ALL_JETS_GEV, compared.jet_weights, resolution.median)
    if response is not None:
        jets_alone = claims.Compared(response.value_B, response.replicas_RB)
        made += claims.biased(f"The integer network's jet response ({compared.jet_set})", jets_alone, ("",))
    closure = mine.figures[CLOSURE]
    made += claims.biased(
        "The integer network's energy of whole events over the true one",
        claims.Compared(closure.value_B, closure.replicas_RB),
        compared.events.sets,
    )
    if twin := compared.methods.get(FLOAT):
        with np.errstate(invalid="ignore", divide="ignore"):
            of = resolution.compared(mine.figures[WMSE], twin.figures[WMSE])
        made += claims.worse("its own float twin", WMSE, of, compared.events.sets, by=TOLERANCE)
    return tuple(made)


def claims_of(compared: Compared, rivals: Sequence[str]) -> tuple[Claim, ...]:
    """Test the integer network against the float ones and against its rivals, where they are there."""
    made = []
    for what, where in ((WMSE, compared.first), (JETS, compared.jet_set)):
        mine, most = f"The integer network's {what} ({where}) is", f"at most {100 * TOLERANCE:g} % above"
        for other in (FLOAT, REFERENCE):
            statement = f"{mine} {most} that of the method “{other}”."
            made.append(_claim(statement, f"{what} {most} {other}", compared, what, (INTEGER, other), 1 + TOLERANCE))
        for other in rivals:
            statement = f"{mine} clearly below that of the method “{other}”."
            made.append(_claim(statement, f"{what} below {other}", compared, what, (INTEGER, other), None))
    return tuple(claim for claim in made if claim)


def size_claims(compared: Compared, larger: str, largest: str, further: Sequence[str]) -> tuple[Claim, ...]:
    """Test what arXiv 2410.07250 says of sizes, where these networks are there; `further` are the sets to extrapolate to."""
    most = f"is at most {100 * FEW_PERCENT:g} % above that of"
    made = [
        _claim(
            f"The WMSE ({compared.first}) of “{small}” {most} “{larger}”, as trained.",
            f"WMSE of {small} at most {100 * FEW_PERCENT:g} % above that of {larger}",
            compared, WMSE, (small, larger), 1 + FEW_PERCENT,
        )
        for small in (REFERENCE, FLOAT)
    ]  # fmt: skip
    if largest in compared.methods:
        made += [_best_claim(compared, largest, place) for place in map(list(compared.events.sets).index, further)]
    return tuple(claim for claim in made if claim)


def _claim(statement: str, brief: str, compared: Compared, what: str, pair: tuple[str, str], limit: float | None) -> Claim | None:
    """Claim that a figure of one method is at most a multiple of another's, or clearly below it."""
    if any(name not in compared.methods for name in pair):
        return None
    found, wanted = (_claimed(compared.methods[name], what) for name in pair)
    if found is None or wanted is None:
        return Claim(statement=statement, brief=brief, verdict="not tested", found=compared.no_jets)
    mine, theirs = (f"{100 * of.value_B[0]:.3f} %" if what == JETS else f"{of.value_B[0]:.4g} GeV²" for of in (found, wanted))
    said, of = f"{mine} against {theirs}: ratio ", resolution.compared(found, wanted)
    if limit is None:
        return claims.of_clearly_less(statement, brief, of, 1, said)
    return claims.of_most(statement, brief, of, limit, said=said)


def _best_claim(compared: Compared, name: str, place: int) -> Claim:
    """Claim that a float network has the smallest relative error of all in one set: its ratio to each other one is below 1."""
    where = compared.events.sets[place]
    statement = f"“{name}” has the smallest relative error of all float networks ({where}), as trained."
    brief = f"{name} the best float network for {where}"
    found = {
        of: bins(one.figures[RELATIVE], slice(place, place + 1))
        for of, one in compared.methods.items()
        if of.startswith(FLOAT.split()[0])
    }
    others = [of for of in found if of != name]
    if not others:
        return Claim(statement=statement, brief=brief, verdict="not tested", found="there is no other float network")
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = [resolution.compared(found[name], found[other]) for other in others]
    joined = claims.Compared(
        np.concatenate([of.value_B for of in ratios]), np.concatenate([of.replicas_RB for of in ratios], axis=1)
    )
    return claims.of_less(statement, brief, joined, 1, [f"against {other}" for other in others], "ratio, ")


def _claimed(of: Measured, what: str) -> Estimate | None:
    return of.jet_width if what == JETS else bins(of.figures[what], slice(0, 1))
