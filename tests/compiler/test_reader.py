"""Reading QONNX: the Brevitas network in float64, the QONNX executor and `Graph.run` agree on every code."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from caloedge.compiler.graph import Graph
from caloedge.compiler.onnx.reader import read
from caloedge.compiler.ops import Conv, Dense, MaxPool, Requantise
from caloedge.errors import BadData, Unsupported, UserError


def brevitas_network() -> Any:
    torch = pytest.importorskip("torch")
    nn = pytest.importorskip("brevitas.nn")
    from brevitas.quant import (
        Int8WeightPerTensorFixedPoint,
        Int16Bias,
        Uint8ActPerTensorFixedPoint,
        Uint8ActPerTensorFixedPointMaxInit,
    )

    class Sensor(Uint8ActPerTensorFixedPointMaxInit):
        max_val = 15.9
        bit_width = 12

    torch.manual_seed(3)
    weight = {"weight_quant": Int8WeightPerTensorFixedPoint, "bias": True, "bias_quant": Int16Bias, "return_quant_tensor": True}

    def relu() -> Any:
        return nn.QuantReLU(act_quant=Uint8ActPerTensorFixedPoint, return_quant_tensor=True)

    net = torch.nn.Sequential(
        nn.QuantIdentity(act_quant=Sensor, return_quant_tensor=True),
        nn.QuantConv2d(1, 4, 3, **weight),
        relu(),
        nn.QuantConv2d(4, 6, 3, stride=2, padding=1, weight_bit_width=5, **weight),
        relu(),
        torch.nn.Flatten(),
        nn.QuantLinear(54, 16, **weight),
        relu(),
        nn.QuantLinear(16, 2, **{**weight, "return_quant_tensor": False}),
    )
    with torch.no_grad():
        for _ in range(8):  # calibrates the activation scales
            net(16 * torch.rand(64, 1, 7, 7))
    return net.eval()


def pooled_network() -> Any:
    """Return conv–ReLU–max pool–conv–ReLU–flatten–dense, written with the package's own arithmetic."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("brevitas")
    from caloedge.arithmetic import QuantisedArithmetic

    torch.manual_seed(5)
    a = QuantisedArithmetic(6, 7, 12, 8, {"relu_1": 8.0, "relu_2": 6.0})
    layers = [a.input("x"), a.conv2d("conv_1", 1, 3, 2), a.activation("relu_1", 0.0), a.max_pool(2)]
    layers += [a.conv2d("conv_2", 3, 4, 2), a.activation("relu_2", 0.0), a.flatten(), a.dense("dense", 16, 2, is_output=True)]
    return torch.nn.Sequential(*layers).eval()


NETWORKS = {"plain": brevitas_network, "pooled": pooled_network}


def export(name: str, exporter: str, path: Path) -> tuple[Any, Path]:
    torch = pytest.importorskip("torch")
    export_qonnx = pytest.importorskip("brevitas.export").export_qonnx
    net = NETWORKS[name]()
    model = export_qonnx(
        net, args=torch.zeros(1, 1, 7, 7), dynamo=exporter == "dynamo", input_names=["cells"], output_names=["energy"]
    )
    model.ir_version = 10  # the newest that onnxruntime reads
    onnx.save(model, path)
    return net, path


@pytest.fixture(scope="module", params=["torchscript", "dynamo"])
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    return export("plain", request.param, tmp_path_factory.mktemp(request.param) / "model.qonnx")


