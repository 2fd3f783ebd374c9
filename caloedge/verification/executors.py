"""The chain of exactness: every executor that is present runs the same vectors, and every output code must be equal.

Torch twin in float64 → QONNX executor → integer graph → C++ emulator → each firmware simulation, for an artifact on its golden
vectors; the same without the twin for a QONNX file, on any. Where codes differ, the first place in the network is looked for.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from caloedge.artifact import Artifact, Golden
from caloedge.catalog import Backend, Target, find
from caloedge.compiler.graph import Graph, Inputs
from caloedge.compiler.onnx.reader import Compiled, compile_file, read
from caloedge.errors import MissingTool, Unsupported
from caloedge.extras import need
from caloedge.progress import progress
from caloedge.project import RECORD, SOFTWARE, FirmwareDesign, designs, project
from caloedge.verification.codes import Check, Codes, compare_codes, random_vectors, select_event
from caloedge.verification.locating import ANY_TARGET, first_differing_layer, first_differing_node
from caloedge.verification.qonnx_executor import execute

STALL = 0.2
"""Probability per cycle that an end of a streaming design stalls in the simulation of random codes."""
BUILD_UNITS = 10
"""Rough ratio of the times to build and to run a project, for the estimate of the remaining time."""
WIDE_CODES, WIDE_PRECISION = 2**40, 2.0**-44
GRAPH, QONNX, TWIN = "integer graph", "QONNX executor", "torch twin, float64"


@dataclass(frozen=True)
class Executor:
    """Something that runs the network on input codes and gives output codes."""

    name: str
    run: Callable[[Inputs], Codes]
    prepare: Callable[[], object] = bool
    """Called before `run`, outside of the time that is taken: it builds what is not built yet."""
    first_difference: Callable[[Inputs], str] = lambda _: ""
    """(input codes of one event): the first place in the network that differs from the integer graph; empty if none is found."""
    units: int = 1
    """Rough time in units of one run, for the estimate of the remaining time."""
    may_refuse: bool = False
    """Whether it may not support the network; else that is an error."""
    outputs: tuple[str, ...] = ()
    """Those that it gives, where it ends before what firmware does with the network's output; empty for all."""


def verify(executors: Sequence[Executor], vectors: Golden, title: str) -> list[Check]:
    """Run executors on the same vectors and compare every output code; what differs is located.

    A missing program or package, or a refusal that is allowed, makes a check that says so.
    """
    checks = []
    with progress(title, sum(executor.units for executor in executors)) as advance:
        for executor in executors:
            given = executor.outputs or tuple(vectors.outputs)
            expected = Golden(vectors.inputs, {name: codes for name, codes in vectors.outputs.items() if name in given})
            check = run_check(executor.name, expected, executor.run, executor.prepare, may_refuse=executor.may_refuse)
            if check.first_event is not None:
                place = executor.first_difference(select_event(vectors.inputs, check.first_event))
                check = replace(check, first_node=place)
            checks.append(check)
            advance(executor.units)
    return checks


def run_check(
    executor: str,
    vectors: Golden,
    run: Callable[[Inputs], Codes],
    prepare: Callable[[], object] = bool,
    *,
    may_refuse: bool = False,
) -> Check:
    """Run one executor on vectors; a missing program or package, or a refusal that is allowed, makes a check that says so."""
    try:
        prepare()
        start = time.perf_counter()
        outputs = run(vectors.inputs)
    except MissingTool as problem:
        return Check(executor, 0, 0, 0, 0, None, 0.0, missing=str(problem))
    except Unsupported as problem:
        if not may_refuse:
            raise
        return Check(executor, 0, 0, 0, 0, None, 0.0, missing=str(problem), refused=True)
    return compare_codes(executor, vectors.outputs, outputs, time.perf_counter() - start)


