from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from caloedge.compiler.fixed import Format, Rounding
from caloedge.compiler.graph import Graph
from caloedge.compiler.ops import Conv, Dense, InputQuantiser, MaxPool, Op, Output, Requantise, Reshape
from caloedge.errors import BadData, Unsupported, UserError

WEIGHT = Format(True, 4, 2)


def ops(**changes: Any) -> tuple[Op, ...]:
    """Return a network whose numbers can be checked by hand: 1×2×2 -> conv 1×2 -> ReLU -> flatten -> dense."""
    network: tuple[Op, ...] = (
        InputQuantiser("x", (1, 2, 2), Format(False, 3, 1)),
        Conv("conv", ("x",), np.array([[[[1, -2]]]]), np.array([3]), WEIGHT),
        Requantise("relu", ("conv",), Format(False, 2, 2), relu=True),
        Reshape("flat", ("relu",)),
        Dense("dense", ("flat",), np.array([[3, 0]]), np.array([-1]), WEIGHT),
        Output("y", ("dense",)),
    )
    return tuple(replace(op, **changes[op.name]) if op.name in changes else op for op in network)


def test_a_network_checked_by_hand() -> None:
    graph = Graph(ops())
    codes = np.array([[[[7, 1], [2, 3]]]])
    trace = graph.trace(codes)
    assert trace["conv"].tolist() == [[[[8], [-1]]]]  # 7 - 2 + 3, 2 - 6 + 3
    assert trace["relu"].tolist() == [[[[3], [0]]]]  # 8 / 2 saturates at 3
    assert trace["y"].tolist() == [[8]]  # 3 * 3 - 1
    assert list(trace) == ["x", "conv", "relu", "flat", "dense", "y"]
    assert graph.run(codes)["y"].tolist() == [[8]]
    assert graph.tensors["conv"].range == (-11, 10)
    assert str(graph.tensors["conv"].format) == "fixed<5,2>"
    assert graph.tensors["y"].range == (-1, 8)


def test_report_rows() -> None:
    conv = Graph(ops()).layers()[1]
    assert (conv.name, conv.kind, conv.shape, str(conv.weight_format)) == ("conv", "Conv", (1, 2, 1), "fixed<4,2>")
    assert (conv.low, conv.high, conv.multiply_adds, conv.weight_bits) == (-11, 10, 4, 2 * 4 + 5)
    assert conv.ebops == 2 * (1 * 3 + 1 * 3)  # weights 1 and -2 have one effective bit each, two positions, 3-bit input


def pooled(shape: tuple[int, ...] = (1, 3, 3), **changes: Any) -> Graph:
    """Return input -> conv 1×1 with weights of both signs -> max pool 2×2 in steps of one row and two columns."""
    return Graph(
        (
            InputQuantiser("x", shape, Format(False, 3, 1)),
            Conv("conv", ("x",), np.array([[[[1]]], [[[-1]]]]), np.array([0, -1]), WEIGHT),
            replace(MaxPool("pool", ("conv",), kernel=(2, 2), stride=(1, 2)), **changes),
            Output("y", ("pool",)),
        )
    )


def test_a_max_pool_checked_by_hand() -> None:
    graph = pooled()
    found = graph.run(np.array([[[[1, 2, 7], [3, 0, 7], [5, 4, 7]]]]))["y"]
    assert found.tolist() == [[[[3], [5]], [[-1], [-1]]]]
    tensor = graph.tensors["pool"]
    assert (tensor.shape, tensor.format, tensor.range) == ((2, 2, 1), graph.tensors["conv"].format, (-8, 7))
    assert tensor.high[1].tolist() == [[-1], [-1]]
    row = graph.layers()[2]
    assert (row.kind, row.weight_format, row.multiply_adds, row.weight_bits, row.ebops) == ("MaxPool", None, 0, 0, 0)
    assert len({graph.digest, pooled(stride=(1, 1)).digest, pooled(kernel=(2, 1)).digest}) == 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kernel": (4, 1)}, r"^layer pool: the kernel \(4, 1\) is larger than its input \(2, 3, 3\)$"),
        ({"kernel": (0, 1)}, r"^layer pool: kernel \(0, 1\) or stride \(1, 2\) is not possible$"),
        ({"stride": (1, 0)}, r"^layer pool: kernel \(2, 2\) or stride \(1, 0\) is not possible$"),
    ],
)
def test_an_impossible_max_pool_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        pooled(**changes)
    with pytest.raises(Unsupported, match=r"^layer pool: \(C, H, W\) expected, but \(2\) given$"):
        Graph((*ops()[:4], MaxPool("pool", ("flat",), (1, 1), (1, 1)), Output("y", ("pool",))))


