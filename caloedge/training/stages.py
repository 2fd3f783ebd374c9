"""The three trainings of a recipe: the published float network, the float edge network, and its quantised twin.

The twin starts from the float edge network's weights, its activation ranges from that network on training events.
Alternatives are further float networks on the same data.
"""

import copy
import hashlib
import json
import math
import pickle
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor, nn

from caloedge.arithmetic import SCALE, FloatArithmetic
from caloedge.artifact import STAGES, TrainingRecord, finished_record, finished_training, read_artifact
from caloedge.catalog import Library, Loss, Network, Task, find
from caloedge.computer import computer
from caloedge.errors import BadData, UnknownName, UserError, meant
from caloedge.files import locked, replacing, write_text
from caloedge.recipe import Recipe, Schedule
from caloedge.training import preflight
from caloedge.training.distillation import DRAW_VERSION, Distillation
from caloedge.training.fit import Hardware, fit, steps_per_epoch, valid_loss
from caloedge.training.quantisation.qat import (
    PROCEDURE_VERSION,
    check_names,
    fake_quantised,
    freeze_small_layers,
    from_fake_quantised,
    quantised,
    twin,
)

CALIBRATION_SHARE = 2
"""Events on which ranges of activations are taken, as a multiple of those of validation."""
PROBE_EVENTS = 200
"""Events of the task by which keys tell its data apart: another number would change all keys."""
FORECAST_EVENTS = 200
RECORD = "stage.json"
SAME_LOSS = 1e-4
"""Relative difference of validation losses up to which weights are those of a record: older records took the published network's
before its weights were rounded to half precision, which moves it by less."""
Start = Callable[[], nn.Module]
Change = Callable[[nn.Module], nn.Module]


@dataclass(frozen=True)
class Trained:
    """A trained network with the record of its training."""

    network: nn.Module
    record: TrainingRecord


def weights_of(network: nn.Module) -> dict[str, NDArray[Any]]:
    """Return parameters and quantiser scales as arrays."""
    return {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}


def n_parameters(network: nn.Module, *, statistics: bool = True) -> int:
    """Return the number of weights without scales of quantisers, by default with the statistics of batch normalisation."""
    values = [*network.named_parameters(), *network.named_buffers()]
    kept = [value for name, value in values if isinstance(value, nn.Parameter) or (statistics and "running_" in name)]
    scales = sum(value.numel() for name, value in network.named_parameters() if SCALE in name)
    return sum(value.numel() for value in kept) - scales


def build_network(recipe: Recipe, stage: str, weights: dict[str, NDArray[Any]] | None = None) -> nn.Module:
    """Build the network of one stage or alternative, with weights loaded if they are given (all of them, by name)."""
    arithmetic = quantised(recipe.quantisation) if stage == "quantised" else FloatArithmetic()
    network: nn.Module = find(Network, recipe.network).build(arithmetic, _size(recipe, stage))
    if weights is not None:
        load_weights(network, weights)
    return network.eval()


def load_weights(network: nn.Module, weights: Mapping[str, NDArray[Any]]) -> None:
    """Load parameters and quantiser scales, all of them, by name."""
    network.load_state_dict({name: torch.from_numpy(values.astype(np.float32)) for name, values in weights.items()})


def _size(recipe: Recipe, stage: str) -> Any:
    """Return the size of the network of one stage or alternative."""
    sizes = find(Network, recipe.network).sizes
    name = (
        recipe.alternatives[stage].size
        if stage in recipe.alternatives
        else "published"
        if stage == "published"
        else recipe.edge_size
    )
    if name not in sizes:
        raise UnknownName(f"network {recipe.network!r} has no size {name!r}{meant(name, sizes)}; there are: {', '.join(sizes)}")
    return sizes[name]


