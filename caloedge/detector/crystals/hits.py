"""Events as lists of hits: cells above a threshold, of any number per event, with the particles that made them.

Axes: E event, H hit (of all events, ordered by event and cell), P particle or offline cluster of an event.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals.rings import CrystalRings

NOBODY = -1
"""Object of a hit that belongs to none: most of its energy is background."""
TRIGGER_CELL_GEV = 0.1
"""Threshold of a trigger cell: our choice, the experiment's was not readable."""


@dataclass(frozen=True)
class Kind:
    """What events and their objects are, for comparisons and their captions."""

    events: str = "events with one to six photons"
    object: str = "photon"
    is_truth: bool = True
    """Whether objects are the particles themselves, not what another algorithm says of them."""
    in_time_ns: float = 60.0
    """Largest |time| of hits that classical algorithms take as the event's. On simulated crystals, cuts in standard deviations of
    the time find fewer photons at as many fakes; on trigger cells, 100 ns give two thirds more fakes for 0.2 % more photons."""


PHOTONS = Kind()


@dataclass(frozen=True)
class HitEvents:
    """Hits of events, and the objects that a reconstruction is to find."""

    n_events: int
    event_H: NDArray[Any]
    cell_H: NDArray[Any]
    """Crystal, or trigger cell."""
    energy_H: NDArray[Any]
    """GeV."""
    time_H: NDArray[Any]
    """ns, 0 for particles of the event."""
    position_H3: NDArray[Any]
    """Centre of the cell in m."""
    object_H: NDArray[Any]
    """The object of the same event that gave most of the energy, or `NOBODY`."""
    share_H: NDArray[Any]
    """Share of that object in the hit's energy; 0 for `NOBODY`."""
    energy_EP: NDArray[Any]
    """GeV; NaN for absent objects, and for those that need not be found: a cluster on one of them is neither right nor wrong."""
    position_EP3: NDArray[Any]
    """m: where the object enters, at the depth of the cells' centres; NaN for absent objects."""
    shower_EP: NDArray[Any]
    """Row of the library, −1 for none: events share showers, and errors must know it."""
    kind: Kind = PHOTONS


def trigger_cells(hits: HitEvents, rings: CrystalRings, threshold_gev: float = TRIGGER_CELL_GEV) -> HitEvents:
    """Add crystals into trigger cells above a threshold.

    The time is the energy-weighted mean. Only crystals above their own threshold count, where an analogue sum would have all.
    """
    key_H = hits.event_H * (rings.trigger_cell_C.max() + 1) + rings.trigger_cell_C[hits.cell_H]
    owned_H = hits.energy_H * hits.share_H
    merged = merge(key_H, hits.energy_H, hits.time_H, hits.object_H, owned_H)
    keep = merged.energy_G >= threshold_gev
    event_G, cell_G = np.divmod(merged.key_G[keep], rings.trigger_cell_C.max() + 1)
    return HitEvents(
        hits.n_events,
        event_G,
        cell_G,
        merged.energy_G[keep],
        merged.time_G[keep],
        rings.trigger_positions[cell_G],
        merged.object_G[keep],
        merged.share_G[keep],
        hits.energy_EP,
        hits.position_EP3,
        hits.shower_EP,
        hits.kind,
    )


def first_events(hits: HitEvents, n_events: int) -> HitEvents:
    """Return the first events; all where there are fewer."""
    n_events = min(n_events, hits.n_events)
    n_hits = int(np.searchsorted(hits.event_H, n_events))
    return HitEvents(
        n_events,
        hits.event_H[:n_hits],
        hits.cell_H[:n_hits],
        hits.energy_H[:n_hits],
        hits.time_H[:n_hits],
        hits.position_H3[:n_hits],
        hits.object_H[:n_hits],
        hits.share_H[:n_hits],
        hits.energy_EP[:n_events],
        hits.position_EP3[:n_events],
        hits.shower_EP[:n_events],
        hits.kind,
    )


@dataclass(frozen=True)
class Merged:
    """Deposits with equal keys, added. Axis: G key, ascending."""

    key_G: NDArray[Any]
    energy_G: NDArray[Any]
    time_G: NDArray[Any]
    object_G: NDArray[Any]
    share_G: NDArray[Any]


def merge(
    key_D: NDArray[Any],
    energy_D: NDArray[Any],
    time_D: NDArray[Any],
    object_D: NDArray[Any],
    owned_D: NDArray[Any],
) -> Merged:
    """Add deposits (D,) of equal keys; of each, `owned_D` GeV are of its object.

    A sum belongs to the object that gave most of it where all objects together gave at least half.
    """
    # Deposits of one object in one cell first: an object's crystals may lie in one trigger cell.
    pair_D = key_D * (object_D.max(initial=0) + 2) + object_D + 1
    order = np.argsort(pair_D, kind="stable")
    first_O = _starts(pair_D[order])
    owned_O = _sums(owned_D[order], first_O)
    key_O, object_O = key_D[order][first_O], object_D[order][first_O]
    owned_O = np.where(object_O == NOBODY, 0, owned_O)
    by_size = np.lexsort((owned_O, key_O))
    ends_G = np.append(_starts(key_O)[1:], len(key_O))[: len(key_O)]
    best_G = by_size[ends_G - 1]
    first_G = _starts(key_D[order])
    energy_G, weighted_G = (_sums(values[order], first_G) for values in (energy_D, energy_D * time_D))
    all_owned_G = _sums(owned_O, _starts(key_O))
    owned = (all_owned_G >= 0.5 * energy_G) & (object_O[best_G] != NOBODY)
    return Merged(
        key_O[best_G],
        energy_G,
        weighted_G / energy_G,
        np.where(owned, object_O[best_G], NOBODY),
        np.where(owned, owned_O[best_G] / energy_G, 0),
    )


def _starts(ordered: NDArray[Any]) -> NDArray[Any]:
    """Return where each run of equal values starts."""
    return np.flatnonzero(np.diff(ordered, prepend=ordered[:1] - 1))


def _sums(values: NDArray[Any], starts: NDArray[Any]) -> NDArray[Any]:
    return np.add.reduceat(values, starts) if len(values) else values


def joined(blocks: Sequence[HitEvents]) -> HitEvents:
    """Join blocks of events; objects that a block does not have are absent."""
    first_B = np.cumsum([0, *(block.n_events for block in blocks)])
    most = max(block.energy_EP.shape[1] for block in blocks)

    def objects(name: str, absent: float) -> NDArray[Any]:
        arrays = [getattr(block, name) for block in blocks]
        widths = [[(0, 0), (0, most - array.shape[1])] + [(0, 0)] * (array.ndim - 2) for array in arrays]
        return np.concatenate([np.pad(array, width, constant_values=absent) for array, width in zip(arrays, widths, strict=True)])

    hits = {
        name: np.concatenate([getattr(block, name) for block in blocks])
        for name in ("cell_H", "energy_H", "time_H", "position_H3", "object_H", "share_H")
    }
    return HitEvents(
        n_events=int(first_B[-1]),
        event_H=np.concatenate([block.event_H + first for block, first in zip(blocks, first_B, strict=False)]),
        **hits,
        energy_EP=objects("energy_EP", np.nan),
        position_EP3=objects("position_EP3", np.nan),
        shower_EP=objects("shower_EP", -1),
        kind=blocks[0].kind,
    )
