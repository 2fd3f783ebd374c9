"""An RTL project on disk: Verilog, its hand-written parts, and the compiled simulation."""

import hashlib
import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from caloedge import tools
from caloedge.backends.rtl.design import NODE_VARIANTS, Design, Stream, design, table
from caloedge.backends.rtl.design import preview as preview_chain
from caloedge.backends.rtl.harness import Ports, harness
from caloedge.backends.rtl.node_stream.design import NodeDesign, node_design, preview_nodes
from caloedge.backends.rtl.simulation import RtlRecord, compile_model, simulate
from caloedge.backends.rtl.text import VerilogText, renamed
from caloedge.backends.rtl.verilog import write_design
from caloedge.catalog import CycleRun, Target, Waves
from caloedge.compiler.fixed import Codes
from caloedge.compiler.graph import Graph
from caloedge.files import replacing_folder
from caloedge.project import read_record, record, stem, write_record
from caloedge.recipe import LayerChoice

LOG = "build.log"
SYNTHESIS = "synthesis"
"""Folder in a project in which synthesis keeps its results."""


def preview(graph: Graph, target: Target, variant: str, choices: Mapping[str, LayerChoice]) -> str:
    """Say in one line what would be built, with estimates; raise as `build` does."""
    return (preview_nodes if variant in NODE_VARIANTS else preview_chain)(graph, target, variant, choices)


def build(graph: Graph, target: Target, variant: str, folder: Path, choices: Mapping[str, LayerChoice]) -> None:
    """Write the Verilog and compile its simulation; the folder appears whole or not at all.

    What the tools print goes to build.log in the folder, or beside the folder when the build fails.
    """
    if variant in NODE_VARIANTS:
        _build_nodes(graph, target, variant, folder, choices)
        return
    rtl_design = design(graph, target, variant, choices)
    tools.newest("verilator"), tools.find("g++"), tools.find("make")
    start = time.perf_counter()
    text = write_design(rtl_design, target.adders_per_stage())
    written = time.perf_counter()
    values = _record(graph, target, variant, choices, rtl_design) | {"write_seconds": round(written - start, 1)}
    write_project(rtl_design, with_stem(text, graph.name, graph.digest), values, folder)


def _build_nodes(graph: Graph, target: Target, variant: str, folder: Path, choices: Mapping[str, LayerChoice]) -> None:
    planned: NodeDesign = node_design(graph, target, variant, choices)
    tools.newest("verilator"), tools.find("g++"), tools.find("make")
    start = time.perf_counter()
    written = planned.written()
    values = record("rtl", graph, target, variant, choices)
    values["input"] |= streamed(planned.source)
    values |= planned.record(written.latency_cycles) | {"write_seconds": round(time.perf_counter() - start, 1)}
    write_project(planned, with_stem(written.text, graph.name, graph.digest), values, folder)


def with_stem(text: VerilogText, name: str, digest: str) -> VerilogText:
    """Return a design whose modules all begin with the network's stem, which is the name of its top.

    Hand-written parts are among them: equal names have equal contents, so that projects of different networks, and of different
    versions of this package, can be read into one design without a thought.
    """
    modules = text.modules | _parts(text.parts)
    top = stem(name, digest, modules.values())
    names = {module: f"{top}_{module.removeprefix('caloedge_')}" for module in modules} | {text.top: top}
    assert len(set(names.values())) == len(names), "a written module has the name of a hand-written part"
    blocks = {names[module]: number for module, number in text.blocks.items()}
    return replace(text, top=top, modules=renamed(modules, names), parts=set(), blocks=blocks)


def write_project(ports: Ports, text: VerilogText, values: Mapping[str, Any], folder: Path) -> None:
    """Write all sources and the record `values` with what they need to be simulated and synthesised, and compile the simulation.

    `text` comes from `with_stem`. The folder appears whole or not at all.
    """
    start = time.perf_counter()
    log = folder.with_name(f"{folder.name}.{LOG}").absolute()
    with replacing_folder(folder) as temporary:
        log.unlink(missing_ok=True)
        sources = _write(ports, text, temporary)
        values = {**values, **_simulation(ports, text, sources)}
        compile_model(temporary.absolute(), text.top, sources, values["library"], log, trace=False)
        values["compile_seconds"] = round(time.perf_counter() - start, 1)
        if (folder / SYNTHESIS).is_dir():  # its results are kept by content: what did not change is not synthesised again
            shutil.copytree(folder / SYNTHESIS, temporary / SYNTHESIS)
        write_record(temporary, values)
        shutil.move(log, temporary / LOG)


