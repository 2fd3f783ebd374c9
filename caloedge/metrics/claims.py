"""Verdicts on claims, all in one place: from the confidence limits of a figure, never from its central value.

A limit is one-sided at 95 % confidence: a quantile of the bootstrap replicas, which are paired between methods.

- A claim of every bin *holds* if the unfavourable limit of each bin keeps to it. That is an intersection–union test: all bins
  must pass, so its level needs no correction for their number (Berger, Technometrics 24 (1982) 295).
- It *fails* if the favourable limit of one bin breaks it. The more bins, the more likely one does so by chance, so these limits
  hold for all bins at once (the largest studentised deviation of each replica: Romano and Wolf, Econometrica 73 (2005) 1237).
- What does neither is *undecided*. "Clearly" asks for more: it needs more than 3 standard deviations.

Axes: B bin, R replica.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from caloedge.metrics import bootstrap
from caloedge.results import Claim, Verdict

CONFIDENCE = 0.95
"""Confidence of each one-sided limit."""
CLEARLY = 3.0
"""Standard deviations that make a difference clear."""
LIMITS = f"limits at {CONFIDENCE:.0%} confidence, paired bootstrap"
"""Remark behind the figures of claims."""
UNKNOWN = "too few values, or a figure that is not positive"


@dataclass(frozen=True)
class ComparedFigure:
    """A figure in bins with its bootstrap replicas: most often the ratio or the difference of two methods' figures."""

    value_B: NDArray[Any]
    replicas_RB: NDArray[Any]
    trials_B: NDArray[Any] | None = None
    """(B,) trials behind a difference of shares, which limit it where all replicas agree; None for other figures."""
    unit: Literal["", "%"] = ""
    """`%` for a difference of shares in percentage points, else empty."""

    @property
    def known(self) -> NDArray[Any]:
        """Whether each bin has a figure, also in at least 95 % of its replicas, and trials enough for a bootstrap."""
        share_B = np.isfinite(self.replicas_RB).mean(axis=0)
        enough = True if self.trials_B is None else self.trials_B >= bootstrap.FEWEST
        return np.asarray(np.isfinite(self.value_B) & (share_B >= CONFIDENCE) & enough)

    @property
    def spread(self) -> NDArray[Any]:
        """Half the central 68 % interval of the replicas."""
        return bootstrap.spread(self.replicas_RB)

    def limits(self) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return the lower and the upper limit (B,) of each bin by itself, NaN where it is not known."""
        low_B, high_B = np.full(len(self.value_B), np.nan), np.full(len(self.value_B), np.nan)
        for b in np.flatnonzero(self.known):
            finite_R = self.replicas_RB[np.isfinite(self.replicas_RB[:, b]), b]
            low_B[b], high_B[b] = np.quantile(finite_R, (1 - CONFIDENCE, CONFIDENCE))
        reach_B = self._reach()
        return np.minimum(low_B, self.value_B) - reach_B, np.maximum(high_B, self.value_B) + reach_B

    def joint_low(self) -> NDArray[Any]:
        """Return the lower limits (B,) that hold for all known bins at once; of one bin, its own."""
        finite_RB = np.isfinite(self.replicas_RB) & self.known
        replicas_RB = np.where(finite_RB, self.replicas_RB, self.value_B)  # what has no figure does not deviate
        width_B = replicas_RB.std(axis=0)
        deviation_RB = (self.value_B - replicas_RB)[:, width_B > 0] / width_B[width_B > 0]
        largest_R = deviation_RB.max(axis=1, initial=0.0)
        return np.asarray(self.value_B - float(np.quantile(largest_R, CONFIDENCE)) * width_B - self._reach())

    def _reach(self) -> NDArray[Any]:
        """Return what is added to both limits (B,): where methods agree in all of n trials, what Clopper and Pearson allow."""
        if self.trials_B is None:
            return np.zeros(len(self.value_B))
        scale = 100.0 if self.unit else 1.0
        agree_B = (self.replicas_RB == self.value_B).all(axis=0)
        return np.where(agree_B, scale * bootstrap.none_of(self.trials_B, CONFIDENCE), 0.0)

    def mirrored(self) -> "ComparedFigure":
        """Return the negative."""
        return ComparedFigure(-self.value_B, -self.replicas_RB, self.trials_B, self.unit)

    def mean(self) -> "ComparedFigure":
        """Return the mean of the bins as one."""
        return ComparedFigure(self.value_B.mean(keepdims=True), self.replicas_RB.mean(axis=1, keepdims=True), None, self.unit)

    def text(self, b: int) -> str:
        """Return a bin with its limits, e.g. `1.040 (1.004 to 1.077)`; one without spread says so.

        >>> same = ComparedFigure(np.ones(1), np.ones((200, 1)))
        >>> same.text(0)
        'identical'
        """
        low, high = (float(limit_B[b]) for limit_B in self.limits())
        value = float(self.value_B[b])
        if low == high == (0.0 if self.unit else 1.0):
            return "identical"
        if not self.unit:
            digits = 3 if high - low >= 0.01 else 4
            return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
        return f"{value:+.2f} % ({low:+.2f} to {high:+.2f} %)"


def ratio(
    value_B: NDArray[Any], replicas_RB: NDArray[Any], reference_B: NDArray[Any], reference_RB: NDArray[Any]
) -> ComparedFigure:
    """Return one method's figures over another's."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return ComparedFigure(np.asarray(value_B / reference_B), np.asarray(replicas_RB / reference_RB))


