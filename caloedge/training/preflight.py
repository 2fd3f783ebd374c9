"""Check that a recipe's networks fit its task, its data and the memory there is, before anything is trained."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from caloedge.catalog import Library, Loss, Sample, Task, find
from caloedge.computer import available_memory_bytes
from caloedge.errors import UnknownName, UserError
from caloedge.recipe import Recipe, Schedule
from caloedge.training.fit import Hardware

PROBE_EVENTS = 100
"""From which inputs per event are taken."""
BYTES = 4
"""Of a number in training."""
KEPT = 2
"""Copies of an activation in training: itself and its gradient."""
LAYERS = {"conv": nn.Conv2d, "dense": nn.Linear}
"""Layers of the exported network by the kind in their name, in whose order they are counted."""


def check(recipe: Recipe, task: Task, library: Library, networks: Mapping[str, nn.Module], hardware: Hardware) -> None:
    """Raise `UserError` where a network, by stage or alternative, does not fit the task, or sizes do not fit data or memory.

    Memory is estimated from one event: what lacks here by far would end a training in the middle.
    """
    sample = task.sample(library, "train", PROBE_EVENTS, 0)
    per_event = len(sample.inputs) / PROBE_EVENTS
    bytes_of_input = _bytes_of_input(sample)
    for field in ("events", "valid_events"):
        events = getattr(recipe.evaluation, field)
        _require_memory(recipe, f"evaluation.{field}", f"{events:,} events", events * per_event * bytes_of_input)
    for stage, network in networks.items():
        activations = _activations(recipe, task, stage, network, sample)
        for field, schedule in _schedules(recipe, stage):
            inputs = math.ceil(schedule.events_per_epoch * per_event)
            if schedule.batch_size > inputs:
                raise UserError(
                    f"recipe {recipe.name!r}: {field}.batch_size: {schedule.batch_size:,} are more than the about {inputs:,}"
                    " inputs of an epoch; give at most these, or more events_per_epoch"
                )
            _require_memory(recipe, f"{field}.events_per_epoch", f"{schedule.events_per_epoch:,} events", inputs * bytes_of_input)
            batch = schedule.batch_size / hardware.devices * (bytes_of_input + KEPT * BYTES * activations)
            _require_memory(recipe, f"{field}.batch_size", f"a batch of {schedule.batch_size:,}", batch, _device_bytes(hardware))
    _check_layers(recipe, networks["edge"])


def _schedules(recipe: Recipe, stage: str) -> list[tuple[str, Schedule]]:
    """Return the schedules by field that train a network like the one of this stage."""
    if stage in recipe.alternatives:
        return [(f"alternatives.{stage}.schedule", recipe.alternatives[stage].schedule)]
    names = ("edge", "quantised") if stage == "edge" else (stage,)
    further = recipe.tradeoff.schedule if stage == "edge" else None
    found = [(f"training.{name}", getattr(recipe.training, name)) for name in names]
    return found + ([("tradeoff.schedule", further)] if further else [])


@torch.no_grad()
def _activations(recipe: Recipe, task: Task, stage: str, network: nn.Module, sample: Sample[Any]) -> int:
    """Run one event of zeros; return how many numbers all layers make of it."""
    counted, shape = 0, task.shape_of(stage)

    def count(_layer: nn.Module, _inputs: Any, made: Any) -> None:
        nonlocal counted
        counted += made.numel() if isinstance(made, Tensor) else 0

    hooks = [layer.register_forward_hook(count) for layer in network.modules() if not any(True for _ in layer.children())]
    where = f"recipe {recipe.name!r}: network {recipe.network!r}, {stage}"
    try:
        outputs = network.eval()(torch.zeros(1, *shape))
    except (RuntimeError, ValueError, TypeError, LookupError) as problem:
        line = " ".join(str(problem).split())[:200]
        raise UserError(f"{where}: cannot take inputs {shape} of task {recipe.task!r} ({line}); name one that does") from None
    finally:
        for hook in hooks:
            hook.remove()
    wanted = list(find(Loss, task.loss).output_shape(sample.targets.shape)[1:])
    found = list(outputs.shape[1:]) if isinstance(outputs, Tensor) else type(outputs).__name__
    if found != wanted:
        raise UserError(f"{where}: gives outputs {found}, task {recipe.task!r} needs {wanted}; name one that does")
    return counted


def _check_layers(recipe: Recipe, edge: nn.Module) -> None:
    """Refuse choices for layers that the exported network cannot have: it counts them by kind."""
    for name in recipe.layers:
        kind, _, number = name.partition("_")
        there = sum(isinstance(layer, LAYERS[kind]) for layer in edge.modules()) if kind in LAYERS else None
        if there is not None and int(number) > there:
            last = f"{kind}_1 to {kind}_{there}" if there else f"no {kind}_1"
            raise UnknownName(f"recipe {recipe.name!r}: layers names {name!r}; network {recipe.network!r} has {last}")


def _bytes_of_input(sample: Sample[Any]) -> float:
    arrays = (sample.inputs, sample.targets, *([] if sample.published_inputs is None else [sample.published_inputs]))
    return sum(values[:1].size for values in arrays) * BYTES


def _device_bytes(hardware: Hardware) -> int:
    """Return the memory in which a batch is trained."""
    if hardware.accelerator != "cpu" and torch.cuda.is_available():
        return int(torch.cuda.mem_get_info()[0])
    return available_memory_bytes()


def _require_memory(recipe: Recipe, field: str, what: str, needed: float, there: int | None = None) -> None:
    there = available_memory_bytes() if there is None else there
    if needed > there:
        raise UserError(
            f"recipe {recipe.name!r}: {field}: {what} need about {needed / 2**30:,.1f} GiB of memory,"
            f" {there / 2**30:,.1f} GiB are there; give less"
        )
