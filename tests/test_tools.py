import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caloedge import tools
from caloedge.errors import MissingTool, UserError


def test_a_missing_program_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingTool, match=r"^g\+\+ not found on PATH; install a C\+\+ compiler, e\.g\. apt-get install g\+\+$"):
        tools.find("g++")
    with pytest.raises(MissingTool, match=r"^nosuchtool not found on PATH; install it or add its folder to PATH$"):
        tools.run(["nosuchtool", "-x"], cwd=tmp_path, log=tmp_path / "log", timeout_s=5)
    assert not (tmp_path / "log").exists()


def test_the_version_is_one_line() -> None:
    assert tools.version(sys.executable) == f"Python {sys.version.split()[0]}"


def test_what_a_program_prints_is_in_the_log(tmp_path: Path) -> None:
    log = tmp_path / "logs" / "run.log"
    code = "import os, sys; print(os.getcwd()); print('to stderr', file=sys.stderr)"
    tools.run([sys.executable, "-c", code], cwd=tmp_path, log=log, timeout_s=30)
    assert sorted(log.read_text().splitlines()) == sorted([str(tmp_path.resolve()), "to stderr"])


def test_a_failure_shows_the_last_lines_and_the_log(tmp_path: Path) -> None:
    code = "print('\\n'.join(f'line {i}' for i in range(9))); raise SystemExit(3)"
    with pytest.raises(UserError) as caught:
        tools.run([sys.executable, "-c", code], cwd=tmp_path, log=tmp_path / "log", timeout_s=30)
    assert str(caught.value) == (
        f"{sys.executable} failed with exit code 3; see {tmp_path / 'log'}; it ends: line 4 | line 5 | line 6 | line 7 | line 8"
    )


def test_a_killed_program_says_so(tmp_path: Path) -> None:
    code = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    with pytest.raises(UserError, match=r"was killed by SIGKILL; see .*; it ends: \(it printed nothing\)$"):
        tools.run([sys.executable, "-c", code], cwd=tmp_path, log=tmp_path / "log", timeout_s=30)


FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
open("pids.part", "w").write(f"{os.getpid()} {child.pid}")
os.replace("pids.part", "pids")
time.sleep(60)
"""


def alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie that only its parent has not yet asked for counts as ended."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not (stat.exists() and stat.read_text().rsplit(")", 1)[1].split()[0] == "Z")


def all_ended(pids: list[int]) -> bool:
    deadline = time.monotonic() + 10
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not any(alive(pid) for pid in pids)


def test_a_time_out_stops_the_program_and_its_children(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"did not finish within 2 s and was stopped; see "):
        tools.run([sys.executable, "-c", FAMILY], cwd=tmp_path, log=tmp_path / "log", timeout_s=2)
    assert all_ended([int(word) for word in (tmp_path / "pids").read_text().split()])


def test_ctrl_c_stops_the_program_and_its_children(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from caloedge import tools\n"
        f"tools.run([sys.executable, '-c', {FAMILY!r}], cwd=Path.cwd(), log=Path('log'), timeout_s=60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, stderr=subprocess.DEVNULL) as ours:
        deadline = time.monotonic() + 20
        while not (tmp_path / "pids").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        ours.send_signal(signal.SIGINT)
        assert ours.wait(timeout=20) != 0
    assert all_ended([int(word) for word in (tmp_path / "pids").read_text().split()])
