"""A dataset elsewhere gives the groups of the same dataset here; shards come once, whole, checked."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shards import DamageError, GroupDataset, Manifest, RemoteDataset, fetching, open_dataset, remote, stream_groups
from shards.processes import host_tag
from tests.hub import serve_hub
from tests.object_store import serve_bucket

# The servers' and the clients' own code.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


class FileServer(ThreadingHTTPServer):
    """Files over HTTP; counts requests, and cuts off the answers for as many requests of a name as asked for."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        self.folder, self.asked, self.cut = folder, Counter[str](), Counter[str]()
        self.pause_seconds, self.stopping = 0.0, threading.Event()
        super().__init__(("127.0.0.1", 0), _FileHandler)

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _FileHandler(SimpleHTTPRequestHandler):
    server: FileServer

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, directory=str(args[2].folder), **options)

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        self.server.asked[name] += 1
        if self.server.cut[name]:
            self.server.cut[name] -= 1
            data = (self.server.folder / self.path.lstrip("/")).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.close_connection = True
            return
        if self.server.pause_seconds:
            return self._trickle((self.server.folder / ("data" if name.endswith(".tar") else "") / name).read_bytes())
        super().do_GET()

    def _trickle(self, data: bytes) -> None:
        self.send_response(200)
        for header, value in (
            ("Content-Length", str(len(data))), ("ETag", '"1"'), ("Last-Modified", self.date_time_string())
        ):  # fmt: skip
            self.send_header(header, value)
        self.end_headers()
        step = -(-len(data) // 10)
        with suppress(ConnectionError):  # the client has had enough
            for start in range(0, len(data), step):
                self.wfile.write(data[start : start + step])
                self.server.stopping.wait(self.server.pause_seconds)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server(shared_dataset: Path) -> Iterator[FileServer]:
    with FileServer(shared_dataset) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.stopping.set()
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "FIRST_PAUSE_SECONDS", 0.0)


def assert_same(there: GroupDataset, here: GroupDataset) -> None:
    images, labels = there.batch(range(len(there)))
    expected_images, expected_labels = here.batch(range(len(here)))
    assert np.array_equal(images, expected_images) and np.array_equal(labels, expected_labels)
    assert np.array_equal(there.labels, here.labels) and there[3].views == here[3].views


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


