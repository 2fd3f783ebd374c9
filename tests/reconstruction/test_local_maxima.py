"""Local maxima on crystals and the ICN rule on trigger cells, on hits made by hand and against slow loops."""

from collections.abc import Mapping

import numpy as np
import pytest

from caloedge.detector.crystals.hits import HitEvents
from caloedge.detector.crystals.rings import CrystalRings, belle2
from caloedge.reconstruction.local_maxima import isolated_clusters, local_maxima, neighbouring_hits

RINGS, COLUMNS = 12, 36
FIRST = 80
"""Number of the barrel's first trigger cell."""


@pytest.fixture(scope="module")
def rings() -> CrystalRings:
    return belle2()


def hits_of(events: list[Mapping[int, float]], position_C3: np.ndarray) -> HitEvents:
    """Return hits of given energies by cell."""
    event = np.repeat(np.arange(len(events)), [len(one) for one in events])
    cell = np.array([number for one in events for number in sorted(one)], int)
    energy = np.array([one[number] for one in events for number in sorted(one)])
    nothing = np.zeros(len(cell))
    absent = np.full((len(events), 1), np.nan)
    return HitEvents(
        len(events),
        event,
        cell,
        energy,
        nothing,
        position_C3[cell],
        np.full(len(cell), -1),
        nothing,
        absent,
        np.full((len(events), 1, 3), np.nan),
        np.full((len(events), 1), -1),
    )


def centres(rings: CrystalRings, *events: Mapping[int, float]) -> list[list[int]]:
    """Return the crystals that are local maxima, of each event."""
    hits = hits_of(list(events), rings.position_C3)
    made = local_maxima(hits, rings.neighbours)
    return [hits.cell_H[made.is_centre_H & (hits.event_H == event)].tolist() for event in range(len(events))]


def crystal(rings: CrystalRings, ring: int, azimuth: int) -> int:
    return int(rings.first_of_ring[ring]) + azimuth


def test_the_most_energetic_of_neighbours_is_the_centre(rings: CrystalRings) -> None:
    at = crystal(rings, 30, 20)
    assert centres(rings, {at: 1.0, at + 1: 0.4, at + 144: 0.2}, {at: 0.3, at + 1: 0.4}) == [[at], [at + 1]]


def test_of_equal_hits_the_lower_number_is_the_centre(rings: CrystalRings) -> None:
    at = crystal(rings, 30, 20)
    block = {at + ring * 144 + step: 0.5 for ring in (0, 1) for step in (0, 1)}
    assert centres(rings, block) == [[at]]
    # Three in a row: the middle one is beaten by the first, the last by the middle one.
    assert centres(rings, {at: 0.5, at + 1: 0.5, at + 2: 0.5}) == [[at]]


def test_two_clusters_are_told_apart_by_one_crystal_between_them(rings: CrystalRings) -> None:
    at = crystal(rings, 30, 20)
    assert centres(rings, {at: 1.0, at + 1: 0.4, at + 2: 0.7}) == [[at, at + 2]]
    assert centres(rings, {at: 1.0, at + 1: 0.7}) == [[at]]
    assert centres(rings, {at: 1.0, at + 145: 0.7}, {at: 1.0, at + 2 * 144: 0.7}) == [[at], [at, at + 2 * 144]]


def test_the_ring_closes_and_the_first_and_last_rings_have_one_side(rings: CrystalRings) -> None:
    ends = crystal(rings, 30, 0), crystal(rings, 30, 143)
    assert centres(rings, dict(zip(ends, (0.5, 0.9), strict=True))) == [[ends[1]]]
    first, last = crystal(rings, 0, 5), crystal(rings, 68, 5)
    assert centres(rings, {first: 0.5, last: 0.6}) == [[first, last]]


def test_events_do_not_see_each_other(rings: CrystalRings) -> None:
    at = crystal(rings, 30, 20)
    assert centres(rings, {at: 0.1}, {at + 1: 0.9}, {}, {at: 0.2, at + 1: 0.1}) == [[at], [at + 1], [], [at]]


def test_energy_and_position_are_those_of_the_neighbourhood(rings: CrystalRings) -> None:
    at = crystal(rings, 30, 20)
    hits = hits_of([{at: 1.0, at + 1: 0.5, at + 2: 0.2}], rings.position_C3)
    made = local_maxima(hits, rings.neighbours)
    assert made.energy_H.tolist() == pytest.approx([1.5, 1.7, 0.7])
    expected = (rings.position_C3[at] + 0.5 * rings.position_C3[at + 1]) / 1.5
    np.testing.assert_allclose(made.position_H3[0], expected)


def test_no_hits_have_no_clusters(rings: CrystalRings) -> None:
    hits = hits_of([{}, {}], rings.position_C3)
    for made in (local_maxima(hits, rings.neighbours), isolated_clusters(hits, rings.trigger_neighbours)):
        assert (made.is_centre_H.shape, made.energy_H.shape, made.position_H3.shape) == ((0,), (0,), (0, 3))


