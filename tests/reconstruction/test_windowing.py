"""Windows, the best of an event, groups, features and photons, each against a plain reading of its definition."""

from collections.abc import Iterator
from math import hypot

import numpy as np
import pytest
from orienting import orient

from caloedge.detector.crystals.events import GRID, MARGIN, SEED_THRESHOLD_GEV, WINDOW
from caloedge.reconstruction import windowing
from caloedge.reconstruction.windowing import FEATURES, OFFSETS, THRESHOLD_CODE, TOP_K, CodeWindows, Groups

TOP = 4095
THREE_CODES = THRESHOLD_CODE - 1, THRESHOLD_CODE, THRESHOLD_CODE + 1


def random_codes(n_events: int, seed: int, share: float = 0.01) -> np.ndarray:
    """Return events of noise with some crystals of any height, the borders and the threshold among them."""
    rng = np.random.default_rng(seed)
    codes = rng.integers(0, THRESHOLD_CODE + 1, (n_events, GRID, GRID)).astype(np.uint16)
    high = rng.random(codes.shape) < share
    codes[high] = np.minimum(2 ** rng.uniform(0, 13, high.sum()), TOP)
    # Both sides of every border, in a row and in a column.
    border = [0, MARGIN - 1, MARGIN, MARGIN + 1, GRID - MARGIN - 2, GRID - MARGIN - 1, GRID - MARGIN, GRID - 1]
    codes[:, border, MARGIN:-MARGIN:9] = rng.choice([*THREE_CODES, TOP], codes[:, border, MARGIN:-MARGIN:9].shape)
    codes[:, MARGIN:-MARGIN:9, border] = rng.choice([*THREE_CODES, TOP], codes[:, MARGIN:-MARGIN:9, border].shape)
    return codes


def random_groups(codes: np.ndarray, seed: int) -> tuple[CodeWindows, Groups]:
    """Return groups of any size; most of their windows stand close to each other."""
    rng = np.random.default_rng(seed)
    extracted = windowing.extract(codes)
    near = np.abs(extracted.crystal_W2 - rng.integers(10, 40, (len(codes), 2))[extracted.event_W]).max(axis=1) <= 2
    chance = np.where(near, rng.choice([0.1, 0.4, 1], len(codes))[extracted.event_W], 0.002)
    score = np.where(rng.random(len(near)) < chance, rng.integers(0, 4, len(near)), -1)
    return extracted, windowing.grouped(
        extracted.event_W, extracted.crystal_W2, windowing.top_k(extracted.event_W, extracted.key, score, 0)
    )


@pytest.fixture(scope="module")
def codes() -> np.ndarray:
    return random_codes(200, 1, share=0.3)


@pytest.fixture(scope="module")
def grouped(codes: np.ndarray) -> tuple[CodeWindows, Groups]:
    return random_groups(codes, 2)


# Codes


def test_digitised_rounds_half_to_even_and_saturates() -> None:
    lsb = 2.0**-windowing.CODE_FRACTION
    energies = np.array([0, -0.0, 0.49, 0.5, 0.51, 1.5, 2.5, 3.5, 4094.4, 4094.5, 4095.4, 4096, 1e9], np.float32) * np.float32(
        lsb
    )
    digitised = windowing.digitised(energies)
    assert digitised.dtype == np.uint16
    assert digitised.tolist() == [0, 0, 0, 0, 1, 2, 2, 4, 4094, 4094, TOP, TOP, TOP]


def test_every_code_comes_back_from_its_energy() -> None:
    every = np.arange(TOP + 1)
    np.testing.assert_array_equal(windowing.digitised((every / 32).astype(np.float32)), every)


def test_the_threshold_is_the_seed_threshold() -> None:
    assert THRESHOLD_CODE / 2**windowing.CODE_FRACTION == SEED_THRESHOLD_GEV


# Windows


def slow_extract(codes: np.ndarray) -> Iterator[tuple[int, int, int, list[list[int]]]]:
    for event in range(len(codes)):
        event_codes = codes[event].tolist()
        for x in range(3, 48):
            for y in range(3, 48):
                if event_codes[x][y] > 16:
                    yield event, x, y, [row[y - 3 : y + 4] for row in event_codes[x - 3 : x + 4]]


