"""From a request to a finished dataset: check, take the folder, let a runner render what is missing.

manifest = render(n="4k", out="datasets/demo")
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Unpack, overload

from shards.folder import lock_dataset, share_dataset
from shards.manifest import Manifest, load_manifest
from shards.work import begin_work
from synthgen.config import RenderConfig, RenderOptions, config_from_options
from synthgen.disk_room import check_disk
from synthgen.job import prepare_job, survey_folder

if TYPE_CHECKING:
    from synthgen.estimate import Estimate


def render_dataset(config: RenderConfig, *, quiet: bool = False) -> Manifest | None:
    """Renders what is missing of a dataset and finishes it; progress goes to stderr.

    Of a task, only its own shards; the manifest is None where shards of other tasks are missing still.

    Raises:
        ValueError: the request cannot work as it stands; nothing was rendered.
        OSError: the disk is full or not writable; running the same again resumes.
    """
    if config.runner == "slurm":
        from synthgen.runners.slurm import run_slurm

        return run_slurm(config, quiet=quiet)
    if config.runner == "ray":
        from synthgen.runners.ray_cluster import run_ray

        return run_ray(config, quiet=quiet)
    from synthgen.runners.local import run_local
    from synthgen.runners.tasks import task_share

    share = task_share(config.task_index, config.task_count, os.environ)
    job = prepare_job(config)
    plan = job.plan(survey_folder(job)) if share else None
    with share_dataset(job.directory, plan) if plan else lock_dataset(job.directory) as lock:
        state = survey_folder(job)
        check_disk(job, state)
        if share is None and state.manifest is None:
            begin_work(job.directory, job.plan(state))
        return run_local(job, config, state, lock=lock, share=share, quiet=quiet)


@overload
def render(
    *,
    out: str | Path,
    n: int | str | None = None,
    dry_run: Literal[True],
    quiet: bool = False,
    **options: Unpack[RenderOptions],
) -> Estimate: ...


@overload
def render(
    *,
    out: str | Path,
    n: int | str | None = None,
    task_index: int,
    task_count: int,
    dry_run: Literal[False] = False,
    quiet: bool = False,
    **options: Unpack[RenderOptions],
) -> Manifest | None: ...


@overload
def render(
    *,
    out: str | Path,
    n: int | str | None = None,
    dry_run: Literal[False] = False,
    quiet: bool = False,
    **options: Unpack[RenderOptions],
) -> Manifest: ...


@overload
def render(
    *,
    out: str | Path,
    n: int | str | None = None,
    dry_run: bool,
    quiet: bool = False,
    **options: Unpack[RenderOptions],
) -> Manifest | Estimate: ...


def render(
    *,
    out: str | Path,
    n: int | str | None = None,
    task_index: int | None = None,
    task_count: int | None = None,
    dry_run: bool = False,
    quiet: bool = False,
    **options: Unpack[RenderOptions],
) -> Manifest | Estimate | None:
    """`synthgen render` from Python: the options are RenderConfig's fields; n may be text such as "4k".

    With dry_run nothing is written, and what it would take is given. With manifest, the dataset that it describes is
    rendered and compared with it (`synthgen.reproduction.reproduce_dataset` gives the comparison). One task of several
    (task_index, or an array of Slurm around it) gives None while shards of the others are missing.

    Raises:
        ValueError: the request cannot work as it stands; nothing was rendered.
        DamageError: what was rendered is not what the manifest describes, and nothing explains it.
    """
    task = {"task_index": task_index, "task_count": task_count}
    given = {name: value for name, value in task.items() if value is not None}
    config = config_from_options(n=n, out=out, options={**options, **given})
    if dry_run:
        from synthgen.estimate import estimate_request

        return estimate_request(config)
    if config.manifest is None:
        return render_dataset(config, quiet=quiet)
    from synthgen.reproduction import reproduce_dataset

    report = reproduce_dataset(config, quiet=quiet)
    if report is None:
        return None
    if not quiet:
        print(report.describe(), file=sys.stderr, flush=True)
    return load_manifest(config.out)
