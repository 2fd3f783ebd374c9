"""An emulator project on disk: C header and C++ source, the compiled library, and the record."""

import hashlib
import platform
import shutil
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caloedge import tools
from caloedge.backends.emulator.source import CPort, LibrarySource, write
from caloedge.backends.emulator.steps import write_block
from caloedge.catalog import Target
from caloedge.compiler.graph import Graph
from caloedge.compiler.unsupported import layer_names, refuse_unknown_layers
from caloedge.files import replacing_folder
from caloedge.project import record, write_record
from caloedge.recipe import LayerChoice

BACKEND_NAME = "emulator"
LOG = "build.log"
TIMEOUT_S = 1800.0
OPTIMISATION = "-O3"
OPTIONS = ("-std=c++17", "-ffp-contract=fast", "-ffinite-math-only", "-fno-signed-zeros",
           "-fPIC", "-fvisibility=hidden", "-pthread", "-Wall", "-Wno-psabi")  # fmt: skip
"""Fused multiply-adds, no infinities and no -0: all numbers are integers that are exact in their type."""
Builds = Mapping[str, tuple[str, ...]]
"""Options for each build of the arithmetic in one library, by instruction set; `plain` is always there."""
BUILDS: Mapping[str, Builds] = {
    "native": {"plain": ("-march=native",)},
    "portable": {
        "plain": (),
        "avx2": ("-mavx2", "-mfma"),
        "avx512": ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mfma"),
    },
}
"""Builds of each variant, for x86-64: a library takes the last build that the machine can run when a model is created."""


def preview(graph: Graph, target: Target, variant: str, choices: Mapping[str, LayerChoice]) -> str:  # noqa: ARG001
    """Say what a library would hold: number types and memory. No layer is refused, but a choice for one that is not there."""
    refuse_unknown_layers(choices, layer_names(graph))
    layout = write_block(graph).layout
    counts = Counter(buffer.type for buffer in layout.buffers.values())
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    return f"C++ library; {layout.size / 1024:,.0f} KiB for a block of events, tensors as {kinds}"


def build(
    graph: Graph,
    target: Target,
    variant: str,
    folder: Path,
    choices: Mapping[str, LayerChoice],
    *,
    name: str = "",
    optimisation: str = OPTIMISATION,
    builds: Builds | None = None,
) -> None:
    """Write header and source and compile the library; the folder appears whole or not at all.

    `name` (default: the graph's) and the graph's digest name the library's symbols. What the compiler prints goes to build.log
    in the folder, or beside the folder when it fails. `builds` replaces those of the variant.
    """
    refuse_unknown_layers(choices, layer_names(graph))
    if builds is None:
        builds = BUILDS[variant] if platform.machine() in ("x86_64", "AMD64") or variant == "native" else {"plain": ()}
    tools.find("g++")
    start = time.perf_counter()
    text = write(graph, name or graph.name)
    written = time.perf_counter()
    log = folder.with_name(f"{folder.name}.{LOG}").absolute()
    with replacing_folder(folder) as temporary:
        log.unlink(missing_ok=True)
        for file, content in text.files.items():
            (temporary / file).write_text(content, encoding="utf-8")
        library = _library_name(text, optimisation, builds)
        compile_library(temporary.absolute(), text, library, optimisation, builds, log)
        values = record(BACKEND_NAME, graph, target, variant, choices) | _ports(text)
        values |= {"namespace": text.prefix, "library": library, "compiler": tools.version("g++")}
        compiled = time.perf_counter()
        write_record(
            temporary, values | {"write_seconds": round(written - start, 1), "compile_seconds": round(compiled - written, 1)}
        )
        shutil.move(log, temporary / LOG)


def _library_name(text: LibrarySource, optimisation: str, builds: Builds) -> str:
    """Return a name of its own per content: a process that has loaded one library must not be handed it for another."""
    content = [*text.files.values(), optimisation, repr(dict(builds)), repr(OPTIONS), tools.version("g++")]
    return f"lib{text.prefix}-{hashlib.sha256(chr(0).join(content).encode()).hexdigest()[:16]}.so"


def compile_library(folder: Path, text: LibrarySource, library: str, optimisation: str, builds: Builds, log: Path) -> None:
    """Compile the sources in a folder into a shared library that holds every build of the arithmetic."""

    def run(*words: str) -> None:
        tools.run(["g++", *OPTIONS, optimisation, *words], cwd=folder, log=log, timeout_s=TIMEOUT_S)

    objects = {level: f"{level}.o" for level in builds}
    for level, machine in builds.items():
        run(*machine, f"-DCALOEDGE_LEVEL={level}", "-c", text.block, "-o", objects[level])
    # The interface runs on every machine, so that it can tell which builds do.
    defined = [f"-DCALOEDGE_{level.upper()}" for level in builds]
    run(*defined, "-shared", f"-Wl,-soname,{library}", text.interface, *objects.values(), "-o", library)
    for name in objects.values():
        (folder / name).unlink()


def _ports(text: LibrarySource) -> dict[str, Any]:
    def table(ports: tuple[CPort, ...]) -> list[dict[str, Any]]:
        return [
            {
                "name": port.name,
                "shape": list(port.shape),
                "format": port.format,
                "range": [port.low, port.high],
                "type": port.type,
            }
            for port in ports
        ]

    return {"machine": platform.machine(), "inputs": table(text.inputs), "outputs": table(text.outputs)}
