"""The chain of exactness: every executor that is present runs the golden vectors, and every output code must be equal.

Torch twin in float64 → QONNX executor → integer graph → each built firmware simulation. Nothing is compared with a
tolerance: a check counts output codes that differ and says by how many least significant bits.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.artifact import Artifact, Golden
from caloedge.catalog import Backend, Target, find
from caloedge.compiler.graph import Graph, Inputs
from caloedge.compiler.onnx.reader import read
from caloedge.errors import MissingTool
from caloedge.extras import need
from caloedge.progress import progress
from caloedge.project import RECORD, is_built, record
from caloedge.recipe import Recipe
from caloedge.verification.qonnx_executor import execute

RANDOM_VECTORS, RANDOM_IMAGES, IMAGE_SIZE = 10_000, 10, 1_000
"""Numbers of random events; `RANDOM_IMAGES` for inputs of more than `IMAGE_SIZE` numbers."""
STALL = 0.2
"""Probability per cycle that an end of a streaming design stalls in the simulation of random codes."""
BUILD_UNITS = 10
"""Rough ratio of the times to build and to run a project, for the estimate of the remaining time."""
SOFTWARE = "emulator"
"""The backend whose projects run on this computer and know no device."""
WIDE_CODES, WIDE_PRECISION = 2**40, 2.0**-44
Codes = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Check:
    """Comparison of one executor with the golden vectors."""

    executor: str
    vectors: int
    outputs: int
    """Number of output codes compared."""
    differing: int
    largest_lsb: int
    """Largest difference, in units of the output's least significant bit."""
    first_event: int | None
    """Index of the first event with a difference."""
    seconds: float
    flips: int = 0
    """Number of events in which the position of an output's largest code changes."""
    first_node: str = ""
    """First node whose result differs in that event, where it is known."""
    missing: str = ""
    """Why the executor could not run; empty when it ran."""
    misfit: str = ""
    """Why its codes could not be compared one by one: an output that is missing, or has another shape; then all differ."""

    @property
    def exact(self) -> bool:
        """Whether the executor ran and no output code differed."""
        return not self.missing and self.differing == 0 and self.outputs > 0


def compare_codes(executor: str, golden: Mapping[str, NDArray[Any]], actual: Mapping[str, NDArray[Any]], seconds: float) -> Check:
    """Compare output codes element by element with `==`; a missing output or another shape is a `misfit`."""
    vectors = len(next(iter(golden.values())))
    total = differing = largest = 0
    first: int | None = None
    flipped = np.zeros(vectors, dtype=np.bool_)
    for name, expected in golden.items():
        total += expected.size
        codes = actual.get(name)
        if codes is None or codes.shape != expected.shape:
            everything = sum(codes.size for codes in golden.values())
            problem = "is missing" if codes is None else f"has the shape {codes.shape}, {expected.shape} expected"
            return Check(executor, vectors, everything, everything, 0, None, seconds, misfit=f"output {name!r} {problem}")
        difference = np.abs(codes.astype(np.int64) - expected)
        events = np.flatnonzero(difference.any(axis=tuple(range(1, difference.ndim))))
        differing += int(np.count_nonzero(difference))
        largest = max(largest, int(difference.max(initial=0)))
        if expected.size:
            flipped |= codes.reshape(vectors, -1).argmax(axis=1) != expected.reshape(vectors, -1).argmax(axis=1)
        if len(events):
            first = int(events[0]) if first is None else min(first, int(events[0]))
    return Check(executor, vectors, total, differing, largest, first, seconds, int(flipped.sum()))


def run_check(executor: str, golden: Golden, run: Callable[[NDArray[Any]], Codes]) -> Check:
    """Run one executor on the golden inputs; a missing program or package makes a check that says so."""
    start = time.perf_counter()
    try:
        outputs = run(golden.inputs)
    except MissingTool as problem:
        return Check(executor, 0, 0, 0, 0, None, 0.0, missing=str(problem))
    return compare_codes(executor, golden.outputs, outputs, time.perf_counter() - start)


def verify(artifact: Artifact, folder: Path) -> list[Check]:
    """Run the chain on the golden vectors, then the emulator and every firmware simulation on random codes too.

    The recipe's firmware projects are built in `folder` where they are not there yet.
    """
    golden, graph = artifact.golden(), read(artifact.model)
    all_designs = (FirmwareDesign(SOFTWARE, "native", artifact.recipe.target), *designs(artifact.recipe))
    built = [(folder / d.folder / RECORD).exists() for d in all_designs]
    with progress(f"verify {artifact.recipe.name}", 3 + len(all_designs) * 2 + built.count(False) * BUILD_UNITS) as advance:
        checks = []
        for name, run in (
            ("torch twin, float64", lambda codes: _run_twin(artifact, graph, codes)),
            ("QONNX executor", lambda codes: run_qonnx(artifact.model, graph, codes)),
            ("integer graph", graph.run),
        ):
            checks.append(run_check(name, golden, run))
            advance(1)
        random = random_vectors(graph)
        for design, was_built in zip(all_designs, built, strict=True):
            try:
                project = build_if_needed(design, graph, artifact.recipe, folder)
            except MissingTool as problem:
                checks.append(Check(str(design), 0, 0, 0, 0, None, 0.0, missing=str(problem)))
                continue
            finally:
                advance(0 if was_built else BUILD_UNITS)
            checks += [check_project(design, project, golden), check_project(design, project, random, stall=STALL)]
            advance(2)
    return checks


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


