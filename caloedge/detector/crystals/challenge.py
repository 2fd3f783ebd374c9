"""Files of the CaloChallenge (arXiv 2410.21611): showers in HDF5, and the XML that says how they are binned.

Their showers have no impact points and lie in voxels of which the radius runs fastest, then the azimuth from −π on, then the
layer. Energies of data sets 2 and 3 are divided by the share that the sensors see, those of data set 1 are not.
"""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
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
from caloedge.detector.crystals.library import (
    ROWS_PER_BLOCK,
    ROWS_PER_CHUNK,
    SUFFIXES,
    ShowerLibrary,
    open_library,
    write_library,
)
from caloedge.errors import BadData, UnknownName, Unsupported, UserError, meant
from caloedge.files import replacing, write_text
from caloedge.progress import progress

SAMPLING_FRACTION = 0.033
"""By which the energies of data sets 2 and 3 are divided."""
PARTICLES = {"photon": ("gamma", 22), "electron": ("e-", 11), "pion": ("pi+", 211)}
"""Their words for particles: Geant4's name, and the number of the Particle Data Group."""


def read_binning(path: Path, particle: str | None = None) -> VoxelStack:
    """Read the binning of one particle; a layer with a single edge has no voxels and is left out.

    Raises `BadData` naming file, layer and cure, and `UnknownName` where the file has several particles and none, or another
    one, is asked for.
    """
    try:
        root = ElementTree.parse(path).getroot()
    except FileNotFoundError:
        raise BadData(f"{path}: no such file; give a binning file of the CaloChallenge") from None
    except (OSError, LookupError, ValueError, ElementTree.ParseError) as error:
        raise BadData(f"{path}: is no XML ({error}); give a binning file of the CaloChallenge") from None
    entries = [entry for entry in root.iter("Bin") if entry.get("name")]
    particles = {entry.get("name", ""): entry for entry in entries}
    if not particles:
        raise BadData(f"{path}: <{root.tag}> holds no <Bin name=...>; give a binning file of the CaloChallenge")
    if len(particles) < len(entries):
        raise BadData(f"{path}: describes a particle twice; give a file with one <Bin> for each: {', '.join(particles)}")
    if particle is None and len(particles) > 1:
        raise UnknownName(f"{path}: describes several particles; name one with --particle: {', '.join(particles)}")
    name = particle or next(iter(particles))
    if name not in particles:
        raise UnknownName(f"{path}: no particle {name!r}{meant(name, particles)}; there are: {', '.join(particles)}")
    layers = tuple(layer for entry in particles[name] if (layer := _layer(path, entry)) is not None)
    if not layers:
        raise BadData(f"{path}: no layer of {name} has voxels; each needs r_edges='0,...' of two numbers at least")
    return VoxelStack(f"{path.stem}, {name}" if len(particles) > 1 else path.stem, layers, name)


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
    """Write the binning of one particle, in their word for it.

    Layers that a stack leaves out are written with a single edge: the CaloChallenge's own tools count on ids without gaps.
    """
    root = ElementTree.Element("Bins")
    entry = ElementTree.SubElement(root, "Bin", pid=str(PARTICLES[particle][1]), name=particle)
    layers = {layer.number: layer for layer in voxels(stack)}
    for number in range(max(layers) + 1):
        edges, n_phi = (layers[number].r_edges_mm, layers[number].n_phi) if number in layers else ((0.0,), 1)
        text = ",".join(repr(float(edge)) for edge in edges)
        ElementTree.SubElement(entry, "Layer", id=str(number), r_edges=text, n_bin_alpha=str(n_phi))
    ElementTree.indent(root)
    write_text(path, ElementTree.tostring(root, encoding="unicode") + "\n")


def write_showers(path: Path, library: ShowerLibrary, stack: SamplingStack | VoxelStack, sampling_fraction: float) -> None:
    """Write a library's showers as the CaloChallenge's own tools read them, and the threshold that they were stored with."""
    _check(library, stack, sampling_fraction)
    if library.impact_mm.any():
        raise BadData(f"{library.path}: showers start off the axis; files of the CaloChallenge have no place for impact points")
    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        file.create_dataset("incident_energies", data=library.energies_mev.astype("f8")[:, None])
        shape, chunks = (len(library), library.n_cells), (min(ROWS_PER_CHUNK, len(library)), library.n_cells)
        showers = file.create_dataset("showers", shape, "f4", chunks=chunks, compression="gzip", shuffle=True)
        with progress(f"writing {path.name}", len(library)) as advance:
            for first, block in zip(range(0, len(library), ROWS_PER_BLOCK), library.blocks(), strict=True):
                showers[first : first + len(block)] = half_turned(block, stack).astype("f8") / sampling_fraction
                advance(len(block))
        file.attrs["zero_below_mev"] = stored_threshold_mev(library) / sampling_fraction


