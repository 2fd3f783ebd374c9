"""An evaluation uses showers that nothing was trained on, and says so when it cannot."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from caloedge.artifact import read_artifact
from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.errors import BadData
from caloedge.evaluation.accuracy import evaluate
from caloedge.production import Production, simulate


def test_showers_seen_in_training_are_refused_in_any_file(
    tiny: Path, library: ShowerLibrary, tmp_path: Path, caloedge: Callable[..., Any]
) -> None:
    path = tmp_path / "copy.h5"
    with h5py.File(path, "w") as file:
        file["incident_energies"] = library.energies_mev[:100, None]
        file["impact_mm"] = library.impact_mm[:100]
        file["showers"] = library.cells_mev[:100].astype(np.float64)
    ended = caloedge("compare", tiny, "--library", path, "--events", 250)
    assert ended.code == 2
    assert ended.err.startswith(f"caloedge: {path}: 100 of 100 showers are those that tiny was trained or tuned on")


def test_generated_showers_are_refused(tiny: Path, tmp_path: Path) -> None:
    request = Production(generator="frozen", source="pbwo4_gamma", showers=20, seed=3, min_energy_gev=2, max_energy_gev=90)
    simulate(request, tmp_path / "frozen.h5", workers=1)
    with pytest.raises(BadData) as caught:
        evaluate(read_artifact(tiny), open_library(tmp_path / "frozen.h5"), 10)
    assert str(caught.value) == (
        f"{tmp_path / 'frozen.h5'}: was made by generator frozen of the showers in pbwo4_gamma.h5; "
        "evaluate on showers of a simulation"
    )


def test_other_showers_are_all_used(tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "other.h5"
    simulate(Production(generator="parametrised", showers=60, seed=99), path, workers=1)
    table = evaluate(read_artifact(tiny), open_library(path), 500).sections[0].blocks[0]
    assert "photons of 60 showers" in table.caption  # type: ignore[union-attr]


def test_unknown_hardware_is_one_line_and_nothing_is_written(
    tiny_recipe: Path, tmp_path: Path, caloedge: Callable[..., Any]
) -> None:
    for option, allowed in (("--accelerator", "auto, cpu, cuda, gpu, mps, tpu"), ("--precision", "32-true, bf16-mixed")):
        ended = caloedge("train", tiny_recipe, "--output", tmp_path / "o", option, "foo")
        assert ended.code == 2
        assert ended.err.startswith(f"caloedge: {option} 'foo' is not known; there are: {allowed}")
        assert not (tmp_path / "o").exists()


def test_damaged_golden_vectors_are_one_line(tiny: Path, tmp_path: Path, caloedge: Callable[..., Any]) -> None:
    from caloedge.artifact import MANIFEST, Manifest, write_manifest

    folder = tmp_path / "damaged"
    shutil.copytree(tiny, folder)
    good = dict(np.load(folder / "golden.npz"))
    for arrays, complaint in (
        ({"output_logit": good["output_logit"]}, "needs `inputs`"),
        ({**good, "inputs": good["inputs"][:5]}, "as many vectors"),
        ({**good, "output_logit": good["output_logit"] + 0.5}, "not integer codes"),
    ):
        np.savez(folder / "golden.npz", **arrays)
        write_manifest(folder, Manifest.model_validate_json((folder / MANIFEST).read_text()))
        ended = caloedge("verify", folder)
        assert (ended.code, len(ended.err.splitlines())) == (2, 1)
        assert complaint in ended.err
