"""One integer network as streaming Verilog at several reuse factors: cycles against multipliers and LUTs.

At reuse factor R every multiplier of a convolution serves R clock cycles of each pixel, so an event takes R times its pixels.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from caloedge.artifact import Golden
from caloedge.catalog import Backend, CycleRun, Target, find
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Conv
from caloedge.errors import UserError
from caloedge.project import AUTO, project, read_record
from caloedge.recipe import LayerChoice
from caloedge.synthesis.cost import ImplementationResult, implement
from caloedge.verification.codes import Check
from caloedge.verification.executors import run_check


@dataclass(frozen=True)
class ReuseChoice:
    """One reuse factor, built and simulated."""

    reuse: int
    multipliers: int
    """Number of multipliers that work in parallel."""
    cycles: CycleRun
    check: Check
    cost: ImplementationResult | None
    seconds: float
    """Wall time of the simulation [s]."""


def choices(graph: Graph, reuse: int) -> dict[str, LayerChoice]:
    """Return the choice for each convolution at one reuse factor, which is capped at the number of weights of its kernel.

    Raises `UserError` for a network without a convolution.
    """
    sizes = {op.name: op.weights[0].size for op in graph.ops if isinstance(op, Conv)}
    if not sizes:
        raise UserError(f"network {graph.name!r} has no convolution; reuse factors are those of images")
    return {name: LayerChoice(strategy="streaming", reuse=min(reuse, size)) for name, size in sizes.items()}


def reuse_choices(
    graph: Graph, golden: Golden, reuse_factors: Sequence[int], target: str, folder: Path, *, synthesise: Sequence[int] = ()
) -> list[ReuseChoice]:
    """Build and simulate a network at each reuse factor, and synthesise at those in `synthesise`."""
    return [
        _build_and_simulate(graph, golden, reuse, target, folder / f"reuse_{reuse}", reuse in synthesise)
        for reuse in reuse_factors
    ]


def _build_and_simulate(graph: Graph, golden: Golden, reuse: int, target: str, folder: Path, synthesise: bool) -> ReuseChoice:
    backend, device, layer_choices = find(Backend, "rtl"), find(Target, target), choices(graph, reuse)
    project("rtl", graph, device, AUTO, folder, layer_choices)
    simulate, runs = backend.simulate, []
    assert simulate is not None

    def run(codes: object) -> Mapping[str, object]:
        runs.append(simulate(folder, codes, 0.0, None))  # type: ignore[arg-type]
        return runs[0].codes

    start = time.perf_counter()
    check = run_check(f"rtl, reuse {reuse}", golden, run)  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    multipliers = sum(int(stage["multipliers"]) for stage in read_record(folder)["stages"])
    cost = implement(folder, target, 0.0) if synthesise else None
    return ReuseChoice(reuse, multipliers, runs[0], check, cost, seconds)
