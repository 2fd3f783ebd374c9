"""Training goes on after any interruption to bit-identical weights, and stops with one line when it cannot go on."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from caloedge.catalog import Network, Sample, Task, find
from caloedge.detector.crystals.library import ShowerLibrary
from caloedge.errors import UserError
from caloedge.recipe import Schedule

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")
pytest.importorskip("brevitas")

from caloedge.arithmetic import FloatArithmetic, QuantisedArithmetic  # noqa: E402
from caloedge.training.fit import (  # noqa: E402
    EpochEvents,
    Hardware,
    fit,
    learning_rate_factor,
    parameter_groups,
    predict,
    steps_per_epoch,
)

SCHEDULE = Schedule(epochs=3, events_per_epoch=150, batch_size=64, learning_rate=5e-3, weight_decay=1e-3)
CPU = Hardware(accelerator="cpu")
TASK = find(Task, "seed_finder")


def network(kind: str) -> Any:
    torch.manual_seed(4)
    definition = find(Network, "seed_finder")
    arithmetics = {
        "float": FloatArithmetic(),
        "quantised": QuantisedArithmetic(8, 8, 12, 5, {"conv1_act": 2.0}),
        "fixed": QuantisedArithmetic(8, 8, 12, 5, {"conv1_act": 2.0}, fixed_scales=True),
    }
    arithmetic = arithmetics[kind]
    return definition.build(arithmetic, definition.sizes["edge"])


def train(
    net: Any,
    library: ShowerLibrary,
    folder: Path,
    task: Task = TASK,
    schedule: Schedule = SCHEDULE,
    seed: int = 2,
    stage: str = "edge",
) -> list[dict[str, float]]:
    return fit(net, task, library, schedule, folder, stage=stage, seed=seed, hardware=CPU)


def losses(curve: list[dict[str, float]]) -> list[tuple[float, ...]]:
    return [(point["epoch"], point["train_loss"], point["valid_loss"]) for point in curve]


def stopping(epoch: int, how: Callable[[Sample[Any]], Sample[Any]]) -> Task:
    """Return the task with something happening to the training events of one epoch, counted from 0, of seed 2."""
    wanted = int(np.random.default_rng(np.random.SeedSequence(2, spawn_key=(epoch, 0))).integers(2**62))

    def sample(library: ShowerLibrary, split: str, events: int, seed: int) -> Sample[Any]:
        found = TASK.sample(library, split, events, seed)
        return how(found) if (split, seed) == ("train", wanted) else found

    return replace(TASK, sample=sample)


def ctrl_c(_: Sample[Any]) -> Sample[Any]:
    raise KeyboardInterrupt


def not_a_number(sample: Sample[Any]) -> Sample[Any]:
    return replace(sample, inputs=np.full_like(sample.inputs, np.nan))


@pytest.mark.parametrize(("kind", "relative"), [("float", False), ("quantised", False), ("fixed", True)])
def test_an_interrupted_training_ends_at_the_same_weights(
    kind: str, relative: bool, library: ShowerLibrary, tmp_path: Path
) -> None:
    schedule = SCHEDULE.model_copy(update={"relative_rate": relative})
    at_once = network(kind)
    start = {name: value.clone() for name, value in at_once.state_dict().items()}
    curve = train(at_once, library, tmp_path / "at_once", schedule=schedule)
    assert [point[0] for point in losses(curve)] == [1, 2, 3]
    assert not torch.equal(at_once.state_dict()["conv1.weight"], start["conv1.weight"])

    before = signal.getsignal(signal.SIGINT)
    for epoch in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            train(network(kind), library, tmp_path / "twice", stopping(epoch, ctrl_c), schedule)
        assert signal.getsignal(signal.SIGINT) is before, "Ctrl-C would no longer be heard"
        assert torch.load(tmp_path / "twice" / "last.ckpt", weights_only=False)["epoch"] == epoch - 1, "it began again"
        torch.manual_seed(99)  # whatever the process did before
    resumed = network(kind)
    again = train(resumed, library, tmp_path / "twice", stopping(0, ctrl_c), schedule)  # the first epoch is not done again
    assert losses(again) == losses(curve)
    for name, value in at_once.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert sorted(p.name for p in (tmp_path / "twice").iterdir()) == ["curve.json", "last.ckpt"]


def test_settling_keeps_the_statistics_of_normalisation(tmp_path: Path) -> None:
    task, definition = replace(find(Task, "pf_energy"), valid_events=5), find(Network, "pf_energy")
    events = task.open("qcd_jets")

    def trained(fine_tuning_epochs: int, folder: str, run: Task = task) -> dict[str, Any]:
        schedule = Schedule(
            epochs=2, fine_tuning_epochs=fine_tuning_epochs, events_per_epoch=20, batch_size=5, learning_rate=1e-3
        )
        torch.manual_seed(4)
        net = definition.build(FloatArithmetic(), definition.sizes["trigger"])
        curve = fit(net, run, events, schedule, tmp_path / folder, stage="edge", seed=2, hardware=CPU)
        assert len(curve) == 2 + fine_tuning_epochs
        return net.state_dict()

    def interrupted(library: Any, split: str, number: int, seed: int) -> Sample[Any]:
        if (split, seed) == ("train", int(np.random.default_rng(np.random.SeedSequence(2, spawn_key=(3, 0))).integers(2**62))):
            raise KeyboardInterrupt
        return task.sample(library, split, number, seed)

    before, after = trained(0, "before"), trained(2, "after")
    statistics = {name for name in before if "running_" in name}
    assert statistics
    assert {name for name in before if torch.equal(before[name], after[name])} >= statistics
    assert not torch.equal(before["energy.weight"], after["energy.weight"])
    with pytest.raises(KeyboardInterrupt):
        trained(2, "resumed", replace(task, sample=interrupted))
    assert torch.load(tmp_path / "resumed" / "last.ckpt", weights_only=False)["epoch"] == 2  # in the middle of settling
    for name, value in trained(2, "resumed").items():
        assert torch.equal(value, after[name]), name


def test_the_seed_decides_the_result(library: ShowerLibrary, tmp_path: Path) -> None:
    short = SCHEDULE.model_copy(update={"epochs": 1})
    nets = [network("float") for _ in range(3)]
    for number, (net, seed) in enumerate(zip(nets, (2, 2, 3), strict=True)):
        train(net, library, tmp_path / str(number), schedule=short, seed=seed)
    first, same, other = (net.state_dict()["conv1.weight"] for net in nets)
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_a_finished_training_is_not_done_again(library: ShowerLibrary, tmp_path: Path) -> None:
    short = SCHEDULE.model_copy(update={"epochs": 1})
    first, second = network("float"), network("float")
    curve = train(first, library, tmp_path, schedule=short)
    again = train(second, library, tmp_path, schedule=short)
    assert again == curve, "even the seconds: nothing was done"
    assert torch.equal(first.state_dict()["conv1.weight"], second.state_dict()["conv1.weight"])


def test_a_loss_that_is_no_number_stops_with_one_line_and_keeps_the_checkpoint(library: ShowerLibrary, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        train(network("float"), library, tmp_path, stopping(1, not_a_number))
    assert str(caught.value) == (
        "training: loss is nan in epoch 1; the last good checkpoint is kept, lower the learning rate and run again"
    )
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=False)
    assert checkpoint["epoch"] == 0
    assert all(torch.isfinite(value).all() for value in checkpoint["state_dict"].values())
    assert sorted(p.name for p in tmp_path.iterdir()) == ["curve.json", "last.ckpt"]


@pytest.mark.parametrize("damage", ["text", "empty", "truncated", "another"])
def test_a_damaged_checkpoint_is_one_line(damage: str, library: ShowerLibrary, tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"epoch": 1, "weights": torch.zeros(1000)}, path)
    whole = path.read_bytes()
    if damage == "another":
        torch.save({"weights": torch.zeros(3)}, path)
    else:
        path.write_bytes({"text": b"hello, I am no checkpoint", "empty": b"", "truncated": whole[: len(whole) // 2]}[damage])
    with pytest.raises(UserError) as caught:
        train(network("float"), library, tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path}: unreadable checkpoint (")
    assert message.endswith("); remove it to start again")


def test_relative_rates_follow_the_size_of_the_weights() -> None:
    net = torch.nn.Sequential(torch.nn.Linear(100, 100), torch.nn.ReLU(), torch.nn.Linear(100, 100))
    with torch.no_grad():
        net[0].weight.fill_(-4.0), net[0].bias.fill_(9.0), net[2].weight.fill_(0.5), net[2].bias.zero_()
    rates = [group["lr"] for group in parameter_groups(net, SCHEDULE.model_copy(update={"relative_rate": True}))]
    assert rates == pytest.approx([5e-3 * size for size in (4.0, 4.0, 0.5, 1e-3)])  # means of float32
    (plain,) = parameter_groups(net, SCHEDULE)
    assert "lr" not in plain
    assert len(plain["params"]) == 4


def test_training_lowers_the_loss(library: ShowerLibrary, tmp_path: Path) -> None:
    schedule = Schedule(epochs=3, events_per_epoch=600, batch_size=64, learning_rate=5e-3)
    curve = train(network("float"), library, tmp_path, schedule=schedule)
    # A constant answer scores the entropy of the labels, about 0.5; three short epochs are far below.
    assert curve[-1]["valid_loss"] < 0.8 * curve[0]["train_loss"]
    assert curve[-1]["valid_loss"] < 0.4


def test_predictions_do_not_depend_on_batches() -> None:
    net = network("float").eval()
    inputs = torch.rand(100, 1, 7, 7)
    # 1e-5: float32 products in another order
    torch.testing.assert_close(
        predict(net, inputs, batch=7), predict(net, inputs, batch=100), rtol=0, atol=1e-5
    )  # float32 sums in another order


def with_other_inputs(library: ShowerLibrary, split: str, events: int, seed: int) -> Sample[Any]:
    """The task's sample, with inputs of the published network that are twice as large and flat."""
    sample = TASK.sample(library, split, events, seed)
    return replace(sample, published_inputs=2 * sample.inputs.reshape(len(sample.inputs), 49))


