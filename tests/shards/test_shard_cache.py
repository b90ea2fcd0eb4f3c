"""The cache of fetched shards: damage in it, its size, who shares it, a full disk."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from shards import DamageError, GroupDataset, Manifest, RemoteDataset, remote
from shards.processes import host_tag
from tests.file_server import FileServer
from tests.shards.samples import assert_same

# The servers' and the clients' own code.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


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


def test_half_a_file_in_the_cache_is_fetched_again(shared_dataset: Path, tmp_path: Path) -> None:
    there = RemoteDataset(f"file://{shared_dataset}", cache=tmp_path)
    (tmp_path / f"{there.manifest.shards[0].sha256}.tar").write_bytes(b"half")
    assert_same(there, GroupDataset(shared_dataset))


@pytest.mark.parametrize("place", [0, 900], ids=["a header", "a pixel"])
def test_a_damaged_file_in_the_cache_comes_once_more(shared_dataset: Path, tmp_path: Path, place: int) -> None:
    there = RemoteDataset(f"file://{shared_dataset}", cache=tmp_path)
    cached = tmp_path / f"{there.manifest.shards[0].sha256}.tar"
    tar = (shared_dataset / "data/train-000000.tar").read_bytes()
    cached.write_bytes(tar[:place] + bytes([tar[place] ^ 1]) + tar[place + 1 :])
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

    def hash_together(path: Path, **options: bool) -> tuple[str, int]:
        names.append(path.name)
        both.wait(timeout=60)
        found = hash_file(path, **options)
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


def test_a_shard_that_another_process_drops_while_it_is_looked_at_comes_again(
    server: FileServer, shared_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    RemoteDataset(server.address, cache=tmp_path).fetch([0])
    hash_file, dropped = remote._hash_file, []

    def drop_and_hash(path: Path, **options: bool) -> tuple[str, int]:
        if not dropped:
            dropped.append(path)
            path.unlink()
        return hash_file(path, **options)

    monkeypatch.setattr(remote, "_hash_file", drop_and_hash)
    there = RemoteDataset(server.address, cache=tmp_path)
    assert np.array_equal(there.images(0), GroupDataset(shared_dataset).images(0))
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

    def overflow(path: Path, **options: bool) -> tuple[str, int]:
        raise OSError(errno.EDQUOT, "Disk quota exceeded")

    monkeypatch.setattr(remote, "_hash_file", overflow)
    with pytest.raises(OSError, match="quota") as caught:
        dataset.images(0)
    assert str(tmp_path) in caught.value.filename and server.asked["train-000000.tar"] == 1, "no second try"


@pytest.mark.parametrize(
    ("code", "below", "fix"),
    [
        (errno.EROFS, "x.tar", "(give another --cache)"),
        (errno.ENOSPC, "x.tar", "(make room in the cache of shards, or give another --cache)"),
        (errno.EACCES, None, ""),  # of the source, which is elsewhere
        (errno.EIO, "x.tar", ""),
    ],
)
def test_what_the_cache_cannot_write_names_the_cache_and_what_it_cannot_read_does_not(
    shared_dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, below: str | None, fix: str
) -> None:
    cache = tmp_path / "cache"
    where = str(cache / below if below else shared_dataset / "data/train-000000.tar")

    def refuse(*rest: object) -> None:
        raise OSError(code, os.strerror(code), where)

    monkeypatch.setattr(remote.ShardCache, "_bring", refuse)
    with pytest.raises(OSError, match=os.strerror(code)) as caught:
        RemoteDataset(f"file://{shared_dataset}", cache=cache).images(0)
    assert caught.value.filename == (str(cache) if fix else where)
    assert (caught.value.strerror or "").endswith(fix or os.strerror(code))


def test_the_cache_keeps_to_its_size(tmp_path: Path, build: Callable[..., Manifest]) -> None:
    manifest = build(tmp_path / "d", 24, shard_size=4)
    size = manifest.shards[0].bytes
    dataset = RemoteDataset(f"file://{tmp_path}/d", cache=tmp_path / "cache", cache_bytes=2 * size)
    for index in (0, 4, 8, 12, 0, 20):
        assert np.array_equal(dataset.images(index), GroupDataset(tmp_path / "d").images(index))
        assert sum(path.stat().st_size for path in (tmp_path / "cache").iterdir()) <= 2 * size
        assert len(dataset._open) <= 2, "a dropped file that is still mapped keeps its room on the disk"
    with pytest.raises(ValueError, match=r"does not hold one shard of .*: give a larger --cache-bytes"):
        RemoteDataset(f"file://{tmp_path}/d", cache=tmp_path / "cache", cache_bytes=size - 1)


def test_what_was_not_used_for_longest_is_dropped(tmp_path: Path, build: Callable[..., Manifest]) -> None:
    manifest = build(tmp_path / "d", 12)
    places = [tmp_path / "cache" / f"{shard.sha256}.tar" for shard in manifest.shards]

    def fetch(index: int) -> None:
        limit = 2 * manifest.shards[0].bytes
        RemoteDataset(f"file://{tmp_path}/d", cache=tmp_path / "cache", cache_bytes=limit).fetch([index])

    for index, age_seconds in ((0, 200), (1, 100)):
        fetch(index)
        os.utime(places[index], (places[index].stat().st_mtime - age_seconds,) * 2)
    fetch(0)
    fetch(2)
    assert [place.exists() for place in places] == [True, False, True]


def test_many_threads_fetch_a_shard_once(server: FileServer, tmp_path: Path) -> None:
    dataset = RemoteDataset(server.address, cache=tmp_path)
    threads = [threading.Thread(target=dataset.batch, args=([4],)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.asked["train-000001.tar"] == 1
