"""Every executor of a QONNX file against every other: the executor of the qonnx package, the integer graph, all backends.

Nothing is compared with a tolerance. Where codes differ, the first event that differs and the first node in it are looked for.
"""

import functools
import itertools
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import Backend, Target, find
from caloedge.compiler.graph import Graph, Inputs
from caloedge.compiler.onnx.reader import Compiled
from caloedge.compiler.ops import InputQuantiser, Output
from caloedge.errors import MissingTool, Unsupported
from caloedge.progress import progress
from caloedge.project import is_built, record
from caloedge.verification.executors import BUILD_UNITS, Check, Codes, compare_codes, run_qonnx
from caloedge.verification.qonnx_executor import execute

GRAPH, QONNX = "integer graph", "QONNX executor, float64"


@dataclass(frozen=True)
class Outcome:
    """The result of one executor on the vectors."""

    executor: str
    codes: Codes
    """Output codes by output name; empty when the executor did not run."""
    seconds: float
    missing: str = ""
    """Why the executor did not run; empty when it ran."""
    refused: bool = False
    """Whether the executor does not support the network, rather than missing a tool."""


def run_all(path: Path, compiled: Compiled, inputs: Inputs, backends: Iterable[tuple[str, str]], folder: Path) -> list[Outcome]:
    """Run a file through the qonnx package, the integer graph and backends (name, variant), built in `folder` where needed."""
    graph = compiled.graph
    backends = list(backends)
    with progress(f"verify {path.name}", 2 + len(backends) * BUILD_UNITS) as advance:
        outcomes = [_outcome(GRAPH, lambda: graph.run(inputs))]
        advance(1)
        outcomes.append(
            _outcome(QONNX, lambda: run_qonnx(path, graph, inputs)) if not compiled.inserted else _not_comparable(compiled)
        )
        advance(1)
        target = find(Target, "xcvu13p")  # of simulations only: no device is needed
        for name, variant in backends:
            run = functools.partial(_simulated, name, variant, graph, target, inputs, folder)
            outcomes.append(_outcome(f"{name} {variant}", run))
            advance(BUILD_UNITS)
    return outcomes


def _not_comparable(compiled: Compiled) -> Outcome:
    names = ", ".join(compiled.inserted[:3])
    return Outcome(QONNX, {}, 0.0, f"the integer network has quantisers that the file has not (at {names})", refused=True)


def _outcome(executor: str, run: Callable[[], Codes]) -> Outcome:
    start = time.perf_counter()
    try:
        return Outcome(executor, run(), time.perf_counter() - start)
    except MissingTool as problem:
        return Outcome(executor, {}, 0.0, str(problem))
    except Unsupported as problem:
        return Outcome(executor, {}, 0.0, str(problem), refused=True)


def _simulated(name: str, variant: str, graph: Graph, target: Target, inputs: Inputs, folder: Path) -> Codes:
    backend = find(Backend, name)
    project = folder / f"{name}_{variant}"
    if not is_built(project, record(name, graph, target, variant)):
        backend.build(graph, target, variant, project, {})
    return backend.emulate(project, inputs)


def compare_with_graph(outcomes: list[Outcome]) -> list[Check]:
    """Compare every executor with the integer graph."""
    (expected,) = (outcome.codes for outcome in outcomes if outcome.executor == GRAPH)
    checks = []
    for outcome in outcomes:
        if outcome.missing:
            checks.append(Check(outcome.executor, 0, 0, 0, 0, None, 0.0, missing=outcome.missing))
        else:
            checks.append(compare_codes(outcome.executor, expected, outcome.codes, outcome.seconds))
    return checks


def differing_codes_by_pair(outcomes: list[Outcome]) -> dict[tuple[str, str], int]:
    """Return the number of differing output codes of every pair of executors that ran."""
    ran = [outcome for outcome in outcomes if not outcome.missing]
    return {
        (a.executor, b.executor): compare_codes(b.executor, a.codes, b.codes, 0.0).differing
        for a, b in itertools.combinations(ran, 2)
    }


def select_event(inputs: Inputs, number: int) -> Inputs:
    """Return one event of the vectors."""
    if isinstance(inputs, Mapping):
        return {name: codes[number : number + 1] for name, codes in inputs.items()}
    return inputs[number : number + 1]


def first_differing_node(path: Path, compiled: Compiled, inputs: Inputs) -> str:
    """Return the file's first node output that differs from the integer network's on these inputs; empty if none differs."""
    graph = compiled.unoptimised
    traced = graph.trace(inputs)
    compared = {name: place for name, place in compiled.located.items() if not isinstance(graph[place.op], InputQuantiser)}
    tensors = execute(path, graph.input_values(inputs), keep=list(compared))
    for name, place in compared.items():
        if name not in tensors:
            continue
        codes = (tensors[name] - place.offset) / place.scale
        if not np.array_equal(np.rint(codes), traced[place.op]):
            return f"tensor {name} (layer {place.op})"
    return ""


def first_differing_layer(backend: str, variant: str, graph: Graph, inputs: Inputs) -> str:
    """Return the first layer whose codes a backend gets wrong, from a build in which every layer is an output; empty if none."""
    inner = [op for op in graph.ops if not isinstance(op, Output | InputQuantiser)]
    traced = Graph(
        (*(op for op in graph.ops if not isinstance(op, Output)), *(Output(f"at_{op.name}", (op.name,)) for op in inner))
    )
    plugin = find(Backend, backend)
    try:
        with tempfile.TemporaryDirectory() as folder:
            plugin.build(traced, find(Target, "xcvu13p"), variant, Path(folder) / "traced", {})
            codes = plugin.emulate(Path(folder) / "traced", inputs)
    except (Unsupported, MissingTool):
        return ""
    expected: Mapping[str, NDArray[Any]] = traced.run(inputs)
    return next((f"layer {op.name}" for op in inner if not np.array_equal(expected[f"at_{op.name}"], codes[f"at_{op.name}"])), "")


def with_first_difference(path: Path, compiled: Compiled, inputs: Inputs, check: Check) -> Check:
    """Return a check that failed with the place where its first differing event differs first."""
    if check.exact or check.missing or check.first_event is None:
        return check
    failing_event = select_event(inputs, check.first_event)
    if check.executor == QONNX:
        return replace(check, first_node=first_differing_node(path, compiled, failing_event))
    backend, _, variant = check.executor.partition(" ")
    return replace(check, first_node=first_differing_layer(backend, variant, compiled.graph, failing_event))
