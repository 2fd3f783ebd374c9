"""HDF5 files from anywhere: nothing is read that is not there, or that is elsewhere."""

from pathlib import Path

import h5py
import numpy as np
import pytest

from caloedge.detector.crystals.library import open_library, write_library
from caloedge.detector.images.particle_samples import read_particles
from caloedge.errors import BadData
from caloedge.formats import hdf5


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "showers.h5"
    write_library(path, np.full(300, 2000.0), np.zeros((300, 2)), np.ones((300, 9), "f4"), {"seed": 1})
    return path


def complaint(path: Path) -> str:
    with pytest.raises(BadData) as caught:
        assert open_library(path).cells_mev.size
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("key", ["incident_energies", "impact_mm", "showers"])
def test_numbers_that_were_never_written_are_refused(library: Path, key: str) -> None:
    with h5py.File(library, "r+") as file:
        columns = file[key].shape[1]
        del file[key]
        file.create_dataset(key, (300_000_000, columns), "f4", chunks=(1024, columns), fillvalue=1.0)
    assert library.stat().st_size < 100_000
    assert complaint(library) == (
        f"{library}: {key!r} (300000000, {columns}) was not written as a whole (0 of 292969 chunks); make the file again"
    )
    with h5py.File(library, "r+") as file:
        del file[key]
        file.create_dataset(key, (300_000_000, columns), "f4", fillvalue=1.0)
    assert complaint(library).endswith(
        f" was not written as a whole (0 of {300_000_000 * columns * 4} bytes); make the file again"
    )


def test_numbers_that_do_not_fit_the_memory_are_refused(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hdf5, "available_memory_bytes", lambda: 4 * 300 * 8)
    assert complaint(library) == (
        f"{library}: 'impact_mm' (300, 2) needs 0.0 GiB of memory, 0.0 GiB may be used here; give fewer events"
    )


def test_links_into_other_files_are_refused(library: Path, tmp_path: Path) -> None:
    content = library.read_bytes()
    other = tmp_path / "other.h5"
    other.write_bytes(content)
    for link in (h5py.ExternalLink("other.h5", "showers"), h5py.SoftLink("/impact_mm")):
        with h5py.File(library, "r+") as file:
            del file["showers"]
            file["showers"] = link
        assert complaint(library) == f"{library}: 'showers' is a link to another place; copy the data into the file itself"
    elsewhere = f"{library}: 'showers' lies in another file; copy the data into the file itself"
    with h5py.File(library, "r+") as file:
        del file["showers"]
        layout = h5py.VirtualLayout((300, 9), "f4")
        layout[:] = h5py.VirtualSource("other.h5", "showers", (300, 9))
        file.create_virtual_dataset("showers", layout)
    assert complaint(library) == elsewhere
    raw = tmp_path / "raw"
    np.ones((300, 9), "f4").tofile(raw)
    with h5py.File(library, "r+") as file:
        del file["showers"]
        file.create_dataset("showers", (300, 9), "f4", external=[(str(raw), 0, 300 * 9 * 4)])
    assert complaint(library) == elsewhere


def test_particles_are_read_as_carefully(tmp_path: Path) -> None:
    path = tmp_path / "events.hdf5"
    with h5py.File(path, "w") as file:
        file.create_dataset("multiplicity", (10**9,), "i4", chunks=(1000,))
    with pytest.raises(BadData) as caught:
        read_particles(path)
    assert str(caught.value) == (
        f"{path}: 'multiplicity' (1000000000,) was not written as a whole (0 of 1000000 chunks); make the file again"
    )
