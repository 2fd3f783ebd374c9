"""Equalised channels: the same function, in ranges that one scale fits."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from torch import nn  # noqa: E402

from caloedge.arithmetic import FloatArithmetic, folded  # noqa: E402
from caloedge.networks.pf_energy import NETWORK, SIZES  # noqa: E402
from caloedge.training.equalise import SPREAD, Chain, chains, equalised, multiplied, scales  # noqa: E402

INPUTS = (5, 4, 16, 16)


def unequal(size: str) -> nn.Module:
    """Return a float network whose channels differ by powers of ten, one of them dead, in the state of use."""
    torch.manual_seed(3)
    network: nn.Module = NETWORK.build(FloatArithmetic(), SIZES[size])
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1)
            layer.running_var.uniform_(0.5, 2)
            layer.weight.data = 10 ** torch.empty_like(layer.weight).uniform_(-2, 1)
            layer.bias.data.normal_(0, 0.1)
            layer.weight.data[0], layer.bias.data[0] = 0, -1  # dead
    return network.eval()


def without_norms(size: str, weights: dict[str, torch.Tensor]) -> nn.Module:
    network: nn.Module = NETWORK.build(FloatArithmetic(), SIZES[size])
    for name, layer in list(network.named_children()):
        if isinstance(layer, nn.BatchNorm2d):
            setattr(network, name, nn.Identity())
    network.load_state_dict(weights)
    return network.eval()


def results(network: nn.Module, names: list[str], inputs: torch.Tensor) -> dict[str, torch.Tensor]:
    found = {}
    hooks = [
        dict(network.named_modules())[name].register_forward_hook(lambda _m, _i, out, name=name: found.update({name: out}))
        for name in names
    ]
    with torch.no_grad():
        network(inputs)
    for hook in hooks:
        hook.remove()
    return found


def test_chains_are_those_of_the_networks() -> None:
    edge = chains(NETWORK.build(FloatArithmetic(), SIZES["edge"]))
    assert [chain.layer for chain in edge] == ["encoder1", "encoder2", "encoder3", "attention.reduce", "decoder1"]
    between = ("encoder3_norm", "encoder3_act", "attention.squeeze", "attention.scale")
    assert edge[2] == Chain("encoder3", between, ("attention.reduce", "decoder1"))
    trigger = chains(NETWORK.build(FloatArithmetic(), SIZES["trigger"]))
    assert [chain.readers for chain in trigger] == [("deep1",), ("point1",), ("deep2",), ("point2",), ("energy",)]


def test_channels_that_go_elsewhere_are_left_alone() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.second = nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.act(self.first(x))
            return y + self.second(y)

    assert chains(Sum()) == []
    assert chains(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))) == []
    linear = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))  # without a rectifier there is no range to set
    assert chains(linear) == []


@pytest.mark.parametrize("size", ["edge", "trigger"])
def test_the_function_stays_and_the_ranges_meet(size: str) -> None:
    network, inputs = unequal(size), torch.rand(INPUTS)
    found, weights = chains(network), folded(network)
    by = scales(network, found, inputs, 0.9999)
    for factors in by.values():
        assert set(factors.tolist()) <= {2.0**n for n in range(SPREAD + 1)}
    changed = without_norms(size, equalised(network, found, weights, by))
    with torch.no_grad():
        wanted, same = network(inputs), changed(inputs)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(same, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))

    shares = multiplied(found, by)
    names = [name for name in shares if name.endswith(("_act", "squeeze", "scale"))]
    before, after = results(network, names, inputs), results(changed, names, inputs)
    for name in names:
        channels = shares[name].reshape(-1, *[1] * (before[name].ndim - 2))
        torch.testing.assert_close(after[name], before[name] * channels, rtol=1e-3, atol=1e-5 * float(after[name].abs().max()))

    def spread(of: torch.Tensor) -> float:
        largest = of.transpose(0, 1).flatten(1).amax(1)
        return float(largest.max() / largest[largest > 0].median())

    first = f"{found[0].layer}_act"
    assert spread(after[first]) < 0.7 * spread(before[first])
    torch.testing.assert_close(after[first].amax(), before[first].amax())  # the largest channel stays as it is
