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

from caloedge.catalog import Network, Sample, Task, find
from caloedge.detector.library import ShowerLibrary
from caloedge.errors import UserError
from caloedge.recipe import Schedule

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")
pytest.importorskip("brevitas")

from caloedge.arithmetic import FloatArithmetic, QuantisedArithmetic  # noqa: E402
from caloedge.training.fit import Hardware, fit, learning_rate_factor, predict  # noqa: E402

SCHEDULE = Schedule(epochs=3, events_per_epoch=150, batch_size=64, learning_rate=5e-3, weight_decay=1e-3)
CPU = Hardware(accelerator="cpu")
TASK = find(Task, "seed_finder")


def network(kind: str) -> Any:
    torch.manual_seed(4)
    definition = find(Network, "seed_finder")
    arithmetic = FloatArithmetic() if kind == "float" else QuantisedArithmetic(8, 8, 12, 5, {"conv1_act": 2.0})
    return definition.build(arithmetic, definition.sizes["edge"])


def train(
    net: Any, library: ShowerLibrary, folder: Path, task: Task = TASK, schedule: Schedule = SCHEDULE, seed: int = 2
) -> list[dict[str, float]]:
    return fit(net, task, library, schedule, folder, seed=seed, hardware=CPU)


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


@pytest.mark.parametrize("kind", ["float", "quantised"])
def test_an_interrupted_training_ends_at_the_same_weights(kind: str, library: ShowerLibrary, tmp_path: Path) -> None:
    at_once = network(kind)
    start = {name: value.clone() for name, value in at_once.state_dict().items()}
    curve = train(at_once, library, tmp_path / "at_once")
    assert [point[0] for point in losses(curve)] == [1, 2, 3]
    assert not torch.equal(at_once.state_dict()["conv1.weight"], start["conv1.weight"])

    before = signal.getsignal(signal.SIGINT)
    for epoch in (1, 2):
        with pytest.raises(KeyboardInterrupt):
            train(network(kind), library, tmp_path / "twice", stopping(epoch, ctrl_c))
        assert signal.getsignal(signal.SIGINT) is before, "Ctrl-C would no longer be heard"
        assert torch.load(tmp_path / "twice" / "last.ckpt", weights_only=False)["epoch"] == epoch - 1, "it began again"
        torch.manual_seed(99)  # whatever the process did before
    resumed = network(kind)
    again = train(resumed, library, tmp_path / "twice", stopping(0, ctrl_c))  # the first epoch is not done again
    assert losses(again) == losses(curve)
    for name, value in at_once.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert sorted(p.name for p in (tmp_path / "twice").iterdir()) == ["curve.json", "last.ckpt"]


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
    torch.testing.assert_close(predict(net, inputs, batch=7), predict(net, inputs, batch=100), rtol=0, atol=1e-5)


def test_the_learning_rate_warms_up_and_falls_to_zero() -> None:
    schedule = Schedule(epochs=1, events_per_epoch=1, batch_size=1, learning_rate=1, warm_up=0.1)
    factors = [learning_rate_factor(schedule, done) for done in np.linspace(0, 1, 101)]
    assert factors[0] == 0
    assert max(factors) == factors[10] == pytest.approx(1, abs=1e-12)  # rounding of doubles
    assert factors[-1] == pytest.approx(0, abs=1e-12)
    assert factors[:11] == sorted(factors[:11])
    assert factors[10:] == sorted(factors[10:], reverse=True)


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
    ours = [line for line in said.splitlines() if not line.startswith("training ")]
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
from caloedge.detector.library import open_library
from caloedge.recipe import Schedule
from caloedge.training.fit import Hardware, fit

torch.manual_seed(4)
torch.set_num_threads(1)
definition = find(Network, "seed_finder")
net = definition.build(FloatArithmetic(), definition.sizes["edge"])
schedule = Schedule(epochs=2, events_per_epoch=200, batch_size=64, learning_rate=5e-3)
curve = fit(net, find(Task, "seed_finder"), open_library(sys.argv[1]), schedule, Path(sys.argv[2]), seed=2,
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


@pytest.mark.slow
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
