"""The center finder: its published size, what its inputs mean, and how its energy is given in the task's unit."""

import io
import warnings
from typing import Any

import numpy as np
import pytest

from caloedge.catalog import Network, Task, find
from caloedge.reconstruction import windowing

torch = pytest.importorskip("torch")
pytest.importorskip("brevitas")

from caloedge.arithmetic import FloatArithmetic, QuantisedArithmetic  # noqa: E402
from caloedge.networks import center_finder  # noqa: E402
from caloedge.training.stages import n_parameters  # noqa: E402

NETWORK = find(Network, "center_finder")
QUANTISED = QuantisedArithmetic(weight_bits=8, activation_bits=8, input_bits=12, input_fraction=8)


def published(seed: int = 1) -> Any:
    """Return a network with random weights, biases and statistics, in evaluation mode."""
    torch.manual_seed(seed)
    net = NETWORK.build(FloatArithmetic(), NETWORK.sizes["published"])
    with torch.no_grad():
        for value in net.parameters():
            if value.dim() == 1:
                value.add_(0.3 * torch.randn_like(value))
        for norm in (module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)):
            norm.running_mean.normal_(0, 0.2)
            norm.running_var.uniform_(0.01, 0.1)
    return net.eval()


def windows(n: int, seed: int) -> Any:
    """Return inputs (N, 4, 50): zeros to three others, of any weight."""
    rng = np.random.default_rng(seed)
    x = rng.exponential(3, (n, 4, 50)).astype(np.float32)
    x[:, 0, 24] += np.exp(rng.uniform(np.log(0.6), np.log(100), n))
    x[:, 1:, -1] = rng.choice([0, 0, 1 / 3, 2 / 3], (n, 3))
    x[:, 0, -1] = 1
    x[rng.random((n, 4)) < [0, 0.3, 0.5, 0.7]] = 0
    return torch.from_numpy(x)


def run(net: Any, x: Any) -> Any:
    with torch.no_grad():
        return net(x)


def test_sizes() -> None:
    assert n_parameters(published()) == 3_226_504  # arXiv 2311.17914, with the statistics of batch normalisation
    for arithmetic in (FloatArithmetic(), QUANTISED):
        assert n_parameters(NETWORK.build(arithmetic, NETWORK.sizes["edge"])) == 17_396


def test_the_networks_fit_the_task() -> None:
    task = find(Task, "center_finder")
    assert center_finder.FEATURES == windowing.FEATURES
    assert center_finder.LSB_PER_GEV == 2**windowing.CODE_FRACTION
    assert center_finder.SIZES.keys() == {"published", "edge"}
    assert run(published(), torch.rand(3, *task.shape_of("published"))).shape == (3, 4)
    for stage, arithmetic in (("edge", FloatArithmetic()), ("quantised", QUANTISED)):
        assert run(NETWORK.build(arithmetic, NETWORK.sizes["edge"]), torch.rand(3, *task.shape_of(stage))).shape == (3, 4)


def test_the_published_network_is_float_only() -> None:
    with pytest.raises(ValueError, match=r"^the published center finder exists in float arithmetic only$"):
        NETWORK.build(QUANTISED, NETWORK.sizes["published"])


def test_what_has_no_weight_does_not_matter() -> None:
    net, x = published(), windows(200, 2)
    start = run(net, x)
    empty = x[:, :, -1] == 0
    assert empty.any(dim=0).tolist() == [False, True, True, True]
    other = x.clone()
    other[..., :-1][empty] = 50 * torch.rand(int(empty.sum()), 49)
    assert torch.equal(run(net, other), start)
    # Exchanging two that are absent, whatever is in them, is a case of it; one that is present does matter.
    swapped = other[:, [0, 2, 1, 3]]
    both = empty[:, 1] & empty[:, 2]
    assert both.sum() > 20
    assert torch.equal(run(net, swapped)[both], start[both])
    one = empty[:, 1] != empty[:, 2]
    assert (run(net, swapped)[one] != start[one]).any(dim=1).all()


