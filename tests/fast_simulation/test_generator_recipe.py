"""Recipes of generators: what is wrong is one line that names file and field."""

from pathlib import Path

import pytest
from tiny_generators import RECIPE

from caloedge.errors import BadData
from caloedge.fast_simulation.recipe import find_generator, read_generator


def complaint(folder: Path, *changes: tuple[str, str]) -> str:
    text = RECIPE
    for old, new in changes:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    path = folder / "generator.yaml"
    path.write_text(text)
    with pytest.raises(BadData) as caught:
        read_generator(path)
    said = str(caught.value)
    assert said.startswith(f"{path}: ")
    assert "\n" not in said
    return said.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("name: tiny", "nmae: tiny"), "name: Field required"),
        (("seed: 1\n", "seed: 1\nmore: 2\n"), "more: Extra inputs are not permitted"),
        (("max_energy_gev: 100.0", "max_energy_gev: 1.0"), "the file: Value error, min_energy_gev is not below max_energy_gev; "),
        (
            ("training: {library: training.h5}\ntest: {library: test.h5}", "training: {seed: 3}\ntest: {seed: 3, showers: 500}"),
            "the file: Value error, training and test have one seed, so that their showers are the same; give test another one",
        ),
        (("cell_cuts: [0.0, 0.2]", "cell_cuts: []"), "the file: Value error, cell_cuts is empty; give at least one"),
        (("cell_cuts: [0.0, 0.2]", "cell_cuts: [0.2, -0.1]"), "cell_cuts.1: Input should be greater than or equal to 0"),
        (("layer_cuts_mev: [0.0, 0.05]", "layer_cuts_mev: [-1.0]"), "layer_cuts_mev.0: Input should be greater than or equal to"),
        (("steps: [1, 2]", "steps: [0, 2]"), "steps.0: Input should be greater than"),
        (("min_energy_gev: 1.0", "min_energy_gev: 0.0"), "min_energy_gev: Input should be greater than 0"),
        (("steps: 2", "steps: 0"), "sampler.steps: Input should be greater than or equal to 1"),
        (("solver: heun", "solver: rk4"), "sampler.solver: String should match pattern"),
        (("zero_below_mev: 0.0005", "zero_below_mev: 0.0"), "zero_below_mev: Input should be greater than 0"),
        (("training: {library: training.h5}", "training: {showers: 10}"), "training.showers: Input should be greater than"),
        (("batch_size: 64", "batch_size: sixty"), "networks.layers.schedule.batch_size: Input should be a valid integer"),
        (("averaging: 0.9", "averaging: 1.0"), "networks.cells.schedule.averaging: Input should be less than 1"),
    ],
)
def test_what_is_wrong_is_one_line(change: tuple[str, str], message: str, tmp_path: Path) -> None:
    assert complaint(tmp_path, change).startswith(message)


def test_a_recipe_is_found_by_file_folder_and_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "models" / "tiny" / "generator.yaml"
    path.parent.mkdir(parents=True)
    path.write_text(RECIPE)
    for name in (str(path), str(path.parent), "tiny"):
        found = find_generator(name)
        assert found is not None
        assert found.resolve() == path
    assert find_generator("other") is None
    assert find_generator("models/tiny/recipe.yaml") is None


def test_the_shipped_recipe_is_sound() -> None:
    recipe = read_generator(Path(__file__).parents[2] / "models" / "fast_sim" / "generator.yaml")
    assert recipe.training.seed != recipe.test.seed
    assert set(recipe.networks) == {"layers", "cells"}
    for production in map(recipe.production, (recipe.training, recipe.test)):
        assert (production.geometry, production.particle, production.zero_below_mev) == ("wsi", "gamma", 0.0005)
