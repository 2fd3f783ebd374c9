"""Load ONNX files that nobody vouches for: what comes out is consistent; all else is one line, in bounded memory and time.

Checked here is what the file says about itself: the protobuf, names, values, the order of nodes, paths to other files. What the
nodes mean, and whether their shapes fit, is the reader's business. Nodes that no output needs are left out unlooked at, apart
from their names.
"""

import heapq
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, NoReturn

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import AttributeProto, TensorProto

from caloedge.errors import BadData, Unsupported, UserError

MAX_FILE_BYTES = 256 << 20
"""Largest file that is read: 64 million float weights, far more than a trigger holds."""
MAX_PARSED_BYTES = 512 << 20
"""Largest file by the memory that its protobuf takes, which may be a hundred times its size on disk."""
MAX_VALUE_BYTES = 512 << 20
"""Most memory for the values of all constants of one file together."""
MAX_INPUT_VALUES = 1 << 22
"""Most values per event of all inputs together; each takes an exact range in the compiler."""
MAX_NODES = 5_000
"""Most nodes that the outputs may need, a hundred times those of a trigger: the executor keeps 100 kB for each."""
MAX_AXES = 16
MAX_SHOWN = 80
"""Longest name that is printed whole."""

FIELD_BYTES = 128
"""Memory that one field of a protobuf is taken for, and as much again for a message: empty, it takes 50 to 200 bytes."""
PACKED_VALUE_BYTES = 16
"""Memory per byte of a packed list of numbers: small ones take one byte in the file, eight in a list, which grows by doubling."""

GIT_LFS = b"version https://git-lfs"
AGAIN = "export the file again"
STANDARD = ("", "ai.onnx")
"""The two names of the domain of ONNX's own operators."""
NOT_NUMBERS = (TensorProto.STRING, TensorProto.COMPLEX64, TensorProto.COMPLEX128)
DTYPES: dict[int, str] = {
    TensorProto.FLOAT: "<f4",
    TensorProto.DOUBLE: "<f8",
    TensorProto.FLOAT16: "<f2",
    TensorProto.INT8: "<i1",
    TensorProto.INT16: "<i2",
    TensorProto.INT32: "<i4",
    TensorProto.INT64: "<i8",
    TensorProto.UINT8: "<u1",
    TensorProto.UINT16: "<u2",
    TensorProto.UINT32: "<u4",
    TensorProto.UINT64: "<u8",
    TensorProto.BOOL: "<u1",
}
"""Types of constants that are read, as they lie in `raw_data` or in another file."""
WHOLE_TYPES: dict[int, tuple[int, int]] = {
    kind: (int(np.iinfo(name).min), int(np.iinfo(name).max)) for kind, name in DTYPES.items() if np.dtype(name).kind in "iu"
} | {TensorProto.BOOL: (0, 1)}
"""Least and greatest value of the types of whole numbers."""
TYPED_FIELDS: dict[int, str] = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}
"""Fields of values that are not raw; all other types are in `int32_data`."""
DATA_FIELDS = ("float_data", "int32_data", "int64_data", "uint64_data", "double_data", "string_data")


@dataclass(frozen=True, eq=False)
class OnnxInput:
    """An input of the network that is not a constant."""

    name: str
    shape: tuple[int, ...]
    """Shape without the event axis; every size is known and positive."""
    event_axis_size: int | None
    """The number of events that the exporter saw, or None where the file leaves it open."""
    whole_range: tuple[int, int] | None = None
    """Least and greatest value where its type is one of whole numbers."""


