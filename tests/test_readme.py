"""What the README shows is true: links exist, blocks run, numbers come from report.json."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from caloedge.reports import store
from caloedge.reports.readme import between_marks, results
from caloedge.results import Claim

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")


def test_is_short():
    assert len(TEXT.splitlines()) <= 120


def test_named_files_exist():
    names = re.findall(r"`((?:models|reports|caloedge|benchmarks|tests)/[\w/.\-]+)`|`(\w+\.md)`", TEXT)
    assert len(names) > 3
    for pair in names:
        assert (ROOT / (pair[0] or pair[1])).exists(), pair


SHOWN = re.findall(r"^<!-- (\w+): written by", TEXT, re.MULTILINE)


def test_results_are_shown():
    assert {"seed_finder", "deepcluster"} <= set(SHOWN)


@pytest.mark.parametrize("name", SHOWN)
def test_results_are_those_of_the_report(name):
    shown = results(store.load(ROOT / "reports" / name))
    assert between_marks(TEXT, name, README)[1].strip() == shown.strip()


def test_figures_of_claims_are_those_of_the_report():
    shown = re.findall(r"[\d.]+ (?:GeV²|%) against .*?\(paired bootstrap\)", TEXT)
    assert len(shown) == 4
    found = {block.found for block in store.load(ROOT / "reports" / "pf_energy").sections[0].blocks if isinstance(block, Claim)}
    assert set(shown) <= found


@pytest.mark.parametrize("block", re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL))
def test_python_blocks_run(block):
    done = subprocess.run([sys.executable, "-c", block], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "conv_1" in done.stdout


def test_shown_commands_exist():
    shown = re.findall(r"^\$ caloedge (\w+)", TEXT, re.MULTILINE)
    assert len(shown) >= 8
    for verb in sorted(set(shown)):
        done = subprocess.run([sys.executable, "-m", "caloedge", verb, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, verb


def test_shown_options_exist():
    for verb, option in re.findall(r"^\$ caloedge (\w+) [^#\n]*?(--[\w-]+)", TEXT, re.MULTILINE):
        done = subprocess.run([sys.executable, "-m", "caloedge", verb, "--help"], capture_output=True, text=True, check=False)
        assert option in done.stdout, (verb, option)
