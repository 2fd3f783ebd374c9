"""Random QONNX and QCDQ files: what the reader makes of them equals the executor on every code, or is refused."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, event, given, settings
from onnx import helper, numpy_helper
from random_qonnx import QONNX, RandomFile, compare, qonnx_files, seeded, stimulus

from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import READERS, read
from caloedge.compiler.ops import Affine, Conv, Dense, Requantise, Table, Threshold
from caloedge.errors import Unsupported

pytest.importorskip("qonnx")
pytest.importorskip("onnxruntime")

EVENTS = 48
LEAST_COMPILED = 0.8
"""Of the files: what is refused must be the exception."""
MOST_DOUBTFUL = 0.05
"""Of the events: where float64 is in doubt nothing is proven."""
NEVER_DRAWN = {"Upsample"}
"""Not in the versions that are drawn; test_reader has it."""


def checked(file: RandomFile, path: Path, seed: int) -> tuple[Graph, int]:
    """Compare one file; return its graph and in how many events float64 could not tell. Raises what the reader raises."""
    onnx.save(file.model, path)
    graph = read(path)
    found = compare(path, graph, stimulus(graph, seed, EVENTS))
    wrong = np.flatnonzero(~found.agree & ~found.doubtful)
    assert not wrong.size, f"{file.blocks}: {len(wrong)} events differ, the first is {wrong[0]}"
    return graph, int(found.doubtful.sum())


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("random")


QUICK = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@QUICK
@given(qonnx_files())
def test_a_random_file_is_exact_or_refused(folder: Path, file: RandomFile) -> None:
    try:
        checked(file, folder / "shrinkable.onnx", 1)
    except Unsupported:
        event("refused")
    else:
        event("compiled")


def check_many(seeds: range, folder: Path) -> Counter[str]:
    """Compare the files of many seeds; return how often each operator was part of a compiled one."""
    operators: Counter[str] = Counter()
    refused, doubtful = [], 0
    for seed in seeds:
        file = seeded(seed)
        try:
            doubtful += checked(file, folder / f"seed_{seed}.onnx", seed)[1]
        except Unsupported as refusal:
            refused.append(str(refusal))
        else:
            operators.update(node.op_type for node in file.model.graph.node)
    assert len(refused) <= (1 - LEAST_COMPILED) * len(seeds), refused
    assert doubtful <= MOST_DOUBTFUL * EVENTS * len(seeds)
    return operators


def test_most_random_files_compile_and_are_exact(folder: Path) -> None:
    check_many(range(150), folder)


@pytest.mark.exhaustive
def test_hundreds_of_random_files_hold_every_operator_and_are_exact(folder: Path) -> None:
    operators = check_many(range(1000, 1700), folder)
    missing = set(READERS) - set(operators) - NEVER_DRAWN
    assert not missing


# Corrupted twins


def changed(graph: Graph, name: str, **changes: object) -> Graph | None:
    """Return a graph with other fields of one operation; None where a later one refuses what they lead to."""
    try:
        return graph.replacing(name, **changes)
    except Unsupported:
        return None


def corrupted(graph: Graph) -> Iterator[tuple[str, Graph | None]]:
    """Return graphs of which one number is wrong, for each operation."""
    for op in graph.ops:
        match op:
            case Conv() | Dense() | Affine():
                weights, bias = op.weights.copy(), op.bias.copy()
                largest = int(np.abs(weights).argmax())
                weights.flat[largest] += 1 if weights.flat[largest] < op.weight_format.max_code else -1
                bias.flat[0] += max(1, abs(int(bias.flat[0])) // 8)
                yield "weight", changed(graph, op.name, weights=weights)
                yield "bias", changed(graph, op.name, bias=bias)
            case Threshold():
                thresholds = op.thresholds.copy()
                thresholds[..., thresholds.shape[-1] // 2 :] += 1
                yield "threshold", changed(graph, op.name, thresholds=thresholds)
            case Table():
                values, middle = op.values.copy(), op.values.shape[-1] // 2
                up = values[..., middle:] < op.format.max_code
                values[..., middle:] = np.where(up, values[..., middle:] + 1, op.format.min_code)
                yield "entry", changed(graph, op.name, values=values)
            case Requantise() if op.high > op.low:
                yield "limit", changed(graph, op.name, limits=(op.low, op.high - 1))


def test_corrupted_twins_are_noticed(folder: Path) -> None:
    """One wrong number that changes any code is seen, apart from events where float64 is in doubt."""
    noticed: Counter[str] = Counter()
    tried: Counter[str] = Counter()
    for seed in range(200, 250):
        path = folder / f"twin_{seed}.onnx"
        onnx.save(seeded(seed).model, path)
        try:
            graph = read(path)
        except Unsupported:
            continue
        reals = stimulus(graph, seed, EVENTS)
        codes = graph.quantise_inputs(reals)
        truth = graph.run(codes)
        for kind, twin in corrupted(graph):
            if twin is None:
                continue
            other = twin.run(codes)
            if all(np.array_equal(other[name], wanted) for name, wanted in truth.items()):
                continue  # a code that never comes, or a weight times zero
            tried[kind] += 1
            found = compare(path, twin, reals)
            noticed[kind] += int((~found.agree & ~found.doubtful).any())
    assert set(tried) == {"weight", "bias", "threshold", "entry", "limit"}
    for kind, count in tried.items():
        assert count >= 3, kind
        assert noticed[kind] >= 0.95 * count, (kind, noticed[kind], count)


# Single files that the random ones brought to light


def written(path: Path, nodes: list[onnx.NodeProto], shape: tuple[int, ...], constants: dict[str, np.ndarray]) -> Path:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", 1, ("N", *shape))],
        [helper.make_tensor_value_info("y", 1, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )
    domains = ("", QONNX, "qonnx.custom_op.channels_last")
    opsets = [helper.make_opsetid(domain, version) for domain, version in zip(domains, (13, 1, 1), strict=True)]
    onnx.save(helper.make_model(graph, ir_version=10, opset_imports=opsets), path)
    return path


def quantised(
    source: str, result: str, scale: float, bits: float, **how: int | str
) -> tuple[onnx.NodeProto, dict[str, np.ndarray]]:
    names = {f"{result}_scale": scale, f"{result}_zero": 0.0, f"{result}_bits": bits}
    how = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND"} | how
    node = helper.make_node("Quant", [source, *names], [result], domain=QONNX, **how)
    return node, {name: np.float32(value) for name, value in names.items()}


def exact(path: Path) -> Graph:
    graph = read(path)
    found = compare(path, graph, stimulus(graph, 5, EVENTS))
    assert found.agree.all()
    return graph


def test_weights_of_the_channels_last_domain_are_channels_last(tmp_path: Path) -> None:
    """As many channels as the kernel is wide: read as channels first, the file would be another network."""
    begin, constants = quantised("x", "q", 0.25, 5)
    weights = np.random.default_rng(1).integers(-3, 4, (2, 3, 3, 3)).astype(np.float32)
    how = {"kernel_shape": [3, 3], "strides": [1, 1], "dilations": [1, 1], "pads": [0] * 4, "group": 1}
    conv = helper.make_node("Conv", ["q", "w"], ["y"], domain="qonnx.custom_op.channels_last", **how)
    exact(written(tmp_path / "last.onnx", [begin, conv], (5, 5, 3), {**constants, "w": weights}))


def test_a_batch_normalisation_may_switch_channels_off(tmp_path: Path) -> None:
    """A gamma of zero leaves a constant, which the next convolution multiplies like any other value."""
    begin, constants = quantised("x", "q", 0.25, 5)
    constants |= {
        "gamma": np.array([0, 1, 0], np.float32),
        "beta": np.array([0.5, 0.25, -1], np.float32),
        "mean": np.zeros(3, np.float32),
        "variance": np.ones(3, np.float32),
        "w": np.random.default_rng(2).integers(-3, 4, (2, 3, 2)).astype(np.float32),
    }
    norm = helper.make_node("BatchNormalization", ["q", "gamma", "beta", "mean", "variance"], ["n"], epsilon=0.0)
    exact(written(tmp_path / "off.onnx", [begin, norm, helper.make_node("Conv", ["n", "w"], ["y"])], (3, 6), constants))


def test_a_tensor_of_one_value_an_event_may_get_an_axis(tmp_path: Path) -> None:
    """(N,) is kept as (1,): adding an axis gives (N, 1), which fits what else has one value an event."""
    begin, constants = quantised("x", "q", 0.25, 5)
    middle, more = quantised("sum", "middle", 1.0, 8)
    nodes = [
        begin,
        helper.make_node("ReduceSum", ["q", "axis"], ["sum"], keepdims=0),
        middle,
        helper.make_node("Unsqueeze", ["middle", "axis"], ["column"]),
        helper.make_node("Concat", ["q", "column"], ["y"], axis=1),
    ]
    graph = exact(written(tmp_path / "one.onnx", nodes, (4,), {**constants, **more, "axis": np.array([1])}))
    assert graph.tensors["y"].shape == (5,)


def test_limits_that_leave_one_code_give_a_constant(tmp_path: Path) -> None:
    begin, constants = quantised("x", "q", 0.25, 5)
    end, more = quantised("relu", "y", 0.3, 6, rounding_mode="DOWN")
    nodes = [
        begin,
        helper.make_node("Min", ["q", "limit"], ["min"]),
        helper.make_node("Relu", ["min"], ["relu"]),
        end,
    ]
    graph = exact(written(tmp_path / "zero.onnx", nodes, (4,), {**constants, **more, "limit": np.float32(-0.4)}))
    assert graph.tensors["y"].range == (0, 0)


def test_a_softmax_of_too_many_codes_is_refused(tmp_path: Path) -> None:
    """Beyond the table of exponentials they would count as zero, although they are not."""
    begin, constants = quantised("x", "q", 2.0**-20, 20)
    end, more = quantised("softmax", "y", 2.0**-8, 8, signed=0)
    path = written(
        tmp_path / "wide.onnx", [begin, helper.make_node("Softmax", ["q"], ["softmax"], axis=1), end], (3,), constants | more
    )
    with pytest.raises(
        Unsupported, match="a softmax of scores with 1,048,576 codes is not supported; quantise them to fewer bits"
    ):
        read(path)


@pytest.mark.parametrize("kind", ["Softmax", "TopK"])
def test_what_softmax_and_topk_leave_is_quantised_again(kind: str, tmp_path: Path) -> None:
    begin, constants = quantised("x", "q", 0.25, 5)
    end, more = quantised("middle", "y", 4.0 if kind == "TopK" else 0.125, 3, signed=0)
    constants |= more
    if kind == "Softmax":
        middle, more = quantised("softmax", "middle", 2.0**-8, 8, signed=0)
        nodes = [begin, helper.make_node("Softmax", ["q"], ["softmax"], axis=1), middle, end]
        constants |= more
    else:
        nodes = [
            begin,
            helper.make_node("TopK", ["q", "k"], ["values", "indices"], axis=1),
            helper.make_node("Cast", ["indices"], ["middle"], to=1),
            end,
        ]
        constants["k"] = np.array([2])
    exact(written(tmp_path / "again.onnx", nodes, (9,), constants))
