"""The whole story of one trained generator, in order: showers, trainings, export, comparison with Geant4, speed, report."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.errors import BadData
from caloedge.extras import need
from caloedge.fast_simulation.recipe import MOST_COMPARED, GeneratorRecipe, ShowerSource, parametrised, read_generator
from caloedge.generation.trained import Trained, find_trained, open_trained
from caloedge.production import Production, simulate
from caloedge.progress import announce
from caloedge.reports import store

if TYPE_CHECKING:
    from torch import nn

    from caloedge.fast_simulation.trainings import TrainedNetwork, TrainingShowers
    from caloedge.results import Report
    from caloedge.training.fit import Hardware

QUICK_SHOWERS, QUICK_STEPS = 400, 20


@dataclass(frozen=True)
class Run:
    """One recipe and where its things go."""

    path: Path
    recipe: GeneratorRecipe
    work: Path
    artifact: Path
    report: Path
    quick: bool = False

    @classmethod
    def open(cls, path: Path, output: Path | None, *, quick: bool = False) -> Run:
        """Read a recipe; its rehearsal, in a folder of its own, if it is to be `quick`."""
        recipe = read_generator(path)
        base = output or Path("runs") / recipe.name
        if quick:
            base = base / "rehearsal"
            return cls(path, rehearsal(recipe), base / "work", base / "artifact", base / "report", quick=True)
        if output:
            return cls(path, recipe, base / "work", base / "artifact", base / "report")
        return cls(path, recipe, base, Path("models") / recipe.name, Path("reports") / recipe.name)

    def library(self, what: str) -> ShowerLibrary:
        """Open the library of `training` or `test`; make it where the recipe says how, unless it is there."""
        showers: ShowerSource = getattr(self.recipe, what)
        if showers.library:
            return open_library(self.path.parent / showers.library if Path(showers.library).suffix else showers.library)
        return made(self.recipe.production(showers), self.work / f"{what}.h5")


def made(production: Production, path: Path) -> ShowerLibrary:
    """Return a library of a production, made unless it is there; raise `BadData` for one of other settings."""
    if not path.exists():
        announce(
            f"{path}: {production.showers:,} showers of {production.generator} are made; it goes on where it was interrupted"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        simulate(production, path, os.cpu_count() or 1)
    library = open_library(path)
    asked = {key: value for key, value in asdict(production).items() if key not in ("geometry", "source")}
    if other := [key for key, value in asked.items() if library.provenance.get(key, str(value)) != str(value)]:
        raise BadData(f"{path}: has another {other[0]} than is asked for now; remove it to make it again")
    return library


def rehearsal(recipe: GeneratorRecipe) -> GeneratorRecipe:
    """Return the recipe with few showers and one short epoch for each network."""

    def few(showers: ShowerSource) -> ShowerSource:
        return showers.model_copy(update={"showers": min(showers.showers, QUICK_SHOWERS)})

    networks = {}
    for role, of in recipe.networks.items():
        events = QUICK_STEPS * of.schedule.batch_size
        short = of.schedule.model_copy(
            update={"epochs": 1, "fine_tuning_epochs": 0, "events_per_epoch": events, "averaging": 0.0}
        )
        networks[role] = of.model_copy(update={"schedule": short})
    return recipe.model_copy(
        update={
            "training": few(recipe.training),
            "test": few(recipe.test),
            "networks": networks,
            "layer_cuts_mev": recipe.layer_cuts_mev[:1],
            "cell_cuts": recipe.cell_cuts[:1],
            "steps": (),
        }
    )


def run(opened: Run, hardware: Hardware) -> Report:
    """Make showers, train, export, compare and report; what is already there is not done again."""
    from caloedge.fast_simulation import page
    from caloedge.fast_simulation.trainings import check_showers, identity

    need("geant4", "Geant4, beside which generators are timed,")
    check(opened)
    training, test = opened.library("training"), opened.library("test")
    check_showers(opened.recipe, test)
    if identity(training) == identity(test):
        raise BadData(f"{test.path}: holds the showers that are trained on; name others, made with another seed")
    trained, modules = export(opened, hardware)
    showers, simple = generated(opened, test), parametrised(opened.recipe)
    beside = [made(replace(simple, showers=len(showers)), opened.work / "parametrised.h5")] if simple else []
    report = page.compose(opened, trained, modules, training, test, showers, beside)
    store.save(report, opened.report)
    if not opened.quick:
        store.write_index(opened.report.parent)
    return report


def check(opened: Run) -> None:
    """Raise `UserError` before anything is made for what could not be trained, and for files that an export would delete."""
    from caloedge.fast_simulation.export import refuse_foreign_files
    from caloedge.fast_simulation.trainings import check as check_recipe

    check_recipe(opened.recipe)
    refuse_foreign_files(opened.recipe, opened.artifact)


def train(opened: Run, hardware: Hardware) -> tuple[TrainingShowers, dict[str, TrainedNetwork]]:
    """Make the training showers and train what is not trained yet; return the networks by role."""
    from caloedge.fast_simulation.trainings import TrainingShowers
    from caloedge.fast_simulation.trainings import train as train_all

    check(opened)
    showers = TrainingShowers(opened.library("training"), opened.recipe)
    return showers, train_all(opened.recipe, showers, opened.work / "training", hardware)


def export(opened: Run, hardware: Hardware) -> tuple[Trained, dict[str, nn.Module]]:
    """Train what is not trained yet and write the generator's folder, unless it is there; return it and the torch networks.

    A folder that came with the recipe has no torch networks.
    """
    from caloedge.fast_simulation.export import export as write
    from caloedge.fast_simulation.export import is_there
    from caloedge.fast_simulation.trainings import TrainingShowers

    check(opened)
    showers = TrainingShowers(opened.library("training"), opened.recipe)
    if not (opened.work / "training").exists() and is_there(opened.recipe, opened.path, showers, opened.artifact):
        announce(f"networks: taken from {opened.artifact}")
        return open_trained(opened.artifact), {}
    showers, networks = train(opened, hardware)
    write(opened.recipe, opened.path, showers, networks, opened.artifact)
    return open_trained(find_trained(str(opened.artifact))), {role: one.network for role, one in networks.items()}


def generated(opened: Run, test: ShowerLibrary) -> ShowerLibrary:
    """Return as many generated showers as half of the test library has, made by `simulate` as anyone makes them."""
    recipe = opened.recipe
    trained = open_trained(opened.artifact)
    production = Production(
        geometry=recipe.geometry,
        generator=recipe.generator,
        particle=recipe.particle,
        showers=min(MOST_COMPARED, len(test) // 2),
        min_energy_gev=recipe.min_energy_gev,
        max_energy_gev=recipe.max_energy_gev,
        seed=recipe.seed + 1_000_000,
        zero_below_mev=recipe.zero_below_mev,
        source=str(opened.artifact),
    )
    return made(production, opened.work / f"generated-{trained.digest[:10]}.h5")
