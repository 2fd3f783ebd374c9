"""A recipe: everything that decides an artifact, in one YAML file.

What can be told from the file alone is checked here: numbers are numbers, and none is larger than what any training, device or
file could use. `recipe_check` and `training.preflight` go on with what needs the plug-ins and the built networks.
"""

import json
import os
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeVar

import yaml
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo

from caloedge.catalog import look_beside
from caloedge.errors import BadData, UnknownName, meant
from caloedge.files import read_text, require_regular, write_text
from caloedge.formats.plain_yaml import Unclear, parse


class StrictModel(BaseModel):
    """Part of a recipe: a misspelt key is an error, not a default."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def for_key(self) -> dict[str, Any]:
        """Return all fields that are not at their defaults under the names they had first, for the key of a training."""
        values = self.model_dump(exclude_defaults=True)
        return {_former_name(name, field): values[name] for name, field in type(self).model_fields.items() if name in values}


Page = TypeVar("Page", bound=StrictModel)


def renamed(name: str, former: str) -> AliasChoices:
    """Let recipes give a field its former name, too."""
    return AliasChoices(name, former)


def _former_name(name: str, field: FieldInfo) -> str:
    return str(field.validation_alias.choices[-1]) if isinstance(field.validation_alias, AliasChoices) else name


LEAST_BITS, MOST_BITS = 2, 16
"""Of an activation."""
MOST_EPOCHS, MOST_EVENTS, MOST_BATCH, MOST_VECTORS, MOST_REUSE = 10**6, 10**9, 10**7, 10**6, 10**6
MOST_SEED = 2**32 - 1
"""What every random generator takes."""
MOST_FRACTION = 64
"""Of the input's LSB, as a power of two to either side."""
MAX_RECIPE_BYTES = 2**18


class Schedule(StrictModel):
    """How long and how fast to train; the rate rises linearly, then falls as a cosine to zero."""

    epochs: int = Field(ge=0, le=MOST_EPOCHS)
    events_per_epoch: int = Field(gt=0, le=MOST_EVENTS)
    batch_size: int = Field(gt=0, le=MOST_BATCH)
    learning_rate: float = Field(gt=0, le=1e3)
    warm_up: float = Field(default=0.05, ge=0, lt=1)
    """Share of the steps."""
    relative_rate: bool = False
    """Whether the rate of each tensor of weights is `learning_rate` times their root mean square at the start. Where batch
    normalisation is folded into the layers before it, their weights differ by factors of a hundred."""
    weight_decay: float = Field(default=0.0, ge=0, le=1e3)
    averaging: float = Field(default=0.0, ge=0, lt=1)
    """Decay per step of the exponential average of the weights that a training ends with; 0 for the last weights themselves."""
    fine_tuning_epochs: int = Field(
        default=0, validation_alias=renamed("fine_tuning_epochs", "settle_epochs"), ge=0, le=MOST_EPOCHS
    )
    """Further epochs at a third of the rate, again falling to zero, in which batch normalisation no longer uses each batch's
    statistics but the averages that the trained network will use: batches of few and unequal images differ much from those. A
    quantised network whose channels are split has no normalisation; the weights of most of its layers are rounded before them."""

    @property
    def all_epochs(self) -> int:
        """All epochs, fine-tuning included."""
        return self.epochs + self.fine_tuning_epochs

    @model_validator(mode="after")
    def _has_epochs(self) -> Self:
        if not self.all_epochs:
            raise ValueError("epochs and fine_tuning_epochs are both 0; give one")
        return self


class Training(StrictModel):
    """One schedule per stage; the quantised twin starts from the float edge network."""

    published: Schedule
    edge: Schedule
    quantised: Schedule
    edge_from_published: bool = False
    """Whether the edge network starts from the published network's weights, which then have the same names."""
    edge_teacher: Literal["published"] | None = None
    """Network whose outputs are half of what the edge network learns (arXiv 1503.02531)."""
    quantised_teacher: Literal["published", "edge"] | None = None
    """The same for the quantised network."""
    distil_on_rescaled: bool = Field(default=False, validation_alias=renamed("distil_on_rescaled", "quantised_rescaled"))
    """Whether it learns from its teacher alone on one batch in eight, with regions of events multiplied by random factors, up to
    where they fill the inputs' full scale: it then follows the teacher to where no training event leads."""

    @model_validator(mode="after")
    def _needs_a_teacher(self) -> Self:
        if self.distil_on_rescaled and not self.quantised_teacher:
            raise ValueError("distil_on_rescaled needs a quantised_teacher")
        return self


