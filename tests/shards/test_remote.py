"""A dataset elsewhere gives the groups of the same dataset here; shards come once, whole, checked."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from shards import GroupDataset, RemoteDataset
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


def test_only_the_shards_of_a_prefix_come(server: FileServer, tmp_path: Path) -> None:
    dataset = RemoteDataset(f"{server.address}/", n=6, cache=tmp_path)
    assert len(dataset) == 6 and not list(tmp_path.iterdir())
    dataset.batch([5, 0])
    assert not server.asked["train-000002.tar"]
    with pytest.raises(ValueError, match=f"--n 11: {server.address} holds 10 groups"):
        RemoteDataset(server.address, n=11, cache=tmp_path)


def test_a_dataset_travels_to_other_processes(shared_dataset: Path, tmp_path: Path) -> None:
    there = pickle.loads(pickle.dumps(RemoteDataset(f"file://{shared_dataset}", cache=tmp_path)))
    assert_same(there, GroupDataset(shared_dataset))
