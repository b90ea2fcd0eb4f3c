"""The missing shards of a dataset, or one task's share of them, on the devices of this machine."""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from types import FrameType

from shards.folder import finish_dataset, finish_if_whole, restore_files
from shards.manifest import Manifest, load_manifest
from shards.progress import Progress
from shards.quantities import format_bytes, format_count, format_seconds, format_things
from shards.turns import turn
from shards.work import end_work, remove_work
from synthgen.config import RenderConfig
from synthgen.devices import describe_devices
from synthgen.job import FolderState, RenderJob
from synthgen.pipeline import slowest_stage
from synthgen.runners.processes import run_processes
from synthgen.runners.tasks import TaskShare
from synthgen.runners.worker import Worker
from synthgen.views import policy_from_recipe


def run_local(
    job: RenderJob,
    config: RenderConfig,
    state: FolderState,
    *,
    lock: int,
    share: TaskShare | None = None,
    quiet: bool,
) -> Manifest | None:
    """Renders the missing shards into the folder, which the caller has locked, and finishes the dataset.

    With a share, only that task's shards are rendered, and the manifest is None while shards of others are missing.

    Args:
        lock: descriptor of the lock, for the processes to hold, too.

    Raises:
        ValueError: the device ran out of memory, or its process was lost again and again.
        OSError: the disk is full or not writable; published shards stay, and running again resumes.
    """
    lines = _opening_lines(job, state)
    if state.manifest is not None:
        return _find_complete(job, state, lines, share=share, quiet=quiet)
    missing = state.missing if share is None else share.of(state.missing)
    total, label, task = state.num_groups, "rendering", ""
    if share is not None:
        total, label, task = sum(shard.count for shard in share.of(state.shards)), f"task {share.label}", share.label
        lines.append(f"task {share.label} ({share.origin}): {format_things(len(missing), 'shard')} to render")
    if missing and job.render.compiled:
        lines.append("compiling the passes first: half a minute or so, seconds where that was done before")
    _say(lines, quiet=quiet)
    done = total - sum(shard.count for shard in missing)
    with ExitStack() as stack:
        stack.enter_context(_termination_as_exit())
        worker = Worker(job, task=task) if missing and len(job.devices) == 1 else None
        progress = stack.enter_context(Progress(total=total, unit="groups", label=label, initial=done, quiet=quiet))
        if missing:
            began = time.monotonic()
            if worker is None:
                stages = run_processes(job, config, missing, lock=lock, task=task, progress=progress)
            else:
                worker.run(
                    missing,
                    on_groups=lambda count: progress.advance(count, slowest=slowest_stage(worker.stage_shares())),
                )
                stages = worker.stage_shares()
            seconds = time.monotonic() - began
            shares = ", ".join(f"{stage} {busy:.0%}" for stage, busy in stages.items())
            rate = (total - done) * (1 + job.recipe.num_views) / seconds
            progress.note(f"{rate:.0f} images/s over {format_seconds(seconds)}; busy: {shares or 'not measured'}")
        finish = finish_dataset if share is None else finish_if_whole
        manifest = finish(job.directory, num_groups=state.num_groups, shard_size=job.shard_size)
        if manifest is None:
            progress.note(f"task {task} is done; other tasks' shards are missing")
        else:
            progress.note(describe_finished(job, manifest))
        return manifest


def _find_complete(
    job: RenderJob, state: FolderState, lines: list[str], *, share: TaskShare | None, quiet: bool
) -> Manifest:
    """Nothing is left to render: puts the folder's small files in order."""
    restored = [] if share else restore_files(job.directory)
    if restored:
        lines.append(f"{job.directory}: wrote again what was lost or altered: {', '.join(restored)}")
    _say(lines, quiet=quiet)
    if share is None:
        remove_work(job.directory)
    else:
        with turn(job.directory):
            end_work(job.directory, num_groups=state.num_groups, shard_size=job.shard_size)
    return load_manifest(job.directory)


def _say(lines: list[str], *, quiet: bool) -> None:
    if not quiet:
        print("\n".join(lines), file=sys.stderr, flush=True)


def describe_finished(job: RenderJob, manifest: Manifest) -> str:
    """The last line of a render."""
    return (
        f"{job.directory}: {format_things(manifest.num_groups, 'group')} "
        f"in {format_things(len(manifest.shards), 'shard')}, "
        f"{format_bytes(manifest.total_bytes)}, recipe {manifest.recipe.id[:12]}"
    )


@contextmanager
def _termination_as_exit() -> Iterator[None]:
    """Inside, SIGTERM, which batch systems send before they kill, leaves in good order; another handler stays."""
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if mine:
        signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _exit(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def _opening_lines(job: RenderJob, state: FolderState) -> list[str]:
    recipe = job.recipe
    truncation = float(recipe.source["truncation"])
    views = "no views"
    if recipe.views:
        policy = policy_from_recipe(recipe.views[0], vectors=job.vectors)
        views = f"{recipe.num_views} x {policy.describe(truncation=truncation)}"
    lines = [
        f"recipe {recipe.id[:12]}: {job.generator.name} on {describe_devices(job.devices)} in {job.render.dtype}, "
        f"batch {job.render.batch_size}, {'compiled passes, ' if job.render.compiled else ''}"
        f"truncation {truncation:g}; {views}"
    ]
    if state.num_groups > job.num_groups:
        lines.append(
            f"{job.directory} holds {format_things(state.num_groups, 'group')}: the first "
            f"{format_count(job.num_groups)} of them are what was asked for"
        )
    if state.manifest is not None:
        held = f"{format_things(state.num_groups, 'group')} in {format_things(state.num_shards, 'shard')}"
        lines.append(f"{job.directory} is complete, nothing to render: {held}")
    elif len(state.missing) < state.num_shards:
        num_done = state.num_shards - len(state.missing)
        lines.append(f"resuming: {num_done} of {state.num_shards} shards are done")
        if state.other_environment is not None:
            lines.append(
                f"note: new shards may differ in their last bits from the old ones ({state.other_environment})"
            )
    return lines
