"""The missing shards of a dataset, one after the other, on one device of this machine."""

from __future__ import annotations

import sys
import time

from shards.console import Progress, format_bytes, format_count, format_seconds, format_things
from shards.folder import restore_files
from shards.manifest import Manifest, load_manifest
from shards.writer import finish_dataset
from synthgen.job import FolderState, RenderJob
from synthgen.pipeline import ShardRenderer, slowest_stage
from synthgen.views import policy_from_recipe


def run_local(job: RenderJob, state: FolderState, *, quiet: bool = False) -> Manifest:
    """Renders the missing shards into the folder, which the caller has locked, and finishes the dataset.

    Raises:
        ValueError: the device ran out of memory.
        OSError: the disk is full or not writable; published shards stay, and running again resumes.
    """
    lines = _opening_lines(job, state)
    if state.manifest is not None:
        restored = restore_files(job.directory)
        if restored:
            lines.append(f"{job.directory}: wrote again what was lost or altered: {', '.join(restored)}")
        if not quiet:
            print("\n".join(lines), file=sys.stderr, flush=True)
        return load_manifest(job.directory)
    done = state.num_groups - state.missing_groups
    with Progress(total=state.num_groups, unit="groups", label="rendering", initial=done, quiet=quiet) as progress:
        for line in lines:
            progress.note(line)
        renderer = ShardRenderer(
            directory=job.directory,
            recipe=job.recipe,
            render=job.render,
            generator=job.generator,
            device=job.device,
            vectors=job.vectors,
        )
        began = time.monotonic()

        def on_groups(count: int) -> None:
            shares = renderer.busy_shares(time.monotonic() - began)
            progress.advance(count, slowest=slowest_stage(shares))

        renderer.run(state.missing, on_groups=on_groups)
        seconds = time.monotonic() - began
        if state.missing:
            shares = ", ".join(f"{stage} {share:.0%}" for stage, share in renderer.busy_shares(seconds).items())
            rate = state.missing_groups * (1 + job.recipe.num_views) / seconds
            progress.note(f"{rate:.0f} images/s over {format_seconds(seconds)}; busy: {shares}")
        manifest = finish_dataset(job.directory, num_groups=state.num_groups, shard_size=job.shard_size)
        progress.note(
            f"{job.directory}: {format_things(manifest.num_groups, 'group')} "
            f"in {format_things(len(manifest.shards), 'shard')}, "
            f"{format_bytes(manifest.total_bytes)}, recipe {manifest.recipe.id[:12]}"
        )
        return manifest


def _opening_lines(job: RenderJob, state: FolderState) -> list[str]:
    recipe = job.recipe
    truncation = float(recipe.source["truncation"])
    view = policy_from_recipe(recipe.views[0], vectors=job.vectors).describe(truncation=truncation)
    lines = [
        f"recipe {recipe.id[:12]}: {job.generator.name} on {job.device} in {job.render.dtype}, batch "
        f"{job.render.batch_size}, truncation {truncation:g}; {recipe.num_views} x {view}"
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
            difference = state.other_environment.replace("asked for", "here")
            lines.append(f"note: new shards may differ in their last bits from the old ones ({difference})")
    return lines
