"""Files of events in six layers: our own, and images with the branch names of the published ones.

Ours is HDF5: `cell_energy_L1` … `_L6` and `neutral_energy_L1` … `_L6` (E, φ cells, η cells) GeV; `track_gev`, `true_charged_gev`,
`true_neutral_gev` and `distance_mm` (E,); `track_mm` (E, 2): the fields of `LayeredEvents`, NaN where one is not known but
for cells.

The published images (arXiv 2003.08863) are ROOT trees `EventTree` with `cell_Energy_L1` …, `cellCh_Energy_L1` … and
`cellNu_Energy_L1` … in MeV. They are read from HDF5 or NumPy (.npz) files with these names; `ROOT_CURE` converts a tree. They
have no tracks: `track_gev` and `track_mm`, added to the file, are read as in ours.
Axes: E event, H row in φ, W column in η.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals.library import SUFFIXES
from caloedge.detector.layers.events import Generated, LayeredEvents
from caloedge.detector.layers.geometry import LAYERS
from caloedge.errors import BadData, Unsupported, UserError
from caloedge.files import replacing, sha256
from caloedge.formats.hdf5 import open_hdf5, read_dataset
from caloedge.formats.npz import read_npz

NUMPY_SUFFIX = ".npz"
CURE = "make one with write_layered(path, generate(2000, seed=1))"
ROOT_CURE = "numpy.savez(path, **uproot.open(file)['EventTree'].arrays(library='np'))"
NUMBERS = range(1, len(LAYERS) + 1)
OURS = tuple(f"{kind}_energy_L{n}" for kind in ("cell", "neutral") for n in NUMBERS)
PUBLISHED = tuple(f"{kind}_Energy_L{n}" for kind in ("cell", "cellCh", "cellNu") for n in NUMBERS)
COLUMNS = {"track_gev": (), "track_mm": (2,), "true_charged_gev": (), "true_neutral_gev": (), "distance_mm": ()}
"""Shapes of the data sets of one number or pair per event, without the events' axis."""
PUBLISHED_GEV = 1e-3
TOLERANCE = 1e-4
"""Relative tolerance of sums in single precision."""
TOLERANCE_GEV = 1e-5


@dataclass(frozen=True)
class LayeredSample:
    """Events with where they come from."""

    events: LayeredEvents
    provenance: Mapping[str, str]
    """How the events were made; empty for files from elsewhere."""
    path: Path = Path()
    """File that the events were read from."""

    def __len__(self) -> int:
        return len(self.events)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.path)


def open_layered(source: str | Path) -> Generated | LayeredSample:
    """Return the generator for the name `generated`, else read a file."""
    return Generated() if str(source) == "generated" else read_layered(source)


def generate(n_events: int, seed: int, generator: Generated | None = None) -> LayeredSample:
    """Make a sample for a file."""
    generator = generator or Generated()
    return LayeredSample(generator.events(n_events, seed), {**generator.provenance, "seed": str(seed), "events": str(n_events)})


def write_layered(path: Path, sample: LayeredSample) -> None:
    """Write a sample in our format, whole; equal samples give equal bytes. Raises `UserError` for another suffix than HDF5's."""
    if path.suffix not in SUFFIXES:
        raise UserError(f"{path}: a sample of layers ends in .hdf5; give such a name")
    events = sample.events
    packing: dict[str, Any] = {"compression": "gzip", "compression_opts": 4, "shuffle": True, "chunks": True}
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        for name, values in zip(OURS, (*events.cells_gev, *events.neutral_gev), strict=True):
            file.create_dataset(name, data=values.astype("f4"), **(packing if len(values) else {}))
        for name in COLUMNS:
            file.create_dataset(name, data=getattr(events, name))
        for key, value in sorted(sample.provenance.items()):  # the order in which HDF5 lists them
            file.attrs[key] = value


