"""Cycle-accurate simulation of a written design by Verilator."""

import ctypes
import hashlib
import math
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import platformdirs
from numpy.typing import NDArray
from pydantic import Field

from caloedge import tools
from caloedge.backends.rtl.harness import FUNCTION
from caloedge.catalog import Waves
from caloedge.compiler.fixed import Codes
from caloedge.errors import BadData, UserError
from caloedge.files import locked, read_text, replacing, write_text
from caloedge.project import SEAL, InProject, InputPort, OrderedPort, Port, Record, checked_codes, load_library, read_record, seal

TIMEOUT_S = 3600.0
STALL_SCALE = 65536
STALL_MARGIN, MOST_STALL = 5, 0.95
"""A stalled design is waited for so much longer than its share of cycles asks for, which is at least 5 %."""
NO_WAVES = -2


@dataclass(frozen=True)
class Run:
    """Result of a simulation, with cycles counted from the first event's first beat."""

    codes: dict[str, Codes]
    """Codes (N, *shape) by output name."""
    first_in_N: NDArray[np.int64]
    """Cycle in which each event's first beat first stood at the input."""
    last_out_N: NDArray[np.int64]
    """Cycle in which each event's last beat left."""
    waved_cycles: int = 0
    """Cycles that the waves cover; 0 where none were asked for."""
    waved_events: int = 0
    """Whole events among them."""

    @property
    def latency_cycles(self) -> int:
        """Cycles from the first input beat of an event to its last output beat, of an event that met an empty design."""
        return int(self.last_out_N[0] - self.first_in_N[0]) if len(self.first_in_N) else 0

    @property
    def interval_cycles(self) -> int:
        """Cycles between two results while events queue at the input."""
        gaps = np.diff(self.last_out_N[max(len(self.last_out_N) // 2 - 1, 0) :])
        return int(gaps.max()) if len(gaps) else 0


def compile_model(folder: Path, top: str, sources: list[str], library: str, log: Path, *, trace: bool) -> None:
    """Verilate the sources of a project (paths below `folder`) with its harness into one shared library."""
    tools.find("g++"), tools.find("make")
    with TemporaryDirectory(prefix="caloedge-") as work:  # make takes no spaces, which a project's path may have
        _compile(folder, Path(work), top, sources, library, log, trace)


def _compile(folder: Path, work: Path, top: str, sources: list[str], library: str, log: Path, trace: bool) -> None:
    verilator = tools.newest("verilator")
    environment = dict(verilator.environment)
    # Long functions are what g++ spends its time on: split, a large adder graph compiles three times faster.
    options = ["--default-language", "1364-2005", "-O3", "--x-assign", "fast", "--x-initial", "unique", "--noassert",
               "--output-split", "20000", "--output-split-cfuncs", "500"]  # fmt: skip
    if trace:
        options.append("--trace-vcd" if _major(verilator.version) >= (5, 36) else "--trace")
    names: list[str | Path] = ["--cc", "--top-module", top, "--prefix", f"V{top}", "-Wno-fatal", "-Mdir", work]
    command: list[str | Path] = [verilator.path, *names, *options, *sources]
    tools.run(command, cwd=folder, log=log, timeout_s=TIMEOUT_S, environment=environment)
    archive = f"V{top}__ALL.a"
    make = ["make", "-f", f"V{top}.mk", f"-j{os.cpu_count() or 1}", "CFG_CXXFLAGS_PCH_I=-include", "OPT_FAST=-O1", "OPT_SLOW=-O0",
            "OPT_GLOBAL=-O2", "CXXFLAGS=-fPIC -std=c++20"]  # fmt: skip
    tools.run([*make, archive], cwd=work, log=log, timeout_s=TIMEOUT_S, environment=environment)
    runtime = _runtime(verilator, trace)
    if not runtime.exists():
        tools.run([*make, "libverilated.a"], cwd=work, log=log, timeout_s=TIMEOUT_S, environment=environment)
        try:
            with replacing(runtime) as temporary:
                shutil.copyfile(work / "libverilated.a", temporary)
        except OSError:  # a cache that cannot be written costs time, not the build
            runtime = work / "libverilated.a"
    root = environment.get("VERILATOR_ROOT") or _root(verilator.path, folder, log)
    include = [f"-I{root}/include", f"-I{root}/include/vltstd", f"-I{work}"]
    # Nothing but the harness's function leaves the library: its classes and Verilator's must not meet another design's.
    hidden = ["-fvisibility=hidden", "-Wl,--exclude-libs,ALL"]
    harness = "sim/harness_vcd.cpp" if trace else "sim/harness.cpp"
    objects: list[str | Path] = [harness, work / archive, runtime]
    link: list[str | Path] = ["g++", "-std=c++20", "-O2", "-fPIC", "-shared", *hidden, *include, *objects, "-o", library]
    tools.run([*link, "-lpthread"], cwd=folder, log=log, timeout_s=TIMEOUT_S)


def _runtime(verilator: tools.Program, trace: bool) -> Path:
    """Return where Verilator's own library is kept, which is the same for all designs and takes longer than small ones."""
    compiler = hashlib.sha256(tools.version("g++").encode()).hexdigest()[:8]
    kind = "vcd" if trace else "plain"
    return platformdirs.user_cache_path("caloedge") / f"verilator-{verilator.version}-{compiler}-{kind}" / "libverilated.a"


def _major(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2])


def _root(program: Path, folder: Path, log: Path) -> str:
    """Ask an installed Verilator where its sources are."""
    answer = folder / "sim" / "root.txt"
    tools.run([program, "--getenv", "VERILATOR_ROOT"], cwd=folder, log=answer, timeout_s=60.0)
    root = answer.read_text(encoding="utf-8").strip().splitlines()[-1]
    answer.unlink()
    with log.open("a", encoding="utf-8") as stream:
        stream.write(f"VERILATOR_ROOT is {root}\n")
    return root


class PlacedPort(Port):
    """Output that is a part of what leaves through the port."""

    places: list[Annotated[int, Field(ge=0)]]
    """Word of the port's stream that each element is."""


class RtlRecord(Record):
    """Entries that the simulation needs in the record."""

    input: InputPort
    output: OrderedPort
    outputs: list[PlacedPort] = Field(default_factory=list)
    """Parts of `output`, where it is not itself an output of the network."""
    handshake: bool
    library: InProject
    traced_library: InProject
    top: Annotated[str, Field(pattern=r"^\w+$")]
    sources: list[InProject]
    timeout_cycles: Annotated[int, Field(gt=0, lt=2**40)]
    drain_cycles: Annotated[int, Field(ge=0, lt=2**40)] = 0


def _traced(folder: Path, values: Mapping[str, Any]) -> ctypes.CDLL:
    """Load the simulation that writes waves; it is compiled when it is first asked for, and its seal lies beside it."""
    library = folder / values["traced_library"]
    sealed = library.with_suffix(".seal")
    if not sealed.exists():
        with locked(library, wait=True), replacing(library) as temporary:
            name = str(temporary.relative_to(folder))
            compile_model(folder, values["top"], values["sources"], name, folder / "vcd.log", trace=True)
        write_text(sealed, seal(library, values))
    return load_library(folder, {**values, "library": values["traced_library"], SEAL: read_text(sealed)})


def simulate(
    folder: Path, codes: NDArray[Any], *, stall_in: float = 0.0, stall_out: float = 0.0, seed: int = 1, waves: Waves | None = None
) -> Run:
    """Run events through a built project, back to back unless stalled with the given chances per cycle."""
    values = read_record(folder, "rtl", RtlRecord)
    codes = checked_codes(folder, values, codes)
    if not values["handshake"] and stall_out:
        raise UserError(f"{folder}: the design has no ready input; its output cannot be stalled")
    n_events = len(codes)
    order = np.array(values["input"]["order"])
    stimulus = np.ascontiguousarray(codes.reshape(n_events, order.size)[:, order])
    output = values["output"]
    outputs = np.zeros((n_events, len(output["order"])), dtype=np.int64)
    first_in, last_out = np.zeros(n_events, dtype=np.int64), np.zeros(n_events, dtype=np.int64)
    library = _traced(folder, values) if waves else load_library(folder, values)
    try:
        function = getattr(library, f"{values['top']}_{FUNCTION}")
    except AttributeError as problem:
        raise BadData(f"{folder}: its simulation cannot be run ({problem}); build the project again on this machine") from None
    function.restype = ctypes.c_int64
    pointers = [ctypes.c_void_p(array.ctypes.data) for array in (stimulus, outputs, first_in, last_out)]
    chances = [ctypes.c_uint32(round(chance * STALL_SCALE)) for chance in (stall_in, stall_out)]
    slower = math.ceil(STALL_MARGIN / (1 - min(max(stall_in, stall_out), MOST_STALL))) if stall_in or stall_out else 1
    timeout_cycles = ctypes.c_int64(values["timeout_cycles"] * slower)
    drain_cycles = ctypes.c_int64(values.get("drain_cycles", values["timeout_cycles"]))
    name = ctypes.c_char_p(str(waves.path).encode()) if waves else None
    limit = ctypes.c_int64(round(waves.limit_mb * 1e6) if waves else 0)
    waved = np.zeros(2, dtype=np.int64)
    seeded = ctypes.c_uint64(seed)
    n_done = function(
        *pointers[:2],
        ctypes.c_int64(n_events),
        *pointers[2:],
        *chances,
        seeded,
        timeout_cycles,
        name,
        drain_cycles,
        limit,
        ctypes.c_void_p(waved.ctypes.data),
    )
    if n_done != n_events:
        if n_done == NO_WAVES and waves:
            raise UserError(f"{waves.path}: cannot be written; give a file in a folder that exists")
        fault = f"gave more results than events ({n_events})" if n_done < 0 else f"stopped after {n_done} of {n_events} events"
        raise BadData(f"{folder}: the simulated design {fault}; it is broken, build the project again")
    natural = np.zeros_like(outputs)
    natural[:, np.array(output["order"])] = outputs
    results = {output["name"]: natural.reshape(n_events, *output["shape"])}
    if parts := values.get("outputs"):
        results = {part["name"]: natural[:, part["places"]].reshape(n_events, *part["shape"]) for part in parts}
    return Run(results, first_in, last_out, *map(int, waved))
