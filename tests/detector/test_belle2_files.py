"""Files of Belle II's trigger demonstrator: what is read of them, and every way in which they can be wrong."""

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from belle2 import columns, demonstrator, write

from caloedge.detector.crystals import belle2_files, hit_libraries
from caloedge.detector.crystals.belle2_files import Belle2Files, open_files
from caloedge.detector.crystals.hits import NOBODY, first_events, joined
from caloedge.errors import BadData, MissingTool, UserError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write(tmp_path / "events.parquet", columns())


def test_hits_are_in_the_order_of_events_and_crystals(path: Path) -> None:
    library = open_files(path)
    hits = library.hits
    assert len(library) == hits.n_events == 3
    assert hits.event_H.tolist() == [0, 0, 0, 0, 1, 2, 2, 2]
    assert hits.cell_H.tolist() == [2000, 4320, 4321, 6000, 3000, 5000, 5001, 5144]
    np.testing.assert_allclose(hits.energy_H[:4], [0.025, 0.06, 0.5, 0.3], rtol=1e-6)  # float32
    assert hits.time_H[:4].tolist() == [180, 5, 0, -3]
    assert np.linalg.norm(hits.position_H3[:4], axis=1).max() < 3  # m


def test_offline_clusters_are_objects_and_the_unmatched_need_not_be_found(path: Path) -> None:
    hits = open_files(path).hits
    assert hits.object_H.tolist() == [NOBODY, 1, 1, 0, 0, 0, 0, 0]
    assert hits.share_H.tolist() == [0, *[0.9] * 7]
    np.testing.assert_array_equal(hits.energy_EP, [[0.32, 0.6], [np.nan, np.nan], [0.36, np.nan]])
    assert np.isfinite(hits.position_EP3[..., 0]).tolist() == [[True, True], [True, False], [True, False]]
    np.testing.assert_allclose(hits.position_EP3[0, 0], hits.position_H3[3])
    assert (hits.shower_EP == -1).all()
    assert not hits.kind.is_truth


def test_it_says_where_it_comes_from(path: Path) -> None:
    library = open_files(path)
    assert library.provenance == {"version": "Belle II"}
    assert library.digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_folder_is_its_files_one_after_the_other(path: Path) -> None:
    (path.parent / "notes.txt").write_text("no events")
    other = {name: values[4:] for name, values in columns().items()}
    write(path.parent / "more.parquet", other)
    library = open_files(path.parent)
    assert [file.name for file in library.files] == ["events.parquet", "more.parquet"]
    assert len(library) == 5
    assert library.hits.event_H.tolist() == [0, 0, 0, 0, 1, 2, 2, 2, 3, 4, 4, 4]
    assert library.hits.energy_EP.shape == (5, 2)
    assert library.hits.kind == belle2_files.KIND
    assert library.digest != open_files(path).digest


def test_the_first_events_are_those_of_the_file(path: Path) -> None:
    library = open_files(path)
    first = library.first(2)
    assert (first.n_events, first.event_H.tolist()) == (2, [0, 0, 0, 0, 1])
    assert first.energy_EP.shape == (2, 2)
    assert library.first(99).n_events == 3
    again = joined([first_events(library.hits, 1), first_events(library.hits, 3)])
    assert again.event_H.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 3, 3]


def test_files_and_shower_libraries_are_opened_alike(path: Path) -> None:
    assert isinstance(hit_libraries.open_hits(str(path)), Belle2Files)
    assert isinstance(hit_libraries.open_hits(path.parent), Belle2Files)
    assert len(hit_libraries.open_hits("csi_gamma")) > 20_000
    with pytest.raises(UserError, match="events of the experiment are there to evaluate on; name a library of showers"):
        next(hit_libraries.blocks(open_files(path), "train", 2, 1))


def test_names_of_events_may_be_numbers(tmp_path: Path) -> None:
    numbers = {**columns(), "uni_event_id": [5, 5, 5, 5, 3, 8, 8, 8]}
    assert open_files(write(tmp_path / "x.parquet", numbers)).hits.event_H.tolist() == [0, 0, 0, 0, 1, 2, 2, 2]


