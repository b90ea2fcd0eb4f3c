"""The tasks of a job as an array of Slurm, submitted with submitit and followed on the disk.

What is done is told by the shards' markers, who is at work by squeue: so no accounting (sacct) is needed, which many
clusters lack. A task that Slurm preempts, or whose time is up, checkpoints in the simplest way: it gives its shards
back and is queued again. A task that is gone from the queue with shards left is submitted again.

    synthgen render --n 1.3M --out /shared/big --runner slurm --tasks 64 --slurm partition=gpu,gpus_per_node=1,time=60
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from shards.claims import is_done
from shards.manifest import Manifest
from shards.quantities import format_things
from synthgen.config import RenderConfig, parse_slurm_options
from synthgen.runners.batch import MOST_ATTEMPTS, Batch, finish_batch, logs_folder, open_batch, run_task

DEFAULT_TASKS = 8
_DEFAULT_MINUTES = 60
_MOST_TIMEOUTS = 1000  # a task whose time is up goes on where it was
_POLL_SECONDS = 2.0
_QUEUE_SECONDS = 10.0
_MOST_SILENCES = 30  # five minutes: a controller that is started again answers sooner
_LEAVE_SECONDS = 30.0


class SlurmTask:
    """One task, as submitit pickles it, runs it on a node, and asks it to checkpoint."""

    def __call__(self, config: RenderConfig) -> str:
        return run_task(config)

    def checkpoint(self, config: RenderConfig) -> Any:
        """What to run when the task is queued again: the same. Its shards say how far it was."""
        import submitit

        return submitit.helpers.DelayedSubmission(self, config)


def run_slurm(config: RenderConfig, *, quiet: bool = False) -> Manifest:
    """Renders what is missing of the dataset on the cluster, whose nodes share the folder, and finishes it.

    Leaving by Ctrl-C leaves the tasks in the queue; the same command follows what they have not done, with new tasks.

    Raises:
        ValueError: submitit or Slurm is not here, an option that sbatch has not, a task failed MOST_ATTEMPTS times, or
            squeue failed for minutes.
    """
    options = parse_slurm_options(config.slurm)
    executor = _make_executor(config.out, options)
    on_gpu = any("gpu" in f"{name}={value}" for name, value in options.items() if name != "partition")
    num_tasks = config.tasks or DEFAULT_TASKS
    with open_batch(config, device="cuda" if on_gpu else "cpu", quiet=quiet) as batch:
        _follow(batch, executor, num_tasks)
        manifest = finish_batch(batch)
    shutil.rmtree(logs_folder(config.out), ignore_errors=True)
    return manifest


def _make_executor(directory: Path, options: Mapping[str, str | int]) -> Any:
    try:
        import submitit
    except ImportError:
        raise ValueError("the runner slurm needs submitit: pip install -e '.[slurm]' in the clone") from None
    for program in ("sbatch", "srun", "squeue"):
        if shutil.which(program) is None:
            raise ValueError(f"no {program} here: give --runner slurm on a machine that submits to a Slurm cluster")
    executor = submitit.SlurmExecutor(logs_folder(directory), max_num_timeout=_MOST_TIMEOUTS)
    try:
        executor.update_parameters(**{"time": _DEFAULT_MINUTES, "job_name": "synthgen", **options})
    except ValueError as error:
        known = [line.strip(" -").split(" ")[0] for line in str(error).splitlines()[2:]]
        unknown = next((name for name in options if name not in known), None)
        raise ValueError(f"slurm '{unknown}': sbatch options are {', '.join(known)}") from None
    return executor


def _follow(batch: Batch, executor: Any, num_tasks: int) -> None:
    """Returns when all shards are done and no task is left in the queue."""
    attempts: Counter[int] = Counter()
    queued: dict[int, str] = {}
    looked, num_silences = -_QUEUE_SECONDS, 0
    batch.update()
    while not batch.is_done:
        if time.monotonic() - looked >= _QUEUE_SECONDS:
            looked = time.monotonic()
            try:
                in_queue, num_silences = _jobs_in_queue(), 0
            except ValueError as error:
                num_silences += 1
                if num_silences >= _MOST_SILENCES:
                    raise ValueError(
                        f"{error}, {num_silences} times in a row: submitted tasks stay in the queue; give the same "
                        "command once Slurm answers again"
                    ) from error
            else:
                lost = [index for index in _unfinished_tasks(batch, num_tasks) if queued.get(index) not in in_queue]
                _submit(batch, executor, num_tasks, lost, attempts, queued)
        time.sleep(_POLL_SECONDS)
        batch.update()
    deadline = time.monotonic() + _LEAVE_SECONDS  # the last tasks still write their logs
    with suppress(ValueError):
        while time.monotonic() < deadline and not _jobs_in_queue().isdisjoint(queued.values()):
            time.sleep(_POLL_SECONDS)


def _submit(
    batch: Batch, executor: Any, num_tasks: int, indices: list[int], attempts: Counter[int], queued: dict[int, str]
) -> None:
    if not indices:
        return
    given_up = [index for index in indices if attempts[index] >= MOST_ATTEMPTS]
    if given_up:
        raise ValueError(f"{batch.lost_message(given_up)}; logs are in {logs_folder(batch.config.out)}")
    again = [index for index in indices if attempts[index]]
    try:
        jobs = executor.map_array(SlurmTask(), [batch.task_config(index, num_tasks) for index in indices])
    except RuntimeError as error:  # submitit's FailedJobError is one
        raise ValueError(f"sbatch refused the tasks ({error}): check --slurm and --tasks") from error
    for index, job in zip(indices, jobs, strict=True):
        attempts[index] += 1
        queued[index] = str(job.job_id)
    if again:
        shown = ", ".join(map(str, again[:5])) + (", …" if len(again) > 5 else "")
        batch.progress.warn(f"{format_things(len(again), 'task')} ({shown}) left the queue unfinished: submitted again")
    first = str(jobs[0].job_id).split("_")[0]
    batch.progress.note(
        f"{format_things(len(indices), 'task')} submitted to Slurm as job {first}; see also: "
        f"synthgen status {shlex.quote(str(batch.config.out))}; stop with: scancel {first}"
    )


def _unfinished_tasks(batch: Batch, num_tasks: int) -> list[int]:
    directory = batch.job.directory
    left = [shard for shard in batch.state.missing if not is_done(directory, shard.index, shard.count)]
    return sorted({shard.index % num_tasks for shard in left})


def _jobs_in_queue() -> set[str]:
    """Ids of this user's jobs that wait or run, arrays as 12_3.

    Raises:
        ValueError: Slurm does not answer just now, with the command and what it said.
    """
    # By number: names come from the environment, which may be another user's; --me is younger than some clusters.
    command = ["squeue", "--noheader", "--array", "--format=%i", f"--user={os.getuid()}"]
    answer = subprocess.run(command, capture_output=True, text=True)
    if answer.returncode != 0:
        said = " ".join(answer.stderr.split()) or f"exit code {answer.returncode}"
        raise ValueError(f"{' '.join(command)} failed ({said})")
    return set(answer.stdout.split())
