"""Loading ONNX files: what is legal comes out whole and in order, what is not is one line that names the thing and the cure."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, inliner, numpy_helper

from caloedge.compiler.onnx import onnx_file
from caloedge.compiler.onnx.onnx_file import load, node_name, quoted, shown, tensor_array
from caloedge.errors import BadData, Unsupported, UserError

NAME = "net.onnx"
MODELS = Path(__file__).parents[2] / "models"


def value(name: str, *shape: int | str | None, elem_type: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, elem_type, list(shape))


def network(**changes: Any) -> onnx.ModelProto:
    """Return x -> Relu -> Add(w) -> y with some of its parts replaced."""
    given = {
        "nodes": [helper.make_node("Relu", ["x"], ["r"], "relu"), helper.make_node("Add", ["r", "w"], ["y"], "add")],
        "inputs": [value("x", None, 2)],
        "outputs": [value("y", None, 2)],
        "initializer": [numpy_helper.from_array(np.array([1, 2], np.float32), "w")],
        **changes,
    }
    graph = helper.make_graph(given["nodes"], "g", given["inputs"], given["outputs"], given["initializer"])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("ai.onnx", 17), helper.make_opsetid("some.where", 3)])


def changed(change: Callable[[onnx.ModelProto], object]) -> onnx.ModelProto:
    model = network()
    change(model)
    return model


def write(model: onnx.ModelProto | bytes, folder: Path, name: str = NAME) -> Path:
    path = folder / name
    path.write_bytes(model if isinstance(model, bytes) else model.SerializeToString())
    return path


def error_line(model: onnx.ModelProto | bytes, folder: Path, kind: type[UserError] = BadData) -> str:
    """Return the complaint about a file without its name."""
    with pytest.raises(kind) as caught:
        load(write(model, folder))
    line = str(caught.value)
    assert type(caught.value) is kind
    assert line.isprintable(), "a message is one visible line"
    assert line.startswith(f"{NAME}: ")
    return line.removeprefix(f"{NAME}: ")


# What is legal


def test_a_legal_file_comes_out_whole(tmp_path: Path) -> None:
    model = network(inputs=[value("x", "N", 2), value("w", 2)])  # an input with a value is a constant
    model.graph.quantization_annotation.add().tensor_name = "w"
    model.training_info.add().algorithm.node.add()
    model.ir_version, model.opset_import[1].version = 2**62, 2**62
    file = load(write(model, tmp_path))
    assert file.name == NAME
    assert [(x.name, x.shape, x.event_axis_size) for x in file.inputs] == [("x", (2,), None)]
    assert (file.outputs, dict(file.output_shapes)) == (("y",), {"y": (None, 2)})
    assert [node.name for node in file.nodes] == ["relu", "add"]
    assert dict(file.opsets) == {"": 17, "some.where": 2**62}
    assert list(file.constants) == ["w"]
    assert file.constants["w"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        file.constants["w"][0] = 3


@pytest.mark.parametrize("name", ["seed_finder", "shower_shape"])
def test_the_shipped_networks_load_as_onnx_itself_reads_them(name: str) -> None:
    path = MODELS / name / "model.qonnx"
    file, model = load(path), onnx.load(path)
    assert [node.output[0] for node in file.nodes] == [node.output[0] for node in model.graph.node]
    assert set(file.constants) == {tensor.name for tensor in model.graph.initializer}
    for tensor in model.graph.initializer:
        wanted = numpy_helper.to_array(tensor)
        assert file.constants[tensor.name].dtype == wanted.dtype
        np.testing.assert_array_equal(file.constants[tensor.name], wanted)


@pytest.mark.parametrize(("size", "seen"), [(None, None), ("N", None), (7, 7), (0, None), (-1, None)])
def test_the_event_axis_may_be_baked_in_or_open(size: Any, seen: int | None, tmp_path: Path) -> None:
    (found,) = load(write(network(inputs=[value("x", size, 3, 2)]), tmp_path)).inputs
    assert (found.shape, found.event_axis_size) == ((3, 2), seen)


def test_one_value_per_event_and_whole_numbers_are_inputs_too(tmp_path: Path) -> None:
    inputs = [value("x", None, elem_type=TensorProto.INT64), value("u", 4, 1, elem_type=TensorProto.UINT8)]
    assert [x.shape for x in load(write(network(inputs=inputs), tmp_path)).inputs] == [(), (1,)]


@pytest.mark.parametrize("declared", [[None, None], ["N", 0], [-4, 2]])
def test_an_output_may_leave_its_shape_open(declared: list[Any], tmp_path: Path) -> None:
    shape = load(write(network(outputs=[value("y", *declared)]), tmp_path)).output_shapes["y"]
    assert shape == tuple(size if isinstance(size, int) and size > 0 else None for size in declared)
    bare = network(outputs=[onnx.ValueInfoProto(name="y")])
    assert load(write(bare, tmp_path)).output_shapes == {"y": ()}


def relu(source: str, result: str) -> onnx.NodeProto:
    return helper.make_node("Relu", [source], [result], f"to_{result}")


@pytest.mark.parametrize(
    ("edges", "order"),
    [
        (["xa", "xb", "ay", "bz"], "abyz"),  # the file's own order is kept where it is one
        (["bz", "xb", "ay", "xa"], "bzay"),
        (["cy", "bc", "ab", "xa", "xz"], "abcyz"),
    ],
)
def test_nodes_are_put_in_order(edges: list[str], order: str, tmp_path: Path) -> None:
    model = network(nodes=[relu(*edge) for edge in edges], outputs=[value("y", None, 2), value("z", None, 2)])
    file = load(write(model, tmp_path))
    assert "".join(node.output[0] for node in file.nodes) == order
    assert file.outputs == ("y", "z")


def test_what_no_output_needs_is_left_out_unlooked_at(tmp_path: Path) -> None:
    model = network()
    body = helper.make_graph([relu("o", "p")], "body", [], [])
    text = helper.make_tensor("text", TensorProto.STRING, [1], [b"unused"])
    model.graph.initializer.append(text)
    dead = [
        helper.make_node("Nonsense", ["text", "nobody_makes_this"], ["d1"], domain="no.such"),
        helper.make_node("If", ["x"], ["d2"], then_branch=body, else_branch=body),
        relu("d3", "d3"),
    ]
    model.graph.node.extend(dead)
    file = load(write(model, tmp_path))
    assert [node.name for node in file.nodes] == ["relu", "add"]
    assert list(file.constants) == ["w"]


def test_outputs_and_inputs_that_are_left_open_are_no_names(tmp_path: Path) -> None:
    drop = helper.make_node("Dropout", ["x", "", ""], ["y", ""], "drop")
    other = helper.make_node("Dropout", ["y"], ["z", ""], "other")
    model = network(nodes=[drop, other], outputs=[value("z", None, 2)])
    assert [node.name for node in load(write(model, tmp_path)).nodes] == ["drop", "other"]


def test_functions_that_nobody_calls_do_not_matter(tmp_path: Path) -> None:
    function = helper.make_function("some.where", "Twice", ["a"], ["b"], [relu("a", "b")], [helper.make_opsetid("", 17)])
    model = changed(lambda m: m.functions.append(function))
    assert len(load(write(model, tmp_path)).nodes) == 2
    model.graph.node.insert(0, helper.make_node("Twice", ["x"], ["t"], "call", domain="some.where"))
    model.graph.node[1].input[0] = "t"
    assert error_line(model, tmp_path, Unsupported) == (
        "node call: calls a function of the file; inline it with onnx.inliner.inline_local_functions"
    )
    assert len(load(write(inliner.inline_local_functions(model), tmp_path)).nodes) == 3, "the cure cures"


def chain(length: int, backwards: bool) -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", [f"t{i}" if i else "x"], [f"t{i + 1}"]) for i in range(length)]
    return network(nodes=nodes[::-1] if backwards else nodes, outputs=[value(f"t{length}", None, 2)])


def test_as_many_nodes_in_a_chain_as_are_compiled_need_no_recursion(tmp_path: Path) -> None:
    file = load(write(chain(onnx_file.MAX_NODES, backwards=False), tmp_path))
    assert [node.output[0] for node in file.nodes] == [f"t{i + 1}" for i in range(onnx_file.MAX_NODES)]


def test_a_hundred_thousand_nodes_backwards_take_linear_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MAX_NODES", 100_000)
    path = write(chain(100_000, backwards=True), tmp_path)
    start = time.process_time()
    file = load(path)
    seconds = time.process_time() - start
    assert [node.output[0] for node in file.nodes[:2]] == ["t1", "t2"]
    assert len(file.nodes) == 100_000
    assert seconds < 30, "5 s are usual; rescans would take 5 · 10⁹ steps"


# Values

EXTREMES: dict[int, Any] = {
    TensorProto.FLOAT: np.array([[0.1, -np.inf], [np.nan, 1e-45]], np.float32),
    TensorProto.DOUBLE: np.array([[0.1, np.inf], [np.nan, 5e-324]], np.float64),
    TensorProto.FLOAT16: np.array([[0.1, -65504], [np.nan, 6e-8]], np.float16),
    TensorProto.INT8: np.array([[-128, 127], [0, -1]], np.int8),
    TensorProto.INT16: np.array([[-(2**15), 2**15 - 1], [0, -1]], np.int16),
    TensorProto.INT32: np.array([[-(2**31), 2**31 - 1], [0, -1]], np.int32),
    TensorProto.INT64: np.array([[-(2**63), 2**63 - 1], [0, -1]], np.int64),
    TensorProto.UINT8: np.array([[0, 255], [1, 128]], np.uint8),
    TensorProto.UINT16: np.array([[0, 2**16 - 1], [1, 2**15]], np.uint16),
    TensorProto.UINT32: np.array([[0, 2**32 - 1], [1, 2**31]], np.uint32),
    TensorProto.UINT64: np.array([[0, 2**64 - 1], [1, 2**63]], np.uint64),
    TensorProto.BOOL: np.array([[True, False], [False, True]]),
}


@pytest.mark.parametrize("data_type", EXTREMES)
@pytest.mark.parametrize("raw", [True, False])
def test_values_of_every_type_are_exact(data_type: int, raw: bool) -> None:
    wanted = EXTREMES[data_type]
    if raw:
        tensor = numpy_helper.from_array(wanted, "w")
    else:
        stored = {TensorProto.FLOAT16: np.uint16, TensorProto.BOOL: np.uint8}.get(data_type, wanted.dtype)
        flat = wanted.ravel().view(stored)
        tensor = TensorProto(name="w", data_type=data_type, dims=wanted.shape)
        getattr(tensor, onnx_file.TYPED_FIELDS.get(data_type, "int32_data")).extend(flat.tolist())
    assert tensor.HasField("raw_data") == raw
    found = tensor_array(tensor, Path())
    assert found.dtype == wanted.dtype
    assert found.dtype.isnative
    assert found.shape == (2, 2)
    np.testing.assert_array_equal(found, wanted)  # compares NaN with NaN as equal
    np.testing.assert_array_equal(found, numpy_helper.to_array(tensor))


@pytest.mark.parametrize("dims", [(), (0,), (0, 3), (1, 1, 1)])
def test_scalars_and_empty_tensors_are_values(dims: tuple[int, ...]) -> None:
    wanted = np.full(dims, 7, np.int64)
    np.testing.assert_array_equal(tensor_array(numpy_helper.from_array(wanted, "w"), Path()), wanted)


def tensor(**fields: Any) -> TensorProto:
    return TensorProto(**{"name": "w", "data_type": TensorProto.FLOAT, "dims": [2, 3], "raw_data": bytes(24), **fields})


def typed(data_type: int, field: str, *values: Any) -> TensorProto:
    return TensorProto(name="w", data_type=data_type, dims=[len(values)], **{field: values})


DAMAGED: dict[str, tuple[TensorProto, str]] = {
    "too few bytes": (
        tensor(raw_data=bytes(20)),
        "has the shape (2, 3) and needs 24 bytes, but holds 20; export the file again",
    ),
    "too many bytes": (
        tensor(raw_data=bytes(28)),
        "has the shape (2, 3) and needs 24 bytes, but holds 28; export the file again",
    ),
    "no data": (
        TensorProto(name="w", data_type=1, dims=[2]),
        "has the shape (2,) and needs 2 values, but holds 0; export the file again",
    ),
    "a hundred million values without data": (
        TensorProto(name="w", data_type=1, dims=[10**8]),
        "has the shape (100000000,) and needs 100,000,000 values, but holds 0; export the file again",
    ),
    "too few values": (
        TensorProto(name="w", data_type=1, dims=[2, 2], float_data=[1, 2, 3]),
        "has the shape (2, 2) and needs 4 values, but holds 3; export the file again",
    ),
    "no type": (tensor(data_type=0), "has no type; export the file again"),
    "a negative size": (tensor(dims=[-2, -3]), "has the shape (-2, -3), which no tensor has; export the file again"),
    "values twice": (tensor(float_data=[1.0]), "holds its values twice; export the file again"),
    "values of another type": (
        typed(TensorProto.INT64, "float_data", 1.0),
        "is of type int64 but holds float_data; export the file again",
    ),
    "an int8 of 300": (
        typed(TensorProto.INT8, "int32_data", 1, 300),
        "holds 300, which is not of type int8; export the file again",
    ),
    "a negative uint8": (
        typed(TensorProto.UINT8, "int32_data", -1),
        "holds -1, which is not of type uint8; export the file again",
    ),
    "a half of 17 bits": (
        typed(TensorProto.FLOAT16, "int32_data", 65536),
        "holds 65536, which is not of type float16; export the file again",
    ),
    "a uint32 of 33 bits": (
        typed(TensorProto.UINT32, "uint64_data", 2**32),
        "holds 4294967296, which is not of type uint32; export the file again",
    ),
    "a truth value of 2": (
        tensor(data_type=TensorProto.BOOL, dims=[2], raw_data=b"\1\2"),
        "holds 2 as a truth value; export the file again",
    ),
}
REFUSED: dict[str, tuple[TensorProto, str]] = {
    "bfloat16": (
        tensor(data_type=TensorProto.BFLOAT16),
        "has values of type bfloat16, which is not supported; store it as float32 or int64",
    ),
    "text": (
        typed(TensorProto.STRING, "string_data", b"x"),
        "has values of type string, which is not supported; store it as float32 or int64",
    ),
    "complex": (
        tensor(data_type=TensorProto.COMPLEX64),
        "has values of type complex64, which is not supported; store it as float32 or int64",
    ),
    "an unknown type": (
        tensor(data_type=12345),
        "has values of type number 12345, which is not supported; store it as float32 or int64",
    ),
    "1e9 values": (
        tensor(dims=[10**9]),
        "of shape (1000000000,) takes 4,000,000,000 bytes; at most 512 MiB are read, use a smaller network",
    ),
    "1e18 values": (
        tensor(dims=[10**9, 10**9]),
        f"of shape (1000000000, 1000000000) takes {4 * 10**18:,} bytes; at most 512 MiB are read, use a smaller network",
    ),
    "2**64 values, which wrap around to none": (
        tensor(dims=[2**32, 2**32], raw_data=b""),
        f"of shape (4294967296, 4294967296) takes {2**66:,} bytes; at most 512 MiB are read, use a smaller network",
    ),
    "none of 2**62": (
        tensor(dims=[0, 2**31, 2**31], raw_data=b""),
        f"of shape (0, 2147483648, 2147483648) takes {2**64:,} bytes; at most 512 MiB are read, use a smaller network",
    ),
    "a thousand axes": (tensor(dims=[1] * 1000, raw_data=bytes(4)), "has 1000 axes; at most 16 are supported"),
    "a segment": (
        tensor(segment=TensorProto.Segment(begin=0, end=1)),
        "is one segment of several, which nobody writes; export the file again as one piece",
    ),
}


@pytest.mark.parametrize("case", [*DAMAGED, *REFUSED])
def test_values_that_contradict_themselves_are_one_line(case: str, tmp_path: Path) -> None:
    kind, (bad, message) = (BadData, DAMAGED[case]) if case in DAMAGED else (Unsupported, REFUSED[case])
    assert error_line(network(initializer=[bad]), tmp_path, kind) == f"tensor 'w' {message}"
    bad.name = ""
    with pytest.raises(kind) as caught:  # as the reader calls it, for the value of a Constant node
        tensor_array(bad, tmp_path)
    assert str(caught.value) == f"its tensor {message}"


# Values in other files


def external(folder: Path, entries: dict[str, Any], data: bytes = bytes(range(64))) -> onnx.ModelProto:
    """Return the network with w, of 8 bytes, in another file."""
    (folder / "w.bin").write_bytes(data)
    weights = TensorProto(name="w", data_type=1, dims=[2], data_location=TensorProto.EXTERNAL)
    for key, text in entries.items():
        weights.external_data.add(key=key, value=str(text))
    return network(initializer=[weights])


def test_values_in_another_file_are_read_as_onnx_writes_them(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    folder.mkdir()
    weights = np.random.default_rng(0).normal(size=(40, 2)).astype(np.float32)
    model = network(initializer=[numpy_helper.from_array(weights, "w")])
    onnx.save(model, folder / NAME, save_as_external_data=True, location="sub_w.bin", size_threshold=0)
    np.testing.assert_array_equal(load(folder / NAME).constants["w"], weights)
    data = bytearray((folder / "sub_w.bin").read_bytes())
    data[0] ^= 1
    (folder / "sub_w.bin").write_bytes(data)
    assert (load(folder / NAME).constants["w"] != weights).any()


@pytest.mark.parametrize("entries", [{}, {"offset": 8}, {"offset": 56, "length": 8}, {"checksum": "ignored", "length": 8}])
def test_a_part_of_another_file_is_read(entries: dict[str, Any], tmp_path: Path) -> None:
    start = entries.get("offset", 0)
    wanted = np.frombuffer(bytes(range(start, start + 8)), np.float32)
    (tmp_path / "sub").mkdir()
    model = external(tmp_path, {"location": "sub/link.bin", **entries})
    (tmp_path / "sub" / "link.bin").symlink_to("../w.bin")  # inside the folder, so allowed
    np.testing.assert_array_equal(load(write(model, tmp_path)).constants["w"], wanted)


OUTSIDE = "outside of the model's folder; export the file again with all data beside it"
COPY = "copy that file next to the model"
EXTERNAL: dict[str, tuple[dict[str, Any], str]] = {
    "no location": ({}, "names no file for its external data; export the file again"),
    "an absolute path": ({"location": "/etc/passwd"}, f"keeps its external data '/etc/passwd' {OUTSIDE}"),
    "the folder above": ({"location": "../w.bin"}, f"keeps its external data '../w.bin' {OUTSIDE}"),
    "there and back": ({"location": "a/../w.bin"}, f"keeps its external data 'a/../w.bin' {OUTSIDE}"),
    "a drive": ({"location": "C:\\w.bin"}, f"keeps its external data 'C:\\w.bin' {OUTSIDE}"),
    "the folder above elsewhere": ({"location": "..\\w.bin"}, f"keeps its external data '..\\w.bin' {OUTSIDE}"),
    "a link to outside": (
        {"location": "link"},
        "keeps its external data 'link' outside of the model's folder (a link leads there); copy the data beside the model",
    ),
    "a linked folder": (
        {"location": "linked_folder/w.bin"},
        "keeps its external data 'linked_folder/w.bin' outside of the model's folder (a link leads there);"
        " copy the data beside the model",
    ),
    "nothing there": ({"location": "none.bin"}, f"is missing its external data 'none.bin'; {COPY}"),
    "a folder": ({"location": "."}, "keeps its external data '.' in something that is not a file; export the file again"),
    "a pipe": ({"location": "pipe"}, "keeps its external data 'pipe' in something that is not a file; export the file again"),
    "a NUL": ({"location": "w\0.bin"}, f"cannot read its external data 'w\\x00.bin' (embedded null byte); {COPY}"),
    "a name too long": (
        {"location": "w" * 5000},
        f"cannot read its external data '{'w' * 77}...' (File name too long); {COPY}",
    ),
    "an offset behind the end": (
        {"location": "w.bin", "offset": 64},
        "needs bytes 64 to 72 of its external data 'w.bin', which has 64; copy the whole file",
    ),
    "an end behind the end": (
        {"location": "w.bin", "offset": 60},
        "needs bytes 60 to 68 of its external data 'w.bin', which has 64; copy the whole file",
    ),
    "a length that contradicts the shape": (
        {"location": "w.bin", "length": 12},
        "has the shape (2,) and needs 8 bytes of external data, but holds 12; export the file again",
    ),
    "a huge length": (
        {"location": "w.bin", "length": 10**18},
        f"has the shape (2,) and needs 8 bytes of external data, but holds {10**18:,}; export the file again",
    ),
    "a negative offset": (
        {"location": "w.bin", "offset": -8},
        "has the offset '-8' into its external data, which is not a whole number; export the file again",
    ),
    "a length in words": (
        {"location": "w.bin", "length": "eight"},
        "has the length 'eight' into its external data, which is not a whole number; export the file again",
    ),
    "an offset of a thousand digits": (
        {"location": "w.bin", "offset": "9" * 1000},
        f"has the offset '{'9' * 77}...' into its external data, which is not a whole number; export the file again",
    ),
}


@pytest.mark.parametrize("case", EXTERNAL)
def test_values_outside_the_folder_or_the_file_are_refused(case: str, tmp_path: Path) -> None:
    entries, message = EXTERNAL[case]
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "w.bin").write_bytes(bytes(64))
    (folder / "a").mkdir()
    (folder / "link").symlink_to("../w.bin")
    (folder / "linked_folder").symlink_to("..")
    os.mkfifo(folder / "pipe")
    assert error_line(external(folder, entries), folder) == f"tensor 'w' {message}"


def test_links_in_a_circle_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "round").symlink_to("round")
    line = error_line(external(tmp_path, {"location": "round"}), tmp_path)
    assert line.startswith(
        ("tensor 'w' cannot read its external data 'round' (", "tensor 'w' is missing its external data 'round'")
    )


def test_external_values_are_given_once(tmp_path: Path) -> None:
    model = external(tmp_path, {"location": "w.bin"})
    model.graph.initializer[0].raw_data = bytes(8)
    assert error_line(model, tmp_path) == "tensor 'w' holds values and refers to external data too; export the file again"


def test_many_tensors_may_not_read_the_same_place_over_and_over(tmp_path: Path) -> None:
    megabytes = 1 << 20
    with (tmp_path / "w.bin").open("wb") as stream:
        stream.truncate(64 * megabytes)
    names = [f"w{i}" for i in range(9)]
    weights = [TensorProto(name=n, data_type=1, dims=[16 * megabytes], data_location=TensorProto.EXTERNAL) for n in names]
    for one in weights:
        one.external_data.add(key="location", value="w.bin")
    model = network(nodes=[helper.make_node("Sum", ["x", *names], ["y"], "sum")], initializer=weights)
    assert error_line(model, tmp_path, Unsupported) == (
        f"tensor 'w8' and those before it take {9 * 64 * megabytes:,} bytes; at most 512 MiB are read, use a smaller network"
    )
    attribute = helper.make_node("Constant", [], ["w8"], "nine", value=weights.pop())
    model = network(nodes=[attribute, *model.graph.node], initializer=weights)
    assert error_line(model, tmp_path, Unsupported).startswith("tensor 'w8' and those before it take ")


# The file


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a readable ONNX file (it holds no nodes); export it again"),
        (b'{"graph": {}}', "not a readable ONNX file (it is not a protobuf, or damaged); export it again"),
        (b"<!DOCTYPE html>\n<html>", "not a readable ONNX file (it is not a protobuf, or damaged); export it again"),
        (b"\x80" * 20, "not a readable ONNX file (it is not a protobuf, or damaged); export it again"),
        (b"\x3a\x7fabc", "not a readable ONNX file (it ends too early); export it again"),
        (b"\x08", "not a readable ONNX file (it ends too early); export it again"),
        (b"\x0d\x01", "not a readable ONNX file (it ends too early); export it again"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n",
            "a pointer to a file in Git LFS, not the file itself; fetch it with `git lfs pull`",
        ),
    ],
)
def test_what_is_no_onnx_file_says_so(data: bytes, message: str, tmp_path: Path) -> None:
    assert error_line(data, tmp_path) == message


def test_what_the_parser_refuses_says_so(tmp_path: Path) -> None:
    deep = b""
    for _ in range(300):  # nodes in attributes of nodes in ...: deeper than protobuf goes
        deep = wire(1, wire(5, wire(6, deep)))
    line = error_line(wire(7, deep), tmp_path)
    assert line.startswith("not a readable ONNX file (Error parsing message")
    assert line.endswith("); export it again")


def wire(field: int, content: bytes) -> bytes:
    """Return a protobuf field of bytes, written by hand."""
    size, length = len(content), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([field << 3 | 2]) + length + bytes([size]) + content


@pytest.mark.parametrize(
    "data",
    [
        wire(7, b"\x0a\x00" * 600_000),  # nodes
        wire(7, b"\x2a\x00" * 600_000),  # initialisers
        wire(7, wire(1, b"\x0a\x00" * 600_000)),  # inputs of one node
        wire(7, wire(5, wire(7, b"\x01" * 5_000_000))),  # small numbers, eight bytes each
    ],
    ids=["nodes", "initialisers", "names", "numbers"],
)
def test_small_files_may_not_fill_the_memory(data: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "MAX_PARSED_BYTES", 64 << 20)
    monkeypatch.setattr(onnx_file, "_parsed", lambda data: pytest.fail("it was parsed"))
    assert error_line(data, tmp_path, Unsupported) == (
        "its structure would take more than 64 MiB of memory; compile a smaller network"
    )


def test_a_file_beyond_the_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = network().SerializeToString()
    megabyte = 1 << 20
    padding = wire(6, b"d" * (megabyte - len(model) - 4))  # documentation
    assert len(model + padding) == megabyte
    monkeypatch.setattr(onnx_file, "MAX_FILE_BYTES", megabyte)
    assert load(write(model + padding, tmp_path)).outputs == ("y",)
    assert error_line(model + padding + b"\x08\x01", tmp_path, Unsupported) == (
        "larger than 1 MiB, which no trigger holds; compile a smaller network"
    )


def test_what_is_no_file_says_so(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "round").symlink_to("round")
    for name, message in (
        ("none.onnx", f"{tmp_path / 'none.onnx'}: no such file"),
        ("", f"{tmp_path}: not a file; give the .onnx or .qonnx file itself"),
        ("pipe", f"{tmp_path / 'pipe'}: not a file; give the .onnx or .qonnx file itself"),
        ("x" * 300, f"{'x' * 300}: cannot be read (File name too long); give the .onnx or .qonnx file itself"),
        ("a\0b", "a\\x00b: cannot be read (embedded null byte); give the .onnx or .qonnx file itself"),
        ("line\nbreak", f"{tmp_path}/line\\nbreak: no such file"),
    ):
        with pytest.raises(UserError) as caught:
            load(tmp_path / name)
        found = str(caught.value)
        # Python 3.13 on: a NUL in a name is a name that does not exist.
        assert found == message or (name == "a\0b" and found.endswith("a\\x00b: no such file"))
    with pytest.raises(UserError, match=r"round: (no such file|cannot be read)"):
        load(tmp_path / "round")


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    whole = network().SerializeToString()
    load(write(whole, tmp_path))
    last = network().opset_import[1].SerializeToString()
    for size in range(len(whole)):
        path = write(whole[:size], tmp_path)
        if size == len(whole) - len(last) - 2:  # just without the declaration of a domain that no node uses
            load(path)
            continue
        with pytest.raises(BadData, match=rf"^{NAME}: .*export (it|the file) again$"):
            load(path)


# The network

SEQUENCE = helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, [None, 2])


def renamed(field: str, text: bytes) -> onnx.ModelProto:
    """Return the network with a name that is not UTF-8, which protobuf's own setters refuse."""
    marker = f"<{'z' * (len(text) - 2)}>".encode()
    model = network()
    target: Any = {
        "node": lambda: setattr(model.graph.node[0], "name", marker.decode()),
        "operator": lambda: setattr(model.graph.node[0], "op_type", marker.decode()),
        "domain": lambda: setattr(model.graph.node[0], "domain", marker.decode()),
        "tensor": lambda: model.graph.node[0].input.append(marker.decode()),
        "input": lambda: setattr(model.graph.input[0], "name", marker.decode()),
        "initialiser": lambda: setattr(model.graph.initializer[0], "name", marker.decode()),
        "output": lambda: setattr(model.graph.output[0], "name", marker.decode()),
        "attribute": lambda: model.graph.node[0].attribute.add(name=marker.decode(), type=2, i=1),
        "opset": lambda: setattr(model.opset_import[1], "domain", marker.decode()),
    }[field]
    target()
    data = model.SerializeToString()
    assert data.count(marker) == 1
    model = onnx.ModelProto()
    model.ParseFromString(data.replace(marker, text))
    return model


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("node", "node b'\\xff\\xfe\\n\\xf0': a name is not UTF-8 text"),
        ("operator", "node relu: a name is not UTF-8 text"),
        ("domain", "node relu: a name is not UTF-8 text"),
        ("tensor", "node relu: a name is not UTF-8 text"),
        ("input", "the name of an input is not UTF-8 text"),
        ("initialiser", "the name of an initialiser is not UTF-8 text"),
        ("output", "the name of an output is not UTF-8 text"),
        ("attribute", "node relu: the name of an attribute is not UTF-8 text"),
        ("opset", "the domain of an operator set is not UTF-8 text"),
    ],
)
def test_names_that_are_not_text_are_one_line(field: str, message: str, tmp_path: Path) -> None:
    line = error_line(renamed(field, b"\xff\xfe\n\xf0"), tmp_path)
    assert line == f"{message} (b'\\xff\\xfe\\n\\xf0'); rename it or export the file again"