def train(
    recipe: Recipe,
    library: Library,
    folder: Path,
    hardware: Hardware,
    base: Path,
    alternatives: Iterable[str] = (),
    artifacts: Iterable[Path] = (),
) -> dict[str, Trained]:
    """Run the stages and the named alternatives that are not finished yet; return them, and other finished alternatives.

    A training is finished in `folder`, in `base`, the folder of the recipe, if there is an artifact, or in other artifacts.
    """
    alternatives, artifacts = tuple(alternatives), (base, *artifacts)
    check(recipe, library, hardware, alternatives)
    trained: dict[str, Trained] = {}
    for stage in (*STAGES, *recipe.alternatives):
        if stage == "published" and recipe.reference_from:
            trained[stage] = published_of(recipe, base)
            continue
        plan = plan_stage(recipe, stage, library, {name: one.network for name, one in trained.items()})
        if found := finished(recipe, plan, library, folder, artifacts):
            trained[stage], _ = found
        elif stage in STAGES or stage in alternatives:
            # Of the processes of one training on several devices, the first one holds the lock for all.
            with locked(plan.place(folder)) if getattr(rank_zero_only, "rank", 0) == 0 else nullcontext():
                trained[stage] = _train_stage(recipe, plan, library, folder, hardware)
    if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
        sys.exit(0)  # Lightning starts the same command once per further device; only the first goes on
    return trained


def published_of(recipe: Recipe, base: Path) -> Trained:
    """Return the published network that a recipe takes from another artifact, which lies beside the recipe's folder `base`."""
    assert recipe.reference_from
    artifact = read_artifact(base / recipe.reference_from)
    return Trained(build_network(recipe, "published", artifact.weights("published")), artifact.manifest.stages["published"])


def stored_records(
    recipe: Recipe, library: Library, trained: Mapping[str, Trained], artifacts: Sequence[Path]
) -> dict[str, TrainingRecord]:
    """Return the records of alternatives that an artifact was made with, still are this recipe's, and are not among `trained`.

    The weights of large alternatives are not stored, so that they cannot be taken over as `train` does.
    """
    networks = {stage: one.network for stage, one in trained.items()}
    keys = {stage: plan_stage(recipe, stage, library, networks).key for stage in recipe.alternatives if stage not in trained}
    finished = ((stage, finished_record(artifact, stage, key)) for artifact in artifacts for stage, key in keys.items())
    return {stage: record for stage, record in finished if record}


def check(recipe: Recipe, library: Library, hardware: Hardware, alternatives: Iterable[str]) -> None:
    """Raise `UserError` before anything is trained that could not be used, or that the recipe does not name."""
    alternatives = tuple(alternatives)
    if unknown := [name for name in alternatives if name not in recipe.alternatives]:
        known = ", ".join(recipe.alternatives) or "none"
        hint = meant(unknown[0], recipe.alternatives)
        raise UnknownName(f"recipe {recipe.name!r} has no alternative {unknown[0]!r}{hint}; there are: {known}")
    trained = ("edge", *(() if recipe.reference_from else ("published",)), *alternatives)
    networks = {stage: build_network(recipe, stage) for stage in trained}
    check_names(networks["edge"], recipe.quantisation)
    task = find(Task, recipe.task)
    for stage in (*STAGES, *recipe.alternatives):
        if teacher_of(recipe, stage) and not find(Loss, task.loss).distillable:
            raise UserError(
                f"recipe {recipe.name!r}: {stage} has a teacher, but outputs are no targets of its loss, {task.loss!r};"
                " leave it out"
            )
    preflight.check(recipe, task, library, networks, hardware)


def teacher_of(recipe: Recipe, stage: str) -> str | None:
    """Return the stage whose network teaches a stage or alternative, if one does."""
    if stage in recipe.alternatives:
        return recipe.alternatives[stage].teacher
    return {"edge": recipe.training.edge_teacher, "quantised": recipe.training.quantised_teacher}.get(stage)


def comes_from(recipe: Recipe, stage: str) -> set[str]:
    """Return the stages whose networks a stage or alternative needs before its own training."""
    found = {teacher} if (teacher := teacher_of(recipe, stage)) else set()
    if stage == "quantised":
        found.add("edge")
    if stage == "edge" and recipe.training.edge_from_published:
        found.add("published")
    return found


@dataclass(frozen=True)
class StagePlan:
    """A training that is ready to start, or finished somewhere."""

    stage: str
    task: Task
    schedule: Schedule
    network: nn.Module
    """Of the finished stage, with any weights."""
    start: Start
    """Makes what is trained."""
    probe: Start
    """Makes a network of which a training step takes as long, quickly."""
    freeze: Change | None
    """Makes what is fine-tuned of what was trained before, if it is another network."""
    finish: Change
    """Makes the network of the stage of what was trained."""
    distillation: Distillation | None
    key: str
    """Digest of all that decides the result: another recipe, task or library never continues or takes over this training."""

    def place(self, folder: Path) -> Path:
        """Return where its checkpoints and its result lie in a folder of trainings."""
        return folder / f"{self.stage}-{self.key}"


