"""Shards are published whole or not at all, to the same bytes every time, and a resumed job believes only markers."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shards import (
    DamageError,
    GroupDataset,
    Manifest,
    Recipe,
    RenderSettings,
    ShardWriter,
    completed_shards,
    finish_dataset,
    load_manifest,
    lock_dataset,
    scan_markers,
    verify,
)
from shards.atomic import temporary_path
from shards.folder import restore_files, share_dataset
from shards.work import WorkPlan

RENDER = RenderSettings(batch_size=4, dtype="float32")
GOLDEN_TAR = "d4cfc6bfb0f43f14d66869cadfd43bb87efd9ab47aa2ece772cabae36510fe65"

Build = Callable[..., Manifest]
MakeRecipe = Callable[..., Recipe]


def hashes(directory: Path) -> dict[str, str]:
    """sha256 of every file that is a function of the recipe: all but the markers, which hold times."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != ".lock" and not path.name.endswith(".done.json")
    }


def test_the_bytes_of_a_shard_are_pinned(tmp_path: Path, recipe: MakeRecipe) -> None:
    with ShardWriter(
        tmp_path, recipe=recipe(), render=RENDER, shard_index=0, first=0, count=3, class_names={3: "cat", 5: "café"}
    ) as writer:
        for index in range(3):
            writer.add(
                label=(3, 5, 3)[index],
                images=[bytes([index]) * 700, b"view"],
                views=[{"policy": "gaussian", "std": 0.3, "shift": 0.1 * index}],
            )
        record = writer.publish(environment={}, seconds=1.0, stages={})
    tar = (tmp_path / "data/train-000000.tar").read_bytes()
    assert hashlib.sha256(tar).hexdigest() == record.sha256 == GOLDEN_TAR
    assert (record.name, record.first, record.count, record.bytes) == ("train-000000.tar", 0, 3, len(tar))


def test_two_datasets_of_one_recipe_are_byte_identical(tmp_path: Path, build: Build) -> None:
    build(tmp_path / "a", 10)
    build(tmp_path / "b", 10)
    assert hashes(tmp_path / "a") == hashes(tmp_path / "b")


def test_the_files_are_those_of_the_contract(dataset: Path) -> None:
    names = sorted(path.relative_to(dataset).as_posix() for path in dataset.rglob("*") if path.is_file())
    shard_files = [f"data/train-00000{i}.{end}" for i in range(3) for end in ("done.json", "index.npy", "tar")]
    assert names == [".lock", ".turn", "README.md", "SHA256SUMS", "_info.json", *shard_files, "manifest.json"]
    marker = json.loads((dataset / "data/train-000002.done.json").read_text())
    assert (marker["index"], marker["first"], marker["count"], marker["stages"]) == (2, 8, 2, {"encode": 0.5})
    assert marker["bytes"] == (dataset / "data/train-000002.tar").stat().st_size
    assert np.load(dataset / "data/train-000002.index.npy").shape == (2, 1 + 2 * 3)


def test_growing_keeps_finished_shards_and_the_prefix(tmp_path: Path, build: Build) -> None:
    grown, whole = tmp_path / "grown", tmp_path / "whole"
    build(grown, 6)
    small = hashes(grown)
    prefix = (grown / "data/train-000001.tar").read_bytes()
    before = (grown / "data/train-000000.tar").stat()
    build(grown, 10)
    build(whole, 10)
    assert hashes(grown) == hashes(whole)
    assert (grown / "data/train-000000.tar").stat() == before
    assert hashes(grown)["data/train-000000.tar"] == small["data/train-000000.tar"]
    members = prefix.rstrip(b"\0")
    assert (grown / "data/train-000001.tar").read_bytes().startswith(members)