def test_other_bytes_than_promised_are_refused(dataset: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    tar = dataset / "data/train-000001.tar"
    data = bytearray(tar.read_bytes())
    data[700] ^= 1
    tar.write_bytes(data)
    with pytest.raises(DamageError, match=r"train-000001\.tar cannot be fetched, .* bytes of sha256"):
        RemoteDataset(f"file://{dataset}", cache=cache).batch([4])
    tar.unlink()
    with pytest.raises(DamageError, match=r"train-000001\.tar is missing: the manifest there promises it"):
        RemoteDataset(f"file://{dataset}", cache=cache).batch([4])
    assert not list(cache.iterdir())


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


def test_half_a_file_in_the_cache_is_fetched_again(shared_dataset: Path, tmp_path: Path) -> None:
    there = RemoteDataset(f"file://{shared_dataset}", cache=tmp_path)
    (tmp_path / f"{there.manifest.shards[0].sha256}.tar").write_bytes(b"half")
    assert_same(there, GroupDataset(shared_dataset))


def test_a_damaged_file_in_the_cache_comes_once_more(shared_dataset: Path, tmp_path: Path) -> None:
    there = RemoteDataset(f"file://{shared_dataset}", cache=tmp_path)
    cached = tmp_path / f"{there.manifest.shards[0].sha256}.tar"
    tar = (shared_dataset / "data/train-000000.tar").read_bytes()
    cached.write_bytes(b"?" * 512 + tar[512:])
    assert_same(there, GroupDataset(shared_dataset))
    assert cached.read_bytes() == tar


def test_the_name_of_a_damaged_image_is_that_of_the_caches_file(dataset: Path, tmp_path: Path) -> None:
    there = RemoteDataset(f"file://{dataset}", cache=tmp_path / "cache")
    there.fetch([0])
    cached = tmp_path / "cache" / f"{there.manifest.shards[0].sha256}.tar"
    data = bytearray(cached.read_bytes())
    data[512:530] = bytes(18)
    cached.write_bytes(data)
    with pytest.raises(DamageError, match=rf"anchor\.\w+ of train-000000\.tar in {cached} does not decode .*remove"):
        there.batch([0])


def test_a_cache_is_shared_by_datasets_of_one_process(
    server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both fetch the same shard at the same time, each under a name of its own."""
    both, names = threading.Barrier(2), []
    hash_file = remote._hash_file

    def hash_together(path: Path) -> tuple[str, int]:
        names.append(path.name)
        both.wait(timeout=60)
        found = hash_file(path)
        both.wait(timeout=60)
        return found

    monkeypatch.setattr(remote, "_hash_file", hash_together)
    datasets = [RemoteDataset(server.address, cache=tmp_path) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(lambda dataset: dataset.images(0), datasets)
    assert np.array_equal(first, second) and len(set(names)) == 2
    assert [path.suffix for path in tmp_path.iterdir()] == [".tar"]


def test_a_shard_that_another_process_drops_meanwhile_comes_again(
    server: FileServer, shared_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = RemoteDataset(server.address, cache=tmp_path)
    map_file, dropped = remote.map_file, []

    def drop_and_map(path: Path, damage: Any) -> memoryview:
        if not dropped:
            dropped.append(path)
            path.unlink()
        return map_file(path, damage)

    monkeypatch.setattr(remote, "map_file", drop_and_map)
    assert np.array_equal(dataset.images(0), GroupDataset(shared_dataset).images(0))
    assert dropped and server.asked["train-000000.tar"] == 2


def test_somebody_elses_cache_can_be_read(
    shared_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RemoteDataset(f"file://{shared_dataset}", cache=tmp_path).fetch(range(3))

    def forbid(path: Path) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted", str(path))

    monkeypatch.setattr(remote.os, "utime", forbid)
    assert_same(RemoteDataset(f"file://{shared_dataset}", cache=tmp_path), GroupDataset(shared_dataset))


def test_a_full_disk_is_told_at_once(server: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = RemoteDataset(server.address, cache=tmp_path)
    (tmp_path / f".x.tar.0.{host_tag()}.{2**22 + 1}.tmp").touch()  # of a process that is gone
    with monkeypatch.context() as patch:
        patch.setattr(remote.shutil, "disk_usage", lambda folder: SimpleNamespace(free=100))
        with pytest.raises(OSError, match="No room for a shard of ") as caught:
            dataset.images(0)
    assert caught.value.errno == errno.ENOSPC and caught.value.filename == str(tmp_path)
    assert not server.asked["train-000000.tar"] and not list(tmp_path.iterdir())

    def overflow(path: Path) -> tuple[str, int]:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(remote, "_hash_file", overflow)
    with pytest.raises(OSError, match="quota") as caught:
        dataset.images(0)
    assert str(tmp_path) in caught.value.filename and server.asked["train-000000.tar"] == 1, "no second try"


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


def test_the_cache_keeps_to_its_size(tmp_path: Path, build: Callable[..., Manifest]) -> None:
    manifest = build(tmp_path / "d", 24, shard_size=4)
    size = manifest.shards[0].bytes
    dataset = RemoteDataset(f"file://{tmp_path}/d", cache=tmp_path / "cache", cache_bytes=2 * size)
    for index in (0, 4, 8, 12, 0, 20):
        assert np.array_equal(dataset.images(index), GroupDataset(tmp_path / "d").images(index))
        assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 2 * size
    with pytest.raises(ValueError, match=r"does not hold one shard of .*: give a larger --cache-bytes"):
        RemoteDataset(f"file://{tmp_path}/d", cache=tmp_path / "cache", cache_bytes=size - 1)


def test_many_threads_fetch_a_shard_once(server: FileServer, tmp_path: Path) -> None:
    dataset = RemoteDataset(server.address, cache=tmp_path)
    threads = [threading.Thread(target=dataset.batch, args=([4],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked["train-000001.tar"] == 1


def test_a_dataset_travels_to_other_processes(shared_dataset: Path, tmp_path: Path) -> None:
    there = pickle.loads(pickle.dumps(RemoteDataset(f"file://{shared_dataset}", cache=tmp_path)))
    assert_same(there, GroupDataset(shared_dataset))


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ValueError, match=r"this needs the extra remote .*: pip install -e '\.\[remote\]' in the clone"):
        open_dataset("s3://bucket/demo")
    with pytest.raises(ValueError, match="s3:// names no place: give an address such as s3://bucket/folder"):
        open_dataset("s3://")
    with pytest.raises(ValueError, match="give a folder, s3://"):
        open_dataset("carrier-pigeon://bucket/demo")