def test_each_stage_gets_its_inputs(library: ShowerLibrary) -> None:
    task = replace(TASK, sample=with_other_inputs, published_input_shape=(49,))
    batches = {
        stage: list(EpochEvents(task, library, SCHEDULE, stage, (2, 0), (0, 1))) for stage in ("published", "edge", "quantised")
    }
    assert len(batches["edge"]) == steps_per_epoch(task, library, SCHEDULE) > 3
    for published, edge, quantised in zip(*batches.values(), strict=True):
        assert torch.equal(edge[0], quantised[0])
        assert torch.equal(published[0], 2 * edge[0].flatten(1))
        assert torch.equal(published[1], edge[1])
        assert torch.equal(published[1], quantised[1])


def test_a_published_network_is_trained_and_validated_on_its_own_inputs(library: ShowerLibrary, tmp_path: Path) -> None:
    task = replace(TASK, sample=with_other_inputs, published_input_shape=(49,))
    short = SCHEDULE.model_copy(update={"epochs": 1})
    seen = []

    class Flat(torch.nn.Linear):
        def forward(self, x: Any) -> Any:
            seen.append(tuple(x.shape[1:]))
            return super().forward(x)

    torch.manual_seed(1)
    curve = train(Flat(49, 1), library, tmp_path / "published", task, short, stage="published")
    assert len(curve) == 1
    assert set(seen) == {(49,)}
    assert len(seen) > 3
    with pytest.raises(RuntimeError):  # the edge network's windows are no rows of 49
        train(Flat(49, 1), library, tmp_path / "edge", task, short, stage="edge")
    plain = Sample(np.zeros((3, 2)), np.zeros((3, 1)), None)
    assert plain.inputs_of("published") is plain.inputs_of("edge") is plain.inputs


