"""Few-shot accuracy: what a handful of labelled images per class is worth, over many draws of that handful.

scores = few_shot_accuracies(train_features, train_labels, test_features, test_labels, shots=(1, 5, 10))
scores[5].mean, scores[5].interval
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy import ndarray

from shards.randomness import random_words

DEFAULT_SHOTS = (1, 5, 10)
NUM_DRAWS = 200
BATCH_SIZE = 2000


@dataclass(frozen=True, kw_only=True)
class FewShot:
    """Accuracy over the draws, share in [0, 1]."""

    mean: float
    interval: float
    """Half the width of the mean's 95 % confidence interval (Student's t over the draws)."""


def few_shot_accuracies(
    train_features: ndarray,
    train_labels: ndarray,
    test_features: ndarray,
    test_labels: ndarray,
    *,
    shots: Sequence[int] = DEFAULT_SHOTS,
    num_draws: int = NUM_DRAWS,
    device: torch.device | None = None,
) -> dict[int, FewShot]:
    """By number of images per class: the nearest class mean among features of unit length, on all test images.

    A test image goes to the class whose mean of unit-length features has the highest cosine similarity (prototypes, as
    in Snell et al. 2017, with the cosine). Nothing is tuned, so there is nothing to pick. Draws are from the training
    images, without repetition within a draw, and are the same for every encoder: rows compare draw by draw.

    Args:
        device: where it is worked out; the CPU when None.

    Raises:
        ValueError: a class has fewer training images than a draw needs.
    """
    from scipy.stats import t

    check_shots(train_labels, shots=shots)
    queries = F.normalize(torch.from_numpy(test_features).to(device=device, dtype=torch.float32), dim=1)
    candidates = F.normalize(torch.from_numpy(train_features).to(device=device, dtype=torch.float32), dim=1)
    wanted = torch.from_numpy(test_labels).to(device=device)
    scores = {}
    for count in shots:
        accuracies = np.empty(num_draws)
        for draw in range(num_draws):
            rows = torch.from_numpy(draw_shots(train_labels, count=count, draw=draw))  # [classes, count]
            means = F.normalize(candidates[rows.to(device=device)].mean(dim=1), dim=1)
            right = sum(
                int(((queries[i : i + BATCH_SIZE] @ means.T).argmax(dim=1) == wanted[i : i + BATCH_SIZE]).sum())
                for i in range(0, len(queries), BATCH_SIZE)
            )
            accuracies[draw] = right / len(queries)
        error = accuracies.std(ddof=1) / math.sqrt(num_draws)
        scores[count] = FewShot(mean=float(accuracies.mean()), interval=float(t.ppf(0.975, num_draws - 1) * error))
    return scores


def check_shots(labels: ndarray, *, shots: Sequence[int] = DEFAULT_SHOTS) -> None:
    """Raises ValueError when a class has fewer training images than a draw needs."""
    fewest = int(np.bincount(labels).min())
    if fewest < max(shots):
        raise ValueError(f"{max(shots)} shots of a class that has {fewest} training images: raise --num-train")


def draw_shots(labels: ndarray, *, count: int, draw: int) -> ndarray:
    """Rows of a draw, int64 [classes, count]; a function of the arguments, and of no library's version."""
    order = np.lexsort((random_words(f"shots/{count}/{draw}", len(labels)), labels))
    firsts = np.searchsorted(labels[order], np.arange(int(labels.max()) + 1))
    return order[firsts[:, None] + np.arange(count)]
