"""The three trainings of a recipe: the published float network, the float edge network, and its quantised twin.

The twin starts from the float edge network's weights, its activation ranges from that network on training events. Rivals are
further float networks on the same data.
"""

import hashlib
import json
import pickle
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from caloedge.arithmetic import CALIBRATED, FloatArithmetic, QuantisedArithmetic, folded
from caloedge.artifact import Stage, read_artifact
from caloedge.catalog import Library, Network, Task, find
from caloedge.computer import computer
from caloedge.errors import BadData, UnknownName
from caloedge.files import replacing, write_text
from caloedge.recipe import Recipe, Schedule
from caloedge.training.equalise import chains, divided, equalised, scales
from caloedge.training.fit import Hardware, fit, predict, steps_per_epoch

STAGES = ("published", "edge", "quantised")
CALIBRATION_SHARE = 2
"""Events on which ranges of activations are taken, as a multiple of those of validation."""
PROBE_EVENTS = 200


@dataclass(frozen=True)
class Trained:
    """A trained network with the record of its training."""

    network: nn.Module
    record: Stage


def weights_of(network: nn.Module) -> dict[str, NDArray[Any]]:
    """Return parameters and quantiser scales as arrays."""
    return {name: value.detach().numpy().copy() for name, value in network.state_dict().items()}


def n_parameters(network: nn.Module, *, statistics: bool = True) -> int:
    """Return the number of weights without scales of quantisers, by default with the statistics of batch normalisation."""
    values = [*network.named_parameters(), *network.named_buffers()]
    kept = [value for name, value in values if isinstance(value, nn.Parameter) or (statistics and "running_" in name)]
    scales = sum(value.numel() for name, value in network.named_parameters() if "scaling_impl" in name)
    return sum(value.numel() for value in kept) - scales


def build_network(recipe: Recipe, stage: str, weights: dict[str, NDArray[Any]] | None = None) -> nn.Module:
    """Build the network of one stage or rival, with weights loaded if they are given (all of them, by name)."""
    arithmetic = _quantised(recipe, {}) if stage == "quantised" else FloatArithmetic()
    network: nn.Module = find(Network, recipe.network).build(arithmetic, _size(recipe, stage))
    if weights is not None:
        network.load_state_dict({name: torch.from_numpy(values.astype(np.float32)) for name, values in weights.items()})
    return network.eval()


def _size(recipe: Recipe, stage: str) -> Any:
    """Return the size of the network of one stage or rival."""
    sizes = find(Network, recipe.network).sizes
    name = recipe.rivals[stage].size if stage in recipe.rivals else "published" if stage == "published" else recipe.edge_size
    if name not in sizes:
        raise UnknownName(f"network {recipe.network!r} has no size {name!r}; there are: {', '.join(sizes)}")
    return sizes[name]


def train(
    recipe: Recipe, library: Library, folder: Path, hardware: Hardware, base: Path, rivals: Iterable[str] = ()
) -> dict[str, Trained]:
    """Run the stages and the named rivals that are not finished yet and return them; `base` is the folder of the recipe."""
    rivals = tuple(rivals)
    if unknown := [name for name in rivals if name not in recipe.rivals]:
        known = ", ".join(recipe.rivals) or "none"
        raise UnknownName(f"recipe {recipe.name!r} has no rival {unknown[0]!r}; there are: {known}")
    trained: dict[str, Trained] = {}
    for stage in (*STAGES, *rivals):
        if stage == "published" and recipe.reference_from:
            artifact = read_artifact(base / recipe.reference_from)
            network = build_network(recipe, stage, artifact.weights(stage))
            trained[stage] = Trained(network, artifact.manifest.stages[stage])
        else:
            trained[stage] = _train_stage(recipe, stage, library, folder, hardware, trained)
    if torch.distributed.is_initialized() and torch.distributed.get_rank() > 0:
        sys.exit(0)  # Lightning starts the same command once per further device; only the first goes on
    return trained


def _quantised(recipe: Recipe, activation_max: dict[str, float]) -> QuantisedArithmetic:
    q = recipe.quantisation
    return QuantisedArithmetic(
        q.weight_bits, q.activation_bits, q.input_bits, q.input_fraction, activation_max, input_signed=q.input_signed
    )


