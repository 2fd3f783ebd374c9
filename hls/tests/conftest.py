"""The test bench that all parts share; what runs inside the simulator is not for pytest to collect."""

from pathlib import Path

import pytest

from hls.tests.bench import Bench

collect_ignore_glob = ["cocotb_*.py", "streams.py"]


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runtime")


@pytest.fixture
def bench(tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, runtime, monkeypatch)