@dataclass(frozen=True, eq=False)
class OnnxFile:
    """A consistent ONNX file: every tensor that a node reads is an input, a constant or made by an earlier node."""

    name: str
    """File name for messages, without the folder."""
    inputs: tuple[OnnxInput, ...]
    outputs: tuple[str, ...]
    output_shapes: Mapping[str, tuple[int | None, ...]]
    """Shapes as declared, with the event axis; empty where the file declares none. None is a size that the file leaves open."""
    nodes: tuple[onnx.NodeProto, ...]
    """Nodes that the outputs need, each after the nodes that it reads, in the file's order where that is one."""
    constants: Mapping[str, NDArray[Any]]
    """The initialisers that these nodes read; the arrays cannot be written to."""
    opsets: Mapping[str, int]
    """Version by domain; ONNX's own domain is the empty text."""


def load(path: Path) -> OnnxFile:
    """Return what an ONNX file holds.

    Raises `UserError` if there is no such file, `BadData` if it is damaged or contradicts itself and `Unsupported` for
    what no reader takes; the message begins with the file's name.
    """
    data = _file_bytes(path)
    file = _visible(path.name)
    try:
        _refuse_bloat(data)
        model = _parsed(data)
        return _loaded(model, path)
    except (BadData, Unsupported) as problem:
        raise type(problem)(f"{file}: {problem}") from None


def tensor_array(tensor: TensorProto, folder: Path) -> NDArray[Any]:
    """Return the values of a tensor in the shape it declares; they cannot be written to.

    `folder` is where the model lies: values in another file are read only from inside it. Raises `BadData` if the values do
    not fit the shape or type and `Unsupported` for types that are not numbers of at least 8 bits; the message names the tensor.

    >>> tensor_array(onnx.helper.make_tensor("w", TensorProto.INT8, (1, 2), [3, -4]), Path())
    array([[ 3, -4]], dtype=int8)
    """
    try:
        dims, dtype = _dims_and_type(tensor)
        if tensor.HasField("segment"):
            _fail("is one segment of several, which nobody writes; export the file again as one piece", Unsupported)
        if tensor.data_location == TensorProto.EXTERNAL:
            flat = np.frombuffer(_external_bytes(tensor, math.prod(dims) * dtype.itemsize, folder), dtype)
        elif tensor.HasField("raw_data"):
            flat = _raw_values(tensor, dims, dtype)
        else:
            flat = _typed_values(tensor, dims, dtype)
        if tensor.data_type == TensorProto.BOOL:
            if flat.size and int(flat.max()) > 1:
                _fail(f"holds {int(flat.max())} as a truth value; {AGAIN}")
            flat = flat.astype(np.bool_)
        array = flat.astype(flat.dtype.newbyteorder("=")).reshape(dims)
        array.flags.writeable = False
        return array
    except (BadData, Unsupported) as problem:
        named = f"tensor {quoted(tensor.name)}" if tensor.name else "its tensor"
        raise type(problem)(f"{named} {problem}") from None


def node_name(node: onnx.NodeProto) -> str:
    """Return what a message calls a node: its name, or its operator and outputs.

    >>> node_name(onnx.helper.make_node("Relu", ["x"], ["y"])), node_name(onnx.helper.make_node("Relu", ["x"], ["y"], "one"))
    ('Relu of y', 'one')
    """
    return shown(node.name) if node.name else shown(f"{_text(node.op_type)} of {', '.join(map(_text, node.output[:3]))}")


def shown(name: str | bytes) -> str:
    r"""Return a name as a message may print it: in one line, visible and not too long.

    >>> shown("conv 1"), shown("line\nbreak"), len(shown("x" * 1_000_000))
    ('conv 1', 'line\\nbreak', 80)
    """
    text = _text(name)
    return _visible(text if len(text) <= MAX_SHOWN else text[: MAX_SHOWN - 3] + "...")


def quoted(name: str | bytes) -> str:
    """Return a name in quotes as a message may print it, so that an empty one is seen."""
    return f"'{shown(name)}'"


def _visible(text: str) -> str:
    return text if text.isprintable() else repr(text)[1:-1]


# The bytes


