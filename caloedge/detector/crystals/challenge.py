"""Files of the CaloChallenge (arXiv 2410.21611): showers in HDF5, and the XML that says how they are binned.

Their showers have no impact points, lie in voxels of which the radius runs fastest, then the azimuth from −π on, then the layer,
and are divided by the share of the energy that the sensors see.
"""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from caloedge.detector.crystals.geometry import (
    CrystalMatrix,
    Geometry,
    SamplingStack,
    VoxelLayer,
    VoxelStack,
    describe,
    described,
    geometry,
    voxels,
)
from caloedge.detector.crystals.library import ROWS_PER_CHUNK, ShowerLibrary, open_library, write_library
from caloedge.errors import BadData, UnknownName, Unsupported, UserError, meant
from caloedge.files import replacing, write_text

SAMPLING_FRACTION = 0.033
"""By which the energies in their files are divided."""
PDG_IDS = {"photon": 22, "electron": 11, "pion": 211}


def read_binning(path: Path, particle: str | None = None) -> VoxelStack:
    """Read the binning of one particle; a layer with a single edge has no voxels and is left out.

    Raises `BadData` naming file, layer and cure, and `UnknownName` where the file has several particles and none, or another
    one, is asked for.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise BadData(f"{path}: no such file; give a binning file of the CaloChallenge") from None
    except ElementTree.ParseError as error:
        raise BadData(f"{path}: is no XML ({error}); give a binning file of the CaloChallenge") from None
    particles = {entry.get("name", ""): entry for entry in root}
    if not particles:
        raise BadData(f"{path}: <{root.tag}> holds no <Bin name=...>; give a binning file of the CaloChallenge")
    if particle is None and len(particles) > 1:
        raise UnknownName(f"{path}: describes several particles; name one with --particle: {', '.join(particles)}")
    name = particle or next(iter(particles))
    if name not in particles:
        raise UnknownName(f"{path}: no particle {name!r}{meant(name, particles)}; there are: {', '.join(particles)}")
    layers = tuple(layer for entry in particles[name] if (layer := _layer(path, entry)) is not None)
    if not layers:
        raise BadData(f"{path}: no layer of {name} has voxels; each needs r_edges='0,...' of two numbers at least")
    return VoxelStack(f"{path.stem}, {name}" if len(particles) > 1 else path.stem, layers)


def _layer(path: Path, entry: ElementTree.Element) -> VoxelLayer | None:
    where = f"{path}: layer {entry.get('id')!r}"
    try:
        number, n_phi = int(entry.attrib["id"]), int(entry.attrib["n_bin_alpha"])
        edges = tuple(float(edge) for edge in entry.attrib["r_edges"].split(","))
    except KeyError as error:
        raise BadData(f"{where} has no {error}; a layer has id, r_edges and n_bin_alpha") from None
    except ValueError as error:
        raise BadData(f"{where}: {error}; id and n_bin_alpha are whole numbers, r_edges are numbers with commas") from None
    if n_phi < 1:
        raise BadData(f"{where}: n_bin_alpha = {n_phi}; there is 1 bin at least")
    if not np.isfinite(edges).all() or edges[0] < 0 or (np.diff(edges) <= 0).any():
        raise BadData(f"{where}: r_edges {entry.get('r_edges')} do not rise from 0 or more")
    return VoxelLayer(number, n_phi, edges) if len(edges) > 1 else None


def write_binning(path: Path, stack: SamplingStack | VoxelStack, particle: str) -> None:
    """Write the binning of one particle."""
    root = ElementTree.Element("Bins")
    entry = ElementTree.SubElement(root, "Bin", pid=str(PDG_IDS.get(particle, 0)), name=particle)
    for layer in voxels(stack):
        edges = ",".join(f"{edge:.12g}" for edge in layer.r_edges_mm)
        ElementTree.SubElement(entry, "Layer", id=str(layer.number), r_edges=edges, n_bin_alpha=str(layer.n_phi))
    ElementTree.indent(root)
    write_text(path, ElementTree.tostring(root, encoding="unicode") + "\n")


def write_showers(path: Path, library: ShowerLibrary, stack: SamplingStack | VoxelStack, sampling_fraction: float) -> None:
    """Write a library's showers as the CaloChallenge's own tools read them."""
    _check(library, stack, sampling_fraction)
    if library.impact_mm.any():
        raise BadData(f"{library.path}: showers start off the axis; files of the CaloChallenge have no place for impact points")
    cells = (half_turned(library.cells_mev, stack).astype("f8") / sampling_fraction).astype("f4")
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("incident_energies", data=library.energies_mev.astype("f8")[:, None])
        chunks = (min(ROWS_PER_CHUNK, len(cells)), cells.shape[1])
        file.create_dataset("showers", data=cells, chunks=chunks, compression="gzip", shuffle=True)


def write_own(
    path: Path, library: ShowerLibrary, stack: SamplingStack | VoxelStack, sampling_fraction: float, particle: str | None
) -> None:
    """Write the showers of a CaloChallenge file as a library: deposited energies, geometry and origin come with them."""
    _check(library, stack, sampling_fraction)
    provenance: Mapping[str, Any] = {
        "generator": "CaloChallenge file",
        "source": library.path.name,
        "source_sha256": library.digest,
        "sampling_fraction": sampling_fraction,
        "particle": particle or "unknown",
        "geometry": describe(stack),
    }
    cells_mev = (half_turned(library.cells_mev, stack).astype("f8") * sampling_fraction).astype("f4")
    write_library(path, library.energies_mev, library.impact_mm, cells_mev, provenance)


def half_turned(cells_mev: NDArray[Any], stack: SamplingStack | VoxelStack) -> NDArray[Any]:
    """Turn showers (N, C) by half a circle: their azimuths begin at −π, ours at 0. Twice is once around.

    A layer with an odd number of azimuths cannot be turned so; all layers then stay as they are.
    """
    layers = voxels(stack)
    if any(layer.n_phi % 2 for layer in layers if layer.n_phi > 1):
        return cells_mev
    parts, first = [], 0
    for layer in layers:
        part = cells_mev[:, first : first + layer.n_cells].reshape(len(cells_mev), layer.n_phi, -1)
        parts.append(np.roll(part, layer.n_phi // 2, axis=1).reshape(len(cells_mev), -1))
        first += layer.n_cells
    return np.concatenate(parts, axis=1)


def _check(library: ShowerLibrary, stack: SamplingStack | VoxelStack, sampling_fraction: float) -> None:
    if not 0 < sampling_fraction <= 1:
        raise UserError(
            f"--sampling-fraction {sampling_fraction}: give a share above 0, at most 1; 1 leaves energies as they are"
        )
    n_cells = sum(layer.n_cells for layer in voxels(stack))
    if library.n_cells != n_cells:
        raise BadData(
            f"{library.path}: showers have {library.n_cells} cells; geometry {stack.name} has {n_cells}; "
            "name the right one with --geometry"
        )


def open_geometry(source: str, particle: str | None = None) -> Geometry:
    """Return the geometry of that name, or that of a binning file whose path ends in .xml."""
    if source.endswith(".xml"):
        return read_binning(Path(source), particle)
    if particle is not None:
        raise UserError(f"--particle {particle}: only a binning file (.xml) describes particles; --geometry is {source}")
    return geometry(source)


def geometry_of(library: ShowerLibrary) -> Geometry | None:
    """Return the geometry that a file says, None where it says none that is known."""
    text = library.provenance.get("geometry", "")
    try:
        description = json.loads(text) if text.startswith("{") else {"name": text}
        return described(description) if text else None
    except (ValueError, KeyError, TypeError, AttributeError, UserError):
        return None


def convert(
    source: Path, destination: Path, *, geometry_name: str | None, particle: str | None, sampling_fraction: float
) -> tuple[Path, ...]:
    """Write a library as a CaloChallenge file with its binning beside it, or the other way round; return what was written.

    A library has impact points, a CaloChallenge file has none.
    """
    known = open_geometry(geometry_name, particle if geometry_name.endswith(".xml") else None) if geometry_name else None
    library = open_library(source, on_axis=True)
    found = known or geometry_of(library)
    if found is None:
        raise BadData(f"{source}: does not say its geometry; give --geometry NAME or a binning file")
    if isinstance(found, CrystalMatrix):
        raise Unsupported(f"{source}: is of {found.name}, crystals; the CaloChallenge has layers of voxels only, as wsi")
    if destination.resolve() == source.resolve():
        raise UserError(f"{destination}: is the source; give another name")
    if library.has_impact:
        binning = destination.with_suffix(".xml")
        write_showers(destination, library, found, sampling_fraction)
        write_binning(binning, found, particle or _particle(library))
        return destination, binning
    write_own(destination, library, found, sampling_fraction, particle)
    return (destination,)


def _particle(library: ShowerLibrary) -> str:
    """Return the CaloChallenge's word for a library's particle."""
    name = library.provenance.get("particle", "photon")
    return {"gamma": "photon", "e-": "electron", "e+": "electron", "pi+": "pion", "pi-": "pion"}.get(name, name)
