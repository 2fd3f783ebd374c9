"""Read hits and offline clusters of Belle II's simulated events from parquet files of its trigger demonstrator.

The files (arXiv 2605.10612, MIT licence) have one row per crystal above 20 MeV. What is to be found are the experiment's own
offline clusters, not particles: those that the simulation matches to a particle. The others, most of them of beam background,
are neither right nor wrong. A cluster without a row of its own is not known here. Axes: R row, of all files; N row of one event
and object; E event; P cluster of an event.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.computer import available_memory_bytes
from caloedge.detector.crystals.hits import NOBODY, HitEvents, Kind, first_events, joined
from caloedge.detector.crystals.rings import CrystalRings, belle2
from caloedge.errors import BadData
from caloedge.extras import package
from caloedge.files import require_regular, sha256

SUFFIX = ".parquet"
EVENT = "uni_event_id"
NUMBERS = (
    *("tc_id", "tc_energy", "tc_time_cal", "x", "y", "z"),
    *("objidx", "train_E", "train_x", "train_y", "train_z", "tmp_frac", "mc_matched"),
)
"""Number of the crystal from 1 on, energy in GeV, time in ns, place in cm; number of the offline cluster in the event (0: none),
its energy and place, its share in the crystal, and 1 if it is matched to a particle."""
OF_CLUSTERS = ("train_E", "train_x", "train_y", "train_z", "mc_matched")
BYTES_PER_NUMBER = 8
MEMORY_SHARE = 8
"""Columns may fill one part in so many of the memory there is: they are sorted and joined."""
FARTHEST_CM = 5.0
"""Farther from its crystal along an axis a hit has another unit or number than the experiment's, which are within 1 cm."""
ROUNDING = 1e-3
"""By which a share of the energy may be outside of 0 … 1."""
KIND = Kind(events="events of the experiment's simulation", object="offline cluster", is_truth=False, in_time_ns=100.0)
"""Within 100 ns local maxima find 0.2 to 0.3 % less of the clusters than at any time."""
CURE = "take the demonstrator's file again"


