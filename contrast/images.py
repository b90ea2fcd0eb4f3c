"""Labelled images to score an encoder on, whatever they come from.

images = LabelledImages(name="CIFAR-10 test", pixels=pixels, labels=labels, class_names=("airplane", ...))
train, test, notes = align_classes(train, test)
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from functools import cached_property
from typing import Self, TypeVar

import numpy as np
from numpy import ndarray

from shards.pictures import rank_within_class


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """What is known of labelled images without looking at a pixel."""

    name: str
    """What a table calls them."""
    labels: ndarray
    """int64 [N], positions in class_names."""
    class_names: tuple[str, ...]
    is_real: bool
    """Whether they are photographs, or came out of a generator."""
    notes: tuple[str, ...] = ()
    """What a reader of scores on them has to know."""

    def __post_init__(self) -> None:
        if len(self) == 0:
            raise ValueError(f"{self.name}: there are no images")

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, rows: ndarray) -> Self:
        """The images at these positions."""
        return replace(self, labels=self.labels[rows])

    def first_of_each_class(self, count: int) -> Self:
        """The first `count` images when taken in rounds, one of every class a round; always the same ones.

        Classes stay balanced even where the images are sorted by class.

        Raises:
            ValueError: there are fewer images.
        """
        if count > len(self):
            raise ValueError(f"--num-train {count}: {self.name} holds {len(self)} images; ask for fewer")
        order = np.lexsort((np.arange(len(self)), rank_within_class(self.labels)))
        return self.take(np.sort(order[:count]))


@dataclass(frozen=True, kw_only=True)
class LabelledImages(Labelled):
    """Images of one size with a class each."""

    pixels: ndarray
    """uint8 [N, H, W, 3]."""

    def __post_init__(self) -> None:
        assert self.pixels.dtype == np.uint8 and self.pixels.ndim == 4 and self.pixels.shape[3] == 3, self.pixels.shape
        assert self.labels.shape == (len(self.pixels),), self.labels.shape
        super().__post_init__()

    @cached_property
    def sha256(self) -> str:
        """Of the pixels, in order."""
        digest = hashlib.sha256(repr(self.pixels.shape).encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        return digest.hexdigest()

    def take(self, rows: ndarray) -> Self:
        """The images at these positions."""
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows])


@dataclass(frozen=True, kw_only=True)
class ListedImages(Labelled):
    """Labelled images that were not decoded yet: a few of a million are chosen first."""

    rows: ndarray
    """int64 [N], positions in what `read` reads from."""
    read: Callable[[ndarray], ndarray]
    """uint8 [n, H, W, 3] of n such positions. Raises DamageError where one does not decode."""

    def take(self, rows: ndarray) -> Self:
        """The images at these positions."""
        return replace(self, rows=self.rows[rows], labels=self.labels[rows])

    def load(self) -> LabelledImages:
        """The same images, decoded."""
        known = {field.name: getattr(self, field.name) for field in fields(Labelled)}
        return LabelledImages(**known, pixels=self.read(self.rows))


Images = TypeVar("Images", bound=Labelled)


def align_classes(train: Images, test: Images) -> tuple[Images, Images, tuple[str, ...]]:
    """Both with labels that mean the same, matched by class name, and notes where some classes had to be left out.

    One source may number its classes in another order than the other, or hold only some of them. Sources of the very
    same names are matched by position, since two of the names may be alike: ImageNet has two kinds of crane.

    Raises:
        ValueError: they share fewer than two classes, or a name that stands for two classes.
    """
    pairs = _match_names(train, test)
    labelled, occurring = np.unique(train.labels), np.unique(test.labels)
    kept = [(mine, theirs) for mine, theirs in pairs if mine in labelled and theirs in occurring]
    if len(kept) < 2:
        raise ValueError(
            f"{train.name} and {test.name} share {len(kept)} classes by name "
            f"({_some(train.class_names)} there, {_some(test.class_names)} here): two or more are needed"
        )
    notes = []
    if len(kept) < len(occurring):
        notes.append(f"scored on the {len(kept)} of {len(occurring)} test classes that the training labels have")
    if len(kept) < len(labelled):
        notes.append(
            f"scored among {len(kept)} of the {len(labelled)} classes that have labels: the test images are of no "
            "others, and fewer classes are easier to tell apart"
        )
    names = tuple(test.class_names[theirs] for _, theirs in kept)
    return (
        _renumber(train, [mine for mine, _ in kept], names),
        _renumber(test, [theirs for _, theirs in kept], names),
        tuple(notes),
    )


def _match_names(train: Labelled, test: Labelled) -> list[tuple[int, int]]:
    """The same class's position in both, in the order of the test images' classes."""
    if train.class_names == test.class_names:
        return [(position, position) for position in range(len(test.class_names))]
    shared = [name for name in test.class_names if name in train.class_names]
    for images in (train, test):
        twice = next((name for name in shared if images.class_names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(
                f"{images.name} has two classes of the name {twice!r}, and {train.name} and {test.name} are matched by "
                "name: rename one of the two, or give sources with the same list of classes"
            )
    return [(train.class_names.index(name), test.class_names.index(name)) for name in shared]


def _renumber(images: Images, positions: list[int], names: tuple[str, ...]) -> Images:
    """The images of the classes at these positions, which become 0, 1, …"""
    mapping = np.full(len(images.class_names), -1, dtype=np.int64)
    mapping[positions] = np.arange(len(positions))
    labels = mapping[images.labels]
    renumbered = replace(images, labels=labels, class_names=names)
    return renumbered if (labels >= 0).all() else renumbered.take(np.flatnonzero(labels >= 0))


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
