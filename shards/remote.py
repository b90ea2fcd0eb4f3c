"""Datasets that lie elsewhere: shards come over the network whole, once, into a cache on the local disk.

An address is any that fsspec opens: s3://bucket/folder, gs://…, https://host/folder, hf://datasets/user/name, file:///….
It has to hold the manifest and the tars; offsets come from the tars' headers. A shard is fetched when a group of it is
first asked for, compared with the manifest's sha256, and only then gets its name in the cache. That name is its
sha256, so datasets that share shards share the cache's files, and a file there is always a whole shard.

    dataset = RemoteDataset("s3://bucket/demo", n=10_000, cache="/scratch/shards", cache_bytes=200 * 10**9)
    images, labels = dataset.batch([5, 3, 999])
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from shards.atomic import flush_folder, naming, remove_dead_temporary_files, temporary_path
from shards.dataset import GroupDataset
from shards.errors import DamageError
from shards.fetching import AbandonedError, fetch_file, open_filesystem, read_address, retrying
from shards.inspection import measure_members
from shards.manifest import DATA_FOLDER, MANIFEST_NAME, ShardRecord, group_key, parse_manifest
from shards.mapping import MappedShard, map_file, narrow_index
from shards.numbers import check_whole
from shards.quantities import format_bytes
from shards.tar import make_index

_CHUNK_BYTES = 1 << 20


def default_cache() -> Path:
    """The folder in the user's cache where shards are kept unless another one is named."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("synthgen", appauthor=False)) / "shards"


