"""Rates of every executor on the same inputs, one thread, one run: `python benchmarks/throughput.py [MODEL ...]`.

Prints inputs per second (median of repeats, with the spread) and the ratio to hls4ml C-simulation (io_parallel), and what
building each firmware simulation takes; writes reports/throughput.json. All projects are built anew, in a temporary folder.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy loads its BLAS

import json
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.backends.emulator.binding import Emulator
from caloedge.catalog import Backend, Task, find
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import read
from caloedge.computer import computer
from caloedge.evaluation.accuracy import library_of
from caloedge.files import write_text
from caloedge.pipeline import open_model
from caloedge.project import FirmwareDesign, designs, read_record
from caloedge.recipe import Recipe
from caloedge.verification.executors import run_qonnx
from caloedge.verification.qonnx_executor import execute_stock, input_names

REPEATS = 5
INPUTS = {
    "making inputs": 40_000,
    "integer graph": 40_000,
    "emulator": 400_000,
    "QONNX executor": 1_000,
    "qonnx package, one event per call": 20,
    "hls4ml": 500,
    "rtl": 4_000,
}
REFERENCE = "hls4ml io_parallel"
STOCK = "qonnx package, one event per call"


def rates(inputs: int, action: Callable[[], object]) -> dict[str, float]:
    """Return inputs per second over the repeats, after one that warms up."""
    action()
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        action()
        found.append(inputs / (time.perf_counter() - start))
    return {"per_s": round(statistics.median(found), 1), "lowest": round(min(found), 1), "highest": round(max(found), 1)}


def measure(model: str) -> dict[str, dict[str, Any]]:
    """Return rates, and for firmware the seconds to build, by executor."""
    artifact = open_model(model)
    task, graph, library = find(Task, artifact.recipe.task), read(artifact.model), library_of(artifact)
    n_events = INPUTS["making inputs"] // 8
    made = task.sample(library, "train", n_events, 0).inputs
    rows: dict[str, dict[str, Any]] = {"making inputs": rates(len(made), lambda: task.sample(library, "train", n_events, 0))}
    codes = graph.quantise_input(np.resize(made, (INPUTS["integer graph"], *made.shape[1:])))
    rows["integer graph"] = rates(len(codes), lambda: graph.run(codes))
    few = codes[: INPUTS["QONNX executor"]]
    rows["QONNX executor"] = rates(len(few), lambda: run_qonnx(artifact.model, graph, few))
    single = {input_names(artifact.model)[0]: graph.input_values(codes)[graph.input.name][: INPUTS[STOCK]]}
    rows[STOCK] = rates(INPUTS[STOCK], lambda: execute_stock(artifact.model, single, events_per_call=1))
    with tempfile.TemporaryDirectory() as folder:
        for variant in find(Backend, "emulator").variants:
            rows |= measure_emulator(graph, artifact.recipe, variant, codes, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        for design in designs(artifact.recipe):
            if design.target != artifact.recipe.target or design.backend == "emulator":
                continue
            start = time.perf_counter()
            project = design.project(graph, artifact.recipe, Path(folder))
            seconds = time.perf_counter() - start
            some = codes[: INPUTS[design.backend]]
            emulate = find(Backend, design.backend).emulate
            name = f"{design.backend} {design.variant}"
            rows[name] = rates(len(some), lambda e=emulate, p=project, c=some: e(p, c)) | {"build_s": round(seconds, 1)}
    for row in rows.values():
        row["ratio"] = round(row["per_s"] / rows[REFERENCE]["per_s"], 2)
    return rows


def measure_emulator(graph: Graph, recipe: Recipe, variant: str, codes: NDArray[Any], folder: Path) -> dict[str, dict[str, Any]]:
    """Return the rates of the C++ emulator on one thread, for codes of 64 bits and of the narrowest type."""
    start = time.perf_counter()
    project = FirmwareDesign("emulator", variant, recipe.target).project(graph, recipe, folder)
    seconds = time.perf_counter() - start
    many = np.resize(codes, (INPUTS["emulator"], *codes.shape[1:]))
    narrow = many.astype(read_record(project)["inputs"][0]["type"].removesuffix("_t"))
    rows = {}
    with Emulator(project, threads=1) as emulator:
        for array in (narrow, many):
            for name, wanted in graph.run(codes).items():
                assert np.array_equal(emulator.run(array[: len(codes)])[name], wanted)
            rows[f"emulator {variant}, {array.dtype} codes"] = rates(len(array), lambda a=array: emulator.run(a)) | {
                "build_s": round(seconds, 1)
            }
    return rows


def main(models: list[str]) -> None:
    """Measure and print."""
    record: dict[str, Any] = {
        "origin": "measured",
        "threads": 1,
        "repeats": REPEATS,
        "ratio_to": REFERENCE,
        "computer": f"{computer()}; Python {platform.python_version()}, numpy {np.__version__}",
        "models": {},
    }
    for model in models:
        rows = record["models"][model] = measure(model)
        for name, row in rows.items():
            built = f"  built in {row['build_s']:,.0f} s" if "build_s" in row else ""
            spread = f"({row['lowest']:,.0f} to {row['highest']:,.0f})"
            print(f"{model}, {name:34s} {row['per_s']:>12,.0f} inputs/s  {spread:24s} {row['ratio']:>8,.1f} ×{built}")
    write_text(Path("reports/throughput.json"), json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or ["seed_finder", "shower_shape"])
