"""Whether tested images were seen before: by the encoder while it learnt, or among the images whose labels are used.

    num_groups_seen(trained_on, dataset)                       # so many from its beginning are not tested on
    notes = find_copies(train, test)                           # ValueError where they are many
    notes += doubt_encoder(trained_on, dataset)                # what nobody can tell from here is said

Rendered images are known by their recipe, packed ones by the collection that they came from, all real ones by pixels.
"""

from __future__ import annotations

import hashlib

import numpy as np

from contrast.images import LabelledImages
from contrast.trained_on import SeenGroups, TrainedOn
from shards.canonical import JSON
from shards.dataset import GroupDataset
from shards.recipe import Recipe

FEW_COPIES = 0.01
"""Share of the test images; datasets that people publish hold a few images twice."""


def find_copies(train: LabelledImages, test: LabelledImages) -> tuple[str, ...]:
    """A note where real test images are among the labelled ones, too, pixel for pixel.

    Raises:
        ValueError: more than one, and more than 1 % of the test images are.
    """
    if not test.is_real:
        return ()
    labelled = {_digest(image) for image in train.pixels}
    count = sum(_digest(image) in labelled for image in test.pixels)
    if count > max(1, FEW_COPIES * len(test)):
        raise ValueError(
            f"{count} of the {len(test)} images of {test.name} are among the labelled ones of {train.name}: "
            "remove the copies, or give --data-train images that are not tested on, such as a pack of --split train"
        )
    return (f"{count} of the {len(test)} test images are among the labelled ones, too",) if count else ()


def _digest(image: np.ndarray) -> bytes:
    return hashlib.blake2b(np.ascontiguousarray(image).data, digest_size=16).digest()


def share_anchors(train: GroupDataset, test: GroupDataset) -> bool:
    """Whether group i has the same anchor in both, or may have.

    Raises:
        ValueError: both hold the same real images, in two orders.
    """
    ours, theirs = train.manifest.recipe, test.manifest.recipe
    if _anchors_agree(ours, theirs):
        return True
    if ours.is_real and _content_of(ours) == _content_of(theirs):
        raise ValueError(
            f"{train.location} and {test.location} hold the same images in two orders, so that labels would come "
            "from images that are tested on: give one of the two alone"
        )
    return False


def num_groups_seen(trained_on: TrainedOn, dataset: GroupDataset) -> int:
    """How many groups of the dataset, from its beginning, may have anchors that the encoder was trained on.

    All of them where it was trained on the same real images in another order: nobody knows which of those.
    """
    seen = max(_num_seen_of(part, dataset) for part in trained_on.parts())
    return min(seen, len(dataset))


def _num_seen_of(part: SeenGroups, dataset: GroupDataset) -> int:
    recipe = dataset.manifest.recipe
    if _anchors_agree(part.recipe, recipe):
        return part.num_groups
    return len(dataset) if part.recipe.is_real and _content_of(part.recipe) == _content_of(recipe) else 0


def _anchors_agree(one: Recipe, other: Recipe) -> bool:
    """Whether groups of two recipes have one anchor under one index.

    Views, codec, classes and class weights do not matter: wherever labels agree, so do the anchors. Of two lists of
    classes it is not looked up which groups have one label in both: all may.
    """
    shared = bool(set(one.classes) & set(other.classes)) or one.classes == other.classes
    return shared and one.seed == other.seed and _without_weights(one) == _without_weights(other)


def _without_weights(recipe: Recipe) -> dict[str, JSON]:
    return {name: value for name, value in recipe.source.items() if name != "class_weights"}


def _content_of(recipe: Recipe) -> str | None:
    """sha256 (hex) of the collection that real images were packed from, in whatever order; None of rendered ones."""
    return recipe.source["content_sha256"] if recipe.is_real else None


# ---------------------------------------------------------------------------------------------------------------------
# What cannot be told: the parts of a folder and the whole of it are collections of their own that share photographs


def doubt_encoder(trained_on: TrainedOn, test: GroupDataset | None) -> tuple[str, ...]:
    """A note where real test images may be photographs that the encoder was trained on, packed as another split.

    Args:
        test: what the test images were packed into; None where they are the test part of another source.
    """
    tested = "test" if test is None else _split_of(test.manifest.recipe)
    notes = []
    for part in trained_on.parts():
        is_known = test is not None and _num_seen_of(part, test) > 0  # what it has seen of them is left out
        split = _split_of(part.recipe)
        if _may_overlap(split, tested) and not is_known:
            origin = f"the split {split!r} (recipe {part.recipe.id[:12]})"
            notes.append(f"the encoder was trained on real images of {origin}, {_doubt(tested)}")
    return tuple(notes)


def doubt_labels(train: GroupDataset | None, test: GroupDataset | None) -> tuple[str, ...]:
    """A note where real test images may be among the labelled ones in another size or codec."""
    labelled = "train" if train is None else _split_of(train.manifest.recipe)
    tested = "test" if test is None else _split_of(test.manifest.recipe)
    if not _may_overlap(labelled, tested):
        return ()
    return (f"the labels are of real images of the split {labelled!r}, {_doubt(tested)}",)


def _doubt(tested: str | None) -> str:
    return f"these are of the split {tested!r}: if they are the same photographs, this is no test"


def _split_of(recipe: Recipe) -> str | None:
    """Which part of a collection was packed: train, test or all; None of rendered images."""
    return recipe.source["split"] if recipe.is_real else None


def _may_overlap(seen: str | None, tested: str | None) -> bool:
    """None is that of rendered images."""
    return None not in (seen, tested) and ("all" in (seen, tested) or seen == tested == "test")
