"""Every artifact in models/ reproduces its golden vectors through the whole chain, and a corrupted one does not."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caloedge.artifact import Artifact, Golden, read_artifact
from caloedge.compiler.fixed import Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import read
from caloedge.compiler.ops import Conv, Dense, Requantise
from caloedge.compiler.squeeze_excite import gates
from caloedge.project import designs
from caloedge.verification.codes import Check
from caloedge.verification.executors import run_check, verify_artifact

ROOT = Path(__file__).parents[1]
LIMITS = {"center_finder": 20_000} | dict.fromkeys(("pf_energy", "pf_energy_8_bit", "pf_energy_4_bit"), 100_000)
"""Of parameters; 10,000 for all others."""
FEWEST_CODES = 1000
GATE_BITS = 8
"""Of numbers of which there is one per channel."""
FILTER_SPREAD = 6
"""Bits that weights get beyond those of their filter, where filters have scales of their own."""
FIXED_STEPS = dict.fromkeys(("clustering", "clustering_cells"), 16)
"""Most bits of a network that itself fixes the steps of some values: energies, positions, what clusters are chosen by."""
SOFTWARE = ["torch twin, float64", "QONNX executor", "integer graph", "emulator native", "emulator native, random codes"]
MODELS = sorted(path.parent for path in (ROOT / "models").glob("*/manifest.json"))


def test_models_are_shipped() -> None:
    assert {"seed_finder", "shower_shape", "center_finder"} <= {folder.name for folder in MODELS}


QUICKLY_BUILT = ("shower_shape",)
"""Models whose firmware `make test` builds, too: both hls4ml variants, unrolled and streaming Verilog, two devices."""


OTHER_WIDTHS = ("pf_energy_4_bit", "pf_energy_8_bit")
"""The same network as `pf_energy` at other widths."""


def exhaustive_if(folder: Path, exhaustive: bool) -> Any:
    return pytest.param(folder, marks=pytest.mark.exhaustive if exhaustive else (), id=folder.name)


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_software_reproduces_the_golden_vectors(folder: Path, tmp_path: Path) -> None:
    artifact = read_artifact(folder)
    without_firmware = artifact.recipe.model_copy(update={"builds": {}, "synthesis": {}})
    checks = verify_artifact(replace(artifact, recipe=without_firmware), tmp_path)
    assert [check.executor for check in checks] == SOFTWARE
    assert_exact(checks, artifact)


@pytest.mark.slow
@pytest.mark.parametrize("folder", [exhaustive_if(folder, folder.name not in QUICKLY_BUILT) for folder in MODELS])
def test_every_executor_reproduces_the_golden_vectors(folder: Path, tmp_path: Path) -> None:
    artifact = read_artifact(folder)
    checks = verify_artifact(artifact, tmp_path)
    builds = [f"{design}{what}" for design in designs(artifact.recipe) for what in ("", ", random codes")]
    assert [check.executor for check in checks] == [*SOFTWARE, *builds]
    assert {"hls4ml", "rtl"} <= {design.backend for design in designs(artifact.recipe)}
    assert_exact(checks, artifact)


def assert_exact(checks: list[Check], artifact: Artifact) -> None:
    for check in checks:
        assert not check.missing, check.missing
        least = 1000
        if len(shape := artifact.golden().inputs.shape) == 4 and np.prod(shape[1:]) > 1000:
            least = 10  # whole images
        elif "random" in check.executor:
            least = 10_000
        assert check.vectors >= least
        assert check.outputs >= max(check.vectors, FEWEST_CODES)
        assert check.differing == 0, f"{check.executor}: first difference in event {check.first_event}"


def with_bit_changed(graph: Graph, op: Conv | Dense, at: int, bit: int) -> Graph:
    half = 1 << op.weight_format.width - 1  # two's complement: the sign bit is one of them
    return with_weight(graph, op, at, ((int(op.weights.flat[at]) ^ bit) + half) % (2 * half) - half)


def with_weight(graph: Graph, op: Conv | Dense, at: int, value: int) -> Graph:
    weights = op.weights.copy()
    weights.flat[at] = value
    return graph.replacing(op.name, weights=weights)


def largest_that_counts(graph: Graph, golden: Golden, op: Conv | Dense) -> int:
    """Return the place of a layer's largest weight that meets more than zeros: others stand before channels that are always 0."""
    order = map(int, np.argsort(np.abs(op.weights), axis=None)[::-1])
    return next(at for at in order if not run_check("no weight", golden, with_weight(graph, op, at, 0).run).exact)


