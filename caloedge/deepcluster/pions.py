"""π⁰ → γγ: the invariant mass of the two reconstructed photons of highest energy, in bins of the π⁰'s momentum.

Axes: E event, P photon, B momentum bin, N reconstructed photon.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.constants import PI0_MASS_GEV
from caloedge.detector.crystals import photon_events
from caloedge.detector.crystals.events import DECAY_DISTANCE_MM
from caloedge.detector.crystals.geometry import PBWO4
from caloedge.detector.crystals.photon_events import Photons
from caloedge.metrics import bootstrap, resolution
from caloedge.metrics.photon_matching import MATCHED_WITHIN, Comparison
from caloedge.results import Number, Plot, Section, Series, Table

MOMENTUM_BINS_GEV = np.array([2.5, 5, 8, 12, 20])
MASS_BINS_MEV = np.linspace(0, 300, 61)


def mass(energy_EP: NDArray[Any], distance_E: NDArray[Any]) -> NDArray[Any]:
    """Return the mass (E,) in GeV of photon pairs from energies in GeV and the distance (E,) of their positions in crystals.

    The π⁰ is taken to have come from `DECAY_DISTANCE_MM` before the face, at a right angle through the mean of the positions
    weighted with the energies: m² = 2 E₁ E₂ (1 − cos θ), the inverse of `events.pion_distance`.

    >>> mass(np.array([[10.0, 10.0]]), np.array([0.791])).round(3)
    array([0.135])
    """
    share_EP = energy_EP / energy_EP.sum(axis=1, keepdims=True)
    slope_EP = share_EP[:, ::-1] * (distance_E * PBWO4.cell_mm / DECAY_DISTANCE_MM)[:, None]
    angle_E = np.arctan(slope_EP).sum(axis=1)
    return np.asarray(2 * np.sqrt(energy_EP.prod(axis=1)) * np.sin(angle_E / 2))


def momentum(energy_EP: NDArray[Any]) -> NDArray[Any]:
    """Return the momentum (E,) in GeV of π⁰ from the energies (E, P) of their photons."""
    return np.asarray(np.sqrt(np.maximum(energy_EP.sum(axis=1) ** 2 - PI0_MASS_GEV**2, 0)))


def pair_masses(photons: Photons, n_events: int) -> NDArray[Any]:
    """Return the mass (E,) in GeV of each event's two photons of highest energy, NaN with fewer than two above zero."""
    order_N = np.lexsort((-photons.energy_N, photons.event_N))
    order_N = order_N[photons.energy_N[order_N] > 0]
    count_E = np.bincount(photons.event_N[order_N], minlength=n_events)
    first_E = (np.cumsum(count_E) - count_E)[count_E >= 2]
    row_EP = order_N[np.stack([first_E, first_E + 1], axis=1)]
    apart_E2 = photons.position_N2[row_EP[:, 0]] - photons.position_N2[row_EP[:, 1]]
    masses_E = np.full(n_events, np.nan)
    masses_E[count_E >= 2] = mass(photons.energy_N[row_EP].astype(np.float64), np.hypot(*apart_E2.T))
    return masses_E


def section(compared: Comparison) -> Section:
    """Return histograms of the mass, and a table of peak, width and how often both photons are found."""
    truth = compared.truth
    pion_E = truth.kind_E == photon_events.PION
    bin_E = np.where(pion_E, resolution.bin_of(momentum(truth.crystals.energy_EP), MOMENTUM_BINS_GEV), -1)
    masses_mev = {name: 1e3 * pair_masses(photons, len(bin_E)) for name, photons in compared.photons.items()}
    return Section(
        title="π⁰ → γγ",
        text="m(γγ) is the mass of the two reconstructed photons of highest energy, in π⁰ events with at least two: "
        "m² = 2 E₁ E₂ (1 − cos θ). θ follows from their positions: the π⁰ is taken to have decayed "
        f"{DECAY_DISTANCE_MM:,.0f} mm before the crystals' face and flown at a right angle to it, through the mean of the "
        "positions weighted with energy. Peak: the median. Width: half of the smallest interval that holds 68.27 % of the "
        f"candidates. Both found: both photons are matched, each within {MATCHED_WITHIN:g} crystals.",
        blocks=(_table(compared, bin_E, masses_mev), *_histograms(bin_E, masses_mev)),
    )


