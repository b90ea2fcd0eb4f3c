"""Whether a dataset is what its manifest promises, down to every pixel file, and what to do where it is not.

report = verify("datasets/demo")
report.ok, report.problems
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path

from shards.canonical import JSON
from shards.card import CARD_NAME, CHECKSUMS_NAME, TIMM_INFO_NAME, timm_info_text, vouches_for_manifest
from shards.errors import DamageError
from shards.inspection import inspect_shard
from shards.manifest import DATA_FOLDER, MANIFEST_NAME, Manifest, load_manifest, shard_stem
from shards.markers import Marker, index_path, read_marker, repair_command, tar_path
from shards.progress import Progress
from shards.quantities import format_things
from shards.survey import agreed_class_names

_SOME_MARKERS = 16
_CHECKSUM_PATTERN = re.compile(r"([0-9a-f]{64})  (\S.*)")


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What verify found."""

    directory: str
    fast: bool
    """Whether only sizes and markers were looked at."""
    groups: int
    images: int
    shards: int
    bytes: int
    seconds: float
    problems: tuple[str, ...]
    """One line each: what is wrong, and how to repair it."""
    notes: tuple[str, ...]
    """What is odd but no damage."""

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def to_json(self) -> dict[str, JSON]:
        """Plain mapping, fit for json.dumps."""
        return {**self.__dict__, "ok": self.ok, "problems": list(self.problems), "notes": list(self.notes)}


def verify(directory: str | Path, *, fast: bool = False, jobs: int = 1, quiet: bool = False) -> Verification:
    """Checks a finished dataset against its manifest and returns everything that is wrong with it.

    Full: every shard's checksum, every member's name, place, size and padding, every image decoded at the promised
    size, every group's json, the offset files, SHA256SUMS. Fast: files, sizes and markers.

    Args:
        jobs: processes that share the shards; more than one needs an importable main module.
        quiet: shows no progress.

    Raises:
        ValueError: the folder holds no finished dataset.
        DamageError: the manifest itself is not as it was written.
    """
    started = time.monotonic()
    directory = Path(directory)
    manifest = load_manifest(directory)
    problems = [*_folder_problems(directory, manifest), *_name_problems(manifest, _agreed_manifest(str(directory)))]
    check: Callable[[int], list[str]] = partial(check_shard, str(directory), fast)
    indices = range(len(manifest.shards))
    with Progress(total=manifest.num_groups, unit="groups", label="verifying", quiet=quiet) as progress:

        def collect(results: Iterator[list[str]]) -> None:
            for index, found in zip(indices, results, strict=True):
                problems.extend(found)
                fields = {"problems": len(problems)} if problems else {}
                progress.advance(manifest.shards[index].count, **fields)

        if jobs > 1 and len(indices) > 1:
            context = multiprocessing.get_context("spawn")
            try:
                with ProcessPoolExecutor(min(jobs, len(indices)), mp_context=context) as pool:
                    collect(pool.map(check, indices))
            except BrokenProcessPool as error:
                raise ValueError(
                    "a process of the check was lost: use fewer jobs where memory was short; and a script that calls "
                    'this with several needs its own work under if __name__ == "__main__"'
                ) from error
        else:
            collect(map(check, indices))
    return Verification(
        directory=str(directory),
        fast=fast,
        groups=manifest.num_groups,
        images=manifest.num_groups * manifest.num_images,
        shards=len(manifest.shards),
        bytes=manifest.total_bytes,
        seconds=time.monotonic() - started,
        problems=tuple(problems),
        notes=tuple(_notes(directory, manifest)),
    )


def check_shard(directory: str, fast: bool, shard_index: int) -> list[str]:
    """Everything that is wrong with one shard, a line each."""
    manifest = _agreed_manifest(directory)
    record = manifest.shards[shard_index]
    again = f"run the same {manifest.recipe.command} again"
    repair = repair_command(directory, shard_index, manifest.recipe)
    path = tar_path(Path(directory), shard_index)
    name = f"{DATA_FOLDER}/{record.name}"

    problems = []
    try:
        marker = read_marker(Path(directory), shard_index)
    except DamageError as error:
        marker = None
        problems.append(f"{error}")
    else:
        if marker is None:
            problems.append(f"{DATA_FOLDER}/{shard_stem(shard_index)}.done.json is missing; {repair}")
        elif marker.recipe.id != manifest.recipe.id or marker.render != manifest.render:
            problems.append(f"{DATA_FOLDER}/{shard_stem(shard_index)}.done.json is of another recipe; {repair}")
    if not path.exists():
        return [*problems, f"{name} is missing; {repair}"]
    size = path.stat().st_size
    if marker is not None and marker.count > record.count and size == marker.bytes:
        return [*problems, f"{name} holds more groups than the manifest: growing was not finished; {again}"]
    if marker is not None and (
        marker.record != record or not marker.class_names.items() <= manifest.class_names.items()
    ):
        problems.append(f"{DATA_FOLDER}/{shard_stem(shard_index)}.done.json does not agree with the manifest; {repair}")
    if size != record.bytes:
        problems.append(f"{name} has {size} bytes, not {record.bytes}; {repair}")
    if fast:
        if not index_path(Path(directory), shard_index).exists():
            problems.append(f"{DATA_FOLDER}/{shard_stem(shard_index)}.index.npy is missing; {repair}")
        return problems
    found = inspect_shard(Path(directory), manifest, record)
    return [*problems, *(f"{problem}; {repair}" for problem in found)]