def test_windows_are_extracted_around_crystals_above_the_threshold() -> None:
    codes = random_codes(25, 3)
    extracted = windowing.extract(codes)
    expected = list(slow_extract(codes))
    assert len(expected) > 500
    assert codes[:, 3:-3, 3:-3].max() == TOP
    assert (codes[:, 3:-3, 3:-3] == 16).any(), "the case was not met"
    assert [(e, x, y) for e, x, y, _ in expected] == list(
        zip(extracted.event_W.tolist(), *extracted.crystal_W2.T.tolist(), strict=True)
    )  # in this order
    assert extracted.codes_WXY.dtype == np.uint16
    np.testing.assert_array_equal(extracted.codes_WXY, [window for *_, window in expected])
    assert {int(v) for v in extracted.crystal_W2.ravel()} >= {3, 47}
    np.testing.assert_array_equal(extracted.key, [51 * x + y for _, x, y, _ in expected])


def test_extract_takes_views_of_any_order() -> None:
    codes = random_codes(3, 4)
    for view in (codes.swapaxes(1, 2), codes[:, ::-1], codes[::2]):
        extracted, copied = windowing.extract(view), windowing.extract(np.ascontiguousarray(view))
        np.testing.assert_array_equal(extracted.codes_WXY, copied.codes_WXY)
        np.testing.assert_array_equal(extracted.crystal_W2, copied.crystal_W2)


# The best


def slow_best(event: list[int], key: list[int], score: list[float], threshold: float) -> list[int]:
    chosen = []
    for e in sorted(set(event)):
        candidates = [w for w in range(len(event)) if event[w] == e and score[w] >= threshold]
        chosen += sorted(candidates, key=lambda w: (-score[w], key[w]))[:4]
    return chosen


@pytest.mark.parametrize("kind", [np.int64, np.float32])
def test_the_best_are_the_highest_scores_and_then_the_lowest_keys(kind: type) -> None:
    rng = np.random.default_rng(5)
    for case in range(60):
        event = np.sort(rng.integers(0, 12, rng.integers(1, 150)))  # some events have no window
        key = np.concatenate([rng.permutation(2601)[: (event == e).sum()] for e in np.unique(event)])
        score = rng.integers(-3, 4, len(event)).astype(kind)  # many ties
        for threshold in (-10, 0, 1, 3, 4):
            best = windowing.top_k(event, key, score, threshold)
            expected = slow_best(event.tolist(), key.tolist(), score.tolist(), threshold)
            assert best.tolist() == expected, f"case {case}, threshold {threshold}"
            if threshold == -10:
                assert max(np.bincount(event[best])) <= TOP_K


def test_the_best_do_not_depend_on_the_order_of_an_events_windows() -> None:
    rng = np.random.default_rng(6)
    event = np.sort(rng.integers(0, 30, 400))
    key = np.concatenate([rng.permutation(2601)[: (event == e).sum()] for e in np.unique(event)])
    score = rng.integers(-2, 3, 400)
    start = windowing.top_k(event, key, score, -1)
    for _ in range(20):
        order = np.lexsort((rng.random(400), event))  # shuffled within each event
        assert not np.array_equal(order, np.arange(400))
        again = windowing.top_k(event, key[order], score[order], -1)
        np.testing.assert_array_equal(order[again], start)


# Groups


def slow_others(event: np.ndarray, crystal: np.ndarray, window: np.ndarray) -> tuple[list[list[int]], list[list[float]]]:
    others, weights = [], []
    for member in range(len(window)):
        companions = [m for m in range(len(window)) if event[window[m]] == event[window[member]] and m != member]
        apart = [hypot(*(crystal[window[m]] - crystal[window[member]])) for m in companions]
        others.append(companions + [-1] * (3 - len(companions)))
        weights.append([1 - dr / 3 if dr < 3 else 0.0 for dr in apart] + [0.0] * (3 - len(companions)))
    return others, weights


def test_the_others_of_a_member_by_rank_with_their_weights(grouped: tuple[CodeWindows, Groups]) -> None:
    extracted, group = grouped
    others, weights = slow_others(extracted.event_W, extracted.crystal_W2, group.window_M)
    assert group.others_MK.tolist() == others
    assert group.weight_MK.dtype == np.float32
    # The same operations in double precision, rounded once.
    np.testing.assert_array_equal(group.weight_MK, np.array(weights).astype(np.float32))
    np.testing.assert_array_equal(group.event_M, extracted.event_W[group.window_M])
    np.testing.assert_array_equal(group.crystal_M2, extracted.crystal_W2[group.window_M])
    sizes = np.bincount(group.event_M)
    assert set(sizes[sizes > 0].tolist()) == {1, 2, 3, 4}
    assert len(np.unique(group.weight_MK)) == 6, "0 and the five distances √1 … √8 are met"


