"""The float64 executor of QONNX files: every operator against numbers worked out by hand or by plain loops."""

import importlib.util
import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from caloedge.errors import BadData, MissingTool, Unsupported, UserError
from caloedge.verification import qonnx_executor
from caloedge.verification.qonnx_executor import execute, execute_stock, input_names

pytest.importorskip("qonnx")
pytest.importorskip("onnxruntime")

QONNX = "qonnx.custom_op.general"
TENTH = np.float32(0.1)  # not a power of two: float32 arithmetic rounds it, float64 hardly does
Run = Callable[..., Any]


@pytest.fixture
def write(tmp_path: Path) -> Run:
    """Write a file of nodes; inputs by name are shapes (first axis may be a name) or (type, shape)."""

    def write(
        nodes: list[NodeProto],
        inputs: Mapping[str, Any],
        constants: Mapping[str, Any] | None = None,
        outputs: tuple[str, ...] = ("y",),
        opset: int = 14,
        custom: int = 1,
        domains: tuple[str, ...] = (QONNX,),
    ) -> Path:
        typed = {
            k: v if v and isinstance(v[0], int) and isinstance(v[-1], tuple) else (TensorProto.FLOAT, v)
            for k, v in inputs.items()
        }
        graph = helper.make_graph(
            nodes,
            "graph",
            [helper.make_tensor_value_info(name, kind, shape) for name, (kind, shape) in typed.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs],
            [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
        )
        imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(domain, custom) for domain in domains)]
        path = tmp_path / "model.qonnx"
        onnx.save(helper.make_model(graph, ir_version=10, opset_imports=imports), path)
        return path

    return write


@pytest.fixture
def run_node(write: Run) -> Run:
    """Run one node on x (N, ...) and float32 or integer constants; return its first output."""

    def run_node(op: str, x: Any, *constants: Any, domain: str = "", opset: int = 14, custom: int = 1, **attributes: Any) -> Any:
        x = np.asarray(x)
        names = [f"c{index}" if value is not None else "" for index, value in enumerate(constants)]
        node = helper.make_node(op, ["x", *names], ["y"], name="node", domain=domain, **attributes)
        initialisers = {name: value for name, value in zip(names, constants, strict=True) if name}
        path = write([node], {"x": ("N", *x.shape[1:])}, initialisers, opset=opset, custom=custom, domains=(domain or QONNX,))
        return execute(path, {"x": x})["y"]

    return run_node


def f32(*values: float) -> Any:
    """Return float32 values: a number for one, else a vector."""
    return np.float32(values[0]) if len(values) == 1 else np.array(values, np.float32)


def normal(*shape: int, seed: int = 0) -> Any:
    """Return numbers that float32 cannot hold."""
    return np.random.default_rng(seed).normal(size=shape)


def close(actual: Any, expected: Any) -> bool:
    """Compare sums of float64 products: their order may differ, float32 would be 10^6 times further off."""
    return actual.shape == expected.shape and np.abs(actual - expected).max() <= 1e-13 * np.abs(expected).max()


def quant(run_node: Run, x: Any, scale: Any, zero: float = 0, bits: float = 4, mode: str = "ROUND", **options: Any) -> Any:
    options = {"signed": 1, "narrow": 0, "op": "Quant", "domain": QONNX} | options
    return run_node(options.pop("op"), x, scale, f32(zero), f32(bits), rounding_mode=mode, **options)


# Quantisers of the qonnx package --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("ROUND", [-2, -2, -1, 0, 0, 0, 1, 2, 2]),
        ("HALF_EVEN", [-2, -2, -1, 0, 0, 0, 1, 2, 2]),
        ("CEIL", [-2, -1, -1, 0, 0, 1, 2, 2, 3]),
        ("FLOOR", [-3, -2, -2, -1, 0, 0, 1, 1, 2]),
        ("UP", [-3, -2, -2, -1, 0, 1, 2, 2, 3]),
        ("DOWN", [-2, -1, -1, 0, 0, 0, 1, 1, 2]),
        ("HALF_UP", [-3, -2, -1, -1, 0, 1, 1, 2, 3]),
        ("HALF_DOWN", [-2, -1, -1, 0, 0, 0, 1, 1, 2]),
        ("half_up", [-3, -2, -1, -1, 0, 1, 1, 2, 3]),
    ],
)
def test_quant_rounds_in_every_mode(run_node: Run, mode: str, expected: list[int]) -> None:
    x = np.array([[-2.5, -1.5, -1.25, -0.5, 0, 0.5, 1.25, 1.5, 2.5]])
    assert np.array_equal(quant(run_node, x, f32(0.5), mode=mode) * 2, quant(run_node, x * 2, f32(1), mode=mode))
    assert quant(run_node, x, f32(1), mode=mode).tolist() == [expected]


@pytest.mark.parametrize(
    ("signed", "narrow", "bits", "expected"),
    [(1, 0, 4, (-8, 7)), (1, 1, 4, (-7, 7)), (0, 0, 4, (0, 15)), (0, 1, 4, (0, 14)), (1, 0, 1, (-1, 1)), (0, 0, 1, (0, 1))],
)
def test_quant_saturates(run_node: Run, signed: int, narrow: int, bits: int, expected: tuple[int, int]) -> None:
    result = quant(run_node, np.array([[-100.0, 100.0]]), f32(1), bits=bits, signed=signed, narrow=narrow)
    assert result.tolist() == [list(expected)]


def test_quant_with_zero_point(run_node: Run) -> None:
    """Codes 0…15 of step 0.5 with zero point 3 stand for -1.5…6."""
    x = np.array([[-9.0, -1.5, -0.3, 0.0, 1.1, 6.0, 9.0]])
    assert quant(run_node, x, f32(0.5), zero=3, signed=0).tolist() == [[-1.5, -1.5, -0.5, 0.0, 1.0, 6.0, 6.0]]


