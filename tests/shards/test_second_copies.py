"""A shard that was rendered twice: the second copy is discarded, whatever its bytes, where the first one is whole."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from shards import Recipe, ShardWriter, verify
from shards.folder import finish_dataset
from tests.shards.samples import RENDER, Build


def write_copy(directory: Path, recipe: Recipe, size: int) -> ShardWriter:
    writer = ShardWriter(
        directory,
        recipe=recipe,
        render=RENDER,
        shard_index=0,
        first=0,
        count=4,
        class_names={3: "cat", 5: "dog", 8: "ship"},
    )
    for index in range(4):
        writer.add(
            label=recipe.classes[index % 3], images=[bytes(size + index)] * 2, views=[{"policy": "x", "std": 1.0}]
        )
    return writer


@pytest.mark.parametrize("other_bytes", [False, True], ids=["same bytes", "another device's bytes"])
def test_the_second_copy_of_a_shard_is_discarded(
    tmp_path: Path, recipe: Callable[..., Recipe], other_bytes: bool
) -> None:
    with write_copy(tmp_path, recipe(), 60 if other_bytes else 50) as second:
        with write_copy(tmp_path, recipe(), 50) as first:
            record = first.publish(environment={}, seconds=1.0, stages={})
        before = {path.name: (path.read_bytes(), path.stat().st_ino) for path in (tmp_path / "data").glob("train-*")}
        assert second.publish(environment={}, seconds=9.0, stages={}) == record
    after = {path.name: (path.read_bytes(), path.stat().st_ino) for path in (tmp_path / "data").iterdir()}
    assert after == before
    assert hashlib.sha256((tmp_path / "data/train-000000.tar").read_bytes()).hexdigest() == record.sha256


@pytest.mark.parametrize("lost", ["train-000000.tar", "train-000000.index.npy"])
def test_a_copy_of_a_shard_of_which_a_file_was_lost_takes_its_place(
    dataset: Path, build_shard: Callable[..., None], recipe: Callable[..., Recipe], lost: str
) -> None:
    (dataset / "data" / lost).unlink()
    build_shard(dataset, recipe(), 0, 0, 4)
    assert verify(dataset).ok


def test_a_late_copy_of_a_shard_that_has_grown_is_discarded(tmp_path: Path, build: Build, build_shard, recipe) -> None:
    """A worker that slept through the end of a dataset of 10 groups, and its growth to 12."""
    build(tmp_path, 10)
    grown = build(tmp_path, 12)
    build_shard(tmp_path, recipe(), 2, 8, 2)
    assert finish_dataset(tmp_path, num_groups=12, shard_size=4) == grown
    assert grown.shards[2].count == 4
