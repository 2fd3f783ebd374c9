"""Files of the CaloChallenge, written here in its schema: binning of all three data sets, showers there and back, bad files."""

import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from optional_packages import need

from caloedge.detector.crystals import challenge
from caloedge.detector.crystals import library as shower_library
from caloedge.detector.crystals.challenge import convert, geometry_of, half_turned, open_geometry, read_binning, write_binning
from caloedge.detector.crystals.geometry import GEOMETRIES, VoxelLayer, VoxelStack, describe, difference, voxels
from caloedge.detector.crystals.library import open_library, write_library
from caloedge.errors import UserError
from caloedge.fidelity.assessment import assess
from caloedge.fidelity.damage import turned_at_random
from caloedge.fidelity.features import features, n_features, table
from caloedge.fidelity.layout import layout
from caloedge.fidelity.showers import Scale, Showers, read_inputs
from caloedge.results import Plot

IRREGULAR = """<Bins>
  <Bin pid="22" etaMin="0" etaMax="130" name="photon">
    <Layer id="0" r_edges="0,5,10,30,50,100,200,400,600" n_bin_alpha="1"/>
    <Layer id="1" r_edges="{}" n_bin_alpha="10"/>
    <Layer id="2" r_edges="{}" n_bin_alpha="10"/>
    <Layer id="3" r_edges="0,50,100,200,400,600" n_bin_alpha="1"/>
    <Layer id="4" r_edges="0" n_bin_alpha="1"/>
    <Layer id="12" r_edges="0,100,200,400,1000,2000" n_bin_alpha="1"/>
  </Bin>
  <Bin pid="211" etaMin="0" etaMax="130" name="pion">
    <Layer id="0" r_edges="0,5,10" n_bin_alpha="1"/>
  </Bin>
</Bins>
""".format(",".join(str(2 * i) for i in range(17)), ",".join(str(2 * i) for i in range(20)))
SMALL = VoxelStack("small", (VoxelLayer(0, 1, (0.0, 2.0, 4.0)), VoxelLayer(1, 4, (0.0, 1.0, 3.0)), VoxelLayer(7, 2, (0.0, 5.0))))


@pytest.fixture
def irregular(tmp_path: Path) -> Path:
    path = tmp_path / "binning_dataset_1.xml"
    path.write_text(IRREGULAR)
    return path


def test_irregular_layers_and_absent_ones(irregular: Path) -> None:
    photons = read_binning(irregular, "photon")
    assert [(layer.number, layer.n_phi, len(layer.r_edges_mm) - 1) for layer in photons.layers] == [
        (0, 1, 8), (1, 10, 16), (2, 10, 19), (3, 1, 5), (12, 1, 5),
    ]  # fmt: skip
    assert photons.cell_shape == (368,)
    cells = layout(photons)
    # Layers without azimuths have energy, sparsity, and centre and width in r, but no centre and width in x and y.
    assert n_features(cells) == 2 + 4 * 5 + 4 * 2
    assert read_binning(irregular, "pion").cell_shape == (2,)


@pytest.mark.parametrize(("n_phi", "n_r", "cells"), [(16, 9, 6480), (50, 18, 40500)])
def test_binning_of_the_regular_data_sets_there_and_back(tmp_path: Path, n_phi: int, n_r: int, cells: int) -> None:
    edges = tuple(41.85 / n_r * i for i in range(n_r + 1))
    stack = VoxelStack("there", tuple(VoxelLayer(number, n_phi, edges) for number in range(45)))
    write_binning(tmp_path / "there.xml", stack, "electron")
    again = read_binning(tmp_path / "there.xml")
    assert again.cell_shape == (cells,)
    assert n_features(layout(again)) == 362
    for mine, read in zip(stack.layers, again.layers, strict=True):
        assert (mine.number, mine.n_phi) == (read.number, read.n_phi)
        assert mine.r_edges_mm == read.r_edges_mm
    assert 'pid="11"' in (tmp_path / "there.xml").read_text()