def test_quant_is_exact_where_float32_is_not(run_node: Run) -> None:
    """Half steps of float32(0.1) are ties in float64; float32's division lands beside some of them."""
    halves = np.arange(-2000, 2000) + 0.5
    x = (halves * np.float64(TENTH))[None]
    assert x.astype(np.float32).astype(np.float64).tolist() != x.tolist()
    result = quant(run_node, x, TENTH, bits=16)
    codes = np.rint(halves)
    assert result.tolist() == [(codes * np.float64(TENTH)).tolist()]
    single = np.rint(x.astype(np.float32) / TENTH)[0]
    assert 0 < np.count_nonzero(single != codes) < len(codes)


@pytest.mark.parametrize("kind", ["initialisers", "nodes", "a calculated scale"])
def test_stored_constants_are_quantised_in_their_own_precision(write: Run, kind: str) -> None:
    """Near ties float32 and float64 give other codes; those of stored weights are float32's, their values float64's."""
    weights = ((np.arange(-100, 100) + 0.5) * TENTH).astype(np.float32)
    single, double = np.rint(weights / TENTH), np.rint(weights.astype(np.float64) / np.float64(TENTH))
    assert 10 < np.count_nonzero(single != double) < 190
    stored = {"w": weights, "s": TENTH, "z": f32(0), "b": f32(9)}
    quantise = helper.make_node("Quant", ["w", "s", "z", "b"], ["q"], domain=QONNX, signed=1, narrow=0)
    add = helper.make_node("Add", ["x", "q"], ["y"])
    nodes = [quantise, add]
    if kind == "nodes":
        constants = [(name, numpy_helper.from_array(np.asarray(value))) for name, value in stored.items()]
        nodes = [*(helper.make_node("Constant", [], [name], value=value) for name, value in constants), *nodes]
        stored = {}
    elif kind == "a calculated scale":  # float64, and so is the quotient
        stored["h"] = stored.pop("s")
        nodes = [helper.make_node("Identity", ["h"], ["s"]), *nodes]
    result = execute(write(nodes, {"x": ("N", 200)}, stored), {"x": np.zeros((3, 200))})["y"]
    expected = (double if kind == "a calculated scale" else single) * np.float64(TENTH)
    assert result.tolist() == [expected.tolist()] * 3


def test_the_stock_executor_rounds_in_float32(write: Run) -> None:
    """The twin of the test above: the comparison does see float32."""
    halves = np.arange(-2000, 2000) + 0.5
    x = (halves * np.float64(TENTH))[None]
    node = helper.make_node("Quant", ["x", "s", "z", "b"], ["y"], domain=QONNX, signed=1, narrow=0, rounding_mode="ROUND")
    path = write([node], {"x": (1, x.shape[1])}, {"s": TENTH, "z": f32(0), "b": f32(16)})
    model = onnx.load(path)
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, x.shape[1])))
    onnx.save(model, path)
    stock, mine = execute_stock(path, {"x": x}, 1)["y"], execute(path, {"x": x})["y"]
    assert stock.dtype == np.float32
    wrong = np.rint(stock / np.float64(TENTH)) != np.rint(mine / np.float64(TENTH))
    assert 0 < np.count_nonzero(wrong) < wrong.size


def test_quant_with_a_scale_per_channel(run_node: Run) -> None:
    scale = np.array([0.5, 0.1, 3], np.float32).reshape(1, 3, 1)
    x = np.array([[[0.74, 9.0], [0.74, -9.0], [0.74, 4.6]]] * 2)
    steps = [[1, 7], [7, -8], [0, 2]]
    assert quant(run_node, x, scale).tolist() == (np.array([steps] * 2) * scale.astype(np.float64)).tolist()


@pytest.mark.parametrize(("op", "domain"), [("IntQuant", QONNX), ("Quant", "onnx.brevitas"), ("Quant", "finn.custom_op.general")])
def test_quant_goes_by_several_names(run_node: Run, op: str, domain: str) -> None:
    assert quant(run_node, np.array([[0.3, 0.1]]), TENTH, op=op, domain=domain).tolist() == [[3 * float(TENTH), float(TENTH)]]


def test_bipolar_quant_takes_zero_as_positive(run_node: Run) -> None:
    result = run_node("BipolarQuant", [[-1e-9, -0.0, 0.0, 3.0]], TENTH, domain=QONNX)
    assert (result / np.float64(TENTH)).tolist() == [[-1, 1, 1, 1]]


def test_trunc_of_version_1_drops_bits(run_node: Run) -> None:
    """Codes of step 0.1 lose two of six bits and keep the scale: FLOOR(code / 4)."""
    codes = np.array([[-9, -1, 0, 3, 4, 31]])
    result = run_node("Trunc", codes * np.float64(TENTH), TENTH, f32(0), f32(6), f32(4), domain=QONNX, rounding_mode="FLOOR")
    assert (result / np.float64(TENTH)).tolist() == [[-3, -1, 0, 0, 1, 7]]


def test_trunc_of_version_2_rescales_and_saturates(run_node: Run) -> None:
    """Codes of step 1/8 become codes of step 1/2 with 3 bits: ROUND(code / 4) in -4…3."""
    constants = (f32(0.125), f32(0), f32(6), f32(0.5), f32(3))
    result = run_node("Trunc", [[-4.0, -0.25, 0.25, 0.75, 1.0, 9.0]], *constants, domain=QONNX, custom=2, rounding_mode="ROUND")
    assert result.tolist() == [[-2.0, 0.0, 0.0, 1.0, 1.0, 1.5]]


def test_trunc_with_the_inputs_of_another_version_is_refused(run_node: Run) -> None:
    constants = (f32(0.125), f32(0), f32(6), f32(0.5), f32(3))
    with pytest.raises(
        BadData, match=r"model\.qonnx: node node: version 1 of Trunc has 5 inputs, 6 given; import another version"
    ):
        run_node("Trunc", [[1.0]], *constants, domain=QONNX, custom=1, rounding_mode="FLOOR")


