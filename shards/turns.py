"""The moments in which only one process at a time may touch a folder's names: publishing, claiming, finishing.

A turn is short, so one waits for it. It is a lock of the kernel's: it ends with its process, however that ends.

    with turn(folder):
        ...  # look at what is there, and rename what has been written already
"""

from __future__ import annotations

import fcntl
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shards.locks import read_holder, take_lock, try_lock, write_holder

TURN_NAME = ".turn"
_SECONDS_UNTIL_WARNING = 10.0
_POLL_SECONDS = 0.02


@contextmanager
def turn(directory: Path) -> Iterator[None]:
    """Waits until no other process or thread has the folder's turn, and has it while the context lasts.

    A long wait is told once, on stderr: a frozen process keeps its turn. Turns do not nest: who asks for a second one
    inside the first waits for ever.

    Raises:
        ValueError: there is no such folder any more.
        OSError: the folder cannot be written, or its file system has no locks.
    """
    path = Path(directory) / TURN_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except FileNotFoundError as error:
        raise ValueError(f"{directory} is gone: it was removed or renamed while it was written to") from error
    try:
        _wait_for_turn(descriptor, path)
        with suppress(OSError):  # no room: it is for the warning only
            write_holder(descriptor, path)
        yield
    finally:
        os.close(descriptor)  # the file stays: removing it would let two processes have two turns of one name


def _wait_for_turn(descriptor: int, path: Path) -> None:
    began = time.monotonic()
    while not try_lock(descriptor, fcntl.LOCK_EX, path):
        if time.monotonic() - began > _SECONDS_UNTIL_WARNING:
            said = f"{path}: waited {_SECONDS_UNTIL_WARNING:.0f} s for a turn, which {read_holder(descriptor)} has"
            print(f"{said}; waiting on: if that process is frozen, end it", file=sys.stderr, flush=True)
            return take_lock(descriptor, fcntl.LOCK_EX, path)  # in the order of asking, so that none waits for ever
        time.sleep(_POLL_SECONDS)


def disk_time(directory: Path) -> float:
    """Seconds since 1970 by the clock that dates the folder's files: a file server's, where there is one.

    Raises:
        OSError: nobody has had a turn yet, or the folder cannot be written.
    """
    path = Path(directory) / TURN_NAME
    os.utime(path)
    return path.stat().st_mtime
