"""One network at several bit widths: each trained, exported, proven exact and, where all of it can be unrolled, synthesised."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from caloedge.artifact import RECIPE, Artifact
from caloedge.backends.emulator.binding import emulate
from caloedge.catalog import INTEGER, Backend, Target, find
from caloedge.compiler.onnx.reader import read
from caloedge.errors import UserError
from caloedge.export import export
from caloedge.pipeline import Run
from caloedge.progress import announce
from caloedge.project import SOFTWARE, FirmwareDesign
from caloedge.recipe import Recipe, write_recipe
from caloedge.synthesis.cost import implement
from caloedge.training.fit import Hardware
from caloedge.training.forecast import Forecast, forecast, together
from caloedge.training.stages import train
from caloedge.verification.codes import Check
from caloedge.verification.executors import GRAPH, QONNX, run_check, run_qonnx

UNROLLED = "unrolled"
"""Variant of backend `rtl` that is synthesised: all of it in LUTs, so that one number is the whole cost."""
TIMED_EVENTS = 256


@dataclass(frozen=True)
class IntegerNetwork:
    """The integer network at one bit width, with what it costs."""

    method: str
    bits: int
    artifact: Artifact
    emulator: Path
    """Folder of its C++ library, which is several times faster than the graph."""
    checks: tuple[Check, ...]
    ebops: int
    """Effective bit operations: weight bits times input bits, summed over all products."""
    resources: Mapping[str, int]
    """Synthesised resources of the unrolled design by name; empty where it is not built or no synthesiser is installed."""
    cycles: int | None
    """Latency of the unrolled design from input to output [clock cycles]."""
    remarks: tuple[str, ...] = ()
    """Reasons why something was not synthesised."""


def check_bits(bits: Sequence[int]) -> None:
    """Raise `UserError` for widths that no network can have."""
    wrong = [str(b) for b in bits if not 2 <= b <= 8]
    if wrong or not bits:
        raise UserError(f"--bits {', '.join(wrong) or 'without a number'}: give numbers from 2 to 8, e.g. --bits 8 --bits 6")


def at_width(recipe: Recipe, bits: int) -> Recipe:
    """Return the recipe of the same network with another number of bits.

    Weights and activations get the same number, single layers as many more as in the recipe; the input stays as it is.
    """
    training = recipe.training.model_copy(update={"quantised": recipe.tradeoff.schedule or recipe.training.quantised})
    changes = {"quantisation": recipe.quantisation.of_width(bits), "training": training}
    return recipe.model_copy(update={"name": f"{recipe.name}_{bits}_bit", **changes})


def artifact_folder(opened: Run, bits: int) -> Path:
    """Return where the artifact of another width lies: beside the recipe's own if its file names the width, else in the work."""
    options = opened.recipe.tradeoff
    if "bits" in options.model_fields_set and bits in options.bits:
        return opened.places.artifact.with_name(f"{opened.places.artifact.name}_{bits}_bit")
    return opened.places.work / "tradeoff" / f"{bits}_bit" / "artifact"


def artifact_at(opened: Run, bits: int, hardware: Hardware) -> Artifact:
    """Train and export one bit width; the float networks are those of the recipe, trained once."""
    recipe, folder = at_width(opened.recipe, bits), artifact_folder(opened, bits)
    path = opened.places.work / "tradeoff" / f"{bits}_bit" / RECIPE
    trained = train(recipe, opened.library, opened.trainings, hardware, opened.path.parent, artifacts=[folder])
    write_recipe(recipe, path, opened.path.parent, folder)
    return export(recipe, path, opened.library, trained, folder)


def announce_trainings(opened: Run, widths: Sequence[int], hardware: Hardware) -> None:
    """Announce the trainings of the recipe, of its alternatives, and at each of the further bit widths."""
    recipe, base = opened.recipe, opened.path.parent
    forecasts: dict[str, Forecast] = {
        f"{recipe.quantisation.weight_bits} bit": forecast(
            recipe, opened.library, opened.trainings, hardware, base, recipe.alternatives
        )
    }
    for bits in widths:
        artifacts = [artifact_folder(opened, bits)]
        forecasts[f"{bits} bit"] = forecast(
            at_width(recipe, bits), opened.library, opened.trainings, hardware, base, artifacts=artifacts
        )
    for line in together(forecasts).lines():
        announce(line)


def is_unrolled(recipe: Recipe) -> bool:
    """Tell whether the recipe's network is built unrolled, so that it can be at every width."""
    return UNROLLED in recipe.builds.get("rtl", ())


def measured(artifact: Artifact, projects: Path, *, is_main: bool) -> IntegerNetwork:
    """Run a width's executors on its golden vectors, and synthesise it where its recipe's network is unrolled."""
    graph, golden, recipe = read(artifact.model), artifact.golden(), artifact.recipe
    bits = recipe.quantisation.weight_bits
    emulator = FirmwareDesign(SOFTWARE, "native", recipe.target).project(graph, recipe, projects)
    checks = [
        run_check(f"{GRAPH}, {bits} bit", golden, graph.run),
        run_check(f"{QONNX}, {bits} bit", golden, partial(run_qonnx, artifact.model, graph)),
        run_check(f"C++ emulator, {bits} bit", golden, lambda codes: emulate(emulator, np.asarray(codes))),
    ]
    cycles, cost = None, None
    if is_unrolled(recipe):
        folder = FirmwareDesign("rtl", UNROLLED, recipe.target).project(graph, recipe, projects)
        simulate = find(Backend, "rtl").simulate
        assert simulate is not None
        cycles = simulate(folder, golden.inputs[:TIMED_EVENTS], 0.0, None).latency_cycles
        checks.append(
            run_check(f"rtl {UNROLLED}, {bits} bit", golden, lambda codes: simulate(folder, np.asarray(codes), 0.0, None).codes)
        )
        cost = implement(folder, recipe.target, recipe.route_limit_s)
    return IntegerNetwork(
        method=INTEGER if is_main else f"integer {bits} bit",
        bits=bits,
        artifact=artifact,
        emulator=emulator,
        checks=tuple(checks),
        ebops=sum(layer.ebops for layer in graph.layers()),
        resources=dict(cost.netlist.resources) if cost and cost.netlist else {},
        cycles=cycles,
        remarks=cost.remarks if cost else ("no synthesiser",) if is_unrolled(recipe) else (),
    )


def clock_mhz(recipe: Recipe) -> float:
    """Return the clock that is asked of the recipe's device [MHz]."""
    return find(Target, recipe.target).clock_mhz
