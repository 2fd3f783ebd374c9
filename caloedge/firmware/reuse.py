"""One integer network as streaming Verilog at several foldings: cycles against multipliers and LUTs.

At folding F every multiplier of a convolution serves F clock cycles of each pixel, so an event takes F times its pixels.
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
from caloedge.project import AUTO, is_built, read_record, record
from caloedge.recipe import LayerChoice
from caloedge.synthesis.cost import ImplementationResult, implement
from caloedge.verification.executors import Check, run_check


@dataclass(frozen=True)
class ReuseChoice:
    """One folding, built and simulated."""

    fold: int
    multipliers: int
    """That work side by side."""
    cycles: CycleRun
    check: Check
    cost: ImplementationResult | None
    seconds: float
    """Of simulation."""


def choices(graph: Graph, fold: int) -> dict[str, LayerChoice]:
    """Return how each convolution is built at one folding; one whose kernel has fewer numbers is folded as far as it goes."""
    sizes = {op.name: op.weights[0].size for op in graph.ops if isinstance(op, Conv)}
    if not sizes:
        raise UserError(f"network {graph.name!r} has no convolution; foldings are those of images")
    return {name: LayerChoice(strategy="streaming", reuse=min(fold, size)) for name, size in sizes.items()}


def reuse_choices(
    graph: Graph, golden: Golden, folds: Sequence[int], target: str, folder: Path, *, synthesise: Sequence[int] = ()
) -> list[ReuseChoice]:
    """Build and simulate a network at each folding, and synthesise those that are asked for."""
    return [_build_and_simulate(graph, golden, fold, target, folder / f"fold_{fold}", fold in synthesise) for fold in folds]


def _build_and_simulate(graph: Graph, golden: Golden, fold: int, target: str, project: Path, synthesise: bool) -> ReuseChoice:
    backend, device, made = find(Backend, "rtl"), find(Target, target), choices(graph, fold)
    if not is_built(project, record("rtl", graph, device, AUTO, made)):
        backend.build(graph, device, AUTO, project, made)
    simulate, runs = backend.simulate, []
    assert simulate is not None

    def run(codes: object) -> Mapping[str, object]:
        runs.append(simulate(project, codes, 0.0, None))  # type: ignore[arg-type]
        return runs[0].codes

    start = time.perf_counter()
    check = run_check(f"rtl, folding {fold}", golden, run)  # type: ignore[arg-type]
    seconds = time.perf_counter() - start
    multipliers = sum(int(stage["multipliers"]) for stage in read_record(project)["stages"])
    cost = implement(project, target, 0.0) if synthesise else None
    return ReuseChoice(fold, multipliers, runs[0], check, cost, seconds)