def test_weights_fall_to_zero_at_three_crystals() -> None:
    crystal = np.array([[20, 20], [20, 22], [23, 20], [22, 22]])
    group = windowing.grouped(np.zeros(4, int), crystal, np.arange(4))
    expected = [[1 - 2 / 3, 0, 1 - np.sqrt(8) / 3], [1 - 2 / 3, 0, 1 - 2 / 3], [0, 0, 1 - np.sqrt(5) / 3]]
    expected.append([1 - np.sqrt(8) / 3, 1 - 2 / 3, 1 - np.sqrt(5) / 3])
    np.testing.assert_array_equal(group.weight_MK, np.array(expected, np.float32))
    assert group.others_MK.tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]]


# Features


def slow_features(codes_MXY: np.ndarray, group: Groups) -> np.ndarray:
    """Return what the docstring says, number by number."""
    places = [(x, y) for x in range(-2, 3) for y in range(-2, 3) if (x, y) != (0, 0)]
    rows = []
    for member, window in enumerate(codes_MXY.tolist()):
        others = [other for other in group.others_MK[member].tolist() if other >= 0]
        steps = [tuple((group.crystal_M2[other] - group.crystal_M2[member]).tolist()) for other in others]
        window, steps, _ = orient(window, steps)
        exponent = window[3][3].bit_length() - 1
        cells = [int(code * 2.0 ** (7 - exponent)) for line in window for code in line]
        marks = [0] * 24
        for dx, dy in steps:
            if abs(dx) <= 2 and abs(dy) <= 2:
                marks[places.index((dx, dy))] = round(256 * (1 - hypot(dx, dy) / 3))
        word = [0] * 8
        word[exponent - 4] = 256
        rows.append([min(cell, 4095) for cell in cells] + marks + word)
    return np.array(rows)


def test_windows_are_oriented_by_their_core(codes: np.ndarray, grouped: tuple[CodeWindows, Groups]) -> None:
    extracted, group = grouped
    windows = extracted.codes_WXY[group.window_M]
    orientation = windowing.orientations(windows)
    assert set(orientation.tolist()) == set(range(8))
    oriented_windows = np.take_along_axis(windows.reshape(-1, 49), windowing.CELL_OF_ORIENTATION[orientation], axis=1).reshape(
        windows.shape
    )
    for member in range(0, len(windows), 7):
        expected, _, steps = orient(windows[member].tolist(), [])
        assert oriented_windows[member].tolist() == expected
        assert (
            orientation[member]
            == ("x" in steps) * windowing.FLIP_X + ("y" in steps) * windowing.FLIP_Y + ("swap" in steps) * windowing.SWAP
        )
    assert not windowing.orientations(oriented_windows).any(), "an oriented window stays as it is"


def test_all_eight_views_of_a_window_become_one() -> None:
    window = np.random.default_rng(3).integers(0, TOP + 1, (7, 7)).astype(np.uint16)
    views = [np.rot90(flipped, k) for flipped in (window, window[::-1]) for k in range(4)]
    orientation = windowing.orientations(np.stack(views))
    assert sorted(orientation.tolist()) == list(range(8))
    assert (
        len({view.ravel()[windowing.CELL_OF_ORIENTATION[t]].tobytes() for view, t in zip(views, orientation, strict=True)}) == 1
    )


def test_equal_sides_leave_the_orientation() -> None:
    window = np.zeros((1, 7, 7), np.uint16)
    window[0, 2:5, 2:5] = [[5, 8, 5], [8, 90, 8], [5, 8, 5]]
    assert windowing.orientations(window).tolist() == [0]
    window[0, 4, 4] = 9  # as much along x as along y
    assert windowing.orientations(window).tolist() == [0]
    window[0, 3, 4] = 9
    assert windowing.orientations(window).tolist() == [windowing.SWAP]


