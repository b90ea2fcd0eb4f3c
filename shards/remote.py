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
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from shards.atomic import flush_folder, naming, remove_dead_temporary_files, temporary_path
from shards.console import DamageError, format_bytes
from shards.dataset import GroupDataset, MappedShard, map_file, narrow_index
from shards.inspection import measure_members
from shards.manifest import DATA_FOLDER, MANIFEST_NAME, ShardRecord, group_key, parse_manifest
from shards.tar import make_index

MOST_ATTEMPTS = 4
FIRST_PAUSE_SECONDS = 0.5
"""Before the second attempt; each further pause is twice as long."""
CONNECT_SECONDS, READ_SECONDS = 30, 60
"""After which a server that does not answer, or sends nothing more, is given up. A whole shard may take longer."""
_OBJECT_STORES = {"s3": "AWS", "gs": "GOOGLE", "az": "AZURE"}
"""And what the names of their variables begin with."""
_CLIENT_OPTIONS = (
    "allow_http", "allow_invalid_certificates", "proxy_url", "proxy_ca_certificate", "proxy_excludes", "user_agent",
    "timeout", "connect_timeout", "read_timeout",
)  # fmt: skip
_CHUNK_BYTES = 1 << 20
_LOCAL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # clients pass them on without the file's name
_pids_of_object_stores: set[int] = set()


def is_address(source: str | Path) -> bool:
    """Whether a dataset's place is an address such as s3://bucket/folder, and no folder of this machine."""
    return "://" in str(source)


def default_cache() -> Path:
    """The folder in the user's cache where shards are kept unless another one is named."""
    import platformdirs

    return Path(platformdirs.user_cache_dir("synthgen")) / "shards"


# ---------------------------------------------------------------------------------------------------------------------
# Fetching


class ObjectStore:
    """A bucket, by obstore. Not s3fs: it pins one version of botocore, and would pin the whole environment's with it.

    Raises:
        ValueError: this process was forked from one that has used a bucket: its client would wait for ever.
    """

    def __init__(self, bucket: str) -> None:
        import obstore
        from obstore.store import from_url

        _pids_of_object_stores.add(os.getpid())
        if len(_pids_of_object_stores) > 1:
            raise ValueError("a bucket cannot be read in a forked process; start it with multiprocessing's spawn")
        options: Any = {  # "timeout" is of a whole request, its body included
            "timeout": "7d", "connect_timeout": f"{CONNECT_SECONDS}s", "read_timeout": f"{READ_SECONDS}s",
        }  # fmt: skip
        # Options that are given take the place of all that the client would look for in its variables.
        prefix = _OBJECT_STORES[bucket.partition("://")[0]]
        variables = {name: f"{prefix}_{name.upper()}" for name in _CLIENT_OPTIONS}
        options |= {name: os.environ[variable] for name, variable in variables.items() if variable in os.environ}
        # The attempts are counted here, so that a dead network is told after seconds.
        self._get = obstore.get
        self._store = from_url(bucket, client_options=options, retry_config={"max_retries": 0})

    def cat_file(self, path: str) -> bytes:
        """The bytes of a small object."""
        return bytes(self._get(self._store, path).bytes())

    def get_file(self, path: str, local: str) -> None:
        """Writes an object into a file, as it comes."""
        with open(local, "wb") as file:
            for chunk in self._get(self._store, path).stream(min_chunk_size=_CHUNK_BYTES):
                file.write(chunk)


def open_filesystem(address: str) -> tuple[Any, str]:
    """What has `cat_file` and `get_file` of an address, an fsspec filesystem or a bucket, and the path on it.

    Credentials, endpoints and proxies are the client's own business: AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, HF_TOKEN, ….

    Raises:
        ValueError: the scheme is unknown, or the package that speaks it is not installed.
    """
    scheme, _, rest = address.partition("://")
    try:
        if scheme in _OBJECT_STORES:
            bucket, _, path = rest.partition("/")
            return ObjectStore(f"{scheme}://{bucket}"), path
        import fsspec

        if scheme in ("http", "https"):
            from aiohttp import ClientTimeout

            limits = ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=READ_SECONDS)
            return fsspec.core.url_to_fs(address, client_kwargs={"timeout": limits})
        return fsspec.core.url_to_fs(address)
    except ImportError as error:
        raise ValueError(
            f"{address}: this needs the extra remote ({error}): pip install -e '.[remote]' in the clone"
        ) from error
    except ValueError as error:
        raise ValueError(f"{address}: {error}; give a folder, s3://, gs://, az://, https:// or hf://") from error


