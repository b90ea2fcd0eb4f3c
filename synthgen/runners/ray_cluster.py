"""The tasks of a job on a Ray cluster: the one at RAY_ADDRESS or on this machine, or else a new one on this machine.

A task has one GPU, or a whole node where the cluster has no GPUs. Ray runs a task again whose process or node was lost.

    synthgen render --n 1.3M --out /shared/big --runner ray
"""

from __future__ import annotations

import logging
import os
import shlex
from contextlib import suppress
from typing import Any

from shards.manifest import Manifest
from shards.quantities import format_things
from synthgen.config import RenderConfig
from synthgen.runners.batch import MOST_ATTEMPTS, finish_batch, open_batch, run_task

_POLL_SECONDS = 1.0
_PATIENCE_SECONDS = 60.0


def run_ray(config: RenderConfig, *, quiet: bool = False) -> Manifest:
    """Renders what is missing of the dataset on all nodes of the cluster, which share the folder, and finishes it.

    Leaving early, by Ctrl-C or because a task failed, ends the other tasks in good order.

    Raises:
        ValueError: Ray is not installed, or a task was lost, with its process, MOST_ATTEMPTS times.
        OSError: what the disk said to a task; published shards stay, and running again resumes.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("the runner ray needs Ray: pip install -e '.[ray]' in the clone") from None
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    was_there = ray.is_initialized()
    if not was_there:
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    try:
        return _run(ray, config, quiet)
    finally:
        if not was_there:
            ray.shutdown()


def _run(ray: Any, config: RenderConfig, quiet: bool) -> Manifest:
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_gpus = int(sum(node.get("GPU", 0) for node in nodes))
    num_tasks = config.tasks or num_gpus or len(nodes)
    with open_batch(config, device="cuda" if num_gpus else "cpu", quiet=quiet) as batch:
        waiting = batch.tasks_with_work(num_tasks)
        on = format_things(num_gpus, "GPU") if num_gpus else format_things(len(nodes), "node")
        said = f"{format_things(len(waiting), 'task')} on Ray, {on}"
        batch.progress.note(f"{said}; see also: synthgen status {shlex.quote(str(config.out))}")
        task = ray.remote(run_task).options(
            num_cpus=_cpus_per_task(nodes),
            num_gpus=1 if num_gpus else 0,
            max_retries=MOST_ATTEMPTS - 1,
            scheduling_strategy="SPREAD",
        )
        running = [task.remote(batch.task_config(index, num_tasks)) for index in waiting]
        try:
            while running:
                over, running = ray.wait(running, num_returns=len(running), timeout=_POLL_SECONDS)
                batch.update()
                for reference in over:
                    _raise_what_went_wrong(ray, reference)
        finally:
            _cancel(ray, running)
        return finish_batch(batch)


def _raise_what_went_wrong(ray: Any, reference: Any) -> None:
    """Nothing where a task that is over has done its work."""
    try:
        ray.get(reference)
    except ray.exceptions.RayTaskError as error:  # what the task itself said
        raise error.cause from None
    except ray.exceptions.RayError as error:
        raise ValueError(
            f"a task was lost {MOST_ATTEMPTS} times ({type(error).__name__}): if memory ran out, give a smaller "
            "--batch-size for a new dataset; the same command resumes"
        ) from error


def _cancel(ray: Any, running: list[Any]) -> None:
    """Interrupts tasks as Ctrl-C would, and waits until they have given their shards back."""
    with suppress(ray.exceptions.RayError):  # the cluster is gone, and that is what is told
        for reference in running:
            ray.cancel(reference)
        if running:
            ray.wait(running, num_returns=len(running), timeout=_PATIENCE_SECONDS)


def _cpus_per_task(nodes: list[dict[str, float]]) -> int:
    """All of a node's cores, dealt to its GPUs; the smallest node decides, so that every task fits everywhere."""
    with_gpus = [node for node in nodes if node.get("GPU")]
    shares = [int(node.get("CPU", 1) // max(node.get("GPU", 1), 1)) for node in with_gpus or nodes]
    return max(1, min(shares))