def _file_bytes(path: Path) -> bytes:
    file = _visible(path.name)
    try:
        if not path.exists():
            raise UserError(f"{_visible(str(path))}: no such file")
        if not path.is_file():  # a pipe would be waited for, a device never ends
            raise UserError(f"{_visible(str(path))}: not a file; give the .onnx or .qonnx file itself")
        with path.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        raise UserError(f"{file}: cannot be read ({reason}); give the .onnx or .qonnx file itself") from None
    if len(data) > MAX_FILE_BYTES:
        raise Unsupported(f"{file}: larger than {MAX_FILE_BYTES >> 20} MiB, which no trigger holds; compile a smaller network")
    if data.startswith(GIT_LFS):
        raise BadData(f"{file}: a pointer to a file in Git LFS, not the file itself; fetch it with `git lfs pull`")
    return data


def _parsed(data: bytes) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError, RuntimeError) as problem:  # which one depends on how protobuf was built
        _unreadable((str(problem).splitlines() or ["damaged"])[0])
    return model


def _unreadable(reason: str) -> NoReturn:
    raise BadData(f"not a readable ONNX file ({reason}); export it again")


def _fail(message: str, kind: type[UserError] = BadData) -> NoReturn:
    raise kind(message)


def _text(name: str | bytes) -> str:
    # Protobuf hands over text that is not UTF-8 as bytes.
    return name if isinstance(name, str) else repr(name)


_NUMBER_TYPES = tuple(
    getattr(onnx.ModelProto.DESCRIPTOR.fields[0], f"CPPTYPE_{kind}")
    for kind in ("INT32", "INT64", "UINT32", "UINT64", "BOOL", "ENUM", "FLOAT", "DOUBLE")
)


@cache
def _message_fields(descriptor: Any) -> tuple[dict[int, Any], frozenset[int]]:
    """Return the messages among the fields of a message, by number, and the numbers of its lists of packable numbers."""
    fields = descriptor.fields
    messages = {field.number: field.message_type for field in fields if field.message_type is not None}
    return messages, frozenset(field.number for field in fields if field.cpp_type in _NUMBER_TYPES)


def _refuse_bloat(data: bytes) -> None:
    """Walk over the fields of a protobuf without making objects of them, and refuse what would fill the memory.

    Two bytes in the file may become an object of 200 bytes, so that the file's size bounds nothing. Whatever this walk takes
    for damaged is refused too, since the parser might go on where the walk stopped.
    """
    budget = MAX_PARSED_BYTES - len(data)
    waiting: list[tuple[int, int, Any]] = [(0, len(data), onnx.ModelProto.DESCRIPTOR)]
    while waiting:
        at, end, descriptor = waiting.pop()
        messages, numbers = _message_fields(descriptor)
        while at < end and budget >= 0:
            budget -= FIELD_BYTES
            if (key := data[at]) < 128:  # one byte, nearly always: a call would cost more than all the rest
                at += 1
            else:
                key, at = _varint(data, at, end)
            wire = key & 7
            if wire == 2:
                if at < end and (size := data[at]) < 128:
                    at += 1
                else:
                    size, at = _varint(data, at, end)
                field = key >> 3
                if field in messages:
                    budget -= FIELD_BYTES
                    if size:
                        waiting.append((at, at + size, messages[field]))
                elif field in numbers:
                    budget -= size * PACKED_VALUE_BYTES if size > FIELD_BYTES else 0
                at += size
            elif wire == 0:
                _, at = _varint(data, at, end)
            elif wire in (1, 5):
                at += 8 if wire == 1 else 4
            else:
                _unreadable("it is not a protobuf, or damaged")
        if at > end:
            _unreadable("it ends too early")
    if budget < 0:
        _fail(
            f"its structure would take more than {MAX_PARSED_BYTES >> 20} MiB of memory; compile a smaller network", Unsupported
        )


def _varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    """Return the number at a position and the position after it."""
    if at < end and data[at] < 128:
        return data[at], at + 1
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            _unreadable("it ends too early")
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    _unreadable("it is not a protobuf, or damaged")


