"""Production: the library is a function of the request, whatever the number of workers and interruptions."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from caloedge.detector.library import open_library
from caloedge.detector.production import Production, simulate
from caloedge.errors import UnknownName, UserError

SMALL = Production(generator="parametrised", showers=150, seed=11)


def same_showers(one: Path, other: Path) -> None:
    with h5py.File(one) as a, h5py.File(other) as b:
        assert sorted(a) == sorted(b) == ["deposited_energies", "impact_mm", "incident_energies", "showers"]
        for key in a:
            np.testing.assert_array_equal(a[key][:], b[key][:])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "one.h5"
    simulate(SMALL, path, workers=1)
    return path


def test_two_workers_make_the_same_library(made: Path, tmp_path: Path) -> None:
    simulate(SMALL, tmp_path / "two.h5", workers=2)
    same_showers(made, tmp_path / "two.h5")
    assert [p.name for p in tmp_path.iterdir()] == ["two.h5"], "the parts must be gone"


def test_a_shower_does_not_depend_on_how_many_are_asked_for() -> None:
    assert SMALL.incident(3) == replace(SMALL, showers=10_000).incident(3)
    assert SMALL.incident(3) != SMALL.incident(4)
    assert SMALL.incident(3) != replace(SMALL, seed=12).incident(3)


def test_incident_photons_fill_the_range_and_the_crystal() -> None:
    energies, impacts, seeds = zip(*(SMALL.incident(i) for i in range(2000)), strict=True)
    logs = np.log(np.array(energies) / 1e3) / np.log(100)
    # Kolmogorov–Smirnov distance of 2000 uniform numbers: 1.95 / √n at a probability of 0.1 %
    limit = 1.95 / np.sqrt(2000)
    uniform = (np.arange(2000) + 0.5) / 2000
    assert np.abs(np.sort(logs) - uniform).max() < limit
    for axis in np.array(impacts).T:
        assert np.abs(np.sort(axis) / 22 + 0.5 - uniform).max() < limit
    assert len(set(seeds)) == 2000


def test_the_library_says_how_it_was_made(made: Path) -> None:
    provenance = open_library(made).provenance
    wanted = {"generator": "parametrised", "seed": "11", "particle": "gamma", "showers": "150", "zero_below_mev": "0.1"}
    assert wanted.items() <= provenance.items()
    assert '"cells_per_side": 25' in provenance["geometry"]
    assert {"version", "physics_list", "data_tables", "made_by", "created"} <= provenance.keys()
    assert str(made.parent) not in " ".join(provenance.values()), "a path of this machine in the file"


BAD_REQUESTS = [
    ({"generator": "fluka"}, "no generator 'fluka'; there are: geant4, parametrised"),
    ({"geometry": "lar"}, "no geometry 'lar'; there are: pbwo4, wsi"),
    ({"showers": 0}, "showers = 0: ask for at least 1"),
    ({"min_energy_gev": 0.0}, "energy range 0.0 to 100.0 GeV: give 0 < lowest <= highest"),
    ({"max_energy_gev": 0.5}, "energy range 1.0 to 0.5 GeV: give 0 < lowest <= highest"),
    ({"min_energy_gev": float("nan")}, "energy range nan to 100.0 GeV: give 0 < lowest <= highest"),
    ({"seed": -1}, "seed = -1: seeds are 0 or larger"),
]


@pytest.mark.parametrize(("change", "message"), BAD_REQUESTS)
def test_what_cannot_be_simulated_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises((UserError, UnknownName)) as caught:
        replace(SMALL, **change)  # type: ignore[arg-type]
    assert str(caught.value) == message


def test_an_existing_file_is_not_overwritten(made: Path) -> None:
    before = made.read_bytes()
    with pytest.raises(UserError) as caught:
        simulate(SMALL, made, workers=1)
    assert str(caught.value) == f"{made}: exists already; remove it or give another name"
    assert made.read_bytes() == before


def test_a_complaint_of_a_worker_is_one_line_and_keeps_nothing_half_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^the parametrised generator knows gamma, not 'pi-'; use generator geant4$"):
        simulate(replace(SMALL, particle="pi-"), tmp_path / "pions.h5", workers=2)
    assert not (tmp_path / "pions.h5").exists()


SLOW_ENOUGH = Production(generator="parametrised", showers=600, min_energy_gev=60, max_energy_gev=100, seed=5)
ENERGIES = ["--min-energy-gev", "60", "--max-energy-gev", "100"]
COMMAND = ["--generator", "parametrised", "--showers", "600", *ENERGIES, "--seed", "5", "--workers", "2"]


def start(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "caloedge", "simulate", str(path), *COMMAND]
    # A group of its own: a terminal's Ctrl-C reaches every process of the group.
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)


def interrupt(process: subprocess.Popen[str], how: signal.Signals) -> tuple[int, str]:
    os.killpg(process.pid, how)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_production_goes_on_to_the_same_library(tmp_path: Path, how: signal.Signals) -> None:
    path = tmp_path / "showers.h5"
    parts = tmp_path / "showers.h5.parts"
    process = start(path)
    while not list(parts.glob("[0-9]*.npz")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    code, said = interrupt(process, how)
    assert (code, said) == (130, "caloedge: interrupted; what is finished is kept, the same command goes on\n")
    assert not path.exists()
    finished = sorted(p.name for p in parts.glob("*.npz"))
    assert 0 < sum(int(name[8:15]) - int(name[:7]) for name in finished) < 600
    assert sorted(p.name for p in parts.iterdir()) == [*finished, "plan.json"], "a part was left half-written"

    kept = {name: (parts / name).stat().st_mtime_ns for name in finished}
    with pytest.raises(UserError) as caught:
        simulate(replace(SLOW_ENOUGH, seed=6), path, workers=1)
    assert str(caught.value) == (
        f"{parts}: holds an unfinished run with other settings; remove the folder or repeat its call ({parts / 'plan.json'})"
    )
    assert {name: (parts / name).stat().st_mtime_ns for name in finished} == kept

    simulate(SLOW_ENOUGH, path, workers=1)
    assert not parts.exists()
    for index in (0, 63, 64, 300, 599):
        assert open_library(path).energies_mev[index] == SLOW_ENOUGH.incident(index)[0]
    simulate(SLOW_ENOUGH, tmp_path / "at_once.h5", workers=2)
    same_showers(path, tmp_path / "at_once.h5")


def test_an_early_ctrl_c_prints_no_traceback(tmp_path: Path) -> None:
    """Workers that are still starting must not die loudly."""
    path = tmp_path / "showers.h5"
    process = start(path)
    while not (tmp_path / "showers.h5.parts" / "plan.json").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    time.sleep(0.3)
    code, said = interrupt(process, signal.SIGINT)
    assert (code, said) == (130, "caloedge: interrupted; what is finished is kept, the same command goes on\n")
    assert not path.exists()
