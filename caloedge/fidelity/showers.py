"""Showers to be compared: cells below one threshold are empty in all samples, energies are on one scale.

Axes: N shower, C cell.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals.challenge import geometry_of, open_geometry
from caloedge.detector.crystals.geometry import GEOMETRIES, Geometry
from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.errors import BadData, UserError
from caloedge.fidelity.layout import Layout, layout

CHALLENGE_THRESHOLD_MEV = 5e-4
"""Of deposited energy: 0.5 keV, the CaloChallenge's 15.15 keV before the division by its sampling fraction."""


@dataclass(frozen=True)
class Scale:
    """How stored energies become those that are compared."""

    threshold_mev: float
    """Stored cells below it are empty."""
    sampling_fraction: float
    """By which stored energies are divided."""

    @property
    def lowest_mev(self) -> float:
        """The threshold after the division, where histograms begin."""
        return self.threshold_mev / self.sampling_fraction


@dataclass(frozen=True)
class Showers:
    """Some showers on the scale that is compared."""

    energies_mev: NDArray[Any]
    """(N,) incident energies."""
    impact_mm: NDArray[Any]
    """(N, 2) impact points."""
    cells_mev: NDArray[Any]
    """(N, C) float32 energies, 0 below the threshold."""

    def __len__(self) -> int:
        return len(self.energies_mev)

    def take(self, rows: NDArray[Any] | slice) -> "Showers":
        """Return the showers of these rows."""
        return Showers(self.energies_mev[rows], self.impact_mm[rows], self.cells_mev[rows])

    def with_cells(self, cells_mev: NDArray[Any], lowest_mev: float) -> "Showers":
        """Return showers of the same particles with other cells, empty below the threshold."""
        return replace(self, cells_mev=np.where(cells_mev < lowest_mev, 0, cells_mev).astype(np.float32))


@dataclass(frozen=True)
class Inputs:
    """What is compared, all in the same geometry and on the same scale."""

    layout: Layout
    scale: Scale
    generated: Showers
    reference: Showers
    training: Showers | None
    libraries: tuple[tuple[str, ShowerLibrary], ...]
    """The files by their role."""


def read_inputs(
    generated: Path,
    reference: Path,
    training: Path | None,
    *,
    geometry_name: str | None = None,
    particle: str | None = None,
    threshold_mev: float | None = None,
    sampling_fraction: float | None = None,
) -> Inputs:
    """Read the files; raise `BadData` or `UserError`, one line each, where they cannot be compared."""
    if threshold_mev is not None and not 0 < threshold_mev < np.inf:
        raise UserError(f"--threshold-mev {threshold_mev}: give a finite energy above 0")
    if sampling_fraction is not None and not 0 < sampling_fraction <= 1:
        raise UserError(
            f"--sampling-fraction {sampling_fraction}: give a share above 0, at most 1; 1 leaves energies as they are"
        )
    paths = {"generated": generated, "reference": reference, **({"training": training} if training else {})}
    known = open_geometry(geometry_name, particle) if geometry_name else None
    libraries = tuple((role, open_library(path, on_axis=_on_axis(known))) for role, path in paths.items())
    _refuse_same_files(libraries)
    cells = layout(_common_geometry(libraries, known))
    for _, library in libraries:
        if library.n_cells != cells.n_cells:
            raise BadData(
                f"{library.path}: showers have {library.n_cells} cells; geometry {cells.geometry.name} has {cells.n_cells}; "
                "name the right one with --geometry"
            )
    scale = Scale(threshold_mev or _threshold(libraries), sampling_fraction or cells.sampling_fraction)
    read = {role: _showers(library, scale) for role, library in libraries}
    return Inputs(cells, scale, read["generated"], read["reference"], read.get("training"), libraries)


def _on_axis(known: Geometry | None) -> bool:
    """Files of the CaloChallenge lack impact points: where a geometry that needs none is named, they are taken as 0."""
    return known is not None and known.impact_half_width_mm == 0


def _refuse_same_files(libraries: Sequence[tuple[str, ShowerLibrary]]) -> None:
    roles: dict[str, str] = {}
    for role, library in libraries:
        if library.digest in roles:
            raise BadData(
                f"{library.path}: is given as {role} and, byte for byte, as {roles[library.digest]}; give independent showers, "
                "made with another seed"
            )
        roles[library.digest] = role


def _common_geometry(libraries: Sequence[tuple[str, ShowerLibrary]], known: Geometry | None) -> Geometry:
    if known:
        return known
    found = {library.path: geometry_of(library) for _, library in libraries}
    for path, value in found.items():
        if value is None:
            raise BadData(
                f"{path}: does not say its geometry; name it with --geometry: {', '.join(GEOMETRIES)} or a binning file"
            )
    (first_path, first), *others = found.items()
    for path, value in others:
        if value != first:
            names = [known.name for known in (value, first) if known]
            raise BadData(f"{path}: is of geometry {names[0]}, {first_path} of {names[1]}; compare showers of one geometry")
    assert first
    return first


def _threshold(libraries: Sequence[tuple[str, ShowerLibrary]]) -> float:
    """Return the highest threshold with which any of the files was made: below it they cannot be compared."""
    made_with = [CHALLENGE_THRESHOLD_MEV]
    for _, library in libraries:
        text = library.provenance.get("zero_below_mev", "0")
        try:
            made_with.append(float(text))
        except ValueError:
            raise BadData(f"{library.path}: zero_below_mev = {text!r} is no number; give --threshold-mev") from None
    return max(made_with)


def _showers(library: ShowerLibrary, scale: Scale) -> Showers:
    cells = library.cells_mev
    scaled = np.where(cells < scale.threshold_mev, 0, cells / scale.sampling_fraction).astype(np.float32)
    if not scaled.any():
        raise BadData(f"{library.path}: no cell reaches {scale.threshold_mev:g} MeV; give a lower --threshold-mev")
    return Showers(library.energies_mev, library.impact_mm, scaled)
