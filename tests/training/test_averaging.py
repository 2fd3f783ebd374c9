"""Averaged weights: what a training ends with, the same after any interruption, and nothing where they are not asked for."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caloedge.catalog import Sample, TrainingData
from caloedge.recipe import Schedule

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")

from caloedge.training import fit as module  # noqa: E402
from caloedge.training.fit import Hardware, fit, steps_per_epoch, valid_loss  # noqa: E402

CPU = Hardware(accelerator="cpu")
PLAIN = Schedule(epochs=3, events_per_epoch=160, batch_size=32, learning_rate=2e-2)
DECAY = 0.9
AVERAGED = PLAIN.model_copy(update={"averaging": DECAY})


class Toy:
    """Stands for a library: what is learnt is made of random numbers."""

    path, provenance, digest = Path("toy"), {}, "toy"

    def __len__(self) -> int:
        return 1000


def sample(_library: Any, _split: str, events: int, seed: int) -> Sample[None]:
    inputs = np.random.default_rng(seed).standard_normal((events, 4)).astype(np.float32)
    return Sample(inputs, np.sin(inputs.sum(axis=1, keepdims=True)), None)


DATA = TrainingData("mean_squared_error", sample, valid_events=200)


def network() -> Any:
    torch.manual_seed(4)
    return torch.nn.Sequential(torch.nn.Linear(4, 16), torch.nn.BatchNorm1d(16), torch.nn.SiLU(), torch.nn.Linear(16, 1))


def train(net: Any, folder: Path, schedule: Schedule = AVERAGED, data: TrainingData = DATA) -> list[dict[str, float]]:
    return fit(net, data, Toy(), schedule, folder, stage="toy", seed=2, hardware=CPU)


def losses(curve: list[dict[str, float]]) -> list[tuple[float, ...]]:
    return [(point["epoch"], point["train_loss"], point["valid_loss"]) for point in curve]


def stopping(epoch: int) -> TrainingData:
    """Return the data with Ctrl-C instead of the training events of one epoch, counted from 0."""
    wanted = int(np.random.default_rng(np.random.SeedSequence(2, spawn_key=(epoch, 0))).integers(2**62))

    def stopped(library: Any, split: str, events: int, seed: int) -> Sample[None]:
        if (split, seed) == ("train", wanted):
            raise KeyboardInterrupt
        return sample(library, split, events, seed)

    return replace(DATA, sample=stopped)


@pytest.fixture
def every_step(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Return what the weights are after each step, as they are trained."""
    seen: list[dict[str, Any]] = []

    def watched(keeper: Any, _trainer: Any, learner: Any, *_: object) -> None:
        seen.append({name: value.detach().clone() for name, value in learner.network.state_dict().items()})
        keeper.advance(1)

    monkeypatch.setattr(module._Keeper, "on_train_batch_end", watched)
    return seen


def test_a_training_ends_with_the_average(every_step: list[dict[str, Any]], tmp_path: Path) -> None:
    net = network()
    curve = train(net, tmp_path)
    assert len(every_step) == 3 * steps_per_epoch(DATA, Toy(), AVERAGED) == 15
    expected = every_step[0]  # it begins at the weights of the first step
    for step in every_step[1:]:
        expected = {name: DECAY * value + (1 - DECAY) * step[name] for name, value in expected.items()}
    for name in expected.keys() - {"1.num_batches_tracked"}:
        value = net.state_dict()[name]
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)  # float32 sums in another order
    assert not torch.allclose(net.state_dict()["0.weight"], every_step[-1]["0.weight"], atol=1e-3), "the last weights"
    assert curve[-1]["valid_loss"] == pytest.approx(valid_loss(net, DATA, Toy(), "toy", 2), rel=1e-6)  # of the average as well


@pytest.mark.parametrize("fine_tuning_epochs", [0, 2])
def test_an_interrupted_training_ends_at_the_same_average(fine_tuning_epochs: int, tmp_path: Path) -> None:
    schedule = AVERAGED.model_copy(update={"fine_tuning_epochs": fine_tuning_epochs})
    at_once = network()
    curve = train(at_once, tmp_path / "at_once", schedule)
    for epoch in range(1, schedule.all_epochs):
        with pytest.raises(KeyboardInterrupt):
            train(network(), tmp_path / "parts", schedule, stopping(epoch))
        assert torch.load(tmp_path / "parts" / "last.ckpt", weights_only=False)["epoch"] == epoch - 1, "it began again"
        torch.manual_seed(99)  # whatever the process did before
    resumed = network()
    again = train(resumed, tmp_path / "parts", schedule, stopping(0))  # the first epoch is not done again
    assert losses(again) == losses(curve)
    for name, value in at_once.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    assert sorted(path.name for path in (tmp_path / "parts").iterdir()) == ["curve.json", "last.ckpt"]


def test_a_training_that_is_done_gives_its_average_again(tmp_path: Path) -> None:
    """As after an interruption between the last epoch and the record of the training."""
    first, second = network(), network()
    curve = train(first, tmp_path)
    assert train(second, tmp_path, data=stopping(0)) == curve, "even the seconds: nothing was done"
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_the_training_itself_is_not_changed_by_the_average(every_step: list[dict[str, Any]], tmp_path: Path) -> None:
    averaged = train(network(), tmp_path / "averaged")
    after = list(every_step)
    every_step.clear()
    last = network()
    plain = train(last, tmp_path / "plain", PLAIN)
    for one, other in zip(after, every_step, strict=True):
        assert torch.equal(one["0.weight"], other["0.weight"])
    assert [point["train_loss"] for point in averaged] == [point["train_loss"] for point in plain]
    assert averaged[-1]["valid_loss"] != plain[-1]["valid_loss"]
    assert torch.equal(last.state_dict()["0.weight"], every_step[-1]["0.weight"]), "without, the last weights are those"


def test_no_average_leaves_checkpoints_and_keys_as_they_were(tmp_path: Path) -> None:
    train(network(), tmp_path, PLAIN)
    assert {"current_model_state", "averaging_state"}.isdisjoint(torch.load(tmp_path / "last.ckpt", weights_only=False))
    assert "averaging" not in PLAIN.for_key()
    assert AVERAGED.for_key() == {**PLAIN.for_key(), "averaging": DECAY}
