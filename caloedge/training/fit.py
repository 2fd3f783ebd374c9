"""Train a network on events composed on the fly; a run that was stopped goes on to the same result.

An epoch is a fixed number of events whose composition, order and random numbers depend only on (seed, epoch, rank), a teacher's
factors on the step, and the state is saved whole after every epoch. So nothing but the last checkpoint is needed to continue
exactly.
"""

import copy
import json
import logging
import pickle
import signal
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from caloedge.catalog import Library, Loss, Sample, Task, TrainingData, find
from caloedge.errors import UserError
from caloedge.files import write_text
from caloedge.progress import progress
from caloedge.recipe import Schedule
from caloedge.training.distillation import Distillation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # Lightning and its dependencies warn about each other at import
    import lightning
    from lightning.pytorch.callbacks import Callback, EMAWeightAveraging

logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)

LearningTask = Task | TrainingData
"""What a network learns from."""

ACCELERATORS = ("auto", "cpu", "cuda", "gpu", "mps", "tpu")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed", "bf16-true", "64-true")

FUSED = ("cpu", "cuda", "mps")
"""Devices for which torch has an optimiser that updates all weights in one pass."""
PROBE_EVENTS = 250
"""From which the number of inputs per event is taken."""
BATCH_NUMBERS = 2**18
"""Input numbers that are evaluated together where no batch size is given."""

LEAST_SIZE = 1e-3
"""Of a tensor, as its rate sees it: zeros must be able to grow."""
FINE_TUNING_RATE = 1 / 3
"""Share of the learning rate at which fine-tuning begins."""


def learning_rate_factor(schedule: Schedule, epoch: float) -> float:
    """Return the factor on the learning rate after `epoch` epochs.

    >>> learning_rate_factor(Schedule(epochs=4, events_per_epoch=1, batch_size=1, learning_rate=1, warm_up=0.5), 1.0)
    0.5
    """
    if epoch > schedule.epochs or not schedule.epochs:
        return FINE_TUNING_RATE * _falling((epoch - schedule.epochs) / max(1, schedule.fine_tuning_epochs))
    done = epoch / schedule.epochs
    return done / schedule.warm_up if done < schedule.warm_up else _falling((done - schedule.warm_up) / (1 - schedule.warm_up))


def _falling(done: float) -> float:
    return 0.5 * (1 + float(np.cos(np.pi * min(1.0, done))))


class Hardware(BaseModel):
    """Where to train: the options of Lightning's Trainer."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    accelerator: str = "auto"
    devices: int = Field(default=1, gt=0)
    precision: str = "32-true"
    channels_last: bool = False
    """Keep a pixel's channels side by side in memory: on CPUs 1.3 times faster for large images."""


class EpochEvents(IterableDataset[Any]):
    """The batches of one epoch on one rank, made when they are asked for."""

    def __init__(
        self, task: LearningTask, library: Library, schedule: Schedule, stage: str, key: tuple[int, int], shard: tuple[int, int]
    ) -> None:
        self.task, self.library, self.schedule, self.stage = task, library, schedule, stage
        self.key = key  # (seed, epoch)
        self.rank, self.world = shard

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield (inputs, targets); the last incomplete batch is dropped."""
        sample, order = self.composed
        inputs = sample.inputs_of(self.stage)
        size = self.schedule.batch_size // self.world
        # Every rank must take the same number of steps, and the number of windows differs from epoch to epoch.
        for first in range(0, steps_per_epoch(self.task, self.library, self.schedule) * size, size):
            rows = np.take(order, range(first, first + size), mode="wrap")
            yield torch.from_numpy(inputs[rows]), torch.from_numpy(sample.targets[rows])

    @cached_property
    def composed(self) -> tuple[Sample[Any], NDArray[Any]]:
        """The epoch's events and the order of their windows, made once: Lightning asks for the first batch twice."""
        rng = np.random.default_rng(np.random.SeedSequence(self.key[0], spawn_key=(self.key[1], self.rank)))
        events = self.schedule.events_per_epoch // self.world
        sample = self.task.sample(self.library, "train", events, int(rng.integers(2**62)))
        return sample, rng.permutation(len(sample.inputs))


def steps_per_epoch(task: LearningTask, library: Library, schedule: Schedule) -> int:
    """Return the number of batches in an epoch, the same for every epoch and rank."""
    probe = task.sample(library, "train", PROBE_EVENTS, 0)
    return max(1, int(len(probe.inputs) / PROBE_EVENTS * schedule.events_per_epoch / schedule.batch_size))