def test_multithreshold_counts_per_channel(run_node: Run) -> None:
    """Output: scale x (thresholds not above x) + bias; thresholds that float32 x would confuse."""
    thresholds = np.array([[TENTH, 1, 2], [-1, 0, 5]], np.float32)
    just_below = np.float64(TENTH) - 1e-10
    x = np.array([[just_below, -1.0], [np.float64(TENTH), 4.9], [2.0, 5.0]])
    result = run_node("MultiThreshold", x, thresholds, domain=QONNX, out_dtype="INT4", out_scale=2.0, out_bias=-1.0)
    assert result.tolist() == [[-1, 1], [1, 3], [5, 5]]


def test_multithreshold_channels_last(run_node: Run) -> None:
    thresholds = np.array([[0.0], [10.0]], np.float32)
    x = np.array([[[[1.0, 1.0], [-1.0, 11.0]]]])
    result = run_node("MultiThreshold", x, thresholds, domain=QONNX, out_dtype="UINT1", data_layout="NHWC")
    assert result.tolist() == [[[[1, 0], [0, 1]]]]


def test_float_quant_rounds_to_a_mantissa(run_node: Run) -> None:
    """Two mantissa bits, three exponent bits: 1, 1.25, 1.5, 1.75, 2, 2.5…; 17 rounds to 16, 1000 saturates at 28."""
    constants = (f32(1), f32(3), f32(2), f32(3), f32(28))
    options = {"has_inf": 0, "has_nan": 0, "has_subnormal": 0, "saturation": 1, "rounding_mode": "ROUND"}
    result = run_node("FloatQuant", [[0.0, 1.1, 1.13, -2.3, 17.0, 1000.0]], *constants, domain=QONNX, **options)
    assert result.tolist() == [[0.0, 1.0, 1.25, -2.5, 16.0, 28.0]]
    scaled = run_node("FloatQuant", [[0.11]], TENTH, *constants[1:], domain=QONNX, **options)
    assert scaled.tolist() == [[float(TENTH)]]


def test_other_operators_of_qonnx(run_node: Run) -> None:
    assert run_node("XnorPopcountMatMul", [[1.0, 0.0, 1.0]], np.array([[1], [1], [1]], np.float32), domain=QONNX).tolist() == [
        [2]
    ]
    # the sum of four 4-bit codes has 6 bits, the result 4: the sum shifted right by 2
    codes = np.array([[[[15, 14], [13, 15]]], [[[1, 0], [1, 1]]]])
    options = {"kernel": 2, "stride": 2, "ibits": 4, "obits": 4, "signed": 0, "domain": QONNX}
    assert run_node("QuantAvgPool2d", codes, **options).ravel().tolist() == [57 >> 2, 3 >> 2]
    last = run_node("QuantAvgPool2d", np.moveaxis(codes, 1, -1), data_layout="NHWC", **options)
    assert last.shape == (2, 1, 1, 1)
    assert last.ravel().tolist() == [57 >> 2, 3 >> 2]
    x = normal(3, 4, 4, 2)
    pooled = run_node("MaxPoolNHWC", x, domain=QONNX, kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 0, 0])
    assert pooled.tolist() == x.reshape(3, 2, 2, 2, 2, 2).max(axis=(2, 4)).tolist()


def test_channels_last_convolution(run_node: Run) -> None:
    x, weights = normal(3, 6, 5, 2), normal(4, 3, 3, 2, seed=1).astype(np.float32)
    options = {"kernel_shape": [3, 3], "strides": [1, 1], "dilations": [1, 1], "pads": [0, 0, 0, 0], "group": 1}
    result = run_node("Conv", x, weights, domain="qonnx.custom_op.channels_last", **options)
    expected = loop_convolution(np.moveaxis(x, -1, 1), np.moveaxis(weights.astype(float), -1, 1))
    assert close(result, np.moveaxis(expected, 1, -1))


def test_an_unknown_operator_of_qonnx_is_named(run_node: Run) -> None:
    with pytest.raises(Unsupported, match=r"model\.qonnx: node node: qonnx has no operator Quart; check its name"):
        run_node("Quart", [[1.0]], domain=QONNX)


# Standard operators ---------------------------------------------------------------------------------------------------------


