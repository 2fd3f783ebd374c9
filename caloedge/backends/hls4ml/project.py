"""The hls4ml project on disk, and its C simulation.

What is written is a stock hls4ml project: `vitis-run` or `build_prj.tcl` take it as it is.
"""

import contextlib
import ctypes
import importlib.util
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from caloedge import tools
from caloedge.backends.hls4ml.extension import copy_headers, headers, hold_events, register
from caloedge.backends.hls4ml.plan import STREAM, HlsPlan, plan
from caloedge.catalog import Target
from caloedge.compiler import fixed
from caloedge.compiler.fixed import Codes, Format
from caloedge.compiler.graph import Graph, Inputs
from caloedge.errors import BadData, MissingTool, UserError
from caloedge.files import replacing_folder
from caloedge.project import (
    InProject,
    InputPort,
    OrderedPort,
    Record,
    checked_codes,
    load_library,
    read_record,
    record,
    write_record,
)
from caloedge.recipe import LayerChoice

LOG = "build.log"
COMPILE_TIMEOUT_S = 3600.0
EXPORTS = "caloedge_exports.map"
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
    hls_plan = plan(graph, target, variant, choices)
    _require_tools()
    log = folder.with_name(f"{folder.name}.{LOG}").absolute()
    with replacing_folder(folder) as temporary:
        log.unlink(missing_ok=True)
        held = _write(hls_plan, temporary.absolute(), graph.digest[:8], log)
        manifest = _manifest(graph, target, variant, choices, hls_plan) | {"whole_event_streams": held}
        start = time.perf_counter()
        tools.run(compile_command(hls_plan.project, manifest["library"]), cwd=temporary, log=log, timeout_s=COMPILE_TIMEOUT_S)
        manifest["compile_seconds"] = round(time.perf_counter() - start, 1)
        write_record(temporary, manifest)
        shutil.move(log, temporary / LOG)


def _require_tools() -> None:
    if importlib.util.find_spec("hls4ml") is None:
        raise MissingTool("the Python package hls4ml is not installed; pip install 'caloedge[hls4ml]'")
    tools.find("g++")


def compile_command(project: str, library: str) -> list[str]:
    """Return the command of hls4ml's build_lib.sh, except for two things.

    The weights are found from the library's own place: build_lib.sh writes their absolute path into the library, which would
    break it when the folder is renamed. And only the bridge's functions leave the library, so that what hls4ml calls the same in
    every project, such as its switch for traces, is not shared by the networks of one process.
    """
    options = ["-std=c++17", "-O3", "-fPIC", "-fno-gnu-unique", "-Ifirmware/ap_types", "-include", WEIGHTS_HEADER]
    options += ["-DWEIGHTS_DIR=caloedge_weights_dir()", "-shared", f"-Wl,--version-script={EXPORTS}"]
    return ["g++", *options, f"firmware/{project}.cpp", f"{project}_bridge.cpp", "-o", library, "-ldl"]


def _write(hls_plan: HlsPlan, folder: Path, stamp: str, log: Path) -> list[dict[str, Any]]:
    """Let hls4ml write its project, with what it prints going to the log; the same plan gives the same files.

    Returns which streams hold whole events, as `extension.hold_events` does.
    """
    ours = headers(layer["class_name"] for layer in hls_plan.layers)
    held: list[dict[str, Any]] = []
    with _printing_to(log):
        from hls4ml.model.graph import ModelGraph

        if ours:
            register()
        config = {**hls_plan.config, "OutputDir": str(folder)}
        layers = [dict(layer) for layer in hls_plan.layers]
        model = ModelGraph.from_layer_list(config, layers, list(hls_plan.inputs), list(hls_plan.outputs))
        if ours and config["IOType"] == STREAM:
            model.apply_flow(model.config.backend.get_default_flow())
            held = hold_events(model)
        model.write()
    copy_headers(ours, folder)
    (folder / WEIGHTS_HEADER).write_text(WEIGHTS_CPP, encoding="utf-8")
    exported = " ".join(f"{hls_plan.project}_{kind};" for kind in ("float", "double"))
    (folder / EXPORTS).write_text(f"{{ global: {exported} local: *; }};\n", encoding="utf-8")
    _set_apart(folder, hls_plan.project)
    random_stamp = str(model.config.get_config_value("Stamp"))
    for path in (folder / "hls4ml_config.yml", folder / "build_lib.sh"):
        # The folder is about to be renamed, and may be moved later.
        text = path.read_text(encoding="utf-8").replace(str(folder), ".").replace(random_stamp, stamp)
        path.write_text(text, encoding="utf-8")
    return held