def test_no_event_gives_no_output() -> None:
    assert Graph(ops()).run(np.zeros((0, 1, 2, 2), dtype=np.int64))["y"].shape == (0, 1)


def test_chunks_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = Graph(ops())
    codes = np.random.default_rng(0).integers(0, 8, (101, 1, 2, 2), dtype=np.int16)
    whole = graph.run(codes)["y"]
    monkeypatch.setattr("caloedge.compiler.graph.CHUNK_BYTES", 1)
    np.testing.assert_array_equal(graph.run(codes)["y"], whole)
    np.testing.assert_array_equal(np.concatenate([graph.run(event[None])["y"] for event in codes]), whole)


def test_several_outputs_keep_their_order() -> None:
    graph = Graph((*ops(), Output("early", ("conv",))))
    outputs = graph.run(np.array([[[[7, 1], [2, 3]]]]))
    assert list(outputs) == ["y", "early"]
    assert outputs["early"].tolist() == [[[[8], [-1]]]]


def test_sensor_values_become_codes() -> None:
    graph = Graph(ops())
    assert graph.quantise_input([[[[0.25, 0.75], [1.0, 99.0]]]]).tolist() == [[[[0, 2], [2, 7]]]]
    with pytest.raises(UserError, match=r"^input of shape \(4,\) does not fit; the network takes \(N, 1, 2, 2\)$"):
        graph.quantise_input([0.0, 1.0, 2.0, 3.0])
    with pytest.raises(BadData, match=r"NaN or infinite"):
        graph.quantise_input([[[[0.25, np.nan], [1.0, 99.0]]]])


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros((5, 2, 2), dtype=int), r"^input codes of shape \(5, 2, 2\) do not fit; the network takes \(N, 1, 2, 2\)$"),
        (np.zeros((5, 1, 2, 2)), r"^input codes are float64, not integers; use Graph.quantise_input for real values$"),
        (np.full((5, 1, 2, 2), 8), r"^input codes reach from 8 to 8; ufixed<3,2> holds 0 to 7$"),
        (np.full((5, 1, 2, 2), -1), r"^input codes reach from -1 to -1; ufixed<3,2> holds 0 to 7$"),
    ],
)
def test_bad_codes_are_refused(codes: np.ndarray, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Graph(ops()).run(codes)


WIDE = Format(True, 40, 0)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (ops(conv={"inputs": ("nothing",)}), r"^layer conv: reads 'nothing', which no earlier layer makes$"),
        (ops(dense={"weights": np.ones((1, 3), dtype=int)}), r"^layer dense: \(3\) expected, but \(2\) given$"),
        (ops(dense={"inputs": ("relu",)}), r"^layer dense: \(2\) expected, but \(1, 2, 1\) given$"),
        (
            ops(conv={"weights": np.ones((1, 1, 3, 1), dtype=int)}),
            r"^layer conv: the kernel is larger than its padded input \(1, 2, 2\)$",
        ),
        (ops(relu={"name": "conv"}), r"^layer conv: the name is used twice; give every layer its own$"),
        (ops()[:-1], r"^a graph has at least one output$"),
        (ops()[-1:], r"^layer y: reads 'dense', which no earlier layer makes$"),
        (
            ops(x={"format": WIDE}, conv={"weights": np.array([[[[1, 2**38]]]]), "weight_format": WIDE}),
            r"^layer conv: its sums may reach 1.51e\+23 and do not fit 62 bits; use fewer bits per weight or input$",
        ),
        (ops(relu={"format": Format(False, 8, 90)}), r"^layer relu: a left shift of fixed<5,2> by 87 does not fit 62 bits"),
    ],
)
def test_a_network_that_cannot_be_exact_is_refused_by_name(network: tuple[Op, ...], message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        Graph(network)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weights": np.array([[[[0.5, 1.0]]]])}, r"^layer conv: weights and bias must be integer codes$"),
        ({"weights": np.array([[[[1, 8]]]])}, r"^layer conv: weight codes 1 to 8 do not fit fixed<4,2>$"),
        ({"bias": np.array([1, 2])}, r"^layer conv: weights \(1, 1, 1, 2\) and bias \(2,\) do not fit together$"),
        ({"stride": (0, 1)}, r"^layer conv: stride \(0, 1\) or padding \(0, 0, 0, 0\) is not possible$"),
    ],
)
def test_an_impossible_layer_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(Unsupported, match=message):
        ops(conv=changes)