class Learner(lightning.LightningModule):
    """What Lightning trains: a network with its loss and its optimiser."""

    def __init__(
        self, network: nn.Module, task: LearningTask, schedule: Schedule, steps: int, distillation: Distillation | None
    ) -> None:
        super().__init__()
        self.network, self.schedule, self.steps = network, schedule, steps
        # A copy, as it is moved to where this is trained; in a tuple it is not a part of what is saved and trained.
        self.distillation = (copy.deepcopy(distillation),)
        self.loss: Callable[[Tensor, Tensor], Tensor] = find(Loss, task.loss).function
        self.losses: list[Tensor] = []

    def training_step(self, batch: tuple[Tensor, Tensor], _: int) -> Tensor:
        """Return the loss of one batch."""
        inputs, targets = batch
        if not len(inputs):
            raise UserError("training: an empty batch; the library's training split gives no windows, use more events")
        (distillation,) = self.distillation
        if distillation is None:
            loss = self.loss(self.network(inputs).float(), targets)
        else:
            loss = distillation.loss(self.network, self.loss, inputs, targets, self.global_step)
        if not torch.isfinite(loss):
            raise UserError(
                f"training: loss is {loss.item()} in epoch {self.current_epoch}; the last good checkpoint is kept, lower the"
                " learning rate and run again"
            )
        self.losses.append(loss.detach())
        return loss

    def configure_optimizers(self) -> Any:
        """Return the optimiser and its schedule."""
        optimiser = torch.optim.AdamW(
            parameter_groups(self.network, self.schedule),
            lr=self.schedule.learning_rate,
            weight_decay=self.schedule.weight_decay,
            fused=self.device.type in FUSED,
        )
        rate = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: learning_rate_factor(self.schedule, (step + 1) / self.steps)
        )
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": rate, "interval": "step"}}


def parameter_groups(network: nn.Module, schedule: Schedule) -> list[dict[str, Any]]:
    """Return the parameters with their rates; a resumed optimiser takes the rates from its checkpoint."""
    if not schedule.relative_rate:
        return [{"params": list(network.parameters())}]
    sizes = {name: float(value.detach().square().mean().sqrt()) for name, value in network.named_parameters()}
    # A bias shifts all pixels at once: it must not be trained faster than the weights beside it.
    slow = {name: min(size, sizes.get(f"{name.removesuffix('.bias')}.weight", size)) for name, size in sizes.items()}
    rates = {name: schedule.learning_rate * max(size, LEAST_SIZE) for name, size in slow.items()}
    return [{"params": [value], "lr": rates[name]} for name, value in network.named_parameters()]


class _Keeper(Callback):
    """Seeds each epoch, saves after each epoch, writes the learning curve, shows progress."""

    def __init__(self, folder: Path, seed: int, first_epoch: int, validate: Any, advance: Any) -> None:
        self.folder, self.seed, self.first_epoch, self.validate, self.advance = folder, seed, first_epoch, validate, advance
        self.curve: list[dict[str, float]] = []
        self.start = time.monotonic()

    def on_train_epoch_start(self, trainer: Any, module: Any) -> None:
        torch.manual_seed(hash((self.seed, self.first_epoch + trainer.current_epoch, trainer.global_rank)) % 2**63)
        self.start = time.monotonic()
        module.losses.clear()
        if trainer.current_epoch >= module.schedule.epochs:  # fine-tuning
            for layer in module.network.modules():
                if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                    layer.eval()

    def on_train_batch_end(self, *_: Any) -> None:
        self.advance(1)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        self.curve.append(
            {
                "epoch": self.first_epoch + trainer.current_epoch + 1,
                "train_loss": float(torch.stack(module.losses).mean()),
                "valid_loss": self.validate(trainer, module),
                "seconds": time.monotonic() - self.start,
            }
        )
        temporary = self.folder / f".last.{trainer.current_epoch}.ckpt"
        trainer.save_checkpoint(temporary)
        if trainer.is_global_zero:
            temporary.replace(self.folder / "last.ckpt")
            write_text(self.folder / "curve.json", json.dumps(self.curve, indent=1))

    def state_dict(self) -> dict[str, Any]:
        return {"curve": self.curve}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curve = list(state_dict["curve"])