def difference(method: bootstrap.Ratio, reference: bootstrap.Ratio, bin_: int = 0) -> ComparedFigure:
    """Return by how much one method's share exceeds another's in one bin, in percentage points."""
    chosen = slice(bin_, bin_ + 1)
    return ComparedFigure(
        100 * (method.value - reference.value)[chosen],
        100 * (method.replicas - reference.replicas)[:, chosen],
        method.total[chosen],
        "%",
    )


# The rule


def at_most(limit: float, figure: ComparedFigure) -> Verdict:
    """Return the verdict on a figure being at most `limit` in every bin.

    >>> narrow, wide = (ComparedFigure(np.array([1.04]), 1.04 + s * np.linspace(-2, 2, 200)[:, None]) for s in (0.001, 0.022))
    >>> at_most(1.05, narrow), at_most(1.05, wide), at_most(1.03, narrow)
    ('holds', 'undecided', 'fails')
    """
    if not figure.known.all():
        return "not tested"
    if (figure.limits()[1] <= limit).all():
        return "holds"
    return "fails" if (figure.joint_low() > limit).any() else "undecided"


def below(limit: float, figure: ComparedFigure, *, clearly: bool = False) -> Verdict:
    """Return the verdict on a figure being below `limit` in every bin, clearly so if by `CLEARLY` standard deviations."""
    if not figure.known.all():
        return "not tested"
    high_B = figure.limits()[1]
    if clearly:
        high_B = np.maximum(high_B, figure.value_B + CLEARLY * figure.spread)
    if (high_B < limit).all():
        return "holds"
    return "fails" if (figure.joint_low() >= limit).any() else "undecided"


def both(*verdicts: Verdict) -> Verdict:
    """Return the verdict on a claim of several parts, all of which must hold.

    >>> both("holds", "undecided"), both("holds", "undecided", "fails")
    ('undecided', 'fails')
    """
    order: tuple[Verdict, ...] = ("fails", "not tested", "undecided", "holds")
    return next(verdict for verdict in order if verdict in verdicts)


# Claims


def claim_at_most(
    statement: str, brief: str, figure: ComparedFigure, limit: float, places: Sequence[str] = ("",), prefix: str = ""
) -> Claim:
    """Claim that a figure is at most `limit` in every bin; the bins that do not keep to it are named.

    `places` name the bins, `brief` is the claim in a few words, and `prefix` stands before the figures.
    """
    return _claim(statement, brief, at_most(limit, figure), figure, _exceeding(figure, limit, places), prefix, places)


def claim_at_least(statement: str, brief: str, figure: ComparedFigure, limit: float, prefix: str = "") -> Claim:
    """Claim that a figure is at least `limit` in the only bin."""
    return _claim(statement, brief, at_most(-limit, figure.mirrored()), figure, [0], prefix, ("",))


def claim_clearly_below(statement: str, brief: str, figure: ComparedFigure, limit: float, prefix: str = "") -> Claim:
    """Claim that a figure is clearly below `limit` in the only bin."""
    return _claim(statement, brief, below(limit, figure, clearly=True), figure, [0], prefix, ("",), clear_of=limit)


def claim_clearly_above(statement: str, brief: str, figure: ComparedFigure, limit: float, prefix: str = "") -> Claim:
    """Claim that a figure is clearly above `limit` in the only bin."""
    verdict = below(-limit, figure.mirrored(), clearly=True)
    return _claim(statement, brief, verdict, figure, [0], prefix, ("",), clear_of=limit)


