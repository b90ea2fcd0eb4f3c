"""One shard, published whole or not at all.

    with ShardWriter(folder, recipe=recipe, render=render, shard_index=0, first=0, count=9, class_names={}) as writer:
        for label, images, views in groups:
            writer.add(label=label, images=images, views=views)
        writer.publish(environment={}, seconds=12.0, stages={})

Until publish returns, the folder holds nothing but a temporary file; afterwards tar, member offsets and, last, the
completion marker are on the disk. Folder-wide steps, the lock and the manifest among them, are in shards.folder.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np

from shards.atomic import flush_folder, naming, temporary_path, write_atomically
from shards.canonical import JSON, canonical_json
from shards.manifest import ShardRecord, group_key
from shards.markers import (
    Marker,
    index_path,
    is_complete,
    marker_path,
    read_marker,
    tar_path,
)
from shards.recipe import Recipe, RenderSettings, member_names
from shards.tar import end_of_archive, format_array, make_index, member_header, padding
from shards.turns import turn


class ShardWriter:
    """Writes groups first … first + count - 1, in index order, and publishes them together.

    Leaving the context without publish removes every trace. Not to be shared between threads.
    """

    def __init__(
        self,
        directory: Path,
        *,
        recipe: Recipe,
        render: RenderSettings,
        shard_index: int,
        first: int,
        count: int,
        class_names: Mapping[int, str],
    ) -> None:
        assert count > 0 and first >= 0, (first, count)
        self._directory, self._recipe, self._render = Path(directory), recipe, render
        self._index, self._first, self._count = shard_index, first, count
        self._class_names = class_names
        self._member_names = member_names(recipe)
        self._classes = frozenset(recipe.classes or (-1,))
        self._labels: list[int] = []
        self._sizes: list[list[int]] = []
        self._view_kinds: JSON = None
        self._sha256 = hashlib.sha256()
        self._path = tar_path(self._directory, shard_index)
        try:
            self._path.parent.mkdir(exist_ok=True)
        except FileNotFoundError as error:
            raise ValueError(f"{directory} is gone: it was removed or renamed while it was written to") from error
        self._temporary = temporary_path(self._path)
        self._file = open(self._temporary, "wb", buffering=1 << 20)  # noqa: SIM115  # closed by publish or __exit__

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._file.close()
        except OSError:
            if error is None:
                raise
        finally:
            self._temporary.unlink(missing_ok=True)

    def add(
        self,
        *,
        label: int,
        images: Sequence[bytes],
        views: Sequence[Mapping[str, JSON]],
        latents: bytes | None = None,
    ) -> None:
        """Appends the next group.

        Args:
            label: class id; -1 where the recipe has no classes.
            images: encoded already: the anchor, then the views.
            views: one mapping per view: its policy and this view's parameters; keys and types the same in every group.
            latents: an .npy file's bytes, where the recipe stores latents.

        Raises:
            OSError: the disk is full; nothing of the shard will remain.
        """
        index = self._first + len(self._labels)
        assert len(self._labels) < self._count, f"shard {self._index} takes {self._count} groups"
        assert label in self._classes, f"group {index}: class {label} is not in the recipe"
        assert len(images) == 1 + self._recipe.num_views and len(views) == self._recipe.num_views, f"group {index}"
        assert (latents is not None) == self._recipe.store_latents, f"group {index}"
        self._check_kinds(index, views)
        class_name = self._class_names[label] if label >= 0 else ""
        metadata = metadata_bytes(index=index, label=label, class_name=class_name, views=views)
        members = [*images, *([] if latents is None else [latents]), metadata]

        key = group_key(index)
        parts: list[bytes] = []
        for name, data in zip(self._member_names, members, strict=True):
            parts += (member_header(f"{key}.{name}", len(data)), data, padding(len(data)))
        self._write(b"".join(parts))
        self._labels.append(label)
        self._sizes.append([len(data) for data in members])

    def publish(self, *, environment: Mapping[str, JSON], seconds: float, stages: Mapping[str, float]) -> ShardRecord:
        """Makes the shard appear: tar, member offsets, and last the marker, each flushed and renamed.

        A shard of the same name, with fewer groups, is replaced; what it held keeps its place in the new tar. Where
        another task has published the same shard meanwhile, or a longer one, that stays, and its record is given.
        """
        assert len(self._labels) == self._count, (
            f"shard {self._index} holds {len(self._labels)} of {self._count} groups"
        )
        self._write(end_of_archive(self._file.tell()))
        size = self._file.tell()
        with naming(self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
        marker = Marker(
            recipe=self._recipe,
            render=self._render,
            index=self._index,
            first=self._first,
            count=self._count,
            bytes=size,
            sha256=self._sha256.hexdigest(),
            class_names={label: self._class_names[label] for label in sorted(set(self._labels)) if label >= 0},
            environment=environment,
            seconds=seconds,
            stages=stages,
        )
        index = make_index(np.array(self._labels, np.int64), np.array(self._sizes, np.int64))
        with turn(self._directory):
            return self._appear(marker, format_array(index))

    def _appear(self, marker: Marker, offsets: bytes) -> ShardRecord:
        found = read_marker(self._directory, self._index)
        if found is not None and _holds(found, marker) and is_complete(self._directory, found):
            return found.record
        path = marker_path(self._directory, self._index)
        if path.exists():
            path.unlink()
            flush_folder(path.parent)  # an old marker must never stand beside the new tar
        os.replace(self._temporary, self._path)
        write_atomically(index_path(self._directory, self._index), offsets)
        write_atomically(path, (canonical_json(marker.to_json()) + "\n").encode())
        return marker.record

    def _write(self, data: bytes) -> None:
        with naming(self._path):
            self._file.write(data)
        self._sha256.update(data)

    def _check_kinds(self, index: int, views: Sequence[Mapping[str, JSON]]) -> None:
        """Readers that infer a table's columns from the first groups need the same keys and types in all of them."""
        kinds = [{key: type(value) for key, value in view.items()} for view in views]
        if self._view_kinds is None:
            self._view_kinds = kinds
        assert kinds == self._view_kinds, f"group {index}: its views' keys or types differ from group {self._first}'s"


def metadata_bytes(*, index: int, label: int, class_name: str, views: Sequence[Mapping[str, JSON]]) -> bytes:
    """A group's member json, byte for byte a function of the plan."""
    return canonical_json({"class_name": class_name, "index": index, "label": label, "views": list(views)}).encode()


def _holds(found: Marker, marker: Marker) -> bool:
    """Whether a published shard has all groups of another one of the same dataset, whoever rendered it."""
    same = (found.recipe.id, found.render, found.index, found.first) == (
        marker.recipe.id,
        marker.render,
        marker.index,
        marker.first,
    )
    return same and found.count >= marker.count
