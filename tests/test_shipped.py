"""What must survive any rebuilding of the code: the shipped networks, bit by bit, and the reports as they were measured.

That no shipped training would be done again is tested in training/test_forecast.py, that golden vectors are reproduced in
test_golden.py.
"""

from pathlib import Path

import pytest

from caloedge.compiler.onnx.reader import read
from caloedge.reports import store
from caloedge.reports.markdown import figure_name, figures, markdown

ROOT = Path(__file__).parents[1]
DIGESTS = {
    "center_finder": "325b96c6cec8af3f2c70f40c712e06f55229f7c076d75da1e1c317a39e7f712f",
    "clustering": "af78926166e4d30ded5915c7963567c8d1d9280dd416c2705c694f4b31234867",
    "clustering_cells": "e93bb8ad584185d2fe93444a433fb61cbfd51eabd0d0a779e050efb434e470ca",
    "pf_energy": "f6a3c7a4415a5bc7d628f9ce8462c1c3d253d292185a2a18f6d379e2ff84e513",
    "pf_energy_4_bit": "3146495d4c2343ddbd3fc3f184a88dc84a23b050276a44e1ded21a08fa3f7d23",
    "pf_energy_8_bit": "47e33dc50436e841842754542afdee4c599f4d34ca9f26db3ef8c2a9858691bc",
    "pf_trigger": "fcb701f204f788c3a0363c14d736001659a3e82203a940b65be6fe8d9c81ed39",
    "seed_finder": "356cba73a30b66807f5a4d997d1acc4ecf0c8f1257b846f3deb62a9ab8975164",
    "shower_shape": "75001f46306ef49b06fda79da08f5b0cf3fcd72b29e09add60c98c021938b006",
}
"""Of the integer networks: names and fields of operations, weights, formats, in order. Another training changes its own."""
REPORTS = sorted(path.parent for path in (ROOT / "reports").glob(f"*/{store.JSON_NAME}"))


def test_every_shipped_network_has_a_digest() -> None:
    assert sorted(DIGESTS) == sorted(path.parent.name for path in (ROOT / "models").glob("*/model.qonnx"))


@pytest.mark.parametrize("name", DIGESTS)
def test_shipped_files_give_the_same_integer_networks(name: str) -> None:
    assert read(ROOT / "models" / name / "model.qonnx").digest == DIGESTS[name]


@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: folder.name)
def test_reports_are_read_and_written_without_a_change(folder: Path) -> None:
    assert store.text(store.load(folder)) == (folder / store.JSON_NAME).read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", REPORTS, ids=lambda folder: folder.name)
def test_short_reports_are_those_of_the_results_beside_them(folder: Path) -> None:
    report = store.load(folder)
    assert (folder / store.SHORT_NAME).read_text(encoding="utf-8") == markdown(report), "caloedge report reports"
    assert {path.name for path in folder.glob("*.svg")} == {figure_name(n) for n in range(1, len(figures(report)) + 1)}
