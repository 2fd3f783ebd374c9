"""Networks of generators by name, with the options that a recipe gives them."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from caloedge.errors import UnknownName, UserError, meant
from caloedge.fidelity.layout import Layout
from caloedge.generative.layer_flow import LayerFlow
from caloedge.generative.unet import UNet


def _cylinder(cells: Layout) -> tuple[int, int, int]:
    shape = cells.geometry.cell_shape
    if len(shape) != 3:
        raise UserError(f"geometry {cells.geometry.name}: its cells are no cylinder of layers, azimuths and radii of one size")
    return shape[0], shape[1], shape[2]


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    "layer_flow": lambda cells, told, **options: LayerFlow(cells.n_layers, told, **options),
    "unet": lambda cells, told, **options: UNet(_cylinder(cells), told, **options),
}
"""(layout, number of conditions, options): a network."""


def build(name: str, cells: Layout, options: Mapping[str, Any]) -> nn.Module:
    """Return an untrained network for the cells of a geometry."""
    if name not in ARCHITECTURES:
        raise UnknownName(f"no generative network {name!r}{meant(name, ARCHITECTURES)}; there are: {', '.join(ARCHITECTURES)}")
    told = 3 if cells.by_impact else 1
    try:
        return ARCHITECTURES[name](cells, told, **options)
    except (TypeError, ValueError) as problem:
        raise UserError(f"network {name}: {problem}") from None
