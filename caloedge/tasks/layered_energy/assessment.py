"""Accuracy of images of the neutral energy beside a charged pion: per event, per pixel and against the distance.

An event's response is its estimated neutral energy over the deposited one, both summed over all pixels. Resolution is the
relative width of the response: half of the smallest interval with 68.27 % of the events, over the median; so a method is neither
punished nor rewarded for its scale. Errors are bootstrap intervals over events, the same replicas for all methods.
Axes: E event, L layer, B distance bin, R replica, H row in φ, W column in η.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE, Assessment
from caloedge.detector.layers.geometry import PIXELS, SIDE_MM
from caloedge.metrics import bootstrap, claims, resolution
from caloedge.metrics.claims import ComparedFigure
from caloedge.metrics.resolution import Estimate
from caloedge.results import Claim, Image, Number, Plot, Section, Table

DISTANCE_BINS_MM = np.array([0, 36, 72, 108, 144, 216, 288])
CLOSE_MM = 72.0
"""Distance of two cells of ECAL 2: the cores of closer showers overlap."""
SHARE_FROM_GEV = 0.1
"""Pixels with less in all layers together do not count where a pixel's neutral share is asked for."""
SUM = "ECAL sum"
"""Name of the method that subtracts nothing from the ECAL's energy."""
SHOWN_PIXELS = 28
SHOWN_DISTANCE_MM = 60.0
TOLERANCE = 0.05
"""Relative loss of the integer network's resolution that a claim allows."""


@dataclass(frozen=True)
class NeutralEvents:
    """Measured track of an event, and the true distance of its particles."""

    track_gev: NDArray[Any]
    """(E,) measured momentum of the charged pion."""
    track_mm: NDArray[Any]
    """(E, 2) where its track passes the middle of ECAL 2."""
    distance_mm: NDArray[Any]
    """(E,) true distance of both pions at the face, NaN where it is not known."""


@dataclass(frozen=True)
class NeutralFigures:
    """One method's figures; estimates in the distance bins, and in the last bin for all events."""

    median: Estimate
    width: Estimate
    weighted_square: bootstrap.Ratio
    """Mean weighted square error of the pixels, in GeV²."""
    misplaced: bootstrap.Ratio
    """Energy that is taken for neutral and is not, or the other way round, of all energy in the calorimeter."""
    share_error: bootstrap.Ratio
    """Mean |difference| of the neutral share of a pixel."""


def weighted_square(estimate_EHW: NDArray[Any], target_EHW: NDArray[Any]) -> NDArray[Any]:
    """Return Σ y (ŷ − y)² / Σ y of each event (E,), as in the loss."""
    weighted = (target_EHW * (estimate_EHW - target_EHW) ** 2).sum(axis=(1, 2), dtype=np.float64)
    return np.asarray(weighted / (target_EHW.sum(axis=(1, 2), dtype=np.float64) + 1e-8))


def response(estimate_EHW: NDArray[Any], target_EHW: NDArray[Any]) -> NDArray[Any]:
    """Return estimated over deposited neutral energy of each event (E,), NaN where none is deposited."""
    deposited_E = target_EHW.sum(axis=(1, 2), dtype=np.float64)
    estimated_E = estimate_EHW.sum(axis=(1, 2), dtype=np.float64)
    return np.where(deposited_E > 0, estimated_E / np.where(deposited_E > 0, deposited_E, 1), np.nan)


def measure(
    estimate_EHW: NDArray[Any],
    target_EHW: NDArray[Any],
    total_EHW: NDArray[Any],
    distance_mm: NDArray[Any],
    weights_RE: NDArray[Any],
) -> NeutralFigures:
    """Return one method's figures from estimated, neutral and total energy in GeV per pixel."""
    n_bins = len(DISTANCE_BINS_MM) - 1
    response_E = response(estimate_EHW, target_EHW)
    bin_E = resolution.bin_of(distance_mm, DISTANCE_BINS_MM)
    # The events of all bins, and behind them all events once more.
    values, bins = np.concatenate([response_E, response_E]), np.concatenate([bin_E, np.full(len(bin_E), n_bins)])
    bins[: len(bin_E)][(bin_E < 0) | (bin_E >= n_bins)] = -1
    twice_RE = np.concatenate([weights_RE, weights_RE], axis=1)
    median, width = (
        resolution.in_bins(values, bins, n_bins + 1, twice_RE, statistic)
        for statistic in (resolution.median, resolution.relative_width)
    )
    ones_E1 = np.ones((len(estimate_EHW), 1))
    square = bootstrap.ratio(weighted_square(estimate_EHW, target_EHW)[:, None], ones_E1, weights_RE, binomial=False)
    error_EHW = np.abs(estimate_EHW - target_EHW)
    misplaced = bootstrap.ratio(_sums(error_EHW), _sums(total_EHW), weights_RE, binomial=False)
    counts_EHW = total_EHW >= SHARE_FROM_GEV
    share_EHW = np.where(counts_EHW, error_EHW / np.where(counts_EHW, total_EHW, 1), 0)
    share = bootstrap.ratio(_sums(share_EHW), _sums(counts_EHW), weights_RE, binomial=False)
    return NeutralFigures(median, width, square, misplaced, share)


