"""Round the weights of a network one layer after the other: those still to come make up for the error (arXiv 2210.17323).

The inputs of a layer are correlated, pixels and channels beside each other most of all, so that many sets of rounded weights
give nearly the same sums. Layers are taken in the order of the network, each on inputs as the rounded ones before give; its
sums are to be those of the network whose weights are not rounded, on that network's own inputs (arXiv 2504.02692).
Axes: O output channel, I product of one output, N patch of inputs.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

NARROW = 256
"""Layers with fewer products for each output are rounded before training: later ones make up for them."""
PATCHES = 600_000
"""From which correlations are taken, if there are so many: 192 events of 56 × 56 pixels."""
PIXELS_PER_PART = 10 * 56 * 56
"""Number of input pixels that go through the network at once: wide layers' patches of these take 0.2 GB."""
DAMPING = 1e-3
"""Part of the mean square input that is added to all of them: what was never seen together is not exchanged."""
BLOCK = 128
"""Weights after which the error is passed on to all others."""
MOST_DESCENT_STEPS = 2000
"""Of single codes of a filter, after all are rounded."""
LEAST = 1e-12
"""Added to what may be 0."""
LEAST_RANGE = 1e-8
"""Of a layer without weights."""
HALVINGS = 1
"""How often the range of a filter's weights is halved in search of the least error."""


def weighted(network: nn.Module) -> dict[str, nn.Module]:
    """Return the layers that have weights, by name and in order."""
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, nn.Conv2d | nn.Linear)}


def is_wide(layer: nn.Module) -> bool:
    """Tell whether a layer has enough products for each output to make up for errors."""
    return int(layer.weight[0].numel()) >= NARROW  # type: ignore[index]


@torch.no_grad()
def gptq_layers(
    network: nn.Module,
    unrounded: nn.Module,
    names: Sequence[str],
    inputs: Tensor,
    bits: int,
    least: float,
    places: Mapping[str, Sequence[Sequence[int]]] | None = None,
) -> None:
    """Round the weights of some layers of a float network; each filter has a power of two of its own as its range.

    `unrounded` has the same layers, and `inputs` (N, …) are training events. No filter gets a finer range than `least` times that
    of its layer's largest weight. `places` are the filters (O) of each layer that are copies of each other.
    """
    for name in names:
        seen = _moments(network, unrounded, name, inputs)
        layer: Any = weighted(network)[name]
        weights_OI = layer.weight.flatten(1).double()
        floor = max(LEAST_RANGE, least * float(weights_OI.abs().max()))
        n_groups = getattr(layer, "groups", 1)
        filters, products = len(weights_OI) // n_groups, weights_OI.shape[1]
        for group in range(n_groups):
            at_O, at_I = (slice(group * size, (group + 1) * size) for size in (filters, products))
            rounded_II, crossed_II = seen.rounded_II[at_I, at_I], seen.crossed_II[at_I, at_I]
            target_OI = weights_OI[at_O] @ torch.linalg.solve(rounded_II, crossed_II, left=False)
            copies = (places or {}).get(name, ()) if n_groups == 1 else ()
            rounded_OI = _with_copies(target_OI, rounded_II, bits, floor, copies)
            layer.weight[at_O] = rounded_OI.reshape(layer.weight[at_O].shape).float()
            if layer.bias is not None:
                layer.bias[at_O] += (weights_OI[at_O] @ seen.mean_I[at_I] - rounded_OI @ seen.rounded_mean_I[at_I]).float()


@dataclass(frozen=True)
class _Moments:
    """What a layer sees; around the means, if it has a bias, which takes these."""

    mean_I: Tensor
    """In the network whose weights are not rounded."""
    rounded_mean_I: Tensor
    rounded_II: Tensor
    """Correlations of what it sees in the rounded network."""
    crossed_II: Tensor
    """Correlations of what it sees in one network, and in the other rounded one."""


@torch.no_grad()
def _moments(network: nn.Module, unrounded: nn.Module, name: str, inputs: Tensor) -> _Moments:
    layer, other = weighted(network)[name], weighted(unrounded)[name]
    size = int(layer.weight[0].numel()) * getattr(layer, "groups", 1)  # type: ignore[index]
    mean_I, rounded_mean_I = torch.zeros(size).double(), torch.zeros(size).double()
    rounded_II, crossed_II = torch.zeros(size, size).double(), torch.zeros(size, size).double()
    n, offset_I = 0, torch.zeros(size)
    for unrounded_NI, rounded_NI in zip(_patches(unrounded, other, inputs), _patches(network, layer, inputs), strict=True):
        if not n and layer.bias is not None:
            offset_I = rounded_NI.mean(0)  # or small differences of large numbers are lost
        unrounded_NI, rounded_NI = unrounded_NI - offset_I, rounded_NI - offset_I
        n += len(unrounded_NI)
        mean_I += unrounded_NI.sum(0)
        rounded_mean_I += rounded_NI.sum(0)
        rounded_II += rounded_NI.T @ rounded_NI
        crossed_II += unrounded_NI.T @ rounded_NI
    for values in (mean_I, rounded_mean_I, rounded_II, crossed_II):
        values /= n
    if layer.bias is not None:
        rounded_II -= torch.outer(rounded_mean_I, rounded_mean_I)
        crossed_II -= torch.outer(mean_I, rounded_mean_I)
    damping_II = (DAMPING * rounded_II.diagonal().mean() + LEAST) * torch.eye(size)
    return _Moments(mean_I + offset_I, rounded_mean_I + offset_I, rounded_II + damping_II, crossed_II + damping_II)