BROKEN: dict[str, tuple[onnx.ModelProto, str]] = {
    "no input": (network(inputs=[]), "the network has no input; export the file again with an input"),
    "only constants": (network(inputs=[value("w", 2)]), "the network has no input; export the file again with an input"),
    "no output": (network(outputs=[]), "the network has no output; export the file again with an output"),
    "an output that nobody makes": (
        network(outputs=[value("none", 1)]),
        "output 'none' is not the result of any layer; export the file again",
    ),
    "two inputs of one name": (
        network(inputs=[value("x", None, 2)] * 2),
        "input 'x' is declared twice; export the file again",
    ),
    "two outputs of one name": (
        network(outputs=[value("y", None, 2)] * 2),
        "output 'y' is declared twice; export the file again",
    ),
    "two initialisers of one name": (
        changed(lambda m: m.graph.initializer.append(m.graph.initializer[0])),
        "initialiser 'w' is declared twice; export the file again",
    ),
    "an input without a name": (network(inputs=[value("", 1)]), "an input has no name; export the file again"),
    "an initialiser without a name": (
        changed(lambda m: setattr(m.graph.initializer[0], "name", "")),
        "an initialiser has no name; export the file again",
    ),
    "two makers": (
        changed(lambda m: m.graph.node.append(relu("x", "r"))),
        "node to_r: its output 'r' is also made by relu; export the file again",
    ),
    "one maker twice": (
        changed(lambda m: m.graph.node[0].output.append("r")),
        "node relu: its output 'r' is also made by relu; export the file again",
    ),
    "an input that is made": (
        changed(lambda m: m.graph.node.append(relu("y", "x"))),
        "node to_x: its output 'x' is also an input; export the file again",
    ),
    "an initialiser that is made": (
        changed(lambda m: m.graph.node.append(relu("y", "w"))),
        "node to_w: its output 'w' is also an initialiser; export the file again",
    ),
    "a missing initialiser": (network(initializer=[]), "node add: input 'w' is missing; export the file again"),
    "a node that reads itself": (
        changed(lambda m: m.graph.node[1].input.append("y")),
        "node add: reads its own output; export the file again",
    ),
    "a cycle": (
        network(nodes=[relu("b", "a"), relu("a", "b"), relu("a", "y")]),
        "nodes to_a, to_b read each other in a cycle; export the file again",
    ),
    "a cycle of seven": (
        network(nodes=[*(relu(chr(ord("a") + (i + 1) % 7), chr(ord("a") + i)) for i in range(7)), relu("a", "y")]),
        "nodes to_a, to_b, to_c, to_d, to_e, ... read each other in a cycle; export the file again",
    ),
    "a node without operator": (
        changed(lambda m: setattr(m.graph.node[0], "op_type", "")),
        "node relu: names no operator; export the file again",
    ),
    "a node without outputs": (
        changed(lambda m: m.graph.node.add(op_type="Print", input=["x"], output=[""], name="dead")),
        "node dead: has no output; remove it or export the file again",
    ),
    "a domain of two versions": (
        changed(lambda m: m.opset_import.append(helper.make_opsetid("", 13))),
        "domain '' is declared with versions 17 and 13; export the file again",
    ),
    "no version": (
        changed(lambda m: m.ClearField("opset_import")),
        "node relu: the file names no version of the ONNX operators (it may be cut short); export the file again",
    ),
    "an attribute twice": (
        changed(lambda m: m.graph.node[0].attribute.extend([helper.make_attribute("k", 1)] * 2)),
        "node relu: attribute 'k' is given twice; export the file again",
    ),
    "an attribute without type": (
        changed(lambda m: m.graph.node[0].attribute.add(name="k", i=1)),
        "node relu: attribute 'k' has no type or one that nobody knows; export the file again",
    ),
    "an attribute of a function": (
        changed(lambda m: m.graph.node[0].attribute.add(name="k", type=2, ref_attr_name="of")),
        "node relu: attribute 'k' stands for an attribute of a function, outside of any; export the file again",
    ),
    "an input without type": (
        network(inputs=[onnx.ValueInfoProto(name="x")]),
        "input 'x': its type is not declared; export the file again",
    ),
    "an input of undefined values": (
        network(inputs=[value("x", None, 2, elem_type=0)]),
        "input 'x': the type of its values is not declared; export the file again",
    ),
    "an input of size 0": (
        network(inputs=[value("x", None, 2, 0)]),
        "input 'x': axis 2 has size 0; export the file again with fixed sizes of at least 1",
    ),
    "an input of size -1": (
        network(inputs=[value("x", None, -1)]),
        "input 'x': axis 1 has size -1; export the file again with fixed sizes of at least 1",
    ),
}
FOREIGN: dict[str, tuple[onnx.ModelProto, str]] = {
    "an output that is an input": (
        network(outputs=[value("x", None, 2)]),
        "output 'x' is not the result of any layer but given; remove it from the outputs",
    ),
    "an output that is a constant": (
        network(outputs=[value("w", 2)]),
        "output 'w' is not the result of any layer but given; remove it from the outputs",
    ),
    "sparse": (
        changed(lambda m: m.graph.sparse_initializer.add().dims.append(2)),
        "sparse initialisers are not supported; store them dense",
    ),
    "a branch": (
        changed(lambda m: m.graph.node[0].attribute.append(helper.make_attribute("body", helper.make_graph([], "b", [], [])))),
        "node relu: attribute 'body' is a network of its own (If, Loop, Scan), which is not supported; unroll it",
    ),
    "a branch that calls itself a number": (
        changed(lambda m: m.graph.node[0].attribute.add(name="k", type=2).g.node.add()),
        "node relu: attribute 'k' is a network of its own (If, Loop, Scan), which is not supported; unroll it",
    ),
    "an input that is a sequence": (network(inputs=[SEQUENCE]), "input 'x': a sequence is not supported; use a tensor"),
    "an output that is a sequence": (
        network(outputs=[helper.make_tensor_sequence_value_info("y", 1, None)]),
        "output 'y': a sequence is not supported; use a tensor",
    ),
    "an input of text": (
        network(inputs=[value("x", None, 2, elem_type=TensorProto.STRING)]),
        "input 'x': values of type string are not supported; use numbers",
    ),
    "an input of an unknown type": (
        network(inputs=[value("x", None, 2, elem_type=99)]),
        "input 'x': values of type number 99 are not supported; use numbers",
    ),
    "an input without shape": (
        network(inputs=[helper.make_tensor_value_info("x", 1, None)]),
        "input 'x': its shape is not declared; export the file again with fixed sizes",
    ),
    "a scalar input": (
        network(inputs=[value("x")]),
        "input 'x': a scalar has no axis for events; use the shape (events, ...)",
    ),
    "an open size": (
        network(inputs=[value("x", "N", 2, "rows")]),
        "input 'x': axis 2 has no fixed size (rows); export the file again with fixed sizes but for the events",
    ),
    "an unknown size": (
        network(inputs=[value("x", None, None)]),
        "input 'x': axis 1 has no fixed size (unknown); export the file again with fixed sizes but for the events",
    ),
    "an input of 1e9 values": (
        network(inputs=[value("x", None, 10**9)]),
        "input 'x': 1,000,000,000 values per event are too many; use at most 4,194,304",
    ),
    "inputs of many values together": (
        network(inputs=[value("x", None, 2**22), value("u", None, 1)]),
        "inputs up to 'u': 4,194,305 values per event are too many; use at most 4,194,304",
    ),
    "an input of many axes": (
        network(inputs=[value("x", *[1] * 17)]),
        "input 'x': 17 axes; at most 16 are supported",
    ),
}


