"""The loss of object condensation is that of its formula, pushes where it should, and sees no padding."""

import math

import pytest

torch = pytest.importorskip("torch")

from caloedge.losses import object_condensation as module  # noqa: E402
from caloedge.losses.object_condensation import LOSS, object_condensation  # noqa: E402


def batch(seed: int = 1, events: int = 5, nodes: int = 7):
    """Return outputs and targets: events of up to three objects, noise and padding at the end."""
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(events, nodes, LOSS.outputs, generator=generator)
    number = torch.randint(0, 4, (events, nodes), generator=generator)
    number[:, -2:] = -1
    number[0, :-2] = 0  # an event of noise only
    properties = torch.rand(4, 4, generator=generator) * (torch.arange(4) > 0)[:, None]
    targets = torch.cat([number[..., None], properties[number.clamp(min=0)]], 2).float()
    return outputs, targets


def by_loops(outputs, targets) -> float:
    """Return the loss, written out hit by hit."""
    total = 0.0
    for out, target in zip(outputs.double(), targets.double(), strict=True):
        hits = [n for n in range(len(out)) if target[n, 0] >= 0]
        noise = [n for n in hits if target[n, 0] == 0]
        beta = [1 / (1 + math.exp(-float(row[8]))) for row in out]
        charge = [math.atanh(min(b, module.MOST_BETA)) ** 2 + module.LEAST_CHARGE for b in beta]
        numbers = sorted({int(target[n, 0]) for n in hits if target[n, 0] > 0})
        potential = unsure = errors = 0.0
        for number in numbers:
            members = [n for n in hits if int(target[n, 0]) == number]
            best = max(members, key=lambda n: charge[n])
            unsure += (1 - beta[best]) / len(numbers)
            for n in hits:
                apart = sum(abs(float(out[n, c] - out[best, c])) for c in (5, 6, 7))
                force = apart**2 if n in members else module.REPULSION * max(0.0, module.MARGIN - apart)
                potential += charge[n] * charge[best] * force / len(hits)
            weight = {n: charge[n] - module.LEAST_CHARGE + 1e-3 for n in members}
            for n in members:
                energy = abs(float(out[n, 0] - target[n, 1])) / (float(target[n, 1]) + module.ENERGY_FLOOR_GEV)
                position = sum(abs(float(out[n, c] - target[n, c])) for c in (2, 3, 4)) / module.POSITION_UNIT_M
                share = weight[n] / sum(weight.values()) / len(numbers)
                errors += share * (module.ENERGY_WEIGHT * energy + module.POSITION_WEIGHT * position)
        suppressed = sum(beta[n] for n in noise) / max(1, len(noise))
        signal = sum(-math.log(1 / (1 + math.exp(-float(out[n, 1]) * (1 if target[n, 0] > 0 else -1)))) for n in hits) / max(
            1, len(hits)
        )
        total += potential + unsure + module.BACKGROUND * suppressed + module.SIGNAL_WEIGHT * signal + errors
    return total / len(outputs)


def test_it_is_the_formula_hit_by_hit() -> None:
    for seed in range(3):
        outputs, targets = batch(seed)
        assert float(object_condensation(outputs, targets)) == pytest.approx(by_loops(outputs, targets), rel=1e-4)  # float32


def test_padding_does_not_count() -> None:
    outputs, targets = batch()
    loss = object_condensation(outputs, targets)
    changed = outputs.clone()
    changed[:, -2:] = 5 * torch.randn(5, 2, LOSS.outputs)
    assert torch.equal(object_condensation(changed, targets), loss)
    outputs.requires_grad_()
    object_condensation(outputs, targets).backward()
    assert not outputs.grad[:, -2:].any()
    assert torch.isfinite(outputs.grad).all()


def test_hits_of_one_object_attract_and_of_others_repel() -> None:
    """Two hits, the second with a high charge: the first moves towards it, or away where it is another object's."""
    outputs = torch.zeros(1, 2, LOSS.outputs)
    outputs[0, 1, 8], outputs[0, 0, 5:8] = 3.0, torch.tensor([0.2, 0.2, 0.2])
    for number, sign in ((1.0, 1), (2.0, -1)):
        targets = torch.tensor([[[number, 1, 0, 0, 0], [1.0, 1, 0, 0, 0]]])
        values = outputs.clone().requires_grad_()
        object_condensation(values, targets).backward()
        pull = values.grad[0, 0, 5:8]
        assert (sign * pull > 0).all(), "a step against the gradient goes the wrong way"


def test_an_event_without_hits_has_a_finite_loss() -> None:
    outputs = torch.zeros(2, 4, LOSS.outputs, requires_grad=True)
    targets = torch.full((2, 4, 5), 0.0)
    targets[..., 0] = -1
    loss = object_condensation(outputs, targets)
    loss.backward()
    assert torch.isfinite(loss)
    assert not outputs.grad.any()