def _write(ports: Ports, text: VerilogText, folder: Path) -> list[str]:
    """Write all sources and return the Verilog ones, relative to the folder."""
    (folder / "rtl").mkdir(parents=True)
    (folder / "sim").mkdir()
    for name, module in text.modules.items():
        (folder / "rtl" / f"{name}.v").write_text(module, encoding="utf-8")
    (folder / "sim" / "harness.cpp").write_text(harness(ports, text.top, trace=False), encoding="utf-8")
    (folder / "sim" / "harness_vcd.cpp").write_text(harness(ports, text.top, trace=True), encoding="utf-8")
    return [f"rtl/{name}.v" for name in text.modules]


def _parts(used: set[str]) -> dict[str, str]:
    """Return the text of hand-written parts and of those that they use, by name."""
    texts: dict[str, str] = {}
    waiting = sorted(used)
    while waiting:
        name = waiting.pop()
        if name not in texts:
            texts[name] = (resources.files("caloedge.hls") / "rtl" / f"{name}.v").read_text(encoding="utf-8")
            waiting += sorted(set(re.findall(r"^\s*(caloedge_\w+)\s*#", texts[name], re.MULTILINE)))
    return dict(sorted(texts.items()))


def _record(
    graph: Graph,
    target: Target,
    variant: str,
    choices: Mapping[str, LayerChoice],
    rtl_design: Design,
) -> dict[str, Any]:
    output = graph.tensors[rtl_design.output]
    interval = max(stage.cycles for stage in rtl_design.all_stages)
    values = record("rtl", graph, target, variant, choices)
    values["input"] |= streamed(rtl_design.source)
    return values | {
        "output": {
            "name": rtl_design.output,
            "shape": list(output.shape),
            "format": str(output.format),
            **streamed(rtl_design.result),
        },
        "stages": table(rtl_design.all_stages),
        # No design is silent for longer: all stages one after the other, and their registers.
        "timeout_cycles": 200 + 4 * interval * len(rtl_design.all_stages) + 4 * rtl_design.source.beats,
        # Between events a design walks through padding and finishes what is under way.
        "drain_cycles": 200 + sum(stage.drain_cycles for stage in rtl_design.all_stages),
    }


def streamed(stream: Stream) -> dict[str, Any]:
    """Return what a record says of how an event travels through a port."""
    return {"beats": stream.beats, "words": stream.words, "order": stream.order.tolist()}


def _simulation(ports: Ports, text: VerilogText, sources: list[str]) -> dict[str, Any]:
    written = "".join(text.modules.values()) + harness(ports, text.top, trace=False)
    stamp = hashlib.sha256(written.encode()).hexdigest()[:16]
    return {
        "top": text.top,
        "sources": sources,
        "blocks": text.blocks,
        "ports": text.ports,
        "handshake": ports.streaming,
        "adders": text.adders,
        "pipeline_cycles": text.pipeline_cycles,
        # A name of its own per design: a process that has loaded one library must not be handed it for another.
        "library": f"sim/{text.top}-{stamp}.so",
        "traced_library": f"sim/{text.top}-{stamp}-vcd.so",
    }


def emulate(folder: Path, codes: NDArray[Any]) -> dict[str, Codes]:
    """Simulate a built project: input codes (N, *shape) to {output name: codes (N, *shape)}."""
    return simulate(folder, codes).codes


def simulate_cycles(folder: Path, codes: NDArray[Any], stall: float, waves: Waves | None) -> CycleRun:
    """Simulate a built project and measure its cycles; `stall` is the chance per cycle that an end waits.

    A design without handshakes only ever waits for its input.
    """
    stall_out = stall if read_record(folder, "rtl", RtlRecord)["handshake"] else 0.0
    run = simulate(folder, codes, stall_in=stall, stall_out=stall_out, waves=waves)
    return CycleRun(run.codes, run.latency_cycles, run.interval_cycles, run.waved_cycles, run.waved_events)
