"""How long a shower takes: CPU time of one thread, of every way to make it, in one run.

Axes: N shower, C cell.
"""

import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import Generator, find
from caloedge.detector.crystals.geometry import geometry
from caloedge.fast_simulation.export import drawn_with, with_sampler
from caloedge.fast_simulation.recipe import GeneratorRecipe
from caloedge.generation.sampling import evaluations
from caloedge.generation.trained import Predict, Trained
from caloedge.progress import progress
from caloedge.results import Cell, Number, Section, Table

BATCHES = (1, 100, 10_000)
MEMORY_BATCHES = (1, 100)
MOST_TOGETHER = 500
"""Larger batches are drawn in slices of so many, and no more than `MOST_TIMED` showers of them are timed."""
MOST_TIMED = 1000
BINS = 4
"""Of the logarithm of the energy."""
SEED = 77
GEANT4 = "geant4"


@dataclass(frozen=True)
class Timing:
    """CPU milliseconds per shower of one way to make showers."""

    batch: int
    ms: float
    error_ms: float
    """Standard error over repeated calls; 0 for a single one."""
    showers: int


Shoot = Callable[[NDArray[Any], int], None]
"""(energies in MeV (N,), number of the first one): make these showers together."""


def timed(shoot: Shoot, energies_mev: NDArray[Any], batch: int, least_cpu_s: float) -> Timing:
    """Time batches of showers, at least two, until so much CPU time has passed; one call before warms up."""
    together = min(batch, MOST_TOGETHER)
    shoot(energies_mev[:together], 0)
    found: list[float] = []
    first = 0
    while sum(found) < least_cpu_s or len(found) < 2:
        rows = np.arange(first, first + together) % len(energies_mev)
        start = time.process_time()
        shoot(energies_mev[rows], first)
        found.append(time.process_time() - start)
        first += together
        if batch > MOST_TOGETHER and first >= MOST_TIMED:
            break
    per_shower = 1e3 * np.array(found) / together
    return Timing(batch, float(per_shower.mean()), float(per_shower.std(ddof=1) / np.sqrt(len(found))), first)


def _mean(found: Sequence[Timing]) -> Timing:
    error_ms = float(np.sqrt(np.square([one.error_ms for one in found]).sum()) / len(found))
    return Timing(found[0].batch, float(np.mean([one.ms for one in found])), error_ms, sum(one.showers for one in found))


def edges_gev(recipe: GeneratorRecipe) -> NDArray[Any]:
    """Return the edges of the energy bins."""
    return np.geomspace(recipe.min_energy_gev, recipe.max_energy_gev, BINS + 1)


def _energies(recipe: GeneratorRecipe, low_gev: float, high_gev: float, count: int) -> NDArray[Any]:
    generator = np.random.default_rng((SEED, recipe.seed, round(low_gev * 1e3)))  # bins draw their own places in themselves
    return 1e3 * np.exp(generator.uniform(np.log(low_gev), np.log(high_gev), count))


@contextmanager
def silenced() -> Iterator[None]:
    """Keep what Geant4 prints, from below Python, out of the output."""
    sys.stdout.flush()
    kept, nothing = os.dup(1), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
        os.close(nothing)


def shooter(name: str, recipe: GeneratorRecipe, source: str) -> Shoot:
    """Return how a plug-in's showers are made, each from its own seed."""
    shoot, _ = find(Generator, name).open(geometry(recipe.geometry), recipe.particle, source)

    def run(energies_mev: NDArray[Any], first: int) -> None:
        impact_mm = np.zeros((len(energies_mev), 2))
        for _ in shoot(energies_mev, impact_mm, 1 + first + np.arange(len(energies_mev))):
            pass

    return run


def drawer(trained: Trained, networks: Mapping[str, Predict] | None = None) -> Shoot:
    """Return how a trained generator's showers are made, with networks that something else computes if they are given."""
    one, of = find(Generator, trained.manifest.generator).draw, with_sampler(trained, networks)
    assert one

    def run(energies_mev: NDArray[Any], first: int) -> None:
        noise = [np.random.default_rng((SEED, first + number)) for number in range(len(energies_mev))]
        one(of, energies_mev, np.zeros((len(energies_mev), 2)), noise)

    return run