def write_own(
    path: Path, library: ShowerLibrary, stack: SamplingStack | VoxelStack, sampling_fraction: float, particle: str
) -> None:
    """Write the showers of a CaloChallenge file as a library: deposited energies, geometry and origin come with them.

    Energies of cells are rounded as in every library, to 2⁻¹² relative.
    """
    _check(library, stack, sampling_fraction)
    provenance: Mapping[str, Any] = {
        "generator": "CaloChallenge file",
        "source": library.path.name,
        "source_sha256": library.digest,
        "sampling_fraction": sampling_fraction,
        "particle": PARTICLES[particle][0] if particle else "unknown",
        "geometry": describe(stack),
    }
    threshold = stored_threshold_mev(library) * sampling_fraction
    with progress(f"writing {path.name}", len(library)) as advance:

        def blocks() -> Iterator[NDArray[Any]]:
            for block in library.blocks():
                yield (half_turned(block, stack).astype("f8") * sampling_fraction).astype("f4")
                advance(len(block))

        write_library(path, library.energies_mev, library.impact_mm, blocks(), provenance, zero_below_mev=threshold)


def stored_threshold_mev(library: ShowerLibrary) -> float:
    """Return below which energy the cells of a file are stored as zero, 0 where it does not say."""
    text = library.provenance.get("zero_below_mev", "0")
    try:
        return float(text)
    except ValueError:
        raise BadData(f"{library.path}: zero_below_mev = {text!r} is no number; write one, or remove the attribute") from None


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
    """Return the geometry that a file says, None where it says none; raise `BadData` for one that is not known."""
    text = library.provenance.get("geometry", "")
    if not text:
        return None
    try:
        return described(json.loads(text) if text.startswith("{") else {"name": text})
    except UnknownName as problem:
        raise BadData(f"{library.path}: {problem}; or give a binning file with --geometry") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadData(f"{library.path}: does not say its geometry readably; name it with --geometry") from None


def convert(
    source: Path, destination: Path, *, geometry_name: str | None, particle: str | None, sampling_fraction: float | None
) -> tuple[Path, ...]:
    """Write a library as a CaloChallenge file with its binning beside it, or the other way round; return what was written.

    A library has impact points, a CaloChallenge file has none. The sampling fraction of a stack that can be simulated is the
    published one; for another it has to be given, or a library says it. Nothing that exists is overwritten.
    """
    library = open_library(source, on_axis=True)
    from_file = geometry_name is not None and geometry_name.endswith(".xml")
    found = open_geometry(geometry_name, particle if from_file else None) if geometry_name else geometry_of(library)
    if found is None:
        raise BadData(f"{source}: does not say its geometry; give --geometry NAME or a binning file")
    if isinstance(found, CrystalMatrix):
        raise Unsupported(f"{source}: is of {found.name}, crystals; the CaloChallenge has layers of voxels only, as wsi")
    if destination.suffix not in SUFFIXES:
        raise UserError(f"{destination}: showers lie in a file that ends in {' or '.join(SUFFIXES)}; give such a name")
    written = (destination, destination.with_suffix(".xml")) if library.has_impact else (destination,)
    for path in written:
        if path.exists():
            raise UserError(f"{path}: exists already; remove it or give another name")
    fraction = sampling_fraction if sampling_fraction is not None else _sampling_fraction(library, found)
    name = particle or _particle(library) or (found.particle if isinstance(found, VoxelStack) else "")
    if name and name not in PARTICLES:
        raise UnknownName(f"no particle {name!r}{meant(name, PARTICLES)}; the CaloChallenge has {', '.join(PARTICLES)}")
    if library.has_impact:
        write_showers(destination, library, found, fraction)
        write_binning(destination.with_suffix(".xml"), found, name or "photon")
    else:
        write_own(destination, library, found, fraction, name)
    return written


def _sampling_fraction(library: ShowerLibrary, stack: SamplingStack | VoxelStack) -> float:
    if said := library.provenance.get("sampling_fraction"):
        return float(said)
    if isinstance(stack, SamplingStack):
        return SAMPLING_FRACTION
    raise UserError(
        f"{library.path}: does not say by what its energies are divided; give --sampling-fraction: {SAMPLING_FRACTION} for data "
        "sets 2 and 3 of the CaloChallenge, 1 for data set 1"
    )


def _particle(library: ShowerLibrary) -> str:
    """Return the CaloChallenge's word for a library's particle, empty where it has none."""
    name = library.provenance.get("particle", "")
    return next((theirs for theirs, (geant4, _) in PARTICLES.items() if name in (theirs, geant4)), "")
