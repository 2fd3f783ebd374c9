"""Rates of image tasks on one thread, one run: `python benchmarks/images.py`.

Prints events per second (median of repeats, with the spread) of making training events and of the classical baseline, and the
ratio to 200 per second, which training needs; writes reports/image_rates.json.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy loads its BLAS

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from caloedge.catalog import Task, find
from caloedge.computer import computer
from caloedge.files import write_text

REPEATS = 5
EVENTS = 400
WANTED = 200.0
TASKS = {"pf_energy": "qcd_jets"}


def rate(action: Callable[[], object]) -> dict[str, float]:
    """Return events per second over the repeats, after one that warms up."""
    action()
    found = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        action()
        found.append(EVENTS / (time.perf_counter() - start))
    return {"per_s": round(statistics.median(found), 1), "lowest": round(min(found), 1), "highest": round(max(found), 1)}


def main() -> None:
    """Measure every image task."""
    results: dict[str, dict[str, dict[str, float]]] = {}
    for name, source in TASKS.items():
        task = find(Task, name)
        library = task.open(source)
        sample = task.sample(library, "valid", EVENTS, 1)
        results[name] = {
            "making training events": rate(lambda task=task, library=library: task.sample(library, "train", EVENTS, 2)),  # type: ignore[misc]
            "classical baseline": rate(lambda task=task, sample=sample: task.baseline(sample)),  # type: ignore[misc]
        }
        for what, found in results[name].items():
            print(f"{name}, {what}: {found['per_s']:,.0f} events/s ({found['per_s'] / WANTED:.1f} times {WANTED:g})")
    made = {"computer": computer(), "threads": 1, "events": EVENTS, "unit": "events/s", "origin": "measured", "rates": results}
    write_text(Path("reports") / "image_rates.json", json.dumps(made, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