def designs(recipe: Recipe) -> tuple[FirmwareDesign, ...]:
    """Return the firmware projects of a recipe: its builds for its own target, then what is synthesised for others."""
    for_own_target = [
        FirmwareDesign(backend, variant, recipe.target) for backend, variants in recipe.builds.items() for variant in variants
    ]
    for_other_targets = [
        FirmwareDesign("rtl", variant, target) for target, variants in recipe.synthesis.items() for variant in variants
    ]
    return tuple(dict.fromkeys((*for_own_target, *for_other_targets)))


def random_vectors(graph: Graph, n_events: int | None = None, seed: int = 20_261) -> Golden:
    """Return random input codes over the whole input format with the outputs of `Graph.run`."""
    size = sum(graph.tensors[op.name].size for op in graph.inputs)
    n_events = n_events or (RANDOM_IMAGES if size > IMAGE_SIZE else RANDOM_VECTORS)
    codes = random_codes(graph, n_events, seed)
    return Golden(codes, graph.run(codes))


def random_codes(graph: Graph, n_events: int, seed: int) -> Any:
    """Return random codes over the whole format of the only input, or by name of several; the extremes come first.

    Where an input is declared as whole numbers, only codes that one of them gives are drawn.
    """
    rng = np.random.default_rng(seed)
    codes = {}
    for op in graph.inputs:
        low, high = graph.tensors[op.name].range
        codes[op.name] = rng.integers(low, high + 1, (n_events, *op.shape))
        codes[op.name][:1], codes[op.name][1:2] = low, high
    codes = graph.possible_inputs(codes)
    return codes if len(codes) > 1 else codes[graph.input.name]


def check_project(design: FirmwareDesign, project: Path, golden: Golden, stall: float = 0.0) -> Check:
    """Simulate a built project on vectors; a cycle-accurate simulation stalls both ends with this chance per cycle."""
    backend = find(Backend, design.backend)
    name = f"{design}, random codes" if stall else str(design)
    if backend.simulate is None:
        return run_check(name, golden, lambda codes: backend.emulate(project, codes))
    simulate = backend.simulate
    return run_check(name, golden, lambda codes: simulate(project, codes, stall, None).codes)


def build_if_needed(design: FirmwareDesign, graph: Graph, recipe: Recipe, folder: Path) -> Path:
    """Return the project folder of one design, built now unless the same was built there before."""
    project = folder / design.folder
    if not is_project_built(design, graph, recipe, folder):
        find(Backend, design.backend).build(graph, find(Target, design.target), design.variant, project, recipe.layers)
    return project


def is_project_built(design: FirmwareDesign, graph: Graph, recipe: Recipe, folder: Path) -> bool:
    """Return whether the project of a design was built before."""
    expected = record(design.backend, graph, find(Target, design.target), design.variant, recipe.layers)
    return is_built(folder / design.folder, expected)


def run_qonnx(path: Path, graph: Graph, codes: Inputs) -> Codes:
    """Execute a QONNX file node by node in float64 on input codes; return output codes by name.

    Outputs whose codes need more bits than float64 can tell apart are taken as equal to the graph's where their real values
    are, to `WIDE_PRECISION` of the largest.
    """
    values = execute(path, graph.input_values(codes))
    outputs = graph.output_codes(values)
    wide = [op.name for op in graph.outputs if max(map(abs, graph.tensors[op.name].range)) > WIDE_CODES]
    if wide:
        graph_outputs = graph.run(codes)
        reals = graph.output_values(graph_outputs)
        for name in wide:
            close = np.abs(values[name] - reals[name]) <= WIDE_PRECISION * np.abs(reals[name]).max(initial=0)
            outputs[name] = np.where(close, graph_outputs[name], outputs[name])
    return outputs


def _run_twin(artifact: Artifact, graph: Graph, codes: NDArray[Any]) -> Codes:
    need("train", "the torch twin")
    from caloedge.export import golden_vectors
    from caloedge.training.stages import build_network

    twin = build_network(artifact.recipe, "quantised", artifact.weights("quantised"))
    return golden_vectors(twin, codes, graph).outputs