def _sums(image_EHW: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(image_EHW.sum(axis=(1, 2), dtype=np.float64)[:, None])


def assess(
    truth: NeutralEvents,
    layers_ELHW: NDArray[Any],
    target_EHW: NDArray[Any],
    images: Mapping[str, NDArray[Any]],
    for_events: str,
    weights_RE: NDArray[Any],
) -> Assessment:
    """Compare images (E, H, W) of neutral energy in GeV by method; `for_events` is the classical one tuned for events' sums.

    A pixel's estimate is brought between 0 and what all layers have there: the loss hardly looks at empty pixels, and thousands
    of small values in them would drown the sum.
    """
    total_EHW = layers_ELHW.sum(axis=1)
    images = {name: np.clip(image, 0, total_EHW) for name, image in {**images, SUM: layers_ELHW[:, :3].sum(axis=1)}.items()}
    figures = {name: measure(image, target_EHW, total_EHW, truth.distance_mm, weights_RE) for name, image in images.items()}
    sections = [
        Section(
            title="Neutral energy on the same test events",
            text="Of all methods a pixel's estimate is first brought between 0 and the energy that all layers have there; a "
            "trigger would do the same behind the network. Response: estimated over deposited neutral energy of an event. "
            "Resolution: half of the smallest interval with 68.27 % of the responses, over their median. WMSE: mean over events "
            "of Σ y (ŷ − y)² / Σ y over pixels, as in the loss. Misplaced: energy taken for neutral that is not, and the other "
            "way round, of all energy in the calorimeter. Errors are 68 % bootstrap intervals over events. The classical "
            "baseline subtracts the mean deposit of a charged pion of the track's momentum times a factor tuned for pixels; "
            f"'{for_events}' is the same with one tuned for the response; '{SUM}' subtracts nothing.",
            blocks=(_table(figures, len(target_EHW)), *_plots(figures)),
        )
    ]
    if display := _display(truth, total_EHW, target_EHW, images):
        sections.append(Section(title="One event", blocks=display))
    shown = {f"Neutral energy resolution, {name}": method.width for name, method in figures.items() if name != SUM}
    return Assessment(
        sections=tuple(sections),
        headline=tuple((label, _number(width, len(target_EHW))) for label, width in shown.items()),
        claims=tuple(_claims(figures, for_events)),
        caveats=_caveats(figures),
        replicas={label: 100 * width.replicas_RB[:, -1] for label, width in shown.items()},
    )


def _caveats(figures: Mapping[str, NeutralFigures]) -> tuple[str, ...]:
    """Warn of an integer network whose response to all events is not 1."""
    if INTEGER not in figures:
        return ()
    median = figures[INTEGER].median
    overall = ComparedFigure(median.value_B[-1:], median.replicas_RB[:, -1:])
    return claims.biased("The integer network's median response", overall, ("",))


def _number(estimate: Estimate, n_events: int) -> Number:
    return resolution.number(estimate, len(DISTANCE_BINS_MM) - 1, "%", 100, f"{n_events:,} events")


def _table(figures: Mapping[str, NeutralFigures], n_events: int) -> Table:
    def square(method: NeutralFigures) -> Number:
        error = float(method.weighted_square.uncertainty[0])
        value = float(method.weighted_square.value[0])
        return Number(value=value, unit="GeV²", origin="computed", uncertainty=error, sample=f"{n_events:,} events")

    return Table(
        title="Neutral energy of events and pixels",
        columns=("method", "median response", "resolution", "WMSE", "misplaced energy", "error of a pixel's neutral share"),
        rows=tuple(
            (
                name,
                _number(method.median, n_events),
                _number(method.width, n_events),
                square(method),
                bootstrap.percent(method.misplaced, 0, "GeV"),
                bootstrap.percent(method.share_error, 0, "pixels"),
            )
            for name, method in figures.items()
        ),
        caption=f"{n_events:,} events, {PIXELS} × {PIXELS} pixels each. A pixel's neutral share counts where it has "
        f"{SHARE_FROM_GEV:g} GeV or more in all layers; cells of coarse layers are shared evenly by their pixels.",
    )


def _plots(figures: Mapping[str, NeutralFigures]) -> Iterator[Plot]:
    for title, y_label, field, ratio_to in (
        ("Resolution of the neutral energy", "resolution [%]", "width", REFERENCE),
        ("Response to the neutral energy", "median response [%]", "median", ""),
    ):
        estimates = {name: _without_last(getattr(method, field)) for name, method in figures.items() if name != SUM}
        series = tuple(resolution.points(name, DISTANCE_BINS_MM, estimate, 100) for name, estimate in estimates.items())
        if any(curve.x for curve in series):
            yield Plot(
                title=title,
                x_label="true distance of the pions at the face [mm]",
                y_label=y_label,
                series=series,
                ratio_to=ratio_to if ratio_to in figures else "",
                caption="A cell of ECAL 2 is 36 mm wide.",
            )


def _without_last(estimate: Estimate) -> Estimate:
    """Return the distance bins only."""
    return Estimate(estimate.value_B[:-1], estimate.uncertainty_B[:-1], estimate.count_B[:-1], estimate.replicas_RB[:, :-1])


def _display(
    truth: NeutralEvents, total_EHW: NDArray[Any], target_EHW: NDArray[Any], images: Mapping[str, NDArray[Any]]
) -> tuple[Image, ...]:
    """Show the event whose pions are most nearly `SHOWN_DISTANCE_MM` apart: all, its neutral part, and what methods say."""
    if not np.isfinite(truth.distance_mm).any():
        return ()
    event = int(np.nanargmin(np.abs(truth.distance_mm - SHOWN_DISTANCE_MM)))
    low = (PIXELS - SHOWN_PIXELS) // 2
    middle = slice(low, low + SHOWN_PIXELS)
    pixel_mm = SIDE_MM / PIXELS
    x, y = (float((coordinate_mm + SIDE_MM / 2) / pixel_mm - low) for coordinate_mm in truth.track_mm[event])
    chosen = {"All energy": total_EHW, "Neutral energy deposited": target_EHW}
    chosen |= {f"Neutral energy, {name}": images[name] for name in (REFERENCE, INTEGER, BASELINE) if name in images}
    about = (
        f" of which {SHOWN_PIXELS} × {SHOWN_PIXELS} in the middle are shown; η to the right, φ upwards. The event whose pions are"
        f" most nearly {SHOWN_DISTANCE_MM:g} mm apart at the face, with a track of {truth.track_gev[event]:.1f} GeV; the mark is"
        " where it passes the middle of ECAL 2."
    )
    return tuple(
        Image(
            title=title,
            # A row of the picture is along φ; an image's first axis is drawn to the right.
            values=tuple(tuple(row) for row in image_EHW[event, middle, middle].T.astype(float).round(3).tolist()),
            unit="GeV",
            marks=((x, y, "track"),) if 0 <= x < SHOWN_PIXELS and 0 <= y < SHOWN_PIXELS else (),
            caption=f"{float(image_EHW[event].sum()):.1f} GeV in all pixels{',' + about if number == 0 else '.'}",
        )
        for number, (title, image_EHW) in enumerate(chosen.items())
    )


def _claims(figures: Mapping[str, NeutralFigures], for_events: str) -> Iterator[Claim]:
    """Compare the integer network, or the float one where there is no other, with the reference and the classical methods."""
    network = next((name for name in (INTEGER, FLOAT, REFERENCE) if name in figures), None)
    if network is None:
        return
    everything = len(DISTANCE_BINS_MM) - 1
    if REFERENCE in figures and network != REFERENCE:
        yield claims.claim_at_most(
            f"The neutral energy resolution of the {network} network is at most {TOLERANCE:.0%} (relative) above that of"
            f" the {REFERENCE} network as trained here.",
            f"resolution at most {TOLERANCE:.0%} above the published network's",
            _ratio(figures[network].width, figures[REFERENCE].width, [everything]),
            1 + TOLERANCE,
            prefix="ratio of the resolutions ",
        )
    close = [int(b) for b in np.flatnonzero(DISTANCE_BINS_MM[1:] <= CLOSE_MM)]
    for other in (BASELINE, for_events):
        for bins, where in (([everything], "on all events"), (close, f"of pions closer than {CLOSE_MM:g} mm")):
            if other in figures:
                yield claims.claim_clearly_below(
                    f"The neutral energy resolution of the {network} network {where} is clearly better than that of the"
                    f" method '{other}'.",
                    f"resolution {where} below that of '{other}'",
                    _ratio(figures[network].width, figures[other].width, bins),
                    1,
                    "ratio of the resolutions" + (f", mean of {len(bins)} bins, " if len(bins) > 1 else " "),
                )


def _ratio(estimate: Estimate, reference: Estimate, bins: list[int]) -> ComparedFigure:
    """Return the mean over bins of the ratio of two estimates; NaN where a bin has too few events."""
    ratio = resolution.compared(estimate, reference)
    return ComparedFigure(ratio.value_B[bins], ratio.replicas_RB[:, bins]).mean()
