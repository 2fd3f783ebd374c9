"""The artifact: all that hardware needs, in one folder. Above it torch is allowed, below it never.

`model.qonnx`, `golden.npz` (input and output codes of the quantised twin), weights in safetensors, `recipe.yaml`, and
`manifest.json`, which names the files with their digests, the data, the versions and the working points.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError, field_validator
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from caloedge.catalog import INTEGER, Task, distance_of, find
from caloedge.errors import BadData, UserError
from caloedge.files import read_text, sha256
from caloedge.formats.npz import read_npz
from caloedge.recipe import Recipe, read_recipe

if TYPE_CHECKING:
    from caloedge.compiler.graph import Graph

MODEL = "model.qonnx"
GOLDEN = "golden.npz"
RECIPE = "recipe.yaml"
MANIFEST = "manifest.json"
CARD = "README.md"
STAGES = ("published", "edge", "quantised")
"""The networks of every artifact, in the order of their trainings."""
MAX_WEIGHTS_BYTES = 11_500_000  # larger sets of weights are cut into several files


class TrainingRecord(BaseModel):
    """Record of one network's training."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    parameters: int = Field(ge=0)
    epochs: int = Field(ge=0)
    windows_seen: int = Field(ge=0)
    seconds: float
    train_loss: float
    valid_loss: float
    curve: tuple[dict[str, float], ...]
    hardware: str = ""
    """Computer on which it ended; empty where that was not noted."""
    key: str = ""
    """Digest of all that decided the result: a recipe that gives the same takes the weights and does not train again."""


class Manifest(BaseModel):
    """Origin and content of an artifact."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    created: str
    versions: dict[str, str]
    hardware: str
    library: dict[str, str]
    """The shower library: name, sha256, showers and its provenance."""
    stages: dict[str, TrainingRecord]
    working_points: dict[str, FiniteFloat]
    """Thresholds on the scores of each method, set on the validation split."""
    files: dict[Annotated[str, Field(pattern=r"^[^/\x00]+$")], Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]]
    """SHA-256 by file name."""

    @field_validator("library")
    @classmethod
    def _library_is_known(cls, library: dict[str, str]) -> dict[str, str]:
        if lacking := [key for key in ("name", "sha256", "showers") if not library.get(key)]:
            raise ValueError(f"no {lacking[0]}")
        return library

    @field_validator("stages")
    @classmethod
    def _stages_are_there(cls, stages: dict[str, TrainingRecord]) -> dict[str, TrainingRecord]:
        if lacking := [stage for stage in STAGES if stage not in stages]:
            raise ValueError(f"no stage {lacking[0]!r}")
        return stages


@dataclass(frozen=True)
class Golden:
    """Reference vectors as integer codes, made by the quantised twin in float64."""

    inputs: Any
    """(N, *input_shape) int64; of a network with several inputs, such arrays by input name."""
    outputs: dict[str, NDArray[Any]]
    """(N, *output_shape) int64 by output name."""


@dataclass(frozen=True)
class Artifact:
    """An artifact on disk whose files match their digests."""

    folder: Path
    manifest: Manifest
    recipe: Recipe

    @property
    def model(self) -> Path:
        """Path of the QONNX file."""
        return self.folder / MODEL

    def graph(self) -> Graph:
        """Return what firmware computes: the network, and what its task has done with the network's output."""
        from caloedge.compiler.condensation import with_clusters
        from caloedge.compiler.onnx.reader import read

        network, condensation = read(self.model), find(Task, self.recipe.task).condensation
        if condensation is None:
            return network
        points = self.manifest.working_points
        if INTEGER not in points or distance_of(INTEGER) not in points:
            raise BadData(f"{self.folder / MANIFEST}: no working points of the {INTEGER} network; export the artifact again")
        return with_clusters(network, condensation, points[INTEGER], points[distance_of(INTEGER)])

    def golden(self) -> Golden:
        """Read the golden vectors."""
        path = self.folder / GOLDEN
        arrays = read_npz(path, cure="export the artifact again")
        outputs = {key.removeprefix("output_"): codes for key, codes in arrays.items() if key.startswith("output_")}
        inputs = arrays.get("inputs")
        if (
            inputs is None
            or not inputs.ndim
            or not outputs
            or any(codes.shape[:1] != inputs.shape[:1] or not codes.size for codes in outputs.values())
        ):
            raise BadData(f"{path}: needs `inputs` and an `output_NAME` with as many vectors, at least one; export again")
        if not all(np.issubdtype(codes.dtype, np.integer) for codes in arrays.values()):
            raise BadData(f"{path}: holds numbers that are not integer codes; export the artifact again")
        return Golden(inputs.astype(np.int64), {name: codes.astype(np.int64) for name, codes in outputs.items()})

    def weights(self, stage: str) -> dict[str, NDArray[Any]]:
        """Read the weights of one stage: `published`, `edge` or `quantised`."""
        weights = _read_weights(self.folder, stage)
        if not weights:
            raise BadData(f"{self.folder}: no weights of the {stage} network; export the artifact again")
        return weights


