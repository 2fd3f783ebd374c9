"""Equalised channels: the same function, in ranges that one scale fits."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from torch import nn  # noqa: E402

from caloedge.arithmetic import FloatArithmetic, FoldedArithmetic, folded  # noqa: E402
from caloedge.networks.pf_energy import NETWORK, SIZES  # noqa: E402
from caloedge.training.quantisation.channel_regions import Region, channel_regions, rectifier  # noqa: E402
from caloedge.training.quantisation.equalisation import SPREAD, channel_ranges, equalised, scales  # noqa: E402

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
    network: nn.Module = NETWORK.build(FoldedArithmetic(), SIZES[size])
    network.load_state_dict(weights)
    return network.eval()


def test_regions_are_those_of_the_networks() -> None:
    edge = channel_regions(NETWORK.build(FloatArithmetic(), SIZES["edge"]))
    assert [region.source for region in edge] == ["encoder1", "encoder2", "encoder3", "attention.reduce", "decoder1"]
    between = ("encoder3_norm", "encoder3_act", "attention.squeeze", "attention.scale")
    assert edge[2] == Region("encoder3", between, ("attention.reduce", "decoder1"), ("attention.expand",))
    assert not any(region.gates for region in edge if region != edge[2])
    trigger = channel_regions(NETWORK.build(FloatArithmetic(), SIZES["trigger"]))
    assert [region.sinks for region in trigger] == [("deep1",), ("point1",), ("deep2",), ("point2",), ("energy",)]


def test_channels_that_go_elsewhere_are_left_alone() -> None:
    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.act, self.second = nn.Conv2d(2, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.act(self.first(x))
            return y + self.second(y)

    assert channel_regions(Sum()) == []
    assert channel_regions(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 1))) == []
    linear = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Conv2d(2, 2, 3))  # without a rectifier there is no range to set
    assert channel_regions(linear) == []


@pytest.mark.parametrize("size", ["edge", "trigger"])
def test_the_function_stays_and_channels_fill_the_full_scale(size: str) -> None:
    network, inputs = unequal(size), torch.rand(INPUTS)
    found = channel_regions(network)
    roomy = rectifier(network, found[0])
    of = scales(network, found, inputs, 1.0, {roomy: 1.25})
    changed = without_norms(size, equalised(network, found, folded(network), of.factors))
    with torch.no_grad():
        wanted, same = network(inputs), changed(inputs)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(same, wanted, rtol=1e-4, atol=1e-5 * float(wanted.abs().max()))  # float32, in another order

    before, after = channel_ranges(network, inputs, 1.0), channel_ranges(changed, inputs, 1.0)
    assert set(of.full_scales) == set(after)
    for name, full_scale in of.full_scales.items():
        assert full_scale == 2.0 ** round(np.log2(full_scale))
        headroom = 1.25 if name == roomy else 1.0
        assert headroom * float(after[name].max()) <= full_scale * (1 + 1e-4)  # float32 again
    for region in found:
        name = rectifier(network, region)
        assert of.factors[region.source][before[name] < 1e-6].eq(1).all()  # dead channels are left alone
        filled = (1.25 if name == roomy else 1.0) * after[name] / of.full_scales[name]
        bound = of.factors[region.source] >= 0.999 * 2.0**SPREAD * of.factors[region.source][before[name].argmax()]
        assert ((filled > 0.999) | bound | (before[name] < 1e-6)).all()


def test_a_rare_value_saturates_where_the_recipe_says_so() -> None:
    network, inputs = unequal("trigger"), torch.rand(INPUTS)
    found = channel_regions(network)
    name = rectifier(network, found[0])
    all_of, most = (scales(network, found, inputs, quantile, {}) for quantile in (1.0, 0.9))
    assert (channel_ranges(network, inputs, 0.9)[name] <= channel_ranges(network, inputs, 1.0)[name]).all()
    assert (
        most.factors[found[0].source].median() / most.full_scales[name]
        > all_of.factors[found[0].source].median() / all_of.full_scales[name]
    )
