"""The shower library: an HDF5 file with the CaloChallenge keys, impact points and provenance.

Keys: `incident_energies` (N, 1) MeV, `showers` (N, cells) MeV row-major, `impact_mm` (N, 2) from the central cell's
centre. Files made elsewhere with these three keys are read as well; attributes are ours and optional.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from caloedge.errors import BadData, UnknownName, meant
from caloedge.files import replacing, sha256
from caloedge.formats.hdf5 import dataset, open_hdf5

SUFFIXES = (".h5", ".hdf5")
ROWS_PER_CHUNK = 256
ROWS_PER_BLOCK = 8 * ROWS_PER_CHUNK
MANTISSA_BITS = 11  # stored cell energies are rounded to 2⁻¹² relative, far below any calorimeter's resolution


@dataclass(frozen=True)
class ShowerLibrary:
    """A shower library on disk; energies and impact points are in memory, cells are read when asked for."""

    path: Path
    energies_mev: NDArray[Any]
    """(N,) true energies of the incident particles."""
    impact_mm: NDArray[Any]
    """(N, 2) impact points (x, y) from the centre of the central cell."""
    n_cells: int
    provenance: Mapping[str, str]
    """How the file was made; empty for files from elsewhere."""
    has_impact: bool = True
    """Whether the file itself has impact points; files of the CaloChallenge do not."""

    def __len__(self) -> int:
        return len(self.energies_mev)

    @cached_property
    def cells_mev(self) -> NDArray[Any]:
        """(N, cells) float32 energies in MeV, read once on first use."""
        with open_hdf5(self.path) as file:
            return self._checked(_dataset(self.path, file, "showers").astype("f4")[:], 0)

    def blocks(self) -> Iterator[NDArray[Any]]:
        """Yield the cells of `ROWS_PER_BLOCK` showers after the other, for files that do not fit the memory."""
        with open_hdf5(self.path) as file:
            stored = _dataset(self.path, file, "showers", in_parts=True).astype("f4")
            for first in range(0, len(self), ROWS_PER_BLOCK):
                yield self._checked(stored[first : first + ROWS_PER_BLOCK], first)

    def _checked(self, cells: NDArray[Any], first: int) -> NDArray[Any]:
        _require(self.path, "showers", np.isfinite(cells), cells, "is not finite", first)
        _require(self.path, "showers", cells >= 0, cells, "is negative", first)
        return np.asarray(cells)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the file."""
        return sha256(self.path)


def shipped(name: str) -> Path:
    """Return the path of a library that comes with the package.

    >>> shipped("pbwo4_gamma").name
    'pbwo4_gamma.h5'
    """
    path = Path(str(package_files("caloedge"))) / "detector" / "libraries" / f"{name}.h5"
    if not path.is_file():
        names = shipped_names()
        raise UnknownName(
            f"no shipped shower library {name!r}{meant(name, names)}; there are: {', '.join(names)}"
            " (or give a path ending in .h5)"
        )
    return path


def shipped_names() -> list[str]:
    """List the libraries that come with the package."""
    return sorted(p.stem for p in (Path(str(package_files("caloedge"))) / "detector" / "libraries").glob("*.h5"))


def open_library(source: str | Path, *, on_axis: bool = False) -> ShowerLibrary:
    """Open a library by path, or by the name of a shipped one; bad files raise `BadData` naming file, key and cure.

    Showers that all start `on_axis` may lack impact points, as CaloChallenge files do: they are 0.
    """
    path = Path(source)
    if path.suffix not in SUFFIXES:
        path = shipped(str(source))
    if not path.is_file():
        raise BadData(f"{path}: no such file; make one with: caloedge simulate {path}")
    with open_hdf5(path) as file:
        energies_mev = _column(path, file, "incident_energies", 1).reshape(-1)
        lacks_impact = on_axis and "impact_mm" not in file
        impact_mm = np.zeros((len(energies_mev), 2)) if lacks_impact else _column(path, file, "impact_mm", 2)
        shape = _dataset(path, file, "showers", in_parts=True).shape
        provenance = {key: _text(value) for key, value in file.attrs.items()}
    rows = len(energies_mev)
    if len(shape) != 2 or shape[0] != rows or len(impact_mm) != rows:
        raise BadData(
            f"{path}: 'showers' {shape} and 'impact_mm' {impact_mm.shape} do not match {rows} incident energies;"
            " expected (N, cells) and (N, 2)"
        )
    if rows == 0:
        raise BadData(f"{path}: holds no showers; make them with: caloedge simulate {path}")
    positive = (energies_mev > 0) & np.isfinite(energies_mev)
    _require(path, "incident_energies", positive, energies_mev, "is not a positive number")
    _require(path, "impact_mm", np.isfinite(impact_mm), impact_mm, "is not finite")
    return ShowerLibrary(path, energies_mev, impact_mm, shape[1], provenance, not lacks_impact)