@dataclass(frozen=True)
class Belle2Files:
    """Events of one file, or of all in a folder, one file after the other."""

    path: Path
    files: tuple[Path, ...]
    hits: HitEvents

    def __len__(self) -> int:
        return self.hits.n_events

    def first(self, n_events: int) -> HitEvents:
        """Return the first events; all where there are fewer."""
        return first_events(self.hits, n_events)

    @property
    def provenance(self) -> Mapping[str, str]:
        """Who made the files: they do not say how."""
        return {"version": "Belle II"}

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file; for several, of theirs."""
        digests = [sha256(path) for path in self.files]
        return digests[0] if len(digests) == 1 else hashlib.sha256("".join(digests).encode()).hexdigest()


def files_at(path: Path) -> tuple[Path, ...]:
    """Return the files of a path that is one, or a folder of some; none where it is neither."""
    if path.is_dir():
        return tuple(sorted(path.glob(f"*{SUFFIX}")))
    return (path,) if path.suffix == SUFFIX else ()


def open_files(path: Path) -> Belle2Files:
    """Open a file, or all in a folder; needs the extra `belle2`.

    Raises `BadData` naming file, column and row (counted from 0) of what cannot be, and `MissingTool` without pyarrow.
    """
    files = files_at(path)
    if not files:
        raise BadData(f"{path}: neither a file nor a folder of files that end in {SUFFIX}")
    rings = belle2()
    return Belle2Files(path, files, joined([_events(file, rings) for file in files]))


def _events(path: Path, rings: CrystalRings) -> HitEvents:
    event_R, columns = _read(path)
    _check(path, columns, rings)
    crystal_R = columns["tc_id"].astype(np.int64) - 1
    cluster_R = columns["objidx"].astype(np.int64)
    order = np.lexsort((crystal_R, event_R))
    again = np.flatnonzero((np.diff(event_R[order]) == 0) & (np.diff(crystal_R[order]) == 0))
    if len(again):
        one, other = order[again[0]], order[again[0] + 1]
        raise BadData(f"{path}: tc_id in row {other} is that of row {one}, of the same event; keep one row of each crystal")
    number_R, energy_EP, position_EP3 = _clusters(path, event_R, cluster_R, columns)
    return HitEvents(
        n_events=int(event_R[-1]) + 1,
        event_H=event_R[order],
        cell_H=crystal_R[order],
        energy_H=columns["tc_energy"][order],
        time_H=columns["tc_time_cal"][order],
        position_H3=_metres(columns, "x", "y", "z")[order],
        object_H=number_R[order],
        share_H=np.where(number_R == NOBODY, 0, np.clip(columns["tmp_frac"], 0, 1))[order],
        energy_EP=energy_EP,
        position_EP3=position_EP3,
        shower_EP=np.full(energy_EP.shape, -1),
        kind=KIND,
    )


def _read(path: Path) -> tuple[NDArray[Any], dict[str, NDArray[Any]]]:
    """Return the number of each row's event (R,), ascending, and the columns (R,) in float64 by name."""
    arrow = package("pyarrow", "Parquet files", "belle2")
    parquet = package("pyarrow.parquet", "Parquet files", "belle2")
    try:
        if not path.exists():
            raise BadData(f"{path}: no such file")
        require_regular(path)
        with parquet.ParquetFile(path) as file:
            _require_columns(path, file, arrow.types)
            table = file.read(columns=[EVENT, *NUMBERS])
        columns = {name: table[name].to_numpy().astype(np.float64) for name in NUMBERS}
        events = table[EVENT].combine_chunks()
        without = events.null_count
        event_R = np.zeros(0, np.int64) if without else events.dictionary_encode().indices.to_numpy().astype(np.int64)
    except (OSError, arrow.ArrowException, ValueError, TypeError) as problem:
        line = " ".join(str(problem).split())[:200]
        raise BadData(f"{path}: not a readable parquet file ({line}); damaged or truncated: {CURE}") from None
    if without:
        raise BadData(f"{path}: {EVENT} is empty in {without:,} rows; {CURE}")
    _require_order(path, event_R)
    return event_R, columns


def _require_columns(path: Path, file: Any, types: Any) -> None:
    """Refuse a file whose columns are not there, are no numbers or would not fit the memory."""
    schema, rows = file.schema_arrow, file.metadata.num_rows
    for name in (EVENT, *NUMBERS):
        if name not in schema.names:
            raise BadData(f"{path}: no column {name!r}; needed are {EVENT}, {', '.join(NUMBERS)}: {CURE}")
        kind = schema.field(name).type
        is_name = name == EVENT and (types.is_string(kind) or types.is_large_string(kind))
        if not (is_name or types.is_integer(kind) or (types.is_floating(kind) and name != EVENT)):
            raise BadData(f"{path}: {name!r} holds {kind}, not {'names or integers' if name == EVENT else 'numbers'}; {CURE}")
    if not rows:
        raise BadData(f"{path}: holds no hits; {CURE}")
    needed, allowed = rows * len(NUMBERS) * BYTES_PER_NUMBER, available_memory_bytes() // MEMORY_SHARE
    if needed > allowed:
        raise BadData(
            f"{path}: {rows:,} hits need {needed / 2**30:,.1f} GiB of memory, {allowed / 2**30:,.1f} GiB may be used here; "
            "take a part of its events"
        )


def _require_order(path: Path, event_R: NDArray[Any]) -> None:
    """Refuse events whose rows do not follow each other, as those of two files with the same numbers would."""
    # Events are numbered as they first come, so a smaller number is one that has been there.
    if len(again := np.flatnonzero(np.diff(event_R) < 0)):
        row = int(again[0]) + 1
        raise BadData(
            f"{path}: {EVENT} in row {row} is that of row {int(np.argmax(event_R == event_R[row]))} again, with others between; "
            "sort by event, and give different events different names"
        )


