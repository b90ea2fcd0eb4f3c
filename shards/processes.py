"""Which process wrote a file, and whether it is surely dead, on machines that share nothing but a file system.

A process is known by its host's tag and its pid. Only a process of this very host can be known to be dead: of another
host's, nothing can be told, and nothing is assumed.

    tag, pid = host_tag(), os.getpid()
    is_surely_dead(tag, pid)  # False
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from functools import cache
from pathlib import Path


@cache
def host_tag() -> str:
    """This host's name, and eight hexadecimal digits that change with every boot and with every space of pids.

    Two containers of one name, or a machine before and after a reboot, are different hosts: their pids mean nothing
    to each other. The tag holds letters, digits and "-" alone, so it fits into file names.
    """
    identity = socket.gethostname()
    for read in (
        lambda: Path("/proc/sys/kernel/random/boot_id").read_text(),
        lambda: os.readlink("/proc/self/ns/pid"),
    ):
        try:
            identity += f"|{read()}"
        except OSError:
            continue
    name = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname())[:40]
    return f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}"


def is_surely_dead(host: str, pid: int) -> bool:
    """Whether a process is of this host and has ended; a zombie has ended, its parent only does not know yet."""
    if host != host_tag():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in ("Z", "X")
    except (OSError, IndexError):
        return False
