"""Twins with fixed scales: ranges of weights and activations that training leaves alone, and filters with scales of their own."""

from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from pydantic import ValidationError  # noqa: E402
from torch import nn  # noqa: E402

from caloedge.arithmetic import SCALE, Arithmetic, FloatArithmetic, QuantisedArithmetic  # noqa: E402
from caloedge.backends.emulator import BACKEND as EMULATOR  # noqa: E402
from caloedge.catalog import Network, Target, Task, find  # noqa: E402
from caloedge.compiler.graph import Graph  # noqa: E402
from caloedge.compiler.onnx.reader import read  # noqa: E402
from caloedge.compiler.ops import Conv, Requantise  # noqa: E402
from caloedge.errors import UnknownName  # noqa: E402
from caloedge.export import golden_vectors, write_qonnx  # noqa: E402
from caloedge.networks.pf_energy import NETWORK, Blocks, Plain  # noqa: E402
from caloedge.recipe import Quantisation  # noqa: E402
from caloedge.training.quantisation.qat import (  # noqa: E402
    FILTER_SPREAD,
    _grid_range,
    check_names,
    fake_quantised,
    freeze_small_layers,
    from_fake_quantised,
    quantised,
    twin,
    weight_range,
)
from caloedge.verification.executors import run_check  # noqa: E402

OF = Quantisation(
    weight_bits=6, activation_bits=6, input_bits=8, input_fraction=7, fixed_scales=True, filter_scales=True, activation_quantile=1
)
SHAPE = (4, 8, 8)


def small(arithmetic: Arithmetic) -> nn.Module:
    return NETWORK.build(arithmetic, Blocks(2, (6, 5)))


def made(of: Quantisation) -> nn.Module:
    """Return the twin of a network whose filters differ by powers of ten."""
    torch.manual_seed(5)
    edge = small(FloatArithmetic()).eval()
    with torch.no_grad():
        for layer in edge.modules():
            if isinstance(layer, nn.Conv2d):
                layer.weight *= 10 ** torch.empty(len(layer.weight), 1, 1, 1).uniform_(-1.5, 0.5)
    return twin(small, of, edge, torch.rand(40, *SHAPE))


def scales(network: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items() if SCALE in name}


def test_a_range_has_the_least_rounding_error() -> None:
    rare = torch.full((1, 1000), 0.37)
    rare[0, 0] = 0.6  # with 3 bits one weight that saturates costs less than coarser steps for all others
    assert weight_range(rare, 3, per_filter=False).item() == 0.5
    assert weight_range(rare, 8, per_filter=False).item() == 1.0
    rng = np.random.default_rng(2)
    weights = torch.from_numpy(rng.normal(0, 1, (4, 3, 5, 5)).astype(np.float32)) * torch.tensor([1, 0.1, 1e-5, 0]).reshape(
        4, 1, 1, 1
    )
    found = weight_range(weights, 6, per_filter=True)
    assert found.shape == (4, 1, 1, 1)
    assert found.flatten()[1] < found.flatten()[0]
    assert (found.flatten()[2:] >= found.max() * 2.0**-FILTER_SPREAD).all()
    errors = []
    for limit in found[0].item() * torch.tensor([0.25, 0.5, 1, 2, 4]):
        step = limit / 32
        errors.append(float(((torch.clamp(torch.round(weights[0] / step), -31, 31) * step - weights[0]) ** 2).sum()))
    assert min(errors) == errors[2]


def test_training_leaves_fixed_scales_alone_and_moves_trained_ones() -> None:
    for fixed in (True, False):
        network = made(OF.model_copy(update={"fixed_scales": fixed, "filter_scales": fixed})).train()
        before, weights = scales(network), network.first.weight.clone()
        optimiser = torch.optim.Adam([p for p in network.parameters() if p.requires_grad], lr=0.01)
        for _ in range(3):
            network(torch.rand(8, *SHAPE)).square().mean().backward()
            optimiser.step()
        assert (network.first.weight != weights).any()
        assert len(before) == (7 if fixed else 3)  # the scales of weights are state only where they are fixed
        assert all(torch.equal(before[name], now) for name, now in scales(network).items()) == fixed


def test_scales_of_filters_are_exact_from_torch_to_the_emulator(tmp_path: Path) -> None:
    network = made(OF).eval()
    kernel = network.first.quant_weight()
    assert kernel.scale.shape == (6, 1, 1, 1)
    assert len(set(kernel.scale.flatten().tolist())) > 1
    again = small(quantised(OF))
    again.load_state_dict(network.state_dict())  # an artifact holds the scales with the weights
    assert torch.equal(again.first.quant_weight().value, kernel.value)
    first = next(op for op in exact(network, SHAPE, tmp_path).ops if isinstance(op, Conv))
    assert 6 < first.weight_format.width <= 6 + FILTER_SPREAD


