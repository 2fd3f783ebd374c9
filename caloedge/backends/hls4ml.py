"""An hls4ml project for AMD Vitis with every type computed here, and its C simulation.

hls4ml's own ONNX front end guesses widths; given explicit layers and types it is bit-exact. What is written is a stock
hls4ml project: `vitis-run` or `build_prj.tcl` take it as it is.
"""

import contextlib
import ctypes
import importlib.util
import shutil
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, assert_never

import numpy as np
from numpy.typing import NDArray

from caloedge import tools
from caloedge.catalog import Backend, Target
from caloedge.compiler import fixed
from caloedge.compiler.fixed import Codes, Format, Rounding
from caloedge.compiler.graph import Conv2D, Dense, Flatten, Graph, InputQuantiser, MaxPool2D, Op, Output, Requantise
from caloedge.errors import BadData, MissingTool, Unsupported, UserError
from caloedge.files import replacing_folder
from caloedge.project import checked_codes, identifiers, read_record, record, write_record
from caloedge.recipe import LayerChoice

VARIANTS = ("io_parallel", "io_stream")
PROJECT = "caloedge_net"
LOG = "build.log"
COMPILE_TIMEOUT_S = 3600.0
WEIGHTS_HEADER = "caloedge_weights_dir.h"
WEIGHTS_CPP = """\
// Only for the C simulation: the weights lie beside the library, wherever the folder is moved to.
#include <dlfcn.h>
#include <string>
static std::string caloedge_weights_dir() {
    Dl_info library;
    dladdr(reinterpret_cast<void *>(&caloedge_weights_dir), &library);
    const std::string path(library.dli_fname);
    return path.substr(0, path.rfind('/')) + "/weights";
}
"""
EXACT_DOUBLE_BITS = 53
"""Codes cross into the C simulation as doubles."""

HLS_ROUNDING = {Rounding.HALF_EVEN: "RND_CONV", Rounding.HALF_UP: "RND", Rounding.TRUNCATE: "TRN"}


@dataclass(frozen=True)
class Plan:
    """What hls4ml is told: its configuration (without the output folder) and its layers in order."""

    config: dict[str, Any]
    layers: list[dict[str, Any]]
    outputs: list[str]
    """Layers whose results leave the network, each once."""


def check(graph: Graph) -> None:
    """Raise `Unsupported`, naming the first layer that cannot be built exactly."""
    for op in graph.ops:
        match op:
            case InputQuantiser():
                _check_width(op.name, op.format)
            case Output():
                _check_width(op.name, graph.tensors[op.name].format)
                if isinstance(graph[op.inputs[0]], InputQuantiser):
                    raise Unsupported(f"output {op.name}: is the input itself; backend 'hls4ml' needs a layer between")
                readers = [reader for reader in graph.ops if op.inputs[0] in reader.inputs and not isinstance(reader, Output)]
                if readers:
                    raise Unsupported(
                        f"output {op.name}: layer {op.inputs[0]} is also read by {readers[0].name}, which is not supported by "
                        "backend 'hls4ml'; give the output a layer of its own"
                    )
            case Conv2D() | Dense() | Requantise() | MaxPool2D() | Flatten():
                pass
            case _:
                assert_never(op)


def _check_streamed_pools(graph: Graph) -> None:
    """Raise `Unsupported` for a pool whose windows overlap or leave gaps: an assert of hls4ml would end our process."""
    for op in graph.ops:
        if isinstance(op, MaxPool2D) and op.kernel != op.stride:
            raise Unsupported(
                f"layer {op.name}: max pool with kernel {op.kernel} and stride {op.stride} is not supported by backend 'hls4ml' "
                "with io_stream; use io_parallel, or a stride equal to the kernel"
            )


def _check_width(name: str, fmt: Format) -> None:
    if fmt.width > EXACT_DOUBLE_BITS:
        raise Unsupported(f"layer {name}: {fmt} is wider than the {EXACT_DOUBLE_BITS} bits that the C simulation passes exactly")


# The plan: a pure function of graph, target and variant


