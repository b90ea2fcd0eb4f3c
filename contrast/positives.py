"""Which images of a group are pulled together: pixel augmentation (T_x), latent views (T_z), both, or wrong pairs.

batches = PickedBatches(batches, positives="tx", num_images=2, batch_size=256, seed=0)

both       the anchor and its views, each augmented
tx         the anchor alone, as many times, each augmented on its own
tz         the anchor and its views as they are
shuffled   the anchor and a view of each of the next groups, no two of one group: the control that must fail
"""

from __future__ import annotations

import dataclasses
from collections.abc import Generator
from contextlib import closing

import numpy as np
from numpy import ndarray

from contrast.batches import Batches, GroupBatch
from shards.randomness import random_words

POSITIVES = ("both", "tx", "tz", "shuffled")


class PickedBatches:
    """The same batches with `num_images` images of every group, the ones that the positives ask for.

    Args:
        num_images: images of every group; fewer than it has take some of its views, drawn for every group and step
            from (seed, step) alone.
        batch_size, rank, world_size: of the global batch, and whose share of it `batches` gives.
    """

    def __init__(
        self,
        batches: Batches,
        *,
        positives: str,
        num_images: int,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        assert positives in POSITIVES, positives
        if positives == "shuffled" and batch_size // world_size < num_images:
            raise ValueError(
                f"positives shuffled: {num_images} images are pulled together, so every process needs as many groups "
                "of a batch; use a larger --batch-size"
            )
        self.steps_per_epoch = batches.steps_per_epoch
        self._batches = batches
        self._positives, self._num_images, self._seed = positives, num_images, seed
        self._batch_size = batch_size
        self._share = slice(rank * batch_size // world_size, (rank + 1) * batch_size // world_size)

    def steps(self, first: int, last: int) -> Generator[GroupBatch, None, None]:
        """Batches of the steps first … last - 1, in order."""
        with closing(self._batches.steps(first, last)) as incoming:
            for batch in incoming:
                yield self._pick(batch)

    def _pick(self, batch: GroupBatch) -> GroupBatch:
        count, held = batch.images.shape[:2]
        columns = np.broadcast_to(np.arange(self._num_images), (count, self._num_images))
        if self._positives == "tx" or held == 1:
            columns = np.zeros_like(columns)
        elif self._num_images < held:
            columns = draw_members(
                self._batch_size, held=held, num_images=self._num_images, seed=self._seed, step=batch.step
            )[self._share]
        elif self._positives != "shuffled":
            return batch
        rows = np.broadcast_to(np.arange(count)[:, None], columns.shape)
        if self._positives == "shuffled":
            # Views of one neighbour would be a true pair. The order is another one in every epoch, and so are the
            # neighbours.
            rows = (rows + np.arange(self._num_images)) % count
        return dataclasses.replace(
            batch,
            images=batch.images[rows, columns],
            latents=None if batch.latents is None else batch.latents[rows, columns],
        )


def draw_members(batch_size: int, *, held: int, num_images: int, seed: int, step: int) -> ndarray:
    """int64 [batch_size, num_images]: the anchor (0) and distinct views of 1 … held - 1, drawn for every group."""
    words = random_words(f"members/{seed}/{step}", batch_size * (held - 1)).reshape(batch_size, held - 1)
    views = 1 + np.argsort(words, axis=1, kind="stable")[:, : num_images - 1]
    return np.concatenate([np.zeros((batch_size, 1), dtype=np.int64), views], axis=1)
