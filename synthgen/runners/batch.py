"""What the runners on clusters have in common: cut the job into tasks, follow them on the disk, finish.

A runner knows which shards exist, which are done, how to run a task, and that a task marks what it has done itself.

    with open_batch(config, device="cuda", quiet=quiet) as batch:
        ...  # submit batch.task_config(index, count) for every index, and call batch.update() till batch.is_done
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from shards.folder import finish_if_whole, share_dataset
from shards.manifest import Manifest, load_manifest
from shards.progress import Progress
from shards.quantities import format_things
from shards.work import read_failures
from synthgen.config import RenderConfig
from synthgen.disk_room import check_disk
from synthgen.job import FolderState, RenderJob, prepare_job, survey_folder
from synthgen.rendering import render_dataset
from synthgen.runners.following import Follower
from synthgen.runners.local import describe_finished

MOST_ATTEMPTS = 3
"""Times that a task is given to the cluster."""


@dataclass
class Batch:
    """A job in tasks that run elsewhere."""

    job: RenderJob
    config: RenderConfig
    state: FolderState
    progress: Progress
    follower: Follower

    @property
    def is_done(self) -> bool:
        """Whether every shard was published at the last update."""
        return self.follower.is_done

    def update(self) -> None:
        """Shows how far all tasks are together."""
        self.follower.update()

    def tasks_with_work(self, num_tasks: int) -> list[int]:
        """The tasks, of so many, that have a shard to render."""
        return sorted({shard.index % num_tasks for shard in self.state.missing})

    def task_config(self, index: int, count: int) -> RenderConfig:
        """The request that one task is; everything that two machines might settle differently is settled."""
        files = {name: getattr(self.config, name) for name in ("weights", "walks", "directions", "manifest")}
        return replace(
            self.config.settled(self.job),
            **{name: path.absolute() for name, path in files.items() if path is not None},
            **{
                name: _found_everywhere(getattr(self.config, name))
                for name in ("generator", "classes", "class_weights")
            },
            out=self.config.out.absolute(),
            n=self.state.num_groups if self.config.manifest is None else None,
            runner="local",
            tasks=None,
            slurm="",
            task_index=index,
            task_count=count,
        )

    def lost_message(self, tasks: list[int]) -> str:
        """Why the job is given up: the tasks that were lost too often, and what they left as their last words."""
        shown = ", ".join(map(str, tasks[:5])) + (", …" if len(tasks) > 5 else "")
        last = max(read_failures(self.job.directory), key=lambda failure: failure.unix_seconds, default=None)
        said = "" if last is None else f": {last.message}"
        return f"{format_things(len(tasks), 'task')} ({shown}) failed {MOST_ATTEMPTS} times{said}"


def _found_everywhere(text: Any) -> Any:
    """The absolute path where an option names a file; a task may run in another folder."""
    return str(Path(text).absolute()) if isinstance(text, str) and os.path.isfile(text) else text


@contextmanager
def open_batch(config: RenderConfig, *, device: Literal["cpu", "cuda"], quiet: bool) -> Iterator[Batch]:
    """Settles the request on this machine, which may lack the GPU of the ones that will render, and shows progress.

    The folder is joined as by a task, so that a job that wants it for itself is told.

    Args:
        device: what the tasks render on.

    Raises:
        ValueError: the request cannot work as it stands.
    """
    job = prepare_job(config, elsewhere=device)
    state = survey_folder(job)
    check_disk(job, state)
    with share_dataset(job.directory, job.plan(state)):
        done = state.num_groups - state.missing_groups
        with Progress(
            total=state.num_groups, unit="groups", label=config.runner, initial=done, quiet=quiet
        ) as progress:
            yield Batch(job, config, state, progress, Follower(job.directory, state.missing, progress))


def finish_batch(batch: Batch) -> Manifest:
    """Finishes the dataset where the last task has not done so yet, and says what it holds."""
    manifest = finish_if_whole(batch.job.directory, num_groups=batch.state.num_groups, shard_size=batch.job.shard_size)
    manifest = manifest or load_manifest(batch.job.directory)
    batch.progress.note(describe_finished(batch.job, manifest))
    return manifest


def run_task(config: RenderConfig) -> str:
    """A task, on whichever machine; returns what to log."""
    began = time.monotonic()
    manifest = render_dataset(config, quiet=False)
    done = "the dataset is finished" if manifest else "other tasks' shards are missing"
    return f"task {config.task_index} of {config.task_count}: {time.monotonic() - began:.0f} s; {done}"


def logs_folder(directory: Path) -> Path:
    """Where a cluster's files about the tasks lie while they run: beside the shards, so that all machines see it."""
    return Path(directory).absolute() / ".tasks"
