"""Files at an address: whatever fsspec opens, and buckets.

Clients differ in what they raise, how long they wait, and whether they hold a file in memory; here they do not.

    read_address("s3://bucket/demo/manifest.json")
    filesystem, path = open_filesystem("s3://bucket/demo/data/train-000000.tar")
    fetch_file(filesystem, path, Path("train-000000.tar"), most_bytes=10**8, abandoned=Event())
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

from shards.errors import DamageError

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
_LOOK_SECONDS = 0.2
_ASKS_FOR_CREDENTIALS = re.compile(
    r"//169\.254\.169\.254/|\b401 Unauthorized|\b403 Forbidden|\b40[13] Client Error|\b40[13], message=|"
    r"AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch"
)
"""What obstore, aiohttp and the hub say; the first is where AWS's own machines get their credentials."""
_LOCAL_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # clients pass them on without the file's name
_pids_of_object_stores: set[int] = set()


class AbandonedError(Exception):
    """Nobody waits any more for what was being fetched."""


def is_address(source: str | Path) -> bool:
    """Whether a dataset's place is an address such as s3://bucket/folder, and no folder of this machine."""
    return "://" in str(source)


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

    def get_file(self, path: str, local: str, *, callback: Any) -> None:
        """Writes an object into a file, as it comes; the callback is one of fsspec's."""
        with open(local, "wb") as file:
            for chunk in self._get(self._store, path).stream(min_chunk_size=_CHUNK_BYTES):
                callback.relative_update(file.write(chunk))


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
    except OSError as error:  # some connect at once
        raise ValueError(f"{address} cannot be read ({error}): check the address") from error
    except ImportError as error:
        raise ValueError(
            f"{address}: this needs the extra remote ({error}): pip install -e '.[remote]' in the clone"
        ) from error
    except ValueError as error:
        raise ValueError(f"{address}: {error}; give a folder, s3://, gs://, az://, https:// or hf://") from error


def fetch_file(filesystem: Any, path: str, local: Path, *, most_bytes: int, abandoned: Event) -> None:
    """Writes a file of `open_filesystem` into a local one, as it comes.

    Args:
        most_bytes: a longer file is not what was promised: it is not written to its end.
        abandoned: once it is set, nobody waits for the transfer, which ends when the next piece of it comes.

    Raises:
        AbandonedError: it was set.
        DamageError: more bytes came.
    """
    from fsspec.callbacks import Callback

    is_left, failures = Event(), list[BaseException]()

    class Watch(Callback):  # type: ignore[misc]  # fsspec has no types
        def relative_update(self, inc: int = 1) -> None:
            super().relative_update(inc)
            if is_left.is_set():
                raise AbandonedError(path)
            if self.value > most_bytes:
                raise DamageError(f"{self.value} bytes came and more, not {most_bytes}")

    # The hub's client takes its fast way only where nobody watches.
    watched = {} if getattr(filesystem, "protocol", None) == "hf" else {"callback": Watch()}

    def transfer() -> None:
        try:
            filesystem.get_file(path, str(local), **watched)
        except BaseException as error:
            failures.append(error)
        if is_left.is_set():
            local.unlink(missing_ok=True)

    # No client can be interrupted while it waits for a silent server; a thread that nobody joins can be left alone.
    thread = Thread(target=transfer, name="transfer", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            thread.join(_LOOK_SECONDS)
            if abandoned.is_set():
                raise AbandonedError(path)
    except BaseException:  # Ctrl-C among them
        is_left.set()
        raise
    if failures:
        raise failures[0]


def retrying(work: Callable[[], Any], what: str, *, abandoned: Event | None = None) -> Any:
    """What `work` gives, tried a few times with growing pauses where the network fails.

    Raises:
        FileNotFoundError: at once; trying again would not help.
        AbandonedError: at once, also in a pause where `abandoned` is set.
        ValueError: at once, the client cannot make anything of the address; or the place asks for credentials.
        DamageError: the last attempt failed too, or what came was damaged each time.
    """
    pause_seconds = FIRST_PAUSE_SECONDS
    for attempt in range(1, MOST_ATTEMPTS + 1):
        try:
            return work()
        except (FileNotFoundError, AbandonedError):
            raise
        except ValueError as error:
            raise ValueError(f"{what} cannot be read ({' '.join(str(error).split())}): check the address") from error
        except Exception as error:  # every scheme's client has errors of its own
            if isinstance(error, OSError) and (error.filename is not None or error.errno in _LOCAL_ERRORS):
                raise  # of the local disk: it is full, or may not be written
            if attempt == MOST_ATTEMPTS:
                reason = " ".join((str(error) or type(error).__name__).split("Debug source")[0].split())
                if _ASKS_FOR_CREDENTIALS.search(reason):
                    raise ValueError(
                        f"{what} asks for credentials ({reason}): set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                        "AWS_SKIP_SIGNATURE=true where all may read, or HF_TOKEN; see docs/reading.md"
                    ) from error
                raise DamageError(
                    f"{what} cannot be fetched, {attempt} times tried ({reason}); run the same command again to go on"
                ) from error
            if (abandoned or Event()).wait(pause_seconds):
                raise AbandonedError(what) from error
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
