"""Files of arrays from anywhere: whatever they say of themselves, reading ends in arrays or in one line."""

import io
import os
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from caloedge.errors import BadData
from caloedge.formats import npz
from caloedge.formats.npz import read_npy, read_npz

CODES = np.arange(24).reshape(2, 3, 4)
KEEP = settings(max_examples=300, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])


def header(shape: str, dtype: str = "<i8") -> bytes:
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def archive(path: Path, members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, content in members.items():
            file.writestr(name, content)
    return path


def complaint(path: Path, **how: Any) -> str:
    """Return what a file is refused with, which takes neither time nor memory."""
    start = time.monotonic()
    with pytest.raises(BadData) as caught:
        read_npz(path, **how)
    assert time.monotonic() - start < 5
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_numpy_writes_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    for write in (np.savez, np.savez_compressed):
        write(path, inputs=CODES, text=np.array("words"), none=np.zeros((0, 7), np.int8), turned=np.asfortranarray(CODES))
        arrays = read_npz(path)
        assert set(arrays) == {"inputs", "text", "none", "turned"}
        assert np.array_equal(arrays["inputs"], CODES)
        assert np.array_equal(arrays["turned"], CODES)
        assert (str(arrays["text"]), arrays["none"].shape) == ("words", (0, 7))
    assert set(read_npz(path, ("inputs",), shapes={"inputs": (3, 4)})) == {"inputs"}
    assert complaint(path, shapes={"inputs": (4, 3)}) == f"{path}: 'inputs' has shape (2, 3, 4); (N, 4, 3) expected"
    assert complaint(path, names=("codes",)) == (
        f"{path}: no array 'codes' (found: inputs, text, none, turned); write it with numpy.savez"
    )
    np.save(tmp_path / "x.npy", CODES)
    assert np.array_equal(read_npy(tmp_path / "x.npy"), CODES)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ("(16000000000000,)", "<i8", "'inputs' says int64 (16000000000000,), which is not the size of what is there"),
        ("(-1,)", "<i8", "it holds int64 (-1,), no plain numbers"),
        ("(10**9,)", "<i8", "malformed node"),
        ("(1000000000000000000,)", "|V0", "no plain numbers"),
        ("(2,)", "|O", "no plain numbers"),
        ("(2.5,)", "<i8", "shape is not valid"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, shape: str, dtype: str, message: str) -> None:
    path = archive(tmp_path / "x.npz", {"inputs.npy": header(shape, dtype) + b"\0" * 16})
    assert message in complaint(path)
    assert complaint(path).endswith("; write it with numpy.savez")
    single = tmp_path / "x.npy"
    single.write_bytes(header(shape, dtype) + b"\0" * 16)
    with pytest.raises(BadData, match=r"x\.npy: not a readable \.npy file \(.*\); write it with numpy\.save$"):
        read_npy(single)


def test_a_bomb_is_refused_by_the_memory_it_needs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(npz, "available_memory_bytes", lambda: 2**25)
    path = archive(tmp_path / "bomb.npz", {"inputs.npy": header("(2, 1000000)", "|i1") + b"\0" * 2_000_000})
    assert path.stat().st_size < 10_000
    assert complaint(path) == f"{path}: needs 0.0 GiB of memory, 0.0 GiB may be used here; give fewer events"
    monkeypatch.setattr(npz, "available_memory_bytes", lambda: 2**30)
    assert read_npz(path)["inputs"].shape == (2, 1_000_000)


def test_a_directory_that_lies_of_sizes_is_refused(tmp_path: Path) -> None:
    path = archive(tmp_path / "x.npz", {"inputs.npy": header("(250000000000,)") + b"\0" * 16}, zipfile.ZIP_STORED)
    content, size = bytearray(path.read_bytes()), len(header("(250000000000,)")) + 16
    place = content.rindex(struct.pack("<I", size))
    content[place : place + 4] = struct.pack("<I", 2**32 - 2)
    path.write_bytes(content)
    assert complaint(path).startswith(f"{path}: ")


def test_odd_members_are_refused(tmp_path: Path) -> None:
    plain = io.BytesIO()
    np.save(plain, CODES)
    path = tmp_path / "x.npz"
    assert (
        complaint(archive(path, {"inputs": plain.getvalue()})) == f"{path}: 'inputs' is not an array; write it with numpy.savez"
    )
    archive(path, {"inputs.npy": plain.getvalue()}, zipfile.ZIP_BZIP2)
    assert complaint(path) == f"{path}: 'inputs' is compressed by a method that NumPy does not write; write it with numpy.savez"
    archive(path, {"inputs.npy": b"1 2 3"})
    assert complaint(path).startswith(f"{path}: not a readable .npz file (")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("inputs.npy", plain.getvalue())
        with pytest.warns(UserWarning, match="Duplicate name"):
            file.writestr("inputs.npy", plain.getvalue())
    assert complaint(path) == f"{path}: holds 'inputs' twice; write it with numpy.savez"
    archive(path, {"inputs.npy": plain.getvalue()}, zipfile.ZIP_STORED)
    content = bytearray(path.read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.index(mark) + offset] |= 1
    path.write_bytes(content)
    assert complaint(path) == f"{path}: 'inputs' is encrypted; write it with numpy.savez"


def test_pipes_and_devices_are_refused_at_once(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.npz"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        assert complaint(path) == f"{path}: not a regular file; give one"
    assert complaint(tmp_path / "none.npz").startswith(f"{tmp_path / 'none.npz'}: not a readable .npz file (")


@KEEP
@given(data=st.data())
def test_damage_ends_in_one_line_or_in_the_same_kind_of_arrays(tmp_path: Path, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    data.draw(st.sampled_from([np.savez, np.savez_compressed]))(buffer, inputs=CODES, output_y=CODES.astype(np.int8))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "x.npz"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    message, arrays = "", {}
    try:
        arrays = read_npz(path)
    except BadData as problem:
        message = str(problem)
    assert "\n" not in message
    assert all(isinstance(values, np.ndarray) for values in arrays.values())
