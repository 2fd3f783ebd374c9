"""A firmware project on disk, as every backend writes it: what it was built from, and how codes go in and out.

The record `caloedge.json` is written last: a folder without it is not a project. It is checked when it is read, as buffers are
laid out and libraries are loaded by what it says.
"""

import ctypes
import functools
import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from caloedge.catalog import Backend, Target, find
from caloedge.compiler.fixed import Codes, Format
from caloedge.compiler.graph import Graph
from caloedge.errors import BadData, UserError
from caloedge.files import read_text, sha256, write_text
from caloedge.recipe import LayerChoice, Recipe

RECORD = "caloedge.json"
KINDS = ("emulator", "hls4ml", "rtl")
"""Folders of hand-written hardware."""
MOST_NAME = 40
"""Letters of a network's name in generated names: they become names of files, too."""
AUTO = "auto"
"""The variant that decides layer by layer."""
SEAL = "library_seal"
"""Entry that ties a compiled simulation to the shapes and orders that it was written for."""
SEALED = ("inputs", "input", "outputs", "output")
MAX_ELEMENTS = 2**28
"""Most elements of one event."""
SOFTWARE = "emulator"
"""The backend whose projects run on this computer and know no device."""


def _inside(name: str) -> str:
    if Path(name).is_absolute() or ".." in Path(name).parts:
        raise ValueError("must lie in the project")
    return name


def _a_format(text: str) -> str:
    try:
        Format.parse(text)
    except UserError as problem:
        raise ValueError(str(problem)) from None
    return text


InProject = Annotated[str, Field(pattern=r"^[^\x00]+$"), AfterValidator(_inside)]
"""Path of a file, relative to the project."""
Range = Annotated[list[int], Field(min_length=2, max_length=2)]
"""Smallest and largest code."""


class Entry(BaseModel):
    """Part of a record, of which only what is read again is checked."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


class Port(Entry):
    """One input or output."""

    name: str = ""
    shape: list[Annotated[int, Field(gt=0)]]
    """Shape of one event."""
    format: Annotated[str, AfterValidator(_a_format)]

    @model_validator(mode="after")
    def _has_a_size(self) -> Self:
        if self.elements > MAX_ELEMENTS:
            raise ValueError(f"shape {self.shape} is too large")
        return self

    @property
    def elements(self) -> int:
        """Return the number of codes of one event."""
        return math.prod(self.shape)


class OrderedPort(Port):
    """Port whose codes travel in another order than row by row."""

    order: list[int]

    @model_validator(mode="after")
    def _order_is_whole(self) -> Self:
        if sorted(self.order) != list(range(self.elements)):
            raise ValueError(f"order does not hold each of the {self.elements} codes once")
        return self


class InputPort(OrderedPort):
    """Port whose codes are compared with the range that it takes."""

    range: Range


class Record(Entry):
    """Entries of every backend's record; each backend adds those that its own simulation reads."""

    backend: str


@functools.cache
def generator_digest() -> str:
    """Return the digest of all code and hardware that projects are written with: a change of it makes them stale."""
    hasher = hashlib.sha256()
    backends = sorted((Path(__file__).parent / "backends").rglob("*.py"))
    hardware = resources.files("caloedge.hls")
    parts = [part for kind in KINDS for part in sorted((hardware / kind).iterdir(), key=lambda part: part.name)]
    contents = [(file.name, file.read_bytes()) for file in backends] + [(part.name, part.read_bytes()) for part in parts]
    for name, content in contents:
        hasher.update(f"\0{name}\0".encode() + content)
    return hasher.hexdigest()[:16]


def record(
    backend: str, graph: Graph, target: Target, variant: str, choices: Mapping[str, LayerChoice] | None = None
) -> dict[str, Any]:
    """Return the entries of every project: the origin of its content, and the inputs' shapes and formats.

    `input` repeats the only one of `inputs`. Only variant `auto` heeds choices by layer.
    """
    inputs = [
        {"name": op.name, "shape": list(op.shape), "format": str(op.format), "range": graph.tensors[op.name].range}
        for op in graph.inputs
    ]
    return {
        "backend": backend,
        "variant": variant,
        "graph": graph.digest,
        "part": target.part,
        "clock_mhz": target.clock_mhz,
        "target": hashlib.sha256(repr(target).encode()).hexdigest()[:16],
        "choices": {name: choice.model_dump() for name, choice in (choices or {}).items()} if variant == AUTO else {},
        "generator": generator_digest(),
        "inputs": inputs,
    } | ({"input": {key: inputs[0][key] for key in ("shape", "format", "range")}} if len(inputs) == 1 else {})


def is_built(folder: Path, planned: Mapping[str, Any]) -> bool:
    """Tell whether a project with this record (see `record`) is there already; one with a damaged record is not."""
    if not (folder / RECORD).exists():
        return False
    try:
        existing = read_record(folder)
    except BadData:
        return False
    keys = ("backend", "variant", "graph", "target", "choices", "generator")
    return all(existing.get(key) == planned[key] for key in keys)


def build_unless_built(folder: Path, expected: Mapping[str, Any], build: Callable[[], None]) -> Path:
    """Return the folder of a project with this record (see `record`), built now unless it was before."""
    if not is_built(folder, expected):
        build()
    return folder


def project(
    backend: str, graph: Graph, target: Target, variant: str, folder: Path, choices: Mapping[str, LayerChoice] | None = None
) -> Path:
    """Return the folder of a backend's project of a network, built now unless it was before."""
    plugin = find(Backend, backend)
    expected = record(backend, graph, target, variant, choices)
    return build_unless_built(folder, expected, lambda: plugin.build(graph, target, variant, folder, choices or {}))


