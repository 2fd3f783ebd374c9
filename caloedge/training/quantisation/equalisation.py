"""Scale the channels of a float network to like ranges before it is quantised (after arXiv 1906.04721).

What a layer computes may be multiplied by s > 0, channel by channel, and the weights of the layers that read it divided by s:
rectifiers, sums over pixels and gates let s through, so the network computes the same. A quantiser that has one scale for all
channels then wastes no codes on channels much smaller than the largest: each fills the full scale, a power of two.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from caloedge.arithmetic import CALIBRATED
from caloedge.training.fit import predict
from caloedge.training.quantisation.channel_regions import Region, is_depthwise, rectifier

SPREAD = 4
"""Smaller channels are multiplied by 2^4 at most more than the largest: the layers that read them would have to hold ever smaller
weights."""
LEAST = 1e-6
"""Channels that never become larger are dead, and left alone."""


@dataclass(frozen=True)
class Scales:
    """How the channels of a network fill the full scales of its quantisers."""

    factors: Mapping[str, Tensor]
    """By source of a region, what each of its channels (C,) is multiplied by."""
    full_scales: Mapping[str, float]
    """By calibrated layer, a power of two above its largest useful value, channels multiplied."""


def scales(
    network: nn.Module, regions: Sequence[Region], inputs: Tensor, quantile: float, headroom: Mapping[str, float]
) -> Scales:
    """Return factors and full scales, from a float network's values on training events `inputs` (N, …).

    The largest useful value of a channel is this quantile of its values, times the layer's `headroom`, by name.
    """
    ranges = channel_ranges(network, inputs, quantile)
    factors: dict[str, Tensor] = {}
    full: dict[str, float] = {}
    for region in regions:
        name = rectifier(network, region)
        range_C = headroom.get(name, 1.0) * ranges[name]
        largest = max(LEAST, float(range_C.max()))
        full[name] = _power_of_two(largest)
        # The last digits of a float must not take the largest channel beyond the power of two.
        filling_C = (1 - 1e-6) * full[name] / range_C.clamp(min=LEAST)
        factors[region.source] = torch.where(range_C > LEAST, filling_C.clamp(max=2.0**SPREAD * full[name] / largest), 1.0)
    multiplied = {name: factors[region.source] for region in regions for name in region.path}
    for name, range_C in ranges.items():
        if name not in full:
            full[name] = _power_of_two(max(LEAST, headroom.get(name, 1.0) * float((range_C * multiplied.get(name, 1.0)).max())))
    return Scales(factors, full)


def _power_of_two(above: float) -> float:
    return float(2.0 ** torch.ceil(torch.log2(torch.tensor(above))))


def channel_ranges(network: nn.Module, inputs: Tensor, quantile: float) -> dict[str, Tensor]:
    """Return the range (C,) of each channel behind each calibrated layer, by its name."""
    ranges: dict[str, Tensor] = {}

    def note(name: str, output: Tensor) -> None:
        values = output.detach().transpose(0, 1).flatten(1)
        place = round(quantile * (values.shape[1] - 1))
        ranges[name] = values.kthvalue(place + 1, dim=1).values if quantile < 1 else values.amax(1)

    hooks = [
        layer.register_forward_hook(lambda _m, _i, out, name=name: note(name, out))
        for name, layer in network.named_modules()
        if isinstance(layer, CALIBRATED)
    ]
    predict(network, inputs, batch=len(inputs))
    for hook in hooks:
        hook.remove()
    return ranges


def equalised(
    network: nn.Module, regions: Sequence[Region], weights: Mapping[str, Tensor], by: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights of the same function with its channels multiplied by `Scales.factors`."""
    changed, modules = dict(weights), dict(network.named_modules())
    for region in regions:
        by_C = by[region.source]
        for name in (f"{region.source}.weight", f"{region.source}.bias"):
            if name in changed:
                changed[name] = changed[name] * _along(by_C, 0, changed[name])
        for sink in region.sinks:
            name = f"{sink}.weight"
            changed[name] = changed[name] / _along(by_C, 0 if is_depthwise(modules[sink]) else 1, changed[name])
    return changed


def _along(values: Tensor, axis: int, like: Tensor) -> Tensor:
    return values.reshape([-1 if i == axis else 1 for i in range(like.ndim)])
