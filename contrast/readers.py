"""The ways to read a dataset for training; one contract, and the loop does not know which one it has.

    dataset = shards.open_dataset("s3://bucket/demo", n=10_000)
    batches = open_batches(dataset, reader="webdataset", batch_size=256, seed=0, rank=0, world_size=1)
    for batch in batches.steps(first, last):
        batch.images                      # uint8 [256, K, H, W, 3]

tar           random access to the tars of a folder; shuffled order; decoded groups stay in memory where they fit
webdataset    whole shards one after the other, of a folder or from an address, through a local cache; streamed order
ffcv          FFCV over the file of `shards to-ffcv`; shuffled order, the same batches as tar

All of them: an epoch is num_groups // batch_size batches for every rank; no group comes twice in it; `n` is an exact
prefix; the batch of step s is a function of the seed and the rank, never of the number of workers or of where the run
began; the pixels are the same, bit for bit. `contrast.orders` says what the two orders are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from numpy import ndarray

from contrast.batches import MEMORY_BYTES, NUM_WORKERS, Batches, GroupBatch, GroupBatches
from contrast.orders import WINDOW_GROUPS, ShuffledOrder, StreamedOrder
from shards.dataset import GroupDataset
from shards.decoding import DecodingProcesses
from shards.fetching import is_address
from shards.quantities import format_bytes
from shards.remote import RemoteDataset

ORDER_OF_READER = {"tar": "shuffled", "webdataset": "streamed", "ffcv": "shuffled"}
READERS = tuple(ORDER_OF_READER)
SHARDS_AT_ONCE = 4
"""Shards that are fetched over the network at a time."""


def choose_reader(reader: str | None, shards: str | Path) -> str:
    """The reader asked for; when None, webdataset for an address and tar for a folder.

    Raises:
        ValueError: there is no such reader, or it cannot read from an address.
    """
    if reader is None:
        return "webdataset" if is_address(shards) else "tar"
    if reader not in READERS:
        raise ValueError(f"unknown reader {reader!r}: choose one of {', '.join(READERS)}")
    if reader == "tar" and is_address(shards):
        raise ValueError(f"the tar reader needs a folder on this machine, not {shards}: use --reader webdataset")
    return reader


def check_order(order: str, reader: str) -> None:
    """Raises ValueError when a reader does not give the groups in the order that a run's configuration states."""
    if ORDER_OF_READER[choose_reader(reader, "")] != order:
        fitting = " or ".join(name for name, given in ORDER_OF_READER.items() if given == order)
        raise ValueError(f"the {reader} reader does not give the {order} order: use --reader {fitting}")


def open_batches(
    dataset: GroupDataset,
    *,
    reader: str,
    batch_size: int,
    seed: int,
    rank: int = 0,
    world_size: int = 1,
    num_workers: int = NUM_WORKERS,
    memory_bytes: int = MEMORY_BYTES,
    beton: str | Path | None = None,
    latents: Callable[[int], ndarray] | None = None,
) -> Batches:
    """One rank's batches, by a reader.

    Args:
        beton: for ffcv, the file of `shards to-ffcv`; groups.beton in the dataset's folder when None.
        latents: gives the latents of a group, where the batches shall carry them; not for ffcv.

    Raises:
        ValueError: the batch does not fit, or the reader does not fit the dataset.
    """
    choose_reader(reader, dataset.location)
    place: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "rank": rank, "world_size": world_size}
    kept: dict[str, Any] = {"num_workers": num_workers, "memory_bytes": memory_bytes, "latents": latents}
    order: ShuffledOrder | StreamedOrder
    if reader == "webdataset":
        order = StreamedOrder(len(dataset), dataset.manifest.shard_size, **place)
        if isinstance(dataset, RemoteDataset):
            return FetchedBatches(dataset, order, **kept)
    else:
        order = ShuffledOrder(len(dataset), **place)
        if reader == "ffcv":
            if latents is not None:
                raise ValueError("FFCV's file holds no latents: use --reader tar or webdataset for this objective")
            from contrast.beton_batches import BetonBatches

            return BetonBatches(dataset, order, beton=beton, num_workers=num_workers)
    decoding = DecodingProcesses(dataset, count=num_workers, most_groups=order.share)
    return GroupBatches(dataset, order, decoding=decoding, **kept)


class FetchedBatches(GroupBatches):
    """Batches of a dataset at an address; the shards of the next window are fetched while this one is used.

    Decoding keeps to threads: they share the shards that were fetched.

    Raises:
        ValueError: the cache is too small for two windows.
    """

    def __init__(
        self,
        dataset: RemoteDataset,
        order: StreamedOrder,
        *,
        num_workers: int,
        memory_bytes: int,
        latents: Callable[[int], ndarray] | None,
    ) -> None:
        super().__init__(dataset, order, num_workers=num_workers, memory_bytes=memory_bytes, latents=latents)
        _check_cache(dataset)
        self._remote, self._streamed = dataset, order
        self._asking = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._end = 0
        self._asked: set[tuple[int, int]] = set()

    def steps(self, first: int, last: int) -> Generator[GroupBatch, None, None]:
        """As GroupBatches.steps."""
        with ThreadPoolExecutor(SHARDS_AT_ONCE, thread_name_prefix="fetch") as pool:
            self._pool, self._end, self._asked = pool, last, set()
            try:
                yield from super().steps(first, last)
            finally:
                self._pool = None
                try:
                    pool.shutdown(wait=True, cancel_futures=True)
                finally:
                    self._remote.cache.abandoned.clear()

    def _abandon(self) -> None:
        self._remote.cache.abandoned.set()

    def load(self, step: int) -> GroupBatch:
        """The batch of a step; sees to it that the shards of its window and of the next one are on their way."""
        pool = self._pool
        if pool is not None:
            epoch, position = divmod(step, self.steps_per_epoch)
            window = self._streamed.window_of(position)
            self._fetch(pool, epoch, window)
            following = self._streamed.first_position_of(window + 1)
            if following >= self.steps_per_epoch:
                epoch, window, following = epoch + 1, -1, 0
            if epoch * self.steps_per_epoch + following < self._end:
                self._fetch(pool, epoch, window + 1)
        return super().load(step)

    def _fetch(self, pool: ThreadPoolExecutor, epoch: int, window: int) -> None:
        with self._asking:
            if (epoch, window) in self._asked:
                return
            self._asked.add((epoch, window))
        # What fails here fails again, and aloud, when a batch needs the shard.
        for shard_index in self._streamed.shards_of(epoch, window):
            pool.submit(self._remote.fetch, [shard_index])


def _check_cache(dataset: RemoteDataset) -> None:
    limit = dataset.cache.limit_bytes
    shards = dataset.manifest.shards
    num_needed = min(len(shards), 2 * (WINDOW_GROUPS // dataset.manifest.shard_size + 2))
    needed = num_needed * max(shard.bytes for shard in shards)
    if limit is not None and limit < needed:
        raise ValueError(
            f"a cache of {format_bytes(limit)} is too small: two windows of {WINDOW_GROUPS} groups, the one in use "
            f"and the next, take up to {format_bytes(needed)}; give --cache-bytes {needed} or more"
        )
