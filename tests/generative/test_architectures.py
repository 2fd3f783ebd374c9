"""Networks of generators: sizes, symmetry, what they depend on, the ONNX file of each, and options that do not fit."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from optional_packages import need

need("torch", "zuko", "onnxruntime", "sklearn")  # the last is what the module that exports judges showers with

import torch  # noqa: E402

from caloedge.detector.crystals.geometry import geometry  # noqa: E402
from caloedge.errors import UserError  # noqa: E402
from caloedge.fast_simulation.export import drawn_with, write_onnx  # noqa: E402
from caloedge.fidelity.layout import layout  # noqa: E402
from caloedge.generation.trained import onnx_network  # noqa: E402
from caloedge.generative import unet3d  # noqa: E402
from caloedge.generative.build import ARCHITECTURES, build  # noqa: E402
from caloedge.generative.layer_transformer import LayerTransformer  # noqa: E402
from caloedge.generative.unet import UNet  # noqa: E402
from caloedge.generative.unet3d import UNet3d  # noqa: E402

LAYERS = layout(geometry("wsi"))
TINY: dict[str, Mapping[str, Any]] = {
    "layer_flow": {"transforms": 2, "hidden": [16]},
    "layer_transformer": {"width": 16, "depth": 2, "heads": 2},
    "unet": {"widths": [16, 16, 16], "embedding": 16},
    "unet3d": {"widths": [16, 16, 16, 32], "embedding": 16},
}
OTHERS: dict[str, tuple[str, Mapping[str, Any]]] = {
    "patches as CaloDREAM's": ("layer_transformer", {**TINY["layer_transformer"], "patch": [3, 16, 1]}),
    "no attention": ("unet3d", {**TINY["unet3d"], "attention": False}),
    "velocities": ("unet3d", {**TINY["unet3d"], "predicts": "v"}),
}
CASES = {name: (name, options) for name, options in TINY.items()} | OTHERS
SHAPE = (5, 8, 4)
CELLS = (slice(None), slice(0, 5 * 8 * 4))
"""Of inputs; layer energies, two conditions and the time come behind."""


def perturbed(network: torch.nn.Module, seed: int = 1) -> torch.nn.Module:
    """Return the network with other weights than zero wherever training begins at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return network.eval()


def small(kind: type[torch.nn.Module], **options: Any) -> torch.nn.Module:
    torch.manual_seed(0)
    return perturbed(kind(SHAPE, 2, predicts="v", **options))


def inputs(n: int, width: int = 5 * 8 * 4 + 5 + 2 + 1, seed: int = 2) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(n, width, generator=generator)
    drawn[:, -1] = 0.9 * torch.rand(n, generator=generator)  # the time; a flow has none and takes any number
    return drawn


def parameters(name: str, **options: Any) -> int:
    with torch.device("meta"):  # counted, not made
        return sum(parameter.numel() for parameter in build(name, LAYERS, options).parameters())


def test_unet3d_has_the_published_number_of_parameters() -> None:
    """0.518 million: CaloDiffusion on dataset 2, arXiv 2410.21611."""
    assert parameters("unet3d") == 532_753
    assert parameters("unet3d") == pytest.approx(518_000, rel=0.05)
    # The published 1.22 million of dataset 3 are another test of the same layers.
    assert parameters("unet3d", widths=[32, 32, 32, 32]) == pytest.approx(1_220_000, rel=0.05)


def test_a_transformer_as_that_of_calodream_is_most_of_its_28_4_million_parameters() -> None:
    """The published number, arXiv 2410.21611, has the network of layer energies besides."""
    found = parameters("layer_transformer", patch=[3, 16, 1], width=480, depth=6, heads=6)
    assert found == 25_785_168
    assert 0.9 < found / 28_400_000 < 1


def test_the_default_transformer_has_one_token_per_layer() -> None:
    assert parameters("layer_transformer") == parameters("layer_transformer", patch=[1, 16, 9]) == 1_887_760


