"""The trainings of a generator's networks, each finished once, resumed where it was interrupted.

Axes: N shower, C cell.
"""

import hashlib
import json
import math
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from caloedge.artifact import TrainingRecord
from caloedge.catalog import Generator, Role, Sample, TrainingData, find
from caloedge.computer import computer
from caloedge.detector.crystals.challenge import geometry_of
from caloedge.detector.crystals.geometry import difference, geometry
from caloedge.detector.crystals.library import ShowerLibrary
from caloedge.errors import BadData, UserError
from caloedge.fast_simulation.recipe import GeneratorRecipe, NetworkRecipe
from caloedge.fidelity.layout import layout
from caloedge.files import locked, replacing, write_text
from caloedge.generation.cells import Cells, fit_cells
from caloedge.generation.energies import EnergyCode, fit_energies
from caloedge.generative.build import build
from caloedge.training.fit import Hardware, fit, steps_per_epoch, valid_loss

VALIDATION = 5
"""One shower in so many, the last ones, is for validation."""
LEAST_SHOWERS = 200
VALID_SHOWERS = 1000
"""On which the validation loss is taken after each epoch."""
RECORD, WEIGHTS = "stage.json", "weights.pt"


@dataclass(frozen=True)
class TrainingShowers:
    """The showers of training, with their codes, fitted on those that are not for validation."""

    library: ShowerLibrary
    recipe: GeneratorRecipe

    @property
    def n_training(self) -> int:
        """Number of showers that networks learn from; those behind are for validation."""
        return len(self.library) - len(self.library) // VALIDATION

    @cached_property
    def cells_mev(self) -> NDArray[Any]:
        """(N, C) float32, empty below the threshold."""
        cells = self.library.cells_mev
        return np.where(cells < self.recipe.zero_below_mev, np.float32(0), cells)

    @cached_property
    def codes(self) -> tuple[EnergyCode, Cells]:
        """Return how layers and cells become numbers."""
        of, n = self.recipe, self.n_training
        energies_mev, cells_mev = self.library.energies_mev[:n], self.cells_mev[:n]
        known: dict[str, Any] = {
            "energies_gev": (of.min_energy_gev, of.max_energy_gev),
            "threshold_mev": of.zero_below_mev,
        }
        cells = fit_cells(energies_mev, cells_mev, layout(geometry(of.geometry)), scale_mev=of.cell_scale_mev, **known)
        energies = fit_energies(energies_mev, cells.layers(cells_mev), scale_mev=of.layer_scale_mev, **known)
        return energies, cells


@dataclass(frozen=True)
class TrainedNetwork:
    """A trained network with the record of its training."""

    network: nn.Module
    record: TrainingRecord


def sample_of(showers: TrainingShowers, role: Role, _library: Any, split: str, events: int, seed: int) -> Sample[None]:
    """Return what a network learns from showers drawn at random, those of training or of validation."""
    generator = np.random.default_rng(seed)
    low, high = (0, showers.n_training) if split == "train" else (showers.n_training, len(showers.library))
    rows = generator.integers(low, high, events)
    library = showers.library
    inputs, targets = role.pairs(
        *showers.codes, library.energies_mev[rows], library.impact_mm[rows], showers.cells_mev[rows], generator
    )
    return Sample(inputs, targets, None)


def check(recipe: GeneratorRecipe) -> None:
    """Raise `UserError` before showers are made for what could not be trained."""
    generator = find(Generator, recipe.generator)
    if not generator.roles:
        raise UserError(f"recipe {recipe.name!r}: generator {recipe.generator!r} has no networks to train")
    if set(recipe.networks) != set(generator.roles):
        raise UserError(f"recipe {recipe.name!r}: networks: generator {recipe.generator!r} has {', '.join(generator.roles)}")
    for one in recipe.networks.values():
        if one.schedule.batch_size > one.schedule.events_per_epoch:
            raise UserError(f"recipe {recipe.name!r}: {one.network}: batch_size is above events_per_epoch; give more events")
        build(one.network, layout(geometry(recipe.geometry)), one.options)


def check_showers(recipe: GeneratorRecipe, showers: ShowerLibrary) -> None:
    """Raise `BadData` for a library whose showers are not those of a recipe, or too few."""
    if len(showers) < LEAST_SHOWERS:
        raise BadData(f"{showers.path}: holds {len(showers)} showers; give at least {LEAST_SHOWERS}")
    known, found = geometry(recipe.geometry), geometry_of(showers)
    if found is not None and (apart := difference(found, known)):
        raise BadData(f"{showers.path}: holds showers of {found.name}; recipe {recipe.name!r} names {known.name}: {apart}")
    if showers.n_cells != math.prod(known.cell_shape):
        raise BadData(
            f"{showers.path}: showers have {showers.n_cells} cells; geometry {known.name} of recipe {recipe.name!r} has "
            f"{math.prod(known.cell_shape)}"
        )
    if (particle := showers.provenance.get("particle", recipe.particle)) != recipe.particle:
        raise BadData(f"{showers.path}: holds showers of {particle}; recipe {recipe.name!r} names {recipe.particle}")
    low, high = recipe.min_energy_gev * 1e3, recipe.max_energy_gev * 1e3
    if not (low * 0.999 <= showers.energies_mev.min() and showers.energies_mev.max() <= high * 1.001):
        raise BadData(
            f"{showers.path}: holds {showers.energies_mev.min() / 1e3:.4g} to {showers.energies_mev.max() / 1e3:.4g} GeV; recipe "
            f"{recipe.name!r} names {recipe.min_energy_gev:g} to {recipe.max_energy_gev:g}"
        )