def test_vectors_turn_with_their_windows_and_back() -> None:
    orientation = np.repeat(np.arange(8), 24)
    steps = np.tile(OFFSETS, (8, 1))
    vectors = windowing.oriented(steps, orientation)
    for before, after, t in zip(steps.tolist(), vectors.tolist(), orientation.tolist(), strict=True):
        grid = np.zeros((7, 7), int)
        grid[3 + before[0], 3 + before[1]] = 1
        assert grid.ravel()[windowing.CELL_OF_ORIENTATION[t]].reshape(7, 7)[3 + after[0], 3 + after[1]] == 1
    np.testing.assert_array_equal(windowing.unoriented(vectors, orientation), steps)
    assert (vectors != steps).any(axis=1).sum() > 100


def test_features_of_windows_that_know_their_neighbours(codes: np.ndarray, grouped: tuple[CodeWindows, Groups]) -> None:
    extracted, group = grouped
    windows = extracted.codes_WXY[group.window_M]
    features = windowing.features(windows, group)
    assert features.dtype == np.int16
    assert features.shape == (len(windows), FEATURES) == (len(windows), 81)
    expected = slow_features(windows, group)
    np.testing.assert_array_equal(features, expected)
    assert (expected[:, 49:73] > 0).any(axis=0).all(), "every place of a neighbour is met"
    assert (expected[:, 73:] > 0).any(axis=0).all(), "every exponent is met"
    assert (expected[:, :49] == 4095).any(), "a cell saturates"


def test_features_of_every_central_code() -> None:
    rng = np.random.default_rng(8)
    windows = rng.integers(0, TOP + 1, (TOP - 16, 7, 7)).astype(np.uint16)
    windows[:, 3, 3] = np.arange(17, TOP + 1)
    windows[:, 0, 0] = TOP
    alone = windowing.grouped(np.arange(len(windows)), np.full((len(windows), 2), 20), np.arange(len(windows)))
    features = windowing.features(windows, alone)
    np.testing.assert_array_equal(features, slow_features(windows, alone))
    assert features[:, 24].min() == 128
    assert features[:, 24].max() == 255
    assert features.min() >= 0
    assert features.max() == 4095
    assert not features[:, 49:73].any()
    np.testing.assert_array_equal(windowing.exponents(windows), [code.bit_length() - 1 for code in range(17, TOP + 1)])
    np.testing.assert_array_equal(windowing.units_gev(windowing.exponents(windows)), 2.0 ** (windowing.exponents(windows) - 4.0))


def test_sums_of_nine_do_not_overflow() -> None:
    windows = np.full((1, 7, 7), TOP, np.uint16)
    windows[0, 0], windows[0, :, 5] = 0, 1
    assert windowing.sums(windows).tolist() == [9 * TOP]


def test_only_places_closer_than_three_crystals_are_marked() -> None:
    windows = np.full((2, 7, 7), 40, np.uint16)
    for dx in range(-4, 5):
        for dy in range(-4, 5):
            if (dx, dy) == (0, 0):
                continue
            group = windowing.grouped(np.zeros(2, int), np.array([[20, 20], [20 + dx, 20 + dy]]), np.arange(2))
            marks = windowing.features(windows, group)[:, 49:73]  # the windows are flat, so none is flipped
            near = max(abs(dx), abs(dy)) <= 2
            assert (marks > 0).sum(axis=1).tolist() == [near, near], (dx, dy)
            if near:
                assert marks[0, OFFSETS.index((dx, dy))] == marks[1, OFFSETS.index((-dx, -dy))] > 0


# Photons


def test_exact_outputs_give_the_photon_to_the_rounding() -> None:
    rng = np.random.default_rng(9)
    n = 2000
    for fraction in (5, 8, 11):
        windows = rng.integers(0, TOP + 1, (n, 7, 7)).astype(np.uint16)
        windows[:, 3, 3] = np.minimum(2 ** rng.uniform(np.log2(17), 12, n), TOP)
        crystal = rng.integers(3, 48, (n, 2))
        offset, energy = rng.uniform(-1, 1, (n, 2)), rng.uniform(1, 120, n)
        exponent, total = windowing.exponents(windows), windowing.sums(windows)
        unit = windowing.units_gev(exponent)
        exact = np.column_stack(
            [windowing.oriented(offset, windowing.orientations(windows)), (energy - total / 32) / unit, rng.normal(size=n)]
        )
        codes = np.rint(exact * 2**fraction).astype(np.int64)
        position, energy_codes = windowing.photon_codes(codes, fraction, crystal, windows)
        orientation = windowing.orientations(windows)
        lsb = 2.0**-fraction
        assert np.abs(position * lsb - (crystal + 0.5 + offset)).max() <= lsb / 2
        assert (np.abs(energy_codes * lsb - energy) <= unit * lsb / 2 * (1 + 1e-9)).all()  # 1e-9: rounding of doubles
        assert (np.abs(energy_codes * lsb - energy) > unit * lsb / 4).any()
        # and number by number, in integers
        for m in range(0, n, 50):
            dx, dy, excess, _ = codes[m].tolist()
            dx, dy = (dy, dx) if orientation[m] & windowing.SWAP else (dx, dy)
            dx, dy = -dx if orientation[m] & windowing.FLIP_X else dx, -dy if orientation[m] & windowing.FLIP_Y else dy
            assert position[m].tolist() == [
                2**fraction * x + 2 ** (fraction - 1) + d for x, d in zip(crystal[m].tolist(), (dx, dy), strict=True)
            ]
            assert int(energy_codes[m]) == int(total[m]) * 2 ** (fraction - 5) + excess * 2 ** (int(exponent[m]) - 4)