@pytest.mark.parametrize("case", CASES)
def test_onnxruntime_computes_what_torch_computes(case: str, tmp_path: Path) -> None:
    name, options = CASES[case]
    torch.manual_seed(3)
    network = perturbed(build(name, LAYERS, options))
    width = 45 + 1 if name == "layer_flow" else 6480 + 45 + 1 + 1
    write_onnx(network, width, tmp_path / "network.onnx")
    run = onnx_network(tmp_path / "network.onnx")
    for n in (1, 3):
        given = inputs(n, width, seed=n)
        with torch.no_grad():
            wanted = drawn_with(network)(given).numpy()
        found = run(given.numpy())
        assert found.shape == (n, 45 if name == "layer_flow" else 6480)
        assert wanted.std() > 0.1, "outputs that are nearly zero compare nothing"
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4)
        if name != "layer_flow":
            assert np.abs(run(np.roll(given.numpy(), 1, axis=1)) - wanted).max() > 0.1, "other inputs pass the comparison too"


def turned(cells: torch.Tensor, columns: int) -> torch.Tensor:
    return cells.reshape(-1, *SHAPE).roll(columns, 2).flatten(1)


def departure(network: torch.nn.Module, columns: int) -> float:
    """Return by how much the output of turned showers differs from the turned output."""
    given = inputs(2)
    other = given.clone()
    other[CELLS] = turned(given[CELLS], columns)
    with torch.no_grad():
        result: float = (network(other) - turned(network(given), columns)).abs().max().item()
    return result


@pytest.mark.parametrize(
    ("kind", "widths", "columns"),
    [(UNet, (16, 16, 16), 4), (UNet, (16,), 1), (UNet3d, (16, 16, 16, 32), 4), (UNet3d, (16, 16, 16), 2), (UNet3d, (16, 16), 1)],
)
def test_a_turned_shower_has_turned_velocities(kind: type[torch.nn.Module], widths: tuple[int, ...], columns: int) -> None:
    network = small(kind, widths=widths, embedding=16)
    for turns in range(columns, 8, columns):
        assert departure(network, turns) < 1e-4
    if columns > 1:  # azimuths are halved: in between, cells fall on other places
        assert departure(network, columns // 2) > 1e-2


def test_a_turn_is_noticed_where_azimuth_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unet3d, "periodic", lambda x: torch.nn.functional.pad(x, (0, 0, 1, 1)))
    assert departure(small(UNet3d, widths=(16, 16, 16, 32), embedding=16), 4) > 1e-2


@pytest.mark.parametrize("kind", [UNet, UNet3d, LayerTransformer])
@pytest.mark.parametrize(
    ("what", "column"),
    [("a cell", 0), ("the last cell", 159), ("a layer", 162), ("a condition", 165), ("another", 166), ("time", 167)],
)
def test_velocities_depend_on_all_that_is_given(kind: type[torch.nn.Module], what: str, column: int) -> None:
    network, given = small(kind), inputs(2)
    other = given.clone()
    other[1, column] += 0.3
    with torch.no_grad():
        before, after = network(given), network(other)
    assert (before[0] - after[0]).abs().max() < 1e-5, "a shower depends on the others that are computed with it"
    assert (before[1] - after[1]).abs().max() > 1e-3, what


@pytest.mark.parametrize("case", CASES)
def test_every_parameter_learns(case: str) -> None:
    name, options = CASES[case]
    torch.manual_seed(4)
    network = perturbed(build(name, LAYERS, options))
    found = network(inputs(2, 45 + 1 if name == "layer_flow" else 6480 + 45 + 1 + 1))
    (found * torch.randn(found.shape)).sum().backward()
    still = [label for label, one in network.named_parameters() if one.grad is None or not one.grad.abs().max() > 0]
    assert still == []


@pytest.mark.parametrize("shape", [(6, 8, 5), (5, 4, 4), (1, 4, 9), (3, 4, 6)])
def test_unet3d_takes_odd_and_even_numbers_of_layers_and_radii(shape: tuple[int, int, int]) -> None:
    cells = int(np.prod(shape))
    network = UNet3d(shape, 1, widths=(8, 8, 8, 8), embedding=8)
    assert network(torch.randn(2, cells + shape[0] + 2)).shape == (2, cells)


