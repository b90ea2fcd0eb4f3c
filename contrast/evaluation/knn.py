"""k nearest neighbours: the score without anything to tune.

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
_BATCH_SIZE = 1000
_MOST_SIMILARITIES = 2**28
"""Between a batch and the training rows: 1 GiB."""


def knn_accuracies(
    train_features: ndarray,
    train_labels: ndarray,
    test_features: ndarray,
    test_labels: ndarray,
    *,
    ks: Sequence[int] = DEFAULT_KS,
    device: torch.device | None = None,
) -> dict[int, float]:
    """By k, the share in [0, 1] of test rows whose class wins the vote of the k nearest training rows by cosine.

    Every neighbour has one vote; of classes with equally many the smallest label wins, as in scikit-learn.

    Args:
        device: where the neighbours are searched for, once for all k; the CPU when None.

    Raises:
        ValueError: there are fewer training rows than the largest k.
    """
    predicted = knn_predict(train_features, train_labels, test_features, ks=ks, device=device)
    return {k: float((labels == test_labels).mean()) for k, labels in predicted.items()}


def check_neighbours(ks: Sequence[int], *, num_train: int) -> None:
    """Raises ValueError when there are fewer training images than neighbours."""
    if num_train < max(ks):
        raise ValueError(f"k = {max(ks)} neighbours of {num_train} training images: use a smaller --k or more images")


def knn_predict(
    train_features: ndarray,
    train_labels: ndarray,
    test_features: ndarray,
    *,
    ks: Sequence[int],
    device: torch.device | None = None,
) -> dict[int, ndarray]:
    """Predicted labels by k, int64 [num_test]; arguments as of `knn_accuracies`."""
    check_neighbours(ks, num_train=len(train_features))
    num_classes = int(train_labels.max()) + 1
    candidates = F.normalize(torch.from_numpy(train_features).to(device=device, dtype=torch.float32), dim=1)
    labels = torch.from_numpy(train_labels).to(device=device)
    predicted = {k: np.empty(len(test_features), dtype=np.int64) for k in ks}
    batch_size = max(1, min(_BATCH_SIZE, _MOST_SIMILARITIES // len(candidates)))
    for first in range(0, len(test_features), batch_size):
        rows = slice(first, first + batch_size)
        queries = F.normalize(torch.from_numpy(test_features[rows]).to(device=device, dtype=torch.float32), dim=1)
        neighbours = labels[(queries @ candidates.T).topk(max(ks), dim=1).indices]  # [b, largest k], nearest first
        for k in ks:
            votes = torch.zeros(len(queries), num_classes, dtype=torch.int64, device=device)
            votes.scatter_add_(1, neighbours[:, :k], torch.ones_like(neighbours[:, :k]))
            predicted[k][rows] = votes.cpu().numpy().argmax(axis=1)  # numpy's argmax takes the first of equals
    return predicted