class ShardCache:
    """Shards on the local disk, each under its sha256; may be used from several threads and processes at once.

    Args:
        limit_bytes: when more than this lies here after a fetch, those go that were not used for longest. None keeps
            all. A shard that is being read stays readable.
    """

    def __init__(self, folder: str | Path | None = None, *, limit_bytes: int | None = None) -> None:
        self.folder = Path(folder) if folder is not None else default_cache()
        self.limit_bytes = limit_bytes
        self._prepare()

    def _prepare(self) -> None:
        self.abandoned = threading.Event()
        """While it is set nothing is fetched, and what is on its way is given up."""
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._sound: set[str] = set()
        self._failures: dict[str, tuple[float, Exception]] = {}
        self._trimming = threading.Lock()
        self._is_swept = False

    def __getstate__(self) -> dict[str, object]:
        return {"folder": self.folder, "limit_bytes": self.limit_bytes}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._prepare()

    def map(self, address: str, record: ShardRecord) -> memoryview:
        """The bytes of a shard, mapped; fetched first where they are not here.

        Raises:
            DamageError: the shard is missing there, the network fails for good, or other bytes come than were promised.
            AbandonedError: see `abandoned`.
        """
        path = self.path_of(record)
        asked = time.monotonic()
        with self._locks[record.sha256]:
            failed, failure = self._failures.get(record.sha256, (asked, None))
            if failure is not None and failed > asked:
                raise failure  # while this one waited for its turn: the next attempts would fail as well
            while True:
                if not self._is_sound(path, record):
                    try:
                        self._fetch(address, record, path)
                    except Exception as error:
                        self._failures[record.sha256] = time.monotonic(), error
                        raise
                    self._sound.add(record.sha256)
                    self._trim(keep=path)
                try:
                    data = map_file(path, DamageError)
                    break
                except DamageError:
                    if path.exists():
                        raise
                    # Another process made room in between.
        with suppress(OSError):  # it may be somebody else's file, or just have been dropped
            os.utime(path)  # the moment of its last use
        return data

    def path_of(self, record: ShardRecord) -> Path:
        """Where a shard lies, or would."""
        return self.folder / f"{record.sha256}.tar"

    def _is_sound(self, path: Path, record: ShardRecord) -> bool:
        """Whether the shard is here, and as it came: all its bytes are looked at once a process."""
        try:
            if path.stat().st_size != record.bytes:
                return False
            if record.sha256 not in self._sound and _hash_file(path)[0] == record.sha256:
                self._sound.add(record.sha256)
        except FileNotFoundError:  # or another process dropped it just now
            return False
        return record.sha256 in self._sound

    def _fetch(self, address: str, record: ShardRecord, path: Path) -> None:
        try:
            self._bring(address, record, path)
        except OSError as error:
            is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            is_ours = error.filename is None or Path(os.fsdecode(error.filename)).is_relative_to(self.folder)
            if not is_ours or not (is_full or error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)):
                raise
            fix = "make room in the cache of shards, or give another --cache" if is_full else "give another --cache"
            raise OSError(error.errno, f"{error.strerror} ({fix})", str(self.folder)) from error

    def _bring(self, address: str, record: ShardRecord, path: Path) -> None:
        if self.abandoned.is_set():
            raise AbandonedError(address)
        with naming(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._is_swept:
                remove_dead_temporary_files(self.folder)
                self._is_swept = True
            if shutil.disk_usage(self.folder).free < record.bytes:
                raise OSError(errno.ENOSPC, f"No room for a shard of {format_bytes(record.bytes)}", str(self.folder))
        filesystem, remote_path = open_filesystem(address)
        temporary = temporary_path(path)

        def fetch() -> None:
            fetch_file(filesystem, remote_path, temporary, most_bytes=record.bytes, abandoned=self.abandoned)
            digest, size = _hash_file(temporary, flush=True)
            if digest != record.sha256:
                raise DamageError(
                    f"{size} bytes of sha256 {digest[:12]}… came, not {record.bytes} of {record.sha256[:12]}…"
                )

        try:
            with naming(path):
                retrying(fetch, address, abandoned=self.abandoned)
            os.replace(temporary, path)
        except FileNotFoundError:
            raise DamageError(f"{address} is missing: the manifest there promises it") from None
        finally:
            temporary.unlink(missing_ok=True)
        flush_folder(self.folder)

    def _trim(self, *, keep: Path) -> None:
        if self.limit_bytes is None:
            return
        with self._trimming:
            files = []
            for path in self.folder.glob("*.tar"):
                try:
                    status = path.stat()
                except FileNotFoundError:  # another process was quicker
                    continue
                files.append((status.st_mtime_ns, status.st_size, path))
            excess = sum(size for _, size, _ in files) - self.limit_bytes
            for _, size, path in sorted(files):
                if excess <= 0:
                    return
                if path != keep:
                    with suppress(OSError):  # somebody else's, in a folder that says so
                        path.unlink(missing_ok=True)
                        excess -= size


def _hash_file(path: Path, *, flush: bool = False) -> tuple[str, int]:
    """sha256 and size of a file, which is on the disk afterwards where it is flushed."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
        if flush:
            os.fsync(file.fileno())
        return digest.hexdigest(), file.tell()


# ---------------------------------------------------------------------------------------------------------------------
# Reading


class RemoteDataset(GroupDataset):
    """The first n groups of a dataset at an address; the shards that are touched come into a cache.

    Args:
        n: length of the prefix; the whole dataset when None.
        cache: folder for the shards; one in the user's cache when None.
        cache_bytes: size at which the cache drops what was not used for longest; None keeps all.

    Raises:
        ValueError: no dataset there, fewer than n groups in it, or the scheme's package is not installed.
        DamageError: the manifest is not as it was written, or the network fails.
    """

    def __init__(
        self,
        address: str,
        *,
        n: int | str | None = None,
        cache: str | Path | None = None,
        cache_bytes: int | str | None = None,
    ) -> None:
        self.address = str(address).rstrip("/")
        if "://" not in self.address:
            raise ValueError(f"{address} names no place: give an address such as s3://bucket/folder")
        cache_bytes = None if cache_bytes is None else check_whole("cache_bytes", cache_bytes, 1)
        self.cache = ShardCache(cache, limit_bytes=cache_bytes)
        path = f"{self.address}/{MANIFEST_NAME}"
        manifest = parse_manifest(read_address(path), path)
        largest = max(shard.bytes for shard in manifest.shards)
        if cache_bytes is not None and cache_bytes < largest:
            raise ValueError(
                f"a cache of {format_bytes(cache_bytes)} does not hold one shard of {format_bytes(largest)}: "
                f"give a larger --cache-bytes"
            )
        self._choose(manifest, n)

    def _prepare(self) -> None:
        super()._prepare()
        if self.cache.limit_bytes is not None:  # the disk gets a dropped file's room back when nobody maps it
            largest = max(shard.bytes for shard in self.manifest.shards)
            self._most_open = max(1, min(self._most_open, self.cache.limit_bytes // largest))

    @property
    def location(self) -> str:
        """The address."""
        return self.address

    @property
    def labels(self) -> np.ndarray:  # type: ignore[override]
        """int64 [len]: class id of every group. Fetches every shard: labels lie in the tars."""
        count = -(-len(self) // self.manifest.shard_size)
        parts = [self._shard(index).index[:, 0] for index in range(count)]
        return np.concatenate(parts).astype(np.int64)[: len(self)]

    def fetch(self, shard_indices: Sequence[int]) -> None:
        """Brings shards into the cache, ahead of their use."""
        for shard_index in shard_indices:
            self._shard(shard_index)

    def _map_shard(self, shard_index: int) -> MappedShard:
        record = self.manifest.shards[shard_index]
        data = self.cache.map(f"{self.address}/{DATA_FOLDER}/{record.name}", record)
        index = make_index(np.zeros(record.count, np.int64), measure_members(data, record.name, self._members, record))
        try:
            for row, (offset, size) in enumerate(index[:, -2:].tolist()):
                index[row, 0] = json.loads(bytes(data[offset : offset + size]))["label"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise self._damage(f"{record.name} holds a json without a label ({error})") from error
        return MappedShard(data, narrow_index(index, len(data)))

    def _damage(self, what: str) -> DamageError:
        return DamageError(
            f"{what}; shards verify says more about a copy of {self.address}: if that is sound, remove the cache's file"
        )

    def _name(self, index: int, member: str) -> str:
        record = self.manifest.shards[index // self.manifest.shard_size]
        return f"{group_key(index)}.{member} of {record.name} in {self.cache.path_of(record)}"
