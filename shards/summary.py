"""What is in a dataset's folder, finished or not.

summary = info("datasets/demo")
summary.groups, summary.complete
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

from shards.canonical import JSON, canonical_json, shorten
from shards.folder import lock_holder
from shards.manifest import MANIFEST_NAME, load_manifest
from shards.markers import Marker, is_complete, scan_markers
from shards.quantities import format_bytes, format_seconds, format_things
from shards.recipe import Recipe, RenderSettings


@dataclass(frozen=True, kw_only=True)
class Summary:
    """A dataset at a glance."""

    directory: str
    complete: bool
    """Whether there is a manifest, and every shard of it, so that readers take it."""
    groups: int
    """Groups that can be read; of an unfinished dataset, those in finished shards."""
    images_per_group: int
    bytes: int
    """Size of the tars."""
    shards: int
    """Shards that are done."""
    shard_size: int
    """Groups of a full shard."""
    more_groups: int
    """Groups in finished shards beyond the manifest: the dataset is growing."""
    damaged_shards: int
    """Shards of the manifest that are missing or not what it says."""
    render_seconds: float
    """Sum of the times that the shards took."""
    writer: str | None
    """The job that is writing the folder now."""
    recipe: Recipe
    render: RenderSettings

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return {
            **self.__dict__,
            "images": self.groups * self.images_per_group,
            "num_classes": len(self.recipe.classes),
            "image_size": self.recipe.image["size"],
            "recipe_id": self.recipe.id,
            "recipe": self.recipe.to_json(),
            "render": self.render.to_json(),
        }

    def rows(self) -> list[tuple[str, str]]:
        """Name and value, line by line, for people."""
        recipe = self.recipe
        state = (
            "complete"
            if self.complete
            else f"not finished: {format_things(self.shards, 'shard')} {'is' if self.shards == 1 else 'are'} done"
        )
        if self.complete and self.more_groups:
            state = f"complete, and growing: {format_things(self.more_groups, 'group')} more"
        if self.damaged_shards:
            state = (
                f"damaged: {self.damaged_shards} of {format_things(self.shards, 'shard')} missing or changed; "
                f"run shards verify {shlex.quote(self.directory)}"
            )
        if self.writer is not None:
            state += f"; a job is writing it ({self.writer})"
        elif not self.damaged_shards and (not self.complete or self.more_groups):
            state += f"; run the same {recipe.command} again to go on"
        return [
            ("state", state),
            ("groups", f"{self.groups:,}"),
            ("images", f"{self.groups * self.images_per_group:,} ({self.images_per_group} a group)"),
            (
                "size",
                f"{format_bytes(self.bytes)} in {format_things(self.shards, 'shard')} "
                f"of {format_things(self.shard_size, 'group')}",
            ),
            ("classes", _shorten_classes(recipe.classes)),
            *((f"source {name}", _text(value)) for name, value in recipe.source.items()),
            *((f"view {number}", _fields(view)) for number, view in enumerate(recipe.views)),
            ("seed", str(recipe.seed)),
            ("image", _fields(recipe.image)),
            *self._rows_of_making(),
            ("recipe id", recipe.id),
        ]

    def _rows_of_making(self) -> list[tuple[str, str]]:
        rate = self.groups / self.render_seconds if self.render_seconds > 0 else 0.0
        seconds = format_seconds(self.render_seconds)
        if self.recipe.is_real:
            return [("packing time", f"{seconds} ({rate:.0f} groups/s)")]
        return [
            ("latents", "stored" if self.recipe.store_latents else "not stored (they can be drawn again)"),
            ("render", _fields(self.render.to_json())),
            ("render time", f"{seconds} ({rate:.0f} groups/s a device)"),
        ]


def info(directory: str | Path) -> Summary:
    """Looks at manifest and markers; the tars are not read.

    Raises:
        ValueError: the folder is no dataset, or no shard of it is done yet.
    """
    directory = Path(directory)
    markers = scan_markers(directory)
    done = {index: marker for index, marker in markers.items() if is_complete(directory, marker)}
    writer = lock_holder(directory)
    seconds = sum(marker.seconds for marker in done.values())
    if (directory / MANIFEST_NAME).exists() or not done:
        if writer is not None and not (directory / MANIFEST_NAME).exists():
            raise ValueError(f"{directory}: no shard is done yet; a job ({writer}) is writing it: look again later")
        manifest = load_manifest(directory)
        held = sum(marker.count for marker in done.values())
        num_damaged = sum(shard.index not in done or done[shard.index].record != shard for shard in manifest.shards)
        return Summary(
            directory=str(directory),
            complete=num_damaged == 0,
            groups=manifest.num_groups,
            images_per_group=manifest.num_images,
            bytes=manifest.total_bytes,
            shards=len(manifest.shards),
            shard_size=manifest.shard_size,
            more_groups=max(0, held - manifest.num_groups),
            damaged_shards=num_damaged,
            render_seconds=seconds,
            writer=writer,
            recipe=manifest.recipe,
            render=manifest.render,
        )
    some = next(iter(done.values()))
    return Summary(
        directory=str(directory),
        complete=False,
        groups=sum(marker.count for marker in done.values()),
        images_per_group=1 + some.recipe.num_views,
        bytes=sum(marker.bytes for marker in done.values()),
        shards=len(done),
        shard_size=_shard_size(done),
        more_groups=0,
        damaged_shards=0,
        render_seconds=seconds,
        writer=writer,
        recipe=some.recipe,
        render=some.render,
    )


def _shard_size(markers: dict[int, Marker]) -> int:
    return max(marker.first // index if index else marker.count for index, marker in markers.items())


def _shorten_classes(classes: tuple[int, ...]) -> str:
    if not classes:
        return "unlabelled"
    shown = ", ".join(map(str, classes)) if len(classes) <= 12 else f"{classes[0]} … {classes[-1]}"
    return f"{len(classes)} ({shown})"


def _fields(mapping: JSON) -> str:
    return ", ".join(f"{name} {_text(value)}" for name, value in mapping.items())


def _text(value: JSON) -> str:
    if isinstance(value, list) and value and all(isinstance(part, dict) for part in value):
        return " + ".join(f"({_fields(part)})" for part in value)
    if isinstance(value, dict):
        return shorten(value)
    return value if isinstance(value, str) else canonical_json(value)
