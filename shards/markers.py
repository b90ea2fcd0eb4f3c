"""Completion markers: the last file of a shard to appear, and all that a resumed job believes.

A marker says of which recipe the shard is, which groups it holds, and what its bytes are; it doubles as the record of
how the shard was made.

    done = {index: marker for index, marker in scan_markers(folder).items() if is_complete(folder, marker)}
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from shards.canonical import JSON, canonical_json, parse_json, plain_copy, shorten
from shards.errors import DamageError
from shards.manifest import (
    DATA_FOLDER,
    FORMAT,
    REPAIR,
    ShardRecord,
    check_format,
    parse_class_names,
    shard_name,
    shard_stem,
)
from shards.recipe import Recipe, RenderSettings

_MOST_SECONDS = 1e12  # more than any render took, and few enough to add up
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
            _check_types(marker)
        except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
            raise DamageError(f"the marker was altered ({type(error).__name__}: {error})") from error
        if not unaltered:
            raise DamageError("the marker's recipe was altered: its id is another one")
        return marker


def _check_types(marker: Marker) -> None:
    """Raises ValueError for what would stop those who read the marker, by its field."""
    if type(marker.index) is not int:
        raise ValueError(f"index is {shorten(marker.index)}, not a whole number")
    _ = marker.record  # refuses what no manifest may hold
    for name in ("environment", "stages"):
        if not isinstance(getattr(marker, name), dict):
            raise ValueError(f"{name} is {shorten(getattr(marker, name))}, not a mapping")
    plain_copy(marker.environment, "environment")
    for name, value in {"seconds": marker.seconds, **{f"stages.{k}": v for k, v in marker.stages.items()}}.items():
        if type(value) not in (int, float) or not 0 <= value <= _MOST_SECONDS:
            raise ValueError(f"{name} is {shorten(value)}, not a number of seconds")


# Thousands of markers hold one recipe and the same thousand class names: parsed and kept once, they cost neither the
# seconds nor the gigabyte.
@lru_cache(maxsize=8)
def _parse_recipe(text: str) -> Recipe:
    return Recipe.from_json(json.loads(text))


@lru_cache(maxsize=8)
def _parse_class_names(text: str) -> Mapping[int, str]:
    return parse_class_names(json.loads(text))


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
        marker = Marker.from_json(parse_json(path.read_bytes()))
    except FileNotFoundError:
        return None
    except DamageError as error:
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


def has_whole_tar(directory: Path, marker: Marker) -> bool:
    """Whether a marker's tar is there in its whole size."""
    try:
        size = tar_path(directory, marker.index).stat().st_size
    except FileNotFoundError:
        return False
    return size == marker.bytes


def is_complete(directory: Path, marker: Marker) -> bool:
    """Whether a marker's tar is there in its whole size, and its index too."""
    return has_whole_tar(directory, marker) and index_path(directory, marker.index).exists()


def repair_command(directory: Path | str, shard_index: int, recipe: Recipe) -> str:
    """What makes a damaged shard anew, in words and for a shell."""
    folder = shlex.quote(f"{directory}/{DATA_FOLDER}")
    return f"rm {folder}/{shard_stem(shard_index)}.* and run the same {recipe.command} again"
