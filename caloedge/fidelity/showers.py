"""Showers to be compared: cells below one threshold are empty in all samples, energies are on one scale.

Axes: N shower, C cell.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals.challenge import geometry_of, open_geometry, stored_threshold_mev
from caloedge.detector.crystals.geometry import GEOMETRIES, Geometry, difference
from caloedge.detector.crystals.library import ShowerLibrary, open_library
from caloedge.errors import BadData, UserError
from caloedge.fidelity.layout import Layout, layout

RESERVED = ("reference itself", "frozen showers")
"""Names of samples that a comparison makes itself."""
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
    """Of the reference; files that were divided before are not divided again."""
    generated: Showers
    reference: Showers
    training: Showers | None
    libraries: tuple[tuple[str, ShowerLibrary], ...]
    """The files by their role."""
    beside: Mapping[str, Showers] = field(default_factory=dict)
    """Further generated showers for the same table, by the name of their file."""


def read_inputs(
    generated: Path,
    reference: Path,
    training: Path | None,
    *,
    beside: Sequence[Path] = (),
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
    if particle is not None and geometry_name is None:
        raise UserError(f"--particle {particle}: is one of a binning file; give that with --geometry")
    paths = {"generated": generated, "reference": reference, **({"training": training} if training else {})}
    for path in beside:
        if path.stem in paths or path.stem in RESERVED:
            raise UserError(f"--beside {path}: another sample is called {path.stem}; give the file another name")
        paths[path.stem] = path
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
    scales = _scales(libraries, cells, threshold_mev, sampling_fraction)
    read = {role: _showers(library, scales[role]) for role, library in libraries}
    others = {path.stem: read[path.stem] for path in beside}
    return Inputs(cells, scales["reference"], read["generated"], read["reference"], read.get("training"), libraries, others)


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
    assert first
    for path, value in others:
        assert value
        if apart := difference(value, first):
            raise BadData(
                f"{path}: is of geometry {value.name}, {first_path} of {first.name} ({apart}); compare showers of one geometry"
            )
    return first


def _scales(
    libraries: Sequence[tuple[str, ShowerLibrary]], cells: Layout, threshold_mev: float | None, fraction: float | None
) -> dict[str, Scale]:
    """Return each file's scale: one threshold after the division, the highest with which any of them was made."""
    fractions = {role: fraction or _fraction(library, cells) for role, library in libraries}
    if threshold_mev is None:
        divided_before = any(not library.has_impact for _, library in libraries)
        by = cells.sampling_fraction if divided_before else fraction or cells.sampling_fraction
        made_with = (stored_threshold_mev(library) / fractions[role] for role, library in libraries)
        lowest = [CHALLENGE_THRESHOLD_MEV / by, *made_with]
    else:
        lowest = [threshold_mev / share for share in fractions.values()]
    return {role: Scale(max(lowest) * share, share) for role, share in fractions.items()}


def _fraction(library: ShowerLibrary, cells: Layout) -> float:
    """Return by what a file's energies are still to be divided: those of the CaloChallenge's own files were."""
    if not library.has_impact:
        return 1.0
    return float(library.provenance.get("sampling_fraction", cells.sampling_fraction))


def _showers(library: ShowerLibrary, scale: Scale) -> Showers:
    cells = library.cells_mev
    scaled = np.where(cells < scale.threshold_mev, 0, cells / scale.sampling_fraction).astype(np.float32)
    if not scaled.any():
        raise BadData(f"{library.path}: no cell reaches {scale.threshold_mev:g} MeV; give a lower --threshold-mev")
    return Showers(library.energies_mev, library.impact_mm, scaled)
