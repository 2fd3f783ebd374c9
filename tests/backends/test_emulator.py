"""The C++ emulator against `Graph.run` with `==`: every operation, several inputs and outputs, several models at once."""

import json
import re
import shutil
import subprocess
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from brute_force import extreme_codes
from edges import EDGES, at_the_edge, codes_at_the_edge
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from nodes import RULES, by_hand, clustered, nodes_graph
from random_networks import graphs

from caloedge.backends.emulator import BACKEND
from caloedge.backends.emulator.binding import Emulator, emulate
from caloedge.backends.emulator.layout import SIZES, Buffer, _Memory, code_type, number_type, padded_shape, plan, rounding_type
from caloedge.backends.emulator.project import BUILDS, build
from caloedge.backends.emulator.source import PARTS, LibrarySource, write
from caloedge.catalog import Target, find
from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import (
    Add,
    Affine,
    Condense,
    Conv,
    Dense,
    InputQuantiser,
    MatMul,
    MaxPool,
    Multiply,
    Nearest,
    Op,
    Output,
    Rearrange,
    Requantise,
    Reshape,
    Softmax,
    Table,
    Take,
    Threshold,
    TopK,
)
from caloedge.errors import BadData, MissingTool, UserError
from caloedge.project import read_record, write_record

TARGET = find(Target, "xcvu13p")
QUICK = "-O1"
WEIGHT = Format(True, 6, 3)


def codes_of(rng: np.random.Generator, fmt: Format, *shape: int) -> np.ndarray:
    return rng.integers(fmt.min_code, fmt.max_code, shape, endpoint=True)


def stimuli(graph: Graph, n_events: int, seed: int = 3) -> dict[str, np.ndarray]:
    """Return random codes by input, with the two extreme events first."""
    rng, found = np.random.default_rng(seed), {}
    for op in graph.inputs:
        low, high = graph.tensors[op.name].range
        found[op.name] = rng.integers(low, high, (n_events, *op.shape), endpoint=True)
        found[op.name][:2] = np.array([low, high]).reshape(-1, *(1,) * len(op.shape))[:n_events]
    return found


