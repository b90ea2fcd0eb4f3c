"""k nearest neighbours: the score without anything to tune.

accuracy = knn_accuracy(train_features, train_labels, test_features, test_labels, k=10)
accuracies = knn_accuracies(train_features, train_labels, test_features, test_labels, ks=(1, 10, 200))
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray

NUM_NEIGHBOURS = 10
"""The k of a table that has room for one."""
DEFAULT_KS = (1, 10, 20, 200)
BATCH_SIZE = 1000


def knn_accuracy(
    train_features: ndarray,
    train_labels: ndarray,
    test_features: ndarray,
    test_labels: ndarray,
    *,
    k: int = NUM_NEIGHBOURS,
) -> float:
    """Share in [0, 1] of test rows whose class wins the vote of the k training rows of highest cosine similarity.

    Every neighbour has one vote; of classes with equally many the smallest label wins, as in scikit-learn.

    Raises:
        ValueError: there are fewer than k training rows.
    """
    return knn_accuracies(train_features, train_labels, test_features, test_labels, ks=(k,))[k]


def knn_accuracies(
    train_features: ndarray,
    train_labels: ndarray,
    test_features: ndarray,
    test_labels: ndarray,
    *,
    ks: Sequence[int] = DEFAULT_KS,
) -> dict[int, float]:
    """As `knn_accuracy`, by k, from one search for neighbours."""
    predicted = _predict(train_features, train_labels, test_features, ks=ks)
    return {k: float((labels == test_labels).mean()) for k, labels in predicted.items()}


def knn_predict(train_features: ndarray, train_labels: ndarray, test_features: ndarray, *, k: int) -> ndarray:
    """Predicted labels, int64 [num_test]."""
    return _predict(train_features, train_labels, test_features, ks=(k,))[k]


def check_neighbours(ks: Sequence[int], *, num_train: int) -> None:
    """Raises ValueError when there are fewer training images than neighbours."""
    if num_train < max(ks):
        raise ValueError(f"k = {max(ks)} neighbours of {num_train} training images: use a smaller --k or more images")


def _predict(
    train_features: ndarray, train_labels: ndarray, test_features: ndarray, *, ks: Sequence[int]
) -> dict[int, ndarray]:
    check_neighbours(ks, num_train=len(train_features))
    num_classes = int(train_labels.max()) + 1
    candidates = F.normalize(torch.from_numpy(train_features).float(), dim=1)
    labels = torch.from_numpy(train_labels)
    predicted = {k: np.empty(len(test_features), dtype=np.int64) for k in ks}
    for first in range(0, len(test_features), BATCH_SIZE):
        queries = F.normalize(torch.from_numpy(test_features[first : first + BATCH_SIZE]).float(), dim=1)
        neighbours = labels[(queries @ candidates.T).topk(max(ks), dim=1).indices]  # [b, largest k], nearest first
        for k in ks:
            votes = torch.zeros(len(queries), num_classes, dtype=torch.int64)
            votes.scatter_add_(1, neighbours[:, :k], torch.ones_like(neighbours[:, :k]))
            # numpy's argmax takes the first of equals
            predicted[k][first : first + BATCH_SIZE] = votes.numpy().argmax(axis=1)
    return predicted
