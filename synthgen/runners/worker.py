"""One process at a list of shards that others may be at, too: claim, render, publish, until all of them are done.

The renderer takes the next shard before the last one is published, so that its stages never run empty; a worker
therefore holds two claims now and then. A thread of their own renews them, so that a shard is not lost to a slow
generator or a disk that hangs: a claim says that its process lives, not how fast it is.

    Worker(job).run(plan_shards(num_groups=4000, shard_size=1000))
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace

from shards.claims import Claim, end_claims, release_claim, renew_claim, take_shard
from shards.processes import host_tag
from synthgen.job import RenderJob
from synthgen.pipeline import ShardRenderer
from synthgen.plan import ShardPlan

_RENEW_SECONDS = 1.0
_WAIT_SECONDS = 1.0


class Worker:
    """Renders shards of a job on its device, in the folder that the caller has locked.

    Args:
        task: what messages call this part of the job, such as "2 of 64"; empty where there is one part.
    """

    def __init__(self, job: RenderJob, *, task: str = "") -> None:
        self._job, self._task = job, task
        self._renderer = ShardRenderer(
            directory=job.directory,
            recipe=job.recipe,
            render=job.render,
            generator=job.generator,
            device=job.device,
            vectors=job.vectors,
        )
        self._claims: deque[Claim] = deque()  # in the order in which their groups will be written
        self._claims_lock = threading.Lock()  # so that none is renewed after it was released
        self._began = time.monotonic()
        self._num_written = 0
        self._on_groups: Callable[[int], None] = lambda count: None

    def run(self, shards: Sequence[ShardPlan], *, on_groups: Callable[[int], None] = lambda count: None) -> None:
        """Returns when every one of the shards is done, by this worker or by others.

        A shard that another worker is at is waited for, and taken over should that worker be lost. on_groups is told
        of every few groups written, and of the shards that others have done.

        Raises:
            ValueError: the device ran out of memory.
            OSError: the disk is full or not writable. Published shards stay; of the others nothing remains.
        """
        self._on_groups = on_groups
        self._began = time.monotonic()
        left = list(shards)
        try:
            with self._renewing():
                while left:
                    held: list[ShardPlan] = []
                    self._renderer.run(self._take(left, held), on_groups=self._count)
                    left = held
                    if left:
                        time.sleep(_WAIT_SECONDS)
        except BaseException as error:
            stopped = isinstance(error, KeyboardInterrupt | SystemExit)
            message = None if stopped else f"{type(error).__name__}: {error}"
            with suppress(OSError):  # where the disk is full, that is the error to tell; claims of the dead are void
                end_claims(self._job.directory, host_tag(), os.getpid(), message)
            self._claims.clear()
            raise
        finally:
            self._on_groups = lambda count: None  # whoever is told may hold this worker, and it holds pinned memory

    def stage_shares(self) -> dict[str, float]:
        """Share of the time since run began that each stage was busy."""
        seconds = max(time.monotonic() - self._began, 1e-9)
        return {stage: round(share, 4) for stage, share in self._renderer.busy_shares(seconds).items()}

    def _rate(self) -> float:
        """Groups per second since run began."""
        return round(self._num_written / max(time.monotonic() - self._began, 1e-9), 3)

    def _take(self, shards: Sequence[ShardPlan], held: list[ShardPlan]) -> Iterator[ShardPlan]:
        for shard in shards:
            claim = Claim(
                index=shard.index,
                count=shard.count,
                host=host_tag(),
                pid=os.getpid(),
                device=str(self._job.device),
                task=self._task,
                began=time.time(),
                groups_per_second=self._rate(),
                stages=self.stage_shares() if self._num_written else {},
            )
            taken = take_shard(self._job.directory, claim)
            if taken == "taken":
                with self._claims_lock:
                    self._claims.append(claim)
                yield shard
            elif taken == "held":
                held.append(shard)
            else:
                self._on_groups(shard.count)

    def _count(self, count: int) -> None:
        """Books groups that were written: they belong to the shard that was claimed first."""
        self._num_written += count
        with self._claims_lock:
            current = replace(self._claims[0], groups_written=self._claims[0].groups_written + count)
            self._claims[0] = current
            if current.groups_written == current.count:
                self._claims.popleft()
                release_claim(self._job.directory, current)
        self._on_groups(count)

    @contextmanager
    def _renewing(self) -> Iterator[None]:
        """Inside, the claims are renewed once a second, whatever the renderer is waiting for."""
        over = threading.Event()

        def renew() -> None:
            while not over.wait(_RENEW_SECONDS):
                rate, shares = self._rate(), self.stage_shares()
                with self._claims_lock:
                    for claim in self._claims:
                        renew_claim(self._job.directory, replace(claim, groups_per_second=rate, stages=shares))

        thread = threading.Thread(target=renew, name="renew claims")
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()
