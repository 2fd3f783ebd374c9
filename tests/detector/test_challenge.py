"""Files of the CaloChallenge, written here in its schema: binning of all three data sets, showers there and back, bad files."""

from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from caloedge.detector.crystals.challenge import convert, geometry_of, half_turned, open_geometry, read_binning, write_binning
from caloedge.detector.crystals.geometry import GEOMETRIES, VoxelLayer, VoxelStack, describe, voxels
from caloedge.detector.crystals.library import open_library, write_library
from caloedge.errors import UserError
from caloedge.fidelity.damage import turned_at_random
from caloedge.fidelity.features import features, n_features, table
from caloedge.fidelity.layout import layout
from caloedge.fidelity.showers import Showers, read_inputs

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
        np.testing.assert_allclose(mine.r_edges_mm, read.r_edges_mm, rtol=1e-11, atol=1e-11)
    assert 'pid="11"' in (tmp_path / "there.xml").read_text()


def test_wsi_is_the_same_as_layers_of_voxels() -> None:
    wsi = GEOMETRIES["wsi"]
    one, other = layout(wsi), layout(VoxelStack("wsi", voxels(wsi)))  # type: ignore[arg-type]
    for name in ("layer_C", "x_mm_C", "y_mm_C", "r_mm_C", "orientations_OC", "limits_mm_L4"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
    np.testing.assert_allclose(one.limits_mm_L4, np.tile([30, 30, 40, 20], (45, 1)))


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
    assert geometry_of(again) == read_binning(binning)  # the file brings its layers with it
    assert again.provenance["generator"] == "CaloChallenge file"
    assert again.provenance["sampling_fraction"] == "0.033"


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


def test_bad_conversions(library: Path, irregular: Path, tmp_path: Path) -> None:
    def complaint(source: Path, target: Path, name: str | None = None, particle: str | None = None, share: float = 0.033) -> str:
        with pytest.raises(UserError) as caught:
            convert(source, target, geometry_name=name, particle=particle, sampling_fraction=share)
        return str(caught.value)

    out = tmp_path / "out.h5"
    assert complaint(library, library) == f"{library}: is the source; give another name"
    assert complaint(library, out, share=0.0) == (
        "--sampling-fraction 0.0: give a share above 0, at most 1; 1 leaves energies as they are"
    )
    assert complaint(library, out, str(irregular), "photon") == (
        f"{library}: showers have 6480 cells; geometry binning_dataset_1, photon has 368; name the right one with --geometry"
    )
    pbwo4 = complaint(Path("pbwo4_gamma"), out)
    assert pbwo4.endswith("is of pbwo4, crystals; the CaloChallenge has layers of voxels only, as wsi")
    theirs, _ = convert(library, tmp_path / "theirs.hdf5", geometry_name=None, particle=None, sampling_fraction=0.033)
    assert complaint(theirs, out) == f"{theirs}: does not say its geometry; give --geometry NAME or a binning file"
    assert complaint(theirs, out, str(tmp_path / "no.xml")) == (
        f"{tmp_path / 'no.xml'}: no such file; give a binning file of the CaloChallenge"
    )
    assert not out.exists()
    with pytest.raises(UserError, match="only a binning file"):
        open_geometry("wsi", "photon")
