"""How an event's results leave through one port: beats of words of one width, and where in them each output lies."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caloedge.backends.rtl.node_stream.patterns import cluster_source
from caloedge.backends.rtl.node_stream.plan import Plan
from caloedge.backends.rtl.node_stream.words import Words
from caloedge.compiler.fixed import Format

LOOK_UP_BEATS = 4
"""Beats in which clusters leave, unless nodes do as well: each cluster of a beat costs a small memory of all nodes' words."""


@dataclass(frozen=True, eq=False)
class Layout:
    """The output port. A beat is the words of `par` nodes, then those of `slots` clusters, then the status."""

    beats: int
    format: Format
    """Format of every word, which holds those of all outputs."""
    node_words: Words
    """Words of each node, output after output."""
    slots: int
    """Clusters of a beat."""
    indices: bool
    """Whether a cluster begins with its index."""
    taken: tuple[str, ...]
    """Operations whose words follow it, for each cluster."""
    taken_words: Words
    """Words of each cluster, from its node."""
    status: bool
    """Whether a beat ends with the number of clusters and the mark of an overflow."""
    places: Mapping[str, NDArray[np.int64]]
    """Word of the whole stream that each element of an output is, by output."""
    words: int
    """Words of a beat."""


def layout(plan: Plan) -> Layout:
    """Lay out the outputs of a plan."""
    network, graph, clusters = plan.network, plan.network.graph, plan.clusters
    sources = {op.name: cluster_source(op, graph) for op in plan.cluster_outputs}
    chosen = clusters.chosen if clusters else {}
    indices = any(chosen.get(name) == "indices" for name in sources.values())
    status = any(chosen.get(name) == "status" for name in sources.values())
    taken = tuple(dict.fromkeys(name for name in sources.values() if name not in chosen))
    node_words = tuple(word for op in plan.node_outputs for word in network.words[op.name])
    taken_words = tuple(word for name in taken for word in clusters.taken[name]) if clusters else ()
    most = clusters.condense.most if clusters and plan.cluster_outputs else 0
    slots = -(-most // min(plan.beats, LOOK_UP_BEATS if not node_words else plan.beats))
    beats = plan.beats if node_words or not slots else -(-most // slots)
    cluster_words = int(indices) + len(taken_words)
    first_cluster = plan.par * len(node_words)
    first_status = first_cluster + slots * cluster_words
    words = first_status + 2 * int(status)
    places: dict[str, NDArray[np.int64]] = {}
    first = 0
    for op in plan.node_outputs:
        count = len(network.words[op.name])
        beat, lane = np.divmod(np.arange(network.nodes), plan.par)
        places[op.name] = ((beat * words + lane * len(node_words) + first)[:, None] + np.arange(count)).reshape(-1)
        first += count
    beat, slot = np.divmod(np.arange(most), max(slots, 1))
    cluster = beat * words + first_cluster + slot * cluster_words
    for name, source in sources.items():
        if source not in chosen:
            assert clusters
            before = int(indices) + sum(len(clusters.taken[other]) for other in taken[: taken.index(source)])
            places[name] = (cluster[:, None] + before + np.arange(len(clusters.taken[source]))).reshape(-1)
        else:
            places[name] = cluster if chosen[source] == "indices" else np.arange(2) + (beats - 1) * words + first_status
    fmt = _holding([graph.tensors[op.name].format for op in graph.outputs])
    return Layout(beats, fmt, node_words, slots, indices, taken, taken_words, status, places, words)


def _holding(formats: list[Format]) -> Format:
    """Return a format that holds the codes of all."""
    signed = any(fmt.signed for fmt in formats)
    fractions = {fmt.fraction for fmt in formats}
    width = max(fmt.width + int(signed and not fmt.signed) for fmt in formats)
    return Format(signed, width, fractions.pop() if len(fractions) == 1 else 0)


def index_bits(nodes: int) -> int:
    """Return the bits of a node's number."""
    return max(math.ceil(math.log2(nodes)), 1)
