"""What firmware does with the nodes of a graph network: it chooses the clusters, in integers, behind the network's own output."""

import math

import numpy as np

from caloedge.catalog import Condensation
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Condense, Op, Output, Rearrange, Reshape, Take
from caloedge.errors import Unsupported

CLUSTERS, INDICES, STATUS = "clusters", "cluster_indices", "cluster_status"
"""Outputs: the nodes (M, F) of the clusters, which nodes (M,) they are (−1 for none), and (number, 1 if there were more)."""


def with_clusters(graph: Graph, condensation: Condensation, threshold: float, apart: float) -> Graph:
    """Return the network with clusters chosen from its only output (N, F), at a threshold of the score and a distance.

    Both are values in the output's unit; a code reaches the threshold where its value does. A node is a hit where its code of the
    input's column `valid` is above 0.
    """
    (output,) = graph.outputs
    nodes = graph.tensors[output.inputs[0]]
    if len(nodes.shape) != 2 or output.scale is not None or graph.input.shape[:1] != nodes.shape[:1]:
        raise Unsupported(f"output {output.name}: clusters are chosen from nodes (N, F) on a grid of powers of two")
    columns = {
        "score": (output.inputs[0], nodes.shape, [condensation.score]),
        "place": (output.inputs[0], nodes.shape, list(condensation.coordinates)),
        "hit": (graph.input.name, graph.input.shape, [condensation.valid]),
    }
    sliced: list[Op] = []
    for name, (source, shape, chosen) in columns.items():
        index = np.arange(np.prod(shape)).reshape(shape)[:, chosen]
        sliced.append(Rearrange(f"{name}_of_node", (source,), index, kind="slice"))
    vectors = [Reshape(name, (f"{name}_of_node",), (nodes.shape[0],)) for name in ("score", "hit")]
    read = ("score", "place_of_node", "hit")
    low, high = nodes.range
    code = min(max(math.ceil(threshold * 2.0**nodes.format.fraction), low), high + 1)
    steps = max(1, math.ceil(apart * 2.0**nodes.format.fraction))
    return Graph(
        (
            *graph.ops,
            *sliced,
            *vectors,
            Condense("points", read, code, steps, condensation.most, "indices"),
            Condense("number", read, code, steps, condensation.most, "status"),
            Take("chosen", (output.inputs[0], "points")),
            Output(CLUSTERS, ("chosen",)),
            Output(INDICES, ("points",)),
            Output(STATUS, ("number",)),
        ),
        graph.name,
    )
