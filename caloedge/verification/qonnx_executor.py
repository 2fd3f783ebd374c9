"""Run a QONNX file in float64, node by node: the independent reference that the exact integer network is compared against.

What a quantiser means comes from the qonnx package, whose own functions are called with float64 arrays. What a standard
operator means comes from onnxruntime's kernels for double and, where it has none, from `onnx.reference`, ONNX's own
implementation. Constants are float32 in the file and exact in float64, so differences that only float32 rounding makes
(scales that are not powers of two) do not appear; only the codes of quantised constants are those of the file's own precision.
What float64 sums may round off decides nothing: a value that lies within `ROUNDED_OFF` of a boundary lies on it, and scores so
close to each other are equal. (0.4 · 0.7 added and subtracted as often as not leaves 1e-16, and -1 once that is rounded down.)
Axes: N events; everything else is the file's own, but a tensor of one number per event, (N,) in the file, is (N, 1) as in the
integer network.
"""

import functools
import importlib.util
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
from google.protobuf.message import DecodeError
from numpy.typing import NDArray
from onnx import AttributeProto, NodeProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from caloedge.errors import BadData, MissingTool, Unsupported, UserError

PRECISION = """Every operator computes in float64, and the executor refuses one that returns float32 for float64 inputs.
Operators without a float64 kernel in onnxruntime, and those of FLOAT32_INSIDE, are those of onnx.reference; their first
result is compared with onnxruntime in float32 to that precision, because onnx.reference has errors of its own. Those of
FLOAT32_ONLY are refused: neither package has them in float64. Not float64 is only what the file itself makes integer
(QuantizeLinear, Cast, TopK's indices), the attributes of nodes, which are float32 in ONNX and enter exactly, and the codes
of a Quant whose inputs are all stored constants (weights, biases): they are rounded in the precision in which they are stored,
because that is what training saw, and are multiplied by their scale in float64."""
FLOAT32_INSIDE = ("Shrink", "Attention")
"""Operators that onnxruntime offers in double but computes in float32, as measured with onnxruntime 1.31."""
FLOAT32_ONLY = ("DynamicQuantizeLinear", "GridSample")
STASH_TYPE_SINCE = {"LayerNormalization": 17, "GroupNormalization": 21, "RMSNormalization": 23}
"""First opset in which operators have the attribute stash_type, the precision of their mean and variance (default float32)."""
IR_VERSION = 10  # onnx 1.23 writes 14, onnxruntime 1.31 reads up to 13
BLOCK_EVENTS = 1024
MAX_NODES, MAX_DEPTH = 5_000, 100
"""Limits on the number of nodes after inlining a file's functions, and on the depth of nested calls."""
MAX_BATCH = 2**16
"""Largest batch that a file may ask for."""
BLOCK_ELEMENTS = 2**17
"""Largest number of input elements that run at once: a convolution of large images needs about a thousand times the memory."""
SUMMATION_TOLERANCE = 1e-9
"""Tolerance relative to the largest value: a batched matrix product may add in another order than a single event's."""
ROUNDED_OFF = 1e-12
"""Tolerance relative to one step or to the value, whichever is larger: the rounding error of sums in float64, and far less
than the distance of unequal numbers."""
FLOAT32_TOLERANCE = 1e-3
"""Tolerance relative to the largest value: the rounding error of float32 sums, and far below the effect of a wrong stride,
group or padding."""

