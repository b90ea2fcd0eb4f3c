"""What goes wrong with files, in words: damage, and the system's errors with what to do about them."""

from __future__ import annotations

import errno
import os

_OS_ERROR_FIXES = {
    errno.ENOSPC: "free some space, then run the same command again: it resumes",
    errno.EDQUOT: "free some of your quota, then run the same command again: it resumes",
    errno.EFBIG: "raise the file size limit (ulimit -f), then run the same command again: it resumes",
    errno.EACCES: "choose a place that you may read and write, or change its permissions",
    errno.EPERM: "choose a place that you may read and write, or change its permissions",
    errno.EROFS: "choose a place that is not mounted read-only",
    errno.ENOENT: "check the path",
    errno.ENOTDIR: "check the path: a file stands where a folder is needed",
    errno.EISDIR: "check the path: a folder stands where a file is needed",
    errno.ENOLCK: "choose a folder on a file system that has locks (NFS 4, Lustre mounted with flock, a local disk)",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


_NO_HOST_MEMORY = "allocate memory"
_NO_ENGINE = "unable to find an engine"
"""Of cuDNN: none of its engines found room for its scratch; or none there is fits."""
_NO_MEMORY = ("out of memory", "ALLOC_FAILED", _NO_HOST_MEMORY, _NO_ENGINE)


class DamageError(Exception):
    """Files that exist are not what they should be: truncated, altered, or not decodable. Exit code 1."""


def describe_os_error(error: OSError) -> str:
    """The path, what the system says, and what to do about it, in one line."""
    what = error.strerror or str(error) or type(error).__name__
    where = f"{os.fsdecode(error.filename)}: " if error.filename is not None else ""
    fix = _OS_ERROR_FIXES.get(error.errno or 0)
    return f"{where}{what}; {fix}" if fix else f"{where}{what}"


def lacks_memory(error: BaseException) -> bool:
    """Whether an error of an array library says that the device had no room; only some have a type of their own."""
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or any(words in str(error) for words in _NO_MEMORY))
    )


def describe_lack(error: BaseException, device: str, *, at: str = "") -> str:
    """Who had no room, where `lacks_memory` says that somebody had none while working on a device.

    Args:
        at: at what, such as " at batch size 128".
    """
    if isinstance(error, MemoryError) or _NO_HOST_MEMORY in str(error):
        return f"{device if device == 'cpu' else 'this machine'} ran out of memory{at}"
    or_else = ", or its cuDNN does not fit this torch" if _NO_ENGINE in str(error) else ""
    return f"{device} ran out of memory{at}{or_else}"


def describe_error(error: BaseException) -> str:
    """Kind and text of an exception of other people's code, in one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
