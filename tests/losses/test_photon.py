"""The loss of photons against its definition, counted photon by photon."""

from typing import Any

import numpy as np
import pytest

from caloedge.catalog import Loss, find

torch = pytest.importorskip("torch")
from caloedge.losses.photon import photon_loss  # noqa: E402


def random_photons(n: int, seed: int) -> tuple[Any, Any]:
    """Return outputs (N, 4) and targets (N, 6) of seeds, windows near a photon and windows near none."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 3, n)
    outputs = rng.normal(0, [0.5, 0.5, 1, 3], (n, 4))
    targets = np.column_stack(
        [rng.uniform(-1, 1, (n, 2)), rng.normal(size=n), kind == 0, kind < 2, 0.3 * 2 ** rng.integers(0, 8, n)]
    )
    targets[kind == 2, :2] = 0
    targets[kind > 0, 2] = targets[kind > 0, 5] = 0
    return torch.tensor(outputs, requires_grad=True), torch.tensor(targets)


def plain_photon_loss(outputs: np.ndarray, targets: np.ndarray) -> float:
    positions, energies, seeds = [], [], []
    for (x, y, e, logit), (true_x, true_y, true_e, is_seed, of_position, of_energy) in zip(outputs, targets, strict=True):
        if of_position > 0:
            positions.append(of_position * (abs(x - true_x) + abs(y - true_y)))
        if of_energy > 0:
            energies.append(of_energy * abs(e - true_e))
        probability = 1 / (1 + np.exp(-logit))
        right = probability if is_seed else 1 - probability
        seeds.append((0.25 if is_seed else 0.75) * (1 - right) ** 2 * -np.log(right))
    return sum(positions) / max(len(positions), 1) + sum(energies) / max(len(energies), 1) + 0.05 * sum(seeds) / len(seeds)


@pytest.mark.parametrize("keep", ["all", "seeds", "near", "none"])
def test_the_photon_loss_is_its_definition(keep: str) -> None:
    assert find(Loss, "photon").function is photon_loss
    outputs, targets = random_photons(400, 1)
    wanted = {"all": targets[:, 4] >= 0, "seeds": targets[:, 3] > 0, "near": (targets[:, 3] == 0) & (targets[:, 4] > 0)}
    kept = wanted.get(keep, targets[:, 4] == 0)
    assert kept.sum() > 50
    outputs, targets = outputs.detach()[kept], targets[kept]
    # 1e-9: sums of doubles in another order
    assert float(photon_loss(outputs, targets)) == pytest.approx(
        plain_photon_loss(outputs.numpy(), targets.numpy()), rel=1e-9
    )  # doubles
    twice = photon_loss(torch.cat([outputs, outputs]), torch.cat([targets, targets]))
    assert float(twice) == pytest.approx(float(photon_loss(outputs, targets)), rel=1e-9)  # doubles, in another order


def test_the_photon_loss_of_the_truth_is_zero() -> None:
    _, targets = random_photons(300, 2)
    sure = torch.column_stack([targets[:, :3], 200 * targets[:, 3] - 100])
    assert float(photon_loss(sure, targets)) < 1e-30
    for output in range(4):
        wrong = sure.clone()
        wrong[:, output] *= -1
        wrong[:, output] += 0.1
        assert float(photon_loss(wrong, targets)) > 1e-2, f"output {output}"


def test_what_is_not_known_is_not_learned() -> None:
    outputs, targets = random_photons(300, 3)
    photon_loss(outputs, targets).backward()
    far, no_seed = targets[:, 4] == 0, targets[:, 5] == 0
    assert (outputs.grad[far][:, :2] == 0).all()
    assert (outputs.grad[no_seed][:, 2] == 0).all()
    assert (outputs.grad[~far][:, :2] != 0).all()
    assert (outputs.grad[~no_seed][:, 2] != 0).all()
    assert (outputs.grad[:, 3] != 0).all()
    # An error of 1 GeV counts the same for every photon: gradients are proportional to the units of the energies.
    seeds = ~no_seed
    torch.testing.assert_close(outputs.grad[seeds][:, 2].abs() * seeds.sum(), targets[seeds][:, 5])


@pytest.mark.parametrize("size", [0, 30, 1e3, 1e30])
def test_gradients_are_finite_for_any_outputs(size: float) -> None:
    _, targets = random_photons(200, 4)
    sign = torch.tensor(np.random.default_rng(5).choice([-1.0, 1.0], (200, 4)))
    outputs = (size * sign).float().requires_grad_()
    loss = photon_loss(outputs, targets.float())
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(outputs.grad).all()
