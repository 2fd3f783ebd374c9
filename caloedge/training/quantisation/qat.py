"""The quantised twin of a float network: made before training, or from a fake-quantised network after it."""

import copy
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from caloedge.arithmetic import CALIBRATED, SCALE, Arithmetic, FoldedArithmetic, QuantisedArithmetic, Squeeze, folded
from caloedge.errors import UnknownName
from caloedge.recipe import Quantisation
from caloedge.training.fit import predict
from caloedge.training.quantisation import channel_splitting
from caloedge.training.quantisation.channel_regions import Region, channel_regions, rectifier
from caloedge.training.quantisation.equalisation import equalised, scales
from caloedge.training.quantisation.fake_quant import FakeQuant, FakeQuantArithmetic
from caloedge.training.quantisation.gptq import LEAST_RANGE, gptq_layers, is_wide, weighted

PROCEDURE_VERSION = 2
"""Number of the procedure: another makes another network of the same recipe."""
HALVINGS = 2
"""How often the range of weights is halved in search of the least rounding error: larger weights then saturate."""
FILTER_SPREAD = 6
"""Filters with smaller weights than 2^-6 of the layer's largest get no finer scale: on their common grid the integer weights are
at most so many bits wider."""


def quantised(quantisation: Quantisation, largest: Mapping[str, float | Tensor] | None = None) -> QuantisedArithmetic:
    """Return the arithmetic that a recipe asks for; `largest` is left out where weights and scales are loaded later."""
    return QuantisedArithmetic(
        quantisation.weight_bits,
        quantisation.activation_bits,
        quantisation.input_bits,
        quantisation.input_fraction,
        largest or {},
        input_signed=quantisation.input_signed,
        fixed_scales=quantisation.fixed_scales,
        filter_scales=quantisation.filter_scales,
        layer_bits=quantisation.layer_bits,
    )


def twin(build: Callable[[Arithmetic], nn.Module], quantisation: Quantisation, edge: nn.Module, inputs: Tensor) -> nn.Module:
    """Build the quantised network with the float edge network's weights, and its activations' ranges on `inputs`."""
    weights = folded(edge)
    largest: dict[str, float | Tensor] = dict(_activation_max(edge, inputs, quantisation.activation_quantile))
    if quantisation.fixed_scales:
        largest |= _weight_ranges(weights, quantisation)
    return _with_weights(build(quantised(quantisation, largest)), weights)


def fake_quantised(
    build: Callable[[Arithmetic], nn.Module], quantisation: Quantisation, edge: nn.Module, inputs: Tensor
) -> nn.Module:
    """Build what is trained instead of the twin, for `from_fake_quantised`: the edge network with activations that round.

    Channels fill the full scales, and those that lose most by rounding are split at the cost of others. The weights of
    narrow layers are rounded and no longer trained.
    """
    flat, weights = build(FoldedArithmetic()).eval(), folded(edge)
    flat.load_state_dict(weights)
    regions = channel_regions(flat)
    ranges = scales(flat, regions, inputs, quantisation.activation_quantile, quantisation.headroom)
    weights = equalised(flat, regions, weights, ranges.factors)
    flat.load_state_dict(weights)
    splittable = [region for region in regions if channel_splitting.can_split(flat, region)]
    copies: dict[str, Tensor] = {}
    for region in splittable:
        lost = channel_splitting.losses(
            flat, region, inputs[: channel_splitting.EVENTS], _step(flat, region, ranges.full_scales, quantisation)
        )
        copies[region.source] = channel_splitting.n_copies(lost)
        weights = channel_splitting.pruned(region, weights, copies[region.source], lost.mean_C)
    places = {name: channel_splitting.copy_places(copies_C) for name, copies_C in copies.items()}
    for region in splittable:
        weights = channel_splitting.split_weights(
            region, weights, places[region.source], _step(flat, region, ranges.full_scales, quantisation)
        )
    unrounded = _with_fake_quant(build, quantisation, weights, ranges.full_scales).eval()
    narrow = [name for name, layer in weighted(unrounded).items() if not is_wide(layer)]
    return _with_frozen(unrounded, narrow, inputs, quantisation.weight_bits, places)


def freeze_small_layers(trained: nn.Module, inputs: Tensor, bits: int) -> nn.Module:
    """Build what is fine-tuned of a trained fake-quantised network: all wide layers but the largest are rounded and frozen.

    The largest has most to make up for that with (arXiv 1702.03044), and loses least by being rounded itself.
    """
    sizes = {name: trained.get_parameter(f"{name}.weight").numel() for name in _unrounded(trained)}
    return _with_frozen(trained, [name for name, size in sizes.items() if size < max(sizes.values())], inputs, bits)


def _unrounded(trained: nn.Module) -> list[str]:
    """Return the layers whose weights are still trained."""
    return [name for name in weighted(trained) if trained.get_parameter(f"{name}.weight").requires_grad]


def _with_frozen(
    trained: nn.Module,
    names: Sequence[str],
    inputs: Tensor,
    bits: int,
    places: Mapping[str, Sequence[Sequence[int]]] | None = None,
) -> nn.Module:
    """Return a copy in which the weights of some layers are rounded by GPTQ and no longer trained."""
    frozen = copy.deepcopy(trained.eval())
    gptq_layers(frozen, trained, names, inputs, bits, 2.0**-FILTER_SPREAD, places)
    for name in names:
        frozen.get_parameter(f"{name}.weight").requires_grad = False
    return frozen


def _step(network: nn.Module, region: Region, full_scales: Mapping[str, float], quantisation: Quantisation) -> float:
    """Return the step of the codes of a region's channels."""
    name = rectifier(network, region)
    return full_scales[name] * 2.0 ** -quantisation.layer_bits.get(name, quantisation.activation_bits)


