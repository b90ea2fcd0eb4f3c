"""Locks of the kernel's on a dataset's files, and who is on record as having them.

A lock goes with its process, however that ends, and with the child processes that inherit its descriptor.

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if try_lock(descriptor, fcntl.LOCK_EX, path):
        write_holder(descriptor, path)
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from pathlib import Path

from shards.atomic import naming

_SAYS_NO_LOCKS = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
"""What file systems without locks answer beside ENOLCK, such as Lustre mounted without flock."""


def take_lock(descriptor: int, kind: int, path: Path) -> None:
    """Waits for a lock, fcntl.LOCK_EX or fcntl.LOCK_SH, in the order of asking; with fcntl.LOCK_NB, as flock says.

    Raises:
        OSError: the file system has no locks: ENOLCK, whatever its own words are.
    """
    try:
        with naming(path):
            fcntl.flock(descriptor, kind)
    except OSError as error:
        if error.errno in _SAYS_NO_LOCKS:
            raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK), str(path)) from error
        raise


def try_lock(descriptor: int, kind: int, path: Path) -> bool:
    """Takes a lock if nobody's stands against it, and says whether; one of another kind is lost where it fails."""
    try:
        take_lock(descriptor, kind | fcntl.LOCK_NB, path)
    except BlockingIOError:
        return False
    return True


def write_holder(descriptor: int, path: Path) -> None:
    """Puts this process on record as the holder."""
    with naming(path):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()}, host {socket.gethostname()}\n".encode(), 0)


def read_holder(descriptor: int) -> str:
    """Who was the last to hold the file's lock, as "pid 12, host name"."""
    return os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"
