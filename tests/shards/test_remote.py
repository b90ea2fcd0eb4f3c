"""A dataset elsewhere gives the groups of the same dataset here; shards come once, whole, checked."""

from __future__ import annotations

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from shards import DamageError, GroupDataset, RemoteDataset
from shards.fetching import MOST_ATTEMPTS, AbandonedError
from tests.file_server import FileServer
from tests.shards.samples import assert_same

# The servers' and the clients' own code.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


def test_over_http_every_shard_comes_once(server: FileServer, shared_dataset: Path, tmp_path: Path) -> None:
    for _ in range(2):
        assert_same(RemoteDataset(server.address, cache=tmp_path), GroupDataset(shared_dataset))
    assert {name: count for name, count in server.asked.items() if name.endswith(".tar")} == {
        f"train-00000{index}.tar": 1 for index in range(3)
    }
    assert not [name for name in server.asked if name.endswith(".npy")]  # the tars are enough
    assert sorted(path.suffix for path in tmp_path.iterdir()) == [".tar"] * 3


def test_only_the_shards_of_a_prefix_come(server: FileServer, shared_dataset: Path, tmp_path: Path) -> None:
    dataset = RemoteDataset(f"{server.address}/", n=6, cache=tmp_path)
    assert len(dataset) == 6 and not list(tmp_path.iterdir())
    dataset.batch([5, 0])
    assert dataset.labels.tolist() == GroupDataset(shared_dataset, n=6).labels.tolist()
    assert not server.asked["train-000002.tar"]
    with pytest.raises(ValueError, match=f"--n 11: {server.address} holds 10 groups"):
        RemoteDataset(server.address, n=11, cache=tmp_path)


def test_a_dataset_travels_to_other_processes(shared_dataset: Path, tmp_path: Path) -> None:
    there = pickle.loads(pickle.dumps(RemoteDataset(f"file://{shared_dataset}", cache=tmp_path)))
    assert_same(there, GroupDataset(shared_dataset))


def test_a_shard_that_does_not_end_is_not_written_to_the_end(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.endless.add("train-000001.tar")
    monkeypatch.setattr("shards.fetching.MOST_ATTEMPTS", 1)
    dataset = RemoteDataset(server.address, cache=tmp_path)
    with pytest.raises(DamageError, match=rf"bytes came and more, not {dataset.manifest.shards[1].bytes}"):
        dataset.batch([5])
    assert not list(tmp_path.iterdir())


def test_who_waited_for_a_shard_that_did_not_come_does_not_ask_again(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.cut["train-000001.tar"] = 100
    monkeypatch.setattr("shards.fetching.FIRST_PAUSE_SECONDS", 0.2)
    dataset = RemoteDataset(server.address, cache=tmp_path)
    with ThreadPoolExecutor(6) as pool:
        loads = [pool.submit(dataset.batch, [5]) for _ in range(6)]
    assert all(isinstance(load.exception(), DamageError) for load in loads)
    assert server.asked["train-000001.tar"] == MOST_ATTEMPTS
    with pytest.raises(DamageError):
        dataset.batch([5])
    assert server.asked["train-000001.tar"] == 2 * MOST_ATTEMPTS, "who comes later tries anew"


def test_what_was_abandoned_is_not_waited_for(server: FileServer, tmp_path: Path) -> None:
    server.silent.add("train-000001.tar")
    dataset = RemoteDataset(server.address, cache=tmp_path)
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(dataset.batch, [5])
        while not server.asked["train-000001.tar"]:
            os.sched_yield()
        dataset.cache.abandoned.set()
        assert isinstance(load.exception(timeout=30), AbandonedError)
    with pytest.raises(AbandonedError):
        dataset.batch([0])
    dataset.cache.abandoned.clear()
    assert dataset.batch([0])[0].shape[0] == 1
