"""What memory a trained generator takes, measured in a process of its own that loads nothing else."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from caloedge.catalog import Generator, find
from caloedge.computer import peak_memory_bytes
from caloedge.generation.trained import find_trained, open_trained


def peak_mb(source: str, together: int) -> float:
    """Return the largest resident memory [MB] of a program that opens a trained generator and makes so many showers at once."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peak_mb, source, together).result()


def _peak_mb(source: str, together: int) -> float:
    trained = open_trained(find_trained(source))
    draw = find(Generator, trained.manifest.generator).draw
    assert draw
    energies_mev = 1e3 * np.geomspace(trained.manifest.min_energy_gev, trained.manifest.max_energy_gev, together)
    draw(trained, energies_mev, np.zeros((together, 2)), [np.random.default_rng(number) for number in range(together)])
    return peak_memory_bytes() / 1e6