def plan_stage(recipe: Recipe, stage: str, library: Library, networks: Mapping[str, nn.Module]) -> StagePlan:
    """Make the training of a stage or alternative ready, given the networks of the stages that it comes from."""
    task = find(Task, recipe.task)
    alternative = recipe.alternatives.get(stage)
    schedule: Schedule = alternative.schedule if alternative else getattr(recipe.training, stage)
    torch.manual_seed(recipe.seed)
    network = build_network(recipe, stage)
    start, probe, freeze, finish = (lambda: network), (lambda: network), None, (lambda trained: trained)
    # Without the fields at their defaults, so that a new field keeps the keys of what is trained; no default may be changed.
    key: dict[str, Any] = {"schedule": schedule.for_key(), "library": library.digest, "seed": recipe.seed}
    key |= {
        "network": recipe.network,
        "shape": str(network),
        "loss": task.loss.replace("_", " "),  # as losses were once called
        "data": _probe(task, library, stage, recipe.seed),
    }
    if stage == "quantised":
        edge = networks["edge"]
        start, probe, freeze, finish = _quantised(recipe, task, library, edge)
        key |= {"rehearsal": PROCEDURE_VERSION} if recipe.quantisation.split_channels else {}
        key |= {"quantisation": recipe.quantisation.for_key(), "from": _digest(weights_of(edge))}
    if stage == "edge" and recipe.training.edge_from_published:
        network.load_state_dict(networks["published"].state_dict())
        key |= {"from": _digest(weights_of(networks["published"]))}
    taught_by = teacher_of(recipe, stage)
    distillation = _distillation(recipe, stage, networks[taught_by]) if taught_by else None
    if distillation:
        key |= {"teacher": _digest(weights_of(distillation.teacher))}
        if distillation.full_scale is not None:
            key |= {"alone": DRAW_VERSION, "full scale": distillation.full_scale}
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]
    return StagePlan(stage, task, schedule, network, start, probe, freeze, finish, distillation, digest)


def _distillation(recipe: Recipe, stage: str, teacher: nn.Module) -> Distillation:
    """Return how a stage or alternative learns from another network."""
    rescaled = stage == "quantised" and recipe.training.distil_on_rescaled
    return Distillation(teacher, full_scale=recipe.quantisation.input_full_scale if rescaled else None)


def _quantised(recipe: Recipe, task: Task, library: Library, edge: nn.Module) -> tuple[Start, Start, Change | None, Change]:
    """Return how the training of the quantised network begins, a probe of it, what freezes a part of it, and what ends it."""
    of = recipe.quantisation

    def build(arithmetic: Any) -> nn.Module:
        made: nn.Module = find(Network, recipe.network).build(arithmetic, _size(recipe, "quantised"))
        return made

    def inputs(events: int = CALIBRATION_SHARE * task.valid_events) -> Tensor:
        return torch.from_numpy(task.sample(library, "train", events, recipe.seed).inputs)

    if of.split_channels:
        return (
            lambda: fake_quantised(build, of, edge, inputs()),
            lambda: fake_quantised(build, of, edge, inputs(FORECAST_EVENTS)),
            lambda trained: freeze_small_layers(trained, inputs(), of.weight_bits),
            lambda trained: from_fake_quantised(build, of, trained, inputs()),
        )

    def start() -> nn.Module:
        return twin(build, of, edge, inputs())

    return start, start, None, lambda trained: trained


