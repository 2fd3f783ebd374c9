"""Output codes of an executor compared with those of vectors, one by one, and random input codes.

Nothing is compared with a tolerance: a check counts output codes that differ and says by how many least significant bits.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.artifact import Golden
from caloedge.compiler.graph import Graph, Inputs
from caloedge.compiler.ops import Nearest

RANDOM_VECTORS, RANDOM_IMAGES, IMAGE_SIZE = 10_000, 10, 1_000
"""Numbers of random events; `RANDOM_IMAGES` for inputs of more than `IMAGE_SIZE` numbers."""
Codes = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Check:
    """Comparison of one executor's output codes with those of the vectors."""

    executor: str
    vectors: int
    outputs: int
    """Number of output codes compared."""
    differing: int
    largest_lsb: int
    """Largest difference, in units of the output's least significant bit."""
    first_event: int | None
    """Index of the first event with a difference."""
    seconds: float
    flips: int = 0
    """Number of events in which the position of an output's largest code changes."""
    first_node: str = ""
    """First node whose result differs in that event, where it is known."""
    missing: str = ""
    """Why the executor could not run; empty when it ran."""
    refused: bool = False
    """Whether it does not support the network, rather than missing a tool."""
    misfit: str = ""
    """Why its codes could not be compared one by one: an output that is missing, or has another shape; then all differ."""
    codes: Mapping[str, NDArray[Any]] | None = field(default=None, compare=False, repr=False)
    """Its output codes, where they differ."""

    @property
    def exact(self) -> bool:
        """Whether the executor ran and no output code differed."""
        return not self.missing and self.differing == 0 and self.outputs > 0


def compare_codes(executor: str, golden: Mapping[str, NDArray[Any]], actual: Mapping[str, NDArray[Any]], seconds: float) -> Check:
    """Compare output codes element by element with `==`; a missing output or another shape is a `misfit`."""
    vectors = len(next(iter(golden.values())))
    total = differing = largest = 0
    first: int | None = None
    flipped = np.zeros(vectors, dtype=np.bool_)
    for name, expected in golden.items():
        total += expected.size
        codes = actual.get(name)
        if codes is None or codes.shape != expected.shape:
            everything = sum(codes.size for codes in golden.values())
            problem = "is missing" if codes is None else f"has the shape {codes.shape}, {expected.shape} expected"
            misfit = f"output {name!r} {problem}"
            return Check(executor, vectors, everything, everything, 0, None, seconds, misfit=misfit, codes=actual)
        difference = np.abs(codes.astype(np.int64) - expected)
        events = np.flatnonzero(difference.any(axis=tuple(range(1, difference.ndim))))
        differing += int(np.count_nonzero(difference))
        largest = max(largest, int(difference.max(initial=0)))
        if expected.size:
            flipped |= codes.reshape(vectors, -1).argmax(axis=1) != expected.reshape(vectors, -1).argmax(axis=1)
        if len(events):
            first = int(events[0]) if first is None else min(first, int(events[0]))
    flips, differs = int(flipped.sum()), actual if differing else None
    return Check(executor, vectors, total, differing, largest, first, seconds, flips, codes=differs)


def differing_codes_by_pair(checks: Sequence[Check]) -> dict[tuple[str, str], int]:
    """Return the number of differing output codes of every pair of executors that ran on the same vectors."""
    return {
        (a.executor, b.executor): compare_codes("", a.codes, b.codes, 0.0).differing
        if a.codes is not None and b.codes is not None
        else max(a.differing, b.differing)  # one has the expected codes, or both
        for a, b in itertools.combinations([check for check in checks if not check.missing], 2)
    }


def select_event(inputs: Inputs, number: int) -> Inputs:
    """Return one event of the vectors."""
    if isinstance(inputs, Mapping):
        return {name: codes[number : number + 1] for name, codes in inputs.items()}
    return inputs[number : number + 1]


def random_vectors(graph: Graph, n_events: int | None = None, seed: int = 20_261) -> Golden:
    """Return random input codes over the whole input format with the outputs of `Graph.run`."""
    size = sum(graph.tensors[op.name].size for op in graph.inputs)
    n_events = n_events or (RANDOM_IMAGES if size > IMAGE_SIZE else RANDOM_VECTORS)
    codes = random_codes(graph, n_events, seed)
    return Golden(codes, graph.run(codes))


def random_codes(graph: Graph, n_events: int, seed: int) -> Any:
    """Return random codes over the whole format of the only input, or by name of several; the extremes come first.

    Where an input is declared as whole numbers, only codes that one of them gives are drawn. Where the network searches for the
    nearest of N nodes, every second event has few places with several nodes each, and padding.
    """
    rng = np.random.default_rng(seed)
    codes = {}
    node_counts = {graph.tensors[op.inputs[0]].shape[0] for op in graph.ops if isinstance(op, Nearest)}
    for op in graph.inputs:
        low, high = graph.tensors[op.name].range
        codes[op.name] = rng.integers(low, high + 1, (n_events, *op.shape))
        if op.shape[0] in node_counts:
            codes[op.name][2::2] = np.clip(_clustered(codes[op.name][2::2], rng), low, high)
        codes[op.name][:1], codes[op.name][1:2] = low, high
    codes = graph.possible_inputs(codes)
    return codes if len(codes) > 1 else codes[graph.input.name]


def _clustered(codes_EN: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Return nodes (E, N, ...) that are equal, or nearly so, to one of a few, of which the last ones are padding: all 0.

    Among random codes hardly any two distances are equal, among hits of an event many are: what decides between equal ones would
    not be seen.
    """
    events, nodes = codes_EN.shape[:2]
    places = rng.integers(0, 3, (events, nodes)) % rng.integers(1, 4, (events, 1))
    few = codes_EN[np.arange(events)[:, None], np.minimum(places, nodes - 1)]
    near = few + rng.integers(-2, 3, few.shape) * rng.integers(0, 2, (events, *(1,) * (few.ndim - 1)))
    hits = np.arange(nodes) < rng.integers(0, nodes + 1, (events, 1))
    padded: NDArray[np.int64] = near * hits.reshape(events, nodes, *(1,) * (few.ndim - 2))
    return padded
