"""Random QONNX files through every executor; `python tests/support/every_executor.py 330` writes reports/random_graphs.json.

With `--continue` it goes on after the files that the record holds already.

Each file of `random_qonnx` is compiled; on random events the integer graph must equal the QONNX executor, the emulator and, up
to a number of files each, every other backend that takes it. The tests call `prove` with fewer files.
"""

import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import random_qonnx
from numpy.typing import NDArray

from caloedge.backends.emulator import project as emulator
from caloedge.catalog import Backend, Target, find
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import read
from caloedge.errors import MissingTool, Unsupported, UserError

FIRMWARE = (("hls4ml", "io_parallel"), ("hls4ml", "io_stream"), ("rtl", "unrolled"), ("rtl", "streaming"))
EVENTS = 40
QUICK = "-O1"
"""Optimisation of the emulator here: compiling takes longer than running so few events."""
RESULT = Path(__file__).parents[2] / "reports" / "random_graphs.json"


def equal(wanted: dict[str, NDArray[np.int64]], found: dict[str, NDArray[np.int64]]) -> bool:
    return list(wanted) == list(found) and all(np.array_equal(wanted[name], found[name]) for name in wanted)


def prove(
    seeds: Iterable[int], firmware: int, progress: bool = False, before: Counter[str] | None = None
) -> tuple[Counter[str], list[str]]:
    """Return how many files each executor ran, and what differed; at most `firmware` files go to each firmware backend."""
    ran: Counter[str] = Counter(before)
    wrong: list[str] = []
    start = time.perf_counter()
    for seed in seeds:
        with tempfile.TemporaryDirectory() as folder:
            one(seed, Path(folder), ran, wrong, firmware)
        if progress and ran["files"] % 10 == 0:
            print(f"{ran['files']} files, {time.perf_counter() - start:.0f} s, {dict(ran)}, wrong: {wrong}", flush=True)  # noqa: T201
    return ran, wrong


def one(seed: int, folder: Path, ran: Counter[str], wrong: list[str], firmware: int) -> None:
    path = folder / "random.onnx"
    onnx.save(random_qonnx.seeded(seed).model, path)
    ran["files"] += 1
    try:
        graph = read(path)
    except Unsupported:
        ran["refused"] += 1
        return
    ran.update({f"graphs with {kind}" for kind in {type(op).__name__ for op in graph.ops}})
    reals = random_qonnx.stimulus(graph, seed, EVENTS)
    compared = random_qonnx.compare(path, graph, reals)
    ran["QONNX executor"] += 1
    if not (compared.agree | compared.doubtful).all():
        wrong.append(f"seed {seed}: QONNX executor")
    codes = graph.quantise_inputs(reals)
    wanted = graph.run(codes)
    target = find(Target, "xcvu13p")
    emulator.build(graph, target, "native", folder / "emulator", {}, optimisation=QUICK)
    ran["emulator native"] += 1
    if not equal(wanted, find(Backend, "emulator").emulate(folder / "emulator", codes)):
        wrong.append(f"seed {seed}: emulator")
    for name, variant in FIRMWARE:
        if ran[f"{name} {variant}"] < firmware:
            check_firmware(seed, graph, codes, folder, (name, variant), ran, wrong)


def check_firmware(
    seed: int,
    graph: Graph,
    codes: dict[str, NDArray[np.int64]],
    folder: Path,
    design: tuple[str, str],
    ran: Counter[str],
    wrong: list[str],
) -> None:
    name, variant = design
    backend = find(Backend, name)
    try:
        backend.build(graph, find(Target, "xcvu13p"), variant, folder / f"{name}_{variant}", {})
    except (Unsupported, MissingTool):
        ran[f"{name} {variant} refused"] += 1
        return
    except UserError as problem:
        wrong.append(f"seed {seed}: {name} {variant} was taken but not built: {problem}")
        return
    ran[f"{name} {variant}"] += 1
    given = codes if len(codes) > 1 else next(iter(codes.values()))
    if not equal(graph.run(codes), backend.emulate(folder / f"{name}_{variant}", given)):
        wrong.append(f"seed {seed}: {name} {variant}")


def main(files: int, go_on: bool) -> None:
    there = json.loads(RESULT.read_text(encoding="utf-8")) if go_on else {"differing": [], "files": {}}
    seeds = range(there["files"].get("files", 0), files)
    ran, wrong = prove(seeds, max(10, files // 20), progress=True, before=Counter(there["files"]))
    wrong = [*there["differing"], *wrong]
    record = {"origin": "computed", "events_per_file": EVENTS, "differing": wrong, "files": dict(sorted(ran.items()))}
    RESULT.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main(int(sys.argv[1]), "--continue" in sys.argv)
