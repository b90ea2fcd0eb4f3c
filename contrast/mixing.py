"""Real images in the batch beside the generated ones, in a fixed share.

    directory, share = parse_mix("real=datasets/photos:0.25")
    batches = MixedBatches(generated, real, num_images=2, first_index=10_000)

Real images come from a dataset in shards; of every group its anchor is taken, a group of its own, whose positives are
pixel augmentations of itself.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy import ndarray

from contrast.batches import Batches, GroupBatch
from shards.fetching import is_address
from shards.randomness import random_words


def parse_mix(text: str) -> tuple[Path, float]:
    """Folder and share of `real=DIR:SHARE`.

    Raises:
        ValueError: the text has another form.
    """
    kind, _, rest = text.partition("=")
    directory, _, number = rest.rpartition(":")
    try:
        share = float(number)
    except ValueError:
        share = 0.0
    if kind != "real" or not directory or not 0 < share < 1:
        raise ValueError(f"--mix {text}: write real=DIR:SHARE with a share between 0 and 1, such as real=photos:0.25")
    if is_address(directory):
        raise ValueError(f"--mix {text}: real images are read from a folder on this machine; copy the dataset first")
    return Path(directory), share


def count_real(batch_size: int, share: float) -> int:
    """Groups of a batch that are real images; the rest is generated.

    Raises:
        ValueError: the share leaves none of one kind.
    """
    if share == 0:
        return 0
    if not 0 < share < 1:
        raise ValueError(f"--mix: a share of {share} of the batch: give one from 0 to below 1")
    count = round(share * batch_size)
    if not 0 < count < batch_size:
        raise ValueError(f"--mix: a share of {share} of {batch_size} groups is {count}; use a larger --batch-size")
    return count


def seed_of_real(seed: int) -> int:
    """Of the real images' order: under the run's own seed they would meet the same generated groups in every epoch."""
    return int(random_words(f"mix/{seed}", 1)[0] >> 1)


def match_classes(generated: Mapping[int, str], real: Mapping[int, str]) -> dict[int, int]:
    """Which generated class id a real one stands for, by name.

    Lists of the very same classes are matched by id: two of the names may be alike, as ImageNet's two kinds of crane.

    Raises:
        ValueError: a real class has no generated namesake, or several.
    """
    if not real:
        raise ValueError("--mix: the real images have no classes; use an objective without labels, such as simclr")
    if generated == real:
        return {label: label for label in real}
    ids = {name: label for label, name in generated.items()}
    for name in real.values():
        if name not in ids:
            raise ValueError(
                f"--mix: the generated groups have no class {name!r}; use an objective without labels, such as simclr"
            )
        if list(generated.values()).count(name) > 1 or list(real.values()).count(name) > 1:
            raise ValueError(
                f"--mix: two classes are called {name!r}, and classes are matched by name: rename one of the two, or "
                "use an objective without labels, such as simclr"
            )
    return {label: ids[name] for label, name in real.items()}


class MixedBatches:
    """Every batch of the one followed by the batch of the same step of the other, part by part.

    Args:
        num_images: images of a group; a real image stands in for all of them.
        first_index: added to the real groups' indices, so that they are other groups than the generated ones.
        num_parts: parts that the batch will be split into; see `deal_parts`.
        classes: which label a real label becomes; None where no objective looks at them.
    """

    def __init__(
        self,
        generated: Batches,
        real: Batches,
        *,
        num_images: int,
        first_index: int,
        num_parts: int = 1,
        classes: Mapping[int, int] | None = None,
    ) -> None:
        self.steps_per_epoch = generated.steps_per_epoch
        self._generated, self._real = generated, real
        self._num_images, self._first_index, self._classes = num_images, first_index, classes
        self._num_parts = num_parts

    def steps(self, first: int, last: int) -> Generator[GroupBatch, None, None]:
        """Batches of the steps first … last - 1, in order."""
        with closing(self._generated.steps(first, last)) as generated, closing(self._real.steps(first, last)) as real:
            for ours, theirs in zip(generated, real, strict=True):
                real_images = theirs.images[:, :1].repeat(self._num_images, axis=1)
                yield GroupBatch(
                    step=ours.step,
                    indices=deal_parts(ours.indices, theirs.indices + self._first_index, self._num_parts),
                    labels=deal_parts(ours.labels, self._translate(theirs.labels), self._num_parts),
                    images=deal_parts(ours.images, real_images, self._num_parts),
                )

    def _translate(self, labels: ndarray) -> ndarray:
        if self._classes is None:
            return np.full_like(labels, -1)
        return np.array([self._classes[label] for label in labels.tolist()], dtype=np.int64)


def deal_parts(generated: ndarray, real: ndarray, num_parts: int) -> ndarray:
    """The rows of one process's batch, part after part: in each its share of the generated ones, then of the real ones.

    With all real images in the last part, a contrast would tell the two kinds apart, and so would batch statistics.
    """
    shares = zip(np.split(generated, num_parts), np.split(real, num_parts), strict=True)
    return np.concatenate([rows for part in shares for rows in part])


def own_rows(
    num_generated: int, num_real: int, *, num_images: int, rank: int, world_size: int, num_parts: int = 1
) -> ndarray:
    """Which images of the global batch a rank holds, int64, in the order of `deal_parts`."""

    def own_images(first: int, count: int) -> ndarray:
        share = count // world_size
        begin = first + rank * share
        return np.arange(begin * num_images, (begin + share) * num_images)

    return deal_parts(own_images(0, num_generated), own_images(num_generated, num_real), num_parts)