def exact(network: nn.Module, shape: tuple[int, ...], folder: Path) -> Graph:
    """Compare a twin with graph and emulator on random codes, and require that one bit is caught; return the graph."""
    write_qonnx(network, shape, "energy", folder / "model.qonnx")
    graph = read(folder / "model.qonnx")
    codes = np.random.default_rng(1).integers(0, 256, (64, *shape))
    golden = golden_vectors(network, codes, graph)
    assert run_check("graph", golden, graph.run).exact
    target = find(Target, "xcvu13p")
    EMULATOR.build(graph, target, "native", folder / "emulator", {})
    assert EMULATOR.emulate is not None
    emulate = EMULATOR.emulate
    assert run_check("emulator", golden, lambda inputs: emulate(folder / "emulator", inputs)).exact
    last = [op for op in graph.ops if isinstance(op, Conv)][-1]
    assert not run_check("one bit", golden, _with_a_bit_changed(graph, last).run).exact
    return graph


def _with_a_bit_changed(graph: Graph, op: Conv) -> Graph:
    weights = op.weights.copy()
    weights.flat[np.abs(weights).argmax()] ^= 1
    return graph.replacing(op.name, weights=weights)


def test_scales_of_filters_need_fixed_scales() -> None:
    with pytest.raises(ValidationError, match="filter_scales needs fixed_scales: true"):
        Quantisation(weight_bits=6, activation_bits=6, input_bits=8, input_fraction=7, filter_scales=True)
    with pytest.raises(ValidationError, match="split_channels needs filter_scales: true"):
        Quantisation(weight_bits=6, activation_bits=6, input_bits=8, input_fraction=7, fixed_scales=True, split_channels=True)
    assert QuantisedArithmetic(6, 6, 8, 7, fixed_scales=True).dense("d", 2, 1).weight_quant is not None


GATED = Plain((12, 16), (20, 1), attention="squeeze", hard_gate=True)
SPLIT = OF.model_copy(update={"split_channels": True, "headroom": {"decoder1_act": 1.25}})


def gated(arithmetic: Arithmetic) -> nn.Module:
    return NETWORK.build(arithmetic, GATED)


def gated_edge() -> nn.Module:
    """Return a network whose outputs are energies and most of whose channels do little.

    Its weights are numpy's: those that torch draws differ between processors, and on some of them no channel was alive.
    """
    rng = np.random.default_rng(4)
    edge = gated(FloatArithmetic()).eval()
    with torch.no_grad():
        for layer in edge.modules():
            if isinstance(layer, nn.Conv2d):
                drawn = rng.uniform(-1, 1, layer.weight.shape) / np.sqrt(layer.weight[0].numel())
                drawn *= 10 ** rng.uniform(-2, 0.5, (len(layer.weight), 1, 1, 1))
                layer.weight.copy_(torch.from_numpy(drawn))
                if layer.bias is not None:
                    layer.bias.copy_(torch.from_numpy(rng.uniform(-0.1, 0.1, layer.bias.shape)))
        edge.energy.bias += 3
    torch.manual_seed(4)
    return edge


def test_a_fake_quantised_network_becomes_a_twin_of_the_same_function(tmp_path: Path) -> None:
    edge, inputs = gated_edge(), torch.rand(60, *SHAPE)
    fake = fake_quantised(gated, SPLIT, edge, inputs).eval()
    trained = {name for name, value in fake.named_parameters() if value.requires_grad and name.endswith("weight")}
    assert trained == {"decoder1.weight", "encoder2.weight", "energy.weight"}  # the wide ones

    network = from_fake_quantised(gated, SPLIT, fake, inputs)
    assert network.state_dict().keys() == gated(quantised(SPLIT)).state_dict().keys()
    fresh = torch.rand(30, *SHAPE)
    with torch.no_grad():
        wanted, rounded = edge(fresh), fake(fresh)
        made_of_it = network(fresh)
        plain = twin(gated, OF, edge, inputs)(fresh)

    def apart(outputs: torch.Tensor) -> float:
        return float((getattr(outputs, "value", outputs) - wanted).square().mean())

    assert wanted.std() > 0.01  # the network is alive
    assert apart(rounded) < 0.15 * apart(plain)
    assert apart(made_of_it) < 0.15 * apart(plain)  # nothing of it is trained
    exact(network.eval(), SHAPE, tmp_path)


def test_layers_have_the_bits_that_the_recipe_gives_them(tmp_path: Path) -> None:
    of = SPLIT.model_copy(update={"layer_bits": {"encoder1_act": 9, "attention.scale": 7}})
    assert of.activations == "6-bit activations (encoder1_act 9, attention.scale 7)"
    assert SPLIT.activations == "6-bit activations"
    inputs = torch.rand(60, *SHAPE)
    fake = fake_quantised(gated, of, gated_edge(), inputs)
    network = from_fake_quantised(gated, of, fake, inputs).eval()
    graph = exact(network, SHAPE, tmp_path)
    widths = [graph.tensors[op.name].format.width for op in graph.ops if isinstance(op, Requantise)]
    assert sorted(width for width in widths if width != 8) == [6, 6, 6, 7, 9]  # 8: mean and gate


