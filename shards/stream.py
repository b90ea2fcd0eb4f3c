"""Groups in the order of a stream, through webdataset, for data that is not on a local disk.

    for group in stream_groups("https://example.org/demo", seed=0, epoch=3, rank=1, world_size=8):
        group.images

The order of shards is ours: permuted by (seed, epoch) over the whole dataset first, then dealt to ranks and workers.
webdataset splits before it shuffles, repeats the order in every epoch, and stops where a worker has no shard.
"""

from __future__ import annotations

import json
import random
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from shards.codec import decode_into
from shards.console import DamageError
from shards.dataset import Group
from shards.manifest import DATA_FOLDER, MANIFEST_NAME, Manifest, load_manifest, member_names, parse_manifest

_SHUFFLE_GROUPS = 1000


def stream_groups(
    source: str | Path,
    *,
    n: int | None = None,
    seed: int = 0,
    epoch: int = 0,
    rank: int = 0,
    world_size: int = 1,
    worker: int = 0,
    num_workers: int = 1,
    shuffle_buffer: int = _SHUFFLE_GROUPS,
) -> Iterator[Group]:
    """One worker's share of an epoch: over all ranks and workers, every one of the first n groups exactly once.

    Shares are whole shards, so they differ in length, and a worker's share is empty where there are more workers than
    shards. The order is a function of the arguments.

    Args:
        source: a dataset's folder, or its address in any scheme that webdataset opens (https, s3 by pipe, gs, hf).
        shuffle_buffer: groups held back, encoded, to mix neighbouring ones; 1 keeps the order of the shards.

    Raises:
        ValueError: no dataset there, fewer than n groups in it, or rank or worker out of range.
        DamageError: a shard is missing, truncated, or holds an image that does not decode.
    """
    if not 0 <= rank < world_size or not 0 <= worker < num_workers:
        raise ValueError(f"rank {rank} of {world_size}, worker {worker} of {num_workers}: count both from 0")
    if shuffle_buffer < 1:
        raise ValueError(f"shuffle buffer {shuffle_buffer}: give a whole number above 0")
    manifest = _open_manifest(source)
    if n is not None and not 1 <= n <= manifest.num_groups:
        raise ValueError(f"--n {n}: {source} holds {manifest.num_groups} groups; render more or ask for fewer")
    num_groups = manifest.num_groups if n is None else n
    order = shard_order(-(-num_groups // manifest.shard_size), seed=seed, epoch=epoch)
    share = order[worker * world_size + rank :: world_size * num_workers]
    mixing = random.Random(f"{seed}/{epoch}/{rank}/{worker}")
    return _stream(str(source).rstrip("/"), manifest, share, num_groups, mixing, shuffle_buffer)


def shard_order(num_shards: int, *, seed: int, epoch: int) -> list[int]:
    """The permutation of shards that an epoch follows; the same on every machine and in every numpy version."""
    words = np.random.Philox(key=np.array([seed, epoch], np.uint64)).random_raw(num_shards)
    return np.argsort(words, kind="stable").tolist()


def _stream(
    source: str, manifest: Manifest, share: list[int], num_groups: int, mixing: random.Random, shuffle_buffer: int
) -> Iterator[Group]:
    if not share:
        return
    from webdataset import filters, tariterators

    urls = [f"{source}/{DATA_FOLDER}/{manifest.shards[index].name}" for index in share]
    expected = sum(min(manifest.shards[index].count, num_groups - manifest.shards[index].first) for index in share)
    files = tariterators.tar_file_expander(_open_each(urls), select_files=lambda name: int(name[:9]) < num_groups)
    samples = filters.shuffle(shuffle_buffer, initial=shuffle_buffer, rng=mixing)(tariterators.group_by_keys(files))
    count = 0
    try:
        for sample in samples:
            yield _decode(sample, manifest)
            count += 1
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DamageError(f"{source}: a shard cannot be read ({error}); shards verify says which") from error
    if count != expected:
        raise DamageError(f"{source}: the shards hold {count} groups of {expected}; shards verify says which")


def _decode(sample: dict[str, Any], manifest: Manifest) -> Group:
    image = manifest.recipe.image
    images = np.empty((manifest.num_images, image["size"], image["size"], 3), np.uint8)
    names = member_names(manifest.recipe)[: manifest.num_images]
    try:
        for name, place in zip(names, images, strict=True):
            decode_into(sample[name], image["format"], place)
        metadata = json.loads(sample["json"])
    except KeyError as error:
        raise DamageError(f"group {sample['__key__']} in {sample['__url__']} has no member {error}") from error
    except ValueError as error:
        raise DamageError(f"group {sample['__key__']} in {sample['__url__']} does not decode ({error})") from error
    return Group(
        index=metadata["index"],
        label=metadata["label"],
        class_name=metadata["class_name"],
        images=images,
        views=metadata["views"],
    )


def _open_each(urls: list[str]) -> Iterator[dict[str, Any]]:
    """Opens one shard at a time, and closes it, which webdataset's own opener leaves to the garbage collector."""
    from webdataset.gopen import gopen

    for url in urls:
        with gopen(url) as stream:
            yield {"url": url, "stream": stream}


def _open_manifest(source: str | Path) -> Manifest:
    if "://" not in str(source):
        return load_manifest(Path(source))
    from webdataset.gopen import gopen

    path = f"{str(source).rstrip('/')}/{MANIFEST_NAME}"
    try:
        with gopen(path) as stream:
            text = stream.read()
    except OSError as error:
        raise ValueError(f"{path} cannot be read ({error}): check the address") from error
    return parse_manifest(text, path)
