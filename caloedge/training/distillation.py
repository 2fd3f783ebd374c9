"""What a network learns from the outputs of another one (arXiv 1503.02531)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

TEACHER_ONLY_PERIOD = 8
"""One batch of so many is taught by the teacher alone, if some are."""
LEAST_SHARE, MOST_FACTOR = 1 / 16, 16.0
"""On its events: the largest input is from this share of the full scale to all of it, if factors are not larger. As outputs are
divided by the factors, small ones make small energies count."""
REGION_PIXELS = 8
SHARPEST = 16.0
"""Weights of regions are a random height to a random power up to this one, in half of the events; 1 in the others."""
DRAW_VERSION = "regions 2"
"""Name of how these events are drawn, which decides the result: another number wherever that or a figure above changes."""


@dataclass(frozen=True)
class Distillation:
    """What is learnt from another network's outputs."""

    teacher: nn.Module
    share: float = 0.5
    """Of the loss that is taken against them instead of the targets."""
    full_scale: float | None = None
    """Of the inputs, if some batches are to be taught by the teacher alone, as there is no truth for them: events multiplied by
    random factors, and images also by weights that leave some regions of them."""

    def loss(
        self, network: nn.Module, of: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor, step: int
    ) -> Tensor:
        """Return the loss of one batch."""
        alone = self.full_scale is not None and step % TEACHER_ONLY_PERIOD == TEACHER_ONLY_PERIOD - 1
        if alone:
            inputs = inputs * region_weights(inputs, step)
        given = self.factors(inputs, step) if alone else inputs.new_ones(1)
        outputs = network(inputs * given).float()
        factors = given.float().reshape(-1, *[1] * (outputs.ndim - 1))
        outputs = outputs / factors
        with torch.no_grad():
            taught = (self.teacher.to(inputs)(inputs * given).float() / factors).clamp(min=0)
        learnt = of(outputs, taught)
        return learnt if alone else (1 - self.share) * of(outputs, targets) + self.share * learnt

    def factors(self, inputs: Tensor, step: int) -> Tensor:
        """Draw the factors of events (N, …), as (N, 1, …); of the step alone, so that a resumed run draws the same."""
        assert self.full_scale is not None
        shape = (len(inputs), *[1] * (inputs.ndim - 1))
        largest = inputs.flatten(1).abs().amax(1).reshape(shape)
        chance = torch.rand(shape, generator=torch.Generator().manual_seed(step)).to(inputs)
        factors: Tensor = (self.full_scale * LEAST_SHARE**chance / largest).clamp(max=MOST_FACTOR)
        return factors


def region_weights(inputs: Tensor, step: int) -> Tensor:
    """Draw weights of the pixels of images (N, C, H, W), as (N, 1, H, W): from all alike to a few regions; 1 for other inputs."""
    if inputs.ndim != 4:
        return inputs.new_ones(1)
    chance = torch.Generator().manual_seed(-1 - step)
    sides = [max(2, side // REGION_PIXELS) for side in inputs.shape[2:]]
    heights = torch.rand((len(inputs), 1, *sides), generator=chance)
    heights = functional.interpolate(heights, size=inputs.shape[2:], mode="bilinear", align_corners=True)
    powers = SHARPEST * (2 * torch.rand((len(inputs), 1, 1, 1), generator=chance) - 1).clamp(min=0)
    return ((heights / heights.amax((2, 3), keepdim=True)) ** powers).to(inputs)
