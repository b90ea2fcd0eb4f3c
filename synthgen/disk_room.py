"""Whether the disk has room for a render, said before the first pass.

check_disk(job, survey_folder(job))
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from shards.quantities import format_bytes
from shards.recipe import Recipe

if TYPE_CHECKING:
    from synthgen.job import FolderState, RenderJob

SHARD_BYTES = 7_000
"""About what a shard takes beside its groups: half a record of 10,240 bytes at its end, a marker, offsets."""


def estimate_group_bytes(recipe: Recipe) -> float:
    """Size of a group in its tar, from what natural images took at quality 95 (1.5 kB at 32 px, 4.9 kB at 128 px)."""
    pixels = int(recipe.image["size"]) ** 2
    if recipe.image["format"] == "png":
        image_bytes = 100 + 2.2 * pixels
    else:
        image_bytes = 800 + (500 + 0.21 * pixels) * int(recipe.image["quality"]) / 95
    members = 1 + recipe.num_views
    return members * (image_bytes + 512 + 256) + 1024 + (members * 1024 if recipe.store_latents else 0)


def free_bytes(directory: Path) -> int:
    """Space left on the disk where the folder is or will be."""
    place = directory.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def check_disk(job: RenderJob, state: FolderState) -> None:
    """Raises ValueError when the missing groups will not fit on the disk."""
    needed = state.missing_groups * estimate_group_bytes(job.recipe) + len(state.missing) * SHARD_BYTES
    left = free_bytes(job.directory)
    check_room(job.directory, num_groups=state.missing_groups, needed_bytes=needed, left_bytes=left)


def check_room(directory: Path, *, num_groups: int, needed_bytes: float, left_bytes: int) -> None:
    """Raises ValueError when that many groups need more than is left."""
    if needed_bytes > left_bytes:
        raise ValueError(
            f"{num_groups} groups need about {format_bytes(needed_bytes)}, the disk of {directory} has "
            f"{format_bytes(left_bytes)} left: free some, choose another --out, or ask for a smaller --n"
        )
