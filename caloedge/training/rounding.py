"""Round the weights of a quantised network one after the other: those still to come make up for the error (arXiv 2210.17323).

The inputs of a wide layer are correlated, pixels and channels beside each other most of all, so that many sets of rounded
weights give nearly the same sums. Layers are taken in the order of the network, each on inputs as the rounded ones before give.
Axes: O output channel, I product of one output, N patch of inputs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

NARROW = 256
"""Layers with fewer products for each output do not make up for errors: they are rounded before training instead."""
EVENTS = 300
PATCHES = 150_000
"""On which correlations are taken."""
DAMPING = 1e-3
"""Part of the mean square input that is added to all of them: what was never seen together is not exchanged."""
BLOCK = 128
"""Weights after which the error is passed on to all others."""
MOST_CHANGES = 2000
"""Of single codes of a filter, after all are rounded."""
HALVINGS = 1
"""How often the range of a filter's weights is halved in search of the least error."""


def products(layer: nn.Module) -> int:
    """Return the number of products of one output."""
    kernel: Tensor = layer.weight  # type: ignore[assignment]
    return kernel[0].numel()


def wide(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers whose weights are rounded one after the other, by name and in order."""
    kinds = (nn.Conv2d, nn.Linear)
    return {n: m for n, m in network.named_modules() if isinstance(m, kinds) and products(m) >= NARROW}


@torch.no_grad()
def round_wide_layers(
    network: nn.Module, inputs: Tensor, bits: int, least: float, places: Mapping[str, Sequence[Sequence[int]]]
) -> None:
    """Put rounded weights and their scales into a quantised network whose filters have scales of their own.

    `inputs` (N, …) are training events. No filter gets a finer scale than `least` times that of its layer's largest. `places`
    are the filters (O) of each layer that are copies of each other.
    """
    for name, layer in wide(network).items():
        patches_NI = _patches(network, layer, inputs)
        mean_I = patches_NI.mean(0).double()
        correlation_II = (patches_NI.T @ patches_NI).double() / len(patches_NI)
        correlation_II += DAMPING * correlation_II.diagonal().mean() * torch.eye(len(correlation_II))
        kernel: Any = layer.weight
        wanted_OI = kernel.flatten(1).double()
        found_OI, range_O = _with_copies(wanted_OI, correlation_II, bits, least, places.get(name, ()))
        kernel.copy_(found_OI.reshape(kernel.shape))
        bias: Any = layer.bias
        if bias is not None:
            bias += ((wanted_OI - found_OI) @ mean_I).float()
        exponents: Any = layer.weight_quant.tensor_quant.scaling_impl.value  # type: ignore[union-attr]
        exponents.copy_(torch.log2(range_O).reshape(exponents.shape))


def _patches(network: nn.Module, layer: nn.Module, inputs: Tensor) -> Tensor:
    """Return what the layer sees (N, I) for some outputs, drawn with the same seed always."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda _m, given: seen.append(getattr(given[0], "value", given[0]).float()))
    for part in torch.split(inputs, 25):
        network(part)
    hook.remove()
    values = torch.cat(seen)
    generator = torch.Generator().manual_seed(0)
    if not isinstance(layer, nn.Conv2d):
        return values[torch.randint(len(values), (min(PATCHES, len(values)),), generator=generator)]
    assert layer.stride == (1, 1)
    assert layer.dilation == (1, 1)
    assert not isinstance(layer.padding, str)
    (up, left), (high, across) = layer.padding, layer.kernel_size
    padded = functional.pad(values, (left, left, up, up))
    sides = (len(values), padded.shape[2] - high + 1, padded.shape[3] - across + 1)
    event_N, row_N, column_N = (torch.randint(side, (PATCHES,), generator=generator) for side in sides)
    views = [padded[event_N, :, row_N + i, column_N + j] for i in range(high) for j in range(across)]
    return torch.stack(views, dim=2).flatten(1)


def _with_copies(
    wanted_OI: Tensor, correlation_II: Tensor, bits: int, least: float, groups: Sequence[Sequence[int]]
) -> tuple[Tensor, Tensor]:
    """Round filters, copies after each other: the sum of a group's filters makes up for its members' errors."""
    found_OI, range_O = wanted_OI.clone(), torch.ones(len(wanted_OI), dtype=torch.float64)
    turn = {row: i for group in groups for i, row in enumerate(group)}
    error_OI = torch.zeros_like(wanted_OI)  # of the copies before, at the place of the first
    first = {row: group[0] for group in groups for row in group}
    largest = float(wanted_OI.abs().max())
    for number in range(1 + max(turn.values(), default=0)):
        rows = [row for row in range(len(wanted_OI)) if turn.get(row, 0) == number]
        heads = [first.get(row, row) for row in rows]
        target_RI = wanted_OI[rows] + error_OI[heads]
        found_OI[rows], range_O[rows] = _in_turn(target_RI, correlation_II, bits, least * largest)
        error_OI[heads] = target_RI - found_OI[rows]
    return found_OI, range_O


def _in_turn(wanted_OI: Tensor, correlation_II: Tensor, bits: int, least: float) -> tuple[Tensor, Tensor]:
    """Return rounded filters and their ranges (O,), powers of two, from those tried that lose least."""
    top_O1 = 2.0 ** torch.ceil(torch.log2(wanted_OI.abs().amax(1, keepdim=True).clamp(min=max(least, 1e-8))))
    order = correlation_II.diagonal().argsort(descending=True, stable=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(correlation_II[order][:, order]))
    passed_II = torch.linalg.cholesky(inverse, upper=True)
    levels = 2 ** (bits - 1)
    tried, errors = [], []
    for halvings in range(HALVINGS + 1):
        step_O1 = top_O1 / 2**halvings / levels
        rest_OI, rounded_OI = wanted_OI[:, order].clone(), torch.zeros_like(wanted_OI)
        for start in range(0, len(order), BLOCK):
            stop = min(start + BLOCK, len(order))
            scaled = torch.zeros(len(wanted_OI), stop - start, dtype=wanted_OI.dtype)
            for i in range(start, stop):
                rounded_OI[:, i : i + 1] = torch.round(rest_OI[:, i : i + 1] / step_O1).clamp(1 - levels, levels - 1) * step_O1
                scaled[:, i - start] = (rest_OI[:, i] - rounded_OI[:, i]) / passed_II[i, i]
                rest_OI[:, i:stop] -= scaled[:, i - start : i - start + 1] * passed_II[i, i:stop]
            rest_OI[:, stop:] -= scaled @ passed_II[start:stop, stop:]
        found_OI = torch.zeros_like(wanted_OI)
        found_OI[:, order] = rounded_OI
        found_OI = _descended(found_OI, wanted_OI, correlation_II, step_O1, levels)
        apart = found_OI - wanted_OI
        tried.append(found_OI)
        errors.append(((apart @ correlation_II) * apart).sum(1))
    best_O = torch.stack(errors).argmin(0)
    return torch.stack(tried)[best_O, torch.arange(len(wanted_OI))], top_O1[:, 0] / 2.0**best_O


def _descended(found_OI: Tensor, wanted_OI: Tensor, correlation_II: Tensor, step_O1: Tensor, levels: int) -> Tensor:
    """Change single codes by one for as long as that lowers the error of their filter."""
    codes_OI = torch.round(found_OI / step_O1)
    slope_OI = (found_OI - wanted_OI) @ correlation_II
    rows = torch.arange(len(codes_OI))
    for _ in range(MOST_CHANGES):
        curve_OI = step_O1**2 * correlation_II.diagonal()
        up_OI = (curve_OI + 2 * step_O1 * slope_OI).masked_fill(codes_OI >= levels - 1, 0)
        down_OI = (curve_OI - 2 * step_O1 * slope_OI).masked_fill(codes_OI <= 1 - levels, 0)
        change_O, place_O = torch.minimum(up_OI, down_OI).min(1)
        sign_O = torch.where(up_OI[rows, place_O] <= down_OI[rows, place_O], 1.0, -1.0) * (change_O < 0)
        if not sign_O.any():
            break
        codes_OI[rows, place_O] += sign_O
        slope_OI += (sign_O * step_O1[:, 0])[:, None] * correlation_II[place_O]
    return codes_OI * step_O1
