"""A dataset's folder as a whole: one writer at a time, and the files that make finished shards a dataset.

with lock_dataset(folder):
    ...  # write the missing shards
    finish_dataset(folder, num_groups=4000, shard_size=1000)
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from shards.atomic import remove_temporary_files, write_atomically
from shards.canonical import JSON, canonical_json
from shards.card import CARD_NAME, CHECKSUMS_NAME, TIMM_INFO_NAME, card_text, checksums_text, timm_info_text
from shards.manifest import DATA_FOLDER, MANIFEST_NAME, Manifest, load_manifest, manifest_bytes
from shards.markers import Marker, is_complete, scan_markers

LOCK_NAME = ".lock"


@contextmanager
def lock_dataset(directory: Path) -> Iterator[None]:
    """Makes the folder this job's own while the context lasts, creating it where needed.

    The lock goes with the process, however it ends. Temporary files that killed jobs left are removed.

    Raises:
        ValueError: another job is writing the folder, or it holds files that are no dataset.
    """
    directory = Path(directory)
    check_folder(directory)
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another job ({_read_holder(descriptor)}) is writing {directory}: "
                f"wait for it, stop it, or choose another folder"
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()}, host {socket.gethostname()}\n".encode(), 0)
        remove_temporary_files(directory)
        if (directory / DATA_FOLDER).is_dir():
            remove_temporary_files(directory / DATA_FOLDER)
        yield
    finally:
        os.close(descriptor)  # the file stays: removing it would let two jobs hold two locks of one name


def lock_holder(directory: Path) -> str | None:
    """The job that is writing the folder now, as "pid 12, host name"; None where there is none."""
    try:
        descriptor = os.open(Path(directory) / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _read_holder(descriptor)
    finally:
        os.close(descriptor)
    return None


def _read_holder(descriptor: int) -> str:
    return os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "unknown"


def check_folder(directory: Path) -> None:
    """Raises ValueError unless `directory` is a dataset, begun or finished, or an empty or new folder."""
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file: choose a folder")
    if not directory.is_dir() or (directory / LOCK_NAME).exists() or (directory / MANIFEST_NAME).exists():
        return
    names = sorted(path.name for path in directory.iterdir())
    if names and not any((directory / DATA_FOLDER).glob("train-*.done.json")):
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise ValueError(f"{directory} holds other files ({shown}) and is not a dataset: choose an empty or new folder")


def finish_dataset(directory: Path, *, num_groups: int, shard_size: int) -> Manifest:
    """Writes the card, the checksums, timm's table and, last, the manifest, from the shards' markers.

    Growing a dataset is calling it again with a larger num_groups.

    Raises:
        ValueError: a shard is missing, the folder holds more groups than num_groups, or shards that do not belong
            together.
    """
    directory = Path(directory)
    markers = {index: marker for index, marker in scan_markers(directory).items() if is_complete(directory, marker)}
    num_shards = -(-num_groups // shard_size)
    held = max((marker.first + marker.count for marker in markers.values()), default=0)
    if held > num_groups:
        raise ValueError(
            f"{directory} holds groups up to {held}, more than {num_groups}: ask for {held}, or read a prefix of it"
        )
    missing = [
        index
        for index in range(num_shards)
        if index not in markers or markers[index].count != min(shard_size, num_groups - index * shard_size)
    ]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        raise ValueError(
            f"{directory}: {len(missing)} of {num_shards} shards are not done ({shown}): run the same render again"
        )
    manifest = _manifest_of(directory, [markers[index] for index in range(num_shards)], num_groups, shard_size)
    _write_files(directory, manifest)
    return manifest


def restore_files(directory: Path) -> list[str]:
    """Puts back what was lost or altered of a finished dataset's card, checksums, timm's table and manifest.

    What is as it should be is not written; returns the names of the files that were.

    Raises:
        ValueError: there is no manifest, or a shard of it is missing.
    """
    directory = Path(directory)
    stored = load_manifest(directory)
    markers = {index: marker for index, marker in scan_markers(directory).items() if is_complete(directory, marker)}
    ordered = [markers[shard.index] for shard in stored.shards if shard.index in markers]
    if tuple(marker.record for marker in ordered) != stored.shards:
        raise ValueError(f"{directory}: its shards are not those of its manifest: run the same render again")
    return _write_files(directory, _manifest_of(directory, ordered, stored.num_groups, stored.shard_size))


def _manifest_of(directory: Path, ordered: list[Marker], num_groups: int, shard_size: int) -> Manifest:
    class_names: dict[int, str] = {}
    environments: dict[str, Mapping[str, JSON]] = {}
    for marker in ordered:
        if marker.recipe.id != ordered[0].recipe.id or marker.render != ordered[0].render:
            raise ValueError(f"{directory}: shard {marker.index} is of another recipe than shard 0: render it again")
        class_names.update(marker.class_names)
        if marker.environment:
            environments.setdefault(canonical_json(marker.environment), marker.environment)
    return Manifest(
        recipe=ordered[0].recipe,
        render=ordered[0].render,
        num_groups=num_groups,
        shard_size=shard_size,
        shards=tuple(marker.record for marker in ordered),
        class_names=dict(sorted(class_names.items())),
        environments=tuple(environments.values()),
    )


def _write_files(directory: Path, manifest: Manifest) -> list[str]:
    """Writes those of the four files that differ, the manifest last; returns their names."""
    files = {
        CARD_NAME: card_text(manifest).encode(),
        TIMM_INFO_NAME: timm_info_text(manifest).encode(),
        CHECKSUMS_NAME: checksums_text(manifest).encode(),
        MANIFEST_NAME: manifest_bytes(manifest),
    }
    differing = [name for name, content in files.items() if _read_or_none(directory / name) != content]
    for name in differing:
        write_atomically(directory / name, files[name])
    return differing


def _read_or_none(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
