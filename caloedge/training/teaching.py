"""What a network learns from the outputs of another one (arXiv 1503.02531)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ALONE = 4
"""One batch of so many is taught by the teacher alone, if some are."""
LEAST_FACTOR, MOST_FACTOR = 0.25, 16.0
"""On its events: as outputs are divided by them, small ones make small energies count."""


@dataclass(frozen=True)
class Teaching:
    """What is learnt from another network's outputs."""

    teacher: nn.Module
    share: float = 0.5
    """Of the loss that is taken against them instead of the targets."""
    full_scale: float | None = None
    """Of the inputs, if some batches are to be taught by the teacher alone, as there is no truth for them: events multiplied by
    random factors, from `LEAST_FACTOR` to where the largest input reaches it, `MOST_FACTOR` at most."""

    def loss(
        self, network: nn.Module, of: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, targets: Tensor, step: int
    ) -> Tensor:
        """Return the loss of one batch."""
        alone = self.full_scale is not None and step % ALONE == ALONE - 1
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
        most = (self.full_scale / largest.clamp(min=self.full_scale / MOST_FACTOR)).clamp(min=1.0)
        chance = torch.rand(shape, generator=torch.Generator().manual_seed(step)).to(inputs)
        factors: Tensor = LEAST_FACTOR * (most / LEAST_FACTOR) ** chance
        return factors
