"""The quantised twin of a float network, before it is trained: weights, and ranges of activations and weights."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from caloedge.arithmetic import CALIBRATED, SCALE, Arithmetic, QuantisedArithmetic, folded
from caloedge.recipe import Quantisation
from caloedge.training.equalise import chains, equalised, multiplied, scales
from caloedge.training.fit import predict

HALVINGS = 2
"""How often the range of weights is halved in search of the least rounding error: larger weights then saturate."""
FILTER_SPREAD = 6
"""Filters with smaller weights than 2^-6 of the layer's largest get no finer scale: on their common grid the integer weights are
at most so many bits wider."""
LEAST = 1e-8
"""Range of a layer without weights."""


def quantised(of: Quantisation, largest: Mapping[str, float | Tensor] | None = None) -> QuantisedArithmetic:
    """Return the arithmetic that a recipe asks for; `largest` is left out where weights and scales are loaded later."""
    return QuantisedArithmetic(
        of.weight_bits,
        of.activation_bits,
        of.input_bits,
        of.input_fraction,
        largest or {},
        input_signed=of.input_signed,
        fixed_scales=of.fixed_scales,
        filter_scales=of.filter_scales,
    )


def twin(build: Callable[[Arithmetic], nn.Module], of: Quantisation, edge: nn.Module, inputs: Tensor) -> nn.Module:
    """Build the quantised network with the float edge network's weights, and its activations' ranges on `inputs`."""
    weights, multiplied_by = folded(edge), {}
    if of.equalise:
        found = chains(edge)
        by = scales(edge, found, inputs, of.activation_quantile)
        weights, multiplied_by = equalised(edge, found, weights, by), multiplied(found, by)
    largest: dict[str, float | Tensor] = dict(_activation_max(edge, inputs, of.activation_quantile, multiplied_by))
    if of.fixed_scales:
        kernels = {name.removesuffix(".weight"): value for name, value in weights.items() if name.endswith(".weight")}
        largest |= {name: weight_range(kernel, of.weight_bits, of.filter_scales) for name, kernel in kernels.items()}
    made = build(quantised(of, largest))
    missing, unexpected = made.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert all(SCALE in name for name in missing), missing
    return made


def weight_range(weights: Tensor, bits: int, per_filter: bool) -> Tensor:
    """Return the power of two at which weights (C_out, …) best saturate: of one element, or (C_out, 1, …).

    >>> weight_range(torch.tensor([[0.9, -0.5], [0.1, 0.05]]), 8, True).flatten().tolist()
    [1.0, 0.125]
    """
    rows = weights.flatten(1) if per_filter else weights.flatten()[None]
    top = torch.ceil(torch.log2(rows.abs().amax(1, keepdim=True).clamp(min=LEAST)))
    least = top.max() - FILTER_SPREAD
    ranges = torch.stack([2.0 ** (top - halvings).clamp(min=least) for halvings in range(HALVINGS + 1)])
    levels = 2 ** (bits - 1)
    step = ranges / levels
    errors = ((torch.clamp(torch.round(rows / step), 1 - levels, levels - 1) * step - rows) ** 2).sum(2, keepdim=True)
    best = torch.gather(ranges, 0, errors.argmin(0, keepdim=True))[0]
    return best.reshape(-1, *[1] * (weights.ndim - 1)) if per_filter else best.reshape(())


def _activation_max(edge: nn.Module, inputs: Tensor, quantile: float, multiplied_by: Mapping[str, Tensor]) -> dict[str, float]:
    """Return the largest useful value of each activation of the float network, its channels multiplied as they will be."""
    found: dict[str, float] = {}

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if name in multiplied_by:
                output = output * multiplied_by[name].reshape(-1, *[1] * (output.ndim - 2))
            found[name] = max(float(np.quantile(output.numpy(), quantile)), 1e-3)

        return hook

    hooks = [m.register_forward_hook(note(n)) for n, m in edge.named_modules() if isinstance(m, CALIBRATED)]
    predict(edge, inputs, batch=len(inputs))
    for hook in hooks:
        hook.remove()
    return found
