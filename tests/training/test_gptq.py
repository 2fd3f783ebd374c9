"""Weights rounded one after the other lose less than each to its nearest, on inputs that are correlated."""

import copy

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from caloedge.training.quantisation.gptq import PIXELS_PER_PART, _gptq_rows, _moments, _patches, _with_copies, gptq_layers  # noqa: E402
from caloedge.training.quantisation.qat import _grid_range  # noqa: E402

BITS = 4


def case(seed: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Return weights (O, I) and the correlation (I, I) of inputs that share a few sources."""
    torch.manual_seed(seed)
    inputs_NI = torch.randn(2000, 5).double() @ torch.randn(5, 60).double() + 0.1 * torch.randn(2000, 60)
    return torch.randn(7, 60).double(), inputs_NI.T @ inputs_NI / 2000 + 1e-3 * torch.eye(60)


def lost(apart_OI: torch.Tensor, correlation_II: torch.Tensor) -> torch.Tensor:
    return ((apart_OI @ correlation_II) * apart_OI).sum(1)


def test_weights_are_codes_and_lose_less_than_the_nearest() -> None:
    wanted_OI, correlation_II = case()
    found_OI = _gptq_rows(wanted_OI, correlation_II, BITS, 0.0)
    range_O = _grid_range(found_OI, BITS).flatten()
    codes = found_OI / range_O[:, None] * 2 ** (BITS - 1)
    assert (codes == codes.round()).all()
    assert codes.abs().max() <= 2 ** (BITS - 1) - 1
    assert (torch.log2(range_O) % 1 == 0).all()
    step = 2.0 ** torch.ceil(torch.log2(wanted_OI.abs().amax(1, keepdim=True))) / 2 ** (BITS - 1)
    nearest_OI = (wanted_OI / step).round().clamp(1 - 2 ** (BITS - 1), 2 ** (BITS - 1) - 1) * step
    assert (lost(found_OI - wanted_OI, correlation_II) < 0.5 * lost(nearest_OI - wanted_OI, correlation_II)).all()


def test_uncorrelated_inputs_leave_the_nearest() -> None:
    wanted_OI, _ = case()
    found_OI = _gptq_rows(wanted_OI, torch.eye(60).double(), BITS, 0.0)
    step = _grid_range(found_OI, BITS) / 2 ** (BITS - 1)
    assert (found_OI == (wanted_OI / step).round().clamp(-7, 7) * step).all()


def test_no_range_is_below_the_least() -> None:
    wanted_OI, correlation_II = case()
    found_OI = _gptq_rows(0.05 * wanted_OI, correlation_II, BITS, 0.2)
    assert (found_OI % (0.25 / 8) == 0).all()
    assert found_OI.any()


def test_copies_make_up_for_each_other() -> None:
    wanted_OI, correlation_II = case()
    wanted_OI[[1, 4, 5]] = wanted_OI[0].clone()
    found_OI = _with_copies(wanted_OI, correlation_II, BITS, 0.0, [[0, 1, 4, 5]])
    one = lost(found_OI[:1] - wanted_OI[:1], correlation_II)
    together = lost((found_OI - wanted_OI)[[0, 1, 4, 5]].mean(0, keepdim=True), correlation_II)
    assert together < one / 8  # the last one's error, shared by four: 1/16, give or take
    alone_OI = _gptq_rows(wanted_OI[[2, 3, 6]], correlation_II, BITS, 0.0)
    assert (found_OI[[2, 3, 6]] == alone_OI).all()


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 4, (5, 3), padding=(2, 1)), nn.Conv2d(3, 4, 3, stride=2), nn.Linear(6, 4)])
def test_patches_are_what_a_layer_multiplies(layer: nn.Module) -> None:
    inputs = torch.rand(PIXELS_PER_PART // (8 * 6) + 3, 3, 8, 6)
    patches_NI = torch.cat(list(_patches(nn.Sequential(nn.ReLU(), layer), layer, inputs - 0.3)))
    products_NO = patches_NI @ layer.weight.flatten(1).T + layer.bias
    wanted = layer(torch.relu(inputs - 0.3))
    wanted = wanted.movedim(1, -1) if isinstance(layer, nn.Conv2d) else wanted
    torch.testing.assert_close(products_NO, wanted.reshape(products_NO.shape), rtol=1e-4, atol=1e-5)  # float32, in another order


def disturbed() -> tuple[nn.Module, nn.Module]:
    """Return a network, and another whose first layer has an error of a kind that the second can undo."""
    torch.manual_seed(2)
    unrounded, network = (nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(2, 4, 3)) for _ in range(2))
    network.load_state_dict(unrounded.state_dict())
    with torch.no_grad():
        network[0].weight[1] *= 0.7
        network[0].bias[1] = 0.7 * network[0].bias[1] + 0.2
    return unrounded, network


def test_what_a_layer_sees_in_both_networks() -> None:
    unrounded, network = disturbed()
    seen = _moments(network, unrounded, "1", torch.rand(20, 3, 12, 12))
    kernel_OI = unrounded[1].weight.detach().flatten(1).double()
    wanted_OI = kernel_OI @ torch.linalg.solve(seen.rounded_II, seen.crossed_II, left=False)
    undone = torch.tensor([1.0, 1 / 0.7]).repeat_interleave(9)
    torch.testing.assert_close(wanted_OI, kernel_OI * undone, rtol=0, atol=0.02)  # damping keeps it a little from that
    same = _moments(unrounded, unrounded, "1", torch.rand(20, 3, 12, 12))
    assert torch.equal(same.rounded_II, same.crossed_II)
    assert torch.equal(same.mean_I, same.rounded_mean_I)


def test_a_layer_makes_up_for_the_errors_of_those_before() -> None:
    unrounded, network = disturbed()
    inputs = torch.rand(20, 3, 12, 12)
    with torch.no_grad():
        wanted = unrounded(inputs)
        without = (network(inputs) - wanted).square().mean()
        gptq_layers(network, unrounded, ["1"], inputs, 6, 2.0**-6)
        apart = network(inputs) - wanted
    assert apart.square().mean() < 0.05 * without
    assert apart.mean(dim=(0, 2, 3)).abs().max() < 1e-5  # float32: the bias takes the means
    codes = network[1].weight / _grid_range(network[1].weight, 6) * 32
    assert torch.equal(codes, codes.round())


@pytest.mark.parametrize("layer", [nn.Conv2d(6, 6, 3, groups=6), nn.Conv2d(6, 4, 3, groups=2, bias=False), nn.Linear(6, 4)])
def test_layers_of_all_kinds_are_rounded(layer: nn.Module) -> None:
    torch.manual_seed(5)
    inputs = torch.rand(30, 6, 8, 8) if isinstance(layer, nn.Conv2d) else torch.rand(300, 6)
    with torch.no_grad():
        layer.weight *= 10 ** torch.empty(len(layer.weight), *[1] * (layer.weight.ndim - 1)).uniform_(-3, 0)
    unrounded = nn.Sequential(nn.Identity(), layer).eval()
    network = copy.deepcopy(unrounded)
    gptq_layers(network, unrounded, ["1"], inputs, 6, 2.0**-6)
    with torch.no_grad():
        apart, wanted = network(inputs) - unrounded(inputs), unrounded(inputs)
    assert 0 < float(apart.std()) < 0.03 * float(wanted.std())
    range_O = _grid_range(network[1].weight.detach(), 6).flatten()
    assert float(range_O.min()) >= 2.0**-6 * layer.weight.abs().max().item()


def test_the_range_of_weights_on_a_grid_is_found_again() -> None:
    codes = torch.tensor([[16.0, -31.0], [16.0, 8.0], [0.0, 0.0], [31.0, 30.0]])
    ranges = torch.tensor([1.0, 0.25, 4.0, 2.0])
    found = _grid_range(codes * ranges[:, None] / 32, 6)
    assert found.flatten().tolist() == [1.0, 2.0, 2.0, 2.0]
    with pytest.raises(AssertionError, match="not on a grid"):
        _grid_range(torch.tensor([[1.0, 0.3]]), 6)
