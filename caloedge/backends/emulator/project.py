"""An emulator project on disk: C header and C++ source, the compiled library, and the record."""

import hashlib
import platform
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caloedge import tools
from caloedge.backends.emulator.source import Port, Text, write
from caloedge.backends.emulator.steps import write_block
from caloedge.catalog import Target
from caloedge.compiler.graph import Graph
from caloedge.files import replacing_folder
from caloedge.project import record, write_record
from caloedge.recipe import LayerChoice

BACKEND_NAME = "emulator"
VARIANTS = ("native", "portable")
LOG = "build.log"
TIMEOUT_S = 1800.0
OPTIMISATION = "-O3"


def check(graph: Graph) -> None:
    """Raise `Unsupported`, naming the first layer that cannot be built: there is none."""
    write_block(graph)


def build(
    graph: Graph,
    target: Target,
    variant: str,
    folder: Path,
    choices: Mapping[str, LayerChoice],
    *,
    name: str = "network",
    optimisation: str = OPTIMISATION,
) -> None:
    """Write header and source and compile the library; the folder appears whole or not at all.

    `name` and the graph's digest name the library's symbols. What the compiler prints goes to build.log in the folder, or
    beside the folder when it fails.
    """
    tools.find("g++")
    start = time.perf_counter()
    text = write(graph, name)
    written = time.perf_counter()
    log = folder.with_name(f"{folder.name}.{LOG}").absolute()
    log.parent.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    with replacing_folder(folder) as temporary:
        for file, content in text.files.items():
            (temporary / file).write_text(content, encoding="utf-8")
        options = compiler_options(variant, optimisation)
        # A name of its own per content: a process that has loaded one library must not be handed it for another.
        stamp = hashlib.sha256("\0".join([*text.files.values(), *options, tools.version("g++")]).encode()).hexdigest()[:16]
        library = f"lib{text.prefix}-{stamp}.so"
        compile_library(temporary.absolute(), text.source, library, options, log)
        values = record(BACKEND_NAME, graph, target, variant, choices) | _ports(text)
        values |= {"namespace": text.prefix, "library": library, "compiler": ["g++", *options]}
        compiled = time.perf_counter()
        write_record(
            temporary, values | {"write_seconds": round(written - start, 1), "compile_seconds": round(compiled - written, 1)}
        )
        shutil.move(log, temporary / LOG)


def compiler_options(variant: str, optimisation: str = OPTIMISATION) -> list[str]:
    """Return what g++ is told: `native` uses every instruction of this machine, `portable` those of every x86-64."""
    machine = ["-march=native"] if variant == "native" else []
    return [
        "-std=c++17",
        optimisation,
        *machine,
        "-ffp-contract=fast",
        "-ffinite-math-only",
        "-fno-signed-zeros",
        "-fPIC",
        "-fvisibility=hidden",
        "-pthread",
        "-Wall",
    ]


def compile_library(folder: Path, source: str, library: str, options: list[str], log: Path) -> None:
    """Compile a source in a folder into a shared library."""
    command = ["g++", *options, "-shared", f"-Wl,-soname,{library}", source, "-o", library]
    tools.run(command, cwd=folder, log=log, timeout_s=TIMEOUT_S)


def _ports(text: Text) -> dict[str, Any]:
    def table(ports: tuple[Port, ...]) -> list[dict[str, Any]]:
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
