"""Files that are published whole or not at all.

A file is written under a temporary name in the folder where it will live, flushed to the disk, and renamed. Whatever
kills the process leaves at most a name that begins with "." and ends with ".tmp", which no reader takes for data.

    write_atomically(folder / "manifest.json", b"...")
"""

from __future__ import annotations

import glob
import itertools
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from shards.processes import host_tag, is_surely_dead

_TEMPORARY_PATTERN = re.compile(r"\..+\.([A-Za-z0-9-]+)\.(\d+)\.tmp")
_numbers = itertools.count()  # threads of one process may write the same file


def temporary_path(path: Path) -> Path:
    """A new name beside `path` under which this process, of this host, writes it; no two calls give the same."""
    return path.with_name(f".{path.name}.{next(_numbers)}.{host_tag()}.{os.getpid()}.tmp")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Gives a temporary name, to be written inside, which takes the place of `path` at the end, or is removed.

    Raises:
        OSError: with the file's name, whatever the system call.
    """
    temporary = temporary_path(path)
    try:
        with naming(path):
            yield temporary
            os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Writes a whole file: whoever opens `path`, at any time, finds the old bytes or the new ones.

    Raises:
        OSError: with the file's name, whatever the system call.
    """
    with replacing(path) as temporary, open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    flush_folder(path.parent)


def flush_folder(folder: Path) -> None:
    """Waits until the folder's names would survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporary_files(folder: Path, *, names: Collection[str] | None = None) -> int:
    """Removes what killed processes left in `folder`, and says how many files; only for who holds the folder's lock.

    Args:
        names: the files whose temporaries go, where others may be writing files of other names; all when None.
    """
    patterns = [".*.tmp"] if names is None else [f".{glob.escape(name)}.*.tmp" for name in names]
    stale = [path for pattern in patterns for path in folder.glob(pattern) if path.is_file()]
    for path in stale:
        path.unlink(missing_ok=True)
    return len(stale)


def remove_dead_temporary_files(folder: Path) -> int:
    """As remove_temporary_files, but only what dead processes of this host left: others may be writing theirs."""
    dead = [
        path
        for path in folder.glob(".*.tmp")
        if (match := _TEMPORARY_PATTERN.fullmatch(path.name)) and is_surely_dead(match[1], int(match[2]))
    ]
    for path in dead:
        path.unlink(missing_ok=True)
    return len(dead)


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Gives an OSError the file's name where the system call did not: a full disk says "no space", not where."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise
