"""Networks of generators by name, with the options that a recipe gives them."""

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from caloedge.errors import UnknownName, UserError, meant
from caloedge.fidelity.layout import Layout
from caloedge.generative.layer_flow import LayerFlow
from caloedge.generative.layer_transformer import LayerTransformer
from caloedge.generative.unet import UNet
from caloedge.generative.unet3d import UNet3d


def _cylinder(cells: Layout) -> tuple[int, int, int]:
    shape = cells.geometry.cell_shape
    if len(shape) != 3:
        raise UserError(f"geometry {cells.geometry.name}: its cells are no cylinder of layers, azimuths and radii of one size")
    return shape[0], shape[1], shape[2]


ARCHITECTURES: dict[str, tuple[Callable[..., nn.Module], Callable[[Layout], Any]]] = {
    "layer_flow": (LayerFlow, lambda cells: cells.n_layers),
    "layer_transformer": (LayerTransformer, _cylinder),
    "unet": (UNet, _cylinder),
    "unet3d": (UNet3d, _cylinder),
}
"""A network, made from what it must know of a layout, the number of conditions and options; and what it must know."""


def build(name: str, cells: Layout, options: Mapping[str, Any]) -> nn.Module:
    """Return an untrained network for the cells of a geometry."""
    if name not in ARCHITECTURES:
        raise UnknownName(f"no generative network {name!r}{meant(name, ARCHITECTURES)}; there are: {', '.join(ARCHITECTURES)}")
    network, known_of = ARCHITECTURES[name]
    known, n_conditions = known_of(cells), 3 if cells.by_impact else 1
    try:
        _check(network, options)
        return network(known, n_conditions, **options)
    except (TypeError, ValueError) as problem:
        raise UserError(f"network {name}: {problem}") from None


def _check(network: Callable[..., nn.Module], options: Mapping[str, Any]) -> None:
    """Raise `ValueError` for options that a network does not have, or of another type than their defaults."""
    parameters = inspect.signature(network).parameters.values()
    defaults = {parameter.name: parameter.default for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}
    for option, value in options.items():
        if option not in defaults:
            raise ValueError(f"no option {option!r}{meant(option, defaults)}; there are: {', '.join(defaults)}")
        default = defaults[option]
        if isinstance(default, bool):
            fits, wanted = isinstance(value, bool), "true or false"
        elif isinstance(default, int):
            fits, wanted = _is_count(value), "a whole number of at least 1"
        elif isinstance(default, str):
            fits, wanted = isinstance(value, str), "a word"
        else:
            fits = value is default or (isinstance(value, list | tuple) and bool(value) and all(map(_is_count, value)))
            wanted = "a list of whole numbers of at least 1"
        if not fits:
            raise ValueError(f"{option}: {value!r}; give {wanted}")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
