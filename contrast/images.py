"""Labelled images to score an encoder on, whatever they come from.

images = LabelledImages(name="CIFAR-10 test", pixels=pixels, labels=labels, class_names=("airplane", ...))
train, test, note = align_classes(train, test)
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy import ndarray

from shards.pictures import rank_within_class


@dataclass(frozen=True, kw_only=True)
class LabelledImages:
    """Images of one size with a class each."""

    name: str
    """What a table calls them."""
    pixels: ndarray
    """uint8 [N, H, W, 3]."""
    labels: ndarray
    """int64 [N], positions in class_names."""
    class_names: tuple[str, ...]
    is_real: bool
    """Whether they are photographs, or came out of a generator."""

    def __post_init__(self) -> None:
        assert self.pixels.dtype == np.uint8 and self.pixels.ndim == 4 and self.pixels.shape[3] == 3, self.pixels.shape
        assert self.labels.shape == (len(self.pixels),), self.labels.shape
        if len(self.pixels) == 0:
            raise ValueError(f"{self.name}: there are no images")

    def __len__(self) -> int:
        return len(self.pixels)

    @cached_property
    def sha256(self) -> str:
        """Of the pixels, in order."""
        digest = hashlib.sha256(repr(self.pixels.shape).encode())
        digest.update(np.ascontiguousarray(self.pixels).data)
        return digest.hexdigest()

    def take(self, rows: ndarray) -> LabelledImages:
        """The images at these positions."""
        return replace(self, pixels=self.pixels[rows], labels=self.labels[rows])

    def first_of_each_class(self, count: int) -> LabelledImages:
        """The first `count` images when taken in rounds, one of every class a round; always the same ones.

        Classes stay balanced even where the images are sorted by class.

        Raises:
            ValueError: there are fewer images.
        """
        if count > len(self):
            raise ValueError(f"--num-train {count}: {self.name} holds {len(self)} images; ask for fewer")
        order = np.lexsort((np.arange(len(self)), rank_within_class(self.labels)))
        return self.take(np.sort(order[:count]))


def align_classes(train: LabelledImages, test: LabelledImages) -> tuple[LabelledImages, LabelledImages, str | None]:
    """Both with labels that mean the same, matched by class name, and a note where some classes had to be left out.

    One source may number its classes in another order than the other, or hold only some of them.

    Raises:
        ValueError: they share fewer than two classes.
    """
    shared = tuple(name for name in test.class_names if name in train.class_names)
    held = [name for name in shared if (train.labels == train.class_names.index(name)).any()]
    names = tuple(name for name in held if (test.labels == test.class_names.index(name)).any())
    if len(names) < 2:
        raise ValueError(
            f"{train.name} and {test.name} share {len(names)} classes by name "
            f"({_some(train.class_names)} there, {_some(test.class_names)} here): two or more are needed"
        )
    num_occurring = len(np.unique(test.labels))
    note = None
    if len(names) < num_occurring:
        note = f"scored on the {len(names)} of {num_occurring} test classes that the training labels have"
    return _renumber(train, names), _renumber(test, names), note


def _renumber(images: LabelledImages, names: tuple[str, ...]) -> LabelledImages:
    position = {name: i for i, name in enumerate(names)}
    mapping = np.array([position.get(name, -1) for name in images.class_names], dtype=np.int64)
    labels = mapping[images.labels]
    if (labels >= 0).all():
        return replace(images, labels=labels, class_names=names)
    kept = replace(images, labels=labels, class_names=names)
    return kept.take(np.flatnonzero(labels >= 0))


def _some(names: tuple[str, ...]) -> str:
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