def loop_convolution(
    x: Any, weights: Any, strides: Any = None, pads: Any = None, dilations: Any = None, group: int = 1, bias: Any = None
) -> Any:
    """Convolve x (N, C, ...) with weights (M, C / group, ...), one output element at a time."""
    dims = x.ndim - 2
    strides, dilations, pads = strides or [1] * dims, dilations or [1] * dims, pads or [0] * 2 * dims
    x = np.pad(x, [(0, 0), (0, 0), *((pads[axis], pads[axis + dims]) for axis in range(dims))])
    kernel = weights.shape[2:]
    reach = [(kernel[axis] - 1) * dilations[axis] + 1 for axis in range(dims)]
    shape = [(x.shape[2 + axis] - reach[axis]) // strides[axis] + 1 for axis in range(dims)]
    y = np.zeros((len(x), len(weights), *shape))
    for event, channel, *position in itertools.product(*map(range, y.shape)):
        first = channel // (len(weights) // group) * weights.shape[1]
        for depth, *tap in itertools.product(*map(range, weights.shape[1:])):
            place = [position[axis] * strides[axis] + tap[axis] * dilations[axis] for axis in range(dims)]
            y[event, channel, *position] += weights[channel, depth, *tap] * x[event, first + depth, *place]
    return y if bias is None else y + bias.reshape(-1, *[1] * dims)


@pytest.mark.parametrize(
    ("size", "kernel", "options"),
    [
        ((9,), (3,), {}),
        ((9,), (3,), {"strides": [2], "pads": [2, 1], "dilations": [2]}),
        ((5, 6), (3, 2), {"group": 2, "pads": [1, 0, 0, 1]}),
        ((5, 6), (2, 3), {"group": 4, "strides": [2, 1], "dilations": [1, 2]}),
        ((4, 3, 4), (2, 2, 3), {"pads": [1, 0, 1, 0, 1, 1], "strides": [1, 1, 2]}),
        ((4, 3, 4), (2, 2, 2), {"group": 2, "dilations": [2, 1, 1]}),
    ],
)
def test_convolutions(run_node: Run, size: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any]) -> None:
    x = normal(3, 4, *size)
    weights, bias = (
        normal(8, 4 // options.get("group", 1), *kernel, seed=1).astype(np.float32),
        normal(8, seed=2).astype(np.float32),
    )
    result = run_node("Conv", x, weights, bias, **options)
    assert close(result, loop_convolution(x, weights.astype(float), bias=bias.astype(float), **options))


def loop_transposed(x: Any, weights: Any, strides: Any, pads: Any, dilations: Any, group: int, more: Any) -> Any:
    """Scatter every element of x (N, C, ...) with its kernel (C, M / group, ...); more is the output padding."""
    dims, kernel = x.ndim - 2, weights.shape[2:]
    full = [(x.shape[2 + a] - 1) * strides[a] + (kernel[a] - 1) * dilations[a] + 1 + more[a] for a in range(dims)]
    y = np.zeros((len(x), weights.shape[1] * group, *full))
    for event, channel, *position in itertools.product(*map(range, x.shape)):
        first = channel // (x.shape[1] // group) * weights.shape[1]
        for depth, *tap in itertools.product(*map(range, weights.shape[1:])):
            place = [position[a] * strides[a] + tap[a] * dilations[a] for a in range(dims)]
            y[event, first + depth, *place] += weights[channel, depth, *tap] * x[event, channel, *position]
    return y[:, :, *(slice(pads[a], full[a] - pads[a + dims]) for a in range(dims))]


@pytest.mark.parametrize(
    ("size", "kernel", "options"),
    [
        ((5,), (3,), {}),
        ((4, 3), (3, 2), {"strides": [2, 3], "pads": [1, 0, 0, 1], "output_padding": [1, 2]}),
        ((4, 3), (2, 3), {"group": 2, "dilations": [2, 1], "pads": [2, 2, 1, 2]}),
        ((3, 2, 3), (2, 2, 2), {"strides": [2, 2, 1], "group": 4}),
    ],
)
def test_transposed_convolutions(run_node: Run, size: tuple[int, ...], kernel: tuple[int, ...], options: dict[str, Any]) -> None:
    dims = len(size)
    x, weights, bias = normal(3, 4, *size), normal(4, 3, *kernel, seed=1).astype(np.float32), normal(3, seed=2).astype(np.float32)
    group = options.get("group", 1)
    bias = np.resize(bias, 3 * group)
    expected = loop_transposed(
        x,
        weights.astype(float),
        options.get("strides", [1] * dims),
        options.get("pads", [0] * 2 * dims),
        options.get("dilations", [1] * dims),
        group,
        options.get("output_padding", [0] * dims),
    )
    assert close(run_node("ConvTranspose", x, weights, bias, **options), expected + bias.astype(float).reshape(-1, *[1] * dims))


@pytest.mark.parametrize("options", [{"auto_pad": "SAME_UPPER"}, {"auto_pad": "SAME_LOWER"}, {"output_shape": [8, 10]}])
def test_transposed_convolutions_with_a_wanted_shape(run_node: Run, options: dict[str, Any]) -> None:
    """The paddings are compared with onnxruntime's own by the executor; here only the shape and the centre."""
    x, weights = normal(2, 2, 4, 5), normal(2, 1, 3, 3, seed=1).astype(np.float32)
    assert run_node("ConvTranspose", x, weights, strides=[2, 2], **options).shape == (2, 1, 8, 10)


def test_max_pool(run_node: Run) -> None:
    x = normal(3, 2, 4, 6)
    assert (
        run_node("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2]).tolist()
        == x.reshape(3, 2, 2, 2, 3, 2).max(axis=(3, 5)).tolist()
    )


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_global_max_pools(run_node: Run, axes: int) -> None:
    """onnx.reference has only that of images right."""
    x = normal(3, 2, *(4, 3, 2)[:axes])
    assert run_node("GlobalMaxPool", x).tolist() == x.reshape(3, 2, -1).max(axis=2).reshape(3, 2, *[1] * axes).tolist()


def test_average_pools(run_node: Run) -> None:
    x = normal(3, 2, 4, 6)
    assert close(run_node("AveragePool", x, kernel_shape=[2, 2], strides=[2, 2]), x.reshape(3, 2, 2, 2, 3, 2).mean(axis=(3, 5)))
    assert close(run_node("GlobalAveragePool", x), x.mean(axis=(2, 3), keepdims=True))
    row = np.array([[[1.0, 2, 4, 8, 16]]])
    pool = {"kernel_shape": [2], "strides": [2]}
    assert run_node("AveragePool", row, **pool).tolist() == [[[1.5, 6]]]
    assert run_node("AveragePool", row, ceil_mode=1, **pool).tolist() == [[[1.5, 6, 16]]]
    assert run_node("AveragePool", row[..., :4], ceil_mode=1, pads=[0, 1], **pool).tolist() == [[[1.5, 6]]]
    assert run_node("AveragePool", row, pads=[1, 0], **pool).tolist() == [[[1, 3, 12]]]
    assert run_node("AveragePool", row, pads=[1, 0], count_include_pad=1, **pool).tolist() == [[[0.5, 3, 12]]]
    assert run_node("AveragePool", row, auto_pad="SAME_LOWER", **pool).tolist() == [[[1, 3, 12]]]
    assert run_node("AveragePool", row, auto_pad="SAME_UPPER", **pool).tolist() == [[[1.5, 6, 16]]]
    assert run_node("AveragePool", row, kernel_shape=[2], dilations=[3], opset=19).tolist() == [[[4.5, 9]]]
    cube = normal(2, 3, 4, 4, 2)
    result = run_node("AveragePool", cube, kernel_shape=[2, 2, 2], strides=[2, 2, 2])
    assert close(result, cube.reshape(2, 3, 2, 2, 2, 2, 1, 2).mean(axis=(3, 5, 7)))


def test_products(run_node: Run) -> None:
    x, weights, bias = normal(4, 5), normal(3, 5, seed=1).astype(np.float32), normal(3, seed=2).astype(np.float32)
    expected = 0.5 * np.array(
        [[sum(a * float(b) for a, b in zip(row, w, strict=True)) for w in weights] for row in x]
    ) + 2 * bias.astype(float)
    assert close(run_node("Gemm", x, weights, bias, transB=1, alpha=0.5, beta=2.0), expected)
    x, weights = normal(2, 3, 4, 5), normal(3, 5, 2, seed=1).astype(np.float32)
    assert close(
        run_node("MatMul", x, weights), np.stack([[x[n, k] @ weights[k].astype(float) for k in range(3)] for n in range(2)])
    )


def test_batch_normalisation(run_node: Run) -> None:
    x = normal(3, 2, 4)
    scale, bias, mean, variance = (values.astype(np.float32) for values in np.random.default_rng(1).uniform(1, 2, (4, 2)))
    shaped = [values.astype(float).reshape(2, 1) for values in (scale, bias, mean, variance)]
    expected = shaped[0] * (x - shaped[2]) / np.sqrt(shaped[3] + np.float64(np.float32(1e-5))) + shaped[1]
    assert close(run_node("BatchNormalization", x, scale, bias, mean, variance), expected)


@pytest.mark.parametrize(
    ("op", "function"),
    [
        ("Sigmoid", lambda x: 1 / (1 + np.exp(-x))),
        ("HardSigmoid", lambda x: np.clip(np.float64(np.float32(0.2)) * x + 0.5, 0, 1)),
        ("Softplus", lambda x: np.log1p(np.exp(x))),
        ("LeakyRelu", lambda x: np.where(x < 0, np.float64(np.float32(0.01)) * x, x)),
        ("Softmax", lambda x: np.exp(x) / np.exp(x).sum(axis=-1, keepdims=True)),
        ("Shrink", lambda x: np.where(x < -0.5, x, np.where(x > 0.5, x, 0))),
    ],
)
def test_functions_are_of_float64(run_node: Run, op: str, function: Callable[[Any], Any]) -> None:
    x = normal(4, 7)
    assert close(run_node(op, x), function(x))


def test_normalisations_are_of_float64(run_node: Run, write: Run) -> None:
    """Their own default is float32 inside."""
    x, scale = normal(3, 4, 6), normal(4, seed=1).astype(np.float32)

    def normalised(values: Any) -> Any:
        return (values - values.mean(axis=-1, keepdims=True)) / np.sqrt(
            values.var(axis=-1, keepdims=True) + np.float64(np.float32(1e-5))
        )

    expected = normalised(x.reshape(3, 2, 12)).reshape(x.shape) * scale.astype(float).reshape(4, 1)
    assert close(
        run_node("GroupNormalization", x, scale, np.zeros(4, np.float32), num_groups=2, opset=21, stash_type=1), expected
    )
    assert close(run_node("LayerNormalization", x, np.ones(6, np.float32), opset=17), normalised(x))
    images = normal(2, 2, 3, 4)
    node = helper.make_node("Attention", ["x", "x", "x"], ["y"])
    weights = np.exp(images @ images.swapaxes(2, 3) / 2)
    expected = weights / weights.sum(axis=-1, keepdims=True) @ images
    assert close(execute(write([node], {"x": ("N", 2, 3, 4)}, opset=23), {"x": images})["y"], expected)


def test_an_operator_without_float64_is_refused(run_node: Run) -> None:
    with pytest.raises(Unsupported, match=r"model\.qonnx: node node: DynamicQuantizeLinear exists in float32 only; replace it"):
        run_node("DynamicQuantizeLinear", normal(2, 3))


def test_softmax_of_old_files_is_over_all_axes(run_node: Run) -> None:
    x = normal(2, 3, 4)
    expected = np.exp(x) / np.exp(x).sum(axis=(1, 2), keepdims=True)
    assert close(run_node("Softmax", x, opset=11), expected)
    assert not close(run_node("Softmax", x, opset=13), expected)


def test_selections(run_node: Run, write: Run) -> None:
    x = normal(3, 6)
    node = helper.make_node("TopK", ["x", "k"], ["y", "index"], axis=1)
    result = execute(write([node], {"x": ("N", 6)}, {"k": np.array([2])}, ("y", "index")), {"x": x})
    order = np.argsort(-x, axis=1)[:, :2]
    assert result["index"].tolist() == order.tolist()
    assert result["y"].tolist() == np.take_along_axis(x, order, axis=1).tolist()
    padded = run_node("Pad", x, np.array([0, 1, 0, 2]), TENTH)
    assert padded.tolist() == np.pad(x, ((0, 0), (1, 2)), constant_values=float(TENTH)).tolist()
    image = normal(2, 1, 2, 2)
    scales = np.array([1, 1, 2, 2], np.float32)
    nearest = run_node(
        "Resize", image, None, scales, mode="nearest", coordinate_transformation_mode="asymmetric", nearest_mode="floor"
    )
    assert nearest.tolist() == image.repeat(2, axis=2).repeat(2, axis=3).tolist()
    row = np.array([[[1.0, 3.0]]])
    linear = run_node("Resize", row, None, np.array([1, 1, 2], np.float32), mode="linear")
    assert close(linear, np.array([[[1.0, 1.5, 2.5, 3.0]]]))


def test_quantise_linear(run_node: Run) -> None:
    """Halves go to even before the zero point is added, then int8 saturates, however large the value is."""
    x = np.array([[0.5, 1.5, -2.5, 1e30, -1e30]])
    node = [run_node("QuantizeLinear", x * 0.5, f32(0.5), np.int8(1))]
    assert node[0].tolist() == [[1, 3, -1, 127, -128]]
    assert run_node("QuantizeLinear", x, f32(1), np.uint8(0)).tolist() == [[0, 2, 0, 255, 0]]
    assert run_node("QuantizeLinear", x, f32(1), np.int16(0)).tolist() == [[0, 2, -2, 32767, -32768]]
    assert run_node("QuantizeLinear", x, f32(1)).tolist() == [[0, 2, 0, 255, 0]]
    halves = np.arange(-100, 100) + 0.5
    result = run_node("QuantizeLinear", (halves * np.float64(TENTH))[None], TENTH, np.int8(0))
    assert result.tolist() == [np.clip(np.rint(halves), -128, 127).tolist()]


def test_quantise_and_dequantise_per_channel(write: Run) -> None:
    """The pattern of QCDQ files: quantise, clip to fewer bits, dequantise; the axis is 1 unless told."""
    scale, zero = np.array([0.1, 2], np.float32), np.array([0, 3], np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["codes"]),
        helper.make_node("Clip", ["codes", "low", "high"], ["few"]),
        helper.make_node("DequantizeLinear", ["few", "scale", "zero"], ["y"], axis=1),
    ]
    constants = {"scale": scale, "zero": zero, "low": np.int8(-8), "high": np.int8(7)}
    x = np.array([[[0.31, 9.0], [7.1, -100.0]]])
    result = execute(write(nodes, {"x": ("N", 2, 2)}, constants), {"x": x}, keep=("few",))
    assert result["few"].tolist() == [[[3, 7], [7, -8]]]
    assert result["y"].tolist() == [[[3 * float(TENTH), 7 * float(TENTH)], [8.0, -22.0]]]


def test_dequantise_linear_per_block(write: Run) -> None:
    codes, scale = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.int8), np.array([[1, 0.1], [10, 100]], np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["codes", "scale"], ["w"], axis=1, block_size=2),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
    ]
    path = write(nodes, {"x": ("N", 2)}, {"codes": codes, "scale": scale}, opset=21)
    result = execute(path, {"x": np.eye(2)}, keep=["w"])
    tenth = float(TENTH)
    assert result["w"].tolist() == result["y"].tolist() == [[1, 2, 3 * tenth, 4 * tenth], [50, 60, 700, 800]]