def _train_stage(recipe: Recipe, plan: StagePlan, library: Library, folder: Path, hardware: Hardware) -> Trained:
    task, schedule, network, place = plan.task, plan.schedule, plan.start(), plan.place(folder)
    of: dict[str, Any] = {"stage": plan.stage, "seed": recipe.seed, "hardware": hardware, "distillation": plan.distillation}
    before = schedule.model_copy(update={"fine_tuning_epochs": 0}) if plan.freeze else schedule
    curve = fit(network, task, library, before, place, **of) if before.all_epochs else []
    if plan.freeze and schedule.fine_tuning_epochs:
        network = plan.freeze(network)
        then = schedule.model_copy(update={"epochs": 0})
        curve += fit(network, task, library, then, place / "settling", first_epoch=schedule.epochs, **of)
    network = plan.finish(network)
    if plan.stage == "published":
        _round_to_half(network)
    record = TrainingRecord(
        **_size_of_training(recipe, plan, library, network),
        seconds=sum(point["seconds"] for point in curve),
        train_loss=curve[-1]["train_loss"],
        valid_loss=valid_loss(network, task, library, plan.stage, recipe.seed),
        curve=tuple(curve),
        hardware=f"{computer()}; {hardware.devices} × {hardware.accelerator}, {hardware.precision}",
        key=plan.key,
    )
    with replacing(place / "weights.pt") as temporary:
        torch.save(network.state_dict(), temporary)
    write_text(place / RECORD, record.model_dump_json(indent=1))
    return Trained(network.eval(), record)


def _size_of_training(recipe: Recipe, plan: StagePlan, library: Library, network: nn.Module) -> dict[str, int]:
    """Return what the record of a training says of its size."""
    of = plan.schedule
    return {
        "parameters": n_parameters(network, statistics=find(Network, recipe.network).counts_statistics),
        "epochs": of.all_epochs,
        "windows_seen": steps_per_epoch(plan.task, library, of) * of.batch_size * of.all_epochs,
    }


@torch.no_grad()
def _round_to_half(network: nn.Module) -> None:
    """Give the published network the weights that its artifact stores: half precision halves a large file."""
    for values in network.state_dict().values():
        if values.ndim > 1:
            values.copy_(values.half())


def _probe(task: Task, library: Library, stage: str, seed: int) -> str:
    """Return a few figures of what a task makes of some events: most changes of the task's code show in them.

    They are rounded, because processors differ in the last bits of functions such as the exponential.
    """
    sample = task.sample(library, "train", PROBE_EVENTS, seed)
    arrays = (sample.inputs_of(stage), sample.targets)
    return "; ".join(f"{values.shape} {values.mean(dtype=float):.4g} {values.std(dtype=float):.4g}" for values in arrays)


def finished(
    recipe: Recipe, plan: StagePlan, library: Library, folder: Path, artifacts: Iterable[Path]
) -> tuple[Trained, Path] | None:
    """Return a training that ended earlier, here or where an artifact was made, and that place."""
    place = plan.place(folder)
    if (place / RECORD).exists():
        try:
            plan.network.load_state_dict(torch.load(place / "weights.pt", weights_only=True))
            return Trained(plan.network.eval(), TrainingRecord.model_validate_json((place / RECORD).read_text())), folder
        except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as problem:
            line = " ".join(str(problem).split())[:200]
            raise BadData(f"{place}: the finished training cannot be read ({line}); remove the folder to train again") from None
    for artifact in artifacts:
        if found := finished_training(artifact, plan.stage, plan.key):
            weights, record = found
            load_weights(plan.network, weights)
            return Trained(plan.network.eval(), record), artifact
        if proven := _proven(recipe, plan, library, artifact):
            return proven, artifact
    return None


def _proven(recipe: Recipe, plan: StagePlan, library: Library, folder: Path) -> Trained | None:
    """Return a stage from an artifact that was made before trainings had keys, with its key, if it is just this training.

    Recipe and library must be the artifact's own, the training as long and the network as large as recorded, and on today's
    validation events the stored weights must have the recorded loss.
    """
    if not (found := finished_training(folder, plan.stage, key="")):
        return None
    weights, record = found
    try:
        artifact = read_artifact(folder)
    except BadData:
        return None  # its recipe was edited since
    if artifact.recipe != recipe or artifact.manifest.library["sha256"] != library.digest:
        return None
    network = copy.deepcopy(plan.network)
    try:
        load_weights(network, weights)
    except RuntimeError:
        return None  # weights of other layers
    loss = valid_loss(network, plan.task, library, plan.stage, recipe.seed)
    size = _size_of_training(recipe, plan, library, network)
    if size != record.model_dump(include=set(size)) or not math.isclose(loss, record.valid_loss, rel_tol=SAME_LOSS):
        return None
    return Trained(network.eval(), record.model_copy(update={"key": plan.key, "valid_loss": loss}))


def _digest(weights: dict[str, NDArray[Any]]) -> str:
    return hashlib.sha256(b"".join(values.tobytes() for values in weights.values())).hexdigest()