@pytest.mark.parametrize("folder", [exhaustive_if(folder, folder.name in OTHER_WIDTHS) for folder in MODELS])
def test_corruptions_are_caught(folder: Path) -> None:
    artifact = read_artifact(folder)
    golden, graph = artifact.golden(), artifact.graph()
    assert run_check("graph", golden, graph.run).exact
    layers = [op for op in graph.ops if isinstance(op, Conv | Dense) and op.weight_format.width > 1]  # others only sum
    of_gates = {op.name for gate in gates(graph) for op in gate.excite}
    for op in layers:
        # A gate saturates, so that a smaller weight of the same sign may give the same gate.
        below_sign = 1 if op.name in of_gates else 2
        at, bit = largest_that_counts(graph, golden, op), 1 << op.weight_format.width - below_sign
        assert not run_check("one bit", golden, with_bit_changed(graph, op, at, bit).run).exact, op.name
    assert not run_check("lowest bit", golden, with_bit_changed(graph, op, at, 1).run).exact  # of the last layer
    highest = {name: int(codes.max()) for name, codes in graph.trace(golden.inputs).items()}
    for op in graph.ops:
        if isinstance(op, Requantise):
            rounds = graph.tensors[op.inputs[0]].format.fraction > op.format.fraction
            limits = (op.low, highest[op.name] - 1)  # what only saturates loses the highest code that it has here
            swapped = graph.replacing(op.name, **({"rounding": Rounding.TRUNCATE} if rounds else {"limits": limits}))
            assert not run_check("truncation or saturation", golden, swapped.run).exact, op.name
    shifted = replace(golden, outputs={name: codes + 1 for name, codes in golden.outputs.items()})
    assert run_check("one LSB", shifted, graph.run).largest_lsb == 1


def widest_filter(op: Conv | Dense) -> int:
    """Return the most bits that the weights of one filter need, on the coarsest grid of powers of two that holds them."""
    rows = op.weights.reshape(len(op.weights), -1)
    steps = np.bitwise_or.reduce(rows, axis=1)
    grids = np.maximum(steps & -steps, 1)
    return max(int(largest).bit_length() + 1 for largest in np.abs(rows).max(axis=1) // grids)


@pytest.mark.parametrize("folder", MODELS, ids=lambda folder: folder.name)
def test_the_edge_network_keeps_its_promise(folder: Path) -> None:
    artifact = read_artifact(folder)
    q, stages = artifact.recipe.quantisation, artifact.manifest.stages
    assert stages["edge"].parameters <= LIMITS.get(folder.name, 10_000)
    assert q.weight_bits <= 8
    assert q.activation_bits <= 8
    graph = read(artifact.model)
    for op in graph.ops:
        if isinstance(op, Conv | Dense):
            assert widest_filter(op) <= q.weight_bits
            assert op.weight_format.width <= q.weight_bits + FILTER_SPREAD * q.filter_scales
    of_image: dict[bool, list[int]] = {True: [], False: []}
    for op in graph.ops:
        if isinstance(op, Requantise):
            of_image[len(graph.tensors[op.name].shape) > 1].append(op.format.width)
    assert max(of_image[False], default=0) <= max(q.activation_bits, GATE_BITS)
    if most := FIXED_STEPS.get(folder.name):
        assert max(of_image[True]) <= most
        return
    named = sorted(bits for bits in q.layer_bits.values() if bits > q.activation_bits)  # wider only where the recipe says so
    assert sorted(width for width in of_image[True] if width > q.activation_bits) == named