def _patches(network: nn.Module, layer: nn.Module, inputs: Tensor) -> Iterator[Tensor]:
    """Yield what the layer sees (N, I) for all its outputs, some events after the others."""
    seen: list[Tensor] = []
    n = 0
    hook = layer.register_forward_pre_hook(lambda _m, layer_inputs: seen.append(layer_inputs[0]))
    try:
        for part in torch.split(inputs, max(1, PIXELS_PER_PART // inputs.shape[2:].numel())):
            network(part)
            values = seen.pop()
            if isinstance(layer, nn.Conv2d):
                assert not isinstance(layer.padding, str)
                unfolded = functional.unfold(values, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
                values = unfolded.transpose(1, 2)
            yield values.reshape(-1, values.shape[-1])
            n += values.shape[:-1].numel()
            if n >= PATCHES:
                break
    finally:
        hook.remove()


def _with_copies(target_OI: Tensor, correlation_II: Tensor, bits: int, floor: float, groups: Sequence[Sequence[int]]) -> Tensor:
    """Round filters, copies after each other: the sum of a group's filters makes up for its members' errors."""
    rounded_OI = target_OI.clone()
    turn = {row: i for group in groups for i, row in enumerate(group)}
    error_OI = torch.zeros_like(target_OI)  # of the copies before, at the place of the first
    first = {row: group[0] for group in groups for row in group}
    for number in range(1 + max(turn.values(), default=0)):
        rows = [row for row in range(len(target_OI)) if turn.get(row, 0) == number]
        heads = [first.get(row, row) for row in rows]
        target_RI = target_OI[rows] + error_OI[heads]
        rounded_OI[rows] = _gptq_rows(target_RI, correlation_II, bits, floor)
        error_OI[heads] = target_RI - rounded_OI[rows]
    return rounded_OI


def _gptq_rows(target_OI: Tensor, correlation_II: Tensor, bits: int, floor: float) -> Tensor:
    """Return rounded filters; of the ranges tried, powers of two of at least `floor`, each has the one that loses least."""
    least, *_ = 2.0 ** torch.ceil(torch.log2(torch.tensor([floor]))).double()
    top_O1 = (2.0 ** torch.ceil(torch.log2(target_OI.abs().amax(1, keepdim=True).clamp(min=LEAST_RANGE)))).clamp(min=least)
    order = correlation_II.diagonal().argsort(descending=True, stable=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(correlation_II[order][:, order]))
    passed_II = torch.linalg.cholesky(inverse, upper=True)
    levels = 2 ** (bits - 1)
    tried, errors = [], []
    for halvings in range(HALVINGS + 1):
        step_O1 = (top_O1 / 2**halvings).clamp(min=least) / levels
        rest_OI, rounded_OI = target_OI[:, order].clone(), torch.zeros_like(target_OI)
        for start in range(0, len(order), BLOCK):
            stop = min(start + BLOCK, len(order))
            scaled = torch.zeros(len(target_OI), stop - start, dtype=target_OI.dtype)
            for i in range(start, stop):
                rounded_OI[:, i : i + 1] = torch.round(rest_OI[:, i : i + 1] / step_O1).clamp(1 - levels, levels - 1) * step_O1
                scaled[:, i - start] = (rest_OI[:, i] - rounded_OI[:, i]) / passed_II[i, i]
                rest_OI[:, i:stop] -= scaled[:, i - start : i - start + 1] * passed_II[i, i:stop]
            rest_OI[:, stop:] -= scaled @ passed_II[start:stop, stop:]
        filters_OI = torch.zeros_like(target_OI)
        filters_OI[:, order] = rounded_OI
        filters_OI = _coordinate_descent(filters_OI, target_OI, correlation_II, step_O1, levels)
        apart = filters_OI - target_OI
        tried.append(filters_OI)
        errors.append(((apart @ correlation_II) * apart).sum(1))
    best_O = torch.stack(errors).argmin(0)
    return torch.stack(tried)[best_O, torch.arange(len(target_OI))]


def _coordinate_descent(rounded_OI: Tensor, target_OI: Tensor, correlation_II: Tensor, step_O1: Tensor, levels: int) -> Tensor:
    """Change single codes by one for as long as that lowers the error of their filter."""
    codes_OI = torch.round(rounded_OI / step_O1)
    slope_OI = (rounded_OI - target_OI) @ correlation_II
    rows = torch.arange(len(codes_OI))
    for _ in range(MOST_DESCENT_STEPS):
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
