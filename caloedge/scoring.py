"""Scores of an integer network and of the classical baseline, which need no torch."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.catalog import Sample, Task
from caloedge.compiler.graph import Graph


def integer_scores(
    graph: Graph, task: Task, sample: Sample[Any], run: Callable[[NDArray[Any]], Mapping[str, NDArray[Any]]] | None = None
) -> NDArray[Any]:
    """Return the scores of an integer network, from its graph's codes or those of another executor."""
    codes = (run or graph.run)(graph.quantise_input(sample.inputs))
    (scores,) = (graph.output_values(codes) if task.physical else codes).values()
    return per_input(scores)


def per_input(outputs: NDArray[Any]) -> NDArray[Any]:
    """Return images as they are, and the scores of vectors (N,) where there is one output."""
    if outputs.ndim > 2:
        return outputs.astype(np.float32)
    return (outputs[:, 0] if outputs.shape[1] == 1 else outputs).astype(np.float64)
