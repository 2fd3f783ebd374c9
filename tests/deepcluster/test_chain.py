"""Events to photons: the integer chain against a plain event-by-event reading of it, the float chain, and what is refused."""

from math import hypot
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from orienting import orient, unorient

from caloedge.artifact import read_artifact
from caloedge.catalog import BASELINE, FLOAT, INTEGER, REFERENCE, Network, find
from caloedge.compiler.fixed import Format
from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import read
from caloedge.compiler.ops import Dense, InputQuantiser, Output
from caloedge.deepcluster import chain
from caloedge.deepcluster.chain import Chain, FloatNetworks, Networks, PhotonCodes
from caloedge.detector.crystals import photon_events
from caloedge.detector.crystals.events import GRID
from caloedge.detector.crystals.library import ShowerLibrary
from caloedge.detector.crystals.photon_events import Photons
from caloedge.errors import BadData, Unsupported
from caloedge.recipe import read_recipe
from caloedge.reconstruction import clustering, windowing

ROOT = Path(__file__).parents[2]
N = 40
ANY = -(2**62)


@pytest.fixture(scope="module")
def cells(library: ShowerLibrary) -> np.ndarray:
    """Events, the first without a window, the second saturated."""
    composed = photon_events.compose(library, np.arange(len(library)), N, np.random.default_rng(1)).crystals.cells_EXY
    composed[0] = np.minimum(composed[0], 0.5)
    composed[1] *= 1000
    return composed


@pytest.fixture(scope="module")
def codes(cells: np.ndarray) -> np.ndarray:
    return windowing.digitised(cells)


@pytest.fixture(scope="module")
def seeds() -> Graph:
    return read(ROOT / "models" / "seed_finder" / "model.qonnx")


@pytest.fixture(scope="module")
def centre_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Export an untrained center finder whose seed output has both signs."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("brevitas")
    pytest.importorskip("lightning")
    from caloedge.arithmetic import QuantisedArithmetic
    from caloedge.export import write_qonnx

    torch.manual_seed(3)
    network = find(Network, "center_finder")
    twin = network.build(QuantisedArithmetic(8, 8, 12, 8), network.sizes["edge"])
    with torch.no_grad():
        for name, value in twin.named_parameters():
            if name.endswith("weight"):
                value.mul_(3)
    path = tmp_path_factory.mktemp("centres") / "model.qonnx"
    write_qonnx(twin, (windowing.FEATURES,), "photon", path)
    return path


@pytest.fixture(scope="module")
def centres(centre_file: Path) -> Graph:
    return read(centre_file)


# The integer chain


def plain_features(codes_XY: list[list[int]], x: int, y: int, others: list[tuple[int, int]]) -> tuple[list[int], list[str]]:
    """Return the features, and the flips that orient the window."""
    exponent = codes_XY[x][y].bit_length() - 1
    around = [row[y - 3 : y + 4] for row in codes_XY[x - 3 : x + 4]]
    window, steps, applied = orient(around, [(i - x, j - y) for i, j in others])
    cells = [min(4095, code << 7 >> exponent) for line in window for code in line]
    marks = [
        round(256 * (1 - hypot(i, j) / 3)) if (i, j) in steps else 0
        for i in range(-2, 3)
        for j in range(-2, 3)
        if (i, j) != (0, 0)
    ]
    return cells + marks + [256 * (power == exponent) for power in range(4, 12)], applied


def plain_photons(
    codes_XY: list[list[int]], seeds: Graph, centres: Graph, seed_threshold: int, photon_threshold: int
) -> list[tuple[int, ...]]:
    """Return (x, y, energy, score) of an event's photons."""
    places = [(x, y) for x in range(3, 48) for y in range(3, 48) if codes_XY[x][y] > 16]
    if not places:
        return []
    windows = np.array([[row[y - 3 : y + 4] for row in codes_XY[x - 3 : x + 4]] for x, y in places])
    scores = seeds.run(windows[:, None])[seeds.outputs[0].name].ravel().tolist()
    passed = [(-score, place) for score, place in zip(scores, places, strict=True) if score >= seed_threshold]
    seeds_kept = [place for _, place in sorted(passed)[:4]]  # of equal scores the first in reading order
    photons = []
    fraction = centres.tensors[centres.outputs[0].name].format.fraction
    for x, y in seeds_kept:
        features, applied = plain_features(codes_XY, x, y, [place for place in seeds_kept if place != (x, y)])
        (outputs,) = centres.run(np.array([features]))[centres.outputs[0].name].tolist()
        dx, dy = unorient(*outputs[:2], applied)
        nine = sum(codes_XY[i][j] for i in range(x - 1, x + 2) for j in range(y - 1, y + 2))
        if outputs[3] >= photon_threshold:
            photons.append(
                (
                    x * 2**fraction + 2 ** (fraction - 1) + dx,
                    y * 2**fraction + 2 ** (fraction - 1) + dy,
                    nine * 2 ** (fraction - 5) + outputs[2] * 2 ** (codes_XY[x][y].bit_length() - 5),
                    outputs[3],
                )
            )
    return photons