# Inputs of the published network


def test_joined_windows_are_the_own_one_and_the_others_by_rank(codes: np.ndarray, grouped: tuple[CodeWindows, Groups]) -> None:
    _, group = grouped
    cells = (codes / np.float32(32)).astype(np.float32)
    orientation = np.random.default_rng(4).integers(0, 8, len(group.window_M))
    inputs = windowing.joined_windows(cells, group, orientation)
    assert inputs.dtype == np.float32
    assert inputs.shape == (len(group.window_M), 4, WINDOW * WINDOW + 1)

    def window(member: int, oriented_as: int) -> np.ndarray:
        x, y = group.crystal_M2[member]
        window = cells[group.event_M[member], x - 3 : x + 4, y - 3 : y + 4]
        window = window[::-1] if orientation[oriented_as] & windowing.FLIP_X else window
        window = window[:, ::-1] if orientation[oriented_as] & windowing.FLIP_Y else window
        return (window.T if orientation[oriented_as] & windowing.SWAP else window).ravel()

    for member in range(len(inputs)):
        np.testing.assert_array_equal(inputs[member, 0], [*window(member, member), 1])
        for slot, other in enumerate(group.others_MK[member]):
            expected = [*(window(other, member) if other >= 0 else np.zeros(49)), group.weight_MK[member, slot]]
            np.testing.assert_array_equal(inputs[member, slot + 1], np.array(expected, np.float32))


# Batches


def whole(codes: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return everything that is known of the members of events; a score that depends on the event alone."""
    extracted = windowing.extract(codes)
    score = extracted.codes_WXY.astype(np.int64).sum(axis=(1, 2)) % 7
    group = windowing.grouped(
        extracted.event_W, extracted.crystal_W2, windowing.top_k(extracted.event_W, extracted.key, score, 2)
    )
    windows = extracted.codes_WXY[group.window_M]
    outputs = windowing.features(windows, group)[:, 20:24].astype(np.int64) - 300
    photons = windowing.photon_codes(outputs, 8, group.crystal_M2, windows)
    joined = windowing.joined_windows(codes / np.float32(32), group, windowing.orientations(windows))
    return group.event_M, group.crystal_M2, group.weight_MK, windowing.features(windows, group), joined, *photons


def test_the_groups_of_an_event_do_not_depend_on_the_others() -> None:
    codes = random_codes(12, 11, share=0.05)
    codes[[2, 7]] = 0
    together = whole(codes)
    assert len(np.unique(together[0])) == 10
    alone = [whole(codes[e : e + 1]) for e in range(12)]
    for number, values in enumerate(together):
        if number:
            np.testing.assert_array_equal(values, np.concatenate([alone_event[number] for alone_event in alone]))
    np.testing.assert_array_equal(together[0], np.repeat(np.arange(12), [len(alone_event[0]) for alone_event in alone]))


@pytest.mark.parametrize("n_events", [0, 3])
def test_nothing_gives_nothing(n_events: int) -> None:
    event, crystal, weight, features, joined, position, energy = whole(np.full((n_events, GRID, GRID), 16, np.uint16))
    assert event.shape == energy.shape == (0,)
    assert crystal.shape == position.shape == (0, 2)
    assert weight.shape == (0, 3)
    assert features.shape == (0, 81)
    assert features.dtype == np.int16
    assert joined.shape == (0, 4, 50)
    assert windowing.digitised(np.zeros((n_events, GRID, GRID), np.float32)).shape == (n_events, GRID, GRID)
