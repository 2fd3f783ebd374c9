"""Open synthesis: each block of a design once, the rest with the blocks as black boxes, and the sum of it all.

A whole network flattened at once takes hours and a whole one unflattened does not finish; its blocks take minutes, and most
of them occur many times. Summing keeps what one block could simplify in the next, so a total is rather too high than too low.
"""

import hashlib
import json
import math
import re
import threading
import time
from collections.abc import Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caloedge import tools
from caloedge.catalog import Target
from caloedge.errors import BadData, Unsupported, UserError
from caloedge.files import write_text
from caloedge.progress import progress
from caloedge.results import Number
from caloedge.synthesis import cells
from caloedge.synthesis.rtl import Project, Source, alone, read

FOLDER = "synthesis"
GLUE = "(glue)"
"""Name of the row with what is outside all blocks."""
BLOCK_TIMEOUT_S = 4 * 3600.0
MAPPING = "+&sweep;&dc2;&dch,-f,-r;&if,{W},{D},{R}"
"""Script that maps logic to LUTs on AMD devices: the default less `&scorr` and `&mfs`, whose time grows faster than the netlist.

In adder graphs `&mfs` took two thirds of the mapping and changed the LUTs by 0.2 % at most; `&scorr` changed no cell of adder
graphs, layers and lanes, and did not end within ten minutes on the choice of clusters.
"""


@dataclass(frozen=True)
class BlockCost:
    """Resources that one instance of a module takes."""

    module: str
    instances: int
    resources: Mapping[str, int]
    """Resources of one instance, by name in `cells.RESOURCES`."""
    cells: Mapping[str, int]
    """Cells of the netlist of one instance, uncounted ones included."""
    seconds: float
    """Wall time of the synthesis that found it, now or earlier."""


@dataclass(frozen=True)
class NetlistCost:
    """Resources that a design takes, `synthesised`."""

    resources: Mapping[str, int]
    """Resources summed over all blocks and the glue, by name in `cells.RESOURCES`."""
    blocks: tuple[BlockCost, ...]
    """The glue is the last, as `(glue)`."""
    tool: str
    seconds: float
    """Wall time of all syntheses together [s], now or earlier."""

    def utilisation(self, target: Target) -> dict[str, float]:
        """Return the fraction of each resource of a device; infinity for one that is needed but not there."""
        return utilisation(self.resources, target)

    def numbers(self) -> tuple[tuple[str, Number], ...]:
        """Return the total of each resource as a number with its origin."""
        return tuple((name, Number(value=value, origin="synthesised", note=self.tool)) for name, value in self.resources.items())


def utilisation(resources: Mapping[str, int], target: Target) -> dict[str, float]:
    """Return the fraction of each resource of a device; infinity for one that is needed but not there."""
    missing = {
        name for name in ("LUT", "FF", "DSP", "BRAM_18K", "URAM") if resources.get(name, 0) and name not in target.resources
    }
    return {name: resources.get(name, 0) / has for name, has in target.resources.items()} | dict.fromkeys(missing, math.inf)


# What is synthesised: pure functions of the project


@dataclass(frozen=True)
class SynthesisJob:
    """One run of the synthesiser."""

    module: str
    instances: int
    files: Mapping[str, str]
    """Files to write before the run: name relative to the project -> text."""
    script: str
    """All commands up to the statistics."""
    content: str
    """Digest of all texts that go in."""


def jobs(project: Project, family: str) -> list[SynthesisJob]:
    """Return the runs that a design takes: one for each block and one for the glue, which is the last."""
    if family not in cells.TABLES:
        raise Unsupported(f"target family {family!r} is not supported by open synthesis; use one of: {', '.join(cells.TABLES)}")
    runs = []
    for block, number in project.blocks.items():
        sources = project.needed(block)
        script = commands(family, block, [source.path for source in sources])
        runs.append(SynthesisJob(block, number, {}, script, content_digest(project, sources)))
    return [*runs, _glue(project, family)]


def _glue(project: Project, family: str) -> SynthesisJob:
    """Return the run of the top module, in which each block is only a header."""
    sources = project.needed(project.top, without=project.blocks)
    with_source = [block for block in project.blocks if project.home(block) in sources]
    stubs = {block: project.home(block).headers[block] for block in project.blocks if block not in with_source}
    name = f"{FOLDER}/{family}/blackboxes.v"
    text = "".join(f"(* blackbox *)\n{header}\nendmodule\n" for header in stubs.values())
    paths = [source.path for source in sources] + ([name] if stubs else [])
    content = content_digest(project, sources, project.top + text)  # its netlist counts blocks by their whole names
    return SynthesisJob(GLUE, 1, {name: text} if stubs else {}, commands(family, project.top, paths, with_source), content)


