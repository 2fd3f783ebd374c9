"""Files appear whole or not at all, and only one process at a time writes one.

Everything is written to a temporary name beside its place and renamed. What takes long, or is read before it is replaced, is
written under a lock of the kernel (flock), which ends with its process however that ends: nothing is left to clean up by hand.
"""

import fcntl
import hashlib
import os
import shutil
import socket
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from caloedge.errors import BadData, UserError

MAX_TEXT_BYTES = 64 * 2**20
"""Largest text file that is read whole."""


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Be the only process that writes `path`; another one waits, or gets a `UserError` that names this one.

    The lock lies beside `path` as `.NAME.lock`. It also holds between computers that share a folder by NFS. On a file system
    without locks (some mounts of Lustre) a line on standard error says so, and the work goes on.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    place = path.with_name(f".{path.name}.lock")
    descriptor = _lock(path, place, wait=wait)
    try:
        with suppress(OSError):  # a full disk: only the message to others lacks the name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"process {os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        place.unlink(missing_ok=True)  # while it is held: whoever waits for it sees that it is gone, and makes a new one
        os.close(descriptor)


def _lock(path: Path, place: Path, *, wait: bool) -> int:
    while True:
        descriptor = os.open(place, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.fstat(descriptor).st_nlink:
                return descriptor
        except BlockingIOError:
            holder = os.read(descriptor, 200).decode(errors="replace") or "another process"
            os.close(descriptor)
            raise UserError(f"{path}: {holder} is writing it; wait until that has ended, or give another name") from None
        except OSError as problem:
            print(  # noqa: T201
                f"caloedge: {path.parent}: no locks on this file system ({problem.strerror}); start one command at a time here",
                file=sys.stderr,
            )
            return descriptor
        except BaseException:  # Ctrl-C while waiting
            os.close(descriptor)
            raise
        os.close(descriptor)  # its holder has removed it meanwhile


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary file name in the folder of `path`; rename it to `path` when the block ends without error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`; it takes the place of `path` when the block ends without error.

    Raises `UserError` while another process does the same.
    """
    path = path.absolute()  # a folder named "." has no name to lock by
    temporary, old = (path.with_name(f".{path.name}.{end}") for end in ("part", "old"))
    with locked(path):
        if old.exists() and not path.exists():  # a process was killed between the two renames below
            old.replace(path)
        for remains in (temporary, old):
            shutil.rmtree(remains, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            if path.exists():  # the old folder goes only when the new one stands in its place
                path.replace(old)
            temporary.replace(path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def require_regular(path: Path) -> None:
    """Raise `BadData` for what would never end or is no file, such as a pipe or a device, and `OSError` for no file at all."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise BadData(f"{path}: not a regular file; give one")


def read_text(path: Path) -> str:
    """Return a text file whole. Raises `BadData` for what is no text, too large or no file, `OSError` where it cannot be read."""
    require_regular(path)
    if (size := path.stat().st_size) > MAX_TEXT_BYTES:
        raise BadData(
            f"{path}: {size / 2**20:,.0f} MiB are too many for such a file; at most {MAX_TEXT_BYTES >> 20} MiB are read"
        )
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise BadData(f"{path}: not a text file in UTF-8; give one") from None


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