def _with_fake_quant(
    build: Callable[[Arithmetic], nn.Module],
    quantisation: Quantisation,
    weights: Mapping[str, Tensor],
    full_scales: Mapping[str, float],
) -> nn.Module:
    """Build the network that rounds activations only, with the full scales of some."""
    arithmetic = FakeQuantArithmetic(
        quantisation.activation_bits,
        quantisation.input_bits,
        quantisation.input_fraction,
        quantisation.input_signed,
        quantisation.layer_bits,
    )
    network = _with_weights(build(arithmetic), weights)
    for name, layer in network.named_modules():
        if isinstance(layer, FakeQuant) and name in full_scales:
            layer.full_scale.fill_(full_scales[name])
    return network


def check_names(edge: nn.Module, quantisation: Quantisation) -> None:
    """Raise `UnknownName` where a recipe names a layer that the network does not have, or that cannot have what it gives it."""
    layers = {name: layer for name, layer in edge.named_modules() if isinstance(layer, CALIBRATED)}
    with_bits = {name for name, layer in layers.items() if not isinstance(layer, Squeeze)}
    for option, named, known in (
        ("layer_bits", quantisation.layer_bits, with_bits),
        ("headroom", quantisation.headroom, set(layers)),
    ):
        if unknown := [name for name in named if name not in known]:
            there = ", ".join(name for name in layers if name in known)
            raise UnknownName(f"recipe: quantisation.{option} names {unknown[0]!r}; the network has {there}")


def from_fake_quantised(
    build: Callable[[Arithmetic], nn.Module], quantisation: Quantisation, trained: nn.Module, inputs: Tensor
) -> nn.Module:
    """Build the quantised network from a trained fake-quantised one, whose remaining layers are rounded now."""
    rounded = _with_frozen(trained, _unrounded(trained), inputs, quantisation.weight_bits)
    weights = {name: value.detach() for name, value in rounded.named_parameters()}
    full_scales = {name: float(layer.full_scale) for name, layer in rounded.named_modules() if isinstance(layer, FakeQuant)}
    ranges = {name: _grid_range(weights[f"{name}.weight"], quantisation.weight_bits) for name in weighted(rounded)}
    return _with_weights(build(quantised(quantisation, {**full_scales, **ranges})), weights).eval()


def _grid_range(weights: Tensor, bits: int) -> Tensor:
    """Return the coarsest ranges (C_out, 1, …) of which the codes are just these weights, which were rounded."""
    rows, levels = weights.flatten(1), 2 ** (bits - 1)
    used = rows.abs().amax(1) > 0
    top_O = torch.ceil(torch.log2(rows.abs().amax(1).clamp(min=LEAST_RANGE)))
    tried = torch.stack([top_O + bits - finer for finer in range(2 * bits)])
    codes = rows * levels / 2.0 ** tried[:, :, None]
    exact = ((codes == codes.round()) & (codes.abs() < levels)).all(2)
    assert exact.any(0).all(), "weights are not on a grid"
    exponent_O = torch.gather(tried, 0, exact.int().argmax(0, keepdim=True))[0]
    exponent_O = torch.where(used, exponent_O, exponent_O[used].max() if used.any() else 0.0)
    return (2.0**exponent_O).reshape(-1, *[1] * (weights.ndim - 1))


def _with_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Load the weights of a float network into one that has scales, too."""
    missing, unexpected = network.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert all(SCALE in name or name.endswith("full_scale") for name in missing), missing
    return network


def _weight_ranges(weights: Mapping[str, Tensor], quantisation: Quantisation) -> dict[str, Tensor]:
    kernels = {name.removesuffix(".weight"): value for name, value in weights.items() if name.endswith(".weight")}
    return {name: weight_range(kernel, quantisation.weight_bits, quantisation.filter_scales) for name, kernel in kernels.items()}


def weight_range(weights: Tensor, bits: int, per_filter: bool) -> Tensor:
    """Return the power of two at which weights (C_out, …) best saturate: of one element, or (C_out, 1, …).

    >>> weight_range(torch.tensor([[0.9, -0.5], [0.1, 0.05]]), 8, True).flatten().tolist()
    [1.0, 0.125]
    """
    rows = weights.flatten(1) if per_filter else weights.flatten()[None]
    top = torch.ceil(torch.log2(rows.abs().amax(1, keepdim=True).clamp(min=LEAST_RANGE)))
    least = top.max() - FILTER_SPREAD
    ranges = torch.stack([2.0 ** (top - halvings).clamp(min=least) for halvings in range(HALVINGS + 1)])
    levels = 2 ** (bits - 1)
    step = ranges / levels
    errors = ((torch.clamp(torch.round(rows / step), 1 - levels, levels - 1) * step - rows) ** 2).sum(2, keepdim=True)
    best = torch.gather(ranges, 0, errors.argmin(0, keepdim=True))[0]
    return best.reshape(-1, *[1] * (weights.ndim - 1)) if per_filter else best.reshape(())


def _activation_max(edge: nn.Module, inputs: Tensor, quantile: float) -> dict[str, float]:
    """Return the largest useful value of each activation of the float network."""
    largest: dict[str, float] = {}

    def note(name: str, output: Tensor) -> None:
        largest[name] = max(float(np.quantile(output.numpy(), quantile)), 1e-3)

    layers = [(name, layer) for name, layer in edge.named_modules() if isinstance(layer, CALIBRATED)]
    hooks = [layer.register_forward_hook(lambda _m, _i, out, name=name: note(name, out)) for name, layer in layers]
    predict(edge, inputs, batch=len(inputs))
    for hook in hooks:
        hook.remove()
    return largest
