"""The quantised twin of a float network, before it is trained: weights, and ranges of activations and weights."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from caloedge.arithmetic import CALIBRATED, SCALE, Arithmetic, FoldedArithmetic, QuantisedArithmetic, folded
from caloedge.errors import UnknownName
from caloedge.recipe import Quantisation
from caloedge.training import rounding, split
from caloedge.training.chains import chains, rectifier
from caloedge.training.equalise import equalised, scales
from caloedge.training.fit import predict
from caloedge.training.rehearsal import RehearsalArithmetic, Rounded
from caloedge.training.rounding import NARROW, products, round_wide_layers

HALVINGS = 2
"""How often the range of weights is halved in search of the least rounding error: larger weights then saturate."""
FILTER_SPREAD = 6
"""Filters with smaller weights than 2^-6 of the layer's largest get no finer scale: on their common grid the integer weights are
at most so many bits wider."""
LEAST = 1e-8
"""Range of a layer without weights."""


def quantised(of: Quantisation, largest: Mapping[str, float | Tensor] | None = None) -> QuantisedArithmetic:
    """Return the arithmetic that a recipe asks for; `largest` is left out where weights and scales are loaded later."""
    return QuantisedArithmetic(
        of.weight_bits,
        of.activation_bits,
        of.input_bits,
        of.input_fraction,
        largest or {},
        input_signed=of.input_signed,
        fixed_scales=of.fixed_scales,
        filter_scales=of.filter_scales,
        layer_bits=of.layer_bits,
    )


def twin(build: Callable[[Arithmetic], nn.Module], of: Quantisation, edge: nn.Module, inputs: Tensor) -> nn.Module:
    """Build the quantised network with the float edge network's weights, and its activations' ranges on `inputs`."""
    _check_names(edge, of)
    weights = folded(edge)
    largest: dict[str, float | Tensor] = dict(_activation_max(edge, inputs, of.activation_quantile))
    if of.fixed_scales:
        largest |= _weight_ranges(weights, of)
    return _with_weights(build(quantised(of, largest)), weights)


def rehearsal(build: Callable[[Arithmetic], nn.Module], of: Quantisation, edge: nn.Module, inputs: Tensor) -> nn.Module:
    """Build what is trained instead of the twin, for `rounded_twin`: the edge network with activations that round.

    Channels fill the full scales, those that lose most by rounding have finer steps at the cost of others, and the weights of
    narrow layers are rounded and not trained.
    """
    _check_names(edge, of)
    flat, weights = build(FoldedArithmetic()).eval(), folded(edge)
    flat.load_state_dict(weights)
    found = chains(flat)
    ranges = scales(flat, found, inputs, of.activation_quantile, of.headroom)
    weights = equalised(flat, found, weights, ranges.factors)
    flat.load_state_dict(weights)
    copies: dict[str, Tensor] = {}
    for chain in [chain for chain in found if split.can_split(flat, chain)]:
        first = rectifier(flat, chain)
        step = ranges.full_scales[first] / 2 ** of.layer_bits.get(first, of.activation_bits)
        lost = split.losses(flat, chain, inputs[: split.EVENTS], step)
        copies_C = split.copies(lost)
        weights = split.pruned(chain, weights, copies_C, lost.mean_C)
        copies[first] = copies_C.float()
    for name, layer in flat.named_modules():
        if isinstance(layer, nn.Conv2d | nn.Linear) and products(layer) < NARROW:
            kernel = weights[f"{name}.weight"]
            weights[f"{name}.weight"] = _nearest(kernel, weight_range(kernel, of.weight_bits, of.filter_scales), of.weight_bits)
    made = _rehearsing(build, of, weights, ranges.full_scales)
    for name, layer in made.named_modules():
        if isinstance(layer, Rounded) and name in copies:
            layer.copies = copies[name]
        if isinstance(layer, nn.Conv2d | nn.Linear) and products(layer) < NARROW:
            layer.weight.requires_grad = False
    return made


def _rehearsing(
    build: Callable[[Arithmetic], nn.Module], of: Quantisation, weights: Mapping[str, Tensor], full_scales: Mapping[str, float]
) -> nn.Module:
    """Build the network that rounds activations only, with the full scales of some."""
    arithmetic = RehearsalArithmetic(of.activation_bits, of.input_bits, of.input_fraction, of.input_signed, of.layer_bits)
    made = _with_weights(build(arithmetic), weights)
    for name, layer in made.named_modules():
        if isinstance(layer, Rounded) and name in full_scales:
            layer.full_scale.fill_(full_scales[name])
    return made


def _check_names(network: nn.Module, of: Quantisation) -> None:
    known = [name for name, layer in network.named_modules() if isinstance(layer, CALIBRATED)]
    for option, named in (("layer_bits", of.layer_bits), ("headroom", of.headroom)):
        if unknown := [name for name in named if name not in known]:
            raise UnknownName(f"recipe: quantisation.{option} names {unknown[0]!r}; the network has {', '.join(known)}")


def rounded_twin(build: Callable[[Arithmetic], nn.Module], of: Quantisation, rehearsed: nn.Module, inputs: Tensor) -> nn.Module:
    """Build the quantised network from a trained rehearsal: finer steps become copies of channels, weights are rounded."""
    rehearsed = rehearsed.eval()
    weights = {name: value.detach() for name, value in rehearsed.named_parameters()}
    steps = {name: layer for name, layer in rehearsed.named_modules() if isinstance(layer, Rounded)}
    flat = build(FoldedArithmetic())
    places = {}
    for chain in chains(flat):
        first = steps[rectifier(flat, chain)]
        if groups := split.groups(first.copies):
            places[chain.layer] = groups
            weights = split.expanded(chain, weights, groups, float(first.full_scale) / 2**first.bits)
    largest = {name: float(layer.full_scale) for name, layer in steps.items()}
    unrounded = _rehearsing(build, of, weights, largest).eval()
    made = _with_weights(build(quantised(of, {**largest, **_weight_ranges(weights, of)})), weights).eval()
    round_wide_layers(made, unrounded, inputs[: rounding.EVENTS], of.weight_bits, 2.0**-FILTER_SPREAD, places)
    return made


def _with_weights(made: nn.Module, weights: Mapping[str, Tensor]) -> nn.Module:
    """Load the weights of a float network into one that has scales, too."""
    missing, unexpected = made.load_state_dict(weights, strict=False)
    assert not unexpected, unexpected
    assert all(SCALE in name or name.endswith(("full_scale", "copies")) for name in missing), missing
    return made


def _weight_ranges(weights: Mapping[str, Tensor], of: Quantisation) -> dict[str, Tensor]:
    kernels = {name.removesuffix(".weight"): value for name, value in weights.items() if name.endswith(".weight")}
    return {name: weight_range(kernel, of.weight_bits, of.filter_scales) for name, kernel in kernels.items()}


def weight_range(weights: Tensor, bits: int, per_filter: bool) -> Tensor:
    """Return the power of two at which weights (C_out, …) best saturate: of one element, or (C_out, 1, …).

    >>> weight_range(torch.tensor([[0.9, -0.5], [0.1, 0.05]]), 8, True).flatten().tolist()
    [1.0, 0.125]
    """
    rows = weights.flatten(1) if per_filter else weights.flatten()[None]
    top = torch.ceil(torch.log2(rows.abs().amax(1, keepdim=True).clamp(min=LEAST)))
    least = top.max() - FILTER_SPREAD
    ranges = torch.stack([2.0 ** (top - halvings).clamp(min=least) for halvings in range(HALVINGS + 1)])
    levels = 2 ** (bits - 1)
    step = ranges / levels
    errors = ((torch.clamp(torch.round(rows / step), 1 - levels, levels - 1) * step - rows) ** 2).sum(2, keepdim=True)
    best = torch.gather(ranges, 0, errors.argmin(0, keepdim=True))[0]
    return best.reshape(-1, *[1] * (weights.ndim - 1)) if per_filter else best.reshape(())


def _nearest(weights: Tensor, ranges: Tensor, bits: int) -> Tensor:
    levels = 2 ** (bits - 1)
    codes = torch.clamp(torch.round(weights / ranges * levels), 1 - levels, levels - 1)
    rounded: Tensor = codes * ranges / levels
    return rounded


def _activation_max(edge: nn.Module, inputs: Tensor, quantile: float) -> dict[str, float]:
    """Return the largest useful value of each activation of the float network."""
    found: dict[str, float] = {}

    def note(name: str, output: Tensor) -> None:
        found[name] = max(float(np.quantile(output.numpy(), quantile)), 1e-3)

    layers = [(name, layer) for name, layer in edge.named_modules() if isinstance(layer, CALIBRATED)]
    hooks = [layer.register_forward_hook(lambda _m, _i, out, name=name: note(name, out)) for name, layer in layers]
    predict(edge, inputs, batch=len(inputs))
    for hook in hooks:
        hook.remove()
    return found