def retrying(work: Callable[[], Any], what: str) -> Any:
    """What `work` gives, tried a few times with growing pauses where the network fails.

    Raises:
        FileNotFoundError: at once; trying again would not help.
        ValueError: at once; the client cannot make anything of the address.
        DamageError: the last attempt failed too, or what came was damaged each time.
    """
    pause_seconds = FIRST_PAUSE_SECONDS
    for attempt in range(1, MOST_ATTEMPTS + 1):
        try:
            return work()
        except FileNotFoundError:
            raise
        except ValueError as error:
            raise ValueError(f"{what} cannot be read ({' '.join(str(error).split())}): check the address") from error
        except Exception as error:  # every scheme's client has errors of its own
            if isinstance(error, OSError) and (error.filename is not None or error.errno in _LOCAL_ERRORS):
                raise  # of the local disk: it is full, or may not be written
            if attempt == MOST_ATTEMPTS:
                reason = " ".join((str(error) or type(error).__name__).split("Debug source")[0].split())
                raise DamageError(f"{what} cannot be fetched, {attempt} times tried ({reason})") from error
            time.sleep(pause_seconds)
            pause_seconds *= 2
    raise AssertionError("no attempt was made")


def read_address(address: str) -> bytes:
    """The bytes of a small file.

    Raises:
        ValueError: there is no such file, or the scheme cannot be opened.
        DamageError: the network fails.
    """
    filesystem, path = open_filesystem(address)
    try:
        return retrying(lambda: filesystem.cat_file(path), address)
    except FileNotFoundError:
        raise ValueError(f"{address} cannot be read: nothing there; check the address") from None


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
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
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
        """
        path = self.path_of(record)
        with self._locks[record.sha256]:
            while True:
                if not _is_whole(path, record):
                    self._fetch(address, record, path)
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

    def drop_damaged(self, record: ShardRecord) -> bool:
        """Removes a shard whose bytes are no longer those that came, and says whether it was so."""
        path = self.path_of(record)
        with self._locks[record.sha256]:
            try:
                is_damaged = _hash_file(path)[0] != record.sha256
                if is_damaged:
                    path.unlink()
            except OSError:
                return False
        return is_damaged

    def _fetch(self, address: str, record: ShardRecord, path: Path) -> None:
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
            filesystem.get_file(remote_path, str(temporary))
            digest, size = _hash_file(temporary)
            if digest != record.sha256:
                raise DamageError(
                    f"{size} bytes of sha256 {digest[:12]}… came, not {record.bytes} of {record.sha256[:12]}…"
                )

        try:
            with naming(path):
                retrying(fetch, address)
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


def _is_whole(path: Path, record: ShardRecord) -> bool:
    try:
        return path.stat().st_size == record.bytes
    except FileNotFoundError:
        return False


def _hash_file(path: Path) -> tuple[str, int]:
    """sha256 and size of a file, which is on the disk afterwards."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
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
        n: int | None = None,
        cache: str | Path | None = None,
        cache_bytes: int | None = None,
    ) -> None:
        self.address = str(address).rstrip("/")
        self.cache = ShardCache(cache, limit_bytes=cache_bytes)
        self.directory = self.cache.folder
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
        try:
            return self._open_shard(record)
        except DamageError:
            if not self.cache.drop_damaged(record):
                raise
            return self._open_shard(record)  # it comes once more

    def _open_shard(self, record: ShardRecord) -> MappedShard:
        data = self.cache.map(f"{self.address}/{DATA_FOLDER}/{record.name}", record)
        index = make_index(np.zeros(record.count, np.int64), measure_members(data, record.name, self._members, record))
        try:
            for row, (offset, size) in enumerate(index[:, -2:].tolist()):
                index[row, 0] = json.loads(bytes(data[offset : offset + size]))["label"]
        except (ValueError, KeyError, TypeError) as error:
            raise self._damage(f"{record.name} holds a json without a label ({error})") from error
        return MappedShard(data, narrow_index(index, len(data)))

    def _damage(self, what: str) -> DamageError:
        return DamageError(
            f"{what}; shards verify says more about a copy of {self.address}: if that is sound, remove the cache's file"
        )

    def _name(self, index: int, member: str) -> str:
        record = self.manifest.shards[index // self.manifest.shard_size]
        return f"{group_key(index)}.{member} of {record.name} in {self.cache.path_of(record)}"