def section(
    recipe: GeneratorRecipe,
    ways: Mapping[str, Shoot],
    one_by_one: Mapping[str, Shoot],
    memory_mb: Mapping[str, Sequence[float]],
    *,
    least_cpu_s: float,
    batches: Sequence[int],
) -> Section:
    """Time all ways, at batch 1 only those that know no batches, Geant4 first; return the section with the tables."""
    edges = edges_gev(recipe)
    spread = _energies(recipe, edges[0], edges[-1], MOST_TIMED)
    everywhere: dict[tuple[str, int], Timing] = {}
    by_bin: dict[tuple[str, int], Timing] = {}
    with progress("timing", len(one_by_one) * BINS + len(ways) * (len(batches) + BINS), 0) as advance:
        for name, shoot in {**one_by_one, **ways}.items():
            for place, (low, high) in enumerate(pairwise(edges)):
                energies_mev = _energies(recipe, low, high, MOST_TIMED)
                by_bin[name, place] = timed(shoot, energies_mev, batches[1] if name in ways else 1, least_cpu_s)
                advance(1)
            if name in one_by_one:  # whose time grows with the energy: bins are equally full
                everywhere[name, 1] = _mean([by_bin[name, place] for place in range(BINS)])
                continue
            for batch in batches:
                everywhere[name, batch] = timed(shoot, spread, batch, least_cpu_s)
                advance(1)
    names = [*one_by_one, *ways]
    return Section(
        title="Speed",
        text="CPU time of one thread per shower, energies log-uniform, all in one run on one computer; errors are those of "
        f"repeated calls. Batches of more than {MOST_TOGETHER} are made in slices of {MOST_TOGETHER}, and {MOST_TIMED:,} of "
        "their showers are timed. Geant4 shoots one by one. Experiments call a simulation for one or a few particles: batch 1 "
        "comes first.",
        blocks=(_by_batch(names, everywhere, memory_mb), _by_energy(names, by_bin, edges, ways)),
    )


def _cell(timing: Timing | None, to: Timing) -> tuple[Cell, Cell]:
    if timing is None:
        return "–", "–"
    ratio = to.ms / timing.ms
    error = ratio * np.hypot(to.error_ms / to.ms, timing.error_ms / timing.ms)
    return (
        Number(value=timing.ms, uncertainty=timing.error_ms, unit="ms", origin="measured", sample=f"{timing.showers:,} showers"),
        Number(value=ratio, uncertainty=float(error), unit="×", origin="measured"),
    )


def _by_batch(names: list[str], found: Mapping[tuple[str, int], Timing], memory_mb: Mapping[str, Sequence[float]]) -> Table:
    geant4 = found[GEANT4, 1]
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        cells: list[Cell] = [name]
        for batch in BATCHES:
            cells += _cell(found.get((name, batch)), geant4)
        used = memory_mb.get(name, ())
        cells += [Number(value=round(value), unit="MB", origin="measured") for value in used] or ["–"] * len(MEMORY_BATCHES)
        rows.append(tuple(cells))
    columns = ["made by"]
    for batch in BATCHES:
        columns += [f"batch {batch:,}", "faster than Geant4"]
    return Table(
        title="CPU time per shower by batch",
        columns=(*columns, *(f"memory, batch {batch:,}" for batch in MEMORY_BATCHES)),
        rows=tuple(rows),
        caption="Memory is the largest resident one of a process that opened the generator and made a batch, Python included.",
    )


def _by_energy(
    names: list[str], found: Mapping[tuple[str, int], Timing], edges: NDArray[Any], ways: Mapping[str, Shoot]
) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for name in names:
        cells: list[Cell] = [f"{name}, batch {BATCHES[1] if name in ways else 1}"]
        for place in range(BINS):
            cells += _cell(found[name, place], found[GEANT4, place])
        rows.append(tuple(cells))
    columns = ["made by"]
    for low, high in pairwise(edges):
        columns += [f"{low:.3g}–{high:.3g} GeV", "faster than Geant4"]
    return Table(title="CPU time per shower by incident energy", columns=tuple(columns), rows=tuple(rows))


def torch_networks(modules: Mapping[str, Any], precision: str) -> dict[str, Predict]:
    """Return networks that torch computes on one thread, in float32 or with bfloat16 where autocast takes it."""
    import torch

    torch.set_num_threads(1)

    def predict(module: Any) -> Predict:
        drawn = drawn_with(module)

        def of(inputs: NDArray[Any]) -> NDArray[Any]:
            with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
                return np.asarray(drawn(torch.from_numpy(np.ascontiguousarray(inputs, np.float32))).float().numpy())

        return of

    return {role: predict(module) for role, module in modules.items()}


def cost(trained: Trained) -> str:
    """Say how often the cell network is evaluated per shower."""
    sampler = trained.manifest.sampler
    times = evaluations(sampler.steps, sampler.solver)
    return f"{sampler.steps} steps of {sampler.solver.capitalize()}: {times} evaluation{'s' if times > 1 else ''}"
