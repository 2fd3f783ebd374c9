"""A library of frozen showers, as experiments use them: stored showers of nearby energy, turned, mirrored and scaled.

Every new generator has to beat it, and the test for copies has to catch it: it holds no shower that its library lacks. Where
showers start at points that differ, the stored shower and orientation are taken whose impact point is nearest to the asked one.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import Generator
from caloedge.detector.crystals.challenge import geometry_of
from caloedge.detector.crystals.geometry import Geometry, geometry
from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.detector.crystals.shooting import ShootMany
from caloedge.errors import BadData, UserError
from caloedge.fidelity.layout import layout

CHOICE, CHOICE_BY_IMPACT = 10, 100
"""Stored showers of nearest energy among which is drawn, or among which the nearest impact point is looked for."""


def _library(source: str, known: Geometry) -> ShowerLibrary:
    library = open_library(source, on_axis=known.impact_half_width_mm == 0)
    found = geometry_of(library)
    if found is not None and found != known:
        raise BadData(f"{library.path}: holds showers of {found.name}, not of {known.name}; give its geometry with --geometry")
    if library.n_cells != int(np.prod(known.cell_shape)):
        raise BadData(
            f"{library.path}: showers have {library.n_cells} cells; geometry {known.name} has {np.prod(known.cell_shape)}"
        )
    return library


def _check(production: Any) -> None:
    library = _library(production.source, geometry(production.geometry))
    particle = library.provenance.get("particle", production.particle)
    if particle != production.particle:
        raise UserError(f"{library.path}: holds showers of {particle}, not of {production.particle}; name it with --particle")
    stored = [float(library.provenance.get(f"{end}_energy_gev", 0)) for end in ("min", "max")]
    low_gev, high_gev = stored if all(stored) else (library.energies_mev.min() / 1e3, library.energies_mev.max() / 1e3)
    if not low_gev <= production.min_energy_gev <= production.max_energy_gev <= high_gev:
        raise UserError(
            f"energy range {production.min_energy_gev:g} to {production.max_energy_gev:g} GeV: {library.path} holds "
            f"{low_gev:g} to {high_gev:g} GeV, and frozen showers reach no farther"
        )


def _open(known: Geometry, _particle: str, source: str) -> tuple[ShootMany, Mapping[str, str]]:
    library, cells = _library(source, known), layout(known)
    order = np.argsort(library.energies_mev, kind="stable")
    energies_mev, impact_mm, cells_mev = library.energies_mev[order], library.impact_mm[order], library.cells_mev[order]
    count = min(CHOICE_BY_IMPACT if cells.by_impact else CHOICE, len(order))

    def one(energy_mev: float, asked_mm: NDArray[Any], seed: int) -> NDArray[Any]:
        generator = np.random.default_rng(seed)
        first = int(np.clip(np.searchsorted(energies_mev, energy_mev) - count // 2, 0, len(order) - count))
        if cells.by_impact:
            turned_mm = np.einsum("oij,nj->noi", cells.impact_O22, impact_mm[first : first + count])
            nearest = int(np.argmin(((turned_mm - asked_mm) ** 2).sum(axis=2)))
            row, orientation = divmod(nearest, len(cells.orientations_OC))
        else:
            row, orientation = int(generator.integers(count)), int(generator.integers(len(cells.orientations_OC)))
        shower = cells_mev[first + row][cells.orientations_OC[orientation]]
        return np.asarray(shower.astype(np.float64) * (energy_mev / energies_mev[first + row]))

    def shoot(asked_mev: NDArray[Any], asked_mm: NDArray[Any], seeds: NDArray[Any]) -> Iterator[NDArray[Any]]:
        for energy_mev, point_mm, seed in zip(asked_mev, asked_mm, seeds, strict=True):
            yield one(float(energy_mev), point_mm, int(seed))

    kept = {key: library.provenance.get(key, "unknown") for key in ("physics_list", "data_tables")}
    origin = {"version": f"frozen showers of {library.provenance.get('version', 'unknown origin')}", "source": library.path.name}
    return shoot, {**kept, **origin, "descends_from": library.digest}


GENERATOR = Generator(
    description="Stored showers of nearby energy, turned, mirrored and scaled: the baseline to beat",
    open=_open,
    check=_check,
    source="a shower library",
)
