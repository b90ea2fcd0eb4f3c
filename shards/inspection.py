"""One shard, byte by byte: is every member where, what and how large the manifest promises?

The walk trusts nothing but the manifest: every header field is fixed but name and size, and the names are known, so a
header is right when it is byte for byte the one that we would write.

    list(inspect_shard(Path("datasets/demo"), manifest, manifest.shards[0]))
"""

from __future__ import annotations

import hashlib
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from shards.canonical import JSON, parse_json
from shards.codec import decode_into
from shards.errors import DamageError
from shards.manifest import DATA_FOLDER, Manifest, ShardRecord, group_key
from shards.markers import index_path, tar_path
from shards.recipe import member_names
from shards.tar import (
    BLOCK_BYTES,
    end_of_archive,
    load_index,
    make_index,
    member_header,
    padded_size,
    padding,
    parse_array,
)

_SIZE_FIELD = slice(124, 135)


def inspect_shard(directory: Path, manifest: Manifest, record: ShardRecord) -> Iterator[str]:
    """Yields what is wrong with a shard's tar and its offsets, a line each; the tar is there."""
    name = f"{DATA_FOLDER}/{record.name}"
    path = tar_path(directory, record.index)
    if path.stat().st_size == 0:
        yield f"{name} is empty"
        return
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as tar:
        digest = hashlib.sha256(tar).hexdigest()
        if digest != record.sha256:
            yield f"{name} has sha256 {digest[:12]}…, not {record.sha256[:12]}…"
        try:
            sizes = measure_members(tar, name, member_names(manifest.recipe), record)
        except DamageError as error:
            yield str(error)
            return
        places = make_index(np.zeros(record.count, np.int64), sizes)
        labels = np.full(record.count, -1, np.int64)
        for row in range(record.count):
            offsets = places[row, 1:].reshape(-1, 2).tolist()
            members = [tar[offset : offset + size] for offset, size in offsets]
            problems, labels[row] = _group_problems(record.first + row, members, manifest)
            yield from (f"{problem} in {name}" for problem in problems)
    yield from _index_problems(index_path(directory, record.index), make_index(labels, sizes), record)


def measure_members(
    tar: mmap.mmap | memoryview, name: str, members: tuple[str, ...], record: ShardRecord
) -> np.ndarray:
    """Bytes of every member, int64 [count, members], when the tar is exactly the one that holds such members.

    Raises:
        DamageError: a header, the padding, or the end is not as we write it.
    """
    sizes = np.zeros((record.count, len(members)), np.int64)
    position = 0
    for row in range(record.count):
        for column, member in enumerate(members):
            full_name = f"{group_key(record.first + row)}.{member}"
            header = bytes(tar[position : position + BLOCK_BYTES])
            digits = header[_SIZE_FIELD]
            size = int(digits, 8) if len(digits) == 11 and digits.isdigit() and not set(digits) & set(b"89") else -1
            if size < 0 or header != member_header(full_name, size):
                raise DamageError(f"{name} has no proper header of {full_name} at byte {position}")
            end = position + BLOCK_BYTES + padded_size(size)
            if tar[position + BLOCK_BYTES + size : end] != padding(size):
                raise DamageError(f"{full_name} in {name} is cut off or not padded with zeros")
            sizes[row, column] = size
            position = end
    if tar[position:] != end_of_archive(position):
        raise DamageError(f"{name} does not end after group {group_key(record.first + record.count - 1)}")
    return sizes


def _group_problems(index: int, members: list[bytes], manifest: Manifest) -> tuple[list[str], int]:
    """What is wrong with the contents of a group's members, and its label (-1 where that cannot be told)."""
    image = manifest.recipe.image
    names = [f"{group_key(index)}.{member}" for member in member_names(manifest.recipe)]
    problems = []
    pixels = np.empty((image["size"], image["size"], 3), np.uint8)
    for name, data in zip(names[: manifest.num_images], members, strict=False):
        try:
            decode_into(data, image["format"], pixels)
        except ValueError as error:
            problems.append(f"{name} does not decode ({error})")
    if manifest.recipe.store_latents:
        try:
            parse_array(members[-2])
        except ValueError as error:
            problems.append(f"{names[-2]} cannot be read ({error})")
    try:
        metadata = parse_json(members[-1])
    except DamageError as error:
        return [*problems, f"{names[-1]}: {error}"], -1
    wrong = _wrong_field(metadata, index, manifest)
    if wrong is not None:
        return [*problems, f"{names[-1]}: {wrong}"], -1
    return problems, metadata["label"]


def _wrong_field(metadata: JSON, index: int, manifest: Manifest) -> str | None:
    if not isinstance(metadata, dict) or sorted(metadata) != ["class_name", "index", "label", "views"]:
        return "its fields are not class_name, index, label and views"
    if metadata["index"] != index:
        return f"index is {metadata['index']!r}, not {index}"
    label = metadata["label"]
    if not isinstance(label, int) or label not in (manifest.recipe.classes or (-1,)):
        return f"label {label!r} is not a class of the recipe"
    if metadata["class_name"] != manifest.class_names.get(label, ""):
        return f"class_name is {metadata['class_name']!r}, not {manifest.class_names.get(label, '')!r}"
    if not isinstance(metadata["views"], list) or len(metadata["views"]) != manifest.recipe.num_views:
        return f"views does not describe {manifest.recipe.num_views} views"
    return None


def _index_problems(path: Path, expected: np.ndarray, record: ShardRecord) -> Iterator[str]:
    try:
        index = load_index(path, count=record.count, num_members=(expected.shape[1] - 1) // 2)
    except DamageError as error:
        yield str(error)
        return
    differing = np.flatnonzero((index != expected).any(axis=1))
    if len(differing):
        key = group_key(record.first + int(differing[0]))
        yield f"{DATA_FOLDER}/{path.name} does not agree with the tar, from group {key} on"
