"""Object condensation (arXiv 2002.03605) with Manhattan distances: hits of an object gather around the one that stands for it.

Outputs (B, N, 9) are energy (GeV), logit of being signal, position (m), condensation coordinates and the logit of β of each hit.
Targets (B, N, 5) are the number of the hit's object (1, 2, …; 0 for none, −1 for padding), its energy (GeV) and position (m).
"""

import torch
from torch import Tensor
from torch.nn import functional

from caloedge.catalog import Loss
from caloedge.reconstruction.hit_arrays import COORDINATES, ENERGY, OUTPUTS, POSITION, SIGNAL
from caloedge.reconstruction.hit_arrays import SCORE as BETA

LEAST_CHARGE = 0.1
"""q of a hit with β = 0."""
MOST_BETA = 0.998
"""β from which the charge q = artanh²(β) + `LEAST_CHARGE` grows no more: 12."""
MARGIN = 1.0
"""Distance from which other objects' hits are no longer pushed away."""
REPULSION, BACKGROUND, SIGNAL_WEIGHT, ENERGY_WEIGHT, POSITION_WEIGHT = 2.0, 1.0, 1.0, 1.0, 1.0
ENERGY_FLOOR_GEV = 0.05
"""Errors are relative to the energy and this."""
POSITION_UNIT_M = 0.08


def object_condensation(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of a batch, the mean over events."""
    number = targets[..., 0].long()
    valid = (number >= 0).float()
    noise = (number == 0).float()
    beta = torch.sigmoid(outputs[..., BETA])
    charge = torch.atanh(beta.clamp(max=MOST_BETA)) ** 2 + LEAST_CHARGE
    objects = int(number.max().clamp(min=1))
    belongs = functional.one_hot(number.clamp(min=0), objects + 1)[..., 1:].float()  # (B, N, K)
    exists = (belongs.sum(1) > 0).float()  # (B, K)
    # The hit of the largest charge stands for its object.
    best = (charge.detach().unsqueeze(2) * belongs).argmax(1)  # (B, K)
    best_beta = torch.gather(beta, 1, best)
    best_charge = torch.gather(charge, 1, best) * exists
    coordinates = outputs[..., COORDINATES]
    centres = torch.gather(coordinates, 1, best.unsqueeze(2).expand(-1, -1, coordinates.shape[2]))
    apart = (coordinates.unsqueeze(2) - centres.unsqueeze(1)).abs().sum(3)  # (B, N, K)
    potential = belongs * apart**2 + REPULSION * (1 - belongs) * torch.relu(MARGIN - apart)
    hits = valid.sum(1).clamp(min=1)
    potential = (charge * valid * (potential * best_charge.unsqueeze(1)).sum(2)).sum(1) / hits
    unsure = ((1 - best_beta) * exists).sum(1) / exists.sum(1).clamp(min=1)
    suppressed = (beta * noise).sum(1) / noise.sum(1).clamp(min=1)
    signal = functional.binary_cross_entropy_with_logits(outputs[..., SIGNAL], (number > 0).float(), reduction="none")
    loss = potential + unsure + BACKGROUND * suppressed + SIGNAL_WEIGHT * (signal * valid).sum(1) / hits
    return (loss + _properties(outputs, targets, charge, belongs)).mean()


def _properties(outputs: Tensor, targets: Tensor, charge: Tensor, belongs: Tensor) -> Tensor:
    """Return the errors (B,) of energies and positions: of each object the mean over its hits, weighted by their charge."""
    owned = belongs.sum(2)
    energy = (outputs[..., ENERGY] - targets[..., 1]).abs() / (targets[..., 1] + ENERGY_FLOOR_GEV)
    position = (outputs[..., POSITION] - targets[..., 2:5]).abs().sum(2) / POSITION_UNIT_M
    errors = (ENERGY_WEIGHT * energy + POSITION_WEIGHT * position) * owned
    weights = (charge - LEAST_CHARGE + 1e-3).detach().unsqueeze(2) * belongs
    weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-6)
    objects = (belongs.sum(1) > 0).sum(1).clamp(min=1)
    return (weights * errors.unsqueeze(2)).sum((1, 2)) / objects


LOSS = Loss("hits of an object gather around the one that stands for it (arXiv 2002.03605)", object_condensation, outputs=OUTPUTS)
