"""Who is rendering which shard, so that tasks on many machines share one dataset without a coordinator.

A claim is a small file that its worker renews as long as it lives. It saves work; it is not what keeps the data
right: should two workers render one shard after all, the second copy is discarded when it would be published.
A claim is void when its worker is a dead process of this host, or when it was not renewed for LEASE_SECONDS by the
file system's clock, which all machines have in common.

    if take_shard(folder, claim) == "taken":
        ...  # render, renew_claim now and then, publish
        release_claim(folder, claim)
"""

from __future__ import annotations

import json
import re
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

from shards.atomic import remove_dead_temporary_files
from shards.canonical import JSON
from shards.errors import DamageError
from shards.manifest import DATA_FOLDER, shard_stem
from shards.markers import is_complete, read_marker
from shards.processes import is_surely_dead
from shards.turns import disk_time, turn
from shards.work import add_failure, list_work, replace_file, work_path

LEASE_SECONDS = 300.0
"""A claim that was not renewed for so long is void; a worker renews once a second as long as it lives."""
_CLAIM_PATTERN = re.compile(r"train-(\d{6,})\.claim\.json")


_NUMBER = (int, float)
_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("index", "count", "pid", "groups_written"), int),
    **dict.fromkeys(("host", "device", "task"), str),
    **dict.fromkeys(("began", "groups_per_second", "age_seconds"), _NUMBER),
    "stages": dict,
}


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One worker at one shard."""

    index: int
    """The shard's."""
    count: int
    """Groups that the shard will hold."""
    host: str
    """`shards.processes.host_tag` of the worker's machine."""
    pid: int
    device: str
    task: str
    """"2 of 64", or empty where the job is not cut into tasks."""
    began: float
    """When the shard was claimed, in seconds since 1970."""
    groups_written: int = 0
    """Of this shard."""
    groups_per_second: float = 0.0
    """Of this worker, over all that it has written."""
    stages: dict[str, float] = field(default_factory=dict)
    """Share of the time that each stage was busy."""
    age_seconds: float = 0.0
    """Since it was renewed; not stored."""

    def __post_init__(self) -> None:
        for name, kinds in _KINDS.items():
            value = getattr(self, name)
            if not isinstance(value, kinds) or isinstance(value, bool):
                raise TypeError(f"{name} is {value!r}")
        if not 0 < self.pid < 2**31:
            raise ValueError(f"pid is {self.pid}")

    @property
    def where(self) -> str:
        """Task, device, process and host, as messages name them."""
        task = f"task {self.task}, " if self.task else ""
        return f"{task}{self.device}, pid {self.pid} on {self.host.rpartition('-')[0]}"

    @property
    def is_void(self) -> bool:
        """Whether its worker is gone."""
        return self.age_seconds > LEASE_SECONDS or is_surely_dead(self.host, self.pid)

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return asdict(self)


def take_shard(directory: Path, claim: Claim) -> Literal["taken", "held", "done"]:
    """Claims a shard, unless it is done already or another worker is at it.

    The claims of a worker that is gone are removed, and a failed attempt is recorded for what it was doing.
    """
    with turn(directory):
        if is_done(directory, claim.index, claim.count):
            return "done"
        holder = read_claim(directory, claim.index, now=disk_time(directory))
        if holder is not None and (holder.host, holder.pid) != (claim.host, claim.pid):
            if not holder.is_void:
                return "held"
            _end_claims(directory, holder.host, holder.pid, f"its worker was lost ({holder.where})")
        _path(directory, claim.index).parent.mkdir(exist_ok=True)
        _write(directory, claim)
        return "taken"


def renew_claim(directory: Path, claim: Claim) -> None:
    """Says that the worker lives, and how far it is; a claim that another worker has by now is left alone.

    A claim that is gone is made again, unless the shard is done: the worker slept, was taken for lost in another shard,
    and goes on with this one.
    """
    holder = read_claim(directory, claim.index)
    with suppress(OSError, DamageError, ValueError):  # no room, no folder, a marker in pieces: no shard is lost for it
        if holder is None:
            take_shard(directory, claim)
        elif (holder.host, holder.pid) == (claim.host, claim.pid):
            _write(directory, claim)


def release_claim(directory: Path, claim: Claim) -> None:
    """Gives a shard back, done or not."""
    holder = read_claim(directory, claim.index)
    if holder is not None and (holder.host, holder.pid) == (claim.host, claim.pid):
        _path(directory, claim.index).unlink(missing_ok=True)


def end_claims(directory: Path, host: str, pid: int, message: str | None) -> int | None:
    """Removes all claims of a worker, and records `message` as a failed attempt at the shard that it was writing.

    Temporary files of dead processes of this host go with them. Returns that shard's index; None where it had none.
    """
    with turn(directory):
        return _end_claims(directory, host, pid, message)


def _end_claims(directory: Path, host: str, pid: int, message: str | None) -> int | None:
    ours = [claim for claim in read_claims(directory) if (claim.host, claim.pid) == (host, pid)]
    ours.sort(key=lambda claim: (claim.began, claim.index))  # the next shard is claimed before the first is published
    if ours and message is not None:
        add_failure(directory, ours[0].index, message=message, where=ours[0].where)
    for claim in ours:
        _path(directory, claim.index).unlink(missing_ok=True)
    remove_dead_temporary_files(Path(directory) / DATA_FOLDER)
    return ours[0].index if ours else None


def read_claim(directory: Path, index: int, *, now: float | None = None) -> Claim | None:
    """The claim on a shard, void or not; None where there is none.

    Args:
        now: seconds since 1970 by the disk's clock, by which its age is told. A claim from its far future is as old:
            the clock was set back since, and a worker that lives would have renewed it. This machine's clock when None.
    """
    path = _path(directory, index)
    try:
        renewed = path.stat().st_mtime
        claim = Claim(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError):
        return None
    age = (time.time() if now is None else now) - renewed
    is_from_before = now is not None and age < -LEASE_SECONDS
    return replace(claim, age_seconds=-age if is_from_before else max(0.0, age))


def read_claims(directory: Path) -> list[Claim]:
    """All claims by shard, void ones too; who may not write the folder tells their age by this machine's clock."""
    now: float | None = None
    with suppress(OSError):
        now = disk_time(directory)
    matches = [_CLAIM_PATTERN.fullmatch(name) for name in list_work(directory)]
    claims = [read_claim(directory, int(match[1]), now=now) for match in matches if match]
    return [claim for claim in claims if claim is not None]


def remove_claims(directory: Path) -> None:
    """Removes every claim; only for who holds the folder's lock alone."""
    for name in list_work(directory):
        if _CLAIM_PATTERN.fullmatch(name):
            work_path(directory, name).unlink(missing_ok=True)


def is_done(directory: Path, index: int, count: int) -> bool:
    """Whether a shard is published with at least `count` groups."""
    marker = read_marker(directory, index)
    return marker is not None and marker.count >= count and is_complete(directory, marker)


def _write(directory: Path, claim: Claim) -> None:
    data = {name: value for name, value in claim.to_json().items() if name != "age_seconds"}
    replace_file(_path(directory, claim.index), json.dumps(data).encode())


def _path(directory: Path, index: int) -> Path:
    return work_path(directory, f"{shard_stem(index)}.claim.json")
