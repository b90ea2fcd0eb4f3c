"""What a render would take, found out by rendering one block of it and writing nothing: the dry run."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shards.codec import encode_image
from shards.folder import check_folder
from shards.quantities import format_bytes, format_count, format_seconds
from synthgen.config import RenderConfig
from synthgen.disk_room import SHARD_BYTES, check_room, estimate_group_bytes, free_bytes
from synthgen.job import FolderState, RenderJob, prepare_job, survey_folder
from synthgen.original import read_original
from synthgen.plan import ShardPlan, draw_groups, plan_blocks

_TAR_BYTES_PER_MEMBER = 512 + 256  # header, and half a block of padding


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What stands in the folder, and what is still to come."""

    directory: str
    recipe_id: str
    generator: str
    device: str
    dtype: str
    batch_size: int
    compiled: bool
    num_groups: int
    num_shards: int
    missing_shards: int
    missing_groups: int
    missing_bytes: int
    """About; from the block that was rendered."""
    seconds: float
    """About; from the block that was rendered."""
    free_bytes: int
    """Left on the disk of the folder."""

    def lines(self) -> Iterator[str]:
        """What `synthgen render --dry-run` prints."""
        passes = ", compiled passes" if self.compiled else ""
        how = f"{self.device} in {self.dtype}, batch {self.batch_size}{passes}"
        yield f"{'recipe':<14}{self.recipe_id}"
        yield f"{'generator':<14}{self.generator} on {how}"
        yield f"{'groups':<14}{format_count(self.num_groups)}, {format_count(self.missing_groups)} to render"
        yield f"{'shards':<14}{self.num_shards}, {self.missing_shards} to render"
        yield f"{'size':<14}about {format_bytes(self.missing_bytes)} more"
        yield f"{'time':<14}about {format_seconds(self.seconds)}"
        yield f"{'disk left':<14}{format_bytes(self.free_bytes)}"

    def check_room(self) -> None:
        """Raises ValueError when the missing groups will not fit on the disk."""
        check_room(
            Path(self.directory),
            num_groups=self.missing_groups,
            needed_bytes=self.missing_bytes,
            left_bytes=self.free_bytes,
        )


class AbsentWeights(ValueError):
    """A render as asked for would first fetch published weights, which a dry run does not."""

    def __init__(self, generator: str, *, address: str, folder: Path) -> None:
        self.generator, self.address, self.folder = generator, address, folder
        super().__init__(
            f"the weights of {generator} are not here; a render fetches them from {address}: "
            "give weights, or omit dry_run"
        )

    def lines(self) -> Iterator[str]:
        """What `synthgen render --dry-run` prints."""
        yield f"{'generator':<14}{self.generator}"
        yield f"{'weights':<14}not here yet; would be fetched from {self.address}"
        yield f"{'':<14}to {self.folder}"


def estimate_request(config: RenderConfig) -> Estimate:
    """What a render as asked for would take. Nothing is written, and nothing is fetched.

    Raises:
        AbsentWeights: its weights would have to be fetched first.
        ValueError: the request cannot work as it stands.
    """
    check_folder(config.out)
    _refuse_absent_weights(config)
    job = prepare_job(config, to_measure=True)
    return estimate_render(job, survey_folder(job))


def _refuse_absent_weights(config: RenderConfig) -> None:
    from synthgen.adapters.architecture import PUBLISHED_CONFIGS
    from synthgen.adapters.weight_files import default_folder, find_weights, published_address

    name = config.generator
    if config.manifest is not None:
        name = str(read_original(config).manifest.recipe.source.get("generator", name))
    if config.weights is None and name in PUBLISHED_CONFIGS and not find_weights(name):
        raise AbsentWeights(name, address=published_address(name), folder=default_folder(name))


def estimate_render(job: RenderJob, state: FolderState) -> Estimate:
    """Renders one missing block in every forward thread, once warm, and counts up. Writes nothing.

    Args:
        job: its generator on its device: see prepare_job's to_measure.

    Raises:
        ValueError: the device ran out of memory, or the passes cannot be compiled.
    """
    from synthgen.devices import describe_devices

    group_bytes, block_seconds = estimate_group_bytes(job.recipe), 0.0
    if state.missing:
        group_bytes, block_seconds = _measure_block(job, state.missing[0])
    # A shard renders every block that it touches whole: small shards repeat much of each other's work.
    num_blocks = sum(sum(1 for _ in plan_blocks(shard, batch_size=job.render.batch_size)) for shard in state.missing)
    # Processes on one CPU share its cores, and those on one GPU that: only further GPUs make it sooner.
    num_devices = len(set(job.devices))
    return Estimate(
        directory=str(job.directory),
        recipe_id=job.recipe.id,
        generator=job.generator.name,
        device=describe_devices(job.devices),
        dtype=job.render.dtype,
        batch_size=job.render.batch_size,
        compiled=job.render.compiled,
        num_groups=state.num_groups,
        num_shards=state.num_shards,
        missing_shards=len(state.missing),
        missing_groups=state.missing_groups,
        missing_bytes=round(state.missing_groups * group_bytes) + len(state.missing) * SHARD_BYTES,
        seconds=num_blocks * block_seconds / num_devices,
        free_bytes=free_bytes(job.directory),
    )


def _measure_block(job: RenderJob, shard: ShardPlan) -> tuple[float, float]:
    """Bytes per group, and seconds per block with all threads at work."""
    from synthgen.arithmetic import reproducible_arithmetic, set_forward_threads
    from synthgen.devices import count_encode_threads, count_forward_threads, explain_out_of_memory
    from synthgen.rerender import render_members

    recipe, generator = job.recipe, job.generator
    if job.render.compiled:
        from synthgen.adapters.compiling import compile_passes

        generator = compile_passes(generator, batch_size=job.render.batch_size, device=job.device)
    block = next(plan_blocks(shard, batch_size=job.render.batch_size))
    draws = draw_groups(
        recipe, latent_dim=generator.latent_dim, first=block.first, count=block.size, vectors=job.vectors
    )
    latents, labels = draws.inputs(job.device)
    size = int(recipe.image["size"])
    num_threads = count_forward_threads(job.device)

    def render_block(num_members: int) -> tuple[NDArray[np.uint8], float]:
        began = time.perf_counter()
        pixels = render_members(generator, latents[:num_members], labels, size=size)
        return pixels, time.perf_counter() - began

    # All at once, as in a render: side by side, passes share memory and caches, and each takes longer than alone.
    with (
        explain_out_of_memory(job.device, batch_size=job.render.batch_size),
        reproducible_arithmetic(job.device),
        ThreadPoolExecutor(num_threads, "estimate", set_forward_threads) as pool,
    ):
        list(pool.map(render_block, [1] * num_threads))  # the first pass of a thread is slower
        blocks = list(pool.map(render_block, [len(latents)] * num_threads))
    pixels, seconds = blocks[0][0], sum(taken for _, taken in blocks) / num_threads
    began = time.perf_counter()
    encoded = sum(len(encode_image(image, recipe.image)) for member in pixels for image in member)
    encode_seconds = time.perf_counter() - began
    members = len(pixels) + 1 + (1 if recipe.store_latents else 0)
    extra = members * _TAR_BYTES_PER_MEMBER + 256 + (draws.latents[:, 0].nbytes if recipe.store_latents else 0)
    # The stages run side by side: the slower one decides.
    block_seconds = max(seconds / num_threads, encode_seconds / count_encode_threads(job.device))
    return encoded / block.size + extra, block_seconds
