"""A few random files through every executor; `python tests/support/every_executor.py 300` does many."""

import pytest
from every_executor import equal, prove

pytest.importorskip("qonnx")


@pytest.mark.exhaustive
def test_random_files_are_exact_in_every_executor() -> None:
    ran, wrong = prove(range(1000, 1016), firmware=1)
    assert wrong == []
    assert ran["refused"] <= 4
    assert ran["emulator native"] == ran["QONNX executor"] == 16 - ran["refused"]


def test_another_code_name_or_order_is_a_difference() -> None:
    import numpy as np

    a, b = np.arange(3), np.arange(3)
    assert equal({"a": a, "b": b}, {"a": a.copy(), "b": b.copy()})
    assert not equal({"a": a, "b": b}, {"b": b, "a": a})
    assert not equal({"a": a}, {"a": a + 1})
    assert not equal({"a": a}, {"a": a[:2]})