def test_readers_of_the_smaller_dataset_go_on_while_it_grows(
    tmp_path: Path, build: Build, build_shard: Callable[..., None], recipe: MakeRecipe
) -> None:
    build(tmp_path / "d", 6)
    opened = GroupDataset(tmp_path / "d")
    before = opened.batch(range(6))[0]
    build_shard(tmp_path / "d", recipe(), 1, 4, 4)  # the short shard is replaced; the manifest is still the old one
    late = GroupDataset(tmp_path / "d")
    assert len(late) == 6
    assert np.array_equal(opened.batch(range(6))[0], before) and np.array_equal(late.batch(range(6))[0], before)


def test_leaving_without_publishing_leaves_nothing(
    tmp_path: Path, recipe: MakeRecipe, fill: Callable[..., None]
) -> None:
    def fail() -> None:
        with ShardWriter(
            tmp_path, recipe=recipe(), render=RENDER, shard_index=0, first=0, count=2, class_names={3: "cat"}
        ) as writer:
            fill(writer, 0, recipe())
            raise RuntimeError("the generator failed")

    with pytest.raises(RuntimeError):
        fail()
    assert list((tmp_path / "data").iterdir()) == []


def test_our_own_mistakes_are_caught(tmp_path: Path, recipe: MakeRecipe) -> None:
    view = {"policy": "gaussian", "std": 0.3}

    def writer() -> ShardWriter:
        return ShardWriter(
            tmp_path, recipe=recipe(), render=RENDER, shard_index=0, first=0, count=2, class_names={3: "cat"}
        )

    with writer() as w, pytest.raises(AssertionError, match="1 of 2"):
        w.add(label=3, images=[b"", b""], views=[view])
        w.publish(environment={}, seconds=0, stages={})
    with writer() as w, pytest.raises(AssertionError, match="class 4"):
        w.add(label=4, images=[b"", b""], views=[view])
    with writer() as w, pytest.raises(AssertionError, match="group 0"):
        w.add(label=3, images=[b""], views=[view])
    with writer() as w, pytest.raises(AssertionError, match="keys or types"):
        w.add(label=3, images=[b"", b""], views=[view])
        w.add(label=3, images=[b"", b""], views=[{**view, "std": 1}])


# ---------------------------------------------------------------------------------------------------------------------
# What counts as done


def completed(directory: Path, recipe: Recipe, *, render: RenderSettings = RENDER, shard_size: int = 4) -> list[int]:
    return list(completed_shards(directory, recipe=recipe, render=render, shard_size=shard_size))


def test_only_whole_shards_with_markers_count(dataset: Path, recipe: MakeRecipe) -> None:
    assert completed(dataset, recipe()) == [0, 1, 2]
    (dataset / "data/train-000000.done.json").unlink()
    os.truncate(dataset / "data/train-000001.tar", 100)
    assert completed(dataset, recipe()) == [2]
    (dataset / "data/train-000002.tar").unlink()
    assert completed(dataset, recipe()) == []
    assert list(scan_markers(dataset)) == [1, 2]


@pytest.mark.parametrize("with_manifest", [True, False])
def test_another_recipe_is_refused_by_its_field(dataset: Path, recipe: MakeRecipe, with_manifest: bool) -> None:
    if not with_manifest:
        (dataset / "manifest.json").unlink()
    with pytest.raises(ValueError, match=r"seed: 0 in the folder, 7 asked for"):
        completed(dataset, recipe(seed=7))
    with pytest.raises(ValueError, match=r"render.batch_size: 4 in the folder, 8 asked for"):
        completed(dataset, recipe(), render=RenderSettings(batch_size=8, dtype="float32"))
    with pytest.raises(ValueError, match=r"shard_size: 4 in the folder, 5 asked for"):
        completed(dataset, recipe(), shard_size=5)
    with pytest.raises(ValueError, match=r"shard_size: 4 in the folder, 2 asked for"):
        completed(dataset, recipe(), shard_size=2)


