"""What is claimed, judged in one place: on the confidence limits of a figure, never on its central value.

A limit is one-sided at 95 % confidence: a quantile of the bootstrap replicas, which are paired between methods.

- A claim of every bin *holds* if the unfavourable limit of each bin keeps to it. That is an intersection–union test: all bins
  must pass, so its level needs no correction for their number (Berger, Technometrics 24 (1982) 295).
- It *fails* if the favourable limit of one bin breaks it. The more bins, the more likely one does so by chance, so these limits
  hold for all bins at once (the largest studentised deviation of each replica: Romano and Wolf, Econometrica 73 (2005) 1237).
- What does neither is *undecided*. "Clearly" asks for more: it holds only beyond 3 standard deviations.

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
"""Of each limit, one-sided."""
CLEARLY = 3.0
"""Standard deviations that make a difference clear."""
LIMITS = f"limits at {CONFIDENCE:.0%} confidence, paired bootstrap"
"""Said behind figures of claims."""
UNKNOWN = "too few values, or a figure that is not positive"


@dataclass(frozen=True)
class Compared:
    """A figure in bins with its bootstrap replicas: most often the ratio or the difference of two methods' figures."""

    value_B: NDArray[Any]
    replicas_RB: NDArray[Any]
    trials_B: NDArray[Any] | None = None
    """Of a difference of shares: how many trials each bin has, which limit it where all replicas agree."""
    unit: Literal["", "%"] = ""
    """`%` of a difference of shares, in percentage points."""

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

    def mirrored(self) -> "Compared":
        """Return the negative."""
        return Compared(-self.value_B, -self.replicas_RB, self.trials_B, self.unit)

    def mean(self) -> "Compared":
        """Return the mean of the bins as one."""
        return Compared(self.value_B.mean(keepdims=True), self.replicas_RB.mean(axis=1, keepdims=True), None, self.unit)

    def text(self, b: int) -> str:
        """Return a bin with its limits, e.g. `1.040 (1.004 to 1.077)`; one without spread says so.

        >>> same = Compared(np.ones(1), np.ones((200, 1)))
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


def ratio(found_B: NDArray[Any], found_RB: NDArray[Any], wanted_B: NDArray[Any], wanted_RB: NDArray[Any]) -> Compared:
    """Return one method's figures over another's."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return Compared(np.asarray(found_B / wanted_B), np.asarray(found_RB / wanted_RB))


def difference(found: bootstrap.Ratio, wanted: bootstrap.Ratio, bin_: int = 0) -> Compared:
    """Return by how much one method's share exceeds another's in one bin, in percentage points."""
    chosen = slice(bin_, bin_ + 1)
    return Compared(
        100 * (found.value - wanted.value)[chosen],
        100 * (found.replicas - wanted.replicas)[:, chosen],
        found.total[chosen],
        "%",
    )


# The rule


def at_most(limit: float, of: Compared) -> Verdict:
    """Judge that a figure is at most `limit` in every bin.

    >>> narrow, wide = (Compared(np.array([1.04]), 1.04 + s * np.linspace(-2, 2, 200)[:, None]) for s in (0.001, 0.022))
    >>> at_most(1.05, narrow), at_most(1.05, wide), at_most(1.03, narrow)
    ('holds', 'undecided', 'fails')
    """
    if not of.known.all():
        return "not tested"
    if (of.limits()[1] <= limit).all():
        return "holds"
    return "fails" if (of.joint_low() > limit).any() else "undecided"


def below(limit: float, of: Compared, *, clearly: bool = False) -> Verdict:
    """Judge that a figure is below `limit` in every bin; clearly so, if by more than `CLEARLY` standard deviations."""
    if not of.known.all():
        return "not tested"
    high_B = of.limits()[1]
    if clearly:
        high_B = np.maximum(high_B, of.value_B + CLEARLY * of.spread)
    if (high_B < limit).all():
        return "holds"
    return "fails" if (of.joint_low() >= limit).any() else "undecided"


def both(*verdicts: Verdict) -> Verdict:
    """Return the verdict on a claim of several parts, all of which must hold.

    >>> both("holds", "undecided"), both("holds", "undecided", "fails")
    ('undecided', 'fails')
    """
    order: tuple[Verdict, ...] = ("fails", "not tested", "undecided", "holds")
    return next(verdict for verdict in order if verdict in verdicts)


# Claims


def of_most(statement: str, brief: str, of: Compared, limit: float, places: Sequence[str] = ("",), said: str = "") -> Claim:
    """Claim that a figure is at most `limit` in every bin; the bins that do not keep to it are named.

    `places` name the bins, `brief` is the claim in a few words, and `said` stands before what was found.
    """
    return _claim(statement, brief, at_most(limit, of), of, _exceeding(of, limit, places), said, places)


def of_least(statement: str, brief: str, of: Compared, limit: float, said: str = "") -> Claim:
    """Claim that a figure is at least `limit` in the only bin."""
    return _claim(statement, brief, at_most(-limit, of.mirrored()), of, [0], said, ("",))


