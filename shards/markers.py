"""Completion markers: the last file of a shard to appear, and all that a resumed job believes.

A marker says of which recipe the shard is, which groups it holds, and what its bytes are; it doubles as the record of
how the shard was made.

    done = completed_shards(folder, recipe=recipe, render=render, shard_size=1000)
    missing = [index for index in range(num_shards) if index not in done]
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from shards.canonical import JSON, canonical_json, plain_copy
from shards.errors import DamageError
from shards.manifest import (
    DATA_FOLDER,
    FORMAT,
    MANIFEST_NAME,
    REPAIR,
    ShardRecord,
    check_format,
    load_manifest,
    shard_name,
    shard_stem,
)
from shards.recipe import Recipe, RenderSettings

_MARKER_PATTERN = re.compile(r"train-(\d{6,})\.done\.json")


@dataclass(frozen=True, kw_only=True)
class Marker:
    """What is known of a finished shard."""

    recipe: Recipe
    render: RenderSettings
    index: int
    first: int
    count: int
    bytes: int
    sha256: str
    class_names: Mapping[int, str]
    """Names of the classes that occur in this shard."""
    environment: Mapping[str, JSON]
    """Versions, device, and whatever else the bytes may depend on."""
    seconds: float
    """Time that the shard took."""
    stages: Mapping[str, float]
    """Busy seconds of every stage."""

    @property
    def record(self) -> ShardRecord:
        """The shard's line in the manifest."""
        return ShardRecord(
            name=shard_name(self.index),
            index=self.index,
            first=self.first,
            count=self.count,
            bytes=self.bytes,
            sha256=self.sha256,
        )

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return plain_copy(
            {
                "format": FORMAT,
                "recipe_id": self.recipe.id,
                "recipe": self.recipe.to_json(),
                "render": self.render.to_json(),
                "index": self.index,
                "first": self.first,
                "count": self.count,
                "bytes": self.bytes,
                "sha256": self.sha256,
                "class_names": {str(label): name for label, name in sorted(self.class_names.items())},
                "environment": self.environment,
                "seconds": self.seconds,
                "stages": self.stages,
            },
            "marker",
        )

    @classmethod
    def from_json(cls, data: Mapping[str, JSON]) -> Marker:
        """The inverse of to_json.

        Raises:
            ValueError: the format is of another version.
            DamageError: a field is missing or wrong.
        """
        check_format(data, "marker")
        try:
            fields = {key: value for key, value in data.items() if key not in ("format", "recipe_id")}
            fields["recipe"] = _parse_recipe(canonical_json(data["recipe"]))
            fields["render"] = RenderSettings.from_json(data["render"])
            fields["class_names"] = _parse_class_names(canonical_json(data["class_names"]))
            marker = cls(**fields)
            unaltered = data["recipe_id"] == marker.recipe.id
            _ = marker.record  # refuses what no manifest may hold
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DamageError(f"the marker was altered ({type(error).__name__}: {error})") from error
        if not unaltered:
            raise DamageError("the marker's recipe was altered: its id is another one")
        return marker


# Thousands of markers hold one recipe and the same thousand class names: parsed and kept once, they cost neither the
# seconds nor the gigabyte.
@lru_cache(maxsize=8)
def _parse_recipe(text: str) -> Recipe:
    return Recipe.from_json(json.loads(text))


@lru_cache(maxsize=8)
def _parse_class_names(text: str) -> Mapping[int, str]:
    return {int(label): name for label, name in json.loads(text).items()}


def marker_path(directory: Path, shard_index: int) -> Path:
    """Where a shard's marker lies."""
    return Path(directory) / DATA_FOLDER / f"{shard_stem(shard_index)}.done.json"


def tar_path(directory: Path, shard_index: int) -> Path:
    """Where a shard's tar lies."""
    return Path(directory) / DATA_FOLDER / shard_name(shard_index)


def index_path(directory: Path, shard_index: int) -> Path:
    """Where a shard's member offsets lie."""
    return Path(directory) / DATA_FOLDER / f"{shard_stem(shard_index)}.index.npy"


def read_marker(directory: Path, shard_index: int) -> Marker | None:
    """The marker of a shard, or None where the shard was not finished.

    Raises:
        DamageError: there is one, but not as it was written.
    """
    path = marker_path(directory, shard_index)
    try:
        data = json.loads(path.read_bytes())
        marker = Marker.from_json(data)
    except FileNotFoundError:
        return None
    except (DamageError, json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DamageError(f"{path}: {error}; {REPAIR}") from error
    if marker.index != shard_index:
        raise DamageError(f"{path}: it is shard {marker.index}'s marker; {REPAIR}")
    return marker


def scan_markers(directory: Path) -> dict[int, Marker]:
    """All markers of a folder by shard index, ascending; whether their tars are there is not looked at."""
    folder = Path(directory) / DATA_FOLDER
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    indices = sorted(int(match[1]) for match in map(_MARKER_PATTERN.fullmatch, names) if match)
    markers = {index: read_marker(directory, index) for index in indices}
    return {index: marker for index, marker in markers.items() if marker is not None}


def completed_shards(directory: Path, *, recipe: Recipe, render: RenderSettings, shard_size: int) -> dict[int, Marker]:
    """The shards that need no work, by index; the last one of a smaller dataset counts, with its smaller count.

    A marker whose tar or index is missing, or whose tar has another size, does not count.

    Raises:
        ValueError: the folder holds another recipe, other render settings, or shards of another size.
        DamageError: a marker or the manifest is not as it was written.
    """
    directory = Path(directory)
    if (directory / MANIFEST_NAME).exists():
        manifest = load_manifest(directory)
        _refuse_other(directory, manifest.recipe, manifest.render, recipe, render)
        _refuse_other_size(directory, manifest.shard_size, shard_size)
    completed = {}
    for index, marker in scan_markers(directory).items():
        _refuse_other(directory, marker.recipe, marker.render, recipe, render)
        if index > 0:
            _refuse_other_size(directory, marker.first // index, shard_size)
        if marker.count > shard_size:
            _refuse_other_size(directory, marker.count, shard_size)
        if is_complete(directory, marker):
            completed[index] = marker
    return completed


def is_complete(directory: Path, marker: Marker) -> bool:
    """Whether a marker's tar is there in its whole size, and its index too."""
    try:
        size = tar_path(directory, marker.index).stat().st_size
    except FileNotFoundError:
        return False
    return size == marker.bytes and index_path(directory, marker.index).exists()


def _refuse_other(
    directory: Path, recipe: Recipe, render: RenderSettings, wanted: Recipe, wanted_render: RenderSettings
) -> None:
    difference = recipe.difference(wanted) if recipe.id != wanted.id else None
    difference = difference or render.difference(wanted_render)
    if difference is not None:
        raise ValueError(f"{directory} holds another dataset: {difference}; ask for the same or choose another folder")


def _refuse_other_size(directory: Path, size: int, wanted: int) -> None:
    if size != wanted:
        raise ValueError(
            f"{directory} holds another dataset: shard_size: {size} in the folder, {wanted} asked for; "
            f"ask for the same or choose another folder"
        )
