"""DeepCluster's loss of photons (arXiv 2311.17914)."""

import torch
from torch import Tensor
from torch.nn import functional

from caloedge.catalog import Loss

SEED_WEIGHT, FOCAL_ALPHA, FOCAL_GAMMA = 0.05, 0.25, 2.0


def photon_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return DeepCluster's loss of photons: mean absolute errors of position and energy, and a focal loss of the seeds.

    `outputs` (N, 4) are x, y, energy and the logit of being a seed; `targets` (N, 6) the same and the weights of position and
    energy: 0 where they are not known. Energies are weighted, so that a unit of each photon's own can be used.
    """
    position, energy, seed = outputs[:, :2], outputs[:, 2], outputs[:, 3]
    position_weight, energy_weight, is_seed = targets[:, 4], targets[:, 5], targets[:, 3]
    apart = (position - targets[:, :2]).abs().sum(dim=1)
    positions = (apart * position_weight).sum() / (position_weight > 0).sum().clamp(min=1)
    energies = ((energy - targets[:, 2]).abs() * energy_weight).sum() / (energy_weight > 0).sum().clamp(min=1)
    entropy = functional.binary_cross_entropy_with_logits(seed, is_seed, reduction="none")
    missed = torch.abs(is_seed - torch.sigmoid(seed))
    share = FOCAL_ALPHA * is_seed + (1 - FOCAL_ALPHA) * (1 - is_seed)
    return positions + energies + SEED_WEIGHT * (share * missed**FOCAL_GAMMA * entropy).mean()


LOSS = Loss("positions, energies and seeds of photons (arXiv 2311.17914)", photon_loss, target_weights=2)
