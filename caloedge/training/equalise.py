"""Scale the channels of a float network to like ranges before it is quantised (after arXiv 1906.04721).

What a layer computes may be multiplied by s > 0, channel by channel, and the weights of the layers that read it divided by s:
rectifiers, sums over pixels and gates let s through, so the network computes the same. A quantiser that has one scale for all
channels then wastes no bits on channels much smaller than the largest. Here s are powers of two, so that filters with scales of
their own keep their codes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from caloedge.arithmetic import ScaleChannels, Squeeze

SPREAD = 3
"""Smaller channels are multiplied by 2^3 at most: the layers that read them would have to hold ever smaller weights."""
LEAST = 1e-6
"""Channels that never become larger are dead, and left alone."""

_LETS_THROUGH = (nn.ReLU, nn.BatchNorm2d, nn.MaxPool2d, nn.Identity, Squeeze)


@dataclass(frozen=True)
class Chain:
    """A layer with weights, what its channels go through, and the layers that read them."""

    layer: str
    between: tuple[str, ...]
    readers: tuple[str, ...]


class _Tracer(fx.Tracer):
    """Takes layers whole, and looks into networks and their parts only."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return not any(True for _ in module.children()) or super().is_leaf_module(module, name)


def chains(network: nn.Module) -> list[Chain]:
    """Return the chains of a float network in its own order; channels that go anywhere else are left alone."""
    modules, graph = dict(network.named_modules()), _Tracer().trace(network)
    found = []
    for node in graph.nodes:
        name = str(node.target)
        if node.op != "call_module" or not _reads_channels(modules[name]):
            continue
        between: dict[str, None] = {}
        readers: dict[str, None] = {}
        if _follow(node, modules, between, readers) and any(isinstance(modules[of], nn.ReLU) for of in between):
            found.append(Chain(name, tuple(between), tuple(readers)))
    return found


def _follow(node: fx.Node, modules: Mapping[str, nn.Module], between: dict[str, None], readers: dict[str, None]) -> bool:
    """Collect what reads a node's channels, and return whether all of it can be rescaled."""
    for user in node.users:
        name = str(user.target)
        module = modules[name] if user.op == "call_module" else None
        if module is not None and _reads_channels(module):
            readers[name] = None
        elif isinstance(module, _LETS_THROUGH) or (isinstance(module, ScaleChannels) and user.args[0] is node):
            between[name] = None
            if not _follow(user, modules, between, readers):
                return False
        else:
            return False
    return bool(node.users)


def _reads_channels(module: nn.Module) -> bool:
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 or _is_depthwise(module)
    return isinstance(module, nn.Linear)


def _is_depthwise(module: nn.Module) -> bool:
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1


def scales(network: nn.Module, found: Sequence[Chain], inputs: Tensor, quantile: float) -> dict[str, Tensor]:
    """Return what each channel is multiplied by, by the name of its layer.

    `inputs` (N, …) are training events; the largest useful value of a channel is this quantile of its values on them.
    """
    by = {}
    ranges = _ranges(network, inputs, {_rectifier(network, chain) for chain in found}, quantile)
    for chain in found:
        range_C = ranges[_rectifier(network, chain)]
        doublings_C = torch.floor(torch.log2(range_C.max() / range_C.clamp(min=LEAST))).clamp(0, SPREAD)
        by[chain.layer] = torch.where(range_C > LEAST, 2.0**doublings_C, 1.0)
    return by


def _rectifier(network: nn.Module, chain: Chain) -> str:
    modules = dict(network.named_modules())
    return next(name for name in chain.between if isinstance(modules[name], nn.ReLU))


def _ranges(network: nn.Module, inputs: Tensor, names: Collection[str], quantile: float) -> dict[str, Tensor]:
    """Return the range (C,) of each channel behind the named layers."""
    found: dict[str, Tensor] = {}
    modules = dict(network.named_modules())

    def note(name: str, output: Tensor) -> None:
        values = output.transpose(0, 1).flatten(1).sort(dim=1).values
        found[name] = values[:, round(quantile * (values.shape[1] - 1))].clone()

    hooks = [modules[name].register_forward_hook(lambda _m, _i, out, name=name: note(name, out)) for name in names]
    with torch.no_grad():
        network(inputs)
    for hook in hooks:
        hook.remove()
    return found


def equalised(
    network: nn.Module, found: Sequence[Chain], weights: Mapping[str, Tensor], by: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the weights of the same function with its channels multiplied by `scales`."""
    changed, modules = dict(weights), dict(network.named_modules())
    for chain in found:
        by_C = by[chain.layer]
        for name in (f"{chain.layer}.weight", f"{chain.layer}.bias"):
            if name in changed:
                changed[name] = changed[name] * _along(by_C, 0, changed[name])
        for reader in chain.readers:
            name = f"{reader}.weight"
            changed[name] = changed[name] / _along(by_C, 0 if _is_depthwise(modules[reader]) else 1, changed[name])
    return changed


def multiplied(found: Sequence[Chain], by: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return what the results (N, C, …) of each layer between are multiplied by, by name."""
    return {name: by[chain.layer] for chain in found for name in chain.between}


def _along(values: Tensor, axis: int, like: Tensor) -> Tensor:
    return values.reshape([-1 if i == axis else 1 for i in range(like.ndim)])
