"""What a power cut leaves: no name without its bytes, no marker without its shard, no manifest without its dataset.

What reaches the disk, and in which order, cannot be seen afterwards; here the calls that decide it are noted.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

import shards
from shards import RemoteDataset
from tests.shards.samples import Build

Events = list[tuple[str, str]]


@pytest.fixture
def events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Events:
    """What is flushed, named and removed below tmp_path, in order; a file named before its bytes were flushed fails."""
    events: Events = []
    flushed: set[str] = set()
    fsync, replace, unlink = os.fsync, os.replace, Path.unlink

    def note(event: str, path: str | Path) -> None:
        if not str(path).endswith(".tmp"):
            events.append((event, os.path.relpath(path, tmp_path)))

    def note_fsync(descriptor: int) -> None:
        fsync(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        flushed.add(path)
        note("flush", path)

    def note_replace(source: Path, target: Path) -> None:
        assert str(source) in flushed, f"{target} has its name before its bytes are on the disk"
        replace(source, target)
        note("name", target)

    def note_unlink(path: Path, missing_ok: bool = False) -> None:
        unlink(path, missing_ok)
        note("remove", path)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    monkeypatch.setattr(Path, "unlink", note_unlink)
    return events


def names_of_shard(index: int) -> Events:
    """The tar's name is on the disk before the marker has one."""
    tar, offsets, marker = (f"d/data/train-{index:06d}.{end}" for end in ("tar", "index.npy", "done.json"))
    return [("name", tar), ("name", offsets), ("flush", "d/data"), ("name", marker), ("flush", "d/data")]


def test_a_shard_is_named_before_its_marker_and_all_before_the_manifest(
    tmp_path: Path, build: Build, events: Events
) -> None:
    build(tmp_path / "d", 6)
    files = [("name", f"d/{name}") for name in ("README.md", "_info.json", "SHA256SUMS", "manifest.json")]
    named = [event for file in files for event in (file, ("flush", "d"))]
    assert events == [*names_of_shard(0), *names_of_shard(1), *named]

    events.clear()
    build(tmp_path / "d", 10)
    gone = [("remove", "d/data/train-000001.done.json"), ("flush", "d/data")]  # it never stands beside the longer tar
    assert events == [*gone, *names_of_shard(1), *names_of_shard(2), *named]


def test_a_fetched_shard_is_on_the_disk_before_it_has_its_name(
    shared_dataset: Path, tmp_path: Path, events: Events
) -> None:
    dataset = RemoteDataset(f"file://{shared_dataset}", cache=tmp_path)
    dataset.fetch([0])
    assert events == [("name", f"{dataset.manifest.shards[0].sha256}.tar"), ("flush", ".")]


@pytest.mark.skipif(find_spec("ffcv") is None, reason="FFCV is not installed: make setup-ffcv")
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*numba.*")  # its imports, and numba's compiler
def test_an_ffcv_file_has_its_record_first(shared_dataset: Path, tmp_path: Path, events: Events) -> None:
    shards.to_ffcv(shared_dataset, out=tmp_path / "d.beton", n=6, mode="raw", quiet=True)
    assert [event for event in events if event[0] == "name"] == [("name", "d.beton.json"), ("name", "d.beton")]
    assert events[-1] == ("flush", ".")
