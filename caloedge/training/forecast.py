"""What a training will do, and how long that takes on this computer: measured on a few steps, and said before it begins."""

import copy
import math
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from caloedge.artifact import STAGES
from caloedge.catalog import Library
from caloedge.progress import about
from caloedge.recipe import Recipe
from caloedge.training.fit import FUSED, PROBE_EVENTS, Hardware, Learner, epochs_done, parameter_groups, predict, steps_per_epoch
from caloedge.training.stages import StagePlan, check, comes_from, finished, plan_stage, published_of

HINTED_S = 60.0
MEASURED_S, FEWEST_STEPS, MOST_STEPS = 2.0, 2, 20
"""How long steps are measured, after one that warms up, and how many there are."""
VALIDATION_PART = 8
"""One in so many inputs of validation is measured."""


@dataclass(frozen=True)
class Forecast:
    """What is finished, and what will be trained."""

    taken: Mapping[str, Path]
    """Where each finished stage or alternative lies."""
    seconds: Mapping[str, float]
    """Estimated time of each training that is still to be done."""

    def lines(self, hint: str = "") -> list[str]:
        """Return one line for each place from which something is taken, one for each training, and one for several together.

        The last one is followed by a hint where all takes more than a minute.
        """
        stages_at: dict[Path, list[str]] = {}
        for stage, place in self.taken.items():
            stages_at.setdefault(place, []).append(stage)
        lines = [f"{', '.join(stages)}: taken from {place}" for place, stages in stages_at.items()]
        lines += [f"training {stage}: about {about(seconds)} on this computer" for stage, seconds in self.seconds.items()]
        total_s = sum(self.seconds.values())
        if len(self.seconds) > 1:
            lines.append(f"all trainings together: about {about(total_s)}")
        if hint and total_s > HINTED_S:
            lines[-1] += f"; {hint}"
        return lines


def together(forecasts: Mapping[str, Forecast]) -> Forecast:
    """Join forecasts that differ in the quantised network only, which is called by the name given to each."""
    taken: dict[str, Path] = {}
    seconds: dict[str, float] = {}
    for name, one in forecasts.items():
        taken |= {_called(stage, name): place for stage, place in one.taken.items()}
        seconds |= {_called(stage, name): needed for stage, needed in one.seconds.items()}
    return Forecast(taken, seconds)


def _called(stage: str, name: str) -> str:
    return f"{stage} at {name}" if stage == "quantised" else stage


def forecast(
    recipe: Recipe,
    library: Library,
    folder: Path,
    hardware: Hardware,
    base: Path,
    alternatives: Iterable[str] = (),
    artifacts: Iterable[Path] = (),
) -> Forecast:
    """Tell what `stages.train` will do with the same arguments; train nothing.

    A stage that comes from one that is still to be trained is counted as to be trained itself, and measured on untrained weights.
    """
    alternatives = tuple(alternatives)
    check(recipe, library, hardware, alternatives)
    taken: dict[str, Path] = {}
    seconds: dict[str, float] = {}
    networks: dict[str, nn.Module] = {}
    for stage in (*STAGES, *recipe.alternatives):
        if stage == "published" and recipe.reference_from:
            networks[stage], taken[stage] = published_of(recipe, base).network, base / recipe.reference_from
            continue
        asked = stage in STAGES or stage in alternatives
        if not asked:
            continue
        plan = plan_stage(recipe, stage, library, networks)
        found = None if comes_from(recipe, stage) & set(seconds) else finished(recipe, plan, library, folder, (base, *artifacts))
        if found:
            networks[stage], taken[stage] = found[0].network, found[1]
        else:
            networks[stage], seconds[stage] = plan.network.eval(), duration_s(recipe, plan, library, folder, hardware)
    return Forecast(taken, seconds)


def duration_s(recipe: Recipe, plan: StagePlan, library: Library, folder: Path, hardware: Hardware) -> float:
    """Estimate how long one training takes on this computer, in seconds: epochs that are done already do not count."""
    task, schedule = plan.task, plan.schedule
    last, settling = plan.place(folder) / "last.ckpt", plan.place(folder) / "settling" / "last.ckpt"
    done = sum(epochs_done(path) for path in (last, settling) if path.exists())
    steps, events = steps_per_epoch(task, library, schedule), min(schedule.events_per_epoch, PROBE_EVENTS)
    start = time.perf_counter()
    sample = task.sample(library, "train", events, recipe.seed)
    event_s = (time.perf_counter() - start) / events
    with torch.random.fork_rng(devices=[]):  # what is measured must not change what is trained
        network = copy.deepcopy(plan.probe())
        size = max(1, min(len(sample.inputs), schedule.batch_size // hardware.devices))
        batch = (torch.from_numpy(sample.inputs_of(plan.stage)[:size]), torch.from_numpy(sample.targets[:size]))
        step_s = _step_s(Learner(network, task, schedule, steps, plan.distillation), batch, hardware)
    step_s *= schedule.batch_size / hardware.devices / size  # where the probe has fewer inputs than a batch
    inputs = torch.from_numpy(task.sample(library, "valid", task.valid_events, recipe.seed).inputs_of(plan.stage))
    part = inputs[: max(1, len(inputs) // VALIDATION_PART)]
    start = time.perf_counter()
    predict(network.eval(), part)
    valid_s = (time.perf_counter() - start) * len(inputs) / len(part)
    epoch_s = steps * step_s + schedule.events_per_epoch / hardware.devices * event_s + valid_s
    return max(0, schedule.all_epochs - done) * epoch_s + valid_s


def _step_s(learner: Learner, batch: tuple[torch.Tensor, torch.Tensor], hardware: Hardware) -> float:
    """Return the time of one training step in seconds: the median of a few."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from lightning import Fabric

        fabric = Fabric(accelerator=hardware.accelerator, devices=1, precision=hardware.precision)  # type: ignore[arg-type]
        groups = parameter_groups(learner.network, learner.schedule)
        optimiser = torch.optim.AdamW(groups, lr=learner.schedule.learning_rate, fused=fabric.device.type in FUSED)
        learner.train()
        model, stepper = fabric.setup(learner, optimiser)
        model.mark_forward_method("training_step")
        inputs, targets = (values.to(fabric.device) for values in batch)
        seconds: list[float] = []
        first = math.inf
        while len(seconds) <= FEWEST_STEPS or (time.perf_counter() - first < MEASURED_S and len(seconds) <= MOST_STEPS):
            start = time.perf_counter()
            if not seconds:
                first = start
            loss = model.training_step((inputs, targets), 0)
            fabric.backward(loss)
            stepper.step()
            stepper.zero_grad()
            seconds.append(float(loss.detach()) * 0 + time.perf_counter() - start)  # reading the loss waits for the device
    return sorted(seconds[1:])[len(seconds[1:]) // 2]
