"""How many whole events per second the integer reconstruction does, and the parts of it: medians of several runs, in one run.

    python benchmarks/reconstruction.py                  # writes reports/reconstruction_rates.json
    python benchmarks/reconstruction.py --events 2000 --output -

Events are the test events of the report: one photon, two, or a π⁰, 51 × 51 crystals with noise. Both networks run in the C++
emulator on one thread; everything else is numpy. The same with the networks in numpy (`Graph.run`) stands beside it. Digitising
float energies is not part of it: a front end delivers codes.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy comes

import numpy as np
from numpy.typing import NDArray

from caloedge.backends.emulator.binding import Emulator
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import read
from caloedge.computer import computer
from caloedge.deepcluster import chain
from caloedge.deepcluster.chain import Chain, Run
from caloedge.deepcluster.report import blocks
from caloedge.evaluation.accuracy import EVALUATION_SEED, library_of
from caloedge.files import write_text
from caloedge.pipeline import open_model
from caloedge.project import FirmwareDesign
from caloedge.reconstruction import windowing

ROUNDS = 7
GOAL = 20_000


def run_of(graph: Graph, emulator: Emulator) -> Run:
    """Return what executes a network: codes in, codes of its only output out."""
    (output,) = graph.outputs
    return lambda codes: emulator.run(codes)[output.name]


def rate(count: int, run: Callable[[], Any]) -> dict[str, Any]:
    """Return how often per second `run`, which does `count` of them, gets one done."""
    run()
    seconds = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - start)
    rates = [count / one for one in seconds]
    return {"median": round(statistics.median(rates)), "lowest": round(min(rates)), "highest": round(max(rates))}


def measure(models: Chain, n_events: int, work: Path) -> dict[str, Any]:
    """Measure all rates on the same events."""
    cells = [block.crystals.cells_EXY for _, block in blocks(library_of(models.centres), "test", n_events, EVALUATION_SEED)]
    codes_EXY = np.concatenate([windowing.digitised(part) for part in cells])
    graphs = [read(artifact.model) for artifact in (models.seeds, models.centres)]
    projects = [
        FirmwareDesign("emulator", "native", artifact.recipe.target).project(graph, artifact.recipe, work / artifact.recipe.name)
        for artifact, graph in zip((models.seeds, models.centres), graphs, strict=True)
    ]
    seeds, centres = (run_of(graph, Emulator(folder)) for graph, folder in zip(graphs, projects, strict=True))
    fast, plain = models.integer(runs=(seeds, centres)), models.integer()
    found, same = chain.integer_photons(codes_EXY, fast), chain.integer_photons(codes_EXY, plain)
    for field in ("event_N", "position_N2", "energy_N", "score_N"):
        assert np.array_equal(getattr(found, field), getattr(same, field)), f"emulators and graphs differ in {field}"
    cut = windowing.extract(codes_EXY)
    score_W = seeds(cut.codes_WXY[:, None])[:, 0]
    kept = windowing.top_k(cut.event_W, cut.key, score_W, fast.seed_threshold)
    group = windowing.grouped(cut.event_W, cut.crystal_W2, kept)
    codes_MXY = cut.codes_WXY[group.window_M]
    features_MF: NDArray[Any] = windowing.features(codes_MXY, group).view(np.uint16)
    n = len(codes_EXY)
    rates = {
        "whole reconstruction, networks in the emulator": rate(n, lambda: chain.integer_photons(codes_EXY, fast)),
        "whole reconstruction, networks in numpy": rate(n, lambda: chain.integer_photons(codes_EXY, plain)),
        "windows": rate(n, lambda: windowing.extract(codes_EXY)),
        "seed finder, emulator": rate(n, lambda: seeds(cut.codes_WXY[:, None])),
        "best four": rate(n, lambda: windowing.top_k(cut.event_W, cut.key, score_W, fast.seed_threshold)),
        "groups": rate(n, lambda: windowing.grouped(cut.event_W, cut.crystal_W2, kept)),
        "features": rate(n, lambda: windowing.features(codes_MXY, group)),
        "center finder, emulator": rate(n, lambda: centres(features_MF)),
    }
    whole = rates["whole reconstruction, networks in the emulator"]["median"]
    return {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "computer": computer(),
        "threads": 1,
        "unit": "events/s; median, lowest and highest of the rounds",
        "rounds": ROUNDS,
        "events": n,
        "windows_per_event": round(len(cut.event_W) / n, 3),
        "photons_per_event": round(len(found.event_N) / n, 3),
        "models": {artifact.recipe.name: artifact.manifest.files["model.qonnx"] for artifact in (models.seeds, models.centres)},
        "rates": rates,
        "goal": {"events_per_second": GOAL, "reached": whole >= GOAL},
    }


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", default="seed_finder")
    parser.add_argument("--centres", default="center_finder")
    parser.add_argument("--events", type=int, default=10_000)
    parser.add_argument("--work", type=Path, default=Path("runs/deepcluster"))
    parser.add_argument("--output", default="reports/reconstruction_rates.json", help="a file, or - to print only")
    given = parser.parse_args()
    found = measure(Chain(open_model(given.seeds), open_model(given.centres)), given.events, given.work)
    text = json.dumps(found, indent=1, ensure_ascii=False) + "\n"
    if given.output != "-":
        write_text(Path(given.output), text)
    print(text)


if __name__ == "__main__":
    main()