GENERAL, CHANNELS_LAST = "qonnx.custom_op.general", "qonnx.custom_op.channels_last"
CUSTOM_DOMAINS = {GENERAL: GENERAL, "onnx.brevitas": GENERAL, "finn.custom_op.general": GENERAL, CHANNELS_LAST: CHANNELS_LAST}
CHOICES = ("TopK", "ArgMax", "ArgMin")
INTEGER_QUANTISERS = ("Quant", "IntQuant")
TRUNC_INPUTS = {1: 5, 2: 6}
"""Number of inputs of each version of Trunc; qonnx itself does not check it."""
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)
INTEGER_RANGES = {
    f"{sign}INT{bits}": (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    for sign in ("U", "")
    for bits in (2, 4, 8, 16, 32)
}

Array = NDArray[Any]
Arrays = list[Array | None]
Kernel = Callable[[Arrays], Sequence[Any]]
Values = dict[str, Array]
Run = Callable[[Mapping[str, Array]], Values]


@dataclass(frozen=True)
class _Model:
    """A file prepared for execution: float64 constants, nodes in topological order."""

    file: str
    graph: onnx.GraphProto
    opsets: Mapping[str, int]
    nodes: tuple[NodeProto, ...]
    constants: Mapping[str, Array]
    stored: Mapping[str, Array]
    """Inputs of quantisers of constants, in the precision of the file."""
    inputs: Mapping[str, onnx.ValueInfoProto]
    outputs: tuple[str, ...]
    varying: frozenset[str]
    """Tensors that depend on the inputs."""


def execute(path: Path, inputs: Mapping[str, Array], *, keep: Collection[str] = ()) -> dict[str, NDArray[np.float64]]:
    """Run a QONNX file on real inputs {name: (N, *shape)} node by node in float64; return outputs by name in declared order.

    A tensor that has the shape (N,) in the file comes as (N, 1), and may be given so. The tensors named in `keep` follow; one
    that does not depend on the inputs comes as it is, without axis N. Events run
    batched; the first two and the last of every block run alone too, and where the batch changes them (constants with a
    baked-in batch of 1) every event runs alone. Raises `BadData`, `Unsupported` or `UserError` naming file and node, and
    `MissingTool` without qonnx or onnxruntime. `PRECISION` says what is not float64.
    """
    _need_packages()
    model = _load(path, keep)
    arrays, baked = _checked_inputs(model, inputs)
    names = tuple(dict.fromkeys((*model.outputs, *keep)))
    tensor_names = {*model.inputs, *model.constants, *(name for node in model.nodes for name in node.output)}
    if strangers := sorted(set(names) - tensor_names):
        raise UserError(f"{model.file}: no tensor is named {strangers[0]!r}; keep tensors of the file")
    kernels: dict[tuple[Any, ...], Kernel] = {}
    constants = _run_nodes(model, model.constants, kernels, [node for node in model.nodes if not _varies(node, model)])
    steps = [node for node in model.nodes if _varies(node, model)]
    moving = tuple(name for name in names if name in model.varying)

    def run(batch: Mapping[str, Array]) -> Values:
        return _run_nodes(model, {**constants, **batch}, kernels, steps, moving)

    results = _run_all_events(model, run, arrays, baked) if moving else {}
    results = {name: array.reshape(-1, 1) if array.ndim == 1 else array for name, array in results.items()}
    return {name: np.asarray(results.get(name, constants.get(name)), np.float64) for name in names}


def input_names(path: Path) -> tuple[str, ...]:
    """Return the names of a file's inputs in declared order, without its initialisers."""
    return tuple(_load(path).inputs)


def execute_stock(path: Path, inputs: Mapping[str, Array], events_per_call: int) -> dict[str, Array]:
    """Run the qonnx package's own executor in float32 as users call it, some events per call; outputs by name.

    It is loaded once. Its one-node models are written in a version that onnxruntime can read; nothing else is changed.
    """
    _need_packages()
    from qonnx.core import onnx_exec
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.infer_shapes import InferShapes

    model = ModelWrapper(str(path))
    values_in = [value for value in model.graph.input if value.name in inputs]
    for value in (*values_in, *model.graph.output):  # the executor wants every shape as numbers
        value.type.tensor_type.shape.dim[0].dim_value = events_per_call
    model, make_model, calls = model.transform(InferShapes()), onnx_exec.qonnx_make_model, []
    onnx_exec.qonnx_make_model = lambda graph: make_model(graph, ir_version=IR_VERSION)
    try:
        for start in range(0, len(next(iter(inputs.values()))), events_per_call):
            batch = {name: array[start : start + events_per_call].astype(np.float32) for name, array in inputs.items()}
            calls.append(onnx_exec.execute_onnx(model, batch))
    finally:
        onnx_exec.qonnx_make_model = make_model
    return {name: np.concatenate([call[name] for call in calls]) for name in calls[0]}


# The file -----------------------------------------------------------------------------------------------------------------


def _need_packages() -> None:
    if not all(importlib.util.find_spec(name) for name in ("qonnx", "onnxruntime")):
        raise MissingTool("the QONNX executor needs the packages qonnx and onnxruntime; pip install 'caloedge[hls4ml]'")


def _load(path: Path, keep: Collection[str] = ()) -> _Model:
    try:
        file = onnx.load(path)
    except FileNotFoundError as error:
        raise UserError(f"{path}: {'no such file' if not path.exists() else error}") from None
    except (DecodeError, onnx.checker.ValidationError, ValueError, OSError) as error:
        raise BadData(f"{path.name}: not a readable ONNX file ({_one_line(error)}); export it again") from None
    required = {*keep, *(value.name for value in file.graph.output)}
    _drop_unneeded(file.graph, required)  # before anything looks at it: nobody vouches for what no output needs
    if file.functions:
        file = _inlined(file, path.name)
        _drop_unneeded(file.graph, required)
    graph = file.graph
    if not graph.output:
        raise BadData(f"{path.name}: not a readable ONNX file (it holds no output); export it again")
    if graph.sparse_initializer:
        raise Unsupported(f"{path.name}: sparse initialisers are not supported; export dense ones")
    constants = {tensor.name: _float64(tensor, path.name) for tensor in graph.initializer}
    inputs = {value.name: value for value in graph.input if value.name not in constants}
    opsets = {opset.domain: opset.version for opset in file.opset_import}
    nodes = tuple(_float64_node(node, opsets.get("", 1), path.name) for node in _ordered(graph, {*constants, *inputs}, path.name))
    varying = set(inputs)
    for node in nodes:
        if varying.intersection(node.input):
            varying.update(node.output)
    outputs = tuple(value.name for value in graph.output)
    stored = _stored_constants(graph, path.name)
    return _Model(path.name, graph, opsets, nodes, constants, stored, inputs, outputs, frozenset(varying))


def _drop_unneeded(graph: onnx.GraphProto, required: set[str]) -> None:
    """Remove the nodes, initialisers and inputs that none of the required tensors depends on."""
    made_by = {name: node for node in graph.node for name in node.output if name}
    needed, waiting = set(required), list(required)
    while waiting:
        node = made_by.get(waiting.pop())
        reads = set(node.input) - needed if node is not None else ()
        needed.update(reads)
        waiting += reads
    nodes = [node for node in graph.node if not needed.isdisjoint(node.output)]
    tensors = [tensor for tensor in graph.initializer if tensor.name in needed]
    dropped = {tensor.name for tensor in graph.initializer} - needed
    inputs = [value for value in graph.input if value.name not in dropped]
    for field, remaining in ((graph.node, nodes), (graph.initializer, tensors), (graph.input, inputs)):
        if len(remaining) < len(field):
            copies = [type(message).FromString(message.SerializeToString()) for message in remaining]
            del field[:]
            field.extend(copies)


def _inlined(file: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return the file with the functions that it calls put in their places; what they become is bounded before."""
    bodies: dict[tuple[str, str], list[NodeProto]] = {}
    for function in file.functions:
        if function.domain not in CUSTOM_DOMAINS:
            bodies.setdefault((function.domain, function.name), []).extend(function.node)
    calls: dict[tuple[str, str], set[tuple[str, str]]] = {}
    waiting = {(node.domain, node.op_type) for node in file.graph.node} & set(bodies)
    while waiting:
        for node in bodies[key := waiting.pop()]:
            _refuse_graphs(node, name)
        calls[key] = {(node.domain, node.op_type) for node in bodies[key]} & set(bodies)
        waiting |= calls[key] - set(calls)
    sizes: dict[tuple[str, str], int] = {}
    depths: dict[tuple[str, str], int] = {}
    try:
        for key in TopologicalSorter(calls).static_order():
            sizes[key] = sum(sizes.get((node.domain, node.op_type), 1) for node in bodies[key])
            depths[key] = 1 + max((depths[called] for called in calls[key]), default=0)
    except CycleError as error:
        raise BadData(f"{name}: function {error.args[1][0][1]} of the file calls itself; export the file again") from None
    total, depth = sum(sizes.get((node.domain, node.op_type), 1) for node in file.graph.node), max(depths.values(), default=0)
    if total > MAX_NODES or depth > MAX_DEPTH:
        raise Unsupported(
            f"{name}: its functions make {total:,} nodes, {depth} calls deep; at most {MAX_NODES:,} and {MAX_DEPTH} are run"
        )
    called_functions = [function for function in file.functions if (function.domain, function.name) in calls]
    del file.functions[:]
    file.functions.extend(called_functions)
    return onnx.inliner.inline_selected_functions(file, list(calls)) if calls else file


def _stored_constants(graph: onnx.GraphProto, file: str) -> dict[str, Array]:
    """Return the constants that quantisers read, in the precision in which they lie in the file."""
    names = {
        name for node in graph.node if node.domain in CUSTOM_DOMAINS and node.op_type in INTEGER_QUANTISERS for name in node.input
    }
    constants = {tensor.name: _array_of(tensor, file) for tensor in graph.initializer if tensor.name in names}
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in names:
            for attribute in node.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    constants[node.output[0]] = _array_of(attribute.t, file)
    return constants


def _ordered(graph: onnx.GraphProto, available: set[str], file: str) -> Iterator[NodeProto]:
    made_by = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    for node in graph.node:
        for name in node.input:
            if name and name not in available and name not in made_by:
                raise BadData(f"{file}: node {_name(node)}: input {name!r} is missing; export the file again")
    needs = {index: {made_by[name] for name in node.input if name in made_by} for index, node in enumerate(graph.node)}
    try:
        yield from (graph.node[index] for index in TopologicalSorter(needs).static_order())
    except CycleError as error:
        loop = ", ".join(sorted({_name(graph.node[index]) for index in error.args[1]})[:5])
        raise BadData(f"{file}: nodes {loop} read each other in a cycle; export the file again") from None


def _float64(tensor: TensorProto, file: str) -> Array:
    array = _array_of(tensor, file)
    return array.astype(np.float64) if tensor.data_type in FLOATS else array


def _array_of(tensor: TensorProto, file: str) -> Array:
    try:
        return numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise BadData(f"{file}: initialiser {tensor.name!r} is damaged ({error}); export the file again") from None


def _refuse_graphs(node: NodeProto, file: str) -> None:
    if any(attribute.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for attribute in node.attribute):
        raise Unsupported(f"{file}: node {_name(node)}: {node.op_type} with a graph inside is not supported; unroll it")


def _float64_node(node: NodeProto, opset: int, file: str) -> NodeProto:
    """Return a copy whose tensor attributes and target types are float64."""
    _refuse_graphs(node, file)
    copy = NodeProto()
    copy.CopyFrom(node)
    for attribute in copy.attribute:
        if attribute.type == AttributeProto.TENSOR and attribute.t.data_type in FLOATS:
            attribute.t.CopyFrom(numpy_helper.from_array(_float64(attribute.t, file)))
        if attribute.name in ("to", "dtype") and node.domain in ("", "ai.onnx"):
            if attribute.i in (TensorProto.FLOAT16, TensorProto.BFLOAT16):
                raise Unsupported(f"{file}: node {_name(node)}: a cast to 16-bit floats is not supported; export in float32")
            attribute.i = TensorProto.DOUBLE if attribute.i == TensorProto.FLOAT else attribute.i
    if opset >= STASH_TYPE_SINCE.get(node.op_type, opset + 1):
        attributes = [attribute for attribute in copy.attribute if attribute.name != "stash_type"]
        del copy.attribute[:]
        copy.attribute.extend([*attributes, helper.make_attribute("stash_type", TensorProto.DOUBLE)])
    return copy


def _checked_inputs(model: _Model, inputs: Mapping[str, Array]) -> tuple[dict[str, Array], int]:
    """Return the inputs in the order and type of the file, and its baked-in batch size (1 when symbolic)."""
    if set(inputs) != set(model.inputs):
        raise UserError(f"{model.file}: its inputs are {', '.join(model.inputs)}; given are {', '.join(inputs) or 'none'}")
    arrays, baked = {}, set()
    for name, value in model.inputs.items():
        array, shape = np.asarray(inputs[name]), value.type.tensor_type.shape.dim
        sizes = tuple(dim.dim_value for dim in shape)
        has_shape = value.type.tensor_type.HasField("shape")
        if has_shape and len(sizes) == 1 and array.shape[1:] == (1,):
            array = array[:, 0]
        fits = array.ndim == len(sizes) > 0 and all(
            size in (0, length) for size, length in zip(sizes[1:], array.shape[1:], strict=True)
        )
        if has_shape and not fits:
            axes = ", ".join(["N", *(str(dim.dim_value or dim.dim_param or "?") for dim in shape[1:])])
            raise UserError(f"{model.file}: input {name!r} has shape {array.shape}; give ({axes})")
        kind = value.type.tensor_type.elem_type
        arrays[name] = array.astype(np.float64 if kind in FLOATS else helper.tensor_dtype_to_np_dtype(kind))
        if not np.array_equal(arrays[name], array, equal_nan=array.dtype.kind == "f"):
            raise UserError(
                f"{model.file}: input {name!r} holds values that its type {arrays[name].dtype} cannot; round them first"
            )
        baked.add(sizes[0] or 1 if has_shape else 1)
    if len({len(array) for array in arrays.values()}) > 1 or not all(len(array) for array in arrays.values()):
        events = ", ".join(f"{name!r} {len(array)}" for name, array in arrays.items())
        raise UserError(f"{model.file}: events per input: {events}; give the same number, at least one")
    if max(baked, default=1) > MAX_BATCH:
        raise Unsupported(f"{model.file}: a batch of {max(baked):,} events is not supported; export with a batch of 1")
    if len(baked) > 1:
        raise Unsupported(f"{model.file}: inputs of different batch sizes {sorted(baked)} are not supported; export with one")
    return arrays, max(baked, default=1)


def _name(node: NodeProto) -> str:
    return node.name or f"{node.op_type} of {next(iter(node.output), '?')!r}"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def _varies(node: NodeProto, model: _Model) -> bool:
    return bool(model.varying.intersection(node.input))


# The events ---------------------------------------------------------------------------------------------------------------


def _run_all_events(model: _Model, run: Run, arrays: Mapping[str, Array], baked: int) -> Values:
    """Run all events block by block, batched as long as that gives what events alone give."""
    events = len(next(iter(arrays.values())))
    elements = sum(array.size for array in arrays.values()) // events
    block = max(2, min(BLOCK_EVENTS, BLOCK_ELEMENTS // max(elements, 1)) // baked) * baked
    parts, batched = [], True
    for start in range(0, events, block):
        part = {name: array[start : start + block] for name, array in arrays.items()}
        results = _run_batched(model, run, part, baked) if batched else None
        batched = results is not None
        parts.append(_run_in_groups(model, run, part, baked) if results is None else results)
    return _concatenate(model, parts)


def _run_batched(model: _Model, run: Run, arrays: Mapping[str, Array], baked: int) -> Values | None:
    """Return the results of all events at once; None when the first two groups or the last differ from those run alone."""
    events = len(next(iter(arrays.values())))
    if events < 2 * baked:
        return None
    try:
        results = run(arrays)
    except UserError:  # a constant shape that only fits the baked-in batch; other causes come back when events run alone
        return None
    sample = np.unique([*range(2 * baked), *range(events - baked, events)])
    alone = _run_in_groups(model, run, {name: array[sample] for name, array in arrays.items()}, baked)
    good = (
        results[name].shape[:1] == (events,) and _close(results[name][sample], alone[name], SUMMATION_TOLERANCE)
        for name in results
    )
    return results if all(good) else None


def _run_in_groups(model: _Model, run: Run, arrays: Mapping[str, Array], baked: int) -> Values:
    """Run events in groups of the baked-in batch size, usually alone; the last group is filled up with its last event."""
    events = len(next(iter(arrays.values())))
    parts = []
    for start in range(0, events, baked):
        index = np.minimum(np.arange(start, start + baked), events - 1)
        results = run({name: array[index] for name, array in arrays.items()})
        for name, array in results.items():
            if array.shape[:1] != (baked,):
                if baked > 1:
                    raise Unsupported(f"{model.file}: {name!r} has no axis of {baked} events; export with a batch of 1")
                results[name] = array[np.newaxis]
        parts.append({name: array[: events - start] for name, array in results.items()})
    return _concatenate(model, parts)


def _concatenate(model: _Model, parts: Sequence[Values]) -> Values:
    for name in parts[0]:
        if len({part[name].shape[1:] for part in parts}) > 1:
            raise Unsupported(f"{model.file}: the shape of {name!r} depends on the event; ask for tensors of fixed shape")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _close(actual: Array, expected: Array, tolerance: float) -> bool:
    finite = np.abs(expected[np.isfinite(expected)].astype(np.float64))
    atol = tolerance * float(finite.max(initial=0.0))
    return actual.shape == expected.shape and np.allclose(actual, expected, rtol=0.0, atol=atol, equal_nan=True)


# The nodes ----------------------------------------------------------------------------------------------------------------


def _run_nodes(
    model: _Model,
    start: Mapping[str, Array],
    kernels: dict[tuple[Any, ...], Kernel],
    nodes: Sequence[NodeProto],
    names: Sequence[str] | None = None,
) -> Values:
    """Run nodes in order; return the wanted tensors, or all when none are named. Tensors are dropped after their last use."""
    values = dict(start)
    last_use = {name: index for index, node in enumerate(nodes) for name in node.input}
    for index, node in enumerate(nodes):
        arrays: Arrays = [values[name] if name else None for name in node.input]
        key = (node.output[0], *(array.dtype if array is not None else None for array in arrays))
        try:
            with np.errstate(all="ignore"):  # infinities follow IEEE 754, in onnxruntime too
                if key not in kernels:
                    kernels[key] = _kernel(node, model, arrays)
                results = kernels[key](arrays)
        except UserError as error:
            raise type(error)(f"{model.file}: node {_name(node)}: {error}") from None
        except Exception as error:  # the packages raise anything from AssertionError to their own types
            raise Unsupported(
                f"{model.file}: node {_name(node)}: {node.op_type} failed ({_one_line(error)}); check its inputs"
            ) from None
        for name, result in zip(node.output, results, strict=False):
            if name:
                values[name] = _as_float64(result, node, model, arrays)
        if names is not None:
            for name in {name for name in node.input if last_use[name] == index and name not in names}:
                values.pop(name, None)
    return values if names is None else {name: values[name] for name in names}


def _as_float64(result: Any, node: NodeProto, model: _Model, arrays: Arrays) -> Array:
    if not isinstance(result, np.ndarray | np.generic):
        raise Unsupported(f"{model.file}: node {_name(node)}: {node.op_type} gives no tensor; sequences are not supported")
    array = np.asarray(result)
    if array.dtype in (np.float32, np.float16):
        if any(operand is not None and operand.dtype == np.float64 for operand in arrays):
            raise Unsupported(f"{model.file}: node {_name(node)}: {node.op_type} computes in {array.dtype}; replace it")
        array = array.astype(np.float64)  # a constant, exact
    return array


def _kernel(node: NodeProto, model: _Model, arrays: Arrays) -> Kernel:
    """Return the kernel that runs one node on arrays of these types."""
    if node.domain in CUSTOM_DOMAINS:
        return _custom_kernel(node, model, arrays)
    if node.op_type in FLOAT32_ONLY:
        raise Unsupported(f"{node.op_type} exists in float32 only; replace it")
    implementation = {"QuantizeLinear": _quantise_linear, "DequantizeLinear": _dequantise_linear}.get(node.op_type)
    if implementation and not node.domain:
        attributes = _attributes(node)
        return lambda arrays: [implementation(arrays, attributes)]
    if node.op_type not in FLOAT32_INSIDE:
        double = _onnxruntime(node, model, arrays)
        if double is not None:
            chooses = node.op_type in CHOICES and node.input[0] in model.varying and _array(arrays, 0).dtype == np.float64
            return _with_tied_scores(double, _choice_axis(node)) if chooses else double
    if node.op_type == "AveragePool":
        attributes = _attributes(node)
        kernel: Kernel = lambda arrays: [_average_pool(_array(arrays, 0), attributes)]  # noqa: E731
    elif node.op_type == "GlobalMaxPool":  # onnx.reference is right for images only
        kernel = lambda arrays: [_array(arrays, 0).max(axis=tuple(range(2, _array(arrays, 0).ndim)), keepdims=True)]  # noqa: E731
    elif node.op_type == "ConvTranspose":
        attributes = _attributes(node)
        kernel = lambda arrays: [_transposed_convolution(arrays, attributes)]  # noqa: E731
    else:
        evaluator = ReferenceEvaluator(_one_node(node, model.opsets, arrays))
        kernel = lambda arrays: _evaluate(evaluator, _feed(node, arrays))  # noqa: E731
    _compare_with_float32(node, model, arrays, kernel)
    return kernel


def _one_node(node: NodeProto, opsets: Mapping[str, int], arrays: Arrays) -> onnx.ModelProto:
    inputs = {
        name: helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), None)
        for name, array in _feed(node, arrays).items()
    }
    outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph([node], "node", list(inputs.values()), outputs)
    imports = [helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    return helper.make_model(graph, ir_version=IR_VERSION, opset_imports=imports)


def _evaluate(evaluator: ReferenceEvaluator, feed: Mapping[str, Array]) -> list[Any]:
    results = evaluator.run(None, dict(feed))
    return list(results.values()) if isinstance(results, dict) else results


def _feed(node: NodeProto, arrays: Arrays) -> dict[str, Array]:
    return {name: array for name, array in zip(node.input, arrays, strict=True) if array is not None}


def _onnxruntime(node: NodeProto, model: _Model, arrays: Arrays) -> Kernel | None:
    """Return onnxruntime's kernel for arrays of these types; None where it has none."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what it lacks is not an error here
    options.enable_cpu_mem_arena = False  # nor a reserve of memory
    options.intra_op_num_threads = 1  # a pool of threads for each node would only cost
    try:
        text = _one_node(node, model.opsets, arrays).SerializeToString()
        session = onnxruntime.InferenceSession(text, options, providers=["CPUExecutionProvider"])
    except Exception:  # not implemented, type not allowed, opset too new: it has a class for each
        return None
    outputs = [name for name in node.output if name]

    def run(arrays: Arrays) -> list[Any]:
        results = dict(zip(outputs, session.run(outputs, _feed(node, arrays)), strict=True))
        return [results.get(name) for name in node.output]

    return run


def _compare_with_float32(node: NodeProto, model: _Model, arrays: Arrays, kernel: Kernel) -> None:
    """Raise `Unsupported` when a kernel differs from onnxruntime's float32 by more than float32 can."""
    single: Arrays = [a.astype(np.float32) if a is not None and a.dtype == np.float64 else a for a in arrays]
    runtime = _onnxruntime(node, model, single)
    if runtime is None:
        return
    for name, mine, theirs in zip(node.output, kernel(arrays), runtime(single), strict=False):
        if theirs is None or theirs.dtype != np.float32:
            continue
        good = np.asarray(mine).shape == theirs.shape
        if good:
            sure = np.isfinite(theirs)
            good = _close(np.asarray(mine)[sure], theirs[sure], FLOAT32_TOLERANCE)
        if not good:
            raise Unsupported(
                f"onnx.reference and onnxruntime disagree on {node.op_type} ({name!r}); write it with other operators"
            )


def _attributes(node: NodeProto) -> dict[str, Any]:
    values = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    return {name: value.decode() if isinstance(value, bytes) else value for name, value in values.items()}


def _array(arrays: Arrays, index: int) -> Array:
    """Return a required input."""
    array = arrays[index] if index < len(arrays) else None
    if array is None:
        raise BadData(f"input {index} is missing; export the file again")
    return array


# Operators of the qonnx package -------------------------------------------------------------------------------------------


def _custom_kernel(node: NodeProto, model: _Model, arrays: Arrays) -> Kernel:
    """Return the qonnx package's own arithmetic of an operator, called in float64.

    Where its class would cast to float32 (quantisers) its function is called; where it would start onnxruntime in float32
    (pooling, channels-last operators) the standard operator of this module takes that place.
    """
    from qonnx.custom_op.general.floatquant import float_quant
    from qonnx.custom_op.general.quant import quant
    from qonnx.custom_op.registry import getCustomOp
    from qonnx.util.basic import get_preferred_qonnx_opset

    general = NodeProto()
    general.CopyFrom(node)
    general.domain = CUSTOM_DOMAINS[node.domain]
    if general.domain == CHANNELS_LAST or node.op_type == "MaxPoolNHWC":
        return _channels_last_kernel(general, model, arrays)
    try:
        op = getCustomOp(general, model.opsets.get(node.domain, get_preferred_qonnx_opset()))
    except KeyError:
        raise Unsupported(f"qonnx has no operator {node.op_type}; check its name") from None
    if node.op_type in INTEGER_QUANTISERS:
        arguments = [op.get_nodeattr(name) for name in ("signed", "narrow", "rounding_mode")]
        if len(node.input) == 4 and all(name in model.stored for name in node.input):
            x, scale, zero, bits = (model.stored[name] for name in node.input)
            # Divided before, by the stored scale, so that the function returns the codes themselves.
            codes = quant(x / scale, np.ones_like(scale), zero, bits, *arguments)
            return lambda arrays: [codes.astype(np.float64) * _array(arrays, 1)]
        apply = functools.partial(_snapped_quant, quant) if node.input[0] in model.varying else quant
        return lambda arrays: [apply(*(_array(arrays, index) for index in range(4)), *arguments)]
    if node.op_type == "FloatQuant":
        arguments = [op.get_nodeattr(name) for name in ("has_inf", "has_nan", "has_subnormal", "rounding_mode", "saturation")]
        return lambda arrays: [float_quant(*arrays[:5], True, _array(arrays, 5), *arguments)]
    if node.op_type == "QuantAvgPool2d":
        return lambda arrays: [_quantised_average_pool(_array(arrays, 0), op)]
    if node.op_type == "Trunc" and len(node.input) != TRUNC_INPUTS[op.onnx_opset_version]:
        expected = TRUNC_INPUTS[op.onnx_opset_version]
        version = f"version {op.onnx_opset_version} of Trunc has {expected} inputs, {len(node.input)} given"
        raise BadData(f"{version}; import another version of {node.domain}")

    def run(arrays: Arrays) -> list[Any]:
        context = dict(zip(node.input, arrays, strict=True))
        if node.op_type in ("BipolarQuant", "MultiThreshold") and node.input[0] in model.varying:
            context[node.input[0]] = _array(arrays, 0) + ROUNDED_OFF * _largest(_array(arrays, 0))  # they compare with >=
        op.execute_node(context, model.graph)
        return [context[name] for name in node.output]

    return run


def _snapped_quant(quant: Callable[..., Array], x: Array, scale: Array, zero: Array, bits: Array, *arguments: Any) -> Array:
    """Quantise as qonnx's own function does, with rounding errors of float64 in x / scale + zero removed beforehand."""
    codes = quant(_snap_to_half_steps(x / scale + zero), np.ones(()), np.zeros(()), bits, *arguments)
    return np.asarray((codes - zero) * scale)


def _snap_to_half_steps(steps: Array) -> Array:
    """Return values in steps, moved to the nearest whole or half step where they lie within `ROUNDED_OFF` of it."""
    nearest = np.rint(2 * steps) / 2
    return np.where(np.abs(steps - nearest) <= ROUNDED_OFF * np.maximum(1.0, np.abs(steps)), nearest, steps)


def _largest(x: Array) -> Array:
    """Return the largest finite magnitude of each event, in a shape that repeats over x (N, ...)."""
    finite = np.where(np.isfinite(x), np.abs(x), 0.0)
    return np.asarray(finite.max(axis=tuple(range(1, x.ndim)), keepdims=True, initial=0.0))


def _choice_axis(node: NodeProto) -> int:
    return int(_attributes(node).get("axis", -1 if node.op_type == "TopK" else 0))


def _with_tied_scores(kernel: Kernel, axis: int) -> Kernel:
    """Return a kernel that selects along an axis and treats scores within `ROUNDED_OFF` of each other as equal."""

    def run(arrays: Arrays) -> Sequence[Any]:
        x = _array(arrays, 0)
        order = np.argsort(x, axis=axis, kind="stable")
        rising = np.take_along_axis(x, order, axis)
        near = np.diff(rising, axis=axis, prepend=-np.inf) <= ROUNDED_OFF * _largest(x)
        joined = np.maximum.accumulate(np.where(near, -np.inf, rising), axis=axis)
        equal = np.empty_like(x)
        np.put_along_axis(equal, order, joined, axis)
        return kernel([equal, *arrays[1:]])

    return run


def _channels_last_kernel(node: NodeProto, model: _Model, arrays: Arrays) -> Kernel:
    """Return the standard operator between two transpositions; the kernels of a convolution are channels-last too."""
    node.domain, node.op_type = "", node.op_type.removesuffix("NHWC")
    turned = 2 if node.op_type == "Conv" else 1

    def channels_first(arrays: Arrays) -> Arrays:
        return [np.moveaxis(a, -1, 1) if index < turned and a is not None else a for index, a in enumerate(arrays)]

    kernel = _kernel(node, model, channels_first(arrays))
    return lambda arrays: [np.moveaxis(result, 1, -1) for result in kernel(channels_first(arrays))]


def _quantised_average_pool(x: Array, op: Any) -> Array:
    """Sum integers over windows and shift the sum right, by the operator's own number of bits."""
    last = op.get_nodeattr("data_layout") == "NHWC"
    size, stride = op.get_nodeattr("kernel"), op.get_nodeattr("stride")
    mean = _average_pool(np.moveaxis(x, -1, 1) if last else x, {"kernel_shape": [size, size], "strides": [stride, stride]})
    codes = np.right_shift(np.rint(mean * size**2).astype(np.int64), op.get_shifts()).astype(np.float64)
    return np.moveaxis(codes, 1, -1) if last else codes


# Standard operators, where neither package has them fast, correct and in float64 -------------------------------------------


def _quantise_linear(arrays: Arrays, attributes: Mapping[str, Any]) -> Array:
    """Divide by the scale, round half to even, add the zero point and saturate (ONNX QuantizeLinear, integer types)."""
    x, zero = _array(arrays, 0), arrays[2] if len(arrays) > 2 else None
    kind = (
        helper.np_dtype_to_tensor_dtype(zero.dtype) if zero is not None else attributes.get("output_dtype") or TensorProto.UINT8
    )
    name = TensorProto.DataType.Name(kind)
    if name not in INTEGER_RANGES:
        raise Unsupported(f"QuantizeLinear to {name} is not supported; quantise to integers")
    codes = np.rint(_snap_to_half_steps(x.astype(np.float64) / _broadcast_parameter(_array(arrays, 1), x, attributes)))
    if zero is not None:
        codes = codes + _broadcast_parameter(zero, x, attributes)
    codes = np.clip(codes, *INTEGER_RANGES[name])
    return codes.astype(np.int64).astype(helper.tensor_dtype_to_np_dtype(kind))


def _dequantise_linear(arrays: Arrays, attributes: Mapping[str, Any]) -> Array:
    """Subtract the zero point and multiply by the scale (ONNX DequantizeLinear)."""
    codes = _array(arrays, 0)
    x, zero = codes.astype(np.float64), arrays[2] if len(arrays) > 2 else None
    if zero is not None:
        x = x - _broadcast_parameter(zero, codes, attributes)
    return np.asarray(x * _broadcast_parameter(_array(arrays, 1), codes, attributes))


def _broadcast_parameter(parameter: Array, x: Array, attributes: Mapping[str, Any]) -> Array:
    """Return a scale or zero point in float64, shaped to one per tensor, per index of `axis` or per block along it."""
    parameter, axis = parameter.astype(np.float64), int(attributes.get("axis", 1))
    if parameter.size == 1 and not attributes.get("block_size"):
        return parameter.reshape(())
    if attributes.get("block_size"):
        repeated = np.repeat(parameter, attributes["block_size"], axis)
        return np.take(repeated, np.arange(x.shape[axis]), axis)
    shape = [1] * x.ndim
    shape[axis] = -1
    return parameter.reshape(shape)


def _convolution(x: Array, weights: Array, **attributes: Any) -> Array:
    node = helper.make_node("Conv", ["x", "w"], ["y"], **attributes)
    (result,) = _evaluate(ReferenceEvaluator(_one_node(node, {"": 13}, [x, weights])), {"x": x, "w": weights})
    return np.asarray(result)


def _average_pool(x: Array, attributes: Mapping[str, Any]) -> Array:
    """Average windows of x (N, C, ...): the sum of the elements divided by how many count (ONNX AveragePool)."""
    kernel = list(attributes["kernel_shape"])
    dims, sizes = len(kernel), x.shape[2:]
    strides = attributes.get("strides", [1] * dims)
    dilations = attributes.get("dilations", [1] * dims)
    pads = list(attributes.get("pads", [0] * 2 * dims))
    auto, up = attributes.get("auto_pad", "NOTSET"), bool(attributes.get("ceil_mode"))
    extra = [0] * dims
    for axis in range(dims):
        size, stride, reach = sizes[axis], strides[axis], (kernel[axis] - 1) * dilations[axis] + 1
        if auto.startswith("SAME"):
            total = max(0, (-(-size // stride) - 1) * stride + reach - size)
            begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
            pads[axis], pads[axis + dims] = begin, total - begin
        remaining = size + pads[axis] + pads[axis + dims] - reach
        windows = (-(-remaining // stride) if up else remaining // stride) + 1
        if up and (windows - 1) * stride >= size + pads[axis]:  # the last window would begin in the padding
            windows -= 1
        extra[axis] = max(0, (windows - 1) * stride - remaining)
    around = [(0, 0), (0, 0), *((pads[axis], pads[axis + dims]) for axis in range(dims))]
    beyond = [(0, 0), (0, 0), *((0, width) for width in extra)]
    counts = np.pad(np.ones((1, 1, *sizes)), around, constant_values=float(bool(attributes.get("count_include_pad"))))
    values = np.pad(x.reshape(-1, 1, *sizes), around)
    options = {"strides": strides, "dilations": dilations}
    ones = np.ones((1, 1, *kernel))
    mean = _convolution(np.pad(values, beyond), ones, **options) / _convolution(np.pad(counts, beyond), ones, **options)
    return mean.reshape(*x.shape[:2], *mean.shape[2:])


def _transposed_convolution(arrays: Arrays, attributes: Mapping[str, Any]) -> Array:
    """Convolve x (N, C, ...), zeros put between its elements, with mirrored kernels (C, M / group, ...) (ONNX ConvTranspose)."""
    x, weights, bias = _array(arrays, 0), _array(arrays, 1), arrays[2] if len(arrays) > 2 else None
    group, kernel, sizes = attributes.get("group", 1), weights.shape[2:], x.shape[2:]
    dims = len(kernel)
    strides = attributes.get("strides", [1] * dims)
    dilations = attributes.get("dilations", [1] * dims)
    more = attributes.get("output_padding", [0] * dims)
    pads = list(attributes.get("pads", [0] * 2 * dims))
    auto, shape = attributes.get("auto_pad", "NOTSET"), attributes.get("output_shape")
    reach = [(kernel[axis] - 1) * dilations[axis] for axis in range(dims)]
    if auto.startswith("SAME") and shape is None:
        shape = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    for axis, length in enumerate((shape or [])[-dims:]):
        total = strides[axis] * (sizes[axis] - 1) + more[axis] + reach[axis] + 1 - length
        begin = total // 2 if auto == "SAME_UPPER" else total - total // 2
        pads[axis], pads[axis + dims] = begin, total - begin
    spread = np.zeros((*x.shape[:2], *((size - 1) * stride + 1 for size, stride in zip(sizes, strides, strict=True))))
    spread[(slice(None), slice(None), *(slice(None, None, stride) for stride in strides))] = x
    spread = np.pad(spread, [(0, 0), (0, 0), *((reach[axis], reach[axis] + more[axis]) for axis in range(dims))])
    mirrored = np.flip(weights, axis=tuple(range(2, weights.ndim)))
    grouped = mirrored.reshape(group, -1, *weights.shape[1:]).swapaxes(1, 2)  # (group, M / group, C / group, ...)
    full = _convolution(spread, grouped.reshape(-1, *grouped.shape[2:]), dilations=dilations, group=group)
    cut = tuple(slice(pads[axis], full.shape[2 + axis] - pads[axis + dims]) for axis in range(dims))
    result = full[(slice(None), slice(None), *cut)]
    return result if bias is None else result + bias.reshape(-1, *[1] * dims)