def _train_stage(
    recipe: Recipe, stage: str, library: Library, folder: Path, hardware: Hardware, trained: Mapping[str, Trained]
) -> Trained:
    task = find(Task, recipe.task)
    rival = recipe.rivals.get(stage)
    schedule: Schedule = rival.schedule if rival else getattr(recipe.training, stage)
    torch.manual_seed(recipe.seed)
    network = build_network(recipe, stage)
    key: dict[str, Any] = {"schedule": schedule.model_dump(), "library": library.digest, "seed": recipe.seed}
    key |= {
        "network": recipe.network,
        "shape": str(network),
        "loss": task.loss,
        "data": _probe(task, library, stage, recipe.seed),
    }
    if stage == "quantised":
        edge = trained["edge"].network
        network = _twin(recipe, task, library, edge)
        key |= {"quantisation": recipe.quantisation.model_dump(), "from": _digest(weights_of(edge))}
    if stage == "edge" and recipe.training.edge_from_published:
        network.load_state_dict(trained["published"].network.state_dict())
        key |= {"from": _digest(weights_of(trained["published"].network))}
    taught_by = rival.teacher if rival else recipe.training.edge_teacher if stage == "edge" else None
    teacher = trained[taught_by].network if taught_by else None
    if teacher is not None:
        key |= {"teacher": _digest(weights_of(teacher))}
    # Other settings or data get another folder, so that a changed recipe or task never continues the wrong run.
    place = folder / f"{stage}-{hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:10]}"
    record = place / "stage.json"
    if record.exists():
        return _finished(network, place)
    curve = fit(network, task, library, schedule, place, stage=stage, seed=recipe.seed, hardware=hardware, teacher=teacher)
    finished = Stage(
        parameters=n_parameters(network, statistics=find(Network, recipe.network).counts_statistics),
        epochs=schedule.all_epochs,
        windows_seen=steps_per_epoch(task, library, schedule) * schedule.batch_size * schedule.all_epochs,
        seconds=sum(point["seconds"] for point in curve),
        train_loss=curve[-1]["train_loss"],
        valid_loss=curve[-1]["valid_loss"],
        curve=tuple(curve),
        hardware=f"{computer()}; {hardware.devices} × {hardware.accelerator}, {hardware.precision}",
    )
    with replacing(place / "weights.pt") as temporary:
        torch.save(network.state_dict(), temporary)
    write_text(record, finished.model_dump_json(indent=1))
    return Trained(network.eval(), finished)


def _probe(task: Task, library: Library, stage: str, seed: int) -> str:
    """Return a digest of what a task makes of a few events: most changes of the task's code show in it."""
    sample = task.sample(library, "train", PROBE_EVENTS, seed)
    return hashlib.sha256(np.ascontiguousarray(sample.inputs_of(stage)).tobytes() + sample.targets.tobytes()).hexdigest()


def _finished(network: nn.Module, place: Path) -> Trained:
    """Return a training that ended earlier."""
    try:
        network.load_state_dict(torch.load(place / "weights.pt", weights_only=True))
        return Trained(network.eval(), Stage.model_validate_json((place / "stage.json").read_text()))
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as problem:
        line = " ".join(str(problem).split())[:200]
        raise BadData(f"{place}: the finished training cannot be read ({line}); remove the folder to train again") from None


def _twin(recipe: Recipe, task: Task, library: Library, edge: nn.Module) -> nn.Module:
    """Build the quantised network with the float edge network's weights and activation ranges."""
    weights, divided_by = folded(edge), {}
    inputs = torch.from_numpy(task.sample(library, "train", CALIBRATION_SHARE * task.valid_events, recipe.seed).inputs)
    if recipe.quantisation.equalise:
        found = chains(edge)
        by = scales(edge, found, weights, inputs[: task.valid_events])
        weights, divided_by = equalised(edge, found, weights, by), divided(found, by)
    ranges = _activation_max(edge, inputs, recipe.quantisation.activation_quantile, divided_by)
    twin: nn.Module = find(Network, recipe.network).build(_quantised(recipe, ranges), _size(recipe, "quantised"))
    missing, unexpected = twin.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert all("scaling_impl" in name for name in missing), missing
    return twin


def _activation_max(edge: nn.Module, inputs: Tensor, quantile: float, divided_by: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest useful value of each activation of the float network, its channels divided as they will be."""
    found: dict[str, float] = {}

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if name in divided_by:
                output = output / divided_by[name].reshape(-1, *[1] * (output.ndim - 2))
            found[name] = max(float(np.quantile(output.numpy(), quantile)), 1e-3)

        return hook

    hooks = [m.register_forward_hook(note(n)) for n, m in edge.named_modules() if isinstance(m, CALIBRATED)]
    predict(edge, inputs, batch=len(inputs))
    for hook in hooks:
        hook.remove()
    return found


def _digest(weights: dict[str, NDArray[Any]]) -> str:
    return hashlib.sha256(b"".join(values.tobytes() for values in weights.values())).hexdigest()