def test_a_fake_quantised_network_is_trained_but_for_what_is_rounded_already() -> None:
    fake = fake_quantised(gated, SPLIT, gated_edge(), torch.rand(60, *SHAPE)).train()
    before = {name: value.clone() for name, value in fake.state_dict().items()}
    fixed = {f"{name}.weight" for name in ("encoder1", "attention.reduce", "attention.expand")}
    optimiser = torch.optim.AdamW(fake.parameters(), lr=0.01, weight_decay=0)
    for _ in range(3):
        fake(torch.rand(8, *SHAPE)).square().mean().backward()
        optimiser.step()
    kept = {name for name, value in fake.state_dict().items() if torch.equal(value, before[name])}
    assert fixed <= kept
    assert {"decoder1.weight", "encoder2.weight", "encoder1.bias"}.isdisjoint(kept)
    assert {name for name in before if name.endswith("full_scale")} <= kept
    assert all(on_a_grid(before[name]) for name in fixed)


def on_a_grid(kernel: torch.Tensor) -> bool:
    """Tell whether weights are codes of 6 bits."""
    try:
        codes = kernel / _grid_range(kernel, 6) * 32
    except AssertionError:
        return False
    return torch.equal(codes, codes.round()) and float(codes.abs().max()) <= 31


def test_fine_tuning_trains_the_largest_layer_around_the_rounded_others(tmp_path: Path) -> None:
    inputs = torch.rand(60, *SHAPE)
    fake = fake_quantised(gated, SPLIT, gated_edge(), inputs)
    fine_tuned = freeze_small_layers(fake, inputs, SPLIT.weight_bits)
    free = {name for name, value in fine_tuned.named_parameters() if value.requires_grad and name.endswith("weight")}
    assert free == {"decoder1.weight"}
    kernels = {name: value.detach() for name, value in fine_tuned.named_parameters() if name.endswith("weight")}
    assert {name for name, kernel in kernels.items() if not on_a_grid(kernel)} == free
    assert torch.equal(kernels["decoder1.weight"], fake.get_parameter("decoder1.weight"))
    assert not on_a_grid(fake.get_parameter("encoder2.weight"))  # the network itself is not changed

    network = from_fake_quantised(gated, SPLIT, fine_tuned, inputs)
    kept = network.state_dict()
    assert all(torch.equal(kept[name], kernel) for name, kernel in kernels.items() if name not in free)
    assert on_a_grid(kept["decoder1.weight"])
    exact(network.eval(), SHAPE, tmp_path)


def test_unknown_layers_of_a_recipe_are_named() -> None:
    for option, value in (("layer_bits", 9), ("headroom", 2.0)):
        of = SPLIT.model_copy(update={option: {"encoder9_act": value}})
        with pytest.raises(UnknownName, match=rf"quantisation\.{option} names 'encoder9_act'; the network has .*encoder1_act, "):
            check_names(gated(FloatArithmetic()), of)
    with pytest.raises(UnknownName, match=r"layer_bits names 'attention.squeeze'"):
        check_names(gated(FloatArithmetic()), SPLIT.model_copy(update={"layer_bits": {"attention.squeeze": 9}}))
    with pytest.raises(ValidationError, match="headroom needs split_channels: true"):
        Quantisation(**OF.model_dump() | {"headroom": {"encoder1_act": 2.0}})


@pytest.mark.parametrize("name", ["seed_finder", "center_finder", "shower_shape"])
def test_every_edge_network_can_be_fake_quantised(name: str, tmp_path: Path) -> None:
    """Also where layers are read through a reshape, or the input is signed: there is less to split, and the twin is exact."""
    network = find(Network, name)
    signed = name == "shower_shape"
    of = SPLIT.model_copy(update={"input_signed": signed, "input_fraction": 4, "headroom": {}})

    def build(arithmetic: Arithmetic) -> nn.Module:
        return network.build(arithmetic, network.sizes["edge"])

    torch.manual_seed(3)
    shape = find(Task, name).input_shape
    inputs = 10 * torch.rand(1000, *shape) - 5 * signed
    edge = build(FloatArithmetic()).eval()
    fake = fake_quantised(build, of, edge, inputs).eval()
    made_of_it = from_fake_quantised(build, of, fake, inputs)
    fresh = 10 * torch.rand(60, *shape) - 5 * signed
    with torch.no_grad():
        wanted, trained = edge(fresh), fake(fresh)
        rounded = made_of_it(fresh)
    spread = float(wanted.std())
    assert float((trained - wanted).square().mean()) ** 0.5 < 0.2 * spread
    assert float((getattr(rounded, "value", rounded) - wanted).square().mean()) ** 0.5 < 0.3 * spread
    write_qonnx(made_of_it, shape, "output", tmp_path / "model.qonnx")
    graph = read(tmp_path / "model.qonnx")
    golden = golden_vectors(made_of_it, graph.quantise_input(inputs.numpy()), graph)
    assert run_check("graph", golden, graph.run).exact
