"""A trained generator's folder: an ONNX file per network, `sampler.json`, recipe and card.

Axes: N shower, C cell.
"""

import json
import shutil
import warnings
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from caloedge.catalog import Generator, find
from caloedge.detector.crystals.geometry import describe, geometry
from caloedge.errors import BadData, UserError
from caloedge.fast_simulation.recipe import GeneratorRecipe
from caloedge.fast_simulation.trainings import TrainedNetwork, TrainingShowers, keys
from caloedge.fidelity.classifiers import trees_auc
from caloedge.fidelity.features import features, table
from caloedge.fidelity.showers import Showers
from caloedge.files import replacing_folder, sha256, write_text
from caloedge.generation.trained import MANIFEST, Manifest, Predict, Sampler, Trained, open_trained, plain, read_manifest
from caloedge.generative.layer_flow import LayerFlow
from caloedge.progress import progress
from caloedge.recipe import GENERATOR_RECIPE

OPSET = 17
CARD, TRAININGS = "README.md", "trainings.json"
CHOICE_SHOWERS = 1000
"""Of validation, on which the cut between empty cells and others is chosen."""
SMALLEST_MEV = 1e-8
"""Added to energies whose logarithm is taken."""
TOGETHER = 100
"""Showers that are drawn together."""


def export(
    recipe: GeneratorRecipe, path: Path, showers: TrainingShowers, networks: Mapping[str, TrainedNetwork], folder: Path
) -> Trained:
    """Write the folder whole and return the generator opened from it."""
    refuse_foreign_files(recipe, folder)
    with replacing_folder(folder) as new:
        shutil.copyfile(path, new / GENERATOR_RECIPE)
        for role, one in networks.items():
            write_onnx(one.network, role_width(one.network, showers), new / f"{role}.onnx")
        draft = _manifest(recipe, showers, networks, new)
        write_text(new / MANIFEST, draft.model_dump_json(indent=1))
        chosen = draft.model_copy(update={"sampler": choose_cuts(recipe, open_trained(new), showers)})
        write_text(new / MANIFEST, chosen.model_dump_json(indent=1))
        write_text(new / CARD, card(recipe, chosen, networks))
        records = {role: one.record.model_dump(mode="json") for role, one in networks.items()}
        write_text(new / TRAININGS, _json(records))
    return open_trained(folder)


def refuse_foreign_files(recipe: GeneratorRecipe, folder: Path) -> None:
    """Refuse to replace a folder that holds files which no export of this recipe writes: they would be lost."""
    known = {GENERATOR_RECIPE, MANIFEST, TRAININGS, CARD, *(f"{role}.onnx" for role in recipe.networks)}
    if folder.exists() and (foreign := sorted(path.name for path in folder.iterdir() if path.name not in known)):
        raise UserError(f"{folder}: holds {foreign[0]!r}, which is not part of a generator and would be lost; move it elsewhere")


def is_there(recipe: GeneratorRecipe, path: Path, showers: TrainingShowers, folder: Path) -> bool:
    """Say whether a folder holds the generator of just this recipe and these trainings."""
    try:
        if (folder / GENERATOR_RECIPE).read_bytes() != path.read_bytes():
            return False
        stored = json.loads((folder / TRAININGS).read_text(encoding="utf-8"))
        read_manifest(folder)
        made = {role: record["key"] for role, record in stored.items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, BadData):
        return False
    return made == keys(recipe, showers)


def _json(value: Any) -> str:
    return json.dumps(value, indent=1) + "\n"


def role_width(network: nn.Module, showers: TrainingShowers) -> int:
    """Return how many numbers a network takes for one shower."""
    energies, cells = showers.codes
    told = 3 if cells.layout.by_impact else 1
    if isinstance(network, LayerFlow):
        return energies.n_layers + told
    return cells.layout.n_cells + energies.n_layers + told + 1


def drawn_with(network: nn.Module) -> nn.Module:
    """Return what showers are drawn with: a flow is trained in the other direction."""
    if isinstance(network, LayerFlow):
        return network.sampler().eval()
    return network.eval()


def write_onnx(network: nn.Module, width: int, path: Path) -> None:
    """Export what showers are drawn with: (N, width) float32 to (N, …)."""
    drawn = drawn_with(network)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            drawn,
            (torch.zeros(2, width),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=["inputs"],
            output_names=["outputs"],
            dynamic_axes={"inputs": {0: "N"}, "outputs": {0: "N"}},
        )


def _manifest(
    recipe: GeneratorRecipe, showers: TrainingShowers, networks: Mapping[str, TrainedNetwork], folder: Path
) -> Manifest:
    energies, cells = showers.codes
    library = showers.library
    return Manifest(
        generator=recipe.generator,
        geometry=describe(geometry(recipe.geometry)),
        particle=recipe.particle,
        min_energy_gev=recipe.min_energy_gev,
        max_energy_gev=recipe.max_energy_gev,
        threshold_mev=recipe.zero_below_mev,
        sampler=recipe.sampler,
        energies=plain(energies),
        cells=plain(cells.code),
        networks={role: sha256(folder / f"{role}.onnx") for role in networks},
        training={**library.provenance, "sha256": library.digest, "showers": str(len(library))},
    )


