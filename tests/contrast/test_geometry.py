"""RankMe, LiDAR, alignment and uniformity: closed forms on known spectra, loops over all pairs, and of which groups."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from contrast.augment import AugmentConfig
from contrast.evaluation.features import pixel_features
from contrast.evaluation.geometry import alignment, lidar, rankme, uniformity
from contrast.evaluation.groups import HeldGroups, load_groups, pair_within_classes, score_groups
from contrast.trained_on import SeenGroups, TrainedOn
from shards.dataset import GroupDataset


def with_spectrum(values: np.ndarray, rows: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    left, _ = np.linalg.qr(rng.normal(size=(rows, len(values))))
    right, _ = np.linalg.qr(rng.normal(size=(len(values), len(values))))
    return left @ np.diag(values) @ right


@pytest.mark.parametrize("rank", [1, 3, 20])
def test_rankme_of_equal_singular_values_is_their_number(rank: int) -> None:
    values = np.array([2.0] * rank + [0.0] * (20 - rank))
    assert rankme(with_spectrum(values, 300)) == pytest.approx(rank, rel=1e-3)


def test_rankme_of_a_known_spectrum() -> None:
    # Shares 1/2, 1/4, 1/4: the entropy is 1.5 log 2. The epsilon adds less than 1e-5.
    assert rankme(with_spectrum(np.array([4.0, 2.0, 2.0, 0.0]), 50)) == pytest.approx(2**1.5, rel=1e-4)
    assert rankme(np.zeros((5, 3), np.float32)) == 1.0


def test_of_many_images_rankme_takes_some_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contrast.evaluation.geometry.RANKME_IMAGES", 10)
    assert rankme(np.repeat(np.eye(2), 50, axis=0)) == pytest.approx(2, rel=1e-3)


def test_lidar_equals_its_definition_written_out() -> None:
    rng = np.random.default_rng(1)
    groups = rng.normal(size=(40, 1, 6)) * np.arange(1, 7) + rng.normal(size=(40, 3, 6))
    means = [group.mean(axis=0) for group in groups]
    overall = np.mean(means, axis=0)
    between = sum(np.outer(m - overall, m - overall) for m in means) / 39
    within = sum(np.outer(x - m, x - m) for group, m in zip(groups, means, strict=True) for x in group) / (40 * 2)
    values, vectors = np.linalg.eigh(within + 1e-4 * np.eye(6))
    whitening = vectors @ np.diag(values**-0.5) @ vectors.T
    spectrum = np.linalg.eigvalsh(whitening @ between @ whitening)
    shares = spectrum / spectrum.sum() + 1e-7
    assert lidar(groups.astype(np.float64)) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)))


def test_lidar_counts_what_tells_groups_apart_and_not_what_varies_inside_them() -> None:
    rng = np.random.default_rng(2)
    telling = np.repeat(rng.normal(size=(400, 1, 8)), 2, axis=1)
    noise = rng.normal(size=(400, 2, 24))
    groups = np.concatenate([telling, 10 * noise], axis=2)  # loud dimensions without meaning
    assert rankme(groups.reshape(800, -1)) > 20  # the plain rank takes them for information
    assert 7 < lidar(groups + 1e-3 * rng.normal(size=groups.shape)) < 9
    with pytest.raises(ValueError, match="400 groups of 1 images are too few; give --groups a dataset with views"):
        lidar(groups[:, :1])


def test_alignment_and_uniformity_equal_loops_over_pairs() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(size=(2, 1205, 5)).astype(np.float32)
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (first, second)]
    loop = [float(((a - b) ** 2).sum()) for a, b in zip(*unit, strict=True)]
    assert alignment(first, second) == pytest.approx(np.mean(loop), rel=1e-5)
    few = unit[0][:60]
    pairs = [math.exp(-2 * float(((few[i] - few[j]) ** 2).sum())) for i in range(60) for j in range(60) if i != j]
    assert uniformity(first[:60]) == pytest.approx(math.log(np.mean(pairs)), rel=1e-5)
    by_blocks = unit[0].astype(np.float64)  # more rows than a block of the implementation
    kernel = np.exp(-2 * ((by_blocks[:, None] - by_blocks[None]) ** 2).sum(axis=2))
    np.fill_diagonal(kernel, 0)
    assert uniformity(first) == pytest.approx(math.log(kernel.sum() / (1205 * 1204)), rel=1e-6)


def test_the_ends_of_both_scales() -> None:
    same = np.tile([[3.0, 4.0]], (5, 1))
    assert alignment(same, 7 * same) == pytest.approx(0) and alignment(same, -same) == pytest.approx(4)
    assert uniformity(same) == pytest.approx(0)
    corners = np.array([[1.0, 0], [-1, 0]])
    assert uniformity(corners) == pytest.approx(-8)  # two points, as far apart as can be: -2 * 2^2
    simplex = np.eye(9) - 1 / 9  # nine points, as far apart as can be
    assert uniformity(simplex) == pytest.approx(-4 * 9 / 8)
    assert uniformity(np.random.default_rng(0).normal(size=(9, 8))) > -4 * 9 / 8
    angles = 2 * np.pi * np.arange(2000) / 2000
    assert uniformity(np.stack([np.cos(angles), np.sin(angles)], axis=1)) == pytest.approx(-1.6, abs=0.05)


def test_pairs_share_a_class_and_no_image_is_in_two() -> None:
    labels = np.array([2, -1, 0, 2, 2, 0, -1, 2, 1])
    first, second = pair_within_classes(labels)
    assert labels[first].tolist() == labels[second].tolist() == [0, 2, 2]
    assert len({*first.tolist(), *second.tolist()}) == 6
    assert len(pair_within_classes(np.array([-1, -1]))[0]) == 0


def test_scores_of_groups_are_those_of_their_anchors_views_and_classes() -> None:
    images = np.random.default_rng(0).integers(0, 256, (6, 3, 8, 8, 3), dtype=np.uint8)
    held = HeldGroups(
        dataset="noise", recipe_id="", first=0, images=images, labels=np.array([0, 1, 0, 1, 1, -1]), notes=()
    )
    still = AugmentConfig(crop_scale=(1, 1), crop_ratio=(1, 1), flip=0, jitter=0, gray=0)
    names = ("lidar", "alignment", "uniformity")
    score = score_groups(held, lambda given: pixel_features(given.pixels), still, names=names)
    features = pixel_features(images.reshape(18, 8, 8, 3)).reshape(6, 3, -1)
    anchors = features[:, 0]
    tz = [alignment(anchors[group, None], features[group, view, None]) for group in range(6) for view in (1, 2)]
    classes = [alignment(anchors[one, None], anchors[other, None]) for one, other in ((0, 2), (1, 3))]
    expected = {"tx": 0.0, "tz": np.mean(tz), "class": np.mean(classes)}
    assert score.alignment == pytest.approx(expected, abs=1e-4)
    assert score.uniformity == pytest.approx(uniformity(anchors), abs=1e-4)
    assert score.lidar == pytest.approx(lidar(features), abs=0.01)


def test_the_last_groups_of_a_dataset_are_taken(groups: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("contrast.evaluation.groups.NUM_GROUPS", 10)
    dataset = GroupDataset(groups)
    seen = TrainedOn(groups=SeenGroups(recipe=dataset.manifest.recipe, num_groups=90), class_names={})
    held = load_groups(groups, image_size=16, trained_on=seen, names=("uniformity",))
    assert held.first == 86 and np.array_equal(held.images, dataset.batch(range(86, 96))[0])
    assert held.notes == ("the encoder was trained on 4 of these 10 groups",)
