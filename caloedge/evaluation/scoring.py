"""Scores of every method on a sample; those of an integer network and of the classical baseline need no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from caloedge.artifact import Artifact
from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE, Sample, Task
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import read
from caloedge.progress import progress

if TYPE_CHECKING:
    from torch import nn


def integer_scores(
    graph: Graph, task: Task, sample: Sample[Any], run: Callable[[NDArray[Any]], Mapping[str, NDArray[Any]]] | None = None
) -> NDArray[Any]:
    """Return the scores of an integer network, computed from the output codes of its graph or of the executor `run`."""
    codes = (run or graph.run)(graph.quantise_input(sample.inputs))
    (scores,) = (graph.output_values(codes) if task.physical else codes).values()
    return per_input(scores)


def per_input(outputs: NDArray[Any]) -> NDArray[Any]:
    """Return images (N, C, H, W) as they are, vectors (N, outputs) as scores, which are (N,) for one output."""
    if outputs.ndim > 2:
        return outputs.astype(np.float32)
    return (outputs[:, 0] if outputs.shape[1] == 1 else outputs).astype(np.float64)


def score_methods(artifact: Artifact, task: Task, sample: Sample[Any]) -> dict[str, NDArray[Any]]:
    """Return each method's scores on a sample: logits for float networks, output codes for the integer network.

    For a task whose outputs are physical, all scores are physical values. Scores are (N,) for a network of one output,
    (N, outputs) for one of several, and (N, C, H, W) for images.
    """
    from caloedge.training.stages import build_network

    scores_by_method: dict[str, NDArray[Any]] = {}
    with progress(f"score {len(sample.inputs):,} inputs", 4) as advance:
        for method, stage in ((REFERENCE, "published"), (FLOAT, "edge")):
            network = build_network(artifact.recipe, stage, artifact.weights(stage))
            scores_by_method[method] = float_scores(network, sample, stage)
            advance(1)
        scores_by_method[INTEGER] = integer_scores(read(artifact.model), task, sample)
        advance(1)
        scores_by_method[BASELINE] = task.baseline(sample)
        advance(1)
    return scores_by_method


def float_scores(network: nn.Module, sample: Sample[Any], stage: str) -> NDArray[Any]:
    """Return the scores of a float network."""
    import torch

    from caloedge.training.fit import predict

    return per_input(predict(network.eval(), torch.from_numpy(sample.inputs_of(stage))).numpy())