# The network


def _loaded(model: onnx.ModelProto, path: Path) -> OnnxFile:
    graph = model.graph
    if not graph.node:
        _unreadable("it holds no nodes")
    if graph.sparse_initializer:
        _fail("sparse initialisers are not supported; store them dense", Unsupported)
    initialisers = _by_name(graph.initializer, "initialiser")
    declared = _by_name(graph.input, "input")
    outputs = _by_name(graph.output, "output")
    real = {name: value for name, value in declared.items() if name not in initialisers}
    if not real:
        _fail(f"the network has no input; {AGAIN} with an input")
    if not outputs:
        _fail(f"the network has no output; {AGAIN} with an output")
    wiring = _wiring(graph.node, real, initialisers)
    nodes = [graph.node[index] for index in _ordered(wiring, outputs, {*real, *initialisers})]
    if len(nodes) > MAX_NODES:
        _fail(f"its outputs need {len(nodes):,} nodes; at most {MAX_NODES:,} are compiled, use a smaller network", Unsupported)
    opsets = _opsets(model)
    _refuse_nodes(nodes, model, opsets)
    used = {name for node in nodes for name in node.input}
    constants = {name: tensor for name, tensor in initialisers.items() if name in used}
    _refuse_too_many_values(chain(constants.values(), _attribute_tensors(nodes)))
    return OnnxFile(
        name=_visible(path.name),
        inputs=_inputs(real),
        outputs=tuple(outputs),
        output_shapes={name: _output_shape(name, value) for name, value in outputs.items()},
        nodes=tuple(nodes),
        constants={name: tensor_array(tensor, path.parent) for name, tensor in constants.items()},
        opsets=opsets,
    )


def _by_name(values: Iterable[Any], kind: str) -> dict[str, Any]:
    """Return inputs, outputs or initialisers by name; a name is given and given once."""
    by_name: dict[str, Any] = {}
    for value in values:
        name = _checked_text(value.name, f"the name of an {kind}")
        if not name:
            _fail(f"an {kind} has no name; {AGAIN}")
        if name in by_name:
            _fail(f"{kind} {quoted(name)} is declared twice; {AGAIN}")
        by_name[name] = value
    return by_name


def _checked_text(text: str | bytes, subject: str) -> str:
    if isinstance(text, str):
        return text
    return _fail(f"{subject} is not UTF-8 text ({shown(text)}); rename it or export the file again")


@dataclass(frozen=True, eq=False)
class _Wiring:
    """Readers and makers of each tensor; nodes go by their position in the file."""

    nodes: Sequence[onnx.NodeProto]
    reads: list[tuple[str, ...]]
    maker: dict[str, int]

    def label(self, index: int) -> str:
        return node_name(self.nodes[index])


def _wiring(nodes: Sequence[onnx.NodeProto], real: Iterable[str], initialisers: Iterable[str]) -> _Wiring:
    """Return the wiring after checking that every tensor has one origin."""
    origins = dict.fromkeys(real, "an input") | dict.fromkeys(initialisers, "an initialiser")
    maker: dict[str, int] = {}
    wiring = _Wiring(nodes, [], maker)
    for index, node in enumerate(nodes):
        inputs, outputs = tuple(node.input), tuple(node.output)
        for text in (node.name, node.op_type, node.domain, *inputs, *outputs):
            if not isinstance(text, str):
                _checked_text(text, f"node {node_name(node)}: a name")
        if not node.op_type:
            _fail(f"node {node_name(node)}: names no operator; {AGAIN}")
        if not any(outputs):
            _fail(f"node {node_name(node)}: has no output; remove it or export the file again")
        for output in filter(None, outputs):
            if output in origins:
                _fail(f"node {node_name(node)}: its output {quoted(output)} is also {origins[output]}; {AGAIN}")
            if output in maker:
                _fail(
                    f"node {node_name(node)}: its output {quoted(output)} is also made by {wiring.label(maker[output])}; {AGAIN}"
                )
            maker[output] = index
        wiring.reads.append(inputs)
    return wiring


