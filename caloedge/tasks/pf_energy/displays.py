"""Event displays of energy images: what the detector sees, what is there, and what methods make of it.

Which events are shown is decided by the truth alone. Axes: E event, C channel, H row in η, W column in φ.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import BASELINE, FLOAT, INTEGER
from caloedge.metrics.energy_images import TrueImages
from caloedge.results import Image, Section

SHOWN_ABOVE_GEV = 0.05
"""Pixels below are white in displays."""


def section(events: TrueImages, shown: Sequence[str], inputs_ECHW: NDArray[Any], outputs: Mapping[str, NDArray[Any]]) -> Section:
    """Show a typical event of some sets; inputs and outputs in units."""
    blocks: list[Image] = []
    for set_name in shown:
        event = typical(events, set_name)
        if event is not None:
            blocks += _display(events, event, set_name, inputs_ECHW[event], outputs)
    return Section(
        title="Event displays",
        text="x: column in φ, −π to π; y: row in η, −2.5 to 2.5. Of each set is shown the event in the field whose true energy "
        f"is that of the median. Pixels below {SHOWN_ABOVE_GEV:g} GeV are white; all energies of an event have the same colours.",
        blocks=tuple(blocks),
    )


def typical(events: TrueImages, name: str) -> int | None:
    """Return the event of a set, in the field if there is one, of median true energy; None of an empty set."""
    number_E = np.flatnonzero(events.of(name))
    in_field = number_E[events.field_E[number_E] > 0]
    number_E = in_field if len(in_field) else number_E
    if not len(number_E):
        return None
    order_E = np.argsort(events.truth_EHW[number_E].sum(axis=(1, 2)), kind="stable")
    return int(number_E[order_E[len(order_E) // 2]])


def _display(
    events: TrueImages, event: int, set_name: str, inputs_CHW: NDArray[Any], outputs: Mapping[str, NDArray[Any]]
) -> list[Image]:
    unit, truth = events.unit_E[event], events.truth_EHW[event]
    seen = inputs_CHW * unit
    reconstructed = {name: np.maximum(values[event].reshape(truth.shape), 0) * unit for name, values in outputs.items()}
    shown = [("EMCal", seen[0]), ("HCal", seen[1]), ("tracks", seen[2] + seen[3]), ("true energy", truth)]
    shown += [(name, reconstructed[name]) for name in (BASELINE, FLOAT, INTEGER) if name in reconstructed]
    largest = max(2 * SHOWN_ABOVE_GEV, *(float(values.max()) for _, values in shown))
    colours = (SHOWN_ABOVE_GEV, round(largest, 2))
    images = [_image(f"{label}, {set_name}", values, f"{values.sum():,.0f} GeV in total.", colours) for label, values in shown]
    last = next((name for name in (INTEGER, *reconstructed) if name in reconstructed), None)
    if last:
        difference = reconstructed[last] - truth
        width = float(difference.std())
        caption = f"Standard deviation {width:.2f} GeV; the true energy's is {truth.std():.2f} GeV."
        images.append(_image(f"{last} − true energy, {set_name}", difference, caption))
    return images


def _image(title: str, values_HW: NDArray[Any], caption: str, colours: tuple[float, float] | None = None) -> Image:
    clean = np.where(np.abs(values_HW) < SHOWN_ABOVE_GEV, 0, values_HW).astype(float).round(2)
    values = tuple(tuple(row) for row in clean.T.tolist())
    return Image(title=title, values=values, unit="GeV", colour_range=colours, caption=caption)