def _read_weights(folder: Path, stage: str) -> dict[str, NDArray[Any]]:
    weights: dict[str, NDArray[Any]] = {}
    for path in sorted(folder.glob(f"{stage}.*.safetensors")):
        try:
            weights |= load_file(path)
        except SafetensorError as problem:
            raise BadData(f"{path}: not a readable safetensors file ({problem}); export the artifact again") from None
    return weights


def finished_record(folder: Path, stage: str, key: str) -> TrainingRecord | None:
    """Return the record of a stage or alternative, if an artifact in `folder` was made with just this training."""
    if not (folder / MANIFEST).is_file():
        return None
    return _record_in(_read_manifest(folder, "restore it, or remove it to train again"), stage, key)


def _record_in(manifest: Manifest, stage: str, key: str) -> TrainingRecord | None:
    record = manifest.stages.get(stage)
    return record if record and record.key == key else None


def finished_training(folder: Path, stage: str, key: str) -> tuple[dict[str, NDArray[Any]], TrainingRecord] | None:
    """Return weights and record of a stage or alternative, if an artifact in `folder` holds just this training."""
    if not (folder / MANIFEST).is_file():
        return None
    manifest = _read_manifest(folder, "restore it, or remove it to train again")
    if not (record := _record_in(manifest, stage, key)):
        return None
    # The recipe beside it may have been edited since; only the weights must be the artifact's own.
    for name in (name for name in manifest.files if name.startswith(f"{stage}.")):
        if not (folder / name).is_file() or sha256(folder / name) != manifest.files[name]:
            raise BadData(f"{folder / name}: missing or altered; restore it, or remove {MANIFEST} there to train again")
    weights = _read_weights(folder, stage)
    return (weights, record) if weights else None


def read_artifact(folder: str | Path) -> Artifact:
    """Open an artifact; missing or altered files are named."""
    folder = Path(folder)
    if not (folder / MANIFEST).is_file():
        raise BadData(f"{folder}: no {MANIFEST} there; an artifact is made by: caloedge export RECIPE")
    manifest = _read_manifest(folder, "export the artifact again")
    needed = {MODEL, GOLDEN, RECIPE} | {path.name for path in folder.glob("*.safetensors")}
    if unlisted := sorted(needed - set(manifest.files)):
        raise BadData(f"{folder / unlisted[0]}: not listed in the manifest, so it may be any file; export the artifact again")
    for name, digest in manifest.files.items():
        if not (folder / name).is_file():
            raise BadData(f"{folder / name}: missing; the manifest lists it, export the artifact again")
        if sha256(folder / name) != digest:
            raise BadData(f"{folder / name}: altered since the manifest was written (SHA-256 differs); export the artifact again")
    return Artifact(folder, manifest, read_recipe(folder / RECIPE))


def _read_manifest(folder: Path, cure: str) -> Manifest:
    path = folder / MANIFEST
    try:
        return Manifest.model_validate_json(read_text(path))
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise BadData(f"{path}: not a manifest ({place + ': ' if place else ''}{first['msg']}); {cure}") from None


def refuse_foreign_files(folder: Path, written: Iterable[str] = ()) -> None:
    """Refuse to replace a folder that holds files which no export has written and this one, which writes `written`, will not."""
    if not folder.exists():
        return
    known = {RECIPE, MANIFEST, CARD, "__pycache__", *written}
    if (folder / MANIFEST).is_file():
        known |= set(_read_manifest(folder, "restore it, or move the folder elsewhere").files)
    if foreign := sorted(p.name for p in folder.iterdir() if p.name not in known):
        raise UserError(f"{folder}: holds {foreign[0]!r}, which is not part of an artifact and would be lost; move it elsewhere")


def write_golden(folder: Path, golden: Golden) -> None:
    """Write golden vectors as the narrowest integers that hold them."""
    arrays = {"inputs": golden.inputs} | {f"output_{name}": codes for name, codes in golden.outputs.items()}
    with (folder / GOLDEN).open("wb") as stream:
        narrow: dict[str, Any] = {key: _narrow(codes) for key, codes in arrays.items()}
        np.savez_compressed(stream, **narrow)


def write_weights(folder: Path, stage: str, weights: dict[str, NDArray[Any]]) -> None:
    """Write weights as `<stage>.<k>.safetensors`, each below the size limit."""
    pieces: list[dict[str, NDArray[Any]]] = [{}]
    for name, values in weights.items():
        if pieces[-1] and sum(v.nbytes for v in pieces[-1].values()) + values.nbytes > MAX_WEIGHTS_BYTES:
            pieces.append({})
        pieces[-1][name] = np.ascontiguousarray(values)
    for number, piece in enumerate(pieces):
        (folder / f"{stage}.{number}.safetensors").write_bytes(save(piece))  # safetensors' own writer makes files of mode 0600


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write the manifest with the digests of all files that are in the folder now."""
    files = {p.name: sha256(p) for p in sorted(folder.iterdir()) if p.name != MANIFEST}
    complete = manifest.model_copy(update={"files": files})
    (folder / MANIFEST).write_text(json.dumps(complete.model_dump(), indent=1) + "\n", encoding="utf-8")


def _narrow(codes: NDArray[Any]) -> NDArray[Any]:
    return codes.astype(np.result_type(np.min_scalar_type(codes.min()), np.min_scalar_type(codes.max())))
