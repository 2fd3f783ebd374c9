"""Killed at any moment, a command that is repeated ends at the same bytes; two at once never mix. See also test_production."""

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from caloedge.artifact import read_artifact
from caloedge.errors import UserError
from caloedge.project import read_record

PATIENCE_S = 600.0
AT_ONCE = r": process \d+ on .* is writing it; wait until that has ended, or give another name$"


def killed_when(there: Callable[[], object], *words: object, before: Callable[[], object] = lambda: None) -> None:
    """Start a command, stop it while something is there, do something `before` it is killed as by a power cut."""
    command = [sys.executable, "-m", "caloedge", *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + PATIENCE_S
    try:
        while True:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            if there():
                process.send_signal(signal.SIGSTOP)
                time.sleep(0.05)
                if there():
                    break
                process.send_signal(signal.SIGCONT)
            time.sleep(0.01)
        before()
    finally:
        process.kill()
        process.communicate()


@pytest.mark.slow
def test_a_killed_training_ends_at_the_same_weights(tiny_recipe: Path, tiny: Path, tmp_path: Path) -> None:
    from caloedge.pipeline import Run, train
    from caloedge.training.fit import Hardware
    from caloedge.training.stages import weights_of

    cpu, training = Hardware(accelerator="cpu"), tmp_path / "work" / "training"

    def second() -> None:
        with pytest.raises(UserError, match=AT_ONCE):
            train(Run.open(str(tiny_recipe), tmp_path), cpu)

    words = ("train", tiny_recipe, "--output", tmp_path, "--accelerator", "cpu")
    killed_when(lambda: list(training.glob("published-*/last.ckpt")), *words)
    killed_when(lambda: list(training.glob(".edge-*.lock")), *words, before=second)
    trained = train(Run.open(str(tiny_recipe), tmp_path), cpu)
    for stage in ("edge", "quantised"):
        wanted, found = read_artifact(tiny).weights(stage), weights_of(trained[stage].network)
        assert wanted.keys() == found.keys()
        assert all((wanted[name] == found[name]).all() for name in wanted), stage
    assert not list(training.glob(".*"))


def test_a_killed_build_is_built_by_the_next_call(tiny: Path, tmp_path: Path) -> None:
    from caloedge.backends.emulator.binding import emulate
    from caloedge.cli.building import build

    folder = tmp_path / "project"

    def second() -> None:
        with pytest.raises(UserError, match=AT_ONCE):
            build(str(tiny), folder, backend="emulator", synthesise=False)

    words = ("build", tiny, folder, "--backend", "emulator", "--no-synthesise")
    killed_when(lambda: list(tmp_path.glob(".project.part/*.cpp")), *words, before=second)
    assert not folder.exists()
    build(str(tiny), folder, backend="emulator", synthesise=False)
    golden = read_artifact(tiny).golden()
    assert np.array_equal(emulate(folder, golden.inputs)["logit"], golden.outputs["logit"])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["project"], "what the kill left is gone"
    assert read_record(folder)["variant"] == "native"