def test_weights_cannot_be_changed_in_place() -> None:
    conv = Graph(ops())["conv"]
    assert isinstance(conv, Conv)
    with pytest.raises(ValueError, match="read-only"):
        conv.weights[0] = 1


def test_an_unknown_layer_is_named() -> None:
    with pytest.raises(UserError, match=r"^no layer 'pool'; there are: x, conv, relu, flat, dense, y$"):
        Graph(ops())["pool"]


def test_the_digest_is_that_of_the_content() -> None:
    assert Graph(ops()).digest == Graph(ops()).digest
    graph = Graph(ops())
    others = [
        graph.replacing("conv", weights=np.array([[[[1, -3]]]])),
        graph.replacing("conv", bias=np.array([4])),
        graph.replacing("relu", rounding=Rounding.HALF_UP),
        graph.replacing("relu", format=Format(False, 3, 2)),
        graph.replacing("y", name="z"),
    ]
    assert len({graph.digest, *(other.digest for other in others)}) == 6


@pytest.mark.parametrize(
    ("width", "dtype"), [(8, np.float32), (20, np.float32), (21, np.float64), (49, np.float64), (55, np.int64)]
)
def test_sums_are_exact_at_the_edge_of_each_number_type(width: int, dtype: type) -> None:
    """The largest possible sum, and the one next to it, at the widths where float32 and float64 stop being exact."""
    fmt = Format(False, width, 0)
    top = np.array([[7, 7]])
    graph = Graph(
        (
            InputQuantiser("x", (2,), fmt),
            Dense("dense", ("x",), top, np.array([1]), WEIGHT),
            Requantise("quant", ("dense",), Format(True, 61, 2), relu=False),
            Requantise("half", ("quant",), Format(True, 61, 1), relu=False),
            Output("y", ("dense",)),
            Output("z", ("half",)),
        )
    )
    codes = np.array([[fmt.max_code, fmt.max_code], [fmt.max_code, fmt.max_code - 1], [fmt.max_code // 2, 1]])
    expected = [7 * int(a) + 7 * int(b) + 1 for a, b in codes]
    out = graph.run(codes)
    assert out["y"][:, 0].tolist() == expected
    assert out["z"][:, 0].tolist() == [round(Fraction(value, 2)) for value in expected]
    bound = graph.tensors["dense"].bound
    assert bound >= max(expected)
    assert dtype is (np.float32 if bound < 2**24 else np.float64 if bound < 2**53 else np.int64)


@pytest.mark.parametrize("kind", [np.int8, np.uint8, np.int16, np.uint64, np.int64])
def test_codes_of_every_integer_type_are_run_as_they_are(kind: type) -> None:
    """Without a copy of all of them as int64: values and codes are the same."""
    x = InputQuantiser("x", (3,), Format(False, 7, 2), scale=0.5, zero_point=100)
    weights = np.array([[1, -2, 3], [-4, 5, -6]])
    graph = Graph((x, Dense("d", ("x",), weights, np.array([7, -7]), Format(True, 4, 0)), Output("y", ("d",))))
    codes = np.array([[0, 127, 3], [127, 0, 127], [100, 99, 101]])
    narrow = codes.astype(kind)
    assert graph.run(narrow)["y"].tolist() == (codes @ weights.T + [7, -7]).tolist()
    assert graph.run(narrow)["y"].dtype == np.int64
    assert graph.input_values(narrow)["x"].tolist() == ((codes - 100) / 8).tolist()
    assert graph.possible_inputs(narrow)["x"].tolist() == codes.tolist()
