"""Amplification: does a generator know more than the showers it was trained on? (Bieringer et al., arXiv 2202.07352).

Space is divided into so many bins that a training sample hardly fills them. There, its shares are wrong by their own statistics;
a generator amplifies if its shares, for any number of generated showers, are less wrong. One that repeats its training showers
has their errors: a ratio of 1.

Axes: N shower, D observable, B bin.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.fidelity.features import Features

TRAINING_PER_BIN = 4.0
"""Training showers in a bin on average."""


@dataclass(frozen=True)
class Amplification:
    """Squared errors of a generator's shares over those that its training sample has by its statistics, both without noise."""

    ratio: float
    """Below 1 the generator amplifies; 1 over it is by how much. Negative where the noise that is taken off is larger."""
    uncertainty: float
    n_bins: int


def observables(found: Features) -> NDArray[Any]:
    """Return (N, D) response, mean layer (or ring) and mean radius in mm of each shower, all without dimension of energy."""
    share_NL = found.energy_mev_NL / np.maximum(found.total_mev, 1e-16)[:, None]
    mean_layer_N = share_NL @ np.arange(share_NL.shape[1])
    return np.stack([found.response, mean_layer_N, (share_NL * found.r_mm_NL).sum(axis=1)], axis=1)


def amplification(generated: Features, measure: Features, binning: Features, n_training: int) -> Amplification:
    """Compare with the `measure`, in bins that hold equal shares of another part of the reference, the `binning`."""
    depth = int(np.log2(max(2.0, min(n_training, 2 * len(binning.incident_mev_N)) / TRAINING_PER_BIN)))
    bins = _bins([observables(binning), observables(measure), observables(generated)], depth)
    _, n, m = (len(numbers) for numbers in bins)
    p_B, q_B = (np.bincount(numbers, minlength=2**depth) / len(numbers) for numbers in bins[1:])
    noise_B = p_B * (1 - p_B) / (n - 1) + q_B * (1 - q_B) / (m - 1)
    wrong = ((q_B - p_B) ** 2 - noise_B).sum()
    variance = 2 * (noise_B**2).sum() + 4 * (np.maximum((q_B - p_B) ** 2 - noise_B, 0) * noise_B).sum()
    own = (p_B * (1 - p_B)).sum() / n_training
    return Amplification(float(wrong / own), float(np.sqrt(variance) / own), 2**depth)


def _bins(samples: list[NDArray[Any]], depth: int) -> list[NDArray[Any]]:
    """Return the bin of each row of each sample: halves of the first sample, by one observable after the other."""
    numbers = [np.zeros(len(sample), np.int64) for sample in samples]
    for level in range(depth):
        observable = level % samples[0].shape[1]
        middle_B = np.zeros(2**level)
        for b in range(2**level):
            inside = numbers[0] == b
            middle_B[b] = np.median(samples[0][inside, observable]) if inside.any() else 0.0
        numbers = [
            2 * number + (sample[:, observable] > middle_B[number]) for number, sample in zip(numbers, samples, strict=True)
        ]
    return numbers