def test_a_folder_that_is_gone_is_not_made_again(tmp_path: Path, build: Build, recipe: MakeRecipe) -> None:
    """Removed or renamed while it was written to: what would come up in its place is no dataset."""
    build(tmp_path / "d", 4)
    (tmp_path / "d").rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=r"/d is gone: it was removed or renamed while it was written to"):
        sys.modules[build.__module__].write_shard(tmp_path / "d", recipe(), 1, 4, 4)
    assert [path.name for path in tmp_path.iterdir()] == ["elsewhere"]


def test_a_broken_marker_is_damage_with_a_repair(dataset: Path, recipe: MakeRecipe) -> None:
    (dataset / "data/train-000001.done.json").write_text("{")
    with pytest.raises(DamageError, match="delete this file"):
        completed(dataset, recipe())


def alter_marker(dataset: Path, index: int, **fields: Any) -> Path:
    path = dataset / f"data/train-00000{index}.done.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))
    return path


@pytest.mark.parametrize("fields", [{"sha256": "0" * 64}, {"count": 3}, {"class_names": {"3": "cow", "5": "dog"}}])
def test_a_marker_that_the_manifest_gives_the_lie_to_does_not_reach_it(
    dataset: Path, build: Build, recipe: MakeRecipe, fields: dict[str, Any]
) -> None:
    before = hashes(dataset)
    path = alter_marker(dataset, 1, **fields)
    message = rf"{path} was altered.* rm {dataset}/data/train-000001\.\* and run the same synthgen render again"
    for step in (
        lambda: completed(dataset, recipe()),
        lambda: finish_dataset(dataset, num_groups=10, shard_size=4),
        lambda: restore_files(dataset),
        lambda: build(dataset, 14),
    ):
        with pytest.raises(DamageError, match=message):
            step()
    assert hashes(dataset) == before
    for file in dataset.glob("data/train-000001.*"):
        file.unlink()
    build(dataset, 10)
    assert hashes(dataset) == before


