"""A dataset's folder as a whole: one writer at a time, and the files that make finished shards a dataset.

with lock_dataset(folder):
    ...  # write the missing shards
    finish_dataset(folder, num_groups=4000, shard_size=1000)
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from shards.atomic import remove_dead_temporary_files, remove_temporary_files, write_atomically
from shards.canonical import JSON, canonical_json
from shards.card import CARD_NAME, CHECKSUMS_NAME, TIMM_INFO_NAME, card_text, checksums_text, timm_info_text
from shards.claims import is_done, remove_claims
from shards.locks import read_holder, try_lock, write_holder
from shards.manifest import DATA_FOLDER, MANIFEST_NAME, Manifest, load_manifest, manifest_bytes, shard_counts
from shards.markers import Marker, is_complete, marker_path, scan_markers
from shards.survey import check_markers
from shards.turns import turn
from shards.work import WorkPlan, begin_work, end_work, join_work, read_plan

LOCK_NAME = ".lock"
_ROOT_NAMES = (CARD_NAME, TIMM_INFO_NAME, CHECKSUMS_NAME, MANIFEST_NAME)
_LOCK_SECONDS = 2.0
_SHARED_LOCK_SECONDS = 30.0  # many tasks of one array begin at once, each alone for a moment


@contextmanager
def lock_dataset(directory: Path) -> Iterator[int]:
    """Makes the folder this job's own while the context lasts, creating it where needed.

    The lock goes with the process, however it ends, and with the child processes that inherit its descriptor, which
    is given. Temporary files and claims that killed jobs left are removed.

    Raises:
        ValueError: another job is writing the folder, or it holds files that are no dataset.
    """
    with _open_lock(directory) as descriptor:
        _wait_for_lock(descriptor, fcntl.LOCK_EX, Path(directory), seconds=_LOCK_SECONDS)
        write_holder(descriptor, Path(directory) / LOCK_NAME)
        _sweep(Path(directory))
        yield descriptor


@contextmanager
def share_dataset(directory: Path, plan: WorkPlan) -> Iterator[int]:
    """Lets this task write the folder beside other tasks of one plan while the context lasts; else as lock_dataset.

    What killed tasks left is removed by whoever is alone in the folder, at the beginning or at the end; while others
    are at work, nobody can know whose a file of another machine is.

    Raises:
        ValueError: a job that wants the folder for itself is writing it, tasks of another plan are, or it holds files
            that are no dataset.
    """
    directory = Path(directory)
    with _open_lock(directory) as descriptor:
        if _is_alone(descriptor, directory, plan):
            _sweep(directory)
            if read_plan(directory) != plan:
                begin_work(directory, plan)
        # Going from alone to shared is no single step: for a moment anybody may come in, alone or not.
        _wait_for_lock(descriptor, fcntl.LOCK_SH, directory, seconds=_SHARED_LOCK_SECONDS)
        write_holder(descriptor, Path(directory) / LOCK_NAME)
        join_work(directory, plan)
        yield descriptor
        if try_lock(descriptor, fcntl.LOCK_EX, directory / LOCK_NAME):
            _sweep(directory)


@contextmanager
def _open_lock(directory: Path) -> Iterator[int]:
    directory = Path(directory)
    check_folder(directory)
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield descriptor
    finally:
        os.close(descriptor)  # the file stays: removing it would let two jobs hold two locks of one name


def _is_alone(descriptor: int, directory: Path, plan: WorkPlan) -> bool:
    """Takes the lock alone where nobody is at work; another plan is worth a wait for whoever only looks at the lock."""
    deadline = time.monotonic() + _LOCK_SECONDS
    while not (alone := try_lock(descriptor, fcntl.LOCK_EX, directory / LOCK_NAME)):
        if read_plan(directory) == plan or time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return alone


def _wait_for_lock(descriptor: int, kind: int, directory: Path, *, seconds: float) -> None:
    """Takes the lock within the time, in which whoever only looks at it, or has just been killed, lets go of it."""
    deadline = time.monotonic() + seconds
    while not try_lock(descriptor, kind, directory / LOCK_NAME):
        if time.monotonic() > deadline:
            raise ValueError(
                f"another job ({read_holder(descriptor)}) is writing {directory}: "
                f"wait for it, stop it, or choose another folder"
            )
        time.sleep(0.05)


def _sweep(directory: Path) -> None:
    """Removes what killed jobs left; only for who holds the lock alone."""
    remove_temporary_files(directory, names=_ROOT_NAMES)
    remove_dead_temporary_files(directory)  # dead ones only: an FFCV file may be on its way there, without the lock
    if (directory / DATA_FOLDER).is_dir():
        remove_temporary_files(directory / DATA_FOLDER)
    remove_claims(directory)


def lock_holder(directory: Path) -> str | None:
    """A job that is writing the folder, alone or beside others, as "pid 12, host name"; None where there is none."""
    path = Path(directory) / LOCK_NAME
    try:
        descriptor = os.open(path, (os.O_RDWR if os.access(path, os.W_OK) else os.O_RDONLY) | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        # A shared look, which NFS grants to who may only read, finds a job that is alone, but not tasks that share.
        looks = (fcntl.LOCK_SH, fcntl.LOCK_EX)
        return None if all(try_lock(descriptor, kind, path) for kind in looks) else read_holder(descriptor)
    except OSError:  # NFS gives the second only to who may write: then nobody can tell
        return None
    finally:
        os.close(descriptor)


def check_folder(directory: Path) -> None:
    """Raises ValueError unless `directory` is a dataset, begun or finished, or an empty or new folder."""
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise ValueError(f"{directory} is a file: choose a folder")
    if not directory.is_dir() or (directory / MANIFEST_NAME).exists():
        return
    names = sorted(path.name for path in directory.iterdir())
    if LOCK_NAME in names:  # whoever was killed early left no more than this; others, such as runs, have a .lock, too
        names = [name for name in names if name != DATA_FOLDER and not name.startswith(".")]
    if names and not any((directory / DATA_FOLDER).glob("train-*.done.json")):
        shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise ValueError(f"{directory} holds other files ({shown}) and is not a dataset: choose an empty or new folder")


def finish_dataset(directory: Path, *, num_groups: int, shard_size: int) -> Manifest:
    """Writes the card, the checksums, timm's table and, last, the manifest, from the shards' markers.

    Growing a dataset is calling it again with a larger num_groups. Tasks may do it at once: they take turns, and the
    later ones find nothing left to write. The work folder is removed, unless tasks are growing the dataset by now.

    Raises:
        ValueError: a shard is missing, the folder holds more groups than num_groups, or shards that do not belong
            together.
        DamageError: a marker is not as it was written, by what the manifest of before says.
    """
    directory = Path(directory)
    with turn(directory):
        return _finish(directory, num_groups, shard_size)


def _finish(directory: Path, num_groups: int, shard_size: int) -> Manifest:
    manifest = _finished_manifest(directory, num_groups, shard_size)
    _write_files(directory, manifest)
    end_work(directory, num_groups=num_groups, shard_size=shard_size)
    return manifest


def finish_if_whole(directory: Path, *, num_groups: int, shard_size: int) -> Manifest | None:
    """As finish_dataset where every shard is done; None, cheaply, where one is missing.

    A dataset that was finished by others and has grown since is left to those who grow it; its manifest is given.
    """
    directory = Path(directory)
    names = set(os.listdir(directory / DATA_FOLDER)) if (directory / DATA_FOLDER).is_dir() else set()
    counts = shard_counts(num_groups, shard_size)
    if any(marker_path(directory, index).name not in names for index in range(len(counts))):
        return None
    if not all(is_done(directory, index, count) for index, count in enumerate(counts)):
        return None
    with turn(directory):
        if _num_groups_held(_complete_markers(directory)) > num_groups and (directory / MANIFEST_NAME).exists():
            manifest = load_manifest(directory)
            if manifest.num_groups >= num_groups:
                return manifest
        return _finish(directory, num_groups, shard_size)


def _complete_markers(directory: Path) -> dict[int, Marker]:
    return {index: marker for index, marker in scan_markers(directory).items() if is_complete(directory, marker)}


def _num_groups_held(markers: Mapping[int, Marker]) -> int:
    return max((marker.first + marker.count for marker in markers.values()), default=0)


def _finished_manifest(directory: Path, num_groups: int, shard_size: int) -> Manifest:
    markers = _complete_markers(directory)
    if (directory / MANIFEST_NAME).exists():  # of fewer groups, or of shards that were lost and rendered anew
        check_markers(directory, markers, load_manifest(directory))
    held = _num_groups_held(markers)
    if held > num_groups:
        raise ValueError(
            f"{directory} holds groups up to {held}, more than {num_groups}: ask for {held}, or read a prefix of it"
        )
    counts = shard_counts(num_groups, shard_size)
    missing = [i for i, count in enumerate(counts) if i not in markers or markers[i].count != count]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", …" if len(missing) > 5 else "")
        again = f"run the same {markers[min(markers)].recipe.command} again" if markers else "render them"
        raise ValueError(f"{directory}: {len(missing)} of {len(counts)} shards are not done ({shown}): {again}")
    return _manifest_of(directory, [markers[index] for index in range(len(counts))], num_groups, shard_size)


def restore_files(directory: Path) -> list[str]:
    """Puts back what was lost or altered of a finished dataset's card, checksums, timm's table and manifest.

    What is as it should be is not written; returns the names of the files that were.

    Raises:
        ValueError: there is no manifest, or a shard of it is missing.
        DamageError: a marker is not as it was written.
    """
    directory = Path(directory)
    stored = load_manifest(directory)
    markers = _complete_markers(directory)
    check_markers(directory, markers, stored)
    ordered = [markers[shard.index] for shard in stored.shards if shard.index in markers]
    if tuple(marker.record for marker in ordered) != stored.shards:
        again = f"run the same {stored.recipe.command} again"
        raise ValueError(f"{directory}: its shards are not those of its manifest: {again}")
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
