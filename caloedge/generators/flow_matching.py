"""Layer energies by a normalising flow, then the cells by flow matching (arXiv 2210.02747, 2405.09629).

Two networks: `layers` takes noise and conditions to the numbers of the layers' energies in one pass; `cells` says the velocity
along which noise becomes the numbers of the cells, given the layers' energies, the conditions and the time.

Axes: N shower, C cell, L layer, O orientation.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import Generator, Role
from caloedge.generation.cells import Cells
from caloedge.generation.energies import EnergyCode
from caloedge.generation.sampling import integrate
from caloedge.generation.trained import Trained, check, conditions, opener

LAST_TIME = 0.98
"""Times of training end here."""


def draw(
    trained: Trained, energies_mev: NDArray[Any], impact_mm: NDArray[Any], generators: list[np.random.Generator]
) -> NDArray[Any]:
    """Return showers (N, C) MeV of particles; each shower's noise is its own."""
    sampler, told = trained.manifest.sampler, trained.conditions(energies_mev, impact_mm)
    noise_NL = np.stack([one.standard_normal(trained.energies.n_layers, np.float32) for one in generators])
    layers_mev = trained.draw_layers(energies_mev, told, noise_NL)
    cells, given = trained.cells, _given(trained.cells, energies_mev, layers_mev, told)
    noise_NC = np.stack([one.standard_normal(cells.layout.n_cells, np.float32) for one in generators])

    def velocity(x: NDArray[Any], time: float) -> NDArray[Any]:
        times = np.full((len(x), 1), time, np.float32)
        return trained.networks["cells"](np.concatenate([x, given, times], axis=1, dtype=np.float32))

    return cells.decode(energies_mev, layers_mev, integrate(velocity, noise_NC, sampler.steps, sampler.solver), sampler.cell_cut)


def _given(cells: Cells, energies_mev: NDArray[Any], layers_mev: NDArray[Any], told: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([cells.code.channels(energies_mev, layers_mev), told], axis=1, dtype=np.float32)


def layers_pairs(
    energies: EnergyCode,
    cells: Cells,
    energies_mev: NDArray[Any],
    impact_mm: NDArray[Any],
    cells_mev: NDArray[Any],
    generator: np.random.Generator,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return numbers of layer energies with conditions, of which a flow maximises the likelihood; there are no targets."""
    numbers = energies.encode(energies_mev, cells.layers(cells_mev), generator)
    told = conditions(energies, cells, energies_mev, impact_mm)
    return np.concatenate([numbers, told], axis=1, dtype=np.float32), np.zeros((len(told), 1), np.float32)


def cells_pairs(
    energies: EnergyCode,
    cells: Cells,
    energies_mev: NDArray[Any],
    impact_mm: NDArray[Any],
    cells_mev: NDArray[Any],
    generator: np.random.Generator,
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return points between noise and showers, each turned at random, with all that is known there; targets are velocities."""
    orientation = generator.integers(len(cells.layout.orientations_OC), size=len(cells_mev))
    turned = np.take_along_axis(cells_mev, cells.layout.orientations_OC[orientation], axis=1)
    impact_mm = np.einsum("nij,nj->ni", cells.layout.impact_O22[orientation], impact_mm)
    showers = cells.encode(energies_mev, turned, generator)
    noise = generator.standard_normal(showers.shape, np.float32)
    # More times in the middle, where showers take shape.
    times = (LAST_TIME / (1 + np.exp(-generator.standard_normal((len(showers), 1))))).astype(np.float32)
    given = _given(cells, energies_mev, cells.layers(turned), conditions(energies, cells, energies_mev, impact_mm))
    return np.concatenate([(1 - times) * noise + times * showers, given, times], axis=1), showers - noise


GENERATOR = Generator(
    description="Layer energies by a normalising flow, cells by flow matching: the float reference",
    open=opener(draw),
    check=check("flow_matching"),
    source="a trained generator: its folder, or its name in ./models",
    batched=True,
    roles={
        "layers": Role("negative_log_likelihood", layers_pairs),
        "cells": Role("mean_squared_error", cells_pairs),
    },
    draw=draw,
)
