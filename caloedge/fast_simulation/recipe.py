"""The recipe of a trained generator: one YAML file that decides its showers, networks and trainings."""

from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from caloedge.errors import UserError
from caloedge.generation.trained import Sampler
from caloedge.production import Production
from caloedge.recipe import GENERATOR_RECIPE, MOST_EVENTS, MOST_SEED, Schedule, StrictModel, read_page

MOST_COMPARED = 10_000
"""Generated showers, and showers in each half of the test library."""


class ShowerSource(StrictModel):
    """Showers to be made by Geant4, or a library that is there."""

    seed: int = Field(default=1, ge=0, le=MOST_SEED)
    showers: int = Field(default=10_000, ge=200, le=MOST_EVENTS)
    library: str = ""
    """Name of a shipped library, or a path relative to the recipe; empty to make one, in the folder of the run."""


class NetworkRecipe(StrictModel):
    """One network of a generator, and how it is trained."""

    network: str
    """A key of `generative.build.ARCHITECTURES`."""
    options: dict[str, Any] = Field(default_factory=dict)
    schedule: Schedule


class GeneratorRecipe(StrictModel):
    """A generator, what it learns from, and how showers are drawn."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)
    generator: str
    geometry: str
    particle: str = "gamma"
    min_energy_gev: float = Field(default=1.0, gt=0)
    max_energy_gev: float = Field(default=100.0, gt=0)
    zero_below_mev: float = Field(gt=0)
    """Cells below it are empty."""
    seed: int = Field(ge=0, le=MOST_SEED)
    training: ShowerSource
    """The last fifth is for validation."""
    test: ShowerSource
    """Seen by no training and no choice."""
    layer_scale_mev: float = Field(gt=0)
    """Layers with far less energy are as good as empty."""
    cell_scale_mev: float = Field(gt=0)
    """The same for cells."""
    networks: dict[str, NetworkRecipe]
    sampler: Sampler = Sampler()
    layer_cuts_mev: tuple[NonNegativeFloat, ...] = (0.0,)
    """Among which `sampler.layer_cut_mev` is chosen on validation showers."""
    cell_cuts: tuple[NonNegativeFloat, ...] = (0.0,)
    """Among which `sampler.cell_cut` is chosen on validation showers."""
    steps: tuple[PositiveInt, ...] = ()
    """Further numbers of steps that the page compares."""

    @model_validator(mode="after")
    def _has_one_cut(self) -> Self:
        for name in ("layer_cuts_mev", "cell_cuts"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; give at least one")
        return self

    @model_validator(mode="after")
    def _tests_on_others(self) -> Self:
        both = (self.training, self.test)
        if not any(of.library for of in both) and self.training.seed == self.test.seed:
            raise ValueError("training and test have one seed, so that their showers are the same; give test another one")
        if self.min_energy_gev >= self.max_energy_gev:
            raise ValueError("min_energy_gev is not below max_energy_gev; give a range")
        return self

    def production(self, showers: ShowerSource) -> Production:
        """Return what makes the showers of training or test."""
        return Production(
            geometry=self.geometry,
            particle=self.particle,
            showers=showers.showers,
            min_energy_gev=self.min_energy_gev,
            max_energy_gev=self.max_energy_gev,
            seed=showers.seed,
            zero_below_mev=self.zero_below_mev,
        )


def parametrised(recipe: GeneratorRecipe) -> Production | None:
    """Return how the parametrisation makes as many showers as are compared; None where it knows no such showers."""
    try:
        return replace(
            recipe.production(recipe.test),
            generator="parametrised",
            showers=min(MOST_COMPARED, recipe.test.showers // 2),
            seed=recipe.seed + 2_000_000,
        )
    except UserError:
        return None


def find_generator(name: str) -> Path | None:
    """Return the recipe of a generator by file, folder or name of a folder in ./models; None for what is none."""
    for path in (Path(name) / GENERATOR_RECIPE, Path("models") / name / GENERATOR_RECIPE):
        if path.is_file():
            return path
    return Path(name) if Path(name).name == GENERATOR_RECIPE and Path(name).is_file() else None


def read_generator(path: Path) -> GeneratorRecipe:
    """Read and check a recipe; complaints name the file and the field."""
    return read_page(path, GeneratorRecipe, "caloedge/fast_simulation/recipe.py")