@dataclass(frozen=True)
class FirmwareDesign:
    """One firmware project of a recipe."""

    backend: str
    variant: str
    target: str

    @property
    def folder(self) -> Path:
        """Folder of its project, relative to the folder of all projects."""
        return Path(self.target) / f"{self.backend}_{self.variant}"

    def __str__(self) -> str:
        return f"{self.backend} {self.variant}" + (f", {self.target}" if self.backend != SOFTWARE else "")

    def is_built(self, graph: Graph, recipe: Recipe, projects: Path) -> bool:
        """Tell whether its project was built before in the folder of all projects."""
        return is_built(
            projects / self.folder, record(self.backend, graph, find(Target, self.target), self.variant, recipe.layers)
        )

    def project(self, graph: Graph, recipe: Recipe, projects: Path) -> Path:
        """Return its project in the folder of all projects, built now unless it was before."""
        return project(self.backend, graph, find(Target, self.target), self.variant, projects / self.folder, recipe.layers)


def designs(recipe: Recipe) -> tuple[FirmwareDesign, ...]:
    """Return the firmware projects of a recipe: its builds for its own target, then what is synthesised for others."""
    for_own_target = [
        FirmwareDesign(backend, variant, recipe.target) for backend, variants in recipe.builds.items() for variant in variants
    ]
    for_other_targets = [
        FirmwareDesign("rtl", variant, target) for target, variants in recipe.synthesis.items() for variant in variants
    ]
    return tuple(dict.fromkeys((*for_own_target, *for_other_targets)))


def write_record(folder: Path, values: Mapping[str, Any]) -> None:
    """Write the record of a project, with the seal of its compiled simulation."""
    library = folder / str(values.get("library", ""))
    sealed = {SEAL: seal(library, values)} if library.is_file() else {}
    write_text(folder / RECORD, json.dumps({**values, **sealed}, indent=2) + "\n")


def read_record(folder: Path, backend: str = "", kind: type[Record] = Record) -> dict[str, Any]:
    """Read the record of a project, of one backend if it is named, and check that it has what `kind` names."""
    path = folder / RECORD
    try:
        values = dict(json.loads(read_text(path)))
    except FileNotFoundError:
        raise UserError(f"{folder}: no {RECORD} there; make a project with: caloedge build MODEL FOLDER") from None
    except (ValueError, TypeError, RecursionError) as problem:
        raise BadData(f"{path}: damaged ({problem}); build the project again") from None
    if backend and values.get("backend") != backend:
        raise UserError(f"{folder}: built by backend {values.get('backend')!r}, not {backend!r}")
    try:
        kind.model_validate(values)
    except ValidationError as problem:
        first = problem.errors(include_url=False, include_context=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"]))
        raise BadData(f"{path}: damaged ({place}: {first['msg']}); build the project again") from None
    return values


def load_library(folder: Path, values: Mapping[str, Any]) -> ctypes.CDLL:
    """Load the compiled simulation of a project, after comparing it and the shapes in the record with the record's seal."""
    path = folder / values["library"]
    try:
        if values.get(SEAL) != seal(path, values):
            raise BadData(
                f"{path}: cannot be loaded (it or its record was altered since it was built); build the project again on this"
                " machine"
            )
        return ctypes.CDLL(str(path.resolve()))
    except OSError as problem:
        raise BadData(f"{path}: cannot be loaded ({problem}); build the project again on this machine") from None


def seal(library: Path, values: Mapping[str, Any]) -> str:
    """Return the digest of a compiled simulation and of the shapes and orders in a record."""
    ports = json.dumps({key: values[key] for key in SEALED if key in values}, sort_keys=True)
    return hashlib.sha256(f"{sha256(library)} {ports}".encode()).hexdigest()


def checked_codes(folder: Path, values: Mapping[str, Any], codes: NDArray[Any]) -> Codes:
    """Return input codes (N, *shape) as int64 after checking shape, type and range against a project's record."""
    shape, fmt = tuple(values["input"]["shape"]), Format.parse(values["input"]["format"])
    codes = np.asarray(codes)
    if codes.shape[1:] != shape or not np.issubdtype(codes.dtype, np.integer):
        sizes = ", ".join(map(str, shape))
        raise UserError(f"{folder}: input codes are {codes.dtype} {codes.shape}; integers (N, {sizes}) expected")
    low, high = values["input"]["range"]
    if codes.size and (codes.min() < low or codes.max() > high):
        raise UserError(f"{folder}: input codes reach from {codes.min()} to {codes.max()}; {fmt} holds {low} to {high}")
    return codes.astype(np.int64)


def stem(name: str, digest: str, contents: Iterable[str] = ()) -> str:
    """Return the begin of every global name of a generated network, so that networks can share a program or a device.

    It is the network's name and digest. `contents` is what else decides about the project, such as the generated text: with it,
    two ways to build one network have different names.

    >>> stem("Jets, 8 bit", "0123456789abcdef")
    'caloedge_jets_8_bit_01234567'
    """
    plain = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_").lower()[:MOST_NAME].rstrip("_")
    begin, content = f"caloedge_{plain or 'network'}_{digest[:8]}", "\0".join(contents)
    return f"{begin}_{hashlib.sha256(content.encode()).hexdigest()[:4]}" if content else begin


def identifiers(graph: Graph) -> dict[str, str]:
    """Return an identifier of C++ and Verilog for each operation, all different."""
    by_name: dict[str, str] = {}
    for op in graph.ops:
        plain = re.sub(r"\W", "_", op.name, flags=re.ASCII)
        plain = f"layer_{plain}" if not plain[:1].isalpha() else plain
        identifier, number = plain, 2
        while identifier in by_name.values():
            identifier, number = f"{plain}_{number}", number + 1
        by_name[op.name] = identifier
    return by_name
