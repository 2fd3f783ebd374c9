"""Latency of the float networks on this computer, through onnxruntime."""

import os
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from caloedge.artifact import Artifact
from caloedge.catalog import Task, find
from caloedge.training.stages import build_network

BATCHES = (1, 1024)
SECONDS = 2.0
"""How long each figure is measured."""


@dataclass(frozen=True)
class Timing:
    """One network at one batch size."""

    stage: str
    batch: int
    median_s: float
    """Per call."""
    low_s: float
    """16 % of the calls were faster."""
    high_s: float
    """84 % of the calls were faster."""
    calls: int
    threads: int


def float_timings(artifact: Artifact, threads: int = 1) -> tuple[Timing, ...]:
    """Measure the float networks of an artifact, published and edge, on random inputs."""
    import onnxruntime

    found = []
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    for stage in ("published", "edge"):
        shape = find(Task, artifact.recipe.task).shape_of(stage)
        network = build_network(artifact.recipe, stage, artifact.weights(stage))
        with TemporaryDirectory() as folder, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            path = Path(folder) / "network.onnx"
            torch.onnx.export(network, (torch.zeros(2, *shape),), str(path), dynamo=False, dynamic_axes={"input": {0: "N"}},
                              input_names=["input"], opset_version=17)  # fmt: skip
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
            found += [_time(session, stage, batch, shape, threads) for batch in BATCHES]
    return tuple(found)


def _time(session: "onnxruntime.InferenceSession", stage: str, batch: int, shape: tuple[int, ...], threads: int) -> Timing:  # type: ignore[name-defined]  # noqa: F821
    given = {"input": np.random.default_rng(1).random((batch, *shape), dtype=np.float32)}
    for _ in range(3):
        session.run(None, given)
    seconds = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        start = time.perf_counter()
        session.run(None, given)
        seconds.append(time.perf_counter() - start)
    low, median, high = np.quantile(seconds, (0.16, 0.5, 0.84))
    return Timing(stage, batch, float(median), float(low), float(high), len(seconds), threads)


def computer() -> str:
    """Return the processor's name, as far as the system tells."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else 'unknown processor'}, {os.cpu_count()} cores"
