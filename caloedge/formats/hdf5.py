"""Open HDF5 files from anywhere: a data set's shape is checked against what is stored and the memory there is before it is read.

A file may claim any shape in a few bytes, by fill values, and may point into other files, by external links, external storage and
virtual data sets: both are refused.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from caloedge.computer import available_memory_bytes
from caloedge.errors import BadData
from caloedge.files import require_regular

DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError, ArithmeticError, AttributeError)
"""Exceptions that h5py raises for a damaged file."""
BYTES_PER_NUMBER = 8
MEMORY_SHARE = 4
"""A data set may fill one part in so many of the memory there is: what is computed of it needs the rest."""


@contextmanager
def open_hdf5(path: Path) -> Iterator[h5py.File]:
    """Open a file for reading; whatever h5py raises while it is open becomes `BadData` with the cure."""
    try:
        require_regular(path)
        with h5py.File(path) as file:
            yield file
    except DAMAGE as problem:
        line = " ".join(str(problem).split())[:300]
        raise BadData(f"{path}: not a readable HDF5 file ({line}); damaged or truncated: make or copy it again") from None


def dataset(path: Path, file: h5py.File, key: str, *, in_parts: bool = False) -> h5py.Dataset | None:
    """Return a data set that is whole and in this file; None where there is no such data set.

    Raises `BadData` for one that lies in another file, was not written as a whole, or, unless it is read in parts, does not fit
    the memory.
    """
    link = file.get(key, getlink=True)
    if link is not None and not isinstance(link, h5py.HardLink):
        raise BadData(f"{path}: {key!r} is a link to another place; copy the data into the file itself")
    data = file.get(key)
    if not isinstance(data, h5py.Dataset):
        return None
    if data.is_virtual or data.external:
        raise BadData(f"{path}: {key!r} lies in another file; copy the data into the file itself")
    if data.shape is None:
        raise BadData(f"{path}: {key!r} holds nothing; make the file again")
    _require_whole(path, data, key)
    needed, allowed = data.size * max(BYTES_PER_NUMBER, data.dtype.itemsize), available_memory_bytes() // MEMORY_SHARE
    if needed > allowed and not in_parts:
        raise BadData(
            f"{path}: {key!r} {data.shape} needs {needed / 2**30:,.1f} GiB of memory,"
            f" {allowed / 2**30:,.1f} GiB may be used here; give fewer events"
        )
    return data


def _require_whole(path: Path, data: h5py.Dataset, key: str) -> None:
    """Refuse numbers that are nowhere in the file: HDF5 would return fill values for them."""
    if data.chunks is None:
        stored, needed, unit = data.id.get_storage_size(), data.size * data.dtype.itemsize, "bytes"
    else:
        stored, unit = data.id.get_num_chunks(), "chunks"
        needed = math.prod(-(-length // chunk) for length, chunk in zip(data.shape, data.chunks, strict=True))
    if stored < needed:
        raise BadData(
            f"{path}: {key!r} {data.shape} was not written as a whole ({stored} of {needed} {unit}); make the file again"
        )