def commands(family: str, top: str, paths: list[str], blackboxes: list[str] | None = None) -> str:
    """Return the synthesiser's script, without the line that writes the result."""
    lines = [read_command(path) for path in paths]
    if blackboxes:
        lines += [f"hierarchy -top {top}", f"blackbox {' '.join(blackboxes)}"]
    # no pads and no clock buffers: the design is a part of something larger
    options = "" if family == "ecp5" else " -noiopad -noclkbuf"
    settings, synth = synthesis_commands(family)
    return "\n".join([*lines, *settings, f"{synth}{options} -top {top}", ""])


def synthesis_commands(family: str) -> tuple[list[str], str]:
    """Return what comes before the command that synthesises for a family, and that command without the top module."""
    if family == "ecp5":
        return [], "synth_ecp5"
    return [f'scratchpad -set abc9.script "{MAPPING}"'], f"synth_xilinx -family {family} -flatten"


def read_command(path: str) -> str:
    """Return the command that reads one source; modules are only elaborated when they are used."""
    return f"read_verilog {'-sv ' if path.endswith('.sv') else ''}-defer {path}"


def content_digest(project: Project, sources: tuple[Source, ...], more: str = "") -> str:
    """Return the digest of sources and of the files that they read, whatever the network is called."""
    hasher = hashlib.sha256(more.encode())
    for source in sources:
        hasher.update(nameless(project, f"\0{source.path}\0{source.text}").encode())
        for name in source.files:
            hasher.update(f"\0{name}\0".encode() + (project.folder / name).read_bytes())
    return hasher.hexdigest()


def nameless(project: Project, text: str) -> str:
    """Return text without what all names of a project begin with: the top's name, which changes with every weight."""
    return re.sub(rf"\b{re.escape(project.top)}(?=\b|_)", "top", text)


