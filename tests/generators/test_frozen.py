"""Frozen showers: each is one of the library, turned, mirrored and scaled, and the new library says where it comes from."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caloedge.detector.crystals.geometry import GEOMETRIES
from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.errors import UserError
from caloedge.fidelity.layout import Layout, layout
from caloedge.production import Production, simulate

TRAINING = Production("wsi", "parametrised", showers=60, seed=5, zero_below_mev=0.0005)
FROZEN = replace(TRAINING, generator="frozen", seed=6, showers=70, source="pbwo4_gamma", geometry="pbwo4")


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("stored") / "stored.h5"
    simulate(TRAINING, path, workers=1)
    return path


@pytest.fixture(scope="module")
def request_of(stored: Path) -> Production:
    return Production("wsi", "frozen", showers=70, seed=6, zero_below_mev=0.0, source=str(stored))


@pytest.fixture(scope="module")
def made(request_of: Production, tmp_path_factory: pytest.TempPathFactory) -> ShowerLibrary:
    path = tmp_path_factory.mktemp("made") / "frozen.h5"
    simulate(request_of, path, workers=1)
    return open_library(path)


def originals(shower_C: np.ndarray[Any, Any], energy_mev: float, library: ShowerLibrary, cells: Layout) -> list[tuple[int, int]]:
    """Return (row, orientation) of all stored showers that a shower is."""
    found = []
    for row in np.flatnonzero(abs(np.log(library.energies_mev / energy_mev)) < 1.5):
        scaled = library.cells_mev[row] * (energy_mev / library.energies_mev[row])
        if np.count_nonzero(scaled) != np.count_nonzero(shower_C):
            continue
        for number, from_C in enumerate(cells.orientations_OC):
            if np.allclose(scaled[from_C], shower_C, rtol=2**-11, atol=0):
                found.append((int(row), number))
    return found


def test_each_shower_is_a_stored_one(made: ShowerLibrary, stored: Path) -> None:
    library, cells = open_library(stored), layout(GEOMETRIES["wsi"])
    places = [
        originals(shower, energy, library, cells)[0]
        for shower, energy in zip(made.cells_mev[:12], made.energies_mev, strict=False)
    ]
    assert len({row for row, _ in places}) > 6
    assert len({orientation for _, orientation in places}) > 6
    order = np.argsort(library.energies_mev)
    rank = np.argsort(order)
    for (row, _), energy in zip(places, made.energies_mev, strict=False):  # among the ten of nearest energy
        assert abs(rank[row] - np.searchsorted(library.energies_mev[order], energy)) <= 10


def test_where_it_comes_from_is_said(made: ShowerLibrary, stored: Path) -> None:
    said = made.provenance
    assert (said["generator"], said["source"], said["descends_from"]) == ("frozen", stored.name, open_library(stored).digest)
    assert said["version"] == "frozen showers of Grindhammer-Peters, hep-ex/0001020"
    assert str(stored.parent) not in " ".join(said.values())


def test_the_same_seed_gives_the_same_showers(made: ShowerLibrary, request_of: Production, tmp_path: Path) -> None:
    simulate(request_of, tmp_path / "two.h5", workers=2)
    again = open_library(tmp_path / "two.h5")
    np.testing.assert_array_equal(again.cells_mev, made.cells_mev)
    simulate(replace(request_of, seed=7), tmp_path / "other.h5", workers=1)
    assert (open_library(tmp_path / "other.h5").cells_mev != made.cells_mev).any()


def test_crystals_are_hit_where_it_was_asked(tmp_path: Path) -> None:
    path = tmp_path / "frozen.h5"
    simulate(Production("pbwo4", "frozen", showers=40, seed=2, source="pbwo4_gamma"), path, workers=1)
    made, library = open_library(path), open_library("pbwo4_gamma")
    # A corridor around the central crystal's edge shares the shower with its neighbours: the asymmetry follows the asked point.
    around = made.cells_mev.reshape(-1, 25, 25)
    asymmetry = (around[:, 13] - around[:, 11]).sum(axis=1) / around[:, 11:14].sum(axis=(1, 2))
    assert np.corrcoef(asymmetry, made.impact_mm[:, 0] ** 3)[0, 1] > 0.8
    response = made.cells_mev.sum(axis=1) / made.energies_mev
    stored = library.cells_mev.sum(axis=1) / library.energies_mev
    assert abs(np.median(response) / np.median(stored) - 1) < 0.005


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source": "pbwo4_gamma"}, "holds showers of pbwo4, not of wsi; give its geometry with --geometry"),
        ({"particle": "e-"}, "holds showers of gamma, not of e-; name it with --particle"),
        ({"max_energy_gev": 200.0}, "holds 1 to 100 GeV, and frozen showers reach no farther"),
        ({"source": "nothing.h5"}, "nothing.h5: no such file; make one with: caloedge simulate nothing.h5"),
    ],
)
def test_what_a_library_cannot_give_is_refused(request_of: Production, change: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        replace(request_of, **change)
    assert str(caught.value).endswith(message)


def test_the_command(caloedge: Callable[..., Any], stored: Path, tmp_path: Path) -> None:
    path = tmp_path / "out.h5"
    done = caloedge(
        "simulate", path, "--generator", "frozen", "--source", stored, "--geometry", "wsi", "--showers", 3, "--workers", 1
    )
    assert done.code == 0, done.err
    assert len(open_library(path)) == 3