# The loss of photons


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    schedule = Schedule(epochs=1, events_per_epoch=1, batch_size=1, learning_rate=1, warm_up=0.1)
    factors = [learning_rate_factor(schedule, epoch) for epoch in np.linspace(0, 1, 101)]
    assert factors[0] == 0
    assert max(factors) == factors[10] == pytest.approx(1, abs=1e-12)  # rounding of doubles
    assert factors[-1] == pytest.approx(0, abs=1e-12)  # as above
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)


def test_settling_starts_at_a_third_of_the_rate_and_falls_to_zero() -> None:
    schedule = Schedule(epochs=2, fine_tuning_epochs=3, events_per_epoch=1, batch_size=1, learning_rate=1)
    assert learning_rate_factor(schedule, 2.0) == pytest.approx(0, abs=1e-12)  # rounding of doubles
    factors = [learning_rate_factor(schedule, epoch) for epoch in np.linspace(2 + 1e-9, 5, 50)]
    assert factors[0] == pytest.approx(1 / 3)  # as above
    assert factors == sorted(factors, reverse=True)
    assert factors[-1] == pytest.approx(0, abs=1e-12)  # as above
    only = schedule.model_copy(update={"epochs": 0})
    assert learning_rate_factor(only, 0.0) == pytest.approx(1 / 3)  # as above
    with pytest.raises(ValidationError, match="epochs and fine_tuning_epochs are both 0"):
        Schedule(epochs=0, events_per_epoch=1, batch_size=1, learning_rate=1)


