"""Shards in memory without reading them: tars mapped, their offsets beside them, and how many may be so at once.

data = map_file(Path("datasets/demo/data/train-000000.tar"), DamageError)
shard = MappedShard(data, narrow_index(index, len(data)))
"""

from __future__ import annotations

import mmap
import resource
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from shards.errors import DamageError

_SPARE_FILES = 256  # file descriptors left to the rest of the process
_MOST_MAPPINGS_FILE = Path("/proc/sys/vm/max_map_count")
_USUAL_MOST_MAPPINGS = 65_530  # where that cannot be read


@dataclass(frozen=True, slots=True)
class MappedShard:
    """A tar in memory and its offsets; the mapping goes when the last reader lets go of it."""

    data: memoryview
    index: np.ndarray
    """[count, 1 + 2 * members], as make_index gives it; int32 where that is wide enough."""


def narrow_index(index: np.ndarray, tar_bytes: int) -> np.ndarray:
    """An index in half the memory, unless the tar is so large that its offsets need all of it."""
    return index if max(tar_bytes, int(index[:, 0].max())) >= 2**31 else index.astype(np.int32)


def map_file(path: Path, damage: Callable[[str], DamageError], *, spread: bool = False) -> memoryview:
    """The bytes of a file, mapped.

    Args:
        damage: makes the error to raise, from its reason, when the file is missing, empty, or none.
        spread: reads come from all over many files, so the system shall not fetch and keep what lies around them.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for who writes it
            raise damage(f"{path} is no regular file")
        with open(path, "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if spread:
            mapped.madvise(mmap.MADV_RANDOM)
        return memoryview(mapped)
    except FileNotFoundError as error:
        raise damage(f"{path} is missing") from error
    except ValueError as error:
        raise damage(f"{path} is empty") from error


def allow_open_files(count: int) -> int:
    """How many shards may be open at once: every mapping holds a file descriptor, and is one of the process's mappings.

    Raises the process's soft limit of descriptors towards its hard one where `count` shards need it.
    """
    count = min(count, _most_mappings() // 2)  # the other half is for libraries, memory and other datasets
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = count + _SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < needed:
        raised = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        if raised > soft:
            resource.setrlimit(resource.RLIMIT_NOFILE, (raised, hard))
            soft = raised
        count = min(count, soft - _SPARE_FILES)
    return max(1, count)


def _most_mappings() -> int:
    """How many mappings a process may have; past it, mmap says that memory is short."""
    try:
        return int(_MOST_MAPPINGS_FILE.read_text())
    except OSError:
        return _USUAL_MOST_MAPPINGS