def test_dequantise_linear_of_int32_is_exact(write: Run) -> None:
    codes = np.array([2**31 - 1, -(2**31)], np.int32)
    nodes = [helper.make_node("DequantizeLinear", ["codes", "one"], ["big"]), helper.make_node("Mul", ["x", "big"], ["y"])]
    result = execute(write(nodes, {"x": ("N", 2)}, {"codes": codes, "one": f32(1)}), {"x": np.ones((1, 2))}, keep=["big"])
    assert result["big"].tolist() == codes.tolist()
    assert result["y"].tolist() == [codes.tolist()]


def test_an_operator_that_computes_in_float32_is_refused(run_node: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = qonnx_executor._evaluate
    monkeypatch.setattr(
        qonnx_executor, "_evaluate", lambda *arguments: [array.astype(np.float32) for array in evaluate(*arguments)]
    )
    with pytest.raises(Unsupported, match=r"model\.qonnx: node node: Erf computes in float32; replace it"):
        run_node("Erf", normal(2, 3))


def test_a_wrong_reference_is_caught(run_node: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluate = qonnx_executor._evaluate
    monkeypatch.setattr(qonnx_executor, "_evaluate", lambda *arguments: [array[..., ::-1] for array in evaluate(*arguments)])
    with pytest.raises(
        Unsupported, match=r"onnx\.reference and onnxruntime disagree on Erf \('y'\); write it with other operators"
    ):
        run_node("Erf", normal(2, 3))


def test_no_operator_of_onnxruntime_computes_in_float32(run_node: Run) -> None:
    """1 + 2^-40 is 1 in float32, so what is left of it tells the precision."""
    x = np.array([[1 + 2**-40, -1 - 2**-40, 3.0]])
    for op, expected in (
        ("Relu", 1 + 2**-40),
        ("Abs", 1 + 2**-40),
        ("Shrink", 1 + 2**-40),
        ("ReduceSum", 3.0),
        ("Neg", -1 - 2**-40),
    ):
        assert run_node(op, x).flat[0] == expected, op
    assert run_node("Add", x, f32(-1)).flat[0] == 2**-40
    assert run_node("MatMul", x, np.array([[1], [1], [0]], np.float32)).flat[0] == 0
    assert run_node("Cast", x, to=TensorProto.FLOAT).tolist() == x.tolist()


# Files and events -----------------------------------------------------------------------------------------------------------


def flattened(write: Run, batch: Any, rows: int) -> Path:
    """Write relu → Reshape (rows, 6) → Gemm, whose shape only fits the baked-in batch."""
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node("Reshape", ["r", "shape"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w"], ["y"]),
    ]
    weights = np.arange(12, dtype=np.float32).reshape(6, 2)
    return write(nodes, {"x": (batch, 2, 3)}, {"shape": np.array([rows, 6]), "w": weights})


@pytest.mark.parametrize(("batch", "rows"), [("N", -1), ("N", 1), (1, 1), (4, 4), (1, -1), (4, -1)])
def test_a_baked_in_batch_gives_the_same_events(write: Run, batch: Any, rows: int) -> None:
    x = normal(11, 2, 3)
    expected = np.maximum(x, 0).reshape(11, 6) @ np.arange(12.0).reshape(6, 2)
    assert close(execute(flattened(write, batch, rows), {"x": x})["y"], expected)


def test_a_batch_that_mixes_events_is_run_event_by_event(write: Run) -> None:
    """The mean is over the wrong axis in a batch of one; nothing fails and the leading size is right."""
    nodes = [helper.make_node("ReduceMean", ["x"], ["mean"], axes=[0]), helper.make_node("Sub", ["x", "mean"], ["y"])]
    x = normal(5, 3)
    path = write(nodes, {"x": (1, 3)}, opset=13)
    assert execute(path, {"x": x})["y"].tolist() == np.zeros((5, 3)).tolist()
    running = write([helper.make_node("CumSum", ["x", "axis"], ["y"])], {"x": (1, 3)}, {"axis": np.array(0)})
    assert execute(running, {"x": x})["y"].tolist() == x.tolist()


def test_only_the_last_event_tells(write: Run) -> None:
    """Zeros hide a sum over events from the first two."""
    x = np.zeros((5, 3))
    x[2:] = 1
    path = write([helper.make_node("CumSum", ["x", "axis"], ["y"])], {"x": (1, 3)}, {"axis": np.array(0)})
    assert execute(path, {"x": x})["y"].tolist() == x.tolist()


def test_an_output_without_event_axis_is_stacked(write: Run) -> None:
    path = write([helper.make_node("Squeeze", ["x", "axes"], ["y"])], {"x": (1, 3)}, {"axes": np.array([0])})
    x = normal(3, 3)
    assert execute(path, {"x": x})["y"].tolist() == x.tolist()


def test_many_events_go_block_by_block(write: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qonnx_executor, "BLOCK_EVENTS", 4)
    x = normal(11, 2, 3)
    expected = np.maximum(x, 0).reshape(11, 6) @ np.arange(12.0).reshape(6, 2)
    for batch, rows in (("N", -1), (1, 1), (3, 3)):
        assert close(execute(flattened(write, batch, rows), {"x": x})["y"], expected)


def test_several_inputs_and_outputs_in_declared_order(write: Run) -> None:
    """Nodes and names stand in another order than the outputs; an integer input keeps its type."""
    nodes = [
        helper.make_node("Sub", ["b", "a"], ["first"]),
        helper.make_node("Gather", ["table", "index"], ["zero"], axis=0),
        helper.make_node("Add", ["a", "b"], ["second"]),
    ]
    inputs = {"b": ("N", 2), "index": (TensorProto.INT64, ("N",)), "a": ("N", 2)}
    path = write(nodes, inputs, {"table": np.array([10, 20, 30], np.float32)}, ("second", "zero", "first"))
    a, b = normal(3, 2), normal(3, 2, seed=1)
    result = execute(path, {"a": a, "index": np.array([2, 0, 1]), "b": b}, keep=["table", "a"])
    assert input_names(path) == ("b", "index", "a")
    assert list(result) == ["second", "zero", "first", "table", "a"]
    assert result["first"].tolist() == (b - a).tolist()
    assert result["second"].tolist() == (a + b).tolist()
    assert result["zero"].tolist() == [[30], [10], [20]]  # (N,) in the file
    assert result["table"].tolist() == [10, 20, 30]
    assert result["a"].tolist() == a.tolist()
    assert {array.dtype for array in result.values()} == {np.dtype(np.float64)}


def test_nodes_in_any_order(write: Run) -> None:
    nodes = [helper.make_node("Neg", ["r"], ["y"]), helper.make_node("Relu", ["x"], ["r"])]
    assert execute(write(nodes, {"x": ("N", 2)}), {"x": np.array([[-1.0, 2.0]])})["y"].tolist() == [[0, -2]]


def test_constants_and_functions_of_the_file(write: Run, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(TENTH)),
        helper.make_node("Constant", [], ["d"], value_float=float(TENTH)),
        helper.make_node("ConstantOfShape", ["two"], ["e"]),
        helper.make_node("Sum", ["c", "d", "e"], ["s"]),
        helper.make_node("Twice", ["x"], ["t"], domain="own"),
        helper.make_node("Mul", ["t", "s"], ["y"]),
    ]
    path = write(nodes, {"x": ("N", 2)}, {"two": np.array([2])}, domains=(QONNX, "own"))
    model = onnx.load(path)
    body = [helper.make_node("Add", ["a", "a"], ["b"])]
    model.functions.append(helper.make_function("own", "Twice", ["a"], ["b"], body, [helper.make_opsetid("", 14)]))
    onnx.save(model, path)
    result = execute(path, {"x": np.array([[1.0, 0.3]])}, keep=["s"])
    assert result["s"].tolist() == [2 * float(TENTH)] * 2
    assert result["y"].tolist() == [[2 * (2 * float(TENTH)), 0.6 * (2 * float(TENTH))]]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, r"model\.qonnx: its inputs are x; given are none"),
        ({"z": np.zeros((1, 2))}, r"model\.qonnx: its inputs are x; given are z"),
        ({"x": np.zeros((1, 3))}, r"model\.qonnx: input 'x' has shape \(1, 3\); give \(N, 2\)"),
        ({"x": np.zeros(2)}, r"model\.qonnx: input 'x' has shape \(2,\); give \(N, 2\)"),
        ({"x": np.zeros((0, 2))}, r"model\.qonnx: events per input: 'x' 0; give the same number, at least one"),
    ],
)
def test_inputs_that_do_not_fit(write: Run, inputs: dict[str, Any], message: str) -> None:
    path = write([helper.make_node("Relu", ["x"], ["y"])], {"x": ("N", 2)})
    with pytest.raises(UserError, match=f"^{message}$"):
        execute(path, inputs)


