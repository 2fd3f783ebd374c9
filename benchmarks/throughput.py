"""Rates of every executor on the same windows, one thread, one run: `python benchmarks/throughput.py [MODEL]`.

Prints windows per second (median of repeats, with the spread) and the ratio to hls4ml C-simulation, and writes
reports/throughput.json. Builds the firmware projects first where they are missing.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy loads its BLAS

import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from caloedge.catalog import Backend, Target, Task, find
from caloedge.comparison import library_of
from caloedge.compiler.reader import read
from caloedge.files import write_text
from caloedge.pipeline import open_model, places
from caloedge.verification import build_if_needed, run_qonnx

REPEATS = 5
WINDOWS = {"window making": 40_000, "integer graph": 40_000, "QONNX executor": 1_000, "hls4ml": 500}


def rates(windows: int, action: Callable[[], object]) -> list[float]:
    """Return windows per second of each repeat, after one that warms up."""
    action()
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        action()
        found.append(windows / (time.perf_counter() - start))
    return found


def main(model: str) -> None:
    """Measure and print."""
    artifact = open_model(model)
    task, graph, library = find(Task, artifact.recipe.task), read(artifact.model), library_of(artifact)
    target, projects = find(Target, artifact.recipe.target), places(artifact.recipe, None).work / "projects"
    n_events = WINDOWS["window making"] // 8
    made = task.sample(library, "train", n_events, 0).inputs
    results = {"window making": rates(len(made), lambda: task.sample(library, "train", n_events, 0))}
    codes = graph.quantise_input(np.resize(made, (WINDOWS["integer graph"], *made.shape[1:])))
    results["integer graph"] = rates(len(codes), lambda: graph.run(codes))
    few = codes[: WINDOWS["QONNX executor"]]
    results["QONNX executor"] = rates(len(few), lambda: run_qonnx(artifact.model, graph, few))
    for name, variants in artifact.recipe.builds.items():
        for variant in variants:
            project = build_if_needed(name, graph, target, variant, projects)
            few = codes[: WINDOWS["hls4ml"]]
            backend = find(Backend, name)
            results[f"{name} C-simulation, {variant}"] = rates(len(few), lambda b=backend, p=project, c=few: b.emulate(p, c))
    slowest = statistics.median(results[list(results)[-1]])
    rows = {
        name: {
            "windows_per_s": round(statistics.median(values), 1),
            "lowest": round(min(values), 1),
            "highest": round(max(values), 1),
            "ratio_to_last": round(statistics.median(values) / slowest, 1),
        }
        for name, values in results.items()
    }
    for name, row in rows.items():
        print(
            f"{name:40s} {row['windows_per_s']:>12,.0f} windows/s  ({row['lowest']:,.0f} to {row['highest']:,.0f})"
            f"  {row['ratio_to_last']:>8,.1f} ×"
        )
    record = {
        "origin": "measured",
        "threads": 1,
        "repeats": REPEATS,
        "computer": f"{platform.machine()}, Python {platform.python_version()}, numpy {np.__version__}",
        "model": artifact.recipe.name,
        "rates": rows,
    }
    write_text(Path("reports/throughput.json"), json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "seed_finder")
