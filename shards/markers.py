"""Completion markers: the last file of a shard to appear, and all that a resumed job believes.

A marker says of which recipe the shard is, which groups it holds, and what its bytes are; it doubles as the record of
how the shard was made.

    done = completed_shards(folder, recipe=recipe, render=render, shard_size=1000)
    missing = [index for index in range(num_shards) if index not in done]
"""

from __future__ import annotations

import hashlib
import json
import re
import shlex
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from shards.canonical import JSON, canonical_json, parse_json, plain_copy, shorten
from shards.card import vouches_for_manifest
from shards.errors import DamageError
from shards.manifest import (
    DATA_FOLDER,
    FORMAT,
    MANIFEST_NAME,
    REPAIR,
    Manifest,
    ShardRecord,
    check_format,
    load_manifest,
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


def completed_shards(directory: Path, *, recipe: Recipe, render: RenderSettings, shard_size: int) -> dict[int, Marker]:
    """The shards that need no work, by index; the last one of a smaller dataset counts, with its smaller count.

    A marker whose tar or index is missing, or whose tar has another size, does not count.

    Raises:
        ValueError: the folder holds another recipe, other render settings, or shards of another size.
        DamageError: a marker or the manifest is not as it was written, or one marker is not of this dataset.
    """
    directory = Path(directory)
    manifest = load_manifest(directory) if (directory / MANIFEST_NAME).exists() else None
    if manifest is not None:
        difference = _difference(manifest.recipe, manifest.render, recipe, render)
        if difference is None and manifest.shard_size != shard_size:
            difference = f"shard_size: {manifest.shard_size} in the folder, {shard_size} asked for"
        if difference is not None:
            raise _other_dataset(directory, difference)
    markers = scan_markers(directory)
    _refuse_foreign(directory, markers, recipe, render, shard_size, is_pinned=manifest is not None)
    completed = {index: marker for index, marker in markers.items() if is_complete(directory, marker)}
    if manifest is not None:
        check_markers(directory, completed, manifest)
    return completed


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


def check_markers(directory: Path, markers: Mapping[int, Marker], manifest: Manifest) -> None:
    """Refuses markers of complete shards that a finished dataset's manifest, of the same recipe, gives the lie to.

    A shard that was lost and rendered again elsewhere, or has grown, has other bytes than the manifest says: then its
    tar is what its marker says. Only tars about which the two disagree are read.

    Raises:
        DamageError: a marker is not as it was written.
    """
    names = agreed_class_names(directory, markers.values(), manifest)
    for shard in manifest.shards:
        marker = markers.get(shard.index)
        if marker is None:
            continue
        if marker.record != shard and not _is_rendered_anew(directory, marker, shard):
            what = f"it does not agree with {MANIFEST_NAME}, and the shard is not what it says"
        elif not marker.class_names.items() <= names.items():
            what = "its class names are not those of the other shards"
        else:
            continue
        repair = repair_command(directory, marker.index, marker.recipe)
        raise DamageError(
            f"{marker_path(directory, marker.index)} was altered: {what}; {repair}, or look at all of it first: "
            f"shards verify {shlex.quote(str(directory))}"
        )


def agreed_class_names(directory: Path, markers: Collection[Marker], manifest: Manifest) -> Mapping[int, str]:
    """The classes' names, where manifest and markers differ, as most of them have it.

    The manifest is heard where SHA256SUMS vouches for it, and then its word decides a tie.
    """
    if all(marker.class_names.items() <= manifest.class_names.items() for marker in markers):
        return manifest.class_names
    witnesses = [marker.class_names for marker in markers]
    if vouches_for_manifest(directory):
        witnesses.insert(0, manifest.class_names)  # of equal counts, the first is the most common
    votes: dict[int, Counter[str]] = {}
    for witness in witnesses:
        for label, name in witness.items():
            votes.setdefault(label, Counter())[name] += 1
    return {**manifest.class_names, **{label: found.most_common(1)[0][0] for label, found in votes.items()}}


def _is_rendered_anew(directory: Path, marker: Marker, shard: ShardRecord) -> bool:
    if marker.sha256 == shard.sha256:
        return False  # the same bytes, so nothing else may differ either
    try:
        with open(tar_path(directory, marker.index), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        digest = ""
    # Another task may replace the tar while it is read; its old marker goes first.
    return digest == marker.sha256 or read_marker(directory, marker.index) != marker


def _refuse_foreign(
    directory: Path,
    markers: Mapping[int, Marker],
    recipe: Recipe,
    render: RenderSettings,
    shard_size: int,
    *,
    is_pinned: bool,
) -> None:
    """Refuses markers of another dataset: the folder holds one, or, where most markers are as wanted, a shard does.

    Args:
        is_pinned: whether a manifest says that the dataset is the wanted one.
    """
    differences = {}
    for index, marker in markers.items():
        difference = _difference(marker.recipe, marker.render, recipe, render) or _misfit(marker, shard_size)
        if difference is not None:
            differences[index] = difference
    if not differences:
        return
    index, difference = next(iter(differences.items()))
    path = marker_path(directory, index)
    num_agreeing = len(markers) - len(differences) + is_pinned
    if len(differences) > num_agreeing or (len(differences) == num_agreeing and not is_pinned):
        raise _other_dataset(directory, f"{difference} (says {path.name})")
    raise DamageError(
        f"{path} is damaged or of another dataset: {difference}, which is what the rest of {directory} holds; "
        f"{repair_command(directory, index, recipe)}"
    )


def _difference(recipe: Recipe, render: RenderSettings, wanted: Recipe, wanted_render: RenderSettings) -> str | None:
    difference = recipe.difference(wanted) if recipe.id != wanted.id else None
    return difference or render.difference(wanted_render)


def _misfit(marker: Marker, shard_size: int) -> str | None:
    """How a marker's groups do not fit shards of this size; None where they do."""
    if marker.count > shard_size:
        return f"shard_size: {marker.count} in the folder, {shard_size} asked for"
    if marker.first == marker.index * shard_size:
        return None
    if marker.index and marker.first % marker.index == 0:
        return f"shard_size: {marker.first // marker.index} in the folder, {shard_size} asked for"
    return f"first: {marker.first} in the folder, {marker.index * shard_size} asked for"


def _other_dataset(directory: Path, difference: str) -> ValueError:
    return ValueError(f"{directory} holds another dataset: {difference}; ask for the same or choose another folder")
