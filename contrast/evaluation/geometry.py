"""Scores that need no labels, or none to fit anything: how features fill their space, and what lies close together.

rankme(features)                                  # features [N, dim]: between 1 and dim
lidar(group_features)                             # [groups, images, dim]: between 1 and dim
alignment(first, second), uniformity(features)    # [pairs, dim] twice, [N, dim]; lower is better
"""

from __future__ import annotations

import numpy as np
import torch
from numpy import ndarray

RANKME_EPSILON = 1e-7
RANKME_IMAGES = 25_600
"""At most so many: as many as the paper takes, and it finds that more change nothing."""
LIDAR_EPSILON = 1e-7
LIDAR_DELTA = 1e-4
"""Added to the diagonal of the within-group covariance."""
UNIFORMITY_T = 2.0
ALIGNMENT_ALPHA = 2.0
BATCH_SIZE = 1000


def rankme(features: ndarray) -> float:
    """Effective rank of a feature matrix [N, dim]: exp of the entropy of its normalised singular values.

    Garrido, Balestriero, Najman and LeCun 2023, "RankMe", equation 1: p_k = s_k / |s|_1 + epsilon. Not centred, as
    there. No labels are used. Depends on N where N is not many times dim, so compare equal N only. Of more than
    RANKME_IMAGES rows, so many are taken, evenly: images of a folder lie class by class.
    """
    spread = np.linspace(0, len(features) - 1, min(len(features), RANKME_IMAGES)).round().astype(np.int64)
    values = torch.linalg.svdvals(torch.from_numpy(features[spread]).double()).numpy()
    total = values.sum()
    return _exponential_of_entropy(values / total + RANKME_EPSILON) if total > 0 else 1.0


def lidar(group_features: ndarray) -> float:
    """Effective rank of the discriminant matrix of groups, [groups, images of a group, dim].

    Thilak et al. 2024, "LiDAR", section 4: with the between-group covariance B and the within-group covariance
    W + 1e-4 I, exp of the entropy of the normalised eigenvalues of W^-1/2 B W^-1/2. A feature counts when it tells
    groups apart, measured in units of how much it varies inside a group.

    Raises:
        ValueError: there are fewer than two groups, or groups of one image.
    """
    import scipy.linalg

    num_groups, num_images, dim = group_features.shape
    if num_groups < 2 or num_images < 2:
        raise ValueError(
            f"LiDAR compares images within groups and groups with each other: {num_groups} groups of {num_images} "
            "images are too few; give --groups a dataset with views"
        )
    features = group_features.astype(np.float64)
    means = features.mean(axis=1)  # [groups, dim]
    centred = means - means.mean(axis=0)
    between = centred.T @ centred / (num_groups - 1)
    inner = (features - means[:, None]).reshape(-1, dim)
    within = inner.T @ inner / (num_groups * (num_images - 1)) + LIDAR_DELTA * np.eye(dim)
    # The eigenvalues of W^-1/2 B W^-1/2 are those of the pencil (B, W).
    values = scipy.linalg.eigh(between, within, eigvals_only=True).clip(min=0)
    total = values.sum()
    return _exponential_of_entropy(values / total + LIDAR_EPSILON) if total > 0 else 1.0


def alignment(first: ndarray, second: ndarray) -> float:
    """Mean squared distance of positives, both [pairs, dim], on the unit sphere: from 0 to 4, lower is closer.

    Wang and Isola 2020, "Understanding contrastive representation learning", section 4.1, with alpha = 2.
    """
    distances = np.linalg.norm(_unit(first) - _unit(second), axis=1)
    return float((distances**ALIGNMENT_ALPHA).mean())


def uniformity(features: ndarray) -> float:
    """log of the mean over all pairs of exp(-2 |x - y|^2), [N, dim] on the unit sphere; lower is better.

    Wang and Isola 2020, section 4.1, with t = 2. From -4 N / (N - 1), all points equally far apart, to 0, total
    collapse. More points than dim + 1 cannot be that far apart: points spread evenly come to about -4 in many
    dimensions and stay above it in few (-1.6 on a circle).
    """
    points = torch.from_numpy(_unit(features))
    total = 0.0
    for first in range(0, len(points), BATCH_SIZE):
        rows = points[first : first + BATCH_SIZE]
        kernel = torch.exp(-UNIFORMITY_T * (2 - 2 * rows @ points.T).clamp_(min=0))
        kernel[torch.arange(len(rows)), torch.arange(first, first + len(rows))] = 0  # no image with itself
        total += float(kernel.sum())
    return float(np.log(total / (len(points) * (len(points) - 1))))


def _unit(features: ndarray) -> ndarray:
    lengths = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    return features / np.maximum(lengths, 1e-12)


def _exponential_of_entropy(shares: ndarray) -> float:
    return float(np.exp(-(shares * np.log(shares)).sum()))
