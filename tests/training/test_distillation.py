"""What a network learns from another one's outputs: the same after an interruption, and on events that have no truth."""

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from caloedge.catalog import Network, Sample, Task, find
from caloedge.recipe import Schedule, Training

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")
pytest.importorskip("brevitas")

from caloedge.arithmetic import FloatArithmetic  # noqa: E402
from caloedge.training.distillation import TEACHER_ONLY_PERIOD, Distillation, region_weights  # noqa: E402
from caloedge.training.fit import Hardware, fit  # noqa: E402

CPU = Hardware(accelerator="cpu")


@pytest.mark.parametrize("rescaled", [False, True])
def test_a_pupil_of_its_teacher_alone_learns_that(rescaled: bool, tmp_path: Path) -> None:
    """Also in an interrupted run; targets have no share in it, and the factors are drawn again as they were."""
    task, definition = replace(find(Task, "pf_energy"), valid_events=5), find(Network, "pf_energy")
    events = task.open("qcd_jets")
    schedule = Schedule(epochs=3, events_per_epoch=5 * TEACHER_ONLY_PERIOD, batch_size=5, learning_rate=1e-3)
    teacher, pupil = (definition.build(FloatArithmetic(), definition.sizes["trigger"]) for _ in range(2))
    teacher.eval()
    distillation = Distillation(teacher, 1.0, 2.0 if rescaled else None)

    def other_targets(library: Any, split: str, number: int, seed: int) -> Sample[Any]:
        sample = task.sample(library, split, number, seed)
        return replace(sample, targets=3 * sample.targets) if split == "train" else sample

    def interrupted(library: Any, split: str, number: int, seed: int) -> Sample[Any]:
        if (split, seed) == ("train", int(np.random.default_rng(np.random.SeedSequence(2, spawn_key=(1, 0))).integers(2**62))):
            raise KeyboardInterrupt
        return task.sample(library, split, number, seed)

    def run(folder: str, sample: Any) -> dict[str, Any]:
        net = copy.deepcopy(pupil)
        chosen = replace(task, sample=sample)
        fit(net, chosen, events, schedule, tmp_path / folder, stage="quantised", seed=2, hardware=CPU, distillation=distillation)
        return net.state_dict()

    wanted = run("at_once", task.sample)
    with pytest.raises(KeyboardInterrupt):
        run("twice", interrupted)
    torch.manual_seed(99)
    for other in (run("twice", task.sample), run("other", other_targets)):
        assert all(torch.equal(value, other[name]) for name, value in wanted.items())


def test_a_teacher_alone_teaches_regions_of_rescaled_events() -> None:
    torch.manual_seed(1)
    inputs, targets = torch.rand(400, 4, 16, 24) * torch.linspace(0.2, 1, 400).reshape(-1, 1, 1, 1), torch.rand(400, 1, 16, 24)
    inputs[0] = 0
    teacher, pupil = torch.nn.Conv2d(4, 1, 1), torch.nn.Conv2d(4, 1, 1)
    distillation = Distillation(teacher, full_scale=2.0)
    factors = distillation.factors(inputs, 3)
    largest = (inputs * factors)[1:].amax(dim=(1, 2, 3))
    assert factors.shape == (400, 1, 1, 1)
    assert factors.max() == factors[0] == 16
    assert 0.125 * (1 - 1e-6) <= float(largest.min()) < 0.14  # a product of float32
    assert 1.9 < float(largest.max()) <= 2.0 * (1 + 1e-6)  # as above
    weights = region_weights(inputs, 3)
    assert weights.shape == (400, 1, 16, 24)
    assert torch.equal(weights.amax(dim=(2, 3)), torch.ones(400, 1))
    whole = (weights == 1).all(dim=3).all(dim=2)
    assert 150 < int(whole.sum()) < 250
    assert float(weights.mean(dim=(2, 3))[~whole].min()) < 0.2
    assert torch.equal(region_weights(torch.rand(5, 8), 3), torch.ones(1))  # vectors have none
    for drawn in (lambda step: distillation.factors(inputs, step), lambda step: region_weights(inputs, step)):
        assert torch.equal(drawn(3), drawn(3))
        assert not torch.equal(drawn(3), drawn(7))

    def loss(of: Distillation, targets: torch.Tensor, step: int) -> float:
        return of.loss(pupil, torch.nn.functional.mse_loss, inputs, targets, step).item()

    alone = [
        step
        for step in range(2 * TEACHER_ONLY_PERIOD)
        if loss(distillation, targets, step) == loss(distillation, 2 * targets, step)
    ]
    assert alone == [TEACHER_ONLY_PERIOD - 1, 2 * TEACHER_ONLY_PERIOD - 1]
    step = TEACHER_ONLY_PERIOD - 1
    some = inputs * region_weights(inputs, step)
    factors = distillation.factors(some, step)
    with torch.no_grad():
        wanted = ((pupil(some * factors) - teacher(some * factors).clamp(min=0)) / factors).square().mean()
        taught = (pupil(inputs) - teacher(inputs).clamp(min=0)).square().mean() + (pupil(inputs) - targets).square().mean()
    assert loss(distillation, targets, step) == pytest.approx(float(wanted), rel=1e-5)  # float32, in another order
    assert loss(distillation, targets, 0) == pytest.approx(float(taught) / 2, rel=1e-5)  # as above
    assert loss(Distillation(teacher), targets, step) == pytest.approx(float(taught) / 2, rel=1e-5)  # as above


def test_rescaled_batches_need_a_teacher() -> None:
    schedule = Schedule(epochs=1, events_per_epoch=5, batch_size=5, learning_rate=1e-3)
    with pytest.raises(ValidationError, match="distil_on_rescaled needs a quantised_teacher"):
        Training(published=schedule, edge=schedule, quantised=schedule, distil_on_rescaled=True)
