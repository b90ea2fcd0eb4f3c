"""Batches of groups for one rank, in an order that is a function of (seed, epoch), decoded ahead of the step.

Step s of a run takes the same groups whether the run was interrupted or not, and together the ranks take every group
of an epoch at most once (the incomplete batch at its end is dropped); `contrast.orders` has the orders. Decoded images
stay in memory where they fit a budget.

    batches = GroupBatches(dataset, ShuffledOrder(len(dataset), batch_size=256, seed=0))
    for batch in batches.steps(first, last):
        batch.images                      # uint8 [256, K, H, W, 3]
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy import ndarray

from contrast.orders import GroupOrder
from shards.decoding import DecodingProcesses

MEMORY_BYTES = 2 * 10**9
NUM_WORKERS = 2
PREFETCHED_STEPS = 4


class GroupSource(Protocol):
    """What a dataset has to offer; `shards.dataset.GroupDataset` does."""

    def __len__(self) -> int: ...

    @property
    def num_images(self) -> int: ...

    @property
    def image_size(self) -> int: ...

    def batch(self, indices: Sequence[int] | ndarray) -> tuple[ndarray, ndarray]:
        """uint8 [B, K, H, W, 3] and int64 [B] labels; may be called from several threads."""


@dataclass(frozen=True, kw_only=True)
class GroupBatch:
    """This rank's share of one global batch."""

    step: int
    indices: ndarray
    """int64 [b], the groups' indices in the dataset."""
    labels: ndarray
    """int64 [b], class ids; -1 where there are none."""
    images: ndarray
    """uint8 [b, K, H, W, 3]; the anchor first, then the views."""
    latents: ndarray | None = None
    """float32 [b, K, dim], where they were asked for."""

    def split(self, count: int) -> list[GroupBatch]:
        """Equal parts, in order; `count` divides the number of groups."""
        size = len(self.indices) // count
        return [self._part(slice(first, first + size)) for first in range(0, count * size, size)]

    def _part(self, rows: slice) -> GroupBatch:
        return GroupBatch(
            step=self.step,
            indices=self.indices[rows],
            labels=self.labels[rows],
            images=self.images[rows],
            latents=None if self.latents is None else self.latents[rows],
        )


class Batches(Protocol):
    """What the training loop reads, and what stands between it and a reader."""

    steps_per_epoch: int

    def steps(self, first: int, last: int) -> Generator[GroupBatch, None, None]:
        """Batches of the steps first … last - 1, in order, loaded ahead."""


class GroupBatches:
    """The batches of a run, by step number.

    Args:
        order: which groups a batch holds.
        memory_bytes: decoded images are kept, each after its first use, when all of them fit this.
        num_workers: batches that are worked on at a time, each by a thread.
        decoding: processes that the threads leave the decoding to; the threads decode themselves when None.
        latents: gives the latents of a group, [K, …], where the batches shall carry them.
    """

    def __init__(
        self,
        dataset: GroupSource,
        order: GroupOrder,
        *,
        num_workers: int = NUM_WORKERS,
        decoding: DecodingProcesses | None = None,
        memory_bytes: int = MEMORY_BYTES,
        latents: Callable[[int], ndarray] | None = None,
    ) -> None:
        self.steps_per_epoch = order.steps_per_epoch
        self._dataset: GroupSource = dataset if decoding is None else decoding
        self._decoding = decoding
        self.order = order
        self._num_workers = num_workers
        self._latents = latents
        shape = (len(dataset), dataset.num_images, dataset.image_size, dataset.image_size, 3)
        self._memory = _GroupMemory(shape) if int(np.prod(shape)) <= memory_bytes else None

    def load(self, step: int) -> GroupBatch:
        """The batch of a step, decoded or from memory."""
        indices = self.order.groups(step)
        if self._memory is None:
            images, labels = self._dataset.batch(indices)
        else:
            images, labels = self._memory.fetch(indices, self._dataset)
        latents = None
        if self._latents is not None:
            latents = np.stack([flatten_latents(self._latents(index)) for index in indices.tolist()])
        return GroupBatch(step=step, indices=indices, labels=labels, images=images, latents=latents)

    def steps(self, first: int, last: int) -> Generator[GroupBatch, None, None]:
        """Batches of the steps first … last - 1, in order, loaded ahead in the background."""
        pending: deque[Future[GroupBatch]] = deque()
        pool = ThreadPoolExecutor(self._num_workers, thread_name_prefix="decode")
        try:
            upcoming = iter(range(first, last))
            for step in upcoming:
                pending.append(pool.submit(self.load, step))
                if len(pending) >= max(PREFETCHED_STEPS, 2 * self._num_workers):
                    break
            while pending:
                batch = pending.popleft().result()
                step_ahead = next(upcoming, None)
                if step_ahead is not None:
                    pending.append(pool.submit(self.load, step_ahead))
                yield batch
        finally:
            self._abandon()
            pool.shutdown(wait=True, cancel_futures=True)
            if self._decoding is not None:
                self._decoding.close()

    def _abandon(self) -> None:
        """Ends what could keep a load in the background waiting; nobody waits for it any more."""


def flatten_latents(latents: ndarray) -> ndarray:
    """float32 [K, dim] of one group's latents of any shape [K, …]."""
    return latents.reshape(len(latents), -1).astype(np.float32, copy=False)


class _GroupMemory:
    """Decoded groups, filled as they are first asked for. Two threads may decode one group: they write equal bytes."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._images = np.empty(shape, dtype=np.uint8)
        self._labels = np.empty(shape[0], dtype=np.int64)
        self._filled = np.zeros(shape[0], dtype=bool)

    def fetch(self, indices: ndarray, dataset: GroupSource) -> tuple[ndarray, ndarray]:
        missing = indices[~self._filled[indices]]
        if len(missing):
            self._images[missing], self._labels[missing] = dataset.batch(missing)
            self._filled[missing] = True  # last, so that no other thread reads a half-written group
        return self._images[indices], self._labels[indices]