def rows_of(photons: PhotonCodes, event: int) -> list[tuple[int, ...]]:
    in_event = photons.event_N == event
    table = np.column_stack([photons.position_N2, photons.energy_N, photons.score_N])[in_event]
    return [tuple(row) for row in table.tolist()]


def middle_score(codes: np.ndarray, seeds: Graph, centres: Graph, threshold: int) -> int:
    return int(np.median(chain.integer_photons(codes, chain.networks(seeds, centres, threshold, ANY)).score_N))


@pytest.mark.parametrize("seed_threshold", ["working point", "any"])
def test_integer_photons_are_those_of_a_plain_event_by_event_chain(
    codes: np.ndarray, seeds: Graph, centres: Graph, seed_threshold: str
) -> None:
    artifact = read_artifact(ROOT / "models" / "seed_finder")
    threshold = int(np.ceil(artifact.manifest.working_points[INTEGER])) if seed_threshold == "working point" else ANY
    middle = middle_score(codes, seeds, centres, threshold)
    for photon_threshold in (ANY, middle, middle + 1):
        photons = chain.integer_photons(codes, chain.networks(seeds, centres, threshold, photon_threshold))
        expected = [plain_photons(event, seeds, centres, threshold, photon_threshold) for event in codes.tolist()]
        assert [rows_of(photons, event) for event in range(N)] == expected
        assert (np.diff(photons.event_N) >= 0).all()
        assert photons.energy_N.dtype == photons.position_N2.dtype == np.int64
        if photon_threshold == ANY:
            counts = [len(photons) for photons in expected]
            assert counts[0] == 0
            assert max(counts) == 4
            assert threshold == ANY or min(counts[2:]) < 4
            assert sum(counts) > N / 2
    assert len(photons.event_N) < sum(counts)


