"""The networks of pf_energy: published sizes, what is exact in them, what they cost, and the loss they learn from."""

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("lightning")
pytest.importorskip("brevitas")

from torch import Tensor  # noqa: E402
from torch.nn import functional  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from caloedge.arithmetic import CALIBRATED, FloatArithmetic, QuantisedArithmetic, folded  # noqa: E402
from caloedge.compiler.onnx.reader import read  # noqa: E402
from caloedge.compiler.squeeze_excite import gates  # noqa: E402
from caloedge.export import run_twin, write_qonnx  # noqa: E402
from caloedge.losses.image import image_loss, weighted_mean_square  # noqa: E402
from caloedge.networks import pf_energy  # noqa: E402
from caloedge.networks.pf_energy import NETWORK, SIZES, TABULATED, Front3d, OffsetAttention, RowAttention, SqueezeExcite  # noqa: E402
from caloedge.training.stages import n_parameters  # noqa: E402

# arXiv 2410.07250, counted from the authors' code: rows are families, columns variants; thousands and millions as rounded there.
COUNTED = {
    "1": ("20537", "20665", "23705", "22641", "22769"),
    "2": ("91953", "92465", "104433", "87609", "96169"),
    "3": ("1.443", "1.451", "1.641", "1.456", "1.465"),
    "4": ("6.052", "6.085", "6.840", "6.065", "6.098"),
    "5": ("24.437", "24.568", "27.585", "24.450", "24.581"),
}
VARIANTS = ("cnn", "se", "row", "cnn3d", "se3d")


def build(size: Any) -> Any:
    torch.manual_seed(3)
    return NETWORK.build(FloatArithmetic(), size)


@pytest.mark.parametrize("family", COUNTED)
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_tabulated_network_has_the_published_number_of_parameters(family: str, variant: str) -> None:
    with torch.device("meta"):  # nothing is allocated
        network = NETWORK.build(FloatArithmetic(), TABULATED[f"{variant}_{family}"])
    counted = n_parameters(network, statistics=False)
    wanted = COUNTED[family][VARIANTS.index(variant)]
    assert (f"{counted / 1e6:.3f}" if "." in wanted else str(counted)) == wanted
    assert len(TABULATED) == 25


def test_the_largest_has_the_published_number_to_the_last_digit() -> None:
    with torch.device("meta"):
        assert n_parameters(NETWORK.build(FloatArithmetic(), TABULATED["cnn3d_5"]), statistics=False) == 24_449_913


@pytest.mark.parametrize(("name", "low", "high", "most_gflop"), [
    ("reference_25m", 24e6, 26e6, 4.0), ("reference_5m", 4.5e6, 5.5e6, 1.5), ("student", 20_665, 20_665, 0.13),
    ("trigger", 7_000, 8_000, 0.011),
])  # fmt: skip
def test_references_and_students_are_of_their_class(name: str, low: float, high: float, most_gflop: float) -> None:
    network = build(SIZES[name]).eval()
    assert low <= n_parameters(network, statistics=False) <= high
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        assert network(torch.zeros(1, 4, 56, 56)).shape == (1, 1, 56, 56)
    assert counter.get_total_flops() / 1e9 <= most_gflop


def test_most_parameters_of_the_reference_stand_at_low_resolution() -> None:
    network = build(SIZES["reference_25m"])
    parts = (*network.down[2:], *network.attention[1:], network.lowest, network.up[2])  # an eighth and a sixteenth
    low = sum(value.numel() for part in parts for value in part.parameters())
    assert low > 0.9 * n_parameters(network, statistics=False)


# Parts


def test_squeeze_and_excitation_is_that_of_the_paper_but_for_a_constant() -> None:
    """The sum is divided by a power of two; the first matrix can hold what is left."""
    block = SqueezeExcite(FloatArithmetic(), "se", 32, hard=False)
    x = torch.rand(3, 32, 56, 56)
    mean = x.mean(dim=(2, 3)) * (56 * 56 / 4096)
    gate = torch.sigmoid(torch.relu(mean @ block.reduce.weight.T) @ block.expand.weight.T)
    torch.testing.assert_close(block(x), x * gate[:, :, None, None])