@pytest.mark.parametrize("patch", [(1, 8, 4), (5, 2, 2), (1, 4, 1)])
def test_a_patch_is_of_neighbouring_cells(patch: tuple[int, int, int]) -> None:
    """Untrained blocks pass nothing between tokens, so that a cell moves only the velocities of its own patch."""
    network = LayerTransformer(SHAPE, 2, patch=patch, width=16, depth=1, heads=2, predicts="v")
    torch.nn.init.normal_(network.last.weight)
    given = inputs(1)
    other = given.clone()
    place = (4, 5, 2)
    other[0, np.ravel_multi_index(place, SHAPE)] += 1
    with torch.no_grad():
        moved = (network(other) != network(given)).reshape(SHAPE).numpy()
    wanted = np.zeros(SHAPE, bool)
    wanted[tuple(slice(i // size * size, (i // size + 1) * size) for i, size in zip(place, patch, strict=True))] = True
    np.testing.assert_array_equal(moved, wanted)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        (
            "unet3d",
            {"widhts": [8, 8]},
            "no option 'widhts' (did you mean 'widths'?); there are: widths, embedding, attention, predicts",
        ),
        ("unet3d", {"shape": [45, 16, 9]}, "no option 'shape'; there are: "),
        ("unet3d", {"widths": [8]}, "widths are at least two: that of the input and that of the finest cells"),
        ("unet3d", {"widths": [8, 12, 12]}, "width 12 is no multiple of 8"),
        ("unet3d", {"widths": [8] * 6}, "6 widths halve 16 azimuths and 9 radii 4 times; give fewer widths"),
        ("unet3d", {"widths": 8}, "widths: 8; give a list of whole numbers of at least 1"),
        ("unet3d", {"widths": []}, "widths: []; give a list of whole numbers of at least 1"),
        ("unet3d", {"widths": [8, 0]}, "widths: [8, 0]; give a list of whole numbers of at least 1"),
        ("unet3d", {"widths": None}, "widths: None; give a list of whole numbers of at least 1"),
        ("unet3d", {"embedding": "wide"}, "embedding: 'wide'; give a whole number of at least 1"),
        ("unet3d", {"attention": "linear"}, "attention: 'linear'; give true or false"),
        ("unet3d", {"predicts": "noise"}, "predicts: 'noise'; give x, the shower, or v, its velocity"),
        ("unet3d", {"predicts": 1}, "predicts: 1; give a word"),
        (
            "layer_transformer",
            {"patch": [2, 16, 9]},
            "patch of 2 × 16 × 9 cells does not divide the 45 × 16 × 9 cells of (layers, azimuths, radii)",
        ),
        ("layer_transformer", {"patch": [3, 16]}, "patch of 3 × 16 cells does not divide the 45 × 16 × 9 cells"),
        ("layer_transformer", {"patch": [3, 16, 0]}, "patch: [3, 16, 0]; give a list of whole numbers of at least 1"),
        ("layer_transformer", {"heads": 5}, "5 heads do not divide the width of 128"),
        ("layer_transformer", {"heads": 0}, "heads: 0; give a whole number of at least 1"),
        ("layer_transformer", {"depth": True}, "depth: True; give a whole number of at least 1"),
        ("layer_transformer", {"width": 16.0}, "width: 16.0; give a whole number of at least 1"),
        ("unet", {"widths": [8, 12]}, "num_channels (12) must be divisible by num_groups (8)"),
        ("unet", {"depth": 3}, "no option 'depth'; there are: widths, embedding, predicts"),
        ("layer_flow", {"bins": -1}, "bins: -1; give a whole number of at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused_in_one_line(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError) as caught:
        build(name, LAYERS, options)
    said = str(caught.value)
    assert said.startswith(f"network {name}: {message}")
    assert "\n" not in said


def test_crystals_are_no_cylinder() -> None:
    for name in set(ARCHITECTURES) - {"layer_flow"}:
        with pytest.raises(
            UserError, match=r"^geometry pbwo4: its cells are no cylinder of layers, azimuths and radii of one size$"
        ):
            build(name, layout(geometry("pbwo4")), {})
