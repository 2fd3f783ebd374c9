"""Channels that are split: the float function stays, and copies round finer than one channel can."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from torch import nn  # noqa: E402

from caloedge.arithmetic import FoldedArithmetic  # noqa: E402
from caloedge.networks.pf_energy import NETWORK, SIZES, Plain  # noqa: E402
from caloedge.training.quantisation.channel_regions import channel_regions, rectifier  # noqa: E402
from caloedge.training.quantisation.channel_splitting import (  # noqa: E402
    Losses,
    can_split,
    copy_places,
    losses,
    n_copies,
    pruned,
    split_weights,
)

BITS, FULL_SCALE = 4, 2.0


def network(gated: bool = False) -> nn.Module:
    torch.manual_seed(2)
    size = Plain((16, 32), (8, 1), attention="squeeze", hard_gate=True) if gated else Plain((6,), (4, 1))
    made: nn.Module = NETWORK.build(FoldedArithmetic(), size)
    return made.eval()


def outputs(made: nn.Module, weights: dict[str, torch.Tensor], inputs: torch.Tensor) -> torch.Tensor:
    made.load_state_dict(weights)
    with torch.no_grad():
        return made(inputs)


@pytest.mark.parametrize("gated", [False, True])
def test_copies_compute_the_same(gated: bool) -> None:
    made, inputs = network(gated), torch.rand(4, 4, 12, 12)
    for region in [region for region in channel_regions(made) if can_split(made, region)]:
        weights = {name: value.clone() for name, value in made.state_dict().items()}
        copies_C = torch.ones(len(weights[f"{region.source}.bias"]), dtype=torch.int64)
        copies_C[:4] = torch.tensor([3, 0, 1, 0])
        without = pruned(region, weights, copies_C, torch.zeros(len(copies_C)))
        with_copies = split_weights(region, without, copy_places(copies_C), step=0.0)
        assert (with_copies[f"{region.source}.weight"][1] == weights[f"{region.source}.weight"][0]).all()
        wanted, same = outputs(made, without, inputs), outputs(made, with_copies, inputs)
        torch.testing.assert_close(same, wanted, rtol=1e-5, atol=1e-6)  # sums in another order
        assert (outputs(made, weights, inputs) - wanted).abs().max() > 1e-4, "what was given up did nothing"
        made.load_state_dict(weights)


def test_the_mean_of_a_channel_that_is_given_up_stays() -> None:
    made, inputs = network(), torch.rand(4, 4, 12, 12)
    region = channel_regions(made)[0]
    weights = {name: value.clone() for name, value in made.state_dict().items()}
    weights[f"{region.source}.weight"][2], weights[f"{region.source}.bias"][2] = 0, 0.7  # a channel that is always 0.7
    copies_C = torch.tensor([1, 1, 0, 1, 1, 1])
    mean_C = torch.tensor([9.0, 9, 0.7, 9, 9, 9])
    inside = (..., slice(4, -4), slice(4, -4))  # at the edges a constant channel is not constant for the next layer
    wanted = outputs(made, weights, inputs)[inside]
    torch.testing.assert_close(
        outputs(made, pruned(region, weights, copies_C, mean_C), inputs)[inside], wanted, rtol=1e-5, atol=1e-6
    )


def test_k_copies_round_exactly_k_times_finer() -> None:
    made = network()
    region = channel_regions(made)[0]
    act = dict(made.named_modules())[rectifier(made, region)]
    step = FULL_SCALE / 2**BITS
    weights = {name: value.clone() for name, value in made.state_dict().items()}
    copies_C = torch.tensor([3, 0, 0, 1, 1, 1])
    weights = pruned(region, weights, copies_C, torch.zeros(6))
    inputs = torch.rand(4, 4, 12, 12)
    codes: dict[str, torch.Tensor] = {}
    hook = act.register_forward_hook(lambda _m, _i, out: codes.update(values=out))
    outputs(made, weights, inputs)
    value = codes["values"][:, 0].double()
    outputs(made, split_weights(region, weights, copy_places(copies_C), step), inputs)
    rounded = torch.round(codes["values"].double() / step).clamp(0, 2**BITS - 1)
    hook.remove()
    fine = torch.round(3 * value / step)
    clear = ((3 * value / step) % 1 - 0.5).abs() > 1e-3  # float32 sums differ in the last digits
    inside = clear & (value < FULL_SCALE - step)
    assert inside.sum() > 300
    assert (rounded[:, [0, 1, 2]].sum(1)[inside] == fine[inside]).all()
    assert (3 * rounded[:, 0] != fine)[inside].any(), "one channel alone is coarser"


def test_what_is_lost_is_measured() -> None:
    made, inputs = network(), torch.rand(6, 4, 12, 12)
    region = channel_regions(made)[-1]
    weights = made.state_dict()
    weights["energy.weight"][:, 1] = 0  # never read
    weights["energy.weight"][:, 2] *= 30
    weights["energy.bias"] += 5  # outputs are energies
    made.load_state_dict(weights)
    of = losses(made, region, inputs, FULL_SCALE / 2**BITS)
    assert of.pruning_loss_C[1] == of.rounding_loss_C[1] == 0
    assert of.rounding_loss_C.argmax() == 2
    finer = losses(made, region, inputs, FULL_SCALE / 2 ** (BITS + 2))
    assert finer.rounding_loss_C[2] < 0.2 * of.rounding_loss_C[2]
    of_each = n_copies(of)
    assert of_each[1] == 0
    assert of_each.argmax() == 2
    assert of_each.sum() == 4


def test_channels_are_given_up_only_for_a_gain() -> None:
    used = torch.tensor([1.0, 1.0, 1.0, 1.0])
    assert n_copies(Losses(used, torch.tensor([0.0, 0.0, 0.1, 0.1]), used)).tolist() == [1, 1, 1, 1]
    free = torch.tensor([0.0, 0.0, 0.0, 1.0])
    assert n_copies(Losses(free, torch.tensor([0.0, 0.0, 0.0, 0.1]), free)).tolist() == [0, 0, 0, 4]
    assert int(n_copies(Losses(free, torch.tensor([0.0, 0.0, 0.3, 0.3]), free)).sum()) == 4


def test_channels_taken_one_by_one_and_those_without_bias_are_not_split() -> None:
    trigger = NETWORK.build(FoldedArithmetic(), SIZES["trigger"])
    assert [region.source for region in channel_regions(trigger) if can_split(trigger, region)] == ["point2"]
    edge = NETWORK.build(FoldedArithmetic(), SIZES["edge"])
    assert [region.source for region in channel_regions(edge) if can_split(edge, region)] == [
        "encoder1",
        "encoder2",
        "encoder3",
        "decoder1",
    ]
