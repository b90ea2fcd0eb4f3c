"""Which shards need no work, and whom to believe where markers and manifest of a folder do not agree.

done = completed_shards(folder, recipe=recipe, render=render, shard_size=1000)
missing = [index for index in range(num_shards) if index not in done]
check_markers(folder, done, load_manifest(folder))       # before another manifest is written from markers
"""

from __future__ import annotations

import hashlib
import shlex
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path

from shards.card import vouches_for_manifest
from shards.errors import DamageError
from shards.manifest import MANIFEST_NAME, Manifest, ShardRecord, load_manifest
from shards.markers import (
    Marker,
    is_complete,
    marker_path,
    read_marker,
    repair_command,
    scan_markers,
    tar_path,
)
from shards.recipe import Recipe, RenderSettings

_TARS_AT_A_SURVEY = 8
"""Enough to find an altered marker; thousands that were lost and rendered anew are read once, at the end."""


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
        check_markers(directory, completed, manifest, most_tars=_TARS_AT_A_SURVEY)
    return completed


def check_markers(
    directory: Path, markers: Mapping[int, Marker], manifest: Manifest, *, most_tars: int | None = None
) -> None:
    """Refuses markers of complete shards that contradict a finished dataset's manifest, of the same recipe.

    A shard that was lost and rendered again elsewhere, or has grown, has other bytes than the manifest says: then its
    tar is what its marker says. Only tars about which the two disagree are read.

    Args:
        most_tars: as many are read, the first ones; all when None.

    Raises:
        DamageError: a marker is not as it was written.
    """
    names = agreed_class_names(directory, markers.values(), manifest)
    num_read = 0
    for shard in manifest.shards:
        marker = markers.get(shard.index)
        if marker is None:
            continue
        differs = marker.record != shard and (most_tars is None or num_read < most_tars)
        num_read += differs
        if differs and not _is_rendered_anew(directory, marker, shard):
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
