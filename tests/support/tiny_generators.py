"""A generator with small untrained networks, in a folder as a trained one lies: its showers are noise, its files are real."""

from pathlib import Path

from caloedge.detector.crystals.library import open_library
from caloedge.production import Production, simulate

RECIPE = """\
name: tiny
generator: flow_matching
geometry: wsi
min_energy_gev: 1.0
max_energy_gev: 100.0
zero_below_mev: 0.0005
seed: 1
training: {library: training.h5}
test: {library: test.h5}
layer_scale_mev: 1.0
cell_scale_mev: 0.02
networks:
  layers:
    network: layer_flow
    options: {transforms: 1, hidden: [16]}
    schedule: {epochs: 2, events_per_epoch: 128, batch_size: 64, learning_rate: 1.0e-3}
  cells:
    network: unet
    options: {widths: [8, 16], embedding: 16, predicts: v}
    schedule: {epochs: 2, events_per_epoch: 64, batch_size: 32, learning_rate: 1.0e-3, averaging: 0.9}
sampler: {solver: heun, steps: 2}
layer_cuts_mev: [0.0, 0.05]
cell_cuts: [0.0, 0.2]
steps: [1, 2]
"""


def write_recipe(folder: Path, text: str = RECIPE) -> Path:
    """Write the recipe with parametrised showers beside it, 400 for training and 400 for test."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, name in enumerate(("training", "test"), 11):
        if not (folder / f"{name}.h5").exists():
            made = Production("wsi", "parametrised", showers=400, seed=seed, zero_below_mev=0.0005)
            simulate(made, folder / f"{name}.h5", workers=1)
    path = folder / "generator.yaml"
    path.write_text(text)
    return path


def write_generator(folder: Path) -> Path:
    """Write the folder of a generator whose networks have only begun to be trained."""
    from caloedge.artifact import TrainingRecord
    from caloedge.fast_simulation.export import export
    from caloedge.fast_simulation.recipe import read_generator
    from caloedge.fast_simulation.trainings import TrainedNetwork, TrainingShowers
    from caloedge.generative.build import build

    path = write_recipe(folder / "recipe", RECIPE.replace("[0.0, 0.05]", "[0.05]").replace("[0.0, 0.2]", "[0.2]"))
    recipe = read_generator(path)
    showers = TrainingShowers(open_library(path.parent / "training.h5"), recipe)
    record = TrainingRecord(parameters=1, epochs=1, windows_seen=1, seconds=1.0, train_loss=1.0, valid_loss=1.0, curve=())
    networks = {
        role: TrainedNetwork(build(of.network, showers.codes[1].layout, of.options).eval(), record)
        for role, of in recipe.networks.items()
    }
    export(recipe, path, showers, networks, folder / "artifact")
    return folder / "artifact"
