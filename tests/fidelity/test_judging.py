"""The verb: a page and a report.json from files, and one line for each thing that can be wrong with them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from optional_packages import need

from caloedge.detector.crystals.geometry import GEOMETRIES, PBWO4, describe
from caloedge.detector.crystals.library import write_library
from caloedge.detector.crystals.parametrised import open_parametrised
from caloedge.fidelity import assessment, damage, figures, pages
from caloedge.fidelity.layout import Layout
from caloedge.fidelity.showers import Showers, read_inputs
from caloedge.results import Number, Report

Call = Callable[..., Any]
Rows = Callable[[int, int], Showers]


@pytest.fixture(scope="module")
def files(rows: Rows, cells: Layout, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Write 240 reference, 120 independent, 160 training and 120 frozen showers of the shipped library."""
    folder = tmp_path_factory.mktemp("fidelity")
    training, fresh = rows(2000, 2160), rows(1000, 1120)
    copies = damage.frozen(training, fresh.energies_mev, cells, 0.1, np.random.default_rng(14))
    made = {}
    for name, showers in {"reference": rows(0, 240), "fresh": fresh, "training": training, "frozen": copies}.items():
        made[name] = folder / f"{name}.h5"
        provenance = {"geometry": describe(PBWO4), "generator": "geant4"}
        write_library(made[name], showers.energies_mev, showers.impact_mm, showers.cells_mev, provenance, zero_below_mev=0.1)
    return made


def changed(source: Path, path: Path, change: Callable[[h5py.File], object]) -> Path:
    shutil.copyfile(source, path)
    with h5py.File(path, "r+") as file:
        change(file)
    return path


def complaint(ended: Any) -> str:
    assert ended.code == 2, ended
    (line,) = (line for line in ended.err.splitlines() if not line.endswith(" left"))  # progress, on a slow computer
    return str(line.removeprefix("caloedge: "))