def test_maxima_are_those_of_a_slow_loop(rings: CrystalRings) -> None:
    rng = np.random.default_rng(3)
    start = [crystal(rings, ring, 0) for ring in (0, 3, 10, 12, 30, 58, 60)]
    events = []
    for _ in range(40):
        cells = np.unique((rng.choice(start, 40) + rng.integers(0, 300, 40)) % 8736)
        events.append(dict(zip(cells.tolist(), rng.integers(1, 6, len(cells)) / 8, strict=True)))
    for event, found in zip(events, centres(rings, *events), strict=True):
        expected = []
        for cell, energy in sorted(event.items()):
            near = [int(other) for other in rings.neighbours[cell] if other >= 0]
            if all((event.get(other, 0), -other) < (energy, -cell) for other in near):
                expected.append(cell)
        assert found == expected


def grid(*rows: str) -> dict[int, float]:
    """Return trigger cells of the barrel by a drawing: rows upwards on the page are rings up, columns to the right in azimuth."""
    return {
        FIRST + (5 + len(rows) - number) * COLUMNS + 10 + column: int(digit) / 10
        for number, row in enumerate(rows)
        for column, digit in enumerate(row)
        if digit != "."
    }


def found(rings: CrystalRings, cells: Mapping[int, float]) -> list[float]:
    """Return the energies of the centres that the ICN rule finds, in the order of the cells."""
    hits = hits_of([cells], rings.trigger_positions)
    return hits.energy_H[isolated_clusters(hits, rings.trigger_neighbours).is_centre_H].tolist()


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["5"], [0.5]),
        (["52"], [0.5]),
        (["25"], [0.5]),
        (["5", "2"], [0.5]),
        (["2", "5"], [0.5]),
        (["123", "456", "789"], [0.5]),  # the centre is within a cell of the corner: not the 0.9
        ([".2", "5."], [0.5]),  # both are corners of the same centre
        (["2.", ".5"], [0.5]),
        ([".2", "54"], [0.5]),  # below and below to the left are hit, so the upper one is no corner; the left one is
        (["5.4"], [0.5, 0.4]),
        (["5", ".", "4"], [0.4, 0.5]),
        (["585"], [0.8]),
        (["51213"], [0.5]),  # a connected row is one cluster, however long
        (["5.", "1.", "14"], [0.5]),
        ([".1.", "555"], [0.5]),  # the upper cell is covered by those below it; of equal cells the corner itself
        (["5...6", "11111"], [0.5]),  # two towers on one base are connected: the right one stands on two hit cells
    ],
)
def test_the_rule_counts_connected_groups(rings: CrystalRings, rows: list[str], expected: list[float]) -> None:
    assert found(rings, grid(*rows)) == expected


def test_the_rule_is_that_of_a_slow_loop(rings: CrystalRings) -> None:
    """On the barrel, cell by cell, as the rule is written."""
    rng = np.random.default_rng(5)
    for _ in range(60):
        energy = rng.integers(1, 9, (RINGS, COLUMNS)) / 8 * (rng.random((RINGS, COLUMNS)) < rng.choice([0.05, 0.2, 0.5]))
        cells = {FIRST + int(i): float(energy.flat[i]) for i in np.flatnonzero(energy)}
        hits = hits_of([cells], rings.trigger_positions)
        made = isolated_clusters(hits, rings.trigger_neighbours)
        marked = np.zeros((RINGS + 2, COLUMNS), bool)
        padded = np.pad(energy, ((1, 1), (0, 0)))
        around = [(1, -1), (1, 0), (1, 1), (0, -1), (0, 1), (-1, -1), (-1, 0), (-1, 1)]  # up is the next ring
        for ring, column in zip(*np.nonzero(padded), strict=True):
            up, left = padded[ring + 1, column], padded[ring, column - 1]
            down, down_left = padded[ring - 1, column], padded[ring - 1, column - 1]
            if not up and not left and not (down and down_left):
                near = [(ring, column), *((ring + r, (column + c) % COLUMNS) for r, c in around)]
                marked[max(near, key=lambda place: padded[place])] = True
        made_at = np.zeros(RINGS * COLUMNS, bool)
        made_at[hits.cell_H[made.is_centre_H] - FIRST] = True
        np.testing.assert_array_equal(made_at.reshape(RINGS, COLUMNS), marked[1:-1])


def test_neighbouring_hits_of_the_last_event_end_there(rings: CrystalRings) -> None:
    """The last crystal of all has no hit behind it to be mistaken for."""
    last = 8735
    hits = hits_of([{last: 1.0}, {last - 1: 0.5, last: 1.0}], rings.position_C3)
    near = neighbouring_hits(hits, rings.neighbours)
    assert [sorted(row[row >= 0].tolist()) for row in near] == [[], [2], [1]]
