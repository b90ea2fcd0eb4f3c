"""The moments in which only one process at a time may touch a folder's names: publishing, claiming, finishing.

A turn is short, so one waits for it. It is a lock of the kernel's: it ends with its process, however that ends.

    with turn(folder):
        ...  # look at what is there, and rename what has been written already
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from shards.atomic import naming

TURN_NAME = ".turn"


@contextmanager
def turn(directory: Path) -> Iterator[None]:
    """Waits until no other process or thread has the folder's turn, and has it while the context lasts.

    Turns do not nest: who asks for a second one inside the first waits for ever.

    Raises:
        OSError: the folder cannot be written, or its file system has no locks.
    """
    path = Path(directory) / TURN_NAME
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        with naming(path):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # the file stays: removing it would let two processes have two turns of one name


def disk_time(directory: Path) -> float:
    """Seconds since 1970 by the clock that dates the folder's files: a file server's, where there is one.

    Only for who has the folder's turn.
    """
    path = Path(directory) / TURN_NAME
    os.utime(path)
    return path.stat().st_mtime
