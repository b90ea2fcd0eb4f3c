"""Labelled images: balanced parts, labels that mean the same on both sides, and what a test on them holds."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from contrast.evaluation.geometry import rankme
from contrast.evaluation.labelled import LabelledTest
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
    train, test, notes = align_classes(train, test)
    assert notes == ()
    assert [train.class_names[label] for label in train.labels] == ["truck", "cat", "dog", "truck"]
    assert [test.class_names[label] for label in test.labels] == ["cat", "dog", "truck", "truck"]
    assert train.class_names == test.class_names


def test_a_subset_of_the_classes_is_scored_on_that_subset_and_said_so() -> None:
    train = labelled([0, 1, 0, 1], ("ship", "bird"))
    test = labelled([0, 1, 2, 3], ("airplane", "bird", "cat", "ship"))
    train, test, notes = align_classes(train, test)
    assert notes == ("scored on the 2 of 4 test classes that the training labels have",)
    assert [test.class_names[label] for label in test.labels] == ["bird", "ship"]
    assert test.pixels[:, 0, 0, 0].tolist() == [1, 3]
    assert [train.class_names[label] for label in train.labels] == ["ship", "bird", "ship", "bird"]


def test_a_class_name_without_images_does_not_count() -> None:
    train = labelled([0, 1], ("a", "b", "c"))
    test = labelled([0, 1, 2], ("a", "b", "c"))
    _, aligned, notes = align_classes(train, test)
    assert aligned.class_names == ("a", "b") and len(notes) == 1


def test_classes_with_labels_that_no_test_image_has_are_left_out_and_said_so() -> None:
    names = tuple(f"class {label}" for label in range(100))
    train, test = labelled([*range(100), 0], names), labelled([*range(20), 3], names)
    train, test, notes = align_classes(train, test)
    assert len(train) == len(test) == 21 and len(test.class_names) == 20
    assert [note.partition(":")[0] for note in notes] == ["scored among 20 of the 100 classes that have labels"]
    some = labelled([0, 1, 2], ("a", "b", "c")), labelled([0, 1, 2], ("x", "a", "b"))
    assert [note.partition(" of ")[0] for note in align_classes(*some)[2]] == ["scored on the 2", "scored among 2"]
    assert (
        align_classes(labelled([0, 1], names), labelled([1, 0], names))[2] == ()
    )  # of names without images none counts


def test_two_classes_of_one_name_stay_two_where_the_lists_are_the_same() -> None:
    names = ("cat", "crane", "crane")
    train, test, notes = align_classes(labelled([0, 1, 2, 2], names), labelled([2, 1, 0], names))
    assert train.labels.tolist() == [0, 1, 2, 2] and test.labels.tolist() == [2, 1, 0]
    assert train.class_names == names and notes == ()
    train, test, _ = align_classes(labelled([2, 0, 2], names), labelled([1, 2, 0], names))
    assert train.labels.tolist() == [1, 0, 1] and test.labels.tolist() == [1, 0] and test.pixels[0, 0, 0, 0] == 1


def test_two_classes_of_one_name_are_refused_where_only_names_could_match_them() -> None:
    twice, once = labelled([0, 1, 2], ("cat", "crane", "crane"), "birds"), labelled([0, 1], ("crane", "cat"), "zoo")
    for pair in ((twice, once), (once, twice)):
        with pytest.raises(ValueError, match=r"birds has two classes of the name 'crane'.*: rename one"):
            align_classes(*pair)
    other = labelled([0, 1, 2], ("cat", "dog", "cow"), "farm")  # it has no crane, so nothing is in doubt
    with pytest.raises(ValueError, match="share 1 classes by name"):
        align_classes(twice, other)
    repeated = labelled([0, 1, 2, 3], ("cat", "dog", "crane", "crane"))
    assert align_classes(repeated, other)[0].labels.tolist() == [0, 1]


def test_sources_without_common_classes_are_refused() -> None:
    with pytest.raises(ValueError, match="share 0 classes by name"):
        align_classes(labelled([0, 1], ("a", "b")), labelled([0, 1], ("c", "d")))


def as_test(train: LabelledImages, test: LabelledImages) -> LabelledTest:
    return LabelledTest(source="some", train=train, test=test, ks=(1,), notes=())


def test_the_contents_of_a_test_are_the_images_and_labels_of_both_sides() -> None:
    train, test = labelled([0, 1] * 4, ("a", "b")), labelled([0, 0, 1], ("a", "b"))
    changed = [dataclasses.replace(part, pixels=part.pixels ^ 1) for part in (train, test)]
    relabelled = [dataclasses.replace(part, labels=1 - part.labels) for part in (train, test)]
    pairs = [(train, test), *((other, test) for other in (changed[0], relabelled[0]))]
    pairs += [(train, other) for other in (changed[1], relabelled[1])]
    hashes = [as_test(*pair).record({}, notes=()).content_sha256 for pair in pairs]
    assert len(set(hashes)) == 5
    renamed = as_test(dataclasses.replace(train, name="other"), test)
    assert renamed.record({}, notes=()).content_sha256 == hashes[0]


def test_rankme_is_of_the_training_images() -> None:
    rng = np.random.default_rng(0)
    train, test = rng.normal(size=(20, 6)).astype(np.float32), rng.normal(size=(4, 6)).astype(np.float32)
    images = as_test(labelled([0, 1] * 10, ("a", "b")), labelled([0, 1] * 2, ("a", "b")))
    score = images.score(train, test, ("rankme",), device=torch.device("cpu"))
    assert score.rankme == round(rankme(train), 2) != round(rankme(test), 2)