def same(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> bool:
    return list(a) == list(b) and all(a[name].dtype == np.int64 and np.array_equal(a[name], b[name]) for name in b)


def built(graph: Graph, folder: Path, variant: str = "native", optimisation: str = QUICK) -> Path:
    build(graph, TARGET, variant, folder, {}, name="test", optimisation=optimisation)
    return folder


def outputs(*names: str) -> list[Op]:
    return [Output(f"out_{name}", (name,)) for name in names]


def sums() -> Graph:
    """Return convolutions over 1 to 3 axes, dense layers and pools, in float, double and 64-bit integers."""
    rng = np.random.default_rng(11)
    wide = Format(True, 30, 4)
    after = Format(False, 6, 1)
    return Graph(
        (
            InputQuantiser("image", (4, 5, 6), Format(True, 6, 2), narrow=True),
            Conv("grouped", ("image",), codes_of(rng, WEIGHT, 6, 2, 3, 2), codes_of(rng, WEIGHT, 6), WEIGHT,
                 (2, 1), (1, 0, 2, 1), (1, 2), groups=2),
            Requantise("act", ("grouped",), after, relu=True),
            Conv("many", ("act",), codes_of(rng, WEIGHT, 29, 6, 1, 1), codes_of(rng, WEIGHT, 29), WEIGHT),
            MaxPool("pool", ("many",), (2, 2), (1, 2), (2, 1)),
            Conv("depthwise", ("act",), codes_of(rng, wide, 6, 1, 2, 2), codes_of(rng, wide, 6), wide, groups=6),
            Requantise("act2", ("depthwise",), Format(True, 40, 3), relu=False),
            InputQuantiser("volume", (2, 3, 4, 3), Format(False, 24, -3)),
            Conv("solid", ("volume",), codes_of(rng, wide, 3, 2, 2, 2, 2), codes_of(rng, wide, 3), wide,
                 (1, 2, 1), (0, 1, 0, 1, 0, 1)),
            MaxPool("cubes", ("solid",), (2, 1, 2), (1, 1, 1)),
            Reshape("rows", ("cubes",), (6, -1)),
            Requantise("narrow", ("rows",), Format(True, 12, -25), relu=False, narrow=True),
            Dense("each", ("narrow",), codes_of(rng, WEIGHT, 5, 4), codes_of(rng, WEIGHT, 5), WEIGHT),
            InputQuantiser("trace", (1, 7), Format(True, 9, 0)),
            Conv("line", ("trace",), codes_of(rng, WEIGHT, 13, 1, 3), codes_of(rng, WEIGHT, 13), WEIGHT, (3,), (2, 1), (2,)),
            *outputs("pool", "act2", "cubes", "each", "line", "trace"),
        )
    )  # fmt: skip


def steps() -> Graph:
    """Return every rounding at every kind of shift, thresholds and tables of every kind, and element by element arithmetic."""
    rng = np.random.default_rng(12)
    ops: list[Op] = [
        InputQuantiser("x", (3, 4), Format(True, 12, 3)),
        InputQuantiser("wide", (3, 4), Format(True, 50, 10)),
        Affine("scaled", ("x",), codes_of(rng, WEIGHT, 3, 1), codes_of(rng, WEIGHT, 3, 1), WEIGHT),
        Affine("all", ("wide",), codes_of(rng, WEIGHT, 3, 4), codes_of(rng, WEIGHT, 3, 4), WEIGHT),
    ]
    for rounding in Rounding:
        for number, (source, fmt) in enumerate([
            ("x", Format(True, 5, 0)), ("x", Format(True, 30, 20)), ("x", Format(False, 7, 3)), ("wide", Format(True, 6, -36)),
            ("wide", Format(True, 30, -4)), ("x", Format(True, 4, -57)), ("x", Format(True, 4, -70)),
            ("all", Format(True, 62, 9)),
        ]):  # fmt: skip
            name = f"{rounding.value}_{number}"
            ops.append(Requantise(name, (source,), fmt, relu=number == 2, rounding=rounding))
            ops += outputs(name)
    ops.append(Requantise("limited", ("x",), Format(True, 8, 1), relu=False, limits=(-7, 50)))
    few, many = np.sort(codes_of(rng, Format(True, 13, 0), 3, 1, 5)), np.sort(codes_of(rng, Format(True, 13, 0), 1, 4, 200))
    far = np.sort(codes_of(rng, Format(True, 52, 0), 1, 1, 70))
    ops += [
        Threshold("sign", ("x",), np.full((3, 4, 1), 17), 1, -2, Format(True, 2, 0)),
        Threshold("few", ("x",), few, -3, 2, Format(True, 5, 0)),
        Threshold("many", ("x",), many, 0, 1, Format(False, 8, 2)),
        Threshold("far", ("wide",), far, 100, -1, Format(True, 8, 2)),
        Table("table", ("x",), codes_of(rng, Format(True, 20, 0), 3, 1, 4096), -2048, Format(True, 20, 0)),
        Table("common", ("x",), codes_of(rng, Format(False, 8, 0), 1, 1, 5000), -2500, Format(False, 8, 0)),
        InputQuantiser("row", (1, 4), Format(False, 5, 6)),
        Add("sum", ("x", "row")),
        Add("long", ("wide", "row")),
        Add("plain", ("x", "scaled")),
        Multiply("product", ("row", "x")),
        Multiply("square", ("scaled", "scaled")),
        *outputs("scaled", "all", "limited", "sign", "few", "many", "far", "table", "common", "sum", "long", "plain", "product"),
        *outputs("square"),
    ]
    return Graph(tuple(ops))


def moves() -> Graph:
    """Return moves between number types, choices along the last axis, products of two tensors, awkward names."""
    rng = np.random.default_rng(13)
    index = rng.permutation(np.r_[np.arange(24), -1, -1, np.arange(10)]).reshape(4, 9)
    x, wide = "x/int *?", 'wide"\\é?'
    exponentials = np.rint(4095 * np.exp(-np.arange(40) / 8)).astype(np.int64)
    ops: list[Op] = [
        InputQuantiser(x, (3, 4), Format(True, 5, 2)),
        InputQuantiser(wide, (2, 6), Format(True, 55, 2), scale=0.3, zero_point=-5),
        Rearrange("float", (x, wide), index, fill=-3),
        Rearrange("swapped", (x,), np.arange(12).reshape(3, 4).T),
        InputQuantiser("coarse", (1, 4, 3), Format(True, 3, 0)),
        Softmax("softmax", ("swapped",), exponentials, (255, 1), Format(False, 8, 8)),
        Softmax("halves", ("coarse",), np.ones(1, dtype=np.int64), (3, 2), Format(False, 1, 0)),
        TopK("best", ("coarse",), 2, largest=True, part="values"),
        TopK("which", ("coarse",), 3, largest=True, part="indices"),
        TopK("least", ("float",), 4, largest=False, part="values"),
        TopK("where", ("coarse",), 1, largest=False, part="indices"),
        Reshape("stack", ("swapped",), (2, 2, 3)),
        Rearrange("turned", ("coarse",), np.arange(12).reshape(1, 4, 3).swapaxes(1, 2)),
        MatMul("attention", ("stack", "turned")),
        MatMul("twice", (x, "swapped")),
        Reshape("again", ("stack",)),
        *outputs("float", "softmax", "halves", "best", "which", "least", "where", "attention", "twice", "again", "coarse"),
    ]
    ops.append(Output("scores", ("again",), scale=np.linspace(0.1, 1.2, 12), offset=np.array(0.25)))
    return Graph(tuple(ops))


def nodes() -> Graph:
    """Return searches among nodes and condensations in every number type; of some, one half or none leaves."""
    ops: list[Op] = []
    for number, (fmt, reach, k) in enumerate(((Format(True, 8, 6), 36, 7), (Format(False, 14, 0), 9000, 3), (WIDE, 2**34, 1))):
        ends = f"coordinates{number}", f"valid{number}"
        condense = f"score{number}", *ends
        ops += [
            InputQuantiser(ends[0], (9, 1 + 2 * number), fmt),
            InputQuantiser(ends[1], (9,), Format(True, 2 + 20 * number, 0)),
            InputQuantiser(condense[0], (9,), Format(True, 4 + 22 * number, 0)),
            Condense(f"points{number}", condense, -1, reach, 3, "indices"),
            Nearest(f"distances{number}", ends, k, reach, "distances"),
            Take(f"accepted{number}", (ends[0], f"points{number}")),
            Nearest(f"indices{number}", ends, k, reach, "indices"),
            Condense(f"status{number}", condense, -1, reach, 3, "status"),
            Take(f"taken{number}", (ends[0], f"indices{number}")),
        ]
    leaving = (
        "distances0",
        "accepted1",
        "status1",
        "points2",
        "distances2",
        "indices1",
        "taken0",
        "taken2",
        "accepted0",
        "taken1",
    )
    ops.append(Nearest("again", ("coordinates0", "valid0"), 2, 40, "distances"))
    return Graph((*ops, *outputs(*leaving, "again", "status2", "points0")))


WIDE = Format(True, 40, 3)
HAND_MADE = {"sums": sums, "steps": steps, "moves": moves, "nodes": nodes}


@pytest.fixture(scope="module", params=HAND_MADE)
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Graph, Path]:
    graph = HAND_MADE[request.param]()
    return graph, built(graph, tmp_path_factory.mktemp("emulator") / f"{request.param} native", optimisation="-O3")