def plan(graph: Graph, target: Target, variant: str) -> Plan:
    """Return hls4ml's configuration and layers, with every width taken from the graph's proven ranges."""
    if variant not in VARIANTS:
        raise UserError(f"backend 'hls4ml' has no variant {variant!r}; there are: {', '.join(VARIANTS)}")
    check(graph)
    if variant == "io_stream":
        _check_streamed_pools(graph)
    names = identifiers(graph)
    layers: list[dict[str, Any]] = []
    settings: dict[str, dict[str, Any]] = {}
    for op in graph.ops:
        if isinstance(op, Output):
            continue
        name = names[op.name]
        inputs = [names[source] for source in op.inputs]
        layers.append({"name": name, "inputs": inputs, "outputs": [name], **_layer(op, graph)})
        settings[name] = {"Precision": _precision(op, graph), "ReuseFactor": 1, "Strategy": "latency"}
        if isinstance(op, Conv2D) and variant == "io_parallel":
            # All pixels at once: a reuse factor of one then means one event per clock cycle.
            settings[name]["ParallelizationFactor"] = int(np.prod(graph.tensors[op.name].shape[1:]))
    outputs = list(dict.fromkeys(names[op.inputs[0]] for op in graph.outputs))
    return Plan(_config(target, variant, settings), layers, outputs)


def _config(target: Target, variant: str, settings: dict[str, dict[str, Any]]) -> dict[str, Any]:
    return {
        "ProjectName": PROJECT,
        "Backend": "Vitis",
        "Writer": "vitis",
        "Version": "1.0.0",
        "Part": target.part,
        "ClockPeriod": target.period_ns,
        "ClockUncertainty": "27%",
        "IOType": variant,
        "HLSConfig": {
            # The default width is never used; a layer that fell back to it would fail the comparison.
            "Model": {"Precision": {"default": "fixed<2,1>"}, "ReuseFactor": 1, "Strategy": "latency", "TraceOutput": False},
            "LayerName": settings,
        },
        # Weights as text: compiled in, ten thousand of them keep g++ busy for minutes.
        "WriterConfig": {"Namespace": None, "WriteWeightsTxt": True, "WriteTar": False, "TBOutputStream": "both"},
    }


def _layer(op: Op, graph: Graph) -> dict[str, Any]:
    """Return hls4ml's description of one operation; images are (row, column, channel) there."""
    match op:
        case InputQuantiser():
            return {"class_name": "InputLayer", "input_shape": list(_channels_last(op.shape))}
        case Conv2D():
            return _conv_layer(op, graph)
        case Dense():
            n_out, n_in = op.weights.shape
            weights = op.weights
            if (image := _image_before_flatten(op.inputs[0], graph)) is not None:
                weights = np.moveaxis(weights.reshape(n_out, *image), 1, -1).reshape(n_out, n_in)
            return {"class_name": "Dense", "n_in": n_in, "n_out": n_out, **_weight_data(op, weights.T, graph)}
        case Requantise():
            activation = "relu" if op.relu else "linear"
            return {"class_name": "Activation", "activation": activation, "n_in": graph.tensors[op.name].low.size}
        case MaxPool2D():
            return _pool_layer(op, graph)
        case Flatten():
            return {"class_name": "Reshape", "target_shape": [graph.tensors[op.name].low.size]}
        case Output():
            raise AssertionError("an output is not a layer")
        case _:
            assert_never(op)


def _conv_layer(op: Conv2D, graph: Graph) -> dict[str, Any]:
    n_channels, in_height, in_width = graph.tensors[op.inputs[0]].shape
    n_filters, out_height, out_width = graph.tensors[op.name].shape
    top, left, bottom, right = op.padding
    return {
        "class_name": "Conv2D",
        "data_format": "channels_last",
        "in_height": in_height,
        "in_width": in_width,
        "n_chan": n_channels,
        "filt_height": op.weights.shape[2],
        "filt_width": op.weights.shape[3],
        "n_filt": n_filters,
        "stride_height": op.stride[0],
        "stride_width": op.stride[1],
        "dilation_height": 1,
        "dilation_width": 1,
        "pad_top": top,
        "pad_bottom": bottom,
        "pad_left": left,
        "pad_right": right,
        "padding": "same" if any(op.padding) else "valid",
        "out_height": out_height,
        "out_width": out_width,
        **_weight_data(op, op.weights.transpose(2, 3, 1, 0), graph),
    }


def _pool_layer(op: MaxPool2D, graph: Graph) -> dict[str, Any]:
    n_channels, in_height, in_width = graph.tensors[op.inputs[0]].shape
    _, out_height, out_width = graph.tensors[op.name].shape
    return {
        "class_name": "MaxPooling2D",
        "data_format": "channels_last",
        "in_height": in_height,
        "in_width": in_width,
        "n_filt": n_channels,
        "pool_height": op.kernel[0],
        "pool_width": op.kernel[1],
        "stride_height": op.stride[0],
        "stride_width": op.stride[1],
        "pad_top": 0,
        "pad_bottom": 0,
        "pad_left": 0,
        "pad_right": 0,
        "padding": "valid",
        "out_height": out_height,
        "out_width": out_width,
    }