def test_orientations_of_wsi_are_turns_and_mirrors_of_its_azimuths() -> None:
    cells = layout(GEOMETRIES["wsi"])
    index = np.arange(6480).reshape(45, 16, 9)
    expected = [np.roll(kept, turn, axis=1).ravel() for kept in (index, index[:, ::-1]) for turn in range(16)]
    np.testing.assert_array_equal(cells.orientations_OC, expected)
    np.testing.assert_allclose(cells.limits_mm_L4, np.tile([30, 30, 40, 20], (45, 1)))
    assert difference(GEOMETRIES["wsi"], VoxelStack("read", voxels(GEOMETRIES["wsi"]))) == ""  # type: ignore[arg-type]


def test_layers_of_unlike_azimuths_turn_by_one_angle() -> None:
    stack = VoxelStack("mixed", tuple(VoxelLayer(number, n, (0.0, 3.0, 7.0)) for number, n in enumerate((1, 4, 6, 12))))
    cells = layout(stack)
    assert len(cells.orientations_OC) == 2 * 2  # 4, 6 and 12 azimuths share half a turn only
    place = np.stack([cells.x_mm_C, cells.y_mm_C])[:, cells.azimuthal_L[cells.layer_C]]
    for from_C in cells.orientations_OC:
        moved = np.stack([cells.x_mm_C[from_C], cells.y_mm_C[from_C]])[:, cells.azimuthal_L[cells.layer_C]]
        turn = moved @ np.linalg.pinv(place)
        np.testing.assert_allclose(turn @ turn.T, np.eye(2), atol=1e-12)
        np.testing.assert_allclose(turn @ place, moved, atol=1e-12)
    assert len(np.unique(cells.orientations_OC, axis=0)) == 4


