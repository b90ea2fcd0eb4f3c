"""k nearest neighbours: the score without anything to tune.

accuracy = knn_accuracy(train_features, train_labels, test_features, test_labels, k=10)
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray

NUM_NEIGHBOURS = 10
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
    predicted = knn_predict(train_features, train_labels, test_features, k=k)
    return float((predicted == test_labels).mean())


def knn_predict(train_features: ndarray, train_labels: ndarray, test_features: ndarray, *, k: int) -> ndarray:
    """Predicted labels, int64 [num_test]."""
    if len(train_features) < k:
        raise ValueError(
            f"k = {k} neighbours of {len(train_features)} training images: use a smaller --k or more images"
        )
    num_classes = int(train_labels.max()) + 1
    candidates = F.normalize(torch.from_numpy(train_features).float(), dim=1)
    labels = torch.from_numpy(train_labels)
    predicted = np.empty(len(test_features), dtype=np.int64)
    for first in range(0, len(test_features), BATCH_SIZE):
        queries = F.normalize(torch.from_numpy(test_features[first : first + BATCH_SIZE]).float(), dim=1)
        neighbours = (queries @ candidates.T).topk(k, dim=1).indices  # [b, k]
        votes = F.one_hot(labels[neighbours], num_classes).sum(dim=1)  # [b, num_classes]
        predicted[first : first + BATCH_SIZE] = votes.numpy().argmax(axis=1)  # numpy's takes the first of equals
    return predicted