def test_integer_inputs_take_integers_only(write: Run) -> None:
    path = write([helper.make_node("Relu", ["x"], ["y"])], {"x": (TensorProto.INT8, ("N", 2))})
    with pytest.raises(UserError, match=r"model\.qonnx: input 'x' holds values that its type int8 cannot; round them first"):
        execute(path, {"x": np.array([[1.0, 2.5]])})


@pytest.mark.parametrize(
    ("nodes", "error", "message"),
    [
        (
            [("Relu", ["nowhere"], ["y"])],
            BadData,
            r"model\.qonnx: node Relu of 'y': input 'nowhere' is missing; export the file again",
        ),
        (
            [("Add", ["x", "y"], ["a"]), ("Relu", ["a"], ["y"])],
            BadData,
            r"model\.qonnx: nodes Add of 'a', Relu of 'y' read each other in a cycle; export the file again",
        ),
        ([("Reluu", ["x"], ["y"])], Unsupported, r"model\.qonnx: node Reluu of 'y': Reluu failed \(.*\); check its inputs"),
        (
            [("MatMul", ["x", "x"], ["y"])],
            Unsupported,
            r"model\.qonnx: node MatMul of 'y': MatMul failed \(.*\); check its inputs",
        ),
    ],
)
def test_files_that_cannot_run(write: Run, nodes: list[Any], error: type[UserError], message: str) -> None:
    path = write([helper.make_node(*node) for node in nodes], {"x": ("N", 2)})
    with pytest.raises(error, match=f"^{message}$"):
        execute(path, {"x": np.ones((3, 2))})