def test_the_own_window_and_the_weights_of_others_matter() -> None:
    net, x = published(), windows(100, 3)
    start = run(net, x)
    for slot in range(4):
        present = x[:, slot, -1] > 0
        lighter, other = x.clone(), x.clone()
        lighter[:, slot, -1] /= 2
        other[:, slot, 10] += 5
        for changed in (lighter, other):
            same = (run(net, changed) == start).all(dim=1)
            assert torch.equal(same, ~present)


def test_training_computes_what_evaluation_does_but_for_dropout_and_statistics() -> None:
    net, x = published(), windows(150, 4)
    expected = run(net, x)
    net.train()
    for module in net.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eval()
    # 1e-5 of the outputs' size: float32 sums in another order; energies are differences of up to 100 GeV.
    torch.testing.assert_close(run(net, x), expected, rtol=1e-5, atol=1e-4)


def test_statistics_are_those_of_present_windows() -> None:
    net, x = published(), windows(300, 5)
    used = x[:, :, -1].flatten() > 0
    assert 0.3 < used.float().mean() < 0.8
    first = torch.nn.functional.leaky_relu(net.features[0](x[..., :-1].reshape(-1, 1, 7, 7)[used] / 100), 0.3)
    norm = net.features[2]
    norm.momentum = 1.0
    net.train()
    run(net, x)
    # 1e-5: float32 sums in another order
    torch.testing.assert_close(norm.running_mean, first.mean(dim=(0, 2, 3)), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(norm.running_var, first.var(dim=(0, 2, 3)), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_energy_stands_for_0_to_100_gev_in_total(share: float) -> None:
    net = published()
    linear = net.energy[1]
    with torch.no_grad():
        linear.weight.zero_()
        linear.bias.fill_(float(np.clip(np.log(share) - np.log1p(-share), -200, 200)) if 0 < share < 1 else 400 * share - 200)
    rng = np.random.default_rng(6)
    codes = rng.integers(0, 4000, (4079, 49)) * rng.choice([1, 0.1, 0.01], (4079, 1))
    codes[:, 24] = np.arange(17, 4096)  # every central code
    # Anywhere within what rounds to a code, half to even at the very ends.
    inside = rng.choice([0, 0.5, -0.5, 0.3, -0.3, 0.499], codes.shape)
    cells = (np.maximum(codes + inside, 0) / 32).astype(np.float32)
    cells[::5, 24] = np.float32(200)  # more than a code holds
    digits = windowing.digitised(cells).reshape(-1, 7, 7)
    x = np.zeros((len(cells), 4, 50), np.float32)
    x[:, 0, :-1], x[:, 0, -1] = cells, 1
    outputs = run(net, torch.from_numpy(x)).numpy().astype(float)
    exponent, total = windowing.exponents(digits), windowing.sums(digits)
    _, energy = windowing.photon_codes(np.rint(outputs * 2**20).astype(np.int64), 20, np.full((len(cells), 2), 20), digits)
    # float32: 2^-23 of what the nine crystals hold, which is subtracted and added again
    assert (np.abs(energy / 2**20 - 100 * share) <= 2.0**-22 * (100 + total / 32)).all()
    assert set(exponent.tolist()) == set(range(4, 12))


def test_offsets_stay_within_a_crystal() -> None:
    outputs = run(published(), 30 * windows(200, 7))
    assert outputs[:, :2].abs().max() <= 1
    assert outputs[:, :2].abs().max() > 0.5


def test_no_windows_give_no_outputs() -> None:
    assert run(published(), torch.zeros(0, 4, 50)).shape == (0, 4)
    assert run(NETWORK.build(QUANTISED, NETWORK.sizes["edge"]).eval(), torch.zeros(0, 81)).shape == (0, 4)


def test_the_exported_network_takes_any_number_of_windows() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    net, file = published(), io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own remarks
        torch.onnx.export(net, (torch.zeros(2, 4, 50),), file, dynamo=False, dynamic_axes={"input": {0: "N"}},
                          input_names=["input"], opset_version=17)  # fmt: skip
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    for n in (1, 2, 300):
        x = windows(n, n)
        x[:, 0, 24] = 2.0 ** (torch.arange(n) % 8 - 1)  # where the unit changes
        (found,) = session.run(None, {"input": x.numpy()})
        # 1e-4: float32 sums in another order, energies up to 100 GeV
        np.testing.assert_allclose(found, run(net, x).numpy(), rtol=1e-4, atol=1e-4)