def _set_apart(folder: Path, project: str) -> None:
    """Finish what hls4ml's namespace begins, so that several projects can be parts of one program or design.

    Include guards, which know no namespace, and the files of weights get the project's name: a simulation looks for all of them
    in one folder. The top function is known to the linker by its plain name, whatever namespace it is in: that is what Vitis is
    told to synthesise.
    """
    guard = re.compile(r"^#(ifndef|define) (DEFINES_H_|PARAMETERS_H_|NNET_INSTR_GEN_H_|[WB]\d+_H_)$", re.MULTILINE)
    firmware = folder / "firmware"
    headers = [firmware / "defines.h", firmware / "parameters.h", firmware / "nnet_utils" / "nnet_code_gen.h"]
    for path in (*headers, *sorted((firmware / "weights").glob("*.h"))):
        text = guard.sub(rf"#\1 {project.upper()}_\2", path.read_text(encoding="utf-8"))
        path.write_text(text, encoding="utf-8")
    for path in sorted((firmware / "weights").glob("*.txt")):
        path.rename(path.with_name(f"{project}_{path.name}"))
    source = firmware / f"{project}.cpp"
    loads = re.compile(r'(load_\w*from_txt<[^>]*>\(\w+, ")')
    source.write_text(loads.sub(rf"\g<1>{project}_", source.read_text(encoding="utf-8")), encoding="utf-8")
    header = firmware / f"{project}.h"
    text, prototype = header.read_text(encoding="utf-8"), f"void {project}("
    assert text.count(prototype) == 1, "hls4ml declares one top function"
    header.write_text(text.replace(prototype, f'extern "C" {prototype}'), encoding="utf-8")


@contextlib.contextmanager
def _printing_to(log: Path) -> Iterator[None]:
    with log.open("a", encoding="utf-8") as stream, contextlib.redirect_stdout(stream):
        yield


def _manifest(
    graph: Graph, target: Target, variant: str, choices: Mapping[str, LayerChoice], hls_plan: HlsPlan
) -> dict[str, Any]:
    values = record("hls4ml", graph, target, variant, choices)
    for item in values["inputs"]:
        item["order"] = hls_plan.orders[item["name"]].tolist()
    outputs = [
        {
            "name": op.name,
            "argument": hls_plan.outputs.index(hls_plan.sources[op.name]),
            "shape": list(graph.tensors[op.name].shape),
            "order": hls_plan.orders[op.name].tolist(),
            "format": str(graph.tensors[op.name].format),
        }
        for op in graph.outputs
    ]
    return values | {
        "project": hls_plan.project,
        # A name of its own per network: a process that has loaded one library must not be handed it for another.
        "library": f"firmware/{hls_plan.project}.so",
        "outputs": outputs,
        "reuse": {
            name: {"strategy": reuse.strategy, "factor": reuse.factor, "multipliers": reuse.multipliers, "why": reuse.why}
            for name, reuse in hls_plan.reuse.items()
            if reuse.why
        },
    }


# The C simulation


class Argument(OrderedPort):
    """An output of the compiled function."""

    argument: Annotated[int, Field(ge=0)]


class HlsRecord(Record):
    """Entries that the C simulation needs in the record."""

    inputs: Annotated[list[InputPort], Field(min_length=1)]
    outputs: Annotated[list[Argument], Field(min_length=1)]
    project: Annotated[str, Field(pattern=r"^\w+$")]
    library: InProject


def emulate(folder: Path, codes: Inputs) -> dict[str, Codes]:
    """Simulate a built project: input codes (N, *shape) to {output name: codes (N, *shape)}; needs nothing but the folder.

    A network with several inputs takes {input name: codes}.
    """
    manifest = read_record(folder, "hls4ml", HlsRecord)
    stimuli = [_stimulus(folder, item, array) for item, array in _by_input(folder, manifest["inputs"], codes)]
    n_events = len(stimuli[0])
    if any(len(array) != n_events for array in stimuli):
        raise UserError(f"{folder}: the inputs have different numbers of events: {', '.join(str(len(x)) for x in stimuli)}")
    sizes = {item["argument"]: int(np.prod(item["shape"])) for item in manifest["outputs"]}
    values = [np.zeros((n_events, sizes[argument])) for argument in sorted(sizes)]
    _call(folder, manifest, f"{manifest['project']}_double", [*stimuli, *values])
    return {item["name"]: _output_codes(item, values[item["argument"]], folder) for item in manifest["outputs"]}


def _by_input(folder: Path, inputs: list[dict[str, Any]], codes: Inputs) -> Iterator[tuple[dict[str, Any], NDArray[Any]]]:
    """Yield each input of the record with its codes."""
    names = [item["name"] for item in inputs]
    by_name = dict(codes) if isinstance(codes, Mapping) else {names[0]: codes}
    if set(by_name) != set(names):
        raise UserError(f"{folder}: input codes for {', '.join(by_name)} given; the inputs are: {', '.join(names)}")
    for item in inputs:
        yield item, by_name[item["name"]]


def _stimulus(folder: Path, item: dict[str, Any], codes: NDArray[Any]) -> NDArray[np.float64]:
    """Return one input's values (N, size) in the order in which hls4ml's array takes them."""
    order = np.array(item["order"])
    codes = checked_codes(folder, {"input": item}, codes).reshape(-1, order.size)[:, order]
    return np.ascontiguousarray(fixed.to_float(codes, Format.parse(item["format"]).fraction))


def _call(folder: Path, manifest: Mapping[str, Any], function: str, arrays: list[NDArray[np.float64]]) -> None:
    """Call the compiled network once per event on rows of contiguous arrays (N, size); outputs are filled in place."""
    library = load_library(folder, manifest)
    try:
        network = getattr(library, function)
    except AttributeError as error:
        place = folder / manifest["library"]
        raise BadData(f"{place}: cannot be loaded ({error}); build the project again on this machine") from None
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
    natural = np.zeros_like(codes)
    natural[:, np.array(item["order"])] = codes
    return natural.reshape(len(codes), *item["shape"])