def _weight_data(op: Conv2D | Dense, weights: Codes, graph: Graph) -> dict[str, Any]:
    fraction = graph.tensors[op.name].format.fraction
    return {
        "weight_data": fixed.to_float(weights, op.weight_format.fraction),
        "bias_data": fixed.to_float(op.bias, fraction),
        "use_bias": True,
    }


def _precision(op: Op, graph: Graph) -> dict[str, str]:
    """Return the types of one layer; sums may wrap on the way because their final value is proven to fit."""
    result = graph.tensors[op.name].format
    match op:
        case Conv2D() | Dense():
            bias = Format.holding(min(int(op.bias.min()), -1), int(op.bias.max()), result.fraction)
            return {"weight": str(op.weight_format), "bias": str(bias), "accum": str(result), "result": str(result)}
        case Requantise():
            saturation = "SAT_SYM" if op.narrow and op.format.signed else "SAT"
            width = f"{str(op.format)[:-1]},{HLS_ROUNDING[op.rounding]},{saturation}>"
            return {"result": width}
        case MaxPool2D():
            return dict.fromkeys(("accum", "result"), _type_of_source(op, graph))
        case InputQuantiser() | Flatten() | Output():
            return {"result": _type_of_source(op, graph)}
        case _:
            assert_never(op)


def _type_of_source(op: Op, graph: Graph) -> str:
    """Return the type of an operation that only passes on what it reads."""
    while op.inputs and not isinstance(op, Requantise | Conv2D | Dense):
        op = graph[op.inputs[0]]
    return str(op.format) if isinstance(op, InputQuantiser) else _precision(op, graph)["result"]


def _channels_last(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[1:], shape[0])


def _image_before_flatten(name: str, graph: Graph) -> tuple[int, ...] | None:
    """Return the (C, H, W) that a flat tensor was made of, which hls4ml orders as (H, W, C); None if it never was an image."""
    op = graph[name]
    while isinstance(op, Requantise | Flatten):
        source = graph.tensors[op.inputs[0]].shape
        if isinstance(op, Flatten) and len(source) == 3:
            return source
        op = graph[op.inputs[0]]
    return None


# The project on disk


def build(
    graph: Graph,
    target: Target,
    variant: str,
    folder: Path,
    choices: Mapping[str, LayerChoice],
) -> None:
    """Write the project and compile its C simulation; the folder appears whole or not at all.

    What hls4ml and the compiler print goes to build.log in the folder, or beside the folder when the build fails.
    """
    what = plan(graph, target, variant)
    _require_tools()
    log = folder.with_name(f"{folder.name}.{LOG}").absolute()
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    with replacing_folder(folder) as temporary:
        _write(what, temporary.absolute(), graph.digest[:8], log)
        manifest = _manifest(graph, target, variant, choices, what)
        start = time.perf_counter()
        tools.run(_compile_command(manifest["library"]), cwd=temporary, log=log, timeout_s=COMPILE_TIMEOUT_S)
        manifest["compile_seconds"] = round(time.perf_counter() - start, 1)
        write_record(temporary, manifest)
        shutil.move(log, temporary / LOG)


def _require_tools() -> None:
    if importlib.util.find_spec("hls4ml") is None:
        raise MissingTool("the Python package hls4ml is not installed; pip install 'caloedge[hls4ml]'")
    tools.find("g++")


def _compile_command(library: str) -> list[str]:
    """Return the command of hls4ml's build_lib.sh, except that the weights are found from the library's own place.

    build_lib.sh writes the absolute path of the weights into the library, which would break it when the folder is renamed.
    """
    options = ["-std=c++17", "-O3", "-fPIC", "-fno-gnu-unique", "-Ifirmware/ap_types", "-include", WEIGHTS_HEADER]
    sources = [f"firmware/{PROJECT}.cpp", f"{PROJECT}_bridge.cpp"]
    return ["g++", *options, "-DWEIGHTS_DIR=caloedge_weights_dir()", "-shared", *sources, "-o", library, "-ldl"]


