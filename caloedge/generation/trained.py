"""A trained generator: a folder with `sampler.json`, which decides all but the networks, and an ONNX file per network.

Nothing but onnxruntime is needed to make showers of it, here and anywhere else.

Axes: N shower, C cell.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from caloedge.catalog import Generator, find
from caloedge.detector.crystals.geometry import Geometry, described, difference
from caloedge.detector.crystals.shooting import ShootMany
from caloedge.errors import BadData, UnknownName, UserError
from caloedge.extras import package
from caloedge.fidelity.layout import Layout, layout
from caloedge.files import read_text, sha256
from caloedge.generation.cells import TERMS, CellCode, Cells
from caloedge.generation.energies import EnergyCode

MANIFEST = "sampler.json"
Predict = Callable[[NDArray[Any]], NDArray[Any]]
"""A network: inputs (N, …) float32 -> outputs (N, …)."""


class Sampler(BaseModel):
    """How numbers are drawn from the networks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    solver: str = Field(default="heun", pattern="^(euler|heun)$")
    steps: int = Field(default=4, ge=1, le=1000)
    layer_cut_mev: float = Field(default=0.0, ge=0)
    """Layers below it are empty; it is chosen on validation showers."""
    cell_cut: float = Field(default=0.0, ge=0)
    """Cells whose number lies below are empty; it is chosen on validation showers."""


class Manifest(BaseModel):
    """All that decides a shower besides the networks' weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(default=1, ge=1, le=1)
    generator: str
    geometry: dict[str, Any]
    particle: str
    min_energy_gev: float = Field(gt=0)
    max_energy_gev: float = Field(gt=0)
    threshold_mev: float = Field(ge=0)
    """Cells below it are empty."""
    sampler: Sampler
    energies: dict[str, Any]
    """Of `generation.energies.EnergyCode`."""
    cells: dict[str, Any]
    """Of `generation.cells.CellCode`."""
    networks: dict[str, str]
    """SHA-256 of `ROLE.onnx` by role."""
    training: dict[str, str]
    """What the training showers' file says of itself, with its SHA-256 as `sha256`."""

    @field_validator("training")
    @classmethod
    def _names_the_file(cls, training: dict[str, str]) -> dict[str, str]:
        if "sha256" not in training:
            raise ValueError("has no sha256")
        return training


@dataclass(frozen=True)
class Trained:
    """A trained generator, ready to draw."""

    manifest: Manifest
    energies: EnergyCode
    cells: Cells
    networks: Mapping[str, Predict]
    digest: str = ""
    """SHA-256 of `sampler.json`, which has those of the networks."""

    def conditions(self, energies_mev: NDArray[Any], impact_mm: NDArray[Any]) -> NDArray[Any]:
        """Return what networks are told of the particles (N, 1 or 3): see `conditions`."""
        return conditions(self.energies, self.cells, energies_mev, impact_mm)

    def draw_layers(self, energies_mev: NDArray[Any], told: NDArray[Any], noise_NL: NDArray[Any]) -> NDArray[Any]:
        """Return layer energies (N, L) MeV by the network `layers`, from conditions and noise (N, L)."""
        numbers = self.networks["layers"](np.concatenate([noise_NL, told], axis=1))
        return self.energies.decode(energies_mev, numbers, self.manifest.sampler.layer_cut_mev)


Draw = Callable[[Trained, NDArray[Any], NDArray[Any], list[np.random.Generator]], NDArray[Any]]
"""(trained generator, energies in MeV (N,), impact points in mm (N, 2), a generator of noise for each) -> cells in MeV (N, C)."""


def conditions(energies: EnergyCode, cells: Cells, energies_mev: NDArray[Any], impact_mm: NDArray[Any]) -> NDArray[Any]:
    """Return log E between −1 and 1, and the impact point in half widths of the central cell where showers start at several."""
    c = energies.condition(energies_mev)[:, None]
    if cells.layout.by_impact:
        c = np.concatenate([c, impact_mm / cells.layout.geometry.impact_half_width_mm], axis=1)
    return np.asarray(c, np.float32)


def plain(code: EnergyCode | CellCode) -> dict[str, Any]:
    """Return a code as plain data, numbers to six digits."""

    def rounded(value: Any) -> Any:
        return np.vectorize(lambda x: float(f"{x:.6g}"))(value).tolist() if isinstance(value, np.ndarray) else value

    return {name: rounded(value) for name, value in asdict(code).items()}


Code = TypeVar("Code", EnergyCode, CellCode)


def code_of(kind: type[Code], data: Mapping[str, Any], where: Layout | None = None) -> Code:
    """Return the code that `plain` wrote. Raises `ValueError` for other fields, or arrays of other shapes than a layout has."""
    if set(data) != (known := {field.name for field in fields(kind)}):
        raise ValueError(f"{kind.__name__} has the fields {', '.join(sorted(known))}")
    values: dict[str, Any] = {
        name: np.asarray(value, float) if isinstance(value, list) else float(value) for name, value in data.items()
    }
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise ValueError(f"{name}: has numbers that are not finite")
        if where and not _fits(name, np.shape(value), where):
            raise ValueError(f"{name}: has another shape, {np.shape(value)}, than geometry {where.geometry.name} needs")
    return kind(**values)


