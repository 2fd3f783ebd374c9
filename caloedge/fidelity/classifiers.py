"""How well trees tell generated showers from those of the reference: the area under the ROC curve (AUC), 0.5 for not at all."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloedge.fidelity.distances import Estimated
from caloedge.metrics import bootstrap

FOLDS = 5
TREES = 100
LEARNING_RATE = 0.1


def trees_auc(reference_NF: NDArray[Any], other_NF: NDArray[Any], seed: int = 0) -> Estimated:
    """Return the mean AUC of histogram-gradient-boosted trees over folds: every shower is judged by trees that did not see it.

    Folds are not pooled, since the scores of different trees are not on one scale. The error is the larger of the folds' own
    bootstrap errors and of the spread between folds. AUC grows with the size of the samples: it says little without that size.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.model_selection import StratifiedKFold

    features = np.concatenate([reference_NF, other_NF])
    labels = np.repeat([0, 1], [len(reference_NF), len(other_NF)])
    values, errors = [], []
    for trained, judged in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(features, labels):
        trees = HistGradientBoostingClassifier(
            max_iter=TREES, learning_rate=LEARNING_RATE, early_stopping=False, random_state=seed
        )
        scores = trees.fit(features[trained], labels[trained]).predict_proba(features[judged])[:, 1]
        fold = judged_auc(scores, labels[judged])
        values.append(fold.value)
        errors.append(fold.uncertainty)
    between = np.std(values, ddof=1) / np.sqrt(FOLDS)
    within = np.sqrt(np.square(errors).sum()) / FOLDS
    return Estimated(float(np.mean(values)), float(max(between, within)))


def judged_auc(scores_N: NDArray[Any], labels_N: NDArray[Any]) -> Estimated:
    """Return the AUC of scores with its bootstrap error."""
    weights_RN = bootstrap.bootstrap_weights(len(scores_N), seed=3)
    error = bootstrap.auc_uncertainty(scores_N, labels_N, np.arange(len(scores_N)), weights_RN)
    return Estimated(bootstrap.auc(scores_N, labels_N), error)
