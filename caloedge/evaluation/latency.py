"""Latency of float networks on this computer, through onnxruntime and torch."""

import math
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import nn

from caloedge.artifact import Artifact
from caloedge.catalog import Task, find
from caloedge.training.stages import build_network

ONNXRUNTIME, TORCH = "onnxruntime", "torch"
BATCHES = (1, 1024)
IMAGE_BATCHES = (1, 16)
"""Batch sizes for inputs of more than `IMAGE_SIZE` numbers."""
IMAGE_SIZE = 1000
SECONDS = 2.0
"""Wall time for which each network and batch size is measured [s]."""
FEWEST_CALLS = 3
OPSET = 17


@dataclass(frozen=True)
class NetworkTiming:
    """Time per call of one network at one batch size."""

    stage: str
    batch: int
    median_s: float
    """Median time of a call [s]."""
    low_s: float
    """16 % quantile of the time of a call [s]."""
    high_s: float
    """84 % quantile of the time of a call [s]."""
    calls: int
    threads: int
    engine: str = ONNXRUNTIME
    device: str = "cpu"


def float_timings(artifact: Artifact, threads: int = 1) -> tuple[NetworkTiming, ...]:
    """Measure the float networks of an artifact, published and edge, on random inputs through onnxruntime."""
    timings: list[NetworkTiming] = []
    for stage in ("published", "edge"):
        shape = find(Task, artifact.recipe.task).shape_of(stage)
        network = build_network(artifact.recipe, stage, artifact.weights(stage))
        timings += network_timings(stage, network, shape, (ONNXRUNTIME,), threads)
    return tuple(timings)


def network_timings(
    name: str, network: nn.Module, shape: tuple[int, ...], engines: tuple[str, ...], threads: int, device: str = "cpu"
) -> list[NetworkTiming]:
    """Measure one network on random inputs of one shape; torch runs on `device`, onnxruntime on the CPU."""
    batches = IMAGE_BATCHES if math.prod(shape) > IMAGE_SIZE else BATCHES
    timings = []
    if ONNXRUNTIME in engines:
        run = _onnxruntime(network, shape, threads)
        timings += [_measure(run, name, batch, shape, threads, ONNXRUNTIME, "cpu") for batch in batches]
    if TORCH in engines:
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            run = _torch(network, device)
            timings += [_measure(run, name, batch, shape, threads, TORCH, device) for batch in batches]
        finally:
            torch.set_num_threads(before)
    return timings


def _onnxruntime(network: nn.Module, shape: tuple[int, ...], threads: int) -> Callable[[Any], Any]:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "network.onnx"
        torch.onnx.export(network, (torch.zeros(2, *shape),), str(path), dynamo=False, dynamic_axes={"input": {0: "N"}},
                          input_names=["input"], opset_version=OPSET)  # fmt: skip
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda inputs: session.run(None, {"input": inputs})


def _torch(network: nn.Module, device: str) -> Callable[[Any], Any]:
    network = network.eval().to(device)

    def run(inputs: Any) -> Any:
        with torch.inference_mode():
            return network(torch.from_numpy(inputs).to(device)).cpu()  # waits until the device is done

    return run


def _measure(
    run: Callable[[Any], Any], stage: str, batch: int, shape: tuple[int, ...], threads: int, engine: str, device: str
) -> NetworkTiming:
    inputs = np.random.default_rng(1).random((batch, *shape), dtype=np.float32)
    for _ in range(2):
        run(inputs)
    seconds: list[float] = []
    end = time.perf_counter() + SECONDS
    while time.perf_counter() < end or len(seconds) < FEWEST_CALLS:
        start = time.perf_counter()
        run(inputs)
        seconds.append(time.perf_counter() - start)
    low, median, high = np.quantile(seconds, (0.16, 0.5, 0.84))
    return NetworkTiming(stage, batch, float(median), float(low), float(high), len(seconds), threads, engine, device)
