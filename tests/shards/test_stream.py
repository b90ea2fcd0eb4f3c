"""A stream gives every group exactly once over all ranks and workers, in an order that (seed, epoch) decides."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards import DamageError, GroupDataset, Manifest, stream_groups
from shards.stream import shard_order


def indices(source: Path | str, **options: Any) -> list[int]:
    return [group.index for group in stream_groups(source, **options)]


@pytest.mark.parametrize(("ranks", "workers"), [(1, 1), (2, 1), (1, 3), (3, 2), (4, 4)])
@pytest.mark.parametrize("n", [None, 1, 6, 10])
def test_every_group_exactly_once(shared_dataset: Path, ranks: int, workers: int, n: int | None) -> None:
    seen: Counter[int] = Counter()
    for rank in range(ranks):
        for worker in range(workers):
            seen.update(
                group.index
                for group in stream_groups(
                    shared_dataset, n=n, epoch=5, rank=rank, world_size=ranks, worker=worker, num_workers=workers
                )
            )
    assert seen == Counter(range(n or 10))


def test_groups_are_those_of_random_access(shared_dataset: Path) -> None:
    dataset = GroupDataset(shared_dataset)
    for group in stream_groups(shared_dataset):
        other = dataset[group.index]
        assert np.array_equal(group.images, other.images)
        assert (group.label, group.class_name, group.views) == (other.label, other.class_name, other.views)


def test_the_order_is_a_function_of_seed_and_epoch(tmp_path: Path, build: Callable[..., Manifest]) -> None:
    build(tmp_path / "d", 30, shard_size=5)
    first = indices(tmp_path / "d", seed=1, epoch=0, shuffle_buffer=8)
    assert first == indices(tmp_path / "d", seed=1, epoch=0, shuffle_buffer=8)
    others = [
        indices(tmp_path / "d", seed=seed, epoch=epoch, shuffle_buffer=8) for seed, epoch in [(1, 1), (1, 2), (2, 0)]
    ]
    assert len({tuple(order) for order in [first, *others]}) == 4
    shards = [index // 5 for index in indices(tmp_path / "d", seed=1, shuffle_buffer=1)]
    assert shards[::5] == shard_order(6, seed=1, epoch=0)


def test_groups_of_one_shard_are_mixed_too_and_differently_in_every_epoch(
    tmp_path: Path, build: Callable[..., Manifest]
) -> None:
    build(tmp_path / "d", 30, shard_size=30)
    orders = [indices(tmp_path / "d", seed=seed, epoch=epoch) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    orders.append(indices(tmp_path / "d", shuffle_buffer=8))
    assert len({tuple(order) for order in [*orders, range(30)]}) == 5
    firsts = {next(stream_groups(tmp_path / "d", seed=seed, shuffle_buffer=8)).index for seed in range(20)}
    assert firsts <= set(range(8)) and len(firsts) > 3, "any of those that wait comes first"


def test_no_two_ranks_mix_their_shards_alike(tmp_path: Path, build: Callable[..., Manifest]) -> None:
    build(tmp_path / "d", 60, shard_size=30)
    orders = [[index % 30 for index in indices(tmp_path / "d", rank=rank, world_size=2)] for rank in (0, 1)]
    assert orders[0] != orders[1]


def test_the_order_of_shards_is_pinned() -> None:
    assert shard_order(8, seed=0, epoch=0) == [0, 2, 1, 5, 4, 3, 6, 7]
    assert shard_order(8, seed=0, epoch=1) == [5, 3, 7, 2, 4, 1, 0, 6]


def test_ranks_get_shards_before_workers_do(shared_dataset: Path) -> None:
    counts = [len(indices(shared_dataset, rank=rank, world_size=3, num_workers=4)) for rank in range(3)]
    assert sorted(counts) == [2, 4, 4]


def test_an_address_works_as_a_folder_does(shared_dataset: Path, tmp_path: Path) -> None:
    options = {"epoch": 3, "cache": tmp_path}
    assert indices(f"file://{shared_dataset}", **options) == indices(shared_dataset, epoch=3)
    with pytest.raises(ValueError, match="check the address"):
        stream_groups(f"file://{shared_dataset}/nowhere")


def test_a_stream_may_be_left_early(shared_dataset: Path) -> None:
    stream = stream_groups(shared_dataset, shuffle_buffer=1)
    next(stream)
    stream.close()  # a file left open would be an error here


def test_bad_arguments(shared_dataset: Path) -> None:
    with pytest.raises(ValueError, match=r"--n 11: .*ask for fewer"):
        stream_groups(shared_dataset, n=11)
    with pytest.raises(ValueError, match="count both from 0"):
        stream_groups(shared_dataset, rank=1)
    with pytest.raises(ValueError, match="shuffle-buffer"):
        stream_groups(shared_dataset, shuffle_buffer=0)


def test_damage_is_named(dataset: Path) -> None:
    tar = dataset / "data/train-000001.tar"
    whole = tar.read_bytes()
    tar.write_bytes(whole[: len(whole) // 2 + 100])
    with pytest.raises(DamageError, match="shards verify"):
        indices(dataset)
    tar.write_bytes(whole[: whole.index(b"000000006.anchor.jpg")])  # cut between groups, which tar readers accept
    with pytest.raises(DamageError, match=r"train-000001\.tar is truncated"):
        indices(dataset)
    tar.write_bytes(whole.replace(b"\xff\xd8", b"\0\0"))
    with pytest.raises(DamageError, match=r"00000000\d.anchor.jpg in .*train-000001.tar does not decode"):
        indices(dataset)
    os.unlink(tar)
    with pytest.raises(DamageError, match=r"train-000001\.tar"):
        indices(dataset)