def read_layered(source: str | Path) -> LayeredSample:
    """Read a file of events, 62 kB of memory each; bad files raise `BadData` naming file, data set and cure."""
    path = Path(source)
    if path.suffix == ".root":
        raise Unsupported(f"{path}: ROOT files are not read; convert the tree with {ROOT_CURE}")
    if path.suffix not in (*SUFFIXES, NUMPY_SUFFIX):
        raise BadData(f"{path}: neither the generator, 'generated', nor a file ending in .h5, .hdf5 or .npz")
    if not path.is_file():
        raise BadData(f"{path}: no such file; {CURE}")
    arrays, provenance = _arrays(path)
    published = not set(OURS) & set(arrays) and bool(set(PUBLISHED) & set(arrays))
    names = PUBLISHED if published else OURS
    layers = [_layer(path, arrays, name, LAYERS[i % len(LAYERS)].shape, names) for i, name in enumerate(names)]
    n_events = len(layers[0])
    for name, cells in zip(names, layers, strict=True):
        if len(cells) != n_events:
            raise BadData(f"{path}: {name!r} has {len(cells)} events, {names[0]!r} has {n_events}; make the file again")
    cells_gev, *_, neutral_gev = (layers[i : i + len(LAYERS)] for i in range(0, len(layers), len(LAYERS)))
    if published:
        _check_sums(path, layers)
        cells_gev, neutral_gev = (
            [cells * np.float32(PUBLISHED_GEV) for cells in arrays_by_layer] for arrays_by_layer in (cells_gev, neutral_gev)
        )
    else:
        for name, total, part in zip(OURS[len(LAYERS) :], cells_gev, neutral_gev, strict=True):
            _require(path, name, part <= total * (1 + TOLERANCE) + TOLERANCE_GEV, part, "is more than its cell has")
    columns = {name: _column(path, arrays, name, n_events, optional=published) for name in COLUMNS}
    return LayeredSample(LayeredEvents(tuple(cells_gev), tuple(neutral_gev), **columns), provenance, path)


def _arrays(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Return the arrays of a file by name, and its attributes."""
    if path.suffix == NUMPY_SUFFIX:
        return read_npz(path, cure="damaged or truncated: make or copy it again"), {}
    with open_hdf5(path) as file:
        arrays = {name: read_dataset(path, file, name) for name in file if name in (*OURS, *PUBLISHED, *COLUMNS)}
        return arrays, {str(key): str(value) for key, value in file.attrs.items()}


def _layer(
    path: Path, arrays: Mapping[str, NDArray[Any]], name: str, shape: tuple[int, int], names: tuple[str, ...]
) -> NDArray[Any]:
    """Return the cells of one layer (E, φ cells, η cells) float32."""
    cells = _array(path, arrays, name, names)
    if cells.dtype.kind != "f" or cells.ndim != 3 or cells.shape[1:] != shape:
        raise BadData(f"{path}: {name!r} holds {cells.shape} {cells.dtype}; expected (N, {shape[0]}, {shape[1]}) numbers, φ × η")
    _require(path, name, np.isfinite(cells), cells, "is not finite")
    _require(path, name, cells >= 0, cells, "is negative")
    return cells.astype(np.float32, copy=False)


def _check_sums(path: Path, layers: list[NDArray[Any]]) -> None:
    """Refuse published images whose cells are not the sum of both parts."""
    n = len(LAYERS)
    for name, total, charged, neutral in zip(PUBLISHED, layers[:n], layers[n : 2 * n], layers[2 * n :], strict=False):
        agrees = np.abs(total - charged - neutral) <= TOLERANCE * total + TOLERANCE_GEV / PUBLISHED_GEV
        _require(path, name, agrees, total, "is not the sum of its charged and its neutral energy")


def _column(path: Path, arrays: Mapping[str, NDArray[Any]], name: str, n_events: int, *, optional: bool) -> NDArray[Any]:
    """Return one number or pair per event; NaN is allowed, it stands for what is not known."""
    shape = (n_events, *COLUMNS[name])
    if optional and name not in arrays:
        return np.full(shape, np.nan)
    values = _array(path, arrays, name, tuple(COLUMNS))
    if values.dtype.kind not in "fiu" or values.shape != shape:
        raise BadData(f"{path}: {name!r} holds {values.shape} {values.dtype}; expected {shape} numbers")
    _require(path, name, ~np.isinf(values), values, "is infinite")
    if not name.endswith("mm"):
        _require(path, name, ~(values <= 0), values, "is no energy above 0")
    return values.astype(np.float64)


def _array(path: Path, arrays: Mapping[str, NDArray[Any]], name: str, names: tuple[str, ...]) -> NDArray[Any]:
    if name not in arrays:
        available = ", ".join(sorted(arrays)) or "nothing"
        raise BadData(f"{path}: no dataset {name!r} (found: {available}); such a file has {', '.join(names)}")
    return arrays[name]


def _require(path: Path, name: str, valid: NDArray[Any], values: NDArray[Any], complaint: str) -> None:
    if not valid.all():
        index = np.unravel_index(int(np.argmin(valid)), valid.shape)
        index_text = ", ".join(str(int(i)) for i in index)
        raise BadData(f"{path}: {name}[{index_text}] = {values[index]:g} {complaint}; make the file again")
