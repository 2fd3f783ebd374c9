"""The published classifier: its size, and that a small one of its kind learns what is to be learnt and nothing else."""

import numpy as np
import pytest
from optional_packages import need


def test_it_has_the_published_size() -> None:
    need("torch")
    import torch

    from caloedge.fidelity.dnn import network

    with torch.device("meta"):  # counted without being made
        sizes = {n: sum(p.numel() for p in network(n).parameters()) for n in (362, 6481)}
    assert sizes == {362: 362 * 2048 + 2 * 2048**2 + 4 * 2048 + 1, 6481: 21_669_889}


def test_it_tells_apart_what_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    need("torch")
    from caloedge.fidelity import dnn

    for name, value in (("HIDDEN", 32), ("EPOCHS", 15), ("BATCH", 50), ("LEARNING_RATE", 3e-3)):
        monkeypatch.setattr(dnn, name, value)
    generator = np.random.default_rng(9)
    x, y = generator.standard_normal((2, 300, 4))
    same, other = dnn.dnn_auc(x, y, "equal samples"), dnn.dnn_auc(x, y * 2.5, "wider samples")
    assert abs(same.value - 0.5) < 3.5 * same.uncertainty
    assert other.value > 0.75
    assert dnn.dnn_auc(x, y * 2.5, "again") == other