class Alternative(StrictModel):
    """A further float network on the same data."""

    size: str
    """One of the network's sizes."""
    schedule: Schedule
    teacher: Literal["published", "edge"] | None = None
    """Network whose outputs are half of what is learnt."""


class Quantisation(StrictModel):
    """Bit widths of the edge network; scales are powers of two."""

    weight_bits: int = Field(ge=2, le=8)
    activation_bits: int = Field(ge=2, le=8)
    input_bits: int = Field(ge=2, le=16)
    """Of the digitised input."""
    input_fraction: int = Field(ge=-MOST_FRACTION, le=MOST_FRACTION)
    """The input's LSB is 2**-input_fraction of the task's unit."""
    input_signed: bool = False
    activation_quantile: float = Field(default=0.9999, gt=0, le=1)
    """Largest useful value of each activation, as a quantile on training events: the rarer larger values saturate. A lower
    one makes the step finer where large values are rare."""
    fixed_scales: bool = False
    """Whether the scales of weights and activations stay as they are found on the float network. Trained ones settle where they
    flip between two powers of two, which makes the loss jump; here weights saturate instead."""
    filter_scales: bool = False
    """Whether each filter's weights have a scale of their own; needs `fixed_scales`."""
    split_channels: bool = False
    """Whether a float network with fake-quantised activations is trained instead of the quantised one: channels are scaled to
    like ranges, those that lose most by rounding are split at the cost of others, activations and the weights of narrow layers
    are rounded in training, and those of wide layers after it: see `training.quantisation.qat`. Needs `filter_scales`."""
    layer_bits: dict[str, Annotated[int, Field(ge=LEAST_BITS, le=MOST_BITS)]] = Field(default_factory=dict)
    """Bits of the activations that need others than `activation_bits`, by the name of the layer in the network."""
    headroom: dict[str, Annotated[float, Field(ge=1, le=2**16)]] = Field(default_factory=dict)
    """Full scale of activations in units of their largest useful values, by the name of the layer, where channels are split: for
    inputs that exceed those of training."""

    @property
    def input_full_scale(self) -> float:
        """Inputs stay below it."""
        return float(2.0 ** (self.input_bits - self.input_signed - self.input_fraction))

    @property
    def activations(self) -> str:
        """What the activations have, in words."""
        others = ", ".join(f"{name} {bits}" for name, bits in self.layer_bits.items())
        return f"{self.activation_bits}-bit activations" + (f" ({others})" if others else "")

    def of_width(self, bits: int) -> "Quantisation":
        """Return the same with `bits` for weights and activations; single layers keep as many bits more or less than the others.

        >>> of = dict(weight_bits=6, activation_bits=6, input_bits=8, input_fraction=7, layer_bits={"conv_1_act": 8})
        >>> Quantisation(**of).of_width(4).activations
        '4-bit activations (conv_1_act 6)'
        """
        more = bits - self.activation_bits
        others = {name: min(max(LEAST_BITS, of + more), MOST_BITS) for name, of in self.layer_bits.items()}
        return self.model_copy(update={"weight_bits": bits, "activation_bits": bits, "layer_bits": others})

    @model_validator(mode="after")
    def _filters_are_fixed(self) -> Self:
        if self.filter_scales and not self.fixed_scales:
            raise ValueError("filter_scales needs fixed_scales: true")
        if self.split_channels and not self.filter_scales:
            raise ValueError("split_channels needs filter_scales: true")
        if self.headroom and not self.split_channels:
            raise ValueError("headroom needs split_channels: true")
        return self