def write_library(
    path: Path,
    energies_mev: NDArray[Any],
    impact_mm: NDArray[Any],
    cells_mev: NDArray[Any] | Iterable[NDArray[Any]],
    provenance: Mapping[str, Any],
    *,
    zero_below_mev: float = 0.0,
) -> None:
    """Write a library whole: energies (N,), impact (N, 2), cells (N, cells) or blocks; below the threshold they become 0.

    The energy deposited before the threshold is kept in `deposited_energies` (N, 1) MeV, so that what the threshold
    removed can be read from the file.
    """
    n, deposited_mev = len(energies_mev), []
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("incident_energies", data=energies_mev.astype("f4")[:, None])
        file.create_dataset("impact_mm", data=impact_mm.astype("f4"))
        first = 0
        for block in [cells_mev] if isinstance(cells_mev, np.ndarray) else cells_mev:
            showers = file.get("showers") or file.create_dataset(
                "showers", (n, block.shape[1]), "f4", chunks=(min(ROWS_PER_CHUNK, n), block.shape[1]),
                compression="gzip", compression_opts=9, shuffle=True,
            )  # fmt: skip
            showers[first : first + len(block)] = np.where(block < zero_below_mev, 0, round_mantissa(block))
            deposited_mev.append(block.sum(axis=1))
            first += len(block)
        file.create_dataset("deposited_energies", data=np.concatenate(deposited_mev).astype("f4")[:, None])
        for key, value in {**provenance, "zero_below_mev": zero_below_mev}.items():
            file.attrs[key] = value if isinstance(value, str | int | float) else json.dumps(value)


def round_mantissa(values: NDArray[Any]) -> NDArray[Any]:
    """Round float32 values to `MANTISSA_BITS` explicit bits, so that the rest compresses to nothing.

    >>> float(round_mantissa(np.array([1000.1], "f4"))[0])
    1000.0
    """
    drop = 23 - MANTISSA_BITS
    bits = np.ascontiguousarray(values, "f4").view(np.uint32)
    half = np.uint32(1 << (drop - 1))
    return np.asarray(((bits + half) >> np.uint32(drop) << np.uint32(drop)).view(np.float32))


def _dataset(path: Path, file: h5py.File, key: str, *, in_parts: bool = False) -> h5py.Dataset:
    if (data := dataset(path, file, key, in_parts=in_parts)) is None:
        keys = ", ".join(sorted(file)) or "nothing"
        raise BadData(f"{path}: no dataset {key!r} (found: {keys}); a library has incident_energies, showers and impact_mm")
    if data.dtype.kind not in "fiu":
        raise BadData(f"{path}: {key!r} holds {data.dtype}, not numbers")
    return data


def _column(path: Path, file: h5py.File, key: str, width: int) -> NDArray[Any]:
    data = _dataset(path, file, key)
    if data.ndim != 2 or data.shape[1] != width:
        raise BadData(f"{path}: {key!r} has shape {data.shape}; expected (N, {width})")
    return np.asarray(data[:], np.float64)


def _require(path: Path, key: str, valid: NDArray[Any], values: NDArray[Any], complaint: str, first: int = 0) -> None:
    if not valid.all():
        index = np.unravel_index(int(np.argmin(valid)), valid.shape)
        index_text = ", ".join(str(int(i) + start) for i, start in zip(index, (first, 0), strict=False))
        raise BadData(f"{path}: {key}[{index_text}] = {values[index]} {complaint}; remove that shower or make the file again")


def _text(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