@pytest.mark.parametrize("case", [*BROKEN, *FOREIGN])
def test_a_network_that_contradicts_itself_is_one_line(case: str, tmp_path: Path) -> None:
    kind, (model, message) = (BadData, BROKEN[case]) if case in BROKEN else (Unsupported, FOREIGN[case])
    assert error_line(model, tmp_path, kind) == message


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("line\nbreak", "line\\nbreak"),
        ("bell\a and \x1b[31mred", "bell\\x07 and \\x1b[31mred"),
        ("right to left \u202e", "right to left \\u202e"),
        ("x" * 1_000_000, "x" * 77 + "..."),
        ("Größe 漢字", "Größe 漢字"),
    ],
)
def test_names_stay_in_one_visible_line(name: str, printed: str, tmp_path: Path) -> None:
    model = network(initializer=[])
    model.graph.node[1].name, model.graph.node[1].input[1] = name, name
    assert error_line(model, tmp_path) == f"node {printed}: input '{printed}' is missing; export the file again"
    model.graph.node[1].name = ""
    assert node_name(model.graph.node[1]) == "Add of y"


def test_names_of_any_kind_can_be_printed() -> None:
    assert (quoted(""), quoted(b"\xff"), shown("a\tb")) == ("''", "'b'\\xff''", "a\\tb")
    assert node_name(onnx.NodeProto()) == " of "