def test_every_operation_is_exact(project: tuple[Graph, Path]) -> None:
    graph, folder = project
    for n_events in (0, 1, 2, 31, 32, 33, 500):
        codes = stimuli(graph, n_events)
        assert same(BACKEND.emulate(folder, codes), graph.run(codes)), n_events


LEVELS = BUILDS["portable"]


@pytest.mark.parametrize("level", ["plain", "avx2"])
@pytest.mark.parametrize("name", HAND_MADE)
def test_every_instruction_set_is_exact(tmp_path: Path, name: str, level: str) -> None:
    """A machine without AVX2 tests the plain one twice; `native` is AVX-512 where the machine has it."""
    graph = HAND_MADE[name]()
    builds = {"plain": (), level: LEVELS[level]}
    build(graph, TARGET, "portable", tmp_path / "project", {}, optimisation=QUICK, builds=builds)
    codes = stimuli(graph, 100)
    assert same(emulate(tmp_path / "project", codes), graph.run(codes))


def test_a_machine_without_the_instructions_takes_the_next_build(tmp_path: Path) -> None:
    if "avx512_vbmi" in Path("/proc/cpuinfo").read_text():
        pytest.skip("this machine has all instructions")
    vbmi = ("-march=icelake-server",)
    folder = tmp_path / "project"
    build(chain(), TARGET, "portable", folder, {}, optimisation=QUICK, builds={"plain": (), "avx512": vbmi})
    codes = stimuli(chain(), 50)
    assert same(emulate(folder, codes), chain().run(codes))
    build(chain(), TARGET, "native", folder, {}, optimisation=QUICK, builds={"plain": vbmi})
    with pytest.raises(UserError) as caught:
        emulate(folder, codes)
    assert str(caught.value) == (
        f"{folder / read_record(folder)['library']}: this machine lacks memory or instructions that it was built for; "
        "build the project again here"
    )


def test_the_compiler_has_nothing_to_say(project: tuple[Graph, Path]) -> None:
    _, folder = project
    assert (folder / "build.log").read_text() == ""


def test_the_number_of_threads_changes_nothing(project: tuple[Graph, Path]) -> None:
    graph, folder = project
    codes = stimuli(graph, 333)
    wanted = graph.run(codes)
    for threads in (1, 2, 3, 100):
        with Emulator(folder, threads) as emulator:
            assert same(emulator.run(codes), wanted), threads
            few = {name: array[:1] for name, array in codes.items()}
            assert same(emulator.run(few), {name: array[:1] for name, array in wanted.items()})


def test_the_hand_made_networks_hold_every_operation() -> None:
    found = {type(op) for make in HAND_MADE.values() for op in make().ops}
    assert found == set(Op.__args__)


