"""Which groups a step sees, as a function of (seed, epoch): all of them shuffled, or in the order of a stream.

An order gives, for every step of a run, the groups of this rank. In either one, an epoch is num_groups // batch_size
steps, no group comes twice in it, and only the incomplete batch at its end is left out.

shuffled    One permutation of all groups per (seed, epoch), cut into global batches; a rank takes its part of each.
            The global batch is the same for any number of ranks.
streamed    The shards are permuted by (seed, epoch), and their groups follow one another. The ranks cut this sequence
            into parts of equal length (to within one group), so a rank touches its own shards alone, and one more at
            either end. Within a rank's part, groups are shuffled in windows, so that only a window's shards are
            needed at a time. It depends on the number of ranks, on the number of workers never.

    order = StreamedOrder(10_000, 1000, batch_size=256, seed=0, rank=1, world_size=4)
    order.groups(step=3)                              # int64 [64]
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import Future
from functools import lru_cache
from typing import Protocol

import numpy as np
from numpy import ndarray

from shards.randomness import random_permutation
from shards.stream import shard_order

WINDOW_GROUPS = 8192
"""Of the streamed order: as many groups are shuffled among one another. Changing it changes every streamed run."""


class GroupOrder(Protocol):
    """What the batches of a run ask for."""

    steps_per_epoch: int
    share: int
    """Groups of a batch that this rank has: batch_size / world_size."""

    def groups(self, step: int) -> ndarray:
        """This rank's groups of a step's batch, int64 [share]."""


def draw_order(num_groups: int, *, seed: int, epoch: int) -> ndarray:
    """A permutation of 0 … num_groups - 1, int64, a function of the arguments alone and of no library's version."""
    return random_permutation(f"order/{seed}/{epoch}", num_groups)


def count_steps_per_epoch(num_groups: int, batch_size: int) -> int:
    """Whole batches in one pass over the groups; what is left over is not seen in that pass.

    Raises:
        ValueError: there is not even one.
    """
    if batch_size > num_groups:
        raise ValueError(
            f"batch size {batch_size} is larger than the {num_groups} groups: "
            f"use --batch-size {num_groups} or less, or more groups"
        )
    return num_groups // batch_size


def _share_of(batch_size: int, world_size: int) -> int:
    if batch_size % world_size:
        raise ValueError(f"batch size {batch_size} does not divide among {world_size} processes: use a multiple")
    return batch_size // world_size


class ShuffledOrder:
    """All groups shuffled; the next epoch's permutation is drawn in a thread during the second half of this one.

    Raises:
        ValueError: the batch is larger than the dataset or does not divide among the ranks.
    """

    def __init__(self, num_groups: int, *, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.steps_per_epoch = count_steps_per_epoch(num_groups, batch_size)
        self.share = _share_of(batch_size, world_size)
        self._num_groups, self._batch_size, self._seed, self._rank = num_groups, batch_size, seed, rank
        self._lock = threading.Lock()
        self._drawn: dict[int, Future[ndarray]] = {}

    def groups(self, step: int) -> ndarray:
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * self._batch_size
        if 2 * first >= self._num_groups:
            self._draw(epoch + 1)
        first += self._rank * self.share
        return self._draw(epoch).result()[first : first + self.share]

    def _draw(self, epoch: int) -> Future[ndarray]:
        with self._lock:
            if epoch not in self._drawn:
                self._drawn = {e: future for e, future in self._drawn.items() if abs(e - epoch) <= 1}
                future: Future[ndarray] = Future()
                self._drawn[epoch] = future
                # A daemon: nobody waits for an order that is not needed any more.
                threading.Thread(target=self._fill, args=(epoch, future), name="draw order", daemon=True).start()
            return self._drawn[epoch]

    def _fill(self, epoch: int, future: Future[ndarray]) -> None:
        try:
            future.set_result(draw_order(self._num_groups, seed=self._seed, epoch=epoch))
        except BaseException as error:  # whoever asks for the order gets it
            future.set_exception(error)


class StreamedOrder:
    """Shards one after the other, groups shuffled in windows.

    Args:
        shard_size: groups of a shard; the last one may have fewer.
        window: groups that are shuffled among one another.

    Raises:
        ValueError: the batch is larger than the dataset or does not divide among the ranks.
    """

    def __init__(
        self,
        num_groups: int,
        shard_size: int,
        *,
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        window: int = WINDOW_GROUPS,
    ) -> None:
        self.steps_per_epoch = count_steps_per_epoch(num_groups, batch_size)
        self.share = _share_of(batch_size, world_size)
        self._num_groups, self._shard_size, self._seed = num_groups, shard_size, seed
        self._num_shards = -(-num_groups // shard_size)
        self._rank, self._world_size, self._window = rank, world_size, window
        # A rank's part has at least num_groups // batch_size batches: the division rounds down in both places.
        self._first, self._end = (place * num_groups // world_size for place in (rank, rank + 1))
        self._shards_of = lru_cache(maxsize=3)(self._draw_shards)
        self._groups_of = lru_cache(maxsize=3)(self._draw_window)

    def groups(self, step: int) -> ndarray:
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * self.share
        last = first + self.share
        windows = range(first // self._window, -(-last // self._window))
        groups = np.concatenate([self._groups_of(epoch, window) for window in windows])
        return groups[first - windows.start * self._window : last - windows.start * self._window]

    def window_of(self, position: int) -> int:
        """The window in which the batch at this position of an epoch ends."""
        return (position * self.share + self.share - 1) // self._window

    def first_position_of(self, window: int) -> int:
        """The position of the first batch that ends in this window or later."""
        return max(0, -(-(window * self._window + 1) // self.share) - 1)

    def shards_of(self, epoch: int, window: int) -> Sequence[int]:
        """The shards of a window's groups, in the order of the stream; none beyond the epoch's last window."""
        first = self._first + window * self._window
        last = min(first + self._window, self._end)
        if first >= last:
            return []
        order, starts = self._shards_of(epoch)
        return order[np.searchsorted(starts, first, "right") - 1 : np.searchsorted(starts, last, "left")].tolist()

    def _draw_shards(self, epoch: int) -> tuple[ndarray, ndarray]:
        """The shards in this epoch's order, and where each begins in the sequence of all groups."""
        order = np.array(shard_order(self._num_shards, seed=self._seed, epoch=epoch))
        counts = np.minimum(self._shard_size, self._num_groups - order * self._shard_size)
        return order, np.cumsum(counts) - counts

    def _draw_window(self, epoch: int, window: int) -> ndarray:
        first = self._first + window * self._window
        places = np.arange(first, min(first + self._window, self._end))
        name = f"window/{self._seed}/{epoch}/{self._rank}/{self._world_size}/{window}"
        places = places[random_permutation(name, len(places))]
        order, starts = self._shards_of(epoch)
        shards = np.searchsorted(starts, places, "right") - 1
        return order[shards] * self._shard_size + places - starts[shards]