def fit(
    network: nn.Module,
    task: LearningTask,
    library: Library,
    schedule: Schedule,
    folder: Path,
    *,
    stage: str,
    seed: int,
    hardware: Hardware,
    distillation: Distillation | None = None,
    first_epoch: int = 0,
) -> list[dict[str, float]]:
    """Train `network` in place and return the learning curve; checkpoints go to `folder` and a second call resumes there.

    `first_epoch` is how many came before these in another folder: events are not drawn again.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if hardware.channels_last:
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):  # what has another number of axes cannot have this order
                layer.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    steps = steps_per_epoch(task, library, schedule)
    last = folder / "last.ckpt"
    done = 0
    if last.exists():
        done = epochs_done(last)
    valid = _validation(task, library, stage, seed)

    averaging = EMAWeightAveraging(decay=schedule.averaging) if schedule.averaging else None

    def validate(trainer: lightning.Trainer, module: Learner) -> float:
        module.eval()
        if averaging:  # takes the averaged weights for as long as it thinks that Lightning validates
            averaging.on_validation_epoch_start(trainer, module)
        loss = _loss_on(module.network, task, *valid)
        if averaging:
            averaging.on_validation_epoch_end(trainer, module)
        module.train()
        return loss

    with progress(f"training {stage}", steps * schedule.all_epochs, steps * done) as advance:
        keeper = _Keeper(folder, seed, first_epoch, validate, advance)
        trainer = _trainer(hardware, schedule, [*([averaging] if averaging else []), keeper])
        learner = Learner(network, task, schedule, steps, distillation)
        data = _Epochs(task, library, schedule, stage, seed, first_epoch)
        network.train()
        with warnings.catch_warnings():
            # One process makes the data faster than one device learns from it; IterableDatasets need no sampler.
            warnings.filterwarnings("ignore", ".*does not have many workers.*")
            warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.*")
            warnings.filterwarnings("ignore", ".*GPU available but not used.*")
            with _ctrl_c_as_interrupt(trainer):
                trainer.fit(learner, datamodule=data, ckpt_path=last if done else None, weights_only=False)
    if averaging and done == schedule.all_epochs:  # there was nothing left to train, at whose end the average is taken
        _take_average(network, last)
    return keeper.curve


def _take_average(network: nn.Module, checkpoint: Path) -> None:
    stored = torch.load(checkpoint, weights_only=False, map_location="cpu")["state_dict"]
    mine = {name.removeprefix("network."): value for name, value in stored.items() if name.startswith("network.")}
    network.load_state_dict(mine)


def valid_loss(network: nn.Module, task: LearningTask, library: Library, stage: str, seed: int) -> float:
    """Return a network's loss on the events of validation."""
    return _loss_on(network.eval(), task, *_validation(task, library, stage, seed))


def _validation(task: LearningTask, library: Library, stage: str, seed: int) -> tuple[Tensor, Tensor]:
    sample = task.sample(library, "valid", task.valid_events, seed)
    return torch.from_numpy(sample.inputs_of(stage)), torch.from_numpy(sample.targets)


def _loss_on(network: nn.Module, task: LearningTask, inputs: Tensor, targets: Tensor) -> float:
    return float(find(Loss, task.loss).function(predict(network, inputs).float(), targets))


class _Epochs(lightning.LightningDataModule):
    def __init__(self, task: LearningTask, library: Library, schedule: Schedule, stage: str, seed: int, first_epoch: int) -> None:
        super().__init__()
        self.arguments, self.seed, self.first_epoch = (task, library, schedule, stage), seed, first_epoch

    def train_dataloader(self) -> DataLoader[Any]:
        trainer = self.trainer
        assert trainer is not None
        shard = (trainer.global_rank, trainer.world_size)
        seeds = (self.seed, self.first_epoch + trainer.current_epoch)
        return DataLoader(EpochEvents(*self.arguments, seeds, shard), batch_size=None)


def _trainer(hardware: Hardware, schedule: Schedule, callbacks: list[Callback]) -> lightning.Trainer:
    return lightning.Trainer(
        accelerator=hardware.accelerator,
        devices=hardware.devices,
        strategy="ddp" if hardware.devices > 1 else "auto",
        precision=hardware.precision,  # type: ignore[arg-type]
        max_epochs=schedule.all_epochs,
        reload_dataloaders_every_n_epochs=1,
        callbacks=callbacks,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


@contextmanager
def _ctrl_c_as_interrupt(trainer: lightning.Trainer) -> Iterator[None]:
    """Raise KeyboardInterrupt where Lightning stops listening to Ctrl-C and leaves the program with exit code 1."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit:
        if trainer.interrupted:
            signal.signal(signal.SIGINT, before)
            raise KeyboardInterrupt from None
        raise


def epochs_done(checkpoint: Path) -> int:
    """Return how many epochs are done in a checkpoint."""
    try:
        return int(torch.load(checkpoint, weights_only=False, map_location="cpu")["epoch"]) + 1  # it was saved in that epoch
    except (OSError, RuntimeError, EOFError, LookupError, TypeError, ValueError, pickle.UnpicklingError) as problem:
        raise UserError(f"{checkpoint}: unreadable checkpoint ({problem}); remove it to start again") from None


@torch.no_grad()
def predict(network: nn.Module, inputs: Tensor, batch: int | None = None) -> Tensor:
    """Return the network's outputs for (N, ...) inputs, in batches, on the network's own device."""
    device = next(network.parameters()).device
    batch = batch or max(1, BATCH_NUMBERS // max(1, inputs[:1].numel()))
    return torch.cat([network(part.to(device)).cpu() for part in torch.split(inputs, batch)])
