"""Bytes from real servers: object stores, the hub, connections that break or go silent, missing credentials."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from shards import DamageError, GroupDataset, RemoteDataset, fetching, open_dataset, stream_groups
from tests.file_server import FileServer
from tests.hub import serve_hub
from tests.object_store import serve_bucket
from tests.shards.samples import assert_same

# The servers' and the clients' own code.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FIRST_PAUSE_SECONDS", 0.0)


def test_from_an_object_store(shared_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with serve_bucket(monkeypatch, shared_dataset, bucket="renders") as address:
        assert_same(open_dataset(address, cache=tmp_path), GroupDataset(shared_dataset))
        streamed = [group.index for group in stream_groups(address, seed=1, cache=tmp_path)]
        assert streamed == [group.index for group in stream_groups(shared_dataset, seed=1)]
        with pytest.raises(ValueError, match=r"s3://renders/nowhere/manifest.json cannot be read: nothing there"):
            open_dataset("s3://renders/nowhere")


READ_HUB = """
import sys
import numpy as np
from shards import open_dataset
cache, out = sys.argv[1:]
prefix = open_dataset("hf://datasets/someone/demo", n=5, cache=cache)
images, labels = prefix.batch(range(5))
whole = open_dataset("hf://datasets/someone/demo@main", cache=cache)
np.savez(out, images=images, labels=labels, last=whole.images(len(whole) - 1))
for address in ("hf://datasets/someone/nothing", "hf://datasets/someone/demo/nowhere", "hf://datasets"):
    try:
        open_dataset(address, cache=cache)
    except ValueError as error:
        print(error)
"""


def test_from_the_hub(shared_dataset: Path, tmp_path: Path) -> None:
    """Hugging Face's own client, and what it asks of a server."""
    here = GroupDataset(shared_dataset)
    with serve_hub(shared_dataset, name="someone/demo") as hub:
        command = [sys.executable, "-c", READ_HUB, tmp_path / "cache", tmp_path / "read.npz"]
        environment = {**os.environ, "HF_ENDPOINT": hub.address, "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
        said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
        tars = [f"data/train-{index:06d}.tar" for index in (0, 1, (len(here) - 1) // here.manifest.shard_size)]
        assert hub.fetched == {"manifest.json": 2, **dict.fromkeys(tars, 1)}, "shards come once, those that are needed"
    read = np.load(tmp_path / "read.npz")
    for found, expected in zip((read["images"], read["labels"]), here.batch(range(5)), strict=True):
        np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(read["last"], here.images(len(here) - 1))
    places = [line.partition(" cannot be read")[0] for line in said.splitlines()]
    assert places == [
        f"hf://datasets{name}/manifest.json" for name in ("/someone/nothing", "/someone/demo/nowhere", "")
    ]
    assert all(line.endswith("check the address") for line in said.splitlines())


def test_a_cut_connection_is_tried_again(server: FileServer, shared_dataset: Path, tmp_path: Path) -> None:
    server.cut["train-000001.tar"] = fetching.MOST_ATTEMPTS - 1
    assert_same(RemoteDataset(server.address, cache=tmp_path), GroupDataset(shared_dataset))
    assert server.asked["train-000001.tar"] == fetching.MOST_ATTEMPTS


def test_a_dead_network_is_one_line_and_leaves_nothing(server: FileServer, tmp_path: Path) -> None:
    dataset = RemoteDataset(server.address, cache=tmp_path)
    server.cut["train-000001.tar"] = 100
    with pytest.raises(DamageError, match=r"train-000001\.tar cannot be fetched, 4 times tried") as caught:
        dataset.batch([4])
    assert "\n" not in str(caught.value)
    assert server.asked["train-000001.tar"] == fetching.MOST_ATTEMPTS and not list(tmp_path.iterdir())


@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_a_shard_may_take_its_time_but_a_silent_server_may_not(
    server: FileServer, shared_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    address = server.address
    if scheme == "s3":  # whose paths are /bucket/key
        for name, value in {"ENDPOINT_URL": address, "ALLOW_HTTP": "true", "SKIP_SIGNATURE": "true"}.items():
            monkeypatch.setenv(f"AWS_{name}", value)
        address = "s3://bucket"
    monkeypatch.setattr(fetching, "READ_SECONDS", 1)
    server.pause_seconds = 0.15  # ten times
    dataset = RemoteDataset(address, n=1, cache=tmp_path)
    assert np.array_equal(dataset.images(0), GroupDataset(shared_dataset).images(0))
    whole = RemoteDataset(address, cache=tmp_path)
    server.pause_seconds = 60
    with pytest.raises(DamageError, match=r"train-000001\.tar cannot be fetched, 4 times tried"):
        whole.fetch([1])


def test_a_place_that_asks_for_credentials_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError("Error performing PUT http://169.254.169.254/latest/api/token: 403 Forbidden")

    monkeypatch.setattr(fetching, "FIRST_PAUSE_SECONDS", 0.0)
    with pytest.raises(ValueError, match=r"s3://b/d asks for credentials .* set AWS_ACCESS_KEY_ID .* HF_TOKEN"):
        fetching.retrying(refuse, "s3://b/d")


@pytest.mark.parametrize("reason", ["range 401-500 cut", "403 bytes of 500", "404: no bucket credential-tests"])
def test_other_failures_ask_for_none(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise OSError(reason)

    monkeypatch.setattr(fetching, "FIRST_PAUSE_SECONDS", 0.0)
    with pytest.raises(DamageError, match="cannot be fetched, 4 times tried"):
        fetching.retrying(fail, "https://forbidden-planets/d")


FORKED = """
import multiprocessing, sys
from shards import open_dataset
dataset = open_dataset(sys.argv[1], cache=sys.argv[2])
def read():
    try:
        dataset.images(0)
    except ValueError as error:
        print(error, flush=True)
process = multiprocessing.get_context("fork").Process(target=read)
process.start()
process.join()
print(dataset.images(0).shape)
"""


def test_a_bucket_in_a_forked_process_is_refused(
    shared_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its client would wait for ever there."""
    with serve_bucket(monkeypatch, shared_dataset, bucket="renders") as address:
        command = [sys.executable, "-W", "ignore", "-c", FORKED, address, tmp_path]
        said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120).stdout.splitlines()
    assert len(said) == 2 and "cannot be read in a forked process; start it with multiprocessing's spawn" in said[0]
    assert said[1].startswith("(")


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ValueError, match=r"this needs the extra remote .*: pip install -e '\.\[remote\]' in the clone"):
        open_dataset("s3://bucket/demo")
    with pytest.raises(ValueError, match="s3:// names no place: give an address such as s3://bucket/folder"):
        open_dataset("s3://")
    with pytest.raises(ValueError, match="give a folder, s3://"):
        open_dataset("carrier-pigeon://bucket/demo")
