"""The shipped generator: its files are those of its recipe, and its showers are photons in tungsten and silicon."""

import json
from pathlib import Path

import numpy as np
import pytest
import shower_physics
from optional_packages import need

from caloedge.fast_simulation.recipe import read_generator
from caloedge.generation.trained import MANIFEST, Trained, open_trained
from caloedge.recipe import GENERATOR_RECIPE

FOLDER = Path(__file__).parents[2] / "models" / "fast_sim"
SHOWERS = 1200


@pytest.fixture(scope="module")
def trained() -> Trained:
    need("onnxruntime")
    return open_trained(FOLDER)


def test_it_was_made_by_its_recipe(trained: Trained) -> None:
    recipe, manifest = read_generator(FOLDER / GENERATOR_RECIPE), trained.manifest
    assert (manifest.generator, manifest.geometry["name"], manifest.particle) == ("flow_matching", "wsi", "gamma")
    assert (manifest.min_energy_gev, manifest.max_energy_gev) == (recipe.min_energy_gev, recipe.max_energy_gev)
    assert manifest.threshold_mev == recipe.zero_below_mev
    assert (manifest.sampler.steps, manifest.sampler.solver) == (recipe.sampler.steps, recipe.sampler.solver)
    assert manifest.sampler.cell_cut in recipe.cell_cuts
    assert manifest.sampler.layer_cut_mev in recipe.layer_cuts_mev
    assert (int(manifest.training["seed"]), int(manifest.training["showers"])) == (recipe.training.seed, recipe.training.showers)
    records = json.loads((FOLDER / "trainings.json").read_text())
    assert set(records) == set(recipe.networks) == set(manifest.networks)
    for role, record in records.items():
        assert record["epochs"] == recipe.networks[role].schedule.epochs


def test_its_showers_pass_the_checks_of_geant4s(trained: Trained) -> None:
    from caloedge.generators.flow_matching import draw

    energies_mev = np.random.default_rng(5).permutation(np.geomspace(1e3, 1e5, SHOWERS))
    parts = []
    for first in range(0, SHOWERS, 100):
        noise = [np.random.default_rng((5, number)) for number in range(first, first + 100)]
        parts.append(draw(trained, energies_mev[first : first + 100], np.zeros((100, 2)), noise))
    shower_physics.check(energies_mev, np.concatenate(parts))


def test_its_files_are_small(trained: Trained) -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 12_000_000
    assert (FOLDER / MANIFEST).stat().st_size < 300_000
