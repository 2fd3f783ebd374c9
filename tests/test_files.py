"""Files: whole or not at all, and one process at a time writes one."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from caloedge import files
from caloedge.errors import BadData, UserError
from caloedge.files import locked, read_text, replacing, replacing_folder

HOLD = "import sys, time; from caloedge.files import locked\nwith locked({path!r}): print('held', flush=True); time.sleep(60)"


def holder(path: Path) -> subprocess.Popen[str]:
    """Start a process that holds the lock of a path."""
    code = f"from pathlib import Path; {HOLD.format(path=path).replace(repr(path), f'Path({str(path)!r})')}"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_second_process_is_told_who_writes_and_a_kill_frees_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "showers.h5"
    first = holder(path)
    try:
        with pytest.raises(UserError) as caught, locked(path):
            pass
    finally:
        end(first)
    assert str(caught.value) == (
        f"{path}: process {first.pid} on {socket.gethostname()} is writing it; wait until that has ended, or give another name"
    )
    assert [p.name for p in tmp_path.iterdir()] == [".showers.h5.lock"], "SIGKILL leaves the file, but not the lock"
    with locked(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_who_waits_gets_the_lock_when_its_holder_has_ended(tmp_path: Path) -> None:
    path, order = tmp_path / "index.html", []

    def second() -> None:
        with locked(path, wait=True):
            order.append("second")

    waiting = threading.Thread(target=second)
    with locked(path):
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join(10)
    assert order == ["first", "second"]
    assert list(tmp_path.iterdir()) == []


def test_many_at_once_never_meet(tmp_path: Path) -> None:
    """The file of the lock is removed and made anew all the time: nobody may hold one that is gone."""
    path, inside, most = tmp_path / "x", [0], [0]

    def work() -> None:
        for _ in range(50):
            with locked(path, wait=True):
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                inside[0] -= 1

    crew = [threading.Thread(target=work) for _ in range(8)]
    for one in crew:
        one.start()
    for one in crew:
        one.join(60)
    assert most == [1]


def test_a_file_system_without_locks_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(files.fcntl, "flock", none)
    with locked(tmp_path / "x"):
        pass
    said = capsys.readouterr().err
    assert said == (
        f"caloedge: {tmp_path}: no locks on this file system (No locks available); start one command at a time here\n"
    )


def test_two_writers_of_one_folder_never_mix(tmp_path: Path) -> None:
    folder = tmp_path / "project"
    with replacing_folder(folder) as new:
        (new / "one").touch()
        with pytest.raises(UserError, match=r"is writing it; wait until that has ended, or give another name$"):
            replacing_folder(folder).__enter__()
        assert (new / "one").exists()
    assert [p.name for p in folder.iterdir()] == ["one"]
    assert [p.name for p in tmp_path.iterdir()] == ["project"]


@pytest.mark.parametrize("moment", ["writing", "between the renames"])
def test_what_a_killed_process_left_is_cleaned_up(tmp_path: Path, moment: str) -> None:
    folder = tmp_path / "model"
    with replacing_folder(folder) as new:
        (new / "weights").write_text("trained for a day")
    if moment == "writing":
        (tmp_path / ".model.part").mkdir()
        (tmp_path / ".model.part" / "half").touch()
    else:
        folder.rename(tmp_path / ".model.old")
    with pytest.raises(RuntimeError), replacing_folder(folder):
        raise RuntimeError
    assert [p.name for p in tmp_path.iterdir()] == ["model"], "the old folder is back"
    assert (folder / "weights").read_text() == "trained for a day"


def test_a_file_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("old")
    with pytest.raises(ValueError, match="stopped"), replacing(path) as temporary:
        temporary.write_text(_stopped(temporary))
    assert (path.read_text(), len(list(tmp_path.iterdir()))) == ("old", 1)


def _stopped(path: Path) -> str:
    path.write_text("ne")
    raise ValueError("stopped")


def test_a_pipe_a_device_and_a_huge_file_are_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        with pytest.raises(BadData) as caught:
            read_text(path)
        assert str(caught.value) == f"{path}: not a regular file; give one"
    text = tmp_path / "text"
    text.write_bytes(b"\xff\xfe")
    with pytest.raises(BadData) as caught:
        read_text(text)
    assert str(caught.value) == f"{text}: not a text file in UTF-8; give one"
    monkeypatch.setattr(files, "MAX_TEXT_BYTES", 2**20)
    text.write_bytes(b" " * (2**20 + 1))
    with pytest.raises(BadData) as caught:
        read_text(text)
    assert str(caught.value) == f"{text}: 1 MiB are too many for such a file; at most 1 MiB are read"
