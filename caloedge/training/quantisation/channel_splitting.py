"""Split channels that lose most by rounding, at the cost of channels that carry least (after arXiv 1901.09504).

A channel may be replaced by K copies of itself, each read with 1/K of the weights: a float network computes the same. Where the
copies' biases are apart by 1/K of a step, the sum of their codes is the code of a step K times finer. Room for copies comes from
channels whose loss changes the outputs little; training heals that. So a network keeps its size and loses less by rounding.

Changes of outputs are mean squares, each weighted by the size of the float network's output, as in the loss of energy images.
Axes: C channel, K copy.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor, nn

from caloedge.training.fit import predict
from caloedge.training.quantisation.channel_regions import Region, is_depthwise, rectifier

EVENTS = 40
"""On which losses are measured."""
RECOVERY_FACTOR = 5.0
"""Training makes up for so much of what pruning a channel costs at first: it is pruned for a copy that gains a fifth of that."""


@dataclass(frozen=True)
class Losses:
    """What the channels (C,) of one layer cost: the weighted mean square change of the outputs."""

    pruning_loss_C: Tensor
    """When the channel's values are replaced by their mean, or by 0 in front of a gate."""
    rounding_loss_C: Tensor
    """When the channel alone is rounded."""
    mean_C: Tensor
    """Of the channel's values."""


def can_split(network: nn.Module, region: Region) -> bool:
    """Tell whether copies of a region's channels can be made: biases set them apart, and no layer takes channels one by one."""
    modules = dict(network.named_modules())
    biased = getattr(modules[region.source], "bias", None) is not None
    return biased and not any(is_depthwise(modules[name]) for name in (region.source, *region.sinks))


def losses(network: nn.Module, region: Region, inputs: Tensor, step: float) -> Losses:
    """Measure what the channels of one region cost on `inputs` (N, …) of a float network, with the step of their codes."""
    modules = dict(network.named_modules())
    first, last = rectifier(network, region), region.path[-1]
    values: dict[str, Tensor] = {}
    hook = modules[last].register_forward_hook(lambda _m, _i, out: values.update(last=out))
    reference = predict(network, inputs, batch=len(inputs))
    hook.remove()
    mean_C = values["last"].transpose(0, 1).flatten(1).mean(1)

    def cost(change: Callable[[Tensor], Tensor]) -> float:
        hook = modules[first].register_forward_hook(lambda _m, _i, out: change(out))
        apart = predict(network, inputs, batch=len(inputs)) - reference
        hook.remove()
        weight = reference.abs()
        return float((weight * apart**2).sum() / weight.sum())

    def replaced(channel: int, value: float) -> Callable[[Tensor], Tensor]:
        def change(output: Tensor) -> Tensor:
            output = output.clone()
            output[:, channel] = value
            return output

        return change

    def rounded(channel: int) -> Callable[[Tensor], Tensor]:
        def change(output: Tensor) -> Tensor:
            output = output.clone()
            output[:, channel] = torch.round(output[:, channel] / step) * step
            return output

        return change

    channels = range(len(mean_C))
    without = [cost(replaced(c, 0.0 if region.gates else float(mean_C[c]))) for c in channels]
    noise = [cost(rounded(c)) for c in channels]
    return Losses(torch.tensor(without), torch.tensor(noise), mean_C)


def n_copies(channel_losses: Losses, recovery_factor: float = RECOVERY_FACTOR) -> Tensor:
    """Return how many copies (C,) of each channel serve best: 0 for those that are pruned.

    K copies round K times finer, so they lose 1/K² as much.

    >>> n_copies(Losses(torch.tensor([9.0, 0.01, 9.0]), torch.tensor([0.5, 0.0, 0.1]), torch.zeros(3))).tolist()
    [2, 0, 1]
    """
    copies_C = torch.ones(len(channel_losses.pruning_loss_C), dtype=torch.int64)
    for channel in channel_losses.pruning_loss_C.argsort(stable=True).tolist():
        gain_C = channel_losses.rounding_loss_C * (1 / copies_C.clamp(min=1) ** 2 - 1 / (copies_C + 1) ** 2)
        gain_C[copies_C == 0] = -1
        gain_C[channel] = -1
        best = int(gain_C.argmax())
        if copies_C[channel] > 1 or channel_losses.pruning_loss_C[channel] > recovery_factor * gain_C[best]:
            break
        copies_C[channel] = 0
        copies_C[best] += 1
    return copies_C


def pruned(region: Region, weights: Mapping[str, Tensor], copies_C: Tensor, mean_C: Tensor) -> dict[str, Tensor]:
    """Return weights without the channels that have no copy; biases of the layers that take them take their means, if known."""
    changed, gone_C = dict(weights), copies_C == 0
    for sink in region.sinks:
        kernel = changed[f"{sink}.weight"].clone()
        if not region.gates and f"{sink}.bias" in changed:
            lost = torch.tensordot(kernel.flatten(2).sum(2) if kernel.ndim > 2 else kernel, mean_C * gone_C, dims=1)
            changed[f"{sink}.bias"] = changed[f"{sink}.bias"] + lost
        kernel[:, gone_C] = 0
        changed[f"{sink}.weight"] = kernel
    for name in (f"{region.source}.weight", f"{region.source}.bias", *(f"{gate}.weight" for gate in region.gates)):
        if name in changed:
            changed[name] = changed[name] * (~gone_C).reshape(-1, *[1] * (changed[name].ndim - 1))
    return changed


def copy_places(copies_C: Tensor) -> list[list[int]]:
    """Return where the copies of each channel that has several go: its own place and those of pruned channels.

    >>> copy_places(torch.tensor([2, 0, 1]))
    [[0, 1]]
    """
    free = iter((copies_C == 0).nonzero().flatten().tolist())
    split = (copies_C > 1).nonzero().flatten().tolist()
    return [[channel, *islice(free, int(copies_C[channel]) - 1)] for channel in split]


def split_weights(
    region: Region, weights: Mapping[str, Tensor], places: Sequence[Sequence[int]], step: float
) -> dict[str, Tensor]:
    """Return weights with the copies of each channel at their places, their biases apart by a part of a step."""
    changed = {name: value.clone() for name, value in weights.items()}
    for group in places:
        kept, members, n = group[0], list(group), len(group)
        for sink in region.sinks:
            kernel = changed[f"{sink}.weight"]
            kernel[:, members] = kernel[:, kept].unsqueeze(1) / n
        for layer in (region.source, *region.gates):
            for name in (f"{layer}.weight", f"{layer}.bias"):
                if name in changed:
                    changed[name][members] = changed[name][kept].clone()
        changed[f"{region.source}.bias"][members] += ((torch.arange(n) + 0.5) / n - 0.5) * step
    return changed