def test_torch_qonnx_and_graph_agree_on_every_code(exported: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    agree_on_every_code(*exported, monkeypatch)


@pytest.mark.parametrize("exporter", ["torchscript", "dynamo"])
def test_a_network_with_a_max_pool_agrees_on_every_code(exporter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, path = export("pooled", exporter, tmp_path / "model.qonnx")
    kinds = ["InputQuantiser", "Conv", "Requantise", "MaxPool", "Conv", "Requantise", "Reshape", "Dense", "Output"]
    graph = read(path)
    assert [type(op).__name__ for op in graph.ops] == kinds
    agree_on_every_code(net, path, monkeypatch)
    codes = graph.quantise_input(16 * np.random.default_rng(2).random((1000, 1, 7, 7)))
    assert (graph.replacing("pool_1", kernel=(2, 1)).run(codes)["energy"] != graph.run(codes)["energy"]).any()


def agree_on_every_code(net: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    executor = pytest.importorskip("qonnx.core.onnx_exec")
    infer_shapes = pytest.importorskip("qonnx.transformation.infer_shapes").InferShapes
    wrapper = pytest.importorskip("qonnx.core.modelwrapper").ModelWrapper
    graph = read(path)
    rng = np.random.default_rng(0)
    cells = 16.5 * rng.random((1000, 1, 7, 7))
    cells[:100] = np.round(cells[:100] * 512) / 512  # many values half way between two codes
    found = graph.run(graph.quantise_input(cells))["energy"]
    lsb = graph.tensors["energy"].format.lsb
    assert len(np.unique(found)) > 500, "the comparison would prove little"
    with torch.no_grad():
        twin = net.double()(torch.from_numpy(cells)).numpy()
    net.float()
    np.testing.assert_array_equal(found * lsb, twin)
    # The executor makes a model of each node, with the newest format version, which onnxruntime does not read yet.
    monkeypatch.setattr(executor, "qonnx_make_model", lambda graph: helper.make_model(graph, ir_version=10))
    model = wrapper(str(path)).transform(infer_shapes())
    for event in range(50):
        values = executor.execute_onnx(model, {model.graph.input[0].name: cells[event : event + 1].astype(np.float32)})["energy"]
        np.testing.assert_array_equal(found[event : event + 1] * lsb, values)


def test_a_corrupted_weight_or_rounding_is_caught(exported: tuple[Any, Path]) -> None:
    torch = pytest.importorskip("torch")
    net, path = exported
    graph = read(path)
    cells = 16.5 * np.random.default_rng(1).random((1000, 1, 7, 7))
    with torch.no_grad():
        twin = net.double()(torch.from_numpy(cells)).numpy()
    net.float()
    lsb, codes = graph.tensors["energy"].format.lsb, graph.quantise_input(cells)
    np.testing.assert_array_equal(graph.run(codes)["energy"] * lsb, twin)
    for op in graph.ops:
        if isinstance(op, Conv | Dense):
            weights = op.weights.copy()
            weights.flat[0] += 1 if weights.flat[0] < op.weight_format.max_code else -1
            changed = graph.replacing(op.name, weights=weights)
        elif isinstance(op, Requantise):
            changed = graph.replacing(op.name, rounding=type(op.rounding).HALF_UP)
        else:
            continue
        assert (changed.run(codes)["energy"] * lsb != twin).any(), op.name


def test_both_exporters_give_the_same_network(exported: tuple[Any, Path]) -> None:
    graph = read(exported[1])
    assert [op.name for op in graph.ops] == [
        *(graph.input.name, "conv_1", "relu_1", "conv_2", "relu_2", "flatten_1", "dense_1", "relu_3", "dense_2", "energy")
    ]
    assert [row.shape for row in graph.layers() if row.multiply_adds] == [(4, 5, 5), (6, 3, 3), (16,), (2,)]
    assert [str(row.weight_format)[:7] for row in graph.layers() if row.weight_format] == [
        "fixed<8",
        "fixed<5",
        "fixed<8",
        "fixed<8",
    ]


def test_reading_needs_no_torch() -> None:
    heavy = "{'torch', 'qonnx', 'brevitas', 'hls4ml'}"
    code = f"import sys, caloedge.compiler.onnx.reader; sys.exit(bool({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Files built node by node: what is supported beyond the exporter's habits, and every refusal


def constant(name: str, value: Any) -> onnx.TensorProto:
    return numpy_helper.from_array(np.asarray(value, dtype=np.float32), name)


def quant(source: str, output: str, scale: str = "eighth", bits: str = "eight", **attributes: Any) -> onnx.NodeProto:
    given = {"signed": 1, "narrow": 0, "rounding_mode": "ROUND", **attributes}
    zero = given.pop("zero", "zero")
    return helper.make_node(
        "Quant", [source, scale, zero, bits], [output], f"Q_{output}", domain="qonnx.custom_op.general", **given
    )


def node(kind: str, inputs: list[str], output: str, **attributes: Any) -> onnx.NodeProto:
    return helper.make_node(kind, inputs, [output], f"{kind}_{output}", **attributes)


def dense_file() -> dict[str, list[Any]]:
    """Return nodes and constants of x -> Quant -> MatMul -> Add -> Relu -> Quant -> y."""
    return {
        "nodes": [
            quant("x", "xq"),
            quant("w", "wq", narrow=1),
            quant("b", "bq", scale="bias_scale", bits="sixteen"),
            node("MatMul", ["xq", "wq"], "m"),
            node("Add", ["bq", "m"], "a"),
            node("Relu", ["a"], "r"),
            quant("r", "y", signed=0),
        ],
        "constants": [
            constant("w", [[1.0, -0.25], [0.5, 0.3], [9.0, 99.0]]),
            constant("b", [0.5, -0.25]),
            constant("eighth", 0.125),
            constant("bias_scale", [1 / 64]),
            constant("zero", 0),
            constant("eight", 8),
            constant("sixteen", 16),
        ],
    }


def conv_file(**attributes: Any) -> dict[str, list[Any]]:
    content = dense_file()
    given = {"kernel_shape": [1, 1], "pads": [0, 0, 0, 0], "strides": [1, 1], "dilations": [1, 1], "group": 1, **attributes}
    content["nodes"] = [quant("x", "xq"), quant("k", "kq"), node("Conv", ["xq", "kq"], "y", **given)]
    content["constants"].append(constant("k", np.ones((2, 3, 1, 1))))
    return content


def pool_file(**attributes: Any) -> dict[str, list[Any]]:
    given = {"kernel_shape": [2, 3], "pads": [0, 0, 0, 0], "strides": [1, 2], "dilations": [1, 1], "ceil_mode": 0, **attributes}
    return {**dense_file(), "nodes": [quant("x", "xq"), node("MaxPool", ["xq"], "y", **given)]}


def save(path: Path, content: dict[str, list[Any]], shape: tuple[int, ...] = (3,), outputs: tuple[str, ...] = ("y",)) -> Path:
    graph = helper.make_graph(
        content["nodes"],
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", *shape])],
        [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in outputs],
        content["constants"],
    )
    onnx.save(helper.make_model(graph, ir_version=10), path)
    return path


def replaced(content: dict[str, list[Any]], **by_output: onnx.NodeProto) -> dict[str, list[Any]]:
    return {**content, "nodes": [by_output.get(item.output[0], item) for item in content["nodes"]]}


def with_constant(content: dict[str, list[Any]], *values: onnx.TensorProto) -> dict[str, list[Any]]:
    names = {value.name for value in values}
    return {**content, "constants": [item for item in content["constants"] if item.name not in names] + list(values)}


def run(graph: Graph, *values: float) -> list[int]:
    return graph.run(graph.quantise_input([list(values)]))["y"].tolist()[0]


def test_a_matmul_with_a_folded_bias(tmp_path: Path) -> None:
    graph = read(save(tmp_path / "model.qonnx", dense_file()))
    dense = graph["dense_1"]
    assert isinstance(dense, Dense)
    assert dense.weights.tolist() == [[8, 4, 72], [-2, 2, 127]]  # 0.3 / 0.125 rounds to 2, 99 saturates
    assert dense.bias.tolist() == [32, -16]
    # 8 * 8 + 4 * 4 + 32 = 112 of 1/64 -> 14 of 1/8; -16 + 8 - 16 = -24 -> 0
    assert run(graph, 1.0, 0.5, 0.0) == [14, 0]


def test_nodes_may_come_in_any_order(tmp_path: Path) -> None:
    content = dense_file()
    expected = read(save(tmp_path / "a.qonnx", content)).digest
    assert read(save(tmp_path / "b.qonnx", {**content, "nodes": content["nodes"][::-1]})).digest == expected


def test_constants_may_be_nodes_and_weights_transposed(tmp_path: Path) -> None:
    content = dense_file()
    expected = read(save(tmp_path / "a.qonnx", content)).digest
    weights = numpy_helper.to_array(content["constants"][0]).T
    content = with_constant(content, constant("w", weights))
    bits = helper.make_node("Constant", [], ["eight"], value_float=8.0)
    content["constants"] = [item for item in content["constants"] if item.name != "eight"]
    turned = [node("Transpose", ["wq"], "wt", perm=[1, 0]), node("Identity", ["xq"], "xi"), bits]
    content = replaced(content, m=node("MatMul", ["xi", "wt"], "m"))
    assert read(save(tmp_path / "b.qonnx", {**content, "nodes": content["nodes"] + turned})).digest == expected


def test_weights_may_have_a_scale_per_channel(tmp_path: Path) -> None:
    content = with_constant(dense_file(), constant("scales", [[0.125, 0.5]]))
    graph = read(save(tmp_path / "model.qonnx", replaced(content, wq=quant("w", "wq", scale="scales", narrow=1))))
    dense = graph["dense_1"]
    assert isinstance(dense, Dense)
    assert dense.weights.tolist() == [[8, 4, 72], [0, 4, 4 * 127]]  # -0.25 / 0.5 and 0.3 / 0.5 round to 0 and 1, in units of 1/8


def test_a_convolution_output_and_two_heads(tmp_path: Path) -> None:
    content = conv_file()
    content["nodes"].append(quant("y", "z", bits="sixteen"))
    graph = read(save(tmp_path / "model.qonnx", content, (3, 2, 2), ("z", "y")))
    assert [op.name for op in graph.outputs] == ["z", "y"]
    assert graph.tensors["z"].shape == (2, 2, 2)


def test_a_max_pool_passes_codes_and_format_on(tmp_path: Path) -> None:
    graph = read(save(tmp_path / "model.qonnx", pool_file(auto_pad="VALID"), (2, 3, 5)))
    pool = graph["pool_1"]
    assert isinstance(pool, MaxPool)
    assert (pool.kernel, pool.stride) == ((2, 3), (1, 2))
    assert graph.tensors["y"].format == graph.input.format
    values = np.arange(30).reshape(1, 2, 3, 5) / 8
    assert graph.run(graph.quantise_input(values))["y"].tolist() == [[[[7, 9], [12, 14]], [[22, 24], [27, 29]]]]
    steps_of_one = pool_file()
    steps_of_one["nodes"][1] = node("MaxPool", ["xq"], "y", kernel_shape=[2, 3])
    assert read(save(tmp_path / "model.qonnx", steps_of_one, (2, 3, 5))).tensors["y"].shape == (2, 2, 3)


without_quant = [quant("w", "wq"), node("MatMul", ["x", "wq"], "y")]
cases: list[tuple[dict[str, list[Any]], tuple[int, ...], str]] = [
    (
        conv_file(group=3),
        (3, 2, 2),
        "node Conv_y: weights (2, 3, 1, 1) in 3 groups do not fit an input of 3 channels",
    ),
    (pool_file(kernel_shape=[2]), (2, 3, 5), "node MaxPool_y: kernel_shape (2,) does not fit an input (2, 3, 5)"),
    (pool_file(), (2, 1, 5), "node MaxPool_y: layer pool_1: the kernel (2, 3) is larger than its input (2, 1, 5)"),
    (conv_file(), (5, 2, 2), "node Conv_y: weights (2, 3, 1, 1) in 1 groups do not fit an input of 5 channels"),
    (
        with_constant(dense_file(), constant("eight", 8.5)),
        (3,),
        "node Q_xq: bit width 8.5 is not supported; use one whole number up to 32",
    ),
    (
        replaced(dense_file(), xq=quant("x", "xq", signed=0, narrow=1)),
        (3,),
        "node Q_xq: the quantiser of the network's input leaves out codes at its upper end; use narrow_range=False",
    ),
    (
        {**dense_file(), "nodes": without_quant},
        (3,),
        "node MatMul_y: the network's input is not quantised; begin with a QuantIdentity, or use --quantise-missing FORMAT",
    ),
    (
        replaced(dense_file(), m=node("MatMul", ["xq", "w"], "m")),
        (3,),
        "node MatMul_m: weights are not quantised: as integers they need more than 24 bits; use a weight quantiser "
        "(QuantConv2d, QuantLinear), or --quantise-missing FORMAT",
    ),
    (
        replaced(with_constant(dense_file(), constant("bias_scale", 1 / 100)), y=node("Identity", ["r"], "y")),
        (3,),
        "output y: the result of Relu_r is not quantised, and its limit lies between two codes; quantise it",
    ),
    (
        {**dense_file(), "nodes": [*dense_file()["nodes"][:-2], node("Sigmoid", ["a"], "y")]},
        (3,),
        "output y: the result of Sigmoid_y is not quantised; add a quantiser after it",
    ),
    (
        replaced(dense_file(), y=node("Softmax", ["a"], "y")),
        (3,),
        "output y: the result of a softmax is not quantised; add a quantiser, or leave it out: the largest score stays the",
    ),
    (
        replaced(dense_file(), y=node("Softmax", ["a"], "y", axis=0)),
        (3,),
        "node Softmax_y: axis 0 is the event axis; events cannot be mixed",
    ),
    (
        replaced(dense_file(), y=node("Transpose", ["a"], "y")),
        (3,),
        "node Transpose_y: Transpose with perm (1, 0) moves the event axis; keep it first",
    ),
    (
        replaced(dense_file(), y=node("Erf", ["a"], "y")),
        (3,),
        "node Erf_y: operator Erf is not supported (see `caloedge list`); export the network",
    ),
    (dense_file(), (4,), "node MatMul_m: weights for 3 inputs do not fit a tensor (4)"),
]


@pytest.mark.parametrize(("content", "shape", "message"), cases, ids=[case[2][:60] for case in cases])
def test_what_is_not_supported_is_refused_with_its_place_and_cure(
    tmp_path: Path, content: dict[str, list[Any]], shape: tuple[int, ...], message: str
) -> None:
    with pytest.raises((Unsupported, BadData)) as caught:
        read(save(tmp_path / "model.qonnx", content, shape))
    assert str(caught.value).startswith(f"model.qonnx: {message}")
    assert "\n" not in str(caught.value)


def test_missing_constants_and_cycles_are_named(tmp_path: Path) -> None:
    content = dense_file()
    content["constants"] = content["constants"][1:]
    with pytest.raises(BadData, match=r"^model.qonnx: node Q_wq: input 'w' is missing; export the file again$"):
        read(save(tmp_path / "model.qonnx", content))
    content = replaced(dense_file(), m=node("MatMul", ["r", "wq"], "m"))
    with pytest.raises(
        BadData, match=r"^model.qonnx: nodes MatMul_m, Add_a, Relu_r read each other in a cycle; export the file again$"
    ):
        read(save(tmp_path / "model.qonnx", content))
    with pytest.raises(BadData, match=r"^model.qonnx: output 'nothing' is not the result of any layer; export the file again$"):
        read(save(tmp_path / "model.qonnx", dense_file(), outputs=("nothing",)))


def test_a_damaged_file_is_one_line(tmp_path: Path) -> None:
    whole = save(tmp_path / "model.qonnx", dense_file()).read_bytes()
    for size in range(0, len(whole) - 1, 7):
        (tmp_path / "cut.qonnx").write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"^cut.qonnx: .*$"):
            read(tmp_path / "cut.qonnx")
    (tmp_path / "text.qonnx").write_text("this is no model at all")
    with pytest.raises(BadData, match=r"^text.qonnx: not a readable ONNX file \(.*\); export it again$"):
        read(tmp_path / "text.qonnx")
    with pytest.raises(UserError, match=r"none.qonnx: no such file$"):
        read(tmp_path / "none.qonnx")
