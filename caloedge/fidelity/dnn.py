"""The CaloChallenge's classifier in torch, in its exact set-up (evaluate.py) but for float32 instead of float64.

Three hidden layers of 2048 with LeakyReLU, no dropout; Adam 2e-4, batches of 1000, 50 epochs, binary cross-entropy, inputs as
they are. Of each class 60 % train, the epoch with the best accuracy on 20 % is kept, and the AUC is that of the last 20 %.
"""

import copy
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from caloedge.fidelity.classifiers import judged_auc
from caloedge.fidelity.distances import Estimated
from caloedge.progress import progress

HIDDEN_LAYERS, HIDDEN = 3, 2048
EPOCHS, BATCH, LEARNING_RATE = 50, 1000, 2e-4
TRAINED, CHOSEN = 0.6, 0.2
"""Shares of each class that train, and on which the epoch is chosen."""

Part = tuple[Tensor, Tensor]


def network(n_inputs: int) -> nn.Sequential:
    """Return the classifier, untrained."""
    widths = [n_inputs, *[HIDDEN] * HIDDEN_LAYERS]
    hidden = [layer for pair in pairwise(widths) for layer in (nn.Linear(*pair), nn.LeakyReLU())]
    return nn.Sequential(*hidden, nn.Linear(HIDDEN, 1))


def dnn_auc(reference_NF: NDArray[Any], other_NF: NDArray[Any], name: str, seed: int = 0) -> Estimated:
    """Train once and return the AUC on the last part, with its bootstrap error; that of another training is not in it."""
    n = min(len(reference_NF), len(other_NF))
    generator = np.random.default_rng(seed)
    classes = [sample[generator.permutation(len(sample))[:n]] for sample in (reference_NF, other_NF)]
    ends = [0, int(n * TRAINED), int(n * TRAINED) + int(n * CHOSEN), n]
    trained, chosen, judged = (_part(classes, slice(*pair)) for pair in pairwise(ends))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        best = _best_epoch(network(reference_NF.shape[1]), trained, chosen, name)
    with torch.no_grad():
        scores_N = best(judged[0])[:, 0].numpy()
    return judged_auc(scores_N, judged[1].numpy())


def _part(classes: list[NDArray[Any]], rows: slice) -> Part:
    inputs = np.concatenate([sample[rows] for sample in classes]).astype(np.float32)
    labels = np.repeat(np.array([0, 1], np.float32), [len(sample[rows]) for sample in classes])
    return torch.from_numpy(inputs), torch.from_numpy(labels)


def _best_epoch(classifier: nn.Sequential, trained: Part, chosen: Part, name: str) -> nn.Sequential:
    optimiser = torch.optim.Adam(classifier.parameters(), LEARNING_RATE)
    loss_of = nn.BCEWithLogitsLoss()
    best, highest = classifier, -1.0
    with progress(f"training the DNN on {name}", EPOCHS, 0) as advance:
        for _ in range(EPOCHS):
            for rows in torch.split(torch.randperm(len(trained[0])), BATCH):
                loss = loss_of(classifier(trained[0][rows])[:, 0], trained[1][rows])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            with torch.no_grad():
                accuracy = float(((classifier(chosen[0])[:, 0] > 0) == (chosen[1] > 0.5)).float().mean())
            if accuracy > highest:
                best, highest = copy.deepcopy(classifier), accuracy
            advance(1)
            if accuracy == 1:
                break
    return best
