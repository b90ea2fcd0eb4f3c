"""Groups in the order of a stream, for a training loop of one's own: whole shards, dealt to ranks and workers.

    for group in stream_groups("https://example.org/demo", seed=0, epoch=3, rank=1, world_size=8):
        group.images

The order of shards is permuted by (seed, epoch) over the whole dataset first, then dealt to ranks and workers. The
webdataset package splits before it shuffles, repeats the order in every epoch, and stops where a worker has no shard;
it also reads members one by one with Python's tarfile, here they are found by their offsets.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from shards.dataset import Group, GroupDataset
from shards.fetching import is_address
from shards.numbers import check_whole
from shards.remote import RemoteDataset

_SHUFFLE_GROUPS = 1000


def stream_groups(
    source: str | Path,
    *,
    n: int | str | None = None,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    worker: int = 0,
    num_workers: int = 1,
    shuffle_buffer: int = _SHUFFLE_GROUPS,
    cache: str | Path | None = None,
    cache_bytes: int | str | None = None,
) -> Iterator[Group]:
    """One worker's share of an epoch: over all ranks and workers, every one of the first n groups exactly once.

    Shares are whole shards, so they differ in length, and a worker's share is empty where there are more workers than
    shards. The order is a function of the arguments.

    Args:
        source: a dataset's folder, or its address, such as s3://bucket/folder: see shards.remote.
        shuffle_buffer: groups held back, not yet read, to mix neighbouring ones; 1 keeps the order of the shards.
        cache, cache_bytes: see shards.remote.RemoteDataset.

    Raises:
        ValueError: no dataset there, fewer than n groups in it, or rank or worker out of range.
        DamageError: a shard is missing, truncated, or holds an image that does not decode.
    """
    if not 0 <= rank < world_size or not 0 <= worker < num_workers:
        raise ValueError(f"rank {rank} of {world_size}, worker {worker} of {num_workers}: count both from 0")
    shuffle_buffer = check_whole("shuffle_buffer", shuffle_buffer, 1)
    seed, epoch = (check_whole(name, value, 0, 2**63 - 1) for name, value in (("seed", seed), ("epoch", epoch)))
    dataset = open_dataset(source, n=n, cache=cache, cache_bytes=cache_bytes)
    shard_size = dataset.manifest.shard_size
    order = shard_order(-(-len(dataset) // shard_size), seed=seed, epoch=epoch)
    share = order[worker * world_size + rank :: world_size * num_workers]
    indices = (
        index for shard in share for index in range(shard * shard_size, min((shard + 1) * shard_size, len(dataset)))
    )
    mixing = random.Random(f"{seed}/{epoch}/{rank}/{worker}")
    return (dataset[index] for index in _mix(indices, shuffle_buffer, mixing))


def open_dataset(
    source: str | Path,
    *,
    n: int | str | None = None,
    cache: str | Path | None = None,
    cache_bytes: int | str | None = None,
) -> GroupDataset:
    """The first n groups of the dataset in a folder or at an address; only its manifest is read yet.

    Raises:
        ValueError: no dataset there, or fewer than n groups in it.
        DamageError: the manifest is damaged, or the network fails.
    """
    if is_address(source):
        return RemoteDataset(str(source), n=n, cache=cache, cache_bytes=cache_bytes)
    return GroupDataset(source, n=n)


def shard_order(num_shards: int, *, seed: int, epoch: int) -> list[int]:
    """The permutation of shards that an epoch follows; the same on every machine and in every numpy version."""
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(num_shards)
    return np.argsort(words, kind="stable").tolist()


def _mix(indices: Iterable[int], buffer: int, mixing: random.Random) -> Iterator[int]:
    """The same indices, each swapped with one of those that wait."""
    waiting: list[int] = []
    for index in indices:
        if len(waiting) < buffer:
            waiting.append(index)
            continue
        place = mixing.randrange(buffer)
        yield waiting[place]
        waiting[place] = index
    mixing.shuffle(waiting)
    yield from waiting
