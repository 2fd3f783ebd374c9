"""What the README shows is true: links exist, blocks run, numbers come from report.json."""

import re
import subprocess
import sys
from pathlib import Path

from caloedge.reports import store
from caloedge.reports.readme import between_marks, models_beside, results

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
TEXT = README.read_text(encoding="utf-8")


def test_is_short():
    assert len(TEXT.splitlines()) <= 120
    assert len(TEXT.split()) <= 700


def test_named_files_exist():
    names = re.findall(r"`((?:models|reports|caloedge|benchmarks|tests)/[\w/.\-]+|\w+\.md)`", TEXT)
    links = re.findall(r"\]\(([\w/.\-]+)\)", TEXT)
    assert len(names) >= 3
    assert len(links) >= 15
    for name in (*names, *links):
        assert (ROOT / name).exists(), name


def test_results_are_those_of_the_reports():
    reports = {folder.name: store.load(folder) for folder in store.folders(ROOT / "reports")}
    assert len(reports) >= 8
    assert between_marks(TEXT, README)[1].strip() == results(reports, models_beside(README)).strip()


def test_the_network_of_ones_own_is_compiled_and_verified(tmp_path):
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "mine.py").write_text(block)
    options = {"cwd": tmp_path, "capture_output": True, "text": True, "check": False}
    done = subprocess.run([sys.executable, "mine.py"], **options)
    assert done.returncode == 0, done.stderr
    assert "('dense_2', " in done.stdout
    verify = ["verify", "mine.onnx", "--backend", "emulator"]
    done = subprocess.run([sys.executable, "-c", "from caloedge.cli import main; main()", *verify], **options)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("exact") == 3


def test_shown_commands_exist():
    shown = re.findall(r"^\$ caloedge (\w+)", TEXT, re.MULTILINE)
    assert len(shown) == 5
    for verb in sorted(set(shown)):
        done = subprocess.run([sys.executable, "-m", "caloedge", verb, "--help"], capture_output=True, text=True, check=False)
        assert done.returncode == 0, verb


def test_shown_options_exist():
    for verb, option in re.findall(r"^\$ caloedge (\w+) [^#\n]*?(--[\w-]+)", TEXT, re.MULTILINE):
        done = subprocess.run([sys.executable, "-m", "caloedge", verb, "--help"], capture_output=True, text=True, check=False)
        assert option in done.stdout, (verb, option)