def choose_cuts(recipe: GeneratorRecipe, trained: Trained, showers: TrainingShowers) -> Sampler:
    """Return the sampler with the cuts by which trees tell validation showers least from generated ones of the same particles.

    The cut on layers is chosen on layer energies alone, on all validation showers; that on cells then on all features.
    """
    layer_cut_mev = recipe.layer_cuts_mev[0]
    if len(recipe.layer_cuts_mev) > 1:
        layer_cut_mev = _choose_layer_cut(recipe, trained, showers)
    trained = with_sampler(trained, layer_cut_mev=layer_cut_mev, cell_cut=recipe.cell_cuts[0])
    if len(recipe.cell_cuts) == 1:
        return trained.manifest.sampler
    rows = slice(showers.n_training, showers.n_training + CHOICE_SHOWERS)
    energies_mev, impact_mm = showers.library.energies_mev[rows], showers.library.impact_mm[rows]
    where = trained.cells.layout
    wanted = table(features(Showers(energies_mev, impact_mm, showers.cells_mev[rows]), where))
    aucs = {}
    with progress("choosing the cut of cells", len(recipe.cell_cuts) * len(energies_mev), 0) as advance:
        for cut in recipe.cell_cuts:
            found = draw(with_sampler(trained, cell_cut=cut), energies_mev, impact_mm, recipe.seed, advance)
            aucs[cut] = trees_auc(wanted, table(features(Showers(energies_mev, impact_mm, found), where))).value
    return with_sampler(trained, cell_cut=min(aucs, key=lambda cut: aucs[cut])).manifest.sampler


def _choose_layer_cut(recipe: GeneratorRecipe, trained: Trained, showers: TrainingShowers) -> float:
    rows = slice(showers.n_training, None)
    energies_mev, impact_mm = showers.library.energies_mev[rows], showers.library.impact_mm[rows]
    wanted = trained.cells.layers(showers.cells_mev[rows])
    noise_NL = np.random.default_rng(recipe.seed).standard_normal(wanted.shape, np.float32)
    told = trained.conditions(energies_mev, impact_mm)
    energy_N1 = np.log10(energies_mev)[:, None]

    def auc(cut_mev: float) -> float:
        found = with_sampler(trained, layer_cut_mev=cut_mev).draw_layers(energies_mev, told, noise_NL)
        theirs, ours = (np.concatenate([np.log10(of + SMALLEST_MEV), energy_N1], axis=1) for of in (wanted, found))
        return trees_auc(theirs, ours).value

    return min(recipe.layer_cuts_mev, key=auc)


def with_sampler(trained: Trained, networks: Mapping[str, Predict] | None = None, **changed: Any) -> Trained:
    """Return the same generator with other steps, another solver or cut, or networks that something else computes."""
    sampler = trained.manifest.sampler.model_copy(update=changed)
    manifest = trained.manifest.model_copy(update={"sampler": sampler})
    return replace(trained, manifest=manifest, networks=networks or trained.networks)


def draw(
    trained: Trained,
    energies_mev: NDArray[Any],
    impact_mm: NDArray[Any],
    seed: int,
    advance: Callable[[int], None] = lambda _: None,
) -> NDArray[Any]:
    """Return showers (N, C) MeV float32, drawn in batches; each shower's noise depends on seed and number alone."""
    one = find(Generator, trained.manifest.generator).draw
    assert one
    parts = []
    for first in range(0, len(energies_mev), TOGETHER):
        rows = slice(first, min(first + TOGETHER, len(energies_mev)))
        noise = [np.random.default_rng((seed, number)) for number in range(rows.start, rows.stop)]
        parts.append(one(trained, energies_mev[rows], impact_mm[rows], noise).astype(np.float32))
        advance(len(parts[-1]))
    return np.concatenate(parts)


def card(recipe: GeneratorRecipe, manifest: Manifest, networks: Mapping[str, TrainedNetwork]) -> str:
    """Return what a user must know of the folder."""
    rows = "\n".join(
        f"| {role} | {recipe.networks[role].network} | {one.record.parameters:,} | {one.record.windows_seen:,} | "
        f"{one.record.seconds / 3600:.2f} | {one.record.valid_loss:.4f} |"
        for role, one in networks.items()
    )
    training, files = manifest.training, ", ".join(f"`{role}.onnx`" for role in networks)
    command = (
        f"caloedge simulate my.h5 --generator {recipe.generator} --source {recipe.name} --geometry {recipe.geometry} "
        f"--zero-below-mev {recipe.zero_below_mev:g}"
    )
    made = " ".join(filter(None, (training.get("version", "unknown origin"), training.get("physics_list"))))
    return f"""# {recipe.name}

{find(Generator, recipe.generator).description}. Made by `caloedge run {recipe.name}`; it makes showers by
`{command}`.

- Geometry {recipe.geometry}, {recipe.particle} of {recipe.min_energy_gev:g} to {recipe.max_energy_gev:g} GeV: nothing else.
- Trained on {training["showers"]} showers of {made}, seed {training.get("seed", "unknown")}, the last fifth of them for
  validation. Showers that are made descend from these.
- Files: `sampler.json` (how numbers become showers), {files}; onnxruntime is all that is needed.

| network | architecture | parameters | showers seen | hours of training | validation loss |
|---|---|---|---|---|---|
{rows}
"""