def test_half_a_turn_by_hand() -> None:
    shower = np.arange(12.0)[None]  # layer 0: 0 1; layer 1: 4 azimuths of 2 radii; layer 7: 2 azimuths of 1
    assert half_turned(shower, SMALL).tolist() == [[0, 1, 6, 7, 8, 9, 2, 3, 4, 5, 11, 10]]
    np.testing.assert_array_equal(half_turned(half_turned(shower, SMALL), SMALL), shower)


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a small library of the tungsten stack, with energies as a production writes them."""
    generator = np.random.default_rng(3)
    wsi = GEOMETRIES["wsi"]
    energies = generator.uniform(1e3, 1e5, 7).astype("f4").astype(float)
    cells = (generator.exponential(1.0, (7, 6480)) * (generator.random((7, 6480)) < 0.1)).astype("f4")
    path = tmp_path / "ours.h5"
    write_library(path, energies, np.zeros((7, 2)), cells, {"geometry": describe(wsi), "particle": "gamma"}, zero_below_mev=5e-4)
    return path


def test_showers_there_and_back_are_the_same_to_the_last_bit(library: Path, tmp_path: Path) -> None:
    there, binning = convert(library, tmp_path / "theirs.hdf5", geometry_name=None, particle=None, sampling_fraction=0.033)
    with h5py.File(there) as file:
        assert list(file) == ["incident_energies", "showers"]
        assert (file["incident_energies"].shape, file["showers"].shape) == ((7, 1), (7, 6480))
        theirs = file["showers"][:].reshape(7, 45, 16, 9)
    ours = open_library(library)
    # Azimuth 0 begins at −π there and at 0 here; energies are divided.
    np.testing.assert_allclose(
        theirs[:, :, 0], ours.cells_mev.reshape(7, 45, 16, 9)[:, :, 8].astype("f8") / 0.033, rtol=1e-7, atol=0
    )
    assert 'name="photon"' in binning.read_text()
    (back,) = convert(there, tmp_path / "back.h5", geometry_name=str(binning), particle=None, sampling_fraction=0.033)
    again = open_library(back)
    np.testing.assert_array_equal(again.cells_mev, ours.cells_mev)
    np.testing.assert_array_equal(again.energies_mev, ours.energies_mev)
    assert not again.impact_mm.any()
    assert difference(geometry_of(again), GEOMETRIES["wsi"]) == ""  # type: ignore[arg-type]
    kept = {key: again.provenance[key] for key in ("generator", "source", "sampling_fraction", "particle")}
    assert kept == {
        "generator": "CaloChallenge file", "source": "theirs.hdf5", "sampling_fraction": "0.033", "particle": "gamma",
    }  # fmt: skip
    assert float(again.provenance["zero_below_mev"]) == pytest.approx(5e-4)
    # The page takes the three as one geometry on one scale, whatever they are called.
    scaled = read_inputs(back, library, None)
    np.testing.assert_array_equal(scaled.generated.cells_mev, scaled.reference.cells_mev)
    scaled = read_inputs(there, library, None, geometry_name=str(binning))
    np.testing.assert_array_equal(scaled.generated.cells_mev > 0, half_turned(scaled.reference.cells_mev, GEOMETRIES["wsi"]) > 0)  # type: ignore[arg-type]
    np.testing.assert_allclose(scaled.generated.cells_mev.sum(), scaled.reference.cells_mev.sum(), rtol=1e-5)
    assert scaled.scale.lowest_mev == pytest.approx(0.01515, rel=1e-3)


def test_files_beyond_the_memory_are_converted_in_parts(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    convert(library, tmp_path / "whole.h5", geometry_name=None, particle=None, sampling_fraction=None)
    for module in (challenge, shower_library):
        monkeypatch.setattr(module, "ROWS_PER_BLOCK", 3)
    monkeypatch.setattr("caloedge.formats.hdf5.available_memory_bytes", lambda: 7 * 6480)
    there, binning = convert(library, tmp_path / "parts.h5", geometry_name=None, particle=None, sampling_fraction=None)
    (back,) = convert(there, tmp_path / "back.h5", geometry_name=str(binning), particle=None, sampling_fraction=0.033)
    with pytest.raises(UserError, match=r"'showers' \(7, 6480\) needs 0.0 GiB of memory"):
        _ = open_library(back).cells_mev
    monkeypatch.undo()
    with h5py.File(there) as parts, h5py.File(tmp_path / "whole.h5") as whole:
        np.testing.assert_array_equal(parts["showers"][:], whole["showers"][:])
    np.testing.assert_array_equal(open_library(back).cells_mev, open_library(library).cells_mev)
    with h5py.File(back) as ours, h5py.File(library) as first:
        np.testing.assert_allclose(ours["deposited_energies"][:], first["deposited_energies"][:], rtol=1e-3)
    with h5py.File(there, "a") as file:
        file["showers"][5, 11] = -1.0
    monkeypatch.setattr(challenge, "ROWS_PER_BLOCK", 3)
    monkeypatch.setattr(shower_library, "ROWS_PER_BLOCK", 3)
    with pytest.raises(UserError, match=r"showers\[5, 11\] = -1.0 is negative"):
        convert(there, tmp_path / "bad.h5", geometry_name=str(binning), particle=None, sampling_fraction=0.033)
    assert not (tmp_path / "bad.h5").exists()


def test_ids_are_written_without_gaps(irregular: Path, tmp_path: Path) -> None:
    """The published reader takes the id of a layer for its position."""
    write_binning(tmp_path / "out.xml", read_binning(irregular, "photon"), "photon")
    root = ElementTree.parse(tmp_path / "out.xml").getroot()
    assert [int(layer.get("id", "")) for layer in root[0]] == list(range(13))
    assert read_binning(tmp_path / "out.xml").layers == read_binning(irregular, "photon").layers


def test_fidelity_reads_irregular_layers(irregular: Path, tmp_path: Path) -> None:
    generator = np.random.default_rng(5)
    paths = []
    for name in ("generated", "reference"):
        cells = generator.exponential(100.0, (30, 368)) * (generator.random((30, 368)) < 0.3)
        paths.append(tmp_path / f"{name}.hdf5")
        with h5py.File(paths[-1], "w") as file:
            file["incident_energies"], file["showers"] = generator.uniform(1e3, 1e5, (30, 1)), cells
    inputs = read_inputs(*paths, None, geometry_name=str(irregular), particle="photon", threshold_mev=1.0, sampling_fraction=1.0)
    assert inputs.layout.geometry.name == "binning_dataset_1, photon"
    assert inputs.scale == Scale(1.0, 1.0)  # divided before, or never: not again
    found = features(inputs.generated, inputs.layout)
    assert found.energy_mev_NL.shape == (30, 5)
    assert found.x_mm_NA.shape == (30, 2)
    assert np.isfinite(table(found)).all()
    turned, _ = turned_at_random(inputs.generated.cells_mev, inputs.generated.impact_mm, inputs.layout, generator)
    again = features(Showers(inputs.generated.energies_mev, inputs.generated.impact_mm, turned), inputs.layout)
    np.testing.assert_allclose(again.r_mm_NL, found.r_mm_NL, rtol=1e-5)
    np.testing.assert_allclose(np.hypot(again.x_mm_NA, again.y_mm_NA), np.hypot(found.x_mm_NA, found.y_mm_NA), rtol=1e-4)
    assert (np.abs(again.x_mm_NA - found.x_mm_NA) > 1e-3).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda text: text.replace("</Bins>", ""),
            "{}: is no XML (no element found: line 14, column 0); give a binning file of the CaloChallenge",
        ),
        (lambda _: "<Bins/>", "{}: <Bins> holds no <Bin name=...>; give a binning file of the CaloChallenge"),
        (lambda text: text, "{}: describes several particles; name one with --particle: photon, pion"),
    ],
)
def test_bad_binning_files(irregular: Path, change: Callable[[str], str], message: str) -> None:
    irregular.write_text(change(IRREGULAR))
    with pytest.raises(UserError) as caught:
        read_binning(irregular)
    assert str(caught.value) == message.format(irregular)


@pytest.mark.parametrize(
    ("was", "is_now", "message"),
    [
        ('"0,5,10" n_bin_alpha="1"', '"0,5,10" n_bin_alpha="0"', "layer '0': n_bin_alpha = 0; there is 1 bin at least"),
        ('r_edges="0,5,10" n', 'n', "layer '0' has no 'r_edges'; a layer has id, r_edges and n_bin_alpha"),
        ('"0,5,10" n', '"0,5,4" n', "layer '0': r_edges 0,5,4 do not rise from 0 or more"),
        ('"0,5,10" n', '"0,5;10" n', "layer '0': could not convert string to float: '5;10'; "
         "id and n_bin_alpha are whole numbers, r_edges are numbers with commas"),
        ('"0,5,10" n', '"0" n', "no layer of pion has voxels; each needs r_edges='0,...' of two numbers at least"),
    ],
)  # fmt: skip
def test_bad_layers(irregular: Path, was: str, is_now: str, message: str) -> None:
    assert was in IRREGULAR
    irregular.write_text(IRREGULAR.replace(was, is_now))
    with pytest.raises(UserError) as caught:
        read_binning(irregular, "pion")
    assert str(caught.value) == f"{irregular}: {message}"


def test_other_files_that_are_no_binning(irregular: Path) -> None:
    for text, message in (
        ("<note><to>x</to></note>", "<note> holds no <Bin name=...>; give a binning file of the CaloChallenge"),
        (IRREGULAR.replace("pion", "photon"), "describes a particle twice; give a file with one <Bin> for each: photon"),
        ("<?xml version='1.0' encoding='nonsense'?><Bins/>", "is no XML (unknown encoding: nonsense); give a binning file"),
    ):
        irregular.write_text(text)
        with pytest.raises(UserError) as caught:
            read_binning(irregular)
        assert str(caught.value).startswith(f"{irregular}: {message}")
    with pytest.raises(UserError, match="is no XML"):
        read_binning(irregular.parent)


def test_bad_conversions(library: Path, irregular: Path, tmp_path: Path) -> None:
    def complaint(
        source: Path, target: Path, name: str | None = None, particle: str | None = None, share: float | None = None
    ) -> str:
        before = sorted(tmp_path.iterdir())
        with pytest.raises(UserError) as caught:
            convert(source, target, geometry_name=name, particle=particle, sampling_fraction=share)
        assert sorted(tmp_path.iterdir()) == before
        return str(caught.value)

    out = tmp_path / "out.h5"
    assert complaint(library, library) == f"{library}: exists already; remove it or give another name"
    assert complaint(library, tmp_path / "out.xml") == (
        f"{tmp_path / 'out.xml'}: showers lie in a file that ends in .h5 or .hdf5; give such a name"
    )
    assert complaint(library, irregular.with_suffix(".h5")) == f"{irregular}: exists already; remove it or give another name"
    assert complaint(library, out, share=0.0) == (
        "--sampling-fraction 0.0: give a share above 0, at most 1; 1 leaves energies as they are"
    )
    assert complaint(library, out, particle="muon") == "no particle 'muon'; the CaloChallenge has photon, electron, pion"
    assert complaint(library, out, str(irregular), "photon") == (
        f"{library}: does not say by what its energies are divided; give --sampling-fraction: 0.033 for data sets 2 and 3 of the "
        "CaloChallenge, 1 for data set 1"
    )
    assert complaint(library, out, str(irregular), "photon", 1.0) == (
        f"{library}: showers have 6480 cells; geometry binning_dataset_1, photon has 368; name the right one with --geometry"
    )
    pbwo4 = complaint(Path("pbwo4_gamma"), out)
    assert pbwo4.endswith("is of pbwo4, crystals; the CaloChallenge has layers of voxels only, as wsi")
    theirs, _ = convert(library, tmp_path / "theirs.hdf5", geometry_name=None, particle=None, sampling_fraction=None)
    assert complaint(theirs, out) == f"{theirs}: does not say its geometry; give --geometry NAME or a binning file"
    assert complaint(theirs, out, str(tmp_path / "no.xml")) == (
        f"{tmp_path / 'no.xml'}: no such file; give a binning file of the CaloChallenge"
    )
    with h5py.File(theirs, "a") as file:
        file.attrs["geometry"] = "mycalo"
    assert complaint(theirs, out) == (
        f"{theirs}: no geometry 'mycalo'; there are: pbwo4, csi, wsi; or give a binning file with --geometry"
    )
    with pytest.raises(UserError, match="only a binning file"):
        open_geometry("wsi", "photon")
    with pytest.raises(UserError, match="--particle photon: is one of a binning file; give that with --geometry"):
        read_inputs(library, theirs, None, particle="photon")


@pytest.mark.parametrize("azimuths", [(1, 10, 10, 1, 1), (1, 4), (1, 1, 1)])
def test_a_page_of_irregular_layers(azimuths: tuple[int, ...], tmp_path: Path) -> None:
    """Fewer, as many, or none of the layers have azimuths: histograms, tables and plots of centres follow."""
    need("sklearn")
    stack = VoxelStack("irregular", tuple(VoxelLayer(number, n, (0.0, 5.0, 9.0)) for number, n in enumerate(azimuths)))
    binning = tmp_path / "binning.xml"
    write_binning(binning, stack, "photon")
    generator = np.random.default_rng(7)
    (n_cells,) = stack.cell_shape
    for name, n in (("generated", 120), ("reference", 220)):
        energies = generator.uniform(1e3, 2e3, (n, 1))
        cells = generator.gamma(2.0, 1.0, (n, n_cells)) * energies / (2 * n_cells)
        with h5py.File(tmp_path / f"{name}.hdf5", "w") as file:
            file["incident_energies"], file["showers"] = energies, cells
    inputs = read_inputs(tmp_path / "generated.hdf5", tmp_path / "reference.hdf5", None, geometry_name=str(binning))
    found = assess(inputs, 1000)
    (plot,) = [
        block
        for section in found.sections
        for block in section.blocks
        if isinstance(block, Plot) and block.title == "Separation of layer energies by layer"
    ]
    assert plot.series[0].x == tuple(range(len(azimuths)))
    centres = [
        block.series[0].x
        for section in found.sections
        for block in section.blocks
        if isinstance(block, Plot) and block.title == "Separation of centres by layer"
    ]
    divided = tuple(float(number) for number, n in enumerate(azimuths) if n > 1)
    assert centres == ([divided] if divided else [])
