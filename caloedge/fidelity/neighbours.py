"""Nearest neighbours: precision and recall of a generator, and whether its showers are copies of those it was trained on.

Axes: N and M showers of two samples, C cell, O orbit.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.fidelity.layout import Layout
from caloedge.fidelity.showers import Showers
from caloedge.metrics import bootstrap
from caloedge.metrics.claims import ComparedFigure

NEIGHBOURS = 5
MOST_SHOWERS = 2000
"""Showers of each sample whose cells are compared in pairs."""
FAR_NEIGHBOUR = 5
"""The nearest training shower is compared with the one of this rank, so that four turned copies of one shower hide nothing."""
SHARE = 0.05
"""Share of held-out showers below the distance that is called near."""


@dataclass(frozen=True)
class Coverage:
    """Precision and recall (Kynkäänniemi et al., arXiv 1904.06991), density and coverage (Naeem et al., arXiv 2002.09797)."""

    precision: float
    """Share of other showers within the sphere of a reference shower that reaches to its fifth neighbour."""
    recall: float
    """Share of reference showers within such a sphere of another shower."""
    density: float
    """Reference spheres that hold another shower over the five expected, 1 for equal samples, not limited by it."""
    coverage: float
    """Share of reference showers whose sphere holds another shower."""
    n: int
    """Showers of each sample."""


def coverage(reference: Showers, other: Showers, lowest_mev: float) -> Coverage:
    """Compare cells as the CaloChallenge does: logarithms of energies over the threshold, empty ones as a tenth of it."""
    from sklearn.metrics import pairwise_distances
    from sklearn.neighbors import NearestNeighbors

    n = min(len(reference), len(other), MOST_SHOWERS)
    x, y = (np.log10(np.maximum(s.cells_mev[:n] / lowest_mev, 0.1)).astype(np.float32) for s in (reference, other))
    radii = [NearestNeighbors(n_neighbors=NEIGHBOURS, algorithm="brute").fit(s).kneighbors()[0][:, -1] for s in (x, y)]
    distance_NM = pairwise_distances(x, y)
    inside_reference, inside_other = distance_NM < radii[0][:, None], distance_NM < radii[1]
    return Coverage(
        precision=float(inside_reference.any(axis=0).mean()),
        recall=float(inside_other.any(axis=1).mean()),
        density=float(inside_reference.sum(axis=0).mean() / NEIGHBOURS),
        coverage=float(inside_reference.any(axis=1).mean()),
        n=n,
    )


@dataclass(frozen=True)
class Nearness:
    """How much nearer the nearest training shower is than the fifth: about 1 for independent showers, about 0 for copies."""

    generated_N: NDArray[Any]
    held_out_M: NDArray[Any]
    """The same of reference showers, which no generator saw."""

    @property
    def limit(self) -> float:
        """Ratio below which 5 % of the held-out showers lie."""
        return float(np.quantile(self.held_out_M, SHARE))

    def near(self) -> ComparedFigure:
        """Return the share of generated showers below the limit in percent, 5 % if they are independent, with replicas."""
        share = 100 * (self.generated_N < self.limit).mean()
        generator = np.random.default_rng(5)
        replicas = []
        for _ in range(bootstrap.REPLICAS):
            held_out, generated = (generator.choice(values, len(values)) for values in (self.held_out_M, self.generated_N))
            replicas.append(100 * (generated < np.quantile(held_out, SHARE)).mean())
        # The unit is left to the text around: a percentage here is no difference of shares.
        return ComparedFigure(np.array([share]), np.array(replicas)[:, None])


def orbits(showers: Showers, cells: Layout) -> NDArray[Any]:
    """Return (N, O) square roots of the shares of energy in sets of cells that the detector's symmetries turn into each other.

    Nothing that is turned, mirrored or scaled can be told from its original by them; the root gives all shares a like spread.
    """
    order = np.argsort(cells.orbits, kind="stable")
    starts = np.searchsorted(cells.orbits[order], np.arange(cells.orbits.max() + 1))
    energy_NO = np.add.reduceat(showers.cells_mev[:, order], starts, axis=1, dtype=np.float64)
    return np.asarray(np.sqrt(energy_NO / np.maximum(energy_NO.sum(axis=1, keepdims=True), 1e-16)))


def nearness(generated: Showers, held_out: Showers, training: Showers, cells: Layout) -> Nearness:
    """Return how near generated and held-out showers are to training showers, however they are turned, mirrored and scaled."""
    from sklearn.neighbors import NearestNeighbors

    search = NearestNeighbors(n_neighbors=FAR_NEIGHBOUR, algorithm="brute").fit(orbits(training, cells))

    def ratio_of(showers: Showers) -> NDArray[Any]:
        distance_NK = search.kneighbors(orbits(showers, cells))[0]
        return np.asarray(distance_NK[:, 0] / np.maximum(distance_NK[:, -1], 1e-12))

    return Nearness(ratio_of(generated), ratio_of(held_out))