def _check(path: Path, columns: Mapping[str, NDArray[Any]], rings: CrystalRings) -> None:
    """Refuse numbers that cannot be."""
    for name, values in columns.items():
        _require(path, name, np.isfinite(values), values, "is not finite")
    tc_id, cluster = columns["tc_id"], columns["objidx"]
    n_crystals = len(rings.ring_C)
    whole = (tc_id == np.floor(tc_id)) & (tc_id >= 1) & (tc_id <= n_crystals)
    _require(path, "tc_id", whole, tc_id, f"is not a crystal from 1 to {n_crystals}")
    _require(path, "tc_energy", columns["tc_energy"] > 0, columns["tc_energy"], "is not a positive energy")
    whole = (cluster == np.floor(cluster)) & (cluster >= 0) & (cluster <= n_crystals)
    _require(path, "objidx", whole, cluster, f"is not a cluster from 1 to {n_crystals}, nor 0 for none")
    _require(path, "train_E", (columns["train_E"] > 0) | (cluster == 0), columns["train_E"], "is not a positive energy")
    share = columns["tmp_frac"]
    _require(path, "tmp_frac", (share >= -ROUNDING) & (share <= 1 + ROUNDING), share, "is not a share from 0 to 1")
    matched = columns["mc_matched"]
    _require(path, "mc_matched", (matched == 0) | (matched == 1), matched, "is neither 0 nor 1")
    centre_R3 = rings.position_C3[tc_id.astype(np.int64) - 1]
    away_R = 100 * np.abs(_metres(columns, "x", "y", "z") - centre_R3).max(axis=1)
    _require(path, "distance of x, y, z from crystal tc_id", away_R <= FARTHEST_CM, away_R, "cm are too many (they are in cm)")


def _require(path: Path, name: str, valid_R: NDArray[Any], values_R: NDArray[Any], complaint: str) -> None:
    if not valid_R.all():
        row = int(np.argmin(valid_R))
        raise BadData(f"{path}: {name} in row {row}: {values_R[row]:g} {complaint}; leave out that event, or {CURE}")


def _clusters(
    path: Path, event_R: NDArray[Any], cluster_R: NDArray[Any], columns: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Return the number of each row's cluster (R,), and energies (E, P) and places (E, P, 3) of clusters.

    Clusters are numbered anew in each event, without gaps, so that arrays are as long as the most clusters of an event.
    """
    inside_R = cluster_R > 0
    rows_N = np.flatnonzero(inside_R)
    key_N = event_R[rows_N] * (cluster_R.max() + 1) + cluster_R[rows_N]
    _, first_O, object_N = np.unique(key_N, return_index=True, return_inverse=True)
    row_O = rows_N[first_O]
    event_O = event_R[row_O]
    for name in OF_CLUSTERS:
        differ = columns[name][rows_N] != columns[name][row_O][object_N]
        if differ.any():
            row, other = rows_N[np.argmax(differ)], row_O[object_N[np.argmax(differ)]]
            raise BadData(f"{path}: {name} in row {row} is not that of row {other}, of the same event and objidx; {CURE}")
    n_events = int(event_R[-1]) + 1
    per_event_E = np.bincount(event_O, minlength=n_events)
    place_O = np.arange(len(event_O)) - (np.cumsum(per_event_E) - per_event_E)[event_O]
    number_R = np.full(len(event_R), NOBODY)
    number_R[rows_N] = place_O[object_N]
    energy_EP = np.full((n_events, max(int(per_event_E.max()), 1)), np.nan)
    position_EP3 = np.full((*energy_EP.shape, 3), np.nan)
    matched_O = columns["mc_matched"][row_O] == 1
    energy_EP[event_O, place_O] = np.where(matched_O, columns["train_E"][row_O], np.nan)
    position_EP3[event_O, place_O] = _metres(columns, "train_x", "train_y", "train_z")[row_O]
    return number_R, energy_EP, position_EP3


def _metres(columns: Mapping[str, NDArray[Any]], *names: str) -> NDArray[Any]:
    """Return places (R, 3) in m of columns in cm."""
    return np.stack([columns[name] for name in names], axis=1) / 100
