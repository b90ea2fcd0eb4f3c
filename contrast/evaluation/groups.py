"""LiDAR, alignment and uniformity of an encoder on the groups of a dataset.

    names = ("lidar", "alignment", "uniformity")
    held = load_groups("datasets/demo", image_size=32, trained_on=record.trained_on, names=names)
    score = score_groups(held, encode, config.augment, names=names)

The last groups of the dataset are taken: a run that was trained on a prefix has not seen them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy import ndarray

from contrast.augment import AugmentConfig, augment, draw_augmentation
from contrast.evaluation.geometry import alignment, lidar, uniformity
from contrast.evaluation.overlap import doubt_encoder, num_groups_seen
from contrast.evaluation.results import ROW_TITLES, GroupScore, GroupScores
from contrast.images import LabelledImages
from contrast.trained_on import TrainedOn
from shards.dataset import GroupDataset

NUM_GROUPS = 2000
"""At most."""
FREEDOM_PER_DIMENSION = 3
"""LiDAR wants at least so many images beside their group's first per dimension of the features: with fewer the
within-group covariance is not known, and the score follows the number of groups."""
AUGMENT_SEED = 0

Encode = Callable[[LabelledImages], ndarray]
"""Images to features, float32 [N, dim]."""


@dataclass(frozen=True, kw_only=True)
class HeldGroups:
    """Consecutive groups, decoded."""

    dataset: str
    recipe_id: str
    first: int
    images: ndarray
    """uint8 [groups, K, H, W, 3]: the anchor, then the views."""
    labels: ndarray
    """int64 [groups]; -1 without classes."""
    notes: tuple[str, ...]

    def record(self, scores: dict[str, GroupScore], *, notes: Iterable[str]) -> GroupScores:
        """What evaluate.json says of these groups, from the scores by row."""
        return GroupScores(
            dataset=self.dataset,
            recipe_id=self.recipe_id,
            first=self.first,
            num_groups=self.images.shape[0],
            num_images=self.images.shape[1],
            notes=(*self.notes, *doubt_lidar(self, scores), *notes),
            scores=scores,
        )


def load_groups(directory: str | Path, *, image_size: int, trained_on: TrainedOn, names: Collection[str]) -> HeldGroups:
    """The last groups of a dataset, 2,000 at most, for the scores `names`.

    Raises:
        ValueError: there is no dataset, its images are of another size than the encoder's, or LiDAR is asked of groups
            of one image.
        DamageError: an image does not decode.
    """
    dataset = GroupDataset(directory)
    if dataset.image_size != image_size:
        raise ValueError(
            f"--groups {directory}: its images have {dataset.image_size} px, the encoder was trained on {image_size} px"
        )
    if len(dataset) < 2:
        raise ValueError(f"--groups {directory}: it holds 1 group; two or more are compared with each other")
    if "lidar" in names and dataset.num_images < 2:  # told before the work, not after it
        raise ValueError(
            f"--groups {directory}: its groups have one image, and LiDAR compares images within groups: give a dataset "
            "with views, or leave lidar out of --scores"
        )
    first = max(0, len(dataset) - NUM_GROUPS)
    images, labels = dataset.batch(range(first, len(dataset)))
    seen = num_groups_seen(trained_on, dataset) - first
    up_to = "up to " if dataset.manifest.recipe.is_real else ""
    seen_notes = (f"the encoder was trained on {up_to}{seen} of these {len(images)} groups",) if seen > 0 else ()
    notes = (*seen_notes, *doubt_encoder(trained_on, dataset))
    return HeldGroups(
        dataset=str(directory),
        recipe_id=dataset.manifest.recipe.id,
        first=first,
        images=images,
        labels=labels,
        notes=notes,
    )


def score_groups(
    groups: HeldGroups, encode: Encode, augment_config: AugmentConfig, *, names: Collection[str]
) -> GroupScore:
    """Those of lidar, alignment and uniformity that are among `names`.

    Alignment is given for every kind of positives that the groups have: tx, two augmented copies of an anchor, by the
    run's own augmentation and the same draws for every encoder; tz, the anchor and each of its views; class, two
    anchors of a class.
    """
    num_groups, num_images = groups.images.shape[:2]
    features = encode(_as_images(groups.images.reshape(-1, *groups.images.shape[2:])))
    by_group = features.reshape(num_groups, num_images, -1)
    anchors = by_group[:, 0]
    distances: dict[str, float] | None = None
    if "alignment" in names:
        copies = encode(_as_images(_augmented_pairs(groups.images[:, 0], augment_config)))
        distances = {"tx": round(alignment(copies[0::2], copies[1::2]), 4)}
        if num_images > 1:
            views = by_group[:, 1:].reshape(num_groups * (num_images - 1), -1)
            distances["tz"] = round(alignment(np.repeat(anchors, num_images - 1, axis=0), views), 4)
        first, second = pair_within_classes(groups.labels)
        if len(first):
            distances["class"] = round(alignment(anchors[first], anchors[second]), 4)
    return GroupScore(
        lidar=round(lidar(by_group), 2) if "lidar" in names else None,
        alignment=distances,
        uniformity=round(uniformity(anchors), 4) if "uniformity" in names else None,
        feature_dim=by_group.shape[2],
    )


def doubt_lidar(groups: HeldGroups, scores: Mapping[str, GroupScore]) -> tuple[str, ...]:
    """A note where some features have too many dimensions for the groups."""
    num_groups, num_images = groups.images.shape[:2]
    freedom = num_groups * (num_images - 1)
    wide = [
        f"{ROW_TITLES[row]} ({score.feature_dim})"
        for row, score in scores.items()
        if score.lidar is not None and (score.feature_dim or 0) * FREEDOM_PER_DIMENSION > freedom
    ]
    if not wide:
        return ()
    return (
        f"LiDAR of {', '.join(wide)}: many dimensions for {num_groups} groups of {num_images}, so it compares only "
        "with features as wide on as many groups",
    )


def pair_within_classes(labels: ndarray) -> tuple[ndarray, ndarray]:
    """Rows that share a class, int64 [pairs] twice: first and second of it, third and fourth, and so on."""
    order = np.argsort(labels, kind="stable")
    order = order[labels[order] >= 0]
    firsts, seconds = [], []
    for label in np.unique(labels[order]):
        rows = order[labels[order] == label]
        rows = rows[: len(rows) // 2 * 2]
        firsts.append(rows[0::2])
        seconds.append(rows[1::2])
    if not firsts:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(firsts), np.concatenate(seconds)


def _augmented_pairs(anchors: ndarray, config: AugmentConfig) -> ndarray:
    """uint8 [2 * groups, H, W, 3]: two augmented copies of each anchor, side by side."""
    draws = draw_augmentation(config, count=2 * len(anchors), seed=AUGMENT_SEED, step=0)
    images = augment(torch.from_numpy(np.repeat(anchors, 2, axis=0)), draws)
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()


def _as_images(pixels: ndarray) -> LabelledImages:
    return LabelledImages(
        name="groups",
        pixels=pixels,
        labels=np.zeros(len(pixels), np.int64),
        class_names=("",),
        is_real=False,
    )
