"""Tars whose bytes are a function of their members alone, and the index that says where each member lies.

The format is POSIX ustar with every field but name and size fixed: mode 0644, owner and group 0 without a name, time 0.
Python's tarfile makes the same bytes (a test holds that), at a tenth of the speed.

    name, data -> member_header(name, len(data)) + data + padding(len(data)) ; at the end end_of_archive(offset)
"""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np

from shards.errors import DamageError, describe_error

BLOCK_BYTES = 512
RECORD_BYTES = 20 * BLOCK_BYTES
LARGEST_MEMBER_BYTES = 8**11 - 1

_PADDINGS = tuple(bytes(-size % BLOCK_BYTES) for size in range(BLOCK_BYTES))


def member_header(name: str, size_bytes: int) -> bytes:
    """The 512 bytes before a member's data.

    Raises:
        ValueError: the name is longer than 99 bytes or not ASCII, or the member is larger than 8 GiB.
    """
    encoded = name.encode("ascii")
    if not 0 < len(encoded) < 100 or not 0 <= size_bytes <= LARGEST_MEMBER_BYTES:
        raise ValueError(f"tar member {name} of {size_bytes} bytes: at most 99 characters and 8 GiB")
    size_field = b"%011o" % size_bytes
    checksum = _FIXED_SUM + sum(encoded) + sum(size_field)
    return b"".join(
        (encoded, bytes(100 - len(encoded)), _BEFORE_SIZE, size_field, _AFTER_SIZE, b"%06o" % checksum, _AFTER_CHECKSUM)
    )


def padding(size_bytes: int) -> bytes:
    """The zeros that fill a member's last block."""
    return _PADDINGS[size_bytes % BLOCK_BYTES]


def padded_size(size_bytes: int) -> int:
    """Bytes that a member's data takes in the tar, its header not counted."""
    return size_bytes + -size_bytes % BLOCK_BYTES


def end_of_archive(offset: int) -> bytes:
    """Two empty blocks, and zeros up to a whole record of 10,240 bytes, for a tar of `offset` bytes so far."""
    return bytes(2 * BLOCK_BYTES + -(offset + 2 * BLOCK_BYTES) % RECORD_BYTES)


_BEFORE_SIZE = b"0000644\0" + b"0000000\0" * 2
_AFTER_SIZE = b"\0" + b"0" * 11 + b"\0"
_AFTER_CHECKSUM = (b"\0 0" + bytes(100) + b"ustar\x0000").ljust(512 - 154, b"\0")
# The checksum is the sum of all header bytes with its own eight taken as spaces.
_FIXED_SUM = sum(_BEFORE_SIZE) + sum(_AFTER_SIZE) + 8 * ord(" ") + sum(_AFTER_CHECKSUM[2:])


# ---------------------------------------------------------------------------------------------------------------------
# Index


def make_index(labels: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Where the members of a shard lie: they follow one another, so their sizes say it all.

    Args:
        labels: int64 [count], one per group.
        sizes: int64 [count, members], bytes of every member in tar order.

    Returns:
        int64 [count, 1 + 2 * members]: label, then data offset and size of every member.
    """
    count, num_members = sizes.shape
    taken = (BLOCK_BYTES + sizes + -sizes % BLOCK_BYTES).reshape(-1)
    starts = np.cumsum(taken) - taken
    index = np.empty((count, 1 + 2 * num_members), dtype=np.int64)
    index[:, 0] = labels
    index[:, 1::2] = starts.reshape(count, num_members) + BLOCK_BYTES
    index[:, 2::2] = sizes
    return index


def load_index(path: Path, *, count: int, num_members: int) -> np.ndarray:
    """The first `count` rows of an index file; it holds more rows while the dataset is growing.

    Raises:
        DamageError: there is no such file, or it is no index of at least `count` groups.
    """
    try:
        data = path.read_bytes()
        header = _index_header(count, num_members)
        if data.startswith(header) and len(data) == len(header) + count * (1 + 2 * num_members) * 8:
            return np.frombuffer(data, np.int64, offset=len(header)).reshape(count, -1)
        index = parse_array(data)  # a growing dataset's, or no index
    except FileNotFoundError as error:
        raise DamageError(f"{path} is missing") from error
    except (ValueError, OSError) as error:
        raise DamageError(f"{path} cannot be read ({error})") from error
    if index.dtype != np.int64 or index.ndim != 2 or index.shape[1] != 1 + 2 * num_members or len(index) < count:
        raise DamageError(f"{path} holds {index.dtype} {list(index.shape)}, not the offsets of {count} groups")
    return index[:count]


def format_array(array: np.ndarray) -> bytes:
    """The .npy file of an array."""
    file = io.BytesIO()
    np.save(file, np.ascontiguousarray(array), allow_pickle=False)
    return file.getvalue()


def parse_array(data: bytes | memoryview) -> np.ndarray:
    """The array that an .npy file holds.

    Raises:
        ValueError: it holds none.
    """
    try:
        return np.lib.format.read_array(io.BytesIO(data), allow_pickle=False)
    except Exception as error:  # numpy hands the header to Python's parser, which says many things about foreign bytes
        raise ValueError(describe_error(error)) from error


@lru_cache(maxsize=8)
def _index_header(count: int, num_members: int) -> bytes:
    """What the file of an index begins with: comparing it is quicker than parsing it, thirteen thousand times."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file,
        {"descr": "<i8", "fortran_order": False, "shape": (count, 1 + 2 * num_members)},
    )
    return file.getvalue()
