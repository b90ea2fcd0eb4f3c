"""All devices of this machine: a process each, work taken from one list, lost processes replaced.

The processes are started afresh, not forked, so that each has its own CUDA context and its own cores, and they hold the
folder's lock together with their parent: it is free when the last of them is gone. Which shard is whose is settled by
claims on the disk, as between machines.

    run_processes(job, config, shards, lock=descriptor, task="", progress=progress)
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import synthgen
from shards.claims import end_claims
from shards.errors import DamageError
from shards.processes import host_tag
from shards.progress import Progress
from shards.work import read_failures
from synthgen.config import RenderConfig
from synthgen.job import RenderJob
from synthgen.plan import ShardPlan
from synthgen.runners.following import Follower

MOST_LOSSES = 3
"""Workers that may be lost in one shard, or before their first, until the job gives up."""
_COMMAND = (sys.executable, "-m", "synthgen.runners.worker_process")
_POLL_SECONDS = 0.2
_PATIENCE_SECONDS = 60.0


@dataclass
class _Place:
    """A device's process, and how often it was lost before it had begun a shard."""

    request: dict[str, Any]
    device: str
    process: subprocess.Popen[str]
    num_idle_losses: int = 0
    done: bool = False


def run_processes(
    job: RenderJob, config: RenderConfig, shards: Sequence[ShardPlan], *, lock: int, task: str, progress: Progress
) -> dict[str, float]:
    """Renders the shards on all devices of the job; returns the mean busy share of every stage, as last seen.

    Args:
        lock: descriptor of the folder's lock.
        task: as in Worker.

    Raises:
        ValueError: a device ran out of memory, or workers were lost again and again in one shard.
        OSError: the disk is full or not writable. Published shards stay; of the others nothing remains.
    """
    follower = Follower(job.directory, shards, progress)
    earlier = Counter(failure.index for failure in read_failures(job.directory))
    places: list[_Place] = []
    try:
        for request in _requests(job, config, shards, task):
            places.append(_Place(request=request, device=request["config"]["devices"], process=_start(request, lock)))
        while not all(place.done for place in places):
            for place in places:
                _look_after(place, job.directory, lock, progress, earlier)
            follower.update()
            time.sleep(_POLL_SECONDS)
    finally:
        _stop(places, job.directory)
    follower.update()
    return follower.stage_shares


def _requests(job: RenderJob, config: RenderConfig, shards: Sequence[ShardPlan], task: str) -> list[dict[str, Any]]:
    """What each process is told: the config with everything settled that a process might settle differently."""
    from synthgen.devices import share_cores

    settled = replace(config.settled(job), task_index=None, task_count=None)
    plain = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(settled).items()}
    return [
        {
            "config": plain | {"devices": str(device)},
            "recipe_id": job.recipe.id,
            "cores": sorted(share_cores(number, len(job.devices))),
            "task": task,
            "shards": [asdict(shard) for shard in shards],
        }
        for number, device in enumerate(job.devices)
    ]


def _start(request: dict[str, Any], lock: int) -> subprocess.Popen[str]:
    package_folder = str(Path(synthgen.__file__).parents[1])
    search_path = os.pathsep.join(filter(None, (package_folder, os.environ.get("PYTHONPATH"))))
    process = subprocess.Popen(
        _COMMAND,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": search_path},
        pass_fds=(lock,),
        start_new_session=True,  # Ctrl-C reaches the parent alone, which stops its workers in good order
    )
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # it is gone already: seen at the first look
        process.stdin.write(json.dumps(request) + "\n")
        process.stdin.flush()
    return process


def _look_after(place: _Place, directory: Path, lock: int, progress: Progress, earlier: Mapping[int, int]) -> None:
    """Notices a process that has ended, raises its error, or starts another in its place.

    Args:
        earlier: failed attempts by shard that were on record before the job began; they do not count against it.
    """
    code = place.process.poll()
    if place.done or code is None:
        return
    answer = _close(place.process)
    if code == 0:
        place.done = True
        return
    if answer:
        raise _as_error(json.loads(answer), place.device)
    pid, how = place.process.pid, _describe_exit(code)
    index = end_claims(directory, host_tag(), pid, f"its worker {how}")
    if index is None:  # perhaps another worker took the shard over already, and recorded it
        own = f"pid {pid} on {host_tag().rpartition('-')[0]}"
        lost = (failure.index for failure in read_failures(directory) if failure.where.endswith(own))
        index = next(lost, None)
    if index is None:
        place.num_idle_losses += 1
        attempts, where = place.num_idle_losses, "before its first shard"
    else:
        attempts = sum(failure.index == index for failure in read_failures(directory)) - earlier.get(index, 0)
        where = f"in shard {index}"
    said = f"the worker on {place.device} (pid {pid}) {how} {where}"
    if attempts >= MOST_LOSSES:
        raise ValueError(
            f"{said}, after {attempts} attempts: if memory ran out, give fewer --devices or, for a new "
            "dataset, a smaller --batch-size; the same command resumes"
        )
    progress.warn(f"{said}; its shard is rendered again (attempt {attempts + 1}, {MOST_LOSSES} at most)")
    place.process = _start(place.request, lock)


def _close(process: subprocess.Popen[str]) -> str:
    """The last words of a process that has ended."""
    assert process.stdin is not None and process.stdout is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
    with process.stdout:
        return process.stdout.read().strip()


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}"
    name = signal.Signals(-code).name
    return f"was killed by {name}" + (" (by hand, or because memory ran out)" if name == "SIGKILL" else "")


def _as_error(answer: dict[str, Any], device: str) -> Exception:
    kind, message = answer["kind"], answer["message"]
    if kind == "OSError":
        return OSError(answer["errno"], message, answer["filename"])
    if kind in ("ValueError", "DamageError"):
        return (DamageError if kind == "DamageError" else ValueError)(message)
    return RuntimeError(f"the worker on {device} failed ({message}); its traceback is above")


def _stop(places: Sequence[_Place], directory: Path) -> None:
    """Asks the processes that are still there to leave in good order, and kills those that do not."""
    left = [place.process for place in places if not place.done]
    for process in left:
        process.terminate()  # nothing where it has ended
    deadline = time.monotonic() + _PATIENCE_SECONDS
    for process in left:
        try:
            process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if process.stdout is not None and not process.stdout.closed:
            _close(process)
        end_claims(directory, host_tag(), process.pid, None)