def _ordered(wiring: _Wiring, outputs: Iterable[str], available: set[str]) -> list[int]:
    """Return the nodes that the outputs need, each after the ones it reads, and otherwise as they stand in the file."""
    needed = _needed(wiring, outputs, available)
    pending: dict[int, int] = {}
    readers: dict[int, list[int]] = {}
    for index in needed:
        makers = [wiring.maker[name] for name in wiring.reads[index] if name in wiring.maker]
        pending[index] = len(makers)
        for maker in makers:
            readers.setdefault(maker, []).append(index)
    ready = [index for index in needed if not pending[index]]
    heapq.heapify(ready)
    order = []
    while ready:
        order.append(index := heapq.heappop(ready))
        for reader in readers.get(index, ()):
            pending[reader] -= 1
            if not pending[reader]:
                heapq.heappush(ready, reader)
    if len(order) < len(needed):
        _refuse_cycle(wiring, next(index for index in needed if pending[index]), pending)
    return order


def _needed(wiring: _Wiring, outputs: Iterable[str], available: set[str]) -> list[int]:
    """Return the nodes that the outputs need, as they stand in the file, after checking that nothing they read is missing."""
    waiting = []
    for name in outputs:
        if name in available:
            _fail(f"output {quoted(name)} is not the result of any layer but given; remove it from the outputs", Unsupported)
        if name not in wiring.maker:
            _fail(f"output {quoted(name)} is not the result of any layer; {AGAIN}")
        waiting.append(wiring.maker[name])
    reached = set(waiting)
    while waiting:
        for name in wiring.reads[waiting.pop()]:
            maker = wiring.maker.get(name)
            if maker is not None and maker not in reached:
                reached.add(maker)
                waiting.append(maker)
    needed = sorted(reached)
    for index in needed:
        for name in wiring.reads[index]:
            if name and name not in wiring.maker and name not in available:
                _fail(f"node {wiring.label(index)}: input {quoted(name)} is missing; {AGAIN}")
    return needed


def _refuse_cycle(wiring: _Wiring, index: int, pending: Mapping[int, int]) -> NoReturn:
    """Name the nodes of a cycle: whoever still waits waits for someone who waits too."""
    visited: dict[int, None] = {}
    while index not in visited:
        visited[index] = None
        makers = (wiring.maker[name] for name in wiring.reads[index] if name in wiring.maker)
        index = next(maker for maker in makers if pending[maker])
    path = list(visited)
    cycle = path[path.index(index) :]
    if len(cycle) == 1:
        _fail(f"node {wiring.label(index)}: reads its own output; {AGAIN}")
    names = ", ".join(wiring.label(member) for member in sorted(cycle)[:5])
    _fail(f"nodes {names}{', ...' if len(cycle) > 5 else ''} read each other in a cycle; {AGAIN}")


def _opsets(model: onnx.ModelProto) -> dict[str, int]:
    versions: dict[str, int] = {}
    for opset in model.opset_import:
        domain = _checked_text(opset.domain, "the domain of an operator set")
        domain = "" if domain in STANDARD else domain
        if versions.setdefault(domain, opset.version) != opset.version:
            _fail(f"domain {quoted(domain)} is declared with versions {versions[domain]} and {opset.version}; {AGAIN}")
    return versions