def changed(name: str, row: int, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(values: dict[str, Any]) -> None:
        values[name] = [*values[name][:row], value, *values[name][row + 1 :]]

    return change


def exchanged(values: dict[str, Any]) -> None:
    for name, column in values.items():
        values[name] = [*column[:3], column[4], column[3], *column[5:]]


CURE = "take the demonstrator's file again"
NEEDED = "uni_event_id, tc_id, tc_energy, tc_time_cal, x, y, z, objidx, train_E, train_x, train_y, train_z, tmp_frac, mc_matched"
WRONG = {
    "absent": (lambda values: values.pop("train_E"), f"no column 'train_E'; needed are {NEEDED}: {CURE}"),
    "words": (lambda values: values.update(tc_id=["a"] * 8), f"'tc_id' holds string, not numbers; {CURE}"),
    "lists": (lambda values: values.update(x=[[1.0]] * 8), f"'x' holds list<element: double>, not numbers; {CURE}"),
    "truths": (lambda values: values.update(mc_matched=[True] * 8), f"'mc_matched' holds bool, not numbers; {CURE}"),
    "names": (
        lambda values: values.update(uni_event_id=np.arange(8.0)),
        f"'uni_event_id' holds double, not names or integers; {CURE}",
    ),
    "not finite": (
        changed("tc_energy", 5, np.nan),
        f"tc_energy in row 5: nan is not finite; leave out that event, or {CURE}",
    ),
    "infinite": (
        changed("train_z", 2, np.inf),
        f"train_z in row 2: inf is not finite; leave out that event, or {CURE}",
    ),
    "null": (changed("objidx", 1, None), f"objidx in row 1: nan is not finite; leave out that event, or {CURE}"),
    "nameless": (changed("uni_event_id", 1, None), f"uni_event_id is empty in 1 rows; {CURE}"),
    "crystal 0": (changed("tc_id", 3, 0), f"tc_id in row 3: 0 is not a crystal from 1 to 8736; leave out that event, or {CURE}"),
    "crystal 8737": (
        changed("tc_id", 7, 8737),
        f"tc_id in row 7: 8737 is not a crystal from 1 to 8736; leave out that event, or {CURE}",
    ),
    "no energy": (
        changed("tc_energy", 0, 0.0),
        f"tc_energy in row 0: 0 is not a positive energy; leave out that event, or {CURE}",
    ),
    "half a cluster": (
        changed("objidx", 2, 1.5),
        f"objidx in row 2: 1.5 is not a cluster from 1 to 8736, nor 0 for none; leave out that event, or {CURE}",
    ),
    "endless clusters": (
        changed("objidx", 2, 1e12),
        f"objidx in row 2: 1e+12 is not a cluster from 1 to 8736, nor 0 for none; leave out that event, or {CURE}",
    ),
    "cluster of nothing": (
        changed("train_E", 4, 0.0),
        f"train_E in row 4: 0 is not a positive energy; leave out that event, or {CURE}",
    ),
    "share": (changed("tmp_frac", 6, 1.5), f"tmp_frac in row 6: 1.5 is not a share from 0 to 1; leave out that event, or {CURE}"),
    "half matched": (
        changed("mc_matched", 6, 0.5),
        f"mc_matched in row 6: 0.5 is neither 0 nor 1; leave out that event, or {CURE}",
    ),
    "metres": (
        lambda values: values.update(z=np.array(values["z"]) + 10),
        f"distance of x, y, z from crystal tc_id in row 0: 10 cm are too many (they are in cm); leave out that event, or {CURE}",
    ),
    "two energies": (
        changed("train_E", 6, 0.4),
        f"train_E in row 6 is not that of row 5, of the same event and objidx; {CURE}",
    ),
    "same crystal": (
        lambda values: [changed(name, 1, values[name][0])(values) for name in ("tc_id", "x", "y", "z")],
        "tc_id in row 1 is that of row 0, of the same event; keep one row of each crystal",
    ),
    "mixed events": (
        exchanged,
        "uni_event_id in row 4 is that of row 0 again, with others between; "
        "sort by event, and give different events different names",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_said_with_its_place_and_cure(tmp_path: Path, case: str) -> None:
    values = columns()
    change, complaint = WRONG[case]
    change(values)
    path = tmp_path / "wrong.parquet"
    write(path, values)
    with pytest.raises(BadData) as caught:
        open_files(path)
    assert str(caught.value) == f"{path}: {complaint}"


def test_a_file_without_hits_is_said_to_be_one(tmp_path: Path) -> None:
    path = write(
        tmp_path / "empty.parquet", {**{name: np.zeros(0) for name in NEEDED.split(", ")}, "uni_event_id": np.zeros(0, int)}
    )
    with pytest.raises(BadData, match=r"empty.parquet: holds no hits; take the demonstrator's file again"):
        open_files(path)


@pytest.mark.parametrize("length", [0, 100, 2000, -1])
def test_a_truncated_file_is_said_to_be_one(path: Path, length: int) -> None:
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(BadData, match=r"events.parquet: not a readable parquet file \(.*\); damaged or truncated: take the"):
        open_files(path)


def test_damaged_bytes_are_said_to_be_so_or_do_no_harm(path: Path) -> None:
    whole, rng = path.read_bytes(), np.random.default_rng(1)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        try:
            open_files(path)
        except BadData:
            refused += 1
    assert refused > 75


def test_no_file_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"events.parquet: no such file$"):
        open_files(tmp_path / "events.parquet")
    with pytest.raises(BadData, match=r"neither a file nor a folder of files that end in \.parquet"):
        open_files(tmp_path)


def test_more_hits_than_the_memory_holds_are_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(belle2_files, "available_memory_bytes", lambda: 0)
    with pytest.raises(BadData, match=r"8 hits need 0.0 GiB of memory, 0.0 GiB may be used here; take a part of its events"):
        open_files(path)


def test_without_the_extra_it_is_said_which(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingTool) as caught:
        open_files(path)
    assert str(caught.value) == "Parquet files need the package pyarrow; pip install 'caloedge[belle2]'"


@pytest.mark.parametrize(
    ("name", "events", "hits", "clusters"),
    [("bhabha_exp1003_0", 247, 5382, 759), ("kkmc_exp1003_0", 896, 5490, 1892), ("bhabha_exp0_0", 120, 5554, 377)],
)
def test_the_demonstrators_files_are_read_whole(name: str, events: int, hits: int, clusters: int) -> None:
    found = open_files(demonstrator(name)).hits
    assert (found.n_events, len(found.cell_H), int(np.isfinite(found.energy_EP).sum())) == (events, hits, clusters)
    assert np.bincount(found.event_H).min() > 0
    assert found.energy_H.min() >= 0.02
    assert np.nanmin(found.energy_EP) >= 0.05