def test_what_float64_cannot_say_is_refused(run_node: Run, tmp_path: Path) -> None:
    with pytest.raises(
        Unsupported, match=r"model\.qonnx: node node: a cast to 16-bit floats is not supported; export in float32"
    ):
        run_node("Cast", [[1.0]], to=TensorProto.FLOAT16)
    (tmp_path / "bad.qonnx").write_bytes(b"not onnx")
    with pytest.raises(BadData, match=r"bad\.qonnx: not a readable ONNX file \(.*\); export it again"):
        execute(tmp_path / "bad.qonnx", {})
    with pytest.raises(UserError, match=r"none\.qonnx: no such file"):
        execute(tmp_path / "none.qonnx", {})


def test_an_unknown_tensor_to_keep(write: Run) -> None:
    path = write([helper.make_node("Relu", ["x"], ["y"])], {"x": ("N", 2)})
    with pytest.raises(UserError, match=r"model\.qonnx: no tensor is named 'q'; keep tensors of the file"):
        execute(path, {"x": np.ones((1, 2))}, keep=["q"])


def test_missing_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    for run in (lambda: execute(tmp_path, {}), lambda: execute_stock(tmp_path, {}, 1)):
        with pytest.raises(MissingTool, match=r"^the QONNX executor needs the packages .*; pip install 'caloedge\[hls4ml\]'$"):
            run()