def _refuse_nodes(nodes: Iterable[onnx.NodeProto], model: onnx.ModelProto, opsets: Mapping[str, int]) -> None:
    """Refuse nodes that hold other nodes, and attributes that no reader could tell apart."""
    functions = {("" if f.domain in STANDARD else f.domain, f.name) for f in model.functions}
    for node in nodes:
        domain = "" if node.domain in STANDARD else node.domain
        if (domain, node.op_type) in functions:
            _fail(
                f"node {node_name(node)}: calls a function of the file; inline it with onnx.inliner.inline_local_functions",
                Unsupported,
            )
        if not domain and opsets.get("", 0) < 1:
            _fail(f"node {node_name(node)}: the file names no version of the ONNX operators (it may be cut short); {AGAIN}")
        try:
            _refuse_attributes(node.attribute)
        except (BadData, Unsupported) as problem:
            raise type(problem)(f"node {node_name(node)}: {problem}") from None


def _refuse_attributes(attributes: Iterable[AttributeProto]) -> None:
    names = set()
    for attribute in attributes:
        name = _checked_text(attribute.name, "the name of an attribute")
        if name in names:
            _fail(f"attribute {quoted(name)} is given twice; {AGAIN}")
        names.add(name)
        if attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) or attribute.HasField("g") or attribute.graphs:
            _fail(
                f"attribute {quoted(name)} is a network of its own (If, Loop, Scan), which is not supported; unroll it",
                Unsupported,
            )
        if attribute.ref_attr_name:
            _fail(f"attribute {quoted(name)} stands for an attribute of a function, outside of any; {AGAIN}")
        if attribute.type == AttributeProto.UNDEFINED:
            _fail(f"attribute {quoted(name)} has no type or one that nobody knows; {AGAIN}")


def _inputs(values: Mapping[str, onnx.ValueInfoProto]) -> tuple[OnnxInput, ...]:
    inputs, n_values = [], 0
    for name, value in values.items():
        inputs.append(_input(name, value))
        n_values += math.prod(inputs[-1].shape)
        if n_values > MAX_INPUT_VALUES:
            whose = f"input {quoted(name)}:" if len(inputs) == 1 else f"inputs up to {quoted(name)}:"
            _fail(f"{whose} {n_values:,} values per event are too many; use at most {MAX_INPUT_VALUES:,}", Unsupported)
    return tuple(inputs)


def _input(name: str, value: onnx.ValueInfoProto) -> OnnxInput:
    subject = f"input {quoted(name)}"
    kind = value.type.WhichOneof("value")
    if kind is None:
        _fail(f"{subject}: its type is not declared; {AGAIN}")
    if kind != "tensor_type":
        _fail(f"{subject}: a {kind.removesuffix('_type')} is not supported; use a tensor", Unsupported)
    tensor = value.type.tensor_type
    if tensor.elem_type == TensorProto.UNDEFINED:
        _fail(f"{subject}: the type of its values is not declared; {AGAIN}")
    if tensor.elem_type in NOT_NUMBERS or tensor.elem_type not in TensorProto.DataType.values():
        _fail(f"{subject}: values of type {_type_name(tensor.elem_type)} are not supported; use numbers", Unsupported)
    if not tensor.HasField("shape"):
        _fail(f"{subject}: its shape is not declared; {AGAIN} with fixed sizes", Unsupported)
    dims = tensor.shape.dim
    if not dims:
        _fail(f"{subject}: a scalar has no axis for events; use the shape (events, ...)", Unsupported)
    _refuse_many_axes(len(dims), f"{subject}: ")
    for axis, dim in enumerate(dims):
        if axis and not dim.HasField("dim_value"):
            size = shown(dim.dim_param) or "unknown"
            _fail(f"{subject}: axis {axis} has no fixed size ({size}); {AGAIN} with fixed sizes but for the events", Unsupported)
        if axis and dim.dim_value < 1:
            _fail(f"{subject}: axis {axis} has size {dim.dim_value}; {AGAIN} with fixed sizes of at least 1")
    shape = tuple(int(dim.dim_value) for dim in dims)
    # Some exporters write 0 or -1 where they mean any number of events.
    return OnnxInput(name, shape[1:], shape[0] if shape[0] > 0 else None, WHOLE_TYPES.get(tensor.elem_type))