def test_frozen_showers_are_judged_on_a_page(
    files: dict[str, Path], caloedge: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    need("sklearn")
    from caloedge.fidelity import classifiers

    monkeypatch.setattr(classifiers, "TREES", 10)  # the page does not depend on how good they are
    words = ("fidelity", files["frozen"], files["reference"], "--training", files["training"], "--beside", files["fresh"])
    ended = caloedge(*words, "--output", tmp_path / "page")
    assert ended.code == 0, ended
    assert f"report: {tmp_path / 'page' / 'report.html'}" in ended.out
    assert "DOES NOT HOLD: Generated showers are as far from training showers as showers that no generator saw" in ended.out
    report = Report.model_validate_json((tmp_path / "page" / "report.json").read_text())
    page = (tmp_path / "page" / "report.html").read_text()
    for rung in damage.LADDER:
        assert rung in page
    (table,) = (b for s in report.sections for b in s.blocks if getattr(b, "title", "") == "The damage ladder")
    assert [row[0] for row in table.rows] == list(figures.SEEN)
    (table,) = (b for s in report.sections for b in s.blocks if getattr(b, "title", "") == "Figures of the generated showers")
    assert table.columns[1:5] == (pages.GENERATED, pages.ITSELF, pages.FROZEN, "fresh")
    response = next(row for row in table.rows if row[0] == figures.RESPONSE)
    assert len({number.value for number in response[1:5]}) == 4, "samples that are the same"
    for section in report.sections:
        for block in section.blocks:
            for row in getattr(block, "rows", ()):
                assert all(not hasattr(c, "origin") or c.origin for c in row)
    assert any("AUC and FPD depend on the number of showers, here 120 of each sample" in caveat for caveat in report.caveats)
    assert not any(caveat.startswith("Incident energies are not") for caveat in report.caveats)
    near = dict(report.headline)[f"near a training shower, {pages.GENERATED}"]
    assert near.value > 90
    assert json.loads((tmp_path / "page" / "report.json").read_text())["best"] == []


def test_what_cannot_be_compared_is_refused_in_one_line(files: dict[str, Path], caloedge: Call, tmp_path: Path) -> None:
    need("sklearn")
    reference, fresh, none = files["reference"], files["fresh"], tmp_path / "none.h5"
    nameless = changed(fresh, tmp_path / "nameless.h5", lambda f: f.attrs.pop("geometry"))
    other = changed(fresh, tmp_path / "other.h5", lambda f: f.attrs.modify("geometry", "csi"))
    negative = changed(fresh, tmp_path / "negative.h5", lambda f: f["showers"].__setitem__((3, 7), -1.0))
    few = tmp_path / "few.h5"
    with h5py.File(fresh) as source, h5py.File(few, "w") as file:
        for key in ("incident_energies", "impact_mm", "showers"):
            file[key] = source[key][:50]
        file.attrs["geometry"] = "pbwo4"
    for words, message in (
        (
            (none, reference),
            f"{none}: no such file; make one with: caloedge simulate {none}",
        ),
        (
            (reference, reference),
            f"{reference}: is given as reference and, byte for byte, as generated; give independent showers, "
            "made with another seed",
        ),
        (
            (nameless, reference),
            f"{nameless}: does not say its geometry; name it with --geometry: pbwo4, csi, wsi or a binning file",
        ),
        (
            (other, reference),
            f"{reference}: is of geometry pbwo4, {other} of csi (25×25 and 13×13 cells); compare showers of one geometry",
        ),
        (
            (fresh, reference, "--geometry", "csi"),
            f"{fresh}: showers have 625 cells; geometry csi has 169; name the right one with --geometry",
        ),
        (
            (negative, reference),
            f"{negative}: showers[3, 7] = -1.0 is negative; remove that shower or make the file again",
        ),
        (
            (fresh, reference, "--beside", few, "--beside", tmp_path / "elsewhere" / "few.h5"),
            f"--beside {tmp_path / 'elsewhere' / 'few.h5'}: another sample is called few; give the file another name",
        ),
        ((fresh, reference, "--beside", few), f"{few}: holds 50 showers; give at least 100"),
        ((few, reference), f"{few}: holds 50 generated showers; give at least 100"),
        ((fresh, few), f"{few}: holds 50 reference showers; give at least 200, which are halved"),
        ((fresh, reference, "--threshold-mev", "1e9"), f"{fresh}: no cell reaches 1e+09 MeV; give a lower --threshold-mev"),
        ((fresh, reference, "--threshold-mev", "-1"), "--threshold-mev -1.0: give a finite energy above 0"),
        (
            (fresh, reference, "--sampling-fraction", "2"),
            "--sampling-fraction 2.0: give a share above 0, at most 1; 1 leaves energies as they are",
        ),
    ):
        ended = caloedge("fidelity", *words, "--output", tmp_path / "page")
        assert complaint(ended) == message
    assert not (tmp_path / "page").exists()


def test_without_scikit_learn_it_says_so(
    files: dict[str, Path], caloedge: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from caloedge import extras

    monkeypatch.setitem(extras.EXTRAS, "fidelity", ("no_such_package",))
    ended = caloedge("fidelity", files["fresh"], files["reference"], "--output", tmp_path / "page")
    assert complaint(ended) == "this command needs no_such_package; pip install 'caloedge[fidelity]'"


def test_caveats_name_what_spoils_a_comparison(files: dict[str, Path], tmp_path: Path) -> None:
    def copied(file: h5py.File) -> None:
        with h5py.File(files["reference"]) as reference:
            file["showers"][:2] = reference["showers"][:2]
        file["showers"][5] = file["showers"][6]
        file["incident_energies"][:] = 5000.0

    inputs = read_inputs(changed(files["fresh"], tmp_path / "bad.h5", copied), files["reference"], None)
    caveats = assessment._caveats(inputs, assessment.divided(inputs, 1000))
    assert caveats[0] == "2 generated showers are, cell by cell, in the reference: the samples are not independent."
    assert caveats[1] == "1 of 120 generated showers are exact repetitions of others."
    assert caveats[2] == "Incident energies are not distributed as the reference's are: every figure judges that, too."
    assert caveats[-1] == "Whether generated showers are copies of training showers was not tested: give --training."


def test_halves_share_no_shower_and_are_of_one_size(files: dict[str, Path]) -> None:
    inputs = read_inputs(files["fresh"], files["reference"], None)
    parts = assessment.divided(inputs, 1000)
    assert [len(s) for s in (parts.measure, parts.itself, parts.generated)] == [120] * 3
    assert not set(parts.measure.energies_mev) & set(parts.itself.energies_mev)
    assert parts.frozen is None


def test_challenge_files_and_ours_are_on_one_scale(tmp_path: Path) -> None:
    """Files of the CaloChallenge hold energies over 0.033 and no impact points; ours hold what was deposited."""
    shoot, _ = open_parametrised(GEOMETRIES["wsi"], "gamma")
    energies = np.geomspace(1e3, 2e3, 6)
    cells = np.array([shoot(energy, (0.0, 0.0), seed) for seed, energy in enumerate(energies)]).astype(np.float32)
    cells[:, -1] = 4e-4  # below the threshold of 0.5 keV
    ours, challenge = tmp_path / "ours.h5", tmp_path / "challenge.h5"
    write_library(ours, energies, np.zeros((6, 2)), cells, {"geometry": "wsi"})
    with h5py.File(challenge, "w") as file:
        file["incident_energies"] = energies[:, None]
        file["showers"] = cells / 0.033
    (own, theirs) = (
        read_inputs(ours, changed(ours, tmp_path / "again.h5", lambda f: f.attrs.modify("seed", 2)), None),
        read_inputs(
            challenge,
            changed(challenge, tmp_path / "other.h5", lambda f: f.attrs.modify("seed", 2)),
            None,
            geometry_name="wsi",
            threshold_mev=0.01515,
            sampling_fraction=1.0,
        ),
    )
    assert own.scale.lowest_mev == pytest.approx(0.01515, rel=1e-3)
    assert not own.generated.cells_mev[:, -1].any()
    np.testing.assert_allclose(own.generated.cells_mev, theirs.generated.cells_mev, rtol=3e-4)  # ours are stored with 12 bits
    np.testing.assert_allclose(own.generated.cells_mev.sum(axis=1) / energies, 0.95, atol=0.1)


def test_a_file_without_impact_points_needs_a_geometry_that_has_none(files: dict[str, Path], tmp_path: Path) -> None:
    from caloedge.errors import BadData

    path = changed(files["fresh"], tmp_path / "challenge.h5", lambda f: f.__delitem__("impact_mm"))
    with pytest.raises(BadData, match=r"no dataset 'impact_mm' \(found: deposited_energies, incident_energies, showers\)"):
        read_inputs(path, files["reference"], None, geometry_name="pbwo4")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.1, "not told from the reference"),
        (0.6, "less than energies +1 %, the smallest damage here"),
        (2.5, "more than energies +3 %, less than cells smeared 10 %"),
        (-2.5, "more than energies +3 %, less than cells smeared 10 %"),
        (9.0, "more than every damage here"),
        (float("nan"), "too few showers"),
    ],
)
def test_a_figure_has_its_place_on_the_ladder(value: float, words: str) -> None:
    def compared(number: float) -> figures.Compared:
        return figures.Compared({"x": Number(value=number, uncertainty=0.1, origin="computed")}, {})

    rungs = {name: compared(float(i)) for i, name in enumerate(damage.LADDER, start=1)}
    assert pages.standing("x", {pages.GENERATED: compared(value), pages.ITSELF: compared(0.0), **rungs}) == words