def verify_artifact(artifact: Artifact, projects: Path) -> list[Check]:
    """Run the chain on the golden vectors, then the emulator and every firmware simulation on random codes too.

    The recipe's firmware projects are built in the folder `projects` where they are not there yet.
    """
    network, graph, recipe = read(artifact.model), artifact.graph(), artifact.recipe
    given = tuple(op.name for op in network.outputs)
    software = (
        Executor(TWIN, partial(_run_twin, artifact, network), outputs=given),
        Executor(
            QONNX, partial(run_qonnx, artifact.model, network), first_difference=partial(_node_of, artifact.model), outputs=given
        ),
        Executor(GRAPH, graph.run),
    )
    all_designs = (FirmwareDesign(SOFTWARE, "native", recipe.target), *designs(recipe))
    simulations = [_simulation(design, graph, artifact, projects) for design in all_designs]
    checks = verify([*software, *simulations], artifact.golden(), f"verify {recipe.name}")
    first, at_golden = len(software), checks[len(software) :]
    stalled = [
        _simulation(design, graph, artifact, projects, stall=STALL)
        for design, check in zip(all_designs, at_golden, strict=True)
        if not check.missing
    ]
    on_random = {check.executor: check for check in verify(stalled, random_vectors(graph), f"verify {recipe.name}, random codes")}
    both = [[check, on_random.get(f"{check.executor}{RANDOM}")] for check in at_golden]
    return [*checks[:first], *(check for pair in both for check in pair if check)]


RANDOM = ", random codes"


def executors_of_file(path: Path, compiled: Compiled, backends: Iterable[tuple[str, str]], projects: Path) -> list[Executor]:
    """Return the executors of a QONNX file: integer graph, qonnx package, and backends (name, variant), built in `projects`."""
    graph = compiled.graph
    return [
        Executor(GRAPH, graph.run),
        Executor(
            f"{QONNX}, float64",
            partial(_run_file, path, compiled),
            first_difference=partial(first_differing_node, path, compiled),
            may_refuse=True,
        ),
        *(_backend_executor(backend, variant, graph, projects / f"{backend}_{variant}") for backend, variant in backends),
    ]


def _backend_executor(backend: str, variant: str, graph: Graph, folder: Path) -> Executor:
    return Executor(
        f"{backend} {variant}",
        lambda codes: find(Backend, backend).emulate(folder, codes),
        lambda: project(backend, graph, find(Target, ANY_TARGET), variant, folder),
        partial(first_differing_layer, backend, variant, graph),
        BUILD_UNITS,
        may_refuse=True,
    )


def _simulation(design: FirmwareDesign, graph: Graph, artifact: Artifact, projects: Path, stall: float | None = None) -> Executor:
    """Return the simulation of a design; on random codes (`stall` given) a cycle-accurate one stalls both ends by chance."""
    folder, recipe = projects / design.folder, artifact.recipe

    def run(codes: Inputs) -> Codes:
        backend = find(Backend, design.backend)
        if backend.simulate is None:
            return backend.emulate(folder, codes)
        assert isinstance(codes, np.ndarray), "an artifact has one input"
        return backend.simulate(folder, codes, stall or 0.0, None).codes

    return Executor(
        str(design) if stall is None else f"{design}{RANDOM}",
        run,
        lambda: design.project(graph, recipe, projects),
        lambda event: first_differing_layer(design.backend, design.variant, graph, event, recipe.layers),
        1 if stall is not None or (folder / RECORD).exists() else 1 + BUILD_UNITS,
    )


def _node_of(path: Path, event: Inputs) -> str:
    return first_differing_node(path, compile_file(path), event)


def _run_file(path: Path, compiled: Compiled, codes: Inputs) -> Codes:
    if compiled.inserted:
        names = ", ".join(compiled.inserted[:3])
        raise Unsupported(f"the integer network has quantisers that the file has not (at {names})")
    return run_qonnx(path, compiled.graph, codes)


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


def _run_twin(artifact: Artifact, graph: Graph, codes: Inputs) -> Codes:
    need("train", "the torch twin")
    from caloedge.export import golden_vectors
    from caloedge.training.stages import build_network

    assert isinstance(codes, np.ndarray), "an artifact has one input"
    twin = build_network(artifact.recipe, "quantised", artifact.weights("quantised"))
    return golden_vectors(twin, codes, graph).outputs