def _fits(name: str, shape: tuple[int, ...], where: Layout) -> bool:
    """Say whether an array of a code has the axes that its name ends in, for the cells of a layout."""
    n_layers, n_orbits = where.n_layers, int(where.orbits.max()) + 1
    wanted = {"KL": (*shape[:1], n_layers), "L": (n_layers,), "KO": (TERMS, n_orbits), "O": (n_orbits,)}
    return shape == wanted.get(name.rpartition("_")[2], ())


def find_trained(source: str) -> Path:
    """Return the folder of a trained generator, by path or by the name of a folder in ./models."""
    for folder in (Path(source), Path("models") / source):
        if (folder / MANIFEST).is_file():
            return folder
    known = sorted(path.parent.name for path in Path("models").glob(f"*/{MANIFEST}"))
    raise UnknownName(
        f"no trained generator {source!r}; give a folder with {MANIFEST}, or one in ./models: {', '.join(known) or 'none'}"
    )


def open_trained(folder: Path) -> Trained:
    """Open a trained generator; raise `BadData`, one line, for files that are not what they are said to be."""
    manifest = read_manifest(folder)
    for role, digest in manifest.networks.items():
        path = folder / f"{role}.onnx"
        if not path.is_file() or sha256(path) != digest:
            raise BadData(f"{path}: is not the network that {folder / MANIFEST} names; export the generator again")
    try:
        if set(manifest.networks) != set(roles := find(Generator, manifest.generator).roles):
            raise ValueError(f"networks: generator {manifest.generator!r} has {', '.join(roles) or 'none'}")
        where = layout(described(manifest.geometry))
        energies, cells = code_of(EnergyCode, manifest.energies, where), code_of(CellCode, manifest.cells, where)
    except (ValueError, TypeError, KeyError, UnknownName) as problem:
        raise BadData(f"{folder / MANIFEST}: {problem}; export the generator again") from None
    networks = {role: onnx_network(folder / f"{role}.onnx") for role in manifest.networks}
    return Trained(manifest, energies, Cells(cells, where), networks, sha256(folder / MANIFEST))


def read_manifest(folder: Path) -> Manifest:
    """Read `sampler.json`; raise `BadData`, one line, where it is not one."""
    path = folder / MANIFEST
    try:
        return Manifest.model_validate(json.loads(read_text(path)))
    except OSError as problem:
        raise BadData(f"{path}: cannot be read ({problem.strerror})") from None
    except ValidationError as problem:
        first = problem.errors()[0]
        raise BadData(f"{path}: {'.'.join(map(str, first['loc']))}: {first['msg']}; export the generator again") from None
    except ValueError as problem:
        raise BadData(f"{path}: not JSON ({problem}); export the generator again") from None


def onnx_network(path: Path) -> Predict:
    """Return the function that an ONNX file of one input and one output computes, on one thread as experiments call it."""
    onnxruntime = package("onnxruntime", "trained generators", "fastsim")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda inputs: np.asarray(session.run(None, {name: np.ascontiguousarray(inputs, np.float32)})[0])


def opener(draw: Draw) -> Callable[[Geometry, str, str], tuple[ShootMany, Mapping[str, str]]]:
    """Return how a plug-in opens trained generators that draw in this way."""

    def open_(known: Geometry, _particle: str, source: str) -> tuple[ShootMany, Mapping[str, str]]:
        folder = find_trained(source)
        trained = open_trained(folder)
        if apart := difference(trained.cells.layout.geometry, known):
            raise UserError(f"{folder}: was trained in other cells than those of {known.name}: {apart}")

        def shoot(energies_mev: NDArray[Any], impact_mm: NDArray[Any], seeds: NDArray[Any]) -> Iterator[NDArray[Any]]:
            generators = [np.random.default_rng(int(seed)) for seed in seeds]
            yield from draw(trained, energies_mev, impact_mm, generators)

        training = trained.manifest.training
        kept = {key: training.get(key, "unknown") for key in ("physics_list", "data_tables")}
        origin = {
            "version": f"{trained.manifest.generator} trained on {training.get('version', 'unknown')}",
            "source": trained.digest,
            "sampler": trained.manifest.sampler.model_dump_json(),
            "descends_from": training["sha256"],
        }
        return shoot, {**kept, **origin}

    return open_


def check(name: str) -> Callable[[Any], None]:
    """Return how a plug-in called `name` refuses a production that its trained generator cannot do."""

    def check_(production: Any) -> None:
        folder = find_trained(production.source)
        manifest = read_manifest(folder)
        for what, asked, made in (
            ("generator", name, manifest.generator),
            ("geometry", production.geometry, manifest.geometry.get("name")),
            ("particle", production.particle, manifest.particle),
        ):
            if asked != made:
                raise UserError(f"{folder}: {what} is {made}, not {asked}; give --{what} {made}")
        low_gev, high_gev = manifest.min_energy_gev, manifest.max_energy_gev
        if not low_gev <= production.min_energy_gev <= production.max_energy_gev <= high_gev:
            raise UserError(
                f"energy range {production.min_energy_gev:g} to {production.max_energy_gev:g} GeV: {folder} was trained on "
                f"{low_gev:g} to {high_gev:g} GeV and knows no other energies"
            )
        if production.zero_below_mev < manifest.threshold_mev:
            raise UserError(
                f"--zero-below-mev {production.zero_below_mev:g}: {folder} makes no cells below {manifest.threshold_mev:g} MeV; "
                f"give --zero-below-mev {manifest.threshold_mev:g}"
            )

    return check_