def _range_text(b: int) -> str:
    return f"{MOMENTUM_BINS_GEV[b]:g}–{MOMENTUM_BINS_GEV[b + 1]:g}"


def _table(compared: Comparison, bin_E: NDArray[Any], masses_mev: dict[str, NDArray[Any]]) -> Table:
    n_bins, weights_RE = len(MOMENTUM_BINS_GEV) - 1, compared.weights_RE
    counted_E = (bin_E >= 0) & (bin_E < n_bins)
    columns = {}
    for name, masses_E in masses_mev.items():
        both = resolution.share(compared.matches[name].both_found, counted_E, bin_E, n_bins, weights_RE)
        pairs = resolution.share(np.isfinite(masses_E), counted_E, bin_E, n_bins, weights_RE)
        peak = resolution.in_bins(masses_E, bin_E, n_bins, weights_RE, resolution.median)
        width = resolution.in_bins(masses_E, bin_E, n_bins, weights_RE, resolution.half_width)
        columns[name] = both, pairs, peak, width
    rows: list[tuple[Number | str, ...]] = []
    for b in range(n_bins):
        for name, (both, pairs, peak, width) in columns.items():
            shares = (bootstrap.percent(ratio, b, "π⁰") for ratio in (both, pairs))
            widths = (resolution.number(estimate, b, "MeV", 1, f"{int(both.total[b]):,} π⁰") for estimate in (peak, width))
            rows.append((_range_text(b), name, *shares, *widths))
    return Table(
        title="π⁰ candidates in bins of momentum",
        columns=("momentum [GeV]", "method", "both photons found", "with two photons", "peak", "width"),
        rows=tuple(rows),
        caption=f"{int(counted_E.sum()):,} π⁰; the true mass is {1e3 * PI0_MASS_GEV:.2f} MeV. At high momentum the photons are "
        "less than a crystal apart, and the pairs seen as two are not like the others.",
    )


def _histograms(bin_E: NDArray[Any], masses_mev: dict[str, NDArray[Any]]) -> tuple[Plot, ...]:
    centre, half = (MASS_BINS_MEV[1:] + MASS_BINS_MEV[:-1]) / 2, np.diff(MASS_BINS_MEV) / 2
    plots = []
    for b in range(len(MOMENTUM_BINS_GEV) - 1):
        counts = {name: np.histogram(masses_E[bin_E == b], MASS_BINS_MEV)[0] for name, masses_E in masses_mev.items()}
        above = {name: int((masses_E[bin_E == b] > MASS_BINS_MEV[-1]).sum()) for name, masses_E in masses_mev.items()}
        top = max(1.0, 1.05 * max(count.max() for count in counts.values()))
        true_mev = 1e3 * PI0_MASS_GEV
        histograms = tuple(
            Series(
                name=name,
                x=tuple(centre.tolist()),
                x_error=tuple(half.tolist()),
                y=tuple(count.astype(float).tolist()),
                style="steps",
            )
            for name, count in counts.items()
        )
        plots.append(
            Plot(
                title=f"Mass of π⁰ candidates, {_range_text(b)} GeV",
                x_label="m(γγ) [MeV]",
                y_label=f"candidates / {2 * half[0]:g} MeV",
                series=(*histograms, Series(name="π⁰ mass", x=(true_mev, true_mev), y=(0.0, top), style="line")),
                x_range=(float(MASS_BINS_MEV[0]), float(MASS_BINS_MEV[-1])),
                caption=f"{int((bin_E == b).sum()):,} π⁰ of {_range_text(b)} GeV. Beyond the axis: "
                + ", ".join(f"{name} {n:,}" for name, n in above.items())
                + ".",
            )
        )
    return tuple(plots)