def of_clearly_less(statement: str, brief: str, of: Compared, limit: float, said: str = "") -> Claim:
    """Claim that a figure is clearly below `limit` in the only bin."""
    return _claim(statement, brief, below(limit, of, clearly=True), of, [0], said, ("",), clear_of=limit)


def of_clearly_more(statement: str, brief: str, of: Compared, limit: float, said: str = "") -> Claim:
    """Claim that a figure is clearly above `limit` in the only bin."""
    verdict = below(-limit, of.mirrored(), clearly=True)
    return _claim(statement, brief, verdict, of, [0], said, ("",), clear_of=limit)


def of_less(statement: str, brief: str, of: Compared, limit: float, places: Sequence[str], said: str = "") -> Claim:
    """Claim that a figure is below `limit` in every bin."""
    return _claim(statement, brief, below(limit, of), of, _exceeding(of, limit, places), said, places)


def of_less_everywhere(statement: str, brief: str, of: Compared, limit: float, places: Sequence[str]) -> Claim:
    """Claim that a figure is below `limit` in every bin, and clearly so in their mean."""
    if not of.known.all():
        return _unknown(statement, brief, of, places)
    mean = of.mean()
    verdict = both(below(limit, of), below(limit, mean, clearly=True))
    worst = int(of.limits()[1].argmax())
    bins = "; ".join(f"{places[b]}: {of.text(b)}" for b in range(len(of.value_B)))
    return Claim(
        statement=statement,
        brief=f"{brief}: {of.text(worst)} at {places[worst]}",
        verdict=verdict,
        found=f"{mean.text(0)} in the mean of the bins; {bins} ({LIMITS})",
    )


def _exceeding(of: Compared, limit: float, places: Sequence[str]) -> list[int]:
    """Return the bins that are shown: those whose upper limit is above what is claimed, worst first, or the worst."""
    if not of.known.all():
        return []
    order = np.argsort(-of.limits()[1], kind="stable")
    above = [int(b) for b in order if of.limits()[1][b] > limit]
    return above or [int(order[0])] if len(places) > 1 else [0]


def _claim(
    statement: str,
    brief: str,
    verdict: Verdict,
    of: Compared,
    shown: Sequence[int],
    said: str,
    places: Sequence[str],
    clear_of: float | None = None,
) -> Claim:
    if verdict == "not tested":
        return _unknown(statement, brief, of, places)

    def at(b: int) -> str:
        return f"{places[b]}: {of.text(b)}" if places[b] else of.text(b)

    worst = at(shown[0])
    text = "; ".join(at(b) for b in shown)
    if len(places) > 1:
        many = f"{len(shown)} of {len(places)} bins shown, the worst first: " if verdict != "holds" else "the worst bin: "
        text = many + text
    if clear_of is not None and float(of.spread[0]) > 0:
        text += f", {(float(of.value_B[0]) - clear_of) / float(of.spread[0]):+.1f} σ from {clear_of:g}"
    return Claim(statement=statement, brief=f"{brief}: {worst}", verdict=verdict, found=f"{said}{text} ({LIMITS})")


def _unknown(statement: str, brief: str, of: Compared, places: Sequence[str]) -> Claim:
    bins = ", ".join(places[int(b)] for b in np.flatnonzero(~of.known))
    return Claim(
        statement=statement, brief=f"{brief}: {UNKNOWN}", verdict="not tested", found=f"{UNKNOWN}{', in ' if bins else ''}{bins}"
    )


# What no claim covers


def worse(than: str, what: str, of: Compared, places: Sequence[str], by: float = 0.0) -> tuple[str, ...]:
    """Warn of bins in which a figure over another method's is above 1 + `by` at 95 % confidence, each bin by itself."""
    low_B = np.where(of.known, of.limits()[0], -np.inf)
    found = [f"{places[b]}: {of.text(b)}" for b in map(int, np.flatnonzero(low_B > 1 + by))]
    return (f"The integer network is worse than {than} in {what}, ratio at {'; '.join(found)}.",) if found else ()


def biased(what: str, of: Compared, places: Sequence[str]) -> tuple[str, ...]:
    """Warn of a response that differs from 1 beyond its errors, at 95 % confidence for all bins at once, and name the largest."""
    if not of.known.any():
        return ()
    low_B, high_B = of.joint_low(), -of.mirrored().joint_low()
    off = [b for b in map(int, np.flatnonzero(of.known)) if low_B[b] > 1 or high_B[b] < 1]
    if not off:
        return ()
    most = max(off, key=lambda b: abs(float(of.value_B[b]) - 1))
    others = f"all {len(places) - 1}" if len(off) == len(places) else f"{len(off) - 1} of the {len(places) - 1}"
    other = f"; so do {others} other bins, by less" if len(off) > 1 else ""
    place = f" at {places[most]}" if places[most] else ""
    return (f"{what} differs from 1{place}: {of.text(most)}{other}.",)
