"""Regions of layers whose channels may be rescaled or split: the source, what its channels go through, and the sinks.

The words are those of Brevitas' equalisation.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import fx, nn

from caloedge.arithmetic import ScaleChannels, Squeeze

_LETS_THROUGH = (nn.ReLU, nn.BatchNorm2d, nn.MaxPool2d, nn.Identity, Squeeze)


@dataclass(frozen=True)
class Region:
    """A layer with weights, what its channels go through, and the layers with weights that take them."""

    source: str
    path: tuple[str, ...]
    sinks: tuple[str, ...]
    gates: tuple[str, ...] = ()
    """Layers whose outputs its channels are multiplied by, one each."""


class _Tracer(fx.Tracer):
    """Takes layers whole, and looks into networks and their parts only."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return not any(True for _ in module.children()) or super().is_leaf_module(module, name)


def channel_regions(network: nn.Module) -> list[Region]:
    """Return the regions of a float network in its own order; channels that go anywhere else are left alone."""
    modules, graph = dict(network.named_modules()), _Tracer().trace(network)
    regions = []
    for node in graph.nodes:
        name = str(node.target)
        if node.op != "call_module" or not reads_channels(modules[name]):
            continue
        path: dict[str, None] = {}
        sinks: dict[str, None] = {}
        gates: dict[str, None] = {}
        if _follow(node, modules, path, sinks, gates) and any(isinstance(modules[step], nn.ReLU) for step in path):
            regions.append(Region(name, tuple(path), tuple(sinks), tuple(gates)))
    return regions


def rectifier(network: nn.Module, region: Region) -> str:
    """Return the name of the first rectifier of a region."""
    modules = dict(network.named_modules())
    return next(name for name in region.path if isinstance(modules[name], nn.ReLU))


def reads_channels(module: nn.Module) -> bool:
    """Tell whether a layer has weights and takes channels as they are, all together or one by one."""
    if isinstance(module, nn.Conv2d):
        return module.groups == 1 or is_depthwise(module)
    return isinstance(module, nn.Linear)


def is_depthwise(module: nn.Module) -> bool:
    """Tell whether a convolution takes its channels one by one."""
    return isinstance(module, nn.Conv2d) and module.groups == module.in_channels == module.out_channels > 1


def _follow(
    node: fx.Node,
    modules: Mapping[str, nn.Module],
    path: dict[str, None],
    sinks: dict[str, None],
    gates: dict[str, None],
) -> bool:
    """Collect what reads a node's channels, and return whether all of it can be rescaled."""
    for user in node.users:
        name = str(user.target)
        module = modules[name] if user.op == "call_module" else None
        if module is not None and reads_channels(module):
            sinks[name] = None
        elif isinstance(module, _LETS_THROUGH) or (isinstance(module, ScaleChannels) and user.args[0] is node):
            path[name] = None
            if isinstance(module, ScaleChannels):
                gates[_source(user.args[1], modules)] = None
            if not _follow(user, modules, path, sinks, gates):
                return False
        else:
            return False
    return bool(node.users)


def _source(node: object, modules: Mapping[str, nn.Module]) -> str:
    """Return the layer with weights from which a gate's factors come."""
    assert isinstance(node, fx.Node)
    while not (node.op == "call_module" and reads_channels(modules[str(node.target)])):
        node = node.args[0]
        assert isinstance(node, fx.Node)
    return str(node.target)