class LayerChoice(StrictModel):
    """How firmware builds one layer, where the backend's own rule is not wanted."""

    strategy: Literal["unrolled", "streaming"] | None = None
    reuse: int | None = Field(default=None, ge=1, le=MOST_REUSE)
    """Streaming: clock cycles for which each multiplier is used, per event (dense) or per kernel position (convolution)."""


class Tradeoff(StrictModel):
    """What `caloedge tradeoff` compares beside the recipe's own networks and its alternatives."""

    bits: tuple[Annotated[int, Field(ge=2, le=8)], ...] = (8, 6, 5, 4, 3)
    """Further widths of weights and activations; those of single layers differ from them by as much as in the recipe."""
    schedule: Schedule | None = None
    """Training of each of these, where it is not to be as long as that of the quantised network."""
    reuse: tuple[Annotated[int, Field(ge=2, le=MOST_REUSE)], ...] = Field(default=(), validation_alias=renamed("reuse", "folds"))
    """Clock cycles for which the streaming firmware uses each multiplier of a convolution per pixel."""
    synthesised_reuse: tuple[int, ...] = Field(default=(), validation_alias=renamed("synthesised_reuse", "synthesised_folds"))
    """Those of `reuse` that are synthesised, too."""

    @model_validator(mode="after")
    def _synthesises_what_is_built(self) -> Self:
        if unknown := [factor for factor in self.synthesised_reuse if factor not in self.reuse]:
            raise ValueError(f"synthesised_reuse names {unknown[0]}, which is not one of reuse")
        return self


class Evaluation(StrictModel):
    """How many composed events the figures rest on."""

    events: int = Field(gt=0, le=MOST_EVENTS)
    """Test events."""
    valid_events: int = Field(gt=0, le=MOST_EVENTS)
    """Validation events, on which working points are set."""


