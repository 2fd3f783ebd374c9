"""Read NumPy's .npz and .npy files from anywhere: what a file says of itself is checked before memory is taken for it."""

import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from caloedge.computer import available_memory_bytes
from caloedge.errors import BadData
from caloedge.files import require_regular

DAMAGE = (
    OSError, ValueError, EOFError, TypeError, RuntimeError, NotImplementedError, LookupError, ArithmeticError, MemoryError,
    SyntaxError, zipfile.BadZipFile, zlib.error,
)  # fmt: skip
"""Exceptions that zipfile and NumPy raise for damaged files."""
KINDS = "biufcSU"
"""NumPy kinds of the accepted arrays: booleans, numbers and texts."""
BYTES_PER_NUMBER = 8
"""Bytes of the int64 or float64 in which codes and energies are computed."""
MEMORY_SHARE = 4
"""A file may fill one part in so many of the memory there is: what is computed of it needs the rest."""
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
CURE = "write it with numpy.savez"


@dataclass(frozen=True)
class Member:
    """One array of a file, as its header describes it."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


def read_npz(
    path: Path, names: tuple[str, ...] | None = None, *, shapes: Mapping[str, tuple[int, ...]] | None = None, cure: str = CURE
) -> dict[str, NDArray[Any]]:
    """Return the arrays of an .npz file by name, all or those named; `shapes` are those behind the first axis.

    Raises `BadData` for everything that is not a whole file of plain arrays that fits the memory, before it is read.
    """
    with _opened(path, cure) as archive:
        members = _members(path, archive, cure)
        selected = tuple(members) if names is None else names
        if lacking := [name for name in selected if name not in members]:
            existing = ", ".join(members) or "nothing"
            raise BadData(f"{path}: no array {lacking[0]!r} (found: {existing}); {cure}")
        headers = {name: _header(path, archive, members[name], name, cure) for name in selected}
        for name, shape in (shapes or {}).items():
            if name in headers and headers[name].shape[1:] != shape:
                expected = ", ".join(map(str, ("N", *shape)))
                raise BadData(f"{path}: {name!r} has shape {headers[name].shape}; ({expected}) expected")
        _require_memory(path, headers.values())
        return {name: _array(archive, members[name]) for name in selected}


def array_names(path: Path, *, cure: str = CURE) -> tuple[str, ...]:
    """Return the names of the arrays in an .npz file. Raises `BadData`."""
    with _opened(path, cure) as archive:
        return tuple(_members(path, archive, cure))


def read_npy(path: Path, *, cure: str = "write it with numpy.save") -> NDArray[Any]:
    """Return the array of an .npy file. Raises `BadData` as `read_npz` does."""
    try:
        require_regular(path)
        with path.open("rb") as stream:
            header = _read_header(stream)
            if _bytes(header) != path.stat().st_size - stream.tell():
                raise ValueError("its header does not match its size")
            _require_memory(path, [header])
            stream.seek(0)
            return np.asarray(npy.read_array(stream, allow_pickle=False))
    except DAMAGE as problem:
        raise BadData(f"{path}: not a readable .npy file ({_line(problem)}); {cure}") from None


@contextmanager
def _opened(path: Path, cure: str) -> Iterator[zipfile.ZipFile]:
    try:
        require_regular(path)
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DAMAGE as problem:
        raise BadData(f"{path}: not a readable .npz file ({_line(problem)}); {cure}") from None


def _members(path: Path, archive: zipfile.ZipFile, cure: str) -> dict[str, zipfile.ZipInfo]:
    """Return the arrays in the file's directory by name."""
    members: dict[str, zipfile.ZipInfo] = {}
    for info in archive.infolist():
        name = info.filename.removesuffix(".npy")
        if name in members:
            raise BadData(f"{path}: holds {name!r} twice; {cure}")
        members[name] = info
    return members


def _header(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str, cure: str) -> Member:
    if not info.filename.endswith(".npy"):
        raise BadData(f"{path}: {name!r} is not an array; {cure}")
    if info.flag_bits & 1:
        raise BadData(f"{path}: {name!r} is encrypted; {cure}")
    if info.compress_type not in METHODS:
        raise BadData(f"{path}: {name!r} is compressed by a method that NumPy does not write; {cure}")
    with archive.open(info) as stream:
        header = _read_header(stream)
        if _bytes(header) != info.file_size - stream.tell():
            raise BadData(f"{path}: {name!r} says {header.dtype} {header.shape}, which is not the size of what is there; {cure}")
    return header


def _read_header(stream: IO[bytes]) -> Member:
    """Return what a header says; NumPy evaluates it as literals, of 10,000 characters at most."""
    version = npy.read_magic(stream)
    if version not in ((1, 0), (2, 0)):
        raise ValueError(f"format {version}")
    shape, _, dtype = npy.read_array_header_1_0(stream) if version == (1, 0) else npy.read_array_header_2_0(stream)
    if dtype.kind not in KINDS or not dtype.itemsize or any(length < 0 for length in shape):
        raise ValueError(f"it holds {dtype} {shape}, no plain numbers")
    return Member(tuple(int(length) for length in shape), dtype)


def _bytes(header: Member) -> int:
    return math.prod(header.shape) * header.dtype.itemsize


def _require_memory(path: Path, headers: Any) -> None:
    needed = sum(math.prod(header.shape) * max(BYTES_PER_NUMBER, header.dtype.itemsize) for header in headers)
    allowed = available_memory_bytes() // MEMORY_SHARE
    if needed > allowed:
        raise BadData(
            f"{path}: needs {needed / 2**30:,.1f} GiB of memory, {allowed / 2**30:,.1f} GiB may be used here; give fewer events"
        )


def _array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> NDArray[Any]:
    with archive.open(info) as stream:
        values = np.asarray(npy.read_array(stream, allow_pickle=False))
        stream.read(1)  # reaches the end, where the check sum is compared
    return values


def _line(problem: BaseException) -> str:
    return " ".join(str(problem).split())[:200] or type(problem).__name__