def _write(what: Plan, folder: Path, stamp: str, log: Path) -> None:
    """Let hls4ml write its project, with what it prints going to the log; the same plan gives the same files."""
    with _printing_to(log):
        from hls4ml.model.graph import ModelGraph

        config = {**what.config, "OutputDir": str(folder)}
        layers = [dict(layer) for layer in what.layers]
        model = ModelGraph.from_layer_list(config, layers, [layers[0]["name"]], list(what.outputs))
        model.write()
    (folder / WEIGHTS_HEADER).write_text(WEIGHTS_CPP, encoding="utf-8")
    random_stamp = str(model.config.get_config_value("Stamp"))
    for path in (folder / "hls4ml_config.yml", folder / "build_lib.sh"):
        # The folder is about to be renamed, and may be moved later.
        text = path.read_text(encoding="utf-8").replace(str(folder), ".").replace(random_stamp, stamp)
        path.write_text(text, encoding="utf-8")


@contextlib.contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    with log.open("a", encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
        yield


def _manifest(graph: Graph, target: Target, variant: str, choices: Mapping[str, LayerChoice], what: Plan) -> dict[str, Any]:
    names = identifiers(graph)
    outputs = []
    for op in graph.outputs:
        tensor = graph.tensors[op.name]
        outputs.append(
            {
                "name": op.name,
                "argument": what.outputs.index(names[op.inputs[0]]),
                "shape": list(tensor.shape),
                "image": list(_image_before_flatten(op.inputs[0], graph) or ()) if len(tensor.shape) == 1 else list(tensor.shape),
                "format": str(tensor.format),
            }
        )
    return record("hls4ml", graph, target, variant, choices) | {
        "project": PROJECT,
        # A name of its own per network: a process that has loaded one library must not be handed it for another.
        "library": f"firmware/{PROJECT}-{graph.digest[:12]}-{variant}.so",
        "outputs": outputs,
    }


# The C simulation


def emulate(folder: Path, codes: NDArray[Any]) -> dict[str, Codes]:
    """Simulate a built project: input codes (N, *shape) to {output name: codes (N, *shape)}; needs nothing but the folder."""
    manifest = read_record(folder, "hls4ml")
    shape, fmt = tuple(manifest["input"]["shape"]), Format.parse(manifest["input"]["format"])
    codes = checked_codes(folder, manifest, codes)
    if len(shape) == 3:
        codes = np.moveaxis(codes, 1, -1)
    stimulus = np.ascontiguousarray(fixed.to_float(codes, fmt.fraction)).reshape(len(codes), -1)
    sizes = {item["argument"]: int(np.prod(item["shape"])) for item in manifest["outputs"]}
    values = [np.zeros((len(codes), sizes[argument])) for argument in sorted(sizes)]
    _call(folder / manifest["library"], f"{manifest['project']}_double", [stimulus, *values])
    return {item["name"]: _output_codes(item, values[item["argument"]], folder) for item in manifest["outputs"]}


def _call(library: Path, function: str, arrays: list[NDArray[np.float64]]) -> None:
    """Call the compiled network once per event on rows of contiguous arrays (N, size); outputs are filled in place."""
    try:
        network = getattr(ctypes.CDLL(str(library.resolve())), function)
    except (OSError, AttributeError) as error:
        raise BadData(f"{library}: cannot be loaded ({error}); build the project again on this machine") from None
    network.argtypes = [ctypes.c_void_p] * len(arrays)
    network.restype = None
    addresses = [(array.ctypes.data, array.strides[0]) for array in arrays]
    for event in range(len(arrays[0])):
        network(*(start + event * stride for start, stride in addresses))


def _output_codes(item: dict[str, Any], values: NDArray[np.float64], folder: Path) -> Codes:
    fmt = Format.parse(item["format"])
    codes = fixed.exact_codes(values, fmt.fraction)
    if codes is None:
        raise BadData(
            f"{folder}: output {item['name']} is no multiple of its least significant bit {fmt.lsb:g}; the build is inexact"
        )
    if item["image"]:
        codes = np.moveaxis(codes.reshape(len(codes), *_channels_last(tuple(item["image"]))), -1, 1)
    return np.ascontiguousarray(codes.reshape(len(codes), *item["shape"]))


BACKEND = Backend(
    description="hls4ml project for AMD Vitis, types from proven ranges, bit-exact C simulation",
    variants=VARIANTS,
    check=check,
    build=build,
    emulate=emulate,
)
