"""From noise to numbers along a learnt velocity (flow matching, arXiv 2210.02747): time 0 is noise, time 1 a shower.

Axes: N shower, C number.
"""

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

Velocity = Callable[[NDArray[Any], float], NDArray[Any]]
"""(numbers (N, C), time) -> their velocity (N, C)."""
SOLVERS = ("euler", "heun")


def integrate(velocity: Velocity, noise: NDArray[Any], steps: int, solver: str) -> NDArray[Any]:
    """Return the numbers (N, C) that noise (N, C) becomes.

    Heun's method takes two evaluations per step but for the last, which is Euler's: at time 1 no velocity is learnt.

    >>> integrate(lambda x, t: np.full_like(x, 2 * t), np.zeros((1, 1)), 100, "heun").round(2).tolist()
    [[1.0]]
    """
    assert solver in SOLVERS
    times = np.linspace(0, 1, steps + 1)
    x = noise
    for start, end in pairwise(times):
        first = velocity(x, float(start))
        if solver == "euler" or end == times[-1]:
            x = x + (end - start) * first
        else:
            second = velocity(x + (end - start) * first, float(end))
            x = x + (end - start) / 2 * (first + second)
    return np.asarray(x)


def evaluations(steps: int, solver: str) -> int:
    """Return how often the network is evaluated per shower.

    >>> evaluations(4, "heun"), evaluations(4, "euler"), evaluations(1, "heun")
    (7, 4, 1)
    """
    return steps if solver == "euler" else 2 * steps - 1
