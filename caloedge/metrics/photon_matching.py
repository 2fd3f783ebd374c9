"""Match reconstructed photons to true ones, and find fakes and split photons.

Lengths are in crystals, energies in GeV. Axes: E event, P true photon (at most two), N reconstructed photon, S place of a
reconstructed photon within its event, C choice of a true photon.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals.events import CrystalEvents
from caloedge.detector.crystals.photon_events import PhotonEvents, Photons
from caloedge.errors import BadData

MATCHED_WITHIN = 1.5
"""Largest distance of a true photon and the reconstructed one that counts as it; an unmatched true photon costs as much."""
SPLIT_WITHIN = 3.0
"""Largest distance of a true photon and a reconstructed one that may be a piece of it."""


@dataclass(frozen=True)
class Matches:
    """Partners of the true photons, fakes, and split photons."""

    index_EP: NDArray[Any]
    """(E, 2) row of the reconstructed photon, −1 for a photon that is not found or absent."""
    fake_N: NDArray[Any]
    """(N,) whether a reconstructed photon is matched to no true one."""
    split_EP: NDArray[Any]
    """(E, 2) whether at least two reconstructed photons are attributed to a true one."""

    @property
    def found(self) -> NDArray[Any]:
        """True photons (E, 2) that are found."""
        return np.asarray(self.index_EP >= 0)

    @property
    def both_found(self) -> NDArray[Any]:
        """Events (E,) of which two photons are found."""
        return np.asarray(self.found.all(axis=1))


@dataclass(frozen=True)
class Comparison:
    """Photons of several methods on the same events, and the bootstrap weights that they share."""

    truth: PhotonEvents
    photons: Mapping[str, Photons]
    """Reconstructed photons by method, in display order."""
    matches: Mapping[str, Matches]
    """Matches of these photons by method."""
    weights_RE: NDArray[Any]
    """(replicas, E) bootstrap weights, whole numbers."""

    def response(self, name: str) -> NDArray[Any]:
        """Return reconstructed over true energy (E, 2) of a method's matched photons, NaN for the others."""
        matches = self.matches[name]
        return np.asarray(_taken(self.photons[name].energy_N, matches) / self.truth.crystals.energy_EP)

    def offset(self, name: str) -> NDArray[Any]:
        """Return reconstructed minus true position (E, 2, 2) in crystals of a method's matched photons, NaN for the others."""
        matches = self.matches[name]
        return np.asarray(_taken(self.photons[name].position_N2, matches) - self.truth.crystals.impact_EP2)


def _taken(values_N: NDArray[Any], matches: Matches) -> NDArray[Any]:
    """Return the values (E, 2, ...) of the matched photons, NaN for the others."""
    padded = np.concatenate([values_N, np.full((1, *values_N.shape[1:]), np.nan)])  # −1 is the last row
    return np.asarray(padded[matches.index_EP])


def check(photons: Photons, n_events: int, name: str) -> None:
    """Refuse photons that are not sorted by event, lie in no event, or have no finite place and energy."""
    event_N, n = photons.event_N, len(photons.event_N)
    if photons.position_N2.shape != (n, 2) or photons.energy_N.shape != (n,):
        raise BadData(
            f"photons of {name!r}: {n} events, positions {photons.position_N2.shape} and energies {photons.energy_N.shape} "
            f"do not belong together; give arrays ({n},), ({n}, 2) and ({n},)"
        )
    outside = np.flatnonzero((event_N < 0) | (event_N >= n_events))
    if len(outside):
        raise BadData(
            f"photons of {name!r}: row {outside[0]} is of event {event_N[outside[0]]}, but events are 0 to {n_events - 1}; "
            "reconstruct the events that are compared"
        )
    falling = np.flatnonzero(np.diff(event_N) < 0)
    if len(falling):
        raise BadData(f"photons of {name!r}: event_N falls at row {falling[0] + 1}; sort the photons by event")
    bad = np.flatnonzero(~np.isfinite(np.column_stack([photons.position_N2, photons.energy_N])).all(axis=1))
    if len(bad):
        raise BadData(
            f"photons of {name!r}: row {bad[0]} has position {photons.position_N2[bad[0]].tolist()} and energy "
            f"{photons.energy_N[bad[0]]:g} GeV; leave out what is not a photon"
        )