def test_a_wrong_constant_anywhere_is_seen(
    codes: np.ndarray, seeds: Graph, centres: Graph, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison above could fail: each of these changes the photons."""
    nets = chain.networks(seeds, centres, ANY, ANY)
    right = chain.integer_photons(codes, nets).slots(N)
    marks = tuple(np.array(windowing.WEIGHT_CODES) + 20)
    for name, value in (("THRESHOLD_CODE", 17), ("NORMALISED", 6), ("WEIGHT_CODES", marks), ("CODE_FRACTION", 4)):
        with monkeypatch.context() as patch:
            patch.setattr(windowing, name, value)
            assert not np.array_equal(chain.integer_photons(codes, nets).slots(N), right), name


def test_permuted_events_give_permuted_photons(codes: np.ndarray, seeds: Graph, centres: Graph) -> None:
    nets = chain.networks(seeds, centres, ANY, middle_score(codes, seeds, centres, ANY))
    order = np.random.default_rng(2).permutation(N)
    start, shuffled = (chain.integer_photons(event_codes, nets).slots(N) for event_codes in (codes, codes[order]))
    assert start[:, :, 0].any(axis=1).sum() > N / 2
    np.testing.assert_array_equal(shuffled, start[order])
    parts = [chain.integer_photons(codes[e : e + 1], nets).slots(1) for e in range(N)]
    np.testing.assert_array_equal(np.concatenate(parts), start)


@pytest.mark.parametrize("n_events", [0, 3])
def test_nothing_gives_no_photons(n_events: int, seeds: Graph, centres: Graph) -> None:
    nothing = np.full((n_events, GRID, GRID), 16, np.uint16)
    photons = chain.integer_photons(nothing, chain.networks(seeds, centres, ANY, ANY))
    assert photons.position_N2.shape == (0, 2)
    assert photons.event_N.shape == photons.energy_N.shape == photons.score_N.shape == (0,)
    np.testing.assert_array_equal(photons.slots(n_events), np.zeros((n_events, 4, 5)))
    assert photons.photons.position_N2.shape == (0, 2)


def test_slots_hold_photons_by_rank() -> None:
    photons = PhotonCodes(
        event_N=np.array([1, 1, 3]),
        position_N2=np.array([[10, 11], [20, 21], [30, 31]]),
        energy_N=np.array([100, 200, 300]),
        score_N=np.array([-1, 5, 0]),
        fraction=3,
    )
    expected = np.zeros((5, 4, 5), int)
    expected[1, 0] = 1, 10, 11, 100, -1
    expected[1, 1] = 1, 20, 21, 200, 5
    expected[3, 0] = 1, 30, 31, 300, 0
    slots = photons.slots(5)
    assert slots.dtype == np.int64
    np.testing.assert_array_equal(slots, expected)
    values = photons.photons
    assert values.event_N.tolist() == [1, 1, 3]
    assert values.position_N2.tolist() == [[1.25, 1.375], [2.5, 2.625], [3.75, 3.875]]
    assert values.energy_N.tolist() == [12.5, 25, 37.5]
    assert values.score_N.tolist() == [-0.125, 0.625, 0]


def test_other_executors_are_taken_when_they_are_given(codes: np.ndarray, seeds: Graph, centres: Graph) -> None:
    calls = []

    def run_of(graph: Graph) -> Any:
        def run(inputs: np.ndarray) -> np.ndarray:
            calls.append(inputs.shape)
            return graph.run(inputs)[graph.outputs[0].name]

        return run

    nets = chain.networks(seeds, centres, ANY, ANY, (run_of(seeds), run_of(centres)))
    photons = chain.integer_photons(codes, nets)
    windows, members = calls
    assert windows == (len(windowing.extract(codes).event_W), 1, 7, 7)
    assert members == (len(photons.event_N), 81)
    np.testing.assert_array_equal(
        photons.slots(N), chain.integer_photons(codes, chain.networks(seeds, centres, ANY, ANY)).slots(N)
    )


# What is refused


def small(fmt: Format, outputs: int, bias_fraction: int = 0, names: tuple[str, ...] = ("photon",), **source: Any) -> Graph:
    weights = Dense(
        "dense", ("input",), np.ones((outputs, 81), np.int64), np.zeros(outputs, np.int64), Format(True, 2, bias_fraction)
    )
    return Graph((InputQuantiser("input", (81,), fmt, **source), weights, *(Output(name, ("dense",)) for name in names)))


RIGHT = Format(False, 12, 8)


def test_networks_that_fit_are_taken(seeds: Graph, centres: Graph) -> None:
    nets = chain.networks(seeds, centres, 7, -3)
    assert isinstance(nets, Networks)
    assert (nets.seed_threshold, nets.photon_threshold) == (7, -3)
    assert nets.fraction == centres.tensors["photon"].format.fraction >= 5
    assert chain.networks(seeds, small(RIGHT, 4), 0, 0).fraction == 8


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (small(Format(False, 12, 5), 4), "center finder: takes ufixed<12,7> (81,); the reconstruction gives ufixed<12,4> (81,)"),
        (small(Format(True, 13, 8), 4), "center finder: takes fixed<13,5> (81,); the reconstruction gives ufixed<12,4> (81,)"),
        (small(RIGHT, 3), "center finder: gives 3 outputs; the reconstruction takes 4, with a power-of-two scale"),
        (small(RIGHT, 4, -4), "center finder: outputs have 4 fraction bits; the crystals' 5 are needed"),
        (
            small(RIGHT, 4, names=("photon", "other")),
            "center finder: has 2 outputs (photon, other); the reconstruction takes one",
        ),
        (
            small(RIGHT, 4, scale=0.75),
            "center finder: its input has a scale or a zero point; the reconstruction's codes have a power-of-two scale only",
        ),
        (
            small(RIGHT, 4, zero_point=3),
            "center finder: its input has a scale or a zero point; the reconstruction's codes have a power-of-two scale only",
        ),
    ],
)
def test_a_center_finder_that_does_not_fit_is_refused(graph: Graph, message: str, seeds: Graph) -> None:
    with pytest.raises(BadData) as caught:
        chain.networks(seeds, graph, 0, 0)
    assert str(caught.value) == message


def test_exchanged_networks_are_refused(seeds: Graph, centres: Graph) -> None:
    with pytest.raises(BadData) as caught:
        chain.networks(centres, seeds, 0, 0)
    assert str(caught.value) == "seed finder: takes ufixed<12,4> (81,); the reconstruction gives ufixed<12,7> (1, 7, 7)"
    with pytest.raises(BadData) as caught:
        chain.networks(seeds, seeds, 0, 0)
    assert str(caught.value) == "center finder: takes ufixed<12,7> (1, 7, 7); the reconstruction gives ufixed<12,4> (81,)"


def test_outputs_with_a_scale_of_their_own_are_refused(seeds: Graph) -> None:
    right = small(RIGHT, 4)
    for change in ({"scale": np.full(4, 0.3)}, {"offset": np.full(4, 0.5)}):
        with pytest.raises(BadData) as caught:
            chain.networks(seeds, right.replacing("photon", **change), 0, 0)
        assert str(caught.value) == "center finder: gives 4 outputs; the reconstruction takes 4, with a power-of-two scale"


def test_two_inputs_are_refused(seeds: Graph) -> None:
    right = small(RIGHT, 4)
    two = Graph((InputQuantiser("more", (3,), RIGHT), *right.ops))
    with pytest.raises(Unsupported, match=r"^the network has 2 inputs \(more, input\), one expected$"):
        chain.networks(seeds, two, 0, 0)


# The float chain


def test_a_float_chain_of_the_same_networks_gives_the_same_photons(codes: np.ndarray, seeds: Graph, centres: Graph) -> None:
    """With crystals on the codes and networks that compute the integers' values, nothing is left to differ."""

    def values_of(graph: Graph) -> Any:
        return lambda x: graph.output_values(graph.run(graph.quantise_input(x)))[graph.outputs[0].name]

    cells = codes.astype(np.float32) / 32
    lsb = seeds.tensors[seeds.outputs[0].name].format.lsb
    scores = seeds.run(windowing.extract(codes).codes_WXY[:, None])[seeds.outputs[0].name]
    threshold = int(np.median(scores))
    nets = FloatNetworks(values_of(seeds), values_of(centres), "edge", threshold * lsb)
    photons = chain.float_photons(cells, nets)
    expected = chain.integer_photons(codes, chain.networks(seeds, centres, threshold, ANY)).photons
    assert len(photons.event_N) > N
    for field in ("event_N", "position_N2", "energy_N", "score_N"):
        np.testing.assert_array_equal(getattr(photons, field), getattr(expected, field))


def test_float_networks_see_undigitised_energies(cells: np.ndarray) -> None:
    seen: dict[str, np.ndarray] = {}

    def seeds(x: np.ndarray) -> np.ndarray:
        seen["windows"] = x
        return x[:, :, 3, 3].astype(float)  # the highest crystals

    def centres(x: np.ndarray) -> np.ndarray:
        seen["members"] = x
        return np.tile([0.25, -0.5, 2.0, 7.0], (len(x), 1))

    photons = chain.float_photons(cells, FloatNetworks(seeds, centres, "published", 0.0))
    codes = windowing.digitised(cells)
    extracted = windowing.extract(codes)
    assert seen["windows"].shape == (len(extracted.event_W), 1, 7, 7)
    number = 0
    for event in range(N):
        in_event = np.flatnonzero(extracted.event_W == event)
        for w in in_event:
            x, y = extracted.crystal_W2[w]
            np.testing.assert_array_equal(seen["windows"][w, 0], cells[event, x - 3 : x + 4, y - 3 : y + 4])
        ranked = sorted(
            in_event, key=lambda w: (-cells[event, extracted.crystal_W2[w, 0], extracted.crystal_W2[w, 1]], extracted.key[w])
        )[:4]
        for w in ranked:
            x, y = extracted.crystal_W2[w]
            window, _, applied = orient(codes[event, x - 3 : x + 4, y - 3 : y + 4].tolist(), [])
            own = seen["members"][number, 0, :49]
            np.testing.assert_array_equal(np.sort(own), np.sort(cells[event, x - 3 : x + 4, y - 3 : y + 4].ravel()))
            np.testing.assert_array_equal(windowing.digitised(own), np.ravel(window))
            assert photons.event_N[number] == event
            dx, dy = unorient(0.25, -0.5, applied)
            assert photons.position_N2[number].tolist() == [x + 0.5 + dx, y + 0.5 + dy]
            exponent = int(codes[event, x, y]).bit_length() - 1
            nine = int(codes[event, x - 1 : x + 2, y - 1 : y + 2].astype(int).sum())
            assert photons.energy_N[number] == nine / 32 + 2 * 2.0 ** (exponent - 4)
            number += 1
    assert number == len(photons.event_N) > N
    assert (photons.score_N == 7).all()


# Artifacts


def test_all_methods_reconstruct_the_same_events(cells: np.ndarray, centre_file: Path) -> None:
    torch = pytest.importorskip("torch")
    from caloedge.training.stages import build_network, weights_of

    recipe = read_recipe(ROOT / "models" / "center_finder" / "recipe.yaml")
    torch.manual_seed(5)
    untrained = {stage: build_network(recipe, stage) for stage in ("published", "edge")}
    centres: Any = SimpleNamespace(
        model=centre_file, recipe=recipe, weights=lambda stage: weights_of(untrained[stage]), manifest=None
    )
    both = Chain(read_artifact(ROOT / "models" / "seed_finder"), centres)
    points = both.seeds.manifest.working_points
    nets = both.integer()
    assert nets.seed_threshold == np.ceil(points[INTEGER])
    assert both.integer(12).photon_threshold == 12
    between: Any = SimpleNamespace(model=both.seeds.model, manifest=SimpleNamespace(working_points={INTEGER: -3.5}))
    assert Chain(between, centres).integer().seed_threshold == -3, "no code at or above the working point is lost"
    for stage, method in (("published", REFERENCE), ("edge", FLOAT)):
        assert both.floating(stage).seed_threshold == points[method]
        assert both.floating(stage).stage == stage
    few = cells[2:14]
    photons = {method: reconstruct(few) for method, reconstruct in chain.methods(both).items()}
    assert list(photons) == [REFERENCE, FLOAT, INTEGER, BASELINE, chain.PARTICLE_FLOW]
    integer = chain.integer_photons(windowing.digitised(few), nets).photons
    for field in ("event_N", "position_N2", "energy_N", "score_N"):
        np.testing.assert_array_equal(getattr(photons[INTEGER], field), getattr(integer, field))
        expected = getattr(clustering.reconstruct(few, clustering.TUNING), field)
        np.testing.assert_array_equal(getattr(photons[BASELINE], field), expected)
    for photons_of in photons.values():
        assert 8 < len(photons_of.event_N) < 60
        assert np.isfinite(photons_of.energy_N).all()
        assert (np.diff(photons_of.event_N) >= 0).all()
    none = np.zeros((2, GRID, GRID), np.float32)
    for method, reconstruct in chain.methods(both).items():
        assert len(reconstruct(none).event_N) == 0, method


# Photons of several blocks


def test_photons_are_selected_and_joined() -> None:
    first = Photons(np.array([0, 2]), np.array([[1.0, 2], [3, 4]]), np.array([5.0, 6]), np.array([0.5, -0.5]))
    second = Photons(np.array([0]), np.array([[7.0, 8]]), np.array([9.0]), np.array([0.0]))
    joined = chain.joined([(0, {"a": first, "b": second}), (10, {"a": second, "b": first})])
    assert list(joined) == ["a", "b"]
    assert joined["a"].event_N.tolist() == [0, 2, 10]
    assert joined["b"].event_N.tolist() == [0, 10, 12]
    assert joined["a"].position_N2.tolist() == [[1, 2], [3, 4], [7, 8]]
    assert joined["b"].energy_N.tolist() == [9, 5, 6]
    at = chain.selected(joined["a"], 0.0)
    assert (at.event_N.tolist(), at.score_N.tolist(), at.energy_N.tolist()) == ([0, 10], [0.5, 0.0], [5, 9])
    assert at.position_N2.tolist() == [[1, 2], [7, 8]]
