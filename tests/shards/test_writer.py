"""Shards are published whole or not at all, to the same bytes every time."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from shards import (
    GroupDataset,
    ShardWriter,
)
from tests.shards.samples import RENDER, Build, MakeRecipe, hashes

GOLDEN_TAR = "d4cfc6bfb0f43f14d66869cadfd43bb87efd9ab47aa2ece772cabae36510fe65"


def test_the_bytes_of_a_shard_are_pinned(tmp_path: Path, recipe: MakeRecipe) -> None:
    with ShardWriter(
        tmp_path, recipe=recipe(), render=RENDER, shard_index=0, first=0, count=3, class_names={3: "cat", 5: "café"}
    ) as writer:
        for index in range(3):
            writer.add(
                label=(3, 5, 3)[index],
                images=[bytes([index]) * 700, b"view"],
                views=[{"policy": "gaussian", "std": 0.3, "shift": 0.1 * index}],
            )
        record = writer.publish(environment={}, seconds=1.0, stages={})
    tar = (tmp_path / "data/train-000000.tar").read_bytes()
    assert hashlib.sha256(tar).hexdigest() == record.sha256 == GOLDEN_TAR
    assert (record.name, record.first, record.count, record.bytes) == ("train-000000.tar", 0, 3, len(tar))


def test_two_datasets_of_one_recipe_are_byte_identical(tmp_path: Path, build: Build) -> None:
    build(tmp_path / "a", 10)
    build(tmp_path / "b", 10)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_the_files_are_those_of_the_contract(dataset: Path) -> None:
    names = sorted(path.relative_to(dataset).as_posix() for path in dataset.rglob("*") if path.is_file())
    shard_files = [f"data/train-00000{i}.{end}" for i in range(3) for end in ("done.json", "index.npy", "tar")]
    assert names == [".lock", ".turn", "README.md", "SHA256SUMS", "_info.json", *shard_files, "manifest.json"]
    marker = json.loads((dataset / "data/train-000002.done.json").read_text())
    assert (marker["index"], marker["first"], marker["count"], marker["stages"]) == (2, 8, 2, {"encode": 0.5})
    assert marker["bytes"] == (dataset / "data/train-000002.tar").stat().st_size
    assert np.load(dataset / "data/train-000002.index.npy").shape == (2, 1 + 2 * 3)


def test_growing_keeps_finished_shards_and_the_prefix(tmp_path: Path, build: Build) -> None:
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    build(grown, 6)
    small = hashes(grown)
    prefix = (grown / "data/train-000001.tar").read_bytes()
    before = (grown / "data/train-000000.tar").stat()
    build(grown, 10)
    build(whole, 10)
    assert hashes(grown) == hashes(whole)
    assert (grown / "data/train-000000.tar").stat() == before
    assert hashes(grown)["data/train-000000.tar"] == small["data/train-000000.tar"]
    members = prefix.rstrip(b"\0")
    assert (grown / "data/train-000001.tar").read_bytes().startswith(members)


def test_readers_of_the_smaller_dataset_go_on_while_it_grows(
    tmp_path: Path, build: Build, build_shard: Callable[..., None], recipe: MakeRecipe
) -> None:
    build(tmp_path / "d", 6)
    opened = GroupDataset(tmp_path / "d")
    before = opened.batch(range(6))[0]
    build_shard(tmp_path / "d", recipe(), 1, 4, 4)  # the short shard is replaced; the manifest is still the old one
    late = GroupDataset(tmp_path / "d")
    assert len(late) == 6
    assert np.array_equal(opened.batch(range(6))[0], before) and np.array_equal(late.batch(range(6))[0], before)


def test_leaving_without_publishing_leaves_nothing(
    tmp_path: Path, recipe: MakeRecipe, fill: Callable[..., None]
) -> None:
    def fail() -> None:
        with ShardWriter(
            tmp_path, recipe=recipe(), render=RENDER, shard_index=0, first=0, count=2, class_names={3: "cat"}
        ) as writer:
            fill(writer, 0, recipe())
            raise RuntimeError("the generator failed")

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "data").iterdir()) == []


def test_our_own_mistakes_are_caught(tmp_path: Path, recipe: MakeRecipe) -> None:
    view = {"policy": "gaussian", "std": 0.3}

    def writer() -> ShardWriter:
        return ShardWriter(
            tmp_path, recipe=recipe(), render=RENDER, shard_index=0, first=0, count=2, class_names={3: "cat"}
        )

    with writer() as w, pytest.raises(AssertionError, match="1 of 2"):
        w.add(label=3, images=[b"", b""], views=[view])
        w.publish(environment={}, seconds=0, stages={})
    with writer() as w, pytest.raises(AssertionError, match="class 4"):
        w.add(label=4, images=[b"", b""], views=[view])
    with writer() as w, pytest.raises(AssertionError, match="group 0"):
        w.add(label=3, images=[b""], views=[view])
    with writer() as w, pytest.raises(AssertionError, match="keys or types"):
        w.add(label=3, images=[b"", b""], views=[view])
        w.add(label=3, images=[b"", b""], views=[{**view, "std": 1}])


def test_a_full_disk_names_the_file_and_leaves_no_trace(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from shards import Recipe, RenderSettings, ShardWriter

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
recipe = Recipe(source={}, classes=(), views=(), seed=0, image={"size": 8, "format": "png"})
render = RenderSettings(batch_size=4, dtype="float32")
try:
    with ShardWriter(
        Path(sys.argv[1]), recipe=recipe, render=render, shard_index=0, first=0, count=9, class_names={}
    ) as writer:
        for _ in range(9):
            writer.add(label=-1, images=[bytes(300_000)], views=[])
        writer.publish(environment={}, seconds=0, stages={})
except OSError as error:
    print(error.filename, error.strerror)
"""
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert result.stdout == f"{tmp_path}/data/train-000000.tar File too large\n"
    assert list((tmp_path / "data").iterdir()) == []