def match(truth: CrystalEvents, photons: Photons) -> Matches:
    """Match each event's reconstructed photons to its true ones, by position alone.

    The assignment with the smallest sum of distances is taken; each reconstructed photon is used once, none further away
    than `MATCHED_WITHIN`, and a true photon left without counts as that distance. What is matched to no true photon is fake.
    """
    rows_ES = _rows_by_event(photons.event_N, len(truth.energy_EP))
    distance_EPS = _distances(truth.impact_EP2, photons.position_N2, rows_ES)
    slot_EP = _best_assignment(distance_EPS)
    index_EP = np.where(slot_EP >= 0, np.take_along_axis(rows_ES, np.maximum(slot_EP, 0), axis=1), -1)
    fake_N = np.ones(len(photons.event_N), dtype=bool)
    fake_N[index_EP[index_EP >= 0]] = False
    return Matches(index_EP, fake_N, _split(distance_EPS, slot_EP))


def _rows_by_event(event_N: NDArray[Any], n_events: int) -> NDArray[Any]:
    """Return each event's rows (E, S), −1 behind the last."""
    count_E = np.bincount(event_N, minlength=n_events)
    place_N = np.arange(len(event_N)) - (np.cumsum(count_E) - count_E)[event_N]
    rows_ES = np.full((n_events, max(2, count_E.max(initial=0))), -1)
    rows_ES[event_N, place_N] = np.arange(len(event_N))
    return rows_ES


def _distances(impact_EP2: NDArray[Any], position_N2: NDArray[Any], rows_ES: NDArray[Any]) -> NDArray[Any]:
    """Return distances (E, P, S), infinite where either photon is absent."""
    padded_N2 = np.concatenate([position_N2, np.full((1, 2), np.nan)])
    apart_EPS2 = impact_EP2[:, :, None] - padded_N2[rows_ES][:, None]
    distance_EPS = np.hypot(apart_EPS2[..., 0], apart_EPS2[..., 1])
    return np.asarray(np.where(np.isnan(distance_EPS), np.inf, distance_EPS))


def _best_assignment(distance_EPS: NDArray[Any]) -> NDArray[Any]:
    """Return the place (E, P) of each true photon's partner, −1 for none.

    Two true photons compete for one partner at most, so the nearest two and none are all the choices either needs; a partner
    further away than `MATCHED_WITHIN` costs more than none.
    """
    nearest_EPC = np.argsort(distance_EPS, axis=2, kind="stable")[:, :, :2]
    cost_EPC = np.take_along_axis(distance_EPS, nearest_EPC, axis=2)
    nearest_EPC = np.concatenate([nearest_EPC, np.full_like(nearest_EPC[:, :, :1], -1)], axis=2)
    cost_EPC = np.concatenate([cost_EPC, np.full_like(cost_EPC[:, :, :1], MATCHED_WITHIN)], axis=2)
    first_EC, second_EC = nearest_EPC[:, 0, :, None], nearest_EPC[:, 1, None, :]
    cost_ECC = cost_EPC[:, 0, :, None] + cost_EPC[:, 1, None, :]
    cost_ECC = np.where((first_EC == second_EC) & (first_EC >= 0), np.inf, cost_ECC)
    best_E = cost_ECC.reshape(len(cost_ECC), 9).argmin(axis=1)
    chosen_EP = np.stack(np.unravel_index(best_E, (3, 3)), axis=1)
    return np.asarray(np.take_along_axis(nearest_EPC, chosen_EP[:, :, None], axis=2)[:, :, 0])


def _split(distance_EPS: NDArray[Any], slot_EP: NDArray[Any]) -> NDArray[Any]:
    """Return the true photons (E, P) with at least two reconstructed ones that are not the other photon.

    Those count that lie within `SPLIT_WITHIN` and are the photon's partner or nobody's. Nobody's belong to the nearer true
    photon, or to the other one where that lies within `SPLIT_WITHIN`, too, and has no partner yet.
    """
    near_EPS = distance_EPS <= SPLIT_WITHIN
    place_S = np.arange(distance_EPS.shape[2])
    partner_EPS = slot_EP[:, :, None] == place_S
    other_near_EPS, other_lost_EP1 = near_EPS[:, ::-1], (slot_EP < 0)[:, ::-1, None]
    nearer_EPS = distance_EPS <= distance_EPS[:, ::-1]
    attributed_EPS = near_EPS & ~partner_EPS.any(axis=1, keepdims=True) & ~(other_near_EPS & (other_lost_EP1 | ~nearer_EPS))
    return np.asarray((partner_EPS | attributed_EPS).sum(axis=2) >= 2)