def test_a_shard_that_was_lost_may_come_back_with_other_bytes(
    dataset: Path, build: Build, recipe: MakeRecipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another device gives them: whoever is killed between the shard and the manifest goes on, too."""
    for file in dataset.glob("data/train-000001.*"):
        file.unlink()
    module = sys.modules[build.__module__]
    draw = module.draw_pixels
    monkeypatch.setattr(module, "draw_pixels", lambda index, image, size: 255 - draw(index, image, size))
    module.write_shard(dataset, recipe(), 1, 4, 4)
    assert completed(dataset, recipe()) == [0, 1, 2]
    old = load_manifest(dataset).shards[1]
    assert build(dataset, 10).shards[1].sha256 != old.sha256 and verify(dataset).ok


@pytest.mark.parametrize("with_manifest", [True, False])
@pytest.mark.parametrize(
    ("index", "fields", "difference"),
    [
        (0, {"first": 1}, "first: 1 in the folder, 0 asked for"),
        (1, {"first": 5}, "shard_size: 5 in the folder, 4 asked for"),
        (2, {"first": 9}, "first: 9 in the folder, 8 asked for"),
        (1, {"count": 9}, "shard_size: 9 in the folder, 4 asked for"),
        (1, None, "seed: 1 in the folder, 0 asked for"),
    ],
)
def test_one_marker_astray_is_named_and_not_taken_for_another_dataset(
    dataset: Path,
    tmp_path: Path,
    build: Build,
    recipe: MakeRecipe,
    with_manifest: bool,
    index: int,
    fields: dict[str, Any] | None,
    difference: str,
) -> None:
    if not with_manifest:
        (dataset / "manifest.json").unlink()
    if fields is None:
        build(tmp_path / "other", 10, recipe=recipe(seed=1))
        for file in (tmp_path / "other/data").glob(f"train-00000{index}.*"):
            shutil.copy(file, dataset / "data")
    path = alter_marker(dataset, index, **(fields or {}))
    with pytest.raises(DamageError) as raised:
        completed(dataset, recipe())
    assert str(raised.value).startswith(f"{path} is damaged or of another dataset: {difference}, ")
    assert str(raised.value).endswith(
        f"; rm {dataset}/data/train-00000{index}.* and run the same synthgen render again"
    )


def test_a_dataset_is_not_finished_while_shards_are_missing(dataset: Path) -> None:
    (dataset / "data/train-000001.done.json").unlink()
    with pytest.raises(ValueError, match=r"1 of 3 shards are not done \(1\)"):
        finish_dataset(dataset, num_groups=10, shard_size=4)
    with pytest.raises(ValueError, match="holds groups up to 10, more than 8"):
        finish_dataset(dataset, num_groups=8, shard_size=4)


# ---------------------------------------------------------------------------------------------------------------------
# One writer at a time


def test_a_second_job_is_told_and_stops(tmp_path: Path) -> None:
    script = "import sys, shards\nwith shards.lock_dataset(sys.argv[1]):\n print('held', flush=True)\n sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path / "d")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        with (
            pytest.raises(ValueError, match=rf"another job \(pid {holder.pid}, host .*\) is writing"),
            lock_dataset(tmp_path / "d"),
        ):
            raise AssertionError("two jobs hold one lock")
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with lock_dataset(tmp_path / "d"):
        pass


def test_stale_temporary_files_are_swept(dataset: Path, build: Build) -> None:
    stale = [dataset / "data/.train-000009.tar.123.tmp", dataset / ".manifest.json.123.tmp"]
    for path in stale:
        path.write_bytes(b"half")
    (dataset / "data/notes.tmp").write_text("not ours")
    build(dataset, 10)
    assert not any(path.exists() for path in stale)
    assert (dataset / "data/notes.tmp").exists()


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_file_on_its_way_into_the_folder_by_another_program_is_not_swept(
    dataset: Path, recipe: MakeRecipe, is_shared: bool
) -> None:
    names = ("README.md", "SHA256SUMS", "_info.json", "manifest.json", "groups.beton")
    temporaries = {name: temporary_path(dataset / name) for name in names}
    program = "import sys, pathlib, shards.atomic as a; a.temporary_path(pathlib.Path(sys.argv[1])).touch()"
    subprocess.run([sys.executable, "-c", program, str(dataset / "killed.beton")], check=True)
    for path in temporaries.values():
        path.write_bytes(b"half")
    plan = WorkPlan(recipe_id=recipe().id, render=RENDER, num_groups=18, shard_size=4)
    with share_dataset(dataset, plan) if is_shared else lock_dataset(dataset):
        assert list(dataset.glob(".*.tmp")) == [temporaries["groups.beton"]]  # whose process, this one, is alive
    assert temporaries["groups.beton"].exists()


def test_a_folder_of_other_files_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match=r"holds other files \(thesis.tex\)"), lock_dataset(tmp_path):
        raise AssertionError("the folder was taken")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(ValueError, match="is a file"), lock_dataset(tmp_path / "thesis.tex"):
        raise AssertionError("a file was taken for a folder")


# ---------------------------------------------------------------------------------------------------------------------
# Full disk


def test_a_full_disk_names_the_file_and_leaves_no_trace(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from shards import Recipe, RenderSettings, ShardWriter

resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
recipe = Recipe(source={}, classes=(), views=(), seed=0, image={"size": 8, "format": "png"})
render = RenderSettings(batch_size=4, dtype="float32")
try:
    with ShardWriter(
        Path(sys.argv[1]), recipe=recipe, render=render, shard_index=0, first=0, count=9, class_names={}
    ) as writer:
        for _ in range(9):
            writer.add(label=-1, images=[bytes(300_000)], views=[])
        writer.publish(environment={}, seconds=0, stages={})
except OSError as error:
    print(error.filename, error.strerror)
"""
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True)
    assert result.stdout == f"{tmp_path}/data/train-000000.tar File too large\n"
    assert list((tmp_path / "data").iterdir()) == []