def train(recipe: GeneratorRecipe, showers: TrainingShowers, folder: Path, hardware: Hardware) -> dict[str, TrainedNetwork]:
    """Train what is not finished in `folder`; return all networks by role."""
    check(recipe)
    check_showers(recipe, showers.library)
    roles = find(Generator, recipe.generator).roles
    return {name: _train(recipe, name, role, showers, folder, hardware) for name, role in roles.items()}


def _train(
    recipe: GeneratorRecipe, name: str, role: Role, showers: TrainingShowers, folder: Path, hardware: Hardware
) -> TrainedNetwork:
    of = recipe.networks[name]
    network, data, key = _planned(recipe, name, role, showers)
    place = folder / f"{name}-{key}"
    if (place / RECORD).exists():
        return _finished(network, place)
    with locked(place):
        curve = fit(network, data, showers.library, of.schedule, place, stage=name, seed=recipe.seed, hardware=hardware)
        network.float()  # as it is exported, whatever the precision of the training
        record = TrainingRecord(
            parameters=sum(value.numel() for value in network.parameters()),
            epochs=of.schedule.all_epochs,
            windows_seen=steps_per_epoch(data, showers.library, of.schedule) * of.schedule.batch_size * of.schedule.all_epochs,
            seconds=sum(point["seconds"] for point in curve),
            train_loss=curve[-1]["train_loss"],
            valid_loss=valid_loss(network, data, showers.library, name, recipe.seed),
            curve=tuple(curve),
            hardware=f"{computer()}; {hardware.devices} × {hardware.accelerator}, {hardware.precision}",
            key=key,
        )
        with replacing(place / WEIGHTS) as temporary:
            torch.save(network.state_dict(), temporary)
        write_text(place / RECORD, record.model_dump_json(indent=1))
    return TrainedNetwork(network.eval(), record)


def keys(recipe: GeneratorRecipe, showers: TrainingShowers) -> dict[str, str]:
    """Return by role the digest of all that decides a training."""
    roles = find(Generator, recipe.generator).roles
    return {name: _planned(recipe, name, role, showers)[2] for name, role in roles.items()}


def _planned(recipe: GeneratorRecipe, name: str, role: Role, showers: TrainingShowers) -> tuple[nn.Module, TrainingData, str]:
    of = recipe.networks[name]
    torch.manual_seed(recipe.seed)
    network = build(of.network, showers.codes[1].layout, of.options)
    data = TrainingData(role.loss, partial(sample_of, showers, role), VALID_SHOWERS)
    return network, data, _key(recipe, of, network, data, showers.library)


def _finished(network: nn.Module, place: Path) -> TrainedNetwork:
    try:
        network.load_state_dict(torch.load(place / WEIGHTS, weights_only=True))
        return TrainedNetwork(network.eval(), TrainingRecord.model_validate_json((place / RECORD).read_text()))
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as problem:
        line = " ".join(str(problem).split())[:200]
        raise BadData(f"{place}: the finished training cannot be read ({line}); remove the folder to train again") from None


def identity(library: ShowerLibrary) -> str:
    """Return what decides the showers of a library: how it was made, where that is said, since files differ in their dates."""
    made = {key: value for key, value in library.provenance.items() if key not in ("created", "made_by")}
    return json.dumps(made, sort_keys=True) if "seed" in made else library.digest


def _key(recipe: GeneratorRecipe, of: NetworkRecipe, network: nn.Module, data: TrainingData, library: ShowerLibrary) -> str:
    """Return the digest of all that decides the result, so that no other recipe or library continues or takes over a training."""
    probe = data.sample(library, "train", 200, recipe.seed)
    arrays = (probe.inputs, probe.targets)
    decides: Mapping[str, Any] = {
        "schedule": of.schedule.for_key(),
        "library": identity(library),
        "seed": recipe.seed,
        "network": str(network),
        "options": of.options,
        "loss": data.loss,
        # Rounded, because processors differ in the last bits of functions such as the exponential.
        "data": [f"{values.shape} {values.mean(dtype=float):.4g} {values.std(dtype=float):.4g}" for values in arrays],
    }
    return hashlib.sha256(json.dumps(decides, sort_keys=True).encode()).hexdigest()[:10]