@lru_cache(maxsize=1)
def _read_agreed_manifest(directory: str, changed_ns: int) -> Manifest:
    manifest = load_manifest(Path(directory))
    if vouches_for_manifest(Path(directory)):
        some = _markers_of(directory, manifest, step=-(-len(manifest.shards) // _SOME_MARKERS))
        if all(marker.class_names.items() <= manifest.class_names.items() for marker in some):
            return manifest  # thousands of markers need not be read
    markers = _markers_of(directory, manifest, step=1)
    return replace(manifest, class_names=agreed_class_names(Path(directory), markers, manifest))


def _markers_of(directory: str, manifest: Manifest, *, step: int) -> list[Marker]:
    markers = []
    for shard in manifest.shards[::step]:
        with suppress(DamageError):  # check_shard says so
            marker = read_marker(Path(directory), shard.index)
            if marker is not None and marker.recipe.id == manifest.recipe.id:
                markers.append(marker)
    return markers


def _agreed_manifest(directory: str) -> Manifest:
    """The manifest with the class names that its shards agree on: a name altered there is no defect of every group."""
    return _read_agreed_manifest(directory, (Path(directory) / MANIFEST_NAME).stat().st_mtime_ns)


def _folder_problems(directory: Path, manifest: Manifest) -> Iterator[str]:
    again = f"run the same {manifest.recipe.command} again"
    try:
        text = (directory / CHECKSUMS_NAME).read_text(encoding="utf-8")
    except FileNotFoundError:
        yield f"{CHECKSUMS_NAME} is missing; {again}"
    except UnicodeDecodeError:
        yield f"{CHECKSUMS_NAME} is not a text file; {again}"
    else:
        found = {}
        for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1):
            if (match := _CHECKSUM_PATTERN.fullmatch(line)) is not None:
                found[match[2]] = match[1]
            else:
                shown = repr(line if len(line) <= 40 else line[:39] + "…")
                yield f"{CHECKSUMS_NAME}, line {number}: {shown} is not a checksum and a name; {again}"
        wanted = {f"{DATA_FOLDER}/{shard.name}": shard.sha256 for shard in manifest.shards}
        wanted[MANIFEST_NAME] = hashlib.sha256((directory / MANIFEST_NAME).read_bytes()).hexdigest()
        for name in sorted(wanted.keys() | found.keys()):
            if wanted.get(name) != found.get(name):
                yield f"{CHECKSUMS_NAME} does not agree about {name}; restore both or {again}"
    if not (directory / CARD_NAME).exists():
        yield f"{CARD_NAME} is missing; {again}"
    try:
        agrees = json.loads((directory / TIMM_INFO_NAME).read_bytes()) == json.loads(timm_info_text(manifest))
    except (FileNotFoundError, ValueError, RecursionError):
        agrees = False
    if not agrees:
        yield f"{TIMM_INFO_NAME} does not agree with the manifest; {again}"


def _name_problems(manifest: Manifest, agreed: Manifest) -> Iterator[str]:
    wrong = [label for label, name in agreed.class_names.items() if manifest.class_names.get(label) != name]
    if wrong:
        here, there = manifest.class_names.get(wrong[0], ""), agreed.class_names[wrong[0]]
        more = f", and {len(wrong) - 1} more differ" if len(wrong) > 1 else ""
        again = f"run the same {manifest.recipe.command} again"
        yield f"{MANIFEST_NAME} was altered: it names class {wrong[0]} {here!r}, its shards {there!r}{more}; {again}"


def _notes(directory: Path, manifest: Manifest) -> Iterator[str]:
    known = {shard.name for shard in manifest.shards}
    extra = sorted(path.name for path in (directory / DATA_FOLDER).glob("train-*.tar") if path.name not in known)
    if extra:
        yield f"{DATA_FOLDER} holds {format_things(len(extra), 'shard')} beyond the manifest: growing was not finished"
    stale = [*directory.glob(".*.tmp"), *(directory / DATA_FOLDER).glob(".*.tmp")]
    if stale:
        found = format_things(len(stale), "temporary file")
        yield f"{found}: a render is running, or one was killed; the next one cleans up"