class Recipe(StrictModel):
    """Task, network, data, training, quantisation and the firmware projects to build."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", max_length=100)
    task: str
    network: str
    library: str
    """Name of a shipped shower library, or a path relative to the recipe."""
    seed: int = Field(ge=0, le=MOST_SEED)
    training: Training
    edge_size: str = "edge"
    """One of the network's sizes: the one that goes to firmware."""
    alternatives: dict[str, Alternative] = Field(default_factory=dict, validation_alias=renamed("alternatives", "rivals"))
    """For `caloedge tradeoff`, by name. The artifact keeps their records, and weights of up to a million parameters."""
    reference_from: str | None = None
    """Folder of an artifact, relative to the recipe, whose published network is taken instead of training one."""
    rehearsal_of: str | None = None
    """Name of the recipe of which this is a rehearsal: trained for a moment on few events, to see that all of it runs."""
    quantisation: Quantisation
    tradeoff: Tradeoff = Tradeoff()
    golden_vectors: int = Field(default=1024, ge=10, le=MOST_VECTORS)
    """Inputs; together they have at least 1,000 output codes."""
    evaluation: Evaluation
    target: str = "xcvu13p"
    builds: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Variants to build, by backend."""
    synthesis: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    """Variants of backend `rtl` to synthesise, by target; those whose family can be routed are routed."""
    route_limit_s: float = Field(default=3600.0, gt=0, le=1e7)
    """Place and route gets no more time than this per design."""
    layers: dict[str, LayerChoice] = Field(default_factory=dict)
    """By layer name as `caloedge compile` prints it; for variants that leave the choice to the recipe."""

    @property
    def plugins(self) -> tuple[str, ...]:
        """Every task, network, target and backend that it names."""
        return (self.task, self.network, self.target, *self.builds, *self.synthesis)


REHEARSED_EVENTS, REHEARSED_JUDGED = 20, 10
"""One event in so many is trained on, and one in so many judged, in a rehearsal."""


def rehearsal(recipe: Recipe) -> Recipe:
    """Return the rehearsal of a recipe: one short epoch per stage, few events, one project per backend and no synthesis."""

    def short(of: Schedule) -> Schedule:
        events = min(of.events_per_epoch, max(of.batch_size, of.events_per_epoch // REHEARSED_EVENTS))  # they fill a batch
        few = {"epochs": min(1, of.epochs), "fine_tuning_epochs": min(1, of.fine_tuning_epochs), "events_per_epoch": events}
        return of.model_copy(update=few)

    stages = {stage: short(getattr(recipe.training, stage)) for stage in ("published", "edge", "quantised")}
    judged = recipe.evaluation
    return recipe.model_copy(
        update={
            "name": f"{recipe.name}_rehearsal",
            "rehearsal_of": recipe.name,
            "training": recipe.training.model_copy(update=stages),
            "alternatives": {},
            "tradeoff": Tradeoff(),
            "evaluation": Evaluation(
                events=max(1, judged.events // REHEARSED_JUDGED), valid_events=max(1, judged.valid_events // REHEARSED_JUDGED)
            ),
            "builds": {backend: variants[-1:] for backend, variants in recipe.builds.items()},
            "synthesis": {},
        }
    )


def write_recipe(recipe: Recipe, path: Path, base: Path, place: Path) -> None:
    """Write a recipe to `path`; what it names relative to the folder `base` is named relative to the folder `place`."""
    moved: dict[str, str] = {}
    if Path(recipe.library).suffix:
        moved["library"] = os.path.relpath(base / recipe.library, place)
    if recipe.reference_from:
        moved["reference_from"] = os.path.relpath(base / recipe.reference_from, place)
    values = recipe.model_dump(mode="json", exclude={"tradeoff"}, exclude_defaults=True) | moved
    write_text(path, yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


GENERATOR_RECIPE = "generator.yaml"
"""Of a trained generator: see `fast_simulation.recipe`."""


def find_recipe(name: str | Path) -> Path:
    """Return the recipe's path from a path, a model folder, or the name of a folder in ./models."""
    for path in (Path(name), Path(name) / "recipe.yaml", Path("models") / name / "recipe.yaml"):
        if path.is_file() and path.name != GENERATOR_RECIPE:
            return path
    for path in (Path(name), Path(name) / GENERATOR_RECIPE, Path("models") / name / GENERATOR_RECIPE):
        if path.is_file() and path.name == GENERATOR_RECIPE:
            raise BadData(f"{path}: is the recipe of a generator of showers; run, train and export take it, not this command")
    known = sorted(p.parent.name for file in ("recipe.yaml", GENERATOR_RECIPE) for p in Path("models").glob(f"*/{file}"))
    raise UnknownName(
        f"no recipe {str(name)!r}{meant(str(name), known)}; give a YAML file, a folder with recipe.yaml, or a model in ./models: "
        + (", ".join(known) or "none")
    )


def read_recipe(path: Path) -> Recipe:
    """Read and check a recipe; complaints name the file and the field. Its own plug-ins may lie beside it."""
    recipe = read_page(path, Recipe, "caloedge/recipe.py")
    look_beside(path.parent, recipe.plugins)
    return recipe


def read_page(path: Path, kind: type[Page], described_in: str) -> Page:
    """Read and check a page of YAML as a model; complaints name the file, the field and where fields are described."""
    try:
        require_regular(path)
        if path.stat().st_size > MAX_RECIPE_BYTES:
            raise BadData(f"{path}: more than {MAX_RECIPE_BYTES >> 10} KiB; a recipe is a page of YAML")
        # Types are strict, as JSON's: `true` is no number, and "8" no integer.
        return kind.model_validate_json(json.dumps(parse(read_text(path))), strict=True)
    except OSError as problem:
        raise BadData(f"{path}: cannot be read ({problem.strerror})") from None
    except Unclear as problem:
        raise BadData(f"{path}: {problem}") from None
    except yaml.YAMLError as problem:
        raise BadData(f"{path}: not YAML ({' '.join(str(problem).split())})") from None
    except ValidationError as problem:
        first = problem.errors()[0]
        field = ".".join(str(part) for part in first["loc"]) or "the file"
        raise BadData(f"{path}: {field}: {first['msg']}; see the fields in {described_in}") from None