def test_ctrl_c_in_a_real_process_ends_with_one_line_and_goes_on(tiny_recipe: Path, tmp_path: Path) -> None:
    recipe = tiny_recipe.with_name("long.yaml")
    text = tiny_recipe.read_text()
    recipe.write_text(
        text.replace("edge: {epochs: 1,", "edge: {epochs: 40,").replace("events_per_epoch: 1000", "events_per_epoch: 200")
    )
    command = [sys.executable, "-m", "caloedge", "train", str(recipe), "--output", str(tmp_path), "--accelerator", "cpu"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("work/training/edge-*/curve.json")):
        assert process.poll() is None, process.communicate()
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    ours = [line for line in said.splitlines() if not line.startswith(("training ", "all trainings"))]
    assert (process.returncode, ours) == (130, ["caloedge: interrupted; what is finished is kept, the same command goes on"])
    (folder,) = tmp_path.glob("work/training/edge-*")
    assert sorted(p.name for p in folder.iterdir()) == ["curve.json", "last.ckpt"]
    epoch = torch.load(folder / "last.ckpt", weights_only=False)["epoch"]
    assert 0 <= epoch < 39


TWO_PROCESSES = """
import sys
from pathlib import Path
import torch
from caloedge.arithmetic import FloatArithmetic
from caloedge.catalog import Network, Task, find
from caloedge.detector.crystals.library import open_library
from caloedge.recipe import Schedule
from caloedge.training.fit import Hardware, fit

torch.manual_seed(4)
torch.set_num_threads(1)
definition = find(Network, "seed_finder")
net = definition.build(FloatArithmetic(), definition.sizes["edge"])
schedule = Schedule(epochs=2, events_per_epoch=200, batch_size=64, learning_rate=5e-3)
curve = fit(net, find(Task, "seed_finder"), open_library(sys.argv[1]), schedule, Path(sys.argv[2]), stage="edge", seed=2,
            hardware=Hardware(accelerator="cpu", devices=2))
import torch.distributed as dist
torch.save(net.state_dict(), Path(sys.argv[2]) / f"rank{__import__('os').environ.get('LOCAL_RANK', '0')}.pt")
"""


@pytest.mark.slow
def test_two_processes_train_one_network(showers_file: Path, tmp_path: Path) -> None:
    script = tmp_path / "two.py"
    script.write_text(TWO_PROCESSES)
    folder = tmp_path / "fit"
    command = [sys.executable, str(script), str(showers_file), str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    for _ in range(100):  # the second process ends on its own
        if len(list(folder.glob("rank*.pt"))) == 2:
            break
        time.sleep(0.1)
    ranks = [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    start = network("float").state_dict()
    for name, value in ranks[0].items():
        assert torch.equal(value, ranks[1][name]), f"{name} differs between the processes"
        assert not torch.equal(value, start[name]) or "bias" in name
    assert sorted(p.name for p in folder.iterdir()) == ["curve.json", "last.ckpt", "rank0.pt", "rank1.pt"]


@pytest.mark.exhaustive
def test_two_processes_train_a_whole_recipe(tiny_recipe: Path, tmp_path: Path) -> None:
    """Three trainings one after the other, the twin's from the weights of the one before."""
    command = [sys.executable, "-m", "caloedge", "train", str(tiny_recipe), "--output", str(tmp_path)]
    command += ["--accelerator", "cpu", "--devices", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    assert done.returncode == 0, done.stderr
    stages = [line.split(":")[0] for line in done.stdout.splitlines() if "parameters" in line]
    assert sorted(set(stages)) == ["edge", "published", "quantised"]
    assert "Traceback" not in done.stderr
    folders = sorted(p.name.split("-")[0] for p in (tmp_path / "work" / "training").iterdir())
    assert folders == ["edge", "published", "quantised"], "the processes disagreed about what they train"
    for folder in (tmp_path / "work" / "training").iterdir():
        assert sorted(p.name for p in folder.iterdir()) == ["curve.json", "last.ckpt", "stage.json", "weights.pt"]