def digest(*parts: str) -> str:
    """Return the key under which a result is kept."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def cell_counts(text: str, source: str) -> dict[str, int]:
    """Return the number of cells of each type from the synthesiser's statistics in JSON."""
    try:
        design = json.loads(text[text.index("{") :])["design"]
        return {str(name): int(number) for name, number in design["num_cells_by_type"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadData(f"{source}: not the statistics of a netlist in JSON; install yosys 0.40 or later") from None


# Running


def synthesise(
    folder: Path, target: Target, *, timeout_s: float = BLOCK_TIMEOUT_S, workers: int = 1, block: str | None = None
) -> NetlistCost:
    """Synthesise an RTL project, or one block of it, for a target with `workers` programs at a time, each given `timeout_s`.

    Every finished block is kept under `synthesis/<family>/` in the project with its log: a run that was stopped goes on where
    it was, a changed source costs only its own block, and a block that a project in the same folder has costs nothing. Raises
    `MissingTool`, `BadData`, `Unsupported`, and `UserError` when the synthesiser fails.
    """
    project = read(folder) if block is None else alone(read(folder), block)
    todo = jobs(project, target.family)
    program = tools.newest("yosys")
    costs = {job.module: row for job in todo if (row := _cached(project, target.family, job, program)) is not None}
    missing = [job for job in todo if job.module not in costs]
    if missing:
        with progress(f"synthesise for {target.family}", len(todo), len(costs)) as advance:
            stop = threading.Event()
            with ThreadPoolExecutor(max(1, workers)) as pool:
                runs = [pool.submit(_run, project, target.family, job, program, timeout_s, stop) for job in missing]
                try:
                    _collect(runs, costs, advance)
                except BaseException:  # also Ctrl-C: the programs must not go on without us
                    stop.set()
                    pool.shutdown(wait=True, cancel_futures=True)
                    raise
    rows = tuple(costs[job.module] for job in todo)
    _check_instances(project, rows[-1])
    total = {name: sum(row.instances * row.resources[name] for row in rows) for name in cells.RESOURCES}
    return NetlistCost(total, rows, str(program), sum(row.seconds for row in rows))


def _collect(runs: list[Future[BlockCost]], costs: dict[str, BlockCost], advance: Any) -> None:
    waiting = set(runs)
    while waiting:
        finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
        for run in finished:
            row = run.result()
            costs[row.module] = row
            advance(1)


def _check_instances(project: Project, glue: BlockCost) -> None:
    """Compare the blocks that the record counts with those that the netlist of the top has."""
    for block, number in project.blocks.items():
        if (has := glue.cells.get(block, 0)) != number:
            raise BadData(
                f"{project.folder}: block {block} occurs {has} times in the netlist of {project.top}, but {number} times in the "
                "record; build the project again"
            )


def _cache_key(project: Project, family: str, job: SynthesisJob, program: tools.Program) -> tuple[str, str]:
    """Return the whole digest of a run and the start of its file names, relative to the project."""
    module, script = (nameless(project, text) for text in (job.module, job.script))
    key = digest(job.content, module, script, f"{program.path.name} {program.version}")
    name = "glue" if job.module == GLUE else module
    return key, f"{FOLDER}/{family}/{name}-{key[:12]}"


def _cached(project: Project, family: str, job: SynthesisJob, program: tools.Program) -> BlockCost | None:
    """Return an earlier result of this project, or of one in the same folder; None when there is none or it is damaged.

    Designs of one network differ in a few blocks only: a lane of a node stream is the same at any number of lanes.
    """
    key, stem = _cache_key(project, family, job, program)
    own = project.folder / f"{stem}.json"
    for path in (own, *sorted(project.folder.resolve().parent.glob(f"*/{stem}.json"))):
        try:
            text = path.read_text(encoding="utf-8")
            stored = json.loads(text)
            if stored["digest"] != key:
                continue
            numbers = {str(k): int(n) for k, n in stored["cells"].items()}
            row = _block_cost(project, family, job, numbers, float(stored["seconds"]))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            continue
        if path != own:
            write_text(own, text)
        return row
    return None


def _block_cost(project: Project, family: str, job: SynthesisJob, cell_numbers: dict[str, int], seconds: float) -> BlockCost:
    own_cells = {name: number for name, number in cell_numbers.items() if not (job.module == GLUE and name in project.blocks)}
    return BlockCost(
        job.module, job.instances, cells.count(own_cells, family, f"{project.folder}: {job.module}"), cell_numbers, seconds
    )


def _run(
    project: Project, family: str, job: SynthesisJob, program: tools.Program, timeout_s: float, stop: threading.Event
) -> BlockCost:
    """Run the synthesiser once and keep what it found."""
    key, stem = _cache_key(project, family, job, program)
    for name, text in job.files.items():
        write_text(project.folder / name, text)
    statistics = project.folder / f"{stem}.stat.json"
    statistics.unlink(missing_ok=True)
    start = time.monotonic()
    run_script(
        program,
        project.folder,
        stem,
        f"{job.script}tee -q -o {stem}.stat.json stat -json\n",
        f"block {job.module}",
        timeout_s,
        stop,
    )
    seconds = round(time.monotonic() - start, 1)
    try:
        cell_numbers = cell_counts(statistics.read_text(encoding="utf-8"), str(statistics))
    except FileNotFoundError:
        raise BadData(f"{statistics} was not written by {program}; see {stem}.log beside it") from None
    row = _block_cost(project, family, job, cell_numbers, seconds)
    stored = {"module": job.module, "digest": key, "cells": cell_numbers, "resources": dict(row.resources), "seconds": seconds}
    write_text(project.folder / f"{stem}.json", json.dumps({**stored, "tool": str(program)}, indent=1) + "\n")
    statistics.unlink()
    return row


def run_script(
    program: tools.Program,
    folder: Path,
    stem: str,
    script: str,
    subject: str,
    timeout_s: float,
    stop: threading.Event | None = None,
) -> None:
    """Run the synthesiser's script in a project, script and log lying at `stem`; errors name `subject`.

    All paths are relative to the project: as WebAssembly, the program is shown the current folder.
    """
    write_text(folder / f"{stem}.ys", script)
    log = folder / f"{stem}.log"
    log.unlink(missing_ok=True)
    try:
        tools.run(
            [*program.command, "-Q", "-T", f"{stem}.ys"],
            name=str(program.path),
            cwd=folder,
            log=log,
            timeout_s=timeout_s,
            environment=program.environment,
            stop=stop,
        )
    except tools.Overtime:
        raise tools.Overtime(
            f"{folder}: {subject}: yosys did not finish within {timeout_s:g} s; give it longer (what is finished is kept)"
        ) from None
    except UserError as error:
        raise type(error)(f"{folder}: {subject}: {error}") from None
