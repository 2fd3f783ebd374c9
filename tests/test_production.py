"""Production: the library is a function of the request, whatever the number of workers and interruptions."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from caloedge import production
from caloedge.detector.crystals import parametrised
from caloedge.detector.crystals.geometry import geometry
from caloedge.detector.crystals.library import open_library
from caloedge.errors import BadData, UnknownName, UserError
from caloedge.production import Production, simulate

SMALL = Production(generator="parametrised", showers=150, seed=11)


def same_showers(path: Path, other_path: Path) -> None:
    with h5py.File(path) as a, h5py.File(other_path) as b:
        assert sorted(a) == sorted(b) == ["deposited_energies", "impact_mm", "incident_energies", "showers"]
        for key in a:
            np.testing.assert_array_equal(a[key][:], b[key][:])


@pytest.fixture(scope="module")
def library_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("made") / "one.h5"
    simulate(SMALL, path, workers=1)
    return path


def test_two_workers_make_the_same_library(library_path: Path, tmp_path: Path) -> None:
    simulate(SMALL, tmp_path / "two.h5", workers=2)
    same_showers(library_path, tmp_path / "two.h5")
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


def test_the_library_says_how_it_was_made(library_path: Path) -> None:
    provenance = open_library(library_path).provenance
    expected = {"generator": "parametrised", "seed": "11", "particle": "gamma", "showers": "150", "zero_below_mev": "0.1"}
    assert expected.items() <= provenance.items()
    assert '"cells_per_side": 25' in provenance["geometry"]
    assert {"version", "physics_list", "data_tables", "made_by", "created"} <= provenance.keys()
    assert str(library_path.parent) not in " ".join(provenance.values()), "a path of this machine in the file"


BAD_REQUESTS = [
    (
        {"generator": "fluka"},
        "no generator 'fluka'; there are: flow_matching, frozen, geant4, parametrised "
        "(tried as well: module 'fluka' on Python's path and beside the recipe)",
    ),
    ({"geometry": "csi"}, "the parametrised generator knows pbwo4 and wsi, not csi; use generator geant4"),
    ({"source": "x.h5"}, "--source x.h5: generator parametrised takes none"),
    ({"generator": "frozen"}, "generator frozen needs a shower library: give it with --source"),
    ({"geometry": "lar"}, "no geometry 'lar'; there are: pbwo4, csi, wsi"),
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


def test_an_existing_file_is_not_overwritten(library_path: Path) -> None:
    before = library_path.read_bytes()
    with pytest.raises(UserError) as caught:
        simulate(SMALL, library_path, workers=1)
    assert str(caught.value) == f"{library_path}: exists already; remove it or give another name"
    assert library_path.read_bytes() == before


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
    _, stderr = process.communicate(timeout=60)
    return process.returncode, without_progress(stderr)


def without_progress(stderr: str) -> str:
    """Leave out the lines that tell how long it will take, which a slow computer needs sooner."""
    return "".join(line for line in stderr.splitlines(keepends=True) if not re.fullmatch(r"simulating .* left\n", line))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_production_goes_on_to_the_same_library(tmp_path: Path, how: signal.Signals) -> None:
    path = tmp_path / "showers.h5"
    parts = tmp_path / "showers.h5.parts"
    process = start(path)
    while not list(parts.glob("[0-9]*.npz")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    code, stderr = interrupt(process, how)
    assert (code, stderr) == (130, "caloedge: interrupted; what is finished is kept, the same command goes on\n")
    assert not path.exists()
    finished = sorted(p.name for p in parts.glob("*.npz"))
    assert 0 < sum(int(name[8:15]) - int(name[:7]) for name in finished) < 600
    assert sorted(p.name for p in parts.iterdir()) == [*finished, "plan.json"], "a part was left half-written"

    modified = {name: (parts / name).stat().st_mtime_ns for name in finished}
    with pytest.raises(UserError) as caught:
        simulate(replace(SLOW_ENOUGH, seed=6), path, workers=1)
    assert str(caught.value) == (
        f"{parts}: holds an unfinished run with other settings; remove the folder or repeat its call ({parts / 'plan.json'})"
    )
    assert {name: (parts / name).stat().st_mtime_ns for name in finished} == modified

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
    code, stderr = interrupt(process, signal.SIGINT)
    assert (code, stderr) == (130, "caloedge: interrupted; what is finished is kept, the same command goes on\n")
    assert not path.exists()


# Several at once, full disks, kills


def test_a_second_simulation_of_one_file_is_refused_and_loses_nothing(library_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "showers.h5"
    process = start(path)
    while not list((tmp_path / "showers.h5.parts").glob("[0-9]*.npz")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    with pytest.raises(UserError) as caught:
        simulate(SLOW_ENOUGH, path, workers=1)
    assert str(caught.value) == (
        f"{path}: process {process.pid} on {socket.gethostname()} is writing it; wait until that has ended, or give another name"
    )
    out, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    assert out.startswith(f"{path}: 600 showers, ")
    with h5py.File(path) as file:
        assert len(file["showers"]) == 600
    assert [p.name for p in tmp_path.iterdir()] == ["showers.h5"]
    simulate(SMALL, tmp_path / "small.h5", workers=1)
    same_showers(library_path, tmp_path / "small.h5")


def part(parts: Path, first: int, last: int, showers: int | None = None) -> None:
    """Write a part as a worker does; `showers` are fewer or more than its name says."""
    shoot, provenance = parametrised.open_parametrised(geometry("pbwo4"), "gamma")
    incidents = [SMALL.incident(index) for index in range(first, first + (showers or last - first))]
    shower_rows = [(energy, impact, shoot(energy, impact, seed)) for energy, impact, seed in incidents]
    production._write_part(parts, first, shower_rows, provenance)
    (written,) = parts.glob(f"{first:07d}-*.npz")
    written.rename(parts / f"{first:07d}-{last:07d}.npz")


def test_parts_that_overlap_give_each_shower_once(library_path: Path, tmp_path: Path) -> None:
    """A worker that outlives its killed parent for a moment may write what the next call simulates as well."""
    parts = tmp_path / "one.h5.parts"
    production._open_parts(parts, SMALL)
    for first, last in ((0, 40), (10, 30), (20, 64), (60, 70)):
        part(parts, first, last)
    simulate(SMALL, tmp_path / "one.h5", workers=1)
    same_showers(library_path, tmp_path / "one.h5")


def test_parts_that_do_not_cover_all_showers_are_no_library(tmp_path: Path) -> None:
    parts, path = tmp_path / "one.h5.parts", tmp_path / "one.h5"
    production._open_parts(parts, SMALL)
    part(parts, 0, 100)
    part(parts, 120, 150)
    with pytest.raises(BadData) as caught:
        production._merge(SMALL, parts, path)
    assert str(caught.value) == f"{parts}: showers 100 to 119 are missing; run again, what is there is kept"
    part(parts, 100, 120, showers=19)
    with pytest.raises(BadData) as caught:
        production._merge(SMALL, parts, path)
    wrong = parts / "0000100-0000120.npz"
    assert str(caught.value) == f"{wrong}: does not hold the showers that it is named after; remove it and run again"
    wrong.write_bytes(wrong.read_bytes()[:500])
    with pytest.raises(BadData) as caught:
        production._merge(SMALL, parts, path)
    assert str(caught.value).startswith(f"{wrong}: not a readable .npz file (")
    assert str(caught.value).endswith("); remove it and run again")
    assert not path.exists()


def test_a_full_disk_is_one_line_and_the_next_call_goes_on(library_path: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the full disk: usual parts are larger than 8 KiB, a slow computer's are not."""
    path, parts = tmp_path / "one.h5", tmp_path / "one.h5.parts"
    command = [sys.executable, "-m", "caloedge", "simulate", str(path), "--generator", "parametrised", "--showers", "150",
               "--seed", "11", "--workers", "2"]  # fmt: skip
    limited = subprocess.run(
        ["bash", "-c", 'ulimit -f 8; exec "$@"', "bash", *command], capture_output=True, text=True, check=False
    )
    assert limited.returncode == 2
    assert (
        without_progress(limited.stderr)
        == f"caloedge: {parts}: cannot be written (File too large); finished showers are kept, run again\n"
    )
    plan, parts_kept = parts / "plan.json", sorted(parts.glob("*.npz"))
    assert sorted(parts.iterdir()) == sorted([plan, *parts_kept]), "nothing half-written stays"
    for shorter in parts_kept:
        with np.load(shorter) as arrays:
            assert len(arrays["energies_mev"]) == len(arrays["impact_mm"]) == len(arrays["cells_mev"]) > 0, "a kept part is whole"
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0, again.stderr
    same_showers(library_path, path)


def test_all_parts_there_and_no_library_yet_is_finished_by_the_next_call(library_path: Path, tmp_path: Path) -> None:
    """As after a disk that was full when the parts were joined."""
    parts = tmp_path / "one.h5.parts"
    production._open_parts(parts, SMALL)
    part(parts, 0, 150)
    simulate(SMALL, tmp_path / "one.h5", workers=2)
    same_showers(library_path, tmp_path / "one.h5")


@pytest.mark.parametrize("moment_s", [0.7, 1.3, 1.9])
def test_a_killed_simulation_goes_on_to_the_same_library(library_path: Path, tmp_path: Path, moment_s: float) -> None:
    path = tmp_path / "one.h5"
    command = [sys.executable, "-m", "caloedge", "simulate", str(path), "--generator", "parametrised", "--showers", "150",
               "--seed", "11", "--workers", "2"]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        process.communicate(timeout=moment_s)
    except subprocess.TimeoutExpired:
        process.kill()  # the parent alone: its workers end by themselves
        process.communicate()
    again = subprocess.run(command, capture_output=True, text=True, check=False)
    assert again.returncode == 0 or without_progress(again.stderr) == (
        f"caloedge: {path}: exists already; remove it or give another name\n"
    )
    same_showers(library_path, path)
