"""Geometries and the shower library: what a good file gives, and one exact line for every bad one."""

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from caloedge.detector.crystals.geometry import GEOMETRIES, PBWO4, SamplingStack, describe, geometry
from caloedge.detector.crystals.library import MANTISSA_BITS, open_library, round_mantissa, shipped, write_library
from caloedge.errors import BadData, UnknownName


def good(n: int = 3) -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {
        "incident_energies": rng.uniform(1e3, 1e5, (n, 1)),
        "showers": rng.exponential(5.0, (n, 625)),
        "impact_mm": rng.uniform(-11, 11, (n, 2)),
    }


def write(path: Path, data: dict[str, Any]) -> Path:
    with h5py.File(path, "w") as file:
        for key, values in data.items():
            file[key] = values
    return path


def changed(key: str, where: tuple[int, ...], value: float) -> dict[str, Any]:
    data = good()
    data[key][where] = value
    return data


def test_geometries_have_the_published_sizes() -> None:
    assert PBWO4.cell_shape == (25, 25)
    assert (PBWO4.cell_mm, PBWO4.depth_mm, PBWO4.impact_half_width_mm) == (22.0, 230.0, 11.0)
    stack = geometry("wsi")
    assert isinstance(stack, SamplingStack)
    assert stack.cell_shape == (45, 16, 9)
    assert stack.impact_half_width_mm == 0
    # 1e-9: the edges are decimal fractions, their differences are rounded doubles
    np.testing.assert_allclose(np.diff(stack.r_edges_mm), stack.ring_mm, rtol=0, atol=1e-9)
    assert len(stack.r_edges_mm) == 10


@pytest.mark.parametrize("name", GEOMETRIES)
def test_a_geometry_is_described_by_plain_data_under_its_own_name(name: str) -> None:
    plain = json.loads(json.dumps(describe(geometry(name))))
    assert plain["name"] == name
    assert plain["type"] == type(geometry(name)).__name__


def test_an_unknown_geometry_is_named() -> None:
    with pytest.raises(UnknownName, match=r"^no geometry 'lar'; there are: pbwo4, csi, wsi$"):
        geometry("lar")


@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_a_file_from_elsewhere_needs_no_attributes(tmp_path: Path, dtype: str) -> None:
    data = {key: values.astype(dtype) for key, values in good().items()}
    library = open_library(write(tmp_path / "else.hdf5", data))
    assert len(library) == 3
    assert library.provenance == {}
    assert library.n_cells == 625
    assert library.cells_mev.dtype == np.float32
    np.testing.assert_array_equal(library.cells_mev, data["showers"].astype("f4"))
    np.testing.assert_array_equal(library.energies_mev, data["incident_energies"][:, 0])
    np.testing.assert_array_equal(library.impact_mm, data["impact_mm"])


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    data = good(300)  # more than one chunk
    energies, impact, cells = data["incident_energies"][:, 0], data["impact_mm"], data["showers"].astype("f4")
    path = tmp_path / "showers.h5"
    write_library(path, energies, impact, cells, {"seed": 3, "geometry": {"name": "x"}}, zero_below_mev=1.0)
    library = open_library(path)
    np.testing.assert_array_equal(library.energies_mev, energies.astype("f4"))
    np.testing.assert_array_equal(library.impact_mm, impact.astype("f4"))
    np.testing.assert_array_equal(library.cells_mev, np.where(cells < 1.0, 0, round_mantissa(cells)))
    with h5py.File(path) as file:
        deposited = file["deposited_energies"][:, 0]
    # 1e-6 relative: float32 sums of 625 cells
    np.testing.assert_allclose(deposited, cells.sum(axis=1, dtype=float), rtol=1e-6)
    assert library.provenance == {"seed": "3", "geometry": '{"name": "x"}', "zero_below_mev": "1.0"}
    assert [p.name for p in tmp_path.iterdir()] == ["showers.h5"]


def test_rounding_a_mantissa_is_to_nearest() -> None:
    values = np.random.default_rng(0).lognormal(0, 5, 10_000).astype("f4")
    error = np.abs(round_mantissa(values).astype(float) / values - 1)
    assert error.max() <= 2.0 ** -(MANTISSA_BITS + 1)
    assert error.max() > 0.9 * 2.0 ** -(MANTISSA_BITS + 1), "it rounds less than it says"
    np.testing.assert_array_equal(round_mantissa(np.zeros(3, "f4")), 0)


def test_a_library_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    data = good()
    arrays = data["incident_energies"][:, 0], data["impact_mm"], data["showers"]
    with pytest.raises(TypeError, match="not JSON serializable"):
        write_library(tmp_path / "showers.h5", *arrays, {"bad": object()})
    assert list(tmp_path.iterdir()) == []


