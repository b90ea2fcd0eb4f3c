"""Labelled images: balanced parts, and labels that mean the same on both sides."""

from __future__ import annotations

import numpy as np
import pytest

from contrast.images import LabelledImages, align_classes
from shards.pictures import rank_within_class


def labelled(labels: list[int], class_names: tuple[str, ...], name: str = "some") -> LabelledImages:
    pixels = np.zeros((len(labels), 2, 2, 3), dtype=np.uint8)
    pixels[:, 0, 0, 0] = np.arange(len(labels))
    return LabelledImages(name=name, pixels=pixels, labels=np.array(labels), class_names=class_names, is_real=True)


def test_rank_within_class() -> None:
    assert rank_within_class(np.array([2, 0, 2, 2, 1, 0])).tolist() == [0, 0, 1, 2, 0, 1]
    assert rank_within_class(np.array([], dtype=np.int64)).tolist() == []


def test_a_part_is_balanced_even_where_the_images_are_sorted_by_class() -> None:
    images = labelled([0] * 50 + [1] * 30 + [2] * 5, ("a", "b", "c"))
    part = images.first_of_each_class(12)
    assert np.bincount(part.labels).tolist() == [4, 4, 4]
    assert part.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 50, 51, 52, 53, 80, 81, 82, 83]
    assert np.bincount(images.first_of_each_class(40).labels).tolist() == [18, 17, 5]
    with pytest.raises(ValueError, match="--num-train 86: some holds 85 images"):
        images.first_of_each_class(86)


def test_classes_are_matched_by_name_not_by_number() -> None:
    train = labelled([0, 1, 2, 0], ("truck", "cat", "dog"))
    test = labelled([0, 1, 2, 2], ("cat", "dog", "truck"))
    train, test, note = align_classes(train, test)
    assert note is None
    assert [train.class_names[label] for label in train.labels] == ["truck", "cat", "dog", "truck"]
    assert [test.class_names[label] for label in test.labels] == ["cat", "dog", "truck", "truck"]
    assert train.class_names == test.class_names


def test_a_subset_of_the_classes_is_scored_on_that_subset_and_said_so() -> None:
    train = labelled([0, 1, 0, 1], ("ship", "bird"))
    test = labelled([0, 1, 2, 3], ("airplane", "bird", "cat", "ship"))
    train, test, note = align_classes(train, test)
    assert note == "scored on the 2 of 4 test classes that the training labels have"
    assert [test.class_names[label] for label in test.labels] == ["bird", "ship"]
    assert test.pixels[:, 0, 0, 0].tolist() == [1, 3]
    assert [train.class_names[label] for label in train.labels] == ["ship", "bird", "ship", "bird"]


def test_a_class_name_without_images_does_not_count() -> None:
    train = labelled([0, 1], ("a", "b", "c"))
    test = labelled([0, 1, 2], ("a", "b", "c"))
    _, aligned, note = align_classes(train, test)
    assert aligned.class_names == ("a", "b") and note is not None


def test_sources_without_common_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="share 0 classes by name"):
        align_classes(labelled([0, 1], ("a", "b")), labelled([0, 1], ("c", "d")))