def test_the_stock_executor_gives_the_same_events_in_calls_of_any_size() -> None:
    path = Path(__file__).parents[2] / "models" / "shower_shape" / "model.qonnx"
    (name,) = input_names(path)
    x = np.random.default_rng(0).integers(0, 64, (6, 16)) / 4.0
    expected = execute(path, {name: x})
    for events in (1, 3):
        result = execute_stock(path, {name: x}, events)
        assert list(result) == list(expected)
        assert all(np.array_equal(result[key], expected[key]) for key in expected)


# What float64 rounds off


def test_a_sum_that_is_exactly_zero_is_not_rounded_down(write: Run) -> None:
    """Multiples of 0.4 times 0.7 of float32 need 55 bits: sums that are zero leave 1e-15, which decides nothing."""
    signs = np.where(np.arange(16) % 4 < 2, 1, -1)
    weights = np.outer(signs, [1, 1, 1]) * f32(0.7)
    quant = helper.make_node(
        "Quant", ["relu", "step", "none", "bits"], ["y"], domain=QONNX, signed=1, narrow=0, rounding_mode="FLOOR"
    )
    nodes = [helper.make_node("MatMul", ["x", "w"], ["m"]), helper.make_node("LeakyRelu", ["m"], ["relu"], alpha=0.125), quant]
    constants = {"w": weights.astype(np.float32), "step": f32([4, 1, 2]), "none": f32(0), "bits": f32(6)}
    multiples = np.random.default_rng(0).integers(-64, 64, (128, 16))
    multiples[:, -1] = multiples[:, :-1] @ signs[:-1]  # closes the sum; terms of different sizes, so whatever the order
    x = np.float64(f32(0.4)) * multiples
    plain = x @ weights.astype(np.float64)
    assert (plain != 0).any()
    assert not execute(write(nodes, {"x": ("N", 16)}, constants), {"x": x})["y"].any()
    x[:, 0] -= np.float64(f32(0.4))  # one step less is less
    assert (execute(write(nodes, {"x": ("N", 16)}, constants), {"x": x})["y"] == [[-4, -1, -2]]).all()


@pytest.mark.parametrize("kind", ["ArgMax", "ArgMin"])
def test_scores_that_are_equal_but_for_float64_are_equal(kind: str, run_node: Run) -> None:
    """The first of equal scores is chosen, whatever order they were summed in."""
    x = np.array([[0.3, 0.1 + 0.2, 0.3], [0.1 + 0.2, 0.3, 0.3], [0.3 + 1e-9, 0.3, 0.3 - 1e-9]])
    assert run_node(kind, x, axis=1, keepdims=1).tolist() == [[0], [0], [0 if kind == "ArgMax" else 2]]


@pytest.mark.parametrize(("kind", "constants"), [("BipolarQuant", [f32(1)]), ("MultiThreshold", [f32([[0.0]])])])
def test_what_equals_a_threshold_but_for_float64_reaches_it(kind: str, constants: list[np.ndarray], run_node: Run) -> None:
    x = np.array([[0.1 + 0.2 - 0.3 - 1e-16, 0.3], [-1e-9, 0.3]])
    options = {"out_dtype": "UINT1"} if kind == "MultiThreshold" else {}
    low = 0 if kind == "MultiThreshold" else -1
    assert run_node(kind, x, *constants, domain=QONNX, **options).tolist() == [[1, 1], [low, 1]]


def test_one_number_an_event_is_a_column(write: Run) -> None:
    """(N,) in the file is (N, 1) here, at the input as at the output."""
    path = write([helper.make_node("Neg", ["x"], ["y"])], {"x": ("N",)})
    x = normal(5, 1)
    assert execute(path, {"x": x})["y"].tolist() == (-x).tolist()
    assert execute(path, {"x": x[:, 0]})["y"].tolist() == (-x).tolist()
    with pytest.raises(UserError, match=r"input 'x' has shape \(5, 2\); give \(N\)$"):
        execute(path, {"x": normal(5, 2)})