def claim_below(
    statement: str, brief: str, figure: ComparedFigure, limit: float, places: Sequence[str], prefix: str = ""
) -> Claim:
    """Claim that a figure is below `limit` in every bin."""
    return _claim(statement, brief, below(limit, figure), figure, _exceeding(figure, limit, places), prefix, places)


def claim_below_everywhere(statement: str, brief: str, figure: ComparedFigure, limit: float, places: Sequence[str]) -> Claim:
    """Claim that a figure is below `limit` in every bin, and clearly so in their mean."""
    if not figure.known.all():
        return _unknown(statement, brief, figure, places)
    mean = figure.mean()
    verdict = both(below(limit, figure), below(limit, mean, clearly=True))
    worst = int(figure.limits()[1].argmax())
    bins = "; ".join(f"{places[b]}: {figure.text(b)}" for b in range(len(figure.value_B)))
    return Claim(
        statement=statement,
        brief=f"{brief}: {figure.text(worst)} at {places[worst]}",
        verdict=verdict,
        found=f"{mean.text(0)} in the mean of the bins; {bins} ({LIMITS})",
    )


def _exceeding(figure: ComparedFigure, limit: float, places: Sequence[str]) -> list[int]:
    """Return the bins that are shown: those whose upper limit is above what is claimed, worst first, or the worst."""
    if not figure.known.all():
        return []
    order = np.argsort(-figure.limits()[1], kind="stable")
    above = [int(b) for b in order if figure.limits()[1][b] > limit]
    return above or [int(order[0])] if len(places) > 1 else [0]


def _claim(
    statement: str,
    brief: str,
    verdict: Verdict,
    figure: ComparedFigure,
    shown: Sequence[int],
    prefix: str,
    places: Sequence[str],
    clear_of: float | None = None,
) -> Claim:
    if verdict == "not tested":
        return _unknown(statement, brief, figure, places)

    def labelled(b: int) -> str:
        return f"{places[b]}: {figure.text(b)}" if places[b] else figure.text(b)

    worst = labelled(shown[0])
    text = "; ".join(labelled(b) for b in shown)
    if len(places) > 1:
        heading = f"{len(shown)} of {len(places)} bins shown, the worst first: " if verdict != "holds" else "the worst bin: "
        text = heading + text
    if clear_of is not None and float(figure.spread[0]) > 0:
        text += f", {(float(figure.value_B[0]) - clear_of) / float(figure.spread[0]):+.1f} σ from {clear_of:g}"
    return Claim(statement=statement, brief=f"{brief}: {worst}", verdict=verdict, found=f"{prefix}{text} ({LIMITS})")


def _unknown(statement: str, brief: str, figure: ComparedFigure, places: Sequence[str]) -> Claim:
    bins = ", ".join(places[int(b)] for b in np.flatnonzero(~figure.known))
    return Claim(
        statement=statement, brief=f"{brief}: {UNKNOWN}", verdict="not tested", found=f"{UNKNOWN}{', in ' if bins else ''}{bins}"
    )


# What no claim covers


def worse(reference: str, quantity: str, figure: ComparedFigure, places: Sequence[str], margin: float = 0.0) -> tuple[str, ...]:
    """Warn of bins in which a figure over another method's is above 1 + `margin` at 95 % confidence, each bin by itself."""
    low_B = np.where(figure.known, figure.limits()[0], -np.inf)
    bins = [f"{places[b]}: {figure.text(b)}" for b in map(int, np.flatnonzero(low_B > 1 + margin))]
    return (f"The integer network is worse than {reference} in {quantity}, ratio at {'; '.join(bins)}.",) if bins else ()


def biased(quantity: str, figure: ComparedFigure, places: Sequence[str]) -> tuple[str, ...]:
    """Warn of a response that differs from 1 at 95 % confidence for all bins at once, and name the largest difference."""
    if not figure.known.any():
        return ()
    low_B, high_B = figure.joint_low(), -figure.mirrored().joint_low()
    off = [b for b in map(int, np.flatnonzero(figure.known)) if low_B[b] > 1 or high_B[b] < 1]
    if not off:
        return ()
    worst = max(off, key=lambda b: abs(float(figure.value_B[b]) - 1))
    others = f"all {len(places) - 1}" if len(off) == len(places) else f"{len(off) - 1} of the {len(places) - 1}"
    other = f"; so do {others} other bins, by less" if len(off) > 1 else ""
    place = f" at {places[worst]}" if places[worst] else ""
    return (f"{quantity} differs from 1{place}: {figure.text(worst)}{other}.",)