@settings(max_examples=6, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(graph=graphs())
def test_random_networks_are_exact(graph: Graph, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = built(graph, tmp_path_factory.mktemp("random") / "project")
    codes = stimuli(graph, 100)
    assert same(emulate(folder, codes), graph.run(codes))


@pytest.mark.parametrize("limit", EDGES.values(), ids=EDGES)
def test_sums_at_the_edge_of_a_number_type_are_exact(limit: int, tmp_path: Path) -> None:
    """float counts to 2**24 and double to 2**53: inputs that cancel go beyond on the way and come back."""
    graph, codes = at_the_edge(limit), codes_at_the_edge()
    assert same(emulate(built(graph, tmp_path / "project"), codes), graph.run(codes))


def test_both_ends_of_every_sum_are_exact(tmp_path: Path) -> None:
    """Inputs chosen by the sign of each weight drive every sum to its lowest and its highest code."""
    graph = Graph((*chain().ops, Output("sums", ("conv",))))
    codes, conv = extreme_codes(graph), graph.tensors["conv"]
    found = emulate(built(graph, tmp_path / "project"), codes)
    assert same(found, graph.run(codes))
    lowest, highest, _ = np.split(found["sums"].reshape(len(codes), -1), 3)
    assert np.diagonal(lowest).tolist() == conv.low.reshape(-1).tolist()
    assert np.diagonal(highest).tolist() == conv.high.reshape(-1).tolist()


def test_the_narrowest_number_type_is_that_of_the_bound() -> None:
    assert [number_type(2**24 + step) for step in (-1, 0)] == ["float", "double"]
    assert [number_type(2**53 + step) for step in (-1, 0)] == ["double", "int64_t"]


def test_the_narrowest_integer_type_holds_both_ends() -> None:
    """One code more needs the next type: at the ports a code that does not fit would wrap."""
    for low, high, name in (
        (0, 0, "uint8_t"), (0, 255, "uint8_t"), (0, 256, "uint16_t"), (0, 2**16 - 1, "uint16_t"), (0, 2**16, "uint32_t"),
        (0, 2**32 - 1, "uint32_t"), (0, 2**32, "int64_t"), (-1, 0, "int8_t"), (-128, 127, "int8_t"), (-129, 0, "int16_t"),
        (-1, 128, "int16_t"), (-(2**15), 2**15 - 1, "int16_t"), (-(2**15) - 1, 0, "int32_t"), (-(2**31), 2**31 - 1, "int32_t"),
        (-(2**31) - 1, 0, "int64_t"), (-1, 2**31, "int64_t"),
    ):  # fmt: skip
        assert code_type(low, high) == name, (low, high)


def test_a_padded_copy_has_room_for_both_borders() -> None:
    graph = sums()
    assert padded_shape(graph["grouped"], (4, 5, 6)) == (4, 8, 7)  # type: ignore[arg-type]
    assert padded_shape(graph["line"], (1, 7)) == (1, 10)  # type: ignore[arg-type]
    layout = plan(graph)
    assert {name: buffer.elements for name, buffer in layout.scratch.items()} == {
        "grouped": 4 * 8 * 7,
        "solid": 2 * 4 * 5 * 4,
        "line": 10,
    }
    for buffer in layout.scratch.values():
        assert buffer.offset + buffer.size <= layout.size


def rounding_of(width: int, high: int, shift: int, rounding: Rounding = Rounding.HALF_EVEN, fraction: int = 0) -> str | None:
    ops = (
        InputQuantiser("x", (1,), Format(False, width, fraction)),
        Requantise("r", ("x",), Format(False, 60, fraction - shift), relu=False, rounding=rounding, limits=(0, high)),
    )
    graph = Graph((*ops, Output("y", ("r",))))
    return rounding_type(graph["r"], graph.tensors["x"])


def test_floating_point_rounds_only_what_it_can_round_exactly() -> None:
    """Rounding adds 1.5 * 2**23 (2**52 in double): a result above 2**22 (2**51) would be left with steps of two."""
    assert [rounding_of(24, 2**22 + step, 1) for step in (0, 1)] == ["float", "double"]
    assert [rounding_of(25, high, 1) for high in (2**22, 2**51)] == ["double", "double"]
    assert [rounding_of(53, 2**51 + step, 1) for step in (0, 1)] == ["double", None]
    assert rounding_of(54, 7, 1) is None
    for fraction in (0, -40, 40):
        assert [rounding_of(24, 7, shift, fraction=fraction) for shift in (63, 64)] == ["float", None]
    assert {rounding_of(24, 7, 1, rounding) for rounding in Rounding if rounding is not Rounding.HALF_EVEN} == {None}


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(graph=graphs())
def test_no_buffer_is_overwritten_before_its_last_reader(graph: Graph) -> None:
    check_plan(graph)


@pytest.mark.parametrize("name", HAND_MADE)
def test_no_buffer_of_the_hand_made_networks_is_overwritten(name: str) -> None:
    check_plan(HAND_MADE[name]())


def check_plan(graph: Graph) -> None:
    """Replay a plan of memory: each byte must still belong to whom a reader expects."""
    # Halves of one search are written together, by the second.
    layout = plan(graph)
    holder: dict[int, int] = {}
    content: dict[str, int] = {}  # every result has a number; those that only rename share it
    fresh = iter(range(10**6))

    def written(name: str) -> None:
        content[name] = next(fresh)
        buffer = layout.buffers[name]
        assert buffer.offset % 64 == 0
        assert buffer.offset + buffer.size <= layout.size
        holder.update(dict.fromkeys(range(buffer.offset, buffer.offset + buffer.size, 64), content[name]))

    def read(name: str) -> None:
        if name in layout.fused:
            for source in graph[name].inputs:
                read(source)
            return
        buffer = layout.buffers[name]
        assert {holder[byte] for byte in range(buffer.offset, buffer.offset + buffer.size, 64)} == {content[name]}, name

    for op in graph.inputs:
        written(op.name)
    assert sorted(op.name for op in layout.order) == sorted(op.name for op in graph.ops)
    for op in layout.order:
        if op.name in {*layout.fused, *layout.first_half.values()} or isinstance(op, InputQuantiser):
            continue
        if isinstance(op, Reshape | Output):
            content[op.name] = content[op.inputs[0]]
            continue
        sources = graph[op.inputs[0]].inputs if op.inputs[0] in layout.fused else op.inputs
        for name in op.inputs:
            read(name)
        written(op.name)
        if op.name in layout.first_half:
            written(layout.first_half[op.name])
        if (scratch := layout.scratch.get(op.inputs[0] if op.inputs[0] in layout.fused else op.name)) is not None:
            assert scratch.offset + scratch.size <= layout.size
            holder.update(dict.fromkeys(range(scratch.offset, scratch.offset + scratch.size, 64), -1))
        for name in (*sources, op.name, *((layout.first_half[op.name],) if op.name in layout.first_half else ())):
            read(name)  # neither result nor scratch overwrites what is still being read, or each other
    for op in graph.outputs:
        read(op.name)


@settings(deadline=None, max_examples=200, derandomize=True)
@given(st.lists(st.one_of(st.tuples(st.sampled_from(sorted(SIZES)), st.integers(1, 9)), st.integers(0, 9)), max_size=40))
def test_memory_is_given_to_the_first_gap_that_fits(calls: list[tuple[str, int] | int]) -> None:
    """Against a row of blocks that are free or not: what is given back joins its neighbours, and only the end grows."""
    memory = _Memory()
    taken: list[Buffer] = []
    row: list[bool] = []
    for call in calls:
        if isinstance(call, int):
            if call < len(taken):
                buffer = taken.pop(call)
                memory.give_back(buffer)
                row[buffer.offset // 64 : (buffer.offset + buffer.size) // 64] = [False] * (buffer.size // 64)
            continue
        size = -(-call[1] * 32 * SIZES[call[0]] // 64)
        starts = [at for at in range(len(row) + 1) if not any(row[at : at + size])]
        at = next(at for at in starts if at + size <= len(row) or not any(row[at:]))
        row += [False] * (at + size - len(row))
        row[at : at + size] = [True] * size
        taken.append(memory.take(*call))
        assert (taken[-1].type, taken[-1].elements) == call
        assert (taken[-1].offset, taken[-1].size) == (64 * at, 64 * size)
        assert memory.size == 64 * len(row)


def chain(seed: int = 5) -> Graph:
    """Return a small image network with one input and one output."""
    rng = np.random.default_rng(seed)
    return Graph(
        (
            InputQuantiser("x", (2, 5, 6), Format(True, 6, 2)),
            Conv("conv", ("x",), codes_of(rng, WEIGHT, 3, 2, 3, 3), codes_of(rng, WEIGHT, 3), WEIGHT),
            Requantise("act", ("conv",), Format(False, 6, 1), relu=True),
            Reshape("flat", ("act",)),
            Dense("dense", ("flat",), codes_of(rng, WEIGHT, 3, 36), codes_of(rng, WEIGHT, 3), WEIGHT),
            Output("scores", ("dense",)),
        )
    )


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(chain(), tmp_path_factory.mktemp("small") / "project")


def test_a_flipped_weight_and_another_rounding_are_caught(tmp_path: Path) -> None:
    graph = chain()
    weights = graph["dense"].weights.copy()
    weights[1, 7] ^= 1
    codes = stimuli(graph, 400)
    wanted = graph.run(codes)
    for number, broken in enumerate(
        (graph.replacing("dense", weights=weights), graph.replacing("act", rounding=Rounding.HALF_UP))
    ):
        found = emulate(built(broken, tmp_path / str(number)), codes)
        assert not same(found, wanted)
        assert same(found, broken.run(codes))


def test_equal_nodes_padding_and_few_hits_are_exact(tmp_path: Path) -> None:
    """Random codes hardly ever tie: see `clustered`."""
    for number, (nodes, axes, fmt, k, reach) in enumerate(
        ((12, 6, Format(True, 8, 6), 7, 36), (5, 2, Format(False, 13, 0), 5, 4000), (6, 1, WIDE, 2, 2**36), (1, 1, WEIGHT, 1, 3))
    ):
        graph = nodes_graph(nodes, axes, fmt, k, reach)
        rng = np.random.default_rng(number)
        codes = clustered(rng, 70, fmt, nodes, axes) | {"values": codes_of(rng, Format(True, 8, 0), 70, nodes, 3)}
        found = emulate(built(graph, tmp_path / str(number)), codes)
        assert {name: array.tolist() for name, array in found.items()} == by_hand(graph, codes)


BROKEN_SEARCH = {
    "tie": ("+ T(j);", "+ T((1 << bits) - 1 - j);"),
    "self": ("row_fill(reach, row(own, axes));", ""),
    "padding": ("row(valid, j)[e] > 0 ? T(0) : reach;", "T(0);"),
}
"""Text of the fixed parts that makes each rule, and a wrong one."""


@pytest.mark.parametrize("rule", [*RULES, "table"])
def test_a_broken_rule_of_the_search_is_caught(rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fmt, rng = Format(True, 8, 6), np.random.default_rng(0)
    graph = nodes_graph(12, 6, fmt, 7, 36)
    weights = np.rint(128 * np.exp(-np.arange(37) / 6.4)).astype(np.int64)
    table = Table("weights", ("distances",), weights.reshape(1, 1, -1), 0, Format(False, 8, 7))
    graph = Graph((*graph.ops, table, Output("weights_out", ("weights",))))
    codes = clustered(rng, 70, fmt, 12, 6) | {"values": codes_of(rng, Format(True, 8, 0), 70, 12, 3)}
    wanted = graph.run(codes)
    if rule == "table":
        weights[5] += 1
        graph = graph.replacing("weights", values=weights.reshape(1, 1, -1))
    else:
        original, wrong = BROKEN_SEARCH[rule]
        monkeypatch.setattr("caloedge.backends.emulator.project.write", lambda *words: corrupted(write(*words), original, wrong))
    found = emulate(built(graph, tmp_path / "project"), codes)
    assert not same(found, wanted)
    if rule == "tie":
        assert np.array_equal(found["distances_out"], wanted["distances_out"])


def corrupted(source: LibrarySource, original: str, wrong: str) -> LibrarySource:
    text = source.files["caloedge_nodes.h"]
    assert text.count(original) == 1
    return replace(source, files=source.files | {"caloedge_nodes.h": text.replace(original, wrong)})


def test_codes_of_every_integer_type_are_taken(small: Path) -> None:
    codes = stimuli(chain(), 70)["x"]
    wanted = chain().run(codes)
    with Emulator(small) as emulator:
        for array in (codes.astype(np.int8), codes.astype(np.int32), codes[:, :, :, ::-1].copy()[:, :, :, ::-1]):
            assert same(emulator.run(array), wanted)
        assert same(emulator.run({"x": codes}), wanted)


def test_models_and_versions_in_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    first, second, other = chain(5), chain(6), moves()
    folders = [built(graph, tmp_path / str(number)) for number, graph in enumerate((first, second, other))]
    models = [Emulator(folder, threads=2) for folder in folders]
    same_again = Emulator(folders[0])
    for seed in range(3):
        for graph, emulator in zip((first, second, other, first), (*models, same_again), strict=True):
            codes = stimuli(graph, 100, seed)
            assert same(emulator.run(codes), graph.run(codes))
    models[0].close()
    codes = stimuli(first, 50, 9)
    assert same(same_again.run(codes), first.run(codes))
    # a new version in the place of the old one
    build(second, TARGET, "native", folders[0], {}, name="test", optimisation=QUICK)
    assert same(emulate(folders[0], codes), second.run(codes))
    assert same(same_again.run(codes), first.run(codes))


def test_models_run_side_by_side_in_threads(small: Path) -> None:
    graph = chain()
    wrong: list[bool] = []

    def work(seed: int) -> None:
        codes = stimuli(graph, 2000, seed)
        with Emulator(small) as emulator:
            wrong.extend(not same(emulator.run(codes), graph.run(codes)) for _ in range(5))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == [False] * 20


@pytest.mark.parametrize("place", [0, 31, 32, 69])
@pytest.mark.parametrize("code", [-33, 32, 10**6, -(2**60)])
def test_codes_out_of_range_are_refused(small: Path, place: int, code: int) -> None:
    codes = stimuli(chain(), 70)["x"]
    codes[place, 1, 4, 5] = code
    low, high = min(code, -32), max(code, 31)
    for array in (codes, codes.astype(np.int8)) if -128 <= code < 128 else (codes,):
        with pytest.raises(UserError) as caught:
            emulate(small, array)
        assert str(caught.value) == f"{small}: codes of input x reach from {low} to {high}; -32 to 31 are allowed"


def test_what_does_not_fit_is_refused(small: Path, tmp_path: Path) -> None:
    codes = stimuli(chain(), 3)["x"]
    wanted = {
        "input codes are int64 (3, 2, 5, 5); integers (N, 2, 5, 6) expected": codes[..., 1:],
        "input codes are float64 (3, 2, 5, 6); integers (N, 2, 5, 6) expected": codes.astype(float),
        "input codes are int64 (); integers (N, 2, 5, 6) expected": np.int64(3),
        "input codes for y given; the inputs are: x": {"y": codes},
    }
    for message, given_codes in wanted.items():
        with pytest.raises(UserError) as caught:
            emulate(small, given_codes)
        assert str(caught.value) == f"{small}: {message}"
    with pytest.raises(UserError, match=r"^0 threads asked for; at least 1 is needed$"):
        Emulator(small, threads=0)
    emulator = Emulator(small)
    emulator.close()
    emulator.close()
    with pytest.raises(UserError, match=r": the emulator is closed; open it again$"):
        emulator.run(codes)
    with pytest.raises(UserError, match=r"no caloedge\.json there; make a project with: "):
        emulate(tmp_path, codes)


def test_several_inputs_go_by_name(project: tuple[Graph, Path]) -> None:
    graph, folder = project
    codes = stimuli(graph, 5)
    first = next(iter(codes))
    names = ", ".join(codes)
    with pytest.raises(UserError) as caught:
        emulate(folder, codes[first])
    assert str(caught.value) == f"{folder}: has {len(codes)} inputs ({names}); give their codes by name"
    with pytest.raises(UserError, match=re.escape(f"{folder}: the inputs have different numbers of events: {first} 4, ")):
        emulate(folder, codes | {first: codes[first][:4]})


def test_a_moved_folder_works(small: Path, tmp_path: Path) -> None:
    moved = tmp_path / "else where" / "project"
    shutil.copytree(small, moved)
    codes = stimuli(chain(), 40)
    assert same(emulate(moved, codes), chain().run(codes))


@pytest.mark.parametrize("content", [b"not a library", b"", None])
def test_a_damaged_or_missing_library_is_one_line(small: Path, tmp_path: Path, content: bytes | None) -> None:
    moved = tmp_path / "project"
    shutil.copytree(small, moved)
    library = moved / read_record(moved)["library"]
    library.unlink()
    if content is not None:
        library.write_bytes(content)
    with pytest.raises(BadData) as caught:
        emulate(moved, stimuli(chain(), 1))
    assert str(caught.value).startswith(f"{library}: cannot be loaded (")
    assert str(caught.value).endswith("); build the project again on this machine")
    assert "\n" not in str(caught.value)


def test_a_library_of_another_model_is_refused(small: Path, tmp_path: Path) -> None:
    moved = tmp_path / "project"
    shutil.copytree(small, moved)
    write_record(moved, read_record(moved) | {"namespace": "caloedge_test_00000000"})
    with pytest.raises(BadData, match=r"cannot be loaded \(.*undefined symbol: caloedge_test_00000000_create\); build the"):
        emulate(moved, stimuli(chain(), 1))


def test_without_a_compiler_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match=r"^g\+\+ not found on PATH; install a C\+\+ compiler"):
        BACKEND.build(chain(), TARGET, "native", tmp_path / "project", {})
    assert not list(tmp_path.iterdir())


def test_a_build_that_fails_leaves_its_log_beside(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^g\+\+ failed with exit code 1; see .*project\.build\.log; it ends: "):
        built(chain(), tmp_path / "project", optimisation="--no-such-option")
    assert [path.name for path in tmp_path.iterdir()] == ["project.build.log"]


def test_text_is_the_same_every_time_and_for_every_name() -> None:
    text = write(chain(), "My model, v2")
    assert text == write(chain(), "My model, v2")
    digest = chain().digest
    assert text.prefix == f"caloedge_my_model_v2_{digest[:8]}"
    assert write(chain(), "…").prefix == f"caloedge_network_{digest[:8]}"
    assert write(chain(6), "…").prefix != write(chain(), "…").prefix
    header = text.files[f"{text.prefix}.h"]
    assert "   input x_codes: int8_t [2, 5, 6], fixed<6,4>, codes -32 to 31\n" in header
    prefix = text.prefix
    assert f"int {prefix}_predict({prefix}_model *model, const int8_t *x_codes, int16_t *scores_codes, int64_t events, " in header


def test_the_record_says_what_is_in_the_folder(small: Path) -> None:
    values = json.loads((small / "caloedge.json").read_text())
    assert values["backend"] == "emulator"
    assert values["graph"] == chain().digest
    assert values["inputs"] == [{"name": "x", "shape": [2, 5, 6], "format": "fixed<6,4>", "range": [-32, 31], "type": "int8_t"}]
    assert [port["name"] for port in values["outputs"]] == ["scores"]
    assert {path.name for path in small.iterdir()} == {
        "caloedge.json", "build.log", *PARTS, values["library"],
        *(f"{values['namespace']}{end}" for end in (".h", ".cpp", "_block.cpp")),
    }  # fmt: skip


PROGRAM = """
#include <stdio.h>
#include <string.h>
#include "{first}.h"
#include "{second}.h"

int main(void) {{
    int8_t codes[40 * 60];
    int64_t wide[40 * 60];
    for (int i = 0; i < 40 * 60; ++i) wide[i] = codes[i] = (int8_t)(i * 7 % 64 - 32);
    static {type} a[40 * 3], b[40 * 3];
    static int64_t c[40 * 3];
    {first}_model *one = {first}_create();
    {second}_model *two = {second}_create();
    if ({first}_predict(one, codes, a, 40, 2) || {second}_predict(two, codes, b, 40, 1)) return 1;
    if ({first}_predict_int64(one, wide, c, 40, 1)) return 2;
    for (int i = 0; i < 120; ++i) printf("%d %d %d\\n", (int)a[i], (int)b[i], (int)c[i]);
    if ({first}_predict(one, codes, a, -1, 1) != {first}_BAD_ARGUMENT) return 3;
    if ({first}_predict(one, codes, a, 1, 0) != {first}_BAD_ARGUMENT) return 4;
    if ({first}_predict(one, NULL, a, 1, 1) != {first}_BAD_ARGUMENT) return 5;
    if ({first}_predict(NULL, codes, a, 1, 1) != {first}_BAD_ARGUMENT) return 6;
    if ({first}_predict(one, NULL, NULL, 0, 1) != {first}_OK) return 7;
    codes[5] = 32;
    if ({first}_predict(one, codes, a, 40, 2) != {first}_OUT_OF_RANGE) return 8;
    int32_t count;
    const {first}_tensor *inputs = {first}_inputs(&count);
    if (count != 1 || strcmp(inputs->name, "x") || strcmp(inputs->format, "fixed<6,4>")) return 9;
    if (inputs->rank != 3 || inputs->shape[0] != 2 || inputs->shape[2] != 6 || inputs->elements != 60) return 10;
    if (inputs->low != -32 || inputs->high != 31 || inputs->code_bytes != 1 || inputs->zero_point != 0) return 11;
    if (inputs->scale_count != 1 || inputs->scales[0] != 0.25 || inputs->offsets[0] != 0) return 12;
    if (strcmp({first}_outputs(&count)->name, "scores") || count != 1) return 13;
    {first}_destroy(one);
    {second}_destroy(two);
    {second}_destroy(NULL);
    return 0;
}}
"""


@pytest.mark.parametrize("compiler", ["gcc -std=c99", "g++ -std=c++11"])
def test_a_c_program_links_two_models(tmp_path: Path, small: Path, compiler: str) -> None:
    if shutil.which(compiler.split()[0]) is None:
        pytest.skip(f"{compiler} is not installed")
    second = built(chain(6), tmp_path / "second")
    one, two = read_record(small), read_record(second)
    names = {"first": one["namespace"], "second": two["namespace"], "type": one["outputs"][0]["type"]}
    program = tmp_path / ("main.c" if "gcc" in compiler else "main.cpp")
    program.write_text(PROGRAM.format(**names))
    libraries = [str(folder / values["library"]) for folder, values in ((small, one), (second, two))]
    paths = [f"-I{folder}" for folder in (small, second)] + [f"-Wl,-rpath,{folder}" for folder in (small, second)]
    subprocess.run([*compiler.split(), "-Wall", "-Wextra", "-Werror", *paths, str(program), *libraries, "-o", "main"],
                   cwd=tmp_path, check=True, timeout=60)  # fmt: skip
    done = subprocess.run([tmp_path / "main"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0
    codes = (np.arange(40 * 60) * 7 % 64 - 32).reshape(40, 2, 5, 6)
    first, other = (graph.run(codes)["scores"].reshape(-1) for graph in (chain(), chain(6)))
    found = np.array([line.split() for line in done.stdout.splitlines()], dtype=np.int64)
    assert np.array_equal(found, np.stack([first, other, first], axis=1))


# Libraries and records that do not belong together


def test_a_truncated_library_is_not_loaded(small: Path, tmp_path: Path) -> None:
    """Loading it would end the process with a bus error."""
    moved = shutil.copytree(small, tmp_path / "project")
    library = moved / read_record(moved)["library"]
    library.write_bytes(library.read_bytes()[:-9000])
    with pytest.raises(BadData) as caught:
        emulate(moved, stimuli(chain(), 1))
    assert str(caught.value) == (
        f"{library}: cannot be loaded (it or its record was altered since it was built); build the project again on this machine"
    )


@pytest.mark.parametrize(
    ("ports", "key", "value"), [("outputs", "shape", [1]), ("outputs", "type", "int8_t"), ("inputs", "shape", [2, 5])]
)
def test_buffers_are_never_smaller_than_the_library_fills(
    small: Path, tmp_path: Path, ports: str, key: str, value: object
) -> None:
    moved = shutil.copytree(small, tmp_path / "project")
    values = read_record(moved)
    values[ports][0][key] = value
    (moved / "caloedge.json").write_text(json.dumps(values))
    with pytest.raises(BadData, match=r"it or its record was altered since it was built"):
        emulate(moved, stimuli(chain(), 1))
    write_record(moved, values)  # with a seal that fits
    with pytest.raises(BadData) as caught:
        emulate(moved, stimuli(chain(), 1))
    assert str(caught.value) == f"{moved}: its record has other {ports} than its library; build the project again"
