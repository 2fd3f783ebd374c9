"""Measurement of a recipe's firmware projects: cycles from simulation, resources and clock from the tools that are installed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caloedge.artifact import Artifact
from caloedge.catalog import Backend, CycleRun, Target, find
from caloedge.project import FirmwareDesign, designs, read_record
from caloedge.synthesis.cost import ImplementationResult, implement
from caloedge.verification.codes import Check

TIMED_EVENTS = 256
"""Golden events simulated back to back to measure cycles."""


@dataclass(frozen=True)
class Firmware:
    """One built project with its measurements."""

    design: FirmwareDesign
    folder: Path
    record: dict[str, Any]
    """Contents of the project's caloedge.json."""
    check: Check
    """Comparison with the golden vectors."""
    cycles: CycleRun | None
    """Measured latency and interval; None where the simulation has no clock."""
    cost: ImplementationResult | None
    """Resources and clock; None where no synthesis was requested or no tool is installed."""

    @property
    def target(self) -> Target:
        """The device that it was built for."""
        return find(Target, self.design.target)


def measured_designs(artifact: Artifact, projects: Path, checks: list[Check]) -> tuple[Firmware, ...]:
    """Measure the built projects of a recipe; those whose tools are missing are left out."""
    by_name = {check.executor: check for check in checks}
    return tuple(
        _measure(artifact, design, projects / design.folder, by_name[str(design)])
        for design in designs(artifact.recipe)
        if not by_name[str(design)].missing
    )


def _measure(artifact: Artifact, design: FirmwareDesign, folder: Path, check: Check) -> Firmware:
    simulate = find(Backend, design.backend).simulate
    inputs = artifact.golden().inputs[:TIMED_EVENTS]
    cycles = simulate(folder, inputs, 0.0, None) if simulate else None
    is_synthesised = design.backend == "hls4ml" or design.variant in artifact.recipe.synthesis.get(design.target, ())
    cost = implement(folder, design.target, artifact.recipe.route_limit_s) if is_synthesised else None
    return Firmware(design, folder, read_record(folder), check, cycles, cost)
