"""How far a render is, whoever does it and wherever: read from the dataset's folder, whose files stay as they are.

state = synthgen.status("datasets/big")
state.shards_done, state.eta_seconds, [failure.message for failure in state.failures]
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from shards.canonical import JSON
from shards.claims import Claim, read_claims
from shards.folder import lock_holder
from shards.manifest import MANIFEST_NAME, Manifest, load_manifest
from shards.markers import has_whole_tar, is_complete, scan_markers, tar_path
from shards.quantities import format_seconds, format_things
from shards.work import Failure, read_failures, read_plan

_MOST_FAILURES_SHOWN = 10
_MOST_WORKERS_SHOWN = 20


@dataclass(frozen=True, kw_only=True)
class Status:
    """A render at a glance."""

    directory: str
    state: str
    """finished, running, or stopped: shards are missing and no worker is running."""
    num_groups: int
    """Groups of the finished dataset."""
    groups_done: int
    """Groups in finished shards."""
    groups_in_progress: int
    """Groups that workers have written of shards in progress."""
    num_shards: int
    shards_done: int
    shards_in_progress: int
    shards_missing: int
    """Neither done nor in progress."""
    tars_damaged: int
    """Tars that are missing or of another size than was written; the shards are not done, then."""
    workers: int
    groups_per_second: float | None
    """Sum over the workers; None where none of them has told yet."""
    eta_seconds: float | None
    """At this rate; None without one."""
    claims: tuple[Claim, ...]
    """Who is at which shard now."""
    failures: tuple[Failure, ...]
    """Failed attempts at shards that are not done yet."""
    failures_repaired: int
    """Failed attempts at shards that are done by now."""

    @property
    def finished(self) -> bool:
        """Whether the dataset is whole, with its manifest."""
        return self.state == "finished"

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return asdict(self) | {"finished": self.finished}

    def lines(self) -> Iterator[str]:
        """What `synthgen status` prints."""
        yield f"{self.directory}: {self.state}"
        groups = self.groups_done + self.groups_in_progress
        share = 100 * groups / self.num_groups
        yield f"  groups    {groups} of {self.num_groups} ({share:.0f}%)"
        yield (
            f"  shards    {self.shards_done} of {self.num_shards} done, {self.shards_in_progress} in progress, "
            f"{self.shards_missing} to do"
        )
        if self.tars_damaged:
            damaged = format_things(self.tars_damaged, "tar")
            yield f"  damaged   {damaged} missing or of another size: run the same command again to render them anew"
        if self.groups_per_second:
            left = "" if self.eta_seconds is None else f", {format_seconds(self.eta_seconds)} left"
            yield f"  rate      {self.groups_per_second:.1f} groups/s on {format_things(self.workers, 'worker')}{left}"
        for claim in self.claims[:_MOST_WORKERS_SHOWN]:
            yield (
                f"  shard {claim.index:<6}{claim.groups_written} of {claim.count}: {claim.where}, "
                f"last heartbeat {format_seconds(claim.age_seconds)} ago"
            )
        if len(self.claims) > _MOST_WORKERS_SHOWN:
            yield f"  and {len(self.claims) - _MOST_WORKERS_SHOWN} more (--json lists all)"
        if self.failures_repaired:
            yield f"  repaired  {format_things(self.failures_repaired, 'failed attempt')} at shards that are done now"
        for failure in self.failures[-_MOST_FAILURES_SHOWN:]:
            ago = format_seconds(max(0.0, time.time() - failure.unix_seconds))
            yield f"  failed    shard {failure.index}, {ago} ago on {failure.where}: {failure.message}"
        if len(self.failures) > _MOST_FAILURES_SHOWN:
            yield f"  and {len(self.failures) - _MOST_FAILURES_SHOWN} older failures (--json lists all)"
        if self.state == "stopped":
            yield "  no worker is running: run the same synthgen render again to resume"


def status(directory: str | Path) -> Status:
    """How far the render in a folder is: shards done, in progress and missing, rate, time left, failures.

    A shard is done when its tar has the size that its marker says; `shards.verify` looks at what is in it.

    Raises:
        ValueError: the folder is no dataset, or no render of it was begun.
        DamageError: a marker or the manifest is not as it was written.
    """
    directory = Path(directory)
    plan = read_plan(directory)
    if plan is None:
        manifest = load_manifest(directory)  # says what to do where there is none
        return _after_the_end(directory, manifest)
    # In this order: a shard that is published and given back in between may be counted twice, and is never missed.
    claims, failures = read_claims(directory), read_failures(directory)
    markers = scan_markers(directory)
    done = {
        index: marker
        for index, marker in markers.items()
        if index < plan.num_shards and marker.count >= plan.shard_count(index) and is_complete(directory, marker)
    }
    claims = [claim for claim in claims if claim.index not in done and not claim.is_void]
    gone = read_plan(directory) is None  # finished while we looked; a job killed at its very end leaves its plan
    if (gone or len(done) == plan.num_shards) and (directory / MANIFEST_NAME).exists():
        manifest = load_manifest(directory)
        if gone or manifest.num_groups >= plan.num_groups:
            return _after_the_end(directory, manifest)
    rates: dict[tuple[str, int], float] = {}
    for claim in claims:  # a worker may hold several
        worker = (claim.host, claim.pid)
        rates[worker] = max(rates.get(worker, 0.0), claim.groups_per_second)
    rate = sum(rates.values()) or None
    groups_done = sum(marker.count for marker in done.values())
    groups_in_progress = sum(claim.groups_written for claim in claims)
    open_failures = tuple(
        sorted((failure for failure in failures if failure.index not in done), key=lambda failure: failure.unix_seconds)
    )
    return Status(
        directory=str(directory),
        state="running" if claims or lock_holder(directory) else "stopped",
        num_groups=plan.num_groups,
        groups_done=groups_done,
        groups_in_progress=groups_in_progress,
        num_shards=plan.num_shards,
        shards_done=len(done),
        shards_in_progress=len(claims),
        shards_missing=plan.num_shards - len(done) - len(claims),
        tars_damaged=sum(
            index < plan.num_shards and index not in done and not has_whole_tar(directory, marker)
            for index, marker in markers.items()
        ),
        workers=len(rates),
        groups_per_second=rate,
        eta_seconds=(plan.num_groups - groups_done - groups_in_progress) / rate if rate else None,
        claims=tuple(claims),
        failures=open_failures,
        failures_repaired=len(failures) - len(open_failures),
    )


def _after_the_end(directory: Path, manifest: Manifest) -> Status:
    """Of a dataset that was finished: it still is, unless a tar was lost or cut since."""
    done = [shard for shard in manifest.shards if _tar_bytes(directory, shard.index) == shard.bytes]
    num_shards = len(manifest.shards)
    writer = None if len(done) == num_shards else lock_holder(directory)
    return Status(
        directory=str(directory),
        state="finished" if len(done) == num_shards else "running" if writer else "stopped",
        num_groups=manifest.num_groups,
        groups_done=sum(shard.count for shard in done),
        groups_in_progress=0,
        num_shards=num_shards,
        shards_done=len(done),
        shards_in_progress=0,
        shards_missing=num_shards - len(done),
        tars_damaged=num_shards - len(done),
        workers=0,
        groups_per_second=None,
        eta_seconds=None,
        claims=(),
        failures=(),
        failures_repaired=0,
    )


def _tar_bytes(directory: Path, index: int) -> int | None:
    try:
        return tar_path(directory, index).stat().st_size
    except FileNotFoundError:
        return None