AGAIN = "remove that shower or make the file again"
WHOLE = "a library has incident_energies, showers and impact_mm"
BAD_ON_OPENING = {
    "missing key": (
        {key: values for key, values in good().items() if key != "impact_mm"},
        f"no dataset 'impact_mm' (found: incident_energies, showers); {WHOLE}",
    ),
    "nothing": ({}, f"no dataset 'incident_energies' (found: nothing); {WHOLE}"),
    "text": (good() | {"incident_energies": np.array([[b"one"]] * 3)}, "'incident_energies' holds |S3, not numbers"),
    "flat energies": (good() | {"incident_energies": np.ones(3)}, "'incident_energies' has shape (3,); expected (N, 1)"),
    "impact in space": (good() | {"impact_mm": np.ones((3, 3))}, "'impact_mm' has shape (3, 3); expected (N, 2)"),
    "square showers": (
        good() | {"showers": np.ones((3, 25, 25))},
        "'showers' (3, 25, 25) and 'impact_mm' (3, 2) do not match 3 incident energies; expected (N, cells) and (N, 2)",
    ),
    "too few showers": (
        good() | {"showers": np.ones((2, 625))},
        "'showers' (2, 625) and 'impact_mm' (3, 2) do not match 3 incident energies; expected (N, cells) and (N, 2)",
    ),
    "too many impacts": (
        good() | {"impact_mm": np.ones((4, 2))},
        "'showers' (3, 625) and 'impact_mm' (4, 2) do not match 3 incident energies; expected (N, cells) and (N, 2)",
    ),
    "NaN energy": (
        changed("incident_energies", (1, 0), np.nan),
        f"incident_energies[1] = nan is not a positive number; {AGAIN}",
    ),
    "infinite energy": (
        changed("incident_energies", (0, 0), np.inf),
        f"incident_energies[0] = inf is not a positive number; {AGAIN}",
    ),
    "negative energy": (
        changed("incident_energies", (2, 0), -5.0),
        f"incident_energies[2] = -5.0 is not a positive number; {AGAIN}",
    ),
    "NaN impact": (changed("impact_mm", (2, 1), np.nan), f"impact_mm[2, 1] = nan is not finite; {AGAIN}"),
}


@pytest.mark.parametrize("kind", BAD_ON_OPENING)
def test_a_bad_file_is_one_exact_line(tmp_path: Path, kind: str) -> None:
    data, message = BAD_ON_OPENING[kind]
    path = write(tmp_path / "bad.h5", data)
    with pytest.raises(BadData) as caught:
        open_library(path)
    assert str(caught.value) == f"{path}: {message}"


def test_an_empty_library_says_how_to_fill_it(tmp_path: Path) -> None:
    path = write(tmp_path / "none.h5", good(0))
    with pytest.raises(BadData) as caught:
        open_library(path)
    assert str(caught.value) == f"{path}: holds no showers; make them with: caloedge simulate {path}"


@pytest.mark.parametrize(
    ("value", "complaint"), [(np.nan, "nan is not finite"), (np.inf, "inf is not finite"), (-1.0, "-1.0 is negative")]
)
def test_bad_cells_are_found_when_they_are_read(tmp_path: Path, value: float, complaint: str) -> None:
    path = write(tmp_path / "bad.h5", changed("showers", (1, 7), value))
    library = open_library(path)  # reads no cells
    with pytest.raises(BadData) as caught:
        _ = library.cells_mev
    assert str(caught.value) == f"{path}: showers[1, 7] = {complaint}; {AGAIN}"


def test_a_missing_file_says_how_to_make_it(tmp_path: Path) -> None:
    path = tmp_path / "none.h5"
    with pytest.raises(BadData) as caught:
        open_library(path)
    assert str(caught.value) == f"{path}: no such file; make one with: caloedge simulate {path}"


def test_an_unknown_shipped_library_is_named() -> None:
    with pytest.raises(
        UnknownName, match=r"^no shipped shower library 'muons'; there are: .* \(or give a path ending in \.h5\)$"
    ):
        shipped("muons")


@pytest.mark.parametrize("share", [0.0, 0.02, 0.5, 0.99])
def test_a_truncated_file_is_one_line(tmp_path: Path, share: float) -> None:
    whole = write(tmp_path / "whole.h5", good()).read_bytes()
    path = tmp_path / "cut.h5"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(BadData) as caught:
        open_library(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: not a readable HDF5 file (")
    assert message.endswith("); damaged or truncated: make or copy it again")
    assert "\n" not in message


def test_damage_anywhere_is_bad_data_or_harmless(tmp_path: Path) -> None:
    """Overwrite a few bytes at many places: never anything but `BadData`."""
    data = good(40)
    path = tmp_path / "whole.h5"
    write_library(path, data["incident_energies"][:, 0], data["impact_mm"], data["showers"].astype("f4"), {"seed": 1})
    whole = path.read_bytes()
    rng = np.random.default_rng(4)
    refused = 0
    for number, place in enumerate(rng.choice(6000, 120, replace=False)):
        damaged = bytearray(whole)
        damaged[place : place + 8] = rng.bytes(8)
        bad = tmp_path / f"bad{number}.h5"  # a name of its own: HDF5 remembers files
        bad.write_bytes(damaged)
        try:
            _ = open_library(bad).cells_mev
        except BadData:
            refused += 1
    assert refused > 5, "the damage never mattered, the test proves nothing"
