"""Graph layers of one event in plain loops: what the parts for node streams must do; and events that are hard for them.

A node is {hit, coordinates}; distances are sums of |differences| of codes.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import exp

from hls.tests.words import pack


@dataclass(frozen=True)
class Node:
    """One node of an event; padding has no hit, but may have any numbers."""

    hit: bool
    coordinates: list[int]
    score: int = 0
    features: list[int] | None = None


def distance(one: Sequence[int], other: Sequence[int]) -> int:
    total = 0
    for a, b in zip(one, other, strict=True):
        total += a - b if a > b else b - a
    return total


def nearest(event: Sequence[Node], index: int, k: int, reach: int) -> list[tuple[int, int]]:
    """Return the k smallest (distance, index), in ascending order."""
    keys = []
    for other, node in enumerate(event):
        if other == index or not node.hit:
            keys.append((reach, other))
        else:
            keys.append((min(reach, distance(event[index].coordinates, node.coordinates)), other))
    return sorted(keys)[:k]


def requantised(value: int, shift: int, bits: int) -> int:
    """Divide by 2 ** shift, round half to even, clip to a signed word."""
    return min(max(round(Fraction(value) / Fraction(2) ** shift), -(1 << (bits - 1))), (1 << (bits - 1)) - 1)


def gravnet(
    event: Sequence[Node], index: int, k: int, weights: Sequence[int], message: tuple[int, int], mean: tuple[int, int]
) -> tuple[list[int], list[int]]:
    """Return mean and maximum of the weighted features of the k nearest; `message` and `mean` are shift and bits."""
    means, largest = [], []
    chosen = nearest(event, index, k, len(weights) - 1)
    for feature in range(len(event[index].features or [])):
        messages = []
        for how_far, other in chosen:
            features = event[other].features
            assert features is not None
            messages.append(requantised(weights[how_far] * features[feature], *message))
        means.append(requantised(sum(messages), *mean))
        largest.append(max(messages))
    return means, largest


def condense(event: Sequence[Node], threshold: int, apart: int, most: int) -> tuple[list[int], bool]:
    """Return the indices in the order in which they are picked, and whether a candidate is left."""
    alive = [node.hit and node.score >= threshold for node in event]
    picked: list[int] = []
    while any(alive) and len(picked) < most:
        best = -1
        for index, node in enumerate(event):
            if alive[index] and (best < 0 or node.score > event[best].score):
                best = index
        picked.append(best)
        for index, node in enumerate(event):
            if index == best or distance(node.coordinates, event[best].coordinates) < apart:
                alive[index] = False
    return picked, any(alive)


def exponential(reach: int) -> list[int]:
    """Return exp(-10 d) in steps of 2 ** -7 for the distances 0 to `reach` in steps of 2 ** -6; 0 at `reach`.

    >>> exponential(36)[:4], exponential(36)[-2:]
    ([128, 109, 94, 80], [1, 0])
    """
    return [round(128 * exp(-10 * step / 64)) for step in range(reach)] + [0]


Codes = Callable[[random.Random], int]


def codes(bits: int, steps: Sequence[int]) -> list[Codes]:
    """Return ways to draw codes: few ones, so that many are equal, some that differ by given steps, the ends, all."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    few = [min(max(step, low), high) for step in (0, *steps, *(-step for step in steps))]
    return [
        lambda _: few[0],
        lambda rng: rng.choice((0, -1)),
        lambda rng: rng.choice(few),
        lambda rng: rng.choice((low, high)),
        lambda rng: min(max(round(rng.gauss(0, high / 12)), low), high),
        lambda rng: rng.randint(low, high),
    ]


def hits(nodes: int, count: int, rng: random.Random) -> list[bool]:
    """Return which nodes are hits: the first ones, or any."""
    first = [index < count for index in range(nodes)]
    return first if rng.random() < 0.6 else rng.sample(first, nodes)


def node_word(node: Node, bits: int) -> int:
    """Return the word {hit, coordinates}."""
    return pack(node.coordinates, bits) + (int(node.hit) << (len(node.coordinates) * bits))
