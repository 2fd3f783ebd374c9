"""Copies of training showers are found however they are turned, and only copies; amplification of what is known."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from optional_packages import need

from caloedge.fidelity import damage, pages
from caloedge.fidelity.amplification import Amplification, _bins, amplification
from caloedge.fidelity.features import Features, features
from caloedge.fidelity.layout import Layout
from caloedge.fidelity.neighbours import nearness, orbits
from caloedge.fidelity.showers import Showers

LOWEST_MEV = 0.1
Rows = Callable[[int, int], Showers]


@pytest.fixture(scope="module")
def training(rows: Rows) -> Showers:
    return rows(6000, 6600)


@pytest.fixture(scope="module")
def held_out(rows: Rows) -> Showers:
    return rows(0, 400)


def test_turned_and_scaled_showers_have_the_orbits_of_their_originals(
    rows: Rows, cells: Layout, generator: np.random.Generator
) -> None:
    some = rows(0, 20)
    turned, impact = damage.turned_at_random(some.cells_mev, some.impact_mm, cells, generator)
    copies = replace(some, cells_mev=turned * 1.7, impact_mm=impact)
    np.testing.assert_allclose(orbits(copies, cells), orbits(some, cells), rtol=1e-5, atol=1e-7)
    assert np.abs(orbits(rows(20, 40), cells) - orbits(some, cells)).max() > 0.05


def test_frozen_showers_are_caught(training: Showers, held_out: Showers, cells: Layout, generator: np.random.Generator) -> None:
    need("sklearn")
    copies = damage.frozen(training, held_out.energies_mev, cells, LOWEST_MEV, generator)
    found = nearness(copies, held_out, training, cells)
    assert found.near().value_B[0] > 95
    assert pages.memory_claim(found).verdict == "fails"
    smeared = damage.smeared(copies, cells, LOWEST_MEV, generator)
    assert nearness(smeared, held_out, training, cells).near().value_B[0] > 50


def test_a_quarter_of_copies_is_caught(
    rows: Rows, training: Showers, held_out: Showers, cells: Layout, generator: np.random.Generator
) -> None:
    need("sklearn")
    copies = damage.frozen(training, held_out.energies_mev[:100], cells, LOWEST_MEV, generator)
    fresh = rows(1000, 1300)
    mixed = Showers(
        *(np.concatenate([getattr(s, f) for s in (copies, fresh)]) for f in ("energies_mev", "impact_mm", "cells_mev"))
    )
    assert pages.memory_claim(nearness(mixed, held_out, training, cells)).verdict == "fails"


def test_independent_showers_are_not_caught(rows: Rows, training: Showers, held_out: Showers, cells: Layout) -> None:
    need("sklearn")
    found = nearness(rows(1000, 1600), held_out, training, cells)
    assert 1 < found.near().value_B[0] < 10
    assert pages.memory_claim(found).verdict in ("holds", "undecided")


def test_a_dull_generator_is_no_copier(rows: Rows, training: Showers, held_out: Showers, cells: Layout) -> None:
    """Averages of showers lie in the middle of everything, so near to all training showers; they are not copies of one."""
    need("sklearn")
    fresh = rows(1000, 1400)
    order = np.argsort(fresh.energies_mev)
    dull = fresh.take(order)
    window = np.stack([dull.cells_mev[np.clip(np.arange(400) + k, 0, 399)] for k in range(-4, 5)]).mean(axis=0)
    found = nearness(replace(dull, cells_mev=window), held_out, training, cells)
    assert found.near().value_B[0] < 10


def made(values_N: np.ndarray) -> Features:
    """Return features whose three observables are the response, 0 and 0."""
    n = len(values_N)
    zeros = np.zeros((n, 1))
    return Features(np.ones(n), np.empty((n, 0)), values_N[:, None], *[zeros] * 7)


def test_amplification_of_a_repeated_sample_is_one_and_of_the_truth_none(generator: np.random.Generator) -> None:
    training = generator.random(400)
    measure, binning = made(generator.random(20_000)), made(generator.random(20_000))
    repeats = amplification(made(generator.choice(training, 20_000)), measure, binning, len(training))
    truth = amplification(made(generator.random(20_000)), measure, binning, len(training))
    wrong = amplification(made(generator.random(20_000) ** 1.5), measure, binning, len(training))
    assert repeats.ratio == pytest.approx(1, abs=0.45)  # the errors of one sample of 400 in few bins, which scatter
    assert abs(truth.ratio) < 3 * truth.uncertainty
    assert wrong.ratio > 3
    assert [pages.amplified(gain) for gain in (truth, wrong)] == ["yes", "no"]
    assert pages.amplified(Amplification(0.9, 0.2, 64)) == "undecided"


def test_bins_hold_equal_shares(rows: Rows, cells: Layout) -> None:
    from caloedge.fidelity.amplification import observables

    values = observables(features(rows(0, 256), cells))
    assert np.bincount(_bins([values], 4)[0]).tolist() == [16] * 16
