"""The loss of energy images (arXiv 2410.07250)."""

import torch
from torch import Tensor

from caloedge.catalog import Loss
from caloedge.metrics.ssim import blur, ssim

SSIM_WEIGHT = 0.05


def weighted_mean_square(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean over events of Σ y (ŷ − y)² / Σ y over all pixels, of images (N, 1, H, W)."""
    weighted = (targets * (outputs - targets) ** 2).sum(dim=(1, 2, 3))
    return (weighted / (targets.sum(dim=(1, 2, 3)) + 1e-8)).mean()


def image_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of energy images: errors weighted by energy, and 0.05 (1 − SSIM)."""
    rows, columns = (torch.from_numpy(blur(side)).to(outputs) for side in outputs.shape[2:])
    similarity = ssim(outputs[:, 0], targets[:, 0], rows, columns).mean()
    assert isinstance(similarity, Tensor)
    return weighted_mean_square(outputs, targets) + SSIM_WEIGHT * (1 - similarity)


LOSS = Loss("energy images: errors weighted by energy, and similarity (arXiv 2410.07250)", image_loss, distillable=True)