def test_rows_attend_to_themselves_only() -> None:
    attention = RowAttention(8)
    x = torch.rand(2, 8, 5, 7)
    before = attention(x)
    x[:, :, 2] += 1
    changed = (attention(x) != before).any(dim=(0, 1, 3))
    assert changed.tolist() == [False, False, True, False, False]
    row = x[0, :, 2].T
    query, key, value = (layer(row) for layer in (attention.query, attention.key, attention.value))
    torch.testing.assert_close(attention(x)[0, :, 2].T, torch.softmax(query @ key.T / 8**0.5, dim=1) @ value)


def test_offset_attention_learns_from_what_attention_changes() -> None:
    attention = OffsetAttention(16).eval()
    x = torch.rand(2, 16, 4, 6)
    query, key, value = (layer(x).flatten(2).transpose(1, 2) for layer in (attention.query, attention.key, attention.value))
    seen = torch.softmax(query @ key.transpose(1, 2) / 4**0.5, dim=2) @ value
    wanted = x + attention.change(x - seen.transpose(1, 2).reshape(x.shape))
    torch.testing.assert_close(attention(x), wanted, rtol=1e-4, atol=1e-5)  # another order of summation


def test_offset_attention_does_not_hold_the_square_of_the_pixels() -> None:
    """14,400 pixels: their square is 830 MB, forward alone; the whole step must take far less than that."""
    code = (
        "import resource, torch\n"
        "from caloedge.networks.pf_energy import OffsetAttention\n"
        "torch.set_num_threads(1)\n"
        "layer, x = OffsetAttention(16), torch.rand(1, 16, 120, 120)\n"
        "layer(x[:, :, :4, :4]).sum().backward()\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "layer(x).sum().backward()\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 150_000  # kilobytes


def test_the_front_end_sees_triplets_with_shared_kernels() -> None:
    front = Front3d()
    x = torch.rand(2, 4, 9, 9)
    y = front(x)
    assert y.shape == (2, 12, 9, 9)
    exchanged = front(x[:, [0, 1, 3, 2]])
    torch.testing.assert_close(exchanged, torch.cat([y[:, 6:], y[:, :6]], dim=1))  # charges exchanged, results exchanged
    x[:, 3] += 1
    assert torch.equal(front(x)[:, :6], y[:, :6])  # the first triplet does not see positive tracks


# The quantised twin


def twin_of(plain: Any, size: Any, bits: int) -> Any:
    found: dict[str, float] = {}
    for name, module in plain.named_modules():
        if isinstance(module, CALIBRATED):
            module.register_forward_hook(lambda _m, _i, output, name=name: found.__setitem__(name, float(output.detach().max())))
    plain(torch.rand(2, 4, 16, 16) ** 4 * 2)
    arithmetic = QuantisedArithmetic(bits, bits, 10, 9, found)
    twin = NETWORK.build(arithmetic, size)
    missing, unexpected = twin.load_state_dict(folded(plain), strict=False)
    assert not unexpected
    assert all("scaling_impl" in name for name in missing)
    return twin.eval()


def trained_like(size: Any) -> Any:
    """Return a network whose batch normalisation has statistics of its own."""
    network = build(size).eval()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            torch.nn.init.uniform_(module.weight, 0.5, 2)
            torch.nn.init.normal_(module.bias, 0, 0.1)
    return network


@pytest.mark.parametrize("name", ["edge", "student", "trigger"])
def test_the_twin_computes_the_float_network_in_steps(name: str) -> None:
    plain = trained_like(SIZES[name])
    inputs = torch.rand(2, 4, 16, 16) ** 4 * 2
    with torch.no_grad():
        wanted = plain(inputs)
        found = {bits: twin_of(plain, SIZES[name], bits)(inputs) for bits in (8, 4)}
    alike = {bits: float(torch.corrcoef(torch.stack([x.flatten(), wanted.flatten()]))[0, 1]) for bits, x in found.items()}
    assert 0.95 < alike[8] < 1
    assert alike[4] < alike[8]


def test_folding_is_exact() -> None:
    plain = trained_like(pf_energy.Plain((3, 5), (2, 1))).double()
    bare = NETWORK.build(_WithoutNorm(), pf_energy.Plain((3, 5), (2, 1))).double()
    bare.load_state_dict(folded(plain))
    inputs = torch.rand(2, 4, 9, 9, dtype=torch.float64)
    torch.testing.assert_close(bare(inputs), plain(inputs), rtol=1e-12, atol=1e-12)


class _WithoutNorm(FloatArithmetic):
    def norm(self, name: str, channels: int) -> torch.nn.Module:
        return torch.nn.Identity()


@pytest.mark.parametrize("name", ["edge", "trigger"])
def test_the_compiled_network_is_the_twin_bit_for_bit(name: str, tmp_path: Any) -> None:
    size = SIZES[name]
    twin = twin_of(trained_like(size), size, 6)
    write_qonnx(twin, (4, 16, 16), "energy", tmp_path / "model.qonnx")
    graph = read(tmp_path / "model.qonnx")
    assert len(gates(graph)) == (name == "edge")
    codes = np.random.default_rng(1).integers(0, 1024, (3, 4, 16, 16))
    (values,) = graph.input_values(codes).values()
    wanted = graph.output_codes({"energy": run_twin(twin, values)})["energy"]
    np.testing.assert_array_equal(graph.run(codes)["energy"], wanted)
    assert len(np.unique(wanted)) > 20


def test_what_firmware_cannot_hold_is_refused_in_quantised_arithmetic() -> None:
    arithmetic = QuantisedArithmetic(6, 6, 10, 9)
    for name in ("row_1", "cnn3d_1", "reference_5m"):
        with pytest.raises(ValueError, match="exist in float arithmetic only"):
            NETWORK.build(arithmetic, SIZES[name])


# The loss


def gaussian_similarity(a: Tensor, b: Tensor) -> Tensor:
    """SSIM of images (N, 1, H, W) as its authors define it (IEEE TIP 13 (2004) 600), with an 11 × 11 window."""
    x = torch.arange(11, dtype=a.dtype) - 5
    line = torch.exp(-(x**2) / (2 * 1.5**2))
    window = torch.outer(line, line)[None, None] / line.sum() ** 2

    def blurred(image: Tensor) -> Tensor:
        return functional.conv2d(functional.pad(image, (5, 5, 5, 5), mode="reflect"), window)

    mean_a, mean_b = blurred(a), blurred(b)
    variance_a, variance_b = blurred(a * a) - mean_a**2, blurred(b * b) - mean_b**2
    covariance = blurred(a * b) - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    return (
        (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (variance_a + variance_b + c2))
    ).mean()


def test_the_similarity_has_a_window_of_two_dimensions() -> None:
    torch.manual_seed(1)
    truth = torch.rand(2, 1, 24, 28, dtype=torch.float64)
    found = truth + 0.2 * torch.randn_like(truth)
    wanted = weighted_mean_square(found, truth) + 0.05 * (1 - gaussian_similarity(found, truth))
    torch.testing.assert_close(image_loss(found, truth), wanted)
    turned = image_loss(found.transpose(2, 3), truth.transpose(2, 3))
    torch.testing.assert_close(turned, wanted)  # a window along one axis would not see this alike
    assert float(image_loss(truth, truth)) == pytest.approx(0, abs=1e-12)


def test_the_weighted_error_is_a_mean_over_events_not_rows() -> None:
    truth = torch.tensor([[[[1.0, 3.0], [0.0, 0.0]]], [[[0.0, 0.0], [2.0, 0.0]]]])
    found = truth + torch.tensor([[[[1.0, 0.0], [9.0, 9.0]]], [[[5.0, 5.0], [3.0, 5.0]]]])
    # first event (1·1 + 3·0)/4, second 2·9/2; errors where there is no energy do not count
    assert float(weighted_mean_square(found, truth)) == pytest.approx((0.25 + 9) / 2)
    assert float(weighted_mean_square(found, torch.zeros_like(truth))) == 0  # an empty event is no division by zero


def test_gradients_of_the_loss_are_right() -> None:
    torch.manual_seed(2)
    truth = torch.rand(1, 1, 12, 12, dtype=torch.float64)
    found = torch.rand(1, 1, 12, 12, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda image: image_loss(image, truth), (found,))
