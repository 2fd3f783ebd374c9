"""Rates of every executor of graph networks on the same events, one thread, one run: `python benchmarks/graphs.py [MODEL ...]`.

Prints events per CPU second (median of repeats, with the spread) and the ratio to the float file in onnxruntime, and what memory
the integer graph takes for many events; writes reports/graph_rates.json. MODEL is an artifact, its name, or a QONNX file.
The float file is the same network without its quantisers.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy loads its BLAS

import json
import multiprocessing
import platform
import resource
import statistics
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from caloedge.backends.emulator.binding import Emulator
from caloedge.catalog import Backend, Target, find
from caloedge.cli.terminal import model_file
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import read
from caloedge.computer import computer
from caloedge.files import write_text
from caloedge.verification.codes import random_codes
from caloedge.verification.executors import run_qonnx
from caloedge.verification.qonnx_executor import execute_stock, input_names

REPEATS = 3
EVENTS = {"integer graph": 2_000, "emulator": 20_000, "onnxruntime, float file": 500, "QONNX executor": 100}
STOCK = "qonnx package, one event per call"
STOCK_EVENTS, BATCH = 2, 100
REFERENCE = "onnxruntime, float file"
MANY = 100_000
"""Events for which memory is measured."""
TARGET = "xcvu13p"
"""The emulator is the same for every device."""


def rates(events: int, action: Callable[[], object]) -> dict[str, float]:
    """Return events per CPU second over the repeats, after one that warms up: other work on the computer counts little."""
    action()
    found = []
    for _ in range(REPEATS):
        start = time.process_time()
        action()
        found.append(events / (time.process_time() - start))
    return {"per_cpu_s": round(statistics.median(found), 1), "lowest": round(min(found), 1), "highest": round(max(found), 1)}


def float_file(path: Path, folder: Path) -> Path:
    """Write the network of a QONNX file without its quantisers."""
    model = onnx.load(path)
    for node in model.graph.node:
        if node.op_type == "Quant":
            identity = onnx.helper.make_node("Identity", node.input[:1], node.output, node.name)
            node.CopyFrom(identity)
    kept = [item for item in model.opset_import if item.domain == ""]
    del model.opset_import[:]
    model.opset_import.extend(kept)
    onnx.save(model, folder / "float.onnx")
    return folder / "float.onnx"


def measure(path: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Return rates by executor; those of the integer network must give the same codes."""
    graph = read(path)
    codes = random_codes(graph, max(EVENTS.values()), seed=1)
    some = {name: codes[:number] for name, number in EVENTS.items()}
    values = graph.input_values(some[REFERENCE])[graph.input.name].astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3  # it remarks on every constant that only a quantiser read
    session = onnxruntime.InferenceSession(float_file(path, folder), options, providers=["CPUExecutionProvider"])
    (name,) = input_names(path)
    batches = [values[start : start + BATCH] for start in range(0, len(values), BATCH)]
    rows = {
        REFERENCE: rates(len(values), lambda: [session.run(None, {name: batch}) for batch in batches]),
        "integer graph": rates(EVENTS["integer graph"], lambda: graph.run(some["integer graph"])),
        "QONNX executor": rates(EVENTS["QONNX executor"], lambda: run_qonnx(path, graph, some["QONNX executor"])),
        STOCK: rates(STOCK_EVENTS, lambda: execute_stock(path, {name: values[:STOCK_EVENTS]}, events_per_call=1)),
    }
    find(Backend, "emulator").build(graph, find(Target, TARGET), "native", folder / "emulator", {})
    narrow = some["emulator"].astype(np.int16)
    with Emulator(folder / "emulator", threads=1) as emulator:
        rows["emulator native"] = rates(len(narrow), lambda: emulator.run(narrow))
        compare(graph, emulator, some["integer graph"])
    for row in rows.values():
        row["ratio"] = round(row["per_cpu_s"] / rows[REFERENCE]["per_cpu_s"], 2)
    return rows


def compare(graph: Graph, emulator: Emulator, codes: NDArray[Any]) -> None:
    """Refuse rates of different codes."""
    wanted = graph.run(codes)
    for name, found in emulator.run(codes).items():
        assert np.array_equal(found, wanted[name]), name


def memory(path: Path) -> dict[str, float]:
    """Return megabytes that the integer graph takes for many events beside their codes, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_memory, (path,))


def _memory(path: Path) -> dict[str, float]:
    graph = read(path)
    codes = random_codes(graph, 1_000, seed=1).astype(np.int16)
    graph.run(codes)
    few = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    many = np.resize(codes, (MANY, *codes.shape[1:]))
    results = graph.run(many)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    given = many.nbytes + sum(array.nbytes for array in results.values())
    return {
        "events": MANY,
        "peak_mb": round(peak / 1024),
        "codes_mb": round(given / 2**20),
        "of_1000_events_mb": round(few / 1024),
    }


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
    warnings.filterwarnings("ignore", module="qonnx")  # it infers other shapes for what is gathered than it then gets
    for model in models:
        path = model_file(model)
        with tempfile.TemporaryDirectory() as folder:
            rows = measure(path, Path(folder))
        used = memory(path)
        record["models"][model] = {"rates": rows, "memory": used}
        for name, row in rows.items():
            spread = f"({row['lowest']:,.0f} to {row['highest']:,.0f})"
            print(f"{model}, {name:34s} {row['per_cpu_s']:>12,.0f} events/CPU s  {spread:24s} {row['ratio']:>8,.1f} ×")
        print(f"{model}, integer graph, {MANY:,} events: {used['peak_mb']:,} MB, of which {used['codes_mb']:,} MB are codes")
    write_text(Path("reports/graph_rates.json"), json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:] or ["clustering_cells"])