def _output_shape(name: str, value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    kind = value.type.WhichOneof("value")
    if kind not in (None, "tensor_type"):
        _fail(f"output {quoted(name)}: a {kind.removesuffix('_type')} is not supported; use a tensor", Unsupported)
    dims = value.type.tensor_type.shape.dim
    if value.type.tensor_type.HasField("shape") and not dims:
        _fail(f"output {quoted(name)}: a scalar has no axis for events; give it the shape (events, ...)", Unsupported)
    _refuse_many_axes(len(dims), f"output {quoted(name)}: ")
    return tuple(int(dim.dim_value) if dim.dim_value > 0 else None for dim in dims)


# Values


def _attribute_tensors(nodes: Iterable[onnx.NodeProto]) -> Iterator[TensorProto]:
    for node in nodes:
        for attribute in node.attribute:
            if attribute.HasField("t"):
                yield attribute.t
            yield from attribute.tensors


def _refuse_too_many_values(tensors: Iterable[TensorProto]) -> None:
    """Refuse constants in other files that are too large together, such as many that read the same place.

    Those that no reader takes are not counted: they are refused when they are read.
    """
    total = 0
    for tensor in tensors:
        if tensor.data_location == TensorProto.EXTERNAL and tensor.data_type in DTYPES and len(tensor.dims) <= MAX_AXES:
            total += max(0, math.prod(tensor.dims)) * np.dtype(DTYPES[tensor.data_type]).itemsize
            _refuse_too_many_bytes(total, f"tensor {quoted(tensor.name)} and those before it take ")


def _refuse_too_many_bytes(n_bytes: int, beginning: str) -> None:
    if n_bytes > MAX_VALUE_BYTES:
        _fail(f"{beginning}{n_bytes:,} bytes; at most {MAX_VALUE_BYTES >> 20} MiB are read, use a smaller network", Unsupported)


def _refuse_many_axes(n_axes: int, beginning: str) -> None:
    if n_axes > MAX_AXES:
        _fail(f"{beginning}{n_axes} axes; at most {MAX_AXES} are supported", Unsupported)


def _type_name(data_type: int) -> str:
    known = data_type in TensorProto.DataType.values()
    return TensorProto.DataType.Name(data_type).lower() if known else f"number {data_type}"


def _dims_and_type(tensor: TensorProto) -> tuple[tuple[int, ...], np.dtype[Any]]:
    """Return the shape and type of a tensor as it lies in the file."""
    if tensor.data_type == TensorProto.UNDEFINED:
        _fail(f"has no type; {AGAIN}")
    if tensor.data_type not in DTYPES:
        name = _type_name(tensor.data_type)
        _fail(f"has values of type {name}, which is not supported; store it as float32 or int64", Unsupported)
    _refuse_many_axes(len(tensor.dims), "has ")
    dims = tuple(int(size) for size in tensor.dims)
    if any(size < 0 for size in dims):
        _fail(f"has the shape {dims}, which no tensor has; {AGAIN}")
    dtype = np.dtype(DTYPES[tensor.data_type])
    # Beyond what an array may hold, numpy fails even where one size is 0 and no value is needed.
    _refuse_too_many_bytes(math.prod(max(size, 1) for size in dims) * dtype.itemsize, f"of shape {dims} takes ")
    return dims, dtype


def _misfit(dims: tuple[int, ...], needed: int, present: int, unit: str) -> NoReturn:
    _fail(f"has the shape {dims} and needs {needed:,} {unit}, but holds {present:,}; {AGAIN}")


def _raw_values(tensor: TensorProto, dims: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if any(len(getattr(tensor, field)) for field in DATA_FIELDS):
        _fail(f"holds its values twice; {AGAIN}")
    raw, needed = tensor.raw_data, math.prod(dims) * dtype.itemsize
    if len(raw) != needed:
        _misfit(dims, needed, len(raw), "bytes")
    return np.frombuffer(raw, dtype)


def _typed_values(tensor: TensorProto, dims: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    field = TYPED_FIELDS.get(tensor.data_type, "int32_data")
    for other_field in DATA_FIELDS:
        if other_field != field and len(getattr(tensor, other_field)):
            _fail(f"is of type {_type_name(tensor.data_type)} but holds {other_field}; {AGAIN}")
    values, needed = getattr(tensor, field), math.prod(dims)
    if len(values) != needed:
        _misfit(dims, needed, len(values), "values")
    stored = np.uint16 if tensor.data_type == TensorProto.FLOAT16 else dtype  # half floats lie there as their bits
    if field in ("float_data", "double_data") or np.dtype(stored).itemsize == 8:
        return np.fromiter(values, stored, needed)
    wide = np.fromiter(values, np.uint64 if field == "uint64_data" else np.int64, needed)
    narrow = wide.astype(stored)
    if np.any(wrong := narrow != wide):
        _fail(f"holds {int(wide[wrong][0])}, which is not of type {_type_name(tensor.data_type)}; {AGAIN}")
    return narrow.view(dtype)


def _external_bytes(tensor: TensorProto, needed: int, folder: Path) -> bytes:
    """Return the bytes of a tensor that lie in another file of the model's folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    if not all(isinstance(text, str) for text in chain(entries, entries.values())):
        _fail(f"names its external data in something else than UTF-8 text; {AGAIN}")
    if tensor.HasField("raw_data") or any(len(getattr(tensor, field)) for field in DATA_FIELDS):
        _fail(f"holds values and refers to external data too; {AGAIN}")
    offset, length = _whole_number(entries, "offset", 0), _whole_number(entries, "length", needed)
    if length != needed:
        _misfit(_dims_and_type(tensor)[0], needed, length, "bytes of external data")
    location = entries.get("location", "")
    path = _inside(location, folder)
    named = f"its external data {quoted(location)}"
    try:
        size = path.stat().st_size
        if offset + needed > size:
            _fail(f"needs bytes {offset:,} to {offset + needed:,} of {named}, which has {size:,}; copy the whole file")
        with path.open("rb") as stream:
            stream.seek(offset)
            content = stream.read(needed)
    except (OSError, ValueError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        _fail(f"cannot read {named} ({reason}); copy that file next to the model")
    if len(content) != needed:
        _fail(f"needs {needed:,} bytes of {named}, which changed while it was read; compile again")
    return content


def _whole_number(entries: Mapping[str, str], key: str, otherwise: int) -> int:
    text = entries.get(key)
    if text is None:
        return otherwise
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        _fail(f"has the {key} {quoted(text)} into its external data, which is not a whole number; {AGAIN}")
    return int(text)


def _inside(location: str, folder: Path) -> Path:
    """Return the regular file in the model's folder that a location names; nothing outside is touched."""
    named = f"its external data {quoted(location)}"
    parts = (PurePosixPath(location), PureWindowsPath(location))
    if not location:
        _fail(f"names no file for its external data; {AGAIN}")
    if any(path.is_absolute() or path.drive or path.root or ".." in path.parts for path in parts):
        _fail(f"keeps {named} outside of the model's folder; export the file again with all data beside it")
    try:
        home = folder.resolve()
        path = (home / location).resolve()
        if not path.is_relative_to(home):
            _fail(f"keeps {named} outside of the model's folder (a link leads there); copy the data beside the model")
        if not path.exists():
            _fail(f"is missing {named}; copy that file next to the model")
        if not path.is_file():
            _fail(f"keeps {named} in something that is not a file; {AGAIN}")
    except (OSError, ValueError, RuntimeError) as problem:  # too long a name, a NUL in it, links in a circle
        reason = problem.strerror if isinstance(problem, OSError) else str(problem)
        _fail(f"cannot read {named} ({shown(reason or 'no reason given')}); copy that file next to the model")
    return path
